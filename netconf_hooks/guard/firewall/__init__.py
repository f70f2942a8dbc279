"""The kill switch: nothing leaves through a guarded link but what is let through.  One module a firewall.

What a guard lets through is one list of exemptions, the same for every firewall; each module here turns it into its own
rules.  Only this package touches the firewall.  What every closed link lets through (ARP, the DHCP client's
broadcasts, neighbour and router discovery as the kernel makes them, what an IPsec policy will encrypt) is no exemption:
it stands in each module.

A new firewall is a module here with a class `Firewall`, and one line in `BACKENDS`.
"""

from __future__ import annotations

import os

from netconf_hooks.record import Record
from netconf_hooks.state import FIREWALLS as FIREWALLS
from netconf_hooks.system.addresses import read_prefix
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
UNHOOKED = "its device has come since it was put up"
"""What is wrong with a guard that does not see its device's frames yet, and otherwise stands."""

WINDOWS = (OPEN, PORTAL, PROBE, NAMES, LAN)
"""The windows that a guard has: the link is trusted; a captive portal; a probe of ours; a daemon's own look-up; the
LAN that the link is on (``netconf-guard-allow lan``), which is shut when the link leaves it."""

JOINS = {
    4: ("224.0.0.22", "224.0.0.2", "224.0.0.251", "224.0.0.252", "239.255.255.250"),
    6: ("ff02::fb", "ff02::1:3", "ff02::c"),
}
"""To which groups, by version, the kernel reports that it is in one of those by which devices are found on a LAN: while
the window `LAN` is open this passes, with a TTL or hop limit of 1.  IGMP: all of its routers (RFC 3376 4.2.14; RFC 2236
9), and the groups themselves in version 1 and 2.  MLD: version 1; reports of version 2 always pass."""


class Exemption(Record):
    """One thing that may leave through a guarded link; a packet passes that matches all of it.

    protocol: ``udp``, ``tcp``, ``esp`` or empty for any.
    network: the destination, ``ADDRESS/LENGTH``, no host bits set; empty for any of both families.
    port, source_port: of udp and tcp; 0 for any.
    uids: the owner of the sending socket is one of these; empty for any.  mark: of the packet, 0 for any.
    reply: whether only answers pass, to who came in by `source_port`.
    guests: whether the guests of a bridge may send this as well; not written down by str().
    """

    __slots__ = ("protocol", "network", "port", "source_port", "uids", "mark", "reply", "guests")

    def __init__(
        self,
        protocol: str = "",
        network: str = "",
        port: int = 0,
        source_port: int = 0,
        uids: tuple[int, ...] = (),
        mark: int = 0,
        reply: bool = False,
        guests: bool = False,
    ) -> None:
        self.protocol = protocol
        self.network = network
        self.port = port
        self.source_port = source_port
        self.uids = uids
        self.mark = mark
        self.reply = reply
        self.guests = guests

    def __str__(self) -> str:
        uids = ",".join(map(str, self.uids))
        fields = (self.protocol, self.network, self.port, self.source_port, uids, self.mark, int(self.reply))
        return "\t".join(map(str, fields))


def parse_exemption(text: str) -> Exemption:
    """Return the exemption that str() has written.  Raises ValueError."""
    protocol, network, port, source_port, uids, mark, reply = text.split("\t")
    users = tuple(int(uid) for uid in uids.split(",") if uid)
    return Exemption(protocol, network, int(port), int(source_port), users, int(mark), reply == "1")


class Window(Record):
    """Openings for a time, after which the kernel closes them whatever happens to us.

    name: one of `WINDOWS`; a link has at most one of each.
    until: when it closes, in seconds since 1970 (time.time()); also the limit where the machine sleeps meanwhile.
    Infinite for `LAN`, which no clock closes.
    """

    __slots__ = ("name", "exemptions", "until")

    def __init__(self, name: str, exemptions: tuple[Exemption, ...], until: float) -> None:
        self.name = name
        self.exemptions = exemptions
        self.until = until


