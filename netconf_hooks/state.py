"""The records below /run/netconf-hooks, which survive from hook to hook: interfaces, guards, tunnels, events.

Only this module writes there, except that the watcher creates its FIFO.  A record is text that an admin can read with
cat(1): one fact on each line; characters other than printable ASCII are escaped as by Python's ``unicode_escape``.  A
new record is written into a temporary file and renamed: so a reader sees either the old or the new record, even if the
writer is killed (rename(2)).

There are two locks (flock(2); if the holder dies, the kernel releases them).  `Store.lock_records` is held while
records are read and a decision is made, `Store.lock_acting` while the decision is carried out.  Neither may be held
during a wait, an event script or a nested ifup.
"""

from __future__ import annotations

import fcntl
import os
import time

from netconf_hooks.exemption import parse_exemption
from netconf_hooks.observation import Answer, OPEN as UNENCRYPTED, Observation, Place, PortalNotice
from netconf_hooks.record import Record
from netconf_hooks.stanzas.rules import read_rules
from netconf_hooks.system.addresses import pack_address, parse_network
from netconf_hooks.system.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Any, TypeVar

    from netconf_hooks.stanzas.rules import Rules

    T = TypeVar("T")

    # What identifies a version of a file: its inode number, the time of its last change, and its size.
    _Stamp = tuple[int, int, int]

DIRECTORY = "/run/netconf-hooks"

# Nanoseconds after a file's change within which its replacement may look the same.
_YOUNG = 50_000_000

# The tunnels that the admin holds (`held`): not below /run, since a hold survives a reboot.
HELD = "/var/lib/netconf-hooks/held"

# The first line of every file.  Files of another version are not read: /run is empty after a boot.
FORMAT = "netconf-hooks 1"

# Seconds for which the answer to a request is kept, at least.
_ANSWER_KEPT = 3600.0

# The largest size of our files, bytes.  Options come in the environment, which is limited to 2 MiB by default
# (execve(2)).
_LIMIT = 1 << 23

# The last line of a guard's record: without it, the record was cut off, and rules may be missing.
_END = "end"


# The names of firewalls in guards' records (`guard.firewall.AnyFirewall.name`).
FIREWALLS = ("nftables", "iptables-nft", "iptables-legacy")

_GUARD_OPTION = b"option netconf-guard"
_VERDICTS = ("closed", "open", "released")


# The stages of a pass.  UP: ifupdown is bringing the interface up, or has brought it up.
UP = "up"
# ifupdown has taken down the logical interface that wpa_action(8) had raised over this pass, and wpa_action is about to
# raise another one.
KEPT = "kept"
# LEAVING: ifupdown is taking the interface down.  ENDED: it has taken this pass down.
LEAVING, ENDED = "leaving", "ended"


class Pass(Record):
    """One pass of ifupdown over an interface: the hooks that it runs for one ``iface`` stanza.

    family: as ifupdown names it; options: by name, the values of a repeated option joined by newlines.
    logical: the name of the stanza, which a mapping or the admin may have chosen; iface: the interface.
    run: the ifup process that it belongs to (`ifenv.find_run`); empty if ifupdown has one pass for each interface.
    stage: `UP`, `KEPT`, `LEAVING` or `ENDED`.  In any stage, its options are in force as long as it is in a record.
    reached: False if a later run of ifup for the same stanzas has begun, but has not reached this one (yet).
    began: when ifupdown started its first hook (`ifenv.find_start`); 0 if unknown.
    """

    __slots__ = ("family", "options", "logical", "iface", "run", "stage", "reached", "began")

    def __init__(
        self,
        family: str,
        options: Mapping[str, str],
        logical: str = "",
        iface: str = "",
        run: str = "",
        stage: str = UP,
        reached: bool = True,
        began: int = 0,
    ) -> None:
        self.family = family
        self.options = options
        self.logical = logical
        self.iface = iface
        self.run = run
        self.stage = stage
        self.reached = reached
        self.began = began


def merge_options(passes: Iterable[Pass]) -> dict[str, str]:
    """Return the options of all passes of an interface, for options that are evidence (``dns-domain``); rules are read
    for each pass by itself (`rules.read_rules`).

    The values of a repeated option are joined.  If two passes have the same value (both inherit it), it counts once.
    """
    merged: dict[str, str] = {}
    for each in passes:
        for option, value in each.options.items():
            if option not in merged:
                merged[option] = value
            elif merged[option] != value:
                merged[option] += "\n" + value
    return merged


class _Ruled(Record):
    """A record of what stanzas say: it has `passes`, and so rules."""

    __slots__ = ("_rules",)  # not a field: `Record` compares and prints those of the class itself

    passes: tuple[Pass, ...]

    @property
    def rules(self) -> Rules:
        """The rules of all passes together.  They are read once for each record."""
        if not hasattr(self, "_rules"):
            self._rules = read_rules(*[each.options for each in self.passes])
        return self._rules

    @property
    def options(self) -> dict[str, str]:
        """The options of all passes, as `merge_options` joins them."""
        return merge_options(self.passes)


class InterfaceRecord(_Ruled):
    """The record of an interface, from its ifup to its ifdown.

    iface: its name in ifupdown.
    passes: the passes of ifupdown that are in force, in their order.
    observation: the last look at its network; its `index` is the device's ifindex at that time, which no later device
        of the same name has.
    place: the place that follows from the observation by the rules.
    wish: whether it is a wish (``netconf-uplink``): it has no link, and counts until its ifdown; raised: the links that
        were brought up for it.
    losses: how often its link had lost its carrier before the look.
    """

    __slots__ = ("iface", "passes", "observation", "place", "wish", "raised", "losses")

    def __init__(
        self,
        iface: str,
        passes: tuple[Pass, ...],
        observation: Observation | None = None,
        place: Place | None = None,
        wish: bool = False,
        raised: tuple[str, ...] = (),
        losses: int = 0,
    ) -> None:
        self.iface = iface
        self.passes = passes
        self.observation = observation or Observation(iface)
        self.place = place or Place()
        self.wish = wish
        self.raised = raised
        self.losses = losses


