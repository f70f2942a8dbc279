"""A look at the network of a guarded link: the firewall lets its probes pass, and holds its token."""

from __future__ import annotations

import os
from time import monotonic

from netconf_hooks.evidence import address, dhclient, fingerprint
from netconf_hooks.evidence.fingerprint import NO_ADDRESS, Fingerprint
from netconf_hooks.evidence.lan import find_lan
from netconf_hooks.guard import firewall
from netconf_hooks.guard.exemptions import ProbePass, allows_lan
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.guard.network import has_left, is_same_network, list_window_routers
from netconf_hooks.guard.records import read_guard
from netconf_hooks.guard.shut import shut_guard
from netconf_hooks.state import RELEASED
from netconf_hooks.system import log, netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netconf_hooks.state import GuardRecord, Store

# How many seconds a router may take to answer an ARP request or a neighbour solicitation.
CONFIRMATION = 1.0

# How often to try to open windows if another process shuts the link meanwhile, because it has found another network.
ATTEMPTS = 3


def begin_looks(store: Store, devices: Iterable[str]) -> dict[str, str]:
    """Begin looks at the networks of several links, with one transaction for each firewall; return the tokens by
    device.

    Links without a guard get no token.  If this fails for a link, its `Look` tries again by itself.
    """
    begun: dict[str, str] = {}
    by_backend: dict[str, dict[str, str]] = {}
    for device in devices:
        record = read_guard(store, device)
        if record and record.verdict != RELEASED:
            by_backend.setdefault(record.backend, {})[device] = _make_token()
    for backend, tokens in by_backend.items():
        try:
            firewall.load_firewall(backend).begin_looks(tokens)
        except GuardError as error:
            log.debug(f"netconf-guard: {error}")
        else:
            begun |= tokens
    return begun


def begin_windows(record: GuardRecord) -> str:
    """Return a token that allows opening the windows for a captive portal and for names; empty unless it is certain
    that the link is still on their network.

    record: must already say that the windows are open, so that whoever shuts them later also removes the token.
    Raises `GuardError`, also if the device has no guard, and `NetlinkError`.
    """
    token = _make_token()
    firewall.load_firewall(record.backend).begin_look(record.device, token)
    with netlink.Netlink() as kernel:
        now = fingerprint.read_fingerprint(record.device, kernel, record.rules.outside_ports)
        known = list_window_routers(record)
        if unknown := (known & set(now.routers)) - now.macs.keys():
            # When the carrier is lost, the kernel forgets their MACs.
            kernel.resolve_neighbours(now.index, sorted(unknown), monotonic() + CONFIRMATION)
            now = fingerprint.read_fingerprint(record.device, kernel, record.rules.outside_ports)
    silent = (known & set(now.routers)) - now.macs.keys()
    return "" if silent or has_left(record, now) else token


