"""From what is seen of a network to the name the admin gave it.

The first ``netconf-location`` line whose tests all hold names the location; netconf-interfaces(5), LOCATIONS.  A
verdict on a test is True, False, or None while it has not been answered in time.
"""

from __future__ import annotations

import _socket

from netconf_hooks.observe import Answer, observe_link
from netconf_hooks.record import Record
from netconf_hooks.rules import TESTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from netconf_hooks.observe import Link
    from netconf_hooks.rules import Location, Rules, Test

HINT = "hint"
AUTHENTICATED = "authenticated"


class Place(Record):
    """Where a link is.

    location: the name, empty where no line holds; line: the line that holds, as written; grade: ``authenticated`` where
    one of its tests is, else ``hint``; empty where no line holds.
    undecided: whether an unanswered test could still name another location.
    """

    __slots__ = ("location", "line", "grade", "undecided")

    def __init__(self, location: str = "", line: str = "", grade: str = "", undecided: bool = False) -> None:
        self.location = location
        self.line = line
        self.grade = grade
        self.undecided = undecided


def find_place(locations: tuple[Location, ...], answers: Mapping[str, Answer]) -> Place:
    """Return the place that `answers` prove.

    A line with an unanswered test leaves the place undecided, when it stands before the first line that holds and names
    another location: answered, it might have come first.
    """
    open_names: list[str] = []
    for location in locations:
        verdict = judge_tests(location.tests, answers)
        if verdict:
            grades = {TESTS[test.key].grade for test in location.tests}
            return Place(
                location=location.name,
                line=location.text,
                grade=AUTHENTICATED if AUTHENTICATED in grades else HINT,
                undecided=any(name != location.name for name in open_names),
            )
        if verdict is None:
            open_names.append(location.name)
    return Place(undecided=bool(open_names))


def find_needed(locations: tuple[Location, ...], answers: Mapping[str, Answer]) -> list[str]:
    """Return the test keys not asked yet on which the place still depends, in the order written."""
    needed: list[str] = []
    for location in locations:
        missing = [test.key for test in location.tests if test.key not in answers]
        verdict = judge_tests([test for test in location.tests if test.key in answers], answers)
        if verdict is False:
            continue  # refuted already: its other tests can't save it
        needed.extend(key for key in missing if key not in needed)
        if verdict and not missing:
            break  # it holds: what stands after it is never asked
    return needed


def observe_place(rules: Rules, link: Link, deadline: float) -> tuple[Place, dict[str, Answer]]:
    """Look at the network until the place is known and the tests in conditions are answered.

    deadline: the time.monotonic() after which nothing more is waited for.
    """
    answers: dict[str, Answer] = {}
    while needed := find_needed(rules.locations, answers):
        answers.update(observe_link(needed, link, deadline))
    words = {test.key for test in list_word_tests(rules)} - answers.keys()
    if words:
        answers.update(observe_link(words, link, deadline))
    return find_place(rules.locations, answers), answers


def list_word_tests(rules: Rules) -> list[Test]:
    """Return the tests that stand as WORDs in the conditions of `rules`, each once."""
    conditions = [rule.condition for rule in rules.vpns]
    if rules.guard and rules.guard.condition:
        conditions.append(rules.guard.condition)
    tests = {}
    for condition in conditions:
        for word in (*condition.on, *condition.unless):
            if word.test:
                tests[word.test.text] = word.test
    return list(tests.values())


def judge_tests(tests: Iterable[Test], answers: Mapping[str, Answer]) -> bool | None:
    """Return whether all `tests` hold: one that does not decides; else one unanswered, or not asked, leaves it open."""
    verdict: bool | None = True
    for test in tests:
        one = judge_test(test, answers[test.key]) if test.key in answers else None
        if one is False:
            return False
        if one is None:
            verdict = None
    return verdict


def judge_test(test: Test, answer: Answer) -> bool | None:
    """Return whether `test` holds.  Where there is nothing to compare with it does not, negated or not."""
    syntax = TESTS[test.key].value
    if any(is_match(syntax, wanted, seen) for wanted in test.values for seen in answer.values):
        return not test.negated
    if answer.pending:
        return None
    return test.negated and bool(answer.values)


def is_match(syntax: str, wanted: str, seen: str) -> bool:
    """Whether the value `seen` is one that `wanted` means; both as `rules` normalises them.

    syntax: ``network`` (a network holds its addresses), ``domain`` (``*.example.com``: every name below it),
    ``pattern`` (shell wildcards); anything else is compared to the letter.
    """
    if syntax == "network":
        return _is_inside(wanted, seen)
    if syntax == "domain" and wanted.startswith("*."):
        return seen.endswith(wanted[1:]) and len(seen) > len(wanted) - 1
    if syntax == "pattern" and any(c in wanted for c in "*?["):
        if wanted.find("*") == len(wanted) - 1 and not any(c in wanted for c in "?["):
            return seen.startswith(wanted[:-1])
        from fnmatch import fnmatchcase  # imports re, 5 ms: only for what is rarely written

        return fnmatchcase(seen, wanted)
    return wanted == seen


def _is_inside(network: str, address: str) -> bool:
    prefix, _, length = network.partition("/")
    base, one = _pack(prefix), _pack(address)
    if not base or len(base) != len(one):
        return False
    rest = len(base) * 8 - int(length or len(base) * 8)
    return int.from_bytes(base, "big") >> rest == int.from_bytes(one, "big") >> rest


def _pack(address: str) -> bytes:
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    try:
        return _socket.inet_pton(family, address)
    except (OSError, ValueError):
        return b""
