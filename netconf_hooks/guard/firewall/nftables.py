"""The guard by nftables: the transactions.  libnftables runs them in this process.

The guard has tables of its own, and no other table is changed:

``inet netconf-guard`` decides about IP packets, before ARP or neighbour discovery is done for them.  Its chain
``postrouting`` comes after every rerouting (the hook ``output`` still sees the old interface if the admin's rules DNAT
or mark a packet), and with priority 350 after all source NAT.  ``forward`` drops packets that others send through this
machine, unless the link is open or IPsec will encrypt them.  ``output`` only saves time: it refuses a local connection
that would be dropped, so that the program need not wait for a timeout.

``netdev netconf-guard`` sees every frame of the device (hook ``egress``, kernel 5.16): also raw frames, those of
macvlan and VLAN children, and those of a bridge whose port the device is.  It knows no connections, and users only for
sockets in this network namespace.  So it allows all frames that may belong to packets which the first table allows, and
does not replace that table.

``bridge netconf-guard`` is for the guests of a guarded bridge: see `bridge`, which also has the rules for the ports'
own devices.

Each device has its own chains.  In the table inet, the maps ``out``, ``refuse`` and ``forward`` lead from the device's
name to them; in the table netdev, a hook on the device does.  Closing flushes and fills the chains in one transaction:
each packet meets either the old rules or the new ones.  Hooks and maps are not replaced: a replaced hook would exist
twice for a moment.

A window is a chain that packets pass while the device is an element of a set; the kernel removes the element after a
timeout.  These timeouts stop while the machine is suspended, so the chain's first rule also compares the wall clock.

The tokens of looks (`AnyFirewall.begin_look`) are elements of the set ``token-DEVICE``.  A transaction that opens a
window begins by deleting the token.  If it is missing, because somebody has shut the window, the whole transaction
fails.
"""

from __future__ import annotations

import os
import time
from _socket import if_nametoindex

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import (
    Closing, GuardError, LAN, OPEN, TokenGone, UNHOOKED, WINDOWS, Window, check_device
)  # fmt: skip
from netconf_hooks.guard.firewall.nft_installed import NO_CHAIN, Reader, find_problems
from netconf_hooks.guard.firewall.nft_rules import (
    ALWAYS, EARLY, HOOKS, INET, MAPS, NETDEV, build_chains, build_frame_chains, build_frame_window, build_window,
    render_chains, render_deletion, render_egress, render_element, render_flush, render_hooks, render_taking,
    render_token, render_token_set,
)  # fmt: skip
from netconf_hooks.system import libnftables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from netconf_hooks.guard.firewall.nft_installed import Installed
    from netconf_hooks.observation import Ports

# The first kernel with the hook egress; it may have been built without it (CONFIG_NETFILTER_EGRESS).
EGRESS_SINCE = (5, 16)
# Where the kernel lists its devices; a bridge has a directory of this name there.
SYSFS = "/sys/class/net"

NO_EGRESS = "no egress chain (kernel 5.16 has it): nothing stops raw frames, nor those of a macvlan, VLAN or bridge"

# EOPNOTSUPP and ENOENT as strerror(3) writes them in the locale C; we never call setlocale(3).
_NOT_SUPPORTED, _NOT_FOUND = "not supported", "No such file or directory"
_ATTEMPTS = 3  # the device may come and go meanwhile, and another program change its tables


