"""Which interfaces' records are still true."""

from __future__ import annotations

from netconf_hooks.stanzas.ifenv import device_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from netconf_hooks.state import InterfaceRecord
    from netconf_hooks.system.netlink import LinkStatus


def list_current(records: Iterable[InterfaceRecord]) -> tuple[InterfaceRecord, ...]:
    """Return the records that are still true: the link exists under the same ifindex and has carrier (`ports` says
    when a link made of other links has it).

    A wish has no link; its record is true until its ifdown.
    """
    from netconf_hooks.system.netlink import read_links

    records = tuple(records)
    links = read_links({device_of(record.iface) for record in records if not record.wish})
    return tuple(record for record in records if record.wish or _is_current(record, links.get(device_of(record.iface))))


def _is_current(record: InterfaceRecord, link: LinkStatus | None) -> bool:
    return link is not None and link.index == record.observation.index and _has_carrier(link, record)


def _has_carrier(link: LinkStatus, record: InterfaceRecord) -> bool:
    from netconf_hooks.system.netlink import COMPOSED

    if not link.carrier or link.kind not in COMPOSED:
        return link.carrier
    from netconf_hooks.evidence.ports import has_carrier

    return has_carrier(link, record.rules.outside_ports)
