"""What the watcher's child does about tunnels that should be up."""

import pytest

from netconf_hooks.tunnels import supervision

from netconf_hooks.state import GuardRecord, TunnelRecord
from netconf_hooks.tunnels import Condition, TunnelError, TunnelSilent
from netconf_hooks.tunnels.supervision import NUDGE, RESTART
from netconf_hooks.watcher import keeper
from netconf_hooks.watcher.keeper import START_TIME

CORP = ("openvpn", "corp")


class NoSystemd:
    def is_running(self):
        return False


class Machine:
    """A machine with one tunnel that should be up, and a clock."""

    def __init__(self, store, tunnels):
        self.store = store
        self.tunnels = tunnels
        self.now = 1000.0
        self.condition = Condition(True, True)
        self.received = None

    def keep(self, after=0.0, news=False, systemd=None, started=()):
        """Let the watcher's child look, so many seconds later."""
        self.now += after
        return keeper.keep_up(self.store, news, True, systemd or NoSystemd(), started)

    def inspect(self):
        if isinstance(self.condition, TunnelError):
            raise self.condition
        return self.condition


@pytest.fixture
def machine(store, tunnels, monkeypatch):
    machine = Machine(store, tunnels)
    tunnel = type(tunnels.load(*CORP))
    monkeypatch.setattr(keeper, "load_tunnel", tunnels.load)
    monkeypatch.setattr(keeper, "boot_time", lambda: machine.now)
    for name in ("nudge", "restart"):
        def ask(self, name=name):
            self.tunnels.ask(f"{name} {self.name}")
            return "told to connect again"

        monkeypatch.setattr(tunnel, name, ask, raising=False)
    monkeypatch.setattr(tunnel, "inspect", lambda self: machine.inspect(), raising=False)
    monkeypatch.setattr(tunnel, "count_received", lambda self: machine.received, raising=False)
    store.prepare()
    decide(store, "up")
    return machine


def decide(store, verdict, applied=True, **fields):
    """Write down a decision."""
    store.write_tunnels({CORP: TunnelRecord(*CORP, verdict, "wanted", applied, **fields)})


def state(store):
    """Return what is known of the tunnel."""
    return store.read_states()[CORP]


def test_one_that_is_up_is_listened_to(machine, tunnels, monkeypatch):
    monkeypatch.setattr(keeper, "read_start", lambda pid: "77")
    machine.condition = Condition(True, True, pid=9)
    hearing = machine.keep()
    assert (hearing.pids, hearing.associations, hearing.pause) == (((9, "77"),), False, None)
    assert tunnels.asked == []
    assert state(machine.store).up_since == 1000.0


def test_one_that_has_ended_is_started_again(machine, tunnels, messages):
    machine.keep()
    machine.condition = Condition(False, False, words="it was ended by signal 9")
    hearing = machine.keep(after=5)
    assert (tunnels.asked, hearing.pause) == ([], 1.0)
    machine.keep(after=1)
    assert tunnels.asked == ["start openvpn corp"]
    assert [text for text in messages if "started again" in text] == [
        "info: openvpn corp: started again, attempt 1 (it was ended by signal 9); "
        '"netconf-hooks hold openvpn corp" prevents that'
    ]
    assert messages.count("info: openvpn corp: not connected: it was ended by signal 9") == 1


def test_why_it_can_not_be_started_is_said_once_and_tried_again(machine, tunnels, messages):
    tunnels.broken["start openvpn corp"] = "no corp.conf"
    machine.condition = Condition(False, False, words="gone")
    for _ in range(40):
        hearing = machine.keep()
        machine.now += hearing.pause
    assert len(tunnels.asked) > 4
    assert len([text for text in messages if text.startswith("error: ")]) == 1
    assert machine.store.read_tunnels()[CORP].problem == "no corp.conf"
    assert state(machine.store).words == "no corp.conf"
    del tunnels.broken["start openvpn corp"]
    machine.keep(after=supervision.LONGEST_PAUSE)
    machine.condition = Condition(True, True)
    machine.keep(after=1)
    record = machine.store.read_tunnels()[CORP]
    assert (record.applied, record.problem) == (True, "")


