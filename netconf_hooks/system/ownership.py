"""Checks the owner and mode of programs that run as root: only root may own them and be able to write to them."""

from __future__ import annotations

import os
import stat

_MOST_LINKS = 40
"""Symbolic links that a path may lead through, path_resolution(7)."""


class Unsafe(Exception):
    """Others than root can change a file, or a directory on the way to it; the message says which, and why."""


def check_owner(path: str) -> None:
    """Raise `Unsafe` unless `path`, or the file it links to, belongs to root and nobody else can write to it."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise Unsafe(f"{path}: {error.strerror}") from error
    if status.st_uid != 0:
        raise Unsafe(f"{path}: belongs to uid {status.st_uid}, not to root")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unsafe(f"{path}: others than root can write it (mode {stat.S_IMODE(status.st_mode):o})")


def check_path(path: str) -> None:
    """Raise `Unsafe` unless only root can change `path` and every directory on the way to it, up to ``/``.

    sshd(8) with StrictModes has the same rule: a user who can write to one of these directories can replace everything
    below.  Symbolic links are followed, and the directories that they lead through count, too.  A directory with the
    sticky bit, such as /tmp, is not allowed.
    """
    left = _split(path if path.startswith("/") else os.path.join(os.getcwd(), path))
    place = "/"
    links = 0
    checked = {place}
    check_owner(place)
    while left:
        name = left.pop()
        if name == "..":
            place = os.path.dirname(place)
            continue
        below = os.path.join(place, name)
        try:
            target = os.readlink(below) if os.path.islink(below) else ""
        except OSError as error:
            raise Unsafe(f"{below}: {error.strerror}") from error
        if target:
            links += 1
            if links > _MOST_LINKS:
                raise Unsafe(f"{path}: too many symbolic links")
            left += _split(target)
            place = "/" if target.startswith("/") else place
            continue
        place = below
        if place not in checked:
            checked.add(place)
            check_owner(place)


def check_program(path: str) -> None:
    """Raise `Unsafe` unless `path` is executable, and only root can change it and every directory on the way to it."""
    check_path(path)
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise Unsafe(f"{path}: not a program")


def _split(path: str) -> list[str]:
    """Return the names in a path, the first one last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
