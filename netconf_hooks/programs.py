"""The one wrapper that starts programs: an argument list, a deadline, nothing inherited.  Never a shell.

A program gets: an environment of its own (ifupdown-ng gives its hooks no PATH, and what ifup's caller exported is
nobody's business), ``/`` as working directory, only the descriptors 0 to 2, default signals, and a session of its own:
whoever ends ifup signals its process group, and that must not hit an action half-way.
"""

from __future__ import annotations

import os
import select
import signal
import time

from netconf_hooks.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
}

OUTPUT_LIMIT = 64 * 1024
"""Bytes of a program's output that are kept; the rest is read and thrown away, so that the program never blocks."""

_LOOK_MS = 50
"""How often a program is looked after that neither writes nor ends: it may have left a daemon holding its output."""


class ProgramError(Exception):
    """A program could not be started, or gave no answer in time; the message names it and says why."""


class Result(Record):
    """How a program ended.

    status: its exit status; -N where signal N ended it.  output: its standard output and standard error as they came,
    at most `OUTPUT_LIMIT` bytes, undecodable bytes replaced.  It may contain anything: `log.printable` before showing.
    """

    __slots__ = ("status", "output")

    def __init__(self, status: int, output: str) -> None:
        self.status = status
        self.output = output


class Running:
    """A program that was begun and is not waited for (context manager, which kills it).

    `fileno` is for poll(2): readable when the program has ended (pidfd_open(2)).  What it writes is thrown away.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._descriptor = os.pidfd_open(process.pid)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._descriptor)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def poll(self) -> int | None:
        """Return its exit status, -N where signal N ended it, None while it runs."""
        return self._process.poll()


def begin(argv: Sequence[str], variables: Mapping[str, str] | None = None) -> Running:
    """Start a program beside which its caller does other things.  Raises `ProgramError` when it can't be started.

    variables: as for `run`.
    """
    return Running(_start(argv, None, None, variables))


def run(
    argv: Sequence[str], timeout: float, stdin: str | None = None, variables: Mapping[str, str] | None = None
) -> Result:
    """Run a program to its end and return how it ended.

    timeout: seconds; afterwards the program and what it started in its session are killed.
    stdin: what it reads on standard input; without, that is ``/dev/null``, so no question it asks can hang us.
    variables: what its environment holds beside `ENVIRONMENT`.

    The caller may leave by an exception (SIGTERM) meanwhile: an action begun is then finished by itself.
    Raises `ProgramError` when it can't be started or does not end in time.
    """
    deadline = time.monotonic() + timeout
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as pipe:
        try:
            process = _start(argv, writer, stdin, variables)
        finally:
            os.close(writer)
        output = _read_output(pipe.fileno(), process, deadline)
        status = _reap(process, deadline)
    if status is None:
        raise ProgramError(f"{' '.join(argv)}: not done after {timeout:g} s, killed")
    return Result(status, output.decode(errors="replace"))


def spawn(argv: Sequence[str]) -> int:
    """Start a program that outlives its caller and return its pid.

    Its parent is init, so that it can't become our zombie; its input and output are ``/dev/null``.
    Raises `ProgramError` when it can't be started.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Between fork and exec: whatever happens, this copy of the hook must not run on.
        try:
            os.close(reader)
            try:
                answer = str(_start(argv, None, None).pid)
            except ProgramError as error:
                answer = f"!{error}"
            os.write(writer, answer.encode(errors="replace")[: select.PIPE_BUF])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    if not answer.isdigit():
        raise ProgramError(answer[1:] or f"{argv[0]}: could not be started")
    return int(answer)


def _start(
    argv: Sequence[str], output: int | None, stdin: str | None, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, its output on the descriptor `output` (None: ``/dev/null``)."""
    import subprocess  # 11 ms: only runs that act pay for it

    source = subprocess.DEVNULL
    if stdin is not None:
        # A file in memory and not a pipe: nothing to feed while the output is read.
        source = os.memfd_create("stdin")
        os.write(source, stdin.encode(errors="surrogateescape"))
        os.lseek(source, 0, os.SEEK_SET)
    target = subprocess.DEVNULL if output is None else output
    try:
        return subprocess.Popen(
            argv,
            stdin=source,
            stdout=target,
            stderr=target,
            close_fds=True,
            env={**(variables or {}), **ENVIRONMENT},
            cwd="/",
            umask=0o022,
            start_new_session=True,
            preexec_fn=_reset_signals,
        )
    except FileNotFoundError:
        raise ProgramError(f"{argv[0]}: no such program") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        raise ProgramError(f"{argv[0]}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        if source >= 0:
            os.close(source)


def _reset_signals() -> None:
    """Undo what a program would inherit through execve(2): ignored signals and the signal mask, signal(7)."""
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _read_output(descriptor: int, process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Return what `process` writes until it ends or the deadline passes, at most `OUTPUT_LIMIT` bytes of it.

    The end of the program and not the end of its output counts: it may have left behind a daemon that holds it open.
    """
    kept = bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        ended = process.poll() is not None
        left_ms = 1000 * (deadline - time.monotonic())
        if left_ms <= 0 and not ended:
            return kept
        if poll.poll(0 if ended else min(left_ms, _LOOK_MS)):
            data = os.read(descriptor, OUTPUT_LIMIT)
            kept += data[: OUTPUT_LIMIT - len(kept)]
            if not data or (ended and len(kept) == OUTPUT_LIMIT):
                return kept
        elif ended:
            return kept


def _reap(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    """Return the exit status; None when it did not end by the deadline and was killed."""
    import subprocess

    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None
