"""From decisions to tunnels: who asks, when, and what is remembered of it."""

from time import monotonic

import pytest
from situations import make_record

from netconf_hooks import events, settle
from netconf_hooks.decide import NO_RULE
from netconf_hooks.evidence import look, make_link, ports
from netconf_hooks.evidence.current import list_current
from netconf_hooks.observation import Answer, OPEN
from netconf_hooks.passes import read_rules_of
from netconf_hooks.place import find_place
from netconf_hooks.settle import Change
from netconf_hooks.state import InterfaceRecord, Pass, TunnelRecord, merge_options
from netconf_hooks.system.netlink import LinkStatus, NetlinkError
from netconf_hooks.watcher.leftovers import end_passes

CORP = ("openvpn", "corp")
OFFICE = "office gateway=192.0.2.1"
UNLESS_OFFICE = {"netconf-location": OFFICE, "netconf-vpn": "openvpn corp unless office"}


def arrive(store, iface, index, location="", options=UNLESS_OFFICE, **facts):
    """Do what the up hook does once it knows where the interface is."""
    stanzas = (Pass("inet", options),)
    record = make_record(
        iface, index, stanzas, location=location, grade="hint" if location else "", routable=True, **facts
    )
    unsettled = remember(store, record)
    if unsettled:
        act(store)
    return unsettled


def leave(store, iface):
    """Do what the down hook does."""
    if forget(store, iface):
        act(store)


def act(store):
    """Do what was decided, and run the event scripts."""
    settle.act(store)
    events.tell_events(store)


def remember(store, record, replaces=None):
    """Write a record and decide; return whether there is something to do."""
    store.prepare()
    return settle.remember(store, Change(record.iface, record, replaces))


def forget(store, iface):
    """Forget a record and decide; return whether there is something to do."""
    store.prepare()
    return settle.remember(store, Change(iface))


def observe(iface, stanzas):
    """Return what `look.observe` sees, and the place that follows."""
    rules = read_rules_of(stanzas)
    seen = look.observe(iface, rules, merge_options(stanzas))
    return seen, find_place(rules, seen.answers)


# Sharing


def test_a_tunnel_is_started_where_it_is_wanted_and_stopped_by_leaving(store, links, tunnels):
    links.plug("eth0", 7)
    assert arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp"]
    assert store.read_tunnels()[CORP].applied
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
    act(store)
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
    arrive(store, "eth0", 7, options=options, words={"address=10.0.0.0/8": True})
    assert tunnels.asked == ["stop openvpn corp"]
    arrive(store, "eth0", 7, options=options, words={"address=10.0.0.0/8": False})
    assert tunnels.asked == ["stop openvpn corp", "start openvpn corp"]


def test_forgetting_what_was_never_remembered_does_nothing(store, tunnels):
    assert not forget(store, "eth0")
    assert tunnels.asked == []


# Failing


def test_what_fails_stays_open_and_is_tried_by_the_next_run_only(store, links, tunnels, messages):
    links.plug("eth0", 7)
    tunnels.broken["start openvpn corp"] = "no /etc/openvpn/client/corp.conf"
    arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp"]
    decision = store.read_tunnels()[CORP]
    assert (decision.verdict, decision.applied, decision.problem) == ("up", False, "no /etc/openvpn/client/corp.conf")
    [error] = [message for message in messages if message.startswith("error")]
    assert 'netconf-vpn "openvpn corp"' in error
    assert "can't be started: no /etc/openvpn/client/corp.conf" in error
    assert "eth0" in error

    del tunnels.broken["start openvpn corp"]
    arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp"] * 2
    decision = store.read_tunnels()[CORP]
    assert (decision.applied, decision.problem) == (True, "")


