"""Runs in a machine with Debian's own kernel, booted with systemd, the product installed: kernel WireGuard and ESP.

The machine is the laptop: its eth0 leads into the networks of the lab, which live in namespaces beside it.  The checks
are one story and run in their order.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab import ipsec
from tests.lab.namespaces import ENVIRONMENT
from tests.lab.network import CAFE, CORP_HOST, OFFICE, Network
from tests.lab.stanzas import LOCATIONS
from tests.lab.waiting import wait_until
from tests.lab.wireguard import CONFIG, NAME, NETWORKS, WireGuardGateway
from tests.vm.checks import Check, run_checks

UNIT = f"wg-quick@{NAME}.service"
GATEWAY_CONFIG = "/run/vpn/swanctl.conf"
USERLAND_ESP = "/etc/strongswan.d/charon/kernel-libipsec.conf"
PATIENT = 150.0  # seconds: an emulated processor is some twenty times slower


class Guest:
    """The laptop, and the networks around it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        link = ["nsenter", f"--net={network.laptop_namespace}", "ip", "link", "set", "eth0", "netns", "1"]
        self.run(link)

    def run(self, argv: Sequence[str], check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        result = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT, cwd="/", timeout=PATIENT)
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}\nexit status {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def configure(self, vpn: str, locations: str = LOCATIONS) -> None:
        """Write the laptop's rules: this tunnel."""
        stanza = f"iface eth0 inet dhcp\n{locations}    netconf-vpn {vpn}\n"
        self.write("/etc/network/interfaces", f"auto lo\niface lo inet loopback\n\n{stanza}")

    def arrive(self, site: str) -> None:
        """Plug eth0 into a site and bring it up."""
        self.network.plug(site, "eth0")
        self.run(["ifup", "eth0"])

    def leave(self) -> None:
        """Take eth0 down."""
        self.run(["ifdown", "eth0"])

    def status(self, tunnel: str) -> Any:
        """Return what ``netconf-hooks status --json`` says of a tunnel."""
        return json.loads(self.run(["netconf-hooks", "status", "--json"]).stdout)["tunnels"][tunnel]

    def pings(self, host: str) -> bool:
        """Whether a host answers."""
        return self.run(["ping", "-n", "-q", "-c", "1", "-W", "2", host], check=False).returncode == 0

    def wait_for_corp(self) -> None:
        """Wait until the host behind the VPN answers."""
        wait_until(lambda: self.pings(CORP_HOST), "the host behind the VPN to answer", PATIENT)

    def unit(self, name: str) -> str:
        """Return the state of a unit, as ``systemctl is-active`` says it."""
        return self.run(["systemctl", "is-active", name], check=False).stdout.strip()

    def call(self, expression: str) -> str:
        """Return what an expression about WireGuard's `tunnel` gives, printed; `time` and `Tunnel` are there too."""
        script = f"import time\nfrom netconf_hooks.tunnels.wireguard import Tunnel\ntunnel = Tunnel({NAME!r})\n"
        return self.run(["/usr/bin/python3", "-c", f"{script}print({expression})"]).stdout.strip()

    def read_rules(self) -> str:
        """Return what wg-quick makes beside the interface: policy rules, and tables of packet filters."""
        return self.run(["ip", "rule"]).stdout + self.run(["nft", "list", "tables"]).stdout

    def read_associations(self) -> list[tuple[str, int]]:
        """Return the kernel's IPsec associations (SAs): the protocol, and how many bytes each has carried."""
        shown = self.run(["ip", "-statistics", "xfrm", "state"]).stdout
        return [
            (association.split()[5], int(re.findall(r"lifetime current:\s+(\d+)\(bytes\)", association)[0]))
            for association in re.findall(r"^src .*\n(?:\s.*\n)*", shown, re.MULTILINE)
        ]

    def find_wireguards(self) -> list[str]:
        """Return the laptop's WireGuard interfaces, by the kernel's own word."""
        shown = self.run(["ip", "-json", "link", "show", "type", "wireguard"]).stdout
        return [link["ifname"] for link in json.loads(shown or "[]") if link]

    def wait_for_wireguard(self, there: bool) -> None:
        """Wait until systemd has brought the interface up, or down."""
        wait_until(
            lambda: self.find_wireguards() == [NAME] * there and self.unit(UNIT) == ("active" if there else "inactive"),
            f"{UNIT} to be {'active' if there else 'inactive'}", PATIENT,
        )


def wireguard_comes_with_ifup(guest: Guest) -> None:
    assert guest.run(["which", "wireguard-go"], check=False).returncode != 0, "it is the kernel's or nothing"
    guest.arrive(CAFE.name)
    guest.wait_for_wireguard(True)


def idle_wireguard_is_made_to_shake_hands(guest: Guest) -> None:
    peer = guest.run(["wg", "show", NAME, "peers"]).stdout.strip()
    guest.run(["wg", "set", NAME, "peer", peer, "remove"])  # and with it the session that there may be
    guest.write("/run/corp.conf", guest.run(["wg-quick", "strip", NAME]).stdout, 0o600)
    guest.run(["wg", "syncconf", NAME, "/run/corp.conf"])
    wait_until(lambda: guest.call("tunnel.is_up()") == "True", "the handshake", PATIENT)
    assert guest.run(["wg", "show", NAME, "latest-handshakes"]).stdout.split()[1] != "0"


def the_host_behind_wireguard_answers(guest: Guest) -> None:
    guest.wait_for_corp()
    assert guest.status(f"wireguard {NAME}")["up"] is True


def dead_wireguard_shows_after_its_time(guest: Guest) -> None:
    guest.network.run("vpn", ["ip", "link", "set", "gateway", "down"])
    try:
        assert guest.call("tunnel.is_up()") == "True"
        later = f"Tunnel({NAME!r}, clock=lambda: time.time() + 181).is_up()"
        assert guest.call(later) == "False"
    finally:
        guest.network.run("vpn", ["ip", "link", "set", "gateway", "up"])


def wireguard_taken_away_is_brought_back(guest: Guest) -> None:
    guest.run(["ip", "link", "delete", "dev", NAME])
    assert guest.unit(UNIT) == "active", "systemd did not hear of it"
    assert guest.call("(tunnel.is_up(), tunnel.start())") == "(False, None)"
    guest.wait_for_wireguard(True)
    guest.wait_for_corp()


def wireguard_goes_with_ifdown(guest: Guest) -> None:
    guest.leave()
    guest.wait_for_wireguard(False)


def wireguard_by_hand_is_ours_too(guest: Guest) -> None:
    guest.run(["wg-quick", "up", NAME])
    guest.arrive(OFFICE.name)
    assert guest.find_wireguards() == [], "not in the office, whoever brought it up"
    guest.leave()


def wireguard_without_its_configuration_leaves_nothing(guest: Guest) -> None:
    rules = guest.read_rules()
    text = Path(CONFIG).read_text()
    guest.write(CONFIG, text.replace(NETWORKS, "0.0.0.0/0"), 0o600)
    guest.arrive(CAFE.name)
    guest.wait_for_wireguard(True)
    assert guest.read_rules() != rules, "the whole internet takes rules of its own"
    Path(CONFIG).unlink()
    guest.leave()
    wait_until(lambda: guest.find_wireguards() == [], "the interface to go", PATIENT)
    assert guest.read_rules() == rules


def ipsec_comes_with_ifup(guest: Guest) -> None:
    guest.configure(f"ipsec {ipsec.NAME} unless office-lan")
    ipsec.write_swanctl(guest)
    Path(USERLAND_ESP).unlink()  # the kernel is to encrypt
    guest.network.run("vpn", ["setsid", "--fork", "charon-systemd"])
    load = ["swanctl", "--load-all", "--noprompt", "--file", GATEWAY_CONFIG]
    guest.network.write(GATEWAY_CONFIG, ipsec.GATEWAY_SWANCTL)
    wait_until(lambda: guest.network.run("vpn", load, check=False).returncode == 0, "the gateway to listen", PATIENT)
    assert guest.read_associations() == []
    guest.arrive(CAFE.name)
    guest.wait_for_corp()
    assert guest.status(f"ipsec {ipsec.NAME}")["up"] is True


def ipsec_is_the_kernels(guest: Guest) -> None:
    assert {kind for kind, _ in guest.read_associations()} == {"esp"}
    before = sum(size for _, size in guest.read_associations())
    assert guest.pings(CORP_HOST)
    assert sum(size for _, size in guest.read_associations()) > before, "the packets went through these"
    assert "tun" not in guest.run(["ip", "-details", "link", "show"]).stdout, "no interface of its own"


def ipsec_goes_with_ifdown(guest: Guest) -> None:
    guest.leave()
    wait_until(lambda: guest.read_associations() == [], "the associations to go", PATIENT)


CHECKS: list[Check[Guest]] = [
    wireguard_comes_with_ifup,
    idle_wireguard_is_made_to_shake_hands,
    the_host_behind_wireguard_answers,
    dead_wireguard_shows_after_its_time,
    wireguard_taken_away_is_brought_back,
    wireguard_goes_with_ifdown,
    wireguard_by_hand_is_ours_too,
    wireguard_without_its_configuration_leaves_nothing,
    ipsec_comes_with_ifup,
    ipsec_is_the_kernels,
    ipsec_goes_with_ifdown,
]


def main() -> int:
    """Run all checks in this machine, and return whether all went well."""
    with Network((CAFE, OFFICE), ("eth0",)) as network, WireGuardGateway(network) as gateway:
        guest = Guest(network)
        gateway.install_client(guest)
        guest.configure(f"wireguard {NAME} unless office-lan")
        return run_checks(CHECKS, guest)


if __name__ == "__main__":
    sys.exit(main())
