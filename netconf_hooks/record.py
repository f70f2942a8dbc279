"""The base of the small values that travel through the house."""

from __future__ import annotations


class Record:
    """A small value: its fields are its ``__slots__``, compared and shown by value, never changed once made.

    Written by hand because every ``ifup`` pays for it: ``dataclasses`` costs 14 ms to import, ``typing.NamedTuple``
    10 ms, this nothing (docs/performance.md).  Subclasses name their fields in ``__slots__`` and set them in
    ``__init__``, in the same order, by the same names.
    """

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__slots__))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"
