"""The units of tunnels: systemd, whose errors are the tunnels' errors here."""

from __future__ import annotations

from netconf_hooks.system.systemd import Systemd, SystemdError, SystemStopping
from netconf_hooks.tunnels import TunnelError


class ServiceError(TunnelError, SystemdError):
    """systemd can't start, stop or query a tunnel's unit; the message says why."""


class TooLate(ServiceError, SystemStopping):
    """The system is shutting down: no tunnel is started any more."""


class Services(Systemd):
    """As `Systemd`; each method that raises `SystemdError` there raises `TunnelError` here."""

    error = ServiceError
    stopping = TooLate
