"""The main job: plain ifup and ifdown, and the right tunnel runs.  Real ifupdown, DHCP clients and OpenVPN."""

from __future__ import annotations

import json

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, CORP_HOST, HOME, OFFICE
from .stanzas import (
    ROAMING, find_records, find_tunnels, read_location, read_status, wait_for_no_tunnel, wait_for_tunnel
)  # fmt: skip

from .waiting import wait_until


def test_home_office_cafe_and_back(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", ROAMING)
    for site, location, tunnel in (
        (HOME, "home-lan", False),
        (OFFICE, "office-lan", False),
        (CAFE, None, True),
        (OFFICE, "office-lan", False),
    ):
        lab.plug(site.name)
        laptop.ifup("eth0")
        status = read_status(lab)
        assert status["interfaces"]["eth0"]["location"] == location
        assert status["tunnels"]["openvpn corp"]["wanted"] is tunnel
        if tunnel:
            wait_for_tunnel(lab)
            assert read_status(lab)["tunnels"]["openvpn corp"]["up"] is True
        else:
            assert find_tunnels(lab) == []
            assert not laptop.pings(CORP_HOST)
        assert laptop.run(["netconf-hooks", "location", "eth0"]).stdout == f"{location or 'unknown'}\n"
        laptop.ifdown("eth0")
        wait_for_no_tunnel(lab)
        wait_until(lambda: laptop.processes() == {}, "the DHCP client and the watcher to end")
        assert find_records(lab) == []


def test_a_cable_moved_without_ifdown(lab: Lab) -> None:
    """What people do: pull the cable, push it in elsewhere, ifup --force."""
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    wait_for_tunnel(lab)
    lab.plug("office")
    lab.laptop.ifup("--force", "eth0")
    # dhcpcd runs already, and looks for the new network in its own time, after the hooks.
    wait_until(lambda: _refresh(lab) == "office-lan", "the office to be recognised")
    wait_for_no_tunnel(lab)


def _refresh(lab: Lab) -> object:
    lab.laptop.run(["netconf-hooks", "refresh"])
    return read_location(lab)


def test_two_uplinks_share_a_tunnel_and_one_vetoes_it(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("cafe", "wlan0")
    laptop.ifup("wlan0")
    first = wait_for_tunnel(lab)
    lab.plug("cafe", "eth0")
    laptop.ifup("eth0")
    assert find_tunnels(lab) == [first]  # shared, not restarted
    laptop.ifdown("wlan0")
    assert wait_for_tunnel(lab) == first  # eth0 still wants it
    lab.plug("office", "wlan0")
    laptop.ifup("wlan0")
    wait_for_no_tunnel(lab)  # the office vetoes it
    assert "office-lan" in str(read_status(lab)["tunnels"]["openvpn corp"]["because"])
    laptop.ifdown("wlan0")
    wait_for_tunnel(lab)
    laptop.ifdown("eth0")
    wait_for_no_tunnel(lab)
    assert find_records(lab) == []


def test_a_cable_pulled_out_of_the_office_vetoes_nothing(lab: Lab) -> None:
    """Its default route stays with dhclient, and the metric keeps it behind the other's."""
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("office", "wlan0")
    lab.laptop.ifup("wlan0")
    lab.unplug("wlan0")
    lab.plug("cafe", "eth0")
    lab.laptop.ifup("eth0")
    wait_for_tunnel(lab)
    assert read_status(lab)["interfaces"]["wlan0"]["counts"] is False


def test_a_tunnel_of_the_admin_is_brought_to_the_verdict_and_then_left_alone(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", ROAMING)
    by_hand = ["openvpn", "--config", "/etc/openvpn/corp.conf", "--daemon", "--writepid", "/run/openvpn/corp.pid"]
    lab.plug("cafe")
    laptop.run(by_hand)
    (pid,) = find_tunnels(lab)
    laptop.ifup("eth0")
    assert wait_for_tunnel(lab) == pid  # it is up already: not started again
    laptop.run(["kill", str(pid)])
    wait_for_no_tunnel(lab)
    laptop.run(["netconf-hooks", "refresh"])
    assert find_tunnels(lab) == []  # the verdict has not changed: what the admin did stands
    laptop.ifdown("eth0")
    lab.plug("office")
    laptop.run(by_hand)
    laptop.ifup("eth0")
    wait_for_no_tunnel(lab)  # the verdict is down, whoever started it
    laptop.run(by_hand)
    laptop.run(["netconf-hooks", "refresh"])
    assert len(find_tunnels(lab)) == 1


def test_what_probe_prints_matches_where_it_was_printed(lab: Lab) -> None:
    """Pasted into the stanza as it is."""
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", "iface eth0 inet dhcp\n")
    lab.plug("office")
    laptop.ifup("eth0")
    line = laptop.run(["netconf-hooks", "probe", "eth0"]).stdout.splitlines()[-1]
    assert line == f"netconf-location here gateway-mac={OFFICE.router_mac} dns-domain={OFFICE.domain}"
    laptop.ifdown("eth0")
    laptop.write("/etc/network/interfaces", f"iface eth0 inet dhcp\n    {line}\n")
    laptop.ifup("eth0")
    assert read_location(lab) == "here"
    seen = json.loads(laptop.run(["netconf-hooks", "probe", "--json", "eth0"]).stdout)["seen"]
    assert seen["gateway"]["values"] == [OFFICE.router]
    missing = laptop.run(["netconf-hooks", "probe", "nosuch0"], check=False)
    assert (missing.returncode, missing.stderr) == (1, "netconf-hooks: nosuch0: no such interface\n")


def test_the_command_says_what_was_seen(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("office")
    laptop.ifup("eth0")
    explained = laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
    assert "eth0 is at office-lan" in explained
    assert f"gateway-mac={HOME.router_mac}: does not hold: seen {OFFICE.router_mac}" in explained
    assert f"dns-domain={OFFICE.domain}: holds: seen {OFFICE.domain}" in explained
    assert 'down, as far as eth0 goes: eth0 is at office-lan: "unless office-lan"' in explained
    assert laptop.run(["netconf-hooks", "check"]).returncode == 0
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "netconf-hooks", "status"]
    assert laptop.run(as_nobody).stdout.split()[:2] == ["eth0", "office-lan"]


@pytest.mark.skipif("dhclient" not in DHCP_CLIENTS, reason="dhcpcd sets the MTU of routes alone: dhcpcd.conf(5)")
@pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
def test_a_network_whose_dhcp_server_sets_the_mtu(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", "iface eth0 inet dhcp\n    netconf-location narrow mtu=1400\n")
    lab.network.change_dhcp("office", "--dhcp-option-force=option:mtu,1400")
    for site, location in (("office", "narrow"), ("cafe", None)):
        lab.plug(site)
        laptop.ifup("eth0")
        assert read_status(lab)["interfaces"]["eth0"]["location"] == location
        laptop.ifdown("eth0")
        laptop.run(["ip", "link", "set", "eth0", "mtu", "1500"])  # a DHCP client leaves it as it was set
