"""``netconf-hooks forget-server``: a certificate counts again."""


import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.commands.entry import FAILED, OK
from netconf_hooks.commands.forget import read_fingerprint
from netconf_hooks.evidence import known_servers
from netconf_hooks.evidence.known_servers import Servers

HEX = 32 * "0a"
MAC = "02:00:00:00:00:0a"


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path, as_root):
    """Root calls; the memory is the test's own, and empty."""
    monkeypatch.setattr(known_servers, "DIRECTORY", str(tmp_path))


@pytest.mark.parametrize("text", [
    HEX, HEX.upper(), ":".join(["0A"] * 32), f"sha256:{HEX}", f"intranet.example:443/sha256:{HEX}",
    f"tls=[fe80::1]:443/sha256:{HEX}",
])
def test_a_fingerprint(text):
    assert read_fingerprint(text) == HEX


@given(st.text("0123456789abcdefg:/ ", max_size=70))
def test_any_text_is_a_fingerprint_or_none(text):
    try:
        digits = read_fingerprint(text)
    except ValueError as error:
        assert repr(text) in str(error)
    else:
        assert len(digits) == 64 and set(digits) <= set("0123456789abcdef")


def test_it_is_forgotten_and_said_where_it_was(command):
    Servers().note(HEX, (MAC,), (), "eth0")
    Servers().note_elsewhere(HEX, "through tun0")
    status, output, errors = command("forget-server", HEX)
    assert (status, errors) == (OK, "")
    assert output.startswith(f"sha256:{HEX}: forgotten; it was also seen through tun0, ")
    assert Servers().read() == {}


def test_what_was_never_seen(command):
    assert command("forget-server", HEX) == (
        FAILED, "", f"netconf-hooks: sha256:{HEX}: never seen, so there is nothing to forget\n"
    )  # fmt: skip


def test_what_is_no_fingerprint(command, capfd):
    with pytest.raises(SystemExit) as left:
        command("forget-server", "nonsense")
    assert left.value.code == 2
    assert "64 hexadecimal digits, not 'nonsense'" in capfd.readouterr().err


def test_a_memory_that_can_not_be_read(command, tmp_path):
    (tmp_path / "servers").write_text("nonsense\n")
    status, _, errors = command("forget-server", HEX)
    assert status == FAILED and "its first line is not" in errors


def test_only_root_may(command, as_user):
    status, _, errors = command("forget-server", HEX)
    assert status == FAILED and "only root" in errors
