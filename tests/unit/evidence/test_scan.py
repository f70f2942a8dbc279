"""Which networks a scan hears, against what nl80211 said (fixtures/nl80211), could say, and what none would."""

from __future__ import annotations

import _socket
import errno
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from fake_kernel import HEADER, stamp
from fake_radio import ANSWERS, BSSID, RSN, SSID, WPA, answer_scan, pack_bss, refuse
from many import MANY
from pyroute2 import config
from pyroute2.netlink.exceptions import NetlinkError as Refusal

from netconf_hooks.evidence import scan
from netconf_hooks.evidence.scan import HeardNetwork, Scan
from netconf_hooks.system import netlink
from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.system.nl80211 import Nl80211

OFFICE = HeardNetwork("Büro".encode(), "02:00:00:00:01:00", True)
LAN = HeardNetwork(b"My LAN", "02:00:00:00:02:00", False)
ODD = HeardNetwork(b"\0\xff\n\\'\" $(:)", "02:00:00:00:03:00", False)

INDEX = 2  # wlan0's where the answers were captured
GROUP = 10  # that of the group "scan" there


class Kernel:
    """The kernel's side of the sockets that pyroute2 opens as `config.SocketBase`.

    This machine's kernel may have no radio, so the sockets are fake: each is one end of a real pair, with a real
    poll(2).  All other code of pyroute2 runs, so these tests notice if a version of it behaves differently.

    script: the answers to the next questions; news: datagrams that come before the answer to the last of them.
    """

    def __init__(self) -> None:
        self.script: list[tuple[bytes, ...]] = []
        self.news: list[bytes] = []
        self.questions: list[bytes] = []
        self.sockets: list[Socket] = []
        self.stamped = True

    def open(self, *_: object) -> Socket:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sockets.append(Socket(self, near.detach(), far))
        return self.sockets[-1]

    def answer(self, question: bytes) -> tuple[bytes, ...]:
        assert HEADER.unpack_from(question)[0] == len(question)
        self.questions.append(question)
        answers = self.script.pop(0) if self.script else ()
        if not self.script:
            self.tell(*self.news)
            self.news = []
        return tuple(stamp(each, HEADER.unpack_from(question)[3]) if self.stamped else each for each in answers)

    def tell(self, *news: bytes) -> None:
        """Send news to those that have joined the group."""
        for each in self.sockets:
            if each.group == GROUP:
                for datagram in news:
                    each.far.send(datagram)

    def lose(self) -> None:
        """Lose news (ENOBUFS), as a full buffer does."""
        for each in self.sockets:
            each.lost = True
        self.tell(b"there is something")

    def close(self) -> None:
        for each in self.sockets:
            assert each.fileno() == -1, "a socket was left open"
            each.far.close()


class Socket(socket.socket):
    """What pyroute2 takes for its netlink socket."""

    def __init__(self, kernel: Kernel, descriptor: int, far: socket.socket) -> None:
        super().__init__(fileno=descriptor)
        self.kernel = kernel
        self.far = far
        self.port = -1
        self.group = 0
        self.lost = False

    def bind(self, address: tuple[int, int]) -> None:
        if address[0] in [each.port for each in self.kernel.sockets if each.fileno() != -1]:
            raise OSError(errno.EADDRINUSE, "")
        self.port = address[0]

    def setsockopt(self, level: int, name: int, value: int) -> None:
        if (level, name) == (270, 1):  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
            self.group = value

    def settimeout(self, patience: float | None) -> None:
        assert patience == netlink.ANSWER_PATIENCE
        super().settimeout(0.01)  # the kernel answers at once, or never

    def sendto(self, data: bytes, address: tuple[int, int]) -> int:
        assert address == (0, 0)
        for datagram in self.kernel.answer(bytes(data)):
            self.far.send(datagram)
        return len(data)

    def recv(self, *arguments: int) -> bytes:
        self.check()
        return super().recv(*arguments)

    def recvfrom_into(self, *arguments: object) -> tuple[int, object]:
        self.check()
        return super().recvfrom_into(*arguments)

    def check(self) -> None:
        assert self.gettimeout(), "it could block for ever"
        if self.lost:
            raise OSError(errno.ENOBUFS, "")


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Check that a test leaves no descriptor open and no thread running."""
    before = os.listdir("/proc/self/fd")
    threads = threading.enumerate()
    yield
    assert os.listdir("/proc/self/fd") == before
    assert threading.enumerate() == threads


@pytest.fixture
def kernel(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = make_kernel(monkeypatch)
    yield kernel
    kernel.close()


def make_kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(config, "SocketBase", kernel.open)
    monkeypatch.setattr(_socket, "if_nametoindex", lambda device: INDEX)
    return kernel


def begin(kernel: Kernel, *news: bytes, begun: tuple[bytes, ...] = ANSWERS["air begun"]) -> Scan:
    """Start a scan; the news come before the answer to its start."""
    kernel.script = [ANSWERS["family"], ANSWERS["family"], begun]
    kernel.news = list(news)
    return Scan("wlan0")


def tell(command: int, index: int = INDEX) -> bytes:
    """Return news of nl80211's about a device."""
    ((family, _, _, _, body),) = netlink.split_messages(ANSWERS["air news"][-1])
    body = bytes((command,)) + body[1:4] + netlink.pack_attribute(3, index.to_bytes(4, "little"))
    return HEADER.pack(HEADER.size + len(body), family, 0, 0, 0) + body


