"""netconf-hooks check: what it finds in stanzas."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY
from office import STANZA

from netconf_hooks.commands import check
from netconf_hooks.observation import Answer
from netconf_hooks.place import find_place
from netconf_hooks.stanzas import values
from netconf_hooks.stanzas.interfaces import Heading, InterfacesError, InterfacesLate, Names
from netconf_hooks.stanzas.rules import TESTS, TestKind, read_rules


@pytest.fixture
def stanzas(command, monkeypatch):
    """What stands in /etc/network/interfaces, by stanza; and the mappings and problems of the file."""
    stanzas = {}
    rest = {"mapped": (), "parents": (), "problems": ()}

    def list_stanzas(name):
        return [stanzas[name]] if isinstance(stanzas[name], dict) else stanzas[name]

    def run_ifquery(name):
        if name not in stanzas:
            raise InterfacesError(f"ifquery: unknown interface {name}", name)
        return "".join(f"{option}: {value}\n" for each in list_stanzas(name) for option, value in each.items())

    def read_names():
        headings = [Heading(name, "inet", "", "", tuple(each)) for name in stanzas for each in list_stanzas(name)]
        return Names(stanzas=tuple(stanzas), **rest, headings=tuple(headings))

    monkeypatch.setattr(check, "read_names", read_names)
    monkeypatch.setattr(check, "run_ifquery", run_ifquery)
    stanzas["lo"] = {}
    return stanzas, rest


def run_check(command, *arguments):
    """Run check and return its status and its lines but the last, which only counts."""
    status, output, errors = command("check", *arguments)
    assert errors == ""
    return status, output.splitlines()[:-1]


def test_check_of_good_stanzas(command, stanzas):
    stanzas[0]["eth0"] = {**STANZA, "netconf-trust": "hints"}
    assert command("check") == (0, "2 stanzas examined, 0 errors\n", "")


def test_check_fails_if_it_could_examine_nothing(command, stanzas):
    """/etc/network/interfaces itself is a FIFO, or can't be read."""
    stanzas[0].clear()
    stanzas[1]["problems"] = ("/etc/network/interfaces: not a regular file",)
    status, output, _ = command("check")
    assert status == 1
    assert output == "not examined: /etc/network/interfaces: not a regular file\n0 stanzas examined, 0 errors\n"


def test_check_waits_only_once_for_an_ifquery_that_does_not_end(command, as_root, stanzas, monkeypatch):
    """A FIFO was included: it hangs for each stanza."""
    stanzas[0].update({"eth0": STANZA, "eth1": STANZA})
    asked = []

    def hang(name):
        asked.append(name)
        raise InterfacesLate("ifquery --no-mappings -i /etc/network/interfaces lo: not done after 10 s, killed")

    monkeypatch.setattr(check, "run_ifquery", hang)
    status, output, _ = command("check")
    assert (status, asked) == (1, ["lo"])
    assert output == (
        "error: ifquery --no-mappings -i /etc/network/interfaces lo: not done after 10 s, killed\n"
        "0 stanzas examined, 1 errors\n"
    )


