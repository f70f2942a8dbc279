"""OpenVPN's configuration files: openvpn(8), and what options.c of OpenVPN 2.5 to 2.7 makes of them."""

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
"""What ``proto`` can be, and whether that means IPv4 only: proto_names[] in OpenVPN's socket.c.

By ``udp6`` OpenVPN 2.6 only tries IPv6 addresses, but OpenVPN 2.7 tries IPv4 ones too.  What is installed may change
while a guard is closed, so both count.
"""

_DEFAULT_PORT = "1194"


class Connection(Record):
    """One of the ways to the other side that OpenVPN tries in turn.

    host: an address as inet_ntop(3) writes it, or a name; protocol: ``udp`` or ``tcp``; version: 4 or 6 where only
    addresses of that version of IP are used, else 0.
    local_port: the port that it sends from, 0 where the kernel chooses one.
    """

    __slots__ = ("host", "protocol", "port", "version", "local_port")

    def __init__(self, host: str, protocol: str, port: int, version: int = 0, local_port: int = 0) -> None:
        self.host = host
        self.protocol = protocol
        self.port = port
        self.version = version
        self.local_port = local_port


def read_configuration(path: str) -> tuple[tuple[str, ...], ...]:
    """Return the options of a configuration file and of those it includes, each with its parameters, in order.

    What is included is looked for in the file's own directory, or where a ``cd`` leads: that is where OpenVPN runs.
    Raises OSError when the file can't be read, and for a file of the others that is no regular one or too large;
    included ones that are missing, or that include themselves, are OpenVPN's to complain about.
    """
    return tuple(_read_options(path, os.path.dirname(path), (), []))


def _read_options(
    path: str, directory: str, includers: tuple[str, ...], looked: list[str]
) -> Iterator[tuple[str, ...]]:
    """Yield the options of a file.  includers: those that include it, one in the other; looked: all that were read."""
    if len(looked) >= MOST_FILES:
        raise OSError(EFBIG, f"more than {MOST_FILES} files are included", path)
    looked.append(path)
    # No end of line but "\n" is one to fgets(3).
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
                if error.errno in (EINVAL, EFBIG):  # as files.read_file says
                    raise
            except ValueError:  # a NUL in its name
                pass


def parse_configuration(text: str) -> tuple[tuple[str, ...], ...]:
    """Read a configuration: openvpn(8), "Options", as read_config_file() and parse_line() of OpenVPN's options.c do.

    An inline file (``<ca>...</ca>``) is an option that keeps its brackets, the text its parameter.  Lines with an
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
            words = words[2:]  # what older OpenVPNs need not know
        found.append(words)
    return tuple(found)


def _read_inline(lines: Iterator[str], end: str) -> Iterator[str]:
    for line in lines:
        if line.lstrip(_SPACE).startswith(end):
            return
        yield line


def split_line(line: str) -> tuple[str, ...]:
    """Split a line of a configuration into its words; empty for a comment or an unfinished quote.

    ``#`` and ``;`` begin a comment at the start of a word only.  A backslash takes the next character for itself, save
    within single quotes, where it is one.
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

    As OpenVPN does it: where there is a ``<connection>``, the remotes outside of such blocks don't count, and what
    stands below a block does not hold in it.  With ``http-proxy``, or ``socks-proxy`` and TCP, only the proxy is ever
    sent to.  A server that goes on by another address (``float``) is not followed there.

    Raises `TunnelError`, naming the option, where that can't be known from the configuration.
    """
    reader = _Reader()
    for option in options:
        reader.read(option)
    return reader.finish()


class _Proxy:
    """An HTTP proxy.  All entries share one, also with those that were copied before its address was read."""

    __slots__ = ("host", "port")

    def __init__(self) -> None:
        self.host = self.port = ""


class _Entry:
    """What holds for one remote: struct connection_entry of OpenVPN's options.h, as init_options() leaves it."""

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
        """Return one that holds the same."""
        twin = _Entry()
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    def read(self, option: Sequence[str]) -> None:
        """Take an option that ``<connection>`` may hold; others are passed over, like those OpenVPN would refuse."""
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
        """Take a ``remote``: connection_entry_load_re().  A protocol without a version leaves that as it was."""
        self.host = host
        self.port = port or self.port
        if protocol:
            self.protocol, version = _find_protocol(("remote", host, port, protocol), protocol)
            self.version = version or self.version


