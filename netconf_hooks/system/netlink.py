"""The kernel's own tables, read by rtnetlink(7): links, addresses, default routes, neighbours.

Every ``ifup`` finds its router here.  The kernel answers a request in microseconds, and with these requests the time
does not depend on the number of routes.  pyroute2 also does this, but takes 150 ms to import and reads whole tables
(docs/performance.md).

Numbers and layouts are those of linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h,
linux/neighbour.h and linux/nexthop.h.  All of them are a stable kernel interface.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import sys
import time

from netconf_hooks.record import Record
from netconf_hooks.system.addresses import pack_address
from netconf_hooks.system.devices import LONGEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Self

    Message = tuple[int, bytes]
    _Instruction = tuple[int, int, int, int]

AF_INET = int(_socket.AF_INET)
AF_INET6 = int(_socket.AF_INET6)

# netlink(7): routes, links and neighbours; generic netlink.
NETLINK_ROUTE, NETLINK_GENERIC = 0, 16

# Multicast groups (enum rtnetlink_groups).
LINKS = 1
NEIGHBOURS = 3

# Seconds to wait at most for a MAC address.  A router on the link answers within milliseconds; the kernel itself gives
# up after 3 s (three attempts, one per second: ucast_solicit, mcast_solicit and retrans_time_ms, arp(7)).
NEIGHBOUR_PATIENCE = 1.5
# The kernel answers before sendto() returns, so these waits only matter if something is badly wrong: seconds until the
# next answer, and until the last one of a table.
ANSWER_PATIENCE = 1.0
TABLE_PATIENCE = 5.0

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWNEXTHOP, RTM_GETNEXTHOP = 104, 106

NLMSG_ERROR, NLMSG_DONE, NLMSG_MIN_TYPE = 2, 3, 16
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP, NLM_F_CREATE = 0x1, 0x4, 0x10, 0x300, 0x400

IFF_UP, IFF_NOARP, IFF_LOWER_UP = 0x1, 0x80, 0x10000
NUD_INCOMPLETE, NUD_REACHABLE, NUD_PROBE, NUD_NOARP = 0x01, 0x02, 0x10, 0x40
_NUD_PERMANENT = 0x80
# NUD_VALID of net/neighbour.h: REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT.
NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | NUD_NOARP | 0x80

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NETLINK_GET_STRICT_CHK = 270, 1, 12
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 1, 3, 4, 18, 29, 37
_IFLA_CARRIER_DOWN_COUNT = 48
_IFLA_INFO_KIND = 1
_RTEXT_FILTER_SKIP_STATS = 8
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH = 1, 4, 5, 6, 9
_RTA_CACHEINFO, _RTA_TABLE, _RTA_VIA, _RTA_NH_ID = 12, 15, 18, 30
# Answer with the route as it is in its table, and with the number of this table (IPv6 always does; IPv4 only on
# request).
_RTM_F_LOOKUP_TABLE, _RTM_F_FIB_MATCH = 0x1000, 0x2000
_RTN_UNICAST, _RTN_LOCAL, _RTPROT_RA, _RT_TABLE_MAIN = 1, 2, 9, 254
_RTNH_F_DEAD = 1
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_NTF_USE = 1
_NHA_ID, _NHA_GROUP, _NHA_OIF, _NHA_GATEWAY = 1, 2, 5, 6

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_unpack_attribute = _ATTRIBUTE.unpack_from
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, prefixlen, flags, scope, index
_ROUTE = struct.Struct("=8BI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NEXTHOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, index
_NEXTHOP_OBJECT = struct.Struct("=BBBxI")  # nhmsg: family, scope, protocol, flags
_NEXTHOP_GROUP = struct.Struct("=IBBH")  # nexthop_grp: id, weight, weight_high, reserved
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type
_INT = struct.Struct("=i")
_U32 = struct.Struct("=I")
_U16 = struct.Struct("=H")

# The kinds of links that are made of other links: see `evidence.ports`.
COMPOSED = frozenset(("bridge", "bond", "team", "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"))

# To find the default route, the kernel is asked for the route to these addresses; the second one is in the other half
# of the address space.  Nothing is sent to them.  The first one of each family never belongs to a host (the dummy
# address of RFC 7600, documentation of RFC 3849), so it hardly ever has a route of its own; the lower half of IPv4 has
# no such address.
_ANYWHERE = {AF_INET: ("192.0.0.8", "7.7.7.7"), AF_INET6: ("2001:db8:ffff::1", "a000::1")}

# asm-generic/socket.h; the second may exceed net.core.rmem_max.
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_NEWS_BUFFER = 2**20
_BPF = struct.Struct("=HBBI")  # sock_filter: code, jt, jf, k
_LONGEST_FILTER = 4096  # instructions: BPF_MAXINSNS, linux/bpf_common.h

# The kernel's datagrams are never larger: dumps are split at 32 KiB (net/netlink/af_netlink.c, netlink_dump).
_DATAGRAM = 65536


class NetlinkError(Exception):
    """The kernel refused a request, or its answer is missing or can't be read.

    code: the errno(3) of a refusal, ETIMEDOUT if no answer came, EBADMSG if it could not be read.
    """

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.text or os.strerror(self.code)


class LinkStatus(Record):
    """The current state of a network device.

    index: its ifindex; name; flags: IFF_*, netdevice(7); up: whether it is set up; carrier: whether it is set up and
    something is plugged in (IFF_LOWER_UP); address: its own MAC in lower case, empty if it has none.
    kind: the driver's name of a virtual device, as ip-link(8) shows it after ``type``: ``bridge``, ``tun``; empty for a
    card; peer_elsewhere: whether the device that it is linked to (the other end of a veth) is in another network
    namespace.
    mtu: the largest packet that it takes, in bytes; 0 if the kernel does not say.
    losses: how often it has lost its carrier since it was created.
    """

    __slots__ = ("index", "name", "flags", "up", "carrier", "address", "kind", "peer_elsewhere", "mtu", "losses")

    def __init__(
        self,
        index: int,
        name: str,
        flags: int,
        up: bool,
        carrier: bool,
        address: str,
        kind: str = "",
        peer_elsewhere: bool = False,
        mtu: int = 0,
        losses: int = 0,
    ) -> None:
        self.index = index
        self.name = name
        self.flags = flags
        self.up = up
        self.carrier = carrier
        self.address = address
        self.kind = kind
        self.peer_elsewhere = peer_elsewhere
        self.mtu = mtu
        self.losses = losses


class OwnAddress(Record):
    """An address of a device.

    index: of the device; address: as inet_ntop(3) writes it, without scope; length: of its prefix.
    """

    __slots__ = ("index", "address", "length")

    def __init__(self, index: int, address: str, length: int) -> None:
        self.index = index
        self.address = address
        self.length = length


class DefaultRoute(Record):
    """A link's default route.

    routers: their addresses; none if it has no gateway (ppp, tun).
    advertised: whether the routers advertise themselves (RFC 4861).
    """

    __slots__ = ("routers", "advertised")

    def __init__(self, routers: tuple[str, ...], advertised: bool = False) -> None:
        self.routers = routers
        self.advertised = advertised


class Neighbour(Record):
    """A neighbour's entry in the kernel's ARP or NDP table.

    index, address: of the neighbour; state: NUD_*, linux/neighbour.h; mac: in lower case, empty while it is not known
    or if the device has no MACs.
    """

    __slots__ = ("index", "address", "state", "mac")

    def __init__(self, index: int, address: str, state: int, mac: str) -> None:
        self.index = index
        self.address = address
        self.state = state
        self.mac = mac

    def is_known(self) -> bool:
        """Whether the kernel would send to it without asking first.

        A stale entry counts: the kernel forgets all neighbours of a link that goes down or loses its carrier
        (neigh_ifdown, neigh_carrier_down in net/core/neighbour.c), so the entry is from the link's present network.
        There is one exception: the network may have changed behind a switch that kept the carrier up; then the entry
        is wrong until the kernel asks again.
        """
        return bool(self.state & NUD_VALID)


class _Nexthop(Record):
    """One way of a route: the device's index and the router's address, empty if there is none."""

    __slots__ = ("index", "router")

    def __init__(self, index: int, router: str) -> None:
        self.index = index
        self.router = router


class _Route(Record):
    """A unicast route.  nexthop_id: the nexthop object (ip-nexthop(8)) that defines its ways; else 0."""

    __slots__ = ("family", "dst_len", "src_len", "tos", "table", "protocol", "metric", "nexthops", "nexthop_id")

    def __init__(
        self,
        family: int,
        dst_len: int,
        src_len: int,
        tos: int,
        table: int,
        protocol: int,
        metric: int,
        nexthops: tuple[_Nexthop, ...],
        nexthop_id: int,
    ) -> None:
        self.family = family
        self.dst_len = dst_len
        self.src_len = src_len
        self.tos = tos
        self.table = table
        self.protocol = protocol
        self.metric = metric
        self.nexthops = nexthops
        self.nexthop_id = nexthop_id

    def is_plain(self) -> bool:
        """Whether it is a default route of the main table, for all packets."""
        return not self.dst_len and not self.src_len and not self.tos and self.table == _RT_TABLE_MAIN


def read_link(device: str) -> LinkStatus | None:
    """Return the state of `device`, None if it does not exist.  Raises `NetlinkError`."""
    with Netlink() as netlink:
        return netlink.get_link(device)


def read_links(devices: Iterable[str]) -> dict[str, LinkStatus]:
    """Return the state of those of `devices` that exist, by name.  Raises `NetlinkError`."""
    with Netlink() as netlink:
        found = ((device, netlink.get_link(device)) for device in devices)
        return {device: status for device, status in found if status is not None}


class Netlink:
    """A netlink socket (context manager).

    It either sends requests or, with multicast `groups`, listens for events: so an answer can't be mistaken for an
    event.  Every method raises only `NetlinkError`.

    protocol: ``NETLINK_ROUTE``, or ``NETLINK_GENERIC``, with which only `ask` can be used.
    """

    def __init__(self, groups: Iterable[int] = (), protocol: int = NETLINK_ROUTE) -> None:
        self._sequence = 0
        try:
            self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, protocol)
        except OSError as error:
            raise _as_netlink_error(error) from None
        try:
            self._socket.bind((0, 0))
            self._port = self._socket.getsockname()[0]
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
            # Without this option the kernel ignores the filters of a dump and sends whole tables.
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        except OSError as error:
            self._socket.close()
            raise _as_netlink_error(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._socket.fileno()

    def get_link(self, device: str | int) -> LinkStatus | None:
        """Return the state of the device of this name or index, None if there is none."""
        index, attributes = 0, pack_attribute(_IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS))
        if isinstance(device, int):
            if not 0 < device < 1 << 31:
                return None
            index = device
        else:
            name = os.fsencode(device)
            # The kernel would ignore everything after a NUL.
            if not 0 < len(name) <= LONGEST or b"\0" in name:
                return None
            attributes += pack_attribute(_IFLA_IFNAME, name + b"\0")
        try:
            answers = self.ask(RTM_GETLINK, 0, _LINK.pack(0, 0, index, 0, 0) + attributes)
        except NetlinkError as error:
            if error.code in (errno.ENODEV, errno.EINVAL):
                return None
            raise
        for kind, body in answers:
            if kind == RTM_NEWLINK:
                return parse_link(body)
        return None

    def wait_for_carrier(self, device: str | int, deadline: float) -> LinkStatus | None:
        """Wait until `device` has carrier or time.monotonic() is `deadline`; return its state as `get_link` does.

        The device need not exist yet.
        """
        with Netlink((LINKS,)) as listener:
            while True:
                status = self.get_link(device)
                if status is not None and status.carrier or time.monotonic() >= deadline:
                    return status
                listener.wait(deadline)

    def list_addresses(self, index: int) -> list[OwnAddress]:
        """Return the addresses of the device of this index, IPv4 before IPv6; none if there is no such device.

        The kernel selects them: it sends nothing about other devices, however many there are.
        """
        found = []
        for family in (AF_INET, AF_INET6):
            try:
                answers = self.ask(RTM_GETADDR, NLM_F_DUMP, _ADDRESS.pack(family, 0, 0, 0, index))
            except NetlinkError as error:
                # EOPNOTSUPP: a kernel without IPv6.
                if error.code in (errno.ENODEV, errno.EOPNOTSUPP):
                    continue
                raise
            for kind, body in answers:
                # Check the family, too: a kernel without IPv6 may answer with the addresses of other families
                # (rtnl_dump_all).
                if kind == RTM_NEWADDR and body[:1] == bytes((family,)):
                    own = parse_address(body)
                    if own.index == index:
                        found.append(own)
        return found

    def is_own(self, address: str) -> bool:
        """Return whether `address` (IPv4 or IPv6, without scope) is this machine's own: the kernel delivers it here.

        Raises `ValueError` if it is not an address.
        """
        family, packed = _pack_address(address)
        body = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + pack_attribute(_RTA_DST, packed)
        try:
            answers = self.ask(RTM_GETROUTE, 0, body)
        except NetlinkError as error:
            if error.code in (errno.ETIMEDOUT, errno.EBADMSG):
                raise
            return False  # no route leads there
        return any(kind == RTM_NEWROUTE and _unpack(_ROUTE, answer)[7] == _RTN_LOCAL for kind, answer in answers)

    def has_default_route(self, index: int) -> bool:
        """Return whether the link of this index has a default route, with or without a router, IPv4 or IPv6."""
        return any(self.get_default_route(index, family) is not None for family in (AF_INET, AF_INET6))

    def get_default_route(self, index: int, family: int) -> DefaultRoute | None:
        """Return the default route of the link of this index, None if it has none.

        This is the one in the main table with the lowest metric *on this link*; routes of other links don't matter.  If
        the main table has none, it is one of another table, which set-ups with several uplinks or VRFs use.

        The kernel is asked which route it would use on this link; this look-up takes the same time in a table of any
        size.  If it finds a more specific route (0.0.0.0/1 of a VPN or of DHCP option 121), the table of a policy rule,
        or nothing at all, the routes of this link are read: the kernel selects them, but searches the whole table.
        """
        if index <= 0:
            return None
        for destination in _ANYWHERE[family]:
            route = self._match_route(index, family, destination)
            if route is None or not route.is_plain():
                continue
            if route.protocol == _RTPROT_RA:
                # If several routers advertise themselves (RFC 4861), there are several routes with one metric, and the
                # kernel alternates between them, so all must be read.  Hosts with such routes have small tables.
                break
            nexthops = self._find_nexthops(route, index)
            if nexthops:
                return _make_default_route(nexthops)
        return self._read_default_route(index, family)

    def is_on_link(self, index: int, address: str) -> bool:
        """Whether a route other than a default route leads to an IPv4 address through this link, without a router."""
        route = self._match_route(index, AF_INET, address)
        if route is None or not route.dst_len:
            return False
        return any(not way.router for way in self._find_nexthops(route, index))

    def waits_for_neighbour(self, index: int, address: str) -> bool:
        """Whether packets to an address through this link wait for the MAC address of their first hop, or were dropped
        because it did not answer."""
        route = self._match_route(index, AF_INET6 if ":" in address else AF_INET, address)
        ways = [way.router for way in self._find_nexthops(route, index)] if route else []
        hops = [self.get_neighbour(index, router or address) for router in ways or [address]]
        return any(hop is not None and not hop.is_known() for hop in hops)

    def get_neighbour(self, index: int, address: str) -> Neighbour | None:
        """Return the kernel's entry of the neighbour with this IP address on a link; None if there is none.

        Raises ValueError if `address` is not an address.
        """
        family, packed = _pack_address(address)
        body = _NEIGHBOUR.pack(family, index, 0, 0, 0) + pack_attribute(_NDA_DST, packed)
        try:
            answers = self.ask(RTM_GETNEIGH, 0, body)
        except NetlinkError as error:
            # EOPNOTSUPP: a kernel without IPv6.
            if error.code in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                return None
            raise
        for kind, answer in answers:
            if kind == RTM_NEWNEIGH:
                return parse_neighbour(answer)
        return None

    def get_known_neighbours(self, index: int, addresses: Iterable[str]) -> dict[str, Neighbour]:
        """Return those neighbours of a link that are known (`Neighbour.is_known`), by address."""
        found = ((address, self.get_neighbour(index, address)) for address in addresses)
        return {address: neighbour for address, neighbour in found if neighbour is not None and neighbour.is_known()}

    def resolve_neighbours(self, index: int, addresses: Iterable[str], deadline: float) -> dict[str, Neighbour]:
        """Return those neighbours of a link that are known, or that answer ARP or NDP, by address.

        The kernel is told to ask for all unknown ones at the same time (NTF_USE, which requires CAP_NET_ADMIN: without
        it, only known ones are returned).  Waits until all are known, at most until time.monotonic() is `deadline` and
        at most `NEIGHBOUR_PATIENCE`.  While the link's own IPv6 address is still tentative (RFC 4862), the kernel sends
        nothing, and an answer takes 2 s.
        """
        wanted = tuple(addresses)
        found = self.get_known_neighbours(index, wanted)
        until = min(deadline, time.monotonic() + NEIGHBOUR_PATIENCE)
        if len(found) == len(wanted) or time.monotonic() >= until:
            return found
        # Listen first, then ask, then read: if a neighbour becomes known in between, there is no further event.
        with Netlink((NEIGHBOURS,)) as listener:
            for address in wanted:
                if address not in found and not self.use_neighbour(index, address):
                    return found
            found = self.get_known_neighbours(index, wanted)
            while len(found) < len(wanted) and time.monotonic() < until:
                news = listener.wait(until)
                if not news or any(_is_about(body, index, wanted) for _, body in news):
                    found = self.get_known_neighbours(index, wanted)
        return found

    def confirm_neighbours(self, index: int, addresses: Iterable[str], deadline: float) -> dict[str, Neighbour]:
        """Return those neighbours of a link that answer now, by address: they are asked even if the kernel knows them.

        The kernel trusts an entry for up to half a minute without asking (neigh/*/base_reachable_time_ms, arp(7)), and
        later asks only when there is something to send.  Waits until all have answered, at most until time.monotonic()
        is `deadline`.  A neighbour that can't be asked (no ARP on the link, a permanent entry) counts.
        """
        wanted = tuple(addresses)
        with Netlink((NEIGHBOURS,)) as listener:
            self.question_neighbours(index, wanted)
            while True:
                found = self.get_sure_neighbours(index, wanted)
                if len(found) == len(wanted) or time.monotonic() >= deadline:
                    return found
                listener.wait(deadline)

    def question_neighbours(self, index: int, addresses: Iterable[str]) -> None:
        """Make the kernel ask neighbours of a link whether they are there, without waiting for the answer.

        The answer is an event of the group `NEIGHBOURS`; after that, `get_sure_neighbours` returns the neighbour.
        """
        for address in addresses:
            if not self._probe_neighbour(index, address):
                self.use_neighbour(index, address)

    def get_sure_neighbours(self, index: int, addresses: Iterable[str]) -> dict[str, Neighbour]:
        """Return those neighbours that have answered recently or need not be asked, by address."""
        sure = NUD_REACHABLE | NUD_NOARP | _NUD_PERMANENT
        known = self.get_known_neighbours(index, addresses)
        return {address: neighbour for address, neighbour in known.items() if neighbour.state & sure}

    def drop_waiting(self, index: int) -> None:
        """Make the kernel drop the packets that wait on a link until a neighbour has answered ARP or NDP.

        Each unanswered entry holds up to 64 KiB of packets (neigh/*/unres_qlen_bytes, arp(7)), for up to 3 s.  They
        have already passed the firewall, except the egress hook of nftables.  Raises `NetlinkError`.
        """
        self._delete_neighbours(index, NUD_INCOMPLETE)

    def forget_neighbours(self, index: int) -> None:
        """Make the kernel forget the neighbours of a link, as it does when it reports a lost carrier.

        Permanent entries stay, as in the kernel (neigh_carrier_down, net/core/neighbour.c).  Raises `NetlinkError`.
        """
        self._delete_neighbours(index, NUD_VALID & ~(NUD_NOARP | _NUD_PERMANENT))

    def _delete_neighbours(self, index: int, states: int) -> None:
        """Delete the neighbours of a link that are in one of these states."""
        body = _NEIGHBOUR.pack(0, 0, 0, 0, 0) + pack_attribute(_NDA_IFINDEX, _INT.pack(index))

        def is_wanted(found: bytes) -> bool:
            neighbour = parse_neighbour(found)
            return neighbour.index == index and bool(neighbour.state & states)

        for _, found in self.ask(RTM_GETNEIGH, NLM_F_DUMP, body, keep=is_wanted):
            family, packed = _pack_address(parse_neighbour(found).address)
            try:
                self.ask(
                    RTM_DELNEIGH, NLM_F_ACK, _NEIGHBOUR.pack(family, index, 0, 0, 0) + pack_attribute(_NDA_DST, packed)
                )
            except NetlinkError as error:
                if error.code != errno.ENOENT:  # it was deleted meanwhile
                    raise

    def ask(self, kind: int, flags: int, body: bytes, keep: Callable[[bytes], bool] | None = None) -> list[Message]:
        """Send a request and return its answers, as type and body.

        flags: in addition to NLM_F_REQUEST; NLM_F_DUMP for all entries of a table, NLM_F_ACK for a change, whose only
        answer is the acknowledgement.  keep: selects the wanted entries of a table by their body.
        If a table changes while it is read, it is read again, three times at most.
        """
        for _ in range(3):
            answers, whole = self._ask_once(kind, flags, body, keep)
            if whole:
                break
        return answers

    def wait(self, deadline: float) -> list[Message]:
        """Return the next events; wait until time.monotonic() is `deadline`.

        Empty at the deadline, and if events were lost (ENOBUFS): then the tables must be read again.
        """
        try:
            messages = self._receive(deadline)
        except NetlinkError as error:
            if error.code in (errno.ETIMEDOUT, errno.ENOBUFS):
                return []
            raise
        return [(kind, body) for kind, _, _, _, body in messages if kind >= NLMSG_MIN_TYPE]

    def drain(self) -> bool:
        """Discard the events that have arrived; return whether there were any, or too many to keep (ENOBUFS).

        If events keep arriving, the rest is left for the next time.
        """
        some = False
        for _ in range(10_000):
            try:
                self._socket.recv(65536, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                return some
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise _as_netlink_error(error) from None
            some = True
        return some

    def collect(self, most: int = 1000) -> tuple[list[Message], bool]:
        """Return the events that have arrived, without waiting, and whether the kernel had to drop some (ENOBUFS).

        most: read at most so many datagrams; the rest is left for the next time.
        """
        news: list[Message] = []
        dropped = False
        for _ in range(most):
            try:
                data, _, _, sender = self._socket.recvmsg(_DATAGRAM, 0, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise _as_netlink_error(error) from None
                dropped = True
                continue
            if sender[0] == 0:
                news += [(kind, body) for kind, _, _, _, body in split_messages(data) if kind >= NLMSG_MIN_TYPE]
        return news, dropped

    def filter_news(self, indexes: Collection[int], neighbours: Collection[str]) -> None:
        """Make the kernel send only events of these links, of their neighbours at these addresses, and of default
        routes.

        The filter is classic BPF, socket(7) SO_ATTACH_FILTER, and gets one message of the kernel at a time.
        """
        self._filter(_build_filter(indexes, neighbours), _build_filter((), (), all_links=True, all_neighbours=True))

    def filter_networks(self, indexes: Collection[int], neighbours: Collection[str], all_addresses: bool) -> None:
        """Filter as `filter_news` does, but accept the events of all links, and also those of the addresses of these
        links, or of all links.
        """
        own = None if all_addresses else indexes
        few = _build_filter(indexes, neighbours, all_links=True, addresses=own)
        self._filter(few, _build_filter((), (), all_links=True, all_neighbours=True, addresses=None))

    def _filter(self, program: list[_Instruction], simple: list[_Instruction]) -> None:
        """Attach the filter `program`, or `simple` if it is too long for the kernel."""
        from array import array  # only the watcher needs it

        if len(program) > _LONGEST_FILTER:
            program = simple
        code = array("B", b"".join(_BPF.pack(*instruction) for instruction in program))
        try:
            self._socket.setsockopt(_socket.SOL_SOCKET, _SO_RCVBUFFORCE, _NEWS_BUFFER)
        except OSError:
            pass  # without CAP_NET_ADMIN the buffer keeps its usual size
        try:
            self._socket.setsockopt(
                _socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), code.buffer_info()[0])
            )
        except OSError as error:
            raise _as_netlink_error(error) from None

    def _ask_once(
        self, kind: int, flags: int, body: bytes, keep: Callable[[bytes], bool] | None
    ) -> tuple[list[Message], bool]:
        """Return the answers, and whether the table stayed the same meanwhile (NLM_F_DUMP_INTR)."""
        self._sequence += 1
        request = _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0) + body
        now = time.monotonic()
        deadline, last = now + ANSWER_PATIENCE, now + TABLE_PATIENCE
        answers: list[Message] = []
        whole = True
        try:
            self._socket.sendto(request, (0, 0))
        except OSError as error:
            raise _as_netlink_error(error) from None
        while True:
            for answer, answer_flags, sequence, port, content in self._receive(deadline):
                if sequence != self._sequence or port != self._port:
                    continue
                whole = whole and not answer_flags & NLM_F_DUMP_INTR
                if answer in (NLMSG_ERROR, NLMSG_DONE):
                    # An empty dump may end without a code (struct nlmsghdr alone).
                    code = _unpack(_INT, content)[0] if content or answer == NLMSG_ERROR else 0
                    if code:
                        raise NetlinkError(min(abs(code), 4095))
                    return answers, whole
                if answer >= NLMSG_MIN_TYPE:
                    deadline = min(time.monotonic() + ANSWER_PATIENCE, last)
                    if keep is None or keep(content):
                        answers.append((answer, content))
                    if not flags & (NLM_F_DUMP | NLM_F_ACK):
                        return answers, whole

    def _receive(self, deadline: float) -> list[tuple[int, int, int, int, bytes]]:
        """Return the messages of the next datagram that the kernel sent: type, flags, sequence, port, body."""
        while True:
            patience = deadline - time.monotonic()
            if patience <= 0:
                raise NetlinkError(errno.ETIMEDOUT)
            try:
                self._socket.settimeout(patience)
                data, _, flags, sender = self._socket.recvmsg(_DATAGRAM)
            except TimeoutError:
                raise NetlinkError(errno.ETIMEDOUT) from None
            except OSError as error:
                raise _as_netlink_error(error) from None
            # netlink(7): any process of root may send to this socket; the kernel's own port is 0.
            if sender[0] != 0:
                continue
            if flags & _socket.MSG_TRUNC:
                raise NetlinkError(errno.EBADMSG, "a message of the kernel was cut off")
            return split_messages(data)

    def _match_route(self, index: int, family: int, destination: str) -> _Route | None:
        """Return the route that a packet to `destination` would take on this link, None if there is none."""
        packed = _socket.inet_pton(family, destination)
        flags = _RTM_F_FIB_MATCH | (_RTM_F_LOOKUP_TABLE if family == AF_INET else 0)
        body = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, flags)
        body += pack_attribute(_RTA_DST, packed) + pack_attribute(_RTA_OIF, _U32.pack(index))
        try:
            answers = self.ask(RTM_GETROUTE, 0, body)
        except NetlinkError as error:
            # No route (ENETUNREACH, EHOSTUNREACH), a route that refuses (EINVAL, EACCES, EAGAIN), a link that is gone
            # (ENODEV), or a kernel without IPv6 (EOPNOTSUPP): read the table instead.
            if error.code in (errno.ETIMEDOUT, errno.EBADMSG):
                raise
            return None
        for kind, answer in answers:
            if kind == RTM_NEWROUTE:
                return parse_route(answer)
        return None

    def _read_default_route(self, index: int, family: int) -> DefaultRoute | None:
        """Return the default route of this link from the routing tables."""
        body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + pack_attribute(_RTA_OIF, _U32.pack(index))
        try:
            answers = self.ask(RTM_GETROUTE, NLM_F_DUMP, body, _is_to_anywhere)
        except NetlinkError as error:
            if error.code in (errno.ENODEV, errno.ENOENT, errno.EOPNOTSUPP):
                return None
            raise
        best: tuple[bool, bool, bool, int] | None = None
        nexthops: list[_Nexthop] = []
        advertised = False
        for kind, answer in answers:
            route = parse_route(answer) if kind == RTM_NEWROUTE else None
            # Check the family, too: a kernel without IPv6 answers with the routes of other families (rtnl_dump_all).
            if route is None or route.family != family:
                continue
            rank = (route.table != _RT_TABLE_MAIN, route.src_len != 0, route.tos != 0, route.metric)
            if best is not None and rank > best:
                continue
            ways = self._find_nexthops(route, index)
            if not ways:
                continue
            if best is None or rank < best:
                best, nexthops, advertised = rank, [], False
            nexthops += ways
            advertised |= route.protocol == _RTPROT_RA
        return _make_default_route(nexthops, advertised) if nexthops else None

    def _find_nexthops(self, route: _Route, index: int) -> list[_Nexthop]:
        """Return the ways of `route` that lead out of this link."""
        nexthops = list(route.nexthops)
        if route.nexthop_id and not nexthops:
            # Only with net.ipv4.nexthop_compat_mode=0; otherwise the route itself has its ways.
            nexthops = self._get_nexthops(route.nexthop_id)
        return [nexthop for nexthop in nexthops if nexthop.index == index]

    def _get_nexthops(self, number: int) -> list[_Nexthop]:
        """Return the ways of a nexthop object: itself, or the members of a group, which contains no groups."""
        nexthop, members = self._get_nexthop_object(number)
        found = [nexthop] + [self._get_nexthop_object(member)[0] for member in members]
        return [each for each in found if each is not None]

    def _get_nexthop_object(self, number: int) -> tuple[_Nexthop | None, tuple[int, ...]]:
        """Return a nexthop object, or the numbers of those in a group; neither if it is gone."""
        body = _NEXTHOP_OBJECT.pack(0, 0, 0, 0) + pack_attribute(_NHA_ID, _U32.pack(number))
        try:
            answers = self.ask(RTM_GETNEXTHOP, 0, body)
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return None, ()
            raise
        for kind, answer in answers:
            if kind == RTM_NEWNEXTHOP:
                return parse_nexthop_object(answer)
        return None, ()

    def _probe_neighbour(self, index: int, address: str) -> bool:
        """Make the kernel ask a known neighbour whether it is still there; return False if it knows none."""
        family, packed = _pack_address(address)
        known = self.get_neighbour(index, address)
        if known is None or not known.is_known() or known.state & (NUD_NOARP | _NUD_PERMANENT):
            return known is not None and known.is_known()
        # Without NLM_F_REPLACE only the state of the entry changes, neigh_add() in net/core/neighbour.c.
        body = _NEIGHBOUR.pack(family, index, NUD_PROBE, 0, 0) + pack_attribute(_NDA_DST, packed)
        try:
            self.ask(RTM_NEWNEIGH, NLM_F_ACK, body)
        except NetlinkError as error:
            if error.code in (errno.ETIMEDOUT, errno.EBADMSG):
                raise
            return False
        return True

    def use_neighbour(self, index: int, address: str) -> bool:
        """Make the kernel ask for a neighbour, as sending to it would; return False without permission."""
        family, packed = _pack_address(address)
        body = _NEIGHBOUR.pack(family, index, 0, _NTF_USE, 0) + pack_attribute(_NDA_DST, packed)
        try:
            self.ask(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE, body)
        except NetlinkError as error:
            if error.code == errno.EPERM:
                return False
            # The link went down or lost its addresses meanwhile, so no answer will come.
            if error.code in (errno.ETIMEDOUT, errno.EBADMSG):
                raise
        return True


def _build_filter(
    indexes: Collection[int],
    neighbours: Collection[str],
    all_links: bool = False,
    all_neighbours: bool = False,
    addresses: Collection[int] | None = (),
) -> list[_Instruction]:
    """Return the instructions of `Netlink.filter_news`: code, jump if true, jump if false, operand (linux/filter.h).

    addresses: the links whose addresses are accepted, None for all.
    """
    load_word, load_half, load_byte, equal, jump, answer = 0x20, 0x28, 0x30, 0x15, 0x05, 0x06
    accept = (answer, 0, 0, 0xFFFFFFFF)
    reject = (answer, 0, 0, 0)

    def accept_any(values: Iterable[int]) -> list[_Instruction]:
        return [step for value in values for step in ((equal, 0, 1, value), accept)]

    def accept_indexes(values: Iterable[int]) -> list[_Instruction]:
        # BPF loads in network order, but the kernel wrote the values in the machine's order.  The index of a link, of
        # an address and of a neighbour is at the same place.
        numbers = [int.from_bytes(_INT.pack(index), "big") for index in sorted(values)]
        return [(load_word, 0, 0, 20), *accept_any(numbers), reject]

    # A neighbour's address is its first attribute (neigh_fill_info), and its last four bytes are compared.
    found = sorted({int.from_bytes(_pack_address(address)[1][-4:], "big") for address in neighbours})
    links = [accept] if all_links else accept_indexes(indexes)
    routes = [(load_byte, 0, 0, 17), *accept_any([0]), reject]
    numbers = [int.from_bytes(_INT.pack(index), "big") for index in sorted(indexes)]
    of_links = [step for number in numbers for step in ((equal, 0, 1, number), (jump, 0, 0, 0))]
    tail = [
        (load_half, 0, 0, 28),
        (equal, 0, 2, int.from_bytes(_U16.pack(8), "big")),
        (load_word, 0, 0, 32),
        (jump, 0, 0, 3),
        (equal, 1, 0, int.from_bytes(_U16.pack(20), "big")),
        accept,  # an address of another length: better an event too many than too few
        (load_word, 0, 0, 44),
        *accept_any(found),
        reject,
    ]
    of_links = [
        (code, yes, no, len(of_links) - place if code == jump else value)
        for place, (code, yes, no, value) in enumerate(of_links)
    ]  # each jumps over the rest, and the `reject` behind it
    near = [accept] if all_neighbours else [(load_word, 0, 0, 20), *of_links, reject, *tail]
    own = [accept] if addresses is None else accept_indexes(addresses)
    sections = [(RTM_NEWLINK, links), (RTM_DELLINK, links), (RTM_NEWROUTE, routes), (RTM_DELROUTE, routes),
                (RTM_NEWNEIGH, near), (RTM_DELNEIGH, near), (RTM_NEWADDR, own), (RTM_DELADDR, own)]  # fmt: skip
    program = [(load_half, 0, 0, 4)]
    for kind, section in sections:
        program += [(equal, 1, 0, int.from_bytes(_U16.pack(kind), "big")), (jump, 0, 0, len(section)), *section]
    return [*program, reject]


def split_messages(data: bytes) -> list[tuple[int, int, int, int, bytes]]:
    """Return the messages of a datagram: type, flags, sequence, port, body.  Raises `NetlinkError`."""
    messages = []
    offset = 0
    while offset < len(data):
        length, kind, flags, sequence, port = _unpack(_HEADER, data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise NetlinkError(errno.EBADMSG, "a message of the kernel has a wrong length")
        messages.append((kind, flags, sequence, port, data[offset + _HEADER.size:offset + length]))
        offset += length + 3 & ~3
    return messages


def split_attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes of a message by type; of a repeated one the last.  Raises `NetlinkError`."""
    attributes = {}
    offset, end = 0, len(data)
    try:
        while offset < end:
            length, kind = _unpack_attribute(data, offset)
            if length < 4 or offset + length > end:
                raise NetlinkError(errno.EBADMSG, "an attribute of a message of the kernel has a wrong length")
            # The two highest bits are flags: NLA_F_NESTED, NLA_F_NET_BYTEORDER.
            attributes[kind & 0x3FFF] = data[offset + 4:offset + length]
            offset += length + 3 & ~3
    except struct.error:
        raise NetlinkError(errno.EBADMSG, "a message of the kernel is too short") from None
    return attributes


