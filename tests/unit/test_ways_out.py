"""What the admin does about a guard by hand: portal, release, close."""

import json
import re
import time
from contextlib import contextmanager

import pytest
from guarded import GUARD, ROUTER, assert_closed, assert_open, ifup, refresh, run_hook
from hypothesis import given
from hypothesis import strategies as st
from office import tidy

from netconf_hooks import guard
from netconf_hooks.commands import explain, hold, portal as portal_module, probe
from netconf_hooks.commands.entry import FAILED, OK
from netconf_hooks.commands.portal import LONGEST_PORTAL, find_caller, list_portal_exemptions, read_duration
from netconf_hooks.evidence import portal_page
from netconf_hooks.evidence.captive_portal import Portal, describe_refusal, read_portal
from netconf_hooks.evidence.portal_page import PageError, State
from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import check_exemption
from netconf_hooks.guard.visits import PAUSE
from netconf_hooks.observation import Answer, Observation, PortalNotice


@pytest.fixture(autouse=True)
def caller(monkeypatch, tmp_path, as_root):
    """Somebody with the uid 1000 calls by sudo; there is no systemd-resolved."""
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.delenv("PKEXEC_UID", raising=False)
    monkeypatch.setattr(portal_module, "_find_resolver_user", lambda: None)
    monkeypatch.setattr(portal_module, "list_resolver_users", lambda: ())
    monkeypatch.setattr(portal_module, "find_portals", lambda link, deadline: ((), ()))
    monkeypatch.setattr(portal_page, "follow_redirects", lambda view: ())
    monkeypatch.setattr(portal_module, "_find_routers", lambda link: ())


# Durations


@pytest.mark.parametrize("text, seconds", [
    ("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("60m", 3600), ("3600", 3600), ("1", 1)
])
def test_a_duration(text, seconds):
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", [
    "", "s", "0", "0m", "-5", "5 m", "1.5h", "2h", "3601", "61m", "5M", "5d", "1h30m", "forever", "1e3", "\u0665m",
    "\u00b2",
])
def test_no_duration(text):
    with pytest.raises(ValueError, match=f"up to an hour.*{re.escape(repr(text))}"):
        read_duration(text)


@given(st.text(max_size=6))
def test_whatever_is_written_is_at_most_an_hour(text):
    try:
        assert 0 < read_duration(text) <= LONGEST_PORTAL == 3600
    except ValueError:
        pass


# Who calls


@pytest.mark.parametrize("environ, loginuid, uid", [
    ({"SUDO_UID": "1000"}, "1001", 1000),
    ({"PKEXEC_UID": "1002"}, "1001", 1002),
    ({"SUDO_UID": "1000", "PKEXEC_UID": "1002"}, "1001", 1000),
    ({}, "1001", 1001),
    ({"SUDO_UID": "root"}, "1001", 1001),
    ({"SUDO_UID": ""}, "4294967295", 0),  # nobody has logged in: a service, the console's rescue shell
    ({}, "rubbish", 0),
    ({}, None, 0),
])
def test_who_calls(tmp_path, environ, loginuid, uid):
    path = tmp_path / "loginuid"
    if loginuid is not None:
        path.write_text(loginuid)
    assert find_caller(environ, str(path)) == uid


# What a portal takes


def test_a_portal_is_for_one_user_and_the_links_own_name_servers():
    exemptions = list_portal_exemptions(1000, (), ("192.0.2.53", "fe80::53"))
    assert exemptions == (
        Exemption("tcp", port=80, uids=(1000,)),
        Exemption("tcp", port=443, uids=(1000,)),
        Exemption("udp", "192.0.2.53/32", 53, uids=(1000,)),
        Exemption("tcp", "192.0.2.53/32", 53, uids=(1000,)),
        Exemption("udp", "fe80::53/128", 53, uids=(1000,)),
        Exemption("tcp", "fe80::53/128", 53, uids=(1000,)),
    )
    for exemption in exemptions:
        check_exemption(exemption)


