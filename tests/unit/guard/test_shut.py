"""Shutting: the firewall first, then the record, whatever has become of either meanwhile."""

from time import monotonic

import pytest
from guarded import assert_closed

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.enforce import shut_decided
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.guard.override import close_guards, open_portal, release_guard
from netconf_hooks.guard.shut import note_shut, shut_guard, shut_together, shut_windows

WEB = [Exemption("tcp", port=80)]


def add_windows(store):
    """Let a portal and names through, too; return the record."""
    open_portal(store, "eth0", WEB, 300)
    record = store.read_guard("eth0")
    store.write_guard(record.change(dns_until=record.portal_until))
    return store.read_guard("eth0")


@pytest.mark.parametrize("everything", [True, False])
def test_a_portal_and_names_end_with_the_network_alone(office, firewall, everything):
    record = add_windows(office)
    asked = len(firewall.asked)
    shut_guard(office, record, "it moved", everything)
    assert_closed(office, firewall)
    after = office.read_guard("eth0")
    assert (after.because, bool(after.portal_until), bool(after.dns_until)) == ("it moved", *[not everything] * 2)
    windows = ["portal", "names"] if everything else []
    assert firewall.asked[asked:] == [" ".join(("shut eth0 open", *windows))]
    assert (firewall.get_window("eth0", "portal") is None) is everything


def test_only_a_link_that_was_open_is_said_to_be_closed(office, messages):
    said = "info: eth0: netconf-guard: closed: it moved"
    shut_guard(office, office.read_guard("eth0"), "it moved")
    assert said in messages
    messages.clear()
    shut_guard(office, office.read_guard("eth0"), "it moved")
    assert said not in messages


def test_before_sleep_everything_ends(office, firewall):
    add_windows(office)
    close_guards(office, "the machine is going to sleep")
    record = office.read_guard("eth0")
    assert (record.verdict, record.portal_until, record.dns_until) == ("closed", 0.0, 0.0)


def test_a_firewall_that_fails_is_told(office, firewall, messages):
    firewall.broken = "busy"
    assert not shut_windows(office.read_guard("eth0"))
    assert "error: eth0: netconf-guard: busy" in messages
    firewall.broken = ""
    assert shut_windows(office.read_guard("eth0"))


def test_nothing_is_noted_of_a_guard_that_is_gone_or_released(office):
    record = office.read_guard("eth0")
    release_guard(office, "eth0")
    released = office.read_guard("eth0")
    shut_guard(office, released, "it moved")
    note_shut(office, record, "it moved", monotonic(), True)
    assert office.read_guard("eth0") == released
    office.remove_guard("eth0")
    note_shut(office, record, "it moved", monotonic(), True)
    assert not office.has_guards()


@pytest.mark.parametrize("broken, verdict", [("", "open"), ("busy", "closed")])
def test_a_newer_look_keeps_open_only_what_the_firewall_says_is_open(office, firewall, broken, verdict):
    """The record of what was shut is an older one."""
    shut = office.read_guard("eth0").change(token="of an older look")
    firewall.broken = broken
    when = monotonic()
    note_shut(office, shut, "it moved", when, done=True)
    record = office.read_guard("eth0")
    assert (record.verdict, record.shut_at) == (verdict, when)
    note_shut(office, shut, "it moved", when - 1, done=True)
    assert office.read_guard("eth0").shut_at == when


@pytest.mark.parametrize("done, opened, is_done", [(True, False, False), (False, True, False)])
def test_it_counts_as_open_until_the_firewall_has_shut_it(office, done, opened, is_done):
    record = office.read_guard("eth0")
    note_shut(office, record, "it moved", monotonic(), done)
    after = office.read_guard("eth0")
    assert (after.verdict, after.opened, after.done) == ("closed", opened, is_done)
    # Once more, of what was shut then: there is nothing left to do.
    if done:
        office.write_guard(after.change(done=True))
        note_shut(office, record, "it moved", monotonic(), done)
        assert office.read_guard("eth0").done


@pytest.fixture
def three(office, firewall):
    """The store; three links are open."""
    record = office.read_guard("eth0")
    for device in ("eth1", "eth2"):
        office.write_guard(record.change(device=device))
        firewall.stands[device] = ((), dict(firewall.stands["eth0"][1]))
    firewall.asked.clear()
    return office


def test_before_sleep_all_links_are_shut_in_one_transaction(three, firewall):
    close_guards(three, "the machine sleeps")
    assert firewall.asked == ["shut at once eth0 eth1 eth2"]
    for device in ("eth0", "eth1", "eth2"):
        assert_closed(three, firewall, device)


def test_all_that_are_to_be_closed_are_shut_in_one_transaction(three, firewall):
    for device in ("eth0", "eth2"):
        three.write_guard(three.read_guard(device).change(verdict="closed"))
    shut_decided(three)
    assert firewall.asked == ["shut at once eth0 eth2"]
    assert_closed(three, firewall)
    assert_closed(three, firewall, "eth2")
    assert firewall.is_open("eth1") and three.read_guard("eth1").opened


def test_links_that_can_not_be_shut_at_once_are_shut_one_by_one(three, firewall, messages):
    def shut_all(windows):
        raise GuardError("eth1: no")

    shut_window = firewall.shut_window

    def shut(device, *names):
        if device == "eth1":
            raise GuardError("eth1: no")
        shut_window(device, *names)

    firewall.shut_all, firewall.shut_window = shut_all, shut
    assert shut_together(three.read_guards(pytest.fail)) == {"eth0": True, "eth1": False, "eth2": True}
    assert [firewall.is_open(device) for device in ("eth0", "eth1", "eth2")] == [False, True, False]
    assert "error: eth1: netconf-guard: eth1: no" in messages


def test_packets_that_still_wait_are_dropped_for_each_link(three, links, place):
    for index, device in enumerate(("eth1", "eth2"), 8):
        links.plug(device, index)
    place.emptied.clear()
    shut_together(three.read_guards(pytest.fail))
    assert sorted(place.emptied) == [7, 8, 9]


def test_links_in_two_firewalls_are_two_transactions(three, firewalls):
    record = three.read_guard("eth2")
    firewalls["iptables-nft"].stands["eth2"] = firewalls["nftables"].stands.pop("eth2")
    three.write_guard(record.change(backend="iptables-nft"))
    assert shut_together(three.read_guards(pytest.fail)) == dict.fromkeys(("eth0", "eth1", "eth2"), True)
    assert firewalls["nftables"].asked == ["shut at once eth0 eth1"]
    assert firewalls["iptables-nft"].asked == ["shut eth2 open"]
