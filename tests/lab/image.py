"""The Debians that `boot` and `vm` boot: their file trees, made once by mmdebstrap(1) and kept.

``python3 -m tests.lab.image [SUITE]`` makes that of `boot` (half a minute) and prints where it is.  Nobody writes to it
afterwards: each boot lays a file system of its own over it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .namespaces import Namespaces

CACHE = Path(os.environ.get("NETCONF_LAB_CACHE", "/var/cache/netconf-hooks-lab"))


def own_codename() -> str:
    """Return the name of this machine's Debian release (os-release(5)); empty where it has none."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    return ""


# Which Debian is booted: by default the release that this machine runs.
SUITE = os.environ.get("NETCONF_LAB_SUITE") or own_codename() or "bookworm"


# The releases that have dhclient.
WITH_DHCLIENT = ("bookworm", "trixie")


class Recipe(NamedTuple):
    """What an image is made of.

    packages: what is installed, beside what every Debian has; left_out: files of packages that are not installed, as
    patterns; files: texts that are put into the tree at last, by path; udev_rules: the only ones that are left, by the
    name of their file (empty: all are).
    """

    packages: Sequence[str]
    left_out: Sequence[str]
    files: Mapping[str, str]
    udev_rules: Sequence[str]


# Not needed for anything that is tested: a quarter of the tree, and of the time.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")

FILES = {
    # The name by which machines of the lab can be told from the one that the tests run on.
    "/etc/hostname": "laptop\n",
    "/etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\tlaptop\n::1\tlocalhost\n",
    # Not the real machine's, which mmdebstrap copies.
    "/etc/resolv.conf": "",
    # Fixed, so that no boot is a first boot (machine-id(5)): systemd would enable all units by preset.
    "/etc/machine-id": "6e657463006f6e66686f6f6b736c6162\n",
}

CONTAINER = Recipe(
    packages=(
        # a Debian that boots, with udev: it is udev that raises allow-hotplug interfaces (ifupdown's 80-ifupdown.rules)
        "dbus netbase procps systemd-sysv udev "
        # sessions of users, and what they may ask of root without a password
        "libpam-systemd pkexec polkitd "
        # what the product and its packages need
        "ifupdown iptables nftables python3 python3-dnspython python3-netifaces libnftables1 python3-pyroute2 "
        # what goes on around it
        "dhcpcd-base iproute2 iputils-ping " + ("isc-dhcp-client " if SUITE in WITH_DHCLIENT else "") + "openvpn"
    ).split(),
    left_out=LEFT_OUT,
    files=FILES | {
        # Network devices are this machine's own, for they belong to its network namespace.  All others in /sys are
        # those of the real machine, where an "add" for each would be noticed by its udev.
        "/etc/systemd/system/systemd-udev-trigger.service.d/lab.conf":
            "[Service]\nExecStart=\nExecStart=udevadm trigger --type=devices --action=add --subsystem-match=net\n",
        # On disk, to be read when the machine is off.
        "/etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=persistent\nForwardToConsole=no\n",
    },
    # The others are about the real machine's disks, cameras and sound cards.
    udev_rules=("50-udev-default.rules", "80-ifupdown.rules", "99-systemd.rules"),
)

# How long an image that no recipe here asks for any more is kept, for other checkouts: in seconds.
KEPT = 7 * 24 * 3600


class ImageError(Exception):
    """The image can't be made: the message says why."""


def find_sources(suite: str) -> list[str]:
    """Return the lines (sources.list(5)) to install Debian `suite` from: what apt of this machine is configured for.

    Where it knows `suite` only by the name of another release, this machine's own, that name is replaced.
    Raises ImageError when there is no Debian source.
    """
    # apt reads its files itself, of either format; nothing need have been downloaded (apt-get(8), indextargets).
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        check=True, capture_output=True, text=True,
    ).stdout
    entries = [tuple(line.split()) for line in dict.fromkeys(listed.splitlines()) if len(line.split()) == 3]
    for codename in (suite, own_codename()):
        lines = [
            f"deb {uri} {suite}{release.removeprefix(codename)} {component}"
            for uri, release, component in entries
            if release.partition("-")[0] == codename and component == "main"
        ]
        if lines:
            return lines
    raise ImageError(f"apt has no source for {suite} here, nor for {own_codename() or 'a Debian release of its own'}")


def find_image(suite: str = SUITE, cache: Path = CACHE, recipe: Recipe = CONTAINER) -> Path:
    """Return the directory of the image; it is made now unless it was before.

    Several callers at once wait for the one that makes it.  Raises ImageError.
    """
    image = cache / f"{suite}-{_fingerprint(suite, recipe)}"
    if not image.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with open(cache / "lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _tidy(cache)
            if not image.is_dir():
                _make(suite, recipe, image)
    os.utime(image)
    return image


def _tidy(cache: Path) -> None:
    """Remove what nobody uses: of unfinished images, whoever made them no longer holds the lock."""
    for directory in (*cache.glob("unfinished-*"), *cache.glob("*-" + 12 * "[0-9a-f]")):
        if directory.name.startswith("unfinished-") or directory.stat().st_mtime < time.time() - KEPT:
            shutil.rmtree(directory)


def _make(suite: str, recipe: Recipe, image: Path) -> None:
    """Make the image: it appears under its name when it is whole."""
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=image.parent))
    umask = os.umask(0o022)
    try:
        _install(suite, recipe, unfinished)
        _adapt(recipe, unfinished)
        unfinished.rename(image)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    finally:
        os.umask(umask)


def _fingerprint(suite: str, recipe: Recipe) -> str:
    """Return what changes when the image would."""
    return hashlib.sha256(repr((suite, os.uname().machine, *recipe)).encode()).hexdigest()[:12]


def _install(suite: str, recipe: Recipe, directory: Path) -> None:
    command = [
        "mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--format=directory",
        f"--include={','.join(recipe.packages)}",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Retries "3"',
        *_apt_options(),
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.left_out),
        suite, str(directory), "-",
    ]  # fmt: skip
    sources = "".join(f"{line}\n" for line in find_sources(suite))
    # In namespaces of its own: what it mounts and starts ends with us, however we end.
    with Namespaces(("mnt",)) as place:
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        result = place.run(command, check=False, timeout=900, text=sources, env=proxies)
    if result.returncode != 0:
        raise ImageError(f"mmdebstrap failed (exit status {result.returncode}) for\n{sources}{result.stderr}")


def _adapt(recipe: Recipe, directory: Path) -> None:
    directory.chmod(0o755)
    for path, text in recipe.files.items():
        file = directory / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        # May be a symbolic link that leads out of the tree.
        file.unlink(missing_ok=True)
        file.write_text(text)
    for rules in (directory / "usr/lib/udev/rules.d").glob("*.rules"):
        if recipe.udev_rules and rules.name not in recipe.udev_rules:
            rules.unlink()
    # Was for the making; packages that are installed later are installed whole.
    (directory / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink(missing_ok=True)


def _apt_options() -> list[str]:
    """Return how this machine's apt reaches its sources, where that is not the default, for mmdebstrap's own apt."""
    asked = ("Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until", "Acquire::Check-Date")
    set_here = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    return [f"--aptopt={line.rstrip(';')}" for line in set_here.splitlines() if line.split(" ")[0] in asked]


def main(arguments: Sequence[str]) -> int:
    """Make the image of the suite named (`SUITE` by default) and print its directory."""
    print(find_image(arguments[0] if arguments else SUITE))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
