"""IP addresses and prefixes as text, as inet_ntop(3) writes them, and ``HOST:PORT``.

The C library's functions do the work: importing the module ipaddress takes 15 ms.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton


def pack_address(text: str) -> bytes:
    """Return the 4 or 16 octets of an address; none for anything else, including an address with a scope."""
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):  # ValueError: a NUL or a surrogate in it
        return b""


def format_address(packed: bytes) -> str:
    """Return an address as inet_ntop(3) writes it.  packed: its 4 or 16 octets."""
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def read_address(text: str) -> str:
    """Return an address in the form of inet_ntop(3); empty for anything else."""
    packed = pack_address(text)
    return format_address(packed) if packed else ""


def read_prefix(text: str) -> tuple[bytes, int] | None:
    """Return the octets and the prefix length of ``ADDRESS/LENGTH``; of an address alone, the full length.

    Bits beyond the prefix are kept.  None for anything else.
    """
    address, slash, digits = text.partition("/")
    packed = pack_address(address)
    length = bits = len(packed) * 8
    if slash:
        length = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 4 else bits + 1
    return (packed, length) if packed and length <= bits else None


def parse_network(text: str) -> tuple[bytes, int] | None:
    """Return the octets and the prefix length of ``ADDRESS/LENGTH``; None for anything else, host bits included."""
    prefix = read_prefix(text) if "/" in text else None
    if prefix is None or int.from_bytes(prefix[0], "big") % (1 << (8 * len(prefix[0]) - prefix[1])):
        return None
    return prefix


def share_prefix(one: str, other: str, length: int) -> bool:
    """Whether the first `length` bits of two addresses are the same; all bits if they have fewer.

    False for different families, and for text that is no address.
    """
    first, second = pack_address(one), pack_address(other)
    if not first or len(first) != len(second):
        return False
    rest = max(0, len(first) * 8 - length)
    return int.from_bytes(first, "big") >> rest == int.from_bytes(second, "big") >> rest


def is_link_local(address: str) -> bool:
    """Whether an address is link-local and so identifies no network (fe80::/10, RFC 4291 2.5.6; 169.254/16, RFC 3927).

    address: as inet_ntop(3) writes it.
    """
    return address.startswith(("169.254.", "fe8", "fe9", "fea", "feb"))


def split_host_port(text: str) -> tuple[str, str] | None:
    """Split ``HOST:PORT`` or ``[IPV6]:PORT``; None if either is missing.  Neither part is checked."""
    host, colon, port = text.rpartition(":")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket:
            return None
    return (host, port) if host and colon == ":" and port else None
