"""The addresses and names of an interface: the tests ``address`` and ``interface``."""

from __future__ import annotations

import _socket

from netconf_hooks.observe import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from netconf_hooks.observe import Link


def observe(keys: Collection[str], link: Link, deadline: float) -> dict[str, Answer]:
    """Answer ``address``, IPv4 and IPv6 without scope, and ``interface``: the device and the name ifupdown uses.

    deadline: not used, nothing is waited for.
    """
    answers: dict[str, Answer] = {}
    if "interface" in keys:
        answers["interface"] = Answer(tuple(dict.fromkeys((link.device, link.iface))))
    if "address" in keys:
        addresses = list_addresses(link.device)
        problem = "" if addresses else "no address" if link.index else "no such interface"
        answers["address"] = Answer(addresses, problem=problem)
    return answers


def list_addresses(device: str) -> tuple[str, ...]:
    """Return the addresses that `device` has now, as inet_ntop(3) writes them, without scope."""
    import netifaces

    # getifaddrs(3) names an IPv4 address by its label, and ifupdown labels those of eth0:1 so: they are eth0's too.
    names = [name for name in netifaces.interfaces() if name == device or name.startswith(f"{device}:")]
    addresses: dict[str, None] = {}
    for name in names:
        try:
            entries = netifaces.ifaddresses(name)
        except ValueError:
            # It went away in between.
            continue
        for family in (netifaces.AF_INET, netifaces.AF_INET6):
            for entry in entries.get(family, ()):
                text = entry.get("addr", "").partition("%")[0]
                if text:
                    addresses[_socket.inet_ntop(family, _socket.inet_pton(family, text))] = None
    return tuple(addresses)


def list_networks(device: str) -> tuple[tuple[str, int], ...]:
    """Return the addresses that `device` has now, as `list_addresses` does, each with the length of its prefix.

    Without an address whose netmask is none (holes, or not told).
    """
    import netifaces

    found: dict[tuple[str, int], None] = {}
    for name in netifaces.interfaces():
        if name != device and not name.startswith(f"{device}:"):
            continue
        try:
            entries = netifaces.ifaddresses(name)
        except ValueError:
            continue  # it went away in between
        for family, bits in ((netifaces.AF_INET, 32), (netifaces.AF_INET6, 128)):
            for entry in entries.get(family, ()):
                # netifaces writes IPv6 masks as "ffff:ffff:ffff:ffff::/64".
                address, mask = entry.get("addr", "").partition("%")[0], entry.get("netmask", "").partition("/")[0]
                if not address or not mask:
                    continue
                hosts = ~int.from_bytes(_socket.inet_pton(family, mask), "big") & (1 << bits) - 1
                if not hosts & hosts + 1:
                    text = _socket.inet_ntop(family, _socket.inet_pton(family, address))
                    found[text, bits - hosts.bit_length()] = None
    return tuple(found)
