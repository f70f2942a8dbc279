"""The listening process, turn by turn: its clock, its sockets, its children and its guards are made up here."""

import os
import select
import socket
import subprocess
import types

import pytest
from situations import make_record

from netconf_hooks import state

from netconf_hooks.evidence.fingerprint import Fingerprint
from netconf_hooks.state import EventRecord, GuardRecord, Pass, TunnelRecord
from netconf_hooks.system.netlink import LinkStatus, Neighbour, NetlinkError, pack_attribute
from netconf_hooks.system.processes import read_start
from netconf_hooks.watcher import watch

ROUTER, MAC = "192.0.2.1", "00:16:3e:11:22:33"
OFFICE = Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER,), {ROUTER: MAC})
ADDRESS = (20, b"\2\x18\0\0" + (7).to_bytes(4, "little"))  # RTM_NEWADDR of the link with index 7
RULE = (10 << 8 | 6, b"\1\0\0\0" + pack_attribute(1, b"netconf-guard\0") + pack_attribute(2, b"pass-eth0\0"))


class FakeSocket:
    """A netlink socket, readable while something waits; filters: what it was asked to leave out."""

    def __init__(self):
        self._reader, self._writer = os.pipe()
        self.waiting = []
        self.dropped = False
        self.filters = []

    def fileno(self):
        """As Netlink.fileno."""
        return self._reader

    def say(self, *messages, dropped=False):
        """Let the kernel send something."""
        self.waiting += messages
        self.dropped = self.dropped or dropped
        os.write(self._writer, b".")

    def collect(self, most=1000):
        """As Netlink.collect."""
        found, self.waiting = (self.waiting[:most], self.dropped), self.waiting[most:]
        self.dropped = False
        while not self.waiting and select.select([self._reader], [], [], 0)[0]:
            os.read(self._reader, 1)
        return found

    def filter_networks(self, *wanted):
        """As Netlink.filter_networks."""
        self.filters.append(wanted)

    def close(self):
        """As Netlink.close."""
        os.close(self._reader)
        os.close(self._writer)


class FakeChild:
    """A child that does its work at once, and ends when the world says so."""

    def __init__(self, world, what, limit, work, descriptors):
        if world.forks_fail:
            raise OSError(11, "Resource temporarily unavailable")
        self.what, self.limit, self.descriptors = what, limit, list(descriptors)
        self.next_time = world.now + limit
        self.is_abandoned = self.failed = self.is_over = self.is_closed = False
        self._event = os.eventfd(0)
        self._lines = []
        self._world = world
        world.children.append(self)
        work(self._lines.append)
        if not world.children_stay:
            self.end()

    def end(self, failed=False):
        """End."""
        self.is_over, self.failed = True, failed
        os.eventfd_write(self._event, 1)

    @property
    def pid(self):
        """That of a process that there is, until it has ended; then one that can't be."""
        return 2**31 - 1 if self.is_over else 1

    def fileno(self):
        """As Child.fileno."""
        return self._event

    def has_ended(self):
        """As Child.has_ended."""
        return self.is_over

    def read_report(self):
        """As Child.read_report."""
        return self._lines

    def keep_time(self):
        """As Child.keep_time, but without patience."""
        self.is_abandoned = self._world.now >= self.next_time
        self.failed = self.failed or self.is_abandoned

    def close(self):
        """As Child.close."""
        assert not self.is_closed
        self.is_closed = True
        os.close(self._event)


class FakeGuards:
    """The guards, as the listener keeps them: what it was asked, and when it is next to be."""

    def __init__(self, world):
        self._world = world
        self.known = {"eth0": "nftables"}
        self.lost = False
        self.due = None
        self.asked = world.asked

    def list_descriptors(self):
        """As _Guards.list_descriptors."""
        return [1001, 1002]

    def list_known(self):
        """As _Guards.list_known."""
        return self.known

    def has_lost(self):
        """As _Guards.has_lost."""
        return self.lost

    def listen(self, survey):
        """As _Guards.listen."""

    def verify(self, survey):
        """As _Guards.verify."""
        self.asked.append("verify")

    def reload(self, survey, renew, thorough):
        """As _Guards.reload."""
        self.asked.append(f"reload{' renew' if renew else ''}{' thorough' if thorough else ''}")

    def keep_time(self, survey):
        """As _Guards.keep_time."""
        if self.due is not None and self._world.now >= self.due:
            self.due = None
            self.asked.append("renew")

    def next_time(self):
        """As _Guards.next_time."""
        return self.due

    def close(self, poll):
        """As _Guards.close."""
        self.asked.append("close")


