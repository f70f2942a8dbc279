"""The nftables rules of a guard, and the commands that write them (nft(8)).  Nothing here runs a command.

`nftables` says what each table is for.
"""

from __future__ import annotations

from _socket import AF_INET, inet_ntop

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import JOINS, LAN, OPEN, WINDOWS, Window, check_exemption, check_token, read_network

INET = "inet netconf-guard"
NETDEV = "netdev netconf-guard"
BRIDGE = "bridge netconf-guard"
EARLY = "inet netconf-guard-early"

# The base chains.  Each uses a map to find the device's own chain, ``MAP-DEVICE``.  350: after all standard priorities
# of nft(8), of which srcnat is the last with 100, and of linux/netfilter_ipv4.h, whose last is 300.
HOOKS = {
    "output": ("type filter hook output priority 10; policy accept;", 10),
    "forward": ("type filter hook forward priority 10; policy accept;", 10),
    "postrouting": ("type filter hook postrouting priority 350; policy accept;", 350),
}
BASE_RULES = {
    # Don't refuse a packet with a mark here: a later hook may reroute it because of the mark.
    "output": "meta l4proto tcp meta mark 0 oifname vmap @refuse",
    "forward": "oifname vmap @forward",
    "postrouting": "oifname vmap @out",
}
MAPS = ("refuse", "forward", "out")

# A router solicitation, RFC 4861 4.1: the length leaves room for one or two link-layer addresses and nothing else.
_SOLICITATION = "icmpv6 type nd-router-solicit ip6 nexthdr icmpv6 ip6 hoplimit 255 ip6 daddr ff02::2 ip6 length <= 24"
_NEIGHBOURS = (
    "ip6 nexthdr icmpv6 ip6 hoplimit 255 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } icmpv6 code 0"
)
# MLD, RFC 3810 5.2.14 and RFC 2710 5; only for groups that every host is in.
_LISTENERS = tuple(
    f"ip6 hoplimit 1 ip6 daddr {group} icmpv6 type {kind}"
    for group, kind in (
        ("ff02::16", "mld2-listener-report"),
        ("ff02::2", "mld-listener-done"),
        ("ff02::1:ff00:0/104", "mld-listener-report"),
    )
)
_DHCP = "udp sport 68 udp dport 67 ip daddr 255.255.255.255"
# All_DHCP_Relay_Agents_and_Servers, and a server that has asked for unicast (RFC 8415 7.1, 18.2.10).
_DHCP6 = "udp sport 546 udp dport 547 ip6 daddr { ff02::1:2, fe80::/10 }"

# ND and MLD, which only the kernel may send: its sockets have no user.  And the match for a socket with any user.
_KERNELS_OWN = (
    "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect, "
    "mld2-listener-report, mld-listener-report, mld-listener-done }"
)
_USER = "meta skuid 0-4294967294"

# The packets that pass every closed link.
ALWAYS = (
    f"{_DHCP} accept",
    f"{_DHCP6} accept",
    # dhcpcd solicits routers itself, in place of the kernel.
    f"{_SOLICITATION} accept",
    # Other ND and MLD passes only from the kernel: a packet that a process has made has a user.
    f"{_KERNELS_OWN} {_USER} drop",
    f"{_NEIGHBOURS} accept",
    *(f"{listener} accept" for listener in _LISTENERS),
    # An IPsec policy will encrypt it: ip-xfrm(8).
    "rt ipsec exists accept",
)

# The first rules of the window LAN: the kernel's own reports that it has joined the groups for finding devices pass.
# `ALWAYS` decides about all other ND and MLD, whatever prefixes the LAN has.
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

# Frames with a VLAN tag come from a VLAN child and are always dropped.  For the others the ether type is compared in
# the frame itself, too, since the sender of a raw frame can put anything into the kernel's `meta protocol` (packet(7)).
# It is read by its offset: `ether type` would check the incoming device's type, and there is no incoming device here.
# Other kinds of links (InfiniBand) have other data at that offset.
_ETHERNET = (
    "meta oiftype ether @ll,96,16 { 0x8100, 0x88a8 } drop",
    # Otherwise the rules below would take the frame for IP.
    "meta oiftype ether meta protocol ip @ll,96,16 != 0x0800 drop",
    "meta oiftype ether meta protocol ip6 @ll,96,16 != 0x86dd drop",
)
# The frames that pass every closed link, as the packets of `ALWAYS` do.
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

# After how many minutes an unused token expires; no look takes that long.
_TOKEN_TIME = 60

_DAY = 86400
_LONGEST = 3650 * _DAY  # the longest timeout of a window, seconds


def render_exemption(exemption: Exemption) -> str:
    """Return the match for packets of this exemption, for the family inet; empty for any packet.

    Raises `GuardError` for an impossible exemption.
    """
    check_exemption(exemption)
    matches = [_render_network(exemption, "meta nfproto"), _render_ports(exemption), _render_users(exemption)]
    if exemption.mark:
        matches.append(f"meta mark {exemption.mark:#x}")
    if exemption.reply:
        matches.append("ct direction reply")
    return " ".join(filter(None, matches))


