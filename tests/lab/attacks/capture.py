"""What left the laptop: every frame on its cable, and which of them had no business there.

The capture is a packet(7) socket at the cable's far end, before the switch: it sees what the laptop sends to whomever,
in whichever network the cable is plugged.  The laptop's own counters are never asked.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..closing import Closing
from .place import call_in

SECRET = b"netconf-leak:"
"""In every packet of `traffic` that carries data, before what sent it and a ``;``: it may be in no packet allowed."""

# linux/if_ether.h, linux/if_packet.h, asm-generic/socket.h; Python has no names for these.
_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_STATISTICS, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 6, 8, 23
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_TP_STATUS_VLAN_VALID = 0x10
_BUFFER = 256 * 1024 * 1024  # bytes: minutes of traffic, read only between the stages of a test

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_TCP, _UDP, _ICMPV6 = 6, 17, 58
_DHCP_MAGIC = bytes((99, 130, 83, 99))  # RFC 2131, section 3


class Frame(NamedTuple):
    """One frame: when it came (time.time()), its bytes, and its VLAN tag, -1 without."""

    time: float
    data: bytes
    tag: int = -1


class Allowed(NamedTuple):
    """What may leave in a test, beside what every link needs.

    flows: a tunnel's own packets, or a probe's: (address, protocol, port), exactly.
    dhcp_servers: where the DHCP client may write to, beside broadcast.
    resolvers, names: who may be asked, and for which names, by us: the tunnel's endpoint.
    replies: (protocol, own port) of which answers may leave: no TCP connection may begin there.
    """

    flows: frozenset[tuple[str, int, int]] = frozenset()
    dhcp_servers: frozenset[str] = frozenset()
    resolvers: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    replies: frozenset[tuple[int, int]] = frozenset()


class Leak(NamedTuple):
    """A frame that should not have left: when, what sent it (empty where that can't be told), and what it is."""

    time: float
    kind: str
    summary: str


class Packet(NamedTuple):
    """What is asked of an IPv4 or IPv6 packet.

    protocol: behind all extension headers; options: whether there were any; ports: (source, destination) of UDP and
    TCP, else zeros, as for fragments; body: what `protocol` carries, its own header first.
    """

    version: int
    source: str
    destination: str
    protocol: int
    hops: int
    options: bool
    fragment: bool
    ports: tuple[int, int]
    body: bytes


class Capture(Closing):
    """Sees every frame that the laptop sends through `link`, from now until `close`.

    namespace: the file of the network namespace where its cable ends.  Raises OSError.
    """

    def __init__(self, namespace: str, link: str = "eth0") -> None:
        self._socket = call_in(namespace, lambda: _open(link))
        self.seen = 0

    def close(self) -> None:
        """Stop looking."""
        self._socket.close()

    def read(self) -> list[Frame]:
        """Return the frames that came since the last call.

        Raises AssertionError when the kernel had to throw one away: then nothing is known.
        """
        frames = list(self._receive())
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        assert dropped == 0, f"the capture lost {dropped} frames"
        self.seen += len(frames)
        return frames

    def _receive(self) -> Iterator[Frame]:
        while True:
            try:
                data, extra, _, _ = self._socket.recvmsg(65536, 256)
            except BlockingIOError:
                return
            except OSError as error:
                # Said once each time that the cable is pulled out; the socket stays.
                if error.errno != errno.ENETDOWN:
                    raise
                continue
            yield _read_frame(data, extra)


def _open(link: str) -> socket.socket:
    with contextlib.ExitStack() as undo:
        packets = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        packets.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        packets.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        packets.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        packets.bind((link, _ETH_P_ALL))
        packets.setblocking(False)
        undo.pop_all()
    return packets


def _read_frame(data: bytes, extra: list[tuple[int, int, bytes]]) -> Frame:
    when, tag = 0.0, -1
    for level, kind, value in extra:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("qq", value[:16])
            when = seconds + nanoseconds / 1e9
        elif (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            # struct tpacket_auxdata: the kernel takes the tag out of the frame and puts it here.
            status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", value[:20])
            tag = tci if status & _TP_STATUS_VLAN_VALID else -1
    return Frame(when, data, tag)


def find_leaks(frames: list[Frame], allowed: Allowed, ports: Mapping[int, str] | None = None) -> list[Leak]:
    """Return what had no business on the wire, in the order of time.

    ports: who sends to a TCP port, which is how connections that carry nothing yet are told apart.
    """
    return [
        Leak(frame.time, name_sender(frame, ports or {}), describe(frame)) for frame in frames
        if not is_allowed(frame, allowed)
    ]  # fmt: skip


def is_allowed(frame: Frame, allowed: Allowed) -> bool:
    """Whether a frame is one that every link needs, or one of those `allowed`."""
    if frame.tag >= 0 or SECRET in frame.data or len(frame.data) < 14:
        return False
    source, kind = frame.data[6:12], int.from_bytes(frame.data[12:14], "big")
    if kind == _ARP:
        return _is_arp(source, frame.data[14:])
    packet = read_packet(frame)
    if packet is None or packet.fragment:
        return False
    return (
        _is_dhcp(source, packet, allowed)
        or _is_discovery(packet)
        or _is_membership(packet)
        or (packet.destination, packet.protocol, packet.ports[1]) in allowed.flows
        or _is_question(packet, allowed)
        or _is_reply(packet, allowed)
    )


def read_packet(frame: Frame) -> Packet | None:
    """Return the packet in a frame; None where it is neither IPv4 nor IPv6, or cut off."""
    kind, data = int.from_bytes(frame.data[12:14], "big"), frame.data[14:]
    try:
        if kind == _IPV4:
            return _read_ipv4(data)
        if kind == _IPV6:
            return _read_ipv6(data)
    except (struct.error, IndexError):
        pass
    return None


def name_sender(frame: Frame, ports: Mapping[int, str]) -> str:
    """Return what sent a frame: as it says itself after `SECRET`, or by its TCP port; empty where neither tells."""
    _, found, rest = frame.data.partition(SECRET)
    if found:
        return rest.partition(b";")[0].decode(errors="replace")
    packet = read_packet(frame)
    return ports.get(packet.ports[1], "") if packet and packet.protocol == _TCP else ""


def describe(frame: Frame) -> str:
    """Say what a frame is, in a line for the message of a test that failed."""
    tag = f"VLAN {frame.tag & 0xFFF} " if frame.tag >= 0 else ""
    packet = read_packet(frame)
    if packet is None:
        return f"{tag}{frame.data[:64].hex(' ')}"
    names = {1: "icmp", _TCP: "tcp", _UDP: "udp", _ICMPV6: "icmp6"}
    name = names.get(packet.protocol, str(packet.protocol))
    detail = f" type {packet.body[0]}" if name.startswith("icmp") and packet.body else ""
    detail += f" {packet.ports[0]} > {packet.ports[1]}" if any(packet.ports) else ""
    detail += " fragment" if packet.fragment else ""
    return f"{tag}{name}{detail} {packet.source} > {packet.destination} hops {packet.hops}"


def _read_ipv4(data: bytes) -> Packet:
    # RFC 791, section 3.1
    length = (data[0] & 15) * 4
    total, place = struct.unpack("!H2xH", data[2:8])
    body = data[length:total]
    fragment = bool(place & 0x3FFF)
    source, destination = (socket.inet_ntop(socket.AF_INET, data[at:at + 4]) for at in (12, 16))
    ports = _read_ports(data[9], body, fragment)
    return Packet(4, source, destination, data[9], data[8], length > 20, fragment, ports, body)


def _read_ipv6(data: bytes) -> Packet:
    # RFC 8200, sections 3 and 4
    length, following, hops = struct.unpack("!HBB", data[4:8])
    source, destination = (socket.inet_ntop(socket.AF_INET6, data[at:at + 16]) for at in (8, 24))
    body, options, fragment = data[40:40 + length], False, False
    while following in (0, 43, 44, 60):
        options, fragment = True, fragment or following == 44
        size = 8 if following == 44 else 8 + 8 * body[1]
        following, body = body[0], body[size:]
    ports = _read_ports(following, body, fragment)
    return Packet(6, source, destination, following, hops, options, fragment, ports, body)


def _read_ports(protocol: int, body: bytes, fragment: bool) -> tuple[int, int]:
    if fragment or protocol not in (_TCP, _UDP) or len(body) < 8:
        return 0, 0
    source, destination = struct.unpack("!HH", body[:4])
    return source, destination


def _is_arp(source: bytes, data: bytes) -> bool:
    # RFC 826: Ethernet and IPv4, of the sender's own address; what pads the frame is empty.
    return (
        data[:6] == bytes((0, 1, 8, 0, 6, 4))
        and data[6:8] in (b"\0\1", b"\0\2")
        and data[8:14] == source
        and not any(data[28:])
    )


def _is_dhcp(source: bytes, packet: Packet, allowed: Allowed) -> bool:
    if packet.protocol != _UDP:
        return False
    message = packet.body[8:]
    if packet.version == 4:
        # RFC 2131, section 2: a request of this link's own, to all or to the lease's server.
        return (
            packet.ports == (68, 67)
            and (packet.destination == "255.255.255.255" or packet.destination in allowed.dhcp_servers)
            and message[:3] == bytes((1, 1, 6))
            and message[28:34] == source
            and message[236:240] == _DHCP_MAGIC
        )
    # RFC 8415, sections 7.1 and 7.2
    return packet.ports == (546, 547) and packet.destination == "ff02::1:2"


def _is_discovery(packet: Packet) -> bool:
    """Whether it is neighbour discovery as the kernel makes it (RFC 4861, sections 4.1, 4.3 and 4.4)."""
    body = packet.body
    if (packet.version, packet.protocol, packet.hops, packet.options) != (6, _ICMPV6, 255, False) or len(body) < 8:
        return False
    if body[1] != 0:  # the code
        return False
    if body[0] == 133:
        return packet.destination == "ff02::2" and _are_options(body[8:])
    if body[0] in (135, 136) and len(body) >= 24:
        return _are_options(body[24:])
    return False


def _are_options(data: bytes) -> bool:
    """Whether these are the sender's link-layer address, or the nonce of RFC 7527: nothing that has room for more."""
    options = (data[at:at + 2] for at in range(0, len(data), 8))
    return len(data) in (0, 8, 16) and all(option in (b"\1\1", b"\2\1", b"\x0e\1") for option in options)


def _is_membership(packet: Packet) -> bool:
    """Whether it is a report of multicast groups as the kernel makes it (RFC 3810, section 5; RFC 2710, section 3)."""
    return (
        (packet.version, packet.protocol, packet.hops, packet.options) == (6, _ICMPV6, 1, True)
        and packet.body[0] in (131, 132, 143)
        and packet.destination.startswith("ff02::")
        and (packet.source == "::" or packet.source.startswith("fe80:"))
    )


def _is_question(packet: Packet, allowed: Allowed) -> bool:
    """Whether it asks one of the resolvers for one of the names (RFC 1035, section 4.1)."""
    if packet.protocol != _UDP or packet.ports[1] != 53 or packet.destination not in allowed.resolvers:
        return False
    labels, rest = [], packet.body[8 + 12:]
    while rest and rest[0]:
        labels.append(rest[1:1 + rest[0]].decode(errors="replace"))
        rest = rest[1 + rest[0]:]
    return ".".join(labels).lower() in allowed.names


def _is_reply(packet: Packet, allowed: Allowed) -> bool:
    if (packet.protocol, packet.ports[0]) not in allowed.replies:
        return False
    # RFC 9293, section 3.1: a SYN without ACK begins a connection.
    return packet.protocol != _TCP or packet.body[13] & 0x12 != 0x02


def find_arp_questions(frames: list[Frame]) -> set[str]:
    """Return for which IPv4 addresses the laptop has asked by ARP."""
    asked = (frame.data[38:42] for frame in frames if frame.data[12:14] == b"\x08\x06" and frame.data[20:22] == b"\0\1")
    return {socket.inet_ntop(socket.AF_INET, address) for address in asked if len(address) == 4}
