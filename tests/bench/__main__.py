"""``make bench``: measure the rows asked for, print them, and where it was all of them write docs/performance.md."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lab.namespaces import CommandFailed

from . import plots, report
from .notes import NOTES
from .race import BenchError, Curve, Result, milliseconds, race
from .rows import PARALLEL, ROWS
from .scene import INTERPRETER, Bench

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/performance.md"
ROUNDS = 21

# What the hooks would import if nobody looked, and what of theirs is used where it is needed.
MODULES = (
    "os", "struct", "netifaces", "re", "typing", "signal", "socket", "json", "subprocess", "logging", "dataclasses",
    "argparse", "_ctypes", "ctypes", "dns.resolver", "ssl", "pyroute2", "iptc",
)  # fmt: skip


def copy_packages(directory: Path) -> list[Path]:
    """Build the packages of this checkout, and return copies: another run may build again meanwhile."""
    subprocess.run(["make", "deb"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with open(ROOT / "build/.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return [Path(shutil.copy(package, directory)) for package in sorted((ROOT / "build").glob("*.deb"))]


def measure_imports(bench: Bench) -> list[report.Import]:
    """Return what modules cost, the cheapest first."""
    stopwatch = bench.office.stopwatch
    begin = "import sys; sys.path.append('/usr/lib/python3/dist-packages'); import "
    programs = [INTERPRETER, *((*INTERPRETER[:-1], begin + module) for module in MODULES)]
    bare, *loaded = race(bench.rounds, *(lambda argv=argv: stopwatch.measure([argv]) for argv in programs))
    costs = []
    for module, taken in zip(MODULES, loaded, strict=True):
        extra = sorted(more - less for more, less in zip(milliseconds(taken), milliseconds(bare), strict=True))
        costs.append(report.Import(module, extra[len(extra) // 2]))
    return sorted(costs, key=lambda each: each.cost)


def give_away(path: Path) -> None:
    """Let a file, and its directory, belong to whom the checkout belongs to, also where root has written it."""
    owner = ROOT.stat()
    for each in (path.parent, path):
        os.chown(each, owner.st_uid, owner.st_gid)


def main() -> int:
    """Measure, and return the exit status: 1 where something could not be measured."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measures what the hooks cost.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all unless given: {' '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each race: %(default)s unless given")
    parser.add_argument("--page", type=Path, help=f"where the page is written; unless given {PAGE.relative_to(ROOT)}, "
                        f"and only where all rows were measured in {ROUNDS} rounds or more")  # fmt: skip
    options = parser.parse_args()
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {' '.join(unknown)}; there are {' '.join(ROWS)}")
    machine = report.describe_machine()
    chosen = [name for name in ROWS if name in (options.rows or ROWS)]
    rows: dict[str, list[Result]] = {}
    curves: list[Curve] = []
    failures: dict[str, str] = {}
    whole = len(chosen) == len(ROWS) and options.rounds >= ROUNDS
    imports: list[report.Import] = []
    with tempfile.TemporaryDirectory() as directory:
        with Bench(copy_packages(Path(directory)), options.rounds) as bench:
            for name in chosen:
                rows[name] = []
                try:
                    for result in ROWS[name](bench):
                        if isinstance(result, Curve):
                            curves.append(result)
                            continue
                        rows[name].append(result)
                        print(report.format_line(result), flush=True)
                except (BenchError, CommandFailed, TimeoutError) as error:
                    failures[name] = str(error).splitlines()[0]
                    print(f"{name}: not measured: {error}", file=sys.stderr, flush=True)
            if whole or options.page:
                imports = measure_imports(bench)
    page = options.page or (PAGE if whole else None)
    if page:
        for picture in plots.draw(curves, page.with_suffix("")):
            give_away(picture)
        text = report.format_page(machine, rows, failures, imports, NOTES, options.rounds, PARALLEL, page.stem, curves)
        page.write_text(text)
        give_away(page)
        print(f"Written: {page}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