def test_a_scan(kernel: Kernel) -> None:
    with begin(kernel) as running:
        assert not running.is_over()
        kernel.tell(*ANSWERS["air news"])
        assert select.select([running], [], [], 0)[0]
        assert running.is_over()
        assert running.is_over()
        kernel.script = [ANSWERS["air scan"]]
        assert sorted(running.list_networks(), key=lambda each: each.bssid) == [OFFICE, LAN, ODD]
    *families, trigger, dump = kernel.questions
    # By name, not by a number of the day.
    assert [b"nl80211\0" in family for family in families] == [True] * 2
    device = netlink.pack_attribute(3, INDEX.to_bytes(4, "little"))
    # An active scan: one name, which is empty, as `iw scan` asks.
    assert trigger[16:] == bytes((33, 1, 0, 0)) + device + bytes.fromhex("08002d00" "04000100")
    assert dump[16:] == bytes((32, 1, 0, 0)) + device


@pytest.mark.parametrize(
    "news, over",
    [
        (tell(34), True),
        (tell(35), True),  # aborted: what it has heard by then counts
        (tell(34, 9), False),  # another radio's
        (tell(33), False),  # it has begun
        (tell(33) + tell(34), True),
        (b"\x14\0\0\0" + tell(34)[4:20], False),  # about no device
        (b"\x10\0\0\0" b"\x11\0" + bytes(10), False),  # another family's
    ],
)
def test_its_end(kernel: Kernel, news: bytes, over: bool) -> None:
    with begin(kernel) as running:
        assert not running.is_over()
        kernel.tell(news)
        assert running.is_over() is over
        assert running.is_over() is over


def test_its_end_may_come_before_the_answer_to_its_start(kernel: Kernel) -> None:
    with begin(kernel, *ANSWERS["air news"]) as running:
        assert select.select([running], [], [], 0)[0]
        assert running.is_over()


def test_lost_news_may_be_its_end(kernel: Kernel) -> None:
    with begin(kernel) as running:
        kernel.lose()
        assert running.is_over()


def test_news_without_a_body_cannot_be_read(kernel: Kernel) -> None:
    with begin(kernel) as running:
        kernel.tell(b"\x10\0\0\0" + tell(34)[4:16])
        with pytest.raises(NetlinkError) as raised:
            running.is_over()
    assert raised.value.code == errno.EBADMSG


def test_somebody_elses_scan_is_waited_for(kernel: Kernel) -> None:
    began = monotonic()
    with begin(kernel, begun=refuse(errno.EBUSY)) as running:
        assert len(kernel.questions) == 3  # it is not tried again
        assert monotonic() - began < 5
        assert not running.is_over()
        kernel.tell(tell(34, 9))  # the same radio, by another device of its
        assert running.is_over()


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENETDOWN, errno.EOPNOTSUPP, errno.ENODEV])
def test_a_refusal(kernel: Kernel, code: int) -> None:
    with pytest.raises(NetlinkError) as raised:
        begin(kernel, begun=refuse(code))
    assert raised.value.code == code


