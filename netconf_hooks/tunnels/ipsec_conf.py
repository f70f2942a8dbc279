"""ipsec.conf(5): the connections that it defines, for strongSwan's starter and for Libreswan.

Both have the same syntax: a section begins in the first column (``conn NAME``), its parameters are on indented lines,
``#`` begins a comment, ``also=`` takes over another section's parameters, ``conn %default`` holds for all, ``include``
reads another file.
"""

from __future__ import annotations

import os

from netconf_hooks.record import Record
from netconf_hooks.system.files import MOST_FILES, read_text
from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.ike import IKE_PORT, Peer, find_family, is_own, read_hosts, read_port, refuse_ah

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_INCLUDES = 10
"""How deep includes may be nested; MAX_INCLUDE_DEPTH of Libreswan's parser.y is 10, strongSwan's starter has 20."""


_MAGIC = ("%any", "%any4", "%any6", "%defaultroute", "%group", "%opportunistic", "%opportunisticgroup")
"""What ``left`` and ``right`` can be in place of a host."""


class Conn(Record):
    """A ``conn`` section.  file: the file that it is in; auto: its ``auto=``, own or inherited, or empty."""

    __slots__ = ("name", "file", "auto")

    def __init__(self, name: str, file: str, auto: str) -> None:
        self.name = name
        self.file = file
        self.auto = auto


class Reading(Record):
    """What was read.  conns: all sections; files: each file, with the reason if it could not be read."""

    __slots__ = ("conns", "files")

    def __init__(self, conns: tuple[Conn, ...], files: tuple[str, ...]) -> None:
        self.conns = conns
        self.files = files


class Section:
    """A section as it is written.  file: the file in which it begins; parameters: in their order."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.parameters: list[tuple[str, str]] = []


def read_conns(path: str) -> Reading:
    """Read the ``conn`` sections of an ipsec.conf and the files that it includes; skip files that can't be read."""
    sections, looked = _read_sections(path)
    autos = _find_autos(sections)
    default = autos.get("%default")
    return Reading(
        tuple(
            Conn(name, section.file, next((auto for auto in (autos[name], default) if auto is not None), ""))
            for name, section in sections.items()
            if name != "%default"
        ),
        looked,
    )


def read_parameters(path: str, name: str) -> dict[str, str]:
    """Return all parameters of a ``conn`` by their names in lower case; none if there is no such section.

    These are its own parameters, those of the sections named by ``also`` and by ``alsoflip`` (with left and right
    exchanged), and those of ``%default``.  If a parameter occurs in several sections, the nearest one counts; if it
    occurs twice in one section, the last one counts.
    """
    sections, _ = _read_sections(path)
    return _collect(sections, name) if name in sections else {}


