"""The guard by iptables: written by iptables-restore(8), read back by iptables-save(8).

There are two variants of iptables, each with tables of its own: ``legacy`` and ``nft`` (iptables-legacy(8),
iptables-nft(8)).  A guard is put into the tables of the variant that update-alternatives(1) has chosen on this machine,
since the admin lists his rules there.  The record of the guard keeps the variant (``iptables-nft``), so that it is
found again after the admin has chosen the other one.

All rules are in one table, ``mangle``, because iptables-restore changes only one table at once: each call here is one
transaction for each address family, IPv6 first.  The deciding rules are in POSTROUTING, after all rerouting.  RETURN
leads back by one chain only, so the chains of a device are connected by goto: POSTROUTING jumps to the chain of the
first window, each window's chain goes to the next one, and the last goes to ``nch-DEVICE``, which drops.  So a RETURN
in any of them leads back to POSTROUTING, to the admin's own rules: our rules never accept a packet before these.
``nchf-DEVICE``, in FORWARD, drops forwarded packets.

No packet passes ``ncht-DEVICE``: each of its rules has the token of a look at the network as its comment.  It always
has `TOKENS` rules: a new token pushes out the oldest.

The rules of a window hold between two points in time (``-m time``, in UTC), of which the first is some seconds before
the window was opened: if the clock is set back by more than that, the window shuts.
"""

from __future__ import annotations

import os
import time
from _socket import AF_INET, AF_INET6, inet_ntop
from binascii import crc32
from math import inf

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import (
    Closing, GuardError, JOINS, LAN, OPEN, TokenGone, WINDOWS, Window, check_device, check_exemption,
    check_token, read_network
)  # fmt: skip
from netconf_hooks.system import nf_tables, programs
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from netconf_hooks.observation import Ports

DIRECTORY = "/usr/sbin"
VARIANTS = {"xtables-legacy-multi": "legacy", "xtables-nft-multi": "nft"}
"""The variants, by the program that all their programs are links to."""

VERSIONS = (6, 4)
TABLE = "mangle"

LOCK_PATIENCE = 5  # seconds that iptables-legacy-restore waits for /run/xtables.lock
TIMEOUT = 10.0  # seconds for one program
SAVE_LIMIT = 16 * 1024 * 1024  # the longest output of iptables-save that is read, bytes
_LOCKED = 4  # exit status (RESOURCE_PROBLEM) if another process holds the lock

SLACK = 5.0
"""By how many seconds a clock may be set back without shutting the windows."""

TOKENS = 16
"""How many looks at a device's network can be under way at the same time."""

LACKS = (
    "no egress chain: nothing stops raw frames, nor those of a macvlan, VLAN or bridge",
    "no rules for bridges: what a bridge forwards between its ports passes no chain of iptables",
)
NO_NEWS = "no events for changed rules: if somebody flushes the table mangle, it is noticed seconds later"

_IPSEC = "-m policy --dir out --pol ipsec -j RETURN"
_USER = "-m owner --uid-owner 0-4294967294"  # any
_KERNELS_OWN = (133, 134, 135, 136, 137, 131, 132, 143)
_NO_TOKEN = "none"

# On a LAN: the kernel's own reports that it has joined the groups for finding devices.  Its socket for MLD has no user.
_KERNEL = "-m owner ! --uid-owner 0-4294967294"
_JOINS = {
    4: tuple(f"-d {group}/32 -p 2 -m ttl --ttl-eq 1 {_KERNEL}" for group in JOINS[4]),
    6: tuple(
        f"-d {group}/128 -p ipv6-icmp -m icmp6 --icmpv6-type 131 -m hl --hl-eq 1 {_KERNEL}" for group in JOINS[6]
    ),
}

