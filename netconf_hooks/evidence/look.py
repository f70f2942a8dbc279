"""One look at the network of an interface: from its link and its rules to an `Observation`.

Cheap evidence comes first: the kernel's tables and files, then the router's MAC address, for which the router may have
to be asked, and last the tests that send packets or run a program.  Each is used only if the place can still depend on
it (`place`).  The tests of the last group all run at the same time.
"""

from __future__ import annotations

import os
from errno import EFBIG
from time import monotonic

from netconf_hooks.evidence import make_link, observe_link
from netconf_hooks.observation import ENCRYPTED, OPEN, Observation, PortalNotice
from netconf_hooks.place import (
    ROUTER_MAC, find_needed, find_open_questions, find_place, find_questions, list_relevant, list_word_tests,
    wants_proof
)  # fmt: skip
from netconf_hooks.stanzas.rules import TESTS
from netconf_hooks.system.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from netconf_hooks.evidence import Link
    from netconf_hooks.evidence.probes import Announce
    from netconf_hooks.observation import Answer
    from netconf_hooks.stanzas.rules import Location, Rules

# How long to wait for carrier of a link that has just been set up: autonegotiation takes 1 to 3 s (IEEE 802.3, clause
# 28), and ifupdown runs the hooks of a static stanza at once.
CARRIER_TIMEOUT = 3.0

# Where DHCP clients keep their leases, and what to find in a lease if the network announces a captive portal: for
# dhclient the option's name, for dhcpcd, which keeps the DHCP message itself, how the option's value may begin.
_LEASES = (
    ("/var/lib/dhcp", ("dhclient.{}.leases", "dhclient6.{}.leases", "dhclient.leases", "dhclient6.leases"),
     (b"default-url", b"captive-portal")),
    ("/var/lib/dhcpcd", ("{}.lease", "{}-", "{}.lease6"), (b"http", b"urn:ietf")),
)  # fmt: skip


def observe(
    iface: str,
    rules: Rules,
    options: Mapping[str, str],
    patience: float = CARRIER_TIMEOUT,
    announce: Announce | None = None,
    wants_portal: Callable[[], bool] = lambda: False,
) -> Observation:
    """Look at the network of an interface until its place is known and the tests in conditions are answered.

    options: of all its stanzas together; some are evidence themselves (``dns-domain``).
    patience: for how many seconds to wait for carrier.  announce: as in `probes.View`.
    wants_portal: whether to ask routers for a captive portal if no location line holds.

    Takes at most the ``netconf-timeout`` of the rules.  Raises `NetlinkError` if the kernel can't be asked.
    """
    began = monotonic()
    deadline = began + rules.timeout
    link = make_link(iface, options)
    if link.index and not link.carrier and patience:
        _wait_for_carrier(link.device, min(deadline, monotonic() + patience), rules.outside_ports)
        link = make_link(iface, options)
    answers = answer_rules(rules, link, deadline, announce)

    def asks_routers() -> bool:
        return not find_place(rules, answers).location and wants_portal()

    return _finish(link, answers, deadline, began, asks_routers)


def observe_everything(iface: str, options: Mapping[str, str], timeout: float) -> Observation | None:
    """Collect all evidence that needs no other host, except a router that is asked for its MAC address.

    options: as for `observe`; timeout: seconds that this may take.  Returns None if there is no such interface.  Raises
    `NetlinkError`.
    """
    began = monotonic()
    deadline = began + timeout
    link = make_link(iface, options)
    if not link.index:
        return None
    keys = [key for key, kind in TESTS.items() if not kind.asked]
    answers = observe_link(keys, link, deadline)
    return _finish(link, {key: answers[key] for key in keys}, deadline, began, lambda: True)


