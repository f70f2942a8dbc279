"""What each ifupdown tells its hooks, from environments captured from the real programs."""

import os
from pathlib import Path

import pytest

from netconf_hooks.stanzas import ifenv
from netconf_hooks.stanzas.ifenv import (
    MODES, UNKNOWN_RUN, device_of, has_wpa_action, is_name, is_roaming, read_environment
)  # fmt: skip
from netconf_hooks.stanzas.rules import read_rules

HERE = Path(__file__).parents[1]
CAPTURED = (*sorted((HERE / "environments").glob("*.txt")), HERE / "fixtures/ifupdown-0.8.41-repeated.txt")


def read_runs(path):
    """Return the hook runs in a capture as (command, phase, environment)."""
    runs = []
    command = ""
    environ = None
    latest = ""
    for line in path.read_text().splitlines():
        if line.startswith("===="):
            command, environ = line.strip("= "), None
        elif line.startswith("### if-"):
            environ = {}
            runs.append((command, line.split()[1][3:-2], environ))
        elif not line:
            latest = ""
        elif environ is not None:
            name, equals, value = line.partition("=")
            if line.startswith("    ") and latest:
                environ[latest] += "\n" + line[4:]
            elif equals and name.replace("_", "").replace("-", "").isalnum():
                latest = name
                environ[name] = value
            # else: of the captures made with env | sort, a further line of a value whose place the sorting lost
    return runs


RUNS = [(path.stem, *run) for path in CAPTURED for run in read_runs(path)]


def start(**environ):
    """Return the invocation of an if-up.d hook."""
    return read_environment("up", {"IFACE": "eth0", "MODE": "start", "ADDRFAM": "inet", **environ})


def test_the_captures_hold_runs_of_all_three():
    assert {name for name, *_ in RUNS} == {
        "ifupdown-0.8.41", "ifupdown-0.8.41-repeated", "ifupdown-ng-0.11.4", "ifupdown2-3.0.0"
    }  # fmt: skip
    assert len(RUNS) > 70
    for name in {name for name, *_ in RUNS}:
        assert {phase for capture, _, phase, _ in RUNS if capture == name} == set(MODES), name


@pytest.mark.parametrize("name, command, phase, environ", RUNS)
def test_every_captured_run_is_read(name, command, phase, environ):
    invocation = read_environment(phase, environ)
    iface = environ["IFACE"]
    assert invocation.iface == iface
    assert invocation.phase == phase
    assert invocation.family == environ.get("ADDRFAM", "any")
    assert invocation.verbose == (" -v" in command)
    if iface == "--all":
        assert invocation.problem == "the pass for all interfaces"
    elif iface == "lo":
        assert invocation.problem == "the loopback interface"
    else:
        assert invocation.problem == ""
    variables = {key for key in environ if key.startswith(("IF_NETCONF_", "IF_DNS_"))}
    assert {"IF_" + option.upper().replace("-", "_") for option in invocation.options} == variables
    assert all(option.startswith(("netconf-", "dns-")) for option in invocation.options)


def find_run(name, command, phase, family):
    """Return one captured run."""
    [environ] = [
        environ
        for run, made_by, at, environ in RUNS
        if (run, made_by, at) == (name, command, phase) and environ.get("ADDRFAM", "any") == family
    ]
    return read_environment(phase, environ)


@pytest.mark.parametrize("name, command, family", [
    ("ifupdown-0.8.41", "ifup eth0", "inet"),
    ("ifupdown-ng-0.11.4", "ifup eth0", "any"),
    ("ifupdown2-3.0.0", "ifup eth0", "inet"),
    ("ifupdown2-3.0.0", "ifup eth1", "inet,inet6"),
])
def test_the_family_is_kept_as_it_is_told(name, command, family):
    assert find_run(name, command, "up", family).family == family