def test_who_looks_up_names_for_everybody_may_do_that_and_no_more():
    exemptions = list_portal_exemptions(1000, (990,), ("192.0.2.53",))
    assert {exemption.uids for exemption in exemptions if exemption.port == 53} == {(1000, 990)}
    assert {exemption.uids for exemption in exemptions if exemption.port != 53} == {(1000,)}


# The commands


@pytest.fixture
def cafe(store, links, network, firewall):
    """eth0 came up in a café, where there is a portal."""
    assert ifup(store, links) == 0
    return firewall


def test_portal_lets_it_through_and_status_says_what_is_left(command, cafe):
    status, output, errors = command("portal", "eth0", "--for", "90s")
    assert (status, errors) == (OK, "")
    assert output == "eth0: for 90 s http, https and DNS pass for the user with uid 1000\n"
    window = cafe.get_window("eth0", "portal")
    assert window.exemptions == list_portal_exemptions(1000, (), ("192.0.2.53",))
    assert 80 < window.until - time.time() <= 90
    assert not cafe.is_open("eth0")
    left = re.search(
        r"^guard of eth0 closed \(nftables\) .*\n +a captive portal may be visited for another (\d+) s$",
        tidy(command("status")[1]), re.MULTILINE,
    )  # fmt: skip
    assert 80 < int(left[1]) <= 90
    said = json.loads(command("status", "--json")[1])
    assert 80 < said["guards"]["eth0"]["portal"] <= 90
    assert said["interfaces"]["eth0"]["guard"] == "closed"


def test_the_routers_own_ports_pass_and_those_of_the_portal_that_is_announced(command, cafe, monkeypatch, place):
    portals = (
        Portal("https://portal.example:8443/", "portal.example", 8443), Portal("http://10.9.9.9/", "10.9.9.9", 80),
    )  # fmt: skip
    monkeypatch.setattr(portal_module, "find_portals", lambda link, deadline: (portals, ()))
    monkeypatch.setattr(portal_page, "ask_state", fail)
    monkeypatch.setattr(portal_module, "_find_routers", lambda link: (ROUTER,))
    monkeypatch.setattr(portal_module, "list_resolver_users", lambda: (112,))
    place.names["portal.example"] = ("198.51.100.9",)
    status, output, errors = command("portal", "eth0")
    assert (status, errors) == (OK, "")
    assert "eth0: the network announces a captive portal: open https://portal.example:8443/\n" in output
    places = (("198.51.100.9", 8443), ("10.9.9.9", 80))
    passing = cafe.get_window("eth0", "portal").exemptions
    assert passing == list_portal_exemptions(1000, (112,), ("192.0.2.53",), (ROUTER,), places)
    assert Exemption("tcp", f"{ROUTER}/32", uids=(1000,)) in passing
    assert Exemption("tcp", "198.51.100.9/32", 8443, uids=(1000,)) in passing
    assert not any(exemption.network.startswith("10.9.9.9") for exemption in passing)
    for exemption in passing:
        check_exemption(exemption)


def test_an_announced_portal_opens_nothing_by_itself(command, cafe, network, store):
    network["portal"] = PortalNotice((API,))
    command("refresh")
    assert store.read_interface("eth0").observation.portal.uris == (API,)
    assert cafe.get_window("eth0", "portal") is None


API = "https://portal.example/api"
PAGE = "https://login.example:8443/"


def fail(*_):
    """Answer nothing."""
    raise PageError("no answer")


@pytest.fixture
def hotel(monkeypatch, place):
    """The network announces an API, whose answers are the list that is returned, each a `State`; none is left: it does
    not answer."""
    answers = []
    monkeypatch.setattr(portal_module, "find_portals", lambda link, deadline: ((read_portal(API),), ()))

    def ask_state(portal, view):
        assert view.deadline > time.monotonic()
        return answers.pop(0) if answers else fail()

    monkeypatch.setattr(portal_page, "ask_state", ask_state)
    place.names.update({"portal.example": ("198.51.100.9",), "login.example": ("198.51.100.10",)})
    return answers


