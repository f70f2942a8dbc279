"""ipsec.conf(5), of strongSwan's starter and of Libreswan: which connections it has.

Both mean by it: sections that begin in the first column (``conn NAME``), parameters on lines that do not, ``#``
comments, ``also=`` to take over another section's parameters, ``conn %default`` for all, and ``include``.
"""

from __future__ import annotations

import os

from netconf_hooks.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_INCLUDES = 10
"""How deep includes may be nested; MAX_INCLUDE_DEPTH of Libreswan's parser.y is 10, strongSwan's starter has 20."""


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


def read_conns(path: str) -> Reading:
    """Read the ``conn`` sections of an ipsec.conf and of what it includes; files that can't be read hold none."""
    places: dict[str, str] = {}
    values: dict[str, list[tuple[str, str]]] = {}
    looked: list[str] = []
    section = ""
    for file, line in _read_lines(path, looked, 0):
        words = _strip_comment(line).split(None, 1)
        if not words:
            continue
        if not line[0].isspace():
            section = ""
            if words[0] == "conn" and len(words) == 2:
                section = words[1].strip().strip('"')
                places.setdefault(section, file)
                values.setdefault(section, [])
        elif section:
            key, equals, value = _strip_comment(line).partition("=")
            if equals:
                values[section].append((key.strip().lower(), value.strip().strip('"')))
    conns = (Conn(name, file, _find_value(values, name, "auto")) for name, file in places.items() if name != "%default")
    return Reading(tuple(conns), tuple(looked))


def _read_lines(path: str, looked: list[str], depth: int) -> Iterator[tuple[str, str]]:
    from glob import glob

    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except OSError as error:
        looked.append(f"{path} ({error.strerror})")
        return
    looked.append(path)
    for line in lines:
        words = _strip_comment(line).split(None, 1)
        if len(words) == 2 and words[0] == "include" and depth < _MAX_INCLUDES:
            pattern = os.path.join(os.path.dirname(path), words[1].strip().strip('"'))
            for name in sorted(glob(pattern)):
                yield from _read_lines(name, looked, depth + 1)
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


def _find_value(values: dict[str, list[tuple[str, str]]], name: str, key: str) -> str:
    """Return a parameter of a section: its own, else of those it names by ``also``, else of %default."""

    def search(section: str, seen: tuple[str, ...]) -> str:
        own = [value for found, value in values.get(section, ()) if found == key]
        if own:
            return own[-1]
        for found, value in values.get(section, ()):
            if found == "also":
                for other in value.replace(",", " ").split():
                    inherited = "" if other in seen else search(other, (*seen, other))
                    if inherited:
                        return inherited
        return ""

    return search(name, (name,)) or search("%default", ("%default",))
