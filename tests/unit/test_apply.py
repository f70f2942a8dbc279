"""From decisions to tunnels: who asks, when, and what is remembered of it."""

from time import monotonic

import pytest

from netconf_hooks import settle
from netconf_hooks.decide import NO_RULE
from netconf_hooks.evidence import Answer, ports
from netconf_hooks.settle import (
    end_passes, follow_decision, forget_interface, list_counting, make_link, merge_options, observe_interface,
    remember_interface
)  # fmt: skip
from netconf_hooks.state import Finding, InterfaceRecord, Pass, TunnelRecord
from netconf_hooks.system.netlink import LinkStatus

CORP = ("openvpn", "corp")
OFFICE = "office gateway=192.0.2.1"
UNLESS_OFFICE = {"netconf-location": OFFICE, "netconf-vpn": "openvpn corp unless office"}


def arrive(store, iface, index, location="", options=UNLESS_OFFICE, **facts):
    """Do what the up hook does once it knows where the interface is."""
    stanzas = (Pass("inet", options),)
    record = InterfaceRecord(
        iface, index, stanzas, location=location, grade="hint" if location else "", routable=True, **facts
    )
    open_decision = remember_interface(store, record)
    if open_decision:
        follow_decision(store)
    return open_decision


def leave(store, iface):
    """Do what the down hook does."""
    if forget_interface(store, iface):
        follow_decision(store)


# Sharing


def test_a_tunnel_is_started_where_it_is_wanted_and_stopped_by_leaving(store, links, tunnels):
    links.plug("eth0", 7)
    assert arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp"]
    assert store.read_tunnels()[CORP].done
    leave(store, "eth0")
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]
    assert store.read_tunnels() == {}
    assert store.read_interfaces(pytest.fail) == ()


def test_two_interfaces_share_a_tunnel_and_the_last_stops_it(store, links, tunnels):
    links.plug("eth0", 7)
    links.plug("wlan0", 8)
    arrive(store, "eth0", 7)
    assert not arrive(store, "wlan0", 8)
    assert tunnels.asked == ["start openvpn corp"]
    leave(store, "eth0")
    assert tunnels.asked == ["start openvpn corp"]
    leave(store, "wlan0")
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]


def test_one_interface_vetoes_for_all_and_its_leaving_ends_that(store, links, tunnels):
    links.plug("eth0", 7)
    links.plug("wlan0", 8)
    arrive(store, "wlan0", 8)
    arrive(store, "eth0", 7, "office")
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]
    leave(store, "eth0")
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp", "start openvpn corp"]


def test_arriving_where_it_is_vetoed_stops_what_somebody_else_started(store, links, tunnels):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7, "office")
    assert tunnels.asked == ["stop openvpn corp"]
    assert store.read_tunnels()[CORP].verdict == "down"
    leave(store, "eth0")
    assert tunnels.asked == ["stop openvpn corp"]
    assert store.read_tunnels() == {}


def test_a_tunnel_that_follows_already_is_not_asked_again(store, links, tunnels):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    assert not arrive(store, "eth0", 7)
    follow_decision(store)
    assert tunnels.asked == ["start openvpn corp"]


def test_a_rule_that_can_not_be_read_leaves_its_tunnel_alone(store, links, tunnels):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7, options={"netconf-vpn": "openvpn corp unles office\nunit x"})
    assert tunnels.asked == ["start unit x"]
    arrive(store, "eth0", 7, options={"netconf-vpn": "openvpn corp"})
    arrive(store, "eth0", 7, options={"netconf-vpn": "openvpn corp unles office"})
    assert tunnels.asked[-2:] == ["start openvpn corp", "stop unit x"]
    assert store.read_tunnels()[CORP].verdict == "up"
    leave(store, "eth0")
    assert tunnels.asked[-1] == "stop openvpn corp"


