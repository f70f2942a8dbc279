"""Information about processes from /proc."""

from __future__ import annotations

import os


def read_start(pid: int, proc: str = "/proc") -> str:
    """Return when a process was started, in clock ticks since the boot, proc(5); empty if it has ended."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            # The program's name before may contain any character, even parentheses and blanks.
            return file.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""


def is_any_running(names: frozenset[str], proc: str = "/proc") -> bool:
    """Whether one of these programs runs, also as a Python script: by /proc/PID/cmdline, proc(5)."""
    for pid in os.listdir(proc):
        if pid.isdecimal():
            try:
                with open(f"{proc}/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                    program, *arguments = (word.rpartition("/")[2] for word in file.read(4096).split("\0"))
            except OSError:
                continue  # it has ended
            if program in names or (program.startswith("python3") and arguments[:1] and arguments[0] in names):
                return True
    return False
