"""The tool that asks whether the tests would notice: which changes it makes, and what it says of them."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants
from tests.lab.waiting import wait_until
from tests.mutants import Calls, Mutant, list_mutants, main

ROOT = Path(__file__).resolve().parents[2]


def change(source: str) -> set[str]:
    """Return every changed form of a source."""
    return {mutant.apply(source.encode()).decode() for mutant in list_mutants(source.encode())}


@pytest.mark.parametrize(
    "source, changed",
    [
        ("x = a < b", {"x = (a <= b)", "x = (a >= b)"}),
        ("x = a == b", {"x = (a != b)"}),
        ("x = a not in b", {"x = (a in b)"}),
        ("x = a is None", {"x = (a is not None)"}),
        ("x = a and b", {"x = (a or b)"}),
        ("x = not a", {"x = (a)"}),
        ("x = a + b", {"x = (a - b)"}),
        ("x += y", {"x -= y"}),
        ("x = True", {"x = False"}),
        ("x = 7", {"x = 8"}),
        ("x = 'eth0'", {"x = ''"}),
        ("x = ''", {"x = 'mutant'"}),
        ("if a:\n    b = c", {"if (not a):\n    b = c"}),
        ("x = [a for a in b if c]", {"x = [a for a in b if (not c)]"}),
        ("def f():\n    return a", {"def f():\n    return (None)"}),
        ("f(a)", {"pass"}),
        ("é = a == b", {"é = (a != b)"}),
    ],
)
def test_a_change(source: str, changed: set[str]) -> None:
    if "return" in source:
        changed = {text.replace("(None)", "None") for text in changed}
    assert {text.replace("(None)", "None") for text in change(source)} == changed


@pytest.mark.parametrize(
    "source",
    [
        '"""What it does: 7."""',
        "def f(a: Literal['x']) -> Literal[7]:\n    '''Say.'''\n    pass",
        "if TYPE_CHECKING:\n    x = 7",
        "TYPE_CHECKING = False",
        "x = f'{a}: {b!r:7}'",
        "x = 'a message'",
        "return_ = None",
    ],
)
def test_what_is_left_as_it_is(source: str) -> None:
    assert change(source) == set()


@pytest.mark.thorough
@pytest.mark.parametrize("module", ["decide", "guard/firewall/nftables", "evidence/dns"])
def test_changes_of_real_modules(module: str) -> None:
    """Each is another program that Python can read, and in one place only."""
    source = (ROOT / f"netconf_hooks/{module}.py").read_bytes()
    mutants = list_mutants(source)
    assert len(mutants) > 100
    assert len(set(mutants)) == len(mutants)
    for mutant in mutants[::10]:
        changed = mutant.apply(source)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
        assert changed.startswith(source[:mutant.start]) and changed.endswith(source[mutant.end:])


MODULE = """\
def cut(number):
    if number > 9:
        number -= 9
    return number
"""
TESTS = """\
from netconf_hooks.size import cut


def test_cut():
    assert cut(8) == 8
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a module of which the tests forget a part."""
    if not shutil.which("git"):
        pytest.skip("git, by which the tool finds the checkout's files, is not installed")
    for name, text in (("netconf_hooks/size.py", MODULE), ("tests/unit/test_size.py", TESTS), ("conftest.py", "")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "setup.cfg").write_text("[tool:pytest]\npythonpath = .\nmarkers = thorough\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


@pytest.mark.thorough
@pytest.mark.parametrize("quick", [[], ["--quick"]], ids=["all tests", "quick"])
def test_what_nobody_noticed(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quick: list[str]
) -> None:
    """It prints what the tests forget, counts what they do not, and leaves the checkout as it is.

    Also in a worker of pytest-xdist: then the process that starts workers of its own must not take itself for one.
    """
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    arguments = [str(project / "netconf_hooks/size.py"), "--seed", "1", *quick, "--tests", "tests/unit/test_size.py"]
    assert main(arguments, project) == 1
    said = capsys.readouterr().out
    assert "-        number -= 9\n+        number += 9" in said
    assert "number <= 9" not in said
    assert "+    return None" not in said
    assert said.count("nobody noticed:") == 4
    assert "netconf_hooks/size.py: 3 of 7 changes noticed" in said
    assert (project / "netconf_hooks/size.py").read_text() == MODULE


SOURCE = b"""\
LIMIT = 9

