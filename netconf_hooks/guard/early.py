"""Closes a link while a mapping script looks at it.

ifup runs the script before all hooks, so no guard is installed yet.  But the script sets the link up to ask its
neighbours, and a router advertisement then gives it an IPv6 address: every program on this machine could send.
"""

from __future__ import annotations

from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from netconf_hooks.stanzas.interfaces import Names

SLACK = 5.0
"""Seconds that the link stays closed beyond the script's own time limit, if the script is killed."""


def is_any_guarded(stanzas: Iterable[str], path: str = "") -> bool:
    """Whether one of these ``iface`` stanzas asks for a guard; True if one can't be read.

    path: of the file with the stanzas, `interfaces.FILE` if empty.
    """
    from netconf_hooks.stanzas.interfaces import FILE, InterfacesError, query_stanzas, read_names
    from netconf_hooks.stanzas.rules import read_rules

    path = path or FILE
    names = read_names(path)
    # Ask ifquery only about stanzas that may have a guard: it costs a process, and most mappings have no guard.
    likely = [name for name in dict.fromkeys(stanzas) if _mentions_guard(names, name)]
    if not likely:
        return False
    try:
        return any(read_rules(options).is_guarded() for options in query_stanzas(likely, path).values())
    except InterfacesError as error:
        log.error(f"unknown whether {', '.join(likely)} should be guarded: {error}")
        return True


class EarlyGuard:
    """Closes a device if a stanza that its mapping may choose asks for a guard.

    The packets that pass every closed guard may leave.
    iface: the interface, for the log; stanzas: those that the mapping may choose; path: as for `is_any_guarded`;
    seconds: after these the kernel opens the link again, in case the script is killed.
    """

    def __init__(self, iface: str, device: str, stanzas: Iterable[str], seconds: float, path: str = "") -> None:
        self._iface = iface
        self._device = device
        self._stanzas = tuple(stanzas)
        self._seconds = seconds
        self._path = path
        self._closed = False

    def close(self) -> None:
        """Close the device.  If that fails, an error is logged, and the script goes on."""
        if not is_any_guarded(self._stanzas, self._path):
            return
        from netconf_hooks.guard.firewall import GuardError
        from netconf_hooks.guard.firewall.nftables import Firewall

        try:
            # Use nftables even if the guard itself will use iptables: the kernel ends this by a timeout.
            Firewall().close_early(self._device, self._seconds)
            self._closed = True
        except GuardError as error:
            log.error(f"{self._iface}: netconf-guard: traffic can leave while the mapping looks at the link: {error}")

    def lift(self) -> None:
        """Undo `close`."""
        if not self._closed:
            return
        from netconf_hooks.guard.firewall import GuardError
        from netconf_hooks.guard.firewall.nftables import Firewall

        self._closed = False
        try:
            Firewall().lift_early(self._device)
        except GuardError as error:
            log.error(f"{self._iface}: netconf-guard: {self._device} stays closed for {self._seconds:g} s: {error}")


def _mentions_guard(names: Names, stanza: str) -> bool:
    """Whether a stanza, or one that it inherits from, has an option that may be ``netconf-guard``."""
    waiting = [stanza]
    seen = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for heading in names.headings:
            if heading.name == name:
                if any(option.startswith("netconf-g") for option in heading.options):
                    return True
                waiting += [heading.parent] if heading.parent else []
    return False
