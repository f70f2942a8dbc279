"""/etc/hosts: the addresses of tunnels' endpoints, while a guard stands that lets no names be asked.

The guard lets those addresses through that were resolved for it, and the daemon must come to the same without asking
anybody: so they stand in hosts(5), where getaddrinfo(3) looks first (nsswitch.conf(5), ``hosts: files``).  ::

    # netconf-hooks: the guard of eth0 stands, and these are its tunnels' endpoints; they go with it
    203.0.113.1 vpn.example # netconf-hooks: guard of eth0
    # netconf-hooks: end of what the guard of eth0 needs

Each line says whose it is, so that nothing but our own lines is ever taken away, also where a hook was killed or the
admin has written into the block.  All else stays byte for byte as it is.  A name that the admin's own lines have is
left to them: glibc gives out the addresses of all lines (host.conf(5), ``multi on`` in Debian), musl those as well.

Whoever calls holds the lock for acting: of two that write at the same time, one would be undone.
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

# RFC 1123 section 2.1, and the underscore, which resolvers let pass.
_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_MAX_NAME = 254
"""Characters in a name with the dot at its end, RFC 1035 section 2.3.4."""

_LIMIT = 1 << 26
"""Bytes that the file may have: lists of advertisers that are written into it have some ten million."""

_ATTEMPTS = 3
"""How often it is tried again when somebody else has written the file meanwhile."""


def pin_names(
    device: str, names: Mapping[str, tuple[str, ...]], path: str = HOSTS
) -> dict[str, tuple[str, ...]]:
    """Have `names` mean these addresses, in place of all that was pinned for the device before.

    names: the addresses of each name, as it is written in the tunnel's configuration.
    Returns the names that were left to the admin, with the addresses that the admin's lines give them.
    Raises `GuardError` where a name or an address may not be written, or the file can't be: then it is as it was.
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
    """Return those names that the admin has in the file, as given, each with its addresses.  Raises `GuardError`."""
    wanted = dict.fromkeys(name.lower() for name in names)
    own = _collect([line for line in _read_lines(path) if not _find_device(line)], wanted)
    return {name: own[name.lower()] for name in names if name.lower() in own}


def unpin_names(device: str, path: str = HOSTS) -> None:
    """Take away all that was pinned for a device; where there is no file there is nothing.  Raises `GuardError`."""
    kernel_name = _check_device(device)
    if os.path.exists(path):
        _rewrite(path, lambda lines: (_replace(lines, kernel_name, []), {}))


def list_devices(path: str = HOSTS) -> tuple[str, ...]:
    """Return the devices for which anything is pinned, also by a hook that was killed since.  Raises `GuardError`."""
    found = dict.fromkeys(map(_find_device, _read_lines(path)))
    return tuple(os.fsdecode(device) for device in found if device)


def _find_device(line: bytes) -> bytes:
    """Return for which device a line is pinned; empty for the admin's lines."""
    device = line.rstrip(b"\r").rpartition(_MARK)[2]
    return device if _MARK in line and _is_device(device) else b""


def _replace(lines: list[bytes], device: bytes, block: list[bytes]) -> list[bytes]:
    """Return the lines with `block` in place of the device's own, or after all others."""
    comments = (_BEGIN % device, _END % device)
    kept: list[bytes] = []
    place = -1
    for line in lines:
        # An editor may have put a carriage return at the end of each.
        if line.rstrip(b"\r") in comments or _find_device(line) == device:
            place = len(kept) if place < 0 else place
        else:
            kept.append(line)
    if place < 0:
        # What stands after the last newline: nothing, or a line without one, which again has none without the block.
        place = len(kept) if kept[-1:] != [b""] else len(kept) - 1
    return [*kept[:place], *block, *kept[place:]]


def _collect(lines: list[bytes], wanted: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """Return those of the names in lines of hosts(5) that are `wanted`, in lower case, with their addresses."""
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        words = line.partition(b"#")[0].decode("utf-8", "surrogateescape").split()
        for name in map(str.lower, words[1:]):
            if name in wanted and (address := _read_address(words[0])):
                addresses = found.setdefault(name, {})
                addresses.pop(address, None)  # the last of several lines counts, and is the last
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
    """Return a name as it is pinned; the daemon asks for it as its configuration has it, with or without a dot."""
    labels = name.lower().removesuffix(".").split(".")
    if len(name) > _MAX_NAME or not _NAME.issuperset(name) or not all(labels) or name.startswith("-"):
        raise GuardError(f'"{log.printable(name)}" is no name of a host')
    # RFC 6761 section 6.3: it means this machine, to everything that runs here.
    if labels[-1] == "localhost":
        raise GuardError(f'"{name}" is this machine\'s own name')
    return name.lower()


def _check_address(address: str) -> str:
    written = _read_address(address)
    if not written:
        raise GuardError(f'"{log.printable(address)}" is no address')
    return written


def _read_address(word: str) -> str:
    """Return an address as inet_ntop(3) writes it; empty for what is none."""
    import _socket

    family = _socket.AF_INET6 if ":" in word else _socket.AF_INET
    try:
        return _socket.inet_ntop(family, _socket.inet_pton(family, word))
    except (OSError, ValueError):  # ValueError: what can't be in a C string
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
    """Replace what a file holds, at once; return what `edit` says beside the new lines.  Raises `GuardError`.

    The new file is made beside the old one and takes its name: not possible where that is a mount of its own (EBUSY,
    rename(2)), read-only, or immutable.  A symbolic link stays, and what it leads to is replaced.
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
                raise GuardError(f"{path}: it has other names (hard links), which would keep what it was")
            if _put(place, b"\n".join(edited), before):
                return said
    except OSError as error:
        raise GuardError(f"{path}: {error.strerror}") from error
    raise GuardError(f"{path}: somebody else writes it all the time")


def _put(place: str, content: bytes, before: os.stat_result) -> bool:
    """Put a new file in the place of the old one, unless that is not the one any more that was read."""
    directory, name = os.path.split(place)
    beside = f"{directory}/.{name}.netconf-hooks"
    try:
        os.unlink(beside)  # what a killed hook left
    except FileNotFoundError:
        pass
    try:
        # Not followed where it is a link, and nobody else's: O_EXCL, open(2).
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            file.flush()
            # Or a power failure could leave the admin an empty file in place of theirs.
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
        pass  # the next writer finds it, and what went wrong before is told