class TunnelRecord(Record):
    """The newest decision on a tunnel, and whether it was carried out.

    verdict: ``up`` or ``down``; because: the reason, in words.
    applied: whether the tunnel was started or stopped as the verdict says; problem: why this failed; empty if it did
        not.
    held: a text that says that the admin holds it, or that somebody has stopped it by hand: then it is neither started
        nor stopped; empty if neither is true.
    """

    __slots__ = ("kind", "name", "verdict", "because", "applied", "problem", "held")

    def __init__(
        self, kind: str, name: str, verdict: str, because: str, applied: bool, problem: str = "", held: str = ""
    ) -> None:
        self.kind = kind
        self.name = name
        self.verdict = verdict
        self.because = because
        self.applied = applied
        self.problem = problem
        self.held = held


class TunnelState(Record):
    """The state of a tunnel that should be up, as the watcher has last seen it (`supervision`).

    All times are by `boot_time`, 0 for none.
    words: what it waits for; empty if it is up.  since: when it began to wait for this, or to be up.
    up_since, running_since: since when it is up; since when it runs, up or not.
    failures: attempts since it was last up for long enough; due: when the next attempt is.
    refusals: how often its user name or password was refused; stamp: identifies its files at that time.
    doubt: since when it is being tested whether it works, 0 if it is not; received: how much it had received at that
    time, -1 if unknown; remedy: how many of its remedies were tried since then.
    """

    __slots__ = (
        "kind", "name", "words", "since", "up_since", "running_since", "failures", "due", "refusals", "stamp", "doubt",
        "received", "remedy",
    )  # fmt: skip

    def __init__(
        self,
        kind: str,
        name: str,
        words: str = "",
        since: float = 0.0,
        up_since: float = 0.0,
        running_since: float = 0.0,
        failures: int = 0,
        due: float = 0.0,
        refusals: int = 0,
        stamp: str = "",
        doubt: float = 0.0,
        received: int = -1,
        remedy: int = 0,
    ) -> None:
        self.kind = kind
        self.name = name
        self.words = words
        self.since = since
        self.up_since = up_since
        self.running_since = running_since
        self.failures = failures
        self.due = due
        self.refusals = refusals
        self.stamp = stamp
        self.doubt = doubt
        self.received = received
        self.remedy = remedy


OPEN = "open"
CLOSED = "closed"
RELEASED = "released"
"""The verdicts on a guard.  Only the admin's command makes it ``released``; no decision does."""


class GuardRecord(_Ruled):
    """The guard of a device, from its first pre-up to its last post-down.

    device: the kernel's name; backend: the firewall that the guard is installed in.
    verdict: ``closed``, ``open`` or, by the admin's command, ``released``; because: the reason, in words.
    passes: of all interfaces on the device that come up or are up, in their order; all of those with a guard must agree
        before it opens.
    exemptions: the tunnels' packets that pass while it is closed, as lines that `exemption.parse_exemption` reads;
        names: the hosts among them that are configured by name, each with its addresses, as words of a line.
    servers: the DHCP servers with which the client renews the link's DHCP lease.
    done: whether the firewall does what this record says; opened: whether the guard was opened.
    lease_until: until when it stays open unless the lease is renewed, seconds since 1970; 0 if the firewall knows no
        lease; lease_until_boot: the same by `boot_time`, which nobody can set back.
    fingerprint: of the network that this record is about (`evidence.fingerprint`); empty before the first look.
    token: of the look that led to the newest decision (`firewall.AnyFirewall.begin_look`); empty if that look may not
        open the guard.
    shut_at: when it was last shut because the network changed, as time.monotonic(): only a later look opens it.
    portal_until: until when a captive portal is allowed, seconds since 1970, 0 if it is not; portal_until_boot: as
        lease_until_boot; portal_exemptions: what is allowed, to whom; portal_fingerprint: of the network at that time.
    portal_api: the URI that says when the portal is not needed any more (RFC 8908), empty if there is none; portal_due:
        when to ask it next, by `boot_time`.
    lan: the link's own prefixes that ``netconf-guard-allow lan`` allows, each ``ADDRESS/LENGTH``; lan_fingerprint: of
        the network at that time.
    dns_until, dns_until_boot: until when daemons may resolve names by themselves, as for the portal; dns_exemptions:
        what is allowed, to whom; dns_fingerprint: of the network on which this was allowed, kept after the time is
        over.
    problem: what could not be allowed, and why; empty if nothing failed.
    silent: the names of endpoints that got no answer when they were last resolved.
    former: the other firewalls in which it may still be installed, separated by spaces: from before the backend, or the
        variant of iptables, was changed.
    """

    __slots__ = (
        "device", "backend", "verdict", "because", "passes", "exemptions", "names", "servers", "done", "opened",
        "lease_until", "fingerprint", "shut_at", "portal_until", "portal_exemptions", "dns_until", "dns_exemptions",
        "problem", "former", "token", "lease_until_boot", "portal_until_boot", "portal_fingerprint", "dns_until_boot",
        "dns_fingerprint", "silent", "portal_api", "portal_due", "lan", "lan_fingerprint",
    )  # fmt: skip

    def __init__(
        self,
        device: str,
        backend: str,
        verdict: str = CLOSED,
        because: str = "",
        passes: tuple[Pass, ...] = (),
        exemptions: tuple[str, ...] = (),
        names: tuple[str, ...] = (),
        servers: tuple[str, ...] = (),
        done: bool = False,
        opened: bool = False,
        lease_until: float = 0.0,
        fingerprint: str = "",
        shut_at: float = 0.0,
        portal_until: float = 0.0,
        portal_exemptions: tuple[str, ...] = (),
        dns_until: float = 0.0,
        dns_exemptions: tuple[str, ...] = (),
        problem: str = "",
        former: str = "",
        token: str = "",
        lease_until_boot: float = 0.0,
        portal_until_boot: float = 0.0,
        portal_fingerprint: str = "",
        dns_until_boot: float = 0.0,
        dns_fingerprint: str = "",
        silent: tuple[str, ...] = (),
        portal_api: str = "",
        portal_due: float = 0.0,
        lan: tuple[str, ...] = (),
        lan_fingerprint: str = "",
    ) -> None:
        self.device = device
        self.backend = backend
        self.verdict = verdict
        self.because = because
        self.passes = passes
        self.exemptions = exemptions
        self.names = names
        self.servers = servers
        self.done = done
        self.opened = opened
        self.lease_until = lease_until
        self.fingerprint = fingerprint
        self.shut_at = shut_at
        self.portal_until = portal_until
        self.portal_exemptions = portal_exemptions
        self.dns_until = dns_until
        self.dns_exemptions = dns_exemptions
        self.problem = problem
        self.former = former
        self.token = token
        self.lease_until_boot = lease_until_boot
        self.portal_until_boot = portal_until_boot
        self.portal_fingerprint = portal_fingerprint
        self.dns_until_boot = dns_until_boot
        self.dns_fingerprint = dns_fingerprint
        self.silent = silent
        self.portal_api = portal_api
        self.portal_due = portal_due
        self.lan = lan
        self.lan_fingerprint = lan_fingerprint

    def portal_left(self) -> float:
        """Return for how many more seconds a captive portal is allowed; 0 if it is not."""
        return _time_left(self.portal_until, self.portal_until_boot)

    def dns_left(self) -> float:
        """Return for how many more seconds daemons may resolve names by themselves; 0 if they may not."""
        return _time_left(self.dns_until, self.dns_until_boot)

    def is_open(self, now: float) -> bool:
        """Whether the link is open at `now`, as time.time(): it was opened, and its lease has not ended."""
        over = 0 < self.lease_until <= now or 0 < self.lease_until_boot <= boot_time()
        return self.opened and not over


