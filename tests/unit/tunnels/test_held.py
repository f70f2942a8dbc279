"""The tunnels that the admin holds."""

import time

import pytest

from netconf_hooks.tunnels import held
from netconf_hooks.tunnels.held import Hold, find_next_end, hold, is_held, read_holds, unhold


@pytest.fixture(autouse=True)
def errors(monkeypatch):
    """What is logged."""
    logged = []
    monkeypatch.setattr(held.log, "error", logged.append)
    return logged


@pytest.fixture
def at(monkeypatch):
    """Sets the clock."""
    return lambda now: monkeypatch.setattr(time, "time", lambda: now)


def write(path, content):
    path.parent.mkdir()
    path.write_bytes(content)


def test_held_until_unhold():
    assert not is_held("openvpn", "corp")
    hold("openvpn", "corp")
    hold("wireguard", "home")
    assert is_held("openvpn", "corp") and is_held("wireguard", "home")
    assert not is_held("ipsec", "corp")
    unhold("openvpn", "corp")
    assert not is_held("openvpn", "corp") and is_held("wireguard", "home")
    unhold("openvpn", "corp")
    assert read_holds() == {("wireguard", "home"): Hold("wireguard", "home")}


def test_its_time_ends_by_itself(at):
    at(1000)
    hold("openvpn", "corp", 1060)
    at(1059)
    assert read_holds() == {("openvpn", "corp"): Hold("openvpn", "corp", 1060)}
    at(1060)
    assert not is_held("openvpn", "corp")


def test_a_second_hold_replaces_the_first(at):
    at(1000)
    hold("openvpn", "corp", 1060)
    hold("openvpn", "corp")
    at(2000)
    assert is_held("openvpn", "corp")


def test_any_user_may_read_it(held_file):
    hold("openvpn", "corp")
    assert held_file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "content", [b"", b"openvpn corp 0\n", b"netconf-hooks held 1\nopenvpn c\xf6rp 0\n", b"netconf-hooks held 2\n"]
)
def test_a_file_that_can_t_be_read_holds_nothing(held_file, errors, content):
    write(held_file, content)
    assert read_holds() == {}
    assert len(errors) == 1 and errors[0].startswith(str(held_file)) and errors[0].endswith("no tunnel is held")


@pytest.mark.parametrize("line", [
    "", "openvpn corp", "openvpn corp soon", "carrierpigeon corp 0", "openvpn  0", "openvpn corp 999999999999"
])
def test_a_line_that_can_t_be_read_is_left_out(held_file, errors, line):
    write(held_file, f"netconf-hooks held 1\n{line}\nunit b 0\n".encode())
    assert list(read_holds()) == [("unit", "b")]
    assert errors == [f"{held_file}: this line can't be read, and holds nothing: {line}"]


def test_in_words(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert str(Hold("openvpn", "corp")) == "held by the admin"
    assert str(Hold("openvpn", "corp", 1795903200)) == "held by the admin until 2026-11-28 22:00:00"


def test_when_the_next_ends(at):
    at(1000)
    assert find_next_end() == 0
    hold("openvpn", "corp")
    assert find_next_end() == 0
    hold("openvpn", "home", 1090)
    hold("unit", "x", 1060)
    assert find_next_end() == 60
