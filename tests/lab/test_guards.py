"""Both firewalls of the guard, side by side: the same packets through each, and a capture at the far end of the wire.

What arrives is what counts; counters of the laptop's own do not.  Every packet is first sent without a guard, and has
to arrive.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
import itertools
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import GuardError, OPEN, PORTAL, TokenGone, Window, iptables, nftables

from .namespaces import Namespaces, enter_network
from .pair import QUIET
from .waiting import wait_until

if TYPE_CHECKING:
    from netconf_hooks.guard.firewall import AnyFirewall

T = TypeVar("T")

DEVICE = "eth0"
ROOT, NOBODY, DAEMON = 0, 65534, 1
MARK = 0x6E636866

LAPTOP_MAC, FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
NEAR4, FAR4, OTHER4 = "192.0.2.2", "192.0.2.1", "198.51.100.7"
NEAR6, FAR6, OTHER6 = "2001:db8:1::2", "2001:db8:1::1", "2001:db8:2::7"
INNER4, INNER6 = "192.168.9.2", "2001:db8:9::2"

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_8021Q, ETH_P_EAPOL = 3, 0x0800, 0x0806, 0x8100, 0x888E
SO_RCVBUFFORCE = 33
IPPROTO_ESP = 50

LAPTOP = f"""
link add eth0 address {LAPTOP_MAC} type veth peer name far netns FAR
link add inner type veth peer name eth0 netns INNER
link set lo up
link set eth0 up
link set inner up
addr add {NEAR4}/24 dev eth0
addr add {NEAR6}/64 dev eth0 nodad
addr add fe80::2/64 dev eth0 nodad
addr add 192.168.9.1/24 dev inner
addr add 2001:db8:9::1/64 dev inner nodad
neigh add {FAR4} lladdr {FAR_MAC} dev eth0 nud permanent
neigh add {FAR6} lladdr {FAR_MAC} dev eth0 nud permanent
route add default via {FAR4}
route add default via {FAR6}
"""
INNER = f"""
link set eth0 up
addr add {INNER4}/24 dev eth0
addr add {INNER6}/64 dev eth0 nodad
route add default via 192.168.9.1
route add default via 2001:db8:9::1
"""
FAR = f"""
link set far address {FAR_MAC} up
addr add {FAR4}/24 dev far
addr add {FAR6}/64 dev far nodad
"""


class Packet(NamedTuple):
    """What is sent: `protocol` ``udp``, ``tcp``, ``esp`` or ``icmp``, from the user `uid`, with `mark`."""

    protocol: str
    destination: str
    port: int = 0
    source_port: int = 0
    uid: int = ROOT
    mark: int = 0


class Network:
    """A laptop with eth0, the far end of its cable, and a machine behind the laptop, which forwards for it."""

    def __init__(self, laptop: Namespaces, far: Namespaces, inner: Namespaces) -> None:
        self._laptop, self._far, self._inner = laptop, far, inner
        self._threads = {
            name: ThreadPoolExecutor(1, initializer=_begin, initargs=(machine.files["net"],))
            for name, machine in (("laptop", laptop), ("inner", inner))
        }
        self._tokens = itertools.count(1)
        self._capture = _call_in(far.files["net"], _open_capture)

    def close(self) -> None:
        """End its threads."""
        for thread in self._threads.values():
            thread.shutdown()
        self._capture.close()

    def call(self, function: Callable[[], T], machine: str = "laptop") -> T:
        """Call `function` in the laptop's network, always in the same thread on the same processor: packets keep their
        order.
        """
        return self._threads[machine].submit(function).result()

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a program on the laptop and return its output."""
        return self._laptop.run(argv, check=check).stdout

    def send(self, packets: tuple[Packet, ...], machine: str = "laptop") -> list[Packet]:
        """Send packets and return those that arrive, in the order given."""
        tokens = {packet: self._make_token() for packet in packets}
        last = self._make_token()

        def work() -> None:
            for packet, token in tokens.items():
                _send(packet, token)

        self.call(work, machine)
        # ARP passes every guard, so what is not here before this will never be.
        self.call(lambda: _send_frame(ETH_P_ARP, last))
        seen = self.receive(last)
        return [packet for packet in packets if tokens[packet] in seen]

    def send_frame(self, kind: int, protocol: int | None = None, content: bytes = b"", device: str = DEVICE) -> bool:
        """Send a raw frame and return whether it arrives."""
        token, last = self._make_token(), self._make_token()
        self.call(lambda: _send_frame(kind, content + token, protocol, device))
        self.call(lambda: _send_frame(ETH_P_ARP, last))
        return token in self.receive(last)

    def receive(self, last: bytes) -> bytes:
        """Return all frames from the laptop up to the one that contains `last`."""
        seen = [b""]
        while last not in seen[-1]:
            frame, (_, _, kind, *_) = self._capture.recvfrom(65536)
            if kind != socket.PACKET_OUTGOING:  # an error that the far end sends back repeats the packet
                seen.append(frame)
        return b"".join(seen)

    def count(self, tokens: tuple[bytes, ...]) -> tuple[int, ...]:
        """Return how often each of `tokens` has arrived until now."""
        last = self._make_token()
        self.call(lambda: _send_frame(ETH_P_ARP, last))
        seen = self.receive(last)
        return tuple(seen.count(token) for token in tokens)

    def ask(self, packet: Packet) -> None:
        """Send a packet from the far end."""
        self.call_far(lambda: _send(packet, b"<begins>"))

    def call_far(self, function: Callable[[], T]) -> T:
        """Call `function` at the far end."""
        return _call_in(self._far.files["net"], function)

    def _make_token(self) -> bytes:
        return b"<" + b"%06d" % next(self._tokens) + b">"


def _begin(namespace: str) -> None:
    enter_network(namespace)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _call_in(namespace: str, function: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1, initializer=_begin, initargs=(namespace,)) as thread:
        return thread.submit(function).result()


def _open_capture() -> socket.socket:
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    capture.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 * 1024 * 1024)
    capture.bind(("far", ETH_P_ALL))
    capture.settimeout(10.0)
    return capture


@contextlib.contextmanager
def _acting_as(uid: int) -> Iterator[None]:
    """Make sockets that belong to `uid`: the owner that firewalls look at is setfsuid(2)'s, of this thread alone."""
    libc = ctypes.CDLL(None)
    libc.setfsuid(uid)
    try:
        yield
    finally:
        libc.setfsuid(0)


