"""What the nftables guard makes of its tables: what it puts up, what it takes away, and whether all of it stands."""

from __future__ import annotations

import errno
import json
import time
import types
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
from fake_nft import MISSING, FakeNftables, FakeTables

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import (
    Closing, GuardError, LAN, NAMES, OPEN, PORTAL, PROBE, TokenGone, UNHOOKED, WINDOWS, Window, nft_rules,
    nftables
)  # fmt: skip
from netconf_hooks.observation import Ports
from netconf_hooks.state import FIREWALLS
from netconf_hooks.system import libnftables, nf_tables

INET, NETDEV = "inet netconf-guard", "netdev netconf-guard"
ALLOWED = (Exemption("udp", "203.0.113.1/32", 1194),)


@pytest.fixture
def nft(monkeypatch: pytest.MonkeyPatch) -> FakeNftables:
    """The machine's nftables; it has a kernel with the hook egress, and eth0."""
    nft = FakeNftables()
    monkeypatch.setattr(libnftables, "Nftables", lambda: nft)
    monkeypatch.setattr(nftables.os, "uname", lambda: types.SimpleNamespace(release="6.1.0-18-amd64"))
    monkeypatch.setattr(nf_tables, "Tables", lambda: FakeTables(nft))
    plug(monkeypatch, "eth0")
    return nft


