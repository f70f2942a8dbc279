"""The pictures of README, drawn from what the demo prints: ``make pictures``.

``python3 -m tests.lab.pictures DEMO DIRECTORY`` reads the demo's output from the file DEMO, and writes DIRECTORY's
story.svg (home, office, cafe: what runs, what is closed) and explain.svg (a terminal with `netconf-hooks explain`).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PLACES = ("Home", "The office", "The cafe")
EXPLAINED = "The cafe"

_FONT = 'font-family="DejaVu Sans, Verdana, sans-serif"'
_MONO = 'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" xml:space="preserve"'
# Readable on white and on black: each picture has a background of its own.
_PAPER, _INK, _QUIET, _GOOD, _WAITS = "#ffffff", "#1f2933", "#5f6b76", "#1a7f37", "#b35900"
_SCREEN, _LIGHT, _GREEN, _RED, _DIM = "#1d2430", "#e6e9ee", "#7ee787", "#ff9a8b", "#9aa5b1"


class Visit(NamedTuple):
    """What the demo prints of one stop."""

    title: str
    location: str
    tunnels: tuple[str, ...]
    guard: str
    host: str
    answers: bool
    explained: tuple[str, ...]


def read_visits(text: str) -> list[Visit]:
    """Return the stops of the demo's output.  Raises ValueError if it is not one that went well."""
    if not re.search(r"^All \d+ stops were as they should be", text, re.MULTILINE):
        raise ValueError("not the output of a demo that went well")
    visits = []
    for title, section in re.findall(r"^---- \d+\. (.+?) -+$(.*?)(?=^---- )", text, re.MULTILINE | re.DOTALL):
        facts = re.findall(r"^(?:  ok|    )  (\w[\w ]{0,11}?) {2,}(\S.*)$", section, re.MULTILINE)
        host, _, words = next(fact for label, fact in facts if label == "behind it").partition(" ")
        visits.append(Visit(
            title=title,
            location=next(fact for label, fact in facts if label == "location"),
            tunnels=tuple(
                fact.partition(":")[0] for label, fact in facts
                if label == "tunnel" and fact.endswith(": wanted, connected")
            ),
            guard=next(fact for label, fact in facts if label == "guard"),
            host=host,
            answers=words == "answers",
            explained=_read_explained(section),
        ))  # fmt: skip
    return visits


def _read_explained(section: str) -> tuple[str, ...]:
    """Return what `explain` printed, without the demo's indentation."""
    found = re.search(r"^laptop# (netconf-hooks explain .+)\n((?:    .*\n)+)", section, re.MULTILINE)
    if not found:
        return ()
    return (found[1], *(line[4:] for line in found[2].splitlines()))


def draw_story(visits: list[Visit]) -> str:
    """Return the picture of the story: a panel for each place."""
    chosen = [next(visit for visit in visits if visit.title == title) for title in PLACES]
    width, height, gap = 300, 260, 15
    parts = [panel for number, visit in enumerate(chosen) for panel in _draw_panel(visit, gap + number * (width + gap))]
    return _wrap(len(chosen) * (width + gap) + gap, height + 2 * gap, _PAPER, "What runs, and what is closed: "
                 + "; ".join(_describe(visit) for visit in chosen), parts)  # fmt: skip


def _describe(visit: Visit) -> str:
    tunnels = ", ".join(visit.tunnels) or "no tunnel"
    return f"{visit.title}: {visit.location}, {tunnels}, the guard {visit.guard}"


def _draw_panel(visit: Visit, left: int) -> list[str]:
    closed = visit.guard == "closed"
    colour = _WAITS if closed else _GOOD
    parts = [
        f'<rect x="{left}" y="15" width="300" height="260" rx="10" fill="none" stroke="{colour}" stroke-width="2"/>',
        _text(left + 20, 48, visit.title, 20, _INK, bold=True),
        _text(left + 20, 72, f"location: {visit.location}", 14, _QUIET),
        # The laptop, and the network that it is plugged into.
        f'<rect x="{left + 20}" y="105" width="70" height="44" rx="4" fill="none" stroke="{_INK}" stroke-width="2"/>',
        f'<path d="M{left + 10} 158 h90" stroke="{_INK}" stroke-width="3"/>',
        f'<circle cx="{left + 250}" cy="130" r="26" fill="none" stroke="{_INK}" stroke-width="2"/>',
        _text(left + 250, 135, "net", 14, _INK, middle=True),
    ]
    if visit.tunnels:
        parts += [
            f'<rect x="{left + 95}" y="118" width="126" height="24" rx="12" fill="{_GOOD}"/>',
            _text(left + 158, 135, ", ".join(visit.tunnels), 13, _PAPER, middle=True),
        ]
    else:
        parts.append(f'<path d="M{left + 95} 130 h126" stroke="{_QUIET}" stroke-width="2" stroke-dasharray="6 5"/>')
    if closed:
        parts.append(f'<path d="M{left + 108} 96 v16 M{left + 108} 148 v16" stroke="{_WAITS}" stroke-width="6"/>')
    answers = "answers" if visit.answers else "is silent"
    return [
        *parts,
        _text(left + 20, 195, f"tunnel: {', '.join(visit.tunnels) or 'none'}", 14, _INK),
        _text(left + 20, 219, f"guard: {visit.guard}", 14, colour, bold=True),
        _text(left + 20, 240, "only the tunnel's packets leave" if closed else "everything may leave", 13, _QUIET),
        _text(left + 20, 261, f"{visit.host}, behind the VPN, {answers}", 13, _QUIET),
    ]  # fmt: skip


def draw_explain(visits: list[Visit]) -> str:
    """Return the picture of a terminal in which somebody asks why."""
    visit = next(visit for visit in visits if visit.title == EXPLAINED)
    command, *lines = visit.explained
    parts = [_line(40, f"$ {command}", _LIGHT, bold=True)]
    parts += [_line(64 + 20 * number, line, _choose_colour(line)) for number, line in enumerate(lines)]
    widest = max(len(line) for line in (*lines, command))
    return _wrap(40 + round(8.45 * widest), 64 + 20 * len(lines), _SCREEN, " ".join(lines), parts)


def _choose_colour(line: str) -> str:
    if "does not hold" in line:
        return _RED
    if ": holds" in line or ": up" in line:
        return _GREEN
    return _LIGHT if not line.startswith("    ") else _DIM


def _line(y: int, text: str, colour: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="20" y="{y}" font-size="14" fill="{colour}"{weight} {_MONO}>{escape(text)}</text>'


def _text(x: int, y: int, text: str, size: int, colour: str, bold: bool = False, middle: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    anchor = ' text-anchor="middle"' if middle else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{weight}{anchor} {_FONT}>{escape(text)}</text>'


def _wrap(width: int, height: int, background: str, title: str, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    ground = f'<rect width="{width}" height="{height}" rx="10" fill="{background}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *parts, "</svg>", ""])


def main(demo: str, directory: str) -> int:
    """Draw the pictures; return the exit status."""
    try:
        visits = read_visits(Path(demo).read_text(encoding="utf-8"))
    except ValueError as error:
        print(f"{demo}: {error}", file=sys.stderr)
        return 1
    Path(directory, "story.svg").write_text(draw_story(visits), encoding="utf-8")
    Path(directory, "explain.svg").write_text(draw_explain(visits), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
