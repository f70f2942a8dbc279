"""From what was decided to what runs.

Whoever changes a record decides at once, under the records' lock, and writes the decision down.  What is to be done
about it is done under the lock for acting, whose holder always follows the newest decision: of two hooks at the same
time, the one that waits finds the work done, or does what the other could not know yet.  A hook that was killed in
between leaves a decision marked open, and the next run follows it.
"""

from __future__ import annotations

import errno
import os
from time import monotonic

from netconf_hooks.decide import (
    INET, NO_RULE, Presence, Situation, decide_changes, decide_presences, decide_tunnels, find_lost_rule, list_edges
)  # fmt: skip
from netconf_hooks.events import read_queue, tell_events
from netconf_hooks.evidence import make_link as make_link
from netconf_hooks.ifenv import device_of
from netconf_hooks.passes import are_over, is_overtaken, read_rules_of
from netconf_hooks.place import judge, list_word_tests, observe_place
from netconf_hooks.rules import list_unreadable_before
from netconf_hooks.state import (
    EventRecord, Finding, InterfaceRecord, PresenceRecord, RecordError, TunnelRecord, merge_options
)  # fmt: skip
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from netconf_hooks.evidence import Answer
    from netconf_hooks.evidence.probes import Announce
    from netconf_hooks.rules import Rules
    from netconf_hooks.state import Pass, Store
    from netconf_hooks.system.netlink import LinkStatus

# How long a link that has been set up may take until its carrier is there: autonegotiation takes 1 to 3 s (IEEE 802.3,
# clause 28), and ifupdown runs the hooks of a static stanza at once.
CARRIER_TIMEOUT = 3.0

_VERDICT_NAMES = {True: "holds", False: "fails", None: "undecided"}


def observe_interface(
    iface: str, passes: tuple[Pass, ...], patience: float = CARRIER_TIMEOUT, announce: Announce | None = None
) -> tuple[InterfaceRecord, dict[str, Answer]]:
    """Look at the network an interface is on, and return what is to be remembered of it.

    patience: seconds that a link without carrier is waited for.  announce: as of `observe.probes.View`.

    Takes at most the ``netconf-timeout`` of the passes.  Raises OSError where the kernel can't be asked.
    """
    from netconf_hooks.evidence.router import has_default_route
    from netconf_hooks.evidence.wireless import is_wireless_open

    began = monotonic()
    options = merge_options(passes)
    rules = read_rules_of(passes)
    deadline = began + rules.timeout
    link = make_link(iface, options)
    if link.index and not link.carrier and patience:
        _wait_for_carrier(link.device, min(deadline, monotonic() + patience), rules.outside_ports)
        link = make_link(iface, options)
    place, answers = observe_place(rules, link, deadline, announce)
    record = InterfaceRecord(
        iface=iface,
        index=link.index,
        passes=passes,
        location=place.location,
        line=place.line,
        grade=place.grade,
        undecided=place.undecided,
        routable=has_default_route(link),
        wireless_open=is_wireless_open(link.device, deadline),
        words=tuple(
            Finding(test.text, (_VERDICT_NAMES[judge(test, answers)],)) for test in
            list_word_tests(rules)
        ),
        seen=tuple(Finding(key, answers[key].values, answers[key].problem) for key in sorted(answers)),
        looked=began,
    )
    return record, answers


def look_at_network(
    store: Store, iface: str, passes: tuple[Pass, ...], patience: float = CARRIER_TIMEOUT
) -> tuple[InterfaceRecord, dict[str, Answer]]:
    """Look as `observe_interface` does, through the guard of the link if it has one, to decide on what is seen."""
    if not store.has_guards():
        return observe_interface(iface, passes, patience)
    from netconf_hooks.guard.lifecycle import Look

    until = monotonic() + read_rules_of(passes).timeout
    with Look(store, device_of(iface), until) as look:
        return observe_interface(iface, passes, patience, look.announce)


def list_counting(records: Iterable[InterfaceRecord]) -> tuple[InterfaceRecord, ...]:
    """Return the records that are true now: the link is there under the same ifindex, and has carrier (of a link made
    of others: as `observe.ports` says).

    A wish has no link: it counts until its ifdown.
    """
    from netconf_hooks.system.netlink import read_links

    records = tuple(records)
    links = read_links({device_of(record.iface) for record in records if not record.wish})
    counting = []
    for record in records:
        link = links.get(device_of(record.iface))
        if record.wish or (link and link.index == record.index and _has_carrier(link, record)):
            counting.append(record)
    return tuple(counting)