def test_what_could_not_be_started_is_tried_again_unless_the_watcher_has_its_own_time_for_it(store, links, tunnels):
    links.plug("eth0", 7)
    tunnels.broken["start openvpn corp"] = "busy"
    arrive(store, "eth0", 7)
    settle.settle(store, (), wake=False, retry=False)
    assert tunnels.asked == ["start openvpn corp"]
    settle.settle(store, (), wake=False)
    assert tunnels.asked == ["start openvpn corp"] * 2


def test_one_that_fails_does_not_keep_the_others_from_it(store, links, tunnels):
    links.plug("eth0", 7)
    tunnels.broken["start openvpn corp"] = "broken"
    arrive(store, "eth0", 7, options={"netconf-vpn": "openvpn corp\nunit x\nunit y"})
    assert tunnels.asked == ["start openvpn corp", "start unit x", "start unit y"]
    assert [record.applied for record in store.read_tunnels().values()] == [False, True, True]


def test_what_could_not_be_stopped_is_not_forgotten(store, links, tunnels):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    tunnels.broken["stop openvpn corp"] = "systemd does not answer"
    leave(store, "eth0")
    decision = store.read_tunnels()[CORP]
    assert (decision.verdict, decision.applied, decision.because) == ("down", False, NO_RULE)
    tunnels.broken.clear()
    leave(store, "eth0")
    assert tunnels.asked[-2:] == ["stop openvpn corp"] * 2
    assert store.read_tunnels() == {}


def test_a_hook_killed_between_deciding_and_acting_leaves_its_work_to_the_next(store, links, tunnels):
    links.plug("eth0", 7)
    stanzas = (Pass("inet", UNLESS_OFFICE),)
    assert remember(store, make_record("eth0", 7, stanzas))
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
        assert remember(store, make_record("eth0", 7, stanzas, location="office", grade="hint"))

    tunnels.during["start openvpn corp"] = arrive_at_office
    arrive(store, "eth0", 7)
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]
    decision = store.read_tunnels()[CORP]
    assert (decision.verdict, decision.applied) == ("down", True)
    act(store)
    assert len(tunnels.asked) == 2


def test_a_start_that_fails_while_the_decision_flips_does_not_hide_the_new_one(store, links, tunnels):
    links.plug("eth0", 7)
    tunnels.broken["start openvpn corp"] = "broken"
    tunnels.during["start openvpn corp"] = lambda: forget(store, "eth0")
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
        make_record(iface, index, ()) for iface, index in
        (("eth0", 7), ("eth0:1", 7), ("eth0:2", 6), ("eth1", 8), ("gone", 9), ("gone", 0))
    ]  # fmt: skip
    found = [(record.iface, record.observation.index) for record in list_current(records)]
    assert found == [("eth0", 7), ("eth0:1", 7)]
    assert list_current([]) == ()


def test_a_bridge_counts_while_a_port_that_leads_outside_has_carrier(links, monkeypatch):
    asked = []
    answers = [False, True]
    monkeypatch.setattr(ports, "has_carrier", lambda link, patterns: asked.append(patterns) or answers.pop())
    links["br0"] = LinkStatus(8, "br0", 0x11043, True, True, "", "bridge")
    links.plug("eth0", 7)
    stanzas = (Pass("inet", {"netconf-outside-ports": "eth0"}), Pass("inet6", {}))
    records = [make_record("br0", 8, stanzas), make_record("eth0", 7, stanzas)]
    assert list_current(records) == tuple(records)
    assert list_current(records) == (records[1],)
    assert asked == [("eth0",)] * 2, "a card is not asked about"
    answers = [False]
    assert not make_link("br0", stanzas[0].options).carrier


# Replacing


def test_a_record_that_is_gone_is_not_brought_back(store, links, tunnels):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    leave(store, "eth0")
    assert not remember(store, make_record("eth0", 7, old.passes, location="office"), replaces=old)
    assert store.read_interface("eth0") is None


