"""``netconf-vpn openvpn NAME``: OpenVPN, by Debian's units if systemd runs, else as Debian's init script starts it.

=====================  =======================================  ====================================
configuration          with systemd                             without
=====================  =======================================  ====================================
client/NAME.conf       ``openvpn-client@NAME.service``          the daemon itself, in ``client``
NAME.conf              ``openvpn@NAME.service``                 the daemon itself
=====================  =======================================  ====================================

Without systemd this module writes to ``/run/openvpn``: it creates the directory if Debian's tmpfiles did not, and has
OpenVPN create a pid file and a status file, with the names that Debian's init script uses, and a management socket.

**Connected**: the first of these rules that gives an answer decides.

1. No OpenVPN runs for this configuration: down.
2. The management interface (the configuration's own or ours) answers: up in state CONNECTED, else down.  It gives no
   answer if it serves another client (it takes one at a time), refuses this user, or must not be asked
   (`find_management`).
3. systemd's StatusText is not yet "Initialization Sequence Completed": down.  OpenVPN does not change this text when
   it loses the connection, so the text does not prove that the tunnel is up.
4. The status file is fresh: up if bytes were decrypted since the last reconnection, down if bytes were sent and none
   received.  openvpn@ and the init script rewrite the file every 10 s, so this answer may be that old.
5. Otherwise it is unknown.  ``management /run/openvpn/NAME.sock unix`` in the configuration helps.

**Its own packets** are sent by the daemon, and matched by the users who can own its sockets: root, the unit's
``User=``, and the configuration's ``user``, who owns the sockets that are opened after a lost connection.  They are
not matched by ``mark``: a daemon that runs as ``user nobody`` may not mark its next socket, and OpenVPN then
continues without a mark.

With data channel offload (`openvpn_dco`) the kernel sends packets, too, which are matched by mark and by source port.
Without ``lport`` this port is known only while the daemon runs, and it changes after each lost connection: then
`Tunnel.endpoints` has to be called again.  ``mark`` (with the module ovpn) or ``disable-dco`` in the configuration
avoid that.
"""

from __future__ import annotations

import os
import time

from netconf_hooks.record import Record
from netconf_hooks.system import programs
from netconf_hooks.system.detached import is_halting
from netconf_hooks.system.files import check_regular, read_file, read_text
from netconf_hooks.system.waiting import wait_until
from netconf_hooks.tunnels import Condition, Endpoint, TunnelError, describe_relays, openvpn_dco
from netconf_hooks.tunnels.openvpn_conf import find_connections, read_configuration
from netconf_hooks.tunnels.openvpn_words import (
    LOGS, ManagementReply, Words, explain_log, explain_state, find_question, parse_reply, read_log
)  # fmt: skip
from netconf_hooks.tunnels.services import Services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netconf_hooks.system.systemd import ServiceState

COMPLETED = "Initialization Sequence Completed"
"""The StatusText that openvpn(8) sends when it has connected for the first time."""

LAUNCH_TIMEOUT = 3.0
"""Seconds until the daemon must have detached, which it does before it uses the network."""

STOP_TIMEOUT = 2.0
"""Seconds that `Tunnel.stop` waits for the daemon.  It may take longer to notify its server (explicit-exit-notify)."""

ASK_TIMEOUT = 1.0
"""Seconds for one query to the management interface; an idle OpenVPN answers in a millisecond."""

STATUS_INTERVAL = 10
"""Seconds between updates of the status file, in Debian's openvpn@.service and init script."""

_PASSWORDS = ("auth-user-pass", "<auth-user-pass>")
"""The options with the source of user name and password; the last one counts."""

_LONGEST_COMMAND = 1 << 22
"""Limit for the bytes read of a process's command line.  Arguments can take a quarter of the stack, execve(2)."""

_REMEDIES = ("nudge", "restart")
"""See `tunnels.Condition`."""

_NO_DEVICE = "its interface is gone"

_LAST_LINES = 40
"""How many lines at the end of a log are searched for the reason why a daemon has ended."""

