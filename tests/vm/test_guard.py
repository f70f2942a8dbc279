"""The guard, in one boot of Debian's kernel."""

from tests.vm.guard import CHECKS
from tests.vm.machine import boot

report, test_guard, test_all_was_printed = boot("tests.vm.guard", CHECKS)
