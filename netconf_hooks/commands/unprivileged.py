"""What happens if another user than root runs a command for root: on a terminal, pkexec(1) asks polkit.

Elsewhere (in a script, a status bar) the command prints the line with sudo, since nobody could enter a password there.
"""

from __future__ import annotations

import os
import select
import shlex
import signal

from netconf_hooks.commands.entry import CommandError
from netconf_hooks.commands.portal import PORTAL_TIME
from netconf_hooks.commands.request import has_uid, read_request, RequestError
from netconf_hooks.commands.want import check_wish
from netconf_hooks.stanzas.interfaces import InterfacesError
from netconf_hooks.system import log
from netconf_hooks.system.processes import read_start
from netconf_hooks.system.systemd import BOOTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

ASKABLE = ("refresh", "hold", "unhold", "want", "unwant", "portal", "release")
"""The commands that polkit has an action for."""

PKEXEC = "/usr/bin/pkexec"

ENTRY = "/usr/lib/netconf-hooks/request"
"""The program that pkexec(1) runs, as Debian's package installs it and as polkit's actions name it."""

AGENT = "/usr/bin/pkttyagent"

# The options that a request can't have.
_RESERVED = {"portal": "--for and --json", "refresh": "--guards and IFACE"}

# Seconds that polkit may take to start.
_AGENT_TIME = 10.0

# pkexec's exit status if the user has dismissed the question, and if it is not allowed or has failed: pkexec(1).
_DISMISSED, _REFUSED = 126, 127


def ask_polkit(options: Namespace, arguments: Sequence[str]) -> int:
    """Have a command carried out for a user, and return its exit status.

    arguments: the command line.  Raises `CommandError`.
    """
    command: str = options.command
    by_root = log.printable(shlex.join(["sudo", "netconf-hooks", *arguments]))
    words = list_words(options)
    if words is None:
        raise CommandError(f"{command}: only root may use {_RESERVED[command]}: {by_root}")
    try:
        read_request([command, *([str(os.getuid())] if has_uid(command) else []), *words])
    except RequestError as error:
        # Root may use any name of an interface.
        raise CommandError(f"{error}: {by_root}" if command in ("portal", "release") else str(error)) from error
    if command in ("want", "unwant"):
        _check_wish(options.name)
    if not (os.isatty(0) and os.isatty(2) and has_polkit()):
        raise CommandError(f"{command}: only root may do this: {by_root}")
    status = _run([PKEXEC, "--disable-internal-agent", ENTRY, command, *words])
    if status in (_DISMISSED, _REFUSED):
        log.complain(f"{command}: polkit has not allowed it; as root: {by_root}")
    return status


def has_polkit() -> bool:
    """Whether polkit can be asked on this machine."""
    return os.path.isdir(BOOTED) and os.path.exists(PKEXEC)


def list_words(options: Namespace) -> list[str] | None:
    """Return a request's words after the command; None if the command line has options that a request can't have."""
    if options.command == "refresh":
        return None if options.guards or options.ifaces else []
    if options.command == "portal":
        return [options.iface] if options.seconds == PORTAL_TIME and not options.json else None
    if options.command == "hold":
        return [f"{options.seconds:.0f}", options.kind, options.name]
    if options.command == "unhold":
        return [options.kind, options.name]
    return [options.iface if options.command == "release" else options.name]


def _check_wish(name: str) -> None:
    """Complain about mistakes before the user is asked for a password."""
    try:
        check_wish(name)
    except InterfacesError as error:
        log.debug(f"{error}; root can perhaps read more")


def _run(argv: list[str]) -> int:
    """Run a program on this terminal; return its exit status, as a shell does."""
    # Ctrl-C is for the program.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    agent = _start_agent()
    try:
        pid = os.posix_spawn(argv[0], argv, os.environ, setsigdef=[signal.SIGINT])
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        if agent:
            for number in (signal.SIGTERM, signal.SIGCONT):
                os.kill(agent, number)
            os.waitpid(agent, 0)
    return status if status >= 0 else 128 - status


def _start_agent() -> int:
    """Start the program that asks for a password on this terminal; return its pid, 0 if there is none.

    pkexec has an agent of its own, but no password helps there: "No session for cookie"
    (https://github.com/polkit-org/polkit/pull/423 until version 124, https://github.com/polkit-org/polkit/issues/686
    in version 127).  The desktop's agent is used if there is one (--fallback).
    """
    if not os.path.exists(AGENT):
        return 0
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    this = f"--process={os.getpid()},{read_start(os.getpid())}"
    argv = [AGENT, f"--notify-fd={writer}", "--fallback", this]
    try:
        pid = os.posix_spawn(AGENT, argv, os.environ, setsigdef=[signal.SIGINT])
        os.close(writer)
        # The agent closes the pipe when it is registered with polkit, or when it ends.
        select.select([reader], [], [], _AGENT_TIME)
    finally:
        os.close(reader)
    return pid
