"""``netconf-hooks explain``: every rule, every test, the values seen, and the consequences.

It looks at the network as the hooks do, or reads a network that `netconf-hooks probe --json` has recorded, and changes
nothing.
"""

from __future__ import annotations

import json

from netconf_hooks.commands.entry import CommandError, OK
from netconf_hooks.commands.patience import tell_if_slow
from netconf_hooks.commands.recording import describe_answers, read_observation
from netconf_hooks.commands.status import describe_portal
from netconf_hooks.decide import decide_guard, decide_tunnels, describe_place, hold_verdicts
from netconf_hooks.evidence import address
from netconf_hooks.evidence.lan import find_lan
from netconf_hooks.evidence.look import complete_observation, observe
from netconf_hooks.evidence.shared_macs import find_user
from netconf_hooks.guard.exemptions import allows_lan, make_pass
from netconf_hooks.observation import Answer, OPEN
from netconf_hooks.passes import describe_pass, find_conflict, make_passes
from netconf_hooks.place import AUTHENTICATED, find_new_router, find_place, is_proof, judge, judge_tests
from netconf_hooks.record import Record
from netconf_hooks.settle import read_held
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.stanzas.interfaces import query_passes
from netconf_hooks.stanzas.rules import TESTS, list_doubts, list_undefined_words
from netconf_hooks.state import InterfaceRecord, OPEN as OPEN_GUARD, RecordError, Store, boot_time
from netconf_hooks.system import log
from netconf_hooks.tunnels.supervision import describe_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from netconf_hooks.decide import Verdict
    from netconf_hooks.place import NewRouter
    from netconf_hooks.stanzas.rules import Location, Rules, Test

# The origins of the rules.
RECORD, STANZA = "record", "stanza"

_ORIGINS = {RECORD: "by the rules recorded at its ifup", STANZA: "not up; by the rules in its stanza"}
_VERDICTS = {True: "holds", False: "does not hold", None: "not answered in time"}
_NOT_RECORDED = "not in the recording"

# The verdicts on tests that are words of a condition.
_WORDS = {True: "holds", False: "fails", None: "undecided"}


class Explanation(Record):
    """The result of an interface's rules on the network that was seen.

    record: the one that the hooks would write; for a wish, its actual record; origin: where the rules come from,
    `RECORD` or `STANZA`; recorded: the file with a recorded network, empty if the network itself was looked at.
    """

    __slots__ = ("record", "origin", "recorded")

    def __init__(self, record: InterfaceRecord, origin: str, recorded: str = "") -> None:
        self.record = record
        self.origin = origin
        self.recorded = recorded

    @property
    def answers(self) -> Mapping[str, Answer]:
        """What was seen, by test key."""
        return self.record.observation.answers


def explain_rules(options: Namespace, store: Store) -> int:
    """``netconf-hooks explain [--json] [--as FILE] [IFACE]``: looks at the network now, changes nothing."""
    if options.recording:
        explanations = [_explain_recording(options.recording, options.iface)]
    else:
        records = {record.iface: record for record in store.read_interfaces(log.complain)}
        if not options.iface and not records:
            raise CommandError("no interface with netconf rules is up; to explain a stanza, name its interface")
        ifaces = [options.iface] if options.iface else list(records)
        explanations = []
        for iface in ifaces:
            with tell_if_slow(f"looking at {iface}"):
                explanations.append(_explain_interface(iface, records.get(iface)))
    if options.json:
        described = {explanation.record.iface: _describe(explanation) for explanation in explanations}
        print(json.dumps({"interfaces": described}, indent=2, sort_keys=True))
    else:
        print("\n\n".join("\n".join(_list_lines(explanation)) for explanation in explanations))
    return OK


