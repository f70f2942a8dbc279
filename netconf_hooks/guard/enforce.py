"""From what was decided on the guards to the firewall.

Whoever changes what a guard is to be writes it into its record first and tells the firewall then, holding the lock for
acting.  If a hook is killed in between, the firewall is stricter than the record, never laxer.

An open guard is a lease that the kernel ends: it is granted here, and renewed by the listening process (`lease`).
"""

from __future__ import annotations

import os
import time
from time import monotonic

from netconf_hooks.decide import CLOSED, OPEN, RELEASED
from netconf_hooks.evidence import ports
from netconf_hooks.guard import firewall
from netconf_hooks.guard.endpoints import let_tunnels_through
from netconf_hooks.guard.exemptions import list_exemptions, make_lan
from netconf_hooks.guard.firewall import (
    Closing, GuardError, NAMES, OPEN as OPEN_WINDOW, Exemption, PORTAL, TokenGone, UNHOOKED, Window, parse_exemption
)  # fmt: skip
from netconf_hooks.guard.guarded_look import ATTEMPTS, begin_windows
from netconf_hooks.guard.network import is_still_there
from netconf_hooks.guard.records import read_guard
from netconf_hooks.guard.shut import drop_waiting, note_shut, shut_guard, shut_windows
from netconf_hooks.state import boot_time
from netconf_hooks.system import log
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netconf_hooks.observation import Ports
    from netconf_hooks.state import GuardRecord, Store

# For how long an open guard stays open if nobody renews it, seconds.
LEASE = 30.0


def close_decided(store: Store) -> None:
    """Put back what somebody took away, close what is to be closed, and let the packets of wanted tunnels through."""
    put_back(store)  # also without a watcher
    with store.lock_acting():
        follow_closing(store)
    let_tunnels_through(store)
    with store.lock_acting():
        follow_closing(store)


def shut_decided(store: Store) -> None:
    """Shut what is open and was decided to be closed, without waiting for the lock for acting."""
    for record in store.read_guards(log.error):
        if record.opened and record.verdict == CLOSED:
            when = monotonic()
            done = shut_windows(record, everything=False)
            with store.lock_records():
                note_shut(store, record, record.because, when, done, everything=False)


def open_decided(store: Store) -> None:
    """Let through what is only known of running tunnels, and open what is to be open."""
    # Some endpoints are known only from the running daemon, and what has stopped sends nothing any more.
    changed = let_tunnels_through(store, asked=True)
    with store.lock_acting():
        if changed:
            follow_closing(store)
        follow_opening(store)


def follow_closing(store: Store) -> None:
    """Close what is to be closed, and let through what is to pass; what is open and may stay so stays so."""
    tokens = {}
    for record in _list_undone(store):
        if record.opened and record.verdict == OPEN:
            if not is_still_there(record):
                shut_guard(store, record, "the network has changed")
            elif token := _find_open(record):
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
    """Open what is to be open, look once more, and close what is on another network by now."""
    for record in _list_undone(store):
        if record.verdict != OPEN:
            continue
        if not record.token or not is_still_there(record):
            shut_guard(store, record, "it is not certain which network this is: it changed, or its router is silent")
            continue
        _tell(store, record, record.token)
        if not is_still_there(record):
            shut_guard(store, record, "the network changed while it was opened")
        _take_back(store, record)


def _find_open(record: GuardRecord) -> str:
    """Return a token with which the rules of an open link can be replaced and stay open; empty if it is not open.

    The link is seen to be open when the token is in the firewall already: whoever shuts it later removes the token.
    """
    token = os.urandom(4).hex()
    try:
        backend = firewall.load_firewall(record.backend)
        backend.begin_look(record.device, token)
        window = Window(OPEN_WINDOW, (Exemption(),), time.time() + LEASE)
        return token if backend.renew_window(record.device, window) else ""
    except GuardError as error:
        log.error(f"{record.device}: netconf-guard: {error}")
        return ""


def _note_not_open(store: Store, record: GuardRecord) -> None:
    """Write down that the firewall has not opened a link, or has shut it: only a valid token opens it again."""
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
    """Have the firewall do what a record says, and note it.

    token: of the look that opens the link; without, it is closed.
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
    """Close a link but for what is allowed for a time; return False if it can't be allowed (any more).

    Between any two steps of this the link can be moved, or this program stopped: that voids the token.
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
        log.debug(f"{record.device}: netconf-guard: nothing can be allowed for a time: {error}")
    return False


