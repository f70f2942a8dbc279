"""The kernel's news as the attacks' tests measure them, and a network that looks like home."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

from netconf_hooks.system.netlink import LINKS, NEIGHBOURS, Netlink, RTM_NEWLINK, parse_link

from ..closing import Closing
from ..network import CAFE, HOME
from ..waiting import wait_until
from . import hostile
from .place import call_in
from .scene import Scene

# What is promised, and what a machine that runs other tests beside this one may add before it shuts, seconds.
PROMISE = 0.1
SLOW = 0.1


class NewsClock(Closing):
    """Notes when the kernel tells the laptop of its `links` or home's router there, from now until `close`."""

    def __init__(self, namespace: str, *links: str) -> None:
        self._news = call_in(namespace, lambda: Netlink((LINKS, NEIGHBOURS)))
        indexes = call_in(namespace, lambda: {socket.if_nametoindex(link) for link in links or ("eth0",)})
        self._news.filter_news(indexes, {HOME.router})
        self._found: list[tuple[float, int, bytes]] = []
        self._is_over = False
        self._thread = threading.Thread(target=self._listen, name="news", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._is_over = True
        self._thread.join()
        self._news.close()

    def find(self, after: float, matches: Callable[[int, bytes], bool]) -> float:
        """Return when (time.time()) the first news came that `matches`, not before `after`; 0.0 for never."""
        return next((when for when, kind, body in list(self._found) if when >= after and matches(kind, body)), 0.0)

    def _listen(self) -> None:
        # Before whatever the test lets run, so that what is noted is when the news came.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
        while not self._is_over:
            messages = self._news.wait(time.monotonic() + 0.2)
            now = time.time()
            self._found += [(now, kind, body) for kind, body in messages]


def has_lost_carrier(kind: int, body: bytes, link: str = "eth0") -> bool:
    """Whether this is the news that a link has no carrier."""
    return kind == RTM_NEWLINK and parse_link(body).name == link and not parse_link(body).carrier


def move_to_twin(scene: Scene) -> None:
    """Pull the cable, and plug it in where another router has the address of home's."""
    hostile.impersonate_home_router(scene.lab)
    scene.lab.unplug()
    wait_until(lambda: not scene.laptop.has_carrier("eth0"), "the laptop to notice")
    scene.forget()  # what it has sent at home
    scene.lab.plug(CAFE.name)
    wait_until(lambda: scene.laptop.has_carrier("eth0"), "the laptop to be plugged in")
    wait_until(lambda: call_in(scene.network.laptop_namespace, ask_router), "the twin's router to answer")


def ask_router() -> bool:
    """Whether home's router, or its twin, answers ARP: what is sent to it does not stay for want of an answer."""
    with Netlink() as netlink:
        index = socket.if_nametoindex("eth0")
        return bool(netlink.resolve_neighbours(index, (HOME.router,), time.monotonic() + 1))
