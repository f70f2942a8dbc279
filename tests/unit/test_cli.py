"""The command as whoever types it sees it: what it prints, and with which status it leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from netconf_hooks import cli, log
from netconf_hooks.interfaces import InterfacesError, Names
from netconf_hooks.observe import Answer, netlink
from netconf_hooks.rules import TESTS, TestKind
from netconf_hooks.state import Finding, InterfaceRecord, Stanza, Store, TunnelRecord
from netconf_hooks.tunnels import TunnelError

CHECKOUT = str(Path(__file__).parents[2])

CORP = ("openvpn", "corp")
OFFICE = "office gateway=192.0.2.1"
STANZA = {"netconf-location": OFFICE, "netconf-vpn": "openvpn corp unless office"}
AT_OFFICE = InterfaceRecord(
    "eth0", 7, (Stanza("inet", STANZA),), "office", OFFICE, "hint", routable=True,
    seen=(Finding("dns-domain", (), "no lease"), Finding("gateway", ("192.0.2.1", "fe80::1"))),
)  # fmt: skip
STOPPED = TunnelRecord("openvpn", "corp", "down", 'eth0 is at office: "unless office"', True)


class FakeTunnel:
    """A tunnel that is what the test says: up, check and boot by its name."""

    up = {}
    errors = {}
    boot = {}

    def __init__(self, kind, name):
        self.name = f"{kind} {name}"

    def check(self):
        if self.name in self.errors:
            raise TunnelError(self.errors[self.name])

    def is_up(self):
        self.check()
        return self.up.get(self.name, False)

    def boot_start(self):
        return self.boot.get(self.name, "")


@pytest.fixture
def tunnel(monkeypatch):
    """The class of all tunnels that are only looked at; instead of this machine's."""
    for attribute in ("up", "errors", "boot"):
        monkeypatch.setattr(FakeTunnel, attribute, {})
    monkeypatch.setattr(cli, "load_tunnel", FakeTunnel)
    return FakeTunnel


@pytest.fixture
def command(store, tunnel, network, monkeypatch, capfd):
    """A function that runs the command: it returns the exit status, and what was printed and complained of."""
    monkeypatch.setattr(cli, "Store", lambda: store)
    monkeypatch.setattr(cli, "read_names", lambda: pytest.fail("read the machine's interfaces"))
    monkeypatch.setattr(cli, "query_options", lambda name: pytest.fail("asked this machine's ifquery"))

    def run(*arguments):
        status = cli.main(arguments)
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    # main() lets go of a standard output that failed; here it is pytest's.
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    yield run
    log.set_verbose(False)


@pytest.fixture
def at_office(store, links):
    """eth0 is at the office, where the tunnel was stopped."""
    store.prepare()
    store.write_interface(AT_OFFICE)
    store.write_tunnels({CORP: STOPPED})
    links.plug("eth0", 7)


# status


def test_status_with_nothing_up(command):
    assert command("status") == (0, "no interface with netconf rules is up\n", "")
    status, output, _ = command("status", "--json")
    assert status == 0
    assert json.loads(output) == {"interfaces": {}, "tunnels": {}}


def test_status_says_where_and_why(command, at_office):
    status, output, errors = command("status")
    assert (status, errors) == (0, "")
    assert output == (
        "eth0: office\n"
        "    netconf-location office gateway=192.0.2.1\n"
        "    dns-domain: no lease\n"
        "    gateway: 192.0.2.1, fe80::1\n"
        'openvpn corp: not connected; should be down: eth0 is at office: "unless office"\n'
    )


def test_status_for_programs(command, at_office, tunnel, store):
    tunnel.up["openvpn corp"] = True
    store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "wanted", False, "no corp.conf")})
    status, output, errors = command("status", "--json")
    assert (status, errors) == (0, "")
    said = json.loads(output)
    interface = said["interfaces"]["eth0"]
    assert {key: interface[key] for key in ("location", "undecided", "guard")} == {
        "location": "office", "undecided": False, "guard": "none"
    }  # fmt: skip
    assert interface["counts"] is True
    assert (interface["line"], interface["grade"], interface["routable"]) == (OFFICE, "hint", True)
    assert interface["seen"] == {"dns-domain": [], "gateway": ["192.0.2.1", "fe80::1"]}
    assert said["tunnels"] == {
        "openvpn corp": {"wanted": True, "up": True, "because": "wanted", "problem": "no corp.conf"}
    }


