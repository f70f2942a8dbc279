"""The guard's view of frames: those of child devices, and devices that have none (modems, tunnels: bare IP)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import subprocess

import pytest

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import nftables

from .crossing import FAR, FAR_MAC, GUARDED, Crossing, acting_as
from .waiting import wait_until

DEVICE = "wwan0"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000  # linux/if_tun.h


# The first two bytes of the source address are where an Ethernet frame has its type, and these are those of a VLAN.
@pytest.mark.parametrize("source", ["129.0.0.2", "136.168.0.2"])
def test_an_address_that_looks_like_a_vlans_tag(source: str) -> None:
    """Where there is no Ethernet, nothing is taken for its type: what is let through leaves, and nothing else."""
    with Crossing() as crossing, contextlib.ExitStack() as stack:
        crossing.run("ip", "-batch", "-", text="tuntap add wwan0 mode tun\nlink set wwan0 up\n"
                     f"addr add {source}/24 dev wwan0\nroute replace default dev wwan0\n")  # fmt: skip
        device = crossing.call(lambda: os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
        stack.callback(os.close, device)
        request = struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI)
        crossing.call(lambda: fcntl.ioctl(device, TUNSETIFF, request))
        wait_until(lambda: "LOWER_UP" in crossing.run("ip", "link", "show", DEVICE), "the device to be up")
        guard = crossing.call(nftables.Firewall)
        crossing.call(lambda: guard.close(DEVICE, (Exemption("udp", "203.0.113.1/32", 1194),)))

        def send(port: int) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, contextlib.suppress(PermissionError):
                sender.sendto(b"<to %d>" % port, ("203.0.113.1", port))

        seen = b""
        for port in (1195, 1194):
            crossing.call(lambda: send(port))
        while b"<to 1194>" not in seen:
            assert select.select([device], [], [], 10.0)[0], "what is let through does not leave"
            seen += os.read(device, 65536)
        assert b"<to 1195>" not in seen


def test_a_macvlan() -> None:
    """Of what a child device sends, only packets of the right user pass, and none of a container's."""
    with Crossing() as crossing:
        child = ("link add child link eth0 type macvlan mode bridge\n"
                 "link add other link eth0 type macvlan mode bridge\n")  # fmt: skip
        crossing.run("ip", "-batch", "-", text=child)
        subprocess.run(["nsenter", f"--net=/proc/{crossing.laptop}/ns/net", "ip", "link", "set", "other", "netns",
                        str(crossing.behind)], check=True)  # fmt: skip
        for pid, device in ((crossing.laptop, "child"), (crossing.behind, "other")):
            text = (f"link set {device} up\naddr add 192.0.2.77/24 dev {device}\n"
                    f"route add 203.0.113.0/24 via {FAR[4]} dev {device}\n"
                    f"neigh replace {FAR[4]} lladdr {FAR_MAC} dev {device}\n")  # fmt: skip
            command = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"]
            subprocess.run(command, input=text, text=True, check=True)

        def send(uid: int) -> None:
            with acting_as(uid):
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with sender, contextlib.suppress(PermissionError):
                sender.sendto(b"<from %d>" % uid, ("203.0.113.1", 1194))

        def list_seen(behind: bool) -> list[int]:
            seen = crossing.see(lambda: list(map(send, (0, 1000, 1001))), behind)
            return [uid for uid in (0, 1000, 1001) if b"<from %d>" % uid in seen]

        assert list_seen(behind=False) == list_seen(behind=True) == [0, 1000, 1001]
        guard = crossing.call(nftables.Firewall)
        crossing.call(lambda: guard.close(GUARDED, (Exemption("udp", "203.0.113.1/32", 1194, uids=(0, 1000)),)))
        assert list_seen(behind=False) == [0, 1000]
        assert list_seen(behind=True) == []
        # What names no user is for everybody.
        crossing.call(lambda: guard.close(GUARDED, (Exemption("udp", "203.0.113.1/32", 1194),)))
        assert list_seen(behind=False) == list_seen(behind=True) == [0, 1000, 1001]
