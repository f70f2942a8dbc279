"""The rule language of netconf-interfaces(5)."""

import shlex
import subprocess
import sys
from pathlib import Path
import re
import time
from contextlib import contextmanager
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from many import MANY
from written import list_written, networks

from netconf_hooks.stanzas import rules, values
from netconf_hooks.stanzas.rules import (
    Allowance, Condition, GuardRule, Location, RESERVED, RuleError, Rules, SITUATIONS, TESTS, TUNNEL_KINDS, Test,
    TestKind, VpnRule, Word, format_allowance, format_test,
    read_rules
)  # fmt: skip

MAC = "52:54:00:0a:00:01"
KINDS = ", ".join(TUNNEL_KINDS)
HEX = "3f1c" * 16

# No deadline: a busy machine is no bug.
few = settings(max_examples=min(40, MANY), deadline=None)
many = settings(max_examples=min(200, MANY), deadline=None, suppress_health_check=[HealthCheck.too_slow])


@contextmanager
def everything_working():
    """Let every test and tunnel work, so that what is only read in this version can be seen."""
    kinds = {key: TestKind(kind.syntax, kind.grade, kind.observer or "later") for key, kind in TESTS.items()}
    with mock.patch.dict(TESTS, kinds), mock.patch.dict(TUNNEL_KINDS, dict.fromkeys(TUNNEL_KINDS, "unit")):
        yield


def read_one(option, value):
    """Return what `read_rules` makes of one option, and its errors as an admin sees them."""
    read = read_rules({option: value})
    return read, [str(error) for error in read.errors]


def read_values(word):
    """Return the normalised values of a test in a location line."""
    with everything_working():
        read, errors = read_one("netconf-location", f"home {word}")
    assert errors == []
    return read.locations[0].tests[0].values


def refuse(option, value):
    """Return the one error that this value gives, which must open nothing."""
    read, errors = read_one(option, value)
    assert len(errors) == 1, errors
    assert read.locations == ()
    assert all(not vpn.readable for vpn in read.vpns)
    return errors[0]


# Lines and options


def test_nothing_written_gives_the_defaults():
    assert read_rules({}) == rules.Rules()
    assert read_rules({"address": "192.0.2.1", "dns-domain": "x", "netconfig": "y"}) == rules.Rules()
    assert rules.Rules().timeout == 5


def test_the_example_of_the_manual():
    read = read_rules(
        {
            "netconf-location": f"home-lan    gateway-mac={MAC}\n"
            "office-lan  gateway-mac=00:16:3E:11:22:33,00:16:3e:11:22:34 dns-domain=corp.example.com",
            "netconf-vpn": "openvpn corp     unless office-lan\nunit archive.service  on home-lan unknown",
            "netconf-trust": "authenticated",
        }
    )
    assert read.errors == ()
    assert [location.name for location in read.locations] == ["home-lan", "office-lan"]
    assert read.locations[0].tests == (Test("gateway-mac", (MAC,), False),)
    assert read.locations[1].tests == (
        Test("gateway-mac", ("00:16:3e:11:22:33", "00:16:3e:11:22:34"), False),
        Test("dns-domain", ("corp.example.com",), False),
    )
    assert [test.text for test in read.locations[1].tests] == [
        "gateway-mac=00:16:3e:11:22:33,00:16:3e:11:22:34",
        "dns-domain=corp.example.com",
    ]
    assert read.vpns == (
        VpnRule(
            "openvpn",
            "corp",
            Condition((Word("anywhere"),), (Word("office-lan"),)),
            True,
            "openvpn corp     unless office-lan",
        ),
        VpnRule(
            "unit",
            "archive.service",
            Condition((Word("home-lan"), Word("unknown"))),
            True,
            "unit archive.service  on home-lan unknown",
        ),
    )
    assert read.trust == "authenticated"


def test_numbered_options_come_in_numeric_order_after_the_plain_one():
    read = read_rules(
        {
            "netconf-location-10": "ten interface=a",
            "netconf-location-2": "two interface=a\nzwei interface=a",
            "netconf-location": "plain interface=a",
            "netconf-location-1": "one interface=a",
        }
    )
    assert read.errors == ()
    assert [location.name for location in read.locations] == ["plain", "one", "two", "zwei", "ten"]


@pytest.mark.parametrize("option", ["netconf-vpn-3", "netconf-guard-allow-3"])
def test_other_options_take_a_number_too(option):
    read, errors = read_one(option, "=")
    assert len(errors) == 1 and "no such option" not in errors[0] and errors[0].startswith(f'{option} "="')


@pytest.mark.parametrize(
    "option", ["netconf-", "netconf-vnp", "netconf-vpn-x", "netconf-vpn-", "netconf-vpn-²", "netconf-vpn-" + "9" * 5000]
)
def test_an_unknown_option_is_an_error(option):
    message = refuse(option, "openvpn corp")
    assert '"openvpn corp": no such option; there are netconf-location, netconf-vpn, netconf-guard,' in message
    assert len(message) < 1000


