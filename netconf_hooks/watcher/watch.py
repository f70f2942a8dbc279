"""Notices what happens between ifup and ifdown, when no hook runs: cables are moved, leases change, laptops sleep.

``netconf-hooks watch`` is one small process.  It exists only while there is a record or a guard.  It listens to the
kernel's events about links, addresses, routes and neighbours.  It never does anything slow and never waits for a lock,
so nothing can delay its own two tasks (`guard.lease`): it shuts the guard of a link that has lost its carrier or its
router, and it renews the leases of open guards.

Children do everything else.  There are at most two, each with a deadline (`system.children`).  One looks and acts: it
reads the networks in the kernel's tables and compares them with what was seen before, so a burst of a thousand route
changes costs one look.  If something differs, it does the same as ``netconf-hooks refresh``, with the same code; while
something is undecided, it does so by timer, too.  Then it takes care of the tunnels that should be up (`keeper`), and
reports what this process is to listen to: the end of their daemons and of IPsec's security associations.  The other
child runs event scripts.

Hooks of DHCP clients call ``refresh`` for what the kernel does not know, such as a new domain.
"""

from __future__ import annotations

import _socket
import os
import select
import sys
from time import monotonic

from netconf_hooks import guard
from netconf_hooks.commands.entry import FAILED, OK
from netconf_hooks.evidence.current import list_current
from netconf_hooks.evidence.fingerprint import NO_ADDRESS, Fingerprint, read_fingerprint, parse_fingerprint
from netconf_hooks.record import Record
from netconf_hooks.settle import leave_events, look_again, settle
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.state import RecordError, Store, boot_time
from netconf_hooks.system import log
from netconf_hooks.system.children import Child
from netconf_hooks.system.netlink import (
    COMPOSED, LINKS, NEIGHBOURS, Netlink, NetlinkError, RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_NEWADDR,
    RTM_NEWLINK, RTM_NEWROUTE, parse_route, read_link_name, split_attributes
)  # fmt: skip
from netconf_hooks.system.processes import read_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from types import TracebackType

    from netconf_hooks.state import InterfaceRecord, Lock
    from netconf_hooks.system.netlink import Message

# Multicast groups (enum rtnetlink_groups) beside LINKS and NEIGHBOURS.
_IPV4_ADDRESSES, _IPV4_ROUTES, _IPV6_ADDRESSES, _IPV6_ROUTES = 5, 7, 9, 11
GROUPS = (LINKS, NEIGHBOURS, _IPV4_ADDRESSES, _IPV4_ROUTES, _IPV6_ADDRESSES, _IPV6_ROUTES)
# Events about carriers and routers.  While there is a guard, they have a socket of their own, with a filter.
URGENT_GROUPS = (LINKS, NEIGHBOURS, _IPV4_ROUTES, _IPV6_ROUTES)

# linux/netlink.h; the group (enum nfnetlink_groups) of events about changed rules.
NETLINK_NETFILTER, _NFTABLES = 12, 7
# linux/netlink.h, linux/xfrm.h (enum xfrm_nlgroups): security associations that come and go.
_NETLINK_XFRM, _ASSOCIATIONS = 6, 3
# linux/netfilter/nf_tables.h: types of messages; attributes: the first one is the table's name in all of them.
_NEWRULE, _DELRULE, _NEWELEMENT, _DELELEMENT = 6, 8, 12, 14
_TABLE, _CHAIN_OR_SET = 1, 2
_OUR_TABLE, _IPTABLES_TABLE = b"netconf-guard", b"mangle"
# The prefixes of chains and sets whose content changes with each probe and renewal.
_PASSING = (b"open-", b"portal-", b"probe-", b"names-", b"token-", b"nchw-", b"ncht-")

# Events come in bursts: a link that comes up causes a dozen.  A burst is over after `QUIET` seconds without an event,
# or when it has lasted for `BURST` seconds.
QUIET, BURST = 0.1, 1.0

# After how many seconds to look again while something is undecided; the last one is repeated.
PAUSES = (5.0, 15.0, 30.0, 60.0)

# Seconds that the looking child has beyond the sum of all netconf-timeouts, and seconds within which the other child
# must have run the scripts of one event.
ACTING_TIME = 20.0
EVENT_TIME = 600.0

# How many events are read at once (datagrams), since those of a storm would stay in this process's memory; and how
# often in a row, before the events that shut guards are read again.
_HANDFUL, _HANDFULS = 64, 50

# The exit status after an error that nobody has foreseen: EX_SOFTWARE, sysexits.h.
CRASHED = 70

# Seconds until the records' lock is tried again, to see whether this process may end.
LEAVING_PAUSE = 0.5

# The lowest real-time priority: this process hardly ever runs, but it may have to shut a guard on a busy machine.
_PRIORITY = 1


def main() -> int:
    """``netconf-hooks watch``, without the other commands, which would stay in memory; return the exit status."""
    log.fill_descriptors()
    return run_watcher(Store())


