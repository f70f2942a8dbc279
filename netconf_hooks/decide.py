"""Decides which tunnels should run, which guards open and which events there are, and gives the reasons.

Pure: no clock, no file, no environment; the same records give the same decision.  netconf-interfaces(5), TUNNELS and
GUARD, describes the rules for admins.
"""

from __future__ import annotations

from netconf_hooks.observation import OPEN as UNENCRYPTED
from netconf_hooks.passes import find_conflict, list_of, read_rules_of
from netconf_hooks.record import Record
from netconf_hooks.stanzas.rules import SITUATIONS, list_unreadable_before
from netconf_hooks.state import (
    CLOSED, EventRecord, GuardRecord, OPEN, PresenceRecord, RELEASED, StopRecord, TunnelRecord
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from netconf_hooks.stanzas.rules import Condition, GuardRule, Unreadable, VpnRule, Word
    from netconf_hooks.state import InterfaceRecord

UP = "up"
DOWN = "down"
KEEP = "keep"

NO_RULE = "no interface that is up has a rule for it"

# The presence of a default route among the interfaces with rules; no location can have this name
# (netconf-interfaces(5)).
INET = "inet"

# The prefix of the presence of a captive portal that a network announces; no location can have such a name.
PORTAL = "portal/"
PORTAL_FOUND = "portal-found"


class Verdict(Record):
    """What a tunnel should be: ``up``, ``down``, or ``keep`` (unchanged); or what a guard should be: ``open`` or
    ``closed``.

    because: the reason, in words.
    """

    __slots__ = ("state", "because")

    def __init__(self, state: str, because: str) -> None:
        self.state = state
        self.because = because


class Edge(Record):
    """A presence that begins or ends: the event ``NAME-connected`` or ``NAME-disconnected``.

    iface: the first interface to arrive, or the last to leave.
    """

    __slots__ = ("name", "connected", "iface")

    def __init__(self, name: str, connected: bool, iface: str) -> None:
        self.name = name
        self.connected = connected
        self.iface = iface


# The possible results of one rule for its tunnel, strongest first.  The strongest result of all rules is the verdict.
_WISH, _UNREADABLE, _VETO, _WANT, _UNSURE, _IDLE = range(6)

# The words of a guard's unless clause that can hold at a proven place.
_PROVABLE = frozenset(SITUATIONS) - {"unknown"}

_UNLOOKED = "the network was not looked at yet"

_STATES = {_WISH: UP, _UNREADABLE: KEEP, _VETO: DOWN, _WANT: UP, _UNSURE: KEEP, _IDLE: DOWN}


class Known(Record):
    """The previous decisions, and all other input of a decision besides the interfaces.

    tunnels, guards, presences: as recorded, the tunnels by kind and name.
    renamed: the new names of guarded devices that were renamed.
    held: for each tunnel that the admin holds, a text about it, by kind and name; stops: the tunnels that somebody has
    stopped by hand.
    """

    __slots__ = ("tunnels", "guards", "presences", "renamed", "held", "stops")

    def __init__(
        self,
        tunnels: Mapping[tuple[str, str], TunnelRecord],
        guards: Sequence[GuardRecord] = (),
        presences: Sequence[PresenceRecord] = (),
        renamed: Mapping[str, str] | None = None,
        held: Mapping[tuple[str, str], str] | None = None,
        stops: Mapping[tuple[str, str], StopRecord] | None = None,
    ) -> None:
        self.tunnels = tunnels
        self.guards = guards
        self.presences = presences
        self.renamed = renamed or {}
        self.held = held or {}
        self.stops = stops or {}


class Decision(Record):
    """All results of a decision, as they are recorded.

    tunnels: by kind and name; guards: all guards; presences: where the machine is; events: the new events.
    stops: the tunnels that stay stopped, since somebody has stopped them by hand.
    """

    __slots__ = ("tunnels", "guards", "presences", "events", "stops")

    def __init__(
        self,
        tunnels: Mapping[tuple[str, str], TunnelRecord],
        guards: Sequence[GuardRecord],
        presences: Sequence[PresenceRecord],
        events: Sequence[EventRecord],
        stops: Mapping[tuple[str, str], StopRecord] | None = None,
    ) -> None:
        self.tunnels = tunnels
        self.guards = guards
        self.presences = presences
        self.events = events
        self.stops = stops or {}


def decide(records: Sequence[InterfaceRecord], known: Known) -> Decision:
    """Return the decision that follows from the interfaces that are up.

    records: of these interfaces.
    """
    presences = decide_presences(records, known.presences)
    stops = _list_stops(records, known.stops)
    stopped = {tunnel: stop.because for tunnel, stop in stops.items()}
    return Decision(
        stops=stops,
        tunnels=_record_tunnels(records, known.tunnels, {**stopped, **known.held}),
        guards=tuple(_record_guard(guard, records, known.renamed) for guard in known.guards),
        presences=presences,
        events=list_events(known.presences, presences),
    )


def _list_stops(
    records: Sequence[InterfaceRecord], stops: Mapping[tuple[str, str], StopRecord]
) -> dict[tuple[str, str], StopRecord]:
    """Return the stops by hand that still count: the tunnel is still wanted, and on the same links."""
    counting = {}
    verdicts = decide_tunnels(records) if stops else {}
    for tunnel, stop in stops.items():
        where = describe_links(records, tunnel)
        if tunnel in verdicts and verdicts[tunnel].state == UP and stop.where in ("", where):
            counting[tunnel] = stop.change(where=where)
    return counting


def describe_links(records: Sequence[InterfaceRecord], tunnel: tuple[str, str]) -> str:
    """Return a text that changes when the links that have a rule for a tunnel, or their networks, change."""
    words = []
    for record in records:
        if any((rule.kind, rule.name) == tunnel for rule in record.rules.vpns):
            seen = record.observation
            keys = [key for key in ("gateway", "gateway-mac") if key in seen.answers]
            routers = [value for key in keys for value in seen.answers[key].values]
            words.append(" ".join((record.iface, str(seen.index), record.place.location, *routers)))
    return "; ".join(words)


def _record_tunnels(
    records: Sequence[InterfaceRecord],
    before: Mapping[tuple[str, str], TunnelRecord],
    held: Mapping[tuple[str, str], str],
) -> dict[tuple[str, str], TunnelRecord]:
    verdicts = decide_changes(
        decide_tunnels(records),
        before={tunnel: record.verdict for tunnel, record in before.items()},
        # A tunnel that is no longer held follows the rules again.
        unfinished=[tunnel for tunnel, record in before.items() if not record.applied or record.held],
        lost=find_lost_rule(records),
    )
    after = {}
    for tunnel, verdict in verdicts.items():
        old = before.get(tunnel)
        if tunnel in held:
            after[tunnel] = TunnelRecord(*tunnel, verdict.state, verdict.because, applied=True, held=held[tunnel])
        elif old and old.verdict == verdict.state and not old.held:
            after[tunnel] = old.change(because=verdict.because)
        else:
            after[tunnel] = TunnelRecord(*tunnel, verdict.state, verdict.because, applied=False)
    return after


def decide_tunnels(records: Sequence[InterfaceRecord]) -> dict[tuple[str, str], Verdict]:
    """Return the verdict on each tunnel that a rule of an interface names, by kind and name.

    A tunnel runs if at least one interface wants it and none vetoes it; a wish overrides vetoes.  If a rule for a
    tunnel can't be read, the tunnel stays as it is, unless there is a wish for it.  An interface stops and vetoes
    nothing while its location is undecided, or if the location rests on hints although the admin requires proof.  A
    rule that depends on an unreadable line does not stop or veto anything, either.
    """
    lost = find_lost_rule(records)
    return {
        tunnel: Verdict(KEEP, lost) if lost and rank == _IDLE else Verdict(_STATES[rank], because)
        for tunnel, (rank, because) in rank_tunnels(records).items()
    }


def rank_tunnels(records: Sequence[InterfaceRecord]) -> dict[tuple[str, str], tuple[int, str]]:
    """Return the strongest result of all rules for each tunnel: its rank (the lower, the stronger), and why.

    Two results for one state may differ in rank: a veto stops a tunnel that others want, a rule that does not hold does
    not.
    """
    strongest: dict[tuple[str, str], tuple[int, str]] = {}
    for record in records:
        for rule in record.rules.vpns:
            tunnel = (rule.kind, rule.name)
            result = _judge_rule(rule, record)
            if tunnel not in strongest or result[0] < strongest[tunnel][0]:
                strongest[tunnel] = result
    return strongest


def hold_verdicts(
    verdicts: Mapping[tuple[str, str], Verdict], held: Mapping[tuple[str, str], str]
) -> dict[tuple[str, str], Verdict]:
    """Return the verdicts, with ``keep`` for each held tunnel.  held: as in `Known`."""
    return {
        tunnel: Verdict(KEEP, f"{held[tunnel]}; else {verdict.state}: {verdict.because}") if tunnel in held else verdict
        for tunnel, verdict in verdicts.items()
    }


def decide_changes(
    verdicts: Mapping[tuple[str, str], Verdict],
    before: Mapping[tuple[str, str], str],
    unfinished: Collection[tuple[str, str]] = (),
    lost: str = "",
) -> dict[tuple[str, str], Verdict]:
    """Return ``up`` or ``down`` for each tunnel that a rule names now or has named before.

    ``keep`` is replaced by the previous verdict.  A tunnel that has none is left out: nothing is known about it.
    before: the previous verdict on each tunnel, ``up`` or ``down``; unfinished: the tunnels on which this verdict has
    not been applied yet.
    lost: why to keep a running tunnel that no rule names (`find_lost_rule`); empty if it has to be stopped.
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


def find_lost_rule(records: Sequence[InterfaceRecord]) -> str:
    """Return a message about a rule that can't be read, not even its tunnel; empty if there is none."""
    for record in records:
        for lost in record.rules.lost_vpns:
            return f"{record.iface}: {lost} can't be read, and may be about this tunnel"
    return ""


def _record_guard(guard: GuardRecord, records: Sequence[InterfaceRecord], renamed: Mapping[str, str]) -> GuardRecord:
    if guard.verdict == RELEASED:
        return guard
    verdict = decide_device(guard, records, renamed.get(guard.device, ""))
    done = guard.done and verdict.state == guard.verdict
    return guard.change(verdict=verdict.state, because=verdict.because, done=done)


def decide_device(guard: GuardRecord, records: Sequence[InterfaceRecord], renamed: str = "") -> Verdict:
    """Return whether the guard of a device opens: all its interfaces with a guard must agree.

    records: the interfaces that are up; renamed: the device's new name, empty if it was not renamed.
    """
    if renamed:
        return Verdict(CLOSED, f"{guard.device} is called {renamed} now: the guard does not match it any more")
    if conflict := find_conflict(guard.passes):
        return Verdict(CLOSED, conflict)
    up = {record.iface: record for record in records}
    reasons = []
    for iface in dict.fromkeys(each.iface for each in guard.passes):
        passes = list_of(guard.passes, iface)
        rules = read_rules_of(passes)
        if not rules.is_guarded():
            continue
        if iface not in up:
            return Verdict(CLOSED, f"{iface}: {_UNLOOKED}")
        record = up[iface]
        if record.observation.observed_at <= guard.shut_at:
            return Verdict(CLOSED, guard.because if guard.verdict == CLOSED else f"{iface}: {_UNLOOKED}")
        if [each.options for each in passes] != [each.options for each in record.passes]:
            return Verdict(CLOSED, f"{iface}: another stanza of it is coming up, and {_UNLOOKED}")
        for rule in rules.guards:
            verdict = decide_guard(rule, record)
            if verdict.state != OPEN:
                return verdict
            reasons.append(verdict.because)
    if not reasons:
        return Verdict(CLOSED, "no stanza says when it opens")
    return Verdict(OPEN, "; ".join(reasons))


def decide_guard(rule: GuardRule, record: InterfaceRecord) -> Verdict:
    """Return what the guard of an interface that is up should be.

    It opens only if its condition certainly does not hold: each word is defined, no unreadable line could change the
    location, the location is decided, all tests are answered, and there is a proof.  Hints are enough only with
    ``netconf-trust hints``.
    """
    where = describe_place(record)
    if not rule.readable or rule.condition is None:
        return Verdict(CLOSED, f'{record.iface}: netconf-guard "{rule.text}" can\'t be read')
    on = _find_word(rule.condition.on, record)
    held = [word for word in rule.condition.unless if holds(word, record)]
    # A test is proven if the test itself is a proof, a location if its line has one.
    proven = [word for word in held if (word.test.is_proof() if word.test else record.place.grade == "authenticated")]
    unless = next(iter((*proven, *held)), None)
    if on and not unless:
        return Verdict(CLOSED, f"{where}: {_describe_want(rule.condition, on, None)}")
    if rule.doubt:
        return Verdict(CLOSED, f"{where}: {rule.doubt}")
    if earlier := _list_earlier(record):
        return Verdict(CLOSED, f"{where}, which is not certain: {earlier[0]} can't be read")
    if record.place.undecided or _has_open_test(rule.condition, record):
        return Verdict(CLOSED, where if record.place.undecided else f"{where}: a test was not answered in time")
    reason = f'"unless {unless.text}"' if unless else f'no word of "on {_list_texts(rule.condition.on)}" holds'
    certain = bool(proven) or (not on and record.place.grade == "authenticated")
    if not certain and record.rules.trust != "hints":
        return Verdict(CLOSED, f"{where}, which is not proven: {reason} does not open it")
    return Verdict(OPEN, f"{where}: {reason}")


def can_open(rule: GuardRule, trust: str, proofs: Collection[str]) -> bool:
    """Whether there is any network on which a guard opens.

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
        return True  # at a proven place that the on clause does not name
    # An unknown place is never proven.  The other words can hold at a proven place.
    unless = {word.text for word in rule.condition.unless if not word.test}
    return not unless.isdisjoint(proofs) or bool(proofs) and not unless.isdisjoint(_PROVABLE)


def decide_presences(
    records: Sequence[InterfaceRecord], before: Sequence[PresenceRecord]
) -> tuple[PresenceRecord, ...]:
    """Return where the machine is, `INET` last.

    While the location of an interface is undecided, the interface counts as still being where it was in `before`.
    """
    found: dict[str, list[InterfaceRecord]] = {}
    for record in records:
        names = [presence.name for presence in before if record.iface in presence.ifaces and presence.name != INET]
        if record.wish:
            names = []
        elif not record.place.undecided:
            names = [record.place.location] if record.place.location else []
        for name in names:
            found.setdefault(name, []).append(record)
    for record in records:
        if name := _find_portal(record, before):
            found[name] = [record]
    routable = [record for record in records if record.observation.routable and not record.wish]
    if routable:
        found[INET] = routable
    known = {presence.name: presence.variables for presence in before}
    return tuple(
        PresenceRecord(
            name,
            tuple(record.iface for record in there),
            known[name] if name in known else describe_connection(name, there[0]),
        )
        for name, there in found.items()
    )


def _find_portal(record: InterfaceRecord, before: Sequence[PresenceRecord]) -> str:
    """Return the presence of the captive portal of an interface's network, empty for none.

    It lasts as long as the interface is on that network, even if the network no longer announces the portal: the login
    may have ended that, or an answer was lost.  If no router's MAC address is known, the network counts as the same.
    """
    portal = record.observation.portal
    start = f"{PORTAL}{record.iface}/{record.observation.index}/"
    for presence in before:
        if presence.name.startswith(start):
            macs = presence.name[len(start):].split(",")
            if not portal.uris or not portal.macs or macs == [""] or set(macs) & set(portal.macs):
                return presence.name
    return start + ",".join(portal.macs) if portal.uris and not record.wish else ""


def list_edges(before: Sequence[PresenceRecord], after: Sequence[PresenceRecord]) -> tuple[Edge, ...]:
    """Return the presences that began and ended, in their order.

    First ``inet`` ends, then the old locations end, new locations begin, captive portals begin, and at last ``inet``
    begins.  So a script for ``inet-connected`` that does nothing in the office has no race.
    """
    names_before = {presence.name for presence in before}
    names_after = {presence.name for presence in after}
    ended = [Edge(each.name, False, each.ifaces[-1]) for each in before if each.name not in names_after]
    begun = [Edge(each.name, True, each.ifaces[0]) for each in after if each.name not in names_before]
    ended.sort(key=lambda edge: edge.name != INET)
    begun.sort(key=lambda edge: 2 if edge.name == INET else edge.name.startswith(PORTAL))
    return (*ended, *begun)


def list_events(before: Sequence[PresenceRecord], after: Sequence[PresenceRecord]) -> tuple[EventRecord, ...]:
    """Return the events in their order (`list_edges`), each with the environment of its scripts.

    The end of a captive portal is no event.
    """
    variables = {presence.name: presence.variables for presence in (*before, *after)}
    events = []
    for edge in list_edges(before, after):
        name = f"{edge.name}-{'connected' if edge.connected else 'disconnected'}"
        if edge.name.startswith(PORTAL):
            if not edge.connected:
                continue
            name = PORTAL_FOUND
        events.append(EventRecord(name, {**variables[edge.name], "IFACE": edge.iface, "NETCONF_EVENT": name}))
    return tuple(events)


def describe_connection(name: str, record: InterfaceRecord) -> dict[str, str]:
    """Return the variables about an interface for an event's scripts: netconf-hooks(8), EVENTS."""
    # The logical interface that was raised last, maybe over the interface's own.
    logical = next((each.logical for each in reversed(record.passes) if each.logical), record.iface)
    at = "" if record.place.undecided else record.place.location
    location = at if name == INET or name.startswith(PORTAL) else name
    variables = {"IFACE": record.iface, "LOGICAL": logical, "NETCONF_LOCATION": location}
    if record.observation.portal.uris:
        variables["NETCONF_PORTAL"] = record.observation.portal.uris[0]
    for key, answer in sorted(record.observation.answers.items()):
        variables["NETCONF_" + key.upper().replace("-", "_")] = " ".join(answer.values)
    return variables


def is_firm(record: InterfaceRecord) -> bool:
    """Whether the interface's location may stop a tunnel: it is decided, and proven if the admin requires proof."""
    proven = record.place.grade == "authenticated"
    return not record.place.undecided and (record.rules.trust != "authenticated" or proven)


def holds(word: Word, record: InterfaceRecord) -> bool:
    """Whether a WORD holds.  An undecided location counts as unknown, and an unanswered test does not hold."""
    if word.test:
        return record.place.words.get(word.text) is True
    if word.text == "anywhere":
        return True
    if word.text == "unroutable":
        return not record.observation.routable
    location = "" if record.place.undecided else record.place.location
    if word.text == "unknown":
        return not location
    if word.text == "insecure":
        return not location or record.observation.wireless == UNENCRYPTED
    return word.text == location


def describe_place(record: InterfaceRecord) -> str:
    """Return where an interface is, in words: ``eth0 is at office-lan``."""
    if record.place.undecided:
        return f"{record.iface} can't tell yet where it is"
    if record.place.location:
        return f"{record.iface} is at {record.place.location}"
    return f"{record.iface} is at an unknown place"


def _judge_rule(rule: VpnRule, record: InterfaceRecord) -> tuple[int, str]:
    where = describe_place(record)
    if not rule.readable:
        return _UNREADABLE, f'{record.iface}: netconf-vpn "{rule.text}" can\'t be read'
    if record.wish:
        return _WISH, f"ifup {record.iface}: somebody wants it, whatever other rules say"
    # A certificate or the admin's own program is a proof at any location.
    proof = _find_word(_list_proofs(rule.condition), record)
    vetoes = [word for word in rule.condition.unless if holds(word, record)]
    certain = [word for word in vetoes if _is_certain(word, record)]
    unless = proof or next(iter((*certain, *vetoes)), None)
    on = _find_word(rule.condition.on, record)
    if unless and (proof or is_firm(record)):
        if rule.doubt:
            return _UNSURE, f"{where}: {rule.doubt}"
        if not proof and not certain:
            return _UNSURE, f"{where}, which is not certain: {_list_earlier(record)[0]} can't be read"
        return _VETO, f'{where}: "unless {unless.text}"'
    if on and not (unless and record.place.undecided):
        return _WANT, f"{where}: {_describe_want(rule.condition, on, unless)}"
    if rule.doubt:
        return _UNSURE, f"{where}: {rule.doubt}"
    if _has_open_test(rule.condition, record):
        return _UNSURE, f"{where}: a test was not answered in time"
    if not is_firm(record):
        return _UNSURE, where if record.place.undecided else f"{where}, which is not proven"
    return _IDLE, f'{where}: no word of "on {_list_texts(rule.condition.on)}" holds'


def _is_certain(word: Word, record: InterfaceRecord) -> bool:
    """Whether a word that holds would also hold if a line that can't be read named the location."""
    if word.test or word.text in ("anywhere", "unroutable"):
        return True
    if word.text == "insecure" and record.observation.wireless == UNENCRYPTED:
        return True
    return all(line.name and line.name == record.place.location for line in _list_earlier(record))


def _list_earlier(record: InterfaceRecord) -> tuple[Unreadable, ...]:
    """Return the unreadable location lines before the one that holds: the interface may be at one of these locations
    instead."""
    return list_unreadable_before(record.rules, record.place.line)


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


def _find_word(words: tuple[Word, ...], record: InterfaceRecord) -> Word | None:
    return next((word for word in words if holds(word, record)), None)


def _has_open_test(condition: Condition, record: InterfaceRecord) -> bool:
    return any(word.test and record.place.words.get(word.text) is None for word in condition.on)
