"""``netconf-vpn ifup NAME``: a stanza of /etc/network/interfaces that is itself a tunnel: WireGuard by ifupdown, tinc,
vpnc, L2TP, PPP ...

``ifup NAME`` brings it up and ``ifdown NAME`` takes it down.  Both run in an initiator (`attempt`), never in a hook:
they wait for ifupdown's lock of NAME, which an ``ifup -a`` may hold, and NAME's own hooks take locks that our caller
holds.  The latest order is recorded (`Store.write_order`), and a single initiator carries it out.

ifupdown-ng reads its state file when a run begins and replaces it at the end, so if two runs overlap, the changes of
one are lost.  ifupdown2 refuses a second run.  With these two the initiator first waits until all other runs have
ended, and a hook never waits for the initiator, since the hook is part of such a run.

**Up** means that ifupdown has NAME configured, and that the interface of this name, if it exists, is up with carrier.
Many stanzas (PPP, L2TP, vpnc) create an interface of another name, or create it later.  So a missing interface is an
error only after an interface called NAME has been seen up.

**Its own packets** are not known: behind a guard the admin has to list them in ``netconf-guard-allow``.
"""

from __future__ import annotations

from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.stanzas.interfaces import (
    FILE, find_ifupdown, IFUPDOWN, InterfacesError, is_configured, list_boot_links, query_options
)  # fmt: skip
from netconf_hooks.stanzas.rules import read_rules
from netconf_hooks.state import RecordError, Store
from netconf_hooks.system import log, programs
from netconf_hooks.system.netlink import NetlinkError, read_link
from netconf_hooks.system.processes import is_any_running
from netconf_hooks.system.waiting import wait_until
from netconf_hooks.tunnels import Condition, Endpoint, TunnelError
from netconf_hooks.tunnels.attempt import Initiator
from netconf_hooks.tunnels.services import Services, TooLate

UP_TIMEOUT = 120.0
"""Seconds for ifup, which may have to wait for another ifup of the same name, and for names to be resolved."""

DOWN_TIMEOUT = 60.0
"""Seconds for ifdown."""

OTHERS_TIMEOUT = 60.0
"""Seconds that an initiator waits for other runs of ifupdown-ng or ifupdown2 to end."""

STOP_TIMEOUT = 5.0
"""Seconds that `Tunnel.stop` waits for ifdown; after that the watcher calls `Tunnel.stop` again."""

_PROGRAMS = frozenset(("ifup", "ifdown", "ifreload", "ifupdown"))

UP, ANEW, DOWN = "up", "anew", "down"
"""Orders to an initiator: run ifup; run ifdown and then ifup; run ifdown."""

RAISED, SEEN = "raised", "seen"
"""States without an order: ifup succeeded; an interface called NAME has also been seen up."""


