"""Sends packets of every kind out of a machine and says which of them arrive at the far ends of its cables.

The laptop has two devices: `GUARDED`, and `FREE`, whose name begins with that of the first.  Behind the laptop is
another machine, for which it forwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import itertools
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from .closing import Closing
from .namespaces import Namespaces, enter_network
from .oracle import ARP, ICMP, ICMP6, TCP, UDP, Origin, Packet, Pieces

T = TypeVar("T")

GUARDED, FREE = "eth0", "eth00"
LAPTOP_MAC, FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
NEAR = {4: "192.0.2.2", 6: "2001:db8:1::2"}
FAR = {4: "192.0.2.1", 6: "2001:db8:1::1"}
INNER = {4: "192.168.9.2", 6: "2001:db8:9::2"}
FREE_NETWORKS = {4: ipaddress.ip_network("10.9.0.0/16"), 6: ipaddress.ip_network("2001:db8:f::/48")}
# Addresses on the guarded link that nobody has: the kernel has to ask for them before it can send anything there.
ABSENT = {4: ipaddress.ip_network("10.77.0.0/16"), 6: ipaddress.ip_network("2001:db8:77::/64")}
CLOSED_PORT = 4242
LONG = 3000  # bytes that no frame of these links can hold

_LAPTOP, _FAR, _INNER = range(3)
_LAPTOP_LINKS = f"""
link add {GUARDED} address {LAPTOP_MAC} type veth peer name far netns FAR
link add {FREE} address {LAPTOP_MAC} type veth peer name far0 netns FAR
link add inner type veth peer name eth0 netns INNER
link set lo up
link set {GUARDED} up
link set {FREE} up
link set inner up
addr add {NEAR[4]}/24 dev {GUARDED}
addr add {NEAR[6]}/64 dev {GUARDED} nodad
addr add fe80::2/64 dev {GUARDED} nodad
addr add 10.77.0.1/16 dev {GUARDED}
addr add 2001:db8:77::1/64 dev {GUARDED} nodad
addr add 10.9.0.1/16 dev {FREE}
addr add 2001:db8:f::1/48 dev {FREE} nodad
addr add fe80::3/64 dev {FREE} nodad
addr add 192.168.9.1/24 dev inner
addr add 2001:db8:9::1/64 dev inner nodad
neigh add {FAR[4]} lladdr {FAR_MAC} dev {GUARDED} nud permanent
neigh add 192.0.2.9 lladdr {FAR_MAC} dev {GUARDED} nud permanent
neigh add {FAR[6]} lladdr {FAR_MAC} dev {GUARDED} nud permanent
neigh add fe80::1 lladdr {FAR_MAC} dev {GUARDED} nud permanent
neigh add 10.9.0.2 lladdr {FAR_MAC} dev {FREE} nud permanent
neigh add 2001:db8:f::2 lladdr {FAR_MAC} dev {FREE} nud permanent
route add default via {FAR[4]}
route add default via {FAR[6]}
"""
_INNER_LINKS = f"""
link set eth0 up
addr add {INNER[4]}/24 dev eth0
addr add {INNER[6]}/64 dev eth0 nodad
route add default via 192.168.9.1
route add default via 2001:db8:9::1
"""
_FAR_LINKS = f"""
link set far address {FAR_MAC} up
link set far0 address {FAR_MAC} up
addr add {FAR[4]}/24 dev far
addr add {FAR[6]}/64 dev far nodad
addr add fe80::1/64 dev far nodad
addr add 10.9.0.2/16 dev far0
neigh add {NEAR[4]} lladdr {LAPTOP_MAC} dev far nud permanent
neigh add {NEAR[6]} lladdr {LAPTOP_MAC} dev far nud permanent
"""
# Addresses are usable at once; nobody sends anything by himself, and the kernel answers as often as it is asked.
_SETTINGS = "".join(
    f"net.ipv6.conf.{which}.{setting}\n"
    for which in ("all", "default")
    for setting in ("accept_dad=0", "addr_gen_mode=1", "router_solicitations=0")
) + "net.ipv4.icmp_ratelimit=0\nnet.ipv6.icmp.ratelimit=0\n"

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_IPV6_HDRINCL = 36  # linux/in6.h
_HOP, _ROUTING, _FRAGMENT, _OPTIONS = 0, 43, 44, 60  # IPv6 extension headers
_UDP_HEADER = 8

# A packet, and how it is made: ``socket``: by the kernel, for an ordinary socket; ``absent``: the same, to an address
# that nobody has; else by hand, in IPv6 with the extension headers ``hop``, ``options``, ``routing`` or ``all`` of
# these, in IPv4 with ``options`` in its header.
Made = tuple[Packet, str]


class Crossing(Closing):
    """The laptop and the machines around it, from now until `close`."""

    def __init__(self) -> None:
        self._machines = [Namespaces(("net",)) for _ in range(3)]
        for machine in self._machines:
            machine.run(["sysctl", "-q", "-p", "-"], text=_SETTINGS)
        self._machines[_LAPTOP].run(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        names = {"FAR": str(self._machines[_FAR].pid), "INNER": str(self._machines[_INNER].pid)}
        links = (_LAPTOP_LINKS, _FAR_LINKS, _INNER_LINKS)
        for machine, text in zip(self._machines, links, strict=True):
            for name, pid in names.items():
                text = text.replace(name, pid)
            # In the machine's network alone: ip(8) looks up pids in its own /proc.
            command = ["nsenter", f"--net={machine.files['net']}", "ip", "-batch", "-"]
            subprocess.run(command, input=text, text=True, check=True)
        self._threads = [
            ThreadPoolExecutor(1, initializer=_begin, initargs=(machine.files["net"],)) for machine in self._machines
        ]
        self._tokens = itertools.count(1)
        self._capture = self._call(_FAR, _open_capture)
        self._frames: dict[int, socket.socket] = {}

    @property
    def laptop(self) -> int:
        """The process whose network is the laptop's."""
        return self._machines[_LAPTOP].pid

    @property
    def behind(self) -> int:
        """The process whose network is that of the machine behind the laptop."""
        return self._machines[_INNER].pid

    def close(self) -> None:
        """End its threads and machines."""
        self._capture.close()
        for sender in self._frames.values():
            sender.close()
        for thread in self._threads:
            thread.shutdown()
        for machine in self._machines:
            machine.close()

    def call(self, function: Callable[[], T]) -> T:
        """Call `function` in the laptop's network."""
        return self._call(_LAPTOP, function)

    def run(self, *argv: str, text: str | None = None) -> str:
        """Run a program in the laptop's network, and return its output."""
        return self._machines[_LAPTOP].run(argv, text=text).stdout

    def send(self, made: Sequence[Made]) -> list[tuple[bool, ...]]:
        """Send packets, and return of each which of its pieces arrive."""
        keys = []
        orders: dict[int, list[Callable[[], object]]] = {_FAR: [], _INNER: [], _LAPTOP: []}
        for packet, how in made:
            sender, send, expected = self._prepare(packet, how, b"<%07d>" % next(self._tokens))
            if packet.reply and packet.origin is Origin.PROCESS:
                orders[_FAR].append(partial(_begin_conversation, packet))
            orders[sender].append(send)
            keys.append(expected)
        for machine, sends in orders.items():
            self._call(machine, lambda: [send() for send in sends])
        seen = self._collect()
        return [tuple(key in seen for key in expected) for expected in keys]

    def see(self, function: Callable[[], object], behind: bool = False) -> bytes:
        """Call `function` on the laptop, or on the machine behind it, and return all frames that arrive."""
        self._call(_INNER if behind else _LAPTOP, function)
        return self._collect()

    def _collect(self) -> bytes:
        last = [b"<%07d>" % next(self._tokens) for _ in range(2)]
        for token, device in zip(last, (GUARDED, FREE)):
            # ARP passes every guard, and nothing overtakes anything here.
            end = Packet(Origin.FRAME, device, ether=ARP, claimed=ARP)
            self.call(partial(self._send_frame, end, token))
        return self._receive(last)

    def _prepare(self, packet: Packet, how: str, token: bytes) -> tuple[int, Callable[[], None], tuple[bytes, ...]]:
        """Return which machine sends a packet, how, and what its pieces can be known by where they arrive."""
        if packet.origin is Origin.KERNEL:
            return _FAR, partial(_provoke, packet, token), (_list_ports(packet) if packet.protocol == TCP else token,)
        if how == "absent":
            # Its neighbours are asked for it: ARP has the address at its end, a solicitation in its middle.
            return _LAPTOP, partial(_send_udp, packet, token), (_pack(packet.destination),)
        if how == "socket" and packet.protocol == TCP:
            return _LAPTOP, partial(_connect, packet), (_list_ports(packet),)
        if how == "socket" and packet.pieces is Pieces.CUT:
            return _LAPTOP, partial(_send_udp, packet, token + bytes(LONG) + token[::-1]), (token, token[::-1])
        if how == "socket":
            return _LAPTOP, partial(_send_udp, packet, token), (token,)
        pieces, expected = build(packet, how, token)
        if packet.origin is Origin.FRAME:
            [piece] = pieces
            return _LAPTOP, partial(self._send_frame, packet, piece), expected
        return _INNER if packet.origin is Origin.FORWARDED else _LAPTOP, partial(_send_raw, packet, pieces), expected

    def _call(self, machine: int, function: Callable[[], T]) -> T:
        return self._threads[machine].submit(function).result()

    def _send_frame(self, packet: Packet, content: bytes) -> None:
        """Send a frame: `ether` in its header, `claimed` in the kernel's own field."""
        uid = packet.uid or 0
        if uid not in self._frames:
            # One for all of a user's: the kernel takes 10 ms to close such a socket.
            with acting_as(uid):
                self._frames[uid] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sender = self._frames[uid]
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, packet.mark)
        header = bytes.fromhex((FAR_MAC + LAPTOP_MAC).replace(":", "")) + struct.pack("!H", packet.ether)
        with contextlib.suppress(OSError):
            sender.sendto(header + content, (packet.device, packet.claimed))

    def _receive(self, last: Sequence[bytes]) -> bytes:
        missing = set(last)
        seen = []
        while missing:
            frame, (_, _, kind, *_) = self._capture.recvfrom(65536)
            if kind != socket.PACKET_OUTGOING:
                seen.append(frame)
                missing = {token for token in missing if token not in frame}
        return b"".join(seen)


