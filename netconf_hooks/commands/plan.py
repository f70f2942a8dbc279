"""``netconf-hooks plan``: what would be decided in which situation, by the rules alone; it looks at no network."""

from __future__ import annotations

import json

from netconf_hooks.commands.entry import CommandError, OK
from netconf_hooks.commands.situations import NO_GUARD, list_situations, varies_single_tests
from netconf_hooks.decide import KEEP
from netconf_hooks.observation import OPEN as UNENCRYPTED
from netconf_hooks.passes import has_rules, make_passes
from netconf_hooks.place import AUTHENTICATED
from netconf_hooks.stanzas.ifenv import is_name
from netconf_hooks.stanzas.interfaces import InterfacesError, read_names, run_ifquery, split_passes
from netconf_hooks.stanzas.rules import list_doubts, list_undefined_words
from netconf_hooks.state import InterfaceRecord
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Sequence

    from netconf_hooks.commands.situations import Situation
    from netconf_hooks.state import Store

MOST_ROWS = 100
_MOST_NAMED = 10  # situations of one interface in the last line

_STATES = {KEEP: "left alone"}


def plan_situations(options: Namespace, store: Store) -> int:
    """``netconf-hooks plan [--json] [IFACE...]``: reads the stanzas, and nothing else."""
    interfaces, notes = _read_interfaces(options.ifaces)
    for record in interfaces:
        rules = record.rules
        errors = len((*rules.errors, *list_undefined_words(rules), *list_doubts(rules)))
        if errors:
            notes.append(f"{record.iface}: its rules have {errors} errors: netconf-hooks check names them")
        if varies_single_tests(rules):
            notes.append(f"{record.iface}: its conditions have many tests: only one at a time is taken to hold")
    for note in notes:
        log.complain(note)
    situations = list_situations(interfaces)
    if options.json:
        print(json.dumps({"situations": [_describe(situation) for situation in situations]}, indent=2))
        return OK
    for line in _list_lines(interfaces, situations):
        print(line)
    return OK


def _read_interfaces(asked: Sequence[str]) -> tuple[list[InterfaceRecord], list[str]]:
    """Return the interfaces to plan for, as records of interfaces that are up, and notes about those that are left out.
    """
    for iface in asked:
        if not is_name(iface):
            raise CommandError(f'plan: "{log.printable(iface)}" is not the name of an interface')
    names = read_names()
    notes = [f"not examined: {problem}" for problem in names.problems]
    found = []
    templates = []
    for iface in dict.fromkeys(asked or names.stanzas):
        try:
            passes = make_passes(iface, split_passes(run_ifquery(iface), iface, names))
        except InterfacesError as error:
            if asked:
                raise
            notes.append(f"left out: {error}")
            continue
        if not has_rules(passes):
            if asked:
                raise CommandError(f"plan: the stanza of {iface} has no netconf- options")
        elif iface in names.parents and not asked:
            templates.append(iface)
        else:
            record = InterfaceRecord(iface, passes)
            found.append(record.change(wish=bool(record.rules.uplinks)))
    if not found and not templates:
        raise CommandError(
            "plan: no stanza in /etc/network/interfaces has netconf- options (netconf-hooks check says how to begin)"
        )
    if templates:
        notes.append(f"only inherited from, and left out: {', '.join(templates)} (name it to see it)")
    return found, notes


# For people


def _list_lines(interfaces: Sequence[InterfaceRecord], situations: Sequence[Situation]) -> list[str]:
    tunnels = list(dict.fromkeys(tunnel for situation in situations for tunnel in situation.tunnels))
    labels = _name_situations(situations)
    rows = [
        (
            label,
            *(_STATES.get(state, state) for state in (situation.tunnels[tunnel] for tunnel in tunnels)),
            _name_guards(situation),
            "yes" if situation.clear else "no",
        )
        for label, situation in zip(labels, situations)
    ]
    ending = []
    if len(rows) > MOST_ROWS:
        folded = _fold(rows, [tuple(record.iface for record in situation.records) for situation in situations])
        ending.append(f"{len(rows)} situations; those with the same outcome share a row")
        if len(folded) > MOST_ROWS:
            ending.append(f"{len(folded) - MOST_ROWS} more rows: name interfaces, or use --json, to see all")
        rows = folded[:MOST_ROWS]
    heading = ("situation", *(" ".join(tunnel) for tunnel in tunnels), "guard", "in the clear")
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (heading, *rows)]
    return [*lines, *ending, _describe_clear(interfaces, situations, labels)]


