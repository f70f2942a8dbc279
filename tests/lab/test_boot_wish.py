"""``ifup corp`` on a Debian booted with systemd: at boot nobody may wait for the tunnel, by hand everybody does."""

from __future__ import annotations

import subprocess

import pytest

from .boot import Booted
from .booted import (
    BOOT_TIMEOUT, CLIENT_CONFIG, CLIENT_UNIT, ONLINE_UNIT, RAISED_BY, configure, openvpn_processes, status,
    wait_until_connected, wait_until_ended
)  # fmt: skip
from .network import CORP_HOST
from .vpn import NAME
from .waiting import wait_until

WISH = f"""
iface {NAME} inet manual
    netconf-vpn    openvpn {NAME}
    netconf-uplink eth0
"""
ETH0 = "\niface eth0 inet dhcp\n"

# What may raise the two at boot: both orders of networking.service, and udev beside it.
AT_BOOT = {
    "the link first": f"auto eth0{ETH0}auto {NAME}{WISH}",
    "the wish first": f"auto {NAME}{WISH}auto eth0{ETH0}",
    "the link by udev": f"auto {NAME}{WISH}allow-hotplug eth0{ETH0}",
}

# More than networking.service needs for DHCP and us, less than a tunnel that can't connect is waited for.
BOOT_SECONDS = 8.0


def is_configured(machine: Booted, iface: str) -> bool:
    """Whether ifupdown takes an interface for up."""
    return machine.run(["ifquery", "--state", iface], check=False).stdout.startswith(iface)


def wait_until_asked(machine: Booted) -> None:
    """Wait until systemd runs OpenVPN, connected or not."""
    wait_until(lambda: openvpn_processes(machine.group_members(CLIENT_UNIT)), "OpenVPN to be started")


def install(machine: Booted, stanzas: str) -> None:
    """Write the stanzas, and a unit that wants the network to be there at boot."""
    configure(machine, stanzas)
    machine.write("/etc/systemd/system/online.service", ONLINE_UNIT)
    machine.run(["systemctl", "enable", "online.service"])


def seconds_to_start(machine: Booted, unit: str) -> float:
    """Return how long systemd took to start a unit."""
    shown = machine.unit(unit)
    assert shown["Result"] == "success", shown
    begun, ended = (int(shown[f"{step}TimestampMonotonic"]) / 1e6 for step in ("InactiveExit", "ActiveEnter"))
    return ended - begun


def assert_nothing_left(machine: Booted) -> None:
    """No wish, no record, no OpenVPN, no link raised, no watcher."""
    wait_until_ended(machine, CLIENT_UNIT)
    wait_until_ended(machine, "netconf-hooks-watch.service")
    assert not is_configured(machine, NAME) and not is_configured(machine, "eth0")
    assert machine.run(["ls", "/run/netconf-hooks/interfaces"]).stdout == ""
    assert openvpn_processes(machine.processes()) == []
    assert status(machine) == {"interfaces": {}, "tunnels": {}, "guards": {}}


@pytest.mark.parametrize("order", AT_BOOT)
def test_at_boot_a_wish_is_asked_for_and_not_waited_for(machine, network, vpn, order):
    """The tunnel's unit is ordered after network-online.target, which waits for what runs the wish."""
    network.plug("cafe", "eth0")
    install(machine, AT_BOOT[order])
    vpn.install_client(machine, CLIENT_CONFIG)
    vpn.stop()
    machine.boot(BOOT_TIMEOUT)
    assert seconds_to_start(machine, "networking.service") < BOOT_SECONDS
    assert machine.is_active("online.service")
    assert is_configured(machine, NAME)
    wait_until(lambda: is_configured(machine, "eth0"), "the link to be raised")
    wait_until_asked(machine)
    # What the link needs lives with the unit that raises it.
    unit = RAISED_BY["allow-hotplug" if "allow-hotplug eth0" in AT_BOOT[order] else "auto"]
    wait_until(lambda: machine.dhcp_client in str(machine.group_members(unit)), "a DHCP client of its own")
    assert openvpn_processes(machine.group_members("networking.service")) == []
    assert not machine.pings(CORP_HOST)
    vpn.start()
    wait_until_connected(machine)

    # By hand, ifup waits; and the link, which is there for its own sake, stays.
    machine.run(["ifdown", NAME])
    wait_until_ended(machine, CLIENT_UNIT)
    assert is_configured(machine, "eth0")
    machine.run(["ifup", NAME])
    assert machine.pings(CORP_HOST)


def test_a_link_raised_at_boot_for_the_wish_alone_goes_with_it(machine, network, vpn):
    network.plug("cafe", "eth0")
    install(machine, f"auto {NAME}{WISH}{ETH0}")
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    assert seconds_to_start(machine, "networking.service") < BOOT_SECONDS
    assert is_configured(machine, "eth0")
    wait_until_connected(machine)
    machine.run(["ifdown", NAME])
    assert_nothing_left(machine)


