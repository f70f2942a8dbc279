"""``netconf-hooks hold`` and ``unhold``: exempt a tunnel from the rules."""

from __future__ import annotations

import os
import time

from netconf_hooks.commands.entry import CommandError, OK
from netconf_hooks.commands.patience import tell_if_slow
from netconf_hooks.commands.portal import read_duration
from netconf_hooks.settle import read_stops, settle
from netconf_hooks.stanzas.rules import find_tunnel_errors
from netconf_hooks.tunnels import held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from netconf_hooks.state import Store

# Seconds.
LONGEST_HOLD = 366 * 86400.0
PATIENCE = 20.0

_SETTLING = "waiting for tunnels to start and stop, and for event scripts"


def read_hold_time(text: str) -> float:
    """Return the seconds that ``30m``, ``2h`` or ``3d`` mean.  Raises ValueError, also beyond a year."""
    return read_duration(text, LONGEST_HOLD, "up to a year like 30m, 2h or 3d")


def hold_tunnel(options: Namespace, store: Store) -> int:
    """``netconf-hooks hold KIND NAME [--for TIME]``: exempt a tunnel from the rules."""
    _check(options, "hold")
    until = int(time.time() + options.seconds) if options.seconds else 0
    store.prepare()
    with store.lock_records():
        held.hold(options.kind, options.name, until)
    with tell_if_slow(_SETTLING):
        settle(store, ())
    # A process may be about to start or stop it, because of an earlier decision.  Don't wait for long: it may hang.
    with tell_if_slow(f"waiting for a process that starts or stops tunnels: at most {PATIENCE:g} s"):
        acting = store.lock_acting()
        if acting.take_within(PATIENCE):
            acting.release()
    print(f"{options.kind} {options.name}: {held.Hold(options.kind, options.name, until)}; it is left as it is")
    return OK


def unhold_tunnel(options: Namespace, store: Store) -> int:
    """``netconf-hooks unhold KIND NAME``: the tunnel follows the rules again, at once."""
    _check(options, "unhold")
    store.prepare()
    with store.lock_records():
        was_held = held.is_held(options.kind, options.name)
        held.unhold(options.kind, options.name)
        stops = read_stops(store)
        was_stopped = stops.pop((options.kind, options.name), None) is not None
        store.write_stops(stops)
    with tell_if_slow(_SETTLING):
        settle(store, ())
    now = "follows the rules again" if was_held or was_stopped else "was not held"
    print(f"{options.kind} {options.name}: {now}")
    return OK


def _check(options: Namespace, command: str) -> None:
    """Raise `CommandError` unless the caller is root and the tunnel is one that a rule can name."""
    if os.geteuid() != 0:
        raise CommandError(f"{command}: only root may do this")
    if errors := find_tunnel_errors(options.kind, options.name):
        raise CommandError(f"{command}: {'; '.join(errors)}")
