"""Shows on a terminal what a command is waiting for."""

from __future__ import annotations

import signal
from contextlib import contextmanager

from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOW = 1.0
"""Seconds after which it is shown."""


@contextmanager
def tell_if_slow(message: str) -> Iterator[Callable[[str], None]]:
    """Show `message` on a terminal if the block takes longer than `SLOW` (context manager).

    The block gets a function that replaces the message by another one.
    """

    def wait_for(what: str) -> None:
        signal.signal(signal.SIGALRM, lambda *_: log.tell(what))
        signal.setitimer(signal.ITIMER_REAL, SLOW)

    before = signal.getsignal(signal.SIGALRM)
    wait_for(message)
    try:
        yield wait_for
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
