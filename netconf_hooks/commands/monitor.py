"""``netconf-hooks monitor``: one line now, and one at every change, for status bars and notifications.

It reads what the hooks and the watcher write below /run, so any user may run it; it asks no network, tunnel or
firewall.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time

from netconf_hooks.commands.entry import OK
from netconf_hooks.commands.status import describe_seen, name_place, read_seen
from netconf_hooks.decide import DOWN
from netconf_hooks.record import Record
from netconf_hooks.state import HELD, RecordError
from netconf_hooks.system import log
from netconf_hooks.system.directory import Directory
from netconf_hooks.system.netlink import LINKS, Netlink, NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from netconf_hooks.commands.status import Seen
    from netconf_hooks.state import Store, TunnelRecord

# Seconds.  A change is written into several files; after the first one, wait so long for the others.
SETTLING = 0.1
# Seconds after which to look again in any case: when a hold or a lease ends, no file is written.
LONGEST = 60.0
# The same without inotify (the user has no instances left, inotify(7)).
WITHOUT_NEWS = 1.0

NOTHING = "no interface with netconf rules is up"


def monitor_changes(options: Namespace, store: Store) -> int:
    """``netconf-hooks monitor [--json]``: runs until it is interrupted, or until nobody reads its output any more."""
    last: object = None
    complaint = ""
    try:
        news = News(store)
        while True:
            try:
                seen = read_seen(store, ask=False)
                complaint = ""
            except (RecordError, NetlinkError, OSError) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    log.complain(complaint)
                seen = None
            if seen is not None:
                said = list_facts(seen)
                if said != last:
                    last = said
                    line = json.dumps(describe_seen(seen), sort_keys=True) if options.json else format_line(seen)
                    print(line, flush=True)
            if not news.wait(find_end(seen) if seen else LONGEST):
                return OK
    except (KeyboardInterrupt, BrokenPipeError):
        # Otherwise the interpreter complains about a broken pipe when it exits.
        sys.stdout = None  # type: ignore[assignment]
        return OK


class Fact(Record):
    """A part of the state.  A change of any part makes a new line.

    name: of an interface, tunnel or guard; words: its state.
    """

    __slots__ = ("name", "words", "problem")

    def __init__(self, name: str, words: str, problem: str = "") -> None:
        self.name = name
        self.words = words
        self.problem = problem

    def __str__(self) -> str:
        problem = f" ({self.problem})" if self.problem else ""
        return log.printable(f"{self.name}: {self.words}{problem}")


def list_facts(seen: Seen) -> list[Fact]:
    """Return the parts of the line: location, tunnels, guards, problems."""
    facts = []
    for record in seen.records:
        if record.wish:
            facts.append(Fact(record.iface, "a wish"))
        else:
            counts = "" if record in seen.current else ", does not count"
            facts.append(Fact(record.iface, f"{name_place(record)}{counts}"))
    for guard in seen.guards.values():
        portal = ", captive portal allowed" if guard.portal_left() > 0 else ""
        state = seen.states_of_guards[guard.device]
        facts.append(Fact(f"guard of {guard.device}", f"{state}{portal}", guard.problem))
    for (kind, name), tunnel in seen.tunnels.items():
        up = seen.up[kind, name]
        held = (kind, name) in seen.held
        words = f"{_HELD[up]}, held" if held else _name_state(tunnel, up)
        facts.append(Fact(f"{kind} {name}", words, tunnel.problem))
    return facts


_HELD = {True: "connected", False: "not connected", None: "not known"}


def _name_state(tunnel: TunnelRecord, up: bool | None) -> str:
    if tunnel.verdict == DOWN:
        return "stopping" if not tunnel.applied else "stopped" if up is False else "not known"
    return {True: "connected", False: "not connected", None: "starting"}[up]


def format_line(seen: Seen) -> str:
    """Return the line for people."""
    return "; ".join(str(fact) for fact in list_facts(seen)) or NOTHING


def find_end(seen: Seen) -> float:
    """Return for how many seconds the state stays true if no file is written."""
    now = time.time()
    ends = [guard.lease_until - now for guard in seen.guards.values() if guard.opened and guard.lease_until > now]
    ends += [guard.portal_left() for guard in seen.guards.values() if guard.portal_left() > 0]
    return min([LONGEST, *(end + 0.01 for end in ends)])


class News:
    """Waits for changes: files written by hooks and watcher, the kernel's events about links, and the end of the
    reader.
    """

    def __init__(self, store: Store) -> None:
        # The first may not exist yet: then its parent directory is watched, too.
        paths = (
            os.path.dirname(store.directory), store.directory, store.interfaces, store.guards, os.path.dirname(HELD)
        )  # fmt: skip
        self._heard: list[Directory | Netlink] = []
        self._longest = LONGEST
        try:
            self._directories = [Directory(path) for path in paths]
            self._heard += self._directories
        except OSError as error:
            self._directories = []
            self._longest = WITHOUT_NEWS
            log.debug(f"monitor: {error}: the records are read again each second")
        try:
            self._heard.append(Netlink((LINKS,)))
        except NetlinkError as error:
            log.debug(f"monitor: {error}: a pulled cable is noticed late")
        self._poll = select.poll()
        for each in self._heard:
            self._poll.register(each.fileno(), select.POLLIN)
        self._output = sys.stdout.fileno() if sys.stdout is not None else -1
        if self._output >= 0:
            self._poll.register(self._output, 0)  # errors only: poll(2)

    def wait(self, seconds: float) -> bool:
        """Wait for a change, at most this long; return False if nobody reads our output any more."""
        found = self._poll.poll(1000 * min(seconds, self._longest))
        if self._is_gone(found):
            return False
        if found and self._heard:
            time.sleep(SETTLING)
        for directory in self._directories:
            directory.has_changed()
            directory.watch()  # it may have been created or replaced
        for each in self._heard:
            if isinstance(each, Netlink):
                each.drain()
        return True

    def _is_gone(self, found: list[tuple[int, int]]) -> bool:
        gone = select.POLLERR | select.POLLHUP | select.POLLNVAL
        return any(descriptor == self._output and events & gone for descriptor, events in found)
