"""What both firewalls make of one list of exemptions, as text; that it does what it says is shown in the lab."""

from __future__ import annotations

import ipaddress
import re
from math import inf

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import (
    GuardError, JOINS, LAN, NAMES, OPEN, PORTAL, PROBE, WINDOWS, Window, check_device, check_exemption,
    iptables, nft_rules, read_network
)  # fmt: skip

NOW = 1_700_000_000.0

# (exemption, nftables inet, nftables netdev, iptables, ip6tables)
RENDERED = [
    (Exemption(), "", ("",), ("",), ("",)),
    (
        Exemption("udp", "203.0.113.1/32", 1194, uids=(65534, 0)),
        "ip daddr 203.0.113.1/32 udp dport 1194 meta skuid { 0, 65534 }",
        (
            "ip daddr 203.0.113.1/32 udp dport 1194 meta skuid { 0, 65534 }",
            "ip frag-off & 0x1fff != 0 meta l4proto udp ip daddr 203.0.113.1/32 meta skuid { 0, 65534 }",
        ),
        (
            "-d 203.0.113.1/32 -p udp -m udp --dport 1194 -m owner --uid-owner 0",
            "-d 203.0.113.1/32 -p udp -m udp --dport 1194 -m owner --uid-owner 65534",
        ),
        (),
    ),
    (
        Exemption("tcp", "2001:db8::/32", 443, mark=0x6E63),
        "ip6 daddr 2001:0db8:0000:0000:0000:0000:0000:0000/32 tcp dport 443 meta mark 0x6e63",
        (
            "ip6 daddr 2001:0db8:0000:0000:0000:0000:0000:0000/32 tcp dport 443 meta mark 0x6e63",
            "frag frag-off != 0 meta l4proto tcp ip6 daddr 2001:0db8:0000:0000:0000:0000:0000:0000/32 meta mark 0x6e63",
        ),
        (),
        ("-d 2001:db8::/32 -p tcp -m tcp --dport 443 -m mark --mark 0x6e63",),
    ),
    (
        Exemption("tcp", "", source_port=22, reply=True),
        "tcp sport 22 ct direction reply",
        ("tcp sport 22", "ip frag-off & 0x1fff != 0 meta l4proto tcp", "frag frag-off != 0 meta l4proto tcp"),
        ("-p tcp -m tcp --sport 22 -m conntrack --ctdir REPLY",),
        ("-p tcp -m tcp --sport 22 -m conntrack --ctdir REPLY",),
    ),
    (
        Exemption("", "192.0.2.0/24", 53),
        "ip daddr 192.0.2.0/24 meta l4proto { tcp, udp } th dport 53",
        (
            "ip daddr 192.0.2.0/24 meta l4proto { tcp, udp } th dport 53",
            "ip frag-off & 0x1fff != 0 meta l4proto { tcp, udp } ip daddr 192.0.2.0/24",
        ),
        ("-d 192.0.2.0/24 -p tcp -m tcp --dport 53", "-d 192.0.2.0/24 -p udp -m udp --dport 53"),
        (),
    ),
    (
        Exemption("esp", "0.0.0.0/0"),
        "meta nfproto ipv4 meta l4proto esp",
        ("meta protocol ip meta l4proto esp",),
        ("-p esp",),
        (),
    ),
    (Exemption("", "::/0"), "meta nfproto ipv6", ("meta protocol ip6",), (), ("",)),
]

PORTS = st.integers(0, 65535)
NETWORKS = st.one_of(st.ip_addresses(), st.just(None)).flatmap(
    lambda address: st.just("")
    if address is None
    else st.integers(0, address.max_prefixlen).map(lambda n: str(ipaddress.ip_network((address, n), strict=False)))
)
OPENINGS = st.builds(
    Exemption,
    st.sampled_from(("", "udp", "tcp", "esp")),
    NETWORKS,
    PORTS,
    PORTS,
    st.lists(st.integers(0, 2**32 - 2), max_size=3).map(tuple),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)


def is_possible(exemption: Exemption) -> bool:
    """Say whether a packet can match it."""
    if exemption.protocol == "esp" and (exemption.port or exemption.source_port):
        return False
    return not exemption.reply or (exemption.protocol in ("udp", "tcp") and exemption.source_port > 0)


