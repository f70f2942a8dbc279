"""The guard's view of frames, on a device that has none: a modem's or a tunnel's, which carries bare IP."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct

import pytest

from netconf_hooks.guards import Opening, nftables

from .crossing import Crossing
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
        guard = crossing.call(nftables.Guard)
        crossing.call(lambda: guard.close(DEVICE, (Opening("udp", "203.0.113.1/32", 1194),)))

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
