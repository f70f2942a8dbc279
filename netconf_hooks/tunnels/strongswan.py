"""strongSwan: its daemon charon, by swanctl(8) and by ipsec(8).

Two programs talk to charon: swanctl over vici, and ipsec(8) over stroke, the older protocol, which loads
``ipsec.conf``.  Both show all connections and all security associations, whichever of them loaded these.
Exit statuses are unreliable (``ipsec up`` exits with 0 if the connection failed or does not exist), so the output is
parsed.
"""

from __future__ import annotations

import os
import re
import select

from netconf_hooks.record import Record
from netconf_hooks.system import programs
from netconf_hooks.system.files import read_file
from netconf_hooks.system.waiting import wait_until
from netconf_hooks.tunnels import TunnelError, TunnelSilent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ASK_TIMEOUT = 3.0
"""Seconds for one query; a healthy charon answers within 10 ms."""

INITIATE_TIMEOUT = 30
"""Seconds that `initiate` waits for the gateway.  charon itself keeps trying for 165 s (strongswan.conf,
charon.retransmit_*)."""

DELETE_TIMEOUT = 1
"""Seconds that a gateway has to confirm the end of a tunnel; afterwards we delete it here anyway."""

END_TIMEOUT = 3.0
"""Seconds that charon has to exit: it notifies its gateways, but does not wait for answers."""

_LIVE = ("INSTALLED", "UPDATING", "REKEYING")
"""States of a CHILD_SA in which packets pass (child_sa.h, child_sa_state_t).  UPDATING: MOBIKE changes addresses."""

_LEAVING = ("DELETING", "DESTROYING")
"""States of an IKE_SA that is being deleted (ike_sa.h, ike_sa_state_t)."""


class NotRunning(Exception):
    """charon does not run, or runs without the plugin for this client."""


class NotAllowed(TunnelError):
    """This user may not talk to charon."""


class Child(Record):
    """A CHILD_SA.  ident: its number; state: as charon calls it, ``INSTALLED`` when packets can pass."""

    __slots__ = ("name", "ident", "state")

    def __init__(self, name: str, ident: str, state: str) -> None:
        self.name = name
        self.ident = ident
        self.state = state


class Session(Record):
    """An IKE_SA with its CHILD_SAs.

    ident: its number; state: as charon calls it, ``ESTABLISHED``, ``CONNECTING``.
    waits: whether the gateway has not answered the last request yet: MOBIKE, dead peer detection, rekeying.
    """

    __slots__ = ("name", "ident", "state", "children", "waits")

    def __init__(
        self, name: str, ident: str, state: str, children: tuple[Child, ...], waits: bool = False
    ) -> None:
        self.name = name
        self.ident = ident
        self.state = state
        self.children = children
        self.waits = waits


class Connection(Record):
    """A connection, or one child of it, that a rule can mean.

    name: the connection's name; empty if it is not known, then all connections match; children: the names of its
    children that are meant; place: where it is configured, in words; start: the setting by which it starts with the
    daemon, in words, or empty.
    """

    __slots__ = ("name", "children", "place", "start")

    def __init__(self, name: str, children: tuple[str, ...], place: str, start: str = "") -> None:
        self.name = name
        self.children = children
        self.place = place
        self.start = start


def is_installed(sessions: Sequence[Session], connection: Connection) -> bool:
    """Whether each child of `connection` has a CHILD_SA through which packets pass."""
    live = {
        child.name
        for session in sessions
        if session.state not in _LEAVING and connection.name in ("", session.name)
        for child in session.children
        if child.state in _LIVE
    }
    return bool(connection.children) and live.issuperset(connection.children)


def find_ending(sessions: Sequence[Session], connection: Connection) -> tuple[tuple[Session, Child | None], ...]:
    """Return what has to be ended to end `connection`: single CHILD_SAs, or whole IKE_SAs (None instead of a child).

    An IKE_SA is ended as a whole if all its CHILD_SAs are ours, also if it has none yet.
    """
    ending: list[tuple[Session, Child | None]] = []
    for session in sessions:
        if connection.name not in ("", session.name):
            continue
        ours = [child for child in session.children if child.name in connection.children]
        if len(ours) == len(session.children):
            if ours or connection.name or session.name in connection.children:
                ending.append((session, None))
        else:
            ending += [(session, child) for child in ours]
    return tuple(ending)


def choose(connections: Sequence[Connection], name: str) -> tuple[Connection, ...]:
    """Return what `name` can mean among `connections`: a connection with all its children, or a single child."""
    chosen = tuple(connection for connection in connections if connection.name == name)
    by_child = tuple(
        Connection(connection.name, (name,), f"child {name} of {connection.place}", connection.start)
        for connection in connections
        if connection.name != name and name in connection.children
    )
    return chosen + by_child


