"""Waiting for what nothing in the kernel announces, by looking again and again."""

from __future__ import annotations

from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = 0.2
"""Seconds that a pause may grow to: a wait of minutes is no busy loop."""


def wait_until(condition: Callable[[], object], timeout: float, pause: float = 0.01) -> bool:
    """Return whether `condition` came true within `timeout` seconds.

    It is called at once, then after `pause` seconds, and later less often: what comes true is noticed after at most a
    fifth of the time that it took.
    """
    deadline = monotonic() + timeout
    while not condition():
        left = deadline - monotonic()
        if left <= 0:
            return False
        sleep(min(pause, left))
        pause = max(pause, min(1.2 * pause, _LONGEST))
    return True
