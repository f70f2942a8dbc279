"""Resolves host names by the name servers that this link's network announced, through this link.

The servers in /etc/resolv.conf are not used: in the café these may still be the tunnel's.  No search domain is
appended. python3-dnspython writes and parses the packets; it is loaded only if a name has to be resolved.  A packet
that it can't parse counts as no answer.
"""

from __future__ import annotations

import _socket
import select
import time

from netconf_hooks.evidence.connection import AF_INET, AF_INET6, make_target, open_socket
from netconf_hooks.evidence.probes import Wait
from netconf_hooks.record import Record
from netconf_hooks.system.addresses import is_link_local

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dns.message import QueryMessage

    from netconf_hooks.evidence.probes import Conversation, View

# Seconds without an answer after which the next server is asked, too.
NEXT = 0.4
# Seconds without an answer after which a server is asked again, since UDP packets may be lost.
AGAIN = 1.0
# Seconds to wait for the answer of the other address family, once one has arrived: some servers never answer AAAA.
LATE = 0.2

# If several names are resolved, those without an answer get this many times as long as the first answer took, but at
# least this many seconds.
SHARE, LEAST_SHARE = 3.0, 0.3

PORT = 53
MOST_SERVERS = 4
MOST_ADDRESSES = 8
MOST_AT_ONCE = 64
"""How many names are resolved at the same time: each of them has a socket for each name server."""

_UDP_SIZE = 1232  # DNS flag day 2020: this size passes everywhere without fragments
_DATAGRAM = 65535


class Resolution(Record):
    """The result of resolving a name.

    addresses: of the host, as inet_ntop(3) writes them.  refuted: whether a server said that there are none.
    settled: whether asking again now is useless.  problem: why there are none.
    """

    __slots__ = ("addresses", "refuted", "settled", "problem")

    def __init__(
        self, addresses: tuple[str, ...] = (), refuted: bool = False, settled: bool = True, problem: str = ""
    ) -> None:
        self.addresses = addresses
        self.refuted = refuted
        self.settled = settled
        self.problem = problem


_CUT_OFF = Resolution(settled=False, problem="given up early, since other names had their answers")


class Reply(Record):
    """A server's answer: ``found``, ``none`` (the name has no such address) or ``failed`` (another server may know)."""

    __slots__ = ("verdict", "addresses")

    def __init__(self, verdict: str, addresses: tuple[str, ...] = ()) -> None:
        self.verdict = verdict
        self.addresses = addresses


def is_address(host: str) -> bool:
    """Whether a host is written as an address."""
    return ":" in host or host.rpartition(".")[2].isdecimal()


def resolve(host: str, view: View, families: Sequence[int] = ()) -> Conversation[Resolution]:
    """Return the addresses of a host.  If `host` is an address, return it, if the link has an address of that family.

    families: the kinds of addresses to ask for; if not given, those in which the link can reach hosts.

    A link without an address asks nothing: the kernel would take every host for a neighbour and wait for its answer.
    """
    if is_address(host):
        if any((":" in own) == (":" in host) for own, _ in view.networks):
            return Resolution((host,))
        return Resolution(problem=f"{view.link.device} has no address to ask from")
    families = families or _list_families(view)
    if not families:
        return Resolution(problem=f"{view.link.device} has no address to ask from")
    servers = view.resolvers
    if not servers.values:
        return Resolution(settled=not servers.pending, problem=f"no name server to ask: {servers.problem}")
    try:
        queries = [_make_query(host, "A" if family == AF_INET else "AAAA") for family in families]
    except ImportError:
        return Resolution(problem="names can't be asked for: python3-dnspython is not installed")
    return (yield from _ask_servers(host, queries, servers.values[:MOST_SERVERS], view))


