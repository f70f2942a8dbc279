"""When a network is looked at again, when to ask again, how the watcher is woken, and what it does for guards."""

import errno
import os
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest
from situations import make_record

from netconf_hooks import wake

from netconf_hooks.evidence.fingerprint import Fingerprint
from netconf_hooks.state import GuardRecord, Pass, Store, TunnelRecord, TunnelState
from netconf_hooks.system.netlink import LinkStatus, Neighbour, NetlinkError, pack_attribute
from netconf_hooks.watcher import watch
from netconf_hooks.watcher.watch import needs_retry
from tests.lab.waiting import wait_until

CHECKOUT = str(Path(__file__).parents[3])

CORP = ("openvpn", "corp")
ROUTER, MAC = "192.0.2.1", "00:16:3e:11:22:33"
OFFICE = Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER,), {ROUTER: MAC})


def change(fingerprint, **facts):
    """Return a fingerprint that differs in some facts."""
    return Fingerprint(**{name: facts.get(name, getattr(fingerprint, name)) for name in Fingerprint.__slots__})


# At first sight: by the record


def in_office(iface="eth0", index=7, routable=True, seen=None, **facts):
    """Return the record of an interface in the office."""
    stanzas = (Pass("inet", {"netconf-vpn": "openvpn corp"}),)
    return make_record(iface, index, stanzas, routable=routable, seen=seen, **facts)


@pytest.mark.parametrize("record, fingerprint, changed", [
    (in_office(), OFFICE, False),
    (in_office(), change(OFFICE, carrier=False), True),
    (in_office(), change(OFFICE, index=9), True),
    (in_office(), change(OFFICE, losses=1), True),
    (in_office().change(losses=1), change(OFFICE, losses=1), False),
    (in_office(), change(OFFICE, routers=(), macs={}), True),
    (in_office(routable=False), OFFICE, True),
    (in_office(routable=False), change(OFFICE, routers=(), macs={}), False),
    (in_office(), change(OFFICE, routers=("",), macs={}), False),
    (in_office(seen={"gateway": (ROUTER,)}), OFFICE, False),
    (in_office(seen={"gateway": ("192.0.2.9",)}), OFFICE, True),
    (in_office(seen={"gateway": (ROUTER,)}), change(OFFICE, routers=("fe80::1", ROUTER)), True),
    (in_office(seen={"gateway": (ROUTER, "fe80::1")}), change(OFFICE, routers=("fe80::1", ROUTER)), False),
])
def test_what_changed_between_the_hooks_look_and_the_watchers_first(record, fingerprint, changed):
    assert watch._has_changed(fingerprint, {}, record) is changed
    # Afterwards the fingerprint counts.
    assert watch._has_changed(fingerprint, {"eth0": fingerprint}, record) is False
    assert watch._has_changed(change(fingerprint, index=99), {"eth0": fingerprint}, record) is True


# Whether to ask again


@pytest.mark.parametrize("verdict, done, held, expected", [
    ("up", True, "", False),
    ("up", False, "", False),  # the tunnels' own times: `keeper`
    ("down", False, "", True),
    ("down", False, "held", False),
    ("down", True, "", False),
])
def test_asking_again_may_help(store, links, verdict, done, held, expected):
    store.prepare()
    store.write_tunnels({CORP: TunnelRecord(*CORP, verdict, "", done, held=held)})
    assert needs_retry(store, ()) is expected


def test_behind_a_guard_servers_names_are_resolved_again_until_the_tunnel_is_up(store, links):
    store.prepare()
    store.write_guard(GuardRecord("eth0", "nftables", done=True))
    store.write_states([TunnelState(*CORP, up_since=5.0)])
    assert not needs_retry(store, ())
    store.write_states([TunnelState(*CORP)])
    assert needs_retry(store, ())
    store.remove_guard("eth0")
    assert not needs_retry(store, ())


def test_an_undecided_link_is_asked_again_while_it_counts(store, links):
    store.prepare()
    assert not needs_retry(store, [in_office()])
    links.plug("eth0", 7)
    assert needs_retry(store, [in_office(undecided=True)])
    assert not needs_retry(store, [in_office()])
    links.plug("eth0", 7, carrier=False)
    assert not needs_retry(store, [in_office(undecided=True)])


# Waking it


@pytest.fixture
def started(store, monkeypatch):
    """How often a watcher was started."""
    started = []
    monkeypatch.setattr(wake, "start_watcher", lambda: started.append(1))
    store.prepare()
    return started


