"""What OpenVPN says, in the admin's words."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.tunnels.openvpn_words import (
    ManagementReply, Words, explain_log, explain_state, find_question, parse_reply, read_log
)  # fmt: skip

SERVER = "203.0.113.1:1194/udp"
REFUSED = Words("the server refused the user name or password", True)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (
            "1795431844,CONNECTED,SUCCESS,10.8.0.2,203.0.113.1,1194,,\r\nEND\r\n",
            ("CONNECTED", "SUCCESS", "10.8.0.2", ""),
        ),
        ("1795431844,RECONNECTING,auth-failure,,,,,\r\n", ("RECONNECTING", "auth-failure", "", "")),
        (
            ">INFO:x\r\n>HOLD:Waiting for hold release:0\r\n1,CONNECTING,,,,,,\r\n",
            ("CONNECTING", "", "", "waiting for somebody at its management interface (management-hold)"),
        ),
        (
            ">PASSWORD:Need 'Auth' username/password\r\n",
            ("", "", "", "waiting for a user name and password at its management interface"),
        ),
        (
            ">PASSWORD:Need 'Private Key' password\r\n",
            ("", "", "", "waiting for a password at its management interface"),
        ),
    ],
)  # fmt: skip
def test_what_the_management_interface_tells(text: str, reply: tuple[str, str, str, str]) -> None:
    assert parse_reply(text) == ManagementReply(*reply)


@given(st.text())
def test_any_reply_is_read(text: str) -> None:
    reply = parse_reply(text)
    assert "," not in reply.state + reply.detail


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (ManagementReply("WAIT"), Words(f"no answer from {SERVER}")),
        (ManagementReply("RECONNECTING", "ping-restart"), Words(f"no answer from {SERVER}")),
        (ManagementReply("RECONNECTING", "auth-failure"), REFUSED),
        (ManagementReply("RESOLVE"), Words(f"the name of its server can't be resolved ({SERVER})")),
        (ManagementReply("AUTH"), Words(f"{SERVER} answers; connecting")),
        (ManagementReply("CONNECTING", waits="waiting"), Words("waiting")),
        (ManagementReply(), Words()),
    ],
)
def test_why_it_is_not_connected(reply: ManagementReply, words: Words) -> None:
    assert explain_state(reply, SERVER) == words


# As OpenVPN 2.6.14 logs them, without what syslog puts before.
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["AUTH: Received control message: AUTH_FAILED", "SIGTERM[soft,auth-failure] received, process exiting"],
            REFUSED,
        ),
        (
            ["[server] Inactivity timeout (--ping-exit), exiting", "SIGTERM[soft,ping-exit] received, process exiting"],
            Words("no answer from its server (ping-exit)"),
        ),
        (
            ["VERIFY ERROR: depth=0, error=certificate is not yet valid: CN=server, serial=1",
             "TLS_ERROR: BIO read tls_read_plaintext error", "TLS Error: TLS handshake failed"],
            Words("a certificate is not valid yet (the clock says 2020-01-01 00:00)"),
        ),
        (
            ["VERIFY ERROR: depth=0, error=certificate has expired: CN=server, serial=1"],
            Words("a certificate has expired (the clock says 2020-01-01 00:00)"),
        ),
        (
            ["VERIFY ERROR: depth=0, error=self-signed certificate: CN=server, serial=1"],
            Words("a certificate is refused: self-signed certificate"),
        ),
        (
            ["RESOLVE: Cannot resolve host address: vpn.example:1194 (Name or service not known)"],
            Words("the name of its server can't be resolved (vpn.example:1194)"),
        ),
        (["SIGTERM[hard,] received, process exiting"], Words("it was told to end (SIGTERM)")),
        (["AUTH_FAILED", "Initialization Sequence Completed", "[server] Inactivity timeout (--ping-restart)"], Words()),
        ([], Words()),
    ],
)  # fmt: skip
def test_why_it_has_ended(monkeypatch: pytest.MonkeyPatch, lines: list[str], words: Words) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    assert explain_log(lines, clock=lambda: 1577836800.0) == words


def test_the_last_reason_counts() -> None:
    lines = ["AUTH: Received control message: AUTH_FAILED", "SIGTERM[hard,] received, process exiting"]
    assert explain_log(lines) == Words("it was told to end (SIGTERM)")


def test_a_log_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "syslog"
    assert read_log(str(path)) == []
    assert read_log(str(tmp_path)) == []
    path.write_text("old\n" * 100000 + "ovpn-corp[7]: one\nother[8]: two\n")
    assert read_log(str(path))[-2:] == ["ovpn-corp[7]: one", "other[8]: two"]
    assert read_log(str(path), ("[7]: ",)) == ["ovpn-corp[7]: one"]


def test_whose_question_waits(tmp_path: Path) -> None:
    asks, proc = tmp_path / "ask-password", tmp_path / "proc"
    assert not find_question(7, str(asks), str(proc))
    (proc / "9").mkdir(parents=True)
    (proc / "9/status").write_text("Name:\tsystemd-ask-pas\nPPid:\t7\n")
    asks.mkdir()
    (asks / "ask.xyz").write_text("[Ask]\nPID=9\nMessage=Enter Auth Username:\n")
    (asks / "ask.old").write_text("[Ask]\nPID=88\n")
    (asks / "sck.xyz").write_text("")
    assert find_question(7, str(asks), str(proc))
    assert not find_question(8, str(asks), str(proc))
