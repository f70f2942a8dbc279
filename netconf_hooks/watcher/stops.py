"""Tunnels that somebody has stopped by hand: they stay stopped as long as nothing else changes.

Only positive evidence counts: a stop job of systemd for the tunnel's unit (``systemctl stop``) since it became active.
Our own stop jobs are only for tunnels that should be down.  A restart is a job of another type, and if a daemon ends by
itself, there is no job.  For an ifupdown stanza (`tunnels.ifup`) the evidence is an ifdown that is not ours.
netconf-hooks(8), TUNNELS, describes this for admins.
"""

from __future__ import annotations

from netconf_hooks.settle import ask_tunnels, decide_again, read_stops
from netconf_hooks.stanzas.ifenv import STARTED
from netconf_hooks.state import StopRecord
from netconf_hooks.system import log
from netconf_hooks.system.systemd import Systemd, SystemdError
from netconf_hooks.tunnels import TunnelError, load_tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.state import Store, TunnelRecord


def note_stops(store: Store, systemd: Systemd | None = None) -> None:
    """Record which wanted tunnels somebody has stopped by hand, or has started again since.  Raises OSError."""
    systemd = systemd or Systemd()
    stops = read_stops(store)
    found = dict(stops)
    for tunnel, record in store.read_tunnels().items():
        if record.verdict != "up" or not record.applied or (record.held and tunnel not in stops):
            continue
        because = _find_stop(record, systemd)
        if because and tunnel not in stops:
            found[tunnel] = StopRecord(*tunnel, because)
        elif not because:
            found.pop(tunnel, None)
    if found != stops:
        with store.lock_records():
            store.write_stops(found)
        decide_again(store)


def note_starts(store: Store) -> None:
    """Stop each tunnel again that should be down, and that the hook of Debian's openvpn, which runs after ours, has
    started.  Raises OSError."""
    started = {
        ("openvpn", name)
        for record in store.read_interfaces(log.error)
        for each in record.passes
        for name in each.options.get(STARTED, "").split()
    }
    if not started:
        return
    for tunnel, record in store.read_tunnels().items():
        if tunnel in started and record.verdict == "down" and record.applied and not record.held and _runs(record):
            log.info(f"{record.kind} {record.name}: started by the option openvpn, should be down: {record.because}")
            with store.lock_records():
                records = store.read_tunnels()
                if tunnel in records and records[tunnel].verdict == "down":
                    store.write_tunnels({**records, tunnel: records[tunnel].change(applied=False)})
            ask_tunnels(store)


def _runs(record: TunnelRecord) -> bool:
    try:
        return load_tunnel(record.kind, record.name).is_running()
    except TunnelError:
        return False


def _find_stop(record: TunnelRecord, systemd: Systemd) -> str:
    """Return how a tunnel was stopped by hand; empty if it runs, or if nothing shows that somebody has stopped it."""
    try:
        tunnel = load_tunnel(record.kind, record.name)
        without_systemd = hasattr(tunnel, "find_stop")
        if not (without_systemd or (hasattr(tunnel, "list_units") and systemd.is_running())) or tunnel.is_running():
            return ""
        if without_systemd:
            command = tunnel.find_stop()
            return f"stopped by hand ({command})" if command else ""
        unit, when = systemd.find_stop(tunnel.list_units())
    except (TunnelError, SystemdError):
        return ""
    return f"stopped by hand (systemctl stop {unit}, {when})" if unit else ""
