"""What ifupdown runs: one call of `main` for each interface, address family and phase.

The contract, interfaces(5) and run-parts(8): a hook that fails skips the other packages' hooks, the other address
family, and leaves the interface half configured and unknown to ifdown.  So whatever happens here is logged and the exit
status is 0, also on SIGTERM and when the deadline is over; the deliberate refusals are in pre-up: of an interface whose
stanza asks for a guard that can't be put up, and of a wish that can't be fulfilled.
"""

from __future__ import annotations

import os

from netconf_hooks import guard
from netconf_hooks.ifenv import device_of, is_roaming, read_environment
from netconf_hooks.observation import Observation
from netconf_hooks.passes import begin_pass, complete_pass, has_rules, is_overtaken, make_pass, read_rules_of, replaces
from netconf_hooks.rules import list_doubts, list_undefined_words, read_rules
from netconf_hooks.state import InterfaceRecord, KEPT, RecordError, Store
from netconf_hooks.system import log
from netconf_hooks.system.ending import Ending, leave_with
from netconf_hooks.wake import wake_watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from netconf_hooks.ifenv import Invocation
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
    # Until `run` has looked at it, a guard that was asked for is one that could not be put up, a wish not fulfilled.
    # One with a number was meant as one (`rules`).
    asked = {name.rstrip("0123456789_") for name in os.environ}
    refusable = not asked.isdisjoint(("IF_NETCONF_GUARD", "IF_NETCONF_UPLINK"))
    status = REFUSE if phase == "pre-up" and refusable else 0
    iface = os.environ.get("IFACE", "")

    def work(ending: Ending) -> int:
        global _ending
        _ending = ending
        log.fill_descriptors()
        return run(read_environment(phase, os.environ))

    hook = f"{iface}: the {phase} hook"
    leave_with(
        work, status, f"{hook} ended before its work was done", f"{hook} failed", then="; the next run goes on with it"
    )


def run(invocation: Invocation, store: Store | None = None) -> int:
    """Do the work of one hook and return its exit status.

    store: where records are kept, `state.DIRECTORY` if not given.
    """
    log.set_verbose(invocation.verbose)
    if invocation.problem:
        log.debug(f"{invocation.iface}: {invocation.phase}: nothing to do: {invocation.problem}")
        return 0
    store = store or Store()
    guard.restore_records(store)
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
    _set_alarm(ACTING_TIME)
    if not guard.is_closed_for(store, invocation, rules):
        return REFUSE
    if rules.uplinks:
        return _fulfil_wish(invocation, store)
    record = _read_record(invocation.iface, store)
    if record is None:
        return 0
    link = read_link(device_of(invocation.iface))
    if link is None or link.index != record.observation.index or not link.up:
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
        seen = record.observation
        unlooked = Observation(record.iface, seen.index, observed_at=seen.observed_at)
        _rewrite(InterfaceRecord(record.iface, record.passes, unlooked), passes, store)
        return
    log.info(f"{invocation.iface}: forgetting {_name_place(record)}: the link is another one, or was taken down")
    _settle(store, invocation.iface)


def _rewrite(record: InterfaceRecord, passes: tuple[Pass, ...], store: Store) -> None:
    """Remember which passes of an interface there are now; all else stays as it is."""
    _settle(store, record.iface, record.change(passes=passes), replaces=record)


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
    # Close it once more: only now there is a device for certain.
    guard.is_closed_for(store, invocation, read_rules(invocation.options), again=True)
    passes = _list_passes(invocation, record, store)
    if not has_rules(passes):
        _settle(store, invocation.iface)  # the rules were taken out of the stanza
        return
    rules = read_rules_of(passes)
    for error in (*list_undefined_words(rules), *list_doubts(rules)):
        log.error(f"{invocation.iface}: {error}")
    _set_alarm(int(rules.timeout) + ACTING_TIME)
    from netconf_hooks.settle import look

    record = look(store, invocation.iface, passes)
    for key, answer in record.observation.answers.items():
        if answer.problem:
            log.info(f"{invocation.iface}: netconf-location: no full answer for {key}: {answer.problem}")
    log.info(f"{invocation.iface}: {_describe(record)}")
    _settle(store, invocation.iface, record)


