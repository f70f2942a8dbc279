"""The tunnels that rules can name: one module for each kind.

A new kind is a module here with a class `Tunnel`, and one line in `rules.TUNNEL_KINDS`.  `wireguard` is the template:
the shortest that has everything (with systemd and without, a configuration to read, endpoints).  A kind whose programs
block until the tunnel is connected starts them by `attempt`, as `ipsec` does.  What modules share: `systemd` (units,
`Systemd.find_wants` for `boot_start`), `detached` (programs that may block; `detached.is_halting`, since nothing is
started while the system stops), `destination` (hosts and ports in configurations), `ike` (IPsec's endpoints).
"""

from __future__ import annotations

from netconf_hooks.record import Record
from netconf_hooks.rules import TUNNEL_KINDS

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
            """Raise `TunnelError` if there is no usable configuration; the message says where it was looked for.

            ``netconf-hooks check`` reports it as an error of the rule.
            """

        def start(self) -> None:
            """Start the tunnel; if it is up or is being started, do nothing.

            May return before it is known whether the tunnel can be started.  A daemon that fails after it has detached
            is noticed only by `is_up`, which then returns False, and its reason is only in its own log: raise what is
            known within some seconds.

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

            True: ``status`` says so, and an ``ifup`` that waits for the tunnel (``netconf-uplink``) succeeds.
            False: the watcher decides again after 5 to 60 seconds, and behind a guard the names of all endpoints are
            resolved again.  Return it only if it is certain.
            None: it can't be told, by this user or at all.  ``status`` says so, the watcher does nothing about the
            tunnel, and a waiting ``ifup`` stops waiting after some seconds and succeeds.

            May raise `TunnelError`: as False for the watcher, an error for a waiting ``ifup``.
            """

        def is_running(self) -> bool:
            """Return whether anything of the tunnel runs, connected or not; True if that can't be told.

            While it does, a closed guard lets the packets of a held tunnel pass, also if no rule wants it.
            """

        # What the watcher keeps a tunnel up with.  One without these four methods has ended if `is_up` returns False.

        def inspect(self) -> Condition:
            """Return how a tunnel that should be up is doing; the watcher asks, as root.

            What it says decides what the watcher does: see `Condition`.  It may take seconds, but never waits for a
            server.  Raises `TunnelError`: as a tunnel that has ended, with that reason; the watcher calls `start`
            after a pause, which grows.
            """

        def count_received(self) -> int | None:
            """Return a number that changes whenever anything comes back through the tunnel, None if there is none.

            Called after the network has changed under a tunnel that is up, and again `supervision.PROOF` seconds later.
            The same number twice: the first of the `Condition.remedies` is applied, which interrupts the tunnel.  So
            also send something that is answered.  None: the tunnel is left as it is.
            """

        def nudge(self) -> str:
            """Have a tunnel that runs connect again; return what was done, in words, empty if there was nothing to do.

            The words are logged.  Raises `TunnelError`, which is logged.
            """

        def restart(self) -> None:
            """Stop the tunnel and start it anew, so that nothing of its network configuration is left in between.

            Raises `TunnelError` as `start` does.
            """

        def list_units(self) -> tuple[str, ...]:
            """Return the units of systemd whose stop by hand is a stop of the tunnel; ``()`` if there are none.

            A kind without this method has none.  Raises `TunnelError`.
            """

        def find_stop(self) -> str:
            """Return what somebody did that shows that he has stopped the tunnel by hand, in words; empty if nothing
            does.

            Only a kind that knows it without systemd has this method; its `list_units` is not asked.
            """

        def list_warnings(self) -> tuple[str, ...]:
            """Return what keeps the tunnel from connecting by itself, in words: ``netconf-hooks check`` warns of it.

            A kind without this method warns of nothing.
            """

        def list_relays(self) -> tuple[str, ...]:
            """Return what keeps the tunnel from connecting through a guard, in words: its servers that are programs on
            this machine (`describe_relays`).

            ``netconf-hooks check`` warns of it if there is a guard, and ``status`` says it while the guard is closed.
            A kind without this method has none.
            """

        def boot_start(self) -> str:
            """Return what else starts this tunnel at boot, in words; empty if nothing does.

            ``netconf-hooks check`` warns of it: the rules and systemd would both start the tunnel.
            """

        def endpoints(self) -> tuple[Endpoint, ...]:
            """Return where this tunnel's own packets go; a closed guard lets exactly these packets pass.

            Called before each start, and again afterwards, since some of it is known only from the running daemon.

            ``()``: the guard lets nothing pass for this tunnel, without any message.  Right only if nothing is known
            now and will be once the tunnel runs (a port that the kernel chooses), or if the admin has to list the
            packets in ``netconf-guard-allow`` (`unit`).
            Too much: whatever is returned leaves in the clear, so return the narrowest match that is certain.

            Raises `TunnelError`, naming the option, if it can't be known: the guard lets nothing new pass for this
            tunnel, so it can't connect; the log and ``status`` say why, and ``check`` reports an error.
            """


class Condition(Record):
    """How a tunnel is doing that should be up.

    up: as `AnyTunnel.is_up` says.
    running: whether something is at work for it: a daemon, a device, an initiator, a job of systemd.  False: it has
        ended, and the watcher starts it again.
    helpless: whether that can't bring it up by itself once it is not: then the watcher nudges it after a pause, which
        grows.
    final: whether it must not be started again although it has ended: systemd does that itself, or it has done its job.
    pid: of the process with which it ends; the watcher notices that end at once.  0 where there is none: then the
        watcher calls `inspect` every 10 s.  (The end of a device, and of IPsec's security associations, is heard.)
    words: why it is not up, in words, as far as it can be known: what it waits for, or why it has ended.  They are
        logged when they change, so nothing in them may count seconds.
    refused: whether the server has refused its user name or password: then there are only three attempts.
    files: its configuration files: after a change of them it is tried again even if its password was refused.
    remedies: what may be done, one after the other, if it runs and nothing comes back: ``nudge``, ``restart``.
    stuck: whether it is certain that its server has not answered yet what it was last asked, although it is up.
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
    """Where a tunnel's own packets go, and how they differ from other packets to the same place.

    host: an address as inet_ntop(3) writes it, or a name still to be resolved.
    protocol: ``udp``, ``tcp`` or ``esp``; port: 0 for ``esp``.
    version: 4 or 6 where only addresses of that family are used, else 0.
    uids: for packets that a daemon sends: the users who can own its sockets.
    mark, source_port: for packets that the kernel sends, whose socket is that of the packet inside: their mark, or the
        port that they are sent from; 0 for none.
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


class TunnelSilent(TunnelError):
    """The program that was asked about a tunnel did not answer in time: whether it runs is not known."""


def describe_relays(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return, in words, for each host that is this machine itself, that the endpoints which a guard lets pass are not
    where the packets go."""
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
