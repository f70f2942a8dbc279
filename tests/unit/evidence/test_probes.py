"""The loop that runs all conversations at once; the conversations here are made up."""

from __future__ import annotations

import os
import select
import time

import pytest

from netconf_hooks.evidence import Link, probes, reach
from netconf_hooks.evidence.probes import Outcome, Wait, ask_network
from netconf_hooks.observation import Answer
from netconf_hooks.place import Question
from netconf_hooks.system.netlink import NetlinkError

LINK = Link("eth0", "eth0", 7, True, {})
SHORT = 0.2


class Script:
    """Conversations by the value of their question; each is told, and `log` keeps what happened."""

    def __init__(self):
        self.log = []
        self.answers = {}
        self.values = []

    def ask(self, question, view):
        """As an observer's."""
        self.log.append(f"begin {question.value}")
        try:
            return (yield from getattr(self, f"_{question.value}")(view))
        finally:
            self.log.append(f"end {question.value}")

    def run(self, *values, patience=SHORT, wanted=None):
        """Ask for the values, as long as they are not settled, or as `wanted` says; return how long it took."""
        def find():
            settled = self.answers.get("reach", Answer()).settled
            return [Question("reach", value) for value in (wanted() if wanted else values) if value not in settled]

        began = time.monotonic()
        ask_network(find, self.answers, LINK, began + patience)
        return time.monotonic() - began

    def _yes(self, view):
        return Outcome(("yes",))
        yield

    def _no(self, view):
        yield Wait({}, 0.0)
        return Outcome(refuted=True, problem="refused")

    def _silent(self, view):
        yield Wait({}, view.deadline)
        return Outcome(refuted=True, problem="silent")

    def _endless(self, view):
        while True:
            yield Wait({}, time.monotonic() + 0.01)

    def _denied(self, view):
        yield Wait({}, 0.0)
        raise PermissionError(1, "no")

    def _broken(self, view):
        raise OSError(5, "Input/output error")
        yield

    def _deaf(self, view):
        raise NetlinkError(105)
        yield

    def _pipe(self, view):
        self.reader, self.writer = os.pipe()
        ready = yield Wait({self.reader: select.POLLIN}, view.deadline)
        return Outcome(("pipe",) if self.reader in ready else ())

    def _writer(self, view):
        yield Wait({}, time.monotonic() + 0.01)
        os.write(self.writer, b"x")
        return Outcome(("writer",))


@pytest.fixture
def script(monkeypatch):
    script = Script()
    monkeypatch.setattr(reach, "ask", script.ask)
    return script


def test_nothing_asked_takes_no_time(script):
    assert script.run() < SHORT
    assert script.answers == {}


def test_all_that_comes_of_a_key_is_one_answer(script):
    assert script.run("yes", "no") < SHORT
    assert script.answers == {
        "reach": Answer(("yes",), settled=("yes", "no"), refuted=("no",), problem="no: refused")
    }


def test_all_run_at_once_and_the_deadline_ends_them(script):
    took = script.run("silent", "endless", "no")
    assert SHORT <= took < 2 * SHORT + probes.GRACE
    assert script.log[:3] == ["begin silent", "begin endless", "begin no"]
    assert sorted(script.log[3:]) == ["end endless", "end no", "end silent"]
    answer = script.answers["reach"]
    assert answer.refuted == ("no", "silent")
    assert set(answer.settled) == {"no", "silent", "endless"}
    assert "endless: it did not come to an end in time" in answer.problem


def test_what_goes_wrong_is_told_and_proves_nothing(script):
    script.run("denied", "broken", "deaf")
    answer = script.answers["reach"]
    assert (answer.values, answer.refuted) == ((), ())
    assert set(answer.settled) == {"denied", "broken", "deaf"}
    for problem in ("denied: asking takes root", "broken: Input/output error", "deaf: the kernel's tables could not"):
        assert problem in answer.problem


def test_descriptors_wake_their_conversation(script):
    took = script.run("pipe", "writer", patience=5)
    assert took < 2
    assert script.answers["reach"].values == ("writer", "pipe")
    os.close(script.reader)
    os.close(script.writer)


def test_what_is_no_longer_wanted_is_dropped_and_what_is_new_is_begun(script):
    def wanted():
        return ["no"] if "yes" in script.answers.get("reach", Answer()).values else ["silent", "yes"]

    assert script.run(wanted=wanted, patience=5) < 2
    assert script.log == ["begin silent", "begin yes", "end yes", "end silent", "begin no", "end no"]
    assert script.answers["reach"].settled == ("yes", "no")


def test_without_time_nothing_is_asked(script):
    script.run("yes", patience=0)
    assert script.log == []
    assert script.answers == {"reach": Answer(pending=True, problem="yes: no time left to ask")}


class Ended(BaseException):
    """As of a signal's handler."""


def test_whoever_ends_the_loop_closes_what_is_open(script):
    def stop(view):
        yield Wait({}, 0.0)
        raise Ended

    script._stop = stop
    with pytest.raises(Ended):
        script.run("silent", "stop")
    assert script.log == ["begin silent", "begin stop", "end stop", "end silent"]