def _close_all(store: Store, records: Iterable[GuardRecord]) -> None:
    """Have the firewalls close links as their records say, and note it: one transaction for all links of a firewall.

    Those with windows are told by themselves, since each needs a token.
    """
    by_backend: dict[str, list[GuardRecord]] = {}
    for record in records:
        if _list_windows(record):
            _tell(store, record)
        else:
            by_backend.setdefault(record.backend, []).append(record)
    for backend, together in by_backend.items():
        if len(together) > 1 and _close_at_once(backend, together):
            for record in together:
                if record.opened:
                    drop_waiting(record.device)
                mark_applied(store, record, opened=False)
        else:
            for record in together:
                _tell(store, record)


def _close_at_once(backend: str, records: Iterable[GuardRecord]) -> bool:
    """Have a firewall close links in one transaction; return whether it did."""
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
    """Return what is let through for a time, but for the whole link, each for no longer than was asked for; and the
    LAN."""
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
    """Write down that a link may be open from now on, before it is: a killed hook leaves nothing open that nobody knows
    of.  Returns whether it is still to be opened, by the same look."""
    with store.lock_records():
        now = read_guard(store, record.device)
        if not now or now.verdict != OPEN or now.token != record.token:
            return False
        store.write_guard(now.change(opened=True, lease_until=until, lease_until_boot=boot_time() + LEASE, done=False))
    return True


def mark_applied(store: Store, told: GuardRecord, opened: bool, lease: float = 0.0, whole: bool = True) -> None:
    """Note that the firewall was told what a record says, unless that has changed meanwhile.

    opened: whether the link was opened; lease: until when, 0 for no end; whole: whether all windows could be told.
    """
    with store.lock_records():
        now = read_guard(store, told.device)
        if now and now.verdict != RELEASED:
            passing = [
                (each.exemptions, each.servers, each.passes, each.dns_until, each.portal_until, each.lan)
                for each in (now, told)
            ]
            done = whole and passing[0] == passing[1] and opened == (now.verdict == OPEN)
            lease_until_boot = boot_time() + LEASE if lease else 0.0
            store.write_guard(
                now.change(opened=opened, done=done, lease_until=lease, lease_until_boot=lease_until_boot)
            )


def put_back(store: Store) -> str:
    """Put up again what somebody else has taken away (nft flush ruleset); return why the networks are to be looked at
    and decided on anew: what was open is closed.  Empty if they need not.

    What stands is listed once for each firewall, and the lock for acting is taken only where something is missing.
    """
    records = [record for record in store.read_guards(log.error) if record.verdict != RELEASED]
    because = ""
    fallen = _find_fallen(records)
    if fallen:
        with store.lock_acting():
            # Somebody may have been about to close it, or to take it away.
            now = [record for record in store.read_guards(log.error) if record.verdict != RELEASED]
            fallen = _find_fallen(each for each in now if each.device in fallen)
            for device, (record, problem) in fallen.items():
                if problem == UNHOOKED:
                    log.info(f"{device}: netconf-guard: {problem}: hooking it to its frames")
                else:
                    log.error(
                        f"{device}: netconf-guard: somebody took it away ({record.backend}: {problem}); putting it back"
                    )
                if record.verdict == OPEN:
                    because = "a guard was taken away"
            _close_all(store, [record for record, _ in fallen.values()])
            for record, _ in fallen.values():
                if _list_windows(record):
                    _tell(store, record)  # once more: only where a guard stands, windows can be told
    _change_ports(store, [record for record in records if record.device not in fallen])
    clock = time.time()
    if any(record.verdict == OPEN and record.opened and not record.is_open(clock) for record in records):
        because = because or "a lease has ended"
    return because


def _find_fallen(records: Iterable[GuardRecord]) -> dict[str, tuple[GuardRecord, str]]:
    """Return the guards that do not stand as they were put up, by device, each with what is wrong in words."""
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
    """Shut what was just opened where somebody else has decided otherwise meanwhile: who shuts waits for nobody."""
    with store.lock_records():
        now = read_guard(store, record.device)
    if not now or now.verdict == CLOSED:
        shut_windows(record, everything=False)


def _change_ports(store: Store, records: Iterable[GuardRecord]) -> None:
    """Tell the firewall which ports guarded links have now.  One that it does not know yet counts as outside."""
    for record in records:
        try:
            if find_ports(record) is None:
                continue
            with store.lock_acting():
                now = read_guard(store, record.device)
                if now and now.verdict != RELEASED and (ports := find_ports(now)):
                    firewall.load_firewall(now.backend).change_ports(now.device, ports)
        except (GuardError, NetlinkError) as error:
            log.error(f"{record.device}: netconf-guard: its ports can't be told to the firewall: {error}")


def find_ports(record: GuardRecord) -> Ports | None:
    """Return what a guarded link is made of now; None for a card.  Raises `NetlinkError`."""
    return ports.read_ports(record.device, record.options, record.rules.outside_ports)