def read_number(value: bytes) -> int:
    """Return the number in an attribute, of any length, in the machine's byte order."""
    return int.from_bytes(value, sys.byteorder)


def read_link_name(body: bytes) -> tuple[int, str, str]:
    """Return the index, name and kind (as in `LinkStatus`) of the device of an RTM_NEWLINK or RTM_DELLINK message.

    Faster than `parse_link`.  Raises `NetlinkError`.
    """
    attributes = split_attributes(body[_LINK.size:])
    name = os.fsdecode(attributes.get(_IFLA_IFNAME, b"").partition(b"\0")[0])
    return _unpack(_LINK, body)[2], name, _read_kind(attributes)


def _read_kind(attributes: dict[int, bytes]) -> str:
    if _IFLA_LINKINFO not in attributes:
        return ""
    information = split_attributes(attributes[_IFLA_LINKINFO])
    return os.fsdecode(information.get(_IFLA_INFO_KIND, b"").partition(b"\0")[0])


def parse_link(body: bytes) -> LinkStatus:
    """Return the device of an RTM_NEWLINK message.  Raises `NetlinkError`."""
    _, _, index, flags, _ = _unpack(_LINK, body)
    attributes = split_attributes(body[_LINK.size:])
    name = os.fsdecode(attributes.get(_IFLA_IFNAME, b"").partition(b"\0")[0])
    address = attributes.get(_IFLA_ADDRESS, b"").hex(":")
    kind = _read_kind(attributes)
    up, carrier = bool(flags & IFF_UP), bool(flags & IFF_LOWER_UP)
    mtu = read_number(attributes.get(_IFLA_MTU, b""))
    losses = read_number(attributes.get(_IFLA_CARRIER_DOWN_COUNT, b""))
    return LinkStatus(index, name, flags, up, carrier, address, kind, _IFLA_LINK_NETNSID in attributes, mtu, losses)


