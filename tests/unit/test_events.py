"""Edges and their order, which scripts run, and that each event is told once, by whoever comes first."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import Presence, Situation, make_record

from netconf_hooks import events, settle
from netconf_hooks.decide import Edge, INET, Known, decide, decide_presences, list_edges
from netconf_hooks.events import list_scripts, tell_event, tell_events
from netconf_hooks.observation import PortalNotice
from netconf_hooks.settle import Change
from netconf_hooks.state import EventRecord, Pass, PresenceRecord, Store
from netconf_hooks.system import ownership
from netconf_hooks.system.systemd import Systemd
from tests.lab.waiting import wait_until

CHECKOUT = str(Path(__file__).parents[2])

places = st.sampled_from(["", "home", "office", "cafe"])
# What may become of an interface in one step: it is down (None), or a location, whether undecided, whether routable.
states = st.none() | st.tuples(places, st.booleans(), st.booleans())
histories = st.lists(st.fixed_dictionaries({"eth0": states, "wlan0": states}), min_size=1, max_size=8)


def describe(network):
    """Return the situations of a machine whose interfaces are in these states."""
    return [
        Situation(iface, (), location=state[0], undecided=state[1], routable=state[2])
        for iface, state in network.items()
        if state
    ]


# Where the machine is


def test_an_undecided_interface_stays_where_it_was_and_arrives_nowhere():
    office = [Presence("office", ("eth0",))]
    undecided = Situation("eth0", (), location="home", undecided=True, routable=False)
    assert decide_presences([undecided], office) == (Presence("office", ("eth0",)),)
    assert decide_presences([undecided], []) == ()
    assert decide_presences([undecided], [Presence("office", ("wlan0",))]) == ()
    assert decide_presences([Situation("eth0", (), routable=False)], office) == ()


def test_an_undecided_interface_has_its_default_route_all_the_same():
    assert decide_presences([Situation("eth0", (), undecided=True)], []) == (Presence(INET, ("eth0",)),)
    assert decide_presences([Situation("eth0", (), undecided=True, routable=False)], [Presence(INET, ("eth0",))]) == ()


def test_a_wish_is_nowhere():
    assert decide_presences([Situation("corp", (), wish=True)], [Presence("office", ("corp",))]) == ()


def test_who_says_so_is_remembered_in_order():
    both = [Situation("eth0", (), location="office"), Situation("wlan0", (), location="office", routable=False)]
    assert decide_presences(both, []) == (Presence("office", ("eth0", "wlan0")), Presence(INET, ("eth0",)))


# A captive portal


MAC, OTHER_MAC = "52:54:00:0a:00:01", "52:54:00:0a:00:02"


def announce(uri="https://portal.example/", macs=(MAC,), location="hotel", index=7, **facts):
    """Return eth0 in a network that announces a captive portal."""
    record = make_record("eth0", index, location=location, routable=True, **facts)
    portal = PortalNotice((uri,) if uri else (), "", macs if uri else ())
    return record.change(observation=record.observation.change(portal=portal))


def follow(*looks):
    """Return the events of each look."""
    presences = ()
    for records in looks:
        decision = decide(records, Known({}, presences=presences))
        presences = decision.presences
        yield [event.name for event in decision.events]


def test_a_portal_is_found_between_the_location_and_the_internet():
    assert list(follow([announce()], [])) == [
        ["hotel-connected", "portal-found", "inet-connected"], ["inet-disconnected", "hotel-disconnected"],
    ]  # fmt: skip


def test_a_portal_is_found_once_in_a_network():
    same = [announce()], [announce("https://portal.example/?session=2")], [announce("")], [announce()]
    unsure = [announce(macs=())], [announce()], [announce(macs=(MAC, OTHER_MAC))]
    found = list(follow(*same, *unsure))
    assert [("portal-found" in names) for names in found] == [True, *[False] * 6]


def test_a_portal_that_was_found_before_its_routers_were_known_is_not_found_again():
    assert list(follow([announce(macs=())], [announce()]))[1] == []


@pytest.mark.parametrize("there", [
    announce(macs=(OTHER_MAC,)), announce(index=8),
], ids=["another router", "another device"])  # fmt: skip
def test_in_another_network_it_is_found_again(there):
    assert list(follow([announce()], [there]))[1] == ["portal-found"]
    assert list(follow([announce()], [], [announce()]))[2] == ["hotel-connected", "portal-found", "inet-connected"]


def test_the_scripts_are_told_the_address_and_no_target_is_switched(monkeypatch):
    (event,) = [each for each in decide([announce()], Known({})).events if each.name == "portal-found"]
    assert event.variables["NETCONF_PORTAL"] == "https://portal.example/"
    assert (event.variables["NETCONF_LOCATION"], event.variables["IFACE"]) == ("hotel", "eth0")
    asked = []
    systemd = SimpleNamespace(is_running=lambda: True, start=asked.append, stop=asked.append)
    tell_event(event, "/nowhere", systemd)
    assert asked == []


def test_a_location_may_be_called_portal(tmp_path):
    assert list(follow([announce(location="portal")])) == [["portal-connected", "portal-found", "inet-connected"]]
    store = Store(str(tmp_path))
    presences = decide([announce()], Known({})).presences
    store.write_presences(presences)
    assert store.read_presences() == presences


# Edges


def test_arriving_and_leaving_nest():
    office = (Presence("office", ("eth0", "wlan0")), Presence(INET, ("eth0", "wlan0")))
    assert list_edges((), office) == (Edge("office", True, "eth0"), Edge(INET, True, "eth0"))
    assert list_edges(office, ()) == (Edge(INET, False, "wlan0"), Edge("office", False, "wlan0"))
    assert list_edges((), office[::-1]) == (Edge("office", True, "eth0"), Edge(INET, True, "eth0"))
    home = (Presence("home", ("eth0",)), Presence(INET, ("eth0",)))
    assert list_edges(office, home) == (Edge("office", False, "wlan0"), Edge("home", True, "eth0"))
    assert list_edges(office[::-1], ()) == (Edge(INET, False, "wlan0"), Edge("office", False, "wlan0"))


@given(histories)
def test_whatever_happens_events_are_edges_and_nest(history):
    before = ()
    connected = []
    for network in history:
        after = decide_presences(describe(network), before)
        edges = list_edges(before, after)
        for number, edge in enumerate(edges):
            assert edge.connected == (edge.name not in connected)
            (connected.append if edge.connected else connected.remove)(edge.name)
            # inet is told of when all locations of that moment are: it ends first and begins last.
            if edge.name == INET:
                assert number == (len(edges) - 1 if edge.connected else 0)
        kinds = [edge.connected for edge in edges]
        assert kinds == sorted(kinds)  # what ends, ends before something begins
        assert sorted(connected) == sorted(presence.name for presence in after)
        assert all(presence.ifaces for presence in after)
        ifaces = {iface for iface, state in network.items() if state}
        assert {iface for presence in after for iface in presence.ifaces} <= ifaces
        before = after


# What is queued


def arrive(store, iface="eth0", location="office", seen=None, **facts):
    """Write a record and decide."""
    stanzas = (Pass("inet", {"netconf-location": f"{location or 'office'} gateway=192.0.2.1"}, "roaming"),)
    record = make_record(iface, 7, stanzas, location=location, routable=True, seen=seen, **facts)
    store.prepare()
    return settle.remember(store, Change(iface, record))


@pytest.fixture
def queue(store, links):
    """A store whose events nobody tells yet."""
    links.plug("eth0", 7)
    links.plug("wlan0", 7)
    return store


def test_what_was_seen_is_told_and_told_again_at_the_end(queue):
    seen = {"gateway-mac": ("00:16:3e:11:22:33",), "dns-domain": ("a.example", "b.example")}
    assert arrive(queue, seen=seen)
    variables = {
        "IFACE": "eth0",
        "LOGICAL": "roaming",
        "NETCONF_LOCATION": "office",
        "NETCONF_GATEWAY_MAC": "00:16:3e:11:22:33",
        "NETCONF_DNS_DOMAIN": "a.example b.example",
    }
    assert queue.read_events() == (
        EventRecord("office-connected", {**variables, "NETCONF_EVENT": "office-connected"}),
        EventRecord("inet-connected", {**variables, "NETCONF_EVENT": "inet-connected"}),
    )
    queue.write_events(())
    arrive(queue, "wlan0")
    settle.remember(queue, Change("eth0"))
    assert queue.read_events() == ()
    settle.remember(queue, Change("wlan0"))
    assert queue.read_events() == (
        EventRecord("inet-disconnected", {**variables, "IFACE": "wlan0", "NETCONF_EVENT": "inet-disconnected"}),
        EventRecord("office-disconnected", {**variables, "IFACE": "wlan0", "NETCONF_EVENT": "office-disconnected"}),
    )


def test_what_is_not_told_yet_stays_in_front(queue):
    arrive(queue)
    settle.remember(queue, Change("eth0"))
    names = [event.name for event in queue.read_events()]
    assert names == ["office-connected", "inet-connected", "inet-disconnected", "office-disconnected"]


def test_an_undecided_interface_names_no_location(queue):
    arrive(queue, location="home", undecided=True)
    (event,) = queue.read_events()
    assert (event.name, event.variables["NETCONF_LOCATION"]) == ("inet-connected", "")


def test_presences_that_can_not_be_read_are_told_anew(queue, messages):
    arrive(queue)
    queue.write_events(())
    Path(queue.presences).write_text("nonsense\n")
    arrive(queue)
    assert [event.name for event in queue.read_events()] == ["office-connected", "inet-connected"]
    assert any("every location counts as new" in message for message in messages)


# Which scripts run


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A directory for scripts that is as it should be; those above it, which are this machine's, count as such."""
    real = ownership.check_owner
    above = {str(path) for path in (tmp_path, *tmp_path.parents)}
    monkeypatch.setattr(ownership, "check_owner", lambda path: None if path in above else real(path))
    directory = tmp_path / "event.d"
    directory.mkdir(mode=0o755)
    return directory


def write(directory, name, mode=0o755, body="echo"):
    """Write a script."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(mode)
    return path


@pytest.fixture(autouse=True)
def owners(monkeypatch):
    """The uids of files, by path: all files are root's but those in here, whoever runs the tests."""
    owners = {}

    def stat(path):
        status = list(os.stat(path))
        status[4] = owners.get(str(path), 0)
        return os.stat_result(status)

    monkeypatch.setattr(ownership, "os", SimpleNamespace(**{**vars(os), "stat": stat}))
    return owners


def run_parts(directory):
    """Return what run-parts(8) itself would run."""
    return subprocess.run(
        ["run-parts", "--test", directory], check=True, capture_output=True, text=True
    ).stdout.splitlines()  # fmt: skip


def test_what_run_parts_would_run(directory, messages):
    for name in ("b", "10-a", "A_b-3", "script.sh", "old~", "x.dpkg-old", ".hidden", "with space", "ä", "#x#", "y,v"):
        write(directory, name)
    write(directory, "not-executable", 0o644)
    (directory / "directory").mkdir()
    (directory / "dangling").symlink_to("nowhere")
    (directory / "link").symlink_to("b")
    assert list_scripts(str(directory)) == run_parts(directory) == [
        f"{directory}/{name}" for name in ("10-a", "A_b-3", "b", "link")
    ]
    assert messages == []


