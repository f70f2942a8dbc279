"""Which firewall is taken, and what is said where one does not work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from netconf_hooks.guards import GuardError, choose_guard, iptables, load_guard


def test_legacy_program(tmp_path: Path) -> None:
    """update-alternatives(1) decides by links which iptables is iptables."""
    for name in ("xtables-legacy-multi", "xtables-nft-multi"):
        (tmp_path / name).touch()
    program, alternative = tmp_path / "iptables", tmp_path / "alternative"
    program.symlink_to(alternative)
    alternative.symlink_to("xtables-nft-multi")
    assert not iptables.is_legacy(str(program))
    alternative.unlink()
    alternative.symlink_to("xtables-legacy-multi")
    assert iptables.is_legacy(str(program))
    assert not iptables.is_legacy(str(tmp_path / "missing"))


def test_not_legacy(tmp_path: Path) -> None:
    """Not named by the admin, it is refused before anything is imported or written."""
    with pytest.raises(GuardError, match="is not iptables-legacy"):
        iptables.Guard(by_name=False, program=str(tmp_path / "iptables"))


@pytest.mark.parametrize("backend, module", [("nftables", "nftables"), ("iptables", "iptc")])
def test_library_missing(monkeypatch: pytest.MonkeyPatch, backend: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(GuardError, match=f"python3-{backend} is missing"):
        load_guard(backend)


def test_auto_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where none works, each says why."""
    monkeypatch.setitem(sys.modules, "nftables", None)
    monkeypatch.setattr(iptables, "is_legacy", lambda program: False)
    reasons = "nftables: python3-nftables is missing.*; iptables: .* is not iptables-legacy"
    with pytest.raises(GuardError, match=reasons):
        choose_guard("auto")
    with pytest.raises(GuardError) as caught:
        choose_guard("nftables")
    assert "iptables:" not in str(caught.value)