class Asleep(Exception):
    """Nothing is due any more."""


class World:
    """All that a listener meets.

    now: the clock, which stands still while the listener works; plans: what happens when.
    children: all that were started; children_stay: whether they end only when they are told; forks_fail: whether none
    can be started; surveys: what the looking children were asked; reports: the lines of the next ones, the last stays;
    told: how often event scripts were run; slept: of each survey, whether the machine had slept before.
    guards: the listener's, if it has any; asked: what they were asked; seen: how the networks look to the listener.
    """

    def __init__(self, store):
        self.store = store
        self.now = 1000.0
        self.asleep = 0.0
        self.plans = []
        self.children = []
        self.children_stay = self.forks_fail = False
        self.surveys = []
        self.reports = [["kept"]]
        self.told = 0
        self.slept = []
        self.asked = []
        self.guards = None
        self.seen = OFFICE
        self.news, self.rules = FakeSocket(), FakeSocket()
        self.poll_real = select.poll()
        self.registered = set()
        self.turns = 0
        self.has_ended = False

    def at(self, seconds, do):
        """Let something happen after so many seconds from the start."""
        self.plans.append((1000.0 + seconds, do))
        self.plans.sort(key=lambda plan: plan[0])

    # As select.poll.

    def register(self, descriptor, mask):
        self.registered.add(descriptor)
        self.poll_real.register(descriptor, mask)

    def unregister(self, descriptor):
        self.registered.remove(descriptor)
        self.poll_real.unregister(descriptor)

    def poll(self, patience):
        self.turns += 1
        assert self.turns < 500, "it never sleeps"
        if ready := self.poll_real.poll(0):
            return ready
        until = None if patience is None else self.now + patience / 1000
        if self.plans and (until is None or self.plans[0][0] <= until):
            when, do = self.plans.pop(0)
            self.now = max(self.now, when)
            do()
            return self.poll_real.poll(0)
        if until is None:
            raise Asleep
        self.now = until
        return []

    # As the functions that children run.

    def survey(self, store, fingerprints, demand, timed, report, guards, slept, chosen):
        self.surveys.append((round(self.now - 1000, 3), demand, timed, None if chosen is None else sorted(chosen)))
        self.slept.append(slept)
        self.known_guards = guards
        lines = self.reports[0] if len(self.reports) == 1 else self.reports.pop(0)
        for line in lines:
            report(line)
        for record in self.store.read_interfaces(str):
            if not record.wish:
                report(f"fingerprint {record.iface}\\n{OFFICE}".replace("\t", "\\t"))

    def tell(self, store, report):
        self.told += 1
        store.write_events(())

    def list_times(self):
        """Return when a child looked."""
        return [when for when, *_ in self.surveys]

    def run(self, orphaned=False, seconds=200):
        """Listen until it is asleep for good or ends, for so many seconds at most; return the listener."""
        def stop():
            raise Asleep

        lock = self.store.lock_watcher()
        assert lock.take()
        os.mkfifo(self.store.fifo)
        fifo = os.open(self.store.fifo, os.O_RDWR | os.O_NONBLOCK)
        listener = watch.Listener(self.store, lock, fifo, self.news, self.rules)
        self.at(seconds, stop)
        try:
            listener.run(orphaned)
            self.has_ended = True
        except Asleep:
            os.close(fifo)
            lock.release()
        return listener

    def wake(self):
        """Tell the listener that records have changed, as a hook does."""
        fifo = os.open(self.store.fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fifo, b"\n")
        os.close(fifo)

    def forget(self):
        """Take all records away, as hooks do."""
        for record in self.store.read_interfaces(str):
            self.store.remove_interface(record.iface)
        for record in self.store.read_guards(str):
            self.store.remove_guard(record.device)
        self.wake()


