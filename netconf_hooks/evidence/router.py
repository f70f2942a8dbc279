"""The default router of a link and its MAC address: the tests ``gateway`` and ``gateway-mac``.

The routers of a link are those of its default route.  If it has no IPv4 default route of its own, the routers in its
DHCP lease count, as far as they are *on the link*: inside a prefix of its own addresses, or with a route of their own
through it, which dhclient-script adds if the lease has the mask 255.255.255.255.  The reason: dhclient-script(8) adds
the default route of a second interface without a metric (unless the stanza has one, interfaces(5)), which fails with
"File exists" while the first interface has its default route.  Then the second uplink has a lease and no default route.
Its network is recognised nevertheless: so a link at the office can still veto a tunnel that the link in the café wants.

Only dhclient leaves a link in this state and keeps a lease: dhcpcd always gives its routes a metric, and udhcpc keeps
no lease.  If a lease has option 121, a client takes its default route from that and ignores the routers (RFC 3442); a
server that sends the option names the same router in both, for clients that don't know the option.
"""

from __future__ import annotations

import _socket
import os
import time

from netconf_hooks.observation import Answer
from netconf_hooks.system.netlink import AF_INET, AF_INET6, IFF_NOARP, NEIGHBOUR_PATIENCE, Netlink, NetlinkError

# Seconds for which to wait until a router that the kernel knows confirms that it is still there.
CONFIRMATION = 1.0

# All links of this network namespace, by name.
SYSFS = "/sys/class/net"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from netconf_hooks.evidence import Link


def observe(keys: Collection[str], link: Link, deadline: float) -> dict[str, Answer]:
    """Answer ``gateway`` and ``gateway-mac``: all default routers of the link, IPv4 and IPv6, and their MACs.

    If the link has no IPv4 default route, the routers in its DHCP lease count.

    deadline: don't wait for a router after this time.monotonic().  If a router's MAC is not known, ``gateway-mac`` is
    pending, with the MACs of the other routers as its values.
    """
    if not link.index:
        return {key: Answer(problem="no such interface") for key in keys}
    answers: dict[str, Answer] = {}
    try:
        with Netlink() as netlink:
            gateway = _find_routers(netlink, link)
            answers["gateway"] = gateway
            if "gateway-mac" in keys:
                answers["gateway-mac"] = _find_macs(netlink, link, gateway, deadline)
    except NetlinkError as error:
        failed = Answer(pending=True, problem=f"the kernel's tables could not be read: {error}")
        return {key: answers.get(key, failed) for key in keys}
    return {key: answers[key] for key in keys}


def has_default_route(link: Link) -> bool:
    """Return whether the link has a default route, IPv4 or IPv6, with or without a router (ppp).

    A router that is only in its DHCP lease does not count: nothing is sent to the internet through this link.

    Raises `NetlinkError` if the kernel can't be asked.
    """
    with Netlink() as netlink:
        return netlink.has_default_route(link.index)


def has_advertising_router(link: Link) -> bool:
    """Return whether an IPv6 router of the link has advertised itself.  Raises `NetlinkError`."""
    with Netlink() as netlink:
        route = netlink.get_default_route(link.index, AF_INET6)
    return route is not None and route.advertised


def has_working_default_route() -> bool:
    """Return whether any link with carrier has a default route, IPv4 or IPv6: a way to the internet.

    Raises `NetlinkError` if the kernel can't be asked.
    """
    with Netlink() as netlink:
        for name in os.listdir(SYSFS):
            link = netlink.get_link(name)
            if link and link.carrier and name != "lo" and netlink.has_default_route(link.index):
                return True
    return False


def _find_routers(netlink: Netlink, link: Link) -> Answer:
    routes = [netlink.get_default_route(link.index, family) for family in (AF_INET, AF_INET6)]
    routers = [router for route in routes if route for router in route.routers]
    unreadable: tuple[str, ...] = ()
    if routes[0] is None:
        leased, unreadable = _find_leased_routers(netlink, link)
        routers = [*leased, *routers]
    if routers:
        return Answer(tuple(dict.fromkeys(routers)))
    problem = "the default route has no router" if any(routes) else "no default router"
    return Answer(problem="; ".join((problem, *unreadable)))


