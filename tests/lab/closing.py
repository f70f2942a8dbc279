"""What the lab's machines, captures and servers have in common: a with statement closes them."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """A context manager that ends by `close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it; what can't be taken back is an error."""
        raise NotImplementedError
