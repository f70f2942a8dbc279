"""The tunnels that rules can name: one module a kind.

A new kind is a module here with a class `Tunnel`, and one line in `rules.TUNNEL_KINDS`.
"""

from __future__ import annotations

from netconf_hooks.record import Record
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

        def endpoints(self) -> tuple[Endpoint, ...]:
            """Where this tunnel's own packets go, for a guard to let through.  Reads the configuration, and what runs.

            Raises `TunnelError`, naming the option, where that can't be known beforehand: nothing is let through then.
            """


class Endpoint(Record):
    """Where a tunnel's own packets go, and by what they are told from others that go there as well.

    host: an address as inet_ntop(3) writes it, or a name still to be resolved.
    protocol: ``udp``, ``tcp`` or ``esp``; port: 0 for ``esp``.
    version: 4 or 6 where only addresses of that family are used, else 0.
    uids: of a daemon in userland: the users of whom its sockets can be.
    mark, source_port: of what the kernel sends, which belongs to whoever's packet it carries: the mark, or the port it
        is sent from; 0 for none.
    """

    __slots__ = ("host", "protocol", "port", "version", "uids", "mark", "source_port")

    def __init__(
        self,
        host: str,
        protocol: str,
        port: int,
        version: int = 0,
        uids: tuple[int, ...] = (),
        mark: int = 0,
        source_port: int = 0,
    ) -> None:
        self.host = host
        self.protocol = protocol
        self.port = port
        self.version = version
        self.uids = uids
        self.mark = mark
        self.source_port = source_port


class TunnelError(Exception):
    """A tunnel can't be started, stopped or asked; the message says why, in the admin's words."""


def load_tunnel(kind: str, name: str) -> AnyTunnel:
    """Return the tunnel that ``netconf-vpn KIND NAME`` means.  Raises `TunnelError` for a kind that there is not."""
    from importlib import import_module

    if not TUNNEL_KINDS.get(kind):
        raise TunnelError(f'there is no tunnel of the kind "{kind}"')

    tunnel: AnyTunnel = import_module(f"{__name__}.{TUNNEL_KINDS[kind]}").Tunnel(name)
    return tunnel
