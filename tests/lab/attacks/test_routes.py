"""What a café's network tells the laptop to do: routes, addresses, names, router advertisements.

The tunnel takes all of IPv4, and the useful side is asked for each time: it comes up, and it carries packets.
"""

from __future__ import annotations

import pytest

from ..network import CAFE, INTERNET_HOST
from ..vpn import PORT
from ..waiting import wait_until
from . import hostile
from .capture import find_arp_questions
from .scene import BACKENDS, BOTH, NO_GUARD, Scene
from .traffic import INTERNET_HOST6, NEIGHBOUR

# By the routing table alone: these know nothing of devices.
ROUTED = tuple(f"{sender}/udp4/beyond" for sender in ("root", "nobody", "container"))
ROUTED6 = tuple(f"{sender}/udp6/beyond" for sender in ("root", "nobody", "container"))

# The tunnel takes IPv6 as well, as far as the laptop knows: its gateway throws it away.
IPV6_TUNNEL = ("ifconfig-ipv6 fd00:8::2/64 fd00:8::1", "route-ipv6 2000::/3")


@BOTH
def test_a_tunnel_that_takes_everything_does_take_it(scene: Scene) -> None:
    """Where nobody attacks: what the other tests of this file call a leak is none without the attack."""
    scene.write_stanza()
    scene.tunnel_everything()
    scene.arrive()
    scene.wait_for_tunnel()
    scene.forget()
    frames = scene.judge("nobody attacks")
    leaked = {leak.kind for leak in scene.find(frames)}
    assert not leaked & set(ROUTED)
    assert scene.laptop.pings(INTERNET_HOST)


@BOTH
def test_tunnelvision(scene: Scene) -> None:
    """CVE-2024-3661: routes by DHCP option 121, which Debian's dhclient applies."""
    hostile.smuggle_routes(scene.lab)
    scene.write_stanza()
    scene.tunnel_everything()
    scene.arrive()
    scene.wait_for_tunnel()
    routes = scene.laptop.run(["ip", "route", "show", "dev", "eth0"]).stdout
    for route in ("0.0.0.0/1", "128.0.0.0/1", INTERNET_HOST):
        assert f"{route} via {CAFE.router}" in routes
    scene.forget()
    scene.judge("routes smuggled in by DHCP", *ROUTED, "*/tcp4/beyond", "*/dns4/beyond", "*/icmp4/beyond")


@BOTH
def test_localnet(scene: Scene) -> None:
    """CVE-2023-36672: the victim's server seems to be on the café's link."""
    hostile.lease_public_addresses(scene.lab)
    scene.allowed = scene.allowed._replace(dhcp_servers=frozenset({hostile.PUBLIC_ROUTER, INTERNET_HOST, CAFE.router}))
    scene.write_stanza()
    scene.tunnel_everything()
    scene.arrive()
    assert f"{hostile.PUBLIC_PREFIX}.0/24" in scene.laptop.run(["ip", "route", "show", "dev", "eth0"]).stdout
    scene.wait_for_tunnel()
    scene.forget()
    frames = scene.judge("the victim's address on the link", *ROUTED, "*/tcp4/beyond")
    if scene.guarded:
        # The guard decides before anybody is asked for who has the address.
        assert INTERNET_HOST not in find_arp_questions(frames)


@BOTH
def test_serverip(scene: Scene) -> None:
    """CVE-2023-36673: the tunnel's name resolves to a victim's address, to which the tunnel then keeps a route."""
    hostile.lie_about_endpoint(scene.lab)
    scene.allowed = scene.allowed._replace(
        flows=frozenset({(INTERNET_HOST, 17, PORT)}), resolvers=frozenset({CAFE.router}),
        names=frozenset({hostile.ENDPOINT_NAME}),
    )  # fmt: skip
    scene.write_stanza()
    scene.tunnel_everything(remote=hostile.ENDPOINT_NAME)
    scene.arrive()
    scene.wait_for_tunnel()
    assert f"{INTERNET_HOST} via {CAFE.router}" in scene.laptop.run(["ip", "route", "show", "dev", "eth0"]).stdout
    scene.judge("the endpoint's name is a lie", *ROUTED, "*/tcp4/beyond")
    if scene.guarded:
        assert hostile.ENDPOINT_NAME in scene.laptop.read("/etc/hosts")
        scene.laptop.ifdown("eth0")
        assert hostile.ENDPOINT_NAME not in scene.laptop.read("/etc/hosts")


