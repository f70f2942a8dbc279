"""A plugin of pytest for `tests.mutants`: it notes which tests call which functions, and runs only those tests.

Its parameters are in the environment, since pytest-xdist passes them on to its workers.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import time
from collections.abc import Generator
from types import FrameType

import pytest

# The files whose functions count, each from the working directory, separated by blanks; and where to write the calls.
MODULES, CALLS = "MUTANTS_MODULES", "MUTANTS_CALLS"
# A file with the tests to run, one a line, each behind the seconds that it may take.
ONLY = "MUTANTS_ONLY"

_modules = {os.path.abspath(name): name for name in os.environ.get(MODULES, "").split()}
_called: set[tuple[str, int]] = set()
_calls: dict[str, dict[int, list[str]]] = {name: {} for name in _modules.values()}
_seconds: dict[str, float] = {}
_limits: dict[str, float] = {}


def _trace(frame: FrameType, event: str, argument: object) -> None:
    """Note the function that begins; its lines are not followed."""
    name = _modules.get(frame.f_code.co_filename)
    if name:
        _called.add((name, frame.f_code.co_firstlineno))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, None, None]:
    """Note what a test calls, its fixtures included; end all tests if it takes too long."""
    if not _modules:
        if item.nodeid in _limits:
            faulthandler.dump_traceback_later(_limits[item.nodeid], exit=True)
        yield
        faulthandler.cancel_dump_traceback_later()
        return
    _called.clear()
    began = time.monotonic()
    sys.settrace(_trace)
    yield
    sys.settrace(None)
    _seconds[item.nodeid] = time.monotonic() - began
    for name, line in _called:
        _calls[name].setdefault(line, []).append(item.nodeid)


def pytest_sessionfinish() -> None:
    """Write down what was noted; each worker of pytest-xdist does so."""
    if _modules:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "")
        with open(f"{os.environ[CALLS]}{worker}", "w", encoding="utf-8") as file:
            json.dump([_calls, _seconds], file)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that are not to run; the quickest of the others come first."""
    if ONLY not in os.environ:
        return
    with open(os.environ[ONLY], encoding="utf-8") as file:
        for line in file.read().split("\n"):
            limit, _, test = line.partition(" ")
            _limits[test] = float(limit)
    order = {test: number for number, test in enumerate(_limits)}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in order])
    items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])
