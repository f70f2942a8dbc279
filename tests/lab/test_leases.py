"""What DHCP servers say in the field, and the clients of Debian make of it."""

from __future__ import annotations

import pytest

from .lab import Lab
from .network import CAFE
from .stanzas import read_location

STANZA = """\
iface eth0 inet dhcp
    netconf-location office dns-domain=corp.example.com
    netconf-location other dns-domain=b.example
    netconf-vpn openvpn corp unless office
"""


@pytest.mark.parametrize("sent, location", [
    ("a.example,corp.example.com", "office"), ("corp.example.com b.example", "office"),
    ("a.example, b.example", "other"), ("a.example;corp.example.com", None),
])
def test_several_domains_in_option_15_count_each(lab: Lab, sent: str, location: str | None) -> None:
    """Field case F24: with commas or blanks between them, by dhclient and by dhcpcd."""
    lab.network.change_dhcp("cafe", f"--dhcp-option-force=15,{sent}", domain=CAFE.domain)
    lab.laptop.write("/etc/network/interfaces", STANZA)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    assert read_location(lab) == location
