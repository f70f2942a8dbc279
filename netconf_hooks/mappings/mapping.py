"""Chooses the stanza of an interface: a script for ``mapping`` in /etc/network/interfaces.

ifup runs it before anything is configured, with the interface's name as argument and the ``map`` lines of the mapping
on standard input.  The script prints the name of the ``iface`` stanza, interfaces(5).  Each line is ``NAME TEST...``,
with the syntax of ``netconf-location``: the first line that holds wins.

Its contract: standard output is the name and nothing else.  Without output, or with an exit status other than 0, ifup
refuses the interface.  So if no line holds and there is no ``default:``, the script prints the interface's own name, as
if there were no mapping: then ifup uses the stanza of that name, and refuses the interface if there is none.
"""

from __future__ import annotations

import os
import struct
import sys
import time

from netconf_hooks.evidence import Link, observe_link
from netconf_hooks.guard.early import EarlyGuard, SLACK
from netconf_hooks.observation import Place
from netconf_hooks.place import find_needed, find_place, find_questions
from netconf_hooks.record import Record
from netconf_hooks.stanzas import rules
from netconf_hooks.stanzas.ifenv import device_of, is_name
from netconf_hooks.stanzas.rules import DEFAULT_TIMEOUT, Location, RuleError, Rules
from netconf_hooks.system import log
from netconf_hooks.system.files import LIMIT
from netconf_hooks.system.netlink import IFF_UP, NLM_F_ACK, Netlink, NetlinkError, RTM_NEWLINK

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from netconf_hooks.observation import Answer
    from netconf_hooks.place import Question
    from netconf_hooks.system.netlink import LinkStatus
else:
    import _signal as signal  # the same functions; the module signal itself imports enum, 4 ms of every ifup

CARRIER_PATIENCE = 3.0
"""Seconds to wait for carrier of a link that was down: autonegotiation takes 1 to 3 s (IEEE 802.3, clause 28)."""

EARLIER_PATIENCE = 0.25
"""Seconds to wait for the peers in earlier lines once a later line holds: neighbours on this network answer within
milliseconds, those on other networks never."""

LONGEST_NAME = 79  # ifupdown reads the output into 80 bytes (main.c, liface)

_LINK = struct.Struct("=BxHiII")  # ifinfomsg, linux/rtnetlink.h: family, type, index, flags, change


class Ended(BaseException):
    """The script must end now: it got a signal."""


class MapLines(Record):
    """The parsed ``map`` lines of a mapping.

    locations: the lines that can be read; default: the name if none holds, empty if not written; timeout: seconds that
    all tests may take together; errors: a `RuleError` for everything that can't be read.
    """

    __slots__ = ("locations", "default", "timeout", "errors")

    def __init__(
        self, locations: tuple[Location, ...], default: str, timeout: float, errors: tuple[RuleError, ...]
    ) -> None:
        self.locations = locations
        self.default = default
        self.timeout = timeout
        self.errors = errors


