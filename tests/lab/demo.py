"""The story told in a terminal: a laptop goes from home to the office to the cafe and back.

``sudo make demo``, or as root ``python3 -m tests.lab.demo [--dhcp-client dhclient]``.  What is shown was said
by a program that ran on the laptop of the lab.  The exit status is 0 when each stop was as `STOPS` says, 1 when one was
not or the lab could not be made, 2 when this was called in a wrong way.

A new stop is an entry in `STOPS`; something new to look at is a field of `Visit`, a function in `FACTS` that says what
is to be thought of it, and an expectation in `Stop`; a tunnel of another kind is an entry in `TUNNELS`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TextIO

from . import ipsec
from .archive import ArchiveError, fetch_packages
from .attacks.capture import Capture
from .lab import Lab
from .laptop import DHCP_CLIENTS, Image
from .namespaces import CommandFailed
from .network import CAFE, CORP_HOST, HOME, INTERNET_HOST, OFFICE
from .stanzas import ROAMING, find_tunnels
from .waiting import wait_until
from .wire import count_frames

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 100
LINK = "eth0"
UNKNOWN = "unknown"
OPEN, CLOSED = "open", "closed"
CORP = "openvpn corp"
WORK = f"ipsec {ipsec.NAME}"

# What the laptop's admin has written.
_VPN = "    netconf-vpn      openvpn corp  unless home-lan office-lan\n"
_GUARD = "    netconf-guard    unless home-lan office-lan\n    netconf-trust    hints\n"
STANZAS = ROAMING.replace(_VPN, f"    netconf-vpn      {WORK}    on home-lan\n{_VPN}{_GUARD}", 1)

# Of each tunnel that the laptop's rules name: a host that answers only through it, or another one to the same gateway.
TUNNELS = {CORP: CORP_HOST, WORK: CORP_HOST}

# IPsec's daemons are left running when their tunnel ends, as they may serve others.
_LEFT_RUNNING = ("/usr/lib/ipsec/charon", "/usr/lib/ipsec/starter")

# dhclient asks for an address once; this one, which Debian 13 installs, also when a cable is pushed in elsewhere.
_FOLLOWS_CABLE = "dhcpcd"

# How long a tunnel may take to connect, and what ifdown ends to be gone, in seconds.
PATIENCE = 15.0


_PREFACE = (
    "A laptop goes from home to the office to the cafe and back.  Its IPsec tunnel should run at home, its OpenVPN "
    f"tunnel wherever it is neither at home nor in the office, and only through one of them does {CORP_HOST} answer.  "
    "Where the OpenVPN tunnel is needed a guard lets nothing else out.  It opens at home and in the office, here by "
    "their routers' MAC addresses alone (netconf-trust hints), which a cafe could forge.  "
    "Everything is real: ifupdown, the DHCP client, the routers, OpenVPN, strongSwan; what is shown was said by the "
    "commands shown.  It all happens in network namespaces: this machine's own network and files stay as they are.\n\n"
)


class Stop(NamedTuple):
    """A place the laptop is taken to, and what should be so there.

    site: where the cable goes in, a name of `network.SITES`; location: what `netconf-hooks` should call it;
    tunnels: those of `TUNNELS` that should run there; guard: what the guard should be there, open or closed;
    by_cable: whether nothing is typed to get there: the cable is pulled out where the laptop was and pushed in here,
    and the watcher sees to the rest; leak_test: whether to see what leaves when the tunnel is killed, with and without
    a guard.
    """

    title: str
    story: str
    site: str
    location: str
    tunnels: tuple[str, ...] = ()
    guard: str = OPEN
    by_cable: bool = False
    leak_test: bool = False


STOPS = (
    Stop("Home", "Plugged in at home.", HOME.name, "home-lan", (WORK,)),
    Stop("The office", "Plugged in at the office.", OFFICE.name, "office-lan"),
    Stop(
        "The cafe",
        "Plugged in at a cafe, which no netconf-location line knows.",
        CAFE.name,
        UNKNOWN,
        (CORP,),
        CLOSED,
        leak_test=True,
    ),
    Stop("Home again", "Plugged in at home once more.", HOME.name, "home-lan", (WORK,)),
    Stop("The office again", "Plugged in at the office once more.", OFFICE.name, "office-lan"),
    Stop(
        "The cafe, by cable",
        "The cable is pulled out of the office and pushed in at the cafe.  Nothing is typed.",
        CAFE.name,
        UNKNOWN,
        (CORP,),
        CLOSED,
        by_cable=True,
    ),
)

Status = Mapping[str, Mapping[str, Mapping[str, object]]]


class Ended(NamedTuple):
    """How ifup or ifdown ended: after how many seconds, with which exit status; complaints: lines of our hooks."""

    seconds: float
    exit_status: int
    complaints: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether it ended as it should."""
        return self.exit_status == 0 and not self.complaints

    def __str__(self) -> str:
        """Say it in a few words."""
        parts = [f"{self.seconds:.2f} s"]
        parts += [f"exit status {self.exit_status}"] if self.exit_status else []
        parts += ["the hooks complain"] if self.complaints else []
        return ", ".join(parts)


