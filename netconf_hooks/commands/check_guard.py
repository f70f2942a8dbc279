"""``netconf-hooks check`` for guards: those that can't be installed, can never open, or stop less than they seem to."""

from __future__ import annotations

import os

from netconf_hooks.decide import can_open
from netconf_hooks.evidence.lan import find_lan
from netconf_hooks.evidence.names import is_address
from netconf_hooks.evidence.ports import is_bridge
from netconf_hooks.guard.exemptions import allows_lan
from netconf_hooks.guard.firewall import GuardError, choose_firewall, read_network
from netconf_hooks.guard.firewall.iptables import list_legacy_guards
from netconf_hooks.guard.hosts import find_names
from netconf_hooks.guard.lifecycle import find_unguardable, find_bridge_problem
from netconf_hooks.observation import Ports
from netconf_hooks.place import is_proof
from netconf_hooks.stanzas.ifenv import Invocation, device_of
from netconf_hooks.stanzas.rules import RuleError, SITUATIONS
from netconf_hooks.system.addresses import format_address, pack_address, read_prefix
from netconf_hooks.tunnels import TunnelError, load_tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from netconf_hooks.stanzas.interfaces import Heading, Names
    from netconf_hooks.stanzas.rules import Allowance, Condition, GuardRule, Rules

_NAMELESS = (
    "{name} can never be resolved behind the guard: this link has no name server, and the name is not in /etc/hosts; "
    "write dns-nameservers into the stanza, or the name into /etc/hosts"
)

# Where the kernel lists its devices, and which of them belong together.
SYSFS = "/sys/class/net"

# An ifupdown that continues when a pre-up hook fails.
_CARELESS = {"/usr/share/ifupdown2": "ifupdown2"}


def list_guard_errors(iface: str, options: Mapping[str, str], rules: Rules, names: Names) -> list[RuleError]:
    """Return the errors that prevent the guard of an interface from being installed, or from ever opening."""
    if not rules.is_guarded() or rules.guard is None:
        return []
    return list(_find_errors(iface, options, rules, names))


def _find_errors(iface: str, options: Mapping[str, str], rules: Rules, names: Names) -> Iterator[RuleError]:
    guard = rules.guard
    assert guard is not None
    headings = names.list_headings_with("netconf-guard", iface)
    method = headings[0][0].method if headings else ""
    invocation = Invocation("pre-up", iface, "", "any", False, options, "", method)
    if problem := find_unguardable(invocation):
        yield _complain(guard, problem)
    if problem := _find_bridge_problem(iface, options, rules):
        yield _complain(guard, problem)
    if headings and not headings[0][1]:
        families = " and ".join(heading.family for heading, has in headings if has)
        yield _complain(
            guard,
            f"it is in the {families} stanza, but the {headings[0][0].family} stanza comes up first: write it "
            "into the first one",
        )
    proofs = {location.name for location in rules.locations if is_proof(location)}
    for each in rules.guards:
        condition = each.condition
        wants_opening = condition and (condition.unless or any(word.text != "anywhere" for word in condition.on))
        if each.readable and not each.doubt and wants_opening and not can_open(each, rules.trust, proofs):
            yield _complain(
                each,
                "it can never open: it needs a tls or command test in the line of a location that it names, or "
                '"netconf-trust hints"',
            )
    for version, words in find_everything(rules.allowances):
        reason = f"this allows all of IPv{version}, so nothing is guarded"
        yield RuleError("netconf-guard-allow", " ".join(words), reason)
    nameless = _has_no_name_server(options, [heading for heading, _ in headings])
    for allowance in rules.allowances:
        if nameless and (missing := _list_unknown([allowance.host])):
            yield RuleError("netconf-guard-allow", allowance.text, _NAMELESS.format(name=missing[0]))
    for rule in rules.vpns:
        if rule.readable:
            try:
                endpoints = load_tunnel(rule.kind, rule.name).endpoints()
            except TunnelError as error:
                yield RuleError("netconf-vpn", rule.text, f"the guard can't let its packets through: {error}")
                continue
            hosts = [endpoint.host for endpoint in endpoints]
            if nameless and hosts and (missing := _list_unknown(hosts)) == list(dict.fromkeys(hosts)):
                yield RuleError("netconf-vpn", rule.text, _NAMELESS.format(name=", ".join(missing)))


def _has_no_name_server(options: Mapping[str, str], headings: Sequence[Heading]) -> bool:
    """Whether a link can never learn of a name server: all its stanzas are static IPv4, without dns-nameservers.

    With IPv6, routers may advertise one, and other methods may learn of one as well.
    """
    named = options.get("dns-nameservers", "") or options.get("dns-nameserver", "")
    return not named and bool(headings) and all(
        (heading.family, heading.method) == ("inet", "static") for heading in headings
    )  # fmt: skip


