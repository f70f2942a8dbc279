"""The addresses that a closed guard lets pass: the tunnels' servers, and the hosts that the admin allows by name.

A tunnel's configuration says where its packets go (`tunnels.Endpoint`).  This module resolves the servers' names
through the link's own name servers, and writes the addresses into /etc/hosts: so the daemon needs no name server.  A
name that the admin has in /etc/hosts is not resolved.  The results are written into the guard's record; `enforce`
writes them into the firewall.

All names are resolved at the same time.  Before the tunnels are started, a name without an answer delays ifup only
briefly if another name has got one.  A tunnel that still has no address gets the whole time later, when the others
already run.
"""

from __future__ import annotations

import time
from _socket import AF_INET
from time import monotonic

from netconf_hooks.evidence import fingerprint, make_link
from netconf_hooks.evidence.current import list_current
from netconf_hooks.evidence.fingerprint import parse_fingerprint
from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.exemptions import ProbePass, make_network, make_exemption
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.guard.records import read_guard
from netconf_hooks.record import Record
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.state import OPEN, RecordError, RELEASED, boot_time
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from netconf_hooks.evidence import Link
    from netconf_hooks.evidence.fingerprint import Fingerprint
    from netconf_hooks.evidence.names import Resolution
    from netconf_hooks.evidence.probes import View
    from netconf_hooks.state import GuardRecord, InterfaceRecord, Store
    from netconf_hooks.tunnels import Endpoint

# For how many seconds a daemon may resolve its server's name by itself if /etc/hosts can't be written.
NAMES_TIME = 30.0

# How many seconds we spend on resolving the names for one link, and on its NAT64 prefix.
LOOK_UP_TIME = 5.0
NAT64_TIME = 1.0

DNS_PORT = 53


def let_tunnels_through(store: Store, asked: bool = False) -> bool:
    """Find the endpoints of all tunnels that should be up, and write them into the record of each guarded link that is
    up.

    Returns whether any firewall has to be changed.  Each link's own name servers are asked.  This takes up to
    `LOOK_UP_TIME`, so no lock is held meanwhile.

    asked: whether the tunnels were already asked to start or stop.  Before that, known names are resolved again if a
    tunnel is not up, since its server may have moved, and addresses that were allowed stay allowed: a tunnel that is
    stopping still notifies its server and waits for the reply.
    """
    guards = [guard for guard in store.read_guards(log.error) if guard.verdict != RELEASED]
    if not guards:
        return False
    tunnels, problems, any_down = _list_endpoints(store)
    if not (tunnels or problems or any(map(_has_endpoints, guards))):
        return False
    by_device: dict[str, InterfaceRecord] = {}
    for up in list_current(store.read_interfaces(log.error)):
        if not up.wish:
            by_device.setdefault(device_of(up.iface), up)
    changed = False
    waiting = []
    for guard in guards:
        if record := by_device.get(guard.device):
            wanted = [*tunnels, *_list_allowed(guard)]
            found = _resolve(guard, wanted, record, any_down, asked)
            endpoints = [endpoint for each in wanted for endpoint in each]
            waiting.append(_Finding(guard, endpoints, found, problems, keep=not asked))
            if found.asked:
                # Write this down now: the next link's name servers may not answer.
                changed |= _note_all(store, waiting)
                waiting = []
        elif asked:
            waiting.append(_Finding(guard, (), _Found(), (), keep=False))
    return _note_all(store, waiting) or changed


def _has_endpoints(guard: GuardRecord) -> bool:
    """Whether a guard's record has endpoints, or its rules allow hosts by name."""
    noted = (guard.exemptions, guard.names, guard.silent, guard.problem)
    return any(noted) or any(allowance.host for allowance in guard.rules.allowances)


def _list_allowed(guard: GuardRecord) -> list[tuple[Endpoint, ...]]:
    """Return the hosts that ``netconf-guard-allow`` names; none while the guard is open."""
    from netconf_hooks.tunnels import Endpoint

    if guard.verdict == OPEN:
        return []
    named = [allowance for allowance in guard.rules.allowances if allowance.host]
    return [(Endpoint(allowance.host, allowance.protocol, allowance.port),) for allowance in named]