def _list_passes(invocation: Invocation, record: InterfaceRecord | None, store: Store) -> tuple[Pass, ...]:
    """Return the passes of an interface with the one that this hook belongs to."""
    known = record.passes if record else ()
    joined = guard.find_passes(store, invocation.iface)
    if joined is not None:
        return complete_pass(joined or known, make_pass(invocation))
    return (complete_pass if invocation.phase == "up" else begin_pass)(known, make_pass(invocation))


def _leave(invocation: Invocation, store: Store) -> None:
    """down: forget the interface, and do what follows from that.  post-down does what a killed down left undone."""
    _set_alarm(ACTING_TIME)
    record = _read_record(invocation.iface, store)
    passes = (record.passes if record else ()) + (guard.find_passes(store, invocation.iface) or ())
    ending = make_pass(invocation)
    if is_overtaken(passes, ending):
        log.info(f"{invocation.iface}: {invocation.phase}: nothing ends: its ifdown was killed, and an ifup has begun")
        return
    if record and record.wish:
        from netconf_hooks.wish import LONGEST, end_wish

        _set_alarm(LONGEST)
        end_wish(record, store, os.environ, ending)
        return
    if record:
        log.info(f"{invocation.iface}: leaving {_name_place(record)}")
    leaving = invocation.phase == "down"
    if leaving:
        guard.begin_leaving(store, invocation)
    _depart(invocation, record, store, leaving)
    if not leaving:
        _set_alarm(ACTING_TIME)
        guard.leave(store, invocation)
        wake_watcher(store)


def _depart(invocation: Invocation, record: InterfaceRecord | None, store: Store, leaving: bool) -> None:
    """Forget an interface that goes down, and do what follows from that.

    ifupdown knows only the logical interface that was raised last, so its ifdown is the end of all.  wpa_action's
    ifdown is not the end of the stanza over which it has raised another one: that is in force until the admin's.
    """
    if record and is_roaming(invocation.iface):
        kept = tuple(each.change(stage=KEPT) for each in record.passes if each.logical != invocation.logical)
        if kept:
            _settle(store, record.iface, record.change(passes=kept), replaces=record, leaving=leaving)
            return
    # If down has forgotten it, post-down only goes on with what that left undone.
    _settle(store, invocation.iface, ends=make_pass(invocation), leaving=leaving, news=leaving or record is not None)


def _settle(
    store: Store,
    iface: str,
    record: InterfaceRecord | None = None,
    replaces: InterfaceRecord | None = None,
    ends: Pass | None = None,
    leaving: bool = False,
    news: bool = True,
) -> None:
    """Settle one change: see `settle.Change` and `settle.settle`."""
    from netconf_hooks.settle import Change, settle  # most runs of pre-up change nothing

    settle(store, [Change(iface, record, replaces, ends)], leaving, tell=_tell_events, news=news)


def _tell_events(store: Store) -> None:
    """Run the event scripts.  Each has a time limit of its own: cut off by the hook's, it would be run again."""
    if store.has_events():
        from netconf_hooks.events import tell_events  # only when there is something to tell

        _set_alarm(0)
        tell_events(store)
        _set_alarm(ACTING_TIME)


def _read_record(iface: str, store: Store) -> InterfaceRecord | None:
    try:
        return store.read_interface(iface)
    except RecordError as error:
        log.error(f"{iface}: {error}: what it said is lost")
        return None


def _name_place(record: InterfaceRecord) -> str:
    return record.place.location or "an unknown place"


def _describe(record: InterfaceRecord) -> str:
    if record.place.undecided:
        return "undecided where this is: a test was not answered in time"
    if record.place.location:
        return f'at {record.place.location} (netconf-location "{record.place.line}")'
    return "at an unknown place: no netconf-location line holds"
