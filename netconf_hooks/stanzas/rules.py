"""The rules an admin writes in /etc/network/interfaces: netconf-interfaces(5) as code.

`read_rules` parses the ``netconf-`` options of an interface into `Rules`; it never raises.  A line is split into words
at ASCII white space as in a shell, without any expansion:

- ``'...'`` takes everything literally, ``"..."`` everything except ``\\"`` and ``\\\\``; elsewhere ``\\`` takes the
  next character literally;
- an unquoted word that begins with ``#`` ends the line;
- a comma separates the values of a test; one that is quoted belongs to its value: ``ssid="Gasthof, 1. Stock"``.
"""

from __future__ import annotations

from netconf_hooks.record import Record
from netconf_hooks.stanzas.values import (
    ADDRESS, CERTIFICATE, DOMAIN, MAC, NETWORK, NUMBER, PATH, PATTERN, PEER, SERVICE, SSID, SWITCH, Syntax,
    read_host_name, read_network, read_pattern, read_port
)  # fmt: skip
from netconf_hooks.system.devices import is_device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")


class TestKind(Record):
    """The meaning of a test key.

    syntax: how its values are written, and which seen values match them.
    grade: ``hint``, ``authenticated`` or ``admin`` (the admin's own program) (netconf-interfaces(5), PROOF).
    observer: the module of `netconf_hooks.evidence` that answers it.
    asked: whether each value is a question of its own, which sends packets or runs a program
        (`netconf_hooks.evidence.probes`); otherwise the values seen for the key are compared with its values.
    single: whether a link has only one value at a time, so that tests for two different values exclude each other.
    early: whether it can be answered before the interface is configured, for a mapping script.
    """

    __slots__ = ("syntax", "grade", "observer", "asked", "single", "early")
    __test__ = False  # not a test class of pytest

    def __init__(
        self, syntax: Syntax, grade: str, observer: str, asked: bool = False, single: bool = False, early: bool = False
    ) -> None:
        self.syntax = syntax
        self.grade = grade
        self.observer = observer
        self.asked = asked
        self.single = single
        self.early = early


TESTS = {
    "gateway-mac": TestKind(MAC, "hint", "router"),
    "gateway": TestKind(ADDRESS, "hint", "router"),
    "dns-domain": TestKind(DOMAIN, "hint", "dns"),
    "dns-server": TestKind(NETWORK, "hint", "dns"),
    "address": TestKind(NETWORK, "hint", "address"),
    "interface": TestKind(PATTERN, "hint", "address", early=True),
    "mtu": TestKind(NUMBER, "hint", "mtu", single=True),
    "carrier": TestKind(SWITCH, "hint", "carrier", single=True, early=True),
    "peer": TestKind(PEER, "hint", "peer", asked=True, early=True),
    "ssid": TestKind(SSID, "hint", "wireless", single=True, early=True),
    "bssid": TestKind(MAC, "hint", "wireless", early=True),
    "reach": TestKind(SERVICE, "hint", "reach", asked=True),
    "tls": TestKind(CERTIFICATE, "authenticated", "tls", asked=True),
    "command": TestKind(PATH, "admin", "program", asked=True, early=True),
}

# The kinds of tunnels that a rule can name, each with its module in `netconf_hooks.tunnels`.
TUNNEL_KINDS = {"openvpn": "openvpn", "ipsec": "ipsec", "wireguard": "wireguard", "unit": "unit", "ifup": "ifup"}

# The words of an on or unless clause that are neither a location's name nor a test.
SITUATIONS = ("unknown", "insecure", "unroutable", "anywhere")

# Names that neither a location nor a tunnel can have.
# `netconf-hooks location` prints ``undecided`` instead of a name.
RESERVED = frozenset(("on", "unless", "yes", "no", "inet", "undecided", *SITUATIONS))

# Every option, and whether it may be repeated and numbered.  Of the others the last line wins.
OPTIONS = {
    "netconf-location": True,
    "netconf-vpn": True,
    "netconf-guard": False,
    "netconf-guard-allow": True,
    "netconf-guard-backend": False,
    "netconf-uplink": False,
    "netconf-outside-ports": False,
    "netconf-linkdown-routes": False,
    "netconf-timeout": False,
    "netconf-trust": False,
}

DEFAULT_TIMEOUT = 5.0  # seconds
MAX_TIMEOUT = 300.0  # seconds: an ifup that takes longer looks broken
MAX_NAME = 200  # characters: netconf-location@NAME.target has to stay below systemd's 255 (UNIT_NAME_MAX)

# Sets a field of a record without the check of `Record.__setattr__`, in a third of the time: a thousand lines make
# three thousand records.
_set = object.__setattr__

_MAX_DOUBTS = 3  # of one rule: each is in the log and in every record of a decision
_MAX_REASONS = 10  # for one line: with more, it is not a rule at all
_WHITE = " \t\n\v\f\r\x1c\x1d\x1e\x1f"  # ASCII characters at which str.split() splits
_NEEDS_QUOTES = frozenset(_WHITE + ",\"'\\")
_QUOTED_COMMA = "\n"  # inside a word; no line can contain a newline of its own
_LOCATION_NAME = "abcdefghijklmnopqrstuvwxyz0123456789._-"
_TUNNEL_NAME = _LOCATION_NAME + "ABCDEFGHIJKLMNOPQRSTUVWXYZ@"


