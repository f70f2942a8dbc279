"""IPv6 networks as equals: known by nothing but what their router advertises, with ifupdown's own ``inet6 auto``."""

from __future__ import annotations

import json

import pytest

from .advertising import advertise, wait_for_router
from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, HOME, OFFICE, Site
from .stanzas import find_tunnels, read_location, read_status, wait_for_tunnel
from .waiting import wait_until
from .watcher import stop_watcher

RESOLVER = "2001:db8:53::53"

# What the router of home alone can be known by.
KNOWN_BY = {
    "its MAC address": f"gateway-mac={HOME.router_mac}",
    "the domain that it advertises": f"dns-domain={HOME.domain}",
    "the resolver that it advertises": f"dns-server={RESOLVER}",
    "all of it": f"gateway=fe80::1 dns-domain=*.example dns-server=2001:db8:53::/48 address={HOME.prefix6}/64",
}


@pytest.fixture
def dhcp_client() -> str:
    """None of this depends on the DHCP client."""
    return DHCP_CLIENTS[0]


def fall_silent(lab: Lab, site: Site) -> None:
    """Let a router advertise itself no more, without a word: its last advertisement still holds."""
    lab.network.run(site.name, ["kill", "-KILL", lab.network.read(f"/run/ra-{site.name}.pid").strip()])


def write_stanza(lab: Lab, location: str, method: str = "inet6 auto") -> None:
    """Write a stanza with a tunnel that runs everywhere but there."""
    lab.laptop.write(
        "/etc/network/interfaces",
        f"iface eth0 {method}\n    netconf-location home-lan {location}\n"
        "    netconf-vpn openvpn corp unless home-lan\n",
    )


def wait_for_location(lab: Lab, location: str | None) -> None:
    """Wait until eth0 is known to be at a location; None for unknown."""
    wait_until(lambda: read_location(lab) == location, f"eth0 to be at {location}")


@pytest.mark.parametrize("location", KNOWN_BY.values(), ids=KNOWN_BY)
def test_a_router_that_appears_after_ifup_tells_the_place(lab: Lab, location: str) -> None:
    write_stanza(lab, location)
    lab.plug("home")
    lab.laptop.ifup("eth0")
    assert read_location(lab) is None
    assert read_status(lab)["tunnels"]["openvpn corp"]["wanted"] is True
    advertise(lab, HOME, HOME.domain, RESOLVER)
    wait_for_location(lab, "home-lan")
    assert read_status(lab)["tunnels"]["openvpn corp"]["wanted"] is False
    wait_until(lambda: not find_tunnels(lab), "OpenVPN to end")


@pytest.mark.parametrize("location", KNOWN_BY.values(), ids=KNOWN_BY)
def test_another_router_is_another_place(lab: Lab, location: str) -> None:
    write_stanza(lab, location)
    advertise(lab, CAFE, CAFE.domain.replace("example", "test"), "2001:db8:54::53")
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    wait_for_router(lab)
    wait_until(lambda: read_status(lab)["interfaces"]["eth0"]["routable"], "the watcher to look again")
    assert read_location(lab) is None
    assert read_status(lab)["interfaces"]["eth0"]["undecided"] is False


def test_what_is_seen_of_an_ipv6_network_can_be_pasted(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", "iface eth0 inet6 auto\n")
    advertise(lab, HOME, f"{HOME.domain},corp.{HOME.domain}", RESOLVER)
    lab.plug("home")
    lab.laptop.ifup("eth0")
    wait_for_router(lab)
    seen = json.loads(lab.laptop.run(["netconf-hooks", "probe", "--json", "eth0"]).stdout)["seen"]
    assert seen["dns-domain"] == {"values": [HOME.domain, f"corp.{HOME.domain}"], "problem": None, "pending": False}
    assert seen["dns-server"]["values"] == [RESOLVER]
    line = lab.laptop.run(["netconf-hooks", "probe", "eth0"]).stdout.splitlines()[-1]
    assert line == f"netconf-location here gateway-mac={HOME.router_mac} dns-domain={HOME.domain}"
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "netconf-hooks", "probe", "eth0"]
    shown = lab.laptop.run(nobody).stdout
    assert "fe80::1 can't be asked what it advertises: Operation not permitted" in shown
    assert shown.splitlines()[-1] == f"netconf-location here gateway-mac={HOME.router_mac}"


def test_a_router_that_advertises_no_domain_is_an_answer(lab: Lab) -> None:
    write_stanza(lab, f"dns-domain={HOME.domain}")
    advertise(lab, HOME)
    lab.plug("home")
    lab.laptop.ifup("eth0")
    wait_for_router(lab)
    wait_until(lambda: read_status(lab)["interfaces"]["eth0"]["routable"], "the watcher to look again")
    assert (read_location(lab), read_status(lab)["interfaces"]["eth0"]["undecided"]) == (None, False)
    assert "did not answer" not in lab.laptop.run(["netconf-hooks", "explain", "eth0"]).stdout