def test_a_watcher_is_started_where_none_runs_and_there_is_a_record(store, started, messages):
    wake.wake_watcher(store)
    assert started == []
    store.write_interface(in_office())
    wake.wake_watcher(store)
    assert started == [1]
    assert messages == []


def test_a_fifo_that_nobody_reads_is_a_watcher_that_died(store, started, messages):
    os.mkfifo(store.fifo)
    wake.wake_watcher(store)
    assert started == []  # no record
    store.write_interface(in_office())
    wake.wake_watcher(store)
    assert started == [1]
    assert messages == []


def test_a_watcher_that_runs_is_woken(store, started):
    store.write_interface(in_office())
    os.mkfifo(store.fifo)
    reader = os.open(store.fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        wake.wake_watcher(store)
        assert select.select([reader], [], [], 0)[0]
        assert os.read(reader, 100)
    finally:
        os.close(reader)
    assert started == []


def test_a_full_fifo_is_a_watcher_that_is_awake(store, started, messages):
    store.write_interface(in_office())
    os.mkfifo(store.fifo)
    reader = os.open(store.fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            while True:
                os.write(reader, bytes(4096))
        before = len(os.listdir("/proc/self/fd"))
        wake.wake_watcher(store)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(reader)
    assert (started, messages) == ([], [])


def test_a_fifo_that_can_not_be_opened_is_told(store, started, messages):
    os.symlink(store.fifo, store.fifo)  # ELOOP, for root as well
    wake.wake_watcher(store)
    assert started == []
    assert messages == [f"error: {store.fifo}: {os.strerror(errno.ELOOP)}: the watcher is not notified"]


# The process


WATCH = """\
import sys
sys.path[:0] = [{checkout!r}, *sys.path]
from netconf_hooks.state import Store
from netconf_hooks.system import log
from netconf_hooks.watcher import leftovers, watch

for level in ("info", "error"):
    setattr(log, level, lambda message: print(message, file=sys.stderr))

class Netlink(watch.Netlink):
    # Only with CAP_NET_ADMIN the kernel tells of changed firewall rules (netlink_allowed(), net/netlink/af_netlink.c).
    def __init__(self, groups=(), *protocol):
        super().__init__(() if watch.NETLINK_NETFILTER in protocol else groups, *protocol)

watch.Netlink = Netlink
leftovers.clear_leftovers = lambda store: None
watch._has_changed = lambda fingerprint, fingerprints, record: False
watch.needs_retry = lambda store, records: False
watch.look = lambda records: {{record.iface: watch.Fingerprint(7, True) for record in records}}

def settle(store, changes, wake, tell, retry):
    assert not wake and not retry and tell is watch.leave_events
    print("decided", flush=True)
    {during}

watch.settle = settle
watch.watch(Store({directory!r}))
"""


@pytest.fixture
def machine(tmp_path):
    """A store of an interface that is up, for real processes."""
    store = Store(str(tmp_path / "run"))
    store.prepare()
    store.write_interface(in_office())
    return store


def start_watcher(store, during="pass"):
    """Start a watcher that sees nothing of this machine's network.  during: what a child does that decides."""
    program = WATCH.format(checkout=CHECKOUT, directory=store.directory, during=during)
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def list_children(pid):
    """Return the pids of a process's children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def wait_for_sleep(process):
    """Wait until a watcher has nothing to do, and no child."""
    since = monotonic()

    def is_asleep():
        nonlocal since
        assert process.poll() is None, process.stderr.read()
        if "poll" not in Path(f"/proc/{process.pid}/wchan").read_text() or list_children(process.pid):
            since = monotonic()
        return monotonic() > since + 2 * watch.QUIET

    wait_until(is_asleep, "the watcher to sleep")


def forget(store):
    """Take the last record away as a hook does, and wake the watcher."""
    with store.lock_records():
        store.remove_interface("eth0")
    wake.wake_watcher(store)


def test_it_ends_with_the_last_record_and_leaves_nothing(machine):
    with start_watcher(machine) as process:
        wait_for_sleep(process)
        assert machine.lock_watcher().take() is False
        assert Path(machine.directory, "watch.lock").read_text() == f"{process.pid}\n"
        machine.write_states([TunnelState("openvpn", "corp", up_since=1.0)])
        forget(machine)
        assert process.wait(10) == 0
    assert not os.path.exists(machine.fifo)
    assert machine.read_states() == {}
    lock = machine.lock_watcher()
    assert lock.take()
    lock.release()


def test_without_a_record_or_beside_another_it_leaves_at_once(machine):
    with start_watcher(machine) as process:
        wait_for_sleep(process)
        with start_watcher(machine) as second:
            assert second.wait(10) == 0
        assert os.path.exists(machine.fifo)
        forget(machine)
        assert process.wait(10) == 0
    with start_watcher(machine) as process:
        assert process.wait(10) == 0


def test_after_one_that_was_killed_it_decides_afresh(machine):
    with start_watcher(machine) as killed:
        wait_for_sleep(killed)
        killed.kill()
        killed.wait()
        assert killed.stdout.read() == ""
    assert os.path.exists(machine.fifo)
    with start_watcher(machine) as process:
        wait_for_sleep(process)
        forget(machine)
        assert process.wait(10) == 0
        assert process.stdout.read() == "decided\n"


# Guards


GUARDED = """\
import os, sys
sys.path[:0] = [{checkout!r}, *sys.path]
from netconf_hooks.evidence import fingerprint
from netconf_hooks.evidence.fingerprint import Fingerprint, parse_fingerprint
from netconf_hooks.guard import firewall, lease as leases
from netconf_hooks.system import netlink
from netconf_hooks.system.netlink import Netlink

class Guard:
    name = "nftables"
    has_lease = True
    has_news = True
    def close(self, device, exemptions, windows=(), token="", ports=None):
        print("close", device, *[one.name for one in windows], flush=True)
    def renew_window(self, device, window):
        print("renew", device, window.name, flush=True)
        return not os.path.exists({directory!r} + "/shut")
    def shut_window(self, device, *names): print("shut", device, *names, flush=True)
    def find_fallen(self, devices):
        return dict.fromkeys(devices if os.path.exists({directory!r} + "/flushed") else (), "gone")
    def is_open(self, device): return True
    def list_devices(self): return os.listdir({directory!r} + "/guards")

class Kernel(Netlink):
    def get_link(self, device): return None
    def question_neighbours(self, index, addresses): print("ask", *addresses, flush=True)
    def get_sure_neighbours(self, index, addresses): return dict.fromkeys(addresses)

def read_fingerprint(device, netlink=None, outside_ports=()):
    return Fingerprint() if os.path.exists({directory!r} + "/moved") else parse_fingerprint({fingerprint!r})

firewall.load_firewall = lambda backend: Guard()
fingerprint.read_fingerprint = read_fingerprint
netlink.Netlink = Kernel
leases.RENEWAL = {renewal!r}
"""

OPENED = GuardRecord(
    "eth0", "nftables", "open", "at the office", (Pass("inet", {"netconf-guard": "unless office"}, iface="eth0"),),
    done=True, opened=True, fingerprint=str(OFFICE),
)  # fmt: skip


class Watcher:
    """A watcher of a guarded link, which sees nothing of this machine's network or firewall (context manager).

    during: what a child does that decides; before: what else is to happen in the process.
    """

    def __init__(self, store, renewal, during="pass", before=""):
        program = GUARDED + before + WATCH.partition("\n")[2].partition("\n")[2]
        self.program = program.format(
            checkout=CHECKOUT, directory=store.directory, renewal=renewal, fingerprint=str(OFFICE), during=during
        )
        self.store = store
        self.said = Path(store.directory, "said")
        self.complained = Path(store.directory, "complained")

    def __enter__(self):
        with open(self.said, "w") as said, open(self.complained, "w") as complained:
            self.process = subprocess.Popen([sys.executable, "-c", self.program], stdout=said, stderr=complained)
        wait_until(lambda: self.is_listening(), "the watcher to listen")
        return self

    def __exit__(self, *_):
        children = list_children(self.process.pid)
        self.process.kill()
        self.process.wait()
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended meanwhile

    def is_listening(self):
        """Whether it has begun."""
        assert self.process.poll() is None, self.complained.read_text()
        return os.path.exists(self.store.fifo) and "poll" in Path(f"/proc/{self.process.pid}/wchan").read_text()

    def wait_for_sleep(self):
        """Wait until it has nothing to do."""
        wait_for_sleep(self.process)

    def wake(self):
        """Tell it that something has changed."""
        assert self.process.poll() is None, self.complained.read_text()
        fifo = os.open(self.store.fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fifo, b"\n")
        os.close(fifo)

    def list_said(self):
        """What it has done, in order."""
        return self.said.read_text().splitlines()


@pytest.fixture
def guarded(machine):
    """A store of an interface that is up and open."""
    machine.write_guard(OPENED)
    return machine


EXHAUSTED = """
from netconf_hooks.system import directory, libc
def call(name, *arguments):
    if name == "inotify_init1":
        raise OSError(24, "Too many open files")
    return libc.call(name, *arguments)
directory.call = call
"""


def test_without_inotify_it_watches_all_the_same(guarded):
    """Root's programs share 128 instances (fs.inotify.max_user_instances)."""
    with Watcher(guarded, 0.2, before=EXHAUSTED) as watcher:
        watcher.wait_for_sleep()
        Path(guarded.guards, "eth0").write_text("")
        wait_until(lambda: "shut eth0 open" in watcher.list_said(), "the guard whose record is lost to be shut")
    guarded.write_guard(OPENED)
    with Watcher(guarded, 60.0, before=EXHAUSTED) as watcher:
        watcher.wait_for_sleep()
        Path(guarded.directory, "moved").touch()
        watcher.wake()
        wait_until(lambda: guarded.read_guard("eth0").verdict == "closed", "it to be shut")
    assert "can't be watched, only looked at every 60 s: Too many open files" in watcher.complained.read_text()


@pytest.mark.parametrize("error", ["KeyError(7)", "watch.NetlinkError(105)"])
def test_a_watcher_that_fails_leaves_nothing_open(guarded, error):
    """Nobody would notice that the link has moved."""
    break_down = f"""
from netconf_hooks.watcher import watch
def fail(*_):
    raise {error}
watch._concern_us = fail
class Listener(watch.Listener):
    def _drain_fifo(self):
        fail(None)
watch.Listener = Listener
"""
    with Watcher(guarded, 60.0, before=break_down) as watcher:
        watcher.wake()
        assert watcher.process.wait(20) == 1
    assert watcher.list_said() == ["shut eth0 open"]
    record = guarded.read_guard("eth0")
    assert (record.verdict, record.opened, record.because) == ("closed", False, "the watcher has failed")


@pytest.mark.thorough
def test_an_open_link_is_renewed_though_news_never_end(guarded):
    with Watcher(guarded, 1.5 * watch.BURST) as watcher:
        def is_renewed():
            watcher.wake()
            return "renew eth0 open" in watcher.list_said()

        wait_until(is_renewed, "the lease to be renewed")
    assert "shut eth0 open" not in watcher.list_said()


def test_an_open_link_is_renewed_without_news_and_shut_where_its_router_is_gone(guarded):
    with Watcher(guarded, 0.2) as watcher:
        wait_until(lambda: "renew eth0 open" in watcher.list_said(), "the lease to be renewed")
        said = watcher.list_said()
        assert said.index(f"ask {ROUTER}") < said.index("renew eth0 open")
        Path(guarded.directory, "moved").touch()
        wait_until(lambda: "decided" in watcher.list_said(), "it to be decided again")
        said = watcher.list_said()
        assert said.index("shut eth0 open") < said.index("decided")
    assert guarded.read_guard("eth0").verdict == "closed"


def test_a_window_that_somebody_has_shut_is_not_opened_by_a_renewal_but_looked_at(guarded):
    Path(guarded.directory, "shut").touch()
    with Watcher(guarded, 0.2) as watcher:
        wait_until(lambda: "decided" in watcher.list_said(), "it to be decided again")
    assert guarded.read_guard("eth0").verdict == "closed"


def test_after_one_that_was_killed_a_lease_that_may_have_ended_is_renewed_at_once(guarded):
    with Watcher(guarded, 60.0) as killed:
        killed.wait_for_sleep()
        assert killed.list_said() == []
    with Watcher(guarded, 60.0) as watcher:
        wait_until(lambda: "renew eth0 open" in watcher.list_said(), "the lease to be renewed")


def test_the_first_news_shut_what_is_on_another_network(guarded):
    with Watcher(guarded, 60.0) as watcher:
        watcher.wake()
        watcher.wait_for_sleep()
        assert watcher.list_said() == []
        Path(guarded.directory, "moved").touch()
        watcher.wake()
        wait_until(lambda: watcher.list_said()[:1] == ["shut eth0 open"], "it to be shut")


HANG = "import signal; signal.pause()"


def test_it_is_shut_while_a_child_acts_that_does_not_end(guarded):
    with Watcher(guarded, 60.0) as killed:
        killed.wait_for_sleep()  # so that the next one has something to decide
    with Watcher(guarded, 60.0, during=HANG) as watcher:
        wait_until(lambda: "decided" in watcher.list_said(), "the child to hang")
        Path(guarded.directory, "moved").touch()
        watcher.wake()
        wait_until(lambda: "shut eth0 open" in watcher.list_said(), "it to be shut")
        wait_until(lambda: guarded.read_guard("eth0").verdict == "closed", "the record to say so")


def test_it_is_shut_while_somebody_holds_the_records_and_the_record_says_so_later(guarded):
    with Watcher(guarded, 60.0) as watcher:
        watcher.wait_for_sleep()
        with guarded.lock_records():
            Path(guarded.directory, "moved").touch()
            watcher.wake()
            wait_until(lambda: watcher.list_said()[:1] == ["shut eth0 open"], "it to be shut")
            assert guarded.read_guard("eth0").opened
        wait_until(lambda: not guarded.read_guard("eth0").opened, "the record to say so")


def test_what_is_demanded_while_a_child_is_at_work_is_done_by_the_next(guarded):
    go = Path(guarded.directory, "go")
    os.mkfifo(go)
    wait = f"open({str(go)!r}).close()"  # until somebody opens it for writing, fifo(7)
    with Watcher(guarded, 60.0) as killed:
        killed.wait_for_sleep()
    with Watcher(guarded, 60.0, during=wait) as watcher:
        wait_until(lambda: "decided" in watcher.list_said(), "the child to be at work")
        Path(guarded.directory, "moved").touch()
        watcher.wake()
        wait_until(lambda: "shut eth0 open" in watcher.list_said(), "it to be shut")
        assert watcher.list_said().count("decided") == 1
        go.open("w").close()
        wait_until(lambda: watcher.list_said().count("decided") == 2, "it to be looked at again")


def test_a_guard_that_was_flushed_is_put_back_closed_and_decided_on_anew(guarded):
    with Watcher(guarded, 60.0) as watcher:
        watcher.wait_for_sleep()
        Path(guarded.directory, "flushed").touch()
        watcher.wake()
        wait_until(lambda: "decided" in watcher.list_said(), "it to be decided again")
        assert watcher.list_said()[:2] == ["close eth0", "decided"]


def test_it_stays_while_there_is_a_guard_without_an_interface(guarded):
    with Watcher(guarded, 60.0) as watcher:
        forget(guarded)
        watcher.wait_for_sleep()
        with guarded.lock_records():
            guarded.remove_guard("eth0")
        watcher.wake()
        assert watcher.process.wait(10) == 0


def test_a_guard_that_could_not_be_told_is_told_again(store, links):
    store.prepare()
    store.write_guard(OPENED)
    assert not needs_retry(store, ())
    store.write_guard(OPENED.change(done=False))
    assert needs_retry(store, ())


# Which news matter


def make_link(index, name, kind=""):
    """Return the body of an RTM_NEWLINK message."""
    info = pack_attribute(18, pack_attribute(1, kind.encode() + b"\0")) if kind else b""
    return struct.pack("=BxHiII", 0, 1, index, 0x11043, 0) + pack_attribute(3, name.encode() + b"\0") + info


def make_route(index):
    """Return the body of the message of a default route; index: of its link, 0 for none that is named."""
    ways = pack_attribute(4, struct.pack("=i", index)) if index else b""
    return struct.pack("=8BI", 2, 0, 0, 0, 254, 3, 0, 1, 0) + ways


def make_address(index):
    """Return the body of an RTM_NEWADDR message; that of a neighbour has its index at the same place."""
    return struct.pack("=BBBBi", 2, 24, 0, 0, index)


class FakeKernel:
    """Links by name; filters: what was asked for."""

    def __init__(self, **links):
        self.links = links
        self.filters = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_link(self, device):
        """As Netlink.get_link."""
        index, kind = self.links.get(device, (0, ""))
        return LinkStatus(index, device, 0, True, True, "", kind) if index else None

    def filter_networks(self, *wanted):
        """As Netlink.filter_networks."""
        self.filters.append(wanted)


def learn(store, monkeypatch, kernel, routers=()):
    """Return the interests of a watcher of eth0, and of what changes with them."""
    monkeypatch.setattr(watch, "Netlink", lambda: kernel)
    interests = watch._Interests()
    store.prepare()
    more = interests.learn(store, kernel, [in_office()], ("wlan0",), {"eth0": routers})
    assert more == ({"eth0"} if routers else set())
    return interests


OWN, SELF, NOBODY = {"devices": {"eth0"}}, {"survey": True, "devices": {"eth0"}}, {}


@pytest.mark.parametrize("kind, body, tunnels, said", [
    (16, make_link(7, "eth0"), False, SELF),
    (17, make_link(7, "eth0"), False, SELF),
    (16, make_link(9, "eth0"), False, SELF),  # it is another one
    (16, make_link(7, "lan0"), False, SELF),  # it has another name
    (16, make_link(8, "wlan0"), False, {"survey": True, "devices": {"wlan0"}}),
    (16, make_link(50, "veth1", "veth"), False, NOBODY),
    (16, make_link(50, "veth1", "veth"), True, NOBODY),
    (16, make_link(50, "tun0", "tun"), False, NOBODY),
    (16, make_link(50, "tun0", "tun"), True, {"survey": True}),
    (24, make_route(7), True, OWN),
    (25, make_route(7), False, OWN),
    (24, make_route(50), True, NOBODY),
    (24, make_route(0), False, {"devices": {"eth0", "wlan0"}}),
    (20, make_address(7), True, OWN),
    (21, make_address(7), False, OWN),
    (20, make_address(50), True, {"survey": True}),
    (28, make_address(7), True, OWN),
    (28, make_address(50), True, NOBODY),
])
def test_which_news_matter(store, monkeypatch, kind, body, tunnels, said):
    store.prepare()
    if tunnels:
        store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "", applied=True)})
    interests = learn(store, monkeypatch, FakeKernel(eth0=(7, ""), wlan0=(8, "")))
    found = interests.sort([(kind, body)])
    assert (found.survey, found.devices) == (said.get("survey", False), said.get("devices", set()))
    assert not found.everywhere