def _send(packet: Packet, token: bytes) -> None:
    """Send a packet with `token` in it."""
    family = socket.AF_INET6 if ":" in packet.destination else socket.AF_INET
    numbers = {"udp": 0, "tcp": socket.IPPROTO_TCP, "esp": IPPROTO_ESP, "icmp": socket.IPPROTO_ICMP}
    kind = socket.SOCK_DGRAM if packet.protocol == "udp" else socket.SOCK_RAW
    number = numbers[packet.protocol]
    if packet.protocol == "icmp" and family == socket.AF_INET6:
        number = socket.IPPROTO_ICMPV6
    with _acting_as(packet.uid):
        sender = socket.socket(family, kind, number)
    with sender:
        if packet.mark:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, packet.mark)
        if packet.protocol == "udp":
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if packet.source_port:
                sender.bind(("", packet.source_port))
        elif packet.protocol == "tcp":
            # A reset as it answers a request: nobody answers that.
            token = struct.pack("!HHIIBBHHH", packet.source_port, packet.port, 0, 1, 0x50, 0x14, 0, 0, 0) + token
        elif packet.protocol == "icmp":
            token = struct.pack("!BBHHH", 128 if family == socket.AF_INET6 else 8, 0, 0, 1, 1) + token
        with contextlib.suppress(PermissionError):  # what a firewall drops on its way out
            if packet.destination.startswith("ff"):
                sender.sendto(token, (packet.destination, packet.port, 0, socket.if_nametoindex(DEVICE)))
            elif packet.destination == "255.255.255.255":
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE.encode())
                sender.sendto(token, (packet.destination, packet.port))
            else:
                port = packet.port if packet.protocol == "udp" else 0
                sender.sendto(token, (packet.destination, port))


