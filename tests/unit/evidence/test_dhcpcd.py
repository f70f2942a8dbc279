"""The leases that dhcpcd keeps, as they were received."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY
from messages import COOKIE, make_message, make_message6

from netconf_hooks.evidence.dhcpcd import Message, list_leases, read_message, read_message6

URI = "https://portal.example/"


def test_a_message():
    data = make_message(URI, options={53: b"\5", 15: b"a.example"})
    assert read_message(data) == Message(4, ("192.0.2.7",), {53: b"\5", 15: b"a.example", 114: URI.encode()})
    assert read_message(data.replace(COOKIE, COOKIE + bytes(3))) == read_message(data)  # padding
    assert read_message(make_message("x" * 600)).options == {114: b"x" * 600}
    message = read_message6(make_message6(URI))
    assert (message.version, message.addresses, message.options[103]) == (6, ("2001:db8::7",), URI.encode())


@pytest.mark.parametrize("data", [
    b"", bytes(300), make_message(URI)[:239], make_message(URI).replace(COOKIE, bytes(4)),
])
def test_no_message(data):
    assert read_message(data) == Message(4, (), {})


@settings(max_examples=MANY)
@given(st.binary(max_size=80), st.binary(max_size=300))
def test_any_bytes_are_a_message_or_none(start, rest):
    for data in (start, make_message(URI)[:240] + rest, bytes(236) + COOKIE + rest, bytes(4) + rest):
        for read in (read_message, read_message6):
            message = read(data)
            assert all(isinstance(value, bytes) for value in message.options.values())
            assert all(isinstance(address, str) for address in message.addresses)


def test_only_what_the_device_holds_counts(tmp_path):
    for name, message in (
        ("eth0.lease", make_message(URI)), ("eth0-Hotel.lease", make_message(URI, "198.51.100.3")),
        ("eth0.lease6", make_message6(URI)), ("eth00.lease", make_message(URI)), ("eth0.text", make_message(URI)),
        ("eth0-Other.lease", b"nonsense"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(message)
    (tmp_path / "eth0-Folder.lease").mkdir()
    assert [each.addresses for each in list_leases("eth0", ("192.0.2.7",), str(tmp_path))] == [("192.0.2.7",)]
    both = ("198.51.100.3", "2001:db8::7")
    assert [each.version for each in list_leases("eth0", both, str(tmp_path))] == [4, 6]
    assert list_leases("eth0", (), str(tmp_path)) == []
    assert list_leases("eth0", both, str(tmp_path / "nowhere")) == []