def _list_unknown(hosts: Sequence[str]) -> list[str]:
    """Return those hosts that are names and are not in /etc/hosts."""
    names = [host for host in dict.fromkeys(hosts) if host and not is_address(host)]
    try:
        known = find_names(names)
    except GuardError:
        known = {}
    return [name for name in names if name not in known]


def _complain(guard: GuardRule, reason: str) -> RuleError:
    return RuleError("netconf-guard", guard.text, reason)


def find_everything(allowances: Sequence[Allowance]) -> list[tuple[int, tuple[str, ...]]]:
    """Return the IP versions, 4 and 6, for which everything is allowed, each with the allowances that add up to this.

    Allowances for a single port or for replies don't count.
    """
    found = []
    for version, bits in ((4, 32), (6, 128)):
        wide: list[tuple[int, int, str]] = []
        for allowance in allowances:
            if allowance.network and not (allowance.protocol or allowance.incoming):
                address, length = read_network(allowance.network)
                if len(address) * 8 == bits:
                    first = int.from_bytes(address, "big")
                    wide.append((first, first + (1 << (bits - length)), allowance.text))
        end = 0
        used = []
        for first, after, text in sorted(wide):
            if first > end:
                break
            if after > end:
                used.append(text)
                end = after
        if end == 1 << bits:
            found.append((version, tuple(used)))
    return found


def _find_bridge_problem(iface: str, options: Mapping[str, str], rules: Rules) -> str:
    """If the firewall does not see what a bridge's guests send, return a message about it; else an empty string."""
    device = device_of(iface)
    if not ("bridge-ports" in options or is_bridge(device)):
        return ""
    try:
        backend = choose_firewall(rules.backend).name if os.geteuid() == 0 else rules.backend
    except GuardError:
        return ""  # the warning about it says more
    return find_bridge_problem(device, Ports(bridge=True), "nftables" if backend == "auto" else backend)


def list_early_lines(iface: str, options: Mapping[str, str], rules: Rules, names: Names) -> list[RuleError]:
    """Return a warning for each ``pre-up`` line of a stanza that sets a link up before its guard is closed.

    ifup runs these lines before all hooks (interfaces(5)).  In a stanza with a guard, every such line counts: it sets
    up the interface itself, or one of its ports.  In another stanza, such as pppoeconf's with ``pre-up /sbin/ifconfig
    eth0 up``, it counts if the link has a guard in its own stanza.
    """
    warnings = []
    for line in options.get("pre-up", "").split("\n"):
        for device in find_links_set_up(line, device_of(iface)):
            headings = names.list_headings_with("netconf-guard", device) if device != device_of(iface) else []
            if rules.is_guarded() or any(has for _, has in headings):
                guarded = iface if rules.is_guarded() else device
                warnings.append(RuleError(
                    "pre-up", line.strip(),
                    f"it sets {device} up before the guard of {guarded} is closed, since ifup runs these lines before "
                    "all hooks, and what leaves meanwhile is not stopped: leave it to ifup and to the packages' own "
                    "options (bridge_ports), or bring the link up by a stanza of its own",
                ))  # fmt: skip
    return warnings


def find_links_set_up(line: str, iface: str) -> list[str]:
    """Return the devices that a shell command sets up by ip(8) or ifconfig(8).  iface: the value of $IFACE."""
    found = []
    for command in line.partition(" #")[0].replace("&&", ";").replace("||", ";").replace("|", ";").split(";"):
        words = [word.strip("\"'(){}") for word in command.split()]
        words = [iface if word in ("$IFACE", "${IFACE", "$IFACE}") else word for word in words if word]
        for at, word in enumerate(words):
            program, arguments = word.rpartition("/")[2], words[at + 1:]
            if program == "ip":
                found += _find_set_up_by_ip(arguments)
            elif program == "ifconfig":
                device, *words_after = [*(word for word in arguments if not word.startswith("-")), ""]
                # ifconfig(8): setting an address also sets the interface up.
                if "up" in words_after or words_after and words_after[0][:1].isdigit():
                    found.append(device)
    return list(dict.fromkeys(found))


def _find_set_up_by_ip(arguments: Sequence[str]) -> list[str]:
    """Return the device of ``ip [OPTIONS] link set [dev] DEVICE ... up``; iproute2 accepts abbreviated words."""
    while arguments and arguments[0].startswith("-"):
        arguments = arguments[1:]
    if len(arguments) < 4 or not ("link".startswith(arguments[0]) and "set".startswith(arguments[1])):
        return []
    settings = list(arguments[2:])
    if "up" not in settings:
        return []
    named = settings.index("dev") + 1 if "dev" in settings else 0
    return settings[named:named + 1]


