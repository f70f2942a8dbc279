"""Pins the addresses of tunnels' servers in /etc/hosts while a guard drops queries to name servers.

We resolve the server's name and let its addresses pass the guard.  The tunnel's daemon must get the same addresses
without a query.  getaddrinfo(3) looks into hosts(5) first (nsswitch.conf(5), ``hosts: files``), so they are written
there::

    # netconf-hooks: the guard of eth0 stands, and these are its tunnels' endpoints; they go with it
    203.0.113.1 vpn.example # netconf-hooks: guard of eth0
    # netconf-hooks: end of what the guard of eth0 needs

Each line names its guard, so only our own lines are ever removed, even after a hook was killed or if the admin has
edited the block.  All other bytes stay as they are.  If the admin's own lines have a name, we do not pin it: glibc
returns the addresses of all lines (host.conf(5), ``multi on`` in Debian), and so does musl.

Callers hold the acting lock: of two writers at the same time, one would undo the other's change.
"""

from __future__ import annotations

import os
import stat

from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.system import log
from netconf_hooks.system.devices import is_device
from netconf_hooks.system.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

HOSTS = "/etc/hosts"

_BEGIN = b"# netconf-hooks: the guard of %b stands, and these are its tunnels' endpoints; they go with it"
_MARK = b" # netconf-hooks: guard of "
_END = b"# netconf-hooks: end of what the guard of %b needs"

# RFC 1123 section 2.1, and the underscore, which resolvers accept.
_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_MAX_NAME = 254
"""Characters in a name with the dot at its end, RFC 1035 section 2.3.4."""

_LIMIT = 1 << 26
"""Bytes that the file may have: block lists of advertisers have some ten million."""

_ATTEMPTS = 3
"""Attempts, if another program writes the file at the same time."""


def pin_names(
    device: str, names: Mapping[str, tuple[str, ...]], path: str = HOSTS
) -> dict[str, tuple[str, ...]]:
    """Pin these addresses for a device, and remove what was pinned for it before.

    names: each name, as written in the tunnel's configuration, with its addresses.
    Returns the names that the admin's own lines have, with their addresses there; these are not pinned.
    Raises `GuardError` if a name or an address is not valid, or if the file can't be written; then it is unchanged.
    """
    kernel_name = _check_device(device)
    pins: dict[str, tuple[str, ...]] = {}
    for name, addresses in names.items():
        spelled = _check_name(name)
        pins[spelled] = (*pins.get(spelled, ()), *map(_check_address, addresses))

    def edit(lines: list[bytes]) -> tuple[list[bytes], dict[str, tuple[str, ...]]]:
        own = _collect([line for line in lines if not _find_device(line)], pins)
        block = [
            f"{address} {name}".encode() + _MARK + kernel_name
            for name, addresses in pins.items()
            if name not in own
            for address in dict.fromkeys(addresses)
        ]
        if block:
            block = [_BEGIN % kernel_name, *block, _END % kernel_name]
        left = {name: own[name.lower()] for name in names if name.lower() in own}
        return _replace(lines, kernel_name, block), left

    return _rewrite(path, edit)


def find_names(names: Collection[str], path: str = HOSTS) -> dict[str, tuple[str, ...]]:
    """Return those of `names` that the admin's own lines have, each with its addresses.  Raises `GuardError`."""
    wanted = dict.fromkeys(name.lower() for name in names)
    own = _collect([line for line in _read_lines(path) if not _find_device(line)], wanted)
    return {name: own[name.lower()] for name in names if name.lower() in own}


def unpin_names(device: str, path: str = HOSTS) -> None:
    """Remove everything that was pinned for a device; a missing file is no error.  Raises `GuardError`."""
    kernel_name = _check_device(device)
    if os.path.exists(path):
        _rewrite(path, lambda lines: (_replace(lines, kernel_name, []), {}))


def list_devices(path: str = HOSTS) -> tuple[str, ...]:
    """Return the devices for which something is pinned, even if the hook was killed since.  Raises `GuardError`."""
    found = dict.fromkeys(map(_find_device, _read_lines(path)))
    return tuple(os.fsdecode(device) for device in found if device)


def _find_device(line: bytes) -> bytes:
    """Return the device for which a line is pinned; empty for the admin's lines."""
    device = line.rstrip(b"\r").rpartition(_MARK)[2]
    return device if _MARK in line and _is_device(device) else b""


