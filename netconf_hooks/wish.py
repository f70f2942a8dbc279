"""``ifup corp``: somebody wants the tunnel, so what it needs comes first.  netconf-interfaces(5), WISHES.

A stanza with ``netconf-uplink`` is a wish.  Its ifup finds a way to the internet, raising the links it names one after
the other by real nested ifups where there is none, asks for the tunnel and waits until it is connected.  All of it
happens in pre-up: a wish that can't be fulfilled fails there, where ifupdown has configured nothing yet, and what was
raised for it is taken down again.
"""

from __future__ import annotations

from time import monotonic, sleep

from netconf_hooks.evidence.router import has_working_default_route
from netconf_hooks.evidence.wireless import is_wireless
from netconf_hooks.ifenv import device_of
from netconf_hooks.interfaces import is_configured, list_boot_links
from netconf_hooks.passes import make_pass, read_rules_of
from netconf_hooks.settle import Change, read_held, settle
from netconf_hooks.state import InterfaceRecord, RecordError, TunnelState
from netconf_hooks.system import log
from netconf_hooks.system.netlink import LINKS, Netlink, read_link
from netconf_hooks.system.programs import ProgramError, run
from netconf_hooks.tunnels import TunnelError, load_tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from netconf_hooks.ifenv import Invocation
    from netconf_hooks.rules import Rules, VpnRule
    from netconf_hooks.state import Pass, Store

# Seconds.  A DHCP server answers within a few; dhclient alone would try for 60.
UPLINK_TIMEOUT = 30.0
DOWN_TIMEOUT = 20.0
CARRIER_TIMEOUT = 3.0
CONNECT_TIMEOUT = 30.0

# What is at most asked of a wish altogether: its hook's own deadline.
LONGEST = 300

# For how long a running tunnel may leave it open whether it is connected, seconds: one that was just started can't tell
# yet, another never can.
TELLING_TIME = 2.0

# After how many seconds somebody at a terminal is told what is waited for.
SLOW = 1.0

# How often the watcher may start a tunnel again before a waiting ifup gives up: it does so after 1 s and after 2 s.
ATTEMPTS = 2

# How often the tunnel is asked whether it is connected, seconds.
_PAUSE = 0.1

# ifupdown sets this for each interface that it is configuring, interface.c: a nested ifup of it would wait for itself.
_CONFIGURING = "IFUPDOWN_"


class WishError(Exception):
    """A wish can't be fulfilled; the message names the option or the link and says why."""


def fulfil_wish(invocation: Invocation, store: Store, environ: Mapping[str, str]) -> None:
    """Bring the tunnels of a wish up, and the first of its uplinks that leads to the internet where nothing does.

    environ: that of the hook.  Raises `WishError`, with everything taken down again that was raised for it.

    At boot, under networking.service or an ifup@ unit, it does not wait: what connects the tunnel may itself wait for
    the end of that unit (network-online.target).  There it asks, and fails only where it can't even ask.  A link that
    comes up at boot by itself is left to: its DHCP client belongs to the unit that raises it, and would end with ours.
    """
    passes = (make_pass(invocation),)
    rules = read_rules_of(passes)
    if not rules.vpns or not all(rule.readable for rule in rules.vpns):
        raise WishError("netconf-uplink: expected a netconf-vpn line beside it that can be read")
    _refuse_loops(invocation.iface, rules, environ)
    _refuse_held(rules.vpns)
    boots = is_under_boot()
    raised = _list_inherited(store, invocation.iface)
    try:
        if has_working_default_route():
            log.info(f"{invocation.iface}: there is a default route: no uplink is raised")
        else:
            _raise_uplink(invocation.iface, rules.uplinks, environ, raised, list_boot_links() if boots else set())
    except WishError as error:
        if not boots:
            raise
        log.error(f"{invocation.iface}: {error}; the tunnel is asked for all the same")
    record = InterfaceRecord(invocation.iface, passes, wish=True, raised=tuple(raised))
    fulfilled = False
    try:
        settle(store, [Change(record.iface, record)])
        if boots:
            log.info(f"{invocation.iface}: asked for; not waited for while networking.service or ifup@ runs")
        else:
            for rule in rules.vpns:
                _wait_for_tunnel(rule, store)
        fulfilled = True
    finally:
        # Also where a signal ended it: an ifup that fails has no ifdown.
        if not fulfilled:
            end_wish(record, store, environ)