def test_where_a_plain_request_is_sent_passes_and_where_the_api_says(command, cafe, hotel, monkeypatch):
    hotel.append(State(True, read_portal(PAGE)))
    sent = (read_portal("http://10.9.9.9:8880/guest"), read_portal("https://10.9.9.9:8843/guest"))
    monkeypatch.setattr(portal_page, "follow_redirects", lambda view: sent)
    status, output, errors = command("portal", "eth0")
    assert (status, errors) == (OK, "")
    assert f"eth0: the network announces a captive portal: open {PAGE}\n" in output
    assert "this ends by itself" in output
    passing = cafe.get_window("eth0", "portal").exemptions
    for network, port in (("10.9.9.9/32", 8880), ("10.9.9.9/32", 8843), ("198.51.100.10/32", 8443)):
        assert Exemption("tcp", network, port, uids=(1000,)) in passing
    # Of private addresses nothing else.
    assert {each.port for each in passing if each.network.startswith("10.")} == {8880, 8843}


def test_json_says_all_of_it(command, cafe, hotel, monkeypatch):
    hotel.append(State(True, read_portal(PAGE)))
    monkeypatch.setattr(portal_page, "follow_redirects", fail)
    status, output, errors = command("portal", "--json", "eth0")
    assert (status, errors) == (OK, "")
    assert json.loads(output) == {
        "device": "eth0", "uid": 1000, "seconds": 300.0, "portals": [API], "refused": [], "captive": True,
        "page": PAGE, "redirects": [], "places": ["198.51.100.9:443", "198.51.100.10:8443"],
        "name-servers": ["192.0.2.53"], "problems": ["a plain request has no answer: no answer"],
    }  # fmt: skip


def test_what_is_no_address_is_named_and_can_not_forge_a_line(command, cafe, monkeypatch):
    refused = describe_refusal("http://x/\nrm -rf /\x1b[2J", "reason")
    monkeypatch.setattr(portal_module, "find_portals", lambda link, deadline: ((), (refused,)))
    output = command("portal", "eth0")[1]
    assert output.splitlines()[1] == (
        'eth0: "http://x/\\nrm -rf /\\x1b[2J" is announced as a captive portal, but reason'
    )


def test_the_pass_ends_when_the_network_says_so(command, cafe, hotel, store, monkeypatch, messages):
    hotel += [State(True), State(True), State(False)]
    command("portal", "eth0")
    assert store.read_guard("eth0").portal_api == API
    assert guard.end_visits(store) == (False, PAUSE)
    assert cafe.get_window("eth0", "portal")
    # Not asked again before its time.
    ended, pause = guard.end_visits(store)
    assert (ended, len(hotel)) == (False, 1) and 0 < pause <= PAUSE
    store.write_guard(store.read_guard("eth0").change(portal_due=0.0))
    assert guard.end_visits(store) == (True, None)
    assert cafe.get_window("eth0", "portal") is None
    assert store.read_guard("eth0").portal_until == 0
    assert any("not needed any more" in message for message in messages)
    assert guard.end_visits(store) == (False, None)
    assert_closed(store, cafe)


def test_a_portal_that_does_not_answer_ends_nothing(command, cafe, hotel, store):
    hotel.append(State(True))
    command("portal", "eth0")
    assert guard.end_visits(store) == (False, PAUSE)
    assert cafe.get_window("eth0", "portal")


def test_where_no_login_is_needed_only_the_time_ends_the_pass(command, cafe, hotel, store):
    hotel.append(State(False))
    assert "no login is needed" in command("portal", "eth0")[1]
    assert store.read_guard("eth0").portal_api == ""
    assert guard.end_visits(store) == (False, None)
    assert cafe.get_window("eth0", "portal")


def test_the_portal_is_asked_for_an_interface_that_is_up(command, cafe, hotel, store, links):
    """Another one on the same device is only coming up: nothing is known of it yet."""
    hotel += [State(True), State(False)]
    command("portal", "eth0")
    record = store.read_guard("eth0")
    coming = record.passes[0].change(iface="eth0:1")
    store.write_guard(record.change(passes=(coming, *record.passes)))
    assert guard.end_visits(store) == (True, None)
    assert cafe.get_window("eth0", "portal") is None


