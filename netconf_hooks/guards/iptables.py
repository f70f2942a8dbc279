"""The guard by iptables, written by python-iptables (python3-iptables): the legacy tables of iptables-legacy(8).

Where iptables is a front of nftables (iptables-nft(8), Debian's default), its tables are not those that are written
here.  Both kinds are in force at the same time, but the admin who lists his rules does not see ours: so that is done
only for whoever names this firewall himself.

The authority is a chain in ``mangle POSTROUTING``, behind every re-routing.  A rule can't jump back over two chains, so
the chains of a device hang together by goto: POSTROUTING jumps to that of the first window, each window's goes to the
next, the last to ``nch-DEVICE``, which drops.  A RETURN anywhere there leads back to POSTROUTING, where the admin's own
rules go on; nothing is ever accepted over their heads.  In ``filter FORWARD`` stands ``nchf-DEVICE``.

A table is written whole (iptables has no other way): what is done to one table is one commit, but there are two
tables of each family.  IPv6 is closed first.  Whoever else writes a table at the same time is held off by the lock of
iptables(8), which python-iptables does not take.
"""

from __future__ import annotations

import fcntl
import os
import time
from _socket import AF_INET, AF_INET6, inet_ntop

from netconf_hooks.guards import (
    OPEN, WINDOWS, GuardError, Opening, Window, check_device, check_opening, read_network
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

PROGRAM = "/usr/sbin/iptables"
LEGACY = "xtables-legacy-multi"
LOCK = "/run/xtables.lock"  # XT_LOCK_NAME of iptables(8)
LOCK_PATIENCE = 5.0  # seconds

VERSIONS = (6, 4)
BUILTIN = {"mangle": "POSTROUTING", "filter": "FORWARD"}

LACKS = (
    "no lease: a link that was opened stays open when nothing of ours runs any more to close it",
    "no egress chain: nothing stops raw frames, nor those of a macvlan, VLAN or bridge",
)

_IPSEC = "-m policy --dir out --pol ipsec -j RETURN"
_USER = "-m owner --uid-owner 0-4294967294"  # any

# What every closed link lets through, by family: see nftables.ALWAYS.
ALWAYS = {
    4: ("-d 255.255.255.255/32 -p udp -m udp --sport 68 --dport 67 -j RETURN", _IPSEC),
    6: (
        "-d ff02::1:2/128 -p udp -m udp --sport 546 --dport 547 -j RETURN",
        "-d fe80::/10 -p udp -m udp --sport 546 --dport 547 -j RETURN",
        # 40 bytes of header, 24 of a router solicitation.
        "-d ff02::2/128 -p icmpv6 -m icmp6 --icmpv6-type 133 -m hl --hl-eq 255 -m length --length 0:64 -j RETURN",
        # ND, MLD and MLDv2 (linux/icmpv6.h).
        *(
            f"-p icmpv6 -m icmp6 --icmpv6-type {number} {_USER} -j DROP"
            for number in (133, 134, 135, 136, 137, 131, 132, 143)
        ),
        "-p icmpv6 -m icmp6 --icmpv6-type 135/0 -m hl --hl-eq 255 -j RETURN",
        "-p icmpv6 -m icmp6 --icmpv6-type 136/0 -m hl --hl-eq 255 -j RETURN",
        "-d ff02::16/128 -p icmpv6 -m icmp6 --icmpv6-type 143 -m hl --hl-eq 1 -j RETURN",
        "-d ff02::2/128 -p icmpv6 -m icmp6 --icmpv6-type 132 -m hl --hl-eq 1 -j RETURN",
        "-d ff02::1:ff00:0/104 -p icmpv6 -m icmp6 --icmpv6-type 131 -m hl --hl-eq 1 -j RETURN",
        _IPSEC,
    ),
}

_LAST_TIME = 2**31 - 1  # libxt_time reads no later date: iptables-extensions(8)


def render_opening(opening: Opening, version: int) -> tuple[str, ...]:
    """Return what the packets of an opening match, in the words of iptables(8): any one of these.

    version: 4 or 6; nothing matches an opening for the other family.  Raises `GuardError` for one that can't be.
    """
    check_opening(opening)
    network = ""
    if opening.network:
        address, length = read_network(opening.network)
        if len(address) != (4 if version == 4 else 16):
            return ()
        if length:
            network = f"-d {inet_ntop(AF_INET if version == 4 else AF_INET6, address)}/{length}"
    ports = " ".join(
        f"--{side} {port}" for side, port in (("sport", opening.source_port), ("dport", opening.port)) if port
    )
    mark = f"-m mark --mark {opening.mark:#x}" if opening.mark else ""
    reply = "-m conntrack --ctdir REPLY" if opening.reply else ""
    found = []
    for protocol in ("tcp", "udp") if ports and not opening.protocol else (opening.protocol,):
        words = [network, f"-p {protocol}" if protocol else "", f"-m {protocol} {ports}" if ports else ""]
        owners = [f"-m owner --uid-owner {uid}" for uid in sorted(set(opening.uids))]
        for owner in owners or [""]:
            found.append(" ".join(filter(None, (*words, owner, mark, reply))))
    return tuple(found)


def build_window(device: str, name: str, version: int, window: Window | None, now: float) -> tuple[str, ...]:
    """Return the rules of a window's chain; of one that is shut where `window` is None or over."""
    place = WINDOWS.index(name) + 1
    following = f"nchw-{WINDOWS[place]}-{device}" if place < len(WINDOWS) else f"nch-{device}"
    return (*_build_openings(version, window, now), f"-g {following}")


def build_forward(version: int, window: Window | None, now: float) -> tuple[str, ...]:
    """Return the rules of a device's chain for what comes from elsewhere.

    window: the one named `OPEN`, where it is open.  What is forwarded has no user here.
    """
    openings = tuple(opening for opening in window.openings if not opening.uids) if window else ()
    opened = Window(OPEN, openings, window.until) if window else None
    return (*_build_openings(version, opened, now), _IPSEC, "-j DROP")


def build_tables(
    device: str, version: int, openings: tuple[Opening, ...], windows: tuple[Window, ...], now: float
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the rules of a device by table and chain.  version: 4 or 6; now: as time.time()."""
    found = {window.name: window for window in windows}
    passing = (
        *ALWAYS[version],
        *(f"{match} -j RETURN".lstrip() for opening in openings for match in render_opening(opening, version)),
    )
    mangle = {f"nchw-{name}-{device}": build_window(device, name, version, found.get(name), now) for name in WINDOWS}
    # The number is for whoever looks whether they still stand: `Guard.is_standing`.
    mangle[f"nch-{device}"] = (*passing, f"-m comment --comment {_count(len(passing))} -j DROP")
    return {"mangle": mangle, "filter": {f"nchf-{device}": build_forward(version, found.get(OPEN), now)}}


def is_legacy(program: str = PROGRAM) -> bool:
    """Return whether this machine's iptables writes the legacy tables, whatever update-alternatives(1) made of it."""
    return os.path.basename(os.path.realpath(program)) == LEGACY


class Guard:
    """The guard by iptables.

    by_name: whether the admin named it; program, lock: of iptables(8).
    Raises `GuardError` where python3-iptables is missing, where the kernel or a lack of rights says no, and without
    `by_name` where this machine's iptables is not the legacy one.
    """

    name = "iptables"
    has_lease = False
    lacks = LACKS

    def __init__(self, by_name: bool = True, program: str = PROGRAM, lock: str = LOCK) -> None:
        if not by_name and not is_legacy(program):
            raise GuardError(f"{program} is not iptables-legacy, whose tables python-iptables writes")
        try:
            import iptc
        except (ImportError, OSError, AttributeError) as error:  # the last two: no libiptc or libxtables, strange ones
            raise GuardError(f"python3-iptables is missing: {error}") from None
        self._iptc = iptc
        self._lock = lock
        for version in VERSIONS:
            for table in BUILTIN:
                self._read(version, table)
        with _quiet():
            # libxtables warns of a revision that no kernel has any more when a second family asks for this match.
            for version in VERSIONS:
                self._make_rule(version, f"{_USER} -j RETURN")

    def close(self, device: str, openings: tuple[Opening, ...], windows: tuple[Window, ...] = ()) -> None:
        """See `AnyGuard.close`.  One commit a table and family, IPv6 first."""
        check_device(device)
        now = time.time()
        wanted = {version: build_tables(device, version, openings, windows, now) for version in VERSIONS}
        with _locked(self._lock):
            for version in VERSIONS:
                for table, chains in wanted[version].items():
                    self._change(version, table, lambda made: self._fill(made, version, device, chains))
            for version in VERSIONS:
                for table, chains in wanted[version].items():
                    counts = {chain: len(rules) for chain, rules in chains.items()}
                    if problem := self._find_problem(self._read(version, table), device, counts):
                        raise GuardError(f"{device}: iptables does not hold what was put in it: {problem}")

    def open_window(self, device: str, window: Window) -> None:
        """See `AnyGuard.open_window`.

        The window `OPEN` has no end here: nothing could renew a lease without writing the tables each time.
        """
        check_device(device)
        if not self._read(6, "mangle").is_chain(f"nch-{device}"):
            raise GuardError(f"{device}: not guarded, so no window of it can be opened")
        self._set_window(device, window.name, window)

    def shut_window(self, device: str, name: str) -> None:
        """See `AnyGuard.shut_window`."""
        check_device(device)
        if self._read(6, "mangle").is_chain(f"nch-{device}"):
            self._set_window(device, name, None)

    def lift(self, device: str) -> None:
        """See `AnyGuard.lift`."""
        check_device(device)
        with _locked(self._lock):
            for version in reversed(VERSIONS):
                for table in BUILTIN:
                    if any(self._read(version, table).is_chain(chain) for chain in _list_chains(device, table)):
                        self._change(version, table, lambda made: self._take_away(made, version, device))

    def is_standing(self, device: str) -> bool:
        """See `AnyGuard.is_standing`."""
        check_device(device)
        return not any(
            self._find_problem(self._read(version, table), device, dict.fromkeys(_list_chains(device, table)))
            for version in VERSIONS
            for table in BUILTIN
        )

    def _set_window(self, device: str, name: str, window: Window | None) -> None:
        now = time.time()
        with _locked(self._lock):
            for version in VERSIONS:
                chains = {("mangle", f"nchw-{name}-{device}"): build_window(device, name, version, window, now)}
                if name == OPEN:
                    chains["filter", f"nchf-{device}"] = build_forward(version, window, now)
                for (table, chain), rules in chains.items():
                    self._change(version, table, lambda made: self._refill(made, version, chain, rules))

    def _read(self, version: int, name: str) -> Any:
        """Return a table as it is now.  Raises `GuardError`."""
        try:
            table = (self._iptc.Table6 if version == 6 else self._iptc.Table)(name, autocommit=False)
            table.refresh()
        except self._iptc.IPTCError as error:
            raise GuardError(f"{_name(version)} -t {name}: {_say(error)}") from None
        return table

    def _change(self, version: int, name: str, change: Callable[[Any], None]) -> None:
        """Read a table, change it and write it in one commit.  Raises `GuardError`; then it is as it was."""
        table = self._read(version, name)
        try:
            change(table)
            table.commit()
        except (self._iptc.IPTCError, self._iptc.XTablesError) as error:
            raise GuardError(f"{_name(version)} -t {name}: {_say(error)}") from None

    def _fill(self, table: Any, version: int, device: str, chains: dict[str, tuple[str, ...]]) -> None:
        """Make chains hold exactly their rules, and the hook jump to the first of them before all else."""
        for chain in chains:
            if not table.is_chain(chain):
                table.create_chain(chain)
        for chain, rules in chains.items():
            self._refill(table, version, chain, rules)
        self._unhook(table, version, device)
        jump = self._make_rule(version, _render_jump(device, table.name))
        table.insert_entry(BUILTIN[table.name], jump.rule, 0)

    def _refill(self, table: Any, version: int, chain: str, rules: tuple[str, ...]) -> None:
        table.flush_entries(chain)
        for text in rules:
            table.append_entry(chain, self._make_rule(version, text).rule)

    def _unhook(self, table: Any, version: int, device: str) -> None:
        builtin = BUILTIN[table.name]
        first = _list_chains(device, table.name)[0]
        for target in list(_list_targets(table, builtin)):
            if target == first:
                jump = self._make_rule(version, _render_jump(device, table.name))
                table.delete_entry(builtin, jump.rule, jump.mask)

    def _take_away(self, table: Any, version: int, device: str) -> None:
        self._unhook(table, version, device)
        chains = [chain for chain in _list_chains(device, table.name) if table.is_chain(chain)]
        for chain in chains:
            table.flush_entries(chain)
        for chain in chains:
            table.delete_chain(chain)

    def _make_rule(self, version: int, text: str) -> Any:
        """Return python-iptables' rule for one of ours, in the words of iptables(8)."""
        rule = (self._iptc.Rule6 if version == 6 else self._iptc.Rule)()
        words = iter(text.split(" "))
        match = None
        for word in words:
            value = next(words)
            if word == "-d":
                rule.dst = value
            elif word == "-p":
                rule.protocol = value
            elif word == "-o":
                rule.out_interface = value
            elif word == "-m":
                match = rule.create_match(value)
            elif word in ("-j", "-g"):
                rule.create_target(value, goto=word == "-g")
            else:
                assert match is not None
                match.set_parameter(word[2:], value)
        rule.final_check()
        if " -m time " in f" {text}":
            # libxt_time has left TZ=UTC in the environment of this process: our log would be in UTC from here on.
            _restore_zone()
        return rule

    def _find_problem(self, table: Any, device: str, counts: dict[str, int | None] | dict[str, int]) -> str:
        """Return in words what of a device does not stand in a table; empty where all does.

        counts: the number of rules by chain, None where it does not matter or the last of them says it.
        """
        builtin = BUILTIN[table.name]
        ours = _list_chains(device, table.name)
        for target in _list_targets(table, builtin):
            if target == ours[0]:
                break
            if not target.startswith(("nchw-", "nchf-")):
                return f"something stands before {ours[0]} in chain {builtin}"
        else:
            return f"nothing leads to {ours[0]} in chain {builtin}"
        for chain, count in counts.items():
            if not table.is_chain(chain):
                return f"no chain {chain}"
            targets = list(_list_targets(table, chain))
            if count is not None and len(targets) != count:
                return f"{len(targets)} rules instead of {count} in chain {chain}"
            place = ours.index(chain) + 1
            if not targets or targets[-1] != (ours[place] if place < len(ours) else "DROP"):
                return f"another end of chain {chain}"
            if chain == f"nch-{device}" and self._read_comment(table, chain) != _count(len(targets) - 1):
                return f"{len(targets)} rules, but the last says {self._read_comment(table, chain)!r}, in chain {chain}"
        return ""

    def _read_comment(self, table: Any, chain: str) -> str:
        """Return what the last rule of a chain says."""
        *_, last = _list_entries(table, chain)
        rule = table.create_rule(last, self._iptc.Chain(table, chain))
        return next((str(match.comment) for match in rule.matches if match.name == "comment"), "")


class _quiet:
    """While the block lasts, nothing is written to standard error, not by C either."""

    def __enter__(self) -> None:
        self._saved = os.dup(2)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        os.close(silence)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 2)
        os.close(self._saved)


class _locked:
    """The lock of iptables(8), for as long as the block lasts.  Raises `GuardError` where somebody else keeps it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        deadline = time.monotonic() + LOCK_PATIENCE
        try:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise GuardError(f"{self._path}: {error.strerror}") from None
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(self._file)
                    raise GuardError(f"{self._path}: another program has held it for {LOCK_PATIENCE:g} s") from None
                time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _build_openings(version: int, window: Window | None, now: float) -> tuple[str, ...]:
    if window is None or window.until <= now:
        return ()
    matches = [match for opening in window.openings for match in render_opening(opening, version)]
    end = ""
    if window.name != OPEN:
        # The last second at which it is open: seconds are all that the match knows.  UTC, as all without --kerneltz.
        last = min(-int(-window.until // 1) - 1, _LAST_TIME)
        end = f"-m time --datestop {time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(last))}"
    return tuple(" ".join(filter(None, (match, end, "-j RETURN"))) for match in matches)


def _list_chains(device: str, table: str) -> list[str]:
    """Return the device's chains in the order in which one leads to the next."""
    if table == "filter":
        return [f"nchf-{device}"]
    return [*(f"nchw-{name}-{device}" for name in WINDOWS), f"nch-{device}"]


def _render_jump(device: str, table: str) -> str:
    return f"-o {device} -j {_list_chains(device, table)[0]}"


def _list_entries(table: Any, chain: str) -> Iterator[Any]:
    entry = table.first_rule(chain)
    while entry:
        yield entry
        entry = table.next_rule(entry)


def _list_targets(table: Any, chain: str) -> Iterator[str]:
    """Yield the target of each rule of a chain; matches, which may be anybody's, are not looked at."""
    for entry in _list_entries(table, chain):
        yield (table.get_target(entry) or b"").decode(errors="replace")


def _count(rules: int) -> str:
    return f"behind-{rules}-rules"


def _restore_zone() -> None:
    """Give the C library its time zone back, as Python still knows it."""
    zone = os.environ.get("TZ")
    if zone is None:
        os.unsetenv("TZ")
    else:
        os.putenv("TZ", zone)
    time.tzset()


def _say(error: Exception) -> str:
    # Some of python-iptables' messages end with the kernel's as the bytes that strerror(3) gave.
    return str(error).replace("b'", "").rstrip("'")


def _name(version: int) -> str:
    return "ip6tables" if version == 6 else "iptables"
