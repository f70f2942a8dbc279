"""Removes the records and guards of interfaces that ifupdown has already taken down.

They are left over if a link is set down only after all hooks of its ifdown (wpa_supplicant(8)), or if an ifdown was
killed or reached its deadline.  The next hook or the watcher removes them.
"""

from __future__ import annotations

from netconf_hooks import guard
from netconf_hooks.passes import are_over
from netconf_hooks.settle import Change, leave_events, remember, settle
from netconf_hooks.stanzas.ifenv import device_of, has_ended, has_wpa_action
from netconf_hooks.system import log, netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.state import Pass, Store


def end_passes(store: Store) -> None:
    """Forget the interfaces whose link went down after all hooks of their ifdown, and remove their guards.

    wpa_supplicant(8) sets a roaming link down after all hooks of its ifdown, or without an ifdown.  Raises OSError.
    """
    over = [record for record in store.read_interfaces(log.error) if record.passes and are_over(record.passes)]
    if over:
        links = netlink.read_links({device_of(record.iface) for record in over})
        for record in over:
            link = links.get(device_of(record.iface))
            if not (link and link.up) and not has_wpa_action(record.iface):
                log.info(f"{record.iface}: forgetting it: ifupdown has taken it down, and its link is down")
                # `replaces`: keep the record if an ifup has begun since it was read.
                settle(store, [Change(record.iface, replaces=record)], wake=False, tell=leave_events)
    guard.end_guards(store)


def clear_leftovers(store: Store) -> None:
    """Forget the interfaces of devices that are down and not configured in ifupdown, and remove their guards.

    An ifup that is still running may be about to set the link up.  So do nothing unless the ifup of each stanza is
    known and has ended.  With ifupdown-ng, with ifupdown2, and if hooks were run by hand, it is not known.

    Raises OSError, and `NetlinkError` if the kernel can't be asked.
    """
    for device, passes in _read_passes(store).items():
        if _is_left_over(device, passes):
            _clear(store, device)


def _clear(store: Store, device: str) -> None:
    from netconf_hooks.guard.firewall import GuardError
    from netconf_hooks.guard.lifecycle import remove_guard
    from netconf_hooks.guard.records import read_guard

    with store.lock_acting():
        # Look again, under the lock: since the first look an ifup may have installed the guard, set the link up, and
        # failed.  A new ifup waits for the lock.
        passes = _read_passes(store).get(device, [])
        if not _is_left_over(device, passes):
            return
        ifaces = [each.iface or device for each in passes]
        log.info(f"{device}: its ifdown did not finish: forgetting {', '.join(dict.fromkeys(ifaces))}")
        guarded = read_guard(store, device)
        if guarded:
            try:
                remove_guard(store, guarded)
            except GuardError as error:
                log.error(f"{device}: netconf-guard: {error}")
                return
        for iface in dict.fromkeys(ifaces):
            remember(store, Change(iface))


def _is_left_over(device: str, passes: list[Pass]) -> bool:
    """Whether a device is down, and ifupdown has finished with all interfaces on it."""
    names = [each.iface or device for each in passes]
    # Between two networks a roaming link is down for a moment, without any ifdown.
    if not all(has_ended(each.run) for each in passes) or any(map(has_wpa_action, names)) or _is_up(device):
        return False
    # Check the link once more: an ifup may have set it up and failed meanwhile, so that ifupdown has forgotten it.
    return not _is_configured(names) and not _is_up(device)


def _is_up(device: str) -> bool:
    links = netlink.read_links([device])
    return device in links and links[device].up


def _read_passes(store: Store) -> dict[str, list[Pass]]:
    """Return the passes on each device, from the records of its interfaces and of its guard."""
    passes: dict[str, list[Pass]] = {}
    for record in store.read_interfaces(log.error):
        if not record.wish:
            passes.setdefault(device_of(record.iface), []).extend(record.passes)
    for guarded in store.read_guards(log.error):
        passes.setdefault(guarded.device, []).extend(guarded.passes)
    return passes


def _is_configured(ifaces: list[str]) -> bool:
    """Whether ifupdown has any of these up, or is bringing it up; True if that is unknown."""
    from netconf_hooks.stanzas.interfaces import InterfacesError, list_configured

    try:
        return not list_configured().isdisjoint(ifaces)
    except InterfacesError:
        return True