class Closing(Record):
    """What a closed device lets through: see `AnyFirewall.close`."""

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
    """A guard can't be put up, opened or lifted; the message says why, in the admin's words."""


class TokenGone(GuardError):
    """The guard was shut after the look began whose token was to open it: only a newer look may open it."""

    def __init__(self, device: str) -> None:
        super().__init__(f"{device}: the guard was shut after this look at the network had begun")


# What a name may be made of that becomes part of a rule: nothing of it means anything to a firewall.  The kernel allows
# all but ``/``, ``:`` and white space (dev_valid_name, net/core/dev.c); nft(8) has ``*`` for a pattern, iptables ``+``.
_DEVICE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_PORTS, _NUMBERS = 2**16, 2**32


def check_device(device: str) -> None:
    """Raise `GuardError` for a name that can't stand in a rule as it is."""
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
    prefix = read_prefix(network) if "/" in network else None
    if prefix is None or int.from_bytes(prefix[0], "big") % (1 << (8 * len(prefix[0]) - prefix[1])):
        raise GuardError(f"not a network: {network!r}")
    return prefix


def check_exemption(exemption: Exemption) -> None:
    """Raise `GuardError` for an exemption that no packet can match or that says less than it seems to."""
    if exemption.network:
        read_network(exemption.network)
    ports = (exemption.port, exemption.source_port)
    if not (
        exemption.protocol in ("", "udp", "tcp", "esp")
        and all(0 <= port < _PORTS for port in ports)
        and all(0 <= uid < _NUMBERS - 1 for uid in exemption.uids)
        and 0 <= exemption.mark < _NUMBERS
        and not (exemption.protocol == "esp" and any(ports))
        and not (exemption.reply and not (exemption.protocol in ("udp", "tcp") and exemption.source_port))
    ):
        raise GuardError(f"no firewall can let this through: {exemption!r}")


if TYPE_CHECKING:

    class AnyFirewall(Protocol):
        """What every firewall can do.  Each call is one transaction, or as near to that as the firewall gets."""

        name: str
        """What `load_firewall` takes: for iptables with its variant, ``iptables-nft``."""
        has_lease: bool
        """Whether the window `OPEN` ends by itself, as the others do."""
        has_news: bool
        """Whether the kernel tells (NFNLGRP_NFTABLES) when somebody changes the rules; else one has to look."""
        lacks: tuple[str, ...]
        """What it can't do, each in words for `check`: ``no egress chain: nothing stops raw frames ...``."""

        def close(
            self,
            device: str,
            exemptions: tuple[Exemption, ...],
            windows: tuple[Window, ...] = (),
            token: str = "",
            ports: Ports | None = None,
        ) -> None:
            """Close a device but for `exemptions` and `windows`, in place of whatever stood for it, and read back that
            it stands.

            device: the kernel's name; it need not exist yet.  ports: what it is made of, None for a card.
            token: for the windows, as in `open_window`; the tokens of other looks stay valid.
            Raises `GuardError`, `TokenGone`; then what stood before stands.
            """

        def close_all(self, closings: Sequence[Closing]) -> None:
            """Close several devices at once, as `close` does without a token: all or, if it raises, none of them for
            certain.  Raises `GuardError`.
            """

        def change_ports(self, device: str, ports: Ports) -> None:
            """Tell a closed or open link's firewall what it is made of now.  Raises `GuardError`."""

        def begin_look(self, device: str, token: str) -> None:
            """Remember in the firewall that a look at the network of a closed device begins.

            token: 8 lower-case hexadecimal digits, random.  It stays valid until it opens the window `OPEN`, until
            that window is shut, or until the firewall forgets it, after ten minutes at the earliest.
            Raises `GuardError`, also where the device is not guarded.
            """

        def begin_looks(self, tokens: Mapping[str, str]) -> None:
            """As `begin_look` for several devices at once: tokens by device.  Raises `GuardError`; then no look has
            begun.
            """

        def open_window(self, device: str, window: Window, token: str = "") -> None:
            """Open a window of a closed device, in place of that of the same name.  Raises `GuardError`.

            token: of the look that the decision to open rests on; for the window `OPEN` there has to be one.  The
            same transaction removes it; raises `TokenGone`, and opens nothing, if `OPEN` was shut since that look
            began, as it is with all other windows when the network changes.
            """

        def renew_window(self, device: str, window: Window) -> bool:
            """Let a window that is open stay so until `window.until`; return False, opening nothing, if it is shut.

            Raises `GuardError`.
            """

        def is_open(self, device: str) -> bool:
            """Return whether the firewall lets everything through now: the window `OPEN` is open, or nothing stands.

            Raises `GuardError` if the firewall can't be asked.
            """

        def shut_window(self, device: str, *names: str) -> None:
            """Shut windows, as far as they are open, at once.  `OPEN`: the same transaction removes the tokens of all
            looks.

            Raises `GuardError`.
            """

        def shut_all(self, windows: Mapping[str, Sequence[str]]) -> None:
            """As `shut_window` for several devices at once: the names of their windows, by device.  Raises
            `GuardError`; then it is not certain that any of them is shut.
            """

        def lift(self, device: str) -> None:
            """Take away all that stands for a device; where it is the last one, everything.  Raises `GuardError`."""

        def find_fallen(self, devices: Sequence[str]) -> dict[str, str]:
            """Return those of `devices` whose guard does not stand as it was put up, each with what is wrong in words:
            `UNHOOKED` if only its device came after it.  What stands is listed once for all.  Raises `GuardError`.
            """

        def list_devices(self) -> tuple[str, ...]:
            """Return the devices that have a guard in this firewall, by its own account.  Raises `GuardError`."""


