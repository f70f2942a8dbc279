"""Fixtures of the tests that boot Debian's own kernel.

They need root and some programs; without those they are skipped, and under CI=true they fail.
"""

from __future__ import annotations

import os
import shutil

import pytest

from tests.lab.conftest import (  # noqa: F401  # pytest finds them here
    outside, packages, pytest_make_collect_report, pytest_runtest_makereport,
)  # fmt: skip
from tests.lab.namespaces import ENVIRONMENT

PROGRAMS = {
    "apt-get": "apt",
    "dpkg": "dpkg",
    "make": "make",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "qemu-system-x86_64": "qemu-system-x86",
}


@pytest.fixture(scope="session", autouse=True)
def requirements() -> None:
    """Skip when nothing can be booted here."""
    if os.geteuid() != 0:
        pytest.skip("making a disk needs root: sudo make test-vm")
    if os.uname().machine != "x86_64":
        pytest.skip(f"the machine is a PC, and this one is not: {os.uname().machine}")
    missing = [package for name, package in PROGRAMS.items() if not shutil.which(name, path=ENVIRONMENT["PATH"])]
    if missing:
        pytest.skip(f"booting a kernel needs: apt install {' '.join(missing)}")
