"""Notices that somebody has set the wall clock: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET."""

from __future__ import annotations

import errno
import os
import time

from netconf_hooks.system.libc import call

# linux/timerfd.h, linux/fcntl.h
_ABSOLUTE, _CANCEL_ON_SET = 1, 2
_NON_BLOCKING, _CLOSE_ON_EXEC = os.O_NONBLOCK, os.O_CLOEXEC
_FAR = 2**31  # seconds from now


class Clock:
    """The wall clock.  `fileno` is readable when it was set.  Raises OSError."""

    def __init__(self) -> None:
        self._descriptor = _create_timer()
        self._watch()

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._descriptor

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)

    def was_set(self) -> bool:
        """Return whether the clock was set since the last call."""
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
        self._watch()
        return True

    def _watch(self) -> None:
        """Set a timer that never expires, but is cancelled when the clock is set.

        If the clock was set again since `was_set` has read the timer, the kernel answers ECANCELED, but sets the timer
        all the same (fs/timerfd.c).  `was_set` then reports both changes as one.
        """
        try:
            _set_timer(self._descriptor, time.time() + _FAR)
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise


def _create_timer() -> int:
    if hasattr(os, "timerfd_create"):  # Python 3.13
        descriptor: int = os.timerfd_create(time.CLOCK_REALTIME, flags=_NON_BLOCKING | _CLOSE_ON_EXEC)
        return descriptor
    return call("timerfd_create", time.CLOCK_REALTIME, _NON_BLOCKING | _CLOSE_ON_EXEC)


def _set_timer(descriptor: int, when: float) -> None:
    if hasattr(os, "timerfd_settime"):
        os.timerfd_settime(descriptor, flags=_ABSOLUTE | _CANCEL_ON_SET, initial=when)
        return
    import ctypes

    # struct itimerspec: the interval, the time; each in seconds and nanoseconds.
    until = (ctypes.c_long * 4)(0, 0, int(when), 0)
    call("timerfd_settime", descriptor, _ABSOLUTE | _CANCEL_ON_SET, until, None)
