"""Whose a program must be to be run as root; on files of pyfakefs."""

import os

import pytest
from pyfakefs.fake_filesystem import set_uid

from netconf_hooks.system.ownership import Unsafe, check_owner, check_path, check_program

PROGRAM = "/usr/local/sbin/is-office"


@pytest.fixture
def program(fs):
    # pyfakefs asks for permission, too: as root, whoever runs the tests.
    before = os.getuid()
    set_uid(0)
    fs.create_file(PROGRAM)
    make_safe(PROGRAM)
    yield PROGRAM
    set_uid(before)


def make_safe(path):
    """Make a file and every directory on the way to it root's alone."""
    while True:
        os.chmod(path, 0o755)
        os.chown(path, 0, 0)
        if path == "/":
            return
        path = os.path.dirname(path)


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
    ("/usr/local", 1000, 0o755, "belongs to uid 1000, not to root"),
    ("/usr/local", 0, 0o2775, "others than root can write it .mode 2775."),
    ("/usr", 0, 0o757, "others than root can write it .mode 757."),
    ("/", 0, 0o777, "others than root can write it .mode 777."),
    ("/", 1000, 0o755, "belongs to uid 1000, not to root"),
])
def test_what_others_can_change_is_not(program, path, uid, mode, reason):
    os.chown(path, uid, 0)
    os.chmod(path, mode)
    with pytest.raises(Unsafe, match=f"^{path}: {reason}"):
        check_program(program)


def test_what_a_link_leads_to_counts_too(fs, program):
    fs.create_symlink("/usr/local/sbin/link", "/home/alice/program")
    with pytest.raises(Unsafe, match="^/home: No such file"):
        check_program("/usr/local/sbin/link")
    fs.create_file("/home/alice/program", st_mode=0o100755)
    make_safe("/home/alice/program")
    check_program("/usr/local/sbin/link")
    os.chown("/home/alice", 1000, 0)
    with pytest.raises(Unsafe, match="^/home/alice: belongs to uid 1000"):
        check_program("/usr/local/sbin/link")


def test_a_directory_is_no_program(program):
    with pytest.raises(Unsafe, match="^/usr/local/sbin: not a program"):
        check_program("/usr/local/sbin")


def test_each_directory_that_a_link_leads_through_counts(fs, program):
    fs.create_symlink("/etc/programs", "../srv/shared/programs")
    fs.create_symlink("/srv/shared/programs", "/opt/office/bin")
    fs.create_file("/opt/office/bin/is-office")
    for path in ("/opt/office/bin/is-office", "/srv/shared", "/etc"):
        make_safe(path)
    check_program("/etc/programs/is-office")
    check_path("/etc/programs/../bin/./is-office")  # what is above is that of the link's target
    for path in ("/srv/shared", "/srv", "/opt", "/opt/office", "/etc"):
        for mode in (0o775, 0o1777):
            os.chmod(path, mode)
            with pytest.raises(Unsafe, match=f"^{path}: others than root can write it"):
                check_program("/etc/programs/is-office")
        os.chmod(path, 0o755)


def test_links_that_lead_nowhere(fs, program):
    fs.create_symlink("/etc/one", "/etc/two")
    fs.create_symlink("/etc/two", "one")
    make_safe("/etc")
    with pytest.raises(Unsafe, match="^/etc/one/program: too many symbolic links"):
        check_path("/etc/one/program")
    with pytest.raises(Unsafe, match="^/etc/three: No such file"):
        check_path("/etc/three")


def test_a_path_from_here(fs, program, monkeypatch):
    os.chdir("/usr/local")
    check_program("sbin/is-office")
    os.chmod("/usr/local", 0o777)
    with pytest.raises(Unsafe, match="^/usr/local: others"):
        check_program("sbin/is-office")
