"""The command: netconf-hooks(8)."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from io import TextIOWrapper

from netconf_hooks.commands.check import check_stanzas
from netconf_hooks.commands.entry import CommandError, FAILED, OK, UNREADABLE
from netconf_hooks.commands.explain import explain_rules
from netconf_hooks.commands.hold import hold_tunnel, read_hold_time, unhold_tunnel
from netconf_hooks.commands.plan import plan_situations
from netconf_hooks.commands.portal import PORTAL_TIME, close_links, read_duration, release_link, visit_portal
from netconf_hooks.commands.probe import probe_network
from netconf_hooks.decide import DOWN, NO_RULE
from netconf_hooks.evidence.current import list_current
from netconf_hooks.guard.firewall.iptables import list_legacy_guards
from netconf_hooks.guard.enforce import put_back
from netconf_hooks.guard.override import find_state
from netconf_hooks.ifenv import device_of
from netconf_hooks.interfaces import InterfacesError
from netconf_hooks.passes import describe_pass
from netconf_hooks.settle import look_again, read_held, settle
from netconf_hooks.state import RecordError, Store, TunnelRecord, boot_time
from netconf_hooks.supervision import describe_state
from netconf_hooks.system import log, netlink
from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.tunnels import TunnelError, load_tunnel
from netconf_hooks.wake import wake_watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import NoReturn

    from netconf_hooks.state import GuardRecord, InterfaceRecord, TunnelState

_PROGRAM = "netconf-hooks"

# The watcher's exit status after an error that nobody has foreseen: EX_SOFTWARE, sysexits.h.
CRASHED = 70


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


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line; argparse's own usage message may fill a screen."""

    def error(self, message: str) -> NoReturn:
        """Complain, and exit with status 2."""
        command = self.prog.removeprefix(_PROGRAM).strip()
        place = f"{command}: " if command else ""
        log.complain(f"{place}{message} ({self.prog} --help says more)")
        sys.exit(UNREADABLE)


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.fill(
            "Says which network an interface is on and what follows from that; the rules stand in "
            "/etc/network/interfaces, see netconf-interfaces(5)."
        ),
        epilog="To begin with, on the network that is to be known:\n"
        "  netconf-hooks probe eth0       prints a line to put into the stanza of eth0\n"
        "  netconf-hooks check            finds mistakes before they are used\n"
        "  netconf-hooks explain eth0     says what follows, and why, and changes nothing\n"
        "netconf-hooks COMMAND --help says more.\n\n"
        "exit status: 0 all is well, 1 it could not be done (check: there are errors),\n"
        "2 the command line could not be read",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say how things were found out")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    status = _add_command(
        commands, "status", show_status, "what is known of the interfaces, and what the tunnels do",
        "Shows what the hooks have recorded and decided, without looking at the network.  Any user may ask.",
        "netconf-hooks status",
        "netconf-hooks status --json | jq -r '.interfaces.eth0.location'",
    )  # fmt: skip
    status.add_argument("--json", action="store_true", help="for programs: the keys are in netconf-hooks(8)")

    explain = _add_command(
        commands, "explain", explain_rules, "look at the network now: every rule, every test, what was seen",
        "Shows every location line, every test in it and what was seen, and what follows for each tunnel.  "
        "Changes nothing.  An interface that is up is explained by the rules recorded at its ifup, another one by its "
        "stanza.",
        "netconf-hooks explain eth0",
        "ssh laptop netconf-hooks probe --json wlan0 | netconf-hooks explain --as - eth0",
    )  # fmt: skip
    explain.add_argument("--json", action="store_true", help="for programs: the keys are in netconf-hooks(8)")
    explain.add_argument(
        "--as", metavar="FILE", dest="recording",
        help="decide on what `netconf-hooks probe --json` has printed elsewhere, by the stanza as it stands now; "
        "-: standard input",
    )  # fmt: skip
    explain.add_argument("iface", nargs="?", metavar="IFACE", help="all recorded interfaces if not given")

    plan = _add_command(
        commands, "plan", plan_situations, "what would be decided where, by the stanzas alone",
        "Lists every situation that the rules tell apart, with what each tunnel and guard would do there, and whether "
        "traffic may leave outside of the tunnels.  Reads the stanzas, looks at no network, changes nothing.",
        "netconf-hooks plan",
        "netconf-hooks plan --json eth0 | jq '.situations[] | select(.clear)'",
    )  # fmt: skip
    plan.add_argument("--json", action="store_true", help="for programs: the keys are in netconf-hooks(8)")
    plan.add_argument("ifaces", nargs="*", metavar="IFACE", help="all stanzas with rules if none is given")

    probe = _add_command(
        commands, "probe", probe_network, "what is seen of the network now, as a netconf-location line to paste",
        "Looks at the network and prints what is seen, each test a comment, and a line that holds here.  "
        "Asks nobody but the router for its MAC address.",
        "netconf-hooks probe eth0",
        "netconf-hooks probe --json eth0 >cafe.json    (to try rules on, later: explain --as cafe.json)",
    )  # fmt: skip
    probe.add_argument("--json", action="store_true", help="everything seen, for programs and for explain --as")
    probe.add_argument("iface", metavar="IFACE")

    location = _add_command(
        commands, "location", print_location, "print the location's name, for scripts",
        'Prints the name that the hooks have recorded, "unknown" or "undecided"; fails where IFACE is not up.',
        '[ "$(netconf-hooks location eth0)" = office ] && lpr -P corridor letter.ps',
    )  # fmt: skip
    location.add_argument("iface", metavar="IFACE")

    check = _add_command(
        commands, "check", check_stanzas, "all errors and warnings of the stanzas; exit status 1 on errors",
        "Reads the stanzas in /etc/network/interfaces as ifupdown does, and says what is wrong with their netconf- "
        "options.  Asks no network, runs no mapping script, changes nothing.",
        "netconf-hooks check",
        "netconf-hooks check eth0 && ifdown eth0 && ifup eth0",
    )  # fmt: skip
    check.add_argument("ifaces", nargs="*", metavar="IFACE", help="all stanzas if none is given")

    refresh = _add_command(
        commands, "refresh", decide_again, "look at the network again and decide again, by the recorded rules",
        "For what the watcher can't see, as a lease with another domain.  A stanza that was changed since takes an "
        "ifdown and an ifup.  Needs root.",
        "netconf-hooks refresh",
    )  # fmt: skip
    refresh.add_argument(
        "--guards", action="store_true", help="only put guards back that somebody took away (nft flush ruleset)"
    )
    refresh.add_argument("ifaces", nargs="*", metavar="IFACE", help="all recorded interfaces if none is given")

    hold = _add_command(
        commands, "hold", hold_tunnel, "keep the rules' hands off a tunnel, until unhold",
        "A held tunnel is neither started nor stopped, nor restarted if it ends, whatever the rules say, also after a "
        "reboot.  Needs root.",
        "netconf-hooks hold openvpn corp",
        "netconf-hooks hold openvpn corp --for 2h",
    )  # fmt: skip
    hold.add_argument("kind", metavar="KIND", help="as in netconf-vpn: openvpn, ipsec, wireguard, unit")
    hold.add_argument("name", metavar="NAME")
    hold.add_argument(
        "--for", metavar="TIME", dest="seconds", type=_read_hold_time, default=0.0,
        help="30m, 2h, 3d, at most a year; until unhold if not given",
    )  # fmt: skip

    unhold = _add_command(
        commands, "unhold", unhold_tunnel, "let a tunnel follow the rules again",
        "Ends the hold of a tunnel, which is brought to what the rules say at once.  Needs root.",
        "netconf-hooks unhold openvpn corp",
    )  # fmt: skip
    unhold.add_argument("kind", metavar="KIND")
    unhold.add_argument("name", metavar="NAME")

    portal = _add_command(
        commands, "portal", visit_portal, "let a captive portal through a guard, for a time",
        "Lets http, https and the link's own DNS through the guard of IFACE, for the user who calls it (by sudo), and "
        "nothing else.  The kernel ends it, whatever happens.  Needs root.",
        "sudo netconf-hooks portal wlan0 --for 5m",
    )  # fmt: skip
    portal.add_argument("iface", metavar="IFACE")
    portal.add_argument(
        "--for", metavar="TIME", dest="seconds", type=_read_time, default=PORTAL_TIME,
        help="90s, 5m, at most an hour; 5m if not given",
    )  # fmt: skip

    release = _add_command(
        commands, "release", release_link, "the emergency exit: open a guard until the next ifup",
        "Takes the guard of IFACE away until its next ifup: anything may leave, unencrypted.  Needs root.",
        "sudo netconf-hooks release eth0",
    )  # fmt: skip
    release.add_argument("iface", metavar="IFACE")

    _add_command(
        commands, "close", close_links, "shut all guards until the networks were looked at again",
        "Shuts every guard that is open.  What follows (refresh, the watcher) opens it again where the rules say so.  "
        "Run before the machine sleeps.  Needs root.",
        "netconf-hooks close",
    )  # fmt: skip

    _add_command(
        commands, "watch", watch_network, "decide again whenever the network changes (the hooks start it)",
        "Runs until no interface with rules is up; a second one leaves at once.  Needs root.",
        "netconf-hooks -v watch    (to look on, after: systemctl stop netconf-hooks-watch)",
    )  # fmt: skip
    return parser


