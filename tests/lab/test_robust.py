"""What can go wrong: ifup succeeds all the same, and the log names interface, option and reason."""

from __future__ import annotations

import re

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import OFFICE
from .stanzas import (
    ROAMING, RULES, find_records, find_tunnels, read_location, read_status, wait_for_no_tunnel,
    wait_for_tunnel
)  # fmt: skip
from .waiting import wait_until

ONE_CLIENT = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
# The hook waits for the MAC address of a router that isn't there: time to interrupt it.
SILENT = f"iface eth0 inet static\n    address 192.168.3.50/24\n    gateway 192.168.3.77\n{RULES}"


def assert_configured(lab: Lab, iface: str = "eth0") -> None:
    """ifupdown takes the interface for up, and it has an address."""
    assert lab.laptop.run(["ifquery", "--state", iface]).stdout.startswith(iface)
    assert "inet " in lab.laptop.run(["ip", "-4", "addr", "show", iface]).stdout


@ONE_CLIENT
def test_a_broken_rule(lab: Lab) -> None:
    broken = "    netconf-vpn openvpn corp unles office-lan\n    netconf-location home-lan gateway-mac=nonsense\n"
    lab.laptop.write("/etc/network/interfaces", f"iface eth0 inet dhcp\n{broken}")
    lab.plug("cafe")
    result = lab.laptop.ifup("eth0")
    assert_configured(lab)
    expected = 'eth0: netconf-vpn "openvpn corp unles office-lan": expected "on" or "unless", not "unles"'
    assert f"netconf-hooks: {expected}" in result.stderr
    assert expected in lab.laptop.log()
    assert 'eth0: netconf-location "home-lan gateway-mac=nonsense"' in lab.laptop.log()  # all errors at once
    assert find_tunnels(lab) == []  # a rule that can't be read starts nothing
    checked = lab.laptop.run(["netconf-hooks", "check"], check=False)
    assert checked.returncode == 1
    assert f"/etc/network/interfaces:2: {expected.replace(': ', ': error: ', 1)}\n" in checked.stdout


@ONE_CLIENT
def test_check_names_file_and_line(lab: Lab) -> None:
    """By ifupdown's own reading of sourced files, templates and continued lines."""
    main = (
        "source-directory interfaces.d\n\niface eth0 inet dhcp inherits roaming\n    netconf-vpn openvpn corp \\\n"
        "        unles home\niface eth1 inet dhcp inherits roaming\n"
    )
    lab.laptop.write("/etc/network/interfaces", main)
    template = "# laptops\niface roaming inet manual\n    netconf-location home gatway=192.0.2.1\n"
    lab.laptop.write("/etc/network/interfaces.d/roaming", template)
    checked = lab.laptop.run(["netconf-hooks", "check"], check=False)
    assert checked.returncode == 1
    lines = checked.stdout.splitlines()
    assert len(lines) == 3 and lines[2] == "3 stanzas examined, 2 errors"
    assert lines[0].startswith(
        '/etc/network/interfaces.d/roaming:3: roaming, eth0, eth1: error: netconf-location "home gatway=192.0.2.1": no '
    )
    assert lines[1].startswith('/etc/network/interfaces:4: eth0: error: netconf-vpn "openvpn corp')
    lab.laptop.write("/etc/network/interfaces.d/broken", "iface eth5 inet dhcp\n\niface eth6\niface eth7 inet dhcp\n")
    lines = lab.laptop.run(["netconf-hooks", "check"], check=False).stdout.splitlines()
    assert [line for line in lines if "broken" in line] == [
        "/etc/network/interfaces.d/broken:3: eth6, eth7: error: unknown or no address type and no inherits keyword "
        "specified: ifupdown ignores the rest of this file"
    ]


@ONE_CLIENT
def test_a_missing_vpn_configuration(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING.replace("openvpn corp", "openvpn nosuch"))
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    assert_configured(lab)
    assert 'netconf-vpn "openvpn nosuch"' in lab.laptop.log()
    assert "/etc/openvpn/nosuch.conf" in lab.laptop.log()
    assert "eth0 is at an unknown place" in lab.laptop.log()
    # The admin writes it: the next run tries again.
    lab.vpn.install_client(lab.laptop, "/etc/openvpn/nosuch.conf")
    lab.laptop.run(["netconf-hooks", "refresh"])
    wait_for_tunnel(lab)


# Where a DHCP client keeps what the network has announced.
KEPT = {
    "dhclient": "/var/lib/dhcp/dhclient.eth0.leases", "dhcpcd": "/run/dhcpcd/hook-state/resolv.conf/eth0.dhcp",
}  # fmt: skip