def _replace(lines: list[bytes], device: bytes, block: list[bytes]) -> list[bytes]:
    """Return the lines with `block` in place of the device's own lines; at the end if it has none."""
    comments = (_BEGIN % device, _END % device)
    kept: list[bytes] = []
    place = -1
    for line in lines:
        # An editor may have added a carriage return to each line.
        if line.rstrip(b"\r") in comments or _find_device(line) == device:
            place = len(kept) if place < 0 else place
        else:
            kept.append(line)
    if place < 0:
        # Before the text after the last newline: none, or a line without newline, which stays like that.
        place = len(kept) if kept[-1:] != [b""] else len(kept) - 1
    return [*kept[:place], *block, *kept[place:]]


def _collect(lines: list[bytes], wanted: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Return those of the `wanted` names, in lower case, that lines of hosts(5) have, with their addresses."""
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        words = line.partition(b"#")[0].decode("utf-8", "surrogateescape").split()
        for name in map(str.lower, words[1:]):
            if name in wanted and (address := _read_address(words[0])):
                addresses = found.setdefault(name, {})
                addresses.pop(address, None)  # of several equal lines, the last one determines the order
                addresses[address] = None
    return {name: tuple(addresses) for name, addresses in found.items()}


def _check_device(device: str) -> bytes:
    name = os.fsencode(device)
    if not _is_device(name):
        raise GuardError(f'"{log.printable(device)}" is no device')
    return name


def _is_device(name: bytes) -> bool:
    return is_device(os.fsdecode(name)) and b"#" not in name  # which begins a comment


def _check_name(name: str) -> str:
    """Return a name as it is pinned: in lower case, with or without a final dot as in the configuration, since the
    daemon looks up exactly that."""
    labels = name.lower().removesuffix(".").split(".")
    if len(name) > _MAX_NAME or not _NAME.issuperset(name) or not all(labels) or name.startswith("-"):
        raise GuardError(f'"{log.printable(name)}" is no name of a host')
    # RFC 6761 section 6.3: for all programs here it means this machine.
    if labels[-1] == "localhost":
        raise GuardError(f'"{name}" is this machine\'s own name')
    return name.lower()


def _check_address(address: str) -> str:
    written = _read_address(address)
    if not written:
        raise GuardError(f'"{log.printable(address)}" is no address')
    return written


def _read_address(word: str) -> str:
    """Return an address as inet_ntop(3) writes it; empty if `word` is not an address."""
    import _socket

    family = _socket.AF_INET6 if ":" in word else _socket.AF_INET
    try:
        return _socket.inet_ntop(family, _socket.inet_pton(family, word))
    except (OSError, ValueError):  # ValueError: a null character
        return ""


def _read_lines(path: str) -> list[bytes]:
    try:
        return read_file(path, _LIMIT).split(b"\n")
    except OSError as error:
        raise GuardError(f"{path}: {error.strerror}") from error


if TYPE_CHECKING:
    from collections.abc import Callable

    Edit = Callable[[list[bytes]], tuple[list[bytes], dict[str, tuple[str, ...]]]]


def _rewrite(path: str, edit: Edit) -> dict[str, tuple[str, ...]]:
    """Replace the content of a file atomically; return the second value of `edit`.  Raises `GuardError`.

    A new file is written beside the old one and renamed.  That fails if the file is a mount point (EBUSY, rename(2)),
    read-only or immutable.  A symbolic link is kept; the file that it leads to is replaced.
    """
    place = os.path.realpath(path)
    try:
        for _ in range(_ATTEMPTS):
            before = os.stat(place)
            if not stat.S_ISREG(before.st_mode):
                raise GuardError(f"{path}: no regular file")
            lines = _read_lines(place)
            edited, said = edit(lines)
            if edited == lines:
                return said
            if before.st_nlink > 1:
                raise GuardError(f"{path}: it has other names (hard links), which would keep the old content")
            if _put(place, b"\n".join(edited), before):
                return said
    except OSError as error:
        raise GuardError(f"{path}: {error.strerror}") from error
    raise GuardError(f"{path}: another program keeps changing it")


def _put(place: str, content: bytes, before: os.stat_result) -> bool:
    """Replace a file, unless it has changed since it was read; return whether it was replaced."""
    directory, name = os.path.split(place)
    beside = f"{directory}/.{name}.netconf-hooks"
    try:
        os.unlink(beside)  # left by a killed hook
    except FileNotFoundError:
        pass
    try:
        # O_EXCL: never an existing file of somebody else, and no symbolic link is followed, open(2).
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            file.flush()
            # Otherwise a power failure could leave an empty file.
            os.fsync(descriptor)
        now = os.stat(place)
        if (now.st_ino, now.st_size, now.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns):
            os.rename(beside, place)
            return True
    except OSError:
        _remove(beside)
        raise
    _remove(beside)
    return False


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # the next writer removes it; the caller reports the first error