def test_check_says_that_a_user_may_not_read_everything(command, stanzas, monkeypatch):
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn"}
    for uid, words in ((0, ""), (1000, "; not everything can be read without root")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert command("check")[1].splitlines()[-1] == f"2 stanzas examined, 1 errors{words}"


@pytest.mark.parametrize("ifupdown, kept, lost", [("ifupdown-ng", "last", "a"), ("ifupdown2", "first", "b")])
def test_check_reports_what_another_ifupdown_keeps_from_hooks(
    command, as_root, stanzas, monkeypatch, ifupdown, kept, lost
):  # fmt: skip
    monkeypatch.setattr(check, "find_ifupdown", lambda: ifupdown)
    written = "netconf-location: a gateway=192.0.2.1\nnetconf-location: b gateway=192.0.2.2\nnetconf-trust: hints\n"
    monkeypatch.setattr(check, "run_ifquery", lambda iface: written if iface == "eth0" else "")
    stanzas[0]["eth0"] = {}
    stanzas[1]["mapped"] = ("eth*",)
    status, output, _ = command("check")
    assert status == 1
    message = f"{ifupdown} passes only the {kept} netconf-location line to hooks: number the others"
    [line] = [line for line in output.splitlines() if message in line]
    assert f'netconf-location "{lost} gateway=' in line
    assert output.splitlines()[-1] == f"2 stanzas examined, 1 errors; {ifupdown} has no mappings, and ignores: eth*"


def test_check_reports_all_errors_of_a_stanza(command, as_root, stanzas):
    stanzas[0]["eth0"] = {
        "netconf-location": "office gatway=1", "netconf-vpn": "openvpn corp unles x", "netconf-trsut": "x"
    }  # fmt: skip
    status, lines = run_check(command)
    assert status == 1
    assert len(lines) == 3
    assert 'eth0: error: netconf-vpn "openvpn corp unles x": expected "on" or "unless", not "unles"' in lines
    assert command("check", "eth0")[1].endswith("1 stanzas examined, 3 errors\n")


def test_check_reports_a_tunnel_without_configuration(command, stanzas, tunnel):
    tunnel.errors["openvpn corp"] = "there is no /etc/openvpn/client/corp.conf"
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp"}
    assert run_check(command) == (
        1, ['eth0: error: netconf-vpn "openvpn corp": there is no /etc/openvpn/client/corp.conf']
    )  # fmt: skip


def test_check_does_not_ask_for_tunnels_of_rules_it_can_not_read(command, stanzas, tunnel):
    tunnel.errors["openvpn corp"] = tunnel.boot["openvpn corp"] = "not to be asked"
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp unles x"}
    status, lines = run_check(command)
    assert status == 1
    assert len(lines) == 1
    assert "not to be asked" not in lines[0]


def test_a_word_that_nothing_defines_is_an_error(command, stanzas):
    stanzas[0]["eth0"] = {
        "netconf-vpn": "openvpn corp on ofice unknown anywhere address=10.0.0.0/8 unless hom",
        "netconf-guard": "on atic",
    }
    assert run_check(command) == (1, [
        f'eth0: error: netconf-vpn "{stanzas[0]["eth0"]["netconf-vpn"]}": no netconf-location defines "ofice": '
        "the rule stops nothing",
        f'eth0: error: netconf-vpn "{stanzas[0]["eth0"]["netconf-vpn"]}": no netconf-location defines "hom": '
        "the word never holds",
        'eth0: error: netconf-guard "on atic": no netconf-location defines "atic": the guard stays closed',
    ])  # fmt: skip


def test_what_hangs_on_a_line_that_can_not_be_read_is_an_error(command, stanzas):
    stanzas[0]["eth0"] = {
        "netconf-location": "home gateway=192.0.2.1\ncafe gateway-mac=02:5e:00:00:03:zz\ncafe dns-domian=example.com",
        "netconf-trust": "hints",
        "netconf-vpn": "openvpn corp on cafe home",
        "netconf-guard": "on cafe",
    }
    first = 'netconf-location "cafe gateway-mac=02:5e:00:00:03:zz" can\'t be read'
    status, lines = run_check(command)
    assert status == 1
    errors = [line for line in lines if line.startswith("eth0: error: ")]
    assert len(errors) == 4
    assert errors[0].startswith('eth0: error: netconf-location "cafe gateway-mac=02:5e:00:00:03:zz": expected ')
    assert errors[1].startswith('eth0: error: netconf-location "cafe dns-domian=example.com": no such test')
    assert errors[2] == f'eth0: error: netconf-vpn "openvpn corp on cafe home": {first}: the rule stops nothing'
    assert errors[3] == f'eth0: error: netconf-guard "on cafe": {first}: the guard stays closed'
    stanzas[0]["eth0"]["netconf-guard"] = "unless home"
    assert (
        f'eth0: error: netconf-guard "unless home": {first}: the guard stays closed unless a line that is written '
        "before it holds"
    ) in run_check(command)[1]


def test_check_warns_of_a_tunnel_that_starts_at_boot(command, stanzas, tunnel):
    tunnel.boot["openvpn corp"] = "AUTOSTART is not set"
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp"}
    status, lines = run_check(command)
    assert status == 0
    assert lines == [
        'eth0: warning: netconf-vpn "openvpn corp": it also starts at boot: AUTOSTART is not set'
    ]


def test_check_warns_where_hints_turn_a_tunnel_off(command, stanzas):
    stanzas[0]["eth0"] = STANZA
    status, lines = run_check(command)
    assert status == 0
    [line] = lines
    assert line.startswith('eth0: warning: netconf-vpn "openvpn corp unless office": ')
    assert "anybody who forges the hints of office can stop this tunnel" in line


def test_check_is_quiet_where_the_admin_has_said_that_hints_are_enough(command, stanzas):
    stanzas[0]["eth0"] = {**STANZA, "netconf-trust": "hints"}
    assert run_check(command) == (0, [])


def test_check_warns_where_proof_is_asked_for_and_there_is_none(command, stanzas):
    stanzas[0]["eth0"] = {**STANZA, "netconf-trust": "authenticated"}
    status, [line] = run_check(command)
    assert status == 0
    assert "no line of office has a tls or command test: this tunnel is never stopped there" in line
    certificate = f"tls=192.0.2.9:443/sha256:{64 * '0'}"
    stanzas[0]["eth0"]["netconf-location"] = STANZA["netconf-location"] + f"\noffice {certificate}"
    assert run_check(command) == (0, [])


def test_check_warns_where_a_hint_in_a_rule_turns_a_tunnel_off(command, stanzas):
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp unless address=10.0.0.0/8"}
    status, [line] = run_check(command)
    assert status == 0
    assert 'anybody who forges "address=10.0.0.0/8" can stop this tunnel' in line
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp unless command=/usr/local/sbin/is-office"}
    assert run_check(command) == (0, [])
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp unless !command=/usr/local/sbin/is-cafe"}
    assert len(run_check(command)[1]) == 1


VRRP = "00:00:5e:00:01:07"


@pytest.mark.parametrize("tests", [
    f"gateway-mac={VRRP}", f"gateway-mac=00:16:3e:11:22:33,{VRRP}",
    f"gateway-mac={VRRP} gateway=192.0.2.1 interface=e*",
    f"gateway-mac={VRRP} !dns-domain=a.example", f"peer=192.0.2.1/{VRRP}",
])
def test_check_warns_where_a_mac_address_is_all_and_many_networks_share_it(command, stanzas, tests):
    stanzas[0]["eth0"] = {**STANZA, "netconf-location": f"office {tests}", "netconf-trust": "hints"}
    status, lines = run_check(command)
    assert status == 0
    [warning] = [line for line in lines if "same in many networks" in line]
    assert "VRRP or CARP" in warning and "add a test that only office answers" in warning


@pytest.mark.parametrize("tests", [
    "gateway-mac=00:16:3e:11:22:33", f"gateway-mac={VRRP} dns-domain=corp.example", f"gateway-mac={VRRP} ssid=corp",
    "gateway=192.0.2.1",
])
def test_check_is_quiet_where_something_else_tells_the_network(command, stanzas, tests):
    stanzas[0]["eth0"] = {**STANZA, "netconf-location": f"office {tests}", "netconf-trust": "hints"}
    assert not any("same in many networks" in line for line in run_check(command)[1])


def test_check_is_quiet_where_a_location_is_proven(command, stanzas, monkeypatch):
    monkeypatch.setitem(TESTS, "gateway", TestKind(values.ADDRESS, "authenticated", "router"))
    stanzas[0]["eth0"] = STANZA
    assert run_check(command) == (0, [])


def test_check_goes_on_after_a_stanza_that_ifquery_refuses(command, stanzas):
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp unles x"}
    status, lines = run_check(command, "eth9", "eth0")
    assert status == 1
    assert lines[0] == "error: eth9: ifquery: unknown interface eth9"
    assert len(lines) == 2


def test_check_says_what_was_not_examined(command, stanzas):
    stanzas[1]["problems"] = ("interfaces:3: source $x: not followed",)
    stanzas[1]["mapped"] = ("eth*", "wlan0")
    status, output, _ = command("check")
    assert status == 0
    assert output == (
        "not examined: interfaces:3: source $x: not followed\n"
        "1 stanzas examined, 0 errors; mapping scripts not run: eth*, wlan0\n"
    )


# Lines that are never heard of

TLS = f"tls=192.0.2.9:443/sha256:{64 * '0'}"


@pytest.mark.parametrize("line, reason", [
    ("x gateway=192.0.2.1 !gateway=192.0.2.2,192.0.2.1", "gateway=192.0.2.1 and !gateway=192.0.2.2,192.0.2.1"),
    ("x !gateway-mac=52:54:00:0A:00:01 gateway-mac=52:54:00:0a:00:01", "gateway-mac=52:54:00:0a:00:01 and !gateway-ma"),
    ("x address=10.1.0.0/16,10.2.3.4 !address=10.0.0.0/8", "address=10.1.0.0/16,10.2.3.4/32 and !address=10.0.0.0/8"),
    ("x dns-domain=*.a.example.com,b.example.com !dns-domain=*.example.com", " and !dns-domain=*.example.com exclude"),
    ("x interface=wlan0 !interface=wl*", "interface=wlan0 and !interface=wl*"),
    ("x peer=192.0.2.1 !peer=192.0.2.1", "peer=192.0.2.1 and !peer=192.0.2.1"),
    ("x carrier=yes carrier=no", "carrier=yes and carrier=no exclude each other: there is one carrier at a time"),
    ("x ssid=home,attic ssid=cafe", "ssid=home,attic and ssid=cafe exclude each other: there is one ssid at a time"),
])
def test_check_warns_of_a_line_that_can_never_hold(command, stanzas, line, reason):
    stanzas[0]["eth0"] = {"netconf-location": line}
    status, [warning] = run_check(command)
    assert status == 0
    assert warning.startswith(f'eth0: warning: netconf-location "{line}": can never hold: ')
    assert reason in warning


@pytest.mark.parametrize("line", [
    "x gateway-mac=52:54:00:0a:00:01 gateway-mac=52:54:00:0a:00:02",  # two routers, IPv4 and IPv6
    "x gateway=192.0.2.1,192.0.2.2 !gateway=192.0.2.1",
    "x address=10.0.0.0/8 !address=10.0.0.0/16",
    "x address=10.0.0.0/8 !address=2001:db8::/32",
    "x dns-domain=*.example.com !dns-domain=*.a.example.com",
    "x dns-domain=*.example.com !dns-domain=example.com",
    "x dns-domain=*.xexample.com !dns-domain=*.example.com",
    "x interface=wl* !interface=wlan0",
    "x interface=eth0 interface=eth0:1",
    "x peer=192.0.2.1/52:54:00:0a:00:01 !peer=192.0.2.1",
    "x ssid=home,cafe ssid=cafe,attic",
    "x !carrier=yes !ssid=home",
])
def test_check_is_quiet_about_what_may_hold(command, stanzas, line):
    stanzas[0]["eth0"] = {"netconf-location": line}
    assert run_check(command) == (0, [])


@pytest.mark.parametrize("earlier, later", [
    ("home gateway=192.0.2.1", "office gateway=192.0.2.1 dns-domain=corp.example.com"),
    ("home gateway=192.0.2.1,192.0.2.2", "office gateway=192.0.2.2"),
    ("home address=10.0.0.0/8", "office address=10.1.0.0/16 !gateway=192.0.2.1"),
    ("home !gateway=192.0.2.1", "office !gateway=192.0.2.1,192.0.2.2"),
    ("home !dns-domain=a.example.com", "office !dns-domain=*.example.com"),
    ("home interface=wl*", "office interface=wlan0"),
    ("home gateway=192.0.2.1 dns-domain=x", "home dns-domain=x gateway=192.0.2.1"),
    (f"home {TLS}", f"office {TLS} gateway=192.0.2.1"),
    ("home gateway=192.0.2.1", f"office {TLS} gateway=192.0.2.1"),
])
def test_check_warns_of_a_line_that_never_counts(command, stanzas, earlier, later):
    stanzas[0]["eth0"] = {"netconf-location": f"attic gateway=192.0.2.9\n{earlier}\n{later}"}
    status, [warning] = run_check(command)
    assert status == 0
    assert warning == (
        f'eth0: warning: netconf-location "{later}": never counts: if it holds, "{earlier}", which is written '
        "before it, holds, too"
    )
    stanzas[0]["eth0"] = {"netconf-location": f"{later}\n{earlier}"}
    assert len(run_check(command)[1]) == (1 if set(earlier.split()) == set(later.split()) else 0)


def test_check_is_quiet_about_a_line_that_proves_what_another_hints_at(command, stanzas):
    stanzas[0]["eth0"] = {"netconf-location": f"home gateway=192.0.2.1\nhome gateway=192.0.2.1 {TLS}"}
    assert run_check(command) == (0, [])


SEEN = {
    "gateway": ("192.0.2.1", "192.0.2.2", "fe80::1"), "address": ("10.1.2.3", "10.2.2.3", "2001:db8::1"),
    "dns-domain": ("example.com", "a.example.com", "b.a.example.com", "xexample.com"), "carrier": ("yes", "no"),
    "interface": ("wlan0", "eth0", "eth0:1"), "ssid": ("home", "cafe"), "peer": ("192.0.2.1", "192.0.2.2"),
}  # fmt: skip
WRITTEN = {
    **SEEN, "address": ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "2001:db8::/32", "::/0"),
    "dns-domain": (*SEEN["dns-domain"], "*.example.com", "*.a.example.com"), "interface": ("wl*", "wlan0", "eth?"),
}  # fmt: skip


