"""The tunnels that rules can name: one module for each kind.

A new kind is a module here with a class `Tunnel`, and one line in `rules.TUNNEL_KINDS`.  `wireguard` is the template:
it is the shortest module that has everything (with systemd and without, a configuration to read, endpoints).  If the
kind's programs block until the tunnel is connected, start them by `attempt`, as `ipsec` does.

Shared modules: `services` (units; `Services.find_wants` for `boot_start`), `system.detached` (programs that may block;
`is_halting`, since nothing is started while the system stops), `destination` (hosts and ports in configurations), `ike`
(IPsec's endpoints).
"""

from __future__ import annotations

from netconf_hooks.record import Record
from netconf_hooks.stanzas.rules import TUNNEL_KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    class AnyTunnel(Protocol):
        """What every kind of tunnel can do.

        Nothing here waits until the tunnel is connected.  A hook calls these methods and ifupdown waits for the hook:
        each returns within seconds, whatever the server does.
        """

        def check(self) -> None:
            """Raise `TunnelError` if there is no usable configuration; the message names the files that were searched.

            ``netconf-hooks check`` reports it as an error of the rule.
            """

        def start(self) -> None:
            """Start the tunnel; if it is up or is being started, do nothing.

            May return before it is known whether the tunnel can be started.  But raise each failure that shows within
            some seconds: if a daemon fails after it has detached, only `is_up` notices (it returns False), and only the
            daemon's own log has the reason.

            Raises `TunnelError`: the reason is logged, ``status`` shows it, and the watcher calls `start` again.
            """

        def stop(self) -> None:
            """Stop the tunnel, whoever started it; if it is down, do nothing.

            Also cancels a start that is under way: after `stop` has returned, the tunnel does not come up any more.
            Needs no configuration, which may have been deleted since.

            Raises `TunnelError`: the reason is logged, ``status`` shows it, and the watcher calls `stop` again.
            """

        def is_up(self) -> bool | None:
            """Return whether packets pass the tunnel now.

            True: ``status`` shows it as up, and an ``ifup`` that waits for the tunnel (``netconf-uplink``) succeeds.
            False: ``status`` shows it as down, and ``ifup`` goes on waiting.  While a guard is closed, the names of all
            endpoints are resolved again.  Return False only if it is certain.
            None: unknown, to this user or to anybody.  ``status`` shows that, and a waiting ``ifup`` stops waiting
            after some seconds and succeeds.

            May raise `TunnelError`: ``status`` shows it as down, and a waiting ``ifup`` fails.
            """

        def is_running(self) -> bool:
            """Return whether any part of the tunnel runs, connected or not; True if that is unknown.

            While it runs, a closed guard lets the packets of a held tunnel pass, even if no rule wants the tunnel.
            """

        # The watcher needs the next four methods to keep a tunnel up.  If a kind lacks them, the watcher only calls
        # `is_up`, and takes False as the end of the tunnel.

        def inspect(self) -> Condition:
            """Return the state of a tunnel that should be up.  The watcher calls this, as root.

            The watcher acts on the result: see `Condition`.  This may take seconds, but must not wait for a server.
            Raises `TunnelError`: the watcher takes it as the reason why the tunnel has ended, and calls `start` after
            a pause, which grows.  `TunnelSilent`: the tunnel counts as running, and is inspected again later.
            """

        def count_received(self) -> int | None:
            """Return a counter that changes whenever a packet arrives through the tunnel; None if there is none.

            Called after the network has changed under a tunnel that is up, and again `supervision.PROOF` seconds later.
            If the number has not changed, the first of the `Condition.remedies` is applied, which interrupts the
            tunnel.  So this also has to send a packet that the other end answers.  None: a tunnel that is up after
            these seconds counts as working.
            """

        def nudge(self) -> str:
            """Make a running tunnel connect again; return a description of what was done, empty if nothing was.

            The description is logged.  Raises `TunnelError`, which is logged, too.
            """

        def restart(self) -> None:
            """Stop the tunnel completely, with its routes and addresses, and start it again.

            Raises `TunnelError` as `start` does.
            """

        def list_units(self) -> tuple[str, ...]:
            """Return the systemd units of this tunnel: if the admin stops one, the tunnel counts as stopped by hand.

            A kind without this method has no units.  Raises `TunnelError`.
            """

        def find_stop(self) -> str:
            """Return the command by which somebody has stopped the tunnel; empty if nothing shows that.

            Only for kinds that can find this out without systemd; `list_units` is then not called.
            """

        def list_warnings(self) -> tuple[str, ...]:
            """Return what keeps the tunnel from connecting by itself, in words: ``netconf-hooks check`` warns of it.

            A kind without this method has no warnings.
            """

        def list_relays(self) -> tuple[str, ...]:
            """Return a warning for each server that is a program on this machine (`describe_relays`): a guard drops
            what that program sends, so the tunnel can't connect.

            ``netconf-hooks check`` prints the warnings if there is a guard, and ``status`` while the guard is closed.
            A kind without this method has no warnings.
            """

        def boot_start(self) -> str:
            """Return what else starts this tunnel at boot, in words; empty if nothing does.

            ``netconf-hooks check`` warns of it: the rules and systemd would both start the tunnel.
            """

        def endpoints(self) -> tuple[Endpoint, ...]:
            """Return where this tunnel's own packets go; a closed guard lets exactly these packets pass.

            Called before each start, and again afterwards, since only the running daemon knows some of the endpoints.

            ``()``: the guard lets nothing pass for this tunnel, and logs no message.  Return it only if nothing is
            known before the tunnel runs (a port that the kernel chooses), or if the admin has to list the packets in
            ``netconf-guard-allow`` (`unit`).
            Each packet that matches leaves unencrypted by this tunnel, so return the narrowest match that is certain.

            Raises `TunnelError`, naming the option, if the endpoints can't be known: the guard lets nothing new pass
            for this tunnel, so it can't connect; the log and ``status`` say why, and ``check`` reports an error.
            """


