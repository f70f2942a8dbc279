"""What counts as the local network, and handshakes with whatever bytes a server sends."""

from __future__ import annotations

import _socket
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence import router, tls
from netconf_hooks.evidence.lan import is_local
from netconf_hooks.evidence.tls import is_tunnel
from netconf_hooks.system.netlink import LinkStatus

BROADCAST, POINTOPOINT, NOARP = 0x11043, 0x110D1, 0x80


@pytest.mark.parametrize("address, networks, local", [
    ("10.1.2.3", (), True),
    ("172.16.0.1", (), True),
    ("172.31.255.255", (), True),
    ("172.32.0.1", (), False),
    ("192.168.255.1", (), True),
    ("169.254.0.1", (), True),
    ("100.64.0.1", (), False),  # shared by a provider's customers (RFC 6598)
    ("198.51.100.7", (), False),
    ("198.51.100.7", (("198.51.100.200", 24),), True),
    ("198.51.101.7", (("198.51.100.200", 24),), False),
    ("fe80::1", (), True),
    ("fd00::1", (), True),
    ("fc12::1", (), True),
    ("2001:db8::1", (), False),
    ("2001:db8::1", (("2001:db8::99", 64), ("10.0.0.1", 8)), True),
    ("2001:db8:0:1::1", (("2001:db8::99", 64),), False),
    ("::ffff:10.0.0.1", (), False),
    # A prefix that the network makes larger than any LAN's.
    ("198.51.100.7", (("198.18.0.1", 1),), False),
    ("198.51.100.7", (("198.51.0.1", 16),), True),
    ("198.51.100.7", (("198.51.0.1", 15),), False),
    ("2001:db8:1::1", (("2001:db8::99", 32),), False),
    ("2001:db8::1", (("2001:db8::99", 63),), False),
    ("203.0.113.1", (("0.0.0.0", 0),), False),
])
def test_what_is_local(address, networks, local):
    assert is_local(address, networks) is local


@pytest.mark.parametrize("flags, tap, tunnel", [
    (BROADCAST, False, False), (BROADCAST, True, True), (POINTOPOINT, False, True), (BROADCAST | NOARP, False, True),
])
def test_what_is_a_tunnel(monkeypatch, tmp_path, flags, tap, tunnel):
    monkeypatch.setattr(router, "SYSFS", str(tmp_path))
    (tmp_path / "x0").mkdir()
    if tap:
        (tmp_path / "x0/tun_flags").write_text("0x1002\n")
    assert is_tunnel(LinkStatus(7, "x0", flags, True, True, "")) is tunnel


def shake_hands(*chunks):
    """Return what comes of a handshake with a server that sends these chunks, one a step, and closes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        plain = _socket.socket(fileno=ours.detach())
        try:
            steps = tls._shake_hands(plain, "intranet.corp.example.com", time.monotonic() + 5)
            wait = next(steps)
            left = list(chunks)
            for _ in range(len(chunks) + 10):
                [(descriptor, _)] = wait.events.items()
                if left:
                    theirs.sendall(left.pop(0))
                else:
                    theirs.shutdown(socket.SHUT_WR)
                wait = steps.send(frozenset((descriptor,)))
        except StopIteration as end:
            return end.value
        finally:
            plain.close()
    raise AssertionError("the handshake does not end")


def record(kind, data):
    """Return a TLS record (RFC 8446 5.1)."""
    return bytes((kind, 3, 3)) + len(data).to_bytes(2, "big") + data


def test_a_server_that_closes_at_once():
    certificate, problem = shake_hands()
    assert (certificate, problem.startswith("no TLS handshake: ")) == ("", True)


def test_a_handshake_that_does_not_come_to_an_end():
    # Half of a message of 16 MB.
    chunks = [record(22, b"\x02\x00\x3f\xf0" + bytes(1000))] + [record(22, bytes(16000)) for _ in range(40)]
    certificate, problem = shake_hands(*chunks)
    assert (certificate, "TLS handshake" in problem) == ("", True)


records = st.builds(record, st.sampled_from([20, 21, 22, 23]), st.binary(max_size=200))
hellos = st.builds(lambda data: record(22, b"\x02" + len(data).to_bytes(3, "big") + data), st.binary(max_size=200))


@settings(max_examples=MANY, deadline=None)
@given(st.lists(st.one_of(records, hellos, st.binary(max_size=300)), max_size=5))
def test_any_bytes_of_a_server_prove_nothing(chunks):
    certificate, problem = shake_hands(*chunks)
    assert (certificate, bool(problem)) == ("", True)