def run_watcher(store: Store) -> int:
    """Watch until no interface with rules is up; return the exit status."""
    if os.geteuid() != 0:
        log.complain("watch: only root may do this")
        return FAILED
    sys.excepthook = _log_crash
    try:
        watch(store)
    except (NetlinkError, OSError) as error:
        # The watcher's standard error is /dev/null if a hook has started it.
        log.error(f"watch: {error}; only hooks and refresh notice changes now")
        return FAILED
    return OK


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an error that nobody has foreseen, and end the watcher; systemd starts it again."""
    from traceback import format_exception

    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log.error("watch: " + "".join(format_exception(kind, error, trace)))
    os._exit(CRASHED)


def watch(store: Store) -> None:
    """Watch until there is no record any more; return at once if there is none, or if another watcher runs.

    Raises OSError, and `NetlinkError` if the kernel sends no events.
    """
    store.prepare()
    lock = store.lock_watcher()
    if not lock.take():
        log.debug("another watcher runs")
        return
    # A killed watcher leaves its FIFO behind: nobody has seen what happened since then.
    orphaned = os.path.exists(store.fifo)
    if not orphaned:
        os.mkfifo(store.fifo, 0o600)
    _raise_priority()
    log.set_waiting(False)
    # Open it for reading and writing, fifo(7), so that there is always a reader and never an end of file.
    fifo = os.open(store.fifo, os.O_RDWR | os.O_NONBLOCK)
    ended = False
    try:
        with Netlink(GROUPS) as news, Netlink((_NFTABLES,), NETLINK_NETFILTER) as rules:
            Listener(store, lock, fifo, news, rules).run(orphaned)
        ended = True
    finally:
        if not ended:
            from netconf_hooks.guard.override import close_guards

            # Otherwise nobody would notice that an open link has moved to another network until its lease ends.
            close_guards(store, "the watcher has failed")


class Listener:
    """The listening process: it waits only for events, and never for a lock.

    lock: the watcher's lock, which it holds; fifo: hooks write to it when records have changed.
    news: events about networks; rules: events about the firewall's rules.
    """

    def __init__(self, store: Store, lock: Lock, fifo: int, news: Netlink, rules: Netlink) -> None:
        self._store = store
        self._lock = lock
        self._fifo = fifo
        self._news = news
        self._rules = rules
        self._poll = select.poll()
        for descriptor in (fifo, news.fileno(), rules.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        self._guards: _Guards | None = None
        self._burst = _Burst()
        self._survey = _Survey()
        self._interests = _Interests()
        self._tunnels = _Tunnels(self._poll)
        self._actor: Child | None = None
        self._teller: Child | None = None
        self._abandoned: list[Child] = []
        self._leave_after = 0.0

    def run(self, orphaned: bool) -> None:
        """Listen until there is no record any more.

        orphaned: whether a watcher was killed before, so that nobody saw what has happened since.
        """
        if orphaned:
            self._survey.demand("nobody watched")
        self._reload(renew=orphaned)
        self._start_actor()
        while not self._leave():
            ready = {descriptor for descriptor, _ in self._poll.poll(self._get_patience())}
            # Read the events that shut guards first, in every turn.
            if self._guards:
                self._guards.listen(self._survey)
            if self._fifo in ready and self._drain_fifo():
                self._reload(thorough=False)
                self._burst.hear(survey=True)
            if self._news.fileno() in ready:
                self._hear_news()
            if self._rules.fileno() in ready and _concern_us(self._rules, self._has_guard_in("iptables-nft")):
                self._burst.hear(survey=True)
            if self._tunnels.hear(ready):
                self._survey.request()
            if self._burst.is_over():
                self._end_burst()
            self._look_after_children()
            if self._guards:
                self._guards.keep_time(self._survey)
            self._survey.keep_time()
            self._start_actor()

    # --- news

    def _drain_fifo(self) -> bool:
        some = False
        try:
            while os.read(self._fifo, 4096):
                some = True
        except BlockingIOError:
            pass
        return some

    def _hear_news(self) -> None:
        """Read the events about networks, then stop polling until the burst is over: each event would wake us."""
        if not self._take_news():
            return
        self._burst.hear()
        self._poll.unregister(self._news.fileno())
        if self._guards and self._burst.concerns_networks():
            # Verify even if only an address has gone: the link may be on another network.
            self._guards.verify(self._survey)

    def _take_news(self) -> bool:
        """Read the events that have come, and note which links they are about; return whether there were any."""
        some = False
        for _ in range(_HANDFULS):
            messages, dropped = self._news.collect(_HANDFUL)
            self._burst.note(self._interests.sort(messages) if not dropped else _EVERYTHING)
            some = some or bool(messages) or dropped
            if len(messages) < _HANDFUL:
                break
        return some

    def _end_burst(self) -> None:
        """Continue the burst if more events have come; otherwise request a look at networks that may have changed."""
        more = self._take_news()
        if more and self._guards and self._burst.concerns_networks():
            self._guards.verify(self._survey)
        if more and self._burst.go_on():
            return
        news = self._burst.end()
        self._poll.register(self._news.fileno(), select.POLLIN)
        changed = self._find_changed(news.devices)
        if news.everywhere:
            self._survey.request_everywhere()
        elif news.survey or changed:
            self._survey.request(changed)

    def _find_changed(self, devices: Collection[str]) -> list[str]:
        """Return the interfaces on these links whose network has changed since it was last seen.

        This takes 0.3 ms for each link; a child takes a hundred times as long.
        """
        if not devices:
            return []
        records = self._store.read_interfaces(log.error)
        records = tuple(record for record in records if not record.wish and device_of(record.iface) in devices)
        if self._actor:
            # The child may have seen another network than we know of yet.  The next child compares with that one.
            return [record.iface for record in records]
        try:
            return self._survey.find_changed(records)
        except NetlinkError as error:
            log.error(f"watch: {error}")
            return [record.iface for record in records]

    def _find_missed(self, devices: Collection[str]) -> list[str]:
        """Return the interfaces on these links whose routers have other MAC addresses than were seen."""
        try:
            return self._survey.find_missed(devices) if devices else []
        except NetlinkError as error:
            log.error(f"watch: {error}")
            return []

    def _follow_networks(self) -> Collection[str]:
        """Determine which events matter from now on, and filter out the others; return the links about which the kernel
        now sends more events than before."""
        records = self._store.read_interfaces(log.error)
        guards = self._guards.list_known() if self._guards else {}
        try:
            return self._interests.learn(self._store, self._news, records, guards, self._survey.list_routers())
        except NetlinkError as error:
            log.error(f"watch: {error}")
            self._survey.retry()
            return ()

    def _reload(self, renew: bool = False, thorough: bool = True) -> None:
        """Read which guards there are.

        renew: whether leases of open guards may be about to end; thorough: whether to check also the links of guards
        whose record has not changed.
        """
        if self._guards is None and self._store.has_guards():
            self._guards = _Guards(self._store, self._poll)
        if self._guards:
            self._guards.reload(self._survey, renew, thorough)
            if not self._store.has_guards() and not self._guards.has_lost():
                self._guards.close(self._poll)
                self._guards = None

    def _has_guard_in(self, firewall: str) -> bool:
        return self._guards is not None and firewall in self._guards.list_known().values()

    # --- children

    def _start_actor(self) -> None:
        """Start the looking child, if a look is requested and no such child runs."""
        if self._actor or not self._survey.is_requested:
            return
        records = self._store.read_interfaces(log.error)
        limit = ACTING_TIME + sum(
            record.rules.timeout for record in records if not record.wish
        )
        demand, fingerprints, timed, chosen = self._survey.begin(records)
        # Set the filter before the child looks, so that no later change is missed.
        self._follow_networks()
        slept = self._survey.has_slept()
        guards = self._guards.list_known() if self._guards else {}

        def work(report: Callable[[str], None]) -> None:
            survey(self._store, fingerprints, demand, timed, report, guards, slept, chosen)

        self._actor = self._fork("look and act", limit, work)

    def _fork(self, what: str, limit: float, work: Callable[[Callable[[str], None]], None]) -> Child | None:
        inherited = [self._fifo, self._lock.descriptor, self._news.fileno(), self._rules.fileno()]
        inherited += self._tunnels.list_descriptors()
        if self._guards:
            inherited += self._guards.list_descriptors()
        try:
            child = Child(what, limit, work, inherited)
        except OSError as error:
            log.error(f"watch: could not {what}: {error.strerror}")
            self._survey.retry()
            return None
        self._poll.register(child.fileno(), select.POLLIN)
        return child

    def _look_after_children(self) -> None:
        if self._actor and self._is_over(self._actor):
            report = self._actor.read_report() if not self._actor.is_abandoned else []
            self._survey.end(report, self._actor.failed)
            if not self._tunnels.follow(report):
                self._survey.request()
            self._finish(self._actor)
            self._actor = None
            self._reload()
            # Events about these routers before the filter was changed were not received.
            if missed := self._find_missed(self._follow_networks()):
                self._survey.request(missed)
            if not self._teller and self._store.has_events():
                self._teller = self._fork("run the event scripts", EVENT_TIME, lambda report: tell(self._store, report))
        if self._teller and self._is_over(self._teller):
            self._finish(self._teller)
            self._teller = None
        for child in list(self._abandoned):
            if child.has_ended():
                self._abandoned.remove(child)
                self._finish(child)
                self._note_abandoned()

    def _is_over(self, child: Child) -> bool:
        """Whether a child has ended, or has been abandoned."""
        if child.has_ended():
            return True
        child.keep_time()
        return child.is_abandoned

    def _finish(self, child: Child) -> None:
        if child.is_abandoned and child not in self._abandoned and os.path.exists(f"/proc/{child.pid}"):
            self._abandoned.append(child)
            self._note_abandoned()
            return
        self._poll.unregister(child.fileno())
        child.close()

    def _note_abandoned(self) -> None:
        """Write down for `status` which children can't be killed."""
        try:
            self._store.write_abandoned([(child.pid, child.what) for child in self._abandoned])
        except OSError as error:
            log.error(f"watch: {error}")

    # --- time

    def _get_patience(self) -> float | None:
        """Return for how many milliseconds to wait for events; None if nothing is due at any time."""
        times = [self._burst.due, self._survey.alarm, self._survey.check, self._leave_after or None]
        times += [child.next_time for child in (self._actor, self._teller) if child]
        if self._guards:
            times.append(self._guards.next_time())
        until = min((when for when in times if when is not None), default=None)
        return None if until is None else max(0.0, until - monotonic()) * 1000

    def _leave(self) -> bool:
        """Prepare to end if there is nothing left to watch; return whether this process is to end.

        This happens under the records' lock: a hook that adds a record afterwards finds no watcher and starts another.
        """
        self._leave_after = 0.0
        busy = self._actor or self._teller or self._survey.is_requested or (self._guards and self._guards.has_lost())
        if busy or self._has_work():
            return False
        records_lock = self._store.lock_records()
        if not records_lock.take_now():
            self._leave_after = monotonic() + LEAVING_PAUSE
            return False
        try:
            if self._has_work():
                return False
            _tell_leaving(os.environ.get("NOTIFY_SOCKET", ""))
            self._store.write_states(())
            self._store.write_held_states(())
            os.unlink(self._store.fifo)
            os.close(self._fifo)
            self._lock.release()
            return True
        finally:
            records_lock.release()

    def _has_work(self) -> bool:
        """Whether there is anything to watch, or a tunnel that could not be stopped yet."""
        return self._store.has_interfaces() or self._store.has_guards() or self._store.is_unfinished()


