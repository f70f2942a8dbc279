"""Tunnels of each kind through the guard, and their endpoints that are given by name."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import ipsec, wireguard
from .archive import fetch_packages, unpack
from .attacks.capture import Allowed, Capture
from .guarded import (
    CORP, HINTS, UNLESS, configure, find_expiry, judge, list_ruleset, make_allowed, read_guard, reaches_internet,
    send_everything
)  # fmt: skip
from .lab import Lab
from .laptop import DHCP_CLIENTS, Image
from .network import CAFE, CORP_HOST, HOME, INTERNET_HOST, VPN_GATEWAY
from .stanzas import find_records, read_status, wait_for_no_tunnel, wait_for_tunnel
from .advertising import advertise
from .vpn import DEAD_AFTER, NAME, PORT
from .waiting import wait_until

ONE_CLIENT = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
ENDPOINT = "vpn.example.net"
OTHER = "203.0.113.77"  # nobody's
TWO_ADDRESSES = f"--address=/{ENDPOINT}/{OTHER}"
CONFIG = f"/etc/openvpn/{NAME}.conf"


def use_name(lab: Lab, *more: str) -> None:
    """Give the tunnel's endpoint by name; more: lines of its configuration."""
    text = lab.vpn.client_config().replace(f"remote {VPN_GATEWAY} ", f"remote {ENDPOINT} ")
    assert ENDPOINT in text
    lab.laptop.write(CONFIG, text + "".join(f"{line}\n" for line in more), 0o600)


def test_a_name_is_looked_up_for_the_daemon_and_pinned(lab: Lab) -> None:
    laptop = lab.laptop
    hosts = laptop.read("/etc/hosts")
    lab.network.change_dhcp("cafe", TWO_ADDRESSES)
    use_name(lab, "connect-timeout 1", "server-poll-timeout 1")
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    with Capture(lab.network.wire_namespace) as capture:
        laptop.ifup("eth0")
        pinned = [line.split()[:2] for line in laptop.read("/etc/hosts").splitlines() if "guard of eth0" in line]
        assert sorted(line for line in pinned if line[1] == ENDPOINT) == sorted(
            [address, ENDPOINT] for address in (VPN_GATEWAY, OTHER)
        )
        assert laptop.read("/etc/hosts").startswith(hosts)
        # Whoever asks now is told, without a question on the wire.
        assert laptop.run(["getent", "ahostsv4", ENDPOINT]).stdout.split()[0] in (VPN_GATEWAY, OTHER)
        wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel", 20.0)
        send_everything(laptop, CAFE)
        allowed = make_allowed(CAFE, (OTHER, 17, PORT))
        judge(capture, allowed._replace(resolvers=frozenset({CAFE.router}), names=frozenset({ENDPOINT})))
    laptop.ifdown("eth0")
    assert laptop.read("/etc/hosts") == hosts
    wait_for_no_tunnel(lab)
    assert find_records(lab) == [] and list_ruleset(laptop) == ""


@ONE_CLIENT
def test_at_home_nothing_is_pinned_any_more(lab: Lab) -> None:
    """The tunnel that needed it is gone."""
    laptop = lab.laptop
    hosts = laptop.read("/etc/hosts")
    use_name(lab)
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_for_tunnel(lab)
    assert laptop.read("/etc/hosts") != hosts
    laptop.run(["netconf-hooks", "release", "eth0"])
    assert laptop.read("/etc/hosts") == hosts, "released, the daemon may ask for itself"
    laptop.ifdown("eth0")
    lab.plug("home")
    laptop.ifup("eth0")
    assert laptop.read("/etc/hosts") == hosts
    assert read_guard(lab) == "open"


@ONE_CLIENT
def test_where_hosts_cannot_be_written_the_daemon_may_ask_for_a_short_time(lab: Lab) -> None:
    laptop = lab.laptop
    hosts = laptop.read("/etc/hosts")
    laptop.run(["mount", "--bind", "/etc/hosts", "/etc/hosts"])
    laptop.run(["mount", "-o", "remount,bind,ro", "/etc/hosts"])
    use_name(lab)
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    with Capture(lab.network.wire_namespace) as capture:
        ifup = laptop.ifup("eth0")
        assert "DNS is allowed for the daemons for 30 s" in ifup.stderr
        assert 0 < find_expiry(laptop, "names") <= 30
        wait_for_tunnel(lab)
        judge(
            capture,
            make_allowed(CAFE)._replace(resolvers=frozenset({CAFE.router}), names=frozenset({ENDPOINT})),
        )
    assert laptop.read("/etc/hosts") == hosts
    assert read_guard(lab) == "closed" and not reaches_internet(laptop)


