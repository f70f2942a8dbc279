"""What the café, or a program on the laptop, pretends to be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from netconf_hooks.exemption import MARK

from ..network import CAFE, INTERNET_HOST, OFFICE, VPN_GATEWAY
from ..stanzas import read_location
from ..relay import RELAY
from ..servers import Certificate, Far
from ..vpn import PORT
from ..waiting import wait_until
from . import hostile
from .scene import BACKENDS, BOTH, Scene
from .traffic import CONTAINER, INTERNET_HOST6, NOBODY, ROOT, Job, make_packet, mark_data

OFFICE_HINTS = f"location office-lan gateway-mac={OFFICE.router_mac} dns-domain={OFFICE.domain}"
SERVER = f"router.{OFFICE.domain}"
UNGUARDED_ROUTES = ("*/udp4/beyond", "*/udp6/beyond", "*/tcp4/beyond", "*/tcp6/router")


@pytest.fixture
def certificate(scene: Scene, tmp_path: Path) -> Iterator[Certificate]:
    """The office's server, which the internet can reach as well: its certificate."""
    made = Certificate(tmp_path / "office")
    with contextlib.ExitStack() as undo:
        Far(scene.network.namespace(OFFICE.name), undo).serve(made.serve, 443, "0.0.0.0")
        yield made


def write_office(scene: Scene, *lines: str) -> None:
    """Write a stanza whose guard is open in the office."""
    scene.write_stanza(*lines, locations="", guard="unless office-lan", vpn="openvpn corp unless office-lan")


@BOTH
def test_the_offices_mac_and_domain_do_not_open_it(scene: Scene) -> None:
    """With proof asked for, hints are no proof."""
    hostile.forge_office(scene.lab)
    write_office(scene, "trust authenticated", OFFICE_HINTS)
    scene.arrive()
    assert read_location(scene.lab) == "office-lan"  # fooled, as far as the name goes
    scene.judge("the office is forged", *UNGUARDED_ROUTES)
    scene.wait_for_tunnel()
    scene.judge("the office is forged, with the tunnel", *UNGUARDED_ROUTES)
    if scene.guarded:
        assert scene.read_guard() == "closed"
        explained = scene.laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
        assert "office-lan is recognised by hints" in explained
        assert "netconf-guard" in explained
        checked = scene.laptop.run(["netconf-hooks", "check"], check=False)
        assert checked.returncode == 1, checked.stdout  # a guard that can never open


@BOTH
def test_where_trust_is_not_written_hints_open_no_guard(scene: Scene) -> None:
    """They do turn the tunnel off: nothing leaves at all."""
    hostile.forge_office(scene.lab)
    write_office(scene, OFFICE_HINTS)
    scene.arrive()
    scene.judge("the office is forged", *UNGUARDED_ROUTES)
    if scene.guarded:
        assert scene.read_guard() == "closed"


@pytest.mark.parametrize("guard", BACKENDS)
def test_with_hints_trusted_it_opens_and_check_has_warned(scene: Scene) -> None:
    hostile.forge_office(scene.lab)
    write_office(scene, "trust hints", OFFICE_HINTS)
    warned = scene.laptop.run(["netconf-hooks", "check"]).stdout
    assert "anybody who forges the hints of office-lan can open it" in warned
    scene.arrive()
    scene.wait_for_guard("open")
    kinds = {leak.kind for leak in scene.find(scene.look())}
    assert {"root/udp4/beyond", "nobody/tcp6/router", "container/dns4/beyond"} <= kinds


@BOTH
def test_a_relayed_certificate(scene: Scene, certificate: Certificate) -> None:
    """The café answers for the office's server, and relays to it: it was seen in the office before."""
    tls = f"tls={SERVER}:443/sha256:{certificate.sha256}"
    scene.allowed = scene.allowed._replace(
        flows=scene.allowed.flows | {(CAFE.router, 6, 443)}, resolvers=frozenset({CAFE.router}),
        names=frozenset({SERVER}),
    )  # fmt: skip
    write_office(scene, "trust authenticated", f"location office-lan {tls}")
    scene.arrive(OFFICE.name)
    assert read_location(scene.lab) == "office-lan"
    if scene.guarded:
        assert scene.read_guard() == "open"
        assert scene.laptop.pings(INTERNET_HOST)  # the trusted place works unhindered
    scene.laptop.ifdown("eth0")
    scene.network.rename_domain(CAFE.name, OFFICE.domain)
    scene.network.run(CAFE.name, ["nft", "-f", "-"], text=RELAY)
    certificate.names.clear()
    scene.forget()
    scene.arrive()
    assert certificate.names == [SERVER]  # the office's server did answer
    assert read_location(scene.lab) is None
    scene.judge("the certificate is relayed", *UNGUARDED_ROUTES)
    scene.wait_for_tunnel()
    scene.judge("the certificate is relayed, with the tunnel", *UNGUARDED_ROUTES)
    if scene.guarded:
        assert "also answers elsewhere" in scene.laptop.run(["netconf-hooks", "explain", "eth0"]).stdout


DHCP = bytes((1, 1, 6, 0)) + bytes(232) + bytes((99, 130, 83, 99, 53, 1, 1, 255))


