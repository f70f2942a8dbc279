"""IP addresses as text: read, compared, taken apart."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.system.addresses import (
    format_address, is_link_local, pack_address, read_address, read_prefix, share_prefix, split_host_port
)  # fmt: skip

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NONE = ("", "192.0.2", "192.0.2.256", "192.0.2.1 ", "2001:db8::g", "fe80::1%eth0", "192.0.2.1\0", "\udc80", "a.example")


@given(st.ip_addresses())
def test_an_address(address: Address) -> None:
    for text in (str(address), address.exploded, str(address).upper()):
        assert pack_address(text) == address.packed
        assert ipaddress.ip_address(read_address(text)) == address
    assert read_address(format_address(address.packed)) == format_address(address.packed)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_address(text: str) -> None:
    assert pack_address(text) == b""
    assert read_address(text) == ""
    assert read_prefix(text) is None
    assert not share_prefix(text, "192.0.2.1", 0)
    assert not share_prefix("192.0.2.1", text, 0)


def test_a_prefix() -> None:
    assert read_prefix("192.0.2.1/24") == (b"\xc0\0\2\1", 24)
    assert read_prefix("192.0.2.1") == (b"\xc0\0\2\1", 32)
    assert read_prefix("::/0") == (bytes(16), 0)
    assert read_prefix("::1") == (bytes(15) + b"\1", 128)
    for text in ("192.0.2.1/", "192.0.2.1/33", "::/129", "192.0.2.1/-1", "192.0.2.1/24/", "::/0x1", "::/\u0663", "/8"):
        assert read_prefix(text) is None


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_a_shared_prefix(one: Address, other: Address, length: int) -> None:
    bits = min(length, one.max_prefixlen)
    inside = one.version == other.version and other in ipaddress.ip_network(f"{one}/{bits}", strict=False)
    assert share_prefix(str(one), str(other), length) is inside
    assert share_prefix(str(one), str(one), length)


def test_link_local_addresses() -> None:
    assert all(map(is_link_local, ("169.254.0.1", "fe80::1", "febf::1")))
    assert not any(map(is_link_local, ("169.255.0.1", "fec0::1", "192.0.2.1", "::1")))


def test_host_and_port() -> None:
    assert split_host_port("vpn.example.com:1194") == ("vpn.example.com", "1194")
    assert split_host_port("[2001:db8::1]:443") == ("2001:db8::1", "443")
    assert split_host_port("[fe80::1%eth0]:51820") == ("fe80::1%eth0", "51820")
    for text in ("", ":1", "a:", "a", "[a]", "[a]1", "[a:1", "[]:1"):
        assert split_host_port(text) is None
