"""programs: with real programs, since what a child inherits is the kernel's doing."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netconf_hooks.system import programs
from netconf_hooks.system.programs import ProgramError

WAITS = "tail -f /dev/null >/dev/null"
"""A shell command that does nothing and does not end (tail ends when its standard output is a pipe nobody reads)."""

# 32 and 33 are glibc's own, nptl(7): it lets nobody change what was inherited of them, and make may ignore one.
LIBC_SIGNALS = 0b11 << 31


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], timeout: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return condition()


@pytest.fixture
def burdened() -> Iterator[None]:
    """Be a parent with much to inherit: an open descriptor, an ignored and a blocked signal, a variable, a umask."""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    os.set_inheritable(writer, True)
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGINT})
    umask = os.umask(0o077)
    os.environ["IF_NETCONF_VPN"] = "openvpn corp"
    yield
    del os.environ["IF_NETCONF_VPN"]
    os.umask(umask)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGTERM, handler)
    os.close(reader)
    os.close(writer)


class TestRun:
    def test_returns_status_and_both_outputs_in_order(self) -> None:
        result = programs.run(["sh", "-c", "echo one; echo two >&2; echo three; exit 3"], 5)
        assert (result.status, result.output) == (3, "one\ntwo\nthree\n")

    def test_status_of_a_program_ended_by_a_signal_is_negative(self) -> None:
        assert programs.run(["sh", "-c", "kill -KILL $$"], 5).status == -signal.SIGKILL

    def test_an_argument_is_never_read_by_a_shell(self) -> None:
        assert programs.run(["echo", "$(id); `id` | id * \n"], 5).output == "$(id); `id` | id * \n\n"

    def test_standard_input_is_empty(self) -> None:
        assert programs.run(["cat"], 5).output == ""

    @pytest.mark.parametrize("text", ["add table inet x\n", "", "x" * 200_000])
    def test_standard_input_can_be_given(self, text: str) -> None:
        assert programs.run(["wc", "-c"], 5, text).output.strip() == str(len(text))

    def test_keeps_the_first_of_too_much_output_and_lets_the_program_end(self) -> None:
        result = programs.run(["sh", "-c", "echo begin; head -c 3000000 /dev/zero; exit 4"], 10)
        assert result.status == 4
        assert len(result.output) == programs.OUTPUT_LIMIT
        assert result.output.startswith("begin\n")

    def test_undecodable_output_is_replaced(self) -> None:
        assert programs.run(["printf", r"a\377b"], 5).output == "a\ufffdb"

    def test_environment_directory_and_umask_are_its_own(self, burdened: None) -> None:
        assert programs.run(["env"], 5).output.splitlines() == [f"{k}={v}" for k, v in programs.ENVIRONMENT.items()]
        assert programs.run(["pwd"], 5).output == "/\n"
        assert programs.run(["sh", "-c", "umask"], 5).output == "0022\n"

    def test_variables_are_added_but_replace_nothing(self) -> None:
        output = programs.run(["env"], 5, variables={"IFACE": "eth0", "PATH": "/tmp"}).output
        assert sorted(output.splitlines()) == sorted(
            ["IFACE=eth0", *(f"{key}={value}" for key, value in programs.ENVIRONMENT.items())]
        )

    def test_no_descriptor_is_inherited(self, burdened: None) -> None:
        # 3 is the directory that ls itself reads.
        assert programs.run(["ls", "/proc/self/fd"], 5).output.split() == ["0", "1", "2", "3"]

    def test_no_signal_is_blocked_or_ignored(self, burdened: None) -> None:
        output = programs.run(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"], 5).output
        assert [int(line.split()[1], 16) & ~LIBC_SIGNALS for line in output.splitlines()] == [0, 0]

    def test_it_has_a_session_of_its_own(self) -> None:
        result = programs.run(["sh", "-c", "cut -d' ' -f6 /proc/$$/stat; echo $$"], 5)
        session, pid = result.output.split()
        assert session == pid != str(os.getsid(0))

    def test_after_the_timeout_the_program_and_its_children_are_killed(self, tmp_path: Path) -> None:
        begin = time.monotonic()
        with pytest.raises(ProgramError, match=r"sh -c .*: not done after 0\.3 s, killed"):
            programs.run(["sh", "-c", f"{WAITS} & echo $! $$ >{tmp_path}/pids; wait"], 0.3)
        assert 0.3 <= time.monotonic() - begin < 3
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(pids) == 2
        assert wait_until(lambda: not any(map(is_running, pids)))

    def test_a_program_that_closed_its_output_must_still_end_in_time(self) -> None:
        with pytest.raises(ProgramError, match="killed"):
            programs.run(["sh", "-c", f"exec >/dev/null 2>&1; {WAITS}"], 0.2)

    def test_a_daemon_left_behind_with_our_pipe_is_not_waited_for(self) -> None:
        begin = time.monotonic()
        result = programs.run(["sh", "-c", f"{WAITS} & echo $!"], 20)
        try:
            assert time.monotonic() - begin < 5
            assert is_running(int(result.output))
        finally:
            os.kill(int(result.output), signal.SIGKILL)

    def test_a_daemon_that_goes_on_writing_is_not_waited_for(self, tmp_path: Path) -> None:
        begin = time.monotonic()
        programs.run(["sh", "-c", f"yes & echo $! > {tmp_path}/pid"], 60)
        pid = int(Path(tmp_path, "pid").read_text())
        assert wait_until(lambda: not is_running(pid)), "its pipe is gone"
        assert time.monotonic() - begin < 50

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["netconf-nonesuch", "x"], "netconf-nonesuch: no such program"),
            (["/proc"], "/proc: Permission denied"),
            (["echo", "a\0b"], "echo: embedded null byte"),
        ],
    )
    def test_a_program_that_cannot_start_is_named(self, argv: list[str], message: str) -> None:
        open_before = os.listdir("/proc/self/fd")
        with pytest.raises(ProgramError, match=f"^{message}$"):
            programs.run(argv, 5, "input")
        assert os.listdir("/proc/self/fd") == open_before


class TestSpawn:
    def test_it_leaves_no_child_behind(self) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        before = children.read_text()
        pid = programs.spawn(["true"])
        # Neither it nor what started it can become a zombie of ours.
        assert children.read_text() == before
        assert wait_until(lambda: not is_running(pid))

    @pytest.fixture
    def pid(self, burdened: None) -> Iterator[int]:
        pid = programs.spawn(["tail", "-f", "/dev/null"])
        yield pid
        os.kill(pid, signal.SIGKILL)

    def test_it_belongs_to_nobody_here(self, pid: int) -> None:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[1]) != os.getpid(), "its parent"
        assert int(fields[3]) == pid, "its session"

    def test_it_inherits_nothing(self, pid: int) -> None:
        assert wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"tail"))
        for number in "012":
            assert os.readlink(f"/proc/{pid}/fd/{number}") == "/dev/null"
        # tail opens /dev/null itself and may open an inotify descriptor; pipes could only be ours.
        links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        assert not [link for link in links if link.startswith("pipe:")]
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert [int(status[name], 16) & ~LIBC_SIGNALS for name in ("SigBlk", "SigIgn")] == [0, 0]
        assert b"IF_NETCONF" not in Path(f"/proc/{pid}/environ").read_bytes()

    def test_a_missing_program_is_named(self) -> None:
        with pytest.raises(ProgramError, match="^netconf-nonesuch: no such program$"):
            programs.spawn(["netconf-nonesuch"])


def test_no_run_pays_for_the_import_of_subprocess_or_signal() -> None:
    code = "import sys; from netconf_hooks.system.programs import run; print(run(['true'], 9).status, *sys.modules)"
    root = Path(programs.__file__).parents[2]
    argv = [sys.executable, "-ISc", f"import sys; sys.path.append({str(root)!r}); {code}"]
    status, *modules = programs.run(argv, 10).output.split()
    assert status == "0"
    assert {"subprocess", "signal", "enum", "re", "threading"}.isdisjoint(modules)


def test_who_called_ifup_may_have_had_children_forgotten() -> None:
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert programs.run(["sh", "-c", "exit 3"], 5).status == 3
    finally:
        signal.signal(signal.SIGCHLD, handler)


# Beside which its caller does other things


def test_a_program_that_was_begun_tells_when_it_has_ended(tmp_path: Path) -> None:
    with programs.begin(["/bin/sh", "-c", f'echo "$IFACE" >{tmp_path}/out; exit 7'], {"IFACE": "eth0"}) as program:
        poll = select.poll()
        poll.register(program.fileno(), select.POLLIN)
        assert poll.poll(10_000)
        assert program.poll() == 7
    assert (tmp_path / "out").read_text() == "eth0\n"


def test_a_program_that_was_begun_ends_with_its_use() -> None:
    with programs.begin(["/usr/bin/tail", "-f", "/dev/null"]) as program:
        assert program.poll() is None
    assert program.poll() == -signal.SIGKILL


def test_a_program_that_can_not_be_begun() -> None:
    with pytest.raises(programs.ProgramError, match="no such program"):
        programs.begin(["/nonexistent"])


# Which leaves a daemon behind, as ifup does

# The daemon has the output of its parent, waits until the test writes to a FIFO, and then writes to that output.
DAEMON = """\
mkfifo {0}/go
(read go <{0}/go; trap '' USR1; echo told; echo $? >{0}/status.new; mv {0}/status.new {0}/status) &
echo up
exit 3
"""


def test_a_daemon_that_a_program_leaves_may_go_on_writing(tmp_path: Path) -> None:
    began = time.monotonic()
    result = programs.run(["/bin/sh", "-c", DAEMON.format(tmp_path)], 30, leaves=True)
    assert (result.status, result.output) == (3, "up\n")
    assert time.monotonic() - began < 20, "the daemon keeps nobody waiting"
    (tmp_path / "go").write_text("go\n")
    assert wait_until((tmp_path / "status").exists, 20), "SIGPIPE has ended the daemon"
    assert (tmp_path / "status").read_text() != "0\n", "what it writes is kept by nobody"


def test_of_much_output_the_end_is_kept() -> None:
    result = programs.run(["/bin/sh", "-c", "yes | head -n 100; echo end"], 10, limit=10, leaves=True)
    assert result.output == "y\ny\ny\nend\n"


def test_output_is_heard_line_by_line_while_the_program_runs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "heard")
    heard: list[str] = []

    def hear(line: str) -> None:
        heard.append(line)
        if line == "two":
            assert not (tmp_path / "ended").exists()
            (tmp_path / "heard").write_text("\n")

    script = f"printf 'one\\ntwo\\nth'; read x <{tmp_path}/heard; printf 'ree\\n\\377'; touch {tmp_path}/ended; exit 4"
    result = programs.run(["/bin/sh", "-c", script], 20, leaves=True, hear=hear)
    assert (result.status, heard) == (4, ["one", "two", "three", "\ufffd"])


def test_of_much_output_the_beginning_is_heard() -> None:
    heard: list[str] = []
    programs.run(["/bin/sh", "-c", "yes | head -n 100; echo end"], 10, limit=10, leaves=True, hear=heard.append)
    assert heard == 5 * ["y"]


def test_a_program_that_leaves_a_daemon_has_a_time_limit_too(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="not done after 0.2 s, killed"):
        programs.run(["/bin/sh", "-c", f"echo $$ >{tmp_path}/pid; {WAITS}"], 0.2, leaves=True)
    if (tmp_path / "pid").exists():
        assert not is_running(int((tmp_path / "pid").read_text() or 0))
