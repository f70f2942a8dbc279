"""The pass that lets our own probes through a closed guard: for whom, for how long, and when it is none."""

import os
import time

import pytest
from guarded import ifup

from netconf_hooks.exemption import Exemption, MARK
from netconf_hooks.guard.exemptions import ProbePass, make_pass
from netconf_hooks.guard.override import release_guard

PROBE = Exemption("udp", "192.0.2.53/32", 53, uids=(0,), mark=MARK)


@pytest.fixture
def guarded(store, links, network, firewall, as_root):
    """eth0 is guarded and closed; we are root."""
    ifup(store, links)
    firewall.asked.clear()
    return firewall


def announce(passing, device="eth0"):
    passing.announce(device, "udp", "192.0.2.53", 53)


def test_a_probe_passes_while_it_runs(store, guarded):
    before = time.time()
    with make_pass(store, "eth0", 5.0) as passing:
        announce(passing)
        window = guarded.get_window("eth0", "probe")
        assert window.exemptions == (PROBE,)
        assert before + 6.0 <= window.until <= time.time() + 6.0
    assert guarded.asked == ["open eth0 probe", "shut eth0 probe"]
    assert guarded.get_window("eth0", "probe") is None


def test_the_same_probe_is_let_through_once_and_another_beside_it(store, guarded):
    with make_pass(store, "eth0", 5.0) as passing:
        announce(passing)
        announce(passing)
        assert guarded.asked == ["open eth0 probe"]
        passing.announce("eth0", "tcp", "2001:db8::1", 443)
        other = Exemption("tcp", "2001:db8::1/128", 443, uids=(0,), mark=MARK)
        assert guarded.get_window("eth0", "probe").exemptions == (PROBE, other)


def test_a_probe_of_another_link_opens_nothing_here(store, guarded):
    with make_pass(store, "eth0", 5.0) as passing:
        announce(passing, "wlan0")
    assert guarded.asked == []


def test_without_a_right_to_the_firewall_nothing_is_asked_of_it(store, guarded, as_user):
    with make_pass(store, "eth0", 5.0) as passing:
        announce(passing)
    assert guarded.asked == []


@pytest.mark.parametrize("device", ["eth0", "wlan0"])
def test_without_a_guard_that_holds_nothing_is_let_through(store, guarded, device):
    release_guard(store, "eth0")
    guarded.asked.clear()
    with make_pass(store, device, 5.0) as passing:
        announce(passing, device)
    assert guarded.asked == []


def test_without_a_probe_no_window_is_touched(guarded):
    with ProbePass("eth0", "nftables", 5.0):
        pass
    assert guarded.asked == []


def test_a_firewall_that_fails_is_told_and_fails_no_probe(store, guarded, messages):
    with make_pass(store, "eth0", 5.0) as passing:
        guarded.broken = "busy"
        announce(passing)
        assert messages[-1] == "error: eth0: netconf-guard: a probe can't be let through: busy"
        messages.clear()
    assert messages == ["error: eth0: netconf-guard: busy"]


def test_a_record_that_can_not_be_read_is_told(store, guarded, messages):
    with open(os.path.join(store.directory, "guards", "eth0"), "w") as file:
        file.write("rubbish\n")
    with make_pass(store, "eth0", 5.0) as passing:
        announce(passing)
    assert guarded.asked == []
    assert [message for message in messages if message.startswith("error: eth0: ")]
