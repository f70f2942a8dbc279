"""The command as whoever types it sees it: what it prints, and with which status it leaves."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from office import AT_OFFICE, CORP, OFFICE, tidy
from situations import make_record

from netconf_hooks import cli
from netconf_hooks.evidence import ports
from netconf_hooks.observation import Answer
from netconf_hooks.state import GuardRecord, Pass, Store, TunnelRecord
from netconf_hooks.system import netlink
from netconf_hooks.system.netlink import LinkStatus

CHECKOUT = str(Path(__file__).parents[2])


# status


def test_status_with_nothing_up(command):
    assert command("status") == (0, "no interface with netconf rules is up\n", "")
    status, output, _ = command("status", "--json")
    assert status == 0
    assert json.loads(output) == {"interfaces": {}, "tunnels": {}, "guards": {}}


def test_status_says_where_and_why(command, at_office):
    status, output, errors = command("status")
    assert (status, errors) == (0, "")
    assert tidy(output) == (
        "eth0 office by hints: netconf-location office gateway=192.0.2.1\n"
        'openvpn corp not connected should be down: eth0 is at office: "unless office"\n'
    )
    assert tidy(command("-v", "status")[1]).startswith(
        "eth0 office by hints: netconf-location office gateway=192.0.2.1\n"
        "    dns-domain: no lease\n"
        "    gateway: 192.0.2.1, fe80::1\n"
        "openvpn corp not connected "
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
        "openvpn corp": {
            "wanted": True, "up": True, "because": "wanted", "problem": "no corp.conf", "held": None, "state": None,
            "since": None,
        }
    }


@pytest.mark.parametrize("up, words", [
    (True, "connected"), (False, "not connected"), (None, "not known"),
])
def test_status_of_a_tunnel(command, as_root, at_office, tunnel, up, words):
    tunnel.up["openvpn corp"] = up
    assert f"openvpn corp {words} should be down" in tidy(command("status")[1])
    assert json.loads(command("status", "--json")[1])["tunnels"]["openvpn corp"]["up"] is up


def test_status_of_a_tunnel_that_can_not_be_asked(command, at_office, tunnel, store):
    tunnel.errors["openvpn corp"] = "no configuration"
    store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "wanted", False, "no\nconfiguration\x1b[2J")})
    status, output, _ = command("status")
    assert status == 0
    assert tidy(output).endswith(
        "openvpn corp not connected should be up: wanted; try: netconf-hooks check\n"
        "    no\\nconfiguration\\x1b[2J\n"
    )


def test_status_of_unknown_and_undecided_places(command, store, links):
    store.prepare()
    store.write_interface(make_record("eth0", 7, (), location="office", undecided=True))
    store.write_interface(make_record("wlan0", 8, ()))
    links.plug("eth0", 7)
    links.plug("wlan0", 8, carrier=False)
    output = command("status")[1]
    assert tidy(output) == (
        "eth0 undecided a test was not answered in time; asked again by the watcher; try: netconf-hooks explain eth0\n"
        "wlan0 unknown does not count: no carrier, or the device was replaced\n"
    )
    interfaces = json.loads(command("status", "--json")[1])["interfaces"]
    assert interfaces["eth0"]["undecided"] is True
    assert (interfaces["wlan0"]["location"], interfaces["wlan0"]["counts"]) == (None, False)


def test_status_says_where_dead_routes_are_used(command, store, links, monkeypatch):
    """A bridge that has carrier by a guest's port; not a link that really has none."""
    monkeypatch.setattr(ports, "has_carrier", lambda link, patterns: False)
    store.prepare()
    store.write_interface(make_record("br0", 7, ()))
    store.write_interface(make_record("eth0", 8, ()))
    links["br0"] = LinkStatus(7, "br0", 0x11043, True, True, "", "bridge")
    links.plug("eth0", 8, carrier=False)
    note = "unknown does not count: no carrier, or the device was replaced\n"
    told = "    the kernel goes on using its routes: the port of a guest gives the bridge carrier\n"
    assert tidy(command("status")[1]) == f"br0 {note}{told}eth0 {note}"


