"""What the admin can do by hand: close all guards, allow a captive portal, release a guard."""

from __future__ import annotations

import os
import time
from time import monotonic

from netconf_hooks.evidence import fingerprint
from netconf_hooks.exemption import Exemption
from netconf_hooks.guard import firewall
from netconf_hooks.guard.endpoints import unpin
from netconf_hooks.guard.firewall import GuardError, PORTAL, TokenGone, Window
from netconf_hooks.guard.guarded_look import ATTEMPTS, begin_windows
from netconf_hooks.guard.records import read_guard
from netconf_hooks.guard.shut import note_shut, shut_together
from netconf_hooks.state import CLOSED, OPEN, RELEASED, boot_time
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from netconf_hooks.evidence.fingerprint import Fingerprint
    from netconf_hooks.state import GuardRecord, Store

_ELSEWHERE = "{device} is on another network by now, or its router is silent: ask again"

# Seconds that we wait for the records' lock before the machine is suspended.
SLEEP_PATIENCE = 2.0


def close_guards(store: Store, because: str) -> None:
    """Close all guards until the next decision, for example before the machine is suspended.  Raises OSError.

    because: the reason, for the log and the records.
    Waits only `SLEEP_PATIENCE` for the records' lock, since its holder may be frozen already.  A record that can't be
    written then expires with its lease, and the next run decides again.
    """
    if not store.has_guards():
        return
    records = [record for record in store.read_guards(log.error) if record.verdict != RELEASED]
    when = monotonic()
    shut = shut_together(records)
    lock = store.lock_records()
    if not lock.take_within(SLEEP_PATIENCE):
        log.error(f"netconf-guard: all guards are closed, but {lock.path} is held: the records still say otherwise")
        return
    try:
        for record in records:
            if record.opened:
                log.info(f"{record.device}: netconf-guard: closed: {because}")
            note_shut(store, record, because, when, shut[record.device])
    finally:
        lock.release()


def open_portal(
    store: Store, device: str, exemptions: Sequence[Exemption], seconds: float, api: str = "",
    asked: Fingerprint | None = None,
) -> None:
    """Allow `exemptions` for some seconds.  Raises `GuardError` if there is no guard, if the firewall fails, or if the
    link has moved to another network.

    api: the URI that says when they are not needed any more (RFC 8908), empty if there is none; asked: the network
    whose portal needs them, None for the current one.
    """
    with store.lock_acting():
        with store.lock_records():
            record = read_guard(store, device)
            if not record or record.verdict == RELEASED:
                raise GuardError(f"{device} has no guard, or a released one")
            until = time.time() + seconds
            now = fingerprint.read_fingerprint(device, outside_ports=record.rules.outside_ports)
            if asked and asked.is_left(now):
                raise GuardError(_ELSEWHERE.format(device=device))
            record = record.change(
                portal_until=until,
                portal_until_boot=boot_time() + seconds,
                portal_exemptions=tuple(str(exemption) for exemption in exemptions),
                portal_fingerprint=str(now.complete(asked) if asked else now),
                portal_api=api,
                portal_due=0.0,
            )
            store.write_guard(record)
        if not _open_window(record, Window(PORTAL, tuple(exemptions), until)):
            _forget_portal(store, record)
            raise GuardError(_ELSEWHERE.format(device=device))
    log.info(f"{device}: netconf-guard: a captive portal may be visited for {seconds:g} s")


def _open_window(record: GuardRecord, window: Window) -> bool:
    """Open a window; return False if the link has left its network.  Raises `GuardError`, `NetlinkError`."""
    for _ in range(ATTEMPTS):
        if not (token := begin_windows(record)):
            return False
        try:
            firewall.load_firewall(record.backend).open_window(record.device, window, token)
            return True
        except TokenGone:
            continue  # another process has shut the link meanwhile
    return False


def _forget_portal(store: Store, record: GuardRecord) -> None:
    """Record that no captive portal is allowed, unless another process has done so meanwhile."""
    with store.lock_records():
        now = read_guard(store, record.device)
        if now and now.portal_until == record.portal_until:
            store.write_guard(now.change(portal_until=0.0))


def release_guard(store: Store, device: str) -> None:
    """Open a guard until the next ifup.  Raises `GuardError`; then nothing has changed."""
    store.prepare()
    with store.lock_acting():
        with store.lock_records():
            record = read_guard(store, device)
            if not record:
                raise GuardError(f"{device} has no guard")
            because = "released by the admin until the next ifup"
            # Unlike the lease of an open guard, this does not end.
            released = record.change(
                verdict=RELEASED, because=because, opened=True, done=True, portal_until=0.0, lease_until=0.0,
                lease_until_boot=0.0,
            )  # fmt: skip
            store.write_guard(released)
        try:
            firewall.load_firewall(record.backend).lift(device)
        except GuardError:
            with store.lock_records():
                store.write_guard(record)
            raise
        unpin(device)
    log.warning(f"{device}: netconf-guard: released: anything may leave until the next ifup")


def find_state(record: GuardRecord) -> str:
    """Return the state of a guard: ``closed``, ``open`` or ``released``.

    Root asks the firewall.  Other users, and root if the firewall can't be asked, get what the record says.
    """
    opened = record.is_open(time.time())
    if os.geteuid() == 0:
        try:
            opened = firewall.load_firewall(record.backend).is_open(record.device)
        except GuardError as error:
            log.complain(f"{record.device}: netconf-guard: {error}")
    if not opened:
        return CLOSED
    return RELEASED if record.verdict == RELEASED else OPEN