def test_a_boot_without_any_network_asks_all_the_same(machine, network, vpn):
    install(machine, f"auto {NAME}{WISH}{ETH0}")
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    assert seconds_to_start(machine, "networking.service") < BOOT_SECONDS
    assert is_configured(machine, NAME)
    assert "eth0 has no carrier; the tunnel is started all the same" in machine.journal("--identifier=netconf-hooks")
    wait_until_asked(machine)
    network.plug("cafe", "eth0")
    machine.run(["ifup", "eth0"])
    wait_until_connected(machine)


def test_a_wish_that_udev_raises_is_not_waited_for(machine, network, vpn):
    """Where a device has the wish's name, as a tunnel's own that stays: ifup@.service runs the wish, at boot and when
    somebody starts it."""
    unit = f"ifup@{NAME}.service"
    network.run("laptop", ["ip", "tuntap", "add", "dev", NAME, "mode", "tun"])
    network.plug("cafe", "eth0")
    install(machine, f"auto eth0{ETH0}allow-hotplug {NAME}{WISH}")
    vpn.install_client(machine, CLIENT_CONFIG)
    vpn.stop()
    machine.boot(BOOT_TIMEOUT)
    wait_until_asked(machine)
    wait_until(lambda: not machine.group_members(unit), "the end of ifup", BOOT_SECONDS)
    assert machine.is_active(unit) and is_configured(machine, NAME)
    machine.run(["systemctl", "stop", unit])
    wait_until_ended(machine, CLIENT_UNIT)
    machine.run(["systemctl", "start", unit])
    wait_until_asked(machine)
    wait_until(lambda: not machine.group_members(unit), "the end of ifup", BOOT_SECONDS)
    assert machine.is_active(unit) and is_configured(machine, NAME)
    vpn.start()
    wait_until_connected(machine)


def test_a_wish_by_hand_that_fails_leaves_nothing(machine, network, vpn):
    configure(machine, f"{ETH0}{WISH}")
    network.plug("cafe", "eth0")
    machine.boot(BOOT_TIMEOUT)
    failed = machine.run(["ifup", NAME], check=False)
    assert failed.returncode != 0 and CLIENT_CONFIG in failed.stderr
    assert_nothing_left(machine)

    # A shorter patience than the 30 s of an admin: the same code waits.
    vpn.install_client(machine, CLIENT_CONFIG)
    vpn.stop()
    module = "/usr/lib/python3/dist-packages/netconf_hooks/wish.py"
    machine.run(["sed", "-i", "s/^CONNECT_TIMEOUT = .*/CONNECT_TIMEOUT = 2.0/", module])
    failed = machine.run(["ifup", NAME], check=False)
    assert failed.returncode != 0
    assert f'{NAME}: netconf-vpn "openvpn {NAME}": not connected after 2 s' in failed.stderr
    assert_nothing_left(machine)

    network.unplug("eth0")
    failed = machine.run(["ifup", NAME], check=False)
    assert failed.returncode != 0 and "eth0 has no carrier" in failed.stderr
    assert_nothing_left(machine)


def test_a_shutdown_ends_a_wish_and_its_link(machine, network, vpn):
    network.plug("cafe", "eth0")
    configure(machine, f"auto {NAME}{WISH}{ETH0}")
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)
    machine.poweroff(15.0)
    assert "Stopped networking.service" in machine.journal()
    assert "netconf-hooks" not in machine.journal("--priority=warning")


def test_a_link_that_somebody_else_is_raising_is_waited_for(machine, network, vpn):
    """As at boot, where udev raises links beside networking.service."""
    gate = "    pre-up echo >/run/begun; cat </run/gate\n"
    network.plug("cafe", "eth0")
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    machine.run(["mkfifo", "/run/begun", "/run/gate"])

    def wish_meanwhile() -> subprocess.CompletedProcess[str]:
        other = machine.start(["ifup", "eth0"])
        machine.run(["cat", "/run/begun"])
        wish = machine.start(["ifup", NAME])
        wait_until(lambda: list(machine.processes().values()).count("ifup eth0") == 2, "the wish's ifup")
        machine.run(["sh", "-c", "echo >/run/gate"])
        assert other.wait(20).returncode == 0
        return wish.wait(20)

    configure(machine, f"{ETH0}{gate}{WISH}")
    assert wish_meanwhile().returncode == 0
    assert machine.pings(CORP_HOST)
    machine.run(["ifdown", NAME])
    assert is_configured(machine, "eth0")  # it was not raised for the wish
    machine.run(["ifdown", "eth0"])

    configure(machine, f"\niface eth0 inet static\n    address 192.168.3.2/24\n{gate}{WISH}")
    failed = wish_meanwhile()
    assert failed.returncode != 0 and "eth0 is up, without a default route" in failed.stderr
    assert is_configured(machine, "eth0")
