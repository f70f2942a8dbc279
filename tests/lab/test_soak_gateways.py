"""An IPsec gateway that dies while an exchange with it is pending, again and again (field case F18).

``make soak`` does it a hundred times: NETCONF_SOAK_GATEWAYS.
"""

from __future__ import annotations

import os

import pytest

from . import ipsec_laptop
from .ipsec import IpsecGateway
from .ipsec_laptop import STRONGSWANS, bury_gateway
from .lab import Lab

gateway, images, lab = ipsec_laptop.gateway, ipsec_laptop.images, ipsec_laptop.lab

GATEWAYS = int(os.environ.get("NETCONF_SOAK_GATEWAYS", "2"))


@pytest.mark.parametrize(
    "client", [STRONGSWANS["swanctl"], STRONGSWANS["ipsec alone"]], ids=["swanctl", "ipsec alone"]
)
def test_each_dead_gateway_lets_the_tunnel_end(lab: Lab, gateway: IpsecGateway) -> None:
    for number in range(GATEWAYS):
        print(f"gateway {number}:", end=" ")
        bury_gateway(lab, gateway)
        lab.laptop.run(["ip", "addr", "flush", "dev", "eth0"])
        lab.unplug("eth0")
        gateway.start()
    assert "Traceback" not in lab.laptop.log()
