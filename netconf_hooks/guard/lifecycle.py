"""The life of a guard, from the first pre-up of its device to the last post-down: netconf-interfaces(5), GUARD.

A guard belongs to a device.  pre-up installs it, closed, before the device is configured: only the exemptions of every
closed guard (`exemptions`) and our own probes may leave.  It opens last (`enforce`), if all interfaces on the device
that have a guard agree.  It shuts first (`shut`).
"""

from __future__ import annotations

import os

from netconf_hooks.evidence import ports
from netconf_hooks.guard import firewall
from netconf_hooks.guard.exemptions import list_exemptions
from netconf_hooks.guard.firewall import GuardError, SEE_GUESTS
from netconf_hooks.guard.records import find_ports, mark_applied, read_guard
from netconf_hooks.guard.shut import drop_waiting, shut_guard, shut_windows
from netconf_hooks.passes import (
    are_over, begin_pass, complete_pass, end_pass, find_conflict, leave_passes, list_of, make_pass, read_rules_of
)  # fmt: skip
from netconf_hooks.stanzas.ifenv import device_of, has_wpa_action, is_roaming
from netconf_hooks.state import CLOSED, GuardRecord, RecordError, RELEASED, merge_options
from netconf_hooks.system import log, netlink
from netconf_hooks.wake import wake_watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from netconf_hooks.observation import Ports
    from netconf_hooks.stanzas.ifenv import Invocation
    from netconf_hooks.stanzas.rules import Rules
    from netconf_hooks.state import Pass, Store

# The configuration of pppd(8).
_PPP = "/etc/ppp"

_ROUTER_DIALS = "let a router dial in, and guard the link to it; or take netconf-guard out"


def find_unguardable(invocation: Invocation) -> str:
    """Return why an interface can't be guarded, in words; empty if it can."""
    device = device_of(invocation.iface)
    if invocation.method in ("ppp", "wvdial") or device.startswith("ppp"):
        return f"a ppp link can't be guarded, since its device does not exist before it is connected: {_ROUTER_DIALS}"
    if "netconf-uplink" in invocation.options:
        return "a wish (netconf-uplink) has no link of its own: guard the links that it names"
    if not os.path.isdir(_PPP):
        return ""
    from netconf_hooks.guard.ppp import find_dialers  # saves the import on most machines

    for stanza, path in find_dialers(device):
        return (
            f"{stanza} dials in over {device} by PPPoE ({path}), whose frames the guard of {device} would drop: "
            f"{_ROUTER_DIALS}"
        )
    return ""


def prepare_device(store: Store, invocation: Invocation, rules: Rules, again: bool = False) -> bool:
    """Close an interface's link before it is configured, if its rules ask for a guard; return whether it may come up.

    rules: of this pass alone; again: whether pre-up has done this already.  Logs why the interface may not come up.
    """
    try:
        if not rules.is_guarded():
            join_guard(store, invocation, again)
            return True
        if problem := find_unguardable(invocation):
            raise GuardError(problem)
        install_guard(store, invocation, again)
        wake_watcher(store)
    except (GuardError, RecordError, OSError) as error:
        text = f' "{rules.guard.text}"' if rules.guard else ""
        log.error(f"{invocation.iface}: netconf-guard{text}: no guard can be put up, so it stays down: {error}")
        return False
    return True