def _send_frame(kind: int, content: bytes, protocol: int | None = None, device: str = DEVICE) -> None:
    """Send a frame to the far end: `kind` in its header, `protocol` (without: the same) in the kernel's own field."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        header = bytes.fromhex((FAR_MAC + LAPTOP_MAC).replace(":", "")) + struct.pack("!H", kind)
        with contextlib.suppress(OSError):
            sender.sendto(header + content, (device, kind if protocol is None else protocol))


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of the test's own."""
    with Namespaces(("mnt", "net")) as laptop, Namespaces(("net",)) as far, Namespaces(("net",)) as inner:
        for machine in (laptop, far, inner):
            machine.run(["sysctl", "-q", "-p", "-"], text=QUIET)
        laptop.run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
        # Pids of the machine's, as it sees them: ip(8) looks them up in its own /proc.
        text = LAPTOP.replace("FAR", str(far.pid)).replace("INNER", str(inner.pid))
        laptop.run(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        _batch(laptop.files["net"], text)
        _batch(far.files["net"], FAR)
        _batch(inner.files["net"], INNER)
        # A link that is up drops everything until the kernel has noticed its carrier, which takes a busy one a while.
        for machine in (laptop, far, inner):
            wait_until(lambda machine=machine: not _list_deaf(machine), "the links to carry packets")
        made = Network(laptop, far, inner)
        yield made
        made.close()


def _list_deaf(machine: Namespaces) -> list[str]:
    """Return the links that are up, but not operational yet: their queue, noop, drops each packet."""
    up = [link for link in json.loads(machine.run(["ip", "-j", "link"]).stdout) if "UP" in link["flags"]]
    return [link["ifname"] for link in up if link["qdisc"] == "noop" or link["operstate"] not in ("UP", "UNKNOWN")]


def _batch(namespace: str, text: str) -> None:
    subprocess.run(["nsenter", f"--net={namespace}", "ip", "-batch", "-"], input=text, text=True, check=True)


@pytest.fixture(params=["nftables", "iptables-legacy", "iptables-nft"])
def guard(request: pytest.FixtureRequest, network: Network, tmp_path: Path) -> AnyFirewall:
    """Each firewall in turn; its methods have to be called in the laptop's network."""
    if request.param == "nftables":
        return network.call(nftables.Firewall)
    variant = request.param.partition("-")[2]
    return network.call(lambda: iptables.Firewall(variant=variant, lock=str(tmp_path / "lock")))


UDP4 = Packet("udp", FAR4, 1194)
UDP6 = Packet("udp", FAR6, 1194)
TCP4 = Packet("tcp", FAR4, 443, 5000)
TCP6 = Packet("tcp", FAR6, 443, 5000)
ESP4 = Packet("esp", FAR4)
ESP6 = Packet("esp", FAR6)
PING4 = Packet("icmp", FAR4)
PING6 = Packet("icmp", FAR6)

# What passes an exemption, and what differs from that in one thing only.
OPENINGS = {
    "udp to an address and port": (
        Exemption("udp", f"{FAR4}/32", 1194),
        (UDP4, UDP4._replace(uid=NOBODY), UDP4._replace(mark=7), UDP4._replace(source_port=4000)),
        (UDP4._replace(port=1195), UDP4._replace(destination=OTHER4), TCP4._replace(port=1194), UDP6, ESP4, PING4),
    ),
    "the same, IPv6": (
        Exemption("udp", f"{FAR6}/128", 1194),
        (UDP6, UDP6._replace(uid=NOBODY)),
        (UDP6._replace(port=1195), UDP6._replace(destination=OTHER6), TCP6._replace(port=1194), UDP4, ESP6, PING6),
    ),
    "tcp to a network": (
        Exemption("tcp", "192.0.2.0/25", 443),
        (TCP4,),
        (TCP4._replace(destination=OTHER4), TCP4._replace(port=444), UDP4._replace(port=443), TCP6),
    ),
    "tcp to a network, IPv6": (
        Exemption("tcp", "2001:db8:2::/48", 443),
        (TCP6._replace(destination=OTHER6),),
        (TCP6, TCP6._replace(destination=OTHER6, port=444), UDP6._replace(destination=OTHER6, port=443), TCP4),
    ),
    "a network with all in it": (
        Exemption("", "198.51.100.0/24"),
        tuple(packet._replace(destination=OTHER4) for packet in (UDP4, TCP4, ESP4, PING4)),
        (UDP4, TCP4, ESP4, PING4, UDP6, PING6),
    ),
    "all of IPv4": (Exemption("", "0.0.0.0/0"), (UDP4, TCP4, ESP4, PING4), (UDP6, TCP6, ESP6, PING6)),
    "all of IPv6": (Exemption("", "::/0"), (UDP6, TCP6, ESP6, PING6), (UDP4, TCP4, ESP4, PING4)),
    "esp": (Exemption("esp", f"{FAR4}/32"), (ESP4,), (ESP4._replace(destination=OTHER4), ESP6, UDP4, PING4)),
    "esp, IPv6": (Exemption("esp", f"{FAR6}/128"), (ESP6,), (ESP6._replace(destination=OTHER6), ESP4, UDP6, PING6)),
    "a port anywhere": (
        Exemption("udp", "", 123),
        (UDP4._replace(port=123), UDP6._replace(port=123), UDP4._replace(port=123, destination=OTHER4)),
        (UDP4, UDP6, TCP4._replace(port=123), TCP6._replace(port=123)),
    ),
    "a port of udp and tcp": (
        Exemption("", f"{FAR4}/32", 53),
        (UDP4._replace(port=53), TCP4._replace(port=53)),
        (UDP4, TCP4, UDP6._replace(port=53), UDP4._replace(port=53, destination=OTHER4), ESP4),
    ),
    "a source port": (
        Exemption("udp", f"{FAR4}/32", 1194, source_port=4001),
        (UDP4._replace(source_port=4001), UDP4._replace(source_port=4001, uid=NOBODY)),
        (UDP4._replace(source_port=4002), UDP4._replace(source_port=4001, port=1195), UDP6._replace(source_port=4001)),
    ),
    "users": (
        Exemption("udp", f"{FAR4}/32", 1194, uids=(ROOT, NOBODY)),
        (UDP4, UDP4._replace(uid=NOBODY)),
        (UDP4._replace(uid=DAEMON), UDP4._replace(uid=NOBODY, port=1195)),
    ),
    "a user, tcp, IPv6": (
        Exemption("tcp", "", 443, uids=(NOBODY,)),
        (TCP6._replace(uid=NOBODY), TCP4._replace(uid=NOBODY)),
        (TCP6, TCP4, TCP6._replace(uid=NOBODY, port=444), TCP6._replace(uid=DAEMON)),
    ),
    "a mark": (
        Exemption("udp", f"{FAR6}/128", 1194, mark=MARK),
        (UDP6._replace(mark=MARK), UDP6._replace(mark=MARK, uid=NOBODY)),
        (UDP6, UDP6._replace(mark=MARK + 1), UDP6._replace(mark=MARK, destination=OTHER6), UDP4._replace(mark=MARK)),
    ),
    "a mark and a user": (
        Exemption("tcp", f"{FAR4}/32", 443, uids=(ROOT,), mark=MARK),
        (TCP4._replace(mark=MARK),),
        (TCP4, TCP4._replace(mark=MARK, uid=NOBODY), TCP4._replace(mark=MARK, port=444)),
    ),
    "nothing": (
        Exemption("udp", "203.0.113.1/32", 1194),
        (),
        (UDP4, UDP6, TCP4, TCP6, ESP4, ESP6, PING4, PING6, UDP4._replace(mark=MARK), UDP4._replace(uid=NOBODY)),
    ),
}


@pytest.mark.parametrize("case", OPENINGS)
def test_opening(network: Network, guard: AnyFirewall, case: str) -> None:
    """What matches an exemption arrives, what differs in one thing does not, forwarded packets never."""
    exemption, passing, others = OPENINGS[case]
    packets = passing + others
    forwarded = tuple(packet for packet in packets if packet.protocol == "udp" and not packet.uid and not packet.mark)
    assert network.send(packets) == list(packets)
    assert network.send(forwarded, "inner") == list(forwarded)
    network.call(lambda: guard.close(DEVICE, (exemption,)))
    assert network.send(packets) == list(passing)
    assert network.send(forwarded, "inner") == []
    network.call(lambda: guard.lift(DEVICE))
    assert network.send(packets) == list(packets)


@pytest.mark.parametrize("far, near", [(FAR4, NEAR4), (FAR6, NEAR6)], ids=["IPv4", "IPv6"])
def test_reply_udp(network: Network, guard: AnyFirewall, far: str, near: str) -> None:
    """Who came in is answered; the same packet to who did not come in stays here, and so do answers from elsewhere."""
    answer = Packet("udp", far, 7001, 22)
    others = (answer._replace(port=7002), answer._replace(source_port=23, port=7003))
    assert network.send((answer, *others)) == [answer, *others]
    # To conntrack what was sent so far is a conversation of the laptop's own: other ports from here on.
    answer, stranger, elsewhere = (answer._replace(port=port) for port in (7011, 7012, 7013))
    elsewhere = elsewhere._replace(source_port=23)
    network.call(lambda: guard.close(DEVICE, (Exemption("udp", source_port=22, reply=True),)))
    assert network.send((answer, stranger, elsewhere)) == []
    # Those were never sent, so conntrack has forgotten them: whoever comes in now has begun.
    for port, to in ((7011, 22), (7013, 23)):
        network.ask(Packet("udp", near, to, port))
    assert network.send((answer, stranger, elsewhere)) == [answer]


@pytest.mark.parametrize("far, near", [(FAR4, NEAR4), (FAR6, NEAR6)], ids=["IPv4", "IPv6"])
def test_reply_tcp(network: Network, guard: AnyFirewall, far: str, near: str) -> None:
    """Who comes in can connect, to that port and from that network; nobody can be connected to from that port."""
    family, length = (socket.AF_INET6, 128) if ":" in near else (socket.AF_INET, 32)
    with contextlib.ExitStack() as servers:
        for port in (22, 23):
            servers.enter_context(network.call(lambda: socket.create_server((near, port), family=family)))

        def try_ports() -> list[int]:
            return [port for port in (22, 23) if network.call_far(lambda: _connect(near, port)) == 0]

        begun = Packet("tcp", far, 7001, 22)
        assert try_ports() == [22, 23]
        assert network.send((begun,)) == [begun]
        network.call(lambda: guard.close(DEVICE, (Exemption("tcp", f"{far}/{length}", source_port=22, reply=True),)))
        assert try_ports() == [22]
        assert network.send((begun._replace(port=7002),)) == []
        elsewhere = "2001:db8:2::/64" if ":" in far else "198.51.100.0/24"
        network.call(lambda: guard.close(DEVICE, (Exemption("tcp", elsewhere, source_port=22, reply=True),)))
        assert try_ports() == []


DHCP = (
    Packet("udp", "255.255.255.255", 67, 68),
    Packet("udp", "ff02::1:2", 547, 546),
)
NOT_DHCP = (
    Packet("udp", FAR4, 67, 68),
    Packet("udp", "255.255.255.255", 67, 69),
    Packet("udp", "255.255.255.255", 69, 68),
    Packet("udp", FAR6, 547, 546),
    Packet("udp", "ff02::1:3", 547, 546),
    Packet("udp", "ff02::1:2", 547, 547),
)


def test_dhcp(network: Network, guard: AnyFirewall) -> None:
    """A client's questions to all pass; what only looks like them does not, and none of it is forwarded."""
    assert network.send(DHCP + NOT_DHCP) == list(DHCP + NOT_DHCP)
    network.call(lambda: guard.close(DEVICE, ()))
    assert network.send(DHCP + NOT_DHCP) == list(DHCP)
    relayed = (Packet("udp", FAR4, 67, 68), Packet("udp", FAR6, 547, 546))
    assert network.send(relayed, "inner") == []


def _send_icmp6(kind: int, destination: str, hops: int, token: bytes, uid: int = ROOT) -> None:
    with _acting_as(uid):
        sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with sender, contextlib.suppress(PermissionError):
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
        message = struct.pack("!BBHI", kind, 0, 0, 0) + token
        sender.sendto(message, (destination, 0, 0, socket.if_nametoindex(DEVICE)))


def test_neighbours_made_up(network: Network, guard: AnyFirewall) -> None:
    """Of neighbour discovery and MLD a process may only solicit routers, with nothing else in it."""
    made = {
        b"<solicit>": (133, "ff02::2", 255, b""),
        b"<long>...": (133, "ff02::2", 255, bytes(64)),
        b"<onehop>.": (133, "ff02::2", 64, b""),
        b"<unicast>": (133, FAR6, 255, b""),
        b"<advert>.": (134, "ff02::1", 255, b""),
        b"<ns>.....": (135, "ff02::1:ff00:1", 255, b""),
        b"<na>.....": (136, FAR6, 255, b""),
        b"<redir>..": (137, FAR6, 255, b""),
        b"<mld>....": (143, "ff02::16", 1, b""),
        b"<done>...": (132, "ff02::2", 1, b""),
        b"<report>.": (131, "ff02::1:ff00:1", 1, b""),
    }

    def send_all() -> list[bytes]:
        for token, (kind, destination, hops, more) in made.items():
            network.call(lambda: _send_icmp6(kind, destination, hops, token + more))
        counts = network.count(tuple(made))
        return [token for token, count in zip(made, counts) if count]

    assert send_all() == list(made)
    # All of IPv6 is open beside: what is made up does not pass as that either.
    network.call(lambda: guard.close(DEVICE, (Exemption("", "::/0"),)))
    assert send_all() == [b"<solicit>"]


def test_neighbours_of_the_kernel(network: Network, guard: AnyFirewall) -> None:
    """The kernel finds its neighbours and tells which groups it is in; a closed address is not even asked for."""
    group = socket.inet_pton(socket.AF_INET6, "ff05::4711")

    def join() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as member:
            request = group + struct.pack("@I", socket.if_nametoindex(DEVICE))
            member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)

    network.call(lambda: guard.close(DEVICE, (Exemption("udp", "2001:db8:1::77/128", 1194),)))
    wanted, closed = (socket.inet_pton(socket.AF_INET6, f"2001:db8:1::{end}") for end in (77, 78))
    network.call(join)
    for destination in ("2001:db8:1::77", "2001:db8:1::78"):
        network.call(lambda: _send(Packet("udp", destination, 1194), b"<hello>"))
    total = [0, 0, 0]

    def look() -> bool:
        for place, count in enumerate(network.count((wanted, closed, group))):
            total[place] += count
        return bool(total[0] and total[2])

    wait_until(look, "a solicitation and a report on the wire")
    assert total[1] == 0