def complete_observation(
    observation: Observation, rules: Rules, options: Mapping[str, str], announce: Announce | None = None
) -> Observation:
    """Return the observation with the remaining tests answered, even if the place does not depend on them.

    This is for `explain`.  Arguments as for `observe`.
    """
    link = make_link(observation.iface, options)
    deadline = monotonic() + rules.timeout
    answers = dict(observation.answers)
    keys = {test.key for location in rules.locations for test in location.tests if not TESTS[test.key].asked}
    if missing := sorted(keys - answers.keys()):
        answers.update(observe_link(missing, link, deadline))
    if find_open_questions(rules, answers):
        from netconf_hooks.evidence.probes import announce_nothing, ask_network

        announce = announce or announce_nothing
        ask_network(lambda: find_open_questions(rules, answers), answers, link, deadline, announce)
    return observation.change(answers=answers)


def answer_rules(
    rules: Rules, link: Link, deadline: float, announce: Announce | None = None
) -> dict[str, Answer]:
    """Return what was seen for each test on which the place and the conditions depend, by key.

    deadline: don't wait for anything after this time.monotonic().
    """
    answers: dict[str, Answer] = {}
    proof = wants_proof(rules)
    relevant: Sequence[Location] = rules.locations
    while needed := find_needed(relevant, answers, proof):
        cheap = [key for key in needed if key != ROUTER_MAC]
        answers.update(observe_link(cheap or needed, link, deadline))
        relevant = list_relevant(relevant, answers, proof)  # most of a thousand lines can be skipped from here on
    words = {test.key for test in list_word_tests(rules) if not TESTS[test.key].asked} - answers.keys()
    if words:
        answers.update(observe_link(words, link, deadline))
    if find_questions(rules.change(locations=tuple(relevant)), answers, proof):
        from netconf_hooks.evidence.probes import announce_nothing, ask_network  # imported only if needed

        announce = announce or announce_nothing
        ask_network(lambda: find_questions(rules, answers, proof), answers, link, deadline, announce)
    return answers


def _finish(
    link: Link, answers: Mapping[str, Answer], deadline: float, began: float, asks_routers: Callable[[], bool]
) -> Observation:
    from netconf_hooks.evidence.radios import is_wireless
    from netconf_hooks.evidence.router import has_default_route

    wireless = ""
    if is_wireless(link.device):
        from netconf_hooks.evidence.wireless import is_wireless_open

        wireless = OPEN if is_wireless_open(link.device, deadline) else ENCRYPTED
    portal = _find_portal(link, deadline, asks_routers)
    return Observation(link.iface, link.index, answers, has_default_route(link), wireless, began, portal)


def _find_portal(link: Link, deadline: float, asks_routers: Callable[[], bool]) -> PortalNotice:
    """Return the captive portal that the network announces.

    Routers take up to half a second to answer, so they are asked only if `asks_routers` says so.
    """
    if not link.carrier:
        return PortalNotice()
    ask = _has_advertising_router(link) and asks_routers()
    if not ask and not _may_announce(link.device):
        return PortalNotice()
    from netconf_hooks.evidence.captive_portal import look_for_portal

    return look_for_portal(link, deadline, ask)


def _has_advertising_router(link: Link) -> bool:
    from netconf_hooks.evidence.router import has_advertising_router

    return has_advertising_router(link)


def _may_announce(
    device: str, leases: Sequence[tuple[str, Sequence[str], Sequence[bytes]]] = _LEASES
) -> bool:
    """Whether a DHCP client may have received a captive portal.

    leases: directories, each with the beginnings of the files' names, and what to find in the files.
    """
    for directory, beginnings, words in leases:
        starts = tuple(beginning.format(device) for beginning in beginnings)
        try:
            names = [name for name in os.listdir(directory) if name.startswith(starts)]
        except OSError:
            continue
        for name in names:
            try:
                text = read_file(f"{directory}/{name}")
            except OSError as error:
                if error.errno == EFBIG:
                    return True  # dhclient appends to it
                continue
            if any(word in text for word in words):
                return True
    return False


def _wait_for_carrier(device: str, deadline: float, outside_ports: tuple[str, ...]) -> None:
    from netconf_hooks.system.netlink import COMPOSED, LINKS, Netlink

    with Netlink((LINKS,)) as netlink:
        link = netlink.wait_for_carrier(device, deadline)
    if link and link.kind in COMPOSED:
        from netconf_hooks.evidence.ports import wait_for_carrier

        wait_for_carrier(device, outside_ports, deadline)
