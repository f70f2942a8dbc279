"""A mapping sets the link up before any hook runs, and a router advertisement gives it an IPv6 address."""

from __future__ import annotations

import pytest

from ..network import CAFE, HOME
from ..waiting import wait_until
from .scene import BOTH, NO_GUARD, Scene

# A neighbour that does not answer is waited for, which takes 2 s (`observe.peer.PATIENCE`).
MAPPING = f"""\
mapping eth0
    script /usr/lib/netconf-hooks/map
    map home-lan peer={HOME.router}/{HOME.router_mac}
    map default: {{default}}

iface home-lan inet dhcp"""
GUESSNET = f"""\
mapping eth0
    script /usr/sbin/guessnet-ifupdown
    map home-lan
    map timeout: 3
    map default: {{default}}

iface home-lan inet dhcp
    test peer address {HOME.router} mac {HOME.router_mac}"""
TABLE = "netconf-guard-early"


def list_tables(scene: Scene) -> str:
    """Return the names of the firewall's tables."""
    return scene.laptop.run(["nft", "list", "tables"]).stdout


@BOTH
@pytest.mark.parametrize("mapping", [MAPPING, GUESSNET], ids=["map", "guessnet"])
def test_nothing_leaves_while_a_mapping_asks(scene: Scene, mapping: str) -> None:
    """First where ifup refuses the interface afterwards, so that all that is sent is sent during the mapping."""
    scene.write_stanza("trust hints", vpn="", head=mapping.format(default="nothing"))
    scene.lab.plug(CAFE.name)
    scene.forget()
    scene.laptop.ifup("eth0", check=False)
    scene.judge("while the mapping asks", "root/udp6/beyond", "nobody/tcp6/beyond")
    assert TABLE not in list_tables(scene)
    assert ",UP" not in scene.laptop.run(["ip", "-o", "link", "show", "dev", "eth0"]).stdout
    if scene.guarded:
        scene.write_stanza("trust hints", vpn="", head=mapping.format(default="home-lan"))
        scene.laptop.ifup("eth0")
        scene.judge("during ifup, and after it")
        assert scene.read_guard() == "closed"
        assert TABLE not in list_tables(scene)


@pytest.mark.parametrize("guard", ["nftables"])
def test_a_killed_mapping_leaves_nothing_closed(scene: Scene) -> None:
    """The kernel opens the link again, and the next mapping takes away what is left."""
    scene.write_stanza("trust hints", vpn="", head=MAPPING.format(default="nothing"))
    scene.laptop.write("/usr/local/sbin/hang", "#!/bin/sh\nexec tail -f /dev/null\n", 0o755)
    scene.lab.plug(CAFE.name)
    scene.forget()
    lines = "home-lan command=/usr/local/sbin/hang\ntimeout: 5\n"
    scene.laptop.start(["/usr/lib/netconf-hooks/map", "eth0"], text=lines)
    wait_until(lambda: TABLE in list_tables(scene), "the link to be closed")
    # Between fork(2) and execve(2), the program that it starts has the same name.
    pids = [pid for pid, command in scene.laptop.processes().items() if command.endswith("netconf-hooks/map eth0")]
    scene.laptop.run(["kill", "-KILL", str(min(pids))])
    scene.judge("after the mapping was killed")
    show = ["nft", "list", "set", "inet", f"{TABLE}-eth0", "closed"]
    wait_until(lambda: "expires" not in scene.laptop.run(show).stdout, "the link to open", 30)
    scene.laptop.run(["ip", "link", "set", "eth0", "down"])
    scene.laptop.ifup("eth0", check=False)
    assert TABLE not in list_tables(scene)


@pytest.mark.parametrize("guard", [NO_GUARD])
def test_without_a_guard_nothing_changes(scene: Scene) -> None:
    """No table is made, whatever is asked."""
    scene.write_stanza("guard no", vpn="", head=MAPPING.format(default="home-lan"))
    scene.lab.plug(CAFE.name)
    scene.laptop.start(["sh", "-c", "exec nft monitor new >/run/monitored"])
    scene.laptop.ifup("eth0")
    scene.judge("after ifup", "root/udp4/beyond")
    assert TABLE not in scene.laptop.run(["cat", "/run/monitored"]).stdout