# By swanctl, over vici.


class Swanctl:
    """charon, by swanctl(8)."""

    def __init__(self, program: str = "swanctl") -> None:
        self.program = program

    def list_sessions(self) -> tuple[Session, ...]:
        """Return all IKE_SAs.  Raises `NotRunning`, `NotAllowed`, `TunnelError`."""
        return read_sessions(parse_vici(self._ask("--list-sas", "--pretty")))

    def list_connections(self) -> tuple[Connection, ...]:
        """Return all connections that charon has loaded.  Raises `NotRunning`, `NotAllowed`, `TunnelError`."""
        return read_connections(parse_vici(self._ask("--list-conns", "--pretty")))

    def list_peers(self) -> dict[str, tuple[str, str]]:
        """Return the addresses of all connections that charon has loaded: see `read_peers`.

        Raises as `list_connections`.
        """
        return read_peers(parse_vici(self._ask("--list-conns", "--pretty")))

    def load(self) -> str:
        """Make charon load swanctl.conf, and return its complaints."""
        result = self._run(5 * ASK_TIMEOUT, "--load-all", "--noprompt")
        return "; ".join(line for line in _lines(result.output) if "fail" in line or "error" in line.lower())

    def initiate(self, connection: Connection, child: str) -> str:
        """Bring up a child; return why it is not up, empty if it is.

        Waits for the gateway, at most `INITIATE_TIMEOUT`.  Raises `TunnelError`.
        """
        ike = ("--ike", connection.name) if connection.name else ()
        limit = ("--timeout", str(INITIATE_TIMEOUT))
        result = self._run(INITIATE_TIMEOUT + ASK_TIMEOUT, "--initiate", *ike, "--child", child, *limit)
        return find_reason(result.output)

    def terminate(self, session: Session, child: Child | None) -> None:
        """End an IKE_SA, or one CHILD_SA of it, whether or not the gateway answers.  Raises `TunnelError`."""
        what = ("--child-id", child.ident) if child else ("--ike-id", session.ident)
        # It is no error if it has already ended.
        self._run(DELETE_TIMEOUT + ASK_TIMEOUT, "--terminate", *what, "--force", "--timeout", str(DELETE_TIMEOUT))

    def end_daemon(self) -> bool:
        """Return False: `terminate` always succeeds."""
        return False

    def _ask(self, *arguments: str) -> str:
        result = self._run(ASK_TIMEOUT, *arguments)
        _require_running(result.output)
        if result.status:
            raise TunnelError(f"{self.program} {arguments[0]}: {find_reason(result.output)}")
        return result.output

    def _run(self, timeout: float, *arguments: str) -> programs.Result:
        return _run([self.program, *arguments], timeout)


