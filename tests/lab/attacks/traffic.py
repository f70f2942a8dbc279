"""What the laptop sends all the time: each kind of packet, from each kind of sender, to wherever there is.

Senders are root, the user nobody, and a container: a network namespace of its own whose packets the laptop forwards,
its IPv4 addresses translated as docker does.  A kind of packet is written ``SENDER/PROTOCOL/WHERE``, as
``nobody/udp4/bound``:

``beyond``     a host on the internet, by whatever route leads there
``bound``      the same with SO_BINDTODEVICE, past all routes
``neighbour``  another machine on the café's link
``router``     its router
``resolver``   the name servers of /etc/resolv.conf
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..closing import Closing
from ..laptop import Laptop
from ..namespaces import Running
from ..network import CAFE, INTERNET_HOST, Site
from ..waiting import wait_until
from .capture import SECRET
from .generator import COUNTS

ROOT, NOBODY, CONTAINER = "root", "nobody", "container"
SENDERS = (ROOT, NOBODY, CONTAINER)
INTERNET_HOST6 = "2001:db8:ffff::1"
# The other machine on a link is the router's second address: what it is sent has to be on the wire, no more.
NEIGHBOUR = 9

PAUSE = 40  # milliseconds

_DISCARD = 9
_FIRST_TCP_PORT = 21000
_UIDS = {ROOT: 0, NOBODY: 65534, CONTAINER: 0}
_ANYBODY_PINGS = "net.ipv4.ping_group_range=0 2147483647"  # icmp(7)
_CONTAINER = """\
link add ct0 type veth peer name eth0 netns container
link set ct0 up
addr add 172.30.0.1/24 dev ct0
addr add 2001:db8:30::1/64 dev ct0 nodad
"""
_IN_CONTAINER = """\
link set lo up
link set eth0 up
addr add 172.30.0.2/24 dev eth0
addr add 2001:db8:30::2/64 dev eth0 nodad
route add default via 172.30.0.1
route add default via 2001:db8:30::1
"""
TRANSLATION = """
table ip docker {
    chain postrouting {
        type nat hook postrouting priority srcnat
        ip saddr 172.30.0.0/24 masquerade
    }
}
"""


class Job(NamedTuple):
    """One kind of packet: see `generator`."""

    kind: str
    how: str
    to: str = ""
    port: int = 0
    bind: str = ""
    source: int = 0
    mark: int = 0
    hops: int = 0
    data: bytes = b""


class Sender(Closing):
    """One process that sends `jobs`, from now until `close`.

    name: of the sender, and of the file with its counters; pause: between two rounds, in milliseconds.
    urgent: whether it runs before all that is not in a hurry, so that it sends however busy the machine is.
    """

    def __init__(
        self, laptop: Laptop, name: str, jobs: Sequence[Job], pause: int = PAUSE, urgent: bool = False
    ) -> None:
        self.name = name
        self.jobs = tuple(jobs)
        self._file = laptop.namespaces.root / f"run/sender-{name}"
        orders = {
            "jobs": [job._asdict() | {"data": job.data.hex()} for job in jobs],
            "uid": _UIDS.get(name.partition("-")[0], 0),
            "pause": pause,
            "counts": f"/run/sender-{name}",
        }
        place = ["ip", "netns", "exec", "container"] if name.startswith(CONTAINER) else []
        program = (Path(__file__).parent / "generator.py").read_text()
        place += ["chrt", "--rr", "1"] if urgent else []
        argv = [*place, "/usr/bin/python3", "-IS", "-", json.dumps(orders)]
        self._running: Running = laptop.start(argv, text=program)
        wait_until(lambda: self._ended() or self.count_rounds() > 0, f"{name} to send")

    def close(self) -> None:
        """Stop sending."""
        if self._running.process.poll() is None:
            self._running.kill()
        self._running.wait()

    def count_rounds(self) -> int:
        """Return how often everything was sent."""
        numbers = self._read()
        return numbers[0] if numbers else 0

    def count_taken(self) -> dict[str, int]:
        """Return how often the kernel took a packet to send it, by kind."""
        return dict(zip((job.kind for job in self.jobs), self._read()[2::2]))

    def _ended(self) -> bool:
        if self._running.process.poll() is None:
            return False
        raise AssertionError(f"{self.name} does not send: {self._running.wait()}")

    def _read(self) -> tuple[int, ...]:
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:
            return ()
        return struct.unpack(f"{len(data) // 8}{COUNTS}", data)


class Traffic(Closing):
    """All senders at once, on `laptop`, with what `site` has as neighbours; from now until `close`."""

    def __init__(self, laptop: Laptop, site: Site = CAFE) -> None:
        self.senders: list[Sender] = []
        self.ports: dict[int, str] = {}
        self._laptop = laptop
        self._site = site
        _build_container(laptop)
        for name in SENDERS:
            self.add(name, self._plan(name))

    def close(self) -> None:
        """Stop sending."""
        for sender in self.senders:
            sender.close()

    def add(self, name: str, jobs: Sequence[Job], pause: int = PAUSE, urgent: bool = False) -> Sender:
        """Let one more process send; its name begins with that of one of `SENDERS`, as who or where it is."""
        sender = Sender(self._laptop, name, jobs, pause, urgent)
        self.senders.append(sender)
        self.ports |= {job.port: job.kind for job in jobs if job.how in ("tcp", "stream")}
        return sender

    def wait_rounds(self, rounds: int = 5) -> None:
        """Wait until every sender has sent everything so many times from now on: else it proves nothing."""
        until = {sender.name: sender.count_rounds() + rounds for sender in self.senders}
        wait_until(
            lambda: all(sender.count_rounds() >= until[sender.name] for sender in self.senders),
            f"{rounds} rounds of all senders",
        )

    def count_taken(self) -> dict[str, int]:
        """Return how often a kernel took each kind of packet to send it."""
        return {kind: count for sender in self.senders for kind, count in sender.count_taken().items()}

    def _plan(self, name: str) -> list[Job]:
        number, prefix = self._site.number, self._site.prefix6
        router6 = f"{prefix}1" if name == CONTAINER else "fe80::1%eth0"
        places = [
            ("beyond", (INTERNET_HOST, INTERNET_HOST6), ""),
            ("neighbour", (f"192.168.{number}.{NEIGHBOUR}", f"{prefix}{NEIGHBOUR}"), ""),
            ("router", (self._site.router, router6), ""),
        ]
        if name != CONTAINER:
            places.append(("bound", places[0][1], "eth0"))
        jobs = []
        for where, addresses, device in places:
            for version, address in zip((4, 6), addresses):
                for how in ("udp", "tcp", "icmp", "dns"):
                    kind = f"{name}/{how}{version}/{where}"
                    if how != "dns" or where != "neighbour":
                        jobs.append(self._make_job(kind, how, address, device))
        if name != CONTAINER:
            jobs.append(Job(f"{name}/dns/resolver", "resolver", port=53, data=make_question(f"{name}/dns/resolver")))
        return jobs

    def _make_job(self, kind: str, how: str, address: str, device: str) -> Job:
        if how == "dns":
            return Job(kind, "udp", address, 53, device, data=make_question(kind))
        if how == "icmp":
            return Job(kind, how, address, 0, device, data=make_echo(kind, 6 if ":" in address else 4))
        if how == "tcp":
            port = _FIRST_TCP_PORT + len(self.ports)
            self.ports[port] = kind
            return Job(kind, how, address, port, device)
        return Job(kind, how, address, _DISCARD, device, data=mark_data(kind))


def mark_data(kind: str) -> bytes:
    """Return what a packet carries so that the capture knows it again."""
    return SECRET + kind.encode() + b";" + bytes(32)


def make_question(kind: str) -> bytes:
    """Return a question to a name server for a name that is `kind` (RFC 1035, section 4.1)."""
    label = SECRET + kind.encode() + b";"
    return bytes((0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + bytes((len(label),)) + label + bytes((0, 0, 1, 0, 1))


def make_echo(kind: str, version: int) -> bytes:
    """Return an echo request; the kernel adds identifier and checksum (icmp(7), IPPROTO_ICMP)."""
    return bytes((8 if version == 4 else 128, 0, 0, 0, 0, 0, 0, 1)) + mark_data(kind)


def make_packet(kind: str, source: str, destination: str, ports: tuple[int, int] = (9, 9)) -> bytes:
    """Return a whole IPv4 packet with UDP (RFC 791, section 3.1), which says that it is from `source`."""
    data = mark_data(kind)
    datagram = struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack("!10H", header + addresses))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return header[:10] + struct.pack("!H", checksum) + addresses + datagram


def _build_container(laptop: Laptop) -> None:
    laptop.run(["ip", "netns", "add", "container"])
    laptop.run(["ip", "-batch", "-"], text=_CONTAINER)
    laptop.run(["ip", "-n", "container", "-batch", "-"], text=_IN_CONTAINER)
    laptop.run(
        ["sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
         # A machine that forwards takes router advertisements all the same (ip-sysctl, accept_ra).
         "net.ipv6.conf.eth0.accept_ra=2",
         _ANYBODY_PINGS]
    )  # fmt: skip
    laptop.run(["ip", "netns", "exec", "container", "sysctl", "-q", "-w", _ANYBODY_PINGS])
    translate(laptop)


def translate(laptop: Laptop) -> None:
    """Translate the container's IPv4 addresses, as docker does."""
    laptop.run(["nft", "-f", "-"], text=TRANSLATION)
