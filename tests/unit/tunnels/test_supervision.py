"""When a tunnel is started again, nudged or restarted: what the manual says, and what must never happen."""

from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.tunnels.supervision import (
    FIRM, Facts, LISTEN, LONGEST_PAUSE, NUDGE, NUDGED, PROOF, RESTART, START, YOUNG, describe_state, supervise
)  # fmt: skip

ENDED = Facts(False, False, words="it was ended by signal 9")
REFUSED = Facts(False, False, words="refused", refused=True, stamp="1")
UP = Facts(True, True, audible=True, remedies=(NUDGE, RESTART), received=100)
TRYING = Facts(False, True, audible=True, words="no answer", remedies=(NUDGE, RESTART))


def change(facts, **fields):
    """Return facts that differ in some fields."""
    return facts.change(**fields)


class Run:
    """A tunnel over time: what is done about it, and when."""

    def __init__(self, now=1000.0):
        self.now = now
        self.state = None
        self.done = []

    def see(self, facts, after=0.0):
        """See `facts` so many seconds later; return the step."""
        self.now += after
        step = supervise(self.state, "openvpn", "corp", facts, self.now)
        self.state = step.state
        if step.action:
            self.done.append((self.now, step.action))
        return step

    def live(self, facts, seconds):
        """See the same until so many seconds are over, whenever it says to look again; return what was done when,
        counted from now."""
        begin, self.done = self.now, []
        step = self.see(facts)
        while step.check and step.check <= begin + seconds:
            assert step.check > self.now, "a busy loop"
            self.now = step.check
            step = self.see(change(facts, news=False))
        self.now = begin + seconds
        return [(round(when - begin), action) for when, action in self.done]


def pauses(done):
    """Return the seconds between attempts."""
    times = [when for when, _ in done]
    return [b - a for a, b in zip(times, times[1:], strict=False)]


def test_what_has_ended_is_started_after_1_2_4_seconds_up_to_300():
    done = Run().live(ENDED, 3000)
    assert {action for _, action in done} == {START}
    assert done[0] == (1, START)
    # Each failure is noticed a second after the attempt.
    assert pauses(done)[:8] == [3, 5, 9, 17, 33, 65, 129, 257]
    assert set(pauses(done)[8:]) == {301}


def test_once_it_was_up_for_a_minute_it_begins_anew():
    run = Run()
    run.live(ENDED, 100)
    run.see(UP)
    assert run.live(ENDED.change(), 1000)[0][0] > 1  # it was up for a moment only
    run = Run()
    run.live(ENDED, 100)
    run.see(UP)
    run.see(UP, after=FIRM)
    assert run.live(ENDED, 10)[0] == (1, START)


def test_news_of_a_link_bring_the_next_attempt_forward():
    run = Run()
    run.live(ENDED, 1000)
    assert run.live(change(ENDED, news=True), 10)[:2] == [(1, START), (4, START)]


def test_a_refused_password_is_tried_three_times_in_all():
    run = Run()
    assert run.live(REFUSED, 40000) == [(30, START), (331, START)]
    assert "not tried again" in describe_state(run.state, run.now)
    assert run.live(change(REFUSED, news=True), 1000) == []
    # Whatever the log says by now.
    assert run.live(change(ENDED, stamp="1"), 1000) == []
    assert run.live(change(REFUSED, stamp="2"), 40000)[0] == (30, START)


def test_what_must_not_be_started_again_is_left():
    assert Run().live(change(ENDED, final=True), 3000) == []


def test_what_tries_by_itself_is_left_alone():
    assert Run().live(TRYING, 3000) == []


def test_what_is_up_and_can_be_heard_needs_no_question():
    step = Run().see(UP)
    assert (step.action, step.check) == ("", 0.0)
    assert Run(5.0).see(change(UP, audible=False)).check == 5.0 + LISTEN


def test_what_works_after_a_change_is_not_touched():
    run = Run()
    run.see(UP)
    step = run.see(change(UP, news=True), after=100)
    assert step.check == run.now + PROOF
    step = run.see(change(UP, received=101), after=PROOF)
    assert (step.action, step.check, run.done) == ("", 0.0, [])


def test_what_does_not_is_nudged_and_then_restarted_and_then_left():
    run = Run()
    run.see(UP)
    run.now += 100
    assert run.live(change(UP, news=True), 3000) == [(PROOF, NUDGE), (PROOF + NUDGED, RESTART)]
    run.now += 100
    assert run.live(change(UP, news=True), 3000) == [(PROOF, NUDGE), (PROOF + NUDGED, RESTART)]


def test_a_nudge_that_helps_is_enough():
    run = Run()
    run.see(UP)
    run.see(change(UP, news=True), after=100)
    assert run.see(UP, after=PROOF).action == NUDGE
    assert run.see(TRYING, after=1.0).action == ""
    assert run.see(change(UP, received=7), after=1.0).action == ""
    assert run.live(UP, 1000) == []