def test_status_tells_of_legacy_guards_that_no_record_knows(command, store, monkeypatch):
    monkeypatch.setattr("netconf_hooks.commands.status.list_legacy_guards", lambda: ("eth0", "eth1", "eth2"))
    store.prepare()
    store.write_guard(GuardRecord("eth0", "iptables-legacy", "closed", "x"))
    store.write_guard(GuardRecord("eth1", "nftables", "closed", "x"))
    told = [line for line in tidy(command("status")[1]).splitlines() if "no record knows of it" in line]
    assert told == [
        f"guard of {device} closed in the tables of iptables-legacy: no record knows of it, and it closes the link"
        for device in ("eth1", "eth2")
    ]


def test_what_the_network_says_moves_no_cursor(command, store, links):
    store.prepare()
    store.write_interface(make_record("eth0", 7, (), seen={"dns-domain": ("\x1b[2Jevil\n",)}))
    assert "\n    dns-domain: \\x1b[2Jevil\\n\n" in command("-v", "status")[1]


def test_rules_that_are_no_text_can_be_shown(command, store, links):
    store.prepare()
    line = 'office interface="caf\udce9"'
    store.write_interface(make_record("eth0", 7, (), "office", line, "hint"))
    links.plug("eth0", 7)
    status, output, errors = command("status")
    assert (status, errors) == (0, "")
    assert "caf\\udce9" in output
    assert command("status", "--json")[0] == 0


def test_a_record_that_can_not_be_read_is_named_and_hides_no_other(command, at_office, store):
    Path(store.interfaces, "wlan0").write_text("rubbish\n")
    status, output, errors = command("status")
    assert status == 0
    assert tidy(output).startswith("eth0 office")
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
    store.write_interface(make_record("eth0", 7, (), **facts))
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


def test_an_interface_without_carrier_says_so(command, at_office, links):
    links.plug("eth0", AT_OFFICE.observation.index, carrier=False)
    status, output, errors = command("location", "eth0")
    assert (status, output) == (1, "")
    assert errors.startswith("netconf-hooks: eth0: no carrier")


def test_a_path_is_no_interface(command, at_office, tmp_path):
    (tmp_path / "secret").write_text("secret")
    status, output, errors = command("location", "../../secret")
    assert (status, output) == (1, "")


# refresh


def test_refresh_says_that_it_looks_and_that_it_waits(command, at_office, monkeypatch, as_root):
    said = []

    @contextmanager
    def tell_if_slow(message):
        said.append(message)
        yield said.append

    def look_again(store, chosen):
        said.append([record.iface for record in chosen])
        return ()

    monkeypatch.setattr(cli, "tell_if_slow", tell_if_slow)
    monkeypatch.setattr(cli, "look_again", look_again)
    assert command("refresh") == (0, "", "")
    assert said == [
        "looking at eth0: at most 5 s", ["eth0"], "waiting for tunnels to start and stop, and for event scripts"
    ]


def test_refresh_needs_root(command, at_office, as_user):
    status, output, errors = command("refresh")
    assert (status, output) == (1, "")
    assert errors == "netconf-hooks: refresh: only root may do this: sudo netconf-hooks refresh\n"


@pytest.mark.parametrize("arguments", [("refresh",), ("refresh", "eth0")])
def test_refresh_decides_again(command, at_office, store, tunnels, network, as_root, arguments):
    assert command(*arguments) == (0, "", "")
    assert store.read_interface("eth0").place.location == ""
    assert tunnels.asked == ["start openvpn corp"]
    network["gateway"] = Answer(("192.0.2.1",))
    assert command(*arguments) == (0, "", "")
    assert store.read_interface("eth0").place.location == "office"
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]


def test_refresh_takes_only_what_is_up(command, at_office, tunnels, as_root):
    status, output, errors = command("refresh", "eth0", "eth9")
    assert status == 1
    assert errors == "netconf-hooks: eth9: not up, or without netconf rules\n"
    assert tunnels.asked == []


def test_refresh_does_not_bring_an_interface_back(command, at_office, store, links, tunnels, as_root):
    links.plug("eth0", 9)
    assert command("refresh")[0] == 0
    assert store.read_interface("eth0") == AT_OFFICE
    assert store.read_tunnels() == {}


GUARDED = GuardRecord(
    "eth0", "nftables", "open", "eth0 is at office", (Pass("inet", {"netconf-guard": "yes"}, iface="eth0"),),
    done=True, opened=True,
)  # fmt: skip


