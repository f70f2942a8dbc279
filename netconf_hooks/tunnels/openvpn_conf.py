"""OpenVPN's configuration files, read as openvpn(8) says and as options.c of OpenVPN 2.5 to 2.7 does."""

from __future__ import annotations

import os
from errno import EFBIG, EINVAL

from netconf_hooks.record import Record
from netconf_hooks.system.files import MOST_FILES, read_text
from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.destination import read_host, read_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_INCLUDES = 10
"""How deep ``config`` lines may include each other, MAX_RECURSION_LEVELS in OpenVPN's options.c."""

_SPACE = " \t\n\v\f\r"
"""isspace(3) in the C locale."""

_PROTOCOLS = {
    f"{transport}{suffix}{role}": (f"{transport}{role}", version)
    for transport, role in (("udp", ""), ("tcp", ""), ("tcp", "-client"), ("tcp", "-server"))
    for suffix, version in (("", 0), ("4", 4), ("6", 0))
}
"""The values of ``proto``, and 4 for those that mean IPv4 only: proto_names[] in OpenVPN's socket.c.

With ``udp6`` OpenVPN 2.6 only tries IPv6 addresses, but OpenVPN 2.7 also tries IPv4.  An address of the other family
than ``proto``'s is tried by OpenVPN 2.7 alone.  OpenVPN may be upgraded while a guard is closed, so all are allowed.
"""

_DEFAULT_PORT = "1194"


class Connection(Record):
    """One of the servers or proxies that OpenVPN tries in turn.

    host: an address as inet_ntop(3) writes it, or a name; protocol: ``udp`` or ``tcp``; version: 4 or 6 if only
    addresses of that version of IP are used, else 0.
    local_port: the source port, 0 if the kernel chooses it.
    """

    __slots__ = ("host", "protocol", "port", "version", "local_port")

    def __init__(self, host: str, protocol: str, port: int, version: int = 0, local_port: int = 0) -> None:
        self.host = host
        self.protocol = protocol
        self.port = port
        self.version = version
        self.local_port = local_port


def read_configuration(path: str) -> tuple[tuple[str, ...], ...]:
    """Return the options of a configuration file and of the files that it includes, in order, with their parameters.

    The paths of included files are relative to the file's directory, in which OpenVPN runs, or to that of a ``cd``.
    Raises OSError if the file can't be read, or if an included file is not a regular file or too large.  An included
    file is skipped if it is missing or includes itself: OpenVPN will complain about it.
    """
    return tuple(_read_options(path, os.path.dirname(path), (), []))


def _read_options(
    path: str, directory: str, includers: tuple[str, ...], looked: list[str]
) -> Iterator[tuple[str, ...]]:
    """Yield the options of a file.  includers: the chain of files that include it; looked: all files read so far."""
    if len(looked) >= MOST_FILES:
        raise OSError(EFBIG, f"more than {MOST_FILES} files are included", path)
    looked.append(path)
    # Only "\n" ends a line, as for fgets(3).
    options = parse_configuration(read_text(path))
    for option in options:
        yield option
        if option[0] == "cd" and len(option) == 2:
            directory = os.path.join(directory, option[1])
        elif option[0] == "config" and len(option) == 2 and len(includers) < _MAX_INCLUDES:
            included = os.path.join(directory, option[1])
            if included in (path, *includers):
                continue
            try:
                yield from _read_options(included, directory, (path, *includers), looked)
            except OSError as error:
                if error.errno in (EINVAL, EFBIG):  # not a regular file, or too large: see files.read_file
                    raise
            except ValueError:  # a NUL in its name
                pass


def parse_configuration(text: str) -> tuple[tuple[str, ...], ...]:
    """Read a configuration as read_config_file() and parse_line() of OpenVPN's options.c do: openvpn(8), "Options".

    An inline file (``<ca>...</ca>``) becomes the option ``<ca>``, with the text as its parameter.  Lines with an
    unfinished quote, which OpenVPN refuses, are left out.
    """
    found: list[tuple[str, ...]] = []
    lines = iter(text.removeprefix("\ufeff").split("\n"))
    for line in lines:
        words = split_line(line)
        if not words:
            continue
        name = words[0][2:] if words[0].startswith("--") and len(words[0]) > 2 else words[0]
        words = (name, *words[1:])
        if len(words) == 1 and name.startswith("<") and name.endswith(">"):
            words = (name, "\n".join(_read_inline(lines, f"</{name[1:]}")))
        elif words[:2] == ("setenv", "opt") and len(words) > 2:
            words = words[2:]  # an option that older versions of OpenVPN may ignore
        found.append(words)
    return tuple(found)


