"""IKE and ESP: where the packets of an IPsec connection go, whichever daemon it belongs to.

IKE is UDP from port 500 to port 500.  Where there is a NAT, and with MOBIKE always, it floats to port 4500 at both ends
(RFC 7296 section 2.23, RFC 4555 section 3.3), and ESP goes there with it, in UDP (RFC 3948); else ESP goes by itself.
What leaves from 4500 is the daemon's, or the kernel's, and then it belongs to whoever's packet it carries: so all of it
is told by its source port.

**What does not pass**: the peer's other addresses, to which MOBIKE may move (RFC 4555) and an IKEv2 gateway may
redirect (RFC 5685), since only the gateway names them; a gateway behind a NAT that answers from other ports; AH, which
does not encrypt.
"""

from __future__ import annotations

from netconf_hooks.observe.netlink import Netlink, NetlinkError
from netconf_hooks.record import Record
from netconf_hooks.tunnels import Endpoint, TunnelError
from netconf_hooks.tunnels.destination import read_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

IKE_PORT = 500
NAT_PORT = 4500

_FAMILIES = {"%any4": 4, "%any6": 6, "0.0.0.0": 4, "::": 6}
_ANY = ("%any", *_FAMILIES)
"""Whoever comes, or any address of ours: host_create_from_string() of strongSwan's host.c."""


class Flow(Record):
    """Packets that go to a peer, as the fields of `Endpoint` tell them."""

    __slots__ = ("protocol", "port", "source_port", "uids")

    def __init__(self, protocol: str, port: int = 0, source_port: int = 0, uids: tuple[int, ...] = ()) -> None:
        self.protocol = protocol
        self.port = port
        self.source_port = source_port
        self.uids = uids


ESP = Flow("esp")


class Peer(Record):
    """Whom a connection goes to.

    place: where that is configured, in words; hosts: addresses and names; version: 4 or 6 where nothing else is spoken,
    else 0; local_port, remote_port: of IKE, 0 for the daemon's own.
    """

    __slots__ = ("place", "hosts", "version", "local_port", "remote_port")

    def __init__(
        self, place: str, hosts: tuple[str, ...], version: int = 0, local_port: int = 0, remote_port: int = 0
    ) -> None:
        self.place = place
        self.hosts = hosts
        self.version = version
        self.local_port = local_port
        self.remote_port = remote_port


def make_endpoints(peer: Peer, flows: Iterable[Flow]) -> tuple[Endpoint, ...]:
    """Return an endpoint for each of the peer's hosts and each flow, none twice."""
    kinds = tuple(dict.fromkeys(flows))
    return tuple(
        Endpoint(
            host,
            flow.protocol,
            flow.port,
            version=find_version(host) or peer.version,
            uids=flow.uids,
            source_port=flow.source_port,
        )
        for host in dict.fromkeys(peer.hosts)
        for flow in kinds
    )


def read_hosts(option: str, value: str) -> tuple[str, ...]:
    """Return the addresses and names in a list with commas, as ``remote_addrs`` of swanctl.conf(5) takes it.

    A daemon that begins goes to one of those; what the list has beside them, ``%any``, networks and ranges, is whom it
    lets come.  Raises `TunnelError` where there are none, or one is neither address nor name; option: how it is called.
    """
    hosts = []
    for word in _split(value):
        if word in _ANY or _is_range(word):
            continue
        try:
            host, _ = read_host(word)
        except TunnelError as error:
            raise TunnelError(f"{option}: {error}") from None
        if host not in _ANY:
            hosts.append(host)
    if not hosts:
        raise TunnelError(f'{option} "{value}" names no address that could be let through')
    return tuple(hosts)


def find_family(value: str) -> int:
    """Return 4 or 6 where all of our own addresses in a list are of one family, else 0 (ike_cfg_get_family() of
    ike_cfg.c)."""
    versions = {_FAMILIES.get(word, 0) or find_version(word) for word in _split(value)}
    return versions.pop() if len(versions) == 1 else 0


def read_port(option: str, value: str) -> int:
    """Return a port; 0 for that and for no value.  Raises `TunnelError`."""
    if not value:
        return 0
    if not value.isascii() or not value.isdecimal() or len(value) > 5 or int(value) > 0xFFFF:
        raise TunnelError(f'{option}: "{value}" is no port')
    return int(value)


def find_version(host: str) -> int:
    """Return 4 or 6 for an address, 0 for a name and for what is neither."""
    try:
        return read_host(host)[1]
    except TunnelError:
        return 0


def is_own(address: str) -> bool:
    """Whether an address is one of this machine's, now.

    Don't try to bind a socket to it: with net.ipv4.ip_nonlocal_bind=1, and while no interface has an address, that
    works for any address.
    """
    if not find_version(address) or address in _ANY:
        return False
    try:
        with Netlink() as netlink:
            return netlink.is_own(read_host(address)[0])
    except NetlinkError:
        return False


def refuse_ah(option: str, value: str) -> None:
    """Raise `TunnelError` for a connection that asks for AH: it does not encrypt, and no guard lets it through."""
    if value:
        raise TunnelError(f'{option} "{value}": AH does not encrypt, so it is not let through')


def _split(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


def _is_range(word: str) -> bool:
    """Whether this is a network or a range: make_subnet() and make_range() of ike_cfg.c."""
    address, slash, length = word.partition("/")
    if slash:
        return bool(find_version(address)) and length.isascii() and length.isdecimal()
    first, dash, last = word.partition("-")
    return bool(dash and find_version(first) and find_version(last))