def _begin(namespace: str) -> None:
    # All on one processor, so that what is sent first arrives first.
    enter_network(namespace)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _open_capture() -> socket.socket:
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    capture.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 * 1024 * 1024)
    capture.settimeout(10.0)
    return capture


@contextlib.contextmanager
def acting_as(uid: int | None) -> Iterator[None]:
    """Make sockets that belong to `uid`: the owner that firewalls look at is setfsuid(2)'s, of this thread alone."""
    libc = ctypes.CDLL(None)
    libc.setfsuid(uid or 0)
    try:
        yield
    finally:
        libc.setfsuid(0)


def build(packet: Packet, how: str, token: bytes) -> tuple[list[bytes], tuple[bytes, ...]]:
    """Return a packet as one or two pieces of bytes, and the token in each."""
    if packet.protocol == 0 and not packet.destination:
        # Behind it what a VLAN's tag takes for itself, and as much as the shortest frame has.
        return [bytes(4) + token + bytes(33)], (token,)
    other = token[::-1]
    upper = _build_upper(packet, token, cut=packet.pieces is not Pieces.WHOLE)
    source = (INNER if packet.origin is Origin.FORWARDED else NEAR)[packet.version]
    number = int(token[1:-1])
    if packet.version == 4:
        options = bytes((1, 1, 1, 0)) if how == "options" else b""  # NOP, NOP, NOP, end
        cuts = [(upper, 0, False)]
        if packet.pieces is not Pieces.WHOLE:
            cuts = [(upper, 0, True), (other, len(upper), False)]
        found = [_build_ip4(packet, source, options, number % 65535 + 1, *cut) for cut in cuts]
    else:
        extensions = _list_extensions(how)
        cuts = [(upper, 0, False)]
        if packet.pieces is not Pieces.WHOLE:
            cuts = [(upper, 0, True), (other, len(upper), False)]
        found = [_build_ip6(packet, source, extensions, number, *cut) for cut in cuts]
    tokens = [token, other][: len(found)]
    wanted = {Pieces.FIRST: slice(0, 1), Pieces.LATER: slice(1, 2)}.get(packet.pieces, slice(0, 2))
    return found[wanted], tuple(tokens[wanted])


