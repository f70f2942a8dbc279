"""The domains and resolvers that IPv6 routers advertise: the DNSSL and RDNSS options of RFC 8106.

Of an advertisement the kernel keeps addresses and routes; these options it only passes on to who listens at that moment
(RTNLGRP_ND_USEROPT, linux/rtnetlink.h), and ifupdown's ``inet6 auto`` has nobody listen.  So the routers are asked
again, by what every host sends that comes to a link: one router solicitation (RFC 4861 4.1), to which every router that
advertises itself answers (6.2.6).
"""

from __future__ import annotations

import _socket
import errno
import select
import struct
import time

from netconf_hooks.record import Record
from netconf_hooks.system.netlink import AF_INET6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Seconds.  A router answers within 0.5 s (MAX_RA_DELAY_TIME, RFC 4861 10), unless it answers to all at once and has
# done so in the last 3 s (MIN_DELAY_BETWEEN_RAS): that is not waited for, but asked again later.
PATIENCE = 1.0

# Seconds that a link's own address may be tentative, before anything can be sent: up to 1 s of delay and 1 s of
# waiting for objections (RFC 4862 5.4.2, RFC 4861 10); and how often it is tried meanwhile.
TENTATIVE, PAUSE = 2.5, 0.1

# At most so many packets are read, and so many values taken: whoever is on the link can send any number.
MOST_PACKETS, MOST_VALUES = 100, 32

_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 133, 134
_SOURCE_MAC, _RDNSS, _DNSSL = 1, 25, 31
_ALL_NODES, _ALL_ROUTERS = "ff02::1", "ff02::2"
_HEADER = struct.Struct("!BBHBBHII")  # RFC 4861 4.2: type, code, checksum, hop limit, flags, lifetime, two timers
_LIFETIME = struct.Struct("!4xI")
_INT = struct.Struct("=i")

# linux/in6.h, linux/icmpv6.h
_IPV6, _ICMPV6_FILTER, _UNICAST_HOPS, _MULTICAST_IF, _MULTICAST_HOPS = 41, 1, 16, 17, 18
_JOIN_GROUP, _RECVHOPLIMIT, _HOPLIMIT = 20, 51, 52
_FARTHEST = 255  # hops: what has less left was forwarded, by somebody who is not on this link (RFC 4861 6.1.2)


class Advertised(Record):
    """What routers advertise.

    domains, servers: as they stand there, unchecked; silent: routers that did not answer.
    """

    __slots__ = ("domains", "servers", "silent")

    def __init__(
        self, domains: tuple[str, ...] = (), servers: tuple[str, ...] = (), silent: tuple[str, ...] = ()
    ) -> None:
        self.domains = domains
        self.servers = servers
        self.silent = silent


def ask_routers(device: str, index: int, mac: str, routers: Iterable[str], deadline: float) -> Advertised:
    """Solicit advertisements of the routers on a link, and wait until all of `routers` have answered.

    device, index, mac: of the link, whose MAC address may be empty; routers: their link-local addresses.
    deadline: the time.monotonic() after which, and after at most `PATIENCE`, no more is waited for; a link that has
    just come up is given `TENTATIVE` before.  Takes root.  Raises OSError where nothing can be sent.
    """
    waiting = dict.fromkeys(routers)
    domains: dict[str, None] = {}
    servers: dict[str, None] = {}
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
    finally:
        packets.close()
    return Advertised(tuple(domains)[:MOST_VALUES], tuple(servers)[:MOST_VALUES], tuple(waiting))


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
    """Return the sender of the next packet, and its advertisement, None where that is none that counts."""
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

    mac: the sender's; none of another length than Ethernet's is told.
    """
    request = bytes((_SOLICITATION, 0, 0, 0, 0, 0, 0, 0))
    return request + bytes((_SOURCE_MAC, 1)) + bytes.fromhex(mac.replace(":", "")) if len(mac) == 17 else request


def parse_advertisement(data: bytes) -> Advertised | None:
    """Return what an advertisement says of domains and resolvers; None where it is none that is valid (RFC 4861 6.1.2).

    An option whose lifetime is 0 takes back what was said before (RFC 8106 5.1), and says nothing.
    """
    if len(data) < _HEADER.size or data[0] != _ADVERTISEMENT or data[1] != 0:
        return None
    domains: list[str] = []
    servers: list[str] = []
    offset = _HEADER.size
    while offset < len(data):
        length = data[offset + 1] * 8 if offset + 1 < len(data) else 0
        if not length or offset + length > len(data):
            return None
        kind, option = data[offset], data[offset:offset + length]
        offset += length
        if kind in (_RDNSS, _DNSSL) and _LIFETIME.unpack_from(option)[0]:
            rest = option[_LIFETIME.size:]
            if kind == _DNSSL:
                domains += _read_domains(rest)
            else:
                whole = range(0, len(rest) - 15, 16)
                servers += [_socket.inet_ntop(AF_INET6, rest[start:start + 16]) for start in whole]
    return Advertised(tuple(domains[:MOST_VALUES]), tuple(servers[:MOST_VALUES]))


def _read_domains(data: bytes) -> list[str]:
    """Return the names in a DNSSL option: labels, each with its length before it, an empty one ends the name (RFC 1035
    3.1), without compression; zeros fill the rest."""
    domains: list[str] = []
    labels: list[str] = []
    while data:
        length, label = data[0], data[1:data[0] + 1]
        data = data[length + 1:]
        if length > 63 or len(label) < length:
            break  # not a name any more, nor where the next one begins is known
        if length:
            # One dot is as good as two labels, to whoever reads it: then it is no domain.
            labels.append(label.decode("latin-1") if b"." not in label else "\0")
        elif labels:
            domains.append(".".join(labels))
            labels = []
    return domains


def _prepare(packets: _socket.socket, device: str, index: int) -> None:
    packets.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, device.encode() + b"\0")
    # A bit set keeps a type out (linux/icmpv6.h): all but one.
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
