"""netconf-linkdown-routes: a cable is pulled, and the other interface takes over at once, whatever its metric.

The kernel goes on using the dead link's route otherwise, unless the DHCP client takes it away (dhcpcd does, for IPv4).
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, OFFICE, VPN_GATEWAY
from .stanzas import ROAMING, find_records, find_tunnels, wait_for_tunnel
from .packages import BOTH, dpkg
from .waiting import wait_until

LIMIT = 5.0  # seconds from the pulled cable on
SYSCTL = "net.{}.conf.{}.ignore_routes_with_linkdown"
RECORD = "/run/netconf-hooks/linkdown"
FAR = "2001:db8:ffff::1"

STATIC6 = f"""
iface eth0 inet6 static
    address {OFFICE.prefix6}77/64
    gateway {OFFICE.prefix6}1
    metric 100
    netconf-vpn openvpn corp unless anywhere
iface wlan0 inet6 static
    address {CAFE.prefix6}77/64
    gateway {CAFE.prefix6}1
    metric 200
    netconf-vpn openvpn corp unless anywhere
"""


def read_sysctls(lab: Lab, device: str = "eth0") -> str:
    """Return the values of a device, for IPv4 and IPv6."""
    names = [SYSCTL.format(family, device) for family in ("ipv4", "ipv6")]
    return "".join(lab.laptop.run(["sysctl", "-n", *names]).stdout.split())


def find_way(lab: Lab, host: str) -> str:
    """Return the device by which packets to a host leave; empty for none."""
    words = lab.laptop.run(["ip", "route", "get", host], check=False).stdout.split()
    return words[words.index("dev") + 1] if "dev" in words else ""


@pytest.fixture
def both(lab: Lab) -> Lab:
    """The cable in the office, where the tunnel is vetoed, and the radio in the café."""
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug(OFFICE.name)
    lab.plug(CAFE.name, "wlan0")
    lab.laptop.ifup("eth0")
    lab.laptop.ifup("wlan0")
    assert not find_tunnels(lab)
    assert find_way(lab, VPN_GATEWAY) == "eth0"
    return lab


def test_the_tunnel_is_up_by_the_other_interface(both: Lab, dhcp_client: str) -> None:
    pulled = time.monotonic()
    both.unplug()
    wait_for_tunnel(both)
    took = time.monotonic() - pulled
    print(f"{dhcp_client}: connected {took:.1f} s after the cable was pulled")
    assert took < LIMIT
    assert find_way(both, VPN_GATEWAY) == "wlan0"


@pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])  # there is none
@pytest.mark.parametrize("option, way", [("", "wlan0"), ("    netconf-linkdown-routes keep\n", "eth0")])
def test_ipv6(lab: Lab, option: str, way: str) -> None:
    lab.laptop.write("/etc/network/interfaces", STATIC6.replace("    netconf-vpn", f"{option}    netconf-vpn"))
    lab.plug(OFFICE.name)
    lab.plug(CAFE.name, "wlan0")
    lab.laptop.ifup("eth0")
    lab.laptop.ifup("wlan0")
    assert find_way(lab, FAR) == "eth0"
    pulled = time.monotonic()
    lab.unplug()
    wait_until(lambda: not lab.laptop.has_carrier("eth0"), "the kernel to notice")
    wait_until(lambda: find_way(lab, FAR) == way, f"the way by {way}")
    print(f"the way by {way} {time.monotonic() - pulled:.1f} s after the cable was pulled")
    assert time.monotonic() - pulled < LIMIT


def test_what_was_found_is_put_back(both: Lab) -> None:
    both.laptop.ifdown("eth0")
    both.laptop.run(["sysctl", "-w", f"{SYSCTL.format('ipv6', 'eth0')}=1"])
    assert read_sysctls(both) == "01"
    both.laptop.ifup("eth0")
    assert (read_sysctls(both), read_sysctls(both, "wlan0")) == ("11", "11")
    both.laptop.ifup("--force", "eth0")
    both.laptop.run(["netconf-hooks", "refresh"])
    both.laptop.ifdown("eth0")
    assert (read_sysctls(both), read_sysctls(both, "wlan0")) == ("01", "11")
    both.laptop.ifdown("wlan0")
    assert read_sysctls(both, "wlan0") == "00"
    wait_until(lambda: not find_records(both), "the watcher to end")


def test_removing_the_package_puts_it_back(both: Lab, packages: list[Path]) -> None:
    assert read_sysctls(both) == "11"
    dpkg(both.laptop, "--remove", *BOTH)
    assert (read_sysctls(both), read_sysctls(both, "wlan0")) == ("00", "00")


@pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])  # there is none: dhcpcd does not run without writing there
def test_a_read_only_sysctl_is_logged_and_harms_nothing(lab: Lab) -> None:
    lab.laptop.run(["mount", "--bind", "/proc/sys", "/proc/sys"])
    lab.laptop.run(["mount", "-o", "remount,bind,ro", "/proc/sys"])
    static = f"inet static\n    address 192.168.3.77/24\n    gateway {CAFE.router}\n"
    lab.laptop.write("/etc/network/interfaces", ROAMING.replace("inet dhcp\n", static))
    lab.plug(CAFE.name)
    done = lab.laptop.ifup("eth0")
    assert "linkdown" not in done.stderr
    wait_for_tunnel(lab)
    told = [line for line in lab.laptop.log().splitlines() if "netconf-linkdown-routes" in line]
    assert len(told) == 2 and all(line.endswith("Read-only file system") for line in told)
    lab.laptop.ifdown("eth0")
