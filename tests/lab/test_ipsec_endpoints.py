"""ipsec: what goes to the gateway over the wire is what the tunnel says beforehand, and all that it says is needed.

The capture is at the other end of the laptop's cable.  charon encrypts by itself here (kernel-libipsec), which it does
in UDP only; the kernel's own ESP is looked at in tests/vm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from netconf_hooks.tunnels import Endpoint

from . import ipsec_laptop
from .attacks.capture import Capture, describe, read_packet
from .ipsec import LIBRESWAN, LIBRESWAN_CONF, SWANCTL_CONF, IpsecGateway, write_libreswan
from .ipsec_laptop import STRONGSWANS, Client, go_up, wait_until_up
from .lab import Lab
from .network import CAFE, CORP_HOST, VPN_GATEWAY
from .waiting import wait_until

gateway, images, lab = ipsec_laptop.gateway, ipsec_laptop.images, ipsec_laptop.lab

VOICES = pytest.mark.parametrize(
    "client", [STRONGSWANS["swanctl with charon-systemd"], STRONGSWANS["ipsec alone"]], ids=["swanctl", "ipsec.conf"]
)
BY_SWANCTL = pytest.mark.parametrize("client", [STRONGSWANS["swanctl"]], ids=["swanctl"])
ON_LIBRESWAN = pytest.mark.parametrize("client", [Client(LIBRESWAN, write_libreswan, "")], ids=["libreswan"])

PORTS_CONF = "/etc/strongswan.d/ports.conf"
PROTOCOLS = {"udp": 17, "tcp": 6, "esp": 50}
USUAL = {(500, 500), (4500, 4500)}

# Asks as a hook would.
ASK = """
import json, sys
sys.path.append("/usr/lib/python3/dist-packages")
from netconf_hooks.tunnels import load_tunnel
found = load_tunnel("ipsec", "work").endpoints()
print(json.dumps([[getattr(endpoint, name) for name in endpoint.__slots__] for endpoint in found]))
"""


@pytest.fixture
def capture(lab: Lab) -> Iterator[Capture]:
    """What the laptop sends through eth0."""
    with Capture(lab.network.wire_namespace) as made:
        yield made


def ask(lab: Lab) -> list[Endpoint]:
    """Return the tunnel's endpoints, by the package that is installed."""
    answer = json.loads(lab.laptop.run(["/usr/bin/python3", "-IS", "-c", ASK]).stdout)
    return [
        Endpoint(host, protocol, port, version, tuple(uids), mark, source_port)
        for host, protocol, port, version, uids, mark, source_port in answer
    ]


def expect_only(capture: Capture, endpoints: list[Endpoint]) -> set[tuple[int, int]]:
    """Each packet to the gateway is one of those; return from and to which ports of UDP they went."""
    seen, strange = set(), []
    for frame in capture.read():
        packet = read_packet(frame)
        if packet is None or packet.destination != VPN_GATEWAY:
            continue
        if not any(
            (VPN_GATEWAY, packet.protocol, packet.ports[1])
            == (endpoint.host, PROTOCOLS[endpoint.protocol], endpoint.port)
            and endpoint.source_port in (0, packet.ports[0])
            and endpoint.version == packet.version
            for endpoint in endpoints
        ):
            strange.append(describe(frame))
        seen.add(packet.ports)
    assert strange == []
    return seen


def live(lab: Lab) -> None:
    """Have the tunnel come up, carry something, and end."""
    go_up(lab)
    wait_until_up(lab)
    lab.laptop.run(["ping", "-n", "-q", "-i", "0.05", "-c", "5", CORP_HOST])
    lab.laptop.ifdown("eth0")


def remove_nat(lab: Lab) -> None:
    """Let the café's router hand on the laptop's own address, and the internet know the way back."""
    lab.network.run(CAFE.name, ["nft", "flush", "ruleset"])
    lab.network.run(
        "internet", ["ip", "route", "add", f"192.168.{CAFE.number}.0/24", "via", f"203.0.113.1{CAFE.number}"]
    )


def said(endpoints: list[Endpoint]) -> set[tuple[int, int]]:
    """Return from and to which ports of UDP the endpoints are."""
    return {(endpoint.source_port, endpoint.port) for endpoint in endpoints if endpoint.protocol == "udp"}


