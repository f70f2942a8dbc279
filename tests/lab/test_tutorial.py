"""docs/tutorial.md, as it is: each of its commands is run on the laptop to practise on, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs/tutorial.md"
PRACTICE = "/usr/share/doc/netconf-hooks/examples/practice"


@pytest.fixture
def dhcp_client() -> str:
    """Which of them is used, is up to the machine that the tutorial is read on."""
    return DHCP_CLIENTS[0]


def read_steps() -> list[tuple[str, list[str]]]:
    """Return the commands of each step, and the lines that they print."""
    steps: list[tuple[str, list[str]]] = []
    blocks = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for kind, text in blocks.findall(TUTORIAL.read_text(encoding="utf-8")):
        if kind == "sh":
            steps.append((text, []))
        else:
            assert kind == "text" and not steps[-1][1]
            steps[-1] = (steps[-1][0], text.splitlines())
    return steps


def find_missing(wanted: list[str], printed: list[str]) -> str:
    """Return the first of the wanted lines that does not come after those before it; `...` is anything."""
    rest = iter(" ".join(line.split()) for line in printed)
    for line in wanted:
        if line == "...":
            continue
        pattern = ".*".join(re.escape(part) for part in " ".join(line.split()).split("..."))
        if not any(re.fullmatch(pattern, each) for each in rest):
            return line
    return ""


def test_each_command_does_what_the_tutorial_says(lab: Lab) -> None:
    laptop = lab.laptop
    (begin, _), *steps = read_steps()
    assert begin == f"sudo {PRACTICE}\n"
    assert len(steps) > 8
    script = "".join(f"echo '@@ {number}'\n{commands}" for number, (commands, _) in enumerate(steps))
    laptop.write("/tmp/steps", script)
    before = laptop.run(["ip", "-oneline", "address"]).stdout, laptop.read("/etc/network/interfaces")
    run = laptop.run(["sh", "-c", f"{PRACTICE} sh /tmp/steps 2>&1"], timeout=300)
    said = re.split(r"^@@ \d+\n", run.stdout, flags=re.MULTILINE)[1:]
    assert len(said) == len(steps), run.stdout
    for (commands, wanted), printed in zip(steps, said):
        assert not find_missing(wanted, printed.splitlines()), f"{commands}\n{printed}"
    # Nothing of it is left, and nothing else was touched.
    assert (laptop.run(["ip", "-oneline", "address"]).stdout, laptop.read("/etc/network/interfaces")) == before
    assert not laptop.exists("/run/practice") and not laptop.exists("/run/netconf-hooks/interfaces")
    assert not any("openvpn" in command or "dnsmasq" in command for command in laptop.processes().values())


def test_the_practice_laptop_refuses_what_it_can_not_do(lab: Lab) -> None:
    as_user = lab.laptop.run(["setpriv", "--reuid=1000", "--clear-groups", PRACTICE], check=False)
    assert (as_user.returncode, as_user.stderr) == (1, f"practice: needs root: sudo {PRACTICE}\n")
    wrong = lab.laptop.run([PRACTICE, "plug", "office"], check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "usage: plug home|cafe|nowhere\n")


def test_the_tutorial_is_shipped_as_it_is(lab: Lab) -> None:
    assert lab.laptop.read("/usr/share/doc/netconf-hooks/tutorial.md") == TUTORIAL.read_text(encoding="utf-8")
