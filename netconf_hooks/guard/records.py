"""Reads the records of guards before a decision; writes the verdicts, and whether the firewall has applied them."""

from __future__ import annotations

import time
from _socket import if_indextoname

from netconf_hooks.evidence import ports
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.state import OPEN, RecordError, RELEASED, boot_time
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from netconf_hooks.decide import Decision, Known
    from netconf_hooks.observation import Ports
    from netconf_hooks.state import GuardRecord, InterfaceRecord, Store

# After how many seconds the kernel closes an open guard unless somebody renews the lease.
LEASE = 30.0


def read_guard(store: Store, device: str) -> GuardRecord | None:
    """Return the record of a device's guard; None if there is none, or if it is unreadable, which is logged."""
    try:
        return store.read_guard(device)
    except RecordError as error:
        log.error(f"{device}: {error}: its guard is installed anew at the next ifup")
        return None


def read_expired(store: Store) -> tuple[GuardRecord, ...]:
    """Return the records of all guards.  A guard whose lease has expired is marked as closed.

    The caller holds the records' lock.
    """
    guards = []
    for record in store.read_guards(log.error):
        if record.verdict != RELEASED and record.opened and not record.is_open(time.time()):
            # Nobody has renewed the lease, so the kernel has closed the guard.
            record = record.change(opened=False, done=False)
            store.write_guard(record)
        guards.append(record)
    return tuple(guards)


def find_renamed(guards: Iterable[GuardRecord], records: Iterable[InterfaceRecord]) -> dict[str, str]:
    """Return the guarded devices that have been renamed, each with its new name, which no firewall rule knows."""
    devices = {guard.device for guard in guards}
    renamed = {}
    for record in records:
        device = device_of(record.iface)
        if device in devices and record.observation.index:
            try:
                name = if_indextoname(record.observation.index)
            except OSError:  # there is no such device any more
                continue
            if name != device:
                renamed[device] = name
    return renamed


def write_verdicts(store: Store, known: Known, decision: Decision) -> bool:
    """Write the verdicts on the guards; return whether the firewall must be changed.

    The caller holds the records' lock.
    """
    unsettled = False
    for old, new in zip(known.guards, decision.guards, strict=True):
        if new != old:
            store.write_guard(new)
        if new.because != old.because and new.device in known.renamed:
            log.error(f"{new.device}: netconf-guard: {new.because}")
        if new.verdict != old.verdict:
            log.info(f"{new.device}: netconf-guard: {new.verdict}: {new.because}")
        unsettled |= new.verdict != RELEASED and not new.done
    return unsettled


def mark_applied(store: Store, told: GuardRecord, opened: bool, lease: float = 0.0, whole: bool = True) -> None:
    """Write down that the firewall does what a record says, unless the record has changed meanwhile.

    opened: whether the link was opened; lease: until when, 0 for no end; whole: whether all windows could be opened.
    """
    with store.lock_records():
        now = read_guard(store, told.device)
        if now and now.verdict != RELEASED:
            passing = [
                (each.exemptions, each.servers, each.passes, each.dns_until, each.portal_until, each.lan)
                for each in (now, told)
            ]
            done = whole and passing[0] == passing[1] and opened == (now.verdict == OPEN)
            lease_until_boot = boot_time() + LEASE if lease else 0.0
            store.write_guard(
                now.change(opened=opened, done=done, lease_until=lease, lease_until_boot=lease_until_boot)
            )


def find_ports(record: GuardRecord) -> Ports | None:
    """Return the ports of a guarded link; None if it is no bridge, bond or the like.  Raises `NetlinkError`."""
    return ports.read_ports(record.device, record.options, record.rules.outside_ports)
