"""The command: netconf-hooks(8)."""

from __future__ import annotations

import argparse
import json
import os
import sys
from io import TextIOWrapper
from time import monotonic

from netconf_hooks import log
from netconf_hooks.apply import (
    describe_situation, list_counting, make_link, merge_stanzas, observe_interface, refresh_interfaces, wake_watcher
)  # fmt: skip
from netconf_hooks.decide import decide_tunnels, describe_place
from netconf_hooks.interfaces import InterfacesError, query_options, read_names
from netconf_hooks.locate import AUTHENTICATED, complete_answers, find_place, is_proof, judge, judge_tests
from netconf_hooks.observe import Answer, observe_link
from netconf_hooks.observe.netlink import NetlinkError
from netconf_hooks.rules import TESTS, Rules, format_test, list_undefined_words, read_rules
from netconf_hooks.state import RecordError, Stanza, Store
from netconf_hooks.tunnels import TunnelError, load_tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from netconf_hooks.decide import Situation
    from netconf_hooks.rules import Test
    from netconf_hooks.state import InterfaceRecord, TunnelRecord

OK, FAILED, USAGE = 0, 1, 2

_VERDICTS = {True: "holds", False: "does not hold", None: "not answered in time"}


class CommandError(Exception):
    """The command can't do what it was asked; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    arguments: those of the command line if not given.
    """
    parser = _make_parser()
    options = parser.parse_args(arguments)
    log.set_verbose(options.verbose)
    run: Callable[[argparse.Namespace, Store], int] = options.run
    log.fill_descriptors()
    if isinstance(sys.stdout, TextIOWrapper):
        # What stands in a stanza need not be text in anybody's encoding (PEP 383).
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = run(options, Store())
        if sys.stdout is not None:  # None where it was closed from the beginning
            sys.stdout.flush()
        return status
    except (CommandError, InterfacesError, NetlinkError, RecordError, OSError) as error:
        sys.stdout = None  # type: ignore[assignment]  # a full standard output is not written to again at exit
        log.complain(str(error))
        return FAILED


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="netconf-hooks",
        description="Says which network an interface is on and what follows from that; the rules stand in "
        "/etc/network/interfaces, see netconf-interfaces(5).",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say how things were found out")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    status = commands.add_parser("status", help="what is known of the interfaces, and what the tunnels do")
    status.add_argument("--json", action="store_true", help="for programs: the keys are in netconf-hooks(8)")
    status.set_defaults(run=show_status)

    explain = commands.add_parser("explain", help="look at the network now: every rule, every test, what was seen")
    explain.add_argument("iface", nargs="?", metavar="IFACE", help="all recorded interfaces if not given")
    explain.set_defaults(run=explain_rules)

    probe = commands.add_parser("probe", help="what is seen of the network now, as a netconf-location line to paste")
    probe.add_argument("--json", action="store_true", help="everything seen, by test key")
    probe.add_argument("iface", metavar="IFACE")
    probe.set_defaults(run=probe_network)

    location = commands.add_parser("location", help="print the location's name, for scripts")
    location.add_argument("iface", metavar="IFACE")
    location.set_defaults(run=print_location)

    check = commands.add_parser("check", help="all errors and warnings of the stanzas; exit status 1 on errors")
    check.add_argument("ifaces", nargs="*", metavar="IFACE", help="all stanzas if none is given")
    check.set_defaults(run=check_stanzas)

    refresh = commands.add_parser("refresh", help="look at the network again and decide again, by the recorded rules")
    refresh.add_argument("ifaces", nargs="*", metavar="IFACE", help="all recorded interfaces if none is given")
    refresh.set_defaults(run=decide_again)

    watch = commands.add_parser("watch", help="decide again whenever the network changes (the hooks start it)")
    watch.set_defaults(run=watch_network)
    return parser


# --- status


