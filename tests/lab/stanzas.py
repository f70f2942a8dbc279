"""What several tests write into /etc/network/interfaces, and how they ask what became of it."""

from __future__ import annotations

import json

from .lab import Lab
from .network import CORP_HOST, HOME, OFFICE
from .waiting import wait_until

LOCATIONS = f"""\
    netconf-location home-lan    gateway-mac={HOME.router_mac}
    netconf-location office-lan  gateway-mac={OFFICE.router_mac} dns-domain={OFFICE.domain}
"""

RULES = f"""{LOCATIONS}\
    netconf-vpn      openvpn corp  unless home-lan office-lan
"""

# With a metric each: without, dhclient leaves out the second interface's default route (dhclient-script).
ROAMING = f"""\
auto lo
iface lo inet loopback

iface roaming inet dhcp
{RULES}
allow-hotplug eth0 wlan0
iface eth0 inherits roaming
    metric 100
iface wlan0 inherits roaming
    metric 200
"""

Status = dict[str, dict[str, dict[str, object]]]


def read_status(lab: Lab) -> Status:
    """Return what ``netconf-hooks status --json`` says."""
    status: Status = json.loads(lab.laptop.run(["netconf-hooks", "status", "--json"]).stdout)
    return status


def read_location(lab: Lab, iface: str = "eth0") -> object:
    """Return the location of an interface; None where it is unknown."""
    return read_status(lab)["interfaces"][iface]["location"]


def find_tunnels(lab: Lab) -> list[int]:
    """Return the pids of the laptop's OpenVPN processes."""
    return sorted(pid for pid, command in lab.laptop.processes().items() if command.startswith("openvpn"))


def find_records(lab: Lab) -> list[str]:
    """Return the files below /run/netconf-hooks that remember anything."""
    found = lab.laptop.run(["find", "/run/netconf-hooks", "-type", "f", "-not", "-name", "*.lock"], check=False).stdout
    return sorted(found.splitlines())


def wait_for_tunnel(lab: Lab) -> int:
    """Wait until the tunnel carries packets, and return the pid of its OpenVPN, of which there is one."""
    wait_until(lambda: lab.laptop.pings(CORP_HOST), "the host behind the VPN to answer")
    (pid,) = find_tunnels(lab)
    return pid


def wait_for_no_tunnel(lab: Lab) -> None:
    """Wait until no OpenVPN is left."""
    wait_until(lambda: not find_tunnels(lab), "OpenVPN to end")
