"""The names of network devices."""

from __future__ import annotations

import os

LONGEST = 15
"""Bytes in a device's name: IFNAMSIZ of linux/if.h, without the final zero."""

_REFUSED = frozenset(b"/:\x7f\x85\xa0").union(range(0x21))


def is_device(name: str) -> bool:
    """Whether a device can have this name (dev_valid_name() in the kernel's net/core/dev.c).

    The kernel allows control characters, too; this does not, because a file or a log would act on them.
    """
    packed = os.fsencode(name)
    return 0 < len(packed) <= LONGEST and name not in (".", "..") and _REFUSED.isdisjoint(packed)
