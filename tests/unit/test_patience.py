"""What somebody at a terminal is told of a wait."""

import os
import pty
import select
import signal
from contextlib import contextmanager

from netconf_hooks.commands import patience
from netconf_hooks.commands.patience import tell_if_slow
from netconf_hooks.system import log


@contextmanager
def terminal():
    """Make standard error a terminal; yield a function that returns what it shows.

    Not a fixture: pytest exchanges the descriptor between a test's setup and the test.
    """
    ours, theirs = pty.openpty()
    kept = os.dup(2)
    os.dup2(theirs, 2)

    def read():
        os.write(theirs, b"END")  # what was written before comes before
        shown = ""
        while not shown.endswith("END"):
            assert select.select([ours], [], [], 20)[0], shown
            shown += os.read(ours, 4096).decode()
        return shown.removesuffix("END")

    try:
        yield read
    finally:
        os.dup2(kept, 2)
        for descriptor in (kept, ours, theirs):
            os.close(descriptor)


def test_a_slow_wait_is_told(monkeypatch):
    monkeypatch.setattr(patience, "SLOW", 0.05)
    with terminal() as shown:
        with tell_if_slow("looking at eth0"):
            signal.pause()
        assert shown() == "netconf-hooks: looking at eth0\r\n"
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_is_waited_for_next_is_told_too(monkeypatch):
    monkeypatch.setattr(patience, "SLOW", 0.05)
    with terminal() as shown:
        with tell_if_slow("looking at eth0") as wait_for:
            wait_for("looking at wlan0")
            signal.pause()
            wait_for("waiting for tunnels")
            signal.pause()
        assert shown() == "netconf-hooks: looking at wlan0\r\nnetconf-hooks: waiting for tunnels\r\n"
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_a_quick_one_is_not():
    with terminal() as shown:
        with tell_if_slow("looking at eth0"):
            pass
        assert shown() == ""


def test_nor_is_it_told_anywhere_but_on_a_terminal(capfd, monkeypatch):
    monkeypatch.setattr(patience, "SLOW", 0.05)
    with tell_if_slow("looking at eth0"):
        signal.pause()
    assert capfd.readouterr() == ("", "")


def test_with_everything_told_it_is_not_told_twice():
    log.set_verbose(True)
    try:
        with terminal() as shown:
            log.tell("raising wlan0")
            assert shown() == ""
    finally:
        log.set_verbose(False)