class _Tunnels:
    """Listens for the end of tunnels that should be up."""

    def __init__(self, poll: select.poll) -> None:
        self._poll = poll
        self._daemons: dict[str, int] = {}
        self._associations: Netlink | None = None

    def list_descriptors(self) -> list[int]:
        """Return the descriptors that children must not inherit."""
        return [*self._daemons.values(), *([self._associations.fileno()] if self._associations else [])]

    def follow(self, report: list[str]) -> bool:
        """Listen to what a child's report names: lines ``daemon PID START``, and ``associations``.

        Return False if one of the daemons has already ended.
        """
        complete = True
        wanted = {line for line in report if line.startswith("daemon ")}
        if not any(line.partition(" ")[0] == "kept" for line in report):
            return True  # the child ended before it came to the tunnels
        for line in list(self._daemons):
            if line not in wanted:
                self._forget(line)
        for line in wanted - set(self._daemons):
            _, pid, start = line.split()
            try:
                descriptor = os.pidfd_open(int(pid))
            except OSError:
                complete = False
                continue
            if read_start(int(pid)) != start:
                # It has ended, and another process has its pid.
                os.close(descriptor)
                complete = False
                continue
            self._daemons[line] = descriptor
            self._poll.register(descriptor, select.POLLIN)
        if "associations" in report and not self._associations:
            try:
                self._associations = Netlink((_ASSOCIATIONS,), _NETLINK_XFRM)
            except NetlinkError as error:
                log.debug(f"watch: no news of IPsec: {error}")  # a kernel without XFRM: the tunnels are asked by timer
            else:
                self._poll.register(self._associations.fileno(), select.POLLIN)
        elif "associations" not in report and self._associations:
            self._poll.unregister(self._associations.fileno())
            self._associations.close()
            self._associations = None
        return complete

    def hear(self, ready: set[int]) -> bool:
        """Return whether a tunnel may have ended.  ready: the descriptors that poll(2) has returned."""
        ended = [line for line, descriptor in self._daemons.items() if descriptor in ready]
        for line in ended:
            self._forget(line)
        changed = bool(self._associations and self._associations.fileno() in ready and self._associations.drain())
        return bool(ended) or changed

    def _forget(self, line: str) -> None:
        descriptor = self._daemons.pop(line)
        self._poll.unregister(descriptor)
        os.close(descriptor)