def parse_address(body: bytes) -> OwnAddress:
    """Return the address of an RTM_NEWADDR message.  Raises `NetlinkError`."""
    family, length, _, _, index = _unpack(_ADDRESS, body)
    attributes = split_attributes(body[_ADDRESS.size:])
    # On a point-to-point link IFA_ADDRESS is the other end's; otherwise both are equal, or there is no IFA_LOCAL.
    address = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b""))
    return OwnAddress(index, _unpack_address(family, address), length)


def parse_neighbour(body: bytes) -> Neighbour:
    """Return the neighbour of an RTM_NEWNEIGH or RTM_DELNEIGH message.  Raises `NetlinkError`."""
    family, index, state, _, _ = _unpack(_NEIGHBOUR, body)
    attributes = split_attributes(body[_NEIGHBOUR.size:])
    # NUD_NOARP: on a device without ARP, the kernel fills in the device's own address.
    known = state & NUD_VALID and not state & NUD_NOARP
    mac = attributes.get(_NDA_LLADDR, b"").hex(":") if known else ""
    address = attributes.get(_NDA_DST, b"")
    return Neighbour(index, _unpack_address(family, address) if address else "", state, mac)


def parse_route(body: bytes) -> _Route | None:
    """Return the route of an RTM_NEWROUTE message; None if it leads nowhere.  Raises `NetlinkError`."""
    family, dst_len, src_len, tos, table, protocol, _, kind, _ = _unpack(_ROUTE, body)
    attributes = split_attributes(body[_ROUTE.size:])
    # Expired IPv6 routes stay in the table until the next cleaning (rta_cacheinfo.rta_expires, clock ticks).
    if kind != _RTN_UNICAST or _RTA_CACHEINFO in attributes and _unpack(_INT, attributes[_RTA_CACHEINFO], 8)[0] < 0:
        return None
    if _RTA_TABLE in attributes:
        table = _unpack(_U32, attributes[_RTA_TABLE])[0]
    metric = _unpack(_U32, attributes[_RTA_PRIORITY])[0] if _RTA_PRIORITY in attributes else 0
    nexthop_id = _unpack(_U32, attributes[_RTA_NH_ID])[0] if _RTA_NH_ID in attributes else 0
    nexthops: tuple[_Nexthop, ...] = ()
    if _RTA_MULTIPATH in attributes:
        nexthops = _split_nexthops(attributes[_RTA_MULTIPATH], family)
    elif _RTA_OIF in attributes:
        nexthops = (_Nexthop(_unpack(_INT, attributes[_RTA_OIF])[0], _find_router(attributes, family)),)
    return _Route(family, dst_len, src_len, tos, table, protocol, metric, nexthops, nexthop_id)


