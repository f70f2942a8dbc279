"""What an ifdown leaves behind that was killed, or cut off by its deadline: whoever comes next takes it away."""

from __future__ import annotations

from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.ifenv import device_of, has_ended, has_wpa_action
from netconf_hooks.settle import forget_interface
from netconf_hooks.system import log
from netconf_hooks.system.netlink import read_links

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.state import Pass, Store


def clear_leftovers(store: Store) -> None:
    """Forget the interfaces, and take the guards away, of devices that are down and that ifupdown takes for down.

    An ifup that is still running may be about to set the link up.  So nothing is forgotten unless the ifup that each
    stanza came up with is known and has ended, which ifupdown-ng, ifupdown2 and hooks run by hand don't tell.

    Raises OSError, and `NetlinkError` where the kernel can't be asked.
    """
    devices = {device_of(record.iface) for record in store.read_interfaces(log.error) if not record.wish}
    devices.update(guard.device for guard in store.read_guards(log.error))
    for device in sorted(devices):
        if _is_left_over(store, device):
            _clear(store, device)


def _clear(store: Store, device: str) -> None:
    from netconf_hooks.guard.exemptions import read_guard
    from netconf_hooks.guard.lifecycle import remove_guard

    with store.lock_acting():
        # Since this was first looked at, an ifup may have closed the link, set it up and failed.  One that comes now
        # waits for the lock.
        if not _is_left_over(store, device):
            return
        ifaces = [each.iface or device for each in _list_passes(store, device)]
        log.info(f"{device}: its ifdown was cut off: forgetting {', '.join(dict.fromkeys(ifaces))}")
        guard = read_guard(store, device)
        if guard:
            try:
                remove_guard(store, guard)
            except GuardError as error:
                log.error(f"{device}: netconf-guard: {error}")
                return
        for iface in dict.fromkeys(ifaces):
            forget_interface(store, iface)


def _is_left_over(store: Store, device: str) -> bool:
    """Whether a device is down, and ifupdown is done with all that has come up on it."""
    passes = _list_passes(store, device)
    names = [each.iface or device for each in passes]
    # Between two networks a roaming link is down for a moment, and ifupdown does not know it.
    if not all(has_ended(each.run) for each in passes) or any(map(has_wpa_action, names)) or _is_up(device):
        return False
    # The link once more: ifupdown forgets an interface when its ifup fails, which may have set it up.
    return not _is_configured(names) and not _is_up(device)


def _is_up(device: str) -> bool:
    links = read_links([device])
    return device in links and links[device].up


def _list_passes(store: Store, device: str) -> list[Pass]:
    """Return the passes on a device, in the records of its interfaces and of its guard."""
    passes: list[Pass] = []
    for record in store.read_interfaces(log.error):
        if not record.wish and device_of(record.iface) == device:
            passes.extend(record.passes)
    for guard in store.read_guards(log.error):
        if guard.device == device:
            passes.extend(guard.passes)
    return passes


def _is_configured(ifaces: list[str]) -> bool:
    """Whether ifupdown takes any of these for up, or for coming up; so too where it does not tell."""
    from netconf_hooks.system.programs import ProgramError, run

    try:
        result = run(["ifquery", "--state"], timeout=10)
    except ProgramError:
        return True
    configured = {line.partition("=")[0] for line in result.output.splitlines()}
    return result.status != 0 or not configured.isdisjoint(ifaces)