def test_forwarded(network: Network, guard: AnyFirewall) -> None:
    """What comes from elsewhere leaves through an open link only, whatever is let through for the laptop itself."""
    packets = (UDP4, UDP6, TCP4, TCP6, ESP4, PING4, PING6)
    assert network.send(packets, "inner") == list(packets)
    everything = (Exemption(),)
    until = time.time() + 60
    network.call(lambda: guard.close(DEVICE, everything, (Window(PORTAL, everything, until),)))
    assert network.send(packets) == list(packets)
    assert network.send(packets, "inner") == []
    network.call(lambda: guard.open_window(DEVICE, Window(OPEN, everything, until)))
    assert network.send(packets, "inner") == list(packets)
    network.call(lambda: guard.shut_window(DEVICE, OPEN))
    assert network.send(packets, "inner") == []


def test_window(network: Network, guard: AnyFirewall) -> None:
    """A window lets through what it is for, and the kernel shuts it when its time is over."""
    inside = (TCP4._replace(port=80, uid=NOBODY), UDP6._replace(port=53, uid=NOBODY))
    outside = (TCP4._replace(port=80), UDP6._replace(port=53), TCP4._replace(port=81, uid=NOBODY))
    network.call(lambda: guard.close(DEVICE, ()))
    assert network.send(inside + outside) == []
    exemptions = (Exemption("tcp", "", 80, uids=(NOBODY,)), Exemption("udp", "", 53, uids=(NOBODY,)))
    until = time.time() + 1.5
    network.call(lambda: guard.open_window(DEVICE, Window(PORTAL, exemptions, until)))
    assert network.send(inside + outside) == list(inside)
    # Put again with another end: that counts.
    until += 0.7
    network.call(lambda: guard.open_window(DEVICE, Window(PORTAL, exemptions, until)))
    wait_until(lambda: network.send(inside) == [], "the window to be shut", 10.0)
    # Seconds are what iptables knows.
    assert until <= time.time() < until + 2
    assert network.call(lambda: not guard.find_fallen((DEVICE,)))


