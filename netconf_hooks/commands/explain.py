"""``netconf-hooks explain``: every rule, every test, what was seen, and what follows.

It looks at the network as the hooks do, or at what `netconf-hooks probe --json` has seen of one, and changes nothing.
"""

from __future__ import annotations

import json
from time import monotonic

from netconf_hooks.commands.entry import CommandError, OK
from netconf_hooks.decide import OPEN as OPEN_GUARD, decide_guard, decide_tunnels, describe_place
from netconf_hooks.evidence import Answer, make_link
from netconf_hooks.guard.exemptions import make_pass
from netconf_hooks.ifenv import device_of
from netconf_hooks.interfaces import query_passes
from netconf_hooks.observation import OPEN, describe_answers, read_observation
from netconf_hooks.passes import describe_pass, find_conflict, make_passes, read_rules_of
from netconf_hooks.place import (
    AUTHENTICATED, complete_answers, find_place, is_proof, judge, judge_tests, list_word_tests
)  # fmt: skip
from netconf_hooks.record import Record
from netconf_hooks.rules import TESTS, list_doubts, list_undefined_words
from netconf_hooks.settle import describe_situation, observe_interface
from netconf_hooks.state import Finding, InterfaceRecord, Store, merge_options
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from netconf_hooks.decide import Verdict
    from netconf_hooks.rules import Location, Rules, Test

# Where the rules come from.
RECORD, STANZA = "record", "stanza"

_ORIGINS = {RECORD: "by the rules recorded at its ifup", STANZA: "not up; by the rules that stand in its stanza"}
_VERDICTS = {True: "holds", False: "does not hold", None: "not answered in time"}
_NOT_RECORDED = "the recording does not tell"

# The verdicts on tests in conditions, as records of interfaces have them (`state.Finding`).
_FINDINGS = {True: "holds", False: "fails", None: "undecided"}


class Explanation(Record):
    """What follows for an interface from its rules and what was seen of its network.

    rules: the stanza's; origin: where they come from, `RECORD` or `STANZA`; recorded: the file with what was seen,
    empty where the network itself was looked at.
    record: what the hooks would remember; of a wish, what they do remember.
    answers: what was seen, by test key.
    """

    __slots__ = ("rules", "origin", "recorded", "record", "answers")

    def __init__(
        self, rules: Rules, origin: str, recorded: str, record: InterfaceRecord, answers: Mapping[str, Answer]
    ) -> None:
        self.rules = rules
        self.origin = origin
        self.recorded = recorded
        self.record = record
        self.answers = answers


def explain_rules(options: Namespace, store: Store) -> int:
    """``netconf-hooks explain [--json] [--as FILE] [IFACE]``: looks at the network now, changes nothing."""
    if options.recording:
        explanations = [_explain_recording(options.recording, options.iface)]
    else:
        records = {record.iface: record for record in store.read_interfaces(log.complain)}
        if not options.iface and not records:
            raise CommandError("no interface with netconf rules is up; to explain a stanza, name its interface")
        ifaces = [options.iface] if options.iface else list(records)
        explanations = [_explain_interface(iface, records.get(iface)) for iface in ifaces]
    if options.json:
        described = {explanation.record.iface: _describe(explanation) for explanation in explanations}
        print(json.dumps({"interfaces": described}, indent=2, sort_keys=True))
    else:
        print("\n\n".join("\n".join(_list_lines(explanation)) for explanation in explanations))
    return OK


def _explain_interface(iface: str, record: InterfaceRecord | None) -> Explanation:
    origin = RECORD if record else STANZA
    passes = record.passes if record else make_passes(iface, query_passes(iface))
    rules = read_rules_of(passes)
    if rules.uplinks:
        return Explanation(rules, origin, "", record or InterfaceRecord(iface, 0, passes, wish=True), {})
    with make_pass(Store(), device_of(iface), 2 * rules.timeout) as passing:
        now, answers = observe_interface(iface, passes, announce=passing.announce)
        # What decides is asked for what the decision hangs on; who wants an explanation is shown all.
        link = make_link(iface, merge_options(passes))
        answers = complete_answers(rules, answers, link, monotonic() + rules.timeout, passing.announce)
    return Explanation(rules, origin, "", now, answers)


