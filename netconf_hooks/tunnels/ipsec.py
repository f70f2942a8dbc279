"""``netconf-vpn ipsec NAME``: the connection NAME of strongSwan or Libreswan.

=======================  =============================================  ==========================================
configuration            NAME is                                        daemon
=======================  =============================================  ==========================================
/etc/swanctl             a connection (all its children), or one child  charon: strongswan.service,
                                                                        strongswan-starter.service, ``ipsec start``,
                                                                        ``charon-systemd``
/etc/ipsec.conf          a ``conn`` of strongSwan                       charon: strongswan-starter.service,
                                                                        ``ipsec start``
/etc/ipsec.conf          a ``conn`` of Libreswan                        pluto: ipsec.service, ``ipsec pluto``
(loaded by others)       what charon or pluto lists                     already runs
=======================  =============================================  ==========================================

The programs block until the gateway answers, and the daemon may have to be started first.  So `start` requests an
initiator (see `attempt`), which calls `connect`.  The daemon keeps running after the tunnel has ended.

**Connected** means that a CHILD_SA is installed (Libreswan: an IPsec SA is established).  It does not matter whether
the kernel encrypts (policies, no interface) or charon itself (the plugin kernel-libipsec, a tun device).  The programs'
exit statuses are unreliable and not used.
"""

from __future__ import annotations

import os
import time

