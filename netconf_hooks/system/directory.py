"""Notices that somebody has changed the files of a directory: inotify(7).

Python's own way to the kernel's news of files, dnotify (fcntl(2), F_NOTIFY), sends signals that tell no names, also for
what this program has written itself, and poll(2) does not see them.
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
_EVENT = struct.Struct("=iIII")  # inotify_event: wd, mask, cookie, length of the name, which zeros follow


class Directory:
    """The files of a directory.  `fileno` is readable when any was changed.  Raises OSError."""

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
        """Watch the directory that has this path now, also after another one had it; return whether there is one."""
        try:
            call("inotify_add_watch", self._descriptor, os.fsencode(self._path), _CHANGES)
        except OSError:
            return False
        return True

    def has_changed(self) -> bool:
        """Return whether the files were changed since this was last asked.

        Files whose names begin with a dot don't count: they are what a record is written to before it is renamed.
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