def test_repeated_options_arrive_joined_the_parents_first():
    options = find_run("ifupdown-0.8.41-repeated", "ifup -v eth0", "up", "inet").options
    assert options == {
        "dns-nameservers": "192.0.2.1 192.0.2.2",
        "netconf-location": "home gateway-mac=52:54:00:0a:00:01\n"
        'office gateway-mac=00:16:3e:11:22:33         dns-domain="corp.example.com"\n'
        "cafe dns-domain=cafe.example # by the lake",
        "netconf-location-2": "friends gateway=192.0.2.1",
        "netconf-timeout": "9\n3",
        "netconf-vpn": "openvpn corp unless office",
    }
    rules = read_rules(options)
    assert rules.errors == ()
    assert [location.name for location in rules.locations] == ["home", "office", "cafe", "friends"]
    assert rules.timeout == 3


def test_the_inet6_pass_does_not_carry_the_inet_stanzas_options():
    options = find_run("ifupdown-0.8.41-repeated", "ifup --force eth0", "up", "inet6").options
    assert options == {"netconf-vpn": "unit backup.service on home"}


@pytest.mark.parametrize("environ", [
    {},
    {"IFACE": ""},
    {"IFACE": "--all"},
    {"IFACE": "eth0", "ADDRFAM": "meta"},
    {"IFACE": "lo"},
    {"IFACE": "eth0", "MODE": "stop"},
])
def test_what_is_none_of_ours(environ):
    assert read_environment("up", environ).problem


def test_the_directory_says_what_is_done_and_the_mode_must_agree():
    for phase, mode in MODES.items():
        other = "stop" if mode == "start" else "start"
        assert read_environment(phase, {"IFACE": "eth0"}).problem == ""
        assert read_environment(phase, {"IFACE": "eth0", "MODE": mode, "PHASE": "nonsense"}).problem == ""
        assert f"MODE={other}" in read_environment(phase, {"IFACE": "eth0", "MODE": other}).problem


@pytest.mark.parametrize("iface", [
    "/etc/passwd", "../records", "..", ".", ".eth0.new", "-a", "a b", "a\tb", "a\nb", "a\0b", "a\x1bb", "caf\udce9",
    "x" * 65, "-",
])  # fmt: skip
def test_a_name_that_could_leave_the_directory_of_records_is_refused(iface):
    assert not is_name(iface)
    assert start(IFACE=iface).problem == "not the name of an interface"


@pytest.mark.parametrize("iface", ["eth0", "eth0:1", "wlx00c0ca123456", "br-lan.7", "enp0s31f6", "a@b", "é", "x" * 64])
def test_a_name_that_the_kernel_takes_is_taken(iface):
    assert is_name(iface)
    assert start(IFACE=iface).problem == ""


def test_an_alias_has_the_device_of_its_interface():
    assert device_of("eth0:1") == "eth0"
    assert device_of("eth0") == "eth0"


@pytest.mark.parametrize("value, verbose", [("1", True), ("0", False), ("", False)])
def test_verbosity(value, verbose):
    assert start(VERBOSITY=value).verbose is verbose
    assert start().verbose is False


def test_only_our_options_and_evidence_are_kept():
    invocation = start(
        IF_ADDRESS="192.0.2.1",
        IF_DNS_SEARCH="a.example",
        IF_DNS_DOMAIN="b.example",
        IF_DNS_NAMESERVER="192.0.2.3",
        IF_DNS_OTHER="x",
        IF_NETCONF_VPN="openvpn corp",
        IF_NETCONFIG="x",
        NETCONF_VPN="unit other",
    )
    assert invocation.options == {
        "dns-search": "a.example",
        "dns-domain": "b.example",
        "dns-nameserver": "192.0.2.3",
        "netconf-vpn": "openvpn corp",
    }


# Which run of ifup it is

TOLD = {"IFACE": "eth0:1", "LOGICAL": "eth0:1", "ADDRFAM": "inet"}


def write_process(proc, pid, name, parent, began):
    """Write what proc(5) has of a process; its name may hold anything."""
    rest = " ".join(str(number) for number in range(5, 22))
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} {rest} {began} 23 24\n")