@pytest.mark.parametrize("exemption, inet, frames, four, six", RENDERED)
def test_rendered(
    exemption: Exemption, inet: str, frames: tuple[str, ...], four: tuple[str, ...], six: tuple[str, ...]
) -> None:
    assert nft_rules.render_exemption(exemption) == inet
    assert nft_rules.render_frames(exemption) == frames
    assert iptables.render_exemption(exemption, 4) == four
    assert iptables.render_exemption(exemption, 6) == six


@settings(suppress_health_check=[HealthCheck.data_too_large])
@given(OPENINGS)
def test_any_opening(exemption: Exemption) -> None:
    """Everything that an exemption asks for stands in each rule; one that no packet can match is refused by both."""
    if not is_possible(exemption):
        in_four = lambda made: iptables.render_exemption(made, 4)  # noqa: E731
        for render in (nft_rules.render_exemption, nft_rules.render_frames, in_four):
            with pytest.raises(GuardError):
                render(exemption)
        return
    text = nft_rules.render_exemption(exemption)
    assert (f"sport {exemption.source_port}" in text) == (exemption.source_port > 0)
    assert (f"dport {exemption.port}" in text) == (exemption.port > 0)
    assert ("skuid" in text) == bool(exemption.uids)
    assert ("mark" in text) == bool(exemption.mark)
    assert ("ct direction reply" in text) == exemption.reply
    assert re.fullmatch(r"[a-z0-9{}:., /_]*", text)
    version = ipaddress.ip_network(exemption.network).version if exemption.network else 0
    rules = {4: iptables.render_exemption(exemption, 4), 6: iptables.render_exemption(exemption, 6)}
    for number, found in rules.items():
        assert bool(found) == (version in (0, number))
        protocols = 2 if not exemption.protocol and (exemption.port or exemption.source_port) else 1
        assert len(found) in (0, protocols * (len(set(exemption.uids)) or 1))
        for rule in found:
            assert ("--ctdir REPLY" in rule) == exemption.reply
            assert (f"--mark {exemption.mark:#x}" in rule) == bool(exemption.mark)
            assert ("--uid-owner" in rule) == bool(exemption.uids)
            assert (f"--dport {exemption.port}" in rule) == (exemption.port > 0)
            assert (f"--sport {exemption.source_port}" in rule) == (exemption.source_port > 0)
    for frame in nft_rules.render_frames(exemption):
        assert ("skuid" in frame) == bool(exemption.uids)
        assert "ct " not in frame


@settings(suppress_health_check=[HealthCheck.data_too_large])
@given(OPENINGS.filter(is_possible), st.sampled_from((OPEN, PORTAL, PROBE, NAMES)), st.floats(-10, 10))
def test_any_window(exemption: Exemption, name: str, left: float) -> None:
    """A window has rules while it is open, each with its end, and none once it is over."""
    window = Window(name, (exemption,), NOW + left)
    chains = nft_rules.build_chains("eth0", (), (window,), NOW)
    frames = nft_rules.build_frame_chains("eth0", (), (window,), NOW)
    open_now = window.until > NOW
    for found in (chains, frames):
        assert bool(found[f"{name}-eth0"]) == open_now
        assert not open_now or found[f"{name}-eth0"][0] == f"meta time >= {int(window.until) + 1} return"
        assert all(not found[f"{other}-eth0"] for other in (OPEN, PORTAL, PROBE, NAMES) if other != name)
    for version in (4, 6):
        *rules, following = iptables.build_window("eth0", name, version, window, NOW)
        assert following.startswith("-g ")
        assert bool(rules) == (open_now and bool(iptables.render_exemption(exemption, version)))
        assert all("--datestart" in rule and "--datestop" in rule for rule in rules)


