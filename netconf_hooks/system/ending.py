"""Ends a process of netconf-hooks: on a signal, at its deadline, or when its work is done.

The handler raises `Ended`, so that the process can clean up.  If an exception is raised while Python runs a destructor,
it is printed and lost ("Exception ignored in ..."; libraries have destructors).  So the alarm is set again, and the
second time the process exits at once.
"""

from __future__ import annotations

import os

from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn
else:
    import _signal as signal  # the same functions; the module signal itself imports enum, 4 ms of every ifup

# The signals that end a hook: from ifdown or systemd (TERM), the admin's Ctrl-C (INT), a closed terminal (HUP), its own
# deadline (ALRM).
ENDING: dict[int, str] = {
    signal.SIGTERM: "SIGTERM",
    signal.SIGINT: "SIGINT",
    signal.SIGHUP: "SIGHUP",
    signal.SIGALRM: "it took too long",
}

# Seconds from the signal until the process exits without cleaning up.
GRACE = 3


class Ended(BaseException):
    """The process must end now: it got a signal, or its time is over."""


class Ending:
    """Raises `Ended` when this process gets a signal to end; `GRACE` seconds later, makes it exit.

    status: the exit status then; may be changed at any time.
    """

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.reason = ""
        for number in ENDING:
            signal.signal(number, self._end)

    def set_alarm(self, seconds: int) -> None:
        """Set the deadline to so many seconds from now; 0: no deadline.

        Raises `Ended` again if it was raised and lost.
        """
        if self.reason:
            raise Ended(self.reason)
        signal.alarm(seconds)

    def _end(self, number: int, frame: object) -> None:
        if self.reason and number != signal.SIGALRM:
            return  # it is already ending
        if self.reason:
            # `Ended` was lost, or the process did not end in time.  Nothing here may wait, not even for the log.
            os._exit(self.status)
        self.reason = ENDING[number]
        signal.alarm(GRACE)
        raise Ended(self.reason)


def leave_with(work: Callable[[Ending], int], status: int, unfinished: str, failed: str, then: str = "") -> NoReturn:
    """Do `work`, and exit with the status that it returns.

    This is the outermost function of a hook and of a forked child: no exception may reach ifupdown, or the code of the
    process that was forked, and none may be lost.  So every exception is logged.

    status: the exit status if an exception was raised; unfinished, failed: the beginning of the log message if the work
    was ended, or if it has failed; then: the end of the message if the work was ended.
    """
    try:
        status = work(Ending(status))
    except Ended as ended:
        log.error(f"{unfinished}: {ended}{then}")
    except BaseException:
        from traceback import format_exc

        log.error(f"{failed}:\n{format_exc()}")
    finally:
        os._exit(status)  # no atexit handler, no flush of a full standard output can change the status
