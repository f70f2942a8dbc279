"""Whose a file is: what runs as root must be root's, and nobody else may be able to write it."""

from __future__ import annotations

import os
import stat


class Unsafe(Exception):
    """A file, or its directory, is not root's alone; the message names it and says what is wrong."""


def check_owner(path: str) -> None:
    """Raise `Unsafe` unless `path`, or what it links to, belongs to root and nobody else can write it."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise Unsafe(f"{path}: {error.strerror}") from error
    if status.st_uid != 0:
        raise Unsafe(f"{path}: belongs to uid {status.st_uid}, not to root")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unsafe(f"{path}: others than root can write it (mode {stat.S_IMODE(status.st_mode):o})")


def check_program(path: str) -> None:
    """Raise `Unsafe` unless `path` can be run, and it, its directory, and the directory of what it links to are root's
    alone."""
    for each in (path, os.path.dirname(path), os.path.dirname(os.path.realpath(path))):
        check_owner(each)
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise Unsafe(f"{path}: not a program")