def _read_inline(lines: Iterator[str], end: str) -> Iterator[str]:
    for line in lines:
        if line.lstrip(_SPACE).startswith(end):
            return
        yield line


def split_line(line: str) -> tuple[str, ...]:
    """Split a line of a configuration into its words; empty for a comment or an unfinished quote.

    ``#`` and ``;`` begin a comment only at the start of a word.  A backslash escapes the next character, but within
    single quotes it is an ordinary character.
    """
    words: list[str] = []
    word = ""
    quote = ""
    inside = escaped = False
    for character in line:
        if character == "\\" and not escaped and quote != "'":
            escaped = True
            continue
        if not inside:
            if character in "#;":
                return tuple(words)
            if character in "\"'" and not escaped:
                inside, quote = True, character
            elif character not in _SPACE:
                inside, quote, word = True, "", character
        elif not escaped and (character == quote if quote else character in _SPACE):
            words.append(word)
            inside, quote, word = False, "", ""
        else:
            word += character
        escaped = False
    if quote:
        return ()
    return tuple([*words, word] if inside else words)


def find_connections(options: Sequence[Sequence[str]]) -> tuple[Connection, ...]:
    """Return where a client's packets go, in the order of the configuration: to its remotes, or to their proxies.

    The rules are OpenVPN's: if there is a ``<connection>``, the remotes outside of such blocks don't count, and an
    option below a block does not apply to it.  With ``http-proxy``, or ``socks-proxy`` and TCP, all packets go to the
    proxy.  If a server changes its address (``float``), the new address is not included.

    Raises `TunnelError`, naming the option, if the configuration does not say where the packets go.
    """
    reader = _Reader()
    for option in options:
        reader.read(option)
    return reader.finish()


class _Proxy:
    """An HTTP proxy.  All entries share one object, even those that were copied before its address was read."""

    __slots__ = ("host", "port")

    def __init__(self) -> None:
        self.host = self.port = ""


class _Entry:
    """The settings for one remote: struct connection_entry of OpenVPN's options.h, initialised as by init_options()."""

    __slots__ = ("host", "port", "protocol", "version", "local_port", "bound", "must_bind", "http_proxy", "socks_proxy")

    def __init__(self) -> None:
        self.host = ""
        self.port = self.local_port = _DEFAULT_PORT
        self.protocol = "udp"
        self.version = 0
        self.bound = True
        self.must_bind = False
        self.http_proxy: _Proxy | None = None
        self.socks_proxy: tuple[str, str] | None = None

    def copy(self) -> _Entry:
        """Return a copy."""
        twin = _Entry()
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    def read(self, option: Sequence[str]) -> None:
        """Apply an option if it is allowed in ``<connection>``; ignore other options, and those OpenVPN refuses."""
        name, *words = option
        match name, len(words):
            case "remote", 1 | 2 | 3:
                self.load_remote(*words)
            case "proto", 1:
                self.protocol, self.version = _find_protocol(option, words[0])
            case "port", 1:
                self.port = self.local_port = words[0]
            case "rport", 1:
                self.port = words[0]
            case "lport", 1:
                self.local_port = words[0]
                self.must_bind = True
            case "bind", _:
                self.must_bind = True
            case "local", 1 | 2 | 3:  # with a port and a protocol since 2.7
                self.must_bind = True
                self.local_port = words[1] if len(words) > 1 else self.local_port
            case "nobind", 0:
                self.bound = False
            case "http-proxy", 2 | 3 | 4:
                self.http_proxy = self.http_proxy or _Proxy()
                self.http_proxy.host, self.http_proxy.port = words[:2]
            case ("http-proxy-option" | "http-proxy-user-pass" | "<http-proxy-user-pass>"), _:
                self.http_proxy = self.http_proxy or _Proxy()
            case "socks-proxy", 1 | 2 | 3:
                self.socks_proxy = (words[0], words[1] if len(words) > 1 else "1080")

    def load_remote(self, host: str, port: str = "", protocol: str = "") -> None:
        """Apply a ``remote``: connection_entry_load_re().  A protocol without a version does not change the version."""
        self.host = host
        self.port = port or self.port
        if protocol:
            self.protocol, version = _find_protocol(("remote", host, port, protocol), protocol)
            self.version = version or self.version


