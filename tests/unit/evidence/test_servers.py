"""The memory of TLS servers: where they are at home, and who was seen elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence import known_servers
from netconf_hooks.evidence.known_servers import FORMAT, Server, Servers, ServersError, judge

A, B, C = ("02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c")
HEX, OTHER = 64 * "0", 64 * "f"
TODAY = "2026-11-23"


@pytest.fixture(autouse=True)
def today(monkeypatch):
    monkeypatch.setattr(known_servers.time, "strftime", lambda layout: TODAY)


@pytest.fixture
def memory(tmp_path):
    return Servers(str(tmp_path / "var/lib"))


@pytest.mark.parametrize("before, seen, named, after", [
    (Server(), (A,), (), Server((A,))),  # where it is first seen it is at home
    (Server((A,)), (A,), (), Server((A,))),
    (Server((A,)), (A, B), (), Server((A, B))),  # seen together: two routers of one network
    (Server((A, B)), (B,), (), Server((A, B))),
    (Server((A,)), (C,), (), Server((A,), f"behind {C} on eth0, {TODAY}")),
    (Server((A,)), (B, C), (), Server((A,), f"behind {B}, {C} on eth0, {TODAY}")),
    (Server(), (A,), (A, B), Server()),  # what the rules name need not be remembered
    (Server(), (C,), (A, B), Server((), f"behind {C} on eth0, {TODAY}")),
    (Server((C,)), (A,), (A,), Server((C,))),  # and counts alone: the admin knows better
    (Server((C,)), (C,), (A,), Server((C,), f"behind {C} on eth0, {TODAY}")),
    (Server((), "through tun0"), (A,), (A,), Server((), "through tun0")),  # for ever
])
def test_where_a_server_is_at_home(before, seen, named, after):
    assert judge(before, seen, named, "eth0") == after


def test_what_was_seen_is_kept(memory):
    assert memory.read() == {}
    assert memory.note(HEX, (A, A), (), "eth0") == Server((A,))
    assert memory.note(OTHER, (B,), (), "eth0") == Server((B,))
    assert memory.note_elsewhere(OTHER, "through tun0") == Server((B,), f"through tun0, {TODAY}")
    assert memory.note_elsewhere(OTHER, "through tun1").elsewhere == f"through tun0, {TODAY}"
    assert memory.read() == {HEX: Server((A,)), OTHER: Server((), f"through tun0, {TODAY}")}
    assert Path(memory.path).read_text() == (
        f"{FORMAT}\n{HEX} home {A}\n{OTHER} elsewhere through tun0, {TODAY}\n"
    )
    assert memory.note(HEX, (C,), (), "wlan0").elsewhere
    assert memory.read()[HEX] == Server((), f"behind {C} on wlan0, {TODAY}")


def test_what_the_rules_name_leaves_no_trace(memory):
    assert memory.note(HEX, (A,), (A,), "eth0") == Server()
    assert not Path(memory.path).exists()


@pytest.mark.parametrize("text", [
    "", "rubbish", FORMAT.replace("1", "2") + "\n", f"{FORMAT}\n{HEX}\n", f"{FORMAT}\n{HEX} home\n",
    f"{FORMAT}\n{HEX[1:]} home {A}\n", f"{FORMAT}\n{HEX} abroad {A}\n", f"{FORMAT}\n\n",
    f"{FORMAT}\n{HEX} home \u00e9\n",
])  # fmt: skip
def test_a_file_that_is_not_whole_is_an_error(memory, text):
    Path(memory.path).parent.mkdir(parents=True)
    Path(memory.path).write_text(text)
    for use in (memory.read, lambda: memory.note(HEX, (A,), (), "eth0"), lambda: memory.note_elsewhere(HEX, "x")):
        with pytest.raises(ServersError, match=memory.path):
            use()
    assert Path(memory.path).read_text() == text


def test_where_nothing_can_be_written_that_is_an_error(memory):
    Path(memory.path).parent.parent.write_text("a file")
    with pytest.raises(ServersError, match=memory.path):
        memory.note(HEX, (A,), (), "eth0")


@settings(max_examples=min(300, MANY), deadline=None)
@given(st.binary(max_size=300))
def test_any_file_is_read_or_refused(tmp_path_factory, data):
    directory = tmp_path_factory.getbasetemp() / "servers"
    directory.mkdir(exist_ok=True)
    (directory / "servers").write_bytes(FORMAT.encode() + b"\n" + data)
    try:
        Servers(str(directory)).read()
    except ServersError:
        pass


def test_what_is_forgotten_is_learned_anew(memory):
    memory.note(HEX, (A,), (), "eth0")
    memory.note(OTHER, (B,), (), "eth0")
    memory.note_elsewhere(HEX, "through tun0")
    assert memory.forget(HEX) == Server((), f"through tun0, {TODAY}")
    assert memory.read() == {OTHER: Server((B,))}
    assert memory.note(HEX, (C,), (), "eth0") == Server((C,))
    assert memory.forget(64 * "1") is None


def test_nothing_is_forgotten_where_nothing_is_known(memory):
    assert memory.forget(HEX) is None
    assert memory.read() == {}