class _Guards:
    """Listens, while there are guards, to carriers, routers and the clock, and keeps leases."""

    def __init__(self, store: Store, poll: select.poll) -> None:
        # Imported only if there is a guard: with the firewall they take a third of this process's memory.
        from netconf_hooks.guard import lease
        from netconf_hooks.system.clock import Clock
        from netconf_hooks.system.directory import Directory

        self._news = Netlink(URGENT_GROUPS)
        self._leases = lease.Leases(store, self._news)
        self._clock = Clock()
        self._records: Directory | None = None
        try:
            self._records = Directory(store.guards)
        except OSError as error:  # fs.inotify.max_user_instances, which root's other programs may use up
            often = f"{lease.RENEWAL:g} s"
            log.error(f"watch: {store.guards} can't be watched, only looked at every {often}: {error.strerror}")
        for descriptor in self._list_heard():
            poll.register(descriptor, select.POLLIN)

    def list_descriptors(self) -> list[int]:
        """Return the descriptors that no child may have."""
        return [*self._list_heard(), self._leases.fileno()]

    def _list_heard(self) -> list[int]:
        return [self._news.fileno(), self._clock.fileno(), *([self._records.fileno()] if self._records else [])]

    def close(self, poll: select.poll) -> None:
        """Stop listening."""
        for descriptor in self._list_heard():
            poll.unregister(descriptor)
        self._news.close()
        self._clock.close()
        if self._records:
            self._records.close()
        self._leases.close()

    def list_known(self) -> dict[str, str]:
        """Return the devices that have a guard, each with its firewall, even if the record is lost."""
        return self._leases.list_known()

    def has_lost(self) -> bool:
        """Whether the record of a guard is lost and has not been replaced yet."""
        return self._leases.has_lost()

    def listen(self, survey: _Survey) -> None:
        """Read the events about carriers, routers, the clock and the records, and shut guards that they concern."""
        self._do(self._leases.hear, survey)
        if self._clock.was_set():
            self._do(self._leases.change_clock, survey)
        if self._records and self._records.has_changed():
            self._records.watch()
            # Most changes are our own, and hooks report theirs by the FIFO when they are done.
            self._do(self._leases.check_records, survey)

    def verify(self, survey: _Survey) -> None:
        """Shut the guards of links that are now on another network."""
        self._do(self._leases.verify, survey)

    def reload(self, survey: _Survey, renew: bool, thorough: bool) -> None:
        """Read which guards there are."""
        self._do(lambda: self._leases.reload(renew, thorough), survey)

    def keep_time(self, survey: _Survey) -> None:
        """Renew the leases that are due."""
        self._do(self._leases.keep_time, survey)

    def next_time(self) -> float | None:
        """Return when there is something to do, time.monotonic(); None if never."""
        return self._leases.next_time()

    def _do(self, work: Callable[[], object], survey: _Survey) -> None:
        try:
            work()
        except (NetlinkError, OSError) as error:
            log.error(f"watch: {error}")
            survey.request()
        if reason := self._leases.take_reason():
            survey.demand(reason)
        if self._leases.take_check():
            survey.request()