def _has_carrier(link: LinkStatus, record: InterfaceRecord) -> bool:
    from netconf_hooks.system.netlink import COMPOSED

    if not link.carrier or link.kind not in COMPOSED:
        return link.carrier
    from netconf_hooks.evidence.ports import has_carrier

    return has_carrier(link, read_rules_of(record.passes).outside_ports)


def describe_situation(record: InterfaceRecord, rules: Rules) -> Situation:
    """Return what `decide` needs to know of an interface."""
    return Situation(
        iface=record.iface,
        vpns=rules.vpns,
        trust=rules.trust,
        location=record.location,
        grade=record.grade,
        undecided=record.undecided,
        routable=record.routable,
        wireless_open=record.wireless_open,
        wish=record.wish,
        tests=frozenset(word.subject for word in record.words if word.values == ("holds",)),
        open_tests=frozenset(word.subject for word in record.words if word.values == ("undecided",)),
        earlier=list_unreadable_before(rules, record.line),
        lost_vpns=rules.lost_vpns,
    )


def remember_interface(store: Store, record: InterfaceRecord, replaces: InterfaceRecord | None = None) -> bool:
    """Write an interface's record and decide; return whether there is something to do.  Raises OSError.

    replaces: the record that `record` is a newer look for.  Nothing is written where the interface came or went since
        (ifdown, ifup), where `record` is about another device of that name, and where somebody has looked later:
        a DHCP client's hook and the watcher look at the same time.
    """
    store.prepare()
    with store.lock_records():
        if not replaces or (record.index == replaces.index and _is_newer(store, record, replaces)):
            store.write_interface(record)
            return _decide(store, record)
        return _decide(store)


def forget_interface(store: Store, iface: str, old: Pass | None = None) -> bool:
    """Remove an interface's record and decide; return whether there is something to do.  Raises OSError.

    old: the pass that ends, where it is a hook of ifdown that forgets it: see `passes.is_overtaken`.
    """
    store.prepare()
    with store.lock_records():
        if not (old and _has_come_again(store, iface, old)):
            store.remove_interface(iface)
        return _decide(store)


def _has_come_again(store: Store, iface: str, old: Pass) -> bool:
    try:
        record = store.read_interface(iface)
    except RecordError:
        return False
    return record is not None and is_overtaken(record.passes, old)


def end_passes(store: Store) -> None:
    """Forget the interfaces whose link went down after ifupdown was done with them, and take their guards away.

    wpa_supplicant(8) sets a roaming link down after all hooks of its ifdown, or without any.  Raises OSError.
    """
    from netconf_hooks.ifenv import has_wpa_action
    from netconf_hooks.system.netlink import read_links

    over = [record for record in store.read_interfaces(log.error) if record.passes and are_over(record.passes)]
    if over:
        links = read_links({device_of(record.iface) for record in over})
        for record in over:
            link = links.get(device_of(record.iface))
            if not (link and link.up) and not has_wpa_action(record.iface):
                if _forget_unchanged(store, record):
                    follow_decision(store)
    if store.has_guards():
        from netconf_hooks.guard.lifecycle import end_guards

        end_guards(store)


def _forget_unchanged(store: Store, record: InterfaceRecord) -> bool:
    """As `forget_interface`, but not where an ifup has begun since the record was read."""
    store.prepare()
    with store.lock_records():
        try:
            if store.read_interface(record.iface) != record:
                return False
        except RecordError:
            return False
        log.info(f"{record.iface}: forgetting it: ifupdown has taken it down, and its link is down")
        store.remove_interface(record.iface)
        return _decide(store)


def _list_passes(store: Store, record: InterfaceRecord) -> tuple[Pass, ...]:
    if not store.has_guards():
        return record.passes
    from netconf_hooks.guard.lifecycle import find_passes

    return find_passes(store, record.iface) or record.passes


