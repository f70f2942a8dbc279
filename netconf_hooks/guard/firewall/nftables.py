"""The guard by nftables, through libnftables in this process (python3-nftables, libnftables(3)); nft(8) has the words.

Two tables are ours alone, and nothing of anybody else's is touched:

``inet netconf-guard`` is the authority.  It decides what IP sends, before neighbours are asked for it.  Its chain
``postrouting`` stands behind every re-routing (the hook ``output`` still sees the old interface after a DNAT or a mark
of the admin's), and at priority 350 behind everybody's source NAT.  ``forward`` drops what comes from elsewhere, but
for an open link and what IPsec will encrypt.  ``output`` is comfort: a local connection that will come to nothing is
refused at once instead of hanging.

``netdev netconf-guard`` looks at every frame of the device (hook ``egress``, kernel 5.16): raw ones, those of macvlan
and VLAN children, of a bridge that the device is a port of.  It knows no connections, and users only of sockets in this
network namespace, so it lets through all frames of the shape that the first lets through, and never replaces it.

``bridge netconf-guard`` holds the guests of a guarded bridge: see `bridge`, which also holds what leaves by the ports'
own devices.

A device has chains of its own in both, which hang in the maps `out`, `refuse` and `forward` by its name, and in a hook
on the device.  To close is to flush and fill them in one transaction: a packet meets the old rules or the new ones,
nothing between.  Hooks and maps stay where they are: a hook that is replaced is there twice for a moment.

A window is a chain that each packet is sent through while the device is an element of a set with a timeout, which the
kernel keeps.  Such timeouts stand still while the machine sleeps, so the chain's first rule also looks at the clock.

The tokens of looks (`AnyFirewall.begin_look`) are elements of the set ``token-DEVICE``.  A transaction that begins by
deleting an element fails as a whole if the element is missing; so exemption fails once somebody has shut the window.
"""

from __future__ import annotations

import itertools
import os
import time
from _socket import AF_INET, if_nametoindex, inet_ntop

from netconf_hooks.guard.firewall import (
    Closing, GuardError, JOINS, LAN, OPEN, Exemption, Ports, TokenGone, UNHOOKED, WINDOWS, Window, check_device,
    check_exemption, check_token, read_network
)  # fmt: skip
from netconf_hooks.system import nf_tables
from netconf_hooks.system.netlink import NetlinkError, read_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from netconf_hooks.system.nf_tables import Chain, Tables

INET = "inet netconf-guard"
NETDEV = "netdev netconf-guard"
BRIDGE = "bridge netconf-guard"
EARLY = "inet netconf-guard-early"

# Which chain of a device decides in which hook: by the map of that name, from the device to its chain ``MAP-DEVICE``.
# 350: behind all standard priorities of nft(8), up to srcnat at 100, and the last of linux/netfilter_ipv4.h, at 300.
HOOKS = {
    "output": ("type filter hook output priority 10; policy accept;", 10),
    "forward": ("type filter hook forward priority 10; policy accept;", 10),
    "postrouting": ("type filter hook postrouting priority 350; policy accept;", 350),
}
BASE_RULES = {
    # What carries a mark may be routed anew because of it by a hook still to come: not ours to refuse here.
    "output": "meta l4proto tcp meta mark 0 oifname vmap @refuse",
    "forward": "oifname vmap @forward",
    "postrouting": "oifname vmap @out",
}
MAPS = ("refuse", "forward", "out")
_NUMBERS = {"output": nf_tables.OUTPUT, "forward": nf_tables.FORWARD, "postrouting": nf_tables.POSTROUTING}
_FAMILIES = {"inet": nf_tables.INET, "netdev": nf_tables.NETDEV, "bridge": nf_tables.BRIDGE}

# A router solicitation, RFC 4861 4.1, with one or two link-layer addresses as its options: nothing else fits in.
_SOLICITATION = "icmpv6 type nd-router-solicit ip6 nexthdr icmpv6 ip6 hoplimit 255 ip6 daddr ff02::2 ip6 length <= 24"
_NEIGHBOURS = (
    "ip6 nexthdr icmpv6 ip6 hoplimit 255 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } icmpv6 code 0"
)
# RFC 3810 5.2.14, RFC 2710 5; of the groups only those that every host is in.
_LISTENERS = tuple(
    f"ip6 hoplimit 1 ip6 daddr {group} icmpv6 type {kind}"
    for group, kind in (
        ("ff02::16", "mld2-listener-report"),
        ("ff02::2", "mld-listener-done"),
        ("ff02::1:ff00:0/104", "mld-listener-report"),
    )
)
_DHCP = "udp sport 68 udp dport 67 ip daddr 255.255.255.255"
# All_DHCP_Relay_Agents_and_Servers, and a server that asked to be spoken to itself (RFC 8415 7.1, 18.2.10).
_DHCP6 = "udp sport 546 udp dport 547 ip6 daddr { ff02::1:2, fe80::/10 }"

# ND and MLD, which only the kernel may send, whose sockets have no user; and a socket of any user.
_KERNELS_OWN = (
    "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect, "
    "mld2-listener-report, mld-listener-report, mld-listener-done }"
)
_USER = "meta skuid 0-4294967294"

