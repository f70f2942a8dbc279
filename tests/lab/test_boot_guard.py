"""The guard on a Debian booted with systemd: nothing waits for it, and whoever flushes the firewall gets it back."""

from __future__ import annotations

import json

import pytest

from .boot import Booted
from .booted import (
    BOOT_TIMEOUT, CLIENT_CONFIG, CLIENT_UNIT, GUARDED_ETH0, RAISED_BY, configure, kill, status,
    wait_for_location, wait_for_watcher, wait_until_connected, wait_until_ended
)  # fmt: skip
from .guarded import TABLES
from .network import CAFE, OFFICE
from .waiting import wait_until

# What Debian's nftables.service loads and an admin changes; it begins as Debian's own (/etc/nftables.conf).
FIREWALL = "#!/usr/sbin/nft -f\n\nflush ruleset\n\ntable inet filter {\n\tchain input {\n\t}\n}\n"


def read_guard(machine: Booted) -> object:
    """Return what the guard of eth0 is, as ``netconf-hooks status`` says."""
    return status(machine)["guards"]["eth0"]["state"]


def is_standing(machine: Booted) -> bool:
    """Whether both tables of the guard are there."""
    tables = machine.run(["nft", "list", "tables"]).stdout
    return all(f"table {table}" in tables for table in TABLES)


def find_expiry(machine: Booted) -> float:
    """Return for how long the link is still open if nobody renews it, in seconds; 0 where it is shut."""
    argv = ["nft", "-j", "list", "set", "inet", "netconf-guard", "open-eth0"]
    (found,) = (entry["set"] for entry in json.loads(machine.run(argv).stdout)["nftables"] if "set" in entry)
    return max((float(element["elem"]["expires"]) for element in found.get("elem", [])), default=0.0)


@pytest.mark.usefixtures("dhcp_client")
@pytest.mark.parametrize("word", RAISED_BY)
def test_a_boot_in_the_cafe(machine, network, vpn, word):
    network.plug("cafe", "eth0")
    configure(machine, GUARDED_ETH0.replace("auto", word, 1))
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_for_location(machine, "cafe")
    wait_until_connected(machine)
    assert is_standing(machine) and read_guard(machine) == "closed"
    assert not machine.pings(CAFE.router)
    assert machine.unit(RAISED_BY[word])["Result"] == "success"
    machine.run(["systemctl", "stop", RAISED_BY[word]])
    wait_until_ended(machine, CLIENT_UNIT)
    assert machine.run(["nft", "list", "ruleset"]).stdout == ""
    wait_until_ended(machine, "netconf-hooks-watch.service")


def test_a_boot_in_the_office_without_its_vpn_server(machine, network):
    network.plug("office", "eth0")
    configure(machine, GUARDED_ETH0)
    machine.boot(BOOT_TIMEOUT)
    wait_for_location(machine, "office")
    wait_until(lambda: read_guard(machine) == "open", "the guard to open")
    assert machine.pings(OFFICE.router)


def test_a_boot_waits_for_no_tunnel_behind_the_guard(machine, network, vpn):
    """Nothing can be reached, not even the tunnel's server."""
    network.plug("cafe", "eth0")
    configure(machine, GUARDED_ETH0)
    vpn.install_client(machine, CLIENT_CONFIG)
    vpn.stop()
    machine.boot(BOOT_TIMEOUT)
    raised = machine.unit("networking.service")
    assert raised["Result"] == "success"
    begun, ended = (int(raised[f"{step}TimestampMonotonic"]) / 1e6 for step in ("InactiveExit", "ActiveEnter"))
    assert ended - begun < 5.0
    assert read_guard(machine) == "closed" and not machine.pings(CAFE.router)
    vpn.start()
    wait_until_connected(machine)


def test_nftables_service_flushes_all_and_the_guard_is_put_back(machine, network, vpn):
    """By nftables.service's own drop-in: the watcher is stopped, and would be too late."""
    network.plug("cafe", "eth0")
    configure(machine, GUARDED_ETH0)
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.write("/etc/nftables.conf", FIREWALL, 0o755)
    machine.run(["systemctl", "enable", "nftables.service"])
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)
    kill(machine, "STOP", wait_for_watcher(machine))
    for verb in ("reload", "restart", "stop"):
        machine.run(["systemctl", verb, "nftables.service"])
        assert is_standing(machine), verb
        assert ("table inet filter" in machine.run(["nft", "list", "tables"]).stdout) is (verb != "stop")
        assert not machine.pings(CAFE.router)
        wait_until_connected(machine)
    assert machine.unit("nftables.service")["Result"] == "success"


def test_flushed_by_hand_the_watcher_puts_it_back(machine, network, vpn):
    network.plug("office", "eth0")
    configure(machine, GUARDED_ETH0)
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_until(lambda: read_guard(machine) == "open", "the guard to open")
    wait_for_watcher(machine)
    machine.run(["nft", "flush", "ruleset"])
    wait_until(lambda: is_standing(machine), "the guard to be put back")
    wait_until(lambda: find_expiry(machine) > 0 and read_guard(machine) == "open", "the guard to open again")
    assert machine.pings(OFFICE.router)


def test_a_watcher_that_is_killed_comes_back_and_the_lease_goes_on(machine, network, vpn):
    network.plug("office", "eth0")
    configure(machine, GUARDED_ETH0)
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_until(lambda: read_guard(machine) == "open", "the guard to open")
    pid = wait_for_watcher(machine)
    kill(machine, "KILL", pid)
    wait_for_watcher(machine, other_than=pid)
    wait_until(lambda: 0 < find_expiry(machine) < 24, "some of the lease to run out")
    wait_until(lambda: find_expiry(machine) > 26, "the lease to be renewed", 20.0)
    assert read_guard(machine) == "open" and machine.pings(OFFICE.router)


def test_nobody_blocks_a_shutdown(machine, network, vpn):
    network.plug("cafe", "eth0")
    configure(machine, GUARDED_ETH0)
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)
    machine.poweroff()
    journal = machine.journal()
    assert "Reached target poweroff.target" in journal
    assert "netconf-guard: removed" in journal
