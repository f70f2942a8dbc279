"""Whether a link is wireless, and whether anyone can read along."""

from __future__ import annotations

import os

SYSFS = "/sys/class/net"


def is_wireless(device: str, sysfs: str = SYSFS) -> bool:
    """Whether `device` is a wireless link: it has a ``phy80211`` link in sysfs (net/wireless/core.c)."""
    return os.path.exists(f"{sysfs}/{device}/phy80211")


def is_wireless_open(device: str, sysfs: str = SYSFS) -> bool:
    """Whether `device` is a wireless link that may be without encryption.

    Which networks are encrypted is not asked yet (nl80211, a later version): until then every wireless link counts as
    open, since ``insecure`` brings tunnels up and its error must be on that side.
    """
    return is_wireless(device, sysfs)