def test_of_a_link_that_is_made_of_others_all_news_of_links_matter(store, monkeypatch):
    kernel = FakeKernel(eth0=(7, "bridge"))
    interests = learn(store, monkeypatch, kernel)
    found = interests.sort([(16, make_link(50, "veth1", "veth"))])
    assert found.survey and found.devices == {"eth0", "wlan0"}
    assert kernel.filters == [(frozenset({7}), frozenset(), True)]


def test_a_renamed_link_is_known_until_its_record_is_gone(store, monkeypatch):
    """The event may be read only after the links were asked for by their names again, before another look."""
    kernel = FakeKernel(eth0=(7, ""), wlan0=(8, ""))
    interests = learn(store, monkeypatch, kernel)
    kernel.links = {"lan0": (7, ""), "wlan0": (8, "")}
    interests.learn(store, kernel, [in_office()], ("wlan0",), {})
    assert kernel.filters == [(frozenset({7, 8}), frozenset(), False)]
    found = interests.sort([(16, make_link(7, "lan0", "veth"))])
    assert found.survey and found.devices == {"eth0"}
    kernel.links = {"lan0": (7, ""), "eth0": (9, ""), "wlan0": (8, "")}
    interests.learn(store, kernel, [in_office()], ("wlan0",), {})
    assert kernel.filters[1:] == [(frozenset({8, 9}), frozenset(), False)]
    kernel.links = {}
    interests.learn(store, kernel, [], (), {})
    assert kernel.filters[2:] == [(frozenset(), frozenset(), False)]