@pytest.mark.parametrize("looked, location", [(1.5, "office"), (2.5, "home")])
def test_of_two_looks_at_the_same_time_the_later_one_stands(store, links, looked, location):
    """Whichever is written first: a DHCP client's hook and the watcher look side by side."""
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    for found, began in (("office", 2.0), ("home", looked)):
        record = make_record("eth0", 7, old.passes, location=found, looked=began)
        remember(store, record, replaces=old)
    assert store.read_interface("eth0").place.location == location


def test_an_ifup_in_between_is_not_overwritten(store, links):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    remember(store, make_record("eth0", 7, old.passes, location="office", looked=2.0))
    remember(store, make_record("eth0", 7, old.passes, location="home", looked=1.0), replaces=old)
    assert store.read_interface("eth0").place.location == "office"


def test_a_record_does_not_move_to_another_device(store, links):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    links.plug("eth0", 9)
    remember(store, make_record("eth0", 9, old.passes, location="home"), replaces=old)
    assert store.read_interface("eth0") == old
    assert store.read_tunnels()[CORP].because == NO_RULE


def test_a_record_that_can_not_be_read_any_more_is_not_overwritten(store, links):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    with open(f"{store.interfaces}/eth0", "w") as file:
        file.write("somebody is at work here\n")
    remember(store, make_record("eth0", 7, old.passes, location="home"), replaces=old)
    with open(f"{store.interfaces}/eth0") as file:
        assert file.read() == "somebody is at work here\n"


def test_a_record_is_replaced_while_it_stands(store, links):
    links.plug("eth0", 7)
    arrive(store, "eth0", 7)
    old = store.read_interface("eth0")
    remember(store, make_record("eth0", 7, old.passes, location="home"), replaces=old)
    assert store.read_interface("eth0").place.location == "home"


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
    seen, place = observe("eth0", stanzas)
    assert (seen.iface, seen.index) == ("eth0", 7)
    assert (place.location, place.line, place.grade) == ("office", OFFICE, "hint")
    assert (place.undecided, seen.routable, seen.wireless) == (False, True, "")
    assert seen.answers == {
        "address": Answer((), problem="nothing there"),
        "dns-domain": Answer((), problem="nothing there"),
        "gateway": network["gateway"],
    }
    assert place.words == {"gateway=192.0.2.1": True, "!gateway=192.0.2.1": False, "address=10.0.0.0/8": False}


def test_what_was_not_answered_in_time_is_undecided(links, network):
    links.plug("wlan0", 8)
    network["address"] = network["gateway"] = Answer((), pending=True, problem="no time left")
    stanzas = (Pass("inet", {"netconf-location": OFFICE, "netconf-vpn": "openvpn corp on address=10.0.0.0/8"}),)
    seen, place = observe("wlan0", stanzas)
    assert place.undecided
    assert seen.wireless == OPEN
    assert place.words == {"address=10.0.0.0/8": None}


def test_a_link_without_carrier_is_given_some_time(links, network, monkeypatch):
    links.plug("eth0", 7, carrier=False)
    waits = []

    def plug_in(device, deadline, outside_ports):
        waits.append((device, deadline - monotonic()))
        links.plug("eth0", 7)

    monkeypatch.setattr(look, "_wait_for_carrier", plug_in)
    observe("eth0", (Pass("inet", {"netconf-timeout": "2"}),))
    observe("eth0", (Pass("inet", {"netconf-timeout": "2"}),))
    [(device, seconds)] = waits
    assert device == "eth0"
    assert 1 < seconds <= 2
    links.plug("eth0", 7, carrier=False)
    observe("eth0", (Pass("inet", {"netconf-timeout": "60"}),))
    assert 2 < waits[1][1] <= look.CARRIER_TIMEOUT


