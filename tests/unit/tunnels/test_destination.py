"""destination: hosts and ports as configurations write them."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.destination import read_host, read_port


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("192.0.2.1", ("192.0.2.1", 4)),
        ("10.1", ("10.0.0.1", 4)),
        ("0x0a000001", ("10.0.0.1", 4)),
        ("2001:DB8:0::1", ("2001:db8::1", 6)),
        ("fe80::1%eth0", ("fe80::1", 6)),
        ("::ffff:192.0.2.1", ("192.0.2.1", 4)),
        ("vpn.example.com", ("vpn.example.com", 0)),
        ("vpn.example.com.", ("vpn.example.com.", 0)),
        ("my_server-1", ("my_server-1", 0)),
        ("192.0.2.1.example", ("192.0.2.1.example", 0)),
    ],
)
def test_hosts(text: str, host: tuple[str, int]) -> None:
    assert read_host(text) == host


@pytest.mark.parametrize(
    "text",
    ["", ".", "-x", "a..b", "[2001:db8::1]", "2001:db8::x", "::1::", "a b", "192.0.2.1 x", "a/b", "\u212a", "\0:",
     "x" * 255],
)  # fmt: skip
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(TunnelError):
        read_host(text)


def test_ports() -> None:
    assert read_port("1194", "udp") == 1194
    assert read_port("00443", "tcp") == 443
    assert read_port("https", "tcp") == socket.getservbyname("https", "tcp") == 443
    for text in ("", "0", "65536", "99999999999", "-1", "+1", " 1", "1 ", "\u0663", "no-such-service", "\0", "\udc80"):
        with pytest.raises(TunnelError, match="is no port$"):
            read_port(text, "udp")


@given(st.text() | st.text("0123456789abcdefx:.%[]-_"))
def test_any_text_is_a_place_or_a_tunnel_error(text: str) -> None:
    try:
        host, version = read_host(text)
    except TunnelError:
        pass
    else:
        families = {4: socket.AF_INET, 6: socket.AF_INET6}
        if version:
            assert socket.inet_ntop(families[version], socket.inet_pton(families[version], host)) == host
        else:
            assert host == text
    try:
        assert 0 < read_port(text, "tcp") < 65536
    except TunnelError:
        pass
