"""Noticing that the wall clock was set."""

import errno
import os
import select

import pytest

from netconf_hooks.system.clock import Clock


@pytest.fixture(params=["as it is", "before Python 3.13"])
def clock(request, monkeypatch):
    if request.param != "as it is":
        for name in ("timerfd_create", "timerfd_settime"):
            monkeypatch.delattr(os, name, raising=False)
    clock = Clock()
    yield clock
    clock.close()


def test_while_nobody_sets_it_there_is_nothing_to_hear(clock):
    assert select.select([clock.fileno()], [], [], 0) == ([], [], [])
    assert not clock.was_set()


def test_that_it_was_set_is_said_once(clock, monkeypatch):
    """Setting the machine's clock is no test's business: the kernel's answer is made up."""
    answers = [errno.ECANCELED, errno.EAGAIN]

    def read(descriptor, size):
        assert descriptor == clock.fileno()
        code = answers.pop(0)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "read", read)
    assert clock.was_set()
    assert not clock.was_set()


def test_the_clock_set_again_while_the_timer_is_set(monkeypatch):
    """As captured on Debian's kernel 6.1, from a watcher that ended by it: timerfd_settime(2) fails, too."""
    def set_timer(descriptor, when):
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))

    monkeypatch.setattr("netconf_hooks.system.clock._set_timer", set_timer)
    clock = Clock()
    monkeypatch.setattr(os, "read", lambda descriptor, size: set_timer(descriptor, 0))
    assert clock.was_set()
    clock.close()


def test_a_timer_that_cannot_be_set_is_told(monkeypatch):
    def set_timer(descriptor, when):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("netconf_hooks.system.clock._set_timer", set_timer)
    with pytest.raises(OSError, match="Invalid argument"):
        Clock()


def test_other_errors_are_told(clock, monkeypatch):
    def read(descriptor, size):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(OSError, match="Bad file"):
        clock.was_set()
