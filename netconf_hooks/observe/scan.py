"""The wireless networks in range, by a scan: for guessnet's ``wireless`` tests, before there is any network.

Asked of nl80211 by the project's own client.  pyroute2's IW.scan (read in 0.7.2, Debian 12) would be the library for
it, but it waits without end: it knows no deadline, does not hear of a scan that was aborted, and what it waits in
can't be polled beside other tests.  Numbers and layouts are those of linux/genetlink.h and linux/nl80211.h.
"""

from __future__ import annotations

import _socket
import errno
import select
import struct
import sys
from time import monotonic

from netconf_hooks.observe.netlink import (
    NETLINK_GENERIC, NLM_F_ACK, NLM_F_DUMP, Netlink, NetlinkError, pack_attribute, split_attributes
)  # fmt: skip
from netconf_hooks.observe.wireless import split_elements
from netconf_hooks.record import Record

_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME, _CTRL_ATTR_MCAST_GROUPS = 1, 2, 7
_CTRL_ATTR_MCAST_GRP_NAME, _CTRL_ATTR_MCAST_GRP_ID = 1, 2
_FAMILY, _GROUP = b"nl80211\0", b"scan\0"

_CMD_GET_SCAN, _CMD_TRIGGER_SCAN, _CMD_NEW_SCAN_RESULTS, _CMD_SCAN_ABORTED = 32, 33, 34, 35
_ATTR_IFINDEX, _ATTR_SCAN_SSIDS, _ATTR_BSS = 3, 45, 47
_BSS_BSSID, _BSS_CAPABILITY, _BSS_INFORMATION_ELEMENTS, _BSS_BEACON_IES = 1, 5, 6, 11

# IEEE 802.11-2020, 9.4.1.4 and 9.4.2.2.
_PRIVACY, _ELEMENT_SSID, _LONGEST_SSID = 0x10, 0, 32

# An active scan, for any name: whoever is in range is asked, which takes a third of the time of listening only.
_ANY_NAME = pack_attribute(_ATTR_SCAN_SSIDS, pack_attribute(1, b""))

_READING = 0.05  # seconds that news which has come may take to be read

_HEADER = struct.Struct("=BBxx")  # genlmsghdr: command, version
_U32 = struct.Struct("=I")


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
            self._index = _socket.if_nametoindex(device)
        except OSError:
            raise NetlinkError(errno.ENODEV) from None
        self._device = pack_attribute(_ATTR_IFINDEX, _U32.pack(self._index))
        self._over = False
        self._ours = True
        self._netlink = Netlink(protocol=NETLINK_GENERIC)
        self._news: Netlink | None = None
        try:
            self._family, group = self._find_family()
            # First listen, then begin: the news that it is over may come before the answer that it has begun.
            self._news = Netlink((group,), NETLINK_GENERIC)
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
        self._netlink.close()
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
            self._over = not news or any(kind == self._family and self._is_end(body) for kind, body in news)
        return self._over

    def list_networks(self) -> list[HeardNetwork]:
        """Return what has been heard by now: by this scan, and by whom the kernel has heard in the last 30 s
        (IEEE80211_SCAN_RESULT_EXPIRE, net/wireless/scan.c)."""
        answers = self._netlink.ask(self._family, NLM_F_DUMP, _HEADER.pack(_CMD_GET_SCAN, 1) + self._device)
        heard = (
            parse_network(split_attributes(body[_HEADER.size:]).get(_ATTR_BSS, b""))
            for kind, body in answers
            if kind == self._family
        )
        return [network for network in heard if network is not None]

    def _find_family(self) -> tuple[int, int]:
        """Return the numbers of nl80211 and of its multicast group for scans."""
        body = _HEADER.pack(_CTRL_CMD_GETFAMILY, 1) + pack_attribute(_CTRL_ATTR_FAMILY_NAME, _FAMILY)
        for kind, answer in self._netlink.ask(_GENL_ID_CTRL, 0, body):
            if kind != _GENL_ID_CTRL:
                continue
            attributes = split_attributes(answer[_HEADER.size:])
            for group in split_attributes(attributes.get(_CTRL_ATTR_MCAST_GROUPS, b"")).values():
                found = split_attributes(group)
                if found.get(_CTRL_ATTR_MCAST_GRP_NAME) == _GROUP:
                    return (
                        _read_number(attributes.get(_CTRL_ATTR_FAMILY_ID, b"")[:2]),
                        _read_number(found.get(_CTRL_ATTR_MCAST_GRP_ID, b"")),
                    )
        raise NetlinkError(errno.ENOENT)

    def _begin(self) -> None:
        body = _HEADER.pack(_CMD_TRIGGER_SCAN, 1) + self._device + _ANY_NAME
        try:
            self._netlink.ask(self._family, NLM_F_ACK, body)
        except NetlinkError as error:
            if error.code != errno.EBUSY:
                raise
            self._ours = False

    def _is_end(self, body: bytes) -> bool:
        """Whether news tell of this scan's end; of another's, it may be the same radio by another device."""
        if not body or body[0] not in (_CMD_NEW_SCAN_RESULTS, _CMD_SCAN_ABORTED):
            return False
        index = split_attributes(body[_HEADER.size:]).get(_ATTR_IFINDEX, b"")
        return not self._ours or _read_number(index) == self._index


def parse_network(bss: bytes) -> HeardNetwork | None:
    """Return the network of an NL80211_ATTR_BSS; None where it has no address.  Raises `NetlinkError`."""
    attributes = split_attributes(bss)
    bssid = attributes.get(_BSS_BSSID, b"")
    if len(bssid) != 6:
        return None
    # What it answered when it was asked, else a beacon; one that hides its name sends none there, or zeros.
    elements = (
        *split_elements(attributes.get(_BSS_INFORMATION_ELEMENTS, b"")),
        *split_elements(attributes.get(_BSS_BEACON_IES, b"")),
    )
    ssid = next((name for kind, name in elements if kind == _ELEMENT_SSID and name.strip(b"\0")), b"")
    # Where it does not say, it is not to be taken for one that anybody may join.
    capability = _read_number(attributes[_BSS_CAPABILITY]) if _BSS_CAPABILITY in attributes else _PRIVACY
    return HeardNetwork(ssid[:_LONGEST_SSID], bssid.hex(":"), bool(capability & _PRIVACY))


def _read_number(value: bytes) -> int:
    """Return the number of an attribute: it is as long as it is, in the machine's byte order."""
    return int.from_bytes(value, sys.byteorder)