def test_the_kernel_is_asked_for_what_matters_once(store, monkeypatch):
    kernel = FakeKernel(eth0=(7, ""), wlan0=(8, ""))
    interests = learn(store, monkeypatch, kernel, (ROUTER,))
    assert interests.learn(store, kernel, [in_office()], ("wlan0",), {"eth0": (ROUTER,)}) == set()
    assert kernel.filters == [(frozenset({7, 8}), frozenset({ROUTER}), False)]
    another = "192.0.2.9"
    assert interests.learn(store, kernel, [in_office()], ("wlan0",), {"eth0": (ROUTER, another)}) == {"eth0"}
    assert kernel.filters[1:] == [(frozenset({7, 8}), frozenset({ROUTER, another}), False)]


def test_who_is_looked_at(monkeypatch):
    """At first all; then those that are named, are new, or were decided on anew."""
    survey = watch._Survey()
    eth0, eth1 = in_office(), in_office("eth1", 8)
    assert survey.begin([eth0, eth1])[3] is None
    survey.end([f"fingerprint {iface}\\n{OFFICE}".replace("\t", "\\t") for iface in ("eth0", "eth1")], failed=False)
    assert survey.begin([eth0, eth1])[3] == set()
    survey.request(["eth1"])
    assert survey.begin([eth0, eth1])[3] == {"eth1"}
    assert survey.begin([eth0.change(), eth1, in_office("eth2", 9)])[3] == {"eth0", "eth2"}
    survey.end([], failed=True)
    assert survey.begin([eth0, eth1])[3] is None
    survey.demand("somebody asks")
    assert survey.begin([eth0, eth1])[3] is None


