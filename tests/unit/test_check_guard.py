"""What netconf-hooks check says of guards."""

import os

import pytest

from netconf_hooks.commands import check_guard
from netconf_hooks.commands.check_guard import (
    find_everything, find_links_set_up, list_early_lines, list_guard_errors, list_guard_warnings, list_relations
)  # fmt: skip
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.stanzas.interfaces import Heading, Names
from netconf_hooks.stanzas.rules import read_rules
from netconf_hooks.tunnels import Endpoint, TunnelError

TLS = f"tls=192.0.2.7:443/sha256:{64 * '0'}"
HINTED, PROVEN = "office gateway=192.0.2.1", f"office {TLS}"


class Tunnel:
    """A tunnel whose endpoints can or can't be known."""

    hidden = ""
    known = ()

    def __init__(self, kind, name):
        pass

    def endpoints(self):
        if self.hidden:
            raise TunnelError(self.hidden)
        return self.known


class Firewall:
    name = "nftables"
    lacks = ()


@pytest.fixture(autouse=True)
def firewall(monkeypatch, as_root):
    """The firewall that this machine seems to have; no tunnels or devices of its own."""
    monkeypatch.setattr(check_guard, "load_tunnel", Tunnel)
    monkeypatch.setattr(Tunnel, "hidden", "")
    monkeypatch.setattr(Tunnel, "known", ())
    monkeypatch.setattr(check_guard, "find_names", lambda names: {})
    monkeypatch.setattr(check_guard, "choose_firewall", lambda backend: Firewall())
    monkeypatch.setattr(check_guard, "_CARELESS", {})
    monkeypatch.setattr(Firewall, "lacks", ())
    monkeypatch.setattr(check_guard, "list_legacy_guards", lambda: ())
    monkeypatch.setattr(check_guard, "list_relations", lambda device: [])


def find_errors(iface="eth0", headings=(), **options):
    """Return the errors of a stanza as they are printed.  options: without the netconf- before them."""
    written = {f"netconf-{option.replace('_', '-')}": value for option, value in options.items()}
    errors = list_guard_errors(iface, written, read_rules(written), Names((), (), (), (), tuple(headings)))
    return [str(error) for error in errors]


def find_warnings(iface="eth0", **options):
    """Return the warnings of a stanza, likewise."""
    written = {f"netconf-{option.replace('_', '-')}": value for option, value in options.items()}
    return [str(warning) for warning in list_guard_warnings(iface, read_rules(written), written)]


def test_without_a_guard_there_is_nothing_to_say():
    for options in ({}, {"guard": "no"}, {"vpn": "openvpn corp", "trust": "hints"}):
        assert find_errors(**options) == []
        assert find_warnings(**options) == []


def test_its_options_mean_nothing_without_it():
    assert find_warnings(guard_allow="udp/123", guard_backend="iptables") == [
        "netconf-guard-allow: it has no effect without netconf-guard",
        "netconf-guard-backend: it has no effect without netconf-guard",
    ]
    assert find_warnings(guard="yes", guard_allow="udp/123", guard_backend="iptables") == []


def test_good_ones():
    assert find_errors(guard="yes") == []
    assert find_errors(guard="unless office", location=PROVEN) == []
    assert find_errors(guard="unless office", location=HINTED, trust="hints") == []
    assert find_warnings(guard="unless office", location=PROVEN) == []


@pytest.mark.parametrize("options", [
    {"guard": "unless office", "location": HINTED},
    {"guard": "unless office", "location": HINTED, "trust": "authenticated"},
    {"guard": "on unknown", "location": HINTED},
    {"guard": "on office", "location": PROVEN},
])
def test_a_guard_that_can_never_open(options):
    [error] = find_errors(**options)
    assert error.startswith(f'netconf-guard "{options["guard"]}": it can never open: ')
    assert '"netconf-trust hints"' in error


def test_one_that_opens_at_a_proven_place_it_does_not_name():
    assert find_errors(guard="on home", location=f"home gateway=192.0.2.9\n{PROVEN}") == []