def test_only_scripts_that_are_roots_alone(directory, tmp_path, messages, owners):
    write(directory, "fine")
    write(directory, "group-writes", 0o775)
    write(directory, "others-write", 0o757)
    owners[str(write(directory, "somebodys"))] = 65534
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (directory / "linked").symlink_to(write(elsewhere, "target"))
    elsewhere.chmod(0o777)
    safe = tmp_path / "safe"
    safe.mkdir(mode=0o755)
    (directory / "linked-too").symlink_to(write(safe, "target-2", 0o777))
    assert list_scripts(str(directory)) == [f"{directory}/fine"]
    told = "\n".join(messages)
    for complaint in (
        f"group-writes: others than root can write it (mode 775): {directory}/group-writes is not run",
        f"others-write: others than root can write it (mode 757): {directory}/others-write is not run",
        f"somebodys: belongs to uid 65534, not to root: {directory}/somebodys is not run",
        f"{elsewhere}: others than root can write it (mode 777): {directory}/linked is not run",
        f"{safe}/target-2: others than root can write it (mode 777): {directory}/linked-too is not run",
    ):
        assert complaint in told


@pytest.mark.parametrize("mode, uid", [(0o775, 0), (0o755, 65534)])
def test_nothing_runs_from_a_directory_that_others_can_write(directory, messages, owners, mode, uid):
    write(directory, "fine")
    directory.chmod(mode)
    owners[str(directory)] = uid
    assert list_scripts(str(directory)) == []
    assert messages[-1].startswith(f"error: {directory}: ") and messages[-1].endswith(": no event script is run")


