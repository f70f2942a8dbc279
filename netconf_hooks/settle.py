"""The one sequence that hooks, the command and the watcher all go through:

    look at the network  →  record what was seen, and decide  →  act on the decision  →  run the event scripts

Each change of a record is followed by a decision, under the records' lock; the decision is written down.  Acting has a
lock of its own, and its holder always acts on the newest decision: if two hooks run at the same time, the second one
finds the work done, or carries out a decision that came after the first one's.  If a hook is killed in between, the
decision stays marked as not done, and the next run acts on it.
"""

from __future__ import annotations

import os
from time import monotonic

from netconf_hooks import guard
from netconf_hooks.decide import Known, NO_RULE, decide
from netconf_hooks.evidence.current import list_current
from netconf_hooks.evidence.look import CARRIER_TIMEOUT, observe
from netconf_hooks.linkdown import set_routes
from netconf_hooks.passes import is_overtaken, read_rules_of
from netconf_hooks.place import find_new_router, find_place
from netconf_hooks.record import Record
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.state import HELD, InterfaceRecord, RecordError, merge_options
from netconf_hooks.system import log, netlink
from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.wake import wake_watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from netconf_hooks.state import EventRecord, Pass, PresenceRecord, StopRecord, Store, TunnelRecord
    from netconf_hooks.tunnels import AnyTunnel


# For how many seconds a change waits for others, so that one decision covers them all.
GATHERING = 0.2


class Change(Record):
    """A change of an interface's record.

    record: the new record; None to remove the record.
    replaces: the record that is to be replaced or removed.  Nothing is changed if the interface came or went since
        (ifdown, ifup), if the device is another one with the same name, or if a later look was recorded (a DHCP
        client's hook and the watcher may look at the same time).  None: replace any record.
    ends: the pass that a hook of ifdown ends.  Nothing is removed if an ifup has begun since (`passes.is_overtaken`).
    """

    __slots__ = ("iface", "record", "replaces", "ends")

    def __init__(
        self,
        iface: str,
        record: InterfaceRecord | None = None,
        replaces: InterfaceRecord | None = None,
        ends: Pass | None = None,
    ) -> None:
        self.iface = iface
        self.record = record
        self.replaces = replaces
        self.ends = ends


def settle(
    store: Store,
    changes: Iterable[Change],
    leaving: bool = False,
    wake: bool = True,
    tell: Callable[[Store], object] | None = None,
    retry: bool = True,
    news: bool = True,
) -> None:
    """Record `changes`, decide, act on the decision, and run the event scripts.

    changes: may look at the network while it is iterated (`look_again`).  If there are none, decide on the records.
    leaving: whether a link is about to go down: if there are guards, its events run before the tunnels are stopped.
    wake: whether to notify the watcher.
    tell: runs the event scripts, by default `events.tell_events`.  Each script has a time limit, so a hook suspends its
        own time limit meanwhile.
    retry: whether to start tunnels again that could not be started before; the watcher has its own schedule for that.
    news: whether anything may have happened since the last run.  If not, act only if a decision is not carried out yet.

    Raises OSError, and what `changes` raises.
    """
    tell = tell or _tell_events
    store.prepare()
    guard.restore_records(store)
    unsettled = _remember_as_they_come(store, changes)
    if unsettled is None:
        unsettled = decide_again(store)
    if wake:
        wake_watcher(store)
    # With a guard, act even if nothing has changed: the server of a tunnel that does not connect may have moved.
    guarded = store.has_guards()
    if leaving and guarded:
        tell(store)
    if unsettled or (guarded and news):
        act(store, retry)
        tell(store)


def _tell_events(store: Store) -> None:
    if store.has_events():
        from netconf_hooks.events import tell_events  # only when there is something to tell

        tell_events(store)


def _read_queue(store: Store) -> tuple[EventRecord, ...]:
    if not store.has_events():
        return ()
    from netconf_hooks.events import read_queue

    return read_queue(store)


def leave_events(store: Store) -> None:
    """Run no event scripts: the watcher runs them in another child."""


def look(
    store: Store,
    iface: str,
    passes: tuple[Pass, ...],
    patience: float = CARRIER_TIMEOUT,
    token: str = "",
    before: InterfaceRecord | None = None,
) -> InterfaceRecord:
    """Look at an interface's network, through the guard of its link, and return the new record.

    patience: for how many seconds to wait for carrier; token: from `guard.begin_looks`, empty if there is none.
    before: the present record; a new router that was already found then is not logged again.
    Raises `NetlinkError`, OSError.
    """
    rules = read_rules_of(passes)
    losses = _count_losses(iface, before)  # first: if the carrier is lost during this look, the next one has to know
    with guard.look(store, device_of(iface), monotonic() + rules.timeout, token) as passing:
        seen = observe(
            iface, rules, merge_options(passes), patience, passing.announce,
            lambda: rules.is_guarded() or _has_scripts(),
        )  # fmt: skip
    record = InterfaceRecord(iface, passes, seen, find_place(rules, seen.answers), losses=losses)
    if not record.place.location and (router := find_new_router(rules, seen.answers)):
        if before is None or find_new_router(before.rules, before.observation.answers) != router:
            log.warning(f"{iface}: {router}")
    return record


