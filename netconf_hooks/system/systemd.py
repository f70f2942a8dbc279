"""systemd: units started, stopped and queried with systemctl(1).

Every request is queued (``--no-block``): a hook may run inside a unit that the request would wait for.
"""

from __future__ import annotations

import os
import time

from netconf_hooks.record import Record
from netconf_hooks.system import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

BOOTED = "/run/systemd/system"
"""Exists if and only if systemd is the running init, sd_booted(3)."""

UNIT_DIRECTORIES = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")

TIMEOUT = 5.0
"""Seconds that one systemctl call may take; a healthy systemd answers at once."""

_JOBS = ("start", "stop", "restart", "try-restart")
"""The types of jobs that start or stop a unit, org.freedesktop.systemd1(5)."""

_NOT_LOADED = 5
"""systemctl(1), EXIT STATUS: there is no such unit, so it can't be running."""


class SystemdError(Exception):
    """systemd does not answer or refuses a request; the message says why."""


class SystemStopping(SystemdError):
    """The system is shutting down: nothing is started any more."""


class UnitState(Record):
    """A unit's properties as ``systemctl show`` names them, org.freedesktop.systemd1(5).

    load: ``loaded``, ``not-found``, ``masked``, ...; active: ``active``, ``inactive``, ``activating``, ...;
    sub: ``running``, ``exited``, ...; text: the last status that the service set with sd_notify(3), or empty.
    """

    __slots__ = ("load", "active", "sub", "text")

    def __init__(self, load: str, active: str, sub: str, text: str) -> None:
        self.load = load
        self.active = active
        self.sub = sub
        self.text = text


class ServiceState(Record):
    """The state of a unit, and how its last run has ended.

    load, active: as in `UnitState`; kind: ``Type=``, empty if it is no service; pid: of its main process, 0 for none.
    result: ``Result=``, also ``success`` while it runs; code, status: how its main process has ended: ``exited`` and an
    exit status, or ``killed`` or ``dumped`` and a signal.
    restart: ``Restart=``; invocation: the ID of the last run in the journal; text: as in `UnitState`.
    """

    __slots__ = ("load", "active", "kind", "pid", "result", "code", "status", "restart", "invocation", "text")

    def __init__(
        self,
        load: str,
        active: str,
        kind: str = "",
        pid: int = 0,
        result: str = "",
        code: int = 0,
        status: int = 0,
        restart: str = "no",
        invocation: str = "",
        text: str = "",
    ) -> None:
        self.load = load
        self.active = active
        self.kind = kind
        self.pid = pid
        self.result = result
        self.code = code
        self.status = status
        self.restart = restart
        self.invocation = invocation
        self.text = text

    @property
    def is_running(self) -> bool:
        """Whether it is active, activating or deactivating."""
        return self.active not in ("inactive", "failed", "")

    @property
    def is_final(self) -> bool:
        """Whether we must not start it again after its end: systemd does, or it has done its job."""
        # systemd forgets a run once the unit is inactive and nothing refers to it; a failed unit is kept.
        done = self.kind == "oneshot" and self.result == "success" and self.active == "inactive"
        return done or self.restart == "always" or self.restart in _RESTARTS.get(self.result, _RESTARTS[""])

    def describe_end(self) -> str:
        """Return how its last run has ended, in words; empty if it has not run yet."""
        if self.code in (_CLD_KILLED, _CLD_DUMPED):
            return f"it was ended by signal {self.status}"
        if self.code == _CLD_EXITED:
            word = "" if self.result in ("success", "exit-code") else f" (systemd: {self.result})"
            return f"it ended with exit status {self.status}{word}"
        return "" if self.result in ("success", "") else f"systemd: {self.result}"


# waitid(2), si_code.
_CLD_EXITED, _CLD_KILLED, _CLD_DUMPED = 1, 2, 3

# The values of Restart= with which systemd restarts a service, by its Result, systemd.service(5); "" for any other.
_RESTARTS = {
    "success": ("on-success",),
    "exit-code": ("on-failure",),
    "signal": ("on-failure", "on-abnormal", "on-abort"),
    "core-dump": ("on-failure", "on-abnormal", "on-abort"),
    "watchdog": ("on-failure", "on-abnormal", "on-watchdog"),
    "": ("on-failure", "on-abnormal"),
}