@ONE_CLIENT
def test_a_name_that_nobody_knows_is_said(lab: Lab) -> None:
    laptop = lab.laptop
    text = lab.vpn.client_config().replace(f"remote {VPN_GATEWAY} ", "remote vpn.unknown.example ")
    laptop.write(CONFIG, text, 0o600)
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    assert "vpn.unknown.example" in str(read_status(lab)["guards"]["eth0"]["problem"])
    assert "vpn.unknown.example" in laptop.run(["netconf-hooks", "status"]).stdout
    assert read_guard(lab) == "closed" and not laptop.pings(CAFE.router)


def use_names(lab: Lab, *names: str) -> None:
    """Give the tunnel's server by several names."""
    lines = "".join(f"remote {name} {PORT}\n" for name in names)
    text = lab.vpn.client_config().replace(f"remote {VPN_GATEWAY} {PORT}\n", lines)
    assert lines in text
    lab.laptop.write(CONFIG, text, 0o600)


@ONE_CLIENT
def test_names_that_nobody_answers_for_do_not_delay_the_one_that_is_known(lab: Lab) -> None:
    """dnsmasq forwards them to a name server that is not there, so that the laptop gets no answer at all."""
    laptop = lab.laptop
    lab.network.change_dhcp("cafe", f"--server=/dead.example/{OTHER}")
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    took = {}
    for names in ((ENDPOINT,), ("one.dead.example", "two.dead.example", ENDPOINT)):
        use_names(lab, *names)
        began = time.monotonic()
        laptop.ifup("eth0")
        took[len(names)] = time.monotonic() - began
        wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel", 20.0)
        assert "one.dead.example" not in laptop.read("/etc/hosts")
        problem = str(read_status(lab)["guards"]["eth0"]["problem"])
        assert ("two.dead.example" in problem) == (len(names) > 1)
        laptop.ifdown("eth0")
        wait_for_no_tunnel(lab)
    # With a time limit for each name it was 5 s more, or 10.
    assert took[3] < took[1] + 2.5, took


@ONE_CLIENT
def test_without_a_name_server_the_hosts_file_is_enough(lab: Lab) -> None:
    """A static stanza without dns-nameservers, as guides for kill switches recommend."""
    laptop = lab.laptop
    use_name(lab)
    laptop.write("/etc/hosts", f"{laptop.read('/etc/hosts')}{VPN_GATEWAY} {ENDPOINT}\n")
    hosts = laptop.read("/etc/hosts")
    address = f"    address 192.168.{CAFE.number}.77/24\n    gateway {CAFE.router}\n"
    configure(lab, CORP, UNLESS, HINTS, head=f"iface eth0 inet static\n{address}".rstrip())
    lab.plug("cafe")
    with Capture(lab.network.wire_namespace) as capture:
        laptop.ifup("eth0")
        wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel", 20.0)
        judge(capture, make_allowed(CAFE))
    assert laptop.read("/etc/hosts") == hosts
    assert read_status(lab)["guards"]["eth0"]["problem"] in (None, "")


@ONE_CLIENT
def test_a_time_server_is_allowed_by_its_name(lab: Lab, tmp_path: Path) -> None:
    """Before the tunnel is up: its server's certificate may not be valid yet.  chronyd's -x and -Q set no clock."""
    laptop = lab.laptop
    name = "ntp.example.org"
    lab.vpn.stop()
    lab.network.change_dhcp("cafe", f"--address=/{name}/{INTERNET_HOST}")
    environment = unpack(["chrony"], tmp_path)
    chronyd, alone = f"{tmp_path}/usr/sbin/chronyd", ["cmdport 0", "pidfile /run/chronyd.pid"]
    serve = [chronyd, "-x", "-u", "root", "local stratum 1", "allow", *alone]
    lab.network.run("internet", serve, env=environment)
    shutil.copy(chronyd, laptop.namespaces.root / "run/chronyd")
    configure(lab, CORP, UNLESS, HINTS, f"guard-allow {name}:udp/123")
    lab.plug("cafe")
    with Capture(lab.network.wire_namespace) as capture:
        laptop.ifup("eth0")
        assert laptop.run(["getent", "ahostsv4", name]).stdout.split()[0] == INTERNET_HOST
        asked = laptop.run(["/run/chronyd", "-Q", "-t", "30", "-u", "root", f"server {name} iburst", *alone])
        assert "System clock wrong by" in asked.stderr + asked.stdout
        send_everything(laptop, CAFE)
        allowed = make_allowed(CAFE, (INTERNET_HOST, 17, 123))
        judge(capture, allowed._replace(resolvers=frozenset({CAFE.router}), names=frozenset({name})))
    assert read_guard(lab) == "closed" and not reaches_internet(laptop)