class Firewall:
    """The guard by nftables.

    thorough: has no effect here, since the kernel is always asked.
    Raises `GuardError` if libnftables is missing, if the kernel lacks nftables, or without root.
    """

    name = "nftables"
    has_lease = True
    has_news = True

    def __init__(self, thorough: bool = False) -> None:
        self._reader = Reader()
        try:
            self._nft = libnftables.Nftables()
        except libnftables.LibraryError as error:
            raise GuardError(str(error)) from None
        self._reader.has_set(INET, "out")  # raises an error without nftables, or without root
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
        """See `AnyFirewall.close`.  The egress chain is added only if the device exists."""
        self._close([Closing(device, exemptions, windows, ports)], token if windows else "")

    def close_all(self, closings: Sequence[Closing]) -> None:
        """See `AnyFirewall.close_all`: it is one transaction."""
        self._close(closings)

    def _close(self, closings: Sequence[Closing], token: str = "") -> None:
        """Close devices in one transaction.  token: for the windows of the first device."""
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
            raise GuardError(f"{device}: the rules are not in the kernel as they were written: {problems[device]}")

    def change_ports(self, device: str, ports: Ports) -> None:
        """See `AnyFirewall.change_ports`.  Writes nothing if they are the same."""
        from netconf_hooks.guard.firewall import bridge  # only for a link that is made of others

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
        # Don't list the elements: an expired element is listed until the kernel collects it, but can't be got.
        return self._has_element(f"{OPEN}-{device}", device) or not self._has_element("out", device)

    def shut_window(self, device: str, *names: str) -> None:
        """See `AnyFirewall.shut_window`."""
        commands, frames, guests = self._render_shutting(device, names)
        # Somebody may have removed one of the tables alone.  The first table, for IP, matters most.
        for more in ((*frames, *guests), frames, guests, ()):
            if self._change_window(device, *commands, *more):
                return
        for name in names if len(names) > 1 else ():
            self.shut_window(device, name)  # an older version's rules lack one of the windows

    def shut_all(self, windows: Mapping[str, Sequence[str]]) -> None:
        """See `AnyFirewall.shut_all`: it is one transaction."""
        rendered = (self._render_shutting(device, names) for device, names in windows.items())
        self._run(", ".join(windows), *(command for parts in rendered for part in parts for command in part))

    def _render_shutting(self, device: str, names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
        """Return the commands that shut windows, in three lists: for packets, for frames, and for a bridge's guests."""
        check_device(device)
        guests: list[str] = []
        commands = [command for name in names for command in render_flush(INET, device, name)]
        frames = [command for name in names for command in self._change_frames(device, name, ())]
        if OPEN in names:
            commands += [render_token_set(device), f"flush set {INET} token-{device}"]
            # A device that does not exist any more may have been a bridge.
            if is_bridge(device) or not _exists(device):
                from netconf_hooks.guard.firewall import bridge

                guests = bridge.render_shutting(device)
        if LAN in names and is_bridge(device):
            from netconf_hooks.guard.firewall import bridge

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

        If the kernel has the hook egress and the device exists, its egress chain is part of its rules.
        """
        for device in devices:
            check_device(device)
        return find_problems(devices, self._reader, self._find_fallen)

    def _find_fallen(self, device: str, installed: Installed | None) -> str:
        """Return what is wrong with a guard's rules, in words; empty if nothing is.  See `find_problems`."""
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
        """Return the commands for a link's ports, and the match for frames that a bridge's rules have accepted."""
        from netconf_hooks.guard.firewall import bridge

        commands = bridge.render_ports(device, ports)
        if not ports.bridge:
            return commands, ""
        by_bridge = not self._nft.run("\n".join(bridge.TRIAL))
        commands += bridge.render_bridge(device, ports, exemptions, windows, now, by_bridge)
        return commands, bridge.DECIDED

    def close_early(self, device: str, seconds: float) -> None:
        """Close a device by a table of its own, while a mapping script looks at the network, for `seconds` at most.

        After that the kernel opens it again.  Raw frames still leave.  Raises `GuardError`.
        """
        check_device(device)
        table = f"{EARLY}-{device}"
        self._run(
            device,
            f"add table {table}",
            f"delete table {table}",  # a killed script may have left one
            f"add table {table}",
            f"add set {table} closed {{ type ifname; flags timeout; }}",
            f'add element {table} closed {{ "{device}" timeout {max(1, round(seconds * 1000))}ms }}',
            f"add chain {table} postrouting {{ {HOOKS['postrouting'][0]} }}",
            f"add rule {table} postrouting oifname != @closed accept",
            *(f"add rule {table} postrouting {rule}" for rule in ALWAYS),
            f"add rule {table} postrouting counter drop",
        )

    def lift_early(self, device: str) -> None:
        """Remove the table of `close_early`, if it exists.  Raises `GuardError`."""
        check_device(device)
        self._run(device, f"add table {EARLY}-{device}", f"delete table {EARLY}-{device}")

    def list_devices(self) -> tuple[str, ...]:
        """See `AnyFirewall.list_devices`."""
        return tuple(sorted({device for name in MAPS for device in self._reader.list_names(INET, name) or ()}))

    def _put(self, commands: list[str], frames: Mapping[str, list[str]]) -> list[str]:
        """Run the transaction, together with the commands for frames if the kernel has the hook egress.

        frames: these commands, by device.  Returns the devices that have a hook now, which are those that exist.
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
            # The hook may be on another device, which had this name before it was renamed.
            standing = self._reader.read_chains(NETDEV, [f"egress-{device}" for device in frames])
            again = {
                device: render_deletion(NETDEV, [f"egress-{device}"])
                for device in frames if f"egress-{device}" in standing
            }  # fmt: skip
        raise AssertionError("not reached")

    def _has_element(self, name: str, device: str) -> bool:
        """Return whether a device is an element of a set or map.  Raises `GuardError`."""
        problem = self._nft.run(f'get element {INET} {name} {{ "{device}" }}')
        if problem and _NOT_FOUND not in problem:
            raise GuardError(_first_line(problem))
        return not problem

    def _fill_window(self, device: str, window: Window) -> list[str]:
        """Return the commands that open a window; they replace its previous rules."""
        now = time.time()
        guests: tuple[str, ...] = ()
        if window.name in (OPEN, LAN) and is_bridge(device):
            from netconf_hooks.guard.firewall import bridge

            guests = tuple(bridge.render_window(device, window, now))
        return [
            *render_flush(INET, device, window.name),
            *(f"add rule {INET} {window.name}-{device} {rule}" for rule in build_window(window)),
            *render_element(device, window, now),
            *self._change_frames(device, window.name, build_frame_window(window)),
            *guests,
        ]

    def _change_window(self, device: str, *commands: str) -> bool:
        """Run a transaction that changes a window; return whether there is such a window."""
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
        """Run commands as one transaction.  Raises `GuardError`."""
        if not commands:
            return
        if problem := self._nft.run("\n".join(commands)):
            raise GuardError(": ".join(filter(None, (device, _first_line(problem)))))


def _find_gone(error: GuardError, device: str, token: str) -> GuardError:
    """Return the error of a transaction that began by removing `token`: `TokenGone` if the token was missing."""
    if token and _NOT_FOUND in str(error):
        return TokenGone(device)
    return error


def _read_version(release: str) -> tuple[int, int]:
    """Return the first two numbers of a kernel's release, uname(2)."""
    major, _, rest = release.partition(".")
    minor = rest[:len(rest) - len(rest.lstrip("0123456789"))]
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
    """Return the message of libnftables, without the lines that show the place in our commands."""
    line = problem.strip().split("\n", 1)[0]
    return line.split("Error: ", 1)[-1]
