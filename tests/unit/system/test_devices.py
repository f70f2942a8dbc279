"""Which names a device can have."""

import pytest

from netconf_hooks.system.devices import is_device


@pytest.mark.parametrize("name", ["eth0", "a", "wg-corp.1", "x" * 15, "~+=", "\udcff", "...", "ü"])
def test_names(name):
    assert is_device(name)


# "à" is C3 A0 in UTF-8, and A0 is white space to the kernel.
@pytest.mark.parametrize("name", [
    "", ".", "..", "x" * 16, "ü" * 8, "a/b", "eth0:1", "a b", "a\tb", "a\0", "\x1b", "\x7f", "à",
])
def test_what_is_no_name(name):
    assert not is_device(name)
