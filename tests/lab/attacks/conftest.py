"""Fixtures of the attack lab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..laptop import Image
from .scene import Scene


@pytest.fixture
def scene(image: Image, guard: str) -> Iterator[Scene]:
    """The scene of an attack, with the test's `guard`."""
    with Scene(image, guard) as made:
        yield made
        made.capture.read()
        assert made.capture.seen > 0  # else the capture saw nothing at all, and nothing is proven