def _fold(rows: Iterable[tuple[str, ...]], ifaces: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the rows; rows of the same interfaces with the same outcome become one."""
    folded: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (label, *outcome), names in zip(rows, ifaces):
        folded.setdefault((names, tuple(outcome)), []).append(label)
    return [
        (f"{first}, and {len(others)} more" if others else first, *outcome)
        for (_, outcome), (first, *others) in folded.items()
    ]


def _name_situations(situations: Sequence[Situation]) -> list[str]:
    labels = [", ".join(_name_record(record, False) for record in situation.records) for situation in situations]
    # Two lines of one location with a faulty line between them are two situations.
    return [
        label if labels.count(label) == 1 else ", ".join(_name_record(record, True) for record in situation.records)
        for label, situation in zip(labels, situations)
    ]


def _name_record(record: InterfaceRecord, with_line: bool) -> str:
    if record.wish:
        return f"{record.iface} wanted"
    place = record.place
    if place.undecided:
        words = ["undecided"]
    elif place.location:
        grade = "proven" if place.grade == AUTHENTICATED else "by hints"
        words = [f"at {place.location} ({grade})"]
    else:
        words = ["at an unknown place"]
    if with_line and place.line:
        words.append(f'by "{place.line}"')
    if not record.observation.routable:
        words.append("no route")
    if record.observation.wireless == UNENCRYPTED:
        words.append("not encrypted")
    words += [
        f"{test} {'holds' if verdict else 'not answered'}"
        for test, verdict in place.words.items()
        if verdict is not False
    ]
    return log.printable(f"{record.iface} {'; '.join(words)}")


def _name_guards(situation: Situation) -> str:
    states = list(situation.guards.values())
    if len(situation.guards) == 1:
        return states[0]
    return ", ".join(f"{iface} {state}" for iface, state in situation.guards.items()) or NO_GUARD


def _describe_clear(
    interfaces: Sequence[InterfaceRecord], situations: Sequence[Situation], labels: Sequence[str]
) -> str:
    """Return the situations in which traffic may leave in the clear, in words."""
    parts = []
    for interface in interfaces:
        mine = [
            (situation, label)
            for situation, label in zip(situations, labels)
            if tuple(situation.guards) == (interface.iface,)
        ]
        clear = [label for situation, label in mine if situation.clear]
        if clear and mine[0][0].guards[interface.iface] == NO_GUARD:
            parts.append(f"{interface.iface} anywhere, since it has no guard")
        elif len(clear) > _MOST_NAMED:
            parts += [*clear[:_MOST_NAMED], f"{len(clear) - _MOST_NAMED} more situations of {interface.iface}"]
        else:
            parts += clear
    return f"traffic may leave in the clear: {', or '.join(parts) or 'nowhere'}"


# For programs


def _describe(situation: Situation) -> dict[str, object]:
    return {
        "interfaces": {
            record.iface: {
                "location": None if record.place.undecided else record.place.location or None,
                "grade": None if record.place.undecided else record.place.grade or None,
                "undecided": record.place.undecided,
                "routable": record.observation.routable,
                "encrypted": record.observation.wireless != UNENCRYPTED,
            }
            for record in situation.records
        },
        "tunnels": {" ".join(tunnel): state for tunnel, state in situation.tunnels.items()},
        "guards": {record.iface: situation.guards.get(record.iface, NO_GUARD) for record in situation.records},
        "clear": situation.clear,
    }
