"""Real wireless networks, in one boot of Debian's kernel: how each check of `radio` went in there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import vm
from tests.vm.radio import CHECKS

# Seconds.  Some minutes where nothing else runs; how long an emulated processor takes is hard to tell.
TIMEOUT = 1800.0


@pytest.fixture(scope="session")
def radio_report(requirements: None, packages: list[Path]) -> Iterator[vm.Report]:
    """What the machine said; shown where a test failed."""
    with vm.install("tests.vm.radio", packages, vm.RADIO) as disk:
        made = vm.run(disk, TIMEOUT)
    print(f"{made.accelerator}: off after {made.seconds:.0f} s\n{made.console}")
    print(*made.lines, sep="\n")
    yield made


@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS])
def test_wireless(radio_report: vm.Report, name: str) -> None:
    assert name in radio_report.outcomes, f"the machine said nothing of it\n{radio_report.console[-4000:]}"
    assert not radio_report.outcomes[name], radio_report.outcomes[name]


def test_the_machine_told_all_it_was_to(radio_report: vm.Report) -> None:
    assert radio_report.plan == len(CHECKS)
    assert list(radio_report.outcomes) == [check.__name__ for check in CHECKS]
