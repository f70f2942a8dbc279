"""The result of one look at a network, and the place that follows from it.

`netconf_hooks.evidence` makes an `Observation`.  It goes unchanged through `place`, `state` and `decide`; events,
``status`` and ``explain`` report it.
"""

from __future__ import annotations

from netconf_hooks.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# The values of `Observation.wireless` for a wireless link.
OPEN, ENCRYPTED = "open", "encrypted"


class Answer(Record):
    """The observed values of one test key.

    values: what was seen, normalised as `rules` normalises the values of tests (MAC addresses and domains in lower
        case, IP addresses as inet_ntop(3) writes them); empty if there is nothing to see.
    pending: whether there was too little time to see everything; such an answer can prove a test, but not refute it.
    problem: why nothing (or not everything) was seen, for `explain` and the log; else empty.

    Only for a key whose values are asked one by one (`rules.TestKind.asked`):

    settled: the values that are answered, or can't be answered at all; all others are unanswered.
    refuted: the settled values that were answered with no.
    """

    __slots__ = ("values", "pending", "problem", "settled", "refuted")

    def __init__(
        self,
        values: tuple[str, ...] = (),
        pending: bool = False,
        problem: str = "",
        settled: tuple[str, ...] = (),
        refuted: tuple[str, ...] = (),
    ) -> None:
        self.values = values
        self.pending = pending
        self.problem = problem
        self.settled = settled
        self.refuted = refuted


class Ports(Record):
    """The devices that a link is made of.

    bridge: whether the link is a bridge; outside: its ports that may lead outside, by name; guests: the ports that are
    known to be guests'; others: the ports of all other bridges.  `guests` and `others` are interface indexes, which the
    kernel never reuses: a device that gets a guest's name later does not count as a guest.
    """

    __slots__ = ("bridge", "outside", "guests", "others")

    def __init__(
        self,
        bridge: bool = False,
        outside: tuple[str, ...] = (),
        guests: tuple[int, ...] = (),
        others: tuple[int, ...] = (),
    ) -> None:
        self.bridge = bridge
        self.outside = outside
        self.guests = guests
        self.others = others


class PortalNotice(Record):
    """The captive portal that a network announces (RFC 8910).

    uris: web addresses, checked; problem: what was announced but is not used, and why, in words; else empty.
    macs: the MAC addresses of the default routers, as far as known: they identify the network later.
    """

    __slots__ = ("uris", "problem", "macs")

    def __init__(self, uris: tuple[str, ...] = (), problem: str = "", macs: tuple[str, ...] = ()) -> None:
        self.uris = uris
        self.problem = problem
        self.macs = macs


class Observation(Record):
    """The result of one look at the network of an interface.

    iface: the interface's name in ifupdown.
    index: the ifindex of its device, 0 if there is no such device.
    answers: an `Answer` for each test key (netconf-interfaces(5), TESTS) that was looked at.
    routable: whether the link has a default route.
    wireless: ``open`` or ``encrypted``; empty for a link that is not wireless.
    observed_at: when the look began, time.monotonic().
    portal: the captive portal that the network announces.
    """

    __slots__ = ("iface", "index", "answers", "routable", "wireless", "observed_at", "portal")

    def __init__(
        self,
        iface: str,
        index: int = 0,
        answers: Mapping[str, Answer] | None = None,
        routable: bool = False,
        wireless: str = "",
        observed_at: float = 0.0,
        portal: PortalNotice | None = None,
    ) -> None:
        self.iface = iface
        self.index = index
        self.answers = {} if answers is None else answers
        self.routable = routable
        self.wireless = wireless
        self.observed_at = observed_at
        self.portal = portal or PortalNotice()

    def list_values(self, key: str) -> tuple[str, ...]:
        """Return the values that were seen for a test key; none if nothing was seen."""
        return self.answers[key].values if key in self.answers else ()


class Place(Record):
    """The location of a link, by the rules of its interface.

    location: the name, empty if no line holds; line: the line that holds, as written; grade: ``authenticated`` if it is
        proven, by a certificate or by the admin's own program, else ``hint``; empty if no line holds.
    undecided: whether the answer to an unanswered test could still change the location.
    words: the verdict on each test that a condition uses as a word, by the test as written: True, False, or None if it
        was not answered in time.
    """

    __slots__ = ("location", "line", "grade", "undecided", "words")

    def __init__(
        self,
        location: str = "",
        line: str = "",
        grade: str = "",
        undecided: bool = False,
        words: Mapping[str, bool | None] | None = None,
    ) -> None:
        self.location = location
        self.line = line
        self.grade = grade
        self.undecided = undecided
        self.words = {} if words is None else words