# Not 64:ff9b::/96, below which tayga translates no address for documentation (RFC 6052 3.1).
NAT64_PREFIX = "2001:db8:64::/96"
NAT64 = "2001:db8:64::cb00:7101"  # VPN_GATEWAY
TAYGA = """\
tun-device nat64
ipv4-addr 192.168.255.1
prefix {prefix}
dynamic-pool 192.168.255.0/24
data-dir {directory}
"""


@pytest.fixture
def ipv6_only(lab: Lab, tmp_path: Path) -> Lab:
    """The café has IPv6 only: names by DNS64 (dnsmasq says what one would), IPv4 hosts by a real NAT64."""
    environment = unpack(["tayga"], tmp_path)
    (tmp_path / "tayga.conf").write_text(TAYGA.format(directory=tmp_path, prefix=NAT64_PREFIX))
    tayga = ["tayga", "--config", str(tmp_path / "tayga.conf")]
    lab.network.run("cafe", [*tayga, "--mktun"], env=environment)
    commands = "link set nat64 up\naddr add 192.168.255.254/32 dev nat64\nroute add 192.168.255.0/24 dev nat64\n"
    lab.network.run("cafe", ["ip", "-batch", "-"], text=commands)
    lab.network.run("cafe", ["ip", "route", "add", NAT64_PREFIX, "dev", "nat64"])
    lab.network.run("cafe", tayga, env=environment)
    lab.network.change_dhcp(
        "cafe", f"--address=/{ENDPOINT}/{NAT64}", "--address=/ipv4only.arpa/2001:db8:64::c000:aa"
    )  # fmt: skip
    advertise(lab, CAFE, resolver=f"{CAFE.prefix6}1")
    return lab


@ONE_CLIENT
def test_a_server_by_name_where_there_is_ipv6_only(ipv6_only: Lab) -> None:
    lab, laptop = ipv6_only, ipv6_only.laptop
    text = lab.vpn.client_config().replace(f"remote {VPN_GATEWAY} ", f"remote {ENDPOINT} ")
    laptop.write(CONFIG, text.replace("proto udp4", "proto udp"), 0o600)
    configure(lab, CORP, UNLESS, HINTS, head="iface eth0 inet6 auto")
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel", 30.0)
    assert f"{NAT64} {ENDPOINT}" in laptop.read("/etc/hosts")
    assert read_guard(lab) == "closed"


@ONE_CLIENT
def test_an_ipv4_address_where_there_is_ipv6_only_is_told(ipv6_only: Lab) -> None:
    lab, laptop = ipv6_only, ipv6_only.laptop
    configure(lab, CORP, UNLESS, HINTS, head="iface eth0 inet6 auto")
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_until(lambda: NAT64 in str(read_status(lab)["guards"]["eth0"]["problem"]), "the reason", 30.0)
    problem = str(read_status(lab)["guards"]["eth0"]["problem"])
    assert f"{VPN_GATEWAY} is an IPv4 address, but eth0 has IPv6 only" in problem
    # What it recommends works.
    laptop.ifdown("eth0")
    text = lab.vpn.client_config().replace(f"remote {VPN_GATEWAY} ", f"remote {NAT64} ")
    laptop.write(CONFIG, text.replace("proto udp4", "proto udp"), 0o600)
    laptop.ifup("eth0")
    wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel", 30.0)


@ONE_CLIENT
def test_openvpn_as_nobody_reconnects(lab: Lab) -> None:
    laptop = lab.laptop
    lines = "user nobody\ngroup nogroup\npersist-key\npersist-tun\n"
    laptop.write(CONFIG, lab.vpn.client_config() + lines, 0o600)
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    pid = wait_for_tunnel(lab)
    assert "nobody" in laptop.run(["ps", "-o", "user=", "-p", str(pid)]).stdout
    lab.vpn.stop()
    wait_until(lambda: "Inactivity timeout" in laptop.log(), "OpenVPN to notice", 3 * DEAD_AFTER)
    lab.vpn.start()
    wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel, again", 20.0)
    assert wait_for_tunnel(lab) == pid
    assert read_guard(lab) == "closed" and not laptop.pings(CAFE.router)


