"""The one way the tests wait: for a condition, with a deadline, never for a fixed time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Call `condition` until it returns something true, and return that.

    what: what is waited for, for the message of the TimeoutError; timeout: seconds.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    delay = 0.002
    while True:
        asked = time.monotonic()
        value = condition()
        if value:
            return value
        now = time.monotonic()
        if now >= deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}; the last answer was {value!r}")
        # Where an answer takes a program, half of the time is for what is waited for.
        pause.wait(max(delay, min(now - asked, 0.2)))
        delay = min(delay * 1.5, 0.05)
