"""Which module imports which: the order is the list in CONTRIBUTING.md, "Imports point down"."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PACKAGE = "netconf_hooks"


def list_modules() -> dict[str, Path]:
    """Return the modules of the package, by their full names."""
    modules = {}
    for path in sorted((CHECKOUT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(CHECKOUT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = list_modules()


def read_imports(path: Path) -> dict[str, int]:
    """Return the modules of the package that a file imports, anywhere in it, each with a line number."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import; write the module's full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in names]
        found.update({name: node.lineno for name in names if name.partition(".")[0] == PACKAGE})
    return found


@pytest.fixture(scope="module")
def imports() -> dict[str, dict[str, int]]:
    """What each module imports."""
    return {module: read_imports(path) for module, path in MODULES.items()}


def get_room(module: str) -> str:
    """Return the folder or file below netconf_hooks/ that a module is in."""
    return module.split(".")[1] if "." in module else "__init__"


def read_floors() -> dict[str, int]:
    """Return the line of each folder and file in CONTRIBUTING's list; the first line is number 0."""
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\nImports point down.")[2]
    lines = text.split("```")[1].strip().splitlines()
    rooms = [room for line in lines for room in line.split()]
    assert len(rooms) == len(set(rooms)), "CONTRIBUTING.md: a name is twice in the list of floors"
    return {room: number for number, line in enumerate(lines) for room in line.split()}


FLOORS = read_floors()


def test_the_list_has_each_folder_and_file_once() -> None:
    rooms = {get_room(module) for module in MODULES}
    missing, gone = rooms - set(FLOORS), set(FLOORS) - rooms
    assert not missing, f"CONTRIBUTING.md, Imports point down: put {', '.join(missing)} below all that import it"
    assert not gone, f"CONTRIBUTING.md, Imports point down: remove {', '.join(gone)}"


def test_imports_point_down(imports: dict[str, dict[str, int]]) -> None:
    wrong = []
    for module, found in imports.items():
        for other, line in found.items():
            room, target = get_room(module), get_room(other)
            if room != target and FLOORS[room] >= FLOORS[target]:
                wrong.append(f"{MODULES[module].relative_to(CHECKOUT)}:{line}: {room} must not import {other}")
    assert not wrong, (
        "Not below the importing module in CONTRIBUTING.md's list: move what both need into a module below both:\n"
        + "\n".join(wrong)
    )


def find_circle(imports: dict[str, dict[str, int]]) -> list[str]:
    """Return modules each of which imports the next, and the last the first; none if there is no circle."""
    done: set[str] = set()

    def follow(module: str, way: list[str]) -> list[str]:
        if module in way:
            return way[way.index(module):]
        if module in done:
            return []
        for other in imports.get(module, ()):
            if circle := follow(other, [*way, module]):
                return circle
        done.add(module)
        return []

    for module in imports:
        if circle := follow(module, []):
            return circle
    return []


def test_no_imports_go_in_a_circle(imports: dict[str, dict[str, int]]) -> None:
    circle = find_circle(imports)
    assert not circle, f"{' -> '.join([*circle, circle[0]])}: move what two of them need into a module of its own"


def test_a_circle_is_found() -> None:
    imports = {"a": {"b": 1}, "b": {"c": 1}, "c": {"d": 1, "b": 2}, "d": {}}
    assert find_circle(imports) == ["b", "c"]
    assert find_circle({**imports, "c": {"d": 1}}) == []


def list_importers(name: str) -> list[str]:
    """Return the modules that import a module, or one in it, anywhere in their text."""
    found = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            if any(f"{each}.".startswith(f"{name}.") for each in names):
                found.append(module)
    return sorted(set(found))


def test_pyroute2_is_for_the_scan_alone() -> None:
    """Its import takes a tenth of a second or more, and as much memory as all of the watcher."""
    assert list_importers("pyroute2") == ["netconf_hooks.evidence.scan"]
    assert list_importers("netconf_hooks.evidence.scan") == ["netconf_hooks.mappings.guessnet"]


def test_no_two_modules_have_the_same_name() -> None:
    names = [module.rpartition(".")[2] for module in MODULES]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"{', '.join(twice)}: two modules of this name; name each after the one thing that it knows"


def test_no_test_module_imports_another() -> None:
    """What several of them need is in a module that is no test."""
    wrong = []
    for path in sorted(CHECKOUT.glob("tests/**/test_*.py")):
        text = path.read_text(encoding="utf-8")
        # Parsing all of them would take a second.
        if not re.search(r"\bfrom\s+[\w.]*\btest_", text):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2].startswith("test_"):
                wrong.append(f"{path.relative_to(CHECKOUT)}:{node.lineno}: move what it takes from {node.module}")
    assert not wrong, "\n".join(wrong)
