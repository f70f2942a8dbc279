"""Whether a network is still the same one, when to ask again, and how the watcher is woken."""

import errno
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks import apply, watch
from netconf_hooks.observe.wireless import WirelessNetwork
from netconf_hooks.state import Finding, InterfaceRecord, Stanza, Store, TunnelRecord
from netconf_hooks.tunnels import TunnelError
from netconf_hooks.watch import View, is_open
from tests.lab.waiting import wait_until

CHECKOUT = str(Path(__file__).parents[2])

ROUTER, MAC, OTHER_MAC = "192.0.2.1", "00:16:3e:11:22:33", "00:16:3e:11:22:34"
OFFICE = View(7, True, ("192.0.2.5",), (ROUTER,), {ROUTER: MAC})

routers = st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "fe80::1", ""]), unique=True, max_size=3).map(tuple)
macs = st.dictionaries(
    st.sampled_from(["192.0.2.1", "192.0.2.2", "fe80::1"]), st.sampled_from([MAC, OTHER_MAC]), max_size=3
)  # fmt: skip
addresses = st.sampled_from([(), ("192.0.2.5",)])


def change(view, **facts):
    """Return a view that differs in some facts."""
    return View(**{name: facts.get(name, getattr(view, name)) for name in View.__slots__})


def make_possible(view):
    """Return a view that knows MAC addresses of its routers only."""
    return change(view, macs={router: mac for router, mac in view.macs.items() if router in view.routers})


views = st.builds(View, st.integers(0, 2), st.booleans(), addresses, routers, macs).map(make_possible)


# The same network


@pytest.mark.parametrize("facts", [
    {"index": 8},
    {"carrier": False},
    {"addresses": ("192.0.2.6",)},
    {"addresses": ()},
    {"routers": ("192.0.2.2",)},
    {"routers": ()},
    {"routers": (ROUTER, "fe80::1")},
    {"macs": {ROUTER: OTHER_MAC}},
    {"wireless": WirelessNetwork("office", (MAC,), True)},
])
def test_another_network(facts):
    assert not change(OFFICE, **facts).is_like(OFFICE)
    assert not OFFICE.is_like(change(OFFICE, **facts))


def test_a_router_that_is_not_known_at_the_moment_is_the_same_one():
    forgotten = change(OFFICE, macs={})
    assert forgotten.is_like(OFFICE) and OFFICE.is_like(forgotten)


@given(views, views)
def test_likeness_is_mutual(one, other):
    assert one.is_like(one)
    assert one.is_like(other) == other.is_like(one)


@given(views, views)
def test_what_was_known_of_the_same_routers_stays_known(view, before):
    merged = watch._merge(view, before)
    assert merged.is_like(view)
    assert set(merged.macs) <= set(view.routers)
    for router in view.routers:
        assert merged.macs.get(router) == view.macs.get(router, before.macs.get(router))
    assert watch._merge(view, None) == view


def test_a_mac_forgotten_and_learnt_anew_is_compared_with_the_old_one():
    seen = watch._merge(change(OFFICE, macs={}), OFFICE)
    assert OFFICE.is_like(seen)
    assert not change(OFFICE, macs={ROUTER: OTHER_MAC}).is_like(seen)


# At first sight: by the record


def make_record(iface="eth0", index=7, routable=True, seen=(), **facts):
    """Return the record of an interface in the office."""
    stanzas = (Stanza("inet", {"netconf-vpn": "openvpn corp"}),)
    return InterfaceRecord(iface, index, stanzas, routable=routable, seen=seen, **facts)


@pytest.mark.parametrize("record, view, changed", [
    (make_record(), OFFICE, False),
    (make_record(), change(OFFICE, carrier=False), True),
    (make_record(), change(OFFICE, index=9), True),
    (make_record(), change(OFFICE, routers=(), macs={}), True),
    (make_record(routable=False), OFFICE, True),
    (make_record(routable=False), change(OFFICE, routers=(), macs={}), False),
    (make_record(), change(OFFICE, routers=("",), macs={}), False),
    (make_record(seen=(Finding("gateway", (ROUTER,)),)), OFFICE, False),
    (make_record(seen=(Finding("gateway", ("192.0.2.9",)),)), OFFICE, True),
    (make_record(seen=(Finding("gateway", (ROUTER,)),)), change(OFFICE, routers=("fe80::1", ROUTER)), True),
    (make_record(seen=(Finding("gateway", (ROUTER, "fe80::1")),)), change(OFFICE, routers=("fe80::1", ROUTER)), False),
])
def test_what_changed_between_the_hooks_look_and_the_watchers_first(record, view, changed):
    assert watch._has_changed(view, {}, record) is changed
    # Afterwards the view counts.
    assert watch._has_changed(view, {"eth0": view}, record) is False
    assert watch._has_changed(change(view, index=99), {"eth0": view}, record) is True


# Whether to ask again


