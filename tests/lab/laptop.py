"""The laptop: a machine with its own processes, /etc, /usr, /var, /run, /dev and log, on a network of the lab.

Its disk is this machine's, seen through overlays (overlayfs, Linux Documentation/filesystems/overlayfs.rst): what it
writes goes to memory, the rest of the root directory is read-only.  So it runs what is installed here, and changes
nothing here.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from .closing import Closing
from .machine import Machine
from .namespaces import ENVIRONMENT, Namespaces, Running
from .network import Network
from .system_log import SystemLog

# Those that are installed, the one that most tests use first.  Since forky, Debian has no dhclient.
DHCP_CLIENTS = tuple(
    name for name in ("dhclient", "dhcpcd") if shutil.which(name, path=ENVIRONMENT["PATH"])
) or ("dhcpcd",)

# Where ifup lets dhclient keep its pid and its leases.
_LEASE_FILES = ("-pf", "/run/dhclient.{}.pid", "-lf", "/var/lib/dhcp/dhclient.{}.leases")

_DISK = ("etc", "usr", "var")
_HOOKS = tuple(f"/etc/network/if-{phase}.d" for phase in ("pre-up", "up", "down", "post-down"))
_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "net/tun": (10, 200),
}
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}

INTERFACES = """\
auto lo
iface lo inet loopback

allow-hotplug eth0 wlan0
iface eth0 inet dhcp
iface wlan0 inet dhcp
"""
# Without these dhcpcd first waits at random for up to a second, and then 5 s for objections to its address
# (dhcpcd.conf(5)): what the tests ask about comes after that.
_DHCPCD_CONF = """\
duid
persistent
option domain_name_servers, domain_name, domain_search, classless_static_routes, interface_mtu
require dhcp_server_identifier
slaac private
nodelay
noarp
"""


class Image(Closing):
    """The disk of a freshly installed laptop, made once and then shared by any number of laptops.

    It holds this machine's /etc, /usr and /var without its own network configuration, and the given packages,
    installed by dpkg.  Kept in memory of its own mount namespace; `close` ends it and all laptops made from it.

    packages: the .deb files to install; replaced: this machine's packages that they conflict with, removed before.
    """

    def __init__(self, packages: Sequence[Path] = (), replaced: Sequence[str] = ()) -> None:
        self.namespaces = Namespaces(("mnt",))
        try:
            self.namespaces.run(["mount", "-t", "tmpfs", "-o", "mode=755", "image", "/mnt"])
            self._install(packages, replaced)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Throw the disk away; what still runs from it ends."""
        self.namespaces.close()

    def _install(self, packages: Sequence[Path], replaced: Sequence[str]) -> None:
        # A network namespace without any link: nothing that a package's scripts do gets out.
        with Namespaces(("mnt", "uts", "net"), self.namespaces.files) as machine:
            _set_up_disk(machine, "/mnt", [])
            _empty(machine, *_HOOKS, "/etc/network/interfaces.d", "/var/lib/dhcp", "/var/lib/dhcpcd")
            _empty(machine, "/etc/dhcp/dhclient-enter-hooks.d", "/etc/dhcp/dhclient-exit-hooks.d", keep="rfc3442-*")
            _empty(machine, "/etc/openvpn", "/etc/wireguard", "/etc/netconf-hooks", keep="update-*")
            for path, text in {
                "/etc/network/interfaces": INTERFACES,
                "/etc/dhcpcd.conf": _DHCPCD_CONF,
                "/etc/hostname": "laptop\n",
                "/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 laptop\n::1 localhost\n",
                "/etc/resolv.conf": "",
                # No service is started by a package here (policy-rc.d, /usr/share/doc/init-system-helpers).
                "/usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
            }.items():
                _write(machine, path, text, 0o755 if path.startswith("/usr/sbin") else 0o644)
            if replaced:
                machine.run(["dpkg", "--force-depends", "--remove", *replaced], timeout=300)
            if packages:
                # Without this file man-db does not index all manual pages again, which takes seconds.
                machine.run(["rm", "-f", "/var/lib/man-db/auto-update"])
                machine.run(
                    ["dpkg", "--force-unsafe-io", "--install", *(str(package) for package in packages)],
                    env={"DEBIAN_FRONTEND": "noninteractive"},
                    timeout=300,
                )


