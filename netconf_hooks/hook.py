"""The hooks that ifupdown runs: one call of `main` for each interface, address family and phase.

If a hook fails, ifupdown skips the hooks of other packages and the other address family, and leaves the interface half
configured and unknown to ifdown: interfaces(5) and run-parts(8).  So each error is logged, and the exit status is 0,
even after SIGTERM and at the deadline.  Only pre-up refuses deliberately: an interface whose guard can't be installed,
and a wish that can't be fulfilled.
"""

from __future__ import annotations

import os

from netconf_hooks import guard
from netconf_hooks.observation import Observation
from netconf_hooks.passes import begin_pass, complete_pass, has_rules, is_overtaken, make_pass, read_rules_of, replaces
from netconf_hooks.stanzas.ifenv import device_of, is_roaming, read_environment
from netconf_hooks.stanzas.rules import list_doubts, list_undefined_words, read_rules
from netconf_hooks.state import InterfaceRecord, KEPT, RecordError, Store
from netconf_hooks.system import log
from netconf_hooks.system.ending import Ending, leave_with
from netconf_hooks.wake import wake_watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from netconf_hooks.stanzas.ifenv import Invocation
    from netconf_hooks.state import Pass
else:
    import _signal as signal  # the same functions; the module signal itself imports enum, 4 ms of every ifup

REFUSE = 1

# Seconds that a hook may take in addition to netconf-timeout: to wait for other hooks, and to start and stop tunnels.
ACTING_TIME = 20

_ending: Ending | None = None


def main(phase: str) -> NoReturn:
    """Follow the rules of the interface that the environment names, and exit.

    phase: the directory that the hook was run from: ``pre-up``, ``up``, ``down`` or ``post-down``.
    """
    # If anything goes wrong before `run` returns, a requested guard counts as missing, and a wish as not fulfilled:
    # then pre-up refuses the interface.  Numbered names (netconf-guard-2) count, too: they have no other meaning.
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
    """Set the hook's deadline to so many seconds from now; 0: no deadline."""
    if _ending:
        _ending.set_alarm(seconds)
    else:
        signal.alarm(seconds)


def _prepare(invocation: Invocation, store: Store) -> int:
    """pre-up: report unreadable options, refuse a link without its guard, and correct the record of the last run."""
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
        # ifup --force of an interface that is up: if it fails, no up hook follows.
        _arrive(invocation, store)
    elif invocation.run:
        # A new run of ifup, or an ifup by wpa_action, which raises another logical interface over this one.
        passes = record.passes if invocation.options else complete_pass(record.passes, make_pass(invocation))
        if passes != record.passes:
            _rewrite(record, passes, store)
    return 0


def _forget_last_run(invocation: Invocation, record: InterfaceRecord, store: Store) -> None:
    """Forget the record of an interface whose device was replaced or set down since.

    Only two kinds of passes stay in force: those of this run of ifup, which may not have set the link up yet, and those
    of the stanza over which another logical interface is raised.
    """
    kept = tuple(
        each for each in record.passes
        if invocation.run and (each.run == invocation.run or each.logical != invocation.logical)
    )
    if kept:
        passes = kept if invocation.options else complete_pass(kept, make_pass(invocation))
        seen = record.observation
        empty = Observation(record.iface, seen.index, observed_at=seen.observed_at)
        _rewrite(InterfaceRecord(record.iface, record.passes, empty), passes, store)
        return
    log.info(f"{invocation.iface}: forgetting {_name_place(record)}: the device was replaced or set down")
    _settle(store, invocation.iface)


def _rewrite(record: InterfaceRecord, passes: tuple[Pass, ...], store: Store) -> None:
    """Record the passes of an interface, and change nothing else."""
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
    """up: find out where the interface is, record it, and act on it."""
    record = _read_record(invocation.iface, store)
    if record and record.wish:
        return  # pre-up has done everything
    # Close the guard once more: in pre-up the device may not have existed yet.
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

    record = look(store, invocation.iface, passes, before=record)
    for key, answer in record.observation.answers.items():
        if answer.problem:
            log.info(f"{invocation.iface}: netconf-location: no full answer for {key}: {answer.problem}")
    log.info(f"{invocation.iface}: {_describe(record)}")
    _settle(store, invocation.iface, record)


def _list_passes(invocation: Invocation, record: InterfaceRecord | None, store: Store) -> tuple[Pass, ...]:
    """Return the passes of an interface, including the one that this hook belongs to."""
    known = record.passes if record else ()
    joined = guard.find_passes(store, invocation.iface)
    if joined is not None:
        return complete_pass(joined or known, make_pass(invocation))
    return (complete_pass if invocation.phase == "up" else begin_pass)(known, make_pass(invocation))


def _leave(invocation: Invocation, store: Store) -> None:
    """down: forget the interface, and act on it.  post-down does the same, in case the down hook was killed."""
    _set_alarm(ACTING_TIME)
    record = _read_record(invocation.iface, store)
    passes = (record.passes if record else ()) + (guard.find_passes(store, invocation.iface) or ())
    ending = make_pass(invocation)
    if is_overtaken(passes, ending):
        log.info(f"{invocation.iface}: {invocation.phase}: ignored: its ifdown was killed, and an ifup has begun since")
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
    """Forget an interface that goes down, and act on it.

    ifupdown only knows the logical interface that was raised last, so its ifdown ends all of them.  But an ifdown by
    wpa_action keeps the stanza over which it has raised another one: that stanza ends with the admin's ifdown.
    """
    if record and is_roaming(invocation.iface):
        kept = tuple(each.change(stage=KEPT) for each in record.passes if each.logical != invocation.logical)
        if kept:
            _settle(store, record.iface, record.change(passes=kept), replaces=record, leaving=leaving)
            return
    # If down has already forgotten the interface, post-down only completes what down has left undone.
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
    """Run the event scripts, without the hook's deadline: each script has a time limit of its own, and an interrupted
    one would be run again."""
    if store.has_events():
        from netconf_hooks.events import tell_events  # only if there are events: saves the import

        _set_alarm(0)
        tell_events(store)
        _set_alarm(ACTING_TIME)


def _read_record(iface: str, store: Store) -> InterfaceRecord | None:
    try:
        return store.read_interface(iface)
    except RecordError as error:
        log.error(f"{iface}: {error}: the record is lost")
        return None


def _name_place(record: InterfaceRecord) -> str:
    return record.place.location or "an unknown place"


def _describe(record: InterfaceRecord) -> str:
    if record.place.undecided:
        return "undecided where this is: a test was not answered in time"
    if record.place.location:
        return f'at {record.place.location} (netconf-location "{record.place.line}")'
    return "at an unknown place: no netconf-location line holds"
