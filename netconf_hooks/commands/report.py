"""What ``netconf-hooks check`` reports: each error and warning once, with its file and line."""

from __future__ import annotations

from netconf_hooks.stanzas.interfaces import list_complaints
from netconf_hooks.stanzas.rules import split_number
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netconf_hooks.stanzas.interfaces import InterfacesError, Line, Names
    from netconf_hooks.stanzas.rules import RuleError

ERROR, WARNING = "error", "warning"

_MAX_NAMES = 5  # of the stanzas that a message is about

# ifquery's message if it can't read the main file; of a sourced file it reads everything before the error.
_NOTHING_READ = "couldn't read interfaces file"


class Report:
    """Collects the errors and warnings of all stanzas, and prints them.

    ifquery gives the values, and the reader in `interfaces` the lines.  If that reader does not find a line, in the
    syntax of another ifupdown, the message is printed without file and line.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._found: dict[tuple[str, str, str], list[str]] = {}  # the stanzas, by place, kind and message
        self._lines: dict[str, list[Line]] = {}

    def add(self, kind: str, iface: str, message: str, place: str = "") -> None:
        """Note an `ERROR` or `WARNING`.  place: ``FILE:LINE``, empty if it is not known."""
        # An error that ten stanzas inherit is printed once.  Without a line, it is not known whether it is the same.
        stanzas = self._found.setdefault((place or iface, kind, message), [])
        if iface and iface not in stanzas:
            stanzas.append(iface)

    def add_option(self, kind: str, iface: str, option: str, message: str) -> None:
        """Note something about an option as a whole, or about the stanza if it does not have the option."""
        lines = [line for line in self._list_lines(iface) if line.option == option]
        headings = [heading for heading in self._names.headings if heading.name == iface and heading.file]
        place = _name_place(lines[-1].file, lines[-1].number) if lines else ""
        if not place and headings:
            place = _name_place(headings[0].file, headings[0].number)
        self.add(kind, iface, message, place)

    def add_rules(self, kind: str, iface: str, errors: Iterable[RuleError]) -> None:
        """Note errors or warnings about options, each with its line."""
        for error in errors:
            line = find_line(self._list_lines(iface), error.option, error.value)
            self.add(kind, iface, str(error), _name_place(line.file, line.number) if line else "")

    def add_failure(self, error: InterfacesError) -> None:
        """Note why ifquery can't read a stanza."""
        files = {heading.file for heading in self._names.headings if heading.name == error.name}
        complaints = _split_complaints(error.reason)
        # Only the stanzas of that file are lost after the error.
        responsible = [each for each in complaints if each[0] in files] or complaints
        for file, number, message in complaints:
            affected = error.name if (file, number, message) in responsible else ""
            self.add(ERROR, affected, message, _name_place(file, number))
        if not complaints:
            self.add(ERROR, "", str(error))

    def add_complaints(self, output: str) -> None:
        """Note the errors that ifquery prints beside its answer."""
        for file, number, message in _split_complaints(output):
            self.add(ERROR, "", message, _name_place(file, number))

    def print(self) -> int:
        """Print all of them, and return how many errors there are."""
        for (place, kind, message), stanzas in self._found.items():
            where = [place] if place and [place] != stanzas else []
            print(log.printable(": ".join([*where, *([_join_names(stanzas)] if stanzas else []), kind, message])))
        return sum(kind == ERROR for _, kind, _ in self._found)

    def _list_lines(self, iface: str) -> list[Line]:
        if iface not in self._lines:
            self._lines = {iface: self._names.list_lines(iface)}
        return self._lines[iface]


def find_line(lines: Sequence[Line], option: str, value: str | None) -> Line | None:
    """Return the line of an option with a value (None: with any); None if there is none.

    lines: as `Names.list_lines` returns them.  ``netconf-vpn`` may also be written as ``netconf-vpn-2``.
    """
    named = [line for line in lines if line.option == option] or [
        line for line in lines if split_number(line.option)[0] == option
    ]
    if value is None:
        return named[-1] if named else None
    numbered = [line for line in lines if split_number(line.option)[0] == option != line.option]
    words = value.split()
    for line in (*named, *numbered):
        if line.value.split() == words:
            return line
    # The words may come from several lines and are normalised: 10.0.0.0/0 is 0.0.0.0/0.
    if len(named) > 1 and option == "netconf-guard-allow":
        named = [line for line in named if set(line.value.split()) & set(words)][:1]
    return named[0] if len(named) == 1 else None


def _name_place(file: str, number: int | str) -> str:
    return f"{file}:{number}"


def _split_complaints(output: str) -> list[tuple[str, str, str]]:
    """Return file, line number and message of ifquery's errors about files."""
    complaints = list_complaints(output)
    ending = "ifupdown ignores the rest of this file"
    if any(complaint.startswith(_NOTHING_READ) for complaint in complaints):
        ending = "ifupdown reads no interface at all"
    found = []
    for complaint in complaints:
        place, colon, message = complaint.partition(": ")
        file, _, number = place.rpartition(":")
        if colon and file and number.isdecimal():
            found.append((file, number, f"{message}: {ending}"))
    return found


def _join_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES + 1 else ""
    return ", ".join(names[:_MAX_NAMES] if more else names) + more
