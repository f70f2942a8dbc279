"""ipsec.conf(5), of strongSwan's starter and of Libreswan: which connections it has.

Both mean by it: sections that begin in the first column (``conn NAME``), parameters on lines that do not, ``#``
comments, ``also=`` to take over another section's parameters, ``conn %default`` for all, and ``include``.
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
    """A ``conn`` section.  file: where it stands; auto: its ``auto=``, also inherited, or empty."""

    __slots__ = ("name", "file", "auto")

    def __init__(self, name: str, file: str, auto: str) -> None:
        self.name = name
        self.file = file
        self.auto = auto


class Reading(Record):
    """What was read.  conns: all sections; files: what was looked at, with the reason where it could not be read."""

    __slots__ = ("conns", "files")

    def __init__(self, conns: tuple[Conn, ...], files: tuple[str, ...]) -> None:
        self.conns = conns
        self.files = files


class Section:
    """A section as it is written.  file: where it begins; parameters: in their order."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.parameters: list[tuple[str, str]] = []


def read_conns(path: str) -> Reading:
    """Read the ``conn`` sections of an ipsec.conf and of what it includes; files that can't be read hold none."""
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
    """Return all parameters of a ``conn`` by their names in lower case; none where there is no such section.

    They are its own, those of the sections that it names by ``also`` and, left and right exchanged, by ``alsoflip``,
    and those of ``%default``.  Of one written twice the nearest counts, and in one section the last.
    """
    sections, _ = _read_sections(path)
    return _collect(sections, name) if name in sections else {}


def _collect(sections: dict[str, Section], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    seen = set()
    # What is looked at next stands last; a section that comes again adds nothing.
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
    """Return the ``auto`` of each section, also inherited, but not from ``%default``; None if there is none.

    As `_collect` finds it, but each section is looked at once, however long the chains of ``also`` are.  A section that
    takes over itself, which both programs refuse, gives no more than it has.
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
    """Yield the names of the sections that a section takes over, in their order."""
    for key, value in section.parameters:
        if key in ("also", "alsoflip"):
            yield from value.replace(",", " ").split()


def read_starter_peer(path: str, name: str) -> Peer | None:
    """Return whom a ``conn`` of strongSwan goes to; None where there is no such section.

    That is ``right``, but ``left`` where the other one is an address of this machine: so charon chooses
    (stroke_config.c, swap_ends()).  Raises `TunnelError`, naming the option, where it can't be known.
    """
    parameters = read_parameters(path, name)
    if not parameters:
        return None
    place = f"conn {name}"
    ours, theirs = ("right", "left") if is_own(parameters.get("right", "")) else ("left", "right")
    # The percent sign before a host lets others come as well.
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
            # Said or not, 500 is what charon has in its place: stroke_config.c, build_ike_cfg().
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
    """Return the ``conn`` sections by name, and the files that were looked at."""
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
    """Give the lines of a file, each after its file's name; above: the files that include it, one in the other."""
    from glob import glob

    try:
        if len(looked) >= MOST_FILES:
            return  # `looked` is long enough to show why
        lines = read_text(path, any_end=True).split("\n")
    except OSError as error:
        looked.append(f"{path} ({error.strerror})")
        return
    looked.append(path)
    for line in lines:
        words = _strip_comment(line).split(None, 1)
        if len(words) == 2 and words[0] == "include" and len(above) < _MAX_INCLUDES:
            pattern = os.path.join(os.path.dirname(path), words[1].strip().strip('"'))
            # What includes itself says nothing new, but would say it ever so often.
            for name in sorted(set(glob(pattern)).difference(above, (path,))):
                yield from _read_lines(name, looked, (*above, path))
        elif line:
            yield path, line


def _strip_comment(line: str) -> str:
    """Return `line` without a comment: one begins at the start of a word, outside of quotes."""
    quoted = False
    for place, character in enumerate(line):
        if character == '"':
            quoted = not quoted
        elif character == "#" and not quoted and (place == 0 or line[place - 1].isspace()):
            return line[:place]
    return line