def _find_leased_routers(netlink: Netlink, link: Link) -> tuple[list[str], tuple[str, ...]]:
    """Return the routers on the link that are in its DHCP client's leases, and the lease files that can't be read."""
    from netconf_hooks.evidence import dhclient

    device = link.device
    held = dhclient.find_held_leases(device, lambda: _find_networks(device), dhclient.LEASES)
    leased = dict.fromkeys(router for each in held.leases for router in each.routers)
    networks = _find_networks(device) if leased else {}
    on_link = [
        router for router in leased
        if _is_on_link(router, networks) or router not in networks and netlink.is_on_link(link.index, router)
    ]  # fmt: skip
    return on_link, held.unreadable


def _find_networks(device: str) -> dict[str, str]:
    """Return the netmask of each IPv4 address of a device, by address."""
    import netifaces

    networks = {}
    for name in netifaces.interfaces():
        # As in `address`: the addresses of eth0:1 belong to eth0, too.
        if name != device and not name.startswith(f"{device}:"):
            continue
        try:
            entries = netifaces.ifaddresses(name).get(netifaces.AF_INET, ())
        except ValueError:
            # The device was removed meanwhile.
            continue
        networks.update({entry["addr"]: entry["netmask"] for entry in entries if {"addr", "netmask"} <= entry.keys()})
    return networks


def _is_on_link(router: str, networks: dict[str, str]) -> bool:
    """Return whether a router is another host on one of these networks, given as netmask by own address."""
    if router in networks:
        return False
    number = _read_number(router)
    return any((number ^ _read_number(own)) & _read_number(mask) == 0 for own, mask in networks.items())


def _read_number(address: str) -> int:
    return int.from_bytes(_socket.inet_pton(AF_INET, address), "big")


def _find_macs(netlink: Netlink, link: Link, gateway: Answer, deadline: float) -> Answer:
    routers = gateway.values
    if not routers:
        return Answer(problem=gateway.problem)
    found = netlink.get_known_neighbours(link.index, routers)
    silence = ""
    pending = False
    if found and link.composed and os.geteuid() == 0:
        # The kernel forgets the neighbours of a card that loses its carrier.  But it keeps the neighbours of a bridge
        # or a bond when the cable is moved or another port takes over.
        until = min(deadline, time.monotonic() + CONFIRMATION)
        found = netlink.confirm_neighbours(link.index, routers, until)
        pending = len(found) < len(routers)
        silence = f"did not answer {{question}} within {CONFIRMATION:g} s"
    elif len(found) < len(routers):
        status = netlink.get_link(link.index)
        if status is not None and status.flags & IFF_NOARP:
            # tun, ppp: the kernel keeps no entry by the router's address.
            silence = "has no MAC address"
        elif status is None or not status.carrier or link.composed and not link.carrier:
            # Without carrier nobody can answer, even if a static link has its routes: don't make ifup wait.
            silence = "can't be asked: no carrier"
        else:
            began = time.monotonic()
            patience = min(deadline - began, NEIGHBOUR_PATIENCE)
            found = netlink.resolve_neighbours(link.index, routers, deadline)
            pending = len(found) < len(routers)
            if patience <= 0:
                silence = "was not asked for its MAC address: no time left"
            elif time.monotonic() < began + patience:
                silence = "is not known yet, and asking takes root"
            else:
                silence = f"did not answer {{question}} within {patience:.1f} s"
    problems = []
    for router in routers:
        if router not in found:
            question = "neighbour discovery" if ":" in router else "ARP"
            problems.append(f"{router} {silence.format(question=question)}")
        elif not found[router].mac:
            problems.append(f"{router} has no MAC address")
    macs = dict.fromkeys(found[router].mac for router in routers if router in found and found[router].mac)
    return Answer(tuple(macs), pending, "; ".join(problems))