class Visit(NamedTuple):
    """What the programs said at a stop.

    status: what ``netconf-hooks status --json`` said, empty when it failed; connected: seconds from the end of ifup
    until it said of every tunnel that was wanted that it is up; answered: whether each host of `TUNNELS` did.
    """

    stop: Stop
    ifup: Ended
    status: Status
    connected: float
    answered: Mapping[str, bool]

    @property
    def link(self) -> Mapping[str, object]:
        """What is known of the laptop's link; empty when it is not known at all."""
        return self.status.get("interfaces", {}).get(LINK, {})

    @property
    def location(self) -> str:
        """The location's name, ``unknown``, ``undecided``, or ``not recorded``."""
        if not self.link:
            return "not recorded"
        return "undecided" if self.link["undecided"] else str(self.link["location"] or UNKNOWN)

    @property
    def guard(self) -> Mapping[str, object]:
        """What is known of the link's guard; empty where there is none."""
        return self.status.get("guards", {}).get(LINK, {})

    def tunnel(self, name: str) -> Mapping[str, object]:
        """What is known of a tunnel; empty when it is not known at all."""
        return self.status.get("tunnels", {}).get(name, {})


class Fact(NamedTuple):
    """A line about a stop.

    good: whether it is as it should be; None where nothing is asked of it; expected: what it should have been, if not.
    """

    label: str
    text: str
    good: bool | None = None
    expected: str = ""


def tell_what_was_seen(visit: Visit) -> Iterator[Fact]:
    """Say what the decision rests on."""
    seen = visit.link.get("seen")
    values = {key: ", ".join(found) for key, found in seen.items() if found} if isinstance(seen, dict) else {}
    yield Fact("seen", ", ".join(f"{key} {value}" for key, value in values.items()) or "nothing")


def tell_location(visit: Visit) -> Iterator[Fact]:
    """Say where the laptop takes itself to be, and by which line of its stanza."""
    yield Fact("location", visit.location, visit.location == visit.stop.location, visit.stop.location)
    if visit.link:
        line = visit.link["line"]
        yield Fact("because", f"netconf-location {line}" if line else "no netconf-location line holds")


def tell_tunnels(visit: Visit) -> Iterator[Fact]:
    """Say what each tunnel does, why, and whether the host behind it answers."""
    for name in TUNNELS:
        tunnel, should = visit.tunnel(name), name in visit.stop.tunnels
        doing = _describe_tunnel(tunnel["wanted"], tunnel["up"]) if tunnel else "not recorded"
        expected = _describe_tunnel(should, should)
        yield Fact("tunnel", f"{name}: {doing}", doing == expected, expected)
        if tunnel:
            yield Fact("because", str(tunnel["because"]))
        if tunnel.get("problem"):
            yield Fact("problem", str(tunnel["problem"]), False, "none")
    words = {True: "answers", False: "does not answer"}
    for host, answers in visit.answered.items():
        should = any(TUNNELS[name] == host for name in visit.stop.tunnels)
        yield Fact("behind it", f"{host} {words[answers]}", answers is should, words[should])


def tell_guard(visit: Visit) -> Iterator[Fact]:
    """Say what the guard is, and why."""
    state = str(visit.guard.get("state", "none"))
    yield Fact("guard", state, state == visit.stop.guard, visit.stop.guard)
    if visit.guard:
        yield Fact("because", str(visit.guard["because"]))


def tell_times(visit: Visit) -> Iterator[Fact]:
    """Say how long it took."""
    if visit.stop.by_cable:
        yield Fact("time", f"all was so within {visit.connected:.2f} s of the cable being pushed in")
        return
    text = f"ifup {visit.ifup}"
    if any(visit.tunnel(name).get("up") for name in TUNNELS):
        text += f"; the tunnel was connected within {visit.connected:.2f} s of its return"
    yield Fact("time", text, visit.ifup.good, "exit status 0, no complaint")


def _describe_tunnel(wanted: object, up: object) -> str:
    """Say what a tunnel does; up: None when nobody knows."""
    return f"{'wanted' if wanted else 'not wanted'}, {_UP_WORDS[up]}"


_UP_WORDS: Mapping[object, str] = {True: "connected", False: "not connected", None: "unknown whether connected"}

FACTS = (tell_what_was_seen, tell_location, tell_tunnels, tell_guard, tell_times)


class Screen:
    """Where it is all written to: coloured only on a terminal, and not where NO_COLOR is set (https://no-color.org)."""

    _CODES = {"bold": "1", "dim": "2", "fail": "1;31", "ok": "32", "title": "1;34"}
    _OUTPUT = " " * 4
    _FACT = " " * 18

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._coloured = file.isatty() and not os.environ.get("NO_COLOR")
        self._columns = min(COLUMNS, shutil.get_terminal_size((COLUMNS, 24)).columns) if file.isatty() else COLUMNS

    def say(self, text: str = "") -> None:
        """Write text, or an empty line."""
        for line in text.splitlines() or [""]:
            self._write(*(textwrap.wrap(line, self._columns) or [""]))

    def title(self, text: str) -> None:
        """Write a heading."""
        self._write("", self._colour("title", f"---- {text} ".ljust(self._columns, "-")), "")

    def command(self, argv: Sequence[str]) -> None:
        """Write a command as it is typed."""
        self._write(f"laptop# {self._colour('bold', shlex.join(argv))}")

    def output(self, lines: Sequence[str]) -> None:
        """Write what a program said."""
        for line in lines:
            self._write(*(self._colour("dim", part) for part in _wrap(self._OUTPUT + line, self._columns)))

    def fact(self, fact: Fact) -> None:
        """Write a fact, and whether it is as it should be."""
        marks = {True: self._colour("ok", "  ok"), False: self._colour("fail", "FAIL"), None: "    "}
        lines = _wrap(self._FACT + fact.text, self._columns)
        self._write(f"{marks[fact.good]}  {fact.label:<12}{lines[0].lstrip()}", *lines[1:])
        if fact.good is False:
            self._write(*_wrap(f"{self._FACT}expected: {fact.expected}", self._columns))

    def failure(self, text: str) -> None:
        """Write what has gone wrong."""
        lines = _wrap(f"      {text}", self._columns)
        self._write(f"{self._colour('fail', 'FAIL')}  {lines[0].lstrip()}", *lines[1:])

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Write a table; its first row are the headings."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for number, row in enumerate(rows):
            text = "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self._write(text if number else self._colour("bold", text))

    @contextlib.contextmanager
    def progress(self, text: str) -> Iterator[None]:
        """Write what is going on, and when it has ended how long it took."""
        began = time.monotonic()
        print(f"{text} ...", end="", file=self._file, flush=True)
        try:
            yield
        except BaseException:
            self._write("")
            raise
        self._write(f" {time.monotonic() - began:.1f} s")

    def _colour(self, name: str, text: str) -> str:
        return f"\033[{self._CODES[name]}m{text}\033[0m" if self._coloured else text

    def _write(self, *lines: str) -> None:
        print(*lines, sep="\n", file=self._file, flush=True)