def test_an_undecided_link_leaves_the_tunnel_as_it_is(store, links, tunnels):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7, "office", options={"netconf-location": OFFICE, "netconf-vpn": "openvpn corp on office"})
    arrive(store, "eth0", 7, "", {"netconf-location": OFFICE, "netconf-vpn": "openvpn corp on office"}, undecided=True)
    assert tunnels.asked == ["start openvpn corp"]
    arrive(store, "eth0", 7, "", {"netconf-location": OFFICE, "netconf-vpn": "openvpn corp on office"})
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]


def test_tests_as_words_are_taken_from_the_record(store, links, tunnels):
    links.plug("eth0", 7)
    options = {"netconf-vpn": "openvpn corp unless address=10.0.0.0/8"}
    arrive(store, "eth0", 7, options=options, words=(Finding("address=10.0.0.0/8", ("holds",)),))
    assert tunnels.asked == ["stop openvpn corp"]
    arrive(store, "eth0", 7, options=options, words=(Finding("address=10.0.0.0/8", ("fails",)),))
    assert tunnels.asked == ["stop openvpn corp", "start openvpn corp"]


def test_forgetting_what_was_never_remembered_does_nothing(store, tunnels):
    assert not forget_interface(store, "eth0")
    assert tunnels.asked == []


# Failing


def test_what_fails_stays_open_and_is_tried_by_the_next_run_only(store, links, tunnels, messages):
    links.plug("eth0", 7)
    tunnels.broken["start openvpn corp"] = "no /etc/openvpn/client/corp.conf"
    arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp"]
    decision = store.read_tunnels()[CORP]
    assert (decision.verdict, decision.done, decision.problem) == ("up", False, "no /etc/openvpn/client/corp.conf")
    [error] = [message for message in messages if message.startswith("error")]
    assert 'netconf-vpn "openvpn corp"' in error
    assert "can't be started: no /etc/openvpn/client/corp.conf" in error
    assert "eth0" in error

    del tunnels.broken["start openvpn corp"]
    arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp"] * 2
    decision = store.read_tunnels()[CORP]
    assert (decision.done, decision.problem) == (True, "")


def test_one_that_fails_does_not_keep_the_others_from_it(store, links, tunnels):
    links.plug("eth0", 7)
    tunnels.broken["start openvpn corp"] = "broken"
    arrive(store, "eth0", 7, options={"netconf-vpn": "openvpn corp\nunit x\nunit y"})
    assert tunnels.asked == ["start openvpn corp", "start unit x", "start unit y"]
    assert [record.done for record in store.read_tunnels().values()] == [False, True, True]


def test_what_could_not_be_stopped_is_not_forgotten(store, links, tunnels):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    tunnels.broken["stop openvpn corp"] = "systemd does not answer"
    leave(store, "eth0")
    decision = store.read_tunnels()[CORP]
    assert (decision.verdict, decision.done, decision.because) == ("down", False, NO_RULE)
    tunnels.broken.clear()
    leave(store, "eth0")
    assert tunnels.asked[-2:] == ["stop openvpn corp"] * 2
    assert store.read_tunnels() == {}


def test_a_hook_killed_between_deciding_and_acting_leaves_its_work_to_the_next(store, links, tunnels):
    links.plug("eth0", 7)
    stanzas = (Pass("inet", UNLESS_OFFICE),)
    assert remember_interface(store, InterfaceRecord("eth0", 7, stanzas))
    assert tunnels.asked == []
    assert arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp"]


def test_a_damaged_list_of_decisions_is_made_anew(store, links, tunnels, messages):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    with open(store.tunnels, "w") as file:
        file.write("rubbish\n")
    assert arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp"] * 2
    assert any("decided on anew" in message for message in messages)


def test_a_damaged_record_takes_no_other_with_it(store, links, tunnels, messages):
    links.plug("eth0", 7)
    links.plug("wlan0", 8)
    arrive(store, "eth0", 7)
    with open(f"{store.interfaces}/wlan0", "w") as file:
        file.write("rubbish\n")
    arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp"]
    assert any("wlan0" in message for message in messages)


