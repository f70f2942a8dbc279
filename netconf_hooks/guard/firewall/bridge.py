"""The nftables rules for a link that is made of other links: a bridge, a bond.

**A bridge's guests.** A bridge forwards what a virtual machine or a container sends from one port to another.  Such a
frame passes neither the bridge's own device nor, without br_netfilter, the host's IP layer.  The hook ``forward`` of
the table ``bridge netconf-guard`` sees exactly these frames; each guarded bridge has its own chains there.  A frame
may leave by a port that is known to be a guest's.  Every other port counts as one that leads outside, also a port that
was added a moment ago.  Through these, guests may send ARP, DHCP, neighbour discovery and what the admin allows, but
never what is allowed for the host's tunnels, captive portals or probes.

With br_netfilter (sysctl net.bridge.bridge-nf-call-iptables) the same frames then pass the table inet, as if the host
forwarded them.  They get a mark here, so that the table inet does not judge them again by rules meant for the host.
No other packet may have this mark: the bridge's hook ``output``, which forwarded frames never pass, drops what the
host itself sends with it.

**The ports.** A port's device may still have an address of its own.  What the host sends through that device is
treated as if it left by the link itself.  Ports are matched by name, since they may not exist yet.
"""

from __future__ import annotations

from netconf_hooks.guard.firewall import GuardError, LAN, OPEN, check_device
from netconf_hooks.guard.firewall.nft_rules import (
    BRIDGE, FRAMES, INET, LAN_FRAMES, render_end, render_frames, render_timeout
)  # fmt: skip
from netconf_hooks.system import nf_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from netconf_hooks.exemption import Exemption
    from netconf_hooks.guard.firewall import Window
    from netconf_hooks.observation import Ports
    from netconf_hooks.system.nf_tables import Chain

# Before br_netfilter, which passes frames to iptables and to the table inet (NF_BR_PRI_BRNF, 0).
_PRIORITY = -200
_HOOKS = {"forward": nf_tables.FORWARD, "output": nf_tables.OUTPUT}

# The mark of frames that are accepted here: the upper eight bits; the other bits keep their value.
_MARK, _MARK_MASK = 0x67000000, 0xFF000000
DECIDED = f"meta mark & {_MARK_MASK:#x} == {_MARK:#x}"

# The frames that pass every closed link, except 802.1X, which only the host needs.
GUEST_FRAMES = tuple(frame for frame in FRAMES if "0x888e" not in frame and "0x88c7" not in frame)
_VLANS = "@ll,96,16 { 0x8100, 0x88a8 }"

# The chains that judge packets of the ports' own devices: the same as for the link itself.
_PORT_CHAINS = {
    "ports": ("type filter hook postrouting priority 350; policy accept;", "out"),
    "portforward": ("type filter hook forward priority 10; policy accept;", "forward"),
}

# Tries whether the kernel knows which bridge a port belongs to (CONFIG_NFT_BRIDGE_META, set in Debian's kernel): one
# transaction adds these rules and removes them again.
TRIAL = (
    "add table bridge netconf-guard-trial",
    "add chain bridge netconf-guard-trial trial",
    'add rule bridge netconf-guard-trial trial meta obrname "br0"',
    "delete table bridge netconf-guard-trial",
)


def build_guest_chains(
    device: str, exemptions: tuple[Exemption, ...], windows: tuple[Window, ...], now: float
) -> dict[str, tuple[str, ...]]:
    """Return the rules of a bridge's chains in the table bridge, except its hooks, by chain.

    now: as time.time().  Raises `GuardError`.
    """
    done = f"goto decided-{device}"
    drop = f'counter name "dropped-{device}" drop'
    passing = (
        f"oif @guests-{device} {done}",
        f"meta oiftype @{OPEN}-{device} jump {OPEN}-{device}",
        # In a frame with a VLAN tag, the fields below are elsewhere.
        f"{_VLANS} {drop}",
        *(frame.removesuffix("accept") + done for frame in GUEST_FRAMES),
        # Only the first form of each rule: the others match later fragments by address alone, and no later table would
        # drop fragments to other ports.
        *(f"{render_frames(exemption)[0]} {done}".lstrip() for exemption in exemptions if exemption.guests),
        f"jump {LAN}-{device}",
    )
    lan = [window for window in windows if window.name == LAN]
    opened = [window for window in windows if window.name == OPEN and window.until > now]
    return {
        f"decided-{device}": (f"meta mark set meta mark & {~_MARK_MASK & 0xFFFFFFFF:#x} | {_MARK:#x} accept",),
        f"{OPEN}-{device}": build_window(opened[0]) if opened else (),
        f"{LAN}-{device}": build_lan(device, lan[0]) if lan else (),
        f"frames-{device}": (*passing, f'{drop} comment "behind {len(passing)} rules"'),
    }


def build_window(window: Window) -> tuple[str, ...]:
    """Return the rules of the chain that every frame passes while a bridge is open."""
    return (render_end(window), "accept")


def build_lan(device: str, window: Window) -> tuple[str, ...]:
    """Return the rules of the chain that lets guests reach the LAN that a bridge is on."""
    done = f"goto decided-{device}"
    joins = (frame.removesuffix("accept") + done for frame in LAN_FRAMES)
    return (*joins, *(f"{render_frames(exemption)[0]} {done}" for exemption in window.exemptions))