def test_what_can_not_be_asked_has_ended(machine, tunnels):
    machine.condition = TunnelError("neither a.conf nor b.conf is there")
    machine.keep()
    machine.keep(after=1)
    assert tunnels.asked == ["start openvpn corp"]
    assert state(machine.store).words == "neither a.conf nor b.conf is there"


def test_a_daemon_that_answers_late_is_not_restarted(machine, tunnels):
    machine.condition = TunnelSilent("swanctl --list-sas: not done after 3 s, killed")
    machine.keep()
    machine.keep(after=60)
    assert tunnels.asked == []


@pytest.mark.parametrize("verdict", ["up", "down"])
def test_one_that_is_held_is_looked_at_and_nothing_else(machine, tunnels, monkeypatch, verdict):
    monkeypatch.setattr(keeper, "read_start", lambda pid: "77")
    decide(machine.store, verdict, held="held by the admin")
    machine.condition = Condition(True, True, pid=9)
    hearing = machine.keep()
    assert (hearing.pids, hearing.pause) == (((9, "77"),), None)
    assert machine.store.read_held_states()[CORP].up_since == 1000.0
    machine.keep(after=5)
    assert machine.store.read_held_states()[CORP].up_since == 1000.0
    machine.condition = Condition(False, False)
    assert machine.keep(after=5).pause == 10.0
    ended = machine.store.read_held_states()[CORP]
    assert (ended.up_since, ended.since) == (0.0, 1010.0)
    machine.condition = Condition(None, True)
    machine.keep(after=5)
    assert machine.store.read_held_states()[CORP].up_since == 1015.0
    assert (tunnels.asked, machine.store.read_states()) == ([], {})
    decide(machine.store, verdict)
    machine.keep(after=5)
    assert machine.store.read_held_states() == {}


def test_a_damaged_record_of_held_ones_is_written_again(machine):
    decide(machine.store, "up", held="held by the admin")
    with open(machine.store.held_states, "w", encoding="ascii") as file:
        file.write("nonsense")
    machine.keep()
    assert machine.store.read_held_states()[CORP].up_since == 1000.0


@pytest.mark.parametrize("verdict, fields, pause", [
    ("down", {}, None),
    ("up", {"applied": False}, START_TIME),  # a hook is just starting it: the kernel need not have an event for that
])
def test_what_is_not_to_be_up_is_not_looked_after(machine, tunnels, verdict, fields, pause):
    machine.keep()
    decide(machine.store, verdict, **fields)
    machine.condition = Condition(False, False)
    assert machine.keep(after=100).pause == pause
    assert (tunnels.asked, machine.store.read_states()) == ([], {})


@pytest.mark.parametrize("started, doubted", [((), False), ((("openvpn", "corp"),), True)])
def test_one_that_was_started_before_the_network_changed_has_to_show_that_it_works(machine, started, doubted):
    """Also if it was not inspected before: a cable that is moved right after ifup."""
    machine.keep(news=True, started=started)
    (state,) = machine.store.read_states().values()
    assert bool(state.doubt) == doubted


def test_a_decision_that_changes_meanwhile_counts(machine, tunnels, monkeypatch):
    machine.condition = Condition(False, False)
    machine.keep()
    monkeypatch.setattr(machine, "inspect", lambda: (decide(machine.store, "down"), Condition(False, False))[1])
    machine.keep(after=1)
    assert tunnels.asked == []


def test_nothing_is_started_while_the_system_stops(machine, tunnels):
    class Leaving:
        def is_running(self):
            return True

        def is_leaving(self):
            return True

    machine.condition = Condition(False, False)
    machine.keep()
    machine.keep(after=1, systemd=Leaving())
    assert tunnels.asked == []


