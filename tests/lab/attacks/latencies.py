"""How long packets left after the kernel's news: each measurement is a file, until the next one of the same situation.

``make latencies`` measures all of them, and prints the table.
"""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).resolve().parents[3] / "build/latencies"


def note_latency(situation: str, backend: str, seconds: float, packets: int) -> None:
    """Write down and print a measurement.

    seconds: from the kernel's news to the last packet, 0.0 if there was none; packets: how many came after the news.
    """
    line = f"{situation:28} {backend:16} {seconds * 1000:8.1f} ms {packets:5} packets"
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    Path(DIRECTORY, f"{situation}-{backend}").write_text(f"{line}\n")
    print(line)


def main() -> None:
    """Print what was measured last."""
    print("From the kernel's news to the last packet, by situation and backend:")
    for path in sorted(DIRECTORY.iterdir()):
        print(path.read_text(), end="")


if __name__ == "__main__":
    main()