class RuleError(ValueError):
    """One part of an option that can't be read.

    option: its name as written, ``netconf-vpn``; value: its line as written, None if the reason is about the option as
    a whole; reason: what was expected.
    """

    def __init__(self, option: str, value: str | None, reason: str) -> None:
        super().__init__(option, value, reason)
        self.option = option
        self.value = value
        self.reason = reason

    def __str__(self) -> str:
        written = "" if self.value is None else f" {_quote(self.value)}"
        return f"{_show(self.option)}{written}: {self.reason}"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RuleError):
            return NotImplemented
        return self.args == other.args

    def __hash__(self) -> int:
        return hash(self.args)


class Test(Record):
    """``key=value``, ``key=v1,v2``, ``!key=value``.

    values: in normal form, so that they can be compared with observed values: MAC addresses, domains, hosts and
        fingerprints in lower case, addresses as inet_ntop(3) writes them, networks always as ``ADDRESS/LENGTH`` with no
        host bits set, a domain without its final dot (and possibly beginning with ``*.``), peers as ``IP`` or
        ``IP/MAC``, services as ``HOST:PORT`` or ``[IPV6]:PORT``, names of wireless networks as `values.format_ssid`
        writes them.
    """

    __slots__ = ("key", "values", "negated")
    __test__ = False
    key: str
    values: tuple[str, ...]
    negated: bool

    def __init__(self, key: str, values: tuple[str, ...], negated: bool) -> None:
        _set(self, "key", key)
        _set(self, "values", values)
        _set(self, "negated", negated)

    @property
    def text(self) -> str:
        """The test as `format_test` writes it: two tests with the same text are the same test."""
        return format_test(self.key, self.values, self.negated)

    def is_proof(self) -> bool:
        """Whether it is more than a hint if it holds: netconf-interfaces(5), PROOF.

        A negated test proves nothing: any server can lack a certificate.
        """
        return not self.negated and TESTS[self.key].grade != "hint"


class Location(Record):
    """One ``netconf-location`` line: the link is at `name` when all `tests` hold.  text: the line as written."""

    __slots__ = ("name", "tests", "text")
    name: str
    tests: tuple[Test, ...]
    text: str

    def __init__(self, name: str, tests: tuple[Test, ...], text: str) -> None:
        _set(self, "name", name)
        _set(self, "tests", tests)
        _set(self, "text", text)


class Word(Record):
    """A WORD of a condition.

    text: a location's name, one of `SITUATIONS`, or a test's `text`.  Only the last contains ``=``, so words can be
        compared by their text.  test: the test, if it is one.
    """

    __slots__ = ("text", "test")

    def __init__(self, text: str, test: Test | None = None) -> None:
        self.text = text
        self.test = test


class Condition(Record):
    """``[on WORD...] [unless WORD...]``; without an on clause, `on` is ``anywhere``.

    A name that no location line defines is not an error here: another stanza of the interface may define it.
    """

    __slots__ = ("on", "unless")

    def __init__(self, on: tuple[Word, ...] = (Word("anywhere"),), unless: tuple[Word, ...] = ()) -> None:
        self.on = on
        self.unless = unless


class VpnRule(Record):
    """One ``netconf-vpn`` line.

    readable: whether all of it could be read; else its tunnel is neither started nor stopped, and `condition` has no
        meaning.
    doubt: why it is not certain whether its on clause holds, in words; else empty.  Such a rule stops nothing.
    """

    __slots__ = ("kind", "name", "condition", "readable", "text", "doubt")

    def __init__(
        self, kind: str, name: str, condition: Condition, readable: bool, text: str, doubt: str = ""
    ) -> None:
        self.kind = kind
        self.name = name
        self.condition = condition
        self.readable = readable
        self.text = text
        self.doubt = doubt


class GuardRule(Record):
    """``netconf-guard``: guarded if `condition` holds; never if it is None.

    readable: else it is always closed, and `condition` is "on anywhere".
    doubt: why it is not certain whether its condition holds, in words; else empty.  Such a guard stays closed.
    """

    __slots__ = ("condition", "readable", "text", "doubt")

    def __init__(self, condition: Condition | None, readable: bool, text: str, doubt: str = "") -> None:
        self.condition = condition
        self.readable = readable
        self.text = text
        self.doubt = doubt


class Unreadable(Record):
    """A line that is left out of `Rules`, because it can't be read.

    option, text: the option and the line, as written.
    name: of a location line, the location's name; empty if it is not known, so that the line may be about any location.
    place: of a location line, how many of `Rules.locations` are written before it.
    """

    __slots__ = ("option", "text", "name", "place")

    def __init__(self, option: str, text: str, name: str = "", place: int = 0) -> None:
        self.option = option
        self.text = text
        self.name = name
        self.place = place

    def __str__(self) -> str:
        return f"{_show(self.option)} {_quote(self.text)}"