def _read_time(text: str) -> float:
    return _read_seconds(text, read_duration)


def _read_hold_time(text: str) -> float:
    return _read_seconds(text, read_hold_time)


def _read_seconds(text: str, read: Callable[[str], float]) -> float:
    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    run: Callable[[argparse.Namespace, Store], int],
    summary: str,
    description: str,
    *examples: str,
) -> argparse.ArgumentParser:
    """Add a command.  summary: its line in the list of all; description and examples: what its own --help shows."""
    parser = commands.add_parser(
        name,
        help=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.fill(description),
        epilog="for example:\n" + "".join(f"  {example}\n" for example in examples),
    )
    parser.set_defaults(run=run)
    return parser


# --- status


def show_status(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks status [--json]``: from the records, for any user."""
    records = store.read_interfaces(log.complain)
    current = list_current(records)
    held = {**{tunnel: stop.because for tunnel, stop in store.read_stops().items()}, **read_held()}
    tunnels = _add_held(store.read_tunnels(), held)
    guards = {guard.device: guard for guard in store.read_guards(log.complain)}
    up = {tunnel: _ask_is_up(record) for tunnel, record in tunnels.items()}
    states = read_tunnel_states(store)
    if options.json:
        print(json.dumps(_make_status(records, current, tunnels, up, guards, held, states), indent=2, sort_keys=True))
        return OK
    for record in records:
        if record.wish:
            raised = f", for which {', '.join(record.raised)} came up" if record.raised else ""
            print(f"{record.iface}: a wish{raised}")
            continue
        note = "" if record in current else "  (does not count: no carrier, or another device by now)"
        print(f"{record.iface}: {_name_place(record)}{note}")
        if record.place.line:
            print(f"    netconf-location {record.place.line}")
        if record not in current and _is_kept_by_guest(record):
            print("    the kernel goes on using its routes: the port of a guest gives the bridge carrier")
        for key, answer in record.observation.answers.items():
            print(f"    {key}: {log.printable(', '.join(answer.values) or answer.problem)}")
        for line in _describe_passes(record):
            print(log.printable(line))
    for guard in guards.values():
        for line in _describe_guard(guard):
            print(log.printable(line))
    for device in list_legacy_guards():
        if device not in guards or guards[device].backend != "iptables-legacy":
            print(f"guard of {device} in the tables of iptables-legacy: no record knows of it, and it closes the link")
    for (kind, name), tunnel in tunnels.items():
        hold = f"; {held[kind, name]}" if (kind, name) in held else ""
        print(f"{kind} {name}: {_UP_WORDS[up[kind, name]]}{hold}; should be {tunnel.verdict}: {tunnel.because}")
        waits = _describe_wait(tunnel, up[kind, name], states)
        if tunnel.problem and tunnel.problem not in waits:
            print(f"    {log.printable(tunnel.problem)}")
        if waits:
            print(f"    {log.printable(waits)}")
    for pid, what in store.read_abandoned():
        print(f"watcher: process {pid}, which was to {what}, can't be killed and was abandoned")
    if not records and not guards:
        print("no interface with netconf rules is up")
    return OK


_UP_WORDS = {True: "connected", False: "not connected", None: "can't tell whether it is connected"}


def _make_status(
    records: Sequence[InterfaceRecord],
    current: Sequence[InterfaceRecord],
    tunnels: dict[tuple[str, str], TunnelRecord],
    up: dict[tuple[str, str], bool | None],
    guards: dict[str, GuardRecord],
    held: dict[tuple[str, str], str],
    states: dict[tuple[str, str], TunnelState],
) -> dict[str, object]:
    return {
        "guards": {
            guard.device: {
                "state": _name_state(guard),
                "because": guard.because,
                "backend": guard.backend,
                "portal": round(guard.portal_left(), 1),
                "problem": guard.problem or None,
            }
            for guard in guards.values()
        },
        "interfaces": {
            record.iface: {
                "location": record.place.location or None,
                "undecided": record.place.undecided,
                "guard": _name_state(guards.get(device_of(record.iface))),
                "counts": record in current,
                "wish": record.wish,
                "line": record.place.line or None,
                "grade": record.place.grade or None,
                "routable": record.observation.routable,
                "seen": {key: list(answer.values) for key, answer in record.observation.answers.items()},
                "passes": [
                    {"logical": each.logical or record.iface, "family": each.family, "reached": each.reached}
                    for each in record.passes
                ],
            }
            for record in records
        },
        "tunnels": {
            f"{kind} {name}": {
                "wanted": tunnel.verdict == "up",
                "up": up[kind, name],
                "because": tunnel.because,
                "problem": tunnel.problem or None,
                "held": held.get((kind, name)),
                "state": _describe_wait(tunnel, up[kind, name], states) or None,
                "since": _find_since(states.get((kind, name))) if tunnel.verdict == "up" else None,
            }
            for (kind, name), tunnel in tunnels.items()
        },
    }


def _is_kept_by_guest(record: InterfaceRecord) -> bool:
    """Whether netconf-linkdown-routes can't work for a bridge whose cable is pulled: for the kernel it has carrier."""
    link = netlink.read_link(device_of(record.iface))
    return link is not None and link.index == record.observation.index and link.carrier


def _describe_passes(record: InterfaceRecord) -> list[str]:
    """Say which stanzas the rules of an interface come from, where it is not simply the interface's own."""
    lines = []
    for each in record.passes:
        if not each.reached:
            lines.append(f"    {describe_pass(each)} is still in force: the last ifup did not reach it; ifdown ends it")
        elif len(record.passes) > 1 or each.logical not in ("", record.iface):
            lines.append(f"    by {describe_pass(each)}")
    return lines


def _name_state(guard: GuardRecord | None) -> str:
    """Return ``none``, ``closed``, ``open`` or ``released``: what the firewall does."""
    return find_state(guard) if guard else "none"


def _describe_guard(guard: GuardRecord) -> list[str]:
    state = _name_state(guard)
    lines = [f"guard of {guard.device}: {state} ({guard.backend}): {guard.because}"]
    if state != guard.verdict:
        lines.append(f"    decided, and not done yet: {guard.verdict}")
    left = guard.portal_left()
    if left > 0:
        lines.append(f"    a captive portal may be visited for another {left:.0f} s")
    if guard.problem:
        lines.append(f"    {guard.problem}")
    return lines


def _add_held(
    tunnels: dict[tuple[str, str], TunnelRecord], held: dict[tuple[str, str], str]
) -> dict[tuple[str, str], TunnelRecord]:
    """Return the decisions on tunnels, also on those that are held and that no rule names."""
    return {**{tunnel: TunnelRecord(*tunnel, DOWN, NO_RULE, done=True) for tunnel in held}, **tunnels}


def _ask_is_up(tunnel: TunnelRecord) -> bool | None:
    try:
        return load_tunnel(tunnel.kind, tunnel.name).is_up()
    except TunnelError:
        return False


def read_tunnel_states(store: Store) -> dict[tuple[str, str], TunnelState]:
    """Return what the watcher has last seen of the tunnels that should be up; what can't be read is told."""
    try:
        return store.read_states()
    except RecordError as error:
        log.complain(str(error))
        return {}


def _describe_wait(
    tunnel: TunnelRecord, up: bool | None, states: Mapping[tuple[str, str], TunnelState]
) -> str:
    """Say what a tunnel that should be up waits for; empty if it is up, or if the watcher has not seen it yet."""
    state = states.get((tunnel.kind, tunnel.name))
    return describe_state(state, boot_time()) if state and up is not True and tunnel.verdict == "up" else ""


def _find_since(state: TunnelState | None) -> float | None:
    """Return since when a tunnel is as it is, seconds since 1970."""
    return round(time.time() - (boot_time() - state.since), 1) if state else None


def _name_place(record: InterfaceRecord) -> str:
    if record.place.undecided:
        return "undecided"
    return record.place.location or "unknown"


# --- location


def print_location(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks location IFACE``: the name, ``unknown`` or ``undecided``; fails where the interface is not up."""
    record = store.read_interface(options.iface)
    if record is None or record.wish or not list_current([record]):
        raise CommandError(f"{options.iface}: not up, or without netconf rules")
    print(_name_place(record))
    return OK


# --- refresh


def decide_again(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks refresh [IFACE...]``: decides again from the recorded rules."""
    if os.geteuid() != 0:
        raise CommandError("refresh: only root may decide")
    if options.guards:
        put_back(store)
        wake_watcher(store)
        return OK
    records = {record.iface: record for record in store.read_interfaces(log.error)}
    unknown = [iface for iface in options.ifaces if iface not in records]
    if unknown:
        raise CommandError(f"{', '.join(unknown)}: not up, or without netconf rules")
    settle(store, look_again(store, [records[iface] for iface in options.ifaces or records]), wake=False)
    wake_watcher(store)
    return OK


def watch_network(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks watch``: until no interface with rules is up."""
    from netconf_hooks.watch import watch

    if os.geteuid() != 0:
        raise CommandError("watch: only root may decide")
    sys.excepthook = _log_crash
    try:
        watch(store)
    except (NetlinkError, OSError) as error:
        # Its standard error is /dev/null if a hook has started it.
        log.error(f"watch: {error}; only hooks and refresh notice changes now")
        return FAILED
    return OK


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an error that nobody has foreseen, and end the watcher; systemd starts it again."""
    from traceback import format_exception

    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log.error("watch: " + "".join(format_exception(kind, error, trace)))
    os._exit(CRASHED)