def test_time_of_a_window_in_iptables() -> None:
    """The last second of a window is the one it ends in, since the match includes it; all is in UTC.

    It begins a little before now, so that a clock set back by more shuts it.
    """
    for until, last in ((NOW + 5, "22:13:24"), (NOW + 5.2, "22:13:25")):
        rules = iptables.build_window("eth0", OPEN, 4, Window(OPEN, (Exemption(),), until), NOW)
        match = f"-m time --datestart 2023-11-14T22:13:15 --datestop 2023-11-14T{last}"
        assert rules == (f"{match} -j RETURN", "-g nchw-portal-eth0")
    rules = iptables.build_window("eth0", PORTAL, 4, Window(PORTAL, (Exemption(),), 1e11), NOW)
    # One second more is no limit for libxt_time, and iptables-save leaves it out.
    assert rules[0] == "-m time --datestart 2023-11-14T22:13:15 --datestop 2038-01-19T03:14:06 -j RETURN"
    assert iptables.render_window(Window(OPEN, (Exemption(),), 3e9), 4, 2.9e9) == ()


def test_whole_chains() -> None:
    """The list of exemptions stands behind what every closed link lets through, and a drop at the end, in both."""
    exemption = Exemption("udp", "203.0.113.1/32", 1194)
    chains = nft_rules.build_chains("eth0", (exemption,), (), NOW)
    assert chains["pass-eth0"][5:-1] == nft_rules.ALWAYS
    assert chains["pass-eth0"][-1] == "ip daddr 203.0.113.1/32 udp dport 1194 accept"
    count = len(chains["pass-eth0"])
    assert chains["out-eth0"][-1] == f'counter name "dropped-eth0" drop comment "behind {count} rules"'
    frames = nft_rules.build_frame_chains("eth0", (exemption,), (), NOW)["frames-eth0"]
    assert frames[0] == "jump open-eth0"
    assert frames[-1] == f'counter name "dropped-eth0" drop comment "behind {len(frames) - 1} rules"'
    chains = iptables.build_chains("eth0", 4, (exemption,), (), NOW)
    assert chains["nch-eth0"] == (
        *iptables.ALWAYS[4],
        "-d 203.0.113.1/32 -p udp -m udp --dport 1194 -j RETURN",
        "-j DROP",
    )
    assert chains["nchf-eth0"] == ("-m policy --dir out --pol ipsec -j RETURN", "-j DROP")


def test_iptables_never_accepts() -> None:
    """Everything returns to the admin's own rules, drops, or goes on to the next chain of ours."""
    windows = tuple(Window(name, (Exemption(),), NOW + 5) for name in WINDOWS)
    for version in (4, 6):
        for rules in iptables.build_chains("eth0", version, (Exemption(),), windows, NOW).values():
            assert all(re.search(r"-j (RETURN|DROP)$|-g nchw?-[a-z0-9-]+$", rule) for rule in rules)


LAN_WINDOW = Window(LAN, (Exemption(network="192.168.1.0/24"), Exemption(network="fe80::/64")), inf)


def test_a_lan_has_no_end_and_leaves_neighbour_discovery_to_the_kernel() -> None:
    """Whatever the clock says; what a process makes up is dropped behind it, also to the LAN's own prefixes."""
    rules = nft_rules.build_chains("eth0", (), (LAN_WINDOW,), NOW)["lan-eth0"]
    assert rules[-2] == "ip daddr 192.168.1.0/24 accept"
    assert rules[-1] == "ip6 daddr fe80:0000:0000:0000:0000:0000:0000:0000/64 accept"
    assert rules[-3].startswith("icmpv6 type {") and rules[-3].endswith("} return")
    assert not any("meta time" in rule for rule in rules)
    joins = [rule for rule in rules if "meta skuid 0-4294967294 return" in rule]
    assert len(joins) == 2 and all(group in " ".join(joins) for groups in JOINS.values() for group in groups)
    element = [command for command in nft_rules.render_element("eth0", LAN_WINDOW, NOW)]
    assert element == ['add element inet netconf-guard lan-eth0 { "eth0" timeout 3650d0s0ms }']
    frames = nft_rules.build_frame_chains("eth0", (), (LAN_WINDOW,), NOW)["lan-eth0"]
    assert frames[0].startswith("ip ttl 1 ip protocol igmp") and frames[-1].startswith("ip6 daddr fe80")