def _explain_recording(path: str, iface: str | None) -> Explanation:
    """Decide on what was seen at another time, perhaps by another interface, by the rules as they stand now."""
    seen = read_observation(path)
    iface = iface or seen.iface
    passes = make_passes(iface, query_passes(iface))
    rules = read_rules_of(passes)
    if rules.uplinks:
        return Explanation(rules, STANZA, path, InterfaceRecord(iface, 0, passes, wish=True), {})
    answers = {key: Answer(pending=True, problem=_NOT_RECORDED) for key in TESTS}
    answers.update(seen.answers)
    if iface != seen.iface:
        answers["interface"] = Answer(tuple(dict.fromkeys((device_of(iface), iface))))
    place = find_place(rules.locations, answers)
    record = InterfaceRecord(
        iface,
        0,
        passes,
        location=place.location,
        line=place.line,
        grade=place.grade,
        undecided=place.undecided,
        routable=seen.routable,
        wireless_open=seen.wireless == OPEN,
        words=tuple(Finding(test.text, (_FINDINGS[judge(test, answers)],)) for test in list_word_tests(rules)),
    )
    return Explanation(rules, STANZA, path, record, answers)


def _is_first(location: Location, explanation: Explanation) -> bool:
    return location.text == find_place(explanation.rules.locations, explanation.answers).line


def _was_asked(test: Test, explanation: Explanation) -> bool:
    """Whether it was tried to have an answer: not so where the rest of the line does not hold."""
    answer = explanation.answers.get(test.key, Answer())
    return not TESTS[test.key].asked or answer.pending or judge(test, explanation.answers) is not None


def _list_errors(rules: Rules) -> list[str]:
    """Return what of the rules can't be read, and what hangs on it."""
    return [str(error) for error in (*rules.errors, *list_undefined_words(rules), *list_doubts(rules))]


def _decide_alone(explanation: Explanation) -> dict[tuple[str, str], Verdict]:
    """Return the verdicts on tunnels as far as this interface goes, whatever others say."""
    return decide_tunnels([describe_situation(explanation.record, explanation.rules)])


# For people


def _list_lines(explanation: Explanation) -> list[str]:
    if explanation.record.wish or explanation.rules.uplinks:
        return _list_wish(explanation)
    rules, record = explanation.rules, explanation.record
    recorded = "standard input" if explanation.recorded == "-" else explanation.recorded
    origin = f"as recorded in {recorded}" if recorded else _ORIGINS[explanation.origin]
    lines = [f"{describe_place(describe_situation(record, rules))} ({log.printable(origin)})"]
    lines += [f"  by {describe_pass(each)}" for each in record.passes if len(record.passes) > 1]
    lines += [f"  error: {error}" for error in _list_errors(rules)]
    for location in rules.locations:
        verdict = judge_tests(location.tests, explanation.answers)
        first = ", first" if _is_first(location, explanation) else ""
        proof = ", proof" if verdict and is_proof(location) else ""
        lines.append(f"  netconf-location {location.text}: {_name_verdict(verdict, explanation)}{first}{proof}")
        lines += [f"    {_explain_test(test, explanation)}" for test in location.tests]
    lines += [f"  as a word: {finding.subject}: {finding.values[0]}" for finding in record.words]
    if record.location:
        lines.append(f"  {record.location} is {'proven' if record.grade == AUTHENTICATED else 'told by hints'}")
    lines.append(f"  default route: {'yes' if record.routable else 'no: unroutable'}")
    if record.wireless_open:
        lines.append(f"  {_explain_wireless(explanation)}: insecure")
    verdicts = _decide_alone(explanation)
    for rule in rules.vpns:
        alone = verdicts[rule.kind, rule.name]
        lines.append(f"  netconf-vpn {rule.text}: {alone.state}, as far as {record.iface} goes: {alone.because}")
    for guard in rules.guards:
        decided = decide_guard(guard, describe_situation(record, rules))
        lines.append(f"  netconf-guard {guard.text}: {decided.state}: {decided.because}")
    if conflict := find_conflict(record.passes):
        lines.append(f"  error: {conflict}: the guard stays closed")
    return lines


