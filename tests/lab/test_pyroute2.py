"""What our netlink client reads of links, addresses, routes and neighbours is what pyroute2 reads of them.

pyroute2 knows nothing of ours: it dumps whole tables and parses them by itself.
"""

from __future__ import annotations

import json

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE
from .waiting import wait_until

# Both readers print, for each link, the same things.
READERS = """
import json, socket
from pyroute2 import IPRoute
from netconf_hooks.system.netlink import Netlink

NUD_NOARP = 0x40  # multicast groups and the like: for us these have no MAC
FAMILIES = (socket.AF_INET, socket.AF_INET6)


def read_by_pyroute2(ipr):
    found = {}
    for link in ipr.get_links():
        index, info = link["index"], link.get_attr("IFLA_LINKINFO")
        default = {}
        for family in FAMILIES:
            routes = [
                route for route in ipr.get_routes(family=family, table=254)
                if not route["dst_len"] and route.get_attr("RTA_OIF") == index and route["type"] == 1
            ]
            best = min((route.get_attr("RTA_PRIORITY") or 0 for route in routes), default=0)
            default[str(family)] = sorted(
                route.get_attr("RTA_GATEWAY") for route in routes
                if (route.get_attr("RTA_PRIORITY") or 0) == best and route.get_attr("RTA_GATEWAY")
            )
        found[link.get_attr("IFLA_IFNAME")] = {
            "index": index, "flags": link["flags"], "mac": link.get_attr("IFLA_ADDRESS") or "",
            "mtu": link.get_attr("IFLA_MTU"), "kind": info.get_attr("IFLA_INFO_KIND") if info else "",
            "elsewhere": link.get_attr("IFLA_LINK_NETNSID") is not None,
            "addresses": sorted(
                f"{each.get_attr('IFA_LOCAL') or each.get_attr('IFA_ADDRESS')}/{each['prefixlen']}"
                for each in ipr.get_addr(index=index)
            ),
            "default": default,
            "neighbours": {
                each.get_attr("NDA_DST"): [each["state"], each.get_attr("NDA_LLADDR") or ""]
                for family in FAMILIES for each in ipr.get_neighbours(family=family)
                if each["ifindex"] == index and not each["state"] & NUD_NOARP
            },
        }
    return found


def read_by_ours(netlink, names, neighbours):
    found = {}
    for name in names:
        link = netlink.get_link(name)
        routes = {family: netlink.get_default_route(link.index, family) for family in FAMILIES}
        asked = {address: netlink.get_neighbour(link.index, address) for address in neighbours[name]}
        found[name] = {
            "index": link.index, "flags": link.flags, "mac": link.address, "mtu": link.mtu, "kind": link.kind,
            "elsewhere": link.peer_elsewhere,
            "addresses": sorted(f"{each.address}/{each.length}" for each in netlink.list_addresses(link.index)),
            "default": {str(family): sorted(route.routers) if route else [] for family, route in routes.items()},
            "neighbours": {address: [each.state, each.mac] for address, each in asked.items()},
        }
    return found


with IPRoute() as ipr, Netlink() as netlink:
    before = read_by_pyroute2(ipr)
    ours = read_by_ours(netlink, list(before), {name: list(each["neighbours"]) for name, each in before.items()})
    print(json.dumps([before, ours, read_by_pyroute2(ipr)]))
"""


@pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
def test_both_read_the_same(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", "auto lo\niface lo inet loopback\niface eth0 inet dhcp\n")
    laptop.ifup("lo")
    lab.plug(CAFE.name)
    laptop.ifup("eth0")
    for line in (
        "link add br7 type bridge", "link add veth7 mtu 1400 type veth peer name veth8", "link set veth7 up",
        "link set veth8 up", "link add macvlan7 link eth0 type macvlan", "address add 192.0.2.7/31 dev veth7",
        "address add 2001:db8::7/127 dev veth7 nodad", "route add default via 192.0.2.6 metric 7 dev veth7",
        "neighbour replace 192.0.2.6 lladdr 02:00:00:00:00:07 dev veth7 nud permanent",
        "tuntap add tun7 mode tun", "link set tun7 up", "route add default dev tun7 metric 9",
    ):  # fmt: skip
        laptop.run(["ip", *line.split()])
    laptop.pings(CAFE.router)

    def read() -> list[dict[str, dict[str, object]]]:
        """Return what both have read, as long as nothing changes meanwhile."""
        before, ours, after = json.loads(laptop.run(["/usr/bin/python3", "-c", READERS]).stdout)
        return [before, ours] if before == after else []

    theirs, ours = wait_until(read, "the links to rest", 30)
    assert {"lo", "eth0", "br7", "veth7", "macvlan7", "tun7"} <= set(ours)
    assert CAFE.router in theirs["eth0"]["neighbours"]  # type: ignore[operator]
    assert theirs["veth7"]["default"] == {"2": ["192.0.2.6"], "10": []}
    assert ours == theirs
