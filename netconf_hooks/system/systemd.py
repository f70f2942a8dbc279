"""systemd: units started, stopped and queried with systemctl(1).

Every request is queued (``--no-block``): a hook may run inside a unit that the request would wait for.
"""

from __future__ import annotations

import os

from netconf_hooks.record import Record
from netconf_hooks.system import programs
from netconf_hooks.tunnels import TunnelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

BOOTED = "/run/systemd/system"
"""Exists if and only if systemd is the running init, sd_booted(3)."""

UNIT_DIRECTORIES = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")

TIMEOUT = 5.0
"""Seconds that one systemctl call may take: systemd answers at once or is in trouble."""

_NOT_LOADED = 5
"""systemctl(1), EXIT STATUS: there is no such unit, so it can't be running."""


class SystemStopping(TunnelError):
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


class Systemd:
    """The service manager of this machine."""

    def __init__(
        self, program: str = "systemctl", booted: str = BOOTED, directories: Sequence[str] = UNIT_DIRECTORIES
    ) -> None:
        self._program = program
        self._booted = booted
        self._directories = directories

    def is_running(self) -> bool:
        """Whether systemd is the init of this machine."""
        return os.path.isdir(self._booted)

    def start(self, unit: str) -> None:
        """Start `unit`, unless it is active.  Raises `TunnelError`, `SystemStopping` while the system shuts down."""
        self._begin("start", unit)

    def restart(self, unit: str) -> None:
        """Restart `unit`, or start it if it is not active.  Raises as `start`."""
        self._begin("restart", unit)

    def stop(self, units: Sequence[str]) -> None:
        """Stop `units`, except those that don't run or don't exist.  Raises `TunnelError`."""
        result = self._call("--no-block", "stop", *units)
        if result.status not in (0, _NOT_LOADED):
            raise TunnelError(f"systemctl stop {' '.join(units)}: {_describe(result)}")

    def show(self, units: Sequence[str]) -> tuple[UnitState, ...]:
        """Return the state of each of `units`, in their order.  Raises `TunnelError` when systemd does not answer."""
        result = self._call("show", "--property=LoadState,ActiveState,SubState,StatusText", *units)
        states = parse_show(result.output)
        if result.status or len(states) != len(units):
            raise TunnelError(f"systemctl show {' '.join(units)}: {_describe(result)}")
        return states

    def is_active(self, units: Sequence[str]) -> bool:
        """Whether any of `units` is active, or on its way to be or not to be; True if systemd does not answer."""
        if not self.is_running():
            return False
        try:
            return any(state.active not in ("inactive", "failed", "") for state in self.show(units))
        except TunnelError:
            return True

    def read_properties(self, unit: str, names: Sequence[str]) -> dict[str, str]:
        """Return properties of `unit` by name, as ``systemctl show`` prints them.  Raises `TunnelError`."""
        result = self._call("show", f"--property={','.join(names)}", unit)
        if result.status:
            raise TunnelError(f"systemctl show {unit}: {_describe(result)}")
        return dict(line.split("=", 1) for line in result.output.splitlines() if "=" in line)

    def find_wants(self, unit: str) -> str:
        """Return the link by which another unit starts `unit` at boot (systemd.unit(5), ``WantedBy=``), or nothing.

        A unit that only a location's target wants is started with that location, not at boot.
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
            raise SystemStopping("the system is stopping")
        result = self._call("--no-block", verb, unit)
        if result.status:
            raise TunnelError(f"systemctl {verb} {unit}: {_describe(result)}")

    def _call(self, *arguments: str) -> programs.Result:
        try:
            return programs.run((self._program, *arguments), TIMEOUT)
        except programs.ProgramError as error:
            raise TunnelError(str(error)) from None


def parse_show(output: str) -> tuple[UnitState, ...]:
    """Read what ``systemctl show --property=...`` printed: ``NAME=VALUE`` lines, an empty line between units."""
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
