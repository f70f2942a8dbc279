"""Whatever ends a tunnel, again and again: it is back within a limit.  ``make test`` has the short form of this.

``make soak`` takes ten minutes and more: NETCONF_SOAK=50 rounds, others with another NETCONF_SOAK_SEED.  It prints its
figures, for `pytest -rP`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .namespaces import CommandFailed
from .network import CORP_HOST
from .stanzas import LOCATIONS, find_tunnels, wait_for_no_tunnel, wait_for_tunnel
from .waiting import wait_until
from .watcher import find_watchers

ROUNDS = int(os.environ.get("NETCONF_SOAK", "4"))
SEED = os.environ.get("NETCONF_SOAK_SEED", "1")

# Seconds until the tunnel is back, after a cause on this machine; after any other one, at least as long as it lasted.
# What ends again and again within a minute is started again after longer and longer pauses; these come on top.
LIMIT = 15.0
LONGEST_OUTAGE = 20.0

CONFIG = "/etc/openvpn/corp.conf"
ANYWHERE = f"iface eth0 inet dhcp\n{LOCATIONS}    netconf-vpn openvpn corp\n"
TICKS = os.sysconf("SC_CLK_TCK")


class Soak:
    """A laptop whose tunnel is ended in all ways, at random."""

    def __init__(self, lab: Lab, chance: random.Random) -> None:
        self.lab = lab
        self.chance = chance

    def kill_daemon(self) -> float:
        """A program error, the kernel's OOM killer, a person."""
        number = self.chance.choice(("KILL", "TERM", "ABRT"))
        self.lab.laptop.run(["kill", f"-{number}", str(find_tunnels(self.lab)[0])])
        return 0.0

    def delete_device(self) -> float:
        """Somebody deletes the tunnel's interface."""
        self.lab.laptop.run(["ip", "link", "delete", "dev", "tun0"])
        return 0.0

    def restart_server(self) -> float:
        """The server has forgotten all sessions."""
        self.lab.vpn.stop()
        self.lab.vpn.start()
        return 0.0

    def stop_server(self) -> float:
        """The server is away for a while."""
        self.lab.vpn.stop()
        return self._let_pass(self.lab.vpn.start)

    def pull_cable(self) -> float:
        """The cable is pulled for a while."""
        self.lab.unplug("eth0")
        return self._let_pass(lambda: self.lab.plug("cafe", "eth0"))

    def lose_packets(self) -> float:
        """Something on the way drops everything for a while, without any sign."""
        drop = "table ip lossy { chain c { type filter hook forward priority 0; drop; }; }"
        self.lab.network.run("cafe", ["nft", "-f", "-"], text=drop)
        return self._let_pass(lambda: self.lab.network.run("cafe", ["nft", "delete", "table", "ip", "lossy"]))

    def _let_pass(self, end: Callable[[], object]) -> float:
        """Let an outage last for some seconds, then end it; return how long it lasted."""
        began = time.monotonic()
        lasts = self.chance.uniform(1.0, LONGEST_OUTAGE)
        wait_until(lambda: time.monotonic() - began > lasts, "the outage to end", LONGEST_OUTAGE + 10)
        end()
        return time.monotonic() - began


CAUSES = (
    Soak.kill_daemon, Soak.delete_device, Soak.restart_server, Soak.stop_server, Soak.pull_cable, Soak.lose_packets
)  # fmt: skip


def read_pause(lab: Lab) -> float:
    """Return the pause before the next attempt, which doubles with each end within a minute: netconf-hooks(8)."""
    code = (
        "import sys; sys.path.append('/usr/lib/python3/dist-packages');"
        "from netconf_hooks.state import Store; print(Store().read_states()['openvpn', 'corp'].failures)"
    )
    return 2.0 ** int(lab.laptop.run(["/usr/bin/python3", "-IS", "-c", code]).stdout)


def read_cpu(lab: Lab) -> float:
    """Return the seconds of CPU time that the watcher has taken, with the children that have ended."""
    (pid,) = find_watchers(lab)
    fields = lab.laptop.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def read_memory(lab: Lab) -> int:
    """Return the memory of the watcher's process, KiB."""
    (pid,) = find_watchers(lab)
    lines = lab.laptop.read(f"/proc/{pid}/status").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
def test_whatever_ends_the_tunnel_it_is_back(lab: Lab) -> None:
    lab.laptop.write(CONFIG, f"{lab.vpn.client_config()}connect-timeout 5\n", 0o600)
    lab.laptop.write("/etc/network/interfaces", ANYWHERE)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    wait_for_tunnel(lab)
    wait_until(lambda: "openvpn corp: connected" in lab.laptop.log(), "the watcher to have seen it", 30)
    chance = random.Random(SEED)
    soak = Soak(lab, chance)
    began, cpu, memory = time.monotonic(), read_cpu(lab), read_memory(lab)
    late = []
    # Each cause at least once, in any order.
    causes = [*CAUSES, *(chance.choice(CAUSES) for _ in range(max(0, ROUNDS - len(CAUSES))))]
    chance.shuffle(causes)
    for number, cause in enumerate(causes[:ROUNDS]):
        pause = read_pause(lab)
        try:
            outage = cause(soak)
        except CommandFailed as error:
            raise AssertionError(f"round {number}: {cause.__name__}: {error}") from error
        ended = time.monotonic()
        limit = max(LIMIT, outage, pause + 10 if not outage else 0.0)
        wait_until(lambda: lab.laptop.pings(CORP_HOST), f"round {number}: the tunnel after {cause.__name__}", 120)
        took = time.monotonic() - ended
        lasted = f"outage {outage:.1f} s, pause {pause:.0f} s"
        print(f"round {number}: {cause.__name__}, {lasted} -> back after {took:.1f} s")
        if took > limit:
            late.append(f"{cause.__name__}: {took:.1f} s after {outage:.1f} s")
        wait_until(lambda: len(find_tunnels(lab)) == 1, "one daemon", 30)
    passed, used = time.monotonic() - began, read_cpu(lab) - cpu
    print(f"watcher: {used:.2f} s of CPU in {passed:.0f} s, {memory} -> {read_memory(lab)} KiB")
    lab.laptop.ifdown("eth0")
    wait_for_no_tunnel(lab)
    assert not late, "; ".join(late)
    assert used < 0.1 * passed, "the watcher is busy"
    assert "Traceback" not in lab.laptop.log()
