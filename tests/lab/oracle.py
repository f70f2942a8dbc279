"""What a guard should do with any packet, worked out from the manual alone: an oracle for both firewalls.

This is netconf-interfaces(5), GUARD, once more, as plain Python: nothing here knows a rule of a firewall.  A test sends
random packets through a real guard and compares what arrives with `judge`; if the two differ, the guard, the manual or
this module is wrong.

Not covered: packets that an IPsec policy encrypts, since not every kernel that runs the tests can encrypt.
"""

from __future__ import annotations

import enum
import ipaddress
from typing import NamedTuple

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import LAN, OPEN

TCP, UDP, ESP, ICMP, IGMP, ICMP6 = 6, 17, 50, 1, 2, 58
ARP, EAPOL, PREAUTH, IPV4, IPV6 = 0x0806, 0x888E, 0x88C7, 0x0800, 0x86DD
VLANS = (0x8100, 0x88A8)
PROTOCOLS = {"": 0, "tcp": TCP, "udp": UDP, "esp": ESP}

ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, SOLICITATION, ADVERTISEMENT, REDIRECT = range(133, 138)
LISTENER_REPORT, LISTENER_DONE, LISTENER_REPORT2 = 131, 132, 143
# What only the kernel may say to its neighbours: a process that makes these up could put anything in them.
KERNELS_OWN = frozenset(range(ROUTER_SOLICITATION, REDIRECT + 1)) | {LISTENER_REPORT, LISTENER_DONE, LISTENER_REPORT2}
SOLICITED_NODES = ipaddress.ip_network("ff02::1:ff00:0/104")
# On a LAN the kernel may say that it is in a group by which devices are found: to all routers that listen for that, or
# to the group itself.
JOINED = ("224.0.0.22", "224.0.0.2", "224.0.0.251", "224.0.0.252", "239.255.255.250")
JOINED6 = ("ff02::fb", "ff02::1:3", "ff02::c")


class Origin(enum.Enum):
    """Where a packet comes from."""

    PROCESS = "a socket of a process"
    KERNEL = "the kernel itself"
    FORWARDED = "another machine, which this one forwards for"
    FRAME = "a process that sends raw frames"


class Pieces(enum.Enum):
    """How a packet is cut into fragments, and which of them are sent."""

    WHOLE = "not cut"
    CUT = "cut, and all pieces are sent"
    CUT_BY_PROCESS = "cut by the process itself, which sends all pieces"
    FIRST = "the first piece alone"
    LATER = "a later piece alone"


class Packet(NamedTuple):
    """One packet, as it leaves through `device`.

    protocol: the number of what is in IP, behind any extension headers; 0 in a frame without IP.
    port, source_port: 0 if the protocol has none.  uid: the owner of the socket, None if there is none.
    reply: whether it answers somebody who came in.
    icmp, hops, length, extended: of ICMPv6 messages: the type, the hop limit, the length of the message in bytes; and
    whether extension headers stand before it.
    ether, claimed: of frames: the type in the frame, and the one that the sender told the kernel.
    """

    origin: Origin
    device: str
    destination: str = ""
    protocol: int = 0
    port: int = 0
    source_port: int = 0
    uid: int | None = None
    mark: int = 0
    reply: bool = False
    pieces: Pieces = Pieces.WHOLE
    icmp: int = 0
    hops: int = 64
    length: int = 0
    extended: bool = False
    ether: int = 0
    claimed: int = 0

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.destination else 4


class Guarded(NamedTuple):
    """A closed guard: its device, what it lets through, and the windows that are open now, by name.

    frames: whether the firewall sees raw frames at all (`AnyFirewall.lacks`).
    """

    device: str
    exemptions: tuple[Exemption, ...] = ()
    windows: tuple[tuple[str, tuple[Exemption, ...]], ...] = ()
    frames: bool = True


class Verdict(enum.Enum):
    """What is to happen to a packet."""

    PASSES = "leaves"
    DROPPED = "does not leave"
    EITHER = "may leave or not: pieces of a packet that may leave"


def judge(packet: Packet, guard: Guarded) -> Verdict:
    """Return what the guard has to do with a packet."""
    if packet.origin is Origin.FRAME and packet.device == guard.device:
        return _judge_frame(packet, guard)
    if packet.device == guard.device and not _is_let_through(packet, guard):
        return Verdict.DROPPED
    if packet.pieces in (Pieces.FIRST, Pieces.LATER):
        # Whoever follows connections keeps a piece back until the others are there: on all devices.
        return Verdict.EITHER
    if packet.device == guard.device and packet.pieces is Pieces.CUT_BY_PROCESS:
        # What the kernel cuts is judged before that, as a whole; of pieces that a process makes only the first tells
        # the ports.
        return Verdict.EITHER
    return Verdict.PASSES


