"""Removing the package on a Debian booted with systemd, while a guard stands and a tunnel runs."""

from __future__ import annotations

from .boot import Booted
from .booted import (
    BOOT_TIMEOUT, CLIENT_CONFIG, CLIENT_UNIT, GUARDED_ETH0, configure, wait_for_location, wait_until_connected
)  # fmt: skip
from .network import CAFE
from .waiting import wait_until


def remove(machine: Booted, option: str) -> str:
    """Remove the packages; return what was said on the terminal."""
    removed = machine.run(
        ["dpkg", "--force-unsafe-io", option, "netconf-hooks", "python3-netconf-hooks"], timeout=120,
        env={"DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip
    return removed.stdout + removed.stderr


def expect_nothing_left(machine: Booted) -> None:
    assert not [line for line in machine.processes().values() if "netconf-hooks" in line]
    assert not machine.exists("/run/netconf-hooks")
    assert machine.run(["nft", "list", "tables"]).stdout == ""
    assert machine.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""


def test_removal_with_systemd(machine, network, vpn):
    network.plug("cafe", "eth0")
    configure(machine, GUARDED_ETH0)
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_for_location(machine, "cafe")
    wait_until_connected(machine)
    assert not machine.pings(CAFE.router)
    wait_until(lambda: machine.is_active("netconf-hooks-watch.service"), "the watcher")
    said = remove(machine, "--remove")
    assert "netconf-hooks: the guard is open on eth0: packets that it has blocked may leave now" in said
    assert "nothing stops or restarts them any more: openvpn corp" in said
    journal = machine.journal("--identifier=netconf-hooks")
    assert "the guard is open on eth0" in journal and "are left as they are" in journal
    assert machine.pings(CAFE.router)
    assert machine.is_active(CLIENT_UNIT)
    expect_nothing_left(machine)
    # The interface comes up without us, too.
    machine.run(["ifdown", "eth0"])
    machine.run(["ifup", "eth0"])
    expect_nothing_left(machine)
    remove(machine, "--purge")
    assert machine.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""
    assert not machine.exists("/var/lib/netconf-hooks")
