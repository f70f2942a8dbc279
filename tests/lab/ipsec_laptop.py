"""A laptop with strongSwan: how it is installed and configured, and the fixtures of the tests that use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from .archive import ArchiveError, fetch_packages
from .ipsec import (
    NAME, STARTER_ALONE, STRONGSWAN, SWANCTL_ALONE, IpsecGateway, Machine, write_starter, write_swanctl
)  # fmt: skip
from .lab import Lab
from .laptop import Image
from .network import CAFE, CORP_HOST
from .stanzas import LOCATIONS, find_records, read_status
from .waiting import wait_until

STANZAS = f"""\
iface roaming inet dhcp
{LOCATIONS}
    netconf-vpn      ipsec {{name}}  unless home-lan office-lan
iface eth0 inherits roaming
iface wlan0 inherits roaming
"""


class Client(NamedTuple):
    """A way to have IPsec on a laptop: what is installed, how it is configured, which daemon runs then."""

    packages: Sequence[str]
    configure: Callable[[Machine], None]
    daemon: str


STRONGSWANS = {
    "swanctl": Client(STRONGSWAN, write_swanctl, "/usr/lib/ipsec/charon"),
    "swanctl with charon-systemd": Client(SWANCTL_ALONE, write_swanctl, "/usr/sbin/charon-systemd"),
    "ipsec beside swanctl": Client(STRONGSWAN, write_starter, "/usr/lib/ipsec/charon"),
    "ipsec alone": Client(STARTER_ALONE, write_starter, "/usr/lib/ipsec/charon"),
}


class Images:
    """Disks of laptops with the product and other packages, each made once."""

    def __init__(self, packages: Sequence[Path]) -> None:
        self._packages = packages
        self._made: dict[tuple[Sequence[str], bool], Image] = {}
        self._undo = ExitStack()

    def find(self, names: Sequence[str], product: bool = True) -> Image:
        """Return the disk with these packages of the archive; product: and with ours."""
        key = (tuple(names), product)
        if key not in self._made:
            files = fetch_packages(names) + (list(self._packages) if product else [])
            self._made[key] = self._undo.enter_context(Image(files))
        return self._made[key]

    def close(self) -> None:
        """Throw them away."""
        self._undo.close()


@pytest.fixture(scope="module")
def images(packages: list[Path]) -> Iterator[Images]:
    """The disks; skips where Debian's archive can't be reached."""
    made = Images(packages)
    try:
        made.find(STRONGSWAN, product=False)
    except ArchiveError as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture
def lab(images: Images, client: Client) -> Iterator[Lab]:
    """A lab whose laptop has `client`, configured."""
    with Lab(images.find(client.packages)) as made:
        client.configure(made.laptop)
        configure(made)
        yield made


@pytest.fixture
def gateway(lab: Lab, images: Images) -> Iterator[IpsecGateway]:
    """The IPsec gateway of the lab, up."""
    with IpsecGateway(lab.network, images.find(STRONGSWAN, product=False)) as made:
        yield made
        # pytest shows this where the test failed.
        print(made.log())


def configure(lab: Lab, name: str = NAME) -> None:
    """Write the rules: the tunnel of this name runs but at home and in the office."""
    lab.laptop.write("/etc/network/interfaces", STANZAS.format(name=name))


def read_tunnel(lab: Lab, name: str = NAME) -> dict[str, object]:
    """Return what ``netconf-hooks status --json`` says of the tunnel."""
    return read_status(lab)["tunnels"][f"ipsec {name}"]


def wait_until_up(lab: Lab, name: str = NAME) -> None:
    """Wait until packets pass, and until `status` says so."""
    wait_until(lambda: lab.laptop.pings(CORP_HOST), "the host behind the VPN to answer")
    assert read_tunnel(lab, name)["up"] is True


def go_up(lab: Lab, site: str = CAFE.name, link: str = "eth0") -> float:
    """Plug in a link and bring it up; return the seconds that took."""
    lab.plug(site, link)
    began = time.monotonic()
    lab.laptop.ifup(link)
    return time.monotonic() - began


def list_associations(lab: Lab) -> str:
    """Return what charon has, by whichever program is there."""
    for command in (["swanctl", "--list-sas"], ["ipsec", "status"]):
        if lab.laptop.run(["which", command[0]], check=False).returncode == 0:
            return lab.laptop.run(command, check=False).stdout
    raise AssertionError("no strongSwan on the laptop")


def list_tasks(lab: Lab) -> str:
    """Return what charon is at, by whichever program is there."""
    for command in (["swanctl", "--list-sas"], ["ipsec", "statusall"]):
        if lab.laptop.run(["which", command[0]], check=False).returncode == 0:
            return lab.laptop.run(command, check=False).stdout
    raise AssertionError("no strongSwan on the laptop")


def expect_nothing_left(lab: Lab) -> None:
    """The tunnel has gone, and nobody tries to bring it up."""
    assert find_attempts(lab) == []
    assert NAME not in list_associations(lab)
    assert not lab.laptop.pings(CORP_HOST)


def change_address(lab: Lab) -> None:
    """Let the laptop's packets come from another address, so that MOBIKE has something to do.

    There is a route all the time: without one charon defers MOBIKE until something else changes.
    """
    address = f"{CAFE.router.rpartition('.')[0]}.99"
    lab.laptop.run(["ip", "addr", "add", f"{address}/24", "dev", "eth0"])
    lab.laptop.run(["ip", "route", "replace", "default", "via", CAFE.router, "src", address])


def find_attempts(lab: Lab) -> list[int]:
    """Return the pids of the attempts to bring up a tunnel."""
    return [pid for pid, command in lab.laptop.processes().items() if "/usr/lib/netconf-hooks/tunnel" in command]


def bury_gateway(lab: Lab, gateway: IpsecGateway) -> None:
    """End a tunnel whose gateway died while an exchange of MOBIKE was pending, and check that it ends soon."""
    go_up(lab)
    wait_until_up(lab)
    gateway.kill()
    change_address(lab)
    wait_until(lambda: "IKE_MOBIKE" in list_tasks(lab), "MOBIKE to begin")
    began = time.monotonic()
    lab.laptop.ifdown("eth0")
    wait_until(lambda: NAME not in list_associations(lab), "the tunnel to be gone")
    print(f"gateway died, MOBIKE pending, ifdown -> gone: {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 10.0
    wait_until(lambda: find_records(lab) == [], "everything to be done")
    expect_nothing_left(lab)
