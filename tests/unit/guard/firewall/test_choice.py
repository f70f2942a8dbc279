"""Which firewall is chosen, and what is said if one does not work."""

from __future__ import annotations

import itertools
import types
from pathlib import Path

import pytest

from netconf_hooks.guard import firewall
from netconf_hooks.guard.firewall import GuardError, choose_firewall, iptables, load_firewall, nftables
from netconf_hooks.system import libnftables

PROGRAMS = [
    f"{program}-{variant}-{what}"
    for program in ("iptables", "ip6tables")
    for variant in ("legacy", "nft")
    for what in ("restore", "save")
]


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other test has loaded a firewall in this process."""
    monkeypatch.setattr(firewall, "_LOADED", {})


@pytest.fixture
def sbin(tmp_path: Path) -> Path:
    """A directory of programs as Debian's, in which nft is the chosen variant; each program fails."""
    for multi in ("xtables-legacy-multi", "xtables-nft-multi"):
        (tmp_path / multi).write_text("#!/bin/sh\necho no rights >&2\nexit 3\n")
        (tmp_path / multi).chmod(0o755)
    for name in PROGRAMS:
        (tmp_path / name).symlink_to("xtables-legacy-multi" if "legacy" in name else "xtables-nft-multi")
    (tmp_path / "iptables-restore").symlink_to(tmp_path / "alternative")
    choose_variant(tmp_path, "nft")
    return tmp_path


def choose_variant(sbin: Path, variant: str) -> None:
    """Do what update-alternatives(1) does."""
    (sbin / "alternative").unlink(missing_ok=True)
    (sbin / "alternative").symlink_to(f"iptables-{variant}-restore")


def test_variant(sbin: Path) -> None:
    """The guard is put into the tables of the variant that the admin has chosen, and remembers which that is."""
    assert iptables.find_variant(str(sbin)) == "nft"
    assert iptables.Firewall(directory=str(sbin)).name == "iptables-nft"
    choose_variant(sbin, "legacy")
    assert iptables.Firewall(directory=str(sbin)).name == "iptables-legacy"
    assert iptables.Firewall(variant="nft", directory=str(sbin)).name == "iptables-nft"


def test_news(sbin: Path) -> None:
    """Only of the nft variant's tables does the kernel tell when they change; `check` says so."""
    nft, legacy = (iptables.Firewall(variant=variant, directory=str(sbin)) for variant in ("nft", "legacy"))
    assert (nft.has_news, legacy.has_news) == (True, False)
    assert set(legacy.lacks) - set(nft.lacks) == {iptables.NO_NEWS}
    assert nftables.Firewall.has_news


def test_lease(sbin: Path) -> None:
    """What is open is so for a time in all of them: the watcher renews it, and the record says until when."""
    guards = [nftables.Firewall, *(iptables.Firewall(variant=name, directory=str(sbin)) for name in ("nft", "legacy"))]
    assert all(guard.has_lease for guard in guards)


def test_no_iptables(tmp_path: Path) -> None:
    with pytest.raises(GuardError, match=r"iptables-restore is missing \(package iptables\)"):
        iptables.Firewall(directory=str(tmp_path))


def test_another_iptables(sbin: Path) -> None:
    (sbin / "alternative").unlink()
    (sbin / "alternative").symlink_to("/bin/true")
    with pytest.raises(GuardError, match="expected a link to xtables-legacy-multi or xtables-nft-multi"):
        iptables.Firewall(directory=str(sbin))


@pytest.mark.parametrize("name", [name for name in PROGRAMS if "-nft-" in name])
def test_program_missing(sbin: Path, name: str) -> None:
    (sbin / name).unlink()
    with pytest.raises(GuardError, match=f"/{name} is missing" if name != "iptables-nft-restore" else "is missing"):
        iptables.Firewall(directory=str(sbin))


def test_kernel_says_no(sbin: Path) -> None:
    """Only who wants to know starts a program; then the message is the program's."""
    iptables.Firewall(directory=str(sbin))
    with pytest.raises(GuardError, match="ip6tables-nft-restore: no rights"):
        iptables.Firewall(thorough=True, directory=str(sbin))


def test_library_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables, "_SONAME", "libnothing.so.7")
    with pytest.raises(GuardError, match="libnothing.so.7 can't be used: .*: cannot open shared object file"):
        load_firewall("nftables")


@pytest.mark.parametrize("name", ["", "os", "iptables-", "iptables-os", "nftables-nft", "auto", "../nftables", "hosts"])
def test_unknown(name: str) -> None:
    """A name from a damaged record imports nothing."""
    with pytest.raises(GuardError, match="there is no firewall"):
        load_firewall(name)


@pytest.mark.parametrize("name", ["iptables-legacy", "iptables-nft"])
def test_by_the_name_in_the_record(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made = []
    monkeypatch.setattr(iptables, "Firewall", lambda *arguments: made.append(arguments))
    load_firewall(name)
    assert made == [(False, name.partition("-")[2])]


def test_it_is_loaded_once_in_each_process_unless_the_admin_may_choose_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = itertools.count()
    monkeypatch.setattr(iptables, "Firewall", lambda *arguments: types.SimpleNamespace(number=next(numbers)))
    first = load_firewall("iptables-nft")
    assert first is not None and load_firewall("iptables-nft") is first
    assert load_firewall("iptables-legacy") is not first
    assert load_firewall("iptables-nft", thorough=True) is not first
    latest = load_firewall("iptables-nft")
    assert load_firewall("iptables") is not load_firewall("iptables")
    # A child loads its own.
    monkeypatch.setattr(firewall.os, "getpid", lambda: 4711)
    assert load_firewall("iptables-nft") not in (first, latest)


def test_what_guards_are_in_already_needs_no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes iptables two programs' runs."""
    asked = []

    def load(name: str, thorough: bool = False) -> types.SimpleNamespace:
        asked.append((name, thorough))
        return types.SimpleNamespace(name="iptables-nft" if name == "iptables" else name)

    monkeypatch.setattr(firewall, "load_firewall", load)
    assert choose_firewall("iptables", {"iptables-nft"}).name == "iptables-nft"
    assert asked == [("iptables", False)]
    asked.clear()
    # The admin has chosen another variant since.
    assert choose_firewall("iptables", {"iptables-legacy"}).name == "iptables-nft"
    assert asked == [("iptables", False), ("iptables", True)]


def test_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """nftables comes first, then the iptables of this machine; if none works, each says why."""
    reasons = {"nftables": "libnftables.so.1 can't be used", "iptables": "no kernel has it"}
    asked = []

    def load(name: str, thorough: bool = False) -> str:
        asked.append((name, thorough))
        if name in reasons:
            raise GuardError(reasons[name])
        return name

    monkeypatch.setattr(firewall, "load_firewall", load)
    with pytest.raises(GuardError) as caught:
        choose_firewall("auto")
    assert str(caught.value) == "nftables: libnftables.so.1 can't be used; iptables: no kernel has it"
    with pytest.raises(GuardError) as caught:
        choose_firewall("nftables")
    assert "iptables:" not in str(caught.value)
    del reasons["iptables"]
    assert choose_firewall("auto") == "iptables"
    del reasons["nftables"]
    assert choose_firewall("auto") == choose_firewall() == "nftables"
    assert choose_firewall("iptables") == "iptables"
    assert all(thorough for _, thorough in asked)
