"""What ``netconf-hooks plan`` says before, and what happens on real networks afterwards."""

from __future__ import annotations

import json

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import HOME, OFFICE
from .stanzas import Status, read_status

INTERFACES = f"""\
iface roaming inet dhcp
    netconf-location home-lan    gateway-mac={HOME.router_mac}
    netconf-location office-lan  gateway-mac={OFFICE.router_mac} dns-domain={OFFICE.domain}
    netconf-vpn      openvpn corp  unless office-lan
    netconf-guard    unless office-lan
    netconf-trust    hints

iface eth0 inherits roaming
    metric 100
iface wlan0 inherits roaming
    metric 200
"""


@pytest.fixture
def dhcp_client() -> str:
    """None of this depends on the DHCP client."""
    return DHCP_CLIENTS[0]


def find_planned(situations: list[Status], places: dict[str, str | None]) -> Status:
    """Return the situation with these interfaces at these locations."""
    (found,) = [
        each for each in situations
        if {iface: facts["location"] for iface, facts in each["interfaces"].items()} == places
        and not any(facts["undecided"] for facts in each["interfaces"].values())
    ]  # fmt: skip
    return found


def test_what_is_planned_is_what_happens(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", INTERFACES)
    # Before anything is up, by any user.
    argv = ["setpriv", "--reuid=65534", "--clear-groups", "/usr/sbin/netconf-hooks", "plan", "--json"]
    planned = json.loads(laptop.run(argv).stdout)["situations"]

    lab.plug("home")
    laptop.ifup("eth0")
    lab.plug("office", "wlan0")
    for iface, places in (("eth0", {"eth0": "home-lan"}), ("wlan0", {"eth0": "home-lan", "wlan0": "office-lan"})):
        laptop.ifup(iface, check=False)
        now = read_status(lab)
        expected = find_planned(planned, places)
        assert {name: facts["location"] for name, facts in now["interfaces"].items()} == places
        assert expected["tunnels"] == {
            name: "up" if facts["wanted"] else "down" for name, facts in now["tunnels"].items()
        }
        assert expected["guards"] == {device: facts["state"] for device, facts in now["guards"].items()}
    laptop.ifdown("eth0")
    expected = find_planned(planned, {"wlan0": "office-lan"})
    assert (expected["guards"], expected["clear"]) == ({"wlan0": "open"}, True)
    assert read_status(lab)["guards"]["wlan0"]["state"] == "open"