def _build_upper(packet: Packet, token: bytes, cut: bool) -> bytes:
    """Return what is in IP, in a length that fragments can have where it is to be cut."""
    if packet.protocol == TCP:  # a reset, which nobody answers
        made = struct.pack("!HHIIBBHHH", packet.source_port, packet.port, 0, 1, 0x50, 0x14, 0, 0, 0)
    elif packet.protocol == UDP:
        length = _UDP_HEADER + len(token) + (0 if not cut else -(_UDP_HEADER + len(token)) % 8 + len(token))
        made = struct.pack("!HHHH", packet.source_port, packet.port, length, 0)
    elif packet.protocol == ICMP6:
        made = struct.pack("!BBHI", packet.icmp, 0, 0, 0)
    elif packet.protocol == ICMP:
        made = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    else:
        made = bytes(4)
    made += token
    if packet.length:
        made += bytes(packet.length - len(made))
    return made + bytes(-len(made) % 8 if cut else 0)


def _build_ip4(
    packet: Packet, source: str, options: bytes, number: int, content: bytes, offset: int, more: bool
) -> bytes:
    words = (20 + len(options)) // 4
    total = 4 * words + len(content)
    pieces = 0x2000 * more | offset // 8
    header = struct.pack("!BBHHHBB", 0x40 | words, 0, total, number, pieces, packet.hops, packet.protocol)
    addresses = _pack(source) + _pack(packet.destination) + options
    checksum = sum(struct.unpack(f"!{2 * words - 1}H", header + addresses))
    while checksum > 0xFFFF:
        checksum = (checksum & 0xFFFF) + (checksum >> 16)
    return header + struct.pack("!H", ~checksum & 0xFFFF) + addresses + content


