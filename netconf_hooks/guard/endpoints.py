"""Where the tunnels' own packets go: each guard lets exactly these pass.

A tunnel's configuration says where its packets go (`tunnels.Endpoint`).  A server that is given by name is resolved
here, through the link's own name servers, and its daemon is told the same addresses in /etc/hosts, so that it need ask
nobody.  What is found is written into the guard's record; `enforce` tells the firewall.
"""

from __future__ import annotations

import time
from time import monotonic

from netconf_hooks.decide import RELEASED
from netconf_hooks.evidence import fingerprint, make_link
from netconf_hooks.evidence.fingerprint import parse_fingerprint
from netconf_hooks.guard.exemptions import ProbePass, make_network, make_exemption
from netconf_hooks.guard.firewall import GuardError, Exemption
from netconf_hooks.guard.records import read_guard
from netconf_hooks.ifenv import device_of
from netconf_hooks.state import RecordError, boot_time
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netconf_hooks.evidence import Link
    from netconf_hooks.evidence.fingerprint import Fingerprint
    from netconf_hooks.state import GuardRecord, InterfaceRecord, Store
    from netconf_hooks.tunnels import Endpoint

# For how long a daemon may look up its server's name by itself, if we could not tell it the address, seconds.
NAMES_TIME = 30.0

# For how long names may be looked up for the tunnels of one link, seconds.
LOOK_UP_TIME = 5.0

DNS_PORT = 53


def let_tunnels_through(store: Store, records: Iterable[InterfaceRecord], asked: bool = False) -> bool:
    """Find out where the packets of the tunnels go that are to be up, and note it for each guarded link that is up.

    Returns whether any guard has to be told.  Names are looked up through each link's own resolvers, which takes up to
    `LOOK_UP_TIME`: no lock is held.  records: of the interfaces that are up.

    asked: whether the tunnels were asked already to be what was decided.  Before, also names that are known are looked
    up while a tunnel is not up, since its server may have moved; and what passed still does: whoever ends says so to
    its server, and waits for the answer.
    """
    guards = [guard for guard in store.read_guards(log.error) if guard.verdict != RELEASED]
    if not guards:
        return False
    endpoints, problems, restless = _list_endpoints(store)
    by_device: dict[str, InterfaceRecord] = {}
    for up in records:
        if not up.wish:
            by_device.setdefault(device_of(up.iface), up)
    changed = False
    for guard in guards:
        if record := by_device.get(guard.device):
            found = _resolve(guard, endpoints, record, restless and not asked)
            changed |= _note(store, guard, endpoints, found, problems, keep=not asked)
        elif asked:
            changed |= _note(store, guard, (), _Found(), (), keep=False)
    return changed


class _Found:
    """What came of looking up the names of endpoints: addresses by name, what could not be found, whether anything was
    asked, and the exemptions with which daemons may ask for themselves, because they could not be told.

    dns_fingerprint: on which network they may."""

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.problems: list[str] = []
        self.asked = False
        self.dns_until: tuple[Exemption, ...] = ()
        self.dns_fingerprint = ""

    def list_names(self) -> tuple[str, ...]:
        """Return the addresses as `GuardRecord.names` has them."""
        return tuple(" ".join((name, *addresses)) for name, addresses in self.addresses.items())


def _list_endpoints(store: Store) -> tuple[list[Endpoint], list[str], bool]:
    """Return the endpoints of all tunnels that are to be up, or are held and run; why some are not known; and whether
    one is not up."""
    from netconf_hooks.tunnels import TunnelError, load_tunnel

    endpoints: list[Endpoint] = []
    problems = []
    restless = False
    try:
        with store.lock_records():
            tunnels = store.read_tunnels()
    except RecordError as error:
        return [], [f"which tunnels are to be up is not known: {error}"], False
    for (kind, name), record in tunnels.items():
        if record.verdict != "up" and not record.held:
            continue
        try:
            tunnel = load_tunnel(kind, name)
            if record.verdict != "up" and not tunnel.is_running():
                continue
            endpoints += tunnel.endpoints()
            restless = restless or tunnel.is_up() is False
        except TunnelError as error:
            problems.append(f'netconf-vpn "{kind} {name}": its packets can\'t be let through: {error}')
    return endpoints, problems, restless


def _resolve(guard: GuardRecord, endpoints: Sequence[Endpoint], record: InterfaceRecord, restless: bool) -> _Found:
    from netconf_hooks.evidence.names import is_address

    found = _Found()
    names = list(dict.fromkeys(endpoint.host for endpoint in endpoints if not is_address(endpoint.host)))
    known = read_names(guard)
    wanted = [name for name in names if restless or name not in known]
    found.addresses = {name: known[name] for name in names if name in known}
    if wanted:
        _look_up(guard, wanted, record, found)
    return found


