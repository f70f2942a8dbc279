"""Starts programs: with an argument list, never by a shell, with a deadline and nothing inherited.

Only this module starts programs, except those that take over the user's terminal (`commands.unprivileged`,
`commands.want`).

A program gets: an environment of its own (ifupdown-ng gives its hooks no PATH, and variables of ifup's caller must not
leak), ``/`` as working directory, only the descriptors 0 to 2, default signals, and a session of its own: a signal to
ifup's process group must not interrupt an action.
"""

from __future__ import annotations

import os
import select
import time

from netconf_hooks.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn
else:
    import _signal as signal  # the same functions; the module signal itself imports enum, 4 ms

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
}

OUTPUT_LIMIT = 64 * 1024
"""Bytes of a program's output to keep; the rest is read and discarded, so that the program never blocks."""


_HEARING_PAUSE = 0.1
"""Seconds between two reads of a running program's output for `hear` of `run`."""


class ProgramError(Exception):
    """A program could not be started, or did not end in time; the message names it and says why."""


class ProgramLate(ProgramError):
    """A program did not end in time, and was killed."""


class Result(Record):
    """How a program ended.

    status: its exit status; -N if signal N ended it.  output: its standard output and standard error, at most
    `OUTPUT_LIMIT` bytes or the limit given to `run`, undecodable bytes replaced.  It may contain any character: use
    `log.printable` before you show it.
    """

    __slots__ = ("status", "output")

    def __init__(self, status: int, output: str) -> None:
        self.status = status
        self.output = output


class Running:
    """A program that runs in the background (context manager, which kills it).

    `fileno` is for poll(2): readable when the program has ended (pidfd_open(2)).  Its output is discarded.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._status: int | None = None
        self._descriptor = os.pidfd_open(pid)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.kill()
        self.close()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def poll(self) -> int | None:
        """Return its exit status, -N if signal N ended it, None while it runs."""
        return self._reap(os.WNOHANG)

    def wait(self, deadline: float) -> int | None:
        """Wait until it has ended, and return as `poll` does; None if it still runs at the deadline."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.poll(1000 * max(0.0, deadline - time.monotonic()))
        return self.poll()

    def kill(self) -> None:
        """Kill it, and the processes that it has started in its session."""
        os.killpg(self._pid, signal.SIGKILL)
        self._reap(0)

    def close(self) -> None:
        """Close the descriptor; the program continues."""
        os.close(self._descriptor)

    def _reap(self, flags: int) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self._pid, flags)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


def begin(
    argv: Sequence[str], variables: Mapping[str, str] | None = None, output: int | None = None
) -> Running:
    """Start a program in the background.  Raises `ProgramError` if it can't be started.

    variables: as for `run`; output: a descriptor that its output goes to, instead of being discarded.
    """
    return Running(_start(argv, output, None, variables))


def run(
    argv: Sequence[str],
    timeout: float,
    stdin: str | None = None,
    variables: Mapping[str, str] | None = None,
    limit: int = OUTPUT_LIMIT,
    leaves: bool = False,
    hear: Callable[[str], None] | None = None,
) -> Result:
    """Run a program until it ends, and return how it ended.

    timeout: seconds; afterwards the program and the processes in its session are killed.
    stdin: its standard input; by default ``/dev/null``, so that it can't hang with a question.
    variables: added to `ENVIRONMENT`.
    limit: how many bytes of its output to keep.
    leaves: whether it may leave daemons behind that still have its output, as ifup does; only the last bytes are kept.
    hear: with `leaves`, gets each line of its output as it is written, without the newline; as many bytes as are kept.

    If an exception (SIGTERM) interrupts the caller meanwhile, the program still finishes by itself.
    Raises `ProgramError` if it can't be started or does not end in time.
    """
    deadline = time.monotonic() + timeout
    if leaves:
        return _run_with_file(argv, timeout, variables, limit, hear)
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as pipe:
        try:
            program = Running(_start(argv, writer, stdin, variables))
        finally:
            os.close(writer)
        try:
            output = _read_output(pipe.fileno(), program, deadline, limit)
            status = program.wait(deadline)
            if status is None:
                program.kill()
        finally:
            program.close()
    if status is None:
        raise ProgramLate(f"{' '.join(argv)}: not done after {timeout:g} s, killed")
    return Result(status, output.decode(errors="replace"))