def render_bridge(
    device: str,
    ports: Ports,
    exemptions: tuple[Exemption, ...],
    windows: tuple[Window, ...],
    now: float,
    by_bridge: bool,
) -> list[str]:
    """Return the commands that guard the guests of a bridge; they replace all previous rules for it.

    by_bridge: whether the kernel knows which bridge a port belongs to; otherwise each port counts as this bridge's,
        unless it is known to be another's.
    """
    chains = build_guest_chains(device, exemptions, windows, now)
    belongs = f'meta obrname "{device}"' if by_bridge else f"oif != @others-{device}"
    hooks = {
        f"forward-{device}": f"{belongs} jump frames-{device}",
        f"output-{device}": f'{belongs} {DECIDED} counter name "dropped-{device}" drop',
    }
    commands = [
        f"add table {BRIDGE}",
        f"add counter {BRIDGE} dropped-{device}",
        f"add set {BRIDGE} guests-{device} {{ type iface_index; }}",
        f"add set {BRIDGE} others-{device} {{ type iface_index; }}",
        # The key is the same for all bridges; only an element of a set can have a timeout.
        f"add set {BRIDGE} {OPEN}-{device} {{ type iface_type; flags timeout; }}",
        f"flush set {BRIDGE} {OPEN}-{device}",
        *(f"add chain {BRIDGE} {chain}" for chain in chains),
        *(
            f"add chain {BRIDGE} {hook}-{device} {{ type filter hook {hook} priority {_PRIORITY}; policy accept; }}"
            for hook in _HOOKS
        ),
        *(f"flush chain {BRIDGE} {chain}" for chain in (*chains, *hooks)),
        *(f"add rule {BRIDGE} {chain} {rule}" for chain, rules in chains.items() for rule in rules),
        *(f"add rule {BRIDGE} {chain} {rule}" for chain, rule in hooks.items()),
    ]
    for window in windows:
        if window.name == OPEN:
            commands += render_element(device, window, now)
    return commands + render_members(device, ports)


def render_ports(device: str, ports: Ports) -> list[str]:
    """Return the commands that guard what the host sends through the ports' devices; INET has `device` already."""
    commands = [f"add set {INET} ports-{device} {{ type ifname; }}"]
    for name, (hook, target) in _PORT_CHAINS.items():
        chain = f"{INET} {name}-{device}"
        commands += [
            f"add chain {chain} {{ {hook} }}",
            f"flush chain {chain}",
            f"add rule {chain} oifname @ports-{device} jump {target}-{device}",
        ]
    names = (f'"{port}"' for port in list_nameable(ports.outside))
    return commands + _fill_set(INET, f"ports-{device}", names)


def render_members(device: str, ports: Ports) -> list[str]:
    """Return the commands that list the guests' and the other bridges' ports in the table bridge."""
    return [
        *_fill_set(BRIDGE, f"guests-{device}", map(str, ports.guests)),
        *_fill_set(BRIDGE, f"others-{device}", map(str, ports.others)),
    ]


def render_window(device: str, window: Window, now: float) -> list[str]:
    """Return the commands that let guests pass while a window is open: `OPEN` until it closes, or `LAN`."""
    if window.name == LAN:
        return render_arriving(device, window)
    return [
        *render_shutting(device),
        *(f"add rule {BRIDGE} {OPEN}-{device} {rule}" for rule in build_window(window)),
        *render_element(device, window, now),
    ]


def render_element(device: str, window: Window, now: float) -> list[str]:
    """Return the command that makes frames pass the window's chain until the window closes."""
    timeout = render_timeout(window, now)
    return [f"add element {BRIDGE} {OPEN}-{device} {{ ether timeout {timeout} }}"] if timeout else []


def render_shutting(device: str) -> list[str]:
    """Return the commands that shut a bridge for its guests."""
    return [f"flush set {BRIDGE} {OPEN}-{device}", f"flush chain {BRIDGE} {OPEN}-{device}"]


def render_arriving(device: str, window: Window) -> list[str]:
    """Return the commands that let guests reach the LAN that a bridge is on."""
    chain = f"{BRIDGE} {LAN}-{device}"
    return [*render_leaving(device), *(f"add rule {chain} {rule}" for rule in build_lan(device, window))]


def render_leaving(device: str) -> list[str]:
    """Return the commands that end what guests may send to the LAN that a bridge was on."""
    return [f"flush chain {BRIDGE} {LAN}-{device}"]


def list_chains(device: str) -> tuple[str, ...]:
    """Return the chains of a bridge in the table bridge."""
    return tuple(f"{kind}-{device}" for kind in (*_HOOKS, "frames", "decided", OPEN, LAN))


def find_problem(chains: dict[str, Chain], device: str) -> str:
    """Return what is missing for a bridge in the table bridge, in words; empty if nothing is."""
    for name in list_chains(device):
        if name not in chains:
            return f"no chain {name} in table {BRIDGE}"
    for hook, number in _HOOKS.items():
        found = chains[f"{hook}-{device}"]
        if (found.hook, found.priority, found.rules) != (number, _PRIORITY, 1):
            return f"another chain {hook}-{device} in table {BRIDGE}"
    if chains[f"decided-{device}"].rules != 1:
        return f"another chain decided-{device} in table {BRIDGE}"
    frames = chains[f"frames-{device}"]
    if not frames.drops or frames.comment != f"behind {frames.rules - 1} rules":
        return f"no drop at the end of chain frames-{device} in table {BRIDGE}"
    return ""


def list_nameable(devices: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of `devices` that a rule can name.  Any other port counts as one that leads outside."""
    return tuple(device for device in devices if _is_nameable(device))


def _is_nameable(device: str) -> bool:
    try:
        check_device(device)
    except GuardError:
        return False
    return True


def _fill_set(table: str, name: str, keys: Iterable[str]) -> list[str]:
    elements = ", ".join(keys)
    return [f"flush set {table} {name}", *([f"add element {table} {name} {{ {elements} }}"] if elements else [])]
