"""A link's network as the kernel's own tables show it, to notice quickly that it has changed.

This sends nothing and reads no file, so the watcher can do it on each event of the kernel.
"""

from __future__ import annotations

from netconf_hooks.evidence.address import list_networks
from netconf_hooks.evidence.radios import is_wireless
from netconf_hooks.record import Record
from netconf_hooks.system.addresses import is_link_local
from netconf_hooks.system.netlink import AF_INET, AF_INET6, COMPOSED, Netlink, NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NO_ADDRESS = "-"
"""Used for a default router without address (ppp)."""

UNREADABLE = "can't be read"
"""Used for a wireless network that the kernel does not describe."""

_BETWEEN, _WITHIN = "\t", " "


class Fingerprint(Record):
    """The network of one link.

    index: the device's ifindex, 0 if there is none; carrier: whether it has carrier; networks: its own addresses, each
    ``ADDRESS/LENGTH``, without link-local ones; routers: its default routers, possibly `NO_ADDRESS`; macs: the known
    MAC addresses of these routers; wireless: name, access points and encryption of its wireless network; ports: for a
    link made of others, the ports that carry its traffic now (`ports.list_active`).
    losses: how often it has lost its carrier.  If the cable was moved faster than the kernel reports a loss, only this
    shows it: the event says that there is carrier (net/core/link_watch.c reports the state at that later moment).
    """

    __slots__ = ("index", "carrier", "networks", "routers", "macs", "wireless", "ports", "losses")

    def __init__(
        self,
        index: int = 0,
        carrier: bool = False,
        networks: tuple[str, ...] = (),
        routers: tuple[str, ...] = (),
        macs: dict[str, str] | None = None,
        wireless: tuple[str, ...] = (),
        ports: tuple[str, ...] = (),
        losses: int = 0,
    ) -> None:
        self.index = index
        self.carrier = carrier
        self.networks = networks
        self.routers = routers
        self.macs = macs or {}
        self.wireless = wireless
        self.ports = ports
        self.losses = losses

    def is_like(self, other: Fingerprint) -> bool:
        """Whether this is the same network.  A router whose MAC address is unknown now counts as the same."""
        return (
            (self.index, self.carrier, self.networks, self.routers, self.wireless, self.ports, self.losses)
            == (other.index, other.carrier, other.networks, other.routers, other.wireless, other.ports, other.losses)
            and all(other.macs.get(router, mac) == mac for router, mac in self.macs.items())
        )  # fmt: skip

    def is_left(self, now: Fingerprint) -> bool:
        """Whether `now` is certainly another network, or no network.

        It is the same network as long as one router and one address stay, even if others are added or removed.  But a
        port that has lost its carrier, even for a moment, may be on another network now.
        """
        if (self.index, True, self.wireless, self.losses) != (now.index, now.carrier, now.wireless, now.losses):
            return True
        if not set(self.ports) <= set(now.ports):
            return True
        for before, after in ((self.routers, now.routers), (self.networks, now.networks)):
            if before and not set(before) & set(after):
                return True
        return any(now.macs.get(router, mac) != mac for router, mac in self.macs.items())

    def has_blinked(self, now: Fingerprint) -> bool:
        """Whether `now` is the same link with carrier, but the link or one of its ports had lost it meanwhile."""
        before, after = ([port.rpartition("/")[0] for port in each.ports] for each in (self, now))
        same = now.carrier and (self.index, before) == (now.index, after)
        return same and (self.losses, self.ports) != (now.losses, now.ports)

    def complete(self, before: Fingerprint) -> Fingerprint:
        """Return the fingerprint, with the routers' MACs from `before` that the kernel has forgotten since."""
        known = {router: mac for router, mac in before.macs.items() if router in self.routers}
        macs = {**known, **self.macs}
        return Fingerprint(
            self.index, self.carrier, self.networks, self.routers, macs, self.wireless, self.ports, self.losses
        )

    def __str__(self) -> str:
        macs = _WITHIN.join(f"{router}={mac}" for router, mac in sorted(self.macs.items()))
        lists = (_WITHIN.join(self.networks), _WITHIN.join(self.routers), macs, _WITHIN.join(self.ports))
        return _BETWEEN.join((str(self.index), f"{int(self.carrier)}{_WITHIN}{self.losses}", *lists, *self.wireless))


def parse_fingerprint(text: str) -> Fingerprint:
    """Return the fingerprint that str() has written.  Raises ValueError."""
    index, carrier, networks, routers, macs, ports, *wireless = text.split(_BETWEEN)
    carrier, losses = carrier.split(_WITHIN)
    return Fingerprint(
        index=int(index),
        carrier=carrier == "1",
        networks=tuple(networks.split(_WITHIN)) if networks else (),
        routers=tuple(routers.split(_WITHIN)) if routers else (),
        macs=dict(pair.split("=", 1) for pair in macs.split(_WITHIN)) if macs else {},
        wireless=tuple(wireless),
        ports=tuple(ports.split(_WITHIN)) if ports else (),
        losses=int(losses),
    )


def read_fingerprint(device: str, netlink: Netlink | None = None, outside_ports: Sequence[str] = ()) -> Fingerprint:
    """Return the current fingerprint of a device's network.

    netlink: a socket to use, if there is one; outside_ports: the patterns of ``netconf-outside-ports`` for a bridge.
    Raises `NetlinkError`.
    """
    if netlink is None:
        with Netlink() as opened:
            return read_fingerprint(device, opened, outside_ports)
    link = netlink.get_link(device)
    if link is None:
        return Fingerprint()
    routes = [netlink.get_default_route(link.index, family) for family in (AF_INET, AF_INET6)]
    routers = sorted(router for route in routes if route for router in route.routers)
    known = netlink.get_known_neighbours(link.index, routers)
    macs = {router: neighbour.mac for router, neighbour in known.items() if neighbour.mac}
    # A default route without a router (ppp) counts, too.
    if any(route is not None and not route.routers for route in routes):
        routers.append(NO_ADDRESS)
    # The own link-local address is the same on every network, and appears some seconds after the others.
    own = [(address, length) for address, length in list_networks(device) if not is_link_local(address)]
    networks = sorted(f"{address}/{length}" for address, length in own)
    carrier = link.carrier
    ports: tuple[str, ...] = ()
    if link.kind in COMPOSED:
        from netconf_hooks.evidence.ports import has_carrier, list_active

        carrier = has_carrier(link, outside_ports, netlink)
        ports = list_active(netlink, link, outside_ports)
    wireless = _look_at_wireless(device)
    return Fingerprint(link.index, carrier, tuple(networks), tuple(routers), macs, wireless, ports, link.losses)


def _look_at_wireless(device: str) -> tuple[str, ...]:
    if not is_wireless(device):
        return ()
    from netconf_hooks.evidence.wireless import read_network  # only for a wireless link

    try:
        network = read_network(device)
    except NetlinkError:
        return (UNREADABLE,)
    if network is None:
        return ("none",)
    return (network.ssid, " ".join(network.bssids), "encrypted" if network.encrypted else "open")