# What every closed link lets through.
ALWAYS = (
    f"{_DHCP} accept",
    f"{_DHCP6} accept",
    # dhcpcd solicits routers itself, in place of the kernel.
    f"{_SOLICITATION} accept",
    # All other ND and MLD is the kernel's own: what a process made up has a user.
    f"{_KERNELS_OWN} {_USER} drop",
    f"{_NEIGHBOURS} accept",
    *(f"{listener} accept" for listener in _LISTENERS),
    # A policy will encrypt it: ip-xfrm(8).
    "rt ipsec exists accept",
)

# What passes on a LAN besides what its window lets through: the kernel's own reports of the groups by which devices are
# found.  All other ND and MLD is left to `ALWAYS`, whatever prefixes the LAN has.
_JOINS = (
    f"ip ttl 1 ip protocol igmp ip daddr {{ {', '.join(JOINS[4])} }}",
    f"ip6 hoplimit 1 icmpv6 type mld-listener-report ip6 daddr {{ {', '.join(JOINS[6])} }}",
)
LAN_RULES = (
    *(f"{join} {_USER} return" for join in _JOINS),
    *(f"{join} accept" for join in _JOINS),
    f"{_KERNELS_OWN} return",
)
LAN_FRAMES = tuple(f"{join} accept" for join in _JOINS)

# The same as `ALWAYS` in the shape of frames.  Frames with a VLAN's tag are those of a child: closed, whatever is in
# them.  The ether type is read at its place as well as in the packet's own field, which whoever sends a raw frame may
# fill as he likes (packet(7)); `ether type` would ask for the incoming device's type here, and there is none.  Links of
# another kind (InfiniBand) have something else at that place.
_ETHERNET = (
    "meta oiftype ether @ll,96,16 { 0x8100, 0x88a8 } drop",
    # Sent as something else, it would still be read as IP by the rules below.
    "meta oiftype ether meta protocol ip @ll,96,16 != 0x0800 drop",
    "meta oiftype ether meta protocol ip6 @ll,96,16 != 0x86dd drop",
)
FRAMES = (
    *(
        f"meta protocol {kind} @ll,96,16 {kind} accept"
        for kind in ("0x0806", "0x888e", "0x88c7")  # ARP; 802.1X and its pre-authentication (linux/if_ether.h)
    ),
    f"{_DHCP} accept",
    f"{_DHCP6} accept",
    f"{_SOLICITATION} accept",
    f"{_NEIGHBOURS} accept",
    *(f"{listener} accept" for listener in _LISTENERS),
)

# The first kernel with the hook egress; it may still have been built without (CONFIG_NETFILTER_EGRESS).
EGRESS_SINCE = (5, 16)
# Where the kernel lists its devices; a bridge has a directory of this name there.
SYSFS = "/sys/class/net"

NO_EGRESS = "no egress chain (kernel 5.16 has it): nothing stops raw frames, nor those of a macvlan, VLAN or bridge"

# EOPNOTSUPP and ENOENT as strerror(3) says them; nothing of ours calls setlocale(3).
_NOT_SUPPORTED, _NOT_FOUND = "not supported", "No such file or directory"

# How long the token of a look stays valid that opened nothing and was never shut, minutes: no look takes longer.
_TOKEN_TIME = 60

_DAY = 86400
_LONGEST = 3650 * _DAY  # seconds that a window is open at most
_NO_CHAIN = "no chain "
_FEW = 3  # of so many guards each is asked for, of more all tables are listed once
_ATTEMPTS = 3  # the device may come and go meanwhile, and another program change its tables


def render_exemption(exemption: Exemption) -> str:
    """Return what a packet of this exemption matches, for the family inet; empty for any packet.

    Raises `GuardError` for an exemption that can't be.
    """
    check_exemption(exemption)
    matches = [_render_network(exemption, "meta nfproto"), _render_ports(exemption), _render_users(exemption)]
    if exemption.mark:
        matches.append(f"meta mark {exemption.mark:#x}")
    if exemption.reply:
        matches.append("ct direction reply")
    return " ".join(filter(None, matches))


def render_frames(exemption: Exemption) -> tuple[str, ...]:
    """Return what a frame of this exemption matches, for the family netdev: any one of these.

    Whether it is a reply is not known here.  Its user is, if the socket is in this network namespace: so what a
    container sends through a macvlan does not match.  A packet may have been cut into fragments meanwhile, of which
    only the first tells the ports.
    """
    check_exemption(exemption)
    network = _render_network(exemption, "meta protocol")
    mark = f"meta mark {exemption.mark:#x}" if exemption.mark else ""
    owner = " ".join(filter(None, (_render_users(exemption), mark)))
    if exemption != Exemption() and not (network or exemption.protocol or exemption.port or exemption.source_port):
        network = "meta protocol { ip, ip6 }"  # whatever else it is for, IP it is
    found = [" ".join(filter(None, (network, _render_ports(exemption), owner)))]
    if exemption.port or exemption.source_port:
        protocol = f"meta l4proto {exemption.protocol or '{ tcp, udp }'}"
        version = _get_version(exemption)
        if version != 6:
            found.append(" ".join(filter(None, ("ip frag-off & 0x1fff != 0", protocol, network, owner))))
        if version != 4:
            found.append(" ".join(filter(None, ("frag frag-off != 0", protocol, network, owner))))
    return tuple(found)


