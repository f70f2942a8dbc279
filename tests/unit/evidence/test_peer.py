"""ARP and neighbour discovery, packet by packet."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence.peer import (
    find_source, make_arp_request, make_solicitation, read_advertisement, read_arp_reply
)  # fmt: skip

OWN = bytes.fromhex("020000000001")
PEER = bytes.fromhex("02000000000a")
PEER_TEXT = "02:00:00:00:00:0a"

# What Linux 6.18 answered to `peer=192.168.7.1` and `peer=fe80::a` of an interface without an address, captured by
# `Far.capture` of tests/lab/test_probes.py; without the Ethernet header.
ARP_REPLY = bytes.fromhex("000108000604000202000000000ac0a8070102000000000100000000")
ADVERTISEMENT = bytes.fromhex(
    "6000000000203afffe80000000000000000000000000000aff020000000000000000000000000001"
    "8800578020000000fe80000000000000000000000000000a020102000000000a"
)
# And the question that it answered.
SOLICITATION = bytes.fromhex(
    "6000000000183aff00000000000000000000000000000000ff0200000000000000000001ff00000a"
    "87007c1300000000fe80000000000000000000000000000a"
)


def test_a_question_by_arp_is_that_of_a_probe():
    """RFC 826; RFC 5227 2.1.1."""
    assert make_arp_request(OWN, "0.0.0.0", "192.168.7.1") == bytes.fromhex(
        "0001080006040001" "02000000000100000000" "000000000000c0a80701"
    )


def test_an_answer_by_arp():
    assert read_arp_reply(ARP_REPLY, OWN, "192.168.7.1") == PEER_TEXT
    assert read_arp_reply(ARP_REPLY + bytes(18), OWN, "192.168.7.1") == PEER_TEXT  # Ethernet's shortest frame


@pytest.mark.parametrize("packet, own, target", [
    (ARP_REPLY, OWN, "192.168.7.2"),  # of somebody else
    (ARP_REPLY, PEER, "192.168.7.1"),  # to somebody else, from us
    (ARP_REPLY[:27], OWN, "192.168.7.1"),
    (b"", OWN, "192.168.7.1"),
    (ARP_REPLY[:7] + b"\x01" + ARP_REPLY[8:], OWN, "192.168.7.1"),  # a question
    (ARP_REPLY[:8] + b"\xff" * 6 + ARP_REPLY[14:], OWN, "192.168.7.1"),  # nobody has this MAC address
    (ARP_REPLY[:8] + bytes(6) + ARP_REPLY[14:], OWN, "192.168.7.1"),
    (ARP_REPLY[:8] + b"\x03" + ARP_REPLY[9:], OWN, "192.168.7.1"),  # a group's
    (b"\x00\x06" + ARP_REPLY[2:], OWN, "192.168.7.1"),  # another kind of network
    (ARP_REPLY[:4] + b"\x08" + ARP_REPLY[5:], OWN, "192.168.7.1"),
])
def test_what_is_no_answer_by_arp(packet, own, target):
    assert read_arp_reply(packet, own, target) == ""


def test_a_question_by_neighbour_discovery():
    """RFC 4861 4.3, 7.2.2."""
    assert make_solicitation(OWN, "::", "fe80::a") == SOLICITATION
    asked = make_solicitation(OWN, "fe80::50", "2001:db8::ab:cdef")
    assert asked[24:40] == bytes.fromhex("ff0200000000000000000001ffabcdef")
    assert asked[64:] == b"\x01\x01" + OWN


def checked(packet):
    """Return an IPv6 packet with the right ICMPv6 checksum (RFC 4443 2.3)."""
    message = packet[40:42] + b"\0\0" + packet[44:]
    data = packet[8:40] + struct.pack("!IxxxB", len(message), 58) + message + bytes(len(message) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    size, checksum = struct.pack("!H", len(message)), struct.pack("!H", ~total & 0xFFFF)
    return packet[:4] + size + packet[6:42] + checksum + packet[44:]


def test_an_answer_by_neighbour_discovery():
    assert checked(ADVERTISEMENT) == ADVERTISEMENT
    assert read_advertisement(ADVERTISEMENT, b"\x02" * 6, OWN, "fe80::a") == PEER_TEXT
    # Without the option it is the sender's (RFC 4861 4.4).
    assert read_advertisement(checked(ADVERTISEMENT[:64]), PEER, OWN, "fe80::a") == PEER_TEXT


@pytest.mark.parametrize("packet, own, target", [
    (ADVERTISEMENT, OWN, "fe80::b"),
    (ADVERTISEMENT, PEER, "fe80::a"),  # from us
    (ADVERTISEMENT[:63], OWN, "fe80::a"),
    (ADVERTISEMENT[:-1], OWN, "fe80::a"),  # shorter than it says
    (b"\x40" + ADVERTISEMENT[1:], OWN, "fe80::a"),
    (ADVERTISEMENT[:6] + b"\x11" + ADVERTISEMENT[7:], OWN, "fe80::a"),
    (ADVERTISEMENT[:7] + b"\x40" + ADVERTISEMENT[8:], OWN, "fe80::a"),  # a router has passed it on
    (checked(ADVERTISEMENT[:40] + b"\x87" + ADVERTISEMENT[41:]), OWN, "fe80::a"),  # a question
    (ADVERTISEMENT[:42] + b"\x57\x81" + ADVERTISEMENT[44:], OWN, "fe80::a"),  # a wrong checksum
    (checked(ADVERTISEMENT[:64] + b"\x02\x00" + PEER), OWN, "fe80::a"),  # an option without length
    (checked(ADVERTISEMENT[:64] + b"\x02\x02" + PEER), OWN, "fe80::a"),  # one longer than the packet
    (checked(ADVERTISEMENT[:66] + b"\xff" * 6), OWN, "fe80::a"),
])
def test_what_is_no_answer_by_neighbour_discovery(packet, own, target):
    assert read_advertisement(packet, PEER, own, target) == ""


@pytest.mark.parametrize("target, networks, source", [
    ("192.168.7.1", (("192.168.7.50", 24),), "192.168.7.50"),
    ("192.168.8.1", (("192.168.7.50", 24),), "0.0.0.0"),
    ("192.168.7.1", (("10.0.0.1", 8), ("192.168.7.50", 16)), "192.168.7.50"),
    ("192.168.7.50", (("192.168.7.50", 24),), "0.0.0.0"),  # our own address: is it somebody else's, too?
    ("192.168.7.1", (("2001:db8::1", 0),), "0.0.0.0"),
    ("192.168.7.1", (), "0.0.0.0"),
    ("fe80::a", (("fe80::50", 64),), "fe80::50"),
    ("2001:db8::1", (("fe80::50", 64), ("192.168.7.50", 0)), "fe80::50"),
    ("2001:db8::1", (("fe80::50", 64), ("2001:db8::50", 64)), "2001:db8::50"),
    ("fe80::a", (("2001:db8::50", 64),), "::"),
])
def test_who_asks(target, networks, source):
    assert find_source(target, networks) == source


@settings(max_examples=MANY, deadline=None)
@given(st.binary(max_size=80))
@example(ARP_REPLY)
def test_any_bytes_are_an_answer_by_arp_or_none(packet):
    found = read_arp_reply(packet, OWN, "192.168.7.1")
    assert not found or (packet[14:18] == b"\xc0\xa8\x07\x01" and packet[8:14].hex(":") == found)


def changes_of(packet):
    """Return packets that differ from a good one in a few places, right up to the checksum."""
    places = st.lists(st.tuples(st.integers(0, len(packet) - 1), st.integers(0, 255)), max_size=4)

    def change(changes, end, mend):
        made = bytearray(packet)
        for place, value in changes:
            made[place] = value
        cut = bytes(made[:end])
        return checked(cut) if mend and len(cut) >= 48 else cut

    return st.builds(change, places, st.integers(0, len(packet)), st.booleans())


@settings(max_examples=MANY, deadline=None)
@given(st.one_of(st.binary(max_size=120), changes_of(ADVERTISEMENT)), st.binary(max_size=8))
def test_any_bytes_are_an_answer_by_neighbour_discovery_or_none(packet, sender):
    found = read_advertisement(packet, sender, OWN, "fe80::a")
    assert not found or (len(found) == 17 and packet[48:64] == ADVERTISEMENT[48:64] and packet[7] == 255)
