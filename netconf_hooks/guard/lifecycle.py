"""Which guards stand, and whether they are open: from rules and decisions to the firewall.  netconf-interfaces(5),
GUARD.

A guard belongs to a device, and is put up in pre-up, before the device is configured.  From then on it is closed but
for what passes every closed guard (`passage`), and for our probes while they run.  It opens when all interfaces on the
device that have a guard agree, after everything else was done; it shuts before anything else is done.

Whoever changes what a guard is to be writes it into its record first and tells the firewall then, under the lock for
acting.  What the record says and the firewall does not know yet is left open by a killed hook in one direction only:
closed.  For the lease that an open link is, the kernel's own clocks run; here it is granted and renewed.
"""

from __future__ import annotations

import os
import time
from _socket import if_indextoname
from time import monotonic

from netconf_hooks.decide import CLOSED, OPEN, RELEASED
from netconf_hooks.evidence.current import list_current
from netconf_hooks.evidence.fingerprint import NO_ADDRESS, Scene, UNREADABLE, look_at, read_scene
from netconf_hooks.evidence.lease import find_dhcp_servers
from netconf_hooks.evidence.ports import read_ports
from netconf_hooks.guard.exemptions import ProbePass, let_tunnels_through, list_openings, read_guard, unpin
from netconf_hooks.guard.firewall import (
    GuardError, HOLD_GUESTS, NAMES, OPEN as OPEN_WINDOW, Opening, PORTAL, Ports, TokenGone, Window, choose_firewall,
    load_firewall, read_opening
)  # fmt: skip
from netconf_hooks.guard.ppp import find_dialers
from netconf_hooks.ifenv import device_of, has_wpa_action, is_roaming
from netconf_hooks.passes import (
    are_over, begin_pass, complete_pass, end_pass, find_conflict, leave_passes, list_of, make_pass, read_rules_of
)  # fmt: skip
from netconf_hooks.state import GuardRecord, RecordError, boot_time, merge_options
from netconf_hooks.system import log
from netconf_hooks.system.netlink import Netlink, NetlinkError, read_link
from netconf_hooks.wake import wake_watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from netconf_hooks.decide import Decision, Known
    from netconf_hooks.guard.firewall import AnyFirewall
    from netconf_hooks.ifenv import Invocation
    from netconf_hooks.rules import Rules
    from netconf_hooks.state import InterfaceRecord, Pass, Store

# How long an opened link stays open if nobody renews it, seconds.
LEASE = 30.0

# How long a router may take to say that it is still there, seconds.
CONFIRMATION = 1.0

# How long the machine's sleep may wait for the records' lock, seconds.
SLEEP_PATIENCE = 2.0

_ROUTER_DIALS = "let a router dial in, and guard the link to it; or take netconf-guard out"


def find_unguardable(invocation: Invocation) -> str:
    """Return why an interface can't be guarded, in words; empty where it can."""
    device = device_of(invocation.iface)
    if invocation.method in ("ppp", "wvdial") or device.startswith("ppp"):
        return f"a ppp link can't be guarded, since its device does not exist before it is connected: {_ROUTER_DIALS}"
    if "netconf-uplink" in invocation.options:
        return "a wish (netconf-uplink) has no link of its own: guard the links that it names"
    for stanza, path in find_dialers(device):
        return (
            f"{stanza} dials in over {device} by PPPoE ({path}), whose frames the guard of {device} would drop: "
            f"{_ROUTER_DIALS}"
        )
    return ""


# --- putting up, in pre-up


def prepare_device(store: Store, invocation: Invocation, rules: Rules, again: bool = False) -> bool:
    """Close the link of an interface before it is configured, if its rules ask for that; return whether it may come up.

    rules: of this pass alone; again: whether pre-up has done so already.  Logs why it may not.
    """
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


