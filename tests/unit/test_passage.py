"""What passes a closed guard: what the admin allows, and the tunnels' own packets, wherever their servers are."""

import time
from math import inf

import pytest
from guarded import (
    ELSEWHERE, GUARD, ROUTER, assert_closed, assert_open, ifdown, ifup, listen, refresh, run_hook
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY
from pins import read_pins

from netconf_hooks.evidence import names
from netconf_hooks.evidence.names import Resolution
from netconf_hooks.exemption import Exemption, MARK, parse_exemption
from netconf_hooks.guard import hosts
from netconf_hooks.guard.endpoints import LOOK_UP_TIME, NAMES_TIME, let_tunnels_through, list_resolvers
from netconf_hooks.guard.enforce import put_back
from netconf_hooks.guard.exemptions import DISCOVERY, make_allowance, make_exemption
from netconf_hooks.guard.firewall import GuardError, check_exemption
from netconf_hooks.guard.override import close_guards, release_guard
from netconf_hooks.guard.shut import shut_guard
from netconf_hooks.observation import Answer
from netconf_hooks.stanzas.rules import read_rules
from netconf_hooks.state import boot_time
from netconf_hooks.tunnels import Endpoint, TunnelError

CORP = "openvpn corp"
BY_ADDRESS = Endpoint("203.0.113.1", "udp", 1194, uids=(0, 65534))
BY_NAME = Endpoint("vpn.example", "udp", 1194, uids=(0,))
TO_ADDRESS = Exemption("udp", "203.0.113.1/32", 1194, uids=(0, 65534))


def to(address):
    """What lets the tunnel that is given by name through to one address."""
    return Exemption("udp", f"{address}/{128 if ':' in address else 32}", 1194, uids=(0,))


# Allowances


@pytest.mark.parametrize("word, exemption", [
    ("192.0.2.0/24", Exemption("", "192.0.2.0/24", guests=True)),
    ("2001:db8::/32", Exemption("", "2001:db8::/32", guests=True)),
    ("192.0.2.7", Exemption("", "192.0.2.7/32", guests=True)),
    ("udp/123", Exemption("udp", "", 123, guests=True)),
    ("192.0.2.7:tcp/22", Exemption("tcp", "192.0.2.7/32", 22, guests=True)),
    ("[2001:db8::/32]:tcp/22", Exemption("tcp", "2001:db8::/32", 22, guests=True)),
    ("in:tcp/22", Exemption("tcp", "", source_port=22, reply=True, guests=True)),
    ("in:tcp/22@192.0.2.0/24", Exemption("tcp", "192.0.2.0/24", source_port=22, reply=True, guests=True)),
    ("in:udp/51820@2001:db8::/32", Exemption("udp", "2001:db8::/32", source_port=51820, reply=True, guests=True)),
])
def test_what_a_word_lets_through(word, exemption):
    rules = read_rules({"netconf-guard-allow": word})
    assert rules.errors == ()
    assert [make_allowance(allowance) for allowance in rules.allowances] == [exemption]
    check_exemption(exemption)


@pytest.mark.parametrize("word", ["ntp.example:udp/123", "lan"])
def test_hosts_by_name_and_the_lan_are_no_single_exemption(word):
    """Their addresses are known only when the link is looked at."""
    (allowance,) = read_rules({"netconf-guard-allow": word}).allowances
    with pytest.raises(AssertionError):
        make_allowance(allowance)


def test_all_stanzas_allowances_pass_from_the_first_moment(store, links, firewall):
    ifup(store, links, **GUARD, IF_NETCONF_GUARD_ALLOW="udp/123\nin:tcp/22")
    first = Exemption("udp", "", 123, guests=True), Exemption("tcp", "", source_port=22, reply=True, guests=True)
    assert firewall.list_exemptions("eth0") == first
    ifup(store, links, "eth0:1", **GUARD, IF_NETCONF_GUARD_ALLOW="192.0.2.0/24")
    assert firewall.list_exemptions("eth0") == (*first, Exemption("", "192.0.2.0/24", guests=True))


def test_a_line_of_allowances_that_can_not_be_read_lets_nothing_through(store, links, firewall):
    ifup(store, links, **GUARD, IF_NETCONF_GUARD_ALLOW="udp/123 nonsense\ntcp/22")
    assert firewall.list_exemptions("eth0") == (Exemption("tcp", "", 22, guests=True),)


# The LAN


HOME_LAN = (("192.168.1.7", 24), ("fe80::7", 64), ("2001:db8::7", 64))
PREFIXES = ("192.168.1.0/24", "fe80::/64")


@pytest.fixture
def lan(store, links, firewall, place, network):
    """eth0 came up, and may reach its LAN."""
    place.networks = HOME_LAN
    assert ifup(store, links, **GUARD, IF_NETCONF_GUARD_ALLOW="lan") == 0
    return firewall


def test_the_lan_passes_and_how_devices_are_found_there(lan, store, messages):
    assert store.read_guard("eth0").lan == PREFIXES
    window = lan.get_window("eth0", "lan")
    assert window.until == inf
    assert window.exemptions[:2] == tuple(Exemption(network=prefix) for prefix in PREFIXES)
    found = {(each.protocol, each.network, each.port) for each in window.exemptions[2:]}
    assert found == {("udp", f"{group}/{128 if ':' in group else 32}", port) for group, port in DISCOVERY}
    for exemption in window.exemptions:
        check_exemption(exemption)
    assert any('"lan" allows 192.168.1.0/24, fe80::/64 (not 2001:db8::7/64 is no private' in each for each in messages)
    assert lan.list_exemptions("eth0") == ()


def test_these_are_the_groups_and_ports_by_which_devices_are_found():
    """RFC 6762 3, UPnP Device Architecture 1.1 annex A, RFC 4795 2, OASIS WS-Discovery 1.1 2.4."""
    assert sorted(DISCOVERY) == [
        ("224.0.0.251", 5353), ("224.0.0.252", 5355), ("239.255.255.250", 1900), ("239.255.255.250", 3702),
        ("ff02::1:3", 5355), ("ff02::c", 1900), ("ff02::c", 3702), ("ff02::fb", 5353),
    ]  # fmt: skip


def test_before_the_link_is_looked_at_no_lan_passes(store, links, firewall, place):
    run_hook(store, "pre-up", **GUARD, IF_NETCONF_GUARD_ALLOW="lan")
    assert firewall.get_window("eth0", "lan") is None


def test_of_a_family_without_a_lan_nothing_passes(store, links, firewall, place, network, messages):
    place.networks = (("10.0.0.7", 8), ("fe80::7", 64))
    ifup(store, links, **GUARD, IF_NETCONF_GUARD_ALLOW="lan")
    window = firewall.get_window("eth0", "lan")
    assert all(":" in exemption.network for exemption in window.exemptions)
    place.networks = (("10.0.0.7", 8),)
    refresh(store)
    assert firewall.get_window("eth0", "lan") is None
    assert store.read_guard("eth0").lan == ()
    assert any('"lan" allows nothing (not 10.0.0.7/8 ' in each for each in messages)
    place.networks = HOME_LAN[:2]
    refresh(store)
    assert 'info: eth0: netconf-guard-allow "lan" allows 192.168.1.0/24, fe80::/64' in messages


def test_without_the_word_no_lan_passes(store, links, firewall, place, network):
    place.networks = HOME_LAN
    ifup(store, links)
    assert firewall.get_window("eth0", "lan") is None


def test_the_lan_is_shut_where_the_link_leaves_it(lan, store, place):
    place.scenes["eth0"] = ELSEWHERE
    leases, _ = listen(store)
    assert lan.get_window("eth0", "lan") is None
    assert store.read_guard("eth0").lan == ()
    assert leases.take_reason(), "the networks are looked at again"
    refresh(store)
    assert lan.get_window("eth0", "lan") is not None


def test_the_lan_stays_where_the_link_stays(lan, store, place):
    asked = len(lan.asked)
    listen(store)
    refresh(store)
    assert lan.get_window("eth0", "lan") is not None
    assert not any(what.startswith("shut") for what in lan.asked[asked:])


def test_the_lan_is_shut_by_ifdown_and_before_sleep(lan, store, links):
    close_guards(store, "the machine goes to sleep")
    assert lan.get_window("eth0", "lan") is None
    refresh(store)
    assert lan.get_window("eth0", "lan") is not None
    run_hook(store, "down", **GUARD, IF_NETCONF_GUARD_ALLOW="lan")
    assert lan.get_window("eth0", "lan") is None


def test_another_prefix_replaces_the_first(lan, store, place):
    place.networks = (("192.168.2.7", 24),)
    refresh(store)
    assert [each.network for each in lan.get_window("eth0", "lan").exemptions[:1]] == ["192.168.2.0/24"]


# Tunnels


endpoints = st.builds(
    Endpoint, st.just("203.0.113.1"), st.sampled_from(["udp", "tcp"]), st.integers(1, 65535), st.just(0),
    st.lists(st.integers(0, 70000), max_size=3, unique=True).map(tuple), st.integers(0, 2**32 - 1),
    st.integers(0, 65535),
)  # fmt: skip


@settings(max_examples=min(50, MANY))
@given(endpoints)
def test_a_tunnels_packets_pass_to_exactly_where_they_go(endpoint):
    exemption = make_exemption(endpoint, "203.0.113.1")
    check_exemption(exemption)
    assert parse_exemption(str(exemption)) == exemption
    made = exemption
    assert (made.protocol, made.network, made.port) == (endpoint.protocol, "203.0.113.1/32", endpoint.port)
    assert (made.uids, made.mark, made.source_port) == (endpoint.uids, endpoint.mark, endpoint.source_port)
    assert not exemption.reply


def test_the_endpoint_passes_before_its_tunnel_is_asked_for(store, links, network, firewall, tunnels):
    tunnels.endpoints[CORP] = (BY_ADDRESS, Endpoint("2001:db8::1", "esp", 0))
    passed = []
    tunnels.during["start openvpn corp"] = lambda: passed.extend(firewall.list_exemptions("eth0"))
    ifup(store, links)
    assert passed == [TO_ADDRESS, Exemption("esp", "2001:db8::1/128")]
    assert_closed(store, firewall)
    assert firewall.list_exemptions("eth0") == tuple(passed)


def test_where_it_is_not_wanted_nothing_of_it_passes(store, links, network, firewall, tunnels):
    tunnels.endpoints[CORP] = (BY_ADDRESS,)
    network["gateway"] = Answer((ROUTER,))
    ifup(store, links)
    assert firewall.list_exemptions("eth0") == ()
    assert_open(store, firewall)


def test_what_goes_down_lets_nothing_through_any_more(store, links, network, firewall, tunnels):
    tunnels.endpoints[CORP] = (BY_ADDRESS,)
    ifup(store, links)
    assert firewall.list_exemptions("eth0") == (TO_ADDRESS,)
    ifdown(store, links, down=False)
    assert firewall.list_exemptions("eth0") == ()


def test_two_uplinks_share_the_tunnel(store, links, network, firewall, tunnels, place):
    tunnels.endpoints[CORP] = (BY_ADDRESS,)
    ifup(store, links)
    links.plug("wlan0", 7)
    ifup(store, links, "wlan0", **{**GUARD, "IF_NETCONF_VPN": ""})
    for device in ("eth0", "wlan0"):
        assert firewall.list_exemptions(device) == (TO_ADDRESS,)


def test_a_second_family_leaves_the_tunnel_its_way(store, links, network, firewall, tunnels):
    tunnels.endpoints[CORP] = (BY_ADDRESS,)
    ifup(store, links)
    asked = len(firewall.asked)
    ifup(store, links, family="inet6", **GUARD)
    assert len(firewall.asked) > asked
    assert firewall.list_exemptions("eth0") == (TO_ADDRESS,)
    assert tunnels.asked == ["start openvpn corp"]


def test_what_can_not_be_known_is_told_by_name_and_lets_nothing_through(
    store, links, network, firewall, tunnels, messages
):
    tunnels.endpoints[CORP] = TunnelError("remote-random-hostname: where its packets go can't be known")
    ifup(store, links)
    assert firewall.list_exemptions("eth0") == ()
    assert "remote-random-hostname" in store.read_guard("eth0").problem
    told = [message for message in messages if "remote-random-hostname" in message]
    assert len(told) == 1 and told[0].startswith('error: eth0: netconf-guard: netconf-vpn "openvpn corp"')
    refresh(store)
    assert len([message for message in messages if "remote-random-hostname" in message]) == 1
    tunnels.endpoints[CORP] = (BY_ADDRESS,)
    refresh(store)
    assert store.read_guard("eth0").problem == ""
    assert firewall.list_exemptions("eth0") == (TO_ADDRESS,)


# Names


@pytest.fixture
def named(tunnels, place):
    """The tunnel's server is given by its name, which has two addresses."""
    tunnels.endpoints[CORP] = (BY_NAME,)
    place.names["vpn.example"] = ("203.0.113.1", "2001:db8::1")
    return place


def test_all_addresses_of_a_name_pass_and_are_pinned(store, links, network, firewall, named, hosts_file):
    ifup(store, links)
    assert firewall.list_exemptions("eth0") == (to("203.0.113.1"), to("2001:db8::1"))
    assert read_pins("eth0", str(hosts_file)) == {"vpn.example": ("203.0.113.1", "2001:db8::1")}
    assert named.asked == ["vpn.example"]


@pytest.mark.parametrize("version, address", [(4, "203.0.113.1"), (6, "2001:db8::1")])
def test_of_one_family_only_where_the_tunnel_uses_only_that(
    store, links, network, firewall, named, tunnels, version, address
):
    tunnels.endpoints[CORP] = (Endpoint("vpn.example", "udp", 1194, version, uids=(0,)),)
    ifup(store, links)
    assert firewall.list_exemptions("eth0") == (to(address),)


def test_names_are_asked_for_through_the_guard_and_only_while_it_takes(
    store, links, network, firewall, named, monkeypatch
):
    windows = []
    real = named.look_up

    def look_up(name, view):
        resolution = real(name, view)
        windows.append(firewall.get_window("eth0", "probe"))
        return resolution

    monkeypatch.setattr("netconf_hooks.evidence.names.look_up", look_up)
    ifup(store, links)
    [window] = windows
    assert window.exemptions == (Exemption("udp", "192.0.2.53/32", 53, uids=(0,), mark=MARK),)
    assert time.time() < window.until <= time.time() + LOOK_UP_TIME + 1
    assert firewall.get_window("eth0", "probe") is None


def test_names_are_asked_once_and_again_only_while_the_tunnel_is_down(
    store, links, network, firewall, named, tunnels, hosts_file
):
    tunnels.up[CORP] = True
    ifup(store, links)
    refresh(store)
    assert named.asked == ["vpn.example"]
    tunnels.up[CORP] = False
    named.names["vpn.example"] = ("203.0.113.9",)
    refresh(store)
    assert named.asked == ["vpn.example"] * 2
    assert firewall.list_exemptions("eth0") == (to("203.0.113.9"),)
    assert read_pins("eth0", str(hosts_file)) == {"vpn.example": ("203.0.113.9",)}


def test_a_run_asks_once_though_the_tunnel_takes_its_time(store, links, network, firewall, named, tunnels):
    tunnels.up[CORP] = False
    ifup(store, links)
    assert named.asked == ["vpn.example"]


def test_what_is_known_stays_while_no_name_server_answers(store, links, network, firewall, named, tunnels):
    tunnels.up[CORP] = False
    ifup(store, links)
    before = firewall.list_exemptions("eth0")
    named.names.clear()
    refresh(store)
    assert firewall.list_exemptions("eth0") == before


def test_a_name_that_nobody_knows_is_told_and_others_pass(store, links, network, firewall, named, tunnels, messages):
    tunnels.endpoints[CORP] = (BY_NAME, Endpoint("gone.example", "tcp", 443, uids=(0,)))
    ifup(store, links)
    assert firewall.list_exemptions("eth0") == (to("203.0.113.1"), to("2001:db8::1"))
    assert "gone.example: no such name" in store.read_guard("eth0").problem
    assert any("gone.example: no such name" in message for message in messages)


DEAD = Endpoint("dead.example", "udp", 1194, uids=(0,))
GONE = Endpoint("gone.example", "udp", 1194, uids=(0,))


def test_names_are_asked_together_and_those_without_an_answer_once_a_run(
    store, links, network, firewall, named, tunnels
):
    tunnels.endpoints[CORP] = (DEAD, GONE, BY_NAME)
    tunnels.up[CORP] = False
    ifup(store, links)
    assert named.asked == ["dead.example", "gone.example", "vpn.example"]
    assert firewall.list_exemptions("eth0") == (to("203.0.113.1"), to("2001:db8::1"))
    assert store.read_guard("eth0").silent == ("dead.example", "gone.example")
    assert "gone.example: no such name" in store.read_guard("eth0").problem
    refresh(store)
    assert named.asked[3:] == ["vpn.example", "dead.example", "gone.example"]


def test_while_the_tunnel_is_up_nobody_waits_for_the_other_names(store, links, network, firewall, named, tunnels):
    tunnels.endpoints[CORP] = (DEAD, BY_NAME)
    tunnels.up[CORP] = False
    ifup(store, links)
    tunnels.up[CORP] = True
    named.asked.clear()
    refresh(store)
    ifup(store, links, family="inet6", **GUARD)
    assert named.asked == []


def test_a_tunnel_without_any_address_has_the_whole_time_once_the_others_run(
    store, links, network, firewall, named, tunnels
):
    tunnels.endpoints[CORP] = (BY_NAME,)
    tunnels.endpoints["openvpn other"] = (DEAD,)
    tunnels.up[CORP] = tunnels.up["openvpn other"] = False
    asked_then = []
    tunnels.during["start openvpn other"] = lambda: asked_then.extend(named.asked)
    ifup(store, links, **{**GUARD, "IF_NETCONF_VPN": "openvpn corp\nopenvpn other"})
    assert sorted(asked_then) == ["dead.example", "vpn.example"]
    assert named.asked[2:] == ["dead.example"]
    assert "dead.example: no such name" in store.read_guard("eth0").problem


def test_a_name_that_nobody_knows_is_asked_for_once_a_run_and_told(store, links, network, firewall, named, tunnels):
    tunnels.endpoints[CORP] = (DEAD,)
    tunnels.up[CORP] = False
    ifup(store, links)
    for _ in range(2):
        assert named.asked == ["dead.example"]
        assert store.read_guard("eth0").problem == "dead.example: no such name"
        named.asked.clear()
        refresh(store)


def test_a_tunnel_with_an_address_waits_for_no_name(store, links, network, firewall, named, tunnels):
    tunnels.endpoints[CORP] = (DEAD, BY_ADDRESS)
    ifup(store, links)
    assert named.asked == ["dead.example"]
    refresh(store)
    assert named.asked == ["dead.example"]
    assert firewall.list_exemptions("eth0") == (TO_ADDRESS,)


def test_names_in_the_hosts_file_are_not_asked_for(store, links, network, firewall, named, tunnels, hosts_file):
    tunnels.endpoints[CORP] = (Endpoint("VPN.example", "udp", 1194, uids=(0,)),)
    hosts_file.write_text("198.51.100.5 vpn.Example other\n2001:db8::5 vpn.example\n")
    named.resolvers = ()
    tunnels.up[CORP] = False
    ifup(store, links)
    refresh(store)
    assert named.asked == []
    assert firewall.list_exemptions("eth0") == (to("198.51.100.5"), to("2001:db8::5"))
    assert store.read_guard("eth0").problem == ""


def test_an_ipv4_address_behind_ipv6_only_is_told_with_what_to_write(
    store, links, network, firewall, named, tunnels, messages
):
    named.networks = (("fe80::5", 64), ("2001:db8::5", 64))
    tunnels.endpoints[CORP] = (BY_ADDRESS,)
    tunnels.up[CORP] = False
    ifup(store, links)
    first = "203.0.113.1 is an IPv4 address, but eth0 has IPv6 only: write the server's name instead"
    assert store.read_guard("eth0").problem == first
    named.nat64 = "64:ff9b::/96"
    refresh(store)
    told = f"{first}, or 64:ff9b::cb00:7101, its address behind this network's NAT64"
    assert store.read_guard("eth0").problem == told
    refresh(store)
    assert len([message for message in messages if message.endswith(told)]) == 1
    named.networks = (("192.0.2.5", 24),)
    refresh(store)
    assert store.read_guard("eth0").problem == ""


def test_a_tunnel_that_uses_ipv4_only_is_told_so_where_there_is_ipv6_only(
    store, links, network, firewall, named, tunnels
):
    named.networks = (("2001:db8::5", 64),)
    named.names["vpn.example"] = ("2001:db8::1",)
    tunnels.endpoints[CORP] = (Endpoint("vpn.example", "udp", 1194, 4, uids=(0,)),)
    ifup(store, links)
    assert firewall.list_exemptions("eth0") == ()
    assert store.read_guard("eth0").problem == "vpn.example: the tunnel uses IPv4 only, but eth0 has IPv6 only"


def test_without_dns64_names_are_reached_by_the_routers_prefix(
    store, links, network, firewall, named, tunnels, monkeypatch
):
    named.networks = (("2001:db8::5", 64),)
    named.nat64 = "64:ff9b::/96"
    real = named.look_up

    def look_up(names, view, families=()):
        if families:
            return real(names, view)
        return {name: Resolution(refuted=True, problem=f"{name} has no address") for name in names}

    named.names["vpn.example"] = ("203.0.113.1",)
    monkeypatch.setattr(names, "look_up", look_up)
    ifup(store, links)
    assert firewall.list_exemptions("eth0") == (to("64:ff9b::cb00:7101"),)
    assert store.read_guard("eth0").problem == ""


@pytest.mark.parametrize("networks, prefix", [
    ((("192.0.2.5", 24),), "64:ff9b::/96"), ((("192.0.2.5", 24), ("2001:db8::5", 64)), "64:ff9b::/96"),
    ((("2001:db8::5", 64),), ""),
])
def test_a_name_without_an_address_is_looked_up_once_where_no_nat64_is_needed(
    store, links, network, firewall, named, monkeypatch, networks, prefix
):
    named.networks = networks
    named.nat64 = prefix
    asked = []

    def look_up(names, view, families=()):
        asked.append(tuple(names))
        return {name: Resolution(refuted=True, problem=f"{name} has no address") for name in names}

    monkeypatch.setattr(names, "look_up", look_up)
    ifup(store, links)
    assert asked == [("vpn.example",)]
    assert "vpn.example has no address" in store.read_guard("eth0").problem


def test_a_name_is_pinned_before_its_tunnel_is_started(store, links, network, firewall, named, tunnels, hosts_file):
    pinned = []
    tunnels.during[f"start {CORP}"] = lambda: pinned.append(read_pins("eth0", str(hosts_file)))
    ifup(store, links)
    assert pinned == [{"vpn.example": ("203.0.113.1", "2001:db8::1")}]


def test_a_name_stays_pinned_until_its_tunnel_was_stopped(store, links, network, firewall, named, tunnels, hosts_file):
    """It still notifies its server."""
    ifup(store, links)
    links.plug("eth1", 8)
    ifup(store, links, "eth1", **{**GUARD, "IF_NETCONF_VPN": "openvpn lab"})
    pinned = []
    tunnels.during[f"stop {CORP}"] = lambda: pinned.append(read_pins("eth1", str(hosts_file)))
    ifdown(store, links)
    assert pinned == [{"vpn.example": ("203.0.113.1", "2001:db8::1")}]
    assert store.read_guard("eth1").names == ()
    assert hosts_file.read_text() == "127.0.0.1 localhost\n"


def test_of_a_guard_whose_link_is_not_up_yet_nothing_is_to_be_changed(store, links, named):
    run_hook(store, "pre-up", **GUARD)
    store.write_guard(store.read_guard("eth0").change(names=("vpn.example 203.0.113.1",)))
    assert let_tunnels_through(store) is False
    assert named.asked == []


def test_without_a_guard_or_without_endpoints_nothing_is_to_be_changed(store, links, network, firewall):
    store.prepare()
    assert let_tunnels_through(store) is False
    ifup(store, links, **{**GUARD, "IF_NETCONF_VPN": ""})
    assert let_tunnels_through(store) is False


def test_a_guard_that_is_released_while_names_are_resolved_is_not_to_be_changed(
    store, links, network, firewall, named, tunnels, monkeypatch
):
    tunnels.up[CORP] = False
    ifup(store, links)
    real = named.look_up

    def look_up(names, view, families=()):
        release_guard(store, "eth0")
        return real(names, view)

    monkeypatch.setattr(names, "look_up", look_up)
    named.names["vpn.example"] = ("203.0.113.9",)
    assert let_tunnels_through(store) is False
    assert not any("203.0.113.9" in each for each in store.read_guard("eth0").exemptions)


NTP = {**GUARD, "IF_NETCONF_GUARD_ALLOW": "ntp.example.org:udp/123"}


def test_a_host_that_is_allowed_by_name_passes_and_is_pinned(store, links, network, firewall, named, hosts_file):
    named.names["ntp.example.org"] = ("198.51.100.7", "2001:db8::7")
    named.names["vpn.example"] = ()
    ifup(store, links, **NTP)
    assert firewall.list_exemptions("eth0") == (
        Exemption("udp", "198.51.100.7/32", 123), Exemption("udp", "2001:db8::7/128", 123),
    )  # fmt: skip
    assert read_pins("eth0", str(hosts_file)) == {"ntp.example.org": ("198.51.100.7", "2001:db8::7")}
    ifdown(store, links, **NTP)
    assert hosts_file.read_text() == "127.0.0.1 localhost\n"


def test_a_host_that_is_allowed_by_name_and_has_no_address_lets_nothing_through(
    store, links, network, firewall, place, hosts_file
):
    ifup(store, links, **NTP)
    assert firewall.list_exemptions("eth0") == ()
    assert "ntp.example.org: no such name" in store.read_guard("eth0").problem


def test_hosts_that_are_allowed_by_name_are_not_asked_for_where_the_guard_is_open(
    store, links, network, firewall, named, hosts_file
):
    network["gateway"] = Answer((ROUTER,))
    ifup(store, links, **NTP)
    assert_open(store, firewall)
    assert named.asked == []


def test_the_admins_own_lines_are_what_the_daemon_uses(store, links, network, firewall, named, tunnels, hosts_file):
    hosts_file.write_text("198.51.100.5 vpn.example\n")
    tunnels.up[CORP] = False
    ifup(store, links)
    for _ in range(2):
        assert firewall.list_exemptions("eth0") == (to("198.51.100.5"),)
        assert hosts_file.read_text() == "198.51.100.5 vpn.example\n"
        refresh(store)
    tunnels.up[CORP] = True
    refresh(store)
    assert firewall.list_exemptions("eth0") == (to("198.51.100.5"),)


def test_what_somebody_wrote_over_is_pinned_again(store, links, network, firewall, named, tunnels, hosts_file):
    tunnels.up[CORP] = False
    ifup(store, links)
    hosts_file.write_text("127.0.0.1 localhost\n")
    refresh(store)
    assert "vpn.example" in read_pins("eth0", str(hosts_file))


def test_pins_go_with_the_guard(store, links, network, firewall, named, hosts_file):
    ifup(store, links)
    ifdown(store, links)
    assert hosts_file.read_text() == "127.0.0.1 localhost\n"


def test_pins_go_when_it_is_released(store, links, network, firewall, named, hosts_file):
    ifup(store, links)
    release_guard(store, "eth0")
    assert hosts_file.read_text() == "127.0.0.1 localhost\n"


@pytest.fixture
def unwritable(monkeypatch):
    """/etc/hosts can't be written."""
    def refuse(device, pins):
        raise GuardError("/etc/hosts: Read-only file system")

    monkeypatch.setattr(hosts, "pin_names", refuse)


def test_where_names_can_not_be_pinned_the_daemons_may_ask_for_a_short_time(
    store, links, network, firewall, named, tunnels, unwritable, messages
):
    tunnels.endpoints[CORP] = (BY_NAME, Endpoint("vpn.example", "tcp", 443, uids=(0, 65534)))
    ifup(store, links)
    window = firewall.get_window("eth0", "names")
    assert window.exemptions == tuple(
        Exemption(protocol, "192.0.2.53/32", 53, uids=(0, 65534)) for protocol in ("udp", "tcp")
    )
    assert time.time() + NAMES_TIME - 5 < window.until <= time.time() + NAMES_TIME
    assert NAMES_TIME == 30
    assert any("Read-only file system" in message for message in messages)
    assert not firewall.is_open("eth0")


def test_it_is_not_prolonged_while_nothing_is_asked(store, links, network, firewall, named, tunnels, unwritable):
    tunnels.up[CORP] = True
    ifup(store, links)
    until = firewall.get_window("eth0", "names").until
    refresh(store)
    store.write_guard(store.read_guard("eth0").change(done=False))
    refresh(store)
    assert until - 1 < firewall.get_window("eth0", "names").until <= store.read_guard("eth0").dns_until


def test_daemons_may_ask_once_on_each_network_which_is_logged_each_time(
    store, links, network, firewall, named, tunnels, unwritable, place, messages
):
    def count_told():
        return len([message for message in messages if "DNS is allowed for the daemons for 30 s" in message])

    tunnels.up[CORP] = False  # so that its name is looked up each time
    ifup(store, links)
    assert firewall.get_window("eth0", "names")
    assert count_told() == 1
    past = {"dns_until": time.time() - 1, "dns_until_boot": boot_time() - 1, "done": False}
    store.write_guard(store.read_guard("eth0").change(**past))
    refresh(store)
    assert firewall.get_window("eth0", "names") is None
    assert count_told() == 1
    assert "DNS was already allowed for the daemons once" in store.read_guard("eth0").problem
    place.scenes["eth0"] = ELSEWHERE
    refresh(store)
    assert firewall.get_window("eth0", "names")
    assert count_told() == 2


def test_it_ends_with_its_network(store, links, network, firewall, named, tunnels, unwritable, place):
    tunnels.up[CORP] = True
    ifup(store, links)
    assert firewall.get_window("eth0", "names")
    place.scenes["eth0"] = ELSEWHERE
    shut_guard(store, store.read_guard("eth0"), "the network has changed")
    assert firewall.get_window("eth0", "names") is None
    put_back(store)
    assert firewall.get_window("eth0", "names") is None


def test_kernel_tunnels_are_set_up_by_root(store, links, network, firewall, named, tunnels, unwritable):
    tunnels.endpoints[CORP] = (Endpoint("vpn.example", "udp", 51820, mark=51820),)
    ifup(store, links)
    assert {exemption.uids for exemption in firewall.get_window("eth0", "names").exemptions} == {(0,)}


# What goes wrong


def test_a_firewall_that_fails_while_names_are_asked_stops_nothing(
    store, links, network, firewall, named, tunnels, messages
):
    real = firewall.open_window

    def refuse(device, window):
        raise GuardError("busy")

    firewall.open_window = refuse
    ifup(store, links)
    firewall.open_window = real
    assert tunnels.asked == ["start openvpn corp"]
    assert "error: eth0: netconf-guard: a probe can't be let through: busy" in messages


def test_a_damaged_list_of_tunnels_lets_nothing_through(store, links, network, firewall, tunnels):
    tunnels.endpoints[CORP] = (BY_ADDRESS,)
    ifup(store, links)
    with open(store.tunnels, "w") as file:
        file.write("rubbish\n")
    from netconf_hooks.guard.endpoints import let_tunnels_through

    assert let_tunnels_through(store, asked=True) is True
    assert store.read_guard("eth0").exemptions == ()


def test_a_released_guard_is_left_alone(store, links, network, firewall, named):
    ifup(store, links)
    release_guard(store, "eth0")
    named.asked.clear()
    refresh(store)
    assert named.asked == []
    assert firewall.stands == {}


def test_the_resolvers_are_those_of_the_link(monkeypatch):
    answers = {"dns-server": Answer(("192.0.2.53", "fe80::53"))}
    monkeypatch.setattr("netconf_hooks.evidence.dns.observe", lambda keys, link, deadline: answers)
    assert list_resolvers(None) == ("192.0.2.53", "fe80::53")


def test_whoever_is_stopped_can_still_say_goodbye(store, links, network, firewall, tunnels):
    tunnels.endpoints[CORP] = (BY_ADDRESS,)
    ifup(store, links)
    passed = []
    tunnels.during["stop openvpn corp"] = lambda: passed.append(firewall.list_exemptions("eth0"))
    network["gateway"] = Answer((ROUTER,))
    refresh(store)
    assert passed == [(TO_ADDRESS,)]
    assert firewall.list_exemptions("eth0") == ()
    del network["gateway"]
    refresh(store)
    tunnels.during["stop openvpn corp"] = lambda: passed.append(firewall.list_exemptions("eth0"))
    ifdown(store, links, down=False)
    assert passed == [(TO_ADDRESS,)] * 2
    assert firewall.list_exemptions("eth0") == ()
