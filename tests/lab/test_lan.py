"""``netconf-guard-allow lan``: the link's own prefixes, and how devices are found there, by both firewalls."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from .attacks.capture import Capture
from .attacks.place import call_in
from .guarded import HINTS, configure, reaches_internet, read_guard
from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, HOME, INTERNET_HOST
from .stanzas import read_status
from .bridges import BRIDGE, add_guest, pings
from .waiting import wait_until

BACKENDS = pytest.mark.parametrize("backend", ["nftables", "iptables"])
GROUPS = {"mDNS": ("224.0.0.251", 5353), "SSDP": ("239.255.255.250", 1900), "LLMNR": ("224.0.0.252", 5355),
          "WS-Discovery": ("239.255.255.250", 3702)}  # fmt: skip
GROUPS6 = {"mDNS": ("ff02::fb", 5353), "SSDP": ("ff02::c", 1900), "LLMNR": ("ff02::1:3", 5355),
           "WS-Discovery": ("ff02::c", 3702)}  # fmt: skip
# Joins a group, asks it, and prints the first answer: a printer's.
ASK = """
import socket, struct, sys
group, port, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
family = socket.AF_INET6 if ":" in group else socket.AF_INET
channel = socket.socket(family, socket.SOCK_DGRAM)
channel.settimeout(3)
index = socket.if_nametoindex(device)
if family == socket.AF_INET:
    membership = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), index)
    channel.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    channel.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, membership)
    place = (group, port)
else:
    membership = socket.inet_pton(family, group) + struct.pack("=I", index)
    channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    place = (group, port, 0, index)
try:
    channel.sendto(b"who is there?", place)
    print(channel.recv(100).decode())
except OSError as error:
    print(error)
"""
# Joins groups, and stays: who leaves a group at once may do so before the kernel has sent its report.
JOIN = """
import signal, socket, struct, sys
index, kept = socket.if_nametoindex("eth0"), []
for group in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    channel = socket.socket(family, socket.SOCK_DGRAM)
    kept.append(channel)
    if family == socket.AF_INET:
        membership = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), index)
        channel.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    else:
        membership = socket.inet_pton(family, group) + struct.pack("=I", index)
        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
signal.pause()
"""
# A printer: answers each question to one of the groups.
PRINTER = """
import select, socket, struct, sys
heard = []
for word in sys.argv[1:]:
    group, _, port = word.partition("/")
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    channel = socket.socket(family, socket.SOCK_DGRAM)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    index = socket.if_nametoindex("lan")
    if family == socket.AF_INET:
        membership = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), index)
        channel.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    else:
        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                           socket.inet_pton(family, group) + struct.pack("=I", index))
    channel.bind((group, int(port), 0, index) if family == socket.AF_INET6 else (group, int(port)))
    heard.append(channel)
print("ready", flush=True)
while True:
    for channel in select.select(heard, [], [])[0]:
        _, sender = channel.recvfrom(1000)
        channel.sendto(b"a printer", sender)
