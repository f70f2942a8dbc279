"""``netconf-hooks monitor``: each change is shown within a second, by a process that otherwise sleeps.

The test prints the seconds, for `pytest -rP`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .namespaces import Running
from .stanzas import LOCATIONS, find_tunnels, wait_for_tunnel
from .vpn import NAME
from .waiting import wait_until

STANZA = f"iface eth0 inet dhcp\n{LOCATIONS}    netconf-vpn openvpn corp unless home-lan\n    netconf-guard yes\n"
CONFIG = f"/etc/openvpn/{NAME}.conf"

# Seconds.
PROMISED = 1.0
# Of idle time; what it may use of it is a thousandth.
IDLE = 25


def read_cpu_seconds(lab: Lab, pid: int) -> float:
    """Return the processor time that a process has had, proc(5), schedstat."""
    return int(lab.laptop.read(f"/proc/{pid}/schedstat").split()[0]) / 1e9


def expect(monitor: Running, what: str, words: str, truth: Callable[[], object] | None = None) -> None:
    """Wait until the monitor's last line has these words, which is at most a second after `truth`.

    truth: says whether the change has happened; None if it has.
    """
    if truth:
        wait_until(truth, what, 30)
    began = time.monotonic()
    wait_until(lambda: words in monitor.read_output().splitlines()[-1], f"{what}: {words}", 10)
    took = time.monotonic() - began
    print(f"{what}: shown {took:.2f} s later")
    assert took < PROMISED, monitor.read_output()


@pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
def test_each_change_is_shown_within_a_second(lab: Lab) -> None:
    laptop = lab.laptop
    lab.vpn.install_client(laptop, CONFIG)
    laptop.write("/etc/network/interfaces", STANZA)
    # Any user may: with nobody's rights, before anything is recorded.
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "netconf-hooks", "monitor"]
    monitor = laptop.start(command)
    wait_until(monitor.read_output, "its first line")
    assert monitor.read_output() == "no interface with netconf rules is up\n"
    pid = next(pid for pid, line in laptop.processes().items() if line.endswith("/netconf-hooks monitor"))

    lab.plug("cafe")
    laptop.ifup("eth0")
    expect(monitor, "ifup", "eth0: unknown; guard of eth0: closed")
    daemon = wait_for_tunnel(lab)
    expect(monitor, "the tunnel", "openvpn corp: connected", lambda: laptop.pings("10.99.0.1"))

    laptop.run(["netconf-hooks", "hold", "openvpn", "corp"])
    expect(monitor, "hold", "openvpn corp: connected, held")
    laptop.run(["kill", str(daemon)])
    expect(monitor, "the tunnel's end", "openvpn corp: not connected, held", lambda: not find_tunnels(lab))
    laptop.run(["netconf-hooks", "unhold", "openvpn", "corp"])
    expect(monitor, "the tunnel again", "openvpn corp: connected", lambda: laptop.pings("10.99.0.1"))

    # Until the portal's time is over nothing happens.
    laptop.run(["netconf-hooks", "portal", "eth0", "--for", f"{IDLE}s"])
    allowed = time.monotonic()
    expect(monitor, "portal", "guard of eth0: closed, captive portal allowed")
    before, begun = read_cpu_seconds(lab, pid), time.monotonic()
    wait_until(lambda: "allowed" not in monitor.read_output().splitlines()[-1], "the end of the portal", IDLE + 10.0)
    print(f"the end of the portal: shown {time.monotonic() - allowed - IDLE:.2f} s later")
    assert time.monotonic() - allowed < IDLE + PROMISED
    idle, used = time.monotonic() - begun, read_cpu_seconds(lab, pid) - before
    print(f"idle: {1000 * used:.1f} ms of processor time in {idle:.1f} s, {100 * used / idle:.3f} %")
    assert used < idle / 1000

    lab.unplug()
    expect(monitor, "the cable", "eth0: unknown, does not count")
    lab.plug("cafe")
    expect(monitor, "the cable again", "eth0: unknown; guard", lambda: laptop.has_carrier("eth0"))
    laptop.run(["netconf-hooks", "release", "eth0"])
    expect(monitor, "release", "guard of eth0: released")
    laptop.ifdown("eth0")
    expect(monitor, "ifdown", "no interface with netconf rules is up")

    # Ctrl-C.
    laptop.run(["kill", "-INT", str(pid)])
    ended = monitor.wait()
    assert (ended.returncode, ended.stderr) == (0, "")
