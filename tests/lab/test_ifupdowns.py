"""The laptop's way with the other two ifupdowns that Debian has: ifupdown-ng and ifupdown2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .archive import fetch_packages
from .image import own_codename
from .lab import Lab
from .laptop import DHCP_CLIENTS, Image
from .network import CAFE, CORP_HOST, HOME, INTERNET_HOST, OFFICE, VPN_GATEWAY
from .stanzas import (
    find_records, find_tunnels, read_location, read_status, wait_for_no_tunnel, wait_for_tunnel
)  # fmt: skip
from .waiting import wait_until
from .wireguard import PORT, WG0, WireGuardGateway

# They pass one line of an option to hooks, so the options are numbered.
INTERFACES = f"""\
auto lo
iface lo inet loopback

iface eth0 inet dhcp
    netconf-location   home-lan   gateway-mac={HOME.router_mac}
    netconf-location-2 office-lan gateway-mac={OFFICE.router_mac}
    netconf-trust      hints
    netconf-guard      unless home-lan office-lan
    netconf-vpn        openvpn corp unless home-lan office-lan
"""


# ifupdown2 3.0 knows no DHCP client but /sbin/dhclient (its ifupdownaddons/dhclient.py), which Debian has no more since
# forky: the admin starts another.
BY_HAND = "inet manual\n    up   dhcpcd --waitip=4 eth0\n    down dhcpcd --release eth0\n"


@pytest.fixture(scope="module", params=["ifupdown-ng", "ifupdown2"])
def other_image(request: pytest.FixtureRequest, packages: list[Path]) -> Iterator[Image]:
    """A laptop's disk with another ifupdown than Debian's own, and the product."""
    names = [request.param]
    if request.param == "ifupdown-ng" and own_codename() != "bookworm":
        # The links ifup, ifdown and ifquery, since Debian 13; it doesn't depend on what they lead to.
        names.append("ifupdown-ng-compat")
    with Image([*fetch_packages(names), *packages], replaced=["ifupdown"]) as made:
        yield made


@pytest.fixture
def interfaces(request: pytest.FixtureRequest) -> str:
    """Its /etc/network/interfaces."""
    if request.node.callspec.params["other_image"] == "ifupdown2" and "dhclient" not in DHCP_CLIENTS:
        return INTERFACES.replace("inet dhcp\n", BY_HAND)
    return INTERFACES


@pytest.fixture
def one_lab(other_image: Image) -> Iterator[Lab]:
    """A lab whose laptop has it."""
    with Lab(other_image, DHCP_CLIENTS[0]) as made:
        yield made


def test_home_office_and_cafe_with_a_guard(one_lab: Lab, interfaces: str) -> None:
    laptop = one_lab.laptop
    laptop.write("/etc/network/interfaces", interfaces)
    assert laptop.run(["netconf-hooks", "check"]).stdout.endswith("\n2 stanzas examined, 0 errors\n")
    for site, location in ((HOME, "home-lan"), (CAFE, None), (OFFICE, "office-lan"), (CAFE, None)):
        one_lab.plug(site.name)
        laptop.run(["ifup", "eth0"])
        wait_until(lambda: read_location(one_lab) == location, f"{site.name} to be recognised")
        if location:
            wait_until(lambda: laptop.pings(INTERNET_HOST), "the guard to be open")
            assert find_tunnels(one_lab) == []
        else:
            wait_for_tunnel(one_lab)
            assert not laptop.pings(INTERNET_HOST)
        assert read_status(one_lab)["guards"]["eth0"]["state"] == ("open" if location else "closed")
        laptop.run(["ifdown", "eth0"])
        wait_for_no_tunnel(one_lab)
        wait_until(lambda: find_records(one_lab) == [], "the records to be gone")


def test_check_names_what_does_not_reach_the_hooks(
    one_lab: Lab, interfaces: str, request: pytest.FixtureRequest
) -> None:
    laptop = one_lab.laptop
    second = "iface eth0 inet6 manual\n    netconf-outside-ports eth1\n"
    laptop.write("/etc/network/interfaces", interfaces.replace("location-2", "location  ") + second)
    checked = laptop.run(["netconf-hooks", "check"], check=False)
    assert checked.returncode == 1
    which = request.node.callspec.params["other_image"]
    unpassed = [line for line in checked.stdout.splitlines() if f"{which} passes only" in line]
    assert len(unpassed) == (1 if which == "ifupdown-ng" else 2)
    assert any("/etc/network/interfaces:" in line and "number the others" in line for line in unpassed)


def test_a_stanza_that_is_a_tunnel(one_lab: Lab, interfaces: str) -> None:
    """netconf-vpn ifup wg0: up in the cafe, down in the office, and back after somebody has deleted its interface."""
    laptop = one_lab.laptop
    with WireGuardGateway(one_lab.network) as gateway:
        gateway.install_stanza_client(laptop)
        rules = interfaces.replace("openvpn corp", "ifup wg0")
        allow = f"    netconf-guard-allow {VPN_GATEWAY}:udp/{PORT}\n"  # what ifup's tunnels send is not known
        laptop.write("/etc/network/interfaces", f"{rules}{allow}\n{WG0}")
        for site, location in ((CAFE, None), (OFFICE, "office-lan"), (CAFE, None)):
            one_lab.plug(site.name)
            laptop.run(["ifup", "eth0"])
            wait_until(lambda: read_location(one_lab) == location, f"{site.name} to be recognised")
            wait_until(lambda: laptop.pings(CORP_HOST) == (location is None), "the tunnel to be as the rules say", 30)
            if not location:
                wait_until(lambda: read_status(one_lab)["tunnels"]["ifup wg0"]["up"] is True, "status to say so", 30)
                laptop.run(["ip", "link", "delete", "dev", "wg0"])
                wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel to be back", 90)
            laptop.run(["ifdown", "eth0"])
            wait_until(lambda: not laptop.pings(CORP_HOST), "the tunnel to end", 30)
            wait_until(lambda: find_records(one_lab) == [], "the records to be gone", 30)
        assert "Traceback" not in laptop.log()