class _Found:
    """The result of resolving the names of endpoints.

    addresses: by name; problems: which names could not be resolved, and why; asked: whether any name server was asked.
    silent: the names without an answer that need not be tried again: they had the whole time, or their tunnel has
        another address.
    dns_exemptions: those that let daemons resolve names by themselves, because /etc/hosts can't be written;
    dns_fingerprint: the network on which these hold.
    """

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.problems: list[str] = []
        self.asked = False
        self.silent: tuple[str, ...] = ()
        self.dns_exemptions: tuple[Exemption, ...] = ()
        self.dns_fingerprint = ""

    def list_names(self) -> tuple[str, ...]:
        """Return the addresses as `GuardRecord.names` has them."""
        return tuple(" ".join((name, *addresses)) for name, addresses in self.addresses.items())


def _list_endpoints(store: Store) -> tuple[list[tuple[Endpoint, ...]], list[str], bool]:
    """Return the endpoints of each tunnel that should be up, or is held and runs; why some endpoints are unknown; and
    whether any of these tunnels is not up."""
    from netconf_hooks.tunnels import TunnelError, load_tunnel

    endpoints: list[tuple[Endpoint, ...]] = []
    problems = []
    any_down = False
    try:
        with store.lock_records():
            tunnels = store.read_tunnels()
    except RecordError as error:
        return [], [f"unknown which tunnels should be up: {error}"], False
    for (kind, name), record in tunnels.items():
        if record.verdict != "up" and not record.held:
            continue
        try:
            tunnel = load_tunnel(kind, name)
            if record.verdict != "up" and not tunnel.is_running():
                continue
            endpoints.append(tuple(tunnel.endpoints()))
            any_down = any_down or tunnel.is_up() is False
        except TunnelError as error:
            problems.append(f'netconf-vpn "{kind} {name}": its packets can\'t be allowed: {error}')
    return endpoints, problems, any_down


def _resolve(
    guard: GuardRecord, tunnels: Sequence[Sequence[Endpoint]], record: InterfaceRecord, any_down: bool, asked: bool
) -> _Found:
    """Resolve those names of endpoints that have to be resolved now.

    tunnels: the endpoints of each tunnel; any_down: whether a tunnel is not up; asked: as for `let_tunnels_through`.
    """
    from netconf_hooks.evidence.names import is_address

    found = _Found()
    names = dict.fromkeys(each.host for tunnel in tunnels for each in tunnel if not is_address(each.host))
    own = _read_own(names)
    known = {name: addresses for name, addresses in read_names(guard).items() if name in names} | own
    found.addresses = {name: known[name] for name in names if name in known}
    reached = _list_reached(tunnels, known)
    if asked:
        wanted = [name for name in names if name not in reached and name not in guard.silent]
    elif any_down:
        # Names that got no answer last time come last; this matters if there are very many.
        wanted = [name for name in names if name not in own and name not in guard.silent]
        wanted += [name for name in names if name not in own and name in guard.silent]
    else:
        wanted = [name for name in names if name not in known and not (name in reached and name in guard.silent)]
    if wanted:
        _look_up(guard, wanted, record, found)
    reached = _list_reached(tunnels, found.addresses)
    if not asked:
        endpoints = [endpoint for tunnel in tunnels for endpoint in tunnel]
        try:
            found.problems += _find_unreachable(guard, endpoints, record, found)
        except (NetlinkError, OSError) as error:
            found.problems.append(f"the addresses of {guard.device} are unknown: {error}")
    again = tuple(name for name in wanted if name in reached and name not in found.addresses)
    kept = tuple(name for name in guard.silent if name in names and name not in wanted)
    found.silent = tuple(dict.fromkeys((*kept, *found.silent, *again)))
    return found


def _synthesise_names(resolutions: Mapping[str, Resolution], view: View) -> dict[str, Resolution]:
    """Return the IPv6 addresses by which an IPv6-only link reaches names that have IPv4 addresses only (NAT64).

    Usually the network's name servers return these (DNS64, RFC 6147); this is for networks where they don't.
    """
    from netconf_hooks.evidence.names import Resolution, look_up
    from netconf_hooks.evidence.nat64 import find_prefix, is_ipv6_only, synthesise

    refuted = [name for name, resolution in resolutions.items() if resolution.refuted]
    prefix = find_prefix(view) if refuted and is_ipv6_only(view.networks) else ""
    if not prefix:
        return {}
    found = look_up(refuted, view, (int(AF_INET),))
    return {
        name: Resolution(tuple(synthesise(prefix, address) for address in resolution.addresses))
        for name, resolution in found.items() if resolution.addresses
    }  # fmt: skip