def _collect(sections: dict[str, Section], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    seen = set()
    # A stack: the next section is the last one.  A section that was already read adds nothing.
    waiting = [("%default", False), (name, False)]
    while waiting:
        place = waiting.pop()
        section, flipped = place
        if place in seen or section not in sections:
            continue
        seen.add(place)
        parameters = sections[section].parameters
        for key, value in dict(parameters).items():
            found.setdefault(_flip(key) if flipped else key, value)
        for key, value in reversed(parameters):
            if key in ("also", "alsoflip"):
                names = reversed(value.replace(",", " ").split())
                waiting += [(other, flipped != (key == "alsoflip")) for other in names]
    return found


def _find_autos(sections: dict[str, Section]) -> dict[str, str | None]:
    """Return the ``auto`` of each section, own or inherited, but not from ``%default``; None if there is none.

    The result is as by `_collect`, but each section is visited only once, however long the chains of ``also`` are.
    Both programs refuse a section that includes itself; here it inherits nothing from itself.
    """
    found = {name: dict(section.parameters).get("auto") for name, section in sections.items()}
    looked = set()
    for start in sections:
        path = [] if start in looked else [(start, _iterate_also(sections[start]))]
        looked.add(start)
        while path:
            name, others = path[-1]
            other = next(others, None) if found[name] is None else None
            if other is None:
                path.pop()
                if path:
                    found[path[-1][0]] = found[name]
            elif other in looked:
                found[name] = found[other]
            elif other in sections:
                looked.add(other)
                path.append((other, _iterate_also(sections[other])))
    return found


def _iterate_also(section: Section) -> Iterator[str]:
    """Yield the names of the sections whose parameters a section takes over, in their order."""
    for key, value in section.parameters:
        if key in ("also", "alsoflip"):
            yield from value.replace(",", " ").split()


def read_starter_peer(path: str, name: str) -> Peer | None:
    """Return the peer of a ``conn`` of strongSwan; None if there is no such section.

    The peer is ``right``, or ``left`` if ``right`` is an address of this machine, as charon chooses it
    (stroke_config.c, swap_ends()).  Raises `TunnelError`, naming the option, if the peer can't be known.
    """
    parameters = read_parameters(path, name)
    if not parameters:
        return None
    place = f"conn {name}"
    ours, theirs = ("right", "left") if is_own(parameters.get("right", "")) else ("left", "right")
    # With a percent sign before the host, the conn also accepts other peers.
    words = [word.strip() for word in (parameters.get(theirs) or "%any").split(",")]
    words = [word if word in _MAGIC else word.removeprefix("%") for word in words]
    try:
        if not parameters.get("esp"):
            refuse_ah("ah", parameters.get("ah", ""))
        local_port = read_port(f"{ours}ikeport", parameters.get(f"{ours}ikeport", ""))
        return Peer(
            place,
            read_hosts(theirs, ",".join(words)),
            find_family(parameters.get(ours, "")),
            # charon replaces 500 by its default port, even if it is written: stroke_config.c, build_ike_cfg().
            0 if local_port == IKE_PORT else local_port,
            read_port(f"{theirs}ikeport", parameters.get(f"{theirs}ikeport", "")),
        )
    except TunnelError as error:
        raise TunnelError(f"{place}: {error}") from None


def _flip(key: str) -> str:
    for side, other in (("left", "right"), ("right", "left")):
        if key.startswith(side):
            return other + key.removeprefix(side)
    return key


def _read_sections(path: str) -> tuple[dict[str, Section], tuple[str, ...]]:
    """Return the ``conn`` sections by name, and the files as in `Reading`."""
    sections: dict[str, Section] = {}
    looked: list[str] = []
    current: Section | None = None
    for file, line in _read_lines(path, looked, ()):
        words = _strip_comment(line).split(None, 1)
        if not words:
            continue
        if not line[0].isspace():
            current = None
            if words[0] == "conn" and len(words) == 2:
                current = sections.setdefault(words[1].strip().strip('"'), Section(file))
        elif current:
            key, equals, value = _strip_comment(line).partition("=")
            if equals:
                current.parameters.append((key.strip().lower(), value.strip().strip('"')))
    return sections, tuple(looked)


def _read_lines(path: str, looked: list[str], above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file and of the files that it includes, as pairs of file name and line.

    looked: gets the name of each file; above: the chain of files that include this one.
    """
    from glob import glob

    try:
        if len(looked) >= MOST_FILES:
            return
        lines = read_text(path, any_end=True).split("\n")
    except OSError as error:
        looked.append(f"{path} ({error.strerror})")
        return
    looked.append(path)
    for line in lines:
        words = _strip_comment(line).split(None, 1)
        if len(words) == 2 and words[0] == "include" and len(above) < _MAX_INCLUDES:
            pattern = os.path.join(os.path.dirname(path), words[1].strip().strip('"'))
            # Skip the files that include this one: reading them again adds nothing, and would never end.
            for name in sorted(set(glob(pattern)).difference(above, (path,))):
                yield from _read_lines(name, looked, (*above, path))
        elif line:
            yield path, line


def _strip_comment(line: str) -> str:
    """Return `line` without its comment: a ``#`` at the start of a word and outside of quotes begins one."""
    quoted = False
    for place, character in enumerate(line):
        if character == '"':
            quoted = not quoted
        elif character == "#" and not quoted and (place == 0 or line[place - 1].isspace()):
            return line[:place]
    return line
