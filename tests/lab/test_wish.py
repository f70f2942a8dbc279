"""``ifup corp``: somebody wants the tunnel, and what it needs comes first."""

from __future__ import annotations

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CORP_HOST
from .stanzas import ROAMING, find_records, find_tunnels, read_status, wait_for_no_tunnel, wait_for_tunnel
from .waiting import wait_until

pytestmark = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])

WISH = """
iface corp inet manual
    netconf-vpn    openvpn corp
    netconf-uplink eth0 wlan0
"""
PLAIN = "iface eth0 inet dhcp\n    metric 100\niface wlan0 inet dhcp\n    metric 200\n"


def is_up(lab: Lab, iface: str) -> bool:
    """Whether ifupdown takes an interface for up."""
    return lab.laptop.run(["ifquery", "--state", iface], check=False).stdout.startswith(iface)


def assert_nothing_left(lab: Lab) -> None:
    """No record, no OpenVPN, no link raised."""
    wait_for_no_tunnel(lab)
    assert find_records(lab) == []
    assert not is_up(lab, "eth0") and not is_up(lab, "wlan0")


def test_with_a_default_route_only_the_tunnel_is_raised(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", PLAIN + WISH)
    lab.plug("cafe", "wlan0")
    lab.laptop.ifup("wlan0")
    lab.laptop.ifup("corp")
    assert lab.laptop.pings(CORP_HOST)  # at once: ifup has waited
    assert not is_up(lab, "eth0")
    lab.laptop.ifdown("corp")
    wait_for_no_tunnel(lab)
    assert is_up(lab, "wlan0")  # it was not raised for the wish


def test_the_first_uplink_that_leads_to_the_internet_is_raised(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", PLAIN + WISH)
    lab.plug("cafe", "wlan0")  # nothing is plugged into eth0: it is wired, and passed over
    lab.laptop.ifup("corp")
    assert lab.laptop.pings(CORP_HOST)
    assert is_up(lab, "wlan0") and not is_up(lab, "eth0")
    assert "corp: eth0 has no carrier" in lab.laptop.log()
    lab.laptop.ifdown("corp")
    assert_nothing_left(lab)


def test_no_uplink_leads_to_the_internet(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", PLAIN + WISH)
    result = lab.laptop.ifup("corp", check=False)
    assert result.returncode != 0
    reason = "no way to the internet: eth0 has no carrier; wlan0 has no carrier"
    assert f'corp: netconf-uplink "eth0 wlan0": {reason}' in result.stderr
    assert not is_up(lab, "corp")
    assert_nothing_left(lab)


def test_a_tunnel_that_does_not_connect_takes_down_what_was_raised(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", PLAIN + WISH)
    # A shorter patience than the 30 s of an admin: the same code waits.
    lab.laptop.run(["sed", "-i", "s/^CONNECT_TIMEOUT = .*/CONNECT_TIMEOUT = 2.0/", find_module(lab)])
    lab.vpn.stop()
    lab.plug("cafe", "eth0")
    result = lab.laptop.ifup("corp", check=False)
    assert result.returncode != 0
    assert 'corp: netconf-vpn "openvpn corp": not connected after 2 s: no answer from ' in result.stderr
    assert_nothing_left(lab)


def test_a_wish_ended_by_a_signal_takes_down_what_was_raised(lab: Lab) -> None:
    """An ifup that fails has no ifdown."""
    lab.laptop.write("/etc/network/interfaces", PLAIN + WISH)
    lab.vpn.stop()
    lab.plug("cafe", "eth0")
    ifup = lab.laptop.start(["ifup", "corp"])
    wait_until(lambda: find_tunnels(lab), "the tunnel to be asked for")
    (hook,) = (pid for pid, line in lab.laptop.processes().items() if "if-pre-up.d/netconf-hooks" in line)
    lab.laptop.run(["kill", "-TERM", str(hook)])
    assert ifup.wait().returncode != 0
    assert_nothing_left(lab)


def test_a_tunnel_without_configuration_fails_at_once(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", PLAIN + WISH.replace("openvpn corp", "openvpn nosuch"))
    lab.plug("cafe", "eth0")
    result = lab.laptop.ifup("corp", check=False)
    assert result.returncode != 0
    assert "/etc/openvpn/nosuch.conf" in result.stderr
    assert_nothing_left(lab)


def test_a_wish_overrides_vetoes(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING + WISH)
    lab.plug("office", "eth0")
    lab.laptop.ifup("eth0")
    assert find_tunnels(lab) == []
    lab.laptop.ifup("corp")
    wait_for_tunnel(lab)
    assert "ifup corp: somebody wants it" in str(read_status(lab)["tunnels"]["openvpn corp"]["because"])
    assert "overrides" in lab.laptop.run(["netconf-hooks", "explain", "corp"]).stdout
    lab.laptop.ifdown("corp")
    wait_for_no_tunnel(lab)  # the office's veto counts again


def test_loops_are_refused_by_name(lab: Lab) -> None:
    other = "iface other inet manual\n    netconf-vpn openvpn corp\n    netconf-uplink corp\n"
    lab.laptop.write("/etc/network/interfaces", PLAIN + other + WISH.replace("eth0 wlan0", "other"))
    result = lab.laptop.ifup("corp", check=False, timeout=40)
    assert result.returncode != 0
    assert 'netconf-uplink "corp": it is being configured' in lab.laptop.log()
    assert_nothing_left(lab)
    lab.laptop.write("/etc/network/interfaces", PLAIN + WISH.replace("eth0 wlan0", "corp"))
    assert "corp can't be its own uplink" in lab.laptop.ifup("corp", check=False).stderr


def test_an_uplink_that_is_being_configured_is_refused(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", "iface eth0 inet dhcp\n    pre-up ifup corp\n" + WISH)
    lab.plug("cafe", "eth0")
    lab.laptop.ifup("eth0", check=False, timeout=40)
    message = 'corp: netconf-uplink "eth0": it is being configured, so its ifup would wait for this one'
    assert message in lab.laptop.log()


def test_two_wishes_at_once_end_and_share_their_link(lab: Lab) -> None:
    lab.vpn.install_client(lab.laptop, "/etc/openvpn/two.conf")
    lab.laptop.write("/etc/network/interfaces", PLAIN + WISH + WISH.replace("corp", "two"))
    lab.plug("cafe", "eth0")
    running = [lab.laptop.start(["ifup", wish]) for wish in ("corp", "two")]
    assert [ifup.wait(60).returncode for ifup in running] == [0, 0]
    assert is_up(lab, "eth0")
    lab.laptop.ifdown("corp")
    wait_until(lambda: len(find_tunnels(lab)) == 1, "one of two tunnels to end")
    assert is_up(lab, "eth0")  # the other wish still needs it
    lab.laptop.ifdown("two")
    assert_nothing_left(lab)


def find_module(lab: Lab) -> str:
    """Return the path of the installed wish.py."""
    where = "import netconf_hooks.wish; print(netconf_hooks.wish.__file__)"
    return lab.laptop.run(["/usr/bin/python3", "-c", where]).stdout.strip()
