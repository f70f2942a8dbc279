"""The guard stands before the pre-up hooks of Debian's bridge-utils, ifenslave and vlan, which set links up.

Bonds and VLANs this machine's kernel lacks: of those only the order is tested here.
"""

from __future__ import annotations

import pytest

from .archive import fetch_packages
from .attacks.capture import Capture
from .guarded import CORP, HINTS, UNLESS, configure, judge, list_ruleset, make_allowed
from .guests import NAME, count_leaks, start_guest
from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE

pytestmark = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])

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


def test_no_guest_gets_out_while_bridge_utils_waits(equipped: Lab) -> None:
    """Its hook sets ports and bridge up in pre-up, and waits there for half a minute until they forward."""
    laptop = equipped.laptop
    head = f"iface br0 inet dhcp\n    bridge_ports eth0 {NAME}"
    outside = "outside-ports eth0"
    equipped.plug("cafe")
    sender = start_guest(equipped)
    try:
        with Capture(equipped.network.wire_namespace) as capture:
            configure(equipped, outside, CORP, head=f"{head}\n    bridge_fd 0")
            laptop.ifup("br0")
            assert count_leaks(capture, CAFE) > 10, "without a guard everything leaves"
            laptop.ifdown("br0")
            capture.read()
            configure(equipped, outside, CORP, UNLESS, HINTS, head=head)
            laptop.ifup("br0")
            judge(capture, make_allowed(CAFE))
            laptop.ifdown("br0")
            judge(capture, make_allowed(CAFE))
    finally:
        sender.kill()
        sender.process.wait()
    assert list_ruleset(laptop) == ""
