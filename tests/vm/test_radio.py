"""Real wireless networks, in one boot of Debian's kernel."""

from tests.lab import vm
from tests.vm.radio import CHECKS
from tests.vm.machine import boot

report, test_wireless, test_all_was_printed = boot("tests.vm.radio", CHECKS, vm.RADIO)
