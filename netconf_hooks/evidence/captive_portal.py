"""The captive portals that a network announces (RFC 8910): the URI that a user has to open.

In DHCPv4 it is option 114, in DHCPv6 option 103, in router advertisements option 37.  Clients ask for the first two
only if they are told to: netconf-hooks(8), portal.  It is read from dhclient's leases, dhcpcd, and the routers.

The network has sent it, so it may contain any byte: what is not a web address is ignored.
"""

from __future__ import annotations

import os
import time

from netconf_hooks.evidence.lease import LEASES, find_held_leases
from netconf_hooks.record import Record
from netconf_hooks.system.addresses import read_address
from netconf_hooks.values import read_host_name, read_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.evidence import Link

# RFC 8910 2.1: what fits into an option of DHCPv4.
_LONGEST = 255
MOST = 4

_PORTS = {"http": 80, "https": 443}
# RFC 3986 2: what a URI may contain, without what a terminal or a shell might not show as it is.
_CHARACTERS = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?#[]@!$&*+,;=%()"
)  # fmt: skip


class Portal(Record):
    """A captive portal.  uri: as announced; host: its name or address; port: of TCP."""

    __slots__ = ("uri", "host", "port")

    def __init__(self, uri: str, host: str, port: int) -> None:
        self.uri = uri
        self.host = host
        self.port = port


def read_portal(uri: str) -> Portal | None:
    """Return the portal of a URI; None if it is no http or https URI of RFC 3986.

    ``urn:ietf:params:capport:unrestricted`` says that there is no portal (RFC 8910 2), so it is none, either.
    """
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS or len(uri) > _LONGEST or not _CHARACTERS.issuperset(uri):
        return None
    authority = rest
    for end in "/?#":
        authority = authority.partition(end)[0]
    if "@" in authority:  # a user's name, with which an address can be made to look like another
        return None
    if authority.startswith("["):
        address, bracket, digits = authority[1:].partition("]")
        host = read_address(address) if ":" in address else ""
        if not bracket or digits and not digits.startswith(":"):
            return None
        digits = digits[1:]
    else:
        name, _, digits = authority.partition(":")
        host = read_host_name(name)
        if host.rpartition(".")[2].isdecimal():
            host = read_address(name)
    port = read_port(digits) if digits else _PORTS[scheme]
    return Portal(uri, host, port) if host and port else None


def find_portals(link: Link, deadline: float, leases: str = LEASES, run: str = "/run") -> tuple[Portal, ...]:
    """Return the portals that a link's network announces, at most `MOST`.

    deadline: a time.monotonic(), until which dhcpcd and the routers may answer.
    """
    from netconf_hooks.evidence.address import list_addresses

    held = find_held_leases(link.device, lambda: list_addresses(link.device), leases, run)
    uris = [uri for lease in held.leases for uri in lease.portals]
    if any(os.path.exists(f"{run}/dhcpcd/{link.device}{kind}.pid") for kind in ("", "-4", "-6")):
        uris += _ask_dhcpcd(link.device, deadline)
    uris += _ask_routers(link, deadline)
    found = (read_portal(uri) for uri in dict.fromkeys(uris))
    return tuple(portal for portal in found if portal)[:MOST]


def _ask_dhcpcd(device: str, deadline: float) -> list[str]:
    from netconf_hooks.evidence.dns import parse_settings
    from netconf_hooks.system import programs

    uris = []
    for family in ("-4", "-6"):
        left = min(1.0, deadline - time.monotonic())
        try:
            dump = programs.run(["dhcpcd", family, "-U", device], left).output if left > 0 else ""
        except programs.ProgramError:
            continue
        for key, value in parse_settings(dump).items():
            if key.endswith("captive_portal_uri"):
                uris.append(value.strip("'"))
    return uris


def _ask_routers(link: Link, deadline: float) -> tuple[str, ...]:
    from netconf_hooks.evidence.advertisement import ask_routers
    from netconf_hooks.evidence.dns import find_advertising_routers

    routers, mac = find_advertising_routers(link.index)
    try:
        return ask_routers(link.device, link.index, mac, routers, deadline).portals if routers else ()
    except OSError:
        return ()
