"""Configurations for guessnet: ``script /usr/sbin/guessnet-ifupdown`` in a ``mapping``.

guessnet 0.56 was last in Debian 11.  This module follows its manual page, guessnet(8), and the behaviour of the program
(tests/lab/test_mapping.py runs both on the same file):

- ``map`` lines name the stanzas that are candidates, ``!NAME`` those that are not; ``key: value`` sets an option.
- The candidates are recognised by tests in their own stanzas: ``test peer address 192.0.2.1 mac 52:54:00:0a:00:01``.
- All tests of all candidates run at the same time, and the first that succeeds wins.

Unlike guessnet it follows ``source`` and ``inherits``, since ifupdown's own ifquery reads the stanzas.  If a test can't
be read, the other tests run nevertheless.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
import time

from netconf_hooks.evidence.probes import Wait
from netconf_hooks.guard.early import EarlyGuard, SLACK
from netconf_hooks.mappings.mapping import RaisedLink, is_stanza_name, serve
from netconf_hooks.record import Record
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.stanzas.interfaces import FILE, InterfacesError, query_stanzas, read_names
from netconf_hooks.stanzas.rules import RuleError
from netconf_hooks.stanzas.values import ADDRESS, MAC
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from typing import NoReturn

    from netconf_hooks.evidence.scan import HeardNetwork, Scan

    # As `probes.Steps`; it returns whether the test succeeded.
    Steps = Generator[Wait, frozenset[int], bool]

KINDS = ("peer", "wireless", "missing-cable", "command", "script", "pppoe")

PING_EVERY = 0.5  # seconds

LAST_LOOK = 0.1
"""Seconds before the deadline at which the networks heard so far are used if a scan still runs."""

SCAN_PAUSE = 0.25  # seconds between the tries of ``iwscan-tries``

_ETH_P_ALL, _ETH_P_IP, _ETH_P_ARP, _PACKET_OUTGOING = 0x0003, 0x0800, 0x0806, 4
_BROADCAST = b"\xff" * 6
_IP = struct.Struct("!BBHHHBBH4s4s")
_ECHO = struct.Struct("!BBHHH")
_TRUE = ("true", "yes", "on", "1", "t", "y")
_FALSE = ("false", "no", "off", "0", "f", "n")


class Options(Record):
    """The options that ``map`` lines of the form ``key: value`` set.

    default: what to print if no test succeeds; timeout: seconds that the tests may take; init_time: seconds to wait for
    carrier of a link that was down; init_delay: seconds to wait first; autofilter: whether only stanzas are candidates
    whose name begins with the interface's; scan_tries: how often to try a wireless scan that is refused.
    """

    __slots__ = ("default", "timeout", "init_time", "init_delay", "verbose", "autofilter", "scan_tries")

    def __init__(
        self,
        default: str = "none",
        timeout: int = 5,
        init_time: int = 3,
        init_delay: int = 0,
        verbose: bool = False,
        autofilter: bool = False,
        scan_tries: int = 1,
    ) -> None:
        self.default = default
        self.timeout = timeout
        self.init_time = init_time
        self.init_delay = init_delay
        self.verbose = verbose
        self.autofilter = autofilter
        self.scan_tries = scan_tries


class MapLines(Record):
    """The parsed ``map`` lines of a mapping.  names, excluded: the stanzas that are, or are not, candidates."""

    __slots__ = ("names", "excluded", "options", "errors")

    def __init__(
        self, names: tuple[str, ...], excluded: tuple[str, ...], options: Options, errors: tuple[RuleError, ...]
    ) -> None:
        self.names = names
        self.excluded = excluded
        self.options = options
        self.errors = errors


class Test(Record):
    """A test of a stanza.

    kind: one of `KINDS`, with ``command`` for ``script``; text: as written.
    For ``peer``: address and mac, each empty if not written, and source, the sender's address.  For ``command``:
    command.  For ``wireless``: essid, mac (the access point's) and security, ``open`` or ``closed``, each empty if not
    written, and ignored, a word at the end that has no meaning.
    """

    __slots__ = ("kind", "text", "address", "mac", "source", "command", "essid", "security", "ignored")
    __test__ = False  # not a test class of pytest

    def __init__(
        self,
        kind: str,
        text: str,
        address: str = "",
        mac: str = "",
        source: str = "",
        command: str = "",
        essid: str = "",
        security: str = "",
        ignored: str = "",
    ) -> None:
        self.kind = kind
        self.text = text
        self.address = address
        self.mac = mac
        self.source = source
        self.command = command
        self.essid = essid
        self.security = security
        self.ignored = ignored


class Candidate(Record):
    """A stanza that may be chosen, and its tests, one of which is enough."""

    __slots__ = ("name", "tests")

    def __init__(self, name: str, tests: tuple[Test, ...]) -> None:
        self.name = name
        self.tests = tests


class TestContext(Record):
    """The input of all tests.

    iface, device: the interface and its device; mac: the device's MAC address, empty if it is not an Ethernet address;
    carrier: whether it has carrier; deadline: when all tests end, time.monotonic(); scan_tries: how often to try a
    wireless scan.
    """

    __test__ = False  # not a test class of pytest

    __slots__ = ("iface", "device", "mac", "carrier", "deadline", "scan_tries")

    def __init__(
        self, iface: str, device: str, mac: str, carrier: bool, deadline: float, scan_tries: int = 1
    ) -> None:
        self.iface = iface
        self.device = device
        self.mac = mac
        self.carrier = carrier
        self.deadline = deadline
        self.scan_tries = scan_tries


class Neighbours:
    """The hosts that answer ARP.  One socket asks all of them, since the kernel takes 10 ms to close a socket
    (synchronize_net() in packet_release(), net/packet/af_packet.c)."""

    def __init__(self, context: TestContext) -> None:
        self._context = context
        self._socket: _socket.socket | None = None
        self._wanted: dict[str, set[str]] = {}

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()

    def ask(self, test: Test) -> Steps:
        """Ask until the peer of `test` answers; also while the link has no carrier yet."""
        from netconf_hooks.evidence.peer import PAUSES, make_arp_request

        device = self._context.device
        if len(self._context.mac) != 17:
            log.error(f'{self._context.iface}: "{test.text}": {device} has no neighbours with MAC addresses')
            return False
        request = make_arp_request(bytes.fromhex(self._context.mac.replace(":", "")), test.source, test.address)
        found = self._wanted.setdefault(test.address, set())
        packets = self._listen()
        pauses = iter(PAUSES)
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                _send_packet(packets, request, (device, _ETH_P_ARP, 0, 0, _BROADCAST))
                due = time.monotonic() + next(pauses, PAUSES[-1])
            yield Wait({packets.fileno(): select.POLLIN}, due)
            self._read()
            if test.mac in found or found and not test.mac:
                return True

    def _listen(self) -> _socket.socket:
        if self._socket is None:
            self._socket = _open_packets(self._context.device, _ETH_P_ARP)
        return self._socket

    def _read(self) -> None:
        from netconf_hooks.evidence.peer import read_arp_reply

        own = bytes.fromhex(self._context.mac.replace(":", ""))
        for packet, _ in _read_packets(self._listen()):
            for address, found in self._wanted.items():
                if answer := read_arp_reply(packet, own, address):
                    log.debug(f"{self._context.iface}: peer {address}: answered by {answer}")
                    found.add(answer)


class Air:
    """The wireless networks in range: one scan for all tests."""

    def __init__(self, context: TestContext) -> None:
        self._context = context
        self._scan: Scan | None = None
        self._heard: list[HeardNetwork] | None = None
        self._tries = context.scan_tries
        self._due = 0.0

    def close(self) -> None:
        """Close the scan."""
        if self._scan is not None:
            self._scan.close()

    def ask(self, test: Test) -> Steps:
        """Succeed if a network in range matches all of `test`; of several tests, the first in the file."""
        while (heard := self._look()) is None:
            # All tests wake at the same time, run in the order of the file, and get the same result.
            if self._scan is None:
                yield Wait({}, self._due)
            else:
                yield Wait({self._scan.fileno(): select.POLLIN}, self._context.deadline - LAST_LOOK)
        return any(is_network_of(test, network) for network in heard)

    def _look(self) -> list[HeardNetwork] | None:
        """Return the networks in range; none if there is no result, None while the scan runs."""
        if self._heard is not None:
            return self._heard
        now = time.monotonic()
        try:
            if self._scan is None:
                if now >= self._due:
                    self._begin()
            elif self._scan.is_over() or now >= self._context.deadline - LAST_LOOK:
                self._heard = self._scan.list_networks()
                log.debug(f"{self._context.iface}: in range: {_name_networks(self._heard)}")
        except NetlinkError as error:
            self._tries -= 1
            if self._tries > 0 and self._scan is None:
                self._due = now + SCAN_PAUSE
            else:
                self._heard = []
                iface, device = self._context.iface, self._context.device
                log.error(f"{iface}: no wireless test counts: {device} could not be made to scan: {error}")
        return self._heard

    def _begin(self) -> None:
        """Start the scan.  Raises `NetlinkError`."""
        from netconf_hooks.evidence.radios import is_wireless

        iface, device = self._context.iface, self._context.device
        if not is_wireless(device):
            # Without names in its map lines, the mapping of a wired interface also has the wireless stanzas as
            # candidates.
            log.debug(f"{iface}: no wireless test counts: {device} is not a wireless interface")
            self._heard = []
            return
        try:
            from netconf_hooks.evidence.scan import Scan
        except ImportError as error:
            log.error(f"{iface}: no wireless test counts: python3-pyroute2 is missing, or can't be used: {error}")
            self._heard = []
            return
        self._scan = Scan(device)


def main() -> NoReturn:
    """Run as the mapping script ``/usr/sbin/guessnet-ifupdown``."""
    serve(choose_stanza)


def choose_stanza(iface: str, text: str, path: str = FILE) -> str:
    """Return the name of the stanza that `iface` gets; empty if there is no such device, since guessnet fails then.

    text: the ``map`` lines; path: the file with the stanzas.
    """
    lines = read_lines(text)
    log.set_verbose(lines.options.verbose)
    for error in lines.errors:
        log.error(f"{iface}: {error}")
    candidates = read_candidates(iface, lines, path)
    name, reason = lines.options.default, "no test succeeded"
    if not candidates:
        log.info(f"{iface}: {name}: no stanza has a test that can be made")
        return name
    if lines.options.init_delay:
        select.poll().poll(lines.options.init_delay * 1000)
    began = time.monotonic()
    try:
        stanzas = (*(candidate.name for candidate in candidates), lines.options.default)
        seconds = lines.options.init_time + lines.options.timeout + SLACK
        early = EarlyGuard(iface, device_of(iface), stanzas, seconds, path)
        with RaisedLink(device_of(iface), early=early) as raised:
            if raised.status is None:
                log.error(f"{iface}: no such device")
                return ""
            patience = 0 if _is_to_scan(candidates, raised.device) else lines.options.init_time
            carrier = raised.wait_for_carrier(patience)
            # The time that was spent waiting for carrier counts.
            deadline = (time.monotonic() if carrier else began) + lines.options.timeout
            chosen = find_first(
                candidates,
                TestContext(iface, raised.device, raised.status.address, carrier, deadline, lines.options.scan_tries),
            )
        if chosen:
            name, reason = chosen[0], f'test "{chosen[1].text}"'
    except NetlinkError as error:
        log.error(f"{iface}: no test counts: the kernel's tables could not be read: {error}")
    log.info(f"{iface}: {name}: {reason}")
    return name


def read_lines(text: str) -> MapLines:
    """Parse ``map`` lines.  Never raises: see `MapLines.errors`."""
    names: list[str] = []
    excluded: list[str] = []
    values: dict[str, str | int | bool] = {}
    errors: list[RuleError] = []
    for line in text.split("\n"):
        words = line.split()
        key, colon, value = line.strip().partition(":")
        # guessnet recognises an option by its name: letters, - and _; a stanza may be called eth0:1.
        if colon and key.replace("-", "").replace("_", "").isalpha():
            if reason := _read_option(key, value.split(), values):
                errors.append(RuleError("map", line.strip(), reason))
            continue
        for word in words:
            if word.startswith("#"):
                break
            if word.startswith("!"):
                excluded.append(word[1:])
            else:
                names.append(word)
        if names and excluded:
            errors.append(RuleError("map", line.strip(), "names with and without ! can't be mixed: those with ! count"))
            names.clear()
    return MapLines(tuple(names), tuple(excluded), Options(**values), tuple(errors))  # type: ignore[arg-type]


def read_candidates(iface: str, lines: MapLines, path: str = FILE) -> list[Candidate]:
    """Return the stanzas that may be chosen, with the tests that can be run, in the order of the file.

    Errors are logged.
    """
    names = read_names(path)
    for problem in names.problems:
        log.warning(problem)
    wanted = [name for name in names.stanzas if _is_candidate(name, iface, lines)]
    for name in lines.names:
        if name not in names.stanzas:
            log.error(f'{iface}: map "{name}": there is no such iface stanza')
    try:
        stanzas = query_stanzas(wanted, path)
    except InterfacesError as error:
        log.error(f"{iface}: {error}")
        return []
    candidates = []
    for name, options in stanzas.items():
        tests, errors = read_tests(options)
        for unread in errors:
            log.error(f"{iface}: iface {name}: {unread}")
        for test in tests:
            if test.ignored:
                log.warning(
                    f'{iface}: iface {name}: "{test.text}": "{test.ignored}" is ignored: '
                    "put a name with blanks in double quotes"
                )
        if tests:
            candidates.append(Candidate(name, tests))
    return candidates


def read_tests(options: Mapping[str, str]) -> tuple[tuple[Test, ...], tuple[RuleError, ...]]:
    """Return the tests among the options of a stanza, and an error for each that can't be read or run here."""
    tests: list[Test] = []
    errors: list[RuleError] = []
    for option, value in options.items():
        for line in value.split("\n"):
            text = find_test(option, line)
            if text is None:
                continue
            try:
                tests.append(read_test(text))
            except ValueError as error:
                errors.append(RuleError(option, line, str(error)))
    return tuple(tests), tuple(errors)


def find_test(option: str, value: str) -> str | None:
    """Return ``KIND ARGUMENTS`` of an option that is a test; None for other options.

    ``test peer ...``, ``test2 peer ...``, ``test-peer ...``, ``test2-peer ...``; each may have ``guessnet`` or
    ``guessnet2`` before it, which may also replace the word ``test``.
    """
    for word in ("test", "guessnet"):
        rest = option[len(word):].lstrip("0123456789")
        if not option.startswith(word) or rest and rest[0] != "-":
            continue
        text = f"{rest[1:]} {value}".strip()
        if word == "guessnet":
            first, _, more = text.partition(" ")
            return find_test(first, more.strip()) if first.startswith("test") else text
        return text
    return None


def read_test(text: str) -> Test:
    """Parse ``KIND ARGUMENTS`` into a test.  Raises ValueError, which says why it can't be read."""
    kind, _, arguments = text.partition(" ")
    arguments = arguments.strip()
    if kind in ("command", "script"):
        if not arguments:
            raise ValueError(f"expected a command after {kind}")
        return Test("command", text, command=arguments)
    if kind == "peer":
        return _read_peer(text, arguments.split())
    if kind == "wireless":
        return _read_wireless(text, arguments)
    if kind == "pppoe" and not _find_program("pppoe"):
        raise ValueError("the program pppoe is missing: apt install pppoe")
    if kind in KINDS:
        return Test(kind, text)
    raise ValueError(f'expected a kind of test ({", ".join(KINDS)}), not "{kind}"')


def find_first(candidates: Sequence[Candidate], context: TestContext) -> tuple[str, Test] | None:
    """Run all tests at the same time; return the stanza of the first that succeeds, and the test.

    None if none succeeds before the deadline, or all have failed.
    """
    runs: dict[Steps, tuple[str, Test]] = {}
    waits: dict[Steps, Wait] = {}
    neighbours, air = Neighbours(context), Air(context)
    try:
        for candidate in candidates:
            for test in candidate.tests:
                steps = _begin(test, candidate.name, context, neighbours, air)
                runs[steps] = (candidate.name, test)
                waits[steps] = Wait({}, 0.0)
        ready: frozenset[int] | None = None  # None starts a generator
        while True:
            now = time.monotonic()
            for steps, wait in list(waits.items()):
                mine = None if ready is None else ready & wait.events.keys()
                if not mine and now < wait.until:
                    continue
                try:
                    waits[steps] = steps.send(mine)  # type: ignore[arg-type]
                except StopIteration as end:
                    if end.value:
                        return runs[steps]
                    del waits[steps]
                except OSError as error:
                    log.warning(f'{context.iface}: iface {runs[steps][0]}: "{runs[steps][1].text}": {error.strerror}')
                    del waits[steps]
            if not waits or time.monotonic() >= context.deadline:
                return None
            ready = _wait_for_any(list(waits.values()), context.deadline)
    finally:
        for steps in runs:
            steps.close()
        neighbours.close()
        air.close()


def _wait_for_any(waits: Sequence[Wait], deadline: float) -> frozenset[int]:
    poll = select.poll()
    for wait in waits:
        for descriptor, events in wait.events.items():
            poll.register(descriptor, events)
    until = min([deadline, *[wait.until for wait in waits]])
    # Round up: waking a millisecond too early would make the loop spin.
    left = max(0, int((until - time.monotonic()) * 1000) + 1)
    return frozenset(descriptor for descriptor, _ in poll.poll(left))


def _begin(test: Test, name: str, context: TestContext, neighbours: Neighbours, air: Air) -> Steps:
    if test.kind == "command":
        return _run_command(["/bin/sh", "-c", test.command], name, context)
    if test.kind == "pppoe":
        return _run_command(["pppoe", "-I", context.device, "-A"], name, context)
    if test.kind == "missing-cable":
        return _miss_cable(context)
    if test.kind == "wireless":
        return air.ask(test)
    return neighbours.ask(test) if test.address else _ping_peer(test, context)


def is_network_of(test: Test, network: HeardNetwork) -> bool:
    """Whether a network in range matches all of a ``wireless`` test.  Names are octets: case counts."""
    return (
        (not test.essid or test.essid.encode("utf-8", "surrogateescape") == network.ssid)
        and (not test.mac or test.mac == network.bssid)
        and (not test.security or (test.security == "closed") == network.closed)
    )


def _is_to_scan(candidates: Sequence[Candidate], device: str) -> bool:
    """Whether a scan is needed: then don't wait for carrier first.  A radio gets carrier from a network, and before its
    stanza has been chosen, no program joins one."""
    if not any(test.kind == "wireless" for candidate in candidates for test in candidate.tests):
        return False
    from netconf_hooks.evidence.radios import is_wireless

    return is_wireless(device)


def _name_networks(networks: Sequence[HeardNetwork]) -> str:
    """Return the networks that a scan heard, as text, with any octets in their names."""
    from netconf_hooks.stanzas.values import format_ssid

    names = (
        f'"{format_ssid(network.ssid)}" {network.bssid} {"closed" if network.closed else "open"}'
        for network in networks
    )
    return ", ".join(names) or "nothing"


def _miss_cable(context: TestContext) -> Steps:
    """Succeed if there is no carrier."""
    yield from ()
    return not context.carrier


def _run_command(argv: Sequence[str], name: str, context: TestContext) -> Steps:
    """Run a command with the variables that guessnet documents; kill it when it is no longer needed.

    It runs in a shell, and its program may belong to any user: guessnet allowed that, and only root can write the line
    itself.
    """
    from netconf_hooks.system.programs import ProgramError, begin  # takes 4 ms the first time

    try:
        program = begin(argv, {"NAME": name, "IFACE": context.iface, "GUESSNET": "true"})
    except ProgramError as error:
        log.error(f"{context.iface}: iface {name}: {error}")
        return False
    with program:
        while (status := program.poll()) is None:
            yield Wait({program.fileno(): select.POLLIN}, context.deadline)
    return status == 0


def _ping_peer(test: Test, context: TestContext) -> Steps:
    """Send a broadcast ping in a frame to one MAC address, until any packet arrives from there.

    The answer need not be an echo: before the host sends one, it asks for the sender's MAC address (RFC 826).  Most
    hosts answer neither a broadcast ping nor a ping from 0.0.0.0.
    """
    mac = bytes.fromhex(test.mac.replace(":", ""))
    ping = make_ping(test.source)
    packets = _open_packets(context.device, _ETH_P_ALL)
    try:
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                _send_packet(packets, ping, (context.device, _ETH_P_IP, 0, 0, mac))
                due = time.monotonic() + PING_EVERY
            yield Wait({packets.fileno(): select.POLLIN}, due)
            if any(sender == mac for _, sender in _read_packets(packets)):
                return True
    finally:
        packets.close()


def _open_packets(device: str, protocol: int) -> _socket.socket:
    # Protocol 0: receive nothing before the socket is bound to the link, packet(7).
    packets = _socket.socket(_socket.AF_PACKET, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK, 0)
    packets.bind((device, protocol))
    return packets


def _send_packet(packets: _socket.socket, packet: bytes, where: tuple[str, int, int, int, bytes]) -> None:
    try:
        packets.sendto(packet, where)
    except OSError as error:  # the link went down, or its queue is full: the next attempt may succeed
        log.debug(f"{where[0]}: nothing can be sent: {error.strerror}")


def _read_packets(packets: _socket.socket) -> list[tuple[bytes, bytes]]:
    """Return the packets that have arrived from others, each with its sender's MAC address.

    Only so many at a time: otherwise a flood of them could block the other tests.
    """
    found = []
    for _ in range(100):
        try:
            packet, (_, _, direction, _, sender) = packets.recvfrom(64)
        except OSError:  # no more packets; or, once, the link went down
            break
        if direction != _PACKET_OUTGOING:
            found.append((packet, sender))
    return found


def make_ping(source: str) -> bytes:
    """Return a broadcast IPv4 packet with an ICMP echo request (RFC 791, RFC 792)."""
    echo = _ECHO.pack(8, 0, 0, os.getpid() & 0xFFFF, 1)
    echo = echo[:2] + _sum_up(echo) + echo[4:]
    addresses = (_socket.inet_aton(source), b"\xff" * 4)
    header = _IP.pack(0x45, 0, _IP.size + len(echo), 0, 0, 64, 1, 0, *addresses)
    return header[:10] + _sum_up(header) + header[12:] + echo


def _sum_up(data: bytes) -> bytes:
    """Return the internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _read_option(key: str, words: Sequence[str], values: dict[str, str | int | bool]) -> str:
    """Store the option of a ``map`` line; return what is wrong with it, in words."""
    option = key.replace("-", "").replace("_", "")
    word = words[0] if words else ""
    if option == "default":
        if not is_stanza_name(word):
            return f'expected the name of a stanza after "{key}:"'
        values["default"] = word
    elif option in ("timeout", "inittime", "initdelay", "iwscantries"):
        digits = word.partition(".")[0]
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 4):
            return f'expected a number after "{key}:"'
        number = int(digits)
        if option == "timeout":
            values["timeout"] = number or Options().timeout  # so does guessnet
        else:
            names = {"inittime": "init_time", "initdelay": "init_delay", "iwscantries": "scan_tries"}
            values[names[option]] = number
    elif option in ("verbose", "debug", "syslog", "autofilter"):
        if word.lower() not in (*_TRUE, *_FALSE):
            return f'expected "true" or "false" after "{key}:"'
        switched_on = word.lower() in _TRUE
        if option == "autofilter":
            values["autofilter"] = switched_on
        elif option != "syslog":  # all messages go there anyway
            values["verbose"] = switched_on or values.get("verbose", False)
    else:
        return f'no such option of guessnet\'s: "{key}"'
    return ""


def _is_candidate(name: str, iface: str, lines: MapLines) -> bool:
    """guessnet(8): names add to the stanzas that autofilter selects, and ! removes from them."""
    if not is_stanza_name(name) or name in lines.excluded:
        return False
    filtered = lines.options.autofilter
    if lines.names:
        return name in lines.names or filtered and name.startswith(iface)
    return not filtered or name.startswith(iface)


def _read_peer(text: str, words: Sequence[str]) -> Test:
    found = {"address": "", "mac": "", "source": ""}
    pairs = iter(words)
    for word in pairs:
        value = next(pairs, "")
        if word not in found:
            continue  # as guessnet: ignore unknown words
        if word == "mac":
            expected = MAC.expected
            found["mac"] = MAC.read(_fill_mac(value))
        else:
            expected = "an IPv4 address"
            found[word] = "" if ":" in value else ADDRESS.read(value)
        if not found[word]:
            raise ValueError(f'expected {expected} after {word}, not "{value}"')
    if not found["address"] and not found["mac"]:
        raise ValueError("expected address or mac, and its value, after peer")
    return Test("peer", text, found["address"], found["mac"], found["source"] or "0.0.0.0")


def _read_wireless(text: str, arguments: str) -> Test:
    """Return a ``wireless`` test, which has pairs of words and ``open`` or ``closed``.

    If there are several, the first ``essid`` and ``mac`` count, and the last ``open`` or ``closed``.
    """
    essid = mac = security = ignored = ""
    words = iter(_split_wireless(arguments))
    for word in words:
        if word in ("open", "closed"):
            security = word
            continue
        value = next(words, "")
        if not value:
            ignored = word
        elif word == "essid":
            essid = essid or value
        elif word == "mac":
            mac = mac or MAC.read(_fill_mac(value))
            if not mac:
                raise ValueError(f'expected {MAC.expected} after mac, not "{value}"')
        # as guessnet: ignore an unknown pair
    if not essid and not mac and not security:
        raise ValueError("expected essid or mac, and its value, or open or closed, after wireless")
    return Test("wireless", text, mac=mac, essid=essid, security=security, ignored=ignored)


def _split_wireless(text: str) -> list[str]:
    """Return the words as guessnet split them: the matches of ``[^" \t][^ \t]+|"[^"]+"``.

    So guessnet ignored words of a single character without quotes; here they are names after essid.
    """
    words: list[str] = []
    offset = 0
    while offset < len(text):
        if text[offset] == '"' and (end := text.find('"', offset + 2)) > 0 and '"' not in text[offset + 1:end]:
            words.append(text[offset + 1:end])
            offset = end + 1
        elif text[offset] in '" \t':
            offset += 1
        else:
            end = offset + 1
            while end < len(text) and text[end] not in " \t":
                end += 1
            if end > offset + 1 or words[-1:] == ["essid"]:
                words.append(text[offset:end])
            offset = end
    return words


def _fill_mac(mac: str) -> str:
    """Return a MAC address with two digits in each part, as ether_aton(3) reads 52:54:0:a:0:1."""
    return ":".join(part.zfill(2) for part in mac.split(":"))


def _find_program(name: str) -> bool:
    from netconf_hooks.system.programs import ENVIRONMENT

    return any(os.access(f"{directory}/{name}", os.X_OK) for directory in ENVIRONMENT["PATH"].split(":"))