def put_guard(store: Store, invocation: Invocation, again: bool = False) -> None:
    """Close the device of an interface that is about to come up, and remember its guard.

    again: whether the pass was remembered already, by its pre-up.

    Raises `GuardError` where it could not be closed for sure, OSError where it could not be remembered.
    """
    device = device_of(invocation.iface)
    status = read_link(device)
    store.prepare()
    with store.lock_acting():
        with store.lock_records():
            before = read_guard(store, device)
            known = before.passes if before else _list_passes_of(store, device, invocation.run)
            passes = (complete_pass if again else begin_pass)(known, make_pass(invocation))
            if before and before.verdict == RELEASED and is_roaming(device):
                store.write_guard(before.change(passes=passes))
                return
            conflict = find_conflict(passes)
            # Where the stanzas disagree, it is closed where it was, or where the first of them wants it; what a later
            # run of ifup is about to replace comes last.
            rules = read_rules_of(sorted(passes, key=lambda each: not each.reached))
            guard = load_firewall(before.backend) if before and conflict else choose_firewall(rules.backend)
            ports = read_ports(device, merge_options(passes), rules.outside_ports)
            if problem := find_unheld(device, ports, guard.name):
                raise GuardError(problem)
            record = GuardRecord(device, guard.name, CLOSED, "it is coming up", passes)
            if before:
                # What stands elsewhere for it goes once it is closed here; a hook killed in between leaves that to the
                # next.
                elsewhere = [name for name in (before.backend, *before.former.split()) if name != guard.name]
                record = record.change(former=" ".join(dict.fromkeys(elsewhere)), opened=before.opened)
                if before.opened and before.backend != guard.name:
                    shut_windows(before)  # whoever shuts it from now on knows of the other one only
            if status and status.up and before:
                # Up already, another address family or ifup --force: its tunnels go on, and what others of its
                # interfaces have seen counts while it is on the same network.
                facts = ("openings", "names", "servers", "scene", "shut", "asking_scene")
                record = record.change(**{fact: getattr(before, fact) for fact in facts})
            store.write_guard(record)
        if status and status.up and not before:
            log.error(
                f"{invocation.iface}: netconf-guard: the link was up before it was guarded, and traffic could leave: "
                f"the option belongs in the first stanza of {device}, and no pre-up line may set it up"
            )
        guard.close(device, list_openings(record), ports=ports)
        drop_waiting(device)
        _mark(store, record, opened=False)
        if record.former:
            former = _lift_former(record)
            with store.lock_records():
                now = read_guard(store, device)
                if now:
                    store.write_guard(now.change(former=former))
    log.info(f"{invocation.iface}: netconf-guard: {device} is closed ({guard.name})")
    if conflict:
        raise GuardError(conflict)


def join_guard(store: Store, invocation: Invocation, again: bool = False) -> None:
    """Remember that a pass without a guard of its own comes up on a device that may have one.

    Where the admin has taken the guard out of its last stanza, it goes.  again: as in `put_guard`.

    Raises `GuardError`.
    """
    device = device_of(invocation.iface)
    with store.lock_acting():
        with store.lock_records():
            record = read_guard(store, device)
            if not record:
                return
            passes = (complete_pass if again else begin_pass)(record.passes, make_pass(invocation))
            if passes != record.passes:
                record = record.change(passes=passes)
                store.write_guard(record)
        if not read_rules_of(passes).is_guarded():
            remove_guard(store, record)
            return
        conflict = find_conflict(passes)
        ended = record.verdict == RELEASED and not again and not is_roaming(device)
        if conflict or ended:
            _close_again(store, record, conflict or "it is coming up")
    if conflict:
        raise GuardError(conflict)


def _close_again(store: Store, record: GuardRecord, because: str) -> None:
    """Close a guard that may be open, or that the admin has released until this ifup.  The lock for acting is held."""
    with store.lock_records():
        record = record.change(verdict=CLOSED, because=because, done=False)
        store.write_guard(record)
    load_firewall(record.backend).close(record.device, list_openings(record), ports=find_ports(record))
    _mark(store, record, opened=False)