class _Reader:
    """Reads the options of a configuration in their order, and then returns the connections."""

    def __init__(self) -> None:
        self._common = _Entry()
        self._remotes: list[list[str]] = []
        self._blocks: list[_Entry] = []
        self._forced = ""
        self._override: _Proxy | None = None
        self._pulls = False

    def read(self, option: Sequence[str]) -> None:
        """Read the next option.  Raises `TunnelError` for an option with which the connections can't be known."""
        name, *words = option
        match name, len(words):
            case "remote", 1 | 2 | 3:
                self._remotes.append(words)
            case "<connection>", _:
                self._blocks.append(self._read_block(words[0]))
            case "proto-force", 1:
                self._forced, _ = _find_protocol(option, words[0])
            case "http-proxy-override", 2 | 3:
                self._override = _Proxy()
                self._override.host, self._override.port = words[:2]
            case ("client" | "pull"), 0:
                self._pulls = True
            case _:
                _refuse_unknowable(option)
                self._common.read(option)

    def _read_block(self, text: str) -> _Entry:
        entry = self._common.copy()
        for option in parse_configuration(text):
            entry.read(option)
        if not entry.host:
            raise TunnelError('a <connection> has no "remote"')
        return entry

    def finish(self) -> tuple[Connection, ...]:
        """Return the connections: options_postprocess_mutate().  Raises `TunnelError` if there are none."""
        entries = self._blocks
        if not entries:
            for words in self._remotes:
                entry = self._common.copy()
                entry.load_remote(*words)
                entries.append(entry)
        if not entries:
            raise TunnelError(
                'there is no "remote": this OpenVPN waits for the other side to connect; to let its answers through a'
                f' guard, write "netconf-guard-allow in:{self._common.protocol[:3]}/{self._common.local_port}"'
            )
        for entry in entries:
            if entry.protocol == "tcp":
                entry.protocol = "tcp-client"
        if self._forced:
            entries = [entry for entry in entries if entry.protocol == self._forced]
        if self._override and any(entry.protocol == "tcp-client" for entry in entries):
            entries = [entry for entry in entries if entry.protocol != "udp"]
            for entry in entries:
                entry.http_proxy = self._override
        reached = tuple(dict.fromkeys(self._find_connection(entry) for entry in entries))
        if not reached:
            raise TunnelError('no "remote" can be reached by the protocols that "proto" and "proto-force" allow')
        return reached

    def _find_connection(self, entry: _Entry) -> Connection:
        host, port, protocol = entry.host, entry.port, entry.protocol[:3]
        if entry.protocol == "tcp-server":
            raise TunnelError('"proto tcp-server" with "remote": the other side connects, from an unknown port')
        if entry.http_proxy:
            if not entry.http_proxy.host:
                raise TunnelError('options of "http-proxy" without its host and port')
            if protocol != "tcp":
                raise TunnelError(f'"http-proxy" with "proto udp" (remote {host}): OpenVPN accepts it only with tcp')
            host, port = entry.http_proxy.host, entry.http_proxy.port
        elif entry.socks_proxy:
            if protocol != "tcp":
                raise TunnelError(
                    f'"socks-proxy" with "proto udp" (remote {host}): the proxy announces the address and port for the'
                    ' packets only while OpenVPN connects; with "proto tcp-client" they are known beforehand'
                )
            host, port = entry.socks_proxy
        address, version = read_host(host)
        local_port = 0
        # A client binds its socket only if an option says so, options_postprocess_mutate_ce().  Port 0: the kernel
        # chooses one.
        binds = entry.bound and (entry.must_bind or not (self._pulls or protocol == "tcp"))
        if binds and entry.local_port.strip("0"):
            local_port = read_port(entry.local_port, protocol)
        return Connection(address, protocol, read_port(port, protocol), version or entry.version, local_port)


def _find_protocol(option: Sequence[str], word: str) -> tuple[str, int]:
    if word not in _PROTOCOLS:
        raise TunnelError(f'"{" ".join(option)}": "{word}" is no protocol')
    return _PROTOCOLS[word]


def _refuse_unknowable(option: Sequence[str]) -> None:
    """Raise `TunnelError` for an option with which it can't be known beforehand where the packets go."""
    shown = " ".join(option[:2])
    match tuple(option):
        case ("remote-random-hostname",) | ("setenv", "REMOTE_RANDOM_HOSTNAME"):
            raise TunnelError(
                f'"{shown}" makes up a new name for each connection, so its addresses can\'t be known beforehand:'
                " remove this line"
            )
        case (("management-query-remote" | "management-query-proxy"),):
            raise TunnelError(
                f'"{shown}" lets another program choose the server at each connection, so it can\'t be known'
                ' beforehand: use "remote" or "http-proxy" lines instead'
            )
        case ("mode", "server") | (("server" | "server-ipv6" | "server-bridge"), *_):
            raise TunnelError(
                f'"{shown}" waits for clients to connect; to let its answers through a guard, write'
                ' "netconf-guard-allow in:udp/1194"'
            )
