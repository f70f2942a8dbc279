"""Where the TLS servers of the rules were seen, to detect relays.

A certificate proves which server answered, not where: a café can relay to any server that it reaches.  But it can't
know that we have met this server before, nor behind which router.  So the home of each certificate is recorded: the
routers that its ``netconf-location`` lines name by ``gateway-mac`` or, if they name none, those behind which it was
first seen.  If the server answers behind another router, or through a tunnel, it can be reached from elsewhere.  From
then on its certificate proves nothing, not even at home, until the admin has it forgotten (``forget-server``).

This is the only file that an observer writes.  It is written at once, so that the fact is not lost if the hook is
killed a moment later.

The file is text, one line for each certificate::

    3f1c...  home 00:16:3e:11:22:33 00:16:3e:11:22:34
    9a0e...  elsewhere behind 02:00:5e:00:03:01 on wlan0, 2026-11-23
"""

from __future__ import annotations

import fcntl
import os
import time

from netconf_hooks.record import Record
from netconf_hooks.system.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DIRECTORY = "/var/lib/netconf-hooks"

# First line of the file.
FORMAT = "netconf-hooks servers 1"

_HEX = frozenset("0123456789abcdef")
_LIMIT = 1 << 24  # bytes; a certificate's line has about a hundred


class ServersError(Exception):
    """The file can't be read or written; the message names it."""


class Server(Record):
    """What is known about a certificate.

    home: the MAC addresses of the routers behind which its server was seen.
    elsewhere: where else it was seen, in words; empty if nowhere else.
    """

    __slots__ = ("home", "elsewhere")

    def __init__(self, home: tuple[str, ...] = (), elsewhere: str = "") -> None:
        self.home = home
        self.elsewhere = elsewhere


class Servers:
    """The file below `directory`, by default `DIRECTORY`."""

    def __init__(self, directory: str = "") -> None:
        self.path = (directory or DIRECTORY) + "/servers"

    def read(self) -> dict[str, Server]:
        """Return what is known, by certificate (SHA-256, 64 hexadecimal digits).

        Raises `ServersError`: a file that can't be read may say that a server was seen elsewhere.
        """
        try:
            lines = read_file(self.path, _LIMIT).decode("ascii").splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise ServersError(f"{self.path}: {getattr(error, 'strerror', None) or error}") from None
        if lines[:1] != [FORMAT]:
            raise ServersError(f'{self.path}: its first line is not "{FORMAT}"')
        return dict(self._read_line(line) for line in lines[1:])

    def note(self, certificate: str, routers: Iterable[str], named: Iterable[str], device: str) -> Server:
        """Record that a certificate was seen behind `routers` (MAC addresses), and return what is known now.

        named: the routers that the rules name for it.  device: the link.
        Raises `ServersError` if a change could not be recorded.
        """
        seen = tuple(dict.fromkeys(routers))
        own = tuple(dict.fromkeys(named))
        with self._lock():
            servers = self.read()
            before = servers.get(certificate, Server())
            after = judge(before, seen, own, device)
            if after != before:
                self._write({**servers, certificate: after})
            return after

    def note_elsewhere(self, certificate: str, where: str) -> Server:
        """Record that a certificate's server can also be reached from elsewhere, and return what is known now.

        Raises `ServersError`.
        """
        with self._lock():
            servers = self.read()
            before = servers.get(certificate, Server())
            if before.elsewhere:
                return before
            after = Server(before.home, _date(where))
            self._write({**servers, certificate: after})
            return after

    def forget(self, certificate: str) -> Server | None:
        """Forget a certificate, and return what was known about it; None if nothing was.  Raises `ServersError`."""
        with self._lock():
            servers = self.read()
            known = servers.pop(certificate, None)
            if known:
                self._write(servers)
            return known

    def _read_line(self, line: str) -> tuple[str, Server]:
        words = line.split()
        if len(words) > 2 and len(words[0]) == 64 and _HEX.issuperset(words[0]):
            if words[1] == "home":
                return words[0], Server(tuple(words[2:]))
            if words[1] == "elsewhere":
                return words[0], Server((), " ".join(words[2:]))
        raise ServersError(f"{self.path}: not a line of ours: {line!r}")

    def _write(self, servers: Mapping[str, Server]) -> None:
        lines = [FORMAT]
        for certificate in sorted(servers):
            server = servers[certificate]
            what = f"elsewhere {server.elsewhere}" if server.elsewhere else f"home {' '.join(server.home)}"
            lines.append(f"{certificate} {what}")
        temporary = f"{self.path}.new"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write("".join(f"{line}\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, self.path)
        except OSError as error:
            raise ServersError(f"{self.path}: {error.strerror}") from None

    def _lock(self) -> _Lock:
        return _Lock(f"{self.path}.lock")


class _Lock:
    """An flock(2), held while the file is read and written."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        try:
            os.makedirs(os.path.dirname(self._path), 0o755, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ServersError(f"{self._path}: {error.strerror}") from None
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def judge(before: Server, seen: tuple[str, ...], named: tuple[str, ...], device: str) -> Server:
    """Return what is known about a certificate after it was seen behind the routers `seen`.

    If the rules name routers, only these are its home.  Otherwise a router that is seen together with one of its home
    belongs to its home, too: IPv4 and IPv6 may have different routers.
    """
    if before.elsewhere:
        return before
    home = named or before.home
    if home and not set(home) & set(seen):
        return Server(before.home, _date(f"behind {', '.join(seen)} on {device}"))
    if named:
        return before
    return Server(tuple(dict.fromkeys((*home, *seen))))


def _date(where: str) -> str:
    return f"{where}, {time.strftime('%Y-%m-%d')}"