# The packets that pass every closed link, by family: see nft_rules.ALWAYS.  All rules here are written as iptables-save
# writes them, because the two are compared.
ALWAYS = {
    4: ("-d 255.255.255.255/32 -p udp -m udp --sport 68 --dport 67 -j RETURN", _IPSEC),
    6: (
        "-d ff02::1:2/128 -p udp -m udp --sport 546 --dport 547 -j RETURN",
        "-d fe80::/10 -p udp -m udp --sport 546 --dport 547 -j RETURN",
        # 40 bytes of header, 24 of a router solicitation.
        "-d ff02::2/128 -p ipv6-icmp -m icmp6 --icmpv6-type 133 -m hl --hl-eq 255 -m length --length 0:64 -j RETURN",
        # ND, MLD and MLDv2 (linux/icmpv6.h).
        *(f"-p ipv6-icmp -m icmp6 --icmpv6-type {number} {_USER} -j DROP" for number in _KERNELS_OWN),
        "-p ipv6-icmp -m icmp6 --icmpv6-type 135/0 -m hl --hl-eq 255 -j RETURN",
        "-p ipv6-icmp -m icmp6 --icmpv6-type 136/0 -m hl --hl-eq 255 -j RETURN",
        "-d ff02::16/128 -p ipv6-icmp -m icmp6 --icmpv6-type 143 -m hl --hl-eq 1 -j RETURN",
        "-d ff02::2/128 -p ipv6-icmp -m icmp6 --icmpv6-type 132 -m hl --hl-eq 1 -j RETURN",
        "-d ff02::1:ff00:0/104 -p ipv6-icmp -m icmp6 --icmpv6-type 131 -m hl --hl-eq 1 -j RETURN",
        _IPSEC,
    ),
}

_ATTEMPTS = 3  # other programs may change the table between our reading and writing

_FIRST_TIME = 86400  # libxt_time writes no earlier date
_LAST_TIME = 2**31 - 2  # the latest date that libxt_time reads and writes: it does not write 2**31 - 1, its default


def render_exemption(exemption: Exemption, version: int) -> tuple[str, ...]:
    """Return the matches for packets of an exemption, as iptables-save(8) writes them; a packet has to match only one.

    version: 4 or 6; an exemption for the other family has no matches.  Raises `GuardError` for an impossible exemption.
    """
    check_exemption(exemption)
    network = ""
    if exemption.network:
        address, length = read_network(exemption.network)
        if len(address) != (4 if version == 4 else 16):
            return ()
        if length:
            network = f"-d {inet_ntop(AF_INET if version == 4 else AF_INET6, address)}/{length}"
    ports = " ".join(
        f"--{side} {port}" for side, port in (("sport", exemption.source_port), ("dport", exemption.port)) if port
    )
    mark = f"-m mark --mark {exemption.mark:#x}" if exemption.mark else ""
    reply = "-m conntrack --ctdir REPLY" if exemption.reply else ""
    found = []
    for protocol in ("tcp", "udp") if ports and not exemption.protocol else (exemption.protocol,):
        words = [network, f"-p {protocol}" if protocol else "", f"-m {protocol} {ports}" if ports else ""]
        owners = [f"-m owner --uid-owner {uid}" for uid in sorted(set(exemption.uids))]
        for owner in owners or [""]:
            found.append(" ".join(filter(None, (*words, owner, mark, reply))))
    return tuple(found)


