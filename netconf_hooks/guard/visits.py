"""Ends the passes to captive portals that are not needed any more: the network itself says so (RFC 8908).

The watcher's child asks; the process that listens never does.  Nothing here lets anything through but our own question:
a network that lies only ends the pass early, or lets it last as long as the admin wanted.
"""

from __future__ import annotations

from time import monotonic

from netconf_hooks.decide import RELEASED
from netconf_hooks.evidence import make_link
from netconf_hooks.guard import firewall
from netconf_hooks.guard.exemptions import ProbePass
from netconf_hooks.guard.firewall import GuardError, PORTAL
from netconf_hooks.guard.records import read_guard
from netconf_hooks.state import boot_time
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.state import GuardRecord, InterfaceRecord, Store

# How often a portal is asked, and how long it may take to answer, seconds.
PAUSE = 10.0
PATIENCE = 3.0


def end_visits(store: Store) -> tuple[bool, float | None]:
    """Ask the portals that may be visited now, where they say how to ask, and end what is not needed any more.

    Return whether a pass was ended, and after how many seconds to ask again; None if there is nothing to ask.
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
        elif _is_over(store, record):
            _end(store, record)
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
        log.debug(f"{record.device}: the captive portal does not say whether it is needed: {error}")
        return False


def _find_interface(store: Store, record: GuardRecord) -> InterfaceRecord | None:
    """Return an interface that is up on the device of a guard: its name servers are asked."""
    names = dict.fromkeys(each.iface for each in record.passes)
    found = {each.iface: each for each in store.read_interfaces(log.error)}
    return next((found[name] for name in names if name in found and not found[name].wish), None)


def _end(store: Store, record: GuardRecord) -> None:
    """Shut the window of a captive portal."""
    try:
        firewall.load_firewall(record.backend).shut_window(record.device, PORTAL)
    except GuardError as error:
        log.error(f"{record.device}: netconf-guard: {error}")
        return
    log.info(f"{record.device}: netconf-guard: the captive portal says that it is not needed any more: closed for it")
    _write(store, record, portal_until=0.0)


def _write(store: Store, record: GuardRecord, **changes: float) -> None:
    """Change the record of a guard, unless another pass was given, or ended, meanwhile."""
    with store.lock_records():
        now = read_guard(store, record.device)
        if now and now.verdict != RELEASED and now.portal_until == record.portal_until:
            store.write_guard(now.change(**changes))
