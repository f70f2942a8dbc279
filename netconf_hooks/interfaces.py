"""What stands in /etc/network/interfaces: the names from a small reader, the options from ifupdown itself.

ifquery(8) is ifupdown's own parser, so its word on options is the only one; but ``ifquery --list`` leaves out stanzas
that are templates or hotplugged, so the names are read here: ``iface``, ``mapping``, ``source`` and
``source-directory`` lines, interfaces(5).  It is always run with ``--no-mappings``: a mapping script may do anything,
and asking must change nothing.
"""

from __future__ import annotations

import glob
import os
import re

from netconf_hooks.programs import ProgramError, run
from netconf_hooks.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "/etc/network/interfaces"

_OPTION = re.compile(r"([A-Za-z][A-Za-z0-9_-]*): (.*)", re.DOTALL)
_SOURCED_NAME = re.compile(r"[a-zA-Z0-9_-]+")  # interfaces(5): what source-directory takes

# A file that sources itself would be read for ever; ifupdown stops there by running out of files.
_DEEPEST = 20


class InterfacesError(Exception):
    """/etc/network/interfaces, or a stanza of it, can't be read; the message names it and gives ifquery's own words."""


class Names(Record):
    """The names in /etc/network/interfaces.

    stanzas: of ``iface`` stanzas, each once, in the order written; mapped: the patterns of ``mapping`` stanzas.
    parents: those that others inherit from: templates.
    problems: what could not be read, as ``file:line: message``.
    """

    __slots__ = ("stanzas", "mapped", "parents", "problems")

    def __init__(
        self, stanzas: tuple[str, ...], mapped: tuple[str, ...], parents: tuple[str, ...], problems: tuple[str, ...]
    ) -> None:
        self.stanzas = stanzas
        self.mapped = mapped
        self.parents = parents
        self.problems = problems


def read_names(path: str = FILE) -> Names:
    """Return the names that `path` and the files it sources define.  Never raises."""
    found: dict[str, list[str]] = {"iface": [], "mapping": [], "inherits": [], "problem": []}
    _read_file(path, found, 0)
    unique = {kind: tuple(dict.fromkeys(values)) for kind, values in found.items()}
    return Names(unique["iface"], unique["mapping"], unique["inherits"], unique["problem"])


def query_options(name: str, path: str = FILE, timeout: float = 10.0) -> dict[str, str]:
    """Return the options of the stanzas called `name`, inherited ones included, by name; repeated ones joined by
    newlines.

    timeout: seconds that ifquery may take.  Raises `InterfacesError`.
    """
    try:
        result = run(["ifquery", "--no-mappings", "-i", path, name], timeout=timeout)
    except ProgramError as error:
        raise InterfacesError(f"{name}: {error}") from error
    if result.status != 0:
        raise InterfacesError(f"{name}: {result.output.strip() or 'ifquery knows no such interface'}")
    return parse_options(result.output)


def parse_options(output: str) -> dict[str, str]:
    """Return the options in what ifquery printed: ``option: value``, and a line for each further value of a repeated
    one.  Names are written as hooks get them: ``NetConf_VPN`` is ``netconf-vpn``."""
    options: dict[str, str] = {}
    latest = ""
    for line in output.splitlines():
        match = _OPTION.fullmatch(line)
        if match:
            latest, value = match.groups()
            latest = latest.lower().replace("_", "-")
        else:
            value = line
        if latest:
            options[latest] = f"{options[latest]}\n{value}" if latest in options else value
    return options


def _read_file(path: str, found: dict[str, list[str]], depth: int) -> None:
    if depth > _DEEPEST:
        found["problem"].append(f"{path}: sourced too deep")
        return
    try:
        # newline: only "\n" ends a line here, as it does for ifupdown.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            lines = list(_join_lines(file.read()))
    except OSError as error:
        found["problem"].append(f"{path}: {error.strerror}")
        return
    for number, line in lines:
        words = line.split()
        if words[0] == "iface" and len(words) > 1:
            found["iface"].append(words[1])
            if "inherits" in words[2:-1]:
                found["inherits"].append(words[words.index("inherits", 2) + 1])
        elif words[0] == "mapping":
            found["mapping"].extend(words[1:])
        elif words[0] in ("source", "source-directory") and len(words) > 1:
            for pattern in words[1:]:
                if "$" in pattern or "`" in pattern:  # wordexp(3) would run it
                    found["problem"].append(f"{path}:{number}: {line}: not followed: only ifupdown expands it")
                    continue
                for sourced in _list_sourced(words[0], os.path.join(os.path.dirname(path), pattern)):
                    _read_file(sourced, found, depth + 1)


def _join_lines(text: str) -> Iterator[tuple[int, str]]:
    # interfaces(5): a line that ends with a backslash goes on in the next; # begins a comment only at a line's
    # beginning, and a comment ends with its line whatever its last character is (ifupdown's config.c, get_line).
    start, joined = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        if not joined:
            start = number
            if line.lstrip().startswith("#"):
                continue
        if line.endswith("\\"):
            joined += line[:-1]
            continue
        joined = (joined + line).strip()
        if joined:
            yield start, joined
        joined = ""


def _list_sourced(keyword: str, pattern: str) -> list[str]:
    paths = sorted(glob.glob(os.path.expanduser(pattern)))
    if keyword == "source":
        return [path for path in paths if not os.path.isdir(path)]
    return [
        os.path.join(directory, name)
        for directory in paths
        if os.path.isdir(directory)
        for name in sorted(os.listdir(directory))
        if _SOURCED_NAME.fullmatch(name)
    ]