def test_a_survey_looks_at_the_chosen_and_at_those_that_were_never_seen(store, monkeypatch, links):
    store.prepare()
    for number, iface in enumerate(("eth0", "eth1", "eth2")):
        store.write_interface(in_office(iface, 7 + number))
    looked = []

    def look(records):
        looked.extend(record.iface for record in records)
        return {record.iface: OFFICE for record in records}

    monkeypatch.setattr(watch, "look", look)
    monkeypatch.setattr(watch, "_has_changed", lambda fingerprint, fingerprints, record: False)
    monkeypatch.setattr("netconf_hooks.watcher.leftovers.clear_leftovers", lambda store: None)
    reports = []
    watch.survey(store, {"eth0": OFFICE, "eth1": OFFICE}, "", False, reports.append, chosen={"eth1"})
    assert looked == ["eth1", "eth2"]
    looked_at = [line.split("\\n")[0] for line in reports if line.startswith("fingerprint")]
    assert looked_at == ["fingerprint eth1", "fingerprint eth2"]
    looked.clear()
    watch.survey(store, {"eth0": OFFICE, "eth1": OFFICE}, "", False, reports.append)
    assert looked == ["eth0", "eth1", "eth2"]


def test_the_listener_itself_sees_whether_a_network_is_another_one(monkeypatch):
    survey = watch._Survey()
    record = in_office()
    survey.begin([record])
    unknown = change(OFFICE, macs={})
    survey.end([f"fingerprint eth0\\n{unknown}".replace("\t", "\\t")], failed=False)
    seen = {"eth0": OFFICE}
    monkeypatch.setattr(watch, "look", lambda records: seen)
    assert survey.find_changed([record]) == []
    # What is known of it since is remembered.
    seen["eth0"] = change(OFFICE, macs={ROUTER: "00:16:3e:99:99:99"})
    assert survey.find_changed([record]) == ["eth0"]
    assert survey.find_changed([]) == []


