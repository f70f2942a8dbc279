"""Notices that somebody has changed the files of a directory: inotify(7).

Python itself only supports dnotify (fcntl(2), F_NOTIFY).  Its signals don't name the file, also report this program's
own writes, and can't be used with poll(2).
"""

from __future__ import annotations

import os
import struct

from netconf_hooks.system.libc import call

# linux/inotify.h
_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x002, 0x040, 0x080, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _ONLYDIR = 0x400, 0x800, 0x01000000
_CHANGES = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_OVERFLOW = 0x4000
_EVENT = struct.Struct("=iIII")  # inotify_event: wd, mask, cookie, length of the name, which is padded with zeros


class Directory:
    """Watches the files of a directory.  `fileno` is readable when one was changed.  Raises OSError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch()

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._descriptor

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)

    def watch(self) -> bool:
        """Watch the directory that now has this path, even if it has replaced another one; return whether it exists."""
        try:
            call("inotify_add_watch", self._descriptor, os.fsencode(self._path), _CHANGES)
        except OSError:
            return False
        return True

    def has_changed(self) -> bool:
        """Return whether the files were changed since the last call.

        Files whose names begin with a dot don't count: a record is written to such a file, which is then renamed.
        """
        changed = False
        while True:
            try:
                events = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return changed
            changed = changed or _tell_change(events)


def _tell_change(events: bytes) -> bool:
    place = 0
    while place < len(events):
        _, mask, _, length = _EVENT.unpack_from(events, place)
        place += _EVENT.size + length
        if mask & _OVERFLOW or not events[place - length:place].startswith(b"."):
            return True
    return False
