"""Whether a link is still on the network for which its guard was decided."""

from __future__ import annotations

from netconf_hooks.evidence import fingerprint
from netconf_hooks.evidence.fingerprint import UNREADABLE, parse_fingerprint
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.evidence.fingerprint import Fingerprint
    from netconf_hooks.state import GuardRecord


def is_still_there(record: GuardRecord) -> bool:
    """Whether it is certain that a link is still on the network in its guard's record."""
    try:
        now = fingerprint.read_fingerprint(record.device, outside_ports=record.rules.outside_ports)
        return is_same_network(record.fingerprint, now)
    except NetlinkError as error:
        log.error(f"{record.device}: netconf-guard: the kernel does not say which network this is: {error}")
        return False


def is_same_network(text: str, now: Fingerprint) -> bool:
    """Whether it is certain that a link is on the network of a guard's record: all routers have the same MAC addresses.

    text: the record's fingerprint, as text; now: the link's fingerprint.
    """
    try:
        before = parse_fingerprint(text) if text else None
    except ValueError:
        return False
    certain = UNREADABLE not in now.wireless
    return certain and before is not None and before.is_like(now) and before.macs.items() <= now.macs.items()


def has_left(record: GuardRecord, now: Fingerprint) -> bool:
    """Whether a link has left the network in which a window (captive portal, names, LAN) was opened."""
    try:
        return any(not text or parse_fingerprint(text).is_left(now) for text in _list_fingerprints(record))
    except ValueError:
        return True


def list_window_routers(record: GuardRecord) -> frozenset[str]:
    """Return the routers whose MAC addresses show whether a link has left the network of a window."""
    try:
        known = [parse_fingerprint(text) for text in _list_fingerprints(record) if text]
        return frozenset(router for fingerprint in known for router in fingerprint.macs)
    except ValueError:
        return frozenset()


def _list_fingerprints(record: GuardRecord) -> list[str]:
    """Return the fingerprints of the networks in which windows were opened."""
    return [text for until, text in (
        (record.portal_until, record.portal_fingerprint), (record.dns_until, record.dns_fingerprint),
        (record.lan, record.lan_fingerprint),
    ) if until]  # fmt: skip