def _run_with_file(
    argv: Sequence[str],
    timeout: float,
    variables: Mapping[str, str] | None,
    limit: int,
    hear: Callable[[str], None] | None,
) -> Result:
    """Run a program whose output goes to a file in memory.

    Once the reader of a pipe is gone, SIGPIPE would end a daemon that the program has left behind, at the next line
    that the daemon writes.  When the program has ended, the file is sealed: writing fails with EPERM, and the file
    can't grow as long as the daemon lives.
    """
    import fcntl

    with open(os.memfd_create("output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "rb", buffering=0) as file:
        program = Running(_start(argv, file.fileno(), None, variables))
        try:
            status = _wait_and_hear(program, file.fileno(), time.monotonic() + timeout, limit, hear)
            if status is None:
                program.kill()
        finally:
            program.close()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
        if status is None:
            raise ProgramLate(f"{' '.join(argv)}: not done after {timeout:g} s, killed")
        size = os.fstat(file.fileno()).st_size
        output = os.pread(file.fileno(), limit, max(0, size - limit))
    return Result(status, output.decode(errors="replace"))


def _wait_and_hear(
    program: Running, descriptor: int, deadline: float, limit: int, hear: Callable[[str], None] | None
) -> int | None:
    """Wait as `Running.wait` does; meanwhile pass each line that is written to a file in memory to `hear`."""
    if hear is None:
        return program.wait(deadline)
    heard = 0
    while True:
        status = program.wait(min(deadline, time.monotonic() + _HEARING_PAUSE))
        ended = status is not None or time.monotonic() >= deadline
        # pread, not read: the program shares the file's offset with us, and writes there.
        data = os.pread(descriptor, max(0, limit - heard), heard)
        if not ended or heard + len(data) == limit:
            data = data[: data.rfind(b"\n") + 1]
        for line in data.removesuffix(b"\n").split(b"\n") if data else ():
            hear(line.decode(errors="replace"))
        heard += len(data)
        if ended:
            return status


def spawn(argv: Sequence[str]) -> int:
    """Start a program that outlives its caller and return its pid.

    Its parent is init, so that it can't become our zombie; its input and output are ``/dev/null``.
    Raises `ProgramError` if it can't be started.
    """

    def start(writer: int) -> None:
        try:
            answer = str(_start(argv, None, None))
        except ProgramError as error:
            answer = f"!{error}"
        os.write(writer, answer.encode(errors="replace")[: select.PIPE_BUF])

    with open(fork_away(start), "rb") as pipe:
        answer = pipe.read().decode(errors="replace")
    if not answer.isdigit():
        raise ProgramError(answer[1:] or f"{argv[0]}: could not be started")
    return int(answer)


def fork_away(work: Callable[[int], None]) -> int:
    """Run `work` in a forked process, which then ends; return the reading end of a pipe, which the caller closes.

    Programs that `work` starts have init as parent, so that they can't become our zombies.  Signals are blocked in the
    forked process.  work: gets the writing end of the pipe.
    """
    reader, writer = os.pipe()
    # The forked process must not handle a signal as the hook would.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child = os.fork()
        if child == 0:
            try:
                os.close(reader)
                work(writer)
            finally:
                os._exit(0)  # whatever happens, the hook's code must not continue here
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writer)
    os.waitpid(child, 0)
    return reader


def _start(
    argv: Sequence[str], output: int | None, stdin: str | None, variables: Mapping[str, str] | None = None
) -> int:
    """Start `argv` in a session of its own, its output on the descriptor `output` (None: ``/dev/null``).

    Returns its pid once the program itself runs.  Raises `ProgramError` if it can't be started.

    Don't use the module subprocess, which takes 11 ms to import, nor posix_spawn(3), which supports neither working
    directory nor umask.  fork and exec take 0.6 ms more than the latter.
    """
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, exit statuses get lost: wait(2)
    reader, writer = os.pipe()  # both close on exec, which shows that the program runs
    # No handler of the hook may run in the forked process.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(argv, output, stdin, {**(variables or {}), **ENVIRONMENT}, writer)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writer)
    with open(reader, "rb") as pipe:
        problem = pipe.read().decode(errors="replace")
    if problem:
        os.waitpid(pid, 0)
        raise ProgramError(f"{argv[0]}: {problem}")
    return pid


def _become(
    argv: Sequence[str], output: int | None, stdin: str | None, environment: Mapping[str, str], writer: int
) -> NoReturn:
    """In the forked process: exec the program; if that fails, write the reason to `writer` and exit."""
    problem = "could not be started"
    try:
        os.setsid()
        _set_descriptors(output, stdin, writer)
        os.chdir("/")
        os.umask(0o022)
        # A program inherits ignored signals and the signal mask through execve(2), signal(7).
        for number in signal.valid_signals():
            if signal.getsignal(number) not in (signal.SIG_DFL, None):  # None: set neither by Python nor by its parent
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(argv[0], list(argv), environment)
    except FileNotFoundError:
        problem = "no such program"
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        problem = getattr(error, "strerror", None) or str(error)
    finally:
        os.write(writer, problem.encode(errors="replace")[: select.PIPE_BUF])
        os._exit(127)


def _set_descriptors(output: int | None, stdin: str | None, keep: int) -> None:
    """Give this process the standard descriptors of `_start`, and close all others but `keep`."""
    null = os.open(os.devnull, os.O_RDWR)
    source = null
    if stdin is not None:
        # A file in memory, not a pipe, so nothing has to be written while the output is read.
        source = os.memfd_create("stdin")
        os.write(source, stdin.encode(errors="surrogateescape"))
        os.lseek(source, 0, os.SEEK_SET)
    target = null if output is None else output
    for number, descriptor in enumerate((source, target, target)):
        os.dup2(descriptor, number)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))


def _read_output(descriptor: int, program: Running, deadline: float, limit: int) -> bytes:
    """Return the output of `program` until it ends or the deadline passes, at most `limit` bytes.

    Wait for the end of the program, not of its output: it may have started a daemon that keeps the output open.
    """
    kept = bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(program.fileno(), select.POLLIN)
    while True:
        ended = program.poll() is not None
        left_ms = 1000 * (deadline - time.monotonic())
        if left_ms <= 0 and not ended:
            return kept
        ready = dict(poll.poll(0 if ended else left_ms))
        if descriptor in ready:
            data = os.read(descriptor, OUTPUT_LIMIT)
            kept += data[: limit - len(kept)]
            if not data or (ended and len(kept) == limit):
                return kept
        elif ended:
            return kept