@ONE_CLIENT
@pytest.mark.parametrize("how", ["ifdown", "arriving at home"])
def test_a_tunnel_that_ends_may_say_so_to_its_server(lab: Lab, how: str) -> None:
    laptop = lab.laptop
    laptop.write(CONFIG, lab.vpn.client_config() + "explicit-exit-notify 1\n", 0o600)
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_for_tunnel(lab)
    told = "exit message received by peer"
    assert told not in lab.vpn.log()
    if how == "ifdown":
        laptop.ifdown("eth0")
    else:
        # The cafe's router by another name: the way to the server stays the same.
        lab.network.run("cafe", ["ip", "link", "set", "lan", "address", HOME.router_mac])
        lab.network.run("cafe", ["ip", "neigh", "flush", "dev", "lan"])
        laptop.run(["ip", "neigh", "flush", "dev", "eth0"])
        laptop.run(["netconf-hooks", "refresh"])
        wait_for_no_tunnel(lab)
    wait_until(lambda: told in lab.vpn.log(), "the server to be told", 2.0)


@ONE_CLIENT
@pytest.mark.parametrize("more", ["", "FwMark = 0x77\n", "ListenPort = 5000\n"], ids=["plain", "mark", "port"])
def test_wireguard(lab: Lab, more: str) -> None:
    laptop = lab.laptop
    with wireguard.WireGuardGateway(lab.network) as gateway:
        laptop.write(wireguard.CONFIG, gateway.client_config(more=more), 0o600)
        configure(lab, f"vpn wireguard {wireguard.NAME} unless home-lan office-lan", UNLESS, HINTS)
        lab.plug("cafe")
        with Capture(lab.network.wire_namespace) as capture:
            laptop.ifup("eth0")
            wait_until(lambda: laptop.pings(CORP_HOST), "the host behind WireGuard to answer", 20.0)
            send_everything(laptop, CAFE)
            assert not laptop.pings(CAFE.router)
            judge(capture, Allowed(frozenset({(VPN_GATEWAY, 17, wireguard.PORT)}), frozenset({CAFE.router})))
        laptop.ifdown("eth0")
        assert find_records(lab) == [] and list_ruleset(laptop) == ""
        lab.plug("home")
        laptop.ifup("eth0")
        assert read_guard(lab) == "open" and laptop.pings(HOME.router)


@pytest.fixture(scope="module")
def ipsec_image(packages: list[Path]) -> Iterator[Image]:
    """A laptop's disk with the product and strongSwan."""
    with Image([*fetch_packages(ipsec.STRONGSWAN), *packages]) as made:
        yield made


@pytest.mark.parametrize("configuration", ["swanctl", "ipsec.conf"])
def test_strongswan(ipsec_image: Image, configuration: str) -> None:
    """With charon's own encryption, whose packets leave in UDP from port 4500: nothing in the kernel knows of them."""
    with Lab(ipsec_image) as lab, ipsec.IpsecGateway(lab.network, ipsec_image) as gateway:
        laptop = lab.laptop
        {"swanctl": ipsec.write_swanctl, "ipsec.conf": ipsec.write_starter}[configuration](laptop)
        configure(lab, f"vpn ipsec {ipsec.NAME} unless home-lan office-lan", UNLESS, HINTS)
        lab.plug("cafe")
        with Capture(lab.network.wire_namespace) as capture:
            laptop.ifup("eth0")
            wait_until(lambda: laptop.pings(CORP_HOST), "the host behind IPsec to answer", 20.0)
            send_everything(laptop, CAFE)
            assert not laptop.pings(CAFE.router)
            flows = frozenset((VPN_GATEWAY, 17, port) for port in (500, 4500))
            judge(capture, Allowed(flows, frozenset({CAFE.router})))
            assert "ESTABLISHED" in gateway.list_clients()
            laptop.ifdown("eth0")
            wait_until(lambda: "ESTABLISHED" not in gateway.list_clients(), "the gateway to be told of the end", 2.0)
            judge(capture, Allowed(flows, frozenset({CAFE.router})))
        assert find_records(lab) == [] and list_ruleset(laptop) == ""