"""


class Member(NamedTuple):
    """A report of membership that left the laptop: IGMP or MLD, and whether it names the group."""

    protocol: int
    destination: str


@pytest.fixture
def dhcp_client() -> str:
    """None of this depends on the DHCP client."""
    return DHCP_CLIENTS[0]


@pytest.fixture
def printer(lab: Lab) -> Iterator[Lab]:
    """The lab, with a printer in the café and another one at home."""
    lab.network.write("/run/printer.py", PRINTER)
    words = " ".join(dict.fromkeys(f"{group}/{port}" for group, port in (*GROUPS.values(), *GROUPS6.values())))
    for site in (CAFE, HOME):
        start = f"/usr/bin/python3 /run/printer.py {words} >/run/printer-{site.name}.log 2>&1 &"
        lab.network.run(site.name, ["sh", "-c", start])
        wait_until(lambda: "ready" in lab.network.read(f"/run/printer-{site.name}.log"), "a printer")
    yield lab


def ask(lab: Lab, group: str, port: int) -> str:
    """Ask a group as a process of the laptop, and return the answer, or why there is none."""
    command = ["/usr/bin/python3", "-IS", "-", group, str(port), "eth0"]
    return lab.laptop.run(command, text=ASK).stdout.strip()


def list_members(capture: Capture) -> set[Member]:
    """Return the reports of groups that were on the wire since the last look, IGMP and MLD of version 1."""
    found = set()
    for frame in capture.read():
        data = frame.data
        if data[12:14] == b"\x08\x00" and data[23] == 2:
            found.add(Member(2, socket.inet_ntop(socket.AF_INET, data[30:34])))
        elif data[12:14] == b"\x86\xdd" and data[20] == 0 and data[54] == 58 and data[62] == 131:
            found.add(Member(58, socket.inet_ntop(socket.AF_INET6, data[38:54])))
    return found


def allows(lab: Lab, backend: str, prefix: str) -> bool:
    """Whether the firewall lets everything to a prefix through on eth0."""
    listing = ["nft", "list", "chain", "inet", "netconf-guard", "lan-eth0"]
    if backend == "iptables":
        listing = ["iptables", "-t", "mangle", "-S", "nchw-lan-eth0"]
    return prefix in lab.laptop.run(listing).stdout


@BACKENDS
def test_the_printer_is_found_and_reached(printer: Lab, backend: str) -> None:
    """Everything on the link's own prefix, and each way of finding a device; nothing beyond the router."""
    lab, laptop = printer, printer.laptop
    configure(lab, "guard yes", "guard-allow lan", f"guard-backend {backend}", HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    assert read_guard(lab) == "closed" and not reaches_internet(laptop)
    assert laptop.pings(CAFE.router) and laptop.connects(CAFE.router, 53)
    for name, (group, port) in {**GROUPS, **{f"{name}6": each for name, each in GROUPS6.items()}}.items():
        # A link-local address is tentative for a moment after ifup.
        wait_until(lambda: ask(lab, group, port) == "a printer", f"an answer to {name}", 15.0)
    assert ask(lab, "224.0.0.250", 5353) != "a printer" and ask(lab, "224.0.0.251", 5354) != "a printer"
    assert read_status(lab)["guards"]["eth0"]["lan"] == [f"192.168.{CAFE.number}.0/24", "fe80::/64"]
    assert "the LAN may be reached: 192.168.3.0/24" in laptop.run(["netconf-hooks", "status"]).stdout
    explained = laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
    assert "netconf-guard-allow lan: allows 192.168.3.0/24, fe80::/64" in explained
    assert laptop.run(["netconf-hooks", "check", "eth0"], check=False).returncode == 0


@BACKENDS
def test_without_it_nothing_is_found(printer: Lab, backend: str) -> None:
    lab, laptop = printer, printer.laptop
    configure(lab, "guard yes", f"guard-backend {backend}", HINTS)
    lab.plug("cafe")
    with Capture(lab.network.wire_namespace) as capture:
        laptop.ifup("eth0")
        assert not laptop.pings(CAFE.router)
        for group, port in (*GROUPS.values(), *GROUPS6.values()):
            assert ask(lab, group, port) != "a printer"
        assert list_members(capture) == set()


@BACKENDS
@pytest.mark.parametrize("version", ["3", "2"])
def test_the_kernels_joins_leave_and_no_others(printer: Lab, backend: str, version: str) -> None:
    """By the groups themselves in IGMPv2 and MLDv1, by the routers' in IGMPv3; never what a process makes up."""
    lab, laptop = printer, printer.laptop
    laptop.run(["sysctl", "-q", "-w", f"net.ipv4.conf.all.force_igmp_version={version}"])
    laptop.run(["sysctl", "-q", "-w", f"net.ipv6.conf.all.force_mld_version={'1' if version == '2' else '0'}"])
    configure(lab, "guard yes", "guard-allow lan", f"guard-backend {backend}", HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    seen: set[Member] = set()
    expected = {Member(2, "224.0.0.22")}
    if version == "2":
        expected = {Member(2, group) for group, _ in GROUPS.values()}
        expected |= {Member(58, group) for group, _ in GROUPS6.values()}

    def collect() -> bool:
        seen.update(list_members(capture))
        return expected <= seen

    groups = sorted({group for group, _ in (*GROUPS.values(), *GROUPS6.values())})
    with Capture(lab.network.wire_namespace) as capture:
        member = laptop.start(["/usr/bin/python3", "-IS", "-", *groups], text=JOIN)
        try:
            wait_until(collect, "the kernel's reports", 30.0)
        except TimeoutError:
            pytest.fail(f"no report of {expected - seen}")
        finally:
            member.kill()
        allowed = {*(group for group, _ in (*GROUPS.values(), *GROUPS6.values())), "224.0.0.22", "224.0.0.2"}
        others = {each.destination for each in seen if not each.destination.startswith("ff02::1:ff")} - allowed
        assert others == set()
        forge = """
import socket
for kind, group in (("=", "224.0.0.22"), ("=", "224.0.0.251"), ("=", "224.0.0.77")):
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 2)
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    try:
        raw.sendto(b"\\x16\\x00\\x00\\x00forged!!", (group, 0))
    except OSError:
        pass
"""
        laptop.run(["/usr/bin/python3", "-IS", "-"], text=forge)
        laptop.pings(CAFE.router)
        frames = capture.read()
        assert frames and not any(b"forged!!" in frame.data for frame in frames)


WIDE = {
    "larger than a /16": ("10.66.0.7/15", "10.66.0.1", False), "a /16": ("10.66.0.7/16", "10.66.0.1", True),
    "a public prefix": ("203.0.113.77/24", "203.0.113.78", False),
}


@pytest.mark.parametrize("address, router, reached", WIDE.values(), ids=WIDE)
def test_what_the_network_gives_the_link_is_bounded(printer: Lab, address: str, router: str, reached: bool) -> None:
    lab, laptop = printer, printer.laptop
    lab.network.run("cafe", ["ip", "addr", "add", f"{router}/{address.partition('/')[2]}", "dev", "lan"])
    configure(
        lab, "guard yes", "guard-allow lan", HINTS,
        head=f"iface eth0 inet static\n    address {address}\n    gateway {router}",
    )  # fmt: skip
    lab.plug("cafe")
    laptop.ifup("eth0")
    assert laptop.pings(router) is reached
    assert (ask(lab, *GROUPS["mDNS"]) == "a printer") is reached
    if not reached:
        assert "netconf-guard-allow lan: allows " in laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
        assert address in laptop.run(["netconf-hooks", "explain", "eth0"]).stdout.partition("; not ")[2]


@BACKENDS
def test_it_ends_with_the_network(printer: Lab, backend: str) -> None:
    """On another network the first one's prefix is not let through, not even until somebody has looked at it."""
    lab, laptop = printer, printer.laptop
    configure(lab, "guard yes", "guard-allow lan", f"guard-backend {backend}", HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    assert laptop.pings(CAFE.router)
    assert allows(lab, backend, "192.168.3.0/24")
    lab.unplug("eth0")
    wait_until(lambda: not allows(lab, backend, "192.168.3.0/24"), "the LAN to be shut", 5.0)
    assert read_status(lab)["guards"]["eth0"]["lan"] == []
    laptop.run(["netconf-hooks", "refresh"])
    assert not allows(lab, backend, "192.168.3.0/24")
    laptop.ifdown("eth0")
    lab.plug("home")
    laptop.ifup("eth0")
    assert laptop.pings(HOME.router) and not laptop.pings(INTERNET_HOST)
    assert read_status(lab)["guards"]["eth0"]["lan"][0] == "192.168.1.0/24"


def test_guests_of_a_bridge_reach_the_lan(printer: Lab) -> None:
    lab, laptop = printer, printer.laptop
    rules = ("guard yes", "guard-allow lan", "trust hints", "outside-ports eth0")
    laptop.write("/etc/network/interfaces", BRIDGE + "".join(f"    netconf-{rule}\n" for rule in rules))
    lab.plug("cafe")
    laptop.ifup("br0")
    add_guest(lab, "guest0", 77, CAFE)
    assert pings(lab, "guest0", CAFE.router) and not pings(lab, "guest0", INTERNET_HOST)
    command = ["ip", "netns", "exec", "guest0", "/usr/bin/python3", "-IS", "-", *map(str, GROUPS["mDNS"]), "eth0"]
    assert laptop.run(command, text=ASK).stdout.strip() == "a printer"
    laptop.ifdown("br0")


def test_the_cafes_own_prefix_may_be_that_of_the_office(printer: Lab) -> None:
    """The manual says so: whatever private prefix a network has, its LAN is what is reached there."""
    lab, laptop = printer, printer.laptop
    lab.network.run("cafe", ["ip", "addr", "add", "10.99.0.254/24", "dev", "lan"])
    lab.network.change_dhcp("cafe", "--dhcp-option=3,10.99.0.254", prefix="10.99.0")
    configure(lab, "guard yes", "guard-allow lan", HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    with call_in(lab.network.namespace("cafe"), lambda: socket.create_server(("10.99.0.254", 8080))):
        assert laptop.connects("10.99.0.254", 8080)
