"""dhcpcd's leases: files with DHCP messages as they were received (dhcpcd(8), FILES).

They contain values that dhcpcd does not pass on: several domains separated by commas, as some Windows servers send
them, and options that dhcpcd has no name for.  They come from the network and may contain any byte.
"""

from __future__ import annotations

import os

from netconf_hooks.record import Record
from netconf_hooks.system.addresses import format_address
from netconf_hooks.system.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

DIRECTORY = "/var/lib/dhcpcd"

_COOKIE = bytes((99, 130, 83, 99))  # where a DHCPv4 message's options begin
_NON_TEMPORARY, _ADDRESS = 3, 5  # RFC 8415 21.4, 21.6


class Message(Record):
    """A DHCP message.  version: of IP; addresses: the leased ones; options: their values by number."""

    __slots__ = ("version", "addresses", "options")

    def __init__(self, version: int, addresses: tuple[str, ...], options: dict[int, bytes]) -> None:
        self.version = version
        self.addresses = addresses
        self.options = options


def list_leases(device: str, addresses: Collection[str], directory: str = DIRECTORY) -> list[Message]:
    """Return the leases that a device holds: those without an address, and those whose address it has.

    addresses: the device's, as inet_ntop(3) writes them.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    found = []
    for name in names:
        # DEVICE.lease, or for a wireless network DEVICE-SSID.lease.
        start, dot, end = name.rpartition(".")
        if not dot or end not in ("lease", "lease6") or not (start == device or start.startswith(f"{device}-")):
            continue
        try:
            data = read_file(f"{directory}/{name}")
        except OSError:
            continue
        message = read_message6(data) if end == "lease6" else read_message(data)
        if message.options and (not message.addresses or not set(message.addresses).isdisjoint(addresses)):
            found.append(message)
    return found


def read_message(data: bytes) -> Message:
    """Parse a DHCPv4 message (RFC 2131 2).  If `data` is not one, the result has no options."""
    if data[236:240] != _COOKIE:
        return Message(4, (), {})
    options: dict[int, bytes] = {}
    at = 240
    while at + 1 < len(data) and data[at] != 255:
        code, length = data[at], data[at + 1]
        if code == 0:
            at += 1
            continue
        # A long option is split (RFC 3396).
        options[code] = options.get(code, b"") + data[at + 2:at + 2 + length]
        at += 2 + length
    return Message(4, (format_address(data[16:20]),), options)


def read_message6(data: bytes) -> Message:
    """Parse a DHCPv6 message (RFC 8415 8).  If `data` is not one, the result has no options."""
    options: dict[int, bytes] = {}
    addresses = []
    for code, value in _split_options6(data[4:]):
        options[code] = value
        if code == _NON_TEMPORARY:  # 12 octets, then options
            inside = _split_options6(value[12:])
            addresses += [inner[:16] for kind, inner in inside if kind == _ADDRESS and len(inner) >= 24]
    return Message(6, tuple(map(format_address, addresses)), options)


def _split_options6(data: bytes) -> list[tuple[int, bytes]]:
    options = []
    while len(data) >= 4:
        length = int.from_bytes(data[2:4], "big")
        options.append((int.from_bytes(data[:2], "big"), data[4:4 + length]))
        data = data[4 + length:]
    return options