@pytest.mark.parametrize("option", ["netconf-trust-2", "netconf-timeout-1", "netconf-uplink-1"])
def test_options_that_are_not_repeated_take_no_number(option):
    assert "takes no number" in refuse(option, "hints")


def test_a_guard_written_with_a_number_is_closed():
    read, errors = read_one("netconf-guard-2", "no")
    assert read.guard == GuardRule(Condition(), False, "no")
    assert errors == ['netconf-guard-2 "no": netconf-guard takes no number: its last line wins']
    assert read_rules({"netconf-guard": "no", "netconf-guard-2": "yes"}).guard == GuardRule(Condition(), False, "yes")


def test_of_other_options_the_last_line_wins():
    assert read_rules({"netconf-timeout": "9\n3\n9\n"}).timeout == 9
    assert read_rules({"netconf-timeout": "nonsense\n3"}).errors == ()
    assert read_rules({"netconf-guard": "no\nyes\nno"}).guard == GuardRule(None, True, "no")
    assert read_rules({"netconf-guard": "no\nyes"}).guard == GuardRule(Condition(), True, "yes")


@pytest.mark.parametrize("value", ["", " \t", "\n \n", "# openvpn corp", "  #"])
@pytest.mark.parametrize("option", [option for option in rules.OPTIONS if option != "netconf-guard"])
def test_an_option_without_words_is_an_error(option, value):
    assert refuse(option, value).endswith(": nothing is written there")


def test_a_line_twice_counts_once():
    """As with ``inherits`` in the stanzas of both address families."""
    location = f"home gateway-mac={MAC}"
    once = {"netconf-location": location, "netconf-vpn": "openvpn corp on home\nopenvpn x unles"}
    twice = {option: f"{value}\n{value}" for option, value in once.items()} | {"netconf-location-2": location}
    assert read_rules(twice) == read_rules(once)
    assert len(read_rules(once).errors) == 1


def test_empty_lines_between_others_say_nothing():
    assert len(read_rules({"netconf-location": "\na interface=b\n \nc interface=d\n"}).locations) == 2


def test_all_errors_are_reported_at_once():
    read = read_rules(
        {
            "netconf-location": "Home interface=a gateway=1\nyes interface=a\ngood interface=a",
            "netconf-vpn": "openvpn corp unles office-lan",
            "netconf-timeout": "soon",
            "netconf-colour": "red",
        }
    )
    assert sorted((error.option, error.value) for error in read.errors) == [
        ("netconf-colour", "red"),
        ("netconf-location", "Home interface=a gateway=1"),
        ("netconf-location", "Home interface=a gateway=1"),
        ("netconf-location", "yes interface=a"),
        ("netconf-timeout", "soon"),
        ("netconf-vpn", "openvpn corp unles office-lan"),
    ]
    assert [location.name for location in read.locations] == ["good"]


def test_an_error_speaks_the_admins_words():
    assert refuse("netconf-vpn", "openvpn corp unles office-lan") == (
        'netconf-vpn "openvpn corp unles office-lan": expected "on" or "unless", not "unles"'
    )


def test_an_error_is_fit_for_a_log():
    message = str(RuleError("netconf-\x1b[2Jvpn", "x\ry\0\udc80\u2028" + "z" * 10**6, "reason"))
    assert message.isprintable()
    assert message.startswith('netconf-\\x1b[2Jvpn "x\\ry\\x00\\udc80\\u2028zzz')
    assert len(message) < 400


# Words


@pytest.mark.parametrize(
    "line, words",
    [
        ("a  b\tc", ["a", "b", "c"]),
        ("a # b", ["a"]),
        ("a b#c", ["a", "b#c"]),
        ("a '#b' \\#c \"\"#d # e", ["a", "#b", "#c", "#d"]),
        ("'a b' c\\ d \"e 'f' \\\" \\\\ \\n\"", ["a b", "c d", "e 'f' \" \\ \\n"]),
        ("'a\\' \"\" x''y", ["a\\", "", "xy"]),
        ("a\u00a0b \u00e9", ["a\u00a0b", "\u00e9"]),
        ("a'b,c',d", ["ab\nc,d"]),  # a newline stands for a quoted comma
    ],
)
def test_words(line, words):
    reasons = []
    assert rules.split_words(line, reasons) == words
    assert reasons == []


@pytest.mark.parametrize(
    "line, words, reason",
    [
        ("a 'b c", ["a"], "a quote is opened and not closed: 'b c"),
        ('a "b\\"', ["a"], 'a quote is opened and not closed: "b\\"'),
        ("a b\\", ["a"], "nothing follows the backslash at its end"),
    ],
)
def test_words_of_a_broken_line(line, words, reason):
    reasons = []
    assert rules.split_words(line, reasons) == words
    assert reasons == [reason]