def test_news_while_a_child_is_at_work_are_for_the_next_one(store, monkeypatch):
    """The child may have seen another network, and the cable is back where it was before: nothing looks changed."""
    listener = watch.Listener.__new__(watch.Listener)
    listener._store, listener._survey, listener._actor = store, watch._Survey(), None
    store.prepare()
    store.write_interface(in_office())
    listener._survey.begin([in_office()])
    listener._survey.end([f"fingerprint eth0\\n{OFFICE}".replace("\t", "\\t")], failed=False)
    monkeypatch.setattr(watch, "look", lambda records: {"eth0": OFFICE})
    assert listener._find_changed(["eth0"]) == []
    listener._actor = object()
    assert listener._find_changed(["eth0"]) == ["eth0"]
    assert listener._find_changed(["wlan0"]) == []


def test_what_can_not_be_seen_counts_as_changed_and_is_told(store, monkeypatch, messages):
    listener = watch.Listener.__new__(watch.Listener)
    listener._store, listener._survey, listener._actor = store, watch._Survey(), None
    store.prepare()
    store.write_interface(in_office())

    def fail(records):
        raise NetlinkError(105)

    monkeypatch.setattr(watch, "look", fail)
    assert listener._find_changed(["eth0"]) == ["eth0"]
    assert messages == [f"error: watch: {NetlinkError(105)}"]


