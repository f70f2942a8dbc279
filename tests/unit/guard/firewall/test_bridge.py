"""What nftables makes of a bridge's guests and of ports, as text; that it does what it says is shown in the lab."""

from math import inf

import pytest

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import LAN, OPEN, PORTAL, Window, bridge, nft_rules
from netconf_hooks.observation import Ports
from netconf_hooks.system.nf_tables import Chain

NOW = 1_700_000_000.0
PORTS = Ports(True, ("eth0",), (7, 9), (12,))
ALLOWED = Exemption("udp", "", 123, guests=True)
HOSTS = Exemption("udp", "203.0.113.1/32", 1194, uids=(0,))
OPENED = Window(OPEN, (Exemption(),), NOW + 30)


def build(*exemptions, windows=()):
    return bridge.build_guest_chains("br0", exemptions, windows, NOW)


def test_guests_get_what_the_admin_allows_and_nothing_of_the_hosts():
    frames = build(ALLOWED, HOSTS)["frames-br0"]
    assert "udp dport 123 goto decided-br0" in frames
    assert not any("1194" in rule for rule in frames)
    assert not any("frag" in rule for rule in frames), "later fragments tell no port, and nothing else would stop them"
    assert not any("0x888e" in rule or "0x88c7" in rule for rule in frames), "802.1X is the host's affair"
    assert any(rule.startswith("meta protocol 0x0806") for rule in frames)


def test_what_is_not_known_to_be_a_guests_is_outside():
    frames = build()["frames-br0"]
    assert frames[0] == "oif @guests-br0 goto decided-br0"
    assert frames[-1] == f'counter name "dropped-br0" drop comment "behind {len(frames) - 1} rules"'
    assert all(rule.endswith("goto decided-br0") for rule in frames[3:-2])
    assert frames[-2] == "jump lan-br0"


def test_guests_reach_the_lan_while_the_bridge_is_on_it():
    window = Window(LAN, (Exemption(network="192.168.1.0/24"), Exemption("udp", "224.0.0.251/32", 5353)), inf)
    assert build()["lan-br0"] == ()
    rules = build(windows=(window,))["lan-br0"]
    assert rules[-2:] == (
        "ip daddr 192.168.1.0/24 goto decided-br0", "ip daddr 224.0.0.251/32 udp dport 5353 goto decided-br0"
    )  # fmt: skip
    assert all(rule.endswith("goto decided-br0") for rule in rules)
    assert not any("accept" in rule for rule in rules)  # a rule has one verdict
    commands = bridge.render_arriving("br0", window)
    assert commands[0] == "flush chain bridge netconf-guard lan-br0" == bridge.render_leaving("br0")[0]
    assert commands[1:] == [f"add rule bridge netconf-guard lan-br0 {rule}" for rule in rules]


@pytest.mark.parametrize("windows, rules", [
    ((), 0),
    ((OPENED,), 2),
    ((Window(OPEN, (Exemption(),), NOW),), 0),
    ((Window(PORTAL, (Exemption("tcp", port=80),), NOW + 30),), 0),
])
def test_only_an_open_guard_is_open_for_guests(windows, rules):
    chains = build(windows=windows)
    assert len(chains["open-br0"]) == rules
    commands = bridge.render_bridge("br0", PORTS, (), windows, NOW, True)
    assert any(command.startswith("add element bridge netconf-guard open-br0") for command in commands) is bool(rules)
    if rules:
        assert chains["open-br0"] == ("meta time >= 1700000031 return", "accept")


@pytest.mark.parametrize("by_bridge, belongs", [(True, 'meta obrname "br0"'), (False, "oif != @others-br0")])
def test_whose_frames_they_are(by_bridge, belongs):
    commands = bridge.render_bridge("br0", PORTS, (ALLOWED,), (OPENED,), NOW, by_bridge)
    assert f"add rule bridge netconf-guard forward-br0 {belongs} jump frames-br0" in commands
    output = f"add rule bridge netconf-guard output-br0 {belongs} meta mark"
    assert any(command.startswith(output) for command in commands)
    assert 'add element bridge netconf-guard guests-br0 { 7, 9 }' in commands
    assert 'add element bridge netconf-guard others-br0 { 12 }' in commands


