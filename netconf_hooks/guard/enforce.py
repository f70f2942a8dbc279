"""Makes the firewall do what was decided about the guards.

A change of a guard is first written into its record and then into the firewall, under the lock for acting.  If a hook
is killed in between, the firewall is stricter than the record, never laxer.

An open guard is a lease that the kernel ends.  This module grants it; the watcher renews it (`lease`).
"""

from __future__ import annotations

import os
import time
from time import monotonic

from netconf_hooks.exemption import Exemption, parse_exemption
from netconf_hooks.guard import firewall
from netconf_hooks.guard.endpoints import let_tunnels_through
from netconf_hooks.guard.exemptions import list_exemptions, make_lan
from netconf_hooks.guard.firewall import (
    Closing, GuardError, NAMES, OPEN as OPEN_WINDOW, PORTAL, TokenGone, UNHOOKED, Window
)  # fmt: skip
from netconf_hooks.guard.guarded_look import ATTEMPTS, begin_windows
from netconf_hooks.guard.network import is_still_there
from netconf_hooks.guard.records import LEASE, find_ports, mark_applied, read_guard
from netconf_hooks.guard.shut import drop_waiting, note_shut, shut_guard, shut_together, shut_windows
from netconf_hooks.state import CLOSED, OPEN, RELEASED, boot_time
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netconf_hooks.state import GuardRecord, Store


def close_decided(store: Store) -> None:
    """Restore guards that somebody has removed, close those that should be closed, and allow the packets of tunnels
    that should be up."""
    put_back(store)  # there may be no watcher that does it
    with store.lock_acting():
        follow_closing(store)
    let_tunnels_through(store)
    with store.lock_acting():
        follow_closing(store)


def shut_decided(store: Store) -> None:
    """Shut each open guard that should be closed, without waiting for the lock for acting."""
    records = [record for record in store.read_guards(log.error) if record.opened and record.verdict == CLOSED]
    when = monotonic()
    done = shut_together(records, everything=False)
    for record in records:
        with store.lock_records():
            note_shut(store, record, record.because, when, done[record.device], everything=False)


def open_decided(store: Store) -> None:
    """Allow endpoints that are known only now that tunnels run, and open each guard that should be open."""
    # Some endpoints are known only from the running daemon.  Those of stopped tunnels are not needed any more.
    changed = let_tunnels_through(store, asked=True)
    with store.lock_acting():
        if changed:
            follow_closing(store)
        follow_opening(store)


def follow_closing(store: Store) -> None:
    """Close each guard that should be closed, and update its exemptions.  A guard that should stay open stays open."""
    tokens = {}
    for record in _list_undone(store):
        if record.opened and record.verdict == OPEN:
            if not is_still_there(record):
                shut_guard(store, record, "the network has changed")
                continue
            try:
                token = _find_open(record)
            except GuardError as error:
                # It may still be open, as its record says: so the watcher goes on watching its network.
                log.error(f"{record.device}: netconf-guard: {error}")
                continue
            if token:
                tokens[record.device] = token
            else:
                _note_not_open(store, record)
    closed = []
    for record in _list_undone(store):
        if token := tokens.get(record.device, "") if record.verdict == OPEN else "":
            _tell(store, record, token)
        else:
            closed.append(record)
    _close_all(store, closed)


def follow_opening(store: Store) -> None:
    """Open each guard that should be open, look at the network once more, and close the guard if it has changed."""
    for record in _list_undone(store):
        if record.verdict != OPEN:
            continue
        if not record.token or not is_still_there(record):
            shut_guard(store, record, "uncertain which network this is: it has changed, or its router does not answer")
            continue
        _tell(store, record, record.token)
        if not is_still_there(record):
            shut_guard(store, record, "the network changed while it was opened")
        _take_back(store, record)


def _find_open(record: GuardRecord) -> str:
    """Return a token that allows replacing the rules of an open link while it stays open; empty if it is not open.

    The token is put into the firewall before we check that the link is open: shutting the link later removes the token.
    Raises `GuardError`.
    """
    token = os.urandom(4).hex()
    backend = firewall.load_firewall(record.backend)
    backend.begin_look(record.device, token)
    window = Window(OPEN_WINDOW, (Exemption(),), time.time() + LEASE)
    return token if backend.renew_window(record.device, window) else ""