def test_a_router_that_does_not_answer_leaves_the_place_undecided(lab: Lab) -> None:
    write_stanza(lab, f"dns-domain={HOME.domain}")
    advertise(lab, HOME, HOME.domain)
    lab.plug("home")
    lab.laptop.ifup("eth0")
    wait_for_location(lab, "home-lan")
    fall_silent(lab, HOME)
    lab.laptop.run(["netconf-hooks", "refresh", "eth0"])
    interface = read_status(lab)["interfaces"]["eth0"]
    assert (interface["location"], interface["undecided"]) == (None, True)
    assert read_status(lab)["tunnels"]["openvpn corp"]["wanted"] is True  # it vetoes nothing
    explained = lab.laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
    assert "fe80::1 did not answer a router solicitation" in explained
    advertise(lab, HOME, HOME.domain)
    lab.laptop.run(["netconf-hooks", "refresh", "eth0"])
    assert read_location(lab) == "home-lan"


def test_dual_stack(lab: Lab) -> None:
    """The routers of both families, and a domain that only the IPv6 one tells; in the café it is the same stanza."""
    lab.laptop.write(
        "/etc/network/interfaces",
        "iface eth0 inet dhcp\n"
        f"    netconf-location home-lan gateway={HOME.router} gateway=fe80::1 address={HOME.prefix6}/64\n"
        f"    netconf-location office-lan dns-domain=six.{OFFICE.domain}\n"
        "    netconf-vpn openvpn corp unless home-lan office-lan\n"
        "iface eth0 inet6 auto\n",
    )
    advertise(lab, HOME, HOME.domain)
    lab.plug("home")
    lab.laptop.ifup("eth0")
    wait_for_location(lab, "home-lan")
    lab.laptop.ifdown("eth0")
    # A DHCP server that names no domain (an empty option is none that is sent, dnsmasq(8)), beside such a router.
    lab.network.change_dhcp("office", "--dhcp-option=option:domain-name")
    advertise(lab, OFFICE, f"six.{OFFICE.domain}")
    lab.plug("office")
    lab.laptop.ifup("eth0")
    wait_for_location(lab, "office-lan")
    lab.laptop.ifdown("eth0")
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    assert read_location(lab) is None
    wait_for_tunnel(lab)


def test_where_ipv4_tells_a_domain_no_router_is_asked(lab: Lab) -> None:
    """The solicitations that leave are counted; the kernel sends the last of its own when its address is settled."""
    write_stanza(lab, f"dns-domain={HOME.domain}", "inet dhcp")
    advertise(lab, HOME, "other.example")
    lab.plug("home")

    def count_after_refresh() -> int:
        """Bring the link up, and return how many a look then adds, with nobody else looking."""
        lab.laptop.ifup("eth0")
        wait_for_router(lab)
        tentative = ["ip", "-6", "-o", "address", "show", "dev", "eth0", "tentative"]
        wait_until(lambda: count() and not lab.laptop.run(tentative).stdout, "the kernel to be done")
        stop_watcher(lab)
        before = count()
        lab.laptop.run(["netconf-hooks", "refresh", "eth0"])
        stop_watcher(lab)  # refresh has started it again
        return count() - before

    def count() -> int:
        counters = lab.laptop.read("/proc/net/dev_snmp6/eth0").split()
        return int(counters[counters.index("Icmp6OutRouterSolicits") + 1])

    assert count_after_refresh() == 0
    assert read_location(lab) == "home-lan"
    lab.laptop.ifdown("eth0")
    lab.network.change_dhcp("home", "--dhcp-option=option:domain-name")
    # dhcpcd tells what the router has advertised.
    assert (count_after_refresh() > 0) == (lab.laptop.dhcp_client == "dhclient")


@pytest.mark.parametrize("dhcp_client", ["dhcpcd"])
@pytest.mark.parametrize("announced", [False, True], ids=["IPv4 only", "both"])
def test_dhcpcd_goes_on_answering(lab: Lab, announced: bool, dhcp_client: str) -> None:
    """Its hook is switched off, so each look asks it; Debian 12's falls silent if it has nothing to tell."""
    laptop = lab.laptop
    conf = laptop.read("/etc/dhcpcd.conf")
    laptop.write("/etc/dhcpcd.conf", f"{conf}\nnohook resolv.conf\n")
    if announced:
        lab.network.announce_ipv6("home")
    write_stanza(lab, f"dns-domain={HOME.domain}", "inet dhcp")
    lab.plug("home")
    laptop.ifup("eth0")
    wait_for_location(lab, "home-lan")
    for _ in range(3):
        laptop.run(["netconf-hooks", "refresh"])
        assert read_location(lab) == "home-lan"
    dump = laptop.run(["timeout", "5", "dhcpcd", "-4", "-U", "eth0"]).stdout
    assert f"dhcp_server_identifier={HOME.router}" in dump


