"""A rule that can't be read opens nothing and stops nothing."""

from __future__ import annotations

import pytest

from ..network import CAFE, HOME
from ..stanzas import find_tunnels
from .scene import BOTH, Scene

LEAKS = ("root/udp4/beyond", "nobody/tcp4/beyond", "container/udp4/beyond")


def make_locations(*lines: str) -> str:
    """Return the location lines of a stanza."""
    return "".join(f"    netconf-location {line}\n" for line in lines)


CAFE_LINE = f"cafe gateway-mac={CAFE.router_mac}"
HOME_LINE = f"home gateway-mac={HOME.router_mac}"


@BOTH
@pytest.mark.parametrize("guard_rule, lines", [
    ("on cafe", ["cafe gateway-mac=02:00:5e:00:03:zz"]),
    ("on cafe", [f"cafe dns-domian={CAFE.domain}", "cafe gateway-mac=02:00:5e:00:03:09"]),
    ("on atic", [f"attic gateway-mac={CAFE.router_mac}"]),
    ("unless attic", [f"cafe gatway-mac={CAFE.router_mac}", f"attic gateway={CAFE.router}"]),
], ids=["the-only-line", "one-of-two-lines", "the-word", "a-line-before"])  # fmt: skip
def test_a_guard_that_can_not_be_read(scene: Scene, guard_rule: str, lines: list[str]) -> None:
    """In the cafe, for which it is written."""
    # Of a tunnel nothing is said: all that is sent must be stopped by the guard alone.
    scene.write_stanza("trust hints", guard=guard_rule, vpn="", locations=make_locations(*lines))
    scene.lab.plug(CAFE.name)
    said = scene.laptop.ifup("eth0").stderr
    scene.judge("after ifup", *LEAKS)
    scene.laptop.run(["netconf-hooks", "refresh"])
    scene.judge("after refresh", *LEAKS)
    if scene.guarded:
        assert scene.read_guard() == "closed"
        checked = scene.laptop.run(["netconf-hooks", "check", "eth0"], check=False)
        explained = scene.laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
        because = "no netconf-location defines" if guard_rule == "on atic" else "can't be read: the guard stays closed"
        assert checked.returncode == 1
        assert f'eth0: error: netconf-guard "{guard_rule}": ' in checked.stdout
        assert because in checked.stdout
        assert f'  error: netconf-guard "{guard_rule}": ' in explained
        assert f"  netconf-guard {guard_rule}: closed: " in explained
        assert f'netconf-hooks: eth0: netconf-guard "{guard_rule}": ' in said


@pytest.mark.parametrize("guard", ["none"])
@pytest.mark.parametrize("rule, lines", [
    ("on cafe", ["cafe gateway-mac=02:00:5e:00:03:zz"]),
    ("on cafee", [CAFE_LINE]),
    ("unless home", ["cafe gatway=1", HOME_LINE]),
])
def test_a_running_tunnel_is_not_stopped(scene: Scene, rule: str, lines: list[str]) -> None:
    """It was started by a rule that could be read; then the rule is edited, and ifup runs again."""
    place = HOME if rule == "unless home" else CAFE
    scene.write_stanza(vpn="openvpn corp on cafe home", locations=make_locations(CAFE_LINE, HOME_LINE))
    scene.arrive(place.name)
    pid = scene.wait_for_tunnel()
    scene.write_stanza(vpn=f"openvpn corp {rule}", locations=make_locations(*lines))
    scene.laptop.ifup("--force", "eth0")
    scene.laptop.run(["netconf-hooks", "refresh"])
    assert find_tunnels(scene.lab) == [pid]
    scene.write_stanza(vpn="openvpn corp unless cafe home", locations=make_locations(CAFE_LINE, HOME_LINE))
    scene.laptop.ifup("--force", "eth0")
    assert find_tunnels(scene.lab) == []
