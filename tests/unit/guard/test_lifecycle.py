"""What is remembered of a guard from the first pre-up to the last post-down: by whom, until when, and what is said."""

import pytest
from guarded import GUARD, OFFICE, assert_closed, assert_open, ifdown, ifup, refresh, run_hook

from netconf_hooks import wish
from netconf_hooks.guard import lifecycle
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.guard.override import release_guard
from netconf_hooks.state import LEAVING

PLAIN = {"IF_NETCONF_VPN": "openvpn corp"}
NO_GUARD = {**GUARD, "IF_NETCONF_GUARD": "no"}


def list_passes(store):
    """What the record of the guard of eth0 says of its passes: interface, family, and whether it has a guard."""
    passes = store.read_guard("eth0").passes
    return [(each.iface, each.family, "netconf-guard" in each.options) for each in passes]


# Closing


def test_pre_up_closes_it_says_so_and_has_nothing_left_to_do(store, links, network, firewall, messages):
    run_hook(store, "pre-up", run="1:1", **GUARD)
    record = store.read_guard("eth0")
    assert (record.verdict, record.opened, record.done) == ("closed", False, True)
    assert "info: eth0: netconf-guard: eth0 is closed (nftables)" in messages
    asked = list(firewall.asked)
    refresh(store)
    assert firewall.asked == asked


def test_a_guard_in_a_second_stanza_counts_the_first_of_the_same_run(store, links, network, firewall):
    """Its stanza has not set the link up."""
    run_hook(store, "pre-up", run="1:1", **PLAIN)
    run_hook(store, "up", run="1:1", **PLAIN)
    links.plug("eth0", 7, up=False)
    run_hook(store, "pre-up", family="inet6", run="1:1", **GUARD)
    assert list_passes(store) == [("eth0", "inet", False), ("eth0", "inet6", True)]


@pytest.mark.parametrize("index, counts", [(7, True), (8, False)])
def test_a_guard_that_comes_later_counts_what_is_up_on_this_device(
    store, links, network, firewall, monkeypatch, index, counts
):
    """And not what was up on a device that had its name before."""
    monkeypatch.setattr(wish, "has_working_default_route", lambda: True)
    monkeypatch.setattr(wish, "_wait_for_tunnel", lambda rule, store: None)
    ifup(store, links, **PLAIN)
    ifup(store, links, "wlan0", **PLAIN)
    run_hook(store, "pre-up", "corp", run="9:1", IF_NETCONF_UPLINK="eth0", **PLAIN)  # a wish has no link
    assert store.read_interface("corp").wish
    links.plug("eth0", index)
    run_hook(store, "pre-up", "eth0:1", run="10:1", **GUARD)
    assert list_passes(store) == [*[("eth0", "inet", False)] * counts, ("eth0:1", "inet", True)]


def test_a_link_that_is_down_has_no_passes_of_before(store, links, network, firewall):
    ifup(store, links, **PLAIN)
    links.plug("eth0", 7, up=False)
    run_hook(store, "pre-up", "eth0:1", run="10:1", **GUARD)
    assert list_passes(store) == [("eth0:1", "inet", True)]


# A pass without a guard


def test_a_pass_without_a_guard_is_remembered_beside_one(cafe, links, firewall):
    run_hook(cafe, "pre-up", "eth0:1", run="20:1", **PLAIN)
    assert list_passes(cafe) == [("eth0", "inet", True), ("eth0:1", "inet", False)]
    before = cafe.read_guard("eth0")
    asked = list(firewall.asked)
    run_hook(cafe, "up", "eth0:1", run="20:1", **PLAIN)
    assert cafe.read_guard("eth0").passes == before.passes
    assert "lift eth0" not in firewall.asked[len(asked):]
    assert_closed(cafe, firewall)


def test_a_guard_that_was_taken_out_of_its_only_stanza_goes_with_the_next_ifup(cafe, links, firewall):
    assert run_hook(cafe, "pre-up", run="20:1", **PLAIN) == 0
    assert firewall.stands == {} and not cafe.has_guards()


def test_one_that_was_taken_out_of_its_stanza_ends_a_release_if_another_has_one(cafe, links, firewall, messages):
    """Until the next ifup of the device, and this is one."""
    ifup(cafe, links, "eth0:1", **GUARD)
    release_guard(cafe, "eth0")
    assert firewall.stands == {}
    run_hook(cafe, "pre-up", "eth0:2", run="20:1", **PLAIN)
    assert_closed(cafe, firewall)
    record = cafe.read_guard("eth0")
    assert (record.because, record.done) == ("it is coming up", True)


