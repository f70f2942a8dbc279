"""``netconf-hooks portal``, ``release`` and ``close``: control a guard by hand."""

from __future__ import annotations

import os
from time import monotonic

from netconf_hooks.commands.entry import CommandError, OK
from netconf_hooks.commands.patience import tell_if_slow
from netconf_hooks.evidence import make_link
from netconf_hooks.evidence.captive_portal import find_portals
from netconf_hooks.evidence.current import list_current
from netconf_hooks.guard.endpoints import list_resolvers
from netconf_hooks.guard.exemptions import make_network, make_pass
from netconf_hooks.guard.firewall import GuardError, Exemption
from netconf_hooks.guard.override import close_guards, open_portal, release_guard
from netconf_hooks.ifenv import device_of
from netconf_hooks.system.resolvers import list_resolver_users
from netconf_hooks.wake import wake_watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from netconf_hooks.evidence import Link
    from netconf_hooks.evidence.captive_portal import Portal
    from netconf_hooks.state import Store

# Seconds.
PORTAL_TIME = 300.0
LONGEST_PORTAL = 3600.0
# How long the network may take to say where its portal is, and then its name server.
ANNOUNCEMENT_TIME = 2.0

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# The user who resolves names for all others: systemd-resolved (its sysusers.d file).
_RESOLVER_USER = "systemd-resolve"


def read_duration(text: str, longest: float = LONGEST_PORTAL, expected: str = "up to an hour like 90s or 5m") -> float:
    """Return the seconds that ``90``, ``90s``, ``5m``, ``1h`` or ``2d`` mean.

    longest: how many it may be at most; expected: the same in words.  Raises ValueError.
    """
    digits, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    # int() refuses very long numbers (sys.set_int_max_str_digits).
    seconds = int(digits) * _UNITS[unit] if digits.isascii() and digits.isdecimal() and len(digits) < 20 else 0
    if not 0 < seconds <= longest:
        raise ValueError(f"expected a time of {expected}, not {text!r}")
    return float(seconds)


def visit_portal(options: Namespace, store: Store) -> int:
    """``netconf-hooks portal IFACE [--for 5m]``: http, https and the link's DNS, for who asked, for a time."""
    _need_root("portal")
    device = device_of(options.iface)
    record = store.read_interface(options.iface)
    if record is None or not list_current([record]):
        raise CommandError(f"{options.iface}: not up, or without netconf rules")
    uid = find_caller(os.environ)
    try:
        with tell_if_slow(f"{options.iface}: waiting for its name servers, and for the firewall"):
            link = make_link(options.iface, record.options)
            resolvers = list_resolvers(link)
            portals = find_portals(link, monotonic() + ANNOUNCEMENT_TIME)
            passing = list_portal_exemptions(
                uid, _list_resolver_users(), resolvers, _find_routers(link), _find_places(portals, link, store)
            )
            open_portal(store, device, passing, options.seconds)
    except GuardError as error:
        raise CommandError(f"{options.iface}: {error}") from error
    print(f"{device}: for {options.seconds:g} s http, https and DNS pass for the user with uid {uid}")
    for portal in portals:
        print(f"{device}: the network announces a captive portal: open {portal.uri}")
    if not resolvers:
        print(f"{device} has announced no name server: names can't be looked up")
    return OK


def list_portal_exemptions(
    uid: int,
    users: tuple[int, ...],
    servers: tuple[str, ...],
    routers: tuple[str, ...] = (),
    places: tuple[tuple[str, int], ...] = (),
) -> tuple[Exemption, ...]:
    """Return the exemptions for a captive portal.

    uid: the user who visits it; users: those whose processes resolve names for all others; servers: the link's name
    servers; routers: its default routers, of which any TCP port passes, since portals often use
    one of their own; places: addresses and ports of the portals that the network announces.
    """
    askers = tuple(dict.fromkeys((uid, *users)))
    return (
        *(Exemption("tcp", port=port, uids=(uid,)) for port in (80, 443)),
        *(Exemption("tcp", make_network(router), uids=(uid,)) for router in routers),
        *(
            Exemption("tcp", make_network(address), port, uids=(uid,))
            for address, port in places
            if port not in (80, 443)
        ),
        *(
            Exemption(protocol, make_network(server), 53, uids=askers)
            for server in servers
            for protocol in ("udp", "tcp")
        ),
    )


def _find_routers(link: Link) -> tuple[str, ...]:
    """Return the default routers of a link."""
    from netconf_hooks.evidence.router import observe

    return observe(("gateway",), link, monotonic())["gateway"].values


def _find_places(portals: Sequence[Portal], link: Link, store: Store) -> tuple[tuple[str, int], ...]:
    """Return the addresses and ports of portals; their names are resolved by the link's own name servers."""
    from netconf_hooks.evidence.names import is_address, look_up
    from netconf_hooks.evidence.probes import View

    places = [(portal.host, portal.port) for portal in portals if is_address(portal.host)]
    named = [portal for portal in portals if not is_address(portal.host)]
    if named:
        with make_pass(store, link.device, ANNOUNCEMENT_TIME) as passing:
            view = View(link, monotonic() + ANNOUNCEMENT_TIME, passing.announce)
            found = look_up([portal.host for portal in named], view)
        places += [(address, portal.port) for portal in named for address in found[portal.host].addresses]
    return tuple(dict.fromkeys(places))


def find_caller(environ: Mapping[str, str], loginuid: str = "/proc/self/loginuid") -> int:
    """Return the caller: the user of sudo(8) or pkexec(1), else the user who logged in (proc(5)), else root."""
    for variable in ("SUDO_UID", "PKEXEC_UID"):
        if environ.get(variable, "").isdecimal():
            return int(environ[variable])
    try:
        with open(loginuid, encoding="ascii") as file:
            uid = int(file.read())
    except (OSError, ValueError):
        return 0
    return 0 if uid == 0xFFFFFFFF else uid  # nobody has logged in


def release_link(options: Namespace, store: Store) -> int:
    """``netconf-hooks release IFACE``: opens its guard until the next ifup."""
    _need_root("release")
    try:
        release_guard(store, device_of(options.iface))
    except GuardError as error:
        raise CommandError(f"{options.iface}: {error}") from error
    wake_watcher(store)
    print(f"{device_of(options.iface)}: released: anything may leave, unencrypted, until the next ifup")
    return OK


def close_links(options: Namespace, store: Store) -> int:
    """``netconf-hooks close``: close all guards until the networks have been looked at again; used before sleep."""
    _need_root("close")
    close_guards(store, "closed by command, until the network is looked at again")
    return OK


def _need_root(command: str) -> None:
    if os.geteuid() != 0:
        raise CommandError(f"{command}: only root may change the firewall")


def _list_resolver_users() -> tuple[int, ...]:
    """Return the users whose processes resolve names for all others."""
    resolved = _find_resolver_user()
    return tuple(dict.fromkeys((*(() if resolved is None else (resolved,)), *list_resolver_users())))


def _find_resolver_user() -> int | None:
    from pwd import getpwnam

    try:
        return getpwnam(_RESOLVER_USER).pw_uid
    except KeyError:
        return None
