"""``netconf-hooks status``: what is recorded and decided, one line for each interface, guard and tunnel."""

from __future__ import annotations

import json
import os
import sys
import time

from netconf_hooks.commands.entry import OK
from netconf_hooks.commands.unprivileged import has_polkit
from netconf_hooks.decide import DOWN, NO_RULE
from netconf_hooks.evidence.current import list_current
from netconf_hooks.guard.firewall.iptables import list_legacy_guards
from netconf_hooks.guard.override import find_state
from netconf_hooks.passes import describe_pass
from netconf_hooks.place import AUTHENTICATED
from netconf_hooks.record import Record
from netconf_hooks.settle import read_held
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.state import CLOSED, OPEN, RecordError, RELEASED, TunnelRecord, boot_time
from netconf_hooks.system import log, netlink
from netconf_hooks.tunnels import TunnelError, load_tunnel
from netconf_hooks.tunnels.supervision import describe_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping, Sequence

    from netconf_hooks.observation import Observation
    from netconf_hooks.state import GuardRecord, InterfaceRecord, Store, TunnelState

    Tunnel = tuple[str, str]

NO_GUARD = "none"

# What a row's state means to the reader, and its colour: SGR, ECMA-48 8.3.117.
FINE, WAITING, BROKEN, QUIET = "fine", "waiting", "broken", "quiet"
_COLOURS = {FINE: "32", WAITING: "33", BROKEN: "31"}

AUTO, ALWAYS, NEVER = "auto", "always", "never"
"""When colours are used."""

_UP_WORDS = {True: "connected", False: "not connected", None: "not known"}


class Seen(Record):
    """Everything that ``status`` and ``monitor`` show.

    records: of the interfaces; current: those that are still true.
    tunnels: their records, also of held tunnels without a decision; up: whether each is connected, None if unknown;
    states: as the watcher has last seen them.
    guards: by device; states_of_guards: ``closed``, ``open`` or ``released``.
    held: the tunnels that are held or were stopped by hand, each with that in words.
    """

    __slots__ = ("records", "current", "tunnels", "up", "states", "guards", "states_of_guards", "held")

    def __init__(
        self,
        records: Sequence[InterfaceRecord],
        current: Sequence[InterfaceRecord],
        tunnels: Mapping[Tunnel, TunnelRecord],
        up: Mapping[Tunnel, bool | None],
        states: Mapping[Tunnel, TunnelState],
        guards: Mapping[str, GuardRecord],
        states_of_guards: Mapping[str, str],
        held: Mapping[Tunnel, str],
    ) -> None:
        self.records = records
        self.current = current
        self.tunnels = tunnels
        self.up = up
        self.states = states
        self.guards = guards
        self.states_of_guards = states_of_guards
        self.held = held


