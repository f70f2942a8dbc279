"""Runs the admin's own programs outside the watcher's unit.

netconf-hooks-watch.service has fewer rights than a hook.  But the admin's programs must behave the same, whether a hook
or the watcher runs them.  So in the watcher's children, systemd-run(1) starts the program in a transient unit of its
own, as a child of systemd.  Everywhere else, and if there is no D-Bus, by which systemd-run waits for a unit, the
program is our own child.
"""

from __future__ import annotations

import os
import time

from netconf_hooks.system import programs
from netconf_hooks.system.programs import ProgramError, ProgramLate, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WATCHER = "/netconf-hooks-watch.service"

# A process's control group, cgroups(7); the socket of D-Bus.
CGROUP = "/proc/self/cgroup"
BUS = "/run/dbus/system_bus_socket"

PROGRAM = "systemd-run"

# Seconds that systemd may take to start and end a unit.
PATIENCE = 5.0

# The script of the unit's main process, a shell.  If a signal ended the program as the main process, systemd-run could
# report success: systemd.service(5), SuccessExitStatus=.
_REPORT = '"$@"; exit'
# The status is written to a file, so that a failure of systemd-run can't be taken for the program's.
_WRITE_STATUS = '"$@" >/dev/null 2>&1; echo $?'


def is_restricted() -> bool:
    """Whether this process belongs to the watcher's unit, and can start others."""
    try:
        with open(CGROUP, encoding="utf-8", errors="replace") as file:
            return WATCHER in file.read() and os.path.exists(BUS)
    except OSError:
        return False


def run(argv: Sequence[str], timeout: float, variables: Mapping[str, str] | None = None) -> Result:
    """Run an admin's program as `programs.run` does.  Raises `ProgramError`."""
    if not is_restricted():
        return programs.run(argv, timeout, variables=variables)
    unit = _Unit(argv, timeout, variables or {}, _REPORT)
    try:
        return programs.run(unit.command, timeout, variables=variables)
    except ProgramLate:
        unit.kill()
        raise ProgramLate(f"{' '.join(argv)}: not done after {timeout:g} s, killed") from None


def begin(argv: Sequence[str], timeout: float, variables: Mapping[str, str] | None = None) -> Running:
    """Start an admin's program in the background.  timeout: seconds until systemd kills it, if nobody does.

    Raises `ProgramError` if it can't be started.
    """
    if not is_restricted():
        return Running(programs.begin(argv, variables))
    unit = _Unit(argv, timeout, variables or {}, _WRITE_STATUS)
    answer = os.memfd_create("status")
    try:
        return Running(programs.begin(unit.command, variables, answer), unit, answer)
    except ProgramError:
        os.close(answer)
        raise


class Running:
    """An admin's program that runs in the background (context manager, which kills it).

    `fileno` is for poll(2): readable when the program has ended.  Its output is discarded.
    """

    def __init__(self, program: programs.Running, unit: _Unit | None = None, answer: int = -1) -> None:
        self._program = program
        self._unit = unit
        self._answer = answer

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        runs = self._program.poll() is None
        self._program.__exit__()
        if self._unit:
            if runs:
                self._unit.kill()
            os.close(self._answer)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._program.fileno()

    def read_status(self) -> int | None:
        """Return its exit status; if signal N ended it, -N (128 + N in a unit of its own); None while it runs.

        Raises `ProgramError` if systemd could not run it.
        """
        status = self._program.poll()
        if self._unit is None or status is None:
            return status
        words = os.pread(self._answer, programs.OUTPUT_LIMIT, 0).decode(errors="replace").split()
        if status or not words or not words[-1].isdecimal():
            raise ProgramError(f"{PROGRAM}: {' '.join(words) or f'exit status {status}'}")
        return int(words[-1])


class _Unit:
    """A transient unit for one program.  command: the command line that starts it, and waits for its end."""

    def __init__(self, argv: Sequence[str], timeout: float, variables: Mapping[str, str], shell: str) -> None:
        self._name = f"run-netconf-hooks-{os.getpid()}-{time.monotonic_ns()}.service"
        properties = (
            # As without a unit: background processes stay, a pipe without reader ends its writer, and the program is
            # not stopped early when the system shuts down.
            "KillMode=process", "IgnoreSIGPIPE=no", "DefaultDependencies=no",
            # In case our process is killed meanwhile.
            f"RuntimeMaxSec={timeout + PATIENCE:g}",
        )  # fmt: skip
        self.command = [
            PROGRAM, "--quiet", "--collect", "--wait", "--pipe", "--service-type=exec", f"--unit={self._name}",
            f"--description=netconf-hooks: {' '.join(argv)}",
            *(f"--property={each}" for each in properties),
            # The values come from systemd-run's own environment, where no other user can read them.
            *(f"--setenv={name}" for name in (*programs.ENVIRONMENT, *variables)),
            "--", "/bin/sh", "-c", shell, "sh", *argv,
        ]  # fmt: skip

    def kill(self) -> None:
        """Kill all of its processes."""
        try:
            programs.run(["systemctl", "kill", "--signal=SIGKILL", self._name], PATIENCE)
        except ProgramError:
            pass  # systemd does it after RuntimeMaxSec
