"""Which wireless network a link is on, against what nl80211 said (fixtures/nl80211), could say, and what none would."""

from __future__ import annotations

import _socket
import errno
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from fake_kernel import LINK, Kernel
from fake_radio import ANSWERS, BSSID, RSN, SCENES, SSID, WMM, WPA, answer_key, answer_scan, converse, pack_bss, refuse
from many import MANY

from netconf_hooks.evidence import Link, radios, wireless
from netconf_hooks.evidence.wireless import AccessPoint, WirelessNetwork
from netconf_hooks.observation import Answer
from netconf_hooks.system import netlink, nl80211
from netconf_hooks.system.netlink import NetlinkError


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(_socket, "socket", kernel.socket)
    monkeypatch.setattr(_socket, "if_nametoindex", lambda device: 2)
    return kernel


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("wlan0/phy80211", "wlan0/wireless", "wlan2/wireless", "eth0"):
        (tmp_path / name).mkdir(parents=True)
    return str(tmp_path)


@pytest.mark.parametrize(
    "scene, expected",
    [
        ("nothing", None),
        ("wpa2", WirelessNetwork(r"B\xc3\xbcro", ("02:00:00:00:01:00",), True)),
        # Without CAP_NET_ADMIN nobody is told of keys: what the access point says is believed.
        ("wpa2-nobody", WirelessNetwork(r"B\xc3\xbcro", ("02:00:00:00:01:00",), True)),
        ("open", WirelessNetwork("cafe", ("02:00:00:00:03:00",), False)),
        # An open network in whose name encryption is announced.
        ("forged", WirelessNetwork("cafe", ("02:00:00:00:03:00",), False)),
        # Another access point was in range as well.
        ("wep", WirelessNetwork("wep", ("02:00:00:00:03:00",), False)),
        ("odd", WirelessNetwork(r"""\x00\xff\x0a\\'" $(:)""", ("02:00:00:00:03:00",), False)),
    ],
)
def test_a_network(kernel: Kernel, scene: str, expected: WirelessNetwork | None) -> None:
    kernel.script = converse(scene)
    assert wireless.read_network("wlan0") == expected
    assert not kernel.script
    assert not kernel.queue
    # By name, not by a number of the day.
    assert b"nl80211\0" in kernel.questions[0]


def test_forged_and_open_differ_only_in_what_is_announced() -> None:
    stations = [netlink.split_messages(ANSWERS[f"{scene} scan"][0])[0][4][4:] for scene in ("open", "forged")]
    found = [wireless.parse_access_point(netlink.split_attributes(station)[47]) for station in stations]
    assert [each and each.announces for each in found] == [False, True]


@pytest.mark.parametrize(
    "answer, encrypted",
    [
        (answer_key(0x000FAC04), True),  # CCMP
        (answer_key(0x000FAC02), True),  # TKIP
        (answer_key(0x000FAC09), True),  # GCMP-256
        (answer_key(0x000FAC01), False),  # WEP-40: keys of its own by 802.1X
        (answer_key(0x000FAC05), False),  # WEP-104
        (answer_key(None), False),
        (refuse(errno.ENOENT), False),
        (refuse(errno.EINVAL), False),
        (refuse(errno.EOPNOTSUPP), True),
        (refuse(errno.EPERM), True),
    ],
)
def test_it_is_the_key_that_counts(kernel: Kernel, answer: tuple[bytes, ...], encrypted: bool) -> None:
    kernel.script = [ANSWERS["family"], ANSWERS["wpa2 scan"], answer, answer]
    network = wireless.read_network("wlan0")
    assert network and network.encrypted is encrypted


def test_the_second_key_counts_too(kernel: Kernel) -> None:
    kernel.script = [ANSWERS["family"], ANSWERS["wpa2 scan"], refuse(errno.ENOENT), answer_key(0x000FAC04)]
    network = wireless.read_network("wlan0")
    assert network and network.encrypted


def test_what_is_announced_does_not_count_where_the_kernel_does_not_answer(kernel: Kernel) -> None:
    kernel.script = [ANSWERS["family"], ANSWERS["wpa2 scan"]]
    with pytest.raises(NetlinkError):
        wireless.read_network("wlan0")


def test_a_key_that_is_on_its_way_is_waited_for(kernel: Kernel) -> None:
    none = refuse(errno.ENOENT)
    script = [ANSWERS["family"], ANSWERS["wpa2 scan"], none, none]
    kernel.script = [*script, none, (*none, *LINK), ANSWERS["wpa2 key"]]
    network = wireless.read_network("wlan0", monotonic() + 60)
    assert network and network.encrypted
    assert not kernel.script
    # But not where none is to be expected, and not without end.
    kernel.script = [ANSWERS["family"], ANSWERS["open scan"], none, none, ANSWERS["wpa2 key"]]
    network = wireless.read_network("wlan0", monotonic() + 60)
    assert network and not network.encrypted
    kernel.script = [*script, ANSWERS["wpa2 key"]]
    network = wireless.read_network("wlan0", monotonic() - 1)
    assert network and not network.encrypted


