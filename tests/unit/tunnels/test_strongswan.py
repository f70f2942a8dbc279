"""strongswan: what swanctl and ipsec print, and what is in swanctl.conf."""

from __future__ import annotations

from pathlib import Path

import pytest

from netconf_hooks.tunnels.strongswan import (
    Child, Connection, Session, choose, find_ending, find_reason, is_installed, parse_status,
    parse_status_connections, parse_vici, read_configuration, read_connections, read_sessions
)  # fmt: skip

WORK = Connection("work", ("work",), "")
REFUSED = "received TS_UNACCEPTABLE notify, no CHILD_SA built"


def sessions(captured, name):
    return read_sessions(parse_vici(captured(name)))


@pytest.mark.parametrize(
    ("fixture", "state", "children", "up"),
    [
        ("swanctl-sas-up", "ESTABLISHED", (Child("work", "1", "INSTALLED"),), True),
        # The IKE_SA alone is no tunnel.
        ("swanctl-sas-no-child", "ESTABLISHED", (), False),
        ("swanctl-sas-connecting", "CONNECTING", (), False),
        # On its way out, it is none any more.
        ("swanctl-sas-deleting", "DELETING", (Child("work", "1", "INSTALLED"),), False),
    ],
)
def test_what_swanctl_lists(captured, fixture, state, children, up):
    (session,) = sessions(captured, fixture)
    assert (session.name, session.state, session.children) == ("work", state, children)
    assert session.ident.isdigit()
    assert is_installed([session], WORK) is up


def test_swanctl_lists_nothing(captured):
    assert sessions(captured, "swanctl-sas-none") == ()
    assert not is_installed((), WORK)


def test_the_connections_that_swanctl_lists(captured):
    found = read_connections(parse_vici(captured("swanctl-conns")))
    assert {connection.name: connection.children for connection in found} == {"work": ("work",), "more": ("one", "two")}


def test_no_identity_can_be_taken_for_a_state(captured):
    forged = captured("swanctl-sas-no-child").replace(
        "remote-id = vpn.example", "remote-id = x} child-sas {w-1 {name=work state=INSTALLED}} = {"
    )
    (session,) = read_sessions(parse_vici(forged))
    assert session.children == () and session.state == "ESTABLISHED"


@pytest.mark.parametrize(
    ("fixture", "expected"),
    [
        ("ipsec-status-none", ()),
        ("ipsec-status-stopped", ()),
        ("ipsec-status-up", (Session("work", "1", "ESTABLISHED", (Child("work", "1", "INSTALLED"),)),)),
        ("ipsec-statusall-up", (Session("work", "1", "ESTABLISHED", (Child("work", "1", "INSTALLED"),)),)),
        ("ipsec-status-deleting", (Session("work", "1", "DELETING", (Child("work", "1", "INSTALLED"),)),)),
        ("ipsec-status-connecting", (Session("work", "2", "CONNECTING", ()),)),
    ],
)
def test_what_ipsec_status_lists(captured, fixture, expected):
    assert parse_status(captured(fixture)) == expected


@pytest.mark.parametrize("fixture", ["ipsec-statusall", "ipsec-statusall-up"])
def test_the_connections_that_ipsec_statusall_lists(captured, fixture):
    """Both share a gateway: the second is a child of the first."""
    (found,) = parse_status_connections(captured(fixture))
    assert (found.name, found.children) == ("work", ("work", "other"))


@pytest.mark.parametrize(
    ("fixture", "reason"),
    [
        ("swanctl-initiate", ""),
        ("swanctl-initiate-refused", f"establishing CHILD_SA 'work' failed ({REFUSED})"),
        ("swanctl-initiate-unknown", "CHILD_SA config 'nosuch' not found"),
        (
            "swanctl-initiate-dead",
            "CHILD_SA 'work' not established after 1000ms (initiating IKE_SA work[2] to 203.0.113.1)",
        ),
        ("ipsec-up", ""),
        ("ipsec-up-refused", f"establishing connection 'other' failed ({REFUSED})"),
        ("ipsec-up-unknown", "no config named 'nosuch'"),
        ("ipsec-status-stopped", "no reason was given"),
    ],
)
def test_why_it_failed(captured, fixture, reason):
    assert find_reason(captured(fixture)) == reason


def session(name, *children, state="ESTABLISHED"):
    """An IKE_SA; children: a name, or a name and a state."""
    made = [child if isinstance(child, tuple) else (child, "INSTALLED") for child in children]
    return Session(name, f"#{name}", state, tuple(Child(child, f"#{child}", being) for child, being in made))


@pytest.mark.parametrize(
    ("there", "connection", "up"),
    [
        ([session("a", "x")], Connection("a", ("x",), ""), True),
        ([session("a", "x")], Connection("a", ("x", "y"), ""), False),
        ([session("a", "x"), session("a", "y")], Connection("a", ("x", "y"), ""), True),
        ([session("b", "x")], Connection("a", ("x",), ""), False),
        ([session("b", "x")], Connection("", ("x",), ""), True),
        ([session("a", ("x", "INSTALLING"))], Connection("a", ("x",), ""), False),
        ([session("a", ("x", "ROUTED"))], Connection("a", ("x",), ""), False),
        ([session("a", ("x", "REKEYING"))], Connection("a", ("x",), ""), True),
        ([session("a", ("x", "REKEYED"), "x")], Connection("a", ("x",), ""), True),
        ([session("a", "x", state="REKEYING")], Connection("a", ("x",), ""), True),
        ([session("a", "x")], Connection("a", (), ""), False),
    ],
)
def test_installed_means_each_child(there, connection, up):
    assert is_installed(there, connection) is up


@pytest.mark.parametrize(
    ("there", "connection", "ending"),
    [
        ([session("a", "x")], Connection("a", ("x",), ""), ["a"]),
        ([session("a", "x", "y")], Connection("a", ("x",), ""), ["a.x"]),
        ([session("a", "x", "y")], Connection("a", ("x", "y"), ""), ["a"]),
        ([session("a", state="CONNECTING")], Connection("a", ("x",), ""), ["a"]),
        ([session("b", "x", "z")], Connection("", ("x",), ""), ["b.x"]),
        ([session("x", state="CONNECTING")], Connection("", ("x",), ""), ["x"]),
        ([session("b", state="CONNECTING"), session("b", "z")], Connection("", ("x",), ""), []),
        ([session("b", "x")], Connection("a", ("x",), ""), []),
        ([], Connection("a", ("x",), ""), []),
    ],
)
def test_what_ends_is_what_is_meant_and_no_more(there, connection, ending):
    found = find_ending(there, connection)
    assert [f"{ike.name}.{child.name}" if child else ike.name for ike, child in found] == ending


def test_a_name_can_mean_a_connection_or_a_child():
    known = [Connection("a", ("x", "y"), "a"), Connection("b", ("x", "b"), "b"), Connection("y", ("n",), "y")]
    assert choose(known, "a") == (known[0],)
    assert choose(known, "b") == (known[1],), "its own child of that name goes with it"
    assert [(found.name, found.children) for found in choose(known, "n")] == [("y", ("n",))]
    assert [found.name for found in choose(known, "x")] == ["a", "b"]
    assert [found.name for found in choose(known, "y")] == ["y", "a"]
    assert choose(known, "z") == ()


# swanctl.conf


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
