"""Which tunnels should run, from what is remembered of all interfaces that are up.

Pure: no clock, no file, no environment; the same interfaces give the same decision.  netconf-interfaces(5), TUNNELS,
says it in the admin's words.
"""

from __future__ import annotations

from netconf_hooks.record import Record
from netconf_hooks.rules import SITUATIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from netconf_hooks.rules import Condition, GuardRule, Unreadable, VpnRule, Word

UP = "up"
DOWN = "down"
KEEP = "keep"

OPEN = "open"
CLOSED = "closed"
RELEASED = "released"
"""What a guard can be; the last by the admin's command only, no decision says it."""

NO_RULE = "no interface that is up has a rule for it"


class Situation(Record):
    """What `decide_tunnels` needs to know of one interface that is up.

    vpns: its tunnel rules; trust: ``hints``, ``authenticated`` or empty.
    location, grade, undecided, routable, wireless_open: as in `state.InterfaceRecord`.
    wish: whether it is no interface, but a tunnel that somebody wants, as in `state.InterfaceRecord`.
    tests: of the tests that stand as WORDs, those that hold; open_tests: those not answered in time; both as written.
    earlier: the location lines that can't be read and are written before the one that holds
        (`rules.list_unreadable_before`): it may be at the location of one of these instead.
    lost_vpns: the tunnel rules of which not even the tunnel can be told.
    """

    __slots__ = (
        "iface", "vpns", "trust", "location", "grade", "undecided", "routable", "wireless_open", "tests", "open_tests",
        "wish", "earlier", "lost_vpns",
    )  # fmt: skip

    def __init__(
        self,
        iface: str,
        vpns: tuple[VpnRule, ...],
        trust: str = "",
        location: str = "",
        grade: str = "",
        undecided: bool = False,
        routable: bool = True,
        wireless_open: bool = False,
        tests: frozenset[str] = frozenset(),
        open_tests: frozenset[str] = frozenset(),
        wish: bool = False,
        earlier: tuple[Unreadable, ...] = (),
        lost_vpns: tuple[Unreadable, ...] = (),
    ) -> None:
        self.iface = iface
        self.vpns = vpns
        self.trust = trust
        self.location = location
        self.grade = grade
        self.undecided = undecided
        self.routable = routable
        self.wireless_open = wireless_open
        self.tests = tests
        self.open_tests = open_tests
        self.wish = wish
        self.earlier = earlier
        self.lost_vpns = lost_vpns


class Verdict(Record):
    """What a tunnel should be: ``up``, ``down``, or ``keep``, left as it is; or a guard: ``open`` or ``closed``.

    because: the reason, in words.
    """

    __slots__ = ("state", "because")

    def __init__(self, state: str, because: str) -> None:
        self.state = state
        self.because = because


# The presence of a default route among the interfaces with rules; no location can have this name
# (netconf-interfaces(5)).
INET = "inet"


class Presence(Record):
    """That the machine is at a location, or (`INET`) has a default route; ifaces: the interfaces that say so."""

    __slots__ = ("name", "ifaces")

    def __init__(self, name: str, ifaces: tuple[str, ...]) -> None:
        self.name = name
        self.ifaces = ifaces


class Edge(Record):
    """A presence that begins or ends: the event ``NAME-connected`` or ``NAME-disconnected``.

    iface: the first interface to arrive, or the last to leave.
    """

    __slots__ = ("name", "connected", "iface")

    def __init__(self, name: str, connected: bool, iface: str) -> None:
        self.name = name
        self.connected = connected
        self.iface = iface


# What one interface's rule says of its tunnel, strongest first: the first that any interface says is the verdict.
_WISH, _UNREADABLE, _VETO, _WANT, _UNSURE, _IDLE = range(6)

# The words of a guard's unless clause that can hold at a place that is proven.
_PROVABLE = frozenset(SITUATIONS) - {"unknown"}

_STATES = {_WISH: UP, _UNREADABLE: KEEP, _VETO: DOWN, _WANT: UP, _UNSURE: KEEP, _IDLE: DOWN}


def decide_tunnels(situations: Sequence[Situation]) -> dict[tuple[str, str], Verdict]:
    """Return the verdict on each tunnel that a rule of an interface names, by kind and name.

    A tunnel runs when at least one interface wants it and none vetoes it; a wish overrides vetoes.  A rule that can't
    be read leaves its tunnel alone, whatever others say of it but a wish.  An interface whose location is undecided, or
    rests on hints where the admin asked for proof, stops nothing and vetoes nothing; nor does a rule that hangs on what
    can't be read.
    """
    strongest: dict[tuple[str, str], tuple[int, str]] = {}
    for situation in situations:
        for rule in situation.vpns:
            tunnel = (rule.kind, rule.name)
            said = _judge_rule(rule, situation)
            if tunnel not in strongest or said[0] < strongest[tunnel][0]:
                strongest[tunnel] = said
    lost = find_lost_rule(situations)
    return {
        tunnel: Verdict(KEEP, lost) if lost and rank == _IDLE else Verdict(_STATES[rank], because)
        for tunnel, (rank, because) in strongest.items()
    }


