"""``make mutants FILE=netconf_hooks/decide.py``: would the tests notice if the code were wrong?

Changes a module at random, one small change at a time (an operator, a condition, a constant, a return value, a call
taken out), and runs the unit tests on each: first those that call the changed function, the quickest first, then all
others, since a test may run the module in a process of its own; ``--quick`` leaves these out.
It prints every change that no test noticed, and exits with 1 if fewer than ``--share`` percent of them were noticed,
with 2 if the tests fail before anything is changed.  It works on copies: the checkout stays as it is.

All tests take minutes for each change of a function that they call only in processes of their own, as those of the
watcher: name the files of such tests (``--tests``).
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import json
import os
import queue
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.calls import CALLS, MODULES, ONLY

ROOT = Path(__file__).resolve().parents[1]
UNIT = "tests/unit"
SLACK = 5  # a run with a mutant may take so many times as long as one without
SHORTEST = 30.0  # seconds that a run is given at least
SHORTEST_TEST = 30.0  # and each of its tests

_OPPOSITES: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.FloorDiv,), ast.FloorDiv: (ast.Mult,),
    ast.Div: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
}  # fmt: skip


class Mutant(NamedTuple):
    """A change: the text between two offsets of the source, in bytes, becomes `text`."""

    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        """Return the source with this change."""
        return source[:self.start] + self.text.encode() + source[self.end:]


class Outcome(NamedTuple):
    """What the tests made of a change: by what it was noticed, empty if by nothing."""

    mutant: Mutant
    noticed: str


class TestsFail(Exception):
    """The tests fail without any change; the message is their output."""


def list_mutants(source: bytes) -> list[Mutant]:
    """Return every change that can be made to a module.

    Left as they are: docstrings, annotations, what only type checkers see, and messages (strings with a blank in them
    and f-strings), whose words no test should repeat.
    """
    tree = ast.parse(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, replacement in _walk(tree):
        assert isinstance(node, (ast.expr, ast.stmt)) and node.end_lineno and node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        text = ast.unparse(ast.fix_missing_locations(replacement))
        if isinstance(node, ast.expr) and not isinstance(node, ast.Constant):
            text = f"({text})"
        if ast.dump(node) != ast.dump(replacement):
            found.append(Mutant(start, end, text))
    return list(dict.fromkeys(found))


def _walk(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield each node that can be changed below `node`, and what it can become."""
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TYPE_CHECKING":
        return
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        yield node.test, ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.comprehension):
        for condition in node.ifs:
            yield condition, ast.UnaryOp(ast.Not(), condition)
    elif isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Constant):
        yield node.value, ast.Constant(None)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, ast.Pass()
    yield from _change_operators(node)
    if isinstance(node, ast.Constant):
        for value in _change_constant(node.value):
            yield node, ast.Constant(value)
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_params", "decorator_list") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            is_docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.AST) and not is_docstring:
                yield from _walk(child)


