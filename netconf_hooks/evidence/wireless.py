"""The wireless network of a link: the tests ``ssid`` and ``bssid``, and whether the link is encrypted.

A link is **encrypted** if it encrypts its frames to the access point with a key of its own (a pairwise key).  The
kernel is asked for this key.  The access point's own announcement proves nothing: beacons are not authenticated, and
anybody in range can send one that announces encryption in the name of an open network.  The announcement is used only
if the kernel can't be asked for keys (a driver without get_key; a caller without CAP_NET_ADMIN).

WEP does not count as encryption: it has been broken since 2001 (Fluhrer, Mantin, Shamir), and anybody who listens for
some minutes has the key.  Opportunistic encryption (OWE, RFC 8110) and WPA3 count, and so does TKIP, the first WPA.
"""

from __future__ import annotations

import _socket
import errno
from time import monotonic

from netconf_hooks.evidence.radios import SYSFS, find_radios, has_nl80211
from netconf_hooks.observation import Answer
from netconf_hooks.record import Record
from netconf_hooks.stanzas.values import format_ssid
from netconf_hooks.system.netlink import (
    LINKS, NLM_F_DUMP, Netlink, NetlinkError, pack_attribute, read_number, split_attributes
)  # fmt: skip
from netconf_hooks.system.nl80211 import (
    ATTR_BSS, ATTR_KEY_CIPHER, ATTR_KEY_IDX, ATTR_MAC, BSS_BSSID, BSS_MLD_ADDR, BSS_STATUS, CMD_GET_KEY, CMD_GET_SCAN,
    Nl80211, find_ssid, read_elements
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from netconf_hooks.evidence import Link

# Seconds to wait, after the association, for the key of a network that announces encryption: the handshake has four
# frames (IEEE 802.11-2020, 12.7.6) and takes tens of milliseconds, or longer if the access point has to ask a server.
HANDSHAKE_PATIENCE = 1.5

_BSS_STATUS_ASSOCIATED, _BSS_STATUS_IBSS_JOINED = 1, 2

# A link's own key has number 0; with Extended Key ID (IEEE 802.11-2020, 9.4.2.24.4) it alternates between 0 and 1.
_PAIRWISE_KEYS = (0, 1)
# WLAN_CIPHER_SUITE_WEP40 and _WEP104 (linux/ieee80211.h).
_WEP = (0x000FAC01, 0x000FAC05)

# Elements (IEEE 802.11-2020, 9.4.2.1): RSN, and the vendor element of WPA from before the standard.
_ELEMENT_RSN, _ELEMENT_VENDOR, _WPA = 48, 221, b"\x00\x50\xf2\x01"


class AccessPoint(Record):
    """An access point that a link is associated with.

    ssid: the name of its network, empty if it is not known; bssid: its MAC address; peer: the address that the key
    belongs to, which differs if several radios are one access point (multi-link, 802.11be); announces: whether it
    announces encryption other than WEP.
    """

    __slots__ = ("ssid", "bssid", "peer", "announces")

    def __init__(self, ssid: bytes, bssid: bytes, peer: bytes, announces: bool) -> None:
        self.ssid = ssid
        self.bssid = bssid
        self.peer = peer
        self.announces = announces


class WirelessNetwork(Record):
    """The wireless network that a link is on.

    ssid: its name, as `values.format_ssid` writes it, empty if it is not known; bssids: the MAC addresses of the access
    point, several if it uses several radios at once; encrypted: whether others in range can't read the traffic.
    """

    __slots__ = ("ssid", "bssids", "encrypted")

    def __init__(self, ssid: str, bssids: tuple[str, ...], encrypted: bool) -> None:
        self.ssid = ssid
        self.bssids = bssids
        self.encrypted = encrypted


def is_wireless_open(device: str, deadline: float = 0.0, sysfs: str = SYSFS) -> bool:
    """Whether `device` is a wireless link without encryption, or one whose encryption can't be determined.

    ``insecure`` starts tunnels, so if in doubt, the link is open.

    deadline: wait for the key of a network that announces encryption until this time.monotonic(), but no longer than
        `HANDSHAKE_PATIENCE`.
    """
    return any(_is_radio_open(radio, deadline) for radio in find_radios(device, sysfs))


def _is_radio_open(radio: str, deadline: float) -> bool:
    try:
        network = read_network(radio, deadline)
    except NetlinkError:
        return True
    return network is None or not network.encrypted


def observe(keys: Collection[str], link: Link, deadline: float) -> dict[str, Answer]:
    """Answer ``ssid`` and ``bssid``: the network that the link is associated with, and its access point.

    deadline: not used, since nothing here waits.
    """
    if not link.index:
        return {key: Answer(problem="no such interface") for key in keys}
    radios = find_radios(link.device)
    if not radios:
        return {key: Answer(problem="not a wireless interface") for key in keys}
    if not any(has_nl80211(radio) for radio in radios):
        return {key: Answer(problem="the driver of the interface has no nl80211") for key in keys}
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
    """Return the wireless network that `device` is on; None if it is on none.  Raises `NetlinkError`.

    deadline: as for `is_wireless_open`.
    """
    try:
        index = _socket.if_nametoindex(next(iter(find_radios(device)), device))
    except OSError:
        return None
    with Nl80211(index) as nl80211:
        try:
            access_points = list_access_points(nl80211)
        except NetlinkError as error:
            if error.code in (errno.ENODEV, errno.ENETDOWN):
                return None  # it was removed or set down meanwhile
            raise
        if not access_points:
            return None
        return WirelessNetwork(
            ssid=format_ssid(access_points[0].ssid),
            bssids=tuple(access_point.bssid.hex(":") for access_point in access_points),
            encrypted=_is_encrypted(nl80211, access_points[0], deadline),
        )


def list_access_points(nl80211: Nl80211) -> list[AccessPoint]:
    """Return the access points that the device is associated with: one, or with multi-link one for each radio."""
    found = (parse_access_point(answer.get(ATTR_BSS, b"")) for answer in nl80211.ask(CMD_GET_SCAN, flags=NLM_F_DUMP))
    return [access_point for access_point in found if access_point is not None]


def has_key(nl80211: Nl80211, peer: bytes) -> bool | None:
    """Return whether the link has a pairwise key for `peer`; None if keys can't be asked for."""
    for number in _PAIRWISE_KEYS:
        key = pack_attribute(ATTR_MAC, peer) + pack_attribute(ATTR_KEY_IDX, bytes((number,)))
        try:
            answers = nl80211.ask(CMD_GET_KEY, key)
        except NetlinkError as error:
            if error.code in (errno.EOPNOTSUPP, errno.EPERM):
                return None
            if error.code in (errno.ETIMEDOUT, errno.EBADMSG):
                raise
            continue  # ENOENT: there is no key; with any other error, none is known
        cipher = read_number(answers[0].get(ATTR_KEY_CIPHER, b"")) if answers else 0
        if cipher and cipher not in _WEP:
            return True
    return False


def parse_access_point(bss: bytes) -> AccessPoint | None:
    """Return the access point of an NL80211_ATTR_BSS; None if the device is not associated with it.

    In an ad-hoc network it is the cell.  Raises `NetlinkError`.
    """
    attributes = split_attributes(bss)
    status = attributes.get(BSS_STATUS)
    bssid = attributes.get(BSS_BSSID, b"")
    if status is None or len(bssid) != 6:
        return None
    if read_number(status) not in (_BSS_STATUS_ASSOCIATED, _BSS_STATUS_IBSS_JOINED):
        return None
    return AccessPoint(
        ssid=find_ssid(attributes),
        bssid=bssid,
        peer=attributes.get(BSS_MLD_ADDR, bssid),
        announces=any(
            kind == _ELEMENT_RSN or kind == _ELEMENT_VENDOR and content.startswith(_WPA)
            for kind, content in read_elements(attributes)
        ),
    )


def _is_encrypted(nl80211: Nl80211, access_point: AccessPoint, deadline: float) -> bool:
    encrypted = has_key(nl80211, access_point.peer)
    if encrypted is None:
        return access_point.announces
    until = min(deadline, monotonic() + HANDSHAKE_PATIENCE)
    if encrypted or not access_point.announces or monotonic() >= until:
        return encrypted
    # After the handshake the supplicant sets the link operational (operstates.rst of the kernel), which is an event.
    with Netlink((LINKS,)) as news:
        while not (encrypted := has_key(nl80211, access_point.peer)) and monotonic() < until:
            news.wait(until)
    return bool(encrypted)
