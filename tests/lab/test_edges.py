"""Where ifupdown is not as simple as it looks: families, --force, --all, edited stanzas, hooks side by side."""

from __future__ import annotations

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, OFFICE
from .stanzas import (
    RULES, ROAMING, find_records, find_tunnels, read_location, read_status, wait_for_no_tunnel, wait_for_tunnel
)  # fmt: skip
from .waiting import wait_until

# None of this depends on the DHCP client.
pytestmark = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])

INET = f"iface eth0 inet dhcp\n{RULES}"
INET6 = "iface eth0 inet6 static\n    address 2001:db8:99::2/64\n    dad-attempts 0\n"


@pytest.mark.parametrize("stanzas", [INET + INET6, INET6 + INET], ids=["inet first", "inet6 first"])
def test_a_second_family_without_rules(lab: Lab, stanzas: str) -> None:
    lab.laptop.write("/etc/network/interfaces", stanzas)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    assert "2001:db8:99::2" in lab.laptop.run(["ip", "addr", "show", "eth0"]).stdout
    pid = wait_for_tunnel(lab)
    lab.laptop.run(["netconf-hooks", "refresh"])
    assert find_tunnels(lab) == [pid]
    lab.laptop.ifdown("eth0")
    wait_for_no_tunnel(lab)
    assert find_records(lab) == []


def test_rules_in_the_stanzas_of_both_families(lab: Lab) -> None:
    """Each pass carries its own stanza's options only: together they are the interface's."""
    location = f"    netconf-location cafe-lan gateway-mac={CAFE.router_mac}\n"
    lab.laptop.write(
        "/etc/network/interfaces",
        f"iface eth0 inet dhcp\n{location}{INET6}    netconf-vpn openvpn corp on cafe-lan\n",
    )
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    assert read_location(lab) == "cafe-lan"
    wait_for_tunnel(lab)


