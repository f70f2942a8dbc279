"""The guard: when it closes and opens, in which order, and that no moment and no killed hook leaves a link open."""

import time
from pathlib import Path
from time import monotonic

import pytest
from guarded import (
    CountingStore, ELSEWHERE, GUARD, HERE, MAC, OFFICE, ROUTER, Steps, assert_closed, assert_open, ifdown, ifup,
    listen, refresh, renew_guards, run_hook, shut_lost_guards
)  # fmt: skip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks import hook, settle

from netconf_hooks.evidence import look as look_module, ports as ports_module
from netconf_hooks.evidence.fingerprint import Fingerprint, UNREADABLE
from netconf_hooks.exemption import Exemption, MARK
from netconf_hooks.guard import firewall as firewall_module, lifecycle, ppp
from netconf_hooks.guard.enforce import follow_closing, put_back
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.guard.guarded_look import Look
from netconf_hooks.guard.lifecycle import find_unguardable
from netconf_hooks.guard.network import is_same_network
from netconf_hooks.guard.override import close_guards, open_portal, release_guard
from netconf_hooks.guard.shut import shut_guard
from netconf_hooks.observation import Answer, Place, Ports
from netconf_hooks.stanzas.ifenv import read_environment
from netconf_hooks.state import Store
from netconf_hooks.system import log
from netconf_hooks.system.ending import Ended
from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.watcher import watch
from netconf_hooks.watcher.leftovers import end_passes


# Whose it is


def test_it_belongs_to_the_device_whatever_alias_it_is_written_for(store, links, network, firewall):
    assert run_hook(store, "pre-up", "eth0:1", **GUARD) == 0
    assert list(firewall.stands) == ["eth0"]
    assert [(each.iface, each.family) for each in store.read_guard("eth0").passes] == [("eth0:1", "inet")]


@pytest.mark.parametrize("iface, more, reason", [
    ("ppp0", {}, "does not exist before it is connected"),
    ("dsl", {"METHOD": "ppp"}, "does not exist before it is connected"),
    ("dsl", {"METHOD": "wvdial"}, "does not exist before it is connected"),
    ("corp", {"IF_NETCONF_UPLINK": "eth0"}, "has no link of its own"),
])
def test_what_can_not_be_guarded_is_refused(store, links, firewall, messages, iface, more, reason):
    assert run_hook(store, "pre-up", iface, **{**GUARD, **more}) == hook.REFUSE
    assert firewall.stands == {}
    assert not store.has_guards()
    assert any(message.startswith(f"error: {iface}: netconf-guard") and reason in message for message in messages)
    assert reason in find_unguardable(read_environment("pre-up", {"IFACE": iface, **more}))


def test_all_other_links_can_be_guarded():
    for iface in ("eth0", "wlan0", "eth0:1", "wwan0", "br0"):
        assert find_unguardable(read_environment("pre-up", {"IFACE": iface, "METHOD": "dhcp"})) == ""


def test_an_option_in_a_later_stanza_is_an_error_but_closes(store, links, firewall, messages):
    links.plug("eth0", 7)
    assert run_hook(store, "pre-up", family="inet6", **GUARD) == 0
    assert_closed(store, firewall)
    [error] = [message for message in messages if message.startswith("error")]
    assert "belongs in the first stanza of eth0" in error


def test_in_the_first_stanza_it_is_none(store, links, network, firewall, messages):
    links.plug("eth0", 7, up=False)
    ifup(store, links)
    ifup(store, links, family="inet6")
    assert not [message for message in messages if message.startswith("error")]


def test_it_holds_for_all_families_and_goes_with_the_last(store, links, network, firewall):
    ifup(store, links)
    ifup(store, links, family="inet6", IF_DNS_DOMAIN="example.com")
    assert_closed(store, firewall)
    for phase in ("down", "post-down"):
        run_hook(store, phase, **GUARD)
    assert_closed(store, firewall)
    ifdown(store, links, family="inet6", IF_DNS_DOMAIN="example.com")
    assert firewall.stands == {}
    assert not store.has_guards()


def test_it_stays_while_ifdown_has_left_the_link_up(store, links, network, firewall):
    ifup(store, links)
    ifdown(store, links, down=False)
    assert_closed(store, firewall)
    ifdown(store, links)
    assert firewall.stands == {}


@pytest.mark.parametrize("phase", ["down", "post-down"])
def test_a_hook_of_a_killed_ifdown_ends_nothing_of_the_next_ifup(store, links, network, firewall, starts, phase):
    """It was started before that ifup, which has not set the link up yet."""
    ifup(store, links, run="1:1")
    links.plug("eth0", 7, up=False)
    run_hook(store, "pre-up", run="2:1", **GUARD)
    before = store.read_guard("eth0"), store.read_interface("eth0")
    starts.append(before[0].passes[0].began)
    run_hook(store, phase, **GUARD)
    end_passes(store)
    assert (store.read_guard("eth0"), store.read_interface("eth0")) == before
    assert list(firewall.stands) == ["eth0"]


@pytest.mark.parametrize("phase", ["down", "post-down"])
def test_nor_if_that_ifup_begins_while_the_hook_runs(store, links, network, firewall, starts, monkeypatch, phase):
    ifup(store, links, run="1:1")
    links.plug("eth0", 7, up=False)
    run_hook(store, "pre-up", run="2:1", **GUARD)
    monkeypatch.setattr(hook, "is_overtaken", lambda *_: False)  # the hook has looked before that
    starts.append(store.read_guard("eth0").passes[0].began)
    run_hook(store, phase, **GUARD)
    end_passes(store)
    assert [each.stage for each in store.read_guard("eth0").passes] == ["up"]
    assert list(firewall.stands) == ["eth0"]
    # The interface's own record is the later ifup's too.
    ifup(store, links, run="3:1")
    starts.append(store.read_interface("eth0").passes[0].began)
    run_hook(store, phase, **GUARD)
    assert store.read_interface("eth0")


