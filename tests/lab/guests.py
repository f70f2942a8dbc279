"""A guest behind a bridge of the laptop, which sends all the time: a network namespace behind a veth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .attacks.capture import find_leaks
from .guarded import make_allowed
from .network import CAFE, INTERNET_HOST

if TYPE_CHECKING:
    from .attacks.capture import Capture
    from .lab import Lab
    from .namespaces import Running
    from .network import Site

NAME = "guest0"
NOISE = f"""
import select, socket
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        channel.sendto(b"in the clear", ({INTERNET_HOST!r}, 9))
    except OSError:
        pass
    select.select((), (), (), 0.01)
"""


def start_guest(lab: Lab) -> Running:
    """Make a guest of the café's network, its end on the laptop's side not on a bridge yet, and let it send.

    The caller ends the program that is returned.
    """
    lab.laptop.run(["ip", "netns", "add", NAME])
    for line in (
        f"link add {NAME} type veth peer name eth0 netns {NAME}",
        f"link set {NAME} addrgenmode none up",
        f"-n {NAME} addr add 192.168.3.77/24 dev eth0",
        f"-n {NAME} link set eth0 up",
        f"-n {NAME} route add default via {CAFE.router}",
        f"-n {NAME} neigh add {CAFE.router} lladdr {CAFE.router_mac} dev eth0",
    ):
        lab.laptop.run(["ip", *line.split()])
    return lab.laptop.start(["ip", "netns", "exec", NAME, "/usr/bin/python3", "-IS", "-c", NOISE])


def count_leaks(capture: Capture, site: Site) -> int:
    """Return how many frames were captured since the last look that a guard must hold."""
    return len(find_leaks(capture.read(), make_allowed(site)))