class StopRecord(Record):
    """The fact that somebody has stopped a tunnel by hand although it should be up (`stops`).

    because: how, in words; where: the links on which it was wanted at that time (`decide.describe_links`), empty if
    this is not recorded yet.
    """

    __slots__ = ("kind", "name", "because", "where")

    def __init__(self, kind: str, name: str, because: str, where: str = "") -> None:
        self.kind = kind
        self.name = name
        self.because = because
        self.where = where


class LinkdownRecord(Record):
    """The value of a device's ignore_routes_with_linkdown before we changed it (`linkdown`).

    index: the device's ifindex, which no later device of that name has; found: the values for IPv4 and IPv6, each empty
    if there was none.
    """

    __slots__ = ("device", "index", "found")

    def __init__(self, device: str, index: str, found: tuple[str, ...]) -> None:
        self.device = device
        self.index = index
        self.found = found


class PresenceRecord(Record):
    """The fact that a location, or ``inet``, was announced as connected, and for which interfaces.

    variables: the environment of its event scripts, by name; they get it again when it is disconnected.
    """

    __slots__ = ("name", "ifaces", "variables")

    def __init__(self, name: str, ifaces: tuple[str, ...], variables: Mapping[str, str]) -> None:
        self.name = name
        self.ifaces = ifaces
        self.variables = variables


class EventRecord(Record):
    """An event whose scripts have to run: ``office-lan-connected``.  variables: the scripts' environment, by name."""

    __slots__ = ("name", "variables")

    def __init__(self, name: str, variables: Mapping[str, str]) -> None:
        self.name = name
        self.variables = variables


def boot_time() -> float:
    """Return the seconds since boot, including time in suspend: a clock that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _time_left(until: float, until_boot: float) -> float:
    """Return for how many more seconds something is allowed: until the first of both clocks reaches its end.

    If the wall clock is set forward, it ends early; if the clock is set back, it does not last longer.
    """
    if not until:
        return 0.0
    left = until - time.time()
    return max(0.0, min(left, until_boot - boot_time()) if until_boot else left)


class RecordError(Exception):
    """A record can't be read; the message names the file."""