def refresh_interfaces(store: Store, records: Iterable[InterfaceRecord], tell: bool = True) -> None:
    """Look again at the networks of `records`, decide again by the rules in them, and follow the decision.

    tell: whether to run the event scripts too.  Raises OSError.
    """
    store.prepare()
    if store.has_guards():
        from netconf_hooks.guard.records import restore_records

        restore_records(store)
    for record in records:
        if not record.wish:
            # No carrier is no link that comes up, but one that was pulled; and the others wait for the answer.
            newer, _ = look_at_network(store, record.iface, _list_passes(store, record), patience=0.0)
            remember_interface(store, newer, replaces=record)
    with store.lock_records():
        something_to_do = _decide(store)
    # The servers of a tunnel that does not come up may have moved.
    if something_to_do or store.has_guards():
        follow_decision(store, tell=tell)


def follow_decision(store: Store, between: Callable[[], object] | None = None, tell: bool = True) -> None:
    """Shut the guards, ask the tunnels for what was decided, open the guards, then call `between`, and then tell the
    events if `tell`.  Raises OSError.
    """
    if store.has_guards():
        _follow_guarded(store)
    else:
        ask_tunnels(store)
    if between:
        between()
    if tell:
        tell_events(store)


def _follow_guarded(store: Store) -> None:
    from netconf_hooks.guard.exemptions import let_tunnels_through
    from netconf_hooks.guard.lifecycle import follow_closing, follow_opening, put_back

    put_back(store)  # also without a watcher
    with store.lock_acting():
        follow_closing(store)
    let_tunnels_through(store, list_counting(store.read_interfaces(log.error)))
    with store.lock_acting():
        follow_closing(store)
    ask_tunnels(store)
    # Of some tunnels only what runs can say where its packets go, and what has stopped sends none.
    changed = let_tunnels_through(store, list_counting(store.read_interfaces(log.error)), asked=True)
    with store.lock_acting():
        if changed:
            follow_closing(store)
        follow_opening(store)


def ask_tunnels(store: Store) -> None:
    """Do what was decided and is not done.  Raises OSError.

    What fails is logged, stays open, and is tried again by the next run, not by this one.
    """
    failed = set()
    with store.lock_acting():
        while True:
            with store.lock_records():
                todo = [
                    record
                    for tunnel, record in _read_tunnels(store).items()
                    if not record.done and (tunnel, record.verdict) not in failed
                ]
            if not todo:
                return
            for record in todo:
                problem = _ask_tunnel(record)
                if problem:
                    failed.add(((record.kind, record.name), record.verdict))
                with store.lock_records():
                    _mark(store, record, problem)


def wake_watcher(store: Store) -> None:
    """Tell the watcher that records have changed, and start one where none runs.  Logs what can't be done."""
    try:
        fifo = os.open(store.fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENXIO):  # ENXIO: nobody reads, fifo(7)
            log.error(f"{store.fifo}: {error.strerror}: the watcher is not told")
            return
        if store.has_interfaces() or store.has_guards():
            _start_watcher()
        return
    try:
        os.write(fifo, b"\n")
    except OSError:
        pass  # full (EAGAIN): it is awake; gone (EPIPE): it saw no record, and the next hook starts it
    finally:
        os.close(fifo)


def _start_watcher() -> None:
    from netconf_hooks.system.programs import ProgramError, spawn
    from netconf_hooks.system.systemd import SystemStopping, Systemd
    from netconf_hooks.tunnels import TunnelError

    systemd = Systemd()
    try:
        if systemd.is_running():
            systemd.start("netconf-hooks-watch.service")
        else:
            spawn(["/usr/sbin/netconf-hooks", "watch"])
    except SystemStopping:
        pass  # it was stopped with all the others
    except (ProgramError, TunnelError) as error:
        log.error(f"the watcher can't be started: {error}; only hooks and refresh notice changes")


def _wait_for_carrier(device: str, deadline: float, outside_ports: tuple[str, ...]) -> None:
    from netconf_hooks.system.netlink import COMPOSED, LINKS, Netlink

    with Netlink((LINKS,)) as netlink:
        link = netlink.wait_for_carrier(device, deadline)
    if link and link.kind in COMPOSED:
        from netconf_hooks.evidence.ports import wait_for_carrier

        wait_for_carrier(device, outside_ports, deadline)


