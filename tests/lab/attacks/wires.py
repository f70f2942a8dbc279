"""Many more links of the laptop, each with a guard, on which everything is sent that may not leave."""

from __future__ import annotations

from contextlib import ExitStack

from ..closing import Closing
from ..namespaces import Running
from ..network import HOME
from .capture import Allowed, Capture, find_leaks
from .scene import Scene, tell
from .traffic import Job, mark_data

_STANZA = """
iface {wire} inet static
    address 10.77.{number}.2/24
    netconf-location home-lan gateway-mac={mac}
"""
_GUARD = "    netconf-guard unless home-lan\n    netconf-guard-backend {backend}\n"
BEYOND = "    up ip route add 198.51.100.{number}/32 via 10.77.{number}.9 dev {wire}\n"
"""A line of a wire's stanza: the route to a host that is not on its LAN."""


class Wires(Closing):
    """More links of the laptop: on each of them root and nobody send all the time, and all of it is captured, from
    now until `close`.

    count: how many; `names`: wire1, wire2 and so on.  answering: whether somebody has the address that is sent to, so
    that packets leave as soon as they may; else nobody does (`answer_neighbours`).  beyond: whether packets are sent
    to a host beyond that one, by the route `BEYOND`.
    """

    def __init__(self, scene: Scene, count: int, answering: bool = False, beyond: bool = False) -> None:
        self.names = tuple(f"wire{number}" for number in range(1, count + 1))
        self._scene = scene
        self._captures: dict[str, Capture] = {}
        # A namespace for the far ends.
        scene.network.run("internet", ["ip", "netns", "add", "wires"])
        lines = "".join(
            f"link add {wire} type veth peer name {wire} netns laptop\nlink set {wire} addrgenmode none up\n"
            for wire in self.names
        )
        if answering:
            lines += "".join(
                f"addr add 10.77.{number}.9/24 dev {wire}\n" for number, wire in enumerate(self.names, 1)
            )
        scene.network.run("internet", ["ip", "-n", "wires", "-batch", "-"], text=lines)
        with ExitStack() as undo:
            for wire in self.names:
                self._captures[wire] = undo.enter_context(Capture(scene.network.namespace("wires"), wire))
            for sender in ("root", "nobody"):
                jobs = []
                for number, wire in enumerate(self.names, 1):
                    address = f"198.51.100.{number}" if beyond else f"10.77.{number}.9"
                    for how, device in (("bound", wire), ("routed", "")):
                        kind = f"{sender}/udp4/{how}/{wire}"
                        jobs.append(Job(kind, "udp", address, 9, device, data=mark_data(kind)))
                scene.traffic.add(f"{sender}-wires", jobs, pause=10)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Capture no more."""
        self._undo.close()

    def write_stanzas(self, more: str = "") -> None:
        """Add the wires to what the laptop's stanzas are.  more: lines of each, with ``{wire}`` and ``{number}``."""
        path = "/etc/network/interfaces"
        text = self._scene.laptop.read(path)
        for number, wire in enumerate(self.names, 1):
            text += _STANZA.format(wire=wire, number=number, mac=HOME.router_mac)
            text += more.format(wire=wire, number=number)
            text += _GUARD.format(backend=self._scene.backend) if self._scene.guarded else ""
        self._scene.laptop.write(path, text)

    def forget(self) -> None:
        """Look at nothing that was sent until now."""
        for capture in self._captures.values():
            capture.read()

    def pull(self) -> None:
        """Pull the cables of all, at once."""
        self._set("down")

    def plug(self) -> None:
        """Plug all of them in again, at once."""
        self._set("up")

    def _set(self, state: str) -> None:
        lines = "".join(f"link set {wire} {state}\n" for wire in self.names)
        self._scene.network.run("internet", ["ip", "-n", "wires", "-batch", "-"], text=lines)

    def find_last(self) -> dict[str, tuple[int, float]]:
        """Return how many packets have left since the last look, and when the last one did, by wire."""
        leaks = {wire: find_leaks(capture.read(), Allowed()) for wire, capture in self._captures.items()}
        return {wire: (len(found), found[-1].time) for wire, found in leaks.items() if found}

    def judge(self, what: str, leaking: bool = True) -> None:
        """Look, as `Scene.judge`: with guards not one packet may have left; without, by every wire if `leaking`."""
        self._scene.traffic.wait_rounds(3)
        frames = {wire: capture.read() for wire, capture in self._captures.items()}
        leaks = {wire: find_leaks(found, Allowed()) for wire, found in frames.items()}
        if self._scene.guarded:
            found = [leak for each in leaks.values() for leak in each]
            assert not found, f"{what}: {len(found)} packets leaked:\n{tell(found)}"
        elif leaking:
            silent = [wire for wire, each in leaks.items() if not each]
            assert not silent, f"{what}: without a guard these should leak: {silent}"

    def answer_neighbours(self) -> None:
        """Let the kernel know a MAC address for what is sent to on each wire: nothing stays for want of one."""
        lines = "".join(
            f"neigh replace 10.77.{number}.9 lladdr 02:00:00:00:00:99 dev {wire} nud permanent\n"
            for number, wire in enumerate(self.names, 1)
        )
        self._scene.laptop.run(["ip", "-batch", "-"], text=lines)


def run_at_once(scene: Scene, program: str, names: tuple[str, ...]) -> None:
    """Run ifup or ifdown for each of some interfaces, all at the same time."""
    running: list[Running] = [scene.laptop.start([program, name]) for name in names]
    assert [each.wait(120).returncode for each in running] == [0] * len(names)