def test_a_port_that_no_rule_can_name_counts_as_outside():
    assert bridge.list_nameable(('a"b', "tap0", "x y", "e" * 16)) == ("tap0",)
    assert bridge.render_ports("br0", Ports(True, ('a"b', "tap0")))[-1].endswith(' ports-br0 { "tap0" }')


def test_whose_a_port_is_goes_by_its_index():
    """A card that gets the name of a guest's port which was removed is no guest."""
    assert bridge.render_members("br0", Ports(True, ("eth0",), (7,))) == [
        "flush set bridge netconf-guard guests-br0", "add element bridge netconf-guard guests-br0 { 7 }",
        "flush set bridge netconf-guard others-br0",
    ]  # fmt: skip
    commands = bridge.render_bridge("br0", PORTS, (), (), NOW, True)
    for name in ("guests", "others"):
        assert f"add set bridge netconf-guard {name}-br0 {{ type iface_index; }}" in commands


def test_the_ports_own_packets_go_the_way_of_the_links():
    commands = bridge.render_ports("bond0", Ports(False, ("eth0", "wlan0")))
    assert "add rule inet netconf-guard ports-bond0 oifname @ports-bond0 jump out-bond0" in commands
    assert "add rule inet netconf-guard portforward-bond0 oifname @ports-bond0 jump forward-bond0" in commands
    assert commands[-1] == 'add element inet netconf-guard ports-bond0 { "eth0", "wlan0" }'


def test_what_was_decided_is_not_decided_again():
    plain = nft_rules.build_chains("br0", (ALLOWED,), (), NOW)
    held = nft_rules.build_chains("br0", (ALLOWED,), (), NOW, bridge.DECIDED)
    for chain in ("pass-br0", "forward-br0"):
        assert held[chain] == (f"{bridge.DECIDED} accept", *plain[chain])
    assert not any(bridge.DECIDED in rule for rules in plain.values() for rule in rules)
    # Other programs' marks are kept, but for the upper eight bits.
    assert bridge.DECIDED == "meta mark & 0xff000000 == 0x67000000"
    assert build()["decided-br0"] == ("meta mark set meta mark & 0xffffff | 0x67000000 accept",)
    mark = 0x6E636866  # of our own probes: netconf_hooks.evidence.connection
    assert mark & 0xFF000000 != 0x67000000


def stand():
    """The chains of a table as `nf_tables.Tables` returns them."""
    return {
        "decided-br0": Chain(rules=1), "open-br0": Chain(), "forward-br0": Chain(2, -200, (), 1),
        "output-br0": Chain(3, -200, (), 1), "lan-br0": Chain(),
        "frames-br0": Chain(rules=2, drops=True, comment="behind 1 rules"),
    }  # fmt: skip


@pytest.mark.parametrize("name, chain, problem", [
    ("frames-br0", Chain(rules=2, drops=False, comment="behind 1 rules"), "no drop at the end"),
    ("frames-br0", Chain(rules=1, drops=True, comment="behind 1 rules"), "no drop at the end"),
    ("frames-br0", Chain(), "no drop at the end"),
    ("forward-br0", Chain(1, -200, (), 1), "another chain forward-br0"),
    ("forward-br0", Chain(2, 0, (), 1), "another chain forward-br0"),
    ("output-br0", Chain(3, -200), "another chain output-br0"),
    ("decided-br0", Chain(rules=2), "another chain decided-br0"),
])
def test_what_somebody_changed_is_noticed(name, chain, problem):
    standing = stand()
    assert bridge.find_problem(standing, "br0") == ""
    standing[name] = chain
    assert bridge.find_problem(standing, "br0").startswith(problem)
    del standing[name]
    assert bridge.find_problem(standing, "br0") == f"no chain {name} in table bridge netconf-guard"
    assert bridge.find_problem(standing, "br1")
