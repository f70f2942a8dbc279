"""Waiting by looking again: on a clock of the test's own."""

from __future__ import annotations

import pytest

from netconf_hooks.system import waiting
from netconf_hooks.system.waiting import wait_until


class Clock:
    """Stands for the machine's clock: only sleeping takes time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(waiting, "sleep", clock.sleep)
    monkeypatch.setattr(waiting, "monotonic", lambda: clock.now)
    return clock


def test_what_is_so_already_is_not_waited_for(clock: Clock) -> None:
    assert wait_until(lambda: "yes", 0.0)
    assert clock.pauses == []


def test_it_looks_once_where_there_is_no_time(clock: Clock) -> None:
    assert not wait_until(lambda: None, 0.0)
    assert clock.pauses == []


def test_it_waits_no_longer_than_it_may(clock: Clock) -> None:
    assert not wait_until(lambda: False, 10.0)
    assert clock.now == pytest.approx(110.0)
    assert len(clock.pauses) < 100


@pytest.mark.parametrize("moment", [0.001, 0.1, 0.5, 0.9])
def test_what_comes_true_is_noticed_soon(clock: Clock, moment: float) -> None:
    assert wait_until(lambda: clock.now >= 100.0 + moment, 10.0)
    assert clock.now - 100.0 - moment <= 0.01 + 0.2 * moment


def test_a_pause_longer_than_the_longest_stays_as_it_is(clock: Clock) -> None:
    assert not wait_until(lambda: False, 3.0, pause=1.0)
    assert clock.pauses == pytest.approx([1.0, 1.0, 1.0])
