"""The guard, in one boot of Debian's kernel: how each check of `guard` went in there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import vm
from tests.vm.guard import CHECKS

# Seconds.  How long an emulated processor takes is hard to tell.
TIMEOUT = 1500.0


@pytest.fixture(scope="session")
def guard_report(requirements: None, packages: list[Path]) -> Iterator[vm.Report]:
    """What the machine said; shown where a test failed."""
    with vm.install("tests.vm.guard", packages) as disk:
        made = vm.run(disk, TIMEOUT)
    print(f"{made.accelerator}: off after {made.seconds:.0f} s\n{made.console}")
    print(*made.lines, sep="\n")
    yield made


@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS])
def test_guard(guard_report: vm.Report, name: str) -> None:
    assert name in guard_report.outcomes, f"the machine said nothing of it\n{guard_report.console[-4000:]}"
    assert not guard_report.outcomes[name], guard_report.outcomes[name]


def test_the_machine_told_all_it_was_to(guard_report: vm.Report) -> None:
    assert guard_report.plan == len(CHECKS)
    assert list(guard_report.outcomes) == [check.__name__ for check in CHECKS]