@many
@given(st.text(st.sampled_from("ab\"'\\ \té=")))
def test_words_are_split_as_shlex_does(line):
    reasons = []
    words = rules.split_words(line, reasons)
    try:
        expected = shlex.split(line)
    except ValueError:
        assert reasons and reasons != ["nothing is written there"]
    else:
        assert words == expected
        assert bool(reasons) == (not words)


# Names


@pytest.mark.parametrize("name", ["a", "0", "home-lan", "a.b_c-d", "x" * 200])
def test_names(name):
    assert read_rules({"netconf-location": f"{name} interface=a"}).locations[0].name == name
    assert read_rules({"netconf-vpn": f"openvpn {name}"}).vpns[0].readable


@pytest.mark.parametrize("name", ["Corp", "a@b", "corp@Berlin.service", "A"])
def test_names_of_tunnels_alone(name):
    assert read_rules({"netconf-vpn": f"openvpn {name}"}).vpns[0].name == name
    assert "expected the name of a location" in refuse("netconf-location", f"{name} interface=a")


@pytest.mark.parametrize(
    "name",
    ["..", ".", "-a", "_a", "@a", "a/b", "../a", "/etc/a", "é", "a\u0661", "''", "'a b'", "x" * 201, "a$b", "a\0"],
)
def test_no_names(name):
    assert "expected the name of a location" in refuse("netconf-location", f"{name} interface=a")
    assert "expected the name of a tunnel" in refuse("netconf-vpn", f"openvpn {name}")
    assert read_rules({"netconf-vpn": f"openvpn {name}"}).vpns == ()
    assert "expected a location's name, a test or one of unknown" in refuse("netconf-vpn", f"openvpn corp on {name}")


@pytest.mark.parametrize("name", "on unless yes no inet unknown insecure unroutable anywhere".split())
def test_reserved_words_are_no_names(name):
    assert name in RESERVED
    assert f"\"{name}\" can't be the name of a location" in refuse("netconf-location", f"{name} interface=a")
    assert read_rules({"netconf-vpn": f"openvpn {name}"}).vpns == ()
    refuse("netconf-vpn", f"openvpn {name}")


# Locations


@pytest.mark.parametrize(
    "line, reason",
    [
        ("home", 'expected at least one test after "home"'),
        ("home # interface=a", 'expected at least one test after "home"'),
        ("home on", 'expected a test (KEY=VALUE), not "on"'),
        ("home interface", 'expected a test (KEY=VALUE), not "interface"'),
        ("home interfaces=a", 'no such test: "interfaces"; there are gateway-mac, gateway, dns-domain,'),
        ("home !!interface=a", 'no such test: "!interface"'),
        ("home interface=", 'expected the name of an interface or a pattern like wl* after interface=, not ""'),
        ("home interface=a,,b", 'after interface=, not ""'),
        ("home gateway-mac=52:54", 'expected a MAC address like 52:54:00:0a:00:01 after gateway-mac=, not "52:54"'),
        ("home interface='a", "a quote is opened and not closed: 'a"),
        ('home dns-domain="a,b"', 'a domain like example.com or *.example.com after dns-domain=, not "a,b"'),
    ],
)
def test_a_broken_location_line_is_left_out(line, reason):
    message = refuse("netconf-location", line)
    assert message.startswith(f'netconf-location "{line}": ')
    assert reason in message


def test_every_broken_test_of_a_line_is_reported():
    read, errors = read_one("netconf-location", "home gateway=1 interface=ok dns-server=2,3")
    assert [error.rpartition("not ")[2] for error in errors] == ['"1"', '"2"', '"3"']


@pytest.mark.parametrize(
    "word, values",
    [
        ("gateway-mac=52-54-00-0A-00-01," + MAC, (MAC, MAC)),
        ("bssid=52:54:00:0A:00:01", (MAC,)),
        ("gateway=192.0.2.1,2001:DB8:0::1", ("192.0.2.1", "2001:db8::1")),
        ("address=192.0.2.7/24,192.0.2.7,0.0.0.0/0", ("192.0.2.0/24", "192.0.2.7/32", "0.0.0.0/0")),
        ("dns-server=2001:db8::7/33,::1", ("2001:db8::/33", "::1/128")),
        ("dns-domain=Corp.Example.COM.,*.example.com,lan", ("corp.example.com", "*.example.com", "lan")),
        ("dns-domain=_tcp.a-b.4you", ("_tcp.a-b.4you",)),
        ("interface=eth0,wl*,eth0:1,'[a,b]?'", ("eth0", "wl*", "eth0:1", "[a,b]?")),
        ("carrier=yes,no", ("yes", "no")),
        ("peer=192.0.2.1,fe80::1/52-54-00-0A-00-01", ("192.0.2.1", f"fe80::1/{MAC}")),
        ("ssid='Gasthof, 1. Stock',b=c,\"d'e\"", ("Gasthof, 1. Stock", "b=c", "d'e")),
        ("ssid=\udcff" + "x" * 31, (r"\xff" + "x" * 31,)),
        (r"ssid=Büro,'B\xc3\xBCro','a\\b\\x5c','\n\e\"'", (r"B\xc3\xbcro", r"B\xc3\xbcro", r"a\\b\\x5c", r'\x0a\x1b"')),
        ("ssid='" + r"\x00" * 32 + "'", (r"\x00" * 32,)),
        ("reach=WWW.example.com:80,192.0.2.1:22,[2001:DB8::1]:65535",
         ("www.example.com:80", "192.0.2.1:22", "[2001:db8::1]:65535")),
        (f"tls=a.example:0443/sha256:{HEX.upper()}", (f"a.example:443/sha256:{HEX}",)),
        (f"tls=[::1]:443/sha256:{':'.join(['3F', '1C'] * 16)}", (f"[::1]:443/sha256:{HEX}",)),
        ("command=/usr/bin/true,'/opt/a b'", ("/usr/bin/true", "/opt/a b")),
    ],
)  # fmt: skip
def test_values_are_normalised(word, values):
    assert read_values(word) == values