def build_chains(
    device: str, exemptions: tuple[Exemption, ...], windows: tuple[Window, ...], now: float, decided: str = ""
) -> dict[str, tuple[str, ...]]:
    """Return the rules of a device's chains in the table inet, by chain.

    now: as time.time(); decided: what is matched by a bridge's frames that were let through already.
    """
    passed = (f"{decided} accept",) if decided else ()
    passing = (
        *passed,
        *(f"oifname @{name}-{device} jump {name}-{device}" for name in WINDOWS),
        *ALWAYS,
        *(f"{render_exemption(exemption)} accept".lstrip() for exemption in exemptions),
    )
    drop = f'counter name "dropped-{device}" drop'
    chains = {
        f"pass-{device}": passing,
        # The number is for whoever looks whether they still stand: `Firewall.find_fallen`.
        f"out-{device}": (f"jump pass-{device}", f'{drop} comment "behind {len(passing)} rules"'),
        f"forward-{device}": (
            *passed,
            f"oifname @{OPEN}-{device} jump {OPEN}-{device}",
            "rt ipsec exists accept",
            drop,
        ),
        # Only new connections: those that are open are not cut where a link is closed for a moment.  What the admin's
        # NAT redirects may be on its way elsewhere already, which this hook is not told.
        f"refuse-{device}": (
            "tcp flags & (fin | syn | rst | ack) != syn accept",
            "ct status dnat accept",
            f"jump pass-{device}",
            "reject with tcp reset",
        ),
    }
    found = {window.name: window for window in windows if window.until > now}
    for name in WINDOWS:
        chains[f"{name}-{device}"] = build_window(found[name]) if name in found else ()
    return chains


def build_window(window: Window) -> tuple[str, ...]:
    """Return the rules of a window's chain in the table inet."""
    first = LAN_RULES if window.name == LAN else (render_end(window),)
    return (*first, *(f"{render_exemption(exemption)} accept".lstrip() for exemption in window.exemptions))


def build_frame_chains(
    device: str, exemptions: tuple[Exemption, ...], windows: tuple[Window, ...], now: float
) -> dict[str, tuple[str, ...]]:
    """Return the rules of a device's chains in the table netdev, by chain."""
    passing = (
        f"jump {OPEN}-{device}",
        *_ETHERNET,
        *(f"jump {name}-{device}" for name in WINDOWS if name != OPEN),
        *FRAMES,
        *(f"{match} accept".lstrip() for exemption in exemptions for match in render_frames(exemption)),
    )
    chains = {
        f"frames-{device}": (*passing, f'counter name "dropped-{device}" drop comment "behind {len(passing)} rules"')
    }
    found = {window.name: window for window in windows if window.until > now}
    for name in WINDOWS:
        chains[f"{name}-{device}"] = build_frame_window(found[name]) if name in found else ()
    return chains


def build_frame_window(window: Window) -> tuple[str, ...]:
    """Return the rules of a window's chain in the table netdev."""
    matches = (match for exemption in window.exemptions for match in render_frames(exemption))
    first = LAN_FRAMES if window.name == LAN else (render_end(window),)
    return (*first, *(f"{match} accept".lstrip() for match in matches))


