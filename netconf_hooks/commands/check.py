"""``netconf-hooks check``: all errors and warnings of the stanzas, before they are used."""

from __future__ import annotations

from netconf_hooks.commands.check_guard import list_early_lines, list_guard_errors, list_guard_warnings
from netconf_hooks.commands.entry import FAILED, OK
from netconf_hooks.evidence.ports import find_isolation
from netconf_hooks.ifenv import device_of
from netconf_hooks.interfaces import InterfacesError, query_options, query_passes, read_names
from netconf_hooks.passes import find_conflict, make_passes, read_rules_of
from netconf_hooks.place import is_match, is_proof
from netconf_hooks.rules import Rules, TESTS, list_doubts, list_undefined_words
from netconf_hooks.state import merge_options
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.tunnels import TunnelError, load_tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from netconf_hooks.rules import Location, Test
    from netconf_hooks.state import Store

# The tests that see one value at a time.  Of others there may be several: two routers, four resolvers, aliases.
_SINGLE = ("carrier", "ssid")


def check_stanzas(options: Namespace, store: Store) -> int:
    """``netconf-hooks check [IFACE...]``: changes nothing, runs no mapping script, asks no network."""
    names = read_names()
    for problem in names.problems:
        print(f"not examined: {problem}")
    errors = 0
    examined = 0
    for iface in options.ifaces or names.stanzas:
        try:
            passes = make_passes(iface, query_passes(iface, names))
            written = merge_options(passes)
            commands = query_options(iface)  # the rules are read from the passes, which have no pre-up lines
            rules = read_rules_of(passes)
        except InterfacesError as error:
            errors += _report("error", [str(error)])
            continue
        errors += _report(f"{iface}: error", [str(error) for error in rules.errors])
        errors += _report(f"{iface}: error", [*list_undefined_words(rules), *list_doubts(rules)])
        errors += _report(f"{iface}: error", list(_list_tunnel_errors(rules)))
        errors += _report(f"{iface}: error", list_guard_errors(iface, written, rules, names))
        errors += _report(f"{iface}: error", [conflict for conflict in (find_conflict(passes),) if conflict])
        for list_warnings in (list_dead_lines, _list_boot_starts, _list_trust_warnings):
            _report(f"{iface}: warning", list_warnings(rules))
        _report(f"{iface}: warning", list_guard_warnings(iface, rules))
        _report(f"{iface}: warning", list_early_lines(iface, commands, rules, names))
        _report(f"{iface}: warning", _list_port_warnings(iface, rules))
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


def _list_port_warnings(iface: str, rules: Rules) -> list[str]:
    if not (rules.locations or rules.vpns or rules.guard):
        return []
    try:
        problem = find_isolation(device_of(iface), rules.outside_ports)
    except NetlinkError as error:
        problem = f"which ports it has can't be seen: {error}"
    return [problem] if problem else []


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


def list_dead_lines(rules: Rules) -> list[str]:
    """Return a warning for each location line that can never hold, or never be the first that does.

    Only for what is so in every network: not for what merely looks odd.
    """
    warnings = []
    for number, location in enumerate(rules.locations):
        contradiction = _find_contradiction(location)
        if contradiction:
            warnings.append(f'netconf-location "{location.text}": can never hold: {contradiction}')
            continue
        for earlier in rules.locations[:number]:
            # A line of the same name, with a proof in it, still counts as that.
            proves = location.name == earlier.name and is_proof(location) and not is_proof(earlier)
            if _is_stricter(location, earlier) and not proves:
                warnings.append(
                    f'netconf-location "{location.text}": never counts: where it holds, "{earlier.text}", which is '
                    "written before it, holds as well"
                )
                break
    return warnings


def _find_contradiction(location: Location) -> str:
    """Return which tests of a line exclude each other, in words; empty where none do."""
    for test in location.tests:
        for other in location.tests:
            if test.key == other.key and other.negated and not test.negated and _is_covered(test, other):
                return f"{test.text} and {other.text} exclude each other"
    for key in _SINGLE:
        wanted = [test for test in location.tests if test.key == key and not test.negated]
        if wanted and not set(wanted[0].values).intersection(*(test.values for test in wanted)):
            return f"{' and '.join(test.text for test in wanted)} exclude each other: there is one {key} at a time"
    return ""


def _is_stricter(location: Location, earlier: Location) -> bool:
    """Whether `earlier` holds wherever `location` does: each of its tests follows from one of the other's."""
    return all(any(_follows(wanted, test) for test in location.tests) for wanted in earlier.tests)


def _follows(conclusion: Test, premise: Test) -> bool:
    if conclusion.key != premise.key or conclusion.negated != premise.negated:
        return False
    return _is_covered(conclusion, premise) if conclusion.negated else _is_covered(premise, conclusion)


def _is_covered(test: Test, other: Test) -> bool:
    """Whether whatever is one of the values of `test` is also one of those of `other`, negated or not."""
    return all(any(_is_value_covered(test.key, value, wider) for wider in other.values) for value in test.values)


def _is_value_covered(key: str, value: str, wider: str) -> bool:
    if value == wider:
        return True
    syntax = TESTS[key].value
    if syntax == "network":
        address, _, length = value.partition("/")
        return int(wider.partition("/")[2]) <= int(length) and is_match(syntax, wider, address)
    if syntax == "domain" and value.startswith("*."):
        return wider.startswith("*.") and value.endswith(wider[1:])
    if syntax == "pattern" and any(character in value for character in "*?["):
        return False  # whether one pattern is part of another is not worth the telling
    return not TESTS[key].asked and is_match(syntax, wider, value)
