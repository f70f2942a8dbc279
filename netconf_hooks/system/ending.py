"""How a process of ours is ended: by a signal, or when its time is over, and never without that being noticed.

The handler raises `Ended`, so that what was begun is left in order.  An exception that is raised while Python runs a
destructor is printed and lost ("Exception ignored in ...", and python3-nftables has one).  So the alarm rings again,
and the second time the process is left at once.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # the same functions; the module signal itself imports enum, 4 ms of every ifup

# What ends a hook: ifdown or systemd (TERM), the admin's Ctrl-C (INT), a closed terminal (HUP), its own deadline
# (ALRM).
ENDING: dict[int, str] = {
    signal.SIGTERM: "SIGTERM",
    signal.SIGINT: "SIGINT",
    signal.SIGHUP: "SIGHUP",
    signal.SIGALRM: "it took too long",
}

# Seconds that a process has, once it was told to end, until it is left as it is.
GRACE = 3


class Ended(BaseException):
    """The process is to end now: a signal came, or its time is over."""


class Ending:
    """What happens when this process is told to end: `Ended` is raised, and `GRACE` seconds later it is left.

    status: the exit status with which it is left; may be changed at any time.
    """

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.reason = ""
        for number in ENDING:
            signal.signal(number, self._end)

    def set_alarm(self, seconds: int) -> None:
        """Give this process so many seconds more; 0: no limit.  Raises `Ended` where that was raised and lost."""
        if self.reason:
            raise Ended(self.reason)
        signal.alarm(seconds)

    def _end(self, number: int, frame: object) -> None:
        if self.reason and number != signal.SIGALRM:
            return  # it is ending already
        if self.reason:
            # Lost, or not followed in time.  Nothing here may wait, not even for the log.
            os._exit(self.status)
        self.reason = ENDING[number]
        signal.alarm(GRACE)
        raise Ended(self.reason)
