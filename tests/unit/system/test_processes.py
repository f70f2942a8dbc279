"""Which programs run, in a /proc of the test's own."""

from pathlib import Path

import pytest

from netconf_hooks.system.processes import is_any_running

NAMES = frozenset(("ifup", "ifdown"))


@pytest.mark.parametrize("cmdline, runs", [
    (b"ifup\0eth0\0", True),
    (b"/sbin/ifdown\0-a\0", True),
    (b"python3\0/sbin/ifup\0eth0\0", True),  # ifupdown2
    (b"/usr/bin/python3.13\0/sbin/ifup\0eth0\0", True),
    (b"ifquery\0--state\0", False),
    (b"vi\0/sbin/ifup\0", False),
    (b"python3\0-m\0ifup\0", False),
    (b"python3\0", False),
    (b"python3", False),
    (b"\xff\xfe\0ifup\0", False),
    (b"", False),  # a kernel thread
])
def test_by_the_name_that_it_was_started_with(tmp_path: Path, cmdline: bytes, runs: bool) -> None:
    for pid, content in (("1", b"/sbin/init\0"), ("7", cmdline)):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(content)
    (tmp_path / "8").mkdir()  # it has ended meanwhile
    (tmp_path / "cmdline").write_bytes(b"ifup")
    assert is_any_running(NAMES, str(tmp_path)) is runs
