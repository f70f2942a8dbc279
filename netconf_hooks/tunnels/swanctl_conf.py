"""Readers for swanctl.conf and strongswan.conf; strongswan.conf(5) describes their syntax."""

from __future__ import annotations

import os
import re

from netconf_hooks.record import Record
from netconf_hooks.system.files import MOST_FILES, read_text
from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.ike import ESP, Flow, IKE_PORT, NAT_PORT, Peer, find_family, read_hosts, read_port, refuse_ah
from netconf_hooks.tunnels.strongswan import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_INCLUDES = 10
"""How deep ``include`` may be nested; MAX_INCLUDE_LEVEL of strongSwan's settings_parser.y."""


class Reading(Record):
    """The connections in configuration files.  files: each file, with the reason if it could not be read."""

    __slots__ = ("connections", "files")

    def __init__(self, connections: tuple[Connection, ...], files: tuple[str, ...]) -> None:
        self.connections = connections
        self.files = files


class Charon(Record):
    """The settings in strongswan.conf for a daemon's sockets.

    name: the daemon's section; port, nat_port: the source ports of its IKE, 0 for any; uids: the users who can own its
    sockets; version: 4 or 6 if it has only sockets of that family, else 0.
    """

    __slots__ = ("name", "port", "nat_port", "uids", "version")

    def __init__(
        self,
        name: str = "charon",
        port: int = IKE_PORT,
        nat_port: int = NAT_PORT,
        uids: tuple[int, ...] = (0,),
        version: int = 0,
    ) -> None:
        self.name = name
        self.port = port
        self.nat_port = nat_port
        self.uids = uids
        self.version = version


class Section:
    """A section, filled by the parser.  file: where it begins; references: the sections that it includes."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[str, str] = {}
        self.sections: dict[str, Section] = {}
        self.references: list[str] = []


def read_configuration(path: str) -> Reading:
    """Read the connections of a swanctl.conf and the files that it includes; skip files that can't be read."""
    root, looked = _read(path)
    connections = []
    for name, connection in _list_sections(root, _get_section(root, root, "connections")):
        children = _list_sections(root, _get_section(root, connection, "children"))
        starts = [f"start_action = {action} of {child}" for child, section in children
                  if "start" in (action := _get_value(root, section, "start_action")).split("|")]
        start = f"{', '.join(starts)} in {connection.file}" if starts else ""
        place = f"connection {name} in {connection.file}"
        connections.append(Connection(name, tuple(child for child, _ in children), place, start))
    return Reading(tuple(connections), tuple(looked))


def read_peer(path: str, connection: Connection) -> Peer | None:
    """Return the peer of a connection in a swanctl.conf; None if the file does not have the connection.

    Raises `TunnelError`, naming the option, if the peer can't be known.
    """
    root, _ = _read(path)
    for name, section in _list_sections(root, _get_section(root, root, "connections")):
        if name == connection.name:
            place = f"connection {name} in {section.file}"
            try:
                return _read_peer(root, section, connection, place)
            except TunnelError as error:
                raise TunnelError(f"{place}: {error}") from None
    return None


def _read_peer(root: Section, section: Section, connection: Connection, place: str) -> Peer:
    if mediator := _get_value(root, section, "mediated_by"):
        raise TunnelError(f'mediated_by "{mediator}": only the mediator knows where the other end is')
    for child, options in _list_sections(root, _get_section(root, section, "children")):
        if child in connection.children and not _get_value(root, options, "esp_proposals"):
            refuse_ah(f"ah_proposals of {child}", _get_value(root, options, "ah_proposals"))
    return Peer(
        place,
        read_hosts("remote_addrs", _get_value(root, section, "remote_addrs") or "%any"),
        find_family(_get_value(root, section, "local_addrs")),
        read_port("local_port", _get_value(root, section, "local_port")),
        read_port("remote_port", _get_value(root, section, "remote_port")),
    )


def read_daemons(path: str) -> tuple[Charon, ...]:
    """Return the settings of charon and of charon-systemd in a strongswan.conf.  charon-systemd inherits charon's.

    If the file can't be read, the defaults hold.  Raises `TunnelError`, naming the option, for a value that can't be
    read.
    """
    root, _ = _read(path)
    try:
        return tuple(_read_daemon(root, names) for names in (("charon",), ("charon-systemd", "charon")))
    except TunnelError as error:
        raise TunnelError(f"{path}: {error}") from None


def _read_daemon(root: Section, names: tuple[str, ...]) -> Charon:
    def find(*keys: str) -> str:
        for name in names:
            section = _get_section(root, root, name)
            for key in keys[:-1]:
                section = _get_section(root, section, key) if section else None
            if section and (value := _get_value(root, section, keys[-1])):
                return value
        return ""

    ports = [
        read_port(f"{names[0]}.{key}", value) if (value := find(key)) else default
        for key, default in (("port", IKE_PORT), ("port_nat_t", NAT_PORT))
    ]
    spoken = [version for version in (4, 6) if not _is_no(find("plugins", "socket-default", f"use_ipv{version}"))]
    uids = (0, *_find_user(f"{names[0]}.user", find("user")))
    return Charon(names[0], ports[0], ports[1], tuple(dict.fromkeys(uids)), spoken[0] if len(spoken) == 1 else 0)


