"""``netconf-hooks import-whereami``: netconf-location lines from the detect.conf of whereami(8) 0.3.34.

This was written from its manual pages, detect.conf(5) and whereami(8).  whereami can find several locations at once, in
the order of its file.  An interface here is at one location, the first whose line holds.  So if a location is found
only under the condition of another one, it is written before that one: both lines would hold, and the more special one
has to come first.

Each statement of the file becomes lines of its own: location lines, or a comment that says what can't be expressed and
what to do instead.
"""

from __future__ import annotations

import shlex
from itertools import product

from netconf_hooks.commands.entry import CommandError, OK
from netconf_hooks.record import Record
from netconf_hooks.stanzas.ifenv import is_name
from netconf_hooks.stanzas.rules import RESERVED, TESTS, Test
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Sequence

    from netconf_hooks.state import Store

    # Tests that must all hold; and alternatives, of which one must hold.
    Together = tuple[Test, ...]
    AnyOf = tuple[Together, ...]

_LARGEST = 1 << 20  # octets; a detect.conf has a few thousand
_MOST = 32  # alternatives of one condition
_LONGEST_NAME = 200

_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
_REGEX = frozenset(".[]*+?^$|(){}\\")

_EVERYWHERE: AnyOf = ((),)

_ANY_ADDRESS = ("0.0.0.0/0",)

# The key of a placeholder for a test that can't be expressed; its value is the statement.
_OTHER = ""


class _Inexpressible(Exception):
    """This test can't be expressed; the message says what to do instead."""


