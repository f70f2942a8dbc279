"""Reads /etc/network/interfaces: the names of its stanzas by a small parser, the options by ifupdown's ifquery(8).

ifquery is ifupdown's own parser, so only it reads the options.  But ``ifquery --list`` leaves out stanzas that are
templates or hotplugged, so the names are read here: ``iface``, ``mapping``, ``source`` and ``source-directory`` lines,
interfaces(5).  ifquery is always run with ``--no-mappings``: a mapping script may do anything, and reading must not
change anything.

ifupdown-ng and ifupdown2 have their own ifquery, which refuses this option (they have no mappings) and prints the
stanzas in another form.  They are run again without the option, and their output is converted to ifupdown's form.
"""

from __future__ import annotations

import os

from netconf_hooks.record import Record
from netconf_hooks.stanzas.ifenv import is_relevant
from netconf_hooks.system import log
from netconf_hooks.system.files import read_text
from netconf_hooks.system.programs import ProgramError, ProgramLate, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from netconf_hooks.system.programs import Result

FILE = "/etc/network/interfaces"

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# Allowed in option names, and in names of files for source-directory, interfaces(5).
_NAME = _LETTERS | frozenset("0123456789_-")
_WILDCARDS = frozenset("*?[")

# Words that end the stanza before them, interfaces(5).
_KEYWORDS = (
    "iface", "mapping", "auto", "template", "source", "source-directory", "rename", "no-auto-down", "no-scripts"
)  # fmt: skip

# A file that sources itself would be read forever; ifupdown stops when it runs out of file descriptors.
_DEEPEST = 20

# The marker between the stanzas in one ifquery's output, and the number of stanzas for one ifquery: the output of more
# could exceed `programs.OUTPUT_LIMIT`.
_MARK = "netconf-hooks-stanza"
_AT_ONCE = 100

# The prefix of ifquery's error messages; ifupdown2's ifquery writes others.
_COMPLAINT = "ifquery: "
_COMPLAINTS_OF_IFUPDOWN2 = ("error: ", "warning: ")

IFUPDOWN, IFUPDOWN_NG, IFUPDOWN2 = "ifupdown", "ifupdown-ng", "ifupdown2"


class InterfacesError(Exception):
    """/etc/network/interfaces, or a stanza of it, can't be read; the message names it and quotes ifquery.

    name: of the stanza, empty if the error is about all of them; reason: the message without the name.
    """

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(f"{name}: {reason}" if name else reason)
        self.name = name
        self.reason = reason


class InterfacesLate(InterfacesError):
    """ifquery does not end: it waits for a file, such as a FIFO, and would wait in the same way for any stanza."""


class Line(Record):
    """An option as written.

    option: its name as hooks get it; value: the rest of the line with its continuation lines.
    file, number: the file, and the number of the line in which it begins.
    """

    __slots__ = ("option", "value", "file", "number")

    def __init__(self, option: str, value: str, file: str, number: int) -> None:
        self.option = option
        self.value = value
        self.file = file
        self.number = number


class Heading(Record):
    """An ``iface`` stanza as written.

    name, family, method: from its first line; parent: the stanza that it inherits from, empty for none; options: the
    names of its own options.
    file, number: the file, and the number of its first line; lines: number and text of each of its options.
    """

    __slots__ = ("name", "family", "method", "parent", "options", "file", "number", "lines")

    def __init__(
        self,
        name: str,
        family: str,
        method: str,
        parent: str,
        options: tuple[str, ...] = (),
        file: str = "",
        number: int = 0,
        lines: tuple[tuple[int, str], ...] = (),
    ) -> None:
        self.name = name
        self.family = family
        self.method = method
        self.parent = parent
        self.options = options
        self.file = file
        self.number = number
        self.lines = lines

    def list_lines(self) -> list[Line]:
        """Return its own options with their lines."""
        found = []
        for option, (number, text) in zip(self.options, self.lines):
            _, value = (*text.split(None, 1), "")[:2]
            found.append(Line(option, value, self.file, number))
        return found


