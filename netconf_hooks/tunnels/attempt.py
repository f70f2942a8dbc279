"""Attempts: bringing up a tunnel by programs that block, in a process of its own.

A hook must not wait for ``swanctl --initiate`` or ``ipsec up``, and what they start must not live in the control group
of ifup@.service or networking.service, with which it would be killed.  So the hook asks for an attempt, which is
``/usr/lib/netconf-hooks/tunnel start KIND-NAME``: the unit netconf-hooks-tunnel@KIND-NAME.service where systemd runs,
else a process of its own session.  It calls the tunnel's `connect`, which returns when the tunnel is up or raises
`TunnelError` with the reason why it is not, says in the log how that ended, and ends.
"""

from __future__ import annotations

import os
import select
import signal

from netconf_hooks import log, programs
from netconf_hooks.record import Record
from netconf_hooks.rules import TUNNEL_KINDS
from netconf_hooks.system.waiting import wait_until
from netconf_hooks.tunnels import TunnelError, detached, load_tunnel
from netconf_hooks.tunnels.systemd import Systemd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType, TracebackType
    from typing import NoReturn

ENTRY = "/usr/lib/netconf-hooks/tunnel"
"""The program of an attempt, as Debian's package installs it."""

END_TIMEOUT = 2.0
"""Seconds that an attempt may take to end when it is cancelled; then it is killed."""


class Attempts:
    """The attempts of one tunnel.

    proc, entry, runlevel: procfs, the program of an attempt and runlevel(8), by path or name.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        systemd: Systemd,
        proc: str = "/proc",
        entry: str = ENTRY,
        runlevel: str = "runlevel",
    ) -> None:
        # [A-Za-z0-9@._-] is all that the rules allow in a name: it stands for itself in an instance, systemd.unit(5).
        self._instance = f"{kind}-{name}"
        self._unit = f"netconf-hooks-tunnel@{self._instance}.service"
        self._systemd = systemd
        self._proc = proc
        self._entry = entry
        self._runlevel = runlevel

    def request(self) -> None:
        """Ask for an attempt; one that is under way is enough.  Raises `TunnelError`."""
        if self._systemd.is_running():
            self._systemd.start(self._unit)
        elif not self._find_running():
            if detached.is_halting(self._runlevel):
                raise TunnelError("the system is stopping")
            try:
                programs.spawn([self._entry, "start", self._instance])
            except programs.ProgramError as error:
                raise TunnelError(str(error)) from None

    def cancel(self) -> None:
        """End an attempt that is under way, whoever asked for it; when this returns nothing comes of it any more.

        Raises `TunnelError`.
        """
        if self._systemd.is_running():
            # First of all, for it may not have begun yet: at boot it waits for basic.target.
            self._systemd.stop([self._unit])
            wait_until(self._is_unit_idle, END_TIMEOUT)
        for pid in self._find_running():
            self._end(pid)

    def _is_unit_idle(self) -> bool:
        (state,) = self._systemd.show([self._unit])
        return state.active in ("inactive", "failed", "")

    def _find_running(self) -> list[int]:
        """Return the pids of attempts at this tunnel: processes that run our program with its name."""
        ours = [self._entry, "start", self._instance]
        found = []
        for entry in os.listdir(self._proc):
            if entry.isdigit():
                try:
                    with open(f"{self._proc}/{entry}/cmdline", "rb") as file:
                        words = os.fsdecode(file.read()).split("\0")[:-1]
                except OSError:
                    continue  # it has ended, or is hidden from this user
                # Before ours stand the interpreter and its options.
                if words[-3:] == ours and int(entry) != os.getpid():
                    found.append(int(entry))
        return found

    def _end(self, pid: int) -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # The handle is the process's, whatever becomes of its number: look once more who that is.
            if pid in self._find_running():
                for number in (signal.SIGTERM, signal.SIGKILL):
                    signal.pidfd_send_signal(handle, number)
                    if select.select([handle], [], [], END_TIMEOUT)[0]:
                        return
        except ProcessLookupError:
            pass  # it ended by itself
        except PermissionError:
            raise TunnelError(f"not allowed to end process {pid}") from None
        finally:
            os.close(handle)


class Work(Record):
    """What an attempt is for: the words of its command line."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name


class Ended(BaseException):
    """SIGTERM: the attempt is cancelled."""


def main(arguments: Sequence[str]) -> int:
    """Be an attempt: ``start KIND-NAME``.  Return the exit status: 0 connected, 1 not, 2 called in a wrong way."""
    import sys

    log.fill_descriptors()
    sys.excepthook = _log_exception
    work = read_arguments(arguments)
    if not work:
        log.complain("expected: tunnel start KIND-NAME")
        return 2
    signal.signal(signal.SIGTERM, _end)
    try:
        return _connect(work)
    except Ended:
        # The client of a daemon that is still to send its request must not do so: whoever cancels us ends the tunnel
        # next, and does not know of this client.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _kill_children()
        return 1


def read_arguments(arguments: Sequence[str]) -> Work | None:
    """Return what the command line asks for, or None where it can't be read."""
    if len(arguments) != 2 or arguments[0] != "start":
        return None
    kind, dash, name = arguments[1].partition("-")
    if not dash or not name or not TUNNEL_KINDS.get(kind):
        return None
    return Work(kind, name)


def _connect(work: Work) -> int:
    try:
        tunnel = load_tunnel(work.kind, work.name)
        connect = getattr(tunnel, "connect", None)
        if connect is None:
            log.complain(f"a tunnel of the kind {work.kind} needs no attempt")
            return 2
        connect()
    except TunnelError as error:
        log.error(f'netconf-vpn "{work.kind} {work.name}": not connected: {error}')
        return 1
    log.info(f"{work.kind} {work.name}: connected")
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise Ended


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import traceback

    log.error("".join(traceback.format_exception(kind, error, trace)))


def _kill_children() -> None:
    """Kill the programs that run for us, each with its session: `programs.run` has left them to themselves."""
    pid = os.getpid()
    try:
        # There is one thread: all children are its own, proc(5).
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
    except FileNotFoundError:
        return  # a kernel without CONFIG_PROC_CHILDREN
    for child in children:
        for kill in (os.killpg, os.kill):  # between fork and exec it has no session yet
            try:
                kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