class Row(Record):
    """One line of the table.

    name: of the interface, guard or tunnel; state: one or two words; meaning: `FINE`, `WAITING`, `BROKEN` or `QUIET`.
    since: by `boot_time`, 0 if unknown.
    reason: why, and what it waits for; help: the command that helps, empty if none does; notes: lines below it.
    """

    __slots__ = ("name", "state", "meaning", "since", "reason", "help", "notes")

    def __init__(
        self,
        name: str,
        state: str,
        meaning: str,
        since: float = 0.0,
        reason: str = "",
        help: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.state = state
        self.meaning = meaning
        self.since = since
        self.reason = reason
        self.help = help
        self.notes = notes


def show_status(options: Namespace, store: Store) -> int:
    """``netconf-hooks status [--json] [--color WHEN]``: reads the records, for any user."""
    seen = read_seen(store)
    if options.json:
        print(json.dumps(describe_seen(seen), indent=2, sort_keys=True))
        return OK
    rows = _list_rows(seen, store, options.verbose)
    for line in format_rows(rows, wants_colour(options.color), boot_time()):
        print(line)
    for pid, what in store.read_abandoned():
        print(f"watcher: process {pid}, which was to {what}, can't be killed and was abandoned")
    if not seen.records and not seen.guards:
        print("no interface with netconf rules is up")
    return OK


def wants_colour(when: str) -> bool:
    """Whether to use colours: as ``--color`` says, otherwise on a terminal that has them, unless NO_COLOR is set
    (no-color.org)."""
    if when != AUTO:
        return when == ALWAYS
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return sys.stdout is not None and sys.stdout.isatty()


def read_seen(store: Store, ask: bool = True) -> Seen:
    """Return everything to show.

    ask: whether to ask the tunnels and, as root, the firewall; otherwise only the records are read.
    """
    records = store.read_interfaces(log.complain)
    held = {**{tunnel: stop.because for tunnel, stop in store.read_stops().items()}, **read_held()}
    without_rule = {tunnel: TunnelRecord(*tunnel, DOWN, NO_RULE, applied=True) for tunnel in held}
    tunnels = {**without_rule, **store.read_tunnels()}
    guards = {guard.device: guard for guard in store.read_guards(log.complain)}
    states = _read_tunnel_states(store.read_states)
    # While no interface is up, the watcher does not inspect held tunnels, so their recorded states may be old.
    held_states = _read_tunnel_states(store.read_held_states) if records and held else {}

    def find_up(tunnel: Tunnel, record: TunnelRecord) -> bool | None:
        up = _ask_is_up(record) if ask else None
        if up is None and (not ask or os.geteuid() != 0):
            # Not every user may query every tunnel.  But the watcher may, and every user may read its result.
            return _is_up(held_states.get(tunnel)) if tunnel in held else _find_is_up(record, states.get(tunnel))
        return up

    return Seen(
        records=records,
        current=list_current(records),
        tunnels=tunnels,
        up={tunnel: find_up(tunnel, record) for tunnel, record in tunnels.items()},
        states=states,
        guards=guards,
        states_of_guards={device: find_state(guard) if ask else _find_state(guard) for device, guard in guards.items()},
        held=held,
    )


def _ask_is_up(tunnel: TunnelRecord) -> bool | None:
    try:
        return load_tunnel(tunnel.kind, tunnel.name).is_up()
    except TunnelError:
        return False


def _find_is_up(tunnel: TunnelRecord, state: TunnelState | None) -> bool | None:
    """Return whether a tunnel is up, according to the records of the watcher and the hooks."""
    if tunnel.verdict == DOWN:
        return False if tunnel.applied else None
    return _is_up(state)


def _is_up(state: TunnelState | None) -> bool | None:
    return bool(state.up_since) if state else None


def _find_state(guard: GuardRecord) -> str:
    if not guard.is_open(time.time()):
        return CLOSED
    return RELEASED if guard.verdict == RELEASED else OPEN


def _read_tunnel_states(read: Callable[[], dict[Tunnel, TunnelState]]) -> dict[Tunnel, TunnelState]:
    """Return the tunnels' states that the watcher has last seen; complain about files that can't be read."""
    try:
        return read()
    except RecordError as error:
        log.complain(str(error))
        return {}


# For people


def format_rows(rows: Sequence[Row], colour: bool, now: float) -> list[str]:
    """Return the lines of the table.  now: by `boot_time`."""
    cells = [(row.name, row.state, format_age(now - row.since) if row.since else "") for row in rows]
    widths = [max((len(row[column]) for row in cells), default=0) for column in range(3)]
    lines = []
    for row, (name, state, age) in zip(rows, cells):
        padded = state.ljust(widths[1])
        if colour and row.meaning in _COLOURS:
            padded = f"\x1b[{_COLOURS[row.meaning]}m{state}\x1b[0m{' ' * (widths[1] - len(state))}"
        parts = [name.ljust(widths[0]), padded, *([age.rjust(widths[2])] if widths[2] else [])]
        helps = f"try: {row.help}" if row.help else ""
        reason = "; ".join(part for part in (log.printable(row.reason), helps) if part)
        lines.append("  ".join([*parts, reason]).rstrip())
        lines += [f"    {log.printable(note)}" for note in row.notes]
    return lines


def format_age(seconds: float) -> str:
    """Return a duration in its largest unit: ``40 s``, ``12 min``, ``3 h``, ``5 d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or unit == "min" and seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _list_rows(seen: Seen, store: Store, verbose: bool) -> list[Row]:
    rows = [_make_interface_row(record, seen, store, verbose) for record in seen.records]
    rows += [_make_guard_row(guard, seen, store) for guard in seen.guards.values()]
    for device in list_legacy_guards():
        if device not in seen.guards or seen.guards[device].backend != "iptables-legacy":
            reason = "in the tables of iptables-legacy: no record knows of it, and it closes the link"
            rows.append(Row(f"guard of {device}", CLOSED, BROKEN, 0.0, reason))
    verdicts = store.read_verdicts_since()
    return [*rows, *(_make_tunnel_row(tunnel, seen, verdicts) for tunnel in seen.tunnels.values())]


def _make_interface_row(record: InterfaceRecord, seen: Seen, store: Store, verbose: bool) -> Row:
    since = store.read_interface_since(record.iface)
    if record.wish:
        raised = f"{', '.join(record.raised)} came up for it" if record.raised else ""
        return Row(record.iface, "a wish", FINE, since, raised)
    notes = _describe_passes(record)
    if verbose:
        notes += [
            f"{key}: {', '.join(answer.values) or answer.problem}" for key, answer in record.observation.answers.items()
        ]
    place = name_place(record)
    if record in seen.current:
        notes += describe_portal(record.observation)
    if record not in seen.current:
        if _is_kept_by_guest(record):
            notes.insert(0, "the kernel goes on using its routes: the port of a guest gives the bridge carrier")
        return Row(
            record.iface, place, QUIET, since, "does not count: no carrier, or the device was replaced", "", notes
        )
    if record.place.undecided:
        reason = "a test was not answered in time; asked again by the watcher"
        return Row(record.iface, place, WAITING, since, reason, f"netconf-hooks explain {record.iface}", notes)
    if not record.place.location:
        reason = "no netconf-location line holds" if record.rules.locations else "it has no netconf-location line"
        return Row(record.iface, place, WAITING, since, reason, "", notes)
    grade = "proven" if record.place.grade == AUTHENTICATED else "by hints"
    return Row(record.iface, place, FINE, since, f"{grade}: netconf-location {record.place.line}", "", notes)


def _make_guard_row(guard: GuardRecord, seen: Seen, store: Store) -> Row:
    state = seen.states_of_guards[guard.device]
    notes = []
    helps = ""
    if state != guard.verdict:
        notes.append(f"decided, and not done yet: {guard.verdict}")
        helps = "sudo netconf-hooks refresh --guards" if guard.done else ""
    left = guard.portal_left()
    if left > 0:
        notes.append(f"a captive portal may be visited for another {left:.0f} s")
    if guard.lan and state == CLOSED:
        notes.append(f"the LAN may be reached: {', '.join(guard.lan)}")
    if guard.problem:
        notes.append(guard.problem)
    if state == RELEASED:
        helps = f"sudo ifup --force {guard.device}"
    elif state == CLOSED and left <= 0 and _may_need_portal(guard, seen):
        helps = _offer(f"portal {guard.device}")
    meaning = {CLOSED: BROKEN if guard.problem else FINE, OPEN: FINE, RELEASED: BROKEN}[state]
    return Row(
        f"guard of {guard.device}", state, meaning, store.read_guard_since(guard.device),
        f"({guard.backend}) {guard.because}", helps, notes,
    )  # fmt: skip


def _may_need_portal(guard: GuardRecord, seen: Seen) -> bool:
    """Whether a captive portal may keep tunnels behind a closed guard from connecting: the link has a default route,
    and none of the tunnels that should be up is up."""
    here = [record for record in seen.current if not record.wish and device_of(record.iface) == guard.device]
    wanted = [tunnel for tunnel, record in seen.tunnels.items() if record.verdict != DOWN and not record.held]
    return (
        any(record.observation.routable for record in here)
        and bool(wanted)
        and not any(seen.up[tunnel] for tunnel in wanted)
    )


def _make_tunnel_row(tunnel: TunnelRecord, seen: Seen, verdicts: Mapping[Tunnel, tuple[str, float]]) -> Row:
    key = (tunnel.kind, tunnel.name)
    name = " ".join(key)
    up = seen.up[key]
    state = seen.states.get(key)
    hold = seen.held.get(key, "")
    waits = describe_wait(tunnel, up, seen.states)
    words = [f"{hold}; should be {tunnel.verdict}" if hold else f"should be {tunnel.verdict}"]
    reason = f"{words[0]}: {tunnel.because}"
    if waits:
        reason += f"; waits: {waits}"
    notes = [tunnel.problem] if tunnel.problem and tunnel.problem not in waits else []
    as_wanted = up is (tunnel.verdict != DOWN)
    meaning = FINE if as_wanted else QUIET if up is None or hold else BROKEN if tunnel.problem else WAITING
    helps = ""
    if hold:
        helps = _offer(f"unhold {name}")
    elif tunnel.problem and not as_wanted:
        helps = "netconf-hooks check"
    elif tunnel.verdict == DOWN and up:
        helps = _offer("refresh")
    since = verdicts.get(key, ("", 0.0))[1] if not state or tunnel.verdict == DOWN else state.up_since or state.since
    return Row(name, _UP_WORDS[up], meaning, since, reason, helps, notes)


def _offer(command: str) -> str:
    """Return a command line that this user can run: with sudo, unless polkit can allow it."""
    by_polkit = os.geteuid() != 0 and has_polkit()
    return f"{'' if by_polkit else 'sudo '}netconf-hooks {command}"


def name_place(record: InterfaceRecord) -> str:
    """Return the location's name, ``unknown`` or ``undecided``."""
    if record.place.undecided:
        return "undecided"
    return record.place.location or "unknown"


def describe_portal(observation: Observation) -> list[str]:
    """Return a line for each captive portal that a network announces."""
    lines = [f"the network announces a captive portal: {uri}" for uri in observation.portal.uris]
    return [*lines, *([observation.portal.problem] if observation.portal.problem else [])]


def describe_wait(tunnel: TunnelRecord, up: bool | None, states: Mapping[Tunnel, TunnelState]) -> str:
    """Return what a tunnel that should be up waits for; empty if it is up, or if the watcher has not seen it yet."""
    state = states.get((tunnel.kind, tunnel.name))
    return describe_state(state, boot_time()) if state and up is not True and tunnel.verdict == "up" else ""


def _is_kept_by_guest(record: InterfaceRecord) -> bool:
    """Whether netconf-linkdown-routes can't work for a bridge without cable, since the kernel reports carrier for
    it."""
    link = netlink.read_link(device_of(record.iface))
    return link is not None and link.index == record.observation.index and link.carrier


def _describe_passes(record: InterfaceRecord) -> list[str]:
    """Return the stanzas that an interface's rules come from, in words, unless it is simply the interface's own."""
    lines = []
    for each in record.passes:
        if not each.reached:
            lines.append(f"{describe_pass(each)} is still in force: the last ifup did not reach it; ifdown ends it")
        elif len(record.passes) > 1 or each.logical not in ("", record.iface):
            lines.append(f"by {describe_pass(each)}")
    return lines


# For programs


def describe_seen(seen: Seen) -> dict[str, object]:
    """Return the object that ``status --json`` prints, netconf-hooks(8)."""
    return {
        "guards": {
            guard.device: {
                "state": seen.states_of_guards[guard.device],
                "because": guard.because,
                "backend": guard.backend,
                "portal": round(guard.portal_left(), 1),
                "lan": list(guard.lan),
                "problem": guard.problem or None,
            }
            for guard in seen.guards.values()
        },
        "interfaces": {
            record.iface: {
                "location": record.place.location or None,
                "undecided": record.place.undecided,
                "guard": seen.states_of_guards.get(device_of(record.iface), NO_GUARD),
                "counts": record in seen.current,
                "wish": record.wish,
                "line": record.place.line or None,
                "grade": record.place.grade or None,
                "routable": record.observation.routable,
                "portals": list(record.observation.portal.uris),
                "seen": {key: list(answer.values) for key, answer in record.observation.answers.items()},
                "passes": [
                    {"logical": each.logical or record.iface, "family": each.family, "reached": each.reached}
                    for each in record.passes
                ],
            }
            for record in seen.records
        },
        "tunnels": {
            f"{kind} {name}": {
                "wanted": tunnel.verdict == "up",
                "up": seen.up[kind, name],
                "because": tunnel.because,
                "problem": tunnel.problem or None,
                "held": seen.held.get((kind, name)),
                "state": describe_wait(tunnel, seen.up[kind, name], seen.states) or None,
                "since": _find_since(seen.states.get((kind, name))) if tunnel.verdict == "up" else None,
            }
            for (kind, name), tunnel in seen.tunnels.items()
        },
    }


def _find_since(state: TunnelState | None) -> float | None:
    """Return since when a tunnel is as it is, seconds since 1970."""
    return round(time.time() - (boot_time() - state.since), 1) if state else None
