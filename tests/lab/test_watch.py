"""Between ifup and ifdown: what the watcher notices.

Where it can be undone, a change is first made with the watcher stopped, and goes wrong: so what puts it right
afterwards is the watcher.
"""

from __future__ import annotations

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import HOME, OFFICE
from .stanzas import LOCATIONS, ROAMING, find_tunnels, read_location, read_status, wait_for_no_tunnel, wait_for_tunnel
from .waiting import wait_until
from .watcher import count_switches, find_watchers, stop_watcher, wait_for_watcher

ONE_CLIENT = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])


def start_watcher(lab: Lab) -> None:
    """Start one again, as the service manager or the next hook does: it decides afresh first."""
    lab.laptop.start(["netconf-hooks", "watch"])
    wait_for_watcher(lab)


def wait_for_location(lab: Lab, location: str | None, iface: str = "eth0") -> None:
    """Wait until the interface is known to be at a location; None for unknown."""
    wait_until(lambda: read_location(lab, iface) == location, f"{iface} to be at {location}")


def test_a_cable_pulled_and_pushed_in_again(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("office", "wlan0")
    lab.plug("cafe", "eth0")
    lab.laptop.ifup("wlan0", "eth0")
    stop_watcher(lab)
    lab.unplug("wlan0")
    assert find_tunnels(lab) == []  # nobody noticed
    lab.plug("office", "wlan0")
    start_watcher(lab)
    # Until dhcpcd has its lease again the office is not recognised.
    wait_for_location(lab, "office-lan", "wlan0")
    wait_for_no_tunnel(lab)
    lab.unplug("wlan0")
    wait_for_tunnel(lab)
    lab.plug("office", "wlan0")
    wait_for_no_tunnel(lab)


SWITCHED = f"""
iface eth0 inet static
    address 192.168.9.2/24
    gateway 192.168.9.1
    netconf-location home-lan   gateway-mac={HOME.router_mac}
    netconf-location office-lan gateway-mac={OFFICE.router_mac}
    netconf-vpn openvpn corp unless home-lan office-lan
"""


def share_router(lab: Lab, *sites: str) -> None:
    """Let the routers of these sites have the same address, and the laptop a stanza for it."""
    for site in sites:
        lab.network.run(site, ["ip", "addr", "add", "192.168.9.1/24", "dev", "lan"])
    lab.laptop.write("/etc/network/interfaces", SWITCHED)


@ONE_CLIENT
def test_another_network_behind_the_same_switch(lab: Lab) -> None:
    """No carrier change; another MAC address behind the router's address."""
    laptop = lab.laptop
    share_router(lab, "home", "office")

    def move(site: str) -> None:
        lab.network.move(site, "eth0")
        # What any machine's traffic brings about in time: the kernel asks again who has the router's address.
        laptop.run(["ip", "neigh", "flush", "dev", "eth0"])
        wait_until(lambda: laptop.pings("192.168.9.1"), "the new router to answer")

    lab.plug("office")
    laptop.ifup("eth0")
    assert read_location(lab) == "office-lan"
    stop_watcher(lab)
    move("home")
    assert read_location(lab) == "office-lan"  # nobody noticed
    start_watcher(lab)
    wait_for_location(lab, "home-lan")
    move("office")
    wait_for_location(lab, "office-lan")


@ONE_CLIENT
def test_another_network_before_the_kernel_reports_the_lost_carrier(lab: Lab) -> None:
    """The kernel keeps its neighbours then: what it knows of the router's address is the last network's."""
    share_router(lab, "home", "cafe")
    lab.plug("home")
    lab.laptop.ifup("eth0")
    wait_for_watcher(lab)
    for site, location in (("cafe", None), ("home", "home-lan")) * 2:
        lab.network.replug(site, "eth0")
        # The kernel would ask the router only after half a minute (ip-sysctl, base_reachable_time_ms).
        wait_until(lambda: read_location(lab) == location, f"eth0 to be seen at {site}", 4.0)


@ONE_CLIENT
def test_the_default_route_moves(lab: Lab) -> None:
    laptop = lab.laptop
    stanza = f"iface eth0 inet dhcp\n{LOCATIONS}    netconf-vpn openvpn corp on unroutable\n"
    laptop.write("/etc/network/interfaces", stanza)
    lab.plug("cafe")
    laptop.ifup("eth0")
    stop_watcher(lab)
    route = laptop.run(["ip", "route", "show", "default"]).stdout.split()
    laptop.run(["ip", "route", "del", *route])
    assert read_status(lab)["tunnels"]["openvpn corp"]["wanted"] is False  # nobody noticed
    laptop.run(["ip", "route", "add", *route])
    start_watcher(lab)
    laptop.run(["ip", "route", "del", *route])
    wait_until(lambda: read_status(lab)["tunnels"]["openvpn corp"]["wanted"], "the lost route to be noticed")
    laptop.run(["ip", "route", "add", *route])
    wait_until(lambda: not read_status(lab)["tunnels"]["openvpn corp"]["wanted"], "the route to be noticed")


@ONE_CLIENT
def test_a_router_of_ipv6_appears(lab: Lab) -> None:
    laptop = lab.laptop
    # Its advertisements come from the router's own MAC address.
    laptop.write(
        "/etc/network/interfaces",
        f"iface eth0 inet6 auto\n    netconf-location home-lan gateway-mac={HOME.router_mac}\n"
        "    netconf-vpn openvpn corp on home-lan\n",
    )
    lab.plug("home")
    laptop.ifup("eth0", check=False)
    assert read_location(lab) is None
    stop_watcher(lab)
    start_watcher(lab)
    lab.network.announce_ipv6("home")
    wait_for_location(lab, "home-lan")


def test_dhcp_renews_into_another_domain(lab: Lab) -> None:
    """The kernel knows nothing of it: the DHCP client's hook does."""
    laptop = lab.laptop
    stanza = "iface eth0 inet dhcp\n    netconf-location moved dns-domain=moved.example\n"
    laptop.write("/etc/network/interfaces", stanza)
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_for_watcher(lab)
    files = ["-pf", "/run/dhclient.eth0.pid", "-lf", "/var/lib/dhcp/dhclient.eth0.leases"]
    commands = {"dhclient": ["dhclient", "-4", *files, "eth0"], "dhcpcd": ["dhcpcd", "--rebind", "eth0"]}
    renew = commands[laptop.dhcp_client]
    hook = {
        "dhclient": "/etc/dhcp/dhclient-exit-hooks.d/netconf-hooks",
        "dhcpcd": "/usr/libexec/dhcpcd-hooks/90-netconf-hooks",
    }[laptop.dhcp_client]
    text = laptop.read(hook)
    laptop.write(hook, "")
    lab.network.rename_domain("cafe", "moved.example")
    laptop.run(renew)
    wait_until(lambda: "moved.example" in laptop.read("/etc/resolv.conf"), "the new lease")
    assert read_location(lab) is None  # nobody noticed
    lab.network.rename_domain("cafe", "cafe.example")
    laptop.run(renew)
    wait_until(lambda: "cafe.example" in laptop.read("/etc/resolv.conf"), "the old domain")
    laptop.write(hook, text)
    lab.network.rename_domain("cafe", "moved.example")
    laptop.run(renew)
    wait_for_location(lab, "moved")


@ONE_CLIENT
@pytest.mark.parametrize("change", ["delete", "rename"])
def test_the_interface_is_deleted_or_renamed(lab: Lab, change: str) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("office", "eth0")
    lab.plug("cafe", "wlan0")
    lab.laptop.ifup("eth0", "wlan0")
    wait_for_watcher(lab)
    assert find_tunnels(lab) == []
    if change == "delete":
        lab.laptop.run(["ip", "link", "del", "eth0"])
    else:
        lab.laptop.run(["sh", "-c", "ip link set eth0 down && ip link set eth0 name lan9 && ip link set lan9 up"])
    wait_for_tunnel(lab)  # the office's veto went with it


@ONE_CLIENT
def test_suspend_and_resume(lab: Lab) -> None:
    """The hook as systemd-sleep runs it, with the cable in another network on waking up."""
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    wait_for_tunnel(lab)
    stop_watcher(lab)
    hook = "/usr/lib/systemd/system-sleep/netconf-hooks"
    lab.laptop.run([hook, "pre", "suspend"])
    lab.unplug("eth0")
    assert len(find_tunnels(lab)) == 1  # nobody noticed
    lab.laptop.run([hook, "post", "suspend"])
    wait_for_no_tunnel(lab)
    wait_for_watcher(lab)


@ONE_CLIENT
def test_wpa_supplicants_action_script(lab: Lab) -> None:
    """Run as wpa_cli(8) -a runs it; a real access point needs a kernel with mac80211."""
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("office", "wlan0")
    lab.laptop.ifup("wlan0")
    stop_watcher(lab)
    lab.laptop.run(["ip", "link", "set", "wlan0", "down"])
    assert read_location(lab, "wlan0") == "office-lan"
    lab.laptop.run(["/usr/lib/netconf-hooks/wpa-action", "wlan0", "DISCONNECTED"])
    assert read_location(lab, "wlan0") is None


@ONE_CLIENT
def test_what_is_undecided_is_asked_again(lab: Lab) -> None:
    """By timer: nothing of the kernel's tells that a router which was silent would answer now."""
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", SWITCHED)
    lab.plug("office")
    laptop.ifup("eth0")  # nobody has the router's address
    assert read_status(lab)["interfaces"]["eth0"]["undecided"] is True
    lab.network.run("office", ["ip", "addr", "add", "192.168.9.1/24", "dev", "lan"])
    wait_for_location(lab, "office-lan")


@ONE_CLIENT
def test_one_watcher_from_the_first_record_to_the_last(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", ROAMING + "\niface plain inet manual\n")
    lab.plug("home", "eth0")
    lab.plug("cafe", "wlan0")
    laptop.ifup("eth0")
    first = wait_for_watcher(lab)
    laptop.ifup("wlan0")
    laptop.run(["netconf-hooks", "refresh"])
    assert laptop.run(["netconf-hooks", "watch"], timeout=10).returncode == 0  # a second one leaves at once
    assert find_watchers(lab) == [first]
    laptop.ifdown("eth0")
    assert wait_for_watcher(lab) == first
    laptop.ifdown("wlan0")
    wait_until(lambda: not find_watchers(lab), "the watcher to end")
    assert not laptop.exists("/run/netconf-hooks/watch.fifo")


@ONE_CLIENT
def test_a_killed_watcher_is_started_by_the_next_hook_and_decides_afresh(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("office", "wlan0")
    lab.plug("cafe", "eth0")
    lab.laptop.ifup("wlan0")
    stop_watcher(lab)
    lab.unplug("wlan0")
    lab.laptop.ifup("eth0")
    wait_for_watcher(lab)
    wait_for_tunnel(lab)


@ONE_CLIENT
def test_it_sleeps_while_nothing_changes_and_a_burst_costs_one_look(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", ROAMING)
    lab.plug("office")
    laptop.ifup("eth0")
    pid = wait_for_watcher(lab)

    # A ping that nobody answers takes its second: time for a process that does not sleep to show it.
    before = count_switches(lab, pid)
    assert not laptop.pings("10.99.0.1")
    assert count_switches(lab, pid) == before
    routes = "".join(f"route add 10.{n // 256}.{n % 256}.0/24 dev eth0\n" for n in range(1000))
    # Of these the kernel sends news; they are not used, since the other default route has a lower metric.
    routes += "".join(f"route add default via {OFFICE.router} dev eth0 metric {n}\n" for n in range(1000, 2000))
    laptop.run(["ip", "-batch", "-"], text=routes)
    wait_until(lambda: count_switches(lab, pid) > before, "the watcher to wake up")
    wait_for_watcher(lab)
    assert "deciding again" not in laptop.log()  # it looked, and the networks are the same
    assert count_switches(lab, pid) - before < 100
    (rss,) = (line for line in laptop.read(f"/proc/{pid}/status").splitlines() if line.startswith("VmRSS"))
    assert int(rss.split()[1]) <= 15 * 1024


@ONE_CLIENT
def test_what_the_watcher_cannot_do_is_said(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    result = lab.laptop.run(["setpriv", "--reuid=65534", "--clear-groups", "netconf-hooks", "watch"], check=False)
    assert result.returncode == 1
    assert result.stderr == "netconf-hooks: watch: only root may do this\n"