def leave_guard(store: Store, invocation: Invocation) -> None:
    """post-down: a pass has ended; the guard goes with the last one that asks for it, when the link is down."""
    device = device_of(invocation.iface)
    with store.lock_acting():
        with store.lock_records():
            record = read_guard(store, device)
            if not record:
                return
            status = read_link(device)
            up = status is not None and status.up
            left = end_pass(record.passes, make_pass(invocation), down=not up, kept=is_roaming(device))
            guarded = read_rules_of(left).is_guarded()
            if _is_over(left, device, up):
                guarded = False
            elif up and (are_over(left) or not left):
                left, guarded = left or record.passes, True
                log.info(f"{device}: netconf-guard: still closed, since ifdown left the link up")
            if guarded:
                store.write_guard(record.change(passes=left))
                return
        remove_guard(store, record)


def end_device(store: Store, invocation: Invocation) -> None:
    """post-down, as `leave_guard`; logs what can't be done."""
    try:
        leave_guard(store, invocation)
    except GuardError as error:
        log.error(f"{invocation.iface}: netconf-guard: {error}")


def end_guards(store: Store) -> bool:
    """Take away the guards of links that went down after ifdown had left them up; return whether any was.

    A stanza of the method manual leaves the link as it is; wpa_supplicant(8) sets it down after all hooks.
    """
    ended = False
    with store.lock_records():
        over = [record for record in store.read_guards(log.error) if _is_over(record.passes, record.device)]
    for record in over:
        with store.lock_acting():
            now = read_guard(store, record.device)
            if now and _is_over(now.passes, now.device):
                try:
                    remove_guard(store, now)
                    ended = True
                except GuardError as error:
                    log.error(f"{now.device}: netconf-guard: {error}")
    return ended


def _is_over(passes: Sequence[Pass], device: str, up: bool | None = None) -> bool:
    """Whether nothing is in force on a device any more: ifupdown has taken it down, and the link is down."""
    if not are_over(passes):
        return False
    if up is None:
        status = read_link(device)
        up = status is not None and status.up
    return not up and not has_wpa_action(device)


def _list_passes_of(store: Store, device: str, run: str) -> tuple[Pass, ...]:
    """Return the passes that have come up on a device without a guard until now: of a record that is still true, or of
    the same run of ifup, whose first stanza need not have set the link up."""
    link = read_link(device)
    return tuple(
        each
        for record in store.read_interfaces(log.error)
        if not record.wish and device_of(record.iface) == device
        for each in record.passes
        if (link and link.up and link.index == record.observation.index) or (run and each.run == run)
    )


def remove_guard(store: Store, record: GuardRecord) -> None:
    """Take a guard away.  The lock for acting is held.  Raises `GuardError`."""
    if record.verdict != RELEASED:
        _lift(record.backend, record.device)
    if record.former:
        _lift_former(record)
    unpin(record.device)
    with store.lock_records():
        store.remove_guard(record.device)
    log.info(f"{record.device}: netconf-guard: gone")


# --- deciding


def read_expired(store: Store) -> tuple[GuardRecord, ...]:
    """Return all guards' records; one whose lease is over is no longer open.  The records' lock is held."""
    guards = []
    for record in store.read_guards(log.error):
        if record.verdict != RELEASED and record.opened and not record.is_open(time.time()):
            # Nobody has renewed it, and the kernel has closed it.
            record = record.change(opened=False, done=False)
            store.write_guard(record)
        guards.append(record)
    return tuple(guards)


def find_renamed(guards: Iterable[GuardRecord], records: Iterable[InterfaceRecord]) -> dict[str, str]:
    """Return the names of guarded devices that have another one by now, which no rule of the firewall knows."""
    devices = {guard.device for guard in guards}
    renamed = {}
    for record in records:
        device = device_of(record.iface)
        if device in devices and record.observation.index:
            try:
                name = if_indextoname(record.observation.index)
            except OSError:  # there is no such device any more
                continue
            if name != device:
                renamed[device] = name
    return renamed


