"""Polling for conditions that the kernel sends no event for."""

from __future__ import annotations

from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = 0.2
"""The longest pause, in seconds: a wait of minutes must not be a busy loop."""


def wait_until(condition: Callable[[], object], timeout: float, pause: float = 0.01) -> bool:
    """Return whether `condition` came true within `timeout` seconds.

    It is called at once, then after `pause` seconds, and later less often: a change is noticed with a delay of at most
    a fifth of the time that it took.
    """
    deadline = monotonic() + timeout
    while not condition():
        left = deadline - monotonic()
        if left <= 0:
            return False
        sleep(min(pause, left))
        pause = max(pause, min(1.2 * pause, _LONGEST))
    return True
