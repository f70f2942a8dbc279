"""The wireless networks in range, by a scan: for guessnet's ``wireless`` tests, before there is any network.

This uses pyroute2 (0.7.2 to 0.8.1).  Its import takes a tenth of a second or more, but a scan takes seconds anyway.
The current network of a link is read without it: `system.nl80211` says why.
"""

from __future__ import annotations

import _socket
import errno
import select
import struct
import sys
from contextlib import ExitStack, contextmanager
from time import monotonic

from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, genlmsg, nlmsg
from pyroute2.netlink.exceptions import NetlinkDecodeError, NetlinkError as Refusal
from pyroute2.netlink.generic import GenericNetlinkSocket

from netconf_hooks.record import Record
from netconf_hooks.system.netlink import (
    ANSWER_PATIENCE, TABLE_PATIENCE, NetlinkError, pack_attribute, read_number, split_attributes
)  # fmt: skip
from netconf_hooks.system.nl80211 import (
    ATTR_BSS, ATTR_IFINDEX, ATTR_SCAN_SSIDS, BSS_BSSID, BSS_CAPABILITY, CMD_GET_SCAN, CMD_NEW_SCAN_RESULTS,
    CMD_SCAN_ABORTED, CMD_TRIGGER_SCAN, find_ssid
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PRIVACY = 0x10  # IEEE 802.11-2020, 9.4.1.4

# An active scan for any name: it asks all access points in range, and takes a third of the time of a passive one.
_ANY_NAME = pack_attribute(1, b"")


class _Message(genlmsg):  # type: ignore[misc]  # pyroute2 has no types
    """A message of nl80211.

    pyroute2 leaves data from the air as bytes here.  Its own decoder would take the last of several names, not the
    first, and read beyond the end.
    """

    nla_map = ((ATTR_IFINDEX, "index", "uint32"), (ATTR_SCAN_SSIDS, "names", "cdata"), (ATTR_BSS, "bss", "cdata"))


class _Socket(GenericNetlinkSocket):  # type: ignore[misc]
    """A socket of generic netlink that never waits longer than `ANSWER_PATIENCE`."""

    module_err_level = "debug"  # don't print that the kernel has no nl80211

    def post_init(self) -> None:
        """Open the socket; bind() calls this again if its first port is taken."""
        super().post_init()
        self.settimeout(ANSWER_PATIENCE)

    def ask(self, command: int, flags: int, *attributes: tuple[str, object]) -> tuple[nlmsg, ...]:
        """Return the answers to a request."""
        deadline = monotonic() + TABLE_PATIENCE

        def check(answer: nlmsg) -> None:
            """Raise the error that a list ends with, which pyroute2 ignores; and ETIMEDOUT if it does not end."""
            code = errno.ETIMEDOUT if monotonic() >= deadline else 0
            if answer["header"]["type"] == NLMSG_DONE:
                code = abs(int.from_bytes(answer.data[answer.offset + 16:][:4], sys.byteorder, signed=True))
            if code:
                raise NetlinkError(code)

        message = _Message()
        message.update(cmd=command, version=1, attrs=list(attributes))
        # Not by nlm_request(), which repeats a request for 9 s if it is refused with EBUSY.
        self.put(message, self.prid, NLM_F_REQUEST | flags, msg_seq=command)
        answers: tuple[nlmsg, ...] = self.get(msg_seq=command, terminate=check)
        return answers


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn all that pyroute2 raises into a `NetlinkError`."""
    try:
        yield
    except OSError as error:
        raise NetlinkError(error.errno or errno.ETIMEDOUT) from None  # a TimeoutError of a socket has no number
    except Refusal as error:
        raise NetlinkError(error.code) from None
    except (NetlinkDecodeError, LookupError, struct.error):
        raise NetlinkError(errno.EBADMSG) from None


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

    @_translate_errors()
    def __init__(self, device: str) -> None:
        try:
            self._index = _socket.if_nametoindex(device)
        except OSError:
            raise NetlinkError(errno.ENODEV) from None
        self._over = False
        self._ours = True
        with ExitStack() as sockets:
            # Listen first, then start the scan: the event of its end may come before the reply to its start.
            self._news, self._requests = (sockets.enter_context(_Socket()) for _ in range(2))
            for socket in (self._news, self._requests):
                socket.bind("nl80211", _Message)
            self._news.add_membership("scan")
            try:
                self._requests.ask(CMD_TRIGGER_SCAN, NLM_F_ACK, ("index", self._index), ("names", _ANY_NAME))
            except Refusal as error:
                if error.code != errno.EBUSY:
                    raise
                self._ours = False
            self._sockets = sockets.pop_all()

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; a running scan continues."""
        self._sockets.close()

    def fileno(self) -> int:
        """Return the descriptor for poll(2): call `is_over` when it is readable."""
        return int(self._news.fileno())

    @_translate_errors()
    def is_over(self) -> bool:
        """Return whether the scan has ended or was aborted.  Does not wait."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        try:
            while not self._over and poll.poll(0):
                self._over = any(map(self._is_end, self._news.get()))
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._over = True  # events were lost, possibly this one
        return self._over

    @_translate_errors()
    def list_networks(self) -> list[HeardNetwork]:
        """Return the networks heard so far, by this scan or in the last 30 s (IEEE80211_SCAN_RESULT_EXPIRE,
        net/wireless/scan.c)."""
        for _ in range(3):
            answers = self._requests.ask(CMD_GET_SCAN, NLM_F_DUMP, ("index", self._index))
            if not any(answer["header"]["flags"] & NLM_F_DUMP_INTR for answer in answers):
                break
        heard = (parse_network(answer.get_attr("bss", b"")) for answer in answers)
        return [network for network in heard if network is not None]

    def _is_end(self, event: nlmsg) -> bool:
        """Whether an event reports the end of this scan; it may also be another device of the same radio."""
        return (
            event["header"]["type"] == self._news.prid
            and event["cmd"] in (CMD_NEW_SCAN_RESULTS, CMD_SCAN_ABORTED)
            and (not self._ours or event.get_attr("index") == self._index)
        )


def parse_network(bss: bytes) -> HeardNetwork | None:
    """Return the network of an NL80211_ATTR_BSS; None if it has no address.  Raises `NetlinkError`."""
    attributes = split_attributes(bss)
    bssid = attributes.get(BSS_BSSID, b"")
    if len(bssid) != 6:
        return None
    # If it does not say whether it is closed, don't take it for an open network.
    capability = read_number(attributes[BSS_CAPABILITY]) if BSS_CAPABILITY in attributes else _PRIVACY
    return HeardNetwork(find_ssid(attributes), bssid.hex(":"), bool(capability & _PRIVACY))
