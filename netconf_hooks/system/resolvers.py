"""Finds the local resolvers: the processes that listen at the addresses in resolv.conf(5)."""

from __future__ import annotations

import os

from netconf_hooks.system.addresses import format_address, read_address
from netconf_hooks.system.files import read_file

_LIMIT = 1 << 20
"""Bytes to read of a file."""

_DNS_PORT = 53


def list_resolver_users(resolv_conf: str = "/etc/resolv.conf", proc: str = "/proc") -> tuple[int, ...]:
    """Return the users of the processes behind the loopback addresses in resolv.conf (unbound, dnsmasq, ...).

    Not the owners of their sockets: root often opens the socket for a daemon that then changes its user.
    """
    local = {address for address in _list_servers(resolv_conf) if address.startswith("127.") or address == "::1"}
    inodes: set[str] = set()
    for file in ("udp", "udp6"):
        inodes.update(_list_listeners(f"{proc}/net/{file}", local) if local else ())
    return tuple(dict.fromkeys(uid for pid in _find_holders(inodes, proc) for uid in _read_users(pid, proc)))


def _list_servers(path: str) -> list[str]:
    lines = _read(path).split("\n")
    words = [line.split() for line in lines]
    return [read_address(each[1]) for each in words if len(each) > 1 and each[0] == "nameserver"]


def _list_listeners(path: str, addresses: set[str]) -> list[str]:
    """Return the inodes of the sockets in /proc/net/udp (proc(5)) that receive queries for one of these addresses."""
    inodes = []
    for line in _read(path).split("\n")[1:]:
        fields = line.split()
        if len(fields) > 9:
            address, _, port = fields[1].partition(":")
            # Each group of four octets is a number in the byte order of this machine.
            packed = b"".join(bytes.fromhex(address[start:start + 8])[::-1] for start in range(0, len(address), 8))
            if int(port, 16) == _DNS_PORT and (not any(packed) or format_address(packed) in addresses):
                inodes.append(fields[9])
    return inodes


def _find_holders(inodes: set[str], proc: str) -> list[str]:
    """Return the pids of the processes that have one of these sockets open."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = []
    for pid in os.listdir(proc) if wanted else ():
        if pid.isdecimal() and wanted.intersection(_list_links(f"{proc}/{pid}/fd")):
            found.append(pid)
    return found


def _list_links(directory: str) -> list[str]:
    links = []
    try:
        for name in os.listdir(directory):
            links.append(os.readlink(f"{directory}/{name}"))
    except OSError:
        pass  # it has ended
    return links


def _read_users(pid: str, proc: str) -> list[int]:
    """Return the file system uid of a process, who owns the sockets that it opens; proc(5), status."""
    for line in _read(f"{proc}/{pid}/status").split("\n"):
        if line.startswith("Uid:"):
            return [int(line.split()[4])]
    return []


def _read(path: str) -> str:
    try:
        return read_file(path, _LIMIT).decode("ascii", "replace")
    except OSError:
        return ""