def test_one_that_does_not_show_that_it_works_is_nudged_then_restarted(machine, tunnels, messages):
    machine.condition = Condition(True, True, pid=1, remedies=(NUDGE, RESTART))
    machine.received = 5
    machine.keep()
    assert machine.keep(after=100, news=True).pause == supervision.PROOF
    machine.keep(after=supervision.PROOF)
    machine.keep(after=supervision.NUDGED)
    assert tunnels.asked == ["nudge openvpn corp", "restart openvpn corp"]
    assert "info: openvpn corp: told to connect again (nothing comes back through it)" in messages


def test_one_that_works_is_left(machine, tunnels):
    machine.condition = Condition(True, True, pid=1, remedies=(NUDGE, RESTART))
    machine.received = 5
    machine.keep()
    machine.keep(after=100, news=True)
    machine.received = 6
    assert machine.keep(after=supervision.PROOF).pause is None
    assert tunnels.asked == []


def test_behind_a_guard_its_names_are_resolved_before(machine, tunnels, journal, monkeypatch):
    monkeypatch.setattr(keeper.guard, "close_guards", lambda store: journal.append("close guards"))
    monkeypatch.setattr(keeper.guard, "open_guards", lambda store: journal.append("open guards"))
    machine.store.write_guard(GuardRecord("eth0", "nftables"))
    machine.condition = Condition(False, False)
    machine.keep()
    assert [each for each in journal if "guards" in str(each)] == []
    machine.keep(after=1)
    asked = [each for each in journal if each in ("close guards", "open guards", "start openvpn corp")]
    assert asked == ["close guards", "start openvpn corp", "open guards"]


def test_a_changed_file_is_another_chance_for_a_password(machine, tunnels, tmp_path):
    path = tmp_path / "corp.conf"
    path.write_text("old")
    machine.condition = Condition(False, False, words="refused", refused=True, files=(str(path), "/nonexistent"))
    for _ in range(100):
        machine.now += machine.keep().pause
    assert len(tunnels.asked) == 2
    path.write_text("another")
    for _ in range(5):
        machine.now += machine.keep().pause
    assert len(tunnels.asked) == 3


def test_a_kind_that_can_not_be_inspected_is_only_asked_whether_it_is_up(machine, tunnels, monkeypatch):
    monkeypatch.delattr(type(tunnels.load(*CORP)), "inspect")
    tunnels.up["openvpn corp"] = False
    machine.keep()
    machine.keep(after=1000)
    assert tunnels.asked == ["start openvpn corp"]


def test_states_that_can_not_be_read_are_made_anew(machine, messages):
    with open(machine.store.states, "w") as file:
        file.write("netconf-hooks 1\nnonsense\n")
    machine.keep()
    assert state(machine.store).up_since == 1000.0
    assert any("not the state of a tunnel" in text for text in messages)


@pytest.mark.parametrize(
    ("verdict", "up", "words"),
    [("closed", False, "no answer; its server is here"), ("open", False, "no answer"), ("closed", True, "no answer")],
)
def test_a_relay_behind_a_closed_guard_is_named(machine, tunnels, monkeypatch, verdict, up, words):
    """F19: the relay's own packets are dropped, and the tunnel only sees that nobody answers."""
    tunnel = type(tunnels.load(*CORP))
    monkeypatch.setattr(tunnel, "list_relays", lambda self: ("its server is here",), raising=False)
    monkeypatch.setattr(keeper.guard, "close_guards", lambda store: None)
    machine.store.write_guard(GuardRecord("eth0", "nftables", verdict, "because"))
    machine.condition = Condition(up, True, words="no answer")
    machine.keep()
    assert state(machine.store).words == words


def test_what_could_not_even_be_started_is_not_final(machine, tunnels):
    """A oneshot that is inactive has succeeded, unless its start was refused."""
    machine.condition = Condition(False, False, final=True, words="systemd says it is inactive")
    machine.keep()
    machine.keep(after=10)
    assert tunnels.asked == []
    decide(machine.store, "up", applied=False, problem="systemctl start corp: no")
    machine.keep(after=10)
    machine.keep(after=2)
    assert tunnels.asked == ["start openvpn corp"]