def end_wish(record: InterfaceRecord, store: Store, environ: Mapping[str, str], ends: Pass | None = None) -> None:
    """Take back a wish: its tunnels follow the other rules again, and the links raised for it alone go down.

    A link that another wish may be using goes down with that one.

    ends: the pass that a hook of ifdown ends: then nothing is taken back if an ifup has begun since.
    """
    settle(store, [Change(record.iface, ends=ends)])
    if not record.raised or (ends and _is_recorded(store, record.iface)):
        return
    heir = next((other for other in store.read_interfaces(log.error) if other.wish), None)
    if heir:
        heritage = heir.change(raised=(*heir.raised, *record.raised))
        settle(store, [Change(heir.iface, heritage, replaces=heir)])
        return
    for link in record.raised:
        _take_down(link, environ)


def _list_inherited(store: Store, iface: str) -> list[str]:
    """Return the links that an earlier wish of the same name raised and that are still up: its ifdown was killed."""
    try:
        before = store.read_interface(iface)
    except RecordError:
        return []
    return [link for link in before.raised if is_configured(link)] if before else []


def _is_recorded(store: Store, iface: str) -> bool:
    try:
        return store.read_interface(iface) is not None
    except RecordError:
        return True


def is_under_boot(cgroup: str = "/proc/self/cgroup") -> bool:
    """Whether this process belongs to networking.service or an ifup@ unit, cgroups(7)."""
    try:
        with open(cgroup, encoding="utf-8", errors="replace") as file:
            path = file.read()
    except OSError:
        return False
    return "/networking.service" in path or "/ifup@" in path


def _refuse_loops(iface: str, rules: Rules, environ: Mapping[str, str]) -> None:
    stanzas = {rule.name: rule.text for rule in rules.vpns if rule.kind == "ifup"}
    configuring = {name[len(_CONFIGURING):] for name in environ if name.startswith(_CONFIGURING)}
    for uplink in rules.uplinks:
        if uplink in stanzas:
            raise WishError(f'netconf-uplink "{uplink}": it is the tunnel of netconf-vpn "{stanzas[uplink]}"')
        if uplink == iface:
            raise WishError(f'netconf-uplink "{uplink}": {iface} can\'t be its own uplink')
        if uplink in configuring:
            raise WishError(f'netconf-uplink "{uplink}": it is being configured, and would wait for this to end')


def _refuse_held(vpns: Iterable[VpnRule]) -> None:
    held = read_held()
    for rule in vpns:
        if said := held.get((rule.kind, rule.name)):
            raise WishError(f'netconf-vpn "{rule.text}": {said}: netconf-hooks unhold {rule.kind} {rule.name}')


def _raise_uplink(
    iface: str, uplinks: tuple[str, ...], environ: Mapping[str, str], raised: list[str], coming: set[str]
) -> None:
    """Raise the first of `uplinks` that leads to a default route, and add it to `raised`; what does not goes down.

    coming: those which are about to be raised by somebody else, and will do where they have carrier.
    """
    reasons = []
    for uplink in uplinks:
        # ifupdown counts it from the beginning of its ifup: somebody else (udev, at boot) may be at it, and is waited
        # for by an ifup that then has nothing to do.
        ours = not is_configured(uplink)
        reason = _find_no_carrier(uplink) if ours else ""
        if not reason and ours and uplink in coming:
            log.info(f"{iface}: {uplink} comes up by itself")
            return
        if not reason:
            log.info(f"{iface}: {'raising' if ours else 'waiting for'} {uplink}")
            log.tell(f"{iface}: {'raising' if ours else 'waiting for'} {uplink}, at most {UPLINK_TIMEOUT:g} s")
            leads = False
            try:
                ours = _bring_up(uplink, environ) and ours
                leads = has_working_default_route()
            except WishError as error:
                reason = str(error)
            finally:
                # Also where a signal ended it: nothing has noted yet that the link is ours.
                if ours and not leads:
                    _take_down(uplink, environ)
            if leads:
                if ours:
                    raised.append(uplink)
                return
        reasons.append(reason or f"{uplink} {'gave no' if ours else 'is up, without a'} default route")
        log.info(f"{iface}: {reasons[-1]}")
    raise WishError(f'netconf-uplink "{" ".join(uplinks)}": no way to the internet: {"; ".join(reasons)}')