@pytest.mark.parametrize("up, words", [
    (True, "connected"), (False, "not connected"), (None, "can't tell whether it is connected"),
])
def test_status_of_a_tunnel(command, at_office, tunnel, up, words):
    tunnel.up["openvpn corp"] = up
    assert f"openvpn corp: {words}; should be down" in command("status")[1]
    assert json.loads(command("status", "--json")[1])["tunnels"]["openvpn corp"]["up"] is up


def test_status_of_a_tunnel_that_can_not_be_asked(command, at_office, tunnel, store):
    tunnel.errors["openvpn corp"] = "no configuration"
    store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "wanted", False, "no\nconfiguration\x1b[2J")})
    status, output, _ = command("status")
    assert status == 0
    assert output.endswith("openvpn corp: not connected; should be up: wanted\n    no\\nconfiguration\\x1b[2J\n")


def test_status_of_unknown_and_undecided_places(command, store, links):
    store.prepare()
    store.write_interface(InterfaceRecord("eth0", 7, (), location="office", undecided=True))
    store.write_interface(InterfaceRecord("wlan0", 8, ()))
    links.plug("eth0", 7)
    links.plug("wlan0", 8, carrier=False)
    output = command("status")[1]
    assert output == "eth0: undecided\nwlan0: unknown  (does not count: no carrier, or another device by now)\n"
    interfaces = json.loads(command("status", "--json")[1])["interfaces"]
    assert interfaces["eth0"]["undecided"] is True
    assert (interfaces["wlan0"]["location"], interfaces["wlan0"]["counts"]) == (None, False)


def test_what_the_network_says_moves_no_cursor(command, store, links):
    store.prepare()
    store.write_interface(InterfaceRecord("eth0", 7, (), seen=(Finding("dns-domain", ("\x1b[2Jevil\n",), ""),)))
    assert "\n    dns-domain: \\x1b[2Jevil\\n\n" in command("status")[1]


def test_rules_that_are_no_text_can_be_shown(command, store, links):
    store.prepare()
    line = 'office interface="caf\udce9"'
    store.write_interface(InterfaceRecord("eth0", 7, (), "office", line, "hint"))
    status, output, errors = command("status")
    assert (status, errors) == (0, "")
    assert "caf\\udce9" in output
    assert command("status", "--json")[0] == 0


def test_a_record_that_can_not_be_read_is_named_and_hides_no_other(command, at_office, store):
    Path(store.interfaces, "wlan0").write_text("rubbish\n")
    status, output, errors = command("status")
    assert status == 0
    assert output.startswith("eth0: office")
    assert "wlan0" in errors


def test_decisions_that_can_not_be_read_are_an_error(command, at_office, store):
    Path(store.tunnels).write_text("rubbish\n")
    status, output, errors = command("status")
    assert status == 1
    assert errors.startswith(f"netconf-hooks: {store.tunnels}: ")


def test_a_kernel_that_can_not_be_asked_is_an_error_and_no_traceback(command, at_office, monkeypatch):
    def refuse(devices):
        raise netlink.NetlinkError(97)

    monkeypatch.setattr(netlink, "read_links", refuse)
    assert command("status") == (1, "", "netconf-hooks: Address family not supported by protocol\n")


# location


@pytest.mark.parametrize("facts, printed", [
    ({"location": "office"}, "office\n"),
    ({}, "unknown\n"),
    ({"location": "office", "undecided": True}, "undecided\n"),
])
def test_the_location_is_printed_for_scripts(command, store, links, facts, printed):
    store.prepare()
    store.write_interface(InterfaceRecord("eth0", 7, (), **facts))
    links.plug("eth0", 7)
    assert command("location", "eth0") == (0, printed, "")


@pytest.mark.parametrize("iface, index", [("eth1", 0), ("eth0", 0), ("eth0", 9), ("", 0)])
def test_an_interface_that_is_not_up_has_no_location(command, at_office, links, iface, index):
    del links["eth0"]
    if index:
        links.plug("eth0", index)
    status, output, errors = command("location", iface)
    assert (status, output) == (1, "")
    assert errors.startswith("netconf-hooks: ")


def test_a_path_is_no_interface(command, at_office, tmp_path):
    (tmp_path / "secret").write_text("secret")
    status, output, errors = command("location", "../../secret")
    assert (status, output) == (1, "")