def decide_changes(
    verdicts: Mapping[tuple[str, str], Verdict],
    before: Mapping[tuple[str, str], str],
    unfinished: Collection[tuple[str, str]] = (),
    lost: str = "",
) -> dict[tuple[str, str], Verdict]:
    """Return the verdict on every tunnel that a rule names now or has named, ``keep`` resolved to what was decided
    before.

    before: ``up`` or ``down`` for each tunnel already decided on; unfinished: those among them that could not be made
    to follow yet.  A tunnel that is to be kept and was never decided on is left out: nothing is known of it.
    lost: why a running tunnel that no rule names is kept (`find_lost_rule`); empty where it is to be stopped.
    """
    resolved = {}
    for tunnel, verdict in verdicts.items():
        if verdict.state != KEEP:
            resolved[tunnel] = verdict
        elif tunnel in before:
            resolved[tunnel] = Verdict(before[tunnel], f"left as it is: {verdict.because}")
    for tunnel, state in before.items():
        if tunnel not in verdicts and state == UP and lost:
            resolved[tunnel] = Verdict(UP, f"left as it is: {lost}")
        elif tunnel not in verdicts and (state == UP or tunnel in unfinished):
            resolved[tunnel] = Verdict(DOWN, NO_RULE)
    return resolved


def find_lost_rule(situations: Sequence[Situation]) -> str:
    """Return which rule may be about any tunnel, since it can't be read, in words; empty where there is none."""
    for situation in situations:
        for lost in situation.lost_vpns:
            return f"{situation.iface}: {lost} can't be read, and may be about this tunnel"
    return ""


def decide_guard(rule: GuardRule, situation: Situation) -> Verdict:
    """Return what the guard of an interface that is up should be.

    It opens only where its condition does not hold and that is certain: every word is defined, no line that could
    change the location is unreadable, the location is decided, no test is open, and all rests on a proof; on hints only
    where the admin wrote ``netconf-trust hints``.
    """
    place = describe_place(situation)
    if not rule.readable or rule.condition is None:
        return Verdict(CLOSED, f'{situation.iface}: netconf-guard "{rule.text}" can\'t be read')
    on = _find_word(rule.condition.on, situation)
    held = [word for word in rule.condition.unless if holds(word, situation)]
    # A test that stands there as a word proves itself or nothing; a location is as proven as its line.
    proven = [word for word in held if (word.test.is_proof() if word.test else situation.grade == "authenticated")]
    unless = next(iter((*proven, *held)), None)
    if on and not unless:
        return Verdict(CLOSED, f"{place}: {_describe_want(rule.condition, on, None)}")
    if rule.doubt:
        return Verdict(CLOSED, f"{place}: {rule.doubt}")
    if situation.earlier:
        return Verdict(CLOSED, f"{place}, which is not certain: {situation.earlier[0]} can't be read")
    if situation.undecided or _has_open_test(rule.condition, situation):
        return Verdict(CLOSED, place if situation.undecided else f"{place}: a test was not answered in time")
    reason = f'"unless {unless.text}"' if unless else f'no word of "on {_list_texts(rule.condition.on)}" holds'
    certain = bool(proven) or (not on and situation.grade == "authenticated")
    if not certain and situation.trust != "hints":
        return Verdict(CLOSED, f"{place}, which is not proven: {reason} does not open it")
    return Verdict(OPEN, f"{place}: {reason}")


def can_open(rule: GuardRule, trust: str, proofs: Collection[str]) -> bool:
    """Whether there is a network at all on which a guard opens.

    proofs: the names of the locations that have a line with a proof in it.
    """
    if not rule.readable or rule.condition is None or rule.doubt:
        return False
    on = {word.text for word in rule.condition.on}
    if trust == "hints":
        return "anywhere" not in on or bool(rule.condition.unless)
    if _list_proofs(rule.condition):
        return True
    if "anywhere" not in on and not on.issuperset(proofs):
        return True  # at a proven place that it does not name
    # An unknown place is never proven; that of any other word is, where a proven line names it.
    unless = {word.text for word in rule.condition.unless if not word.test}
    return not unless.isdisjoint(proofs) or bool(proofs) and not unless.isdisjoint(_PROVABLE)


def decide_presences(situations: Sequence[Situation], before: Sequence[Presence]) -> tuple[Presence, ...]:
    """Return where the machine is, `INET` last.

    An interface whose location is undecided stays where it was in `before`, and arrives nowhere.
    """
    found: dict[str, list[str]] = {}
    for situation in situations:
        names = [presence.name for presence in before if situation.iface in presence.ifaces and presence.name != INET]
        if situation.wish:
            names = []
        elif not situation.undecided:
            names = [situation.location] if situation.location else []
        for name in names:
            found.setdefault(name, []).append(situation.iface)
    routable = [situation.iface for situation in situations if situation.routable and not situation.wish]
    if routable:
        found[INET] = routable
    return tuple(Presence(name, tuple(ifaces)) for name, ifaces in found.items())