class Allowance(Record):
    """One ``netconf-guard-allow`` word::

        NETWORK                     192.0.2.0/24  2001:db8::/32         everything to there
        PROTO/PORT                  udp/123                             to that port anywhere
        NETWORK:PROTO/PORT          192.0.2.7:tcp/22  [2001:db8::/32]:tcp/22
        NAME:PROTO/PORT             ntp.example.org:udp/123             to that port of this host
        in:PROTO/PORT[@NETWORK]     in:tcp/22  in:tcp/22@192.0.2.0/24   replies to connections (from there)
        lan                         the link's own prefixes, and how devices are found there

    NETWORK is an address, with or without a length; brackets are needed around IPv6 if ``:PROTO`` follows, and allowed
    elsewhere.  NAME has at least one dot.  PROTO is tcp or udp, PORT a number.

    incoming: ``in:``, replies to incoming connections; protocol: ``tcp``, ``udp`` or empty for any; port: 0 for any;
    network: ``ADDRESS/LENGTH`` or empty for any; text: the word, as `format_allowance` writes it.
    host: a name, which the guard resolves (`guard.endpoints`); lan: whether it is ``lan``, for which the guard looks at
    the link (`guard.exemptions`).  With either of them the network is empty *and does not mean any*.
    """

    __slots__ = ("incoming", "protocol", "port", "network", "text", "host", "lan")

    def __init__(
        self, incoming: bool, protocol: str, port: int, network: str, text: str, host: str = "", lan: bool = False
    ) -> None:
        self.lan = lan
        self.host = host
        self.incoming = incoming
        self.protocol = protocol
        self.port = port
        self.network = network
        self.text = text


class Rules(Record):
    """All netconf options of an interface, parsed; `errors` has a `RuleError` for everything that can't be read.

    What can't be read opens nothing: a location line is left out; a vpn line is kept as not readable, or left out if
    its kind and name are not known; a guard is closed; a line of allowances is left out; the trust is
    ``authenticated``; other options have their default.

    trust: ``hints``, ``authenticated`` or empty if not written; timeout: seconds; guard: None if not written.
    lost_locations, lost_vpns: the lines that are left out, including those of an unknown option that can only have been
        meant as one of these.  What depends on them is not certain: see `VpnRule.doubt`, `GuardRule.doubt`,
        `list_unreadable_before` and `decide.find_lost_rule`.
    outside_ports: names and shell patterns of a bridge's ports, empty if not written.
    linkdown_routes: ``ignore`` or ``keep``.
    guards: the guards that the interface asks for, one for each of its passes that has one: all must agree before it
        opens.  `guard` is the first of them.
    """

    __slots__ = (
        "locations", "vpns", "guard", "allowances", "backend", "uplinks", "timeout", "trust", "errors",
        "lost_locations", "lost_vpns", "outside_ports", "guards", "linkdown_routes",
    )  # fmt: skip

    def __init__(
        self,
        locations: tuple[Location, ...] = (),
        vpns: tuple[VpnRule, ...] = (),
        guard: GuardRule | None = None,
        allowances: tuple[Allowance, ...] = (),
        backend: str = "auto",
        uplinks: tuple[str, ...] = (),
        timeout: float = DEFAULT_TIMEOUT,
        trust: str = "",
        errors: tuple[RuleError, ...] = (),
        lost_locations: tuple[Unreadable, ...] = (),
        lost_vpns: tuple[Unreadable, ...] = (),
        outside_ports: tuple[str, ...] = (),
        guards: tuple[GuardRule, ...] | None = None,
        linkdown_routes: str = "ignore",
    ) -> None:
        self.locations = locations
        self.vpns = vpns
        self.guard = guard
        self.allowances = allowances
        self.backend = backend
        self.uplinks = uplinks
        self.timeout = timeout
        self.trust = trust
        self.errors = errors
        self.lost_locations = lost_locations
        self.lost_vpns = lost_vpns
        self.outside_ports = outside_ports
        self.linkdown_routes = linkdown_routes
        self.guards = _list_wanted([guard] if guard else []) if guards is None else guards

    def is_guarded(self) -> bool:
        """Whether there is a guard; one that can't be read counts."""
        return bool(self.guards)


def _list_wanted(guards: Sequence[GuardRule]) -> tuple[GuardRule, ...]:
    """Return the guards that must be installed: all except ``no``."""
    return tuple(guard for guard in guards if guard.condition is not None or not guard.readable)


# All results so far, by the options of each pass: a run of a hook parses the same options up to four times, and with
# guards those of each guarded interface at each decision.
_read: dict[tuple[tuple[tuple[str, str], ...], ...], Rules] = {}
_MOST_READ = 1000


def read_rules(*passes: Mapping[str, str]) -> Rules:
    """Parse the ``netconf-`` options of an interface.  Never raises: see `Rules.errors`.

    passes: the options of each of its passes, in their order (one for an interface with a single stanza): values by
        option name (``netconf-location``, ``netconf-location-2``), repeated lines joined by newlines, a parent's before
        its child's.  Options of other names are ignored.  A line that is written twice counts once.

    If an option can't be repeated, the last line of a pass wins.  If several passes have the option, all guards count,
    the strictest ``netconf-trust``, the last ``netconf-timeout`` and ``netconf-linkdown-routes``, and the first
    ``netconf-guard-backend``.
    """
    key = tuple(tuple(options.items()) for options in passes)
    if key not in _read:
        if len(_read) >= _MOST_READ:
            _read.clear()
        _read[key] = _read_passes(passes)
    return _read[key]