@pytest.mark.parametrize("zone, offset", [("Pacific/Kiritimati", 14), ("Pacific/Pago_Pago", -11)])
def test_time_zone(
    network: Network, guard: AnyFirewall, monkeypatch: pytest.MonkeyPatch, zone: str, offset: int
) -> None:
    """The end of a window is in no time zone, and this process and what it starts keep their own."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        network.call(lambda: guard.close(DEVICE, ()))
        network.call(lambda: guard.open_window(DEVICE, Window(PORTAL, (Exemption(),), time.time() + 60)))
        assert network.send((UDP4, UDP6)) == [UDP4, UDP6]
        assert time.localtime().tm_gmtoff == offset * 3600
        assert subprocess.run(["printenv", "TZ"], capture_output=True, text=True).stdout == f"{zone}\n"
        network.call(lambda: guard.open_window(DEVICE, Window(PORTAL, (Exemption(),), time.time() + 0.2)))
        wait_until(lambda: network.send((UDP4, UDP6)) == [], "the window to be shut")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_clock(network: Network) -> None:
    """By nftables, a window whose timeout stood still, as it does while the machine sleeps, ends by the clock."""
    guard = network.call(nftables.Firewall)
    network.call(lambda: guard.close(DEVICE, ()))
    until = time.time() + 1.0
    network.call(lambda: guard.open_window(DEVICE, Window(PORTAL, (Exemption(),), until)))
    network.run("nft", f"flush set inet netconf-guard portal-{DEVICE}; "
                f"add element inet netconf-guard portal-{DEVICE} {{ {DEVICE} timeout 1h }}; "
                "delete table netdev netconf-guard")  # fmt: skip
    assert network.send((UDP4, UDP6)) == [UDP4, UDP6]
    wait_until(lambda: network.send((UDP4, UDP6)) == [], "the window to be shut")
    assert until <= time.time() < until + 2


def test_window_over_a_close(network: Network, guard: AnyFirewall) -> None:
    """A window stays open over a close that names it, for its time, and is shut by one that does not."""
    until = time.time() + 60
    window = Window(PORTAL, (Exemption("udp", "", 53),), until)
    question = UDP4._replace(port=53)
    network.call(lambda: guard.close(DEVICE, (), (window,)))
    assert network.send((question, UDP4)) == [question]
    network.call(lambda: guard.close(DEVICE, (), (window,)))
    assert network.send((question, UDP4)) == [question]
    network.call(lambda: guard.close(DEVICE, ()))
    assert network.send((question, UDP4)) == []
    # One that is over already opens nothing.
    network.call(lambda: guard.open_window(DEVICE, Window(PORTAL, (Exemption(),), time.time() - 1)))
    assert network.send((question, UDP4)) == []


def test_lease(network: Network, guard: AnyFirewall) -> None:
    """An opened link closes by itself."""
    assert guard.has_lease
    network.call(lambda: guard.close(DEVICE, ()))
    assert network.send((UDP4, UDP6)) == []
    until = time.time() + 1.0
    network.call(lambda: guard.open_window(DEVICE, Window(OPEN, (Exemption(),), until)))
    assert network.send((UDP4, UDP6)) == [UDP4, UDP6]
    assert network.send((UDP4, UDP6), "inner") == [UDP4, UDP6]
    wait_until(lambda: network.send((UDP4, UDP6)) == [], "the lease to end")
    # Seconds are what iptables knows.
    assert until <= time.time() < until + (1 if guard.name == "nftables" else 2)
    assert network.send((UDP4, UDP6), "inner") == []
    assert network.call(lambda: not guard.find_fallen((DEVICE,)))


def _open(until: float) -> Window:
    return Window(OPEN, (Exemption(),), until)


def test_opening_never_overtakes_shutting(network: Network, guard: AnyFirewall) -> None:
    """A link opens for a look that began after it was last shut, and once for each."""
    until = time.time() + 60
    network.call(lambda: guard.close(DEVICE, ()))
    for token in ("0badcafe", "00000001", "00000002"):
        network.call(lambda: guard.begin_look(DEVICE, token))
    network.call(lambda: guard.open_window(DEVICE, _open(until), "0badcafe"))
    assert network.send((UDP4, UDP6)) == [UDP4, UDP6]
    network.call(lambda: guard.close(DEVICE, (), (_open(until),), "00000001"))
    assert network.send((UDP4, UDP6)) == [UDP4, UDP6]
    network.call(lambda: guard.shut_window(DEVICE, OPEN))
    for token in ("0badcafe", "00000001", "00000002", "00000003"):
        with pytest.raises(TokenGone):
            network.call(lambda: guard.open_window(DEVICE, _open(until), token))
        with pytest.raises(TokenGone):
            network.call(lambda: guard.close(DEVICE, (), (_open(until),), token))
        assert network.send((UDP4, UDP6)) == []
    assert network.call(lambda: not guard.find_fallen((DEVICE,)))
    network.call(lambda: guard.begin_look(DEVICE, "00000004"))
    network.call(lambda: guard.close(DEVICE, (Exemption("udp", "", 53),)))
    network.call(lambda: guard.open_window(DEVICE, _open(until), "00000004"))
    assert network.send((UDP4, UDP6)) == [UDP4, UDP6]
    network.call(lambda: guard.close(DEVICE, ()))
    assert network.send((UDP4, UDP6)) == []


def test_looks_that_never_open(network: Network, guard: AnyFirewall) -> None:
    """A guard that stays closed for days does not fill up with tokens; the newest looks still count."""
    network.call(lambda: guard.close(DEVICE, ()))
    for number in range(40):
        network.call(lambda: guard.begin_look(DEVICE, f"{number:08x}"))
    if guard.name != "nftables":
        assert network.run(guard.name, "-t", "mangle", "-S", f"ncht-{DEVICE}").count("-A ") == iptables.TOKENS
    network.call(lambda: guard.open_window(DEVICE, _open(time.time() + 60), f"{38:08x}"))
    assert network.send((UDP4, UDP6)) == [UDP4, UDP6]


def test_renewed(network: Network, guard: AnyFirewall) -> None:
    """A lease is renewed while the window is open, and never opens one that was shut or has ended."""
    network.call(lambda: guard.close(DEVICE, ()))
    assert not network.call(lambda: guard.renew_window(DEVICE, _open(time.time() + 60)))
    assert network.send((UDP4, UDP6)) == []
    first = time.time() + 1.5
    network.call(lambda: guard.open_window(DEVICE, _open(first)))
    last = first + 2.0
    assert network.call(lambda: guard.renew_window(DEVICE, _open(last)))
    wait_until(lambda: network.send((UDP4, UDP6)) == [], "the lease to end", 15.0)
    assert last <= time.time() < last + 2
    assert not network.call(lambda: guard.renew_window(DEVICE, _open(time.time() + 60)))
    assert network.send((UDP4, UDP6)) == network.send((UDP4, UDP6), "inner") == []
    network.call(lambda: guard.open_window(DEVICE, _open(time.time() + 60)))
    network.call(lambda: guard.shut_window(DEVICE, OPEN))
    assert not network.call(lambda: guard.renew_window(DEVICE, _open(time.time() + 60)))
    assert network.send((UDP4, UDP6)) == network.send((UDP4, UDP6), "inner") == []


@pytest.mark.parametrize("variant", ["legacy", "nft"])
@pytest.mark.parametrize("back, passes", [(60.0, False), (2.0, True)])
def test_clock_set_back(
    network: Network, monkeypatch: pytest.MonkeyPatch, variant: str, back: float, passes: bool
) -> None:
    """By iptables, windows shut if the clock is set back, but not for what an NTP client corrects.

    The clock is every machine's: here the window was opened by one that was ahead.
    """
    guard = network.call(lambda: iptables.Firewall(variant=variant))
    network.call(lambda: guard.close(DEVICE, ()))
    ahead = time.time() + back
    monkeypatch.setattr(iptables.time, "time", lambda: ahead)
    network.call(lambda: guard.open_window(DEVICE, _open(ahead + 3600)))
    network.call(lambda: guard.open_window(DEVICE, Window(PORTAL, (Exemption(),), ahead + 3600)))
    monkeypatch.undo()
    packets = [UDP4, UDP6] if passes else []
    assert network.send((UDP4, UDP6)) == network.send((UDP4, UDP6), "inner") == packets
    assert network.call(lambda: guard.renew_window(DEVICE, _open(time.time() + 60))) == passes
    assert network.send((UDP4, UDP6)) == packets


def test_a_look_opens_only_what_was_not_shut_since_it_began(network: Network) -> None:
    """By nftables: opening, replacing the rules of an open link and renewing fail once somebody has shut it."""
    guard = network.call(nftables.Firewall)
    first, second, third = "00000001", "0000abcd", "deadbeef"

    def open_window(token: str) -> None:
        window = Window(OPEN, (Exemption(),), time.time() + 60)
        network.call(lambda: guard.open_window(DEVICE, window, token))

    def renew() -> bool:
        window = Window(OPEN, (Exemption(),), time.time() + 60)
        return network.call(lambda: guard.renew_window(DEVICE, window))

    with pytest.raises(GuardError, match="not guarded"):
        network.call(lambda: guard.begin_look(DEVICE, first))
    assert network.call(lambda: guard.is_open(DEVICE))  # nothing stands
    network.call(lambda: guard.close(DEVICE, ()))
    assert not network.call(lambda: guard.is_open(DEVICE))
    assert not renew()
    for token in (first, second):
        network.call(lambda: guard.begin_look(DEVICE, token))
    # Closed anew for another reason, looks go on.
    network.call(lambda: guard.close(DEVICE, (Exemption("udp", "", 123),)))
    open_window(second)
    assert network.call(lambda: guard.is_open(DEVICE))
    assert network.send((UDP4, UDP6)) == [UDP4, UDP6]
    with pytest.raises(TokenGone):
        open_window(second)  # it has opened already
    assert renew()
    network.call(lambda: guard.shut_window(DEVICE, OPEN))
    assert not network.call(lambda: guard.is_open(DEVICE))
    assert not renew()
    with pytest.raises(TokenGone):
        open_window(first)
    with pytest.raises(TokenGone):
        network.call(
            lambda: guard.close(DEVICE, (), (Window(OPEN, (Exemption(),), time.time() + 60),), first)
        )  # fmt: skip
    assert network.send((UDP4, UDP6)) == []
    network.call(lambda: guard.begin_look(DEVICE, third))
    network.call(lambda: guard.close(DEVICE, (), (Window(OPEN, (Exemption(),), time.time() + 60),), third))
    assert network.send((UDP4, UDP6)) == [UDP4, UDP6]
    with pytest.raises(GuardError, match="not a token"):
        network.call(lambda: guard.begin_look(DEVICE, "1; flush ruleset"))
    network.call(lambda: guard.lift(DEVICE))
    assert network.run("nft", "list ruleset") == ""


def test_shutting_works_without_the_table_for_frames(network: Network) -> None:
    """By nftables: somebody has taken one of both tables away."""
    guard = network.call(nftables.Firewall)
    network.call(lambda: guard.close(DEVICE, ()))
    network.call(lambda: guard.begin_look(DEVICE, "00000001"))
    network.call(lambda: guard.open_window(DEVICE, Window(OPEN, (Exemption(),), time.time() + 60), "00000001"))
    network.run("nft", "delete table netdev netconf-guard")
    network.call(lambda: guard.shut_window(DEVICE, OPEN))
    assert network.send((UDP4, UDP6)) == []


def test_the_rules_of_an_older_version_are_shut_and_put_back(network: Network) -> None:
    """By nftables: they have no set for tokens."""
    guard = network.call(nftables.Firewall)
    network.call(lambda: guard.close(DEVICE, ()))
    network.call(lambda: guard.open_window(DEVICE, Window(OPEN, (Exemption(),), time.time() + 60)))
    network.run("nft", f"delete set inet netconf-guard token-{DEVICE}")
    assert not network.call(lambda: not guard.find_fallen((DEVICE,)))
    network.call(lambda: guard.shut_window(DEVICE, OPEN))
    assert network.send((UDP4, UDP6)) == []
    assert network.call(lambda: not guard.find_fallen((DEVICE,)))


def test_frames(network: Network, guard: AnyFirewall) -> None:
    """Raw frames, with a VLAN's tag or by a bridge: closed where the firewall can; the other one says that it can't."""
    packet = struct.pack("!BBHHHBBH4s4sHHHH", 0x45, 0, 64, 0, 0, 64, 17, 0, socket.inet_aton(NEAR4),
                         socket.inet_aton(FAR4), 7, 1194, 44, 0)  # fmt: skip
    network.run("ip", "link", "add", "br0", "up", "type", "bridge")
    network.run("ip", "link", "set", DEVICE, "master", "br0")
    frames: dict[str, Callable[[], bool]] = {
        "IPv4": lambda: network.send_frame(ETH_P_IP, content=packet),
        "IPv4 that calls itself ARP": lambda: network.send_frame(ETH_P_IP, ETH_P_ARP, packet),
        "ARP that calls itself IPv4": lambda: network.send_frame(0x88B5, ETH_P_ARP),
        "VLAN": lambda: network.send_frame(ETH_P_8021Q, content=b"\0\7\x08\0" + packet),
        "bridge": lambda: network.send_frame(ETH_P_IP, content=packet, device="br0"),
        "unknown": lambda: network.send_frame(0x88B5),
    }
    assert [name for name, send in frames.items() if not send()] == []
    exemptions = (Exemption("udp", f"{FAR4}/32", 1195), Exemption("udp", f"{FAR6}/128", 1194))
    network.call(lambda: guard.close(DEVICE, exemptions))
    arrived = [name for name, send in frames.items() if send()]
    if any(lack.startswith("no egress chain") for lack in guard.lacks):
        assert guard.name.startswith("iptables-")
        assert arrived == list(frames)
    else:
        assert guard.name == "nftables"
        assert arrived == []
    assert network.send_frame(ETH_P_ARP)
    assert network.send_frame(ETH_P_EAPOL)
    # A VLAN's frames stay closed even where all else may pass.
    network.call(lambda: guard.close(DEVICE, (Exemption(),)))
    assert frames["IPv4"]()
    assert frames["VLAN"]() == guard.name.startswith("iptables-")
    # Open is open for them, too.
    network.call(lambda: guard.open_window(DEVICE, Window(OPEN, (Exemption(),), time.time() + 60)))
    assert [name for name, send in frames.items() if not send()] == []


def test_fragments(network: Network, guard: AnyFirewall) -> None:
    """A packet that is let through arrives whole, though only its first fragment tells the port."""
    # Eight bytes: fragments are cut at multiples of that.
    word, times = b"<wholly>", 500
    for destination, length in ((FAR4, 32), (FAR6, 128)):
        for port in (1194, 1195):
            def send(to: str = destination, number: int = port) -> None:
                with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    with contextlib.suppress(PermissionError):
                        sender.sendto(word * times, (to, number))

            network.call(lambda: guard.lift(DEVICE))
            network.call(send)
            assert network.count((word,)) == (times,)
            network.call(lambda: guard.close(DEVICE, (Exemption("udp", f"{destination}/{length}", 1194),)))
            network.call(send)
            assert network.count((word,)) == (times if port == 1194 else 0,)


def test_device_that_comes_and_goes(network: Network, guard: AnyFirewall) -> None:
    """A guard can be put before its device is there, and outlives it."""
    network.call(lambda: guard.close("eth7", (Exemption("udp", f"{FAR4}/32", 1194),)))
    assert network.call(lambda: not guard.find_fallen(("eth7",)))
    for _ in range(2):
        network.run("ip", "link", "add", "eth7", "type", "veth", "peer", "name", "peer7")
        network.call(lambda: guard.close("eth7", (Exemption("udp", f"{FAR4}/32", 1195),)))
        assert network.call(lambda: not guard.find_fallen(("eth7",)))
        network.run("ip", "link", "del", "eth7")
        assert network.call(lambda: not guard.find_fallen(("eth7",)))
        network.call(lambda: guard.close("eth7", ()))
    network.call(lambda: guard.close(DEVICE, ()))
    network.call(lambda: guard.lift("eth7"))
    assert not network.call(lambda: not guard.find_fallen(("eth7",)))
    assert network.call(lambda: not guard.find_fallen((DEVICE,)))
    assert network.send((UDP4, UDP6)) == []


def test_renamed(network: Network, guard: AnyFirewall) -> None:
    """A device that takes the name of a guarded one which was renamed is guarded by the next close."""
    network.call(lambda: guard.close(DEVICE, ()))
    network.run("ip", "link", "set", DEVICE, "down")
    network.run("ip", "link", "set", DEVICE, "name", "old0")
    network.run("ip", "link", "add", DEVICE, "type", "veth", "peer", "name", "peer0")
    network.call(lambda: guard.close(DEVICE, ()))
    assert network.call(lambda: not guard.find_fallen((DEVICE,)))


def _take_ruleset(network: Network, name: str) -> str:
    """Return what stands in the firewall, without what changes by itself."""
    if name == "nftables":
        return network.run("nft", "--stateless", "list", "ruleset")
    programs = (name, name.replace("ip", "ip6", 1))
    saved = "".join(network.run(f"{program}-save", "-t", "mangle") for program in programs)
    return "\n".join(line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#"))


ADMINS = {
    "nftables": ["nft", "add table ip admin; add chain ip admin out { type filter hook postrouting priority 100; };"
                 "add rule ip admin out udp dport 9999 drop"],  # fmt: skip
    **{
        f"iptables-{variant}": [
            f"iptables-{variant}", "-t", "mangle", "-A", "POSTROUTING", "-p", "udp", "--dport", "9999", "-j", "DROP"
        ]
        for variant in ("legacy", "nft")
    },
}  # fmt: skip


def test_admins_own(network: Network, guard: AnyFirewall) -> None:
    """The admin's rules apply to what is let through, stay as they are, and are all that is left in the end."""
    allowed, forbidden = UDP4._replace(port=9998), UDP4._replace(port=9999)
    assert network.send((allowed, forbidden)) == [allowed, forbidden]
    _take_ruleset(network, guard.name)  # to look at iptables' tables makes them
    network.run(*ADMINS[guard.name])
    before = _take_ruleset(network, guard.name)
    assert "9999" in before
    assert network.send((allowed, forbidden)) == [allowed]
    for device in (DEVICE, "wlan0", DEVICE):
        network.call(lambda: guard.close(device, (Exemption("udp", f"{FAR4}/32"),)))
    assert network.send((allowed, forbidden, UDP6)) == [allowed]
    network.call(lambda: guard.open_window(DEVICE, Window(OPEN, (Exemption(),), time.time() + 60)))
    assert network.send((allowed, forbidden, UDP6)) == [allowed, UDP6]
    during = _take_ruleset(network, guard.name)
    assert during != before
    # Put twice, it stands once: in the tables of both families.
    assert during.count(f"-A POSTROUTING -o {DEVICE} ") == (0 if guard.name == "nftables" else 2)
    kept = iter(during.splitlines())
    assert all(line in kept for line in before.splitlines())
    network.call(lambda: guard.lift(DEVICE))
    assert network.call(lambda: not guard.find_fallen(("wlan0",)))
    assert DEVICE not in _take_ruleset(network, guard.name)
    network.call(lambda: guard.lift("wlan0"))
    assert _take_ruleset(network, guard.name) == before