class Laptop(Machine):
    """A laptop switched on: `image`'s disk, in the laptop's place of `network`.

    dhcp_client: which of `DHCP_CLIENTS` its ifupdown uses; place: of which of `Network.namespace` it is the machine.
    """

    def __init__(
        self, network: Network, image: Image, dhcp_client: str = DHCP_CLIENTS[0], place: str = "laptop"
    ) -> None:
        self.dhcp_client = dhcp_client
        self._place = place
        parents = image.namespaces.files | {"net": network.namespace(place)}
        with ExitStack() as undo:
            self.namespaces = undo.enter_context(Namespaces(("mnt", "uts"), parents))
            self._boot()
            self._log = SystemLog(self.namespaces.root / "dev/log")
            undo.callback(self._log.close)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Switch it off: all of its processes end, its disk is gone."""
        self._undo.close()

    def start(self, argv: Sequence[str], *, text: str | None = None, env: Mapping[str, str] | None = None) -> Running:
        """As `Machine.start`."""
        return self.namespaces.start(argv, text=text, env=env)

    def ifup(
        self, *arguments: str, check: bool = True, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ifup(8) with the arguments given: an interface, ``--force``, ``-v``."""
        return self.run(["ifup", *arguments], check=check, timeout=timeout, env=env)

    def ifdown(
        self, *arguments: str, check: bool = True, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ifdown(8) with the arguments given."""
        return self.run(["ifdown", *arguments], check=check, timeout=timeout, env=env)

    def give_back_lease(self, iface: str = "eth0") -> None:
        """End the interface's DHCP client, which gives its address back, as one does by hand before a move."""
        dhclient = ["dhclient", "-4", "-r", *(word.format(iface) for word in _LEASE_FILES), iface]
        self.run({"dhclient": dhclient, "dhcpcd": ["dhcpcd", "--release", iface]}[self.dhcp_client], check=False)

    def ask_for_lease(self, iface: str = "eth0") -> None:
        """Start the interface's DHCP client by hand, and wait for its lease."""
        dhclient = ["dhclient", "-4", "-1", *(word.format(iface) for word in _LEASE_FILES), iface]
        self.run({"dhclient": dhclient, "dhcpcd": ["dhcpcd", "--waitip=4", iface]}[self.dhcp_client])

    def ask_for_portal(self) -> None:
        """Let the DHCP client ask for the portals that networks announce, as netconf-hooks(8) says."""
        if self.dhcp_client == "dhclient":
            self.append("/etc/dhcp/dhclient.conf", "also request default-url;\nalso request dhcp6.v6-captive-portal;\n")
        else:
            defined = "define 114 string captive_portal_uri\ndefine6 103 string captive_portal_uri\n"
            self.append("/etc/dhcpcd.conf", f"{defined}option captive_portal_uri\noption dhcp6_captive_portal_uri\n")

    def choose_iptables(self, variant: str) -> None:
        """Choose the variant of iptables, ``legacy`` or ``nft``, as the admin does."""
        for program in ("iptables", "ip6tables"):
            self.run(["update-alternatives", "--set", program, f"/usr/sbin/{program}-{variant}"])

    def processes(self) -> dict[int, str]:
        """Return all processes but init: command lines by pid."""
        return self.namespaces.processes()

    def log(self) -> str:
        """Return what was written to syslog so far, each message ``SEVERITY TAG[PID]: TEXT`` on a line."""
        return self._log.text()

    def has_carrier(self, link: str) -> bool:
        """Whether the link is set up and something is plugged in."""
        return "LOWER_UP" in self.run(["ip", "link", "show", "dev", link]).stdout

    def connects(self, host: str, port: int) -> bool:
        """Whether `host` accepts a TCP connection within a second."""
        connect = f"import socket; socket.create_connection(({host!r}, {port}), 1).close()"
        return self.run(["/usr/bin/python3", "-IS", "-c", connect], check=False).returncode == 0

    def _boot(self) -> None:
        machine = self.namespaces
        scratch = "/mnt/laptop"
        (machine.root / "mnt/laptop").mkdir(exist_ok=True)
        machine.run(["mount", "-t", "tmpfs", "-o", "mode=755", "laptop", scratch])
        _set_up_disk(machine, scratch, ["/mnt"])
        # The overlays hold on to what they are made of; nobody needs to see it.
        machine.run(["umount", "--recursive", "--lazy", "/mnt"])
        # Not on the image: the packages to install may lie in there.
        machine.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "laptop-tmp", "/tmp"])
        machine.run(["mount", "--options", "remount,bind,ro", "/"])
        machine.run(["hostname", self._place])
        machine.run(["ip", "link", "set", "lo", "up"])
        if self.dhcp_client == "dhcpcd":
            # ifupdown takes the first it finds of dhclient, udhcpc, dhcpcd.
            machine.run(["rm", "-f", "/usr/sbin/dhclient", "/usr/sbin/udhcpc"])


