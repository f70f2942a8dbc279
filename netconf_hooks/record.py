"""The base class of the small immutable values that modules pass to each other."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class Record:
    """An immutable value.  Its fields are its ``__slots__``; it is compared and shown by its fields.

    Every ``ifup`` imports this, so it is written by hand: ``dataclasses`` takes 14 ms to import, ``typing.NamedTuple``
    10 ms, this module nothing (docs/performance.md).  Subclasses name their fields in ``__slots__``, take them in
    ``__init__``, in the same order and by the same names, and set each of them there once.
    """

    __slots__: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: object) -> None:
        """Set a field that has no value yet, as ``__init__`` does.  Raises AttributeError for any other."""
        # This check costs 0.4 us for each field, and 0.07 ms for a hook, which sets 160 fields.  Replacing the object's
        # class after __init__ would make each record cheaper, but costs 15 us for each class.
        if hasattr(self, name):
            raise AttributeError(f"{type(self).__name__}.{name} can't be changed: use change()")
        object.__setattr__(self, name, value)  # a fourth faster than by super()

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} can't be deleted")

    def change(self, **fields: object) -> Self:
        """Return a copy with other values for some fields.  Raises TypeError for a field that it does not have."""
        unknown = ", ".join(name for name in fields if name not in self.__slots__)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {unknown}")
        copy = object.__new__(type(self))
        for name in self.__slots__:
            # Not by __init__: the check of `__setattr__` for each field would cost a guarded hook 0.2 ms.
            object.__setattr__(copy, name, fields[name] if name in fields else getattr(self, name))
        return copy

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__slots__))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"
