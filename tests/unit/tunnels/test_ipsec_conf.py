"""ipsec_conf: what strongSwan's starter and Libreswan would read."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.tunnels.ipsec_conf import Conn, read_conns

WORDS = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1).filter(lambda word: word[0].isalnum())


def read(directory: Path, text: str, name: str = "ipsec.conf") -> tuple[tuple[Conn, ...], tuple[str, ...]]:
    """Write an ipsec.conf and return what is read of it."""
    path = directory / name
    path.write_text(text)
    reading = read_conns(str(path))
    return reading.conns, reading.files


def test_sections_and_their_parameters(tmp_path):
    conns, files = read(
        tmp_path,
        "# comment\nconfig setup\n    auto=start\n\nconn work  # mine\n\tright=vpn.example # there\n\tauto = start\n"
        "ca mine\n    auto=add\nconn other\n  auto=\"add\"\n",
    )
    path = str(tmp_path / "ipsec.conf")
    assert conns == (Conn("work", path, "start"), Conn("other", path, "add"))
    assert files == (path,)


def test_what_is_taken_over(tmp_path):
    conns, _ = read(
        tmp_path,
        "conn %default\n    auto=route\nconn base\n    auto=start\nconn a\n    also=base\nconn b\n    also=none\n"
        "conn c\n    also=base\n    auto=ignore\nconn d\n    also=e\nconn e\n    also=d\n",
    )
    assert {conn.name: conn.auto for conn in conns} == {
        "base": "start", "a": "start", "b": "route", "c": "ignore", "d": "route", "e": "route"
    }  # fmt: skip


def test_a_section_in_two_parts_is_one(tmp_path):
    conns, _ = read(tmp_path, "conn a\n    right=x\nconn b\n    right=y\nconn a\n    auto=start\n")
    assert [(conn.name, conn.auto) for conn in conns] == [("a", "start"), ("b", "")]


def test_included_files(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/2.conf").write_text("conn two\n    auto=add\n")
    (tmp_path / "d/1.conf").write_text("conn one\n    auto=add\ninclude 2.conf\n")
    conns, files = read(tmp_path, f"conn main\n    auto=add\ninclude {tmp_path}/d/1.*\ninclude nothing/*.conf\n")
    assert [(conn.name, Path(conn.file).name) for conn in conns] == [
        ("main", "ipsec.conf"), ("one", "1.conf"), ("two", "2.conf")
    ]  # fmt: skip
    assert [Path(file).name for file in files] == ["ipsec.conf", "1.conf", "2.conf"]


def test_a_file_that_includes_itself_comes_to_an_end(tmp_path):
    conns, _ = read(tmp_path, "conn a\n    auto=add\ninclude ipsec.conf\n")
    assert [conn.name for conn in conns] == ["a"]


def test_a_file_that_is_not_there(tmp_path):
    reading = read_conns(f"{tmp_path}/ipsec.conf")
    assert reading.conns == ()
    assert reading.files == (f"{tmp_path}/ipsec.conf (No such file or directory)",)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5, unique_by=lambda pair: pair[0]))
def test_each_section_is_found_with_its_own_value(tmp_path_factory, pairs):
    text = "".join(f"conn {name}\n    right=192.0.2.1\n    auto={value}\n" for name, value in pairs)
    conns, _ = read(tmp_path_factory.mktemp("conf"), text)
    assert [(conn.name, conn.auto) for conn in conns] == pairs
