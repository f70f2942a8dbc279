"""Guards whose record is lost: it is unreadable or missing.

Such a guard counts as closed.  The firewall's rules show which devices are guarded.  The guard is shut there at once,
and gets a new record that keeps it closed until the next ifup or ifdown of the interface.  Tunnels and
`netconf-guard-allow` pass as they do through any closed guard.
"""

from __future__ import annotations

from time import monotonic

from netconf_hooks.guard import firewall
from netconf_hooks.guard.firewall import FIREWALLS, GuardError, WINDOWS, check_device
from netconf_hooks.guard.shut import drop_waiting
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.stanzas.rules import read_rules
from netconf_hooks.state import CLOSED, GuardRecord, LEAVING, Pass, RecordError
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from netconf_hooks.guard.firewall import AnyFirewall
    from netconf_hooks.state import Store

# Written in place of the lost rule.  It can't be read as a rule, so it keeps the guard closed.
LOST_RULE = "lost with its record: closed until the next ifup or ifdown"

_GONE = "it is gone, but the firewall still has the guard"


def restore_records(store: Store, known: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Close each guard whose record is lost, and write a record of a closed guard; return their devices.

    known: as for `find_lost`.
    The caller must not hold the records' lock.  Logs what fails; the next call tries it again.
    """
    lost = find_lost(store, known)
    for device, problem in lost.items():
        log.error(f"{device}: netconf-guard: closed until the next ifup or ifdown, since its record is lost: {problem}")
        backend = shut_lost(device)
        try:
            store.prepare()  # its directory may have been removed with the record
            with store.lock_records():
                if device in find_lost(store, known):
                    store.write_guard(_make_record(store, device, backend, problem))
        except OSError as error:
            log.error(f"{device}: netconf-guard: its record can't be written: {error}")
    return tuple(lost)


def find_lost(store: Store, known: Mapping[str, str] | None = None, ask: bool = True) -> dict[str, str]:
    """Return the devices with a guard whose record is unreadable or missing, each with the reason.

    known: devices that had a guard's record, each with its firewall; needed to find guards of which no file is left.
    ask: whether to look for such guards also in the firewalls that the other guards use.
    Takes no lock.
    """
    lost = {}
    names = store.list_guarded()
    used: set[str] = set()
    for device in names:
        try:
            check_device(device)
            record = store.read_guard(device)
        except RecordError as error:
            lost[device] = str(error)
        except GuardError as error:
            log.error(f"{store.guards}/{device}: not the record of a guard: {error}")
        else:
            used.update((record.backend, *record.former.split()) if record else ())
    asking = {device_of(iface) for iface in store.list_asking()}.difference(names)
    missing = {device: name for device, name in (known or {}).items() if device not in names}
    firewalls = FIREWALLS if asking else {*missing.values(), *(used if ask else ())}
    if firewalls:
        standing = {device for guard in _load_guards(firewalls) for device in _list_devices(guard)}
        # Read the names again: a guard's record is written before its rules, and removed after them.
        gone = standing.difference(names, store.list_guarded())
        lost |= dict.fromkeys(sorted(gone if ask else gone & {*asking, *missing}), _GONE)
    return lost


def shut_lost(device: str) -> str:
    """Shut all windows of a device in each firewall that guards it; return the name of the first such firewall.

    Takes no lock: shutting is always safe.
    """
    found = ""
    for guard in _load_guards(FIREWALLS):
        if device not in _list_devices(guard):
            continue
        found = found or guard.name
        for name in WINDOWS:
            try:
                guard.shut_window(device, name)
            except GuardError as error:
                log.error(f"{device}: netconf-guard: {error}")
    if found:
        drop_waiting(device)
    return found


def _load_guards(names: Collection[str]) -> list[AnyFirewall]:
    """Return those of the firewalls that work on this machine."""
    guards = []
    for name in FIREWALLS:
        if name not in names:
            continue
        try:
            guards.append(firewall.load_firewall(name))
        except GuardError as error:
            log.debug(f"{name}: {error}")
    return guards


def _list_devices(guard: AnyFirewall) -> tuple[str, ...]:
    try:
        return guard.list_devices()
    except GuardError as error:
        log.error(f"{guard.name}: {error}")
        return ()


def _make_record(store: Store, device: str, backend: str, problem: str) -> GuardRecord:
    """Return a record of a closed guard to replace a lost one.

    It keeps only those options of the device's interfaces that say what passes a closed guard.
    """
    passes: list[Pass] = []
    for record in store.read_interfaces(log.error):
        if device_of(record.iface) != device:
            continue
        for each in record.passes:
            kept = {
                option: value for option, value in each.options.items()
                if option.startswith(("netconf-guard-allow", "netconf-guard-backend"))
            }  # fmt: skip
            if read_rules(each.options).is_guarded():
                kept["netconf-guard"] = LOST_RULE
            passes.append(each.change(options=kept, stage=LEAVING))
    if not any("netconf-guard" in each.options for each in passes):
        passes.append(Pass("inet", {"netconf-guard": LOST_RULE}, iface=device, stage=LEAVING))
    return GuardRecord(
        device,
        backend or _choose_backend(),
        CLOSED,
        f"its record was lost: {problem}",
        tuple(passes),
        shut_at=monotonic(),
    )


def _choose_backend() -> str:
    try:
        return firewall.choose_firewall().name
    except GuardError:
        return FIREWALLS[0]