# Those that see what a bridge forwards from one port to another.
HOLD_GUESTS = ("nftables",)

# The firewalls that `netconf-guard-backend` can name, in the order in which ``auto`` tries them, each a module here.
BACKENDS = ("nftables", "iptables")


# By process and name.  A parent's stay in a child's memory: to free libnftables' would close descriptors.
_LOADED: dict[tuple[int, str], AnyFirewall] = {}


def load_firewall(name: str, thorough: bool = False) -> AnyFirewall:
    """Return the firewall of that name.  Raises `GuardError` if it does not work here, or there is none of that name.

    name: one of `BACKENDS`, or what a guard calls itself (`AnyFirewall.name`), as it stands in the records.
    thorough: whether to ask the kernel for everything that the rules need, even if that takes a program's run.

    What was loaded once is used again in the same process; a child's is its own, since libnftables has a socket.
    """
    from importlib import import_module

    backend, _, variant = name.partition("-")
    if name not in (*BACKENDS, *FIREWALLS):
        raise GuardError(f"there is no firewall {name!r}: expected {' or '.join(BACKENDS)}")
    if not thorough and (os.getpid(), name) in _LOADED:
        return _LOADED[os.getpid(), name]
    make = import_module(f"{__name__}.{backend}").Firewall
    guard: AnyFirewall = make(thorough, variant) if variant else make(thorough)
    if name in FIREWALLS:  # the admin may choose another iptables
        _LOADED[os.getpid(), name] = guard
    return guard


def choose_firewall(backend: str = "auto", standing: Collection[str] = ()) -> AnyFirewall:
    """Return the firewall for ``netconf-guard-backend``: with ``auto`` the first that works here.

    standing: the firewalls that guards are in already, by `AnyFirewall.name`: the kernel knows all that these need.
    Raises `GuardError` where none does, with the reason of each.
    """
    reasons = []
    for name in BACKENDS if backend == "auto" else (backend,):
        try:
            guard = load_firewall(name) if standing else None
            return guard if guard and guard.name in standing else load_firewall(name, thorough=True)
        except GuardError as error:
            reasons.append(f"{name}: {error}")
    raise GuardError("; ".join(reasons))
