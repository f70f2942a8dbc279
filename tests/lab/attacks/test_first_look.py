"""The cable is moved during the first look of an ifup, to a network whose router has the same address.

Its carrier stays, as behind a switch, so the kernel has no news of it.  What the look has seen until then is home's.
"""

from __future__ import annotations

from ..network import CAFE, HOME
from ..waiting import wait_until
from . import hostile
from .scene import BOTH, Scene

ADDRESS = "192.168.1.50"
STATIC = f"iface eth0 inet static\n    address {ADDRESS}/24\n    gateway {HOME.router}"
# The router's MAC address is known at once, and the program's answer takes until the cable is moved.
LOCATIONS = f"    netconf-location home-lan  gateway-mac={HOME.router_mac} command=/usr/local/sbin/ask\n"
GATE, ASKED = "/run/gate", "/run/asked"


@BOTH
def test_a_cable_moved_during_the_first_look(scene: Scene) -> None:
    scene.write_stanza("trust hints", "timeout 30", head=STATIC, vpn="", locations=LOCATIONS)
    scene.laptop.write("/usr/local/sbin/ask", f"#!/bin/sh\n>{ASKED}\nread line <{GATE}\n", 0o755)
    scene.laptop.run(["mkfifo", GATE])
    hostile.impersonate_home_router(scene.lab)
    # It was never sent anything: the kernel knows no router's MAC address.
    scene.laptop.run(["ip", "neigh", "flush", "dev", "eth0"])
    scene.lab.plug(HOME.name)
    scene.forget()
    ifup = scene.laptop.start(["ifup", "eth0"])
    wait_until(lambda: scene.laptop.exists(ASKED), "the look to wait for the program")
    if scene.guarded:
        scene.judge("at home, while it looks")
    scene.network.move(CAFE.name, "eth0")
    scene.forget()
    wait_until(lambda: is_taken_in(scene), "the kernel to take the other router for home's")
    scene.laptop.run(["sh", "-c", f"echo home >{GATE}"])
    assert ifup.wait().returncode == 0
    scene.judge("in the other network", "root/udp4/beyond", "nobody/udp4/*")
    if scene.guarded:
        assert scene.read_guard() == "closed"
    scene.judge("in the end", "root/udp4/beyond")


def is_taken_in(scene: Scene) -> bool:
    """Have the café's router ask for the laptop's MAC address; return whether the laptop has learned its own."""
    ping = ["ping", "-n", "-q", "-c", "1", "-W", "0.1", "-I", HOME.router, ADDRESS]
    scene.network.run(CAFE.name, ["ip", "neigh", "flush", "dev", "lan"])
    scene.network.run(CAFE.name, ping, check=False)
    return CAFE.router_mac in scene.laptop.run(["ip", "neigh", "show", HOME.router, "dev", "eth0"]).stdout
