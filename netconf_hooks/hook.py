"""What ifupdown runs: one call of `main` for each interface, address family and phase.

The contract, interfaces(5) and run-parts(8): a hook that fails skips the other packages' hooks, the other address
family, and leaves the interface half configured and unknown to ifdown.  So whatever happens here is logged and the exit
status is 0, also on SIGTERM and when the deadline is over; the deliberate refusals are in pre-up: of an interface whose
stanza asks for a guard that can't be put up, and of a wish that can't be fulfilled.
"""

from __future__ import annotations

import os

from netconf_hooks.events import tell_events
from netconf_hooks.ifenv import device_of, is_roaming, read_environment
from netconf_hooks.passes import begin_pass, complete_pass, has_rules, is_overtaken, make_pass, read_rules_of, replaces
from netconf_hooks.rules import list_doubts, list_undefined_words, read_rules
from netconf_hooks.settle import follow_decision, forget_interface, look_at_network, remember_interface, wake_watcher
from netconf_hooks.state import InterfaceRecord, KEPT, RecordError, Store
from netconf_hooks.system import log
from netconf_hooks.system.ending import Ended, Ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from netconf_hooks.ifenv import Invocation
    from netconf_hooks.rules import Rules
    from netconf_hooks.state import Pass
else:
    import _signal as signal  # the same functions; the module signal itself imports enum, 4 ms of every ifup

REFUSE = 1

# Seconds a hook may take beyond netconf-timeout: waiting for other hooks' actions, starting and stopping tunnels.
ACTING_TIME = 20

_ending: Ending | None = None


def main(phase: str) -> NoReturn:
    """Follow the rules of the interface that the environment names, and leave the process.

    phase: the directory the hook was run from, ``pre-up``, ``up``, ``down`` or ``post-down``.
    """
    global _ending
    # Until `run` has looked at it, a guard that was asked for is one that could not be put up, a wish not fulfilled.
    # One with a number was meant as one (`rules`).
    asked = {name.rstrip("0123456789_") for name in os.environ}
    refusable = not asked.isdisjoint(("IF_NETCONF_GUARD", "IF_NETCONF_UPLINK"))
    status = REFUSE if phase == "pre-up" and refusable else 0
    iface = os.environ.get("IFACE", "")
    try:
        log.fill_descriptors()
        _ending = Ending(status)
        status = run(read_environment(phase, os.environ))
    except Ended as ended:
        log.error(f"{iface}: the {phase} hook ended before its work was done: {ended}; the next run goes on with it")
    except BaseException:
        # The outermost line: nothing may reach ifupdown, and nothing may be lost.
        from traceback import format_exc

        log.error(f"{iface}: the {phase} hook failed:\n{format_exc()}")
    finally:
        os._exit(status)  # no atexit handler, no flush of a full standard output can change the status


def run(invocation: Invocation, store: Store | None = None) -> int:
    """Do the work of one hook and return its exit status.

    store: where records are kept, `state.DIRECTORY` if not given.
    """
    log.set_verbose(invocation.verbose)
    if invocation.problem:
        log.debug(f"{invocation.iface}: {invocation.phase}: nothing to do: {invocation.problem}")
        return 0
    store = store or Store()
    if store.has_guards():
        from netconf_hooks.guard.records import restore_records

        restore_records(store)
    if invocation.phase == "pre-up":
        return _prepare(invocation, store)
    if invocation.phase == "up":
        _arrive(invocation, store)
    else:
        _leave(invocation, store)
    return 0


def _set_alarm(seconds: int) -> None:
    """Give this hook so many seconds more; 0: no limit."""
    if _ending:
        _ending.set_alarm(seconds)
    else:
        signal.alarm(seconds)


