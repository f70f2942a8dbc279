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
from _socket import if_nametoindex

from netconf_hooks.guard.firewall import (
    Closing, Exemption, GuardError, LAN, OPEN, TokenGone, UNHOOKED, WINDOWS, Window, bridge, check_device
)  # fmt: skip
from netconf_hooks.guard.firewall.nft_installed import NO_CHAIN, Reader, find_problems
from netconf_hooks.guard.firewall.nft_rules import (
    ALWAYS, EARLY, HOOKS, INET, MAPS, NETDEV, build_chains, build_frame_chains, build_frame_window, build_window,
    render_chains, render_deletion, render_egress, render_element, render_flush, render_hooks, render_taking,
    render_token, render_token_set,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from netconf_hooks.guard.firewall.nft_installed import Installed
    from netconf_hooks.observation import Ports

# The first kernel with the hook egress; it may still have been built without (CONFIG_NETFILTER_EGRESS).
EGRESS_SINCE = (5, 16)
# Where the kernel lists its devices; a bridge has a directory of this name there.
SYSFS = "/sys/class/net"

NO_EGRESS = "no egress chain (kernel 5.16 has it): nothing stops raw frames, nor those of a macvlan, VLAN or bridge"

# EOPNOTSUPP and ENOENT as strerror(3) says them; nothing of ours calls setlocale(3).
_NOT_SUPPORTED, _NOT_FOUND = "not supported", "No such file or directory"
_ATTEMPTS = 3  # the device may come and go meanwhile, and another program change its tables


class Firewall:
    """The guard by nftables.

    thorough: makes no difference here, where the kernel is asked in any case.
    Raises `GuardError` where python3-nftables is missing, or the kernel or a lack of rights says no.
    """

    name = "nftables"
    has_lease = True
    has_news = True

    def __init__(self, thorough: bool = False) -> None:
        self._reader = Reader()
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
            commands += render_chains(INET, device, chains, render_hooks(device))
            for window in windows:
                commands += render_element(device, window, now)
            commands += parts
            frames[device] = render_chains(NETDEV, device, of_frames, ())
            wanted[device] = {(INET, chain): len(rules) for chain, rules in chains.items()}
            wanted[device] |= {(INET, chain): 1 for chain in HOOKS}
            of_netdev[device] = {(NETDEV, chain): len(rules) for chain, rules in of_frames.items()}
            if decided:
                bridges.add(device)
        if token:
            commands = render_taking(closings[0].device, token) + commands
        try:
            hooked = self._put(commands, frames)
        except GuardError as error:
            raise _find_gone(error, closings[0].device, token) from None
        for device in () if self.lacks else of_netdev:
            wanted[device] |= of_netdev[device]
        for device in hooked:
            wanted[device][NETDEV, f"egress-{device}"] = 1

        def find(device: str, installed: Installed | None) -> str:
            return self._reader.find_problem(device, wanted[device], device in bridges, installed)

        if problems := find_problems(wanted, self._reader, find):
            device = next(iter(problems))
            raise GuardError(f"{device}: the firewall does not hold what was put in it: {problems[device]}")

    def change_ports(self, device: str, ports: Ports) -> None:
        """See `AnyFirewall.change_ports`.  Nothing is written where it knows them."""
        check_device(device)
        same = self._reader.list_names(INET, f"ports-{device}") == frozenset(bridge.list_nameable(ports.outside))
        for name, indexes in (("guests", ports.guests), ("others", ports.others)) if ports.bridge else ():
            same = same and self._reader.list_indexes(f"{name}-{device}") == frozenset(indexes)
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
            render_token(device, token)
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
            commands = render_taking(device, token) + commands
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
        commands = [command for name in names for command in render_flush(INET, device, name)]
        frames = [command for name in names for command in self._change_frames(device, name, ())]
        guests: list[str] = []
        if OPEN in names:
            commands += [render_token_set(device), f"flush set {INET} token-{device}"]
            # What has gone may have been a bridge; and what is one may have become it since it was closed.
            if is_bridge(device) or not _exists(device):
                guests = bridge.render_shutting(device)
        if LAN in names and is_bridge(device):
            guests += bridge.render_leaving(device)
        return commands, frames, guests

    def lift(self, device: str) -> None:
        """See `AnyFirewall.lift`."""
        check_device(device)
        for attempt in range(_ATTEMPTS):
            commands = self._reader.list_parts(device)
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
        return find_problems(devices, self._reader, self._find_fallen)

    def _find_fallen(self, device: str, installed: Installed | None) -> str:
        """Return what of a guard does not stand, in words; empty if all of it does.  See `find_problems`."""
        exists, guests = _exists(device), is_bridge(device)
        wanted: dict[tuple[str, str], int | None] = {(INET, chain): 1 for chain in HOOKS}
        wanted |= {(INET, f"{name}-{device}"): None for name in WINDOWS}
        wanted |= {(INET, f"forward-{device}"): 4 if guests else 3, (INET, f"refuse-{device}"): 4}
        if not exists:
            wanted[INET, f"forward-{device}"] = None  # it may have been closed as a bridge
        wanted |= {(INET, f"out-{device}"): 2, (INET, f"pass-{device}"): None}
        if not self.lacks:
            wanted |= {(NETDEV, f"{name}-{device}"): None for name in WINDOWS}
            wanted[NETDEV, f"frames-{device}"] = None
        problem = self._reader.find_problem(device, wanted, guests, installed)
        if not problem and exists and not self.lacks:
            problem = self._reader.find_problem(device, {(NETDEV, f"egress-{device}"): 1}, False, installed)
            if problem.startswith(NO_CHAIN):
                return UNHOOKED
        return problem

    def _render_parts(
        self, device: str, ports: Ports, exemptions: tuple[Exemption, ...], windows: tuple[Window, ...], now: float
    ) -> tuple[list[str], str]:
        """Return the commands for what a link is made of, and what a bridge's decided frames are matched by."""
        commands = bridge.render_ports(device, ports)
        if not ports.bridge:
            return commands, ""
        by_bridge = not self._nft.cmd("\n".join(bridge.TRIAL))[0]
        commands += bridge.render_bridge(device, ports, exemptions, windows, now, by_bridge)
        return commands, bridge.DECIDED

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
        return tuple(sorted({device for name in MAPS for device in self._reader.list_names(INET, name) or ()}))

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
                whole += again.get(device, []) + render_egress(device) if device in hooked else []
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
            standing = self._reader.read_chains(NETDEV, [f"egress-{device}" for device in frames])
            again = {
                device: render_deletion(NETDEV, [f"egress-{device}"])
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
            *render_flush(INET, device, window.name),
            *(f"add rule {INET} {window.name}-{device} {rule}" for rule in build_window(window)),
            *render_element(device, window, now),
            *self._change_frames(device, window.name, build_frame_window(window)),
            *(bridge.render_window(device, window, now) if window.name in (OPEN, LAN) and is_bridge(device) else ()),
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

    def _run(self, device: str, *commands: str) -> None:
        """Run commands as one transaction (libnftables(3), nft_run_cmd_from_buffer).  Raises `GuardError`."""
        if not commands:
            return
        status, _, problem = self._nft.cmd("\n".join(commands))
        if status:
            raise GuardError(": ".join(filter(None, (device, _first_line(problem)))))


def _find_gone(error: GuardError, device: str, token: str) -> GuardError:
    """Return the error of a transaction that began by taking `token`: `TokenGone` where that was missing."""
    if token and _NOT_FOUND in str(error):
        return TokenGone(device)
    return error


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
