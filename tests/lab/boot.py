"""The laptop, booted: a Debian with its own systemd and udev, for what needs units, in the laptop's place of a network.

systemd-nspawn(1) boots it from the tree of `image`.  What this needs of a machine is root, and a kernel with tun,
overlayfs and control groups of version 2 (cgroups(7); not necessarily in use).  All mounts and processes live in
`Namespaces`, so they end when we do; what could be left behind is an empty control group, which the next boot removes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from .closing import Closing
from .image import find_image, SUITE, WITH_DHCLIENT
from .machine import Machine
from .namespaces import ENVIRONMENT, CommandFailed, Namespaces, Running
from .network import Network
from .waiting import wait_until

DHCP_CLIENTS = ("dhclient", "dhcpcd") if SUITE in WITH_DHCLIENT else ("dhcpcd",)

# Of the names of the control groups that machines live in; the pid of who made them follows.
# With the number of this process id namespace: two labs in trees of their own (tests/debian.py) have the same pids, and
# see the same control groups.
GROUP_PREFIX = f"netconf-hooks-lab-{os.stat('/proc/self/ns/pid').st_ino}-"
_numbers = itertools.count(1)

_DISK = "/run/disk"
_LAPTOP = "/run/laptop"
_MACHINE = f"{_LAPTOP}/machine"
_SPAWN = [
    "systemd-nspawn",
    f"--directory={_MACHINE}",
    "--boot",
    # Nothing of the real machine's: its systemd-machined, .nspawn files, resolv.conf, time zone, journal.
    *("--register=no", "--keep-unit", "--settings=no", "--resolv-conf=off", "--timezone=off", "--link-journal=no"),
    "--machine=laptop",
    "--capability=CAP_NET_ADMIN,CAP_NET_RAW",
    "--console=pipe",
    f"--bind={_LAPTOP}/tun:/dev/net/tun",
    # systemd listens to udev only where it sees udev at work at the very start (sd-device's device-monitor.c looks for
    # /run/udev/control, unless /dev is a devtmpfs, which a container's is not).
    f"--bind={_LAPTOP}/udev:/run/udev",
]
_SPAWN_ENVIRONMENT = {
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    "SYSTEMD_NSPAWN_LOCK": "0",
    # udev only runs where /sys can be written (ConditionPathIsReadWrite= of its unit).
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",
}
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")


class BootFailed(AssertionError):
    """The machine did not come up as it should have: the message shows what systemd says of it."""


class Disk(Closing):
    """The disk of a freshly installed machine: the image with the given packages, for any number of boots.

    Kept in memory of its own mount namespace; `close` ends it.

    packages: the .deb files to install.
    """

    def __init__(self, packages: Sequence[Path] = ()) -> None:
        self.image = find_image()
        self.namespaces = Namespaces(("mnt",))
        try:
            # Also so that nothing gets into the real machine's /run.
            self.namespaces.run(["mount", "-t", "tmpfs", "-o", "mode=755", "disk", "/run"])
            self.namespaces.run(["mkdir", _DISK, _LAPTOP])
            self._install(packages)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Throw the disk away; machines that still run from it end."""
        self.namespaces.close()

    @property
    def layers(self) -> str:
        """What an overlay of this disk is made of, from within `namespaces` (lowerdir, kernel's overlayfs.rst)."""
        return f"{_DISK}/written:{self.image}"

    def _install(self, packages: Sequence[Path]) -> None:
        # A network namespace without any link: nothing that a package's scripts do gets out.
        with Namespaces(("mnt", "uts", "net"), self.namespaces.files) as place:
            _mount_overlay(place, str(self.image), _DISK)
            if packages:
                dpkg = ["dpkg", f"--root={_DISK}/machine", "--force-unsafe-io", "--install", *map(str, packages)]
                place.run(dpkg, env={"DEBIAN_FRONTEND": "noninteractive"}, timeout=300)