def test_without_an_interface_that_is_up_no_portal_is_asked(command, cafe, hotel, store):
    hotel += [State(True), State(False)]
    command("portal", "eth0")
    store.remove_interface("eth0")
    assert guard.end_visits(store) == (False, PAUSE)
    assert cafe.get_window("eth0", "portal") and len(hotel) == 1


def test_a_firewall_that_fails_is_asked_again(command, cafe, hotel, store, messages):
    hotel += [State(True), State(False), State(False)]
    command("portal", "eth0")
    cafe.broken = "busy"
    assert guard.end_visits(store) == (False, PAUSE)
    assert store.read_guard("eth0").portal_left() > 0
    assert "error: eth0: netconf-guard: busy" in messages
    cafe.broken = ""
    store.write_guard(store.read_guard("eth0").change(portal_due=0.0))
    assert guard.end_visits(store) == (True, None)
    assert store.read_guard("eth0").portal_left() == 0
    assert cafe.get_window("eth0", "portal") is None


def test_a_newer_pass_is_not_ended_by_the_answer_to_an_older_one(command, cafe, hotel, store, monkeypatch):
    hotel.append(State(True))
    command("portal", "eth0")

    def visit_again(*_):
        record = store.read_guard("eth0")
        store.write_guard(record.change(portal_until=record.portal_until + 60, portal_until_boot=9e9))
        return State(False)

    monkeypatch.setattr(portal_page, "ask_state", visit_again)
    guard.end_visits(store)
    assert store.read_guard("eth0").portal_left() > 0


def test_status_names_the_portal(command, cafe, network, store):
    network["portal"] = PortalNotice((API,), "something else is refused")
    command("refresh")
    said = command("status")[1]
    assert f"\n    the network announces a captive portal: {API}\n    something else is refused\n" in said
    assert json.loads(command("status", "--json")[1])["interfaces"]["eth0"]["portals"] == [API]


def test_probe_names_the_portal(command, cafe, network, store, monkeypatch):
    network["gateway-mac"] = Answer(("52:54:00:0a:00:01",))
    network["portal"] = PortalNotice((API,), "something else is refused")
    said = command("probe", "eth0")[1]
    assert f"\n# the network announces a captive portal: {API}\n# something else is refused\n" in said
    seen = json.loads(command("probe", "--json", "eth0")[1])
    assert (seen["portals"], seen["portal-problem"]) == ([API], "something else is refused")


def test_explain_names_the_portal(command, cafe, network, monkeypatch, store):
    network["portal"] = PortalNotice((API,))
    monkeypatch.setattr(explain, "Store", lambda: store)
    assert f"  the network announces a captive portal: {API}\n" in command("explain", "eth0")[1]
    assert json.loads(command("explain", "--json", "eth0")[1])["interfaces"]["eth0"]["portals"] == [API]


def test_portal_lasts_five_minutes_unless_said_and_goes_by_the_device(command, cafe, store, links):
    ifup(store, links, "eth0:1")
    assert command("portal", "eth0:1")[0] == OK
    assert 290 < cafe.get_window("eth0", "portal").until - time.time() <= 300


def test_portal_says_where_there_is_no_name_server(command, cafe, place):
    place.resolvers = ()
    assert "no name server" in command("portal", "eth0")[1]
    assert {exemption.port for exemption in cafe.get_window("eth0", "portal").exemptions} == {80, 443}


def test_a_portal_that_is_over_is_not_in_status(command, cafe, store):
    command("portal", "eth0")
    store.write_guard(store.read_guard("eth0").change(portal_until=time.time() - 1))
    assert "captive portal" not in command("status")[1]
    assert json.loads(command("status", "--json")[1])["guards"]["eth0"]["portal"] == 0