# Two at the same time


def test_a_decision_that_flips_while_it_is_followed_is_followed_in_its_newest_form(store, links, tunnels):
    links.plug("eth0", 7)
    stanzas = (Pass("inet", UNLESS_OFFICE),)

    def arrive_at_office():
        # Another hook decides while this one is starting the tunnel; it would then wait for its turn to act.
        assert remember_interface(store, InterfaceRecord("eth0", 7, stanzas, location="office", grade="hint"))

    tunnels.during["start openvpn corp"] = arrive_at_office
    arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]
    decision = store.read_tunnels()[CORP]
    assert (decision.verdict, decision.done) == ("down", True)
    follow_decision(store)
    assert len(tunnels.asked) == 2


def test_a_start_that_fails_while_the_decision_flips_does_not_hide_the_new_one(store, links, tunnels):
    links.plug("eth0", 7)
    tunnels.broken["start openvpn corp"] = "broken"
    tunnels.during["start openvpn corp"] = lambda: forget_interface(store, "eth0")
    arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]
    assert store.read_tunnels() == {}


def test_the_records_are_free_while_a_tunnel_is_asked(store, links, tunnels):
    links.plug("eth0", 7)
    taken = []

    def look():
        lock = store.lock_records()
        taken.append(lock.take())
        lock.release()
        taken.append(store.lock_acting().take())

    tunnels.during["start openvpn corp"] = look
    arrive(store, "eth0", 7)
    assert taken == [True, False]


# Records that count


def test_a_cable_pulled_out_of_the_office_vetoes_nothing(store, links, tunnels):
    links.plug("eth0", 7)
    links.plug("wlan0", 8)
    arrive(store, "eth0", 7, "office")
    links.plug("eth0", 7, carrier=False)
    arrive(store, "wlan0", 8)
    assert tunnels.asked == ["stop openvpn corp", "start openvpn corp"]


def test_another_device_of_that_name_is_another_device(store, links, tunnels):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    links.plug("eth0", 9)
    leave(store, "wlan0")
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]


def test_which_records_count(links):
    links.plug("eth0", 7)
    links.plug("eth1", 8, carrier=False)
    records = [
        InterfaceRecord(iface, index, ()) for iface, index in
        (("eth0", 7), ("eth0:1", 7), ("eth0:2", 6), ("eth1", 8), ("gone", 9), ("gone", 0))
    ]  # fmt: skip
    assert [(record.iface, record.index) for record in list_counting(records)] == [("eth0", 7), ("eth0:1", 7)]
    assert list_counting([]) == ()


def test_a_bridge_counts_while_a_port_that_leads_outside_has_carrier(links, monkeypatch):
    asked = []
    answers = [False, True]
    monkeypatch.setattr(ports, "has_carrier", lambda link, patterns: asked.append(patterns) or answers.pop())
    links["br0"] = LinkStatus(8, "br0", 0x11043, True, True, "", "bridge")
    links.plug("eth0", 7)
    stanzas = (Pass("inet", {"netconf-outside-ports": "eth0"}), Pass("inet6", {}))
    records = [InterfaceRecord("br0", 8, stanzas), InterfaceRecord("eth0", 7, stanzas)]
    assert list_counting(records) == tuple(records)
    assert list_counting(records) == (records[1],)
    assert asked == [("eth0",)] * 2, "a card is not asked about"
    answers = [False]
    assert not make_link("br0", stanzas[0].options).carrier


# Replacing


def test_a_record_that_is_gone_is_not_brought_back(store, links, tunnels):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    leave(store, "eth0")
    assert not remember_interface(store, InterfaceRecord("eth0", 7, old.passes, location="office"), replaces=old)
    assert store.read_interface("eth0") is None