class Names(Record):
    """The names in /etc/network/interfaces.

    stanzas: of ``iface`` stanzas, each once, in the order written; mapped: the patterns of ``mapping`` stanzas.
    parents: of stanzas that others inherit from.
    problems: what could not be read, as ``file:line: message``.  headings: all stanzas, in the order written.
    """

    __slots__ = ("stanzas", "mapped", "parents", "problems", "headings")

    def __init__(
        self,
        stanzas: tuple[str, ...],
        mapped: tuple[str, ...],
        parents: tuple[str, ...],
        problems: tuple[str, ...],
        headings: tuple[Heading, ...] = (),
    ) -> None:
        self.stanzas = stanzas
        self.mapped = mapped
        self.parents = parents
        self.problems = problems
        self.headings = headings

    def list_headings_with(self, option: str, name: str) -> list[tuple[Heading, bool]]:
        """Return the stanzas called `name`, each with whether it has an option, its own or inherited."""
        return [(heading, self._has(option, heading, set())) for heading in self.headings if heading.name == name]

    def list_options(self, heading: Heading) -> set[str]:
        """Return the names of a stanza's options, its own and inherited."""
        options = set(heading.options)
        seen: set[str] = set()
        while heading.parent and heading.parent not in seen:
            seen.add(heading.parent)
            parent = next((each for each in self.headings if each.name == heading.parent), None)
            if parent is None:
                break
            options.update(parent.options)
            heading = parent
        return options

    def list_lines(self, name: str) -> list[Line]:
        """Return the options of all stanzas called `name`, with their lines; inherited ones first."""
        found: list[Line] = []
        names = [name]
        for each in names:  # the loop appends the parents
            own = [heading for heading in self.headings if heading.name == each]
            found[:0] = [line for heading in own for line in heading.list_lines()]
            names += dict.fromkeys(heading.parent for heading in own if heading.parent not in ("", *names))
        return found

    def _has(self, option: str, heading: Heading, seen: set[str]) -> bool:
        if option in heading.options:
            return True
        if not heading.parent or heading.parent in seen:
            return False
        seen.add(heading.parent)
        return any(self._has(option, parent, seen) for parent in self.headings if parent.name == heading.parent)


def is_configured(iface: str) -> bool:
    """Whether ifupdown has an interface up, or is bringing it up; False if that is unknown.

    ifupdown-ng and ifupdown2 list an interface only at the end of its ifup.
    """
    try:
        return iface in list_configured()
    except InterfacesError:
        return False


def list_configured() -> set[str]:
    """Return the interfaces that ifupdown has up, or is bringing up.  Raises `InterfacesError`.

    ifquery(8) --state; ifupdown2 has no such option, but its ifquery prints the stanzas that it has saved.
    """
    try:
        result = run(["ifquery", "--state"], timeout=10)
        if result.status != 0 and "unrecognized arguments: --state" in result.output:
            saved = run(["ifquery", "--print-savedstate", "--all"], timeout=10).output
            return {words[1] for words in map(str.split, saved.splitlines()) if words[:1] == ["iface"] and words[1:]}
    except ProgramError as error:
        raise InterfacesError(str(error)) from error
    if result.status != 0:
        raise InterfacesError(result.output.strip() or f"ifquery --state: exit status {result.status}")
    return {name for name, equals, _ in (line.partition("=") for line in result.output.splitlines()) if equals}


def list_boot_links() -> set[str]:
    """Return the interfaces that are raised at boot: those in ``auto`` and ``allow-hotplug`` lines."""
    links: set[str] = set()
    for choice in ((), ("--allow=hotplug",)):
        try:
            links.update(run(["ifquery", "--list", *choice], timeout=10).output.split())
        except ProgramError as error:
            log.error(str(error))
    return links


def read_names(path: str = FILE) -> Names:
    """Return the names that `path` and the files it sources define.  Never raises."""
    found: dict[str, list[str]] = {"iface": [], "mapping": [], "inherits": [], "problem": []}
    headings: list[Heading] = []
    _read_file(path, found, headings, 0)
    unique = {kind: tuple(dict.fromkeys(values)) for kind, values in found.items()}
    return Names(unique["iface"], unique["mapping"], unique["inherits"], unique["problem"], tuple(headings))


