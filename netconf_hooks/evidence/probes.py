"""Questions that send packets or run a program: all that are needed run at the same time, in one poll(2) loop.

Each question is a generator (`Steps`) that yields what it waits for and returns an `Outcome`.  So a conversation of
several steps (resolve a name, connect, shake hands) reads from top to bottom and does not block the others.

All questions have one deadline.  If a peer or server was asked and has not answered until then, that is a no.
Otherwise a café could keep a link undecided by silence, and ``!peer=`` could never hold, since no host answers ARP with
"not here".  A question that could not be asked at all (no address, no route, no resolver) is neither yes nor no.
"""

from __future__ import annotations

import select
import time

from netconf_hooks.observation import Answer
from netconf_hooks.record import Record
from netconf_hooks.stanzas.rules import TESTS
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from typing import TypeVar

    from netconf_hooks.evidence import Link
    from netconf_hooks.place import Question

    T = TypeVar("T")
    Conversation = Generator["Wait", frozenset[int], T]
    Steps = Conversation["Outcome"]
    Announce = Callable[[str, str, str, int], None]

LEAST = 0.02
"""Seconds that must be left to ask a question: if nobody can answer in time, silence would count as a no."""

GRACE = 0.2
"""A conversation that does not end by itself is ended so many seconds after the deadline."""


class Outcome(Record):
    """The result of a question.

    seen: what was seen, as `Answer.values`; if the test holds, the value itself.
    refuted: whether it was asked and the answer is no.  settled: whether asking again now is useless.
    problem: why the test does not hold; empty if there is nothing to say.
    """

    __slots__ = ("seen", "refuted", "settled", "problem")

    def __init__(
        self, seen: tuple[str, ...] = (), refuted: bool = False, settled: bool = True, problem: str = ""
    ) -> None:
        self.seen = seen
        self.refuted = refuted
        self.settled = settled
        self.problem = problem


class Wait(Record):
    """What a conversation waits for: events (POLLIN, POLLOUT, poll(2)) by descriptor, or time.monotonic() `until`."""

    __slots__ = ("events", "until")

    def __init__(self, events: Mapping[int, int], until: float) -> None:
        self.events = events
        self.until = until


def announce_nothing(device: str, protocol: str, address: str, port: int) -> None:
    """Do nothing: there is no guard that has to know the packets."""


class View:
    """What all questions of a round share: the link, the deadline, and data that is read once when it is needed.

    announce: called before a packet is sent (except ARP and neighbour discovery), with its device, protocol (``udp``,
    ``tcp``), address and port, so that a guard can allow it.
    """

    def __init__(self, link: Link, deadline: float, announce: Announce = announce_nothing) -> None:
        self.link = link
        self.deadline = deadline
        self.announce = announce
        self._networks: tuple[tuple[str, int], ...] | None = None
        self._resolvers: Answer | None = None

    def until(self, deadline: float) -> View:
        """Return the same view with an earlier deadline, time.monotonic()."""
        view = View(self.link, min(deadline, self.deadline), self.announce)
        view._networks, view._resolvers = self.networks, self.resolvers
        return view

    @property
    def networks(self) -> tuple[tuple[str, int], ...]:
        """The link's own addresses, each with the length of its prefix."""
        if self._networks is None:
            from netconf_hooks.evidence.address import list_networks

            self._networks = list_networks(self.link.device)
        return self._networks

    @property
    def resolvers(self) -> Answer:
        """The name servers that this link announced."""
        if self._resolvers is None:
            from netconf_hooks.evidence.dns import observe

            self._resolvers = observe(("dns-server",), self.link, self.deadline)["dns-server"]
        return self._resolvers


