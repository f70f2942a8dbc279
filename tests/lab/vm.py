"""A machine with Debian's own kernel, in qemu: for what the kernel that the tests run on may lack (ESP, WireGuard).

It boots from the tree of `image`, with the product's packages installed, runs one Python module as a unit of systemd,
and is off.  What that module says comes over a serial line of its own, in the Test Anything Protocol
(https://testanything.org/tap-specification.html).  Where the machine can't be accelerated (KVM), qemu emulates the
processor: slow, and the same everywhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .image import FILES, LEFT_OUT, Recipe, find_image
from .namespaces import ENVIRONMENT, Namespaces

ROOT = Path(__file__).resolve().parents[2]

# Seconds.  A minute or two with KVM; how long an emulated processor takes is hard to tell.
TIMEOUT = 1800.0

RECIPE = Recipe(
    packages=(
        # a Debian that boots by itself
        "dbus initramfs-tools kmod linux-image-cloud-amd64 netbase procps systemd-sysv udev zstd "
        # what the product and its packages need
        "ifupdown nftables python3 python3-dnspython python3-netifaces libnftables1 python3-pyroute2 "
        # what goes on around it; neither wireguard-go nor the plugin kernel-libipsec (libcharon-extra-plugins)
        "charon-systemd dnsmasq-base iproute2 iptables iputils-ping isc-dhcp-client libstrongswan-standard-plugins "
        "strongswan-swanctl wireguard-tools"
    ).split(),
    left_out=LEFT_OUT,
    files=FILES | {
        "/etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
        # ifupdown's own way, before udev has heard of the first device: there is none.
        "/etc/network/interfaces": "auto lo\niface lo inet loopback\n",
    },
    udev_rules=(),
)
# With the whole kernel, which has radios that it makes up (mac80211_hwsim), and what speaks over them.
RADIO = RECIPE._replace(
    packages=(
        "dbus initramfs-tools kmod linux-image-amd64 netbase procps systemd-sysv udev zstd "
        "ifupdown nftables python3 python3-dnspython python3-netifaces libnftables1 python3-pyroute2 "
        "dnsmasq-base hostapd iproute2 iputils-ping isc-dhcp-client iw wireless-regdb wpasupplicant"
    ).split()
)
# With Libreswan, which can't be installed beside strongSwan.
LIBRESWAN = RECIPE._replace(
    packages=(
        "dbus initramfs-tools kmod linux-image-cloud-amd64 netbase procps systemd-sysv udev zstd "
        "ifupdown nftables python3 python3-dnspython python3-netifaces libnftables1 python3-pyroute2 "
        "dnsmasq-base iproute2 iputils-ping isc-dhcp-client libreswan"
    ).split()
)

# Runs the module that the tests ask for, when everything else has been started, and switches off.
_UNIT = """\
[Unit]
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
WorkingDirectory=/root
ExecStart=/usr/bin/python3 -B -m {module}
StandardOutput=file:/dev/ttyS1
StandardError=journal+console
"""
_KERNEL_ARGUMENTS = (
    # no_timer_check: if the host is busy, an emulated timer comes too late for the kernel's test of it, which panics.
    "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off panic=-1 no_timer_check systemd.show_status=0 "
    "systemd.wants=lab.service systemd.mask=getty@tty1.service systemd.mask=serial-getty@ttyS0.service "
    "systemd.mask=apt-daily.timer systemd.mask=apt-daily-upgrade.timer systemd.mask=e2scrub_reap.service"
)
_PRODUCT = "/usr/lib/python3/dist-packages/netconf_hooks"
# Seconds that the product gives what it does, each with its file: an emulated processor is some twenty times slower.
_LIMITS = (
    ("hook.py", "ACTING_TIME = 20"),
    ("watcher/watch.py", "ACTING_TIME = 20.0"),
    ("guard/firewall/iptables.py", "TIMEOUT = 10.0  # seconds for one program"),
)
_DISK_SIZE = "1200M"  # of which only what is written takes room
_SIGN_OF_LIFE = 5.0  # seconds until a kernel that runs at all has said something
_OUTCOME = re.compile(r"(not )?ok \d+ - (.+)")


class MachineError(Exception):
    """The machine can't be made: the message says why."""


class Disk(NamedTuple):
    """What a machine boots from: files of the tests' machine."""

    image: Path
    kernel: Path
    initrd: Path


class Report(NamedTuple):
    """What a machine said.

    outcomes: by the name of each check, empty when it went well, else what was wrong; plan: how many checks there were
    to be, -1 when it said nothing of it; console: what its kernel and systemd said; lines: all that the module said;
    accelerator: ``kvm`` or ``tcg``; seconds: from power on to power off.
    """

    outcomes: dict[str, str]
    plan: int
    console: str
    lines: tuple[str, ...]
    accelerator: str
    seconds: float


