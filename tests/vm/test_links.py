"""Links made of others, in one boot of Debian's kernel."""

from tests.lab import vm
from tests.vm.links import CHECKS
from tests.vm.machine import boot

report, test_links, test_all_was_printed = boot("tests.vm.links", CHECKS, vm.RADIO)
