"""Machines made of Linux namespaces that live exactly as long as the process which made them.

Nothing here has a name outside: the namespaces are held by one process (`cat` on a pipe of ours, as init of a pid
namespace), not by files under /run/netns.  When the pipe closes, because of `close` or because the test run was killed,
that process ends, the kernel kills all others of its pid namespace (pid_namespaces(7)), and with the last of them the
mounts and network devices are gone.  So parallel runs can't meet, and dead runs leave nothing to clean up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from .closing import Closing

# What a program started at boot would see; nothing of the environment of the person who runs the tests.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}
KINDS = ("mnt", "pid", "uts", "net")
CLONE_NEWNET = 0x40000000  # linux/sched.h


class CommandFailed(AssertionError):
    """A program that had to succeed did not: the message shows its command line, exit status and output."""

    def __init__(self, result: subprocess.CompletedProcess[str]) -> None:
        super().__init__(
            f"{' '.join(result.args)}\nexit status {result.returncode}\n"
            f"--- standard output\n{result.stdout}--- standard error\n{result.stderr}"
        )
        self.result = result


class Running:
    """A program that was started and not yet waited for."""

    def __init__(self, argv: Sequence[str], prefix: Sequence[str], text: str | None, env: Mapping[str, str]) -> None:
        self.argv = list(argv)
        # Files and not pipes: a daemon that keeps its parent's output open must not make us wait for its end.
        self._output: tuple[IO[str], IO[str]] = (_scratch(), _scratch())
        self._input = _scratch()
        self._input.write(text or "")
        self._input.flush()
        self._input.seek(0)
        self.process = subprocess.Popen(
            [*prefix, *argv],
            stdin=self._input,
            stdout=self._output[0],
            stderr=self._output[1],
            env=env,
            cwd="/",
            start_new_session=True,
        )

    def wait(self, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Return how it ended; after `timeout` seconds kill it and raise TimeoutError with its output so far."""
        late = not self._wait_for_end(timeout)
        if late:
            self.kill()
        status = self.process.wait()
        texts = []
        for file in self._output:
            file.seek(0)
            texts.append(file.read())
            file.close()
        self._input.close()
        result = subprocess.CompletedProcess(self.argv, status, *texts)
        if late:
            raise TimeoutError(f"not ended after {timeout:g} s: {CommandFailed(result)}")
        return result

    def _wait_for_end(self, timeout: float) -> bool:
        # Not `Popen.wait(timeout)`: that looks again after pauses of up to 50 ms.
        descriptor = os.pidfd_open(self.process.pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(timeout * 1000))
        finally:
            os.close(descriptor)

    def read_output(self) -> str:
        """Return what is on its standard output so far."""
        return os.pread(self._output[0].fileno(), 1 << 20, 0).decode(errors="replace")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the program and all that it started in its session.

        But for nsenter, which waits for the program and ends as it does: orphaned, the program would be left to this
        machine's init, and until that looks after it nobody can end the namespaces that it was in.
        """
        members = [pid for pid in _list_group(self.process.pid) if pid != self.process.pid]
        if not members:
            os.killpg(self.process.pid, number)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Namespaces(Closing):
    """New namespaces, held until `close` or until this process ends, whichever comes first.

    kinds: which of `KINDS` are new (``pid`` always is); the others are those of the parent.
    parents: namespaces to be made in, by kind: files as /proc/PID/ns holds them.
    """

    def __init__(self, kinds: Sequence[str], parents: Mapping[str, str] | None = None) -> None:
        unshare = {"mnt": "--mount", "uts": "--uts", "net": "--net"}
        command = ["nsenter", *_nsenter_options(parents)] if parents else []
        command += ["unshare", "--pid", "--fork", "--kill-child", *(unshare[kind] for kind in kinds if kind != "pid")]
        # What is unmounted outside goes here too: a copy of /run/netns/x would keep somebody's network alive.
        command += ["--propagation=slave", "--mount-proc"] if "mnt" in kinds else []
        # SIGCHLD ignored: the kernel then reaps orphans itself (wait(2), NOTES), as init has to.
        command += ["env", "--ignore-signal=CHLD", "cat"]
        self._holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=ENVIRONMENT, start_new_session=True
        )
        assert self._holder.stdin and self._holder.stdout
        with contextlib.suppress(BrokenPipeError):
            self._holder.stdin.write(b"ready\n")
        if self._holder.stdout.readline() != b"ready\n":
            raise RuntimeError(f"could not make namespaces (exit status {self._holder.wait()}): {' '.join(command)}")
        self.pid = _last_descendant(self._holder.pid)

    @property
    def root(self) -> Path:
        """Its root directory as seen from outside.  Beware: absolute symbolic links in there lead outside."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def files(self) -> dict[str, str]:
        """All namespaces it is in, new or not, by kind: files that nsenter(1) takes, also from outside."""
        return {kind: f"/proc/{self.pid}/ns/{kind}" for kind in KINDS}

    def start(
        self,
        argv: Sequence[str],
        *,
        text: str | None = None,
        env: Mapping[str, str] | None = None,
        net: str | None = None,
    ) -> Running:
        """Start a program in there, `text` on its standard input.

        env: added to `ENVIRONMENT`; net: the file of another network namespace to start it in.
        """
        namespaces = self.files | ({"net": net} if net else {})
        return Running(argv, ["nsenter", *_nsenter_options(namespaces), "--"], text, ENVIRONMENT | dict(env or {}))

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60.0,
        text: str | None = None,
        env: Mapping[str, str] | None = None,
        net: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in there to its end: `start` and `Running.wait`.

        Raises CommandFailed when it fails (unless `check` is false) and TimeoutError after `timeout` seconds.
        """
        result = self.start(argv, text=text, env=env, net=net).wait(timeout)
        if check and result.returncode != 0:
            raise CommandFailed(result)
        return result

    def processes(self) -> dict[int, str]:
        """Return all processes in there but its init: command lines by pid, from its own /proc (kind ``mnt``)."""
        found = {}
        for entry in (self.root / "proc").iterdir():
            if not entry.name.isdigit() or entry.name == "1":
                continue
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                found[int(entry.name)] = command.replace("\0", " ").strip()
        return dict(sorted(found.items()))

    def close(self) -> None:
        """End everything in there; returns when all of it has ended."""
        assert self._holder.stdin and self._holder.stdout
        self._holder.stdin.close()
        # The init is only reaped when all processes of its pid namespace are gone: nothing to poll for.
        self._holder.wait()
        self._holder.stdout.close()


def enter_network(file: str) -> None:
    """Move this thread into a network namespace; os.setns() is there from Python 3.12 on only."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(file, "rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def _nsenter_options(namespaces: Mapping[str, str]) -> Iterator[str]:
    options = {"mnt": "--mount", "pid": "--pid", "uts": "--uts", "net": "--net"}
    return (f"{options[kind]}={file}" for kind, file in namespaces.items())


def _list_group(group: int) -> list[int]:
    """Return the processes of a process group (proc(5), /proc/pid/stat)."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                found.append(int(entry.name))
    return found


def _last_descendant(pid: int) -> int:
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def _scratch() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