@pytest.mark.parametrize("roaming, phase", [(True, "pre-up"), (False, "up")])
def test_what_does_not_end_a_release(cafe, links, firewall, monkeypatch, roaming, phase):
    """wpa_action's own ifup, and the if-up.d of an ifup that was running when the admin released it."""
    if phase == "up":
        run_hook(cafe, "pre-up", "eth0:2", run="20:1", **PLAIN)
    release_guard(cafe, "eth0")
    monkeypatch.setattr(lifecycle, "is_roaming", lambda device: roaming)
    run_hook(cafe, phase, "eth0:2", run="20:1", **PLAIN)
    assert cafe.read_guard("eth0").verdict == "released"
    assert firewall.stands == {}


def test_another_firewall_in_a_stanza_without_a_guard_closes_and_is_refused(network, store, links, firewall, messages):
    network["gateway"] = OFFICE
    ifup(store, links, **GUARD, IF_NETCONF_GUARD_BACKEND="nftables")
    assert_open(store, firewall)
    status = run_hook(store, "pre-up", "eth0:1", run="20:1", IF_NETCONF_GUARD_BACKEND="iptables", **PLAIN)
    assert status != 0
    assert_closed(store, firewall)
    record = store.read_guard("eth0")
    assert "netconf-guard-backend" in record.because and record.because != "it is coming up"
    assert any("expected the same in all stanzas of a device" in message for message in messages)


# Leaving


@pytest.mark.parametrize("down", [True, False])
def test_ifdown_that_leaves_the_link_up_says_that_it_stays_closed(cafe, links, firewall, messages, down):
    ifdown(cafe, links, down=down)
    said = "info: eth0: netconf-guard: still closed, since ifdown left the link up" in messages
    assert said is not down
    assert cafe.has_guards() is not down


def test_the_guard_goes_with_the_last_interface_that_asks_for_it(cafe, links, firewall, messages):
    """Another one on the device is up still, and so is the link."""
    ifup(cafe, links, "eth0:1", **NO_GUARD)
    ifdown(cafe, links, down=False)
    assert firewall.stands == {} and not cafe.has_guards()
    assert not any("still closed" in message for message in messages)


@pytest.mark.parametrize("broken, ended", [("", True), ("busy", False)])
def test_what_went_down_later_is_taken_away_and_told(cafe, links, firewall, messages, broken, ended):
    ifdown(cafe, links, down=False)
    assert not lifecycle.end_guards(cafe)
    links.plug("eth0", 7, up=False)
    firewall.broken = broken
    assert lifecycle.end_guards(cafe) is ended
    assert cafe.has_guards() is not ended
    assert any("busy" in message for message in messages) is not ended
    assert not ended or not lifecycle.end_guards(cafe)


def test_a_former_firewall_that_does_not_work_stays_noted(cafe, links, firewalls, firewall, messages):
    record = cafe.read_guard("eth0").change(former="iptables-legacy iptables-nft")
    firewalls["iptables-legacy"].broken = "busy"
    assert lifecycle._lift_former(record) == "iptables-legacy"
    assert firewalls["iptables-nft"].asked == ["lift eth0"]
    with pytest.raises(GuardError):
        firewalls["iptables-legacy"].lift("eth0")


def test_a_link_that_goes_down_after_a_killed_ifdown_has_no_guard_any_more(cafe, links, firewall):
    """Only its hook for down has run."""
    run_hook(cafe, "down", **GUARD)
    assert [each.stage for each in cafe.read_guard("eth0").passes] == [LEAVING]
    links.plug("eth0", 7, up=False)
    assert lifecycle.end_guards(cafe)
    assert firewall.stands == {}


# Which firewall


def test_a_stanza_that_this_run_has_not_reached_yet_does_not_choose_the_firewall(store, links, network, firewalls):
    """Its option may have been edited as well, and this run will tell."""
    other = {"IF_NETCONF_GUARD_BACKEND": "iptables", **GUARD}
    ifup(store, links, run="1:1", **GUARD)
    ifup(store, links, family="inet6", run="1:1", **other)
    assert store.read_guard("eth0").backend == "iptables-nft"
    run_hook(store, "pre-up", run="2:1", **GUARD, IF_NETCONF_GUARD_BACKEND="nftables")
    assert store.read_guard("eth0").backend == "nftables"
    assert_closed(store, firewalls["nftables"])


def test_an_open_link_is_shut_in_the_firewall_that_it_had_before_another_takes_over(
    office, links, firewalls, journal
):
    """From then on only the new one is told to shut."""
    journal.clear()
    run_hook(office, "pre-up", run="20:1", **GUARD, IF_NETCONF_GUARD_BACKEND="iptables")
    assert journal.index("shut eth0 open") < journal.index("eth0 is to be closed") < journal.index("close eth0")
    assert firewalls["nftables"].asked[-2:] == ["shut eth0 open", "lift eth0"]
