"""The program of netconf-hooks-request@.service: it runs a user's request, with limits on how often.

`request` describes how a request gets here, and how the answer gets back.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from netconf_hooks import cli
from netconf_hooks.commands.entry import CommandError, FAILED, UNREADABLE
from netconf_hooks.commands.request import read_instance, RequestError
from netconf_hooks.evidence import fingerprint
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.state import boot_time, RecordError, Store
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from netconf_hooks.commands.request import Request
    from netconf_hooks.evidence.fingerprint import Fingerprint

# Seconds between two ``refresh`` by users, at least.
REFRESH_PAUSE = 10.0

# Users may open a captive portal once on each network; this many networks are remembered.
MOST_NETWORKS = 100


def main(arguments: Sequence[str]) -> int:
    """Run as the unit: ``INSTANCE``."""
    sys.excepthook = _log_crash
    try:
        request = read_instance(arguments[0] if len(arguments) == 1 else "")
    except RequestError as error:
        log.error(f"request: {error}")
        return UNREADABLE
    store = Store()
    answer = store.open_answer(request.instance)
    for descriptor in (1, 2):
        os.dup2(answer, descriptor)
    os.close(answer)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # `ask` shows the lines at once
    status = FAILED
    try:
        status = fulfil(request, store)
    finally:
        os.write(1, f"\0{status}\n".encode())
    # The user gets the exit status with the answer; systemd should not list the unit as failed.
    return 0


def fulfil(request: Request, store: Store) -> int:
    """Run a request's command, unless users run it too often; return its exit status."""
    begun = None
    try:
        if request.command == "refresh":
            _begin_refresh(store)
        elif request.command == "portal":
            begun = _begin_portal(request, store)
    except (CommandError, NetlinkError, RecordError, OSError) as error:
        log.complain(str(error))
        return FAILED
    log.info(f"requested by polkit: {' '.join(request.list_arguments())}")
    if request.command == "portal":
        os.environ["PKEXEC_UID"] = request.get("uid")  # which `commands.portal.find_caller` reads
    try:
        status = cli.main(request.list_arguments())
    finally:
        if request.command == "refresh":
            store.write_refreshed(boot_time())
    if begun and status:
        with store.lock_records():
            store.write_portals(each for each in store.read_portals() if each != begun)
    return status


def _begin_refresh(store: Store) -> None:
    """Record that a refresh begins.  Raises `CommandError` if the last one was too short ago."""
    now = boot_time()
    passed = now - store.read_refreshed()
    if passed < REFRESH_PAUSE:
        raise CommandError(
            f"refresh: the last one was {passed:.0f} s ago; without root once in {REFRESH_PAUSE:g} s: "
            f"wait {REFRESH_PAUSE - passed:.0f} s, or use sudo"
        )
    store.prepare()
    store.write_refreshed(now)


def _begin_portal(request: Request, store: Store) -> tuple[str, str] | None:
    """Record and return the network on which a captive portal is opened; None if there is no guard.

    Raises `CommandError` if a user has already opened one on this network.
    """
    device = device_of(request.get("iface"))
    guard = store.read_guard(device)
    if guard is None:
        return None  # the command reports it
    now = fingerprint.read_fingerprint(device, outside_ports=guard.rules.outside_ports)
    with store.lock_records():
        used = store.read_portals()
        for other, text in used:
            if other == device and _is_same(text, now):
                again = f"sudo netconf-hooks portal {request.get('iface')}"
                raise CommandError(f"portal: without root once for each network: on this one, use {again}")
        begun = (device, str(now))
        store.write_portals([*used, begun][-MOST_NETWORKS:])
    return begun


def _is_same(text: str, now: Fingerprint) -> bool:
    try:
        return not fingerprint.parse_fingerprint(text).is_left(now)
    except ValueError:
        return False  # recorded by another version


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import traceback

    log.error("request: " + "".join(traceback.format_exception(kind, error, trace)))
