"""Shutting an open guard at once, before anything else and without waiting for anybody.

The firewall is told first, and the record says so as soon as it can be written.  Shutting is never wrong: so nothing
here waits for the lock for acting.
"""

from __future__ import annotations

from time import monotonic

from netconf_hooks.decide import CLOSED, RELEASED
from netconf_hooks.guard import firewall
from netconf_hooks.guard.firewall import GuardError, NAMES, OPEN as OPEN_WINDOW, PORTAL
from netconf_hooks.guard.records import read_guard
from netconf_hooks.system import log, netlink
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.guard.firewall import AnyFirewall
    from netconf_hooks.state import GuardRecord, Store


def shut_guard(store: Store, record: GuardRecord, because: str, everything: bool = True) -> None:
    """Shut an open link at once, before anything else; only a look from after this opens it again.

    everything: also what else was let through for a time.
    The lock for acting is not waited for: shutting is never wrong.  Raises OSError where it can't be noted.
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
    """Have the firewall shut an open link, whatever its record says, and make all looks void; return whether it did.

    everything: as for `shut_guard`; guard: the record's firewall, if it is loaded already.
    """
    try:
        guard = guard or firewall.load_firewall(record.backend)
        guard.shut_window(record.device, OPEN_WINDOW)
        for name, until in ((PORTAL, record.portal_until), (NAMES, record.dns_until)):
            if until and everything:
                guard.shut_window(record.device, name)
    except GuardError as error:
        log.error(f"{record.device}: netconf-guard: {error}")
        return False
    drop_waiting(record.device)
    return True


def drop_waiting(device: str) -> None:
    """Drop what has passed the firewall while a link was open, and still waits for the MAC address of its router.

    If the link has moved, the router that answers is another network's.
    """
    try:
        with netlink.Netlink() as kernel:
            link = kernel.get_link(device)
            if link is not None:
                kernel.drop_waiting(link.index)
    except NetlinkError as error:
        log.error(f"{device}: netconf-guard: packets that have passed may still be waiting to leave: {error}")


def note_shut(store: Store, shut: GuardRecord, because: str, when: float, done: bool, everything: bool = True) -> None:
    """Write down that a guard was shut.  The records' lock is held.  Raises OSError.

    shut: the record as it was then; when: time.monotonic(); done: whether the firewall did it; everything: as for
    `shut_guard`.
    """
    now = read_guard(store, shut.device)
    if not now or now.verdict == RELEASED:
        return
    changes: dict[str, object] = {"shut_at": max(now.shut_at, when)}
    if now.token == shut.token or not _is_open(now):
        # Else a look from after this has opened it.
        changes |= {"verdict": CLOSED, "because": because, "opened": now.opened and not done}
        changes["done"] = now.done and done and not (now.opened or now.portal_until or now.dns_until)
        if everything:
            changes |= {"portal_until": 0.0, "dns_until": 0.0}
    store.write_guard(now.change(**changes))


def _is_open(record: GuardRecord) -> bool:
    """Whether the firewall has a link open, as far as it can be asked."""
    try:
        return firewall.load_firewall(record.backend).is_open(record.device)
    except GuardError:
        return False