@pytest.mark.parametrize("up, down", [
    ("inet", "inet"), ("inet,inet6", "inet,inet6"), ("inet", "inet,inet6"), ("", "inet"), ("inet", ""),
])
def test_it_goes_whatever_the_ifupdown_calls_the_family(store, links, network, firewall, up, down):
    ifup(store, links, family=up)
    ifdown(store, links, family=down)
    assert firewall.stands == {}
    assert not store.has_guards()


def test_a_guard_that_was_taken_out_of_the_stanza_goes_at_the_next_ifup(store, links, network, firewall):
    ifup(store, links)
    ifup(store, links, **{**GUARD, "IF_NETCONF_GUARD": "no"})
    assert firewall.stands == {}
    assert not store.has_guards()


def test_one_that_another_family_still_has_stays(store, links, network, firewall):
    ifup(store, links)
    ifup(store, links, family="inet6", IF_NETCONF_GUARD="yes")
    ifup(store, links, **{**GUARD, "IF_NETCONF_GUARD": "no"})
    assert_closed(store, firewall)


def test_two_interfaces_on_one_device_must_agree(store, links, network, firewall):
    network["gateway"] = OFFICE
    ifup(store, links)
    assert_open(store, firewall)
    ifup(store, links, "eth0:1", **{**GUARD, "IF_NETCONF_GUARD": "unless home"})
    assert_closed(store, firewall)
    assert "eth0:1" in store.read_guard("eth0").because
    ifup(store, links, "eth0:1", **{**GUARD, "IF_NETCONF_GUARD": "unless office"})
    assert_open(store, firewall)


def test_one_that_is_not_up_yet_keeps_its_device_closed(store, links, network, firewall, office):
    run_hook(store, "pre-up", "eth0:1", **GUARD)
    refresh(store)
    assert_closed(store, firewall)
    assert "eth0:1" in store.read_guard("eth0").because


def test_an_alias_without_a_guard_does_not_close_its_device(store, links, network, firewall, office):
    ifup(store, links, "eth0:1", IF_DNS_DOMAIN="example.com")
    assert_open(store, firewall)


def test_what_was_seen_on_another_network_opens_nothing_for_an_alias(store, links, network, firewall, office, place):
    # Nobody watched: the record of eth0 says office still.
    place.scenes["eth0"] = ELSEWHERE
    network["gateway"] = Answer(("192.0.2.9",))
    cafe = {**GUARD, "IF_NETCONF_LOCATION": "cafe gateway=192.0.2.9", "IF_NETCONF_GUARD": "unless cafe"}
    ifup(store, links, "eth0:1", **cafe)
    assert_closed(store, firewall)


CAFE = {**GUARD, "IF_NETCONF_LOCATION": "cafe gateway=192.0.2.9", "IF_NETCONF_GUARD": "unless cafe"}


def test_what_an_alias_has_not_seen_since_an_uncertain_look_opens_nothing(
    store, links, network, firewall, office, place
):
    """The network changed while another interface on the device was looked at, and nobody watched."""
    network["gateway"] = Answer((), pending=True)
    place.then = [(2, ELSEWHERE)]
    ifup(store, links, "eth0:1", **CAFE)
    assert_closed(store, firewall)
    assert (store.read_guard("eth0").fingerprint, store.read_guard("eth0").token) == ("", "")
    # Certain this time; what eth0 saw is of the network before.
    network["gateway"] = Answer(("192.0.2.9",))
    [alias] = [record for record in store.read_interfaces(log.error) if record.iface == "eth0:1"]
    refresh(store, [alias])
    assert store.read_guard("eth0").fingerprint == str(ELSEWHERE)
    assert_closed(store, firewall)
    records = store.read_interfaces(log.error)
    assert watch.needs_retry(store, records)
    # What both see now is what counts.
    refresh(store, [record for record in records if record.iface == "eth0"])
    assert "eth0" in store.read_guard("eth0").because and not firewall.is_open("eth0")
    network["gateway"] = Answer((ROUTER, "192.0.2.9"))
    refresh(store)
    assert_open(store, firewall)


def test_a_wish_opens_nothing(store, links, network, firewall):
    ifup(store, links)
    record = store.read_interface("eth0")
    store.write_interface(type(record)("corp", record.passes, place=Place("office", grade="authenticated"), wish=True))
    refresh(store)
    assert_closed(store, firewall)


# What opens it


def test_a_test_that_only_the_guard_of_a_second_stanza_uses_is_looked_at(store, links, network, firewall):
    network["gateway"] = OFFICE
    network["address"] = Answer(("10.0.0.7",))
    second = {"IF_NETCONF_GUARD": "on address=10.0.0.0/8"}
    ifup(store, links, run="1:1", LOGICAL="eth0", **GUARD)
    assert_open(store, firewall)
    ifup(store, links, run="1:1", LOGICAL="eth0", **second)
    assert_closed(store, firewall)
    network["address"] = Answer(("192.0.2.7",))
    refresh(store)
    assert_open(store, firewall)


def test_it_opens_where_the_location_is_trusted_and_nowhere_else(store, links, network, firewall, tunnels):
    ifup(store, links)
    assert_closed(store, firewall)
    assert tunnels.asked == ["start openvpn corp"]
    network["gateway"] = OFFICE
    ifup(store, links)
    assert_open(store, firewall)
    assert tunnels.asked[-1] == "stop openvpn corp"


@pytest.mark.parametrize("changed", [
    {"IF_NETCONF_TRUST": "authenticated"},
    {"IF_NETCONF_GUARD": "yes"},
    {"IF_NETCONF_GUARD": "unles office"},
    {"IF_NETCONF_GUARD": "on office"},
    {"IF_NETCONF_LOCATION": "office gatway=192.0.2.1"},
    {"IF_NETCONF_TRUST": "hint"},
])
def test_hints_without_the_admins_word_and_what_can_not_be_read_open_nothing(store, links, network, firewall, changed):
    network["gateway"] = OFFICE
    ifup(store, links, **{**GUARD, **changed})
    assert_closed(store, firewall)