class _Talk:
    """A conversation, started if there was time for it; `outcome` is None until it has ended."""

    def __init__(self, question: Question, view: View) -> None:
        from importlib import import_module

        self.question = question
        self.outcome: Outcome | None = None
        self.wait = Wait({}, 0.0)
        self._steps: Steps | None = None
        if view.deadline - time.monotonic() < LEAST:
            self.outcome = Outcome(settled=False, problem="no time left to ask")
            return
        module = import_module(f"netconf_hooks.evidence.{TESTS[question.key].observer}")
        self._steps = module.ask(question, view)
        self.go_on(None)

    def go_on(self, ready: frozenset[int] | None) -> None:
        """Take the next step.  ready: the descriptors on which something happened; None for the first step."""
        if self._steps is None:
            return
        try:
            self.wait = self._steps.send(ready)  # type: ignore[arg-type]  # None begins a generator
        except StopIteration as end:
            self.outcome = end.value
        except PermissionError:
            self.outcome = Outcome(problem="asking takes root")
        except OSError as error:
            self.outcome = Outcome(problem=error.strerror or str(error))
        except NetlinkError as error:
            self.outcome = Outcome(problem=f"the kernel's tables could not be read: {error}")

    def close(self) -> None:
        """End the conversation, which closes what it has opened."""
        if self._steps is not None:
            self._steps.close()


def ask_network(
    find_questions: Callable[[], Sequence[Question]],
    answers: dict[str, Answer],
    link: Link,
    deadline: float,
    announce: Announce = announce_nothing,
) -> None:
    """Ask the questions that `find_questions` returns, and write the results into `answers`, until there is none left.

    `find_questions` is called again after each answer: a question that it no longer returns is dropped, a new one is
    started.  deadline: the time.monotonic() at which all end.  announce: as of `View`.
    """
    view = View(link, deadline, announce)
    talks: dict[Question, _Talk] = {}
    over: set[Question] = set()
    try:
        while True:
            wanted = [question for question in find_questions() if question not in over]
            for question in talks.keys() - set(wanted):
                talks.pop(question).close()
            for question in wanted:
                if question not in talks:
                    talks[question] = _Talk(question, view)
            ended = [talk for talk in talks.values() if talk.outcome is not None]
            for talk in ended:
                del talks[talk.question]
                over.add(talk.question)
                _note(answers, talk.question, talk.outcome or Outcome())
            if not ended:
                if not talks:
                    return
                _wait_for_any(list(talks.values()), deadline + GRACE)
    finally:
        for talk in talks.values():
            talk.close()


def _wait_for_any(talks: Sequence[_Talk], limit: float) -> None:
    """Wait until some of `talks` can continue, and continue them."""
    now = time.monotonic()
    if now >= limit:
        for talk in talks:
            talk.close()
            talk.outcome = Outcome(problem="it did not come to an end in time")
        return
    poll = select.poll()
    for talk in talks:
        for descriptor, events in talk.wait.events.items():
            poll.register(descriptor, events)
    until = min(limit, *(talk.wait.until for talk in talks))
    # Round up: waking a millisecond too early would make the loop spin.
    ready = frozenset(descriptor for descriptor, _ in poll.poll(max(0, int((until - now) * 1000) + 1)))
    now = time.monotonic()
    for talk in talks:
        mine = ready & talk.wait.events.keys()
        if mine or now >= talk.wait.until:
            talk.go_on(mine)


def _note(answers: dict[str, Answer], question: Question, outcome: Outcome) -> None:
    before = answers.get(question.key, Answer())
    problems = [before.problem] if before.problem else []
    problem = f"{question.value}: {outcome.problem}" if outcome.problem else ""
    if problem and problem not in before.problem:  # explain asks unanswered questions again
        problems.append(problem)
    mine = (question.value,)
    answers[question.key] = Answer(
        values=tuple(dict.fromkeys((*before.values, *outcome.seen))),
        pending=before.pending or not outcome.settled,
        problem="; ".join(problems),
        settled=before.settled + (mine if outcome.settled else ()),
        refuted=before.refuted + (mine if outcome.refuted else ()),
    )
