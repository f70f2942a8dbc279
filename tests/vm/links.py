"""Runs in a machine with Debian's own kernel: links made of others, for what this machine's kernel lacks.

There nftables knows which bridge a port belongs to, br_netfilter is a module that may be missing, and there are bonds
and VLANs.  The machine is the laptop: its eth0 and wlan0 lead into the networks of the lab.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from netconf_hooks.guard.firewall.nftables import Firewall
from tests.lab.attacks.capture import SECRET, Capture, find_leaks
from tests.lab.guarded import make_allowed
from tests.lab.network import CAFE, INTERNET_HOST, OFFICE, Network
from tests.lab.stanzas import LOCATIONS
from tests.lab.waiting import wait_until
from tests.vm.checks import Check, run_checks
from tests.vm.guest import PATIENT, Guest

TUNNEL = "unit netconf-nothing.service"
VPN = f"    netconf-vpn {TUNNEL} unless office-lan\n"
GUARD = "    netconf-guard unless office-lan\n    netconf-trust hints\n"
BRIDGE = """\
iface br0 inet dhcp
    netconf-outside-ports eth0
    pre-up ip link add br0 type bridge forward_delay 0
    pre-up ip link set eth0 master br0 up
    post-down ip link del br0
"""
# The laptop mode of Debian's wiki, without the radio: the cable first, and whatever else there is.
BOND = """\
iface bond0 inet dhcp
    pre-up ip link add bond0 type bond mode active-backup miimon 100
    pre-up ip link set eth0 down; ip link set wlan0 down; ip link set eth0 master bond0; ip link set wlan0 master bond0
    pre-up ip link set bond0 type bond primary eth0
    pre-up ip link set bond0 up
    post-down ip link del bond0
"""


class Linked(Guest):
    """The laptop, with both of its cards, and guests behind br0."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.run(["nsenter", f"--net={network.laptop_namespace}", "ip", "link", "set", "wlan0", "netns", "1"])
        self.write("/run/systemd/system/netconf-nothing.service", "[Service]\nExecStart=/bin/sleep infinity\n")
        self.run(["systemctl", "daemon-reload"])

    def ip(self, *lines: str) -> None:
        """Run ip(8) with the words of each line."""
        for line in lines:
            self.run(["ip", *line.split()])

    def rule(self, head: str, *options: str) -> None:
        """Write the laptop's one stanza."""
        text = f"auto lo\niface lo inet loopback\n\n{head}{LOCATIONS}{''.join(options)}"
        self.write("/etc/network/interfaces", text)

    def read(self) -> dict[str, dict[str, dict[str, object]]]:
        """Return what ``netconf-hooks status --json`` says."""
        status: dict[str, dict[str, dict[str, object]]] = json.loads(
            self.run(["netconf-hooks", "status", "--json"]).stdout
        )
        return status

    def is_wanted(self) -> bool:
        """Whether the tunnel is wanted."""
        return bool(self.read()["tunnels"][TUNNEL]["wanted"])

    def add_guest(self, name: str, number: int, bridge: str = "br0") -> None:
        """Add a guest to a bridge."""
        self.ip(
            f"netns add {name}",
            f"link add {name} type veth peer name eth0 netns {name}",
            f"link set {name} master {bridge} addrgenmode none up",
            f"-n {name} addr add 192.168.{CAFE.number}.{number}/24 dev eth0",
            f"-n {name} link set eth0 up",
            f"-n {name} route add default via {CAFE.router}",
        )

    def remove_guest(self, name: str) -> None:
        """Remove a guest."""
        self.ip(f"link del {name}", f"netns del {name}")

    def guest_pings(self, name: str, host: str) -> bool:
        """Whether a host answers a guest."""
        argv = ["ip", "netns", "exec", name, "ping", "-n", "-q", "-c", "2", "-W", "2", host]
        return self.run(argv, check=False).returncode == 0

    def send(self, name: str) -> None:
        """Let a guest send in the clear: UDP, TCP, a ping."""
        script = f"""
import socket
for place in (({INTERNET_HOST!r}, 80), ({CAFE.router!r}, 54), ("192.168.{CAFE.number}.255", 137)):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        channel = socket.socket(socket.AF_INET, kind)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        channel.setblocking(False)
        try:
            channel.connect(place)
            channel.send({SECRET!r} + b"guest;")
        except OSError:
            pass
"""
        subprocess.run(
            ["ip", "netns", "exec", name, "/usr/bin/python3", "-IS", "-"], input=script, text=True, check=True,
            timeout=PATIENT,
        )  # fmt: skip
        self.guest_pings(name, INTERNET_HOST)


def the_kernel_knows_whose_port_it_is(guest: Linked) -> None:
    guest.rule(BRIDGE, VPN, GUARD)
    guest.network.plug(CAFE.name, "eth0")
    guest.run(["ifup", "br0"])
    rules = guest.run(["nft", "list", "table", "bridge", "netconf-guard"]).stdout
    assert 'obrname "br0" jump frames-br0' in rules, rules
    assert not Firewall().find_fallen(("br0",))
    assert guest.read()["guards"]["br0"]["state"] == "closed"


def guests_are_held_without_br_netfilter(guest: Linked) -> None:
    assert not Path("/proc/sys/net/bridge").exists(), "br_netfilter is loaded"
    _hold_guests(guest)


def guests_are_held_with_br_netfilter(guest: Linked) -> None:
    guest.run(["modprobe", "br_netfilter"])
    assert Path("/proc/sys/net/bridge/bridge-nf-call-iptables").read_text() == "1\n"
    _hold_guests(guest)