def test_portal_on_a_link_that_is_not_up_or_not_guarded(command, store, links, network):
    assert command("portal", "eth0") == (FAILED, "", "netconf-hooks: eth0: not up, or without netconf rules\n")
    ifup(store, links, IF_NETCONF_VPN="openvpn corp")
    assert command("portal", "eth0") == (FAILED, "", "netconf-hooks: eth0: eth0 has no guard, or a released one\n")


def test_a_duration_that_can_not_be_read_is_a_usage_error(command, cafe, capfd):
    with pytest.raises(SystemExit) as left:
        command("portal", "eth0", "--for", "2h")
    assert left.value.code == 2
    assert "up to an hour" in capfd.readouterr().err
    assert cafe.get_window("eth0", "portal") is None


def test_release_opens_until_the_next_ifup_and_says_so(command, cafe, store, links, messages):
    status, output, _ = command("release", "eth0")
    assert (status, output) == (OK, "eth0: released: anything may leave, unencrypted, until the next ifup\n")
    assert cafe.stands == {}
    assert any(message.startswith("warning:") and "released" in message for message in messages)
    assert "guard of eth0 released (nftables) released by the admin" in tidy(command("status")[1])
    said = json.loads(command("status", "--json")[1])
    assert (said["interfaces"]["eth0"]["guard"], said["guards"]["eth0"]["state"]) == ("released", "released")
    command("refresh")
    assert cafe.stands == {}
    ifup(store, links)
    assert_closed(store, cafe)


def test_release_works_by_the_alias_and_without_an_interface_that_is_up(command, store, links, firewall):
    """A lease that never comes: pre-up closed the link, if-up was never run."""
    run_hook(store, "pre-up", **GUARD)
    assert command("release", "eth0:1")[0] == OK
    assert firewall.stands == {}


def test_release_without_a_guard_and_with_a_firewall_that_fails(command, cafe, store):
    assert command("release", "eth1") == (FAILED, "", "netconf-hooks: eth1: eth1 has no guard\n")
    cafe.broken = "busy"
    assert command("release", "eth0") == (FAILED, "", "netconf-hooks: eth0: busy\n")
    cafe.broken = ""
    assert_closed(store, cafe)


def test_close_shuts_everything_until_it_is_looked_at_again(command, store, links, network, firewall):
    network["gateway"] = Answer((ROUTER,))
    ifup(store, links)
    assert_open(store, firewall)
    assert command("close") == (OK, "", "")
    assert_closed(store, firewall)
    refresh(store, ())
    assert_closed(store, firewall)
    refresh(store)
    assert_open(store, firewall)


def test_close_where_nothing_is_up(command):
    assert command("close") == (OK, "", "")


@pytest.mark.parametrize("arguments", [("portal", "eth0"), ("release", "eth0"), ("close",), ("refresh", "--guards")])
def test_only_root_may(command, cafe, as_user, arguments):
    before = dict(cafe.stands), len(cafe.asked)
    status, output, errors = command(*arguments)
    assert (status, output) == (FAILED, "")
    assert "only root" in errors
    assert (cafe.stands, len(cafe.asked)) == before


@pytest.mark.parametrize("arguments, said", [
    (("release", "eth0"), ["eth0: waiting for a process that changes guards, and for the firewall"]),
    (("explain", "eth0"), ["looking at eth0"]),
    (("probe", "--json", "eth0"), ["looking at eth0"]),
    (("hold", "openvpn", "corp"), [
        "waiting for tunnels to start and stop, and for event scripts",
        "waiting for a process that starts or stops tunnels: at most 20 s",
    ]),
    (("unhold", "openvpn", "corp"), ["waiting for tunnels to start and stop, and for event scripts"]),
])  # fmt: skip
def test_a_long_wait_says_what_for(command, cafe, monkeypatch, arguments, said):
    told = []

    @contextmanager
    def tell_if_slow(message):
        told.append(message)
        yield

    for module in (explain, hold, portal_module, probe):
        monkeypatch.setattr(module, "tell_if_slow", tell_if_slow)
    monkeypatch.setattr(probe, "observe_everything", lambda *_: Observation("eth0", 7))
    assert command(*arguments)[0] == OK
    assert told == said
