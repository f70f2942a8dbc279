"""The table in the terminal, and docs/performance.md."""

from __future__ import annotations

import os
import platform
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .race import Curve, Result


class Machine(NamedTuple):
    """What it was measured on.  load: of the last minute, when the run began."""

    cpu: str
    cores: int
    kernel: str
    debian: str
    python: str
    ifupdown: str
    load: float


class Import(NamedTuple):
    """What a module costs to import, milliseconds on top of a bare interpreter's."""

    module: str
    cost: float


_PREFACE = """\
# What the hooks cost

Every `ifup` of every interface pays for these hooks. This page says how much, compared with alternatives. `make bench`
writes it; to measure on another machine, run it there (a quarter of an hour, as root).
"""

_UNKNOWN = "The reason is not known yet."

_METHOD = """\
## How it was measured

- By `tests/bench/`: real ifupdown, dhclient and the built packages on a laptop of the lab (`tests/lab`), which is made
  of namespaces of this machine. `make bench ROWS='ifup-plain memory'` runs some rows, `ROUNDS=5` fewer rounds; neither
  writes this file.
- Both sides of a row run by turns, {rounds} rounds of each (fewer if one takes seconds) after one that does not count,
  so that other load on the machine affects both sides. The table has the medians, and the median of the rounds' ratios
  (which need not be the ratio of the medians).
- Times are wall time, from the start of the program to its end, unless they are called CPU time: this is the user and
  system time of the program and of all its children that it waited for (wait4(2)). Both are measured inside the laptop.
  Memory is the largest resident size (`ru_maxrss`, by time(1)).
- "The shell hook" is `tests/bench/shell-hook`, in the same place, on the same network, with the same result.
- Of `if-up` the second and all later runs are measured: the record exists and does not change, so nothing is started
  or stopped. Each run wakes the watcher, but its work must not count as the hooks' time: the bench holds its pipe, so
  that it does not run, except in the rows of {parallel}, 40 and 20 interfaces and its own.
- The watcher's own processor time is that of its process and of its children (proc(5), stat), until 1.5 s after the
  load has ended.
- "MAC known": the router's entry in the neighbour table is stale, as it is after a while. "To be resolved": the entry
  is removed before each run; the shell hook then pings the router.
"""


def describe_machine() -> Machine:
    """Return what this machine is."""
    processors = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in processors.splitlines() if line.startswith("model name")]
    version = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "ifupdown"], capture_output=True, text=True, check=True
    )
    return Machine(
        cpu=names[0] if names else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        debian=Path("/etc/debian_version").read_text().strip(),
        python=platform.python_version(),
        ifupdown=version.stdout,
        load=os.getloadavg()[0],
    )


def format_line(result: Result) -> str:
    """Return a result as a line for the terminal."""
    goal = "" if result.goal is None else f"goal {result.goal:<5g} {'met' if result.met else 'NOT MET'}"
    base, ours = (f"{format_figure(median(taken), result.unit)} {result.unit}" for taken in (result.base, result.ours))
    return f"{result.what}, against {result.against}:\n    {ours} : {base} = {result.ratio:.2f}   {goal}".rstrip()


def format_figure(figure: float, unit: str) -> str:
    """Return a figure with as many digits as mean anything."""
    return f"{figure:,.0f}" if unit == "KiB" or figure >= 100 else f"{figure:.1f}"


def format_page(
    machine: Machine,
    rows: Mapping[str, Sequence[Result]],
    failures: Mapping[str, str],
    imports: Sequence[Import],
    notes: Mapping[str, str],
    rounds: int,
    parallel: int,
    pictures: str,
    curves: Sequence[Curve],
) -> str:
    """Return docs/performance.md.

    rows: the results by the names of their rows; failures: why there are none; notes: why a goal is not met.
    pictures: the directory of the plots, beside the page; curves: what is plotted.
    """
    parts = [
        _PREFACE,
        _format_table(rows, failures),
        _format_curves(pictures, curves),
        _format_unmet(rows, notes),
        _METHOD.format(rounds=rounds, parallel=parallel),
        _format_machine(machine),
        _format_imports(imports),
    ]
    return "\n".join(part for part in parts if part)


def _format_table(rows: Mapping[str, Sequence[Result]], failures: Mapping[str, str]) -> str:
    lines = ["| what | against | ours | theirs | ratio | goal | |", "| --- | --- | ---: | ---: | ---: | ---: | --- |"]
    for name, results in rows.items():
        for each in results:
            figures = [format_figure(median(taken), each.unit) for taken in (each.ours, each.base)]
            goal, met = ("", "") if each.goal is None else (f"≤ {each.goal:g}", "met" if each.met else "**not met**")
            lines.append(
                f"| {each.what} | {each.against} | {figures[0]} {each.unit} | {figures[1]} {each.unit} "
                f"| {each.ratio:.2f} | {goal} | {met} |"
            )
        if name in failures:
            lines.append(f"| {name} | | | | | | not measured: {failures[name]} |")
    return "\n".join(lines) + "\n"


def _format_curves(pictures: str, curves: Sequence[Curve]) -> str:
    if not curves:
        return ""
    lines = [
        f"![{curve.title}: milliseconds over the number of {curve.over}]({pictures}/{curve.name}.svg)"
        for curve in curves
    ]  # fmt: skip
    return "## How it grows\n\n" + "\n\n".join(lines) + "\n"


def _format_unmet(rows: Mapping[str, Sequence[Result]], notes: Mapping[str, str]) -> str:
    paragraphs = []
    for name, results in rows.items():
        missed = [each for each in results if not each.met]
        if not missed:
            continue
        by_how_much = "; ".join(
            f"{each.what}, against {each.against}: {each.ratio:.2f} (goal: {each.goal:g})" for each in missed
        )
        paragraphs.append(f"**{by_how_much}.** {notes.get(name, _UNKNOWN)}")
    if not paragraphs:
        return ""
    filled = (textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) for text in paragraphs)
    return "## Where a goal is not met, and why\n\n" + "\n\n".join(filled) + "\n"


def _format_machine(machine: Machine) -> str:
    return f"""\
## The machine

{machine.cpu}, {machine.cores} cores; Linux {machine.kernel}; Debian {machine.debian}, Python {machine.python}, \
ifupdown {machine.ifupdown}; load {machine.load:.2f} when the run began.
"""


def _format_imports(imports: Sequence[Import]) -> str:
    lines = [f"| `{each.module}` | {each.cost:.1f} ms |" for each in imports]
    return "\n".join([
        "## What imports cost",
        "",
        "Each module alone, on top of `python3 -IS -c pass`. This is why the hooks import so little",
        "(`tests/unit/test_imports.py`).",
        "",
        "| module | |",
        "| --- | ---: |",
        *lines,
        "",
    ])  # fmt: skip
