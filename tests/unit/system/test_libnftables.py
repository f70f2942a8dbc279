"""libnftables, in this process: what it says of commands that it can't parse needs no root."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from netconf_hooks.system import libnftables
from netconf_hooks.system.libnftables import LibraryError, Nftables

try:
    ctypes.CDLL("libnftables.so.1")
    IS_HERE = True
except OSError:
    IS_HERE = False

needs_library = pytest.mark.skipif(not IS_HERE, reason="libnftables1 is not installed")


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables, "_SONAME", "libnothing.so.7")
    with pytest.raises(LibraryError, match="^libnothing.so.7 can't be used: .*: cannot open shared object file"):
        Nftables()


def test_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables, "_SONAME", "libc.so.6")
    with pytest.raises(LibraryError, match="^libc.so.6 can't be used: .*undefined symbol: nft_"):
        Nftables()


@needs_library
def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    real = libnftables._find

    def find(library: int, name: str) -> Callable[..., object]:
        return (lambda flags: None) if name == "nft_ctx_new" else real(library, name)

    monkeypatch.setattr(libnftables, "_find", find)
    with pytest.raises(LibraryError, match="out of memory"):
        Nftables()


@needs_library
def test_the_error_of_each_run_is_returned_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    nft = Nftables()
    first = nft.run("add tabel inet x")
    assert "Error: syntax error" in first.splitlines()[0] and "tabel" in first
    second = nft.run("frobnicate")
    assert "Error: syntax error" in second and "frobnicate" in second and "tabel" not in second
    printed = capfd.readouterr()
    # Whom the kernel refuses the firewall is told so by the library itself.
    refused = [line for line in printed.err.splitlines() if os.geteuid() != 0 and "Operation not permitted" in line]
    assert (printed.out, printed.err.splitlines()) == ("", refused)


@needs_library
def test_an_error_without_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    nft = Nftables()
    monkeypatch.setattr(nft, "_get_error", lambda context: None)
    assert nft.run("add tabel inet x") == "nftables gives no reason"


@needs_library
def test_commands_are_not_cut_off_at_a_nul_byte() -> None:
    assert "NUL byte" in Nftables().run("add tabel inet x\0add table inet y")


@needs_library
def test_nothing_to_do() -> None:
    assert Nftables().run("") == ""


@needs_library
def test_two_at_once() -> None:
    """Each has its own messages."""
    one, other = Nftables(), Nftables()
    assert "one_word" in one.run("one_word")
    assert "another_word" in other.run("another_word")
    assert "one_word" in one.run("one_word")


@needs_library
def test_a_refusal_of_the_kernel_is_an_error() -> None:
    """An ordinary user may not ask; root asks for a table that can't be there."""
    assert "Error: " in Nftables().run("list table inet netconf-hooks-test-nowhere")


@needs_library
def test_it_takes_no_dear_module() -> None:
    """What python3-nftables or ctypes would cost a hook."""
    program = (
        f"import sys; sys.path.append({os.getcwd()!r}); import netconf_hooks.system.libnftables as library; "
        "library.Nftables(); print(*sys.modules)"
    )
    argv = [sys.executable, "-IS", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    dear = {"json", "re", "enum", "subprocess", "logging", "nftables", "ctypes", "threading"}
    assert not dear & set(done.stdout.split())
