"""The packages as dpkg sees them: what they hold, what lintian says, and that removing them leaves nothing behind."""

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.debian import find_tags, suppress_outdated

from .image import own_codename
from .laptop import Image, Laptop
from .network import HOME, Network
from .waiting import wait_until

ROOT = Path(__file__).parents[2]
HOOK_DIRECTORIES = ("if-pre-up.d", "if-up.d", "if-down.d", "if-post-down.d")
STANZA = f"""
iface eth0 inet static
    address {HOME.router[:-1]}77/24
    netconf-location home address={HOME.router[:-1]}0/24
"""
# What dpkg and the triggers of other packages keep of their own work.
BOOKKEEPING = re.compile(
    r"/(var/lib/dpkg|var/log|var/cache|var/backups|var/lib/man-db)(/|$)|.*/__pycache__(/|$)"
    # systemd's own directory, which dpkg keeps for it even where it was missing before.
    r"|/usr/lib/systemd/system-sleep$"
)


@pytest.fixture
def laptop(bare_image: Image) -> Iterator[Laptop]:
    """A laptop without our packages, plugged in at home."""
    with Network(sites=[HOME]) as network, Laptop(network, bare_image) as machine:
        machine.write("/etc/network/interfaces", STANZA)
        network.plug("home", "eth0")
        yield machine


def carry(laptop: Laptop, files: list[Path]) -> list[str]:
    """Put files into the laptop's /tmp, wherever the checkout is, and return their names there."""
    for file in files:
        copy = laptop.namespaces.root / "tmp" / file.name
        copy.write_bytes(file.read_bytes())
        copy.chmod(0o755)
    return [f"/tmp/{file.name}" for file in files]


def install(laptop: Laptop, packages: list[Path]) -> None:
    """Install the packages as ``apt install ./build/*.deb`` does once their dependencies are there."""
    laptop.run(["dpkg", "--force-unsafe-io", "--install", *carry(laptop, packages)], timeout=120)


def members(deb: Path) -> dict[str, tarfile.TarInfo]:
    """The files, links and directories in a package, by absolute path."""
    packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, stdout=subprocess.PIPE)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        return {"/" + member.name.removeprefix("./"): member for member in archive.getmembers()}


def test_two_packages_are_built(packages):
    assert [deb.name.split("_")[0] for deb in packages] == ["netconf-hooks", "python3-netconf-hooks"]


def test_the_hooks_are_links_into_usr_lib_and_no_configuration_files(packages):
    packed = members(packages[0])
    for name in HOOK_DIRECTORIES:
        link = "00-netconf-hooks" if name == "if-pre-up.d" else "netconf-hooks"
        assert packed[f"/etc/network/{name}/{link}"].linkname == "/usr/lib/netconf-hooks/enter"
        assert packed[f"/usr/lib/netconf-hooks/{name}/netconf-hooks"].mode == 0o755
    assert packed["/usr/lib/netconf-hooks/enter"].mode == 0o755
    files = [path for path, member in packed.items() if path.startswith("/etc/") and member.isreg()]
    # dhclient-script(8) knows no other place for hooks.
    assert files == ["/etc/dhcp/dhclient-exit-hooks.d/netconf-hooks"]
    conffiles = subprocess.run(["dpkg-deb", "--info", packages[0], "conffiles"], capture_output=True, check=True)
    assert conffiles.stdout.decode().splitlines() == files


def test_the_library_holds_every_module(packages):
    packed = {path for path in members(packages[1]) if path.endswith(".py")}
    library = "/usr/lib/python3/dist-packages"
    modules = {f"{library}/{path.relative_to(ROOT)}" for path in ROOT.glob("netconf_hooks/**/*.py")}
    assert packed == modules