def in_office(iface="eth0", index=7, **options):
    """Return the record of an interface in the office."""
    stanzas = (Pass("inet", {"netconf-vpn": "openvpn corp", **options}),)
    return make_record(iface, index, stanzas, routable=True, location="office")


class FakeKernel:
    """What the kernel answers: each link has the index 7 but for eth1."""

    neighbours = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_link(self, device):
        """As Netlink.get_link."""
        return LinkStatus(8 if device == "eth1" else 7, device, 0, True, True, "")

    def get_known_neighbours(self, index, routers):
        """As Netlink.get_known_neighbours."""
        return {router: Neighbour(index, router, 2, self.neighbours[router]) for router in routers
                if router in self.neighbours}  # fmt: skip


@pytest.fixture
def world(store, links, monkeypatch):
    """A world with eth0 in the office."""
    store.prepare()
    store.write_interface(in_office())
    world = World(store)
    monkeypatch.setattr(state, "_YOUNG", -(10**18))  # nobody waits for records to be old enough to be remembered
    monkeypatch.setattr(watch, "monotonic", lambda: world.now)
    monkeypatch.setattr(watch, "boot_time", lambda: world.now + world.asleep)
    monkeypatch.setattr(watch.select, "poll", lambda: world)
    monkeypatch.setattr(watch, "Child", lambda *arguments: FakeChild(world, *arguments))
    monkeypatch.setattr(watch, "Netlink", FakeKernel)
    monkeypatch.setattr(watch, "look", lambda records: {record.iface: world.seen for record in records})
    monkeypatch.setattr(watch, "survey", world.survey)
    monkeypatch.setattr(watch, "tell", world.tell)

    def make_guards(store, poll):
        world.guards = world.guards or FakeGuards(world)
        return world.guards

    monkeypatch.setattr(watch, "_Guards", make_guards)
    yield world
    for each in (world.news, world.rules):
        each.close()


# When a child looks


def test_it_looks_once_and_then_sleeps(world):
    world.run()
    assert world.surveys == [(0.0, "", False, None)]
    [child] = world.children
    assert child.is_closed
    assert child.limit == watch.ACTING_TIME + in_office().rules.timeout
    assert {world.news.fileno(), world.rules.fileno()} < set(child.descriptors)


def test_after_a_killed_watcher_it_decides_and_renews_leases_at_once(world):
    world.store.write_guard(GuardRecord("eth0", "nftables"))
    world.run(orphaned=True)
    assert world.surveys[0] == (0.0, "nobody watched", False, None)
    assert world.asked[0] == "reload renew thorough"


def test_a_changed_network_is_looked_at_when_its_burst_is_over(world):
    def change():
        world.seen = OFFICE.change(routers=())
        world.news.say(ADDRESS)

    world.at(10, change)
    world.run()
    assert world.surveys[1:] == [(10 + watch.QUIET, "", False, ["eth0"])]


def test_news_that_change_nothing_start_no_child(world):
    world.at(10, lambda: world.news.say(ADDRESS))
    world.run()
    assert len(world.surveys) == 1


def test_a_burst_that_does_not_end_is_over_after_a_second(world):
    def change():
        world.seen = OFFICE.change(routers=())
        world.news.say(ADDRESS)

    for number in range(40):
        world.at(10 + number / 20, change)
    world.run(seconds=11.5)
    when = world.list_times()[1]
    assert 10 + watch.BURST <= when < 10 + watch.BURST + 2 * watch.QUIET


def test_news_that_were_lost_are_a_reason_to_look_everywhere(world):
    world.at(10, lambda: world.news.say(dropped=True))
    world.run()
    assert world.surveys[1:] == [(10 + watch.QUIET, "", False, None)]


def test_a_storm_of_news_is_read_in_handfuls(world):
    """All that has come is read, but no more than a handful is in memory at a time."""
    most = []
    collect = world.news.collect
    world.news.collect = lambda limit: most.append(limit) or collect(limit)
    world.at(10, lambda: world.news.say(*[ADDRESS] * 200))
    world.run()
    assert set(most) == {64}
    assert world.news.waiting == []