def write_verdicts(store: Store, known: Known, decision: Decision) -> bool:
    """Record what was decided on the guards; return whether the firewall has to be told.  The records' lock is held."""
    unsettled = False
    for old, new in zip(known.guards, decision.guards, strict=True):
        if new != old:
            store.write_guard(new)
        if new.because != old.because and new.device in known.renamed:
            log.error(f"{new.device}: netconf-guard: {new.because}")
        if new.verdict != old.verdict:
            log.info(f"{new.device}: netconf-guard: {new.verdict}: {new.because}")
        unsettled |= new.verdict != RELEASED and not new.done
    return unsettled


# --- acting


def close_decided(store: Store) -> None:
    """Put back what somebody took away, close what is to be closed, and let the packets of wanted tunnels through."""
    put_back(store)  # also without a watcher
    with store.lock_acting():
        follow_closing(store)
    let_tunnels_through(store, list_current(store.read_interfaces(log.error)))
    with store.lock_acting():
        follow_closing(store)


def open_decided(store: Store) -> None:
    """Let through what is only known of running tunnels, and open what is to be open."""
    # Some endpoints are known only from the running daemon, and what has stopped sends nothing any more.
    changed = let_tunnels_through(store, list_current(store.read_interfaces(log.error)), asked=True)
    with store.lock_acting():
        if changed:
            follow_closing(store)
        follow_opening(store)


# --- looking


class Look:
    """A look at the network of a guarded link, whose probes are let through until `deadline`, time.monotonic() (context
    manager).

    It notes which network was looked at: the guard opens only while the link is on that one.  It begins with a token in
    the firewall, which whoever shuts the guard removes: what this look decides can't open the guard any more then.
    """

    def __init__(self, store: Store, device: str, deadline: float) -> None:
        self._store = store
        self._device = device
        self._deadline = deadline
        self._passing = ProbePass(device, "", 0.0)
        self._scene: Scene | None = None
        self._outside_ports: tuple[str, ...] = ()
        self._token = ""

    def __enter__(self) -> Look:
        record = read_guard(self._store, self._device)
        if record and record.verdict != RELEASED:
            self._outside_ports = list_outside_ports(record)
            scene = self._begin(record)
            if (record.scene and not is_same_network(record.scene, scene)) or has_left(record, scene):
                # What was seen before, of any interface on the device, does not count on another network.
                shut_guard(self._store, record, "the network has changed", has_left(record, scene))
                scene = self._begin(record)
            self._scene = scene
            self._passing = ProbePass(self._device, record.backend, self._deadline - monotonic())
        return self

    def announce(self, device: str, protocol: str, address: str, port: int) -> None:
        """Let one probe through."""
        self._passing.announce(device, protocol, address, port)

    def __exit__(self, *_: object) -> None:
        if not self._scene:
            return
        self._passing.__exit__()
        with Netlink() as netlink:
            now = look_at(self._device, netlink, self._outside_ports)
            routers = [router for router in now.routers if router != NO_ADDRESS]
            # By these the network is known again.  What the kernel remembers may be from before the link was moved.
            answered = netlink.confirm_neighbours(now.index, routers, monotonic() + CONFIRMATION) if routers else {}
            now = look_at(self._device, netlink, self._outside_ports)
        # A router whose MAC nobody knew when the look began may be another network's, which has come since.
        known = self._scene.macs.keys() >= now.macs.keys()
        certain = len(answered) == len(routers) and known and self._scene.is_like(now)
        servers = find_dhcp_servers(self._device)
        with self._store.lock_records():
            record = read_guard(self._store, self._device)
            if record:
                # Where it changed under our eyes nobody knows which of the two was seen.
                scene = str(now.complete(self._scene)) if certain else ""
                token = self._token if certain else ""
                done = record.done and servers == record.servers
                self._store.write_guard(record.change(scene=scene, token=token, servers=servers, done=done))

    def _begin(self, record: GuardRecord) -> Scene:
        """Put a token into the firewall, then return how the network looks: whatever shuts the guard later voids it."""
        self._token = os.urandom(4).hex()
        try:
            load_firewall(record.backend).begin_look(self._device, self._token)
        except GuardError as error:
            log.error(f"{self._device}: netconf-guard: what is seen now can't open it: {error}")
            self._token = ""
        with Netlink() as netlink:
            scene = look_at(self._device, netlink, self._outside_ports)
            unknown = [router for router in scene.routers if router != NO_ADDRESS and router not in scene.macs]
            if unknown:
                # Before anything is seen of the network, by which its routers are told from others later.
                netlink.resolve_neighbours(scene.index, unknown, monotonic() + CONFIRMATION)
                scene = look_at(self._device, netlink, self._outside_ports)
        return scene