# explain


def test_explain_shows_every_line_and_test(command, store, links, network):
    rules = {
        "netconf-location": "home gateway=192.0.2.9 dns-domain=home.example\noffice gateway=192.0.2.1\n"
        "office !gateway=192.0.2.9\ncafe address=10.0.0.0/8",
        "netconf-vpn": "openvpn corp unless office\nopenvpn archive on address=10.0.0.0/8\nopenvpn x unles y",
    }
    links.plug("eth0", 7)
    store.prepare()
    store.write_interface(InterfaceRecord("eth0", 7, (Stanza("inet", rules),)))
    network["gateway"] = Answer(("192.0.2.1",))
    network["dns-domain"] = Answer((), pending=True, problem="no answer\x1b")
    network["address"] = Answer(("10.1.2.3",))
    before = Path(store.interfaces, "eth0").read_text()
    status, output, errors = command("explain", "eth0")
    assert (status, errors) == (0, "")
    assert output.splitlines() == [
        "eth0 is at office (by the rules recorded at its ifup)",
        '  error: netconf-vpn "openvpn x unles y": expected "on" or "unless", not "unles"',
        "  netconf-location home gateway=192.0.2.9 dns-domain=home.example: does not hold",
        "    gateway=192.0.2.9: does not hold: seen 192.0.2.1",
        "    dns-domain=home.example: not answered in time: nothing seen (no answer\\x1b)",
        "  netconf-location office gateway=192.0.2.1: holds, first",
        "    gateway=192.0.2.1: holds: seen 192.0.2.1",
        "  netconf-location office !gateway=192.0.2.9: holds",
        "    !gateway=192.0.2.9: holds: seen 192.0.2.1",
        "  netconf-location cafe address=10.0.0.0/8: holds",
        "    address=10.0.0.0/8: holds: seen 10.1.2.3",
        "  as a word: address=10.0.0.0/8: holds",
        "  office is told by hints",
        "  default route: yes",
        '  netconf-vpn openvpn corp unless office: down, as far as eth0 goes: eth0 is at office: "unless office"',
        '  netconf-vpn openvpn archive on address=10.0.0.0/8: up, as far as eth0 goes: eth0 is at office: "on '
        'address=10.0.0.0/8"',
        '  netconf-vpn openvpn x unles y: keep, as far as eth0 goes: '
        'eth0: netconf-vpn "openvpn x unles y" can\'t be read',
    ]
    assert Path(store.interfaces, "eth0").read_text() == before


def test_explain_of_a_stanza_that_is_not_up(command, links, network, monkeypatch):
    links.plug("eth0", 7)
    monkeypatch.setattr(cli, "query_options", lambda name: STANZA if name == "eth0" else pytest.fail(name))
    status, output, _ = command("explain", "eth0")
    assert status == 0
    assert output.startswith("eth0 is at an unknown place (not up; by the rules that stand in its stanza)\n")
    assert "    gateway=192.0.2.1: does not hold: nothing seen (nothing there)\n" in output
    assert "  default route: no: unroutable\n" in output


def test_explain_of_an_unknown_interface(command, monkeypatch):
    def query_options(name):
        raise InterfacesError(f"{name}: ifquery: unknown interface {name}")

    monkeypatch.setattr(cli, "query_options", query_options)
    assert command("explain", "eth9") == (1, "", "netconf-hooks: eth9: ifquery: unknown interface eth9\n")


def test_explain_of_everything(command, at_office, store, links):
    store.write_interface(InterfaceRecord("wlan0", 8, (Stanza("inet", STANZA),)))
    status, output, _ = command("explain")
    assert status == 0
    assert "\n\nwlan0 is at an unknown place" in output
    assert output.startswith("eth0 is at an unknown place")


def test_explain_of_nothing(command):
    status, output, errors = command("explain")
    assert (status, output) == (1, "")
    assert "no interface with netconf rules is up" in errors


# refresh


def test_refresh_needs_root(command, at_office, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    status, output, errors = command("refresh")
    assert (status, output) == (1, "")
    assert errors == "netconf-hooks: refresh: only root may decide\n"


@pytest.mark.parametrize("arguments", [("refresh",), ("refresh", "eth0")])
def test_refresh_decides_again(command, at_office, store, tunnels, network, monkeypatch, arguments):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert command(*arguments) == (0, "", "")
    assert store.read_interface("eth0").location == ""
    assert tunnels.asked == ["start openvpn corp"]
    network["gateway"] = Answer(("192.0.2.1",))
    assert command(*arguments) == (0, "", "")
    assert store.read_interface("eth0").location == "office"
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]