def test_a_hook_that_wakes_it_has_guards_and_new_records_looked_at(world):
    def come_up():
        world.store.write_interface(in_office("eth1", 8))
        world.store.write_guard(GuardRecord("eth1", "nftables"))
        world.wake()

    world.at(10, come_up)
    world.run()
    assert world.surveys[1:] == [(10 + watch.QUIET, "", False, ["eth1"])]
    assert world.asked[0] == "reload"
    assert world.known_guards == {"eth0": "nftables"}


@pytest.mark.parametrize("firewall, looks", [("nftables", 1), ("iptables-nft", 2)])
def test_changed_rules_of_iptables_matter_if_a_guard_is_there(world, firewall, looks):
    rule = (10 << 8 | 6, b"\1\0\0\0" + pack_attribute(1, b"mangle\0") + pack_attribute(2, b"POSTROUTING\0"))
    world.store.write_guard(GuardRecord("eth0", firewall))
    world.guards = FakeGuards(world)
    world.guards.known = {"eth0": firewall}
    world.at(10, lambda: world.rules.say(rule))
    world.run()
    assert len(world.surveys) == looks


def test_changed_rules_of_ours_are_a_reason_to_look_at_guards(world):
    world.store.write_guard(GuardRecord("eth0", "nftables"))
    world.at(10, lambda: world.rules.say(RULE))
    world.run()
    assert world.surveys[1:] == [(10 + watch.QUIET, "", False, [])]


def test_while_something_is_undecided_it_looks_again_and_again(world):
    world.reports = [["kept", "retry"]]
    world.run(seconds=180)
    assert world.list_times() == [0, 5, 20, 50, 110, 170]
    assert all(timed for _, _, timed, _ in world.surveys[1:])


def test_a_tunnel_is_looked_after_when_its_keeper_wants_to(world):
    world.reports = [["kept 7.500"], ["kept"]]
    world.run()
    assert world.surveys[1:] == [(7.5, "", False, [])]


def test_a_hold_that_ends_is_a_reason_to_decide(world):
    world.reports = [["kept", "later 30"], ["kept"]]
    world.run()
    assert world.surveys[1:] == [(30, "", True, None)]


def test_a_hold_that_ends_later_does_not_put_off_the_next_attempt(world):
    world.reports = [["kept", "retry", "later 30"], ["kept"]]
    world.run()
    assert world.list_times() == [0, 5]


def test_a_machine_that_has_slept_is_noticed_once(world):
    def sleep():
        world.asleep += 60
        world.wake()

    world.at(10, sleep)
    world.at(20, world.wake)
    world.run()
    assert world.slept == [False, True, False]


# Children


def test_a_child_that_fails_is_followed_by_another_after_a_pause(world):
    """It may have seen nothing: the next one looks everywhere."""
    world.children_stay = True
    world.at(1, lambda: world.children[0].end(failed=True))
    world.at(20, lambda: world.children[1].end())
    world.run()
    assert world.surveys == [(0, "", False, None), (1 + watch.PAUSES[0], "", True, None)]


def test_without_a_child_it_tries_again_after_a_pause(world, messages):
    world.forks_fail = True
    world.at(3, lambda: setattr(world, "forks_fail", False))
    world.run()
    assert world.list_times() == [5]
    assert messages == ["error: watch: could not look and act: Resource temporarily unavailable"]


def test_a_child_that_can_not_be_killed_is_told_to_status_until_it_is_gone(world):
    world.children_stay = True
    limit = watch.ACTING_TIME + in_office().rules.timeout
    told = {}

    def look(when):
        told[when] = world.store.read_abandoned()

    world.at(limit - 1, lambda: look("before"))
    world.at(limit + 1, lambda: look("abandoned"))
    world.at(limit + 20, lambda: world.children[1].end())
    world.at(limit + 40, lambda: world.children[0].end())
    world.at(limit + 41, lambda: look("gone"))
    world.run()
    assert told == {"before": [], "abandoned": [(1, "look and act")], "gone": []}
    assert len(world.children) == 2  # the next one did not wait for it
    assert all(child.is_closed for child in world.children)


