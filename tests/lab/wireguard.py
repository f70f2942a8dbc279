"""WireGuard in the lab: a gateway beside the OpenVPN server, and a configuration for the laptop.

In the kernel where that can, else in userland (wireguard-go): wg-quick(8) decides, on either side.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from .machine import Machine
from .network import VPN_GATEWAY, Network

NAME = "corp"
PORT = 51820
GATEWAY = "10.77.0.1"  # the gateway's address inside the tunnel
CONFIG = f"/etc/wireguard/{NAME}.conf"
NETWORKS = "10.77.0.0/24, 10.99.0.0/24"

_GATEWAY_CONFIG = "/run/vpn/gateway.conf"
_GATEWAY = """\
[Interface]
PrivateKey = {private}
Address = 10.77.0.1/24
ListenPort = {port}
[Peer]
PublicKey = {client}
AllowedIPs = 10.77.0.2/32
"""
_CLIENT = """\
[Interface]
PrivateKey = {private}
Address = 10.77.0.2/24
{more}[Peer]
PublicKey = {gateway}
Endpoint = {endpoint}
AllowedIPs = {networks}
"""

# A stanza that is the tunnel, and the configuration that it loads: as interfaces-wireguard(5) of ifupdown-ng has it,
# with userland's WireGuard where the kernel has none.
SETCONF = "/etc/wireguard/wg0.setconf"
WG0 = f"""\
iface wg0 inet static
    address  10.77.0.2/24
    pre-up   ip link add wg0 type wireguard 2>/dev/null || wireguard-go wg0
    pre-up   wg setconf wg0 {SETCONF}
    up       ip route add 10.99.0.0/24 dev wg0
    post-down ip link del wg0
"""


class WireGuardGateway:
    """A WireGuard interface at the VPN gateway of `network`; behind it is `network.CORP_HOST`."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._key, self.public_key = self.make_keys()
        self._client_key, client = self.make_keys()
        network.write(_GATEWAY_CONFIG, _GATEWAY.format(private=self._key, port=PORT, client=client))
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def make_keys(self) -> tuple[str, str]:
        """Return a new private key, and the public key that belongs to it."""
        private = self._network.run("vpn", ["wg", "genkey"]).stdout.strip()
        return private, self._network.run("vpn", ["wg", "pubkey"], text=private).stdout.strip()

    def client_config(
        self, networks: str = NETWORKS, endpoint: str = f"{VPN_GATEWAY}:{PORT}", more: str = ""
    ) -> str:
        """Return the laptop's configuration: what goes through the tunnel, to where; more lines of ``[Interface]``."""
        return _CLIENT.format(
            private=self._client_key, gateway=self.public_key, networks=networks, endpoint=endpoint, more=more
        )

    def install_client(self, machine: Machine, path: str = CONFIG) -> None:
        """Write the laptop's configuration to a machine."""
        machine.write(path, self.client_config(), 0o600)

    def install_stanza_client(self, machine: Machine) -> None:
        """Write the configuration that the stanza `WG0` loads: without the lines that only wg-quick(8) knows."""
        lines = self.client_config().splitlines(keepends=True)
        machine.write(SETCONF, "".join(line for line in lines if "Address" not in line), 0o600)

    def start(self) -> None:
        """Start the gateway, stopped before; it answers as soon as this returns."""
        self._network.run("vpn", ["wg-quick", "up", _GATEWAY_CONFIG])

    def stop(self) -> None:
        """End the gateway as a power failure would, without a word to its peers; one that is down is no error."""
        self._network.run("vpn", ["ip", "link", "delete", "dev", "gateway"], check=False)
