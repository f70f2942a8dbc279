"""A machine of the lab, in namespaces or booted: what is done there as root."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from .closing import Closing
from .namespaces import CommandFailed, Running


class Machine(Closing):
    """A machine on which `start` starts programs."""

    def start(self, argv: Sequence[str], *, text: str | None = None, env: Mapping[str, str] | None = None) -> Running:
        """Start a program as root, without waiting for it: as `run` does."""
        raise NotImplementedError

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60.0,
        text: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as root, `text` on its standard input, to its end; `env` is added to a plain environment.

        Raises `namespaces.CommandFailed` when it fails (unless `check` is false), TimeoutError after `timeout` seconds.
        """
        result = self.start(argv, text=text, env=env).wait(timeout)
        if check and result.returncode != 0:
            raise CommandFailed(result)
        return result

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, and the directories above it; what was there is replaced, also a symbolic link."""
        # By a program in there, whose symbolic links lead to where they do on that machine.
        self.run(["install", "-D", "-m", f"{mode:o}", "/dev/stdin", path], text=text)

    def append(self, path: str, text: str) -> None:
        """Add lines to a file, which ends with a newline.  Raises FileNotFoundError when it can't be read."""
        self.write(path, f"{self.read(path)}{text}")

    def read(self, path: str) -> str:
        """Return the text of a file.  Raises FileNotFoundError when it can't be read."""
        result = self.run(["cat", path], check=False)
        if result.returncode != 0:
            raise FileNotFoundError(result.stderr.strip())
        return result.stdout

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        return self.run(["test", "-e", path], check=False).returncode == 0

    def pings(self, host: str) -> bool:
        """Whether `host` answers one ping within a second."""
        return self.run(["ping", "-n", "-q", "-c", "1", "-W", "1", host], check=False).returncode == 0
