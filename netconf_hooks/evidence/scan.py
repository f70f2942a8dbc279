"""The wireless networks in range, by a scan: for guessnet's ``wireless`` tests, before there is any network.
"""

from __future__ import annotations

import _socket
import errno
import select
from time import monotonic

from netconf_hooks.record import Record
from netconf_hooks.system.netlink import (
    NETLINK_GENERIC, NLM_F_ACK, NLM_F_DUMP, Netlink, NetlinkError, pack_attribute, read_number, split_attributes
)  # fmt: skip
from netconf_hooks.system.nl80211 import (
    ATTR_BSS, ATTR_SCAN_SSIDS, BSS_BSSID, BSS_CAPABILITY, CMD_GET_SCAN, CMD_NEW_SCAN_RESULTS, CMD_SCAN_ABORTED,
    CMD_TRIGGER_SCAN, Nl80211, find_ssid
)  # fmt: skip

_GROUP = b"scan\0"

_PRIVACY = 0x10  # IEEE 802.11-2020, 9.4.1.4

# An active scan, for any name: whoever is in range is asked, which takes a third of the time of listening only.
_ANY_NAME = pack_attribute(ATTR_SCAN_SSIDS, pack_attribute(1, b""))

_READING = 0.05  # seconds that news which has come may take to be read


class HeardNetwork(Record):
    """A wireless network in range.

    ssid: its name as it came through the air, any octets, empty where it hides it; bssid: the MAC address of the access
    point; closed: whether it says that it encrypts, be it with WEP (the capability Privacy).
    """

    __slots__ = ("ssid", "bssid", "closed")

    def __init__(self, ssid: bytes, bssid: str, closed: bool) -> None:
        self.ssid = ssid
        self.bssid = bssid
        self.closed = closed


class Scan:
    """A scan of a wireless device, begun when this is made (context manager).

    Where somebody else's scan is running (EBUSY: wpa_supplicant's, say), it is that one which is waited for.
    All raise `NetlinkError`; of the beginning, ENETDOWN where the link is not up (rfkill, say), EPERM without
    CAP_NET_ADMIN, ENOENT where the kernel knows of no wireless devices.
    """

    def __init__(self, device: str) -> None:
        try:
            index = _socket.if_nametoindex(device)
        except OSError:
            raise NetlinkError(errno.ENODEV) from None
        self._over = False
        self._ours = True
        self._nl80211 = Nl80211(index)
        self._news: Netlink | None = None
        try:
            # First listen, then begin: the news that it is over may come before the answer that it has begun.
            self._news = Netlink((self._nl80211.find_group(_GROUP),), NETLINK_GENERIC)
            self._begin()
        except NetlinkError:
            self.close()
            raise

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more; a scan that is running runs on."""
        self._nl80211.close()
        if self._news is not None:
            self._news.close()

    def fileno(self) -> int:
        """Return the descriptor, for poll(2): `is_over` is to be asked when it can be read."""
        assert self._news is not None
        return self._news.fileno()

    def is_over(self) -> bool:
        """Return whether it has come to its end, or was aborted.  Does not wait."""
        assert self._news is not None
        poll = select.poll()
        poll.register(self._news.fileno(), select.POLLIN)
        while not self._over and poll.poll(0):
            news = self._news.wait(monotonic() + _READING)
            # None: some were lost, this one may be among them.
            self._over = not news or any(self._is_end(kind, body) for kind, body in news)
        return self._over

    def list_networks(self) -> list[HeardNetwork]:
        """Return what has been heard by now: by this scan, and by whom the kernel has heard in the last 30 s
        (IEEE80211_SCAN_RESULT_EXPIRE, net/wireless/scan.c)."""
        answers = self._nl80211.ask(CMD_GET_SCAN, flags=NLM_F_DUMP)
        heard = (parse_network(answer.get(ATTR_BSS, b"")) for answer in answers)
        return [network for network in heard if network is not None]

    def _begin(self) -> None:
        try:
            self._nl80211.ask(CMD_TRIGGER_SCAN, _ANY_NAME, NLM_F_ACK)
        except NetlinkError as error:
            if error.code != errno.EBUSY:
                raise
            self._ours = False

    def _is_end(self, kind: int, body: bytes) -> bool:
        """Whether news tell of this scan's end; of another's, it may be the same radio by another device."""
        command, is_ours = self._nl80211.read_news(kind, body)
        return command in (CMD_NEW_SCAN_RESULTS, CMD_SCAN_ABORTED) and (is_ours or not self._ours)


def parse_network(bss: bytes) -> HeardNetwork | None:
    """Return the network of an NL80211_ATTR_BSS; None where it has no address.  Raises `NetlinkError`."""
    attributes = split_attributes(bss)
    bssid = attributes.get(BSS_BSSID, b"")
    if len(bssid) != 6:
        return None
    # Where it does not say, it is not to be taken for one that anybody may join.
    capability = read_number(attributes[BSS_CAPABILITY]) if BSS_CAPABILITY in attributes else _PRIVACY
    return HeardNetwork(find_ssid(attributes), bssid.hex(":"), bool(capability & _PRIVACY))
