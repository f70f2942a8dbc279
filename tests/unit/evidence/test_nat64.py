"""How an IPv6-only network reaches IPv4 hosts."""

import _socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence import Link, nat64
from netconf_hooks.evidence.advertisement import Advertised, read_prefix64
from netconf_hooks.evidence.names import Resolution
from netconf_hooks.evidence.nat64 import find_prefix, is_ipv6_only, read_well_known, synthesise
from netconf_hooks.evidence.probes import View

# RFC 6052 2.4: 192.0.2.33 below each of these prefixes.
TEXT_EXAMPLES = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
    ("64:ff9b::/96", "64:ff9b::c000:221"),
]


@pytest.mark.parametrize("prefix, address", TEXT_EXAMPLES)
def test_the_examples_of_rfc_6052(prefix, address):
    assert synthesise(prefix, "192.0.2.33") == address


@pytest.mark.parametrize("prefix, _", TEXT_EXAMPLES)
def test_the_prefix_is_read_from_the_well_known_name(prefix, _):
    for address in ("192.0.0.170", "192.0.0.171"):
        assert read_well_known(synthesise(prefix, address)) == prefix


@pytest.mark.parametrize("address", ["2001:db8::1", "192.0.0.170", "::", "64:ff9b::c000:ac", "nonsense", ""])
def test_what_contains_no_well_known_address_tells_no_prefix(address):
    assert read_well_known(address) == ""


@settings(max_examples=MANY)
@given(st.binary(min_size=16, max_size=16))
def test_any_address_tells_a_prefix_that_gives_it_back_or_none(octets):
    address = _socket.inet_ntop(_socket.AF_INET6, octets)
    prefix = read_well_known(address)
    if prefix:
        length = int(prefix.rpartition("/")[2])
        found = [synthesise(prefix, known) for known in ("192.0.0.170", "192.0.0.171")]
        packed = [_socket.inet_pton(_socket.AF_INET6, each) for each in found]
        # What comes after the IPv4 address is not looked at.
        end = length // 8 + 4 + (length < 96)
        assert octets[:end] in [each[:end] for each in packed]


PREFIX64 = bytes.fromhex("2602") + (600 << 3 | 0).to_bytes(2, "big") + bytes.fromhex("0064ff9b") + bytes(8)


def test_the_option_of_a_router():
    assert read_prefix64(PREFIX64) == "64:ff9b::/96"
    longer = PREFIX64[:4] + bytes.fromhex("20010db801220344") + bytes(4)
    assert read_prefix64(longer[:3] + bytes([longer[3] | 1]) + longer[4:]) == "2001:db8:122:344::/64"


@pytest.mark.parametrize("option", [
    b"", PREFIX64[:15], PREFIX64 + bytes(8), PREFIX64[:2] + bytes(2) + PREFIX64[4:],
    PREFIX64[:3] + bytes([PREFIX64[3] | 6]) + PREFIX64[4:], PREFIX64[:3] + bytes([PREFIX64[3] | 7]) + PREFIX64[4:],
], ids=["empty", "short", "long", "withdrawn", "length 6", "length 7"])
def test_what_is_no_prefix(option):
    assert read_prefix64(option) == ""


@settings(max_examples=MANY)
@given(st.binary(max_size=24))
def test_any_option_is_a_prefix_or_none(option):
    prefix = read_prefix64(option)
    if prefix:
        assert ":" in synthesise(prefix, "192.0.2.33")


@pytest.mark.parametrize("networks, only", [
    ([], False),
    ([("fe80::1", 64)], False),
    ([("fe80::1", 64), ("2001:db8::1", 64)], True),
    ([("169.254.1.1", 16), ("2001:db8::1", 64)], True),
    ([("192.0.2.1", 24), ("2001:db8::1", 64)], False),
    ([("192.0.2.1", 24)], False),
])
def test_what_is_an_ipv6_only_link(networks, only):
    assert is_ipv6_only(networks) is only


@pytest.mark.parametrize("addresses, advertised, prefix", [
    (("64:ff9b::c000:aa",), (), "64:ff9b::/96"),
    (("2001:db8::1", "2001:db8:64::c000:ab"), ("64:ff9b::/96",), "2001:db8:64::/96"),
    ((), ("64:ff9b::/96",), "64:ff9b::/96"),
    (("2001:db8::1",), (), ""),
])
def test_name_servers_are_asked_first_then_routers(monkeypatch, addresses, advertised, prefix):
    found = {nat64.WELL_KNOWN_NAME: Resolution(addresses)}
    monkeypatch.setattr("netconf_hooks.evidence.names.look_up", lambda names, view: found)
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: (("fe80::1",), ""))
    monkeypatch.setattr(
        "netconf_hooks.evidence.advertisement.ask_routers", lambda *_: Advertised(nat64=tuple(advertised))
    )
    assert find_prefix(View(Link("eth0", "eth0", 7, True, {}), 0.0)) == prefix


def test_routers_that_cannot_be_asked_tell_no_prefix(monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    found = {nat64.WELL_KNOWN_NAME: Resolution()}
    monkeypatch.setattr("netconf_hooks.evidence.names.look_up", lambda names, view: found)
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: (("fe80::1",), ""))
    monkeypatch.setattr("netconf_hooks.evidence.advertisement.ask_routers", refuse)
    assert find_prefix(View(Link("eth0", "eth0", 7, True, {}), 0.0)) == ""