def install_guard(store: Store, invocation: Invocation, again: bool = False) -> None:
    """Close the device of an interface that is about to come up, and write the guard's record.

    again: whether pre-up has recorded this pass already.

    Raises `GuardError` if it is not certain that the device is closed, OSError if the record can't be written.
    """
    device = device_of(invocation.iface)
    status = netlink.read_link(device)
    is_up = status is not None and status.up
    store.prepare()
    with store.lock_acting():
        with store.lock_records():
            before = read_guard(store, device)
            known = before.passes if before else _list_passes_of(store, device, invocation.run)
            passes = (complete_pass if again else begin_pass)(known, make_pass(invocation))
            if before and before.verdict == RELEASED and is_roaming(device):
                store.write_guard(before.change(passes=passes))
                return
            conflict = find_conflict(passes)
            # Passes that this run of ifup is going to replace come last.
            rules = read_rules_of(sorted(passes, key=lambda each: not each.reached))
            # If the stanzas disagree, keep it closed in its present firewall, or else in the first stanza's one.
            name = before.backend if before and conflict else rules.backend
            if before and conflict:
                backend = firewall.load_firewall(name)
            else:
                backend = firewall.choose_firewall(name, {guard.backend for guard in store.read_guards(log.error)})
            parts = ports.read_ports(device, merge_options(passes), rules.outside_ports)
            if problem := find_bridge_problem(device, parts, backend.name):
                raise GuardError(problem)
            record = _make_record(device, backend.name, passes, before, is_up)
            if before and before.opened and before.backend != backend.name:
                shut_windows(before)  # from now on, only windows in the new firewall are shut
            store.write_guard(record)
        if is_up and not before:
            log.error(
                f"{invocation.iface}: netconf-guard: the link was up before it was guarded, and traffic could leave: "
                f"the option belongs in the first stanza of {device}, and no pre-up line may set it up"
            )
        backend.close(device, list_exemptions(record), ports=parts)
        drop_waiting(device)
        mark_applied(store, record, opened=False)
        if record.former:
            _remove_former(store, record)
    log.info(f"{invocation.iface}: netconf-guard: {device} is closed ({backend.name})")
    if conflict:
        raise GuardError(conflict)


def _make_record(
    device: str, backend: str, passes: tuple[Pass, ...], before: GuardRecord | None, is_up: bool
) -> GuardRecord:
    """Return the record of a closed guard.

    before: the record of the device's guard until now.  is_up: whether the link is up already (another address family,
    or ifup --force): then its tunnels go on, and previous observations count while it is on the same network.
    """
    record = GuardRecord(device, backend, CLOSED, "it is coming up", passes)
    if before is None:
        return record
    # Rules in another firewall are removed after the link is closed in this one; if this hook is killed before that,
    # the next one removes them.
    elsewhere = [name for name in (before.backend, *before.former.split()) if name != backend]
    record = record.change(former=" ".join(dict.fromkeys(elsewhere)), opened=before.opened)
    if is_up:
        facts = ("exemptions", "names", "silent", "servers", "fingerprint", "shut_at", "dns_fingerprint")
        record = record.change(**{fact: getattr(before, fact) for fact in facts})
    return record


def _remove_former(store: Store, record: GuardRecord) -> None:
    former = _lift_former(record)
    with store.lock_records():
        now = read_guard(store, record.device)
        if now:
            store.write_guard(now.change(former=former))


def join_guard(store: Store, invocation: Invocation, again: bool = False) -> None:
    """Record that a pass without a guard of its own comes up on a device that may have a guard.

    If no stanza in force asks for a guard any more, remove the guard.  again: as in `install_guard`.

    Raises `GuardError`.
    """
    device = device_of(invocation.iface)
    with store.lock_acting():
        with store.lock_records():
            record = read_guard(store, device)
            if not record:
                return
            passes = (complete_pass if again else begin_pass)(record.passes, make_pass(invocation))
            if passes != record.passes:
                record = record.change(passes=passes)
                store.write_guard(record)
        if not read_rules_of(passes).is_guarded():
            remove_guard(store, record)
            return
        conflict = find_conflict(passes)
        ended = record.verdict == RELEASED and not again and not is_roaming(device)
        if conflict or ended:
            _close_again(store, record, conflict or "it is coming up")
    if conflict:
        raise GuardError(conflict)


def _close_again(store: Store, record: GuardRecord, because: str) -> None:
    """Close a guard that may be open, or that was released until this ifup.  The caller holds the acting lock."""
    with store.lock_records():
        record = record.change(verdict=CLOSED, because=because, done=False)
        store.write_guard(record)
    firewall.load_firewall(record.backend).close(record.device, list_exemptions(record), ports=find_ports(record))
    mark_applied(store, record, opened=False)


def begin_leaving(store: Store, invocation: Invocation) -> None:
    """down: shut the guard of a device and all its windows before anything else is done; tunnels still pass."""
    iface = invocation.iface
    record = read_guard(store, device_of(iface))
    if not record or record.verdict == RELEASED:
        return
    from netconf_hooks.guard.enforce import follow_closing  # a hook imports only what it needs

    shut_guard(store, record, f"{iface} is going down")
    with store.lock_records():
        now = read_guard(store, record.device)
        if now:
            store.write_guard(now.change(passes=leave_passes(now.passes, make_pass(invocation), is_roaming(iface))))
    with store.lock_acting():
        follow_closing(store)