def test_the_watcher_never_gets_a_descriptor_of_the_standard_streams(monkeypatch):
    """A hook may have started it without these: a record would be written to what a message goes to."""
    done = []
    monkeypatch.setattr(watch.log, "fill_descriptors", lambda: done.append("fill"))
    monkeypatch.setattr(watch, "run_watcher", lambda store: done.append("run") or 0)
    assert watch.main() == 0
    assert done == ["fill", "run"]


@pytest.mark.parametrize("macs, known, missed", [
    ({ROUTER: MAC}, {ROUTER: MAC}, []),
    ({ROUTER: MAC}, {}, []),
    ({ROUTER: MAC}, {ROUTER: "00:16:3e:99:99:99"}, ["eth0"]),
    ({}, {ROUTER: MAC}, ["eth0"]),
    ({}, {ROUTER: ""}, []),
])
def test_what_a_router_became_before_its_news_were_sent(monkeypatch, macs, known, missed):
    survey = watch._Survey()
    survey.begin([in_office()])
    survey.end([f"fingerprint eth0\\n{change(OFFICE, macs=macs)}".replace("\t", "\\t")], failed=False)
    kernel = FakeKernel()
    kernel.get_known_neighbours = lambda index, routers: {
        router: Neighbour(index, router, 2, known[router]) for router in routers if router in known
    }
    monkeypatch.setattr(watch, "Netlink", lambda: kernel)
    assert survey.find_missed({"eth0"}) == missed
    assert survey.find_missed({"wlan0"}) == []