class _News(Record):
    """What several events mean together.

    survey: whether a child has to run even if no network has changed; devices: the links whose network may have
    changed; everywhere: whether any network may have changed, since events were lost.
    """

    __slots__ = ("survey", "devices", "everywhere")

    def __init__(self, survey: bool = False, devices: frozenset[str] = frozenset(), everywhere: bool = False) -> None:
        self.survey = survey
        self.devices = devices
        self.everywhere = everywhere


_EVERYTHING = _News(survey=True, everywhere=True)


class _Interests:
    """Which events about networks matter: not those of a thousand routes and containers that come and go."""

    def __init__(self) -> None:
        self._devices: dict[int, str] = {}
        self._routers: dict[str, frozenset[str]] = {}
        self._tunnels = True
        self._composed = False
        self._filter: tuple[frozenset[int], frozenset[str], bool] | None = None

    def learn(
        self, store: Store, news: Netlink, records: Iterable[InterfaceRecord], guards: Iterable[str],
        routers: Mapping[str, Collection[str]],
    ) -> frozenset[str]:
        """Determine which events matter, and set the kernel's filter; return the links about which it now sends more.

        guards: the devices that have a guard; routers: of each interface.  Raises `NetlinkError`.
        """
        found: dict[str, set[str]] = {device: set() for device in guards}
        for record in records:
            if not record.wish:
                found.setdefault(device_of(record.iface), set()).update(routers.get(record.iface, ()))
        with Netlink() as kernel:
            links = [link for link in map(kernel.get_link, found) if link is not None]
        # Any link may become a port of a link that is made of others, and so change its network.
        self._composed = any(link.kind in COMPOSED for link in links)
        try:
            self._tunnels = bool(store.read_tunnels())
        except RecordError:
            self._tunnels = True
        now = {link.index: link.name for link in links}
        # A link that is not found may have been renamed just now, and the event about that may still be unread.
        lost = found.keys() - now.values()
        self._devices = {index: name for index, name in self._devices.items() if name in lost} | now
        before, self._routers = self._routers, {device: frozenset(each) for device, each in found.items()}
        addresses = frozenset(router for each in self._routers.values() for router in each if router != NO_ADDRESS)
        wanted = (frozenset(self._devices), addresses, self._tunnels or self._composed)
        if wanted != self._filter:
            self._filter = wanted
            try:
                news.filter_networks(*wanted)
            except NetlinkError as error:
                log.debug(f"watch: events are not filtered: {error}")
        return frozenset(device for device, each in self._routers.items() if each - before.get(device, frozenset()))

    def sort(self, messages: Iterable[Message]) -> _News:
        """Return what events of the kernel mean together.  Raises `NetlinkError`."""
        survey = False
        devices: set[str] = set()
        for kind, body in messages:
            if kind in (RTM_NEWLINK, RTM_DELLINK):
                index, name, driver = read_link_name(body)
                own = [each for each in (self._devices.get(index, ""), name) if each in self._routers]
                # The link may be a tunnel's device, or a port; but a veth belongs to a container.
                survey = survey or bool(own) or self._composed or (self._tunnels and driver != "veth")
                devices.update(self._routers if self._composed else own)
            elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
                route = parse_route(body)
                ways = [way.index for way in route.nexthops] if route else []
                devices.update((self._devices.get(index, "") for index in ways) if ways else self._routers)
            else:
                index = int.from_bytes(body[4:8], sys.byteorder)  # struct ifaddrmsg, struct ndmsg
                devices.add(self._devices.get(index, ""))
                survey = survey or (kind in (RTM_NEWADDR, RTM_DELADDR) and index not in self._devices)
        return _News(survey, frozenset(devices - {""}))