def _is_no(value: str) -> bool:
    # settings_value_as_bool() of settings.c.
    return value.lower() in ("0", "no", "false", "disabled")


def _find_user(option: str, value: str) -> tuple[int, ...]:
    import pwd

    if not value:
        return ()
    try:
        return (pwd.getpwnam(value).pw_uid,)
    except (KeyError, ValueError):
        raise TunnelError(f'{option}: there is no user "{value}"') from None


def find_flows(charon: Charon, peer: Peer) -> tuple[Flow, ...]:
    """Return what charon sends to a peer.

    After the first packets charon changes the ports (float_ports() of ike_sa.c): its own to `Charon.nat_port`, unless
    the connection has a local port; the peer's to 4500, if either of them was 500.  If the first port is random, these
    packets are matched by uid, since charon sends them itself.  A random port for NAT can't be matched, since the
    kernel sends from it, too: raises `TunnelError`.
    """
    local = peer.local_port or charon.port
    remote = peer.remote_port or IKE_PORT
    if local != charon.port:
        floated = local
    elif charon.nat_port and charon.nat_port != charon.port:
        floated = charon.nat_port
    else:
        # "Has to be different from charon.port, otherwise a random port will be allocated": strongswan.conf(5).
        raise TunnelError(
            f"{charon.name}.port_nat_t is {charon.nat_port}: charon uses a random port, which the guard can't let pass"
        )
    first = Flow("udp", remote, local) if local else Flow("udp", remote, uids=charon.uids)
    return first, Flow("udp", NAT_PORT if IKE_PORT in (local, remote) else remote, floated), ESP


# settings_lexer.l and settings_parser.y of strongSwan; strongswan.conf(5), "SYNTAX", describes the language.  Nothing
# backtracks, so the time is linear: all repetitions are possessive, and a word that is no name is skipped as a whole.
_TOKEN = re.compile(
    r"""
    (?:\s|\#[^\n]*+)++
    | include[ \t]++ (?P<include> "(?:\\.|[^"\\])*+" | [^\s{}"]++ )
    | (?P<close> \} )
    | (?P<name> [^\s{}\#=:,"]++ ) (?:
        [ \t]*+=[ \t]*+ (?P<value> "(?:\\.|[^"\\])*+" | [^\n\#}"]*+ )
        | \s*+ (?: :(?P<references>[^\n\#{}=:]*+) )? (?P<open> \{ )
      )
    | [^\s{}\#=:,"]++
    | .
    """,
    re.VERBOSE | re.DOTALL,
)


def _read(path: str) -> tuple[Section, list[str]]:
    """Return the root section of a file, and the files as in `Reading`."""
    root = Section(path)
    looked: list[str] = []
    _read_settings(path, root, looked, ())
    return root, looked


def _read_settings(path: str, top: Section, looked: list[str], above: tuple[str, ...]) -> None:
    """Read a file into `top`.  looked: gets the name of each file; above: the chain of files that include this one."""
    from glob import glob

    if len(looked) >= MOST_FILES:
        return
    try:
        text = read_text(path, any_end=True)
    except OSError as error:
        looked.append(f"{path} ({error.strerror})")
        return
    looked.append(path)
    stack = [top]
    for token in _TOKEN.finditer(text):
        if token["include"] and len(above) < _MAX_INCLUDES:
            pattern = os.path.join(os.path.dirname(path), _unquote(token["include"]))
            # Skip the files that include this one: reading them again adds nothing, and would never end.
            for name in sorted(set(glob(pattern)).difference(above, (path,))):
                _read_settings(name, stack[-1], looked, (*above, path))
        elif token["open"]:
            section = stack[-1].sections.setdefault(token["name"], Section(path))
            section.references += (token["references"] or "").replace(",", " ").split()
            stack.append(section)
        elif token["close"] and len(stack) > 1:
            stack.pop()
        elif token["value"] is not None:
            stack[-1].values[token["name"]] = _unquote(token["value"].strip())


def _unquote(text: str) -> str:
    if text[:1] != '"':
        return text
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _refer(root: Section, section: Section) -> Iterator[Section]:
    """Yield `section` and then the sections that it refers to by their full names with dots, each once."""
    waiting = [section]
    seen: set[int] = set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        for reference in reversed(part.references):
            found: Section | None = root
            for name in reference.split("."):
                found = found.sections.get(name) if found else None
            if found:
                waiting.append(found)


def _list_sections(root: Section, section: Section | None) -> list[tuple[str, Section]]:
    found: dict[str, Section] = {}
    for part in _refer(root, section) if section else ():
        for name, below in part.sections.items():
            found.setdefault(name, below)
    return list(found.items())


def _get_section(root: Section, section: Section, name: str) -> Section | None:
    for part in _refer(root, section):
        if name in part.sections:
            return part.sections[name]
    return None


def _get_value(root: Section, section: Section, key: str) -> str:
    for part in _refer(root, section):
        if key in part.values:
            return part.values[key]
    return ""