def _list_extensions(how: str) -> tuple[int, ...]:
    known = {"hop": (_HOP,), "options": (_OPTIONS,), "routing": (_ROUTING,), "all": (_HOP, _OPTIONS, _ROUTING)}
    return known.get(how, ())


def _build_ip6(
    packet: Packet, source: str, extensions: tuple[int, ...], number: int, content: bytes, offset: int, more: bool
) -> bytes:
    chain = [*extensions, *([_FRAGMENT] if more or offset else []), packet.protocol]
    headers = b""
    for kind, following in zip(chain, chain[1:]):
        if kind == _FRAGMENT:
            headers += struct.pack("!BBHI", following, 0, offset | more, number)
        elif kind == _ROUTING:  # type 2, with nothing left to visit (RFC 6275, 6.4)
            headers += struct.pack("!BBBBI16s", following, 2, 2, 0, 0, _pack(packet.destination))
        else:  # PadN
            headers += struct.pack("!BBBB4s", following, 0, 1, 4, b"")
    length = len(headers) + len(content)
    return struct.pack("!IHBB", 6 << 28, length, chain[0], packet.hops) + _pack(source) + _pack(packet.destination) + (
        headers + content
    )


def _pack(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _list_ports(packet: Packet) -> bytes:
    """Return addresses and ports as they stand one behind the other, in IPv4 and IPv6 without options alike."""
    free = ipaddress.ip_address(packet.destination) in FREE_NETWORKS[packet.version]
    source = {4: "10.9.0.1", 6: "2001:db8:f::1"}[packet.version] if free else NEAR[packet.version]
    return _pack(source) + _pack(packet.destination) + struct.pack("!HH", packet.source_port, packet.port)


def _make_address(packet: Packet, port: int = 0) -> tuple[str, int] | tuple[str, int, int, int]:
    if packet.version == 4:
        return packet.destination, port
    local = packet.destination.startswith(("fe80:", "ff"))
    return packet.destination, port, 0, socket.if_nametoindex(packet.device) if local else 0


def _open_socket(packet: Packet, kind: int, protocol: int = 0) -> socket.socket:
    with acting_as(packet.uid):
        made = socket.socket(socket.AF_INET6 if packet.version == 6 else socket.AF_INET, kind, protocol)
    if packet.mark:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, packet.mark)
    if packet.version == 4:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if ipaddress.ip_address(packet.destination).is_multicast or packet.destination == "255.255.255.255":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, packet.device.encode())
    return made