class _Burst:
    """A burst of events.  due: when to check whether it is over, time.monotonic(); None if there is no burst."""

    def __init__(self) -> None:
        self._began = 0.0
        self._news = _News()
        self.due: float | None = None

    def hear(self, survey: bool = False) -> None:
        """Begin, unless it has begun.  survey: whether a child has to run when it is over."""
        if survey:
            self.note(_News(survey=True))
        if self.due is None:
            self._began = monotonic()
            self.due = self._began + QUIET

    def note(self, news: _News) -> None:
        """Note what some of its events mean."""
        before = self._news
        self._news = _News(
            before.survey or news.survey, before.devices | news.devices, before.everywhere or news.everywhere
        )

    def concerns_networks(self) -> bool:
        """Whether the network of any link may have changed."""
        return bool(self._news.devices) or self._news.everywhere

    def is_over(self) -> bool:
        """Whether it may be over."""
        return self.due is not None and monotonic() >= self.due

    def go_on(self) -> bool:
        """Wait for silence once more; return False if the burst has lasted for long enough."""
        now = monotonic()
        if now >= self._began + BURST:
            return False
        self.due = now + QUIET
        return True

    def end(self) -> _News:
        """End the burst; return what its events meant."""
        self.due = None
        news, self._news = self._news, _News()
        return news


class _Survey:
    """When a child is to look at the networks, and what was seen last.

    alarm: when to decide again even without events, time.monotonic(), or None; check: when to look at the tunnels.
    """

    def __init__(self) -> None:
        self.is_requested = True
        self.alarm: float | None = None
        self.check: float | None = None
        self._asleep = _time_asleep()
        self._demand = ""
        self._timed = False
        self._running_timed = False
        self._fingerprints: dict[str, Fingerprint] = {}
        self._seen: dict[str, InterfaceRecord] = {}
        self._chosen: set[str] = set()
        self._everywhere = True
        self._pauses: Iterator[float] = iter(PAUSES)
        self._pause = 0.0

    def request(self, ifaces: Iterable[str] = ()) -> None:
        """Request a child that checks tunnels and guards, and looks at the networks of these interfaces and of those
        with a new record.  If nothing has changed, it does nothing."""
        self.is_requested = True
        self._chosen.update(ifaces)

    def request_everywhere(self) -> None:
        """Request the same for all interfaces."""
        self.is_requested = self._everywhere = True

    def demand(self, why: str) -> None:
        """Request a look at all networks, and a decision even if nothing has changed.  why: the reason, for the log."""
        self.request_everywhere()
        self._demand = self._demand or why

    def retry(self) -> None:
        """Request a look after a pause; each pause is longer than the one before."""
        self._pause = next(self._pauses, self._pause)
        self.alarm = monotonic() + self._pause

    def keep_time(self) -> None:
        """Request a look if one is due."""
        if self.alarm is not None and monotonic() >= self.alarm:
            self.alarm = None
            self._timed = not self.is_requested
            self.request_everywhere()
        if self.check is not None and monotonic() >= self.check:
            self.check = None
            self.request()

    def has_slept(self) -> bool:
        """Return whether the machine has slept since this was last asked."""
        before, self._asleep = self._asleep, _time_asleep()
        return self._asleep - before > 1.0

    def begin(
        self, records: Iterable[InterfaceRecord]
    ) -> tuple[str, dict[str, Fingerprint], bool, frozenset[str] | None]:
        """Begin a look.  Return why to decide even if nothing has changed (or empty), what was seen last, whether only
        the timer asks for this look, and the interfaces to look at (None for all).

        records: of all interfaces.  Later requests are for the next look.
        """
        demand, timed = self._demand, self._timed and not self._demand
        known = {record.iface: record for record in records if not record.wish}
        self._fingerprints = {iface: fingerprint for iface, fingerprint in self._fingerprints.items() if iface in known}
        new = {iface for iface, record in known.items() if self._seen.get(iface) is not record}
        chosen = frozenset(self._chosen | new | known.keys() - self._fingerprints)
        everywhere, self._seen = self._everywhere, known
        self.is_requested = self._timed = self._everywhere = False
        self._chosen = set()
        self._demand = ""
        self._running_timed = timed
        return demand, self._fingerprints, timed, None if everywhere else chosen

    def find_changed(self, records: Iterable[InterfaceRecord]) -> list[str]:
        """Return those of these interfaces whose network has changed.  Raises `NetlinkError`."""
        records = [record for record in records if not record.wish]
        seen = look(records) if records else {}
        changed = [record.iface for record in records if _has_changed(seen[record.iface], self._fingerprints, record)]
        for iface, fingerprint in seen.items():
            if iface not in changed and iface in self._fingerprints:
                self._fingerprints[iface] = fingerprint.complete(self._fingerprints[iface])
        return changed

    def find_missed(self, devices: Collection[str]) -> list[str]:
        """Return the interfaces on these links whose routers have other MAC addresses than were seen, or have one now.

        Unlike a whole look it imports nothing, which would stay in this process's memory.  Raises `NetlinkError`.
        """
        missed = []
        with Netlink() as kernel:
            for iface, fingerprint in self._fingerprints.items():
                if device_of(iface) in devices:
                    routers = [router for router in fingerprint.routers if router != NO_ADDRESS]
                    known = kernel.get_known_neighbours(fingerprint.index, routers).items()
                    if any(each.mac and fingerprint.macs.get(router) != each.mac for router, each in known):
                        missed.append(iface)
        return missed

    def list_routers(self) -> dict[str, tuple[str, ...]]:
        """Return the routers of each interface, as last seen."""
        return {iface: fingerprint.routers for iface, fingerprint in self._fingerprints.items()}

    def end(self, report: list[str], failed: bool) -> None:
        """Process the report of a look."""
        decided = again = False
        later: float | None = None
        if failed:
            self._everywhere = True
            if self.check is None:
                self.check = monotonic() + PAUSES[0]
        for line in report:
            key, _, text = line.partition(" ")
            if key == "kept":
                self.check = monotonic() + float(text) if text else None
            if key == "fingerprint":
                iface, _, fingerprint = text.encode("ascii").decode("unicode_escape").partition("\n")
                self._fingerprints[iface] = parse_fingerprint(fingerprint)
            decided = decided or key == "decided"
            again = again or key == "retry"
            if key == "later":
                later = monotonic() + float(text)
        if decided and not self._running_timed:
            self._pauses = iter(PAUSES)
            self.alarm = None
        if again or failed:
            if self.alarm is None:
                self.retry()
        else:
            self.alarm = later
        if later is not None and self.alarm is not None:
            self.alarm = min(self.alarm, later)


