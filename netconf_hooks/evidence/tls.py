"""Whether a TLS server on the local network presents the certificate that the admin has pinned: the test ``tls``.

The handshake is completed, which proves that the server has the certificate's key (RFC 8446 4.4.3; in TLS 1.2 the key
exchange or its signature) and does not just replay the certificate.  The certificate's issuer, names and expiry date do
not matter.

A certificate does not prove where the server is.  So there are more conditions: the server has a private or link-scope
address, or one on the link's own prefix, within the bounds of `lan`; the link itself leads to no remote place (as a
tunnel or ppp does); IPsec policies are bypassed; and the server was never seen elsewhere (`known_servers`).  If the
certificate is right, the same address is also asked through each tunnel that is up: a host that can use the tunnel can
relay the server, too.
"""

from __future__ import annotations

import _socket
import os
import select
import time

from netconf_hooks.evidence import router
from netconf_hooks.evidence.connection import Way, connect, split_service
from netconf_hooks.evidence.known_servers import Server, Servers, ServersError
from netconf_hooks.evidence.lan import is_local
from netconf_hooks.evidence.names import is_address, resolve
from netconf_hooks.evidence.probes import Outcome, Wait
from netconf_hooks.record import Record
from netconf_hooks.system.netlink import IFF_NOARP, IFF_UP, Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from netconf_hooks.evidence.probes import Announce, Conversation, Steps, View
    from netconf_hooks.place import Question
    from netconf_hooks.system.netlink import LinkStatus

# Seconds for asking through all tunnels, after the server has answered on the link.
TUNNEL_PATIENCE = 1.0

MOST_BYTES = 256 * 1024
"""How much of a handshake is read; OpenSSL accepts a certificate chain of up to 100 KiB
(SSL_CTX_set_max_cert_list(3))."""

_IFF_POINTOPOINT = 0x10  # netdevice(7)
_CHUNK = 16384


class Sight(Record):
    """What was seen of a server.

    way: how it was reached; None if it was not.  certificate: the SHA-256 of its certificate, empty if the handshake
    was not completed.  asked: whether anything was sent to it.  problem: what went wrong.  settled: whether asking
    again now is useless.
    """

    __slots__ = ("way", "certificate", "asked", "problem", "settled")

    def __init__(
        self,
        way: Way | None = None,
        certificate: str = "",
        asked: bool = False,
        problem: str = "",
        settled: bool = True,
    ) -> None:
        self.settled = settled
        self.way = way
        self.certificate = certificate
        self.asked = asked
        self.problem = problem


def ask(question: Question, view: View) -> Steps:
    """Complete a handshake and check the certificate, under the conditions above."""
    service, _, wanted = question.value.partition("/sha256:")
    host, port = split_service(service)
    with Netlink() as netlink:
        status = netlink.get_link(view.link.index)
    if status is None or is_tunnel(status):
        return Outcome(problem=f"{view.link.device} is no local network")
    servers = Servers()
    try:
        if elsewhere := servers.read().get(wanted, Server()).elsewhere:
            return Outcome(problem=_explain_elsewhere(elsewhere, wanted))
    except ServersError as error:
        return Outcome(problem=f"not asked, it may have been seen elsewhere: {error}")
    found = yield from resolve(host, view)
    if not found.addresses:
        return Outcome(refuted=found.refuted, settled=found.settled, problem=found.problem)
    local = [address for address in found.addresses if is_local(address, view.networks)]
    if not local:
        return Outcome(problem=f"not asked: {', '.join(found.addresses)} is not on the local network")
    name = None if is_address(host) else host
    ways = [Way(address, view.link.device) for address in local]
    sight = yield from _look(ways, port, name, view.deadline, view.announce)
    if sight.way is None or sight.certificate != wanted:
        problem = sight.problem or f"the server shows sha256:{sight.certificate}"
        return Outcome(refuted=sight.asked, settled=sight.settled, problem=problem)
    address = sight.way.address
    routers = _find_routers(view, address)
    if not routers:
        return Outcome(problem="not counted: no router here has a MAC address that could identify the network")
    ways = [Way(address, tunnel) for tunnel in list_tunnels(view.link.device)]
    until = min(view.deadline, time.monotonic() + TUNNEL_PATIENCE)
    through = yield from _find_way(ways, port, name, wanted, until, view.announce)
    try:
        if through:
            server = servers.note_elsewhere(wanted, f"through {through.device}")
        else:
            server = servers.note(wanted, routers, question.routers, view.link.device)
    except ServersError as error:
        return Outcome(problem=f"not counted: where it was seen can't be recorded: {error}")
    if server.elsewhere:
        return Outcome(problem=_explain_elsewhere(server.elsewhere, wanted))
    return Outcome((question.value,))


