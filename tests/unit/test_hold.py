"""``netconf-hooks hold``: a tunnel that the rules neither start nor stop."""

import json
from pathlib import Path

import pytest
from guarded import HERE, ifup
from office import tidy
from situations import make_record

from netconf_hooks import settle, wish

from netconf_hooks.decide import KEEP, Known, NO_RULE, Verdict, decide, hold_verdicts
from netconf_hooks.exemption import Exemption
from netconf_hooks.settle import Change
from netconf_hooks.stanzas.ifenv import read_environment
from netconf_hooks.state import Pass, TunnelRecord
from netconf_hooks.system.systemd import Systemd
from netconf_hooks.tunnels import Endpoint
from netconf_hooks.tunnels.held import hold, read_holds, unhold
from netconf_hooks.watcher import watch
from netconf_hooks.watcher.stops import note_starts, note_stops

CORP = ("openvpn", "corp")
NAME = "openvpn corp"
OPTIONS = {"netconf-location": "office gateway=192.0.2.1", "netconf-vpn": "openvpn corp unless office"}


def arrive(store, location=""):
    """Be somewhere, and do what follows."""
    record = make_record("eth0", 7, (Pass("inet", OPTIONS),), location=location, grade="hint", routable=True)
    settle.settle(store, [Change("eth0", record)], wake=False)


@pytest.fixture
def up(store, links):
    """A link that is up."""
    links.plug("eth0", 7)
    return store


# What is decided


def test_what_is_held_is_asked_nothing_and_follows_the_rules_afterwards():
    record = make_record("eth0", 7, (Pass("inet", OPTIONS),), routable=True)
    before = {CORP: TunnelRecord(*CORP, "down", "at the office", applied=True)}
    held = decide([record], Known(before, held={CORP: "held by the admin"})).tunnels
    assert (held[CORP].verdict, held[CORP].applied, held[CORP].held) == ("up", True, "held by the admin")
    after = decide([record], Known(held)).tunnels
    assert (after[CORP].verdict, after[CORP].applied, after[CORP].held) == ("up", False, "")


def test_what_no_rule_names_any_more_is_stopped_after_it_was_held():
    before = {CORP: TunnelRecord(*CORP, "up", "wanted", applied=True)}
    for _ in range(3):
        before = decide([], Known(before, held={CORP: "held by the admin"})).tunnels
        assert before[CORP] == TunnelRecord(*CORP, "down", NO_RULE, applied=True, held="held by the admin")
    after = decide([], Known(before)).tunnels
    assert after[CORP] == TunnelRecord(*CORP, "down", NO_RULE, applied=False)


def test_a_verdict_on_a_held_tunnel_is_to_keep_it():
    verdicts = {CORP: Verdict("up", "wanted"), ("unit", "x"): Verdict("down", "no")}
    assert hold_verdicts(verdicts, {CORP: "held by the admin"}) == {
        CORP: Verdict(KEEP, "held by the admin; else up: wanted"), ("unit", "x"): Verdict("down", "no")
    }  # fmt: skip


# What is done


def test_a_held_tunnel_is_neither_started_nor_stopped(up, tunnels, messages):
    hold(*CORP)
    arrive(up)
    arrive(up, "office")
    arrive(up)
    settle.settle(up, [Change("eth0")], wake=False)
    assert tunnels.asked == []
    assert "info: openvpn corp: held by the admin" in messages
    unhold(*CORP)
    settle.settle(up, (), wake=False)
    assert tunnels.asked == ["stop openvpn corp"]
    assert up.read_tunnels() == {}
    assert "info: openvpn corp: follows the rules again" in messages


def test_what_could_not_be_done_is_not_tried_again_while_held(up, tunnels):
    tunnels.broken["start openvpn corp"] = "no corp.conf"
    arrive(up)
    hold(*CORP)
    arrive(up)
    assert tunnels.asked == ["start openvpn corp"]
    assert not watch.needs_retry(up, up.read_interfaces(pytest.fail))


