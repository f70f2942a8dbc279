"""The netlink client against what a kernel said, what it could say, and what no kernel would.

The answers were captured with recvmsg(2) from Linux 6.18.44 (x86_64), in a network namespace where eth0 has index 2 and
the addresses 192.168.7.50/24, fe80::50/64 and 2001:db8:7::50/64.  Above each stands the iproute2 6.1.0 command that
asks the same, or that prepared it.  Each is the list of datagrams that answer one question.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from fake_kernel import HEADER, LINK, PORT, Kernel, stamp
from many import MANY

from netconf_hooks.system import netlink
from netconf_hooks.system.netlink import AF_INET, AF_INET6, DefaultRoute, LinkStatus, Neighbour, Netlink, NetlinkError


# ip route get 192.168.7.51 (a second address of eth0)
OWN = (
    bytes.fromhex(
        "680000001800000001000000bd12000002200000fe0000020002000008000f00fe00000008000100c0a807330800040001000000"
        "08000700c0a80732080019000000000024000c000100000000000000000000000000000000000000000000000000000000000000"
    ),
)

# ip route get 192.168.7.1
NEAR = (
    bytes.fromhex(
        "680000001800000002000000bd12000002200000fe0000010002000008000f00fe00000008000100c0a807010800040003000000"
        "08000700c0a80732080019000000000024000c000200000000000000000000000000000000000000000000000000000000000000"
    ),
)

# ip route get 203.0.113.1
NO_WAY = (
    bytes.fromhex(
        "380000000200000003000000bd1200009bffffff240000001a000100030000000000000002200000000000000000000008000100"
        "cb007101"
    ),
)

# ip route get 2001:db8:7::50
OWN6 = (
    bytes.fromhex(
        "9c0000001800000004000000bd1200000a808000ff0200020000000008000f00ff0000001400010020010db80007000000000000"
        "0000005014000200000000000000000000000000000000001400070020010db80007000000000000000000500800060000000000"
        "080004000100000024000c0002000000000000000000000000000000000000000000000000000000000000000500140000000000"
    ),
)


# ip link show nothere
NO_LINK = (
    bytes.fromhex(
        "480000000200000001000000bd120000edffffff3400000012000100010000000000000000000000000000000000000000000000"
        "08001d00080000000c0003006e6f746865726500"
    ),
)

# ip route get fibmatch 192.0.0.8 oif eth0, in an empty table
NO_ROUTE = (
    bytes.fromhex(
        "400000000200000001000000bd1200008fffffff2c0000001a000100010000000000000002200000000000000030000008000100"
        "c00000080800040002000000"
    ),
)

# the same after: ip route add default via 192.168.7.1 dev eth0 metric 100
ROUTE = (
    bytes.fromhex(
        "3c0000001800000001000000bd12000002000000fe0300010000000008000f00fe000000080006006400000008000500c0a80701"
        "0800040002000000"
    ),
)

# the same after: ip route add 128.0.0.0/1 via 192.168.7.2 dev eth0
HALF = (
    bytes.fromhex(
        "3c0000001800000001000000bd12000002010000fe0300010000000008000f00fe000000080001008000000008000500c0a80702"
        "0800040002000000"
    ),
)

# ip route show dev eth0 table all, with both
DUMP = (
    bytes.fromhex(
        "3c0000001800220001000000bd12000002000000fe0300010000000008000f00fe000000080006006400000008000500c0a80701"
        "08000400020000003c0000001800220001000000bd12000002010000fe0300010000000008000f00fe0000000800010080000000"
        "08000500c0a8070208000400020000003c0000001800220001000000bd12000002180000fe02fd010000000008000f00fe000000"
        "08000100c0a8070008000700c0a8073208000400020000003c0000001800220001000000bd12000002200000ff02fe0200000000"
        "08000f00ff00000008000100c0a8073208000700c0a8073208000400020000003c0000001800220001000000bd12000002200000"
        "ff02fd030000000008000f00ff00000008000100c0a807ff08000700c0a807320800040002000000"
    ),
    bytes.fromhex(
        "140000000300220001000000bd12000000000000"
    ),
)

# ip route add default nexthop via 192.168.7.1 dev eth0 nexthop via 192.168.7.2 dev eth0
MULTI = (
    bytes.fromhex(
        "480000001800000001000000bd12000002000000fe0300010000000008000f00fe00000024000900100000000200000008000500"
        "c0a80701100000000200000008000500c0a80702"
    ),
)

# ip -4 route add default via inet6 fe80::a dev eth0
VIA = (
    bytes.fromhex(
        "440000001800000001000000bd12000002000000fe0300010000000008000f00fe000000160012000a00fe800000000000000000"
        "00000000000a00000800040002000000"
    ),
)

# ip route add default via 192.168.7.2 dev eth0 table 1000; ip rule add pref 100 lookup 1000
TABLE = (
    bytes.fromhex(
        "340000001800000001000000bd12000002000000fc0300010000000008000f00e803000008000500c0a807020800040002000000"
    ),
)

# ip -6 route add default via fe80::a dev eth0; ip -6 route get fibmatch 2001:db8:ffff::1 oif eth0
ROUTE6 = (
    bytes.fromhex(
        "740000001800000001000000bd1200000a000000fe0300010000000008000f00fe000000080006000004000014000500fe800000"
        "00000000000000000000000a080004000200000024000c0000000000000000000000000000000000000000000000000000000000"
        "000000000500140000000000"
    ),
)

# the same with: proto ra expires 1800
EXPIRE6 = (
    bytes.fromhex(
        "740000001800000001000000bd1200000a000000fe0900010000000008000f00fe000000080006000004000014000500fe800000"
        "00000000000000000000000a080004000200000024000c0000000000000000001fbf020000000000000000000000000000000000"
        "000000000500140000000000"
    ),
)

# the same with: nexthop via fe80::a dev eth0 nexthop via fe80::b dev eth0
MULTI6 = (
    bytes.fromhex(
        "940000001800000001000000bd1200000a000000fe0300010000000008000f00fe00000008000600000400003c0009001c000000"
        "0200000014000500fe80000000000000000000000000000a1c0000000200000014000500fe80000000000000000000000000000b"
        "24000c0000000000000000000000000000000000000000000000000000000000000000000500140000000000"
    ),
)

# ip -6 route show dev eth0 table all, with both of them as proto ra
DUMP6 = (
    bytes.fromhex(
        "740000001800220001000000bd1200000a400000fe0200010000000008000f00fe0000001400010020010db80007000000000000"
        "000000000800060000010000080004000200000024000c0000000000000000000000000000000000000000000000000000000000"
        "000000000500140000000000740000001800220001000000bd1200000a400000fe0200010000000008000f00fe00000014000100"
        "fe8000000000000000000000000000000800060000010000080004000200000024000c0000000000000000000000000000000000"
        "000000000000000000000000000000000500140000000000940000001800220001000000bd1200000a000000fe09000100000000"
        "08000f00fe00000008000600000400003c0009001c0000000200000014000500fe80000000000000000000000000000a1c000000"
        "0200000014000500fe80000000000000000000000000000b24000c00000000000000000000000000000000000000000000000000"
        "00000000000000000500140000000000740000001800220001000000bd1200000a800000ff0200020000000008000f00ff000000"
        "1400010020010db80007000000000000000000500800060000000000080004000200000024000c00000000000000000000000000"
        "00000000000000000000000000000000000000000500140000000000740000001800220001000000bd1200000a800000ff020002"
        "0000000008000f00ff00000014000100fe8000000000000000000000000000500800060000000000080004000200000024000c00"
        "00000000000000000000000000000000000000000000000000000000000000000500140000000000740000001800220001000000"
        "bd1200000a080000ff0200050000000008000f00ff00000014000100ff0000000000000000000000000000000800060000010000"
        "080004000200000024000c0000000000000000000000000000000000000000000000000000000000000000000500140000000000"
    ),
    bytes.fromhex(
        "140000000300220001000000bd12000000000000"
    ),
)

# ip neigh get 192.168.7.1 dev eth0, after it answered
NEIGH = (
    bytes.fromhex(
        "4c0000001c00000001000000bd12000002000000020000000200000108000100c0a807010a00020002000000000a000008000400"
        "040000001400030000000000000000000000000002000000"
    ),
)

# ip neigh get 192.168.7.77 dev eth0
NO_NEIGH = (
    bytes.fromhex(
        "380000000200000001000000bd120000feffffff240000001e000100010000000000000002000000020000000000000008000100"
        "c0a8074d"
    ),
)

# ip neigh add 192.168.7.99 dev eth0 use; ip neigh get 192.168.7.99 dev eth0
INCOMPLETE = (
    bytes.fromhex(
        "240000000200000101000000bd12000000000000240000001c0005040100000000000000"
    ),
    bytes.fromhex(
        "400000001c00000002000000bd12000002000000020000000100000108000100c0a8076308000400040000001400030070170000"
        "000000000000000002000000"
    ),
)

# ip -6 neigh add fe80::a lladdr 02:00:00:00:00:0a dev eth0 nud stale; ip -6 neigh get fe80::a dev eth0
NEIGH6 = (
    bytes.fromhex(
        "580000001c00000001000000bd1200000a000000020000000400000114000100fe80000000000000000000000000000a0a000200"
        "02000000000a000008000400000000001400030070170000000000000000000001000000"
    ),
)

# ip nexthop add id 1 via 192.168.7.1 dev eth0; the same for id 2 and 192.168.7.2; ip nexthop add id 3 group 1/2;
# ip route add default nhid 3; with net.ipv4.nexthop_compat_mode=0: ip route get fibmatch, ip nexthop get id 3, 1, 2
NH = (
    bytes.fromhex(
        "2c0000001800000001000000bd12000002000000fe0300010000000008000f00fe00000008001e0003000000"
    ),
    bytes.fromhex(
        "440000006800000002000000bd120000000000000000000008000100030000000600030000000000140002000100000000000000"
        "020000000000000008000e0000000080"
    ),
    bytes.fromhex(
        "300000006800000003000000bd12000002fd0000000000000800010001000000080005000200000008000600c0a80701"
    ),
    bytes.fromhex(
        "300000006800000004000000bd12000002fd0000000000000800010002000000080005000200000008000600c0a80702"
    ),
)

# ip -4 address show dev eth0, after:
# ip address add 192.168.9.1/24 dev eth0 label eth0:1; ip address add 10.9.0.1 peer 10.9.0.2/30 dev eth0
ADDRESSES = (
    bytes.fromhex(
        "500000001400220001000000bd120000021880000200000008000100c0a8073208000200c0a80732090003006574683000000000"
        "080008008000000014000600ffffffffffffffffff501600ff501600500000001400220001000000bd1200000218800002000000"
        "08000100c0a8090108000200c0a809010b000300657468303a310000080008008000000014000600ffffffffffffffff06511600"
        "06511600500000001400220001000000bd120000021e800002000000080001000a090002080002000a0900010900030065746830"
        "00000000080008008000000014000600ffffffffffffffff0651160006511600"
    ),
    bytes.fromhex(
        "140000000300220001000000bd12000000000000"
    ),
)

# ip -6 address show dev eth0, after: ip address add 2001:db8:9::1 peer 2001:db8:9::2/128 dev eth0
ADDRESSES6 = (
    bytes.fromhex(
        "5c0000001400220001000000bd1200000a808200020000001400020020010db80009000000000000000000011400010020010db8"
        "00090000000000000000000214000600ffffffffffffffff06511600065116000800080082000000480000001400220001000000"
        "bd1200000a408200020000001400010020010db800070000000000000000005014000600ffffffffffffffffff501600ff501600"
        "0800080082000000480000001400220001000000bd1200000a4082fd0200000014000100fe800000000000000000000000000050"
        "14000600ffffffffffffffffff501600ff5016000800080082000000140000000300220001000000bd12000000000000"
    ),
)

# ip address show dev nothere, of a device that went between the two questions
NO_ADDRESSES = (
    bytes.fromhex(
        "140000000300220001000000bd120000edffffff"
    ),
)

ROUTES = (NO_ROUTE, ROUTE, HALF, DUMP, MULTI, VIA, TABLE, ROUTE6, EXPIRE6, MULTI6, DUMP6, NH)
ALL = (LINK, NO_LINK, *ROUTES, NEIGH, NO_NEIGH, INCOMPLETE, NEIGH6, ADDRESSES, ADDRESSES6, NO_ADDRESSES)
NO_DUMP = (DUMP[1],)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(_socket, "socket", kernel.socket)
    return kernel


def only_body(answer: Sequence[bytes]) -> bytes:
    (message,) = netlink.split_messages(answer[0])
    return message[4]


# What a kernel said


def test_a_link(kernel: Kernel) -> None:
    kernel.script = [LINK]
    status = netlink.read_link("eth0")
    assert status == LinkStatus(2, "eth0", 0x11043, True, True, "02:00:00:00:00:01", "veth", True, 1500, 1)


def test_links_that_exist_and_not(kernel: Kernel) -> None:
    kernel.script = [NO_LINK, LINK]
    assert list(netlink.read_links(("nothere", "eth0"))) == ["eth0"]


def test_addresses_of_a_device(kernel: Kernel) -> None:
    kernel.script = [ADDRESSES, ADDRESSES6]
    with Netlink() as conversation:
        found = conversation.list_addresses(2)
    # Of one with another end (peer) its own; what has a label (eth0:1) is the device's too.
    assert [(own.index, own.address, own.length) for own in found] == [
        (2, "192.168.7.50", 24),
        (2, "192.168.9.1", 24),
        (2, "10.9.0.1", 30),
        (2, "2001:db8:9::1", 128),
        (2, "2001:db8:7::50", 64),
        (2, "fe80::50", 64),
    ]
    # ifaddrmsg: family and, in its last four bytes, the device that alone is asked for.
    bodies = [question[HEADER.size:] for question in kernel.questions]
    assert bodies == [bytes((family, 0, 0, 0)) + struct.pack("=i", 2) for family in (AF_INET, AF_INET6)]


@pytest.mark.parametrize(
    ("address", "answer", "own"),
    [
        ("192.168.7.51", OWN, True),
        ("192.168.7.1", NEAR, False),
        ("203.0.113.1", NO_WAY, False),
        ("2001:db8:7::50", OWN6, True),
    ],
)
def test_an_address_of_this_machine(kernel: Kernel, address: str, answer: Sequence[bytes], own: bool) -> None:
    kernel.script = [answer]
    with Netlink() as conversation:
        assert conversation.is_own(address) is own
    family = AF_INET6 if ":" in address else AF_INET
    assert _socket.inet_pton(family, address) in kernel.questions[0]


def test_a_kernel_that_does_not_say_whose_an_address_is(kernel: Kernel) -> None:
    with Netlink() as conversation:
        with pytest.raises(NetlinkError):
            conversation.is_own("192.168.7.51")
        with pytest.raises(ValueError, match="not an IP address"):
            conversation.is_own("localhost")


def test_addresses_of_others_are_not_its_own(kernel: Kernel) -> None:
    # Of other devices, by a kernel that does not select (before Linux 4.20); of another family, by one without IPv6.
    kernel.script = [ADDRESSES, ADDRESSES]
    with Netlink() as conversation:
        assert conversation.list_addresses(3) == []
        kernel.script = [NO_DUMP, ADDRESSES]
        assert conversation.list_addresses(2) == []


def test_a_device_that_is_gone_has_no_addresses(kernel: Kernel) -> None:
    kernel.script = [NO_ADDRESSES, NO_ADDRESSES]
    with Netlink() as conversation:
        assert conversation.list_addresses(99) == []
        kernel.script = [ADDRESSES, refuse(NO_LINK, errno.EOPNOTSUPP)]
        assert len(conversation.list_addresses(2)) == 3
        kernel.script = [refuse(NO_LINK, errno.EPERM)]
        with pytest.raises(NetlinkError):
            conversation.list_addresses(2)


@pytest.mark.parametrize("device", ("", "a" * 16, "eth0\0x", 0, -1, 1 << 31))
def test_what_can_be_no_link_is_not_asked_for(kernel: Kernel, device: str | int) -> None:
    with Netlink() as conversation:
        assert conversation.get_link(device) is None
    assert kernel.questions == []


@pytest.mark.parametrize(
    ("family", "answers", "expected"),
    (
        (AF_INET, [ROUTE], DefaultRoute(("192.168.7.1",))),
        (AF_INET, [MULTI], DefaultRoute(("192.168.7.1", "192.168.7.2"))),
        (AF_INET, [VIA], DefaultRoute(("fe80::a",))),
        (AF_INET, [HALF, ROUTE], DefaultRoute(("192.168.7.1",))),
        (AF_INET, [HALF, HALF, DUMP], DefaultRoute(("192.168.7.1",))),
        (AF_INET, [TABLE, TABLE, DUMP], DefaultRoute(("192.168.7.1",))),
        (AF_INET, [TABLE, TABLE, TABLE + NO_DUMP], DefaultRoute(("192.168.7.2",))),
        (AF_INET, [NO_ROUTE, NO_ROUTE, NO_DUMP], None),
        (AF_INET, [NH[:1], NH[1:2], NH[2:3], NH[3:]], DefaultRoute(("192.168.7.1", "192.168.7.2"))),
        (AF_INET6, [ROUTE6], DefaultRoute(("fe80::a",))),
        (AF_INET6, [MULTI6], DefaultRoute(("fe80::a", "fe80::b"))),
        (AF_INET6, [EXPIRE6, DUMP6], DefaultRoute(("fe80::a", "fe80::b"), advertised=True)),
        # A kernel without IPv6 answers a question for its table with the tables of all others.
        (AF_INET6, [NO_ROUTE, NO_ROUTE, DUMP], None),
    ),
)
def test_the_default_route(
    kernel: Kernel, family: int, answers: list[Sequence[bytes]], expected: DefaultRoute | None
) -> None:
    kernel.script = list(answers)
    with Netlink() as conversation:
        assert conversation.get_default_route(2, family) == expected
    assert kernel.script == []


def test_a_default_route_of_another_link_is_not_this_ones(kernel: Kernel) -> None:
    kernel.script = [ROUTE, ROUTE, DUMP]
    with Netlink() as conversation:
        assert conversation.get_default_route(3, AF_INET) is None


def test_no_link_no_question(kernel: Kernel) -> None:
    with Netlink() as conversation:
        assert not conversation.has_default_route(0)
    assert kernel.questions == []


def test_an_expired_route_is_none() -> None:
    # rta_expires is the third number of the attribute RTA_CACHEINFO (linux/rtnetlink.h), in ticks of 10 ms.
    alive = only_body(EXPIRE6)
    assert netlink.parse_route(alive) is not None
    place = alive.index(struct.pack("=HH", 36, 12)) + 4 + 8
    assert 179_000 < struct.unpack_from("=i", alive, place)[0] <= 180_000
    assert netlink.parse_route(alive[:place] + struct.pack("=i", -1) + alive[place + 4:]) is None


def test_a_dead_nexthop_is_none() -> None:
    body = only_body(MULTI)
    # struct rtnexthop: length 16, flags, hops, index 2.
    first = struct.pack("=HBBi", 16, 0, 0, 2)
    assert body.count(first) == 2
    route = netlink.parse_route(body.replace(first, struct.pack("=HBBi", 16, 1, 0, 2), 1))
    assert route is not None
    assert [nexthop.router for nexthop in route.nexthops] == ["192.168.7.2"]


@pytest.mark.parametrize(
    ("answer", "address", "expected"),
    (
        (NEIGH, "192.168.7.1", Neighbour(2, "192.168.7.1", 0x02, "02:00:00:00:00:0a")),
        (NEIGH6, "fe80::a", Neighbour(2, "fe80::a", 0x04, "02:00:00:00:00:0a")),
        (INCOMPLETE[1:], "192.168.7.99", Neighbour(2, "192.168.7.99", 0x01, "")),
        (NO_NEIGH, "192.168.7.77", None),
    ),
)
def test_a_neighbour(kernel: Kernel, answer: Sequence[bytes], address: str, expected: Neighbour | None) -> None:
    kernel.script = [answer]
    with Netlink() as conversation:
        assert conversation.get_neighbour(2, address) == expected
    if expected is not None:
        assert expected.is_known() == bool(expected.mac)


def test_a_device_without_arp_has_no_neighbours_mac() -> None:
    # struct ndmsg: the state is at offset 8.
    body = only_body(NEIGH)
    neighbour = netlink.parse_neighbour(body[:8] + struct.pack("=H", 0x40) + body[10:])
    assert neighbour.is_known()
    assert neighbour.mac == ""


@pytest.mark.parametrize("address", ("", "192.168.7", "fe80::1%eth0", "::g", "router\0"))
def test_what_is_no_address_is_the_callers_mistake(kernel: Kernel, address: str) -> None:
    with Netlink() as conversation, pytest.raises(ValueError):
        conversation.get_neighbour(2, address)


def test_a_known_neighbour_is_not_asked_for(kernel: Kernel) -> None:
    kernel.script = [NEIGH]
    with Netlink() as conversation:
        found = conversation.resolve_neighbours(2, ("192.168.7.1",), time.monotonic() + 60)
    assert {address: neighbour.mac for address, neighbour in found.items()} == {"192.168.7.1": "02:00:00:00:00:0a"}
    assert len(kernel.questions) == 1


def test_without_privilege_only_what_is_known_is_told(kernel: Kernel) -> None:
    refused = bytearray(INCOMPLETE[0])
    refused[16:20] = struct.pack("=i", -errno.EPERM)
    kernel.script = [NO_NEIGH, NEIGH6, [bytes(refused)]]
    with Netlink() as conversation:
        found = conversation.resolve_neighbours(2, ("192.168.7.77", "fe80::a"), time.monotonic() + 60)
    assert list(found) == ["fe80::a"]


def test_news_of_others_and_lost_news_do_not_end_the_waiting(kernel: Kernel) -> None:
    unknown, asked = INCOMPLETE[1], INCOMPLETE[0]
    lost = OSError(errno.ENOBUFS, "No buffer space available")
    kernel.script = [NO_NEIGH, [asked], [unknown, NEIGH6[0], lost], [unknown, NEIGH[0]], NEIGH]
    with Netlink() as conversation:
        found = conversation.resolve_neighbours(2, ("192.168.7.1",), time.monotonic() + 60)
    assert {address: neighbour.mac for address, neighbour in found.items()} == {"192.168.7.1": "02:00:00:00:00:0a"}
    # Looked, asked, looked; not for another's news; after the loss; after its own news.
    assert len(kernel.questions) == 5
    assert [HEADER.unpack_from(question)[1] for question in kernel.questions].count(netlink.RTM_NEWNEIGH) == 1


@pytest.mark.parametrize("code", [0, errno.ENOENT])
def test_packets_that_wait_for_a_neighbour_are_dropped_with_it(kernel: Kernel, code: int) -> None:
    """But not a neighbour that is known, nor another link's."""
    end = HEADER.pack(HEADER.size + 4, netlink.NLMSG_DONE, 2, 1, PORT) + bytes(4)
    kernel.script = [[NEIGH[0], INCOMPLETE[1], end], refuse(INCOMPLETE[:1], code), [INCOMPLETE[1], end]]
    with Netlink() as conversation:
        conversation.drop_waiting(2)
        conversation.drop_waiting(3)
    kinds = [HEADER.unpack_from(question)[1] for question in kernel.questions]
    assert kinds == [netlink.RTM_GETNEIGH, netlink.RTM_DELNEIGH, netlink.RTM_GETNEIGH]
    assert _socket.inet_aton("192.168.7.99") in kernel.questions[1]


