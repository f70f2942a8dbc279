"""What bash, zsh and fish complete of netconf-hooks: bash by the function itself, and by somebody who presses Tab."""

import argparse
import os
import pty
import select
import shutil
import subprocess
from pathlib import Path
from time import monotonic

import pytest

from netconf_hooks import cli

COMPLETION = Path(__file__).parents[2] / "debian/completions/netconf-hooks"

# Stands for bash itself, which calls the function with the words broken at colons; they are not looked at.
CALL = """
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
_netconf_hooks netconf-hooks
((${#COMPREPLY[@]})) && printf '%s\\n' "${COMPREPLY[@]}"
exit 0
"""


@pytest.fixture
def script(tmp_path):
    """The completion, with directories of the test's own written into it."""
    for name in ("eth0", "eth0:1", "lo", "wlan0"):
        (tmp_path / "net" / name).mkdir(parents=True)
    (tmp_path / "net/bonding_masters").write_text("")
    (tmp_path / "records").mkdir()
    (tmp_path / "records/corp").write_text("")
    (tmp_path / "interfaces").write_text(
        "iface lo inet loopback\n  iface roaming inet dhcp\n    NETCONF_Uplink wlan0\nauto x\nnetconf-uplink eth0\n"
        "iface eth0 inherits x"
    )
    (tmp_path / "tunnels").write_text(
        "netconf-hooks 1\nopenvpn\tcorp\tup\tdone\twanted\t\t\nunit\tbackup.timer\tdown\tdone\tno\t\t\n"
    )
    (tmp_path / "held").write_text("netconf-hooks held 1\nopenvpn corp 0\nwireguard home 0\n")
    (tmp_path / "interfaces.d/sub").mkdir(parents=True)
    (tmp_path / "interfaces.d/more").write_text(
        "iface $(touch${IFS}hit) inet manual\niface dsl inet ppp\niface corp\tinet manual\n\tnetconf-uplink eth0 dsl"
    )
    return move(COMPLETION, tmp_path)


def move(completion, directory):
    """Write a completion that reads the directories of the test; return its path."""
    text = completion.read_text()
    for old, new in {
        "/sys/class/net": "net", "/run/netconf-hooks/interfaces": "records",
        "/run/netconf-hooks/tunnels": "tunnels", "/var/lib/netconf-hooks/held": "held",
        "/etc/network/interfaces.d": "interfaces.d", "/etc/network/interfaces": "interfaces",
    }.items():  # fmt: skip
        assert old in text
        text = text.replace(old, str(directory / new))
    path = directory / f"completion-{completion.name}"
    path.write_text(text)
    return path


@pytest.fixture
def complete(script, tmp_path):
    """A function that returns what is offered for a line."""

    def run(line):
        argv = ["bash", "--norc", "--noprofile", "-c", f". {script}\n{CALL}", "bash", line]
        process = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=20)
        assert (process.returncode, process.stderr) == (0, "")
        return process.stdout.splitlines()

    return run


def list_options(parser):
    return {option for action in parser._actions for option in action.option_strings}


def test_every_command_and_every_option_is_offered(complete):
    parser = cli._make_parser()
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    offered = complete("netconf-hooks ")
    assert sorted(offered) == sorted(commands.choices)
    assert set(complete("netconf-hooks -")) == list_options(parser)
    for name, command in commands.choices.items():
        assert set(complete(f"netconf-hooks -v {name} -")) == list_options(command), name


@pytest.mark.parametrize("line, offered", [
    ("netconf-hooks re", ["refresh", "release"]),
    ("netconf-hooks --verbose sta", ["status"]),
    ("netconf-hooks hold ", ["openvpn", "unit"]),
    ("netconf-hooks hold openvpn ", ["corp"]),
    ("netconf-hooks hold openvpn corp --for ", ["30m", "2h", "8h", "1d"]),
    ("netconf-hooks unhold ", ["openvpn", "wireguard"]),
    ("netconf-hooks -v unhold wireguard h", ["home"]),
    ("netconf-hooks unhold ipsec ", []),
    ("netconf-hooks --v", ["--verbose"]),
    ("netconf-hooks probe ", ["corp", "eth0", "eth0:1", "wlan0"]),
    ("netconf-hooks location  w", ["wlan0"]),
    ("netconf-hooks refresh eth0 w", ["wlan0"]),
    ("netconf-hooks refresh wlan0 eth0:", ["1"]),
    ("netconf-hooks close ", []),
    ("netconf-hooks want ", ["corp", "roaming"]),
    ("netconf-hooks unwant c", ["corp"]),
    ("netconf-hooks probe eth0:1", ["1"]),
    ("netconf-hooks explain --json ro", ["roaming"]),
    ("netconf-hooks check d", ["dsl"]),
    ("netconf-hooks plan --json eth0 ro", ["roaming"]),
    ("netconf-hooks check $", ["$(touch${IFS}hit)"]),
    ("netconf-hooks release x", []),
    ("netconf-hooks portal --for ", ["1m", "5m", "15m", "1h"]),
    ("netconf-hooks portal --for 5m ", ["corp", "eth0", "eth0:1", "wlan0"]),
    ("netconf-hooks explain --as interf", ["interfaces", "interfaces.d"]),
    ("netconf-hooks explain --as interfaces e", ["eth0", "eth0:1"]),
    ("netconf-hooks import-whereami interf", ["interfaces", "interfaces.d"]),
    ("netconf-hooks status ", []),
    ("netconf-hooks status --color ", ["auto", "always", "never"]),
    ("netconf-hooks monitor eth", []),
    ("netconf-hooks nonsense ", []),
])
def test_what_is_offered(complete, tmp_path, line, offered):
    assert sorted(complete(line)) == sorted(offered)
    assert not (tmp_path / "hit").exists()


