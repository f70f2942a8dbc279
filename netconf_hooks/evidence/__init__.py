"""What can be seen of the network: one module for each kind of evidence.

Observers return data and change nothing.  A module that `rules.TESTS` names answers the tests of its keys.  The others
serve these (`connection`, `dhclient`, `names`, `probes`, ...), the watcher (`fingerprint`), `settle` (`current`), or
mapping scripts (`scan`).

Evidence in the kernel's tables and in files does not depend on the value that a test names.  Such a module has one
function, which only `observe_link` below calls::

    def observe(keys: Collection[str], link: Link, deadline: float) -> dict[str, Answer]: ...

Evidence that needs packets or a program (`TestKind.asked`) is asked for each value.  Such a module has one generator,
and `probes.ask_network` runs all of these at the same time::

    def ask(question: Question, view: View) -> Steps: ...
"""

from __future__ import annotations

from netconf_hooks.record import Record
from netconf_hooks.stanzas.rules import TESTS, read_rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from netconf_hooks.observation import Answer


class Link(Record):
    """The interface to look at: its name in ifupdown, and its state in the kernel.

    iface: the name ifupdown uses (``eth0``, ``eth0:1``).
    device: the kernel's device (``eth0``).
    index: its ifindex; 0 if there is no such device.
    carrier: whether it is set up and something is plugged in (IFF_LOWER_UP, netdevice(7)); for a link made of others,
        whether one of its ports has carrier (`ports.has_carrier`).
    options: the stanza's options that are evidence themselves (``dns-domain``, ``dns-search``, ``dns-nameservers``,
        resolvconf(8)), by option name.
    composed: whether it is made of other links (`netlink.COMPOSED`).
    """

    __slots__ = ("iface", "device", "index", "carrier", "options", "composed")

    def __init__(
        self,
        iface: str,
        device: str,
        index: int,
        carrier: bool,
        options: Mapping[str, str],
        composed: bool = False,
    ) -> None:
        self.iface = iface
        self.device = device
        self.index = index
        self.carrier = carrier
        self.options = options
        self.composed = composed


def make_link(iface: str, options: Mapping[str, str]) -> Link:
    """Return the interface's current state, with the stanza's options that are evidence themselves."""
    from netconf_hooks.stanzas.ifenv import device_of
    from netconf_hooks.system.netlink import COMPOSED, read_link

    device = device_of(iface)
    status = read_link(device)
    carrier = bool(status and status.carrier)
    composed = status is not None and status.kind in COMPOSED
    if status and carrier and composed:
        from netconf_hooks.evidence.ports import has_carrier

        carrier = has_carrier(status, read_rules(options).outside_ports)
    return Link(
        iface=iface,
        device=device,
        index=status.index if status else 0,
        carrier=carrier,
        options={option: value for option, value in options.items() if not option.startswith("netconf-")},
        composed=composed,
    )


def observe_link(keys: Collection[str], link: Link, deadline: float) -> dict[str, Answer]:
    """Return an `Answer` for each of `keys`, asking each module of this package at most once.

    keys: no keys whose values are asked one by one.
    deadline: don't wait for anything after this time.monotonic().
    """
    answers: dict[str, Answer] = {}
    for observer in sorted({TESTS[key].observer for key in keys}):
        # Not importlib.import_module, which does the same, but importing importlib takes 0.45 ms.
        module = __import__(f"{__name__}.{observer}", fromlist=("observe",))
        answers.update(module.observe([key for key in keys if TESTS[key].observer == observer], link, deadline))
    return answers
