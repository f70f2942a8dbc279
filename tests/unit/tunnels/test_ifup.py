"""ifup: a stanza as a tunnel; programs of the test's own in place of ifup, ifdown and ifquery, and of the initiator."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_systemd import FakeSystemd

from netconf_hooks.state import InterfaceRecord, Store
from netconf_hooks.system import programs
from netconf_hooks.system.netlink import LinkStatus
from netconf_hooks.system.programs import ProgramError, Result
from netconf_hooks.tunnels import Condition, TunnelError, ifup, load_tunnel
from netconf_hooks.tunnels.ifup import ANEW, DOWN, RAISED, SEEN, UP, Tunnel
from netconf_hooks.tunnels.services import TooLate

INTERFACES = "/etc/network/interfaces"


class FakeInitiator:
    """An initiator that only notes what it is asked for; `work` is what it does as soon as it is requested."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running = False
        self.reason = ""
        self.stopping = False
        self.work: Callable[[], None] = lambda: None

    def request(self) -> None:
        if self.stopping:
            raise TooLate("the system is stopping")
        self.calls.append("request")
        self.work()

    def cancel(self) -> None:
        self.calls.append("cancel")
        self.running = False

    def is_running(self) -> bool:
        return self.running

    def read_reason(self) -> str:
        return self.reason