class _Reader:
    """Reads the options of a configuration in their order, and then says what they come to."""

    def __init__(self) -> None:
        self._common = _Entry()
        self._remotes: list[list[str]] = []
        self._blocks: list[_Entry] = []
        self._forced = ""
        self._override: _Proxy | None = None
        self._pulls = False

    def read(self, option: Sequence[str]) -> None:
        """Take the next option.  Raises `TunnelError` for one with which nothing can be known."""
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
        """Return the connections: options_postprocess_mutate().  Raises `TunnelError` where there are none."""
        entries = self._blocks
        if not entries:
            for words in self._remotes:
                entry = self._common.copy()
                entry.load_remote(*words)
                entries.append(entry)
        if not entries:
            raise TunnelError(
                'there is no "remote": this OpenVPN waits for the other side, wherever that is; a guard lets its'
                f' answers through by "netconf-guard-allow in:{self._common.protocol[:3]}/{self._common.local_port}"'
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
        found = [self._find_connection(entry) for entry in entries]
        # An IPv6 address where only IPv4 ones are asked for is none to getaddrinfo(3).
        reached = tuple(dict.fromkeys(connection for connection in found if connection))
        if not reached:
            raise TunnelError('no "remote" can be reached by the protocols that "proto" and "proto-force" allow')
        return reached

    def _find_connection(self, entry: _Entry) -> Connection | None:
        host, port, protocol = entry.host, entry.port, entry.protocol[:3]
        if entry.protocol == "tcp-server":
            raise TunnelError('"proto tcp-server" with "remote": the other side connects, by a port that nobody knows')
        if entry.http_proxy:
            if not entry.http_proxy.host:
                raise TunnelError('options of "http-proxy" without its host and port')
            if protocol != "tcp":
                raise TunnelError(f'"http-proxy" with "proto udp" (remote {host}): OpenVPN takes it with tcp only')
            host, port = entry.http_proxy.host, entry.http_proxy.port
        elif entry.socks_proxy:
            if protocol != "tcp":
                raise TunnelError(
                    f'"socks-proxy" with "proto udp" (remote {host}): by which address and port it passes packets on'
                    ' the proxy says only when it is asked; with "proto tcp-client" that is known beforehand'
                )
            host, port = entry.socks_proxy
        address, version = read_host(host)
        if version and entry.version and version != entry.version:
            return None
        local_port = 0
        # A client binds only where it is told to, options_postprocess_mutate_ce(); port 0 is the kernel's choice.
        binds = entry.bound and (entry.must_bind or not (self._pulls or protocol == "tcp"))
        if binds and entry.local_port.strip("0"):
            local_port = read_port(entry.local_port, protocol)
        return Connection(address, protocol, read_port(port, protocol), version or entry.version, local_port)


def _find_protocol(option: Sequence[str], word: str) -> tuple[str, int]:
    if word not in _PROTOCOLS:
        raise TunnelError(f'"{" ".join(option)}": "{word}" is no protocol')
    return _PROTOCOLS[word]


def _refuse_unknowable(option: Sequence[str]) -> None:
    """Raise `TunnelError` for an option with which nobody knows beforehand where the packets go."""
    shown = " ".join(option[:2])
    match tuple(option):
        case ("remote-random-hostname",) | ("setenv", "REMOTE_RANDOM_HOSTNAME"):
            raise TunnelError(
                f'"{shown}" makes up a new name for each connection, whose addresses can\'t be known beforehand;'
                " without that line they can"
            )
        case (("management-query-remote" | "management-query-proxy"),):
            raise TunnelError(
                f'"{shown}" leaves it to another program where to connect, at the moment of connecting;'
                ' what "remote" and "http-proxy" lines say is known beforehand'
            )
        case ("mode", "server") | (("server" | "server-ipv6" | "server-bridge"), *_):
            raise TunnelError(
                f'"{shown}" waits for others, wherever they are; a guard lets the answers to them through by'
                ' "netconf-guard-allow in:udp/1194"'
            )
