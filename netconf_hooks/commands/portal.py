"""``netconf-hooks portal``, ``release`` and ``close``: control a guard by hand."""

from __future__ import annotations

import json
import os
from time import monotonic

from netconf_hooks.commands.entry import CommandError, OK
from netconf_hooks.commands.patience import tell_if_slow
from netconf_hooks.evidence import make_link
from netconf_hooks.evidence.captive_portal import find_portals
from netconf_hooks.evidence.current import list_current
from netconf_hooks.evidence.fingerprint import read_fingerprint
from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.endpoints import list_resolvers
from netconf_hooks.guard.exemptions import make_network, make_pass
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.guard.override import close_guards, open_portal, release_guard
from netconf_hooks.guard.records import read_guard
from netconf_hooks.record import Record
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.state import RELEASED
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.system.resolvers import list_resolver_users
from netconf_hooks.wake import wake_watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from netconf_hooks.evidence import Link
    from netconf_hooks.evidence.captive_portal import Portal
    from netconf_hooks.evidence.probes import View
    from netconf_hooks.state import Store

# Seconds.
PORTAL_TIME = 300.0
LONGEST_PORTAL = 3600.0
# How long routers may take to announce a portal, and then the name servers to resolve its name.
ANNOUNCEMENT_TIME = 2.0
# How long the portal's API may take to answer, and the network to answer a plain request.
PAGE_TIME = 3.0

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# The user that resolves names for all others: systemd-resolved's (its sysusers.d file).
_RESOLVER_USER = "systemd-resolve"


def read_duration(text: str, longest: float = LONGEST_PORTAL, expected: str = "up to an hour like 90s or 5m") -> float:
    """Return the seconds that ``90``, ``90s``, ``5m``, ``1h`` or ``2d`` mean.

    longest: the limit; expected: the limit in words.  Raises ValueError.
    """
    digits, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    # int() refuses very long numbers (sys.set_int_max_str_digits).
    seconds = int(digits) * _UNITS[unit] if digits.isascii() and digits.isdecimal() and len(digits) < 20 else 0
    if not 0 < seconds <= longest:
        raise ValueError(f"expected a time of {expected}, not {text!r}")
    return float(seconds)


class Found(Record):
    """What is known about a network's captive portal.

    portals: the announced ones; refused: messages about announcements that are not used; api: the announced address
    that is an API (RFC 8908), empty if there is none; captive: whether the API says that this machine has to log in,
    None if it says nothing; page: the API's address of the login page; redirects: where a plain request is redirected;
    problems: which questions got no answer, and why; places: addresses and ports of all of these.
    """

    __slots__ = ("portals", "refused", "api", "captive", "page", "redirects", "problems", "places")

    def __init__(
        self,
        portals: tuple[Portal, ...] = (),
        refused: tuple[str, ...] = (),
        api: str = "",
        captive: bool | None = None,
        page: Portal | None = None,
        redirects: tuple[Portal, ...] = (),
        problems: tuple[str, ...] = (),
        places: tuple[tuple[str, int], ...] = (),
    ) -> None:
        self.portals = portals
        self.refused = refused
        self.api = api
        self.captive = captive
        self.page = page
        self.redirects = redirects
        self.problems = problems
        self.places = places


def visit_portal(options: Namespace, store: Store) -> int:
    """``netconf-hooks portal [--json] [--for 5m] IFACE``: allows the caller to reach a captive portal for some time."""
    _need_root("portal")
    device = device_of(options.iface)
    record = store.read_interface(options.iface)
    if record is None or not list_current([record]):
        raise CommandError(f"{options.iface}: not up, or without netconf rules")
    guard = read_guard(store, device)
    if not guard or guard.verdict == RELEASED:
        raise CommandError(f"{options.iface}: {device} has no guard, or a released one")
    uid = find_caller(os.environ)
    try:
        with tell_if_slow(f"{options.iface}: waiting for its name servers, for the portal, and for the firewall"):
            asked = read_fingerprint(device, outside_ports=guard.rules.outside_ports)
            link = make_link(options.iface, record.options)
            resolvers = list_resolvers(link)
            found = find_out(link, store)
            passing = list_portal_exemptions(
                uid, _list_resolver_users(), resolvers, _find_routers(link), found.places
            )
            # If no login is needed, only the time closes the window.
            open_portal(store, device, passing, options.seconds, "" if found.captive is False else found.api, asked)
    except GuardError as error:
        raise CommandError(f"{options.iface}: {error}") from error
    wake_watcher(store)
    if options.json:
        print(json.dumps(_describe(device, uid, options.seconds, found, resolvers), indent=2, sort_keys=True))
        return OK
    print(f"{device}: for {options.seconds:g} s http, https and DNS pass for the user with uid {uid}")
    for line in _list_findings(found):
        print(log.printable(f"{device}: {line}"))
    if not resolvers:
        print(f"{device} has announced no name server: names can't be looked up")
    return OK


