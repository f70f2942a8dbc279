"""A bridge on the lab's laptop, and its guests: network namespaces behind a veth."""

from __future__ import annotations

from .lab import Lab
from .network import Site

BRIDGE = """\
iface br0 inet dhcp
    pre-up ip link add br0 type bridge forward_delay 0
    pre-up ip link set eth0 master br0 up
    post-down ip link del br0
"""


def add_guest(lab: Lab, name: str, number: int, site: Site, port: str = "") -> None:
    """Add a guest to br0, with an address of the site; its port has the guest's name if no other is given."""
    laptop, port = lab.laptop, port or name
    laptop.run(["ip", "netns", "add", name])
    lines = [
        f"link add {port} type veth peer name eth0 netns {name}",
        f"link set {port} master br0 addrgenmode none up",
        f"-n {name} link set lo up",
        f"-n {name} addr add 192.168.{site.number}.{number}/24 dev eth0",
        f"-n {name} addr add {site.prefix6}{number}/64 dev eth0 nodad",
        f"-n {name} link set eth0 up",
        f"-n {name} route add default via {site.router}",
        f"-n {name} route add default via {site.prefix6}1",
    ]
    for line in lines:
        laptop.run(["ip", *line.split()])


def run_in(lab: Lab, guest: str, *argv: str, text: str = "") -> bool:
    """Whether a program in a guest succeeds."""
    command = ["ip", "netns", "exec", guest, *argv]
    return lab.laptop.run(command, check=False, text=text or None).returncode == 0


def pings(lab: Lab, guest: str, host: str) -> bool:
    """Whether a host answers a guest within a second."""
    return run_in(lab, guest, "ping", "-n", "-q", "-c", "1", "-W", "1", host)
