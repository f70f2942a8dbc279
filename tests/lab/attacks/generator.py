"""Sends what it is told, round after round, whatever becomes of it.  Runs on the laptop, fed to Python by `traffic`.

Its one argument is JSON: ``jobs``, ``uid`` to send as, ``pause`` between two rounds in milliseconds (with ``burst``,
also after each so many jobs), ``counts`` a file for the number of rounds and then, for each job, how often it tried and
how often the kernel took what it sent, each as `COUNTS`.  A job has a ``kind`` and ``how`` it sends:

``udp``, ``icmp``   a packet of ``data`` (hex) to the address ``to`` (and ``port``)
``icmp6``           any ICMPv6 message, by root
``raw``             a whole IPv4 packet, by root
``tcp``             a connection that is tried, and given up in the next round
``stream``          a connection that is kept, and carries ``data`` each round
``frame``           a whole frame, by root, through the device ``bind``
``resolver``        a question to each name server that /etc/resolv.conf names

and may have ``bind`` (a device), ``source`` (a port), ``mark``, ``hops``.  Standard library only, and little of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import sys

COUNTS = "Q"

_SO_MARK = 36


class Job:
    """One thing to send in each round."""

    def __init__(self, spec: dict[str, object]) -> None:
        self.how = str(spec["how"])
        self.to = str(spec.get("to", ""))
        self.port = int(str(spec.get("port", 0)))
        self.bind = str(spec.get("bind", ""))
        self.source = int(str(spec.get("source", 0)))
        self.mark = int(str(spec.get("mark", 0)))
        self.hops = int(str(spec.get("hops", 0)))
        self.data = bytes.fromhex(str(spec.get("data", "")))
        self.tried = self.taken = 0
        self._socket: socket.socket | None = None

    def run(self) -> None:
        """Send once; what fails is tried again in the next round, from the beginning."""
        self.tried += 1
        try:
            self._send()
            self.taken += 1
        except OSError:
            self._close()

    def _send(self) -> None:
        if self.how == "tcp":
            self._close()
            self._connect()
        elif self.how == "stream":
            if self._socket is None:
                self._connect()
            assert self._socket
            with contextlib.suppress(BlockingIOError):
                self._socket.recv(65536)
            self._socket.send(self.data)
        elif self.how == "resolver":
            self._ask()
        else:
            self._socket = self._socket or self._open()
            self._socket.sendto(self.data, self._address(self.to))

    def _connect(self) -> None:
        self._socket = self._open()
        with contextlib.suppress(BlockingIOError):
            self._socket.connect(self._address(self.to))

    def _ask(self) -> None:
        with open("/etc/resolv.conf", encoding="ascii", errors="replace") as file:
            words = [line.split() for line in file]
        for _, server in (line for line in words if len(line) == 2 and line[0] == "nameserver"):
            self.to = server
            with self._open() as question:
                question.sendto(self.data, self._address(server))

    def _open(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.to else socket.AF_INET
        six = family == socket.AF_INET6
        types = {
            "udp": (family, socket.SOCK_DGRAM, 0),
            "resolver": (family, socket.SOCK_DGRAM, 0),
            "tcp": (family, socket.SOCK_STREAM, 0),
            "stream": (family, socket.SOCK_STREAM, 0),
            "icmp": (family, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP),
            "icmp6": (family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
            "raw": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
            "frame": (socket.AF_PACKET, socket.SOCK_RAW, 0),
        }
        made = socket.socket(*types[self.how])
        try:
            made.setblocking(False)
            if self.how == "frame":
                made.bind((self.bind, 0))
                return made
            if self.bind:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.bind.encode())
            if self.mark:
                made.setsockopt(socket.SOL_SOCKET, _SO_MARK, self.mark)
            if self.hops:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, self.hops)
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, self.hops)
            if self.source:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Beside a DHCP client that has the port, too.
                with contextlib.suppress(OSError):
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                made.bind(("::" if six else "0.0.0.0", self.source))
        except OSError:
            made.close()
            raise
        return made

    def _address(self, address: str) -> tuple[str, int] | tuple[str, int, int, int] | tuple[str, int, int, int, bytes]:
        if self.how == "frame":
            return self.bind, int.from_bytes(self.data[12:14], "big"), 0, 0, self.data[:6]
        if ":" not in address:
            return address, self.port
        host, _, device = address.partition("%")
        return host, self.port, 0, socket.if_nametoindex(device) if device else 0

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def main() -> None:
    """Send until killed."""
    orders = json.loads(sys.argv[1])
    counts = os.open(orders["counts"], os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    jobs = [Job(spec) for spec in orders["jobs"]]
    if orders["uid"]:
        os.setgroups([])
        os.setresgid(orders["uid"], orders["uid"], orders["uid"])
        os.setresuid(orders["uid"], orders["uid"], orders["uid"])
    pause = select.poll()
    rounds = 0
    burst = orders.get("burst", len(jobs))
    while True:
        for number, job in enumerate(jobs):
            if number and number % burst == 0:
                pause.poll(orders["pause"])
            job.run()
        rounds += 1
        numbers = [rounds, *(number for job in jobs for number in (job.tried, job.taken))]
        os.pwrite(counts, struct.pack(f"{len(numbers)}{COUNTS}", *numbers), 0)
        pause.poll(orders["pause"])


if __name__ == "__main__":
    main()