def test_a_link_that_is_down(kernel: Kernel) -> None:
    with pytest.raises(NetlinkError) as raised:
        begin(kernel, begun=ANSWERS["down begun"])
    assert raised.value.code == errno.ENETDOWN


def test_a_kernel_without_wireless_devices(kernel: Kernel) -> None:
    kernel.script = [refuse(errno.ENOENT)]
    with pytest.raises(NetlinkError) as raised:
        Scan("wlan0")
    assert raised.value.code == errno.ENOENT


def test_the_real_kernel(nothing_left: None) -> None:
    """Most test machines have no radio.  On one that has, nl80211 refuses to scan with the loopback device."""
    expected = {errno.ENOENT}
    with suppress(NetlinkError), Nl80211(1):
        expected = {errno.EPERM, errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL}
    with pytest.raises(NetlinkError) as raised:
        Scan("lo")
    assert raised.value.code in expected


def test_the_real_kernels_answers(nothing_left: None) -> None:
    """The family "nlctrl" is in every kernel."""
    with scan._Socket() as first, scan._Socket() as second:
        for each in (first, second):
            each.bind("nlctrl", scan._Message)
        assert second.gettimeout() == netlink.ANSWER_PATIENCE, "lost with the second port"
        families = second.ask(3, netlink.NLM_F_DUMP)  # CTRL_CMD_GETFAMILY
        assert b"\0nlctrl\0" in b"".join(bytes(family.data) for family in families)
        assert {family["header"]["type"] for family in families} == {16}
        with pytest.raises(Refusal) as raised:
            second.ask(200, netlink.NLM_F_ACK)
        assert raised.value.code == errno.EOPNOTSUPP


def test_no_such_device(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> int:
        raise OSError(errno.ENODEV, "")

    monkeypatch.setattr(_socket, "if_nametoindex", fail)
    with pytest.raises(NetlinkError):
        Scan("wlan0")
    assert kernel.questions == []


@pytest.mark.parametrize(
    "bss, expected",
    [
        ({1: BSSID, 5: b"\x01\x04", 6: SSID}, HeardNetwork(b"cafe", "02:00:00:00:03:00", False)),
        ({1: BSSID, 5: b"\x11\x04", 6: SSID}, HeardNetwork(b"cafe", "02:00:00:00:03:00", True)),
        # It is the capability that counts, as for guessnet: WEP has nothing else.
        ({1: BSSID, 5: b"\x01\x04", 6: SSID + RSN + WPA}, HeardNetwork(b"cafe", "02:00:00:00:03:00", False)),
        ({1: BSSID, 6: SSID}, HeardNetwork(b"cafe", "02:00:00:00:03:00", True)),
        # The first name counts: anybody can add another one.
        ({1: BSSID, 5: b"\x01\x04", 6: SSID + b"\0\6office"}, HeardNetwork(b"cafe", "02:00:00:00:03:00", False)),
        # hidden: its beacons have nothing, or zeros, for a name
        ({1: BSSID, 5: b"\x01\x04", 6: b"\0\0", 11: SSID}, HeardNetwork(b"cafe", "02:00:00:00:03:00", False)),
        ({1: BSSID, 5: b"\x01\x04", 6: b"\0\4\0\0\0\0"}, HeardNetwork(b"", "02:00:00:00:03:00", False)),
        ({1: BSSID, 5: b"\x01\x04"}, HeardNetwork(b"", "02:00:00:00:03:00", False)),
        ({1: BSSID, 5: b"\x01\x04", 6: b"\0\x28" + b"x" * 40}, HeardNetwork(b"x" * 32, "02:00:00:00:03:00", False)),
        ({1: BSSID[:-1], 5: b"\x01\x04", 6: SSID}, None),
        ({}, None),
    ],
)
def test_a_network(bss: dict[int, bytes], expected: HeardNetwork | None) -> None:
    assert scan.parse_network(pack_bss(bss)) == expected


STATIONS = {1: BSSID, 5: b"\1\0", 6: SSID}, {}, {1: b"\2\0\0\0\4\0", 5: b"\1\0"}


def test_all_that_answer_are_listed(kernel: Kernel) -> None:
    with begin(kernel) as running:
        kernel.script = [answer_scan(*STATIONS)]
        assert [network.bssid for network in running.list_networks()] == ["02:00:00:00:03:00", "02:00:00:00:04:00"]


def test_a_list_that_changed_meanwhile_is_read_again(kernel: Kernel) -> None:
    first, *others = answer_scan(*STATIONS)
    interrupted = first[:6] + b"\x12" + first[7:]  # NLM_F_MULTI | NLM_F_DUMP_INTR
    with begin(kernel) as running:
        kernel.script = [(interrupted, others[-1]), answer_scan(*STATIONS)]
        assert len(running.list_networks()) == 2
        kernel.script = [(interrupted, others[-1])] * 9
        assert len(running.list_networks()) == 1
        assert len(kernel.script) == 6


def test_a_device_that_is_gone_when_the_list_is_read(kernel: Kernel) -> None:
    *_, end = answer_scan()
    with begin(kernel) as running:
        kernel.script = [(end[:16] + (-errno.ENODEV).to_bytes(4, "little", signed=True),)]
        with pytest.raises(NetlinkError) as raised:
            running.list_networks()
    assert raised.value.code == errno.ENODEV


def test_a_kernel_that_does_not_answer(kernel: Kernel) -> None:
    with begin(kernel) as running:
        with pytest.raises(NetlinkError) as raised:
            running.list_networks()
    assert raised.value.code == errno.ETIMEDOUT


def test_a_list_without_end(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    with begin(kernel) as running:
        monkeypatch.setattr(scan, "monotonic", count().__next__)  # each message takes a second
        kernel.script = [answer_scan(*[STATIONS[0]] * 20)]
        with pytest.raises(NetlinkError) as raised:
            running.list_networks()
    assert raised.value.code == errno.ETIMEDOUT


# Hostile


def shatter(draw: st.DrawFn, data: bytes) -> bytes:
    """Return a datagram with some bytes changed, taken out or doubled.

    It is never empty: the kernel sends no such datagram, and pyroute2 0.7.7 and 0.8.1 would read it again and again.
    """
    damaged = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        if damaged:
            place = draw(st.integers(0, len(damaged) - 1))
            end = place + draw(st.integers(1, 16))
            damaged[place:end] = draw(st.sampled_from((b"", b"\xff", b"\0\0", bytes(damaged[place:end] * 2))))
    return bytes(damaged) or b"\0"


@st.composite
def conversations(draw: st.DrawFn) -> list[list[bytes]]:
    """A captured conversation, damaged: what came of the beginning, the news, the networks.

    The description of the family is not damaged: nothing in it comes from the air, and pyroute2 trusts the kernel.
    """
    talk = {"air begun": 33, "air news": 0, "air scan": 32}  # the numbers of the questions
    return [[shatter(draw, stamp(datagram, number)) for datagram in ANSWERS[name]] for name, number in talk.items()]


@settings(max_examples=MANY, deadline=2000)
@given(conversations())
def test_damaged_answers_raise_nothing_else_and_end(talk: list[list[bytes]]) -> None:
    began = monotonic()
    begun, news, networks = map(tuple, talk)
    with pytest.MonkeyPatch.context() as monkeypatch:
        kernel = make_kernel(monkeypatch)
        kernel.stamped = False
        try:
            with begin(kernel, *news, begun=begun) as running:
                running.is_over()
                kernel.script = [networks]
                check_networks(running.list_networks())
        except NetlinkError as error:
            assert error.code > 0
        kernel.close()
    assert monotonic() - began < 2


@settings(max_examples=MANY)
@given(st.binary(max_size=300), st.binary(max_size=4))
def test_whatever_is_in_the_air_is_a_network(elements: bytes, capability: bytes) -> None:
    bss = {1: BSSID, 5: capability, 6: elements}
    message = scan._Message(answer_scan(bss)[0])
    message.decode()
    assert message.get_attr("bss") == pack_bss(bss)
    network = scan.parse_network(message.get_attr("bss"))
    assert network is not None
    check_networks(iter((network,)))


def check_networks(networks: Iterator[HeardNetwork] | list[HeardNetwork]) -> None:
    for network in networks:
        assert len(network.ssid) <= 32
        assert len(network.bssid) == 17
        assert isinstance(network.closed, bool)
