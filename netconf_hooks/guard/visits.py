"""Closes the window for a captive portal when the network says that the portal is not needed any more (RFC 8908).

The watcher's child asks the portal's API, never the watcher itself.  Only our own request passes the guard.  A network
that lies can close the window early, or leave it open for as long as the admin has allowed; nothing else.
"""

from __future__ import annotations

from time import monotonic

from netconf_hooks.evidence import make_link
from netconf_hooks.guard import firewall
from netconf_hooks.guard.exemptions import ProbePass
from netconf_hooks.guard.firewall import GuardError, PORTAL
from netconf_hooks.guard.records import read_guard
from netconf_hooks.state import RELEASED, boot_time
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.state import GuardRecord, InterfaceRecord, Store

# Seconds between two requests to a portal, and seconds that it may take to answer.
PAUSE = 10.0
PATIENCE = 3.0


def end_visits(store: Store) -> tuple[bool, float | None]:
    """Ask each open portal that has an API, and close the windows that are not needed any more.

    Returns whether a window was closed, and after how many seconds to ask again; None if there is nothing to ask.
    Raises OSError.
    """
    ended = False
    pauses = []
    for record in store.read_guards(log.error):
        if not record.portal_api or record.verdict == RELEASED or not record.portal_left():
            continue
        now = boot_time()
        if record.portal_due > now:
            pauses.append(record.portal_due - now)
        elif _is_over(store, record) and _end(store, record):
            ended = True
        else:
            _write(store, record, portal_due=boot_time() + PAUSE)
            pauses.append(PAUSE)
    return ended, min(pauses, default=None)


def _is_over(store: Store, record: GuardRecord) -> bool:
    from netconf_hooks.evidence.captive_portal import read_portal
    from netconf_hooks.evidence.portal_page import PageError, ask_state
    from netconf_hooks.evidence.probes import View

    interface = _find_interface(store, record)
    if interface is None:
        return False
    try:
        with ProbePass(record.device, record.backend, PATIENCE) as passing:
            link = make_link(interface.iface, interface.options)
            view = View(link, monotonic() + PATIENCE, passing.announce)
            return not ask_state(read_portal(record.portal_api), view).captive
    except (PageError, ValueError, NetlinkError, OSError) as error:
        log.debug(f"{record.device}: the captive portal does not say whether it is still needed: {error}")
        return False


def _find_interface(store: Store, record: GuardRecord) -> InterfaceRecord | None:
    """Return an interface that is up on a guard's device, whose name servers resolve the portal's name; None if there
    is none."""
    names = dict.fromkeys(each.iface for each in record.passes)
    found = {each.iface: each for each in store.read_interfaces(log.error)}
    return next((found[name] for name in names if name in found and not found[name].wish), None)


def _end(store: Store, record: GuardRecord) -> bool:
    """Shut the window of a captive portal; return whether that succeeded."""
    try:
        firewall.load_firewall(record.backend).shut_window(record.device, PORTAL)
    except GuardError as error:
        log.error(f"{record.device}: netconf-guard: {error}")
        return False
    log.info(f"{record.device}: netconf-guard: the captive portal is not needed any more: its window is closed")
    _write(store, record, portal_until=0.0)
    return True


def _write(store: Store, record: GuardRecord, **changes: float) -> None:
    """Change the record of a guard, unless the window was opened anew or closed meanwhile."""
    with store.lock_records():
        now = read_guard(store, record.device)
        if now and now.verdict != RELEASED and now.portal_until == record.portal_until:
            store.write_guard(now.change(**changes))
