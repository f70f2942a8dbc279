"""The watcher's children: each does one slow task and has a deadline.  The watcher never waits for a child."""

from __future__ import annotations

import os
from time import monotonic

from netconf_hooks.system import log
from netconf_hooks.system.ending import Ending, leave_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
else:
    import _signal as signal  # the module signal itself imports enum

# Seconds from SIGTERM to SIGKILL, and from SIGKILL until a child counts as one that can't be killed.
PATIENCE = 2.0

NAME = "netconf-child"


class Child:
    """A process forked from this one, which does `work` in a process group of its own and ends.

    what: its task, for the log; limit: its time in seconds, which starts again whenever it reports something.
    work: gets a function that reports a line.  descriptors: of this process, which the child closes.

    `fileno` is readable when the child has ended.  Raises OSError if it can't be forked.
    """

    def __init__(
        self, what: str, limit: float, work: Callable[[Callable[[str], None]], None], descriptors: Iterable[int]
    ) -> None:
        self.what = what
        self.pid = 0
        self._limit = limit
        self._report = os.memfd_create("report")
        self._reported = 0
        self.pid = os.fork()
        if self.pid == 0:
            self._run(work, descriptors)
        self._descriptor = os.pidfd_open(self.pid)
        self.next_time = monotonic() + limit
        """When `keep_time` has to be called, time.monotonic()."""
        self._orders = [(signal.SIGTERM, "SIGTERM"), (signal.SIGKILL, "SIGKILL")]
        self.is_abandoned = False
        """Whether even SIGKILL did not end it."""
        self.failed = False
        """Whether it was stopped, or failed."""

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._descriptor

    def has_ended(self) -> bool:
        """Return whether it has ended; if so, reap it."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        self.failed = self.failed or bool(pid and status)
        return bool(pid)

    def read_report(self) -> list[str]:
        """Return the lines that it has reported."""
        return os.pread(self._report, os.fstat(self._report).st_size, 0).decode("ascii").splitlines()

    def keep_time(self) -> None:
        """When its time is over: first terminate it, then kill it, then abandon it."""
        now = monotonic()
        if now < self.next_time:
            return
        reported = os.fstat(self._report).st_size
        if reported > self._reported and not self.failed:
            self._reported = reported
            self.next_time = now + self._limit
            return
        if not self._orders:
            self.is_abandoned = True
            log.error(f"watch: process {self.pid}, which should {self.what}, can't be killed; the next one starts")
            return
        number, name = self._orders.pop(0)
        log.error(f"watch: process {self.pid} could not {self.what} in {self._limit:g} s: {name}")
        self.failed = True
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass  # it has just ended, or has not created its group yet
        self.next_time = now + PATIENCE

    def close(self) -> None:
        """Close the descriptors; the process is not touched."""
        os.close(self._descriptor)
        os.close(self._report)

    def _run(self, work: Callable[[Callable[[str], None]], None], descriptors: Iterable[int]) -> None:
        """Run as the child: the watcher's code must not continue in it."""

        def work_as_child(ending: Ending) -> int:
            log.set_waiting(True)
            os.setsid()
            if os.sched_getscheduler(0) == os.SCHED_RR:
                # The child's work is slow and must not have real-time priority: sched(7).
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            with open("/proc/self/comm", "w", encoding="ascii") as name:
                name.write(NAME)  # as ps(1) shows it
            for descriptor in descriptors:
                os.close(descriptor)
            # The child ends itself if the watcher is gone.
            ending.set_alarm(int(self._limit + PATIENCE) + 1)
            work(self._write)
            return 0

        could_not = f"watch: could not {self.what}"
        leave_with(work_as_child, 1, could_not, could_not)

    def _write(self, line: str) -> None:
        os.write(self._report, (line + "\n").encode("ascii"))
