"""What the watcher's looking child does: what it looks at, when it decides again, and what it reports."""

import pytest
from situations import make_record

from netconf_hooks import guard

from netconf_hooks.tunnels import held

from netconf_hooks.evidence.fingerprint import Fingerprint, parse_fingerprint
from netconf_hooks.state import GuardRecord, Pass, RecordError, TunnelRecord
from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.watcher import keeper, leftovers, stops, watch
from netconf_hooks.watcher.keeper import Hearing

ROUTER, MAC = "192.0.2.1", "00:16:3e:11:22:33"
OFFICE = Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER,), {ROUTER: MAC})
MOVED = OFFICE.change(networks=("198.51.100.5/24",), routers=("198.51.100.1",), macs={})
CORP = ("openvpn", "corp")


def in_office(iface="eth0", **facts):
    """Return the record of an interface in the office."""
    return make_record(iface, 7, (Pass("inet", {"netconf-vpn": "openvpn corp"}),), routable=True, **facts)


class Machine:
    """What a survey meets: seen: the networks, by interface; done: what it did, in order; kept: how the tunnels were
    looked after; hearing: what to listen to; visits: what `guard.end_visits` returns; fallen: of `guard.put_back`."""

    def __init__(self, store):
        self.store = store
        self.seen = {"eth0": OFFICE}
        self.done = []
        self.kept = []
        self.hearing = Hearing((), False, None)
        self.visits = (False, None)
        self.fallen = ""
        self.problem = None

    def survey(self, fingerprints=None, demand="", timed=False, **more):
        """Look; return the report."""
        report = []
        fingerprints = {"eth0": OFFICE} if fingerprints is None else fingerprints
        watch.survey(self.store, fingerprints, demand, timed, report.append, **more)
        return report

    def look_again(self, store, records):
        """As settle.look_again."""
        self.done.append("look again at " + " ".join(record.iface for record in records))
        return ()

    def settle(self, store, changes, wake, tell, retry):
        """As settle.settle; the watcher runs event scripts itself."""
        assert (wake, tell, retry) == (False, watch.leave_events, False)
        self.done.append("settle")
        if self.problem:
            raise self.problem

    def keep_up(self, store, news, routable, started=()):
        """As keeper.keep_up."""
        self.kept.append((news, routable, set(started)))
        return self.hearing


@pytest.fixture
def machine(store, links, monkeypatch):
    """eth0 is in the office."""
    store.prepare()
    store.write_interface(in_office())
    machine = Machine(store)
    links.plug("eth0", 7)
    for module, names in ((leftovers, ("end_passes", "clear_leftovers")), (stops, ("note_stops", "note_starts"))):
        for name in names:
            monkeypatch.setattr(module, name, lambda store, name=name: machine.done.append(name))
    monkeypatch.setattr(watch, "look", lambda records: {record.iface: machine.seen[record.iface] for record in records})
    monkeypatch.setattr(watch, "look_again", machine.look_again)
    monkeypatch.setattr(watch, "settle", machine.settle)
    monkeypatch.setattr(keeper, "keep_up", machine.keep_up)
    monkeypatch.setattr(guard, "end_visits", lambda store: machine.visits)
    monkeypatch.setattr(guard, "put_back", lambda store, guards: machine.fallen)
    return machine


TIDYING = ["end_passes", "clear_leftovers", "note_stops", "note_starts"]


def test_where_nothing_has_changed_only_the_tunnels_are_looked_after(machine, messages):
    report = machine.survey()
    assert machine.done == TIDYING
    assert machine.kept == [(False, True, set())]
    assert [line.split("\\n")[0] for line in report] == ["fingerprint eth0", "kept"]
    assert messages == []


def test_a_network_that_has_changed_is_decided_on(machine, messages):
    machine.seen["eth0"] = MOVED
    report = machine.survey()
    assert machine.done == [*TIDYING, "look again at eth0", "settle"]
    assert machine.kept[0][0]
    assert report[0] == "decided"
    assert parse_fingerprint(report[1].encode().decode("unicode_escape").partition("\n")[2]) == MOVED
    assert messages == ["info: deciding again: the network has changed"]


def test_only_the_interface_that_has_changed_is_looked_at_again(machine):
    machine.store.write_interface(in_office("eth1"))
    machine.seen |= {"eth0": MOVED, "eth1": OFFICE}
    fingerprints = {"eth0": OFFICE, "eth1": OFFICE}
    machine.survey(fingerprints)
    assert machine.done[4:] == ["look again at eth0", "settle"]
    machine.done.clear()
    machine.survey(fingerprints, demand="somebody asks")
    assert machine.done[4:] == ["look again at eth0 eth1", "settle"]


def test_a_timer_decides_without_a_word_in_the_log(machine, messages):
    assert machine.survey(timed=True)[0] == "decided"
    assert "settle" in machine.done
    assert messages == []


def test_a_guard_that_somebody_took_away_is_a_reason_to_decide(machine, messages):
    machine.fallen = "a guard was taken away"
    assert machine.survey(timed=True, chosen=frozenset())[0] == "decided"
    assert messages == ["info: deciding again: a guard was taken away"]


@pytest.mark.parametrize("problem", [NetlinkError(105), RecordError("it can't be read"), OSError(28, "full")])
def test_a_decision_that_fails_does_not_keep_the_tunnels_from_being_looked_after(machine, messages, problem):
    machine.problem = problem
    report = machine.survey(demand="somebody asks")
    assert f"error: watch: {problem}" in messages
    assert "decided" in report and "kept" in report


