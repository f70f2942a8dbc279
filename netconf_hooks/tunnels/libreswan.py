"""Libreswan: its daemon pluto, by ``ipsec whack``.

``ipsec auto`` (4.x) and ``ipsec up`` (5.x) call `whack` themselves.  Its exit status is 0 even if a connection could
not be brought up, so its output is parsed.
"""

from __future__ import annotations

import re

from netconf_hooks.system import programs
from netconf_hooks.tunnels import TunnelError, TunnelSilent
from netconf_hooks.tunnels.ike import ESP, Flow, IKE_PORT, NAT_PORT, Peer, is_own, read_hosts, read_port, refuse_ah
from netconf_hooks.tunnels.strongswan import NotAllowed, NotRunning

ASK_TIMEOUT = 3.0
"""Seconds for one query to pluto."""

INITIATE_TIMEOUT = 30
"""Seconds that `Pluto.initiate` waits for the gateway; pluto itself keeps trying."""

TERMINATE_TIMEOUT = 1.0
"""Seconds that a gateway has to confirm the end of a tunnel; afterwards we delete it here anyway."""


_ANYONE = ("%any", "%opportunistic", "%group", "%opportunisticgroup")
"""The values of ``left`` and ``right`` for a peer that is not known beforehand.  Any other value with a percent sign
means our own end: ``%defaultroute``, or an interface (ipsec.conf(5), left)."""


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
        """Make pluto read this machine's addresses, its secrets and a connection of ipsec.conf again.

        Returns its messages.
        """
        self._run(ASK_TIMEOUT, "whack", "--listen")
        self._run(ASK_TIMEOUT, "whack", "--rereadsecrets")
        return "; ".join(self._run(ASK_TIMEOUT, "addconn", name).output.split("\n")).strip("; ")

    def initiate(self, name: str) -> str:
        """Bring up a connection; return pluto's reason, or its last message.  Waits at most `INITIATE_TIMEOUT`."""
        try:
            result = programs.run([self.program, "whack", "--name", name, "--initiate"], INITIATE_TIMEOUT)
        except programs.ProgramError:
            return f"not established after {INITIATE_TIMEOUT} s"
        return find_reason(result.output)

    def list_states(self) -> tuple[str, ...]:
        """Return the names of the connections that pluto has a state for.  Raises as `_ask`."""
        return parse_states(self._ask("--showstates"))

    def list_addresses(self, name: str) -> tuple[tuple[str, ...], ...]:
        """Return the two addresses of each IPsec SA of a connection.  Raises as `_ask`."""
        found = parse_addresses(self._ask("--showstates"))
        return tuple(addresses for connection, addresses in found if belongs(connection, name))

    def terminate(self, name: str) -> None:
        """End all states of a connection, whether or not the gateway answers.  Raises `TunnelError`."""
        for verb in ("--terminate", "--terminate", "--delete"):
            try:
                # Since 5.0 it waits until the gateway has confirmed.
                programs.run([self.program, "whack", "--name", name, verb], TERMINATE_TIMEOUT)
            except programs.ProgramError:
                pass  # only the remaining states count
            if not any(belongs(found, name) for found in self.list_states()):
                break
        else:
            raise TunnelError("pluto does not end it")
        if verb == "--delete":
            # Load the connection again: only its security associations should be deleted.
            self.load(name)

    def _ask(self, question: str) -> str:
        """Return pluto's answer.  Raises `NotRunning`, `NotAllowed`, `TunnelError`."""
        result = self._run(ASK_TIMEOUT, "whack", question)
        if "Pluto is not running" in result.output or "is pluto running?" in result.output:
            raise NotRunning
        if "no right to communicate with pluto" in result.output:
            raise NotAllowed("only root may query pluto")
        if result.status:
            raise TunnelError(f"{self.program} whack {question}: {result.output.strip()}")
        return result.output

    def _run(self, timeout: float, *arguments: str) -> programs.Result:
        try:
            return programs.run([self.program, *arguments], timeout)
        except programs.ProgramLate as error:
            raise TunnelSilent(str(error)) from None
        except programs.ProgramError as error:
            raise TunnelError(str(error)) from None


def belongs(found: str, name: str) -> bool:
    """Whether pluto's connection `found` is `name`, or one of its instances for ``subnets=`` (NAME/1x2)."""
    return found == name or bool(re.fullmatch(re.escape(name) + r"/\d+x\d+", found))


