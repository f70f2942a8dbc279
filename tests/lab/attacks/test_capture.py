"""The judge of the attack lab, judged: what it lets pass, and that it lets nothing else pass."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from ..namespaces import Namespaces
from . import capture as module
from .capture import SECRET, Allowed, Capture, Frame, describe, find_arp_questions, find_leaks, is_allowed, name_sender
from .place import call_in

MAC = bytes.fromhex("02005e001001")
ROUTER_MAC = bytes.fromhex("02005e000301")
ALL = b"\xff" * 6
OWN, OWN6 = "192.168.3.101", "fe80::5eff:fe00:1001"
ROUTER, FAR = "192.168.3.1", "198.51.100.1"
ENDPOINT = "203.0.113.1"

ALLOWED = Allowed(
    flows=frozenset({(ENDPOINT, 17, 1194)}),
    dhcp_servers=frozenset({ROUTER}),
    resolvers=frozenset({ROUTER}),
    names=frozenset({"vpn.example.net"}),
    replies=frozenset({(6, 22)}),
)


def ether(kind: int, data: bytes, destination: bytes = ROUTER_MAC) -> Frame:
    return Frame(1.0, destination + MAC + kind.to_bytes(2, "big") + data)


def ipv4(protocol: int, body: bytes, destination: str, source: str = OWN, place: int = 0) -> Frame:
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, place, 64, protocol, 0)
    return ether(0x0800, header + addresses + body)


def ipv6(
    protocol: int, body: bytes, destination: str, source: str = OWN6, hops: int = 255, extension: bytes = b""
) -> Frame:
    following = 0 if extension else protocol
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, address) for address in (source, destination))
    header = struct.pack("!IHBB", 6 << 28, len(extension + body), following, hops)
    return ether(0x86DD, header + addresses + extension + body)


def udp(source: int, destination: int, data: bytes = b"") -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + len(data), 0) + data


def tcp(source: int, destination: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source, destination, 1, 0, 0x50, flags, 1024, 0, 0)


def dhcp(mac: bytes = MAC, operation: int = 1, magic: bytes = bytes((99, 130, 83, 99)), more: bytes = b"") -> bytes:
    head = struct.pack("!BBBB", operation, 1, 6, 0) + bytes(24) + mac
    return head + bytes(236 - len(head)) + magic + bytes((53, 1, 1, 255)) + more


def arp(operation: int = 1, sender: bytes = MAC, padding: bytes = b"") -> Frame:
    who = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + sender + socket.inet_aton(OWN)
    return ether(0x0806, who + bytes(6) + socket.inet_aton(ROUTER) + padding, ALL)


def question(name: str) -> bytes:
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return bytes((0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + labels + bytes((0, 0, 1, 0, 1))


SOURCE_ADDRESS = bytes((1, 1)) + MAC
SOLICITATION = bytes((135, 0, 0, 0)) + bytes(4) + socket.inet_pton(socket.AF_INET6, "fe80::1")
ADVERTISEMENT = bytes((136, 0, 0, 0)) + bytes((0x60, 0, 0, 0)) + socket.inet_pton(socket.AF_INET6, OWN6)
ROUTER_ALERT = bytes((58, 0, 5, 2, 0, 0, 1, 0))
REPORT = bytes((143, 0, 0, 0, 0, 0, 0, 1)) + bytes((4, 0, 0, 0)) + socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:1")

GOOD = {
    "ARP question": arp(),
    "ARP answer": arp(2),
    "ARP, padded": arp(padding=bytes(18)),
    "DHCP to all": ipv4(17, udp(68, 67, dhcp()), "255.255.255.255", "0.0.0.0"),
    "DHCP to the lease's server": ipv4(17, udp(68, 67, dhcp()), ROUTER),
    "DHCPv6": ipv6(17, udp(546, 547, b"\1abc"), "ff02::1:2", hops=1),
    "router solicitation": ipv6(58, bytes((133, 0, 0, 0)) + bytes(4) + SOURCE_ADDRESS, "ff02::2"),
    "neighbour solicitation": ipv6(58, SOLICITATION + SOURCE_ADDRESS, "ff02::1:ff00:1"),
    "duplicate address detection": ipv6(58, SOLICITATION + bytes((14, 1)) + bytes(6), "ff02::1:ff00:1", "::"),
    "neighbour advertisement": ipv6(58, ADVERTISEMENT + bytes((2, 1)) + MAC, "fe80::1"),
    "report of groups": ipv6(58, REPORT, "ff02::16", hops=1, extension=ROUTER_ALERT),
    "the tunnel": ipv4(17, udp(40000, 1194, b"\x38"), ENDPOINT),
    "its name": ipv4(17, udp(40000, 53, question("vpn.example.net")), ROUTER),
    "an answer": ipv4(6, tcp(22, 40000, 0x12), ROUTER),
}
BAD = {
    "cut off": Frame(1.0, ALL + MAC),
    "tagged": arp()._replace(tag=5),
    "priority tag": arp()._replace(tag=0),
    "LLC": ether(0x0026, bytes(38)),
    "EAPOL": ether(0x888E, bytes(40)),
    "ARP of another": arp(sender=ROUTER_MAC),
    "ARP with something behind": arp(padding=b"\0\0x"),
    "reverse ARP": arp(3),
    "DHCP to somebody": ipv4(17, udp(68, 67, dhcp()), FAR),
    "DHCP's ports, and no DHCP": ipv4(17, udp(68, 67, bytes(300)), "255.255.255.255"),
    "DHCP of another": ipv4(17, udp(68, 67, dhcp(mac=ROUTER_MAC)), "255.255.255.255"),
    "DHCP's answer": ipv4(17, udp(68, 67, dhcp(operation=2)), "255.255.255.255"),
    "DHCP server": ipv4(17, udp(67, 68, dhcp()), "255.255.255.255"),
    "DHCP with a secret": ipv4(17, udp(68, 67, dhcp(more=SECRET)), "255.255.255.255"),
    "DHCPv6 to somebody": ipv6(17, udp(546, 547, b"\1abc"), "2001:db8:ffff::1"),
    "solicitation from afar": ipv6(58, SOLICITATION + SOURCE_ADDRESS, "fe80::1", hops=254),
    "solicitation with a code": ipv6(58, bytes((135, 1)) + SOLICITATION[2:], "fe80::1"),
    "solicitation with room": ipv6(58, SOLICITATION + bytes((1, 4)) + bytes(30), "fe80::1"),
    "solicitation with odd options": ipv6(58, SOLICITATION + bytes((3, 1)) + bytes(6), "fe80::1"),
    "solicitation cut off": ipv6(58, SOLICITATION[:12], "fe80::1"),
    "solicitation with an extension": ipv6(58, SOLICITATION, "fe80::1", extension=ROUTER_ALERT),
    "router solicitation to one": ipv6(58, bytes((133, 0, 0, 0)) + bytes(4), "fe80::1"),
    "router advertisement": ipv6(58, bytes((134, 0, 0, 0)) + bytes(12), "ff02::1"),
    "redirect": ipv6(58, bytes((137, 0, 0, 0)) + bytes(36), "fe80::1"),
    "report from afar": ipv6(58, REPORT, "ff02::16", hops=64, extension=ROUTER_ALERT),
    "report to one": ipv6(58, REPORT, "2001:db8:ffff::1", hops=1, extension=ROUTER_ALERT),
    "echo": ipv4(1, bytes((8, 0, 0, 0, 0, 0, 0, 0)), ROUTER),
    "echo to the gateway": ipv4(1, bytes((8, 0, 0, 0, 0, 0, 0, 0)), ENDPOINT),
    "echo, IPv6": ipv6(58, bytes((128, 0, 0, 0, 0, 0, 0, 0)), "fe80::1"),
    "port unreachable": ipv4(1, bytes((3, 3, 0, 0)) + bytes(28), ENDPOINT),
    "the tunnel's port elsewhere": ipv4(17, udp(40000, 1194, b"\x38"), FAR),
    "another port at the gateway": ipv4(17, udp(40000, 1195, b"\x38"), ENDPOINT),
    "another protocol at the gateway": ipv4(6, tcp(40000, 1194, 0x02), ENDPOINT),
    "a secret to the gateway": ipv4(17, udp(40000, 1194, SECRET), ENDPOINT),
    "a fragment to the gateway": ipv4(17, udp(40000, 1194, b"\x38"), ENDPOINT, place=0x2000),
    "the last fragment": ipv4(17, udp(40000, 1194, b"\x38"), ENDPOINT, place=0x0010),
    "another name": ipv4(17, udp(40000, 53, question("www.example.net")), ROUTER),
    "the name asked elsewhere": ipv4(17, udp(40000, 53, question("vpn.example.net")), FAR),
    "a name by TCP": ipv4(6, tcp(40000, 53, 0x02), ROUTER),
    "a connection from port 22": ipv4(6, tcp(22, 40000, 0x02), FAR),
    "UDP from port 22": ipv4(17, udp(22, 40000), FAR),
    "an answer from port 23": ipv4(6, tcp(23, 40000, 0x12), ROUTER),
    "a reset": ipv4(6, tcp(40000, 80, 0x14), ROUTER),
    "IGMP": ipv4(2, bytes(8), "224.0.0.22"),
    "IPv6 in IPv4": ipv4(41, bytes(40), FAR),
    "IPv4 cut off": ether(0x0800, b"\x45\0"),
}


@pytest.mark.parametrize("what", GOOD)
def test_what_a_link_needs_passes(what: str) -> None:
    assert is_allowed(GOOD[what], ALLOWED), describe(GOOD[what])


@pytest.mark.parametrize("what", BAD)
def test_nothing_else_passes(what: str) -> None:
    assert not is_allowed(BAD[what], ALLOWED), describe(BAD[what])


@pytest.mark.parametrize("what", ["DHCP to the lease's server", "the tunnel", "its name", "an answer"])
def test_what_a_test_allows_is_a_leak_where_it_does_not(what: str) -> None:
    assert is_allowed(GOOD[what], ALLOWED)
    assert not is_allowed(GOOD[what], Allowed())


def test_every_good_frame_with_one_secret_is_a_leak() -> None:
    for what, frame in GOOD.items():
        assert not is_allowed(frame._replace(data=frame.data + SECRET + b"x;"), ALLOWED), what


def test_leaks_name_their_sender() -> None:
    told = ipv4(17, udp(40000, 9, SECRET + b"nobody/udp4/bound;..."), FAR)
    by_port = ipv4(6, tcp(40000, 21007, 0x02), FAR)
    unknown = ipv4(6, tcp(40000, 443, 0x02), FAR)
    frames = [GOOD["the tunnel"], told, by_port, unknown]
    leaks = find_leaks(frames, ALLOWED, {21007: "root/tcp4/beyond"})
    assert [leak.kind for leak in leaks] == ["nobody/udp4/bound", "root/tcp4/beyond", ""]
    assert leaks[2].summary == f"tcp 40000 > 443 {OWN} > {FAR} hops 64"
    assert name_sender(told, {}) == "nobody/udp4/bound"


def test_arp_questions_are_listed() -> None:
    assert find_arp_questions([arp(), arp(2), GOOD["the tunnel"]]) == {ROUTER}
    assert find_arp_questions([arp(2)]) == set()


@pytest.fixture
def wire() -> Iterator[tuple[str, str]]:
    """A cable between two network namespaces: their files.  v0 lies here, v1 there."""
    with Namespaces(("net",)) as here, Namespaces(("net",)) as there:
        subprocess.run(
            ["nsenter", f"--net={here.files['net']}", "ip", "-batch", "-"], check=True, text=True,
            input=f"link add v0 type veth peer name v1 netns {there.pid}\nlink set v0 up\n",
        )  # fmt: skip
        subprocess.run(["nsenter", f"--net={there.files['net']}", "ip", "link", "set", "v1", "up"], check=True)
        yield here.files["net"], there.files["net"]


def test_a_capture_has_every_frame_of_one_direction_and_its_tag(wire: tuple[str, str]) -> None:
    here, there = wire
    frame = ALL + MAC + b"\x08\x06" + bytes(46)
    tagged = ALL + MAC + b"\x81\x00\x00\x05\x08\x06" + bytes(46)

    def send(device: str, *frames: bytes) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packets:
            packets.bind((device, 0))
            for data in frames:
                packets.send(data)

    with Capture(here, "v0") as capture:
        capture.read()
        call_in(there, lambda: send("v1", *(20_000 * [frame]), tagged))
        call_in(here, lambda: send("v0", frame))
        frames = [got for got in capture.read() if got.data[6:12] == MAC]
        assert len(frames) == 20_001
        assert [got.tag for got in frames if got.tag >= 0] == [5]
        assert all(one.time <= next_one.time for one, next_one in zip(frames, frames[1:]))
        # The cable is pulled out and pushed in: it goes on.
        subprocess.run(["nsenter", f"--net={here}", "ip", "link", "set", "v0", "down"], check=True)
        subprocess.run(["nsenter", f"--net={here}", "ip", "link", "set", "v0", "up"], check=True)
        call_in(there, lambda: send("v1", frame))
        assert len([got for got in capture.read() if got.data == frame]) == 1


def test_a_capture_that_lost_a_frame_says_so(wire: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = wire
    monkeypatch.setattr(module, "_BUFFER", 4096)

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packets:
            packets.bind(("v1", 0))
            for _ in range(100):
                packets.send(ALL + MAC + b"\x08\x06" + bytes(1000))

    with Capture(here, "v0") as capture:
        call_in(there, send)
        with pytest.raises(AssertionError, match="the capture lost"):
            capture.read()


def test_a_capture_needs_its_link(wire: tuple[str, str]) -> None:
    with pytest.raises(OSError, match="No such device"):
        Capture(wire[0], "nosuch0")