def _send_udp(packet: Packet, content: bytes) -> None:
    with _open_socket(packet, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if packet.source_port:
            sender.bind(("", packet.source_port))
        with contextlib.suppress(PermissionError):  # what a firewall drops on its way out
            sender.sendto(content, _make_address(packet, packet.port))


def _connect(packet: Packet) -> None:
    with _open_socket(packet, socket.SOCK_STREAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sender.setblocking(False)
        sender.bind(("", packet.source_port))
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError, PermissionError):
            sender.connect(_make_address(packet, packet.port))


def _send_raw(packet: Packet, pieces: Sequence[bytes]) -> None:
    if packet.origin is Origin.FORWARDED:
        packet = packet._replace(device="eth0", mark=0, uid=0)  # the inner machine's only device
    with _open_socket(packet, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        if packet.version == 6:
            sender.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        for piece in pieces:
            with contextlib.suppress(PermissionError):
                sender.sendto(piece, _make_address(packet))


# --- at the far end


def _begin_conversation(packet: Packet) -> None:
    """Send a datagram to the port that `packet` will come from."""
    with socket.socket(socket.AF_INET6 if packet.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("", packet.port))
        sender.sendto(b"<begins>", (NEAR[packet.version], packet.source_port))


def _provoke(packet: Packet, token: bytes) -> None:
    """Send what the kernel of the laptop answers with `packet`: an echo request, a connection to a closed port, or a
    datagram to one.
    """
    family = socket.AF_INET6 if packet.version == 6 else socket.AF_INET
    near = NEAR[packet.version]
    if packet.protocol == TCP:
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.bind(("", packet.port))
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                client.connect((near, packet.source_port))
    elif packet.icmp in (0, 129):
        request, number = (128, socket.IPPROTO_ICMPV6) if packet.version == 6 else (8, socket.IPPROTO_ICMP)
        message = struct.pack("!BBHHH", request, 0, 0, 1, 1) + token
        if packet.version == 4:
            words = message + bytes(len(message) % 2)
            checksum = sum(struct.unpack(f"!{len(words) // 2}H", words))
            checksum = (checksum & 0xFFFF) + (checksum >> 16)
            message = message[:2] + struct.pack("!H", ~(checksum + (checksum >> 16)) & 0xFFFF) + message[4:]
        with socket.socket(family, socket.SOCK_RAW, number) as sender:
            sender.sendto(message, (near, 0))
    else:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(token, (near, CLOSED_PORT))
