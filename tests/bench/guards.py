"""What guards cost, and how that grows with their number; the watcher runs beside, as it does in life."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median

from tests.lab.laptop import Laptop
from tests.lab.network import OFFICE, Network
from tests.lab.waiting import wait_until

from .race import BenchError, Curve, Result, Stopwatch, Took
from .scene import CORES, IFDOWN, IFUP, Bench, add_wires

REFRESH = ("/usr/sbin/netconf-hooks", "refresh")
COUNT = 40
PARALLEL = 50
# After so many guards a plain interface comes up, too.
POINTS = (1, 2, 5, 10, 20, 30, COUNT)
BACKENDS = ("nftables", "iptables")
# Of 80 ifups and ifdowns each.
ROUNDS = 3

STANZA = """\
{auto}iface wire{number} inet static
    address 10.{number}.0.2/24
    netconf-location office-lan gateway-mac={mac}
    netconf-guard unless office-lan
    netconf-guard-backend {backend}
"""


class Wired:
    """A laptop with many guarded interfaces, and its twin without hooks, which shares its links.

    backend: the guards' firewall.
    """

    def __init__(self, laptop: Laptop, stopwatch: Stopwatch, plain: Stopwatch, twin: Laptop, backend: str) -> None:
        self.laptop = laptop
        self.stopwatch = stopwatch
        self.plain = plain
        self._twin = twin
        self._backend = backend
        if backend == "iptables":
            laptop.choose_iptables("nft")  # as Debian does

    def write(self, count: int, auto: bool = False) -> None:
        """Write stanzas for so many interfaces, and for one more, which the twin raises."""
        for laptop in (self.laptop, self._twin):
            laptop.write("/etc/network/interfaces", "\n".join(
                STANZA.format(
                    auto=f"auto wire{number}\n" if auto and number <= count else "",
                    number=number, mac=OFFICE.router_mac, backend=self._backend,
                )
                for number in range(1, count + 2)
            ))  # fmt: skip

    def count_guards(self) -> int:
        """Return how many guards stand, by their records."""
        return len(list((self.laptop.namespaces.root / "run/netconf-hooks/guards").glob("[a-z]*")))

    def raise_plain(self, number: int) -> Took:
        """Raise an interface of the twin's and take it down again; return what raising it took."""
        took = self.plain.run(IFUP, f"wire{number}")
        self.plain.run(IFDOWN, f"wire{number}")
        return took

    def rest(self) -> None:
        """Wait until all is down, and the watcher has ended."""
        wait_until(lambda: not self.has_watcher(), "the watcher to end", 60)
        if "ended before its work was done" in self.laptop.log():
            raise BenchError("a hook ran out of its time")

    def has_watcher(self) -> bool:
        """Whether a watcher runs."""
        return any("netconf-hooks watch" in line for line in self.laptop.processes().values())


@contextmanager
def open_wired(bench: Bench, backend: str, count: int) -> Iterator[Wired]:
    """A laptop with so many links, and one more for its twin."""
    with ExitStack() as undo:
        network = undo.enter_context(Network((), ()))
        laptop, twin = (undo.enter_context(Laptop(network, image)) for image in (bench.image, bench.bare_image))
        add_wires(network, count + 1)
        stopwatches = [undo.enter_context(Stopwatch(each)) for each in (laptop, twin)]
        yield Wired(laptop, stopwatches[0], stopwatches[1], twin, backend)


def to_milliseconds(taken: Sequence[Took]) -> tuple[float, ...]:
    """Return the times on the clock."""
    return tuple(1000 * took.wall for took in taken)


def measure_forty(bench: Bench) -> Iterator[Result | Curve]:
    """ifup of one after the other, `refresh` of all, ifdown of one after the other."""
    lines: dict[str, tuple[tuple[float, float], ...]] = {}
    for backend in BACKENDS:
        ups: list[tuple[float, ...]] = []
        plains: list[tuple[float, ...]] = []
        refreshes: list[float] = []
        downs: list[tuple[float, ...]] = []
        with open_wired(bench, backend, COUNT) as wired:
            wired.write(COUNT)
            for _ in range(min(bench.rounds, ROUNDS) + 1):
                up, plain = [], []
                for number in range(1, COUNT + 1):
                    up.append(wired.stopwatch.run(IFUP, f"wire{number}"))
                    if number in POINTS:
                        plain.append(wired.raise_plain(COUNT + 1))
                if wired.count_guards() != COUNT:
                    raise BenchError(f"{wired.count_guards()} of {COUNT} guards stand")
                refreshes.append(1000 * wired.stopwatch.run(*REFRESH).wall)
                down = [wired.stopwatch.run(IFDOWN, f"wire{number}") for number in range(1, COUNT + 1)]
                wired.rest()
                for taken, all_taken in ((up, ups), (plain, plains), (down, downs)):
                    all_taken.append(to_milliseconds(taken))
        yield from _compare(backend, ups[1:], plains[1:], refreshes[1:], downs[1:])
        lines[f"guarded ({backend})"] = tuple(
            (number, median(up[number - 1] for up in ups[1:])) for number in POINTS
        )
        lines[f"plain, beside them ({backend})"] = tuple(
            (number, median(plain[place] for plain in plains[1:])) for place, number in enumerate(POINTS)
        )
    yield Curve("guards", "ifup of one more interface", "guards that stand then", lines)


