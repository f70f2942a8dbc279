"""Telling the watcher that records have changed, and starting it."""

from __future__ import annotations

import errno
import os

from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.state import Store


def wake_watcher(store: Store) -> None:
    """Tell the watcher that records have changed, and start one if none runs.  Logs what can't be done."""
    try:
        fifo = os.open(store.fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENXIO):  # ENXIO: nobody reads, fifo(7)
            log.error(f"{store.fifo}: {error.strerror}: the watcher is not told")
            return
        if store.has_interfaces() or store.has_guards():
            start_watcher()
        return
    try:
        os.write(fifo, b"\n")
    except OSError:
        pass  # full (EAGAIN): it is awake; gone (EPIPE): it saw no record, and the next hook starts it
    finally:
        os.close(fifo)


def start_watcher() -> None:
    """Start the watcher: by systemd if it runs, else as a process of its own.  Logs what can't be done."""
    from netconf_hooks.system.programs import ProgramError, spawn
    from netconf_hooks.system.systemd import SystemStopping, Systemd
    from netconf_hooks.tunnels import TunnelError

    systemd = Systemd()
    try:
        if systemd.is_running():
            systemd.start("netconf-hooks-watch.service")
        else:
            spawn(["/usr/sbin/netconf-hooks", "watch"])
    except SystemStopping:
        pass  # it was stopped with all the others
    except (ProgramError, TunnelError) as error:
        log.error(f"the watcher can't be started: {error}; only hooks and refresh notice changes")