# By python-iptables, which asks the kernel by libiptc and knows nothing of iptables-save.
READER = """
import json, iptc
found = {}
for version, table in ((4, iptc.Table("mangle")), (6, iptc.Table6("mangle"))):
    table.refresh()
    for chain in table.chains:
        rules = found.setdefault(f"{version} {chain.name}", [])
        for rule in chain.rules:
            words = [] if rule.dst in ("0.0.0.0/0.0.0.0", "::/0") else ["-d", rule.dst]
            words += [] if not rule.out_interface else ["-o", rule.out_interface]
            words += [] if rule.protocol == "ip" else ["-p", rule.protocol]
            for match in rule.matches:
                words += ["-m", match.name]
                for name, value in match.parameters.items():
                    words += ["--" + name.replace("_", "-"), value]
            rules.append(" ".join([*words, "-g" if rule.target.goto else "-j", rule.target.name]))
print(json.dumps(found))
"""


def test_read_by_another_program(network: Network) -> None:
    """What stands in the legacy tables is what was to be put there, by another reader than our own."""
    pytest.importorskip("iptc", reason="apt install python3-iptables")
    guard = network.call(lambda: iptables.Firewall(variant="legacy"))
    exemptions = tuple(exemption for exemption, _, _ in OPENINGS.values())
    exemptions += (Exemption("tcp", f"{FAR4}/32", source_port=22, reply=True),)
    windows = (_open(time.time() + 60), Window(PORTAL, (Exemption("udp", "", 53, uids=(NOBODY,)),), time.time() + 60))
    before = time.time()
    assert network.call(iptables.list_legacy_guards) == ()
    assert "ip_tables_names" not in network.run("grep", "-sl", "mangle", "/proc/net/ip_tables_names", check=False)
    network.call(lambda: guard.close(DEVICE, exemptions, windows))
    assert network.call(iptables.list_legacy_guards) == network.call(guard.list_devices) == (DEVICE,)
    result = network.run("/usr/bin/python3", "-c", READER)
    found = json.loads(result.splitlines()[-1])
    for version in (4, 6):
        assert found[f"{version} POSTROUTING"] == [f"-o {DEVICE} -j nchw-open-{DEVICE}"]
        assert found[f"{version} FORWARD"] == [f"-o {DEVICE} -j nchf-{DEVICE}"]
        for chain, rules in iptables.build_chains(DEVICE, version, exemptions, windows, before).items():
            read = [_spell(rule) for rule in found[f"{version} {chain}"]]
            assert read == [_spell(rule) for rule in rules], chain


