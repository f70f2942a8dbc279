"""Keeps tunnels connected: run by the watcher's child for all tunnels that should be up.

`supervision` decides.  This module inspects the tunnels, starts, nudges and restarts them, and records their states
for `status`.
"""

from __future__ import annotations

import os

from netconf_hooks import guard
from netconf_hooks.record import Record
from netconf_hooks.settle import ask_again
from netconf_hooks.state import CLOSED, RecordError, TunnelState, boot_time
from netconf_hooks.system import log
from netconf_hooks.system.processes import read_start
from netconf_hooks.system.systemd import Systemd
from netconf_hooks.tunnels import Condition, TunnelError, TunnelSilent, load_tunnel
from netconf_hooks.tunnels.supervision import Facts, LISTEN, NUDGE, RESTART, START, supervise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from netconf_hooks.state import Store, TunnelRecord
    from netconf_hooks.tunnels import AnyTunnel
    from netconf_hooks.tunnels.supervision import Step


# After how many seconds a tunnel is inspected that another process is starting at this moment.
START_TIME = 1.0


class Hearing(Record):
    """What the watcher has to listen to until the next call of `keep_up`.

    pids: the processes whose end is the end of a tunnel, each with its start time; associations: whether to listen to
    the kernel's events about IPsec; pause: seconds until the next call at the latest, None if no time is needed.
    """

    __slots__ = ("pids", "associations", "pause")

    def __init__(self, pids: tuple[tuple[int, str], ...], associations: bool, pause: float | None) -> None:
        self.pids = pids
        self.associations = associations
        self.pause = pause


def keep_up(
    store: Store,
    news: bool,
    routable: bool,
    systemd: Systemd | None = None,
    started: Collection[tuple[str, str]] = (),
) -> Hearing:
    """Inspect all tunnels that should be up, act where needed, and return what to listen to.

    news: whether a link has changed, or the machine has slept; routable: whether there is a default route.
    started: the tunnels that had already been started when the link changed, by kind and name.
    Raises OSError.
    """
    try:
        before = store.read_states()
    except RecordError as error:
        log.error(f"watch: {error}")
        before = {}
    try:
        tunnels = store.read_tunnels().values()
    except RecordError as error:
        log.error(f"watch: {error}")
        return Hearing((), False, None)
    held = [record for record in tunnels if record.held]
    asked = [record for record in tunnels if record.verdict == "up" and not record.held]
    wanted = [record for record in asked if record.applied or record.problem]
    leaving = bool(wanted) and (systemd or Systemd()).is_running() and (systemd or Systemd()).is_leaving()
    states: dict[tuple[str, str], TunnelState] = {}
    pids: list[tuple[int, str]] = []
    # Inspect tunnels that a hook is just starting a moment later: the kernel may send no event when they come up.
    times = [boot_time() + START_TIME] if len(asked) > len(wanted) else []
    acted = False
    guards = store.read_guards(log.error) if wanted else ()
    closed = any(each.verdict == CLOSED for each in guards)
    for record in wanted:
        known = before.get((record.kind, record.name))
        if known is None and news and (record.kind, record.name) in started:
            # It was started in the former network, and the network changed before it was inspected for the first time.
            known = TunnelState(record.kind, record.name, since=boot_time())
        condition = _inspect(record, closed)
        facts = _find_facts(record, condition, known, news, routable)
        step = supervise(known, record.kind, record.name, facts, boot_time())
        _log_change(record, known, step.state, condition)
        if step.action and not leaving:
            acted = True
            guard.close_guards(store)  # its server's name may have another address now
            _act(store, record, step, condition)
        states[record.kind, record.name] = step.state
        if condition.pid and not step.action:
            pids.append((condition.pid, read_start(condition.pid)))
        if step.check:
            times.append(step.check)
    if acted:
        guard.open_guards(store)
    if states != before:
        store.write_states(states.values())
    for pid, check in _inspect_held(store, held):
        if pid:
            pids.append((pid, read_start(pid)))
        else:
            times.append(check)
    associations = any(record.kind == "ipsec" for record in (*wanted, *held))
    pause = max(0.0, min(times) - boot_time()) if times else None
    return Hearing(tuple(pid for pid in pids if pid[1]), associations, pause)


