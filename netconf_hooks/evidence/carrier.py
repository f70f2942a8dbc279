"""Whether the link has carrier: the test ``carrier``."""

from __future__ import annotations

from netconf_hooks.observation import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from netconf_hooks.evidence import Link


def observe(keys: Collection[str], link: Link, deadline: float) -> dict[str, Answer]:
    """Answer ``carrier``: ``yes`` or ``no``.

    deadline: not used: the caller has already waited for carrier before it made `link`.
    """
    if not link.index:
        return {key: Answer(problem="no such interface") for key in keys}
    return {key: Answer(("yes" if link.carrier else "no",)) for key in keys}
