"""Fixtures of the tunnels' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_systemd import FakeSystemd, read_fixture


@pytest.fixture
def fake(tmp_path: Path) -> FakeSystemd:
    return FakeSystemd(tmp_path)


@pytest.fixture
def captured() -> Callable[[str], str]:
    return read_fixture