def test_one_that_is_never_to_open_is_none_of_those():
    for guard in ("yes", "on anywhere"):
        assert find_errors(guard=guard, location=HINTED) == []


@pytest.mark.parametrize("iface, method, options, reason", [
    ("dsl", "ppp", {}, "does not exist before it is connected"),
    ("ppp0", "manual", {}, "does not exist before it is connected"),
    ("corp", "manual", {"uplink": "eth0"}, "has no link of its own"),
])
def test_what_ifup_will_refuse(iface, method, options, reason):
    heading = Heading(iface, "inet", method, "", ("netconf-guard",))
    [error] = find_errors(iface, [heading], guard="yes", **options)
    assert error.startswith('netconf-guard "yes": ') and reason in error


@pytest.mark.parametrize("first, second, wrong", [(False, True, True), (True, False, False), (True, True, False)])
def test_the_option_belongs_in_the_first_stanza(first, second, wrong):
    headings = [
        Heading("eth0", family, "dhcp", "", ("netconf-guard",) if has else ())
        for family, has in (("inet", first), ("inet6", second))
    ]
    errors = find_errors("eth0", headings, guard="yes")
    assert bool(errors) == wrong
    if wrong:
        assert "it is in the inet6 stanza, but the inet stanza comes up first" in errors[0]


def test_tunnels_whose_packets_can_not_be_let_through(monkeypatch):
    monkeypatch.setattr(Tunnel, "hidden", "socks-proxy: where its packets go can't be known")
    assert find_errors(guard="yes", vpn="openvpn corp\nopenvpn x unles y") == [
        'netconf-vpn "openvpn corp": the guard can\'t let its packets through: '
        "socks-proxy: where its packets go can't be known"
    ]
    assert find_errors(vpn="openvpn corp") == []


# Warnings


@pytest.mark.parametrize("guard, location, place", [
    ("unless office", HINTED, "office"),
    ("unless office", f"{HINTED}\n{PROVEN}", "office"),
    ("unless gateway=192.0.2.1", "", "gateway=192.0.2.1"),
    ("unless office home", f"{PROVEN}\nhome gateway=192.0.2.9", "home"),
    ("on unknown", HINTED, "a place that its on clause does not name"),
    ("on home unless office", HINTED, "office or a place that its on clause does not name"),
])
def test_hints_that_open_it(guard, location, place):
    options = {"guard": guard, "location": location, "trust": "hints"}
    assert find_warnings(**options) == [
        f'netconf-guard "{guard}": with "netconf-trust hints", anybody who forges the hints of {place} can open it'
    ]
    assert find_warnings(**{**options, "trust": "authenticated"}) == []
    assert find_warnings(guard=guard, location=location) == []


@pytest.mark.parametrize("guard", ["unless office", f"unless {TLS}", "yes"])
def test_hints_that_do_not(guard):
    assert find_warnings(guard=guard, location=PROVEN, trust="hints") == []


def test_what_the_firewall_lacks(monkeypatch):
    monkeypatch.setattr(Firewall, "lacks", ("no lease: it stays open",))
    assert find_warnings(guard="yes") == ['netconf-guard "yes": no lease: it stays open']
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # who is not root can't ask
    assert find_warnings(guard="yes") == []


def test_a_guard_in_tables_that_nobody_lists(monkeypatch):
    monkeypatch.setattr(check_guard, "list_legacy_guards", lambda: ("eth0",))
    [warning] = find_warnings("eth0:1", guard="yes")
    assert "a guard of eth0 is also in the tables of iptables-legacy" in warning
    assert find_warnings("eth1", guard="yes") == []
    monkeypatch.setattr(Firewall, "name", "iptables-legacy")
    assert find_warnings("eth0", guard="yes") == []


def test_no_firewall_at_all(monkeypatch):
    def choose(backend):
        raise GuardError(f"{backend}: there is none")

    monkeypatch.setattr(check_guard, "choose_firewall", choose)
    [warning] = find_warnings(guard="yes", guard_backend="iptables")
    assert "ifup will refuse: iptables: there is none" in warning


