"""Which of a guard's tables, chains and sets are in the kernel, and how they differ from what they should be."""

from __future__ import annotations

import os

from netconf_hooks.guard.firewall import GuardError, WINDOWS
from netconf_hooks.guard.firewall.nft_rules import BRIDGE, HOOKS, INET, MAPS, NETDEV, render_deletion
from netconf_hooks.system import nf_tables
from netconf_hooks.system.netlink import NetlinkError, read_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from netconf_hooks.system.nf_tables import Chain, Tables

_NUMBERS = {"output": nf_tables.OUTPUT, "forward": nf_tables.FORWARD, "postrouting": nf_tables.POSTROUTING}
_FAMILIES = {"inet": nf_tables.INET, "netdev": nf_tables.NETDEV, "bridge": nf_tables.BRIDGE}
NO_CHAIN = "no chain "

# Listing all tables takes 11 requests to the kernel, but asking for the chains of one device 40, each of 80 us.  So all
# tables are listed if no more than this many devices are guarded, or if more than this many are asked for.
_FEW = 3
_ATTEMPTS = 3  # other programs may change their tables meanwhile


class Installed:
    """Everything that is installed.  chains: by table and name; maps: the devices in each of `MAPS`."""

    def __init__(self, chains: dict[str, dict[str, Chain]], maps: dict[str, frozenset[str]]) -> None:
        self.chains = chains
        self.maps = maps


class Reader:
    """Reads the guard's tables from the kernel, by one socket.  Each method raises `GuardError`."""

    def __init__(self) -> None:
        self._conversation = nf_tables.Conversation()

    def read_tables(self) -> Installed:
        """Return everything that is installed, by one listing of each table."""
        try:
            with self._conversation as kernel:
                chains = {table: kernel.list_chains(*_split(table)) for table in (INET, NETDEV, BRIDGE)}
                keys = {name: kernel.list_keys(*_split(INET), name) or () for name in MAPS}
        except NetlinkError as error:
            raise GuardError(str(error)) from None
        return Installed(chains, {name: frozenset(map(_read_device, found)) for name, found in keys.items()})

    def read_chains(self, table: str, names: Collection[str]) -> dict[str, Chain]:
        """Return those of these chains that are installed."""
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

    def list_names(self, table: str, name: str) -> frozenset[str] | None:
        """Return the devices that are the keys of a set or map; None if there is none of that name."""
        keys = self.list_keys(table, name)
        return None if keys is None else frozenset(map(_read_device, keys))

    def list_indexes(self, name: str) -> frozenset[int] | None:
        """Return the indexes that are the keys of a set in the table bridge; None if there is none of that name."""
        keys = self.list_keys(BRIDGE, name)
        return None if keys is None else frozenset(map(read_number, keys))

    def has_set(self, table: str, name: str) -> bool:
        """Whether there is a set of this name."""
        try:
            with self._conversation as kernel:
                return kernel.has_set(*_split(table), name)
        except NetlinkError as error:
            raise GuardError(str(error)) from None

    def list_parts(self, device: str) -> list[str]:
        """Return the commands that remove everything of a device."""
        try:
            with self._conversation as kernel:
                return [each for table in (INET, NETDEV, BRIDGE) for each in _render_removal(kernel, table, device)]
        except NetlinkError as error:
            raise GuardError(f"{device}: its rules can't be listed: {error}") from None

    def find_problem(
        self, device: str, wanted: Mapping[tuple[str, str], int | None], guests: bool, installed: Installed | None
    ) -> str:
        """Return how the installed chains differ from `wanted`, in words; empty if they don't.

        wanted: the number of rules, by table and chain; None if it need not be compared.
        guests: whether the device is a bridge, with rules for its guests.
        installed: everything that is installed; None to ask the kernel for this device alone.
        """
        for table in (INET, NETDEV):
            chains = {chain: count for (where, chain), count in wanted.items() if where == table}
            found = installed.chains[table] if installed else self.read_chains(table, chains)
            for chain, count in chains.items():
                if problem := _compare(found, chain, count):
                    return f"{problem} in table {table}"
            problem = ""
            if f"out-{device}" in chains:
                problem = _compare_last(found, f"out-{device}", f"pass-{device}", 0)
                for name in MAPS:
                    if device not in (installed.maps[name] if installed else self.list_names(INET, name) or ()):
                        return f"no {device} in map {name}"
                if not self.has_set(INET, f"token-{device}"):
                    return f"no set token-{device}"
            elif f"frames-{device}" in chains:
                problem = _compare_last(found, f"frames-{device}", f"frames-{device}", 1)
            if problem:
                return f"{problem} in table {table}"
        if not guests:
            return ""
        from netconf_hooks.guard.firewall import bridge  # only for a bridge

        if installed:
            return bridge.find_problem(installed.chains[BRIDGE], device)
        return bridge.find_problem(self.read_chains(BRIDGE, bridge.list_chains(device)), device)


def find_problems(
    devices: Collection[str], reader: Reader, find: Callable[[str, Installed | None], str]
) -> dict[str, str]:
    """Return the problems that `find` finds, by device.

    find: returns a device's problem, or an empty text.  It gets the device, and everything that is installed, or None
    to ask the kernel for this device alone.
    """
    problems: dict[str, str] = {}
    waiting = list(devices)
    for _ in range(_ATTEMPTS if devices else 0):
        # Listing takes several requests: if another program changes its tables meanwhile, the result is incomplete.
        listed = len(waiting) > _FEW or len(reader.list_names(INET, MAPS[0]) or ()) <= _FEW
        installed = reader.read_tables() if listed else None
        found = {device: find(device, installed) for device in waiting}
        problems = {device: problem for device, problem in found.items() if problem}
        waiting = list(problems)
        if not waiting:
            break
    return problems


def _split(table: str) -> tuple[int, str]:
    """Return the kernel's number of a table's family, and its name there."""
    family, _, name = table.partition(" ")
    return _FAMILIES[family], name


def _read_device(key: bytes) -> str:
    return os.fsdecode(key.partition(b"\0")[0])


def _render_removal(kernel: Tables, table: str, device: str) -> list[str]:
    """Return the commands that remove everything of a device from a table, or the table if it has no other device."""
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
    # Chains that jump to others are deleted first.
    kinds = ("egress", "ports", "portforward", "out", "refuse", "forward", "output", "frames", "pass", *WINDOWS)
    chains = [f"{kind}-{device}" for kind in (*kinds, "decided")]
    commands += render_deletion(table, [chain for chain in chains if chain in standing])
    sets = [f"{name}-{device}" for name in (*WINDOWS, "token", "ports", "guests", "others")]
    commands += [f"delete set {table} {name}" for name in sets if kernel.has_set(family, plain, name)]
    if kernel.has_counter(family, plain, f"dropped-{device}"):
        commands.append(f"delete counter {table} dropped-{device}")
    return commands


def _compare(standing: dict[str, Chain], name: str, count: int | None) -> str:
    """Return how a chain differs from what it should be, in words; empty if it does not."""
    chain = standing.get(name)
    if chain is None:
        return f"{NO_CHAIN}{name}"
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
    """Return what is wrong with the drop at the end of a chain, in words; empty if nothing is.

    The drop is in chain `dropping`; its comment says how many rules chain `passing` has, except the last `more`.
    """
    last = standing[dropping]
    if not last.drops:
        return f"no drop at the end of chain {dropping}"
    rules = standing[passing].rules - more
    if last.comment != f"behind {rules} rules":
        return f"{rules} rules, but the last says {last.comment!r}, in chain {passing}"
    return ""