def test_a_hold_during_a_start_is_not_lost(up, tunnels):
    def hold_it():
        hold(*CORP)
        settle.decide_again(up)

    tunnels.during["start openvpn corp"] = hold_it
    tunnels.broken["start openvpn corp"] = "no corp.conf"
    arrive(up)
    assert up.read_tunnels()[CORP].held
    assert tunnels.asked == ["start openvpn corp"]
    settle.act(up)
    assert tunnels.asked == ["start openvpn corp"]


def test_a_hold_with_a_time_ends_by_itself(up, tunnels, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1000.0)
    hold(*CORP, 1060)
    arrive(up)
    reports = []
    monkeypatch.setattr(watch, "look", lambda records: {record.iface: HERE for record in records})
    monkeypatch.setattr(watch, "look_again", lambda store, records: ())
    watch.survey(up, {}, "nobody watched", False, reports.append)
    assert "later 60.0" in reports and tunnels.asked == []
    monkeypatch.setattr("time.time", lambda: 1060.0)
    watch.survey(up, {}, "", True, reports.append)
    assert tunnels.asked == ["start openvpn corp"]


def test_the_watcher_looks_again_when_a_hold_ends(monkeypatch):
    monkeypatch.setattr(watch, "monotonic", lambda: 100.0)
    survey = watch._Survey()
    survey.begin(())
    survey.end(["later 3600.0"], failed=False)
    assert survey.alarm == 3700
    survey.end(["retry", "later 2.0"], failed=False)
    assert survey.alarm == 102
    survey.end([], failed=False)
    assert survey.alarm is None


# The guard


@pytest.mark.parametrize("location, running, passes", [
    ("", False, True), ("", True, True), ("office", True, True), ("office", False, False)
])
def test_its_packets_pass_a_closed_guard_while_it_runs_or_is_wanted(
    store, links, network, firewall, tunnels, location, running, passes
):  # fmt: skip
    tunnels.endpoints[NAME] = (Endpoint("203.0.113.1", "udp", 1194, uids=(0,)),)
    if running:
        tunnels.running.add(NAME)
    hold(*CORP)
    vpn = "openvpn corp unless anywhere" if location else "openvpn corp"
    ifup(store, links, IF_NETCONF_VPN=vpn, IF_NETCONF_GUARD="yes")
    exemption = Exemption("udp", "203.0.113.1/32", 1194, uids=(0,))
    assert firewall.list_exemptions("eth0") == ((exemption,) if passes else ())
    assert tunnels.asked == []


# Stopped by hand


class Journal(Systemd):
    """A systemd that runs; `stopped` is which unit somebody has stopped, and when."""

    stopped = ("", "")

    def is_running(self):
        return True

    def find_stop(self, units):
        assert units == ("openvpn@corp.service",)
        return self.stopped


@pytest.fixture
def journal_says(up, tunnels, monkeypatch):
    """A tunnel that is up, and a function that lets it end: stopped by hand, or by itself."""
    journal = Journal()
    monkeypatch.setattr("netconf_hooks.watcher.stops.load_tunnel", tunnels.load)
    tunnels.units[NAME] = ("openvpn@corp.service",)
    tunnels.running.add(NAME)
    arrive(up)

    def end(by_hand=True):
        tunnels.running.discard(NAME)
        journal.stopped = ("openvpn@corp.service", "22:00") if by_hand else ("", "")
        note_stops(up, journal)
        return up.read_tunnels()[CORP].held

    end.journal = journal
    return end


STOPPED = "stopped by hand (systemctl stop openvpn@corp.service, 22:00)"


def test_a_stop_by_hand_is_the_admins_word(journal_says, up, tunnels):
    assert journal_says() == STOPPED
    arrive(up)
    note_stops(up, journal_says.journal)
    assert up.read_tunnels()[CORP].held == STOPPED
    assert tunnels.asked == ["start openvpn corp"]


def test_what_ended_by_itself_is_nobodys_word(journal_says, up):
    assert journal_says(by_hand=False) == ""
    assert up.read_stops() == {}


