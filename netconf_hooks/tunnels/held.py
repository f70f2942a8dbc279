"""The tunnels that the admin holds: ``netconf-hooks hold KIND NAME``, netconf-hooks(8).

Until ``unhold`` or the end of the given time, the tunnel is not started, stopped, nudged or restarted.  Holds survive
a reboot.  The file is text, one line for each tunnel: kind, name, and end (seconds since 1970, 0 for no end)::

    openvpn corp 0
    wireguard home 1795903200
"""

from __future__ import annotations

import os
import time

from netconf_hooks.record import Record
from netconf_hooks.stanzas.rules import TUNNEL_KINDS
from netconf_hooks.state import HELD
from netconf_hooks.system import log
from netconf_hooks.system.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# First line of the file.
FORMAT = "netconf-hooks held 1"


class Hold(Record):
    """A tunnel that is held.  until: seconds since 1970, 0 for no end."""

    __slots__ = ("kind", "name", "until")

    def __init__(self, kind: str, name: str, until: int = 0) -> None:
        self.kind = kind
        self.name = name
        self.until = until

    def __str__(self) -> str:
        if not self.until:
            return "held by the admin"
        return f"held by the admin until {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.until))}"


def is_held(kind: str, name: str) -> bool:
    """Whether the admin holds a tunnel now."""
    return (kind, name) in read_holds()


def read_holds() -> dict[tuple[str, str], Hold]:
    """Return the holds that have not ended, by kind and name.  Lines that can't be read are logged and don't count."""
    try:
        lines = read_file(HELD).decode("ascii").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        log.error(f"{HELD}: {getattr(error, 'strerror', None) or error}: no tunnel is held")
        return {}
    if lines[:1] != [FORMAT]:
        log.error(f'{HELD}: its first line is not "{FORMAT}": no tunnel is held')
        return {}
    holds = {}
    now = time.time()
    for line in lines[1:]:
        kind, name, until = (*line.split(" "), "", "", "")[:3]
        if kind not in TUNNEL_KINDS or not name or not until.isdecimal() or len(until) > 11:
            log.error(f"{HELD}: this line can't be read, and holds nothing: {log.printable(line)}")
        elif until == "0" or now < int(until):
            holds[kind, name] = Hold(kind, name, int(until))
    return holds


def find_next_end() -> float:
    """Return in how many seconds the first hold ends; 0 if none does."""
    ends = [each.until for each in read_holds().values() if each.until]
    return max(0.1, min(ends) - time.time()) if ends else 0.0


def hold(kind: str, name: str, until: int = 0) -> None:
    """Hold a tunnel.  until: seconds since 1970, 0 for no end.  The records' lock is held.  Raises OSError."""
    holds = read_holds()
    holds[kind, name] = Hold(kind, name, until)
    _write(HELD, holds)


def unhold(kind: str, name: str) -> None:
    """End the hold of a tunnel, if there is one.  The records' lock is held.  Raises OSError."""
    holds = read_holds()
    if holds.pop((kind, name), None):
        _write(HELD, holds)


def _write(path: str, holds: Mapping[tuple[str, str], Hold]) -> None:
    lines = [FORMAT, *(f"{each.kind} {each.name} {each.until}" for each in holds.values())]
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    beside = f"{path}.new"
    with open(beside, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())  # otherwise a power failure after the rename could leave an empty file
    os.chmod(beside, 0o644)
    os.rename(beside, path)
