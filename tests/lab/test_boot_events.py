"""netconf-location@NAME.target, and event scripts at boot, on a Debian booted with systemd."""

from __future__ import annotations

import pytest

from .boot import Booted
from .booted import BOOT_TIMEOUT, LOCATIONS, RAISED_BY, configure, wait_until_ended
from .waiting import wait_until

DIRECTORY = "/etc/netconf-hooks/event.d"
NOTE = '#!/bin/sh\necho "$1 $IFACE" >>/run/told\n'

# The admin's own, as netconf-hooks(8) describes it.
FOLLOWER = """\
[Unit]
PartOf=netconf-location@{name}.target
[Service]
ExecStart=/usr/bin/tail -f /dev/null
[Install]
WantedBy=netconf-location@{name}.target
"""


def follow(machine: Booted, location: str, unit: str) -> None:
    """Install a unit that runs while the machine is at a location."""
    machine.write(f"/etc/systemd/system/{unit}", FOLLOWER.format(name=location))
    machine.run(["systemctl", "enable", unit])


def target(location: str) -> str:
    """Return the name of the location's target."""
    return f"netconf-location@{location}.target"


def wait_until_active(machine: Booted, unit: str) -> None:
    """Wait until the unit has been started."""
    wait_until(lambda: machine.is_active(unit), f"{unit} to be active")


def read_told(machine: Booted) -> list[str]:
    """Return the events told so far, each with its interface."""
    return machine.read("/run/told").splitlines() if machine.exists("/run/told") else []


@pytest.mark.parametrize("word", RAISED_BY)
def test_a_unit_follows_a_location(machine, network, word):
    """From boot on, arriving and leaving, and for its own sake: not in the control group of what raised the link."""
    network.plug("office", "eth0")
    configure(machine, f"{word} eth0\niface eth0 inet dhcp\n{LOCATIONS}")
    machine.write(f"{DIRECTORY}/note", NOTE, 0o755)
    follow(machine, "office", "follower.service")
    follow(machine, "cafe", "barista.service")
    machine.boot(BOOT_TIMEOUT)
    wait_until_active(machine, "follower.service")
    assert machine.is_active(target("office")) and not machine.is_active(target("cafe"))
    assert not machine.is_active("barista.service")
    wait_until(lambda: len(read_told(machine)) == 2, "the events to be told")
    assert read_told(machine) == ["office-connected eth0", "inet-connected eth0"]
    (pid,) = machine.group_members("follower.service")
    assert pid not in machine.group_members(RAISED_BY[word])

    # The same place again is no edge.
    machine.run(["netconf-hooks", "refresh"])
    assert list(machine.group_members("follower.service")) == [pid]

    machine.run(["systemctl", "stop", RAISED_BY[word]])
    wait_until_ended(machine, "follower.service")
    wait_until_ended(machine, target("office"))
    assert read_told(machine)[2:] == ["inet-disconnected eth0", "office-disconnected eth0"]

    network.plug("cafe", "eth0")
    machine.run(["systemctl", "start", RAISED_BY[word]])
    wait_until_active(machine, "barista.service")
    assert machine.is_active(target("cafe"))
    assert not machine.is_active(target("office")) and not machine.is_active("follower.service")


def test_names_that_systemd_could_take_for_something_else(machine, network):
    names = ["office-lan", "hq.office-2_b", "1", "a.service", "x" * 63]
    network.plug("office", "eth0")
    machine.boot(BOOT_TIMEOUT)
    for name in names:
        configure(machine, f"iface eth0 inet manual\n    netconf-location {name} interface=eth0\n")
        follow(machine, name, f"{name}-follower.service")
        machine.run(["ifup", "eth0"])
        wait_until_active(machine, f"{name}-follower.service")
        assert machine.is_active(target(name))
        machine.run(["ifdown", "eth0"])
        wait_until_ended(machine, f"{name}-follower.service")
        wait_until_ended(machine, target(name))


def test_events_at_shutdown(machine, network):
    """The follower is stopped once, and nothing is started or complained of."""
    network.plug("office", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{LOCATIONS}")
    machine.write(f"{DIRECTORY}/note", NOTE.replace("/run/told", "/var/told"), 0o755)
    follow(machine, "office", "follower.service")
    machine.boot(BOOT_TIMEOUT)
    wait_until_active(machine, "follower.service")
    machine.poweroff(15.0)
    told = ["office-connected", "inet-connected", "inet-disconnected", "office-disconnected"]
    assert machine.read("/var/told").splitlines() == [f"{event} eth0" for event in told]
    assert machine.journal("--unit=follower.service").count("Started follower.service") == 1
    assert "netconf-hooks" not in machine.journal("--priority=warning")