def test_without_a_word_on_trust_hints_open_nothing(store, links, network, firewall):
    network["gateway"] = OFFICE
    ifup(store, links, **{option: value for option, value in GUARD.items() if option != "IF_NETCONF_TRUST"})
    assert_closed(store, firewall)
    assert "not proven" in store.read_guard("eth0").because


def test_an_undecided_place_opens_nothing(store, links, network, firewall, office):
    network["gateway"] = Answer((), pending=True)
    refresh(store)
    assert_closed(store, firewall)


def test_without_carrier_or_as_another_device_it_is_closed(store, links, network, firewall, office):
    links.plug("eth0", 7, carrier=False)
    refresh(store, ())
    assert_closed(store, firewall)


def test_only_a_look_from_after_it_was_shut_opens_it(store, links, network, firewall, office):
    seen = store.read_interface("eth0")
    shut_guard(store, store.read_guard("eth0"), "somebody says so")
    refresh(store, ())
    assert_closed(store, firewall)
    assert store.read_guard("eth0").because == "somebody says so"
    assert store.read_guard("eth0").shut_at > seen.observation.observed_at
    refresh(store, [seen])
    assert_open(store, firewall)


# In which order


def in_order(journal, *wanted):
    """Whether all of `wanted` are in the journal, one after the other."""
    rest = iter(journal)
    return all(any(entry == one for entry in rest) for one in wanted)


def test_arriving_where_it_is_trusted(store, links, network, firewall, journal):
    network["gateway"] = OFFICE
    run_hook(store, "pre-up", **GUARD)
    assert journal == ["eth0 is to be closed", "close eth0"]
    journal.clear()
    links.plug("eth0", 7)
    run_hook(store, "up", **GUARD)
    assert journal[0] == "close eth0"
    assert in_order(
        journal, "close eth0", "eth0 is to be open", "stop openvpn corp", "close eth0 open", "office-connected",
        "inet-connected",
    )  # fmt: skip
    assert journal.index("close eth0 open") > journal.index("stop openvpn corp")


def test_arriving_where_it_is_not(store, links, network, firewall, journal):
    links.plug("eth0", 7)
    ifup(store, links)
    assert "start openvpn corp" in journal
    assert not [entry for entry in journal if entry.endswith("open")]


def test_moving_from_where_it_is_trusted_closes_before_anything_else(store, links, network, firewall, office, journal):
    del network["gateway"]
    journal.clear()
    refresh(store)
    assert in_order(journal, "eth0 is to be closed", "close eth0", "start openvpn corp", "office-disconnected")
    assert journal.index("close eth0") < journal.index("start openvpn corp")
    assert_closed(store, firewall)


def test_what_was_seen_of_one_link_is_not_delayed_by_the_look_at_another(store, network, firewall, office):
    """The proof is gone on the same network, which is no news of the kernel's; the other link's network is silent."""
    before = store.read_interface("eth0")
    network["gateway"] = Answer(("192.0.2.9",))

    def look_at_two():
        yield settle.Change("eth0", settle.look(store, "eth0", before.passes, 0.0), replaces=before)
        assert_closed(store, firewall)
        assert not store.read_guard("eth0").done

    settle.settle(store, look_at_two())
    assert_closed(store, firewall)
    assert store.read_guard("eth0").done


def test_leaving_closes_first_then_tells_and_stops_the_tunnels_last(store, links, network, firewall, office, journal):
    office.write_tunnels({})
    settle.remember(store, settle.Change("eth0", store.read_interface("eth0")))
    open_portal(store, "eth0", [Exemption("tcp", port=80)], 60)
    journal.clear()
    run_hook(store, "down", **GUARD)
    assert journal[0] == "shut eth0 open portal"
    assert in_order(
        journal, "shut eth0 open portal", "eth0 is to be closed", "close eth0", "inet-disconnected",
        "office-disconnected", "stop openvpn corp",
    )  # fmt: skip
    assert firewall.stands["eth0"][1] == {}
    assert "lift eth0" not in journal
    links.plug("eth0", 7, up=False)
    run_hook(store, "post-down", **GUARD)
    assert journal[-1] == "lift eth0"


def test_it_looks_once_more_after_opening_and_closes_where_the_router_changed(
    store, links, network, firewall, place, journal
):
    network["gateway"] = OFFICE
    # When the look began, before and after the router was asked, before opening; then it is another one.
    place.then = [(4, ELSEWHERE)]
    ifup(store, links)
    assert in_order(journal, "close eth0 open", "shut eth0 open", "eth0 is to be closed")
    assert_closed(store, firewall)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_network_that_changes_while_it_is_looked_at_is_never_opened(
    store, links, network, firewall, place, journal, turns
):
    network["gateway"] = OFFICE
    place.then = [(turns, ELSEWHERE)]
    ifup(store, links)
    assert_closed(store, firewall)
    assert not [entry for entry in journal if entry.endswith(" open") and entry.startswith("close")]
    # And looked at again, it opens.
    refresh(store)
    assert_open(store, firewall)


def test_somebody_who_shuts_it_while_it_is_being_opened_wins(store, links, network, firewall, place):
    network["gateway"] = OFFICE
    real = firewall.close
    firewall.permits = lambda device: True

    def close(device, exemptions, windows=(), token="", ports=None):
        if windows:
            firewall.close = real
            shut_guard(store, store.read_guard(device), "going down")
        real(device, exemptions, windows, token)

    firewall.close = close
    ifup(store, links)
    assert not firewall.is_open("eth0")
    assert store.read_guard("eth0").verdict == "closed"
    follow_closing(store)
    assert_closed(store, firewall)


def test_the_routers_address_is_learnt_before_it_opens(store, links, network, firewall, place):
    network["gateway"] = OFFICE
    place.scenes["eth0"] = Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER,))
    ifup(store, links)
    assert place.confirmed == [(7, (ROUTER,))]


def test_where_its_router_is_silent_it_stays_closed_and_is_looked_at_again(store, links, network, firewall, place):
    network["gateway"] = OFFICE
    place.silent = (ROUTER,)
    ifup(store, links)
    assert_closed(store, firewall)
    records = store.read_interfaces(log.error)
    assert watch.needs_retry(store, records)
    place.silent = ()
    refresh(store, records)
    assert_open(store, firewall)
    assert not watch.needs_retry(store, store.read_interfaces(log.error))