def _explain_interface(iface: str, record: InterfaceRecord | None) -> Explanation:
    origin = RECORD if record else STANZA
    now = InterfaceRecord(iface, record.passes if record else make_passes(iface, query_passes(iface)))
    if now.rules.uplinks:
        return Explanation(record or now.change(wish=True), origin)
    with make_pass(Store(), device_of(iface), 2 * now.rules.timeout) as passing:
        seen = observe(iface, now.rules, now.options, announce=passing.announce)
        place = find_place(now.rules, seen.answers)
        # A decision only needs the tests that it depends on; an explanation shows all.
        seen = complete_observation(seen, now.rules, now.options, passing.announce)
    return Explanation(now.change(observation=seen, place=place), origin)


def _explain_recording(path: str, iface: str | None) -> Explanation:
    """Apply the rules as they are written now to a recorded network, which may be another interface's."""
    seen = read_observation(path)
    iface = iface or seen.iface
    record = InterfaceRecord(iface, make_passes(iface, query_passes(iface)))
    if record.rules.uplinks:
        return Explanation(record.change(wish=True), STANZA, path)
    answers = {key: Answer(pending=True, problem=_NOT_RECORDED) for key in TESTS}
    answers.update(seen.answers)
    if iface != seen.iface:
        answers["interface"] = Answer(tuple(dict.fromkeys((device_of(iface), iface))))
    seen = seen.change(iface=iface, answers=answers)
    return Explanation(
        record.change(observation=seen, place=find_place(record.rules, answers)), STANZA, path
    )


def _is_first(location: Location, explanation: Explanation) -> bool:
    return location.text == find_place(explanation.record.rules, explanation.answers).line


def _was_asked(test: Test, explanation: Explanation) -> bool:
    """Whether the test was run.  If the rest of its line does not hold, it is not."""
    answer = explanation.answers.get(test.key, Answer())
    return not TESTS[test.key].asked or answer.pending or judge(test, explanation.answers) is not None


def _list_errors(rules: Rules) -> list[str]:
    """Return the errors in the rules, and their consequences."""
    return [str(error) for error in (*rules.errors, *list_undefined_words(rules), *list_doubts(rules))]


def _decide_alone(explanation: Explanation) -> dict[tuple[str, str], Verdict]:
    """Return the verdicts on tunnels that follow from this interface's rules alone."""
    verdicts = decide_tunnels([explanation.record])
    # The recording may be from another machine.
    return verdicts if explanation.recorded else hold_verdicts(verdicts, read_held())


# For people


def _list_lines(explanation: Explanation) -> list[str]:
    if explanation.record.wish or explanation.record.rules.uplinks:
        return _list_wish(explanation)
    record, rules = explanation.record, explanation.record.rules
    recorded = "standard input" if explanation.recorded == "-" else explanation.recorded
    origin = f"as recorded in {recorded}" if recorded else _ORIGINS[explanation.origin]
    lines = [f"{describe_place(record)} ({log.printable(origin)})"]
    lines += [f"  by {describe_pass(each)}" for each in record.passes if len(record.passes) > 1]
    lines += [f"  error: {error}" for error in _list_errors(rules)]
    for location in rules.locations:
        verdict = judge_tests(location.tests, explanation.answers)
        first = ", first" if _is_first(location, explanation) else ""
        proof = ", proof" if verdict and is_proof(location) else ""
        lines.append(f"  netconf-location {location.text}: {_name_verdict(verdict, explanation)}{first}{proof}")
        lines += [f"    {_explain_test(test, explanation)}" for test in location.tests]
    if router := _find_new_router(explanation):
        lines.append(f"  {log.printable(str(router))}")
    lines += [f"  as a word: {word}: {_WORDS[verdict]}" for word, verdict in record.place.words.items()]
    if record.place.location:
        grade = "proven" if record.place.grade == AUTHENTICATED else "recognised by hints"
        lines.append(f"  {record.place.location} is {grade}")
    lines.append(f"  default route: {'yes' if record.observation.routable else 'no: unroutable'}")
    lines += [f"  {log.printable(line)}" for line in describe_portal(record.observation)]
    if record.observation.wireless == OPEN:
        lines.append(f"  {_explain_wireless(explanation)}: insecure")
    verdicts = _decide_alone(explanation)
    for rule in rules.vpns:
        alone = verdicts[rule.kind, rule.name]
        lines.append(f"  netconf-vpn {rule.text}: {alone.state}, as far as {record.iface} goes: {alone.because}")
        if waits := _find_wait(rule.kind, rule.name, explanation):
            lines.append(f"    not connected: {log.printable(waits)}")
    for guard in rules.guards:
        decided = decide_guard(guard, record)
        lines.append(f"  netconf-guard {guard.text}: {decided.state}: {decided.because}")
    if rules.guards and allows_lan(rules):
        lines.append(f"  netconf-guard-allow lan: {_explain_lan(explanation)}")
    if conflict := find_conflict(record.passes):
        lines.append(f"  error: {conflict}: the guard stays closed")
    return lines