@st.composite
def lines(draw):
    """A location's line."""
    tests = []
    for key in draw(st.lists(st.sampled_from(sorted(WRITTEN)), min_size=1, max_size=3)):
        written = draw(st.lists(st.sampled_from(WRITTEN[key]), min_size=1, max_size=2, unique=True))
        tests.append(f"{draw(st.sampled_from(['', '!']))}{key}={','.join(written)}")
    return " ".join([draw(st.sampled_from(["home", "office"])), *tests])


@st.composite
def networks(draw):
    """What is seen somewhere."""
    answers = {}
    for key, all_values in SEEN.items():
        most = 1 if TESTS[key].single else 3
        seen = tuple(draw(st.lists(st.sampled_from(all_values), max_size=most, unique=True)))
        refuted = tuple(value for value in all_values if value not in seen) if key == "peer" else ()
        settled = (*seen, *refuted) if key == "peer" else ()
        answers[key] = Answer(seen, settled=settled, refuted=refuted)
    return answers


@pytest.mark.thorough
@given(st.lists(lines(), min_size=1, max_size=4), st.lists(networks(), min_size=3, max_size=3))
@settings(max_examples=min(500, MANY))
def test_what_check_warns_of_is_so_in_every_network(written, everywhere):
    rules = read_rules({"netconf-location": "\n".join(written)})
    assert not rules.errors
    dead = [warning.value for warning in check.list_dead_lines(rules)]
    for answers in everywhere:
        assert find_place(rules, answers).line not in dead


