"""netconf-hooks-watch.service on a Debian booted with systemd: when it runs, and what it survives."""

from __future__ import annotations

import base64

import pytest

from netconf_hooks.evidence.look import CARRIER_TIMEOUT

from .boot import Booted
from .booted import (
    BOOT_TIMEOUT, CLIENT_CONFIG, CLIENT_UNIT, LOCATIONS, RULES, WATCHER_UNIT, configure, kill, openvpn_processes,
    status, wait_for_watcher, wait_until_connected, wait_until_ended
)  # fmt: skip
from .waiting import wait_until

COMMAND = "netconf-hooks watch"
FIFO = "/run/netconf-hooks/watch.fifo"

# It asks again by itself when a cable was moved, dhclient does not.
WITH_DHCPCD = pytest.mark.parametrize("dhcp_client", ["dhcpcd"])

# Up and down in a moment.
STANZA = "iface {0} inet manual\n    pre-up ip link set dev {0} up\n    netconf-location {1} interface={0}\n"
FAST = STANZA.format("eth0", "office")

# dhcpcd reads the second since forky, before that the first.
DHCPCD_HOOKS = [f"/usr/{place}/dhcpcd-hooks/90-netconf-hooks" for place in ("lib/dhcpcd", "libexec")]

# The watcher, whose process does not end before the test writes to /run/gate.
SLOW_WATCH = """\
#!/usr/bin/python3 -I
import sys
from netconf_hooks.cli import main
sys.argv = ["netconf-hooks", "watch"]
try:
    sys.exit(main())
finally:
    open("/run/gate").read()
"""

# systemd's own limit, StartLimitBurst= within StartLimitIntervalSec= (10 s).
STARTS_ALLOWED = 5


def find_watchers(machine: Booted) -> list[int]:
    """Return the pids of the watchers."""
    running = [pid for pid, command in machine.processes().items() if command.endswith(COMMAND)]
    return [pid for pid in running if read_name(machine, pid) == "netconf-hooks\n"]  # not those that look and act


def read_name(machine: Booted, pid: int) -> str:
    """Return the name of a process; empty where it is gone."""
    return machine.run(["cat", f"/proc/{pid}/comm"], check=False).stdout


def test_from_the_first_record_to_the_last(machine, network):
    network.plug("office", "eth0")
    network.plug("cafe", "wlan0")
    configure(machine, f"auto eth0\n{FAST}{STANZA.format('wlan0', 'cafe')}")
    machine.boot(BOOT_TIMEOUT)
    pid = wait_for_watcher(machine)
    wait_until(lambda: list(machine.group_members(WATCHER_UNIT)) == [pid], "its children to end")
    assert find_watchers(machine) == [pid]
    machine.run(["ifup", "wlan0"])
    machine.run(["ifdown", "eth0"])
    assert wait_for_watcher(machine) == pid
    machine.run(["ifdown", "wlan0"])
    wait_until_ended(machine, WATCHER_UNIT)
    assert machine.unit(WATCHER_UNIT)["Result"] == "success" and not machine.exists(FIFO)
    machine.run(["ifup", "eth0"])
    wait_for_watcher(machine, pid)


def test_a_record_that_comes_while_the_watcher_leaves(machine, network):
    """It has seen that there is none, and its process still runs: the new record gets a watcher all the same.

    It has to be the unit's main process that tells systemd that it ends: the message of any other one that has ended
    before systemd reads it is ignored, since systemd can't find out its unit any more.
    """
    machine.write("/usr/local/sbin/slow-watch", SLOW_WATCH, 0o755)
    override = "[Service]\nExecStart=\nExecStart=/usr/local/sbin/slow-watch\n"
    machine.write(f"/etc/systemd/system/{WATCHER_UNIT}.d/slow.conf", override)
    configure(machine, FAST)
    network.plug("office", "eth0")
    machine.boot(BOOT_TIMEOUT)
    machine.run(["mkfifo", "/run/gate"])
    machine.run(["ifup", "eth0"])
    wait_until(lambda: machine.exists(FIFO), "the watcher")
    machine.run(["ifdown", "eth0"])
    wait_until(lambda: not machine.exists(FIFO), "the watcher to leave", 30)
    machine.run(["ifup", "eth0"])
    machine.run(["sh", "-c", "echo >/run/gate"])
    wait_until(lambda: machine.exists(FIFO), "another watcher", 30)