def find_out(link: Link, store: Store) -> Found:
    """Ask a link's network about its captive portal; takes some seconds at most."""
    from netconf_hooks.evidence.portal_page import PageError, ask_state, follow_redirects, is_api
    from netconf_hooks.evidence.probes import View

    portals, refused = find_portals(link, monotonic() + ANNOUNCEMENT_TIME)
    api = next((portal for portal in portals if is_api(portal)), None)
    state = None
    redirects: tuple[Portal, ...] = ()
    problems = []
    with make_pass(store, link.device, 2 * PAGE_TIME + ANNOUNCEMENT_TIME) as passing:
        try:
            if api:
                state = ask_state(api, View(link, monotonic() + PAGE_TIME, passing.announce))
        except (PageError, OSError, NetlinkError) as error:
            problems.append(f"{api.uri if api else ''} does not say whether a login is needed: {error}")
        try:
            redirects = follow_redirects(View(link, monotonic() + PAGE_TIME, passing.announce))
        except (PageError, OSError, NetlinkError) as error:
            problems.append(f"a plain request has no answer: {error}")
        page = state.portal if state else None
        visited = (*portals, *([page] if page else []), *redirects)
        places = _find_places(visited, View(link, monotonic() + ANNOUNCEMENT_TIME, passing.announce))
    captive = state.captive if state else None
    return Found(portals, refused, api.uri if api else "", captive, page, redirects, tuple(problems), places)


def _list_findings(found: Found) -> list[str]:
    """Return what the user has to know, and the address to open, in words."""
    lines = [f"the network announces a captive portal: open {portal.uri}" for portal in found.portals]
    if found.page:
        lines = [f"the network announces a captive portal: open {found.page.uri}"]
    elif not found.portals and found.redirects:
        lines.append(f"the network redirects to {found.redirects[-1].uri}")
    if found.captive is False:
        lines.append("the network says that no login is needed")
    elif found.captive:
        lines.append("this ends by itself when the network says that the login is done")
    return [*lines, *found.refused]


def _describe(
    device: str, uid: int, seconds: float, found: Found, resolvers: tuple[str, ...]
) -> dict[str, object]:
    """Return the object that ``portal --json`` prints, netconf-hooks(8)."""
    return {
        "device": device,
        "uid": uid,
        "seconds": seconds,
        "portals": [portal.uri for portal in found.portals],
        "refused": list(found.refused),
        "captive": found.captive,
        "page": found.page.uri if found.page else None,
        "redirects": [portal.uri for portal in found.redirects],
        "places": [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found.places],
        "name-servers": list(resolvers),
        "problems": list(found.problems),
    }


def list_portal_exemptions(
    uid: int,
    users: tuple[int, ...],
    servers: tuple[str, ...],
    routers: tuple[str, ...] = (),
    places: tuple[tuple[str, int], ...] = (),
) -> tuple[Exemption, ...]:
    """Return the exemptions for a captive portal.

    uid: the user who visits it; users: those whose processes resolve names for all others; servers: the link's name
    servers; routers: its default routers: all their TCP ports are allowed, since portals often use unusual ones;
    places: addresses and ports of the portals that the network announces or redirects to.
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


def _find_places(portals: Sequence[Portal], view: View) -> tuple[tuple[str, int], ...]:
    """Return the addresses and ports of portals; their names are resolved by the link's own name servers."""
    from netconf_hooks.evidence.names import is_address, look_up

    places = [(portal.host, portal.port) for portal in portals if is_address(portal.host)]
    named = [portal for portal in portals if not is_address(portal.host)]
    if named:
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
        with tell_if_slow(f"{options.iface}: waiting for a process that changes guards, and for the firewall"):
            release_guard(store, device_of(options.iface))
    except GuardError as error:
        raise CommandError(f"{options.iface}: {error}") from error
    wake_watcher(store)
    print(f"{device_of(options.iface)}: released: anything may leave, unencrypted, until the next ifup")
    return OK


def close_links(options: Namespace, store: Store) -> int:
    """``netconf-hooks close``: close all guards until the networks were looked at again; used before suspend."""
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
