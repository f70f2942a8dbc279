"""Bridges, netconf-interfaces(5), LINKS MADE OF LINKS: where they are, and a guard that holds their guests as well.

The laptop's card is a veth in the lab, which on a machine of one's own is how a container's port looks.  So the stanzas
say that it leads outside.  A guest is a network namespace behind a veth.

What this machine's kernel lacks (bonds, VLANs, the bridge's name in nftables) is tested in `tests.vm.links`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .attacks.capture import SECRET, Capture, find_leaks
from .bridges import BRIDGE, add_guest, pings, run_in
from .guarded import CORP, HINTS, UNLESS, configure, judge, list_ruleset, make_allowed, read_guard
from .guests import count_leaks, start_guest
from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, HOME, INTERNET_HOST, OFFICE, Site
from .stanzas import LOCATIONS, RULES, find_records, read_location, read_status, wait_for_no_tunnel, wait_for_tunnel
from .waiting import wait_until
from .watcher import find_watchers

ONE_CLIENT = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
pytestmark = ONE_CLIENT

OUTSIDE = "outside-ports eth0 wlan*"
GUESTS = ("guest0", "guest1")

# A guest asks the café's router for a name, and sends without a pause.
ASK = f"""
import socket
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
channel.settimeout(5)
channel.connect(({CAFE.router!r}, 53))
channel.send(bytes((0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 6)) + b"router\\4cafe\\7example\\0\\0\\1\\0\\1")
channel.recv(512)
"""


def send_everything(lab: Lab, guest: str, site: Site) -> None:
    """Let a guest send what it can: TCP, UDP, pings, to the internet, the router and all of the link, IPv4 and IPv6,
    frames with a VLAN's tag and of other kinds, and UDP to the VPN's server, as the host's tunnel does."""
    script = f"""
import socket
places = [({INTERNET_HOST!r}, 80), ({site.router!r}, 54), ("203.0.113.1", 1194), ("192.168.{site.number}.255", 137)]
for place in places + [("2001:db8:ffff::1", 80), ("{site.prefix6}1", 53)]:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        channel = socket.socket(family, kind)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        channel.setblocking(False)
        try:
            channel.connect(place)
            channel.send({SECRET!r} + b"guest;")
        except OSError:
            pass
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
for kind in (b"\\x81\\x00\\x00\\x05\\x08\\x00", b"\\x88\\xb5", b"\\x88\\x8e"):
    raw.send(b"\\xff" * 6 + b"\\x02\\0\\0\\0\\0\\x77" + kind + {SECRET!r} + b"guest;" * 8)
"""
    assert run_in(lab, guest, "/usr/bin/python3", "-IS", "-", text=script)
    pings(lab, guest, INTERNET_HOST)


def set_filtering(lab: Lab, filtering: int) -> None:
    """Let br_netfilter hand what a bridge forwards to the host's firewall, or not."""
    names = ("iptables", "ip6tables", "arptables")
    lab.laptop.run(["sysctl", "-q", "-w", *(f"net.bridge.bridge-nf-call-{name}={filtering}" for name in names)])


def configure_bridge(lab: Lab, *rules: str, locations: str = LOCATIONS) -> None:
    """Write the stanza of br0, with eth0 as its port.  rules: as for `guarded.configure`."""
    configure(lab, OUTSIDE, *rules, head=BRIDGE.rstrip("\n"), locations=locations)


def test_a_bridge_whose_cable_was_pulled_counts_no_more(lab: Lab) -> None:
    """F3: a guest's port gives it carrier for ever."""
    wlan0 = f"\niface wlan0 inet dhcp\n    metric 200\n{RULES}"
    text = f"auto lo\niface lo inet loopback\n\n{BRIDGE}    metric 100\n{RULES}    netconf-{OUTSIDE}\n{wlan0}"
    lab.laptop.write("/etc/network/interfaces", text)
    lab.plug("office", "eth0")
    lab.plug("cafe", "wlan0")
    lab.laptop.ifup("br0")
    add_guest(lab, "guest0", 77, OFFICE)
    lab.laptop.ifup("wlan0")
    assert read_location(lab, "br0") == OFFICE.name + "-lan"
    wait_for_no_tunnel(lab)
    lab.unplug("eth0")
    assert lab.laptop.has_carrier("br0"), "the kernel's word: the guest's port has it"
    wait_until(lambda: read_status(lab)["tunnels"]["openvpn corp"]["wanted"], "the tunnel to be wanted", 5.0)
    status = lab.laptop.run(["netconf-hooks", "status"]).stdout
    assert "the kernel goes on using its routes: the port of a guest gives the bridge carrier" in status
    # Somewhere else: its DHCP client has noticed nothing, and the kernel still knows the office's router.
    lab.plug("cafe", "eth0")
    wait_until(lambda: lab.laptop.has_carrier("eth0"), "the carrier")
    wait_until(lambda: read_location(lab, "br0") is None, "br0 to be somewhere else", 5.0)
    assert read_status(lab)["tunnels"]["openvpn corp"]["wanted"]
    lab.plug("office", "eth0")
    wait_until(lambda: read_location(lab, "br0") == "office-lan", "the office to be known again", 15.0)
    wait_for_no_tunnel(lab)
    lab.laptop.ifdown("wlan0", "br0")
    assert find_records(lab) == []


