"""The VPN of the lab: an OpenVPN server at the gateway, and a configuration for the laptop's client.

Certificates are made on the spot; each side knows the other by its fingerprint (openvpn(8), --peer-fingerprint).
"""

from __future__ import annotations

import hashlib
import ssl
from types import TracebackType
from typing import Self

from .machine import Machine
from .network import VPN_GATEWAY, Network
from .waiting import wait_until

NAME = "corp"
PORT = 1194
# How long a client takes to notice that the server is gone, in seconds: keepalive below.
DEAD_AFTER = 5

_DIRECTORY = "/run/vpn"
_SERVER = """\
dev tun
topology subnet
server 10.8.0.0 255.255.255.0
local {gateway}
port {port}
proto udp4
dh none
cert {directory}/server.pem
key {directory}/server.key
<peer-fingerprint>
{client}
</peer-fingerprint>
keepalive 1 {dead_after}
push "route 10.99.0.0 255.255.255.0"
log-append {directory}/server.log
verb 3
"""
_CLIENT = """\
client
dev tun
proto udp4
remote {gateway} {port}
nobind
connect-retry 1 5
peer-fingerprint {server}
<cert>
{certificate}
</cert>
<key>
{key}
</key>
verb 3
"""


class VpnServer:
    """An OpenVPN server at the VPN gateway of `network`; behind it is `network.CORP_HOST`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._starts = 0
        fingerprints = {name: self._make_certificate(name) for name in ("server", "client")}
        places = {"gateway": VPN_GATEWAY, "port": PORT, "directory": _DIRECTORY, "dead_after": DEAD_AFTER}
        network.write(f"{_DIRECTORY}/server.conf", _SERVER.format(**places, **fingerprints))
        certificate, key = (network.read(f"{_DIRECTORY}/client.{kind}").strip() for kind in ("pem", "key"))
        self._client = _CLIENT.format(**places, **fingerprints, certificate=certificate, key=key)
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def client_config(self) -> str:
        """Return a client's configuration, complete with certificate and key."""
        return self._client

    def install_client(self, machine: Machine, path: str = f"/etc/openvpn/{NAME}.conf") -> None:
        """Write the client's configuration to a machine."""
        machine.write(path, self._client, 0o600)

    def start(self) -> None:
        """Start the server, stopped or dead before; returns when it listens."""
        self._starts += 1
        files = ("--config", f"{_DIRECTORY}/server.conf", "--writepid", f"{_DIRECTORY}/server.pid")
        self._network.run("vpn", ["openvpn", *files, "--daemon"])
        wait_until(
            lambda: self.log().count("Initialization Sequence Completed") == self._starts,
            "the VPN server to listen",
        )

    def stop(self) -> None:
        """Kill the server as a power failure would, without a word to its clients; none running is no error."""
        pid = self._network.read(f"{_DIRECTORY}/server.pid").strip()
        if pid:
            self._network.run("vpn", ["kill", "-KILL", pid], check=False)
            self._network.run("vpn", ["rm", f"{_DIRECTORY}/server.pid"])
            wait_until(lambda: pid not in map(str, self._network.processes()), "the VPN server to end")

    def log(self) -> str:
        """Return what the server has logged."""
        return self._network.read(f"{_DIRECTORY}/server.log")

    def _make_certificate(self, name: str) -> str:
        """Make a key and a certificate signed by itself, return its SHA-256 fingerprint."""
        self._network.write(f"{_DIRECTORY}/{name}.key", "")
        key, certificate = f"{_DIRECTORY}/{name}.key", f"{_DIRECTORY}/{name}.pem"
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        make = ["openssl", "req", "-x509", *kind, "-subj", f"/CN={name}", "-keyout", key, "-out", certificate]
        self._network.run("vpn", make)
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self._network.read(certificate))).hexdigest()
        return ":".join(digest[place:place + 2] for place in range(0, len(digest), 2))
