"""``netconf-hooks check``: all errors and warnings of the stanzas, before they are used."""

from __future__ import annotations

import os

from netconf_hooks.commands.check_guard import list_early_lines, list_guard_errors, list_guard_warnings
from netconf_hooks.commands.entry import FAILED, OK
from netconf_hooks.commands.report import ERROR, Report, WARNING
from netconf_hooks.evidence.ports import find_isolation
from netconf_hooks.evidence.shared_macs import find_user
from netconf_hooks.passes import find_conflict, has_rules, make_passes, read_rules_of
from netconf_hooks.place import is_proof
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.stanzas.interfaces import (
    find_ifupdown, IFUPDOWN, InterfacesError, InterfacesLate, list_unpassed, parse_options, read_names, run_ifquery,
    split_passes
)  # fmt: skip
from netconf_hooks.stanzas.rules import RuleError, Rules, TESTS, list_doubts, list_undefined_words
from netconf_hooks.stanzas.values import DOMAIN, NETWORK, PATTERN
from netconf_hooks.state import merge_options
from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.tunnels import TunnelError, load_tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from netconf_hooks.stanzas.interfaces import Names
    from netconf_hooks.stanzas.rules import Location, Test
    from netconf_hooks.state import Store


# What to do if there is no rule yet.
_BEGIN = """\
no stanza has netconf- options yet; to begin, on a network that should be recognised:
    netconf-hooks probe IFACE    prints a line for the stanza of IFACE, and what to do next
/usr/share/doc/netconf-hooks/tutorial.md leads from there to a guarded laptop, netconf-interfaces(5) has all options"""


def check_stanzas(options: Namespace, store: Store) -> int:
    """``netconf-hooks check [IFACE...]``: changes nothing, runs no mapping scripts, and sends nothing."""
    names = read_names()
    for problem in names.problems:
        print(f"not examined: {problem}")
    report = Report(names)
    ifupdown = _find_ifupdown()
    examined = ruled = 0
    for iface in options.ifaces or names.stanzas:
        try:
            output = run_ifquery(iface)
        except InterfacesError as error:
            report.add_failure(error)
            if isinstance(error, InterfacesLate):
                break
            continue
        report.add_complaints(output)
        report.add_rules(ERROR, iface, [RuleError(*each) for each in list_unpassed(ifupdown, output, iface, names)])
        ruled += _check_stanza(iface, output, names, report)
        examined += 1
    errors = report.print()
    mapped = ", ".join(names.mapped)
    mappings = "mapping scripts not run" if ifupdown == IFUPDOWN else f"{ifupdown} has no mappings, and ignores"
    unread = "; not everything can be read without root" if errors and os.geteuid() != 0 else ""
    print(f"{examined} stanzas examined, {errors} errors{unread}" + (f"; {mappings}: {mapped}" if mapped else ""))
    if not options.ifaces and examined and not ruled and not errors and not names.problems:
        print(_BEGIN)
    return FAILED if errors or (names.problems and not examined) else OK


def _find_ifupdown() -> str:
    try:
        return find_ifupdown()
    except InterfacesError:
        return IFUPDOWN  # each stanza says what is wrong with ifquery


def _check_stanza(iface: str, output: str, names: Names, report: Report) -> bool:
    """Report the errors and warnings of a stanza; return whether it has any rule.  output: ifquery's output for it."""
    passes = make_passes(iface, split_passes(output, iface, names))
    rules = read_rules_of(passes)
    for errors in (
        rules.errors,
        list_undefined_words(rules),
        list_doubts(rules),
        _list_tunnel_errors(rules),
        list_guard_errors(iface, merge_options(passes), rules, names),
    ):
        report.add_rules(ERROR, iface, errors)
    if conflict := find_conflict(passes):
        report.add_option(ERROR, iface, "netconf-guard-backend", conflict)
    for warnings in (
        list_dead_lines(rules),
        _list_boot_starts(rules),
        _list_tunnel_warnings(rules),
        _list_debian_starts(parse_options(output), rules),
        _list_trust_warnings(rules),
        list_shared_warnings(rules),
        list_guard_warnings(iface, rules, parse_options(output)),
        # The rules are read from the passes, which have no pre-up lines.
        list_early_lines(iface, parse_options(output), rules, names),
    ):
        report.add_rules(WARNING, iface, warnings)
    if problem := _find_port_problem(iface, rules):
        report.add_option(WARNING, iface, "netconf-outside-ports", problem)
    return has_rules(passes)


def _list_tunnel_errors(rules: Rules) -> list[RuleError]:
    problems = []
    for rule in rules.vpns:
        if rule.readable:
            try:
                load_tunnel(rule.kind, rule.name).check()
            except TunnelError as error:
                problems.append(RuleError("netconf-vpn", rule.text, str(error)))
    return problems


def _list_boot_starts(rules: Rules) -> list[RuleError]:
    problems = []
    for rule in rules.vpns:
        if rule.readable:
            also = load_tunnel(rule.kind, rule.name).boot_start()
            if also:
                problems.append(RuleError("netconf-vpn", rule.text, f"it also starts at boot: {also}"))
    return problems


def _list_tunnel_warnings(rules: Rules) -> list[RuleError]:
    warnings = []
    for rule in rules.vpns:
        if rule.readable:
            tunnel = load_tunnel(rule.kind, rule.name)
            said = tunnel.list_warnings() if hasattr(tunnel, "list_warnings") else ()
            relays = tunnel.list_relays() if rules.is_guarded() and hasattr(tunnel, "list_relays") else ()
            warnings += [RuleError("netconf-vpn", rule.text, warning) for warning in (*said, *relays)]
    return warnings


