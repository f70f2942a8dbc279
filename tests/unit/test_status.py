"""netconf-hooks status at a glance: how long it has been so, colours, and the command that helps."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from office import AT_OFFICE, CORP, OFFICE, tidy
from situations import make_record

from netconf_hooks.commands import status, unprivileged
from netconf_hooks.commands.status import BROKEN, FINE, QUIET, Row, WAITING, format_age, format_rows, wants_colour
from netconf_hooks.state import GuardRecord, Pass, TunnelRecord, TunnelState
from netconf_hooks.tunnels.held import hold


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """Any user asks: of guards, the records say what they are."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)


GUARD = GuardRecord("eth0", "nftables", "closed", "eth0 is at an unknown place", (), done=True)


@pytest.mark.parametrize("seconds, words", [
    (-1, "0 s"), (0, "0 s"), (59.9, "60 s"), (60, "1 min"), (7199, "119 min"), (7200, "2 h"), (48 * 3600, "2 d"),
    (47 * 3600, "47 h"),
])
def test_durations(seconds, words):
    assert format_age(seconds) == words


ROWS = [
    Row("eth0", "office", FINE, 40.0, "proven"),
    Row("guard of wlan0", "closed", WAITING, 0.0, "", "netconf-hooks portal wlan0", ["a note\x1b"]),
    Row("unit x", "not connected", BROKEN, 99.0, "should be up"),
    Row("unit y", "not known", QUIET),
]


def test_rows_are_aligned():
    assert format_rows(ROWS, False, 100.0) == [
        "eth0            office         1 min  proven",
        "guard of wlan0  closed                try: netconf-hooks portal wlan0",
        "    a note\\x1b",
        "unit x          not connected    1 s  should be up",
        "unit y          not known",
    ]


def test_colours_change_no_column():
    coloured = format_rows(ROWS, True, 100.0)
    assert coloured[0] == "eth0            \x1b[32moffice\x1b[0m         1 min  proven"
    assert [line.replace("\x1b[32m", "").replace("\x1b[33m", "").replace("\x1b[31m", "").replace("\x1b[0m", "")
            for line in coloured] == format_rows(ROWS, False, 100.0)  # fmt: skip
    assert sum("\x1b[" in line for line in coloured) == 3


def test_without_ages_there_is_no_column_for_them():
    assert format_rows([Row("eth0", "office", FINE, 0.0, "proven")], False, 9.0) == ["eth0  office  proven"]


@pytest.mark.parametrize("when, environ, terminal, expected", [
    ("auto", {"TERM": "xterm"}, True, True),
    ("auto", {"TERM": "xterm"}, False, False),
    ("auto", {"TERM": "dumb"}, True, False),
    ("auto", {}, True, False),
    ("auto", {"TERM": "xterm", "NO_COLOR": "1"}, True, False),
    ("auto", {"TERM": "xterm", "NO_COLOR": ""}, True, True),
    ("always", {"NO_COLOR": "1"}, False, True),
    ("never", {"TERM": "xterm"}, True, False),
])
def test_when_there_are_colours(monkeypatch, when, environ, terminal, expected):
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(sys, "stdout", type("Output", (), {"isatty": lambda self: terminal})())
    assert wants_colour(when) is expected


def test_a_terminal_gets_colours(command, at_office):
    assert "\x1b[32moffice\x1b[0m" in command("status", "--color", "always")[1]
    assert "\x1b" not in command("status", "--color", "never")[1]
    assert "\x1b" not in command("status")[1]


def test_a_colour_that_is_not_one(command, capfd):
    with pytest.raises(SystemExit) as left:
        command("status", "--color", "red")
    assert left.value.code == 2
    complaint = capfd.readouterr().err
    assert complaint.startswith("netconf-hooks: status: argument --color: invalid choice: 'red'")
    assert complaint.count("\n") == 1


def set_clock(monkeypatch, seconds):
    monkeypatch.setattr("netconf_hooks.state.boot_time", lambda: seconds)
    monkeypatch.setattr(status, "boot_time", lambda: seconds)


def test_how_long_it_has_been_so(command, at_office, store, links, monkeypatch):
    """Records are written again and again; only what they say of the state begins anew."""
    at_cafe = AT_OFFICE.change(place=AT_OFFICE.place.change(location="", line="", grade=""))
    set_clock(monkeypatch, 1000.0)
    store.write_interface(at_cafe)
    store.write_guard(GUARD)
    store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "wanted", True)})
    set_clock(monkeypatch, 1100.0)
    store.write_interface(at_cafe.change(observation=at_cafe.observation.change(observed_at=77.0)))
    store.write_guard(GUARD.change(because="another reason", token="x"))
    store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "wanted still", True)})
    set_clock(monkeypatch, 1240.0)
    ages = {line[:12].strip(): line.split("  ") for line in command("status")[1].splitlines()}
    assert all("4 min" in [word.strip() for word in words] for words in ages.values()), ages
    assert len(ages) == 3
    store.write_interface(AT_OFFICE)
    store.write_guard(GUARD.change(verdict="open", opened=True))
    store.write_tunnels({CORP: TunnelRecord(*CORP, "down", "not here", True)})
    set_clock(monkeypatch, 1241.0)
    assert [line.split("  ")[-2].strip() for line in command("status")[1].splitlines()] == ["1 s", "1 s", "1 s"]


