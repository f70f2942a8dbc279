"""The MTU of a link, which a network's DHCP server may have set: the test ``mtu``."""

from __future__ import annotations

from netconf_hooks.observation import Answer
from netconf_hooks.system.netlink import NetlinkError, read_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from netconf_hooks.evidence import Link


def observe(keys: Collection[str], link: Link, deadline: float) -> dict[str, Answer]:
    """Answer ``mtu``: the kernel's, in bytes.

    deadline: not used, since nothing here waits.
    """
    try:
        status = read_link(link.device)
    except NetlinkError as error:
        return {key: Answer(pending=True, problem=f"the kernel's tables could not be read: {error}") for key in keys}
    if status is None:
        return {key: Answer(problem="no such interface") for key in keys}
    return {key: Answer((str(status.mtu),)) for key in keys}
