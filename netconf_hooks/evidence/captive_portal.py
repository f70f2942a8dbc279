"""The captive portals that a network announces (RFC 8910): the URI of the page where a user logs in.

It is option 114 of DHCPv4, option 103 of DHCPv6, and option 37 of router advertisements.  DHCP clients request it only
if they are configured to: netconf-hooks(8), portal.  The URI is read from dhclient's leases, from dhcpcd's, and from
the routers.

The URI comes from the network and may contain any byte: if it is not a web address, it is refused with a reason.
"""

from __future__ import annotations

import os

from netconf_hooks.evidence.dhclient import LEASES, find_held_leases
from netconf_hooks.evidence.dhcpcd import DIRECTORY as DHCPCD, list_leases
from netconf_hooks.observation import PortalNotice
from netconf_hooks.record import Record
from netconf_hooks.stanzas.values import read_host_name, read_port
from netconf_hooks.system.addresses import read_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from netconf_hooks.evidence import Link

# Octets: what fits into an option of DHCPv4 (RFC 8910 2.1).  And how many portals are used.
LONGEST = 255
MOST = 4

UNRESTRICTED = "urn:ietf:params:capport:unrestricted"
"""A network without a captive portal may announce this (RFC 8910 2)."""

_PORTS = {"http": 80, "https": 443}
# The characters that a URI may contain (RFC 3986 2), except those that are special in a shell's quotes.
_CHARACTERS = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?#[]@!$&*+,;=%()"
)  # fmt: skip
_OPTIONS = {4: 114, 6: 103}
# dhcpcd's pid file for an interface ends with "-4" or "-6" if it is started for one family (dhcpcd(8), FILES).
_KINDS = ("", "-4", "-6")
# How many characters of a refused URI are shown.
_SHOWN = 60


class Portal(Record):
    """A captive portal.  uri: as announced; host: its name or address; port: of TCP."""

    __slots__ = ("uri", "host", "port")

    def __init__(self, uri: str, host: str, port: int) -> None:
        self.uri = uri
        self.host = host
        self.port = port


def read_portal(uri: str, longest: int = LONGEST, characters: frozenset[str] = _CHARACTERS) -> Portal:
    """Parse an http or https URI (RFC 3986).  Raises ValueError, which says why it can't be used.

    longest: how many octets it may have; characters: which characters it may contain.
    """
    if len(uri) > longest:
        raise ValueError(f"it is longer than {longest} bytes")
    if not characters.issuperset(uri):
        raise ValueError("it contains characters that a web address can't have")
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS:
        raise ValueError("it begins with neither http:// nor https://")
    authority = rest
    for end in "/?#":
        authority = authority.partition(end)[0]
    if "@" in authority:
        raise ValueError("it contains a user's name, which can make an address look like another one")
    host, digits = _split_authority(authority)
    if not host:
        raise ValueError("it names no host")
    port = read_port(digits) if digits else _PORTS[scheme]
    if not port:
        raise ValueError("its port is no number between 1 and 65535")
    return Portal(uri, host, port)


def _split_authority(authority: str) -> tuple[str, str]:
    """Return host and port of ``HOST[:PORT]``; the host is empty if it can't be another machine's."""
    if authority.startswith("["):
        address, bracket, digits = authority[1:].partition("]")
        host = read_address(address) if ":" in address else ""
        if not bracket or digits and not digits.startswith(":"):
            return "", ""
        digits = digits[1:]
    else:
        name, _, digits = authority.partition(":")
        host = read_host_name(name)
        if host.rpartition(".")[2].isdecimal():
            host = read_address(name)
    if ":" in host or host.rpartition(".")[2].isdecimal():
        from netconf_hooks.evidence.names import is_usable

        host = host if is_usable(host) else ""
    return host, digits


def describe_refusal(uri: str, reason: str) -> str:
    """Return a line of printable characters that says what was announced, and why it is not used."""
    shown = ascii(uri[:_SHOWN])[1:-1]
    return f'"{shown}{"..." if len(uri) > _SHOWN else ""}" is announced as a captive portal, but {reason}'


def find_portals(
    link: Link, deadline: float, leases: str = LEASES, run: str = "/run", ask: bool = True, dhcpcd: str = DHCPCD
) -> tuple[tuple[Portal, ...], tuple[str, ...]]:
    """Return the portals that a link's network announces, at most `MOST`, and messages about those that are refused.

    deadline: wait for the routers until this time.monotonic().  ask: whether to ask them at all.
    """
    from netconf_hooks.evidence.address import list_addresses

    held = find_held_leases(link.device, lambda: list_addresses(link.device), leases, run)
    uris = [uri for lease in held.leases for uri in lease.portals]
    pids = ("pid", *(f"{link.device}{kind}.pid" for kind in _KINDS))
    if any(os.path.exists(f"{run}/dhcpcd/{name}") for name in pids):
        uris += _read_dhcpcd(link.device, dhcpcd, list_addresses(link.device))
    if ask:
        uris += _ask_routers(link, deadline)
    found: list[Portal] = []
    refused: list[str] = []
    for uri in dict.fromkeys(each.rstrip("\0") for each in uris):
        if len(found) == MOST or len(refused) == MOST:
            break
        try:
            found.append(read_portal(uri))
        except ValueError as error:
            refused.append(
                "the network says that it has no captive portal" if uri == UNRESTRICTED
                else describe_refusal(uri, str(error))
            )  # fmt: skip
    return tuple(found), tuple(refused)


def look_for_portal(link: Link, deadline: float, ask: bool) -> PortalNotice:
    """Return the captive portal that a link's network announces, for the observation.

    deadline, ask: as for `find_portals`.
    """
    portals, refused = find_portals(link, deadline, ask=ask)
    if not portals:
        return PortalNotice(problem="; ".join(refused))
    from netconf_hooks.evidence.router import observe

    macs = observe(("gateway-mac",), link, deadline)["gateway-mac"].values
    return PortalNotice(tuple(portal.uri for portal in portals), "; ".join(refused), macs)


def _read_dhcpcd(device: str, directory: str, addresses: Collection[str]) -> list[str]:
    """Return the URIs in dhcpcd's leases that a device holds."""
    found = (
        message.options.get(_OPTIONS[message.version], b"") for message in list_leases(device, addresses, directory)
    )
    return [uri.decode("ascii", "replace") for uri in found if uri]


def _ask_routers(link: Link, deadline: float) -> tuple[str, ...]:
    from netconf_hooks.evidence.advertisement import ask_routers, recall
    from netconf_hooks.evidence.dns import find_advertising_routers

    if known := recall(link):
        return known.portals
    routers, mac = find_advertising_routers(link.index)
    try:
        return ask_routers(link.device, link.index, mac, routers, deadline).portals if routers else ()
    except OSError:
        return ()
