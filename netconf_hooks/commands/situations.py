"""Which situations the rules distinguish, and what is decided in each.  Pure; for ``netconf-hooks plan``.

A situation consists of the facts that decisions depend on: which interfaces are up, and for each of them its place,
whether it has a default route, whether it is encrypted, and which of the tests in conditions hold.  Its outcome is the
result of `netconf_hooks.decide.decide`, the function that the hooks use, for records with these facts.
"""

from __future__ import annotations

from itertools import combinations, product

from netconf_hooks.commands.check import follows, is_covered, list_dead_lines
from netconf_hooks.decide import DOWN, KEEP, Known, UP, decide, holds, rank_tunnels
from netconf_hooks.observation import OPEN as UNENCRYPTED, Observation, Place
from netconf_hooks.place import AUTHENTICATED, HINT, is_proof, list_word_tests
from netconf_hooks.record import Record
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.stanzas.rules import list_unreadable_before
from netconf_hooks.state import CLOSED, GuardRecord, InterfaceRecord, TunnelRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from netconf_hooks.stanzas.rules import Location, Rules, Test, Word

    Tunnel = tuple[str, str]

NO_GUARD = "none"

# If the tests in conditions have more combinations than this, only one test at a time is varied.
_MOST_COMBINATIONS = 81


class Situation(Record):
    """Interfaces that are up, and the decisions that follow.

    records: the interfaces' records, as the hooks would write them.
    tunnels: by kind and name: ``up``, ``down``, or ``keep``, left as it is.
    guards: by interface: ``open``, ``closed`` or ``none``; a wish has none.
    clear: whether traffic may leave outside of all tunnels: by some interface without a closed guard.
    """

    __slots__ = ("records", "tunnels", "guards", "clear")

    def __init__(
        self,
        records: tuple[InterfaceRecord, ...],
        tunnels: Mapping[Tunnel, str],
        guards: Mapping[str, str],
        clear: bool,
    ) -> None:
        self.records = records
        self.tunnels = tunnels
        self.guards = guards
        self.clear = clear


def list_situations(interfaces: Sequence[InterfaceRecord]) -> list[Situation]:
    """Return the situations of each interface alone, then of each two interfaces that disagree.

    interfaces: records of which only the name, the passes and the wish matter.

    Two interfaces disagree if their verdicts differ on a tunnel that both name, or on the guard of a device that both
    use.  If several of their situations have the same verdicts and the same outcome, one is listed.  Three interfaces
    lead to no decision that two of them don't lead to: the strongest verdict on a tunnel wins, and each closed guard
    keeps its device closed.
    """
    tunnels = list_tunnels(interfaces)
    alone = [_list_alone(each, tunnels) for each in interfaces]
    found = [situation for situations in alone for situation in situations]
    for one, other in combinations(alone, 2):
        found += _list_disagreements(one, other, tunnels)
    return found


def list_tunnels(interfaces: Sequence[InterfaceRecord]) -> list[Tunnel]:
    """Return the tunnels that the rules of interfaces name, each once."""
    return list(dict.fromkeys((rule.kind, rule.name) for each in interfaces for rule in each.rules.vpns))


def decide_situation(records: Sequence[InterfaceRecord], tunnels: Sequence[Tunnel]) -> Situation:
    """Return the decisions if only these interfaces are up.

    tunnels: those to decide about.  If a tunnel's verdict depends on its previous state, it is left as it is.
    """
    guarded: dict[str, list[InterfaceRecord]] = {}
    for record in records:
        if not record.wish:
            guarded.setdefault(device_of(record.iface), []).append(record)
    guards = [
        GuardRecord(device, "nftables", passes=tuple(each for record in on_device for each in record.passes))
        for device, on_device in guarded.items()
        if any(record.rules.is_guarded() for record in on_device)
    ]
    after = {}
    for before in (UP, DOWN):
        known = Known({tunnel: TunnelRecord(*tunnel, before, "", applied=True) for tunnel in tunnels}, guards)
        after[before] = decide(records, known)
    states = {}
    for tunnel in tunnels:
        found = [
            after[before].tunnels[tunnel].verdict if tunnel in after[before].tunnels else DOWN
            for before in (UP, DOWN)
        ]
        states[tunnel] = found[0] if found[0] == found[1] else KEEP
    verdicts = {guard.device: guard.verdict for guard in after[DOWN].guards}
    states_of_guards = {
        record.iface: verdicts.get(device_of(record.iface), NO_GUARD) for record in records if not record.wish
    }
    clear = any(state != CLOSED for state in states_of_guards.values())
    return Situation(tuple(records), states, states_of_guards, clear)


def _list_alone(interface: InterfaceRecord, tunnels: Sequence[Tunnel]) -> list[Situation]:
    """Return the situations that an interface's rules distinguish, each with the decisions if it alone is up."""
    found: dict[object, Situation] = {}
    for record in _list_records(interface):
        situation = decide_situation([record], tunnels)
        found.setdefault((describe_facts(record), *situation.tunnels.values(), *situation.guards.values()), situation)
    return list(found.values())


def describe_facts(record: InterfaceRecord) -> object:
    """Return the facts of a record that decisions depend on; equal for records that the rules don't distinguish."""
    place, rules = record.place, record.rules
    words = _list_words(rules)
    facts = (
        place.undecided,
        tuple(holds(word, record) for word in words),
        # Unanswered is not the same as refuted: some decisions wait for the answer.
        tuple(bool(word.test) and place.words.get(word.text) is None for word in words),
    )
    if place.undecided:  # wherever it may be: it counts as unknown, and proves nothing
        return facts
    return (place.location, place.grade, list_unreadable_before(rules, place.line), *facts)