def parse_nexthop_object(body: bytes) -> tuple[_Nexthop | None, tuple[int, ...]]:
    """Return the nexthop of an RTM_NEWNEXTHOP message, or the numbers of a group's.  Raises `NetlinkError`."""
    family = _unpack(_NEXTHOP_OBJECT, body)[0]
    attributes = split_attributes(body[_NEXTHOP_OBJECT.size:])
    if _NHA_GROUP in attributes:
        group = attributes[_NHA_GROUP]
        if len(group) % _NEXTHOP_GROUP.size:
            raise NetlinkError(errno.EBADMSG, "a nexthop group of the kernel has a wrong length")
        return None, tuple(member[0] for member in _NEXTHOP_GROUP.iter_unpack(group))
    if _NHA_OIF not in attributes:
        return None, ()
    gateway = attributes.get(_NHA_GATEWAY, b"")
    index = _unpack(_INT, attributes[_NHA_OIF])[0]
    return _Nexthop(index, _unpack_address(family, gateway) if gateway else ""), ()


def _split_nexthops(data: bytes, family: int) -> tuple[_Nexthop, ...]:
    """Return the ways of a multipath route that are not dead."""
    nexthops = []
    offset = 0
    while offset < len(data):
        length, flags, _, index = _unpack(_NEXTHOP, data, offset)
        if length < _NEXTHOP.size or offset + length > len(data):
            raise NetlinkError(errno.EBADMSG, "a nexthop of a route of the kernel has a wrong length")
        if not flags & _RTNH_F_DEAD:
            attributes = split_attributes(data[offset + _NEXTHOP.size:offset + length])
            nexthops.append(_Nexthop(index, _find_router(attributes, family)))
        offset += length + 3 & ~3
    return tuple(nexthops)


