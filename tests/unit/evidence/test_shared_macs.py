"""MAC addresses that recognise no network."""

import pytest

from netconf_hooks.evidence.shared_macs import find_user


@pytest.mark.parametrize("mac, user", [
    ("00:00:5e:00:01:07", "VRRP or CARP"), ("00:00:5e:00:02:ff", "VRRP or CARP"), ("00:00:0c:07:ac:00", "HSRP"),
    ("00:00:0c:9f:f0:01", "HSRP version 2"), ("00:05:73:a0:0f:ff", "HSRP version 2"), ("00:07:b4:00:01:01", "GLBP"),
    ("12:34:56:78:9a:bc", "Microsoft Azure"), ("ee:ee:ee:ee:ee:ee", "Calico"),
    ("52:55:0a:00:02:02", "QEMU's user network"), ("52:54:00:12:35:02", "VirtualBox's NAT"),
])
def test_what_is_the_same_everywhere(mac, user):
    assert find_user(mac) == user


@pytest.mark.parametrize("mac", [
    "", "00:00:5e:00:53:01", "00:00:0c:9f:ef:01", "00:05:73:a0:1f:ff", "12:34:56:78:9a:bd", "52:54:00:0a:00:01",
    "00:16:3e:11:22:33",
])
def test_what_is_not(mac):
    assert find_user(mac) == ""
