"""guessnet 0.56 itself, from the last Debian that had it, to be raced: fetched by apt, unpacked, never installed here.

A private apt asks the archives that this machine's apt knows for the old release.  The program runs with that release's
own libraries.
"""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from .archive import ArchiveError, _apt
from .image import CACHE
from .laptop import Laptop

RELEASE = "bullseye"
# libdbus is libpcap's.
PACKAGES = ("guessnet", "libdbus-1-3", "libiw30", "libnet1", "libpcap0.8")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

PLACE = "/usr/local/guessnet"
SCRIPT = f"{PLACE}/guessnet-ifupdown"
_START = """\
#!/bin/sh
LD_LIBRARY_PATH=$(echo {place}/usr/lib/*-linux-gnu):$(echo {place}/lib/*-linux-gnu)
export LD_LIBRARY_PATH
exec {place}/usr/sbin/guessnet-ifupdown "$@"
"""


def fetch_guessnet(cache: Path = CACHE) -> list[Path]:
    """Return the .deb files.  Raises ArchiveError."""
    directory = cache / RELEASE
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _list_packages(directory)
        if len(found) == len(PACKAGES):
            return found
        problems = []
        for archive in _list_archives():
            try:
                _fetch(archive, directory)
                return _list_packages(directory)
            except ArchiveError as error:
                problems.append(str(error))
    raise ArchiveError("\n".join(problems))


def install_guessnet(laptop: Laptop, packages: list[Path]) -> None:
    """Unpack it on a laptop's disk: `SCRIPT` runs it."""
    for package in packages:
        subprocess.run(["dpkg-deb", "-x", package, laptop.namespaces.root / PLACE.lstrip("/")], check=True)
    laptop.write(SCRIPT, _START.format(place=PLACE), 0o755)


def _list_packages(directory: Path) -> list[Path]:
    found = (sorted(directory.glob(f"{name}_*.deb"))[-1:] for name in PACKAGES)
    return [file for files in found for file in files]


def _list_archives() -> list[str]:
    lines = _apt(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]).splitlines()
    return list(dict.fromkeys(line.partition(" ")[2] for line in lines if line.startswith("Debian ")))


def _fetch(archive: str, directory: Path) -> None:
    root = directory / "apt"
    for name in ("lists/partial", "archives/partial"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    (root / "sources.list").write_text(f"deb [signed-by={KEYRING}] {archive} {RELEASE} main\n")
    options = {
        "Dir::State": root,
        "Dir::State::status": root / "status",
        "Dir::Cache": root,
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
    }
    private = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    _apt([*private, "update"])
    _apt([*private, "download", *PACKAGES], str(directory))