# A firewall that does not work


def test_a_guard_that_does_not_stand_refuses_ifup_and_stays_closed(store, links, firewall, messages):
    firewall.broken = "no nftables here"
    assert ifup(store, links) == hook.REFUSE
    assert any("no nftables here" in message and "it stays down" in message for message in messages)


def test_no_other_phase_refuses_and_tunnels_are_asked_all_the_same(store, links, network, firewall, tunnels, messages):
    run_hook(store, "pre-up", **GUARD)
    firewall.broken = "nft is gone"
    links.plug("eth0", 7)
    assert run_hook(store, "up", **GUARD) == 0
    assert tunnels.asked == ["start openvpn corp"]
    assert any("nft is gone" in message for message in messages)
    for phase in ("down", "post-down"):
        assert run_hook(store, phase, **GUARD) == 0
    # It could not be lifted: it is not forgotten either.
    assert store.read_guard("eth0") is not None


def test_what_could_not_be_opened_is_tried_again(store, links, network, firewall):
    run_hook(store, "pre-up", **GUARD)
    links.plug("eth0", 7)
    network["gateway"] = OFFICE
    firewall.broken = "busy"
    run_hook(store, "up", **GUARD)
    # Written down is that it may be open, which it is not.
    assert not store.read_guard("eth0").done and not firewall.is_open("eth0")
    firewall.broken = ""
    refresh(store)
    assert_open(store, firewall)


def test_another_backend_takes_over_without_a_gap(store, links, network, firewalls, journal):
    ifup(store, links, **GUARD, IF_NETCONF_GUARD_BACKEND="iptables")
    assert list(firewalls["iptables"].stands) == ["eth0"]
    journal.clear()
    ifup(store, links)
    assert in_order(journal, "close eth0", "lift eth0")
    assert firewalls["iptables"].stands == {}
    assert_closed(store, firewalls["nftables"])
    assert (store.read_guard("eth0").backend, store.read_guard("eth0").former) == ("nftables", "")


def test_another_iptables_takes_over(store, links, network, firewalls, monkeypatch):
    """A guard may be left in more than one firewall: none is forgotten, and each is cleared when it works again."""
    chosen = "iptables-legacy"
    monkeypatch.setattr(firewall_module, "choose_firewall", lambda backend, standing: firewalls[chosen])
    ifup(store, links)
    for chosen, former in (("iptables-nft", "iptables-legacy"), ("nftables", "iptables-nft iptables-legacy")):
        firewalls[former.split()[0]].broken = "not installed"
        assert ifup(store, links) == 0
        assert_closed(store, firewalls[chosen])
        assert (store.read_guard("eth0").backend, store.read_guard("eth0").former) == (chosen, former)
    firewalls["iptables-nft"].broken = ""
    assert ifup(store, links) == 0
    assert store.read_guard("eth0").former == "iptables-legacy"
    # The first one again: what is left there is not left over any more.
    chosen = "iptables-legacy"
    firewalls["iptables-legacy"].broken = ""
    assert ifup(store, links) == 0
    assert store.read_guard("eth0").former == ""
    assert [name for name, firewall in firewalls.items() if firewall.stands] == ["iptables-legacy"]
    ifdown(store, links)
    assert not any(firewall.stands for firewall in firewalls.values())


def test_a_former_backend_that_does_not_work_any_more_stops_nothing(store, links, network, firewalls, messages):
    ifup(store, links, **GUARD, IF_NETCONF_GUARD_BACKEND="iptables")
    firewalls["iptables"].broken = "not installed"
    assert ifup(store, links) == 0
    assert_closed(store, firewalls["nftables"])
    assert any("its rules in iptables-nft can't be removed: not installed" in message for message in messages)
    firewalls["iptables"].broken = ""
    ifdown(store, links)
    assert firewalls["iptables"].stands == firewalls["nftables"].stands == {}


def test_a_record_that_can_not_be_read_is_put_up_anew(store, links, network, firewall, messages):
    ifup(store, links)
    Path(store.guards, "eth0").write_text("rubbish\n")
    run_hook(store, "down", **GUARD)
    assert not firewall.is_open("eth0")
    assert ifup(store, links) == 0
    assert_closed(store, firewall)
    assert any("closed until the next ifup or ifdown, since its record is lost" in message for message in messages)


# Looking


def make_look(store):
    """Return a look that may take a minute."""
    return Look(store, "eth0", monotonic() + 60)


def test_a_probe_is_let_through_to_where_it_goes_and_for_as_long_as_it_takes(store, links, network, firewall):
    ifup(store, links)
    with make_look(store) as look:
        assert firewall.get_window("eth0", "probe") is None
        look.announce("eth0", "tcp", "192.0.2.7", 443)
        look.announce("eth0", "udp", "2001:db8::7", 53)
        look.announce("eth0", "tcp", "192.0.2.7", 443)
        look.announce("wlan0", "tcp", "192.0.2.9", 443)
        window = firewall.get_window("eth0", "probe")
        assert window.exemptions == (
            Exemption("tcp", "192.0.2.7/32", 443, uids=(0,), mark=MARK),
            Exemption("udp", "2001:db8::7/128", 53, uids=(0,), mark=MARK),
        )
        assert time.time() + 59 < window.until < time.time() + 62
        assert not firewall.is_open("eth0")
    assert firewall.get_window("eth0", "probe") is None


def test_a_look_at_a_link_without_a_guard_opens_nothing(store, links, firewall, journal):
    store.prepare()
    with make_look(store) as look:
        look.announce("eth0", "tcp", "192.0.2.7", 443)
    assert journal == []


def test_a_look_shuts_at_once_what_was_open_for_another_network(store, links, network, firewall, office, place):
    place.scenes["eth0"] = ELSEWHERE
    with make_look(store):
        assert_closed(store, firewall)