@pytest.mark.parametrize(
    "word",
    [
        *(f"gateway-mac={mac}" for mac in ("525400-0a0001", "52:54:00:0a:00:0g", "52:54:00:0a:00", MAC + ":00",
                                           "5:254:00:0a:00:01", "52:54:00:0a:00:0\uff11", "::::::::00:0a:00:")),
        *(f"gateway={address}" for address in ("192.0.2", "192.0.2.256", "01.2.3.4", "192.0.2.1/24", "fe80::1%eth0",
                                               "1:2", "\udc80", "1.2.3.4\0", "a", "[::1]")),
        *(f"address={network}" for network in ("192.0.2.0/33", "::/129", "192.0.2.0/", "192.0.2.0/-1", "192.0.2.0/a",
                                               "192.0.2.0/255.255.255.0", "192.0.2.0/\u0661", "192.0.2.0/2_4", "/24")),
        *(f"dns-domain={domain}" for domain in ("*", ".", "a..b", "-a", "a-", "a.*.b", "*a.b", "*.", "b\xfccher.de",
                                                "a/b", "x" * 64, "a b".join('""'), ".".join(["x" * 60] * 5), "\u212a")),
        *(f"interface={name}" for name in ("a/b", "'a b'", "a\x1b", "''")),
        *(f"carrier={word}" for word in ("Yes", "1", "true")),
        *(f"peer={peer}" for peer in ("a", "192.0.2.1/", "192.0.2.1/24", "/" + MAC, MAC)),
        *(f"ssid={ssid}" for ssid in ("''", "x" * 33, "\xe9" * 17, "\ud800", r"'\'", r"'\x'", r"'\x1'",
                                      r"'\x1g'", r"'\q'", "'" + r"\x00" * 33 + "'")),
        *(f"reach={service}" for service in ("a", "a:", ":1", "a:0", "a:65536", "a:-1", "::1:22", "[192.0.2.1]:22",
                                             "[a]:22", "*.a:22", "a/b:22", "192.0.2.256:22", "1.2.3:22", "a:\u0661")),
        *(f"tls={tls}" for tls in ("a:1", f"a/sha256:{HEX}", f"a:1/sha1:{HEX}", f"a:1/{HEX}", f"a:1/sha256:{HEX}0",
                                   f"a:1/sha256:{HEX[1:]}g", "a:1/sha256:" + "\uff11" * 64)),
        *(f"command={path}" for path in ("true", "./true", "/", "/bin/", "~/x")),
    ],
)  # fmt: skip
def test_broken_values(word):
    with everything_working():
        assert "expected " in refuse("netconf-location", f"home {word}")


def test_a_negated_test():
    read, errors = read_one("netconf-location", 'home !interface=a,b "!gateway=192.0.2.1"')
    assert errors == []
    assert [(test.negated, test.text) for test in read.locations[0].tests] == [
        (True, "!interface=a,b"),
        (True, "!gateway=192.0.2.1"),
    ]


def test_every_grade_is_known_and_every_syntax_is_used():
    known = {name: syntax for name, syntax in vars(values).items() if isinstance(syntax, values.Syntax)}
    unused = [name for name, syntax in known.items() if syntax not in [kind.syntax for kind in TESTS.values()]]
    assert not unused, f"netconf_hooks/stanzas/values.py: no test key in rules.TESTS has the syntax {unused}"
    assert {kind.grade for kind in TESTS.values()} == {"hint", "authenticated", "admin"}


# Tunnels


@pytest.mark.parametrize(
    "clauses, on, unless",
    [
        ("", ["anywhere"], []),
        ("on anywhere", ["anywhere"], []),
        ("on a b", ["a", "b"], []),
        ("unless a", ["anywhere"], ["a"]),
        ("on unknown unless a insecure", ["unknown"], ["a", "insecure"]),
        ("unless a on unroutable", ["unroutable"], ["a"]),
        ("on a # unless b", ["a"], []),
        ("on openvpn unles c", ["openvpn", "unles", "c"], []),  # names; check warns of those that no line defines
    ],
)
def test_conditions(clauses, on, unless):
    read, errors = read_one("netconf-vpn", f"openvpn corp {clauses}")
    assert errors == []
    assert read.vpns[0].condition == Condition(tuple(map(Word, on)), tuple(map(Word, unless)))