def cut(number):
    def take(part):
        return part - LIMIT
    return take(number)

@cache
def add(number): return number + 1
"""


@pytest.mark.parametrize("text, tests", [
    ("LIMIT = 9", ()),
    ("return part", ("t.py::slow",)),
    ("return take", ("t.py::quick", "t.py::slow")),
    ("return number", ("t.py::other",)),
])
def test_the_tests_that_call_what_was_changed_come_first(tmp_path: Path, text: str, tests: tuple[str, ...]) -> None:
    calls = {"m.py": {"3": ["t.py::slow", "t.py::quick"], "4": ["t.py::slow"], "8": ["t.py::other"]}, "n.py": {}}
    seconds = {"t.py::slow": 2.0, "t.py::quick": 0.5, "t.py::other": 1.0}
    (tmp_path / "one").write_text(json.dumps([calls, seconds]))
    (tmp_path / "two").write_text(json.dumps([{"m.py": {}, "n.py": {"4": ["t.py::slow"]}}, {}]))
    start = SOURCE.index(text.encode())
    assert Calls(tmp_path.iterdir()).find("m.py", SOURCE, Mutant(start, start + 1, "x")) == tests


HANGING = """\
import os
import signal
from pathlib import Path

from netconf_hooks.size import cut


def test_cut():
    if (cut(8), cut(10)) != (8, 1):
        Path(os.environ["HANGS"]).write_text(str(os.getpid()))
        signal.pause()
"""


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_ends_its_tests(project: Path, number: signal.Signals) -> None:
    """Also one that hangs because of the change, which would take minutes; and nothing is left in /tmp."""
    (project / "tests/unit/test_size.py").write_text(HANGING)
    temporary, hangs = project / "tmp", project / "hangs"
    temporary.mkdir()
    program = (
        "import sys; from pathlib import Path; from tests import mutants; mutants.end_by_signals(); "
        "mutants.main(sys.argv[1:], Path(sys.argv[1]).parents[1])"
    )
    command = [sys.executable, "-c", program, str(project / "netconf_hooks/size.py"), "--seed", "1", "--jobs", "1"]
    environment = {**os.environ, "TMPDIR": str(temporary), "HANGS": str(hangs)}
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=nowhere, stderr=nowhere) as run:
        wait_until(lambda: hangs.exists() and hangs.read_text() != "", "a test to hang", 60.0)
        run.send_signal(number)
        run.wait(20)
    assert not os.path.exists(f"/proc/{hangs.read_text()}")
    assert not list(temporary.glob("mutants-*"))


@pytest.mark.thorough
def test_a_test_that_hangs_has_noticed(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended, with the processes that it has started, long before all tests together would have to be over."""
    (project / "tests/unit/test_size.py").write_text(HANGING.replace(
        "signal.pause()", "import subprocess; subprocess.run(['sleep', '1000'])"
    ))  # fmt: skip
    hangs = project / "hangs"
    monkeypatch.setenv("HANGS", str(hangs))
    monkeypatch.setattr(mutants, "SHORTEST_TEST", 0.5)
    assert main([str(project / "netconf_hooks/size.py"), "--seed", "1", "--count", "3", "--jobs", "1"], project) == 1
    assert "2 of 3 changes noticed" in capsys.readouterr().out
    assert not os.path.exists(f"/proc/{hangs.read_text()}")


@pytest.mark.thorough
def test_tests_that_fail_already(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "tests/unit/test_other.py").write_text("def test_wrong():\n    assert False\n")
    assert main([str(project / "netconf_hooks/size.py"), "--seed", "1"], project) == 2
    assert "test_wrong" in capsys.readouterr().err


def test_no_such_module(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(project / "netconf_hooks/none.py")], project)
    assert "expected a module below" in capsys.readouterr().err