def query_options(name: str, path: str = FILE, timeout: float = 10.0) -> dict[str, str]:
    """Return the options of the stanzas called `name` by name, including inherited ones; repeated ones are joined by
    newlines.

    timeout: seconds that ifquery may take.  Raises `InterfacesError`.
    """
    return parse_options(run_ifquery(name, path, timeout))


def query_passes(
    name: str, names: Names | None = None, path: str = FILE, timeout: float = 10.0
) -> list[tuple[str, dict[str, str]]]:
    """Return the address family and the options of each stanza called `name`, in the order written.

    ifquery prints the options of all stanzas without separators.  `Names.headings` has the options of each stanza as
    written, which shows where the next one begins.  Only options that hooks use are returned.  If the stanzas can't be
    separated, all options are returned as one stanza of the family ``any``.
    names: of `path`, if already read.  Raises as `query_options` does.
    """
    return split_passes(run_ifquery(name, path, timeout), name, names or read_names(path))


def find_ifupdown(timeout: float = 10.0) -> str:
    """Return which ifupdown is installed: `IFUPDOWN`, `IFUPDOWN_NG` or `IFUPDOWN2`, by ``ifquery --version``.

    timeout: seconds that ifquery may take.  Raises `InterfacesError`.
    """
    try:
        version = run(["ifquery", "--version"], timeout=timeout).output
    except ProgramError as error:
        raise InterfacesError(str(error)) from error
    return next((name for name in (IFUPDOWN_NG, IFUPDOWN2) if version.startswith(name)), IFUPDOWN)


def run_ifquery(name: str, path: str = FILE, timeout: float = 10.0) -> str:
    """Return ifquery's output for the stanzas called `name`, including its errors about other stanzas.

    For `parse_options`, `split_passes` and `list_complaints`.  Raises `InterfacesError`, `InterfacesLate`.
    """
    try:
        result = run(["ifquery", "--no-mappings", "-i", path, name], timeout=timeout)
    except ProgramLate as error:
        raise InterfacesLate(str(error)) from error
    except ProgramError as error:
        raise InterfacesError(str(error), name) from error
    if _has_no_mappings(result):
        return _ask_without_mappings([name], path, timeout)[name]
    if result.status != 0:
        raise InterfacesError(result.output.strip() or "ifquery knows no such interface", name)
    return result.output


def _has_no_mappings(result: Result) -> bool:
    """Whether ifquery has refused the option, as those of ifupdown-ng and ifupdown2 do."""
    return result.status != 0 and "unrecognized" in result.output and "--no-mappings" in result.output


def _ask_without_mappings(names: Sequence[str], path: str, timeout: float) -> dict[str, str]:
    """Return what ifupdown's ifquery would print for the stanzas of each name.  Raises as `run_ifquery` does."""
    try:
        result = run(["ifquery", "-i", path, *names], timeout=timeout)
    except ProgramLate as error:
        raise InterfacesLate(str(error)) from error
    except ProgramError as error:
        raise InterfacesError(str(error)) from error
    if result.status != 0:
        complaints = result.output.strip().splitlines() or ["ifquery knows no such interface"]
        raise InterfacesError(complaints[-1], names[0] if len(names) == 1 else "")
    return {name: read_stanzas(result.output, name) for name in names}


def read_stanzas(output: str, name: str) -> str:
    """Convert the output of ifupdown-ng's or ifupdown2's ifquery to the form of ifupdown's.

    They print ``iface NAME`` and the options below it, indented: ``  option value``.  ifupdown-ng also prints ``use``
    lines, which it has added itself.
    """
    found = []
    inside = False
    for line in output.splitlines():
        if line.startswith((_COMPLAINT, *_COMPLAINTS_OF_IFUPDOWN2)):
            found.append(f"{_COMPLAINT}{line.partition(': ')[2]}")
        elif line[:1].isspace():
            option, _, value = line.strip().partition(" ")
            if inside and option != "use":
                found.append(f"{option}: {value}")
        elif line:
            inside = line.split()[:2] in (["iface", name], ["template", name])
    return "".join(f"{line}\n" for line in found)


