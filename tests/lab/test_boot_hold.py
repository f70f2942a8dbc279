"""What counts as stopped by hand, on a Debian booted with systemd: a stop job, and nothing else."""

from __future__ import annotations

from .boot import Booted
from .booted import BOOT_TIMEOUT, CLIENT_CONFIG, CLIENT_UNIT, RULES, configure, status, wait_until_connected
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


def test_a_stop_by_hand_and_the_end_of_a_daemon(machine: Booted, network: Network, vpn: VpnServer) -> None:
    vpn.install_client(machine, CLIENT_CONFIG)
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    network.plug("cafe", "eth0")
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)

    # By itself: killed, and by SIGTERM, after which it leaves the same exit status as after a stop.
    for signal in ("KILL", "TERM"):
        pid = machine.unit(CLIENT_UNIT)["MainPID"]
        machine.run(["kill", f"-{signal}", pid])
        wait_until(lambda pid=pid: machine.unit(CLIENT_UNIT)["MainPID"] != pid, "the daemon to end")
        assert find_stop(machine) == ""
        machine.run(["systemctl", "start", CLIENT_UNIT])
    # A restart is not a stop.
    machine.run(["systemctl", "restart", CLIENT_UNIT])
    assert find_stop(machine) == ""

    machine.run(["systemctl", "stop", CLIENT_UNIT])
    assert find_stop(machine).startswith(f"{CLIENT_UNIT} 20")
    machine.run(["netconf-hooks", "refresh"])
    wait_until(lambda: read_held(machine), "the stop by hand to be noticed")
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
