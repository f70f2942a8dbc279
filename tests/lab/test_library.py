"""import netconf_hooks, installed: the same questions as the hooks ask, from programs of the admin's own."""

from __future__ import annotations

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import HOME, OFFICE
from .stanzas import LOCATIONS

PROGRAM = """
import sys, netconf_hooks
iface = sys.argv[1]
try:
    place, seen = netconf_hooks.locate(iface), netconf_hooks.observe(iface)
except netconf_hooks.NetworkError as error:
    sys.exit(str(error))
print(place.location or "unknown", place.grade, *seen.list_values("gateway-mac"), *seen.list_values("dns-domain"))
"""


@pytest.fixture
def dhcp_client() -> str:
    """None of this depends on the DHCP client."""
    return DHCP_CLIENTS[0]


def ask(lab: Lab, iface: str = "eth0", *how: str) -> str:
    """Run the program and return what it says."""
    result = lab.laptop.run([*how, "/usr/bin/python3", "-c", PROGRAM, iface], check=False)
    return (result.stdout or result.stderr).strip()


def test_the_same_answers_as_the_hooks_give(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", f"iface eth0 inet dhcp\n{LOCATIONS}")
    for site, name in ((HOME, "home-lan"), (OFFICE, "office-lan")):
        lab.plug(site.name)
        lab.laptop.ifup("eth0")
        answer = f"{name} hint {site.router_mac} {site.domain}"
        assert lab.laptop.run(["netconf-hooks", "location", "eth0"]).stdout == f"{name}\n"
        assert ask(lab) == answer
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        assert ask(lab, "eth0", *nobody) == answer
        lab.laptop.ifdown("eth0")
    assert ask(lab, "nosuch0") == "nosuch0: ifquery: unknown interface nosuch0"


def test_in_every_hook_of_an_ifup_and_an_ifdown(lab: Lab) -> None:
    """Before our own hook and after it, and in if-down.d, when the record is gone and the network is still there."""
    lab.laptop.write("/etc/network/interfaces", f"iface eth0 inet dhcp\n{LOCATIONS}")
    hook = "#!/usr/bin/python3\nimport os, sys\nsys.argv[1:] = [os.environ['IFACE']]\n"
    hook += "sys.stdout = open('/run/said', 'a')\n"
    for name in ("up.d/aaa", "up.d/zzz", "down.d/aaa", "down.d/zzz"):
        lab.laptop.write(f"/etc/network/if-{name}", hook + PROGRAM, 0o755)
    lab.plug("office")
    lab.laptop.ifup("eth0")
    lab.laptop.ifdown("eth0")
    assert lab.laptop.read("/run/said").splitlines() == [f"office-lan hint {OFFICE.router_mac} {OFFICE.domain}"] * 4
