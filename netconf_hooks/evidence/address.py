"""The addresses and names of an interface: the tests ``address`` and ``interface``."""

from __future__ import annotations

from netconf_hooks.observation import Answer
from netconf_hooks.system.netlink import Netlink, NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from netconf_hooks.evidence import Link


def observe(keys: Collection[str], link: Link, deadline: float) -> dict[str, Answer]:
    """Answer ``address``, IPv4 and IPv6 without scope, and ``interface``: the device and the name ifupdown uses.

    deadline: not used, since nothing here waits.
    """
    answers: dict[str, Answer] = {}
    if "interface" in keys:
        answers["interface"] = Answer(tuple(dict.fromkeys((link.device, link.iface))))
    if "address" in keys:
        try:
            addresses = list_addresses(link.device)
        except NetlinkError as error:
            answers["address"] = Answer(pending=True, problem=f"the kernel's tables could not be read: {error}")
        else:
            problem = "" if addresses else "no address" if link.index else "no such interface"
            answers["address"] = Answer(addresses, problem=problem)
    return answers


def list_addresses(device: str) -> tuple[str, ...]:
    """Return the addresses that `device` has now, as inet_ntop(3) writes them, without scope.

    Raises `NetlinkError` if the kernel can't be asked.
    """
    return tuple(dict.fromkeys(address for address, _ in list_networks(device)))


def list_networks(device: str) -> tuple[tuple[str, int], ...]:
    """Return the addresses that `device` has now, as `list_addresses` does, each with the length of its prefix.

    The addresses of eth0:1 belong to eth0, too: for the kernel that name is a label of the address (ip-address(8)).

    Don't use getifaddrs(3), nor netifaces, which uses it: it reads all links and addresses of the machine each time.
    """
    with Netlink() as netlink:
        link = netlink.get_link(device)
        found = netlink.list_addresses(link.index) if link else []
    return tuple(dict.fromkeys((own.address, own.length) for own in found))
