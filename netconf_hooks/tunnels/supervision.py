"""Decides when a tunnel that should be up is started again, nudged or restarted.

Pure: no clock, no file, no process.  `supervise` gets a tunnel's previous state and the facts seen now, and returns the
new state and the action.  `keeper` carries it out.  netconf-hooks(8), TUNNELS, describes this for admins.
"""

from __future__ import annotations

from netconf_hooks.record import Record
from netconf_hooks.state import TunnelState

LONGEST_PAUSE = 300.0
"""The longest pause between two attempts, in seconds.  The first pause is 1 s, and each is twice the one before."""

FIRM = 60.0
"""If a tunnel was up for so many seconds, its next end counts as the first one: the pauses begin with 1 s again."""

REFUSED_PAUSES = (30.0, 300.0)
"""Seconds until the second and the third attempt with a user name and password that the server has refused.  There is
no fourth attempt: servers lock accounts."""

PROOF = 3.0
"""Seconds within which a tunnel has to receive something after a change of the network."""

NUDGED = 5.0
"""Seconds within which a nudge or a restart has to help: OpenVPN waits for a second before it connects again."""

LISTEN = 10.0
"""Seconds between two inspections of a tunnel whose end no event reports."""

YOUNG = 10.0
"""Seconds that a tunnel has to connect for the first time, even if the network changes meanwhile."""

START, NUDGE, RESTART = "start", "nudge", "restart"


class Facts(Record):
    """The facts about a tunnel that should be up.

    up, running, helpless, final, refused, words, remedies, stuck: as in `tunnels.Condition`.
    audible: whether an event will report its end.
    received: as `tunnels.AnyTunnel.count_received` returns it, None if that is not known.
    news: whether a link has changed, or the machine has slept, since the last time.
    routable: whether there is a default route.
    stamp: identifies the content of its files: it changes when somebody changes them.
    """

    __slots__ = (
        "up", "running", "helpless", "final", "refused", "words", "audible", "remedies", "received", "news",
        "routable", "stamp", "stuck",
    )  # fmt: skip

    def __init__(
        self,
        up: bool | None,
        running: bool,
        helpless: bool = False,
        final: bool = False,
        refused: bool = False,
        words: str = "",
        audible: bool = False,
        remedies: tuple[str, ...] = (),
        received: int | None = None,
        news: bool = False,
        routable: bool = True,
        stamp: str = "",
        stuck: bool = False,
    ) -> None:
        self.up = up
        self.running = running
        self.helpless = helpless
        self.final = final
        self.refused = refused
        self.words = words
        self.audible = audible
        self.remedies = remedies
        self.received = received
        self.news = news
        self.routable = routable
        self.stamp = stamp
        self.stuck = stuck


class Step(Record):
    """The result of `supervise`.

    state: the new state; action: `START`, `NUDGE`, `RESTART`, or empty for nothing; check: the latest time of the next
    inspection, by `state.boot_time`; 0 if an event will report the end.
    """

    __slots__ = ("state", "action", "check")

    def __init__(self, state: TunnelState, action: str, check: float) -> None:
        self.state = state
        self.action = action
        self.check = check


def supervise(before: TunnelState | None, kind: str, name: str, facts: Facts, now: float) -> Step:
    """Return the new state of a tunnel that should be up, and the action.

    before: its previous state, None if there is none; now: by `state.boot_time`.
    """
    state = before or TunnelState(kind, name, since=now)
    up, runs = _is_up(facts), _is_up(facts) or (facts.running and not facts.helpless)
    if state.words != facts.words or bool(state.up_since) != up:
        state = state.change(words=facts.words, since=now)
    if not up:
        # The failures of a tunnel that was up for long enough are forgotten.
        firm = state.up_since and now - state.up_since >= FIRM
        state = state.change(up_since=0.0, failures=0 if firm else state.failures)
    if runs:
        # A tunnel without a previous state was just started, after the network had changed.
        news = facts.news and before is not None
        state = state.change(running_since=state.running_since or now, due=0.0)
        if up:
            state = state.change(up_since=state.up_since or now, refusals=0)
        return _watch_running(state, facts, news, now)
    return _bring_back(state.change(running_since=0.0, doubt=0.0), facts, now)


