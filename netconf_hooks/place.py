"""Finds the location of a network from the answers of a look, and the questions that are still open.  Pure.

The first ``netconf-location`` line whose tests all hold names the location: netconf-interfaces(5), LOCATIONS.  The
verdict on a test is True, False, or None if it has not been answered.

`netconf_hooks.evidence.look` calls `find_needed` and `find_questions`, which return only the tests on which the place
still depends.
"""

from __future__ import annotations

from netconf_hooks.observation import Place
from netconf_hooks.record import Record
from netconf_hooks.stanzas.rules import TESTS, format_test

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from netconf_hooks.observation import Answer
    from netconf_hooks.stanzas.rules import Location, Rules, Test

HINT = "hint"
AUTHENTICATED = "authenticated"

# The tests besides the router's MAC address that distinguish one network from another.
_TELLING = ("gateway", "dns-domain", "dns-server", "address", "ssid", "bssid", "peer", "reach", "tls")

# The test that is observed after those that take no time: the kernel may have to ask the router for its MAC address.
ROUTER_MAC = "gateway-mac"


class Question(Record):
    """One value of a test whose values are asked one by one.

    key, value: as in the test.  routers: for a certificate, the MAC addresses of the default router in the lines with
    this certificate.
    """

    __slots__ = ("key", "value", "routers")

    def __init__(self, key: str, value: str, routers: tuple[str, ...] = ()) -> None:
        self.key = key
        self.value = value
        self.routers = routers


def find_place(rules: Rules, answers: Mapping[str, Answer]) -> Place:
    """Return the place that follows from `answers`.

    The place is undecided if a line with an unanswered test is written before the first line that holds, and names
    another location: with an answer, that line might be the first.
    The place is proven if the first line that holds, or a later line of the same name that holds, has a proof in it.
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
    """A location with a line that matches except for the router's MAC address.

    location: its name; macs: of the routers that were found; line: the value of ``netconf-location`` to add if these
    routers belong to the location.
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
    """Return the first location that would match with another router's MAC address; None if there is none.

    At least one other test of the line must hold that distinguishes networks (`_TELLING`), and none may be refuted.  An
    unanswered test is accepted only if its values are asked one by one: a certificate was not asked for, since not all
    other tests hold.
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
    """Whether the line has a proof in it."""
    return any(test.is_proof() for test in location.tests)


def wants_proof(rules: Rules) -> bool:
    """Whether a rule requires proof, so that hints are not enough: netconf-interfaces(5), PROOF."""
    guarded = any(guard.condition is not None for guard in rules.guards)
    return rules.trust == AUTHENTICATED or guarded and not rules.trust


def list_relevant(
    locations: Sequence[Location], answers: Mapping[str, Answer], proof: bool = False
) -> list[Location]:
    """Return the lines on which the place still depends: all that are not refuted, up to the first that holds.

    proof: whether it matters that the place is proven: if the line that holds has no proof, also return the later lines
        of the same name that have one.
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
            continue  # refuted: the other tests of the line don't matter
        relevant.append(location)
        if verdict:
            if not proof or is_proof(location):
                break  # later lines don't matter
            held = location.name
    return relevant


def find_needed(locations: Sequence[Location], answers: Mapping[str, Answer], proof: bool = False) -> list[str]:
    """Return the test keys that are not observed yet and on which the place still depends, in the order written.

    Keys whose values are asked one by one are left out: see `find_questions`.
    """
    keys = [test.key for location in list_relevant(locations, answers, proof) for test in location.tests]
    return [key for key in dict.fromkeys(keys) if key not in answers and not TESTS[key].asked]


def find_questions(rules: Rules, answers: Mapping[str, Answer], proof: bool = False) -> list[Question]:
    """Return the values that have to be asked now, one by one: for the place, and for the tests in conditions.

    A certificate is asked for only if all other tests of its line hold, since the question itself reveals who we are.
    """
    wanted = _list_open_in(list_relevant(rules.locations, answers, proof), answers)
    for test in list_word_tests(rules):
        wanted.update(_list_open(test, answers))
    return _make_questions(wanted, rules)


def find_open_questions(rules: Rules, answers: Mapping[str, Answer]) -> list[Question]:
    """Return all values of the location lines that can be asked one by one, whether the place depends on them or not.

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
    """Return the values of a test that still have to be asked one by one, each with the key."""
    if not TESTS[test.key].asked or judge(test, answers) is not None:
        return {}
    settled = answers[test.key].settled if test.key in answers else ()
    return {(test.key, value): None for value in test.values if value not in settled}


def _make_questions(wanted: Collection[tuple[str, str]], rules: Rules) -> list[Question]:
    return [Question(key, value, _list_routers(rules, value) if key == "tls" else ()) for key, value in wanted]


def _list_routers(rules: Rules, value: str) -> tuple[str, ...]:
    """Return the MAC addresses of the default router in the lines with this certificate."""
    return tuple(
        mac
        for location in rules.locations
        if any(test.key == "tls" and value in test.values for test in location.tests)
        for test in location.tests
        if test.key == ROUTER_MAC and not test.negated
        for mac in test.values
    )


def list_word_tests(rules: Rules) -> list[Test]:
    """Return the tests that are WORDs in the conditions of `rules`, each once."""
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
    """Return whether all `tests` hold: False if one does not hold; otherwise None if one is not answered."""
    verdict: bool | None = True
    for test in tests:
        one = judge(test, answers)
        if one is False:
            return False
        if one is None:
            verdict = None
    return verdict


def judge(test: Test, answers: Mapping[str, Answer]) -> bool | None:
    """Return whether `test` holds; None if it is not answered, or was not asked."""
    return judge_test(test, answers[test.key]) if test.key in answers else None


def judge_test(test: Test, answer: Answer) -> bool | None:
    """Return whether `test` holds; None if it is not answered.  If nothing was seen, it does not hold, even if it is
    negated."""
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