class Systemd:
    """The service manager of this machine.

    error, stopping: what is raised where `SystemdError` and `SystemStopping` are named below.
    """

    error: type[SystemdError] = SystemdError
    stopping: type[SystemStopping] = SystemStopping

    def __init__(
        self,
        program: str = "systemctl",
        booted: str = BOOTED,
        directories: Sequence[str] = UNIT_DIRECTORIES,
        journal: str = "journalctl",
    ) -> None:
        self._program = program
        self._booted = booted
        self._directories = directories
        self._journal = journal

    def is_running(self) -> bool:
        """Whether systemd is the init of this machine."""
        return os.path.isdir(self._booted)

    def start(self, unit: str) -> None:
        """Start `unit`, unless it is active.  Raises `SystemdError`, `SystemStopping` while the system shuts down."""
        self._begin("start", unit)

    def restart(self, unit: str) -> None:
        """Restart `unit`, or start it if it is not active.  Raises as `start`."""
        self._begin("restart", unit)

    def stop(self, units: Sequence[str]) -> None:
        """Stop `units`, except those that don't run or don't exist.  Raises `SystemdError`."""
        result = self._call("--no-block", "stop", *units)
        if result.status not in (0, _NOT_LOADED):
            raise self.error(f"systemctl stop {' '.join(units)}: {_describe(result)}")

    def show(self, units: Sequence[str]) -> tuple[UnitState, ...]:
        """Return the state of each of `units`, in their order.  Raises `SystemdError` if systemd does not answer."""
        result = self._call("show", "--property=LoadState,ActiveState,SubState,StatusText", *units)
        states = parse_show(result.output)
        if result.status or len(states) != len(units):
            raise self.error(f"systemctl show {' '.join(units)}: {_describe(result)}")
        return states

    def is_active(self, units: Sequence[str]) -> bool:
        """Whether any of `units` is active, activating or deactivating; True if systemd does not answer."""
        if not self.is_running():
            return False
        try:
            return any(state.active not in ("inactive", "failed", "") for state in self.show(units))
        except SystemdError:
            return True

    def read_properties(self, unit: str, names: Sequence[str]) -> dict[str, str]:
        """Return properties of `unit` by name, as ``systemctl show`` prints them.  Raises `SystemdError`."""
        result = self._call("show", f"--property={','.join(names)}", unit)
        if result.status:
            raise self.error(f"systemctl show {unit}: {_describe(result)}")
        return dict(line.split("=", 1) for line in result.output.splitlines() if "=" in line)

    def read_service(self, unit: str) -> ServiceState:
        """Return the state of `unit`.  Raises `SystemdError`."""
        names = (
            "LoadState", "ActiveState", "Type", "MainPID", "Result", "ExecMainCode", "ExecMainStatus", "Restart",
            "InvocationID", "StatusText",
        )  # fmt: skip
        found = self.read_properties(unit, names)
        numbers = [int(found[name]) if found.get(name, "").isdecimal() else 0 for name in names]
        return ServiceState(
            load=found.get("LoadState", ""),
            active=found.get("ActiveState", ""),
            kind=found.get("Type", ""),
            pid=numbers[3],
            result=found.get("Result", ""),
            code=numbers[5],
            status=numbers[6],
            restart=found.get("Restart", "no"),
            invocation=found.get("InvocationID", ""),
            text=found.get("StatusText", ""),
        )

    def is_leaving(self) -> bool:
        """Whether the system is stopping, or in rescue or emergency mode: then nothing should be started."""
        try:
            return self._call("is-system-running").output.strip() in ("stopping", "maintenance")
        except SystemdError:
            return False

    def read_journal(self, state: ServiceState, lines: int = 40) -> list[str]:
        """Return the last lines that a unit's last run has logged; none if they can't be read."""
        if not state.invocation:
            return []
        match = f"_SYSTEMD_INVOCATION_ID={state.invocation}"
        argv = (self._journal, "--no-pager", "--quiet", "--output=cat", f"--lines={lines}", match)
        try:
            return programs.run(argv, TIMEOUT).output.splitlines()
        except programs.ProgramError:
            return []

    def find_stop(self, units: Sequence[str]) -> tuple[str, str]:
        """Return the first of `units` that somebody has stopped, and when, as text; two empty strings if there is none.

        systemd logs each job to the journal, with its ``JOB_TYPE=``.  If a unit's last job was a stop, it was stopped
        by hand: if a service ends by itself, there is no job.  Raises `SystemdError`.
        """
        for unit in units:
            found = self.read_properties(unit, ("ActiveState", "Job"))
            if found.get("ActiveState") not in ("inactive", "failed") or found.get("Job", "0") not in ("0", ""):
                continue
            entry = self._read_last_job(unit)
            if entry.get("JOB_TYPE") == "stop":
                when = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
                return unit, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
        return "", ""

    def _read_last_job(self, unit: str) -> dict[str, str]:
        """Return the fields of the last entry since boot about a job for a unit; none if there is no such entry, or no
        journal.  Raises `SystemdError`."""
        matches = ("_PID=1", f"UNIT={unit}", *(f"JOB_TYPE={kind}" for kind in _JOBS))
        argv = (self._journal, "--quiet", "--no-pager", "--boot", "--lines=1", "--output=export", *matches)
        try:
            output = programs.run(argv, TIMEOUT).output
        except programs.ProgramError as error:
            raise self.error(str(error)) from None
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def find_wants(self, unit: str) -> str:
        """Return the link by which another unit starts `unit` at boot (systemd.unit(5), ``WantedBy=``); empty if none.

        Links from the targets of locations don't count: these start the unit at the location, not at boot.
        """
        for directory in self._directories:
            for name in _list_directory(directory):
                if name.endswith((".wants", ".requires")) and not name.startswith("netconf-location@"):
                    link = os.path.join(directory, name, unit)
                    if os.path.lexists(link):
                        return link
        return ""

    def _begin(self, verb: str, unit: str) -> None:
        if self._call("is-system-running").output.strip() == "stopping":
            raise self.stopping("the system is stopping")
        result = self._call("--no-block", verb, unit)
        if result.status:
            raise self.error(f"systemctl {verb} {unit}: {_describe(result)}")

    def _call(self, *arguments: str) -> programs.Result:
        try:
            return programs.run((self._program, *arguments), TIMEOUT)
        except programs.ProgramError as error:
            raise self.error(str(error)) from None


def parse_show(output: str) -> tuple[UnitState, ...]:
    """Read the output of ``systemctl show --property=...``: ``NAME=VALUE`` lines, an empty line between units."""
    states = []
    for block in output.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "LoadState" in values:
            # A property that the unit's type doesn't have (a target's StatusText) is left out.
            states.append(
                UnitState(
                    values["LoadState"],
                    values.get("ActiveState", ""),
                    values.get("SubState", ""),
                    values.get("StatusText", ""),
                )
            )
    return tuple(states)


def _list_directory(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _describe(result: programs.Result) -> str:
    return result.output.strip() or f"exit status {result.status}"
