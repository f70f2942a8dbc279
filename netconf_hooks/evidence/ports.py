"""Links made of other links: bridges, bonds, VLANs, macvlans.  They are on the network of the links below them.

For the kernel a bridge has carrier while any of its ports has it, even if that port is a virtual machine's.  Here a
bridge has carrier while a port that leads *outside* has it: a card, a bond, a VLAN.  A VLAN or macvlan has the carrier
of its parent.  A bond has the carrier that the kernel reports, and is wireless while its active port is.

``netconf-outside-ports`` says which ports lead outside.  Without this option there are two answers, so that each errs
on the safe side: for carrier, only ports that are known to lead outside count; for the guard, all ports that are not
known to be a guest's (`is_guest`).

The ports of a link are read from sysfs by one listdir(3), about 20 us; the kernel says by one request what each of them
is, about 100 us.  pyroute2 (0.7.2 to 0.8.1) takes 2.2 ms to dump all links, and its import takes 80 to 450 ms and 26
to 29 MB.  That is too much for the watcher, which does this on each event of the kernel.

Sources: sysfs-class-net and sysfs-class-net-bonding in the kernel's Documentation/ABI, net/bridge/br_sysfs_if.c.  This
module is used only for links whose kind is in `netlink.COMPOSED`: a card costs nothing.
"""

from __future__ import annotations

import os

from netconf_hooks.observation import Ports
from netconf_hooks.stanzas.ifenv import PARTS
from netconf_hooks.system.netlink import COMPOSED, LINKS, Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from netconf_hooks.system.netlink import LinkStatus

SYSFS = "/sys/class/net"

# Kinds of ports that lead outside, since their own ports or their parent do.
_OUTSIDE_KINDS = COMPOSED - {"bridge"}

# A VLAN of a bond of VLANs of ...: the kernel allows eight levels (MAX_NEST_DEV, linux/netdevice.h).
_DEEPEST = 8


def list_ports(bridge: str, sysfs: str = SYSFS) -> tuple[str, ...]:
    """Return the ports of a bridge, by name; none if there is no such bridge."""
    return _list(f"{sysfs}/{bridge}/brif")


def is_bridge(device: str, sysfs: str = SYSFS) -> bool:
    """Whether there is a device of this name that is a bridge."""
    return os.path.isdir(f"{sysfs}/{device}/bridge")


def list_bridges(sysfs: str = SYSFS) -> tuple[str, ...]:
    """Return the bridges of this machine, by name."""
    return tuple(device for device in _list(sysfs) if is_bridge(device, sysfs))


def list_underlying(device: str, sysfs: str = SYSFS) -> tuple[str, ...]:
    """Return the devices that a link is made of, directly or not: their events are events of the link.

    This includes the ports of a bridge's guests.  None for a card, or if there is no such device.
    """
    found: dict[str, None] = {}
    waiting = [device]
    while waiting:
        for name in _list_below(waiting.pop(), sysfs):
            if name not in found and name != device:
                found[name] = None
                waiting.append(name)
    return tuple(found)


def list_radios(device: str, sysfs: str = SYSFS) -> tuple[str, ...]:
    """Return the devices whose wireless network is that of a link: those that carry its traffic now.

    This is the device itself unless it is a bond, a VLAN or a macvlan.  A bond has one active port, or several if its
    mode uses all of them at a time.
    """
    return tuple(dict.fromkeys(_find_carrying(device, sysfs, _DEEPEST)))


def leads_outside(port: LinkStatus, patterns: Sequence[str] = (), sysfs: str = SYSFS) -> bool:
    """Whether a port of a bridge is known to lead outside.  patterns: ``netconf-outside-ports``."""
    if patterns:
        return _matches(port.name, patterns)
    if port.kind:
        return port.kind in _OUTSIDE_KINDS
    return _is_card(port.name, sysfs)


def is_guest(port: LinkStatus, patterns: Sequence[str] = (), sysfs: str = SYSFS) -> bool:
    """Whether a port of a bridge is known to be a guest's: a virtual machine's, or a container's.

    These are tap devices (kind ``tun``; libvirt calls them vnetN), Xen's back ends, and each veth whose other end is in
    another network namespace; one whose other end is here may lead into the next bridge.
    patterns: ``netconf-outside-ports``.  Ports that they don't name are guests', unless they are known to lead outside:
        otherwise a card that was added to the bridge, but not to the option, would bypass the guard.
    """
    if patterns:
        return not _matches(port.name, patterns) and not leads_outside(port, (), sysfs)
    if port.kind == "veth":
        return port.peer_elsewhere
    return port.kind == "tun" or not port.kind and _is_back_end(port.name, sysfs)


