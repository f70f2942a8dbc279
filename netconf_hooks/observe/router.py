"""The default router of a link and its MAC address: the tests ``gateway`` and ``gateway-mac``."""

from __future__ import annotations

import time

from netconf_hooks.observe import Answer
from netconf_hooks.observe.netlink import AF_INET, AF_INET6, IFF_NOARP, NEIGHBOUR_PATIENCE, Netlink, NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from netconf_hooks.observe import Link


def observe(keys: Collection[str], link: Link, deadline: float) -> dict[str, Answer]:
    """Answer ``gateway`` and ``gateway-mac``: all default routers of the link, IPv4 and IPv6, and their MACs.

    deadline: time.monotonic() after which no router is waited for.  A router whose MAC is not known leaves
    ``gateway-mac`` pending, with the MACs of the others as its values.
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
    """Return whether the link has a default route, IPv4 or IPv6, be it without a router (ppp).

    Raises `NetlinkError` where the kernel can't be asked.
    """
    with Netlink() as netlink:
        return netlink.has_default_route(link.index)


def _find_routers(netlink: Netlink, link: Link) -> Answer:
    routes = [netlink.get_default_route(link.index, family) for family in (AF_INET, AF_INET6)]
    if not any(routes):
        return Answer(problem="no default router")
    routers = tuple(dict.fromkeys(router for route in routes if route for router in route.routers))
    return Answer(routers, problem="" if routers else "the default route has no router")


def _find_macs(netlink: Netlink, link: Link, gateway: Answer, deadline: float) -> Answer:
    routers = gateway.values
    if not routers:
        return Answer(problem=gateway.problem)
    found = netlink.get_known_neighbours(link.index, routers)
    silence = ""
    pending = False
    if len(found) < len(routers):
        status = netlink.get_link(link.index)
        if status is not None and status.flags & IFF_NOARP:
            # tun, ppp: the kernel keeps no entry by the router's address.
            silence = "has no MAC address"
        elif status is None or not status.carrier:
            # Nobody can answer, though a static link's routes are there all the same: don't keep ifup waiting.
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