def _is_newer(store: Store, record: InterfaceRecord, replaces: InterfaceRecord) -> bool:
    try:
        now = store.read_interface(record.iface)
    except RecordError:
        return False  # the caller has read it: somebody is at work there
    same = now is not None and (now.index, now.passes, now.wish) == (replaces.index, replaces.passes, replaces.wish)
    return now is not None and same and now.looked <= record.looked


def _decide(store: Store, written: InterfaceRecord | None = None) -> bool:
    records = list_counting(store.read_interfaces(log.error, written))
    situations = [describe_situation(record, read_rules_of(record.passes)) for record in records]
    before = _read_tunnels(store)
    verdicts = decide_changes(
        decide_tunnels(situations),
        before={tunnel: record.verdict for tunnel, record in before.items()},
        unfinished=[tunnel for tunnel, record in before.items() if not record.done],
        lost=find_lost_rule(situations),
    )
    after = {}
    for (kind, name), verdict in verdicts.items():
        old = before.get((kind, name))
        if old and old.verdict == verdict.state:
            after[kind, name] = TunnelRecord(kind, name, verdict.state, verdict.because, old.done, old.problem)
        else:
            after[kind, name] = TunnelRecord(kind, name, verdict.state, verdict.because, done=False)
            log.info(f"{kind} {name}: {verdict.state}: {verdict.because}")
    if after != before:
        store.write_tunnels(after)
    guards = False
    if store.has_guards():
        from netconf_hooks.guard.lifecycle import decide_guards

        guards = decide_guards(store, records, situations)
    events = _queue_events(store, records, situations)
    return events or guards or any(not record.done for record in after.values())


def _queue_events(store: Store, records: Iterable[InterfaceRecord], situations: list[Situation]) -> bool:
    """Write down where the machine is now and which events follow; return whether any is to be told."""
    told = {record.name: record for record in _read_presences(store)}
    before = [Presence(record.name, record.ifaces) for record in told.values()]
    after = decide_presences(situations, before)
    queue = list(read_queue(store))
    if {presence.name: presence for presence in after} == {presence.name: presence for presence in before}:
        return bool(queue)
    by_iface = {record.iface: record for record in records}
    for edge in list_edges(before, after):
        if edge.connected:
            variables = describe_connection(edge.name, by_iface[edge.iface])
        else:
            variables = {**told[edge.name].variables, "IFACE": edge.iface}
        event = f"{edge.name}-{'connected' if edge.connected else 'disconnected'}"
        queue.append(EventRecord(event, {**variables, "NETCONF_EVENT": event}))
        if edge.connected:
            told[edge.name] = PresenceRecord(edge.name, (edge.iface,), variables)
    # The events first: killed in between, they are told twice and not never.
    store.write_events(queue)
    store.write_presences(
        PresenceRecord(presence.name, presence.ifaces, told[presence.name].variables) for presence in after
    )
    return bool(queue)


def describe_connection(name: str, record: InterfaceRecord) -> dict[str, str]:
    """Return what an event's scripts are told of the interface that made it: netconf-hooks(8), EVENTS."""
    # That which was raised last: another one may have been raised over the interface's own.
    logical = next((each.logical for each in reversed(record.passes) if each.logical), record.iface)
    location = ("" if record.undecided else record.location) if name == INET else name
    variables = {"IFACE": record.iface, "LOGICAL": logical, "NETCONF_LOCATION": location}
    for finding in record.seen:
        variables["NETCONF_" + finding.subject.upper().replace("-", "_")] = " ".join(finding.values)
    return variables


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


def _ask_tunnel(record: TunnelRecord) -> str:
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


def _mark(store: Store, done: TunnelRecord, problem: str) -> None:
    # Only where the decision is still the one that was followed: a newer one is open again.
    records = _read_tunnels(store)
    tunnel = (done.kind, done.name)
    if tunnel in records and records[tunnel].verdict == done.verdict:
        newest = records[tunnel]
        if done.verdict == "down" and not problem and newest.because == NO_RULE:
            del records[tunnel]
        else:
            records[tunnel] = TunnelRecord(
                newest.kind, newest.name, newest.verdict, newest.because, done=not problem, problem=problem
            )
        store.write_tunnels(records)
