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
from .stanzas import LOCATIONS, read_status
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
