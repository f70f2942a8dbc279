"""What an admin's own program may ask: netconf-hooks(8), PYTHON LIBRARY.

Both functions look at the network now, in a program of any kind: a hook of ifupdown, an event script, a daemon.  Both
work for any user; what only root may ask (a router that the kernel does not know yet, everything that is sent for a
test) is then not answered.
"""

from __future__ import annotations

from netconf_hooks import NetworkError
from netconf_hooks.commands.recording import find_options
from netconf_hooks.evidence.look import observe as look, observe_everything
from netconf_hooks.guard.exemptions import make_pass
from netconf_hooks.ifenv import device_of
from netconf_hooks.interfaces import InterfacesError, query_passes
from netconf_hooks.passes import make_passes, read_rules_of
from netconf_hooks.place import find_place
from netconf_hooks.rules import DEFAULT_TIMEOUT
from netconf_hooks.state import Pass, RecordError, Store, merge_options
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from netconf_hooks.observation import Observation, Place


def observe(iface: str, timeout: float = DEFAULT_TIMEOUT) -> Observation:
    """Return all that is seen of the network that an interface is on, whatever its rules are.

    iface: a name as ifupdown uses it; timeout: seconds that it may take: usually milliseconds, more where a router has
    to be asked for its MAC address.  Nothing else is sent.

    Of the result, ``list_values(key)`` is a tuple of strings, empty where there is nothing to see, for each of the test
    keys ``gateway-mac``, ``gateway``, ``dns-domain``, ``dns-server``, ``address``, ``interface``, ``carrier``, ``ssid``
    and ``bssid`` (netconf-interfaces(5), TESTS); ``routable`` (bool): it has a default route; ``wireless`` (str):
    ``open``, ``encrypted``, or empty where it is not wireless.

    What the network says of itself is whatever it likes to say: a domain is the text of one and an SSID printable, no
    more than that is certain.

    Raises `netconf_hooks.NetworkError` where there is no such interface, or the kernel can't be asked.
    """
    try:
        seen = observe_everything(iface, find_options(iface, Store()), timeout)
    except (NetlinkError, OSError, RecordError) as error:
        raise NetworkError(f"{iface}: {error}") from error
    if seen is None:
        raise NetworkError(f"{iface}: no such interface")
    return seen


def locate(iface: str, options: Mapping[str, str] | None = None) -> Place:
    """Return where an interface is, by its ``netconf-location`` lines.

    iface: a name as ifupdown uses it.
    options: the lines to go by, as ``{"netconf-location": "office gateway=192.0.2.1\\nhome ssid=attic"}``, and perhaps
    ``netconf-timeout``; if not given those that its ifup recorded, or, where it is not up, those in the stanza of that
    name in /etc/network/interfaces.

    Of the result, ``location`` (str) is the name, empty where no line holds; ``line`` (str) the line that does;
    ``grade`` (str) ``hint`` or ``authenticated``; ``undecided`` (bool): a test that could not be answered in time might
    still name another location.  A line that can't be read does not hold: `netconf-hooks check` says so.

    Takes at most the time of ``netconf-timeout``, 5 seconds where it is not given; usually milliseconds.
    Decides nothing and changes nothing: what the hooks decided is told by `netconf-hooks location`.

    Raises `netconf_hooks.NetworkError` where there is neither an interface with rules nor a stanza of that name, where
    it is a wish (``netconf-uplink``), which is on no network, and where the kernel can't be asked.
    """
    try:
        passes = (Pass("any", dict(options)),) if options is not None else _find_passes(iface)
        rules = read_rules_of(passes)
        if rules.uplinks:
            raise NetworkError(f"{iface}: a wish is on no network")
        with make_pass(Store(), device_of(iface), rules.timeout) as passing:
            seen = look(iface, rules, merge_options(passes), 0.0, passing.announce)
    except InterfacesError as error:
        raise NetworkError(str(error)) from error  # it names the interface itself
    except (NetlinkError, OSError, RecordError) as error:
        raise NetworkError(f"{iface}: {error}") from error
    return find_place(rules, seen.answers)


def _find_passes(iface: str) -> tuple[Pass, ...]:
    record = Store().read_interface(iface)
    return record.passes if record else make_passes(iface, query_passes(iface))
