"""The program that pkexec(1) runs: it starts a unit for a user's request, and shows the answer (see `request`).

It runs as root, but in the user's terminal and control group and with the user's limits.
"""

from __future__ import annotations

import os
import select
import signal

from netconf_hooks.commands.entry import FAILED, UNREADABLE
from netconf_hooks.commands.request import has_uid, read_request, RequestError
from netconf_hooks.commands.want import UPLINK
from netconf_hooks.stanzas.interfaces import FILE, read_names
from netconf_hooks.state import Store
from netconf_hooks.system import log, programs
from netconf_hooks.system.systemd import Systemd
from netconf_hooks.system.waiting import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from netconf_hooks.commands.request import Request

UNIT, PORTAL_UNIT = "netconf-hooks-request@{}.service", "netconf-hooks-request-portal@{}.service"

# Seconds between two reads of the answer.
PAUSE = 0.1

# For how many seconds a whole answer is waited for once the unit has ended.
LATE = 3.0

# How many bytes of the answer are read at once: more than a unit writes.
_MUCH = 1 << 20

# Exit status after Ctrl-C, as in a shell: 128 + SIGINT.
_INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Run as the program."""
    _leave_user()
    if os.geteuid() != 0:
        log.complain("only pkexec runs this program: netconf-hooks COMMAND")
        return UNREADABLE
    return ask(arguments, os.environ, Systemd(), Store())


def ask(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    systemd: Systemd,
    store: Store,
    systemctl: str = "systemctl",
    path: str = FILE,
) -> int:
    """Start the unit for a request, show the answer, and return the exit status.

    arguments: a request's words without the uid; environ: the environment from pkexec(1), with ``PKEXEC_UID``.
    systemctl: the program; path: /etc/network/interfaces.
    """
    try:
        words = list(arguments)
        if words and has_uid(words[0]):
            words.insert(1, environ.get("PKEXEC_UID", ""))
        request = read_request(words)
    except RequestError as error:
        log.complain(str(error))
        return UNREADABLE
    if problem := _find_problem(request, store, path):
        log.complain(f"{request.command}: {problem}")
        return FAILED
    if not systemd.is_running():
        log.complain(f"{request.command}: without systemd, only root may do this")
        return FAILED
    return _show(request, store, systemctl)


def _find_problem(request: Request, store: Store, path: str) -> str:
    """Return why the request can't be carried out; empty if it can.  Without this check, users could start any number
    of units."""
    iface, wish = request.get("iface"), request.get("wish")
    if iface and not store.knows_interface(iface):
        return f"{iface}: not up, or without netconf rules"
    # The unit checks this again, thoroughly.
    if wish and not any(has_option for _, has_option in read_names(path).list_headings_with(UPLINK, wish)):
        return f"{wish}: no stanza of this name has {UPLINK}"
    return ""


def _leave_user() -> None:
    """Reset everything that this process has inherited from the user."""
    log.fill_descriptors()
    os.umask(0o022)
    os.chdir("/")
    # Signals that were blocked or ignored stay so through execve(2); without SIGCHLD no child can be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _show(request: Request, store: Store, systemctl: str) -> int:
    """Start the unit, show its answer until it has ended, and return the exit status."""
    # A portal needs neither ifup nor the admin's scripts, so its unit has fewer rights.
    unit = (PORTAL_UNIT if request.command == "portal" else UNIT).format(request.instance)
    shown = _Shown(store.path_of_answer(request.instance))
    try:
        with programs.begin([systemctl, "start", unit]) as running:
            poll = select.poll()
            poll.register(running.fileno(), select.POLLIN)
            while True:
                ended = bool(poll.poll(1000 * PAUSE))
                shown.show_more()
                if ended:
                    break
            started = running.poll() == 0
        if started and not shown.is_complete():
            shown.take_old()
            # If somebody has just made the same request again, its unit may have replaced the answer, and will complete
            # the new one.
            wait_until(shown.is_complete, LATE, PAUSE)
    except programs.ProgramError as error:
        log.complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        ends = f"; netconf-hooks unwant {request.get('wish')} ends it" if request.command == "want" else ""
        log.complain(f"{request.command}: it continues in the background{ends}")
        return _INTERRUPTED
    finally:
        shown.close()
    if shown.status is None:
        log.complain(f"{request.command}: {unit} has not answered: the system's log says why")
        return FAILED
    return shown.status


class _Shown:
    """The part of an answer that was already shown.

    status: the exit status at the answer's end; None while the answer is incomplete.

    A complete answer that exists when we start belongs to an earlier request, unless no other one comes (`take_old`).
    An incomplete one belongs to the same request, which another process has just made: we show it.
    """

    def __init__(self, path: str) -> None:
        self.status: int | None = None
        self._path = path
        self._rest = b""
        # It stays open, so that no other file gets its inode number.
        self._old = self._open()
        is_complete = self._old >= 0 and b"\0" in os.pread(self._old, _MUCH, 0)
        self._file = -1 if is_complete else self._old
        self._switched = False

    def show_more(self) -> None:
        """Show the lines that were written since the last call; complaints go to standard error."""
        if self.status is not None:
            return
        if not self._switched:
            self._switch()
        if self._file < 0:
            return
        text, end, status = (self._rest + os.read(self._file, _MUCH)).partition(b"\0")
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            descriptor = 2 if line.startswith(f"{log.NAME}: ".encode()) else 1
            _write(descriptor, log.printable(line.decode(errors="replace")))
        if end:
            self._rest += end + status
            if status.endswith(b"\n"):
                self.status = int(status) if status.strip().isdigit() else FAILED

    def take_old(self) -> None:
        """Show the answer that was already complete: its unit had not ended yet, so systemd started no new one."""
        if not self._switched and self._file < 0:
            self._file, self._switched = self._old, True

    def is_complete(self) -> bool:
        """Show the lines that were written since the last call, and return whether there can't be any more."""
        self.show_more()
        return self.status is not None

    def close(self) -> None:
        """Close the files."""
        for descriptor in {self._file, self._old} - {-1}:
            os.close(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return -1

    def _switch(self) -> None:
        """Open the new answer once it exists."""
        new = self._open()
        if new >= 0 and self._old >= 0 and os.path.sameopenfile(new, self._old):
            os.close(new)
        elif new >= 0:
            self._file, self._rest, self._switched = new, b"", True


def _write(descriptor: int, line: str) -> None:
    try:
        os.write(descriptor, f"{line}\n".encode())
    except OSError:
        pass  # closed, full, or nobody reads it
