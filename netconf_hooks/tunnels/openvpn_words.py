"""OpenVPN's log and the replies of its management interface, translated into the admin's words.

The texts are those of OpenVPN 2.6 (src/openvpn/{ssl_verify,push,init,socket,sig}.c and doc/management-notes.txt).
"""

from __future__ import annotations

import os
import time

from netconf_hooks.record import Record
from netconf_hooks.system.files import check_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOGS = ("/var/log/syslog", "/var/log/daemon.log")
"""Where Debian's rsyslog writes the messages of daemons."""

_TAIL = 1 << 16
"""How many bytes at the end of a log are read."""

_REFUSED = "the server refused the user name or password"


class Words(Record):
    """Why a tunnel is not up.

    text: the reason, empty if it is not known; refused: whether the server has refused the user name or password.
    """

    __slots__ = ("text", "refused")

    def __init__(self, text: str = "", refused: bool = False) -> None:
        self.text = text
        self.refused = refused


class ManagementReply(Record):
    """A reply of a management interface.

    state, detail, address: the current state (``RECONNECTING``), its cause (``ping-restart``), the tunnel's own
    address; waits: the input that OpenVPN waits for, in words.  All are empty if there was no reply.
    """

    __slots__ = ("state", "detail", "address", "waits")

    def __init__(self, state: str = "", detail: str = "", address: str = "", waits: str = "") -> None:
        self.state = state
        self.detail = detail
        self.address = address
        self.waits = waits


def parse_reply(text: str) -> ManagementReply:
    """Read notifications (``>...``), which come first, and a reply to ``state``: ``TIME,STATE,DETAIL,ADDRESS,...``."""
    waits = ""
    for line in text.splitlines():
        fields = line.split(",")
        if line.startswith(">HOLD:"):
            waits = "waiting for somebody at its management interface (management-hold)"
        elif line.startswith(">PASSWORD:Need"):
            what = line.partition("'")[2].partition("'")[0]
            thing = "a user name and password" if what == "Auth" else "a password"
            waits = f"waiting for {thing} at its management interface"
        elif fields[0].isdecimal() and len(fields) > 2:  # with a third field the second is complete
            return ManagementReply(fields[1], fields[2], fields[3] if len(fields) > 4 else "", waits)
    return ManagementReply(waits=waits)


_DETAILS = {
    "auth-failure": Words(_REFUSED, True),
    "auth-failure,auth-failure": Words(_REFUSED, True),
}


def explain_state(reply: ManagementReply, server: str) -> Words:
    """Return why a daemon in this state is not connected.  server: host and port; empty if not known."""
    if reply.waits:
        return Words(reply.waits)
    if reply.detail in _DETAILS:
        return _DETAILS[reply.detail]
    if reply.state == "RESOLVE":
        return Words(f"the name of its server can't be resolved ({server})" if server else "its server's name can't be "
                     "resolved")  # fmt: skip
    if reply.state in ("AUTH", "GET_CONFIG", "ASSIGN_IP", "ADD_ROUTES", "AUTH_PENDING"):
        return Words(f"{server or 'its server'} answers; connecting")
    if reply.state:
        return Words(f"no answer from {server or 'its server'}")
    return Words()


def explain_log(lines: Sequence[str], clock: Callable[[], float] = time.time) -> Words:
    """Return why OpenVPN has ended, or does not connect, from the last lines of its log."""
    for line in reversed(lines):
        if "Initialization Sequence Completed" in line:
            break  # earlier lines are about an earlier connection
        for sign, text, refused in _SIGNS:
            if sign in line:
                now = time.strftime("%Y-%m-%d %H:%M", time.localtime(clock()))
                return Words(text.format(now=now), refused)
        if "VERIFY ERROR" in line:
            reason = line.partition("error=")[2].partition(":")[0].strip()
            return Words(f"a certificate is refused: {reason or line.partition('VERIFY ')[2]}")
        if "Cannot resolve host address: " in line:
            name = line.partition("Cannot resolve host address: ")[2].partition(" (")[0]
            return Words(f"the name of its server can't be resolved ({name})")
    return Words()


_SIGNS = (
    ("AUTH_FAILED", _REFUSED, True),
    ("certificate is not yet valid", "a certificate is not valid yet (the clock says {now})", False),
    ("certificate has expired", "a certificate has expired (the clock says {now})", False),
    ("Inactivity timeout (--ping-exit)", "no answer from its server (ping-exit)", False),
    ("Inactivity timeout (--inactive)", "nothing was sent for a time (inactive)", False),
    ("TLS key negotiation failed to occur", "no answer from its server", False),
    ("SIGTERM[hard", "it was told to end (SIGTERM)", False),
    ("SIGINT[hard", "it was told to end (SIGINT)", False),
)
"""Phrases in the log, what they mean, and whether the user name or password was refused.

The last line with one of them counts.  Only "hard" signals are listed, which come from outside: before a "soft" one
("SIGTERM[soft,auth-failure] received") another line has the reason."""


def read_log(path: str, marks: Sequence[str] = ()) -> list[str]:
    """Return the last lines of a log; none if there is no such file, or this user may not read it.

    marks: if given, only lines that contain one of these are returned.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            check_regular(descriptor, path)
            file.seek(max(0, os.fstat(descriptor).st_size - _TAIL))
            lines = file.read(_TAIL).decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if not marks or any(mark in line for mark in marks)]


def find_question(pid: int, directory: str = "/run/systemd/ask-password", proc: str = "/proc") -> bool:
    """Return whether a daemon waits for a password from systemd-ask-password(1), which it has started.

    directory: where systemd keeps such questions (https://systemd.io/PASSWORD_AGENTS/).
    """
    try:
        names = os.listdir(directory)
    except OSError:
        return False
    for name in names:
        if not name.startswith("ask."):
            continue
        try:
            with open(f"{directory}/{name}", encoding="utf-8", errors="replace") as file:
                asking = next((line[4:].strip() for line in file if line.startswith("PID=")), "")
            with open(f"{proc}/{asking}/status", encoding="utf-8", errors="replace") as file:
                parent = next((line.split()[1] for line in file if line.startswith("PPid:")), "")
        except (OSError, IndexError):
            continue
        if str(pid) in (asking, parent):
            return True
    return False
