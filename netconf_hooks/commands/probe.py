"""``netconf-hooks probe``: show what is seen of the network now, with a line to paste into a stanza."""

from __future__ import annotations

from netconf_hooks.commands.entry import CommandError, OK
from netconf_hooks.commands.patience import tell_if_slow
from netconf_hooks.commands.recording import find_passes, format_observation
from netconf_hooks.commands.status import describe_portal
from netconf_hooks.evidence.look import complete_observation, observe, observe_everything
from netconf_hooks.evidence.shared_macs import find_user
from netconf_hooks.guard.exemptions import make_pass
from netconf_hooks.observation import ENCRYPTED, OPEN
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.stanzas.rules import DEFAULT_TIMEOUT, TESTS, format_test
from netconf_hooks.state import InterfaceRecord
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from netconf_hooks.observation import Observation
    from netconf_hooks.state import Store

# The line gets the first key of each row that was seen.  An announced name adds information to a MAC address; an IP
# address, which many networks share, does not.
_TELLING = (("gateway-mac", "gateway"), ("ssid",), ("dns-domain",))

# The tests that are added if many networks share the router's MAC address, and nothing better was seen.
_SECOND = ("dns-server", "gateway")

_WIRELESS = {OPEN: "wireless, not encrypted: insecure", ENCRYPTED: "wireless, encrypted", "": "not wireless"}


def probe_network(options: Namespace, store: Store) -> int:
    """``netconf-hooks probe [--json] IFACE``: look at the network now.

    It sends no more than the kernel would.  Only with ``--json`` it also asks the questions of the interface's rules.
    """
    record = InterfaceRecord(options.iface, find_passes(options.iface, store))
    with tell_if_slow(f"looking at {options.iface}"):
        seen = observe_everything(options.iface, record.options, DEFAULT_TIMEOUT)
        if seen is None:
            raise CommandError(f"{options.iface}: no such interface")
        if options.json:
            seen = _ask_rules(record, seen, store)
    if options.json:
        print(format_observation(seen))
        return OK
    for key, answer in seen.answers.items():
        found = ", ".join(answer.values) or f"nothing ({answer.problem})"
        print(log.printable(f"# {key}: {found}"))
    for line in describe_portal(seen):
        print(log.printable(f"# {line}"))
    print(f"# the link: {_WIRELESS[seen.wireless]}, {'with' if seen.routable else 'without'} a default route")
    told = [next((key for key in row if seen.list_values(key)), "") for row in _TELLING]
    macs = seen.list_values("gateway-mac")[:1]
    if user := find_user("".join(macs)):
        print(f"# gateway-mac {macs[0]} is the same in many networks ({user}), so it needs a second test")
        if not any(told[1:]):
            told.append(next((key for key in _SECOND if seen.list_values(key)), ""))
    if not any(told):
        raise CommandError(f"{options.iface}: nothing is seen that tells this network from others")
    tests = [format_test(key, seen.list_values(key)[:1]) for key in told if key]
    for line in _offer_next(options.iface, bool(record.rules.locations)):
        print(line)
    print(f"netconf-location here {' '.join(tests)}")
    return OK


def _ask_rules(record: InterfaceRecord, seen: Observation, store: Store) -> Observation:
    """Return the observation, with the answers to the questions of an interface's rules."""
    rules = record.rules
    if not rules.locations and not rules.vpns and not rules.guards:
        return seen
    with make_pass(store, device_of(record.iface), 2 * rules.timeout) as passing:
        asked = observe(record.iface, rules, record.options, announce=passing.announce)
        asked = complete_observation(asked, rules, record.options, passing.announce)
    answers = {key: answer for key, answer in asked.answers.items() if TESTS[key].asked}
    return seen.change(answers={**seen.answers, **answers})


def _offer_next(iface: str, has_rules: bool) -> list[str]:
    """Return what to do next, as comments before the line to paste."""
    beside = "beside the others" if has_rules else "with a netconf-vpn or netconf-guard line beside it"
    return [
        "#",
        f"# Next: put the line below into the stanza of {iface} in /etc/network/interfaces, with a better name than",
        f'# "here", {beside}, and look at what follows:',
        f"#     netconf-hooks check {iface}    mistakes",
        f"#     netconf-hooks plan {iface}     what would happen where",
        f"#     ifdown {iface}; ifup {iface}; netconf-hooks explain {iface}",
        "# These are hints, which somebody else can forge; a certificate is proof: tls, netconf-interfaces(5).",
        "#",
    ]
