"""Reading files that other programs or people wrote: only regular files, and only up to a limit.

A configuration may include a FIFO, which blocks its reader, or a device that never ends.
"""

from __future__ import annotations

import os
from errno import EFBIG, EINVAL, EISDIR
from stat import S_ISDIR, S_ISREG

MOST_FILES = 1000
"""How often one configuration may include a file in total: a few files that include each other could be read millions
of times."""

LIMIT = 1 << 20
"""The largest size of a configuration, in bytes: a thousand times the usual one."""


def read_file(path: str, limit: int = LIMIT, follow: bool = True) -> bytes:
    """Return the content of a regular file.

    limit: bytes that it may have.  follow: whether `path` may be a symbolic link.
    Raises OSError; its ``strerror`` also says if the file is not regular or too large.
    """
    # O_NONBLOCK: otherwise opening a FIFO would wait for a writer (fifo(7)).
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        check_regular(descriptor, path)
        pieces = []
        left = limit + 1
        # Files in /proc and /sys report no usable size.
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
    """Return the content of a regular file as text; bytes that are not UTF-8 become surrogates (PEP 383).

    any_end: whether ``\r`` and ``\r\n`` also end a line and are returned as ``\n``; otherwise line ends are unchanged.
    Raises OSError as `read_file` does.
    """
    text = read_file(path, limit).decode("utf-8", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n") if any_end else text
