"""Which devices are wireless.  Every `ifup` asks this; `wireless` asks what their network is."""

from __future__ import annotations

import os

SYSFS = "/sys/class/net"


def is_wireless(device: str, sysfs: str = SYSFS) -> bool:
    """Whether `device` is a wireless link now: it has a radio, or is a bond, VLAN or macvlan whose traffic goes through
    one.
    """
    return bool(find_radios(device, sysfs))


def find_radios(device: str, sysfs: str = SYSFS) -> tuple[str, ...]:
    """Return the wireless devices that carry the traffic of `device` now: itself, or those that it is made of.

    Several if a bond uses more than one at a time; none if it is not a wireless link.
    """
    if has_radio(device, sysfs):
        return (device,)
    try:
        made_of_others = any(entry.startswith("lower_") for entry in os.listdir(f"{sysfs}/{device}"))
    except OSError:
        return ()
    if not made_of_others:
        return ()
    from netconf_hooks.evidence.ports import list_radios

    return tuple(radio for radio in list_radios(device, sysfs) if has_radio(radio, sysfs))


def has_nl80211(device: str, sysfs: str = SYSFS) -> bool:
    """Whether the driver of `device` has nl80211: then there is a ``phy80211`` link in sysfs (net/wireless/core.c).

    Staging drivers such as r8712u have only the older wireless extensions (net/core/net-sysfs.c); then the kernel
    reports neither the network nor its encryption.
    """
    return os.path.exists(f"{sysfs}/{device}/phy80211")


def has_radio(device: str, sysfs: str) -> bool:
    """Whether a device is a radio, whatever its driver."""
    return has_nl80211(device, sysfs) or os.path.exists(f"{sysfs}/{device}/wireless")