def test_neighbours_of_a_lost_network_are_forgotten_but_not_permanent_ones(kernel: Kernel) -> None:
    end = HEADER.pack(HEADER.size + 4, netlink.NLMSG_DONE, 2, 1, PORT) + bytes(4)
    permanent = bytearray(NEIGH6[0])
    permanent[24:26] = struct.pack("=H", 0x80)  # struct ndmsg, ndm_state
    kernel.script = [[NEIGH[0], bytes(permanent), INCOMPLETE[1], end], refuse(INCOMPLETE[:1], 0)]
    with Netlink() as conversation:
        conversation.forget_neighbours(2)
    kinds = [HEADER.unpack_from(question)[1] for question in kernel.questions]
    assert kinds == [netlink.RTM_GETNEIGH, netlink.RTM_DELNEIGH]
    assert _socket.inet_aton("192.168.7.1") in kernel.questions[1]


# What a kernel could say


def refuse(answer: Sequence[bytes], code: int) -> tuple[bytes]:
    """Return an NLMSG_ERROR with another code."""
    return (answer[0][:16] + struct.pack("=i", -code) + answer[0][20:],)


def test_a_refusal_says_why(kernel: Kernel) -> None:
    kernel.script = [refuse(NO_LINK, errno.EPERM)]
    with pytest.raises(NetlinkError) as caught:
        netlink.read_link("eth0")
    assert (caught.value.code, str(caught.value)) == (errno.EPERM, os.strerror(errno.EPERM))


