"""Libreswan with packets through its tunnel, in one boot of Debian's kernel: how each check of `libreswan` went."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import vm
from tests.vm.libreswan import CHECKS


@pytest.fixture(scope="session")
def libreswan_report(requirements: None, packages: list[Path]) -> Iterator[vm.Report]:
    """What the machine said; shown where a test failed."""
    with vm.install("tests.vm.libreswan", packages, vm.LIBRESWAN) as disk:
        made = vm.run(disk)
    print(f"{made.accelerator}: off after {made.seconds:.0f} s\n{made.console}")
    print(*made.lines, sep="\n")
    yield made


@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS])
def test_libreswan(libreswan_report: vm.Report, name: str) -> None:
    assert name in libreswan_report.outcomes, f"the machine said nothing of it\n{libreswan_report.console[-4000:]}"
    assert not libreswan_report.outcomes[name], libreswan_report.outcomes[name]


def test_the_machine_told_all_it_was_to(libreswan_report: vm.Report) -> None:
    assert libreswan_report.plan == len(CHECKS)
    assert list(libreswan_report.outcomes) == [check.__name__ for check in CHECKS]
