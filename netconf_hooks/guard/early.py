"""A guarded link while a mapping script looks at it: ifup runs the script before any hook, so no guard is up yet.

The script sets the link up to ask its neighbours, and a router that advertises itself gives it an IPv6 address, over
which everything on this machine could send.
"""

from __future__ import annotations

from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from netconf_hooks.interfaces import Names

SLACK = 5.0
"""Seconds that the link stays closed beyond the script's own time limit, if the script is killed."""


def is_any_guarded(stanzas: Iterable[str], path: str = "") -> bool:
    """Whether one of these ``iface`` stanzas asks for a guard; one that can't be read does.

    path: the file they are in, `interfaces.FILE` if empty.
    """
    from netconf_hooks.interfaces import FILE, InterfacesError, query_stanzas, read_names
    from netconf_hooks.rules import read_rules

    path = path or FILE
    names = read_names(path)
    # Only those that may have one are asked for: it takes an ifquery, which a mapping without a guard need not pay for.
    likely = [name for name in dict.fromkeys(stanzas) if _mentions_guard(names, name)]
    if not likely:
        return False
    try:
        return any(read_rules(options).is_guarded() for options in query_stanzas(likely, path).values())
    except InterfacesError as error:
        log.error(f"whether {', '.join(likely)} are guarded is not known: {error}")
        return True


class EarlyGuard:
    """Keeps a device closed but for what every closed guard lets through, if a stanza of its mapping asks for a guard.

    iface: the interface, for the log; stanzas: those that the mapping may choose; path: as for `is_any_guarded`;
    seconds: after which the kernel opens the link again if nobody else does.
    """

    def __init__(self, iface: str, device: str, stanzas: Iterable[str], seconds: float, path: str = "") -> None:
        self._iface = iface
        self._device = device
        self._stanzas = tuple(stanzas)
        self._seconds = seconds
        self._path = path
        self._closed = False

    def close(self) -> None:
        """Close the device.  Where that can't be done it is logged, and the script goes on."""
        if not is_any_guarded(self._stanzas, self._path):
            return
        from netconf_hooks.guard.firewall import GuardError
        from netconf_hooks.guard.firewall.nftables import Firewall

        try:
            # Also if the guard itself will be made with iptables, which has no rule that ends by itself.
            Firewall().close_early(self._device, self._seconds)
            self._closed = True
        except GuardError as error:
            log.error(f"{self._iface}: netconf-guard: traffic can leave while the mapping looks at the link: {error}")

    def lift(self) -> None:
        """Take away what `close` has put up."""
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
