"""The wall clock really set, in one boot of Debian's kernel."""

from tests.vm.clock import CHECKS
from tests.vm.machine import boot

report, test_clock, test_all_was_printed = boot("tests.vm.clock", CHECKS)
