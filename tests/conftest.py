"""What unit tests, lab and virtual machine have in common: the order of the tests, and how workers share them."""

from __future__ import annotations

import functools
import re
import signal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What takes some tests of a file longest is made for all tests of that file: they run in one worker.
_FOR_A_MODULE = re.compile(r'scope="module"|^from \.ipsec_laptop import', re.MULTILINE)

# The tests that take twenty seconds and more: no worker may be alone with one of them in the end.
_SLOW = (
    "attacks/test_cut_off.py", "attacks/test_killed.py", "attacks/test_many.py", "test_boot", "test_roaming",
    "test_soak", "test_supervision", "test_uplinks",
)  # fmt: skip

# The files of unit tests that wait for seconds, for deadlines to pass.
_WAITING = (
    "test_monitor.py", "watcher/test_watch.py", "mappings/test_guessnet.py", "test_hook.py", "evidence/test_names.py",
    "test_children.py", "test_wish.py",
)  # fmt: skip


@functools.cache
def _runs_as_a_whole(path: str) -> bool:
    """Whether all tests of a file are for the same worker."""
    return path.startswith("tests/unit/") or bool(_FOR_A_MODULE.search((ROOT / path).read_text(encoding="utf-8")))


def _find_turn(item: pytest.Item) -> int:
    """Return when a test is run: quick ones, which may fail at once, first, and the others by how long they take."""
    path = item.nodeid.partition("::")[0]
    if path.startswith("tests/unit/"):
        return -1 if path.endswith(_WAITING) else 0
    if _runs_as_a_whole(path):
        return 1
    return 2 if any(name in path for name in _SLOW) else 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests into the order in which they are given to workers."""
    items.sort(key=_find_turn)


@pytest.hookimpl(optionalhook=True)  # type: ignore[misc]  # untyped in pytest 7
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker one test or file after the other: pytest-xdist itself would give it hundreds at once."""
    if config.option.dist != "load":
        return None  # somebody has chosen another way
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # untyped in pytest-xdist 3
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if _runs_as_a_whole(path) else nodeid

    config.option.loadscopereorder = False  # since 3.7; the order is ours
    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """SIGINT interrupts: a shell's background jobs ignore it, and so would all processes that tests start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
