"""The library for an admin's own programs: netconf-hooks(8), PYTHON LIBRARY.

Both functions look at the network now.  They can be used in any program: a hook of ifupdown, an event script, a daemon.
They work for any user, but without root some tests are not answered: a router that the kernel does not know yet, and
all tests that send packets.
"""

from __future__ import annotations

from netconf_hooks.commands.recording import find_options
from netconf_hooks.evidence.look import observe as look, observe_everything
from netconf_hooks.guard.exemptions import make_pass
from netconf_hooks.passes import make_passes, read_rules_of
from netconf_hooks.place import find_place
from netconf_hooks.stanzas.ifenv import device_of
from netconf_hooks.stanzas.interfaces import InterfacesError, query_passes
from netconf_hooks.stanzas.rules import DEFAULT_TIMEOUT
from netconf_hooks.state import Pass, RecordError, Store, merge_options
from netconf_hooks.system.netlink import NetlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from netconf_hooks.observation import Observation, Place


class NetworkError(Exception):
    """`locate` or `observe` can't answer; the message says why."""


def observe(iface: str, timeout: float = DEFAULT_TIMEOUT) -> Observation:
    """Return everything that can be seen of an interface's network, independent of its rules.

    iface: a name as ifupdown uses it; timeout: the limit in seconds.  Usually this takes milliseconds, and longer if a
    router has to be asked for its MAC address.  No other packets are sent.

    The result's ``list_values(key)`` returns a tuple of strings, empty if there is nothing to see, for each of the test
    keys ``gateway-mac``, ``gateway``, ``dns-domain``, ``dns-server``, ``address``, ``interface``, ``mtu``,
    ``carrier``, ``ssid`` and ``bssid`` (netconf-interfaces(5), TESTS).  ``routable`` (bool): it has a default route;
    ``wireless`` (str): ``open``, ``encrypted``, or empty if it is not wireless.

    A network can announce anything.  It is only guaranteed that a domain has the syntax of a domain, and that an SSID
    is printable.

    Raises `netconf_hooks.NetworkError` if there is no such interface, or the kernel can't be asked.
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
    options: the lines to use, as ``{"netconf-location": "office gateway=192.0.2.1\\nhome ssid=attic"}``, optionally
    with ``netconf-timeout``.  By default the options that its ifup has recorded or, if it is not up, those of the
    stanza of that name in /etc/network/interfaces.

    The result has ``location`` (str): the name, empty if no line holds; ``line`` (str): the line that holds; ``grade``
    (str): ``hint`` or ``authenticated``; ``undecided`` (bool): whether a test that was not answered in time could still
    change the location.  A line that can't be read does not hold; `netconf-hooks check` reports it.

    Usually this takes milliseconds, at most the time of ``netconf-timeout`` (default: 5 seconds).
    It changes nothing.  `netconf-hooks location` prints what the hooks have decided.

    Raises `netconf_hooks.NetworkError` if there is neither an interface with rules nor a stanza of that name, if it is
    a wish (``netconf-uplink``), which is on no network, or if the kernel can't be asked.
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
