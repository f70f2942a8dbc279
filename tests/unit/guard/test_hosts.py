"""hosts: nothing of the admin's lines changes, whatever stands there and whatever goes wrong."""

from __future__ import annotations

import errno
import os
import stat
from inspect import signature
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from many import MANY
from pins import read_pins

from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.guard.hosts import find_names, list_devices, pin_names, unpin_names

ADMIN = b"127.0.0.1\tlocalhost\n# mine\n192.0.2.80 intranet Wiki.Example # VPN.example\n\n::1 localhost\n"
NAMES = {"vpn.example": ("203.0.113.1", "2001:db8::1")}

# A busy machine is no bug, and each example begins with a file of its own.
many = settings(max_examples=min(200, MANY), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """A hosts file of the admin's, alone in its directory."""
    path = tmp_path / "etc/hosts"
    path.parent.mkdir()
    path.write_bytes(ADMIN)
    return path


def complaint(path: Path, names: dict[str, tuple[str, ...]] = NAMES, device: str = "eth0") -> str:
    """Pin what can't be, and return what is said; nothing may have changed and nothing been left."""
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(GuardError) as caught:
        pin_names(device, names, str(path))
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert [each for each in path.parent.iterdir() if each.name.startswith(".")] == []
    return str(caught.value)


def test_a_block_says_whose_it_is_and_goes_without_a_trace(hosts):
    assert pin_names("eth0", NAMES, str(hosts)) == {}
    assert hosts.read_bytes() == ADMIN + (
        b"# netconf-hooks: the guard of eth0 stands, and these are its tunnels' endpoints; they go with it\n"
        b"203.0.113.1 vpn.example # netconf-hooks: guard of eth0\n"
        b"2001:db8::1 vpn.example # netconf-hooks: guard of eth0\n"
        b"# netconf-hooks: end of what the guard of eth0 needs\n"
    )
    assert read_pins("eth0", str(hosts)) == NAMES
    assert list_devices(str(hosts)) == ("eth0",)
    unpin_names("eth0", str(hosts))
    assert hosts.read_bytes() == ADMIN
    assert os.listdir(hosts.parent) == ["hosts"]


def test_a_block_is_replaced_where_it_stands(hosts):
    pin_names("eth0", NAMES, str(hosts))
    pin_names("eth0.1", {"b.example": ("192.0.2.2",)}, str(hosts))
    hosts.write_bytes(hosts.read_bytes() + b"192.0.2.81 late\n")
    pin_names("eth0", {"c.example": ("192.0.2.3",)}, str(hosts))
    words = [line.split()[1] for line in hosts.read_text().splitlines() if line[:1].isdigit()]
    assert words == ["localhost", "intranet", "c.example", "b.example", "late"]
    assert list_devices(str(hosts)) == ("eth0", "eth0.1")
    pin_names("eth0", {}, str(hosts))
    assert list_devices(str(hosts)) == ("eth0.1",)
    unpin_names("eth0.1", str(hosts))
    assert hosts.read_bytes() == ADMIN + b"192.0.2.81 late\n"


def test_what_is_right_already_is_not_written(hosts, monkeypatch):
    pin_names("eth0", NAMES, str(hosts))
    before = hosts.stat()
    assert pin_names("eth0", NAMES, str(hosts)) == {}
    unpin_names("wlan0", str(hosts))
    assert (hosts.stat().st_ino, hosts.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_name_of_the_admins_is_left_to_them(hosts):
    hosts.write_bytes(
        b"192.0.2.80 www WIKI.example\n2001:DB8::80 wiki.example\nnonsense vpn.example\n#1.2.3.4 a.example\n"
    )
    names = {"Wiki.Example": ("203.0.113.9",), **NAMES, "a.example": ("203.0.113.3",)}
    assert pin_names("eth0", names, str(hosts)) == {"Wiki.Example": ("192.0.2.80", "2001:db8::80")}
    assert set(read_pins("eth0", str(hosts))) == {"vpn.example", "a.example"}
    # What stands for another device is not the admin's.
    assert pin_names("wlan0", NAMES, str(hosts)) == {}
    assert read_pins("wlan0", str(hosts)) == NAMES
    assert pin_names("eth0", {"www": ("203.0.113.9",)}, str(hosts)) == {"www": ("192.0.2.80",)}
    assert list_devices(str(hosts)) == ("wlan0",), "there was nothing to write for eth0"


def test_lines_that_only_look_like_ours_are_the_admins(hosts):
    text = "eth0\n192.0.2.9 x.example # netconf-hooks: guard of no device\n"
    hosts.write_text(text)
    assert list_devices(str(hosts)) == ()
    assert find_names(["x.example"], str(hosts)) == {"x.example": ("192.0.2.9",)}
    unpin_names("eth0", str(hosts))
    assert hosts.read_text() == text


def test_a_block_at_the_top_stays_there(hosts):
    """Even with a line of the admin's in its middle."""
    pin_names("eth0", {"a.example": ("192.0.2.1", "192.0.2.2")}, str(hosts))
    begin, first, second, end = hosts.read_text().splitlines()[-4:]
    hosts.write_text("\n".join((begin, first, "127.0.0.1 localhost", second, end, "")))
    pin_names("eth0", {"a.example": ("192.0.2.3",)}, str(hosts))
    lines = hosts.read_text().splitlines()
    assert lines[0] == begin and lines[1].startswith("192.0.2.3 a.example")
    assert lines[2:] == [end, "127.0.0.1 localhost"]


def test_of_equal_lines_the_last_one_determines_the_order(hosts):
    """As glibc returns them."""
    lines = ("192.0.2.1 a.example", "192.0.2.2 a.example", "192.0.2.1 a.example", "192.0.2.3 a.example")
    hosts.write_text("".join(f"{line}\n" for line in lines))
    assert find_names(["a.example"], str(hosts)) == {"a.example": ("192.0.2.2", "192.0.2.1", "192.0.2.3")}


def test_the_file_is_the_machines_unless_said():
    functions = (pin_names, find_names, unpin_names, list_devices)
    assert {signature(function).parameters["path"].default for function in functions} == {"/etc/hosts"}


def test_names_are_pinned_as_the_daemon_asks_for_them(hosts):
    names = {"VPN.example": ("203.0.113.1",), "vpn.example": ("203.0.113.2",), "b.": ("192.0.2.2",)}
    pin_names("eth0", names, str(hosts))
    assert read_pins("eth0", str(hosts)) == {"vpn.example": ("203.0.113.1", "203.0.113.2"), "b.": ("192.0.2.2",)}


def test_what_the_admin_wrote_into_a_block_stays(hosts):
    pin_names("eth0", NAMES, str(hosts))
    lines = hosts.read_bytes().splitlines(keepends=True)
    lines.insert(-1, b"192.0.2.81 inside\n")
    del lines[-1]  # and the end of the block is gone
    hosts.write_bytes(b"".join(lines))
    unpin_names("eth0", str(hosts))
    assert hosts.read_bytes() == ADMIN + b"192.0.2.81 inside\n"


def test_an_editor_that_ends_lines_in_its_own_way(hosts):
    pin_names("eth0", NAMES, str(hosts))
    hosts.write_bytes(hosts.read_bytes().replace(b"\n", b"\r\n"))
    assert read_pins("eth0", str(hosts)) == NAMES
    unpin_names("eth0", str(hosts))
    assert hosts.read_bytes() == ADMIN.replace(b"\n", b"\r\n")


LINES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([
        b"", b"\r", b"192.0.2.1 a", b"192.0.2.1 vpn.example\r", b"# netconf-hooks: the guard of eth0 stands",
        b"\xff\xfe\0", b"# netconf-hooks: end of what the guard of eth1 wants",
        b"192.0.2.1 b # netconf-hooks: guard of eth0 and more",
        b"192.0.2.1 c # netconf-hooks: guard of ",
    ]),
)  # fmt: skip
DEVICES = st.sampled_from(["eth0", "eth1", "wlan0", "br-lan.7"])
HOSTNAMES = st.sampled_from(["vpn.example", "a", "b.example", "gw_1.example."])
ADDRESSES = st.lists(st.sampled_from(["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"]), min_size=1).map(tuple)


@many
@given(
    st.lists(LINES, max_size=8).map(b"\n".join),
    st.lists(st.tuples(DEVICES, st.dictionaries(HOSTNAMES, ADDRESSES, max_size=3)), min_size=1, max_size=6),
    st.booleans(),
)
@example(b"no newline", [("eth0", NAMES)], False)
@example(b"no newline", [("eth0", NAMES), ("wlan0", NAMES)], True)
@example(b"", [("eth0", NAMES), ("wlan0", NAMES)], False)
def test_the_admins_lines_are_what_they_were(hosts, text, steps, backwards):
    hosts.write_bytes(text)
    for device, names in steps:
        left = pin_names(device, names, str(hosts))
        pinned = read_pins(device, str(hosts))
        assert set(left) | set(pinned) == set(names)
        assert not set(left) & set(pinned)
        assert all(set(pinned[name]) == set(names[name]) for name in pinned)
        now = iter(hosts.read_bytes().split(b"\n"))
        assert all(line in now for line in text.split(b"\n")), "all of them, in their order"
    devices = sorted({device for device, _ in steps}, reverse=backwards)
    for device in devices:
        unpin_names(device, str(hosts))
        assert device not in list_devices(str(hosts))
    assert hosts.read_bytes() == text
    assert os.listdir(hosts.parent) == ["hosts"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"": ("192.0.2.1",)}, '"" is no name of a host'),
        ({"a b": ("192.0.2.1",)}, '"a b" is no name of a host'),
        ({"a\n192.0.2.66 bank.example": ("192.0.2.1",)}, '"a\\n192.0.2.66 bank.example" is no name of a host'),
        ({"a#": ("192.0.2.1",)}, '"a#" is no name of a host'),
        ({"a..b": ("192.0.2.1",)}, '"a..b" is no name of a host'),
        ({"-a": ("192.0.2.1",)}, '"-a" is no name of a host'),
        ({"a" * 255: ("192.0.2.1",)}, "is no name of a host"),
        ({"\udcff": ("192.0.2.1",)}, '"\\udcff" is no name of a host'),
        ({"localhost": ("192.0.2.1",)}, '"localhost" is this machine\'s own name'),
        ({"db.LOCALHOST.": ("192.0.2.1",)}, '"db.LOCALHOST." is this machine\'s own name'),
        ({"a": ("192.0.2.256",)}, '"192.0.2.256" is no address'),
        ({"a": ("192.0.2.1 b",)}, '"192.0.2.1 b" is no address'),
        ({"a": ("fe80::1%eth0",)}, '"fe80::1%eth0" is no address'),
        ({"a": ("192.0.2.1", "::1\n::2 b")}, '"::1\\n::2 b" is no address'),
    ],
)
def test_what_may_not_reach_the_file(hosts, names, told):
    assert told in complaint(hosts, names)