@BOTH
def test_a_rogue_router(scene: Scene) -> None:
    """Router advertisements with a route to one host (RFC 4191), which is more special than the tunnel's."""
    scene.laptop.run(["sysctl", "-q", "-w", "net.ipv6.conf.eth0.accept_ra_rt_info_max_plen=128"])
    scene.write_stanza()
    scene.tunnel_everything(*IPV6_TUNNEL)
    scene.arrive()
    scene.wait_for_ipv6()
    scene.wait_for_tunnel()
    scene.forget()
    frames = scene.judge("before the rogue router")
    assert not {leak.kind for leak in scene.find(frames)} & set(ROUTED6)
    with hostile.RogueRouter(scene.network):
        show = ["ip", "-6", "route", "show", INTERNET_HOST6]
        wait_until(lambda: "dev eth0" in scene.laptop.run(show).stdout, "the rogue router's route")
        scene.judge("with the rogue router", *ROUTED6, "*/tcp6/beyond", "*/dns6/beyond", "*/icmp6/beyond")
    assert scene.laptop.pings("10.99.0.1")


@pytest.mark.parametrize("guard", [NO_GUARD, BACKENDS[0]])
def test_a_rogue_resolver(scene: Scene) -> None:
    """RDNSS (RFC 8106) taken up as rdnssd(8) does, into /etc/resolv.conf: questions to it are on the link."""
    scene.write_stanza()
    scene.tunnel_everything(*IPV6_TUNNEL)
    with hostile.RogueRouter(scene.network):
        scene.arrive()
        scene.wait_for_ipv6()
        scene.wait_for_tunnel()
        scene.laptop.write("/etc/resolv.conf", f"nameserver {hostile.ROGUE_RESOLVER}\n")
        scene.traffic.wait_rounds(1)
        scene.forget()
        scene.judge("with the rogue resolver", "root/dns/resolver", "nobody/dns/resolver")


@BOTH
def test_ipv6_left_to_itself(scene: Scene) -> None:
    """Only IPv4 is in the stanza and in the tunnel; the kernel sets IPv6 up by itself."""
    scene.write_stanza()
    scene.tunnel_everything()
    scene.arrive()
    scene.wait_for_ipv6()
    scene.wait_for_tunnel()
    scene.judge("IPv6 beside the tunnel", *ROUTED6, "*/tcp6/beyond", "*/udp6/router", "*/udp6/neighbour")
    assert scene.laptop.pings(INTERNET_HOST)


@BOTH
def test_the_stanza_of_ipv6_comes_first(scene: Scene) -> None:
    """The guard's option is in the first stanza, that of IPv6, and holds for IPv4, which comes up after it."""
    scene.write_stanza(head="iface eth0 inet6 auto")
    stanzas = scene.laptop.read("/etc/network/interfaces")
    scene.laptop.write("/etc/network/interfaces", f"{stanzas}\niface eth0 inet dhcp\n")
    scene.tunnel_everything()
    scene.arrive()
    scene.judge("both families up", *ROUTED6, "*/udp4/bound", "*/udp4/router")
    scene.wait_for_tunnel()
    scene.judge("with the tunnel", "*/udp6/beyond", "*/udp4/bound")
    scene.laptop.ifdown("eth0")
    scene.judge("after ifdown")


@pytest.mark.parametrize("guard", [BACKENDS[0]])
def test_nobody_on_the_link_is_asked_for(scene: Scene) -> None:
    """What is dropped is dropped before ARP is asked: even the question would tell whom the laptop talks to."""
    scene.write_stanza()
    scene.tunnel_everything()
    scene.arrive()
    scene.wait_for_tunnel()
    scene.laptop.run(["ip", "neigh", "flush", "dev", "eth0"])
    frames = scene.judge("with empty neighbour tables")
    assert find_arp_questions(frames) <= {CAFE.router}
    neighbour6 = f"{CAFE.prefix6}{NEIGHBOUR}"
    assert neighbour6 not in scene.laptop.run(["ip", "-6", "neigh", "show"]).stdout