@contextlib.contextmanager
def install(module: str, packages: Sequence[Path] = (), recipe: Recipe = RECIPE) -> Iterator[Disk]:
    """Yield the disk of a machine that runs `module`, one of those below ``tests``, when it is switched on.

    packages: the .deb files to install; recipe: `RECIPE`, `RADIO` or `LIBRESWAN`.  The disk is gone afterwards.
    """
    tree = find_image(recipe=recipe)
    kernels = sorted(tree.glob("boot/vmlinuz-*"))
    if not kernels:
        raise MachineError(f"there is no kernel in {tree}")
    version = kernels[-1].name.removeprefix("vmlinuz-")
    with tempfile.TemporaryDirectory(prefix="netconf-hooks-vm-") as directory:
        image = Path(directory, "disk")
        # A network namespace without any link: nothing that a package's scripts do gets out.
        with Namespaces(("mnt", "uts", "net")) as place:
            place.run(["mount", "-t", "tmpfs", "-o", "mode=755", "disk", "/run"])
            place.run(["mkdir", "/run/machine", "/run/written", "/run/work"])
            layers = f"lowerdir={tree},upperdir=/run/written,workdir=/run/work"
            place.run(["mount", "-t", "overlay", "-o", layers, "machine", "/run/machine"])
            if packages:
                dpkg = ["dpkg", "--root=/run/machine", "--force-unsafe-io", "--install", *map(str, packages)]
                place.run(dpkg, env={"DEBIAN_FRONTEND": "noninteractive"}, timeout=300)
                for name, limit in _LIMITS:
                    path = f"/run/machine{_PRODUCT}/{name}"
                    place.run(["grep", "-q", f"^{limit}$", path])
                    place.run(["sed", "-i", f"s/^{limit.partition('  ')[0]}/& * 10/", path])
            place.run(["mkdir", "-p", "/run/machine/root/tests"])
            sources = [str(ROOT / "tests/lab"), str(ROOT / "tests/vm")]
            place.run(["cp", "--recursive", "--no-preserve=ownership", *sources, "/run/machine/root/tests"])
            place.run(["tee", "/run/machine/etc/systemd/system/lab.service"], text=_UNIT.format(module=module))
            options = ["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", "/run/machine"]
            place.run(["mke2fs", *options, str(image), _DISK_SIZE], timeout=120)
        yield Disk(image, kernels[-1], tree / "boot" / f"initrd.img-{version}")


def run(disk: Disk, timeout: float = TIMEOUT) -> Report:
    """Switch a machine on and return what it said, when it is off; after `timeout` seconds the plug is pulled."""
    accelerators = ["kvm"] if os.access("/dev/kvm", os.R_OK | os.W_OK) else []
    for accelerator in accelerators:
        if report := _run(disk, accelerator, timeout, sign_of_life=True):
            return report
    report = _run(disk, "tcg", timeout, sign_of_life=False)
    assert report
    return report


def read_outcomes(lines: Sequence[str]) -> dict[str, str]:
    """Return what was wrong by the name of each check; nothing, when it went well.

    The ``#`` lines after ``not ok`` belong to it.
    """
    outcomes: dict[str, str] = {}
    name = ""
    for line in lines:
        match = _OUTCOME.fullmatch(line)
        if match:
            name = match[2]
            outcomes[name] = "failed\n" if match[1] else ""
        elif line.startswith("#") and outcomes.get(name):
            outcomes[name] += line[1:].removeprefix(" ") + "\n"
    return outcomes


def read_plan(lines: Sequence[str]) -> int:
    """Return how many checks were announced (``1..N``), -1 when none were."""
    return next((int(line[3:]) for line in lines if re.fullmatch(r"1\.\.\d+", line)), -1)


def _run(disk: Disk, accelerator: str, timeout: float, sign_of_life: bool) -> Report | None:
    """Run a machine to its end; None when it was to give a sign of life and gave none."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="netconf-hooks-vm-") as directory:
        console, said, complaint = (Path(directory, name) for name in ("console", "said", "complaint"))
        with open(complaint, "wb") as errors:
            qemu = subprocess.Popen(
                _command(disk, accelerator, console, said),
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=ENVIRONMENT, start_new_session=True,
            )  # fmt: skip
        try:
            alive = not sign_of_life or _wait_for_text(console, qemu, began + _SIGN_OF_LIFE)
            if alive:
                _wait_for_end(qemu, began + timeout)
        finally:
            qemu.kill()
            qemu.wait()
        seconds = time.monotonic() - began
        if not alive:
            return None
        texts = [path.read_text(errors="replace") if path.exists() else "" for path in (complaint, console, said)]
    lines = texts[2].splitlines()
    return Report(
        read_outcomes(lines), read_plan(lines), texts[0] + texts[1], tuple(lines), accelerator, seconds
    )


def _command(disk: Disk, accelerator: str, console: Path, said: Path) -> list[str]:
    return [
        "qemu-system-x86_64", "-accel", accelerator, "-cpu", "host" if accelerator == "kvm" else "max",
        *("-machine", "q35", "-smp", "2", "-m", "1024", "-nodefaults", "-no-reboot", "-display", "none"),
        *("-kernel", str(disk.kernel), "-initrd", str(disk.initrd), "-append", _KERNEL_ARGUMENTS),
        *("-drive", f"file={disk.image},if=virtio,format=raw,cache=unsafe,snapshot=on", "-nic", "none"),
        *("-serial", f"file:{console}", "-serial", f"file:{said}"),
    ]  # fmt: skip


def _wait_for_text(path: Path, process: subprocess.Popen[bytes], deadline: float) -> bool:
    while not (path.exists() and path.stat().st_size):
        if process.poll() is not None or time.monotonic() >= deadline:
            return False
        _wait_for_end(process, time.monotonic() + 0.05)
    return True


def _wait_for_end(process: subprocess.Popen[bytes], deadline: float) -> None:
    descriptor = os.pidfd_open(process.pid)
    try:
        select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str]) -> int:
    """Run a module in a machine (``--radio``, ``--libreswan``: that recipe), with packages, and print what it said.

    To look around.
    """
    recipe = {"--radio": RADIO, "--libreswan": LIBRESWAN}.get(arguments[0])
    module, *packages = arguments[recipe is not None:]
    with install(module, [Path(package).resolve() for package in packages], recipe or RECIPE) as disk:
        report = run(disk)
    print(report.console, *report.lines, f"{report.accelerator}, {report.seconds:.1f} s", sep="\n")
    return 0 if report.plan == len(report.outcomes) and not any(report.outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