def _note_not_open(store: Store, record: GuardRecord) -> None:
    """Write down that a link is not open in the firewall: only a valid token opens it again."""
    with store.lock_records():
        now = read_guard(store, record.device)
        if now and now.verdict != RELEASED:
            store.write_guard(now.change(opened=False, done=False))


def _list_undone(store: Store) -> list[GuardRecord]:
    with store.lock_records():
        records = store.read_guards(log.error)
    wrong = [record for record in records if not record.done or record.opened != (record.verdict == OPEN)]
    return [record for record in wrong if record.verdict != RELEASED]


def _tell(store: Store, record: GuardRecord, token: str = "") -> None:
    """Change the firewall to what a record says, and write down that this is done.

    token: of the look that allows opening the link; if it is empty, the link is closed.
    """
    windows = _list_windows(record)
    until = time.time() + LEASE
    opens = bool(token)
    if opens:
        if not _note_opening(store, record, until):
            return
        windows.append(Window(OPEN_WINDOW, (Exemption(),), until))
    try:
        backend = firewall.load_firewall(record.backend)
        whole = opens or not windows or _close_with(record, windows)
        if opens or not windows or not whole:
            passing = tuple(windows if opens else ())
            backend.close(record.device, list_exemptions(record), passing, token, find_ports(record))
    except TokenGone as error:
        log.info(f"{record.device}: netconf-guard: not opened: {error}")
        shut_guard(store, record, "the network changed while it was looked at")
        return
    except (GuardError, NetlinkError) as error:
        log.error(f"{record.device}: netconf-guard: {error}")
        return
    if record.opened and not opens:
        drop_waiting(record.device)
    mark_applied(store, record, opens, until if opens and backend.has_lease else 0.0, whole)


def _close_with(record: GuardRecord, windows: Sequence[Window]) -> bool:
    """Close a link except for these windows; return False if the windows can't be allowed (any more).

    The link may change its network between any two of these steps, and this program may be stopped: shutting the link
    then makes the token invalid.
    """
    try:
        backend = firewall.load_firewall(record.backend)
        for _ in range(ATTEMPTS):
            if not (token := begin_windows(record)):
                return False
            try:
                backend.close(record.device, list_exemptions(record), tuple(windows), token, find_ports(record))
                return True
            except TokenGone:
                continue  # somebody has shut the link meanwhile
    except (GuardError, NetlinkError) as error:
        log.debug(f"{record.device}: netconf-guard: no temporary exemption is possible: {error}")
    return False


def _close_all(store: Store, records: Iterable[GuardRecord]) -> None:
    """Close links in the firewalls as their records say, and write down that this is done.

    Links with windows need a token each, and their routers may be silent: so they come last, one by one.
    """
    plain: list[GuardRecord] = []
    windowed: list[GuardRecord] = []
    for record in records:
        (windowed if _list_windows(record) else plain).append(record)
    _close_together(store, plain)
    for record in windowed:
        _tell(store, record)


def _close_together(store: Store, records: Iterable[GuardRecord]) -> None:
    """Close links without their windows, all links of a firewall in one transaction, and write down that this is done.
    """
    by_backend: dict[str, list[GuardRecord]] = {}
    for record in records:
        by_backend.setdefault(record.backend, []).append(record)
    for backend, together in by_backend.items():
        if len(together) > 1 and _close_at_once(backend, together):
            for record in together:
                if record.opened:
                    drop_waiting(record.device)
                mark_applied(store, record, opened=False, whole=not _list_windows(record))
        else:
            for record in together:
                _tell(store, record)


def _close_at_once(backend: str, records: Iterable[GuardRecord]) -> bool:
    """Close links in one transaction; return whether this succeeded."""
    try:
        firewall.load_firewall(backend).close_all([
            Closing(record.device, list_exemptions(record), (), find_ports(record))
            for record in records
        ])  # fmt: skip
    except (GuardError, NetlinkError) as error:
        log.info(f"{', '.join(record.device for record in records)}: netconf-guard: not closed at once: {error}")
        return False
    return True


