"""What left the laptop by its cable, counted: what the guard's leak test in the demo shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from .attacks.capture import Allowed, Frame, describe, is_allowed, read_packet
from .network import CAFE, VPN_GATEWAY
from .vpn import PORT

# OpenVPN's packets: to where, the protocol (UDP), and the port.
TUNNEL = (VPN_GATEWAY, 17, PORT)
ALLOWED = Allowed(frozenset({TUNNEL}), dhcp_servers=frozenset({CAFE.router}))


class Count(NamedTuple):
    """Frames on the wire: of the tunnel; what every link needs (ARP, DHCP, neighbour discovery); all others.

    examples: what the others are, each once, with how many there were.
    """

    tunnel: int
    needed: int
    others: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in a few words."""
        return f"{self.tunnel} packets of the tunnel, {self.needed} of ARP, ND and DHCP, {self.others} others"


def count_frames(frames: Sequence[Frame]) -> Count:
    """Count what a `attacks.capture.Capture` has seen at the café."""
    allowed = [frame for frame in frames if is_allowed(frame, ALLOWED)]
    tunnel = [frame for frame in allowed if is_tunnel(frame)]
    others = Counter(describe(frame) for frame in frames if not is_allowed(frame, ALLOWED))
    examples = tuple(f"{number} x {what}" for what, number in others.most_common())
    return Count(len(tunnel), len(allowed) - len(tunnel), others.total(), examples)


def is_tunnel(frame: Frame) -> bool:
    """Whether it is a packet of the tunnel's own."""
    packet = read_packet(frame)
    return packet is not None and (packet.destination, packet.protocol, packet.ports[1]) == TUNNEL