def test_an_unreadable_lease(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    kept = KEPT[lab.laptop.dhcp_client]
    spoil = f'#!/bin/sh\n[ "$IFACE" != eth0 ] || {{ rm {kept}; mkdir {kept}; }}\n'
    lab.laptop.write("/etc/network/if-up.d/00-spoil", spoil, 0o755)
    lab.plug("office")
    lab.laptop.ifup("eth0")
    assert_configured(lab)
    (line,) = (line for line in lab.laptop.log().splitlines() if kept in line)
    assert "eth0: netconf-location" in line
    assert "dns-domain" in line


@ONE_CLIENT
def test_a_full_standard_output(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING.replace("unless", "unles"))
    lab.plug("cafe")
    lab.laptop.run(["sh", "-c", "ifup -v eth0 >/dev/full 2>/dev/full"])
    assert_configured(lab)
    assert read_location(lab) is None


@ONE_CLIENT
def test_a_hook_ended_by_sigterm(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", SILENT)
    lab.plug("cafe")
    ifup = lab.laptop.start(["ifup", "eth0"])
    lab.laptop.run(["kill", "-TERM", wait_for_hook(lab)])
    assert ifup.wait().returncode == 0
    assert_configured(lab)
    assert "eth0: the up hook ended before its work was done: SIGTERM" in lab.laptop.log()
    assert find_records(lab) == []


@ONE_CLIENT
def test_a_hook_killed(lab: Lab) -> None:
    """Nothing can be promised of that ifup; but what is on disk is whole, and the next run puts the rest right."""
    lab.laptop.write("/etc/network/interfaces", SILENT)
    lab.plug("cafe")
    ifup = lab.laptop.start(["ifup", "eth0"])
    lab.laptop.run(["kill", "-KILL", wait_for_hook(lab)])
    ifup.wait()
    assert find_records(lab) == []
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.laptop.run(["ip", "addr", "flush", "dev", "eth0"])
    lab.laptop.ifup("--force", "eth0")
    wait_for_tunnel(lab)


@ONE_CLIENT
def test_hooks_killed_at_many_points(lab: Lab) -> None:
    """SIGKILL at the 1st, 2nd, 3rd... system call of a kind: whole records each time, and right in the end."""
    lab.laptop.write("/etc/network/interfaces", "iface eth0 inet dhcp\n")
    lab.plug("office")
    lab.laptop.ifup("eth0")
    lab.laptop.run(["openvpn", "--config", "/etc/openvpn/corp.conf", "--daemon", "--writepid", "/run/openvpn/corp.pid"])
    wait_for_tunnel(lab)
    hook = {
        "IFACE": "eth0", "LOGICAL": "eth0", "ADDRFAM": "inet", "METHOD": "dhcp", "MODE": "start", "PHASE": "post-up",
        "IF_NETCONF_LOCATION": f"office-lan gateway-mac={OFFICE.router_mac}",
        "IF_NETCONF_VPN": "openvpn corp unless office-lan",
    }  # fmt: skip
    killed = 0
    for call in ("flock", "write", "rename", "openat", "sendto"):
        for nth in range(1, 400, 17 if call == "openat" else 1):
            lab.laptop.run(["rm", "-rf", "/run/netconf-hooks"])
            inject = f"inject={call}:signal=KILL:when={nth}"
            argv = ["strace", "-qq", "-o", "/dev/null", "-e", inject, "/etc/network/if-up.d/netconf-hooks"]
            if lab.laptop.run(argv, check=False, env=hook).returncode == 0:
                break
            killed += 1
            recorded = read_status(lab)["interfaces"]  # fails on a record that is not whole
            assert recorded == {} or recorded["eth0"]["location"] == "office-lan"
    assert killed > 10
    lab.laptop.run(["/etc/network/if-up.d/netconf-hooks"], env=hook)
    assert read_location(lab) == "office-lan"
    wait_for_no_tunnel(lab)


@ONE_CLIENT
def test_an_interface_without_rules_loads_nothing_of_ours(lab: Lab) -> None:
    """Whole hooks as ifupdown runs them, every file they open."""
    lab.laptop.write("/etc/network/interfaces", "iface eth0 inet static\n    address 192.168.1.50/24\n")
    lab.plug("home")
    trace = ["strace", "-f", "-qq", "-e", "trace=execve,openat", "-o", "/tmp/trace"]
    for command, hooks in ((["ifup", "eth0"], ("pre-up", "up")), (["ifdown", "eth0"], ("down", "post-down"))):
        lab.laptop.run([*trace, *command])
        traced = lab.laptop.read("/tmp/trace")
        for hook in hooks:
            assert re.search(rf"if-{hook}\.d/(00-)?netconf-hooks", traced)
        assert "python" not in traced
    assert not lab.laptop.exists("/run/netconf-hooks")


def wait_for_hook(lab: Lab) -> str:
    """Wait until the if-up.d hook waits for its router, and return its pid."""
    wait_until(
        lambda: "INCOMPLETE" in lab.laptop.run(["ip", "neigh", "show", "192.168.3.77"]).stdout,
        "the hook to ask for its router's MAC address",
    )
    (pid,) = (pid for pid, line in lab.laptop.processes().items() if "if-up.d/netconf-hooks" in line)
    return str(pid)
