"""A look at the network of a guarded link: with its probes let through, and with a token in the firewall."""

from __future__ import annotations

import os
from time import monotonic

from netconf_hooks.decide import RELEASED
from netconf_hooks.evidence import address, fingerprint, lease
from netconf_hooks.evidence.fingerprint import NO_ADDRESS, Fingerprint
from netconf_hooks.evidence.lan import find_lan
from netconf_hooks.guard import firewall
from netconf_hooks.guard.exemptions import ProbePass, allows_lan
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.guard.network import has_left, is_same_network, list_window_routers
from netconf_hooks.guard.records import read_guard
from netconf_hooks.guard.shut import shut_guard
from netconf_hooks.system import log, netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netconf_hooks.state import GuardRecord, Store

# How long a router may take to answer that it is still there, seconds.
CONFIRMATION = 1.0

# How often to try to open windows while others shut the link: a look that finds another network does.
ATTEMPTS = 3


def begin_looks(store: Store, devices: Iterable[str]) -> dict[str, str]:
    """Begin looks at the networks of several links, all that are in one firewall at once; return their tokens, by
    device.  A link without a guard has none, nor has one where it failed: its look begins by itself.
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
    """Return a token with which the windows for a captive portal and for names can be opened; empty if the link is not
    on their network any more, or if that is not certain.

    record: has said since before this call that they are open.  So whoever shuts them later removes the token.
    Raises `GuardError`, also if the device has no guard, and `NetlinkError`.
    """
    token = _make_token()
    firewall.load_firewall(record.backend).begin_look(record.device, token)
    with netlink.Netlink() as kernel:
        now = fingerprint.read_fingerprint(record.device, kernel, record.rules.outside_ports)
        known = list_window_routers(record)
        if unknown := (known & set(now.routers)) - now.macs.keys():
            # The kernel forgets them when carrier is lost.
            kernel.resolve_neighbours(now.index, sorted(unknown), monotonic() + CONFIRMATION)
            now = fingerprint.read_fingerprint(record.device, kernel, record.rules.outside_ports)
    silent = (known & set(now.routers)) - now.macs.keys()
    return "" if silent or has_left(record, now) else token


class Look:
    """A look at the network of a guarded link, whose probes are let through until `deadline`, time.monotonic() (context
    manager).

    It notes which network was looked at: the guard opens only while the link is on that one.  It begins with a token in
    the firewall, which whoever shuts the guard removes: what this look decides can't open the guard any more then.

    token: what `begin_looks` has put into the firewall for it; empty if it did not.
    """

    def __init__(self, store: Store, device: str, deadline: float, token: str = "") -> None:
        self._store = store
        self._device = device
        self._deadline = deadline
        self._passing = ProbePass(device, "", 0.0)
        self._scene: Fingerprint | None = None
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
            scene = self._begin(record)
            if (record.fingerprint and not is_same_network(record.fingerprint, scene)) or has_left(record, scene):
                # What was seen before, of any interface on the device, does not count on another network.
                shut_guard(self._store, record, "the network has changed", has_left(record, scene))
                scene = self._begin(record)
            self._scene = scene
            self._passing = ProbePass(self._device, record.backend, self._deadline - monotonic())
        return self

    def announce(self, device: str, protocol: str, host: str, port: int) -> None:
        """Let one probe through.  host: its address."""
        self._passing.announce(device, protocol, host, port)

    def __exit__(self, *_: object) -> None:
        if not self._scene:
            return
        self._passing.__exit__()
        with netlink.Netlink() as kernel:
            now = fingerprint.read_fingerprint(self._device, kernel, self._outside_ports)
            routers = [router for router in now.routers if router != NO_ADDRESS]
            # By these the network is known again.  What the kernel remembers may be from before the link was moved.
            answered = kernel.confirm_neighbours(now.index, routers, monotonic() + CONFIRMATION) if routers else {}
            now = fingerprint.read_fingerprint(self._device, kernel, self._outside_ports)
        # A router whose MAC nobody knew when the look began may be another network's, which has come since.
        known = self._scene.macs.keys() >= now.macs.keys()
        certain = len(answered) == len(routers) and known and self._scene.is_like(now)
        servers = lease.find_dhcp_servers(self._device)
        lan: tuple[str, ...] = ()
        refused: tuple[str, ...] = ()
        if self._allows_lan and now.carrier:
            lan, refused = find_lan(address.list_networks(self._device))
        with self._store.lock_records():
            record = read_guard(self._store, self._device)
            if record:
                # Where it changed under our eyes nobody knows which of the two was seen.
                scene = str(now.complete(self._scene)) if certain else ""
                token = self._token if certain else ""
                done = record.done and servers == record.servers and lan == record.lan
                # After an uncertain look nobody knows on which network the other interfaces on the device were seen.
                shut_at = record.shut_at if record.fingerprint else max(record.shut_at, self._began)
                if lan != record.lan:
                    _tell_lan(self._device, lan, refused)
                self._store.write_guard(
                    record.change(
                        fingerprint=scene, token=token, servers=servers, shut_at=shut_at, done=done, lan=lan,
                        lan_fingerprint=str(now) if lan else "",
                    )
                )  # fmt: skip

    def _begin(self, record: GuardRecord) -> Fingerprint:
        """Put a token into the firewall, then return how the network looks: whatever shuts the guard later voids it."""
        self._token, self._begun = self._begun, ""
        if not self._token:
            self._token = _make_token()
            try:
                firewall.load_firewall(record.backend).begin_look(self._device, self._token)
            except GuardError as error:
                log.error(f"{self._device}: netconf-guard: what is seen now can't open it: {error}")
                self._token = ""
        with netlink.Netlink() as kernel:
            scene = fingerprint.read_fingerprint(self._device, kernel, self._outside_ports)
            unknown = [router for router in scene.routers if router != NO_ADDRESS and router not in scene.macs]
            if unknown:
                # Before anything is seen of the network, by which its routers are told from others later.
                kernel.resolve_neighbours(scene.index, unknown, monotonic() + CONFIRMATION)
                scene = fingerprint.read_fingerprint(self._device, kernel, self._outside_ports)
        return scene


def _make_token() -> str:
    return os.urandom(4).hex()


def _tell_lan(device: str, prefixes: Sequence[str], refused: Sequence[str]) -> None:
    """Log what ``netconf-guard-allow lan`` allows now, and which of the link's prefixes it does not."""
    allowed = ", ".join(prefixes) or "nothing"
    left_out = f" (not {'; '.join(refused)})" if refused else ""
    log.info(f'{device}: netconf-guard-allow "lan" allows {allowed}{left_out}')
