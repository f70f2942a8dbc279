"""Who resolves names for all others, as unbound and dnsmasq do on a loopback address."""

import os

import pytest

from netconf_hooks.system.resolvers import list_resolver_users

HEAD = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ...\n"
SOCKET = "  {}: {}:{} 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 {} 2 0000000000000000 0\n"


@pytest.fixture
def machine(tmp_path):
    """unbound with the uid 112 listens on 127.0.0.1 and ::1; others on other addresses and ports."""
    (tmp_path / "proc/net").mkdir(parents=True)
    lines = [("0100007F", "0035", 100), ("0100007F", "0044", 101), ("0A02000A", "0035", 102)]
    (tmp_path / "proc/net/udp").write_text(
        HEAD + "".join(SOCKET.format(number, *line) for number, line in enumerate(lines))
    )
    (tmp_path / "proc/net/udp6").write_text(HEAD + SOCKET.format(0, "00000000000000000000000001000000", "0035", 103))
    for pid, uid, inode in (("7", 112, 100), ("8", 0, 101), ("9", 5, 102), ("10", 113, 103), ("self", 1, 100)):
        (tmp_path / "proc" / pid / "fd").mkdir(parents=True)
        (tmp_path / "proc" / pid / "status").write_text(f"Name:\tx\nUid:\t0\t0\t0\t{uid}\n")
        os.symlink(f"socket:[{inode}]", tmp_path / "proc" / pid / "fd/3")
    return tmp_path


def find(machine, resolv_conf):
    (machine / "resolv.conf").write_text(resolv_conf)
    return list_resolver_users(str(machine / "resolv.conf"), str(machine / "proc"))


@pytest.mark.parametrize("resolv_conf, users", [
    ("nameserver 127.0.0.1\n", (112,)),
    ("# a comment\nsearch a.example\nnameserver ::1\n", (113,)),
    ("nameserver 127.0.0.53\n", ()),
    ("nameserver 10.0.2.10\n", ()),  # another machine, whatever listens here
    ("nameserver nonsense\nnameserver\n", ()),
    ("", ()),
])
def test_whose_process_it_is(machine, resolv_conf, users):
    assert find(machine, resolv_conf) == users


def test_who_listens_on_every_address(machine):
    (machine / "proc/net/udp").write_text(HEAD + SOCKET.format(0, "00000000", "0035", 100))
    assert find(machine, "nameserver 127.0.0.53\n") == (112,)


def test_without_the_files_there_is_nobody(tmp_path):
    (tmp_path / "proc").mkdir()
    assert list_resolver_users(str(tmp_path / "none"), str(tmp_path / "proc")) == ()
