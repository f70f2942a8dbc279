"""One boot of Debian's kernel, and a test for each check that runs in there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.lab import vm
from tests.lab.image import Recipe

Test = Callable[..., None]


def boot(
    module: str, checks: Sequence[Callable[..., None]], recipe: Recipe = vm.RECIPE
) -> tuple[Callable[..., Iterator[vm.Report]], Test, Test]:
    """Return a fixture, `report`, and two tests that need it; a test module assigns them to names of its own.

    module: what runs in the machine; checks: its `CHECKS`; recipe: what is installed there.
    """
    names = [check.__name__ for check in checks]

    @pytest.fixture(scope="module")
    def report(requirements: None, packages: list[Path]) -> Iterator[vm.Report]:
        """What the machine printed; pytest shows it if a test fails."""
        with vm.install(module, packages, recipe) as disk:
            made = vm.run(disk)
        print(f"{made.accelerator}: off after {made.seconds:.0f} s\n{made.console}")
        print(*made.lines, sep="\n")
        yield made

    @pytest.mark.parametrize("name", names)
    def test_check(report: vm.Report, name: str) -> None:
        assert name in report.outcomes, f"the machine printed nothing about it\n{report.console[-4000:]}"
        assert not report.outcomes[name], report.outcomes[name]

    def test_all_was_printed(report: vm.Report) -> None:
        assert report.plan == len(names)
        assert list(report.outcomes) == names
        assert report.lines[-1:] == ("# end",)

    return report, test_check, test_all_was_printed
