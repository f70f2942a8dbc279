"""The wireless network a link is on: the tests ``ssid`` and ``bssid``, and whether others in range can read along.

Asked of nl80211, a family of generic netlink, by the project's own client: a few questions of microseconds, where
importing pyroute2 alone takes 150 ms.  Numbers and layouts are those of linux/genetlink.h and linux/nl80211.h, fixed
kernel interface.

**Encrypted** is a link whose frames to the access point are encrypted with a key of their own.  It is this key that the
kernel is asked for.  What an access point says of itself proves nothing: beacons are not authenticated, and anybody in
range can send one that announces encryption in the name of a network that has none.  Only where keys can't be asked
for (a driver without get_key; a caller without CAP_NET_ADMIN) the announcement is believed.

WEP is no encryption here: it has been broken since 2001 (Fluhrer, Mantin, Shamir), and whoever listens for some minutes
has the key.  Opportunistic encryption (OWE, RFC 8110) and WPA3 are; so is TKIP, the first WPA.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import sys
from time import monotonic

from netconf_hooks.observe import Answer
from netconf_hooks.observe.netlink import (
    LINKS, NETLINK_GENERIC, NLM_F_DUMP, Netlink, NetlinkError, pack_attribute, split_attributes
)  # fmt: skip
from netconf_hooks.record import Record
from netconf_hooks.rules import format_ssid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from netconf_hooks.observe import Link

SYSFS = "/sys/class/net"

# How long the key of a network that announces encryption may take after the association: the handshake is four frames
# (IEEE 802.11-2020, 12.7.6), tens of milliseconds; more only where the access point has to ask a server.  Seconds.
HANDSHAKE_PATIENCE = 1.5

_FAMILY = b"nl80211\0"
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2

_CMD_GET_KEY, _CMD_GET_SCAN = 9, 32
_ATTR_IFINDEX, _ATTR_MAC, _ATTR_KEY_IDX, _ATTR_KEY_CIPHER, _ATTR_BSS = 3, 6, 8, 9, 47
_BSS_BSSID, _BSS_INFORMATION_ELEMENTS, _BSS_STATUS, _BSS_BEACON_IES, _BSS_MLD_ADDR = 1, 6, 9, 11, 22
_BSS_STATUS_ASSOCIATED, _BSS_STATUS_IBSS_JOINED = 1, 2

# A link's own key is number 0; with Extended Key ID (IEEE 802.11-2020, 9.4.2.24.4) 0 and 1 take turns.
_PAIRWISE_KEYS = (0, 1)
# WLAN_CIPHER_SUITE_WEP40 and _WEP104 (linux/ieee80211.h).
_WEP = (0x000FAC01, 0x000FAC05)

# Elements (IEEE 802.11-2020, 9.4.2.1): SSID, RSN, and the vendor's that WPA was before there was a standard.
_ELEMENT_SSID, _ELEMENT_RSN, _ELEMENT_VENDOR, _WPA = 0, 48, 221, b"\x00\x50\xf2\x01"

_HEADER = struct.Struct("=BBxx")  # genlmsghdr: command, version
_U32 = struct.Struct("=I")


class AccessPoint(Record):
    """An access point that a link is associated with.

    ssid: the name of its network, empty where it has not been heard; bssid: its MAC address; peer: the address that the
    key is for, which is another one where several radios are one access point (multi-link, 802.11be); announces:
    whether it says that it encrypts, with more than WEP.
    """

    __slots__ = ("ssid", "bssid", "peer", "announces")

    def __init__(self, ssid: bytes, bssid: bytes, peer: bytes, announces: bool) -> None:
        self.ssid = ssid
        self.bssid = bssid
        self.peer = peer
        self.announces = announces


class WirelessNetwork(Record):
    """The wireless network that a link is on.

    ssid: its name, as `rules.format_ssid` writes it, empty where it is not known; bssids: the MAC addresses of the
    access point, several where it has several radios at once; encrypted: whether nobody else in range can read along.
    """

    __slots__ = ("ssid", "bssids", "encrypted")

    def __init__(self, ssid: str, bssids: tuple[str, ...], encrypted: bool) -> None:
        self.ssid = ssid
        self.bssids = bssids
        self.encrypted = encrypted


def is_wireless(device: str, sysfs: str = SYSFS) -> bool:
    """Whether `device` is a wireless link: it has a ``phy80211`` link in sysfs (net/wireless/core.c)."""
    return os.path.exists(f"{sysfs}/{device}/phy80211")


def is_wireless_open(device: str, deadline: float = 0.0, sysfs: str = SYSFS) -> bool:
    """Whether `device` is a wireless link without encryption, or one of which that can't be told.

    ``insecure`` brings tunnels up: its error must be on that side.

    deadline: the time.monotonic() until which, and no longer than `HANDSHAKE_PATIENCE`, the key of a network that
        announces encryption is waited for.
    """
    if not is_wireless(device, sysfs):
        return False
    try:
        network = read_network(device, deadline)
    except NetlinkError:
        return True
    return network is None or not network.encrypted


def observe(keys: Collection[str], link: Link, deadline: float) -> dict[str, Answer]:
    """Answer ``ssid`` and ``bssid``: the network that the link is associated with, and its access point.

    deadline: not used, nothing is waited for.
    """
    if not link.index:
        return {key: Answer(problem="no such interface") for key in keys}
    if not is_wireless(link.device):
        return {key: Answer(problem="not a wireless interface") for key in keys}
    try:
        network = read_network(link.device)
    except NetlinkError as error:
        return {key: Answer(pending=True, problem=f"the kernel could not be asked: {error}") for key in keys}
    if network is None:
        return {key: Answer(problem="not associated with an access point") for key in keys}
    answers = {
        "ssid": Answer((network.ssid,)) if network.ssid else Answer(problem="the network's name is not known"),
        "bssid": Answer(network.bssids),
    }
    return {key: answers[key] for key in keys}


def read_network(device: str, deadline: float = 0.0) -> WirelessNetwork | None:
    """Return the wireless network that `device` is on, None where it is on none.  Raises `NetlinkError`.

    deadline: as for `is_wireless_open`.
    """
    try:
        index = _socket.if_nametoindex(device)
    except OSError:
        return None
    with Netlink(protocol=NETLINK_GENERIC) as netlink:
        try:
            nl80211 = _Nl80211(netlink, index)
            access_points = nl80211.list_access_points()
        except NetlinkError as error:
            if error.code in (errno.ENODEV, errno.ENETDOWN):
                return None  # it went, or was set down, in between
            raise
        if not access_points:
            return None
        return WirelessNetwork(
            ssid=format_ssid(access_points[0].ssid),
            bssids=tuple(access_point.bssid.hex(":") for access_point in access_points),
            encrypted=_is_encrypted(nl80211, access_points[0], deadline),
        )


class _Nl80211:
    """Questions about the wireless device with this ifindex.  All raise `NetlinkError`."""

    def __init__(self, netlink: Netlink, index: int) -> None:
        self._netlink = netlink
        self._device = pack_attribute(_ATTR_IFINDEX, _U32.pack(index))
        # Families have no number of their own; only that of the one which knows the others' is fixed.
        name = pack_attribute(_CTRL_ATTR_FAMILY_NAME, _FAMILY)
        answers = self._ask(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, name)
        self._family = _read_number(answers[0].get(_CTRL_ATTR_FAMILY_ID, b"")[:2]) if answers else 0

    def list_access_points(self) -> list[AccessPoint]:
        """Return the access points the device is associated with: one, with multi-link one for each radio."""
        answers = self._ask(self._family, _CMD_GET_SCAN, self._device, NLM_F_DUMP)
        found = (parse_access_point(answer.get(_ATTR_BSS, b"")) for answer in answers)
        return [access_point for access_point in found if access_point is not None]

    def has_key(self, peer: bytes) -> bool | None:
        """Return whether frames to `peer` are encrypted with a key of their own; None where keys can't be asked for."""
        for number in _PAIRWISE_KEYS:
            key = pack_attribute(_ATTR_MAC, peer) + pack_attribute(_ATTR_KEY_IDX, bytes((number,)))
            try:
                answers = self._ask(self._family, _CMD_GET_KEY, self._device + key)
            except NetlinkError as error:
                if error.code in (errno.EOPNOTSUPP, errno.EPERM):
                    return None
                if error.code in (errno.ETIMEDOUT, errno.EBADMSG):
                    raise
                continue  # ENOENT: there is none; whatever else a driver says shows none
            cipher = _read_number(answers[0].get(_ATTR_KEY_CIPHER, b"")) if answers else 0
            if cipher and cipher not in _WEP:
                return True
        return False

    def _ask(self, family: int, command: int, attributes: bytes, flags: int = 0) -> list[dict[int, bytes]]:
        answers = self._netlink.ask(family, flags, _HEADER.pack(command, 1) + attributes)
        return [split_attributes(body[_HEADER.size:]) for kind, body in answers if kind == family]