def make_rule(table, chain, kind=6):
    """Return the news of a rule."""
    names = ((1, table), (2, chain))
    attributes = (pack_attribute(number, name.encode() + b"\0") for number, name in names)
    return (10 << 8 | kind, b"\1\0\0\0" + b"".join(attributes))


@pytest.mark.parametrize("table, chain, iptables, concerns", [
    ("netconf-guard", "pass-eth0", False, True),
    *(("netconf-guard", f"{window}-eth0", False, False) for window in ("probe", "open", "portal", "names", "token")),
    ("filter", "INPUT", True, False),
    ("mangle", "POSTROUTING", False, False),
    ("mangle", "POSTROUTING", True, True),
    ("mangle", "nch-eth0", True, True),
    ("mangle", "nchw-open-eth0", True, False),
    ("mangle", "ncht-eth0", True, False),
])
def test_which_rules_guards_stand_on(table, chain, iptables, concerns):
    assert watch._concerns_us(make_rule(table, chain), iptables) is concerns


@pytest.mark.parametrize("kind, concerns", [
    (3, True), (4, True), (5, True),  # chains, NFT_MSG_NEWCHAIN, DELCHAIN: the window's chain itself is gone
    (9, True), (11, True),  # sets, NEWSET, DELSET
    (6, False), (8, False), (12, False), (14, False),  # rules and elements, NEWRULE, DELRULE, NEWSETELEM, DELSETELEM
])
def test_only_the_content_of_windows_changes_all_the_time(kind, concerns):
    assert watch._concerns_us(make_rule("netconf-guard", "open-eth0", kind), False) is concerns
    assert watch._concerns_us(make_rule("netconf-guard", "pass-eth0", kind), False)


def test_a_table_that_is_gone_concerns_guards():
    body = b"\1\0\0\0" + pack_attribute(1, b"netconf-guard\0")
    assert watch._concerns_us((10 << 8 | 2, body), False)  # NFT_MSG_DELTABLE


# The command


def test_only_root_may_watch(store, monkeypatch, capfd):
    monkeypatch.setattr(watch.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(watch, "watch", lambda store: pytest.fail("it watches"))
    assert watch.run_watcher(store) == 1
    assert "only root may do this" in capfd.readouterr().err


@pytest.mark.parametrize("problem", [None, watch.NetlinkError(105), OSError(28, "No space left on device")])
def test_the_exit_status_tells_systemd_whether_to_start_it_again(store, monkeypatch, messages, problem):
    def run(store):
        if problem:
            raise problem

    monkeypatch.setattr(watch.os, "geteuid", lambda: 0)
    monkeypatch.setattr(watch, "watch", run)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    assert watch.run_watcher(store) == (1 if problem else 0)
    wanted = [f"error: watch: {problem}; only hooks and refresh notice changes now"] if problem else []
    assert messages == wanted
    assert sys.excepthook is watch._log_crash


def test_the_command_has_this_exit_status(monkeypatch):
    monkeypatch.setattr(watch, "run_watcher", lambda store: 7 if isinstance(store, Store) else 0)
    monkeypatch.setattr(watch.log, "fill_descriptors", lambda: None)
    assert watch.main() == 7


def test_a_crash_is_logged_and_ends_it_with_a_status_of_its_own(monkeypatch, messages):
    monkeypatch.setattr(watch.os, "_exit", lambda status: messages.append(f"exit {status}"))
    error = KeyError("seven")
    watch._log_crash(KeyError, error, None)
    assert messages == ["error: watch: KeyError: 'seven'\n", "exit 70"]
    monkeypatch.setattr(sys, "__excepthook__", lambda kind, *_: messages.append(kind.__name__))
    watch._log_crash(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert messages[2:] == ["KeyboardInterrupt"]