class Lock:
    """An flock(2) on a file (context manager); it waits until another holder has released it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        # os.open sets O_CLOEXEC (PEP 446): no program that we start keeps the lock.
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def take(self) -> bool:
        """Take the lock if it is free, and write our pid into it; return whether it was taken."""
        if not self.take_now():
            return False
        os.truncate(self.descriptor, 0)
        os.write(self.descriptor, f"{os.getpid()}\n".encode())
        return True

    def take_now(self) -> bool:
        """Take the lock if it is free; return whether it was taken."""
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.descriptor)
            return False
        return True

    def take_within(self, seconds: float) -> bool:
        """Take the lock as soon as it is free; return False if it is not free within some seconds."""
        from netconf_hooks.system.waiting import wait_until

        return wait_until(self.take_now, seconds, 0.02)

    def release(self) -> None:
        """Release the lock."""
        os.close(self.descriptor)


class Store:
    """The records below `directory`."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        self.directory = directory
        self.interfaces = directory + "/interfaces"
        self.guards = directory + "/guards"
        self.tunnels = directory + "/tunnels"
        self.presences = directory + "/presences"
        self.events = directory + "/events"
        self.linkdown = directory + "/linkdown"
        self.stops = directory + "/stops"
        self.fifo = directory + "/watch.fifo"
        self.abandoned = directory + "/watch.abandoned"
        self.states = directory + "/watch.tunnels"
        self.held_states = directory + "/watch.held"
        self.reasons = directory + "/reasons"
        self.orders = directory + "/orders"
        self.requests = directory + "/requests"
        self.refreshed = directory + "/requests.refresh"
        self.portals = directory + "/requests.portal"
        self._known: dict[str, tuple[_Stamp, object]] = {}

    def prepare(self) -> None:
        """Create the directories.  Raises OSError."""
        for directory in (self.directory, self.interfaces, self.guards):
            try:
                os.mkdir(directory, 0o755)
            except FileExistsError:
                continue
            os.chmod(directory, 0o755)  # regardless of the caller's umask: any user may run `status`

    def lock_records(self) -> Lock:
        """The lock for reading and changing records."""
        return Lock(self.directory + "/records.lock")

    def lock_acting(self) -> Lock:
        """The lock for carrying out decisions."""
        return Lock(self.directory + "/acting.lock")

    def read_interface(self, iface: str) -> InterfaceRecord | None:
        """Return the record of `iface`; None if there is none.  Raises `RecordError`."""
        return self._read_once(f"{self.interfaces}/{iface}", lambda path: _read_interface(path, iface))

    def knows_interface(self, iface: str) -> bool:
        """Whether `iface` has a record, or its device has a guard's record, readable or not."""
        return os.path.lexists(f"{self.interfaces}/{iface}") or iface.partition(":")[0] in self.list_guarded()

    def read_interfaces(
        self, on_error: Callable[[str], None], written: Mapping[str, InterfaceRecord] | None = None
    ) -> tuple[InterfaceRecord, ...]:
        """Return the records of all interfaces, sorted by name.  Those that can't be read are left out, and `on_error`
        is called with the message.

        written: records that the caller has just written, by interface, under the lock that it still holds: these are
        not read from their files.
        """
        known = written or {}
        return tuple(_read_all(self.interfaces, lambda name: known.get(name) or self.read_interface(name), on_error))

    def write_interface(self, record: InterfaceRecord) -> None:
        """Replace the record of an interface.  Raises OSError; then the old record stays."""
        path = f"{self.interfaces}/{record.iface}"
        _write_lines(path, _add_since(path, _format_interface(record), _INTERFACE_STATE))

    def read_interface_since(self, iface: str) -> float:
        """Return since when an interface is at the place in its record, by `boot_time`; 0 if unknown."""
        return _read_since(f"{self.interfaces}/{iface}")

    def remove_interface(self, iface: str) -> None:
        """Remove the record of an interface."""
        _remove(f"{self.interfaces}/{iface}")

    def read_guard(self, device: str) -> GuardRecord | None:
        """Return the record of a device's guard; None if there is none.  Raises `RecordError`."""
        return self._read_once(f"{self.guards}/{device}", lambda path: _read_guard(path, device))

    def read_guards(self, on_error: Callable[[str], None]) -> tuple[GuardRecord, ...]:
        """Return the records of all guards, sorted by device.  Those that can't be read are left out, and `on_error` is
        called with the message."""
        return tuple(_read_all(self.guards, self.read_guard, on_error))

    def write_guard(self, record: GuardRecord) -> None:
        """Replace the record of a guard.  Raises OSError; then the old record stays."""
        path = f"{self.guards}/{record.device}"
        _write_lines(path, [*_add_since(path, _format_guard(record), _GUARD_STATE), _END])

    def read_guard_since(self, device: str) -> float:
        """Return since when a guard has the state in its record, by `boot_time`; 0 if unknown."""
        return _read_since(f"{self.guards}/{device}")

    def remove_guard(self, device: str) -> None:
        """Remove the record of a guard."""
        _remove(f"{self.guards}/{device}")

    def has_guards(self) -> bool:
        """Whether there is any guard's record.  If all of them are lost, `list_asking` finds the guards."""
        return bool(_list_names(self.guards))

    def list_guarded(self) -> list[str]:
        """Return the devices that have a guard's record, readable or not."""
        return _list_names(self.guards)

    def list_asking(self) -> list[str]:
        """Return the interfaces that are up and whose rules ask for a guard, except those whose record can't be
        read."""
        asking = []
        for name in _list_names(self.interfaces):
            try:
                if self._read_once(f"{self.interfaces}/{name}", _asks_for_guard, "asks"):
                    asking.append(name)
            except OSError:
                continue  # not kept: the next read may succeed
        return asking

    def _read_once(self, path: str, read: Callable[[str], T], what: str = "") -> T:
        """Return the result of `read` for a file.  `read` is called again only if the file was replaced.

        what: distinguishes several results for one file.
        """
        # Files are never changed, only replaced.  But file systems other than tmpfs reuse the inode number of a removed
        # file at once, and times have only the resolution of the kernel's clock: so a young file is read each time.
        try:
            status = os.lstat(path)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            self._known.pop(what + path, None)
            return read(path)
        known = self._known.get(what + path)
        if known and known[0] == stamp:
            return known[1]  # type: ignore[return-value]
        found = read(path)
        if time.time_ns() - status.st_mtime_ns > _YOUNG:
            self._known[what + path] = (stamp, found)
        return found

    def read_tunnels(self) -> dict[tuple[str, str], TunnelRecord]:
        """Return the newest decision on each tunnel, by kind and name.  Raises `RecordError`."""
        records = (_parse_tunnel(self.tunnels, line) for line in _read_lines(self.tunnels))
        return {(record.kind, record.name): record for record in records}

    def write_tunnels(self, records: Mapping[tuple[str, str], TunnelRecord]) -> None:
        """Replace the decisions.  Raises OSError; then the old ones stay."""
        known = self.read_verdicts_since()
        lines = []
        for record in records.values():
            verdict, since = known.get((record.kind, record.name), ("", 0.0))
            since = since if verdict == record.verdict else boot_time()
            lines.append(f"{_format_tunnel(record)}\t{since!r}")
        _write_or_remove(self.tunnels, lines)

    def read_verdicts_since(self) -> dict[tuple[str, str], tuple[str, float]]:
        """Return the newest verdict on each tunnel, and since when it holds, by `boot_time`; 0 if unknown.

        Lines that can't be read are left out.
        """
        found = {}
        try:
            for line in _read_lines(self.tunnels):
                kind, name, verdict, *_, since = line.split("\t")
                found[kind, name] = (verdict, _read_number(since))
        except (RecordError, ValueError):
            pass
        return found

    def read_stops(self) -> dict[tuple[str, str], StopRecord]:
        """Return the tunnels that somebody has stopped by hand, by kind and name.  Raises `RecordError`."""
        found = {}
        for line in _read_lines(self.stops):
            fields = line.split("\t")
            if len(fields) != 4:
                raise RecordError(f"{self.stops}: can't be read: {line!r}")
            kind, name, because, where = fields
            found[kind, name] = StopRecord(kind, name, _unescape(because), _unescape(where))
        return found

    def write_stops(self, stops: Mapping[tuple[str, str], StopRecord]) -> None:
        """Replace the list of tunnels that somebody has stopped by hand.  Raises OSError."""
        fields = [(each.kind, each.name, _escape(each.because), _escape(each.where)) for each in stops.values()]
        _write_or_remove(self.stops, ["\t".join(each) for each in fields])

    def read_linkdown(self) -> dict[str, LinkdownRecord]:
        """Return the devices whose dead routes the kernel ignores, with the previous values.  Raises `RecordError`."""
        found = {}
        for line in _read_lines(self.linkdown):
            words = line.split(" ")
            if len(words) != 4:
                raise RecordError(f"{self.linkdown}: can't be read: {line!r}")
            device, index, *values = words
            found[device] = LinkdownRecord(device, index, tuple("" if value == "-" else value for value in values))
        return found

    def write_linkdown(self, records: Mapping[str, LinkdownRecord]) -> None:
        """Replace the list of devices whose dead routes the kernel ignores.  Raises OSError."""
        listed = [[each.device, each.index, *(value or "-" for value in each.found)] for each in records.values()]
        _write_or_remove(self.linkdown, [" ".join(words) for words in listed])

    def read_states(self) -> dict[tuple[str, str], TunnelState]:
        """Return the states of the tunnels that should be up, as the watcher has last seen them.  Raises `RecordError`.
        """
        records = (_parse_state(self.states, line) for line in _read_lines(self.states))
        return {(record.kind, record.name): record for record in records}

    def write_states(self, records: Iterable[TunnelState]) -> None:
        """Replace the states of the tunnels that should be up; only the watcher does.  Raises OSError."""
        _write_or_remove(self.states, [_format_state(record) for record in records])

    def read_held_states(self) -> dict[tuple[str, str], TunnelState]:
        """Return the states of the tunnels that are held, as the watcher has last seen them.  Raises `RecordError`."""
        records = [_parse_state(self.held_states, line) for line in _read_lines(self.held_states)]
        return {(record.kind, record.name): record for record in records}

    def write_held_states(self, records: Iterable[TunnelState]) -> None:
        """Replace the states of the tunnels that are held.  Raises OSError."""
        _write_or_remove(self.held_states, [_format_state(record) for record in records])

    def read_reason(self, kind: str, name: str) -> str:
        """Return why the last initiator of a tunnel failed (`tunnels.attempt`), in words; empty if it did not."""
        try:
            return "".join(map(_unescape, _read_lines(f"{self.reasons}/{kind}-{name}")))
        except (RecordError, ValueError):
            return ""

    def write_reason(self, kind: str, name: str, reason: str) -> None:
        """Record why the last initiator of a tunnel failed; empty if it did not.  Raises OSError."""
        if reason and not os.path.isdir(self.reasons):
            os.mkdir(self.reasons, 0o755)
        _write_or_remove(f"{self.reasons}/{kind}-{name}", [_escape(reason)] if reason else [])

    def read_order(self, kind: str, name: str) -> str:
        """Return the last order to an initiator, or what it has done (`tunnels.ifup`); empty if there is none."""
        try:
            return "".join(_read_lines(f"{self.orders}/{kind}-{name}"))
        except RecordError:
            return ""

    def write_order(self, kind: str, name: str, order: str) -> None:
        """Record the last order to an initiator, or what it has done.  The records' lock is held.  Raises OSError."""
        if order and not os.path.isdir(self.orders):
            os.mkdir(self.orders, 0o755)
        _write_or_remove(f"{self.orders}/{kind}-{name}", [order] if order else [])

    def path_of_answer(self, instance: str) -> str:
        """Return the file with the answer to a request (`request`)."""
        return f"{self.requests}/{instance}"

    def open_answer(self, instance: str) -> int:
        """Begin the answer to a request, and return a descriptor for writing it; only root can read it.

        An earlier answer to the same request is another file, which somebody may still be reading.  Raises OSError.
        """
        self.prepare()
        try:
            os.mkdir(self.requests, 0o700)
        except FileExistsError:
            pass
        for name in _list_names(self.requests):
            if name == instance or self._is_old_answer(name):
                _remove(self.path_of_answer(name))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return os.open(self.path_of_answer(instance), flags, 0o600)

    def _is_old_answer(self, instance: str) -> bool:
        try:
            return time.time() - os.stat(self.path_of_answer(instance)).st_mtime > _ANSWER_KEPT
        except FileNotFoundError:
            return False  # the unit of another request has removed it

    def read_refreshed(self) -> float:
        """Return when a user's refresh has last begun or ended, by `boot_time`; 0 if there was none."""
        try:
            return _read_number(" ".join(_read_lines(self.refreshed)))
        except RecordError:
            return 0.0

    def write_refreshed(self, when: float) -> None:
        """Record when a user's refresh has begun or ended.  Raises OSError."""
        _write_lines(self.refreshed, [repr(when)])

    def read_portals(self) -> list[tuple[str, str]]:
        """Return the networks on which users have opened a captive portal: device and fingerprint.  Raises OSError."""
        try:
            pairs = [line.partition(" ")[::2] for line in _read_lines(self.portals)]
            return [(device, _unescape(text)) for device, text in pairs]
        except (RecordError, ValueError) as error:
            # Don't return an empty list: then users could open a portal on these networks again.
            raise OSError(f"{self.portals}: {error}") from error

    def write_portals(self, portals: Iterable[tuple[str, str]]) -> None:
        """Record the networks on which users have opened a captive portal, with the records' lock.  Raises OSError."""
        _write_lines(self.portals, [f"{device} {_escape(text)}" for device, text in portals])

    def is_unfinished(self) -> bool:
        """Whether a tunnel could not be stopped yet."""
        try:
            return any(
                not tunnel.applied and not tunnel.held and tunnel.verdict == "down"
                for tunnel in self.read_tunnels().values()
            )  # fmt: skip
        except RecordError:
            return False

    def has_interfaces(self) -> bool:
        """Whether there is any interface's record."""
        return bool(_list_names(self.interfaces))

    def lock_watcher(self) -> Lock:
        """The lock that the watcher holds; the file has its pid.  Use only `Lock.take`."""
        return Lock(self.directory + "/watch.lock")

    def lock_events(self) -> Lock:
        """The lock for running event scripts, one after the other.  Use only `Lock.take`, which does not wait: a script
        may run a command that adds events, and this command would wait for the script that has started it."""
        return Lock(self.directory + "/events.lock")

    def read_presences(self) -> tuple[PresenceRecord, ...]:
        """Return the locations, and ``inet``, that were announced as connected.  Raises `RecordError`."""
        parsed = _parse_told(self.presences, _read_lines(self.presences))
        return tuple(PresenceRecord(words[0], tuple(words[1:]), variables) for words, variables in parsed)

    def write_presences(self, presences: Iterable[PresenceRecord]) -> None:
        """Replace the list of what was announced as connected.  Raises OSError."""
        told = [([presence.name, *presence.ifaces], presence.variables) for presence in presences]
        _write_or_remove(self.presences, _format_told(told))

    def has_events(self) -> bool:
        """Whether there is any event whose scripts have to run."""
        return os.path.exists(self.events)

    def read_abandoned(self) -> list[tuple[int, str]]:
        """Return the watcher's children that could not be killed: the pid, and what each was doing.

        Children that have ended since are left out.  Raises `RecordError`.
        """
        found = [line.partition(" ") for line in _read_lines(self.abandoned)]
        return [(int(pid), _unescape(what)) for pid, _, what in found if os.path.exists(f"/proc/{pid}")]

    def write_abandoned(self, children: Iterable[tuple[int, str]]) -> None:
        """Replace the list of children that could not be killed; only the watcher does.  Raises OSError."""
        _write_or_remove(self.abandoned, [f"{pid} {_escape(what)}" for pid, what in children])

    def read_events(self) -> tuple[EventRecord, ...]:
        """Return the events whose scripts have to run, in their order.  Raises `RecordError`."""
        parsed = _parse_told(self.events, _read_lines(self.events))
        return tuple(EventRecord(words[0], variables) for words, variables in parsed)

    def write_events(self, events: Iterable[EventRecord]) -> None:
        """Replace the events whose scripts have to run.  Raises OSError."""
        _write_or_remove(self.events, _format_told([([event.name], event.variables) for event in events]))


