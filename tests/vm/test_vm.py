"""Debian's own kernel, booted once: how each check of `guest` went in there, and that the machine told all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import vm
from tests.vm.guest import CHECKS


@pytest.fixture(scope="session")
def report(requirements: None, packages: list[Path]) -> Iterator[vm.Report]:
    """What the machine said; shown where a test failed."""
    with vm.install("tests.vm.guest", packages) as disk:
        made = vm.run(disk)
    print(f"{made.accelerator}: off after {made.seconds:.0f} s\n{made.console}")
    print(*made.lines, sep="\n")
    yield made


@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS])
def test_with_debians_kernel(report: vm.Report, name: str) -> None:
    assert name in report.outcomes, f"the machine said nothing of it\n{report.console[-4000:]}"
    assert not report.outcomes[name], report.outcomes[name]


def test_the_machine_told_all_it_was_to(report: vm.Report) -> None:
    assert report.plan == len(CHECKS)
    assert report.lines[-1:] == ("# end",)
    assert list(report.outcomes) == [check.__name__ for check in CHECKS]


def test_a_machine_that_ends_half_way_is_not_taken_for_a_good_one() -> None:
    said = ["1..3", "ok 1 - one", "not ok 2 - two", "# Traceback:", "# AssertionError", "ok 3 - th"]
    assert vm.read_plan(said) == 3
    assert vm.read_outcomes(said) == {"one": "", "two": "failed\nTraceback:\nAssertionError\n", "th": ""}
    assert vm.read_plan([]) == -1
    assert vm.read_outcomes(["okay", "ok", "# ok 1 - one"]) == {}