def test_several_radios_of_one_access_point(kernel: Kernel) -> None:
    radio = {9: b"\1\0\0\0", 6: SSID + RSN, 22: b"\x02\0\0\0\x09\0"}
    stations = [{1: BSSID, **radio}, {1: b"\x02\0\0\0\4\0", **radio}]
    kernel.script = [ANSWERS["family"], answer_scan(*stations), answer_key(0x000FAC04)]
    expected = WirelessNetwork("cafe", ("02:00:00:00:03:00", "02:00:00:00:04:00"), True)
    assert wireless.read_network("wlan0") == expected
    # The key is asked for by the address of all radios together.
    assert radio[22] in kernel.questions[-1]
    assert BSSID not in kernel.questions[-1]


@pytest.mark.parametrize(
    "bss, expected",
    [
        ({1: BSSID, 9: b"\1\0\0\0", 6: SSID}, AccessPoint(b"cafe", BSSID, BSSID, False)),
        ({1: BSSID, 9: b"\1\0\0\0", 6: SSID + RSN}, AccessPoint(b"cafe", BSSID, BSSID, True)),
        ({1: BSSID, 9: b"\1\0\0\0", 6: SSID + WMM + WPA}, AccessPoint(b"cafe", BSSID, BSSID, True)),
        ({1: BSSID, 9: b"\1\0\0\0", 6: SSID, 11: SSID + RSN}, AccessPoint(b"cafe", BSSID, BSSID, True)),
        # an ad-hoc network's cell
        ({1: BSSID, 9: b"\2\0\0\0", 6: SSID}, AccessPoint(b"cafe", BSSID, BSSID, False)),
        # several names, of which wpa_supplicant joins by the first: an open network that would pass for another
        ({1: BSSID, 9: b"\1\0\0\0", 6: SSID + b"\0\6office"}, AccessPoint(b"cafe", BSSID, BSSID, False)),
        ({1: BSSID, 9: b"\1\0\0\0", 6: SSID, 11: b"\0\6office"}, AccessPoint(b"cafe", BSSID, BSSID, False)),
        ({1: BSSID, 9: b"\1\0\0\0", 6: b"\0\1\0\0\6office"}, AccessPoint(b"", BSSID, BSSID, False)),
        # hidden: its beacons have nothing, or zeros, for a name
        ({1: BSSID, 9: b"\1\0\0\0", 6: b"\0\0" + RSN, 11: SSID}, AccessPoint(b"cafe", BSSID, BSSID, True)),
        ({1: BSSID, 9: b"\1\0\0\0", 6: b"\0\4\0\0\0\0"}, AccessPoint(b"", BSSID, BSSID, False)),
        # cut off in the air
        ({1: BSSID, 9: b"\1\0\0\0", 6: SSID + RSN[:-1]}, AccessPoint(b"cafe", BSSID, BSSID, False)),
        ({1: BSSID, 9: b"\1\0\0\0", 6: SSID + WPA[:1]}, AccessPoint(b"cafe", BSSID, BSSID, False)),
        ({1: BSSID, 9: b"\1\0\0\0"}, AccessPoint(b"", BSSID, BSSID, False)),
        # longer than a name may be (IEEE 802.11-2020, 9.4.2.2)
        ({1: BSSID, 9: b"\1\0\0\0", 6: b"\0\x28" + b"x" * 40}, AccessPoint(b"x" * 32, BSSID, BSSID, False)),
        # none of ours
        ({1: BSSID, 6: SSID}, None),
        ({1: BSSID, 9: b"\0\0\0\0", 6: SSID}, None),  # authenticated only
        ({9: b"\1\0\0\0", 6: SSID}, None),
        ({}, None),
    ],
)
def test_an_access_point(bss: dict[int, bytes], expected: AccessPoint | None) -> None:
    assert wireless.parse_access_point(pack_bss(bss)) == expected


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENETDOWN])
def test_a_device_that_goes_meanwhile_is_on_no_network(kernel: Kernel, code: int) -> None:
    kernel.script = [ANSWERS["family"], refuse(code)]
    assert wireless.read_network("wlan0") is None