# --- telling the firewall.  The lock for acting is held.


def follow_closing(store: Store) -> None:
    """Close what is to be closed, and let through what is to pass; what is open and may stay so stays so."""
    tokens = {}
    for record in _list_undone(store):
        if record.opened and record.verdict == OPEN:
            if not is_still_there(record):
                shut_guard(store, record, "the network has changed")
            elif token := _find_open(record):
                tokens[record.device] = token
            else:
                _note_not_open(store, record)
    for record in _list_undone(store):
        _tell(store, record, tokens.get(record.device, "") if record.verdict == OPEN else "")


def follow_opening(store: Store) -> None:
    """Open what is to be open, look once more, and close what is on another network by now."""
    for record in _list_undone(store):
        if record.verdict != OPEN:
            continue
        if not record.token or not is_still_there(record):
            shut_guard(store, record, "it is not certain which network this is: it changed, or its router is silent")
            continue
        _tell(store, record, record.token)
        if not is_still_there(record):
            shut_guard(store, record, "the network changed while it was opened")
        _take_back(store, record)


def _find_open(record: GuardRecord) -> str:
    """Return a token with which the rules of an open link can be replaced and stay open; empty if it is not open.

    The link is seen to be open when the token is in the firewall already: whoever shuts it later removes the token.
    """
    token = os.urandom(4).hex()
    try:
        guard = load_firewall(record.backend)
        guard.begin_look(record.device, token)
        window = Window(OPEN_WINDOW, (Opening(),), time.time() + LEASE)
        return token if guard.renew_window(record.device, window) else ""
    except GuardError as error:
        log.error(f"{record.device}: netconf-guard: {error}")
        return ""


def _note_not_open(store: Store, record: GuardRecord) -> None:
    """Write down that the firewall has not opened a link, or has shut it: only a valid token opens it again."""
    with store.lock_records():
        now = read_guard(store, record.device)
        if now and now.verdict != RELEASED:
            store.write_guard(now.change(opened=False, done=False))


def _list_undone(store: Store) -> list[GuardRecord]:
    with store.lock_records():
        records = store.read_guards(log.error)
    wrong = [record for record in records if not record.done or record.opened != (record.verdict == OPEN)]
    return [record for record in wrong if record.verdict != RELEASED]


def _tell(store: Store, record: GuardRecord, token: str = "") -> None:
    """Have the firewall do what a record says, and note it.

    token: of the look that opens the link; without, it is closed.
    """
    windows = _list_windows(record)
    until = time.time() + LEASE
    if token:
        if not _note_opening(store, record, until):
            return
        windows.append(Window(OPEN_WINDOW, (Opening(),), until))
    try:
        guard = load_firewall(record.backend)
        guard.close(record.device, list_openings(record), tuple(windows), token, find_ports(record))
    except TokenGone as error:
        log.info(f"{record.device}: netconf-guard: not opened: {error}")
        shut_guard(store, record, "the network changed while it was looked at")
        return
    except (GuardError, NetlinkError) as error:
        log.error(f"{record.device}: netconf-guard: {error}")
        return
    if record.opened and not token:
        drop_waiting(record.device)
    _mark(store, record, bool(token), until if token and guard.has_lease else 0.0)


