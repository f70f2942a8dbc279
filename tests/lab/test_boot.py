"""The product on a Debian booted with systemd: what shows only where hooks run inside units, at boot, at shutdown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .boot import GROUP_PREFIX, Booted
from .booted import (
    BOOT_TIMEOUT, CLIENT_CONFIG, CLIENT_UNIT, ONLINE_UNIT, PLAIN_CONFIG, PLAIN_UNIT, PROOF_UNIT, RAISED_BY, RULES,
    UNIT_RULES, configure, count_starts, openvpn_processes, status, wait_for_location, wait_until_connected,
    wait_until_ended, was_ever_started
)  # fmt: skip
from .namespaces import Namespaces
from .network import CORP_HOST
from .vpn import DEAD_AFTER, NAME
from .waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

# A run of its own: it prints the pid of the systemd that it has booted and then waits.
BOOT_ONE = """
from tests.lab.boot import Booted, Disk
from tests.lab.network import Network
with Network() as network, Disk() as disk, Booted(network, disk) as machine:
    machine.boot()
    print(machine.pid, flush=True)
    input()
"""


def list_groups(pid: int) -> list[str]:
    """Return the control groups, on this machine, of the machines that process `pid` has made."""
    with Namespaces(("mnt",)) as place:
        place.run(["mount", "-t", "cgroup2", "groups", "/mnt"])
        return [group.name for group in (place.root / "mnt").glob(f"{GROUP_PREFIX}{pid}-*")]


def test_the_machine_boots_raises_its_interface_and_shuts_down(machine, network):
    """Without the product's doing: that what follows is about the product."""
    network.plug("cafe", "eth0")
    configure(machine, "allow-hotplug eth0\niface eth0 inet dhcp\n")
    machine.boot(BOOT_TIMEOUT)
    wait_until(lambda: "192.168.3." in machine.run(["ip", "-br", "address"]).stdout, "an address in the cafe")
    assert machine.is_active("ifup@eth0.service")
    assert machine.run(["hostname"]).stdout == "laptop\n"
    assert machine.run(["netconf-hooks", "location", "eth0"], check=False).returncode == 1
    assert not machine.exists("/run/netconf-hooks/interfaces/eth0")
    machine.poweroff()
    assert "Reached target poweroff.target" in machine.journal()


@pytest.mark.parametrize("end", ["shut down", "unplugged"])
def test_a_machine_leaves_nothing(network, disk, end):
    with Booted(network, disk) as machine:
        configure(machine, "")
        machine.boot(BOOT_TIMEOUT)
        init = Path(f"/proc/{machine.pid}")
        assert init.exists() and len(list_groups(os.getpid())) == 1
        if end == "shut down":
            machine.poweroff()
    assert not init.exists() and list_groups(os.getpid()) == []