def test_the_leases_servers_are_let_through(store, links, network, firewall, place):
    place.servers = ("192.0.2.1", "192.0.2.2")
    ifup(store, links)
    assert set(firewall.list_exemptions("eth0")) == {
        Exemption("udp", "192.0.2.1/32", 67, source_port=68, guests=True),
        Exemption("udp", "192.0.2.2/32", 67, source_port=68, guests=True),
    }  # fmt: skip


def test_a_look_for_the_hook_announces_its_probes_to_the_guard(store, links, network, firewall, monkeypatch):
    """A test that is asked of the network, by a stanza whose guard is closed."""
    passed = []

    answer_rules = look_module.answer_rules

    def observe_place(rules, link, deadline, announce):
        announce(link.device, "tcp", "192.0.2.7", 443)
        passed.append(firewall.get_window("eth0", "probe").exemptions)
        return answer_rules(rules, link, deadline, announce)

    monkeypatch.setattr(look_module, "answer_rules", observe_place)
    ifup(store, links)
    assert passed == [(Exemption("tcp", "192.0.2.7/32", 443, uids=(0,), mark=MARK),)]
    assert firewall.get_window("eth0", "probe") is None


def test_a_look_that_is_ended_shuts_what_it_let_through(store, links, network, firewall):
    ifup(store, links)
    with pytest.raises(Ended), make_look(store) as look:
        look.announce("eth0", "tcp", "192.0.2.7", 443)
        raise Ended("SIGTERM")
    assert firewall.get_window("eth0", "probe") is None
    assert_closed(store, firewall)


def test_where_no_probe_can_be_let_through_the_look_goes_on(store, links, network, firewall, messages):
    ifup(store, links)
    firewall.broken = "busy"
    with make_look(store) as look:
        look.announce("eth0", "tcp", "192.0.2.7", 443)
    assert any("a probe can't be let through: busy" in message for message in messages)


# The lease


def test_an_open_link_is_renewed_while_it_is_on_its_network(store, links, network, firewall, office, place):
    windows = firewall.stands["eth0"][1]
    windows["open"] = windows["open"].change(until=0.0)
    assert listen(store)[0].next_time()
    assert renew_guards(store) is True
    assert_open(store, firewall)
    assert place.confirmed[-1] == (7, (ROUTER,))  # asked whether it is still there
    assert firewall.get_window("eth0", "open").until > time.time()
    assert store.read_guard("eth0").lease_until == firewall.get_window("eth0", "open").until


def test_where_its_router_is_silent_it_is_neither_renewed_nor_shut(store, links, network, firewall, office, place):
    before = store.read_guard("eth0").lease_until
    place.silent = (ROUTER,)
    assert renew_guards(store) is True
    assert store.read_guard("eth0").lease_until == before
    assert "shut eth0 open" not in firewall.asked[firewall.asked.index("close eth0 open"):]


def test_a_lease_that_nobody_renewed_is_over_and_the_next_run_opens_anew(store, links, network, firewall, office):
    guard = store.read_guard("eth0")
    store.write_guard(guard.change(lease_until=time.time() - 1))
    assert listen(store)[0].next_time() is None
    assert put_back(store) == "a lease has ended"  # the watcher is to decide anew
    firewall.stands["eth0"][1].clear()
    refresh(store)
    assert_open(store, firewall)
    assert store.read_guard("eth0").is_open(time.time())


@pytest.mark.parametrize("scene", [
    ELSEWHERE,
    Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER,)),
    Fingerprint(7, True, ("192.0.2.5/24",)),
    Fingerprint(7, False, ("192.0.2.5/24",), (ROUTER,), {ROUTER: MAC}),
    Fingerprint(8, True, ("192.0.2.5/24",), (ROUTER,), {ROUTER: MAC}),
    Fingerprint(7, True, ("192.0.3.5/24",), (ROUTER,), {ROUTER: MAC}),
    Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER, "fe80::1"), {ROUTER: MAC}),
    Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER,), {ROUTER: MAC}, ("cafe", MAC, "open")),
    Fingerprint(),
    NetlinkError(5),
])
def test_any_change_of_network_shuts_it(store, links, network, firewall, office, place, scene):
    before = monotonic()
    place.scenes["eth0"] = scene
    if isinstance(scene, Fingerprint):
        assert not is_same_network(store.read_guard("eth0").fingerprint, scene)
    shut_lost_guards(store)
    assert_closed(store, firewall)
    assert store.read_guard("eth0").shut_at >= before
    assert listen(store)[0].next_time() is None
    # Nobody renews what is shut.
    assert renew_guards(store) is True
    assert_closed(store, firewall)


def test_a_renewal_shuts_what_it_can_not_confirm(store, links, network, firewall, office, place):
    place.scenes["eth0"] = ELSEWHERE
    assert renew_guards(store) is False
    assert_closed(store, firewall)


def test_somebody_who_shuts_it_while_it_is_renewed_wins(store, links, network, firewall, office):
    real = firewall.renew_window
    firewall.permits = lambda device: True

    def renew_window(device, window):
        shut_guard(store, store.read_guard(device), "going down")
        return real(device, window)

    firewall.renew_window = renew_window
    renew_guards(store)
    assert_closed(store, firewall)


def test_a_lease_that_can_not_be_renewed_is_told_and_ends_by_itself(store, links, network, firewall, office, messages):
    until = firewall.get_window("eth0", "open").until

    def refuse(device, window):
        raise GuardError("busy")

    firewall.renew_window = refuse
    renew_guards(store)
    assert firewall.get_window("eth0", "open").until == until
    assert "error: eth0: netconf-guard: busy" in messages


def test_what_is_not_known_is_not_the_same_network():
    assert is_same_network(str(HERE), HERE)
    assert not is_same_network("", HERE)
    assert not is_same_network("rubbish", HERE)
    unreadable = Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER,), {ROUTER: MAC}, (UNREADABLE,))
    assert not is_same_network(str(unreadable), unreadable)