@pytest.mark.parametrize("filtering", [0, 1])
def test_in_the_cafe_no_guest_gets_past_the_guard(lab: Lab, filtering: int) -> None:
    """F4."""
    laptop = lab.laptop
    set_filtering(lab, filtering)
    lab.plug("cafe")
    configure_bridge(lab, CORP)
    with Capture(lab.network.wire_namespace) as capture:
        laptop.ifup("br0")
        for number, guest in enumerate(GUESTS, 77):
            add_guest(lab, guest, number, CAFE)
        assert pings(lab, "guest0", INTERNET_HOST) and pings(lab, "guest0", f"{CAFE.prefix6}1")
        send_everything(lab, "guest0", CAFE)
        assert count_leaks(capture, CAFE) > 10, "without a guard everything leaves"
        laptop.ifdown("br0")
        wait_for_no_tunnel(lab)
        for guest in GUESTS:
            laptop.run(["ip", "link", "del", guest])
            laptop.run(["ip", "netns", "del", guest])

        configure_bridge(lab, CORP, UNLESS, HINTS, f"guard-allow {CAFE.router}:udp/53")
        capture.read()
        laptop.ifup("br0")
        wait_for_tunnel(lab)
        assert read_guard(lab, "br0") == "closed"
        for number, guest in enumerate(GUESTS, 77):
            add_guest(lab, guest, number, CAFE)
            send_everything(lab, guest, CAFE)
        # What the admin allows passes, in both directions; and the answer to who has this address.
        allowed = make_allowed(CAFE, (CAFE.router, 17, 53))
        judge(capture, allowed)
        assert run_in(lab, "guest0", "/usr/bin/python3", "-IS", "-c", ASK)
        judge(capture, allowed)
        wait_until(lambda: pings(lab, "guest0", "192.168.3.78"), "the other guest to answer", 5.0)
        assert pings(lab, "guest1", "2001:db8:3::77")
        judge(capture, allowed)
        # A port that appears is outside until it is known, and at once.
        lab.network.plug("cafe", "wlan0")
        with Capture(lab.network.wire_namespace, "wlan0") as added:
            laptop.run(["ip", "link", "set", "eth0", "nomaster"])
            laptop.run(["ip", "link", "set", "wlan0", "master", "br0", "up"])
            for guest in GUESTS:
                send_everything(lab, guest, CAFE)
            judge(added, allowed)
        # One after the other: both lead to the same switch.
        laptop.run(["ip", "link", "set", "wlan0", "nomaster"])
        laptop.run(["ip", "link", "set", "eth0", "master", "br0", "up"])
        laptop.ifdown("br0")
        wait_for_no_tunnel(lab)
        judge(capture, allowed)
    assert list_ruleset(laptop) == "" and find_records(lab) == []