class Place:
    """A machine with the stanza wg0, its ifupdown, and the tunnel that it is."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.initiator = FakeInitiator()
        self.stanzas = {"wg0": ""}
        self.configured: set[str] = set()
        self.ifupdown = "ifupdown"
        self.link: LinkStatus | None = None
        self.fails: dict[str, Result | ProgramError] = {}
        self.ran: list[str] = []
        self.tunnel = Tunnel("wg0", INTERFACES, initiator=self.initiator, store=store)

    def run(self, argv: list[str], timeout: float, **options: object) -> Result:
        words = list(argv)
        if words == ["ifquery", "--state"]:
            return Result(0, "".join(f"{name}={name}\n" for name in sorted(self.configured)))
        if words[:2] == ["ifquery", "--list"]:
            return Result(0, "lo\nwg0\n" if words == ["ifquery", "--list"] else "")
        if words == ["ifquery", "--version"]:
            return Result(0, f"{self.ifupdown} 1.0\n")
        if words[0] == "ifquery":
            name = words[-1]
            return Result(0, self.stanzas[name]) if name in self.stanzas else Result(1, f"ifquery: unknown {name}\n")
        assert options == {"leaves": True}, "a daemon that it leaves would be ended by SIGPIPE"
        self.ran.append(" ".join(words))
        answer = self.fails.get(words[0], Result(0, ""))
        if isinstance(answer, ProgramError):
            raise answer
        if answer.status == 0:
            (self.configured.add if words[0] == "ifup" else self.configured.discard)(words[-1])
        return answer

    @property
    def order(self) -> str:
        return self.store.read_order("ifup", "wg0")

    def note(self, order: str) -> None:
        with self.store.lock_records():
            self.store.write_order("ifup", "wg0", order)

    def set_link(self, up: bool = True, carrier: bool = True) -> None:
        self.link = LinkStatus(7, "wg0", 0, up, carrier, "")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    store = Store(str(tmp_path / "netconf-hooks"))
    store.prepare()
    made = Place(store)
    monkeypatch.setattr("netconf_hooks.stanzas.interfaces.run", made.run)
    monkeypatch.setattr(programs, "run", made.run)
    monkeypatch.setattr(ifup, "read_link", lambda device: made.link)
    monkeypatch.setattr(ifup, "STOP_TIMEOUT", 0.2)
    return made


def test_a_rule_finds_it() -> None:
    assert isinstance(load_tunnel("ifup", "wg0"), Tunnel)


@pytest.mark.parametrize(
    ("stanzas", "message"),
    [
        ({}, "^there is no usable stanza wg0 in /etc/network/interfaces: ifquery: unknown wg0$"),
        ({"wg0": "netconf-uplink: eth0\nnetconf-vpn: openvpn corp\n"}, "wg0 is a wish"),
        ({"wg0": "netconf-vpn: ifup wg0\n"}, 'the stanza wg0 has itself "netconf-vpn ifup wg0": a circle'),
        (
            {"wg0": "netconf-vpn: ifup wg1\n", "wg1": "netconf-vpn: ifup wg0 on home\n"},
            'the stanza wg1 has itself "netconf-vpn ifup wg0 on home": a circle',
        ),
    ],
)
def test_what_can_not_be_a_tunnel_is_refused(place: Place, stanzas: dict[str, str], message: str) -> None:
    place.stanzas = stanzas
    for act in (place.tunnel.check, place.tunnel.start, place.tunnel.inspect, place.tunnel.restart):
        with pytest.raises(TunnelError, match=message):
            act()
    assert not place.initiator.calls


def test_a_circle_that_does_not_lead_back_is_no_concern(place: Place) -> None:
    wanted = {"wg0": "wg1", "wg1": "wg2", "wg2": "wg1"}
    place.stanzas = {stanza: f"netconf-vpn: ifup {name}\n" for stanza, name in wanted.items()}
    place.tunnel.check()


def test_start_has_an_initiator_run_ifup(place: Place) -> None:
    place.tunnel.start()
    assert (place.initiator.calls, place.order) == (["request"], UP)
    place.initiator.running = True
    place.tunnel.start()
    assert place.initiator.calls == ["request"], "it is at work"
    assert place.tunnel.connect() == "brought up"
    assert place.ran == ["ifup wg0"]
    assert place.order == RAISED, "no interface of this name has been seen yet"


def test_one_that_is_up_is_left_as_it_is(place: Place) -> None:
    place.configured.add("wg0")
    place.set_link()
    place.tunnel.start()
    assert (place.initiator.calls, place.order) == ([], RAISED)


def test_one_whose_interface_is_gone_is_taken_down_first(place: Place) -> None:
    place.configured.add("wg0")
    place.note(SEEN)
    place.tunnel.start()
    assert (place.initiator.calls, place.order) == (["request"], ANEW)
    place.set_link()
    place.tunnel.connect()
    assert place.ran == ["ifdown --force wg0", "ifup wg0"]
    assert place.order == SEEN


def test_a_failed_ifup_is_undone_and_says_why(place: Place) -> None:
    place.note(UP)
    place.fails["ifup"] = Result(1, "Name or service not known: `vpn.example:51820'\nifup: failed to bring up wg0\n")
    with pytest.raises(TunnelError, match="^ifup wg0: Name or service not known: `vpn.example:51820'$"):
        place.tunnel.connect()
    assert place.ran == ["ifup wg0", "ifdown --force wg0"]
    assert place.order == UP
    place.fails["ifup"] = ProgramError("ifup wg0: not done after 120 s, killed")
    with pytest.raises(TunnelError, match="killed"):
        place.tunnel.connect()


def test_an_ifup_that_only_says_it_succeeded_is_none(place: Place) -> None:
    place.note(UP)
    place.fails["ifup"] = Result(0, "")
    place.configured = type("Forgetful", (set,), {"add": lambda self, name: None})()
    with pytest.raises(TunnelError, match="ifup has not configured it"):
        place.tunnel.connect()


def test_stop_has_an_initiator_run_ifdown(place: Place) -> None:
    place.configured.add("wg0")
    place.initiator.work = place.tunnel.connect
    place.tunnel.stop()
    assert place.ran == ["ifdown --force wg0"]
    assert (place.initiator.calls, place.order) == (["request"], "")
    place.tunnel.stop()
    assert place.initiator.calls == ["request"], "it is down"


def test_stop_cancels_an_ifup_that_is_under_way(place: Place) -> None:
    place.note(UP)
    place.initiator.running = True
    place.initiator.work = place.tunnel.connect
    place.tunnel.stop()
    assert place.initiator.calls == ["cancel", "request"]
    assert place.ran == ["ifdown --force wg0"], "also of one that ifupdown does not know of any more"


def test_stop_says_that_ifdown_is_not_done(place: Place) -> None:
    place.configured.add("wg0")
    with pytest.raises(TunnelError, match="^ifdown wg0 is still running$"):
        place.tunnel.stop()
    place.initiator.running = True
    with pytest.raises(TunnelError):
        place.tunnel.stop()
    assert place.initiator.calls == ["request"], "one ifdown is enough"
    place.initiator.running = False
    place.initiator.reason = "ifdown wg0: unknown interface"
    with pytest.raises(TunnelError, match="unknown interface"):
        place.tunnel.stop()
    assert place.initiator.calls == ["request"] * 2, "one that failed is tried again"


def test_stop_does_not_wait_for_hooks_that_wait_for_it(place: Place) -> None:
    place.configured.add("wg0")
    with place.store.lock_records():
        place.store.write_interface(InterfaceRecord("wg0", ()))
    place.tunnel.stop()
    assert place.order == DOWN


def test_while_the_system_stops_ifupdown_itself_takes_it_down(place: Place) -> None:
    place.configured.add("wg0")
    place.initiator.stopping = True
    place.tunnel.stop()
    with pytest.raises(TooLate):
        place.tunnel.restart()


def test_an_ifdown_that_leaves_it_configured_has_failed(place: Place) -> None:
    place.configured.add("wg0")
    place.note(DOWN)
    place.fails["ifdown"] = Result(1, "ifdown: unknown interface wg0\n")
    with pytest.raises(TunnelError, match="^ifdown --force wg0: ifdown: unknown interface wg0$"):
        place.tunnel.connect()
    assert place.order == DOWN


def test_what_ifdown_can_not_take_down_is_brought_up_all_the_same(place: Place) -> None:
    """ifupdown-ng leaves a stanza configured whose interface is gone, since ``ip link del`` fails."""
    place.configured.add("wg0")
    place.note(ANEW)
    place.fails["ifdown"] = Result(1, 'Cannot find device "wg0"\n')
    assert place.tunnel.connect() == "brought up"
    first, second = place.ran
    assert first == "ifdown --force wg0"
    assert re.fullmatch("ifup --state-file /tmp/netconf-hooks-[^/]+/state wg0", second)
    assert not Path(second.split()[2]).parent.exists()


@pytest.mark.parametrize("ifupdown", ["ifupdown-ng", "ifupdown2"])
def test_those_that_can_not_run_twice_are_not_disturbed(
    place: Place, monkeypatch: pytest.MonkeyPatch, ifupdown: str
) -> None:
    place.ifupdown = ifupdown
    others = [True, True, False]
    monkeypatch.setattr(ifup, "is_any_running", lambda names: "ifup" in names and (others.pop(0), place.ran == [])[0])
    place.configured.add("wg0")
    place.tunnel.stop()  # which does not wait: its caller may be a part of such a run
    assert place.order == DOWN and place.ran == []
    assert place.tunnel.connect() == "taken down"
    assert (others, place.ran) == ([], ["ifdown --force wg0"])


def test_an_initiator_goes_on_with_what_was_asked_for_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.configured.add("wg0")
    place.note(DOWN)
    run = place.run

    def change_one_s_mind(argv: list[str], timeout: float, **options: object) -> Result:
        result = run(argv, timeout, **options)
        if argv[0] == "ifdown":
            place.note(UP)
        return result

    monkeypatch.setattr(programs, "run", change_one_s_mind)
    assert place.tunnel.connect() == "brought up"
    assert place.ran == ["ifdown --force wg0", "ifup wg0"]


@pytest.mark.parametrize(
    ("configured", "order", "link", "up"),
    [
        (False, "", None, False),
        (False, "", (True, True), False),  # wg-quick's, or somebody else's
        (True, "", (True, True), True),
        (True, SEEN, (True, True), True),
        (True, SEEN, None, False),
        (True, SEEN, (False, False), False),
        (True, SEEN, (True, False), False),
        (True, RAISED, None, None),
        (True, RAISED, (True, False), False),
        (True, "", None, None),
    ],
)
def test_up_is_what_ifupdown_and_the_link_say(
    place: Place, configured: bool, order: str, link: tuple[bool, bool] | None, up: bool | None
) -> None:
    place.configured = {"wg0"} if configured else set()
    place.note(order)
    if link:
        place.set_link(*link)
    assert place.tunnel.is_up() is up
    assert place.tunnel.is_running() is configured


@pytest.mark.parametrize(
    ("configured", "order", "link", "running", "condition"),
    [
        (True, RAISED, (True, True), False, (True, True, "")),
        (True, RAISED, None, False, (None, True, "")),
        (True, RAISED, (False, False), False, (False, True, "its interface is down")),  # a daemon is about to set it up
        (True, SEEN, None, False, (False, False, "its interface is gone")),
        (True, SEEN, (False, False), False, (False, False, "its interface is down")),
        (True, SEEN, (True, False), False, (False, False, "its interface has no carrier")),
        (True, UP, None, True, (False, True, "ifup is running")),
        (True, UP, None, False, (False, False, "its interface is gone")),
        (False, UP, None, True, (False, True, "ifup is running")),
        (False, UP, None, False, (False, False, "")),
        (False, SEEN, None, False, (False, False, "ifdown has taken it down")),
    ],
)
def test_how_it_is_doing(
    place: Place, configured: bool, order: str, link: tuple[bool, bool] | None, running: bool,
    condition: tuple[bool | None, bool, str],
) -> None:  # fmt: skip
    place.configured = {"wg0"} if configured else set()
    place.note(order)
    place.initiator.running = running
    if link:
        place.set_link(*link)
    up, runs, words = condition
    assert place.tunnel.inspect() == Condition(up, runs, words=words, files=(INTERFACES,))


def test_an_interface_that_was_seen_up_may_not_vanish(place: Place) -> None:
    place.configured.add("wg0")
    place.note(RAISED)
    place.set_link()
    place.tunnel.inspect()
    assert place.order == SEEN
    place.link = None
    assert place.tunnel.inspect().words == "its interface is gone"


def test_why_ifup_failed_is_known(place: Place) -> None:
    place.note(UP)
    place.initiator.reason = "ifup wg0: Name or service not known"
    assert place.tunnel.inspect().words == "ifup wg0: Name or service not known"


def test_only_an_ifdown_of_somebody_else_is_a_stop_by_hand(place: Place) -> None:
    for order in (RAISED, SEEN):
        place.note(order)
        assert place.tunnel.find_stop() == "ifdown wg0"
    for order in (UP, ANEW, DOWN, ""):
        place.note(order)
        assert place.tunnel.find_stop() == "", order
    place.note(SEEN)
    place.configured.add("wg0")
    assert place.tunnel.find_stop() == ""


def test_a_restart_is_both(place: Place) -> None:
    place.configured.add("wg0")
    place.note(SEEN)
    place.tunnel.restart()
    assert (place.initiator.calls, place.order) == (["cancel", "request"], ANEW)
    place.initiator.running = True
    place.tunnel.restart()
    assert place.initiator.calls == ["cancel", "request"]
    assert (place.tunnel.count_received(), place.tunnel.nudge(), place.tunnel.endpoints()) == (None, "", ())
    assert place.tunnel.list_units() == ()


def test_what_starts_it_at_boot(place: Place) -> None:
    assert place.tunnel.boot_start() == "auto or allow-hotplug wg0 in /etc/network/interfaces"
    assert Tunnel("wg1", initiator=place.initiator, store=place.store).boot_start() == ""


def test_with_systemd_it_is_a_unit(fake: FakeSystemd, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("netconf_hooks.system.systemd.Systemd._begin", lambda self, verb, unit: asked.append(unit))
    Tunnel("wg0", systemd=fake.systemd(), store=place.store).start()
    assert asked == ["netconf-hooks-tunnel@ifup-wg0.service"]