def _list_records(interface: InterfaceRecord) -> Iterator[InterfaceRecord]:
    """Yield the records that the hooks could write for an interface, the most ordinary ones first."""
    if interface.wish:
        yield interface
        return
    rules = interface.rules
    words = {word.text for word in _list_words(rules)}
    routes = (True, False) if "unroutable" in words else (True,)
    wireless = ("", UNENCRYPTED) if "insecure" in words else ("",)
    for place in _list_places(rules):
        for routable, encryption in product(routes, wireless):
            for verdicts in _list_verdicts(place, rules):
                # Looked at after the guard was closed, as after any ifup.
                seen = Observation(interface.iface, 1, {}, routable, encryption, 1.0)
                yield interface.change(observation=seen, place=place.change(words=verdicts))


def _list_places(rules: Rules) -> Iterator[Place]:
    """Yield each place that `place.find_place` can return, without the verdicts of tests in conditions."""
    dead = {warning.value for warning in list_dead_lines(rules)}
    for number, location in enumerate(rules.locations):
        if location.text in dead:
            continue
        if not is_proof(location):
            yield Place(location.name, location.text, HINT)
        # A line with hints only is proven if a later line of the same location, with proof, holds, too.
        later = rules.locations[number:]
        if any(other.name == location.name and is_proof(other) for other in later):
            yield Place(location.name, location.text, AUTHENTICATED)
    yield Place()
    if rules.locations:
        yield Place(undecided=True)


def _list_verdicts(place: Place, rules: Rules) -> Iterator[dict[str, bool | None]]:
    """Yield the combinations of verdicts that the tests in conditions can have at a place, by the test as written.

    The first combination has all of them false.  Combinations that the location lines exclude are left out: they
    contradict the line that holds, or an earlier line would hold.
    """
    line = next((each for each in rules.locations if each.text == place.line), None)
    tests = list_word_tests(rules)
    fixed = {}
    for test in tests:
        for premise in line.tests if line else ():
            if follows(test, premise):
                fixed[test.text] = True
            elif _excludes(premise, test):
                fixed[test.text] = False
    earlier = () if place.undecided else _list_before(line, rules)
    for verdicts in _combine([test.text for test in tests if test.text not in fixed], not varies_single_tests(rules)):
        verdicts.update(fixed)
        if not any(_all_hold(each, verdicts) for each in earlier):
            yield verdicts


def _combine(tests: Sequence[str], all_together: bool) -> Iterator[dict[str, bool | None]]:
    if all_together:
        for verdicts in product((False, True, None), repeat=len(tests)):
            yield dict(zip(tests, verdicts))
        return
    yield dict.fromkeys(tests, False)
    for test, verdict in product(tests, (True, None)):
        yield {**dict.fromkeys(tests, False), test: verdict}
    yield dict.fromkeys(tests, True)


def varies_single_tests(rules: Rules) -> bool:
    """Whether there are too many tests in conditions to try all of their combinations."""
    return bool(3 ** len(list_word_tests(rules)) > _MOST_COMBINATIONS)


def _list_before(line: Location | None, rules: Rules) -> Sequence[Location]:
    """Return the location lines that do not hold if `line` is the first that does; None: if none holds."""
    return rules.locations[:rules.locations.index(line)] if line else rules.locations


def _all_hold(location: Location, verdicts: Mapping[str, bool | None]) -> bool:
    return all(verdicts.get(test.text) is True for test in location.tests)


def _excludes(premise: Test, test: Test) -> bool:
    """Whether a test does not hold since another one, which is its opposite, does."""
    if premise.key != test.key or premise.negated == test.negated:
        return False
    return is_covered(test, premise) if premise.negated else is_covered(premise, test)


def _list_words(rules: Rules) -> list[Word]:
    conditions = [
        *(rule.condition for rule in rules.vpns), *(guard.condition for guard in rules.guards if guard.condition)
    ]
    return [word for condition in conditions for word in (*condition.on, *condition.unless)]


def _list_disagreements(
    one: Sequence[Situation], other: Sequence[Situation], tunnels: Sequence[Tunnel]
) -> list[Situation]:
    """Return the situations in which two interfaces disagree.  one, other: the situations of each alone."""
    (first, *_), (second, *_) = one[0].records, other[0].records
    named = [{(rule.kind, rule.name) for rule in each.rules.vpns} for each in (first, second)]
    shared = [tunnel for tunnel in tunnels if tunnel in named[0] and tunnel in named[1]]
    if first.rules.lost_vpns or second.rules.lost_vpns:  # which may be about any tunnel
        shared = list(tunnels)
    same_device = not (first.wish or second.wish) and device_of(first.iface) == device_of(second.iface)

    def say(each: Situation) -> tuple[str, ...]:
        return (*(each.tunnels[tunnel] for tunnel in shared), *(each.guards.values() if same_device else ()))

    def list_voices(situations: Sequence[Situation]) -> list[Situation]:
        voices: dict[object, Situation] = {}
        for each in situations:
            # A veto against a tunnel and no wish for it have the same effect, unless another interface wants it.
            ranks = {tunnel: rank for tunnel, (rank, _) in rank_tunnels(each.records).items() if tunnel in shared}
            voices.setdefault((say(each), tuple(ranks.items())), each)
        return list(voices.values())

    rows: dict[object, Situation] = {}
    for mine, its in product(list_voices(one), list_voices(other)):
        if say(mine) != say(its):
            both = decide_situation((*mine.records, *its.records), tunnels)
            rows.setdefault((say(mine), say(its), say(both)), both)
    return list(rows.values())
