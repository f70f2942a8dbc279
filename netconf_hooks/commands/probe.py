"""``netconf-hooks probe``: show what is seen of the network now, with a line to paste into a stanza."""

from __future__ import annotations

from netconf_hooks.commands.entry import CommandError, OK
from netconf_hooks.commands.recording import find_options, format_observation
from netconf_hooks.evidence.look import observe_everything
from netconf_hooks.observation import ENCRYPTED, OPEN
from netconf_hooks.rules import DEFAULT_TIMEOUT, format_test
from netconf_hooks.system import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from netconf_hooks.state import Store

# The tests of the line: from each row the first key that was seen.  An announced name adds information to a MAC
# address; an IP address, which many networks share, does not.
_TELLING = (("gateway-mac", "gateway"), ("ssid",), ("dns-domain",))

_WIRELESS = {OPEN: "wireless, not encrypted: insecure", ENCRYPTED: "wireless, encrypted", "": "not wireless"}


def probe_network(options: Namespace, store: Store) -> int:
    """``netconf-hooks probe [--json] IFACE``: look at the network now; send no more than the kernel would."""
    seen = observe_everything(options.iface, find_options(options.iface, store), DEFAULT_TIMEOUT)
    if seen is None:
        raise CommandError(f"{options.iface}: no such interface")
    if options.json:
        print(format_observation(seen))
        return OK
    for key, answer in seen.answers.items():
        found = ", ".join(answer.values) or f"nothing ({answer.problem})"
        print(log.printable(f"# {key}: {found}"))
    print(f"# the link: {_WIRELESS[seen.wireless]}, {'with' if seen.routable else 'without'} a default route")
    told = [next((key for key in row if seen.list_values(key)), "") for row in _TELLING]
    if not any(told):
        raise CommandError(f"{options.iface}: nothing is seen that tells this network from others")
    tests = [format_test(key, seen.list_values(key)[:1]) for key in told if key]
    print(f"netconf-location here {' '.join(tests)}")
    return OK
