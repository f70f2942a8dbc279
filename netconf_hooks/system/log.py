"""All messages for admins: always to syslog, and to standard error for errors and with ``ifup -v``.

Nothing here may fail or block: a hook continues even if its standard error is full or closed, or no syslog runs.
"""

from __future__ import annotations

import os
import select
import syslog

NAME = "netconf-hooks"

_verbose = False
_waits = True

SOCKET = "/dev/log"


def set_verbose(verbose: bool) -> None:
    """Choose whether all messages also go to standard error (`ifup -v` sets VERBOSITY=1)."""
    global _verbose
    _verbose = verbose


def set_waiting(waits: bool) -> None:
    """Choose whether this process waits for a syslog daemon that hangs, as syslog(3) does.

    waits: if False, messages that the daemon does not accept at once are lost.
    """
    global _waits
    _waits = waits


def fill_descriptors() -> None:
    """Open ``/dev/null`` in place of a closed standard input, output or error.

    Otherwise the next file to be opened, a lock or a socket, gets this number, and messages are written to it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one (open(2))


def debug(message: str) -> None:
    """Log how a result was found: shown only with ``ifup -v``."""
    if _verbose:
        _write(message)


def info(message: str) -> None:
    """Log what was decided or done."""
    _record(syslog.LOG_INFO, message)
    if _verbose:
        _repeat(message)


def warning(message: str) -> None:
    """Log something that the admin should look at, although nothing failed."""
    _record(syslog.LOG_WARNING, message)
    _repeat(message)


def error(message: str) -> None:
    """Log what failed, in the admin's words: the interface, the option as written, what was expected."""
    _record(syslog.LOG_ERR, message)
    _repeat(message)


def complain(message: str) -> None:
    """Report to the user of a command why it failed; not to syslog."""
    _write(message)


def tell(message: str) -> None:
    """Show a person what this process is waiting for: at a terminal, or by a request of polkit, which shows our output.

    With ``-v`` the log messages show it already.
    """
    if not _verbose and (os.isatty(2) or is_answer()):
        _write(message)


def is_answer(cgroup: str = "/proc/self/cgroup") -> bool:
    """Whether this process belongs to a request of polkit, whose output is shown to the user: `request`, cgroups(7)."""
    try:
        with open(cgroup, "rb") as file:
            return b"/netconf-hooks-request" in file.read()
    except OSError:
        return False


def printable(text: str) -> str:
    """Return `text`; characters that could move a cursor, forge a log line or break an encoding become escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isascii() and c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _record(priority: int, message: str) -> None:
    syslog.openlog(NAME, syslog.LOG_PID, syslog.LOG_DAEMON)
    for line in message.splitlines():
        if _waits:
            syslog.syslog(priority, printable(line))
        else:
            _send(priority, printable(line))


def _send(priority: int, line: str) -> None:
    """Do what syslog(3) does, but don't wait."""
    import _socket
    import time

    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
    try:
        channel.connect(SOCKET)
        when = time.strftime("%b %e %H:%M:%S")
        channel.send(f"<{syslog.LOG_DAEMON | priority}>{when} {NAME}[{os.getpid()}]: {line}".encode())
    except OSError:
        pass
    finally:
        channel.close()


def _repeat(message: str) -> None:
    """Write a recorded message to standard error, unless that is the journal, where it would appear twice.

    systemd sets $JOURNAL_STREAM for services whose output goes to the journal: systemd.exec(5).
    """
    journal = os.environ.get("JOURNAL_STREAM", "")
    if journal:
        try:
            status = os.fstat(2)
        except OSError:
            return
        if journal == f"{status.st_dev}:{status.st_ino}":
            return
    _write(message)


def _write(message: str) -> None:
    # os.write, not print: standard error may be full (ENOSPC), closed (EBADF), or a pipe without a reader (EPIPE).
    text = "".join(f"{NAME}: {printable(line)}\n" for line in message.splitlines())
    try:
        if _waits or select.select([], [2], [], 0)[1]:
            os.write(2, text.encode())
    except OSError:
        pass