def _look_up(guard: GuardRecord, names: Sequence[str], record: InterfaceRecord, found: _Found) -> None:
    from netconf_hooks.evidence.names import look_up
    from netconf_hooks.evidence.probes import View

    found.asked = True
    deadline = monotonic() + LOOK_UP_TIME
    try:
        with ProbePass(guard.device, guard.backend, LOOK_UP_TIME) as passing:
            view = View(make_link(record.iface, record.options), deadline, passing.announce)
            for name in names:
                resolution = look_up(name, view)
                if resolution.addresses:
                    found.addresses[name] = resolution.addresses
                elif name not in found.addresses:
                    found.problems.append(f"{name}: {resolution.problem}")
    except (NetlinkError, OSError) as error:
        found.problems.append(f"names could not be looked up: {error}")


def _note(
    store: Store, guard: GuardRecord, endpoints: Sequence[Endpoint], found: _Found, problems: Sequence[str], keep: bool
) -> bool:
    """Write down what is to pass, and pin the names; return whether the firewall has to be told.

    keep: whether what passed before still does.
    """
    if keep:
        found.addresses = {**read_names(guard), **found.addresses}
    if found.asked or found.list_names() != guard.names:
        with store.lock_acting():
            _pin(guard, found, endpoints)
    names = found.list_names()
    exemptions = dict.fromkeys(guard.exemptions if keep else ())
    exemptions |= dict.fromkeys(
        str(make_exemption(endpoint, address))
        for endpoint in endpoints
        for address in found.addresses.get(endpoint.host, (endpoint.host,))
        if (":" in address or address.rpartition(".")[2].isdecimal())
        and endpoint.version in (0, 6 if ":" in address else 4)
    )
    problem = "; ".join((*problems, *found.problems))
    if found.addresses and not found.asked:
        problem = problem or guard.problem  # of the names, which were not looked up this time
    if problem and problem != guard.problem:
        log.error(f"{guard.device}: netconf-guard: {problem}")
    with store.lock_records():
        now = read_guard(store, guard.device)
        if not now or now.verdict == RELEASED:
            return False
        if found.dns_until:
            now = now.change(
                dns_until=time.time() + NAMES_TIME,
                dns_until_boot=boot_time() + NAMES_TIME,
                dns_exemptions=tuple(map(str, found.dns_until)),
                dns_fingerprint=found.dns_fingerprint,
            )
        same = now.exemptions == tuple(exemptions) and not found.dns_until
        if not same or (now.names, now.problem) != (names, problem):
            store.write_guard(
                now.change(exemptions=tuple(exemptions), names=names, problem=problem, done=now.done and same)
            )
        return not same


def read_names(record: GuardRecord) -> dict[str, tuple[str, ...]]:
    """Return the addresses of the endpoints that were given by name."""
    return {name: tuple(addresses) for name, *addresses in (line.split() for line in record.names)}


def _pin(guard: GuardRecord, found: _Found, endpoints: Sequence[Endpoint]) -> None:
    """Tell the daemons the addresses that pass: in /etc/hosts, or else let them ask for a short time, once a network.

    Of names that the admin has in /etc/hosts the addresses there become those found: these are what the daemons use.
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
            scene = fingerprint.read_fingerprint(guard.device, outside_ports=guard.rules.outside_ports)
        except NetlinkError as unknown:
            found.problems.append(f"{error}; and the kernel does not say which network this is: {unknown}")
            return
        if _has_asked(guard, scene):
            found.problems.append(f"{error}; on this network DNS has passed for the daemons already")
            return
        log.error(f"{guard.device}: netconf-guard: {error}; DNS passes for the daemons for {NAMES_TIME:g} s")
        found.dns_fingerprint = str(scene)
        uids = tuple(sorted({uid for endpoint in endpoints for uid in endpoint.uids} or {0}))
        found.dns_until = tuple(
            Exemption(protocol, make_network(server), DNS_PORT, uids=uids)
            for server in _list_resolvers(guard)
            for protocol in ("udp", "tcp")
        )


def _has_asked(guard: GuardRecord, scene: Fingerprint) -> bool:
    """Whether daemons were allowed to look up names on this network already."""
    try:
        return bool(guard.dns_fingerprint) and not parse_fingerprint(guard.dns_fingerprint).is_left(scene)
    except ValueError:
        return True


def unpin(device: str) -> None:
    from netconf_hooks.guard.hosts import unpin_names

    try:
        unpin_names(device)
    except GuardError as error:
        log.error(f"{device}: netconf-guard: {error}")


def list_resolvers(link: Link) -> tuple[str, ...]:
    """Return the name servers that a link announced."""
    from netconf_hooks.evidence.dns import observe

    return observe(("dns-server",), link, monotonic() + 1.0)["dns-server"].values


def _list_resolvers(guard: GuardRecord) -> tuple[str, ...]:
    return list_resolvers(make_link(guard.device, guard.options))
