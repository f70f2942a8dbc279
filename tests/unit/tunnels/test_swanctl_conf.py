"""swanctl_conf: what swanctl and charon would read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.ike import ESP, Flow, Peer
from netconf_hooks.tunnels.strongswan import Connection
from netconf_hooks.tunnels.swanctl_conf import Charon, find_flows, read_configuration, read_daemons, read_peer


def read(directory: Path, text: str):
    path = directory / "swanctl.conf"
    path.write_text(text)
    return read_configuration(str(path))


def summarize(reading):
    return {connection.name: connection.children for connection in reading.connections}


@pytest.mark.parametrize(
    "text",
    [
        "connections {\n  work {\n    version = 2\n    children {\n      net {\n      }\n    }\n  }\n}\n",
        # All that strongswan.conf(5) allows, on as few lines as it takes.
        "connections { work { remote_addrs=203.0.113.1\nchildren { net { remote_ts=10.0.0.0/8\n } } } }",
        "# connections { nothing { children { none {} } } }\nconnections { # begin\n work { children { net {} } } }\n",
        'connections { work { id = "a } # b { c"\n children { net {} } } }\n',
        "connections\n{\n work\n{\nchildren\n{\nnet\n{\n}\n}\n}\n}\n",
        "connections { work { local { auth = psk\n } } }\nconnections { work { children { net {} } } }\n",
        "connections { work : base {} }\nbase { children { net {} } }\n",
        "connections : all {}\nall { work { children : kids {} } }\nkids { net {} }\n",
    ],
)
def test_how_a_connection_can_be_written(tmp_path, text):
    assert summarize(read(tmp_path, text)) == {"work": ("net",)}


def test_what_is_included(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/a.conf").write_text("connections { a { children { x {} } } }\n")
    (tmp_path / "conf.d/b.conf").write_text("b { children { y {} } }\ninclude nosuch\n")
    text = "include conf.d/a*.conf\nconnections {\n  include conf.d/b.conf\n}\ninclude swanctl.conf\n"
    reading = read(tmp_path, text)
    assert summarize(reading) == {"a": ("x",), "b": ("y",)}
    assert reading.connections[0].place == f"connection a in {tmp_path}/conf.d/a.conf"
    assert {Path(file).name for file in reading.files} == {"swanctl.conf", "a.conf", "b.conf"}


@pytest.mark.parametrize(
    ("action", "told"),
    [("start", True), ("trap|start", True), ("trap", False), ("none", False)],
)
def test_what_starts_with_the_daemon(tmp_path, action, told):
    reading = read(tmp_path, f"connections {{ a {{ children {{ x {{ start_action = {action}\n }} }} }} }}\n")
    expected = f"start_action = {action} of x in {tmp_path}/swanctl.conf" if told else ""
    assert reading.connections[0].start == expected


def test_files_that_can_not_be_read_are_named(tmp_path):
    reading = read_configuration(f"{tmp_path}/swanctl.conf")
    assert reading.connections == ()
    assert reading.files == (f"{tmp_path}/swanctl.conf (No such file or directory)",)


@pytest.mark.parametrize("text", ["connections { a { children { x {", "}}}} connections { a {} }", '"', "= { }", "\0{"])
def test_what_can_not_be_parsed_does_no_harm(tmp_path, text):
    assert set(summarize(read(tmp_path, text))) <= {"a"}


# Whom a connection goes to.


def find_peer(directory: Path, options: str, child: str = "", name: str = "a") -> Peer | None:
    """Return the peer of a connection `a` with these options, and these of its child `x`."""
    path = directory / "swanctl.conf"
    path.write_text(f"connections {{ a {{\n{options}\nchildren {{ x {{\n{child}\n}} }} }} }}\n")
    return read_peer(str(path), Connection(name, ("x",), ""))


@pytest.mark.parametrize(
    ("options", "hosts", "version", "ports"),
    [
        ("remote_addrs = 203.0.113.1", ("203.0.113.1",), 0, (0, 0)),
        ("remote_addrs = vpn.example.com, 203.0.113.1,2001:DB8::1", ("vpn.example.com", "203.0.113.1", "2001:db8::1"),
         0, (0, 0)),
        # What only answers has no place in a guard.
        ("remote_addrs = 10.0.0.0/8, vpn.example, 10.1.0.1-10.1.0.9, %any, ::", ("vpn.example",), 0, (0, 0)),
        ('remote_addrs = "vpn.example"\nlocal_addrs = 192.0.2.7', ("vpn.example",), 4, (0, 0)),
        ("remote_addrs = vpn.example\nlocal_addrs = 2001:db8::7, ::", ("vpn.example",), 6, (0, 0)),
        ("remote_addrs = vpn.example\nlocal_addrs = 2001:db8::7, 192.0.2.7", ("vpn.example",), 0, (0, 0)),
        ("remote_addrs = vpn.example\nlocal_addrs = laptop.example", ("vpn.example",), 0, (0, 0)),
        ("remote_addrs = vpn.example\nlocal_port = 4500\nremote_port = 4501", ("vpn.example",), 0, (4500, 4501)),
    ],
)  # fmt: skip
def test_whom_a_connection_goes_to(tmp_path, options, hosts, version, ports):
    place = f"connection a in {tmp_path}/swanctl.conf"
    assert find_peer(tmp_path, options) == Peer(place, hosts, version, *ports)


def test_what_is_said_elsewhere_counts(tmp_path):
    (tmp_path / "more.conf").write_text("base {\n remote_addrs = 203.0.113.1\n}\n")
    path = tmp_path / "swanctl.conf"
    path.write_text("include more.conf\nconnections { a : base {\nremote_port = 5500\n} }\n")
    peer = read_peer(str(path), Connection("a", (), ""))
    assert peer and (peer.hosts, peer.remote_port) == (("203.0.113.1",), 5500)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", 'remote_addrs "%any" names no address that the guard could let pass'),
        ("remote_addrs = %any", 'remote_addrs "%any" names no address that the guard could let pass'),
        ("remote_addrs = 203.0.113.0/24", 'remote_addrs "203.0.113.0/24" names no'),
        ("remote_addrs = 203.0.113.1-203.0.113.9", 'remote_addrs "203.0.113.1-203.0.113.9" names no'),
        ("remote_addrs = 0.0.0.0, ::", 'remote_addrs "0.0.0.0, ::" names no'),
        ("remote_addrs = vpn example", 'remote_addrs: "vpn example" is neither an address nor a host name'),
        ("remote_addrs = vpn.example, 300::x", 'remote_addrs: "300::x" is no address'),
        ("remote_addrs = a\nremote_port = 70000", 'remote_port: "70000" is no port'),
        ("remote_addrs = a\nlocal_port = -1", 'local_port: "-1" is no port'),
        ("remote_addrs = a\nmediated_by = m", 'mediated_by "m": only the mediator knows'),
    ],
)
def test_what_can_not_be_known_is_named(tmp_path, options, told):
    with pytest.raises(TunnelError) as caught:
        find_peer(tmp_path, options)
    assert str(caught.value).startswith(f"connection a in {tmp_path}/swanctl.conf: {told}")


def test_ah_is_refused_but_beside_esp(tmp_path):
    with pytest.raises(TunnelError, match='ah_proposals of x "sha256": AH does not encrypt'):
        find_peer(tmp_path, "remote_addrs = a", "ah_proposals = sha256")
    assert find_peer(tmp_path, "remote_addrs = a", "ah_proposals = sha256\nesp_proposals = default")


def test_a_connection_that_the_file_does_not_have(tmp_path):
    assert find_peer(tmp_path, "remote_addrs = a", name="b") is None
    assert read_peer(f"{tmp_path}/nosuch", Connection("a", (), "")) is None


# Where charon sends from.


@pytest.mark.parametrize(
    ("text", "charon", "systemd"),
    [
        ("", Charon(), Charon("charon-systemd")),
        ("charon {\n port = 5000\n port_nat_t=5001 # mine\n}", Charon("charon", 5000, 5001),
         Charon("charon-systemd", 5000, 5001)),
        ("charon {\n port = 5000\n}\ncharon-systemd {\n port = 0\n}", Charon("charon", 5000),
         Charon("charon-systemd", 0)),
        ("charon {\n user = daemon\n plugins { socket-default {\n use_ipv6 = no\n} } }",
         Charon(uids=(0, 1), version=4), Charon("charon-systemd", uids=(0, 1), version=4)),
        ("charon { plugins { socket-default {\n use_ipv6 = yes\n use_ipv4 = disabled\n} } }",
         Charon(version=6), Charon("charon-systemd", version=6)),
    ],
)  # fmt: skip
def test_what_strongswan_conf_says_of_sockets(tmp_path, text, charon, systemd):
    path = tmp_path / "strongswan.conf"
    path.write_text(text)
    assert read_daemons(str(path)) == (charon, systemd)


def test_without_strongswan_conf_all_is_as_usual(tmp_path):
    assert read_daemons(f"{tmp_path}/nosuch") == (Charon(), Charon("charon-systemd"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("port = many", 'charon.port: "many" is no port'),
        ("port_nat_t = 99999", 'charon.port_nat_t: "99999" is no port'),
        ("user = nosuchuser", 'charon.user: there is no user "nosuchuser"'),
    ],
)
def test_what_can_not_be_read_of_strongswan_conf(tmp_path, line, told):
    path = tmp_path / "strongswan.conf"
    path.write_text(f"charon {{\n{line}\n}}")
    with pytest.raises(TunnelError) as caught:
        read_daemons(str(path))
    assert str(caught.value) == f"{path}: {told}"


@pytest.mark.parametrize(
    ("charon", "ports", "expected"),
    [
        # Its own port and the peer's: first, floated.
        (Charon(), (0, 0), ((500, 500), (4500, 4500))),
        (Charon(), (500, 500), ((500, 500), (4500, 4500))),
        (Charon(port=5000, nat_port=5001), (0, 0), ((5000, 500), (5001, 4500))),
        (Charon(port=5000, nat_port=5001), (0, 6000), ((5000, 6000), (5001, 6000))),
        (Charon(), (0, 6000), ((500, 6000), (4500, 4500))),
        (Charon(), (4500, 4500), ((4500, 4500), (4500, 4500))),
        (Charon(), (7000, 0), ((7000, 500), (7000, 4500))),
    ],
)
def test_which_ports_it_takes(charon, ports, expected):
    first, floated, last = find_flows(charon, Peer("", (), 0, *ports))
    assert ((first.source_port, first.port), (floated.source_port, floated.port)) == expected
    assert first.uids == floated.uids == ()
    assert last == ESP


def test_ports_taken_at_random():
    peer = Peer("", ())
    assert find_flows(Charon(port=0, uids=(0, 5)), peer)[:2] == (Flow("udp", 500, uids=(0, 5)), Flow("udp", 4500, 4500))
    for charon in (Charon(nat_port=0), Charon(port=4500)):
        with pytest.raises(TunnelError, match="^charon.port_nat_t is .*: charon uses a random port"):
            find_flows(charon, peer)
        assert find_flows(charon, Peer("", (), 0, 7000))[1] == Flow("udp", 4500, 7000)


WORDS = st.sampled_from(
    ["connections", "a", "charon", "charon-systemd", "children", "x", "remote_addrs", "local_addrs", "remote_port",
     "port", "port_nat_t", "plugins", "socket-default", "user", "ah_proposals", "mediated_by", "{", "}", "=", ":", ",",
     "\n", '"', "#", "include *", "include x",
     "%any", "203.0.113.1", "::", "0", "500", "99999999", "vpn.example", "/", "-", "\\"]
)  # fmt: skip


@settings(deadline=None)  # a busy machine is no bug
@given(st.one_of(st.lists(WORDS, max_size=40).map(" ".join), st.text(max_size=80)))
def test_no_file_breaks_the_reader(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("conf") / "swanctl.conf"
    path.write_text(f"{text}\n", errors="surrogatepass")
    for made in (f"connections {{ a {{\n{text}\n}} }}", f"charon {{\n{text}\n}}", text):
        path.write_text(made, errors="surrogatepass")
        try:
            peer = read_peer(str(path), Connection("a", ("x",), ""))
            for charon in read_daemons(str(path)):
                assert find_flows(charon, peer or Peer("", ()))
        except TunnelError as error:
            assert str(error)