from netconf_hooks.record import Record
from netconf_hooks.system import programs
from netconf_hooks.system.netlink import Netlink
from netconf_hooks.system.waiting import wait_until
from netconf_hooks.tunnels import Condition, TunnelError, libreswan, swanctl_conf
from netconf_hooks.tunnels.attempt import Initiator
from netconf_hooks.tunnels.ike import Peer, find_family, make_endpoints, read_hosts
from netconf_hooks.tunnels.ipsec_conf import read_conns, read_parameters, read_starter_peer
from netconf_hooks.tunnels.libreswan import Pluto, belongs
from netconf_hooks.tunnels.services import Services
from netconf_hooks.tunnels.strongswan import (
    Connection, NotAllowed, NotRunning, Stroke, Swanctl, choose, find_ending, is_installed
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from netconf_hooks.tunnels import Endpoint
    from netconf_hooks.tunnels.strongswan import Child, Session

    class Client(Protocol):
        """A program that talks to charon.  The classes in `strongswan` document what is raised."""

        program: str

        def list_sessions(self) -> tuple[Session, ...]:
            """Return all IKE_SAs."""

        def list_connections(self) -> tuple[Connection, ...]:
            """Return all connections that charon has loaded."""

        def list_peers(self) -> dict[str, tuple[str, str]]:
            """Return the remote and the local addresses of all connections that charon has loaded."""

        def load(self) -> str:
            """Make charon read the configuration again, and return its complaints."""

        def initiate(self, connection: Connection, child: str) -> str:
            """Bring up a child; return why it is not up, empty if it is."""

        def terminate(self, session: Session, child: Child | None) -> None:
            """End an IKE_SA, or one CHILD_SA of it."""

        def end_daemon(self) -> bool:
            """End charon if only that ends the remaining sessions; return whether it has ended."""

    class Implementation(Protocol):
        """An IPsec implementation on this machine, with its configuration and its daemon."""

        def read(self, name: str) -> Found:
            """Look for `name` in the configuration files."""

        def ask(self, name: str) -> Found:
            """Look for `name` among the connections that the daemon has loaded."""

        def is_up(self, name: str) -> bool:
            """Whether it is connected now.  Raises `TunnelError` if that is unknown."""

        def is_trying(self, name: str) -> bool:
            """Whether the daemon is bringing it up.  Raises `TunnelError`."""

        def is_stuck(self, name: str) -> bool:
            """Whether the gateway has not answered the last request yet; False if that is unknown.

            Raises `TunnelError`.
            """

        def connect(self, connection: Connection) -> None:
            """Bring it up; start the daemon first if it does not run.  Raises `TunnelError`."""

        def disconnect(self, name: str) -> None:
            """End it.  Raises `TunnelError`."""

        def list_endpoints(self, connection: Connection) -> tuple[Endpoint, ...]:
            """Return where its packets go.  Raises `TunnelError`."""


DAEMON_TIMEOUT = 300.0
"""Seconds until a daemon started by systemd must answer: at boot its unit waits for network-online.target."""

ANSWER_TIMEOUT = 10.0
"""Seconds until a running daemon must answer, which usually takes 0.1 s."""

LOAD_TIMEOUT = 2.0
"""Seconds until a connection must be loaded: the starter loads connections some time after its start."""

LAUNCH_TIMEOUT = 10.0
"""Seconds that one step of starting a daemon may take."""


class Found(Record):
    """The result of a search for a name.

    connections: those that the name can mean; looked: the files and daemons that were searched, in words.
    """

    __slots__ = ("connections", "looked")

    def __init__(self, connections: tuple[Connection, ...], looked: tuple[str, ...]) -> None:
        self.connections = connections
        self.looked = looked


class Daemon:
    """How to start a daemon.

    units: with systemd, the first of these that exists is started.
    commands: without systemd, these programs are run one after the other.  detached: whether the last one is the daemon
        itself, which does not return.
    """

    def __init__(
        self, systemd: Services, units: Sequence[str], commands: Sequence[Sequence[str]], detached: bool = False
    ) -> None:
        self._systemd = systemd
        self._units = units
        self._commands = commands
        self._detached = detached

    def start(self, answers: Callable[[], bool]) -> None:
        """Start it, and wait until it answers.  Raises `TunnelError`."""
        if self._systemd.is_running():
            self._start_unit(answers)
            return
        if not self._commands:
            raise TunnelError("its daemon does not run, and there is no program to start it")
        *preparations, command = self._commands
        for preparation in preparations:
            try:
                programs.run(preparation, LAUNCH_TIMEOUT)
            except programs.ProgramError:
                pass  # the daemon itself reports what is missing
        try:
            if self._detached:
                programs.spawn(command)
            else:
                programs.run(command, LAUNCH_TIMEOUT)
        except programs.ProgramError as error:
            raise TunnelError(str(error)) from None
        if not wait_until(answers, ANSWER_TIMEOUT, 0.05):
            raise TunnelError(f"{' '.join(command)}: its daemon does not answer; the system log has its reason")

    def _start_unit(self, answers: Callable[[], bool]) -> None:
        states = self._systemd.show(self._units)
        known = [unit for unit, state in zip(self._units, states, strict=True) if state.load == "loaded"]
        if not known:
            raise TunnelError(f"its daemon does not run, and there is no unit {' or '.join(self._units)}")
        self._systemd.start(known[0])
        deadline = time.monotonic() + DAEMON_TIMEOUT
        while time.monotonic() < deadline:
            if wait_until(answers, 1.0, 0.05):
                return
            (state,) = self._systemd.show(known[:1])
            if state.active == "failed":
                raise TunnelError(f"{known[0]} failed")
            if state.active == "active":
                deadline = min(deadline, time.monotonic() + ANSWER_TIMEOUT)
        raise TunnelError(f"{known[0]} runs, but its daemon does not answer")


class ByCharon:
    """strongSwan: what is the same with swanctl and ipsec(8).

    configuration: the file with the connections; settings: strongswan.conf.
    """

    def __init__(self, client: Swanctl | Stroke, daemon: Daemon, configuration: str, settings: str) -> None:
        self._client = client
        self._daemon = daemon
        self._configuration = configuration
        self._settings = settings

    def read(self, name: str) -> Found:
        """Look for `name` in the configuration and what it includes."""
        raise NotImplementedError

    def is_up(self, name: str) -> bool:
        """Whether all children of the connection `name`, or the child, are installed."""
        return _is_up(self._client, self.read(name).connections, name)

    def is_trying(self, name: str) -> bool:
        """Whether one of its IKE_SAs is being set up."""
        return any(session.state == "CONNECTING" for session in self._list_sessions(name))

    def is_stuck(self, name: str) -> bool:
        """Whether one of its IKE_SAs waits for an answer."""
        return any(session.state == "ESTABLISHED" and session.waits for session in self._list_sessions(name))

    def _list_sessions(self, name: str) -> list[Session]:
        """Return its IKE_SAs."""
        try:
            sessions = self._client.list_sessions()
        except NotRunning:
            return []
        return [
            session
            for session in sessions
            for connection in self.read(name).connections or _guess(sessions, name)
            if connection.name == session.name or session.name in connection.children
        ]

    def connect(self, connection: Connection) -> None:
        """Bring up all children that are not up."""
        _connect(self._client, self._daemon, connection)

    def disconnect(self, name: str) -> None:
        """End the connection `name`, or the child."""
        _disconnect(self._client, self.read(name).connections, name)


class BySwanctl(ByCharon):
    """strongSwan, by swanctl.  configuration: swanctl.conf; settings: strongswan.conf."""

    def read(self, name: str) -> Found:
        """Look for `name` in swanctl.conf and the files that it includes."""
        reading = swanctl_conf.read_configuration(self._configuration)
        return Found(choose(reading.connections, name), reading.files)

    def ask(self, name: str) -> Found:
        """Look for `name` among the connections that charon has loaded."""
        return _ask_charon(self._client, f"{self._client.program} --list-conns", name)

    def list_endpoints(self, connection: Connection) -> tuple[Endpoint, ...]:
        """Return where its packets go: from swanctl.conf, or else from charon, which does not report ports."""
        peer = swanctl_conf.read_peer(self._configuration, connection)
        return _list_endpoints(peer or _ask_peer(self._client, connection.name), self._settings)


class ByStarter(ByCharon):
    """strongSwan, by ipsec(8).  configuration: its ipsec.conf; settings: strongswan.conf."""

    def read(self, name: str) -> Found:
        """Look for `name` in ipsec.conf and the files that it includes."""
        return _read_conns(self._configuration, name)

    def ask(self, name: str) -> Found:
        """Look for `name` among the connections that charon has loaded."""
        return _ask_charon(self._client, f"{self._client.program} statusall", name)

    def list_endpoints(self, connection: Connection) -> tuple[Endpoint, ...]:
        """Return where its packets go: from ipsec.conf, or else from charon, which does not report ports."""
        peer = None if connection.name else read_starter_peer(self._configuration, *connection.children)
        return _list_endpoints(peer or _ask_peer(self._client, connection.name), self._settings)


class ByLibreswan:
    """Libreswan.  configuration: its ipsec.conf."""

    def __init__(self, pluto: Pluto, daemon: Daemon, configuration: str) -> None:
        self._pluto = pluto
        self._daemon = daemon
        self._configuration = configuration

    def read(self, name: str) -> Found:
        """Look for `name` in ipsec.conf and the files that it includes."""
        return _read_conns(self._configuration, name)

    def ask(self, name: str) -> Found:
        """Look for `name` among the connections that pluto has loaded."""
        asked = f"pluto ({self._pluto.program} whack --status)"
        try:
            names = [found for found in self._pluto.list_connections() if belongs(found, name)]
        except NotRunning:
            return Found((), (f"{asked}: it does not run",))
        except TunnelError as error:
            return Found((), (f"{asked}: {error}",))
        return Found((Connection("", (name,), f"connection {name} in pluto"),) if names else (), (asked,))

    def is_up(self, name: str) -> bool:
        """Whether pluto has an IPsec SA of the connection established."""
        try:
            return any(belongs(found, name) for found in self._pluto.list_up())
        except NotRunning:
            return False

    def is_trying(self, name: str) -> bool:
        """Whether pluto has any state for the connection."""
        try:
            return any(belongs(found, name) for found in self._pluto.list_states())
        except NotRunning:
            return False

    def is_stuck(self, name: str) -> bool:
        """Whether its packets leave from an address that this machine has lost: pluto does not replace it by itself.

        Whether the gateway has answered is unknown: pluto does not report it.
        """
        try:
            pairs = self._pluto.list_addresses(name)
        except NotRunning:
            return False
        with Netlink() as netlink:
            return any(not any(map(netlink.is_own, pair)) for pair in pairs)

    def connect(self, connection: Connection) -> None:
        """Bring it up; start pluto first if it does not run."""
        (name,) = connection.children
        if not _answers(self._pluto.list_up):
            self._daemon.start(lambda: _answers(self._pluto.list_up))
        if self.is_up(name):
            return
        # Soon after its start another process loads the configured connections.
        wait_until(lambda: bool(self.ask(name).connections), LOAD_TIMEOUT / 4, 0.05)
        # Load it again even if it is loaded: left=%defaultroute may stand for an address that this machine has lost.
        complaint = self._pluto.load(name)
        if not self.ask(name).connections:
            raise TunnelError(f"pluto did not load it{f': {complaint}' if complaint else ''}")
        reason = self._pluto.initiate(name)
        if not self.is_up(name):
            raise TunnelError(reason or "no IPsec SA was established")

    def disconnect(self, name: str) -> None:
        """End the connection."""
        try:
            self._pluto.list_up()
        except NotRunning:
            return
        self._pluto.terminate(name)

    def list_endpoints(self, connection: Connection) -> tuple[Endpoint, ...]:
        """Return where its packets go, from ipsec.conf."""
        (name,) = connection.children
        parameters = read_parameters(self._configuration, name)
        if not parameters:
            raise TunnelError(f"{connection.place}: {self._configuration} does not have it, so its peer is not known")
        peer = libreswan.find_peer(parameters, f"conn {name}")
        return make_endpoints(peer, libreswan.find_flows(parameters, peer))


class Tunnel:
    """The IPsec connection NAME.

    swanctl_conf, ipsec_conf, strongswan_conf: the configuration files; path: where programs are looked for.
    """

    def __init__(
        self,
        name: str,
        swanctl_conf: str = "/etc/swanctl/swanctl.conf",
        ipsec_conf: str = "/etc/ipsec.conf",
        strongswan_conf: str = "/etc/strongswan.conf",
        path: str = programs.ENVIRONMENT["PATH"],
        systemd: Services | None = None,
        initiator: Initiator | None = None,
    ) -> None:
        self._name = name
        self._swanctl_conf = swanctl_conf
        self._ipsec_conf = ipsec_conf
        self._strongswan_conf = strongswan_conf
        self._path = path
        self._systemd = systemd or Services()
        self._initiator = initiator or Initiator("ipsec", name, self._systemd)
        self._implementations: tuple[Implementation, ...] | None = None

    def check(self) -> None:
        """Raise `TunnelError` unless exactly one connection has this name; the message says where we looked."""
        self._find()

    def start(self) -> None:
        """Request an initiator, unless the tunnel is up.  Raises `TunnelError`."""
        implementation, _ = self._find()
        try:
            if implementation.is_up(self._name):
                return
        except TunnelError:
            pass  # the initiator will report what is wrong with the daemon
        self._initiator.request()

    def connect(self) -> None:
        """Bring the tunnel up, and return when it is up.  The initiator calls this.  Raises `TunnelError`."""
        implementation, connection = self._find()
        implementation.connect(connection)

    def stop(self) -> None:
        """End the tunnel, whoever started it and even if its configuration is gone; the daemon keeps running.

        Raises `TunnelError`.
        """
        self._initiator.cancel()
        for implementation in self._list_implementations():
            implementation.disconnect(self._name)

    def is_up(self) -> bool | None:
        """Whether the tunnel's CHILD_SA is installed; None if a daemon does not report that, or not to this user."""
        known = True
        for implementation in self._list_implementations():
            try:
                if implementation.is_up(self._name):
                    return True
            except TunnelError:
                known = False
        return False if known else None

    def is_running(self) -> bool:
        """Whether it is connected, or that is unknown.  An initiator that has not succeeded yet does not count."""
        try:
            return self.is_up() is not False
        except TunnelError:
            return True

    def inspect(self) -> Condition:
        """Return the tunnel's state.  There is no pid to watch: the kernel reports changes of security associations."""
        files = (self._swanctl_conf, self._ipsec_conf, "/etc/ipsec.secrets")
        up = self.is_up()
        if up is not False:
            stuck = any(implementation.is_stuck(self._name) for implementation in self._list_implementations())
            return Condition(up, True, files=files, remedies=("nudge", "restart"), stuck=stuck)
        running = self._initiator.is_running()
        for implementation in self._list_implementations():
            running = running or implementation.is_trying(self._name)
        reason = self._initiator.read_reason()
        words, refused = explain_reason(reason)
        if not words:
            words = "its gateway does not answer yet" if running else "its security association is gone"
        return Condition(False, running, words=words, refused=refused, files=files)

    def count_received(self) -> int | None:
        """Return None: the daemon itself queries the gateway after each change (MOBIKE, dead peer detection).

        If the gateway has not answered, `inspect` returns `stuck`.
        """
        return None

    def nudge(self) -> str:
        """Do nothing: the daemon repeats its request after 4 s (strongswan.conf, charon.retransmit_*)."""
        return ""

    def restart(self) -> None:
        """End the tunnel and initiate it again.  A gateway that has lost its state answers only a new initiation.

        Raises `TunnelError`.
        """
        self.stop()
        self.start()

    def boot_start(self) -> str:
        """Return the settings by which the daemon starts this tunnel when it starts itself; empty if there are none."""
        found = [
            connection.start
            for implementation in self._list_implementations()
            for connection in implementation.read(self._name).connections
        ]
        return "; ".join(start for start in found if start)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return where the tunnel's packets go: IKE and ESP to each peer in the configuration.

        `ike` lists packets that are not included.  Raises `TunnelError`, naming the option, if the peer can't be known
        beforehand.
        """
        implementation, connection = self._find()
        return implementation.list_endpoints(connection)

    def _find(self) -> tuple[Implementation, Connection]:
        """Return the one connection of this name, and its implementation.  Raises `TunnelError`."""
        implementations = self._list_implementations()
        if not implementations:
            raise TunnelError("neither swanctl (strongSwan) nor ipsec (strongSwan, Libreswan) is installed")
        looked: list[str] = []
        for look in (_read, _ask):
            found = []
            for implementation in implementations:
                answer = look(implementation, self._name)
                looked += answer.looked
                found += [(implementation, connection) for connection in answer.connections]
                if found and look is _ask:
                    break  # swanctl and ipsec show what the same charon has loaded
            if len(found) == 1:
                return found[0]
            if found:
                places = ", ".join(connection.place for _, connection in found)
                raise TunnelError(f'"{self._name}" can mean several connections: {places}')
        raise TunnelError(f"no connection of this name: looked in {', '.join(looked)}")

    def _list_implementations(self) -> tuple[Implementation, ...]:
        if self._implementations is None:
            ipsec = _find_program("ipsec", self._path)
            maker = _ask_maker(ipsec) if ipsec else ""
            swanctl = _find_program("swanctl", self._path)
            found: list[Implementation] = []
            if swanctl:
                units = ("strongswan.service", "strongswan-starter.service")
                charon = self._make_charon(units, ipsec, maker)
                found.append(BySwanctl(Swanctl(swanctl), charon, self._swanctl_conf, self._strongswan_conf))
            if maker == "strongSwan":
                units = ("strongswan-starter.service", "ipsec.service")
                charon = self._make_charon(units, ipsec, maker)
                found.append(ByStarter(Stroke(ipsec), charon, self._ipsec_conf, self._strongswan_conf))
            elif maker == "Libreswan":
                # As Libreswan's ipsec.service: checknss creates the key database if it is missing.
                commands = ((ipsec, "_stackmanager", "start"), (ipsec, "checknss"), (ipsec, "pluto"))
                daemon = Daemon(self._systemd, ("ipsec.service",), commands)
                found.append(ByLibreswan(Pluto(ipsec), daemon, self._ipsec_conf))
            self._implementations = tuple(found)
        return self._implementations

    def _make_charon(self, units: Sequence[str], ipsec: str, maker: str) -> Daemon:
        if maker == "strongSwan":
            # As Debian's /etc/init.d/ipsec does it.
            return Daemon(self._systemd, units, ((ipsec, "start"),))
        charon = _find_program("charon-systemd", self._path)
        return Daemon(self._systemd, units, ((charon,),) if charon else (), detached=True)


def explain_reason(reason: str) -> tuple[str, bool]:
    """Return a daemon's reason in the admin's words, and whether the gateway has refused a secret or password."""
    for sign, words, refused in _REASONS:
        if sign in reason:
            return f"{words} ({sign})", refused
    return reason, False


_REASONS = (
    ("NO_PROPOSAL_CHOSEN", "the gateway accepts none of the proposals", False),
    ("NO_PROP", "the gateway accepts none of the proposals", False),
    ("AUTHENTICATION_FAILED", "the gateway refused the user name, password, key or certificate", True),
    ("AUTH_FAILED", "the gateway refused the user name, password, key or certificate", True),
    ("EAP_FAILURE", "the gateway refused the user name or password", True),
    ("TS_UNACCEPTABLE", "the gateway accepts none of the networks", False),
    ("not valid yet", "a certificate is not valid yet", False),
    ("peer not responding", "no answer from its gateway", False),
    ("retransmit", "no answer from its gateway", False),
)


def _read(implementation: Implementation, name: str) -> Found:
    return implementation.read(name)


def _ask(implementation: Implementation, name: str) -> Found:
    return implementation.ask(name)


def _find_program(name: str, path: str) -> str:
    for directory in path.split(":"):
        if os.access(f"{directory}/{name}", os.X_OK):
            return f"{directory}/{name}"
    return ""


def _ask_maker(ipsec: str) -> str:
    """Return which project's ipsec(8) this is: ``strongSwan``, ``Libreswan``, or empty if unknown."""
    try:
        output = programs.run([ipsec, "--version"], 2.0).output
    except programs.ProgramError:
        return ""
    return next((maker for maker in ("strongSwan", "Libreswan") if maker in output), "")


def _read_conns(path: str, name: str) -> Found:
    reading = read_conns(path)
    found = [
        Connection(
            "",
            (name,),
            f"conn {name} in {conn.file}",
            f"auto = {conn.auto} in {conn.file}" if conn.auto in ("start", "up") else "",
        )
        for conn in reading.conns
        if conn.name == name
    ]
    return Found(tuple(found), reading.files)


def _ask_charon(client: Client, question: str, name: str) -> Found:
    asked = f"charon ({question})"
    try:
        return Found(choose(client.list_connections(), name), (asked,))
    except NotRunning:
        return Found((), (f"{asked}: it does not run",))
    except TunnelError as error:
        return Found((), (f"{asked}: {error}",))


def _ask_peer(client: Client, name: str) -> Peer:
    place = f"connection {name} in charon"
    try:
        remote, local = client.list_peers().get(name, ("", ""))
        return Peer(place, read_hosts("remote address", remote), find_family(local))
    except NotRunning:
        raise TunnelError(f"{place}: charon does not run any more") from None
    except TunnelError as error:
        raise TunnelError(f"{place}: {error}") from None


def _list_endpoints(peer: Peer, settings: str) -> tuple[Endpoint, ...]:
    """Return where the packets of charon and charon-systemd to a peer go.  settings: strongswan.conf."""
    found: list[Endpoint] = []
    for charon in swanctl_conf.read_daemons(settings):
        version = charon.version or peer.version
        narrowed = Peer(peer.place, peer.hosts, version, peer.local_port, peer.remote_port)
        found += make_endpoints(narrowed, swanctl_conf.find_flows(charon, peer))
    return tuple(dict.fromkeys(found))


def _is_up(client: Client, connections: Sequence[Connection], name: str) -> bool:
    try:
        sessions = client.list_sessions()
    except NotRunning:
        return False
    return any(is_installed(sessions, each) for each in connections or _guess(sessions, name))


def _guess(sessions: Sequence[Session], name: str) -> tuple[Connection, ...]:
    """Return what `name` can mean if it is in no configuration file: an IKE_SA of that name, or a CHILD_SA."""
    ours = tuple(child.name for session in sessions if session.name == name for child in session.children)
    return (Connection(name, ours, ""), Connection("", (name,), ""))


def _connect(client: Client, daemon: Daemon, connection: Connection) -> None:
    def is_loaded() -> bool:
        return any(
            connection.name in ("", loaded.name) and set(connection.children) <= set(loaded.children)
            for loaded in client.list_connections()
        )

    if not connection.children:
        raise TunnelError(f"{connection.place} has no children")
    if not _answers(client.list_sessions):
        daemon.start(lambda: _answers(client.list_sessions))
    # charon already answers while the starter still loads ipsec.conf, or strongswan.service swanctl.conf.
    if not is_loaded() and not wait_until(is_loaded, LOAD_TIMEOUT / 4, 0.05):
        complaint = client.load()
        if not wait_until(is_loaded, LOAD_TIMEOUT, 0.05):
            raise TunnelError(f"charon did not load it{f': {complaint}' if complaint else ''}")
    reasons = []
    for child in connection.children:
        if not is_installed(client.list_sessions(), Connection(connection.name, (child,), "")):
            reasons.append(client.initiate(connection, child))
    if not is_installed(client.list_sessions(), connection):
        raise TunnelError("; ".join(reason for reason in reasons if reason) or "no CHILD_SA was installed")


def _disconnect(client: Swanctl | Stroke, connections: Sequence[Connection], name: str) -> None:
    try:
        sessions = client.list_sessions()
        meant = connections or _guess(sessions, name)
        for connection in meant:
            for session, child in find_ending(sessions, connection):
                client.terminate(session, child)
        sessions = client.list_sessions()
        if not any(is_installed(sessions, connection) for connection in meant):
            return
        ending = [session for connection in meant for session, child in find_ending(sessions, connection) if not child]
        others = [session.name for session in sessions if session not in ending]
        if others:
            raise TunnelError(f"it is still installed, and charon can't be ended because of {', '.join(others)}")
        if not client.end_daemon():
            raise TunnelError("it is still installed")
    except NotRunning:
        return


def _answers(question: Callable[[], object]) -> bool:
    """Whether a daemon answers.  Raises `NotAllowed` if it refuses this user."""
    try:
        question()
    except NotAllowed:
        raise
    except (NotRunning, TunnelError):
        return False
    return True