def _prepare(invocation: Invocation, store: Store) -> int:
    """pre-up: report what can't be read, refuse what can't be guarded, and put right what the last run left."""
    from netconf_hooks.system.netlink import read_link

    rules = read_rules(invocation.options)
    for error in rules.errors:
        log.error(f"{invocation.iface}: {error}")
    if (rules.is_guarded() or store.has_guards()) and not _guard(invocation, rules, store):
        return REFUSE
    if rules.uplinks:
        return _fulfil_wish(invocation, store)
    record = _read_record(invocation.iface, store)
    if record is None:
        return 0
    _set_alarm(ACTING_TIME)
    link = read_link(device_of(invocation.iface))
    if link is None or link.index != record.index or not link.up:
        _forget_last_run(invocation, record, store)
    elif replaces(record.passes, make_pass(invocation)):
        # ifup --force of an interface that is up: its if-up.d may never be reached.
        _arrive(invocation, store)
    elif invocation.run:
        # The run that begins, or wpa_action, which has raised another logical interface over this one.
        passes = record.passes if invocation.options else complete_pass(record.passes, make_pass(invocation))
        if passes != record.passes:
            _rewrite(record, passes, store)
    return 0


def _forget_last_run(invocation: Invocation, record: InterfaceRecord, store: Store) -> None:
    """The link is another one, or was taken down: what is remembered is not true any more.

    But for the passes of this run of ifup, which may not have set it up yet, and those of the stanza over which another
    logical interface is raised: these stay in force.
    """
    kept = tuple(
        each for each in record.passes
        if invocation.run and (each.run == invocation.run or each.logical != invocation.logical)
    )
    if kept:
        passes = kept if invocation.options else complete_pass(kept, make_pass(invocation))
        unknown = InterfaceRecord(record.iface, record.index, record.passes, looked=record.looked)
        _rewrite(unknown, passes, store)
        return
    log.info(f"{invocation.iface}: forgetting {_name_place(record)}: the link is another one, or was taken down")
    _forget(invocation.iface, store)


def _rewrite(record: InterfaceRecord, passes: tuple[Pass, ...], store: Store) -> None:
    """Remember which passes of an interface there are now; all else stays as it is."""
    something_to_do = remember_interface(store, record.change(passes=passes), replaces=record)
    wake_watcher(store)
    if something_to_do:
        _follow(store)


def _guard(invocation: Invocation, rules: Rules, store: Store, again: bool = False) -> bool:
    """Close the link before it is configured; return whether it is closed, or needs no guard.

    again: whether pre-up has done so already.
    """
    from netconf_hooks.guard.firewall import GuardError
    from netconf_hooks.guard.lifecycle import find_unguardable, join_guard, put_guard

    _set_alarm(ACTING_TIME)
    try:
        if not rules.is_guarded():
            join_guard(store, invocation, again)
            return True
        if problem := find_unguardable(invocation):
            raise GuardError(problem)
        put_guard(store, invocation, again)
        wake_watcher(store)
    except (GuardError, RecordError, OSError) as error:
        text = f' "{rules.guard.text}"' if rules.guard else ""
        log.error(f"{invocation.iface}: netconf-guard{text}: no guard can be put up, so it stays down: {error}")
        return False
    return True


def _fulfil_wish(invocation: Invocation, store: Store) -> int:
    from netconf_hooks.wish import LONGEST, WishError, fulfil_wish

    _set_alarm(LONGEST)
    try:
        fulfil_wish(invocation, store, os.environ)
        wake_watcher(store)
    except WishError as error:
        log.error(f"{invocation.iface}: {error}")
        return REFUSE
    return 0


def _arrive(invocation: Invocation, store: Store) -> None:
    """up: find out where the interface is, remember it, and do what follows from that."""
    record = _read_record(invocation.iface, store)
    if record and record.wish:
        return  # all was done in pre-up
    own = read_rules(invocation.options)
    if own.is_guarded() or store.has_guards():
        # Once more: only now there is a device for certain.
        _guard(invocation, own, store, again=True)
    passes = _list_passes(invocation, record, store)
    if not has_rules(passes):
        _forget(invocation.iface, store)  # the rules were taken out of the stanza
        return
    rules = read_rules_of(passes)
    for error in (*list_undefined_words(rules), *list_doubts(rules)):
        log.error(f"{invocation.iface}: {error}")
    _set_alarm(int(rules.timeout) + ACTING_TIME)
    record, answers = look_at_network(store, invocation.iface, passes)
    for key, answer in answers.items():
        if answer.problem:
            log.info(f"{invocation.iface}: netconf-location: no full answer for {key}: {answer.problem}")
    log.info(f"{invocation.iface}: {_describe(record)}")
    something_to_do = remember_interface(store, record)
    wake_watcher(store)
    if something_to_do or store.has_guards():
        _follow(store)