_SOCKET_PATH_MAX = 107
"""Bytes in a Unix socket's path, unix(7)."""


class ConfigFile(Record):
    """A file that can have the configuration.  directory, path: absolute; unit: the systemd unit that reads it."""

    __slots__ = ("directory", "path", "unit")

    def __init__(self, directory: str, path: str, unit: str) -> None:
        self.directory = directory
        self.path = path
        self.unit = unit


class Management(Record):
    """The address of a management interface.  address: a socket's path (port 0) or an IP address."""

    __slots__ = ("address", "port")

    def __init__(self, address: str, port: int = 0) -> None:
        self.address = address
        self.port = port


class Tunnel:
    """The OpenVPN client that NAME.conf configures.

    etc, run, proc, defaults: the directories and files that OpenVPN's package uses; program, runlevel: openvpn(8) and
    runlevel(8), by name or path; offloads: returns whether this kernel can do OpenVPN's data channel offload;
    logs: the files of the system's log; links: where the kernel lists network devices.
    """

    def __init__(
        self,
        name: str,
        etc: str = "/etc/openvpn",
        run: str = "/run/openvpn",
        proc: str = "/proc",
        defaults: str = "/etc/default/openvpn",
        program: str = "openvpn",
        runlevel: str = "runlevel",
        systemd: Services | None = None,
        offloads: Callable[[], bool] = openvpn_dco.is_possible,
        logs: Sequence[str] = LOGS,
        links: str = "/sys/class/net",
    ) -> None:
        # The rules allow only [A-Za-z0-9@._-] in a name: an instance needs no escapes for these, systemd.unit(5).
        self._name = name
        self._configs = tuple(
            ConfigFile(directory, f"{directory}/{name}.conf", f"{unit}@{name}.service")
            for directory, unit in ((f"{etc}/client", "openvpn-client"), (etc, "openvpn"))
        )
        self._run = run
        self._pid_file = f"{run}/{name}.pid"
        self._status_file = f"{run}/{name}.status"
        self._socket = f"{run}/{name}.netconf-hooks.sock"
        self._proc = proc
        self._defaults = defaults
        self._program = program
        self._runlevel = runlevel
        self._systemd = systemd or Services()
        self._offloads = offloads
        self._logs = logs
        self._links = links

    def check(self) -> None:
        """Raise `TunnelError` if there is no configuration, naming the files that were searched."""
        self._find_config()

    def start(self) -> None:
        """Start the unit or the daemon, unless it already runs.

        Raises `TunnelError`: no configuration, OpenVPN refuses the configuration, or the system is stopping.
        """
        config = self._find_config()
        if self._systemd.is_running():
            self._systemd.start(config.unit)
        elif not self._find_daemons():
            self._launch(config)

    def stop(self) -> None:
        """End the tunnel, whoever started it and even if its configuration is gone.  Raises `TunnelError`."""
        if self._systemd.is_running():
            self._systemd.stop([config.unit for config in self._configs])
        else:
            self._terminate()

    def is_up(self) -> bool | None:
        """Whether OpenVPN is connected now; None if that is unknown: see the head of this module."""
        if self._systemd.is_running():
            try:
                states = self._systemd.show([config.unit for config in self._configs])
            except TunnelError:
                return None
            for config, state in zip(self._configs, states, strict=True):
                if state.active == "active":
                    return self._judge(config, self._ask(config), state.text == COMPLETED)
            return False
        if not self._read_pid():
            return False
        config_there = next((config for config in self._configs if os.path.exists(config.path)), None)
        return self._judge(config_there, self._ask(config_there), True)

    def inspect(self) -> Condition:
        """Return the daemon's state.  While it runs, it tries to connect by itself.

        The reason why it ended is read from its own log file, the journal, or the system's log.
        """
        config = self._find_config()
        service: ServiceState | None = None
        if self._systemd.is_running():
            config, service = self._find_service(config)
        try:
            options = self._read_options(config)
        except OSError:
            options = ()
        files = self._list_files(config, options)
        pid = service.pid if service else self._read_pid()
        running = service.is_running if service else bool(self._find_daemons())
        if not running:
            words = explain_log(self._read_log(config, options, service))
            final = bool(service and service.is_final)
            if not words.text and service:
                words = Words(service.describe_end())
            text = words.text or "it has ended; the system log has its reason"
            return Condition(False, False, final=final, words=text, refused=words.refused, files=files)
        reply = self._ask(config, options)
        up = self._judge(config, reply, not service or service.text == COMPLETED)
        if (service and service.active != "active") or (up is None and self._has_no_device(pid, options)):
            up = False
        if up and self._has_no_device(pid, options):
            # OpenVPN does not notice: its server's pings arrive on another socket.
            return Condition(False, True, helpless=True, pid=pid, words=_NO_DEVICE, files=files)
        if up is not False:
            return Condition(up, True, pid=pid, files=files, remedies=_REMEDIES)
        words = Words("waiting for a password (systemd-tty-ask-password-agent)")
        waits = bool(reply.waits) or find_question(pid)
        if reply.waits or not waits:
            words = explain_state(reply, self._name_server(options))
        if not waits and (reply.detail == "tls-error" or not reply.state):
            found = explain_log(self._read_log(config, options, service))
            words = found if found.text and not found.text.startswith("it was told") else words
        server = self._name_server(options) or "its server"
        text = words.text or f"no answer from {server}"
        if reply == ManagementReply() and not words.text and not service:
            # Our management interface does not answer while OpenVPN waits for a name server.
            text = f"waiting for a name server, or for an answer from {server}"
        remedies = () if waits else _REMEDIES
        return Condition(False, True, pid=pid, words=text, refused=words.refused, files=files, remedies=remedies)

    def count_received(self) -> int | None:
        """Return how many bytes were received by the tunnel; None if its device is not known (`user`, without root)."""
        from netconf_hooks.tunnels.provoke import provoke

        pid = self._find_pid()
        device = openvpn_dco.find_device(pid, self._proc) if pid else ""
        if not device and pid:
            device = self._find_device_by_address()
        try:
            received = int(read_file(f"{self._links}/{device}/statistics/rx_bytes", 32)) if device else None
        except (OSError, ValueError):
            return None
        if device:
            provoke(device)
        return received

    def nudge(self) -> str:
        """Make OpenVPN connect again: by SIGUSR1, which keeps its device, or by a restart if the device is gone."""
        from signal import SIGUSR1

        config = self._find_config()
        if self._ask(config).state == "CONNECTED" and self._has_no_device(self._find_pid(), self._read_config(config)):
            self.restart()
            return "restarted"

        return "told to connect again (SIGUSR1)" if self._send_signal(SIGUSR1) else ""

    def restart(self) -> None:
        """End the daemon, which deletes its device and the routes through it, and start it again."""
        from signal import SIGKILL

        config = self._find_config()
        if self._systemd.is_running():
            config, _ = self._find_service(config)
            self._systemd.restart(config.unit)
            return
        self._terminate()
        if self._find_daemons():
            # The daemon still notifies its server (explicit-exit-notify), which may be dead.
            self._send_signal(SIGKILL)
            wait_until(lambda: not self._find_daemons(), STOP_TIMEOUT)
        self.start()

    def is_running(self) -> bool:
        """Whether OpenVPN runs for this configuration."""
        if self._systemd.is_running():
            return self._systemd.is_active([config.unit for config in self._configs])
        return bool(self._read_pid())

    def list_units(self) -> tuple[str, ...]:
        """Return the unit of the configuration."""
        return (self._find_config().unit,)

    def list_warnings(self) -> tuple[str, ...]:
        """Return a warning for each option that makes OpenVPN wait for somebody's input."""
        try:
            options = self._read_options(self._find_config())
        except (OSError, TunnelError):
            return ()  # `check` and `endpoints` report it
        found = []
        if ("management-hold",) in options:
            found.append("management-hold: it does not connect until somebody releases it at its management interface")
        if options and ("auth-user-pass",) == next((each for each in options[::-1] if each[0] in _PASSWORDS), None):
            found.append("auth-user-pass without a file: it asks for a user name and a password, and nobody is there")
        return tuple(found)

    def list_relays(self) -> tuple[str, ...]:
        """Return a warning for each server or proxy that is on this machine."""
        try:
            connections = find_connections(self._read_options(self._find_config()))
        except (OSError, TunnelError):
            return ()
        return describe_relays(connection.host for connection in connections)

    def boot_start(self) -> str:
        """Return what else starts this tunnel at boot, an enabled unit or OpenVPN's AUTOSTART; empty if nothing."""
        for config in self._configs:
            link = self._systemd.find_wants(config.unit)
            if link:
                return f"{config.unit} is enabled ({link})"
        if not os.path.exists(self._configs[1].path):
            return ""  # AUTOSTART searches only /etc/openvpn
        by_systemd = self._systemd.is_running()
        if by_systemd and not self._systemd.find_wants("openvpn.service"):
            return ""  # openvpn.service starts the units in AUTOSTART, openvpn-generator
        value = self._read_default("AUTOSTART")
        if value is None:
            return f"AUTOSTART is not set in {self._defaults}, which means all"
        # Empty means all to openvpn-generator, none to the init script.
        if value == "all" or (by_systemd and not value) or (value != "none" and self._name in value.split()):
            return f'AUTOSTART="{value}" in {self._defaults}'
        return ""

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return where OpenVPN's own packets go: to its remotes, or to its proxies.

        This is read from the configuration, as OpenVPN would read it at its next start.  Only the source port of data
        channel offload is read from the running daemon.  Raises `TunnelError`: no configuration, remotes that can't be
        known beforehand, or a user that does not exist here.
        """
        config = self._find_config()
        unit = self._systemd.read_properties(config.unit, ("User", "MainPID")) if self._systemd.is_running() else {}
        try:
            options = self._read_options(config)
        except OSError as error:
            raise TunnelError(f"{error.filename}: {error.strerror}") from None
        connections = find_connections(options)
        uids = find_uids(options, unit.get("User", ""))
        found = [Endpoint(way.host, way.protocol, way.port, way.version, uids) for way in connections]
        if openvpn_dco.is_wanted(options) and self._offloads():
            pid = int(unit["MainPID"]) if unit.get("MainPID", "").isdecimal() else self._read_pid()
            running = openvpn_dco.find_ports(pid, self._proc) if pid else ()
            mark = find_mark(options)
            for way in connections:
                if way.protocol == "udp":
                    where = (way.host, way.protocol, way.port, way.version)
                    found += [Endpoint(*where, mark=mark)] if mark else []
                    found += [Endpoint(*where, source_port=port) for port in sorted({way.local_port, *running} - {0})]
        return tuple(dict.fromkeys(found))

    def _read_options(self, config: ConfigFile) -> tuple[tuple[str, ...], ...]:
        """Return all options of the daemon: first those of its command line, then those of the configuration."""
        before: tuple[tuple[str, ...], ...] = ()
        if not self._systemd.is_running():
            before = parse_arguments((self._read_default("OPTARGS") or "").split())
        elif config.unit.startswith("openvpn-client@"):
            before = (("nobind",),)  # in the unit's ExecStart=
        return (*before, *read_configuration(config.path))

    def _find_config(self) -> ConfigFile:
        for config in self._configs:
            if os.path.exists(config.path):
                return config
        client, plain = self._configs
        for config in self._configs:
            other = f"{config.path.removesuffix('.conf')}.ovpn"
            if os.path.exists(other):
                raise TunnelError(
                    f"neither {client.path} nor {plain.path} is there, but {other} is: Debian's units and this program "
                    f"only read .conf: mv {other} {config.path}"
                )
        raise TunnelError(f"neither {client.path} nor {plain.path} is there")

    # The daemon itself, if systemd does not run.

    def _launch(self, config: ConfigFile) -> None:
        """Start the daemon, as start_vpn() of Debian's /etc/init.d/openvpn does.  Raises `TunnelError`."""
        if is_halting(self._runlevel):
            raise TunnelError("the system is stopping")
        try:
            options = read_configuration(config.path)
            if not os.path.isdir(self._run):
                os.mkdir(self._run)
                os.chmod(self._run, 0o755)  # whatever umask ifup was called with
        except OSError as error:
            raise TunnelError(f"{error.filename}: {error.strerror}") from None
        given = {option[0] for option in options}
        # The last of a repeated option wins: the configuration may change the options before --config, and not those
        # after it.
        argv = [self._program, *(self._read_default("OPTARGS") or "").split()]
        argv += ["--status", self._status_file, str(STATUS_INTERVAL), "--cd", config.directory, "--config", config.path]
        argv += ["--writepid", self._pid_file]
        if not any(name.startswith("management") for name in given) and len(self._socket) <= _SOCKET_PATH_MAX:
            # All users can write to OpenVPN's socket; with this option it hangs up on all but root.
            argv += ["--management", self._socket, "unix", "--management-client-user", "root"]
        # Last, since complaints about options after --daemon go to syslog and not to us.
        daemon = [] if "daemon" in given else ["--daemon", f"ovpn-{self._name}"]
        try:
            result = programs.run([*argv, *daemon], LAUNCH_TIMEOUT)
            if result.status:
                reason = find_complaint(result.output) or self._ask_why(argv)
                raise TunnelError(reason)
        except programs.ProgramError as error:
            raise TunnelError(str(error)) from None
        # OpenVPN writes its pid once it is in the background.  Wait for that, or the next hook would start another one.
        if not wait_until(self._read_pid, 1.0):
            raise TunnelError("it ended right after its start; the system log has its reason")

    def _ask_why(self, argv: Sequence[str]) -> str:
        """Return why OpenVPN did not start: it only told syslog, so run it again in the foreground.

        This run can't connect: it ends when it opens its management interface, since no socket can be created at that
        path.
        """
        result = programs.run([*argv, "--management", f"{self._proc}/none", "unix"], LAUNCH_TIMEOUT)
        return find_complaint(result.output) or "it did not start; the system log has its reason"

    def _terminate(self) -> None:
        """End the daemon, whoever started it, even if it has not written its pid file yet.

        Raises `TunnelError`.
        """
        from signal import SIGTERM

        if not self._send_signal(SIGTERM):
            return
        wait_until(lambda: not self._find_daemons(), STOP_TIMEOUT)
        # If it was still starting, the signal may have ended only its parent.
        self._send_signal(SIGTERM)
        if not self._read_pid():
            # A daemon with `user nobody` can't remove them itself.
            for path in (self._pid_file, self._status_file, self._socket):
                try:
                    _remove(path)
                except OSError:
                    pass  # read-only or not ours: harmless, the next start replaces it

    def _send_signal(self, number: int) -> bool:
        """Send a signal to the daemon, or to all processes of one that is starting; return whether there was any.

        Raises `TunnelError`.
        """
        from signal import pidfd_send_signal

        found = False
        pids = (self._find_pid(),) if self._systemd.is_running() else self._find_daemons()
        for pid in pids:
            try:
                handle = os.pidfd_open(pid) if pid else -1
            except ProcessLookupError:
                continue
            try:
                # Check the pid again: it may have been reused before the handle was opened, but not since.
                if pid and self._is_ours(pid):
                    pidfd_send_signal(handle, number)
                    found = True
            except ProcessLookupError:
                pass  # it ended by itself
            except PermissionError:
                raise TunnelError(f"not allowed to end process {pid}") from None
            finally:
                if pid:
                    os.close(handle)
        return found

    def _find_pid(self) -> int:
        """Return the pid of the running daemon, or 0."""
        if not self._systemd.is_running():
            return self._read_pid()
        try:
            _, service = self._find_service(self._find_config())
        except TunnelError:
            return 0
        return service.pid

    def _find_service(self, config: ConfigFile) -> tuple[ConfigFile, ServiceState]:
        """Return the unit that runs, or else that of `config`, and its state.  Raises `TunnelError`."""
        for other in self._configs:
            service = self._systemd.read_service(other.unit)
            if service.is_running:
                return other, service
        return config, self._systemd.read_service(config.unit)

    def _find_daemons(self) -> tuple[int, ...]:
        """Return the pid of this tunnel's daemon; while it is starting, the pids of all its processes.

        A daemon writes its pid file once it has detached; until then the daemon and its parent have the same command
        line.
        """
        pid = self._read_pid()
        if pid:
            return (pid,)
        found = []
        for entry in os.listdir(self._proc):
            if entry.isdecimal() and self._is_ours(int(entry), "--writepid", self._pid_file):
                found.append(int(entry))
        return tuple(found)

    def _read_pid(self) -> int:
        """Return the pid of this tunnel's running daemon from its pid file, or 0.

        A pid file survives a crash, and pids are reused, so the process must be an OpenVPN with our configuration.
        """
        try:
            pid = int(read_file(self._pid_file, 32))
        except (OSError, ValueError):
            return 0
        return pid if self._is_ours(pid) else 0

    def _is_ours(self, pid: int, *words: str) -> bool:
        """Whether a process is an OpenVPN with our configuration, and with `words` in its command line."""
        try:
            line = os.fsdecode(read_file(f"{self._proc}/{pid}/cmdline", _LONGEST_COMMAND)).split("\0")
        except OSError:
            return False
        ours = {f"{self._name}.conf"}.union(config.path for config in self._configs)
        if os.path.basename(line[0]) != os.path.basename(self._program) or ours.isdisjoint(line[1:]):
            return False
        return set(words) <= set(line[1:])

    # Server, files, log and device.

    def _name_server(self, options: Sequence[Sequence[str]]) -> str:
        """Return where OpenVPN sends its packets, in words; empty if that can't be known."""
        try:
            ways = find_connections(options)
        except TunnelError:
            return ""
        named = [f"[{way.host}]" if ":" in way.host else way.host for way in ways]
        names = dict.fromkeys(f"{name}:{way.port}/{way.protocol}" for name, way in zip(named, ways, strict=True))
        first = next(iter(names), "")
        return f"{first} and {len(names) - 1} others" if len(names) > 1 else first

    def _list_files(self, config: ConfigFile, options: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """Return the files that hold the configuration and the user name and password."""
        named = [option[1] for option in options if option[0] in ("auth-user-pass", "askpass") and len(option) > 1]
        return (config.path, *(os.path.join(config.directory, name) for name in named))

    def _read_log(
        self, config: ConfigFile, options: Sequence[Sequence[str]], service: ServiceState | None
    ) -> list[str]:
        """Return the last lines of the daemon's log: from its own file, the journal, or the system's log."""
        own = [option[1] for option in options if option[0] in ("log", "log-append") and len(option) > 1]
        if own:
            return read_log(os.path.join(config.directory, own[-1]))[-_LAST_LINES:]
        if service:
            return self._systemd.read_journal(service, _LAST_LINES)
        try:
            pid = int(read_file(self._pid_file, 32))
        except (OSError, ValueError):
            return []
        found = (read_log(path, (f"[{pid}]: ",)) for path in self._logs)
        return next((lines[-_LAST_LINES:] for lines in found if lines), [])

    def _has_no_device(self, pid: int, options: Sequence[Sequence[str]]) -> bool:
        """Whether the daemon has certainly not opened its device, and so is not connected."""
        device = next((option[1] for option in options if option[0] == "dev" and len(option) > 1), "null")
        if not pid or device == "null" or os.geteuid() != 0:
            return False
        if not os.access(f"{self._proc}/{pid}/fdinfo/0", os.R_OK):
            return False  # we may not look
        return not openvpn_dco.find_device(pid, self._proc) and not self._offloads()

    def _find_device_by_address(self) -> str:
        """Return the device with the tunnel's own address, which the management interface reports; empty if none."""
        from netconf_hooks.system.netlink import Netlink, NetlinkError

        address = self._ask(self._find_config()).address
        try:
            with Netlink() as netlink:
                for name in os.listdir(self._links) if address else ():
                    link = netlink.get_link(name)
                    if link and address in [own.address for own in netlink.list_addresses(link.index)]:
                        return name
        except (NetlinkError, OSError):
            pass
        return ""

    def _read_default(self, variable: str) -> str | None:
        """Return a shell variable of /etc/default/openvpn as its last assignment sets it; None if it is not set."""
        import shlex

        try:
            words = shlex.split(read_text(self._defaults), comments=True)
        except (OSError, ValueError):  # ValueError: an unfinished quote, which the shell refuses, too
            return None
        value = None
        for word in words:
            name, equals, text = word.partition("=")
            if equals and name == variable:
                value = text.strip()
        return value

    # Whether it is connected.

    def _ask(self, config: ConfigFile | None, options: Sequence[Sequence[str]] | None = None) -> ManagementReply:
        """Return the reply of the management interface: the configuration's own, or ours."""
        if options is None:
            options = self._read_config(config)
        own = find_management(options, config.directory) if config else None
        for management in (own, Management(self._socket)):
            reply = ask(management) if management else ManagementReply()
            if reply != ManagementReply():
                return reply
        return ManagementReply()

    def _read_config(self, config: ConfigFile | None) -> Sequence[Sequence[str]]:
        try:
            return read_configuration(config.path) if config else ()
        except OSError:
            return ()  # this user may not read it, or it was just removed

    def _judge(self, config: ConfigFile | None, reply: ManagementReply, completed: bool) -> bool | None:
        """Return whether the running OpenVPN is connected.

        reply: of its management interface; completed: False if it has certainly never been connected.
        """
        if reply.state or reply.waits:
            return reply.state == "CONNECTED"
        if not completed:
            return False
        options = self._read_config(config)
        path, interval = self._status_file, STATUS_INTERVAL
        for option in options:
            if option[0] == "status" and len(option) > 1 and config:
                path = os.path.join(config.directory, option[1])
                interval = int(option[2]) if len(option) > 2 and option[2].isdecimal() else 60
        try:
            # O_NONBLOCK: it may be a FIFO.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, encoding="ascii", errors="replace") as file:
                check_regular(descriptor, path)
                if abs(time.time() - os.fstat(file.fileno()).st_mtime) > interval + 5:
                    return None
                return judge_status(file.read(4096))
        except OSError:
            return None


def parse_arguments(arguments: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Read the options of an OpenVPN command line: ``--NAME PARAMETER...``."""
    options: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--"):
            options.append([argument[2:]])
        elif options:
            options[-1].append(argument)
    return tuple(map(tuple, options))


def find_uids(options: Sequence[Sequence[str]], unit_user: str) -> tuple[int, ...]:
    """Return the users who can own the daemon's sockets, root first.

    unit_user: the unit's ``User=``, a name or number, empty for root.  The last ``user`` line counts.
    Raises `TunnelError` for a user who does not exist here: OpenVPN would not start.
    """
    import pwd

    names = [option[1] for option in options if option[0] == "user" and len(option) == 2][-1:]
    uids = [0]
    try:
        if unit_user:
            name = f"User={unit_user}"
            uids.append(int(unit_user) if unit_user.isdecimal() else pwd.getpwnam(unit_user).pw_uid)
        for user in names:
            name = f"user {user}"
            uids.append(pwd.getpwnam(user).pw_uid)
    except (KeyError, ValueError):  # ValueError: a NUL, which can't be in a C string
        raise TunnelError(f'"{name}": this machine has no such user') from None
    return tuple(dict.fromkeys(uids))


def find_mark(options: Sequence[Sequence[str]]) -> int:
    """Return the mark of the daemon's socket, 0 for none: the last ``mark``, a decimal number."""
    mark = 0
    for option in options:
        if option[0] == "mark" and len(option) == 2:
            digits = option[1]
            mark = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 10 else 0
    return mark if mark < 1 << 32 else 0


def find_complaint(output: str) -> str:
    """Return the reason that OpenVPN printed before it gave up, in one line; empty if it printed none.

    The reason is each options error, and the line before "Exiting due to fatal error".
    """
    # Until it has read --daemon, OpenVPN puts "2026-11-23 10:54:53 " before some lines.
    lines = [line[20:] if line[4:5] == line[7:8] == "-" else line for line in output.splitlines()]
    complaints = []
    for line, following in zip(lines, [*lines, ""][1:], strict=True):
        fatal = following == "Exiting due to fatal error" and not line.startswith("MANAGEMENT: ")
        if fatal or (line.startswith("Options error: ") and not line.endswith("Please correct these errors.")):
            complaints.append(line)
    return "; ".join(complaints)


def find_management(options: Sequence[Sequence[str]], directory: str) -> Management | None:
    """Return the management interface of a configuration, or None if we must not or can't query it.

    directory: the directory for relative paths.  None is returned for an interface with a password (a third parameter),
    and if OpenVPN itself connects to its client (management-client).  Disconnecting must be harmless: with
    management-signal it would restart the tunnel, with management-forget-disconnect OpenVPN would forget the passwords.
    Nor do we query an interface given by name (or by the word ``tunnel``), since resolving the name could take long.
    """
    found = None
    for option in options:
        if option[0] in ("management-client", "management-signal", "management-forget-disconnect"):
            return None
        if option[0] == "management":
            found = None
            if len(option) == 3 and option[2] == "unix":
                found = Management(os.path.join(directory, option[1]))
            elif len(option) == 3 and option[2].isdecimal() and (option[1][0:1].isdigit() or ":" in option[1]):
                found = Management(option[1], int(option[2]))
    return found


def ask(management: Management) -> ManagementReply:
    """Return OpenVPN's state (``CONNECTED``, ``RECONNECTING``, ...); an empty reply if there is no answer.

    management-notes.txt of OpenVPN, "COMMAND -- state".  OpenVPN serves one client at a time: if another client is
    connected, this gives up after `ASK_TIMEOUT`.
    """
    import _socket

    deadline = time.monotonic() + ASK_TIMEOUT
    reply = ManagementReply()
    address: str | tuple[str, int] = management.address
    family = _socket.AF_UNIX
    if management.port:
        address = (management.address, management.port)
        family = _socket.AF_INET6 if ":" in management.address else _socket.AF_INET
    connection = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(ASK_TIMEOUT)
        connection.connect(address)
        connection.send(b"state\n")
        received = b""
        while time.monotonic() < deadline and len(received) < 65536:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            data = connection.recv(4096)
            if not data:
                break
            received += data
            reply = parse_reply(received.decode("ascii", "replace"))
            if reply.state:
                break
    except (OSError, ValueError, OverflowError):  # ValueError: an embedded NUL; OverflowError: a port above 65535
        pass
    finally:
        connection.close()
    return reply


def judge_status(text: str) -> bool | None:
    """Return whether a client is connected, by its status file (``--status``, openvpn(8)); None if that is unknown.

    OpenVPN resets the counters at each reconnection.  "Auth read bytes" counts decrypted bytes, which prove a session.
    All counters are zero before the first packet.
    """
    counts = {}
    for line in text.splitlines():
        name, comma, value = line.partition(",")
        if comma and value.isdecimal():
            counts[name] = int(value)
    if counts.get("Auth read bytes", 0):
        return True
    if counts.get("TCP/UDP write bytes", 0) and counts.get("TCP/UDP read bytes") == 0:
        return False
    return None


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