def test_refresh_of_guards_puts_back_what_was_taken_away_and_nothing_else(
    command, at_office, store, firewall, tunnels, as_root
):
    assert command("refresh", "--guards") == (0, "", "")
    store.write_guard(GUARDED)
    before = store.read_interface("eth0")
    assert command("refresh", "--guards")[0] == 0
    assert not firewall.is_open("eth0")
    assert store.read_interface("eth0") == before
    assert tunnels.asked == []
    asked = list(firewall.asked)
    assert command("refresh", "--guards")[0] == 0
    assert firewall.asked == asked


@pytest.fixture(params=["root", "nobody"])
def asker(request, monkeypatch):
    """Who asks: only root may ask the firewall."""
    monkeypatch.setattr("os.geteuid", lambda: 0 if request.param == "root" else 65534)
    return request.param


def let_stand(firewall, opened):
    """Let the guard of eth0 stand in the firewall."""
    firewall.stands["eth0"] = ((), {"open": "open"} if opened else {})


@pytest.mark.parametrize("facts, state", [
    ({}, "open"),
    ({"opened": False}, "closed"),  # decided, but the firewall was not told yet
    ({"verdict": "closed", "opened": False}, "closed"),
    ({"verdict": "closed"}, "open"),  # likewise
    ({"verdict": "released"}, "released"),
])
def test_status_says_what_the_firewall_was_told(command, at_office, store, firewall, asker, facts, state):
    store.write_guard(GUARDED.change(**facts))
    let_stand(firewall, opened=state == "open")
    if state == "released":
        firewall.stands.clear()
    assert f"guard of eth0 {state} (nftables) eth0 is at office" in tidy(command("status")[1])
    said = json.loads(command("status", "--json")[1])
    assert said["interfaces"]["eth0"]["guard"] == state
    assert said["guards"] == {
        "eth0": {
            "state": state, "because": "eth0 is at office", "backend": "nftables", "portal": 0.0, "lan": [],
            "problem": None,
        }
    }  # fmt: skip


@pytest.mark.parametrize("asker", ["root"], indirect=True)
def test_status_says_what_the_firewall_does_whatever_the_record_says(
    command, at_office, store, firewall, asker, messages
):
    """As when /run was full, or somebody has flushed the rules."""
    store.write_guard(GUARDED)
    let_stand(firewall, opened=False)
    output = tidy(command("status")[1])
    assert (
        "guard of eth0 closed (nftables) eth0 is at office; try: sudo netconf-hooks refresh --guards\n"
        "    decided, and not done yet: open\n"
    ) in output
    store.write_guard(GUARDED.change(verdict="closed", opened=False))
    firewall.stands.clear()
    assert "guard of eth0 open (nftables)" in tidy(command("status")[1])
    # Where it can't be asked, the record is all that is known.
    firewall.broken = "busy"
    status, output, errors = command("status")
    assert (status, errors) == (0, "netconf-hooks: eth0: netconf-guard: busy\n")
    assert "guard of eth0 closed" in tidy(output)


def test_status_names_the_watchers_children_that_can_not_be_killed(command, at_office, store):
    gone = 2**22 + 1  # beyond PID_MAX_LIMIT, proc_sys_kernel(5)
    store.write_abandoned([(gone, "run the event scripts"), (1, "look and act")])
    output = command("status")[1]
    assert "watcher: process 1, which was to look and act, can't be killed and was abandoned\n" in output
    assert "event scripts" not in output
    store.write_abandoned([])
    assert "abandoned" not in command("status")[1]


def test_status_of_an_alias_names_its_devices_guard_and_of_others_none(command, at_office, store, links, firewall):
    let_stand(firewall, opened=True)
    links.plug("wlan0", 8)
    for iface, index in (("eth0:1", 7), ("wlan0", 8)):
        store.write_interface(make_record(iface, index, ()))
    store.write_guard(GUARDED)
    interfaces = json.loads(command("status", "--json")[1])["interfaces"]
    assert {iface: facts["guard"] for iface, facts in interfaces.items()} == {
        "eth0": "open", "eth0:1": "open", "wlan0": "none"
    }  # fmt: skip