def _read_passes(passes: Sequence[Mapping[str, str]]) -> Rules:
    """Parse each pass by itself, merge them, and mark each rule that depends on a line that can't be read."""
    read = [_read_options(options) for options in passes]
    rules = read[0] if len(read) == 1 else _join_passes(read, passes)
    names = _list_defined(rules.locations, rules.lost_locations)
    first = _index_by_name(rules.lost_locations)
    return rules.change(
        vpns=tuple(_doubt_vpn(vpn, names, first) for vpn in rules.vpns),
        guard=_doubt_guard(rules.guard, names, first) if rules.guard else None,
        guards=tuple(_doubt_guard(guard, names, first) for guard in rules.guards),
    )


def _join_passes(rules: Sequence[Rules], passes: Sequence[Mapping[str, str]]) -> Rules:
    locations: dict[Location, None] = {}
    lost_locations: list[Unreadable] = []
    for each in rules:
        for lost in each.lost_locations:
            # `place` counts the readable location lines of all passes; a line that is written twice counts once.
            before = {**locations, **dict.fromkeys(each.locations[:lost.place])}
            lost_locations.append(lost.change(place=len(before)))
        locations.update(dict.fromkeys(each.locations))
    guards = tuple(dict.fromkeys(guard for each in rules for guard in each.guards))
    written = [each.guard for each in rules if each.guard]
    trusts = [each.trust for each in rules if each.trust]
    backends = [each.backend for each, options in zip(rules, passes) if "netconf-guard-backend" in options]
    timeouts = [each.timeout for each, options in zip(rules, passes) if "netconf-timeout" in options]
    linkdowns = [each.linkdown_routes for each, options in zip(rules, passes) if "netconf-linkdown-routes" in options]
    return Rules(
        locations=tuple(locations),
        vpns=tuple(dict.fromkeys(vpn for each in rules for vpn in each.vpns)),
        guard=next(iter((*guards, *written)), None),
        allowances=tuple(dict.fromkeys(allowance for each in rules for allowance in each.allowances)),
        backend=next(iter(backends), "auto"),
        uplinks=tuple(dict.fromkeys(uplink for each in rules for uplink in each.uplinks)),
        timeout=timeouts[-1] if timeouts else DEFAULT_TIMEOUT,
        trust="authenticated" if "authenticated" in trusts else next(iter(trusts), ""),
        errors=tuple(dict.fromkeys(error for each in rules for error in each.errors)),
        lost_locations=tuple(dict.fromkeys(lost_locations)),
        lost_vpns=tuple(dict.fromkeys(lost for each in rules for lost in each.lost_vpns)),
        outside_ports=tuple(dict.fromkeys(port for each in rules for port in each.outside_ports)),
        guards=guards,
        linkdown_routes=linkdowns[-1] if linkdowns else "ignore",
    )


def _read_options(options: Mapping[str, str]) -> Rules:
    errors: list[RuleError] = []
    lines = _gather_lines(options, errors)
    misnamed = _guess_options(options)
    lost_locations, lost_vpns = misnamed["netconf-location"], misnamed["netconf-vpn"]
    locations = _read_lines(lines["netconf-location"], _read_location, errors, lost_locations)
    vpns = _read_lines(lines["netconf-vpn"], _read_vpn, errors, lost_vpns)
    guards = _read_lines(lines["netconf-guard"], _read_guard, errors)
    for option in options:
        if option != "netconf-guard" and split_number(option)[0] == "netconf-guard":
            guards = [GuardRule(Condition(), False, options[option])]  # a guard was meant
    guards = [GuardRule(Condition(), False, line.text) for line in misnamed["netconf-guard"]] or guards
    allowances = _read_lines(lines["netconf-guard-allow"], _read_allowances, errors)
    backends = _read_lines(lines["netconf-guard-backend"], _read_backend, errors)
    uplinks = _read_lines(lines["netconf-uplink"], _read_uplinks, errors)
    errors += [
        RuleError("netconf-uplink", rule.name, f'it can\'t lead to the tunnel "{rule.text}" that is the stanza itself')
        for rule in vpns if rule.kind == "ifup" and rule.name in uplinks
    ]  # fmt: skip
    timeouts = _read_lines(lines["netconf-timeout"], read_timeout, errors)
    trusts = _read_lines(lines["netconf-trust"], _read_trust, errors)
    numbered = [option for option in options if split_number(option)[0] == "netconf-trust" != option]
    if numbered or misnamed["netconf-trust"]:
        trusts = ["authenticated"]  # more proof may have been meant
    outside_ports = _read_lines(lines["netconf-outside-ports"], _read_outside_ports, errors)
    linkdowns = _read_lines(lines["netconf-linkdown-routes"], _read_linkdown_routes, errors)
    return Rules(
        locations=tuple(locations),
        vpns=tuple(vpns),
        guard=guards[0] if guards else None,
        allowances=tuple(allowances),
        backend=backends[0] if backends else "auto",
        uplinks=tuple(uplinks),
        timeout=timeouts[0] if timeouts else DEFAULT_TIMEOUT,
        trust=trusts[0] if trusts else "",
        errors=tuple(errors),
        lost_locations=tuple(lost_locations),
        lost_vpns=tuple(lost_vpns),
        outside_ports=tuple(outside_ports),
        linkdown_routes=linkdowns[0] if linkdowns else "ignore",
    )


