"""Libreswan: its daemon pluto as ``ipsec whack`` sees it.

`whack` is what ``ipsec auto`` (4.x) and ``ipsec up`` (5.x) call themselves.  Its exit status is 0 also when a
connection could not be brought up; what it prints says more.
"""

from __future__ import annotations

import re

from netconf_hooks import programs
from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.strongswan import NotAllowed, NotRunning

ASK_TIMEOUT = 3.0
"""Seconds for one question to pluto."""

INITIATE_TIMEOUT = 30
"""Seconds until an attempt no longer waits for the gateway; pluto itself goes on."""

TERMINATE_TIMEOUT = 1.0
"""Seconds that a gateway has to confirm the end of a tunnel, which then ends here in any case."""


class Pluto:
    """pluto, by ipsec(8) of Libreswan."""

    def __init__(self, program: str = "ipsec") -> None:
        self.program = program

    def list_connections(self) -> tuple[str, ...]:
        """Return the names of all connections that pluto has loaded.  Raises as `_ask`."""
        return parse_connections(self._ask("--status"))

    def list_up(self) -> tuple[str, ...]:
        """Return the names of the connections whose IPsec SA is established.  Raises as `_ask`."""
        return parse_traffic(self._ask("--trafficstatus"))

    def load(self, name: str) -> str:
        """Have pluto read the secrets again and load a connection of ipsec.conf; return what it said."""
        self._run(ASK_TIMEOUT, "whack", "--rereadsecrets")
        return "; ".join(self._run(ASK_TIMEOUT, "addconn", name).output.split("\n")).strip("; ")

    def initiate(self, name: str) -> str:
        """Bring up a connection; return what pluto said last.  Waits for at most `INITIATE_TIMEOUT`."""
        try:
            result = programs.run([self.program, "whack", "--name", name, "--initiate"], INITIATE_TIMEOUT)
        except programs.ProgramError:
            return f"not established after {INITIATE_TIMEOUT} s"
        return find_reason(result.output)

    def list_states(self) -> tuple[str, ...]:
        """Return the names of the connections that pluto does anything for.  Raises as `_ask`."""
        return parse_states(self._ask("--showstates"))

    def terminate(self, name: str) -> None:
        """End all of a connection, whether or not the gateway answers.  Raises `TunnelError`."""
        for verb in ("--terminate", "--terminate", "--delete"):
            try:
                # From 5.0 on it waits until the gateway has confirmed.
                programs.run([self.program, "whack", "--name", name, verb], TERMINATE_TIMEOUT)
            except programs.ProgramError:
                pass  # what is left afterwards is all that counts
            if not any(belongs(found, name) for found in self.list_states()):
                break
        else:
            raise TunnelError("pluto does not end it")
        if verb == "--delete":
            # Only the security associations were to go.
            self.load(name)

    def _ask(self, question: str) -> str:
        """Return pluto's answer.  Raises `NotRunning`, `NotAllowed`, `TunnelError`."""
        result = self._run(ASK_TIMEOUT, "whack", question)
        if "Pluto is not running" in result.output or "is pluto running?" in result.output:
            raise NotRunning
        if "no right to communicate with pluto" in result.output:
            raise NotAllowed("pluto can be asked by root only")
        if result.status:
            raise TunnelError(f"{self.program} whack {question}: {result.output.strip()}")
        return result.output

    def _run(self, timeout: float, *arguments: str) -> programs.Result:
        try:
            return programs.run([self.program, *arguments], timeout)
        except programs.ProgramError as error:
            raise TunnelError(str(error)) from None


def belongs(found: str, name: str) -> bool:
    """Whether pluto's connection `found` is `name`, or one of those that ``subnets=`` makes of it (NAME/1x2)."""
    return found == name or bool(re.fullmatch(re.escape(name) + r"/\d+x\d+", found))


def parse_connections(output: str) -> tuple[str, ...]:
    """Return the names of the connections in what ``ipsec whack --status`` printed, templates and instances as one."""
    names = re.findall(r'^(?:\d{3} )?"([^"]+)"(?:\[\d+\])?: ', output, re.MULTILINE)
    return tuple(dict.fromkeys(names))


def parse_traffic(output: str) -> tuple[str, ...]:
    """Return the names of the connections in what ``ipsec whack --trafficstatus`` printed: a line for each IPsec SA."""
    names = re.findall(r'^(?:\d{3} )?#\d+: "([^"]+)"(?:\[\d+\] \S+)?, type=', output, re.MULTILINE)
    return tuple(dict.fromkeys(names))


def parse_states(output: str) -> tuple[str, ...]:
    """Return the names of the connections in what ``ipsec whack --showstates`` printed."""
    names = re.findall(r'^(?:\d{3} )?#\d+: "([^"]+)"', output, re.MULTILINE)
    return tuple(dict.fromkeys(names))


def find_reason(output: str) -> str:
    """Return what ``ipsec whack --initiate`` printed as the reason for its failure, else what it printed last.

    4.x writes a number before each line (whack.h, enum rc_type: 0NN and 2NN above the log's 00N are verdicts), 5.x does
    not.
    """
    lines = [re.sub(r"^\d{3} ", "", line.strip()) for line in output.splitlines() if line.strip()]
    for pattern in (r"ERROR: ", r".*(?:rejected|failed|no connection|AUTHENTICATION_FAILED|can\'?t|cannot)"):
        for line in lines:
            if re.match(pattern, line):
                return line
    return lines[-1] if lines else ""
