"""What IPv6 routers advertise beside addresses and routes: domains and resolvers (the DNSSL and RDNSS options of RFC
8106), and the prefix for IPv4 hosts (PREF64, RFC 8781).

The kernel keeps the addresses and routes of an advertisement, but passes these options only to programs that listen at
that moment (RTNLGRP_ND_USEROPT, linux/rtnetlink.h).  With ifupdown's ``inet6 auto`` no program listens.  So the routers
are asked again, by the packet that every host sends when it joins a link: one router solicitation (RFC 4861 4.1).
Every router that advertises itself answers it (6.2.6).
"""

from __future__ import annotations

import _socket
import errno
import select
import struct
import time

from netconf_hooks.record import Record
from netconf_hooks.system.addresses import format_address
from netconf_hooks.system.netlink import AF_INET6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from netconf_hooks.evidence import Link

# Seconds.  A router answers within 0.5 s (MAX_RA_DELAY_TIME, RFC 4861 10), unless it answers by multicast and has sent
# a multicast answer in the last 3 s (MIN_DELAY_BETWEEN_RAS).  Don't wait for that: the watcher asks again later.
PATIENCE = 1.0

# Seconds for which a link's own address may be tentative, so that nothing can be sent: up to 1 s of delay and 1 s of
# duplicate address detection (RFC 4862 5.4.2, RFC 4861 10).  PAUSE: seconds between two attempts to send.
TENTATIVE, PAUSE = 2.5, 0.1

# Read at most so many packets, and keep at most so many values: any host on the link can send any number.
MOST_PACKETS, MOST_VALUES = 100, 32

_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 133, 134
_SOURCE_MAC, _RDNSS, _DNSSL, _PORTAL, _PREF64 = 1, 25, 31, 37, 38
_ALL_NODES, _ALL_ROUTERS = "ff02::1", "ff02::2"
_HEADER = struct.Struct("!BBHBBHII")  # RFC 4861 4.2: type, code, checksum, hop limit, flags, lifetime, two timers
_LIFETIME = struct.Struct("!4xI")
_INT = struct.Struct("=i")

# linux/in6.h, linux/icmpv6.h
_IPV6, _ICMPV6_FILTER, _UNICAST_HOPS, _MULTICAST_IF, _MULTICAST_HOPS = 41, 1, 16, 17, 18
_JOIN_GROUP, _RECVHOPLIMIT, _HOPLIMIT = 20, 51, 52
_FARTHEST = 255  # hop limit: a packet with a lower one was forwarded from another link (RFC 4861 6.1.2)


class Advertised(Record):
    """What routers advertise.

    domains, servers: as received, not checked; silent: routers that did not answer; nat64: the prefixes of PREF64;
    portals: the URIs of captive portals (RFC 8910 2.3), not checked.
    """

    __slots__ = ("domains", "servers", "silent", "nat64", "portals")

    def __init__(
        self,
        domains: tuple[str, ...] = (),
        servers: tuple[str, ...] = (),
        silent: tuple[str, ...] = (),
        nat64: tuple[str, ...] = (),
        portals: tuple[str, ...] = (),
    ) -> None:
        self.portals = portals
        self.domains = domains
        self.servers = servers
        self.silent = silent
        self.nat64 = nat64


def ask_routers(device: str, index: int, mac: str, routers: Iterable[str], deadline: float) -> Advertised:
    """Solicit advertisements of the routers on a link, and wait until all of `routers` have answered.

    device, index, mac: of the link, whose MAC address may be empty; routers: their link-local addresses.
    deadline: a time.monotonic().  Waits for answers until then, for at most `PATIENCE`; before that, up to `TENTATIVE`
    until the link can send.  Requires root.  Raises OSError if nothing can be sent.
    """
    waiting = dict.fromkeys(routers)
    domains: dict[str, None] = {}
    servers: dict[str, None] = {}
    nat64: dict[str, None] = {}
    portals: dict[str, None] = {}
    request = make_solicitation(mac)
    began = time.monotonic()
    due: float | None = began  # when to send; None once that is done
    until = min(deadline, began + TENTATIVE)
    packets = _socket.socket(AF_INET6, _socket.SOCK_RAW | _socket.SOCK_NONBLOCK, _ICMPV6)
    try:
        _prepare(packets, device, index)
        poll = select.poll()
        poll.register(packets.fileno(), select.POLLIN)
        left = MOST_PACKETS
        while waiting and left and (now := time.monotonic()) < until:
            if due is not None and now >= due:
                if _send(packets, request, index):
                    due, until = None, min(deadline, now + PATIENCE)
                else:
                    due = now + PAUSE
            if not poll.poll((until - now if due is None else min(until, due) - now) * 1000):
                continue
            left -= 1
            router, advertised = _receive(packets)
            if advertised is not None:
                waiting.pop(router, None)
                domains.update(dict.fromkeys(advertised.domains))
                servers.update(dict.fromkeys(advertised.servers))
                nat64.update(dict.fromkeys(advertised.nat64))
                portals.update(dict.fromkeys(advertised.portals))
    finally:
        packets.close()
    return Advertised(
        tuple(domains)[:MOST_VALUES], tuple(servers)[:MOST_VALUES], tuple(waiting), tuple(nat64)[:MOST_VALUES],
        tuple(portals)[:MOST_VALUES],
    )  # fmt: skip


_last: tuple[Link | None, Advertised] = (None, Advertised())


def remember(link: Link, advertised: Advertised) -> None:
    """Keep what the routers of a link have advertised for the rest of this look: a router that answers by multicast
    may stay silent for 3 s after its last answer (MIN_DELAY_BETWEEN_RAS)."""
    global _last
    _last = (link, advertised)