def _list_debian_starts(options: Mapping[str, str], rules: Rules) -> list[RuleError]:
    """Return a warning for each tunnel that the hook of Debian's openvpn also starts, regardless of the rules."""
    started = {name: line for line in options.get("openvpn", "").split("\n") for name in line.split()}
    return [
        RuleError(
            "openvpn", started[rule.name],
            f'the hook of the package openvpn starts {rule.name} whatever "netconf-vpn {rule.text}" says, and it is '
            "stopped again where it should not run: take this line out",
        )
        for rule in rules.vpns
        if rule.kind == "openvpn" and rule.name in started
    ]  # fmt: skip


def _find_port_problem(iface: str, rules: Rules) -> str:
    if not (rules.locations or rules.vpns or rules.guard):
        return ""
    try:
        return find_isolation(device_of(iface), rules.outside_ports)
    except NetlinkError as error:
        return f"which ports it has can't be seen: {error}"


def _list_trust_warnings(rules: Rules) -> list[RuleError]:
    if rules.trust == "hints":
        return []  # the admin accepts them
    proven = {location.name for location in rules.locations if is_proof(location)}
    hinted = {location.name for location in rules.locations if not is_proof(location)}
    warnings = []
    for rule in rules.vpns:
        for word in rule.condition.unless:
            by_hints = not word.test.is_proof() if word.test else word.text in hinted
            if rules.trust == "authenticated" and word.text in hinted - proven:
                warnings.append(RuleError(
                    "netconf-vpn", rule.text,
                    f'"netconf-trust authenticated" requires proof, but no line of {word.text} has a tls or command '
                    "test: this tunnel is never stopped there",
                ))  # fmt: skip
            elif not rules.trust and by_hints:
                what = f'"{word.text}"' if word.test else f"the hints of {word.text}"
                warnings.append(RuleError(
                    "netconf-vpn", rule.text,
                    f'anybody who forges {what} can stop this tunnel; write "netconf-trust hints" if you accept that',
                ))  # fmt: skip
    return warnings


# Tests that hold in many networks, or in all of one interface.
_WEAK = ("gateway", "address", "interface", "carrier", "mtu")


def list_shared_warnings(rules: Rules) -> list[RuleError]:
    """Return a warning for each location line whose only test is a router's MAC address that many networks share."""
    warnings = []
    for location in rules.locations:
        telling = [test for test in location.tests if not test.negated and test.key not in _WEAK]
        users = [_find_shared(test) for test in telling]
        if users and all(users):
            warnings.append(RuleError(
                "netconf-location", location.text,
                f"the router's MAC address is the same in many networks ({users[0]}): add a test that only "
                f"{location.name} answers, such as dns-domain or tls",
            ))  # fmt: skip
    return warnings


def _find_shared(test: Test) -> str:
    """Return what uses the MAC addresses of a test in many networks; empty if each belongs to one network."""
    if test.key not in ("gateway-mac", "peer"):
        return ""
    return next((user for value in test.values if (user := find_user(value.rpartition("/")[2]))), "")


def list_dead_lines(rules: Rules) -> list[RuleError]:
    """Return a warning for each location line that can never hold, or never be the first that does.

    Only for lines that are wrong on every network, not for lines that merely look odd.
    """
    warnings = []
    for number, location in enumerate(rules.locations):
        contradiction = _find_contradiction(location)
        if contradiction:
            warnings.append(RuleError("netconf-location", location.text, f"can never hold: {contradiction}"))
            continue
        for earlier in rules.locations[:number]:
            # A line of the same name still counts if it has a proof.
            proves = location.name == earlier.name and is_proof(location) and not is_proof(earlier)
            if _is_stricter(location, earlier) and not proves:
                warnings.append(RuleError(
                    "netconf-location", location.text,
                    f'never counts: if it holds, "{earlier.text}", which is written before it, holds, too',
                ))  # fmt: skip
                break
    return warnings


def _find_contradiction(location: Location) -> str:
    """Return a message about tests of a line that exclude each other; empty if there are none."""
    for test in location.tests:
        for other in location.tests:
            if test.key == other.key and other.negated and not test.negated and is_covered(test, other):
                return f"{test.text} and {other.text} exclude each other"
    for key in (key for key, kind in TESTS.items() if kind.single):
        wanted = [test for test in location.tests if test.key == key and not test.negated]
        if wanted and not set(wanted[0].values).intersection(*(test.values for test in wanted)):
            return f"{' and '.join(test.text for test in wanted)} exclude each other: there is one {key} at a time"
    return ""


def _is_stricter(location: Location, earlier: Location) -> bool:
    """Whether `earlier` holds whenever `location` does: each of its tests follows from one of the other's."""
    return all(any(follows(wanted, test) for test in location.tests) for wanted in earlier.tests)


def follows(conclusion: Test, premise: Test) -> bool:
    if conclusion.key != premise.key or conclusion.negated != premise.negated:
        return False
    return is_covered(conclusion, premise) if conclusion.negated else is_covered(premise, conclusion)


def is_covered(test: Test, other: Test) -> bool:
    """Whether all values of `test` are also values of `other`, ignoring negation."""
    return all(any(_is_value_covered(test.key, value, wider) for wider in other.values) for value in test.values)


def _is_value_covered(key: str, value: str, wider: str) -> bool:
    if value == wider:
        return True
    syntax = TESTS[key].syntax
    if syntax is NETWORK:
        address, _, length = value.partition("/")
        return int(wider.partition("/")[2]) <= int(length) and syntax.matches(wider, address)
    if syntax is DOMAIN and value.startswith("*."):
        return wider.startswith("*.") and value.endswith(wider[1:])
    if syntax is PATTERN and any(character in value for character in "*?["):
        return False  # don't check whether one pattern is part of another
    return not TESTS[key].asked and syntax.matches(wider, value)
