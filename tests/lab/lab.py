"""All of the lab in one hand: the networks, the VPN, and a laptop that has the VPN's client installed."""

from __future__ import annotations

from contextlib import ExitStack

from .closing import Closing
from .laptop import DHCP_CLIENTS, Image, Laptop
from .network import Network
from .vpn import VpnServer


class Lab(Closing):
    """A lab that is up; `close` takes it down.

    image: the laptop's disk; dhcp_client: see `Laptop`.
    """

    def __init__(self, image: Image, dhcp_client: str = DHCP_CLIENTS[0]) -> None:
        with ExitStack() as undo:
            self.network = undo.enter_context(Network())
            self.vpn = undo.enter_context(VpnServer(self.network))
            self.laptop = undo.enter_context(Laptop(self.network, image, dhcp_client))
            self.vpn.install_client(self.laptop)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Take everything down."""
        self._undo.close()

    def plug(self, site: str, link: str = "eth0") -> None:
        """Plug the laptop's `link` into a site, out of wherever it was."""
        self.network.plug(site, link)

    def unplug(self, link: str = "eth0") -> None:
        """Pull the laptop's `link` out."""
        self.network.unplug(link)

    def logs(self) -> dict[str, str]:
        """Return everything that was logged, by title, for whoever wants to know why a test failed."""
        texts = {"laptop's syslog": self.laptop.log(), "VPN server": self.vpn.log()}
        texts |= {f"router of {site}": self.network.router_log(site) for site in self.network.sites}
        return {title: text for title, text in texts.items() if text}