def _wrap(line: str, columns: int) -> list[str]:
    """Break a line where it is too long; what follows is indented four more."""
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    broken = textwrap.wrap(line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return broken or [""]


_FIND_RECORDS = ("find", "/run/netconf-hooks", "-type", "f", "-not", "-name", "*.lock")
_LIST_PROCESSES = ("ps", "-e", "-o", "pid,args")
# Of all that a DHCP client says, what matters.
_LEASED = re.compile("bound to|leased .* for")
_COMPLAINT = re.compile("netconf-hooks: ")


class Journey:
    """The laptop's way through the stops, in a lab that is up, told on a screen.

    visits: what was found at each stop so far; failures: what was not as it should be, in words.
    """

    def __init__(self, lab: Lab, screen: Screen) -> None:
        self.visits: list[Visit] = []
        self.failures: list[str] = []
        self._lab = lab
        self._screen = screen
        self._logged = 0

    def unpack(self) -> None:
        """Show what the laptop is, and what its admin has written."""
        client = {"dhclient": "isc-dhcp-client", "dhcpcd": "dhcpcd-base"}[self._lab.laptop.dhcp_client]
        self._type("dpkg-query", "-W", "ifupdown", client, "openvpn", "netconf-hooks")
        self._lab.laptop.write("/etc/network/interfaces", STANZAS)
        self._type("cat", "/etc/network/interfaces")
        self._type("netconf-hooks", "check", LINK)

    def visit(self, stop: Stop) -> None:
        """Go to a stop, look at everything there, and leave."""
        expected = f"{stop.location}, {', '.join(stop.tunnels) or 'no tunnel'}, the guard {stop.guard}"
        self._screen.say(f"{stop.story}  Expected: {expected}.\n\n")
        if stop.by_cable:
            self._lab.unplug()
        self._lab.plug(stop.site)
        ifup = Ended(0.0, 0, ()) if stop.by_cable else self._time("ifup", LINK)
        status, connected = self._wait_for_tunnels(stop)
        self._type("netconf-hooks", "explain", LINK)
        answered = {host: self._ping(host) for host in dict.fromkeys(TUNNELS.values())}
        visit = Visit(stop, ifup, status, connected, answered)
        self.visits.append(visit)
        self._screen.say()
        self._judge(stop.title, [fact for tell in FACTS for fact in tell(visit)])
        self._screen.say()
        if stop.leak_test:
            self._test_for_leaks(visit)

    def show_what_is_left(self) -> None:
        """Show that nothing is left of it all; each visit has checked that already."""
        self._type(*_FIND_RECORDS)
        self._type(*_LIST_PROCESSES)

    def leave(self, stop: Stop) -> None:
        """Take the interface down, see what that leaves, and pull the cable."""
        ifdown = self._time("ifdown", LINK)
        left = self._wait_for_nothing()
        self._lab.unplug()
        text = f"ifdown {ifdown}; left behind: {', '.join(left) or 'no record, no process'}"
        good = ifdown.good and not left
        self._judge(stop.title, [Fact("time", text, good, "exit status 0, no complaint; nothing left behind")])

    def _test_for_leaks(self, visit: Visit) -> None:
        """Kill the tunnel, and show what leaves the laptop before and after, and what does without a guard."""
        self._screen.say(
            "Does anything leave in the clear?  What counts is a capture at the far end of the laptop's cable, where "
            f"the cafe sees it.  {INTERNET_HOST} is a host on the internet; and without the tunnel, packets for "
            f"{CORP_HOST} would go there, too.\n\n"
        )
        with Capture(self._lab.network.wire_namespace, LINK) as capture:
            self._send()
            guarded = count_frames(capture.read())
            # Else the watcher starts it again, in about two seconds.
            self._type("netconf-hooks", "hold", "openvpn", "corp")
            for pid in find_tunnels(self._lab):
                self._type("kill", "-KILL", str(pid))
            wait_until(lambda: not find_tunnels(self._lab), "OpenVPN to be gone")
            dying = count_frames(capture.read())
            self._send()
            killed = count_frames(capture.read())
            self._type("netconf-hooks", "release", LINK)
            self._send()
            released = count_frames(capture.read())
            self._type("netconf-hooks", "unhold", "openvpn", "corp")
        self._screen.say()
        seen = guarded.tunnel > 0 or not visit.tunnel(CORP).get("up")
        facts = [
            Fact("tunnel up", str(guarded), seen and not guarded.others, "packets of the tunnel, 0 others"),
            Fact("killed", str(killed), not (dying.others or killed.others), "0 others"),
            Fact("released", str(released), released.others > 0, "others: else this shows nothing"),
            *(Fact("", example) for example in released.examples),
        ]
        self._judge(visit.stop.title, facts)
        self._screen.say()

    def _send(self) -> None:
        """Send some packets to a host behind the VPN, and to one on the internet; how many came back is shown."""
        for host in (CORP_HOST, INTERNET_HOST):
            argv = ("ping", "-n", "-q", "-c", "10", "-i", "0.01", "-W", "0.2", host)
            self._screen.command(argv)
            lines = _list_lines(self._lab.laptop.run(argv, check=False))
            self._screen.output([line for line in lines if "transmitted" in line] or lines[:1])

    def _judge(self, title: str, facts: Sequence[Fact]) -> None:
        """Show the facts; where one is not as it should be, also what has been logged since the last time."""
        for fact in facts:
            self._screen.fact(fact)
        wrong = [fact for fact in facts if fact.good is False]
        self.failures += [f"{title}: {fact.label}: {fact.text}; expected: {fact.expected}" for fact in wrong]
        log = self._lab.laptop.log().splitlines()
        if wrong:
            self._screen.say("\nThe laptop has logged:")
            self._screen.output(log[self._logged:])
        self._logged = len(log)

    def _type(self, *argv: str) -> None:
        """Run a command on the laptop; show what is typed and what is said."""
        self._screen.command(argv)
        result = self._lab.laptop.run(argv, check=False)
        self._screen.output(_list_lines(result))

    def _time(self, *argv: str) -> Ended:
        """Run ifup or ifdown; of a DHCP client's chatter only what matters is shown, unless it fails."""
        self._screen.command(argv)
        began = time.monotonic()
        result = self._lab.laptop.run(argv, check=False)
        seconds = time.monotonic() - began
        lines = _list_lines(result)
        complaints = tuple(line for line in lines if _COMPLAINT.match(line))
        shown = lines if result.returncode else [line for line in lines if line in complaints or _LEASED.search(line)]
        self._screen.output(shown)
        return Ended(seconds, result.returncode, complaints)

    def _wait_for_tunnels(self, stop: Stop) -> tuple[Status, float]:
        """Ask for the status until each tunnel that is wanted is up: return it, and how long that took, in seconds.

        Where nobody has typed anything, also until what should be noticed has been.
        """
        argv = ("netconf-hooks", "status", "--json")
        self._screen.command(argv)
        began = time.monotonic()
        answers: list[Status] = []

        def is_settled() -> bool:
            result = self._lab.laptop.run(argv, check=False)
            if result.returncode:
                self._screen.output(_list_lines(result))
            answers.append({} if result.returncode else json.loads(result.stdout))
            tunnels = answers[-1].get("tunnels", {})
            wanted = {name for name, tunnel in tunnels.items() if tunnel["wanted"]}
            guard = answers[-1].get("guards", {}).get(LINK, {}).get("state")
            noticed = wanted == set(stop.tunnels) and guard == stop.guard
            return all(tunnels[name]["up"] for name in wanted) and (noticed or not stop.by_cable)

        with contextlib.suppress(TimeoutError):
            wait_until(is_settled, "the tunnels to connect", PATIENCE)
        seconds = time.monotonic() - began
        times = f"; asked {len(answers)} times in {seconds:.2f} s" if len(answers) > 1 else ""
        self._screen.output([f"(in words below{times})"] if answers[-1] else [])
        return answers[-1], seconds

    def _ping(self, host: str) -> bool:
        """Whether a host answers; the line of ping(8) that says so is shown."""
        argv = ("ping", "-n", "-c", "1", "-W", "1", host)
        self._screen.command(argv)
        result = self._lab.laptop.run(argv, check=False)
        lines = _list_lines(result)
        told = [line for line in lines if "bytes from" in line or line.startswith("From ")]
        self._screen.output((told or [line for line in lines if "transmitted" in line] or lines)[:1])
        return result.returncode == 0

    def _wait_for_nothing(self) -> list[str]:
        """Return what is still there, of records and processes, when everything has had time to end."""
        left: list[str] = []

        def is_nothing_left() -> bool:
            left[:] = self._list_left()
            return not left

        with contextlib.suppress(TimeoutError):
            wait_until(is_nothing_left, "everything to end", PATIENCE)
        return left

    def _list_left(self) -> list[str]:
        laptop = self._lab.laptop
        records = laptop.run(_FIND_RECORDS, check=False).stdout.split()
        rows = [row.split(None, 1) for row in laptop.run(_LIST_PROCESSES).stdout.splitlines()[1:]]
        # But the laptop's init, and ps itself.
        expected = (*_LEFT_RUNNING, " ".join(_LIST_PROCESSES))
        return records + [args for pid, args in rows if pid != "1" and not args.startswith(expected)]


def _list_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    return (result.stdout + result.stderr).rstrip().splitlines()


def tell_story(lab: Lab, screen: Screen, stops: Sequence[Stop] = STOPS) -> list[str]:
    """Take the laptop of a lab to all stops; return what was not as it should be, in words."""
    began = time.monotonic()
    journey = Journey(lab, screen)
    if lab.laptop.dhcp_client != _FOLLOWS_CABLE:
        screen.say(f"{lab.laptop.dhcp_client} does not follow a cable: the stop where nothing is typed is left out.")
        stops = [stop for stop in stops if not stop.by_cable]
    screen.title("The laptop")
    journey.unpack()
    for number, stop in enumerate(stops, 1):
        screen.title(f"{number}. {stop.title}")
        journey.visit(stop)
        if not any(after.by_cable for after in stops[number:number + 1]):
            journey.leave(stop)
    screen.title("What is left after the last ifdown")
    journey.show_what_is_left()
    screen.title("In short")
    screen.table([_HEADINGS, *(_summarize(visit) for visit in journey.visits)])
    screen.say()
    for failure in journey.failures:
        screen.failure(failure)
    if not journey.failures:
        screen.say(f"All {len(stops)} stops were as they should be; the journey took {time.monotonic() - began:.1f} s.")
    return journey.failures


_HOSTS = tuple(dict.fromkeys(TUNNELS.values()))
_HEADINGS = ("stop", "location", "tunnel", "guard", *_HOSTS, "ifup took", "connected")


def _summarize(visit: Visit) -> tuple[str, ...]:
    """Return a row of the table for `_HEADINGS`."""
    up = [name for name in TUNNELS if visit.tunnel(name).get("up")]
    answers = ["answers" if visit.answered[host] else "silent" for host in _HOSTS]
    ifup = "(by cable)" if visit.stop.by_cable else f"{visit.ifup.seconds:.2f} s"
    after = f"{visit.connected:.2f} s later" if up else "-"
    guard = str(visit.guard.get("state", "none"))
    return visit.stop.title, visit.location, ", ".join(up) or "none", guard, *answers, ifup, after


def add_ipsec(lab: Lab, image: Image) -> ipsec.IpsecGateway:
    """Configure IPsec on a lab's laptop and return a gateway for it; both from an image that has strongSwan."""
    ipsec.write_swanctl(lab.laptop)
    return ipsec.IpsecGateway(lab.network, image)


@contextlib.contextmanager
def open_lab(screen: Screen, dhcp_client: str) -> Iterator[Lab]:
    """Build the packages of this checkout, install them on a laptop, and set up a lab around it."""
    with ExitStack() as undo:
        with screen.progress("Building the packages"):
            subprocess.run(["make", "deb"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        with screen.progress("Fetching strongSwan, for the laptop and the gateway"):
            strongswan = fetch_packages(ipsec.STRONGSWAN)
        with screen.progress("Installing them on a laptop"), open(ROOT / "build/.lock", "w", encoding="ascii") as lock:
            # Another run may build again as soon as a source file changes; `make deb` holds this lock meanwhile.
            fcntl.flock(lock, fcntl.LOCK_SH)
            image = undo.enter_context(Image([*strongswan, *sorted((ROOT / "build").glob("*.deb"))]))
        with screen.progress("Setting up three networks, the internet between them, and VPN gateways"):
            lab = undo.enter_context(Lab(image, dhcp_client))
            undo.enter_context(add_ipsec(lab, image))
        yield lab


def main(arguments: Sequence[str] | None = None, lab: Lab | None = None, stops: Sequence[Stop] = STOPS) -> int:
    """Run the demo and return its exit status.

    arguments: those of the command line if not given; lab: one that is up, instead of a new one; stops: others than
    the demo's own, which tests use to see it fail.
    """
    parser = argparse.ArgumentParser(description="A laptop goes from home to the office to the cafe and back.")
    parser.add_argument("--dhcp-client", choices=DHCP_CLIENTS, default=_FOLLOWS_CABLE, help="%(default)s if not given")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("This creates network namespaces and needs root: sudo make demo", file=sys.stderr)
        return 2
    screen = Screen(sys.stdout)
    screen.say(_PREFACE)
    try:
        with contextlib.nullcontext(lab) if lab else open_lab(screen, options.dhcp_client) as place:
            return 1 if tell_story(place, screen, stops) else 0
    except (ArchiveError, CommandFailed, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        # The packages can't be built, a program is missing or never ends, namespaces are not allowed.
        screen.failure(f"the demo can't go on: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