def render_frames(exemption: Exemption) -> tuple[str, ...]:
    """Return the matches for frames of this exemption, for the family netdev; a frame has to match only one of them.

    Whether a frame is a reply is unknown here.  Its user is known if the socket is in this network namespace: so frames
    of a container with a macvlan don't match.  The packet may be split into fragments by now, and only the first has
    the ports: so the other fragments are matched without them.
    """
    check_exemption(exemption)
    network = _render_network(exemption, "meta protocol")
    mark = f"meta mark {exemption.mark:#x}" if exemption.mark else ""
    owner = " ".join(filter(None, (_render_users(exemption), mark)))
    if exemption != Exemption() and not (network or exemption.protocol or exemption.port or exemption.source_port):
        network = "meta protocol { ip, ip6 }"  # an exemption is always for IP
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

    now: as time.time(); decided: the match for frames that a bridge's rules have already accepted.
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
        # `Firewall.find_fallen` compares this number.
        f"out-{device}": (f"jump pass-{device}", f'{drop} comment "behind {len(passing)} rules"'),
        f"forward-{device}": (
            *passed,
            f"oifname @{OPEN}-{device} jump {OPEN}-{device}",
            "rt ipsec exists accept",
            drop,
        ),
        # Refuse only new connections, so that established ones survive if a link is closed for a moment; and none that
        # the admin's NAT redirects: they may leave by another link, which is unknown in this hook.
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


def _get_version(exemption: Exemption) -> int:
    """Return the IP version of an exemption: 4, 6, or 0 for both."""
    return 0 if not exemption.network else 6 if ":" in exemption.network else 4


def _render_network(exemption: Exemption, family: str) -> str:
    if not exemption.network:
        return ""
    address, length = read_network(exemption.network)
    version = _get_version(exemption)
    if not length:
        # nft(8) leaves out a prefix of length 0, and the family with it.
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
    """Return the rule that ends a window by the wall clock."""
    # nft(8) reads an integer as Unix time.  Round up, so that the window does not close early.
    return f"meta time >= {int(window.until) + 1} return"


def render_element(device: str, window: Window, now: float) -> list[str]:
    """Return the command that adds the device to the window's set until the window closes."""
    timeout = render_timeout(window, now)
    return [f'add element {INET} {window.name}-{device} {{ "{device}" timeout {timeout} }}'] if timeout else []


def render_timeout(window: Window, now: float) -> str:
    """Return the timeout of a window from now on, as nft(8) reads it; empty if the window has ended."""
    left_ms = int(1000 * min(window.until - now, _LONGEST))
    if left_ms <= 0:
        return ""
    days, left_ms = divmod(left_ms, 1000 * _DAY)
    # nft(8) takes no number of milliseconds with more than eight digits.
    return f"{days}d{left_ms // 1000}s{left_ms % 1000}ms"


def render_token_set(device: str) -> str:
    """Return the command that creates the set of tokens, which an older version's rules lack."""
    return f"add set {INET} token-{device} {{ type mark; flags timeout; }}"


def render_token(device: str, token: str) -> str:
    """Return the command that adds the token of a look.  Raises `GuardError` for anything but a token."""
    check_token(token)
    return f"add element {INET} token-{device} {{ 0x{token} timeout {_TOKEN_TIME}m }}"


def render_taking(device: str, token: str) -> list[str]:
    """Return the command that removes a token; its transaction fails if the token is missing."""
    check_token(token)
    return [f"delete element {INET} token-{device} {{ 0x{token} }}"]


def render_hooks(device: str) -> tuple[str, ...]:
    """Return the commands that create hooks, maps and sets: everything except the device's own chains."""
    commands = [f"add map {INET} {name} {{ type ifname : verdict; }}" for name in MAPS]
    for chain, (hook, _) in HOOKS.items():
        commands.append(f"add chain {INET} {chain} {{ {hook} }}")
        commands += [f"flush chain {INET} {chain}", f"add rule {INET} {chain} {BASE_RULES[chain]}"]
    for name in WINDOWS:
        commands.append(f"add set {INET} {name}-{device} {{ type ifname; flags timeout; }}")
        commands.append(f"flush set {INET} {name}-{device}")
    commands.append(render_token_set(device))
    commands += [f'add element {INET} {name} {{ "{device}" : jump {name}-{device} }}' for name in MAPS]
    return tuple(commands)


def render_chains(table: str, device: str, chains: dict[str, tuple[str, ...]], frame: tuple[str, ...]) -> list[str]:
    """Return the commands that give each of `chains` exactly its rules.

    frame: the commands that create what leads packets to these chains (`render_hooks`).
    """
    return [
        f"add table {table}",
        f"add counter {table} dropped-{device}",
        *(f"add chain {table} {chain}" for chain in chains),
        *frame,
        *(f"flush chain {table} {chain}" for chain in chains),
        *(f"add rule {table} {chain} {rule}" for chain, rules in chains.items() for rule in rules),
    ]


def render_egress(device: str) -> list[str]:
    chain = f"{NETDEV} egress-{device}"
    hook = f'{{ type filter hook egress device "{device}" priority 0; policy drop; }}'
    return [
        f"add chain {chain} {hook}",
        f"flush chain {chain}",
        f"add rule {chain} jump frames-{device}",
    ]


def render_flush(table: str, device: str, name: str) -> list[str]:
    return [f"flush set {table} {name}-{device}", f"flush chain {table} {name}-{device}"]


def render_deletion(table: str, chains: list[str]) -> list[str]:
    return [f"flush chain {table} {chain}" for chain in chains] + [f"delete chain {table} {chain}" for chain in chains]