def _list_passes(invocation: Invocation, record: InterfaceRecord | None, store: Store) -> tuple[Pass, ...]:
    """Return the passes of an interface with the one that this hook belongs to."""
    known = record.passes if record else ()
    if store.has_guards():
        from netconf_hooks.guard.lifecycle import find_passes

        joined = find_passes(store, invocation.iface)
        if joined is not None:
            return complete_pass(joined or known, make_pass(invocation))
    return (complete_pass if invocation.phase == "up" else begin_pass)(known, make_pass(invocation))


def _leave(invocation: Invocation, store: Store) -> None:
    """down: forget the interface, and do what follows from that.  post-down does what a killed down left undone."""
    _set_alarm(ACTING_TIME)
    record = _read_record(invocation.iface, store)
    if record and record.wish:
        from netconf_hooks.wish import LONGEST, end_wish

        _set_alarm(LONGEST)
        end_wish(record, store, os.environ)
        wake_watcher(store)
        return
    passes = _list_known_passes(invocation.iface, record, store)
    if is_overtaken(passes, make_pass(invocation)):
        log.info(f"{invocation.iface}: {invocation.phase}: nothing ends: its ifdown was killed, and an ifup has begun")
        return
    if record:
        log.info(f"{invocation.iface}: leaving {_name_place(record)}")
    if store.has_guards():
        _leave_guarded(invocation, record, store)
        return
    something_to_do = _depart(invocation, record, store)
    wake_watcher(store)
    if something_to_do:
        _follow(store)


def _depart(invocation: Invocation, record: InterfaceRecord | None, store: Store) -> bool:
    """Forget an interface; return whether there is something to do.

    ifupdown knows only the logical interface that was raised last, so its ifdown is the end of all.  wpa_action's
    ifdown is not the end of the stanza over which it has raised another one: that is in force until the admin's.
    """
    if record and is_roaming(invocation.iface):
        kept = tuple(each.change(stage=KEPT) for each in record.passes if each.logical != invocation.logical)
        if kept:
            return remember_interface(store, record.change(passes=kept), replaces=record)
    return forget_interface(store, invocation.iface, make_pass(invocation))


def _list_known_passes(iface: str, record: InterfaceRecord | None, store: Store) -> tuple[Pass, ...]:
    """Return the passes of an interface in its record and in that of its device's guard."""
    known = record.passes if record else ()
    if store.has_guards():
        from netconf_hooks.guard.lifecycle import find_passes

        known += find_passes(store, iface) or ()
    return known


def _leave_guarded(invocation: Invocation, record: InterfaceRecord | None, store: Store) -> None:
    """Shut the guard first, then tell the events, and stop the tunnels last: nothing leaves unguarded in between."""
    from netconf_hooks.guard.firewall import GuardError
    from netconf_hooks.guard.lifecycle import begin_leaving, leave_guard

    if invocation.phase == "down":
        begin_leaving(store, invocation)
        _depart(invocation, record, store)
        _set_alarm(0)
        tell_events(store)
        _set_alarm(ACTING_TIME)
        _follow(store)
        wake_watcher(store)
        return
    if _depart(invocation, record, store):
        _follow(store)
    _set_alarm(ACTING_TIME)
    try:
        leave_guard(store, invocation)
    except GuardError as error:
        log.error(f"{invocation.iface}: netconf-guard: {error}")
    wake_watcher(store)


def _forget(iface: str, store: Store) -> None:
    something_to_do = forget_interface(store, iface)
    wake_watcher(store)
    if something_to_do:
        _follow(store)


def _follow(store: Store) -> None:
    # Each event script has a time limit of its own; cut off by ours, it would go on, and be told of its event again.
    follow_decision(store, between=lambda: _set_alarm(0))


def _read_record(iface: str, store: Store) -> InterfaceRecord | None:
    try:
        return store.read_interface(iface)
    except RecordError as error:
        log.error(f"{iface}: {error}: what it said is lost")
        return None


def _name_place(record: InterfaceRecord) -> str:
    return record.location or "an unknown place"


def _describe(record: InterfaceRecord) -> str:
    if record.undecided:
        return "undecided where this is: a test was not answered in time"
    if record.location:
        return f'at {record.location} (netconf-location "{record.line}")'
    return "at an unknown place: no netconf-location line holds"