def _find_no_carrier(uplink: str) -> str:
    """Return that nothing is plugged into a wired link, after it was set up for as long as autonegotiation takes; else
    nothing.  A link of another kind gets its carrier by its own ifup."""
    device = device_of(uplink)
    link = read_link(device)
    if link is None or link.carrier or is_wireless(device) or device.startswith(("ppp", "wwan", "wwp")):
        return ""
    was_up = link.up
    if not was_up:
        run(["ip", "link", "set", "dev", device, "up"], timeout=5)
    log.tell(f"{uplink}: waiting for its carrier, at most {CARRIER_TIMEOUT:g} s")
    with Netlink((LINKS,)) as netlink:
        netlink.wait_for_carrier(device, monotonic() + CARRIER_TIMEOUT)
    link = read_link(device)
    if link and link.carrier:
        return ""
    if not was_up and not is_configured(uplink):  # udev may have begun with it meanwhile
        run(["ip", "link", "set", "dev", device, "down"], timeout=5)
    return f"{uplink} has no carrier"


def _bring_up(uplink: str, environ: Mapping[str, str]) -> bool:
    """Run ifup; return whether it raised the link, which was not up before.  Raises `WishError`."""
    try:
        result = run(["ifup", uplink], timeout=UPLINK_TIMEOUT, variables=_inherit(environ), leaves=True)
    except ProgramError as error:
        raise WishError(str(error)) from error
    if result.status != 0:
        last = result.output.strip().splitlines()[-1:]
        raise WishError(f"ifup {uplink} failed: {log.printable(''.join(last)) or f'exit status {result.status}'}")
    # ifupdown 0.8 and -ng say so, with exit status 0, of an interface that was up when they came to it.
    return "already configured" not in result.output


def _take_down(uplink: str, environ: Mapping[str, str]) -> None:
    try:
        run(["ifdown", "--force", uplink], timeout=DOWN_TIMEOUT, variables=_inherit(environ), leaves=True)
    except ProgramError as error:
        log.error(str(error))


def _inherit(environ: Mapping[str, str]) -> dict[str, str]:
    # What ifupdown knows its own recursion by, interfaces(5); the rest of the environment is the hook's alone.
    return {name: value for name, value in environ.items() if name.startswith(_CONFIGURING)}


def _wait_for_tunnel(rule: VpnRule, store: Store) -> None:
    """Wait until a tunnel is connected.

    Raises `WishError` with the reason, as far as it is known: at once if the tunnel can't be started, if its server
    refuses the password, or if it has ended once more after `ATTEMPTS`; else after `CONNECT_TIMEOUT`.
    """
    tunnel = load_tunnel(rule.kind, rule.name)
    name = f'netconf-vpn "{rule.kind} {rule.name}"'
    before = _read_state(rule, store)
    begun = told = monotonic()
    said = False
    while True:
        problem = store.read_tunnels()[rule.kind, rule.name].problem
        if problem:
            raise WishError(f"{name}: {problem}")
        try:
            up = tunnel.is_up()
        except TunnelError as error:
            raise WishError(f"{name}: {error}") from error
        now = monotonic()
        if up is not None:
            told = now
        if up or now - told > TELLING_TIME:
            return
        state = _read_state(rule, store)
        words = f": {state.words}" if state.words else ""
        given_up = state.due and state.failures - before.failures >= ATTEMPTS
        if given_up or state.refusals > before.refusals:
            raise WishError(f"{name}: not connected{words}")
        if not said and now - begun > SLOW:
            log.tell(f"{rule.kind} {rule.name}: waiting until it is connected, at most {CONNECT_TIMEOUT:g} s")
            said = True
        if now - begun > CONNECT_TIMEOUT:
            raise WishError(f"{name}: not connected after {CONNECT_TIMEOUT:g} s{words}")
        sleep(_PAUSE)


def _read_state(rule: VpnRule, store: Store) -> TunnelState:
    """Return what the watcher has last seen of a tunnel."""
    try:
        known = store.read_states()
    except RecordError:
        known = {}
    return known.get((rule.kind, rule.name)) or TunnelState(rule.kind, rule.name)
