"""From what was seen of a network to the name that the admin gave it.  Pure.

The first ``netconf-location`` line whose tests all hold names the location; netconf-interfaces(5), LOCATIONS.  The
verdict on a test is True, False, or None while it has not been answered in time.

`netconf_hooks.evidence.look` asks here what is still to be looked at: only that on which the place still depends.
"""

from __future__ import annotations

from netconf_hooks.observation import Place
from netconf_hooks.record import Record
from netconf_hooks.rules import TESTS, format_test

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from netconf_hooks.observation import Answer
    from netconf_hooks.rules import Location, Rules, Test

HINT = "hint"
AUTHENTICATED = "authenticated"

# What tells one network from another, beside the router's MAC address.
_TELLING = ("gateway", "dns-domain", "dns-server", "address", "ssid", "bssid", "peer", "reach", "tls")

# May take time, since the router may have to be asked: looked at after all that takes none.
ROUTER_MAC = "gateway-mac"


class Question(Record):
    """One value of a test that is asked value by value.

    key, value: as in the test.  routers: of a certificate, the MAC addresses that the lines which name it give for the
    default router.
    """

    __slots__ = ("key", "value", "routers")

    def __init__(self, key: str, value: str, routers: tuple[str, ...] = ()) -> None:
        self.key = key
        self.value = value
        self.routers = routers


def find_place(rules: Rules, answers: Mapping[str, Answer]) -> Place:
    """Return the place that `answers` prove.

    A line with an unanswered test leaves the place undecided if it is written before the first line that holds and
    names another location: answered, it might have come first.
    The place is proven if the first line that holds, or another line of the same name that holds, has a proof in it.
    """
    words = {test.text: judge(test, answers) for test in list_word_tests(rules)}
    open_names: list[str] = []
    for number, location in enumerate(rules.locations):
        verdict = judge_tests(location.tests, answers)
        if verdict:
            proven = is_proof(location) or any(
                other.name == location.name and is_proof(other) and judge_tests(other.tests, answers)
                for other in rules.locations[number + 1:]
            )
            return Place(
                location=location.name,
                line=location.text,
                grade=AUTHENTICATED if proven else HINT,
                undecided=any(name != location.name for name in open_names),
                words=words,
            )
        if verdict is None:
            open_names.append(location.name)
    return Place(undecided=bool(open_names), words=words)


class NewRouter(Record):
    """A location of which all but the router's MAC address is as one of its lines says.

    location: its name; macs: of the routers that are there; line: what to add if they are the location's, as a value of
    ``netconf-location``.
    """

    __slots__ = ("location", "macs", "line")

    def __init__(self, location: str, macs: tuple[str, ...], line: str) -> None:
        self.location = location
        self.macs = macs
        self.line = line

    def __str__(self) -> str:
        return (
            f"everything but the router's MAC address ({', '.join(self.macs)}) is as at {self.location}: a new "
            f"router?  If it is yours, add: netconf-location {self.line}"
        )


def find_new_router(rules: Rules, answers: Mapping[str, Answer]) -> NewRouter | None:
    """Return the first location that this would be if its router had been replaced; None if no line holds but for that.

    A line counts if at least one more of its tests tells networks apart, and holds; what was not asked (a certificate
    is asked for only if all else holds) must not be refuted.
    """
    seen = answers[ROUTER_MAC].values if ROUTER_MAC in answers else ()
    for location in rules.locations:
        macs = [test for test in location.tests if test.key == ROUTER_MAC and not test.negated]
        others = [test for test in location.tests if test not in macs]
        verdicts = {test: judge(test, answers) for test in others}
        if (
            seen
            and len(macs) == 1
            and judge(macs[0], answers) is False
            and not any(verdict is False for verdict in verdicts.values())
            and not any(verdict is None and not TESTS[test.key].asked for test, verdict in verdicts.items())
            and any(verdict and not test.negated and test.key in _TELLING for test, verdict in verdicts.items())
        ):
            words = [format_test(ROUTER_MAC, seen) if test in macs else test.text for test in location.tests]
            return NewRouter(location.name, seen, " ".join((location.name, *words)))
    return None


def is_proof(location: Location) -> bool:
    """Whether the line, where it holds, is more than hints."""
    return any(test.is_proof() for test in location.tests)


def wants_proof(rules: Rules) -> bool:
    """Whether something hangs on more than hints: netconf-interfaces(5), PROOF."""
    guarded = any(guard.condition is not None for guard in rules.guards)
    return rules.trust == AUTHENTICATED or guarded and not rules.trust