class RaisedLink:
    """A device that is set up while it is looked at, and set down again if it was down before (context manager).

    ifup needs it unchanged: a bond does not accept a port that is up, and some drivers accept no new MAC address then.
    Setting it down also removes IPv6 addresses that the network has assigned meanwhile.

    needed: whether to set it up; otherwise only its state is read.  early: the guard that closes it meanwhile.
    status: its state, None if it does not exist; raised: whether it was down.
    """

    def __init__(self, device: str, needed: bool = True, early: EarlyGuard | None = None) -> None:
        self.device = device
        self._needed = needed
        self._early = early
        self.status: LinkStatus | None = None
        self.raised = False

    def __enter__(self) -> RaisedLink:
        with Netlink() as netlink:
            self.status = netlink.get_link(self.device)
            if self._needed and self.status is not None and not self.status.up:
                self.raised = True
                if self._early:
                    self._early.close()
                try:
                    self._set_flags(netlink, IFF_UP)
                except NetlinkError as error:  # by rfkill, or a driver without its firmware
                    log.warning(f"{self.device} can't be set up for the tests: {error}")
                self.status = netlink.get_link(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        if self.raised:
            with Netlink() as netlink:
                self._set_flags(netlink, 0)
            if self._early:
                self._early.lift()

    def wait_for_carrier(self, patience: float) -> bool:
        """Return whether it has carrier; wait up to `patience` seconds if it was down.

        Don't wait for a veth, as in containers: it negotiates nothing and has carrier at once.
        """
        if self.status is None:
            return False
        if self.raised and not self.status.carrier and not _is_veth(self.device):
            with Netlink() as netlink:
                self.status = netlink.wait_for_carrier(self.device, time.monotonic() + patience)
        return self.status is not None and self.status.carrier

    def _set_flags(self, netlink: Netlink, flags: int) -> None:
        assert self.status is not None
        netlink.ask(RTM_NEWLINK, NLM_F_ACK, _LINK.pack(0, 0, self.status.index, flags, IFF_UP))


def main() -> NoReturn:
    """Run as the mapping script ``/usr/lib/netconf-hooks/map``."""
    serve(choose_stanza)


def serve(choose: Callable[[str, str], str]) -> NoReturn:
    """Follow ifupdown's contract: print what `choose` returns for the interface and the ``map`` lines, and exit.

    If it returns nothing, print nothing, and exit with status 1.
    """
    log.fill_descriptors()
    if len(sys.argv) != 2 or not is_name(sys.argv[1]):
        log.complain(f"usage: {sys.argv[0]} INTERFACE, with map lines on standard input: interfaces(5), MAPPINGS")
        os._exit(2)
    iface = sys.argv[1]
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _end)
        name = choose(iface, _read_input())
        if name:
            os.write(1, name.encode("utf-8", "surrogateescape") + b"\n")
            status = 0
    except Ended:
        log.error(f"{iface}: the mapping was ended by a signal before it had chosen a stanza")
    os._exit(status)  # 2 ms faster than the interpreter's own exit


def choose_stanza(iface: str, text: str) -> str:
    """Return the name of the stanza that `iface` gets.  text: the ``map`` lines."""
    lines = read_lines(text)
    for error in lines.errors:
        log.error(f"{iface}: {error}")
    place, reason = Place(), "no map line can be read"
    if lines.locations:
        try:
            place, reason = _observe_lines(iface, lines)
        except NetlinkError as error:
            log.error(f"{iface}: no map line counts: the kernel's tables could not be read: {error}")
            reason = "nothing is known about the link"
    name = place.location or lines.default or iface
    log.info(f"{iface}: {name}: {reason}")
    return name


def _observe_lines(iface: str, lines: MapLines) -> tuple[Place, str]:
    """Return the first line that holds, and why, in words.  Raises `NetlinkError`."""
    from netconf_hooks.evidence.probes import ask_network

    locations = lines.locations
    device = device_of(iface)
    answers: dict[str, Answer] = {}
    needed = any(test.key != "interface" for line in locations for test in line.tests)
    stanzas = (*(line.name for line in locations), lines.default, iface)
    early = EarlyGuard(iface, device, stanzas, CARRIER_PATIENCE + lines.timeout + SLACK)
    with RaisedLink(device, needed, early) as raised:
        carrier = raised.wait_for_carrier(CARRIER_PATIENCE)
        deadline = time.monotonic() + lines.timeout
        link = Link(iface, device, raised.status.index if raised.status else 0, carrier, {})
        while keys := find_needed(locations, answers):
            answers.update(observe_link(keys, link, deadline))
        ask_network(_Remaining(locations, answers).list_questions, answers, link, deadline)
    place = find_place(Rules(locations=locations), answers)
    if place.location:
        return place, f'map "{place.line}"'
    problems = [f"{key} {answer.problem}" for key, answer in answers.items() if answer.problem]
    return place, f"no map line holds ({'; '.join(problems)})" if problems else "no map line holds"