@pytest.mark.parametrize("dhcp_client", ["dhcpcd"])
def test_what_routers_tell_dhcpcd_counts(lab: Lab, dhcp_client: str) -> None:
    """RDNSS and DNSSL, where no DHCP server names a domain, and dhcpcd's hook is switched off."""
    laptop = lab.laptop
    conf = laptop.read("/etc/dhcpcd.conf")
    laptop.write("/etc/dhcpcd.conf", f"{conf}\nnohook resolv.conf\n")
    lab.network.change_dhcp("home", "--dhcp-option=option:domain-name", "--dhcp-option=option:dns-server")
    advertise(lab, HOME, HOME.domain, RESOLVER)
    write_stanza(lab, f"dns-domain={HOME.domain} dns-server={RESOLVER}", "inet dhcp")
    lab.plug("home")
    laptop.ifup("eth0")
    wait_for_location(lab, "home-lan")


# Before the product's own command: notes how it is called.
NOTING = "#!/bin/sh\necho called $* >>/run/noted\nexec /usr/sbin/netconf-hooks.moved $*\n"


@pytest.mark.parametrize("dhcp_client", ["dhcpcd"])
def test_an_advertisement_that_a_look_has_asked_for_is_no_news(lab: Lab, dhcp_client: str) -> None:
    """dhcpcd runs its hooks for each one: a look that followed would ask the routers again, and so on for ever."""
    laptop = lab.laptop
    for place in ("lib/dhcpcd", "libexec"):
        laptop.write(f"/usr/{place}/dhcpcd-hooks/99-note", "echo $reason >>/run/noted\n")
    laptop.run(["mv", "/usr/sbin/netconf-hooks", "/usr/sbin/netconf-hooks.moved"])
    laptop.write("/usr/sbin/netconf-hooks", NOTING, 0o755)

    def count(noted: str) -> int:
        return laptop.read("/run/noted").splitlines().count(noted)

    laptop.write("/etc/network/interfaces", "iface eth0 inet dhcp\n    netconf-guard yes\n")
    advertise(lab, HOME, HOME.domain)
    lab.plug("home")
    laptop.ifup("eth0")
    wait_until(lambda: count("called refresh eth0"), "the first advertisement")
    before = count("called refresh eth0")
    for _ in range(5):
        heard = count("ROUTERADVERT")
        laptop.run(["netconf-hooks.moved", "refresh", "eth0"])
        wait_until(lambda: count("ROUTERADVERT") > heard, "the answer to the look's question")
    after = count("called refresh eth0")
    # The lease may come after the first advertisement.
    assert after <= before + count("BOUND")
    fall_silent(lab, HOME)
    advertise(lab, HOME, "moved.example")
    wait_until(lambda: count("called refresh eth0") > after, "another advertisement to be news")


# Before the product's own command: notes when it is called, and ends when it is allowed to.
WAITING = "#!/bin/sh\necho begun >>/run/noted\nread -r line </run/gate\necho ended >>/run/noted\n"
FLOOD = """
for number in $(seq 20); do
    reason=ROUTERADVERT interface=eth0 state_dir=/run/flood nd1_from=fe80::$number sh "$1"
done
"""


@pytest.mark.parametrize("dhcp_client", ["dhcpcd"])
def test_of_a_flood_of_advertisements_one_looks_and_one_waits(lab: Lab, dhcp_client: str) -> None:
    """Anybody on the link can send them, each different from the one before."""
    laptop = lab.laptop
    laptop.run(["mv", "/usr/sbin/netconf-hooks", "/usr/sbin/netconf-hooks.moved"])
    laptop.write("/usr/sbin/netconf-hooks", WAITING, 0o755)
    laptop.run(["mkfifo", "/run/gate"])
    laptop.write("/run/netconf-hooks/interfaces/eth0", "")
    hooks = [f"/usr/{place}/dhcpcd-hooks/90-netconf-hooks" for place in ("lib/dhcpcd", "libexec")]
    laptop.run(["sh", "-ec", FLOOD, "sh", next(hook for hook in hooks if laptop.exists(hook))])

    def list_calls() -> list[str]:
        return [line for line in laptop.processes().values() if line.startswith("sh -c") and line.endswith(" eth0")]

    for expected in (2, 1):
        wait_until(lambda: laptop.read("/run/noted").endswith("begun\n"), "the next to look")
        wait_until(lambda: len(list_calls()) == expected, f"{expected} of 20 calls")
        laptop.run(["sh", "-c", "echo go >/run/gate"])
        wait_until(lambda: laptop.read("/run/noted").count("ended") == 3 - expected, "its end")
    wait_until(lambda: not list_calls(), "all calls to end")
    assert laptop.read("/run/noted") == 2 * "begun\nended\n"
