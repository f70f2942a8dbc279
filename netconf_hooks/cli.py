"""The command: netconf-hooks(8)."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from io import TextIOWrapper

from netconf_hooks.commands.check import check_stanzas
from netconf_hooks.commands.entry import CommandError, FAILED, OK, UNREADABLE
from netconf_hooks.commands.explain import explain_rules
from netconf_hooks.commands.forget import forget_server, read_fingerprint
from netconf_hooks.commands.hold import hold_tunnel, read_hold_time, unhold_tunnel
from netconf_hooks.commands.import_whereami import import_whereami
from netconf_hooks.commands.monitor import monitor_changes
from netconf_hooks.commands.patience import tell_if_slow
from netconf_hooks.commands.plan import plan_situations
from netconf_hooks.commands.portal import PORTAL_TIME, close_links, read_duration, release_link, visit_portal
from netconf_hooks.commands.probe import probe_network
from netconf_hooks.commands.status import ALWAYS, AUTO, NEVER, name_place, show_status
from netconf_hooks.commands.unprivileged import ASKABLE, ask_polkit
from netconf_hooks.commands.want import unwant_wish, want_wish
from netconf_hooks.evidence.current import list_current
from netconf_hooks.guard.enforce import put_back
from netconf_hooks.settle import Change, look_again, settle
from netconf_hooks.stanzas.interfaces import InterfacesError
from netconf_hooks.stanzas.rules import TUNNEL_KINDS
from netconf_hooks.state import RecordError, Store
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.wake import wake_watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

_PROGRAM = "netconf-hooks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    arguments: those of the command line if not given.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _make_parser().parse_args(arguments)
    log.set_verbose(options.verbose)
    run: Callable[[argparse.Namespace, Store], int] = options.run
    log.fill_descriptors()
    if isinstance(sys.stdout, TextIOWrapper):
        # A stanza may contain bytes that are not valid in the locale's encoding (PEP 383).
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if options.command in ASKABLE and os.geteuid() != 0:
            return ask_polkit(options, arguments)
        status = run(options, Store())
        if sys.stdout is not None:  # None if it was closed when the program was started
            sys.stdout.flush()
        return status
    except (CommandError, InterfacesError, NetlinkError, RecordError, OSError) as error:
        sys.stdout = None  # type: ignore[assignment]  # otherwise a full standard output is flushed again at exit
        log.complain(str(error))
        return FAILED


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in the command line in one line; argparse's own usage message may fill a screen."""

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
            "Shows which network an interface is on, and which tunnels run there.  The rules are in "
            "/etc/network/interfaces, see netconf-interfaces(5)."
        ),
        epilog="To begin, on a network that should be recognised:\n"
        "  netconf-hooks probe eth0       prints a line for the stanza of eth0\n"
        "  netconf-hooks check            finds mistakes before you use the rules\n"
        "  netconf-hooks explain eth0     shows the result, and why; changes nothing\n"
        "netconf-hooks COMMAND --help says more.\n\n"
        "exit status: 0 success, 1 the command failed (check: there are errors),\n"
        "2 the command line could not be read",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="explain how the results were found")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    status = _add_command(
        commands, "status", show_status, "the state of interfaces, guards and tunnels",
        "Shows what the hooks have recorded and decided, without looking at the network.  Any user may run it.",
        "netconf-hooks status",
        "netconf-hooks status --json | jq -r '.interfaces.eth0.location'",
    )  # fmt: skip
    status.add_argument("--json", action="store_true", help="for programs: the keys are in netconf-hooks(8)")
    status.add_argument(
        "--color", choices=(AUTO, ALWAYS, NEVER), default=AUTO,
        help="whether to use colours; by default on a terminal, unless NO_COLOR is set",
    )  # fmt: skip

    explain = _add_command(
        commands, "explain", explain_rules, "look at the network now: every rule, every test, what was seen",
        "Shows every location line, every test in it, the value seen, and the result for each tunnel.  Changes "
        "nothing.  For an interface that is up, the rules are those recorded at its ifup, otherwise those of its "
        "stanza.",
        "netconf-hooks explain eth0",
        "ssh laptop netconf-hooks probe --json wlan0 | netconf-hooks explain --as - eth0",
    )  # fmt: skip
    explain.add_argument("--json", action="store_true", help="for programs: the keys are in netconf-hooks(8)")
    explain.add_argument(
        "--as", metavar="FILE", dest="recording",
        help="use a network that `netconf-hooks probe --json` has recorded, and the stanza as it is now; "
        "-: standard input",
    )  # fmt: skip
    explain.add_argument("iface", nargs="?", metavar="IFACE", help="all recorded interfaces if not given")

    plan = _add_command(
        commands, "plan", plan_situations, "what would be decided in each situation, by the stanzas alone",
        "Lists every situation that the rules distinguish, with what each tunnel and guard would do there, and whether "
        "traffic may leave outside of the tunnels.  Reads the stanzas, looks at no network, changes nothing.",
        "netconf-hooks plan",
        "netconf-hooks plan --json eth0 | jq '.situations[] | select(.clear)'",
    )  # fmt: skip
    plan.add_argument("--json", action="store_true", help="for programs: the keys are in netconf-hooks(8)")
    plan.add_argument("ifaces", nargs="*", metavar="IFACE", help="all stanzas with rules if none is given")

    probe = _add_command(
        commands, "probe", probe_network, "what is seen of the network now, as a netconf-location line to paste",
        "Looks at the network and prints a comment for each test, and a line that holds here.  Asks only the router, "
        "for its MAC address.",
        "netconf-hooks probe eth0",
        "netconf-hooks probe --json eth0 >cafe.json    (to try rules later: explain --as cafe.json)",
    )  # fmt: skip
    probe.add_argument("--json", action="store_true", help="everything seen, for programs and for explain --as")
    probe.add_argument("iface", metavar="IFACE")

    location = _add_command(
        commands, "location", print_location, "print the location's name, for scripts",
        'Prints the name that the hooks have recorded, "unknown" or "undecided"; fails if IFACE is not up.',
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

    monitor = _add_command(
        commands, "monitor", monitor_changes, "one line now, and one at every change, for status bars",
        "Prints a line now and whenever a location, tunnel, guard or problem changes, until it is interrupted or "
        "nobody reads its output any more.  Any user may run it.",
        "netconf-hooks monitor",
        "netconf-hooks monitor --json | jq --unbuffered -r '.interfaces.wlan0.location'",
    )  # fmt: skip
    monitor.add_argument("--json", action="store_true", help="one object a line, as status --json prints it")

    refresh = _add_command(
        commands, "refresh", decide_again, "look at the network again and decide again, by the recorded rules",
        "Use it after changes that the watcher can't see, such as a lease with another domain.  After a change of the "
        "stanza, use ifdown and ifup instead.  Needs root, or polkit's permission: then once in 10 s.",
        "netconf-hooks refresh",
    )  # fmt: skip
    refresh.add_argument(
        "--guards", action="store_true", help="only restore guards that somebody has removed (nft flush ruleset)"
    )
    refresh.add_argument("ifaces", nargs="*", metavar="IFACE", help="all recorded interfaces if none is given")

    hold = _add_command(
        commands, "hold", hold_tunnel, "exempt a tunnel from the rules, until unhold",
        "Whatever the rules say, a held tunnel is neither started nor stopped, nor restarted if it ends, also after a "
        "reboot.  Needs root, or polkit's permission.",
        "netconf-hooks hold openvpn corp",
        "netconf-hooks hold openvpn corp --for 2h",
    )  # fmt: skip
    hold.add_argument("kind", metavar="KIND", help=f"as in netconf-vpn: {', '.join(TUNNEL_KINDS)}")
    hold.add_argument("name", metavar="NAME")
    hold.add_argument(
        "--for", metavar="TIME", dest="seconds", type=_read_hold_time, default=0.0,
        help="30m, 2h, 3d, at most a year; until unhold if not given",
    )  # fmt: skip

    unhold = _add_command(
        commands, "unhold", unhold_tunnel, "let a tunnel follow the rules again",
        "Ends the hold of a tunnel, and starts or stops it as the rules say.  Needs root, or polkit's permission.",
        "netconf-hooks unhold openvpn corp",
    )  # fmt: skip
    unhold.add_argument("kind", metavar="KIND")
    unhold.add_argument("name", metavar="NAME")

    want = _add_command(
        commands, "want", want_wish, "bring up a tunnel that you want, and a link for it (ifup of a wish)",
        "Does what ifup NAME does, but only if NAME is a stanza with netconf-uplink.  Needs root, or polkit's "
        "permission.",
        "netconf-hooks want corp",
    )  # fmt: skip
    want.add_argument("name", metavar="NAME", help="of a stanza with netconf-uplink")

    unwant = _add_command(
        commands, "unwant", unwant_wish, "take it down again (ifdown of a wish)",
        "Does what ifdown NAME does, but only if NAME is a stanza with netconf-uplink.  Needs root, or polkit's "
        "permission.",
        "netconf-hooks unwant corp",
    )  # fmt: skip
    unwant.add_argument("name", metavar="NAME")

    portal = _add_command(
        commands, "portal", visit_portal, "allow a captive portal through a guard, for a limited time",
        "Allows only http, https, the link's own DNS, and the router's and the portal's own ports, through the guard "
        "of IFACE, for the user who calls it.  Prints the address to open.  The kernel ends this in any case.  Needs "
        "root, or polkit's permission: then 5 minutes, once on each network.",
        "netconf-hooks portal wlan0",
        "sudo netconf-hooks portal wlan0 --for 15m",
    )  # fmt: skip
    portal.add_argument("--json", action="store_true", help="for programs: the keys are in netconf-hooks(8)")
    portal.add_argument("iface", metavar="IFACE")
    portal.add_argument(
        "--for", metavar="TIME", dest="seconds", type=_read_time, default=PORTAL_TIME,
        help="90s, 5m, at most an hour; 5m if not given",
    )  # fmt: skip

    release = _add_command(
        commands, "release", release_link, "the emergency exit: open a guard until the next ifup",
        "Removes the guard of IFACE until its next ifup: anything may leave, unencrypted.  Needs root, or polkit's "
        "permission.",
        "netconf-hooks release eth0",
    )  # fmt: skip
    release.add_argument("iface", metavar="IFACE")

    _add_command(
        commands, "close", close_links, "close all guards until the networks were looked at again",
        "Closes every guard that is open; refresh or the watcher opens it again if the rules say so.  A hook runs this "
        "before the machine is suspended.  Needs root.",
        "netconf-hooks close",
    )  # fmt: skip

    forget = _add_command(
        commands, "forget-server", forget_server, "forget where the server of a certificate was seen",
        "If a tls test has seen a server elsewhere, its certificate proves nothing any more.  If that was your own "
        "network with a new router, this makes the certificate count again.  Needs root.",
        "netconf-hooks forget-server 3f1c...    (explain shows the whole command)",
    )  # fmt: skip
    forget.add_argument(
        "certificate", metavar="SHA256", type=_read_certificate, help="its fingerprint, as in the tls test"
    )

    whereami = _add_command(
        commands, "import-whereami", import_whereami, "netconf-location lines from whereami's detect.conf",
        "Prints the location lines that do what a detect.conf of whereami 0.3.34 does, and for every other statement "
        "what to do instead.  Changes nothing.",
        "netconf-hooks import-whereami /etc/whereami/detect.conf",
    )  # fmt: skip
    whereami.add_argument("file", metavar="FILE", help="-: standard input")

    _add_command(
        commands, "watch", watch_network, "decide again whenever the network changes (the hooks start it)",
        "Runs until no interface with rules is up; a second one exits at once.  Needs root.",
        "netconf-hooks -v watch    (to see what it does, after: systemctl stop netconf-hooks-watch)",
    )  # fmt: skip
    return parser


def _read_time(text: str) -> float:
    return _read_seconds(text, read_duration)


def _read_hold_time(text: str) -> float:
    return _read_seconds(text, read_hold_time)


def _read_certificate(text: str) -> str:
    try:
        return read_fingerprint(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


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


# --- location


def print_location(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks location IFACE``: the name, ``unknown`` or ``undecided``; fails if the interface is not up."""
    record = store.read_interface(options.iface)
    if record is None or record.wish:
        raise CommandError(f"{options.iface}: not up, or without netconf rules")
    if not list_current([record]):
        raise CommandError(f"{options.iface}: no carrier (is its cable plugged in?), or a new device has its name")
    print(name_place(record))
    return OK


# --- refresh


def decide_again(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks refresh [IFACE...]``: decides again from the recorded rules."""
    if os.geteuid() != 0:
        raise CommandError("refresh: only root may do this")
    if options.guards:
        put_back(store)
        wake_watcher(store)
        return OK
    records = {record.iface: record for record in store.read_interfaces(log.error)}
    unknown = [iface for iface in options.ifaces if iface not in records]
    if unknown:
        raise CommandError(f"{', '.join(unknown)}: not up, or without netconf rules")
    chosen = [records[iface] for iface in options.ifaces or records]
    longest = sum(record.rules.timeout for record in chosen)
    looking = f"looking at {', '.join(record.iface for record in chosen)}: at most {longest:g} s"
    with tell_if_slow(looking) as wait_for:

        def look() -> Iterator[Change]:
            yield from look_again(store, chosen)
            wait_for("waiting for tunnels to start and stop, and for event scripts")

        settle(store, look(), wake=False)
    wake_watcher(store)
    return OK


def watch_network(options: argparse.Namespace, store: Store) -> int:
    """``netconf-hooks watch``: until no interface with rules is up."""
    from netconf_hooks.watcher.watch import run_watcher

    return run_watcher(store)