def test_a_device_that_is_not_there_is_not_waited_for(links, network, monkeypatch):
    monkeypatch.setattr(look, "_wait_for_carrier", lambda *_: pytest.fail("waited"))
    stanzas = (Pass("inet", UNLESS_OFFICE),)
    seen, place = observe("eth0", stanzas)
    assert seen.index == 0
    assert list_current([InterfaceRecord("eth0", stanzas, seen, place)]) == ()


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
    monkeypatch.setattr("netconf_hooks.watcher.leftovers.has_wpa_action", lambda iface: wpa)
    links.plug("wlan0", 7)
    record = make_record("wlan0", 7, (Pass("inet", UNLESS_OFFICE, iface="wlan0", stage=stage),))
    assert remember(store, record)
    act(store)
    links.plug("wlan0", 7, up=up)
    end_passes(store)
    assert (store.read_interface("wlan0") is not None) == left
    assert tunnels.asked == ["start openvpn corp"] + ([] if left else ["stop openvpn corp"])


def test_an_interface_that_comes_up_meanwhile_is_not_forgotten(store, links, monkeypatch):
    record = make_record("wlan0", 7, (Pass("inet", UNLESS_OFFICE, iface="wlan0", stage="kept"),))
    store.prepare()
    store.write_interface(record)

    def come_up(iface):
        store.write_interface(record.change(passes=(record.passes[0].change(stage="up"),)))
        return False

    monkeypatch.setattr("netconf_hooks.watcher.leftovers.has_wpa_action", come_up)
    end_passes(store)
    assert store.read_interface("wlan0").passes[0].stage == "up"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), NetlinkError(105)])
def test_what_was_seen_before_a_look_failed_is_remembered(store, links, error):
    """The looks at several links come one after the other."""
    links.plug("eth0", 7)

    def look_at_all():
        yield Change("eth0", make_record("eth0", 7, (Pass("inet", UNLESS_OFFICE),), routable=True))
        raise error

    with pytest.raises(type(error)):
        settle.settle(store, look_at_all(), wake=False)
    assert store.read_interface("eth0") is not None
    assert store.read_tunnels()[CORP].verdict == "up"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), NetlinkError(105)])
def test_the_first_look_that_fails_leaves_all_as_it_was(store, links, error, monkeypatch):
    monkeypatch.setattr(settle, "remember", lambda *_: pytest.fail("there is nothing new"))

    def look_at_all():
        raise error
        yield

    with pytest.raises(type(error)):
        settle.settle(store, look_at_all(), wake=False)


def test_each_look_is_remembered_once(store, links, monkeypatch):
    """Even if an interface has changed its place, so that its look waits for no other."""
    for index, iface in enumerate(("eth0", "eth1"), 7):
        links.plug(iface, index)
        arrive(store, iface, index, location="office")
    before = {record.iface: record for record in store.read_interfaces(pytest.fail)}
    written = []
    write_interface = store.write_interface

    def write(record):
        written.append(record.iface)
        write_interface(record)

    monkeypatch.setattr(store, "write_interface", write)
    changes = [
        Change(iface, make_record(iface, record.observation.index, record.passes, looked=monotonic()), record)
        for iface, record in before.items()
    ]
    settle.settle(store, changes, wake=False)
    assert written == ["eth0", "eth1"]


ROUTERS = {"old": "52:54:00:0a:00:01", "new": "52:54:00:0a:00:02", "newer": "52:54:00:0a:00:03"}


def test_a_new_router_is_told_once(store, links, network, messages):
    """The rest of the location's line holds: the admin may want to add it."""
    links.plug("eth0", 7)
    line = f"office gateway-mac={ROUTERS['old']} dns-domain=corp.example"
    passes = (Pass("inet", {"netconf-location": line}),)
    network["dns-domain"] = Answer(("corp.example",))
    before = None
    for router, told in (("old", 0), ("new", 1), ("new", 0), ("newer", 1), ("old", 0), ("new", 1)):
        messages.clear()
        network["gateway-mac"] = Answer((ROUTERS[router],))
        before = settle.look(store, "eth0", passes, before=before)
        warned = [message for message in messages if message.startswith("warning: eth0: ")]
        assert len(warned) == told, router
        assert all(ROUTERS[router] in message for message in warned)