def test_the_same_options_are_read_once_and_changed_ones_again():
    options = {"netconf-location": "office-lan gateway=192.0.2.1", "netconf-vpn": "openvpn corp unless office-lan"}
    first = read_rules(options)
    assert read_rules(dict(options)) is first
    options["netconf-location"] += "\nhome-lan gateway=192.0.2.2"
    assert [location.name for location in read_rules(options).locations] == ["office-lan", "home-lan"]
    assert read_rules({}) == Rules()
    del options["netconf-location"]
    assert read_rules(options).locations == ()


def test_tests_in_a_condition_are_read():
    read, errors = read_one("netconf-vpn", "unit x on !interface='wl*' a unless address=192.0.2.7/24")
    assert errors == []
    interface = Test("interface", ("wl*",), True)
    address = Test("address", ("192.0.2.0/24",), False)
    assert read.vpns[0].condition == Condition(
        (Word("!interface=wl*", interface), Word("a")), (Word("address=192.0.2.0/24", address),)
    )


@pytest.mark.parametrize(
    "clauses, reason",
    [
        ("on", 'expected at least one word after "on"'),
        ("on unless a", 'expected at least one word after "on"'),
        ("on a unless", 'expected at least one word after "unless"'),
        ("on a on b", '"on" is written twice'),
        ("unless a on b unless c", '"unless" is written twice'),
        ("a", 'expected "on" or "unless", not "a"'),
        ("On a", 'expected "on" or "unless", not "On"'),
        ("on yes", "expected a location's name, a test or one of unknown, insecure, unroutable, anywhere, not \"yes\""),
        ("on !a", 'not "!a"'),
        ("unless gatewaymac=1", 'no such test: "gatewaymac"; there are gateway-mac,'),
        ("unless gateway=1", 'expected an IP address after gateway=, not "1"'),
        ("unless 'a", "a quote is opened and not closed: 'a"),
        ("unless a \\", "nothing follows the backslash"),
    ],
)
def test_a_tunnel_with_a_broken_condition_is_kept_as_not_readable(clauses, reason):
    line = f"openvpn corp {clauses}"
    message = refuse("netconf-vpn", line)
    assert message.startswith(f'netconf-vpn "{line}": ')
    assert reason in message
    assert read_rules({"netconf-vpn": line}).vpns == (VpnRule("openvpn", "corp", Condition((), ()), False, line),)


@pytest.mark.parametrize(
    "line, reason",
    [
        ("openvpn", 'expected the tunnel\'s name after "openvpn"'),
        ("openvpn unless office", 'expected the tunnel\'s name after "openvpn"'),
        ("openvnp corp", f'expected a kind of tunnel ({KINDS}), not "openvnp"'),
        ("corp on home", f'expected a kind of tunnel ({KINDS}), not "corp"'),
        ("openvpn 'corp", "a quote is opened"),
    ],
)
def test_a_tunnel_that_can_not_be_told_is_an_error_only(line, reason):
    assert reason in refuse("netconf-vpn", line)
    assert read_rules({"netconf-vpn": line}).vpns == ()


def test_the_kinds_that_work_can_be_loaded():
    from netconf_hooks.tunnels import load_tunnel

    for kind, module in TUNNEL_KINDS.items():
        if module:
            assert load_tunnel(kind, "x").__class__.__module__ == f"netconf_hooks.tunnels.{module}"


# The guard and the single options

@pytest.mark.parametrize(
    "value, condition",
    [
        ("yes", Condition()),
        ("on anywhere", Condition()),
        ("on unknown", Condition((Word("unknown"),))),
        ("unless office-lan", Condition(unless=(Word("office-lan"),))),
    ],
)
def test_a_guard_is_read(value, condition):
    read, errors = read_one("netconf-guard", value)
    assert (read.guard.condition, read.guard.readable, read.guard.text) == (condition, True, value)
    assert read.is_guarded()
    assert errors == []


def test_no_guard_is_no_error():
    read, errors = read_one("netconf-guard", "no # for now")
    assert (read, errors) == (rules.Rules(guard=GuardRule(None, True, "no # for now")), [])
    assert not read.is_guarded()
    assert not read_rules({}).is_guarded()


@pytest.mark.parametrize(
    "value, reason",
    [
        ("", "nothing is written there"),
        ("# no", "nothing is written there"),
        ("no 'x", "a quote is opened"),
        ("no unless a", 'expected nothing after "no"'),
        ("yes unless a", 'expected nothing after "yes"'),
        ("unles a", 'expected "yes", "no", "on" or "unless", not "unles"'),
        ("No", 'expected "yes", "no", "on" or "unless", not "No"'),
        ("unless", 'expected at least one word after "unless"'),
        ("unless gateway=1", "expected an IP address"),
        ("on a on b", '"on" is written twice'),
    ],
)
def test_a_guard_that_can_not_be_read_is_closed(value, reason):
    read, errors = read_one("netconf-guard", value)
    assert read.guard == GuardRule(Condition(), False, value)
    assert read.is_guarded()
    (error,) = errors
    assert reason in error


