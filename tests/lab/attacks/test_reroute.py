"""Ways around a guard that stands at the wrong place: after OUTPUT, below IP, without carrier change, by coming in."""

from __future__ import annotations

import pytest

from ..namespaces import Running
from ..network import CAFE, HOME, INTERNET_HOST
from ..waiting import wait_until
from . import hostile
from .scene import BACKENDS, BOTH, NFTABLES, Scene
from .traffic import Job, make_packet, make_question, mark_data, translate

ROUTED = tuple(f"{sender}/udp4/beyond" for sender in ("root", "nobody"))
LAPTOP_MAC = bytes.fromhex("02005e001001")
ROUTER_MAC = bytes.fromhex(CAFE.router_mac.replace(":", ""))

# What an admin with two uplinks writes: traffic to one port by another table.
POLICY = """
table ip admin {
    chain output {
        type route hook output priority mangle
        udp dport 9 meta mark set 7
    }
}
"""
# And one that sends what is meant for a machine in the office to one here.
DESTINATION = f"""
table ip admin {{
    chain output {{
        type nat hook output priority -100
        ip daddr 10.99.0.77 dnat to {CAFE.router}
    }}
}}
"""


@BOTH
def test_a_mark_after_output(scene: Scene) -> None:
    """Chains of the output hook still see the tunnel's interface; the packet leaves through eth0."""
    scene.write_stanza()
    scene.tunnel_everything()
    scene.arrive()
    scene.wait_for_tunnel()
    scene.laptop.run(["nft", "-f", "-"], text=POLICY)
    scene.laptop.run(["ip", "route", "add", "default", "via", CAFE.router, "dev", "eth0", "table", "100"])
    scene.laptop.run(["ip", "rule", "add", "fwmark", "7", "table", "100"])
    scene.forget()
    scene.judge("the admin's mark", *ROUTED)


@BOTH
def test_another_destination_after_output(scene: Scene) -> None:
    jobs = [
        Job("root/dnat/udp", "udp", "10.99.0.77", 9, data=mark_data("root/dnat/udp")),
        Job("root/dnat/tcp", "tcp", "10.99.0.77", 22001),
    ]
    scene.write_stanza()
    scene.tunnel_everything()
    scene.arrive()
    scene.wait_for_tunnel()
    scene.laptop.run(["nft", "-f", "-"], text=DESTINATION)
    # Only now: a connection that was there before goes on as it began.
    scene.traffic.add("root-dnat", jobs)
    scene.forget()
    scene.judge("the admin's DNAT", *(job.kind for job in jobs))


def make_frame(kind: str, ports: tuple[int, int] = (9, 9), tag: bytes = b"") -> bytes:
    """Return an IPv4 packet in a frame to the café's router, as who holds a packet socket writes it."""
    return ROUTER_MAC + LAPTOP_MAC + tag + b"\x08\x00" + make_packet(kind, "192.168.3.77", INTERNET_HOST, ports)


FRAMES = {
    "udp": make_frame("root/frame/udp"),
    "vlan": make_frame("root/frame/vlan", tag=b"\x81\x00\x00\x05"),
    # As the DHCP client's, but to somebody else.
    "dhcp": make_frame("root/frame/dhcp", ports=(68, 67)),
    "unknown": ROUTER_MAC + LAPTOP_MAC + b"\x88\xb5" + mark_data("root/frame/unknown"),
}


@NFTABLES
def test_raw_frames(scene: Scene) -> None:
    """Packet sockets write below IP, tagged for a VLAN or not."""
    jobs = [Job(f"root/frame/{name}", "frame", bind="eth0", data=data) for name, data in FRAMES.items()]
    scene.traffic.add("root-frames", jobs)
    scene.write_stanza()
    scene.lab.vpn.stop()
    scene.arrive()
    scene.judge("raw frames", *(job.kind for job in jobs))
    scene.lab.vpn.start()
    scene.wait_for_tunnel()
    scene.judge("raw frames, with the tunnel", *(job.kind for job in jobs))


@NFTABLES
def test_a_macvlan_child(scene: Scene) -> None:
    """A container with a device of its own on eth0 (docker's macvlan): never seen by the laptop's IP."""
    scene.write_stanza()
    scene.arrive()
    scene.laptop.run(["ip", "link", "add", "mv0", "link", "eth0", "type", "macvlan", "mode", "bridge"])
    scene.laptop.run(["ip", "link", "set", "mv0", "netns", "container"])
    lines = "link set mv0 up\naddr add 192.168.3.66/24 dev mv0\nroute add 198.51.100.0/24 via 192.168.3.1 dev mv0\n"
    scene.laptop.run(["ip", "-n", "container", "-batch", "-"], text=lines)
    far = [
        Job("container/macvlan/beyond", "udp", INTERNET_HOST, 9, data=mark_data("container/macvlan/beyond")),
        Job("container/macvlan/router", "udp", CAFE.router, 53, "mv0", data=make_question("container/macvlan/router")),
    ]
    scene.traffic.add("container-macvlan", far)
    scene.judge("a macvlan child", *(job.kind for job in far))
    scene.wait_for_tunnel()
    scene.judge("a macvlan child, with the tunnel", *(job.kind for job in far))


@NFTABLES
def test_a_bridge_port(scene: Scene) -> None:
    """eth0 put into a bridge behind the guard's back: a container's frames pass through it, below IP."""
    scene.write_stanza()
    scene.arrive()
    scene.wait_for_tunnel()
    scene.laptop.run(["ip", "-batch", "-"], text=(
        "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\nlink set br0 addrgenmode none up\n"
        "link set eth0 master br0\nlink add ct1 type veth peer name eth1 netns container\nlink set ct1 master br0 up\n"
    ))  # fmt: skip
    lines = "link set eth1 up\naddr add 192.168.3.67/24 dev eth1\nroute add 198.51.100.0/24 via 192.168.3.1 dev eth1\n"
    scene.laptop.run(["ip", "-n", "container", "-batch", "-"], text=lines)
    far = [
        Job("container/bridged/beyond", "udp", INTERNET_HOST, 9, data=mark_data("container/bridged/beyond")),
        Job("container/bridged/router", "udp", CAFE.router, 53, "eth1", data=make_question("container/bridged/router")),
    ]
    scene.traffic.add("container-bridged", far)
    scene.traffic.wait_rounds(2)
    scene.forget()
    scene.judge("a bridge port", *(job.kind for job in far))


@pytest.mark.parametrize("guard", BACKENDS[1:])
def test_iptables_says_what_it_cannot_hold(scene: Scene) -> None:
    """No egress chain, no bridges: the admin who asks for it by name is told so."""
    scene.write_stanza()
    checked = scene.laptop.run(["netconf-hooks", "check"], check=False).stdout
    for words in ("raw frames", "macvlan", "no rules for bridges"):
        assert words in checked
    scene.arrive()
    scene.judge("with the guard that there is")


@NFTABLES
def test_flush_ruleset(scene: Scene) -> None:
    """Debian's nftables.conf begins with it.  There is a gap; after it all is as before."""
    scene.write_stanza()
    scene.tunnel_everything()
    scene.arrive()
    scene.wait_for_tunnel()
    scene.judge("before the flush", "*/udp4/bound")
    scene.laptop.run(["nft", "flush", "ruleset"])
    if scene.guarded:
        wait_until(lambda: "netconf" in scene.laptop.run(["nft", "list", "tables"]).stdout, "the guard to be put back")
        wait_until(lambda: "egress" in scene.laptop.run(["nft", "list", "ruleset"]).stdout, "all of it")
    translate(scene.laptop)
    scene.forget()
    scene.judge("after the flush", "*/udp4/bound", "*/udp6/beyond", "*/udp4/router")
    scene.wait_for_tunnel()


# Seconds until another router is found out: it is asked every 10 s, and given 3 s (ip-sysctl, mcast_solicit) and some.
FOUND_OUT = 16.0


def come_home(scene: Scene) -> None:
    """Come up at home, where the guard opens; the routers elsewhere answer for the address of home's."""
    hostile.impersonate_home_router(scene.lab)
    # No advertisement tells of another router.
    scene.laptop.run(["sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=1"])
    scene.write_stanza("trust hints")
    scene.arrive(HOME.name)
    if scene.guarded:
        scene.wait_for_guard("open")
    assert scene.laptop.pings(INTERNET_HOST)