def test_no_directory_is_no_error(tmp_path, messages):
    assert list_scripts(str(tmp_path / "nowhere")) == []
    assert messages == []
    (tmp_path / "file").write_text("")
    assert list_scripts(str(tmp_path / "file")) == []
    assert "Not a directory: no event script is run" in messages[0]


# Telling


@pytest.fixture
def no_systemd(tmp_path):
    """A machine without systemd, whatever runs on this one."""
    return Systemd(booted=str(tmp_path / "nowhere"))


EVENT = EventRecord(
    "office-connected", {"IFACE": "eth0", "NETCONF_EVENT": "office-connected", "NETCONF_LOCATION": "office"}
)  # fmt: skip


def test_what_a_script_gets(directory, tmp_path, messages, no_systemd, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD_OF_WHO_CALLED_IFUP", "x")
    body = f'echo "$#" "$1" >{tmp_path}/told; env >>{tmp_path}/told; pwd >>{tmp_path}/told; cat >>{tmp_path}/told'
    write(directory, "tell", body=body)
    tell_event(EVENT, str(directory), no_systemd)
    first, *environment, cwd = (tmp_path / "told").read_text().splitlines()
    assert first == "1 office-connected"
    assert {"IFACE=eth0", "NETCONF_EVENT=office-connected", "NETCONF_LOCATION=office", "LC_ALL=C"} <= set(environment)
    names = {line.partition("=")[0] for line in environment}
    assert names <= {*EVENT.variables, "PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"}
    assert cwd == "/"


def test_a_script_that_fails_or_takes_too_long_stops_nothing(directory, tmp_path, messages, no_systemd, monkeypatch):
    monkeypatch.setattr(events, "TIMEOUT", 1.0)  # enough for a script that does nothing, also on a busy machine
    write(directory, "10-fails", body="echo said; exit 3")
    write(directory, "20-hangs", body="exec tail -f /dev/null")
    write(directory, "30-no-program").write_text("#!/nonexistent/interpreter\n")
    write(directory, "40-runs", body=f": >{tmp_path}/ran")
    tell_event(EVENT, str(directory), no_systemd)
    assert (tmp_path / "ran").exists()
    told = "\n".join(messages)
    assert f"info: {directory}/10-fails: said" in told
    assert f"error: event office-connected: {directory}/10-fails: exit status 3" in told
    assert f"error: event office-connected: {directory}/20-hangs office-connected: not done after 1 s, killed" in told
    assert f"error: event office-connected: {directory}/30-no-program: no such program" in told


def add(store, *names):
    """Queue events."""
    with store.lock_records():
        store.write_events((*store.read_events(), *(EventRecord(name, {"IFACE": "eth0"}) for name in names)))


@pytest.fixture
def told(monkeypatch):
    """What is told, and what happens meanwhile."""
    class Told(list):
        meanwhile = {}

        def tell(self, event, directory, systemd):
            self.append(event.name)
            self.meanwhile.pop(event.name, lambda: None)()

    told = Told()
    monkeypatch.setattr(events, "tell_event", told.tell)
    return told


@pytest.fixture
def quiet_store(tmp_path, messages):
    """A store, and nothing around it."""
    store = Store(str(tmp_path / "run"))
    store.prepare()
    return store


def test_all_events_are_told_in_order_and_forgotten(quiet_store, told):
    add(quiet_store, "a-connected", "b-connected")
    tell_events(quiet_store)
    assert told == ["a-connected", "b-connected"]
    assert quiet_store.read_events() == ()
    tell_events(quiet_store)
    assert len(told) == 2


def test_what_a_script_causes_is_told_after_it_by_who_told_it(quiet_store, told):
    def cause():
        add(quiet_store, "c-connected")
        tell_events(quiet_store)  # as the nested ifup does: it returns at once
        assert told == ["a-connected"]

    told.meanwhile["a-connected"] = cause
    add(quiet_store, "a-connected", "b-connected")
    tell_events(quiet_store)
    assert told == ["a-connected", "b-connected", "c-connected"]


def test_an_event_whose_telling_was_cut_off_is_told_again(quiet_store, told):
    class Cut(BaseException):
        pass

    def cut():
        raise Cut

    told.meanwhile["a-connected"] = cut
    add(quiet_store, "a-connected", "b-connected")
    with pytest.raises(Cut):
        tell_events(quiet_store)
    assert [event.name for event in quiet_store.read_events()] == ["a-connected", "b-connected"]
    tell_events(quiet_store)
    assert told == ["a-connected", "a-connected", "b-connected"]


def test_events_added_at_any_moment_are_told_once(quiet_store, told):
    """Whoever adds one either tells it or leaves it to who is at it: none is lost, none told twice."""
    names = [f"{number}-connected" for number in range(200)]

    def add_and_tell(share):
        for name in share:
            add(quiet_store, name)
            tell_events(quiet_store)

    threads = [threading.Thread(target=add_and_tell, args=(names[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == sorted(names)
    assert quiet_store.read_events() == ()


TELL = """\
import sys
sys.path[:0] = [{checkout!r}, *sys.path]
from netconf_hooks import events
from netconf_hooks.state import Store

def tell(event, directory, systemd):
    print(event.name, flush=True)
    if event.name == "b-connected" and {hang}:
        import signal
        signal.pause()

events.tell_event = tell
events.tell_events(Store({directory!r}))
"""


def start_teller(store, hang):
    program = TELL.format(checkout=CHECKOUT, directory=store.directory, hang=hang)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_a_killed_teller_leaves_its_event_to_the_next(quiet_store):
    add(quiet_store, "a-connected", "b-connected", "c-connected")
    with start_teller(quiet_store, hang=True) as killed:
        assert killed.stdout.readline() == "a-connected\n"
        assert killed.stdout.readline() == "b-connected\n"
        wait_until(lambda: [event.name[0] for event in quiet_store.read_events()] == ["b", "c"], "a to be forgotten")
        # While it lives, another one leaves it to it.
        with start_teller(quiet_store, hang=False) as other:
            assert other.stdout.read() == ""
        killed.send_signal(signal.SIGKILL)
    with start_teller(quiet_store, hang=False) as other:
        assert other.stdout.read() == "b-connected\nc-connected\n"
    assert quiet_store.read_events() == ()


def test_a_queue_that_can_not_be_read_is_reported_and_replaced(quiet_store, told, messages):
    Path(quiet_store.events).write_text("nonsense\n")
    tell_events(quiet_store)
    assert told == []
    assert any("the events in it are lost" in message for message in messages)
    add_after = (EventRecord("a-connected", {"IFACE": "eth0"}),)
    quiet_store.write_events(add_after)
    tell_events(quiet_store)
    assert told == ["a-connected"]


# The location's target


class FakeSystemd:
    """Takes down what is asked of systemd."""

    def __init__(self, running=True):
        self.running = running
        self.asked = []

    def is_running(self):
        return self.running

    def start(self, unit):
        self.asked.append(f"start {unit}")

    def stop(self, units):
        self.asked += [f"stop {unit}" for unit in units]


@pytest.mark.parametrize("event, asked", [
    ("office-lan-connected", ["start netconf-location@office-lan.target"]),
    ("office-lan-disconnected", ["stop netconf-location@office-lan.target"]),
    ("inet-connected", []),
    ("inet-disconnected", []),
])
def test_the_target_follows_its_location(tmp_path, messages, event, asked):
    systemd = FakeSystemd()
    tell_event(EventRecord(event, {"IFACE": "eth0"}), str(tmp_path / "nowhere"), systemd)
    assert systemd.asked == asked


def test_without_systemd_there_is_no_target(tmp_path, messages):
    systemd = FakeSystemd(running=False)
    tell_event(EVENT, str(tmp_path / "nowhere"), systemd)
    assert systemd.asked == []


# What was announced


def test_presences_come_back_with_their_interfaces(quiet_store):
    office = PresenceRecord("office", ("eth0", "wlan0"), {"IFACE": "eth0", "X": ""})
    presences = (office, PresenceRecord("inet", ("a",), {}))
    quiet_store.write_presences(presences)
    assert quiet_store.read_presences() == presences
    quiet_store.write_presences(())
    assert not os.path.exists(quiet_store.presences)