def _hold_guests(guest: Linked) -> None:
    with Capture(guest.network.wire_namespace) as capture:
        guest.add_guest("guest0", 77)
        guest.add_guest("guest1", 78)
        for name in ("guest0", "guest1"):
            guest.send(name)
        leaks = find_leaks(capture.read(), make_allowed(CAFE))
        assert not leaks, leaks
        assert capture.seen, "not even ARP"
        wait_until(lambda: guest.guest_pings("guest0", "192.168.3.78"), "the other guest to answer", PATIENT)
        # Without the guard it all leaves.
        guest.run(["netconf-hooks", "release", "br0"])
        guest.send("guest0")
        assert find_leaks(capture.read(), make_allowed(CAFE))
        guest.remove_guest("guest0")
        guest.remove_guest("guest1")
        guest.run(["ifdown", "br0"])
        guest.run(["ifup", "br0"])


def other_bridges_are_not_touched(guest: Linked) -> None:
    guest.ip("link add br1 type bridge forward_delay 0", "link set br1 up")
    guest.add_guest("guest2", 201, "br1")
    guest.add_guest("guest3", 202, "br1")
    assert guest.guest_pings("guest2", "192.168.3.202")
    guest.remove_guest("guest2")
    guest.remove_guest("guest3")
    guest.ip("link del br1")


def at_the_office_guests_are_free(guest: Linked) -> None:
    guest.run(["ifdown", "br0"])
    guest.network.plug(OFFICE.name, "eth0")
    guest.run(["ifup", "br0"])
    assert guest.read()["guards"]["br0"]["state"] == "open"
    guest.add_guest("guest0", 77)
    guest.ip(
        f"-n guest0 addr add 192.168.{OFFICE.number}.77/24 dev eth0",
        f"-n guest0 route replace default via {OFFICE.router}",
    )
    assert guest.guest_pings("guest0", INTERNET_HOST)
    guest.remove_guest("guest0")
    guest.run(["ifdown", "br0"])
    assert guest.run(["nft", "list", "tables"]).stdout == ""


def a_bond_that_fails_over_is_where_its_active_port_is(guest: Linked) -> None:
    """F5: neither carrier, addresses nor routes of the bond change."""
    guest.rule(BOND, VPN)
    guest.network.plug(OFFICE.name, "eth0")
    guest.network.plug(CAFE.name, "wlan0")
    guest.run(["ifup", "bond0"])
    assert Path("/sys/class/net/bond0/bonding/active_slave").read_text() == "eth0\n"
    assert guest.read()["interfaces"]["bond0"]["location"] == "office-lan"
    assert not guest.is_wanted()
    guest.network.unplug("eth0")
    wait_until(guest.is_wanted, "the tunnel to be wanted", 15.0)
    assert Path("/sys/class/net/bond0/bonding/active_slave").read_text() == "wlan0\n"
    assert Path("/sys/class/net/bond0/carrier").read_text() == "1\n"
    guest.network.plug(OFFICE.name, "eth0")
    wait_until(lambda: not guest.is_wanted(), "the office's veto", 30.0)
    guest.run(["ifdown", "bond0"])


def a_pass_of_a_bond_that_fails_over_ends(guest: Linked) -> None:
    """The other port is on another network; the bond itself never lost its carrier."""
    guest.rule(BOND, VPN, GUARD)
    guest.network.plug(CAFE.name, "eth0")
    guest.network.plug(OFFICE.name, "wlan0")
    guest.run(["ifup", "bond0"])
    guest.run(["netconf-hooks", "portal", "bond0", "--for", "300s"])

    def has_pass() -> bool:
        return "a captive portal may be visited" in guest.run(["netconf-hooks", "status"]).stdout

    assert has_pass()
    guest.network.unplug("eth0")
    wait_until(lambda: not has_pass(), "the pass to end", 15.0)
    assert Path("/sys/class/net/bond0/bonding/active_slave").read_text() == "wlan0\n"
    guest.run(["ifdown", "bond0"])
    guest.network.plug(OFFICE.name, "eth0")


def a_vlan_of_a_bridge_has_its_carrier(guest: Linked) -> None:
    guest.ip(
        "link add br0 type bridge forward_delay 0", "link set eth0 master br0 up", "link set br0 up",
        "link add link br0 name br0.7 type vlan id 7", "link set br0.7 up",
    )  # fmt: skip
    guest.add_guest("guest0", 77)
    script = (
        "from netconf_hooks.evidence import make_link, ports\n"
        "link = make_link('br0.7', {'netconf-outside-ports': 'eth0'})\n"
        "print(link.carrier, link.composed, *sorted(ports.list_underlying('br0.7')))"
    )

    def look() -> str:
        return guest.run(["/usr/bin/python3", "-c", script]).stdout

    wait_until(lambda: look() == "True True br0 eth0 guest0\n", "the VLAN's carrier", PATIENT)
    guest.network.unplug("eth0")
    wait_until(lambda: look() == "False True br0 eth0 guest0\n", "the VLAN to lose its carrier", PATIENT)
    assert Path("/sys/class/net/br0.7/carrier").read_text() == "1\n", "the kernel's word"
    guest.remove_guest("guest0")
    guest.ip("link del br0")


CHECKS: list[Check[Linked]] = [
    the_kernel_knows_whose_port_it_is,
    guests_are_held_without_br_netfilter,
    guests_are_held_with_br_netfilter,
    other_bridges_are_not_touched,
    at_the_office_guests_are_free,
    a_bond_that_fails_over_is_where_its_active_port_is,
    a_pass_of_a_bond_that_fails_over_ends,
    a_vlan_of_a_bridge_has_its_carrier,
]


def main() -> int:
    """Run all checks in this machine, and return whether all went well."""
    with Network((CAFE, OFFICE), ("eth0", "wlan0")) as network:
        return run_checks(CHECKS, Linked(network))


if __name__ == "__main__":
    sys.exit(main())