def _spell(rule: str) -> str:
    """Return a rule without what two readers spell in their own way, its time and its comment."""
    rule = re.sub(r"--datestart \S+", "--datestart then", rule)
    rule = re.sub(r"-m comment --comment [0-9a-f]{8} ", "", rule).replace("ipv6-icmp", "icmpv6")
    return re.sub(r"-d (\S+)", lambda found: f"-d {ipaddress.ip_network(found[1])}", rule)


FLUSHES = {
    "nftables": [
        ["nft", "flush", "ruleset"],
        ["nft", "flush", "table", "inet", "netconf-guard"],
        ["nft", "delete", "table", "netdev", "netconf-guard"],
        ["nft", "flush", "chain", "inet", "netconf-guard", "postrouting"],
        ["nft", "flush", "chain", "inet", "netconf-guard", "forward"],
        ["nft", "flush", "chain", "inet", "netconf-guard", f"pass-{DEVICE}"],
        ["nft", "flush", "chain", "inet", "netconf-guard", f"out-{DEVICE}"],
        ["nft", "insert", "rule", "inet", "netconf-guard", f"pass-{DEVICE}", "accept"],
        ["nft", "delete", "element", "inet", "netconf-guard", "out", f'{{ "{DEVICE}" }}'],
        ["nft", "flush", "chain", "netdev", "netconf-guard", f"egress-{DEVICE}"],
        ["nft", "flush", "chain", "netdev", "netconf-guard", f"frames-{DEVICE}"],
    ],
    **{
        f"iptables-{variant}": [
            [f"iptables-{variant}", "-t", "mangle", "-F"],
            [f"ip6tables-{variant}", "-t", "mangle", "-F", "POSTROUTING"],
            [f"ip6tables-{variant}", "-t", "mangle", "-F", "FORWARD"],
            [f"iptables-{variant}", "-t", "mangle", "-F", f"nchf-{DEVICE}"],
            [f"iptables-{variant}", "-t", "mangle", "-F", f"ncht-{DEVICE}"],
            [f"iptables-{variant}", "-t", "mangle", "-I", "POSTROUTING", "-j", "ACCEPT"],
            [f"iptables-{variant}", "-t", "mangle", "-I", "FORWARD", "-p", "udp", "-j", "ACCEPT"],
            [f"iptables-{variant}", "-t", "mangle", "-D", f"nch-{DEVICE}", "1"],
            [f"iptables-{variant}", "-t", "mangle", "-R", f"nch-{DEVICE}", "1", "-j", "RETURN"],
            [f"ip6tables-{variant}", "-t", "mangle", "-A", f"nch-{DEVICE}", "-j", "RETURN"],
            [f"iptables-{variant}", "-t", "mangle", "-F", f"nchw-portal-{DEVICE}"],
            [f"iptables-{variant}", "-t", "mangle", "-I", f"nchw-open-{DEVICE}", "-j", "RETURN"],
            [f"iptables-{variant}", "-t", "mangle", "-A", "POSTROUTING", "-o", DEVICE, "-j", f"nchw-open-{DEVICE}"],
            ["sh", "-c", f"printf '*mangle\\nCOMMIT\\n' | iptables-{variant}-restore"],
            *([["nft", "flush", "ruleset"]] if variant == "nft" else []),
        ]
        for variant in ("legacy", "nft")
    },
}


