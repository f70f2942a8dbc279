"""What counts as stopped by hand, on a Debian booted with systemd: a stop job, and nothing else."""

from __future__ import annotations

import pytest

from .boot import Booted
from .booted import (
    BOOT_TIMEOUT, CLIENT_CONFIG, CLIENT_UNIT, LOCATIONS, RULES, configure, status, wait_until_connected
)  # fmt: skip
from .network import Network
from .vpn import VpnServer
from .waiting import wait_until


def read_held(machine: Booted) -> object:
    """Return what ``netconf-hooks status`` says of holds."""
    return status(machine)["tunnels"]["openvpn corp"]["held"]


def find_stop(machine: Booted) -> str:
    """Return what systemd is found to say about the unit: which, and when somebody stopped it."""
    code = (
        "import sys; sys.path.append('/usr/lib/python3/dist-packages');"
        f"from netconf_hooks.system.systemd import Systemd; print(*Systemd().find_stop(['{CLIENT_UNIT}']))"
    )
    return machine.run(["/usr/bin/python3", "-IS", "-c", code]).stdout.strip()


def count_starts(machine: Booted, tunnel: str = "openvpn corp") -> int:
    """Return how often the watcher has started a tunnel again."""
    return machine.journal("--identifier=netconf-hooks").count(f"{tunnel}: started again")


def test_a_stop_by_hand_and_the_end_of_a_daemon(machine: Booted, network: Network, vpn: VpnServer) -> None:
    vpn.install_client(machine, CLIENT_CONFIG)
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    network.plug("cafe", "eth0")
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)

    # By itself: killed, and by SIGTERM, after which it leaves the same exit status as after a stop.  The watcher starts
    # it again.
    for number, signal in enumerate(("KILL", "TERM"), 1):
        pid = machine.unit(CLIENT_UNIT)["MainPID"]
        machine.run(["kill", f"-{signal}", pid])
        wait_until(lambda pid=pid: machine.unit(CLIENT_UNIT)["MainPID"] not in (pid, "0"), "another daemon", 30)
        assert find_stop(machine) == ""
        wait_until_connected(machine)
        wait_until(lambda number=number: count_starts(machine) == number, "the log", 30)
    # A restart is not a stop.
    machine.run(["systemctl", "restart", CLIENT_UNIT])
    assert find_stop(machine) == ""

    # The watcher notices by itself, and leaves it alone, whatever else it looks at.
    machine.run(["systemctl", "stop", CLIENT_UNIT])
    assert find_stop(machine).startswith(f"{CLIENT_UNIT} 20")
    wait_until(lambda: read_held(machine), "the stop by hand to be noticed", 30)
    for _ in range(3):
        machine.run(["netconf-hooks", "refresh"])
        machine.run(["ip", "address", "add", "192.168.3.77/24", "dev", "eth0"])
        machine.run(["ip", "address", "del", "192.168.3.77/24", "dev", "eth0"])
    assert count_starts(machine) == 2
    assert machine.unit(CLIENT_UNIT)["ActiveState"] == "inactive"
    assert str(read_held(machine)).startswith(f"stopped by hand (systemctl stop {CLIENT_UNIT}, ")

    machine.run(["netconf-hooks", "unhold", "openvpn", "corp"])
    wait_until_connected(machine)
    assert read_held(machine) is None
    assert find_stop(machine) == ""

    # Ours, in the office.
    network.plug("office", "eth0")
    machine.run(["ifdown", "eth0"])
    machine.run(["ifup", "eth0"])
    wait_until(lambda: machine.unit(CLIENT_UNIT)["ActiveState"] == "inactive", "the tunnel to end")
    assert read_held(machine) is None


SLEEPER = "[Service]\nExecStart=/usr/bin/tail -f /dev/null\n{0}"
ONESHOT = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo >>/run/oneshot'\n"


@pytest.mark.parametrize("restart", ["", "Restart=always\nRestartSec=1\n", "Restart=on-failure\nRestartSec=1\n"])
def test_what_systemd_starts_again_is_left_to_it(machine: Booted, network: Network, restart: str) -> None:
    """Units of the kind unit: with Restart= systemd brings them back, without it the watcher, and a oneshot nobody."""
    machine.write("/etc/systemd/system/sleeper.service", SLEEPER.format(restart))
    machine.write("/etc/systemd/system/once.service", ONESHOT)
    rules = f"{LOCATIONS}    netconf-vpn unit sleeper\n    netconf-vpn unit once\n"
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{rules}")
    network.plug("cafe", "eth0")
    machine.boot(BOOT_TIMEOUT)
    for number in (1, 2):
        pid = wait_until(lambda: machine.unit("sleeper.service")["MainPID"].removeprefix("0"), "the unit", 30)
        machine.run(["kill", "-KILL", pid])
        wait_until(lambda pid=pid: machine.unit("sleeper.service")["MainPID"] not in (pid, "0"), "another one", 30)
        if not restart:
            wait_until(lambda number=number: count_starts(machine, "unit sleeper") == number, "the log", 30)
    machine.run(["netconf-hooks", "refresh"])
    assert count_starts(machine, "unit sleeper") == (0 if restart else 2)
    assert count_starts(machine, "unit once") == 0
    assert machine.read("/run/oneshot") == "\n"