def test_since_when_is_not_known_of_records_from_before_an_upgrade(command, at_office, store):
    for path in (Path(store.interfaces, "eth0"), Path(store.tunnels)):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("since")]
        path.write_text("\n".join(line.rpartition("\t")[0] if "\t" in line else line for line in lines) + "\n")
    assert command("status")[1].startswith("eth0          office         by hints: ")


def write_tunnel(store, state=None, **facts):
    store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "wanted anywhere", True).change(**facts)})
    store.write_states([state] if state else [])


def test_what_a_tunnel_waits_for(command, at_office, store, monkeypatch):
    set_clock(monkeypatch, 1000.0)
    write_tunnel(store, TunnelState(*CORP, words="no answer from vpn.example.com", since=960.0))
    assert tidy(command("status")[1]).splitlines()[1] == (
        "openvpn corp not connected should be up: wanted anywhere; waits: no answer from vpn.example.com for 40 s"
    )


@pytest.mark.parametrize("routable, tunnel_up, portal, expected", [
    (True, False, 0.0, True), (False, False, 0.0, False), (True, True, 0.0, False), (True, False, 9e9, False),
])
def test_a_portal_is_offered_where_it_may_help(
    command, at_office, store, tunnel, routable, tunnel_up, portal, expected
):
    store.write_interface(AT_OFFICE.change(observation=AT_OFFICE.observation.change(routable=routable)))
    write_tunnel(store)
    tunnel.up["openvpn corp"] = tunnel_up
    store.write_guard(GUARD.change(portal_until=portal))
    offered = "; try: sudo netconf-hooks portal eth0\n" in command("status")[1]
    assert offered == expected


def test_where_polkit_is_asked_no_sudo_is_offered(command, at_office, store, tunnel, monkeypatch):
    hold("openvpn", "corp")
    offered = "try: {}netconf-hooks unhold openvpn corp\n"
    monkeypatch.setattr(unprivileged, "PKEXEC", "/bin/sh")
    monkeypatch.setattr(unprivileged, "BOOTED", "/")
    for uid, sudo in ((0, "sudo "), (1000, "")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert offered.format(sudo) in tidy(command("status")[1])
    monkeypatch.setattr(unprivileged, "PKEXEC", "/nowhere")
    assert offered.format("sudo ") in tidy(command("status")[1])


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("uid, words", [(65534, "connected"), (0, "not known")])
def test_what_a_user_may_not_ask_the_watcher_has_written(
    command, at_office, store, tunnel, monkeypatch, uid, words, held
):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    write_tunnel(store)
    tunnel.up["openvpn corp"] = None
    store.write_states([TunnelState(*CORP, up_since=0.0 if held else 1.0)])
    store.write_held_states([TunnelState(*CORP, up_since=1.0)])
    if held:
        hold(*CORP)
    assert f"openvpn corp {words} " in tidy(command("status")[1])


def test_the_command_that_helps(command, at_office, store, tunnel):
    store.write_guard(GUARD.change(verdict="released", opened=True))
    assert "try: sudo ifup --force eth0" in command("status")[1]
    tunnel.up["openvpn corp"] = True
    write_tunnel(store, verdict="down")
    assert "openvpn corp connected should be down: wanted anywhere; try: sudo netconf-hooks refresh" in (
        tidy(command("status")[1])
    )


def test_what_is_fine_needs_no_help(command, at_office):
    assert "try:" not in command("status")[1]


def test_a_wish(command, store, links):
    store.prepare()
    passes = (Pass("inet", {"netconf-vpn": "openvpn corp", "netconf-uplink": "eth0"}, "corp", "corp"),)
    store.write_interface(make_record("corp", 0, passes, wish=True, raised=("wlan0",)))
    assert tidy(command("status")[1]) == "corp a wish wlan0 came up for it\n"


COMMAND = f"""
import sys
sys.path += [{str(Path(__file__).parents[2])!r}, "/usr/lib/python3/dist-packages"]
from netconf_hooks import cli, state
state.Store.__init__.__defaults__ = (sys.argv.pop(1),)
sys.exit(cli.main())
"""


@pytest.mark.parametrize("environ, coloured", [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)])
def test_on_a_real_terminal(store, environ, coloured):
    store.prepare()
    store.write_interface(make_record("lo:1", 1, (), "office", OFFICE, "hint"))
    terminal, end = pty.openpty()
    try:
        argv = [sys.executable, "-I", "-c", COMMAND, store.directory, "status"]
        subprocess.run(argv, stdout=end, env={"PATH": os.environ["PATH"], **environ}, timeout=30, check=True)
        shown = os.read(terminal, 4096)
    finally:
        os.close(terminal)
        os.close(end)
    assert b"office" in shown
    assert (b"\x1b[" in shown) == (coloured and b"does not count" not in shown)