def forge(name: str) -> list[Job]:
    """Return packets that look like what a guard lets through, and are not."""
    def data(kind: str) -> bytes:
        return mark_data(f"{name}/{kind}")

    def discovery(kind: str, number: int) -> bytes:
        return bytes((number, 0, 0, 0)) + bytes(4) + bytes.fromhex("fe800000000000000000000000000001") + data(kind)

    far6 = INTERNET_HOST6
    jobs = [
        Job(f"{name}/fragments", "udp", INTERNET_HOST, 9, data=data("fragments") + bytes(3000)),
        Job(f"{name}/gateway-other-port", "udp", VPN_GATEWAY, PORT + 1, data=data("gateway-other-port")),
        Job(f"{name}/gateway-icmp", "icmp", VPN_GATEWAY, data=bytes((8, 0, 0, 0, 0, 0, 0, 1)) + data("gateway-icmp")),
    ]
    if name != ROOT:
        # Its own packets, which the daemon's user alone may send.
        jobs.append(Job(f"{name}/gateway", "udp", VPN_GATEWAY, PORT, data=data("gateway")))
    if name == NOBODY:
        return jobs
    jobs += [
        Job(f"{name}/dhcp-far", "udp", INTERNET_HOST, 67, source=68, data=DHCP + data("dhcp-far")),
        Job(f"{name}/dhcp6-far", "udp", far6, 547, source=546, data=b"\1abc" + data("dhcp6-far")),
        Job(f"{name}/mark", "udp", INTERNET_HOST, 53, mark=MARK, data=data("mark")),
        Job(f"{name}/mark6", "udp", far6, 443, mark=MARK, data=data("mark6")),
        Job(f"{name}/ns-far", "icmp6", far6, hops=255, data=discovery("ns-far", 135)),
        Job(f"{name}/na-far", "icmp6", far6, hops=255, data=discovery("na-far", 136)),
        Job(f"{name}/rs-far", "icmp6", far6, hops=255, data=discovery("rs-far", 133)),
        Job(f"{name}/mld-far", "icmp6", far6, hops=1, data=discovery("mld-far", 143)),
    ]
    if name == ROOT:
        jobs += [
            Job(f"{name}/spoof", "raw", INTERNET_HOST, data=make_packet(f"{name}/spoof", "192.0.2.1", INTERNET_HOST)),
            Job(f"{name}/dhcp-neighbour", "udp", "192.168.3.9", 67, source=68, data=DHCP + data("dhcp-neighbour")),
            Job(f"{name}/ns", "icmp6", "fe80::1%eth0", hops=255, data=discovery("ns", 135)),
            Job(f"{name}/na", "icmp6", "fe80::1%eth0", hops=255, data=discovery("na", 136)),
            Job(f"{name}/rs", "icmp6", "ff02::2%eth0", hops=255, data=discovery("rs", 133)),
            Job(f"{name}/mld", "icmp6", "ff02::16%eth0", hops=1, data=discovery("mld", 143)),
        ]
    return jobs


# The admin's firewall marks what the container sends as ours are marked.
MARKED = f"""
table inet admin {{
    chain prerouting {{
        type filter hook prerouting priority mangle
        iifname "ct0" meta mark set {MARK}
    }}
}}
"""


@BOTH
def test_packets_that_look_like_what_passes(scene: Scene) -> None:
    """Forged DHCP, neighbour discovery, marks and endpoints: local and forwarded."""
    # A packet with one hop left is not forwarded; nor is a link-local one.  dhcpcd has DHCPv6's port for itself.
    silent = [f"{CONTAINER}/mld-far", *([f"{ROOT}/dhcp6-far"] if scene.laptop.dhcp_client == "dhcpcd" else [])]
    kinds = []
    for name in (ROOT, NOBODY, CONTAINER):
        jobs = forge(name)
        scene.traffic.add(f"{name}-forger", jobs)
        kinds += [job.kind for job in jobs if job.kind not in silent]
    scene.laptop.run(["nft", "-f", "-"], text=MARKED)
    scene.write_stanza()
    scene.lab.vpn.stop()
    scene.arrive()
    scene.wait_for_ipv6()
    scene.forget()
    scene.judge("packets are forged", *kinds)
    scene.lab.vpn.start()
    scene.wait_for_tunnel()
    scene.judge("packets are forged, with the tunnel", *kinds)


RENEW = ("--dhcp-option-force=option:T1,2", "--dhcp-option-force=option:T2,6")


@BOTH
def test_dhcp_renews(scene: Scene) -> None:
    """The useful side: at half of its time (here after 2 s) the lease is renewed at its server, by unicast."""
    scene.network.change_dhcp(CAFE.name, *RENEW)
    scene.write_stanza()
    scene.arrive()
    asked = scene.network.router_log(CAFE.name).count("DHCPACK")
    wait_until(lambda: scene.network.router_log(CAFE.name).count("DHCPACK") > asked, "the lease to be renewed", 15)
    scene.judge("while the lease is renewed", *UNGUARDED_ROUTES)
    for line in scene.laptop.log().splitlines():
        assert scene.laptop.dhcp_client not in line or "Operation not permitted" not in line
