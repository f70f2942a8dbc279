"""CONTRIBUTING shows lines of the code: each is there, in the file that it names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def list_shown_lines() -> list[tuple[str, str]]:
    """Return the lines that CONTRIBUTING shows, each with the file that the comment above it names."""
    section = TEXT.split("## Two values on their way")[1].split("\n## ")[0]
    shown = []
    for block in re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
        file = ""
        for line in block.splitlines():
            if line.startswith("# "):
                file = line[2:].partition(":")[0]
            else:
                shown.append((file, line))
    return shown


def test_both_values_are_shown():
    assert len(list_shown_lines()) > 15


@pytest.mark.parametrize("file, line", list_shown_lines())
def test_each_line_of_code_is_true(file, line):
    code = [each.strip() for each in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    assert line in code, f'CONTRIBUTING.md, "Two values on their way": {file} has no such line, show the new one'


PATHS = set(re.findall(r"`((?:netconf_hooks|tests|docs|debian|libexec)/[\w/.-]*)`", TEXT))


@pytest.mark.parametrize("path", sorted(PATHS))
def test_each_path_exists(path):
    assert (ROOT / path).exists(), f"CONTRIBUTING.md names {path}, which is not there"
