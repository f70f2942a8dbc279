"""Requests to the kernel about a wireless device: nl80211, a family of generic netlink.

This is a client of our own, not pyroute2, which only the scan before there is a network uses (`evidence.scan`).  The
watcher reads the current network on each event, before it decides whether a guard stays open; it must be fast and take
less than 20 MB.  pyroute2 was measured in the versions of Debian 12, 13 and forky (0.7.2, 0.7.7 and 0.8.1):

- Importing any part of it takes 80 to 450 ms of a PC's processor time and 26 to 29 MB, because `pyroute2/__init__.py`
  loads all of its modules.
- If a beacon has two SSID elements, it returns the last one, but wpa_supplicant and the kernel use the first one.  So
  an open network that the laptop knows could match ``netconf-location office ssid=...``.
- It reads elements beyond the end of their attribute, and if an element has the wrong length, it returns the whole
  attribute undecoded.

Numbers and layouts are those of linux/genetlink.h and linux/nl80211.h, a stable kernel interface.
"""

from __future__ import annotations

import errno
import struct

from netconf_hooks.system.netlink import (
    NETLINK_GENERIC, Netlink, NetlinkError, pack_attribute, read_number, split_attributes
)  # fmt: skip

CMD_GET_KEY, CMD_GET_SCAN, CMD_TRIGGER_SCAN, CMD_NEW_SCAN_RESULTS, CMD_SCAN_ABORTED = 9, 32, 33, 34, 35
ATTR_IFINDEX, ATTR_MAC, ATTR_KEY_IDX, ATTR_KEY_CIPHER, ATTR_SCAN_SSIDS, ATTR_BSS = 3, 6, 8, 9, 45, 47
BSS_BSSID, BSS_CAPABILITY, BSS_STATUS, BSS_MLD_ADDR = 1, 5, 9, 22
_BSS_INFORMATION_ELEMENTS, _BSS_BEACON_IES = 6, 11

_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2
_NAME = b"nl80211\0"

_ELEMENT_SSID, _LONGEST_SSID = 0, 32  # IEEE 802.11-2020, 9.4.2.2

_HEADER = struct.Struct("=BBxx")  # genlmsghdr: command, version
_U32 = struct.Struct("=I")


class Nl80211:
    """Requests about the wireless device with this ifindex (context manager).  All raise `NetlinkError`.

    The error is ENOENT if the kernel has no wireless devices.
    """

    def __init__(self, index: int) -> None:
        self._device = pack_attribute(ATTR_IFINDEX, _U32.pack(index))
        self._netlink = Netlink(protocol=NETLINK_GENERIC)
        try:
            # The numbers of families vary; only the family "nlctrl", which reports them, has a fixed number.
            name = pack_attribute(_CTRL_ATTR_FAMILY_NAME, _NAME)
            answers = self._ask(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, name)
            if not answers:
                raise NetlinkError(errno.ENOENT)
            self._family = read_number(answers[0].get(_CTRL_ATTR_FAMILY_ID, b"")[:2])
        except NetlinkError:
            self.close()
            raise

    def __enter__(self) -> Nl80211:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def ask(self, command: int, attributes: bytes = b"", flags: int = 0) -> list[dict[int, bytes]]:
        """Return the attributes of each answer.  attributes, flags: as for `Netlink.ask`; the device is added."""
        return self._ask(self._family, command, self._device + attributes, flags)

    def _ask(self, family: int, command: int, attributes: bytes, flags: int = 0) -> list[dict[int, bytes]]:
        answers = self._netlink.ask(family, flags, _HEADER.pack(command, 1) + attributes)
        return [split_attributes(body[_HEADER.size:]) for kind, body in answers if kind == family]


def read_elements(bss: dict[int, bytes]) -> list[tuple[int, bytes]]:
    """Return the elements that a station announces, in its last answer to a probe, if any, and in its last beacon.

    bss: the attributes of an NL80211_ATTR_BSS.
    """
    return [
        *split_elements(bss.get(_BSS_INFORMATION_ELEMENTS, b"")),
        *split_elements(bss.get(_BSS_BEACON_IES, b"")),
    ]


def find_ssid(bss: dict[int, bytes]) -> bytes:
    """Return the name of a network, empty if it is hidden.

    If a frame has several names, only the first counts, even if it is blank: wpa_supplicant and the kernel
    (cfg80211_find_elem) use this one.
    An access point with a hidden name sends it only to a station that asks for this name (IEEE 802.11-2020,
    11.1.4.3.4); its beacons have no name, or zeros instead.

    bss: the attributes of an NL80211_ATTR_BSS.
    """
    for source in (_BSS_INFORMATION_ELEMENTS, _BSS_BEACON_IES):
        elements = split_elements(bss.get(source, b""))
        name = next((content for kind, content in elements if kind == _ELEMENT_SSID), b"")
        if name.strip(b"\0"):
            return name[:_LONGEST_SSID]
    return b""


def split_elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return the elements of a beacon, number and content, up to the first that is cut off.

    data: as received; any station in range may have sent it.
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
