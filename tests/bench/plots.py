"""The plots of docs/performance.md: how something grows, ours and the alternative."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .race import Curve


def draw(curves: Sequence[Curve], directory: Path) -> list[Path]:
    """Draw each curve into an SVG of its name in a directory, and return the files."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures make the same file.
    matplotlib.rcParams |= {"svg.hashsalt": "netconf-hooks", "svg.fonttype": "none", "font.size": 9.0}
    directory.mkdir(exist_ok=True)
    return [_draw(curve, directory / f"{curve.name}.svg") for curve in curves]


def _draw(curve: Curve, path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for label, points in curve.lines.items():
        numbers, times = zip(*points)
        axes.plot(numbers, times, marker="o", markersize=3, linewidth=1.2, label=label)
    if curve.logarithmic:
        axes.set_xscale("symlog")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    axes.set_title(curve.title)
    axes.set_xlabel(curve.over)
    axes.set_ylabel("ms")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    return path
