"""What the admin has written, run by the watcher: in a unit of its own, as if it was run by a hook."""

import os
import select

import pytest

from netconf_hooks.system import apart, programs
from netconf_hooks.system.programs import ProgramError, ProgramLate
from tests.lab.waiting import wait_until

# As systemd-run does, but without a unit: it notes its options and the values of the variables that it passes on.
FAKE = """\
#!/bin/sh
for word; do
    [ "$word" != -- ] || break
    echo "$word" >>{notes}
    case $word in --setenv=*) eval "echo \\"\\$${{word#*=}}\\"" >>{notes} ;; esac
    shift
done
shift
{then}exec "$@"
"""


@pytest.fixture
def watcher(tmp_path, monkeypatch):
    """This process seems to be a child of the watcher; a function that returns what systemd-run was told.

    Its attribute `install` writes it anew.
    """
    group, notes, program = tmp_path / "cgroup", tmp_path / "notes", tmp_path / "systemd-run"
    group.write_text("0::/system.slice/netconf-hooks-watch.service\n")
    monkeypatch.setattr(apart, "CGROUP", str(group))
    monkeypatch.setattr(apart, "BUS", str(group))
    monkeypatch.setattr(apart, "PROGRAM", str(program))

    def install(then=""):
        program.write_text(FAKE.format(notes=notes, then=then))
        program.chmod(0o755)

    def read():
        return notes.read_text().splitlines() if notes.exists() else []

    install()
    read.install = install
    return read


def write(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def wait(running):
    poll = select.poll()
    poll.register(running.fileno(), select.POLLIN)
    assert poll.poll(10000)


def test_a_hook_needs_no_unit(watcher, tmp_path, monkeypatch):
    script = write(tmp_path / "script", 'echo "$1 $IFACE"; exit 3')
    for group in ("0::/system.slice/ifup@eth0.service\n", "0::/user.slice/user-0.slice/session-1.scope\n"):
        (tmp_path / "cgroup").write_text(group)
        assert apart.run([script, "x"], 10, {"IFACE": "eth0"}) == programs.Result(3, "x eth0\n")
        with apart.begin([script], 10) as running:
            wait(running)
            assert running.read_status() == 3
    assert watcher() == []


def test_without_d_bus_it_is_our_child(watcher, tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "BUS", "/nowhere")
    assert apart.run([write(tmp_path / "script", "echo x")], 10) == programs.Result(0, "x\n")
    assert watcher() == []


def test_its_output_status_and_variables(watcher, tmp_path):
    script = write(tmp_path / "script", 'echo "$1 $IFACE"; echo error >&2; exit 3')
    assert apart.run([script, "office-connected"], 10, {"IFACE": "eth0 x"}) == programs.Result(
        3, "office-connected eth0 x\nerror\n"
    )
    said = watcher()
    assert said[said.index("--setenv=IFACE") + 1] == "eth0 x"
    assert said[said.index("--setenv=PATH") + 1] == programs.ENVIRONMENT["PATH"]
    assert "--setenv=LC_ALL" in said
    assert {"--wait", "--pipe", "--collect", "--property=KillMode=process", "--property=IgnoreSIGPIPE=no"} <= set(said)
    assert "--property=RuntimeMaxSec=15" in said


@pytest.mark.parametrize("text, status", [("exit 0", 0), ("exit 1", 1), ("kill -TERM $$", 143), ("exit 255", 255)])
def test_a_status(watcher, tmp_path, text, status):
    """A signal is no success, though systemd-run takes some for one."""
    script = write(tmp_path / "script", f"echo 7; {text}")
    assert apart.run([script], 10).status == status
    with apart.begin([script], 10, {"IFACE": "eth0"}) as running:
        wait(running)
        assert running.read_status() == status
    assert len(watcher()) > 10


@pytest.mark.parametrize("then", ["echo 'Failed to connect to bus' >&2; exit 1\n", "exit 0\n", "exit 1\n"])
def test_no_unit_is_no_answer(watcher, tmp_path, then):
    """The test does not say no, which "!command=" would take for a yes."""
    watcher.install(then)
    with apart.begin([write(tmp_path / "script", "exit 1")], 10) as running:
        wait(running)
        with pytest.raises(ProgramError, match="systemd-run: "):
            running.read_status()


def test_no_systemd_run(watcher, tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "PROGRAM", "/nowhere")
    before = len(os.listdir("/proc/self/fd"))
    for start in (apart.begin, apart.run):
        with pytest.raises(ProgramError, match="/nowhere"):
            start([write(tmp_path / "script", "exit 0")], 10)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_takes_too_long_is_killed(watcher, tmp_path, monkeypatch):
    """All of it: systemd kills the unit, we kill systemd-run."""
    killed = []
    real = programs.run

    def run(argv, timeout, **more):
        if argv[0] == "systemctl":
            killed.append(argv[-1])
            return programs.Result(0, "")
        return real(argv, timeout, **more)

    monkeypatch.setattr(programs, "run", run)
    script = write(tmp_path / "script", "exec sleep 60")
    with pytest.raises(ProgramLate, match=r"^\S+/script x: not done after 0.2 s, killed$"):
        apart.run([script, "x"], 0.2)
    with apart.begin([script], 60) as running:
        wait_until(lambda: len([word for word in watcher() if word.startswith("--unit=")]) == 2, "systemd-run")
        assert running.read_status() is None
    assert killed == [word.partition("=")[2] for word in watcher() if word.startswith("--unit=")]
    assert len(set(killed)) == 2