def test_event_scripts_are_run_by_a_child_of_their_own(world):
    world.store.write_events((EventRecord("inet-connected", {}),))
    world.children_stay = True
    world.at(1, lambda: world.children[0].end())
    world.at(300, world.wake)
    world.at(500, lambda: world.children[1].end())
    world.run(seconds=700)
    assert [child.what for child in world.children[:2]] == ["look and act", "run the event scripts"]
    assert world.children[1].limit == watch.EVENT_TIME
    assert world.told == 1
    assert world.children[1].is_closed


def test_what_a_router_became_while_the_filter_was_changed_is_looked_at(world, monkeypatch):
    """The kernel sends the news of routers that the filter names, and this one's came before it was named."""
    monkeypatch.setattr(FakeKernel, "neighbours", {ROUTER: "00:16:3e:99:99:99"})
    world.run(seconds=3)
    assert world.surveys[1][3] == ["eth0"]
    assert world.news.filters[-1][:2] == ({7}, {ROUTER})


@pytest.mark.parametrize("what", ["get_link", "get_known_neighbours"])
def test_a_kernel_that_does_not_answer_is_asked_again(world, monkeypatch, messages, what):
    def fail(*_):
        raise NetlinkError(105)

    monkeypatch.setattr(FakeKernel, what, fail)
    world.run(seconds=30)
    assert any(message.startswith("error: watch: ") for message in messages)
    assert len(world.surveys) > 1 or what != "get_link"


# Tunnels


@pytest.fixture
def daemon():
    """A process that runs until it is killed, and the line about it in a child's report."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process, f"daemon {process.pid} {read_start(process.pid)}"
        process.kill()


def end(process):
    """Kill a process, and wait until its end is news."""
    process.kill()
    process.wait()


def test_the_end_of_a_daemon_is_a_reason_to_look_at_the_tunnels(world, daemon):
    process, line = daemon
    world.reports = [[line, "kept"], [line, "kept"], ["kept"]]
    world.at(10, world.wake)  # it goes on listening
    world.at(20, lambda: end(process))
    world.run()
    assert world.list_times() == [0, 10.1, 20]


def test_a_daemon_that_is_not_to_run_any_more_is_not_listened_to(world, daemon):
    process, line = daemon
    world.reports = [[line, "kept 5"], ["kept"]]
    world.at(20, lambda: end(process))
    world.run()
    assert world.list_times() == [0, 5]


def test_a_child_that_did_not_come_to_the_tunnels_says_nothing_about_them(world, daemon):
    process, line = daemon
    world.reports = [[line, "kept", "later 5"], [], ["kept"]]
    world.at(20, lambda: end(process))
    world.run()
    assert world.list_times() == [0, 5, 20]


@pytest.mark.parametrize("another", [True, False])
def test_a_daemon_that_has_ended_meanwhile_is_looked_at_at_once(world, daemon, another):
    """Also if another process has its pid by now."""
    process, line = daemon
    if another:
        line += "1"
    else:
        end(process)
    before = len(os.listdir("/proc/self/fd"))
    world.reports = [[line, "kept"], ["kept"]]
    world.run()
    assert world.list_times() == [0, 0]
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_child_inherits_what_is_listened_to(world, daemon, monkeypatch):
    monkeypatch.setattr(watch, "Netlink", lambda *arguments: FakeSocket() if arguments else FakeKernel())
    world.reports = [[daemon[1], "associations", "kept 5"], ["kept"]]
    world.run()
    first, second = world.children
    assert len(second.descriptors) == len(first.descriptors) + 2


def test_associations_that_change_are_a_reason_to_look_at_the_tunnels(world, monkeypatch):
    """IPsec's; while a child says so, and over one socket."""
    sockets = []

    def open_socket(*arguments):
        if not arguments:
            return FakeKernel()
        assert arguments == ((watch._ASSOCIATIONS,), watch._NETLINK_XFRM)
        sockets.append(FakeSocket())
        sockets[-1].drain = lambda: sockets[-1].collect()[0]
        return sockets[-1]

    monkeypatch.setattr(watch, "Netlink", open_socket)
    world.reports = [["associations", "kept"], ["associations", "kept"], ["kept"]]
    world.at(10, lambda: sockets[0].say("an association"))
    world.at(20, lambda: sockets[0].say("an association"))
    world.run()
    assert world.list_times() == [0, 10, 20]
    assert len(sockets) == 1
    with pytest.raises(OSError):
        os.fstat(sockets[0].fileno())  # closed