def test_it_counts_until_the_verdict_changes(journal_says, up, tunnels):
    journal_says()
    arrive(up, "office")
    assert tunnels.asked[1:] == ["stop openvpn corp"]
    arrive(up)
    assert tunnels.asked[2:] == ["start openvpn corp"]
    assert up.read_stops() == {}


def test_it_counts_until_the_link_is_another_one(journal_says, up, tunnels, links):
    journal_says()
    links.plug("eth0", 8)
    record = make_record("eth0", 8, (Pass("inet", OPTIONS),), grade="hint", routable=True)
    settle.settle(up, [Change("eth0", record)], wake=False)
    assert tunnels.asked[1:] == ["start openvpn corp"]


def test_it_counts_until_the_router_is_another_one(journal_says, up, tunnels):
    def be_behind(router):
        seen = {"gateway": (router,)}
        record = make_record("eth0", 7, (Pass("inet", OPTIONS),), grade="hint", routable=True, seen=seen)
        settle.settle(up, [Change("eth0", record)], wake=False)

    be_behind("192.0.2.9")
    journal_says()
    be_behind("192.0.2.9")
    assert tunnels.asked == ["start openvpn corp"]
    be_behind("192.0.2.10")
    assert tunnels.asked[1:] == ["start openvpn corp"]


def test_it_counts_until_it_is_started_by_hand(journal_says, up, tunnels):
    journal_says()
    tunnels.running.add(NAME)
    note_stops(up, journal_says.journal)
    assert up.read_stops() == {} and up.read_tunnels()[CORP].held == ""


def test_a_kind_may_know_a_stop_by_itself(up, tunnels, monkeypatch):
    """The kind ifup does, also without systemd: somebody has run ifdown."""

    class NoSystemd:
        def is_running(self):
            return False

    class Stanza:
        stopped = "ifdown wg0"

        def is_running(self):
            return False

        def list_units(self):
            raise AssertionError("not asked")

        def find_stop(self):
            return self.stopped

    monkeypatch.setattr("netconf_hooks.watcher.stops.load_tunnel", lambda kind, name: Stanza())
    arrive(up)
    note_stops(up, NoSystemd())
    assert up.read_tunnels()[CORP].held == "stopped by hand (ifdown wg0)"
    Stanza.stopped = ""
    note_stops(up, NoSystemd())
    assert up.read_tunnels()[CORP].held == ""


def test_it_counts_until_unhold(journal_says, up, tunnels, command, as_root):
    journal_says()
    assert STOPPED in command("status")[1]
    assert command("unhold", *CORP)[1] == "openvpn corp: follows the rules again\n"
    assert tunnels.asked[1:] == ["start openvpn corp"]


def test_what_should_be_down_was_stopped_by_us(journal_says, up):
    arrive(up, "office")
    assert journal_says() == ""
    assert up.read_stops() == {}


def test_a_damaged_list_of_stops_counts_as_none(journal_says, up, tunnels, messages):
    journal_says()
    Path(up.stops).write_text("nonsense")
    settle.settle(up, (), wake=False)
    assert tunnels.asked[1:] == ["start openvpn corp"]
    assert len([message for message in messages if "no tunnel counts as stopped by hand" in message]) == 1


# Started by somebody else


DEBIAN = {**OPTIONS, "openvpn": "other corp"}


@pytest.mark.parametrize("options, location, asked", [
    (DEBIAN, "office", ["stop openvpn corp"]), (OPTIONS, "office", []), (DEBIAN, "", []),
])
def test_what_the_option_openvpn_starts_is_brought_to_the_verdict(
    up, tunnels, monkeypatch, options, location, asked
):  # fmt: skip
    monkeypatch.setattr("netconf_hooks.watcher.stops.load_tunnel", tunnels.load)
    record = make_record("eth0", 7, (Pass("inet", options),), location=location, grade="hint", routable=True)
    settle.settle(up, [Change("eth0", record)], wake=False)
    before = len(tunnels.asked)
    note_starts(up)
    assert tunnels.asked[before:] == []
    tunnels.running.add(NAME)
    note_starts(up)
    assert tunnels.asked[before:] == asked
    assert up.read_tunnels()[CORP].applied