@pytest.mark.parametrize("device", ["", "eth0\n", "a b", "../eth0", "a#b", "x" * 16, "eth0:1"])
def test_what_is_no_device(hosts, device):
    assert complaint(hosts, device=device).endswith("is no device")


def test_mode_and_owner_stay(hosts):
    hosts.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(hosts, 12, 34)
    before = hosts.stat()
    pin_names("eth0", NAMES, str(hosts))
    after = hosts.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino, "whoever reads it meanwhile reads the old one to its end"


def test_what_a_link_leads_to_is_replaced(hosts, tmp_path):
    link = tmp_path / "hosts"
    link.symlink_to("etc/hosts")
    pin_names("eth0", NAMES, str(link))
    assert link.is_symlink()
    assert read_pins("eth0", str(hosts)) == NAMES
    assert sorted(os.listdir(tmp_path)) == ["etc", "hosts"]
    unpin_names("eth0", str(link))
    assert hosts.read_bytes() == ADMIN


def test_a_file_with_several_names_is_left_alone(hosts):
    os.link(hosts, hosts.parent / "other")
    assert "hard links" in complaint(hosts)


@pytest.mark.parametrize("call", ["rename", "open", "fsync", "fchown"])
@pytest.mark.parametrize("number", [errno.EBUSY, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC])
def test_what_can_not_be_written_is_told(hosts, monkeypatch, call, number):
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    assert complaint(hosts) == f"{hosts}: {os.strerror(number)}"


