"""The guard (kill switch): netconf-interfaces(5), GUARD.

Hooks, the watcher and `settle` call these functions on every machine.  If there is no guard, they return at once and
import nothing, so callers need not check for guards.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Self

    from netconf_hooks.decide import Decision, Known
    from netconf_hooks.guard.guarded_look import Look
    from netconf_hooks.stanzas.ifenv import Invocation
    from netconf_hooks.stanzas.rules import Rules
    from netconf_hooks.state import GuardRecord, InterfaceRecord, Pass, Store


class OpenLook:
    """A look at the network of a link without a guard: its probes need no permission (context manager)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def announce(self, device: str, protocol: str, address: str, port: int) -> None:
        """Do nothing: see `evidence.probes.View`."""


def restore_records(store: Store) -> None:
    """Close each guard whose record is lost, and record it as closed.

    This also works if the records of all guards are gone: the rules of the interfaces that are up show that there
    should be guards.  Only this function reads these rules; the others only look for guards' records.
    """
    if store.has_guards() or store.list_asking():
        from netconf_hooks.guard.lost import restore_records as restore

        restore(store)


def is_closed_for(store: Store, invocation: Invocation, rules: Rules, again: bool = False) -> bool:
    """Close the device of an interface that comes up, if its rules ask for that; return whether the interface may come
    up.

    rules: of this pass alone; again: whether its pre-up has done so already.  Logs why it may not.
    """
    if not (rules.is_guarded() or store.has_guards()):
        return True
    from netconf_hooks.guard.lifecycle import prepare_device

    return prepare_device(store, invocation, rules, again)


def look(store: Store, device: str, until: float, token: str = "") -> Look | OpenLook:
    """Return a look at the network of a device (context manager).  Its probes pass the guard.

    until: as time.monotonic(); token: from `begin_looks`, empty if there is none.
    """
    if not store.has_guards():
        return OpenLook()
    from netconf_hooks.guard.guarded_look import Look

    return Look(store, device, until, token)


def begin_looks(store: Store, devices: Collection[str]) -> dict[str, str]:
    """Begin looks at the networks of several links at once; return the tokens for `look`, by device."""
    if len(devices) < 2 or not store.has_guards():
        return {}
    from netconf_hooks.guard.guarded_look import begin_looks as begin

    return begin(store, devices)


def find_passes(store: Store, iface: str) -> tuple[Pass, ...] | None:
    """Return the passes of an interface, including those that have only run pre-up; None if its device has no guard."""
    if not store.has_guards():
        return None
    from netconf_hooks.guard.lifecycle import find_passes as find

    return find(store, iface)


def read_guards(store: Store, records: Sequence[InterfaceRecord]) -> tuple[tuple[GuardRecord, ...], dict[str, str]]:
    """Return the guards as decisions need them, and the new names of devices that were renamed.

    records: of all interfaces.  The records' lock is held.
    """
    if not store.has_guards():
        return (), {}
    from netconf_hooks.guard.records import find_renamed, read_expired

    guards = read_expired(store)
    return guards, find_renamed(guards, records)


def write_guards(store: Store, known: Known, decision: Decision) -> bool:
    """Record the verdicts on guards; return whether a firewall has to be changed.  The caller holds the records' lock.
    """
    if not decision.guards:
        return False
    from netconf_hooks.guard.records import write_verdicts

    return write_verdicts(store, known, decision)


def shut_guards(store: Store) -> None:
    """Shut open guards that should be closed, at once; `close_guards` does the rest later."""
    if store.has_guards():
        from netconf_hooks.guard.enforce import shut_decided

        shut_decided(store)


def close_guards(store: Store) -> None:
    """Restore removed guards, close those that should be closed, and allow the packets of tunnels that should be up."""
    if store.has_guards():
        from netconf_hooks.guard.enforce import close_decided

        close_decided(store)


def open_guards(store: Store) -> None:
    """Allow endpoints that are known only now that tunnels run, and open each guard that should be open."""
    if store.has_guards():
        from netconf_hooks.guard.enforce import open_decided

        open_decided(store)


def begin_leaving(store: Store, invocation: Invocation) -> None:
    """down: close the guard of a device, and shut its windows, before anything else is done."""
    if store.has_guards():
        from netconf_hooks.guard.lifecycle import begin_leaving as begin

        begin(store, invocation)


def leave(store: Store, invocation: Invocation) -> None:
    """post-down: a pass has ended; remove the guard if no other pass asks for it and the link is down."""
    if store.has_guards():
        from netconf_hooks.guard.lifecycle import end_device

        end_device(store, invocation)


def put_back(store: Store, known: Mapping[str, str] | None = None) -> str:
    """Restore guards whose rules or records were removed.  Return why to decide again, in words: if a link that should
    be open is closed now, else empty.

    known: the devices that had a guard a moment ago, each with its firewall, regardless of the records.
    """
    if not (known or store.has_guards() or store.list_asking()):
        return ""
    from netconf_hooks.guard.enforce import put_back as restore_rules
    from netconf_hooks.guard.lost import restore_records as restore

    restored = restore(store, known)
    return restore_rules(store) or ("the record of a guard was lost" if restored else "")


def end_visits(store: Store) -> tuple[bool, float | None]:
    """Close the windows for captive portals that say that they are not needed any more.

    Returns whether a window was closed, and after how many seconds to ask again; None if there is nothing to ask.
    """
    if not store.has_guards():
        return False, None
    from netconf_hooks.guard.visits import end_visits as end

    return end(store)


def end_guards(store: Store) -> None:
    """Remove the guards of links that went down after ifdown had left them up."""
    if store.has_guards():
        from netconf_hooks.guard.lifecycle import end_guards as end

        end(store)