def _list_windows(record: GuardRecord) -> list[Window]:
    """Return the windows of a closed link: those for a portal and for names, for as long as they still last, and that
    for the LAN."""
    now = time.time()
    windows = []
    for name, left, exemptions in (
        (PORTAL, record.portal_left(), record.portal_exemptions), (NAMES, record.dns_left(), record.dns_exemptions)
    ):  # fmt: skip
        if left:
            windows.append(Window(name, tuple(map(parse_exemption, exemptions)), now + left))
    lan = make_lan(record.lan)
    return [*windows, lan] if lan else windows


def _note_opening(store: Store, record: GuardRecord, until: float) -> bool:
    """Write down that a link may be open from now on.  Return whether it should still be opened, by the same look.

    This is written before the link is opened: if the hook is killed in between, the record still says so.
    """
    with store.lock_records():
        now = read_guard(store, record.device)
        if not now or now.verdict != OPEN or now.token != record.token:
            return False
        store.write_guard(now.change(opened=True, lease_until=until, lease_until_boot=boot_time() + LEASE, done=False))
    return True


def put_back(store: Store) -> str:
    """Restore guards that somebody else has removed (``nft flush ruleset``); those that were open are closed.

    Returns why the networks have to be looked at again; empty if they need not be.  Each firewall is listed once, and
    the lock for acting is taken only if something is missing.
    """
    records = [record for record in store.read_guards(log.error) if record.verdict != RELEASED]
    because = ""
    fallen = _find_fallen(records)
    if fallen:
        with store.lock_acting():
            # Read and look again, under the lock: another process may just have closed or removed a guard.
            now = [record for record in store.read_guards(log.error) if record.verdict != RELEASED]
            fallen = _find_fallen(each for each in now if each.device in fallen)
            for device, (record, problem) in fallen.items():
                if problem == UNHOOKED:
                    log.info(f"{device}: netconf-guard: {problem}: adding the hook for its frames")
                else:
                    log.error(
                        f"{device}: netconf-guard: somebody removed it ({record.backend}: {problem}); restoring it"
                    )
                if record.verdict == OPEN:
                    because = "a guard was removed"
            # Close them without their windows first: these need a guard that is already closed.
            _close_together(store, [record for record, _ in fallen.values()])
            for record, _ in fallen.values():
                if _list_windows(record):
                    _tell(store, record)
    _change_ports(store, [record for record in records if record.device not in fallen])
    clock = time.time()
    if any(record.verdict == OPEN and record.opened and not record.is_open(clock) for record in records):
        because = because or "a lease has ended"
    return because


def _find_fallen(records: Iterable[GuardRecord]) -> dict[str, tuple[GuardRecord, str]]:
    """Return the guards that are not in their firewall as they should be, by device, each with a message."""
    fallen: dict[str, tuple[GuardRecord, str]] = {}
    by_backend: dict[str, dict[str, GuardRecord]] = {}
    for record in records:
        by_backend.setdefault(record.backend, {})[record.device] = record
    for backend, guards in by_backend.items():
        try:
            problems = firewall.load_firewall(backend).find_fallen(tuple(guards))
        except GuardError as error:
            log.error(f"{', '.join(guards)}: netconf-guard: {error}")
            problems = dict.fromkeys(guards, str(error))
        fallen |= {device: (guards[device], problem) for device, problem in problems.items()}
    return fallen


def _take_back(store: Store, record: GuardRecord) -> None:
    """Close a guard again if it was closed while we opened it: `shut_guard` does not take the lock for acting."""
    with store.lock_records():
        now = read_guard(store, record.device)
    if not now or now.verdict == CLOSED:
        shut_windows(record, everything=False)


def _change_ports(store: Store, records: Iterable[GuardRecord]) -> None:
    """Write the current ports of guarded links into the firewall.  Until then a new port counts as leading outside."""
    for record in records:
        try:
            if find_ports(record) is None:
                continue
            with store.lock_acting():
                now = read_guard(store, record.device)
                if now and now.verdict != RELEASED and (ports := find_ports(now)):
                    firewall.load_firewall(now.backend).change_ports(now.device, ports)
        except (GuardError, NetlinkError) as error:
            log.error(f"{record.device}: netconf-guard: its ports can't be written into the firewall: {error}")
