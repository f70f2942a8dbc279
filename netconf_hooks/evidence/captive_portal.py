"""The captive portals that a network announces (RFC 8910): the URI that a user has to open.

In DHCPv4 it is option 114, in DHCPv6 option 103, in router advertisements option 37.  Clients ask for the first two
only if they are told to: netconf-hooks(8), portal.  It is read from dhclient's leases, dhcpcd, and the routers.

The network has sent it, so it may contain any byte: what is not a web address is refused, and said so.
"""

from __future__ import annotations

import os

from netconf_hooks.evidence.dhcpcd import DIRECTORY as DHCPCD, list_leases
from netconf_hooks.evidence.lease import LEASES, find_held_leases
from netconf_hooks.observation import PortalNotice
from netconf_hooks.record import Record
from netconf_hooks.system.addresses import read_address
from netconf_hooks.values import read_host_name, read_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from netconf_hooks.evidence import Link

# RFC 8910 2.1: what fits into an option of DHCPv4.
LONGEST = 255
MOST = 4

UNRESTRICTED = "urn:ietf:params:capport:unrestricted"
"""What a network without a captive portal may announce (RFC 8910 2)."""

_PORTS = {"http": 80, "https": 443}
# RFC 3986 2: what a URI may contain, without what a terminal or a shell might not show as it is.
_CHARACTERS = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?#[]@!$&*+,;=%()"
)  # fmt: skip
_OPTIONS = {4: 114, 6: 103}
# dhcpcd has a pid file for each interface, for each family if it is started for one (dhcpcd(8), FILES).
_KINDS = ("", "-4", "-6")
# How much of a refused URI is shown.
_SHOWN = 60


class Portal(Record):
    """A captive portal.  uri: as announced; host: its name or address; port: of TCP."""

    __slots__ = ("uri", "host", "port")

    def __init__(self, uri: str, host: str, port: int) -> None:
        self.uri = uri
        self.host = host
        self.port = port


def read_portal(uri: str, longest: int = LONGEST, characters: frozenset[str] = _CHARACTERS) -> Portal:
    """Return the portal of an http or https URI of RFC 3986.  Raises ValueError, which says why it is none.

    longest: octets; characters: what it may contain.
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
    """Return host and port of ``HOST[:PORT]``; the host is empty if there is none that another machine can have."""
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
    """Say what was announced, and why it is not used; at most one line of printable characters."""
    shown = ascii(uri[:_SHOWN])[1:-1]
    return f'"{shown}{"..." if len(uri) > _SHOWN else ""}" is announced as a captive portal, but {reason}'


def find_portals(
    link: Link, deadline: float, leases: str = LEASES, run: str = "/run", ask: bool = True, dhcpcd: str = DHCPCD
) -> tuple[tuple[Portal, ...], tuple[str, ...]]:
    """Return the portals that a link's network announces, at most `MOST`, and why others are refused, in words.

    deadline: a time.monotonic(), until which the routers may answer.  ask: whether to ask them.
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
    """Return what a link's network announces as its captive portal, to be kept with the observation.

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
