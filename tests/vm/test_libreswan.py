"""Libreswan with packets through its tunnel, in one boot of Debian's kernel."""

from tests.lab import vm
from tests.vm.libreswan import CHECKS
from tests.vm.machine import boot

report, test_libreswan, test_all_was_printed = boot("tests.vm.libreswan", CHECKS, vm.LIBRESWAN)
