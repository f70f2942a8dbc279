"""Fixtures of the lab.

The lab needs root and some programs; without those its tests are skipped, and under CI=true they fail.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import boot
from .boot import Booted, Disk
from .booted import configure
from .image import own_codename, WITH_DHCLIENT
from .lab import Lab
from .laptop import DHCP_CLIENTS, Image
from .namespaces import ENVIRONMENT
from .network import Network
from .vpn import VpnServer

ROOT = Path(__file__).resolve().parents[2]

# What the lab runs, and the Debian package it comes from.
PROGRAMS = {
    "busybox": "busybox",
    "dhclient": "isc-dhcp-client",
    "dhcpcd": "dhcpcd-base",
    "dnsmasq": "dnsmasq-base",
    "dpkg": "dpkg",
    "ifup": "ifupdown",
    "ip": "iproute2",
    "iptables-legacy": "iptables",
    "make": "make",
    "nft": "nftables",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "openvpn": "openvpn",
    "ping": "iputils-ping",
    "sysctl": "procps",
}

# What booting a Debian (`boot`) needs beside.
BOOT_PROGRAMS = {"apt-get": "apt", "mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container"}

# Of the machine that the tests run on: what the lab would change if it leaked.
OUTSIDE = (
    "/etc/dhcp",
    "/etc/dhcpcd.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ipsec.conf",
    "/etc/ipsec.d",
    "/etc/network",
    "/etc/openvpn",
    "/etc/resolv.conf",
    "/etc/swanctl",
    "/etc/wireguard",
    "/run/dhcpcd",
    "/run/netconf-hooks",
    "/run/network",
    "/run/openvpn",
    "/run/pluto",
    "/run/vpn",
    "/run/wireguard",
    "/usr/lib/netconf-hooks",
    "/usr/sbin/dhclient",
    "/usr/sbin/policy-rc.d",
    "/var/lib/dhcp",
    "/var/lib/dhcpcd",
    "/var/lib/netconf-hooks",
)


def find_missing() -> str:
    """Return what keeps the lab from running here, in words; empty when nothing does."""
    if os.geteuid() != 0:
        return "the lab makes network namespaces and needs root: sudo make test"
    missing = [package for name, package in PROGRAMS.items() if not shutil.which(name, path=ENVIRONMENT["PATH"])]
    if own_codename() not in WITH_DHCLIENT and PROGRAMS["dhclient"] in missing:
        missing.remove(PROGRAMS["dhclient"])
    return f"the lab needs: apt install {' '.join(missing)}" if missing else ""


def take_snapshot(paths: tuple[str, ...] = OUTSIDE) -> dict[str, str]:
    """Return what stands at and below `paths`: type, owner, mode, time of change and content, by path."""
    found = {}
    for top in map(Path, paths):
        below = sorted(top.rglob("*")) if top.is_dir() and not top.is_symlink() else []
        for path in (top, *below):
            if not os.path.lexists(path):
                continue
            status = path.lstat()
            content = ""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            found[str(path)] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {status.st_mtime_ns} {content}"
    return found


@pytest.fixture(scope="session", autouse=True)
def requirements() -> None:
    """Skip when the lab can't run here."""
    if missing := find_missing():
        pytest.skip(missing)


@pytest.fixture(scope="session", autouse=True)
def outside(requirements: None) -> Iterator[None]:
    """Whatever the tests of a run do: the machine's own configuration is as it was when the run ends."""
    before = take_snapshot()
    yield
    assert take_snapshot() == before


@pytest.fixture(scope="session")
def packages(requirements: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The product as it is shipped: the .deb files of this checkout."""
    subprocess.run(["make", "deb"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    directory = tmp_path_factory.mktemp("packages")
    # A copy, since another run may build again as soon as a source file changes; `make deb` holds this lock meanwhile.
    with open(ROOT / "build/.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return [Path(shutil.copy(package, directory)) for package in sorted((ROOT / "build").glob("*.deb"))]


@pytest.fixture(scope="session")
def image(packages: list[Path]) -> Iterator[Image]:
    """A laptop's disk with the product installed."""
    with Image(packages) as made:
        yield made


@pytest.fixture(scope="session")
def bare_image(requirements: None) -> Iterator[Image]:
    """A laptop's disk without the product: its hook directories are empty."""
    with Image() as made:
        yield made


@pytest.fixture(params=DHCP_CLIENTS)
def dhcp_client(request: pytest.FixtureRequest) -> str:
    """Each DHCP client in turn."""
    client: str = request.param
    return client


@pytest.fixture
def lab(image: Image, dhcp_client: str) -> Iterator[Lab]:
    """A lab of the test's own, with the product installed, everything unplugged; once with each DHCP client."""
    with Lab(image, dhcp_client) as made:
        yield made


@pytest.fixture
def bare_lab(bare_image: Image, dhcp_client: str) -> Iterator[Lab]:
    """The same without the product."""
    with Lab(bare_image, dhcp_client) as made:
        yield made


@pytest.fixture(scope="session")
def disk(packages: list[Path]) -> Iterator[Disk]:
    """The disk of a Debian that boots, with the product installed; skips where nothing can be booted."""
    missing = [package for name, package in BOOT_PROGRAMS.items() if not shutil.which(name, path=ENVIRONMENT["PATH"])]
    if missing:
        pytest.skip(f"booting a Debian needs: apt install {' '.join(missing)}")
    if "\tcgroup2\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("booting a Debian needs a kernel with control groups of version 2")
    with Disk(packages) as made:
        yield made


@pytest.fixture
def network(requirements: None) -> Iterator[Network]:
    """The networks, everything unplugged."""
    with Network() as made:
        yield made


@pytest.fixture
def vpn(network: Network) -> Iterator[VpnServer]:
    """The VPN's server, up."""
    with VpnServer(network) as made:
        yield made


@pytest.fixture
def machine(request: pytest.FixtureRequest, network: Network, disk: Disk) -> Iterator[Booted]:
    """The laptop, still switched off, unplugged; its only interface is lo.  Once with each `dhcp_client` asked for."""
    client = request.getfixturevalue("dhcp_client") if "dhcp_client" in request.fixturenames else boot.DHCP_CLIENTS[0]
    with Booted(network, disk, client) as made:
        configure(made, "")
        yield made
        # pytest shows this where the test failed.
        print(made.journal("--lines=500"))


@pytest.hookimpl(hookwrapper=True)  # type: ignore[misc]  # untyped in pytest 7
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Under CI=true fail what would be skipped; show the logs of a lab in which a test failed."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure under CI=true: {report.longrepr[2]}"
    for name, value in getattr(item, "funcargs", {}).items():
        # In teardown it may have been taken down already.
        if report.failed and report.when != "teardown" and isinstance(value, Lab):
            report.sections += [(f"{name}: {title}", text) for title, text in value.logs().items()]


@pytest.hookimpl(hookwrapper=True)  # type: ignore[misc]  # untyped in pytest 7
def pytest_make_collect_report() -> Generator[None, Any, None]:
    """Under CI=true a file that would be skipped as a whole fails, too."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure under CI=true: {report.longrepr[2]}"