def parse_access_point(bss: bytes) -> AccessPoint | None:
    """Return the access point of an NL80211_ATTR_BSS; None where it is not one that the device is associated with.

    Of an ad-hoc network it is the cell.  Raises `NetlinkError`.
    """
    attributes = split_attributes(bss)
    status = attributes.get(_BSS_STATUS)
    bssid = attributes.get(_BSS_BSSID, b"")
    if status is None or len(bssid) != 6:
        return None
    if _read_number(status) not in (_BSS_STATUS_ASSOCIATED, _BSS_STATUS_IBSS_JOINED):
        return None
    # What it said last when it was asked, else in a beacon; and in a beacon.  One that hides its network's name says it
    # when it is asked by that name only (IEEE 802.11-2020, 11.1.4.3.4); its beacons have none, or zeros in its place.
    elements = [
        *split_elements(attributes.get(_BSS_INFORMATION_ELEMENTS, b"")),
        *split_elements(attributes.get(_BSS_BEACON_IES, b"")),
    ]
    return AccessPoint(
        ssid=next((name for kind, name in elements if kind == _ELEMENT_SSID and name.strip(b"\0")), b"")[:32],
        bssid=bssid,
        peer=attributes.get(_BSS_MLD_ADDR, bssid),
        announces=any(
            kind == _ELEMENT_RSN or kind == _ELEMENT_VENDOR and content.startswith(_WPA) for kind, content in elements
        ),
    )


def split_elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return the elements of a beacon, number and content, up to the first that is cut off.

    data: as it came through the air, from whoever is in range.
    """
    elements = []
    offset = 0
    while offset + 2 <= len(data):
        content = data[offset + 2:offset + 2 + data[offset + 1]]
        if len(content) < data[offset + 1]:
            break
        elements.append((data[offset], content))
        offset += 2 + len(content)
    return elements


def _is_encrypted(nl80211: _Nl80211, access_point: AccessPoint, deadline: float) -> bool:
    has_key = nl80211.has_key(access_point.peer)
    if has_key is None:
        return access_point.announces
    until = min(deadline, monotonic() + HANDSHAKE_PATIENCE)
    if has_key or not access_point.announces or monotonic() >= until:
        return has_key
    # Whoever made the handshake then sets the link operational (operstates.rst of the kernel): that makes news.
    with Netlink((LINKS,)) as news:
        while not (has_key := nl80211.has_key(access_point.peer)) and monotonic() < until:
            news.wait(until)
    return bool(has_key)


def _read_number(value: bytes) -> int:
    """Return the number of an attribute: it is as long as it is, in the machine's byte order."""
    return int.from_bytes(value, sys.byteorder)