def list_unpassed(ifupdown: str, output: str, name: str, names: Names) -> list[tuple[str, str, str]]:
    """Return the netconf options that ifupdown-ng or ifupdown2 does not pass to hooks: option, value, and why.

    If an option is written twice, ifupdown-ng 0.11 passes the last one, ifupdown2 3.0 the first one.  If an interface
    has several stanzas, ifupdown2 passes only the options of the first.

    output: of `run_ifquery` for `name`.
    """
    if ifupdown == IFUPDOWN:
        return []
    entries = [(option, value) for option, value in _read_entries(output) if is_relevant(option)]
    unpassed = []
    if ifupdown == IFUPDOWN2:
        later = [heading for heading in names.headings if heading.name == name][1:]
        for line in (line for heading in later for line in heading.list_lines()):
            if is_relevant(line.option) and (line.option, line.value) in entries:
                entries.remove((line.option, line.value))
                reason = f"ifupdown2 passes only the options of {name}'s first stanza to hooks: write it there"
                unpassed.append((line.option, line.value, reason))
    passed = dict(entries if ifupdown == IFUPDOWN_NG else reversed(entries))
    which = "last" if ifupdown == IFUPDOWN_NG else "first"
    for option, value in entries:
        if value != passed[option]:
            reason = f"{ifupdown} passes only the {which} {option} line to hooks: number the others ({option}-2)"
            unpassed.append((option, value, reason))
    return unpassed


def list_complaints(output: str) -> list[str]:
    """Return ifquery's errors, without its name: ``FILE:LINE: misplaced option``.

    If ifquery can't read a sourced file to its end, it reports this, but exits with status 0.
    """
    return [line.removeprefix(_COMPLAINT) for line in output.splitlines() if line.startswith(_COMPLAINT)]


def split_passes(output: str, name: str, names: Names) -> list[tuple[str, dict[str, str]]]:
    """Return ifquery's output for the stanzas called `name`, stanza by stanza."""
    rest = [(option, value) for option, value in _read_entries(output) if is_relevant(option)]
    passes: list[tuple[str, dict[str, str]]] = []
    for heading in names.headings:
        if heading.name != name:
            continue
        written = {option for option in names.list_options(heading) if is_relevant(option)}
        options = dict(rest[:len(written)])
        if options.keys() != written:
            return [("any", parse_options(output))]
        rest = rest[len(written):]
        passes.append((heading.family or "any", options))
    if rest or not passes:
        return [("any", parse_options(output))]
    return passes


def query_stanzas(names: Sequence[str], path: str = FILE, timeout: float = 10.0) -> dict[str, dict[str, str]]:
    """Return what `query_options` returns for each of `names`, by name.

    One ifquery reads all of them, in the time that it needs for one.  It prints the stanzas without separators.  So it
    reads a file that sources `path` and has marker stanzas, and prints a marker after each stanza.

    timeout: seconds that an ifquery may take.  Raises `InterfacesError`.
    """
    found: dict[str, dict[str, str]] = {}
    for start in range(0, len(names), _AT_ONCE):
        some = names[start:start + _AT_ONCE]
        marks = [f"{_MARK}-{number}" for number in range(len(some))]
        text = f"source {os.path.abspath(path)}\n" + "".join(f"iface {m} inet manual\n{_MARK} {m}\n" for m in marks)
        asked = [name for pair in zip(some, marks) for name in pair]
        try:
            result = run(["ifquery", "--no-mappings", "-i", "/dev/stdin", *asked], timeout=timeout, stdin=text)
        except ProgramError as error:
            raise InterfacesError(str(error)) from error
        if _has_no_mappings(result):
            answers = _ask_without_mappings(some, path, timeout)
            found.update((name, parse_options(output)) for name, output in answers.items())
            continue
        rest = result.output
        for name, mark in zip(some, marks):
            output, end, rest = rest.partition(f"{_MARK}: {mark}\n")
            if result.status != 0 or not end:
                complaints = [f"{_COMPLAINT}{complaint}" for complaint in list_complaints(result.output)]
                raise InterfacesError("; ".join(complaints) or f"ifquery: no answer about {name}")
            found[name] = parse_options(output)
    return found


