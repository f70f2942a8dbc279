"""strongswan: what swanctl and ipsec print."""

from __future__ import annotations

import signal
import subprocess

import pytest

from netconf_hooks.tunnels.strongswan import (
    Child, Connection, Session, Stroke, Swanctl, choose, find_ending, find_reason, is_installed, parse_status,
    parse_status_connections, parse_status_peers, parse_vici, read_connections, read_peers, read_sessions
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


def test_an_exchange_that_the_gateway_has_not_answered_is_seen(captured):
    expected = (Session("work", "1", "ESTABLISHED", (Child("work", "1", "INSTALLED"),), waits=True),)
    assert sessions(captured, "swanctl-sas-mobike") == expected
    assert parse_status(captured("ipsec-statusall-mobike")) == expected


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


# Whom its connections go to.


def test_whom_swanctl_says_the_connections_go_to(captured):
    assert read_peers(parse_vici(captured("swanctl-conns"))) == {
        "more": ("203.0.113.1", "%any"), "work": ("203.0.113.1", "%any")
    }  # fmt: skip


def test_whom_ipsec_says_the_connections_go_to(captured):
    assert parse_status_peers(captured("ipsec-statusall")) == {"work": ("203.0.113.1", "%any")}


def test_a_list_ends_where_it_is_closed():
    """Whatever the gateway calls itself."""
    lines = ["list-sa event {", "  a {", "    remote-id = [", "    state = UP"]
    lines += ["    l = [", "      state = no", "      }", "    ]", "  }", "}"]
    (event,) = parse_vici("\n".join(lines))
    assert event.sections["a"].values == {"state": "UP"}
    assert event.sections["a"].lists == {"remote-id": [], "l": ["state = no", "}"]}


# The end of charon, where ipsec(8) can't force the end of a tunnel


@pytest.fixture
def charon(tmp_path):
    """A process that is called charon where its pid file says, and how `Stroke` sees it."""
    process = subprocess.Popen(["sleep", "60"])
    (tmp_path / "charon.pid").write_text(f"{process.pid}\n")
    (tmp_path / str(process.pid)).mkdir()
    (tmp_path / str(process.pid) / "comm").write_text("charon\n")
    yield process, Stroke("ipsec", str(tmp_path / "charon.pid"), str(tmp_path))
    process.kill()
    process.wait()


def test_charon_is_told_to_end(charon):
    process, voice = charon
    assert voice.end_daemon() is True
    assert process.wait(10) == -signal.SIGTERM


def test_another_process_with_its_number_is_not(charon, tmp_path):
    process, voice = charon
    (tmp_path / str(process.pid) / "comm").write_text("sleep\n")
    assert voice.end_daemon() is False
    assert process.poll() is None
    (tmp_path / "charon.pid").unlink()
    assert voice.end_daemon() is False


def test_swanctl_needs_no_such_end():
    assert Swanctl().end_daemon() is False
