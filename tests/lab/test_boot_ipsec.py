"""ipsec on a booted Debian: nothing of it lives in the control group of what raised the link, or holds up the boot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from .archive import ArchiveError, fetch_packages
from .boot import Booted, Disk
from .booted import BOOT_TIMEOUT, LOCATIONS, ONLINE_UNIT, RAISED_BY, configure, status, wait_until_connected
from .image import find_image
from .ipsec import NAME, STARTER_ALONE, STRONGSWAN, SWANCTL_ALONE, IpsecGateway, Machine, write_starter, write_swanctl
from .laptop import Image
from .network import CORP_HOST, Network
from .waiting import wait_until

RULES = f"{LOCATIONS}    netconf-vpn ipsec {NAME} unless office\n"
UNIT = f"netconf-hooks-tunnel@ipsec-{NAME}.service"


class Client(NamedTuple):
    """A way to have strongSwan: what is installed, how it is configured, its unit and the question what it has."""

    packages: tuple[str, ...]
    configure: Callable[[Machine], None]
    unit: str
    list_associations: tuple[str, ...]


CLIENTS = {
    "swanctl": Client(SWANCTL_ALONE, write_swanctl, "strongswan.service", ("swanctl", "--list-sas")),
    "ipsec": Client(STARTER_ALONE, write_starter, "strongswan-starter.service", ("ipsec", "status")),
}


@pytest.fixture(scope="module")
def disks(disk: Disk, packages: list[Path]) -> Iterator[dict[str, Disk]]:
    """The disks with strongSwan and the product, by client."""
    # `disk` is not used, but skips where nothing can be booted.
    with ExitStack() as undo:
        try:
            made = {
                name: fetch_packages(client.packages, find_image() / "var/lib/dpkg/status")
                for name, client in CLIENTS.items()
            }
        except ArchiveError as error:
            pytest.skip(str(error))
        yield {name: undo.enter_context(Disk([*files, *packages])) for name, files in made.items()}


@pytest.fixture(scope="module")
def gateway_image(requirements: None) -> Iterator[Image]:
    """The disk of the gateway."""
    with Image(fetch_packages(STRONGSWAN)) as made:
        yield made


@pytest.fixture
def gateway(network: Network, gateway_image: Image) -> Iterator[IpsecGateway]:
    """The IPsec gateway, up."""
    with IpsecGateway(network, gateway_image) as made:
        yield made


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """Each client in turn."""
    name: str = request.param
    return name


@pytest.fixture
def machine(network: Network, disks: dict[str, Disk], client: str) -> Iterator[Booted]:
    """The laptop, in the cafe, still switched off; its IPsec daemon does not start at boot."""
    with Booted(network, disks[client]) as made:
        CLIENTS[client].configure(made)
        made.run(["systemctl", "disable", CLIENTS[client].unit])
        network.plug("cafe", "eth0")
        yield made
        print(made.journal("--lines=500"))


def list_associations(machine: Booted, client: str) -> str:
    """Return what charon has."""
    return machine.run(CLIENTS[client].list_associations, check=False).stdout


def find_ours(processes: dict[int, str]) -> list[str]:
    """Return what runs for IPsec."""
    return sorted(command for command in processes.values() if "charon" in command or "netconf-hooks/tunnel" in command)


@pytest.mark.parametrize("word", RAISED_BY)
def test_in_the_cafe_a_boot_starts_daemon_and_tunnel(
    machine: Booted, gateway: IpsecGateway, client: str, word: str
) -> None:
    configure(machine, f"{word} eth0\niface eth0 inet dhcp\n{RULES}")
    machine.boot(BOOT_TIMEOUT)
    wait_until_connected(machine)
    wait_until(lambda: not machine.is_active(UNIT), "the attempt to end")
    assert f"ipsec {NAME}: connected" in machine.journal("--identifier=netconf-hooks")
    assert status(machine)["tunnels"][f"ipsec {NAME}"]["up"] is True

    # The daemon lives in the group of its own unit, and not in that of whoever asked.
    assert machine.is_active(RAISED_BY[word])
    assert find_ours(machine.group_members(RAISED_BY[word])) == []
    assert find_ours(machine.group_members(CLIENTS[client].unit)) == find_ours(machine.processes()) != []

    machine.run(["systemctl", "stop", RAISED_BY[word]])
    wait_until(lambda: NAME not in list_associations(machine, client), "the tunnel to end")
    assert machine.is_active(CLIENTS[client].unit), "the daemon is left running"
    assert machine.run(["ls", "/run/netconf-hooks/interfaces"]).stdout == ""


def test_a_boot_waits_for_no_tunnel(machine: Booted, gateway: IpsecGateway, client: str) -> None:
    """The daemon is ordered after network-online.target, which waits for networking.service, which runs our hook."""
    configure(machine, f"auto eth0\niface eth0 inet dhcp\n{RULES}")
    machine.write("/etc/systemd/system/online.service", ONLINE_UNIT)
    machine.run(["systemctl", "enable", "online.service"])
    gateway.kill()
    machine.boot(BOOT_TIMEOUT)
    raised = machine.unit("networking.service")
    assert raised["Result"] == "success"
    begun, ended = (int(raised[f"{step}TimestampMonotonic"]) / 1e6 for step in ("InactiveExit", "ActiveEnter"))
    assert ended - begun < 5.0
    assert machine.is_active("online.service")
    wait_until(lambda: "CONNECTING" in list_associations(machine, client), "charon to try")
    assert [command for command in find_ours(machine.group_members(UNIT)) if "netconf-hooks/tunnel" in command]
    assert status(machine)["tunnels"][f"ipsec {NAME}"]["up"] is False

    machine.run(["ifdown", "eth0"])
    assert not machine.is_active(UNIT)
    assert NAME not in list_associations(machine, client)
    gateway.start()
    assert not machine.pings(CORP_HOST)
    machine.run(["ifup", "eth0"])
    wait_until_connected(machine)


def test_a_daemon_that_can_not_be_started_is_told_of(machine: Booted, client: str) -> None:
    configure(machine, f"iface eth0 inet dhcp\n{RULES}")
    machine.run(["systemctl", "mask", CLIENTS[client].unit])
    machine.boot(BOOT_TIMEOUT)
    machine.run(["ifup", "eth0"])
    told = f'netconf-vpn "ipsec {NAME}": not connected: its daemon does not run, and there is no unit '
    wait_until(lambda: told in machine.journal("--identifier=netconf-hooks"), "the attempt to say why")
    assert machine.run(["systemctl", "is-system-running"]).stdout == "running\n", "a failed attempt is no failed unit"