@BOTH
def test_moved_without_a_change_of_carrier(scene: Scene) -> None:
    """Open at home, then another network behind the same switch, whose router answers for the address of home's.

    The kernel takes a router that answered for reachable for up to 45 s (ip-sysctl, base_reachable_time_ms), and until
    then nothing tells it that it is another: it has to be asked.
    """
    come_home(scene)
    scene.network.move(CAFE.name, "eth0")
    if scene.guarded:
        scene.wait_for_guard("closed", FOUND_OUT)
    scene.forget()
    scene.judge("in another network", "*/udp4/beyond", "*/tcp4/beyond")


@BOTH
def test_moved_faster_than_the_kernel_tells(scene: Scene) -> None:
    """As above, but with a cable: when the kernel reports the change, there is carrier again."""
    come_home(scene)
    scene.network.replug(CAFE.name, "eth0")
    if scene.guarded:
        # Sooner than a router is found out: each router is asked only every 10 s.
        wait_until(lambda: "netconf-guard: closed: the carrier" in scene.laptop.log(), "the guard to close", 5.0)
        assert scene.read_guard() == "closed"
    scene.forget()
    scene.judge("in another network", "*/udp4/beyond", "*/tcp4/beyond")


LISTENER = """
import socket
listener = socket.create_server(("", 22), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, _ = listener.accept()
    while data := connection.recv(4096):
        connection.sendall(data)
"""


def listen(scene: Scene, port: int = 22) -> Running:
    """Answer with what is said, on the laptop."""
    program = LISTENER.replace("22", str(port))
    running = scene.laptop.start(["/usr/bin/python3", "-IS", "-c", program])
    wait_until(lambda: f":{port} " in scene.laptop.run(["ss", "-Hltn"]).stdout, "the server to listen")
    return running


def read_address(scene: Scene) -> str:
    """Return the laptop's IPv4 address on eth0."""
    words = scene.laptop.run(["ip", "-4", "-o", "addr", "show", "eth0"]).stdout.split()
    return words[words.index("inet") + 1].partition("/")[0]


@BOTH
def test_who_comes_in_is_answered(scene: Scene) -> None:
    """``in:tcp/22``: a headless machine keeps its session; what begins at port 22 here is no answer."""
    forged = [
        Job("root/from22/udp", "udp", INTERNET_HOST, 9, source=22, data=mark_data("root/from22/udp")),
        Job("root/from22/router", "udp", CAFE.router, 9, source=22, data=mark_data("root/from22/router")),
        Job("root/from22/tcp", "tcp", INTERNET_HOST, 22002, source=22),
    ]
    scene.traffic.add("root-from22", forged)
    scene.allowed = scene.allowed._replace(replies=frozenset({(6, 22)}))
    scene.write_stanza(*(["guard-allow in:tcp/22"] if scene.guarded else []))
    scene.arrive()
    listen(scene, 22)
    listen(scene, 23)
    address = read_address(scene)
    with hostile.Visitor(scene.network, address, 22) as visitor:
        assert visitor.ask(b"hello") == b"hello"
        scene.wait_for_tunnel()
        assert visitor.ask(b"still there") == b"still there"
        scene.judge("a session from outside", "root/from22/*", "root/udp4/router")
        if scene.guarded:
            with pytest.raises(TimeoutError):
                hostile.Visitor(scene.network, address, 23, 0.5)
            scene.network.run(CAFE.name, ["ping", "-n", "-c", "1", "-W", "1", address], check=False)
            scene.judge("knocks at other doors")
            scene.laptop.run(["netconf-hooks", "refresh"])
        assert visitor.ask(b"and now") == b"and now"


@BOTH
def test_answers_are_for_those_named_only(scene: Scene) -> None:
    """``in:tcp/22@192.0.2.0/24``: not for the café."""
    scene.write_stanza(*(["guard-allow in:tcp/22@192.0.2.0/24"] if scene.guarded else []))
    scene.arrive()
    listen(scene, 22)
    scene.forget()
    if scene.guarded:
        with pytest.raises(TimeoutError):
            hostile.Visitor(scene.network, read_address(scene), 22, 0.5)
    else:
        with hostile.Visitor(scene.network, read_address(scene), 22) as visitor:
            assert visitor.ask(b"hello") == b"hello"
    scene.judge("not from there", "root/udp4/router")