def test_ifup_force_of_a_link_that_is_up_decides_again_though_if_up_is_never_reached(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    wait_for_tunnel(lab)
    lab.laptop.write("/etc/network/interfaces", ROAMING.replace("unless home-lan office-lan", "on office-lan"))
    # What comes after our pre-up fails, as it does when an address is there already.
    lab.laptop.write("/etc/network/if-pre-up.d/zz-fail", "#!/bin/sh\nexit 1\n", 0o755)
    lab.laptop.write("/etc/network/if-up.d/00-reached", "#!/bin/sh\n: >/run/reached\n", 0o755)
    lab.laptop.ifup("--force", "eth0", check=False)
    assert not lab.laptop.exists("/run/reached")
    wait_for_no_tunnel(lab)


def test_ifdown_after_the_stanza_was_edited(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    wait_for_tunnel(lab)
    lab.laptop.write("/etc/network/interfaces", "iface eth0 inet dhcp\n")
    lab.laptop.ifdown("eth0")
    wait_for_no_tunnel(lab)
    assert find_records(lab) == []


def test_rules_taken_out_and_ifup_forced(lab: Lab) -> None:
    """A stanza without options takes nothing away: another one of the interface may have them.  An ifdown ends them."""
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    wait_for_tunnel(lab)
    lab.laptop.write("/etc/network/interfaces", "iface eth0 inet dhcp\n")
    lab.laptop.ifup("--force", "eth0")
    wait_for_tunnel(lab)
    assert "the inet stanza of eth0 is still in force: the last ifup did not reach it" in lab.laptop.run(
        ["netconf-hooks", "status"]
    ).stdout
    lab.laptop.ifdown("eth0")
    wait_for_no_tunnel(lab)
    assert find_records(lab) == []


def test_ifup_and_ifdown_of_all(lab: Lab) -> None:
    """With the passes that carry IFACE=--all, and the loopback interface."""
    lab.laptop.write("/etc/network/interfaces", ROAMING + "auto eth0 wlan0\n")
    lab.plug("cafe", "eth0")
    lab.plug("home", "wlan0")
    lab.laptop.ifup("-a")
    assert sorted(read_status(lab)["interfaces"]) == ["eth0", "wlan0"]
    assert find_tunnels(lab) == []  # home vetoes
    lab.laptop.ifdown("wlan0")
    wait_for_tunnel(lab)
    lab.laptop.ifdown("-a")
    wait_for_no_tunnel(lab)
    assert find_records(lab) == []
    assert "err netconf-hooks" not in lab.laptop.log()


def test_two_ifups_at_once(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("cafe", "eth0")
    lab.plug("office", "wlan0")
    for _ in range(3):
        running = [lab.laptop.start(["ifup", name]) for name in ("eth0", "wlan0")]
        assert [ifup.wait().returncode for ifup in running] == [0, 0]
        assert read_status(lab)["tunnels"]["openvpn corp"]["wanted"] is False
        wait_for_no_tunnel(lab)
        running = [lab.laptop.start(["ifdown", name]) for name in ("eth0", "wlan0")]
        assert [ifdown.wait().returncode for ifdown in running] == [0, 0]
        wait_for_no_tunnel(lab)
        assert find_records(lab) == []


def test_two_uplinks_without_metrics(lab: Lab) -> None:
    """dhclient can't add the second one's default route, "File exists": its lease tells where it is, and it vetoes.

    dhcpcd gives each route a metric of its own.
    """
    lab.laptop.write("/etc/network/interfaces", f"iface eth0 inet dhcp\n{RULES}iface wlan0 inet dhcp\n{RULES}")
    lab.plug("cafe", "eth0")
    lab.plug("office", "wlan0")
    lab.laptop.ifup("eth0")
    wait_for_tunnel(lab)
    lab.laptop.ifup("wlan0")
    has_route = "default" in lab.laptop.run(["ip", "route", "show", "dev", "wlan0"]).stdout
    assert has_route == (lab.laptop.dhcp_client != "dhclient")
    assert read_location(lab, "eth0") is None
    assert read_location(lab, "wlan0") == "office-lan"
    assert read_status(lab)["tunnels"]["openvpn corp"]["wanted"] is False
    wait_for_no_tunnel(lab)
    lab.laptop.ifdown("wlan0")
    wait_for_tunnel(lab)


def test_ifdown_after_a_failed_ifup(lab: Lab) -> None:
    """A hook of another package fails after ours: ifupdown forgets the interface, and its ifdown runs no hook."""
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.laptop.write("/etc/network/if-up.d/zz-fail", "#!/bin/sh\nexit 1\n", 0o755)
    lab.plug("cafe")
    assert lab.laptop.ifup("eth0", check=False).returncode != 0
    wait_for_tunnel(lab)  # the link is configured, whatever ifupdown thinks of it
    lab.laptop.ifdown("--force", "eth0", check=False)
    wait_for_no_tunnel(lab)
    assert find_records(lab) == []


def test_a_failed_ifup_and_another_one_elsewhere(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.laptop.write("/etc/network/if-up.d/zz-fail", "#!/bin/sh\nexit 1\n", 0o755)
    lab.plug("cafe")
    assert lab.laptop.ifup("eth0", check=False).returncode != 0
    wait_for_tunnel(lab)
    lab.laptop.run(["rm", "/etc/network/if-up.d/zz-fail"])
    lab.plug("office")
    lab.laptop.ifup("eth0")
    # dhcpcd still runs, and looks for the new network in its own time.
    wait_until(lambda: read_location(lab) == "office-lan", "the office to be recognised")
    wait_for_no_tunnel(lab)


def test_ifdown_while_ifup_still_runs(lab: Lab) -> None:
    """The hook waits for a router that never answers; SIGTERM to ifup's process group is what ends it."""
    lab.laptop.write(
        "/etc/network/interfaces",
        f"iface eth0 inet static\n    address 192.168.3.50/24\n    gateway 192.168.3.77\n{RULES}",
    )
    lab.plug("cafe")
    ifup = lab.laptop.start(["ifup", "eth0"])
    hook = wait_until(
        lambda: [pid for pid, line in lab.laptop.processes().items() if "if-up.d/netconf-hooks" in line],
        "the hook to run",
    )
    wait_until(lambda: "INCOMPLETE" in _read_neighbour(lab), "the hook to ask for the MAC")
    lab.laptop.run(["kill", "-TERM", *map(str, hook)])
    assert ifup.wait().returncode == 0
    assert "ended before its work was done: SIGTERM" in lab.laptop.log()
    lab.laptop.ifdown("eth0")
    assert find_records(lab) == []


def _read_neighbour(lab: Lab) -> str:
    return lab.laptop.run(["ip", "neigh", "show", "192.168.3.77"]).stdout


def test_an_undecided_link_starts_but_never_stops(lab: Lab) -> None:
    """A router that does not answer ARP: it could be the office's."""
    lab.laptop.write(
        "/etc/network/interfaces",
        "iface eth0 inet static\n    address 192.168.3.50/24\n    gateway 192.168.3.77\n"
        f"    netconf-location office-lan gateway-mac={OFFICE.router_mac}\n"
        "    netconf-vpn openvpn corp unless office-lan\n"
        f"iface wlan0 inet dhcp\n{RULES}",
    )
    lab.plug("office", "eth0")
    lab.laptop.ifup("eth0")
    assert read_status(lab)["interfaces"]["eth0"]["undecided"] is True
    assert read_status(lab)["tunnels"]["openvpn corp"]["wanted"] is True
    assert len(find_tunnels(lab)) == 1
