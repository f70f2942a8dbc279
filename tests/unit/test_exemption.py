"""Exemptions as lines of a guard's record: what is written is read again, and nothing impossible is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.exemption import Exemption, is_possible, parse_exemption

LINES = {
    "\t\t0\t0\t\t0\t0": Exemption(),
    "udp\t192.0.2.1/32\t67\t68\t\t0\t0": Exemption("udp", "192.0.2.1/32", 67, 68),
    "tcp\t2001:db8::/32\t443\t0\t0,1000\t16\t0": Exemption("tcp", "2001:db8::/32", 443, uids=(0, 1000), mark=16),
    "tcp\t\t0\t22\t\t0\t1": Exemption("tcp", source_port=22, reply=True),
    "esp\t192.0.2.1/32\t0\t0\t\t0\t0": Exemption("esp", "192.0.2.1/32"),
}


@pytest.mark.parametrize("line", LINES)
def test_a_line(line):
    assert str(LINES[line]) == line
    assert parse_exemption(line) == LINES[line]


def test_whether_it_is_for_guests_is_in_no_line():
    assert not parse_exemption(str(Exemption("udp", port=123, guests=True))).guests


@given(st.builds(
    Exemption, st.sampled_from(["", "udp", "tcp"]), st.sampled_from(["", "192.0.2.0/24", "2001:db8::1/128"]),
    st.integers(0, 65535), st.integers(0, 65535), st.lists(st.integers(0, 2**32 - 2)).map(tuple),
    st.integers(0, 2**32 - 1),
))  # fmt: skip
def test_any(exemption):
    assert is_possible(exemption)
    assert parse_exemption(str(exemption)) == exemption


IMPOSSIBLE = [
    Exemption("icmp"), Exemption("UDP"), Exemption("udp", "192.0.2.1"), Exemption("udp", "192.0.2.1/24"),
    Exemption("udp", "x/8"), Exemption("udp", port=65536), Exemption("udp", port=-1),
    Exemption("udp", source_port=65536), Exemption("udp", source_port=-1), Exemption(uids=(0, 2**32 - 1)),
    Exemption(uids=(-1,)), Exemption(mark=2**32), Exemption(mark=-1), Exemption("esp", port=1),
    Exemption("esp", source_port=1), Exemption("tcp", reply=True), Exemption("tcp", port=22, reply=True),
    Exemption("", source_port=22, reply=True), Exemption("esp", reply=True),
]  # fmt: skip


@pytest.mark.parametrize("exemption", IMPOSSIBLE, ids=repr)
def test_what_no_firewall_can_allow(exemption):
    """The uid 2^32 - 1 stands for none (setuid(2))."""
    assert not is_possible(exemption)
    with pytest.raises(ValueError, match="no firewall can allow this"):
        parse_exemption(str(exemption))


@pytest.mark.parametrize("exemption", [
    Exemption("udp", port=65535, source_port=65535), Exemption("udp", port=1, source_port=1), Exemption(mark=2**32 - 1),
    Exemption(mark=1), Exemption(uids=(2**32 - 2,)), Exemption("udp", source_port=1, reply=True),
    Exemption("udp", port=1, source_port=1, reply=True),
])  # fmt: skip
def test_the_largest_and_smallest_numbers(exemption):
    assert is_possible(exemption)


@pytest.mark.parametrize("line", ["", "udp", "udp\t\t0\t0\t\t0", "udp\t\tx\t0\t\t0\t0", "udp\t\t0\t0\tx\t0\t0",
                                  "udp\t\t0\t0\t\t0\t0\t"])  # fmt: skip
def test_a_line_that_is_cut_off_or_damaged(line):
    with pytest.raises(ValueError):
        parse_exemption(line)