@pytest.mark.parametrize("looked, location", [(1.5, "office"), (2.5, "home")])
def test_of_two_looks_at_the_same_time_the_later_one_stands(store, links, looked, location):
    """Whichever is written first: a DHCP client's hook and the watcher look side by side."""
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    for found, began in (("office", 2.0), ("home", looked)):
        record = InterfaceRecord("eth0", 7, old.passes, location=found, looked=began)
        remember_interface(store, record, replaces=old)
    assert store.read_interface("eth0").location == location


def test_an_ifup_in_between_is_not_overwritten(store, links):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    remember_interface(store, InterfaceRecord("eth0", 7, old.passes, location="office", looked=2.0))
    remember_interface(store, InterfaceRecord("eth0", 7, old.passes, location="home", looked=1.0), replaces=old)
    assert store.read_interface("eth0").location == "office"


def test_a_record_does_not_move_to_another_device(store, links):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    links.plug("eth0", 9)
    remember_interface(store, InterfaceRecord("eth0", 9, old.passes, location="home"), replaces=old)
    assert store.read_interface("eth0") == old
    assert store.read_tunnels()[CORP].because == NO_RULE


def test_a_record_that_can_not_be_read_any_more_is_not_overwritten(store, links):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    with open(f"{store.interfaces}/eth0", "w") as file:
        file.write("somebody is at work here\n")
    remember_interface(store, InterfaceRecord("eth0", 7, old.passes, location="home"), replaces=old)
    with open(f"{store.interfaces}/eth0") as file:
        assert file.read() == "somebody is at work here\n"


def test_a_record_is_replaced_while_it_stands(store, links):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    remember_interface(store, InterfaceRecord("eth0", 7, old.passes, location="home"), replaces=old)
    assert store.read_interface("eth0").location == "home"


# Stanzas


def test_stanzas_are_joined_as_one():
    merged = merge_options(
        [
            Pass("inet", {"netconf-location": "a x=1", "netconf-timeout": "3", "dns-domain": "x"}),
            Pass("inet6", {"netconf-location": "b x=2", "netconf-vpn": "unit y", "dns-domain": "x"}),
        ]
    )
    assert merged == {
        "netconf-location": "a x=1\nb x=2", "netconf-timeout": "3", "dns-domain": "x", "netconf-vpn": "unit y"
    }  # fmt: skip
    assert merge_options([]) == {}


def test_joining_changes_no_stanza():
    stanza = Pass("inet", {"netconf-vpn": "unit x"})
    merge_options([stanza, Pass("inet6", {"netconf-vpn": "unit y"})])
    assert stanza.options == {"netconf-vpn": "unit x"}


# Looking


def test_what_is_seen_is_remembered(links, network):
    links.plug("eth0", 7)
    network["gateway"] = Answer(("192.0.2.1",))
    stanzas = (
        Pass("inet", {"netconf-location": OFFICE + " !dns-domain=cafe.example\n" + OFFICE, "dns-domain": "x"}),
        Pass("inet6", {"netconf-vpn": "openvpn corp on gateway=192.0.2.1 !gateway=192.0.2.1 address=10.0.0.0/8"}),
    )
    record, answers = observe_interface("eth0", stanzas)
    assert (record.iface, record.index, record.passes) == ("eth0", 7, stanzas)
    assert (record.location, record.line, record.grade) == ("office", OFFICE, "hint")
    assert (record.undecided, record.routable, record.wireless_open) == (False, True, False)
    assert record.seen == (
        Finding("address", (), "nothing there"),
        Finding("dns-domain", (), "nothing there"),
        Finding("gateway", ("192.0.2.1",)),
    )
    assert record.words == (
        Finding("gateway=192.0.2.1", ("holds",)),
        Finding("!gateway=192.0.2.1", ("fails",)),
        Finding("address=10.0.0.0/8", ("fails",)),
    )
    assert answers["gateway"] == network["gateway"]