def leave_guard(store: Store, invocation: Invocation) -> None:
    """post-down: a pass has ended.  Remove the guard if no remaining pass asks for one and the link is down."""
    device = device_of(invocation.iface)
    with store.lock_acting():
        with store.lock_records():
            record = read_guard(store, device)
            if not record:
                return
            status = netlink.read_link(device)
            up = status is not None and status.up
            left = end_pass(record.passes, make_pass(invocation), down=not up, kept=is_roaming(device))
            guarded = read_rules_of(left).is_guarded()
            if _is_over(left, device, up):
                guarded = False
            elif up and (are_over(left) or not left):
                left, guarded = left or record.passes, True
                log.info(f"{device}: netconf-guard: still closed, since ifdown left the link up")
            if guarded:
                store.write_guard(record.change(passes=left))
                return
        remove_guard(store, record)


def end_device(store: Store, invocation: Invocation) -> None:
    """post-down: as `leave_guard`, but errors are logged."""
    try:
        leave_guard(store, invocation)
    except GuardError as error:
        log.error(f"{invocation.iface}: netconf-guard: {error}")


def end_guards(store: Store) -> bool:
    """Remove the guards of links that went down only after their ifdown; return whether there was one.

    ifdown does not set the link of a stanza with the method manual down; wpa_supplicant(8) does it after all hooks.
    """
    ended = False
    with store.lock_records():
        over = [record for record in store.read_guards(log.error) if _is_over(record.passes, record.device)]
    for record in over:
        with store.lock_acting():
            now = read_guard(store, record.device)
            if now and _is_over(now.passes, now.device):
                try:
                    remove_guard(store, now)
                    ended = True
                except GuardError as error:
                    log.error(f"{now.device}: netconf-guard: {error}")
    return ended


def _is_over(passes: Sequence[Pass], device: str, up: bool | None = None) -> bool:
    """Whether nothing is in force on a device any more: its passes have ended, and the link is down."""
    if not are_over(passes):
        return False
    if up is None:
        status = netlink.read_link(device)
        up = status is not None and status.up
    return not up and not has_wpa_action(device)


def _list_passes_of(store: Store, device: str, run: str) -> tuple[Pass, ...]:
    """Return the passes that have come up on a device that had no guard until now.

    These are the passes of records that are still true, and those of the same run of ifup, even if the link is down:
    its first stanza need not set the link up.
    """
    link = netlink.read_link(device)
    return tuple(
        each
        for record in store.read_interfaces(log.error)
        if not record.wish and device_of(record.iface) == device
        for each in record.passes
        if (link and link.up and link.index == record.observation.index) or (run and each.run == run)
    )


def remove_guard(store: Store, record: GuardRecord) -> None:
    """Remove a guard.  The caller holds the acting lock.  Raises `GuardError`."""
    from netconf_hooks.guard.endpoints import unpin

    if record.verdict != RELEASED:
        firewall.load_firewall(record.backend).lift(record.device)
    if record.former:
        _lift_former(record)
    unpin(record.device)
    with store.lock_records():
        store.remove_guard(record.device)
    log.info(f"{record.device}: netconf-guard: removed")


def _lift_former(record: GuardRecord) -> str:
    """Remove a device's rules from the firewalls that were used before; return those in which that failed, as
    `GuardRecord.former`.

    A failure is only logged: the link is closed in the new firewall in any case.
    """
    left = []
    for name in record.former.split():
        try:
            firewall.load_firewall(name).lift(record.device)
        except GuardError as error:
            log.error(f"{record.device}: netconf-guard: its rules in {name} can't be removed: {error}")
            left.append(name)
    return " ".join(left)


def find_passes(store: Store, iface: str) -> tuple[Pass, ...] | None:
    """Return the passes of an interface, including those that have only run pre-up; None if its device has no guard."""
    with store.lock_records():
        guard = read_guard(store, device_of(iface))
    return list_of(guard.passes, iface) if guard else None


def find_bridge_problem(device: str, ports: Ports | None, backend: str) -> str:
    """Return, in words, that a firewall does not see everything that leaves through a link; empty if it does."""
    if not ports or not ports.bridge or backend in SEE_GUESTS:
        return ""
    return (
        f"{device} is a bridge, and {backend} does not see what its guests send: guarding it needs nftables "
        '(libnftables1), and no "netconf-guard-backend iptables"'
    )
