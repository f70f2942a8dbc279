"""libreswan: what ``ipsec whack`` prints, of 4.x with a number before each line, of 5.x without."""

from __future__ import annotations

import re

import pytest

from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.ike import ESP, Flow, Peer
from netconf_hooks.tunnels.libreswan import (
    belongs, find_flows, find_peer, find_reason, parse_connections, parse_states, parse_traffic
)  # fmt: skip

VERSIONS = pytest.mark.parametrize("version", ["4", "5"])


@VERSIONS
def test_which_connections_are_up(captured, version):
    assert parse_traffic(captured(f"whack-{version}-traffic")) == ("work",)
    assert parse_traffic(captured(f"whack-{version}-traffic-subnets")) == ("nets/1x1",)
    assert parse_traffic(captured(f"whack-{version}-states")) == (), "states are not traffic"
    assert parse_traffic(captured("whack-stopped")) == ()


@VERSIONS
def test_which_connections_are_loaded(captured, version):
    names = parse_connections(captured(f"whack-{version}-status"))
    assert set(names) == {"work", "nets/1x1", "nets/1x2", "nets/2x1", "nets/2x2"}
    assert len(names) == len(set(names))


@VERSIONS
def test_which_connections_have_a_state(captured, version):
    assert parse_states(captured(f"whack-{version}-states")) == ("work",)
    assert parse_states("") == ()


@pytest.mark.parametrize(
    ("fixture", "reason"),
    [
        (
            "whack-initiate-no-esp",
            r'ERROR: "work"\[1\] 203.0.113.1 #2: netlink response for Add SA esp.*: Function not implemented .*',
        ),
        ("whack-4-initiate-unknown", 'no connection named "nosuch"'),
        ("whack-5-initiate-unknown", 'no connection or alias named "nosuch"\''),
        ("whack-4-initiate-again", ".*CREATE_CHILD_SA failed with error notification NO_PROPOSAL_CHOSEN"),
        ("whack-5-initiate-again", ".*CREATE_CHILD_SA failed with error notification NO_PROPOSAL_CHOSEN"),
    ],
)
def test_why_it_failed(captured, fixture, reason):
    assert re.fullmatch(reason, find_reason(captured(fixture)))


def test_without_a_word_there_is_no_reason():
    assert find_reason("\n\n") == ""


@pytest.mark.parametrize(
    ("found", "name", "expected"),
    [
        ("work", "work", True),
        ("work/1x2", "work", True),
        ("work/home", "work", False),
        ("work2", "work", False),
        ("w.rk", "work", False),
        ("work", "w.rk", False),
    ],
)
def test_subnets_make_several_connections_of_one(found, name, expected):
    assert belongs(found, name) is expected


# Whom a connection goes to.


@pytest.mark.parametrize(
    ("parameters", "hosts", "version", "ports"),
    [
        ({"left": "%defaultroute", "right": "203.0.113.1"}, ("203.0.113.1",), 0, (0, 0)),
        ({"left": "203.0.113.1", "right": "%defaultroute", "rightikeport": "7"}, ("203.0.113.1",), 0, (7, 0)),
        ({"left": "vpn.example", "right": "%eth0", "leftikeport": "4501"}, ("vpn.example",), 0, (0, 4501)),
        ({"left": "2001:db8::1", "right": "127.0.0.1"}, ("2001:db8::1",), 0, (0, 0)),
        ({"left": "192.0.2.1", "right": "vpn.example", "hostaddrfamily": "ipv6"}, ("vpn.example",), 6, (0, 0)),
    ],
)
def test_which_end_is_the_peer(parameters, hosts, version, ports):
    assert find_peer(parameters, "conn a") == Peer("conn a", hosts, version, *ports)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({}, 'right "" names no address'),
        ({"left": "%defaultroute", "right": "%any"}, 'right "%any" names no address'),
        ({"left": "%any", "right": "%defaultroute"}, 'left "%any" names no address'),
        ({"left": "%defaultroute", "right": "%group"}, 'right: "%group" is neither'),
        ({"left": "%defaultroute", "right": "%opportunistic"}, 'right: "%opportunistic" is neither'),
        ({"left": "%defaultroute", "right": "%opportunisticgroup"}, 'right: "%opportunisticgroup" is neither'),
        ({"right": "a", "rightikeport": "many"}, 'rightikeport: "many" is no port'),
        ({"right": "a", "phase2": "ah"}, 'phase2 "ah": AH does not encrypt'),
    ],
)
def test_what_can_not_be_known_is_named(parameters, told):
    with pytest.raises(TunnelError) as caught:
        find_peer(parameters, "conn a")
    assert str(caught.value).startswith(f"conn a: {told}")


PLAIN = (Flow("udp", 500, 500), Flow("udp", 4500, 4500), ESP)
TCP = Flow("tcp", 4500, uids=(0,))


@pytest.mark.parametrize(
    ("parameters", "ports", "flows"),
    [
        ({}, (0, 0), PLAIN),
        ({"enable-tcp": "no", "encapsulation": "yes"}, (0, 0), PLAIN),
        ({"enable-tcp": "fallback"}, (0, 0), (*PLAIN, TCP)),
        ({"enable-tcp": "yes", "tcp-remoteport": "443"}, (0, 0), (Flow("tcp", 443, uids=(0,)),)),
        ({}, (7, 0), (Flow("udp", 4500, 7), Flow("udp", 4500, 7), ESP)),
        ({}, (0, 8), (Flow("udp", 8, 4500), Flow("udp", 8, 4500), ESP)),
        ({}, (7, 8), (Flow("udp", 8, 7), Flow("udp", 8, 7), ESP)),
    ],
)
def test_which_ports_it_takes(parameters, ports, flows):
    assert find_flows(parameters, Peer("conn a", ("a",), 0, *ports)) == flows


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"enable-tcp": "maybe"}, 'conn a: enable-tcp: expected "yes", "no" or "fallback", not "maybe"'),
        ({"enable-tcp": "yes", "tcp-remoteport": "-"}, 'conn a: tcp-remoteport: "-" is no port'),
    ],
)
def test_what_is_said_wrongly_of_tcp(parameters, told):
    with pytest.raises(TunnelError) as caught:
        find_flows(parameters, Peer("conn a", ("a",)))
    assert str(caught.value) == told