@pytest.mark.parametrize(
    "value, seconds", [("1", 1), ("0.5", 0.5), (".5", 0.5), ("3.", 3), ("300", 300), ("007 # bond", 7)]
)
def test_timeouts(value, seconds):
    read, errors = read_one("netconf-timeout", value)
    assert (read.timeout, errors) == (seconds, [])


@pytest.mark.parametrize(
    "value",
    ["0", "0.0", ".", "-1", "+1", "300.1", "301", "1e2", "nan", "inf", "1_0", "0x1", "5s", "5 6", "1.2.3", "\u0661",
     "9" * 400, "'5"],
)  # fmt: skip
def test_broken_timeouts(value):
    refuse("netconf-timeout", value)
    assert read_rules({"netconf-timeout": value}).timeout == 5


def test_trust():
    assert read_one("netconf-trust", "hints") == (rules.Rules(trust="hints"), [])
    assert read_one("netconf-trust", "authenticated") == (rules.Rules(trust="authenticated"), [])


@pytest.mark.parametrize("value", ["", "hint", "Hints", "hints authenticated", "hints 'x"])
def test_a_broken_trust_asks_for_proof(value):
    refuse("netconf-trust", value)
    assert read_rules({"netconf-trust": value}).trust == "authenticated"


@pytest.mark.parametrize("value", ["auto", "nftables", "iptables"])
def test_backends(value):
    assert read_one("netconf-guard-backend", value) == (rules.Rules(backend=value), [])


@pytest.mark.parametrize("value", ["nft", "auto nftables", "Auto"])
def test_broken_backends(value):
    assert 'expected "auto", "nftables" or "iptables"' in refuse("netconf-guard-backend", value)
    assert read_rules({"netconf-guard-backend": value}).backend == "auto"


def test_outside_ports():
    written = {"netconf-outside-ports": "eth0\neth1 enp*s0 vl[ab]n? # the uplinks"}
    assert read_rules(written) == rules.Rules(outside_ports=("eth1", "enp*s0", "vl[ab]n?"))


@pytest.mark.parametrize("name", ["a/b", "'a b'", "''", "a\x01", "é", "'eth0", "'a,b'"])
def test_broken_outside_ports(name):
    refuse("netconf-outside-ports", f"eth0 {name}")
    assert read_rules({"netconf-outside-ports": f"eth0 {name}"}).outside_ports == ()


def test_uplinks():
    assert read_rules({"netconf-uplink": "eth0\neth1 wlx0123456789ab"}).uplinks == ("eth1", "wlx0123456789ab")


@pytest.mark.parametrize("name", [".", "..", "a/b", "a:1", "x" * 16, "'a b'", "''", "a\x01", "é"])
def test_broken_uplinks(name):
    assert "expected the name of an interface" in refuse("netconf-uplink", f"eth0 {name}")
    assert read_rules({"netconf-uplink": f"eth0 {name}"}).uplinks == ()


@pytest.mark.parametrize(
    "word, incoming, protocol, port, network",
    [
        ("192.0.2.0/24", False, "", 0, "192.0.2.0/24"),
        ("192.0.2.7", False, "", 0, "192.0.2.7/32"),
        ("2001:db8::/32", False, "", 0, "2001:db8::/32"),
        ("::1", False, "", 0, "::1/128"),
        ("[2001:db8::7]", False, "", 0, "2001:db8::7/128"),
        ("udp/123", False, "udp", 123, ""),
        ("192.0.2.7:tcp/22", False, "tcp", 22, "192.0.2.7/32"),
        ("192.0.2.7/24:tcp/22", False, "tcp", 22, "192.0.2.0/24"),
        ("[2001:db8::/32]:udp/53", False, "udp", 53, "2001:db8::/32"),
        ("in:tcp/22", True, "tcp", 22, ""),
        ("in:tcp/22@192.0.2.0/24", True, "tcp", 22, "192.0.2.0/24"),
        ("in:udp/1@2001:db8::/32", True, "udp", 1, "2001:db8::/32"),
        ("in:udp/1@[::1]", True, "udp", 1, "::1/128"),
    ],
)
def test_allowances(word, incoming, protocol, port, network):
    text = format_allowance(incoming, protocol, port, network)
    expected = Allowance(incoming, protocol, port, network, text)
    assert read_rules({"netconf-guard-allow": word}).allowances == (expected,)
    assert read_rules({"netconf-guard-allow": text}).allowances == (expected,)