def test_without_a_way_nothing_is_demanded():
    run = Run()
    run.see(UP)
    assert run.live(change(UP, news=True, routable=False), 100) == []
    assert run.see(UP, after=PROOF).action == NUDGE


def test_where_nothing_can_be_told_nothing_is_demanded():
    run = Run()
    run.see(UP)
    assert run.live(change(UP, news=True, received=None), 100) == []


def test_one_whose_server_does_not_answer_is_restarted_once():
    """IPsec: nothing can be counted, but the daemon says that it waits for an answer."""
    quiet = change(UP, received=None, audible=False)
    stuck = change(quiet, stuck=True)
    run = Run()
    run.see(quiet)
    assert run.live(change(quiet, news=True), 100) == []
    # The exchange begins a moment after the news.
    run.see(change(quiet, news=True))
    assert run.live(stuck, 3000) == [(PROOF, NUDGE), (PROOF + NUDGED, RESTART)]
    run.live(quiet, 100)
    assert run.live(stuck, 3000) == [(PROOF, NUDGE), (PROOF + NUDGED, RESTART)], "also without news"


def test_an_exchange_that_is_answered_in_time_is_none_to_worry_about():
    quiet = change(UP, received=None)
    run = Run()
    run.see(quiet)
    run.see(change(quiet, news=True, stuck=True), after=10)
    assert run.live(quiet, 100) == []
    run.see(change(quiet, stuck=True))
    run.see(change(quiet, stuck=True), after=1)
    assert run.live(quiet, 100) == []


def test_one_that_was_just_started_is_left_to_connect():
    run = Run()
    run.see(TRYING)
    assert run.live(change(TRYING, news=True), 100) == [(YOUNG, NUDGE), (YOUNG + NUDGED, RESTART)]
    # The news that its own link made come with the first look.
    assert Run().live(change(TRYING, news=True), 100) == []


def test_one_that_waits_for_somebody_is_not_disturbed():
    run = Run()
    run.see(change(TRYING, remedies=()))
    assert run.live(change(TRYING, news=True, remedies=()), 1000) == []


def test_what_can_not_recover_by_itself_is_nudged_now_and_then():
    helpless = Facts(False, True, helpless=True, words="no handshake", remedies=(NUDGE,))
    done = Run().live(helpless, 1500)
    assert {action for _, action in done} == {NUDGE}
    assert (done[0][0], max(pauses(done))) == (1, LONGEST_PAUSE + 1)


def test_it_says_what_it_waits_for():
    run = Run()
    run.see(TRYING)
    assert describe_state(run.state, run.now + 12) == "no answer for 12 s"
    run.see(change(TRYING, words="no answer; its server is here"))
    assert describe_state(run.state, run.now + 12) == "no answer for 12 s; its server is here"
    run.see(ENDED)
    assert describe_state(run.state, run.now) == "it was ended by signal 9; the next attempt in 1 s"
    run.see(UP)
    assert describe_state(run.state, run.now) == ""


WORDS = st.sampled_from(["", "no answer", "refused"])
ANY_FACTS = st.builds(
    Facts,
    st.sampled_from([True, False, None]),
    st.booleans(),
    helpless=st.booleans(),
    final=st.booleans(),
    refused=st.booleans(),
    words=WORDS,
    audible=st.booleans(),
    remedies=st.sampled_from([(), (NUDGE,), (NUDGE, RESTART)]),
    received=st.sampled_from([None, 0, 1]),
    news=st.booleans(),
    routable=st.booleans(),
    stamp=st.sampled_from(["", "1", "2"]),
)


@given(st.lists(st.tuples(ANY_FACTS, st.floats(0.0, 500.0)), max_size=40))
def test_whatever_happens(history):
    run = Run()
    for facts, pause in history:
        step = run.see(facts, after=pause)
        up = facts.up is True or (facts.up is None and facts.running)
        # It always says when to look again, unless its end will be heard, and never "now".
        assert step.check > run.now or (step.check == 0.0 and up and facts.audible)
        assert step.check <= run.now + max(LONGEST_PAUSE, YOUNG + NUDGED)
        if step.action == START:
            assert not facts.running and not up
        if step.action == RESTART:
            assert facts.running and RESTART in facts.remedies
        if facts.final and not facts.running and not up:
            assert not step.action
        assert bool(run.state.up_since) == up


@given(st.lists(st.tuples(ANY_FACTS, st.floats(0.0, 500.0)), max_size=20), ANY_FACTS)
def test_in_the_long_run_there_is_an_attempt_in_five_minutes_at_most(history, facts):
    run = Run()
    for other, pause in history:
        run.see(other, after=pause)
    run.live(facts, 2000)
    assert all(pause >= LONGEST_PAUSE - 1 for pause in pauses(run.live(change(facts, news=False), 3000)))