# Guards


def test_check_reports_what_is_wrong_with_a_guard(command, stanzas, tunnel, firewall):
    tunnel.hidden["openvpn corp"] = "socks-proxy: where its packets go can't be known"
    stanzas[0]["eth0"] = {**STANZA, "netconf-guard": "unless office", "netconf-guard-allow": "udp/123"}
    status, lines = run_check(command)
    assert status == 1
    errors = [line for line in lines if line.startswith("eth0: error: ")]
    assert len(errors) == 2
    assert any('netconf-guard "unless office": it can never open' in line for line in errors)
    assert any("socks-proxy" in line for line in errors)
    assert firewall.asked == []  # it looks, and touches nothing


def test_check_warns_where_hints_open_a_guard(command, stanzas, monkeypatch):
    stanzas[0]["eth0"] = {**STANZA, "netconf-guard": "unless office", "netconf-trust": "hints"}
    status, lines = run_check(command)
    assert status == 0
    assert [line for line in lines if "anybody who forges the hints of office can open it" in line]
    stanzas[0]["eth0"]["netconf-guard"] = "yes"
    assert not [line for line in run_check(command)[1] if "forges" in line]


def test_several_stanzas_of_an_interface(command, stanzas, tunnel):
    found, _ = stanzas
    found["eth0"] = [
        {"netconf-guard": "unless office", "netconf-trust": "hints", "netconf-location": "office gateway=192.0.2.1"},
        {"netconf-guard": "yes", "netconf-guard-backend": "nftables"},
    ]
    status, lines = run_check(command, "eth0")[:2]
    assert status == 0 and not any("error" in line for line in lines)
    found["eth0"].append({"netconf-guard-backend": "iptables", "netconf-vpn": "openvpn corp unles office"})
    status, lines = run_check(command, "eth0")[:2]
    assert status == 1
    errors = [line for line in lines if ": error: " in line]
    assert len(errors) == 2
    assert 'expected "on" or "unless"' in errors[0]
    assert 'netconf-guard-backend is "nftables" in the inet stanza of eth0 and "iptables" in' in errors[1]