def test_a_lan_with_iptables() -> None:
    for version in (4, 6):
        shut = iptables.build_chains("eth0", version, (), (), NOW)["nchw-lan-eth0"]
        rules = iptables.build_chains("eth0", version, (), (LAN_WINDOW,), NOW)["nchw-lan-eth0"]
        # What is not a window's rule is the same in both: by these a changed guard is noticed.
        assert tuple(rule for rule in rules if not iptables._is_timed(rule)) == shut
        joins = [rule for rule in rules if "! --uid-owner" in rule]
        assert [rule.split()[1].partition("/")[0] for rule in joins] == list(JOINS[version])
        assert rules[: len(joins)] == tuple(joins)
        assert rules[-1] == "-g nch-eth0"
        for now in (0.0, NOW, NOW + 4e8):
            rule = iptables.render_window(LAN_WINDOW, version, now)[-1]
            assert iptables._is_within(rule, NOW) and iptables._is_within(rule, 90000.0)


def test_forwarded_users() -> None:
    """What is forwarded has no user, so an exemption for one lets nothing of it through."""
    window = Window(OPEN, (Exemption("tcp", uids=(1000,)), Exemption("udp")), NOW + 5)
    (rule,) = iptables.build_forward(4, window, NOW)[:-2]
    assert rule.startswith("-p udp -m time ")


HOSTILE = [
    "", "eth0 ", 'eth0"', "eth0;", "eth0\n", "{", "eth*", "eth+", "eth0/1", "eth0:1", "$x", "@set", "#x", "\\", "é",
    "\0", "-g nch", "a" * 16, "eth0,eth1", "!eth0", "\U0001f480",
]  # fmt: skip


@pytest.mark.parametrize("device", HOSTILE)
def test_hostile_device(device: str) -> None:
    with pytest.raises(GuardError, match="can't be guarded"):
        check_device(device)


@given(st.text(max_size=20))
def test_any_device(device: str) -> None:
    """What is accepted means nothing to either firewall; chain names stay within iptables' 28 characters."""
    try:
        check_device(device)
    except GuardError as error:
        assert repr(device) in str(error)
    else:
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", device)
        for version in (4, 6):
            assert all(len(chain) <= 28 for chain in iptables.build_chains(device, version, (), (), NOW))


@pytest.mark.parametrize("device", ["eth0", "wlp2s0", "enx001122334455", "br-lan", "eth0.100", "-", "A_b"])
def test_usual_device(device: str) -> None:
    check_device(device)


@given(st.text(max_size=30))
def test_any_network(text: str) -> None:
    """What is no network is refused, and what is one read as the standard library reads it."""
    try:
        wanted = ipaddress.ip_network(text) if "/" in text and "%" not in text else None
    except ValueError:
        wanted = None
    try:
        address, length = read_network(text)
    except GuardError:
        assert wanted is None or not re.fullmatch(r"\d+", text.partition("/")[2])
    else:
        assert wanted is not None and (wanted.network_address.packed, wanted.prefixlen) == (address, length)


@pytest.mark.parametrize(
    "text", ["192.0.2.1/24", "192.0.2.0", "192.0.2.0/33", "192.0.2.0/-1", "::1/64", "::/129", "fe80::1%eth0/128", "x/1",
             "192.0.2.0/24 accept", "192.0.2.0/24\n", "192.0.2.0/255.255.255.0", "1.2.3/24", "\0/0"]
)  # fmt: skip
def test_hostile_network(text: str) -> None:
    with pytest.raises(GuardError, match="not a network"):
        check_exemption(Exemption("udp", text, 53))


@pytest.mark.parametrize(
    "exemption",
    [
        Exemption("icmp"),
        Exemption("udp; accept"),
        Exemption("udp", port=65536),
        Exemption("udp", port=-1),
        Exemption("udp", uids=(2**32 - 1,)),
        Exemption("udp", uids=(-1,)),
        Exemption("udp", mark=2**32),
        Exemption("esp", port=500),
        Exemption(reply=True),
        Exemption("tcp", port=22, reply=True),
    ],
)
def test_impossible_opening(exemption: Exemption) -> None:
    with pytest.raises(GuardError, match="no firewall can"):
        check_exemption(exemption)