def test_a_link_that_stays_open_is_told_so_only_on_its_network(store, links, network, firewall, office, place):
    """Something else has changed, what passes for a tunnel: that is no renewal."""
    record = store.read_guard("eth0")
    store.write_guard(record.change(done=False))
    follow_closing(store)
    assert_open(store, firewall)
    store.write_guard(record.change(done=False))
    place.scenes["eth0"] = ELSEWHERE
    follow_closing(store)
    assert_closed(store, firewall)


def test_news_of_an_unchanged_network_shut_nothing(store, links, network, firewall, office):
    shut_lost_guards(store)
    assert_open(store, firewall)


# Putting back


def test_what_somebody_took_away_is_put_back_closed(store, links, network, firewall, office, messages):
    assert not put_back(store)
    firewall.stands.clear()
    assert put_back(store) == "a guard was removed"
    assert not firewall.is_open("eth0")
    assert any("somebody removed it" in message for message in messages)
    refresh(store)
    assert_open(store, firewall)


def test_whether_guards_stand_is_asked_once_for_all(store, links, network, firewall):
    for number in range(5):
        ifup(store, links, f"eth{number}")
    firewall.judged.clear()
    assert not put_back(store)
    assert firewall.judged == [tuple(f"eth{number}" for number in range(5))]
    firewall.asked.clear()
    del firewall.stands["eth3"]
    put_back(store)
    assert firewall.asked == ["close eth3"], "and only what has fallen is told"


def test_a_device_that_came_after_its_guard_is_no_alarm(store, links, network, firewall, messages):
    """Of a bridge pre-up closes what does not exist yet: its frames can only be held once it does."""
    run_hook(store, "pre-up", "br0", **GUARD)
    firewall.unhooked.add("br0")
    messages.clear()
    assert not put_back(store)
    assert firewall.asked[-1] == "close br0" and not firewall.unhooked
    assert not [message for message in messages if "removed it" in message]
    assert any("its device has appeared since" in message for message in messages)


def test_a_guard_that_is_about_to_open_is_no_alarm(store, links, network, firewall, office, messages):
    """Between the decision and the firewall a watcher may ask."""
    store.write_guard(store.read_guard("eth0").change(opened=False, done=False))
    firewall.shut_window("eth0", "open")
    assert not put_back(store)
    assert watch.needs_retry(store, store.read_interfaces(log.error))


def test_where_there_is_no_guard_there_is_nothing_to_put_back_or_to_close(store):
    assert not put_back(store)
    close_guards(store, "sleep")
    store.prepare()
    assert not put_back(store)


# The ways out


def test_all_guards_close_before_sleep_until_they_are_looked_at_again(store, links, network, firewall, office):
    links.plug("wlan0", 8)
    ifup(store, links, "wlan0")
    open_portal(store, "wlan0", [Exemption("tcp", port=80)], 60)
    close_guards(store, "the machine sleeps")
    for device in ("eth0", "wlan0"):
        assert_closed(store, firewall, device)
        assert firewall.stands[device][1] == {}
    refresh(store, ())
    assert_closed(store, firewall)
    refresh(store)
    assert_open(store, firewall)


PORTAL = [Exemption("tcp", port=80, uids=(1000,)), Exemption("tcp", port=443, uids=(1000,))]


def test_a_portal_is_let_through_for_its_time(store, links, network, firewall):
    ifup(store, links)
    open_portal(store, "eth0", PORTAL, 300)
    window = firewall.get_window("eth0", "portal")
    assert window.exemptions == tuple(PORTAL)
    assert time.time() + 298 < window.until <= time.time() + 300
    assert not firewall.is_open("eth0")
    # What else changes leaves it its time, and gives it no more.
    store.write_guard(store.read_guard("eth0").change(done=False))
    follow_closing(store)
    again = firewall.get_window("eth0", "portal")
    assert again.exemptions == window.exemptions
    assert window.until - 1 < again.until <= window.until
    store.write_guard(store.read_guard("eth0").change(done=False, portal_until=time.time() - 1))
    follow_closing(store)
    assert firewall.get_window("eth0", "portal") is None


def test_there_is_no_portal_without_a_guard(store, links):
    store.prepare()
    with pytest.raises(GuardError, match="no guard"):
        open_portal(store, "eth0", PORTAL, 300)


def test_released_is_open_until_the_next_ifup_whatever_is_decided(store, links, network, firewall, messages):
    ifup(store, links)
    release_guard(store, "eth0")
    assert firewall.stands == {}
    assert any(message.startswith("warning: eth0: netconf-guard: released") for message in messages)
    refresh(store)
    shut_lost_guards(store)
    put_back(store)
    close_guards(store, "sleep")
    renew_guards(store)
    assert firewall.stands == {}
    assert store.read_guard("eth0").verdict == "released"
    with pytest.raises(GuardError):
        open_portal(store, "eth0", PORTAL, 300)
    ifup(store, links)
    assert_closed(store, firewall)


def test_released_goes_with_the_link(store, links, network, firewall):
    ifup(store, links)
    release_guard(store, "eth0")
    ifdown(store, links)
    assert not store.has_guards()


def test_there_is_nothing_to_release_without_a_guard(store):
    with pytest.raises(GuardError, match="eth0 has no guard"):
        release_guard(store, "eth0")


def test_what_could_not_be_released_is_not_called_so(store, links, network, firewall):
    ifup(store, links)
    firewall.broken = "busy"
    with pytest.raises(GuardError, match="busy"):
        release_guard(store, "eth0")
    assert_closed(store, firewall)


# Killed


def describe(store, firewalls):
    """Return all that matters of a machine."""
    guards = [
        (guard.device, guard.backend, guard.verdict, guard.opened, guard.done, guard.exemptions, guard.former)
        for guard in store.read_guards(pytest.fail)
    ]
    tunnels = [(name, record.verdict, record.applied) for name, record in store.read_tunnels().items()]
    stands = {
        (name, device): (set(exemptions), set(windows))
        for name, firewall in firewalls.items() for device, (exemptions, windows) in firewall.stands.items()
    }  # fmt: skip
    return guards, tunnels, stands, [record.iface for record in store.read_interfaces(pytest.fail)]


