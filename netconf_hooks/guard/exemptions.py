"""What passes a closed guard besides the tunnels' packets: what the admin allows, requests to the lease's DHCP server,
and our own probes.
"""

from __future__ import annotations

import os
import time

from netconf_hooks.exemption import Exemption, MARK, parse_exemption
from netconf_hooks.guard import firewall
from netconf_hooks.guard.firewall import GuardError, LAN, PROBE, Window
from netconf_hooks.guard.records import read_guard
from netconf_hooks.state import RELEASED
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from netconf_hooks.stanzas.rules import Allowance, Rules
    from netconf_hooks.state import GuardRecord, Store
    from netconf_hooks.tunnels import Endpoint


DISCOVERY = (
    ("224.0.0.251", 5353), ("ff02::fb", 5353),  # mDNS (RFC 6762 3)
    ("239.255.255.250", 1900), ("ff02::c", 1900),  # SSDP (UPnP Device Architecture 1.1, 1.2 and annex A)
    ("224.0.0.252", 5355), ("ff02::1:3", 5355),  # LLMNR (RFC 4795 2)
    ("239.255.255.250", 3702), ("ff02::c", 3702),  # WS-Discovery (OASIS WS-Discovery 1.1, 2.4)
)  # fmt: skip
"""The groups and UDP ports by which devices on a LAN are found."""


class ProbePass:
    """Lets our own probes through the guard of a device (context manager).

    Each probe is allowed when it is announced: only to its own destination, only with our mark, only from root.
    backend: the guard's firewall, empty if there is no guard; seconds: for how long at most.
    """

    def __init__(self, device: str, backend: str, seconds: float) -> None:
        self._device = device
        self._backend = backend
        self._until = time.time() + seconds + 1
        self._openings: list[Exemption] = []

    def __enter__(self) -> ProbePass:
        return self

    def __exit__(self, *_: object) -> None:
        if self._openings:
            try:
                firewall.load_firewall(self._backend).shut_window(self._device, PROBE)
            except GuardError as error:
                log.error(f"{self._device}: netconf-guard: {error}")

    def announce(self, device: str, protocol: str, address: str, port: int) -> None:
        """Allow one probe; see `evidence.probes.View`."""
        exemption = Exemption(protocol, make_network(address), port, uids=(0,), mark=MARK)
        if not self._backend or device != self._device or exemption in self._openings:
            return
        self._openings.append(exemption)
        try:
            firewall.load_firewall(self._backend).open_window(device, Window(PROBE, tuple(self._openings), self._until))
        except GuardError as error:
            log.error(f"{device}: netconf-guard: a probe can't be let through: {error}")


def make_pass(store: Store, device: str, seconds: float) -> ProbePass:
    """Return a `ProbePass` for a command that only looks; without effect if there is no guard or we are not root."""
    record = read_guard(store, device) if os.geteuid() == 0 else None
    return ProbePass(device, record.backend if record and record.verdict != RELEASED else "", seconds)


def list_exemptions(record: GuardRecord) -> tuple[Exemption, ...]:
    # Hosts given by name are resolved elsewhere; their addresses are in record.exemptions.  A LAN has its own window.
    plain = [allowance for allowance in record.rules.allowances if not (allowance.host or allowance.lan)]
    allowed = [make_allowance(allowance) for allowance in plain]
    # Requests to the lease's server pass only from the client's port (CAP_NET_BIND_SERVICE), but from any user: dhcpcd
    # runs as its own.
    leased = [Exemption("udp", make_network(server), 67, source_port=68, guests=True) for server in record.servers]
    return (*allowed, *leased, *map(parse_exemption, record.exemptions))


def make_allowance(allowance: Allowance) -> Exemption:
    """Return the exemption for a word of ``netconf-guard-allow`` that names neither a host nor the LAN."""
    assert not (allowance.host or allowance.lan), allowance
    if allowance.incoming:
        return Exemption(allowance.protocol, allowance.network, source_port=allowance.port, reply=True, guests=True)
    return Exemption(allowance.protocol, allowance.network, allowance.port, guests=True)


def allows_lan(rules: Rules) -> bool:
    """Whether ``netconf-guard-allow lan`` is written."""
    return any(allowance.lan for allowance in rules.allowances)


def make_lan(prefixes: Sequence[str]) -> Window | None:
    """Return the window of the LAN with these prefixes, None if there are none.

    For each address family that has a prefix, devices can also be found there: by mDNS, SSDP, LLMNR and WS-Discovery.
    """
    if not prefixes:
        return None
    versions = {6 if ":" in prefix else 4 for prefix in prefixes}
    services = [
        Exemption("udp", make_network(group), port)
        for group, port in DISCOVERY if (6 if ":" in group else 4) in versions
    ]  # fmt: skip
    return Window(LAN, (*(Exemption(network=prefix) for prefix in prefixes), *services), float("inf"))


def make_exemption(endpoint: Endpoint, address: str) -> Exemption:
    """Return the exemption for a tunnel's packets to one address of its endpoint."""
    return Exemption(
        endpoint.protocol, make_network(address), endpoint.port, endpoint.source_port, endpoint.uids, endpoint.mark
    )


def make_network(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"