def is_tunnel(status: LinkStatus) -> bool:
    """Whether a device leads to a remote place and not to a local network: tun, tap, wireguard, xfrm, ppp."""
    return bool(status.flags & (_IFF_POINTOPOINT | IFF_NOARP)) or os.path.exists(
        f"{router.SYSFS}/{status.name}/tun_flags"
    )


def list_tunnels(but: str) -> list[str]:
    """Return the tunnels that are up, without the device `but`.  Raises `NetlinkError`, OSError."""
    found = []
    with Netlink() as netlink:
        for _, name in _socket.if_nameindex():
            status = netlink.get_link(name) if name not in (but, "lo") else None
            if status is not None and status.flags & IFF_UP and is_tunnel(status):
                found.append(name)
    return found


def _find_way(
    ways: Sequence[Way], port: int, name: str | None, wanted: str, until: float, announce: Announce
) -> Conversation[Way | None]:
    """Return the first of `ways` that leads to a server with the certificate `wanted`."""
    left = list(ways)
    while left and time.monotonic() < until:
        sight = yield from _look(left, port, name, until, announce)
        if sight.way is None:
            return None
        if sight.certificate == wanted:
            return sight.way
        left.remove(sight.way)
    return None


def _look(
    ways: Sequence[Way], port: int, name: str | None, until: float, announce: Announce
) -> Conversation[Sight]:
    """Read the certificate of the first server that accepts a connection."""
    attempt = yield from connect(ways, port, until, announce)
    if attempt.socket is None:
        return Sight(asked=attempt.refuted, problem=attempt.problem, settled=attempt.settled)
    try:
        certificate, problem = yield from _shake_hands(attempt.socket, name, until)
    finally:
        attempt.socket.close()
    return Sight(attempt.way, certificate, True, problem)


def _shake_hands(connected: _socket.socket, name: str | None, until: float) -> Conversation[tuple[str, str]]:
    """Complete a TLS handshake; return the SHA-256 of the server's certificate, or else what went wrong.

    It uses buffers, not the socket itself, so that each step only uses data that has arrived.
    """
    import ssl
    from hashlib import sha256

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _make_context().wrap_bio(incoming, outgoing, server_hostname=name)
    taken = 0
    unsent = b""
    while True:
        done = False
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            return "", f"no TLS handshake: {error.reason or error}"
        unsent += outgoing.read()
        if done and not unsent:
            certificate = tls.getpeercert(binary_form=True)
            return (sha256(certificate).hexdigest(), "") if certificate else ("", "the server shows no certificate")
        if taken > MOST_BYTES:
            return "", f"the TLS handshake does not end after {MOST_BYTES} bytes"
        descriptor = connected.fileno()
        ready = yield Wait({descriptor: select.POLLOUT if unsent else select.POLLIN}, until)
        if not ready:
            return "", "the TLS handshake was not completed in time"
        try:
            if unsent:
                unsent = unsent[connected.send(unsent):]
                continue
            data = connected.recv(_CHUNK)
        except BlockingIOError:
            continue
        except OSError as error:
            return "", f"no TLS handshake: {error.strerror}"
        taken += len(data)
        if data:
            incoming.write(data)
        else:
            incoming.write_eof()


def _make_context() -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate's issuer does not matter: the whole certificate is compared.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _find_routers(view: View, server: str) -> tuple[str, ...]:
    """Return the MAC addresses that identify this network: those of its routers, and the server's own."""
    routers = router.observe(("gateway",), view.link, view.deadline)["gateway"].values
    with Netlink() as netlink:
        known = netlink.get_known_neighbours(view.link.index, (*routers, server))
    return tuple(dict.fromkeys(neighbour.mac for neighbour in known.values() if neighbour.mac))


def _explain_elsewhere(where: str, certificate: str) -> str:
    return (
        f"its certificate proves nothing: the server also answers elsewhere ({where}); if that was your own network: "
        f"netconf-hooks forget-server {certificate}"
    )
