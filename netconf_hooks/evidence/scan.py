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

# An active scan for any name: it asks all access points in range, and takes a third of the time of a passive one.
_ANY_NAME = pack_attribute(ATTR_SCAN_SSIDS, pack_attribute(1, b""))

_READING = 0.05  # seconds for reading an event that has arrived


class HeardNetwork(Record):
    """A wireless network in range.

    ssid: its name as received, any octets, empty if it is hidden; bssid: the MAC address of the access point; closed:
    whether it announces encryption, including WEP (the capability Privacy).
    """

    __slots__ = ("ssid", "bssid", "closed")

    def __init__(self, ssid: bytes, bssid: str, closed: bool) -> None:
        self.ssid = ssid
        self.bssid = bssid
        self.closed = closed


class Scan:
    """A scan of a wireless device, started when this is created (context manager).

    If a scan of another program is already running (EBUSY, for example wpa_supplicant's), this waits for that one.
    All methods raise `NetlinkError`.  The start raises it with ENETDOWN if the link is not up (for example by rfkill),
    EPERM without CAP_NET_ADMIN, ENOENT if the kernel has no wireless devices.
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
            # Listen first, then start the scan: the event of its end may come before the reply to its start.
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
        """Stop listening; a running scan continues."""
        self._nl80211.close()
        if self._news is not None:
            self._news.close()

    def fileno(self) -> int:
        """Return the descriptor for poll(2): call `is_over` when it is readable."""
        assert self._news is not None
        return self._news.fileno()

    def is_over(self) -> bool:
        """Return whether the scan has ended or was aborted.  Does not wait."""
        assert self._news is not None
        poll = select.poll()
        poll.register(self._news.fileno(), select.POLLIN)
        while not self._over and poll.poll(0):
            news = self._news.wait(monotonic() + _READING)
            # None: events were lost, possibly this one.
            self._over = not news or any(self._is_end(kind, body) for kind, body in news)
        return self._over

    def list_networks(self) -> list[HeardNetwork]:
        """Return the networks heard so far, by this scan or in the last 30 s (IEEE80211_SCAN_RESULT_EXPIRE,
        net/wireless/scan.c)."""
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
        """Whether an event reports the end of this scan; it may also be another device of the same radio."""
        command, is_ours = self._nl80211.read_news(kind, body)
        return command in (CMD_NEW_SCAN_RESULTS, CMD_SCAN_ABORTED) and (is_ours or not self._ours)


def parse_network(bss: bytes) -> HeardNetwork | None:
    """Return the network of an NL80211_ATTR_BSS; None if it has no address.  Raises `NetlinkError`."""
    attributes = split_attributes(bss)
    bssid = attributes.get(BSS_BSSID, b"")
    if len(bssid) != 6:
        return None
    # If it does not say whether it is closed, don't take it for an open network.
    capability = read_number(attributes[BSS_CAPABILITY]) if BSS_CAPABILITY in attributes else _PRIVACY
    return HeardNetwork(find_ssid(attributes), bssid.hex(":"), bool(capability & _PRIVACY))