def _list_windows(record: GuardRecord) -> list[Window]:
    """Return what is let through for a time, but for the whole link, each for no longer than was asked for."""
    now = time.time()
    windows = []
    for name, left, openings in (
        (PORTAL, record.portal_left(), record.portal_openings), (NAMES, record.asking_left(), record.asking_openings)
    ):  # fmt: skip
        if left:
            windows.append(Window(name, tuple(map(read_opening, openings)), now + left))
    return windows


def _note_opening(store: Store, record: GuardRecord, until: float) -> bool:
    """Write down that a link may be open from now on, before it is: a killed hook leaves nothing open that nobody knows
    of.  Returns whether it is still to be opened, by the same look."""
    with store.lock_records():
        now = read_guard(store, record.device)
        if not now or now.verdict != OPEN or now.token != record.token:
            return False
        store.write_guard(now.change(opened=True, lease=until, lease_boot=boot_time() + LEASE, done=False))
    return True


def _mark(store: Store, told: GuardRecord, opened: bool, lease: float = 0.0) -> None:
    with store.lock_records():
        now = read_guard(store, told.device)
        if now and now.verdict != RELEASED:
            passing = [(record.openings, record.servers, record.passes, record.asking) for record in (now, told)]
            done = passing[0] == passing[1] and opened == (now.verdict == OPEN)
            lease_boot = boot_time() + LEASE if lease else 0.0
            store.write_guard(now.change(opened=opened, done=done, lease=lease, lease_boot=lease_boot))


def shut_guard(store: Store, record: GuardRecord, because: str, everything: bool = True) -> None:
    """Shut an open link at once, before anything else; only a look from after this opens it again.

    everything: also what else was let through for a time.
    The lock for acting is not waited for: shutting is never wrong.  Raises OSError where it can't be noted.
    """
    if record.verdict == RELEASED:
        return
    if record.opened:
        log.info(f"{record.device}: netconf-guard: closed: {because}")
    when = monotonic()
    shut = shut_windows(record, everything)
    with store.lock_records():
        note_shut(store, record, because, when, shut, everything)


def shut_windows(record: GuardRecord, everything: bool = True, guard: AnyFirewall | None = None) -> bool:
    """Have the firewall shut an open link, whatever its record says, and make all looks void; return whether it did.

    everything: as for `shut_guard`; guard: the record's firewall, if it is loaded already.
    """
    try:
        guard = guard or load_firewall(record.backend)
        guard.shut_window(record.device, OPEN_WINDOW)
        for name, until in ((PORTAL, record.portal), (NAMES, record.asking)):
            if until and everything:
                guard.shut_window(record.device, name)
    except GuardError as error:
        log.error(f"{record.device}: netconf-guard: {error}")
        return False
    drop_waiting(record.device)
    return True


def drop_waiting(device: str) -> None:
    """Drop what has passed the firewall while a link was open, and still waits for the MAC address of its router.

    If the link has moved, the router that answers is another network's.
    """
    try:
        with Netlink() as netlink:
            link = netlink.get_link(device)
            if link is not None:
                netlink.drop_waiting(link.index)
    except NetlinkError as error:
        log.error(f"{device}: netconf-guard: packets that have passed may still be waiting to leave: {error}")


def note_shut(store: Store, shut: GuardRecord, because: str, when: float, done: bool, everything: bool = True) -> None:
    """Write down that a guard was shut.  The records' lock is held.  Raises OSError.

    shut: the record as it was then; when: time.monotonic(); done: whether the firewall did it; everything: as for
    `shut_guard`.
    """
    now = read_guard(store, shut.device)
    if not now or now.verdict == RELEASED:
        return
    changes: dict[str, object] = {"shut": max(now.shut, when)}
    if now.token == shut.token or not _is_open(now):
        # Else a look from after this has opened it.
        changes |= {"verdict": CLOSED, "because": because, "opened": now.opened and not done}
        changes["done"] = now.done and done and not (now.opened or now.portal or now.asking)
        if everything:
            changes |= {"portal": 0.0, "asking": 0.0}
    store.write_guard(now.change(**changes))