class _Statement(Record):
    """The translation of one statement.

    number, text: of its line; names: of the locations that it finds; lines: the tests of each netconf-location line.
    depth: how many conditions it depends on; notes: what is not expressed, or differs.
    """

    __slots__ = ("number", "text", "names", "lines", "depth", "notes")

    def __init__(
        self,
        number: int,
        text: str,
        names: tuple[str, ...] = (),
        lines: AnyOf = (),
        depth: int = 0,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.number = number
        self.text = text
        self.names = names
        self.lines = lines
        self.depth = depth
        self.notes = notes


def import_whereami(options: Namespace, store: Store) -> int:
    """``netconf-hooks import-whereami FILE``: prints lines for a stanza, changes nothing."""
    name = "standard input" if options.file == "-" else options.file
    try:
        with open(0 if options.file == "-" else options.file, "rb", closefd=options.file != "-") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise CommandError(f"import-whereami: {log.printable(name)}: {error.strerror}") from error
    if len(data) > _LARGEST or b"\0" in data:
        raise CommandError(f"import-whereami: {log.printable(name)}: not a detect.conf of whereami")
    for line in convert(data.decode("utf-8", "surrogateescape"), name):
        print(log.printable(line))
    return OK


def convert(text: str, name: str = "detect.conf") -> list[str]:
    """Return the lines for a stanza: netconf-location lines, and comments about the rest."""
    statements = _Reader().read(text)
    found = [each for each in statements if each.lines]
    lines = [f"# From {name}, for the stanza of each interface that it is about."]
    if not statements:
        return [*lines, "# There is no statement in it."]
    if found:
        lines.append("# The first line that holds names the location, of which an interface has one at a time.")
    for statement in sorted(found, key=lambda each: -each.depth):  # which keeps the order of the file
        lines.append(f"# line {statement.number}: {statement.text}")
        lines += [f"#     {note}" for note in statement.notes]
        seen = list(dict.fromkeys(statement.lines))
        lines += [_write_line(statement.names[0], together) for together in seen]
    others = [each for each in statements if not each.lines]
    if any(each.notes for each in others):
        lines.append("# Not expressed by lines:")
    for statement in others:
        lines.append(f"# line {statement.number}: {statement.text}")
        lines += [f"#     {note}" for note in statement.notes]
    return lines


def _write_line(name: str, together: Together) -> str:
    """Return a netconf-location line; as a comment, if it depends on something that can't be expressed."""
    tests = [test.text for test in together if test.key != _OTHER]
    others = [f"{'not: ' if test.negated else ''}{test.values[0]}" for test in together if test.key == _OTHER]
    line = " ".join(["netconf-location", name, *tests])
    return f"# {line}  if you can test for [{'] and ['.join(others)}]" if others else line


class _Reader:
    """Reads a detect.conf from its beginning to its end."""

    def __init__(self) -> None:
        # Under which conditions each location was found so far; None if there are too many alternatives.
        self._places: dict[str, AnyOf | None] = {}
        self._depths: dict[str, int] = {}
        self._interface = ""  # of `set INTERFACE`
        self._inside = False  # of an if
        self._branch: AnyOf | None = _EVERYWHERE  # the condition of the statements here
        self._rest: AnyOf | None = _EVERYWHERE  # the condition of the next elif or else
        self._depth = 0
        self._before_if = ""
        self._set_inside = False

    def read(self, text: str) -> list[_Statement]:
        """Return all statements, in the order of the file."""
        statements = []
        for number, line in enumerate(text.split("\n"), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            try:
                words = shlex.split(line)
            except ValueError as error:
                statements.append(_Statement(number, line, notes=(f"can't be read: {error}",)))
                continue
            statement = self._read_statement(words)
            if statement is not None:
                statements.append(statement.change(number=number, text=line))
        return statements

    def _read_statement(self, words: list[str]) -> _Statement | None:
        """Translate a statement, without its line; None if it only begins or ends a branch."""
        keyword, *rest = words
        if keyword in ("if", "elif", "else", "fi"):
            return self._read_branch(keyword, rest)
        if keyword == "always":
            if not rest:
                return _note('a test or "at" is missing after "always"')
            # In whereami it is run even if an earlier test has succeeded.  Here each line is independent.
            return self._read_statement(rest) if rest[0] != "always" else _note('"always" is written twice')
        if keyword == "set":
            return self._read_setting(rest)
        if keyword == "default":
            return _note('where no line holds, the location is "unknown", a word for netconf-vpn and netconf-guard')
        if keyword == "echo":
            return _note("a message: `netconf-hooks explain` says which location is found, and why")
        if keyword == "notat":
            return _note("a location is taken back: give the line that finds it one more test that excludes this case")
        if keyword == "at":
            return self._find(rest[0] if len(rest) == 1 else "", _EVERYWHERE, ())
        if len(rest) != 2:
            return _note(f"expected a parameter and locations after {keyword}")
        parameter, locations = rest
        try:
            tests, notes = _read_test(keyword, parameter, self._interface)
        except _Inexpressible as error:
            other = Test(_OTHER, (shlex.join([keyword, parameter]),), False)
            return self._find(locations, ((other,),), (str(error),))
        return self._find(locations, tests, notes)

    def _read_branch(self, keyword: str, rest: list[str]) -> _Statement | None:
        if keyword == "if":
            problem = "an if inside an if: whereami itself can't read this" if self._inside else ""
            self._inside, self._rest, self._before_if, self._set_inside = True, _EVERYWHERE, self._interface, False
        elif not self._inside:
            return _note(f'"{keyword}" without an "if"')
        else:
            problem = ""
        if keyword == "fi":
            self._inside, self._branch, self._depth = False, _EVERYWHERE, 0
            if self._set_inside:
                self._interface = ""  # it is unknown whether the branch that has set it was taken
            return None
        if self._set_inside:
            self._interface = self._before_if
        if keyword == "else":
            self._branch = self._rest
            return None
        names = [name for word in rest for name in word.split(",") if name]
        if not names:
            return _note(f'a location is missing after "{keyword}"')
        places = [self._places.get(name, ()) for name in names]
        unknown = [name for name in names if name not in self._places]
        known = [place for place in places if place is not None]
        condition = _join(*known) if len(known) == len(places) else None
        self._branch = _combine(self._rest, condition)
        self._rest = _combine(self._rest, _negate(condition))
        self._depth = 1 + max(self._depths.get(name, 0) for name in names)
        if unknown:
            hint = (
                f"no statement before finds {', '.join(unknown)}; perhaps the command line gives it, which has no "
                "equivalent: it counts as not found"
            )
            return _note(f"{problem}; {hint}" if problem else hint)
        return _note(problem) if problem else None

    def _read_setting(self, rest: list[str]) -> _Statement | None:
        if len(rest) == 2 and rest[0] == "INTERFACE" and is_name(rest[1]):
            self._interface = rest[1]
            self._set_inside = self._set_inside or self._inside
            return None
        return _note("a variable for whereami's own scripts: not needed")

    def _find(self, locations: str, tests: AnyOf | None, notes: tuple[str, ...]) -> _Statement:
        """Translate a statement that finds locations.  tests: its condition; None if that can't be expressed."""
        written = [name for name in locations.split(",") if name]
        if not written:
            return _note("the location is missing")
        names = []
        for name in written:
            ours = _name_location(name)
            if ours != name:
                notes += (f"{name} is called {ours}: names have lower-case letters, digits and . _ -",)
            names.append(ours)
        place = _combine(self._branch, tests)
        for name in written:
            known = self._places.get(name)
            missing = place is None or (known is None and name in self._places)
            self._places[name] = None if place is None or missing else _join(known or (), place)
            self._depths[name] = max(self._depth, self._depths.get(name, 0))
        if place is None:
            notes += (f"its conditions have more than {_MOST} combinations",)
        elif not place:
            notes += ("it can never hold: its conditions exclude each other",)
        elif place == _EVERYWHERE:
            notes += ("it holds everywhere: this is the word \"anywhere\" of netconf-vpn and netconf-guard",)
            place = ()
        elif len(names) > 1:
            also = ", ".join(names[1:])
            notes += (f"whereami finds {also}, too; an interface is at one location, so use {names[0]} for both",)
        return _Statement(0, "", tuple(names), place or (), self._depth, notes)


def _note(note: str) -> _Statement:
    return _Statement(0, "", notes=(note,))


def _name_location(name: str) -> str:
    ours = "".join(character if character in _NAME else "-" for character in name.lower())[:_LONGEST_NAME]
    if not ours[:1].isalnum():
        ours = f"at{ours}"
    return f"{ours}-place" if ours in RESERVED else ours


# Conditions


def _combine(one: AnyOf | None, other: AnyOf | None) -> AnyOf | None:
    """Return the condition that both hold; None if that can't be expressed."""
    if one is None or other is None:
        return None
    found: dict[Together, None] = {}
    for first, second in product(one, other):
        together = tuple(dict.fromkeys((*first, *second)))
        if not _is_contradiction(together):
            found[_simplify(together)] = None
    return tuple(found) if len(found) <= _MOST else None


def _join(*conditions: AnyOf) -> AnyOf:
    """Return the condition that any of them holds."""
    return tuple(dict.fromkeys(together for condition in conditions for together in condition))


def _negate(condition: AnyOf | None) -> AnyOf | None:
    """Return the condition that none of the alternatives holds; None if that can't be expressed."""
    negated: AnyOf | None = _EVERYWHERE
    for together in condition or ():
        # Each interface is tested by itself: on any interface other than the tests', their negation holds.
        ifaces = tuple(test for test in together if test.key == "interface")
        others = tuple(test for test in together if test.key != "interface")
        negated = _combine(negated, (
            *((_invert(test),) for test in ifaces), *((*ifaces, _invert(test)) for test in others)
        ))  # fmt: skip
    return None if condition is None else negated


def _invert(test: Test) -> Test:
    if test.key == "carrier":
        return Test("carrier", ("no" if test.values == ("yes",) else "yes",), False)
    return Test(test.key, test.values, not test.negated)


def _simplify(together: Together) -> Together:
    """Return the tests, without those that follow from others."""
    iface = any(test.key == "interface" and not test.negated for test in together)
    address = any(test.key == "address" and not test.negated and test.values != _ANY_ADDRESS for test in together)
    return tuple(
        test for test in together
        if not (iface and test.key == "interface" and test.negated)
        and not (address and test.values == _ANY_ADDRESS and not test.negated)
    )


def _is_contradiction(together: Iterable[Test]) -> bool:
    tests = set(together)
    interfaces = {test.values for test in tests if test.key == "interface" and not test.negated}
    carriers = {test.values for test in tests if test.key == "carrier"}
    return len(interfaces) > 1 or len(carriers) > 1 or any(
        Test(test.key, test.values, not test.negated) in tests for test in tests
    )


# Tests


def _read_test(keyword: str, parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
    """Translate a test of whereami; return its condition, and what differs.  Raises `_Inexpressible`.

    interface: the one that was set before, empty for none.
    """
    if keyword in _READERS:
        return _READERS[keyword](parameter, interface)
    program = shlex.join([keyword, parameter])
    raise _Inexpressible(_suggest_program(program))


def _suggest_program(command: str) -> str:
    return (
        f'write a program, as root\'s /usr/local/sbin/NAME, that runs "{command}" and exits with status 0 if it '
        "succeeds, and test it by command=/usr/local/sbin/NAME, which counts as proof"
    )


def _make(key: str, *values: str, interface: str = "") -> AnyOf:
    """Return one test, together with a test of the interface.  Raises `_Inexpressible` for an impossible value."""
    syntax = TESTS[key].syntax
    read = tuple(dict.fromkeys(syntax.read(value) for value in values))
    if not all(read):
        raise _Inexpressible(f"expected {syntax.expected}, not {', '.join(values)}")
    test = Test(key, read, False)
    if interface and is_name(interface):
        return ((Test("interface", (interface,), False), test),)
    return ((test,),)


def _split_interface(parameter: str, parts: int, interface: str) -> tuple[str, list[str]]:
    """Return the interface and the other parts of ``[INTERFACE,]PART,...``, of which there are `parts`."""
    words = parameter.split(",")
    if len(words) > parts:
        return words[0], words[1:]
    return interface, words


def _read_dhcp(parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
    iface, (pattern, *_) = _split_interface(parameter, 1, interface or "eth0")
    if pattern == "stop":
        raise _Inexpressible("ifdown ends the DHCP client")
    if pattern in ("start", "restart"):
        note = "ifup runs the DHCP client; this holds if the interface has any IPv4 address"
        return _make("address", *_ANY_ADDRESS, interface=iface), (note,)
    return _make("address", *_list_networks(pattern), interface=iface), ()


def _list_networks(pattern: str) -> list[str]:
    """Return the networks that ``192.168.5.*`` or ``192.168.55.3*`` mean.  Raises `_Inexpressible`."""
    octets = pattern.split(".")
    fixed = [octet for octet in octets if octet.isascii() and octet.isdecimal()]
    rest = octets[len(fixed):]
    if octets[:len(fixed)] == fixed and 0 < len(octets) <= 4 and (len(octets) == 4 or rest[-1:] == ["*"]):
        rest += ["*"] * (4 - len(octets))
        partial = rest[0] if rest and rest[0] != "*" else ""
        if set(rest[1:] if partial else rest) <= {"*"}:
            begin = partial[:-1]
            if not partial:
                return [_write_network(fixed)]
            if partial.endswith("*") and begin.isascii() and begin.isdecimal():
                numbers = [number for number in range(256) if str(number).startswith(begin)]
                return [_write_network([*fixed, str(number)]) for number in numbers]
    raise _Inexpressible(f"{pattern} is not a network: write address= with the networks that it means")


def _write_network(octets: Sequence[str]) -> str:
    return f"{'.'.join([*octets, *['0'] * (4 - len(octets))])}/{8 * len(octets)}"


def _read_mii(parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
    return _make("carrier", "yes", interface=parameter or interface), ()


def _read_arp(parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
    words = parameter.split(",")
    if words and not TESTS["bssid"].syntax.read(words[0]):
        interface, words = words[0], words[1:]
    if len(words) not in (2, 3):
        raise _Inexpressible("expected [INTERFACE,]MAC,IP")
    notes = (f"the address {words[2]} is what the stanza itself configures",) if len(words) == 3 else ()
    return _make("peer", f"{words[1]}/{words[0]}", interface=interface or "eth0"), notes


def _read_ping(parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
    iface, words = _split_interface(parameter, 2, interface or "eth0")
    if len(words) != 2:
        raise _Inexpressible("expected [INTERFACE,]IP_TO_PING,IP_TO_USE")
    note = f"asked by ARP, which needs no address; {words[1]} is what the stanza itself configures"
    return _make("peer", words[0], interface=iface), (note,)


def _read_wireless(parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
    words = parameter.split(",")
    if words[-1] in ("start", "stop"):
        raise _Inexpressible("wpa_supplicant is started by the stanza's wpa-conf or wpa-ssid option")
    if words[-1] in ("scan", ".+", ".*"):
        note = "holds if any wireless network is joined; whereami's test, if any is in range"
        return _make("carrier", "yes", interface=words[0] if len(words) > 1 else interface), (note,)
    # The interface comes first, the key last; both may be missing.
    if len(words) > 2 or len(words) == 2 and words[0] == interface:
        interface, words = words[0], words[1:]
    pattern, *key = words
    notes = ["it holds once the network is joined; in a mapping (netconf-interfaces(5)), if it is in range"]
    if key:
        notes.append("the key belongs into wpa_supplicant's configuration or the stanza's wpa- or wireless- options")
    if not _REGEX.isdisjoint(pattern):
        raise _Inexpressible(f"ssid= has no patterns: write the names that {pattern} means, as ssid=NAME,NAME")
    return _make("ssid", pattern, interface=interface), tuple(notes)


def _read_ssid(parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
    ssid, *key = parameter.split(",")
    notes = ["it holds once the network is joined; in a mapping (netconf-interfaces(5)), if it is in range"]
    if key:
        notes.append("the key belongs into wpa_supplicant's configuration or the stanza's wpa- or wireless- options")
    return _make("ssid", ssid, interface=interface), tuple(notes)


def _read_supplicant(parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
    if parameter in ("start", "stop", "restart"):
        raise _Inexpressible("wpa_supplicant is started by the stanza's wpa-conf or wpa-ssid option")
    note = "holds once wpa_supplicant has joined any network; ssid= says which"
    return _make("carrier", "yes", interface=interface), (note,)


def _refuse(advice: str) -> Callable[[str, str], tuple[AnyOf, tuple[str, ...]]]:
    def read(parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
        raise _Inexpressible(advice)

    return read


def _wrap(command: str) -> Callable[[str, str], tuple[AnyOf, tuple[str, ...]]]:
    def read(parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
        raise _Inexpressible(_suggest_program(f"{command} {shlex.quote(parameter)}"))

    return read


def _read_procsys(parameter: str, interface: str) -> tuple[AnyOf, tuple[str, ...]]:
    path, _, pattern = parameter.partition(",")
    raise _Inexpressible(_suggest_program(f"grep -qE {shlex.quote(pattern)} {shlex.quote(path)}"))


# The tests of whereami 0.3.34; any other program may be used as one, too.
_READERS = {
    "testap": _read_wireless,
    "testappassive": _read_wireless,
    "testarp": _read_arp,
    "testdhcp": _read_dhcp,
    "testmii": _read_mii,
    "testmodule": _wrap("lsmod | grep -q"),
    "testpci": _wrap("lspci -v | grep -q"),
    "testping": _read_ping,
    "testpppoe": _refuse("a connection is not started to test it: write a ppp stanza; its ifup tells whether it works"),
    "testprocsys": _read_procsys,
    "testreceived": _refuse("received bytes are not counted; carrier=yes says that a network is plugged in"),
    "testssid": _read_ssid,
    "testsupplicant": _read_supplicant,
    "testusb": _wrap("lsusb | grep -q"),
    "testwpa": _read_wireless,
    "modprobe": _refuse("modules are not loaded to test for hardware: udev loads them; use carrier= instead"),
}