def _has_scripts() -> bool:
    from netconf_hooks.events import list_scripts

    return bool(list_scripts())


def _count_losses(iface: str, before: InterfaceRecord | None) -> int:
    """Return how often an interface's link has lost its carrier.  If it has since the look `before`, make the kernel
    forget its neighbours.

    The kernel does so itself only if the carrier is not back before it can report the loss (net/core/link_watch.c).
    Otherwise it would still know the MAC address of a router of the last network.  Raises `NetlinkError`.
    """
    link = netlink.read_link(device_of(iface))
    if link is None:
        return 0
    if before and link.index == before.observation.index and link.losses != before.losses:
        with netlink.Netlink() as kernel:
            kernel.forget_neighbours(link.index)
    return link.losses


def look_again(store: Store, records: Iterable[InterfaceRecord]) -> Iterable[Change]:
    """Look at the networks of `records` again, one after the other.  Raises as `look` does."""
    chosen = [record for record in records if not record.wish]
    tokens = guard.begin_looks(store, tuple(dict.fromkeys(device_of(record.iface) for record in chosen)))
    for record in chosen:
        # Don't wait for carrier here: a missing carrier means a pulled cable, and the other interfaces are waiting.
        passes = guard.find_passes(store, record.iface) or record.passes
        token = tokens.pop(device_of(record.iface), "")
        yield Change(record.iface, look(store, record.iface, passes, 0.0, token, record), replaces=record)


def _remember_as_they_come(store: Store, changes: Iterable[Change]) -> bool | None:
    """Record changes and decide; return whether there is something to do, None if there was no change.

    One decision covers the changes that come within `GATHERING`, since each decision is about all interfaces.  But if
    an interface is at another place now, decide at once and close its guard: this must not wait for the looks at other
    networks, which can delay them.  Raises as `settle`.
    """
    unsettled: bool | None = None
    waiting: list[Change] = []
    began = 0.0
    try:
        for change in changes:
            began = began if waiting else monotonic()
            waiting.append(change)
            if _has_moved(change) or monotonic() >= began + GATHERING:
                unsettled = remember(store, *waiting)
                waiting.clear()
                guard.shut_guards(store)
    except (NetlinkError, OSError):
        if waiting:
            remember(store, *waiting)
        raise
    return remember(store, *waiting) if waiting else unsettled


def _has_moved(change: Change) -> bool:
    """Whether an interface was seen at another place than before."""
    return bool(change.record and change.replaces and change.record.place != change.replaces.place)


def remember(store: Store, *changes: Change) -> bool:
    """Write changed records, and decide; return whether there is something to do.  Raises OSError."""
    with store.lock_records():
        written: dict[str, InterfaceRecord] = {}
        for change in changes:
            if (change.replaces or change.ends) and not _is_newer(store, change):
                continue
            written.pop(change.iface, None)
            record = change.record
            if record is None:
                store.remove_interface(change.iface)
            else:
                store.write_interface(record)
                written[record.iface] = record
        return _decide(store, written)


def decide_again(store: Store) -> bool:
    """Decide on the present records; return whether there is something to do.  Raises OSError."""
    with store.lock_records():
        return _decide(store)


def _is_newer(store: Store, change: Change) -> bool:
    try:
        now = store.read_interface(change.iface)
    except RecordError:
        return bool(change.ends)  # `replaces`: the caller could read the record, so somebody has changed it since
    if change.ends:
        return now is None or not is_overtaken(now.passes, change.ends)
    if now is None or change.replaces is None:
        return False
    if change.record is None:
        return now == change.replaces
    same = (now.passes, now.wish) == (change.replaces.passes, change.replaces.wish)
    same = same and now.observation.index == change.replaces.observation.index == change.record.observation.index
    return same and now.observation.observed_at <= change.record.observation.observed_at


def _decide(store: Store, written: Mapping[str, InterfaceRecord] | None = None) -> bool:
    """Decide, and write the decision; return whether there is something to do.

    The caller holds the records' lock.
    written: the records that the caller has just written, by interface.
    """
    records = store.read_interfaces(log.error, written)
    set_routes(store, records)
    guards, renamed = guard.read_guards(store, records)
    known = Known(_read_tunnels(store), guards, _read_presences(store), renamed, read_held(), read_stops(store))
    decision = decide(list_current(records), known)
    for (kind, name), tunnel in decision.tunnels.items():
        before = known.tunnels.get((kind, name))
        if tunnel.held != (before.held if before else ""):
            log.info(f"{kind} {name}: {tunnel.held or 'follows the rules again'}")
        if not before or before.verdict != tunnel.verdict:
            log.info(f"{kind} {name}: {tunnel.verdict}: {tunnel.because}")
    if decision.stops != known.stops:
        store.write_stops(decision.stops)
    if decision.tunnels != known.tunnels:
        store.write_tunnels(decision.tunnels)
    untold = guard.write_guards(store, known, decision)
    queue = _read_queue(store)
    if {presence.name: presence for presence in decision.presences} != {each.name: each for each in known.presences}:
        # Write the events first: if we are killed in between, they run twice instead of never.
        store.write_events((*queue, *decision.events))
        store.write_presences(decision.presences)
    return bool(queue or decision.events) or untold or any(not tunnel.applied for tunnel in decision.tunnels.values())