def test_a_kernel_without_ipsec_has_no_associations(world, monkeypatch):
    def open_socket(*arguments):
        if arguments:
            raise NetlinkError(93)
        return FakeKernel()

    monkeypatch.setattr(watch, "Netlink", open_socket)
    world.reports = [["associations", "kept"]]
    world.run()
    assert world.list_times() == [0]


# Guards


def test_a_burst_verifies_the_guards_at_its_beginning_and_when_more_has_come(world):
    world.store.write_guard(GuardRecord("eth0", "nftables"))
    world.at(10, lambda: (world.asked.clear(), world.news.say(ADDRESS)))
    world.at(10.05, lambda: world.news.say(ADDRESS))
    world.run(seconds=11)
    assert world.asked == ["verify", "verify"]


def test_leases_are_renewed_on_time(world):
    world.store.write_guard(GuardRecord("eth0", "nftables"))
    world.guards = FakeGuards(world)
    world.guards.due = 1042.0
    world.at(41.9, lambda: world.asked.clear())
    world.at(42.1, lambda: world.asked.append("later"))
    world.run()
    assert world.asked == ["renew", "later"]


def test_children_inherit_none_of_the_guards_descriptors(world):
    world.store.write_guard(GuardRecord("eth0", "nftables"))
    world.run()
    assert {1001, 1002} < set(world.children[0].descriptors)


def test_without_guards_nobody_listens_for_them(world):
    """Only while the record of one is lost, it may still stand."""
    world.store.write_guard(GuardRecord("eth0", "nftables"))

    def lose():
        world.guards.lost = True
        world.store.remove_guard("eth0")
        world.wake()

    def find():
        assert "close" not in world.asked
        world.guards.lost = False
        world.wake()

    world.at(10, lose)
    world.at(20, find)
    world.run(seconds=30)
    assert world.asked[-1] == "close"


class FakeLeases:
    """The leases: what they were asked; problem: what they raise, if anything."""

    def __init__(self):
        self.asked = []
        self.problem = None
        self.reason = ""
        self.check = False

    def take_reason(self):
        """As Leases.take_reason."""
        reason, self.reason = self.reason, ""
        return reason

    def take_check(self):
        """As Leases.take_check."""
        return self.check

    def __getattr__(self, name):
        def do(*arguments):
            self.asked.append((name, *arguments))
            if self.problem:
                raise self.problem

        return do


class FakeSource:
    """Something that is listened to: a clock, or a directory; changed: whether it has news, once."""

    def __init__(self):
        self.changed = self.is_closed = False
        self.watched = 0

    def was_set(self):
        """As Clock.was_set."""
        changed, self.changed = self.changed, False
        return changed

    has_changed = was_set

    def watch(self):
        """As Directory.watch."""
        self.watched += 1

    def fileno(self):
        """As both."""
        return id(self)

    def close(self):
        """As both."""
        self.is_closed = True


@pytest.fixture
def guards(monkeypatch):
    """What listens to carriers, routers, the clock and the records; all of these are made up."""
    guards = watch._Guards.__new__(watch._Guards)
    guards._leases = FakeLeases()
    guards._clock, guards._records, guards._news = FakeSource(), FakeSource(), FakeSource()
    return guards


@pytest.fixture
def survey():
    """What is requested, when nothing is yet."""
    survey = watch._Survey()
    survey.begin([])
    return survey


def test_news_of_carriers_are_heard_in_each_turn_and_others_when_there_are_any(guards, survey):
    guards.listen(survey)
    assert guards._leases.asked == [("hear",)]
    guards._clock.changed = True
    guards.listen(survey)
    assert guards._leases.asked[1:] == [("hear",), ("change_clock",)]
    guards._records.changed = True
    guards.listen(survey)
    assert guards._leases.asked[3:] == [("hear",), ("check_records",)]
    assert guards._records.watched == 1
    guards._records = None  # no inotify
    guards.listen(survey)
    assert not survey.is_requested