def list_guests(bridge: str, patterns: Sequence[str] = (), sysfs: str = SYSFS) -> dict[str, int]:
    """Return those ports of a bridge that are known to be guests', each with its index.  Raises `NetlinkError`."""
    with Netlink() as netlink:
        ports = [netlink.get_link(port) for port in list_ports(bridge, sysfs)]
    return {port.name: port.index for port in ports if port is not None and is_guest(port, patterns, sysfs)}


def find_isolation(device: str, patterns: Sequence[str] = (), sysfs: str = SYSFS) -> str:
    """If no port of a bridge is known to lead outside, return a message about it; else an empty string.

    patterns: ``netconf-outside-ports``.  Raises `NetlinkError`.
    """
    names = list_ports(device, sysfs)
    if not names:
        return ""
    with Netlink() as netlink:
        ports = [netlink.get_link(name) for name in names]
    if any(port is not None and leads_outside(port, patterns, sysfs) for port in ports):
        return ""
    return (
        f"none of the ports of {device} ({', '.join(names)}) is known to lead outside, so that it never has carrier: "
        "netconf-outside-ports names those that do"
    )


def list_named_ports(options: Mapping[str, str]) -> tuple[str, ...]:
    """Return the devices that a stanza names as its ports, whether they exist or not.

    options: by name.  Used are ``bridge-ports`` (bridge-utils-interfaces(5): names, ``all``, ``regex PATTERN`` and
        ``none``), ``bond-slaves`` and ``slaves`` (ifenslave); see `ifenv.PARTS`.
    """
    found: list[str] = []
    for option in PARTS:
        by_pattern = False
        for word in options.get(option, "").split():
            if word in ("regex", "noregex"):
                by_pattern = word == "regex"
            elif word == "all":
                found += (device for device in _list(SYSFS) if _is_card(device, SYSFS))
            elif by_pattern:
                found += _find_matching(word)
            elif word != "none":
                found.append(word)
    return tuple(dict.fromkeys(found))


def read_ports(device: str, options: Mapping[str, str], patterns: Sequence[str] = ()) -> Ports | None:
    """Return what a guard needs to know about the devices that a link is made of; None for a card.

    options: of its stanzas; patterns: ``netconf-outside-ports``.  Raises `NetlinkError`.
    """
    bridge = "bridge-ports" in options or is_bridge(device)
    named = list_named_ports(options)
    if not (bridge or named or os.path.isdir(f"{SYSFS}/{device}/bonding")):
        return None
    below = list_ports(device) if bridge else _list_below(device, SYSFS)
    guests = list_guests(device, patterns) if bridge else {}
    outside = tuple(port for port in dict.fromkeys((*named, *below)) if port not in guests)
    return Ports(bridge, outside, tuple(guests.values()), _list_others(device) if bridge else ())


def _list_others(bridge: str) -> tuple[int, ...]:
    """Return the indexes of the ports of all other bridges.  Raises `NetlinkError`."""
    names = [port for other in list_bridges() if other != bridge for port in list_ports(other)]
    if not names:
        return ()
    with Netlink() as netlink:
        links = [netlink.get_link(name) for name in names]
    return tuple(link.index for link in links if link is not None)


def has_carrier(
    link: LinkStatus, patterns: Sequence[str] = (), netlink: Netlink | None = None, sysfs: str = SYSFS
) -> bool:
    """Whether a link has carrier, by the links it is made of.  Raises `NetlinkError`.

    patterns: ``netconf-outside-ports``; netlink: a connection to use, if there is one.
    """
    if not link.carrier or link.kind not in COMPOSED:
        return link.carrier
    if netlink is None:
        with Netlink() as opened:
            return _has_carrier(opened, link, patterns, sysfs, _DEEPEST)
    return _has_carrier(netlink, link, patterns, sysfs, _DEEPEST)


