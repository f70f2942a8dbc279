"""ipsec_conf: what strongSwan's starter and Libreswan would read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.ike import Peer
from netconf_hooks.tunnels.ipsec_conf import Conn, read_conns, read_parameters, read_starter_peer
from netconf_hooks.tunnels.libreswan import find_flows, find_peer

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


# Parameters, and whom a connection goes to.


def write(directory: Path, text: str) -> str:
    path = directory / "ipsec.conf"
    path.write_text(text)
    return str(path)


def test_parameters_of_all_sections_that_count(tmp_path):
    path = write(
        tmp_path,
        "conn %default\n  right=d\n  ikelifetime=1\n  keyingtries=2\nconn a\n  also=b,c\n  RIGHT=a\n  right=a2\n  x=\n"
        "conn b\n  right=b\n  keyingtries=b\n  also=a\nconn c\n  x=c\n  keyingtries=c\n  alsoflip=f\n"
        "conn f\n  left=f\n  leftid=@f\n  also=g\nconn g\n  rightikeport=7\n",
    )
    found = read_parameters(path, "a")
    assert {key: value for key, value in found.items() if not key.startswith("also")} == {
        "right": "a2", "x": "", "keyingtries": "b", "rightid": "@f", "leftikeport": "7", "ikelifetime": "1"
    }  # fmt: skip
    assert read_parameters(path, "nosuch") == {}


@pytest.mark.parametrize(
    ("lines", "hosts", "version", "ports"),
    [
        ("right=203.0.113.1", ("203.0.113.1",), 0, (0, 0)),
        ("left=%defaultroute\n right=%vpn.example, 10.0.0.0/8", ("vpn.example",), 0, (0, 0)),
        ("left=192.0.2.1\n right=vpn.example\n rightallowany=yes", ("vpn.example",), 4, (0, 0)),
        ("left=%any6\n right=vpn.example", ("vpn.example",), 6, (0, 0)),
        ("right=vpn.example\n leftikeport=500\n rightikeport=500", ("vpn.example",), 0, (0, 500)),
        ("right=vpn.example\n leftikeport=4500\n rightikeport=5500", ("vpn.example",), 0, (4500, 5500)),
        # Written from the other end's point of view: charon exchanges them.
        ("left=203.0.113.1\n right=127.0.0.1\n leftikeport=9", ("203.0.113.1",), 4, (0, 9)),
    ],
)
def test_whom_a_conn_of_strongswan_goes_to(tmp_path, lines, hosts, version, ports):
    path = write(tmp_path, f"conn a\n {lines}\n")
    assert read_starter_peer(path, "a") == Peer("conn a", hosts, version, *ports)
    assert read_starter_peer(path, "b") is None


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("left=1.2.3.4", 'right "%any" names no address that the guard could let pass'),
        ("right=%any", 'right "%any" names no address that the guard could let pass'),
        ("right=203.0.113.0/24", 'right "203.0.113.0/24" names no'),
        ("right=%defaultroute", 'right: "%defaultroute" is neither'),
        ("right=%group", 'right: "%group" is neither'),
        ("right=a\n rightikeport=0x1f4", 'rightikeport: "0x1f4" is no port'),
        ("right=a\n ah=sha256", 'ah "sha256": AH does not encrypt'),
    ],
)
def test_what_strongswan_leaves_open_is_named(tmp_path, lines, told):
    with pytest.raises(TunnelError) as caught:
        read_starter_peer(write(tmp_path, f"conn a\n {lines}\n"), "a")
    assert str(caught.value).startswith(f"conn a: {told}")


LINES = st.lists(
    st.sampled_from(
        ["conn a", "conn b", "conn %default", "config setup", " also=a", " also=b", " alsoflip=a",
         " also=a b,%default", " right=%any", " right=vpn.example", " left=127.0.0.1", " right=\"a b\"",
         " rightikeport=0", " leftikeport=99999", " enable-tcp=maybe", " enable-tcp=fallback",
         " tcp-remoteport=x", " right=::1/0", " hostaddrfamily=ipv6", " ah=x", " phase2=ah", "include *",
         "include ipsec.conf", "include nosuch/*/[", "include \"", " =", "conn", " right=\udcff"]
    ),
    max_size=20,
).map("\n".join)  # fmt: skip


@settings(deadline=None)  # a busy machine is no bug
@given(st.one_of(LINES, st.text(max_size=60)))
def test_no_file_breaks_the_reader(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("conf") / "ipsec.conf"
    for made in (text, f"conn a\n {text}\n"):
        path.write_bytes(made.encode(errors="surrogatepass"))
        for name in ("a", "b"):
            try:
                peer = read_starter_peer(str(path), name)
                assert peer is None or peer.hosts
                parameters = read_parameters(str(path), name)
                assert find_flows(parameters, find_peer(parameters, name))
            except TunnelError as error:
                assert str(error)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("", "add", "start")), st.lists(st.integers(1, 4), max_size=3)), max_size=7))
def test_auto_is_what_the_parameters_say(tmp_path_factory, sections):
    """Also over sections that take over others; each takes over later ones only."""
    text = "conn %default\n auto=route\n"
    for number, (auto, others) in enumerate(sections):
        text += f"conn c{number}\n also={' '.join(f'c{number + other}' for other in others)}\n"
        text += f" auto={auto}\n" if auto else ""
    directory = tmp_path_factory.mktemp("etc")
    conns, _ = read(directory, text)
    assert len(conns) == len(sections)
    for conn in conns:
        assert conn.auto == read_parameters(conn.file, conn.name).get("auto", "")