@pytest.mark.parametrize("options, warned", [
    ({"netconf-vpn": "openvpn corp"}, True),
    ({"netconf-vpn": "openvpn corp", "netconf-outside-ports": "eth*"}, False),
    ({"address": "192.0.2.1"}, False),
])
def test_check_warns_of_a_bridge_without_carrier(command, stanzas, monkeypatch, options, warned):
    asked = []

    def find_isolation(device, patterns):
        asked.append((device, patterns))
        return "" if patterns else "none of its ports is known to lead outside"

    monkeypatch.setattr(check, "find_isolation", find_isolation)
    stanzas[0]["br0:1"] = options
    said = command("check")[1]
    assert ("br0:1: warning: none of its ports is known to lead outside" in said) is warned
    assert [device for device, _ in asked] == ["br0"] * ("netconf-vpn" in options)


def test_check_warns_of_the_openvpn_option_beside_our_rule(command, stanzas):
    """F11."""
    stanzas[0]["eth0"] = {**STANZA, "netconf-trust": "hints", "openvpn": "other corp"}
    stanzas[0]["eth1"] = {**STANZA, "netconf-trust": "hints", "openvpn": "other"}
    status, lines = run_check(command)
    assert status == 0
    assert [line[:27] for line in lines] == ['eth0: warning: openvpn "oth']
    assert "the hook of the package openvpn starts corp whatever" in lines[0]


