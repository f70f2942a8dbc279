"""For machines without systemd: start programs that may block, without making a hook wait for them."""

from __future__ import annotations

import os
import select

from netconf_hooks.system import log, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATIENCE = 3.0
"""Seconds to wait for a program: most end within 0.1 s, and then the hook can report an error."""

LIMIT = 120.0
"""Seconds after which a program is killed: wg(8) tries to resolve a name for 72 s."""


def launch(
    what: str, argv: Sequence[str], describe: Callable[[programs.Result], str], patience: float = PATIENCE,
    limit: float = LIMIT,
) -> str:
    """Start a program that may block, in a session of its own, and wait up to `patience` seconds until it exits.

    After that it continues by itself, and is killed after `limit` seconds; a failure is then logged.
    what: its name in the log; describe: returns why it failed, empty if it did not.
    Returns the reason if it fails within `patience`, or if it can't be started; otherwise an empty text.
    """

    def start(writer: int) -> None:
        if os.fork() == 0:
            _keep_only(writer)
            _watch(what, argv, describe, limit, writer)

    with open(programs.fork_away(start), "rb", buffering=0) as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        reason = pipe.read(select.PIPE_BUF) if poll.poll(1000 * patience) else b""
    return reason.decode(errors="replace")


def is_halting(program: str = "runlevel") -> bool:
    """Whether SysV init is changing to runlevel 0 or 6.  False without runlevel(8)."""
    try:
        words = programs.run([program], 1.0).output.split()
    except programs.ProgramError:
        return False
    return len(words) == 2 and words[1] in ("0", "6")


def _keep_only(writer: int) -> None:
    """Drop everything inherited from the hook: session, signal handlers, descriptors with their locks."""
    import signal
    import syslog

    os.setsid()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    syslog.closelog()  # its descriptor is closed below, and its number may be reused
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, writer)
    os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))


def _watch(
    what: str, argv: Sequence[str], describe: Callable[[programs.Result], str], limit: float, writer: int
) -> None:
    """Run the program.  Report a failure to the hook while it waits, afterwards to the log."""
    try:
        reason = describe(programs.run(argv, limit))
    except programs.ProgramError as error:
        reason = str(error)
    if reason:
        try:
            os.write(writer, reason.encode(errors="replace")[: select.PIPE_BUF])
        except BrokenPipeError:
            log.error(f"{what}: {reason}")
