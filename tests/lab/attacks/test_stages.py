"""Every moment of a journey: before ifup, during DHCP, with the tunnel in every state, ifdown, and once more.

The tunnel takes all of IPv4.
"""

from __future__ import annotations

import pytest

from ..laptop import Image
from ..network import CAFE, CORP_HOST, HOME, INTERNET_HOST
from ..stanzas import find_tunnels
from ..vpn import DEAD_AFTER
from ..waiting import wait_until
from .capture import Frame, read_packet
from .scene import BACKENDS, BOTH, TUNNEL, Scene
from .traffic import INTERNET_HOST6, SENDERS, Job, mark_data

EVERYBODY = tuple(
    f"{sender}/{how}{version}/{where}" for sender in SENDERS for how in ("udp", "tcp", "icmp", "dns")
    for version in (4, 6) for where in ("beyond", "router")
)  # fmt: skip
PAST_THE_TUNNEL = tuple(f"{sender}/{how}" for sender in ("root", "nobody") for how in ("udp4/bound", "icmp4/bound"))
IPV6 = tuple(f"{sender}/{how}6/beyond" for sender in SENDERS for how in ("udp", "tcp", "icmp", "dns"))


@BOTH
def test_a_journey(scene: Scene) -> None:
    lab, laptop = scene.lab, scene.laptop
    scene.write_stanza()
    scene.tunnel_everything()
    lab.plug(CAFE.name)
    scene.judge("before ifup")

    dnsmasq = scene.network.read(f"/run/dnsmasq-{CAFE.name}.pid").strip()
    scene.network.run(CAFE.name, ["kill", "-STOP", dnsmasq])
    lab.vpn.stop()
    ifup = laptop.start(["ifup", "eth0"])
    wait_until(lambda: laptop.has_carrier("eth0"), "ifup to set the link up")
    scene.wait_for_ipv6()
    scene.judge("during DHCP", *IPV6, "*/udp6/router")
    scene.network.run(CAFE.name, ["kill", "-CONT", dnsmasq])
    assert ifup.wait().returncode == 0
    scene.judge("between lease and tunnel", *EVERYBODY, *PAST_THE_TUNNEL, "*/udp4/neighbour", "*/tcp6/neighbour")

    lab.vpn.start()
    pid = scene.wait_for_tunnel()
    frames = scene.judge("with the tunnel up", *IPV6, *PAST_THE_TUNNEL)
    assert any(is_tunnel(frame) for frame in frames)

    laptop.run(["kill", "-USR1", str(pid)])
    scene.judge("while the tunnel restarts", *IPV6, *PAST_THE_TUNNEL)
    assert scene.wait_for_tunnel() == pid

    lab.vpn.stop()
    wait_until(lambda: not laptop.pings(CORP_HOST), "the tunnel to be silent")
    scene.judge("with the server gone", *IPV6, *PAST_THE_TUNNEL)
    wait_until(lambda: laptop.log().count("Inactivity timeout") > 0, "OpenVPN to notice", 3 * DEAD_AFTER)
    scene.judge("while the tunnel looks for its server", *EVERYBODY, *PAST_THE_TUNNEL)
    lab.vpn.start()
    assert scene.wait_for_tunnel() == pid

    laptop.run(["kill", "-KILL", str(pid)])
    wait_until(lambda: find_tunnels(lab) == [], "OpenVPN to be gone")
    scene.judge("with the tunnel killed", *EVERYBODY, *PAST_THE_TUNNEL)

    laptop.ifdown("eth0")
    scene.judge("during ifdown, and after")

    laptop.ifup("eth0")
    scene.wait_for_tunnel()
    scene.judge("ifup again", *PAST_THE_TUNNEL)


def is_tunnel(frame: Frame) -> bool:
    """Whether it is a packet of the tunnel's own."""
    packet = read_packet(frame)
    return packet is not None and (packet.destination, packet.protocol, packet.ports[1]) == TUNNEL


@BOTH
def test_the_other_dhcp_client(image: Image, guard: str) -> None:
    """dhcpcd solicits routers and sets IPv6 up by itself."""
    with Scene(image, guard, "dhcpcd") as scene:
        scene.write_stanza()
        scene.tunnel_everything()
        scene.arrive()
        scene.wait_for_tunnel()
        scene.wait_for_ipv6()
        scene.judge("with the tunnel up", *PAST_THE_TUNNEL, *IPV6)
        scene.laptop.ifdown("eth0")
        scene.judge("after ifdown")


FLOOD = [
    Job("root/udp4/flood", "udp", INTERNET_HOST, 9, "eth0", data=mark_data("root/udp4/flood")),
    Job("root/udp6/flood", "udp", INTERNET_HOST6, 9, "eth0", data=mark_data("root/udp6/flood")),
    Job("root/udp4/routerflood", "udp", CAFE.router, 9, data=mark_data("root/udp4/routerflood")),
]