def test_the_shebangs_are_as_they_were_written(packages, tmp_path):
    subprocess.run(["dpkg-deb", "--extract", packages[0], tmp_path], check=True)
    for name in HOOK_DIRECTORIES:
        hook = tmp_path / "usr/lib/netconf-hooks" / name / "netconf-hooks"
        assert hook.read_bytes() == (ROOT / name / "netconf-hooks").read_bytes()
    # Users have no /usr/sbin on their PATH.
    assert os.readlink(tmp_path / "usr/bin/netconf-hooks") == "../sbin/netconf-hooks"
    assert (tmp_path / "usr/sbin/netconf-hooks").read_bytes() == (ROOT / "sbin/netconf-hooks").read_bytes()


def test_lintian_has_nothing_to_say(packages):
    changes = list((ROOT / "build").glob("*.changes"))
    assert len(changes) == 1
    suite = own_codename()
    options = ["--allow-root", "--fail-on", "error,warning", "--display-info", *suppress_outdated(suite)]
    lintian = subprocess.run(
        ["lintian", *options, changes[0]],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": os.environ.get("HOME", "/root")},
    )
    assert (lintian.returncode, find_tags(lintian.stdout, suite)) == (0, []), lintian.stderr


def test_building_leaves_the_checkout_alone(packages):
    left = [*ROOT.glob("*.egg-info"), *ROOT.glob(".pybuild"), *ROOT.glob("debian/*.substvars")]
    left += [ROOT / "debian" / name for name in ("files", ".debhelper", "netconf-hooks", "debhelper-build-stamp")]
    assert [path for path in left if path.exists()] == []


def test_the_installed_package_passes_its_own_test(laptop, packages):
    install(laptop, packages)
    smoke = laptop.run(carry(laptop, [ROOT / "debian/tests/smoke"]))
    assert smoke.stdout.endswith("ifup named the network, ifdown forgot it\n")


def test_removed_it_leaves_no_hook_and_purged_nothing_at_all(laptop, packages):
    def list_files() -> set[str]:
        found = laptop.run(["find", "/etc", "/usr", "/var", "/run", "-xdev"]).stdout.splitlines()
        return {path for path in found if not BOOKKEEPING.match(path)}

    def go_up_and_down() -> None:
        laptop.ifup("eth0")
        assert laptop.run(["ip", "-br", "address", "show", "eth0"]).stdout.count(".77/24") == 1
        laptop.ifdown("eth0")

    go_up_and_down()
    before = list_files()
    install(laptop, packages)
    assert len(list_files() - before) > 20

    laptop.ifup("eth0")
    assert laptop.run(["netconf-hooks", "location", "eth0"]).stdout == "home\n"
    # While the interface is up and recorded: the worst moment to be removed.
    laptop.run(["dpkg", "--remove", "netconf-hooks", "python3-netconf-hooks"], timeout=120)
    assert laptop.run(["find", "/etc/network", "-name", "*netconf*"]).stdout == ""
    wait_until(lambda: "netconf-hooks watch" not in str(laptop.processes()), "the watcher to end")
    laptop.ifdown("eth0")
    go_up_and_down()

    laptop.run(["dpkg", "--purge", "netconf-hooks", "python3-netconf-hooks"], timeout=120)
    assert list_files() - before == set()
    assert before - list_files() == set()

    laptop.run(["sh", "-c", "rm /usr/bin/python3*"])
    assert laptop.run(["/usr/bin/python3", "-c", "pass"], check=False).returncode == 127
    go_up_and_down()


def test_an_update_while_an_interface_is_up_keeps_its_record(laptop, packages):
    install(laptop, packages)
    laptop.ifup("eth0")

    def read_record() -> list[str]:
        lines = laptop.read("/run/netconf-hooks/interfaces/eth0").splitlines()
        return [line for line in lines if not line.startswith("looked ")]  # postinst looks again

    record = read_record()
    install(laptop, packages)
    assert read_record() == record
    assert laptop.run(["netconf-hooks", "location", "eth0"]).stdout == "home\n"
    laptop.ifdown("eth0")
    assert not laptop.exists("/run/netconf-hooks/interfaces/eth0")