@pytest.mark.parametrize("options, guarded", [({}, False), ({"netconf-guard": "unless office"}, True)])
def test_check_asks_the_tunnel_what_to_warn_of(command, stanzas, tunnel, monkeypatch, options, guarded):
    monkeypatch.setattr(tunnel, "list_warnings", lambda self: ("odd",), raising=False)
    monkeypatch.setattr(tunnel, "list_relays", lambda self: ("here",), raising=False)
    stanzas[0]["eth0"] = {**STANZA, "netconf-trust": "hints", **options}
    said = run_check(command)[1]
    assert 'eth0: warning: netconf-vpn "openvpn corp unless office": odd' in said
    assert ('eth0: warning: netconf-vpn "openvpn corp unless office": here' in said) is guarded


def test_check_says_how_to_begin_where_there_is_no_rule(command, stanzas):
    stanzas[0]["eth0"] = {"dns-domain": "x.example"}
    output = command("check")[1]
    assert output.startswith("2 stanzas examined, 0 errors\nno stanza has netconf- options yet; to begin, ")
    assert "netconf-hooks probe IFACE" in output
    # Not about one stanza, nor where there are rules.
    assert command("check", "eth0")[1] == "1 stanzas examined, 0 errors\n"
    stanzas[0]["wlan0"] = {"netconf-guard": "no"}
    assert command("check")[1] == "3 stanzas examined, 0 errors\n"