def list_guard_warnings(iface: str, rules: Rules, options: Mapping[str, str] | None = None) -> list[RuleError]:
    """Return warnings about what the guard of an interface does not stop, and who can open it.

    options: of the stanza.
    """
    if not rules.is_guarded() or rules.guard is None:
        used = {"netconf-guard-allow": bool(rules.allowances), "netconf-guard-backend": rules.backend != "auto"}
        return [RuleError(option, None, "it has no effect without netconf-guard") for option in used if used[option]]
    return [*_find_warnings(iface, rules), *_find_lan_warnings(rules, options or {})]


def _find_lan_warnings(rules: Rules, options: Mapping[str, str]) -> list[RuleError]:
    """Return a warning if ``netconf-guard-allow lan`` does not include the static address of a stanza."""
    if not allows_lan(rules):
        return []
    networks = []
    for address in options.get("address", "").split():
        mask = "" if "/" in address else options.get("netmask", "").strip()
        if prefix := read_prefix(f"{address}/{_count_bits(mask)}" if mask else address):
            networks.append((format_address(prefix[0]), prefix[1]))
    refused = find_lan(networks)[1]
    return [RuleError("netconf-guard-allow", "lan", f"{reason}, so it is not included") for reason in refused]


def _count_bits(mask: str) -> str:
    """Return the length of a netmask, ``255.255.255.0`` or ``24``."""
    packed = pack_address(mask)
    return str(int.from_bytes(packed, "big").bit_count()) if packed else mask


def _find_warnings(iface: str, rules: Rules) -> Iterator[RuleError]:
    guard = rules.guard
    assert guard is not None
    condition = guard.condition
    if rules.trust == "hints" and condition is not None and (forgeable := _list_forgeable(condition, rules)):
        places = " or ".join(forgeable)
        yield _complain(guard, f'with "netconf-trust hints", anybody who forges the hints of {places} can open it')
    if os.geteuid() == 0:
        try:
            firewall = choose_firewall(rules.backend)
            for lack in firewall.lacks:
                yield _complain(guard, lack)
            if firewall.name != "iptables-legacy" and device_of(iface) in list_legacy_guards():
                yield _complain(
                    guard,
                    f"a guard of {device_of(iface)} is also in the tables of iptables-legacy, and closes the link "
                    f"whatever {firewall.name} does: ifdown removes it if it is in the record; otherwise remove it by "
                    "iptables-legacy and ip6tables-legacy",
                )
        except GuardError as error:
            yield _complain(guard, f"no guard can be installed here, so ifup will refuse: {error}")
    for path, program in _CARELESS.items():
        if os.path.exists(path):
            yield _complain(guard, f"{program} brings the link up even if the guard could not be installed")
    for rule in rules.vpns:
        if rule.kind == "unit":
            yield RuleError("netconf-vpn", rule.text, "what it sends is not known: netconf-guard-allow must name it")
    device = device_of(iface)
    if is_bridge(device):
        what = "what this machine sends to its guests is dropped like everything else"
        yield _complain(guard, f"{device} is a bridge: {what}")
    for name, relation in list_relations(device):
        yield _complain(guard, f"{device} {relation} {name}: what {name} sends over it is dropped with everything else")


def _list_forgeable(condition: Condition, rules: Rules) -> list[str]:
    """Return the places, in words, at which hints alone open a guard."""
    hinted = {location.name for location in rules.locations if not is_proof(location)}.union(SITUATIONS)
    places = [
        word.text for word in condition.unless if (not word.test.is_proof() if word.test else word.text in hinted)
    ]
    if all(word.text != "anywhere" for word in condition.on):
        places.append("a place that its on clause does not name")
    return list(dict.fromkeys(places))


def list_relations(device: str, sysfs: str = SYSFS) -> list[tuple[str, str]]:
    """Return the devices that send through this one, each with its relation to it (sysfs-class-net in the kernel)."""
    try:
        entries = sorted(os.listdir(f"{sysfs}/{device}"))
    except OSError:
        return []
    found = [(entry.removeprefix("upper_"), "carries") for entry in entries if entry.startswith("upper_")]
    if "brport" in entries:
        bridge = os.path.basename(os.path.realpath(f"{sysfs}/{device}/brport/bridge"))
        found = [(name, relation) for name, relation in found if name != bridge]
        found.append((bridge, "is a port of"))
    return found