def _find_wait(kind: str, name: str, explanation: Explanation) -> str:
    """Return what a tunnel that should be up waits for, as the watcher has last seen it; empty if for nothing."""
    if explanation.recorded:
        return ""
    try:
        state = Store().read_states().get((kind, name))
    except RecordError:
        return ""  # `status` names the file
    return describe_state(state, boot_time()) if state else ""


def _find_new_router(explanation: Explanation) -> NewRouter | None:
    """Return the location that this would be if its router had been replaced; None if the location is known."""
    record = explanation.record
    return None if record.place.location else find_new_router(record.rules, explanation.answers)


def _explain_lan(explanation: Explanation) -> str:
    """Return which prefixes of the link count as its LAN, and why others don't, in words."""
    if explanation.recorded:
        return "depends on the link's own prefixes, which are not in the recording"
    prefixes, refused = find_lan(address.list_networks(device_of(explanation.record.iface)))
    return "; ".join((f"allows {', '.join(prefixes) or 'nothing here'}", *(f"not {reason}" for reason in refused)))


def _explain_wireless(explanation: Explanation) -> str:
    from netconf_hooks.evidence.radios import has_nl80211, is_wireless

    device = device_of(explanation.record.iface)
    if not explanation.recorded and is_wireless(device) and not has_nl80211(device):
        return "wireless, and its driver does not tell whether it is encrypted (no nl80211)"
    return "wireless without encryption"


def _list_wish(explanation: Explanation) -> list[str]:
    record, rules = explanation.record, explanation.record.rules
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
    users = [(mac, find_user(mac)) for mac in answer.values if test.key == "gateway-mac"]
    shared = [f"{mac} is the same in many networks: {user}" for mac, user in users if user]
    problem = "; ".join(filter(None, (answer.problem, *shared)))
    problem = f" ({problem})" if problem else ""
    verdict = _name_verdict(judge(test, explanation.answers), explanation)
    return f"{test.text}: {verdict}: {log.printable(seen + problem)}"


# For programs


def _describe(explanation: Explanation) -> dict[str, object]:
    record, rules = explanation.record, explanation.record.rules
    described: dict[str, object] = {
        "wish": record.wish,
        "rules": explanation.origin,
        "errors": _list_errors(rules),
    }
    if record.wish:
        return {**described, "uplinks": list(rules.uplinks), "raised": list(record.raised)}
    answers = explanation.answers
    guard = None
    router = _find_new_router(explanation)
    verdicts = [decide_guard(rule, record) for rule in rules.guards]
    if verdicts:
        # All must agree before it opens.
        verdict = next((verdict for verdict in verdicts if verdict.state != OPEN_GUARD), verdicts[0])
        guard = {"state": verdict.state, "because": verdict.because}
    return {
        **described,
        "guard": guard,
        "location": record.place.location or None,
        "undecided": record.place.undecided,
        "grade": record.place.grade or None,
        "routable": record.observation.routable,
        "wireless-open": record.observation.wireless == OPEN,
        "portals": list(record.observation.portal.uris),
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
        "new-router": {"location": router.location, "line": router.line} if router else None,
        "words": dict(record.place.words),
        "seen": describe_answers(answers),
        "tunnels": {
            f"{kind} {name}": {
                "verdict": verdict.state,
                "because": verdict.because,
                "state": _find_wait(kind, name, explanation) or None,
            }
            for (kind, name), verdict in _decide_alone(explanation).items()
        },
    }
