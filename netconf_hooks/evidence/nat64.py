"""The prefix by which an IPv6-only network reaches IPv4 hosts (NAT64, RFC 6146), and addresses with this prefix.

The network's name servers publish it as the addresses of a well-known name (RFC 7050), its routers in an option of
their advertisements (PREF64, RFC 8781).  Both can lie, as they can about any other address.
"""

from __future__ import annotations

from netconf_hooks.system.addresses import format_address, pack_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from netconf_hooks.evidence.probes import View

# RFC 7050 2.2, 8: a name that has only these IPv4 addresses.
WELL_KNOWN_NAME = "ipv4only.arpa"
_WELL_KNOWN = (bytes((192, 0, 0, 170)), bytes((192, 0, 0, 171)))

# Where the octets of an IPv4 address are, by the length of the prefix; octet 8 is zero (RFC 6052 2.2).
_PLACES = {
    32: (4, 5, 6, 7),
    40: (5, 6, 7, 9),
    48: (6, 7, 9, 10),
    56: (7, 9, 10, 11),
    64: (9, 10, 11, 12),
    96: (12, 13, 14, 15),
}  # fmt: skip


def is_ipv6_only(networks: Iterable[tuple[str, int]]) -> bool:
    """Whether a link has an IPv6 address that is not link-local, and no IPv4 address but link-local ones.

    networks: as `address.list_networks` returns them.
    """
    from netconf_hooks.system.addresses import is_link_local

    usable = [address for address, _ in networks if not is_link_local(address)]
    return bool(usable) and all(":" in address for address in usable)


def find_prefix(view: View) -> str:
    """Return the link's NAT64 prefix, ``64:ff9b::/96``; empty if neither name servers nor routers announce one."""
    from netconf_hooks.evidence.names import look_up

    for address in look_up((WELL_KNOWN_NAME,), view)[WELL_KNOWN_NAME].addresses:
        if prefix := read_well_known(address):
            return prefix
    return _ask_routers(view)


def _ask_routers(view: View) -> str:
    from netconf_hooks.evidence.advertisement import ask_routers
    from netconf_hooks.evidence.dns import find_advertising_routers

    routers, mac = find_advertising_routers(view.link.index)
    try:
        advertised = ask_routers(view.link.device, view.link.index, mac, routers, view.deadline) if routers else None
    except OSError:
        return ""
    return advertised.nat64[0] if advertised and advertised.nat64 else ""


def read_well_known(address: str) -> str:
    """Return the prefix of an IPv6 address of `WELL_KNOWN_NAME`; empty if it contains none of its IPv4 addresses."""
    packed = pack_address(address)
    if len(packed) != 16:
        return ""
    for length, places in sorted(_PLACES.items(), reverse=True):
        if bytes(packed[place] for place in places) in _WELL_KNOWN and (length == 96 or not packed[8]):
            return f"{format_address(packed[:length // 8] + bytes(16 - length // 8))}/{length}"
    return ""


def synthesise(prefix: str, address: str) -> str:
    """Return the IPv6 address of an IPv4 host behind a NAT64."""
    network, _, length = prefix.partition("/")
    packed = bytearray(pack_address(network))
    for place, octet in zip(_PLACES[int(length)], pack_address(address)):
        packed[place] = octet
    return format_address(bytes(packed))