@WITH_DHCPCD
@pytest.mark.usefixtures("dhcp_client")
def test_killed_it_comes_back_and_decides_afresh(machine, network, vpn):
    network.plug("office", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.write(f"/etc/systemd/system/{WATCHER_UNIT}.d/soon.conf", "[Service]\nRestartSec=100ms\n")
    # So that nobody but the watcher notices.
    machine.run(["rm", *DHCPCD_HOOKS])
    machine.boot(BOOT_TIMEOUT)
    pid = wait_for_watcher(machine)
    kill(machine, "STOP", pid)
    network.plug("cafe", "eth0")
    wait_until(lambda: "192.168.3." in machine.run(["ip", "-br", "address"]).stdout, "an address in the cafe")
    assert machine.run(["netconf-hooks", "location", "eth0"]).stdout == "office\n"
    kill(machine, "KILL", pid)
    wait_until_connected(machine)
    assert status(machine)["interfaces"]["eth0"]["location"] == "cafe"

    for _ in range(STARTS_ALLOWED + 1):
        pid = wait_for_watcher(machine, pid)
        kill(machine, "KILL", pid)
    wait_for_watcher(machine, pid)
    assert len(openvpn_processes(machine.processes())) == 1


def test_an_error_is_told_once_and_not_run_into_again(machine, network):
    network.plug("office", "eth0")
    configure(machine, f"auto eth0\n{FAST}")
    machine.boot(BOOT_TIMEOUT)
    wait_for_watcher(machine)
    machine.run(["systemctl", "stop", WATCHER_UNIT])
    machine.run(["rm", FIFO])
    machine.run(["mkdir", FIFO])
    machine.run(["systemctl", "start", WATCHER_UNIT])
    wait_until(lambda: machine.unit(WATCHER_UNIT)["ActiveState"] == "failed", "the watcher to fail")
    shown = machine.unit(WATCHER_UNIT)
    assert (shown["Result"], shown["ExecMainStatus"], shown["NRestarts"]) == ("exit-code", "1", "0")
    # Not --unit: journald asks /proc for a message's unit, and this process ends right after it.
    assert machine.journal("--identifier=netconf-hooks").count(FIFO) == 1
    machine.run(["rmdir", FIFO])
    machine.run(["netconf-hooks", "refresh"])
    wait_for_watcher(machine)


def test_removed_and_upgraded_with_the_package(machine, network, packages):
    (package,) = (file for file in packages if file.name.startswith("netconf-hooks_"))
    text = base64.b64encode(package.read_bytes()).decode()
    machine.run(["sh", "-c", "base64 --decode >/root/netconf-hooks.deb"], text=text)
    network.plug("office", "eth0")
    configure(machine, f"auto eth0\n{FAST}")
    machine.boot(BOOT_TIMEOUT)
    pid = wait_for_watcher(machine)
    machine.run(["dpkg", "--install", "/root/netconf-hooks.deb"])
    assert find_watchers(machine) != [pid]
    pid = wait_for_watcher(machine, pid)

    machine.run(["dpkg", "--remove", "netconf-hooks"])
    assert find_watchers(machine) == []
    machine.run(["ifdown", "eth0"])
    machine.run(["ifup", "eth0"])
    assert machine.unit(WATCHER_UNIT)["LoadState"] == "not-found"


def test_it_blocks_no_shutdown(machine, network):
    """Nor is it started again for the records that are left when it has been stopped."""
    network.plug("office", "eth0")
    network.plug("cafe", "wlan0")
    configure(machine, "".join(f"auto {link}\niface {link} inet dhcp\n{LOCATIONS}" for link in ("eth0", "wlan0")))
    machine.boot(BOOT_TIMEOUT)
    wait_for_watcher(machine)
    machine.poweroff(15.0)
    told = machine.journal()
    assert told.count(f"Started {WATCHER_UNIT}") == told.count(f"Stopped {WATCHER_UNIT}") == 1
    assert "netconf-hooks" not in machine.journal("--priority=warning")


def test_another_target_leaves_it_alone(machine, network):
    """As networking.service and ifup@.service are; so that going to rescue mode and back loses nothing."""
    network.plug("office", "eth0")
    configure(machine, f"auto eth0\n{FAST}")
    machine.boot(BOOT_TIMEOUT)
    pid = wait_for_watcher(machine)
    machine.run(["systemctl", "isolate", "multi-user.target"])
    assert find_watchers(machine) == [pid]
    assert machine.is_active("netconf-location@office.target")


def test_what_an_events_script_has_started_outlives_the_watcher(machine, network):
    """A cable is pulled: it is the watcher that runs the script."""
    command = "/usr/bin/tail -f /dev/null"
    script = f"#!/bin/sh\n[ $1 != office-disconnected ] || {command} >/dev/null 2>&1 &\n"
    network.plug("office", "eth0")
    configure(machine, f"auto eth0\n{FAST}")
    machine.write("/etc/netconf-hooks/event.d/servant", script, 0o755)
    machine.boot(BOOT_TIMEOUT)
    pid = wait_for_watcher(machine)
    network.unplug("eth0")
    # Before a link without carrier would have been given up: nobody waits for one that was pulled.
    wait_until(lambda: command in machine.processes().values(), "the script to run", CARRIER_TIMEOUT - 0.5)
    kill(machine, "KILL", pid)
    wait_for_watcher(machine, pid)
    machine.run(["systemctl", "restart", WATCHER_UNIT])
    wait_for_watcher(machine)
    machine.run(["ifdown", "eth0"])
    wait_until_ended(machine, WATCHER_UNIT)
    assert command in machine.processes().values()


@WITH_DHCPCD
@pytest.mark.usefixtures("dhcp_client")
def test_a_laptop_that_wakes_up_elsewhere(machine, network, vpn):
    """systemd-sleep runs the hook, systemd-suspend.service(8).  Nobody else notices: the watcher is still frozen, as is
    every process while the machine sleeps."""
    sleep = ["systemd-run", "--quiet", "--wait", "--collect", "/usr/lib/systemd/system-sleep/netconf-hooks"]
    network.plug("office", "eth0")
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.run(["rm", *DHCPCD_HOOKS])
    machine.boot(BOOT_TIMEOUT)
    pid = wait_for_watcher(machine)

    def move(site: str, address: str) -> None:
        kill(machine, "STOP", pid)
        machine.run([*sleep, "pre", "suspend"])
        network.plug(site, "eth0")
        wait_until(lambda: address in machine.run(["ip", "-br", "address"]).stdout, "an address there")

    move("cafe", "192.168.3.")
    assert machine.run(["netconf-hooks", "location", "eth0"]).stdout == "office\n"
    machine.run([*sleep, "post", "suspend"])
    assert machine.run(["netconf-hooks", "location", "eth0"]).stdout == "cafe\n"
    wait_until_connected(machine)
    kill(machine, "CONT", pid)
    move("office", "192.168.2.")
    machine.run([*sleep, "post", "suspend"])
    wait_until_ended(machine, CLIENT_UNIT)
    assert machine.run(["netconf-hooks", "location", "eth0"]).stdout == "office\n"

    # Without any record there is nothing to decide.
    kill(machine, "CONT", pid)
    machine.run(["ifdown", "eth0"])
    machine.run([*sleep, "post", "suspend"])
    wait_until_ended(machine, WATCHER_UNIT)


# Writes down what it may do and what it gets: capabilities, system calls, signals, limits, files, environment.
DESCRIBE = r"""#!/bin/sh
[ "$IFACE" = eth0 ] || exit 1
out=$(mktemp /run/describing-XXXXXX)
{
    grep -E '^(Cap...|NoNewPrivs|Seccomp|Sig(Blk|Ign)|Groups|Uid):' /proc/self/status
    cat /proc/self/limits
    umask
    pwd
    readlink /proc/self/ns/mnt
    for place in /usr/local /etc /home /root /boot /proc/sys/net/ipv4/ip_forward /dev/net/tun; do
        [ ! -w $place ] || echo "may write $place"
    done
    ! unshare --mount true || echo "may make namespaces"
    env | grep -E '^(PATH|LC_ALL|IFACE|NETCONF_LOCATION|IF_[A-Z_]*|MODE|PHASE)=' | sort
} >"$out" 2>&1
mv "$out" "/run/$(basename "$0")"
"""


def test_what_the_admin_has_written_may_do_the_same_in_the_watcher(machine, network):
    """The watcher's unit is hardened.  Event scripts and tests' programs run as from a hook at boot."""
    network.plug("office", "eth0")
    stanza = "iface eth0 inet manual\n    pre-up ip link set dev eth0 up\n"
    configure(machine, f"auto eth0\n{stanza}    netconf-location office command=/usr/local/sbin/prove\n")
    machine.write("/etc/netconf-hooks/event.d/tell", DESCRIBE, 0o755)
    machine.write("/usr/local/sbin/prove", DESCRIBE, 0o755)
    machine.boot(BOOT_TIMEOUT)
    pid = wait_for_watcher(machine)
    wait_until(lambda: machine.exists("/run/tell"), "the hook to run the event's script")
    by_hook = {name: machine.read(f"/run/{name}") for name in ("tell", "prove")}
    for text in by_hook.values():
        assert "NoNewPrivs:\t0" in text and "may write /usr/local" in text and "may make namespaces" in text
    assert "NoNewPrivs:\t1" in machine.read(f"/proc/{pid}/status")
    # In tenths of what systemd-analyze prints.
    machine.run(["systemd-analyze", "--no-pager", "security", "--threshold=49", WATCHER_UNIT])

    machine.run(["rm", "/run/tell", "/run/prove"])
    network.unplug("eth0")
    wait_until(lambda: machine.exists("/run/tell"), "the watcher to run the event's script")
    network.plug("office", "eth0")
    wait_until(lambda: machine.exists("/run/prove"), "the watcher to run the test's program")
    assert {name: machine.read(f"/run/{name}") for name in by_hook} == by_hook
    assert wait_for_watcher(machine) == pid