@pytest.mark.parametrize("word, host", [
    ("ntp.example.org:udp/123", "ntp.example.org"), ("0.debian.POOL.ntp.org.:udp/123", "0.debian.pool.ntp.org"),
])
def test_a_host_may_be_allowed_by_its_name(word, host):
    expected = Allowance(False, "udp", 123, "", f"{host}:udp/123", host)
    assert read_rules({"netconf-guard-allow": word}).allowances == (expected,)
    assert read_rules({"netconf-guard-allow": expected.text}).allowances == (expected,)


def test_the_lan_may_be_allowed():
    read = read_rules({"netconf-guard-allow": "udp/123 lan"})
    assert read.allowances[1] == Allowance(False, "", 0, "", "lan", lan=True)
    assert read.errors == ()


@pytest.mark.parametrize(
    "word",
    ["LAN", "lan:tcp/631", "in:lan", "[lan]", "lan/24", "lan,", "192.0.2.0/33",
     "example.com", "example:tcp/22", "a..b:tcp/22", "192.0.2.300:tcp/22", "[a.example]:tcp/22",
     "in:tcp/22@a.example", "a.example:tcp/0", "a.example/24:tcp/22", "tcp",
     "tcp/", "tcp/0", "tcp/65536", "tcp/ssh", "icmp/8",
     "tcp/22@192.0.2.0/24", "2001:db8::7:tcp/22", "[192.0.2.1]:tcp/22", "[::1]tcp/22", "[::1]:", "[::1", "[::1]/64",
     "192.0.2.7:", ":tcp/22", "in:", "in:192.0.2.0/24", "in:tcp/22@", "in:192.0.2.7:tcp/22", "in:tcp/22@x", "''", "[]"],
)  # fmt: skip
def test_a_broken_allowance_leaves_its_line_out(word):
    assert f'not "{"" if word == chr(39) * 2 else word}"' in refuse("netconf-guard-allow", f"udp/123 {word}")
    read = read_rules({"netconf-guard-allow": f"tcp/80\nudp/123 {word}"})
    assert [allowance.text for allowance in read.allowances] == ["tcp/80"]


@given(st.binary(min_size=1, max_size=32))
def test_any_name_of_a_wireless_network_can_be_written_and_shown(octets):
    shown = values.format_ssid(octets)
    assert shown.isascii() and shown.isprintable()
    assert read_values(format_test("ssid", [shown])) == (shown,)
    as_it_is = "".join(octets.decode("utf-8", "surrogateescape")).replace("\\", r"\\")
    assert values.read_ssid(as_it_is) == shown


# What is written can be read back

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True).filter(lambda name: name not in RESERVED)
tunnel_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,9}", fullmatch=True).filter(
    lambda name: name not in RESERVED
)


@st.composite
def make_test(draw):
    key = draw(st.sampled_from(list(TESTS)))
    values_written = draw(st.lists(list_written(key), min_size=1, max_size=3))
    return Test(key, tuple(values_written), draw(st.booleans()))


tests = make_test()
words = st.one_of(names.map(Word), st.sampled_from(SITUATIONS).map(Word), tests.map(lambda test: Word(test.text, test)))
conditions = st.builds(
    lambda on, unless: Condition(tuple(on), tuple(unless)) if on else Condition(unless=tuple(unless)),
    st.lists(words, max_size=3),
    st.lists(words, max_size=3),
)


def spell(condition):
    """Return the clauses of a condition as an admin writes them."""
    clauses = (("on", condition.on), ("unless", condition.unless))
    return " ".join(" ".join([clause, *(word.text for word in words)]) for clause, words in clauses if words)


@few
@given(names, st.lists(tests, min_size=1, max_size=3))
def test_a_location_reads_as_it_is_written(name, tests):
    line = " ".join([name, *(test.text for test in tests)])
    with everything_working():
        read = read_rules({"netconf-location": line})
    assert read == rules.Rules(locations=(Location(name, tuple(tests), line),))


@few
@given(st.sampled_from(list(TUNNEL_KINDS)), tunnel_names, conditions)
def test_a_tunnel_reads_as_it_is_written(kind, name, condition):
    line = f"{kind} {name} {spell(condition)}"
    with everything_working():
        read = read_rules({"netconf-vpn": line})
    [vpn] = read.vpns
    assert (vpn.kind, vpn.name, vpn.condition, vpn.readable, vpn.text) == (kind, name, condition, True, line)
    assert read == rules.Rules(vpns=(vpn,))


@few
@given(st.one_of(st.none(), conditions))
def test_a_guard_reads_as_it_is_written(condition):
    line = spell(condition) if condition else "no"
    with everything_working():
        guard = read_rules({"netconf-guard": line}).guard
        assert (guard.condition, guard.readable, guard.text) == (condition, True, line)


@few
@given(st.booleans(), st.sampled_from(["tcp", "udp", ""]), st.integers(1, 65535), networks, st.booleans())
def test_an_allowance_reads_as_it_is_written(incoming, protocol, port, network, anywhere):
    if not protocol:
        incoming, port, anywhere = False, 0, False
    fields = (incoming, protocol, port, "" if anywhere else network)
    line = format_allowance(*fields)
    assert read_rules({"netconf-guard-allow": line}).allowances == (Allowance(*fields, line),)


