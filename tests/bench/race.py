"""Races: two ways to the same end, run by turns in the same minutes on the same machine, and how they compare."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.lab.laptop import Laptop
from tests.lab.namespaces import ENVIRONMENT

_PROGRAM = "/usr/local/lib/netconf-bench/stopwatch"


class BenchError(Exception):
    """Something can't be measured, or did not do what it was measured for; the message says why."""


class Took(NamedTuple):
    """What one run took.  wall, cpu: seconds; output: both outputs, their first 64 KiB."""

    wall: float
    cpu: float
    output: str


class Result(NamedTuple):
    """One line of the table.

    what, against: both sides, in words; goal: the largest ratio that meets it, None where there is none and the line
        is there to compare with; unit: ``ms`` or ``KiB``; base, ours: what each round took, in `unit`.
    """

    what: str
    against: str
    goal: float | None
    unit: str
    base: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: a disturbance that lasts longer than a round touches both sides."""
        return statistics.median(ours / base for base, ours in zip(self.base, self.ours, strict=True))

    @property
    def met(self) -> bool:
        """Whether the goal is met, at the precision that the goal is written with."""
        return self.goal is None or round(self.ratio, 2) <= self.goal


class Curve(NamedTuple):
    """How something grows: a plot.

    name: of its file; over: what is counted; lines: the points of each, the number and milliseconds, by label.
    logarithmic: whether both scales are.
    """

    name: str
    title: str
    over: str
    lines: Mapping[str, tuple[tuple[float, float], ...]]
    logarithmic: bool = False


class Stopwatch:
    """Measures programs inside a laptop (context manager)."""

    def __init__(self, laptop: Laptop) -> None:
        laptop.write(_PROGRAM, Path(__file__).with_name("stopwatch.py").read_text())
        into = ["nsenter", f"--target={laptop.namespaces.pid}", "--mount", "--uts", "--net", "--pid", "--"]
        self._process = subprocess.Popen(
            [*into, "/usr/bin/python3", "-IS", _PROGRAM],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd="/", start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def measure(
        self,
        *steps: Sequence[Sequence[str]],
        environment: Mapping[str, str] = ENVIRONMENT,
        text: str = "",
    ) -> Took:
        """Run programs, those of each step at once, and return what all of it took.

        environment, text: of each of them, and its standard input.  Raises `BenchError` when one of them fails.
        """
        answer = self._ask({"steps": steps, "environment": dict(environment), "text": text})
        if answer["failed"]:
            raise BenchError(f"{answer['failed']}: {answer['output']}")
        return Took(answer["wall"], answer["cpu"], answer["output"])

    def run(self, *argv: str, environment: Mapping[str, str] = ENVIRONMENT, text: str = "") -> Took:
        """Run one program, by its path: `measure`."""
        return self.measure([argv], environment=environment, text=text)

    def hold(self, path: str) -> None:
        """Make a pipe with a name in there, and be its reader until the end."""
        self._ask({"hold": path})

    def _ask(self, question: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the stopwatch has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


Runner = Callable[[], Took]


def race(rounds: int, *runners: Runner) -> list[tuple[Took, ...]]:
    """Run all runners by turns and return what they took, a tuple for each; one round beforehand does not count."""
    taken = [[runner() for runner in runners] for _ in range(rounds + 1)][1:]
    return list(zip(*taken, strict=True))


def milliseconds(taken: Sequence[Took]) -> tuple[float, ...]:
    """Return the times on the clock."""
    return tuple(1000 * took.wall for took in taken)


def cpu_milliseconds(taken: Sequence[Took]) -> tuple[float, ...]:
    """Return the processor times."""
    return tuple(1000 * took.cpu for took in taken)
