"""One attack, told with or without a guard: the lab, the capture, and everything that the laptop sends meanwhile."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

import pytest

from ..lab import Lab
from ..laptop import DHCP_CLIENTS, Image
from ..network import CAFE, CORP_HOST, VPN_GATEWAY
from ..stanzas import LOCATIONS, find_tunnels, read_status
from ..vpn import NAME, PORT
from ..waiting import wait_until
from . import hostile
from .capture import Allowed, Capture, Frame, Leak, find_leaks
from .traffic import Traffic

# ``make soak`` does what takes long as often as there are cases, and ``make test`` as often as its time allows.
SOAK = "NETCONF_SOAK" in os.environ

NO_GUARD = "none"
BACKENDS = ("nftables", "iptables-legacy", "iptables-nft")

BOTH = pytest.mark.parametrize("guard", [NO_GUARD, *BACKENDS])
"""Without a guard, where it must leak, and with each firewall."""
NFTABLES = pytest.mark.parametrize("guard", [NO_GUARD, BACKENDS[0]])
"""Where iptables can't hold it."""

TUNNEL = (VPN_GATEWAY, 17, PORT)
_VPN_TRANSLATION = """
table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat
        oifname "eth0" ip saddr 10.8.0.0/24 masquerade
    }
}
"""


class Scene:
    """A laptop on which everything sends all the time, unplugged, and a capture at the other end of its cable.

    guard: `NO_GUARD`, or the firewall of the guard.
    """

    def __init__(self, image: Image, guard: str, dhcp_client: str = DHCP_CLIENTS[0]) -> None:
        self.guard = guard
        self.guarded = guard != NO_GUARD
        self.allowed = Allowed(frozenset({TUNNEL}), frozenset({CAFE.router}))
        with ExitStack() as undo:
            self.lab = undo.enter_context(Lab(image, dhcp_client))
            self.laptop = self.lab.laptop
            self.network = self.lab.network
            self.backend, _, variant = guard.partition("-")
            """What ``netconf-guard-backend`` says."""
            if variant:
                self.laptop.choose_iptables(variant)
            self.network.announce_ipv6(CAFE.name)
            hostile.add_neighbour(self.network)
            self.capture = undo.enter_context(Capture(self.network.wire_namespace))
            self.traffic = undo.enter_context(Traffic(self.laptop))
            # IPv6 is there as soon as its router is: no second's wait for objections, nor before the first question.
            self.laptop.run(
                ["sysctl", "-q", "-w", "net.ipv6.conf.eth0.accept_dad=0",
                 "net.ipv6.conf.eth0.router_solicitation_delay=0"]
            )  # fmt: skip
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    def write_stanza(
        self, *lines: str, head: str = "iface eth0 inet dhcp", guard: str = "unless home-lan",
        vpn: str = "openvpn corp unless home-lan", locations: str = LOCATIONS,
    ) -> None:
        """Write the stanza: `lines` without ``netconf-``; without a guard its options are left out."""
        options = [*lines, *([f"vpn {vpn}"] if vpn else [])]
        if self.guarded:
            options += [f"guard {guard}", f"guard-backend {self.backend}"]
        rules = "".join(f"    netconf-{line}\n" for line in options)
        self.laptop.write("/etc/network/interfaces", f"auto lo\niface lo inet loopback\n\n{head}\n{locations}{rules}")

    def tunnel_everything(self, *lines: str, remote: str = VPN_GATEWAY) -> None:
        """Let the tunnel take all IPv4 packets, and the gateway pass them on (openvpn(8), redirect-gateway)."""
        config = self.lab.vpn.client_config().replace(f"remote {VPN_GATEWAY} ", f"remote {remote} ")
        text = "".join(f"{line}\n" for line in ("redirect-gateway def1", *lines))
        self.laptop.write(f"/etc/openvpn/{NAME}.conf", config + text, 0o600)
        self.network.run("vpn", ["nft", "-f", "-"], text=_VPN_TRANSLATION)

    def arrive(self, site: str = CAFE.name) -> None:
        """Go there, and ifup."""
        self.lab.plug(site)
        self.laptop.ifup("eth0")

    def wait_for_tunnel(self) -> int:
        """Wait until the host behind the tunnel answers; return the pid of its OpenVPN."""
        wait_until(lambda: self.laptop.pings(CORP_HOST), "the host behind the VPN to answer", 20)
        (pid,) = find_tunnels(self.lab)
        return pid

    def wait_for_ipv6(self) -> None:
        """Wait until the café's router advertisement has given the laptop an address."""
        show = ["ip", "-6", "route", "show", "default", "dev", "eth0"]
        wait_until(lambda: self.laptop.run(show).stdout, "the router of IPv6")

    def read_guard(self) -> object:
        """Return what ``netconf-hooks status`` says of the guard: ``none``, ``closed``, ``open``, ``released``."""
        return read_status(self.lab)["interfaces"]["eth0"]["guard"]

    def wait_for_guard(self, state: str, timeout: float = 10.0) -> None:
        """Wait until the guard is so."""
        wait_until(lambda: self.read_guard() == state, f"the guard to be {state}", timeout)

    def forget(self) -> None:
        """Look at nothing that was sent until now."""
        self.capture.read()

    def look(self, rounds: int = 5) -> list[Frame]:
        """Return what was on the wire since the last look, during which everybody has sent so many rounds more."""
        self.traffic.wait_rounds(rounds)
        return self.capture.read()

    def find(self, frames: list[Frame]) -> list[Leak]:
        """Return what of `frames` had no business on the wire."""
        return find_leaks(frames, self.allowed, self.traffic.ports)

    def judge(self, what: str, *leaking: str) -> list[Frame]:
        """Look, and raise AssertionError where it is not as it should be; return the frames.

        With a guard not one packet may have leaked; without one, of each kind of `leaking` (fnmatch(3)) at least one.
        what: the moment, for the message.
        """
        frames = self.look()
        leaks = self.find(frames)
        if self.guarded:
            assert not leaks, f"{what}: {len(leaks)} packets leaked:\n{tell(leaks)}"
            return frames
        kinds = {leak.kind for leak in leaks}
        missing = [kind for kind in leaking if not any(fnmatchcase(seen, kind) for seen in kinds)]
        assert not missing, f"{what}: without a guard these should leak: {missing}, and only did:\n{tell(leaks)}"
        return frames


def tell(leaks: list[Leak]) -> str:
    """Return leaks as lines: of each sender how many, and the first."""
    counts = Counter(leak.kind for leak in leaks)
    first = {leak.kind: leak for leak in reversed(leaks)}
    return "\n".join(
        f"{count:6} {kind or 'unknown sender'}: {first[kind].summary}" for kind, count in sorted(counts.items())
    )