def _is_let_through(packet: Packet, guard: Guarded) -> bool:
    windows = dict(guard.windows)
    if any(_matches(exemption, packet) for exemption in windows.get(OPEN, ())):
        return True
    if packet.origin is Origin.FORWARDED:
        return False
    others = [exemption for name, found in guard.windows if name not in (OPEN, LAN) for exemption in found]
    if packet.protocol == ICMP6 and packet.version == 6 and packet.icmp in KERNELS_OWN:
        # Also where all of IPv6 is allowed.
        if packet.origin is Origin.PROCESS:
            return _is_router_solicitation(packet)
        if _is_neighbourly(packet):
            return True
    elif any(_matches(exemption, packet) for exemption in windows.get(LAN, ())):
        return True
    if LAN in windows and packet.origin is Origin.KERNEL and _is_join(packet):
        return True
    return _is_dhcp(packet) or any(_matches(exemption, packet) for exemption in (*guard.exemptions, *others))


def _judge_frame(packet: Packet, guard: Guarded) -> Verdict:
    """Return what happens to a raw frame, of which nobody knows whether it is a reply."""
    if not guard.frames:
        return Verdict.PASSES
    windows = dict(guard.windows)
    if Exemption() in windows.get(OPEN, ()):
        return Verdict.PASSES
    if packet.ether in VLANS or packet.ether != packet.claimed:
        return Verdict.DROPPED
    if packet.ether in (ARP, EAPOL, PREAUTH):
        return Verdict.PASSES
    if packet.ether not in (IPV4, IPV6):
        return Verdict.DROPPED
    later = packet.pieces is Pieces.LATER
    if not later and (_is_dhcp(packet) or _is_router_solicitation(packet) or _is_neighbourly(packet)):
        return Verdict.PASSES
    if not later and LAN in windows and _is_join(packet):
        return Verdict.PASSES
    exemptions = (*guard.exemptions, *(exemption for _, found in guard.windows for exemption in found))
    for exemption in exemptions:
        shape = packet._replace(reply=True)
        if _matches(exemption, shape, ports=not later):
            return Verdict.PASSES
    return Verdict.DROPPED


def _matches(exemption: Exemption, packet: Packet, ports: bool = True) -> bool:
    """Return whether a packet is one of those that an exemption is for: all that it says must hold."""
    if exemption.network:
        if not packet.destination:
            return False
        address, network = ipaddress.ip_address(packet.destination), ipaddress.ip_network(exemption.network)
        if address.version != network.version or address not in network:
            return False
    if exemption.protocol and packet.protocol != PROTOCOLS[exemption.protocol]:
        return False
    if exemption.port or exemption.source_port:
        if packet.protocol not in (TCP, UDP):
            return False
        if ports and exemption.port and packet.port != exemption.port:
            return False
        if ports and exemption.source_port and packet.source_port != exemption.source_port:
            return False
    if exemption.uids and packet.uid not in exemption.uids:
        return False
    if exemption.mark and packet.mark != exemption.mark:
        return False
    return packet.reply or not exemption.reply


def _is_dhcp(packet: Packet) -> bool:
    """Return whether it is a DHCP client's question to everybody, or in DHCPv6 to a server on the link."""
    if packet.protocol != UDP:
        return False
    if packet.version == 4:
        return (packet.source_port, packet.port, packet.destination) == (68, 67, "255.255.255.255")
    address = ipaddress.ip_address(packet.destination)
    return (packet.source_port, packet.port) == (546, 547) and (
        packet.destination == "ff02::1:2" or address in ipaddress.ip_network("fe80::/10")
    )


def _is_router_solicitation(packet: Packet) -> bool:
    """Return whether it is a router solicitation (RFC 4861, 4.1), which DHCP clients send themselves: with nothing in
    it but link-layer addresses.
    """
    return (
        (packet.protocol, packet.icmp, packet.destination) == (ICMP6, ROUTER_SOLICITATION, "ff02::2")
        and packet.hops == 255
        and packet.length <= 24
        and not packet.extended
    )


def _is_join(packet: Packet) -> bool:
    """Return whether it has the shape of the kernel's report that it is in a group by which devices on a LAN are found
    (RFC 2236, 2; RFC 3376, 4; RFC 2710, 3).
    """
    if packet.hops != 1:
        return False
    if packet.protocol == IGMP:
        return packet.destination in JOINED
    return (packet.protocol, packet.icmp) == (ICMP6, LISTENER_REPORT) and packet.destination in JOINED6


def _is_neighbourly(packet: Packet) -> bool:
    """Return whether it is neighbour discovery, or a report of the groups that every host is in, as the kernel sends
    them (RFC 4861, 4.3 and 4.4; RFC 2710, 3; RFC 3810, 5.2).
    """
    if packet.protocol != ICMP6:
        return False
    if packet.icmp in (SOLICITATION, ADVERTISEMENT):
        return packet.hops == 255 and not packet.extended
    if packet.hops != 1:
        return False
    return (packet.icmp, packet.destination) in ((LISTENER_REPORT2, "ff02::16"), (LISTENER_DONE, "ff02::2")) or (
        packet.icmp == LISTENER_REPORT and ipaddress.ip_address(packet.destination) in SOLICITED_NODES
    )