def test_a_wish_has_no_network(machine):
    machine.store.write_interface(in_office("corp", wish=True))
    machine.seen["corp"] = OFFICE
    machine.survey(fingerprints={})
    assert not any("corp" in each for each in machine.done)


def test_what_the_kernel_forgets_of_a_network_is_still_known(machine):
    """A router's MAC is not in the kernel's cache for ever."""
    machine.seen["eth0"] = OFFICE.change(macs={})
    [line] = [line for line in machine.survey() if line.startswith("fingerprint ")]
    assert parse_fingerprint(line.encode().decode("unicode_escape").partition("\n")[2]) == OFFICE


@pytest.mark.parametrize("slept, ended, news", [
    (False, False, False), (True, False, True), (False, True, True),
])
def test_tunnels_are_looked_after_at_once_after_sleep_and_a_login(machine, slept, ended, news):
    machine.visits = (ended, None)
    machine.survey(slept=slept)
    assert machine.kept[0][0] is news


@pytest.mark.parametrize("fingerprints, routable", [
    ({"eth0": OFFICE}, True), ({"eth0": OFFICE.change(routers=())}, False),
    ({"eth0": OFFICE.change(routers=()), "eth1": OFFICE}, True),
])
def test_tunnels_wait_for_a_router(machine, fingerprints, routable):
    machine.seen = {"eth0": fingerprints["eth0"]}
    machine.survey(fingerprints)
    assert machine.kept[0][1] is routable


def test_without_any_network_nothing_is_known_about_routers(machine):
    machine.store.remove_interface("eth0")
    machine.survey({})
    assert machine.kept[0][1]


def test_what_to_listen_to_is_reported(machine):
    machine.hearing = Hearing(((77, "1234"), (78, "5678")), True, 12.5)
    report = machine.survey()
    assert report[1:] == ["daemon 77 1234", "daemon 78 5678", "associations", "kept 12.500"]


@pytest.mark.parametrize("pause, visit, said", [
    (None, None, "kept"), (12.5, None, "kept 12.500"), (None, 3.0, "kept 3.000"), (12.5, 3.0, "kept 3.000"),
])
def test_the_next_look_is_when_tunnel_or_portal_needs_it(machine, pause, visit, said):
    machine.hearing, machine.visits = Hearing((), False, pause), (False, visit)
    assert machine.survey()[-1] == said


def test_a_record_that_can_not_be_written_puts_the_end_of_a_visit_off(machine, monkeypatch, messages):
    def fail(store):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(guard, "end_visits", fail)
    assert machine.survey()[-1] == "kept 5.000"
    assert messages == ["error: watch: [Errno 28] No space left on device"]
    assert not machine.kept[-1][0], "nobody has logged in: no tunnel is asked for because of that"


def test_guards_that_can_not_be_put_back_end_no_child(machine, monkeypatch, messages):
    def fail(store, guards):
        raise NetlinkError(105)

    monkeypatch.setattr(guard, "put_back", fail)
    assert machine.survey()[-1] == "kept"
    assert messages == [f"error: watch: {NetlinkError(105)}"]


def test_tunnels_that_had_been_started_before_the_decision(machine):
    def start_another(*_, **__):
        machine.store.write_tunnels({**records, ("wireguard", "wg0"): TunnelRecord("wireguard", "wg0", "up", "", True)})
        return ()

    records = {
        CORP: TunnelRecord(*CORP, "up", "", applied=True),
        ("openvpn", "off"): TunnelRecord("openvpn", "off", "down", "", applied=True),
        ("openvpn", "late"): TunnelRecord("openvpn", "late", "up", "", applied=False),
    }
    machine.store.write_tunnels(records)
    machine.look_again = start_another
    machine.survey(demand="somebody asks")
    assert machine.kept[0][2] == {CORP}


def test_it_is_asked_again_while_something_is_undecided(machine):
    machine.store.write_guard(GuardRecord("eth0", "nftables", done=False))
    assert machine.survey()[-1] == "retry"


@pytest.mark.parametrize("ends, said", [(0.0, []), (90.0, ["later 90.0"])])
def test_the_end_of_a_hold_is_reported(machine, monkeypatch, ends, said):
    monkeypatch.setattr(held, "find_next_end", lambda: ends)
    assert not any(line.startswith("later") for line in machine.survey())  # no tunnel is held
    machine.store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "", applied=True, held="held by the admin")})
    assert [line for line in machine.survey() if line.startswith("later")] == said


def test_each_interface_is_looked_at_with_its_own_ports(monkeypatch):
    class Kernel:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(watch, "Netlink", Kernel)
    monkeypatch.setattr(watch, "read_fingerprint", lambda device, kernel, ports: (device, type(kernel), ports))
    records = [
        make_record("br0:1", 7, (Pass("inet", {"netconf-outside-ports": "eth1"}),)), in_office("corp", wish=True)
    ]  # fmt: skip
    assert watch.look(records) == {"br0:1": ("br0", Kernel, ("eth1",))}


def test_an_interface_that_was_never_seen_is_compared_with_its_record():
    survey = watch._Survey()
    record = in_office(seen={"gateway": (ROUTER,)})
    assert survey._fingerprints == {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "look", lambda records: {"eth0": OFFICE})
        assert survey.find_changed([record]) == []
        patch.setattr(watch, "look", lambda records: {"eth0": MOVED})
        assert survey.find_changed([record]) == ["eth0"]