@pytest.mark.parametrize("program", ["ifup", "ifdown"])
def test_the_run_is_the_ifup_above_the_hook(tmp_path, monkeypatch, program):
    monkeypatch.setattr("os.getppid", lambda: 40)
    write_process(tmp_path, 40, "run-parts", 30, 900)
    write_process(tmp_path, 30, "sh) (x 1 2", 20, 800)
    write_process(tmp_path, 20, program, 10, 700)
    write_process(tmp_path, 10, "ifup", 1, 600)  # it raises this one for another
    assert ifenv.find_run(TOLD, str(tmp_path)) == "20:700"


def test_other_ifupdowns_have_no_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("os.getppid", lambda: 40)
    write_process(tmp_path, 40, "ifup", 1, 900)  # ifupdown2
    assert ifenv.find_run(TOLD, str(tmp_path)) == ""
    assert ifenv.find_run({"IFACE": "eth0", "PHASE": "up"}, "/nowhere") == ""  # ifupdown-ng


@pytest.mark.parametrize("stat", [None, "", "40 (run-parts", "40 (run-parts) S", "40 (run-parts) S x 5",
                                  "40 (run-parts) S 40 1"])
def test_what_proc_does_not_tell_is_an_unknown_run(tmp_path, monkeypatch, stat):
    monkeypatch.setattr("os.getppid", lambda: 40)
    if stat is not None:
        (tmp_path / "40").mkdir()
        (tmp_path / "40/stat").write_text(stat)
    assert ifenv.find_run(TOLD, str(tmp_path)) == UNKNOWN_RUN


def test_the_hook_is_told_its_run(monkeypatch):
    monkeypatch.setattr("netconf_hooks.stanzas.ifenv.find_run", lambda environ: "20:700")
    assert [read_environment(phase, {"IFACE": "eth0"}).run for phase in ("pre-up", "up", "down", "post-down")] == [
        "20:700", "20:700", "", ""
    ]


def test_a_hook_was_started_when_its_run_parts_was(tmp_path, monkeypatch):
    """Which may run hooks for long after the ifdown that has started it was killed."""
    monkeypatch.setattr("os.getppid", lambda: 40)
    assert ifenv.find_start(str(tmp_path)) == 0
    write_process(tmp_path, "self", "netconf-hooks", 40, 900)
    assert ifenv.find_start(str(tmp_path)) == 900
    write_process(tmp_path, 40, "ifup", 1, 700)  # ifupdown2
    assert ifenv.find_start(str(tmp_path)) == 900
    (tmp_path / "40/stat").write_text((tmp_path / "40/stat").read_text().replace("ifup", "run-parts"))
    assert ifenv.find_start(str(tmp_path)) == 700
    (tmp_path / "40/stat").write_text("40 (run-parts) S")
    assert ifenv.find_start(str(tmp_path)) == 900
    monkeypatch.setattr("netconf_hooks.stanzas.ifenv.find_start", lambda: 700)
    assert {read_environment(phase, {"IFACE": "eth0"}).began for phase in MODES} == {700}


# wpa_action


def test_wpa_action_has_a_lock_and_a_wpa_cli(tmp_path):
    assert not is_roaming("wlan0", str(tmp_path))
    (tmp_path / "wpa_action.wlan0.ifupdown").symlink_to("lock")
    assert not is_roaming("wlan0", str(tmp_path))  # wpa_action stop: wpa_cli ends first
    pid = tmp_path / "wpa_action.wlan0.pid"
    pid.write_text(f"{os.getpid()}\n")
    assert is_roaming("wlan0", str(tmp_path)) and is_roaming("wlan0:1", str(tmp_path))
    assert not is_roaming("wlan1", str(tmp_path))
    for text in ("", "x", str(2**22 + 1)):  # no pid is larger, proc(5), pid_max
        pid.write_text(text)
        assert not is_roaming("wlan0", str(tmp_path))
    pid.write_text(str(os.getpid()))
    (tmp_path / "wpa_action.wlan0.ifupdown").unlink()
    assert not is_roaming("wlan0", str(tmp_path))
    assert has_wpa_action("wlan0", str(tmp_path))
