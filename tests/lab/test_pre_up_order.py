"""The guard stands before the pre-up hooks of Debian's bridge-utils, ifenslave and vlan, which set links up.

Bonds and VLANs this machine's kernel lacks: of those only the order is tested here.
"""

from __future__ import annotations

import pytest

from .archive import fetch_packages
from .guarded import CORP, HINTS, UNLESS, configure
from .lab import Lab
from .network import CAFE

pytestmark = pytest.mark.parametrize("dhcp_client", ["dhclient"])

OURS = "/etc/network/if-pre-up.d/00-netconf-hooks"
OTHERS = {"bridge-utils": "bridge", "ifenslave": "ifenslave", "vlan": "vlan"}
# bridge_fd is the package's default; bridge_maxwait only spares the half minute until the port forwards.
BRIDGE = f"""\
iface br0 inet static
    address {CAFE.router[:-1]}77/24
    gateway {CAFE.router}
    bridge_ports eth0
    bridge_maxwait 0
"""


@pytest.fixture
def equipped(lab: Lab) -> Lab:
    """A lab whose laptop has the three packages, as Debian has them."""
    for package in fetch_packages(list(OTHERS)):
        (lab.laptop.namespaces.root / "tmp" / package.name).write_bytes(package.read_bytes())
        lab.laptop.run(["dpkg", "--force-unsafe-io", "--force-depends", "-i", f"/tmp/{package.name}"], timeout=120)
    return lab


def test_ours_is_the_first(equipped: Lab) -> None:
    listed = equipped.laptop.run(["run-parts", "--test", "/etc/network/if-pre-up.d"]).stdout.splitlines()
    assert listed[0] == OURS
    assert {f"/etc/network/if-pre-up.d/{name}" for name in OTHERS.values()} <= set(listed)


def test_bridge_utils_sets_up_a_bridge_whose_guard_stands(equipped: Lab) -> None:
    laptop = equipped.laptop
    equipped.plug("cafe")
    # What the hook of bridge-utils finds when it sets ports and bridge up.
    laptop.write("/etc/network/if-pre-up.d/01-before", "#!/bin/sh\nnft list tables >/run/found\n", 0o755)
    configure(equipped, CORP, UNLESS, HINTS, head=BRIDGE)
    said = laptop.ifup("-v", "br0")
    executed = [line for line in (said.stdout + said.stderr).splitlines() if "if-pre-up.d/" in line]
    order = [line.rpartition("/")[2].split()[0] for line in executed if "executing" in line]
    assert order.index("00-netconf-hooks") < order.index("bridge")
    assert "table inet netconf-guard" in laptop.read("/run/found")
    laptop.ifdown("br0")
