"""What a router advertises: a real advertisement (fixtures/README.md), odd ones, and what is none at all."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence.advertisement import Advertised, MOST_VALUES, make_solicitation, parse_advertisement

REAL = bytes.fromhex((Path(__file__).parent / "fixtures/advertisement").read_text())
HEADER = REAL[:16]
SERVER = bytes.fromhex("20010db8000000000000000000000053")


def make_option(kind: int, body: bytes, lifetime: int = 600) -> bytes:
    """Return an option of RFC 8106: its length in eights, its lifetime, and what is in it, filled with zeros."""
    whole = struct.pack("!HI", 0, lifetime) + body
    whole += bytes(-(len(whole) + 2) % 8)
    return bytes((kind, (len(whole) + 2) // 8)) + whole


def make_name(*labels: bytes) -> bytes:
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def read(*options: bytes) -> Advertised | None:
    return parse_advertisement(HEADER + b"".join(options))


def test_what_dnsmasq_advertises() -> None:
    assert parse_advertisement(REAL) == Advertised(
        ("home.example", "corp.home.example"), ("2001:db8:53::53", "2001:db8:53::54")
    )


def test_an_advertisement_without_options() -> None:
    assert read() == Advertised()


def test_what_is_taken_back_is_not_said() -> None:
    taken_back = make_option(25, SERVER, 0), make_option(31, make_name(b"a", b"example"), 0)
    assert read(*taken_back, make_option(31, make_name(b"b"))) == Advertised(("b",))


def test_several_options_are_one_answer() -> None:
    assert read(make_option(25, SERVER), make_option(25, SERVER[:-1] + b"T")) == Advertised(
        (), ("2001:db8::53", "2001:db8::54")
    )


def test_the_prefixes_for_ipv4_hosts() -> None:
    """RFC 8781: the well-known one; one that is withdrawn (lifetime 0); one with an unknown length."""
    well_known = bytes.fromhex("2602") + b"\x07\x08" + bytes.fromhex("0064ff9b") + bytes(8)
    withdrawn, unknown = well_known[:2] + bytes(2) + well_known[4:], well_known[:3] + b"\x0f" + well_known[4:]
    assert read(withdrawn, well_known, unknown) == Advertised(nat64=("64:ff9b::/96",))


@pytest.mark.parametrize("data", [
    b"", HEADER[:15], b"\x87" + REAL[1:], b"\x86\x01" + REAL[2:],  # too short, another type, another code
    HEADER + b"\x19", HEADER + b"\x19\0" + bytes(14), HEADER + b"\x19\x03" + bytes(14),  # no length, none, too long
])
def test_what_is_no_valid_advertisement_says_nothing(data: bytes) -> None:
    assert parse_advertisement(data) is None


@pytest.mark.parametrize("names, domains", [
    (make_name(b"a.b", b"example"), ("\0.example",)),  # a dot inside a label: what checks domains refuses it
    (make_name(b"good") + b"\xc0\x08" + bytes(6), ("good",)),  # RFC 1035's compression is not allowed
    (b"\x3fshort", ()),
    (b"\x04open", ()),  # its end is missing... but for what fills the option
    (bytes(8), ()),
])
def test_odd_names(names: bytes, domains: tuple[str, ...]) -> None:
    advertised = parse_advertisement(HEADER + bytes((31, 1 + len(names) // 8 + 1)) + bytes(5) + b"\1" + names.ljust(
        (1 + len(names) // 8) * 8, b"\xff" if names == b"\x04open" else b"\0"
    ))
    assert advertised is not None
    assert advertised.domains == domains


def test_nobody_says_more_than_is_taken() -> None:
    advertised = read(*[make_option(31, make_name(b"d%d" % number)) for number in range(200)])
    assert advertised is not None
    assert len(advertised.domains) == MOST_VALUES


def test_a_solicitation() -> None:
    assert make_solicitation("02:00:5e:00:10:01") == bytes.fromhex("8500000000000000 0101 02005e001001")
    assert make_solicitation("") == make_solicitation("00:11:22:33:44:55:66:77") == bytes.fromhex("8500000000000000")


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: HEADER + rest))
@settings(max_examples=MANY)
def test_no_octets_break_it(data: bytes) -> None:
    advertised = parse_advertisement(data)
    if advertised is not None:
        assert all(advertised.domains) and len(advertised.servers) <= MOST_VALUES


@given(st.lists(st.tuples(st.sampled_from([25, 31, 3]), st.binary(max_size=60), st.integers(0, 2))))
@settings(max_examples=MANY)
def test_no_options_break_it(options: list[tuple[int, bytes, int]]) -> None:
    assert read(*(make_option(kind, body, lifetime) for kind, body, lifetime in options)) is not None