def test_what_was_not_answered_in_time_is_undecided(links, network):
    links.plug("wlan0", 8)
    network["address"] = network["gateway"] = Answer((), pending=True, problem="no time left")
    stanzas = (Pass("inet", {"netconf-location": OFFICE, "netconf-vpn": "openvpn corp on address=10.0.0.0/8"}),)
    record, _ = observe_interface("wlan0", stanzas)
    assert record.undecided
    assert record.wireless_open
    assert record.words == (Finding("address=10.0.0.0/8", ("undecided",)),)


def test_a_link_without_carrier_is_given_some_time(links, network, monkeypatch):
    links.plug("eth0", 7, carrier=False)
    waits = []

    def plug_in(device, deadline, outside_ports):
        waits.append((device, deadline - monotonic()))
        links.plug("eth0", 7)

    monkeypatch.setattr(settle, "_wait_for_carrier", plug_in)
    observe_interface("eth0", (Pass("inet", {"netconf-timeout": "2"}),))
    observe_interface("eth0", (Pass("inet", {"netconf-timeout": "2"}),))
    [(device, seconds)] = waits
    assert device == "eth0"
    assert 1 < seconds <= 2
    links.plug("eth0", 7, carrier=False)
    observe_interface("eth0", (Pass("inet", {"netconf-timeout": "60"}),))
    assert 2 < waits[1][1] <= settle.CARRIER_TIMEOUT


def test_a_device_that_is_not_there_is_not_waited_for(links, network, monkeypatch):
    monkeypatch.setattr(settle, "_wait_for_carrier", lambda *_: pytest.fail("waited"))
    record, _ = observe_interface("eth0", (Pass("inet", UNLESS_OFFICE),))
    assert record.index == 0
    assert list_counting([record]) == ()


def test_a_link_carries_the_evidence_of_its_stanza_and_the_alias_its_device(links):
    links.plug("eth0", 7)
    link = make_link("eth0:1", {"dns-domain": "example.com", "netconf-vpn": "openvpn corp"})
    assert (link.iface, link.device, link.index, link.carrier) == ("eth0:1", "eth0", 7, True)
    assert link.options == {"dns-domain": "example.com"}


def test_a_decision_says_why(store, links, tunnels, messages):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7, "office")
    assert store.read_tunnels() == {
        CORP: TunnelRecord("openvpn", "corp", "down", 'eth0 is at office: "unless office"', True)
    }
    assert 'info: openvpn corp: down: eth0 is at office: "unless office"' in messages


@pytest.mark.parametrize("stage, up, wpa, left", [
    ("kept", False, False, False), ("kept", True, False, True), ("kept", False, True, True), ("up", False, False, True),
])
def test_what_ifupdown_is_done_with_is_forgotten_once_its_link_is_down(
    store, links, tunnels, monkeypatch, stage, up, wpa, left
):
    monkeypatch.setattr("netconf_hooks.ifenv.has_wpa_action", lambda iface: wpa)
    links.plug("wlan0", 7)
    record = InterfaceRecord("wlan0", 7, (Pass("inet", UNLESS_OFFICE, iface="wlan0", stage=stage),))
    assert remember_interface(store, record)
    follow_decision(store)
    links.plug("wlan0", 7, up=up)
    end_passes(store)
    assert (store.read_interface("wlan0") is not None) == left
    assert tunnels.asked == ["start openvpn corp"] + ([] if left else ["stop openvpn corp"])


def test_an_interface_that_comes_up_meanwhile_is_not_forgotten(store, links, monkeypatch):
    record = InterfaceRecord("wlan0", 7, (Pass("inet", UNLESS_OFFICE, iface="wlan0", stage="kept"),))
    store.prepare()
    store.write_interface(record)

    def come_up(iface):
        store.write_interface(record.change(passes=(record.passes[0].change(stage="up"),)))
        return False

    monkeypatch.setattr("netconf_hooks.ifenv.has_wpa_action", come_up)
    end_passes(store)
    assert store.read_interface("wlan0").passes[0].stage == "up"