@pytest.fixture
def up(tunnels, monkeypatch):
    """Whether the tunnel is connected, as its kind says."""
    answers = {"is_up": True}

    def say(self):
        if isinstance(answers["is_up"], TunnelError):
            raise answers["is_up"]
        return answers["is_up"]

    tunnel = type(tunnels.load("openvpn", "corp"))
    monkeypatch.setattr(tunnel, "is_up", say, raising=False)
    monkeypatch.setattr(watch, "load_tunnel", tunnels.load)
    return answers


@pytest.mark.parametrize("verdict, done, is_up, expected", [
    ("up", True, True, False),
    ("up", True, False, True),
    ("up", True, None, False),
    ("up", True, TunnelError("no configuration"), True),
    ("up", False, True, True),
    ("down", False, False, True),
    ("down", True, True, False),
])
def test_asking_again_may_help(store, links, up, verdict, done, is_up, expected):
    store.prepare()
    store.write_tunnels({("openvpn", "corp"): TunnelRecord("openvpn", "corp", verdict, "", done)})
    up["is_up"] = is_up
    assert is_open(store, ()) is expected


def test_an_undecided_link_is_asked_again_while_it_counts(store, links):
    store.prepare()
    assert not is_open(store, [make_record()])
    links.plug("eth0", 7)
    assert is_open(store, [make_record(undecided=True)])
    assert not is_open(store, [make_record()])
    links.plug("eth0", 7, carrier=False)
    assert not is_open(store, [make_record(undecided=True)])


# Waking it


@pytest.fixture
def started(store, monkeypatch):
    """How often a watcher was started."""
    started = []
    monkeypatch.setattr(apply, "_start_watcher", lambda: started.append(1))
    store.prepare()
    return started


def test_a_watcher_is_started_where_none_runs_and_there_is_a_record(store, started, messages):
    apply.wake_watcher(store)
    assert started == []
    store.write_interface(make_record())
    apply.wake_watcher(store)
    assert started == [1]
    assert messages == []


def test_a_fifo_that_nobody_reads_is_a_watcher_that_died(store, started, messages):
    os.mkfifo(store.fifo)
    apply.wake_watcher(store)
    assert started == []  # no record
    store.write_interface(make_record())
    apply.wake_watcher(store)
    assert started == [1]
    assert messages == []


def test_a_watcher_that_runs_is_woken(store, started):
    store.write_interface(make_record())
    os.mkfifo(store.fifo)
    reader = os.open(store.fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        apply.wake_watcher(store)
        assert select.select([reader], [], [], 0)[0]
        assert os.read(reader, 100)
    finally:
        os.close(reader)
    assert started == []


def test_a_full_fifo_is_a_watcher_that_is_awake(store, started, messages):
    store.write_interface(make_record())
    os.mkfifo(store.fifo)
    reader = os.open(store.fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            while True:
                os.write(reader, bytes(4096))
        before = len(os.listdir("/proc/self/fd"))
        apply.wake_watcher(store)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(reader)
    assert (started, messages) == ([], [])


def test_a_fifo_that_can_not_be_opened_is_told(store, started, messages):
    os.symlink(store.fifo, store.fifo)  # ELOOP, for root as well
    apply.wake_watcher(store)
    assert started == []
    assert messages == [f"error: {store.fifo}: {os.strerror(errno.ELOOP)}: the watcher is not told"]


# The process


WATCH = """\
import sys
sys.path[:0] = [{checkout!r}, *sys.path]
from netconf_hooks import apply, log, watch
from netconf_hooks.state import Store

for level in ("info", "error"):
    setattr(log, level, lambda message: print(message, file=sys.stderr))
watch.look = lambda records: {{}}
watch._has_changed = lambda view, views, record: False
watch.is_open = lambda store, records: False
watch._refresh = lambda store, records: print("decided", flush=True)
watch.look = lambda records: {{record.iface: watch.View(7, True, (), (), {{}}) for record in records}}
watch.watch(Store({directory!r}))
"""


@pytest.fixture
def machine(tmp_path):
    """A store of an interface that is up, for real processes."""
    store = Store(str(tmp_path / "run"))
    store.prepare()
    store.write_interface(make_record())
    return store


def start_watcher(store):
    """Start a watcher that sees nothing of this machine's network."""
    program = WATCH.format(checkout=CHECKOUT, directory=store.directory)
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def wait_for_sleep(process):
    """Wait until a process sleeps in poll(2)."""
    def is_asleep():
        assert process.poll() is None, process.stderr.read()
        return "poll" in Path(f"/proc/{process.pid}/wchan").read_text()

    wait_until(is_asleep, "the watcher to sleep")


def forget(store):
    """Take the last record away as a hook does, and wake the watcher."""
    with store.lock_records():
        store.remove_interface("eth0")
    apply.wake_watcher(store)


def test_it_ends_with_the_last_record_and_leaves_nothing(machine):
    with start_watcher(machine) as process:
        wait_for_sleep(process)
        assert machine.lock_watcher().take() is False
        assert Path(machine.directory, "watch.lock").read_text() == f"{process.pid}\n"
        forget(machine)
        assert process.wait(10) == 0
    assert not os.path.exists(machine.fifo)
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
