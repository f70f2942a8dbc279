"""What counts as the LAN of a link: its own prefixes, within bounds that the network can't widen."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence.lan import MOST, find_lan, is_local


@pytest.mark.parametrize("address, length, prefix", [
    ("192.168.1.7", 24, "192.168.1.0/24"), ("10.1.2.3", 16, "10.1.0.0/16"), ("172.31.255.9", 20, "172.31.240.0/20"),
    ("169.254.3.4", 16, "169.254.0.0/16"), ("10.0.0.1", 32, "10.0.0.1/32"), ("192.168.1.7", 31, "192.168.1.6/31"),
    ("fe80::1234", 64, "fe80::/64"), ("fd12:3456::7", 64, "fd12:3456::/64"), ("fd00::7", 128, "fd00::7/128"),
])
def test_a_lan(address, length, prefix):
    assert find_lan([(address, length)]) == ((prefix,), ())


@pytest.mark.parametrize("address, length, reason", [
    ("192.0.2.7", 24, "192.0.2.7/24 is no private address"), ("172.32.0.1", 24, "172.32.0.1/24 is no private address"),
    ("100.64.0.1", 24, "100.64.0.1/24 is no private address"),
    ("2001:db8::7", 64, "2001:db8::7/64 is no private address"),
    ("10.0.0.7", 8, "10.0.0.7/8 is larger than a /16"), ("10.0.0.7", 15, "10.0.0.7/15 is larger than a /16"),
    ("192.168.1.7", 0, "192.168.1.7/0 is larger than a /16"), ("fd00::7", 63, "fd00::7/63 is larger than a /64"),
    ("fe80::7", 10, "fe80::7/10 is larger than a /64"),
])
def test_no_lan(address, length, reason):
    assert find_lan([(address, length)]) == ((), (reason,))


def test_a_thousand_prefixes_are_no_more_than_a_few():
    networks = [(f"10.{number // 256}.{number % 256}.1", 24) for number in range(1000)]
    assert len(find_lan(networks)[0]) == MOST


@settings(max_examples=MANY)
@given(st.ip_addresses(), st.integers(0, 128))
def test_whatever_a_network_gives_a_link_the_lan_is_private_and_small(address, length):
    length = min(length, address.max_prefixlen)
    prefixes, refused = find_lan([(str(address), length)])
    assert len(prefixes) + len(refused) == 1
    for prefix in map(ipaddress.ip_network, prefixes):
        assert address in prefix and prefix.is_private
        assert prefix.prefixlen >= (16 if address.version == 4 else 64)
        assert is_local(str(address), ())