class Booted(Machine):
    """A machine with `disk`, in the laptop's place of `network`; `boot` switches it on.

    Before `boot` its files can be written and programs be run in it, as from a rescue system.

    dhcp_client: which of `DHCP_CLIENTS` its ifupdown uses.

    `pid` is that of its systemd, seen from here; 0 while it is off.  `boot_time` is what `boot` took, in seconds.
    """

    def __init__(self, network: Network, disk: Disk, dhcp_client: str = DHCP_CLIENTS[0]) -> None:
        self.boot_time = 0.0
        self.dhcp_client = dhcp_client
        self._network = network
        self._spawned: Running | None = None
        self.pid = 0
        self._group = f"{GROUP_PREFIX}{os.getpid()}-{next(_numbers)}"
        with ExitStack() as undo:
            parents = disk.namespaces.files | {"net": network.laptop_namespace}
            self._place = undo.enter_context(Namespaces(("mnt", "uts"), parents))
            undo.callback(lambda: _remove_group(self._groups))
            self._set_up(disk)
            if dhcp_client == "dhcpcd":
                # ifupdown takes the first it finds of dhclient, udhcpc, dhcpcd.  Without these lines dhcpcd waits at
                # random first, and then 5 s for objections to its address (dhcpcd.conf(5)).
                self.run(["rm", "-f", "/usr/sbin/dhclient"])
                self.write("/etc/dhcpcd.conf", self.read("/etc/dhcpcd.conf") + "\nnodelay\nnoarp\n")
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Pull the plug: all of its processes end at once, its disk is gone."""
        if self._spawned:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL) if self.pid else self._spawned.kill()
            self._spawned.wait()
            self._spawned, self.pid = None, 0
        self._undo.close()

    def boot(self, timeout: float = 60.0) -> None:
        """Switch it on; returns when systemd has started all it should.

        Raises BootFailed when a unit failed, TimeoutError after `timeout` seconds.
        """
        began = time.monotonic()
        enter_group = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', f"/sys/fs/cgroup/{self._group}/cgroup.procs"]
        self._spawned = self._place.start(
            [*enter_group, *_SPAWN], env=_SPAWN_ENVIRONMENT, net=self._network.laptop_namespace
        )
        self.pid = wait_until(self._find_init, "the machine's systemd", timeout)
        state = wait_until(self._ask_state, "the end of booting", timeout)
        self.boot_time = time.monotonic() - began
        if state != "running":
            failed = self.run(["systemctl", "--no-pager", "--failed"], check=False).stdout
            raise BootFailed(f"{state}\n{failed}{self.journal('--priority=notice')}")

    def poweroff(self, timeout: float = 30.0) -> None:
        """Shut it down as ``poweroff`` does; its files, and `journal`, can be read afterwards.

        Raises TimeoutError when it is not off after `timeout` seconds.
        """
        assert self._spawned
        self.run(["systemctl", "poweroff"], check=False)
        spawned, self._spawned, self.pid = self._spawned, None, 0
        spawned.wait(timeout)

    def start(self, argv: Sequence[str], *, text: str | None = None, env: Mapping[str, str] | None = None) -> Running:
        """As `Machine.start`."""
        environment = ENVIRONMENT | dict(env or {})
        if self.pid:
            return Running(argv, ["nsenter", f"--target={self.pid}", *_NAMESPACES, "--"], text, environment)
        rescue = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--root={_MACHINE}", "--mount-proc", "--"]
        return self._place.start([*rescue, *argv], text=text, env=env, net=self._network.laptop_namespace)

    def journal(self, *arguments: str) -> str:
        """Return what the journal holds, oldest first, narrowed by journalctl(1)'s `arguments`."""
        command = ["journalctl", "--directory=/var/log/journal", "--no-pager", "--quiet", "--output=short-monotonic"]
        if self.pid:
            self.run(["journalctl", "--sync"], check=False)
        return self.run([*command, *arguments]).stdout

    def unit(self, name: str) -> dict[str, str]:
        """Return the properties of a unit, as ``systemctl show`` prints them."""
        shown = self.run(["systemctl", "show", name]).stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def is_active(self, unit: str) -> bool:
        """Whether systemd has started the unit and it has not ended."""
        return self.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0

    def group_members(self, unit: str) -> dict[int, str]:
        """Return the processes in a unit's own control group: command lines by pid."""
        group = self.unit(unit).get("ControlGroup")
        if not group:
            return {}
        listed = self.run(["cat", f"/sys/fs/cgroup{group}/cgroup.procs"], check=False).stdout.split()
        return {int(pid): self.processes().get(int(pid), "") for pid in listed}

    def processes(self) -> dict[int, str]:
        """Return all processes: command lines by pid."""
        listed = self.run(["ps", "-e", "-o", "pid=,args="]).stdout
        return {int(pid): command for pid, _, command in (line.strip().partition(" ") for line in listed.splitlines())}

    @property
    def _groups(self) -> Path:
        """The control groups that are ours, as seen from outside."""
        return self._place.root / "sys/fs/cgroup" / self._group

    def _set_up(self, disk: Disk) -> None:
        place = self._place
        # The hierarchy of version 2, also where the real machine uses those of version 1.
        place.run(["mount", "-t", "cgroup2", "groups", "/sys/fs/cgroup"])
        self._remove_left_groups()
        self._groups.mkdir()
        place.run(["mount", "-t", "tmpfs", "-o", "mode=755", "laptop", _LAPTOP])
        _mount_overlay(place, disk.layers, _LAPTOP)
        # systemd-nspawn makes directories there.  Last, for the layers may lie there as well.
        place.run(["mount", "-t", "tmpfs", "tmp", "/tmp"])
        place.run(["install", "-D", "/dev/null", f"{_LAPTOP}/udev/control"])
        # Not bound from outside: there it need not exist before something has used it.
        place.run(["mknod", "-m", "666", f"{_LAPTOP}/tun", "c", "10", "200"])

    def _require_spawned(self) -> Running:
        """Return systemd-nspawn as it runs.  Raises CommandFailed, with what it said, when it does not any more."""
        assert self._spawned
        # Only looked at: `Running.wait` is who reaps it.
        if not os.waitid(os.P_PID, self._spawned.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return self._spawned
        ended, self._spawned, self.pid = self._spawned, None, 0
        raise CommandFailed(ended.wait())

    def _find_init(self) -> int:
        """Return the pid, as seen from here, of the init that systemd-nspawn has started; 0 while there is none."""
        for pid in _descendants(self._require_spawned().process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # One pid for each pid namespace it is seen in, innermost last (proc(5), NSpid).
                seen = re.search(r"^NSpid:.*\t(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
                if seen and seen[1] == "1" and Path(f"/proc/{pid}/root/run/systemd/private").exists():
                    return pid
        return 0

    def _ask_state(self) -> str:
        """Return ``running`` or ``degraded``; empty as long as systemd can't be asked."""
        self._require_spawned()
        state = self.run(["systemctl", "is-system-running", "--wait"], check=False).stdout.strip()
        return state if state in ("running", "degraded") else ""

    def _remove_left_groups(self) -> None:
        """Remove the control groups of processes that were killed before they could."""
        for group in self._groups.parent.glob(f"{GROUP_PREFIX}*"):
            if not Path(f"/proc/{group.name.removeprefix(GROUP_PREFIX).partition('-')[0]}").exists():
                _remove_group(group)


def _mount_overlay(place: Namespaces, lower: str, directory: str) -> None:
    """Mount an overlay of the layers `lower` on ``machine`` in `directory`; what is written goes to ``written``."""
    # Whatever umask the tests are run with: "written" becomes the machine's root directory.
    place.run(["install", "-d", "-m", "755", *(f"{directory}/{name}" for name in ("machine", "written", "work"))])
    options = f"lowerdir={lower},upperdir={directory}/written,workdir={directory}/work"
    place.run(["mount", "-t", "overlay", "-o", options, "machine", f"{directory}/machine"])


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return
    for child in map(int, children):
        yield child
        yield from _descendants(child)


def _remove_group(group: Path) -> None:
    """Remove a control group and those below it; one that still has processes is left."""
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