def test_the_option_openvpn_is_remembered_beside_rules_only():
    environ = {"IFACE": "eth0", "IF_OPENVPN": "corp"}
    assert read_environment("up", environ).options == {}
    environ["IF_NETCONF_VPN"] = "openvpn corp"
    assert read_environment("up", environ).options == {"netconf-vpn": "openvpn corp", "openvpn": "corp"}


# Wishes


def test_a_wish_for_it_fails(store, monkeypatch):
    hold(*CORP)
    monkeypatch.setattr(wish, "has_working_default_route", lambda: pytest.fail("looked for a way"))
    environ = {"IFACE": "corp", "IF_NETCONF_VPN": "openvpn corp", "IF_NETCONF_UPLINK": "eth0"}
    with pytest.raises(wish.WishError, match="openvpn corp.*held by the admin: netconf-hooks unhold openvpn corp"):
        wish.fulfil_wish(read_environment("pre-up", environ), store, environ)
    assert store.read_interfaces(pytest.fail) == ()


# The command


def test_hold_and_unhold(command, as_root, up, tunnels):
    arrive(up)
    assert command("hold", *CORP) == (0, "openvpn corp: held by the admin; it is left as it is\n", "")
    arrive(up, "office")
    assert tunnels.asked == ["start openvpn corp"]
    assert command("unhold", *CORP) == (0, "openvpn corp: follows the rules again\n", "")
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]
    assert command("unhold", *CORP) == (0, "openvpn corp: was not held\n", "")


def test_hold_for_a_time(command, as_root, up, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1000.0)
    status, output, _ = command("hold", *CORP, "--for", "2h")
    assert status == 0 and output.startswith("openvpn corp: held by the admin until 1970-01-01 ")
    assert read_holds()[CORP].until == 1000 + 7200


@pytest.mark.parametrize("arguments, said", [
    (("carrierpigeon", "corp"), 'hold: expected a kind of tunnel (openvpn, ipsec, wireguard, unit'),
    (("openvpn", "../corp"), 'hold: expected the name of a tunnel, not "../corp"'),
    (("openvpn", "on"), 'hold: "on" can\'t be the name of a tunnel'),
])
def test_what_is_no_tunnel_is_one_clear_line(command, as_root, store, arguments, said):
    status, output, errors = command("hold", *arguments)
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert said in errors
    assert read_holds() == {}


@pytest.mark.parametrize("time", ["soon", "0", "-5m", "2y", "367d", 5000 * "9"], ids=len)
def test_what_is_no_time_is_refused(command, as_root, time):
    with pytest.raises(SystemExit, match="2"):
        command("hold", *CORP, "--for", time)
    assert read_holds() == {}


def test_only_root_may(command, store, as_user):
    for word in ("hold", "unhold"):
        said = f"netconf-hooks: {word}: only root may do this: sudo netconf-hooks {word} openvpn corp\n"
        assert command(word, *CORP) == (1, "", said)


def test_status_says_so(command, at_office, tunnel):
    hold(*CORP)
    hold("unit", "other.service")
    output = tidy(command("status")[1])
    assert 'openvpn corp not connected held by the admin; should be down: eth0 is at office: "unless' in output
    assert (
        f"unit other.service not connected held by the admin; should be down: {NO_RULE}; "
        "try: sudo netconf-hooks unhold unit other.service\n"
    ) in output
    said = json.loads(command("status", "--json")[1])["tunnels"]
    assert said["openvpn corp"]["held"] == said["unit other.service"]["held"] == "held by the admin"


def test_explain_says_so(command, at_office):
    hold(*CORP)
    said = json.loads(command("explain", "--json", "eth0")[1])["interfaces"]["eth0"]["tunnels"]["openvpn corp"]
    assert said["verdict"] == "keep"
    assert said["because"].startswith("held by the admin; else ")
