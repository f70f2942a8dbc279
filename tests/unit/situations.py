"""Interfaces' records as tests write them: by what matters, the rest is made up."""

from netconf_hooks.observation import Answer, OPEN, Observation, Place
from netconf_hooks.stanzas.rules import Rules
from netconf_hooks.state import InterfaceRecord, PresenceRecord


def make_record(
    iface, index=0, passes=(), location="", line="", grade="", undecided=False, routable=False, wireless="", words=None,
    seen=None, wish=False, raised=(), looked=0.0,
):  # fmt: skip
    """Return an interface's record.

    words: the verdicts on tests that are words; seen: by test key, values or an `Answer`; wireless: whether it is
    ``open`` or ``encrypted``.
    """
    answers = {
        key: found if isinstance(found, Answer) else Answer(tuple(found)) for key, found in (seen or {}).items()
    }
    return InterfaceRecord(
        iface,
        passes,
        Observation(iface, index, answers, routable, wireless, looked),
        Place(location, line, grade, undecided, words),
        wish,
        raised,
    )


class _Verdicts(dict):
    """The verdicts on tests that are words; one that is not mentioned does not hold."""

    def get(self, text, default=None):
        """As dict.get."""
        return super().get(text, False)


class Situation(InterfaceRecord):
    """The record of an interface with rules that were read already, by the facts that decisions depend on.

    tests: those that hold, of the tests that are words; open_tests: those that were not answered; earlier: the location
    lines that can't be read and are written before the one that holds.
    """

    __slots__ = (
        "vpns", "trust", "location", "grade", "undecided", "routable", "wireless_open", "tests", "open_tests",
    )  # fmt: skip

    def __init__(
        self, iface, vpns=(), trust="", location="", grade="", undecided=False, routable=True, wireless_open=False,
        tests=frozenset(), open_tests=frozenset(), wish=False, earlier=(), lost_vpns=(),
    ):  # fmt: skip
        words = _Verdicts({**dict.fromkeys(open_tests), **dict.fromkeys(tests, True)})
        super().__init__(
            iface,
            (),
            Observation(iface, 7, {}, routable, OPEN if wireless_open else "", 1.0),
            Place(location, "", grade, undecided, words),
            wish,
        )
        self._rules = Rules(vpns=vpns, trust=trust, lost_locations=earlier, lost_vpns=lost_vpns)
        self.vpns, self.trust, self.location, self.grade, self.undecided = vpns, trust, location, grade, undecided
        self.routable, self.wireless_open, self.tests, self.open_tests = routable, wireless_open, tests, open_tests

    def change(self, **facts):
        """Return a situation that differs in some facts."""
        mine = {name: getattr(self, name) for name in ("iface", "wish", *self.__slots__)}
        return Situation(**{**mine, **facts})


class Presence(PresenceRecord):
    """A presence of which it does not matter what its event scripts are told."""

    __slots__ = ("name", "ifaces", "variables")

    def __init__(self, name, ifaces, variables=None):
        super().__init__(name, ifaces, variables or {})

    def __eq__(self, other):
        return (self.name, self.ifaces) == (other.name, other.ifaces)
