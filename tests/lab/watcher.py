"""The watcher on the lab's laptop: its processes, and when it has nothing to do."""

from __future__ import annotations

import time

from netconf_hooks.watcher.watch import QUIET

from .lab import Lab
from .waiting import wait_until


def find_watchers(lab: Lab, children: bool = False) -> list[int]:
    """Return the pids of the watchers, or of their children."""
    running = [pid for pid, line in lab.laptop.processes().items() if line.endswith("netconf-hooks watch")]
    return [pid for pid in running if is_child(lab, pid) == children]


def is_child(lab: Lab, pid: int) -> bool:
    """Whether a process is one that a watcher has started to look or to act, or is gone."""
    return lab.laptop.run(["cat", f"/proc/{pid}/comm"], check=False).stdout != "netconf-hooks\n"


def count_switches(lab: Lab, pid: int) -> int:
    """Return how often a process has gone to sleep."""
    (line,) = (line for line in lab.laptop.read(f"/proc/{pid}/status").splitlines() if line.startswith("voluntary"))
    return int(line.split()[1])


def wait_for_watcher(lab: Lab) -> int:
    """Wait until the watcher runs and has nothing to do, nor any child of it, and return its pid."""
    # A second one ends at once, and what a watcher has started has its name for a moment.
    (pid,) = wait_until(lambda: found if len(found := find_watchers(lab)) == 1 else [], "the watcher to start")
    slept: tuple[int, float] = (-1, 0.0)

    def is_idle() -> bool:
        nonlocal slept
        switches = count_switches(lab, pid)
        busy = "poll" not in lab.laptop.read(f"/proc/{pid}/wchan") or find_watchers(lab, children=True)
        if busy or switches != slept[0]:
            slept = (switches, time.monotonic())
        return time.monotonic() > slept[1] + 2 * QUIET

    wait_until(is_idle, "the watcher to sleep")
    return pid


def stop_watcher(lab: Lab) -> None:
    """Kill the watcher."""
    lab.laptop.run(["kill", "-KILL", str(wait_for_watcher(lab))])
    wait_until(lambda: not find_watchers(lab), "the watcher to be gone")


def freeze(lab: Lab, pids: list[int]) -> None:
    """Stop processes, and wait until they have stopped.

    Until then one that waits for a lock may still take it, and then keeps everybody else waiting.
    """
    lab.laptop.run(["kill", "-STOP", *map(str, pids)])

    def have_stopped() -> bool:
        return all("State:\tT" in lab.laptop.read(f"/proc/{pid}/status") for pid in pids)

    wait_until(have_stopped, f"the processes {pids} to stop", 30)