class Condition(Record):
    """The state of a tunnel that should be up.

    up: as `AnyTunnel.is_up` returns it.
    running: whether the tunnel has a daemon, a device, an initiator or a systemd job.  False: it has ended, and the
        watcher starts it again.
    helpless: whether it runs but can't connect by itself: then the watcher nudges it after a pause, which grows.
    final: whether it must not be started again although it has ended: systemd does that itself, or it has done its job.
    pid: the process whose end is the end of the tunnel, which the watcher notices at once.  0 if there is none: then
        the watcher calls `inspect` every 10 s.  (The kernel reports when a device or an IPsec security association is
        deleted.)
    words: why it is not up, if known: what it waits for, or why it has ended.  The text is logged whenever it changes,
        so it must not contain a count of seconds.
    refused: whether the server has refused its user name or password: then there are only three attempts.
    files: its configuration files: after a change in them it is tried again even if its password was refused.
    remedies: what the watcher may do, in this order, if it runs and no packets come back: ``nudge``, ``restart``.
    stuck: whether it is up, but its server has certainly not answered the last request yet.
    """

    __slots__ = ("up", "running", "helpless", "final", "pid", "words", "refused", "files", "remedies", "stuck")

    def __init__(
        self,
        up: bool | None,
        running: bool,
        helpless: bool = False,
        final: bool = False,
        pid: int = 0,
        words: str = "",
        refused: bool = False,
        files: tuple[str, ...] = (),
        remedies: tuple[str, ...] = (),
        stuck: bool = False,
    ) -> None:
        self.up = up
        self.running = running
        self.helpless = helpless
        self.final = final
        self.pid = pid
        self.words = words
        self.refused = refused
        self.files = files
        self.remedies = remedies
        self.stuck = stuck


class Endpoint(Record):
    """Where a tunnel's own packets go, and what distinguishes them from other packets to the same destination.

    host: an address as inet_ntop(3) writes it, or a name that is not resolved yet.
    protocol: ``udp``, ``tcp`` or ``esp``; port: 0 for ``esp``.
    version: 4 or 6 if only addresses of that family are used, else 0.
    uids: for packets that a daemon sends: the users who can own its sockets.
    mark, source_port: for packets that the kernel sends: their mark or source port; 0 for none.  The socket of such a
        packet is the socket of the packet inside it, so the uid does not match.
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
    """A tunnel can't be started, stopped or queried; the message says why, in the admin's words."""


class TunnelSilent(TunnelError):
    """The program that reports the tunnel's state did not answer in time, so it is unknown whether the tunnel runs."""


def describe_relays(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return a warning for each host that is this machine: a program here sends the packets on, and the guard, which
    lets only packets to the tunnel's own endpoints pass, drops them."""
    return tuple(
        f"its server {host} is a program on this machine, whose own packets the guard drops unless netconf-guard-allow "
        "names where they go"
        for host in dict.fromkeys(hosts)
        if host.startswith("127.") or host in ("::1", "localhost")
    )


def load_tunnel(kind: str, name: str) -> AnyTunnel:
    """Return the tunnel that ``netconf-vpn KIND NAME`` means.  Raises `TunnelError` for an unknown kind."""
    from importlib import import_module

    if not TUNNEL_KINDS.get(kind):
        raise TunnelError(f'there is no tunnel of the kind "{kind}"')

    tunnel: AnyTunnel = import_module(f"{__name__}.{TUNNEL_KINDS[kind]}").Tunnel(name)
    return tunnel