def test_an_ifupdown_that_goes_on_where_pre_up_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(check_guard, "_CARELESS", {str(tmp_path): "ifupdown2", "/nowhere": "another"})
    [warning] = find_warnings(guard="yes")
    assert "ifupdown2 brings the link up even if the guard could not be installed" in warning


def test_units_of_which_nothing_is_known():
    [warning] = find_warnings(guard="yes", vpn="unit wstunnel\nopenvpn corp")
    assert warning.startswith('netconf-vpn "unit wstunnel": ') and "netconf-guard-allow must name it" in warning


def test_bridges_and_children_are_reported(monkeypatch):
    asked = []

    def relations(device):
        asked.append(device)
        return [("br0", "is a port of"), ("eth0.7", "carries")]

    monkeypatch.setattr(check_guard, "list_relations", relations)
    warnings = find_warnings("eth0:1", guard="yes")
    assert asked == ["eth0"]
    assert [warning.split(": ")[1] for warning in warnings] == ["eth0 is a port of br0", "eth0 carries eth0.7"]


def test_what_belongs_to_a_device(tmp_path):
    """As in /sys/class/net, Linux 6.1: upper_ links for what stands on a device, brport in a bridge's port."""
    for name in ("eth0", "br0", "eth0.7", "macvlan0", "lone"):
        (tmp_path / name).mkdir()
    for upper in ("br0", "eth0.7", "macvlan0"):
        (tmp_path / "eth0" / f"upper_{upper}").symlink_to(tmp_path / upper)
    (tmp_path / "eth0" / "brport").mkdir()
    (tmp_path / "eth0" / "brport" / "bridge").symlink_to(tmp_path / "br0")
    assert list_relations("eth0", str(tmp_path)) == [
        ("eth0.7", "carries"), ("macvlan0", "carries"), ("br0", "is a port of")
    ]  # fmt: skip
    assert list_relations("lone", str(tmp_path)) == []
    assert list_relations("gone", str(tmp_path)) == []


@pytest.mark.parametrize("allow, families", [
    ("0.0.0.0/0", ["4"]), ("::/0", ["6"]), ("0.0.0.0/0 ::/0", ["4", "6"]), ("0.0.0.0/1 128.0.0.0/1", ["4"]),
    ("128.0.0.0/1 0.0.0.0/2 64.0.0.0/2 10.0.0.0/8", ["4"]), ("::/1 8000::/1", ["6"]), ("10.0.0.0/0", ["4"]),
    ("0.0.0.0/1", []), ("0.0.0.0/1 129.0.0.0/8", []), ("::/1 8000::/2", []), ("128.0.0.0/1", []), ("2000::/3", []),
    ("0.0.0.0/0:tcp/22", []), ("[::/0]:udp/53", []), ("in:tcp/22@0.0.0.0/0", []), ("udp/123", []), ("192.0.2.0/24", []),
])
def test_an_allowance_that_is_no_guard(allow, families):
    errors = [error for error in find_errors(guard="yes", **{"guard-allow": allow}) if "nothing is guarded" in error]
    assert [error.partition("IPv")[2][0] for error in errors] == families
    for error in errors:
        assert error.startswith('netconf-guard-allow "')
        assert error.endswith(", so nothing is guarded")


def test_which_allowances_are_everything_together():
    networks = [f"{first}.0.0.0/8" for first in range(256)]
    rules = read_rules({"netconf-guard-allow": " ".join([*networks, "192.0.2.0/24"])})
    assert find_everything(rules.allowances) == [(4, tuple(networks))]
    del networks[77]
    assert find_errors(guard="yes", **{"guard-allow": " ".join(networks)}) == []


# Bridges, and what comes before the hooks


def check_bridge(monkeypatch, *bridges, backend="nftables"):
    monkeypatch.setattr(check_guard, "is_bridge", lambda device: device in bridges)
    monkeypatch.setattr(Firewall, "name", backend)