def test_what_the_guards_are_asked_is_passed_on(guards, survey):
    guards.reload(survey, True, False)
    guards.verify(survey)
    guards.keep_time(survey)
    assert guards._leases.asked == [("reload", True, False), ("verify",), ("keep_time",)]


def test_a_reason_of_the_guards_is_a_demand(guards, survey):
    guards._leases.reason = "a lease has ended"
    guards.verify(survey)
    assert survey.begin([])[0] == "a lease has ended"
    guards._leases.check = True
    guards.verify(survey)
    assert survey.is_requested
    assert survey.begin([])[0] == ""


@pytest.mark.parametrize("problem", [NetlinkError(105), OSError(28, "No space left on device")])
def test_guards_that_fail_end_no_watcher(guards, survey, messages, problem):
    guards._leases.problem = problem
    guards.keep_time(survey)
    assert messages == [f"error: watch: {problem}"]
    assert survey.is_requested


def test_nothing_of_the_guards_stays_open(guards):
    poll = types.SimpleNamespace(unregister=lambda descriptor: unregistered.append(descriptor))
    unregistered = []
    guards.close(poll)
    sources = (guards._news, guards._clock, guards._records)
    assert unregistered == [each.fileno() for each in sources]
    assert all(each.is_closed for each in sources)
    assert guards._leases.asked == [("close",)]
    assert set(guards.list_descriptors()) > set(unregistered)


# Leaving


def test_it_leaves_once_there_is_nothing_left(world, monkeypatch):
    """It tells systemd first: whoever asks for it from then on gets another process."""
    address = world.store.directory + "/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        world.at(10, world.forget)
        world.run()
        assert world.has_ended
        assert systemd.recv(100) == b"STOPPING=1"
    assert not os.path.exists(world.store.fifo)
    lock = world.store.lock_watcher()
    assert lock.take()
    lock.release()


def test_systemd_is_told_at_an_abstract_address_too(messages):
    """As in containers; sd_notify(3) writes its first byte, which is none, as an @."""
    name = f"netconf-hooks-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.setblocking(False)
        watch._tell_leaving(f"@{name}")
        assert systemd.recv(100) == b"STOPPING=1"
    assert messages == []
    watch._tell_leaving("/nowhere/notify")
    assert len(messages) == 1 and messages[0].startswith("error: /nowhere/notify: ")


def test_it_stays_for_a_tunnel_that_could_not_be_stopped(world):
    world.store.write_tunnels({("openvpn", "corp"): TunnelRecord("openvpn", "corp", "down", "", applied=False)})
    world.at(10, world.forget)
    world.run(seconds=60)
    assert not world.has_ended


def test_it_stays_while_a_child_is_at_work(world):
    world.children_stay = True
    world.at(1, world.forget)
    world.at(10, lambda: world.children[0].end())
    world.at(10.5, lambda: world.children[1].end())
    world.run()
    assert world.has_ended
    assert world.now == 1010.5


def test_an_interface_that_comes_up_at_the_last_moment_is_watched(world, monkeypatch):
    """Its hook has the lock just before the watcher does, and finds a watcher that runs."""
    real = world.store.lock_records

    def lock_records():
        world.store.write_interface(in_office("eth1", 8))
        monkeypatch.setattr(world.store, "lock_records", real)
        return real()

    def forget():
        world.forget()
        monkeypatch.setattr(world.store, "lock_records", lock_records)

    world.at(10, forget)
    world.at(20, world.wake)
    world.run(seconds=30)
    assert not world.has_ended
    assert any(chosen == ["eth1"] for *_, chosen in world.surveys)


def test_it_waits_for_no_lock_but_tries_again(world):
    lock = world.store.lock_records()

    def forget():
        world.forget()
        assert lock.take_now()

    world.at(10, forget)
    world.at(12.2, lock.release)
    world.run()
    assert world.has_ended
    assert 1012.2 <= world.now <= 1012.2 + watch.LEAVING_PAUSE
