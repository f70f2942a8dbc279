"""The tunnels that rules can name: one module a kind.

A new kind is a module here with a class `Tunnel`, and one line in `rules.TUNNEL_KINDS`.
"""

from __future__ import annotations

from netconf_hooks.rules import TUNNEL_KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class AnyTunnel(Protocol):
        """What every kind of tunnel can do.  None of it blocks for the tunnel to connect."""

        def check(self) -> None:
            """Raise `TunnelError` when there is no usable configuration, saying what was looked for."""

        def start(self) -> None:
            """Ask for the tunnel; one that is up already is left as it is.  Raises `TunnelError`."""

        def stop(self) -> None:
            """End the tunnel, whoever started it; one that is down is left so.  Raises `TunnelError`."""

        def is_up(self) -> bool | None:
            """Whether the tunnel is connected now; None where that can't be told (by this user, or at all)."""

        def boot_start(self) -> str:
            """What also starts this tunnel at boot, in words for `check`; empty when nothing does."""


class TunnelError(Exception):
    """A tunnel can't be started, stopped or asked; the message says why, in the admin's words."""


def load_tunnel(kind: str, name: str) -> AnyTunnel:
    """Return the tunnel that ``netconf-vpn KIND NAME`` means.  Raises `TunnelError` for a kind that does not work."""
    from importlib import import_module

    if not TUNNEL_KINDS.get(kind):
        raise TunnelError(f'no tunnel of the kind "{kind}" works in this version')

    tunnel: AnyTunnel = import_module(f"{__name__}.{TUNNEL_KINDS[kind]}").Tunnel(name)
    return tunnel