def _is_open(record: GuardRecord) -> bool:
    """Whether the firewall has a link open, as far as it can be asked."""
    try:
        return load_firewall(record.backend).is_open(record.device)
    except GuardError:
        return False


def begin_leaving(store: Store, invocation: Invocation) -> None:
    """down: shut the guard of a device, and what else was let through but the tunnels, before anything else is done."""
    iface = invocation.iface
    record = read_guard(store, device_of(iface))
    if not record or record.verdict == RELEASED:
        return
    shut_guard(store, record, f"{iface} is going down")
    with store.lock_records():
        now = read_guard(store, record.device)
        if now:
            store.write_guard(now.change(passes=leave_passes(now.passes, make_pass(invocation), is_roaming(iface))))
    with store.lock_acting():
        follow_closing(store)


def put_back(store: Store) -> bool:
    """Put up again what somebody else has taken away (nft flush ruleset); return whether any link is to be decided on
    anew because of that: what was open is closed.
    """
    if not store.has_guards():
        return False
    with store.lock_acting():
        for record in store.read_guards(log.error):
            if record.verdict == RELEASED:
                continue
            try:
                if load_firewall(record.backend).is_standing(record.device):
                    _change_ports(record)
                    continue
            except GuardError as error:
                log.error(f"{record.device}: netconf-guard: {error}")
            log.error(f"{record.device}: netconf-guard: somebody took it away ({record.backend}); putting it back")
            _tell(store, record)
    now = time.time()
    return any(record.verdict == OPEN and not record.is_open(now) for record in store.read_guards(log.error))


def _take_back(store: Store, record: GuardRecord) -> None:
    """Shut what was just opened where somebody else has decided otherwise meanwhile: who shuts waits for nobody."""
    with store.lock_records():
        now = read_guard(store, record.device)
    if not now or now.verdict == CLOSED:
        shut_windows(record, everything=False)


def _lift(backend: str, device: str) -> None:
    load_firewall(backend).lift(device)


def _lift_former(record: GuardRecord) -> str:
    """Take away what stands in the firewalls that were used before; return those in which that failed, as
    `GuardRecord.former`.

    If one does not work any more, the link is closed in the new one all the same.
    """
    left = []
    for name in record.former.split():
        try:
            _lift(name, record.device)
        except GuardError as error:
            log.error(f"{record.device}: netconf-guard: what stands in {name} can't be taken away: {error}")
            left.append(name)
    return " ".join(left)


# --- the admin's ways out


def close_guards(store: Store, because: str) -> None:
    """Close everything until it is decided anew: before the machine sleeps.  Raises OSError.

    No lock is waited for, whose holder may be frozen already: what can't be noted is decided anew all the same, when
    the lease in the record is over.
    """
    if not store.has_guards():
        return
    records = [record for record in store.read_guards(log.error) if record.verdict != RELEASED]
    when = monotonic()
    shut = {record.device: shut_windows(record) for record in records}
    lock = store.lock_records()
    if not lock.take_until(monotonic() + SLEEP_PATIENCE):
        log.error(f"netconf-guard: all guards are closed, but {lock.path} is held: the records still say otherwise")
        return
    try:
        for record in records:
            if record.opened:
                log.info(f"{record.device}: netconf-guard: closed: {because}")
            note_shut(store, record, because, when, shut[record.device])
    finally:
        lock.release()


def open_portal(store: Store, device: str, openings: Sequence[Opening], seconds: float) -> None:
    """Let `openings` through for a time.  Raises `GuardError` where there is no guard, or it can't be done."""
    with store.lock_acting():
        with store.lock_records():
            record = read_guard(store, device)
            if not record or record.verdict == RELEASED:
                raise GuardError(f"{device} has no guard that stands")
            until = time.time() + seconds
            record = record.change(
                portal=until,
                portal_boot=boot_time() + seconds,
                portal_openings=tuple(str(opening) for opening in openings),
                portal_scene=str(look_at(device, outside_ports=list_outside_ports(record))),
            )
            store.write_guard(record)
        load_firewall(record.backend).open_window(device, Window(PORTAL, tuple(openings), until))
    log.info(f"{device}: netconf-guard: a captive portal may be visited for {seconds:g} s")