def test_refresh_takes_only_what_is_up(command, at_office, tunnels, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    status, output, errors = command("refresh", "eth0", "eth9")
    assert status == 1
    assert errors == "netconf-hooks: eth9: not up, or without netconf rules\n"
    assert tunnels.asked == []


def test_refresh_does_not_bring_an_interface_back(command, at_office, store, links, tunnels, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    links.plug("eth0", 9)
    assert command("refresh")[0] == 0
    assert store.read_interface("eth0") == AT_OFFICE
    assert store.read_tunnels() == {}


# check


@pytest.fixture
def stanzas(command, monkeypatch):
    """What stands in /etc/network/interfaces, by stanza; and the mappings and problems of the file."""
    stanzas = {}
    rest = {"mapped": (), "parents": (), "problems": ()}

    def query_options(name):
        if name not in stanzas:
            raise InterfacesError(f"{name}: ifquery: unknown interface {name}")
        return stanzas[name]

    monkeypatch.setattr(cli, "read_names", lambda: Names(stanzas=tuple(stanzas), **rest))
    monkeypatch.setattr(cli, "query_options", query_options)
    stanzas["lo"] = {}
    return stanzas, rest


def check(command, *arguments):
    """Run check and return its status and its lines but the last, which only counts."""
    status, output, errors = command("check", *arguments)
    assert errors == ""
    return status, output.splitlines()[:-1]


def test_check_of_good_stanzas(command, stanzas):
    stanzas[0]["eth0"] = {**STANZA, "netconf-trust": "hints"}
    assert command("check") == (0, "2 stanzas examined, 0 errors\n", "")


def test_check_reports_all_errors_of_a_stanza(command, stanzas):
    stanzas[0]["eth0"] = {
        "netconf-location": "office gatway=1", "netconf-vpn": "openvpn corp unles x", "netconf-trsut": "x"
    }  # fmt: skip
    status, lines = check(command)
    assert status == 1
    assert len(lines) == 3
    assert 'eth0: error: netconf-vpn "openvpn corp unles x": expected "on" or "unless", not "unles"' in lines
    assert command("check", "eth0")[1].endswith("1 stanzas examined, 3 errors\n")


def test_check_reports_a_tunnel_without_configuration(command, stanzas, tunnel):
    tunnel.errors["openvpn corp"] = "there is no /etc/openvpn/client/corp.conf"
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp"}
    assert check(command) == (
        1, ['eth0: error: netconf-vpn "openvpn corp": there is no /etc/openvpn/client/corp.conf']
    )  # fmt: skip


def test_check_does_not_ask_for_tunnels_of_rules_it_can_not_read(command, stanzas, tunnel):
    tunnel.errors["openvpn corp"] = tunnel.boot["openvpn corp"] = "not to be asked"
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp unles x"}
    status, lines = check(command)
    assert status == 1
    assert len(lines) == 1
    assert "not to be asked" not in lines[0]


def test_check_warns_of_a_word_that_nothing_defines(command, stanzas):
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp on ofice unknown anywhere address=10.0.0.0/8"}
    status, lines = check(command)
    assert status == 0
    [line] = lines
    assert line.startswith("eth0: warning: netconf-vpn ")
    assert line.endswith('defines "ofice"')


def test_check_warns_of_a_tunnel_that_starts_at_boot(command, stanzas, tunnel):
    tunnel.boot["openvpn corp"] = "AUTOSTART is not set"
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp"}
    status, lines = check(command)
    assert status == 0
    assert lines == [
        'eth0: warning: netconf-vpn "openvpn corp": it also starts at boot: AUTOSTART is not set'
    ]


def test_check_warns_where_hints_turn_a_tunnel_off(command, stanzas):
    stanzas[0]["eth0"] = STANZA
    status, lines = check(command)
    assert status == 0
    [line] = lines
    assert line.startswith('eth0: warning: netconf-vpn "openvpn corp unless office": ')
    assert "whoever forges the hints of office turns this tunnel off" in line


def test_check_is_quiet_where_the_admin_has_said_that_hints_are_enough(command, stanzas):
    stanzas[0]["eth0"] = {**STANZA, "netconf-trust": "hints"}
    assert check(command) == (0, [])


def test_check_warns_where_proof_is_asked_for_and_there_is_none(command, stanzas):
    stanzas[0]["eth0"] = {**STANZA, "netconf-trust": "authenticated"}
    status, [line] = check(command)
    assert status == 0
    assert "no line of office has a tls or command test: this tunnel is never turned off there" in line
    certificate = f"tls=192.0.2.9:443/sha256:{64 * '0'}"
    stanzas[0]["eth0"]["netconf-location"] = STANZA["netconf-location"] + f"\noffice {certificate}"
    assert check(command) == (0, [])


def test_check_warns_where_a_hint_in_a_rule_turns_a_tunnel_off(command, stanzas):
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp unless address=10.0.0.0/8"}
    status, [line] = check(command)
    assert status == 0
    assert 'whoever forges "address=10.0.0.0/8" turns this tunnel off' in line
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp unless command=/usr/local/sbin/is-office"}
    assert check(command) == (0, [])
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp unless !command=/usr/local/sbin/is-cafe"}
    assert len(check(command)[1]) == 1


def test_check_is_quiet_where_a_location_is_proven(command, stanzas, monkeypatch):
    monkeypatch.setitem(TESTS, "gateway", TestKind("address", "authenticated", "router"))
    stanzas[0]["eth0"] = STANZA
    assert check(command) == (0, [])


def test_check_goes_on_after_a_stanza_that_ifquery_refuses(command, stanzas):
    stanzas[0]["eth0"] = {"netconf-vpn": "openvpn corp unles x"}
    status, lines = check(command, "eth9", "eth0")
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


# The command line and its outputs


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["location"], ["status", "eth0"], ["refresh", "--force"]])
def test_a_command_line_that_can_not_be_read(command, arguments):
    with pytest.raises(SystemExit) as left:
        command(*arguments)
    assert left.value.code == cli.USAGE == 2