def _read_all(directory: str, read: Callable[[str], T | None], on_error: Callable[[str], None]) -> Iterator[T]:
    """Yield each record of a directory, sorted by name.  Those that can't be read are left out, and `on_error` is
    called with the message."""
    for name in _list_names(directory):
        try:
            record = read(name)
        except RecordError as error:
            on_error(str(error))
            continue
        if record:
            yield record


def _read_interface(path: str, iface: str) -> InterfaceRecord | None:
    lines = _read_lines(path)
    return _parse_interface(iface, lines) if lines else None


def _read_guard(path: str, device: str) -> GuardRecord | None:
    lines = _read_lines(path)
    return _parse_guard(device, lines) if lines or os.path.lexists(path) else None


def _asks_for_guard(path: str) -> bool:
    """Whether the rules of an interface's record ask for a guard.  Raises OSError."""
    # Don't read the whole record: on a machine without guards, every hook calls this.
    for line in read_file(path, _LIMIT, follow=False).split(b"\n"):
        if line.startswith(_GUARD_OPTION):
            option, _, value = line[len(_GUARD_OPTION):].partition(b" ")
            if not option.strip(b"-0123456789") and value != b"no":
                return True
    return False


def _list_names(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except FileNotFoundError:
        return []


def _read_lines(path: str) -> list[str]:
    # Read bytes, here and below: opening a file as ASCII imports a module, 0.3 ms of every ifup.
    try:
        lines = read_file(path, _LIMIT, follow=False).decode("ascii").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: {error}") from error
    if not lines or lines[0] != FORMAT:
        raise RecordError(f"{path}: not a record of this version: its first line is not {FORMAT!r}")
    return lines[1:]


def _write_lines(path: str, lines: list[str]) -> None:
    # The temporary file's name begins with a dot, which no record's name does.  It is always the same, so the next
    # writer overwrites a file that a killed one has left.  Only the holder of the records' lock writes.
    directory, name = os.path.split(path)
    beside = f"{directory}/.{name}.new"
    with open(beside, "wb") as file:
        file.write("\n".join([FORMAT, *lines, ""]).encode("ascii"))
    os.chmod(beside, 0o644)
    os.rename(beside, path)


def _write_or_remove(path: str, lines: list[str]) -> None:
    if lines:
        _write_lines(path, lines)
    else:
        _remove(path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _escape(value: str) -> str:
    if value.isascii() and value.isprintable() and "\\" not in value:
        return value
    return value.encode("unicode_escape").decode("ascii")


def _unescape(value: str) -> str:
    return value.encode("ascii").decode("unicode_escape") if "\\" in value else value


_VERDICTS_ON_WORDS = {True: "holds", False: "fails", None: "undecided"}


# The lines of an interface's and of a guard's record that make up its state; `_SINCE` is when they last changed.
_INTERFACE_STATE = ("index", "location", "undecided", "wish")
_GUARD_STATE = ("verdict", "opened")
_SINCE = "since "


def _add_since(path: str, lines: list[str], keys: tuple[str, ...]) -> list[str]:
    """Return the lines of a record, and a line with the time when the lines with these keys last changed."""

    beginnings = tuple(f"{key} " for key in keys)

    def pick(all_lines: list[str]) -> list[str]:
        return [line for line in all_lines if line.startswith(beginnings)]

    try:
        old = _read_lines(path)
    except RecordError:
        old = []
    since = _find_since(old) if old and pick(old) == pick(lines) else 0.0
    return [*lines, f"{_SINCE}{since or boot_time()!r}"]


def _find_since(lines: list[str]) -> float:
    return next((_read_number(line[len(_SINCE):]) for line in lines if line.startswith(_SINCE)), 0.0)


def _read_since(path: str) -> float:
    try:
        return _find_since(_read_lines(path))
    except RecordError:
        return 0.0


def _read_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _format_interface(record: InterfaceRecord) -> list[str]:
    seen, place = record.observation, record.place
    lines = [f"index {seen.index}"]
    for each in record.passes:
        lines += _format_pass(each)
    lines += [
        f"location {_escape(place.location)}",
        f"line {_escape(place.line)}",
        f"grade {place.grade}",
        f"undecided {place.undecided:d}",
        f"routable {seen.routable:d}",
        f"wireless {seen.wireless}",
        f"wish {record.wish:d}",
        f"looked {seen.observed_at!r}",
        f"losses {record.losses}",
        *(f"raised {_escape(link)}" for link in record.raised),
        *(f"portal {_escape(uri)}" for uri in seen.portal.uris),
        *(f"portal-mac {mac}" for mac in seen.portal.macs),
        *([f"portal-problem {_escape(seen.portal.problem)}"] if seen.portal.problem else []),
    ]
    for word, verdict in place.words.items():
        lines += [f"word {_escape(word)}", f"value {_VERDICTS_ON_WORDS[verdict]}"]
    for key, answer in seen.answers.items():
        lines.append(f"seen {_escape(key)}")
        for name, values in (("value", answer.values), ("settled", answer.settled), ("refuted", answer.refuted)):
            lines += [f"{name} {_escape(value)}" for value in values]
        if answer.pending:
            lines.append("pending 1")
        if answer.problem:
            lines.append(f"problem {_escape(answer.problem)}")
    return lines


def _parse_interface(iface: str, lines: list[str]) -> InterfaceRecord:
    facts = {}
    passes: list[_PassLines] = []
    lists: dict[str, list[str]] = {key: [] for key in ("raised", "portal", "portal-mac")}
    words: dict[str, dict[str, list[str]]] = {}
    seen: dict[str, dict[str, list[str]]] = {}
    found: dict[str, list[str]] = {}
    try:
        for line in lines:
            key, _, escaped = line.partition(" ")
            if _read_pass_line(key, escaped, passes):
                continue
            value = _unescape(escaped)
            if key in lists:
                lists[key].append(value)
            elif key in ("word", "seen"):
                found = {}
                (words if key == "word" else seen)[value] = found
            elif key in _FINDINGS:
                found.setdefault(key, []).append(value)
            else:
                facts[key] = value
        verdicts = {text: verdict for verdict, text in _VERDICTS_ON_WORDS.items()}
        return InterfaceRecord(
            iface=iface,
            passes=tuple(each.join() for each in passes),
            observation=Observation(
                iface=iface,
                index=int(facts["index"]),
                answers={key: _join_answer(answer) for key, answer in seen.items()},
                routable=facts["routable"] == "1",
                # The record of an older version, from before an upgrade, has the other line.
                wireless=facts.get("wireless", UNENCRYPTED if facts.get("wireless-open") == "1" else ""),
                observed_at=float(facts["looked"]),
                portal=PortalNotice(
                    tuple(lists["portal"]), facts.get("portal-problem", ""), tuple(lists["portal-mac"])
                ),
            ),
            place=Place(
                location=facts["location"],
                line=facts["line"],
                grade=facts["grade"],
                undecided=facts["undecided"] == "1",
                words={word: verdicts[answer["value"][0]] for word, answer in words.items()},
            ),
            wish=facts["wish"] == "1",
            raised=tuple(lists["raised"]),
            losses=int(facts.get("losses", 0)),  # not in the record of an older version
        )
    except (KeyError, ValueError, IndexError) as error:
        raise RecordError(f"the record of {iface} can't be read: {error!r}") from error


# The fields that are written of each answer and of each word.
_FINDINGS = ("value", "settled", "refuted", "pending", "problem")


def _join_answer(lists: Mapping[str, list[str]]) -> Answer:
    return Answer(
        values=tuple(lists.get("value", ())),
        pending="pending" in lists,
        problem="".join(lists.get("problem", ())),
        settled=tuple(lists.get("settled", ())),
        refuted=tuple(lists.get("refuted", ())),
    )


def _format_guard(record: GuardRecord) -> list[str]:
    # The keys are those of the first version: an upgrade must find the records of guards that are installed.
    lines = [
        f"backend {record.backend}",
        f"verdict {record.verdict}",
        f"because {_escape(record.because)}",
        f"done {record.done:d}",
        f"opened {record.opened:d}",
        f"lease {record.lease_until!r}",
        f"scene {_escape(record.fingerprint)}",
        f"shut {record.shut_at!r}",
        f"portal {record.portal_until!r}",
        f"asking {record.dns_until!r}",
        f"problem {_escape(record.problem)}",
        f"former {record.former}",
        f"token {record.token}",
        f"lease-boot {record.lease_until_boot!r}",
        f"portal-boot {record.portal_until_boot!r}",
        f"portal-scene {_escape(record.portal_fingerprint)}",
        f"asking-boot {record.dns_until_boot!r}",
        f"asking-scene {_escape(record.dns_fingerprint)}",
        f"portal-api {_escape(record.portal_api)}",
        f"portal-due {record.portal_due!r}",
        f"lan-scene {_escape(record.lan_fingerprint)}",
        *(f"lan {prefix}" for prefix in record.lan),
        *(f"opening {_escape(line)}" for line in record.exemptions),
        *(f"name {_escape(line)}" for line in record.names),
        *(f"silent {_escape(name)}" for name in record.silent),
        *(f"server {server}" for server in record.servers),
        *(f"portal-opening {_escape(line)}" for line in record.portal_exemptions),
        *(f"asking-opening {_escape(line)}" for line in record.dns_exemptions),
    ]
    for each in record.passes:
        lines += _format_pass(each)
    return lines


def _parse_guard(device: str, lines: list[str]) -> GuardRecord:
    facts = {}
    keys = ("opening", "name", "silent", "server", "portal-opening", "asking-opening", "lan")
    lists: dict[str, list[str]] = {key: [] for key in keys}
    passes: list[_PassLines] = []
    try:
        if lines[-1] != _END:
            raise ValueError("it is cut off")
        for line in lines[:-1]:
            key, _, escaped = line.partition(" ")
            if _read_pass_line(key, escaped, passes):
                continue
            if key in lists:
                lists[key].append(_unescape(escaped))
            else:
                facts[key] = _unescape(escaped)
        if facts["verdict"] not in _VERDICTS or not {facts["backend"], *facts["former"].split()} <= {*FIREWALLS}:
            raise ValueError(f'verdict {facts["verdict"]}, backend {facts["backend"]}, former {facts["former"]}')
        _check_openings(lists)
        return GuardRecord(
            device=device,
            backend=facts["backend"],
            verdict=facts["verdict"],
            because=facts["because"],
            passes=tuple(each.join() for each in passes),
            exemptions=tuple(lists["opening"]),
            names=tuple(lists["name"]),
            servers=tuple(lists["server"]),
            done=facts["done"] == "1",
            opened=facts["opened"] == "1",
            lease_until=float(facts["lease"]),
            fingerprint=facts["scene"],
            shut_at=float(facts["shut"]),
            portal_until=float(facts["portal"]),
            portal_exemptions=tuple(lists["portal-opening"]),
            dns_until=float(facts["asking"]),
            dns_exemptions=tuple(lists["asking-opening"]),
            problem=facts["problem"],
            former=facts["former"],
            # The record of an older version, from before an upgrade, has none of these.
            token=facts.get("token", ""),
            lease_until_boot=float(facts.get("lease-boot", 0)),
            portal_until_boot=float(facts.get("portal-boot", 0)),
            portal_fingerprint=facts.get("portal-scene", ""),
            dns_until_boot=float(facts.get("asking-boot", 0)),
            dns_fingerprint=facts.get("asking-scene", ""),
            silent=tuple(lists["silent"]),
            portal_api=facts.get("portal-api", ""),
            portal_due=float(facts.get("portal-due", 0)),
            lan=tuple(lists["lan"]),
            lan_fingerprint=facts.get("lan-scene", ""),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise RecordError(f"the record of the guard of {device} can't be read: {error!r}") from error


def _check_openings(lists: Mapping[str, Iterable[str]]) -> None:
    """Raise ValueError for a line of a guard's record that no firewall could make a rule of."""
    for key in ("opening", "portal-opening", "asking-opening"):
        for line in lists[key]:
            parse_exemption(line)
    for server in lists["server"]:
        if not pack_address(server):
            raise ValueError(f"server {server!r}")
    for prefix in lists["lan"]:
        if not parse_network(prefix):
            raise ValueError(f"lan {prefix!r}")


class _PassLines:
    """A pass while its lines are read: the lines of an option are not joined yet."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.facts: dict[str, str] = {}
        self.options: dict[str, list[str]] = {}

    def join(self) -> Pass:
        """Return the pass.  Raises KeyError and ValueError."""
        return Pass(
            self.family,
            {option: "\n".join(lines) for option, lines in self.options.items()},
            logical=self.facts["logical"],
            iface=self.facts["iface"],
            run=self.facts["run"],
            stage=self.facts["stage"],
            reached=self.facts["reached"] == "1",
            began=int(self.facts.get("began", 0)),  # not in the record of an older version
        )


_PASS_FACTS = ("logical", "iface", "run", "stage", "reached", "began")


def _format_pass(each: Pass) -> list[str]:
    lines = [
        f"family {_escape(each.family)}",
        f"logical {_escape(each.logical)}",
        f"iface {_escape(each.iface)}",
        f"run {each.run}",
        f"stage {each.stage}",
        f"reached {each.reached:d}",
        f"began {each.began}",
    ]
    for option, value in each.options.items():
        # Each option has a value, and so a line: ifupdown itself refuses an option without a value.
        beginning = f"option {_escape(option)} "
        lines.extend([beginning + _escape(line) for line in value.split("\n")])
    return lines


def _read_pass_line(key: str, escaped: str, passes: list[_PassLines]) -> bool:
    """Read a line that `_format_pass` has written into the last of `passes`; return whether it was one."""
    if key == "option":
        option, _, text = escaped.partition(" ")
        passes[-1].options.setdefault(_unescape(option), []).append(_unescape(text))
    elif key == "family":
        passes.append(_PassLines(_unescape(escaped)))
    elif key in _PASS_FACTS:
        passes[-1].facts[key] = _unescape(escaped)
    else:
        return False
    return True


def _format_tunnel(record: TunnelRecord) -> str:
    applied = "done" if record.applied else "open"
    fields = [record.kind, record.name, record.verdict, applied, _escape(record.because), _escape(record.problem)]
    return "\t".join([*fields, _escape(record.held)])


def _parse_tunnel(path: str, line: str) -> TunnelRecord:
    fields = line.split("\t")
    # A record of an older version, from before an upgrade, has no hold, or no time.
    if len(fields) not in (6, 7, 8) or fields[2] not in ("up", "down"):
        raise RecordError(f"{path}: not a decision on a tunnel: {line!r}")
    kind, name, verdict, applied, because, problem, held = (*fields, "")[:7]
    try:
        is_applied = applied == "done"
        return TunnelRecord(kind, name, verdict, _unescape(because), is_applied, _unescape(problem), _unescape(held))
    except ValueError as error:
        raise RecordError(f"{path}: not a decision on a tunnel: {line!r}: {error}") from error


_STATE_NUMBERS = ("failures", "refusals", "received", "remedy")
_STATE_WORDS = ("kind", "name", "words", "stamp")


def _format_state(record: TunnelState) -> str:
    values = ((field, getattr(record, field)) for field in TunnelState.__slots__)
    return "\t".join(_escape(value) if field in _STATE_WORDS else repr(value) for field, value in values)


def _parse_state(path: str, line: str) -> TunnelState:
    fields = line.split("\t")
    try:
        if len(fields) != len(TunnelState.__slots__):
            raise ValueError(f"{len(fields)} fields")
        values: dict[str, Any] = {}
        for field, text in zip(TunnelState.__slots__, fields, strict=True):
            if field in _STATE_WORDS:
                values[field] = _unescape(text)
            else:
                values[field] = int(text) if field in _STATE_NUMBERS else float(text)
        return TunnelState(**values)
    except ValueError as error:
        raise RecordError(f"{path}: not the state of a tunnel: {line!r}: {error}") from error


def _format_told(told: Iterable[tuple[list[str], Mapping[str, str]]]) -> list[str]:
    lines = []
    for words, variables in told:
        lines.append("told " + " ".join(words))
        lines.extend(f"set {name} {_escape(value)}" for name, value in variables.items())
    return lines


def _parse_told(path: str, lines: list[str]) -> list[tuple[list[str], dict[str, str]]]:
    told: list[tuple[list[str], dict[str, str]]] = []
    for line in lines:
        key, _, rest = line.partition(" ")
        if key == "told" and rest:
            told.append((rest.split(" "), {}))
        elif key == "set" and told:
            name, _, value = rest.partition(" ")
            try:
                told[-1][1][name] = _unescape(value)
            except ValueError as error:
                raise RecordError(f"{path}: can't be read: {line!r}: {error}") from error
        else:
            raise RecordError(f"{path}: can't be read: {line!r}")
    return told