class _Remaining:
    """The questions that are still open while the answers arrive."""

    def __init__(self, locations: tuple[Location, ...], answers: Mapping[str, Answer]) -> None:
        self._rules = Rules(locations=locations)
        self._answers = answers
        self._enough = 0.0

    def list_questions(self) -> list[Question]:
        """Return the questions on which the choice still depends; none if the time of earlier peers is over."""
        questions = find_questions(self._rules, self._answers)
        if find_place(self._rules, self._answers).location and not any(q.key != "peer" for q in questions):
            now = time.monotonic()
            self._enough = self._enough or now + EARLIER_PATIENCE
            if now >= self._enough:
                return []
        return questions


def read_lines(text: str) -> MapLines:
    """Parse ``map`` lines.  Never raises: see `MapLines.errors`."""
    locations: list[Location] = []
    errors: list[RuleError] = []
    default, timeout = "", DEFAULT_TIMEOUT
    for line in text.split("\n"):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        reasons: list[str] = []
        words = rules.split_words(line, reasons)
        if reasons or not words:
            pass
        elif words[0] == "default:":
            default = _read_default(words[1:], reasons) or default
        elif words[0] == "timeout:":
            (timeout,) = rules.read_timeout(line.partition(":")[2], reasons) or (timeout,)
        elif words[0].endswith(":"):
            reasons.append(f'expected "default:", "timeout:" or the name of a stanza, not "{words[0]}"')
        else:
            locations += _read_line(line, words, reasons)
        errors += [RuleError("map", line, reason) for reason in reasons]
    return MapLines(tuple(locations), default, timeout, tuple(errors))


def is_stanza_name(word: str) -> bool:
    """Whether a word can be the name of an ``iface`` stanza and can be printed to ifup on a line of its own."""
    return (
        0 < len(word) <= LONGEST_NAME
        and word.isascii()
        and word.isprintable()
        and " " not in word
        and word[0] not in "!#"
    )


def _read_line(line: str, words: list[str], reasons: list[str]) -> tuple[Location, ...]:
    name = words[0]
    if not is_stanza_name(name) or "=" in name:
        reasons.append(f'expected the name of a stanza first, not "{name}"')
    tests = rules.read_tests(words[1:], reasons)
    if len(words) == 1:
        reasons.append(f'expected at least one test after "{name}"')
    for test in tests:
        if not rules.TESTS[test.key].early:
            early = ", ".join(key for key, kind in rules.TESTS.items() if kind.early)
            reasons.append(f'"{test.key}" can\'t be tested before the interface is configured; these can: {early}')
    return () if reasons else (Location(name, tests, line),)


def _read_default(words: list[str], reasons: list[str]) -> str:
    if len(words) == 1 and is_stanza_name(words[0]):
        return words[0]
    reasons.append('expected the name of one stanza after "default:"')
    return ""


def _read_input() -> str:
    """Return the input from ifup; nothing if a person runs the script at a terminal.

    Input beyond `files.LIMIT` is cut off after its last complete line.
    """
    if os.isatty(0):
        return ""
    pieces = []
    left = LIMIT
    while piece := os.read(0, 65536):  # read all: SIGPIPE would kill ifup if it could not write everything
        pieces.append(piece[:left])
        left -= len(pieces[-1])
    data = b"".join(pieces)
    if not left:
        log.error(f"the map lines after the first {LIMIT} bytes do not count")
        data = data[:data.rfind(b"\n") + 1]
    return data.decode("utf-8", "surrogateescape")


def _is_veth(device: str, sysfs: str = "/sys/class/net") -> bool:
    """Whether `device` is linked to another device (iflink differs from ifindex, the kernel's sysfs-class-net) that is
    not below it; a VLAN's device below may still negotiate."""
    try:
        with open(f"{sysfs}/{device}/ifindex", encoding="ascii") as own:
            with open(f"{sysfs}/{device}/iflink", encoding="ascii") as other:
                return own.read() != other.read() and not any(
                    name.startswith("lower_") for name in os.listdir(f"{sysfs}/{device}")
                )
    except OSError:
        return False


def _end(number: int, frame: object) -> NoReturn:
    raise Ended