def _explain_wireless(explanation: Explanation) -> str:
    from netconf_hooks.evidence.wireless import has_nl80211, is_wireless

    device = device_of(explanation.record.iface)
    if not explanation.recorded and is_wireless(device) and not has_nl80211(device):
        return "wireless, and its driver does not tell whether it is encrypted (no nl80211)"
    return "wireless without encryption"


def _list_wish(explanation: Explanation) -> list[str]:
    rules, record = explanation.rules, explanation.record
    if explanation.origin == RECORD:
        lines = [
            f"{record.iface} is a wish, since its ifup: it overrides vetoes, and never opens a guard",
            f"  links raised for it: {', '.join(record.raised) or 'none'}",
        ]
    else:
        iface = record.iface
        lines = [f"{iface} is a wish: ifup {iface} brings it up, overriding vetoes, never opening a guard"]
    lines += [f"  error: {error}" for error in rules.errors]
    lines.append(f"  without a default route, ifup tries {', '.join(rules.uplinks)}")
    lines += [f"  netconf-vpn {rule.text}" for rule in rules.vpns]
    return lines


def _name_verdict(verdict: bool | None, explanation: Explanation) -> str:
    return "not answered" if verdict is None and explanation.recorded else _VERDICTS[verdict]


def _explain_test(test: Test, explanation: Explanation) -> str:
    if not _was_asked(test, explanation):
        return f"{test.text}: not asked: the rest of its line does not hold"
    answer = explanation.answers.get(test.key, Answer())
    seen = f"seen {', '.join(answer.values)}" if answer.values else "nothing seen"
    problem = f" ({answer.problem})" if answer.problem else ""
    verdict = _name_verdict(judge(test, explanation.answers), explanation)
    return f"{test.text}: {verdict}: {log.printable(seen + problem)}"


# For programs


def _describe(explanation: Explanation) -> dict[str, object]:
    rules, record = explanation.rules, explanation.record
    described: dict[str, object] = {
        "wish": record.wish,
        "rules": explanation.origin,
        "errors": _list_errors(rules),
    }
    if record.wish:
        return {**described, "uplinks": list(rules.uplinks), "raised": list(record.raised)}
    answers = explanation.answers
    guard = None
    verdicts = [decide_guard(rule, describe_situation(record, rules)) for rule in rules.guards]
    if verdicts:
        # All must agree before it opens.
        verdict = next((verdict for verdict in verdicts if verdict.state != OPEN_GUARD), verdicts[0])
        guard = {"state": verdict.state, "because": verdict.because}
    return {
        **described,
        "guard": guard,
        "location": record.location or None,
        "undecided": record.undecided,
        "grade": record.grade or None,
        "routable": record.routable,
        "wireless-open": record.wireless_open,
        "locations": [
            {
                "line": location.text,
                "name": location.name,
                "holds": judge_tests(location.tests, answers),
                "first": _is_first(location, explanation),
                "proof": is_proof(location),
                "tests": [
                    {
                        "test": test.text,
                        "key": test.key,
                        "holds": judge(test, answers),
                        "asked": _was_asked(test, explanation),
                    }
                    for test in location.tests
                ],
            }
            for location in rules.locations
        ],
        "words": {test.text: judge(test, answers) for test in list_word_tests(rules)},
        "seen": describe_answers(answers),
        "tunnels": {
            f"{kind} {name}": {"verdict": verdict.state, "because": verdict.because}
            for (kind, name), verdict in _decide_alone(explanation).items()
        },
    }
