"""Fills the kernel's tables, in the network namespace it is run in: crowd.py routes|neighbours DEVICE COUNT

By rtnetlink(7) and many to a packet: ip(8) would take a minute for a million routes.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterable

NLMSG_ERROR, RTM_NEWROUTE, RTM_NEWNEIGH = 2, 24, 28
REQUEST_CREATE = 0x1 | 0x400
AT_ONCE = 500


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, struct rtattr."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def make_route(index: int, number: int) -> bytes:
    """A route to a /24 network, as those of the internet's routers: RTA_DST, RTA_OIF; table main, scope link."""
    head = struct.pack("=8BI", socket.AF_INET, 24, 0, 0, 254, 4, 253, 1, 0)
    return head + attribute(1, struct.pack(">I", (16 << 24) + (number << 8))) + attribute(4, struct.pack("=i", index))


def make_neighbour(index: int, number: int) -> bytes:
    """A permanent neighbour, which no garbage collection counts or removes: NDA_DST, NDA_LLADDR."""
    head = struct.pack("=BxxxiHBB", socket.AF_INET, index, 0x80, 0, 0)
    address = struct.pack(">I", (10 << 24) + number + 1)
    return head + attribute(1, address) + attribute(2, b"\x02\x00" + address)


KINDS: dict[str, tuple[int, Callable[[int, int], bytes]]] = {
    "routes": (RTM_NEWROUTE, make_route),
    "neighbours": (RTM_NEWNEIGH, make_neighbour),
}


def send(kind: int, bodies: Iterable[bytes]) -> None:
    """Send requests, `AT_ONCE` in a packet.  Raises OSError for the first that the kernel refuses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        packet = bytearray()
        for count, body in enumerate(bodies, 1):
            packet += struct.pack("=IHHII", 16 + len(body), kind, REQUEST_CREATE, 0, 0) + body
            if count % AT_ONCE == 0:
                netlink.send(packet)
                packet.clear()
                check(netlink)
        if packet:
            netlink.send(packet)
            check(netlink)


def check(netlink: socket.socket) -> None:
    """Raise OSError where a request was refused: only then there is an answer, and at once."""
    try:
        answer = netlink.recv(1 << 16, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    kind, code = struct.unpack_from("=4xH10xi", answer)
    assert kind == NLMSG_ERROR
    raise OSError(-code, "the kernel refused it")


def main(what: str, device: str, count: str) -> None:
    """Do it."""
    kind, make = KINDS[what]
    index = socket.if_nametoindex(device)
    send(kind, (make(index, number) for number in range(int(count))))


if __name__ == "__main__":
    main(*sys.argv[1:])