def test_no_device_is_on_no_network(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> int:
        raise OSError(errno.ENODEV, "")

    monkeypatch.setattr(_socket, "if_nametoindex", fail)
    assert wireless.read_network("wlan0") is None
    assert kernel.questions == []


def test_which_links_are_wireless(sysfs: str) -> None:
    devices = ("wlan0", "eth0", "wlan1", "wlan2")
    assert [radios.is_wireless(device, sysfs) for device in devices] == [True, False, False, True]
    assert [radios.has_nl80211(device, sysfs) for device in devices] == [True, False, False, False]


@pytest.mark.parametrize("scene, is_open", [("wpa2", False), ("open", True), ("wep", True), ("nothing", True)])
def test_which_links_are_open(kernel: Kernel, sysfs: str, scene: str, is_open: bool) -> None:
    kernel.script = converse(scene)
    assert wireless.is_wireless_open("wlan0", sysfs=sysfs) is is_open


def test_what_can_not_be_told_is_open(kernel: Kernel, sysfs: str) -> None:
    kernel.script = [refuse(errno.ENOENT)]  # a kernel without nl80211
    assert wireless.is_wireless_open("wlan0", sysfs=sysfs)


def test_a_driver_without_nl80211_is_open(kernel: Kernel, sysfs: str) -> None:
    kernel.script = [ANSWERS["family"], refuse(errno.ENODEV)]
    assert wireless.is_wireless_open("wlan2", sysfs=sysfs)


def test_of_a_cable_nothing_is_asked(kernel: Kernel, sysfs: str) -> None:
    assert not wireless.is_wireless_open("eth0", sysfs=sysfs)
    assert kernel.questions == []


def observe(sysfs: str, monkeypatch: pytest.MonkeyPatch, device: str = "wlan0", index: int = 2) -> dict[str, Answer]:
    monkeypatch.setattr(wireless, "find_radios", lambda name: (name,) if name in ("wlan0", "wlan2") else ())
    monkeypatch.setattr(wireless, "has_nl80211", lambda name: name == "wlan0")
    return wireless.observe(("ssid", "bssid"), Link(device, device, index, True, {}), 0.0)


def test_the_tests(kernel: Kernel, sysfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.script = converse("wpa2")
    expected = {"ssid": Answer((r"B\xc3\xbcro",)), "bssid": Answer(("02:00:00:00:01:00",))}
    assert observe(sysfs, monkeypatch) == expected
    kernel.script = [ANSWERS["family"], answer_scan({1: BSSID, 9: b"\1\0\0\0"}), answer_key(None), answer_key(None)]
    seen = observe(sysfs, monkeypatch)
    assert seen["ssid"] == Answer(problem="the network's name is not known")
    assert seen["bssid"] == Answer(("02:00:00:00:03:00",))


def test_why_there_is_nothing_to_see(kernel: Kernel, sysfs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(seen: dict[str, Answer]) -> set[tuple[str, bool]]:
        assert [answer.values for answer in seen.values()] == [(), ()]
        return {(answer.problem, answer.pending) for answer in seen.values()}

    kernel.script = converse("nothing")
    assert tell(observe(sysfs, monkeypatch)) == {("not associated with an access point", False)}
    assert tell(observe(sysfs, monkeypatch, "eth0")) == {("not a wireless interface", False)}
    assert tell(observe(sysfs, monkeypatch, "wlan2")) == {("the driver of the interface has no nl80211", False)}
    assert tell(observe(sysfs, monkeypatch, index=0)) == {("no such interface", False)}
    kernel.script = [refuse(errno.ENOENT)]
    ((problem, pending),) = tell(observe(sysfs, monkeypatch))
    assert pending and problem.startswith("the kernel could not be asked: ")


# Hostile


@st.composite
def damaged(draw: st.DrawFn) -> list[list[bytes]]:
    """A captured conversation, some bytes of its datagrams changed, taken out or doubled."""
    scene = draw(st.sampled_from(sorted(SCENES)))
    talk = [list(answer) for answer in converse(scene)]
    for _ in range(draw(st.integers(1, 6))):
        answer = draw(st.sampled_from(talk))
        number = draw(st.integers(0, len(answer) - 1))
        data = bytearray(answer[number])
        if not data:
            continue
        place = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(("change", "cut", "take", "double"))):
            case "change":
                data[place] = draw(st.integers(0, 255))
            case "cut":
                del data[place:]
            case "take":
                del data[place:place + draw(st.integers(1, 8))]
            case "double":
                data[place:place] = data[place:place + draw(st.integers(1, 64))]
        answer[number] = bytes(data)
    return talk


@settings(max_examples=MANY, deadline=2000)
@given(damaged())
def test_damaged_answers_raise_nothing_else_and_end(talk: Iterable[Sequence[bytes]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        kernel = Kernel()
        kernel.stamped = False
        monkeypatch.setattr(_socket, "socket", kernel.socket)
        monkeypatch.setattr(_socket, "if_nametoindex", lambda device: 2)
        kernel.script = list(talk)
        try:
            check_network(wireless.read_network("wlan0"))
        except NetlinkError as error:
            assert 0 < error.code <= 4095


@settings(max_examples=MANY)
@given(st.binary(max_size=200))
def test_any_elements_are_read(elements: bytes) -> None:
    split = nl80211.split_elements(elements)
    whole = b"".join(bytes((kind, len(content))) + content for kind, content in split)
    assert elements.startswith(whole)
    assert wireless.parse_access_point(pack_bss({1: BSSID, 9: b"\1\0\0\0", 6: elements})) is not None


def check_network(network: WirelessNetwork | None) -> None:
    """Whatever is in the air: what comes of it can be shown, written down and handed to a program."""
    if network is not None:
        for text in (network.ssid, *network.bssids):
            assert text.isascii() and (not text or text.isprintable())
        assert len(network.ssid) <= 4 * 32
        assert network.bssids
