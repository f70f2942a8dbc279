"""Servers of a test's own in another network namespace, honest or hostile."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import select
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from .namespaces import enter_network
from .pair import Wire

ROUTER = "192.168.7.1"


class Far:
    """What answers at the other end of the wire: servers in threads, which end with the test.

    network: the file of the network namespace that they are in.
    """

    def __init__(self, network: str, undo: contextlib.ExitStack) -> None:
        self.network = network
        self._undo = undo
        self.over = threading.Event()
        undo.callback(self.over.set)

    def call(self, function: Callable[[], socket.socket]) -> socket.socket:
        """Return the socket that `function` makes in the other network; it is closed at the end."""
        made: list[socket.socket] = []

        def work() -> None:
            enter_network(self.network)
            made.append(function())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self._undo.callback(made[0].close)
        return made[0]

    def serve(self, handle: Callable[[socket.socket], None], port: int = 0, address: str = ROUTER) -> str:
        """Accept TCP connections and leave each to `handle`; return HOST:PORT."""
        listener = self.call(lambda: socket.create_server(
            (address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        ))

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=self._handle, args=(handle, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        # shutdown wakes accept(), close alone does not.
        self._undo.callback(listener.shutdown, socket.SHUT_RDWR)
        number = listener.getsockname()[1]
        return f"[{address}]:{number}" if ":" in address else f"{address}:{number}"

    def answer_datagrams(self, handle: Callable[[bytes], list[bytes]], address: str) -> None:
        """Be a name server: `handle` gives the answers to a packet."""
        server = self.call(lambda: bind_datagrams(address))

        def work() -> None:
            while not self.over.is_set():
                try:
                    data, sender = server.recvfrom(4096)
                    for answer in handle(data):
                        server.sendto(answer, sender)
                except TimeoutError:
                    continue
                except OSError:
                    return

        server.settimeout(0.2)  # and it looks whether the test is over
        threading.Thread(target=work, daemon=True).start()

    def advertise_everything(self, device: str, mac: str) -> None:
        """Answer each neighbour solicitation, for any address, as a host with this MAC address."""
        def open_packets() -> socket.socket:
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
            packets.bind((device, 0x86DD))
            return packets

        packets = self.call(open_packets)
        own = bytes.fromhex(mac.replace(":", ""))

        def work() -> None:
            while not self.over.is_set():
                try:
                    frame, sender = packets.recvfrom(2000)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if sender[2] == socket.PACKET_OUTGOING or frame[20] != 58 or frame[54] != 135:
                    continue
                target = frame[62:78]
                body = struct.pack("!BBHI16sBB6s", 136, 0, 0, 0x20000000, target, 2, 1, own)
                all_nodes = socket.inet_pton(socket.AF_INET6, "ff02::1")
                receiver = frame[22:38] if any(frame[22:38]) else all_nodes
                pseudo = target + receiver + struct.pack("!IxxxB", len(body), 58)
                words = struct.unpack(f"!{len(pseudo + body) // 2}H", pseudo + body)
                total = sum(words)
                while total >> 16:
                    total = (total & 0xFFFF) + (total >> 16)
                body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
                header = struct.pack("!IHBB16s16s", 6 << 28, len(body), 58, 255, target, receiver)
                packets.send(frame[6:12] + own + b"\x86\xdd" + header + body)

        packets.settimeout(0.2)
        threading.Thread(target=work, daemon=True).start()

    def lay_tunnel(self, wire: Wire, name: str) -> None:
        """Make a device of this name at both ends, as OpenVPN does, and carry packets between them."""
        ends = (open_tunnel(wire.laptop.files["net"], name), open_tunnel(self.network, name))

        def carry() -> None:
            poll = select.poll()
            for end in ends:
                poll.register(end, select.POLLIN)
            while not self.over.is_set():
                for end, _ in poll.poll(200):
                    with contextlib.suppress(OSError):  # a device that is not set up
                        os.write(ends[end == ends[0]], os.read(end, 2000))
            for end in ends:
                os.close(end)

        threading.Thread(target=carry, daemon=True).start()

    def capture(self) -> socket.socket:
        """Return a packet(7) socket that has all frames the laptop sends from now on."""
        def listen() -> socket.socket:
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            packets.bind(("r0", 3))
            packets.setblocking(False)
            return packets

        return self.call(listen)

    @staticmethod
    def _handle(handle: Callable[[socket.socket], None], connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            handle(connection)


def open_tunnel(network: str, name: str) -> int:
    """Return a descriptor of a new tun device in a network namespace (Linux Documentation/networking/tuntap.rst)."""
    opened: list[int] = []

    def work() -> None:
        enter_network(network)
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))  # TUNSETIFF, IFF_TUN|NO_PI
        opened.append(descriptor)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return opened[0]


def bind_datagrams(address: str) -> socket.socket:
    """Return the socket of a name server at an address."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    return server


class Certificate:
    """A self-signed certificate."""

    def __init__(self, path: Path) -> None:
        key, pem = f"{path}.key", f"{path}.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-subj", "/CN=intranet.corp.example.com", "-days", "1", "-keyout", key, "-out", pem],
            check=True, capture_output=True,
        )  # fmt: skip
        self.names: list[str | None] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pem, key)
        self.context.sni_callback = lambda _, name, __: self.names.append(name)
        self.sha256 = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(pem).read_text())).hexdigest()

    def serve(self, connection: socket.socket) -> None:
        """Be a TLS server: shake hands, and wait until the other side is done."""
        with self.context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1)