class Tunnel:
    """The stanza NAME.

    path: the file with the stanzas, /etc/network/interfaces.
    """

    def __init__(
        self,
        name: str,
        path: str = FILE,
        systemd: Services | None = None,
        initiator: Initiator | None = None,
        store: Store | None = None,
    ) -> None:
        self._name = name
        self._path = path
        self._initiator = initiator or Initiator("ifup", name, systemd or Services())
        self._store = store or Store()

    def check(self) -> None:
        """Raise `TunnelError` if there is no stanza NAME, if it is a wish, or if its own rules start it again, directly
        or by the rules of other stanzas."""
        todo, seen = [self._name], {self._name}
        for name in todo:  # the loop appends the tunnels that each stanza starts
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
        """Request an ifup, unless the tunnel is up or an ifup is under way.  Raises `TunnelError`."""
        self.check()
        order = self._store.read_order("ifup", self._name)
        if self.is_up() is not False:
            if order not in (RAISED, SEEN):
                self._record(RAISED)  # somebody else has brought it up
            return
        if order in (UP, ANEW) and self._initiator.is_running():
            return
        self._request(ANEW if is_configured(self._name) else UP)

    def stop(self) -> None:
        """Request an ifdown, whoever ran ifup, and wait some seconds for its end.  Raises `TunnelError`.

        Don't wait if NAME has a record, since its own hooks need the lock that our caller holds, and don't wait with
        ifupdown-ng and ifupdown2 (see the head of this module).  While the system stops, do nothing: ``ifdown -a``
        takes NAME down.
        """
        order = self._store.read_order("ifup", self._name)
        if order in ("", RAISED, SEEN) and not is_configured(self._name):
            self._record("")  # it was never up, or somebody else has taken it down
            return
        try:
            if order in (UP, ANEW):
                self._initiator.cancel()
            if order != DOWN or not self._initiator.is_running():
                self._request(DOWN)
        except TooLate:
            return
        if self._has_record() or not _runs_in_parallel():
            return
        wait_until(lambda: self._read_outcome() is not None, STOP_TIMEOUT, 0.05)
        outcome = self._read_outcome()
        if outcome != "":
            raise TunnelError(outcome or f"ifdown {self._name} is still running")

    def connect(self) -> str:
        """Carry out the latest order, and return what was done.  The initiator calls this.  Raises `TunnelError`."""
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
        """Whether ifupdown has it configured, or an initiator is running."""
        try:
            return is_configured(self._name) or self._initiator.is_running()
        except TunnelError:
            return True

    def inspect(self) -> Condition:
        """Return the stanza's state.  There is no pid to watch: the kernel reports the end of an interface."""
        self.check()
        files = (self._path,)
        order = self._store.read_order("ifup", self._name)
        if is_configured(self._name):
            up, fault = self._inspect_link()
            if up and order == RAISED:
                self._record(SEEN)
            if up is not False:
                return Condition(up, True, files=files)
            if not self._initiator.is_running():
                return Condition(False, order in ("", RAISED), words=f"its interface {fault}", files=files)
        if self._initiator.is_running():
            return Condition(False, True, words="ifup is running", files=files)
        words = self._initiator.read_reason() or ("ifdown has taken it down" if self.find_stop() else "")
        return Condition(False, False, words=words, files=files)

    def count_received(self) -> int | None:
        """Return None: no packet is known that the other end answers."""
        return None

    def nudge(self) -> str:
        """Do nothing: it is not known what would help."""
        return ""

    def restart(self) -> None:
        """Request an ifdown and then an ifup.  Raises `TunnelError`."""
        self.check()
        if self._store.read_order("ifup", self._name) != ANEW or not self._initiator.is_running():
            self._initiator.cancel()
            self._request(ANEW)

    def list_units(self) -> tuple[str, ...]:
        """Return no unit: stopping ``ifup@NAME`` runs ifdown, and `find_stop` notices that."""
        return ()

    def find_stop(self) -> str:
        """Return the ifdown that somebody has run; empty if nothing shows that.

        Only ifdown makes ifupdown forget an interface: one that is deleted in another way stays configured.
        """
        order = self._store.read_order("ifup", self._name)
        return f"ifdown {self._name}" if order in (RAISED, SEEN) and not is_configured(self._name) else ""

    def boot_start(self) -> str:
        """Say that ifup brings it up at boot; empty if it does not."""
        return f"auto or allow-hotplug {self._name} in {self._path}" if self._name in list_boot_links() else ""

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return ``()``: it is unknown what its programs send, and where."""
        return ()

    def _inspect_link(self) -> tuple[bool | None, str]:
        """Return whether the interface called NAME is up, and what is wrong with it if it is not.

        None: it has not existed since ifup, or its state is unknown.
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

    def _request(self, order: str) -> None:
        """Record an order and start an initiator for it.  Raises `TunnelError`."""
        try:
            with self._store.lock_records():
                self._store.write_reason("ifup", self._name, "")
                self._store.write_order("ifup", self._name, order)
        except OSError as error:
            raise TunnelError(f"can't record the order for the initiator: {error}") from None
        self._initiator.request()

    def _record(self, order: str) -> None:
        try:
            with self._store.lock_records():
                self._store.write_order("ifup", self._name, order)
        except OSError as error:
            log.error(f"ifup {self._name}: can't record its state: {error}")

    def _has_record(self) -> bool:
        try:
            return self._store.read_interface(self._name) is not None
        except RecordError:
            return True

    def _read_outcome(self) -> str | None:
        """Return how an ifdown has ended: empty if it succeeded, a reason if it failed, None if it is still running."""
        if self._store.read_order("ifup", self._name) != DOWN:
            return ""
        return self._initiator.read_reason() or None

    def _bring_up(self, anew: bool) -> None:
        """Run ifup.  If it fails, run ifdown: ifup does not undo what it has done, and the next ifup would fail, too.

        anew: ifdown has just been run.  If it failed, give ifup an empty state file, so that ifupdown-ng runs it again.
        Don't use --force: ifupdown-ng would count one interface more, and keep the stanza configured after the next
        ifdown.
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
        """Run ifdown, by --force even if ifupdown does not have NAME configured, as after an ifup that failed.

        anew: ifup comes next, so a failed ifdown is no error.  ifupdown-ng leaves a stanza configured if one of its
        commands fails, as ``ip link del`` does if the interface is gone.
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
    # ifup's own last line only says that it failed, not why.
    general = (f"{argv[0]}: failed to bring", "run-parts: failed")
    reasons = [line for line in lines if not line.startswith(general)] or lines
    return f"{' '.join(argv)}: {'; '.join(reasons[-2:]) if reasons else f'exit status {result.status}'}"