def look_up(hosts: Iterable[str], view: View, families: Sequence[int] = ()) -> dict[str, Resolution]:
    """Resolve several names at the same time; wait at most until the view's deadline.

    Once one of them has an address, the others have only a little more time (`SHARE`): a name that nobody answers for
    must not delay one that is known.  A name that was given up early is not `settled`.

    hosts: in the order in which they are asked, if there are more than `MOST_AT_ONCE`; then each group of so many has
    the same share of the time.  families: as for `resolve`.
    """
    waiting = list(dict.fromkeys(hosts))
    found: dict[str, Resolution] = {}
    while waiting and not any(resolution.addresses for resolution in found.values()):
        left = max(0.0, view.deadline - time.monotonic())
        until = time.monotonic() + left / -(-len(waiting) // MOST_AT_ONCE)
        found |= _look_up_together(waiting[:MOST_AT_ONCE], view.until(until), families)
        waiting = waiting[MOST_AT_ONCE:]
    return found | {host: _CUT_OFF for host in waiting}


def _look_up_together(hosts: Sequence[str], view: View, families: Sequence[int]) -> dict[str, Resolution]:
    """Do what `look_up` does, with at most `MOST_AT_ONCE` names."""
    found: dict[str, Resolution] = {}
    began = time.monotonic()
    until = view.deadline
    talks = {host: resolve(host, view, families) for host in hosts}
    waits: dict[str, Wait] = {}
    ready: dict[str, frozenset[int] | None] = dict.fromkeys(hosts)
    try:
        while True:
            for host, descriptors in ready.items():
                try:
                    # None begins a generator.
                    waits[host] = talks[host].send(descriptors)  # type: ignore[arg-type]
                except StopIteration as end:
                    found[host] = end.value
                    del talks[host]
                    waits.pop(host, None)
                except OSError as error:
                    found[host] = Resolution(problem=f"{host} could not be looked up: {error.strerror or error}")
                    del talks[host]
                    waits.pop(host, None)
            now = time.monotonic()
            if until == view.deadline and any(found[host].addresses for host in ready if host in found):
                until = min(until, now + max(LEAST_SHARE, (SHARE - 1) * (now - began)))
            if not waits or now >= until:
                return found | {host: _CUT_OFF for host in waits}
            ready = _wait_for_some(waits, until)
    finally:
        for talk in talks.values():
            talk.close()


def _wait_for_some(waits: Mapping[str, Wait], until: float) -> dict[str, frozenset[int] | None]:
    """Return which conversations can go on, each with its descriptors that are ready; none if the time is over."""
    poll = select.poll()
    for wait in waits.values():
        for descriptor, events in wait.events.items():
            poll.register(descriptor, events)
    first = min(until, *(wait.until for wait in waits.values()))
    # Round up: waking a millisecond too early would make the loop spin.
    arrived = {descriptor for descriptor, _ in poll.poll(max(0, int((first - time.monotonic()) * 1000) + 1))}
    now = time.monotonic()
    ready: dict[str, frozenset[int] | None] = {}
    for host, wait in waits.items():
        mine = frozenset(wait.events.keys() & arrived)
        if mine or now >= wait.until:
            ready[host] = mine
    return ready


def read_reply(query: QueryMessage, data: bytes) -> Reply | None:
    """Return what `data` answers to `query`; None if it is no answer to it."""
    import dns.exception
    import dns.message
    import dns.rcode

    try:
        answer = dns.message.from_wire(data, ignore_trailing=True)
        if not query.is_response(answer):
            return None
        code = answer.rcode()
        if code == dns.rcode.NXDOMAIN:
            return Reply("none")
        if code != dns.rcode.NOERROR or not isinstance(answer, dns.message.QueryMessage):
            return Reply("failed")
        rrset = answer.resolve_chaining().answer
    except (dns.exception.DNSException, ValueError):
        # ValueError: dnspython has no type for a value (an unknown opcode).
        return None
    texts = [str(record.address) for record in rrset or ()]
    addresses = dict.fromkeys(text for text in texts if is_usable(text))
    return Reply("found", tuple(addresses)[:MOST_ADDRESSES]) if addresses else Reply("none")


def is_usable(address: str) -> bool:
    """Whether another host can have this address: not loopback, unspecified, broadcast, multicast (RFC 6890)."""
    packed = _socket.inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    if len(packed) == 4:
        return 0 < packed[0] < 224 and packed[0] != 127
    # ::/16 contains the loopback, unspecified and IPv4-mapped addresses; 64:ff9b::/96 is that of NAT64 (RFC 6052).
    return packed[0] != 0xFF and packed[:2] != bytes(2)


def _list_families(view: View) -> list[int]:
    """Return the address families in which the link can reach hosts that are not its neighbours."""
    addresses = [address for address, _ in view.networks]
    families = [AF_INET] if any(":" not in address for address in addresses) else []
    if any(":" in address and not is_link_local(address) for address in addresses):
        families.append(AF_INET6)
    return families


def _make_query(host: str, kind: str) -> QueryMessage:
    import dns.message

    return dns.message.make_query(host, kind, use_edns=0, payload=_UDP_SIZE)


def _ask_servers(
    host: str, queries: Sequence[QueryMessage], servers: Sequence[str], view: View
) -> Conversation[Resolution]:
    """Ask the servers in their order, each with a delay; the first answer to a question counts."""
    replies: dict[int, Reply] = {}
    problems: dict[str, str] = {}
    sockets: dict[int, tuple[str, _socket.socket]] = {}
    due = dict.fromkeys(servers, 0.0)
    began = time.monotonic()
    for number, server in enumerate(servers):
        due[server] = began + number * NEXT
    until = view.deadline
    try:
        for server in servers:
            opened = open_socket(AF_INET6 if ":" in server else AF_INET, _socket.SOCK_DGRAM, view.link.device)
            sockets[opened.fileno()] = (server, opened)
        while len(replies) < len(queries) and sockets and time.monotonic() < until:
            now = time.monotonic()
            for descriptor, (server, opened) in list(sockets.items()):
                if now < due[server]:
                    continue
                try:
                    view.announce(view.link.device, "udp", server, PORT)
                    opened.connect(make_target(server, PORT, view.link.index))
                    for query in queries:
                        if query.id not in replies:
                            opened.send(query.to_wire())
                    due[server] = now + AGAIN
                except BlockingIOError:
                    due[server] = now + NEXT
                except OSError as error:
                    _drop(sockets, descriptor, problems, error.strerror or str(error))
            waiting = [due[server] for server, _ in sockets.values()]
            if not waiting:
                break
            ready = yield Wait(dict.fromkeys(sockets, select.POLLIN), min(until, *waiting))
            for descriptor in ready:
                server, opened = sockets[descriptor]
                try:
                    data = opened.recv(_DATAGRAM)
                except BlockingIOError:
                    continue
                except OSError as error:  # an ICMP error has arrived
                    _drop(sockets, descriptor, problems, error.strerror or str(error))
                    _hurry(due, sockets)
                    continue
                for query in queries:
                    reply = None if query.id in replies else read_reply(query, data)
                    if reply and reply.verdict == "failed":
                        _drop(sockets, descriptor, problems, "does not know")
                        _hurry(due, sockets)
                        break
                    if reply:
                        replies[query.id] = reply
                        if reply.verdict == "found":
                            until = min(until, time.monotonic() + LATE)
    finally:
        for _, opened in sockets.values():
            opened.close()
    addresses = tuple(address for reply in replies.values() for address in reply.addresses)
    if addresses:
        return Resolution(addresses)
    if len(replies) == len(queries):
        return Resolution(refuted=True, problem=f"{host} has no address")
    silent = {server: "did not answer" for server, _ in sockets.values()}
    told = ", ".join(f"{server} {why}" for server, why in (problems | silent).items())
    return Resolution(problem=f"{host} could not be looked up: {told}")


def _drop(
    sockets: dict[int, tuple[str, _socket.socket]], descriptor: int, problems: dict[str, str], why: str
) -> None:
    server, opened = sockets.pop(descriptor)
    opened.close()
    problems[server] = why


def _hurry(due: dict[str, float], sockets: dict[int, tuple[str, _socket.socket]]) -> None:
    """Ask the next server that was not asked yet at once."""
    now = time.monotonic()
    for server, _ in sockets.values():
        if due[server] > now:
            due[server] = now
            return
