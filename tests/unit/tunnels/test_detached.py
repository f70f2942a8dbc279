"""detached: programs that may block, and the end of the system, without systemd."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from netconf_hooks.system import log, programs
from netconf_hooks.system.detached import is_halting, launch


def describe(result: programs.Result) -> str:
    return f"{result.status}: {result.output.strip()}" if result.status else ""


def write_script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def wait_for(path: Path) -> str:
    """Wait until a file has something in it, and return that."""
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} never came"
        threading.Event().wait(0.01)
    return path.read_text()


def test_what_works_is_waited_for(tmp_path: Path) -> None:
    assert launch("x", [write_script(tmp_path / "works", f"echo done >{tmp_path}/file")], describe) == ""
    assert (tmp_path / "file").read_text() == "done\n"


def test_what_fails_at_once_is_an_error(tmp_path: Path) -> None:
    assert launch("x", [write_script(tmp_path / "fails", "echo no good; exit 3")], describe) == "3: no good"
    assert launch("x", ["/nonexistent/program"], describe) == "/nonexistent/program: no such program"


def test_what_takes_long_goes_on_without_us_and_its_failure_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    said = tmp_path / "said"
    # In the copy that waits for the program; standard error is nobody's by then.
    monkeypatch.setattr(log, "error", lambda message: said.write_text(f"{message}\n"))
    began = time.monotonic()
    assert not launch("x y", [write_script(tmp_path / "waits", f"cat {tmp_path}/fifo; exit 4")], describe, patience=0.1)
    assert time.monotonic() - began < 5
    with open(tmp_path / "fifo", "w", encoding="ascii") as fifo:
        fifo.write("late\n")
    assert wait_for(said) == "x y: 4: late\n"


def test_it_is_killed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    script = write_script(tmp_path / "hangs", f"exec cat {tmp_path}/fifo")
    assert "hangs: not done after 0.2 s, killed" in launch("x", [script], describe, limit=0.2)


def read_group(pid: str, directory: Path) -> set[str]:
    """Return process group and session of a process from the copy of its /proc/PID/stat (proc(5)): fields 5 and 6."""
    return set((directory / f"{pid}.stat").read_text().rpartition(")")[2].split()[2:4])


def test_it_shares_nothing_with_the_caller(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    # The program's own process, and its parent, which waits for it.
    script = write_script(
        tmp_path / "tells",
        f"cd {tmp_path}; for pid in $$ $PPID; do cat /proc/$pid/stat >$pid.stat; ls -l /proc/$pid/fd; done >opened; "
        "echo $$ $PPID >pids",
    )
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with open(tmp_path / "lock", "rb"):
            assert launch("x", [script], describe) == ""
    finally:
        signal.signal(signal.SIGTERM, before)
    own, parent = (tmp_path / "pids").read_text().split()
    ours = {str(os.getsid(0)), str(os.getpgrp())}
    assert ours.isdisjoint(read_group(own, tmp_path)) and ours.isdisjoint(read_group(parent, tmp_path))
    opened = (tmp_path / "opened").read_text()
    assert opened.count(" 0 -> ") == 2 and str(tmp_path / "lock") not in opened
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()), "no signal stays blocked here"


@pytest.mark.parametrize(
    ("said", "halting"), [("N 2", False), ("2 0", True), ("2 6", True), ("unknown", False), ("", False)]
)
def test_is_halting(tmp_path: Path, said: str, halting: bool) -> None:
    assert is_halting(write_script(tmp_path / "runlevel", f"echo {said}")) is halting


def test_without_runlevel_nothing_halts() -> None:
    assert is_halting("/nonexistent/runlevel") is False
