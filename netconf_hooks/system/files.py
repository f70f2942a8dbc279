"""Reading files that somebody else wrote: regular ones only, and only so many bytes of them.

What a configuration includes may be a FIFO, which blocks whoever opens it, or a device that never ends.
"""

from __future__ import annotations

import os
from errno import EFBIG, EINVAL, EISDIR
from stat import S_ISDIR, S_ISREG

MOST_FILES = 1000
"""Files that one configuration may include, however deep: with two lines each, ten files include a million times."""

LIMIT = 1 << 20
"""Bytes that a configuration may have: a thousand times the size of a usual one."""


def read_file(path: str, limit: int = LIMIT, follow: bool = True) -> bytes:
    """Return the content of a regular file.

    limit: bytes that it may have.  follow: whether `path` may be a symbolic link.
    Raises OSError, whose ``strerror`` says in words also that it is no regular file or too large.
    """
    # O_NONBLOCK: to open a FIFO waits for a writer otherwise (fifo(7)).
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        check_regular(descriptor, path)
        pieces = []
        left = limit + 1
        # The files of /proc and /sys have no size to go by.
        while left and (piece := os.read(descriptor, min(left, 1 << 16))):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(descriptor)
    if not left:
        raise OSError(EFBIG, f"more than {limit} bytes", path)
    return b"".join(pieces)


def check_regular(descriptor: int, path: str) -> None:
    """Raise OSError unless an open file is a regular one.  path: its name, for the message."""
    mode = os.fstat(descriptor).st_mode
    if S_ISDIR(mode):
        raise OSError(EISDIR, os.strerror(EISDIR), path)
    if not S_ISREG(mode):
        raise OSError(EINVAL, "not a regular file", path)


def read_text(path: str, limit: int = LIMIT, any_end: bool = False) -> str:
    """Return the content of a regular file as text; what is not UTF-8 becomes surrogates (PEP 383).

    any_end: whether ``\r`` and ``\r\n`` end a line as well, and are returned as ``\n``; else lines end as they are
        written.
    Raises OSError as `read_file` does.
    """
    text = read_file(path, limit).decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n") if any_end else text
