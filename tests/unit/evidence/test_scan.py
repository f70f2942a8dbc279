"""Which networks a scan hears, against what nl80211 said (fixtures/nl80211), could say, and what none would."""

from __future__ import annotations

import _socket
import errno
from collections.abc import Iterator
from time import monotonic
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from fake_kernel import HEADER, PORT, Kernel
from fake_radio import ANSWERS, BSSID, RSN, SSID, WPA, answer_scan, pack_bss, readdress, refuse
from many import MANY

from netconf_hooks.evidence import scan
from netconf_hooks.evidence.scan import HeardNetwork, Scan
from netconf_hooks.system import netlink
from netconf_hooks.system.netlink import NetlinkError

OFFICE = HeardNetwork("Büro".encode(), "02:00:00:00:01:00", True)
LAN = HeardNetwork(b"My LAN", "02:00:00:00:02:00", False)
ODD = HeardNetwork(b"\0\xff\n\\'\" $(:)", "02:00:00:00:03:00", False)

INDEX = 2  # wlan0's where the answers were captured


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return make_kernel(monkeypatch)


def make_kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Stand in for the kernel: what is left when a question was answered is news, and poll(2) says so."""
    kernel = Kernel()
    monkeypatch.setattr(kernel, "fileno", lambda: 0, raising=False)
    monkeypatch.setattr(_socket, "socket", kernel.socket)
    monkeypatch.setattr(_socket, "if_nametoindex", lambda device: INDEX)
    poll = SimpleNamespace(register=lambda *_: None, poll=lambda patience: kernel.queue)
    monkeypatch.setattr(scan, "select", SimpleNamespace(poll=lambda: poll, POLLIN=1))
    return kernel


def begin(kernel: Kernel, *news: bytes | OSError, begun: tuple[bytes, ...] = ANSWERS["air begun"]) -> Scan:
    kernel.script = [ANSWERS["family"], (*begun, *news)]
    return Scan("wlan0")


def tell(command: int, index: int = INDEX) -> bytes:
    """Return news of nl80211's about a device."""
    ((family, _, _, _, body),) = netlink.split_messages(ANSWERS["air news"][-1])
    body = bytes((command,)) + body[1:4] + netlink.pack_attribute(3, index.to_bytes(4, "little"))
    return HEADER.pack(HEADER.size + len(body), family, 0, 0, PORT) + body


def test_a_scan(kernel: Kernel) -> None:
    with begin(kernel) as running:
        assert not running.is_over()
        kernel.queue += ANSWERS["air news"]
        assert running.is_over()
        assert running.is_over()
        kernel.script = [ANSWERS["air scan"]]
        assert sorted(running.list_networks(), key=lambda each: each.bssid) == [OFFICE, LAN, ODD]
    family, trigger, dump = kernel.questions
    # By name, not by a number of the day.
    assert b"nl80211\0" in family
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
        (tell(34)[:16].replace(b"\x1c\0\0\0", b"\x10\0\0\0"), False),
        (OSError(errno.ENOBUFS, ""), True),  # it may be among those that were lost
    ],
)
def test_its_end(kernel: Kernel, news: bytes | OSError, over: bool) -> None:
    assert begin(kernel, news).is_over() is over


def test_somebody_elses_scan_is_waited_for(kernel: Kernel) -> None:
    running = begin(kernel, begun=refuse(errno.EBUSY))
    assert not running.is_over()
    kernel.queue.append(tell(34, 9))  # the same radio, by another device of its
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


def test_all_that_answer_are_listed(kernel: Kernel) -> None:
    running = begin(kernel)
    kernel.script = [answer_scan({1: BSSID, 5: b"\1\0", 6: SSID}, {}, {1: b"\2\0\0\0\4\0", 5: b"\1\0"})]
    assert [network.bssid for network in running.list_networks()] == ["02:00:00:00:03:00", "02:00:00:00:04:00"]


# Hostile


def shatter(draw: st.DrawFn, data: bytes) -> bytes:
    """Return a datagram with some bytes changed, taken out or doubled."""
    damaged = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        if damaged:
            place = draw(st.integers(0, len(damaged) - 1))
            end = place + draw(st.integers(1, 16))
            damaged[place:end] = draw(st.sampled_from((b"", b"\xff", b"\0\0", bytes(damaged[place:end] * 2))))
    return bytes(damaged)


@st.composite
def conversations(draw: st.DrawFn) -> list[list[bytes]]:
    """A captured conversation, damaged: the family, what came of the beginning and the news, the networks."""
    talk = [ANSWERS["family"], ANSWERS["air begun"] + ANSWERS["air news"], ANSWERS["air scan"]]
    return [[shatter(draw, readdress(datagram)) for datagram in answer] for answer in talk]


@settings(max_examples=MANY, deadline=2000)
@given(conversations())
def test_damaged_answers_raise_nothing_else_and_end(talk: list[list[bytes]]) -> None:
    began = monotonic()
    with pytest.MonkeyPatch.context() as monkeypatch:
        kernel = make_kernel(monkeypatch)
        kernel.stamped = False
        kernel.script = list(talk)
        try:
            with Scan("wlan0") as running:
                running.is_over()
                check_networks(running.list_networks())
        except NetlinkError as error:
            assert 0 < error.code <= 4095
    assert monotonic() - began < 2


@settings(max_examples=MANY)
@given(st.binary(max_size=300), st.binary(max_size=4))
def test_whatever_is_in_the_air_is_a_network(elements: bytes, capability: bytes) -> None:
    network = scan.parse_network(pack_bss({1: BSSID, 5: capability, 6: elements}))
    assert network is not None
    check_networks(iter((network,)))


def check_networks(networks: Iterator[HeardNetwork] | list[HeardNetwork]) -> None:
    for network in networks:
        assert len(network.ssid) <= 32
        assert len(network.bssid) == 17
        assert isinstance(network.closed, bool)
