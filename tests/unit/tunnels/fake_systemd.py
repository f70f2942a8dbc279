"""Captured output, and a systemctl that answers with it.

The fake is there because systemd can't be anybody's init in a unit test; tests/lab asks the real one.
"""

from __future__ import annotations

from pathlib import Path

from netconf_hooks.tunnels.services import Services

SCRIPT = """\
#!/bin/sh
cd {directory}
printf '%s\\n' "$*" >>calls
case "$*" in
is-system-running) cat state ;;
show*) cat show 2>&1; exit "$(cat show-status)" ;;
*) cat message; exit "$(cat status)" ;;
esac
"""


def read_fixture(name: str) -> str:
    """Return captured output; its first line, which says where it comes from, is left out."""
    text = (Path(__file__).parent / "fixtures" / name).read_bytes().decode()
    header, _, output = text.partition("\n")
    assert header.startswith("# ")
    return output


class FakeSystemd:
    """A machine whose systemctl says what a test lays down; `calls` is what it was asked to do."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "systemctl.d"
        self._directory.mkdir()
        self._booted = directory / "run-systemd-system"
        self._program = directory / "systemctl"
        self._program.write_text(SCRIPT.format(directory=self._directory))
        self._program.chmod(0o755)
        self._journal = directory / "journalctl"
        self.answer_journal()
        self.units = directory / "units"
        self.units.mkdir()
        self.answer("state", "running\n")
        self.answer_call("", 0)
        self.answer_show("", 0)
        self.boot()

    def boot(self) -> None:
        """Be the init of the machine."""
        self._booted.mkdir()

    def absent(self) -> None:
        """Not be the init of the machine."""
        self._booted.rmdir()

    def answer(self, name: str, text: str) -> None:
        """Lay down what it says: ``state`` to is-system-running."""
        (self._directory / name).write_text(text)

    def answer_show(self, text: str, status: int = 0) -> None:
        """Lay down what ``systemctl show`` prints and exits with."""
        self.answer("show", text)
        self.answer("show-status", str(status))

    def answer_call(self, text: str, status: int) -> None:
        """Lay down what start and stop print and exit with."""
        self.answer("message", text)
        self.answer("status", str(status))

    def answer_journal(self, *lines: str) -> None:
        """Lay down what ``journalctl`` prints."""
        (self._directory / "journal").write_text("".join(f"{line}\n" for line in lines))
        self._journal.write_text(f"#!/bin/sh\necho \"$@\" >{self._directory}/asked\ncat {self._directory}/journal\n")
        self._journal.chmod(0o755)

    @property
    def asked_journal(self) -> str:
        """The arguments of the last journalctl."""
        file = self._directory / "asked"
        return file.read_text().strip() if file.exists() else ""

    def enable(self, unit: str, by: str = "multi-user.target.wants") -> Path:
        """Make the link that ``systemctl enable`` makes, and return it."""
        link = self.units / by / unit
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(f"/lib/systemd/system/{unit}")
        return link

    @property
    def calls(self) -> list[str]:
        """What changes were asked for, one command line each; questions are left out."""
        file = self._directory / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith("--no-block ")]

    def systemd(self) -> Services:
        """Return it as the tunnels see it."""
        return Services(str(self._program), str(self._booted), (str(self.units), "/nonexistent"), str(self._journal))
