"""libreswan: what ``ipsec whack`` prints, of 4.x with a number before each line, of 5.x without."""

from __future__ import annotations

import re

import pytest

from netconf_hooks.tunnels.libreswan import (
    belongs, find_reason, parse_connections, parse_states, parse_traffic
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