def _find_router(attributes: dict[int, bytes], family: int) -> str:
    """Return the router among the attributes of a route or nexthop; empty if there is none."""
    if _RTA_GATEWAY in attributes:
        return _unpack_address(family, attributes[_RTA_GATEWAY])
    if _RTA_VIA in attributes:
        # An IPv4 route through an IPv6 router (RFC 5549): struct rtvia, the family and the address.
        via = attributes[_RTA_VIA]
        return _unpack_address(_unpack(_U16, via)[0], via[_U16.size:])
    return ""


def _is_to_anywhere(body: bytes) -> bool:
    """Return whether a route is a default route (rtm_dst_len, the second byte, is 0); most routes are not."""
    return body[1:2] == b"\0"


def _make_default_route(nexthops: Iterable[_Nexthop], advertised: bool = False) -> DefaultRoute:
    routers = dict.fromkeys(nexthop.router for nexthop in nexthops if nexthop.router)
    return DefaultRoute(tuple(routers), advertised)


def _is_about(body: bytes, index: int, addresses: Iterable[str]) -> bool:
    """Return whether a neighbour event is about one of these."""
    neighbour = parse_neighbour(body)
    return neighbour.index == index and neighbour.address in addresses


def pack_attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute of a message, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _pack_address(address: str) -> tuple[int, bytes]:
    packed = pack_address(address)
    if not packed:
        raise ValueError(f"not an IP address: {address!r}")
    return AF_INET if len(packed) == 4 else AF_INET6, packed


def _unpack_address(family: int, packed: bytes) -> str:
    if (family, len(packed)) not in ((AF_INET, 4), (AF_INET6, 16)):
        raise NetlinkError(errno.EBADMSG, "an address in a message of the kernel has a wrong length")
    return _socket.inet_ntop(family, packed)


def _unpack(layout: struct.Struct, data: bytes, offset: int = 0) -> tuple[int, ...]:
    try:
        return layout.unpack_from(data, offset)
    except struct.error:
        raise NetlinkError(errno.EBADMSG, "a message of the kernel is too short") from None


def _as_netlink_error(error: OSError) -> NetlinkError:
    return NetlinkError(error.errno or errno.EIO, error.strerror or str(error))
