"""Processes, as /proc shows them."""

from __future__ import annotations


def read_start(pid: int, proc: str = "/proc") -> str:
    """Return when a process was started, in clock ticks since the boot, proc(5); empty if it has ended."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            # The name before may hold anything, parentheses and blanks as well.
            return file.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""
