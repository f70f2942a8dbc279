"""Shuts an open guard at once.

The firewall is changed first, the record as soon as its lock is free.  Shutting is always safe, so nothing here waits
for the acting lock.
"""

from __future__ import annotations

from time import monotonic

from netconf_hooks.guard import firewall
from netconf_hooks.guard.firewall import GuardError, LAN, NAMES, OPEN as OPEN_WINDOW, PORTAL
from netconf_hooks.guard.records import read_guard
from netconf_hooks.state import CLOSED, RELEASED
from netconf_hooks.system import log, netlink
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from netconf_hooks.guard.firewall import AnyFirewall
    from netconf_hooks.state import GuardRecord, Store


def shut_guard(store: Store, record: GuardRecord, because: str, everything: bool = True) -> None:
    """Shut an open link at once; only a look that begins after this can open it again.

    everything: also shut the windows for a captive portal and for names.
    Does not wait for the acting lock.  Raises OSError if the record can't be written.
    """
    if record.verdict == RELEASED:
        return
    if record.opened:
        log.info(f"{record.device}: netconf-guard: closed: {because}")
    when = monotonic()
    shut = shut_windows(record, everything)
    with store.lock_records():
        note_shut(store, record, because, when, shut, everything)


def shut_windows(record: GuardRecord, everything: bool = True, guard: AnyFirewall | None = None) -> bool:
    """Shut an open link in the firewall, whatever its record says; return whether that succeeded.

    Looks that are under way become void.

    everything: as for `shut_guard`; guard: the record's firewall, if it is loaded already.
    """
    try:
        guard = guard or firewall.load_firewall(record.backend)
        guard.shut_window(record.device, *list_windows(record, everything))
    except GuardError as error:
        log.error(f"{record.device}: netconf-guard: {error}")
        return False
    drop_waiting(record.device)
    return True


def shut_together(records: Iterable[GuardRecord], everything: bool = True) -> dict[str, bool]:
    """As `shut_windows` for several links, with one transaction for each firewall, so that none waits for the others.

    Returns whether that succeeded, by device.
    """
    done: dict[str, bool] = {}
    by_backend: dict[str, list[GuardRecord]] = {}
    for record in records:
        by_backend.setdefault(record.backend, []).append(record)
    for backend, together in by_backend.items():
        windows = {record.device: list_windows(record, everything) for record in together}
        try:
            if len(together) > 1:
                firewall.load_firewall(backend).shut_all(windows)
                done |= dict.fromkeys(windows, True)
        except GuardError as error:
            log.debug(f"netconf-guard: not shut at once: {error}")
        for record in together:
            if record.device in done:
                drop_waiting(record.device)
            else:
                done[record.device] = shut_windows(record, everything)
    return done


def list_windows(record: GuardRecord, everything: bool) -> tuple[str, ...]:
    """Return which windows are to be shut.  everything: as for `shut_guard`."""
    others = ((PORTAL, record.portal_until), (NAMES, record.dns_until), (LAN, record.lan)) if everything else ()
    return (OPEN_WINDOW, *(name for name, is_used in others if is_used))


def drop_waiting(device: str) -> None:
    """Drop packets that passed the firewall while a link was open and still wait for the MAC address of their router.

    If the link has moved, a router of the other network would answer, and receive them.
    """
    try:
        with netlink.Netlink() as kernel:
            link = kernel.get_link(device)
            if link is not None:
                kernel.drop_waiting(link.index)
    except NetlinkError as error:
        log.error(f"{device}: netconf-guard: packets that have passed may still be waiting to leave: {error}")


def note_shut(store: Store, shut: GuardRecord, because: str, when: float, done: bool, everything: bool = True) -> None:
    """Write into its record that a guard was shut.  The caller holds the records' lock.  Raises OSError.

    shut: the record as it was then; when: time.monotonic(); done: whether the firewall has shut it; everything: as for
    `shut_guard`.
    """
    now = read_guard(store, shut.device)
    if not now or now.verdict == RELEASED:
        return
    changes: dict[str, object] = {"shut_at": max(now.shut_at, when)}
    if now.token == shut.token or not _is_open(now):
        # Otherwise a later look has opened it again.
        changes |= {"verdict": CLOSED, "because": because, "opened": now.opened and not done}
        changes["done"] = now.done and done and not (now.opened or now.portal_until or now.dns_until or now.lan)
        if everything:
            changes |= {"portal_until": 0.0, "dns_until": 0.0, "lan": ()}
    store.write_guard(now.change(**changes))


def _is_open(record: GuardRecord) -> bool:
    """Whether a link is open in the firewall; False if the firewall can't be asked."""
    try:
        return firewall.load_firewall(record.backend).is_open(record.device)
    except GuardError:
        return False
