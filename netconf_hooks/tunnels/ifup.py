"""``netconf-vpn ifup NAME``: a stanza of /etc/network/interfaces that is itself a tunnel: WireGuard by ifupdown, tinc,
vpnc, L2TP, PPP ...

It is brought up by a real ``ifup NAME`` and taken down by ``ifdown NAME``.  Both run in an initiator (`attempt`), never
in a hook: they wait for ifupdown's lock of NAME, which an ``ifup -a`` may hold, and NAME's own hooks take locks that
our caller holds.  What was asked for last is written down (`Store.write_order`), so that one initiator at a time does
whatever is newest.

ifupdown-ng reads its state file when a run begins and replaces it at the end: of two runs at the same time, one is
forgotten.  ifupdown2 refuses to run twice.  With these two the initiator first waits until all other runs have ended,
and nobody waits for it: a hook is part of such a run.

**Up** means that ifupdown has NAME configured, and that the interface of this name, if there is one, is up with
carrier.  Many stanzas (PPP, L2TP, vpnc) make an interface of another name, or make it later: until an interface called
NAME has been seen up, a missing one says nothing.

**Its own packets** are not known: behind a guard, ``netconf-guard-allow`` has to name them.
"""

from __future__ import annotations

from netconf_hooks.ifenv import device_of
from netconf_hooks.interfaces import (
    FILE, find_ifupdown, IFUPDOWN, InterfacesError, is_configured, list_boot_links, query_options
)  # fmt: skip
from netconf_hooks.rules import read_rules
from netconf_hooks.state import RecordError, Store
from netconf_hooks.system import log, programs
from netconf_hooks.system.netlink import NetlinkError, read_link
from netconf_hooks.system.processes import is_any_running
from netconf_hooks.system.systemd import Systemd, SystemStopping
from netconf_hooks.system.waiting import wait_until
from netconf_hooks.tunnels import Condition, Endpoint, TunnelError
from netconf_hooks.tunnels.attempt import Initiator

UP_TIMEOUT = 120.0
"""Seconds for ifup, which may have to wait for another ifup of the same name, and for names to be resolved."""

DOWN_TIMEOUT = 60.0
"""Seconds for ifdown."""

OTHERS_TIMEOUT = 60.0
"""Seconds that an initiator waits for other runs of ifupdown-ng or ifupdown2 to end."""

STOP_TIMEOUT = 5.0
"""Seconds that `Tunnel.stop` waits for ifdown; after that the watcher asks again."""

_PROGRAMS = frozenset(("ifup", "ifdown", "ifreload", "ifupdown"))

UP, ANEW, DOWN = "up", "anew", "down"
"""What an initiator is to do: ifup; ifdown and then ifup; ifdown."""

RAISED, SEEN = "raised", "seen"
"""What is known afterwards: ifup succeeded; and an interface called NAME was seen up."""


