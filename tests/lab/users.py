"""Users of the booted machine (`boot`): with a session, and with a terminal to type in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from .boot import Booted
from .namespaces import Running

# What somebody at a terminal types: when the terminal shows something, and what they type then.
Typed = tuple[str, str]

TERMINAL = "/usr/local/bin/terminal"

# Runs a program on a terminal of its own, types, prints what the terminal shows, and ends as the program does.
_SCRIPT = """\
#!/usr/bin/python3 -I
import json, os, pty, select, sys, termios

typed = [tuple(each) for each in json.loads(sys.argv[1])]
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
shown, seen = b"", 0
while True:
    try:
        data = os.read(terminal, 4096)
    except OSError:  # EIO: the program has closed it
        break
    if not data:
        break
    os.write(1, data)
    shown += data
    if typed and typed[0][0].encode() in shown[seen:]:
        seen = len(shown)
        # What is typed before the program has switched the echo off is thrown away (TCSAFLUSH).
        while "Password" in typed[0][0] and termios.tcgetattr(terminal)[3] & termios.ECHO:
            select.select([terminal], [], [], 0.01)
        os.write(terminal, typed.pop(0)[1].encode())
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(status if status >= 0 else 128 - status)
"""

ACTIVE, REMOTE = "active", "remote"


class User:
    """A user of the machine, which runs.

    session: `ACTIVE`, as of somebody who sits at the machine; `REMOTE`, as by ssh; groups: beside the user's own;
    password: empty for none.
    """

    def __init__(
        self, machine: Booted, name: str, session: str = ACTIVE, groups: Sequence[str] = (), password: str = ""
    ) -> None:
        self._machine = machine
        self.name = name
        self._session = session
        machine.write(TERMINAL, _SCRIPT, 0o755)
        machine.run(["useradd", "--create-home", f"--groups={','.join(groups)}", name])
        if password:
            machine.run(["chpasswd"], text=f"{name}:{password}\n")
        self.uid = int(machine.run(["id", "--user", name]).stdout)

    def start(self, argv: Sequence[str], typed: Sequence[Typed] | None = None, **limits: str) -> Running:
        """Start a program in a session of its own, without waiting for it.

        typed: on a terminal, where this is typed; None for no terminal.
        limits: properties of the session's first process, systemd.exec(5), as ``LimitNOFILE="16"``.
        """
        # logind (pam_systemd(8)) takes the first session on a seat without virtual terminals for the active one.
        variables: Mapping[str, str] = {
            ACTIVE: {"XDG_SEAT": "seat0", "XDG_SESSION_CLASS": "user"}, REMOTE: {"XDG_SESSION_CLASS": "user"}
        }[self._session]
        command = [
            "systemd-run", "--quiet", "--pipe", "--wait", "--collect",
            *("--property=PAMName=login", f"--property=User={self.name}", f"--working-directory=/home/{self.name}"),
            *(f"--property={name}={value}" for name, value in limits.items()),
            *(f"--setenv={name}={value}" for name, value in {**variables, "SHELL": "/bin/bash"}.items()),
        ]  # fmt: skip
        terminal = [] if typed is None else [TERMINAL, json.dumps(list(typed))]
        return self._machine.start([*command, "--", *terminal, *argv])