def describe_state(state: TunnelState, now: float) -> str:
    """Return what a tunnel that should be up waits for, in words; empty if it is up.  now: by `boot_time`."""
    if state.up_since:
        return ""
    words = state.words or "starting"
    if words.startswith(("no answer", "no handshake", "waiting")):
        what, semicolon, more = words.partition(";")
        words = f"{what} for {max(0.0, now - state.since):.0f} s{semicolon}{more}"
    if state.due > now:
        words += f"; the next attempt in {state.due - now:.0f} s"
    elif state.refusals > 2:
        words += "; not tried again until its files or the verdict change"
    return words


def _is_up(facts: Facts) -> bool:
    """Whether a tunnel counts as up: it is up, or it runs and nobody knows whether it is up."""
    return facts.up is True or (facts.up is None and facts.running)


def _watch_running(state: TunnelState, facts: Facts, news: bool, now: float) -> Step:
    """Return the step for a tunnel that runs: it is up, or tries to connect by itself."""
    up = _is_up(facts)
    received = -1 if facts.received is None else facts.received
    if not facts.stuck and up and not state.doubt:
        state = state.change(remedy=0)
    # Unless the network changes, test a stuck tunnel only once: remedies that did not help would not help again.
    if news or (facts.stuck and not state.doubt and not state.remedy):
        begin = now if up else max(now, state.running_since + YOUNG - PROOF)
        state = state.change(doubt=begin, remedy=0, received=received)
    deadline = state.doubt + (NUDGED if state.remedy else PROOF)
    if not state.doubt:
        return Step(state, "", _next_check(state, facts, now))
    # Without a counter, a tunnel that is up and not stuck at the deadline counts as working.  Don't decide that
    # earlier: a request to its server may just be on its way.
    works = up and not facts.stuck and (received != state.received if received >= 0 else now >= deadline)
    if works or (state.remedy >= len(facts.remedies) and now >= deadline):
        state = state.change(doubt=0.0)
        return Step(state, "", _next_check(state, facts, now))
    if not facts.routable:
        # Nothing can arrive: the time begins when there is a default route.
        return Step(state.change(doubt=now), "", now + LISTEN)
    if now < deadline:
        return Step(state, "", deadline)
    action = facts.remedies[state.remedy]
    return Step(state.change(doubt=now, remedy=state.remedy + 1, received=received), action, now + NUDGED)


def _next_check(state: TunnelState, facts: Facts, now: float) -> float:
    """Return when to inspect a tunnel again that runs and is not being tested."""
    if _is_up(facts):
        return 0.0 if facts.audible else now + LISTEN
    # The longer it has not connected, the less often.
    waited = now - state.running_since
    return now + max(1.0, min(waited / 2, LISTEN if waited < LONGEST_PAUSE else 6 * LISTEN))


def _bring_back(state: TunnelState, facts: Facts, now: float) -> Step:
    """Return the step for a tunnel that has ended, or that can't recover by itself."""
    # If no time is set for the next attempt, the tunnel has just ended, or the last attempt has just failed.
    new_end = not state.due
    if facts.stamp != state.stamp:
        # Its files have changed: failures with the old ones don't count.
        if state.stamp:
            state = state.change(refusals=0, failures=0)
            new_end = True
        state = state.change(stamp=facts.stamp)
    given_up = state.refusals > len(REFUSED_PAUSES)
    if facts.final or given_up:
        return Step(state.change(due=0.0), "", now + LISTEN)
    if facts.news and not facts.refused:
        soon = now + 1.0
        state = state.change(failures=0, due=min(state.due, soon) if state.due else soon)
    elif new_end and facts.refused:
        state = state.change(refusals=state.refusals + 1)
        if state.refusals > len(REFUSED_PAUSES):
            return Step(state, "", now + LISTEN)
        state = state.change(due=now + REFUSED_PAUSES[state.refusals - 1])
    elif new_end:
        state = state.change(due=now + min(LONGEST_PAUSE, 2.0 ** min(state.failures, 9)))
    if now < state.due:
        # Inspect it in between: its files may change, or it may come up by itself.
        between = now + LISTEN if facts.refused else now + 6 * LISTEN
        return Step(state, "", min(state.due, between))
    action = NUDGE if facts.running else START
    return Step(state.change(due=0.0, failures=state.failures + 1), action, now + 1.0)