def arrive(store, links):
    ifup(store, links)


def leave(store, links):
    ifdown(store, links)


def change_backend(store, links):
    assert ifup(store, links, **GUARD, IF_NETCONF_GUARD_BACKEND="iptables") == 0


def test_neighbours_of_a_network_that_the_link_has_left_are_forgotten(store, links, network, firewall, place):
    """The kernel keeps them if the carrier is back before it can report the loss."""
    ifup(store, links)
    links["eth0"] = links["eth0"].change(losses=1)
    refresh(store)
    assert place.forgotten == [links["eth0"].index]
    refresh(store)
    assert place.forgotten == [links["eth0"].index], "it has not lost its carrier since"
    links["eth0"] = links["eth0"].change(losses=3)
    run_hook(store, "up", **GUARD)
    assert place.forgotten == [links["eth0"].index] * 2
    links["eth0"] = links["eth0"].change(index=99, losses=0)
    refresh(store)
    assert len(place.forgotten) == 2, "another device has neighbours of its own"


def test_a_carrier_lost_during_a_look_makes_the_next_one_forget(store, links, network, firewall, place, monkeypatch):
    ifup(store, links)
    observe = settle.observe

    def move(*arguments):
        links["eth0"] = links["eth0"].change(losses=1)
        return observe(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(settle, "observe", move)
        refresh(store)
    assert place.forgotten == []
    refresh(store)
    assert place.forgotten == [links["eth0"].index]


def look_again(store, links):
    refresh(store)


def do_nothing(store, links):
    pass


@pytest.mark.thorough
@pytest.mark.parametrize("at_office", [True, False])
@pytest.mark.parametrize("before, story, right", [
    (do_nothing, arrive, arrive),
    (arrive, arrive, arrive),
    (arrive, look_again, look_again),
    (arrive, leave, leave),
    (arrive, change_backend, change_backend),
    (change_backend, arrive, arrive),
    (change_backend, arrive, leave),
])
def test_a_hook_killed_anywhere_leaves_it_closed_and_the_next_run_puts_it_right(
    store, links, network, firewalls, steps, tmp_path, journal, before, story, right, at_office
):
    if at_office:
        network["gateway"] = OFFICE

    def prepare(number):
        """Return the store of another machine, which has done what is before."""
        links.clear()
        for each in firewalls.values():
            each.stands.clear()
        another = CountingStore(str(tmp_path / str(number)), journal, steps)
        for each in firewalls.values():
            each.permits = lambda device: Store(another.directory).read_guard(device).verdict == "open"
        steps.last = 0
        before(another, links)
        steps.count = 0
        return another

    reference = prepare(0)
    story(reference, links)
    total = steps.count
    right(reference, links)
    wanted = describe(reference, firewalls)
    assert total >= 4
    for number in range(1, total + 1):
        machine = prepare(number)
        steps.last = number
        stood = any(each.stands for each in firewalls.values())
        with pytest.raises(Ended):
            story(machine, links)
        # Nothing leaves but what is decided, as far as this hook has come.
        guard = machine.read_guard("eth0")
        standing = [each for each in firewalls.values() if each.stands]
        if links.get("eth0") and links["eth0"].up and (stood or machine.read_interface("eth0")):
            assert standing
        if standing and all(each.is_open("eth0") for each in standing):
            # Whoever shuts what is open finds it so, and where it stands.
            assert guard.opened or guard.verdict == "open"
            assert firewalls[guard.backend] in standing
        steps.last = 0
        right(machine, links)
        assert describe(machine, firewalls) == wanted, number


def come_up_elsewhere(store, links):
    """Another interface, without a guard, comes up."""
    ifup(store, links, "wlan0", IF_NETCONF_VPN="openvpn other")


@pytest.mark.parametrize("next_run", [come_up_elsewhere, look_again])
def test_whatever_runs_next_the_firewall_is_as_it_is_written_down(
    store, links, network, firewall, steps, journal, tmp_path, next_run
):
    network["gateway"] = OFFICE
    number = 0
    while True:
        number += 1
        machine = CountingStore(str(tmp_path / str(number)), journal, steps)
        firewall.permits = lambda device: Store(machine.directory).read_guard(device).verdict == "open"
        firewall.stands.clear()
        links.clear()
        steps.count = steps.last = 0
        run_hook(machine, "pre-up", **GUARD)
        links.plug("eth0", 7)
        steps.count, steps.last = 0, number
        try:
            run_hook(machine, "up", **GUARD)
        except Ended:
            pass
        else:
            break
        steps.last = 0
        next_run(machine, links)
        guard = machine.read_guard("eth0")
        assert guard.opened == firewall.is_open("eth0") == (guard.verdict == "open"), number
        assert guard.done
        # What was seen is not lost.
        assert guard.opened or not machine.read_interface("eth0") or next_run is come_up_elsewhere
    assert number > 20


phases = st.sampled_from(["ifup", "ifup inet6", "ifdown", "ifdown inet6", "refresh", "shut", "renew", "close", "flush"])
stories = st.lists(st.tuples(phases, st.booleans(), st.integers(0, 25)), max_size=12)


@pytest.mark.thorough
@settings(max_examples=min(60, MANY), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stories)
def test_whatever_happens_it_is_open_only_where_it_may_be(
    store, links, network, firewalls, steps, place, tmp_path_factory, journal, story
):
    """Each of the story: what happens, whether in the office, and at which step it is killed, 0 for never."""
    firewall = firewalls["nftables"]
    links.plug("eth0", 7, up=False)
    firewall.stands.clear()
    journal.clear()
    steps.last = 0
    machine = CountingStore(str(tmp_path_factory.mktemp("run")), journal, steps)
    machine.prepare()
    firewall.permits = lambda device: Store(machine.directory).read_guard(device).verdict == "open"
    gone = False  # flushed, and not put back yet by anybody who does that
    for what, at_office, last in story:
        network.pop("gateway", None)
        if at_office:
            network["gateway"] = OFFICE
        place.scenes["eth0"] = HERE if at_office else ELSEWHERE
        steps.count, steps.last = 0, last
        killed = False
        try:
            happen(machine, links, firewall, what)
        except Ended:
            killed = True
        steps.last = 0
        gone = (gone or what == "flush") and (killed or what in ("shut", "renew", "close"))
        guard = machine.read_guard("eth0")
        if gone or killed or guard is None or not links["eth0"].up:
            continue
        assert not firewall.is_open("eth0") or what == "flush" or guard.verdict == "open"
        if what != "flush":
            # Whoever looks finds out that this is another network.
            assert not firewall.is_open("eth0") or at_office
        if what == "ifup":
            assert firewall.is_open("eth0") == at_office


def happen(machine, links, firewall, what):
    """Let one thing happen."""
    name, _, family = what.partition(" ")
    if name == "ifup":
        ifup(machine, links, family=family or "inet")
    elif name == "ifdown":
        ifdown(machine, links, family=family or "inet")
    elif name == "refresh":
        refresh(machine)
    elif name == "shut":
        shut_lost_guards(machine)
    elif name == "renew":
        renew_guards(machine)
    elif name == "close":
        close_guards(machine, "sleep")
    else:
        firewall.stands.clear()
        put_back(machine)


def test_steps_kill_where_they_are_told_to():
    steps = Steps()
    steps()
    steps.last = 3
    steps()
    with pytest.raises(Ended):
        steps()
    with pytest.raises(Ended):
        steps()


# Links made of others


@pytest.fixture
def bridges(monkeypatch):
    """What the kernel says of a guarded link's ports, by device."""
    known = {}

    def read_ports(device, options, patterns):
        asked.append((device, options.get("bridge-ports"), patterns))
        return known.get(device)

    asked = []
    known["asked"] = asked
    monkeypatch.setattr(ports_module, "read_ports", read_ports)
    return known


BRIDGED = {**GUARD, "IF_BRIDGE_PORTS": "eth0 eth1", "IF_NETCONF_OUTSIDE_PORTS": "eth*"}


def test_a_bridge_is_closed_with_its_ports_before_it_exists(store, links, firewall, bridges):
    bridges["br0"] = Ports(True, ("eth0", "eth1"))
    assert run_hook(store, "pre-up", "br0", **BRIDGED) == 0
    assert firewall.ports == {"br0": bridges["br0"]}
    assert bridges["asked"] == [("br0", "eth0 eth1", ("eth*",))]
    assert_closed(store, firewall, "br0")


def test_iptables_is_refused_for_a_bridge(store, links, firewalls, bridges, messages):
    bridges["br0"] = Ports(True, ("eth0",))
    options = {**BRIDGED, "IF_NETCONF_GUARD_BACKEND": "iptables"}
    assert run_hook(store, "pre-up", "br0", **options) == hook.REFUSE
    assert firewalls["iptables"].stands == {} and not store.has_guards()
    assert any("br0 is a bridge, and iptables-nft does not see what its guests send" in message for message in messages)
    bridges["br0"] = Ports(False, ("eth0",))
    assert run_hook(store, "pre-up", "br0", **options) == 0, "a bond forwards nothing"


def test_ports_that_come_and_go_are_told_to_the_firewall(store, links, network, firewall, bridges, place):
    bridges["br0"] = Ports(True, ("eth0",))
    ifup(store, links, "br0", **BRIDGED)
    assert not put_back(store)
    assert "change ports of br0" not in firewall.asked
    bridges["br0"] = Ports(True, ("eth0",), (9,))
    put_back(store)
    assert firewall.asked[-1] == "change ports of br0" and firewall.ports["br0"] == bridges["br0"]
    asked = list(firewall.asked)

    def fail(device, ports):
        raise GuardError("no")

    firewall.change_ports = fail
    put_back(store)
    assert firewall.asked == asked, "that it stands is not in doubt"
    del firewall.stands["br0"]
    put_back(store)
    assert firewall.asked[-1] == "close br0" and firewall.ports["br0"] == bridges["br0"]


def test_a_link_that_dials_in_is_refused(store, links, firewall, messages, monkeypatch, tmp_path):
    monkeypatch.setattr(lifecycle, "_PPP", str(tmp_path))  # pppd is installed
    monkeypatch.setattr(ppp, "find_dialers", lambda device: [("dsl", "/peers/dsl")] if device == "eth0" else [])
    assert run_hook(store, "pre-up", "eth0", **GUARD) == hook.REFUSE
    assert firewall.stands == {}
    said = "dsl dials in over eth0 by PPPoE (/peers/dsl), whose frames the guard of eth0 would drop: let a router"
    assert any(said in message for message in messages)
    assert run_hook(store, "pre-up", "eth1", **GUARD) == 0


# The first look


UNKNOWN = HERE.change(macs={})  # the kernel has not asked for the router's MAC yet


def test_the_router_is_resolved_before_anything_is_seen(store, links, network, firewall, place):
    network["gateway"] = OFFICE
    place.scenes["eth0"], place.known["eth0"] = UNKNOWN, HERE
    ifup(store, links)
    assert place.resolved == [(HERE.index, (ROUTER,))]
    assert_open(store, firewall)


def test_a_router_that_nobody_knew_when_the_look_began_opens_nothing(store, links, network, firewall, place):
    """What was seen may be the network before, and the router that answers now another one's, of the same address."""
    network["gateway"] = OFFICE
    place.scenes["eth0"] = UNKNOWN
    place.then = [(2, HERE)]
    ifup(store, links)
    assert place.resolved
    assert_closed(store, firewall)


# What has passed the firewall and not left


def test_what_waits_for_a_neighbour_is_dropped_when_the_guard_closes(store, links, network, firewall, place):
    """When it is put up, and when another location is decided on."""
    network["gateway"] = OFFICE
    place.emptied.clear()
    ifup(store, links)
    assert place.emptied
    assert_open(store, firewall)
    place.emptied.clear()
    network["gateway"] = Answer(("192.0.2.9",))
    refresh(store)
    assert_closed(store, firewall)
    assert place.emptied == [HERE.index]