def list_undefined_words(rules: Rules) -> list[RuleError]:
    """Return an error for each WORD of a rule that no location defines, with the consequences.

    Another stanza of the interface may define it, so pass the rules of all stanzas together.
    """
    names = _list_defined(rules.locations, rules.lost_locations)
    found = []
    for rule in rules.vpns:
        found += [
            RuleError("netconf-vpn", rule.text, f"{reason}: {consequence}")
            for words, consequence in (
                (rule.condition.on, "the rule stops nothing"), (rule.condition.unless, "the word never holds")
            )
            for reason in _find_undefined(words, names)
        ]
    for guard in rules.guards:
        words = (*guard.condition.on, *guard.condition.unless) if guard.condition else ()
        found += [
            RuleError("netconf-guard", guard.text, f"{reason}: the guard stays closed")
            for reason in _find_undefined(words, names)
        ]
    return found


def list_doubts(rules: Rules) -> list[RuleError]:
    """Return an error for each rule that depends on a line that can't be read, with the consequences."""
    first = _index_by_name(rules.lost_locations)
    found = [
        RuleError("netconf-vpn", rule.text, f"{reason}: the rule stops nothing")
        for rule in rules.vpns
        for reason in _find_unreadable(rule.condition.on, first)
    ]
    for guard in rules.guards:
        if not guard.condition or not guard.readable or not rules.lost_locations:
            continue
        where = ""
        reasons = _find_unreadable(guard.condition.on, first)
        if not reasons:
            line = rules.lost_locations[0]
            where = " unless a line that is written before it holds" if line.place else ""
            reasons = [f"{line} can't be read"]
        found += [
            RuleError("netconf-guard", guard.text, f"{reason}: the guard stays closed{where}") for reason in reasons
        ]
    return found


def list_unreadable_before(rules: Rules, line: str) -> tuple[Unreadable, ...]:
    """Return the lines that can't be read and are written before the location line that holds.

    line: that line as written; empty if none holds: then return all of them.
    """
    place = next((number for number, location in enumerate(rules.locations) if location.text == line), None)
    return tuple(lost for lost in rules.lost_locations if place is None or lost.place <= place)


def _list_defined(locations: Sequence[Location], unreadable: Sequence[Unreadable]) -> set[str]:
    return {location.name for location in locations}.union(line.name for line in unreadable)


def _find_undefined(words: Sequence[Word], names: Collection[str]) -> list[str]:
    """Return a message for each of `words` that is not the name of a location."""
    undefined = [word.text for word in words if _is_location(word) and word.text not in names]
    return [f'no netconf-location defines "{name}"' for name in dict.fromkeys(undefined)]


def _index_by_name(unreadable: Sequence[Unreadable]) -> dict[str, Unreadable]:
    """Return the first line about each location, by its name; with an empty name, the first one about any location."""
    return {line.name: line for line in reversed(unreadable)}


def _find_unreadable(words: Sequence[Word], first: Mapping[str, Unreadable]) -> list[str]:
    """Return the lines that can't be read and are, or may be, about a location that `words` name: one for each.

    first: as `_index_by_name` returns it.
    """
    names = dict.fromkeys(word.text for word in words if _is_location(word))
    return [f"{first[name]} can't be read" for name in (*names, "") if names and name in first]


def _is_location(word: Word) -> bool:
    return word.test is None and word.text not in RESERVED


def _doubt_vpn(rule: VpnRule, names: Collection[str], first: Mapping[str, Unreadable]) -> VpnRule:
    on = rule.condition.on
    reasons = (*_find_undefined(on, names), *_find_unreadable(on, first))
    return rule.change(doubt=_join(reasons)) if reasons else rule


def _doubt_guard(rule: GuardRule, names: Collection[str], first: Mapping[str, Unreadable]) -> GuardRule:
    if rule.condition is None:
        return rule
    words = (*rule.condition.on, *rule.condition.unless)
    reasons = (*_find_undefined(words, names), *_find_unreadable(rule.condition.on, first))
    return rule.change(doubt=_join(reasons)) if reasons else rule


def _join(reasons: Sequence[str]) -> str:
    more = ["..."] if len(reasons) > _MAX_DOUBTS else []
    return "; ".join([*reasons[:_MAX_DOUBTS], *more])


def format_test(key: str, values: Sequence[str], negated: bool = False) -> str:
    """Return the test as a word of a line, quoted where it has to be."""
    text = ",".join([value if _NEEDS_QUOTES.isdisjoint(value) else _quote_value(value) for value in values])
    return f"!{key}={text}" if negated else f"{key}={text}"


def format_allowance(incoming: bool, protocol: str, port: int, network: str) -> str:
    """Return one word of a ``netconf-guard-allow`` option.  network: or the name of a host."""
    if not protocol:
        return network
    service = f"{protocol}/{port}"
    if incoming:
        return f"in:{service}@{network}" if network else f"in:{service}"
    if not network:
        return service
    return f"[{network}]:{service}" if ":" in network else f"{network}:{service}"


# Lines and words


