"""Sockets that send through one link only, and TCP connections over them."""

from __future__ import annotations

import _socket
import errno
import os
import select
import struct
import time

from netconf_hooks.evidence.probes import Wait
from netconf_hooks.record import Record
from netconf_hooks.system.addresses import is_link_local, split_host_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from netconf_hooks.evidence.probes import Announce, Conversation

MARK = 0x6E636866
"""The mark (SO_MARK, socket(7)) of all packets that netconf-hooks sends: "nchf"."""

MOST = 4
"""How many addresses and devices are tried for one server."""

AF_INET, AF_INET6 = int(_socket.AF_INET), int(_socket.AF_INET6)

# IP_XFRM_POLICY and IPV6_XFRM_POLICY, linux/in.h and linux/in6.h (not in ip(7), ipv6(7)).  In struct
# xfrm_userpolicy_info, linux/xfrm.h, the family is in the selector, and the direction and the action (0: allow) are
# near the end.
_XFRM_POLICY = {AF_INET: (_socket.IPPROTO_IP, 17), AF_INET6: (_socket.IPPROTO_IPV6, 35)}
_XFRM_USERPOLICY = struct.Struct("=40xH14x64x32x2I4B4x")
_XFRM_IN, _XFRM_OUT = 0, 1

_NEVER_SENT = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENODEV)


class Way(Record):
    """How to reach a server: its address, and the device to send through."""

    __slots__ = ("address", "device")

    def __init__(self, address: str, device: str) -> None:
        self.address = address
        self.device = device


class Attempt(Record):
    """The result of an attempt to connect.

    socket: connected, and closed by the caller; None if the attempt failed.  way: of this socket.
    refuted: whether a connection was tried and failed.  problem: why there is no connection.
    """

    __slots__ = ("socket", "way", "refuted", "problem")

    def __init__(
        self, socket: _socket.socket | None = None, way: Way | None = None, refuted: bool = False, problem: str = ""
    ) -> None:
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
    """Return what connect(2) takes.  index: of the link, for an address that is link-local."""
    if ":" in address:
        return address, port, 0, index if is_link_local(address) else 0
    return address, port


def split_service(service: str) -> tuple[str, int]:
    """Return host and port of a service as a test's value has it (`rules.Test`)."""
    parts = split_host_port(service)
    assert parts is not None, service
    return parts[0], int(parts[1])


def connect(ways: Sequence[Way], port: int, until: float, announce: Announce) -> Conversation[Attempt]:
    """Connect by the first of `ways` that succeeds; all are tried at the same time, until time.monotonic() `until`.

    announce: as of `probes.View`.
    """
    problems: list[str] = []
    tried = False
    sockets: dict[int, tuple[Way, _socket.socket]] = {}
    try:
        for way in ways[:MOST]:
            opened = open_socket(AF_INET6 if ":" in way.address else AF_INET, _socket.SOCK_STREAM, way.device)
            sockets[opened.fileno()] = (way, opened)
            announce(way.device, "tcp", way.address, port)
            code = opened.connect_ex(make_target(way.address, port, _socket.if_nametoindex(way.device)))
            if code == 0:
                return _keep(sockets, opened.fileno())
            if code == errno.EINPROGRESS:
                tried = True
                continue
            tried |= code not in _NEVER_SENT
            problems.append(f"{way.address}: {os.strerror(code)}")
            sockets.pop(opened.fileno())[1].close()
        began = time.monotonic()
        while sockets and time.monotonic() < until:
            ready = yield Wait(dict.fromkeys(sockets, select.POLLOUT), until)
            for descriptor in ready:
                way, opened = sockets[descriptor]
                code = opened.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
                if code == 0:
                    return _keep(sockets, descriptor)
                problems.append(f"{way.address}: {os.strerror(code)}")
                sockets.pop(descriptor)[1].close()
        problems += [f"{way.address} did not answer within {until - began:.1f} s" for way, _ in sockets.values()]
        return Attempt(refuted=tried, problem=", ".join(problems))
    finally:
        for _, opened in sockets.values():
            opened.close()


def _keep(sockets: dict[int, tuple[Way, _socket.socket]], descriptor: int) -> Attempt:
    way, connected = sockets.pop(descriptor)
    return Attempt(connected, way)


def _pack_bypass(family: int, direction: int) -> bytes:
    return _XFRM_USERPOLICY.pack(family, 0, 0, direction, 0, 0, 0)
