"""What the table netdev says of frames that are not what they seem."""

from __future__ import annotations

import pytest

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import OPEN, Window, nft_rules, nftables

NOW = 1_700_000_000.0


def test_a_frame_is_read_as_ip_only_if_it_is_sent_as_ip() -> None:
    """The type in the frame is looked at before any exemption, but only where frames have one."""
    frames = nft_rules.build_frame_chains("eth0", (Exemption("", "192.0.2.0/24"),), (), NOW)["frames-eth0"]
    assert frames[:4] == (
        "jump open-eth0",
        "meta oiftype ether @ll,96,16 { 0x8100, 0x88a8 } drop",
        "meta oiftype ether meta protocol ip @ll,96,16 != 0x0800 drop",
        "meta oiftype ether meta protocol ip6 @ll,96,16 != 0x86dd drop",
    )
    assert all(rule.startswith("meta oiftype ether ") for rule in frames if rule.endswith(" drop") and "@ll" in rule)


@pytest.mark.parametrize(
    "exemption, rule",
    [
        (Exemption(uids=(1000,)), "meta protocol { ip, ip6 } meta skuid { 1000 }"),
        (Exemption(mark=7), "meta protocol { ip, ip6 } meta mark 0x7"),
        (Exemption("tcp"), "meta l4proto tcp"),
        (Exemption("", "0.0.0.0/0"), "meta protocol ip"),
        (Exemption(), ""),
    ],
)
def test_an_exemption_is_for_ip(exemption: Exemption, rule: str) -> None:
    """Only an open link is open for everything else, too."""
    assert nft_rules.render_frames(exemption) == (rule,)


def test_an_open_link_is_open_for_all_frames() -> None:
    window = Window(OPEN, (Exemption(),), NOW + 30)
    assert nft_rules.build_frame_window(window) == (f"meta time >= {int(NOW) + 31} return", "accept")


def test_the_groups_that_every_host_is_in() -> None:
    """Reports of these pass, whoever has the guard, in both tables; of no others."""
    reports = (
        "ip6 hoplimit 1 ip6 daddr ff02::16 icmpv6 type mld2-listener-report accept",
        "ip6 hoplimit 1 ip6 daddr ff02::2 icmpv6 type mld-listener-done accept",
        "ip6 hoplimit 1 ip6 daddr ff02::1:ff00:0/104 icmpv6 type mld-listener-report accept",
    )
    for rules in (nft_rules.ALWAYS, nft_rules.FRAMES):
        assert tuple(rule for rule in rules if "hoplimit 1 " in rule) == reports


def test_whether_a_device_is_there() -> None:
    assert nftables._exists("lo")
    assert not nftables._exists("no-such-device")


def test_every_window_is_asked_before_a_frame_is_dropped() -> None:
    """That of an open link before a VLAN's tag is looked at, the others after that; each once."""
    frames = nft_rules.build_frame_chains("eth0", (), (), NOW)["frames-eth0"]
    assert [rule for rule in frames if rule.startswith("jump ")] == [
        "jump open-eth0", "jump portal-eth0", "jump probe-eth0", "jump names-eth0", "jump lan-eth0",
    ]  # fmt: skip
    assert frames[0] == "jump open-eth0"
    assert frames[4:8] == ("jump portal-eth0", "jump probe-eth0", "jump names-eth0", "jump lan-eth0")
