"""Kernel WireGuard and IPsec, in one boot of Debian's kernel."""

from tests.lab import vm
from tests.vm.guest import CHECKS
from tests.vm.machine import boot

report, test_with_debians_kernel, test_all_was_printed = boot("tests.vm.guest", CHECKS)


def test_a_machine_that_ends_half_way_is_not_taken_for_a_good_one() -> None:
    said = ["1..3", "ok 1 - one", "not ok 2 - two", "# Traceback:", "# AssertionError", "ok 3 - th"]
    assert vm.read_plan(said) == 3
    assert vm.read_outcomes(said) == {"one": "", "two": "failed\nTraceback:\nAssertionError\n", "th": ""}
    assert vm.read_plan([]) == -1
    assert vm.read_outcomes(["okay", "ok", "# ok 1 - one"]) == {}
