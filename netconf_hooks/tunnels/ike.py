"""IKE and ESP: where the packets of an IPsec connection go.  The same for all daemons.

IKE is UDP from port 500 to port 500.  Behind a NAT, and always with MOBIKE, both ends move to port 4500 (RFC 7296
section 2.23, RFC 4555 section 3.3), and ESP is sent there too, in UDP (RFC 3948); otherwise ESP is a protocol of its
own.  Both the daemon and the kernel send packets from port 4500.  A packet of the kernel has the socket of the packet
inside it, so its uid proves nothing, and all of them are matched by source port.

**The guard drops** packets to other addresses of the peer, to which MOBIKE may move (RFC 4555) or an IKEv2 gateway may
redirect (RFC 5685), since only the gateway knows them; packets to a gateway behind a NAT that answers from other ports;
and AH, which does not encrypt.
"""

from __future__ import annotations

from netconf_hooks.record import Record
from netconf_hooks.system.netlink import Netlink, NetlinkError
from netconf_hooks.tunnels import Endpoint, TunnelError
from netconf_hooks.tunnels.destination import read_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

IKE_PORT = 500
NAT_PORT = 4500

_FAMILIES = {"%any4": 4, "%any6": 6, "0.0.0.0": 4, "::": 6}
_ANY = ("%any", *_FAMILIES)
"""Words for any peer, or for any of our own addresses: host_create_from_string() of strongSwan's host.c."""


class Flow(Record):
    """Packets to a peer, as `Endpoint` matches them."""

    __slots__ = ("protocol", "port", "source_port", "uids")

    def __init__(self, protocol: str, port: int = 0, source_port: int = 0, uids: tuple[int, ...] = ()) -> None:
        self.protocol = protocol
        self.port = port
        self.source_port = source_port
        self.uids = uids


ESP = Flow("esp")


class Peer(Record):
    """The other end of a connection.

    place: where it is configured, in words; hosts: addresses and names; version: 4 or 6 if only that version of IP is
    used, else 0; local_port, remote_port: of IKE, 0 for the daemon's default.
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
    """Return an endpoint for each pair of a host of the peer and a flow, without duplicates."""
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
    """Return the addresses and names in a list with commas, as in ``remote_addrs`` of swanctl.conf(5).

    An IKE initiator connects to one of these.  ``%any``, networks and ranges in the list are for responders, and left
    out.
    option: the name of the list, for messages.  Raises `TunnelError` if nothing is left, or if a word is neither an
    address nor a name.
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
        raise TunnelError(f'{option} "{value}" names no address that the guard could let pass')
    return tuple(hosts)


def find_family(value: str) -> int:
    """Return 4 or 6 if all addresses in a list of our own addresses are of one family, else 0: ike_cfg_get_family() of
    strongSwan's ike_cfg.c."""
    versions = {_FAMILIES.get(word, 0) or find_version(word) for word in _split(value)}
    return versions.pop() if len(versions) == 1 else 0


def read_port(option: str, value: str) -> int:
    """Return a port; 0 for "0" and for an empty value.  Raises `TunnelError`."""
    if not value:
        return 0
    if not value.isascii() or not value.isdecimal() or len(value) > 5 or int(value) > 0xFFFF:
        raise TunnelError(f'{option}: "{value}" is no port')
    return int(value)


def find_version(host: str) -> int:
    """Return 4 or 6 for an address, 0 for anything else."""
    try:
        return read_host(host)[1]
    except TunnelError:
        return 0


def is_own(address: str) -> bool:
    """Whether this machine has the address now.

    Binding a socket to it would prove nothing: that works for any address with net.ipv4.ip_nonlocal_bind=1, and while
    no interface has an address.
    """
    if not find_version(address) or address in _ANY:
        return False
    try:
        with Netlink() as netlink:
            return netlink.is_own(read_host(address)[0])
    except NetlinkError:
        return False


def refuse_ah(option: str, value: str) -> None:
    """Raise `TunnelError` for a connection that uses AH, which does not encrypt: a guard must not let it pass."""
    if value:
        raise TunnelError(f'{option} "{value}": AH does not encrypt, so the guard does not let it pass')


def _split(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


def _is_range(word: str) -> bool:
    """Whether this is a network or a range: make_subnet() and make_range() of ike_cfg.c."""
    address, slash, length = word.partition("/")
    if slash:
        return bool(find_version(address)) and length.isascii() and length.isdecimal()
    first, dash, last = word.partition("-")
    return bool(dash and find_version(first) and find_version(last))
