"""What the watcher costs while nothing happens, and while a lot happens that does not concern it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from tests.lab.attacks.hostile import AdvertisementStorm
from tests.lab.laptop import Laptop
from tests.lab.network import OFFICE, Network
from tests.lab.waiting import wait_until

from .race import BenchError, Result, Stopwatch
from .scene import HERE, INTERPRETER, Bench

STANZA = f"""\
iface eth0 inet dhcp
    netconf-location office-lan gateway-mac={OFFICE.router_mac} dns-domain={OFFICE.domain}
    netconf-vpn      openvpn corp unless office-lan
    netconf-guard    unless office-lan
    netconf-trust    hints
"""

ROUNDS = 3
IDLE = 30  # seconds, in which an open guard is renewed three times
STORM = 5
PAIRS = 300
ROUTES = 100_000

_TICKS = os.sysconf("SC_CLK_TCK")
_SHARE = 0.05


class Watched:
    """A laptop in the office, whose guard is open; its watcher is what is measured."""

    def __init__(self, network: Network, laptop: Laptop, stopwatch: Stopwatch) -> None:
        self.network = network
        self.laptop = laptop
        self.stopwatch = stopwatch
        laptop.write("/etc/network/interfaces", STANZA)
        network.plug(OFFICE.name, "eth0")
        laptop.ifup("eth0")
        self.wait_for_open()
        self._proc = laptop.namespaces.root / "proc" / str(self._find())

    def wait_for_open(self) -> None:
        """Wait until the guard is open, and the watcher has nothing to do."""
        status = ["netconf-hooks", "status"]
        wait_until(lambda: "open" in self.laptop.run(status).stdout, "the guard to be open", 60)
        self.stopwatch.run("/bin/sleep", "2")

    def _find(self) -> int:
        """Return the watcher's pid: the first, before its children."""
        found = [pid for pid, line in self.laptop.processes().items() if "netconf-hooks watch" in line]
        if not found:
            raise BenchError("no watcher runs")
        return min(found)

    def read_cpu(self) -> float:
        """Return the processor time of the watcher and its children until now, milliseconds."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return 1000 * sum(map(int, fields[11:15])) / _TICKS

    def read_memory(self) -> float:
        """Return how much memory it has now, KiB."""
        lines = (self._proc / "status").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))

    def measure(self, work: Callable[[], float]) -> tuple[float, float]:
        """Return how long `work` took, as it says, and what processor time the watcher took, milliseconds."""
        before = self.read_cpu()
        took = work()
        self.stopwatch.run("/bin/sleep", "1.5")  # until the burst of news is over
        return 1000 * took, self.read_cpu() - before


def measure_watcher(bench: Bench) -> Iterator[Result]:
    """Each for some seconds."""
    pairs = "".join(f"link add crowd{number} type veth peer name other{number}\nlink set crowd{number} up\n"
                    f"link set other{number} up\n" for number in range(PAIRS))  # fmt: skip
    pairs += "".join(f"link del crowd{number}\n" for number in range(PAIRS))

    with ExitStack() as undo:
        network = undo.enter_context(Network((OFFICE,), ("eth0",)))
        laptop = undo.enter_context(Laptop(network, bench.image))
        stopwatch = undo.enter_context(Stopwatch(laptop))
        laptop.write("/run/bench.crowd.py", (HERE / "crowd.py").read_text())
        watched = Watched(network, laptop, stopwatch)
        ip = "/usr/sbin/ip"

        def come_and_go() -> float:
            return stopwatch.run(ip, "-batch", "-", text=pairs).wall

        def route() -> float:
            added = stopwatch.run("/usr/bin/python3", "/run/bench.crowd.py", "routes", "eth0", str(ROUTES))
            return added.wall + stopwatch.run(ip, "-4", "route", "flush", "root", "16.0.0.0/4").wall

        def wait(seconds: int) -> float:
            return stopwatch.run("/bin/sleep", str(seconds)).wall

        rounds = min(bench.rounds, ROUNDS)
        title = "CPU time of the watcher, one interface with an open guard, while "
        for what, work in (
            (f"{PAIRS} veth pairs come and go", come_and_go),
            (f"{ROUTES:,} routes are added and removed", route),
        ):
            taken = [watched.measure(work) for _ in range(rounds + 1)][1:]
            base, ours = zip(*taken)
            yield Result(title + what, "that time", _SHARE, "ms", base, ours)
        memory = watched.read_memory()
        base, ours = zip(*[watched.measure(lambda: wait(IDLE)) for _ in range(1)])
        yield Result(title + "nothing happens", "that time", 0.01, "ms", base, ours)
        with AdvertisementStorm(network, OFFICE.name, steady=True):
            # With all addresses that it may have (ip-sysctl, max_addresses: 16) the link's network stays the same.
            show = [ip, "-6", "-o", "address", "show", "dev", "eth0", "scope", "global"]
            wait_until(lambda: len(laptop.run(show).stdout.splitlines()) >= 15, "the addresses of a storm", 30)
            watched.wait_for_open()
            base, ours = zip(*[watched.measure(lambda: wait(STORM)) for _ in range(rounds)])
        yield Result(title + "a router advertises 500 times a second", "that time", _SHARE, "ms", base, ours)
        weigh = stopwatch.measure([("/usr/bin/time", "-f", "%M", *INTERPRETER)])
        yield Result(
            "memory of the watcher, with an open guard", "bare interpreter", None, "KiB", (float(weigh.output),),
            (memory,),
        )  # fmt: skip
