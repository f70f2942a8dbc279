"""Whose a program must be to be run as root; on files of pyfakefs."""

import os

import pytest
from pyfakefs.fake_filesystem import set_uid

from netconf_hooks.ownership import Unsafe, check_owner, check_program

PROGRAM = "/usr/local/sbin/is-office"


@pytest.fixture
def program(fs):
    # pyfakefs asks for permission, too: as root, whoever runs the tests.
    before = os.getuid()
    set_uid(0)
    fs.create_file(PROGRAM)
    for path in (PROGRAM, "/usr/local/sbin", "/usr/local"):
        os.chmod(path, 0o755)
        os.chown(path, 0, 0)
    yield PROGRAM
    set_uid(before)


def test_what_is_roots_alone_is_safe(program):
    check_owner(program)
    check_program(program)


@pytest.mark.parametrize("path, uid, mode, reason", [
    (PROGRAM, 1000, 0o755, "belongs to uid 1000, not to root"),
    (PROGRAM, 0, 0o775, "others than root can write it .mode 775."),
    (PROGRAM, 0, 0o757, "others than root can write it .mode 757."),
    ("/usr/local/sbin", 1000, 0o755, "belongs to uid 1000, not to root"),
    ("/usr/local/sbin", 0, 0o1777, "others than root can write it .mode 1777."),
    (PROGRAM, 0, 0o644, "not a program"),
])
def test_what_others_can_change_is_not(program, path, uid, mode, reason):
    os.chown(path, uid, 0)
    os.chmod(path, mode)
    with pytest.raises(Unsafe, match=f"^{path}: {reason}"):
        check_program(program)


def test_what_a_link_leads_to_counts_too(fs, program):
    fs.create_symlink("/usr/local/sbin/link", "/home/alice/program")
    with pytest.raises(Unsafe, match="^/usr/local/sbin/link: No such file"):
        check_program("/usr/local/sbin/link")
    fs.create_file("/home/alice/program", st_mode=0o100755)
    os.chown("/home/alice/program", 0, 0)
    os.chown("/home/alice", 1000, 0)
    with pytest.raises(Unsafe, match="^/home/alice: belongs to uid 1000"):
        check_program("/usr/local/sbin/link")


def test_a_directory_is_no_program(program):
    with pytest.raises(Unsafe, match="^/usr/local/sbin: not a program"):
        check_program("/usr/local/sbin")
