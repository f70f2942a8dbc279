"""netconf-vpn ifup on a Debian booted with systemd: OpenVPN in a stanza, whose daemon belongs to nobody else's unit."""

from __future__ import annotations

import pytest

from .boot import Booted
from .booted import BOOT_TIMEOUT, LOCATIONS, configure, openvpn_processes, status, wait_until_connected
from .network import Network
from .vpn import VpnServer
from .waiting import wait_until

CONFIG = "/etc/openvpn/stanza/corp.conf"
INITIATOR = "netconf-hooks-tunnel@ifup-vpn0.service"
WATCHER = "netconf-hooks-watch.service"
PID = "/run/vpn0.pid"

STANZAS = f"""\
iface vpn0 inet manual
    up   /usr/sbin/openvpn --config {CONFIG} --dev vpn0 --dev-type tun --daemon --writepid {PID}
    down kill $(cat {PID})

iface eth0 inet dhcp
{LOCATIONS}    netconf-vpn ifup vpn0 unless office
"""


def read_pid(machine: Booted) -> int:
    """Return the pid of the stanza's daemon."""
    return int(machine.read(PID))


def is_configured(machine: Booted) -> bool:
    """Whether ifupdown has the tunnel up."""
    return machine.run(["ifquery", "--state", "vpn0"], check=False).stdout.startswith("vpn0=")


@pytest.mark.parametrize("auto", ["auto eth0\n", "auto eth0 vpn0\n", "auto vpn0 eth0\n"])
def test_boot_restart_kill_and_ifdown(machine: Booted, network: Network, vpn: VpnServer, auto: str) -> None:
    vpn.install_client(machine, CONFIG)
    configure(machine, auto + STANZAS)
    network.plug("cafe", "eth0")
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)
    wait_until(lambda: status(machine)["tunnels"]["ifup vpn0"]["up"] is True, "status to say so", 30)
    pid = read_pid(machine)

    # The initiator's unit ends, and the watcher's is restarted: the daemon stays.
    wait_until(lambda: machine.unit(INITIATOR)["ActiveState"] == "inactive", "the initiator to end", 30)
    machine.run(["systemctl", "restart", WATCHER])
    machine.run(["systemctl", "stop", INITIATOR])
    assert pid in openvpn_processes(machine.processes())
    wait_until_connected(machine)

    # Killed: its interface goes with it.
    machine.run(["kill", "-KILL", str(pid)])
    wait_until(lambda: read_pid(machine) != pid, "another daemon", 30)
    wait_until_connected(machine)
    assert openvpn_processes(machine.processes()) == [read_pid(machine)]

    # What the watcher's own unit has started survives a restart of the watcher.
    pid = read_pid(machine)
    machine.run(["systemctl", "restart", WATCHER])
    machine.run(["netconf-hooks", "refresh"])
    assert pid in openvpn_processes(machine.processes())

    machine.run(["ifdown", "eth0"])
    wait_until(lambda: not is_configured(machine), "ifdown of the tunnel", 30)
    wait_until(lambda: not openvpn_processes(machine.processes()), "the daemon to end", 30)
    machine.poweroff()