def act(store: Store, retry: bool = True) -> None:
    """Act on the decision: close guards, start and stop tunnels, open guards.  Raises OSError.

    retry: as for `settle`.
    """
    guard.close_guards(store)
    ask_tunnels(store, retry)
    guard.open_guards(store)


def ask_tunnels(store: Store, retry: bool = True) -> None:
    """Start and stop tunnels as decided.  Raises OSError.

    A failure is logged; this run does not try again, the next one does.
    retry: as for `settle`.
    """
    failed = set()
    with store.lock_acting():
        while True:
            with store.lock_records():
                todo = [
                    record
                    for tunnel, record in _read_tunnels(store).items()
                    if not record.applied and not record.held and (tunnel, record.verdict) not in failed
                    and (retry or record.verdict == "down" or not record.problem)
                ]
            if not todo:
                return
            for record in todo:
                problem = _ask_tunnel(record)
                if problem:
                    failed.add(((record.kind, record.name), record.verdict))
                with store.lock_records():
                    _record_applied(store, record, problem)


def ask_again(store: Store, record: TunnelRecord, work: Callable[[AnyTunnel], object]) -> None:
    """Do something with a tunnel that should be up, unless the verdict has changed meanwhile.

    work: called with the tunnel; a `TunnelError` that it raises is logged and recorded.  Raises OSError.
    """
    from netconf_hooks.tunnels import TunnelError, load_tunnel

    with store.lock_acting():
        with store.lock_records():
            now = _read_tunnels(store).get((record.kind, record.name))
        if not now or now.verdict != "up" or now.held:
            return
        problem = ""
        try:
            work(load_tunnel(record.kind, record.name))
        except TunnelError as error:
            problem = str(error)
            if problem != now.problem:
                log.error(f'netconf-vpn "{record.kind} {record.name}": {error} ({now.because})')
        with store.lock_records():
            _record_applied(store, now, problem)


def _ask_tunnel(record: TunnelRecord) -> str:
    """Start or stop a tunnel; return what went wrong, in words; empty if nothing did."""
    from netconf_hooks.tunnels import TunnelError, load_tunnel

    try:
        tunnel = load_tunnel(record.kind, record.name)
        if record.verdict == "up":
            tunnel.start()
        else:
            tunnel.stop()
    except TunnelError as error:
        verb = "started" if record.verdict == "up" else "stopped"
        log.error(f'netconf-vpn "{record.kind} {record.name}": can\'t be {verb}: {error} ({record.because})')
        return str(error)
    return ""


def _record_applied(store: Store, applied: TunnelRecord, problem: str) -> None:
    """Record that a decision was carried out, unless a newer one has replaced it.

    The caller holds the records' lock.
    """
    records = _read_tunnels(store)
    tunnel = (applied.kind, applied.name)
    if tunnel in records and records[tunnel].verdict == applied.verdict:
        newest = records[tunnel]
        if newest.held:
            return  # it was held, or stopped by hand, meanwhile
        if applied.verdict == "down" and not problem and newest.because == NO_RULE:
            del records[tunnel]
        else:
            records[tunnel] = newest.change(applied=not problem, problem=problem)
        store.write_tunnels(records)


def read_held() -> dict[tuple[str, str], str]:
    """Return the tunnels that the admin holds, by kind and name, each with a text that says so."""
    if not os.path.exists(HELD):
        return {}
    from netconf_hooks.tunnels.held import read_holds

    return {tunnel: str(hold) for tunnel, hold in read_holds().items()}


def read_stops(store: Store) -> dict[tuple[str, str], StopRecord]:
    """Return the tunnels that somebody has stopped by hand, by kind and name."""
    try:
        return store.read_stops()
    except RecordError as error:
        log.error(f"{error}: no tunnel counts as stopped by hand")
        return {}


def _read_presences(store: Store) -> tuple[PresenceRecord, ...]:
    try:
        return store.read_presences()
    except RecordError as error:
        log.error(f"{error}: every location counts as new")
        return ()


def _read_tunnels(store: Store) -> dict[tuple[str, str], TunnelRecord]:
    try:
        return store.read_tunnels()
    except RecordError as error:
        log.error(f"{error}: every tunnel is decided on anew")
        return {}