def test_status_of_a_guard_before_its_interface_is_up(command, store, links, firewall):
    store.prepare()
    let_stand(firewall, opened=False)
    store.write_guard(GUARDED.change(verdict="closed", opened=False, because="it is coming up", problem="gone.\x1b[2J"))
    status, output, errors = command("status")
    assert (status, errors) == (0, "")
    assert tidy(output) == "guard of eth0 closed (nftables) it is coming up\n    gone.\\x1b[2J\n"
    assert json.loads(command("status", "--json")[1])["guards"]["eth0"]["problem"] == "gone.\x1b[2J"


def test_a_guard_that_can_not_be_read_is_named_and_hides_no_other(command, at_office, store):
    store.write_guard(GUARDED.change(device="wlan0"))
    Path(store.guards, "eth0").write_text("rubbish\n")
    status, output, errors = command("status")
    assert status == 0
    assert "guard of wlan0 open" in tidy(output)
    assert store.guards in errors


# The command line and its outputs


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["location"], ["status", "eth0"], ["refresh", "--force"]])
def test_a_command_line_that_can_not_be_read(command, arguments):
    with pytest.raises(SystemExit) as left:
        command(*arguments)
    assert left.value.code == 2


COMMAND = f"""
import sys
sys.path += [{CHECKOUT!r}, "/usr/lib/python3/dist-packages"]
from netconf_hooks import cli, state
from netconf_hooks.system import netlink

# As on a machine whose lo is up, with whatever kernel (and mostly it is).
LO = netlink.LinkStatus(1, "lo", netlink.IFF_UP | netlink.IFF_LOWER_UP, True, True, "00:00:00:00:00:00")
netlink.read_links = lambda devices: {{device: LO for device in devices if device == "lo"}}
state.Store.__init__.__defaults__ = (sys.argv.pop(1),)
sys.exit(cli.main())
"""


@pytest.fixture
def directory(tmp_path):
    """A real store's directory, for commands in processes of their own."""
    store = Store(str(tmp_path / "run"))
    store.prepare()
    store.write_interface(make_record("lo:1", 1, (), "office", OFFICE, "hint"))
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

    before = sorted(os.listdir(directory))
    process = start_command(directory, "status", preexec_fn=close)
    assert process.returncode == 0
    assert process.stderr == ""
    assert sorted(os.listdir(directory)) == before


def test_another_encoding_is_no_error(directory):
    store = Store(directory)
    store.write_interface(make_record("lo:1", 1, (), "office", "office interface=\u20ac\udce9", "hint"))
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
    argv = [sys.executable, "-c", COMMAND, directory, "status"]
    process = subprocess.run(argv, env=environ, capture_output=True, timeout=120)
    assert process.returncode == 0
    assert b"office interface=\\u20ac\\udce9" in process.stdout


FAILING = """
import sys
from netconf_hooks import cli
from netconf_hooks.state import Store
from netconf_hooks.system import log, netlink
from netconf_hooks.watcher import watch

def fail(store):
    raise {error}

watch.watch = fail
cli.Store = lambda: None
cli.os.geteuid = lambda: 0
log._record = lambda priority, message: print(f"<{{priority}}>{{message}}", flush=True)
watch.Store = lambda: None
watch.log.fill_descriptors = lambda: None
sys.exit(cli.main(["watch"]) if {by_command} else watch.main())
"""


@pytest.mark.parametrize("by_command", [True, False])
@pytest.mark.parametrize("error, status, logged", [
    ("OSError(24, 'Too many open files')", 1, "watch: [Errno 24] Too many open files; only hooks and refresh notice"),
    ("netlink.NetlinkError(105)", 1, "watch: No buffer space available; only hooks and refresh notice changes now\n"),
    ("KeyError(7)", 70, "\nKeyError: 7\n"),
    ("KeyError(7)", 70, "<3>watch: Traceback"),
])
def test_what_ends_the_watcher_is_logged(error, status, logged, by_command):
    """A hook has started it, with /dev/null as its standard error; systemd starts it again after what it did not
    expect."""
    argv = [sys.executable, "-c", FAILING.format(error=error, by_command=by_command)]
    process = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert process.returncode == status
    assert logged in process.stdout and process.stdout.startswith("<3>")


def test_an_interrupted_watcher_is_no_failure_of_it():
    argv = [sys.executable, "-c", FAILING.format(error="KeyboardInterrupt()", by_command=True)]
    process = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert process.stdout == "" and "KeyboardInterrupt" in process.stderr
