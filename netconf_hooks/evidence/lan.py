"""Which addresses count as a link's local network: its own prefixes, within limits that the network can't change.

A network may give a link any address and any prefix.  So a prefix only counts if a LAN can have it: it is private or
link-scope, and not larger than 65536 IPv4 addresses, or than one IPv6 subnet.
"""

from __future__ import annotations

from netconf_hooks.system.addresses import format_address, pack_address, share_prefix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# RFC 1918, RFC 3927; RFC 4193, RFC 4291 2.5.6.
PRIVATE = (
    ("10.0.0.0", 8), ("172.16.0.0", 12), ("192.168.0.0", 16), ("169.254.0.0", 16), ("fc00::", 7), ("fe80::", 10),
)  # fmt: skip

SHORTEST = {4: 16, 6: 64}
"""The length of the largest prefix of a LAN, by version."""

MOST = 32
"""How many prefixes of a link count: routers may advertise any number."""


def is_within_bounds(address: str, length: int) -> bool:
    """Whether a prefix is not too large to be a LAN's."""
    return length >= SHORTEST[6 if ":" in address else 4]


def is_private(address: str) -> bool:
    """Whether an address is private or link-scope."""
    return any(share_prefix(base, address, length) for base, length in PRIVATE)


def find_lan(networks: Sequence[tuple[str, int]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the prefixes of a link that are its LAN, ``ADDRESS/LENGTH``, and messages about those that are not.

    networks: the link's own addresses, each with the length of its prefix.
    """
    found: dict[str, None] = {}
    refused = []
    for address, length in networks:
        if not is_private(address):
            refused.append(f"{address}/{length} is no private address")
        elif not is_within_bounds(address, length):
            shortest = SHORTEST[6 if ":" in address else 4]
            refused.append(f"{address}/{length} is larger than a /{shortest}")
        else:
            found[_mask(address, length)] = None
    return tuple(found)[:MOST], tuple(refused)


def is_local(address: str, networks: Sequence[tuple[str, int]]) -> bool:
    """Whether a server's address is private or link-scope, or in one of the link's own prefixes that is not too large.

    networks: as for `find_lan`.
    """
    own = [(base, length) for base, length in networks if is_within_bounds(base, length)]
    return is_private(address) or any(share_prefix(base, address, length) for base, length in own)


def _mask(address: str, length: int) -> str:
    """Return a prefix without the bits of the host."""
    packed = pack_address(address)
    rest = len(packed) * 8 - length
    number = int.from_bytes(packed, "big") >> rest << rest
    return f"{format_address(number.to_bytes(len(packed), 'big'))}/{length}"
