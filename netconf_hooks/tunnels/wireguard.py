"""``netconf-vpn wireguard NAME``: WireGuard by wg-quick(8), which uses the kernel's implementation or wireguard-go.

With systemd the unit ``wg-quick@NAME.service`` brings up /etc/wireguard/NAME.conf; without it we run wg-quick.  NAME is
also the interface's name.

**Connected** means that the last handshake with any peer is less than `REJECT_AFTER` seconds old: both sides reject
older sessions (WireGuard: Next Generation Kernel Network Tunnel, section 6.2).  So a dead server is noticed after at
most that time.  WireGuard sends nothing while there is no traffic.  If no handshake is recent, we send one packet to
each peer that has an endpoint, which triggers a handshake, and wait `WAKE_TIMEOUT` for it.
One connected peer is enough: each peer is a tunnel of its own, and some may be laptops that sleep.

**Its own packets** go to the endpoints in the configuration, and to those of the running interface.  The latter are
safe: WireGuard follows a peer to a new address only after an authenticated packet.  The kernel sends the packets, so
they are matched by the interface's mark, or else by its source port.
"""

from __future__ import annotations

import os
import select
import time

from netconf_hooks.record import Record
from netconf_hooks.system import apart, detached, programs
from netconf_hooks.system.addresses import split_host_port
from netconf_hooks.system.devices import LONGEST
from netconf_hooks.system.files import read_text
from netconf_hooks.system.waiting import wait_until
from netconf_hooks.tunnels import Condition, Endpoint, TunnelError, TunnelSilent, describe_relays
from netconf_hooks.tunnels.destination import read_host, read_port
from netconf_hooks.tunnels.provoke import send_into
from netconf_hooks.tunnels.services import Services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REJECT_AFTER = 180.0
"""Seconds that a session lasts: REJECT_AFTER_TIME, in the kernel's drivers/net/wireguard/messages.h as well."""

WAKE_TIMEOUT = 1.5
"""Seconds for a handshake: one round trip, and at most another one to resolve the next hop's MAC address."""

ASK_TIMEOUT = 2.0
"""Seconds for one query by wg(8), which answers in milliseconds."""

STOP_TIMEOUT = 5.0
"""Seconds for wg-quick to take the interface down, with the admin's own PreDown and PostDown."""

END_TIMEOUT = 2.0
"""Seconds that a cancelled ``wg-quick up`` may take to undo its changes."""

_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_=+.-")
"""Characters that wg-quick(8) accepts in a name, parse_options()."""

RESOLVE_TIMEOUT = 6.0
"""Seconds for the names of endpoints to be resolved: resolv.conf(5) waits 5 s for a name server."""

_WG_QUICK_MARK = 51820
"""The mark that wg-quick sets on an interface with a default route and no mark, add_default(): this number, or
the next one if there is a routing table of this number."""


class Configuration(Record):
    """The settings of a configuration for the interface's own packets.

    endpoints: host and port of each peer, as written; mark, port: mark and source port of the packets, 0 if not set.
    """

    __slots__ = ("endpoints", "mark", "port")

    def __init__(self, endpoints: tuple[tuple[str, str], ...], mark: int, port: int) -> None:
        self.endpoints = endpoints
        self.mark = mark
        self.port = port


class PeerStatus(Record):
    """A peer of an interface.

    key: its public key; endpoint: host and port, None if not known; networks: its allowed IPs; handshake: the time of
    the last one, in seconds since 1970, 0 for never; received: bytes.
    """

    __slots__ = ("key", "endpoint", "networks", "handshake", "received")

    def __init__(
        self,
        key: str,
        endpoint: tuple[str, str] | None,
        networks: tuple[str, ...] = (),
        handshake: int = 0,
        received: int = 0,
    ) -> None:
        self.key = key
        self.endpoint = endpoint
        self.networks = networks
        self.handshake = handshake
        self.received = received


class Status(Record):
    """The kernel's state of a WireGuard interface.  mark, port: mark and source port of its own packets, 0 for none."""

    __slots__ = ("mark", "port", "peers")

    def __init__(self, mark: int, port: int, peers: tuple[PeerStatus, ...]) -> None:
        self.mark = mark
        self.port = port
        self.peers = peers