def read_until(terminal, wanted, seconds=20.0):
    """Return what a terminal shows until `wanted` is part of it."""
    shown, deadline = b"", monotonic() + seconds
    while wanted not in shown.replace(b" \x08", b""):  # zsh takes back the blank after a word
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - monotonic()))
        assert ready, f"{wanted!r} does not appear in {shown!r}"
        shown += os.read(terminal, 4096)
    return shown


def test_somebody_presses_tab(script):
    terminal, child_end = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=child_end, stdout=child_end, stderr=child_end,
        env={"PATH": os.environ["PATH"], "PS1": "> ", "INPUTRC": "/dev/null", "TERM": "dumb"}, start_new_session=True,
    )  # fmt: skip
    os.close(child_end)
    try:
        os.write(terminal, f". {script}; PS1='re''ady> '\n".encode())
        read_until(terminal, b"\nready> ")
        os.write(terminal, b"netconf-hooks prob\twl\t")
        read_until(terminal, b"netconf-hooks probe wlan0 ")
        os.write(terminal, b"\x15netconf-hooks refresh eth0:\t")
        read_until(terminal, b"netconf-hooks refresh eth0:1 ")
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)


# fish and zsh


def find_shell(name):
    """Return a shell's path; skips if it is not installed."""
    path = shutil.which(name)
    if not path:
        assert os.environ.get("CI") != "true", f"{name} is not installed"
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture
def complete_in_fish(script, tmp_path):
    """A function that returns what fish offers for a line."""
    shell = find_shell("fish")
    path = move(COMPLETION.parent / "netconf-hooks.fish", tmp_path)

    def run(line):
        argv = [shell, "--no-config", "-c", f"source {path}; complete -C $argv[1]", line]
        environ = {**os.environ, "HOME": str(tmp_path)}
        process = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=30)
        assert (process.returncode, process.stderr) == (0, "")
        return [offered.partition("\t")[0] for offered in process.stdout.splitlines()]

    return run


def test_fish_offers_every_command_and_every_option(complete_in_fish):
    parser = cli._make_parser()
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert sorted(complete_in_fish("netconf-hooks ")) == sorted(commands.choices)
    assert set(complete_in_fish("netconf-hooks -")) == list_options(parser)
    for name, command in commands.choices.items():
        offered = set(complete_in_fish(f"netconf-hooks -v {name} --"))
        assert offered == {option for option in list_options(command) if option.startswith("--")}, name


@pytest.mark.parametrize("line, offered", [
    ("netconf-hooks re", ["refresh", "release"]),
    ("netconf-hooks probe ", ["corp", "eth0", "eth0:1", "wlan0"]),
    ("netconf-hooks check d", ["dsl"]),
    ("netconf-hooks plan ro", ["roaming"]),
    ("netconf-hooks hold ", ["openvpn", "unit"]),
    ("netconf-hooks hold openvpn ", ["corp"]),
    ("netconf-hooks unhold ", ["openvpn", "wireguard"]),
    ("netconf-hooks hold openvpn corp --for ", ["30m", "2h", "8h", "1d"]),
    ("netconf-hooks status --color ", ["auto", "always", "never"]),
    ("netconf-hooks close ", []),
    ("netconf-hooks want ", ["corp", "roaming"]),
    ("netconf-hooks unwant c", ["corp"]),
])
def test_what_fish_offers(complete_in_fish, tmp_path, line, offered):
    assert sorted(complete_in_fish(line)) == sorted(offered)
    assert not (tmp_path / "hit").exists()


TABS = {
    "netconf-hooks import\t": "netconf-hooks import-whereami ",
    "netconf-hooks prob\twl\t": "netconf-hooks probe wlan0 ",
    "netconf-hooks refresh eth0:\t": "netconf-hooks refresh eth0:1 ",
    "netconf-hooks want c\t": "netconf-hooks want corp ",
    "netconf-hooks unwant roa\t": "netconf-hooks unwant roaming ",
    "netconf-hooks check ds\t": "netconf-hooks check dsl ",
    "netconf-hooks unhold wire\tho\t": "netconf-hooks unhold wireguard home ",
    "netconf-hooks status --col\tne\t": "netconf-hooks status --color never ",
    "netconf-hooks hold openvpn corp --for 3\t": "netconf-hooks hold openvpn corp --for 30m ",
}


def test_somebody_presses_tab_in_zsh(script, tmp_path):
    shell = find_shell("zsh")
    functions = tmp_path / "functions"
    functions.mkdir()
    move(COMPLETION.parent / "_netconf-hooks", tmp_path).rename(functions / "_netconf-hooks")
    terminal, child_end = pty.openpty()
    environ = {**os.environ, "PS1": "> ", "TERM": "dumb", "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path)}
    running = subprocess.Popen(
        [shell, "-f", "-i"], stdin=child_end, stdout=child_end, stderr=child_end, env=environ, start_new_session=True,
    )  # fmt: skip
    os.close(child_end)
    try:
        setup = f"fpath=({functions} ${{ZSH_FUNCTIONS:+$ZSH_FUNCTIONS/*(/)}} $fpath); autoload -Uz compinit"
        os.write(terminal, f"{setup}; compinit -D -u; PS1='re''ady> '\n".encode())
        read_until(terminal, b"ready> ")
        for typed, shown in TABS.items():
            os.write(terminal, b"\x15" + typed.encode())
            read_until(terminal, shown.encode())
    finally:
        running.kill()
        running.wait()
        os.close(terminal)
