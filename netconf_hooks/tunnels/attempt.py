"""Initiators: processes that bring up a tunnel by programs that block.

A hook must not wait for ``swanctl --initiate`` or ``ipsec up``, and these must not run in the control group of
ifup@.service or networking.service, which systemd kills with the service.  So the hook requests an initiator:
``/usr/lib/netconf-hooks/tunnel start KIND-NAME``, with systemd as the unit netconf-hooks-tunnel@KIND-NAME.service,
otherwise in a session of its own.  The initiator calls the tunnel's `connect`, logs the outcome, and exits.

`connect` returns when the tunnel is up, and raises `TunnelError` with the reason if it is not.  It may return a
description, which is logged instead of "connected".
"""

from __future__ import annotations

import os
import select
import signal

from netconf_hooks.record import Record
from netconf_hooks.stanzas.rules import TUNNEL_KINDS
from netconf_hooks.state import Store
from netconf_hooks.system import detached, log, programs
from netconf_hooks.system.waiting import wait_until
from netconf_hooks.tunnels import TunnelError, load_tunnel
from netconf_hooks.tunnels.services import Services, TooLate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType, TracebackType
    from typing import NoReturn

ENTRY = "/usr/lib/netconf-hooks/tunnel"
"""The initiator's program, as Debian's package installs it."""

END_TIMEOUT = 2.0
"""Seconds that a cancelled initiator may take to exit; then it is killed."""


class Initiator:
    """The initiator of one tunnel: at most one process at a time.

    proc, entry, runlevel: procfs, the initiator's program and runlevel(8), by path or name.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        systemd: Services,
        proc: str = "/proc",
        entry: str = ENTRY,
        runlevel: str = "runlevel",
    ) -> None:
        # The rules allow only [A-Za-z0-9@._-] in a name: an instance needs no escapes for these, systemd.unit(5).
        self._instance = f"{kind}-{name}"
        self._unit = f"netconf-hooks-tunnel@{self._instance}.service"
        self._systemd = systemd
        self._proc = proc
        self._entry = entry
        self._runlevel = runlevel

    def request(self) -> None:
        """Start the initiator, unless it runs already.  Raises `TunnelError`."""
        if self._systemd.is_running():
            self._systemd.start(self._unit)
        elif not self._find_running():
            if detached.is_halting(self._runlevel):
                raise TooLate("the system is stopping")
            try:
                programs.spawn([self._entry, "start", self._instance])
            except programs.ProgramError as error:
                raise TunnelError(str(error)) from None

    def is_running(self) -> bool:
        """Whether an initiator runs, or is queued to run.  Raises `TunnelError`."""
        if self._systemd.is_running():
            return not self._is_unit_idle()
        return bool(self._find_running())

    def read_reason(self) -> str:
        """Return why the last initiator failed; empty if it did not."""
        kind, _, name = self._instance.partition("-")
        return Store().read_reason(kind, name)

    def cancel(self) -> None:
        """Stop the initiator, whoever started it, and wait for its end.  Raises `TunnelError`."""
        if self._systemd.is_running():
            # Stop the unit first: its start may still be queued, since at boot it waits for basic.target.
            self._systemd.stop([self._unit])
            wait_until(self._is_unit_idle, END_TIMEOUT)
        for pid in self._find_running():
            self._end(pid)

    def _is_unit_idle(self) -> bool:
        (state,) = self._systemd.show([self._unit])
        return state.active in ("inactive", "failed", "")

    def _find_running(self) -> list[int]:
        """Return the pids of this tunnel's initiators: processes that run our program with its name."""
        ours = [self._entry, "start", self._instance]
        found = []
        for entry in os.listdir(self._proc):
            if entry.isdigit():
                try:
                    with open(f"{self._proc}/{entry}/cmdline", "rb") as file:
                        words = os.fsdecode(file.read()).split("\0")[:-1]
                except OSError:
                    continue  # it has ended, or is hidden from this user
                # The words before these three are the interpreter and its options.
                if words[-3:] == ours and int(entry) != os.getpid():
                    found.append(int(entry))
        return found

    def _end(self, pid: int) -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # Check the pid again: it may have been reused before the handle was opened, but not since.
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
    """The tunnel that an initiator has to bring up, from its command line."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name


class Ended(BaseException):
    """SIGTERM: the initiator is cancelled."""


def main(arguments: Sequence[str]) -> int:
    """Run as an initiator: ``start KIND-NAME``.  Return the exit status: 0 connected, 1 failed, 2 wrong usage."""
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
        # Kill our client (swanctl) before it sends another request to the daemon: the process that cancelled us stops
        # the tunnel next, and does not know of this client.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _kill_children()
        return 1


def read_arguments(arguments: Sequence[str]) -> Work | None:
    """Return the tunnel that the command line names, or None if the command line is wrong."""
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
            log.complain(f"a tunnel of the kind {work.kind} needs no initiator")
            return 2
        done = connect()
    except TunnelError as error:
        log.error(f'netconf-vpn "{work.kind} {work.name}": not connected: {error}')
        _note(work, str(error))
        return 1
    _note(work, "")
    log.info(f"{work.kind} {work.name}: {done or 'connected'}")
    return 0


def _note(work: Work, reason: str) -> None:
    """Record why the tunnel is not connected, for the watcher and `status`."""
    try:
        Store().write_reason(work.kind, work.name, reason)
    except OSError as error:
        log.error(f"can't record the reason: {error}")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise Ended


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import traceback

    log.error("".join(traceback.format_exception(kind, error, trace)))


def _kill_children() -> None:
    """Kill the programs that we have started, each with its session: `programs.run` does not end its program when an
    exception interrupts it."""
    pid = os.getpid()
    try:
        # This process has one thread, so all children are listed here, proc(5).
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