def _gather_lines(options: Mapping[str, str], errors: list[RuleError]) -> dict[str, dict[str, str]]:
    """Return, for each of `OPTIONS`, its lines in order, each with the option that it was written under.

    An option without any line counts as one empty line, which every reader reports.
    """
    lines: dict[str, dict[str, str]] = {option: {} for option in OPTIONS}
    numbered: list[tuple[str, int, str]] = []
    for option in options:
        if option.startswith("netconf-"):
            base, number = split_number(option)
            if base:
                numbered.append((base, number, option))
            else:
                reason = f"no such option; there are {', '.join(OPTIONS)}"
                errors += [RuleError(option, line, reason) for line in dict.fromkeys(options[option].split("\n"))]
    numbered.sort()
    for base, number, option in numbered:
        written = [line for line in options[option].split("\n") if line.strip(_WHITE)] or [""]
        if OPTIONS[base]:
            # If a line is written twice, the first one counts: its place in the order, and its option.
            lines[base] = {**lines[base], **dict.fromkeys(written, option), **lines[base]}
        elif number < 0:
            lines[base] = {written[-1]: option}
        else:
            errors.append(RuleError(option, written[-1], f"{base} takes no number: its last line wins"))
    return lines


def _guess_options(options: Mapping[str, str]) -> dict[str, list[Unreadable]]:
    """Return the lines of unknown options, by the option that they can only have been meant as.

    The position of their location lines in the order is not known: they count as written before all others.
    """
    found: dict[str, list[Unreadable]] = {
        "netconf-location": [], "netconf-vpn": [], "netconf-guard": [], "netconf-trust": []
    }  # fmt: skip
    for option, value in options.items():
        if not option.startswith("netconf-") or split_number(option)[0]:
            continue
        for line in value.split("\n"):
            first, *others = split_words(line, []) or [""]
            if first in TUNNEL_KINDS:
                found["netconf-vpn"].append(Unreadable(option, line))
            elif first in ("yes", "on", "unless"):
                if option.startswith("netconf-g"):
                    found["netconf-guard"].append(Unreadable(option, line))
            elif [first, *others] == ["authenticated"]:
                found["netconf-trust"].append(Unreadable(option, line))
            elif any("=" in word for word in others):
                found["netconf-location"].append(Unreadable(option, line))
    return found


def split_number(option: str) -> tuple[str, int]:
    """Return which of `OPTIONS` this is ("" for none), and its number (-1 for the plain one)."""
    if option in OPTIONS:
        return option, -1
    base, _, digits = option.rpartition("-")
    # int() refuses very long numbers (sys.set_int_max_str_digits); nobody needs such numbers.
    if base in OPTIONS and digits.isascii() and digits.isdecimal() and len(digits) < 10:
        return base, int(digits)
    return "", -1


def split_words(line: str, reasons: list[str]) -> list[str]:
    """Return the words of a line; if a quote is not closed, the words before it."""
    if line.isascii() and "\\" not in line and '"' not in line and "'" not in line and "#" not in line:
        words = line.split()
    else:
        words, broken = _split_quoted(line)
        if broken:
            reasons.append(broken)
            return words
    if not words:
        reasons.append("nothing is written there")
    return words


def _split_quoted(line: str) -> tuple[list[str], str]:
    """Return the words of a line and, if a quote is not closed, the reason.  Quoted commas are marked."""
    words: list[str] = []
    word: list[str] = []
    inside = False  # a word; also an empty one if it is quoted
    quote = ""
    start = at = 0
    while at < len(line):
        char = line[at]
        at += 1
        if quote:
            if char == quote:
                quote = ""
                continue
            if char == "\\" and quote == '"' and line[at:at + 1] in ('"', "\\"):
                char = line[at]
                at += 1
            word.append(_QUOTED_COMMA if char == "," else char)
        elif char in _WHITE:
            if inside:
                words.append("".join(word))
                word.clear()
                inside = False
        elif char == "#" and not inside:
            return words, ""
        else:
            inside = True
            if char in "\"'":
                quote, start = char, at - 1
                continue
            if char == "\\":
                if at == len(line):
                    return words, "nothing follows the backslash at its end"
                char = line[at]
                at += 1
                word.append(_QUOTED_COMMA if char == "," else char)
            else:
                word.append(char)
    if quote:
        return words, f"a quote is opened and not closed: {_show(line[start:])}"
    if inside:
        words.append("".join(word))
    return words, ""