def list_active(
    netlink: Netlink, link: LinkStatus, patterns: Sequence[str] = (), sysfs: str = SYSFS
) -> tuple[str, ...]:
    """Return the devices below a link that carry its traffic now, each as ``NAME/INDEX/LOSSES`` (as in `LinkStatus`).

    They change when the link moves.  For a bridge, these are the ports that lead outside and have carrier; for a bond,
    its active ports; for a VLAN or macvlan, its parent; and the devices below these.  Raises `NetlinkError`.
    """
    if link.kind not in COMPOSED:
        return ()
    found = _list_active(netlink, link, patterns, sysfs, _DEEPEST)
    return tuple(dict.fromkeys(f"{port.name}/{port.index}/{port.losses}" for port in found))


def wait_for_carrier(device: str, patterns: Sequence[str], deadline: float) -> None:
    """Wait until a link has carrier as `has_carrier` says, or time.monotonic() is `deadline`.

    Raises `NetlinkError`.
    """
    from time import monotonic

    with Netlink((LINKS,)) as news, Netlink() as netlink:
        while monotonic() < deadline:
            link = netlink.get_link(device)
            if link is None or has_carrier(link, patterns, netlink):
                return
            news.wait(deadline)


def _has_carrier(netlink: Netlink, link: LinkStatus, patterns: Sequence[str], sysfs: str, depth: int) -> bool:
    if not link.carrier or link.kind not in COMPOSED or link.kind in ("bond", "team"):
        return link.carrier
    if not depth:
        return False
    below = (netlink.get_link(name) for name in _list_below(link.name, sysfs))
    return any(
        _has_carrier(netlink, port, patterns, sysfs, depth - 1)
        for port in below
        if port is not None and (link.kind != "bridge" or leads_outside(port, patterns, sysfs))
    )


def _list_active(
    netlink: Netlink, link: LinkStatus, patterns: Sequence[str], sysfs: str, depth: int
) -> Iterator[LinkStatus]:
    if not depth or link.kind not in COMPOSED:
        return
    names = _list_active_ports(link.name, sysfs) if link.kind == "bond" else _list_below(link.name, sysfs)
    for port in map(netlink.get_link, names):
        if port is None or not _has_carrier(netlink, port, patterns, sysfs, depth - 1):
            continue
        if link.kind != "bridge" or leads_outside(port, patterns, sysfs):
            yield port
            yield from _list_active(netlink, port, patterns, sysfs, depth - 1)


def _find_carrying(device: str, sysfs: str, depth: int) -> Iterator[str]:
    below: tuple[str, ...] = ()
    if depth and not is_bridge(device, sysfs):
        below = _list_active_ports(device, sysfs) or _list_below(device, sysfs)
    if not below:
        yield device
    for name in below:
        yield from _find_carrying(name, sysfs, depth - 1)


def _list_active_ports(bond: str, sysfs: str) -> tuple[str, ...]:
    """Return the active port of a bond, or all if its mode uses all at a time; none if it is not a bond."""
    active = _read_words(f"{sysfs}/{bond}/bonding/active_slave")
    return active or _read_words(f"{sysfs}/{bond}/bonding/slaves")


def _list_below(device: str, sysfs: str) -> tuple[str, ...]:
    """Return the ports or the parent of a device."""
    return tuple(name.removeprefix("lower_") for name in _list(f"{sysfs}/{device}") if name.startswith("lower_"))


def _is_card(device: str, sysfs: str) -> bool:
    entries = f"{sysfs}/{device}"
    hardware = any(os.path.exists(f"{entries}/{name}") for name in ("device", "phy80211", "wireless"))
    return hardware and not _is_back_end(device, sysfs)


def _is_back_end(device: str, sysfs: str) -> bool:
    """Whether this is Xen's end of a guest's card (drivers/net/xen-netback)."""
    return os.path.basename(os.path.realpath(f"{sysfs}/{device}/device/subsystem")) == "xen-backend"


def _find_matching(pattern: str) -> list[str]:
    """Return the devices whose names match an extended regular expression, as bridge-utils does."""
    import re  # takes 5 ms, and is rarely needed

    try:
        matches = re.compile(pattern).fullmatch
    except re.error:
        return []
    return [device for device in _list(SYSFS) if matches(device)]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    if name in patterns:
        return True
    if not any(character in pattern for pattern in patterns for character in "*?["):
        return False
    from fnmatch import fnmatchcase  # imports re, which takes 5 ms, and is rarely needed

    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _list(directory: str) -> tuple[str, ...]:
    try:
        return tuple(sorted(os.listdir(directory)))
    except OSError:
        return ()


def _read_words(path: str) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return tuple(file.read().split())
    except OSError:
        return ()