@pytest.mark.parametrize("iface, options, wrong", [
    ("br0", {}, True),
    ("br0:1", {}, True),
    ("br1", {"bridge-ports": "eth0"}, True),
    ("eth0", {}, False),
])
def test_iptables_does_not_hold_a_bridge(monkeypatch, iface, options, wrong):
    for backend, errors in (("iptables", wrong), ("nftables", False)):
        check_bridge(monkeypatch, "br0", backend=backend)
        written = {"netconf-guard": "yes", **options}
        found = list_guard_errors(iface, written, read_rules(written), Names((), (), (), (), ()))
        assert ["and iptables does not see what its guests send" in str(error) for error in found] == [True] * errors


@pytest.mark.parametrize("backend, wrong", [("auto", False), ("nftables", False), ("iptables", True)])
def test_without_root_what_is_written_counts(monkeypatch, backend, wrong, as_user):
    check_bridge(monkeypatch, "br0")
    assert bool(find_errors("br0", guard="yes", guard_backend=backend)) is wrong


def test_where_no_firewall_works_the_warning_says_more(monkeypatch):
    check_bridge(monkeypatch, "br0")

    def refuse(backend):
        raise GuardError("none works")

    monkeypatch.setattr(check_guard, "choose_firewall", refuse)
    assert find_errors("br0", guard="yes") == []
    assert any("ifup will refuse: none works" in warning for warning in find_warnings("br0", guard="yes"))


def test_what_the_host_sends_its_guests_is_held(monkeypatch):
    check_bridge(monkeypatch, "br0")
    held = "br0 is a bridge: what this machine sends to its guests is dropped like everything else"
    assert [held in warning for warning in find_warnings("br0", guard="yes")] == [True]
    assert find_warnings("eth0", guard="yes") == []


@pytest.mark.parametrize("line, devices", [
    ("ip link set eth0 up", ["eth0"]),
    ("/sbin/ifconfig eth0 up # line maintained by pppoeconf", ["eth0"]),
    ("ip -4 l s dev $IFACE up", ["br0"]),
    ("ip link set dev ${IFACE} master br1 up || true", ["br0"]),
    ('[ -e /x ] && /usr/sbin/ip link set up dev "eth0"', ["eth0"]),
    ("ip link add br0 type bridge; ip link set br0 up; ip link set eth0 up; ip link set br0 up", ["br0", "eth0"]),
    ("(ifconfig eth1 192.0.2.1 netmask 255.255.255.0)", ["eth1"]),
    ("ip link set eth0 down", []),
    ("ip link set eth0 mtu 9000", []),
    ("ifconfig eth0 down", []),
    ("ifconfig eth0 mtu 9000", []),
    ("ifconfig -a", []),
    ("ifconfig", []),
    ("ip link show up", []),
    ("ip route add default dev eth0", []),
    ("", []),
])
def test_which_lines_set_a_link_up(line, devices):
    assert find_links_set_up(line, "br0") == devices


def find_early(iface, pre_up, headings=(), **options):
    written = {f"netconf-{option}": value for option, value in options.items()} | {"pre-up": pre_up}
    warnings = list_early_lines(iface, written, read_rules(written), Names((), (), (), (), tuple(headings)))
    return [str(warning) for warning in warnings]


def test_a_link_that_is_set_up_before_its_guard():
    lines = "ip link add br0 type bridge\nip link set eth0 master br0 up\n/sbin/ip link set br0 up"
    found = find_early("br0", lines, guard="yes")
    begin = 'pre-up "{}": it sets {} up before the guard of br0 is closed, since ifup runs these lines before all hooks'
    assert [warning.startswith(begin.format(line, device)) for warning, line, device in zip(
        found, lines.split("\n")[1:], ("eth0", "br0"), strict=True
    )] == [True, True]
    assert find_early("br0", lines) == find_early("br0", lines, guard="no") == []
    assert find_early("br0", "", guard="yes") == []


@pytest.mark.parametrize("options, warned", [(("netconf-guard",), True), (("netconf-vpn",), False)])
def test_another_stanza_sets_a_guarded_link_up(options, warned):
    headings = [Heading("eth0", "inet", "dhcp", "", options), Heading("dsl", "inet", "ppp", "", ("pre-up",))]
    found = find_early("dsl", "/sbin/ifconfig eth0 up # line maintained by pppoeconf", headings)
    assert ["before the guard of eth0 is closed" in warning for warning in found] == [True] * warned


