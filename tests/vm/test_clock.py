"""The wall clock really set, in one boot of Debian's kernel: how each check of `clock` went in there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import vm
from tests.vm.clock import CHECKS

# Seconds.  How long an emulated processor takes is hard to tell.
TIMEOUT = 1500.0


@pytest.fixture(scope="session")
def clock_report(requirements: None, packages: list[Path]) -> Iterator[vm.Report]:
    """What the machine said; shown where a test failed."""
    with vm.install("tests.vm.clock", packages) as disk:
        made = vm.run(disk, TIMEOUT)
    print(f"{made.accelerator}: off after {made.seconds:.0f} s\n{made.console}")
    print(*made.lines, sep="\n")
    yield made


@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS])
def test_clock(clock_report: vm.Report, name: str) -> None:
    assert name in clock_report.outcomes, f"the machine said nothing of it\n{clock_report.console[-4000:]}"
    assert not clock_report.outcomes[name], clock_report.outcomes[name]


def test_the_machine_told_all_it_was_to(clock_report: vm.Report) -> None:
    assert clock_report.plan == len(CHECKS)
    assert list(clock_report.outcomes) == [check.__name__ for check in CHECKS]