def test_a_directory_or_a_pipe_is_no_hosts_file(hosts, tmp_path):
    assert complaint(tmp_path / "etc") == f"{tmp_path}/etc: no regular file"
    os.mkfifo(tmp_path / "pipe")
    assert complaint(tmp_path / "pipe") == f"{tmp_path}/pipe: no regular file"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_without_the_file(fs):
    assert "No such file" in complaint_without()
    unpin_names("eth0", "/etc/hosts")
    assert not os.path.exists("/etc/hosts")


def complaint_without() -> str:
    """Pin without a file, and return what is said."""
    os.makedirs("/etc", exist_ok=True)
    with pytest.raises(GuardError) as caught:
        pin_names("eth0", NAMES, "/etc/hosts")
    return str(caught.value)


def test_what_a_killed_hook_left_beside_is_no_hindrance(hosts, tmp_path):
    beside = hosts.parent / ".hosts.netconf-hooks"
    victim = tmp_path / "victim"
    victim.write_text("precious")
    beside.symlink_to(victim)
    pin_names("eth0", NAMES, str(hosts))
    assert victim.read_text() == "precious"
    assert os.listdir(hosts.parent) == ["hosts"]
    assert not hosts.is_symlink()


def test_what_an_editor_saves_meanwhile_is_not_lost(hosts, monkeypatch):
    real, saved = os.fsync, []

    def save_first(descriptor: int) -> None:
        real(descriptor)
        if not saved:
            saved.append(hosts.write_bytes(ADMIN + b"192.0.2.81 new\n"))

    monkeypatch.setattr(os, "fsync", save_first)
    pin_names("eth0", NAMES, str(hosts))
    assert hosts.read_bytes().startswith(ADMIN + b"192.0.2.81 new\n# netconf-hooks")
    assert read_pins("eth0", str(hosts)) == NAMES


def test_an_editor_that_never_rests_is_told_of(hosts, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: hosts.write_bytes(hosts.read_bytes() + b"#\n") and None)
    with pytest.raises(GuardError, match="another program keeps changing it"):
        pin_names("eth0", NAMES, str(hosts))
    assert os.listdir(hosts.parent) == ["hosts"]
