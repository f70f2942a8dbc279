"""Debian packages that the lab's machines have and this one needs not: fetched by apt, never installed here.

Some could not be: Libreswan conflicts with strongSwan.  They are kept in `image.CACHE`, and installed by dpkg on the
disk of a lab's machine, as the product's own packages are.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .image import CACHE
from .namespaces import ENVIRONMENT

_URI = re.compile(r"'[^']+' (?P<file>(?P<name>[^_ ]+)_(?P<version>[^_ ]+)_[^_ ]+\.deb) (?P<size>\d+) ", re.ASCII)


class ArchiveError(Exception):
    """The packages can't be had: the message says why."""


def fetch_packages(names: Sequence[str], status: Path | None = None, cache: Path = CACHE) -> list[Path]:
    """Return the .deb files that are missing for `names`: theirs and those of what they depend on.

    status: dpkg's status file of the machine that they are for; this machine's own unless given.
    Raises ArchiveError.
    """
    directory = cache / "packages"
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            wanted = _list_missing(names, status)
        except ArchiveError:
            # Nothing has been asked of the archive yet, or it has gone on since.
            _apt(["update"])
            wanted = _list_missing(names, status)
        absent = [match for match in wanted if not _is_whole(directory / match["file"], int(match["size"]))]
        if absent:
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                versions = [f"{match['name']}={match['version'].replace('%3a', ':')}" for match in absent]
                _apt(["download", *versions], scratch)
                for file in Path(scratch).glob("*.deb"):
                    file.rename(directory / file.name)
    missing = [match["file"] for match in wanted if not _is_whole(directory / match["file"], int(match["size"]))]
    if missing:
        raise ArchiveError(f"apt-get download did not bring {' '.join(missing)}")
    return [directory / match["file"] for match in wanted]


def unpack(names: Sequence[str], directory: Path) -> dict[str, str]:
    """Unpack packages, and what of their dependencies is missing here, and return the environment to run them with.

    Their programs run from there, on this machine's own file system: nothing is installed.
    """
    for file in fetch_packages(names):
        subprocess.run(["dpkg", "-x", str(file), str(directory)], check=True, capture_output=True)
    libraries = {str(library.parent) for library in directory.rglob("*.so*")}
    places = [f"{directory}/usr/sbin", f"{directory}/usr/bin", ENVIRONMENT["PATH"]]
    return {"LD_LIBRARY_PATH": ":".join(sorted(libraries)), "PATH": ":".join(places)}


def _list_missing(names: Sequence[str], status: Path | None) -> list[re.Match[str]]:
    state = ["-o", f"Dir::State::status={status}"] if status else []
    # Prints what it would fetch and does nothing (apt-get(8)), so it need not wait for whoever installs something now.
    ask = ["--print-uris", "-o", "Debug::NoLocking=true", "--yes", "--no-install-recommends", "install"]
    with tempfile.TemporaryDirectory() as empty:
        # Else what this machine's apt has fetched before is left out.
        archives = ["-o", f"Dir::Cache::archives={empty}"]
        lines = _apt([*state, *archives, *ask, *names]).splitlines()
    return [match for line in lines if (match := _URI.match(line))]


def _is_whole(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _apt(arguments: Sequence[str], directory: str = "/") -> str:
    # As root, who alone can write to the cache: else apt warns that its own user can't.
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", *arguments]
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    result = subprocess.run(command, cwd=directory, env=proxies | ENVIRONMENT, capture_output=True, text=True)
    if result.returncode != 0:
        raise ArchiveError(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout
