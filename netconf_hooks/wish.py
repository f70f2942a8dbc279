"""Wishes: ``ifup corp`` brings up a link, if needed, and then a tunnel.  netconf-interfaces(5), WISHES.

A stanza with ``netconf-uplink`` is a wish.  If there is no default route, its pre-up hook raises the links that the
option names by real nested ifups, one after the other, until a default route exists.  Then it requests the tunnel and
waits until it is connected.  If that fails, the hook takes down the link that it has raised, and refuses the interface:
in pre-up ifupdown has not configured anything yet.
"""

from __future__ import annotations

from time import monotonic, sleep

from netconf_hooks.evidence.radios import is_wireless
from netconf_hooks.evidence.router import has_working_default_route
from netconf_hooks.passes import make_pass, read_rules_of
from netconf_hooks.settle import Change, read_held, settle
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.stanzas.interfaces import is_configured, list_boot_links
from netconf_hooks.state import InterfaceRecord, RecordError, TunnelState
from netconf_hooks.system import log
from netconf_hooks.system.netlink import LINKS, Netlink, read_link
from netconf_hooks.system.programs import ProgramError, run
from netconf_hooks.tunnels import TunnelError, load_tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from netconf_hooks.stanzas.ifenv import Invocation
    from netconf_hooks.stanzas.rules import Rules, VpnRule
    from netconf_hooks.state import Pass, Store

# Seconds.  A DHCP server answers within a few; dhclient alone would try for 60.
UPLINK_TIMEOUT = 30.0
DOWN_TIMEOUT = 20.0
CARRIER_TIMEOUT = 3.0
CONNECT_TIMEOUT = 30.0

# The deadline of a wish's hook, seconds: the limit for all of these together.
LONGEST = 300

# For how long to wait while it is unknown whether a tunnel is connected, seconds.  Just after its start the tunnel may
# not know it yet; some kinds never know it.
TELLING_TIME = 2.0

# After how many seconds to tell a person at a terminal what the hook is waiting for.
SLOW = 1.0

# How often the watcher may start a tunnel again before a waiting ifup gives up.  The watcher does so after 1 s and
# after 2 s.
ATTEMPTS = 2

# Seconds between two queries whether the tunnel is connected.
_PAUSE = 0.1

# ifupdown sets this variable for each interface that it is configuring (interface.c).  A nested ifup of such an
# interface would deadlock.
_CONFIGURING = "IFUPDOWN_"


class WishError(Exception):
    """A wish can't be fulfilled; the message names the option or the link and says why."""


def fulfil_wish(invocation: Invocation, store: Store, environ: Mapping[str, str]) -> None:
    """Bring up the tunnels of a wish.  If there is no default route, first raise one of its uplinks.

    environ: the hook's.  Raises `WishError` after taking down everything that was raised.

    At boot, under networking.service or an ifup@ unit, don't wait for the tunnel: its daemon may itself wait for the
    end of that unit (network-online.target).  Then only a tunnel that can't be requested is an error.  Don't raise a
    link that boot raises itself: its DHCP client would belong to our unit, and be killed with it.
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
        log.error(f"{invocation.iface}: {error}; the tunnel is started all the same")
    record = InterfaceRecord(invocation.iface, passes, wish=True, raised=tuple(raised))
    fulfilled = False
    try:
        settle(store, [Change(record.iface, record)])
        if boots:
            log.info(f"{invocation.iface}: started; not waiting for it during networking.service or ifup@")
        else:
            for rule in rules.vpns:
                _wait_for_tunnel(rule, store)
        fulfilled = True
    finally:
        # Do this even if a signal has interrupted us: no ifdown follows an ifup that has failed.
        if not fulfilled:
            end_wish(record, store, environ)


def end_wish(record: InterfaceRecord, store: Store, environ: Mapping[str, str], ends: Pass | None = None) -> None:
    """End a wish: its tunnels follow the other rules again, and the links that it has raised go down.

    If there is another wish, which may use these links, they go down when that one ends.

    ends: the pass that a hook of ifdown ends: then nothing is done if an ifup has begun since.
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
    """Return the links that are still up from an earlier wish of the same name, whose ifdown was killed."""
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
            raise WishError(f'netconf-uplink "{uplink}": it is being configured, so its ifup would wait for this one')


def _refuse_held(vpns: Iterable[VpnRule]) -> None:
    held = read_held()
    for rule in vpns:
        if reason := held.get((rule.kind, rule.name)):
            raise WishError(f'netconf-vpn "{rule.text}": {reason}: netconf-hooks unhold {rule.kind} {rule.name}')


def _raise_uplink(
    iface: str, uplinks: tuple[str, ...], environ: Mapping[str, str], raised: list[str], coming: set[str]
) -> None:
    """Raise the first of `uplinks` that leads to a default route, and add it to `raised`; take the others down again.

    coming: the links that boot raises: one with carrier is taken as raised.
    """
    reasons = []
    for uplink in uplinks:
        # ifupdown marks an interface configured as soon as its ifup starts, so another ifup (by udev, at boot) may
        # still be running.  Our ifup waits for it, and then has nothing to do.
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
                # Do this even if a signal has interrupted us: no record says yet that we have raised the link.
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
    """Return a message if a wired link has no carrier; otherwise an empty string.

    Sets the link up and waits as long as autonegotiation takes.  Links of other kinds get carrier only by their ifup.
    """
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
    if not was_up and not is_configured(uplink):  # udev may have started its ifup meanwhile
        run(["ip", "link", "set", "dev", device, "down"], timeout=5)
    return f"{uplink} has no carrier"


def _bring_up(uplink: str, environ: Mapping[str, str]) -> bool:
    """Run ifup; return whether it has raised the link: False if the link was already up.  Raises `WishError`."""
    try:
        result = run(["ifup", uplink], timeout=UPLINK_TIMEOUT, variables=_inherit(environ), leaves=True)
    except ProgramError as error:
        raise WishError(str(error)) from error
    if result.status != 0:
        last = result.output.strip().splitlines()[-1:]
        raise WishError(f"ifup {uplink} failed: {log.printable(''.join(last)) or f'exit status {result.status}'}")
    # ifupdown 0.8 and ifupdown-ng print this, with exit status 0, if the interface is up when they get its lock.
    return "already configured" not in result.output


def _take_down(uplink: str, environ: Mapping[str, str]) -> None:
    try:
        run(["ifdown", "--force", uplink], timeout=DOWN_TIMEOUT, variables=_inherit(environ), leaves=True)
    except ProgramError as error:
        log.error(str(error))


def _inherit(environ: Mapping[str, str]) -> dict[str, str]:
    # ifupdown detects its own recursion by these variables, interfaces(5).  It must not get our other variables.
    return {name: value for name, value in environ.items() if name.startswith(_CONFIGURING)}


def _wait_for_tunnel(rule: VpnRule, store: Store) -> None:
    """Wait until a tunnel is connected.

    Raises `WishError` with the reason, if known: at once if the tunnel can't be started, if its server refuses the
    password, or if it has ended once more after `ATTEMPTS`; otherwise after `CONNECT_TIMEOUT`.
    """
    tunnel = load_tunnel(rule.kind, rule.name)
    name = f'netconf-vpn "{rule.kind} {rule.name}"'
    before = _read_state(rule, store)
    begun = last_known = monotonic()
    announced = False
    while True:
        try:
            record = store.read_tunnels().get((rule.kind, rule.name))
        except RecordError as error:
            raise WishError(f"{name}: {error}") from error
        if record is None:
            raise WishError(f"{name}: not wanted any more: the interface was taken down meanwhile")
        if record.problem:
            raise WishError(f"{name}: {record.problem}")
        try:
            up = tunnel.is_up()
        except TunnelError as error:
            raise WishError(f"{name}: {error}") from error
        now = monotonic()
        if up is not None:
            last_known = now
        if up or now - last_known > TELLING_TIME:
            return
        state = _read_state(rule, store)
        words = f": {state.words}" if state.words else ""
        given_up = state.due and state.failures - before.failures >= ATTEMPTS
        if given_up or state.refusals > before.refusals:
            raise WishError(f"{name}: not connected{words}")
        if not announced and now - begun > SLOW:
            log.tell(f"{rule.kind} {rule.name}: waiting until it is connected, at most {CONNECT_TIMEOUT:g} s")
            announced = True
        if now - begun > CONNECT_TIMEOUT:
            raise WishError(f"{name}: not connected after {CONNECT_TIMEOUT:g} s{words}")
        sleep(_PAUSE)


def _read_state(rule: VpnRule, store: Store) -> TunnelState:
    """Return the tunnel's state as the watcher has last recorded it."""
    try:
        known = store.read_states()
    except RecordError:
        known = {}
    return known.get((rule.kind, rule.name)) or TunnelState(rule.kind, rule.name)