def recall(link: Link) -> Advertised | None:
    """Return what `remember` has kept; None if the routers were not asked in the same look.

    link: each look makes one of its own.
    """
    return _last[1] if _last[0] is link else None


def _send(packets: _socket.socket, request: bytes, index: int) -> bool:
    """Send to all routers; return False while the link's own address is tentative.  Raises OSError."""
    try:
        packets.sendto(request, (_ALL_ROUTERS, 0, 0, index))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return False
    return True


def _receive(packets: _socket.socket) -> tuple[str, Advertised | None]:
    """Return the sender of the next packet, and its advertisement; None if it is not valid."""
    try:
        data, ancillary, _, sender = packets.recvmsg(65535, 64)
    except BlockingIOError:
        return "", None  # its checksum was wrong
    router = sender[0].partition("%")[0]
    hops = [value for level, kind, value in ancillary if (level, kind) == (_IPV6, _HOPLIMIT)]
    on_link = router.startswith("fe80:") and hops == [_INT.pack(_FARTHEST)]
    return router, parse_advertisement(data) if on_link else None


def make_solicitation(mac: str) -> bytes:
    """Return a router solicitation, RFC 4861 4.1, without the checksum, which the kernel writes (raw(7), RFC 3542 3.1).

    mac: the sender's; left out if it is not as long as an Ethernet address.
    """
    request = bytes((_SOLICITATION, 0, 0, 0, 0, 0, 0, 0))
    return request + bytes((_SOURCE_MAC, 1)) + bytes.fromhex(mac.replace(":", "")) if len(mac) == 17 else request


def parse_advertisement(data: bytes) -> Advertised | None:
    """Return the domains and resolvers of an advertisement; None if it is not valid (RFC 4861 6.1.2).

    An option whose lifetime is 0 revokes earlier values (RFC 8106 5.1), so it is ignored.
    """
    if len(data) < _HEADER.size or data[0] != _ADVERTISEMENT or data[1] != 0:
        return None
    domains: list[str] = []
    servers: list[str] = []
    nat64: list[str] = []
    portals: list[str] = []
    offset = _HEADER.size
    while offset < len(data):
        length = data[offset + 1] * 8 if offset + 1 < len(data) else 0
        if not length or offset + length > len(data):
            return None
        kind, option = data[offset], data[offset:offset + length]
        offset += length
        if kind == _PORTAL:
            portals.append(option[2:].rstrip(b"\0").decode("ascii", "replace"))
        if kind == _PREF64:
            nat64 += [prefix for prefix in (read_prefix64(option),) if prefix]
        if kind in (_RDNSS, _DNSSL) and _LIFETIME.unpack_from(option)[0]:
            rest = option[_LIFETIME.size:]
            if kind == _DNSSL:
                domains += _read_domains(rest)
            else:
                whole = range(0, len(rest) - 15, 16)
                servers += [_socket.inet_ntop(AF_INET6, rest[start:start + 16]) for start in whole]
    return Advertised(
        tuple(domains[:MOST_VALUES]), tuple(servers[:MOST_VALUES]), nat64=tuple(nat64[:MOST_VALUES]),
        portals=tuple(portals[:MOST_VALUES]),
    )  # fmt: skip


def _read_domains(data: bytes) -> list[str]:
    """Return the names in a DNSSL option, without compression and padded with zeros (RFC 8106 5.2).

    A name is a list of labels, each after its length; an empty label ends the name (RFC 1035 3.1).
    """
    domains: list[str] = []
    labels: list[str] = []
    while data:
        length, label = data[0], data[1:data[0] + 1]
        data = data[length + 1:]
        if length > 63 or len(label) < length:
            break  # malformed: where the next name begins is not known
        if length:
            # A dot inside a label would read as two labels: make the name invalid.
            labels.append(label.decode("latin-1") if b"." not in label else "\0")
        elif labels:
            domains.append(".".join(labels))
            labels = []
    return domains


def _prepare(packets: _socket.socket, device: str, index: int) -> None:
    packets.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, device.encode() + b"\0")
    # A set bit blocks a type (linux/icmpv6.h): block all types except one.
    blocked = bytearray(b"\xff" * 32)
    word = _ADVERTISEMENT // 32
    struct.pack_into("=I", blocked, word * 4, 0xFFFFFFFF & ~(1 << _ADVERTISEMENT % 32))
    packets.setsockopt(_ICMPV6, _ICMPV6_FILTER, bytes(blocked))
    packets.setsockopt(_IPV6, _RECVHOPLIMIT, 1)
    packets.setsockopt(_IPV6, _MULTICAST_HOPS, _FARTHEST)
    packets.setsockopt(_IPV6, _UNICAST_HOPS, _FARTHEST)
    packets.setsockopt(_IPV6, _MULTICAST_IF, index)
    group = _socket.inet_pton(AF_INET6, _ALL_NODES) + struct.pack("=I", index)
    packets.setsockopt(_IPV6, _JOIN_GROUP, group)


def read_prefix64(option: bytes) -> str:
    """Return the prefix of a PREF64 option (RFC 8781 4); empty if it is not valid or is withdrawn."""
    if len(option) != 16:
        return ""
    lifetime, code = int.from_bytes(option[2:4], "big") >> 3, option[3] & 7
    lengths = (96, 64, 56, 48, 40, 32)
    if not lifetime or code >= len(lengths):
        return ""
    length = lengths[code]
    packed = option[4:4 + length // 8] + bytes(16 - length // 8)
    return f"{format_address(packed)}/{length}"
