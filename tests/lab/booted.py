"""What the tests on a booted machine (`boot`) have in common: what is written to it, and what it is asked."""

from __future__ import annotations

import json
from typing import Any

from .boot import Booted
from .network import CAFE, CORP_HOST, OFFICE
from .vpn import NAME
from .waiting import wait_until

CLIENT_CONFIG = f"/etc/openvpn/client/{NAME}.conf"
PLAIN_CONFIG = f"/etc/openvpn/{NAME}.conf"
WATCHER_UNIT = "netconf-hooks-watch.service"
CLIENT_UNIT = f"openvpn-client@{NAME}.service"
PLAIN_UNIT = f"openvpn@{NAME}.service"

LOCATIONS = f"""\
    netconf-location office dns-domain={OFFICE.domain}
    netconf-location cafe   gateway-mac={CAFE.router_mac}
"""
RULES = f"{LOCATIONS}    netconf-vpn openvpn {NAME} unless office\n"
GUARDED_RULES = f"{RULES}    netconf-guard unless office\n    netconf-trust hints\n"
GUARDED_ETH0 = f"auto eth0\niface eth0 inet dhcp\n{GUARDED_RULES}"
UNIT_RULES = f"{LOCATIONS}    netconf-vpn unit proof unless office\n"
PROOF_UNIT = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/true
"""
# Something at boot that wants the network to be there.
ONLINE_UNIT = f"""\
[Unit]
Wants=network-online.target
After=network-online.target
[Install]
WantedBy=multi-user.target
{PROOF_UNIT}"""

# What raises eth0 at boot, by the word that stands before it in /etc/network/interfaces.
RAISED_BY = {"auto": "networking.service", "allow-hotplug": "ifup@eth0.service"}

# ifupdown itself waits for up to 5 min, openvpn@ for 90 s: whatever waits for itself is long caught by then.
BOOT_TIMEOUT = 40.0


def configure(machine: Booted, stanzas: str) -> None:
    """Write the laptop's /etc/network/interfaces: lo, and what is given."""
    machine.write("/etc/network/interfaces", f"auto lo\niface lo inet loopback\n\n{stanzas}")


def status(machine: Booted) -> Any:
    """Return what ``netconf-hooks status --json`` says."""
    return json.loads(machine.run(["netconf-hooks", "status", "--json"]).stdout)


def wait_for_location(machine: Booted, name: str, iface: str = "eth0") -> None:
    """Wait until the hooks have found out where the interface is, and what for."""
    command = ["netconf-hooks", "location", iface]
    wait_until(lambda: machine.run(command, check=False).stdout == f"{name}\n", f"{iface} to be at {name}")


def wait_until_connected(machine: Booted) -> None:
    """Wait until the host behind the VPN answers."""
    wait_until(lambda: machine.pings(CORP_HOST), "the host behind the VPN to answer")


def wait_until_ended(machine: Booted, unit: str) -> None:
    """Wait until the unit's stop, asked for without waiting for it, is through."""
    wait_until(lambda: machine.unit(unit)["ActiveState"] == "inactive", f"the end of {unit}")


def was_ever_started(machine: Booted, unit: str) -> bool:
    """Whether systemd has begun to start the unit since boot."""
    return machine.unit(unit)["InactiveExitTimestampMonotonic"] != "0"


def count_starts(machine: Booted, unit: str) -> int:
    """Return how often systemd has begun to start the unit; also to be asked when the machine is off."""
    return machine.journal(f"--unit={unit}").count(f"Starting {unit}")


def openvpn_processes(processes: dict[int, str]) -> list[int]:
    """Return the pids of those which are OpenVPN."""
    return [pid for pid, command in processes.items() if command.startswith("/usr/sbin/openvpn ")]


def wait_for_watcher(machine: Booted, other_than: int = 0) -> int:
    """Wait until the unit's watcher runs and sleeps, and return its pid."""

    def find_sleeping() -> int:
        pid = int(machine.unit(WATCHER_UNIT)["MainPID"])
        return pid if pid not in (0, other_than) and "poll" in machine.read(f"/proc/{pid}/wchan") else 0

    return wait_until(find_sleeping, "the watcher to sleep")


def kill(machine: Booted, signal: str, pid: int) -> None:
    """Send a signal to a process."""
    machine.run(["kill", f"-{signal}", str(pid)])
