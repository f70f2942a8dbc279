"""Notifies the watcher that records have changed, and starts it."""

from __future__ import annotations

import errno
import os

from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.state import Store


def wake_watcher(store: Store) -> None:
    """Notify the watcher that records have changed; start it if it does not run.  Errors are logged."""
    try:
        fifo = os.open(store.fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENXIO):  # ENXIO: nobody reads, fifo(7)
            log.error(f"{store.fifo}: {error.strerror}: the watcher is not notified")
            return
        if store.has_interfaces() or store.has_guards():
            start_watcher()
        return
    try:
        os.write(fifo, b"\n")
    except OSError:
        pass  # EAGAIN: the FIFO is full, so it is already notified.  EPIPE: it has just ended; the next hook starts it
    finally:
        os.close(fifo)


def start_watcher() -> None:
    """Start the watcher: by systemd if systemd runs, else as a process of its own.  Errors are logged."""
    from netconf_hooks.system.programs import ProgramError, spawn
    from netconf_hooks.system.systemd import SystemdError, SystemStopping, Systemd

    systemd = Systemd()
    try:
        if systemd.is_running():
            systemd.start("netconf-hooks-watch.service")
        else:
            spawn(["/usr/sbin/netconf-hooks", "watch"])
    except SystemStopping:
        pass  # the watcher is not needed any more
    except (ProgramError, SystemdError) as error:
        log.error(f"the watcher can't be started: {error}; only hooks and refresh notice changes")
