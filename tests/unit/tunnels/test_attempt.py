"""attempt: programs of the test's own in place of the entry; tests/lab has the real one, with systemd and without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_systemd import FakeSystemd

from netconf_hooks.state import Store
from netconf_hooks.tunnels import TunnelError, attempt
from netconf_hooks.tunnels.attempt import Initiator, Work, main, read_arguments

ROOT = Path(__file__).resolve().parents[3]

PATIENT = "#!/usr/bin/python3 -IS\nimport signal\nsignal.pause()\n"
STUBBORN = """\
#!/usr/bin/python3 -IS
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("{ready}", "w").close()
while True:
    signal.pause()
"""

# An attempt whose tunnel runs a client that never ends.
BLOCKED = """
import sys
from netconf_hooks.system import programs
from netconf_hooks.tunnels import attempt
class Tunnel:
    def connect(self):
        print(flush=True)
        programs.run(["tail", "-f", "/dev/null"], 60)
attempt.load_tunnel = lambda kind, name: Tunnel()
sys.exit(attempt.main(["start", "ipsec-work"]))
"""


def wait_until(condition, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.01)


class Place:
    """Where attempts of the tunnel ``ipsec work`` run."""

    def __init__(self, directory: Path, fake: FakeSystemd) -> None:
        self.fake = fake
        self.entry = directory / "tunnel"
        self.runlevel = directory / "runlevel"
        self.write(self.runlevel, "#!/bin/sh\necho N 2\n")
        self.write(self.entry, PATIENT)

    def write(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def attempts(self, name: str = "work") -> Initiator:
        return Initiator("ipsec", name, self.fake.systemd(), entry=str(self.entry), runlevel=str(self.runlevel))

    def find(self, name: str = "work") -> list[int]:
        return self.attempts(name)._find_running()


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Where initiators write down why they failed."""
    store = Store(str(tmp_path / "netconf-hooks"))
    store.prepare()
    monkeypatch.setattr(attempt, "Store", lambda: store)
    return store


@pytest.fixture
def place(tmp_path: Path, fake: FakeSystemd) -> Iterator[Place]:
    made = Place(tmp_path, fake)
    yield made
    for name in ("work", "work2"):
        for pid in made.find(name):
            os.kill(pid, signal.SIGKILL)


def test_with_systemd_it_is_a_unit(place):
    place.attempts("me@corp").request()
    assert place.fake.calls == ["--no-block start netconf-hooks-tunnel@ipsec-me@corp.service"]
    place.fake.answer_show("LoadState=loaded\nActiveState=inactive\n")
    place.attempts("me@corp").cancel()
    assert place.fake.calls[1:] == ["--no-block stop netconf-hooks-tunnel@ipsec-me@corp.service"]
    assert place.find("me@corp") == []


def test_nothing_is_started_while_the_system_stops(place):
    place.fake.answer("state", "stopping\n")
    with pytest.raises(TunnelError, match="the system is stopping"):
        place.attempts().request()
    place.fake.absent()
    place.write(place.runlevel, "#!/bin/sh\necho 2 6\n")
    with pytest.raises(TunnelError, match="the system is stopping"):
        place.attempts().request()
    assert place.find() == []


def test_without_systemd_it_is_a_process_of_its_own(place):
    place.fake.absent()
    place.attempts().request()
    (pid,) = place.find()
    assert os.getsid(pid) == pid != os.getsid(0)
    place.attempts().request()
    assert place.find() == [pid], "one is enough"
    place.attempts("work2").request()
    assert place.find() == [pid]
    place.attempts().cancel()
    assert place.find() == []
    assert len(place.find("work2")) == 1
    place.attempts().cancel()


def test_one_that_does_not_listen_is_killed(place, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "END_TIMEOUT", 0.1)
    place.fake.absent()
    place.write(place.entry, STUBBORN.format(ready=tmp_path / "ready"))
    place.attempts().request()
    wait_until((tmp_path / "ready").exists)
    place.attempts().cancel()
    assert place.find() == []


def test_a_missing_entry_is_an_error(place):
    place.fake.absent()
    place.entry.unlink()
    with pytest.raises(TunnelError, match=r"/tunnel: no such program"):
        place.attempts().request()


@pytest.mark.thorough
def test_cancelled_it_takes_its_client_along():
    process = subprocess.Popen([sys.executable, "-c", BLOCKED], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    # Past fork and exec.
    wait_until(lambda: any(b"tail" in read_command(pid) for pid in children.read_text().split()))
    (client,) = children.read_text().split()
    process.terminate()
    assert process.wait(5) == 1
    process.stdout.close()
    wait_until(lambda: not Path(f"/proc/{client}").exists())


def read_command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["start", "ipsec-work"], Work("ipsec", "work")),
        (["start", "ipsec-a-b"], Work("ipsec", "a-b")),
        (["start", "ipsec-"], None),
        (["start", "ipsec"], None),
        (["start", "nothing-work"], None),
        (["stop", "ipsec-work"], None),
        (["start"], None),
        ([], None),
    ],
)
def test_what_it_is_called_with(arguments, expected):
    assert read_arguments(arguments) == expected


class FakeTunnel:
    def __init__(self, error: str = "") -> None:
        self.error = error

    def connect(self) -> None:
        if self.error:
            raise TunnelError(self.error)


@pytest.fixture
def said(monkeypatch):
    """What was logged."""
    lines: list[str] = []
    for level in ("info", "error", "complain"):
        monkeypatch.setattr(attempt.log, level, lambda text, level=level: lines.append(f"{level}: {text}"))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = signal.getsignal(signal.SIGTERM)
    yield lines
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("tunnel", "status", "line"),
    [
        (FakeTunnel(), 0, "info: ipsec work: connected"),
        (FakeTunnel("no answer"), 1, 'error: netconf-vpn "ipsec work": not connected: no answer'),
        (object(), 2, "complain: a tunnel of the kind ipsec needs no initiator"),
    ],
)
def test_how_it_ends(monkeypatch, said, tunnel, status, line):
    monkeypatch.setattr(attempt, "load_tunnel", lambda kind, name: tunnel)
    assert main(["start", "ipsec-work"]) == status
    assert said == [line]


def test_called_in_a_wrong_way(said):
    assert main(["begin"]) == 2
    assert said == ["complain: expected: tunnel start KIND-NAME"]