def parse_options(output: str) -> dict[str, str]:
    """Return the options in ifquery's output: ``option: value``, and a line for each further value.

    Names are as hooks get them: ``NetConf_VPN`` is ``netconf-vpn``.
    """
    options: dict[str, str] = {}
    for name, value in _read_entries(output):
        options[name] = f"{options[name]}\n{value}" if name in options else value
    return options


def _read_entries(output: str) -> list[tuple[str, str]]:
    """Return the names in ifquery's output, each with its lines."""
    entries: list[tuple[str, str]] = []
    for line in output.removesuffix("\n").split("\n"):  # splitlines() would also split at other characters
        if line.startswith(_COMPLAINT):
            continue
        name, colon, value = line.partition(": ")
        if colon and name[:1] in _LETTERS and _NAME.issuperset(name):
            entries.append((name.lower().replace("_", "-"), value))
        elif entries:
            entries[-1] = (entries[-1][0], f"{entries[-1][1]}\n{line}")
    return entries


def _read_file(path: str, found: dict[str, list[str]], headings: list[Heading], depth: int) -> None:
    if depth > _DEEPEST:
        found["problem"].append(f"{path}: sourced too deep")
        return
    try:
        # Only "\n" ends a line, as for ifupdown.
        lines = list(_join_lines(read_text(path)))
    except OSError as error:
        found["problem"].append(f"{path}: {error.strerror}")
        return
    inside = False
    options: list[str] = []  # of the stanza being read
    written: list[tuple[int, str]] = []

    def end_stanza() -> None:
        if options:
            headings[-1] = headings[-1].change(options=tuple(options), lines=tuple(written))
            options.clear()
            written.clear()

    for number, line in lines:
        words = line.split()
        if words[0] in _KEYWORDS or words[0].startswith("allow-"):
            end_stanza()
            inside = words[0] == "iface" and len(words) > 1
        elif inside:
            options.append(words[0].lower().replace("_", "-"))
            written.append((number, line))
        if words[0] == "iface" and len(words) > 1:
            found["iface"].append(words[1])
            parent = words[words.index("inherits", 2) + 1] if "inherits" in words[2:-1] else ""
            family, method, *_ = (*words[2:4], "", "") if words[2:3] != ["inherits"] else ("", "")
            headings.append(Heading(words[1], family, method, parent, (), path, number))
            if parent:
                found["inherits"].append(parent)
        elif words[0] == "mapping":
            found["mapping"].extend(words[1:])
        elif words[0] in ("source", "source-directory") and len(words) > 1:
            for pattern in words[1:]:
                if "$" in pattern or "`" in pattern:  # wordexp(3), which ifupdown calls, runs commands
                    found["problem"].append(f"{path}:{number}: {line}: not followed: only ifupdown expands it")
                    continue
                for sourced in _list_sourced(words[0], os.path.join(os.path.dirname(path), pattern)):
                    _read_file(sourced, found, headings, depth + 1)
    end_stanza()


def _join_lines(text: str) -> Iterator[tuple[int, str]]:
    # interfaces(5): a line that ends with a backslash continues in the next one.  # begins a comment only at the
    # beginning of a line, and a comment ends with its line, even after a backslash (ifupdown's config.c, get_line).
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
    paths = _expand(os.path.expanduser(pattern))
    if keyword == "source":
        return [path for path in paths if not os.path.isdir(path)]
    return [
        os.path.join(directory, name)
        for directory in paths
        if os.path.isdir(directory)
        for name in sorted(os.listdir(directory))
        if _NAME.issuperset(name)
    ]


def _expand(pattern: str) -> list[str]:
    """Return the files to which wordexp(3) expands a pattern."""
    if _WILDCARDS.isdisjoint(pattern):
        return [pattern] if os.path.lexists(pattern) else []
    directory, name = os.path.split(pattern)
    if name == "*" and _WILDCARDS.isdisjoint(directory):  # as in Debian's own file; avoids glob, which imports re
        names = os.listdir(directory) if os.path.isdir(directory) else []
        return sorted(os.path.join(directory, each) for each in names if not each.startswith("."))
    from glob import glob

    return sorted(glob(pattern))