STATIC = Heading("eth0", "inet", "static", "", ("netconf-guard",))
NAMED = tuple(Endpoint(host, "udp", 1194) for host in ("one.example", "two.example"))


def find_nameless(headings=(STATIC,), vpn="openvpn corp", **options):
    """Return the errors about names that can never be resolved."""
    return [error for error in find_errors(headings=headings, guard="yes", vpn=vpn, **options) if "resolved" in error]


def test_names_that_can_never_be_resolved_are_an_error(monkeypatch):
    monkeypatch.setattr(Tunnel, "known", NAMED)
    [error] = find_nameless()
    assert error.startswith(
        'netconf-vpn "openvpn corp": one.example, two.example can never be resolved behind the guard: this link has no '
        "name server, and the name is not in /etc/hosts"
    )
    monkeypatch.setattr(check_guard, "find_names", lambda names: {"two.example": ("192.0.2.1",)})
    assert find_nameless() == []  # one of them is enough


def test_a_time_server_that_can_never_be_resolved_is_an_error():
    [error] = find_nameless(guard_allow="ntp.example.org:udp/123 udp/53")
    assert error.startswith('netconf-guard-allow "ntp.example.org:udp/123": ntp.example.org can never be resolved')


@pytest.mark.parametrize("headings", [
    (), (STATIC, Heading("eth0", "inet6", "auto", "")), (STATIC, Heading("eth0", "inet", "dhcp", "")),
    (Heading("eth0", "inet", "manual", "", ("netconf-guard",)),),
])
def test_names_that_may_be_resolved_are_none(monkeypatch, headings):
    monkeypatch.setattr(Tunnel, "known", NAMED)
    assert find_nameless(headings) == []


@pytest.mark.parametrize("option", ["dns-nameservers", "dns-nameserver"])
def test_with_a_name_server_names_can_be_resolved(monkeypatch, option):
    monkeypatch.setattr(Tunnel, "known", NAMED)
    written = {"netconf-guard": "yes", "netconf-vpn": "openvpn corp", option: "192.0.2.53"}
    names = Names((), (), (), (), (STATIC,))
    assert list_guard_errors("eth0", written, read_rules(written), names) == []


def test_addresses_need_no_name_server(monkeypatch):
    monkeypatch.setattr(Tunnel, "known", (Endpoint("192.0.2.1", "udp", 1194),))
    assert find_nameless() == []


def test_a_hosts_file_that_cannot_be_read_has_no_names(monkeypatch):
    def refuse(names):
        raise GuardError("/etc/hosts: Permission denied")

    monkeypatch.setattr(Tunnel, "known", NAMED)
    monkeypatch.setattr(check_guard, "find_names", refuse)
    assert len(find_nameless()) == 1


@pytest.mark.parametrize("address, netmask, warned", [
    ("192.168.1.7/24", "", ""), ("192.168.1.7", "255.255.255.0", ""), ("10.0.0.7", "16", ""),
    ("10.0.0.7/8", "", "10.0.0.7/8 is larger than a /16"), ("10.0.0.7", "255.0.0.0", "10.0.0.7/8 is larger than a /16"),
    ("192.0.2.7/24", "", "192.0.2.7/24 is no private address"), ("fd00::7", "48", "fd00::7/48 is larger than a /64"),
    ("nonsense", "", ""), ("192.168.1.7", "nonsense", ""), ("", "", ""),
])
def test_a_static_address_that_is_no_lan_is_named(address, netmask, warned):
    rules = read_rules({"netconf-guard": "yes", "netconf-guard-allow": "lan"})
    options = {"address": address, "netmask": netmask}
    found = [str(each) for each in list_guard_warnings("eth0", rules, options) if each.value == "lan"]
    assert found == ([f'netconf-guard-allow "lan": {warned}, so it is not included'] if warned else [])
    assert not any(each.value == "lan" for each in list_guard_warnings("eth0", read_rules({"netconf-guard": "yes"})))
