"""Two machines on one wire, for what needs real kernels and sockets and nothing of a Debian."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from netconf_hooks.evidence import Link, router
from netconf_hooks.observation import Answer
from netconf_hooks.system import netlink
from netconf_hooks.system.netlink import DefaultRoute, Netlink

from .namespaces import Namespaces, enter_network

P = ParamSpec("P")
T = TypeVar("T")

PATIENT = 30.0  # seconds

# Addresses are usable at once and nobody makes any up: what a test sees is what it wrote.
QUIET = "".join(
    f"net.ipv6.conf.{which}.{setting}\n"
    for which in ("all", "default")
    for setting in ("accept_dad=0", "addr_gen_mode=1", "router_solicitations=0")
)


class Wire:
    """Two machines on one wire: `laptop` with eth0, and `far` with r0 and r1 on a bridge that eth0 is plugged into."""

    def __init__(self, laptop: Namespaces, far: Namespaces) -> None:
        self.laptop = laptop
        self.far = far

    def ip(self, commands: str, *, where: str = "laptop") -> None:
        """Run lines of ip(8) commands, in their order; each may begin with ``-4`` or ``-6``."""
        machine: Namespaces = getattr(self, where)
        lines = [line.split() for line in commands.splitlines() if line.strip()]
        for option, group in itertools.groupby(lines, lambda line: [word for word in line[:1] if word in ("-4", "-6")]):
            text = "".join(" ".join(line[len(option):]) + "\n" for line in group)
            machine.run(["ip", *option, "-batch", "-"], text=text)

    def sysctl(self, settings: str, *, where: str = "laptop") -> None:
        """Set kernel settings, one ``name=value`` a line."""
        machine: Namespaces = getattr(self, where)
        machine.run(["sysctl", "-q", "-p", "-"], text=settings)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in the laptop's network: setns(2) moves one thread, whose sockets are then there."""
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                enter_network(self.laptop.files["net"])
                results.append(function(*args, **kwargs))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def link(self, device: str = "eth0", iface: str | None = None) -> Link:
        """Return the link as the hooks would see it."""
        status = self.call(netlink.read_link, device)
        assert status is not None, device
        return Link(iface or device, device, status.index, status.carrier, {})

    def observe(self, *keys: str, patience: float = PATIENT, device: str = "eth0") -> dict[str, Answer]:
        """Ask the router observer."""
        link = self.link(device)
        return self.call(lambda: router.observe(keys, link, time.monotonic() + patience))

    def default_route(self, family: int, device: str = "eth0") -> DefaultRoute | None:
        """Ask the netlink client."""
        index = self.link(device).index

        def ask() -> DefaultRoute | None:
            with Netlink() as conversation:
                return conversation.get_default_route(index, family)

        return self.call(ask)


def wire_carrier(wire: Wire) -> None:
    """Wait until eth0 has carrier."""
    def look() -> bool:
        with Netlink() as conversation:
            status = conversation.wait_for_carrier("eth0", time.monotonic() + PATIENT)
        return status is not None and status.carrier

    assert wire.call(look)
