"""Whether a link is still on the network that its guard's record names: only certainty counts."""

import pytest
from guarded import ELSEWHERE, HERE

from netconf_hooks.evidence.fingerprint import UNREADABLE
from netconf_hooks.guard.network import has_left, is_same_network, is_still_there, list_window_routers
from netconf_hooks.state import GuardRecord
from netconf_hooks.system.netlink import NetlinkError

RECORD = GuardRecord("eth0", "nftables", fingerprint=str(HERE))
UNKNOWN = "1 2 3"  # no fingerprint of this version


@pytest.mark.parametrize("scene, now, same", [
    (str(HERE), HERE, True),
    (str(HERE), ELSEWHERE, False),
    ("", HERE, False),
    (UNKNOWN, HERE, False),
    (str(HERE), HERE.change(macs={}), False),  # the kernel does not know yet whose router it is
    (str(HERE.change(macs={})), HERE, True),
    (str(HERE), HERE.change(wireless=(UNREADABLE,)), False),
])
def test_what_is_certainly_the_same_network(scene, now, same):
    assert is_same_network(scene, now) is same


def test_a_kernel_that_does_not_answer_says_nothing_for_certain(place, messages):
    assert is_still_there(RECORD)
    place.scenes["eth0"] = NetlinkError(5)
    assert not is_still_there(RECORD)
    [message] = messages
    assert message.startswith("error: eth0: netconf-guard: ")


@pytest.mark.parametrize("kind, until", [("portal", 1e12), ("dns", 1e12), ("lan", ("192.0.2.0/24",))])
@pytest.mark.parametrize("scene, now, left", [
    (str(HERE), HERE, False),
    (str(HERE), ELSEWHERE, True),
    (str(HERE), HERE.change(macs={}), False),
    ("", HERE, True),
    (UNKNOWN, HERE, True),
])
def test_a_window_ends_if_its_network_is_not_known(kind, until, scene, now, left):
    """A portal's, a name server's or a LAN's; without a window there is nothing to leave."""
    name = kind if kind == "lan" else f"{kind}_until"
    record = RECORD.change(**{name: until, f"{kind}_fingerprint": scene})
    assert has_left(record, now) is left
    assert list_window_routers(record) == (set(HERE.macs) if scene == str(HERE) else set())
    assert not has_left(RECORD.change(**{f"{kind}_fingerprint": scene}), now)
