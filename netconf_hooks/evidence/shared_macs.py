"""MAC addresses that routers have in many networks, so that they identify none of them.

Each entry: the beginning of the address, what uses it, and the source of that.
"""

from __future__ import annotations

_SHARED = (
    ("00:00:5e:00:01:", "VRRP or CARP"),  # RFC 9568 7.3; carp(4) of OpenBSD
    ("00:00:5e:00:02:", "VRRP or CARP"),  # the same, IPv6
    ("00:00:0c:07:ac:", "HSRP"),  # RFC 2281 5.1
    ("00:00:0c:9f:f", "HSRP version 2"),  # Cisco IOS, First Hop Redundancy Protocols Configuration Guide
    ("00:05:73:a0:0", "HSRP version 2"),  # the same, IPv6
    ("00:07:b4:00:", "GLBP"),  # the same
    ("12:34:56:78:9a:bc", "Microsoft Azure"),  # Azure Virtual Network FAQ
    ("ee:ee:ee:ee:ee:ee", "Calico"),  # Calico FAQ: "Why do all cali* interfaces have this MAC address?"
    ("52:55:0a:00:02:02", "QEMU's user network"),  # libslirp, src/slirp.h: 52:55 and the router's address, 10.0.2.2
    ("52:54:00:12:35:", "VirtualBox's NAT"),  # VirtualBox, src/VBox/Devices/Network/DrvNAT.cpp
)


def find_user(mac: str) -> str:
    """Return what uses this MAC address in many networks (``VRRP or CARP``); empty if the address is not shared.

    mac: in lower case, with colons.
    """
    return next((user for begin, user in _SHARED if mac.startswith(begin)), "")
