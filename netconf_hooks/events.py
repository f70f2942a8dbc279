"""Runs the admin's scripts when a location or the default route comes or goes: netconf-hooks(8), EVENTS.

`decide` says which events there are.  The first process that gets the lock runs their scripts, one event after the
other.  A script may itself run ifup, ifdown or ``netconf-hooks refresh``.  These only add their events to the queue: we
run the scripts for them later, so nobody waits.
"""

from __future__ import annotations

import os

from netconf_hooks.state import RecordError
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from netconf_hooks.state import EventRecord, Store
    from netconf_hooks.system.systemd import Systemd

DIRECTORY = "/etc/netconf-hooks/event.d"

# Seconds that one script may take; ifup waits for it.
TIMEOUT = 30.0

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def read_queue(store: Store) -> tuple[EventRecord, ...]:
    """Return the events in the queue, in order.  If the file can't be read, log that: its events are lost."""
    try:
        return store.read_events()
    except RecordError as error:
        log.error(f"{error}: the events in it are lost")
        return ()


def tell_events(
    store: Store,
    directory: str = DIRECTORY,
    systemd: Systemd | None = None,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Run the scripts in `directory` for each event in the queue, until the queue is empty.

    If another process is running scripts, return at once: that process reads the queue again before it ends.
    An event leaves the queue after its scripts have run.  If a hook is killed before that, the next process runs the
    scripts of this event again.
    progress: called after each event.
    Raises OSError.
    """
    lock = store.lock_events()
    if not lock.take():
        return
    held = True
    try:
        while True:
            with store.lock_records():
                events = read_queue(store)
                if not events:
                    # Release this lock before the records' lock: a process that adds an event next must be able to take
                    # it.
                    lock.release()
                    held = False
                    return
            tell_event(events[0], directory, systemd)
            with store.lock_records():
                store.write_events(read_queue(store)[1:])
            progress()
    finally:
        if held:
            lock.release()


def tell_event(event: EventRecord, directory: str = DIRECTORY, systemd: Systemd | None = None) -> None:
    """Start or stop the location's target, then run each script in `directory` with the event's name.

    Failures are logged; the next script runs all the same.
    """
    from netconf_hooks.system import apart  # only if there are events: saves the import
    from netconf_hooks.system.programs import ProgramError

    log.info(f"event {event.name} ({event.variables['IFACE']})")
    _switch_target(event.name, systemd)
    for script in list_scripts(directory):
        try:
            result = apart.run([script, event.name], TIMEOUT, event.variables)
        except ProgramError as error:
            log.error(f"event {event.name}: {error}")
            continue
        for line in result.output.splitlines():
            log.info(f"{script}: {line}")
        if result.status != 0:
            log.error(f"event {event.name}: {script}: exit status {result.status}")


def list_scripts(directory: str = DIRECTORY) -> list[str]:
    """Return the paths of the scripts that an event runs, in order: those that run-parts(8) would run.

    Scripts that others than root own or can write, or in a directory that others can write, are logged and left out.
    """
    from netconf_hooks.system.ownership import Unsafe, check_path  # only if there are events: saves the import

    try:
        names = sorted(name for name in os.listdir(directory) if name and _NAME.issuperset(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        log.error(f"{directory}: {error.strerror}: no event script is run")
        return []
    scripts = []
    try:
        check_path(directory)
        for name in names:
            path = f"{directory}/{name}"
            if os.path.isfile(path) and os.access(path, os.X_OK):
                try:
                    check_path(path)
                    scripts.append(path)
                except Unsafe as error:
                    log.error(f"{error}: {path} is not run")
    except Unsafe as error:
        log.error(f"{error}: no event script is run")
    return scripts


def _switch_target(event: str, systemd: Systemd | None) -> None:
    """With systemd: ``netconf-location@NAME.target`` is active while the machine is at NAME."""
    from netconf_hooks.system.systemd import Systemd, SystemdError

    systemd = systemd or Systemd()
    name, _, what = event.rpartition("-")
    unit = f"netconf-location@{name}.target"
    if name == "inet" or what not in ("connected", "disconnected") or not systemd.is_running():
        return
    try:
        if what == "connected":
            systemd.start(unit)
        else:
            systemd.stop([unit])
    except SystemdError as error:
        log.error(f"event {event}: {unit}: {error}")