def release_guard(store: Store, device: str) -> None:
    """Open a guard until the next ifup.  Raises `GuardError`; then it is as it was."""
    store.prepare()
    with store.lock_acting():
        with store.lock_records():
            record = read_guard(store, device)
            if not record:
                raise GuardError(f"{device} has no guard")
            because = "released by the admin until the next ifup"
            store.write_guard(record.change(verdict=RELEASED, because=because, opened=True, done=True, portal=0.0))
        try:
            _lift(record.backend, device)
        except GuardError:
            with store.lock_records():
                store.write_guard(record)
            raise
        unpin(device)
    log.warning(f"{device}: netconf-guard: released: anything may leave until the next ifup")


def find_state(record: GuardRecord) -> str:
    """Return what a guard is, ``closed``, ``open`` or ``released``: by the firewall, and by its record for who may not
    ask that, or where it can't be asked."""
    opened = record.is_open(time.time())
    if os.geteuid() == 0:
        try:
            opened = load_firewall(record.backend).is_open(record.device)
        except GuardError as error:
            log.complain(f"{record.device}: netconf-guard: {error}")
    if not opened:
        return CLOSED
    return RELEASED if record.verdict == RELEASED else OPEN


# --- records


def find_passes(store: Store, iface: str) -> tuple[Pass, ...] | None:
    """Return the passes of an interface, also those that have only come to pre-up; None if its device has no guard."""
    with store.lock_records():
        guard = read_guard(store, device_of(iface))
    return list_of(guard.passes, iface) if guard else None


def _change_ports(record: GuardRecord) -> None:
    """Tell the firewall which ports a guarded link has now.  One that it does not know yet counts as outside."""
    try:
        if ports := find_ports(record):
            load_firewall(record.backend).change_ports(record.device, ports)
    except (GuardError, NetlinkError) as error:
        log.error(f"{record.device}: netconf-guard: its ports can't be told to the firewall: {error}")


def find_ports(record: GuardRecord) -> Ports | None:
    """Return what a guarded link is made of now; None for a card.  Raises `NetlinkError`."""
    return read_ports(record.device, record.options, list_outside_ports(record))


def find_unheld(device: str, ports: Ports | None, backend: str) -> str:
    """Return in words that a firewall does not see all that leaves through a link; else nothing."""
    if not ports or not ports.bridge or backend in HOLD_GUESTS:
        return ""
    return (
        f"{device} is a bridge, and {backend} does not see what its guests send: it takes nftables (python3-nftables) "
        'and no "netconf-guard-backend iptables"'
    )


def list_outside_ports(record: GuardRecord) -> tuple[str, ...]:
    """Return what ``netconf-outside-ports`` says in the stanzas of a guard."""
    return record.rules.outside_ports


def is_still_there(record: GuardRecord) -> bool:
    """Whether a link is now, for certain, on the network that its guard's record says."""
    try:
        return is_same_network(record.scene, look_at(record.device, outside_ports=list_outside_ports(record)))
    except NetlinkError as error:
        log.error(f"{record.device}: netconf-guard: the kernel does not say which network this is: {error}")
        return False


def is_same_network(scene: str, now: Scene) -> bool:
    """Whether a link is, for certain, on the network that its guard's record says, each router with its MAC address."""
    try:
        before = read_scene(scene) if scene else None
    except ValueError:
        return False
    certain = UNREADABLE not in now.wireless
    return certain and before is not None and before.is_like(now) and before.macs.items() <= now.macs.items()


def has_left(record: GuardRecord, now: Scene) -> bool:
    """Whether a link has left the network for which its guard lets something through for a time: a portal, names."""
    scenes = [scene for until, scene in (
        (record.portal, record.portal_scene), (record.asking, record.asking_scene)
    ) if until]  # fmt: skip
    try:
        return any(not scene or read_scene(scene).is_left(now) for scene in scenes)
    except ValueError:
        return True
