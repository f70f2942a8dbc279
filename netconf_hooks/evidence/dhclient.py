"""The leases that dhclient holds on a link, dhclient.leases(5).

A lease may be outdated: a client that is killed leaves it behind, and dhclient crashes when it should release a DHCPv6
lease (isc-dhcp 4.4.3 in Debian 12).  So a lease counts only *while the link has its address*, and while dhclient runs
for the link or the lease has not expired.  The expiry time alone is not enough: a machine without a battery for its
clock boots with a wrong time, and sets it later.

The network has sent the values in a lease, so they may contain any byte.
"""

from __future__ import annotations

import os
import time

from netconf_hooks.record import Record
from netconf_hooks.system.addresses import is_link_local, read_address
from netconf_hooks.system.files import check_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

LEASES = "/var/lib/dhcp"
"""dhclient's directory of leases."""

LIMIT = 1 << 20
"""Bytes to read from the end of a record: leases are appended, and the last one counts."""

MOST = 64
"""How many values of a kind (domains, resolvers, routers) are read from one record; the rest is ignored."""

LONGEST_LINE = 16384
"""Characters to read of a statement of dhclient; a DHCP option is far shorter, even if it is split (RFC 3396)."""

# What dhclient 4.4.3 calls the options 114 and 103 of RFC 8910, and how admins define 114.
_PORTALS = ("default-url", "v4-captive-portal", "captive-portal", "dhcp6.v6-captive-portal")

_OCTAL = frozenset("01234567")

# From the start of 1970 to the start of each month, in days, without a leap day.
_DAYS_BEFORE_MONTH = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)


class Lease(Record):
    """One lease of dhclient.

    interface: its interface.  addresses: the leased addresses, as inet_ntop(3) writes them.  expires: seconds since the
    epoch, 0 if that can't be read.  routers: the valid ones, at most `MOST`, as inet_ntop(3) writes them, in the
    network's order of preference (RFC 2132 3.5); IPv4 only, since DHCPv6 has none.  dhcp_server: which server granted
    it, IPv4, empty if that can't be read.  domains, servers: the words at the place of domains and resolvers, *not
    checked*; `dns` checks them.  released: whether dhclient has released it.
    portals: the URIs of captive portals, *not checked*.
    """

    __slots__ = (
        "interface", "addresses", "expires", "routers", "domains", "servers", "dhcp_server", "released", "portals",
    )  # fmt: skip

    def __init__(
        self,
        interface: str,
        addresses: tuple[str, ...],
        expires: float,
        routers: tuple[str, ...],
        domains: tuple[str, ...],
        servers: tuple[str, ...],
        dhcp_server: str = "",
        released: bool = False,
        portals: tuple[str, ...] = (),
    ) -> None:
        self.portals = portals
        self.released = released
        self.interface = interface
        self.dhcp_server = dhcp_server
        self.addresses = addresses
        self.expires = expires
        self.routers = routers
        self.domains = domains
        self.servers = servers


class HeldLeases(Record):
    """What `find_held_leases` found.

    leases: those that count.  reasons: why others don't count.  unreadable: files that can't be read, and why.  Both
    are texts for the admin.
    """

    __slots__ = ("leases", "reasons", "unreadable")

    def __init__(self, leases: tuple[Lease, ...], reasons: tuple[str, ...], unreadable: tuple[str, ...]) -> None:
        self.leases = leases
        self.reasons = reasons
        self.unreadable = unreadable


