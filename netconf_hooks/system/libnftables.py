"""Runs commands of nft(8) in this process: libnftables(3).

This is a binding of our own to five functions, not python3-nftables: importing that, which handles JSON, too, takes
as long as starting an interpreter and a half, in each hook of a guarded interface.  For the same reason this uses
`_ctypes`, the part of ctypes that is written in C: the rest takes 0.7 ms of each such hook.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    _ctypes: Any  # mypy of Debian 12 knows hardly anything of it
else:
    import _ctypes

_SONAME = "libnftables.so.1"  # since nftables 0.9 (2018)


class LibraryError(Exception):
    """libnftables can't be used here; the message says why."""


class _Int(_ctypes._SimpleCData):  # type: ignore[misc]  # as ctypes.c_int
    _type_ = "i"


class _Pointer(_ctypes._SimpleCData):  # type: ignore[misc]  # as ctypes.c_void_p
    _type_ = "P"


class _Text(_ctypes._SimpleCData):  # type: ignore[misc]  # as ctypes.c_char_p
    _type_ = "z"


class _Function(_ctypes.CFuncPtr):  # type: ignore[misc]
    _flags_, _restype_ = _ctypes.FUNCFLAG_CDECL, _Int


class Nftables:
    """The library.  Raises `LibraryError` if it is not installed, or is another one.

    There is no destructor: the kernel closes the library's socket when the process ends.  A forked process must create
    one of its own, since this would share the socket with its parent.  Two threads need one each: the library crashes
    if two threads use the same one.
    """

    def __init__(self) -> None:
        try:
            library = _ctypes.dlopen(_SONAME, 0)
            create = _find(library, "nft_ctx_new")
            self._run_commands = _find(library, "nft_run_cmd_from_buffer")
            self._get_error = _find(library, "nft_ctx_get_error_buffer")
            keep = [_find(library, f"nft_ctx_buffer_{stream}") for stream in ("output", "error")]
        except OSError as error:
            raise LibraryError(f"{_SONAME} can't be used: {error}") from None
        create.restype = _Pointer
        self._get_error.restype = _Text
        context = create(_Int(0))
        if not context:
            raise LibraryError(f"{_SONAME} can't be used: out of memory")
        self._context = _Pointer(context)
        for each in keep:  # else it would write to our standard output and error
            each(self._context)

    def run(self, commands: str) -> str:
        """Run commands, one on each line, as one transaction: all of them or none.

        Returns the error's message, empty if they were done.  Its first line has the reason.
        """
        if "\0" in commands:
            return "a NUL byte would end the commands"
        if not self._run_commands(self._context, _Text(commands.encode())):
            return ""
        message: bytes = self._get_error(self._context) or b""
        return message.decode(errors="replace") or "nftables gives no reason"


def _find(library: int, name: str) -> _Function:
    """Return a function of a library, which returns a C int unless told otherwise.  Raises OSError."""
    return _Function(_ctypes.dlsym(library, name))