@VOICES
@pytest.mark.parametrize("nat", [True, False], ids=["nat", "no-nat"])
def test_all_that_goes_to_the_gateway(lab: Lab, gateway: IpsecGateway, capture: Capture, nat: bool) -> None:
    if not nat:
        remove_nat(lab)
    endpoints = ask(lab)
    assert said(endpoints) == USUAL
    assert [endpoint.host for endpoint in endpoints if endpoint.protocol == "esp"] == [VPN_GATEWAY]
    live(lab)
    assert expect_only(capture, endpoints) == USUAL
    assert ask(lab) == endpoints, "whether the daemon runs makes no difference"


@VOICES
def test_ports_of_the_admins_own(lab: Lab, gateway: IpsecGateway, capture: Capture) -> None:
    lab.laptop.write(PORTS_CONF, "charon {\n  port = 5000\n  port_nat_t = 5001\n}\n")
    endpoints = ask(lab)
    assert said(endpoints) == {(5000, 500), (5001, 4500)}
    live(lab)
    assert expect_only(capture, endpoints) == said(endpoints)


@VOICES
def test_a_port_taken_at_random(lab: Lab, gateway: IpsecGateway, capture: Capture) -> None:
    lab.laptop.write(PORTS_CONF, "charon {\n  port = 0\n}\n")
    endpoints = ask(lab)
    assert [endpoint.uids for endpoint in endpoints if not endpoint.source_port and endpoint.port] == [(0,)]
    live(lab)
    seen = expect_only(capture, endpoints)
    assert {port for _, port in seen} == {500, 4500}
    assert {source for source, port in seen if port == 4500} == {4500}


@BY_SWANCTL
@pytest.mark.parametrize(
    ("options", "ports"),
    [("local_port = 4500\nremote_port = 4500", {(4500, 4500)}), ("remote_port = 4500", {(500, 4500), (4500, 4500)})],
    ids=["both", "remote"],
)
def test_ports_of_the_connections_own(
    lab: Lab, gateway: IpsecGateway, capture: Capture, options: str, ports: set[tuple[int, int]]
) -> None:
    text = lab.laptop.read(SWANCTL_CONF)
    lab.laptop.write(SWANCTL_CONF, text.replace("version = 2", f"version = 2\n{options}"), 0o600)
    endpoints = ask(lab)
    assert said(endpoints) == ports
    live(lab)
    # Since version 6 it sends all from its NAT port if the other end's port is not 500.
    major = int(lab.laptop.run(["swanctl", "--version"]).stdout.split()[-1].partition(".")[0])
    assert expect_only(capture, endpoints) == (ports if major < 6 else {(4500, 4500)})


@ON_LIBRESWAN
@pytest.mark.parametrize(
    ("options", "ports"),
    [
        ("", USUAL),
        ("  rightikeport=4500\n", {(4500, 4500)}),
        ("  leftikeport=4600\n", {(4600, 4500)}),
    ],
    ids=["usual", "rightikeport", "leftikeport"],
)
def test_all_that_libreswan_sends(
    lab: Lab, gateway: IpsecGateway, capture: Capture, options: str, ports: set[tuple[int, int]]
) -> None:
    """Its ESP is the kernel's, which may have none here; by then it has floated."""
    lab.laptop.write(LIBRESWAN_CONF, lab.laptop.read(LIBRESWAN_CONF) + options)
    endpoints = ask(lab)
    assert said(endpoints) == ports
    go_up(lab)
    seen: set[tuple[int, int]] = set()

    def look() -> bool:
        seen.update(expect_only(capture, endpoints))
        return seen == ports

    wait_until(look, f"packets from and to {ports}")
    lab.laptop.ifdown("eth0")
    assert expect_only(capture, endpoints) <= ports


@ON_LIBRESWAN
def test_libreswan_by_tcp(lab: Lab, capture: Capture) -> None:
    text = lab.laptop.read(LIBRESWAN_CONF)
    lab.laptop.write(LIBRESWAN_CONF, text + "  enable-tcp=yes\n  tcp-remoteport=4501\n")
    endpoints = ask(lab)
    assert endpoints == [Endpoint(VPN_GATEWAY, "tcp", 4501, 4, uids=(0,))]
    go_up(lab)
    wait_until(lambda: expect_only(capture, endpoints), "pluto to try")