def _inspect_held(store: Store, held: Sequence[TunnelRecord]) -> list[tuple[int, float]]:
    """Record the states of held tunnels, for `monitor`; do nothing about them.

    Returns, for each tunnel, the pid of the process whose end is its end, 0 if there is none, and when to inspect it
    again.
    """
    try:
        before = store.read_held_states()
    except RecordError:
        before = {}
    states: dict[tuple[str, str], TunnelState] = {}
    found = []
    now = boot_time()
    for record in held:
        known = before.get((record.kind, record.name)) or TunnelState(record.kind, record.name)
        condition = _inspect(record, closed=False)
        up = condition.up or (condition.up is None and condition.running)
        state = known.change(up_since=(known.up_since or now) if up else 0.0)
        if not known.since or bool(state.up_since) != bool(known.up_since):
            state = state.change(since=now)
        states[record.kind, record.name] = state
        found.append((condition.pid, now + LISTEN))
    if states != before:
        store.write_held_states(states.values())
    return found


def _inspect(record: TunnelRecord, closed: bool) -> Condition:
    """Return the state of a tunnel.

    closed: whether a guard is closed, which drops the packets of relays on this machine: then the reason names them.
    """
    try:
        tunnel = load_tunnel(record.kind, record.name)
        if not hasattr(tunnel, "inspect"):
            up = tunnel.is_up()
            return Condition(up, up is not False)
        condition = tunnel.inspect()
        if closed and condition.up is False and hasattr(tunnel, "list_relays"):
            words = "; ".join(each for each in (condition.words, *tunnel.list_relays()) if each)
            return condition.change(words=words)
        return condition
    except TunnelSilent as error:
        # On a busy machine a daemon answers late.  Starting its tunnel again would interrupt it.
        return Condition(None, True, words=str(error))
    except TunnelError as error:
        return Condition(False, False, words=str(error))


def _find_facts(
    record: TunnelRecord, condition: Condition, known: TunnelState | None, news: bool, routable: bool
) -> Facts:
    received = None
    if condition.remedies and (news or (known and known.doubt)):
        try:
            received = load_tunnel(record.kind, record.name).count_received()
        except TunnelError:
            pass
    words = condition.words
    if not condition.running and record.problem:
        words = record.problem
    return Facts(
        up=condition.up,
        running=condition.running,
        helpless=condition.helpless,
        final=condition.final and not record.problem,
        refused=condition.refused,
        words=words,
        audible=bool(condition.pid),
        remedies=condition.remedies,
        received=received,
        news=news,
        routable=routable,
        stamp=_make_stamp(condition.files),
        stuck=condition.stuck,
    )


def _make_stamp(files: tuple[str, ...]) -> str:
    """Return a text that changes whenever one of these files does; empty if there are none."""
    marks = []
    for path in files:
        try:
            status = os.stat(path)
            marks.append(f"{status.st_ino}.{status.st_size}.{status.st_mtime_ns}")
        except OSError:
            marks.append("-")
    return " ".join(marks)


def _log_change(record: TunnelRecord, before: TunnelState | None, state: TunnelState, condition: Condition) -> None:
    """Log once when a tunnel comes up, goes down, or waits for something else."""
    name = f"{record.kind} {record.name}"
    if state.up_since and not (before and before.up_since):
        log.info(f"{name}: connected")
    elif not state.up_since and state.words and (before is None or before.up_since or before.words != state.words):
        log.info(f"{name}: not connected: {state.words}")
    if state.refusals > 2 and before and before.refusals < state.refusals:
        log.warning(f"{name}: refused {state.refusals} times: not tried again until its files or the verdict change")


def _act(store: Store, record: TunnelRecord, step: Step, condition: Condition) -> None:
    name = f"{record.kind} {record.name}"
    why = f" ({step.state.words})" if step.state.words else ""

    def work(tunnel: AnyTunnel) -> None:
        if step.action == START:
            log.info(f"{name}: started again, attempt {step.state.failures}{why}; "
                     f'"netconf-hooks hold {name}" prevents that')  # fmt: skip
            tunnel.start()
        elif step.action == NUDGE:
            done = tunnel.nudge()
            if done:
                log.info(f"{name}: {done}{why or ' (nothing comes back through it)'}")
        elif step.action == RESTART:
            log.info(f"{name}: restarted{why or ' (nothing comes back through it)'}")
            tunnel.restart()

    ask_again(store, record, work)