def test_of_a_run_that_was_killed_the_next_boot_removes_the_rest(network, disk):
    run = subprocess.Popen([sys.executable, "-c", BOOT_ONE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with run:
        init = Path(f"/proc/{int(run.stdout.readline())}")
        assert init.exists() and len(list_groups(run.pid)) == 1
        run.kill()
    wait_until(lambda: not init.exists(), "the end of its systemd")
    with Booted(network, disk):
        assert list_groups(run.pid) == []


@pytest.mark.usefixtures("dhcp_client")
@pytest.mark.parametrize("word", RAISED_BY)
def test_in_the_cafe_a_boot_starts_the_tunnel(machine, network, vpn, word):
    network.plug("cafe", "eth0")
    configure(machine, f"{word} eth0\niface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_for_location(machine, "cafe")
    wait_until_connected(machine)

    # The hook did start it, and nothing of it lives or dies with the unit that the hook ran in.
    assert f"openvpn {NAME}: up" in machine.journal("--identifier=netconf-hooks")
    assert machine.is_active(RAISED_BY[word])
    assert openvpn_processes(machine.group_members(CLIENT_UNIT)) == openvpn_processes(machine.processes()) != []
    assert openvpn_processes(machine.group_members(RAISED_BY[word])) == []

    tunnel = status(machine)["tunnels"][f"openvpn {NAME}"]
    assert tunnel["wanted"] is True and tunnel["problem"] is None

    machine.run(["systemctl", "stop", RAISED_BY[word]])
    wait_until_ended(machine, CLIENT_UNIT)
    assert openvpn_processes(machine.processes()) == []
    assert machine.run(["ls", "/run/netconf-hooks/interfaces"]).stdout == ""


@pytest.mark.usefixtures("dhcp_client")
@pytest.mark.parametrize("word", RAISED_BY)
def test_in_the_office_a_boot_starts_no_tunnel(machine, network, vpn, word):
    network.plug("office", "eth0")
    configure(machine, f"{word} eth0\niface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_for_location(machine, "office")
    assert f"openvpn {NAME}: down" in machine.journal("--identifier=netconf-hooks")
    assert not was_ever_started(machine, CLIENT_UNIT)
    assert status(machine)["tunnels"][f"openvpn {NAME}"]["up"] is False


def test_a_boot_waits_for_no_tunnel(machine, network, vpn):
    """The tunnel's unit is ordered after network-online.target, which waits for networking.service, which runs us."""
    network.plug("cafe", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, CLIENT_CONFIG)
    vpn.stop()
    machine.write("/etc/systemd/system/online.service", ONLINE_UNIT)
    machine.run(["systemctl", "enable", "online.service"])
    machine.boot(BOOT_TIMEOUT)
    raised = machine.unit("networking.service")
    assert raised["Result"] == "success"
    # What networking.service takes is DHCP's time and ours, not OpenVPN's.
    begun, ended = (int(raised[f"{step}TimestampMonotonic"]) / 1e6 for step in ("InactiveExit", "ActiveEnter"))
    assert ended - begun < 5.0
    assert machine.is_active("online.service")
    assert openvpn_processes(machine.group_members(CLIENT_UNIT)) != []
    vpn.start()
    wait_until_connected(machine)


def test_ifdown_and_ifup_by_hand_after_the_boot(machine, network, vpn):
    network.plug("cafe", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)
    machine.run(["ifdown", "eth0"])
    wait_until_ended(machine, CLIENT_UNIT)
    network.plug("office", "eth0")
    machine.run(["ifup", "eth0"])
    wait_for_location(machine, "office")
    assert not machine.is_active(CLIENT_UNIT)
    machine.run(["ifdown", "eth0"])
    network.plug("cafe", "eth0")
    machine.run(["ifup", "eth0"])
    wait_until_connected(machine)


def test_openvpn_at_where_only_that_configuration_exists(machine, network, vpn):
    network.plug("cafe", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, PLAIN_CONFIG)
    machine.write("/etc/default/openvpn", "AUTOSTART=none\n")
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)
    assert openvpn_processes(machine.group_members(PLAIN_UNIT)) == openvpn_processes(machine.processes()) != []
    machine.run(["ifdown", "eth0"])
    wait_until_ended(machine, PLAIN_UNIT)
    assert openvpn_processes(machine.processes()) == []


def test_a_unit_follows_the_location(machine, network):
    network.plug("cafe", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{UNIT_RULES}")
    machine.write("/etc/systemd/system/proof.service", PROOF_UNIT)
    machine.boot(BOOT_TIMEOUT)
    wait_until(lambda: machine.is_active("proof.service"), "the unit to be active")
    assert status(machine)["tunnels"]["unit proof"]["up"] is True
    machine.run(["ifdown", "eth0"])
    wait_until_ended(machine, "proof.service")
    network.plug("office", "eth0")
    machine.run(["ifup", "eth0"])
    wait_for_location(machine, "office")
    assert status(machine)["tunnels"]["unit proof"]["up"] is False


def test_a_tunnel_without_configuration_harms_no_boot(machine, network):
    network.plug("cafe", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}    netconf-vpn unit nowhere\n")
    machine.boot(BOOT_TIMEOUT)
    wait_for_location(machine, "cafe")
    told = machine.journal("--identifier=netconf-hooks", "--priority=err")
    assert CLIENT_CONFIG in told and PLAIN_CONFIG in told
    assert "nowhere.service" in told
    assert machine.unit("networking.service")["Result"] == "success"


def test_autostart_in_the_office_is_overruled_at_boot(machine, network, vpn):
    """OpenVPN's AUTOSTART, all by default, wants the tunnel at boot; its rule does not."""
    network.plug("office", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, PLAIN_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_for_location(machine, "office")
    assert machine.is_active("openvpn.service")
    assert "it also starts at boot" in machine.run(["netconf-hooks", "check"]).stdout
    wait_until_ended(machine, PLAIN_UNIT)
    assert openvpn_processes(machine.processes()) == []


def test_a_tunnel_that_autostart_began_is_brought_to_the_verdict_on_arriving(machine, network, vpn):
    network.plug("office", "eth0")
    configure(machine, f"iface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, PLAIN_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_until(lambda: openvpn_processes(machine.group_members(PLAIN_UNIT)), "AUTOSTART to start the tunnel")
    machine.run(["ifup", "eth0"])
    wait_until_ended(machine, PLAIN_UNIT)
    assert openvpn_processes(machine.processes()) == []


def test_a_tunnel_that_autostart_began_is_not_begun_again_in_the_cafe(machine, network, vpn):
    network.plug("cafe", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, PLAIN_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)
    assert len(openvpn_processes(machine.processes())) == 1
    assert count_starts(machine, PLAIN_UNIT) == 1


def test_a_shutdown_in_the_cafe_ends_the_tunnel_and_starts_nothing(machine, network, vpn):
    network.plug("cafe", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)
    machine.poweroff()
    assert count_starts(machine, CLIENT_UNIT) == 1
    told = machine.journal("--identifier=netconf-hooks")
    assert "leaving cafe" in told and "Traceback" not in told


def test_a_veto_that_ends_with_the_shutdown_starts_nothing(machine, network, vpn):
    network.plug("office", "eth0")
    network.plug("cafe", "wlan0")
    rules = f"{RULES}    netconf-vpn unit proof unless office\n"
    # Metrics, for dhclient adds no second default route without; and no router, no gateway-mac.
    metrics = {"eth0": 100, "wlan0": 200}
    stanzas = (f"auto {link}\niface {link} inet dhcp\n    metric {metrics[link]}\n{rules}" for link in metrics)
    configure(machine, "".join(stanzas))
    vpn.install_client(machine, CLIENT_CONFIG)
    # systemd itself refuses to start most units while it stops; not those without its default dependencies.
    machine.write("/etc/systemd/system/proof.service", f"[Unit]\nDefaultDependencies=no\n{PROOF_UNIT}")
    machine.boot(BOOT_TIMEOUT)
    wait_for_location(machine, "office", "eth0")
    wait_for_location(machine, "cafe", "wlan0")
    assert not was_ever_started(machine, CLIENT_UNIT)
    assert not was_ever_started(machine, "proof.service")

    # The same without a shutdown: the cafe's wish is no longer vetoed.
    machine.run(["ifdown", "eth0"])
    wait_until_connected(machine)
    wait_until(lambda: machine.is_active("proof.service"), "the unit to be active")
    machine.run(["ifup", "eth0"])
    wait_until_ended(machine, CLIENT_UNIT)
    wait_until_ended(machine, "proof.service")

    machine.poweroff()
    assert count_starts(machine, CLIENT_UNIT) == 1
    assert count_starts(machine, "proof.service") == 1
    told = machine.journal("--identifier=netconf-hooks")
    assert told.count("leaving office") == 2
    assert "the system is stopping" in told.rpartition("leaving office")[2]


def test_status_tells_when_the_server_has_died(machine, network, vpn):
    network.plug("cafe", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    machine.write(CLIENT_CONFIG, f"{vpn.client_config()}management /run/openvpn/{NAME}.sock unix\n", 0o600)
    machine.boot(BOOT_TIMEOUT)
    tunnel = f"openvpn {NAME}"
    wait_until(lambda: status(machine)["tunnels"][tunnel]["up"], "the tunnel to be up")
    assert machine.pings(CORP_HOST)
    vpn.stop()
    wait_until(lambda: not status(machine)["tunnels"][tunnel]["up"], "the tunnel to be down", DEAD_AFTER + 10.0)
    # All the while systemd believes in it.
    unit = machine.unit(CLIENT_UNIT)
    assert (unit["ActiveState"], unit["StatusText"]) == ("active", "Initialization Sequence Completed")
    vpn.start()
    wait_until(lambda: status(machine)["tunnels"][tunnel]["up"], "the tunnel to be up again", 20.0)
