"""A rule about packets that pass a closed guard, and its line in the record of the guard."""

from __future__ import annotations

from netconf_hooks.record import Record
from netconf_hooks.system.addresses import parse_network

MARK = 0x6E636866
"""The mark (SO_MARK, socket(7)) of all packets that netconf-hooks sends: "nchf"."""

_PORTS, _NUMBERS = 2**16, 2**32


class Exemption(Record):
    """A rule about packets that may leave through a guarded link: a packet passes if it matches all fields.

    protocol: ``udp``, ``tcp``, ``esp`` or empty for any.
    network: the destination, ``ADDRESS/LENGTH``, without host bits; empty for any destination of both families.
    port, source_port: of udp and tcp; 0 for any.
    uids: the sending socket's owner is one of these; empty for any.  mark: the packet's mark, 0 for any.
    reply: whether it allows only replies to connections that came in at `source_port`.
    guests: whether it also allows packets of a bridge's guests; str() leaves this out.
    """

    __slots__ = ("protocol", "network", "port", "source_port", "uids", "mark", "reply", "guests")

    def __init__(
        self,
        protocol: str = "",
        network: str = "",
        port: int = 0,
        source_port: int = 0,
        uids: tuple[int, ...] = (),
        mark: int = 0,
        reply: bool = False,
        guests: bool = False,
    ) -> None:
        self.protocol = protocol
        self.network = network
        self.port = port
        self.source_port = source_port
        self.uids = uids
        self.mark = mark
        self.reply = reply
        self.guests = guests

    def __str__(self) -> str:
        uids = ",".join(map(str, self.uids))
        fields = (self.protocol, self.network, self.port, self.source_port, uids, self.mark, int(self.reply))
        return "\t".join(map(str, fields))


def parse_exemption(text: str) -> Exemption:
    """Return the exemption that str() has written.  Raises ValueError, also if it is not `is_possible`."""
    protocol, network, port, source_port, uids, mark, reply = text.split("\t")
    users = tuple(int(uid) for uid in uids.split(",") if uid)
    exemption = Exemption(protocol, network, int(port), int(source_port), users, int(mark), reply == "1")
    if not is_possible(exemption):
        raise ValueError(f"no firewall can allow this: {text!r}")
    return exemption


def is_possible(exemption: Exemption) -> bool:
    """Whether a packet can match an exemption, and a firewall can check all of its fields."""
    ports = (exemption.port, exemption.source_port)
    return bool(
        exemption.protocol in ("", "udp", "tcp", "esp")
        and (not exemption.network or parse_network(exemption.network))
        and all(0 <= port < _PORTS for port in ports)
        and all(0 <= uid < _NUMBERS - 1 for uid in exemption.uids)
        and 0 <= exemption.mark < _NUMBERS
        and not (exemption.protocol == "esp" and any(ports))
        and not (exemption.reply and not (exemption.protocol in ("udp", "tcp") and exemption.source_port))
    )