def test_flushed(network: Network, guard: AnyFirewall) -> None:
    """Whatever is taken out of a guard is noticed, and the next close puts it back."""
    allowed = (Exemption("udp", f"{FAR4}/32", 53),)
    for command in FLUSHES[guard.name]:
        network.call(lambda: guard.close(DEVICE, allowed))
        assert network.call(lambda: not guard.find_fallen((DEVICE,)))
        network.run(*command)
        assert not network.call(lambda: not guard.find_fallen((DEVICE,))), command
    network.call(lambda: guard.close(DEVICE, allowed))
    assert network.call(lambda: not guard.find_fallen((DEVICE,)))
    assert network.send((UDP4, UDP6, UDP4._replace(port=53))) == [UDP4._replace(port=53)]


def test_replaced_under_load(network: Network, guard: AnyFirewall) -> None:
    """Put again a hundred times while packets are sent: nothing slips through, and nothing is cut that may pass."""
    allowed, refused, opened = Exemption("udp", f"{FAR4}/32", 1194), b"<refused>", b"<allowed>"
    # For longer than the hundred changes take on a busy machine.
    window = Window(PORTAL, (Exemption("udp", f"{FAR6}/128", 1194),), time.time() + 600)
    network.call(lambda: guard.close(DEVICE, (allowed,), (window,)))
    done = threading.Event()
    sent = {"refused": 0, "allowed": 0, "cut": 0}

    def load() -> None:
        enter_network(network._laptop.files["net"])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four, socket.socket(
            socket.AF_INET6, socket.SOCK_DGRAM
        ) as six:
            while not done.is_set():
                for sender, to in ((four, (FAR4, 1195)), (six, (FAR6, 1195)), (four, (OTHER4, 1194))):
                    sent["refused"] += 1
                    with contextlib.suppress(PermissionError):
                        sender.sendto(refused, to)
                for sender, to in ((four, (FAR4, 1194)), (six, (FAR6, 1194))):
                    try:
                        sender.sendto(opened, to)
                        sent["allowed"] += 1
                    except PermissionError:
                        sent["cut"] += 1

    arrived = [0, 0]
    for batch in range(0, 100, 10):  # what arrives is counted before the capture's buffer is full
        done.clear()
        with ThreadPoolExecutor(1) as thread:
            loading = thread.submit(load)
            for number in range(batch, batch + 10):
                extra = (Exemption("udp", f"{OTHER4}/32", number + 2000),) * (number % 3)
                network.call(lambda: guard.close(DEVICE, (*extra, allowed), (window,)))
            done.set()
            loading.result()
        arrived = [sum(counts) for counts in zip(arrived, network.count((refused, opened)))]
    assert sent["refused"] > 1000
    assert arrived == [0, sent["allowed"]]
    assert sent["cut"] == 0
    # And it would have been seen.
    network.call(lambda: guard.lift(DEVICE))
    network.call(lambda: _send(UDP4._replace(port=1195), refused))
    assert network.count((refused,)) == (1,)


def _connect(destination: str, port: int, mark: int = 0) -> int:
    """Begin a TCP connection and return the error after a moment; EINPROGRESS where nobody has said anything."""
    with socket.socket(socket.AF_INET6 if ":" in destination else socket.AF_INET, socket.SOCK_STREAM) as client:
        if mark:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        client.settimeout(0.5)
        try:
            client.connect((destination, port))
            return 0
        except TimeoutError:
            return errno.EINPROGRESS
        except OSError as error:
            return error.errno or -1


@pytest.mark.parametrize("destination", [OTHER4, OTHER6])
def test_comfort(network: Network, destination: str) -> None:
    """By nftables, what comes to nothing is refused at once, but not what may yet go another way."""
    guard = network.call(nftables.Firewall)
    assert network.call(lambda: _connect(destination, 80)) == errno.EINPROGRESS
    network.call(lambda: guard.close(DEVICE, ()))
    assert network.call(lambda: _connect(destination, 80)) == errno.ECONNREFUSED
    assert network.call(lambda: _connect(destination, 80, mark=5)) == errno.EINPROGRESS
    network.call(lambda: guard.close(DEVICE, (Exemption("tcp", "", 80),)))
    assert network.call(lambda: _connect(destination, 80)) == errno.EINPROGRESS


def test_redirected(network: Network) -> None:
    """By nftables, what the admin's NAT leads to a service of this machine's own is not refused."""
    guard = network.call(nftables.Firewall)
    network.run("nft", "add table ip admin; add chain ip admin out { type nat hook output priority -100; };"
                "add rule ip admin out tcp dport 80 redirect to :8080")  # fmt: skip
    network.call(lambda: guard.close(DEVICE, ()))

    def serve() -> socket.socket:
        return socket.create_server(("", 8080))

    with network.call(serve):
        assert network.call(lambda: _connect(OTHER4, 80)) == 0
        assert network.call(lambda: _connect(OTHER4, 81)) == errno.ECONNREFUSED
