"""Whether a neighbour answers ARP (RFC 826) or neighbour discovery (RFC 4861) on this link: the test ``peer``.

The packets are made here and sent through a packet(7) socket, because the kernel asks for no neighbour while the
interface has no address.  If it has no address in the peer's network, the sender is 0.0.0.0 or ``::``, as for a host
that checks whether an address is free (RFC 5227 2.1.1, RFC 4862 5.4.2).  Such a packet changes no host's tables.

Some networks answer for every address (proxy ARP in access points, RFC 1027).  So if no MAC address is wanted, an
address that no host can have is asked for at the same time: an answer of one MAC address for both does not count.
"""

from __future__ import annotations

import _socket
import select
import struct
import time

from netconf_hooks.evidence.connection import AF_INET6, attach_filter
from netconf_hooks.evidence.probes import Outcome, Wait
from netconf_hooks.system.addresses import is_link_local, share_prefix
from netconf_hooks.system.netlink import IFF_NOARP, Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from netconf_hooks.evidence.probes import Steps, View
    from netconf_hooks.place import Question

# Seconds.  A neighbour answers within milliseconds, an absent one never: without this limit, each ifup in the café
# would wait until its deadline for the peer at home.  A switch port that has just come up may lose the first packets.
PATIENCE = 2.0
PAUSES = (0.1, 0.2, 0.4, 0.4, 0.4)
# After an answer from a MAC address that is not the wanted one: seconds to wait for the right one.
LATE = 0.2

# Addresses that no host can have: the dummy address of RFC 7600, and one of the discard-only prefix (RFC 6666).
NOBODY, NOBODY6 = "192.0.0.8", "100::1"

# Read at most so many packets at a time: otherwise a flood of them could block the other questions.
MOST = 100

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_ARPHRD_ETHER, _PACKET_OUTGOING = 1, 4
_REQUEST, _REPLY = 1, 2
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_BROADCAST = b"\xff" * 6

_ICMPV6, _SOLICITATION, _ADVERTISEMENT = 58, 135, 136
_SOURCE_MAC, _TARGET_MAC = 1, 2
_IPV6 = struct.Struct("!IHBB16s16s")
_ND = struct.Struct("!BBHI16s")
_UNSPECIFIED = bytes(16)

# Classic BPF (linux/filter.h): IPv6, next header ICMPv6, type neighbour advertisement; drop the rest.
_ADVERTISEMENTS = (
    (0x30, 0, 0, 6),  # ldb [6]
    (0x15, 0, 3, _ICMPV6),  # jeq
    (0x30, 0, 0, 40),  # ldb [40]
    (0x15, 0, 1, _ADVERTISEMENT),  # jeq
    (0x06, 0, 0, 0xFFFF),  # ret: all of it
    (0x06, 0, 0, 0),  # ret: nothing
)


def ask(question: Question, view: View) -> Steps:
    """Ask until a host with the wanted MAC address answers; without a wanted MAC address, until any host answers."""
    target, _, wanted = question.value.partition("/")
    link = view.link
    with Netlink() as netlink:
        status = netlink.get_link(link.index)
    if status is None or not status.carrier:
        return Outcome(problem="no carrier")
    if status.flags & IFF_NOARP or len(status.address) != 17:
        return Outcome(problem=f"{link.device} has no neighbours with MAC addresses")
    mac = bytes.fromhex(status.address.replace(":", ""))
    asked = (target,) if wanted else (target, NOBODY6 if ":" in target else NOBODY)
    kind = _ETH_P_IPV6 if ":" in target else _ETH_P_ARP
    # Ask for both from the same sender: Linux' proxy ARP does not answer 0.0.0.0.
    source = find_source(target, view.networks)
    requests = [_make_request(mac, source, each) for each in asked]
    found: dict[str, dict[str, None]] = {each: {} for each in asked}
    began = time.monotonic()
    until = min(view.deadline, began + PATIENCE)
    # Protocol 0: receive nothing before the socket is bound to the link, packet(7).
    packets = _socket.socket(_socket.AF_PACKET, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK, 0)
    try:
        if kind == _ETH_P_IPV6:
            attach_filter(packets, _ADVERTISEMENTS)
        packets.bind((link.device, kind))
        pauses = iter(PAUSES)
        due = began
        while (now := time.monotonic()) < until:
            if now >= due:
                for receiver, request in requests:
                    packets.sendto(request, (link.device, kind, 0, 0, receiver))
                due = now + next(pauses, PAUSES[-1])
            yield Wait({packets.fileno(): select.POLLIN}, min(until, due))
            for address, answerer in _read_answers(packets, kind, mac, asked):
                if address == target and answerer not in found[target] and answerer != wanted:
                    # The right host may answer later; or this one may answer for `NOBODY`, too, and not count.
                    until = min(until, time.monotonic() + LATE)
                found[address][answerer] = None
            if wanted in found[target]:
                return Outcome(tuple(f"{target}/{each}" for each in found[target]))
    finally:
        packets.close()
    seen = found[target]
    has = tuple(f"{target}/{each}" for each in seen)
    if seen and wanted:
        return Outcome(has, refuted=True, problem=f"answered by {', '.join(seen)}")
    everybody = [each for each in seen if each in found[asked[-1]]]
    if seen and len(everybody) < len(seen):
        return Outcome((target, *has))
    if seen:
        return Outcome(problem=f"{everybody[0]} answers for every address: write its MAC address as well")
    question_name = "neighbour discovery" if ":" in target else "ARP"
    return Outcome(refuted=True, problem=f"did not answer {question_name} within {until - began:.1f} s")