def _quote_value(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _show(text: str) -> str:
    """Return `text` for a message: shortened, and without characters that control a terminal or a log."""
    if len(text) > 300:
        text = text[:300] + "..."
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def _quote(word: str) -> str:
    return f'"{_show(word.replace(_QUOTED_COMMA, ","))}"'


# Options.  Each reader returns the value of its line.  If it can't read the line, it appends to `reasons` and returns a
# value that opens nothing.


def _read_lines(
    lines: Mapping[str, str],
    read: Callable[[str, list[str]], tuple[T, ...]],
    errors: list[RuleError],
    unreadable: list[Unreadable] | None = None,
) -> list[T]:
    """Return the values that `read` finds in the lines (each mapped to its option), and add to `errors`.

    unreadable: gets the lines without a value.
    """
    found: list[T] = []
    for line, option in lines.items():
        reasons: list[str] = []
        read_from_line = read(line, reasons)
        if not read_from_line and unreadable is not None:
            name = _find_location_name(line) if read is _read_location else ""
            unreadable.append(Unreadable(option, line, name, len(found)))
        found += read_from_line
        for reason in reasons:
            errors.append(RuleError(option, line, reason))
    return found


def _find_location_name(line: str) -> str:
    """Return the location's name in a line that can't be read; empty if the name itself can't be read."""
    words = split_words(line, [])
    return words[0] if words and _is_name(words[0], _LOCATION_NAME) else ""


def _read_location(line: str, reasons: list[str]) -> tuple[Location, ...]:
    words = split_words(line, reasons)
    if not words:
        return ()
    name = words[0]
    _check_name(name, "location", _LOCATION_NAME, reasons)
    tests = read_tests(words[1:], reasons)
    if len(words) == 1 and not reasons:
        reasons.append(f"expected at least one test after {_quote(name)}")
    return () if reasons else (Location(name, tests, line),)


def _read_vpn(line: str, reasons: list[str]) -> tuple[VpnRule, ...]:
    words = split_words(line, reasons)
    if not words:
        return ()
    kind, name, clauses = words[0], words[1:2], words[2:]
    if name and name[0] in ("on", "unless"):
        name, clauses = [], words[1:]
    if kind not in TUNNEL_KINDS:
        reasons.append(f"expected a kind of tunnel ({', '.join(TUNNEL_KINDS)}), not {_quote(kind)}")
    if not name and not reasons:
        reasons.append(f"expected the tunnel's name after {_quote(kind)}")
    named = bool(name) and _check_name(name[0], "tunnel", _TUNNEL_NAME, reasons)
    condition = _read_condition(clauses, reasons)
    if kind not in TUNNEL_KINDS or not named:
        return ()
    return (VpnRule(kind, name[0], Condition((), ()) if reasons else condition, not reasons, line),)


def find_tunnel_errors(kind: str, name: str) -> list[str]:
    """Return the errors in the name of a tunnel, in words; none if a rule can name it."""
    reasons: list[str] = []
    if kind not in TUNNEL_KINDS:
        reasons.append(f"expected a kind of tunnel ({', '.join(TUNNEL_KINDS)}), not {_quote(kind)}")
    _check_name(name, "tunnel", _TUNNEL_NAME, reasons)
    return reasons


def _read_guard(line: str, reasons: list[str]) -> tuple[GuardRule, ...]:
    words = split_words(line, reasons)
    if words == ["no"] and not reasons:
        return (GuardRule(None, True, line),)
    condition = Condition()
    if words and words != ["yes"]:
        if words[0] in ("on", "unless"):
            condition = _read_condition(words, reasons)
        elif words[0] in ("yes", "no") and len(words) > 1:
            reasons.append(f'expected nothing after "{words[0]}"')
        elif words != ["no"]:
            reasons.append(f'expected "yes", "no", "on" or "unless", not {_quote(words[0])}')
    return (GuardRule(Condition() if reasons else condition, not reasons, line),)


def _read_condition(words: Sequence[str], reasons: list[str]) -> Condition:
    """Read ``[on WORD...] [unless WORD...]``: in either order, each at most once, each with at least one word."""
    clauses: dict[str, list[Word]] = {}
    clause = ""
    for word in words:
        if len(reasons) >= _MAX_REASONS:
            break
        if word in ("on", "unless"):
            if word in clauses:
                reasons.append(f'"{word}" is written twice')
            clause = word
            clauses.setdefault(clause, [])
        elif not clause:
            reasons.append(f'expected "on" or "unless", not {_quote(word)}')
            break
        elif "=" in word:
            clauses[clause] += [Word(test.text, test) for test in read_tests((word,), reasons)]
        elif word in SITUATIONS or _is_name(word, _LOCATION_NAME):
            clauses[clause].append(Word(word))
        else:
            reasons.append(f"expected a location's name, a test or one of {', '.join(SITUATIONS)}, not {_quote(word)}")
    for clause, found in clauses.items():
        if not found and not reasons:
            reasons.append(f'expected at least one word after "{clause}"')
    on = clauses.get("on")
    return Condition(Condition().on if on is None else tuple(on), tuple(clauses.get("unless", ())))


def _read_allowances(line: str, reasons: list[str]) -> tuple[Allowance, ...]:
    allowances = []
    for word in split_words(line, reasons):
        if len(reasons) >= _MAX_REASONS:
            break
        allowance = _read_allowance(word)
        if allowance.text:
            allowances.append(allowance)
        else:
            reasons.append(
                "expected something like 192.0.2.0/24, udp/123, 192.0.2.7:tcp/22, [2001:db8::7]:tcp/22, "
                f"ntp.example.org:udp/123, in:tcp/22, in:tcp/22@192.0.2.0/24 or lan, not {_quote(word)}"
            )
    return () if reasons else tuple(allowances)


def _read_allowance(word: str) -> Allowance:
    """Return what the word allows; with an empty text if it can't be read."""
    unreadable = Allowance(False, "", 0, "", "")
    if word == "lan":
        return Allowance(False, "", 0, "", word, lan=True)
    incoming = word.startswith("in:")
    host = ""
    if incoming:
        service, at, network = word[3:].partition("@")
        if at and not network:
            return unreadable
    elif word.startswith("["):
        network, bracket, service = word.partition("]")
        network += bracket
        if service and not service.startswith(":"):
            return unreadable
        service = service[1:] if len(service) > 1 else service
    elif word.startswith(("tcp/", "udp/")):
        network, service = "", word
    elif word.count(":") == 1:  # more are IPv6
        network, _, service = word.partition(":")
        if not (network and service):
            return unreadable
    else:
        network, service = word, ""
    if network:
        if network.startswith("["):
            if not network.endswith("]") or ":" not in network:
                return unreadable
            network = network[1:-1]
        elif service and not incoming:
            host = _read_allowed_host(network)
        network = "" if host else read_network(network)
        if not (network or host):
            return unreadable
    protocol = ""
    port = 0
    if service or incoming:
        protocol, _, digits = service.partition("/")
        port = read_port(digits)
        if protocol not in ("tcp", "udp") or not port:
            return unreadable
    text = format_allowance(incoming, protocol, port, host or network)
    return Allowance(incoming, protocol, port, network, text, host)


def _read_allowed_host(text: str) -> str:
    """Return the name of a host, with at least one dot; empty for an address, and for anything else."""
    name = read_host_name(text)
    return name if "." in name and not name.rpartition(".")[2].isdecimal() else ""


def _read_backend(line: str, reasons: list[str]) -> tuple[str, ...]:
    words = split_words(line, reasons)
    if not reasons and (len(words) != 1 or words[0] not in ("auto", "nftables", "iptables")):
        reasons.append('expected "auto", "nftables" or "iptables"')
    return () if reasons else tuple(words)


def _read_uplinks(line: str, reasons: list[str]) -> tuple[str, ...]:
    words = split_words(line, reasons)
    for word in words:
        if not (word.isascii() and is_device(word)) and len(reasons) < _MAX_REASONS:
            reasons.append(f"expected the name of an interface, not {_quote(word)}")
    return () if reasons else tuple(words)


def _read_outside_ports(line: str, reasons: list[str]) -> tuple[str, ...]:
    words = split_words(line, reasons)
    for word in words:
        if not (read_pattern(word) and word.isascii() and _QUOTED_COMMA not in word) and len(reasons) < _MAX_REASONS:
            reasons.append(f"expected the name of a device or a pattern like eth*, not {_quote(word)}")
    return () if reasons else tuple(words)


def _read_linkdown_routes(line: str, reasons: list[str]) -> tuple[str, ...]:
    words = split_words(line, reasons)
    if not reasons and (len(words) != 1 or words[0] not in ("ignore", "keep")):
        reasons.append('expected "ignore" or "keep"')
    return () if reasons else tuple(words)


def read_timeout(line: str, reasons: list[str]) -> tuple[float, ...]:
    words = split_words(line, reasons)
    digits = words[0].replace(".", "", 1) if len(words) == 1 and not reasons else ""
    # Not float() alone: it also accepts nan, inf, 1e3, 1_0 and the digits of other scripts.
    if digits.isascii() and digits.isdecimal() and len(digits) < 20 and 0 < float(words[0]) <= MAX_TIMEOUT:
        return (float(words[0]),)
    if not reasons:
        reasons.append(f"expected seconds: a number above 0, at most {MAX_TIMEOUT:.0f}")
    return ()


def _read_trust(line: str, reasons: list[str]) -> tuple[str, ...]:
    words = split_words(line, reasons)
    if not reasons and (len(words) != 1 or words[0] not in ("hints", "authenticated")):
        reasons.append('expected "hints" or "authenticated"')
    # The admin may want more proof than the default requires: a typo must not require less.
    return ("authenticated",) if reasons else tuple(words)


# Names, tests and their values


def _is_name(word: str, characters: str) -> bool:
    """Whether a word is a name that can become part of a path, a unit's name or a script's environment."""
    return (
        word not in RESERVED
        and not word.strip(characters)
        and word[:1].isalnum()  # so not "", not "..", and not an option of a program
        and len(word) <= MAX_NAME
    )


def _check_name(word: str, what: str, characters: str, reasons: list[str]) -> bool:
    if _is_name(word, characters):
        return True
    if word in RESERVED:
        reasons.append(f'"{word}" can\'t be the name of a {what}: the word has a meaning of its own')
    else:
        more = "upper case letters and @, " if "@" in characters else ""
        reasons.append(
            f"expected the name of a {what}, not {_quote(word)}: lower case letters, digits, {more}then also . _ - "
            f"(at most {MAX_NAME} characters)"
        )
    return False


def read_tests(words: Sequence[str], reasons: list[str]) -> tuple[Test, ...]:
    """Return the tests in `words`; those that can't be read are reported and left out."""
    tests = []
    for word in words:
        if len(reasons) >= _MAX_REASONS:
            break
        key, equals, written = word.partition("=")
        negated = key[:1] == "!"
        if negated:
            key = key[1:]
        kind = TESTS.get(key)
        if not equals:
            reasons.append(f"expected a test (KEY=VALUE), not {_quote(word)}")
            continue
        if kind is None:
            reasons.append(f"no such test: {_quote(key)}; there are {', '.join(TESTS)}")
            continue
        parts = written.split(",")
        if _QUOTED_COMMA in written:
            parts = [part.replace(_QUOTED_COMMA, ",") for part in parts]
        values = tuple(map(kind.syntax.read, parts))
        if all(values):
            tests.append(Test(key, values, negated))
            continue
        wrong = [part for part, value in zip(parts, values) if not value]
        reasons += [
            f"expected {kind.syntax.expected} after {key}=, not {_quote(part)}"
            for part in wrong[:_MAX_REASONS - len(reasons)]
        ]
    return tuple(tests)
