"""The guard's firewalls: only packets that are allowed leave a guarded link.  One module for each firewall.

The allowed packets are one list of exemptions, the same for every firewall, which each module turns into its own rules.
Only this package changes the firewall.  Some packets pass every closed link, without an exemption, by rules that each
module has: ARP, the DHCP client's broadcasts, the kernel's own neighbour and router discovery, and packets that an
IPsec policy will encrypt.

A new firewall is a module here with a class `Firewall`, and one line in `BACKENDS`.
"""

from __future__ import annotations

import os

from netconf_hooks.exemption import Exemption, is_possible
from netconf_hooks.record import Record
from netconf_hooks.state import FIREWALLS as FIREWALLS
from netconf_hooks.system.addresses import parse_network
from netconf_hooks.system.devices import is_device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Protocol

    from netconf_hooks.observation import Ports

OPEN = "open"
PORTAL = "portal"
PROBE = "probe"
NAMES = "names"
LAN = "lan"
UNHOOKED = "its device has appeared since"
"""The problem of a guard that was installed before its device existed: only the hook for the device's frames is
missing."""

WINDOWS = (OPEN, PORTAL, PROBE, NAMES, LAN)
"""The windows of a guard: the open link; a captive portal; our own probes; a daemon that resolves names by itself; the
LAN that the link is on (``netconf-guard-allow lan``), whose window is shut when the link leaves it."""

JOINS = {
    4: ("224.0.0.22", "224.0.0.2", "224.0.0.251", "224.0.0.252", "239.255.255.250"),
    6: ("ff02::fb", "ff02::1:3", "ff02::c"),
}
"""The destinations, by IP version, of the kernel's reports that it has joined the multicast groups for finding devices
on a LAN (mDNS, LLMNR, SSDP).  While the window `LAN` is open, these pass with a TTL or hop limit of 1.  IGMP: its
routers (RFC 3376 4.2.14; RFC 2236 9), and the groups themselves, for versions 1 and 2.  MLD: version 1; reports of
version 2 always pass."""


class Window(Record):
    """Exemptions for a limited time, which the kernel itself ends.

    name: one of `WINDOWS`; a link has at most one window of each name.
    until: when it closes, as time.time(); this also holds if the machine is suspended meanwhile.  Infinite for `LAN`.
    """

    __slots__ = ("name", "exemptions", "until")

    def __init__(self, name: str, exemptions: tuple[Exemption, ...], until: float) -> None:
        self.name = name
        self.exemptions = exemptions
        self.until = until


class Closing(Record):
    """What passes a closed device: see `AnyFirewall.close`."""

    __slots__ = ("device", "exemptions", "windows", "ports")

    def __init__(
        self,
        device: str,
        exemptions: tuple[Exemption, ...],
        windows: tuple[Window, ...] = (),
        ports: Ports | None = None,
    ) -> None:
        self.device = device
        self.exemptions = exemptions
        self.windows = windows
        self.ports = ports


class GuardError(Exception):
    """A guard can't be installed, opened or removed; the message says why, in the admin's words."""


class TokenGone(GuardError):
    """The guard was shut after the look that should open it had begun, so its token is gone: only a newer look may open
    it."""

    def __init__(self, device: str) -> None:
        super().__init__(f"{device}: the guard was shut after this look at the network had begun")


# The characters of a device name that may become part of a rule: none of them has a meaning for a firewall.  The kernel
# allows all but ``/``, ``:`` and white space (dev_valid_name, net/core/dev.c); nft(8) has ``*`` for a pattern, iptables
# ``+``.
_DEVICE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def check_device(device: str) -> None:
    """Raise `GuardError` for a device name that can't be part of a rule."""
    if not (_DEVICE.issuperset(device) and is_device(device)):
        raise GuardError(f"{device!r}: an interface of this name can't be guarded: letters, digits, _ . and - only")


_TOKEN = frozenset("0123456789abcdef")
_TOKEN_LENGTH = 8


def check_token(token: str) -> None:
    """Raise `GuardError` for anything but 8 lower-case hexadecimal digits."""
    if len(token) != _TOKEN_LENGTH or not _TOKEN.issuperset(token):
        raise GuardError(f"not a token: {token!r}")


def read_network(network: str) -> tuple[bytes, int]:
    """Return the address, 4 or 16 bytes, and the length of the prefix of ``ADDRESS/LENGTH``.

    Raises `GuardError` for anything else, host bits included.
    """
    prefix = parse_network(network)
    if prefix is None:
        raise GuardError(f"not a network: {network!r}")
    return prefix


def check_exemption(exemption: Exemption) -> None:
    """Raise `GuardError` for an exemption that no packet can match, or that allows more than it seems to."""
    if exemption.network:
        read_network(exemption.network)
    if not is_possible(exemption):
        raise GuardError(f"no firewall can allow this: {exemption!r}")


