"""Fixtures of the tunnels' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_systemd import FakeSystemd, read_fixture

from netconf_hooks.system.netlink import Netlink


@pytest.fixture
def fake(tmp_path: Path) -> FakeSystemd:
    return FakeSystemd(tmp_path)


@pytest.fixture(autouse=True)
def own_addresses(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The addresses of this machine, whatever it really has: where packages are built even lo may be down."""
    own = {"127.0.0.1", "::1"}
    monkeypatch.setattr(Netlink, "is_own", lambda self, address: address in own)
    return own


@pytest.fixture
def captured() -> Callable[[str], str]:
    return read_fixture
