"""dpkg(1) on the lab's laptop, for our two packages."""

from __future__ import annotations

from .laptop import Laptop

BOTH = ["netconf-hooks", "python3-netconf-hooks"]


def dpkg(laptop: Laptop, *arguments: str, check: bool = True) -> str:
    """Run dpkg and return what it said on the terminal."""
    done = laptop.run(["dpkg", "--force-unsafe-io", *arguments], timeout=120, check=check)
    assert check or done.returncode != 0
    return done.stdout + done.stderr
