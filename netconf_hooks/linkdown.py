"""``netconf-linkdown-routes``: makes the kernel ignore the routes of a link without carrier, while its interface is up.

If a cable is pulled, the kernel marks the routes over it as ``linkdown``, but keeps using them.  So packets don't leave
by another interface with a higher metric (net.ipv4.conf.DEV.ignore_routes_with_linkdown, the kernel's
Documentation/networking/ip-sysctl.rst).  The old value is recorded before it is changed, and restored when no interface
with rules is left on the device.
"""

from __future__ import annotations

from netconf_hooks.passes import has_rules
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.state import LinkdownRecord, RecordError
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from netconf_hooks.state import InterfaceRecord, Store

SYSCTLS = "/proc/sys/net"
DEVICES = "/sys/class/net"

FAMILIES = ("ipv4", "ipv6")


def set_routes(store: Store, records: Iterable[InterfaceRecord]) -> None:
    """Make the kernel ignore the dead routes of devices whose rules say so; restore the old values of the others.

    records: of all interfaces, with or without carrier.  The caller holds the records' lock.  Each error is logged
    once.  Raises OSError if the old values can't be recorded.
    """
    before = _read(store)
    after: dict[str, LinkdownRecord] = {}
    new = []
    for device in _list_devices(records):
        index = _read_value(f"{DEVICES}/{device}/ifindex")
        if device in before and before[device].index == index:
            after[device] = before[device]
        elif index:
            after[device] = LinkdownRecord(device, index, tuple(_read_value(_name(device, each)) for each in FAMILIES))
            new.append(device)
    # Record the old values before they are changed, and forget them after they are restored.
    if new:
        store.write_linkdown({**before, **after})
    for device, record in after.items():
        for family, found in zip(FAMILIES, record.found):
            if found:
                _set_value(device, family, "1", device in new)
    for device, record in before.items():
        if device not in after and _read_value(f"{DEVICES}/{device}/ifindex") == record.index:
            for family, found in zip(FAMILIES, record.found):
                if found:
                    _set_value(device, family, found, True)
    if after != {**before, **after}:
        store.write_linkdown(after)


def _read(store: Store) -> dict[str, LinkdownRecord]:
    try:
        return store.read_linkdown()
    except RecordError as error:
        log.error(f"{error}: the old values of net.*.conf.*.ignore_routes_with_linkdown can't be restored")
        return {}


def _list_devices(records: Iterable[InterfaceRecord]) -> list[str]:
    """Return the devices whose dead routes should be ignored: those without an interface that says ``keep``."""
    found: dict[str, set[str]] = {}
    for record in records:
        if not record.wish and has_rules(record.passes):
            found.setdefault(device_of(record.iface), set()).add(record.rules.linkdown_routes)
    return [device for device, words in found.items() if "keep" not in words]


def _name(device: str, family: str) -> str:
    return f"{SYSCTLS}/{family}/conf/{device}/ignore_routes_with_linkdown"


def _read_value(path: str) -> str:
    """Return the number in a file; empty if there is no such file (no IPv6, or the device is gone)."""
    try:
        with open(path, "rb") as file:
            value = file.read(32).strip()
    except OSError:
        return ""
    return value.decode("ascii") if value.isdigit() else ""


def _set_value(device: str, family: str, value: str, tell: bool) -> None:
    """Write a value, unless the file already has it.  tell: whether to log errors."""
    path = _name(device, family)
    if _read_value(path) == value:
        return
    try:
        with open(path, "wb") as file:
            file.write(value.encode("ascii"))
    except OSError as error:
        if tell:
            log.info(f"{device}: netconf-linkdown-routes: {path}: {error.strerror}")