def list_edges(before: Sequence[Presence], after: Sequence[Presence]) -> tuple[Edge, ...]:
    """Return what began and ended, in an order that nests: ``inet`` ends before the locations do and begins after them,
    and the old location ends before the new one begins.  So "on inet-connected, unless in the office" has no race.
    """
    names_before = {presence.name for presence in before}
    names_after = {presence.name for presence in after}
    ended = [Edge(presence.name, False, presence.ifaces[-1]) for presence in before if presence.name not in names_after]
    begun = [Edge(presence.name, True, presence.ifaces[0]) for presence in after if presence.name not in names_before]
    ended.sort(key=lambda edge: edge.name != INET)
    begun.sort(key=lambda edge: edge.name == INET)
    return (*ended, *begun)


def is_firm(situation: Situation) -> bool:
    """Whether the interface's location may turn something off: decided, and proven where the admin asks for proof."""
    return not situation.undecided and (situation.trust != "authenticated" or situation.grade == "authenticated")


def holds(word: Word, situation: Situation) -> bool:
    """Whether a WORD holds, an undecided location counting as unknown and an unanswered test as one that does not."""
    if word.test:
        return word.text in situation.tests
    if word.text == "anywhere":
        return True
    if word.text == "unroutable":
        return not situation.routable
    location = "" if situation.undecided else situation.location
    if word.text == "unknown":
        return not location
    if word.text == "insecure":
        return not location or situation.wireless_open
    return word.text == location


def describe_place(situation: Situation) -> str:
    """Say where an interface is: ``eth0 is at office-lan``."""
    if situation.undecided:
        return f"{situation.iface} can't tell yet where it is"
    if situation.location:
        return f"{situation.iface} is at {situation.location}"
    return f"{situation.iface} is at an unknown place"


def _judge_rule(rule: VpnRule, situation: Situation) -> tuple[int, str]:
    place = describe_place(situation)
    if not rule.readable:
        return _UNREADABLE, f'{situation.iface}: netconf-vpn "{rule.text}" can\'t be read'
    if situation.wish:
        return _WISH, f"ifup {situation.iface}: somebody wants it, whatever other rules say"
    # A certificate, or the admin's own program, is proof by itself, wherever this is.
    proof = _find_word(_list_proofs(rule.condition), situation)
    vetoes = [word for word in rule.condition.unless if holds(word, situation)]
    certain = [word for word in vetoes if _is_certain(word, situation)]
    unless = proof or next(iter((*certain, *vetoes)), None)
    on = _find_word(rule.condition.on, situation)
    if unless and (proof or is_firm(situation)):
        if rule.doubt:
            return _UNSURE, f"{place}: {rule.doubt}"
        if not proof and not certain:
            return _UNSURE, f"{place}, which is not certain: {situation.earlier[0]} can't be read"
        return _VETO, f'{place}: "unless {unless.text}"'
    if on and not (unless and situation.undecided):
        return _WANT, f"{place}: {_describe_want(rule.condition, on, unless)}"
    if rule.doubt:
        return _UNSURE, f"{place}: {rule.doubt}"
    if _has_open_test(rule.condition, situation):
        return _UNSURE, f"{place}: a test was not answered in time"
    if not is_firm(situation):
        return _UNSURE, place if situation.undecided else f"{place}, which is not proven"
    return _IDLE, f'{place}: no word of "on {_list_texts(rule.condition.on)}" holds'


def _is_certain(word: Word, situation: Situation) -> bool:
    """Whether a word that holds would hold also if the interface were where a line that can't be read says."""
    if word.test or word.text in ("anywhere", "unroutable"):
        return True
    if word.text == "insecure" and situation.wireless_open:
        return True
    return all(line.name and line.name == situation.location for line in situation.earlier)


def _describe_want(condition: Condition, on: Word, unproven: Word | None) -> str:
    if unproven:
        return f'"unless {unproven.text}" is not proven'
    if on.text != "anywhere":
        return f'"on {on.text}"'
    if condition.unless:
        return f'no word of "unless {_list_texts(condition.unless)}" holds'
    return "wanted anywhere"


def _list_proofs(condition: Condition) -> tuple[Word, ...]:
    return tuple(word for word in condition.unless if word.test and word.test.is_proof())


def _list_texts(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def _find_word(words: tuple[Word, ...], situation: Situation) -> Word | None:
    return next((word for word in words if holds(word, situation)), None)


def _has_open_test(condition: Condition, situation: Situation) -> bool:
    return any(word.test and word.text in situation.open_tests for word in condition.on)