def render_window(window: Window | None, version: int, now: float) -> tuple[str, ...]:
    """Return the rules by which the packets of a window pass while it is open; none for None or after its end.

    now: as time.time().  The match has a resolution of one second, and includes its last second.
    """
    if window is None or window.until <= now or now > _LAST_TIME:
        return ()
    if window.name == LAN:
        # Time does not end this window.  Its rules have times only because that marks a window's rules.
        time_match = f"-m time --datestart {_format_time(_FIRST_TIME)} --datestop {_format_time(_LAST_TIME)}"
        networks = (match for exemption in window.exemptions for match in render_exemption(exemption, version))
        return tuple(f"{match} {time_match} -j RETURN" for match in (*_JOINS[version], *networks))
    last = min(-int(-window.until // 1) - 1, _LAST_TIME)
    time_match = f"-m time --datestart {_format_time(now - SLACK)} --datestop {_format_time(last)}"
    matches = (match for exemption in window.exemptions for match in render_exemption(exemption, version))
    return tuple(" ".join(filter(None, (match, time_match, "-j RETURN"))) for match in matches)


def build_window(device: str, name: str, version: int, window: Window | None, now: float) -> tuple[str, ...]:
    """Return the rules of a window's chain.  The window is shut if `window` is None or has ended."""
    place = WINDOWS.index(name) + 1
    following = _name_window(device, WINDOWS[place]) if place < len(WINDOWS) else f"nch-{device}"
    rules = render_window(window, version, now)
    if name == LAN and version == 6:
        # `ALWAYS` decides about all other ND and MLD, whatever prefixes the LAN has, and even if the window is shut.
        left = (f"-p ipv6-icmp -m icmp6 --icmpv6-type {number} -g {following}" for number in _KERNELS_OWN)
        joins = len(_JOINS[version])
        rules = (*rules[:joins], *left, *rules[joins:])
    return (*rules, f"-g {following}")


def build_forward(version: int, window: Window | None, now: float) -> tuple[str, ...]:
    """Return the rules of a device's chain for forwarded packets.

    window: the one named `OPEN`, if it is open.  Forwarded packets have no user here.
    """
    return (*render_window(_without_users(window), version, now), _IPSEC, "-j DROP")


def build_chains(
    device: str, version: int, exemptions: tuple[Exemption, ...], windows: tuple[Window, ...], now: float
) -> dict[str, tuple[str, ...]]:
    """Return the rules of a device's chains, except those for tokens.  version: 4 or 6; now: as time.time()."""
    found = {window.name: window for window in windows}
    chains = {_name_window(device, name): build_window(device, name, version, found.get(name), now) for name in WINDOWS}
    matches = (match for exemption in exemptions for match in render_exemption(exemption, version))
    passing = (f"{match} -j RETURN".lstrip() for match in matches)
    chains[f"nch-{device}"] = (*ALWAYS[version], *passing, "-j DROP")
    chains[f"nchf-{device}"] = build_forward(version, found.get(OPEN), now)
    return chains


def parse_save(text: str) -> dict[str, list[str]]:
    """Return the rules of the table mangle by chain, from the output of iptables-save(8); empty without that table.

    Raises ValueError if the output ends in the middle of the table.
    """
    chains: dict[str, list[str]] = {}
    inside = False
    for line in text.splitlines():
        if line.startswith("*"):
            inside = line == f"*{TABLE}"
        elif line == "COMMIT":
            inside = False
        elif inside and line.startswith(":"):
            chains.setdefault(line[1:].partition(" ")[0], [])
        elif inside and line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            chains.setdefault(chain, []).append(rule)
    if inside:
        raise ValueError("the output of iptables-save is cut off")
    return chains


def find_variant(directory: str = DIRECTORY) -> str:
    """Return this machine's variant of iptables, ``legacy`` or ``nft``, as update-alternatives(1) has chosen.

    directory: of the programs.  Raises `GuardError` without iptables, or with one that is neither.
    """
    program = f"{directory}/iptables-restore"
    if not os.path.exists(program):
        raise GuardError(f"{program} is missing (package iptables)")
    target = os.path.basename(os.path.realpath(program))
    if target not in VARIANTS:
        raise GuardError(f"{program} is {target}: expected a link to {' or '.join(VARIANTS)}")
    return VARIANTS[target]


def list_legacy_guards() -> tuple[str, ...]:
    """Return the devices with a guard in the legacy tables, which neither nft(8) nor iptables-nft(8) lists.

    They are read by python-iptables or, if that is not installed or does not work here, by iptables-legacy-save.  They
    are read only if the kernel has the table already, since reading it would load its module.  The result is empty
    without root, or if neither of these works.  Importing python-iptables takes 0.1 s, so only commands call this.
    """
    versions = [version for version in VERSIONS if _has_legacy_table(version)]
    if not versions:
        return ()
    try:
        from iptc import IPTCError, Table, Table6
    except (ImportError, OSError, AttributeError):  # OSError, AttributeError: no libiptc or libxtables, or another
        pass
    else:
        try:
            tables = [(Table6 if version == 6 else Table)(TABLE) for version in versions]
            return _list_guarded(chain.name for table in tables for chain in table.chains)
        except IPTCError:
            pass
    try:
        return Firewall(variant="legacy").list_devices()
    except GuardError:
        return ()


class Firewall:
    """The guard by one variant of iptables.

    thorough: whether to check that the kernel has all that the rules need, by ``iptables-restore --test``.
    variant: ``legacy`` or ``nft``; empty for the one that this machine uses.
    directory: of the programs; lock: the lock file of the legacy variant, empty for the usual one.
    Raises `GuardError` if a program is missing; with `thorough`, also if the kernel lacks a feature, or without root.
    """

    has_lease = True

    def __init__(
        self, thorough: bool = False, variant: str = "", directory: str = DIRECTORY, lock: str = ""
    ) -> None:
        self._variant = variant or find_variant(directory)
        self._directory = directory
        self._variables = {"XTABLES_LOCKFILE": lock} if lock else {}
        self.name = f"iptables-{self._variant}"
        # The nft variant changes tables of nf_tables, and the kernel reports that.
        self.has_news = self._variant == "nft"
        self.lacks = LACKS if self.has_news else (*LACKS, NO_NEWS)
        for version in VERSIONS:
            for what in ("restore", "save"):
                program = self._get_program(version, what)
                if not os.access(program, os.X_OK):
                    raise GuardError(f"{program} is missing (package iptables)")
        if thorough:
            self._test()

    def close(
        self,
        device: str,
        exemptions: tuple[Exemption, ...],
        windows: tuple[Window, ...] = (),
        token: str = "",
        ports: Ports | None = None,
    ) -> None:
        """See `AnyFirewall.close`.

        ports: not used.  Frames that a bridge forwards pass no chain of iptables, so `lifecycle` refuses to guard one.
        """
        taking = bool(token and windows)
        if taking:
            check_token(token)
        self._close([Closing(device, exemptions, windows)], token if taking else "")

    def close_all(self, closings: Sequence[Closing]) -> None:
        """See `AnyFirewall.close_all`: it is one transaction for each address family."""
        self._close(closings)

    def _close(self, closings: Sequence[Closing], token: str = "") -> None:
        """Close devices.  token: for the windows of the first device."""
        for each in closings:
            check_device(each.device)
        now = time.time()
        changed = False
        try:
            for version in VERSIONS:
                wanted = {
                    each.device: build_chains(each.device, version, each.exemptions, each.windows, now)
                    for each in closings
                }
                self._put(version, wanted, token)
                changed = True
        except GuardError as error:
            if changed or isinstance(error, _Overwritten):
                for each in closings:
                    for window in each.windows:
                        self._shut_after_failure(each.device, window.name)
            raise

    def change_ports(self, device: str, ports: Ports) -> None:
        """See `AnyFirewall.change_ports`.  The rules here don't depend on ports."""

    def begin_look(self, device: str, token: str) -> None:
        """See `AnyFirewall.begin_look`."""
        self.begin_looks({device: token})

    def begin_looks(self, tokens: Mapping[str, str]) -> None:
        """See `AnyFirewall.begin_looks`."""
        commands = []
        for device, token in tokens.items():
            check_device(device)
            check_token(token)
            chain = _name_tokens(device)
            commands += [f"-D {chain} {TOKENS}", f"-I {chain} 1 {_render_token(token)}"]
        for version in VERSIONS:
            self._restore(version, commands)

    def open_window(self, device: str, window: Window, token: str = "") -> None:
        """See `AnyFirewall.open_window`."""
        check_device(device)
        now = time.time()
        if window.until <= now:
            self.shut_window(device, window.name)
            return
        taking: list[str] = []
        if token:
            check_token(token)
            taking = _take_token(device, token)
        changed = False
        try:
            for version in VERSIONS:
                try:
                    self._restore(version, [*taking, *_set_window(device, version, window.name, window, now)])
                except _Busy:
                    raise
                except _Killed:
                    changed = True  # maybe
                    raise
                except GuardError:
                    chains = self._read(version)
                    if f"nch-{device}" not in chains:
                        raise GuardError(f"{device}: not guarded, so no window of it can be opened") from None
                    if taking and not _has_token(chains, device, token):
                        raise TokenGone(device) from None
                    raise
                changed = True
        except GuardError:
            if changed:
                self._shut_after_failure(device, window.name)
            raise

    def shut_window(self, device: str, *names: str) -> None:
        """See `AnyFirewall.shut_window`."""
        check_device(device)
        problem: GuardError | None = None
        for version in VERSIONS:
            try:
                self._restore(version, _shut_windows(device, version, names))
            except _Busy as error:
                problem = problem or error
            except GuardError as error:
                if f"nch-{device}" in self._read(version):
                    problem = problem or error
        if problem and len(names) > 1 and not isinstance(problem, _Busy):
            for name in names:
                self.shut_window(device, name)  # an older version's rules lack one of the windows
        elif problem:
            raise problem

    def shut_all(self, windows: Mapping[str, Sequence[str]]) -> None:
        """See `AnyFirewall.shut_all`: it is one transaction for each address family."""
        for device in windows:
            check_device(device)
        for version in VERSIONS:
            shutting = (_shut_windows(device, version, names) for device, names in windows.items())
            self._restore(version, [command for commands in shutting for command in commands])

    def renew_window(self, device: str, window: Window) -> bool:
        """See `AnyFirewall.renew_window`.

        Each rule is replaced by one that ends later, which fails if somebody has shut the window meanwhile.
        """
        check_device(device)
        now = time.time()
        chain = _name_window(device, window.name)
        changes = {}
        for version in VERSIONS:
            fresh = {chain: render_window(window, version, now)}
            if window.name == OPEN:
                fresh[f"nchf-{device}"] = render_window(_without_users(window), version, now)
            standing = self._read(version)
            old = {name: [rule for rule in standing.get(name, ()) if _is_timed(rule)] for name in fresh}
            if fresh[chain] and not any(_is_within(rule, now) for rule in old[chain]):
                return False
            changes[version] = [f"-D {name} {rule}" for name, rules in old.items() for rule in rules]
            changes[version] += [f"-I {name} 1 {rule}" for name, rules in fresh.items() for rule in reversed(rules)]
        changed = False
        for version, commands in changes.items():
            try:
                self._restore(version, commands)
            except _Busy:
                raise
            except GuardError:
                if any(_is_within(rule, now) for rule in self._read(version).get(chain, ())):
                    raise
                if changed:
                    self._shut_after_failure(device, window.name)
                return False
            changed = True
        return True

    def is_open(self, device: str) -> bool:
        """See `AnyFirewall.is_open`."""
        check_device(device)
        now = time.time()
        tables = [self._read(version) for version in VERSIONS]
        return any(
            f"nch-{device}" not in chains
            or any(_is_within(rule, now) for rule in chains.get(_name_window(device, OPEN), ()))
            for chains in tables
        )

    def lift(self, device: str) -> None:
        """See `AnyFirewall.lift`."""
        check_device(device)
        for version in reversed(VERSIONS):
            for attempt in range(_ATTEMPTS):
                chains = self._read(version)
                commands = _unhook(device, chains)
                ours = [name for name in _list_chains(device) if name in chains]
                commands += [f"-F {name}" for name in ours]
                commands += [f"-X {name}" for name in ours]
                if not commands:
                    break
                try:
                    self._restore(version, commands)
                    break
                except GuardError:  # another program may have changed the table since it was read
                    if attempt == _ATTEMPTS - 1:
                        raise

    def find_fallen(self, devices: Sequence[str]) -> dict[str, str]:
        """See `AnyFirewall.find_fallen`."""
        for device in devices:
            check_device(device)
        fallen: dict[str, str] = {}
        for version in VERSIONS if devices else ():
            chains = self._read(version)
            for device in devices:
                if device not in fallen and (problem := _find_problem(device, chains)):
                    fallen[device] = problem
        return fallen

    def list_devices(self) -> tuple[str, ...]:
        """See `AnyFirewall.list_devices`."""
        return _list_guarded(chain for version in VERSIONS for chain in self._list_chains(version))

    def _put(self, version: int, wanted: Mapping[str, dict[str, tuple[str, ...]]], token: str) -> None:
        """Give the chains of devices exactly these rules, and check that they have them.

        wanted: the rules by device and chain; token: as for `_close`.
        """
        checksums = {device: _sum_rules(device, chains) for device, chains in wanted.items()}
        first = next(iter(wanted), "")
        standing: dict[str, list[str]] = {}
        problem = ""
        # First assume that the guards are installed already, which saves reading the table.
        begin = 0 if token or self._may_stand(version, wanted) else 1
        if begin and len(wanted) > 1:
            standing = self._read(version)
        last = begin + _ATTEMPTS - 1
        for attempt in range(begin, last + 1):
            commands = _take_token(first, token) if token else []
            for device, chains in wanted.items():
                anew = attempt > 0 and not token and len(standing.get(_name_tokens(device), ())) != TOKENS
                commands += _fill(device, chains, checksums[device], renew_tokens=anew)
                hooks = _list_hooks(device)
                commands += _unhook(device, standing) if attempt else [f"-D {hook} {rule}" for hook, rule in hooks]
                commands += [f"-I {hook} 1 {rule}" for hook, rule in hooks]
            try:
                self._restore(version, commands)
            except _Busy:
                raise
            except GuardError as error:
                if token and isinstance(error, _Killed):
                    # The token may have been used, and the window may be open.
                    raise _Overwritten(str(error)) from None
                if attempt == last:
                    raise
                if token or attempt or len(wanted) > 1:
                    standing = self._read(version)
                if token and not _has_token(standing, first, token):
                    raise TokenGone(first) from None
                continue
            standing = self._read(version)
            problem = next(filter(None, (_find_difference(*each, standing) for each in wanted.items())), "")
            if not problem:
                return
            if token:
                break  # it is used
            # A later version of iptables-save may write our rules differently: from now on compare with its own output.
            checksums = {device: _sum_rules(device, standing) for device in wanted}
        raise _Overwritten(f"{', '.join(wanted)}: the rules of {self.name} are not as they were written: {problem}")

    def _may_stand(self, version: int, devices: Iterable[str]) -> bool:
        """Whether all of these devices may have a guard already.  The legacy tables can't be read without a program."""
        if self._variant == "legacy":
            return True
        standing = self._list_chains(version)
        return all(f"nch-{device}" in standing for device in devices)

    def _list_chains(self, version: int) -> Collection[str]:
        """Return the names of all chains of the table.  Raises `GuardError`."""
        if self._variant == "legacy":
            return self._read(version)
        try:
            # These are tables of nf_tables: iptables-save takes a hundred times as long to list 40 guards.
            with nf_tables.Tables() as kernel:
                return kernel.list_empty_chains(nf_tables.IP if version == 4 else nf_tables.IP6, TABLE)
        except NetlinkError as error:
            raise GuardError(f"{self.name}: {error}") from None

    def _shut_after_failure(self, device: str, name: str) -> None:
        """Shut a window that could be opened or renewed for only one address family.

        If this fails, too, its rules end with their time.
        """
        try:
            self.shut_window(device, name)
        except GuardError as error:
            from netconf_hooks.system import log

            log.error(f"{device}: netconf-guard: {error}")

    def _test(self) -> None:
        """Raise `GuardError` unless the kernel and iptables have everything that our rules need."""
        now = time.time()
        everything = (Exemption("udp", "", 53, 53, (0,), 1), Exemption("tcp", "", source_port=22, reply=True))
        for version in VERSIONS:
            windows = (Window(OPEN, everything, now + 1), Window(LAN, everything, inf))
            chains = build_chains("lo", version, everything, windows, now)
            self._restore(version, _fill("lo", chains, _sum_rules("lo", chains), renew_tokens=True), "--test")

    def _read(self, version: int) -> dict[str, list[str]]:
        """Return the rules of the table by chain.  Raises `GuardError`."""
        if self._variant == "legacy" and not _has_legacy_table(version):
            return {}  # iptables-legacy-save would load the module, which creates the table
        program = self._get_program(version, "save")
        result = self._run([program, "-t", TABLE], None)
        if result.status:
            raise GuardError(f"{program}: {_explain(result)}")
        try:
            return parse_save(result.output)
        except ValueError as error:
            raise GuardError(f"{program}: {error}") from None

    def _restore(self, version: int, commands: list[str], *options: str) -> None:
        """Change the table in one transaction.  Raises `GuardError`; then the table is unchanged, except for `_Killed`.
        """
        program = self._get_program(version, "restore")
        wait = ["-w", str(LOCK_PATIENCE)] if self._variant == "legacy" else []
        text = "".join(f"{line}\n" for line in (f"*{TABLE}", *commands, "COMMIT"))
        result = self._run([program, "--noflush", *wait, *options], text)
        if result.status:
            problem = _explain(result)
            if result.status < 0:
                raise _Killed(f"{program}: {problem}")
            if result.status == _LOCKED:
                raise _Busy(f"{program}: {problem}")
            raise GuardError(f"{program}: {problem}{_quote_line(problem, text)}")

    def _run(self, argv: list[str], stdin: str | None) -> programs.Result:
        try:
            return programs.run(argv, TIMEOUT, stdin, self._variables, SAVE_LIMIT)
        except programs.ProgramError as error:
            raise GuardError(str(error)) from None

    def _get_program(self, version: int, what: str) -> str:
        return f"{self._directory}/ip{'6' if version == 6 else ''}tables-{self._variant}-{what}"


class _Busy(GuardError):
    """Another process holds the lock of the legacy tables; nothing was changed."""


class _Killed(GuardError):
    """The program was killed by a signal: it is unknown whether the table was changed."""


class _Overwritten(GuardError):
    """The table was changed, but does not have the rules that were written."""


# --- chains


def _list_guarded(chains: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({chain.removeprefix("nch-") for chain in chains if chain.startswith("nch-")}))


def _name_window(device: str, name: str) -> str:
    return f"nchw-{name}-{device}"


def _name_tokens(device: str) -> str:
    return f"ncht-{device}"


def _list_chains(device: str) -> list[str]:
    """Return all chains of a device, each before those that it leads to."""
    return [*(_name_window(device, name) for name in WINDOWS), f"nch-{device}", f"nchf-{device}", _name_tokens(device)]


def _list_hooks(device: str) -> list[tuple[str, str]]:
    """Return the rules that lead to a device's chains, as pairs: the rule's chain, and the rule."""
    return [
        ("POSTROUTING", f"-o {device} -j {_name_window(device, WINDOWS[0])}"),
        ("FORWARD", f"-o {device} -j nchf-{device}"),
    ]


def _is_hook(rule: str) -> bool:
    """Whether a rule leads to the chains of one of our devices."""
    words = rule.split(" ")
    if len(words) != 4 or words[0::2] != ["-o", "-j"]:
        return False
    return rule in [hook for _, hook in _list_hooks(words[1])]


def _unhook(device: str, chains: dict[str, list[str]]) -> list[str]:
    """Return the commands that delete all rules which lead to a device's chains.  chains: the whole table."""
    targets = tuple(f" {way} {name}" for name in _list_chains(device) for way in ("-j", "-g"))
    ours = _list_chains(device)
    return [
        f"-D {name} {rule}"
        for name, rules in chains.items()
        if name not in ours
        for rule in rules
        if f" {rule}".endswith(targets)
    ]


def _fill(device: str, chains: dict[str, tuple[str, ...]], checksum: str, renew_tokens: bool) -> list[str]:
    """Return the commands that give chains exactly these rules; the last rule of ``nch-DEVICE`` gets the checksum.

    renew_tokens: whether to create the chain of the tokens anew, without tokens.
    """
    # This also empties a chain that exists.
    commands = [f":{name} - [0:0]" for name in chains]
    if renew_tokens:
        commands += [f":{_name_tokens(device)} - [0:0]", *_clear_tokens(device)]
    for name, rules in chains.items():
        *others, last = rules
        if name == f"nch-{device}":
            last = f"-m comment --comment {checksum} {last}"
        commands += [f"-A {name} {rule}" for rule in (*others, last)]
    return commands


def _set_window(device: str, version: int, name: str, window: Window | None, now: float) -> list[str]:
    """Return the commands that replace a window's rules; `window`: None to shut it."""
    chains = {_name_window(device, name): build_window(device, name, version, window, now)}
    if name == OPEN:
        chains[f"nchf-{device}"] = build_forward(version, window, now)
    commands = []
    for chain, rules in chains.items():
        commands.append(f"-F {chain}")  # unlike a declaration, this fails if the device is not guarded
        commands += [f"-A {chain} {rule}" for rule in rules]
    return commands


def _shut_windows(device: str, version: int, names: Sequence[str]) -> list[str]:
    """Return the commands that shut windows; with `OPEN`, they remove the tokens of all looks."""
    commands = [command for name in names for command in _set_window(device, version, name, None, 0.0)]
    return [*commands, *(_clear_tokens(device) if OPEN in names else ())]


def _without_users(window: Window | None) -> Window | None:
    if window is None:
        return None
    return Window(window.name, tuple(exemption for exemption in window.exemptions if not exemption.uids), window.until)


# --- tokens


def _render_token(token: str) -> str:
    return f"-m comment --comment {token} -j RETURN"


def _take_token(device: str, token: str) -> list[str]:
    """Return the commands that remove a token; they fail if the token is missing."""
    chain = _name_tokens(device)
    return [f"-D {chain} {_render_token(token)}", f"-A {chain} {_render_token(_NO_TOKEN)}"]


def _clear_tokens(device: str) -> list[str]:
    chain = _name_tokens(device)
    return [f"-F {chain}", *(f"-A {chain} {_render_token(_NO_TOKEN)}" for _ in range(TOKENS))]


def _has_token(chains: dict[str, list[str]], device: str, token: str) -> bool:
    return _render_token(token) in chains.get(_name_tokens(device), ())


# --- comparing


def _find_problem(device: str, chains: dict[str, list[str]]) -> str:
    """Return what is wrong with a device's rules in the table, in words; empty if nothing is.

    The rules of open windows are not compared, since they change; but each of them must have an end.
    """
    for hook, rule in _list_hooks(device):
        rules = chains.get(hook, [])
        if rule not in rules:
            return f"nothing leads to the chains of {device} in chain {hook}"
        if rules.count(rule) > 1:
            return f"more than one rule leads to the chains of {device} in chain {hook}"
        if not all(map(_is_hook, rules[: rules.index(rule)])):
            return f"another rule is before the chains of {device} in chain {hook}"
    for name in _list_chains(device):
        if name not in chains:
            return f"no chain {name}"
    if len(chains[_name_tokens(device)]) != TOKENS:
        return f"{len(chains[_name_tokens(device)])} rules instead of {TOKENS} in chain {_name_tokens(device)}"
    checksum = _sum_rules(device, chains)
    if not chains[f"nch-{device}"] or chains[f"nch-{device}"][-1] != f"-m comment --comment {checksum} -j DROP":
        return f"the rules of {device} don't match the checksum in the last one"
    return ""


def _compare(wanted: dict[str, tuple[str, ...]], chains: dict[str, list[str]]) -> str:
    """Return which chain has the wrong number of rules, in words; empty if none has."""
    for name, rules in wanted.items():
        if len(chains.get(name, ())) != len(rules):
            return f"{len(chains.get(name, ()))} rules instead of {len(rules)} in chain {name}"
    return ""


def _find_difference(device: str, wanted: dict[str, tuple[str, ...]], standing: dict[str, list[str]]) -> str:
    """Return how a device's rules differ from `wanted`, in words; empty if they don't."""
    return _find_problem(device, standing) or _compare(wanted, standing)


def _sum_rules(device: str, chains: Mapping[str, Sequence[str]]) -> str:
    """Return a checksum of all rules of a device, except those of its open windows and its tokens."""
    lines = []
    for name in _list_chains(device)[:-1]:
        for rule in chains.get(name, ()):
            if name == f"nch-{device}" and rule.startswith("-m comment --comment "):
                rule = "-j DROP" if rule.endswith(" -j DROP") else rule
            if name == f"nch-{device}" or not _is_timed(rule):
                lines.append(f"{name} {rule}")
    return f"{crc32(chr(10).join(lines).encode()):08x}"


def _is_timed(rule: str) -> bool:
    """Whether a rule belongs to a window: it returns, between two points in time."""
    words = rule.split(" ")
    return words[-7:-5] == ["time", "--datestart"] and words[-4] == "--datestop" and words[-2:] == ["-j", "RETURN"]


def _is_within(rule: str, now: float) -> bool:
    """Whether a rule of a window holds at the time `now`; times in this format can be compared as text."""
    if not _is_timed(rule):
        return False
    words = rule.split(" ")
    return words[-5] <= _format_time(now) <= words[-3]


# --- text


def _format_time(moment: float) -> str:
    """Return a time as libxt_time reads and writes it, in UTC; fractions of a second are cut off."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


def _explain(result: programs.Result) -> str:
    """Return why a program failed, in words."""
    said = _join_lines(result.output)
    if result.status < 0:
        return f"killed by signal {-result.status}" + (f": {said}" if said else "")
    return said or f"exit status {result.status}"


def _join_lines(output: str) -> str:
    """Return a program's output as one line, without the lines that it always prints."""
    lines = [line.strip() for line in output.splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith(("Try `", "Error occurred at", "# ")))


def _quote_line(problem: str, text: str) -> str:
    """Return the line that a message points to by its number, in parentheses."""
    words = problem.replace(":", " ").split()
    for word, number in zip(words, words[1:]):
        if word == "line" and number.isdigit() and 0 < int(number) <= text.count("\n"):
            return f" ({text.splitlines()[int(number) - 1]})"
    return ""


def _has_legacy_table(version: int, directory: str = "/proc/thread-self/net") -> bool:
    """Return whether the kernel has the legacy table in this network namespace."""
    try:
        with open(f"{directory}/ip{'6' if version == 6 else ''}_tables_names") as file:
            return TABLE in file.read().split()
    except OSError:
        return False