if TYPE_CHECKING:

    class AnyFirewall(Protocol):
        """What every firewall can do.  Each call is one transaction, or as close to that as the firewall can get."""

        name: str
        """What `load_firewall` takes: for iptables with its variant, ``iptables-nft``."""
        has_lease: bool
        """Whether the kernel ends the window `OPEN`, as it does with the other windows."""
        has_news: bool
        """Whether the kernel reports changes of the rules (NFNLGRP_NFTABLES); otherwise they have to be checked
        regularly."""
        lacks: tuple[str, ...]
        """What it can't do here, as messages for `check`: ``no egress chain: nothing stops raw frames ...``."""

        def close(
            self,
            device: str,
            exemptions: tuple[Exemption, ...],
            windows: tuple[Window, ...] = (),
            token: str = "",
            ports: Ports | None = None,
        ) -> None:
            """Close a device except for `exemptions` and `windows`; this replaces all previous rules for it.  Check
            that the rules are in the kernel.

            device: the kernel's name; it need not exist yet.  ports: what it is made of; None if it is no bridge, bond
                or the like.
            token: for the windows, as in `open_window`; the tokens of other looks stay valid.
            Raises `GuardError`, `TokenGone`; then the previous rules stay.
            """

        def close_all(self, closings: Sequence[Closing]) -> None:
            """Close several devices at once, as `close` does without a token.

            Raises `GuardError`; then it is uncertain which of them are closed.
            """

        def change_ports(self, device: str, ports: Ports) -> None:
            """Replace the ports of a device, closed or open.  Raises `GuardError`."""

        def begin_look(self, device: str, token: str) -> None:
            """Put the token of a look into the firewall, as the look at a closed device's network begins.

            token: 8 lower-case hexadecimal digits, random.  It stays valid until it opens the window `OPEN`, until
            that window is shut, or until the firewall forgets it: nftables after an hour, iptables after 16 other
            looks at the device's network.
            Raises `GuardError`, also if the device is not guarded.
            """

        def begin_looks(self, tokens: Mapping[str, str]) -> None:
            """As `begin_look` for several devices at once: tokens by device.  Raises `GuardError`; then none of the
            tokens is valid.
            """

        def open_window(self, device: str, window: Window, token: str = "") -> None:
            """Open a window of a closed device; this replaces the window of the same name.  Raises `GuardError`.

            token: of the look that led to the decision to open; the window `OPEN` needs one.  The same transaction
            removes it.  If `OPEN` was shut since that look began, raises `TokenGone`, and opens nothing.  A change of
            the network shuts all windows.
            """

        def renew_window(self, device: str, window: Window) -> bool:
            """Keep an open window open until `window.until`.  If it is shut, return False, and open nothing.

            Raises `GuardError`.
            """

        def is_open(self, device: str) -> bool:
            """Return whether everything passes now: the window `OPEN` is open, or there are no rules for the device.

            Raises `GuardError` if the firewall can't be asked.
            """

        def shut_window(self, device: str, *names: str) -> None:
            """Shut those of these windows that are open.  With `OPEN`, the same transaction removes the tokens of all
            looks.

            Raises `GuardError`.
            """

        def shut_all(self, windows: Mapping[str, Sequence[str]]) -> None:
            """As `shut_window` for several devices at once: the names of their windows, by device.  Raises
            `GuardError`; then it is uncertain which of them are shut.
            """

        def lift(self, device: str) -> None:
            """Remove all rules for a device; with the last device, also what the devices share.  Raises `GuardError`.
            """

        def find_fallen(self, devices: Sequence[str]) -> dict[str, str]:
            """Return those of `devices` whose rules are not as they were installed, each with the problem in words;
            `UNHOOKED` if only the hook for the device's frames is missing.  Raises `GuardError`.
            """

        def list_devices(self) -> tuple[str, ...]:
            """Return the devices that have rules in this firewall.  Raises `GuardError`."""


# The firewalls that see what a bridge forwards from one port to another.
SEE_GUESTS = ("nftables",)

# The firewalls that `netconf-guard-backend` can name, in the order in which ``auto`` tries them, each a module here.
BACKENDS = ("nftables", "iptables")


# The loaded firewalls, by process and name.  A child keeps its parent's in memory, but does not use them: freeing a
# context of libnftables would close descriptors.
_LOADED: dict[tuple[int, str], AnyFirewall] = {}


def load_firewall(name: str, thorough: bool = False) -> AnyFirewall:
    """Return the firewall of that name.  Raises `GuardError` if it does not work here, or there is none of that name.

    name: one of `BACKENDS`, or `AnyFirewall.name`, as the records have it.
    thorough: whether to check that the kernel has everything that the rules need, even if that takes a program's run.

    A firewall is loaded once in each process.  A child loads its own, since libnftables has a socket.
    """
    backend, _, variant = name.partition("-")
    if name not in (*BACKENDS, *FIREWALLS):
        raise GuardError(f"there is no firewall {name!r}: expected {' or '.join(BACKENDS)}")
    if not thorough and (os.getpid(), name) in _LOADED:
        return _LOADED[os.getpid(), name]
    # Not importlib.import_module, which does the same, but importing importlib takes 0.45 ms.
    make = __import__(f"{__name__}.{backend}", fromlist=("Firewall",)).Firewall
    guard: AnyFirewall = make(thorough, variant) if variant else make(thorough)
    if name in FIREWALLS:  # the admin may choose another iptables
        _LOADED[os.getpid(), name] = guard
    return guard


def choose_firewall(backend: str = "auto", standing: Collection[str] = ()) -> AnyFirewall:
    """Return the firewall for ``netconf-guard-backend``: with ``auto`` the first that works here.

    standing: the names (`AnyFirewall.name`) of firewalls that have guards already: these need no thorough check.
    Raises `GuardError` if none works, with the reason for each.
    """
    reasons = []
    for name in BACKENDS if backend == "auto" else (backend,):
        try:
            guard = load_firewall(name) if standing else None
            return guard if guard and guard.name in standing else load_firewall(name, thorough=True)
        except GuardError as error:
            reasons.append(f"{name}: {error}")
    raise GuardError("; ".join(reasons))
