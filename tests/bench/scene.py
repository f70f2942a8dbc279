"""The laptops on which is measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from tests.lab.laptop import Image, Laptop
from tests.lab.network import OFFICE, Network

from .race import BenchError, Stopwatch, Took

HERE = Path(__file__).parent
INTERPRETER = ("/usr/bin/python3", "-IS", "-c", "pass")
HOOK = "/etc/network/if-up.d/netconf-hooks"
SHELL_HOOK = "/usr/local/lib/netconf-bench/shell-hook"
IFUP, IFDOWN, IP = "/usr/sbin/ifup", "/usr/sbin/ifdown", "/usr/sbin/ip"

WATCHERS_PIPE = "/run/netconf-hooks/watch.fifo"

CORES = len(os.sched_getaffinity(0))

OFFICE_LINE = f"office-lan gateway-mac={OFFICE.router_mac} dns-domain={OFFICE.domain}"
# What both hooks of `up-known` go by: ours by its options, the shell's by its own.
STANZA = """\
iface eth0 inet dhcp
{locations}
    netconf-vpn          openvpn corp unless office-lan
    office-vpn           corp
    office-gateway-mac   {mac}
    office-domain        {domain}
    up env -0 >/run/bench.environment
"""


class Bench:
    """What all rows share: the disks, and how often each race is run (context manager).

    packages: the .deb files to measure.
    """

    def __init__(self, packages: list[Path], rounds: int) -> None:
        self.rounds = rounds
        self._packages = packages
        self._undo = ExitStack()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @cached_property
    def image(self) -> Image:
        """A laptop's disk with the product."""
        return self._undo.enter_context(Image(self._packages))

    @cached_property
    def bare_image(self) -> Image:
        """One whose hook directories are empty."""
        return self._undo.enter_context(Image())

    @cached_property
    def office(self) -> Office:
        """A laptop in the office, whose kernel's tables and whose stanza are like any other's."""
        return self._undo.enter_context(self.open_office())

    @contextmanager
    def open_office(self, lines: int = 1) -> Iterator[Office]:
        """Another laptop in the office.  lines: how many location lines its stanza has; the last one holds."""
        with ExitStack() as undo:
            network = undo.enter_context(Network((OFFICE,), ("eth0",)))
            laptop = undo.enter_context(Laptop(network, self.image))
            yield Office(network, laptop, undo.enter_context(Stopwatch(laptop)), lines)


class Office:
    """A laptop that has come to the office: its if-up hooks have run, and can be run again with nothing to be done.

    In place of the watcher, which each run wakes and which would work beside the next, the stopwatch holds its pipe.
    """

    def __init__(self, network: Network, laptop: Laptop, stopwatch: Stopwatch, lines: int) -> None:
        self.network = network
        self.laptop = laptop
        self.stopwatch = stopwatch
        locations = [*(f"place-{number} {make_tests(number)}" for number in range(1, lines)), OFFICE_LINE]
        laptop.write("/etc/network/interfaces", STANZA.format(
            locations="\n".join(f"    netconf-location     {line}" for line in locations),
            mac=OFFICE.router_mac,
            domain=OFFICE.domain,
        ))  # fmt: skip
        laptop.write(SHELL_HOOK, (HERE / "shell-hook").read_text(), 0o755)
        network.plug(OFFICE.name, "eth0")
        stopwatch.hold(WATCHERS_PIPE)
        laptop.ifup("eth0")
        pairs = laptop.read("/run/bench.environment").rstrip("\0").split("\0")
        self.environment = dict(pair.split("=", 1) for pair in pairs)
        for hook in (HOOK, SHELL_HOOK):
            self.forget_router()
            took = self.run(hook)
            if took.output:
                raise BenchError(f"{hook}: {took.output}")
        if laptop.run(["netconf-hooks", "location", "eth0"]).stdout != "office-lan\n":
            raise BenchError("netconf-hooks does not know the office")
        # What the shell's hook does where it knows it not.
        elsewhere = self.environment | {"IF_OFFICE_DOMAIN": "elsewhere.example", "IF_OFFICE_VPN": "nothing"}
        laptop.run([SHELL_HOOK], env=elsewhere, check=False)
        if "nothing: up" not in laptop.log():
            raise BenchError("the shell hook does not notice that it is elsewhere")

    def run(self, *argv: str) -> Took:
        """Run a hook as ifup did."""
        return self.stopwatch.measure([argv], environment=self.environment)

    def run_known(self, *argv: str) -> Took:
        """The same, the router's MAC address being known."""
        router = ("to", OFFICE.router, "lladdr", OFFICE.router_mac)
        self.stopwatch.run(IP, "neigh", "replace", *router, "dev", "eth0", "nud", "stale")
        return self.run(*argv)

    def run_unknown(self, hook: str) -> Took:
        """The same, the router's MAC address being unknown."""
        self.forget_router()
        return self.run(hook)

    def forget_router(self) -> None:
        """Let the kernel forget the router's MAC address."""
        self.stopwatch.run(IP, "neigh", "flush", "to", OFFICE.router, "dev", "eth0")

    def fill(self, what: str, count: int) -> None:
        """Fill the kernel's tables of the laptop."""
        if what == "interfaces":
            lines = "".join(
                f"link add crowd{number} type veth peer name other{number}\n"
                f"link set crowd{number} up\nlink set other{number} up\n"
                for number in range(count // 2)
            )
            self.network.run("laptop", ["ip", "-batch", "-"], text=lines)
        else:
            self.network.run("laptop", ["/usr/bin/python3", str(HERE / "crowd.py"), what, "eth0", str(count)])


def make_tests(number: int) -> str:
    """Return the tests of a place where nobody is."""
    return f"gateway-mac=02:00:00:01:{number >> 8:02x}:{number & 255:02x} dns-domain=place-{number}.example"


@contextmanager
def open_twins(*images: Image) -> Iterator[tuple[Network, list[Laptop], list[Stopwatch]]]:
    """Laptops that differ in their disks alone: they share one network namespace."""
    with ExitStack() as undo:
        network = undo.enter_context(Network((), ()))
        laptops = [undo.enter_context(Laptop(network, image)) for image in images]
        yield network, laptops, [undo.enter_context(Stopwatch(laptop)) for laptop in laptops]


def add_wires(network: Network, count: int) -> None:
    """Add interfaces wire1, wire2, ... to the laptop, with carrier as soon as they are set up."""
    lines = (
        f"link add wire{number} type veth peer name far{number}\nlink set far{number} up\n"
        for number in range(1, count + 1)
    )
    network.run("laptop", ["ip", "-batch", "-"], text="".join(lines))
