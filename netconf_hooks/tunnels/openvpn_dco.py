"""OpenVPN's data channel offload (2.6 and later): the kernel sends the data packets, the daemon only the handshakes.

A data packet over UDP has the uid of the process that sent the packet inside it, so the daemon's uid does not match.
The source port of the daemon's socket matches.  Its mark matches only with a module that keeps it (ovpn, since Linux
6.16; not ovpn-dco).  Over TCP the packets belong to the daemon's socket.
"""

from __future__ import annotations

import os

from netconf_hooks.tunnels.openvpn_conf import parse_configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_EXCLUDING = frozenset(("disable-dco", "http-proxy", "http-proxy-override", "socks-proxy", "fragment"))

_MODULES = ("ovpn", "ovpn_dco_v2")
"""The modules that OpenVPN 2.7 and 2.6 use, by their names in /sys/module."""


def is_wanted(options: Sequence[Sequence[str]]) -> bool:
    """Whether OpenVPN would use data channel offload with this configuration, if the kernel supports it.

    dco_check_startup_option() of OpenVPN's dco.c.  Compression, ciphers, topology and static keys, which can also
    prevent it, are not checked.
    """
    device = device_type = ""
    for name, *words in options:
        if name in _EXCLUDING:
            return False
        if name == "<connection>" and words:
            if not _EXCLUDING.isdisjoint(option[0] for option in parse_configuration(words[0])):
                return False
        elif name == "dev" and words:
            device = words[0]
        elif name == "dev-type" and words:
            device_type = words[0]
    return (device_type or device).startswith("tun")


def is_possible(loaded: str = "/sys/module", available: str = "/lib/modules") -> bool:
    """Whether this kernel has data channel offload, or a module for it that is loaded on demand.

    loaded: where the kernel lists its modules; available: the directory with the modules of each release (modprobe(8)).
    """
    if any(os.path.exists(f"{loaded}/{module}") for module in _MODULES):
        return True
    release = os.uname().release
    for name in ("modules.alias", "modules.builtin"):
        try:
            with open(f"{available}/{release}/{name}", encoding="ascii", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        # modules.alias has the module's generic netlink family, modules.builtin the module's file.
        if "-family-ovpn" in text or "/ovpn/ovpn." in text:
            return True
    return False


def find_ports(pid: int, proc: str = "/proc") -> tuple[int, ...]:
    """Return the ports of a process's unconnected UDP sockets, proc(5): OpenVPN does not connect its UDP socket.

    Empty if there are none, if the process has ended, or if this user may not see them.
    """
    try:
        sockets = set(_read_sockets(f"{proc}/{pid}/fd"))
        lines = [line.split() for name in ("udp", "udp6") for line in _read_lines(f"{proc}/{pid}/net/{name}")]
    except OSError:
        return ()
    ports = set()
    for words in lines:
        # The columns: sl, local address:port, remote address:port, ..., the tenth is the inode.
        if len(words) > 9 and words[9] in sockets and words[2].endswith(":0000"):
            ports.add(int(words[1].rpartition(":")[2], 16))
    return tuple(sorted(ports - {0}))


def find_device(pid: int, proc: str = "/proc") -> str:
    """Return the tun or tap device that a process has open, empty if none: proc(5), fdinfo; tun_chr_show_fdinfo()."""
    try:
        names = os.listdir(f"{proc}/{pid}/fdinfo")
    except OSError:
        return ""
    for name in names:
        try:
            with open(f"{proc}/{pid}/fdinfo/{name}", encoding="ascii", errors="replace") as file:
                device = next((line[4:].strip() for line in file if line.startswith("iff:")), "")
        except OSError:
            continue  # closed meanwhile
        if device:
            return device
    return ""


def _read_sockets(directory: str) -> Iterator[str]:
    """Yield the inodes of the sockets among the descriptors of a process."""
    for name in os.listdir(directory):
        try:
            target = os.readlink(f"{directory}/{name}")
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            yield target[8:-1]


def _read_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.readlines()[1:]
    except FileNotFoundError:
        return []  # no IPv6 here