class Firewall:
    """The guard by nftables.

    thorough: makes no difference here, where the kernel is asked in any case.
    Raises `GuardError` where python3-nftables is missing, or the kernel or a lack of rights says no.
    """

    name = "nftables"
    has_lease = True
    has_news = True

    def __init__(self, thorough: bool = False) -> None:
        self._asking = _Asking()
        try:
            import nftables

            self._nft = nftables.Nftables()
        except (ImportError, OSError, AttributeError) as error:  # the last two: no libnftables, a strange one
            raise GuardError(f"python3-nftables is missing: {error}") from None
        # Not `list tables`, for which libnftables fetches all of everybody's rules.
        problem = self._nft.cmd(f"list map {INET} out")[2]
        if problem and _NOT_FOUND not in problem:
            raise GuardError(_first_line(problem))
        self.lacks: tuple[str, ...] = ()
        if _read_version(os.uname().release) < EGRESS_SINCE:
            self.lacks = (NO_EGRESS,)

    def close(
        self,
        device: str,
        exemptions: tuple[Exemption, ...],
        windows: tuple[Window, ...] = (),
        token: str = "",
        ports: Ports | None = None,
    ) -> None:
        """See `AnyFirewall.close`.  The egress chain is added where the device exists."""
        self._close([Closing(device, exemptions, windows, ports)], token if windows else "")

    def close_all(self, closings: Sequence[Closing]) -> None:
        """See `AnyFirewall.close_all`: it is one transaction."""
        self._close(closings)

    def _close(self, closings: Sequence[Closing], token: str = "") -> None:
        """Close devices in one transaction.  token: for the first one's windows, if it has any."""
        commands: list[str] = []
        frames: dict[str, list[str]] = {}
        wanted: dict[str, dict[tuple[str, str], int | None]] = {}
        of_netdev: dict[str, dict[tuple[str, str], int]] = {}
        bridges = set()
        now = time.time()
        for device, exemptions, windows, ports in (
            (each.device, each.exemptions, each.windows, each.ports) for each in closings
        ):
            check_device(device)
            parts, decided = self._render_parts(device, ports, exemptions, windows, now) if ports else ([], "")
            chains = build_chains(device, exemptions, windows, now, decided)
            of_frames = build_frame_chains(device, exemptions, windows, now)
            commands += _fill(INET, device, chains, _render_hooks(device))
            for window in windows:
                commands += _render_element(device, window, now)
            commands += parts
            frames[device] = _fill(NETDEV, device, of_frames, ())
            wanted[device] = {(INET, chain): len(rules) for chain, rules in chains.items()}
            wanted[device] |= {(INET, chain): 1 for chain in HOOKS}
            of_netdev[device] = {(NETDEV, chain): len(rules) for chain, rules in of_frames.items()}
            if decided:
                bridges.add(device)
        if token:
            commands = _take_token(closings[0].device, token) + commands
        try:
            hooked = self._put(commands, frames)
        except GuardError as error:
            raise _find_gone(error, closings[0].device, token) from None
        for device in () if self.lacks else of_netdev:
            wanted[device] |= of_netdev[device]
        for device in hooked:
            wanted[device][NETDEV, f"egress-{device}"] = 1
        if problems := self._find_problems(wanted, bridges):
            device = next(iter(problems))
            raise GuardError(f"{device}: the firewall does not hold what was put in it: {problems[device]}")

    def change_ports(self, device: str, ports: Ports) -> None:
        """See `AnyFirewall.change_ports`.  Nothing is written where it knows them."""
        check_device(device)
        from netconf_hooks.guard.firewall import bridge

        same = self._list_names(INET, f"ports-{device}") == frozenset(bridge.list_nameable(ports.outside))
        for name, indexes in (("guests", ports.guests), ("others", ports.others)) if ports.bridge else ():
            same = same and self._list_indexes(f"{name}-{device}") == frozenset(indexes)
        if not same:
            members = bridge.render_members(device, ports) if ports.bridge else []
            self._run(device, *bridge.render_ports(device, ports), *members)

    def begin_look(self, device: str, token: str) -> None:
        """See `AnyFirewall.begin_look`."""
        self.begin_looks({device: token})

    def begin_looks(self, tokens: Mapping[str, str]) -> None:
        """See `AnyFirewall.begin_looks`."""
        for device in tokens:
            check_device(device)
        commands = (
            f"add element {INET} token-{device} {{ {_render_token(token)} timeout {_TOKEN_TIME}m }}"
            for device, token in tokens.items()
        )
        if not self._change_window(", ".join(tokens), *commands):
            raise GuardError(f"{', '.join(tokens)}: not guarded, so no look can open it")

    def open_window(self, device: str, window: Window, token: str = "") -> None:
        """See `AnyFirewall.open_window`."""
        check_device(device)
        if window.until <= time.time():
            self.shut_window(device, window.name)
            return
        commands = self._fill_window(device, window)
        if token:
            commands = _take_token(device, token) + commands
        if self._change_window(device, *commands):
            return
        if token:
            raise TokenGone(device)
        raise GuardError(f"{device}: not guarded, so no window of it can be opened")

    def renew_window(self, device: str, window: Window) -> bool:
        """See `AnyFirewall.renew_window`."""
        check_device(device)
        if window.until <= time.time():
            raise GuardError(f"{device}: can't be renewed into the past")
        gone = f'delete element {INET} {window.name}-{device} {{ "{device}" }}'
        return self._change_window(device, gone, *self._fill_window(device, window))

    def is_open(self, device: str) -> bool:
        """See `AnyFirewall.is_open`."""
        check_device(device)
        # An element whose time is over is not found, though it may be listed until the kernel collects it.
        return self._has_element(f"{OPEN}-{device}", device) or not self._has_element("out", device)

    def shut_window(self, device: str, *names: str) -> None:
        """See `AnyFirewall.shut_window`."""
        commands, frames, guests = self._render_shutting(device, names)
        # Somebody may have taken a table away alone: what IP sends is judged by the first one.
        for more in ((*frames, *guests), frames, guests, ()):
            if self._change_window(device, *commands, *more):
                return
        for name in names if len(names) > 1 else ():
            self.shut_window(device, name)  # the rules of an older version lack one of them

    def shut_all(self, windows: Mapping[str, Sequence[str]]) -> None:
        """See `AnyFirewall.shut_all`: it is one transaction."""
        rendered = (self._render_shutting(device, names) for device, names in windows.items())
        self._run(", ".join(windows), *(command for parts in rendered for part in parts for command in part))

    def _render_shutting(self, device: str, names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
        """Return the commands that shut windows, those for frames, and those for a bridge's guests."""
        check_device(device)
        commands = [command for name in names for command in _flush_window(INET, device, name)]
        frames = [command for name in names for command in self._change_frames(device, name, ())]
        guests: list[str] = []
        if OPEN in names:
            commands += [_render_tokens(device), f"flush set {INET} token-{device}"]
            # What has gone may have been a bridge; and what is one may have become it since it was closed.
            if is_bridge(device) or not _exists(device):
                from netconf_hooks.guard.firewall.bridge import render_shutting

                guests = render_shutting(device)
        if LAN in names and is_bridge(device):
            from netconf_hooks.guard.firewall.bridge import render_leaving

            guests += render_leaving(device)
        return commands, frames, guests

    def lift(self, device: str) -> None:
        """See `AnyFirewall.lift`."""
        check_device(device)
        for attempt in range(_ATTEMPTS):
            commands = self._asking.list_parts(device)
            try:
                self._run(device, *commands)
                return
            except GuardError:
                if attempt == _ATTEMPTS - 1:
                    raise

    def find_fallen(self, devices: Sequence[str]) -> dict[str, str]:
        """See `AnyFirewall.find_fallen`.

        Where the kernel can and the device exists, its egress chain is part of it.
        """
        for device in devices:
            check_device(device)
        fallen: dict[str, str] = {}
        waiting = list(devices)
        for _ in range(_ATTEMPTS if devices else 0):
            # A list is taken in several steps, and torn where others change their tables meanwhile.
            standing = self._asking.read_tables() if len(waiting) > _FEW else None
            found = {device: self._find_standing_problem(device, standing) for device in waiting}
            fallen = {device: problem for device, problem in found.items() if problem}
            waiting = list(fallen)
            if not waiting:
                break
        return fallen

    def _find_standing_problem(self, device: str, standing: _Standing | None) -> str:
        """Return what of a guard does not stand, in words; empty if all of it does.

        standing: all that stands; None to ask the kernel for this device alone.
        """
        exists, bridge = _exists(device), is_bridge(device)
        wanted: dict[tuple[str, str], int | None] = {(INET, chain): 1 for chain in HOOKS}
        wanted |= {(INET, f"{name}-{device}"): None for name in WINDOWS}
        wanted |= {(INET, f"forward-{device}"): 4 if bridge else 3, (INET, f"refuse-{device}"): 4}
        if not exists:
            wanted[INET, f"forward-{device}"] = None  # it may have been closed as a bridge
        wanted |= {(INET, f"out-{device}"): 2, (INET, f"pass-{device}"): None}
        if not self.lacks:
            wanted |= {(NETDEV, f"{name}-{device}"): None for name in WINDOWS}
            wanted[NETDEV, f"frames-{device}"] = None
        problem = self._look(device, wanted, bridge, standing)
        if not problem and exists and not self.lacks:
            problem = self._look(device, {(NETDEV, f"egress-{device}"): 1}, False, standing)
            if problem.startswith(_NO_CHAIN):
                return UNHOOKED
        return problem

    def _render_parts(
        self, device: str, ports: Ports, exemptions: tuple[Exemption, ...], windows: tuple[Window, ...], now: float
    ) -> tuple[list[str], str]:
        """Return the commands for what a link is made of, and what a bridge's decided frames are matched by."""
        from netconf_hooks.guard.firewall import bridge

        commands = bridge.render_ports(device, ports)
        if not ports.bridge:
            return commands, ""
        by_bridge = not self._nft.cmd("\n".join(bridge.TRIAL))[0]
        commands += bridge.render_bridge(device, ports, exemptions, windows, now, by_bridge)
        return commands, bridge.DECIDED

    def _open_bridge(self, device: str, window: Window, now: float) -> list[str]:
        from netconf_hooks.guard.firewall.bridge import render_arriving, render_exemption

        return render_exemption(device, window, now) if window.name == OPEN else render_arriving(device, window)

    def close_early(self, device: str, seconds: float) -> None:
        """Close a device, in a table of its own, for so many seconds at most: before a mapping looks at it.

        The kernel opens it again by itself.  Raw frames are not judged.  Raises `GuardError`.
        """
        check_device(device)
        table = f"{EARLY}-{device}"
        self._run(
            device,
            f"add table {table}",
            f"delete table {table}",  # one that a killed script has left
            f"add table {table}",
            f"add set {table} closed {{ type ifname; flags timeout; }}",
            f'add element {table} closed {{ "{device}" timeout {max(1, round(seconds * 1000))}ms }}',
            f"add chain {table} postrouting {{ {HOOKS['postrouting'][0]} }}",
            f"add rule {table} postrouting oifname != @closed accept",
            *(f"add rule {table} postrouting {rule}" for rule in ALWAYS),
            f"add rule {table} postrouting counter drop",
        )

    def lift_early(self, device: str) -> None:
        """Take away what `close_early` has put up, if it is still there.  Raises `GuardError`."""
        check_device(device)
        self._run(device, f"add table {EARLY}-{device}", f"delete table {EARLY}-{device}")

    def list_devices(self) -> tuple[str, ...]:
        """See `AnyFirewall.list_devices`."""
        return tuple(sorted({device for name in MAPS for device in self._list_names(INET, name) or ()}))

    def _put(self, commands: list[str], frames: Mapping[str, list[str]]) -> list[str]:
        """Run the transaction, with what looks at `frames`, by device, where the kernel can.

        Returns the devices that it is hooked to, which are those that exist.
        """
        names = ", ".join(frames)
        again: dict[str, list[str]] = {}
        for attempt in range(_ATTEMPTS):
            hooked = [] if self.lacks else [device for device in frames if _exists(device)]
            whole = list(commands)
            for device, rules in {} if self.lacks else frames.items():
                whole += rules
                whole += again.get(device, []) + _hook_frames(device) if device in hooked else []
            try:
                self._run(names, *whole)
                return hooked
            except GuardError as error:
                if attempt == _ATTEMPTS - 1:
                    raise
                if hooked and _NOT_SUPPORTED in str(error):
                    self.lacks = (NO_EGRESS,)
                    continue
            # The hook may be on another device, which was called so before it was renamed.
            standing = self._asking.read_chains(NETDEV, [f"egress-{device}" for device in frames])
            again = {
                device: _delete_chains(NETDEV, [f"egress-{device}"])
                for device in frames if f"egress-{device}" in standing
            }  # fmt: skip
        raise AssertionError("not reached")

    def _has_element(self, name: str, device: str) -> bool:
        """Return whether a device is an element of a set or map.  Raises `GuardError`."""
        status, _, problem = self._nft.cmd(f'get element {INET} {name} {{ "{device}" }}')
        if status and _NOT_FOUND not in problem:
            raise GuardError(_first_line(problem))
        return not status

    def _fill_window(self, device: str, window: Window) -> list[str]:
        """Return the commands that replace a window by an open one."""
        now = time.time()
        return [
            *_flush_window(INET, device, window.name),
            *(f"add rule {INET} {window.name}-{device} {rule}" for rule in build_window(window)),
            *_render_element(device, window, now),
            *self._change_frames(device, window.name, build_frame_window(window)),
            *(self._open_bridge(device, window, now) if window.name in (OPEN, LAN) and is_bridge(device) else ()),
        ]

    def _change_window(self, device: str, *commands: str) -> bool:
        """Run a transaction that changes a window; returns whether there is one to be changed."""
        try:
            self._run(device, *commands)
        except GuardError as error:
            if _NOT_FOUND not in str(error):
                raise
            return False
        return True

    def _change_frames(self, device: str, name: str, rules: tuple[str, ...]) -> list[str]:
        if self.lacks:
            return []
        chain = f"{NETDEV} {name}-{device}"
        return [f"flush chain {chain}", *(f"add rule {chain} {rule}" for rule in rules)]

    def _find_problems(
        self, wanted: Mapping[str, Mapping[tuple[str, str], int | None]], bridges: Collection[str]
    ) -> dict[str, str]:
        """Return what of the `wanted` chains does not stand, in words, by device; nothing of those where all do.

        wanted: by device, the number of rules by table and chain; None where another rule tells it, or nobody cares.
        bridges: those that are bridges, whose guests are held, too.
        """
        problems: dict[str, str] = {}
        waiting = list(wanted)
        for _ in range(_ATTEMPTS):
            # Others may change their tables meanwhile.
            standing = self._asking.read_tables() if len(waiting) > _FEW else None
            found = {device: self._look(device, wanted[device], device in bridges, standing) for device in waiting}
            problems = {device: problem for device, problem in found.items() if problem}
            waiting = list(problems)
            if not waiting:
                break
        return problems

    def _look(
        self, device: str, wanted: Mapping[tuple[str, str], int | None], bridge: bool,
        standing: _Standing | None = None,
    ) -> str:
        """Return what of the `wanted` chains does not stand, in words, by one look: see `_find_problems`.

        standing: as for `_find_standing_problem`.
        """
        from netconf_hooks.guard.firewall.bridge import find_problem, list_chains

        for table in (INET, NETDEV):
            chains = {chain: count for (where, chain), count in wanted.items() if where == table}
            found = standing.chains[table] if standing else self._asking.read_chains(table, chains)
            for chain, count in chains.items():
                if problem := _compare(found, chain, count):
                    return f"{problem} in table {table}"
            problem = ""
            if f"out-{device}" in chains:
                problem = _compare_last(found, f"out-{device}", f"pass-{device}", 0)
                for name in MAPS:
                    if device not in (standing.maps[name] if standing else self._list_names(INET, name) or ()):
                        return f"no {device} in map {name}"
                if not self._asking.has_set(INET, f"token-{device}"):
                    return f"no set token-{device}"
            elif f"frames-{device}" in chains:
                problem = _compare_last(found, f"frames-{device}", f"frames-{device}", 1)
            if problem:
                return f"{problem} in table {table}"
        if not bridge:
            return ""
        if standing:
            return find_problem(standing.chains[BRIDGE], device)
        return find_problem(self._asking.read_chains(BRIDGE, list_chains(device)), device)

    def _list_names(self, table: str, name: str) -> frozenset[str] | None:
        """Return the devices that are the keys of a set or map; None if there is none of that name."""
        keys = self._asking.list_keys(table, name)
        return None if keys is None else frozenset(map(_read_device, keys))

    def _list_indexes(self, name: str) -> frozenset[int] | None:
        """Return the indexes that are the keys of a set in the table bridge; None if there is none of that name."""
        keys = self._asking.list_keys(BRIDGE, name)
        return None if keys is None else frozenset(map(read_number, keys))

    def _run(self, device: str, *commands: str) -> None:
        """Run commands as one transaction (libnftables(3), nft_run_cmd_from_buffer).  Raises `GuardError`."""
        if not commands:
            return
        status, _, problem = self._nft.cmd("\n".join(commands))
        if status:
            raise GuardError(": ".join(filter(None, (device, _first_line(problem)))))


def _get_version(exemption: Exemption) -> int:
    """Return 4 or 6, or 0 where an exemption is for both."""
    return 0 if not exemption.network else 6 if ":" in exemption.network else 4


def _render_network(exemption: Exemption, family: str) -> str:
    if not exemption.network:
        return ""
    address, length = read_network(exemption.network)
    version = _get_version(exemption)
    if not length:
        # A prefix of no bits is left out by nft(8), and its family with it.
        if family == "meta protocol":
            return f"{family} {'ip6' if version == 6 else 'ip'}"
        return f"{family} ipv{version}"
    if version == 4:
        return f"ip daddr {inet_ntop(AF_INET, address)}/{length}"
    groups = ":".join(address[i:i + 2].hex() for i in range(0, 16, 2))
    return f"ip6 daddr {groups}/{length}"


def _render_users(exemption: Exemption) -> str:
    return f"meta skuid {{ {', '.join(str(uid) for uid in sorted(set(exemption.uids)))} }}" if exemption.uids else ""


def _render_ports(exemption: Exemption) -> str:
    ports = ("sport", exemption.source_port), ("dport", exemption.port)
    if exemption.protocol in ("udp", "tcp") and (exemption.port or exemption.source_port):
        return " ".join(f"{exemption.protocol} {field} {port}" for field, port in ports if port)
    if exemption.protocol:
        return f"meta l4proto {exemption.protocol}"
    if exemption.port or exemption.source_port:
        return " ".join(("meta l4proto { tcp, udp }", *(f"th {field} {port}" for field, port in ports if port)))
    return ""


def render_end(window: Window) -> str:
    """Return the rule that ends a window by the clock."""
    # A whole number is one of seconds since 1970 here; the next one, lest the window closes before its time.
    return f"meta time >= {int(window.until) + 1} return"


def _render_element(device: str, window: Window, now: float) -> list[str]:
    """Return the command that makes the device an element of the window's set until it closes."""
    timeout = render_timeout(window, now)
    return [f'add element {INET} {window.name}-{device} {{ "{device}" timeout {timeout} }}'] if timeout else []


def render_timeout(window: Window, now: float) -> str:
    """Return how long a window is open from now on, as nft(8) reads it; empty where it is over."""
    left_ms = int(1000 * min(window.until - now, _LONGEST))
    if left_ms <= 0:
        return ""
    days, left_ms = divmod(left_ms, 1000 * _DAY)
    # nft(8) takes no number of milliseconds with more than eight digits.
    return f"{days}d{left_ms // 1000}s{left_ms % 1000}ms"


def _render_tokens(device: str) -> str:
    """Return the command that makes the set of tokens, which the rules of an older version lack."""
    return f"add set {INET} token-{device} {{ type mark; flags timeout; }}"


def _render_token(token: str) -> str:
    check_token(token)
    return f"0x{token}"


def _take_token(device: str, token: str) -> list[str]:
    """Return the command that removes a token; its transaction fails if the token is missing."""
    return [f"delete element {INET} token-{device} {{ {_render_token(token)} }}"]


def _find_gone(error: GuardError, device: str, token: str) -> GuardError:
    """Return the error of a transaction that began by taking `token`: `TokenGone` where that was missing."""
    if token and _NOT_FOUND in str(error):
        return TokenGone(device)
    return error


def _render_egress(device: str) -> str:
    return f'{{ type filter hook egress device "{device}" priority 0; policy drop; }}'


def _render_hooks(device: str) -> tuple[str, ...]:
    """Return the commands that put hooks, maps and sets, all but the device's own chains."""
    commands = [f"add map {INET} {name} {{ type ifname : verdict; }}" for name in MAPS]
    for chain, (hook, _) in HOOKS.items():
        commands.append(f"add chain {INET} {chain} {{ {hook} }}")
        commands += [f"flush chain {INET} {chain}", f"add rule {INET} {chain} {BASE_RULES[chain]}"]
    for name in WINDOWS:
        commands.append(f"add set {INET} {name}-{device} {{ type ifname; flags timeout; }}")
        commands.append(f"flush set {INET} {name}-{device}")
    commands.append(_render_tokens(device))
    commands += [f'add element {INET} {name} {{ "{device}" : jump {name}-{device} }}' for name in MAPS]
    return tuple(commands)


def _fill(table: str, device: str, chains: dict[str, tuple[str, ...]], frame: tuple[str, ...]) -> list[str]:
    """Return the commands that make `chains` hold exactly their rules; `frame`: what stands around them."""
    return [
        f"add table {table}",
        f"add counter {table} dropped-{device}",
        *(f"add chain {table} {chain}" for chain in chains),
        *frame,
        *(f"flush chain {table} {chain}" for chain in chains),
        *(f"add rule {table} {chain} {rule}" for chain, rules in chains.items() for rule in rules),
    ]


def _hook_frames(device: str) -> list[str]:
    chain = f"{NETDEV} egress-{device}"
    return [
        f"add chain {chain} {_render_egress(device)}",
        f"flush chain {chain}",
        f"add rule {chain} jump frames-{device}",
    ]


def _flush_window(table: str, device: str, name: str) -> list[str]:
    return [f"flush set {table} {name}-{device}", f"flush chain {table} {name}-{device}"]


def _delete_chains(table: str, chains: list[str]) -> list[str]:
    return [f"flush chain {table} {chain}" for chain in chains] + [f"delete chain {table} {chain}" for chain in chains]


class _Standing:
    """All that stands.  chains: by table and name; maps: the devices in each of `MAPS`."""

    def __init__(self, chains: dict[str, dict[str, Chain]], maps: dict[str, frozenset[str]]) -> None:
        self.chains = chains
        self.maps = maps


class _Asking:
    """Questions about what stands, over one socket; each raises `GuardError`."""

    def __init__(self) -> None:
        self._conversation = nf_tables.Conversation()

    def read_tables(self) -> _Standing:
        """Return all that stands, by one listing of each table."""
        try:
            with self._conversation as kernel:
                chains = {table: kernel.list_chains(*_split(table)) for table in (INET, NETDEV, BRIDGE)}
                keys = {name: kernel.list_keys(*_split(INET), name) or () for name in MAPS}
        except NetlinkError as error:
            raise GuardError(str(error)) from None
        return _Standing(chains, {name: frozenset(map(_read_device, found)) for name, found in keys.items()})

    def read_chains(self, table: str, names: Collection[str]) -> dict[str, Chain]:
        """Return those chains of `names` that stand."""
        try:
            with self._conversation as kernel:
                return kernel.get_chains(*_split(table), names)
        except NetlinkError as error:
            raise GuardError(str(error)) from None

    def list_keys(self, table: str, name: str) -> frozenset[bytes] | None:
        """Return the keys of a set or map; None if there is none of that name."""
        try:
            with self._conversation as kernel:
                return kernel.list_keys(*_split(table), name)
        except NetlinkError as error:
            raise GuardError(str(error)) from None

    def has_set(self, table: str, name: str) -> bool:
        """Whether there is a set of this name."""
        try:
            with self._conversation as kernel:
                return kernel.has_set(*_split(table), name)
        except NetlinkError as error:
            raise GuardError(str(error)) from None

    def list_parts(self, device: str) -> list[str]:
        """Return the commands that take all of a device away."""
        try:
            with self._conversation as kernel:
                return [each for table in (INET, NETDEV, BRIDGE) for each in _take_away(kernel, table, device)]
        except NetlinkError as error:
            raise GuardError(f"{device}: what stands can't be listed: {error}") from None


def _split(table: str) -> tuple[int, str]:
    """Return the kernel's number of a table's family, and its name there."""
    family, _, name = table.partition(" ")
    return _FAMILIES[family], name


def _read_device(key: bytes) -> str:
    return os.fsdecode(key.partition(b"\0")[0])


def _take_away(kernel: Tables, table: str, device: str) -> list[str]:
    """Return the commands that take all of a device out of a table, or the table where there is no other device."""
    family, plain = _split(table)
    if not kernel.has_table(family, plain):
        return []
    standing = kernel.list_empty_chains(family, plain)
    own = "out-" if table == INET else "frames-"
    devices = {chain.removeprefix(own) for chain in standing if chain.startswith(own)}
    if not devices - {device}:
        return [f"delete table {table}"]
    commands = []
    for name in MAPS:
        if device in map(_read_device, kernel.list_keys(family, plain, name) or ()):
            commands.append(f'delete element {table} {name} {{ "{device}" }}')
    # Those that jump to others go first.
    kinds = ("egress", "ports", "portforward", "out", "refuse", "forward", "output", "frames", "pass", *WINDOWS)
    chains = [f"{kind}-{device}" for kind in (*kinds, "decided")]
    commands += _delete_chains(table, [chain for chain in chains if chain in standing])
    sets = [f"{name}-{device}" for name in (*WINDOWS, "token", "ports", "guests", "others")]
    commands += [f"delete set {table} {name}" for name in sets if kernel.has_set(family, plain, name)]
    if kernel.has_counter(family, plain, f"dropped-{device}"):
        commands.append(f"delete counter {table} dropped-{device}")
    return commands


def _compare(standing: dict[str, Chain], name: str, count: int | None) -> str:
    """Return in words how a chain differs from what it should be; empty where it does not."""
    chain = standing.get(name)
    if chain is None:
        return f"{_NO_CHAIN}{name}"
    if count is not None and chain.rules != count:
        return f"{chain.rules} rules instead of {count} in chain {name}"
    if name in HOOKS and (chain.hook, chain.priority) != (_NUMBERS[name], HOOKS[name][1]):
        return f"another hook for chain {name}"
    if name.startswith("egress-"):
        device = name.removeprefix("egress-")
        if (chain.hook, chain.priority, chain.devices) != (nf_tables.EGRESS, 0, (device,)):
            return f"another hook for chain {name}"
    return ""


def _compare_last(standing: dict[str, Chain], dropping: str, passing: str, more: int) -> str:
    """Return in words whether the drop at the end of a chain is missing, or what it says to stand in front of it."""
    last = standing[dropping]
    if not last.drops:
        return f"no drop at the end of chain {dropping}"
    rules = standing[passing].rules - more
    if last.comment != f"behind {rules} rules":
        return f"{rules} rules, but the last says {last.comment!r}, in chain {passing}"
    return ""


def _read_version(release: str) -> tuple[int, int]:
    """Return the first two numbers of a kernel's release, uname(2)."""
    major, _, rest = release.partition(".")
    minor = "".join(itertools.takewhile(str.isdigit, rest))
    return int(major), int(minor)


def is_bridge(device: str) -> bool:
    """Whether there is a device of this name that is a bridge."""
    return os.path.isdir(f"{SYSFS}/{device}/bridge")


def _exists(device: str) -> bool:
    try:
        return bool(if_nametoindex(device))
    except OSError:
        return False


def _first_line(problem: str) -> str:
    """Return the message of libnftables without the place in our commands that it points to."""
    line = problem.strip().split("\n", 1)[0]
    return line.split("Error: ", 1)[-1] or "nftables says no"
