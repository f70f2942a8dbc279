"""Sockets that send through one link only, and TCP connections over them.

A firewall on this machine may refuse a probe (the kill switch of a VPN provider does), which looks as if the server had
refused it.  So a packet socket watches each attempt: if no packet was sent on the link, the server was not asked.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import struct
import time

from netconf_hooks.evidence.probes import Wait
from netconf_hooks.exemption import MARK
from netconf_hooks.record import Record
from netconf_hooks.system.addresses import is_link_local, split_host_port
from netconf_hooks.system.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from netconf_hooks.evidence.probes import Announce, Conversation

MOST = 4
"""How many addresses and devices are tried for one server."""

AF_INET, AF_INET6 = int(_socket.AF_INET), int(_socket.AF_INET6)

# IP_XFRM_POLICY and IPV6_XFRM_POLICY, linux/in.h and linux/in6.h (not in ip(7), ipv6(7)).  In struct
# xfrm_userpolicy_info, linux/xfrm.h, the family is in the selector, and the direction and the action (0: allow) are
# near the end.
_XFRM_POLICY = {AF_INET: (_socket.IPPROTO_IP, 17), AF_INET6: (_socket.IPPROTO_IPV6, 35)}
_XFRM_USERPOLICY = struct.Struct("=40xH14x64x32x2I4B4x")
_XFRM_IN, _XFRM_OUT = 0, 1

# asm-generic/socket.h; linux/if_packet.h
_SO_ATTACH_FILTER, _PACKET_OUTGOING = 26, 4
_TCP = 6


# The errors with which the kernel refuses to send, before a server can have answered: a firewall that drops (EPERM) or
# rejects, a route that is prohibited (EACCES), unreachable or a blackhole (EINVAL).
_REFUSED_HERE = (errno.EPERM, errno.EACCES, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EINVAL)
_HERE = " by this machine itself: its own firewall or a route that refuses"


class Way(Record):
    """How to reach a server: its address, and the device to send through."""

    __slots__ = ("address", "device")

    def __init__(self, address: str, device: str) -> None:
        self.address = address
        self.device = device


class Attempt(Record):
    """The result of an attempt to connect.

    socket: connected; the caller must close it; None if the attempt failed.  way: of this socket.
    refuted: whether a connection was tried and failed.  problem: why there is no connection.
    settled: whether trying again now is useless; it is not if this machine itself has refused to send.
    """

    __slots__ = ("socket", "way", "refuted", "problem", "settled")

    def __init__(
        self,
        socket: _socket.socket | None = None,
        way: Way | None = None,
        refuted: bool = False,
        problem: str = "",
        settled: bool = True,
    ) -> None:
        self.settled = settled
        self.socket = socket
        self.way = way
        self.refuted = refuted
        self.problem = problem


def open_socket(family: int, kind: int, device: str) -> _socket.socket:
    """Return a socket that sends and receives through `device` only (SO_BINDTODEVICE, socket(7)), marked, non-blocking.

    It bypasses IPsec policies: otherwise the office would answer through the tunnel in the café.
    Raises OSError; PermissionError without CAP_NET_ADMIN.
    """
    opened = _socket.socket(family, kind | _socket.SOCK_NONBLOCK)
    try:
        opened.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, os.fsencode(device) + b"\0")
        opened.setsockopt(_socket.SOL_SOCKET, _socket.SO_MARK, MARK)
        level, option = _XFRM_POLICY[family]
        for direction in (_XFRM_OUT, _XFRM_IN):
            try:
                opened.setsockopt(level, option, _pack_bypass(family, direction))
            except OSError as error:
                # A kernel without IPsec.
                if error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
                    raise
    except OSError:
        opened.close()
        raise
    return opened


def make_target(address: str, port: int, index: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return the address for connect(2).  index: of the link, for a link-local address."""
    if ":" in address:
        return address, port, 0, index if is_link_local(address) else 0
    return address, port


def split_service(service: str) -> tuple[str, int]:
    """Return host and port of a service in the value of a test (`rules.Test`)."""
    parts = split_host_port(service)
    assert parts is not None, service
    return parts[0], int(parts[1])