def _time_asleep() -> float:
    """Return for how many seconds the machine has slept since its boot: the difference of the two clocks."""
    return boot_time() - monotonic()


# --- what the children do


def survey(
    store: Store, fingerprints: Mapping[str, Fingerprint], demand: str, timed: bool, report: Callable[[str], None],
    guards: Mapping[str, str] | None = None, slept: bool = False, chosen: Collection[str] | None = None,
) -> None:
    """Look at the networks; if they have changed, decide again and act on the decision.

    fingerprints: what was seen last, by interface; demand: why to decide even if nothing has changed, or empty; timed:
    whether only the timer asks for this, which is not logged.
    report: called with a line for each ``fingerprint``; with ``decided`` after a decision; with ``retry`` if asking
    again may help; with ``later`` and the seconds after which the admin's hold ends; and with what to listen to
    (`_Tunnels.follow`).
    guards: the devices that had a guard when this was requested, each with its firewall; slept: whether the machine has
    slept since the last look.
    chosen: the interfaces to look at, unless there is a reason to look at all; None for all.
    """
    from netconf_hooks.watcher.leftovers import clear_leftovers, end_passes
    from netconf_hooks.watcher.stops import note_starts, note_stops

    end_passes(store)
    clear_leftovers(store)
    note_stops(store)
    note_starts(store)
    records = store.read_interfaces(log.error)
    started = _list_started(store)
    if because := _put_back(store, guards):
        demand, timed = demand or because, False
    near = [
        record for record in records
        if demand or timed or chosen is None or record.iface in chosen or record.iface not in fingerprints
    ]
    seen = look(near)
    changed = [record for record in near if not record.wish and _has_changed(seen[record.iface], fingerprints, record)]
    if demand or timed or changed:
        if demand or changed:
            log.info(f"deciding again: {demand or 'the network has changed'}")
        try:
            # A change of one link is no reason to look at all others.
            again = records if demand or timed else changed
            settle(store, look_again(store, again), wake=False, tell=leave_events, retry=False)
        except (NetlinkError, RecordError, OSError) as error:
            log.error(f"watch: {error}")
        report("decided")
    # Changes since the look for the decision are noticed by the next look.
    for iface, fingerprint in seen.items():
        whole = fingerprint.complete(fingerprints[iface]) if iface in fingerprints else fingerprint
        text = f"{iface}\n{whole}".encode("unicode_escape").decode("ascii")
        report(f"fingerprint {text}")
    ended, pause = _end_visits(store)
    # Somebody who has logged in at a captive portal is waiting for the tunnels.
    news = bool(changed) or slept or ended
    known = {**fingerprints, **seen}
    routable = any(fingerprint.routers for fingerprint in known.values()) or not known
    _keep_tunnels(store, news, routable, report, pause, started)
    if needs_retry(store, store.read_interfaces(log.error)):
        report("retry")
    if any(tunnel.held for tunnel in store.read_tunnels().values()):
        from netconf_hooks.tunnels.held import find_next_end

        if ends := find_next_end():
            report(f"later {ends}")


def _end_visits(store: Store) -> tuple[bool, float | None]:
    """Call `guard.end_visits`; if a record can't be written, try again later."""
    try:
        return guard.end_visits(store)
    except OSError as error:
        log.error(f"watch: {error}")
        return False, PAUSES[0]