def _change_operators(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in _OPPOSITES.get(type(operator), ()):
                changed = copy.deepcopy(node)
                changed.ops[place] = other()  # type: ignore[call-overload]
                yield node, changed
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, node.operand
    elif isinstance(node, (ast.BoolOp, ast.BinOp, ast.AugAssign)):
        for other in _OPPOSITES.get(type(node.op), ()):
            changed_operation = copy.deepcopy(node)
            changed_operation.op = other()  # type: ignore[assignment]
            yield node, changed_operation


def _change_constant(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield value + 1
    elif isinstance(value, str) and " " not in value:
        yield "" if value else "mutant"


class Calls:
    """Which tests call which functions of some modules, and how long each test takes.

    reports: the files that the plugin has written.
    """

    def __init__(self, reports: Iterable[Path]) -> None:
        self._calls: dict[tuple[str, int], list[str]] = {}
        self.seconds: dict[str, float] = {}
        for report in reports:
            calls, seconds = json.loads(report.read_text())
            self.seconds |= seconds
            for module, lines in calls.items():
                for line, tests in lines.items():
                    self._calls.setdefault((module, int(line)), []).extend(tests)

    def find(self, module: str, source: bytes, mutant: Mutant) -> tuple[str, ...]:
        """Return the tests that call the function with a change in it, the quickest first; none if it is in none."""
        line = source[:mutant.start].count(b"\n") + 1
        found: tuple[int, int] | None = None
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if first <= line <= (node.end_lineno or line) and (found is None or first > found[0]):
                    found = first, line
        tests = set(self._calls.get((module, found[0]), ())) if found else set()
        return tuple(sorted(tests, key=lambda test: self.seconds[test]))


class Batch(NamedTuple):
    """A run of pytest: its arguments; if it has `only`, it leaves out all other tests, and each of these may take so
    many seconds; timeout: seconds for all."""

    arguments: tuple[str, ...]
    only: Mapping[str, float]
    timeout: float


class Copy:
    """A copy of the checkout, in which one mutant after the other is tested."""

    def __init__(self, root: Path, directory: Path) -> None:
        self._directory = directory
        files = ["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z", "--cached", "--others",
                 "--exclude-standard"]  # fmt: skip
        for name in subprocess.run(files, capture_output=True, check=True, text=True).stdout.split("\0"):
            if name and (root / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, directory / name)
        shutil.copy2(ROOT / "tests/calls.py", directory / "mutants_calls.py")
        self._written = 0
        self._lock = threading.Lock()
        self._running: subprocess.Popen[str] | None = None
        self._ended = False

    def end(self) -> None:
        """End the tests that run here, and start no more."""
        with self._lock:
            self._ended = True
            if self._running and self._running.poll() is None:
                os.killpg(self._running.pid, signal.SIGKILL)

    def learn(self, modules: Sequence[str], arguments: Sequence[str]) -> Calls:
        """Run the tests as they are; return what they call.  Raises `TestsFail`."""
        calls = self._directory / "build/calls"
        calls.mkdir(parents=True)
        environment = {MODULES: " ".join(modules), CALLS: str(calls / "run")}
        if problem := self._run(arguments, 3600.0, environment):
            raise TestsFail(problem)
        return Calls(calls.iterdir())

    def test(self, module: str, source: bytes, batches: Sequence[Batch]) -> str:
        """Return what notices this source: the tests' output, or that they took too long; empty if nothing does.

        batches: the next is run only if the tests of those before pass.
        """
        path = self._directory / module
        before = path.read_bytes()
        self._write(path, source)
        try:
            for batch in batches:
                environment = {}
                if batch.only:
                    only = self._directory / "build/only"
                    only.parent.mkdir(exist_ok=True)
                    only.write_text("\n".join(f"{limit} {test}" for test, limit in batch.only.items()))
                    environment[ONLY] = str(only)
                noticed = self._run(batch.arguments, batch.timeout, environment)
                if "FailedHealthCheck" in noticed:  # hypothesis found this machine too slow
                    noticed = self._run(batch.arguments, batch.timeout, environment)
                if noticed:
                    return noticed
            return ""
        finally:
            self._write(path, before)

    def _write(self, path: Path, source: bytes) -> None:
        path.write_bytes(source)
        # Compiled modules are known again by whole seconds and size.
        self._written += 10
        os.utime(path, (self._written, self._written))

    def _run(self, arguments: Sequence[str], timeout: float, environment: Mapping[str, str]) -> str:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line", "--hypothesis-seed=0",
                   "-p", "mutants_calls", *arguments]  # fmt: skip
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            "LC_ALL": "C.UTF-8",
            "NETCONF_EXAMPLES": "20",
            "PYTHONPYCACHEPREFIX": str(self._directory / "build/pycache"),
            **environment,
        }
        path = self._directory / "build/output"
        path.parent.mkdir(exist_ok=True)
        with open(path, "wb") as output:
            with self._lock:
                if self._ended:
                    return "not run"
                self._running = subprocess.Popen(
                    command, cwd=self._directory, env=environment, stdout=output, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            with self._running as process:
                try:
                    has_ended = _wait(process.pid, timeout)
                finally:
                    # Also the processes that tests have left behind, which may never end.
                    os.killpg(process.pid, signal.SIGKILL)
        if not has_ended:
            return f"not ended after {timeout:.0f} s"
        said = path.read_text(errors="replace")
        # 5: no test was selected (pytest.ExitCode).
        return "" if process.returncode in (0, 5) else said or f"exit status {process.returncode}"


def _wait(pid: int, timeout: float) -> bool:
    """Wait until a child has ended, and leave it to be reaped; return False if that takes too long."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], timeout)[0])
    finally:
        os.close(descriptor)


class Hunt:
    """Tests changes of modules (context manager), in copies of the checkout.

    modules: their files, below `root`; tests: those to run, instead of all unit tests; also: more, for those changes
    that they do not notice; jobs: how many at a time, 0: one for each processor; quick: whether only to run the tests
    that call the changed function.  Raises `TestsFail`.
    """

    def __init__(
        self, modules: Sequence[str], tests: Sequence[str] = (), also: Sequence[str] = (), jobs: int = 0,
        quick: bool = False, root: Path = ROOT,
    ) -> None:
        # Read once: somebody may edit it meanwhile, and then the changes would be at other places.
        self.sources = {module: (root / module).read_bytes() for module in modules}
        self._tests = list(tests) or [UNIT]
        self._also = also
        self._jobs = jobs or os.cpu_count() or 1
        self._quick = quick
        self._directory = tempfile.TemporaryDirectory(prefix="mutants-")
        try:
            self._all = [Copy(root, Path(self._directory.name, str(number))) for number in range(self._jobs)]
            self._copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
            for each in self._all:
                self._copies.put(each)
            first = self._copies.get()
            began = time.monotonic()
            workers = ["-n", str(self._jobs)] if self._jobs > 1 else []
            self._calls = first.learn(modules, [*self._tests, "-m", "not thorough", *workers])
            self._limit = max(SHORTEST, SLACK * (time.monotonic() - began) * self._jobs)
            self._copies.put(first)
        except BaseException:
            self._directory.cleanup()
            raise

    def __enter__(self) -> Hunt:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def run(self, module: str, count: int, seed: int) -> Iterator[Outcome]:
        """Test `count` changes of a module (all, if it has no more), and yield what came of each."""
        source = self.sources[module]
        mutants = list_mutants(source)
        chosen = random.Random(seed).sample(mutants, min(count, len(mutants)))
        stop = threading.Event()

        def work(mutant: Mutant) -> Outcome:
            if stop.is_set():
                return Outcome(mutant, "not tested")
            place = self._copies.get()
            try:
                return Outcome(mutant, place.test(module, mutant.apply(source), self._plan(module, mutant)))
            finally:
                self._copies.put(place)

        with ThreadPoolExecutor(self._jobs) as threads:
            try:
                yield from threads.map(work, chosen)
            except BaseException:
                stop.set()
                for each in self._all:
                    each.end()
                raise

    def _plan(self, module: str, mutant: Mutant) -> list[Batch]:
        """Return what is run on a change."""
        calling = self._calls.find(module, self.sources[module], mutant)
        batches = []
        if calling:
            files = dict.fromkeys(test.partition("::")[0] for test in calling)
            seconds = SHORTEST + SLACK * sum(self._calls.seconds[test] for test in calling)
            batches.append(Batch((*files, "-m", "not thorough"), self._limit_each(calling), seconds))
        others = [test for test in self._calls.seconds if test not in set(calling)]
        if others and not (calling and self._quick):
            batches.append(Batch((*self._tests, "-m", "not thorough"), self._limit_each(others), self._limit))
        return batches + [Batch((path,), {}, self._limit) for path in self._also]

    def _limit_each(self, tests: Iterable[str]) -> dict[str, float]:
        """Return how many seconds each test may take: one that hangs should not take the time of all."""
        return {test: SHORTEST_TEST + SLACK * self._calls.seconds[test] for test in tests}


def show(mutant: Mutant, module: str, source: bytes) -> str:
    """Return a change as a diff."""
    before, after = (text.decode().splitlines(keepends=True) for text in (source, mutant.apply(source)))
    return "".join(difflib.unified_diff(before, after, module, "as nobody noticed", n=2))


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.mutants", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("files", nargs="+", metavar="FILE", help="a module, such as netconf_hooks/decide.py")
    parser.add_argument("--count", type=int, default=50, help="how many changes of each to try (50)")
    parser.add_argument("--seed", type=int, default=None, help="which ones; printed, so that a run can be repeated")
    parser.add_argument("--share", type=float, default=95.0, help="how many of a hundred must be noticed (95)")
    parser.add_argument("--jobs", type=int, default=0, help="how many to test at a time (one for each processor)")
    parser.add_argument("--quick", action="store_true", help="run only the tests that call the changed function")
    parser.add_argument("--tests", nargs="*", default=[], metavar="TEST", help="run these instead of all unit tests")
    parser.add_argument("--also", nargs="*", default=[], metavar="TEST", help="more tests, such as some of the lab's")
    options = parser.parse_args(arguments)
    modules = []
    for name in options.files:
        path = Path(name).resolve()
        if not path.is_file() or root.resolve() not in path.parents:
            parser.error(f"{name}: expected a module below {root}")
        modules.append(str(path.relative_to(root.resolve())))
    seed = random.randrange(10**6) if options.seed is None else options.seed
    status = 0
    try:
        with Hunt(modules, options.tests, options.also, options.jobs, options.quick, root) as hunt:
            for module in modules:
                source = hunt.sources[module]
                print(f"{module}: {len(list_mutants(source))} changes are possible; seed {seed}", flush=True)
                tried = noticed = 0
                for outcome in hunt.run(module, options.count, seed):
                    tried += 1
                    noticed += bool(outcome.noticed)
                    if not outcome.noticed:
                        print(f"\nnobody noticed:\n{show(outcome.mutant, module, source)}", flush=True)
                print(f"{module}: {noticed} of {tried} changes noticed", flush=True)
                if 100 * noticed < options.share * tried:
                    status = 1
    except TestsFail as problem:
        print(f"The tests fail before anything is changed:\n{problem}", file=sys.stderr)
        return 2
    return status


def end_by_signals() -> None:
    """Let SIGINT and SIGTERM end this process, its tests and its copies (a shell's background jobs ignore SIGINT)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    end_by_signals()
    sys.exit(main())
