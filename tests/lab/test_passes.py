"""Interfaces with several stanzas: all options count together, for as long as any of them is up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .attacks.capture import Capture, find_leaks
from .guarded import HINTS, LO, judge, list_ruleset, make_allowed, make_stanza, read_guard, send_everything
from .lab import Lab
from .network import CAFE, HOME, CORP_HOST
from .stanzas import find_records, find_tunnels, read_status, wait_for_tunnel
from .waiting import wait_until

# None of this depends on the DHCP client.
pytestmark = pytest.mark.parametrize("dhcp_client", ["dhclient"])

GUARD = "guard unless home-lan"
VPN = "vpn openvpn corp unless home-lan"
RULES = (HINTS, VPN, GUARD)
STATIC = "iface eth0 inet static\n    address 192.0.2.42/24\n"
STATIC6 = f"iface eth0 inet6 static\n    address {CAFE.prefix6}77/64\n    dad-attempts 0\n"
ALLOWED = make_allowed(CAFE)


@pytest.fixture
def capture(lab: Lab) -> Iterator[Capture]:
    """What leaves the laptop by its cable, seen from outside."""
    with Capture(lab.network.wire_namespace) as capture:
        yield capture


def write(lab: Lab, *stanzas: str) -> None:
    """Write the laptop's /etc/network/interfaces."""
    lab.laptop.write("/etc/network/interfaces", LO + "\n".join(stanzas))


def send(lab: Lab, capture: Capture) -> None:
    """Let the laptop send in the clear, and raise AssertionError where anything of it is on the wire."""
    send_everything(lab.laptop, CAFE)
    lab.laptop.pings("192.0.2.43")
    lab.laptop.pings(f"{CAFE.prefix6}1")
    judge(capture, ALLOWED)


def list_passes(lab: Lab, iface: str = "eth0") -> list[tuple[object, object, object]]:
    """Return what ``netconf-hooks status`` says of the passes of an interface: stanza, family, reached."""
    passes = read_status(lab)["interfaces"][iface]["passes"]
    assert isinstance(passes, list)
    return [(each["logical"], each["family"], each["reached"]) for each in passes]


# Several stanzas: of which families and methods, and which of them has which options.
MATRIX = {
    "a second inet stanza without options": [make_stanza(*RULES), STATIC],
    "options in the last only": [
        "iface eth0 inet manual\n", make_stanza(*RULES, head="iface eth0 inet dhcp"), STATIC6
    ],
    "inet, inet, inet6, inet6": [
        make_stanza(*RULES), STATIC, STATIC6, "iface eth0 inet6 auto\n"
    ],
    "a location in one, its guard in another": [
        make_stanza(HINTS), make_stanza(GUARD, VPN, head=STATIC.rstrip("\n"), locations="")
    ],
    "the same guard in all": [
        make_stanza(*RULES), make_stanza(*RULES, head=STATIC.rstrip("\n")), make_stanza(*RULES, head=STATIC6.rstrip())
    ],
    "twenty": [
        make_stanza(*RULES),
        *(f"iface eth0 inet static\n    address 198.51.100.{number}/32\n" for number in range(1, 20)),
    ],
}


@pytest.mark.parametrize("stanzas", MATRIX.values(), ids=MATRIX)
def test_all_stanzas_count_together(lab: Lab, capture: Capture, stanzas: list[str]) -> None:
    laptop = lab.laptop
    write(lab, *stanzas)
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_for_tunnel(lab)
    assert read_guard(lab) == "closed"
    send(lab, capture)
    # A second run replaces the passes of the first one by itself, and leaves no moment without a guard.
    laptop.ifup("--force", "eth0", check=False)
    assert read_guard(lab) == "closed"
    send(lab, capture)
    laptop.ifdown("eth0")
    assert not find_leaks(capture.read(), ALLOWED)
    assert list_ruleset(laptop) == "" and find_records(lab) == [] and find_tunnels(lab) == []