def _list_started(store: Store) -> frozenset[tuple[str, str]]:
    """Return the tunnels that have been started, by kind and name."""
    try:
        tunnels = store.read_tunnels()
    except RecordError:
        return frozenset()
    return frozenset(key for key, record in tunnels.items() if record.verdict == "up" and record.applied)


def _keep_tunnels(
    store: Store, news: bool, routable: bool, report: Callable[[str], None], pause: float | None = None,
    started: Collection[tuple[str, str]] = (),
) -> None:
    """Take care of the tunnels, and report what to listen to.

    pause: seconds until the next look at the latest; started: as for `keep_up`.
    """
    from netconf_hooks.watcher.keeper import keep_up

    hearing = keep_up(store, news, routable, started=started)
    for pid, start in hearing.pids:
        report(f"daemon {pid} {start}")
    if hearing.associations:
        report("associations")
    pauses = [each for each in (hearing.pause, pause) if each is not None]
    report(f"kept {min(pauses):.3f}" if pauses else "kept")


def tell(store: Store, report: Callable[[str], None]) -> None:
    """Run the event scripts of all queued events; report each event."""
    from netconf_hooks.events import tell_events

    tell_events(store, progress=lambda: report("told"))


def look(records: Iterable[InterfaceRecord]) -> dict[str, Fingerprint]:
    """Return the present fingerprints of these interfaces' networks.  Raises `NetlinkError`."""
    with Netlink() as netlink:
        return {
            record.iface: read_fingerprint(device_of(record.iface), netlink, record.rules.outside_ports)
            for record in records
            if not record.wish
        }


def _put_back(store: Store, guards: Mapping[str, str] | None = None) -> str:
    """Restore rules and records of guards that somebody has removed; return why to decide again, or empty.

    guards: as for `survey`.
    """
    try:
        return guard.put_back(store, guards)
    except (NetlinkError, OSError) as error:
        log.error(f"watch: {error}")
        return ""


def needs_retry(store: Store, records: Iterable[InterfaceRecord]) -> bool:
    """Whether looking again may help: a location is undecided, something failed, or a tunnel behind a guard is not up.
    """
    current = list_current(records)
    if any(record.place.undecided for record in current):
        return True
    for each in store.read_guards(log.error):
        if not each.done or any(
            device_of(record.iface) == each.device and record.observation.observed_at <= each.shut_at
            for record in current
        ):
            return True
    if store.is_unfinished():
        return True
    # Behind a guard, we have to resolve the names of its servers, whose addresses may have changed.
    return store.has_guards() and any(not state.up_since for state in store.read_states().values())


def _has_changed(fingerprint: Fingerprint, fingerprints: Mapping[str, Fingerprint], record: InterfaceRecord) -> bool:
    """Whether an interface's network differs from what was seen last; the first time, from its record."""
    if record.iface in fingerprints:
        return not fingerprint.is_like(fingerprints[record.iface])
    # Since the hook's look, the cable may have been pulled, or a router may have announced itself.
    seen = record.observation
    recorded = seen.answers["gateway"].values if "gateway" in seen.answers else None
    routers = tuple(router for router in fingerprint.routers if router != NO_ADDRESS)
    return not (
        fingerprint.carrier
        and (fingerprint.index, fingerprint.losses) == (seen.index, record.losses)
        and bool(fingerprint.routers) == seen.routable
        and (recorded is None or sorted(recorded) == sorted(routers))
    )


# --- the process


def _concern_us(rules: Netlink, iptables: bool) -> bool:
    """Read the events about changed rules; return whether one may concern a guard.

    Changes of windows do not count: they come with each probe and renewal.
    iptables: whether a guard uses the tables of iptables' nft variant.
    """
    messages, dropped = rules.collect()
    return dropped or any(_concerns_us(message, iptables) for message in messages)


def _concerns_us(message: Message, iptables: bool) -> bool:
    kind, body = message[0] & 0xFF, message[1]
    attributes = split_attributes(body[4:])  # struct nfgenmsg
    table = attributes.get(_TABLE, b"").rstrip(b"\0")
    if table != _OUR_TABLE and not (iptables and table == _IPTABLES_TABLE):
        return False
    if kind in (_NEWELEMENT, _DELELEMENT, _NEWRULE, _DELRULE):
        return not attributes.get(_CHAIN_OR_SET, b"").startswith(_PASSING)
    return True


def _raise_priority() -> None:
    """Get a real-time priority, so that events are processed at once even on a busy machine.

    Programs that shut a guard (iptables-restore) inherit it; a `Child` gives it up.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
    except OSError as error:
        log.debug(f"watch: no real-time priority: {error.strerror}")  # a container without CAP_SYS_NICE


def _tell_leaving(address: str) -> None:
    """Tell systemd, sd_notify(3), that this service is about to end: a request to start it now starts another process.

    address: of systemd's socket, empty if there is none.
    """
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address  # unix(7), abstract
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        channel.sendto(b"STOPPING=1", name)
    except OSError as error:
        log.error(f"{address}: {error.strerror}: systemd is not told that the watcher ends")
    finally:
        channel.close()
