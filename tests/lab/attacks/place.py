"""Doing something in another network namespace of the lab, from within this process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..namespaces import enter_network

T = TypeVar("T")


def call_in(namespace: str, function: Callable[[], T]) -> T:
    """Call `function` in the network namespace of that file, and return what it returns or raise what it raises.

    A socket belongs to where it was made: what `function` returns can be used anywhere.
    """
    def work() -> T:
        enter_network(namespace)
        return function()

    # A thread of its own: it is thrown away with the namespace that it is in.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