def connect(ways: Sequence[Way], port: int, until: float, announce: Announce) -> Conversation[Attempt]:
    """Connect by the first of `ways` that succeeds; all are tried at the same time.

    until: when to stop, as time.monotonic(); announce: as in `probes.View`.
    """
    problems: list[str] = []
    tried = False
    settled = True
    witnesses: dict[Way, Witness] = {}
    sockets: dict[int, tuple[Way, _socket.socket]] = {}
    try:
        for way in ways[:MOST]:
            opened = open_socket(AF_INET6 if ":" in way.address else AF_INET, _socket.SOCK_STREAM, way.device)
            sockets[opened.fileno()] = (way, opened)
            witnesses[way] = Witness(way.device, way.address, port)
            announce(way.device, "tcp", way.address, port)
            code = opened.connect_ex(make_target(way.address, port, _socket.if_nametoindex(way.device)))
            if code == 0:
                return _keep(sockets, opened.fileno())
            if code == errno.EINPROGRESS:
                tried = True
                continue
            settled &= code not in _REFUSED_HERE
            problems.append(f"{way.address}: {os.strerror(code)}{_HERE if code in _REFUSED_HERE else ''}")
            sockets.pop(opened.fileno())[1].close()
        began = time.monotonic()
        while sockets and time.monotonic() < until:
            ready = yield Wait(dict.fromkeys(sockets, select.POLLOUT), until)
            for descriptor in ready:
                way, opened = sockets[descriptor]
                code = opened.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
                if code == 0:
                    return _keep(sockets, descriptor)
                here = witnesses[way].has_nothing()
                settled &= not here
                problems.append(f"{way.address}: {os.strerror(code)}{_HERE if here else ''}")
                sockets.pop(descriptor)[1].close()
        for way, _ in sockets.values():
            here = witnesses[way].has_nothing()
            settled &= not here
            problems.append(
                f"{way.address}: nothing was sent{_HERE}" if here
                else f"{way.address} did not answer within {until - began:.1f} s"
            )  # fmt: skip
        return Attempt(refuted=tried and settled, problem=", ".join(problems), settled=settled)
    finally:
        for _, opened in sockets.values():
            opened.close()
        for witness in witnesses.values():
            witness.close()


class Witness:
    """Watches the TCP packets to one server that this machine sends through a device, after all of its firewalls.

    Requires CAP_NET_RAW, as `open_socket` requires CAP_NET_ADMIN; without it, it is unknown what was sent.
    """

    def __init__(self, device: str, address: str, port: int) -> None:
        self._device = device
        self._address = address
        self._packets: _socket.socket | None = None
        try:
            # Protocol 0: receive nothing before the filter is attached, packet(7).
            self._packets = _socket.socket(_socket.AF_PACKET, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK, 0)
            attach_filter(self._packets, _make_filter(_socket.inet_pton(*_split_family(address)), port))
            self._packets.bind((device, 3))  # ETH_P_ALL: otherwise it receives no outgoing packets
        except OSError:
            self.close()

    def has_nothing(self) -> bool:
        """Whether it is certain that no packet was sent, and that none waits for a neighbour's MAC address."""
        if self._packets is None:
            return False
        try:
            while True:
                if self._packets.recvfrom(1)[1][2] == _PACKET_OUTGOING:
                    return False
        except BlockingIOError:
            with Netlink() as netlink:
                return not netlink.waits_for_neighbour(_socket.if_nametoindex(self._device), self._address)
        except OSError:
            return False

    def close(self) -> None:
        """Stop watching."""
        if self._packets is not None:
            self._packets.close()
            self._packets = None


def _split_family(address: str) -> tuple[int, str]:
    return (AF_INET6 if ":" in address else AF_INET), address


def _make_filter(address: bytes, port: int) -> list[tuple[int, int, int, int]]:
    """Return a program of the classic packet filter (linux/filter.h) for TCP packets to an address and port."""
    if len(address) == 4:
        where, tests = 16, [(0x30, 9, _TCP)]  # ldb: the protocol
    else:
        where, tests = 24, [(0x30, 6, _TCP)]
    for start in range(0, len(address), 4):
        tests.append((0x20, where + start, int.from_bytes(address[start:start + 4], "big")))  # ld
    program: list[tuple[int, int, int, int]] = []
    end = 2 * len(tests) + (4 if len(address) == 4 else 3)
    for code, offset, value in tests:
        program += [(code, 0, 0, offset), (0x15, 0, end - len(program) - 2, value)]  # jeq
    if len(address) == 4:
        program += [(0xB1, 0, 0, 0), (0x48, 0, 0, 2)]  # ldxb 4 * ([0] & 0xf), ldh [x + 2]
    else:
        program += [(0x28, 0, 0, 42)]  # ldh
    return [*program, (0x15, 0, 1, port), (0x06, 0, 0, 1), (0x06, 0, 0, 0)]  # jeq, ret


def attach_filter(packets: _socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    """Let a socket receive only what a program of the classic packet filter accepts."""
    from ctypes import addressof, create_string_buffer

    code = b"".join([struct.pack("=HBBI", *each) for each in program])
    buffer = create_string_buffer(code, len(code))
    packets.setsockopt(_socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), addressof(buffer)))


def _keep(sockets: dict[int, tuple[Way, _socket.socket]], descriptor: int) -> Attempt:
    way, connected = sockets.pop(descriptor)
    return Attempt(connected, way)


def _pack_bypass(family: int, direction: int) -> bytes:
    return _XFRM_USERPOLICY.pack(family, 0, 0, direction, 0, 0, 0)