class Tunnel:
    """The stanza NAME.

    path: of the file with the stanzas, as far as `check` reads it.
    """

    def __init__(
        self,
        name: str,
        path: str = FILE,
        systemd: Systemd | None = None,
        initiator: Initiator | None = None,
        store: Store | None = None,
    ) -> None:
        self._name = name
        self._path = path
        self._initiator = initiator or Initiator("ifup", name, systemd or Systemd())
        self._store = store or Store()

    def check(self) -> None:
        """Raise `TunnelError` if there is no stanza NAME, or if its own rules would wait for it: a wish, or rules that
        lead back to it."""
        todo, seen = [self._name], {self._name}
        for name in todo:  # which grows by the tunnels that the stanzas themselves want
            try:
                options = query_options(name, self._path)
            except InterfacesError as error:
                if name == self._name:
                    raise TunnelError(f"there is no usable stanza {name} in {self._path}: {error.reason}") from None
                continue
            rules = read_rules({option: value for option, value in options.items() if option.startswith("netconf-")})
            if name == self._name and "netconf-uplink" in options:
                raise TunnelError(f"the stanza {name} is a wish (netconf-uplink), and no tunnel")
            for rule in rules.vpns:
                if rule.kind == "ifup" and rule.name == self._name:
                    raise TunnelError(f'the stanza {name} has itself "netconf-vpn {rule.text}": a circle')
                if rule.kind == "ifup" and rule.name not in seen:
                    seen.add(rule.name)
                    todo.append(rule.name)

    def start(self) -> None:
        """Have ifup run; one that is up, or about to be, is left as it is.  Raises `TunnelError`."""
        self.check()
        order = self._store.read_order("ifup", self._name)
        if self.is_up() is not False:
            if order not in (RAISED, SEEN):
                self._note(RAISED)  # somebody else has brought it up
            return
        if order in (UP, ANEW) and self._initiator.is_running():
            return
        self._ask(ANEW if is_configured(self._name) else UP)

    def stop(self) -> None:
        """Have ifdown run, whoever ran ifup, and wait some seconds for its end.  Raises `TunnelError`.

        Don't wait if NAME has a record: its own hooks need the lock that our caller holds; nor with ifupdown-ng and
        ifupdown2, see above.  While the system stops, ``ifdown -a`` takes it down.
        """
        order = self._store.read_order("ifup", self._name)
        if order in ("", RAISED, SEEN) and not is_configured(self._name):
            self._note("")  # there is nothing to do, or somebody else has done it
            return
        try:
            if order in (UP, ANEW):
                self._initiator.cancel()
            if order != DOWN or not self._initiator.is_running():
                self._ask(DOWN)
        except SystemStopping:
            return
        if self._has_record() or not _runs_in_parallel():
            return
        wait_until(lambda: self._read_outcome() is not None, STOP_TIMEOUT, 0.05)
        outcome = self._read_outcome()
        if outcome != "":
            raise TunnelError(outcome or f"ifdown {self._name} is still at work")

    def connect(self) -> str:
        """Do what was asked for last, and return what was done; what an initiator does.  Raises `TunnelError`."""
        while True:
            if not _runs_in_parallel():
                wait_until(lambda: not is_any_running(_PROGRAMS), OTHERS_TIMEOUT, 0.05)
            order = self._store.read_order("ifup", self._name)
            if order in (ANEW, DOWN):
                self._take_down(anew=order == ANEW)
            if order in (UP, ANEW):
                self._bring_up(anew=order == ANEW)
            with self._store.lock_records():
                if self._store.read_order("ifup", self._name) == order:
                    if order == DOWN:
                        self._store.write_order("ifup", self._name, "")
                    elif order in (UP, ANEW):
                        self._store.write_order("ifup", self._name, SEEN if self._inspect_link()[0] else RAISED)
                    return "taken down" if order == DOWN else "brought up"

    def is_up(self) -> bool | None:
        """Whether ifupdown has it configured and its interface is up; None if no interface of this name was seen."""
        return self._inspect_link()[0] if is_configured(self._name) else False

    def is_running(self) -> bool:
        """Whether ifupdown has it configured, or an initiator is at work."""
        try:
            return is_configured(self._name) or self._initiator.is_running()
        except TunnelError:
            return True

    def inspect(self) -> Condition:
        """Return how the stanza is doing.  The end of its interface is news of a link, so it needs no process."""
        self.check()
        files = (self._path,)
        order = self._store.read_order("ifup", self._name)
        if is_configured(self._name):
            up, fault = self._inspect_link()
            if up and order == RAISED:
                self._note(SEEN)
            if up is not False:
                return Condition(up, True, files=files)
            if not self._initiator.is_running():
                return Condition(False, order in ("", RAISED), words=f"its interface {fault}", files=files)
        if self._initiator.is_running():
            return Condition(False, True, words="ifup is at work", files=files)
        words = self._initiator.read_reason() or ("ifdown has taken it down" if self.find_stop() else "")
        return Condition(False, False, words=words, files=files)

    def count_received(self) -> int | None:
        """Return None: it is not known what would be answered."""
        return None

    def nudge(self) -> str:
        """Do nothing: it is not known what would help."""
        return ""

    def restart(self) -> None:
        """Have ifdown and then ifup run.  Raises `TunnelError`."""
        self.check()
        if self._store.read_order("ifup", self._name) != ANEW or not self._initiator.is_running():
            self._initiator.cancel()
            self._ask(ANEW)

    def list_units(self) -> tuple[str, ...]:
        """Return no unit: the stop of ``ifup@NAME`` runs ifdown, which `find_stop` tells."""
        return ()

    def find_stop(self) -> str:
        """Return that somebody has run ifdown, in words; empty if nothing shows that.

        ifupdown forgets only what its ifdown has taken down: an interface that is deleted stays configured.
        """
        order = self._store.read_order("ifup", self._name)
        return f"ifdown {self._name}" if order in (RAISED, SEEN) and not is_configured(self._name) else ""

    def boot_start(self) -> str:
        """Say that ifup brings it up at boot; empty if it does not."""
        return f"auto or allow-hotplug {self._name} in {self._path}" if self._name in list_boot_links() else ""

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return ``()``: it is not known what its programs send, and where to."""
        return ()

    def _inspect_link(self) -> tuple[bool | None, str]:
        """Return whether the interface called NAME is up, and else what is wrong with it.

        None: there was none since ifup, or that can't be told.
        """
        try:
            link = read_link(device_of(self._name))
        except NetlinkError:
            return None, ""
        if link is None:
            unseen = self._store.read_order("ifup", self._name) in ("", RAISED)
            return (None, "") if unseen else (False, "is gone")
        if not link.up:
            return False, "is down"
        return link.carrier, "" if link.carrier else "has no carrier"

    def _ask(self, order: str) -> None:
        """Have an initiator do something.  Raises `TunnelError`."""
        try:
            with self._store.lock_records():
                self._store.write_reason("ifup", self._name, "")
                self._store.write_order("ifup", self._name, order)
        except OSError as error:
            raise TunnelError(f"what is to be done can't be written down: {error}") from None
        self._initiator.request()

    def _note(self, order: str) -> None:
        try:
            with self._store.lock_records():
                self._store.write_order("ifup", self._name, order)
        except OSError as error:
            log.error(f"ifup {self._name}: its state can't be written down: {error}")

    def _has_record(self) -> bool:
        try:
            return self._store.read_interface(self._name) is not None
        except RecordError:
            return True

    def _read_outcome(self) -> str | None:
        """Return how an ifdown has ended: empty if it is done, a reason if it failed, None if it is at work."""
        if self._store.read_order("ifup", self._name) != DOWN:
            return ""
        return self._initiator.read_reason() or None

    def _bring_up(self, anew: bool) -> None:
        """Run ifup.  One that fails leaves everything that it has done so far: the next one would stumble over it.

        anew: ifdown was run just now.  If it failed, an empty state file lets ifupdown-ng run ifup again: with --force
        it would count one interface more, and keep the stanza configured after the next ifdown.
        """
        if anew and is_configured(self._name):
            from tempfile import TemporaryDirectory

            with TemporaryDirectory(prefix="netconf-hooks-") as directory:
                reason = _run(["ifup", "--state-file", f"{directory}/state", self._name], UP_TIMEOUT)
        else:
            reason = _run(["ifup", self._name], UP_TIMEOUT)
        if not reason and not is_configured(self._name):
            reason = "ifup has not configured it"
        if reason:
            _run(["ifdown", "--force", self._name], DOWN_TIMEOUT)
            raise TunnelError(reason)

    def _take_down(self, anew: bool) -> None:
        """Run ifdown, also if ifupdown has forgotten the interface since its ifup failed.

        anew: ifup comes next.  Then an ifdown that fails is no error: ifupdown-ng leaves a stanza configured if one of
        its commands fails, as ``ip link del`` does when the interface is gone.
        """
        reason = _run(["ifdown", "--force", self._name], DOWN_TIMEOUT)
        if is_configured(self._name) and not anew:
            raise TunnelError(reason or "ifdown has left it configured")


def _runs_in_parallel() -> bool:
    """Whether ifupdown can configure two interfaces at the same time: only Debian's own one can."""
    try:
        return find_ifupdown() == IFUPDOWN
    except InterfacesError:
        return True


def _run(argv: list[str], timeout: float) -> str:
    """Run a program of ifupdown; return why it failed, empty if it did not."""
    try:
        result = programs.run(argv, timeout, leaves=True)
    except programs.ProgramError as error:
        return str(error)
    if result.status == 0:
        return ""
    lines = [log.printable(line) for line in result.output.splitlines() if line.strip()]
    # ifup's own last line says only that it failed.
    general = (f"{argv[0]}: failed to bring", "run-parts: failed")
    told = [line for line in lines if not line.startswith(general)] or lines
    return f"{' '.join(argv)}: {'; '.join(told[-2:]) if told else f'exit status {result.status}'}"