def _compare(
    backend: str, ups: list[tuple[float, ...]], plains: list[tuple[float, ...]], refreshes: list[float],
    downs: list[tuple[float, ...]],
) -> Iterator[Result]:
    """Return the lines of the table.  Of the last, and of the first, a few: one alone may have met other work."""
    plain = "`ifup` of a plain interface"
    for number in (1, 10, COUNT):
        base = tuple(each[POINTS.index(number)] for each in plains)
        yield Result(
            f"`ifup` of a guarded interface, the {number}. ({backend})", plain, None, "ms", base,
            tuple(up[number - 1] for up in ups),
        )  # fmt: skip
    first = tuple(median(up[:5]) for up in ups)
    last = tuple(median(up[-3:]) for up in ups)
    title = f"`ifup` of the {COUNT}. guarded interface ({backend})"
    yield Result(title, "the first five", 2.0, "ms", first, last)
    yield Result(title, "0.3 s", 1.0, "ms", (300.0,) * len(last), last)
    yield Result(
        f"`ifdown` of the first of {COUNT} guarded interfaces ({backend})", "the last", 2.0, "ms",
        tuple(median(down[-3:]) for down in downs), tuple(median(down[:3]) for down in downs),
    )  # fmt: skip
    yield Result(
        f"`netconf-hooks refresh` of {COUNT} guarded interfaces ({backend})", "1 s", 1.0, "ms",
        (1000.0,) * len(refreshes), tuple(refreshes),
    )  # fmt: skip


def measure_twenty(bench: Bench) -> Iterator[Result]:
    """ifup -a of twenty; and fifty in parallel."""
    ours: list[float] = []
    plain: list[float] = []
    with open_wired(bench, "nftables", 20) as wired:
        wired.write(20, auto=True)
        for _ in range(min(bench.rounds, ROUNDS) + 1):
            plain.append(1000 * wired.plain.run(IFUP, "-a").wall)
            wired.plain.run(IFDOWN, "-a")
            ours.append(1000 * wired.stopwatch.run(IFUP, "-a").wall)
            if wired.count_guards() != 20:
                raise BenchError(f"{wired.count_guards()} of 20 guards stand")
            wired.stopwatch.run(IFDOWN, "-a")
            wired.rest()
    title = "`ifup -a` of 20 guarded interfaces"
    yield Result(title, "3 s", 1.0, "ms", (3000.0,) * len(ours[1:]), tuple(ours[1:]))
    yield Result(title, "empty hook directories", None, "ms", tuple(plain[1:]), tuple(ours[1:]))
    one: list[float] = []
    together: list[float] = []
    with open_wired(bench, "nftables", PARALLEL) as wired:
        wired.write(PARALLEL)
        for _ in range(min(bench.rounds, ROUNDS) + 1):
            one.append(1000 * wired.stopwatch.run(IFUP, "wire1").wall * PARALLEL / CORES)
            wired.stopwatch.run(IFDOWN, "wire1")
            names = [f"wire{number}" for number in range(1, PARALLEL + 1)]
            together.append(1000 * wired.stopwatch.measure([[IFUP, name] for name in names]).wall)
            if wired.count_guards() != PARALLEL:
                raise BenchError(f"{wired.count_guards()} of {PARALLEL} guards stand")
            wired.stopwatch.measure([[IFDOWN, name] for name in names])
            wired.rest()
    yield Result(
        f"{PARALLEL} guarded interfaces raised in parallel", f"one, times {PARALLEL} over {CORES} cores", 2.0, "ms",
        tuple(one[1:]), tuple(together[1:]),
    )  # fmt: skip