COMMAND = f"""
import sys
sys.path += [{CHECKOUT!r}, "/usr/lib/python3/dist-packages"]
from netconf_hooks import cli, state
state.Store.__init__.__defaults__ = (sys.argv.pop(1),)
sys.exit(cli.main())
"""


@pytest.fixture
def directory(tmp_path):
    """A real store's directory, for commands in processes of their own."""
    store = Store(str(tmp_path / "run"))
    store.prepare()
    store.write_interface(InterfaceRecord("lo:1", 1, (), "office", OFFICE, "hint"))
    return store.directory


def start_command(directory, *arguments, **options):
    """Run the command in a process of its own."""
    argv = [sys.executable, "-I", "-c", COMMAND, directory, *arguments]
    return subprocess.run(argv, **{"stderr": subprocess.PIPE, "text": True, "timeout": 20, **options})


@pytest.mark.parametrize("arguments", [("status",), ("status", "--json"), ("location", "lo:1")])
def test_a_full_standard_output_is_an_error(directory, arguments):
    with open("/dev/full", "w") as full:
        process = start_command(directory, *arguments, stdout=full)
    assert process.returncode == 1
    assert process.stderr == "netconf-hooks: [Errno 28] No space left on device\n"


def test_a_reader_that_has_gone_away_is_an_error_and_no_traceback(directory):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = start_command(directory, "status", stdout=writer)
    finally:
        os.close(writer)
    assert process.returncode == 1
    assert process.stderr == "netconf-hooks: [Errno 32] Broken pipe\n"


@pytest.mark.parametrize("closed", [(1,), (1, 2), (0, 1, 2)])
def test_a_closed_standard_output_is_nothing_to_say_something_to(directory, closed):
    def close():
        for descriptor in closed:
            os.close(descriptor)

    process = start_command(directory, "status", preexec_fn=close)
    assert process.returncode == 0
    assert process.stderr == ""
    assert sorted(os.listdir(directory)) == ["interfaces"]


def test_another_encoding_is_no_error(directory):
    store = Store(directory)
    store.write_interface(InterfaceRecord("lo:1", 1, (), "office", "office interface=\u20ac\udce9", "hint"))
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
    argv = [sys.executable, "-c", COMMAND, directory, "status"]
    process = subprocess.run(argv, env=environ, capture_output=True, timeout=20)
    assert process.returncode == 0
    assert b"office interface=\\u20ac\\udce9" in process.stdout