@BOTH
def test_no_moment_between_two_states(scene: Scene) -> None:
    """A packet of each family every millisecond, while everything is put up again and again."""
    scene.write_stanza()
    scene.tunnel_everything()
    scene.arrive()
    scene.wait_for_ipv6()
    scene.wait_for_tunnel()
    scene.traffic.add("root-flood", FLOOD, pause=1)
    scene.judge("before", "root/udp4/flood", "root/udp6/flood")
    for _ in range(3):
        scene.laptop.ifup("--force", "eth0", check=False)
        scene.laptop.run(["netconf-hooks", "refresh"])
    scene.wait_for_tunnel()
    scene.judge("ifup --force and refresh", "root/udp4/flood", "root/udp6/flood", "root/udp4/routerflood")
    scene.laptop.ifdown("eth0")
    scene.judge("ifdown", "root/udp4/flood", "root/udp6/flood")


STAMP = "#!/bin/sh\ndate +%s.%N >/run/stamp-$PHASE\n"


@pytest.mark.parametrize("guard", BACKENDS)
def test_open_at_home_from_the_decision_until_ifdown(scene: Scene) -> None:
    """Closed before the up hooks, open at home, closed before the machine sleeps, closed after the down hooks."""
    laptop = scene.laptop
    scene.allowed = scene.allowed._replace(dhcp_servers=frozenset({HOME.router}))
    scene.network.announce_ipv6(HOME.name)
    laptop.write("/etc/network/if-up.d/00-stamp", STAMP, 0o755)
    laptop.write("/etc/network/if-down.d/zz-stamp", STAMP, 0o755)
    scene.write_stanza("trust hints")
    scene.arrive(HOME.name)
    opened = float(laptop.read("/run/stamp-post-up"))
    early = [leak for leak in scene.find(scene.look()) if leak.time < opened]
    assert not early, early[0]
    scene.wait_for_ipv6()
    kinds = {leak.kind for leak in scene.find(scene.look())}
    assert {"root/udp4/beyond", "nobody/tcp6/beyond", "container/dns4/beyond", "nobody/icmp6/router"} <= kinds
    assert laptop.pings(INTERNET_HOST)

    sleep = "/usr/lib/systemd/system-sleep/netconf-hooks"
    laptop.run([sleep, "pre", "suspend"])
    scene.forget()
    scene.judge("before sleep")
    laptop.run([sleep, "post", "suspend"])
    scene.wait_for_guard("open")
    wait_until(lambda: laptop.pings(INTERNET_HOST), "home to work again")

    laptop.ifdown("eth0")
    closed = float(laptop.read("/run/stamp-pre-down"))
    late = [leak for leak in scene.find(scene.look()) if leak.time > closed]
    assert not late, late[0]


@pytest.mark.parametrize("guard", BACKENDS)
def test_release_opens_until_the_next_ifup(scene: Scene) -> None:
    scene.write_stanza()
    scene.arrive()
    scene.judge("before release")
    scene.laptop.run(["netconf-hooks", "release", "eth0"])
    assert scene.read_guard() == "released"
    kinds = {leak.kind for leak in scene.find(scene.look())}
    assert {"root/udp4/beyond", "nobody/tcp4/router", "container/dns4/beyond"} <= kinds
    scene.laptop.run(["netconf-hooks", "refresh"])
    assert scene.read_guard() == "released"
    scene.laptop.ifdown("eth0")
    scene.forget()
    scene.laptop.ifup("eth0")
    scene.wait_for_tunnel()
    scene.judge("after the next ifup")
    assert scene.read_guard() == "closed"


@pytest.mark.parametrize("guard", BACKENDS)
def test_a_tunnel_of_another_user_comes_back(scene: Scene) -> None:
    """OpenVPN gives root up and connects anew: its socket is nobody's then, who may send nothing else."""
    scene.write_stanza()
    scene.tunnel_everything("user nobody", "group nogroup", "persist-tun", "persist-key")
    scene.arrive()
    scene.wait_for_tunnel()
    scene.lab.vpn.stop()
    wait_until(lambda: "Inactivity timeout" in scene.laptop.log(), "OpenVPN to notice", 3 * DEAD_AFTER)
    scene.lab.vpn.start()
    scene.wait_for_tunnel()
    scene.judge("after it came back")
    assert scene.laptop.pings(INTERNET_HOST)


@pytest.mark.parametrize("guard", BACKENDS)
def test_another_link_is_not_guarded(scene: Scene) -> None:
    scene.write_stanza()
    stanzas = scene.laptop.read("/etc/network/interfaces")
    scene.laptop.write("/etc/network/interfaces", f"{stanzas}\niface wlan0 inet dhcp\n")
    scene.lab.plug(HOME.name, "wlan0")
    scene.lab.vpn.stop()
    scene.arrive()
    scene.laptop.ifup("wlan0")
    wait_until(lambda: scene.laptop.pings(HOME.router), "the router at home")
    assert not scene.laptop.pings(CAFE.router)
    scene.judge("with another link up")
