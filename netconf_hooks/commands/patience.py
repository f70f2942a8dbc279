"""Telling somebody at a terminal what a command waits for."""

from __future__ import annotations

import signal
from contextlib import contextmanager

from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW = 1.0
"""Seconds after which it is told."""


@contextmanager
def tell_if_slow(message: str) -> Iterator[None]:
    """Tell `message`, on a terminal, if the block takes longer than `SLOW`."""
    before = signal.signal(signal.SIGALRM, lambda *_: log.tell(message))
    signal.setitimer(signal.ITIMER_REAL, SLOW)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
