"""Runs commands of nft(8) in this process: libnftables(3).

This is a binding of our own to five functions, not python3-nftables.  That one is for JSON, too, and each hook of a
guarded interface would pay for it: importing it takes as long as starting an interpreter and a half, this module a
third of that (callgrind: 40 and 14 million instructions; an interpreter takes 21).
"""

from __future__ import annotations

import ctypes

_SONAME = "libnftables.so.1"  # since nftables 0.9 (2018)


class LibraryError(Exception):
    """libnftables can't be used here; the message says why."""


class Nftables:
    """The library.  Raises `LibraryError` if it is not installed, or is another one.

    There is no destructor: the kernel closes the library's socket when the process ends.  A forked process must create
    one of its own, since this would share the socket with its parent.
    """

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(_SONAME)
            library.nft_ctx_new.restype = ctypes.c_void_p
            library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
            self._run_commands = library.nft_run_cmd_from_buffer
            self._get_error = library.nft_ctx_get_error_buffer
            keep = (library.nft_ctx_buffer_output, library.nft_ctx_buffer_error)
        except (OSError, AttributeError) as error:
            raise LibraryError(f"{_SONAME} can't be used: {error}") from None
        context = library.nft_ctx_new(0)
        if not context:
            raise LibraryError(f"{_SONAME} can't be used: out of memory")
        self._context = ctypes.c_void_p(context)
        for each in keep:  # else it would write to our standard output and error
            each(self._context)

    def run(self, commands: str) -> str:
        """Run commands, one on each line, as one transaction: all of them or none.

        Returns the error's message, empty if they were done.  Its first line has the reason.
        """
        if not self._run_commands(self._context, ctypes.c_char_p(commands.encode())):
            return ""
        message: bytes = self._get_error(self._context) or b""
        return message.decode(errors="replace") or "nftables gives no reason"