def plug(monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
    """Let these devices be there, and no others."""
    monkeypatch.setattr(nftables, "_exists", lambda device: device in devices)


@pytest.fixture
def guard(nft: FakeNftables) -> nftables.Firewall:
    return nftables.Firewall()


def list_rules(nft: FakeNftables, table: str, chain: str) -> list[str]:
    """Return the rules of a chain, without the comments."""
    return [rule["text"] for rule in nft.tables[table]["chain"][chain]["rules"]]


# Putting up


def test_a_closed_guard(nft: FakeNftables, guard: nftables.Firewall) -> None:
    """One transaction, with every hook in its place; and it stands."""
    guard.close("eth0", ALLOWED)
    assert len(nft.ran) == 1
    chains = nft.tables[INET]["chain"]
    hooks = {name: (chain["hook"], chain["prio"]) for name, chain in chains.items() if "hook" in chain}
    assert hooks == {"output": ("output", 10), "forward": ("forward", 10), "postrouting": ("postrouting", 350)}
    assert list_rules(nft, INET, "postrouting") == ["oifname vmap @out"]
    assert list_rules(nft, INET, "forward") == ["oifname vmap @forward"]
    assert list_rules(nft, INET, "output") == ["meta l4proto tcp meta mark 0 oifname vmap @refuse"]
    assert {name: [key for key, _ in found["elem"]] for name, found in nft.tables[INET]["map"].items()} == {
        "out": ["eth0"], "forward": ["eth0"], "refuse": ["eth0"],
    }  # fmt: skip
    assert list_rules(nft, INET, "pass-eth0")[-1] == "ip daddr 203.0.113.1/32 udp dport 1194 accept"
    assert list_rules(nft, INET, "out-eth0")[-1].endswith(" drop")
    egress = nft.tables[NETDEV]["chain"]["egress-eth0"]
    assert (egress["hook"], egress["prio"], egress["dev"]) == ("egress", 0, "eth0")
    assert list_rules(nft, NETDEV, "egress-eth0") == ["jump frames-eth0"]
    assert not guard.find_fallen(("eth0",))
    assert guard.lacks == ()


def test_closed_again_it_stands_once(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close("eth0", ALLOWED)
    once = {chain: len(found["rules"]) for chain, found in nft.tables[INET]["chain"].items()}
    guard.close("eth0", ALLOWED)
    assert {chain: len(found["rules"]) for chain, found in nft.tables[INET]["chain"].items()} == once


def test_without_its_device_no_frames_are_looked_at(
    nft: FakeNftables, guard: nftables.Firewall, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(monkeypatch)
    guard.close("eth0", ALLOWED)
    assert "egress-eth0" not in nft.tables[NETDEV]["chain"]
    assert not guard.find_fallen(("eth0",))
    # Once the device is there, its frames have to be looked at, too.
    plug(monkeypatch, "eth0")
    assert guard.find_fallen(("eth0",))
    assert guard.find_fallen(["eth0"]) == {"eth0": UNHOOKED}
    guard.close("eth0", ALLOWED)
    assert not guard.find_fallen(("eth0",))


@pytest.mark.parametrize("release, lacks", [
    ("5.15.0-91-generic", True), ("4.19.0", True), ("5.16.0", False), ("5.16-rc1", False), ("6.1.0-18-amd64", False),
])
def test_an_old_kernel_looks_at_no_frames(
    nft: FakeNftables, monkeypatch: pytest.MonkeyPatch, release: str, lacks: bool
) -> None:
    monkeypatch.setattr(nftables.os, "uname", lambda: types.SimpleNamespace(release=release))
    guard = nftables.Firewall()
    assert guard.lacks == ((nftables.NO_EGRESS,) if lacks else ())
    guard.close("eth0", ALLOWED)
    assert (NETDEV in nft.tables) is not lacks
    assert not guard.find_fallen(("eth0",))
    guard.open_window("eth0", Window(OPEN, (Exemption(),), time.time() + 30))
    guard.shut_window("eth0", OPEN)
    assert (NETDEV in nft.tables) is not lacks


def test_a_kernel_that_was_built_without_egress(nft: FakeNftables, guard: nftables.Firewall) -> None:
    """It says so at the first attempt; the rest is put up all the same."""
    nft.broken = ["Error: Could not process rule: Operation not supported"]
    guard.close("eth0", ALLOWED)
    assert guard.lacks == (nftables.NO_EGRESS,)
    assert NETDEV not in nft.tables
    assert not guard.find_fallen(("eth0",))


def test_a_hook_on_a_device_that_was_renamed_is_taken_away_first(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close("eth0", ALLOWED)
    nft.ran.clear()
    nft.broken = ["Error: Could not process rule: Device or resource busy"]
    guard.close("eth0", ALLOWED)
    first, second = nft.ran
    delete = f"delete chain {NETDEV} egress-eth0"
    assert delete not in first and delete in second
    assert second.index(delete) < next(n for n, line in enumerate(second) if f"add chain {NETDEV} egress-eth0" in line)
    assert not guard.find_fallen(("eth0",))


def test_what_can_not_be_put_up_is_told_after_three_attempts(nft: FakeNftables, guard: nftables.Firewall) -> None:
    nft.broken = ["Error: Could not process rule: Device or resource busy"] * 99
    with pytest.raises(GuardError, match="eth0: Could not process rule: Device or resource busy"):
        guard.close("eth0", ALLOWED)
    assert len(nft.ran) == 3


def test_a_firewall_that_holds_less_than_was_put_in_it(
    nft: FakeNftables, guard: nftables.Firewall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read back is compared with what was written, rule by rule."""
    real = nft.run

    def forget(text: str) -> str:
        answer = real(text)
        nft.tables[INET]["chain"]["pass-eth0"]["rules"].pop()
        return answer

    monkeypatch.setattr(nft, "run", forget)
    with pytest.raises(GuardError, match="eth0: the rules are not in the kernel as they were written: .*pass-eth0"):
        guard.close("eth0", ALLOWED)


# Whether it stands

WRONG: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
    **{
        f"{chain} gone": lambda inet, netdev, chain=chain: inet["chain"].pop(chain)
        for chain in (
            "output", "forward", "postrouting", "out-eth0", "pass-eth0", "forward-eth0", "refuse-eth0",
            *(f"{name}-eth0" for name in WINDOWS),
        )
    },
    **{
        f"{chain} flushed": lambda inet, netdev, chain=chain: inet["chain"][chain].update(rules=[])
        for chain in ("output", "forward", "postrouting", "out-eth0", "pass-eth0", "forward-eth0", "refuse-eth0")
    },
    **{
        f"one rule more in {chain}": lambda inet, netdev, chain=chain: inet["chain"][chain]["rules"].insert(0, {})
        for chain in ("output", "forward", "postrouting", "out-eth0", "pass-eth0", "forward-eth0", "refuse-eth0")
    },
    **{
        f"not in map {name}": lambda inet, netdev, name=name: inet["map"][name].update(elem=[])
        for name in ("out", "forward", "refuse")
    },
    "map gone": lambda inet, netdev: inet["map"].pop("out"),
    "another priority": lambda inet, netdev: inet["chain"]["postrouting"].update(prio=300),
    "another hook": lambda inet, netdev: inet["chain"]["postrouting"].update(hook="output"),
    "no drop at the end": lambda inet, netdev: inet["chain"]["out-eth0"]["rules"][-1].update(expr=[{"accept": None}]),
    "egress gone": lambda inet, netdev: netdev["chain"].pop("egress-eth0"),
    "egress flushed": lambda inet, netdev: netdev["chain"]["egress-eth0"].update(rules=[]),
    "egress of another device": lambda inet, netdev: netdev["chain"]["egress-eth0"].update(dev="eth1"),
    "egress of two devices": lambda inet, netdev: netdev["chain"]["egress-eth0"].update(dev=("eth0", "eth1")),
    "egress at another priority": lambda inet, netdev: netdev["chain"]["egress-eth0"].update(prio=1),
    "egress elsewhere": lambda inet, netdev: netdev["chain"]["egress-eth0"].update(hook="ingress"),
    "frames gone": lambda inet, netdev: netdev["chain"].pop("frames-eth0"),
    "frames flushed": lambda inet, netdev: netdev["chain"]["frames-eth0"].update(rules=[]),
    "one rule more for frames": lambda inet, netdev: netdev["chain"]["frames-eth0"]["rules"].insert(0, {}),
    "one rule less for frames": lambda inet, netdev: netdev["chain"]["frames-eth0"]["rules"].pop(0),
    "no drop of frames": lambda inet, netdev: netdev["chain"]["frames-eth0"]["rules"][-1].update(expr=[{"log": None}]),
    **{
        f"{name} gone for frames": lambda inet, netdev, name=name: netdev["chain"].pop(f"{name}-eth0")
        for name in WINDOWS
    },
}


@pytest.mark.parametrize("what", WRONG)
def test_whatever_is_missing_is_noticed(nft: FakeNftables, guard: nftables.Firewall, what: str) -> None:
    guard.close("eth0", ALLOWED)
    assert not guard.find_fallen(("eth0",))
    WRONG[what](nft.tables[INET], nft.tables[NETDEV])
    assert guard.find_fallen(("eth0",))


@pytest.mark.parametrize("table", [INET, NETDEV])
def test_a_table_that_is_gone_is_noticed(nft: FakeNftables, guard: nftables.Firewall, table: str) -> None:
    guard.close("eth0", ALLOWED)
    del nft.tables[table]
    assert guard.find_fallen(("eth0",))
    guard.close("eth0", ALLOWED)
    assert not guard.find_fallen(("eth0",))


def test_another_device_is_not_standing(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close("eth0", ALLOWED)
    assert guard.find_fallen(("wlan0",))
    assert not guard.find_fallen(("eth0",))


def test_a_list_that_was_torn_is_taken_again(
    nft: FakeNftables, guard: nftables.Firewall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others change their tables while it is taken: three times it is tried, no more."""
    guard.close("eth0", ALLOWED)
    answers = iter(["no chain out-eth0", "no chain out-eth0", "", ""])
    monkeypatch.setattr(guard._reader, "find_problem", lambda device, *_: next(answers))
    assert not guard.find_fallen(("eth0",))
    asked: list[str] = []
    monkeypatch.setattr(guard._reader, "find_problem", lambda device, *_: asked.append(device) or "no chain out-eth0")
    assert guard.find_fallen(("eth0",))
    assert asked == ["eth0"] * 3


def test_a_firewall_that_does_not_answer_is_told(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close("eth0", ALLOWED)
    nft.unlistable = errno.EACCES
    for ask in (lambda device: guard.find_fallen((device,)), guard.lift, lambda device: guard.list_devices()):
        with pytest.raises(GuardError, match="Permission denied$"):
            ask("eth0")
    with pytest.raises(GuardError, match="Permission denied"):
        guard.find_fallen([f"eth{number}" for number in range(40)])


def test_all_guards_are_judged_from_one_listing(nft: FakeNftables, guard: nftables.Firewall, monkeypatch) -> None:
    devices = [f"eth{number}" for number in range(40)]
    for device in devices:
        guard.close(device, ALLOWED)
    nft.listed = 0
    plug(monkeypatch, "eth0", "eth7")
    wanted = {"eth7": UNHOOKED}
    guard.close("eth0", ALLOWED)
    assert guard.find_fallen(devices) == wanted
    assert nft.listed <= 3 * 3  # three tables, three attempts while something is missing
    guard.close("eth7", ALLOWED)
    nft.listed = 0
    assert guard.find_fallen(devices) == {} and nft.listed == 3
    assert guard.find_fallen(devices[:3]) == {} and nft.listed == 3  # few are asked for one by one
    nft.tables[INET]["chain"]["out-eth3"]["rules"].clear()
    assert guard.find_fallen(devices) == {"eth3": "0 rules instead of 2 in chain out-eth3 in table inet netconf-guard"}
    assert guard.find_fallen(["eth1", "eth2"]) == guard.find_fallen([]) == {}


def test_many_are_closed_in_one_transaction(nft: FakeNftables, guard: nftables.Firewall) -> None:
    devices = [f"eth{number}" for number in range(5)]
    guard.close_all([Closing(device, ALLOWED) for device in devices])
    assert len(nft.ran) == 1
    assert not guard.find_fallen(devices)
    together = json.dumps(nft.tables, sort_keys=True)
    nft.tables.clear()
    for device in devices:
        guard.close(device, ALLOWED)
    assert json.dumps(nft.tables, sort_keys=True) == together


def test_of_many_the_one_that_does_not_stand_is_named(
    nft: FakeNftables, guard: nftables.Firewall, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = nft.run

    def forget(text: str) -> str:
        answer = real(text)
        nft.tables[INET]["chain"].pop("out-eth3", None)
        return answer

    monkeypatch.setattr(nft, "run", forget)
    problem = "eth3: the rules are not in the kernel as they were written: no chain out-eth3"
    with pytest.raises(GuardError, match=problem):
        guard.close_all([Closing(f"eth{number}", ALLOWED) for number in range(5)])


def test_looks_begin_in_one_transaction(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close_all([Closing(device, ()) for device in ("eth0", "eth1")])
    nft.ran.clear()
    guard.begin_looks({"eth0": "00000001", "eth1": "00000002"})
    assert len(nft.ran) == 1
    window = Window(OPEN, (Exemption(),), time.time() + 30)
    with pytest.raises(TokenGone):
        guard.open_window("eth1", window, "00000001")
    guard.open_window("eth1", window, "00000002")
    with pytest.raises(GuardError, match="eth0, wlan0: not guarded, so no look can open it"):
        guard.begin_looks({"eth0": "00000003", "wlan0": "00000004"})


# Windows


@pytest.mark.parametrize("name", [OPEN, PORTAL, PROBE, NAMES])
def test_a_window(nft: FakeNftables, guard: nftables.Firewall, name: str) -> None:
    """Open, both tables have its rules, and the device is in its set; shut, nothing of it is left."""
    guard.close("eth0", ALLOWED)
    guard.open_window("eth0", Window(name, (Exemption("tcp", "", 443),), time.time() + 30))
    assert list_rules(nft, INET, f"{name}-eth0")[1:] == ["tcp dport 443 accept"]
    assert list_rules(nft, NETDEV, f"{name}-eth0")[1] == "tcp dport 443 accept"
    assert nft.tables[INET]["set"][f"{name}-eth0"]["elem"] == ["eth0"]
    assert not guard.find_fallen(("eth0",))
    guard.shut_window("eth0", name)
    for table in (INET, NETDEV):
        assert list_rules(nft, table, f"{name}-eth0") == []
    assert nft.tables[INET]["set"][f"{name}-eth0"]["elem"] == []
    assert not guard.find_fallen(("eth0",))


@pytest.mark.parametrize("names", [(OPEN, NAMES, PORTAL), (OPEN, NAMES)])
def test_windows_are_shut_even_if_an_older_version_lacks_one(
    nft: FakeNftables, guard: nftables.Firewall, names: tuple[str, ...]
) -> None:
    guard.close("eth0", ALLOWED, tuple(Window(name, ALLOWED, time.time() + 30) for name in (OPEN, PORTAL)))
    del nft.tables[INET]["set"]["names-eth0"]
    guard.shut_window("eth0", *names)
    assert not any(nft.tables[INET]["set"][f"{name}-eth0"]["elem"] for name in names if name != NAMES)


def test_its_name_is_one_that_records_have(guard: nftables.Firewall) -> None:
    """By it the watcher finds the firewall of a guard again; another one would make the record unreadable."""
    assert guard.name == "nftables" and guard.name in FIREWALLS


def test_a_window_that_is_over_is_shut(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close("eth0", ALLOWED, (Window(PORTAL, ALLOWED, time.time() + 30),))
    assert nft.tables[INET]["set"]["portal-eth0"]["elem"] == ["eth0"]
    guard.open_window("eth0", Window(PORTAL, ALLOWED, time.time()))
    assert nft.tables[INET]["set"]["portal-eth0"]["elem"] == []
    guard.close("eth0", ALLOWED, (Window(PORTAL, ALLOWED, time.time() - 1),))
    assert nft.tables[INET]["set"]["portal-eth0"]["elem"] == []
    assert list_rules(nft, INET, "portal-eth0") == list_rules(nft, NETDEV, "portal-eth0") == []


def test_a_window_of_no_guard_can_not_be_opened(nft: FakeNftables, guard: nftables.Firewall) -> None:
    with pytest.raises(GuardError, match="eth0: not guarded, so no window"):
        guard.open_window("eth0", Window(OPEN, (Exemption(),), time.time() + 30))
    guard.shut_window("eth0", OPEN)  # nothing is open there
    assert nft.tables == {}


def test_a_window_that_can_not_be_shut_is_told(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close("eth0", ALLOWED)
    nft.broken = ["Error: Could not process rule: Device or resource busy"]
    with pytest.raises(GuardError, match="eth0: Could not process rule: Device or resource busy"):
        guard.shut_window("eth0", OPEN)


def test_whether_a_link_is_open(nft: FakeNftables, guard: nftables.Firewall) -> None:
    """Without a guard it is; what the firewall does not say is an error."""
    assert guard.is_open("eth0")
    guard.close("eth0", ())
    assert not guard.is_open("eth0")
    guard.open_window("eth0", Window(PORTAL, ALLOWED, time.time() + 30))
    assert not guard.is_open("eth0")
    guard.open_window("eth0", Window(OPEN, (Exemption(),), time.time() + 30))
    assert guard.is_open("eth0")
    nft.broken = ["Error: Operation not permitted"]
    with pytest.raises(GuardError, match="^Operation not permitted$"):
        guard.is_open("eth0")


def test_an_open_window_is_renewed_and_a_shut_one_stays_shut(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close("eth0", ())
    window = Window(OPEN, (Exemption(),), time.time() + 30)
    assert not guard.renew_window("eth0", window)
    assert not guard.is_open("eth0")
    guard.open_window("eth0", window)
    later = Window(OPEN, (Exemption(),), time.time() + 3000)
    assert guard.renew_window("eth0", later)
    for table in (INET, NETDEV):
        assert list_rules(nft, table, "open-eth0")[0] == f"meta time >= {int(later.until) + 1} return"
    with pytest.raises(GuardError, match="eth0: can't be renewed into the past"):
        guard.renew_window("eth0", Window(OPEN, (Exemption(),), time.time()))


# What a link is made of


def test_what_is_a_bridge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "br0/bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    monkeypatch.setattr(nftables, "SYSFS", str(tmp_path))
    assert [device for device in ("br0", "eth0", "wlan0") if nftables.is_bridge(device)] == ["br0"]


BRIDGE = "bridge netconf-guard"
PORTS = Ports(True, ("eth1",), (7, 9), (12,))


@pytest.fixture
def bridged(nft: FakeNftables, guard: nftables.Firewall, monkeypatch: pytest.MonkeyPatch) -> nftables.Firewall:
    """The guard, on a machine with the bridges br0 and br1."""
    plug(monkeypatch, "br0", "br1")
    monkeypatch.setattr(nftables, "is_bridge", lambda device: device in ("br0", "br1"))
    return guard


def test_a_bridge_is_closed_for_its_guests_too(nft: FakeNftables, bridged: nftables.Firewall) -> None:
    bridged.close("br0", ALLOWED, ports=PORTS)
    assert not bridged.find_fallen(("br0",))
    assert sorted(nft.tables[BRIDGE]["set"]["guests-br0"]["elem"]) == ["7", "9"]
    del nft.tables[BRIDGE]
    assert bridged.find_fallen(("br0",)) == {"br0": "no chain forward-br0 in table bridge netconf-guard"}


@pytest.mark.parametrize("knows", [True, False])
def test_a_kernel_that_does_not_know_to_which_bridge_a_port_belongs(
    nft: FakeNftables, bridged: nftables.Firewall, knows: bool
) -> None:
    """Without CONFIG_NFT_BRIDGE_META each port that is not known to be another bridge's counts as this one's."""
    nft.broken = [] if knows else ["Error: Could not process rule: No such file or directory"]
    bridged.close("br0", ALLOWED, ports=PORTS)
    [rule] = list_rules(nft, BRIDGE, "forward-br0")
    assert rule == ('meta obrname "br0"' if knows else "oif != @others-br0") + " jump frames-br0"


def test_an_open_bridge_is_open_for_its_guests_until_it_is_shut(
    nft: FakeNftables, bridged: nftables.Firewall
) -> None:
    bridged.close("br0", ALLOWED, ports=PORTS)
    bridged.open_window("br0", Window(PORTAL, ALLOWED, time.time() + 30))
    assert nft.tables[BRIDGE]["set"]["open-br0"]["elem"] == list_rules(nft, BRIDGE, "open-br0") == []
    bridged.open_window("br0", Window(OPEN, (Exemption(),), time.time() + 30))
    assert nft.tables[BRIDGE]["set"]["open-br0"]["elem"] == ["ether"]
    assert list_rules(nft, BRIDGE, "open-br0")[-1] == "accept"
    bridged.shut_window("br0", OPEN)
    assert nft.tables[BRIDGE]["set"]["open-br0"]["elem"] == list_rules(nft, BRIDGE, "open-br0") == []


def test_a_bridge_that_has_gone_is_shut_for_its_guests_too(
    nft: FakeNftables, bridged: nftables.Firewall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come back under the same name before its lease is over."""
    bridged.close("br0", ALLOWED, (Window(OPEN, (Exemption(),), time.time() + 30),), ports=PORTS)
    assert nft.tables[BRIDGE]["set"]["open-br0"]["elem"] == ["ether"]
    plug(monkeypatch)
    monkeypatch.setattr(nftables, "is_bridge", lambda device: False)
    bridged.shut_window("br0", OPEN)
    assert nft.tables[BRIDGE]["set"]["open-br0"]["elem"] == []


def test_guests_reach_the_lan_while_its_window_is_open(nft: FakeNftables, bridged: nftables.Firewall) -> None:
    bridged.close("br0", ALLOWED, ports=PORTS)
    bridged.open_window("br0", Window(LAN, (Exemption(network="192.168.1.0/24"),), inf))
    assert list_rules(nft, BRIDGE, "lan-br0")[-1] == "ip daddr 192.168.1.0/24 goto decided-br0"
    bridged.shut_window("br0", OPEN)
    assert list_rules(nft, BRIDGE, "lan-br0")
    bridged.shut_window("br0", OPEN, LAN)
    assert list_rules(nft, BRIDGE, "lan-br0") == []


@pytest.mark.parametrize("ports, sets", [
    (Ports(True, ("eth1",), (9, 7), (12,)), None),
    (Ports(True, ("eth1", 'a"b'), (7, 9), (12,)), None),  # no rule can name it
    (Ports(True, ("eth1", "eth2"), (7, 9), (12,)), {"ports": ["eth1", "eth2"]}),
    (Ports(True, ("eth1",), (7,), (12,)), {"guests": ["7"]}),
    (Ports(True, ("eth1",), (7, 9), ()), {"others": []}),
])
def test_ports_that_come_and_go(
    nft: FakeNftables, bridged: nftables.Firewall, ports: Ports, sets: dict[str, list[str]] | None
) -> None:
    """The firewall is only told if it does not know them yet."""
    bridged.close("br0", ALLOWED, ports=PORTS)
    nft.ran.clear()
    bridged.change_ports("br0", ports)
    assert len(nft.ran) == (0 if sets is None else 1)
    for name, elements in (sets or {}).items():
        table = INET if name == "ports" else BRIDGE
        assert nft.tables[table]["set"][f"{name}-br0"]["elem"] == elements


def test_what_a_bond_is_made_of_has_no_guests(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close("eth0", ALLOWED, ports=Ports(False, ("eth1",)))
    assert BRIDGE not in nft.tables
    assert list_rules(nft, INET, "pass-eth0")[0] == "oifname @open-eth0 jump open-eth0"
    assert nft.tables[INET]["set"]["ports-eth0"]["elem"] == ["eth1"]
    assert not guard.find_fallen(("eth0",))


def test_a_bridge_is_lifted_without_the_other(nft: FakeNftables, bridged: nftables.Firewall) -> None:
    bridged.close("br1", ALLOWED, ports=PORTS)
    before = json.dumps(nft.tables, sort_keys=True)
    bridged.close("br0", ALLOWED, (Window(OPEN, (Exemption(),), time.time() + 30),), ports=PORTS)
    bridged.lift("br0")
    assert json.dumps(nft.tables, sort_keys=True) == before
    bridged.lift("br1")
    assert nft.tables == {}


# Taking away


def test_the_last_guard_takes_the_tables_with_it(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close("eth0", ALLOWED)
    guard.close("wlan0", ALLOWED)
    guard.lift("eth0")
    assert guard.find_fallen(("eth0",))
    assert not guard.find_fallen(("wlan0",))
    for table in (INET, NETDEV):
        assert not [name for kind in nft.tables[table].values() for name in kind if "eth0" in name]
    assert all([key for key, _ in found["elem"]] == ["wlan0"] for found in nft.tables[INET]["map"].values())
    guard.lift("wlan0")
    assert nft.tables == {}
    guard.lift("wlan0")  # nothing stands: nothing to do


def test_what_can_not_be_lifted_is_told_after_three_attempts(nft: FakeNftables, guard: nftables.Firewall) -> None:
    guard.close("eth0", ALLOWED)
    nft.ran.clear()
    real = nft.run
    nft.run = lambda text: "Error: busy" if text.startswith("delete") else real(text)  # type: ignore[method-assign]
    with pytest.raises(GuardError, match="eth0: busy"):
        guard.lift("eth0")


def test_a_guard_that_changes_while_it_is_lifted_is_lifted_all_the_same(
    nft: FakeNftables, guard: nftables.Firewall
) -> None:
    guard.close("eth0", ALLOWED)
    real, failed = nft.run, []

    def fail_twice(text: str) -> str:
        if text.startswith("delete") and len(failed) < 2:
            failed.append(text)
            return MISSING
        return real(text)

    nft.run = fail_twice  # type: ignore[method-assign]
    guard.lift("eth0")
    assert nft.tables == {}


# What nftables itself says


@pytest.mark.parametrize("ask", [
    lambda guard, device: guard.close(device, ALLOWED),
    lambda guard, device: guard.open_window(device, Window(OPEN, (Exemption(),), time.time() + 30)),
    lambda guard, device: guard.shut_window(device, OPEN),
    lambda guard, device: guard.lift(device),
    lambda guard, device: not guard.find_fallen((device,)),
    lambda guard, device: guard.renew_window(device, Window(OPEN, (Exemption(),), time.time() + 30)),
    lambda guard, device: guard.change_ports(device, Ports(False, ("eth1",))),
    lambda guard, device: guard.is_open(device),
    lambda guard, device: guard.begin_look(device, "00000001"),
    lambda guard, device: guard.close_early(device, 5.0),
    lambda guard, device: guard.lift_early(device),
    lambda guard, device: guard.shut_all({device: (OPEN,)}),
])
def test_a_device_that_no_rule_can_name(
    nft: FakeNftables, guard: nftables.Firewall, ask: Callable[[nftables.Firewall, str], object]
) -> None:
    """It is refused before nftables gets to see it."""
    nft.run = lambda text: pytest.fail(text)  # type: ignore[method-assign]
    with pytest.raises(GuardError, match="can't be guarded"):
        ask(guard, 'eth0"; flush ruleset; #')


def test_no_right_to_the_firewall(nft: FakeNftables) -> None:
    nft.unlistable = errno.EPERM
    with pytest.raises(GuardError, match="^Operation not permitted$"):
        nftables.Firewall()


def test_the_timeout_of_a_window(nft: FakeNftables, guard: nftables.Firewall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days, seconds and milliseconds; at most ten years, at least one millisecond."""
    for left, text in ((30.5, "0d30s500ms"), (86400 * 2 + 3.25, "2d3s250ms"), (1e12, "3650d0s0ms")):
        [element] = nft_rules.render_element("eth0", Window(OPEN, (), 1000.0 + left), 1000.0)
        assert element == f'add element {INET} open-eth0 {{ "eth0" timeout {text} }}'
    assert nft_rules.render_element("eth0", Window(OPEN, (), 1000.0), 1000.0) == []
    assert nft_rules.render_element("eth0", Window(OPEN, (), 1000.0015), 1000.0) != []