class Tree:
    """A section of a vici message, filled by the parser: values by key, lists by key, sections by name."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {}
        self.sections: dict[str, Tree] = {}


def parse_vici(output: str) -> tuple[Tree, ...]:
    """Read the output of ``swanctl --pretty``: the events in their order, each as a tree.

    Don't use ``--raw``, which prints a whole message on one line: a value, such as the gateway's identity, could then
    be mistaken for another element.  ``--pretty`` prints one element on a line.  Lines before the first event are
    complaints about plugins.
    """
    events = []
    stack: list[Tree] = []
    elements: list[str] | None = None
    depth = 0
    for line in output.splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip(" "))
        if elements is not None:
            if indent > depth:
                elements.append(text)
                continue
            elements = None
        if not stack:
            if line.endswith(" event {"):
                stack = [Tree()]
                events.append(stack[0])
        elif text == "}":
            stack.pop()
        elif " = " in text:
            key, _, value = text.partition(" = ")
            if value == "[":
                elements, depth = stack[-1].lists.setdefault(key, []), indent
            else:
                stack[-1].values[key] = value
        elif text.endswith(" {"):
            section = Tree()
            stack[-1].sections[text[:-2]] = section
            stack.append(section)
    return tuple(events)


def read_sessions(events: Sequence[Tree]) -> tuple[Session, ...]:
    """Return the IKE_SAs in the events of ``swanctl --list-sas``."""
    sessions = []
    for event in events:
        for name, ike in event.sections.items():
            children = ike.sections.get("child-sas", Tree()).sections.values()
            sessions.append(
                Session(
                    name,
                    ike.values.get("uniqueid", ""),
                    ike.values.get("state", ""),
                    tuple(
                        Child(child.values.get("name", ""), child.values.get("uniqueid", ""), child.values["state"])
                        for child in children
                        if "state" in child.values
                    ),
                    bool(ike.lists.get("tasks-active")),
                )
            )
    return tuple(sessions)


def read_connections(events: Sequence[Tree]) -> tuple[Connection, ...]:
    """Return the connections in the events of ``swanctl --list-conns``."""
    return tuple(
        Connection(name, tuple(conn.sections.get("children", Tree()).sections), f"connection {name} in charon")
        for event in events
        for name, conn in event.sections.items()
    )


def read_peers(events: Sequence[Tree]) -> dict[str, tuple[str, str]]:
    """Return the remote and local addresses of the connections in the events of ``swanctl --list-conns``, in the syntax
    of swanctl.conf."""
    return {
        name: (",".join(conn.lists.get("remote_addrs", ())), ",".join(conn.lists.get("local_addrs", ())))
        for event in events
        for name, conn in event.sections.items()
    }


# By ipsec, over stroke.


class Stroke:
    """charon, by ipsec(8) of strongSwan.  pid_file, proc: charon's pid file, and procfs."""

    def __init__(self, program: str = "ipsec", pid_file: str = "/run/charon.pid", proc: str = "/proc") -> None:
        self.program = program
        self._pid_file = pid_file
        self._proc = proc

    def list_sessions(self) -> tuple[Session, ...]:
        """Return all IKE_SAs.  Raises `NotRunning`, `NotAllowed`, `TunnelError`."""
        return parse_status(self._ask("statusall"))

    def list_connections(self) -> tuple[Connection, ...]:
        """Return all connections that charon has loaded.  Raises `NotRunning`, `NotAllowed`, `TunnelError`."""
        return parse_status_connections(self._ask("statusall"))

    def list_peers(self) -> dict[str, tuple[str, str]]:
        """Return the addresses of all connections that charon has loaded.  Raises as `list_connections`."""
        return parse_status_peers(self._ask("statusall"))

    def load(self) -> str:
        """Make the starter read ipsec.conf and ipsec.secrets again, and return its complaints."""
        self._run(ASK_TIMEOUT, "rereadsecrets")
        result = self._run(ASK_TIMEOUT, "update")
        return "; ".join(line for line in _lines(result.output) if not line.startswith("Updating strongSwan"))

    def initiate(self, connection: Connection, child: str) -> str:
        """Bring up a connection; return why it is not up, empty if it is.

        Waits for the gateway, at most `INITIATE_TIMEOUT`.
        """
        try:
            result = programs.run([self.program, "up", child], INITIATE_TIMEOUT)
        except programs.ProgramError:
            return f"connection '{child}' not established after {INITIATE_TIMEOUT} s"
        return find_reason(result.output)

    def terminate(self, session: Session, child: Child | None) -> None:
        """End an IKE_SA, or one CHILD_SA of it, whether or not the gateway answers.  Raises `TunnelError`."""
        what = f"{child.name}{{{child.ident}}}" if child else f"{session.name}[{session.ident}]"
        self._run(ASK_TIMEOUT, "stroke", "down-nb", what)
        if not wait_until(lambda: not self._has(session, child), DELETE_TIMEOUT, 0.02):
            # The second request destroys an IKE_SA that is being deleted, without waiting for the gateway.
            self._run(ASK_TIMEOUT, "stroke", "down-nb", f"{session.name}[{session.ident}]")

    def end_daemon(self) -> bool:
        """End charon, with all its connections; return whether it has ended.  The starter starts it again after 5 s.

        Unlike swanctl, ipsec(8) can't force the end of a connection: while an exchange is pending (MOBIKE with a
        gateway that died), the request waits in a queue until charon gives up, after 165 s.
        """
        from signal import SIGTERM, pidfd_send_signal

        try:
            pid = int(read_file(self._pid_file, 32))
            handle = os.pidfd_open(pid)
        except (OSError, ValueError):
            return False
        try:
            # Check the pid: it may have been reused before the handle was opened, but not since.
            if read_file(f"{self._proc}/{pid}/comm", 64).strip() != b"charon":
                return False
            pidfd_send_signal(handle, SIGTERM)
            return bool(select.select([handle], [], [], END_TIMEOUT)[0])
        except OSError:
            return False
        finally:
            os.close(handle)

    def _has(self, session: Session, child: Child | None) -> bool:
        for found in self.list_sessions():
            if found.ident == session.ident:
                return not child or child.ident in [other.ident for other in found.children]
        return False

    def _ask(self, command: str) -> str:
        result = self._run(ASK_TIMEOUT, command)
        if "Security Associations (" not in result.output:
            _require_running(result.output)
            raise NotRunning
        return result.output

    def _run(self, timeout: float, *arguments: str) -> programs.Result:
        return _run([self.program, *arguments], timeout)