def _make_request(mac: bytes, source: str, target: str) -> tuple[bytes, bytes]:
    """Return to which MAC address a question for `target` is sent, and the packet."""
    if ":" in target:
        return b"\x33\x33" + _make_group(target)[-4:], make_solicitation(mac, source, target)
    return _BROADCAST, make_arp_request(mac, source, target)


def find_source(target: str, networks: Sequence[tuple[str, int]]) -> str:
    """Return the sender address: our own address in the target's network, else ``0.0.0.0`` or ``::``."""
    for address, length in networks:
        if address != target and share_prefix(address, target, length):
            return address
    if ":" in target:
        return next((address for address, _ in networks if ":" in address and is_link_local(address)), "::")
    return "0.0.0.0"


def make_arp_request(mac: bytes, source: str, target: str) -> bytes:
    """Return an ARP request for `target`."""
    return _ARP.pack(
        _ARPHRD_ETHER, 0x0800, 6, 4, _REQUEST, mac, _socket.inet_aton(source), bytes(6), _socket.inet_aton(target)
    )


def read_arp_reply(data: bytes, mac: bytes, target: str) -> str:
    """Return the MAC address of `target` in an ARP packet; empty if it is not an answer of `target` to us (`mac`)."""
    if len(data) < _ARP.size:
        return ""
    hardware, protocol, hardware_size, protocol_size, operation, sender, address, receiver, _ = _ARP.unpack_from(data)
    if (hardware, protocol, hardware_size, protocol_size, operation) != (_ARPHRD_ETHER, 0x0800, 6, 4, _REPLY):
        return ""
    if address != _socket.inet_aton(target) or receiver != mac or not _is_station(sender, mac):
        return ""
    text: str = sender.hex(":")
    return text


def make_solicitation(mac: bytes, source: str, target: str) -> bytes:
    """Return an IPv6 packet with a neighbour solicitation to the target's group (RFC 4861 4.3, 7.2.2)."""
    packed, sender = _socket.inet_pton(AF_INET6, target), _socket.inet_pton(AF_INET6, source)
    group = _make_group(target)
    # With the unspecified address as sender, the option with the sender's MAC address is not allowed.
    option = b"" if sender == _UNSPECIFIED else bytes((_SOURCE_MAC, 1)) + mac
    size = _ND.size + len(option)
    message = _ND.pack(_SOLICITATION, 0, 0, 0, packed) + option
    checksum = _sum_up(sender + group + struct.pack("!IxxxB", size, _ICMPV6) + message)
    message = _ND.pack(_SOLICITATION, 0, checksum, 0, packed) + option
    return _IPV6.pack(6 << 28, size, _ICMPV6, 255, sender, group) + message


def read_advertisement(data: bytes, sender: bytes, mac: bytes, target: str) -> str:
    """Return the MAC address of `target` in an IPv6 packet; empty if it is not a neighbour advertisement of `target`.

    sender: the MAC address that the packet came from; used if the packet names none.  mac: our own.
    Checks as in RFC 4861 7.1.2: a packet with a hop limit of 255 comes from this link.
    """
    if len(data) < _IPV6.size + _ND.size:
        return ""
    version, size, header, hops, source, receiver = _IPV6.unpack_from(data)
    if version >> 28 != 6 or header != _ICMPV6 or hops != 255 or size < _ND.size or len(data) < _IPV6.size + size:
        return ""
    message = data[_IPV6.size:_IPV6.size + size]
    kind, code, _, _, advertised = _ND.unpack_from(message)
    if (kind, code) != (_ADVERTISEMENT, 0) or advertised != _socket.inet_pton(AF_INET6, target):
        return ""
    if _sum_up(source + receiver + struct.pack("!IxxxB", size, _ICMPV6) + message) != 0:
        return ""
    found = sender
    options = message[_ND.size:]
    while options:
        length = options[1] * 8 if len(options) > 1 else 0
        if not length or length > len(options):
            return ""
        if options[0] == _TARGET_MAC and length == 8:
            found = options[2:8]
        options = options[length:]
    return found.hex(":") if len(found) == 6 and _is_station(found, mac) else ""


def _read_answers(
    packets: _socket.socket, kind: int, mac: bytes, targets: Sequence[str]
) -> list[tuple[str, str]]:
    """Return each of `targets` for which an answer has arrived, with the MAC address that answered."""
    found = []
    for _ in range(MOST):
        try:
            data, (_, _, direction, hardware, sender) = packets.recvfrom(1500)
        except BlockingIOError:
            break
        if direction == _PACKET_OUTGOING or hardware != _ARPHRD_ETHER:
            continue
        for target in targets:
            if kind == _ETH_P_ARP:
                answer = read_arp_reply(data, mac, target)
            else:
                answer = read_advertisement(data, sender, mac, target)
            if answer:
                found.append((target, answer))
    return found


def _is_station(mac: bytes, own: bytes) -> bool:
    """Whether a MAC address belongs to another host: it is not a group's, not zero, not ours."""
    return not mac[0] & 1 and any(mac) and mac != own


def _make_group(target: str) -> bytes:
    """Return the solicited-node address (RFC 4291 2.7.1)."""
    return _socket.inet_pton(AF_INET6, "ff02::1:ff00:0")[:13] + _socket.inet_pton(AF_INET6, target)[13:]


def _sum_up(data: bytes) -> int:
    """Return the internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