def test_a_kernel_that_says_nothing(kernel: Kernel) -> None:
    with pytest.raises(NetlinkError) as caught:
        netlink.read_link("eth0")
    assert caught.value.code == errno.ETIMEDOUT


def test_a_question_that_can_not_be_sent(kernel: Kernel) -> None:
    kernel.refusal = OSError(errno.ENOBUFS, "No buffer space available")
    with pytest.raises(NetlinkError) as caught:
        netlink.read_link("eth0")
    assert caught.value.code == errno.ENOBUFS


def test_a_machine_without_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_socket(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(_socket, "socket", refuse_socket)
    with pytest.raises(NetlinkError) as caught:
        netlink.read_link("eth0")
    assert caught.value.code == errno.EAFNOSUPPORT


def test_a_kernel_without_ipv6(kernel: Kernel) -> None:
    refusal = refuse(NO_ROUTE, errno.EOPNOTSUPP)
    kernel.script = [refusal, refusal, refusal, refusal]
    with Netlink() as conversation:
        assert conversation.get_default_route(2, AF_INET6) is None
        assert conversation.get_neighbour(2, "fe80::a") is None


def test_a_table_that_changed_while_it_was_read_is_read_again(kernel: Kernel) -> None:
    def interrupt(datagram: bytes) -> bytes:
        return datagram[:6] + struct.pack("=H", 0x12) + datagram[8:]

    changed = (interrupt(TABLE[0]), *NO_DUMP)
    kernel.script = [NO_ROUTE, NO_ROUTE, changed, DUMP]
    with Netlink() as conversation:
        assert conversation.get_default_route(2, AF_INET) == DefaultRoute(("192.168.7.1",))
    # One that never stays the same is believed after the third time.
    kernel.script = [NO_ROUTE, NO_ROUTE, changed, changed, changed, DUMP]
    with Netlink() as conversation:
        assert conversation.get_default_route(2, AF_INET) == DefaultRoute(("192.168.7.2",))
    assert kernel.script == [DUMP]


# What no kernel says


def test_a_message_of_another_process_is_passed_over(kernel: Kernel) -> None:
    kernel.script = [LINK]
    kernel.sender = 4711
    with pytest.raises(NetlinkError) as caught:
        netlink.read_link("eth0")
    assert caught.value.code == errno.ETIMEDOUT


def test_an_answer_to_another_question_is_passed_over(kernel: Kernel) -> None:
    kernel.stamped = False
    other_port = LINK[0][:12] + struct.pack("=I", PORT + 1) + LINK[0][16:]
    kernel.script = [[stamp(LINK[0], 7), other_port]]
    with pytest.raises(NetlinkError) as caught:
        netlink.read_link("eth0")
    assert caught.value.code == errno.ETIMEDOUT
    kernel.script = [[stamp(LINK[0], 7), other_port, LINK[0]]]
    status = netlink.read_link("eth0")
    assert status is not None and status.name == "eth0"


def test_a_message_that_was_cut_off(kernel: Kernel) -> None:
    kernel.script = [LINK]
    kernel.flags = int(_socket.MSG_TRUNC)
    with pytest.raises(NetlinkError) as caught:
        netlink.read_link("eth0")
    assert caught.value.code == errno.EBADMSG


@pytest.mark.parametrize(
    "datagram",
    (
        pytest.param(LINK[0], id="answers"),
        pytest.param(stamp(ROUTE[0], 99), id="answers to others"),
        pytest.param(b"", id="nothing"),
        pytest.param(HEADER.pack(16, 1, 0, 1, PORT), id="NLMSG_NOOP"),
    ),
)
def test_talk_without_end_is_not_listened_to_without_end(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, datagram: bytes
) -> None:
    monkeypatch.setattr(netlink, "ANSWER_PATIENCE", 0.05)
    monkeypatch.setattr(netlink, "TABLE_PATIENCE", 0.1)
    kernel.endless = True
    kernel.stamped = False
    kernel.script = [[datagram]]
    with Netlink() as conversation, pytest.raises(NetlinkError) as caught:
        conversation.ask(netlink.RTM_GETROUTE, netlink.NLM_F_DUMP, b"", lambda body: False)
    assert caught.value.code == errno.ETIMEDOUT


PARSERS: tuple[Callable[[bytes], object], ...] = (
    netlink.split_messages,
    netlink.split_attributes,
    netlink.parse_link,
    netlink.parse_route,
    netlink.parse_neighbour,
    netlink.parse_nexthop_object,
)


def parse_whole(parser: Callable[[bytes], object], data: bytes) -> bool:
    """Parse, and return whether it could be; fails on anything but a `NetlinkError`."""
    try:
        parser(data)
    except NetlinkError as error:
        assert error.code == errno.EBADMSG
        return False
    return True


@settings(max_examples=MANY, deadline=2000)
@given(st.binary(max_size=256))
@example(b"\0" * 16)
@example(HEADER.pack(0xFFFFFFFF, 24, 0, 1, PORT))
@example(HEADER.pack(15, 24, 0, 1, PORT))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parser in PARSERS:
        parse_whole(parser, data)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A captured datagram, some of its bytes changed, taken out or doubled."""
    data = bytearray(draw(st.sampled_from([datagram for answer in ALL for datagram in answer])))
    for _ in range(draw(st.integers(0, 6))):
        if not data:
            break
        # The first bytes and those of small attributes matter most, so small offsets come more often.
        place = min(draw(st.integers(0, len(data) - 1)), draw(st.integers(0, len(data) - 1)))
        match draw(st.sampled_from(("change", "cut", "take", "double"))):
            case "change":
                data[place] = draw(st.integers(0, 255))
            case "cut":
                del data[place:]
            case "take":
                del data[place:place + draw(st.integers(1, 8))]
            case "double":
                data[place:place] = data[place:place + draw(st.integers(1, 64))]
    return bytes(data)


@settings(max_examples=MANY, deadline=2000)
@given(st.lists(damaged(), min_size=1, max_size=6))
def test_damaged_answers_raise_nothing_else_and_end(datagrams: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        kernel = Kernel()
        kernel.stamped = False
        monkeypatch.setattr(_socket, "socket", kernel.socket)
        for ask in conversations():
            kernel.script = [[datagram] for datagram in datagrams]
            kernel.queue = []
            try:
                ask()
            except NetlinkError as error:
                assert 0 < error.code <= 4095
                assert str(error)


def conversations() -> Iterator[Callable[[], object]]:
    """Yield each question there is, on a socket of its own, as sequence number 1 is what the captured answers bear."""
    asks: Iterable[Callable[[Netlink], object]] = (
        lambda conversation: conversation.get_link("eth0"),
        lambda conversation: conversation.get_default_route(2, AF_INET),
        lambda conversation: conversation.get_default_route(2, AF_INET6),
        lambda conversation: conversation.get_neighbour(2, "192.168.7.1"),
        lambda conversation: conversation.list_addresses(2),
        lambda conversation: conversation.resolve_neighbours(2, ("192.168.7.1", "fe80::a"), 0.0),
        lambda conversation: conversation.wait(time.monotonic() + 0.5),
    )
    for ask in asks:

        def talk(ask: Callable[[Netlink], object] = ask) -> object:
            with Netlink() as conversation:
                return ask(conversation)

        yield talk


def test_every_captured_answer_cut_anywhere_is_refused() -> None:
    for answer in (LINK, ROUTE, MULTI, VIA, ROUTE6, MULTI6, NEIGH, NEIGH6):
        whole = answer[0]
        assert parse_whole(netlink.split_messages, whole)
        for end in range(1, len(whole)):
            assert not parse_whole(netlink.split_messages, whole[:end]), (whole, end)