def show_status(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks status [--json]``: from the records, for any user."""
    records = store.read_interfaces(log.complain)
    counting = list_counting(records)
    tunnels = store.read_tunnels()
    up = {tunnel: _ask_is_up(record) for tunnel, record in tunnels.items()}
    if options.json:
        print(json.dumps(_make_status(records, counting, tunnels, up), indent=2, sort_keys=True))
        return OK
    for record in records:
        if record.wish:
            raised = f", for which {', '.join(record.raised)} came up" if record.raised else ""
            print(f"{record.iface}: a wish{raised}")
            continue
        note = "" if record in counting else "  (does not count: no carrier, or another device by now)"
        print(f"{record.iface}: {_name_place(record)}{note}")
        if record.line:
            print(f"    netconf-location {record.line}")
        for finding in record.seen:
            print(f"    {finding.subject}: {log.printable(', '.join(finding.values) or finding.problem)}")
    for (kind, name), tunnel in tunnels.items():
        print(f"{kind} {name}: {_UP_WORDS[up[kind, name]]}; should be {tunnel.verdict}: {tunnel.because}")
        if tunnel.problem:
            print(f"    {log.printable(tunnel.problem)}")
    if not records:
        print("no interface with netconf rules is up")
    return OK


_UP_WORDS = {True: "connected", False: "not connected", None: "can't tell whether it is connected"}


def _make_status(
    records: Sequence[InterfaceRecord],
    counting: Sequence[InterfaceRecord],
    tunnels: dict[tuple[str, str], TunnelRecord],
    up: dict[tuple[str, str], bool | None],
) -> dict[str, object]:
    return {
        "interfaces": {
            record.iface: {
                "location": record.location or None,
                "undecided": record.undecided,
                "guard": "none",
                "counts": record in counting,
                "wish": record.wish,
                "line": record.line or None,
                "grade": record.grade or None,
                "routable": record.routable,
                "seen": {finding.subject: list(finding.values) for finding in record.seen},
            }
            for record in records
        },
        "tunnels": {
            f"{kind} {name}": {
                "wanted": tunnel.verdict == "up",
                "up": up[kind, name],
                "because": tunnel.because,
                "problem": tunnel.problem or None,
            }
            for (kind, name), tunnel in tunnels.items()
        },
    }


def _ask_is_up(tunnel: TunnelRecord) -> bool | None:
    try:
        return load_tunnel(tunnel.kind, tunnel.name).is_up()
    except TunnelError:
        return False


def _name_place(record: InterfaceRecord) -> str:
    if record.undecided:
        return "undecided"
    return record.location or "unknown"


# --- location


def print_location(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks location IFACE``: the name, ``unknown`` or ``undecided``; fails where the interface is not up."""
    record = store.read_interface(options.iface)
    if record is None or record.wish or not list_counting([record]):
        raise CommandError(f"{options.iface}: not up, or without netconf rules")
    print(_name_place(record))
    return OK


# --- explain


def explain_rules(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks explain [IFACE]``: looks at the network now, changes nothing."""
    records = {record.iface: record for record in store.read_interfaces(log.complain)}
    if options.iface:
        _explain_interface(options.iface, records.get(options.iface))
        return OK
    if not records:
        raise CommandError("no interface with netconf rules is up; to explain a stanza, name its interface")
    for number, (iface, record) in enumerate(records.items()):
        if number:
            print()
        _explain_interface(iface, record)
    return OK


def _explain_interface(iface: str, record: InterfaceRecord | None) -> None:
    stanzas = record.stanzas if record else (Stanza("any", query_options(iface)),)
    rules = read_rules(merge_stanzas(stanzas))
    if rules.uplinks:
        _explain_wish(iface, record, rules)
        return
    now, answers = observe_interface(iface, stanzas)
    # What decides is asked for what the decision hangs on; who wants an explanation is shown all.
    link = make_link(iface, merge_stanzas(stanzas))
    answers = complete_answers(rules, answers, link, monotonic() + rules.timeout)
    situation = describe_situation(now, rules)
    origin = "by the rules recorded at its ifup" if record else "not up; by the rules that stand in its stanza"
    print(f"{describe_place(situation)} ({origin})")
    for error in rules.errors:
        print(f"  error: {error}")
    held = find_place(rules.locations, answers).line
    for location in rules.locations:
        verdict = judge_tests(location.tests, answers)
        first = ", first" if location.text == held else ""
        proof = ", proof" if verdict and is_proof(location) else ""
        print(f"  netconf-location {location.text}: {_VERDICTS[verdict]}{first}{proof}")
        for test in location.tests:
            print(f"    {_explain_test(test, answers)}")
    for finding in now.words:
        print(f"  as a word: {finding.subject}: {finding.values[0]}")
    if now.location:
        print(f"  {now.location} is {'proven' if now.grade == AUTHENTICATED else 'told by hints'}")
    print(f"  default route: {'yes' if now.routable else 'no: unroutable'}")
    _explain_tunnels(situation, rules)


def _explain_wish(iface: str, record: InterfaceRecord | None, rules: Rules) -> None:
    if record:
        print(f"{iface} is a wish, since its ifup: it overrides vetoes, and never opens a guard")
        print(f"  links raised for it: {', '.join(record.raised) or 'none'}")
    else:
        print(f"{iface} is a wish: ifup {iface} brings it up, overriding vetoes, never opening a guard")
    for error in rules.errors:
        print(f"  error: {error}")
    print(f"  without a default route, ifup tries {', '.join(rules.uplinks)}")
    for rule in rules.vpns:
        print(f"  netconf-vpn {rule.text}")


def _explain_test(test: Test, answers: Mapping[str, Answer]) -> str:
    answer = answers.get(test.key, Answer())
    verdict = judge(test, answers)
    if verdict is None and TESTS[test.key].asked and not answer.pending:
        return f"{test.text}: not asked: the rest of its line does not hold"
    seen = f"seen {', '.join(answer.values)}" if answer.values else "nothing seen"
    problem = f" ({answer.problem})" if answer.problem else ""
    return f"{test.text}: {_VERDICTS[verdict]}: {log.printable(seen + problem)}"


def _explain_tunnels(situation: Situation, rules: Rules) -> None:
    for rule in rules.vpns:
        alone = decide_tunnels([situation])[rule.kind, rule.name]
        print(f"  netconf-vpn {rule.text}: {alone.state}, as far as {situation.iface} goes: {alone.because}")


# --- probe


# What a line is made of: the first that was seen of each row.  A name that is announced adds to a MAC address; an
# address, which many networks share, adds nothing to it.
_TELLING = (("gateway-mac", "gateway"), ("ssid",), ("dns-domain",))


def probe_network(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks probe [--json] IFACE``: looks at the network now, sends no more than the kernel would."""
    link = make_link(options.iface, _find_evidence(options.iface, store))
    if not link.index:
        raise CommandError(f"{options.iface}: no such interface")
    keys = [key for key, kind in TESTS.items() if kind.observer and not kind.asked]
    answers = observe_link(keys, link, monotonic() + Rules().timeout)
    if options.json:
        seen = {key: {"values": list(answers[key].values), "problem": answers[key].problem or None} for key in keys}
        print(json.dumps({"interface": options.iface, "seen": seen}, indent=2, sort_keys=True))
        return OK
    for key in keys:
        found = ", ".join(answers[key].values) or f"nothing ({answers[key].problem})"
        print(log.printable(f"# {key}: {found}"))
    told = [next((key for key in row if answers[key].values), "") for row in _TELLING]
    if not any(told):
        raise CommandError(f"{options.iface}: nothing is seen that tells this network from others")
    tests = [format_test(key, answers[key].values[:1]) for key in told if key]
    print(f"netconf-location here {' '.join(tests)}")
    return OK


def _find_evidence(iface: str, store: Store) -> dict[str, str]:
    """Return the stanza's options, where there is a stanza: some are evidence themselves."""
    record = store.read_interface(iface)
    if record:
        return merge_stanzas(record.stanzas)
    try:
        return query_options(iface)
    except InterfacesError:
        return {}


# --- refresh


def decide_again(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks refresh [IFACE...]``: decides again from the recorded rules."""
    if os.geteuid() != 0:
        raise CommandError("refresh: only root may decide")
    records = {record.iface: record for record in store.read_interfaces(log.error)}
    unknown = [iface for iface in options.ifaces if iface not in records]
    if unknown:
        raise CommandError(f"{', '.join(unknown)}: not up, or without netconf rules")
    refresh_interfaces(store, [records[iface] for iface in options.ifaces or records])
    wake_watcher(store)
    return OK


def watch_network(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks watch``: until no interface with rules is up."""
    from netconf_hooks.watch import watch

    if os.geteuid() != 0:
        raise CommandError("watch: only root may decide")
    watch(store)
    return OK


# --- check


def check_stanzas(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks check [IFACE...]``: changes nothing, runs no mapping script, asks no network."""
    names = read_names()
    for problem in names.problems:
        print(f"not examined: {problem}")
    errors = 0
    examined = 0
    for iface in options.ifaces or names.stanzas:
        try:
            rules = read_rules(query_options(iface))
        except InterfacesError as error:
            errors += _report("error", [str(error)])
            continue
        errors += _report(f"{iface}: error", [str(error) for error in rules.errors])
        errors += _report(f"{iface}: error", list(_list_tunnel_errors(rules)))
        for list_warnings in (list_undefined_words, _list_boot_starts, _list_trust_warnings):
            _report(f"{iface}: warning", list_warnings(rules))
        examined += 1
    mapped = ", ".join(names.mapped)
    print(f"{examined} stanzas examined, {errors} errors" + (f"; mapping scripts not run: {mapped}" if mapped else ""))
    return FAILED if errors else OK


def _report(kind: str, messages: Sequence[str]) -> int:
    for message in messages:
        print(log.printable(f"{kind}: {message}"))
    return len(messages)


def _list_tunnel_errors(rules: Rules) -> list[str]:
    problems = []
    for rule in rules.vpns:
        if rule.readable:
            try:
                load_tunnel(rule.kind, rule.name).check()
            except TunnelError as error:
                problems.append(f'netconf-vpn "{rule.text}": {error}')
    return problems


def _list_boot_starts(rules: Rules) -> list[str]:
    problems = []
    for rule in rules.vpns:
        if rule.readable:
            also = load_tunnel(rule.kind, rule.name).boot_start()
            if also:
                problems.append(f'netconf-vpn "{rule.text}": it also starts at boot: {also}')
    return problems


def _list_trust_warnings(rules: Rules) -> list[str]:
    if rules.trust == "hints":
        return []  # the admin has written that they are enough
    proven = {location.name for location in rules.locations if is_proof(location)}
    hinted = {location.name for location in rules.locations if not is_proof(location)}
    warnings = []
    for rule in rules.vpns:
        for word in rule.condition.unless:
            by_hints = not word.test.is_proof() if word.test else word.text in hinted
            if rules.trust == "authenticated" and word.text in hinted - proven:
                warnings.append(
                    f'netconf-vpn "{rule.text}": "netconf-trust authenticated" asks for proof, and no line of '
                    f"{word.text} has a tls or command test: this tunnel is never turned off there"
                )
            elif not rules.trust and by_hints:
                what = f'"{word.text}"' if word.test else f"the hints of {word.text}"
                warnings.append(
                    f'netconf-vpn "{rule.text}": whoever forges {what} turns this tunnel off; '
                    'write "netconf-trust hints" where that is accepted'
                )
    return warnings
