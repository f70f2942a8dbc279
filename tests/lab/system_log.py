"""A small syslogd: the other end of /dev/log."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
from pathlib import Path

# <PRI>TIMESTAMP TAG: TEXT, as glibc's syslog(3) writes it (RFC 3164, section 4.1); others leave out the time.
_MESSAGE = re.compile(r"<(\d+)>(?:\w{3} [ \d]\d \d\d:\d\d:\d\d )?(.*)", re.DOTALL)
_SEVERITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


class SystemLog:
    """Receives what is sent to the socket at `path`, until `close`."""

    def __init__(self, path: Path) -> None:
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._ended, self._end = os.pipe()
        # A thread must empty the socket: the kernel holds ten messages (net.unix.max_dgram_qlen), then senders wait.
        self._thread = threading.Thread(target=self._receive, name="system log", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Return all messages sent until now, each ``SEVERITY TAG[PID]: TEXT`` on a line of its own."""
        self._drain()
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines)

    def close(self) -> None:
        """Stop receiving."""
        os.close(self._end)
        self._thread.join()
        self._socket.close()
        os.close(self._ended)

    def _receive(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._ended, select.POLLHUP)
        while all(descriptor != self._ended for descriptor, _ in poll.poll()):
            self._drain()

    def _drain(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            while True:
                message = self._socket.recv(65536, socket.MSG_DONTWAIT).decode(errors="replace")
                match = _MESSAGE.fullmatch(message.rstrip("\0\n"))
                self._lines.append(f"{_SEVERITIES[int(match[1]) % 8]} {match[2]}" if match else message)
