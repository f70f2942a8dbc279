"""What a kernel with wireless networks answers by nl80211: captured in fixtures/nl80211, or made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fake_kernel import HEADER, PORT

from netconf_hooks.system import netlink
from netconf_hooks.system.netlink import pack_attribute

FIXTURE = Path(__file__).parent / "fixtures/nl80211"
# What is asked in a network, in order; the key only as often as it has to be.
SCENES = {
    "nothing": ("scan",),
    "wpa2": ("scan", "key"),
    "wpa2-nobody": ("scan", "key"),
    "open": ("scan", "key 0", "key 1"),
    "forged": ("scan", "key 0", "key 1"),
    "wep": ("scan", "key 0", "key 1"),
    "odd": ("scan", "key 0", "key 1"),
}
BSSID = b"\x02\0\0\0\3\0"
SSID, RSN, WPA = b"\0\4cafe", b"\x30\x02\1\0", b"\xdd\x06\0\x50\xf2\1\1\0"
WMM = b"\xdd\x06\0\x50\xf2\2\1\0"


def read_answers() -> dict[str, tuple[bytes, ...]]:
    """Return the datagrams of each answer in the fixture, as if sent to the socket with `PORT`."""
    answers = {}
    for paragraph in FIXTURE.read_text().split("\n\n")[1:]:
        name, _, datagrams = paragraph[1:].partition("]")
        answers[name] = tuple(readdress(bytes.fromhex(datagram)) for datagram in datagrams.split())
    return answers


def readdress(datagram: bytes) -> bytes:
    messages = netlink.split_messages(datagram)
    return b"".join(
        HEADER.pack(HEADER.size + len(body), kind, flags, sequence, PORT) + body + bytes(-len(body) % 4)
        for kind, flags, sequence, _, body in messages
    )


ANSWERS = read_answers()


def converse(scene: str) -> list[Sequence[bytes]]:
    """Return the answers to all that is asked in a network."""
    return [ANSWERS["family"], *(ANSWERS[f"{scene} {question}"] for question in SCENES[scene])]


def pack_bss(attributes: dict[int, bytes]) -> bytes:
    return b"".join(pack_attribute(kind, value) for kind, value in attributes.items())


def answer_scan(*stations: dict[int, bytes]) -> tuple[bytes, ...]:
    """Return the answer of a scan that found these."""
    family = netlink.split_messages(ANSWERS["open scan"][0])[0][0]
    bodies = [b"\x22\1\0\0" + pack_attribute(47, pack_bss(station)) for station in stations]
    messages = [HEADER.pack(HEADER.size + len(body), family, 2, 1, PORT) + body for body in bodies]
    return (*messages, ANSWERS["open scan"][-1])


def answer_key(cipher: int | None) -> tuple[bytes, ...]:
    """Return the answer to the question for a key: this cipher, or one that is not told."""
    family = netlink.split_messages(ANSWERS["wpa2 key"][0])[0][0]
    body = b"\x0b\1\0\0" + (b"" if cipher is None else pack_attribute(9, cipher.to_bytes(4, "little")))
    return (HEADER.pack(HEADER.size + len(body), family, 0, 1, PORT) + body,)


def refuse(code: int) -> tuple[bytes, ...]:
    body = (-code).to_bytes(4, "little", signed=True) + bytes(16)
    return (HEADER.pack(HEADER.size + len(body), netlink.NLMSG_ERROR, 0, 1, PORT) + body,)