def _set_up_disk(machine: Namespaces, scratch: str, lower: Sequence[str]) -> None:
    """Mount overlays on the directories of `_DISK`, and a /run, /sys and /dev of its own.

    scratch: a directory in memory for what is written (below ``disk``); lower: such directories, as lower layers.
    """
    lines = []
    for name in _DISK:
        for part in ("disk", "worked"):
            (machine.root / scratch.lstrip("/") / part / name).mkdir(parents=True)
        layers = ":".join([*(f"{layer}/disk/{name}" for layer in lower), f"/{name}"])
        upper = f"upperdir={scratch}/disk/{name},workdir={scratch}/worked/{name}"
        lines.append(f"disk-{name} /{name} overlay lowerdir={layers},{upper}")
    lines += [
        "laptop-run /run tmpfs mode=755",
        "laptop-sys /sys sysfs defaults",
        "laptop-dev /dev tmpfs mode=755",
        "laptop-pts /dev/pts devpts newinstance,ptmxmode=666,mode=620,gid=5,X-mount.mkdir",
    ]
    # One mount(8) for all; sources with names of their own, since it skips what seems to be mounted already.
    machine.run(["mount", "--all", "--fstab", "/dev/stdin"], text="".join(f"{line} 0 0\n" for line in lines))
    for directory in ("dev/net", "dev/shm", "run/network", "run/lock", "run/openvpn"):
        (machine.root / directory).mkdir()
    for name, (major, minor) in _DEVICES.items():
        device = machine.root / "dev" / name
        os.mknod(device, stat.S_IFCHR, os.makedev(major, minor))
        device.chmod(0o666)
    for name, target in _DEVICE_LINKS.items():
        (machine.root / "dev" / name).symlink_to(target)


def _empty(machine: Namespaces, *directories: str, keep: str = "") -> None:
    """Delete all files in the directories, as far as they exist, but those whose name matches the pattern `keep`."""
    existing = [directory for directory in directories if (machine.root / directory.lstrip("/")).is_dir()]
    if existing:
        machine.run(["find", *existing, "!", "-type", "d", "!", "-name", keep, "-delete"])


def _write(machine: Namespaces, path: str, text: str, mode: int) -> None:
    # By a program in there, and not through `Namespaces.root`, whose absolute symbolic links lead to the machine's own.
    machine.run(["install", "-D", "-m", f"{mode:o}", "/dev/stdin", path], text=text)
