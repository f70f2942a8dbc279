"""``make mutants FILE=netconf_hooks/decide.py``: would the tests notice if the code were wrong?

Changes a module at random, one small change at a time (an operator, a condition, a constant, a return value, a call
taken out), and runs the unit tests on each: those of the module's own test file or directory first, then all others.
It prints every change that no test noticed, and exits with 1 if fewer than ``--share`` percent of them were noticed,
with 2 if the tests fail before anything is changed.  It works on copies: the checkout stays as it is.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
UNIT = "tests/unit"
SLACK = 5  # a run with a mutant may take so many times as long as one without
SHORTEST = 30.0  # seconds that a run is given at least

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


def find_own_tests(module: str, root: Path = ROOT) -> list[str]:
    """Return the tests of a module, by their place: a file, the directory of its package, or nothing.

    module: its file, below the project's directory.
    """
    path = Path(module)
    parts = path.parts[1:]
    places = [Path(UNIT, *parts[:-1], f"test_{path.stem}.py"), Path(UNIT, *parts[:-1])]
    return [str(place) for place in places if (root / place).exists() and str(place) != UNIT][:2]


class Copy:
    """A copy of the checkout, in which one mutant after the other is tested."""

    def __init__(self, root: Path, directory: Path, module: str) -> None:
        self._directory = directory
        self._module = directory / module
        files = ["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z", "--cached", "--others",
                 "--exclude-standard"]  # fmt: skip
        for name in subprocess.run(files, capture_output=True, check=True, text=True).stdout.split("\0"):
            if name and (root / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, directory / name)
        self._written = 0

    def test(self, source: bytes, groups: Sequence[Sequence[str]], timeout: float) -> str:
        """Return what notices this source: the tests' output, or that they took too long; empty if nothing does.

        groups: arguments of pytest; the next are run only if the tests of those before pass.
        """
        self._module.write_bytes(source)
        # Compiled modules are known again by whole seconds and size.
        self._written += 10
        os.utime(self._module, (self._written, self._written))
        for arguments in groups:
            noticed = self._run(arguments, timeout)
            if "FailedHealthCheck" in noticed:  # hypothesis found this machine too slow
                noticed = self._run(arguments, timeout)
            if noticed:
                return noticed
        return ""

    def _run(self, arguments: Sequence[str], timeout: float) -> str:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line", "--hypothesis-seed=0",
                   *arguments]  # fmt: skip
        environment = os.environ | {
            "LC_ALL": "C.UTF-8",
            "NETCONF_EXAMPLES": "20",
            "PYTHONPYCACHEPREFIX": str(self._directory / "build/pycache"),
        }
        with subprocess.Popen(
            command, cwd=self._directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True, text=True, errors="replace",
        ) as process:  # fmt: skip
            try:
                output = process.communicate(timeout=timeout)[0]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return f"not ended after {timeout:.0f} s"
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        # 5: no test was selected (pytest.ExitCode).
        return "" if process.returncode in (0, 5) else output or f"exit status {process.returncode}"


def hunt(
    module: str, count: int, seed: int, tests: Sequence[str] = (), also: Sequence[str] = (), jobs: int = 0,
    root: Path = ROOT,
) -> Iterator[Outcome]:
    """Test `count` changes of a module (all, if it has no more), and yield what came of each.

    module: its file, below `root`; tests: those to run, instead of all unit tests; also: more, for those changes that
    they do not notice; jobs: how many at a time, 0: one for each processor.  Raises `TestsFail`.
    """
    # Read once: somebody may edit it meanwhile, and then the changes would be at other places.
    source = (root / module).read_bytes()
    mutants = list_mutants(source)
    chosen = random.Random(seed).sample(mutants, min(count, len(mutants)))
    own = list(tests) or find_own_tests(module, root)
    groups = [[*own, "-m", "not thorough"]] if own else []
    if not tests:
        groups.append([UNIT, "-m", "not thorough", *(f"--ignore={path}" for path in own)])
    groups += [[path] for path in also]
    jobs = jobs or os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory, ThreadPoolExecutor(jobs) as threads:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(min(jobs, len(chosen)) or 1):
            copies.put(Copy(root, Path(directory, str(number)), module))
        first = copies.get()
        began = time.monotonic()
        if problem := first.test(source, groups, 3600.0):
            raise TestsFail(problem)
        timeout = max(SHORTEST, SLACK * (time.monotonic() - began))
        copies.put(first)
        stop = threading.Event()

        def work(mutant: Mutant) -> Outcome:
            if stop.is_set():
                return Outcome(mutant, "not tested")
            place = copies.get()
            try:
                return Outcome(mutant, place.test(mutant.apply(source), groups, timeout))
            finally:
                copies.put(place)

        try:
            yield from threads.map(work, chosen)
        finally:
            stop.set()


def show(mutant: Mutant, module: str, source: bytes) -> str:
    """Return a change as a diff."""
    before, after = (text.decode().splitlines(keepends=True) for text in (source, mutant.apply(source)))
    return "".join(difflib.unified_diff(before, after, module, "as nobody noticed", n=2))


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.mutants", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("file", help="the module, such as netconf_hooks/decide.py")
    parser.add_argument("--count", type=int, default=50, help="how many changes to try (50)")
    parser.add_argument("--seed", type=int, default=None, help="which ones; printed, so that a run can be repeated")
    parser.add_argument("--share", type=float, default=95.0, help="how many of a hundred must be noticed (95)")
    parser.add_argument("--jobs", type=int, default=0, help="how many to test at a time (one for each processor)")
    parser.add_argument("--tests", nargs="*", default=[], metavar="TEST", help="run these instead of all unit tests")
    parser.add_argument("--also", nargs="*", default=[], metavar="TEST", help="more tests, such as some of the lab's")
    options = parser.parse_args(arguments)
    path = Path(options.file).resolve()
    if not path.is_file() or root.resolve() not in path.parents:
        parser.error(f"{options.file}: expected a module below {root}")
    module = str(path.relative_to(root.resolve()))
    source = path.read_bytes()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"{module}: {len(list_mutants(source))} changes are possible; seed {seed}", flush=True)
    tried = noticed = 0
    try:
        for outcome in hunt(module, options.count, seed, options.tests, options.also, options.jobs, root):
            tried += 1
            noticed += bool(outcome.noticed)
            if not outcome.noticed:
                print(f"\nnobody noticed:\n{show(outcome.mutant, module, source)}", flush=True)
    except TestsFail as problem:
        print(f"The tests fail before anything is changed:\n{problem}", file=sys.stderr)
        return 2
    print(f"{module}: {noticed} of {tried} changes noticed")
    return 0 if 100 * noticed >= options.share * tried else 1


if __name__ == "__main__":
    sys.exit(main())
