"""What the address observer makes of what netifaces says."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from netconf_hooks.observe import Answer, Link, address

LINK = Link("eth0", "eth0", 2, True, {})

# What netifaces.ifaddresses() says of each name, netifaces 0.11.0 (Debian 12) on Linux 6.18.44, after
# ip addr add 192.168.9.1/24 dev eth0 label eth0:1.  AF_INET is 2, AF_INET6 10, AF_PACKET 17.
MASK6 = "ffff:ffff:ffff:ffff::/64"
INTERFACES = {
    "lo": {
        17: [{"addr": "00:00:00:00:00:00", "peer": "00:00:00:00:00:00"}],
        2: [{"addr": "127.0.0.1", "netmask": "255.0.0.0", "peer": "127.0.0.1"}],
        10: [{"addr": "::1", "netmask": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"}],
    },
    "eth0": {
        17: [{"addr": "02:00:00:00:00:01", "broadcast": "ff:ff:ff:ff:ff:ff"}],
        2: [{"addr": "192.168.7.50", "netmask": "255.255.255.0", "broadcast": "192.168.7.50"}],
        10: [{"addr": "2001:db8:7::50", "netmask": MASK6}, {"addr": "fe80::50%eth0", "netmask": MASK6}],
    },
    "eth1": {17: [{"addr": "c2:c3:a9:f9:df:56", "broadcast": "ff:ff:ff:ff:ff:ff"}]},
    "eth0:1": {2: [{"addr": "192.168.9.1", "netmask": "255.255.255.0", "broadcast": "192.168.9.1"}]},
    # Written by hand: another device whose name begins the same.
    "eth01": {2: [{"addr": "192.0.2.1", "netmask": "255.255.255.0", "broadcast": "192.0.2.1"}]},
}


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, list[dict[str, str]]]]:
    tables = dict(INTERFACES)

    def find(name: str) -> dict[int, list[dict[str, str]]]:
        if name not in tables or not tables[name]:
            raise ValueError("You must specify a valid interface name.")
        return tables[name]

    fake = SimpleNamespace(AF_INET=2, AF_INET6=10, interfaces=lambda: list(tables), ifaddresses=find)
    monkeypatch.setitem(sys.modules, "netifaces", fake)  # type: ignore[misc]
    return tables


def test_addresses_of_device_and_aliases_without_scope(interfaces: object) -> None:
    answer = address.observe(("address",), LINK, 0.0)["address"]
    assert answer == Answer(("192.168.7.50", "2001:db8:7::50", "fe80::50", "192.168.9.1"))


def test_addresses_are_written_as_inet_ntop_writes_them(
    interfaces: dict[str, dict[int, list[dict[str, str]]]]
) -> None:
    interfaces["eth0"] = {10: [{"addr": "2001:0DB8:0:0:0:0:0:0050"}]}
    assert address.observe(("address",), LINK, 0.0)["address"].values == ("2001:db8::50", "192.168.9.1")


def test_an_interface_without_addresses(interfaces: object) -> None:
    link = Link("eth1", "eth1", 3, True, {})
    assert address.observe(("address",), link, 0.0) == {"address": Answer(problem="no address")}


def test_an_interface_that_does_not_exist(interfaces: object) -> None:
    link = Link("eth9", "eth9", 0, False, {})
    assert address.observe(("address",), link, 0.0) == {"address": Answer(problem="no such interface")}


def test_an_interface_that_goes_away_meanwhile(interfaces: dict[str, dict[int, list[dict[str, str]]]]) -> None:
    interfaces["eth0"] = {}
    assert address.observe(("address",), LINK, 0.0)["address"].values == ("192.168.9.1",)


def test_names(interfaces: object) -> None:
    assert address.observe(("interface",), LINK, 0.0) == {"interface": Answer(("eth0",))}
    alias = Link("eth0:1", "eth0", 2, True, {})
    assert address.observe(("interface", "address"), alias, 0.0)["interface"] == Answer(("eth0", "eth0:1"))