class Tunnel:
    """The WireGuard interface that NAME.conf configures.

    etc: the directory of the configurations; interfaces, proc: where the kernel lists all interfaces and processes;
    wg, wg_quick, runlevel: the programs, by name or path; clock: returns the time, in seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        etc: str = "/etc/wireguard",
        interfaces: str = "/sys/class/net",
        proc: str = "/proc",
        wg: str = "wg",
        wg_quick: str = "wg-quick",
        runlevel: str = "runlevel",
        clock: Callable[[], float] = time.time,
        systemd: Services | None = None,
    ) -> None:
        self._name = name
        self._path = f"{etc}/{name}.conf"
        self._link = f"{interfaces}/{name}"
        self._proc = proc
        self._unit = f"wg-quick@{name}.service"
        self._wg = wg
        self._wg_quick = wg_quick
        self._runlevel = runlevel
        self._clock = clock
        self._systemd = systemd or Services()

    def check(self) -> None:
        """Raise `TunnelError` if the interface can't have this name, or has no configuration."""
        if not self._is_possible():
            raise TunnelError(
                f'"{self._name}" can\'t be the name of an interface: at most {LONGEST} letters, digits, and . _ -'
            )
        try:
            os.stat(self._path)
        except PermissionError:
            pass  # this user may not look
        except OSError:
            raise TunnelError(f"{self._path} is not there") from None

    def start(self) -> None:
        """Bring the interface up, unless it is up.

        Raises `TunnelError`: no configuration, wg-quick refuses the configuration, or the system is stopping.
        """
        self.check()
        there = self._is_there()
        if os.path.exists(self._link) and not there:
            raise TunnelError(f"{self._name} is an interface already, and not WireGuard's")
        if self._systemd.is_running():
            (state,) = self._systemd.show([self._unit])
            if state.active == "active" and not there:
                # Somebody has deleted the interface without systemd.
                self._systemd.restart(self._unit)
            elif state.active not in ("inactive", "failed") or not there:
                # Even if the unit is active: a stop job may be queued, which this replaces.
                self._systemd.start(self._unit)
        elif not there:
            if detached.is_halting(self._runlevel):
                raise TunnelError("the system is stopping")
            what = f'netconf-vpn "wireguard {self._name}": can\'t be started'
            reason = detached.launch(what, [self._wg_quick, "up", self._name], describe_failure)
            if reason:
                raise TunnelError(reason)

    def stop(self) -> None:
        """Take the interface down, whoever brought it up, even if its configuration is gone.  Raises `TunnelError`.

        An interface of that name that is not WireGuard's is not touched.
        """
        if not self._is_possible():
            return
        by_unit = False
        if self._systemd.is_running():
            (state,) = self._systemd.show([self._unit])
            by_unit = state.active not in ("inactive", "failed")
        else:
            self._end_launch()
        if self._is_there() and not (by_unit and os.path.exists(self._path)):
            self._take_down()
        if by_unit:
            self._systemd.stop([self._unit])

    def is_up(self) -> bool | None:
        """Whether a peer answers: see the head of this module.  None if this user may not query WireGuard.

        Takes up to `WAKE_TIMEOUT` if no peer answers.
        """
        if not self._is_possible() or not os.path.exists(self._link):
            return False
        if os.geteuid() != 0:
            return None
        try:
            before = self._read_status()
            if self._is_recent(before):
                return True
            return self._wake(before) and wait_until(lambda: self._has_shaken(before), WAKE_TIMEOUT, 0.02)
        except TunnelError:
            return None

    def is_running(self) -> bool:
        """Whether there is an interface of this name."""
        return self._is_possible() and os.path.exists(self._link)

    def inspect(self) -> Condition:
        """Return the interface's state.  It is `helpless` without a handshake: only `nudge` resolves its names again.

        There is no pid to watch: the kernel reports the end of an interface.
        """
        self.check()
        files = (self._path,)
        up = self.is_up()
        if os.path.exists(self._link):
            words = "" if up is not False else f"no handshake with {self._name_peers()}"
            return Condition(up, True, helpless=up is False, words=words, files=files, remedies=("nudge",))
        if not self._systemd.is_running():
            if self._find_launches():
                return Condition(False, True, words="wg-quick brings it up", files=files)
            return Condition(False, False, words="its interface is gone", files=files)
        state = self._systemd.read_service(self._unit)
        if state.active == "activating":
            return Condition(False, True, words="wg-quick brings it up", files=files)
        words = "its interface is gone" if state.active == "active" else ""
        if state.active == "failed":
            lines = "\n".join(self._systemd.read_journal(state))
            words = describe_failure(programs.Result(state.status or 1, lines))
        return Condition(False, False, words=words or state.describe_end() or "its interface is gone", files=files)

    def count_received(self) -> int | None:
        """Return how many bytes were received from all peers, including handshakes."""
        try:
            status = self._read_status()
        except TunnelError:
            return None
        if status is None:
            return None
        self._wake(status)
        return sum(peer.received for peer in status.peers)

    def nudge(self) -> str:
        """Resolve the names of the endpoints again, and give the interface the addresses that have changed."""
        try:
            text = read_text(self._path)
        except OSError as error:
            raise TunnelError(f"{self._path}: {error.strerror}") from None
        status = self._read_status()
        known = {peer.key: peer.endpoint for peer in _list_peers(status)}
        changed = []
        for key, (host, port) in find_named_peers(text).items():
            if key not in known:
                continue
            # Without this variable wg(8) would retry 15 times; the next nudge is the retry.
            variables = {"WG_ENDPOINT_RESOLUTION_RETRIES": "0"}
            argv = [self._wg, "set", self._name, "peer", key, "endpoint", f"{host}:{port}"]
            try:
                result = programs.run(argv, RESOLVE_TIMEOUT, variables=variables)
            except programs.ProgramError as error:
                raise TunnelError(str(error)) from None
            if result.status:
                raise TunnelError(result.output.strip() or f"wg set: exit status {result.status}")
        for peer in _list_peers(self._read_status()):
            if peer.endpoint and peer.endpoint != known.get(peer.key, peer.endpoint):
                changed.append(":".join(peer.endpoint))
        return f"its server's name has another address now: {', '.join(changed)}" if changed else ""

    def restart(self) -> None:
        """Take the interface down, and bring it up again.  Raises `TunnelError`."""
        self.stop()
        self.start()

    def _name_peers(self) -> str:
        try:
            peers = parse_configuration(read_text(self._path)).endpoints
        except (OSError, TunnelError):
            peers = ()
        names = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in peers]
        return " or ".join(names) or "any peer"

    def list_units(self) -> tuple[str, ...]:
        """Return the unit of wg-quick."""
        return (self._unit,)

    def list_relays(self) -> tuple[str, ...]:
        """Return a warning for each endpoint that is on this machine."""
        try:
            endpoints = parse_configuration(read_text(self._path)).endpoints
        except (OSError, TunnelError):
            return ()  # `check` and `endpoints` report it
        return describe_relays(host for host, _ in endpoints)

    def boot_start(self) -> str:
        """Return which link makes systemd bring the interface up at boot; empty if none does."""
        link = self._systemd.find_wants(self._unit)
        return f"{self._unit} is enabled ({link})" if link else ""

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return where the interface's own packets go, matched by mark or else by source port.

        If the interface is up, its real mark and port are used; otherwise those of the configuration, or the mark that
        wg-quick will set.  If there is neither, the kernel will choose a port, and this returns ``()`` until the
        interface is up.  Packets before the next call are lost; WireGuard repeats them after 5 s.

        Raises `TunnelError`: no configuration, one that can't be read, or an endpoint that is neither an address nor a
        name.
        """
        self.check()
        try:
            configured = parse_configuration(read_text(self._path))
        except OSError as error:
            raise TunnelError(f"{self._path}: {error.strerror}") from None
        places = [(*read_host(host), read_port(port, "udp")) for host, port in configured.endpoints]
        mark, port = configured.mark, configured.port
        status = self._read_status() if os.path.exists(self._link) else None
        if status:
            for peer in status.peers:
                if peer.endpoint:
                    host, service = peer.endpoint
                    places.append((*read_host(host), read_port(service, "udp")))
            mark, port = status.mark, status.port or port
        if not mark and not port:
            return ()
        return tuple(
            Endpoint(host, "udp", number, version, mark=mark, source_port=0 if mark else port)
            for host, version, number in dict.fromkeys(places)
        )

    def _is_possible(self) -> bool:
        return len(self._name) <= LONGEST and _NAME.issuperset(self._name)

    def _is_there(self) -> bool:
        """Whether there is a WireGuard interface of this name.  Raises `TunnelError`."""
        return self._name in self._ask(["interfaces"]).output.split()

    def _take_down(self) -> None:
        """Take the interface down as wg-quick does, with the routes, rules and packet filters that it made."""
        if os.path.exists(self._path):
            self._run_down(self._name)
            return
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as directory:
            # wg-quick needs a configuration file of this name, but finds out by itself what to undo.
            path = f"{directory}/{self._name}.conf"
            with open(path, "x", encoding="ascii") as file:
                file.write("[Interface]\n")
            os.chmod(path, 0o600)
            self._run_down(path)

    def _run_down(self, what: str) -> None:
        try:
            result = apart.run([self._wg_quick, "down", what], STOP_TIMEOUT)  # it runs the admin's PreDown and PostDown
        except programs.ProgramError as error:
            raise TunnelError(str(error)) from None
        reason = describe_failure(result)
        if reason and self._is_there():
            raise TunnelError(reason)

    def _end_launch(self) -> None:
        """End a ``wg-quick up`` of an earlier start that still waits for a name server or for the admin's PreUp.

        Otherwise it would bring the interface up after this stop, or collide with the next start.
        """
        import signal

        for pid in self._find_launches():
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                # Signal the whole group: wg-quick's trap, which undoes everything, runs only after the current command
                # has ended.
                os.killpg(pid, signal.SIGTERM)
                select.select([handle], [], [], END_TIMEOUT)
            except (ProcessLookupError, PermissionError):
                pass  # it ended by itself; not ours to end
            finally:
                os.close(handle)

    def _find_launches(self) -> list[int]:
        """Return the pids of ``wg-quick up NAME`` that we have started: `programs` makes them session leaders.

        A wg-quick that the admin started by hand belongs to the session of a shell.
        """
        found = []
        for entry in os.listdir(self._proc):
            if not entry.isdecimal():
                continue
            try:
                with open(f"{self._proc}/{entry}/cmdline", "rb") as file:
                    words = os.fsdecode(file.read()).split("\0")[:-1]
                if [os.path.basename(words[-3]), *words[-2:]] != [os.path.basename(self._wg_quick), "up", self._name]:
                    continue
                if os.getsid(int(entry)) == int(entry):
                    found.append(int(entry))
            except (OSError, IndexError):
                continue  # it has ended, or is a kernel thread
        return found

    # Whether a peer answers.

    def _read_status(self) -> Status | None:
        """Return the state of the interface, None if there is no WireGuard interface of this name.

        Raises `TunnelError`.
        """
        result = self._ask([self._name, "dump"])
        return parse_dump(result.output) if result.status == 0 else None

    def _ask(self, arguments: Sequence[str]) -> programs.Result:
        try:
            return programs.run([self._wg, "show", *arguments], ASK_TIMEOUT)
        except programs.ProgramLate as error:
            raise TunnelSilent(str(error)) from None
        except programs.ProgramError as error:
            raise TunnelError(str(error)) from None

    def _is_recent(self, status: Status | None) -> bool:
        # A handshake in the future: the clock was set back since, so the handshake's age is unknown.
        now = self._clock()
        return any(peer.handshake and 0 <= now - peer.handshake < REJECT_AFTER for peer in _list_peers(status))

    def _has_shaken(self, before: Status | None) -> bool:
        """Whether there was a handshake since the status was `before`."""
        known = {peer.key: peer.handshake for peer in _list_peers(before)}
        now = _list_peers(self._read_status())
        return any(peer.handshake and peer.handshake != known.get(peer.key) for peer in now)

    def _wake(self, status: Status | None) -> bool:
        """Send a packet to each peer, which triggers a handshake; return whether any could be sent."""
        woken = False
        for peer in _list_peers(status):
            if peer.endpoint:
                woken = any(send_into(self._name, network) for network in peer.networks) or woken
        return woken


def _list_peers(status: Status | None) -> tuple[PeerStatus, ...]:
    return status.peers if status else ()


def parse_dump(output: str) -> Status | None:
    """Read ``wg show NAME dump`` (wg(8)): a line for the interface, one for each peer, fields between tabs.

    Private and preshared keys are not kept.  Returns None if the output has another format.
    """
    interface, *rows = [line.split("\t") for line in output.splitlines()] or [[]]
    if len(interface) < 4:
        return None
    port, mark = interface[2], interface[3]
    peers = []
    for row in rows:
        if len(row) < 5:
            continue
        key, _, endpoint, networks, handshake = row[:5]
        peers.append(PeerStatus(
            key,
            split_host_port(endpoint),
            tuple(network for network in networks.split(",") if network != "(none)"),
            int(handshake) if handshake.isdecimal() else 0,
            int(row[5]) if len(row) > 5 and row[5].isdecimal() else 0,
        ))
    return Status(parse_mark(mark) or 0, int(port) if port.isdecimal() else 0, tuple(peers))


def parse_configuration(text: str) -> Configuration:
    """Read a configuration: wg-quick(8), and wg(8), "CONFIGURATION FILE FORMAT", which ignores all white space.

    Raises `TunnelError` for an endpoint, a port or a mark that wg would refuse.
    """
    section = ""
    endpoints: list[tuple[str, str]] = []
    new_peer = default_route = False
    table = ""
    mark, port = None, 0
    for line in text.split("\n"):
        words = "".join(line.partition("#")[0].split())
        key, equals, value = words.partition("=")
        key = key.lower()
        if words.startswith("["):
            section = key
            new_peer = True
        elif section == "[interface]" and key == "fwmark":
            mark = parse_mark(value)
            if mark is None:
                raise TunnelError(f'FwMark: "{value}" is no mark')
        elif section == "[interface]" and key == "listenport":
            port = 0 if value == "0" else read_port(value, "udp")
        elif section == "[interface]" and key == "table":
            table = value
        elif section == "[peer]" and key == "endpoint":
            endpoint = split_host_port(value)
            if not endpoint:
                raise TunnelError(f'Endpoint: expected "HOST:PORT" or "[ADDRESS]:PORT", not "{value}"')
            endpoints[len(endpoints) if new_peer else -1:] = [endpoint]  # of a peer's endpoints, the last one counts
            new_peer = False
        elif section == "[peer]" and key == "allowedips":
            default_route = default_route or any(network.endswith("/0") for network in value.split(","))
    if not mark and not port and default_route and table in ("", "auto"):
        mark = _WG_QUICK_MARK
    return Configuration(tuple(endpoints), mark or 0, port)


def find_named_peers(text: str) -> dict[str, tuple[str, str]]:
    """Return the endpoints of a configuration that are given by name, by the peer's public key."""
    found: dict[str, tuple[str, str]] = {}
    key = ""
    endpoint: tuple[str, str] | None = None
    for line in [*text.split("\n"), "[end]"]:
        words = "".join(line.partition("#")[0].split())
        option, _, value = words.partition("=")
        if words.startswith("["):
            if key and endpoint and not read_host(endpoint[0])[1]:
                found[key] = endpoint
            key, endpoint = "", None
        elif option.lower() == "publickey":
            key = value
        elif option.lower() == "endpoint":
            endpoint = split_host_port(value)
    return found


def parse_mark(text: str) -> int | None:
    """Read a mark in the syntax of wg(8): ``51820``, ``0xca6c``, ``off`` for 0; None if it is no mark."""
    if text == "off":
        return 0
    if not text.isascii() or not text.isalnum():
        return None
    try:
        mark = int(text, 16 if text.startswith("0x") else 10)
    except ValueError:
        return None
    return mark if mark < 1 << 32 else None


def describe_failure(result: programs.Result) -> str:
    """Return why wg-quick failed, in one line; empty if it did not.

    It prints each command as ``[#] COMMAND`` before it runs it.  If a command fails, it undoes everything and prints
    nothing more, so the last complaint is the reason.
    """
    if result.status == 0:
        return ""
    reasons: list[str] = []
    begun = False
    for line in result.output.splitlines():
        if line.startswith(("[#]", "[!]")):
            begun = True
        elif line.strip() and not line.startswith(("Warning: ", *"┌│└")) and "Trying again in" not in line:
            if begun:
                reasons = []
            begun = False
            reasons.append(line.strip())
    return "; ".join(reasons) or f"wg-quick: exit status {result.status}"