def _find_unreachable(
    guard: GuardRecord, endpoints: Sequence[Endpoint], record: InterfaceRecord, found: _Found
) -> list[str]:
    """Return a message for each endpoint that a link can't reach: the link has IPv6 only, the endpoint IPv4."""
    from netconf_hooks.evidence.address import list_networks
    from netconf_hooks.evidence.nat64 import find_prefix, is_ipv6_only, synthesise
    from netconf_hooks.evidence.probes import View

    literals = dict.fromkeys(each.host for each in endpoints if each.host.rpartition(".")[2].isdecimal())
    bound = dict.fromkeys(each.host for each in endpoints if each.version == 4 and each.host in found.addresses)
    if not (literals or bound) or not is_ipv6_only(list_networks(guard.device)):
        return []
    prefix = ""
    if literals:
        with ProbePass(guard.device, guard.backend, NAT64_TIME) as passing:
            link = make_link(record.iface, record.options)
            prefix = find_prefix(View(link, monotonic() + NAT64_TIME, passing.announce))
    problems = []
    for host in literals:
        way = f", or {synthesise(prefix, host)}, its address behind this network's NAT64" if prefix else ""
        problems.append(
            f"{host} is an IPv4 address, but {guard.device} has IPv6 only: write the server's name instead{way}"
        )
    problems += [
        f"{host}: the tunnel uses IPv4 only, but {guard.device} has IPv6 only" for host in bound
        if all(":" in address for address in found.addresses[host])
    ]  # fmt: skip
    return problems


def _list_reached(tunnels: Sequence[Sequence[Endpoint]], known: Collection[str]) -> set[str]:
    """Return all hosts of each tunnel that has at least one known address.  known: the names that have one."""
    from netconf_hooks.evidence.names import is_address

    hosts = [[endpoint.host for endpoint in tunnel] for tunnel in tunnels]
    return {host for each in hosts if any(is_address(host) or host in known for host in each) for host in each}