def find_held_leases(
    device: str, list_addresses: Callable[[], Collection[str]], directory: str, run: str = "/run", proc: str = "/proc"
) -> HeldLeases:
    """Return the leases that dhclient holds on this device now: the device has their address, and dhclient runs for it
    or they have not expired.

    list_addresses: returns the addresses that the device has, as inet_ntop(3) writes them; called only if there is
    a lease.  directory: where the leases are, usually `LEASES`.  run, proc: where pid files and processes are.

    With ifupdown each interface has its own files; dhclient by itself, and with ifupdown-ng, has one for all.
    """
    leases: list[Lease] = []
    reasons: list[str] = []
    unreadable: list[str] = []
    for name in (f"dhclient.{device}.leases", f"dhclient6.{device}.leases", "dhclient.leases", "dhclient6.leases"):
        path = f"{directory}/{name}"
        try:
            text = read_end(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unreadable.append(f"{path}: {error.strerror or error}")
            continue
        lost = ""
        for lease in split_leases(text):
            if lease.interface != device:
                continue
            if not any(address in list_addresses() for address in lease.addresses):
                lost = lost or f"{path}: {device} does not have its address"
                continue
            # Of the leases for the device's addresses the last one counts: when dhclient releases a lease, it appends
            # it again as expired.
            lost = ""
            if lease.expires > time.time() or not lease.released and _runs_dhclient(device, name, run, proc):
                leases.append(lease)
            else:
                lost = f"{path}: the last lease is over"
            break
        if lost:
            reasons.append(lost)
    return HeldLeases(tuple(leases), tuple(reasons), tuple(unreadable))


def _runs_dhclient(device: str, name: str, run: str, proc: str) -> bool:
    """Whether dhclient runs for a device, by its pid file, interfaces(5).  name: of the file with its leases."""
    program = name.partition(".")[0]
    for file in (f"{program}.{device}.pid", f"{program}.pid"):
        try:
            pid = int(read_end(f"{run}/{file}"))
            if read_end(f"{proc}/{pid}/comm").strip() == "dhclient":
                return True
        except (OSError, ValueError):
            pass  # it does not run
    return False


def is_leased_ipv4(address: str) -> bool:
    """Whether a DHCP server may have given an address: IPv4, and not one that hosts give themselves (RFC 3927)."""
    return ":" not in address and not is_link_local(address)


def find_dhcp_servers(device: str, directory: str = LEASES, run: str = "/run") -> tuple[str, ...]:
    """Return the DHCP servers whose leases a device holds, IPv4; the client renews and releases leases with them.

    From dhclient's leases; from dhcpcd, if it runs for this device, by asking it (dhcpcd(8), -U).
    """
    from netconf_hooks.evidence.address import list_addresses

    held = find_held_leases(device, lambda: list_addresses(device), directory)
    servers = [lease.dhcp_server for lease in held.leases if lease.dhcp_server]
    runs = any(os.path.exists(f"{run}/dhcpcd/{device}{kind}.pid") for kind in ("", "-4"))
    # dhcpcd must not be asked without a lease: `dns._Evidence.ask_dhcpcd`.
    if not servers and runs and any(map(is_leased_ipv4, list_addresses(device))):
        from netconf_hooks.system import programs

        try:
            dump = programs.run(["dhcpcd", "-4", "-U", device], 1.0).output
        except programs.ProgramError:
            return ()
        for line in dump.splitlines():
            name, _, value = line.partition("=")
            if name == "dhcp_server_identifier":
                servers.append(read_address(value.strip("'\"")))
    return tuple(dict.fromkeys(server for server in servers if server and ":" not in server))


def read_end(path: str) -> str:
    """Return the last `LIMIT` bytes of a regular file; what is not ASCII becomes U+FFFD.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        check_regular(descriptor, path)
        size = os.fstat(descriptor).st_size
        if size > LIMIT:
            os.lseek(descriptor, size - LIMIT, os.SEEK_SET)
        data = b""
        # Files in /proc and /sys report no usable size.
        while len(data) < LIMIT and (piece := os.read(descriptor, LIMIT - len(data))):
            data += piece
    finally:
        os.close(descriptor)
    return data.decode("ascii", "replace")


def split_leases(text: str) -> Iterator[Lease]:
    """Yield the leases of dhclient's file, dhclient.leases(5), the last one first; without those that can't be read.

    A lease of DHCPv6 (``lease6``) expires when the last of its addresses does.
    """
    text = f"\n{text}"
    end = len(text)
    while (start := text.rfind("\nlease", 0, end)) >= 0:
        head, brace, body = text[start + 1:end].partition("{")
        end = start
        body, closing, _ = body.partition("\n}")
        # A lease without its last line is being written at this moment, or was cut off by a full disk.
        if brace and closing and head.strip() in ("lease", "lease6"):
            yield _parse_lease(body)


def _parse_lease(body: str) -> Lease:
    """Return the lease that these statements describe; dhclient writes one per line."""
    interface = address = dhcp_server = ""
    expires = starts = 0.0
    addresses: list[str] = []
    domains: list[str] = []
    servers: list[str] = []
    routers: dict[str, None] = {}
    portals: list[str] = []
    released = False
    for line in body.split("\n"):
        words = line.split(None, 2)
        if not words or len(line) > LONGEST_LINE:
            continue
        word = words[0]
        if word == "option":
            if len(words) == 3 and words[1] in ("domain-name", "domain-search", "dhcp6.domain-search"):
                domains += split_values(words[2])
            elif len(words) == 3 and words[1] in ("domain-name-servers", "dhcp6.name-servers"):
                servers += split_values(words[2])
            elif len(words) == 3 and words[1] == "dhcp-server-identifier":
                dhcp_server = read_address("".join(split_values(words[2])[:1]))
            elif len(words) == 3 and words[1] in _PORTALS:
                portals += split_values(words[2])[:1]
            elif len(words) == 3 and words[1] == "routers":
                routers.update(dict.fromkeys(map(read_address, split_values(words[2]))))
        elif word == "interface":
            interface = "".join(split_values(line.partition("interface")[2])[:1])
        elif word == "fixed-address" or word == "iaaddr":
            address = read_address(words[1].rstrip(";")) if len(words) > 1 else ""
            if address:
                addresses.append(address)
        elif word == "expire":
            expires = parse_time(line.partition("expire")[2])
        elif word == "starts" and len(words) > 1:
            starts = _read_seconds(words[1].rstrip(";"))
        elif word == "max-life" and len(words) > 1:
            life = _read_seconds(words[1].rstrip(";"))
            # RFC 8415 7.7: all bits set means forever.
            expires = max(expires, float("inf") if life >= 0xFFFFFFFF else starts + life)
        elif word == "released;":
            released = True
    if released:
        expires = 0.0
    valid = [router for router in routers if router and ":" not in router]
    if ":" in dhcp_server:
        dhcp_server = ""
    return Lease(
        interface, tuple(addresses), expires, tuple(valid[:MOST]), tuple(domains), tuple(servers), dhcp_server,
        released, tuple(portals),
    )  # fmt: skip


def split_values(text: str) -> list[str]:
    """Return the values of a statement that ends with a semicolon: ``"a.example.", "b.example.";``, ``192.0.2.1;``.

    Strings are in double quotes, with ``\\"``, ``\\\\`` and ``\\ooo`` (octal).  Empty if it is cut off or malformed.
    """
    values: list[str] = []
    value = ""
    at, size = 0, len(text)
    while at < size:
        char = text[at]
        if char == ";":
            return values + [value] if value else values
        if char in ", \t\r":
            if value:
                values.append(value)
                value = ""
            at += 1
        elif char == '"':
            value, at = _read_string(text, at + 1)
            if not at:
                return []
            values.append(value)
            value = ""
        else:
            value += char
            at += 1
    return []


def _read_string(text: str, at: int) -> tuple[str, int]:
    """Return the quoted string whose first character is at `at`, and the position of its end; 0 if the closing quote is
    missing."""
    value = ""
    size = len(text)
    while at < size:
        char = text[at]
        if char == '"':
            return value, at + 1
        if char == "\\":
            digits = text[at + 1:at + 4]
            if len(digits) == 3 and _OCTAL.issuperset(digits):
                value += chr(int(digits, 8))
                at += 4
                continue
            at += 1
            char = text[at:at + 1]
        value += char
        at += 1
    return "", 0


def parse_time(text: str) -> float:
    """Return when a lease expires, seconds since the epoch; 0 if that can't be read.

    Formats of dhclient.leases(5): ``1 2026/11/23 11:45:00;`` (weekday, UTC), ``never;``, ``epoch 1795430700; # ...``
    (``db-time-format local``, dhclient.conf(5)).
    """
    words = text.partition(";")[0].split()
    if words == ["never"]:
        return float("inf")
    if len(words) == 2 and words[0] == "epoch":
        return _read_seconds(words[1])
    if len(words) != 3:
        return 0.0
    date = _read_numbers(words[1], "/")
    clock = _read_numbers(words[2], ":")
    if len(date) != 3 or len(clock) != 3:
        return 0.0
    year, month, day = date
    if not (1970 <= year <= 9999 and 1 <= month <= 12 and 1 <= day <= 31):
        return 0.0
    days = 365 * (year - 1970) + _DAYS_BEFORE_MONTH[month - 1] + day - 1
    # Leap days so far: those of earlier years, and this year's after February (Gregorian calendar).
    full = year if month > 2 else year - 1
    days += full // 4 - full // 100 + full // 400 - 477
    return float(86400 * days + 3600 * clock[0] + 60 * clock[1] + clock[2])


def _read_numbers(text: str, separator: str) -> list[int]:
    """Return the numbers of ``2026/11/23`` or ``11:45:00``; none if it contains anything else."""
    parts = text.split(separator)
    if not all(part.isascii() and part.isdecimal() and len(part) < 5 for part in parts):
        return []
    return [int(part) for part in parts]


def _read_seconds(text: str) -> float:
    """Return a number of seconds; 0 if it is not a number."""
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0.0