# stroke_list.c: "%12s[%d]: %N" and "%12s{%d}:  %N, %N".
_STATUS_LINE = re.compile(r" *(?P<name>\S.*?)(?P<kind>[\[{])(?P<ident>\d+)[\]}]: +(?P<state>[A-Z]+)\b")

_TASKS = "]: Tasks active: "


def parse_status(output: str) -> tuple[Session, ...]:
    """Return the IKE_SAs in the output of ``ipsec statusall``, which prints each before its CHILD_SAs."""
    sessions: list[Session] = []
    for line in output.partition("Security Associations (")[2].splitlines()[1:]:
        match = _STATUS_LINE.match(line)
        if _TASKS in line and sessions:
            sessions.append(sessions.pop().change(waits=True))  # stroke_list.c prints the line only if there are any
            continue
        if match and match["kind"] == "[":
            if sessions and sessions[-1].ident == match["ident"]:
                continue  # another line about the same IKE_SA, "work[1]: IKE proposal: ..."
            sessions.append(Session(match["name"], match["ident"], match["state"], ()))
        elif match and sessions:
            last = sessions.pop()
            child = Child(match["name"], match["ident"], match["state"])
            sessions.append(last.change(children=(*last.children, child)))
    return tuple(sessions)


def parse_status_connections(output: str) -> tuple[Connection, ...]:
    """Return the connections in the output of ``ipsec statusall``, which prints each before its children."""
    found: list[Connection] = []
    for name, rest in _list_status_lines(output):
        if rest.startswith(" child:"):
            if found:
                last = found.pop()
                found.append(Connection(last.name, (*last.children, name), last.place))
        elif not rest.startswith(" "):
            found.append(Connection(name, (), f"connection {name} in charon"))
    return tuple(found)


def parse_status_peers(output: str) -> dict[str, tuple[str, str]]:
    """Return the remote and local addresses of the connections in the output of ``ipsec statusall``."""
    found = {}
    for name, rest in _list_status_lines(output):
        if not rest.startswith(" "):
            # stroke_list.c: "%12s:  %s...%s  %N"
            local, _, remote = rest.partition("  ")[0].partition("...")
            found[name] = (remote, local)
    return found


def _list_status_lines(output: str) -> list[tuple[str, str]]:
    """Return the lines of connections and their children: the name, and the text after the colon and two spaces."""
    part = output.partition("\nConnections:\n")[2].partition("\nSecurity Associations (")[0].partition("\nRouted ")[0]
    lines = [line.strip().partition(":  ") for line in part.splitlines()]
    return [(name, rest) for name, colon, rest in lines if colon]


# The output of both programs.


def find_reason(output: str) -> str:
    """Return why initiating failed, in one line, from the output of swanctl or ``ipsec up``; empty if it did not."""
    lines = _lines(output)
    failed = [line for line in lines if re.match(r"initiate failed: |establishing .+ failed|no config", line)]
    if not failed:
        if any(re.search(r"completed successfully|established successfully", line) for line in lines):
            return ""
        return lines[-1] if lines else "no reason was given"
    # The last line before charon gave up has the reason, unless it is one of these general ones.
    general = ("failed to establish CHILD_SA", "generating", "sending packet", "received packet", "parsed")
    others = [re.sub(r"^\[[A-Z]+\] ", "", line) for line in lines if line not in failed]
    last = next((line for line in reversed(others) if not line.startswith(general)), "")
    return f"{failed[-1].removeprefix('initiate failed: ')}{f' ({last})' if last else ''}"


def _lines(output: str) -> list[str]:
    # Each call complains about the plugins that are not installed.
    return [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("plugin '")]


def _require_running(output: str) -> None:
    """Raise `NotRunning` or `NotAllowed` if the client could not connect to charon."""
    match = re.search(r"^connecting to '[^']*' failed: (.*)$", output, re.MULTILINE)
    if match and match[1] == "Permission denied":
        raise NotAllowed("only root may query charon")
    if match:
        raise NotRunning


def _run(argv: Sequence[str], timeout: float) -> programs.Result:
    try:
        return programs.run(argv, timeout)
    except programs.ProgramLate as error:
        raise TunnelSilent(str(error)) from None
    except programs.ProgramError as error:
        raise TunnelError(str(error)) from None
