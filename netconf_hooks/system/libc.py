"""Functions of the C library that Python lacks, or has only in later versions."""

from __future__ import annotations

import os


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library.  Raises OSError if it fails."""
    import ctypes

    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
