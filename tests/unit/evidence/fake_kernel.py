"""The kernel's side of netlink, for tests: answers that were captured, or made, are sent when they are asked for."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from netconf_hooks.system import netlink

# The port that the kernel gave to the socket which asked.
PORT = 4797

# ip link show eth0 (a veth)
LINK = (
    bytes.fromhex(
        "700400001000000001000000bd1200000000010002000000431001000000000009000300657468300000000008000d00e8030000"
        "05001000060000000500110000000000050043000000000008000400dc050000080032004400000008003300ffff000008001b00"
        "0000000008001e000000000008003d000000000008001f000200000008002800ffff0000080029000000010008003a0000000100"
        "08003f0000000100080040000000010008003b00f8ff070008003c00ffff00000800420000000000080020000200000005002100"
        "01000000080023000200000008002f00010000000800300001000000060044000000000006004500000000000500270000000000"
        "0a00010002000000000100000a000200ffffffffffff0000cc00170002000000000000000100000000000000b400000000000000"
        "5a000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000640007000200000001000000b40000005a000000000000000000000000000000"
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "000000000000000000000000000000000c002b000500020000000000100012000900010076657468000000000800250000000000"
        "08000500030000000c0006006e6f717565756500c0011a008c000200880001000000000000000000000000000100000001000000"
        "01000000010000000000000001000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "000000000000000000000000000000000000000000000000000000000000000010270000e8030000000000000000000000000000"
        "000000000100000030010a00080001000000008014000500ffff0000c778040078500000e8030000f40002000000000040000000"
        "dc0500000100000001000000010000000100000000000000a00f0000e803000000000000803a0900805101000300000058020000"
        "100000000000000001000000010000000100000060ea000000000000000000000000000000000000000000000000000000000000"
        "000000000000000010270000e8030000010000000000000000000000010000000000000000000000010000000000000000000000"
        "000000000000000080ee360000000000000000000100000001000000000000000000000000000000000000000004000000000000"
        "ffff0000ffffffff0100000000000000000000000000000014000700000000000000000000000000000000000500080001000000"
        "24000e00000000000000000000000000000000000000000000000000000000000000000004003e8004004180"
    ),
)
HEADER = struct.Struct("=IHHII")


class Kernel:
    """Stands in for the kernel: each question gets the next of `script`, a list of datagrams and of errors to raise.

    What is left of a list when its question has been answered comes as news, for all sockets are one here.
    Answers carry the sequence number of the question unless `stamped` is false.  When the script is at its end nothing
    more comes, which a socket with a timeout reports as TimeoutError.
    """

    def __init__(self) -> None:
        self.script: list[Sequence[bytes | OSError]] = []
        self.questions: list[bytes] = []
        self.queue: list[bytes | OSError] = []
        self.stamped = True
        self.sender = 0
        self.flags = 0
        self.refusal: OSError | None = None
        self.endless = False

    def socket(self, *_: object) -> Kernel:
        return self

    def bind(self, _: tuple[int, int]) -> None:
        pass

    def getsockname(self) -> tuple[int, int]:
        return PORT, 0

    def setsockopt(self, *_: int) -> None:
        pass

    def settimeout(self, patience: float) -> None:
        assert 0 < patience <= max(netlink.ANSWER_PATIENCE, netlink.NEIGHBOUR_PATIENCE)

    def close(self) -> None:
        pass

    def sendto(self, data: bytes, address: tuple[int, int]) -> None:
        assert address == (0, 0)
        assert HEADER.unpack_from(data)[0] == len(data)
        if self.refusal:
            raise self.refusal
        self.questions.append(data)
        if self.script:
            self.queue += self.script.pop(0)

    def recvmsg(self, size: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        if not self.queue:
            raise TimeoutError
        data = self.queue[0] if self.endless else self.queue.pop(0)
        if isinstance(data, OSError):
            raise data
        assert len(data) <= size
        if self.stamped:
            data = stamp(data, HEADER.unpack_from(self.questions[-1])[3])
        return data, [], self.flags, (self.sender, 0)


def stamp(datagram: bytes, sequence: int) -> bytes:
    """Return a datagram of the kernel's as the answer to another question."""
    stamped = b"".join(
        HEADER.pack(HEADER.size + len(body), kind, flags, sequence, port) + body + bytes(-len(body) % 4)
        for kind, flags, _, port, body in netlink.split_messages(datagram)
    )
    assert len(stamped) == len(datagram)
    return stamped