def test_what_holds_anywhere_needs_no_clause():
    for line in ("openvpn corp", "openvpn corp on anywhere"):
        assert read_rules({"netconf-vpn": line}).vpns[0].condition == Condition()
    for line in ("yes", "on anywhere"):
        assert read_rules({"netconf-guard": line}).guard.condition == Condition()
    assert read_rules({"netconf-vpn": "openvpn corp unless a"}).vpns[0].condition == Condition(unless=(Word("a"),))
    assert read_rules({"netconf-guard": "no"}).guard.condition is None


# Whatever is written

odd_options = st.one_of(
    st.sampled_from(list(rules.OPTIONS)),
    st.builds(lambda option, number: f"{option}-{number}", st.sampled_from(list(rules.OPTIONS)), st.integers(-1, 99)),
    st.text(max_size=8).map(lambda text: f"netconf-{text}"),
)
pieces = st.one_of(
    st.sampled_from(
        ["openvpn ", "unit ", "corp ", "home ", " on ", " unless ", "yes", "no", "unknown ", "interface=", "gateway=",
         "address=", "192.0.2.1", "::", "/24", MAC, "gateway-mac=", "dns-domain=", "a.b", "!", ",", "'", '"', "\\",
         "#", " ", "\n", "\t", "\0", "\x1b", "\udc80", "\ud800", "=", "tcp/", "22", ":", "in:", "@", "[", "]", "é"]
    ),
    st.text(st.characters(), max_size=3),
)  # fmt: skip
odd_values = st.lists(pieces, max_size=20).map("".join)


@many
@given(st.dictionaries(odd_options, odd_values, max_size=4))
@example({"netconf-location": "a interface=b 'c\na interface=b"})
@example({"netconf-vpn": "openvpn openvpn ", "netconf-vpn--1": "openvpn openvpn "})
def test_whatever_is_written_nothing_is_raised_and_no_error_opens_anything(options):
    read = read_rules(options)
    assert read == read_rules(options)
    # An option that does not exist is an error of its own, and may hold a line that another one holds rightly.
    known = re.compile("netconf-(location|vpn)(-[0-9]+)?")
    broken = {(error.option, error.value) for error in read.errors if known.fullmatch(error.option)}
    assert all(type(error) is RuleError and str(error).isprintable() for error in read.errors)
    written = {line: option for option, value in sorted(options.items()) for line in value.split("\n")}
    for location in read.locations:
        assert location.tests and location.name not in RESERVED
        assert location.text in written
    broken_lines = {value for option, value in broken if option.startswith("netconf-location")}
    assert broken_lines.isdisjoint(location.text for location in read.locations)
    broken_lines = {value for option, value in broken if option.startswith("netconf-vpn")}
    assert all(vpn.readable == (vpn.text not in broken_lines) for vpn in read.vpns)
    if any(option.rstrip("0123456789") in ("netconf-guard", "netconf-guard-") for option in options):
        assert read.guard is not None
        assert read.guard.readable or read.guard.condition == Condition()
    assert 0 < read.timeout <= 300


@pytest.mark.parametrize("piece", ["a", "a ", '"', "'x", "\\", "=", "!", ",", "#", ":", "home gateway=1 ", "a\n", "\0"])
@pytest.mark.parametrize("option", ["netconf-location", "netconf-vpn", "netconf-guard", "netconf-guard-allow"])
def test_a_huge_value_is_read_in_linear_time(option, piece):
    value = "home " * (option == "netconf-location") + "gateway-mac=" * (piece == ",") + piece * (200_000 // len(piece))
    before = time.process_time()
    read = read_rules({option: value})
    messages = "".join(str(error) for error in read.errors[:20])
    assert time.process_time() - before < 2  # about 0.1 s; quadratic would be minutes
    assert read.errors and len(messages) < 50_000


def test_a_line_reports_only_so_many_errors():
    for option, value in (("netconf-location", "home " + "gateway=1 " * 50), ("netconf-uplink", "a/b " * 50),
                          ("netconf-guard-allow", "x " * 50), ("netconf-vpn", "unit x on " + "! " * 50)):  # fmt: skip
        assert len(read_rules({option: value}).errors) == rules._MAX_REASONS


def test_what_every_ifup_pays_for_is_not_imported():
    names = "re json typing enum dataclasses collections subprocess socket logging ipaddress functools pathlib shlex"
    program = "import sys; sys.path.append('.'); import netconf_hooks.stanzas.rules; print(*sys.modules)"
    # -S: without site, which imports what it likes.
    found = subprocess.run([sys.executable, "-I", "-S", "-c", program], cwd=Path(rules.__file__).parents[2],
                           capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    assert "netconf_hooks.stanzas.rules" in found
    assert set(names.split()).isdisjoint(found)
