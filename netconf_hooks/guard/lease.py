"""What the watcher does about guards: it shuts them after a change, and renews the lease of open ones.

Nothing here waits.  Records are read without their lock, which is safe since a record is always replaced as a whole.
They are written only if the lock is free, otherwise later.  The firewall comes first, then the record.  When we ask a
router whether it is still there, its answer arrives as an event of the kernel.

An open guard is a lease that the kernel ends (`records.LEASE`): without a watcher that renews it, the guard closes.
"""

from __future__ import annotations

import time
from time import monotonic

from netconf_hooks.evidence import fingerprint
from netconf_hooks.evidence.fingerprint import Fingerprint, parse_fingerprint
from netconf_hooks.exemption import Exemption, parse_exemption
from netconf_hooks.guard import firewall
from netconf_hooks.guard.firewall import GuardError, NAMES, OPEN as OPEN_WINDOW, PORTAL, Window
from netconf_hooks.guard.guarded_look import CONFIRMATION
from netconf_hooks.guard.lost import find_lost, shut_lost
from netconf_hooks.guard.network import has_left, is_same_network
from netconf_hooks.guard.records import LEASE, read_guard
from netconf_hooks.guard.shut import drop_waiting, list_windows, note_shut, shut_windows
from netconf_hooks.record import Record
from netconf_hooks.state import OPEN, RELEASED, boot_time
from netconf_hooks.system import log, netlink
from netconf_hooks.system.netlink import (
    AF_INET, AF_INET6, Netlink, NetlinkError, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWLINK, RTM_NEWNEIGH,
    RTM_NEWROUTE, parse_link, parse_neighbour, parse_route
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netconf_hooks.guard.firewall import AnyFirewall
    from netconf_hooks.state import GuardRecord, Store
    from netconf_hooks.system.netlink import LinkStatus, Neighbour

# Seconds between two renewals of a lease.
RENEWAL = 10.0

# Seconds between two checks whether guards are still installed, for a firewall that reports no changes.
CHECK = 10.0

# Seconds between two attempts to write records: from the first to the last, doubled each time.
FIRST_PAUSE, LAST_PAUSE = 0.1, 1.0

# What an event means for a link: it is on the network that was looked at, or maybe, or not any more.
SAME, DOUBTFUL, LOST = range(3)

_GONE = "the carrier is gone, or the link itself"
_ROUTER = "the router is gone, or is another one"
_CHANGED = "the network has changed"
_BLINKED = "the carrier was gone meanwhile"


class _Judgement(Record):
    """What an event means for a link.

    what: one of `SAME`, `DOUBTFUL`, `LOST`; because: the reason, in words; certain: whether all windows have to be
    shut, whatever the link looks like now.
    """

    __slots__ = ("what", "because", "certain")

    def __init__(self, what: int, because: str = "", certain: bool = False) -> None:
        self.what = what
        self.because = because
        self.certain = certain


class _News(Record):
    """An event of the kernel.

    kind: RTM_*; devices: the guarded links that it may concern, None for all; link, neighbour: the one that has
    changed; ways: the next hops of a route, each as the index of its link and its router, which may be empty.
    """

    __slots__ = ("kind", "devices", "link", "neighbour", "ways")

    def __init__(
        self,
        kind: int,
        devices: frozenset[str] | None,
        link: LinkStatus | None = None,
        neighbour: Neighbour | None = None,
        ways: tuple[tuple[int, str], ...] = (),
    ) -> None:
        self.kind = kind
        self.devices = devices
        self.link = link
        self.neighbour = neighbour
        self.ways = ways


class _Sources(Record):
    """The links (their indexes) and neighbours (their addresses) whose events concern a guard.

    record: the guard's record from which this follows.
    """

    __slots__ = ("record", "indexes", "neighbours")

    def __init__(self, record: GuardRecord, indexes: frozenset[int], neighbours: frozenset[str]) -> None:
        self.record = record
        self.indexes = indexes
        self.neighbours = neighbours


class _Lost(Record):
    """A guard that is to be shut.  because: the reason, in words; everything: as for `shut.shut_guard`."""

    __slots__ = ("record", "because", "everything")

    def __init__(self, record: GuardRecord, because: str, everything: bool) -> None:
        self.record = record
        self.because = because
        self.everything = everything


class _Shut(Record):
    """A guard that was shut, but whose record does not say so yet.

    record: as it was then; when: as time.monotonic(); done: whether it is shut in the firewall; everything: as for
    `shut.shut_guard`.
    """

    __slots__ = ("record", "because", "when", "done", "everything")

    def __init__(self, record: GuardRecord, because: str, when: float, done: bool, everything: bool) -> None:
        self.record = record
        self.because = because
        self.when = when
        self.done = done
        self.everything = everything


def list_news_devices(device: str) -> tuple[str, ...]:
    """Return the devices whose events concern a guarded device: itself, and those below it (ports, a VLAN's parent)."""
    from netconf_hooks.evidence.ports import list_underlying

    return (device, *list_underlying(device))


class Leases:
    """The guards, as the watcher knows them.

    news: the socket that receives the kernel's events about carriers and routers; it is filtered for what concerns
    guards.
    """

    def __init__(self, store: Store, news: Netlink) -> None:
        self._store = store
        self._news = news
        self._netlink = netlink.Netlink()
        self._firewalls: dict[str, AnyFirewall] = {}
        self._devices: dict[int, set[str]] = {}  # the guarded devices that a link's events concern, by its index
        self._neighbours: set[str] = set()
        self._sources: dict[str, _Sources] = {}
        self._had_carrier: dict[int, bool] = {}
        self._shuts: dict[str, _Shut] = {}
        self._renewed: dict[str, tuple[GuardRecord, float, float]] = {}
        self._questions: dict[str, float] = {}  # until when we wait for a device's routers to answer
        self._answered: dict[str, None] = {}  # the devices to renew, in this order: their routers have answered
        self._due: float | None = None
        self._retry = 0.0
        self._pause = FIRST_PAUSE
        self._lost: set[str] = set()  # the devices whose record is lost, and not yet written anew
        self._known: dict[str, str] = {}  # the firewall of each device that has a guard
        self._check_due: float | None = None
        self.must_look = ""
        """Why the networks have to be looked at again at once; empty if they need not be."""

    def close(self) -> None:
        """Close the socket to the kernel."""
        self._netlink.close()

    def fileno(self) -> int:
        """Return the descriptor of the socket to the kernel, which no child may inherit."""
        return self._netlink.fileno()

    def take_check(self) -> bool:
        """Return whether it is time to check that all guards are still installed, because a firewall reports no
        changes.  Calling this starts the next interval."""
        if self._check_due is None or monotonic() < self._check_due:
            return False
        self._check_due = monotonic() + CHECK
        return True

    def take_reason(self) -> str:
        """Return `must_look`, and clear it."""
        reason, self.must_look = self.must_look, ""
        return reason

    def list_guards(self) -> list[GuardRecord]:
        """Return the guards that are not released; those with an open window come first, so that many closed guards
        don't delay them.  Shut each guard whose record can't be read."""
        unreadable: list[str] = []
        records = [record for record in self._store.read_guards(unreadable.append) if record.verdict != RELEASED]
        if unreadable:
            self.check_records()
        return sorted(records, key=lambda record: not _is_lax(record))

    def list_known(self) -> dict[str, str]:
        """Return the devices that have a guard, each with its firewall, even if their records are lost."""
        return dict(self._known)

    def has_lost(self) -> bool:
        """Whether the record of a guard is lost, and not yet written anew."""
        return bool(self._lost)

    def check_records(self) -> None:
        """Shut each guard whose record is lost: it can't be read, or is gone."""
        lost = find_lost(self._store, self._known, ask=False)
        for device, problem in lost.items():
            if device not in self._lost:
                self._shut_known(device)
                log.error(f"{device}: netconf-guard: closed, since its record is lost: {problem}")
                shut_lost(device)
                self.must_look = self.must_look or "the record of a guard is lost"
        self._lost = set(lost)

    def _shut_known(self, device: str) -> None:
        """Shut an open link in the firewall that has its guard, without loading any other firewall."""
        guard = self._firewalls.get(self._known.get(device, ""))
        try:
            if guard is not None:
                guard.shut_window(device, OPEN_WINDOW)
        except GuardError as error:
            log.error(f"{device}: netconf-guard: {error}")

    def reload(self, renew: bool = False, thorough: bool = True) -> None:
        """Read which guards there are now, and shut those whose network has changed while we received no events for it.

        renew: whether leases may be about to end; thorough: whether links may have changed even if the record has not.
        Raises `NetlinkError`.
        """
        self.check_records()
        records = self.list_guards()
        lost = {device: name for device, name in self._known.items() if device in self._lost}
        self._known = lost | {record.device: record.backend for record in records}
        devices: dict[int, set[str]] = {}
        neighbours: set[str] = set()
        before = {} if thorough else self._sources
        self._sources = {}
        for record in records:
            sources = before.get(record.device)
            if sources is None or sources.record is not record:
                sources = self._find_sources(record)
            self._sources[record.device] = sources
            for index in sources.indexes:
                devices.setdefault(index, set()).add(record.device)
            neighbours |= sources.neighbours
        if (devices, neighbours) != (self._devices, self._neighbours):
            self._devices, self._neighbours = devices, neighbours
            self._news.filter_news(devices.keys(), neighbours)
        self._had_carrier = {index: self._had_carrier.get(index, False) for index in devices}
        # Verify only now: every change after this moment reaches us as an event.
        self.verify(records)
        for record in records:
            if self._find_firewall(record) is None:
                continue  # finding it has loaded it: at the time when a guard has to be shut, that would take too long
            if record.opened and record.verdict == OPEN and not record.is_open(time.time()):
                self.must_look = self.must_look or "a lease has ended"
        used = [each for name, each in self._firewalls.items() if name in {record.backend for record in records}]
        if all(each.has_news for each in used):
            self._check_due = None
        elif self._check_due is None:
            self._check_due = monotonic() + CHECK
        if not any(self._is_leased(record) for record in records):
            self._due = None
            self._questions.clear()
            self._answered.clear()
        elif renew:
            self._due = monotonic()
        elif self._due is None:
            self._due = monotonic() + RENEWAL

    def _find_sources(self, record: GuardRecord) -> _Sources:
        """Return the links and neighbours whose events concern a guard.  Raises `NetlinkError`."""
        indexes: set[int] = set()
        neighbours: set[str] = set()
        for name in list_news_devices(record.device):
            link = self._netlink.get_link(name)
            if link is not None:
                indexes.add(link.index)
                # Don't overwrite what an event said: the next one may already be waiting in the socket.
                self._had_carrier.setdefault(link.index, link.carrier)
        texts = (record.fingerprint, record.portal_fingerprint, record.dns_fingerprint, record.lan_fingerprint)
        for before in map(_read, texts):
            if before is not None:
                indexes.add(before.index)
                neighbours.update(before.macs)
        return _Sources(record, frozenset(indexes), frozenset(neighbours))

    # --- news

    def hear(self) -> bool:
        """Read the events about carriers and routers that have arrived, and shut the guards whose network is lost.

        Returns whether there were any events.  Raises `NetlinkError`.
        """
        messages, dropped = self._news.collect()
        if not messages and not dropped:
            return False
        news = [self._read_news(kind, body) for kind, body in messages]
        lost, doubtful = [], []
        for record in self.list_guards():
            judgement = _Judgement(LOST, "some of the kernel's events were lost", certain=True) if dropped else None
            judgement = judgement or self._judge_all(news, record)
            if judgement.what == LOST:
                everything = judgement.certain or has_left(record, self._look(record))
                lost.append(_Lost(record, judgement.because, everything))
            elif judgement.what == DOUBTFUL:
                doubtful.append(record)
        self._shut_all(lost)
        self.verify(doubtful)
        for each in news:
            if each.kind == RTM_NEWLINK and each.link and each.link.index in self._had_carrier:
                self._had_carrier[each.link.index] = each.link.carrier
        self._answer_questions()
        return True

    def verify(self, records: Iterable[GuardRecord] | None = None) -> None:
        """Shut each guard that has an open window and whose link is not on the window's network any more."""
        lost = []
        for record in self.list_guards() if records is None else records:
            shut = self._shuts.get(record.device)
            if not _is_lax(record) or (shut and shut.record.token == record.token):
                continue
            now = self._look(record)
            left = has_left(record, now)
            if (record.opened and not is_same_network(record.fingerprint, now)) or left:
                lost.append(_Lost(record, _BLINKED if _has_blinked(record, now) else _CHANGED, left))
        self._shut_all(lost)

    def change_clock(self) -> None:
        """Shut open guards after the wall clock was set, since the firewall ends leases by this clock.

        Other windows are opened anew for the time that they have left by the boot clock, which nobody can set.
        """
        records = self.list_guards()
        self._shut_all([_Lost(record, "the clock was set", everything=False) for record in records if record.opened])
        for record in records:
            guard = self._find_firewall(record)
            shut = self._shuts.get(record.device)
            if guard is None or (shut and shut.everything):
                continue  # its windows were shut already, but the record does not say so yet
            try:
                for name, until, left, exemptions in (
                    (PORTAL, record.portal_until, record.portal_left(), record.portal_exemptions),
                    (NAMES, record.dns_until, record.dns_left(), record.dns_exemptions),
                ):
                    if until and left:
                        window = Window(name, tuple(map(parse_exemption, exemptions)), time.time() + left)
                        guard.open_window(record.device, window)
                    elif until:
                        guard.shut_window(record.device, name)
            except GuardError as error:
                log.error(f"{record.device}: netconf-guard: {error}")

    def _read_news(self, kind: int, body: bytes) -> _News:
        """Parse an event, once for all guards.  Raises `NetlinkError`."""
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            link = parse_link(body)
            return _News(kind, frozenset(self._devices.get(link.index, ())), link=link)
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            route = parse_route(body)
            if route is None:
                return _News(kind, frozenset())
            if not route.nexthops:
                return _News(kind, None)
            devices = (device for way in route.nexthops for device in self._devices.get(way.index, ()))
            return _News(kind, frozenset(devices), ways=tuple((way.index, way.router) for way in route.nexthops))
        # A bridge reports the stations behind its ports by the same messages (bridge(8), fdb).
        if kind in (RTM_NEWNEIGH, RTM_DELNEIGH) and body[0] in (AF_INET, AF_INET6):
            neighbour = parse_neighbour(body)
            return _News(kind, frozenset(self._devices.get(neighbour.index, ())), neighbour=neighbour)
        return _News(kind, frozenset())

    def _judge_all(self, news: Iterable[_News], record: GuardRecord) -> _Judgement:
        """Return the worst that any of these events means for a guard's link."""
        worst = _Judgement(SAME)
        for each in news:
            if each.devices is None or record.device in each.devices:
                judgement = self._judge(each, record)
                if (judgement.what, judgement.certain) > (worst.what, worst.certain):
                    worst = judgement
        return worst

    def _judge(self, news: _News, record: GuardRecord) -> _Judgement:
        """Return what an event means for the guard's link that it concerns."""
        device, kind = record.device, news.kind
        if link := news.link:
            before = _read(record.fingerprint)
            if link.name != device and (before is None or link.index != before.index):
                return _Judgement(DOUBTFUL)  # a port: the link itself has to be checked
            lost = not link.carrier and (record.opened or self._had_carrier.get(link.index, False))
            if kind == RTM_DELLINK or lost or link.name != device:
                return _Judgement(LOST, _GONE, certain=True)
            return _Judgement(DOUBTFUL)
        if neighbour := news.neighbour:
            before = _read(record.fingerprint)
            mac = before.macs.get(neighbour.address) if before and before.index == neighbour.index else None
            if mac is None:
                return _Judgement(DOUBTFUL)
            if kind == RTM_NEWNEIGH and neighbour.mac == mac:
                return _Judgement(SAME)
            # If a closed link's router stops answering, the network need not have changed.
            lost = record.opened or (kind == RTM_NEWNEIGH and bool(neighbour.mac))
            return _Judgement(LOST, _ROUTER) if lost else _Judgement(SAME)
        routers = [router for index, router in news.ways if device in self._devices.get(index, ())]
        before = _read(record.fingerprint)
        known = before is None or any(not router or router in before.routers for router in routers)
        return _Judgement(LOST, _ROUTER) if kind == RTM_DELROUTE and known else _Judgement(DOUBTFUL)

    def _look(self, record: GuardRecord) -> Fingerprint:
        """Return the fingerprint of a guard's network now; an empty one if the kernel does not answer."""
        try:
            return fingerprint.read_fingerprint(record.device, self._netlink, record.rules.outside_ports)
        except NetlinkError as error:
            log.error(f"{record.device}: netconf-guard: the network can't be identified: {error}")
            return Fingerprint()

    # --- shutting

    def _shut(self, record: GuardRecord, because: str, everything: bool) -> None:
        """Shut a guard in the firewall, and write it into its record as soon as the lock is free."""
        self._shut_all([_Lost(record, because, everything)])

    def _shut_all(self, lost: Sequence[_Lost]) -> None:
        """As `_shut` for several guards, with one transaction for each firewall; those with open windows come first."""
        done = set()
        when = monotonic()
        for lax in (True, False):
            some = [each for each in lost if _is_lax(each.record) == lax]
            done |= self._shut_at_once(some) if len(some) > 1 else set()
            done |= {
                each.record.device for each in some
                if each.record.device not in done and self._shut_firewall(each.record, each.everything)
            }  # fmt: skip
        for each in lost:
            record = each.record
            if record.opened:
                log.info(f"{record.device}: netconf-guard: closed: {each.because}")
            if record.opened or record.lan:
                self.must_look = self.must_look or each.because
            before = self._shuts.get(record.device)
            everything = each.everything or bool(before and before.everything)
            self._shuts[record.device] = _Shut(record, each.because, when, record.device in done, everything)
            self._renewed.pop(record.device, None)
            self._questions.pop(record.device, None)
            self._answered.pop(record.device, None)
        if lost:
            self._pause = FIRST_PAUSE
            self._write()

    def _shut_at_once(self, lost: Iterable[_Lost]) -> set[str]:
        """Shut guards, with one transaction for each firewall; return the devices for which this succeeded."""
        done: set[str] = set()
        by_backend: dict[str, list[_Lost]] = {}
        for each in lost:
            by_backend.setdefault(each.record.backend, []).append(each)
        for together in by_backend.values():
            guard = self._find_firewall(together[0].record)
            windows = {each.record.device: list_windows(each.record, each.everything) for each in together}
            try:
                if guard is not None:
                    guard.shut_all(windows)
                    done |= windows.keys()
            except GuardError as error:
                log.debug(f"netconf-guard: not shut at once: {error}")
        for device in done:
            drop_waiting(device)
        return done

    def _shut_firewall(self, record: GuardRecord, everything: bool) -> bool:
        guard = self._find_firewall(record)
        return guard is not None and shut_windows(record, everything, guard)

    def _find_firewall(self, record: GuardRecord) -> AnyFirewall | None:
        """Return the firewall of a guard; None if it does not work."""
        if record.backend not in self._firewalls:
            try:
                self._firewalls[record.backend] = firewall.load_firewall(record.backend)
            except GuardError as error:
                log.error(f"{record.device}: netconf-guard: {error}")
                return None
        return self._firewalls[record.backend]

    # --- renewing

    def _is_leased(self, record: GuardRecord) -> bool:
        """Whether a guard is open and should stay open."""
        return record.verdict == OPEN and record.device not in self._shuts and record.is_open(time.time())

    def _ask_routers(self) -> None:
        """Ask the routers of all open links whether they are still there; `hear` receives the answers."""
        self.check_records()
        open_links = [record for record in self.list_guards() if self._is_leased(record)]
        self._due = monotonic() + RENEWAL if open_links else None
        for record in open_links:
            before = _read(record.fingerprint)
            if before is None:
                self._shut(record, _CHANGED, everything=False)
                continue
            self._netlink.question_neighbours(before.index, before.macs)
            self._questions[record.device] = monotonic() + CONFIRMATION
        self._answer_questions()

    def _answer_questions(self) -> None:
        """Find the links whose routers have all answered: `keep_time` renews their leases.

        A router that does not answer in time only skips a renewal.  After 3 s the kernel gives it up
        (neigh/*/mcast_solicit and retrans_time_ms, arp(7)): this event shuts the guard.
        """
        for record in self.list_guards() if self._questions else ():
            before = _read(record.fingerprint)
            if record.device not in self._questions or before is None or not self._is_leased(record):
                continue
            if len(self._netlink.get_sure_neighbours(before.index, before.macs)) == len(before.macs):
                del self._questions[record.device]
                self._answered[record.device] = None
        now = monotonic()
        self._questions = {device: until for device, until in self._questions.items() if until > now}

    def _renew_next(self) -> None:
        """Renew one lease only: the watcher calls `hear` before the next one, so that many renewals don't delay a guard
        that has to be shut."""
        device = next(iter(self._answered))
        del self._answered[device]
        for record in self.list_guards():
            if record.device == device and self._is_leased(record):
                self._renew(record)

    def _renew(self, record: GuardRecord) -> None:
        if not is_same_network(record.fingerprint, self._look(record)):
            self._shut(record, _CHANGED, has_left(record, self._look(record)))
            return
        guard = self._find_firewall(record)
        if guard is None:
            return
        until = time.time() + LEASE
        try:
            renewed = guard.renew_window(record.device, Window(OPEN_WINDOW, (Exemption(),), until))
        except GuardError as error:
            log.error(f"{record.device}: netconf-guard: {error}")
            return
        if not renewed:
            self._shut(record, "somebody has shut it, or its lease has ended", everything=False)
        elif guard.has_lease:
            self._renewed[record.device] = (record, until, boot_time() + LEASE)
            self._write()

    # --- time

    def next_time(self) -> float | None:
        """Return when `keep_time` has something to do, as time.monotonic(); None if never."""
        if self._answered:
            return monotonic()
        times = [self._due, *self._questions.values(), self._retry if self._shuts or self._renewed else None]
        times.append(self._check_due)
        return min((when for when in times if when is not None), default=None)

    def keep_time(self) -> None:
        """Do what is due now: a renewal, and attempts that failed before.  Raises `NetlinkError`."""
        now = monotonic()
        if self._due is not None and now >= self._due:
            self._ask_routers()
        if any(now >= until for until in self._questions.values()):
            self._answer_questions()
        if self._answered:
            self._renew_next()
        if (self._shuts or self._renewed) and now >= self._retry:
            for device, shut in list(self._shuts.items()):
                if not shut.done and now >= shut.when + LEASE:
                    del self._shuts[device]  # its lease has ended
                elif not shut.done and self._shut_firewall(shut.record, shut.everything):
                    self._shuts[device] = _Shut(shut.record, shut.because, shut.when, True, shut.everything)
            self._write()

    def _write(self) -> None:
        """Write into the records what was done, if their lock is free; otherwise `keep_time` tries again."""
        self._retry = monotonic() + self._pause
        self._pause = min(2 * self._pause, LAST_PAUSE)
        try:
            lock = self._store.lock_records()
            if not lock.take_now():
                return
            try:
                for device, shut in list(self._shuts.items()):
                    note_shut(self._store, shut.record, shut.because, shut.when, shut.done, shut.everything)
                    if shut.done:
                        del self._shuts[device]
                for device, (record, until, until_boot) in list(self._renewed.items()):
                    now = read_guard(self._store, device)
                    if now and now.opened and now.token == record.token:
                        self._store.write_guard(now.change(lease_until=until, lease_until_boot=until_boot))
                    del self._renewed[device]
            finally:
                lock.release()
        except OSError as error:
            if self._pause < LAST_PAUSE:
                log.error(f"netconf-guard: the guards' records can't be updated: {error.strerror}")
            return
        if not self._shuts:
            self._pause = FIRST_PAUSE


def _is_lax(record: GuardRecord) -> bool:
    """Whether a guard is open or has another open window."""
    return bool(record.opened or record.portal_until or record.dns_until or record.lan)


def _has_blinked(record: GuardRecord, now: Fingerprint) -> bool:
    """Whether a guard's link has carrier, but has lost it since its network was recorded."""
    before = _read(record.fingerprint)
    return before is not None and before.has_blinked(now)


def _read(text: str) -> Fingerprint | None:
    """Return the fingerprint in a record; None if there is none."""
    try:
        return parse_fingerprint(text) if text else None
    except ValueError:
        return None