def _read_own(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the addresses of the names that the admin has in /etc/hosts."""
    from netconf_hooks.guard.hosts import find_names

    if not names:
        return {}
    try:
        return find_names(names)
    except GuardError:
        return {}  # `_pin` reports it


def _look_up(guard: GuardRecord, names: Sequence[str], record: InterfaceRecord, found: _Found) -> None:
    from netconf_hooks.evidence.names import look_up
    from netconf_hooks.evidence.probes import View

    found.asked = True
    deadline = monotonic() + LOOK_UP_TIME
    try:
        with ProbePass(guard.device, guard.backend, LOOK_UP_TIME) as passing:
            view = View(make_link(record.iface, record.options), deadline, passing.announce)
            resolutions = look_up(names, view)
            if any(not resolution.addresses for resolution in resolutions.values()):
                resolutions |= _synthesise_names(resolutions, view)
    except (NetlinkError, OSError) as error:
        found.problems.append(f"names could not be resolved: {error}")
        return
    for name, resolution in resolutions.items():
        if resolution.addresses:
            found.addresses[name] = resolution.addresses
        elif resolution.settled:
            found.silent += (name,)
        if name not in found.addresses:
            found.problems.append(f"{name}: {resolution.problem}")


class _Finding(Record):
    """The endpoints that are to be written into a guard's record.

    guard: its record as it was read; problems: why endpoints are unknown; keep: whether previous exemptions stay.
    """

    __slots__ = ("guard", "endpoints", "found", "problems", "keep")

    def __init__(
        self, guard: GuardRecord, endpoints: Sequence[Endpoint], found: _Found, problems: Sequence[str], keep: bool
    ) -> None:
        self.guard = guard
        self.endpoints = endpoints
        self.found = found
        self.problems = problems
        self.keep = keep


def _note_all(store: Store, findings: Sequence[_Finding]) -> bool:
    """Write the endpoints into the records and the names into /etc/hosts; return whether a firewall has to be changed.
    """
    for each in findings:
        if each.keep:
            each.found.addresses = {**read_names(each.guard), **each.found.addresses}
        if each.found.asked or each.found.list_names() != each.guard.names:
            with store.lock_acting():
                _pin(each.guard, each.found, each.endpoints)
    if not findings:
        return False
    with store.lock_records():
        return any([_note(store, each) for each in findings])


def _note(store: Store, finding: _Finding) -> bool:
    """Write the endpoints into a guard's record; return whether the firewall has to be changed.

    The caller holds the records' lock.
    """
    guard, endpoints, found, keep = finding.guard, finding.endpoints, finding.found, finding.keep
    names = found.list_names()
    exemptions = dict.fromkeys(guard.exemptions if keep else ())
    exemptions |= dict.fromkeys(
        str(make_exemption(endpoint, address))
        for endpoint in endpoints
        for address in found.addresses.get(endpoint.host, (endpoint.host,))
        if (":" in address or address.rpartition(".")[2].isdecimal())
        and endpoint.version in (0, 6 if ":" in address else 4)
    )
    problem = "; ".join((*finding.problems, *found.problems))
    if not found.asked and (found.addresses or found.silent or endpoints and not keep):
        problem = problem or guard.problem  # names were not resolved this time: their problem remains
    if problem and problem != guard.problem:
        log.error(f"{guard.device}: netconf-guard: {problem}")
    now = read_guard(store, guard.device)
    if not now or now.verdict == RELEASED:
        return False
    if found.dns_exemptions:
        now = now.change(
            dns_until=time.time() + NAMES_TIME,
            dns_until_boot=boot_time() + NAMES_TIME,
            dns_exemptions=tuple(map(str, found.dns_exemptions)),
            dns_fingerprint=found.dns_fingerprint,
        )
    same = now.exemptions == tuple(exemptions) and not found.dns_exemptions
    if not same or (now.names, now.problem, now.silent) != (names, problem, found.silent):
        store.write_guard(
            now.change(
                exemptions=tuple(exemptions), names=names, problem=problem, silent=found.silent,
                done=now.done and same,
            )
        )  # fmt: skip
    return not same


def read_names(record: GuardRecord) -> dict[str, tuple[str, ...]]:
    """Return the addresses of the endpoints that are configured by name, by these names."""
    return {name: tuple(addresses) for name, *addresses in (line.split() for line in record.names)}


def _pin(guard: GuardRecord, found: _Found, endpoints: Sequence[Endpoint]) -> None:
    """Write the allowed addresses into /etc/hosts for the daemons; if that fails, allow DNS for a short time instead,
    once on each network.

    For names that the admin has in /etc/hosts, allow the admin's addresses instead: daemons use these.
    """
    from netconf_hooks.guard.hosts import pin_names

    if not found.addresses:
        unpin(guard.device)
        return
    try:
        found.addresses.update(pin_names(guard.device, found.addresses))
    except GuardError as error:
        if guard.dns_left():
            return
        try:
            now = fingerprint.read_fingerprint(guard.device, outside_ports=guard.rules.outside_ports)
        except NetlinkError as unknown:
            found.problems.append(f"{error}; and the network can't be identified: {unknown}")
            return
        if _has_asked(guard, now):
            found.problems.append(f"{error}; on this network, DNS was already allowed for the daemons once")
            return
        log.error(f"{guard.device}: netconf-guard: {error}; DNS is allowed for the daemons for {NAMES_TIME:g} s")
        found.dns_fingerprint = str(now)
        uids = tuple(sorted({uid for endpoint in endpoints for uid in endpoint.uids} or {0}))
        found.dns_exemptions = tuple(
            Exemption(protocol, make_network(server), DNS_PORT, uids=uids)
            for server in _list_resolvers(guard)
            for protocol in ("udp", "tcp")
        )


def _has_asked(guard: GuardRecord, now: Fingerprint) -> bool:
    """Whether daemons were already allowed to resolve names on this network."""
    try:
        return bool(guard.dns_fingerprint) and not parse_fingerprint(guard.dns_fingerprint).is_left(now)
    except ValueError:
        return True


def unpin(device: str) -> None:
    """Remove a device's names from /etc/hosts.  Errors are logged."""
    from netconf_hooks.guard.hosts import unpin_names

    try:
        unpin_names(device)
    except GuardError as error:
        log.error(f"{device}: netconf-guard: {error}")


def list_resolvers(link: Link) -> tuple[str, ...]:
    """Return the name servers that a link's network has announced."""
    from netconf_hooks.evidence.dns import observe

    return observe(("dns-server",), link, monotonic() + 1.0)["dns-server"].values


def _list_resolvers(guard: GuardRecord) -> tuple[str, ...]:
    return list_resolvers(make_link(guard.device, guard.options))