def test_a_card_with_the_name_of_a_guests_port_is_no_guest(lab: Lab) -> None:
    """A guest's port is gone, and a card gets its name; the watcher, which looks at ports, is stopped."""
    laptop = lab.laptop
    configure_bridge(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.ifup("br0")
    wait_for_tunnel(lab)
    for number, guest in enumerate(GUESTS, 77):
        add_guest(lab, guest, number, CAFE)
    wait_until(lambda: pings(lab, "guest0", "192.168.3.78"), "the other guest to answer", 20.0)
    (watcher,) = find_watchers(lab)
    laptop.run(["kill", "-STOP", str(watcher)])
    lab.network.plug("cafe", "wlan0")
    with Capture(lab.network.wire_namespace, "wlan0") as added:
        laptop.run(["ip", "link", "del", "guest1"])
        laptop.run(["ip", "link", "set", "wlan0", "down"])
        laptop.run(["ip", "link", "set", "wlan0", "name", "guest1"])
        # Else there would be two ways to the café's switch.
        laptop.run(["ip", "link", "set", "eth0", "nomaster"])
        laptop.run(["ip", "link", "set", "guest1", "master", "br0", "up"])
        wait_until(lambda: laptop.has_carrier("guest1"), "the carrier", 20.0)
        added.read()
        for _ in range(5):
            send_everything(lab, "guest0", CAFE)
            laptop.pings(CAFE.router)
        assert not find_leaks(added.read(), make_allowed(CAFE))
        # Here the card is a veth, so it is taken for a guest once it was looked at: then it is seen to send.
        laptop.run(["kill", "-CONT", str(watcher)])

        def leaks() -> int:
            send_everything(lab, "guest0", CAFE)
            return count_leaks(added, CAFE)

        wait_until(leaks, "the frames that a guest may get", 30.0)
    laptop.run(["ip", "link", "set", "guest1", "down"])
    laptop.run(["ip", "link", "set", "guest1", "name", "wlan0"])
    laptop.ifdown("br0")
    assert list_ruleset(laptop) == ""


@pytest.mark.parametrize("filtering", [0, 1])
def test_at_home_guests_are_free_and_the_pulled_cable_shuts_them_in(lab: Lab, filtering: int) -> None:
    laptop = lab.laptop
    set_filtering(lab, filtering)
    configure_bridge(lab, CORP, UNLESS, HINTS)
    lab.plug("home")
    laptop.ifup("br0")
    add_guest(lab, "guest0", 77, HOME)
    assert read_guard(lab, "br0") == "open"
    assert pings(lab, "guest0", INTERNET_HOST) and pings(lab, "guest0", f"{HOME.prefix6}1")
    assert laptop.pings(INTERNET_HOST)
    with Capture(lab.network.wire_namespace) as capture:
        # Its guest keeps the bridge's carrier, and nobody tells the laptop that this is another network.
        lab.unplug("eth0")
        wait_until(lambda: read_guard(lab, "br0") == "closed", "the guard to be closed", 5.0)
        lab.plug("cafe")
        capture.read()
        send_everything(lab, "guest0", CAFE)
        judge(capture, make_allowed(CAFE))
        lab.plug("home")
        wait_until(lambda: read_guard(lab, "br0") == "open", "the guard to be open", 15.0)
        assert pings(lab, "guest0", INTERNET_HOST)
    laptop.ifdown("br0")
    assert list_ruleset(laptop) == ""


def test_the_iptables_backend_refuses_a_bridge(lab: Lab) -> None:
    laptop = lab.laptop
    configure_bridge(lab, CORP, UNLESS, HINTS, "guard-backend iptables")
    lab.plug("cafe")
    checked = laptop.run(["netconf-hooks", "check", "br0"], check=False)
    result = laptop.ifup("br0", check=False)
    assert result.returncode != 0
    assert "br0 is a bridge, and iptables-nft does not see what its guests send" in result.stderr
    assert "guarding it needs nftables" in result.stderr
    assert not laptop.run(["ip", "-4", "addr", "show", "br0"], check=False).stdout
    assert list_ruleset(laptop) == "" and find_records(lab) == []
    # Before it exists, nobody can know that br0 will be a bridge: the stanza makes it by hand.
    assert "guarding it needs nftables" not in checked.stdout
    checked = laptop.run(["netconf-hooks", "check", "br0"], check=False)
    assert checked.returncode == 1 and "guarding it needs nftables" in checked.stdout
    early = 'br0: warning: pre-up "ip link set eth0 master br0 up": it sets eth0 up before the guard of br0 is closed'
    assert early in checked.stdout


def test_a_link_that_a_ppp_stanza_dials_in_over_is_refused(lab: Lab) -> None:
    """F6: the guard would drop the frames of PPPoE."""
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    stanza = "\niface dsl inet ppp\n    pre-up /sbin/ifconfig eth0 up # line maintained by pppoeconf\n"
    stanza += "    provider dsl\n"
    laptop.write("/etc/network/interfaces", laptop.read("/etc/network/interfaces") + stanza)
    laptop.write("/etc/ppp/peers/dsl", "noauth\nplugin rp-pppoe.so\nnic-eth0\n")
    result = laptop.ifup("eth0", check=False)
    assert result.returncode != 0
    told = "dsl dials in over eth0 by PPPoE (/etc/ppp/peers/dsl), whose frames the guard of eth0 would drop: let a"
    assert told in result.stderr
    checked = laptop.run(["netconf-hooks", "check"], check=False)
    assert checked.returncode == 1 and told in checked.stdout
    assert "it sets eth0 up before the guard of eth0 is closed" in checked.stdout
    assert list_ruleset(laptop) == "" and find_records(lab) == []
    laptop.write("/etc/ppp/peers/dsl", "noauth\nplugin rp-pppoe.so\nnic-eth1\n")
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_for_tunnel(lab)


def test_what_the_ports_own_address_sends_is_held(lab: Lab) -> None:
    laptop = lab.laptop
    configure_bridge(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.run(["ip", "link", "set", "eth0", "up"])
    laptop.run(["ip", "addr", "add", "192.168.3.90/24", "dev", "eth0"])
    send = f"import socket; s = socket.socket(2, 2); s.sendto(b'x', ({INTERNET_HOST!r}, 9))"
    laptop.run(["ip", "route", "add", INTERNET_HOST, "via", CAFE.router, "dev", "eth0"])
    argv = ["/usr/bin/python3", "-IS", "-c", send]
    with Capture(lab.network.wire_namespace) as capture:
        laptop.run(argv)
        wait_until(lambda: count_leaks(capture, CAFE), "the packet to leave without a guard")
        laptop.ifup("br0")
        wait_for_tunnel(lab)
        capture.read()
        laptop.run(["ip", "neigh", "replace", CAFE.router, "lladdr", CAFE.router_mac, "dev", "eth0"])
        laptop.run(argv, check=False)
        laptop.pings(CAFE.router)
        judge(capture, make_allowed(CAFE))
        laptop.ifdown("br0")
    assert list_ruleset(laptop) == ""


@pytest.fixture
def named(lab: Lab) -> Iterator[Lab]:
    """A lab whose bridge is made by what runs after our hook in pre-up, as bridge-utils' own hook does it."""
    script = """#!/bin/sh
[ "$IFACE" = br0 ] && [ "$IF_BRIDGE_PORTS" ] || exit 0
ip link add br0 type bridge forward_delay 0
for port in $IF_BRIDGE_PORTS; do ip link set "$port" master br0 up; done
ip link set guest0 master br0
ip link set br0 up
# As long as the real one may wait, the guest sends: here, until twenty frames of it have come.
count() { cat /sys/class/net/guest0/statistics/rx_packets; }
end=$(($(count) + 20)) tries=0
until [ "$(count)" -ge "$end" ] || [ $((tries += 1)) -gt 2000 ]; do :; done
"""
    lab.laptop.write("/etc/network/if-pre-up.d/zz-bridge", script, 0o755)
    yield lab


def test_a_bridge_is_closed_by_name_before_it_exists(named: Lab) -> None:
    laptop = named.laptop
    sender = start_guest(named)
    named.plug("cafe")
    head = "iface br0 inet dhcp\n    bridge_ports eth0\n    post-down ip link del br0"
    try:
        with Capture(named.network.wire_namespace) as capture:
            configure(named, OUTSIDE, CORP, head=head)
            laptop.ifup("br0")
            assert count_leaks(capture, CAFE) > 10
            laptop.ifdown("br0")
            wait_for_no_tunnel(named)
            capture.read()
            configure(named, OUTSIDE, CORP, UNLESS, HINTS, head=head)
            laptop.ifup("br0")
            wait_for_tunnel(named)
            judge(capture, make_allowed(CAFE))
            wait_for_guard_of_bridge(named)
            laptop.ifdown("br0")
            judge(capture, make_allowed(CAFE))
    finally:
        sender.kill()
        sender.process.wait()
    assert list_ruleset(laptop) == ""


def wait_for_guard_of_bridge(lab: Lab) -> None:
    """Wait until the firewall knows the guest."""
    def knows() -> bool:
        return '"guest0"' in lab.laptop.run(["nft", "list", "table", "bridge", "netconf-guard"]).stdout

    wait_until(knows, "the guest to be known")