def list_relevant(
    locations: Sequence[Location], answers: Mapping[str, Answer], proof: bool = False
) -> list[Location]:
    """Return the lines on which the place still depends: those that hold or are open, up to the first that holds.

    proof: whether it matters that the place is proven: then, after a line that is hints alone, the lines of the same
        name that are more count as well.
    """
    if not answers:
        return list(locations)
    relevant: list[Location] = []
    held = ""
    for location in locations:
        if held and (location.name != held or not is_proof(location)):
            continue
        verdict = judge_tests(location.tests, answers)
        if verdict is False:
            continue  # refuted already: its other tests can't save it
        relevant.append(location)
        if verdict:
            if not proof or is_proof(location):
                break  # what stands after it is never asked
            held = location.name
    return relevant


def find_needed(locations: Sequence[Location], answers: Mapping[str, Answer], proof: bool = False) -> list[str]:
    """Return the test keys not observed yet on which the place still depends, in the order written.

    None of those whose values are asked one by one: `find_questions`.
    """
    keys = [test.key for location in list_relevant(locations, answers, proof) for test in location.tests]
    return [key for key in dict.fromkeys(keys) if key not in answers and not TESTS[key].asked]


def find_questions(rules: Rules, answers: Mapping[str, Answer], proof: bool = False) -> list[Question]:
    """Return what has to be asked now of what is asked value by value: for the place, and for the tests in conditions.

    A certificate is asked for only where all else in its line holds: the question itself tells who we are.
    """
    wanted = _list_open_in(list_relevant(rules.locations, answers, proof), answers)
    for test in list_word_tests(rules):
        wanted.update(_list_open(test, answers))
    return _make_questions(wanted, rules)


def find_open_questions(rules: Rules, answers: Mapping[str, Answer]) -> list[Question]:
    """Return all that can be asked value by value for the location lines, whether the place depends on it or not.

    A certificate is asked for under the same condition as in `find_questions`.
    """
    return _make_questions(_list_open_in(rules.locations, answers), rules)


def _list_open_in(locations: Iterable[Location], answers: Mapping[str, Answer]) -> dict[tuple[str, str], None]:
    wanted: dict[tuple[str, str], None] = {}
    for location in locations:
        others = [test for test in location.tests if TESTS[test.key].grade != AUTHENTICATED]
        verdict = judge_tests(others, answers)
        for test in location.tests if verdict else others if verdict is None else ():
            wanted.update(_list_open(test, answers))
    return wanted


def _list_open(test: Test, answers: Mapping[str, Answer]) -> dict[tuple[str, str], None]:
    """Return those values of a test, as keys with it, that are asked one by one and on which it still depends."""
    if not TESTS[test.key].asked or judge(test, answers) is not None:
        return {}
    settled = answers[test.key].settled if test.key in answers else ()
    return {(test.key, value): None for value in test.values if value not in settled}


def _make_questions(wanted: Collection[tuple[str, str]], rules: Rules) -> list[Question]:
    return [Question(key, value, _list_routers(rules, value) if key == "tls" else ()) for key, value in wanted]


def _list_routers(rules: Rules, value: str) -> tuple[str, ...]:
    """Return the MAC addresses of default routers that the lines with this certificate give."""
    return tuple(
        mac
        for location in rules.locations
        if any(test.key == "tls" and value in test.values for test in location.tests)
        for test in location.tests
        if test.key == ROUTER_MAC and not test.negated
        for mac in test.values
    )


def list_word_tests(rules: Rules) -> list[Test]:
    """Return the tests that stand as WORDs in the conditions of `rules`, each once."""
    conditions = [
        *(rule.condition for rule in rules.vpns),
        *(guard.condition for guard in rules.guards if guard.condition),
    ]
    tests = {}
    for condition in conditions:
        for word in (*condition.on, *condition.unless):
            if word.test:
                tests[word.test.text] = word.test
    return list(tests.values())


def judge_tests(tests: Iterable[Test], answers: Mapping[str, Answer]) -> bool | None:
    """Return whether all `tests` hold: one that does not decides; else one unanswered, or not asked, leaves it open."""
    verdict: bool | None = True
    for test in tests:
        one = judge(test, answers)
        if one is False:
            return False
        if one is None:
            verdict = None
    return verdict


def judge(test: Test, answers: Mapping[str, Answer]) -> bool | None:
    """Return whether `test` holds; None while it is not answered, or was not asked."""
    return judge_test(test, answers[test.key]) if test.key in answers else None


def judge_test(test: Test, answer: Answer) -> bool | None:
    """Return whether `test` holds.  Where there is nothing to compare with it does not, negated or not."""
    kind = TESTS[test.key]
    for wanted in test.values:
        for seen in answer.values:
            if kind.syntax.matches(wanted, seen):
                return not test.negated
    if kind.asked:
        if not set(test.values) <= set(answer.settled):
            return None
        return test.negated and set(test.values) <= set(answer.refuted)
    if answer.pending:
        return None
    return test.negated and bool(answer.values)
