"""The listening process's children: they have a deadline, and are told to end, killed and abandoned."""

import os
import signal
import time

import pytest

from netconf_hooks.system import children
from netconf_hooks.system.children import Child
from tests.lab.waiting import wait_until


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Little patience, and a log that the children share."""
    monkeypatch.setattr(children, "PATIENCE", 0.1)


@pytest.fixture
def start():
    """A function that starts a child; whatever it left is killed in the end."""
    started = []

    def begin(work, limit=60.0, descriptors=()):
        child = Child("do something", limit, work, descriptors)
        started.append(child)
        return child

    yield begin
    for child in started:
        try:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it has ended
        child.close()


def wait_for_end(child):
    """Wait until a child has ended, keeping time meanwhile."""
    def is_over():
        child.keep_time()
        return child.has_ended()

    wait_until(is_over, "the child to end")


def pause(report):
    """Do something that does not end by itself."""
    signal.pause()


def test_it_reports_and_ends(start):
    def work(report):
        report("one")
        report(f"group {os.getpgid(0) == os.getpid()}")

    child = start(work)
    wait_for_end(child)
    assert child.read_report() == ["one", "group True"]
    assert not child.failed and not child.is_abandoned


def test_it_is_not_as_urgent_as_its_parent(start):
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        pytest.skip("real-time priority takes root")
    try:
        child = start(lambda report: report(f"other {os.sched_getscheduler(0) == os.SCHED_OTHER}"))
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    wait_for_end(child)
    assert child.read_report() == ["other True"]


def test_what_its_parent_has_open_it_has_not(start):
    reader, writer = os.pipe()

    def work(report):
        for descriptor in (reader, writer):
            try:
                os.fstat(descriptor)
                report("open")
            except OSError:
                report("closed")

    child = start(work, descriptors=(reader, writer))
    wait_for_end(child)
    assert child.read_report() == ["closed", "closed"]
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_a_mistake_of_ours_ends_it_and_is_told(start, capfd):
    def work(report):
        raise RuntimeError("a bug")

    child = start(work)
    wait_for_end(child)
    assert child.failed
    assert "could not do something" in capfd.readouterr().err


def test_after_its_deadline_it_is_told_to_end(start, messages, monkeypatch):
    monkeypatch.setattr(children, "PATIENCE", 20.0)
    child = start(pause, limit=0.1)
    wait_for_end(child)
    assert child.failed and not child.is_abandoned
    assert messages == [f"error: watch: process {child.pid} could not do something in 0.1 s: SIGTERM"]


def test_one_that_does_not_listen_is_killed(start, messages, monkeypatch):
    # On a busy machine even a process that was killed takes a while to end.
    monkeypatch.setattr(children, "PATIENCE", 20.0)

    def work(report):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        report("deaf")
        signal.pause()

    child = start(work, limit=0.3)
    wait_until(child.read_report, "the child to be deaf")
    wait_until(lambda: child.keep_time() or messages, "the child to be told to end")
    assert not child.has_ended()
    child.next_time = 0.0
    wait_for_end(child)
    assert child.failed and not child.is_abandoned
    assert [message.rpartition(" ")[2] for message in messages] == ["SIGTERM", "SIGKILL"]


def test_one_that_is_stopped_is_killed_with_what_it_has_started(start):
    def work(report):
        grandchild = os.fork()
        if grandchild:
            report(str(grandchild))
        os.kill(os.getpid(), signal.SIGSTOP)

    child = start(work, limit=0.3)
    (grandchild,) = wait_until(child.read_report, "the child to report")
    wait_for_end(child)

    def is_gone():
        try:
            with open(f"/proc/{grandchild}/stat", encoding="ascii") as file:
                return file.read().rpartition(") ")[2][0] in "ZX"
        except FileNotFoundError:
            return True

    wait_until(is_gone, "the grandchild to be gone")


def test_one_that_can_not_be_killed_is_abandoned(start, messages, monkeypatch):
    """No process of a test can be that: the signals come to nothing instead."""
    monkeypatch.setattr(os, "killpg", lambda pid, number: None)
    child = start(pause, limit=0.1)
    wait_until(lambda: child.keep_time() or child.is_abandoned, "the child to be abandoned")
    assert not child.has_ended()
    assert "can't be killed" in messages[-1] and str(child.pid) in messages[-1]


def test_one_that_has_reported_something_has_its_time_again(start, messages):
    def work(report):
        report("told")
        signal.pause()

    child = start(work)
    wait_until(child.read_report, "the child to report")
    child.next_time = 0.0
    child.keep_time()
    assert not child.failed and messages == []
    assert time.monotonic() + 50 < child.next_time <= time.monotonic() + 60
    child.next_time = 0.0
    child.keep_time()
    assert child.failed
