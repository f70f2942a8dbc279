"""``netconf-vpn unit NAME``: any systemd unit as a tunnel."""

from __future__ import annotations

from netconf_hooks.tunnels import Condition, Endpoint, TunnelError
from netconf_hooks.tunnels.services import Services

SUFFIXES = (
    ".service",
    ".socket",
    ".device",
    ".mount",
    ".automount",
    ".swap",
    ".target",
    ".path",
    ".timer",
    ".slice",
    ".scope",
)
"""The types of units, systemd.unit(5)."""


class Tunnel:
    """The unit NAME; NAME.service if NAME has none of the `SUFFIXES`, as systemctl(1) completes names."""

    def __init__(self, name: str, systemd: Services | None = None) -> None:
        self._unit = name if name.endswith(SUFFIXES) else f"{name}.service"
        self._systemd = systemd or Services()

    def check(self) -> None:
        """Raise `TunnelError` if systemd does not run or can't load the unit."""
        self._require_systemd()
        (state,) = self._systemd.show([self._unit])
        if state.load == "not-found":
            raise TunnelError(f"there is no unit {self._unit}")
        if state.load != "loaded":
            raise TunnelError(f"the unit {self._unit} can't be used: systemd says LoadState={state.load}")

    def start(self) -> None:
        """Start the unit, unless it is active.  Raises `TunnelError`."""
        self.check()
        self._systemd.start(self._unit)

    def stop(self) -> None:
        """Stop the unit.  Raises `TunnelError`."""
        self._require_systemd()
        self._systemd.stop([self._unit])

    def is_up(self) -> bool | None:
        """Whether the unit is active (also a oneshot with RemainAfterExit=); None if systemd does not answer.

        Whether an active unit is connected depends on its program, which we don't know.
        """
        if not self._systemd.is_running():
            return False
        try:
            (state,) = self._systemd.show([self._unit])
        except TunnelError:
            return None
        return state.active in ("active", "reloading")

    def is_running(self) -> bool:
        """Whether the unit is active or activating."""
        return self._systemd.is_active([self._unit])

    def inspect(self) -> Condition:
        """Return the unit's state.  Only services are started again, but not a oneshot that succeeded, nor a service
        that systemd restarts itself (``Restart=``)."""
        self.check()
        state = self._systemd.read_service(self._unit)
        if state.active in ("active", "reloading"):
            return Condition(True, True, pid=state.pid)
        if state.is_running:
            return Condition(False, True, pid=state.pid, words=f"systemd says it is {state.active}")
        final = state.is_final or not self._unit.endswith(".service")
        words = state.describe_end() or f"systemd says it is {state.active or 'not there'}"
        lines = self._systemd.read_journal(state, 1) if state.active == "failed" else []
        return Condition(False, False, final=final, words="; ".join((words, *lines)))

    def count_received(self) -> int | None:
        """Return None: only the unit's programs know what they receive."""
        return None

    def nudge(self) -> str:
        """Do nothing: it is not known what would help."""
        return ""

    def restart(self) -> None:
        """Restart the unit.  Raises `TunnelError`."""
        self.check()
        self._systemd.restart(self._unit)

    def list_units(self) -> tuple[str, ...]:
        """Return the unit."""
        return (self._unit,)

    def boot_start(self) -> str:
        """Return which link makes systemd start the unit at boot; empty if none does."""
        link = self._systemd.find_wants(self._unit)
        return f"{self._unit} is enabled ({link})" if link else ""

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return ``()``: it is unknown what the unit's programs send, and where.

        Behind a guard the admin has to list these packets in ``netconf-guard-allow``.
        """
        return ()

    def _require_systemd(self) -> None:
        if not self._systemd.is_running():
            raise TunnelError(f"unit tunnels need systemd, which does not run here: {self._unit}")