def find_peer(parameters: dict[str, str], place: str) -> Peer:
    """Return the peer of a ``conn``: ``right``, or ``left`` if ``right`` is our own end.

    parameters: of the ``conn``; place: where it is configured, in words.  Raises `TunnelError`, naming the option, if
    the peer can't be known.
    """

    def is_ours(value: str) -> bool:
        return is_own(value) or (value.startswith("%") and value.lower() not in _ANYONE)

    ours, theirs = ("right", "left") if is_ours(parameters.get("right", "")) else ("left", "right")
    try:
        if parameters.get("phase2", "").lower() == "ah":
            refuse_ah("phase2", "ah")
        return Peer(
            place,
            read_hosts(theirs, parameters.get(theirs, "")),
            {"ipv4": 4, "ipv6": 6}.get(parameters.get("hostaddrfamily", "").lower(), 0),
            read_port(f"{ours}ikeport", parameters.get(f"{ours}ikeport", "")),
            read_port(f"{theirs}ikeport", parameters.get(f"{theirs}ikeport", "")),
        )
    except TunnelError as error:
        raise TunnelError(f"{place}: {error}") from None


def find_flows(parameters: dict[str, str], peer: Peer) -> tuple[Flow, ...]:
    """Return what pluto and the kernel send to a peer.

    If the configuration has a port for either end, ESP is sent in UDP from the first packet on, and the end without a
    port uses 4500 (connections.c, end_host_port()).  TCP (RFC 8229), with the ESP in it, leaves from any port by a
    socket of pluto, which runs as root.  Raises `TunnelError`.
    """
    word = parameters.get("enable-tcp", "").lower()
    if word not in ("", "no", "yes", "fallback"):
        raise TunnelError(f'{peer.place}: enable-tcp: expected "yes", "no" or "fallback", not "{word}"')
    try:
        port = read_port("tcp-remoteport", parameters.get("tcp-remoteport", "")) or NAT_PORT
    except TunnelError as error:
        raise TunnelError(f"{peer.place}: {error}") from None
    tcp = (Flow("tcp", port, uids=(0,)),)
    if word == "yes":
        return tcp
    floated = Flow("udp", peer.remote_port or NAT_PORT, peer.local_port or NAT_PORT)
    first = floated if peer.local_port or peer.remote_port else Flow("udp", IKE_PORT, IKE_PORT)
    return (first, floated, ESP, *(tcp if word == "fallback" else ()))


def parse_connections(output: str) -> tuple[str, ...]:
    """Return the names of the connections in the output of ``ipsec whack --status``, each once.

    A template and its instances have the same name.
    """
    names = re.findall(r'^(?:\d{3} )?"([^"]+)"(?:\[\d+\])?: ', output, re.MULTILINE)
    return tuple(dict.fromkeys(names))


def parse_traffic(output: str) -> tuple[str, ...]:
    """Return the names of the connections in the output of ``ipsec whack --trafficstatus``: one line per IPsec SA."""
    names = re.findall(r'^(?:\d{3} )?#\d+: "([^"]+)"(?:\[\d+\] \S+)?, type=', output, re.MULTILINE)
    return tuple(dict.fromkeys(names))


def parse_states(output: str) -> tuple[str, ...]:
    """Return the names of the connections in the output of ``ipsec whack --showstates``."""
    names = re.findall(r'^(?:\d{3} )?#\d+: "([^"]+)"', output, re.MULTILINE)
    return tuple(dict.fromkeys(names))


def parse_addresses(output: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the connection and the two addresses of each IPsec SA in the output of ``ipsec whack --showstates``."""
    lines = re.findall(r'^(?:\d{3} )?#\d+: "([^"]+)"(.* esp\.\w+@.*)$', output, re.MULTILINE)
    return tuple((name, tuple(re.findall(r" esp\.\w+@([0-9a-fA-F.:]+)", rest))) for name, rest in lines)


def find_reason(output: str) -> str:
    """Return the line in which ``ipsec whack --initiate`` reports its failure, or else its last line.

    4.x writes a number before each line (whack.h, enum rc_type), 5.x does not.
    """
    lines = [re.sub(r"^\d{3} ", "", line.strip()) for line in output.splitlines() if line.strip()]
    for pattern in (r"ERROR: ", r".*(?:rejected|failed|no connection|AUTHENTICATION_FAILED|can\'?t|cannot)"):
        for line in lines:
            if re.match(pattern, line):
                return line
    return lines[-1] if lines else ""