class Look:
    """A look at the network of a guarded link (context manager).

    Its probes pass the guard until `deadline`, as time.monotonic().  It writes the network's fingerprint into the
    guard's record: the guard opens only while the link is on that network.  It begins by putting a token into the
    firewall.  Shutting the guard removes the token, and then this look can't open the guard any more.

    token: the one that `begin_looks` has put into the firewall; empty if there is none.
    """

    def __init__(self, store: Store, device: str, deadline: float, token: str = "") -> None:
        self._store = store
        self._device = device
        self._deadline = deadline
        self._passing = ProbePass(device, "", 0.0)
        self._before: Fingerprint | None = None
        self._outside_ports: tuple[str, ...] = ()
        self._allows_lan = False
        self._token = ""
        self._begun = token
        self._began = monotonic()

    def __enter__(self) -> Look:
        self._began = monotonic()
        record = read_guard(self._store, self._device)
        if record and record.verdict != RELEASED:
            self._outside_ports = record.rules.outside_ports
            self._allows_lan = allows_lan(record.rules)
            now = self._begin(record)
            if (record.fingerprint and not is_same_network(record.fingerprint, now)) or has_left(record, now):
                # This is another network: earlier looks by any interface on the device are void.
                shut_guard(self._store, record, "the network has changed", has_left(record, now))
                now = self._begin(record)
            self._before = now
            self._passing = ProbePass(self._device, record.backend, self._deadline - monotonic())
        return self

    def announce(self, device: str, protocol: str, host: str, port: int) -> None:
        """Let one probe pass the guard.  host: its address."""
        self._passing.announce(device, protocol, host, port)

    def __exit__(self, *_: object) -> None:
        if not self._before:
            return
        self._passing.__exit__()
        with netlink.Netlink() as kernel:
            now = fingerprint.read_fingerprint(self._device, kernel, self._outside_ports)
            routers = [router for router in now.routers if router != NO_ADDRESS]
            # Confirm the routers' MACs now: the kernel's neighbours may be older than a change of the network.
            answered = kernel.confirm_neighbours(now.index, routers, monotonic() + CONFIRMATION) if routers else {}
            now = fingerprint.read_fingerprint(self._device, kernel, self._outside_ports)
        # A router whose MAC was unknown when the look began may belong to a network that the link has joined since.
        known = self._before.macs.keys() >= now.macs.keys()
        certain = len(answered) == len(routers) and known and self._before.is_like(now)
        servers = dhclient.find_dhcp_servers(self._device)
        lan: tuple[str, ...] = ()
        refused: tuple[str, ...] = ()
        if self._allows_lan and now.carrier:
            lan, refused = find_lan(address.list_networks(self._device))
        with self._store.lock_records():
            record = read_guard(self._store, self._device)
            if record:
                # If the network changed during the look, it is unknown which of the two was seen.
                written = str(now.complete(self._before)) if certain else ""
                token = self._token if certain else ""
                done = record.done and servers == record.servers and lan == record.lan
                # After an uncertain look, it is unknown which network earlier looks of the device's interfaces saw.
                shut_at = record.shut_at if record.fingerprint else max(record.shut_at, self._began)
                if lan != record.lan:
                    _tell_lan(self._device, lan, refused)
                self._store.write_guard(
                    record.change(
                        fingerprint=written, token=token, servers=servers, shut_at=shut_at, done=done, lan=lan,
                        lan_fingerprint=str(now) if lan else "",
                    )
                )  # fmt: skip

    def _begin(self, record: GuardRecord) -> Fingerprint:
        """Put a token into the firewall, then return the network's fingerprint, in this order: so shutting the guard at
        any later moment makes the token invalid."""
        self._token, self._begun = self._begun, ""
        if not self._token:
            self._token = _make_token()
            try:
                firewall.load_firewall(record.backend).begin_look(self._device, self._token)
            except GuardError as error:
                log.error(f"{self._device}: netconf-guard: this look can't open it: {error}")
                self._token = ""
        with netlink.Netlink() as kernel:
            now = fingerprint.read_fingerprint(self._device, kernel, self._outside_ports)
            unknown = [router for router in now.routers if router != NO_ADDRESS and router not in now.macs]
            if unknown:
                # Ask before any evidence is collected: the routers' MACs identify the network that it comes from.
                kernel.resolve_neighbours(now.index, unknown, monotonic() + CONFIRMATION)
                now = fingerprint.read_fingerprint(self._device, kernel, self._outside_ports)
        return now


def _make_token() -> str:
    return os.urandom(4).hex()


def _tell_lan(device: str, prefixes: Sequence[str], refused: Sequence[str]) -> None:
    """Log which prefixes ``netconf-guard-allow lan`` allows now, and which of the link's prefixes it does not allow."""
    allowed = ", ".join(prefixes) or "nothing"
    left_out = f" (not {'; '.join(refused)})" if refused else ""
    log.info(f'{device}: netconf-guard-allow "lan" allows {allowed}{left_out}')
