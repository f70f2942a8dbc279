"""What an answer of a name server says."""

from __future__ import annotations

import sys
import time

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence import Link, names
from netconf_hooks.evidence.names import (
    MOST_AT_ONCE, Reply, Resolution, is_address, is_usable, look_up, read_reply, resolve
)  # fmt: skip
from netconf_hooks.evidence.probes import View, Wait
from netconf_hooks.observation import Answer

QUERY = dns.message.make_query("www.example.com", "A", use_edns=0, id=4711)


def answer(*records, code=dns.rcode.NOERROR, query=QUERY):
    """Return an answer in wire format; records: owner, type, data."""
    made = dns.message.make_response(query)
    made.set_rcode(code)
    for owner, kind, *data in records:
        made.answer.append(dns.rrset.from_text(owner, 60, "IN", kind, *data))
    return made.to_wire()


WWW = "www.example.com."


ANSWERS = {
    "two addresses": (answer((WWW, "A", "192.0.2.1", "192.0.2.2")), {"192.0.2.1", "192.0.2.2"}),
    "an alias": (answer((WWW, "CNAME", "a.example."), ("a.example.", "A", "192.0.2.1")), {"192.0.2.1"}),
    "lies": (answer((WWW, "A", "127.0.0.1", "0.0.0.0", "192.0.2.1", "255.255.255.255")), {"192.0.2.1"}),
    "only lies": (answer((WWW, "A", "127.0.0.1")), "none"),
    "no address": (answer(), "none"),
    "somebody else's": (answer(("other.example.", "A", "192.0.2.1")), "none"),
    "no such name": (answer(code=dns.rcode.NXDOMAIN), "none"),
    "a failure": (answer(code=dns.rcode.SERVFAIL), "failed"),
    "a refusal": (answer(code=dns.rcode.REFUSED), "failed"),
    "another identity": (answer(query=dns.message.make_query("www.example.com", "A", id=4712)), ""),
    "another name": (answer(query=dns.message.make_query("www.example.org", "A", id=4711)), ""),
    "another type": (answer(query=dns.message.make_query("www.example.com", "AAAA", id=4711)), ""),
    "the question": (QUERY.to_wire(), ""),
    "nothing": (b"", ""),
    "the identity alone": (b"\x12\x67", ""),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_what_an_answer_says(what):
    data, expected = ANSWERS[what]
    reply = read_reply(QUERY, data)
    if isinstance(expected, set):
        assert (reply.verdict, set(reply.addresses)) == ("found", expected)
    else:
        assert reply == (Reply(expected) if expected else None)


def test_a_chain_without_an_end_is_no_answer():
    names = [f"{number}.example." for number in range(40)]
    chain = [(WWW, "CNAME", names[0]), *((one, "CNAME", other) for one, other in zip(names, names[1:]))]
    assert read_reply(QUERY, answer(*chain)) is None


def test_at_most_a_few_addresses_count():
    reply = read_reply(QUERY, answer((WWW, "A", *(f"192.0.2.{number}" for number in range(1, 60)))))
    assert len(reply.addresses) == 8


@pytest.mark.parametrize("address, usable", [
    ("192.0.2.1", True), ("10.0.0.1", True), ("169.254.1.1", True), ("fe80::1", True), ("2001:db8::1", True),
    ("64:ff9b::cb00:7101", True), ("64:ff9b:1::1", True),
    ("0.0.0.0", False), ("127.9.9.9", False), ("224.0.0.1", False), ("255.255.255.255", False),
    ("::", False), ("::1", False), ("::ffff:127.0.0.1", False), ("ff02::1", False),
])
def test_which_addresses_another_host_can_have(address, usable):
    assert is_usable(address) is usable


def test_what_is_an_address():
    assert is_address("192.0.2.1")
    assert is_address("2001:db8::1")
    assert not is_address("a.example")
    assert not is_address("4.example")


GOOD = answer((WWW, "CNAME", "a.example."), ("a.example.", "A", "192.0.2.1", "192.0.2.2"))


def changes_of(packet):
    places = st.lists(st.tuples(st.integers(0, len(packet) - 1), st.integers(0, 255)), max_size=6)

    def change(changes, end, more):
        made = bytearray(packet)
        for place, value in changes:
            made[place] = value
        return bytes(made[:end]) + more

    return st.builds(change, places, st.integers(0, len(packet)), st.binary(max_size=20))


header = st.sampled_from([GOOD[:4], GOOD[:12], GOOD[:33], b""])


@settings(max_examples=MANY, deadline=None)
@given(st.one_of(changes_of(GOOD), st.builds(bytes.__add__, header, st.binary(max_size=600))))
def test_any_bytes_are_an_answer_or_none(data):
    reply = read_reply(QUERY, data)
    assert reply is None or reply.verdict in ("found", "none", "failed")
    assert not reply or all(is_usable(address) for address in reply.addresses)


# Where nothing is sent


class FakeView(View):
    """A link with these networks and resolvers."""

    def __init__(self, networks, resolvers=Answer(problem="no lease")):
        super().__init__(Link("eth0", "eth0", 7, True, {}), 0.0)
        self._networks = networks
        self._resolvers = resolvers


def run(steps):
    """Return what a conversation returns that waits for nothing."""
    with pytest.raises(StopIteration) as end:
        next(steps)
    return end.value.value


def test_an_address_is_its_own_where_the_link_has_one_of_its_kind():
    view = FakeView((("192.0.2.9", 24),))
    assert run(resolve("192.0.2.1", view)) == Resolution(("192.0.2.1",))
    assert run(resolve("fe80::1", view)) == Resolution(problem="eth0 has no address to ask from")
    assert run(resolve("fe80::1", FakeView((("fe80::9", 64),)))) == Resolution(("fe80::1",))


def test_a_name_takes_an_address_to_ask_from_and_a_resolver():
    assert run(resolve("a.example", FakeView((("fe80::9", 64),)))).problem == "eth0 has no address to ask from"
    view = FakeView((("192.0.2.9", 24),))
    assert run(resolve("a.example", view)) == Resolution(problem="no name server to ask: no lease")
    view = FakeView((("192.0.2.9", 24),), Answer(pending=True, problem="dhcpcd still waits"))
    assert run(resolve("a.example", view)) == Resolution(
        settled=False, problem="no name server to ask: dhcpcd still waits"
    )


def test_without_dnspython_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "dns.message", None)
    view = FakeView((("192.0.2.9", 24),), Answer(("192.0.2.53",)))
    resolution = run(resolve("a.example", view))
    assert resolution == Resolution(problem="names can't be asked for: python3-dnspython is not installed")


# Several names at the same time


class NameServers:
    """What answers for names, in place of `names.resolve`: who answers at once, and who never does.

    asked: the names that were asked for, in order; asking: those that wait for an answer; closed: those of them that
    were ended.
    """

    def __init__(self, answered=(), slow=()):
        self.answered = answered
        self.slow = slow
        self.asked = []
        self.asking = []
        self.closed = []

    def resolve(self, host, view, families=()):
        self.asked.append(host)
        self.asking.append(host)
        try:
            if host in self.slow:
                yield Wait({}, time.monotonic() + 0.05)
            elif host not in self.answered:
                while time.monotonic() < view.deadline:
                    yield Wait({}, view.deadline)
                return Resolution(problem=f"{host} could not be looked up")
            return Resolution(("192.0.2.1",))
        except GeneratorExit:
            self.closed.append(host)
            raise


@pytest.fixture
def servers(monkeypatch):
    servers = NameServers()
    monkeypatch.setattr(names, "resolve", servers.resolve)
    return servers


def make_view(seconds):
    view = FakeView((("192.0.2.9", 24),), Answer(("192.0.2.53",)))
    view.deadline = time.monotonic() + seconds
    return view


def test_a_name_that_nobody_answers_for_does_not_delay_the_others(servers):
    servers.answered = ("alive.example",)
    view = make_view(600)
    found = look_up(("dead.example", "gone.example", "alive.example"), view)
    assert found.pop("alive.example").addresses == ("192.0.2.1",)
    assert time.monotonic() < view.deadline - 500
    assert {name: resolution.settled for name, resolution in found.items()} == {
        "dead.example": False, "gone.example": False
    }  # fmt: skip
    assert sorted(servers.closed) == ["dead.example", "gone.example"]


def test_others_have_a_little_more_time_than_the_first(servers):
    servers.answered, servers.slow = ("fast.example",), ("slow.example",)
    found = look_up(("slow.example", "fast.example"), make_view(600))
    assert all(resolution.addresses for resolution in found.values())


def test_if_nobody_answers_all_names_have_the_whole_time(servers):
    began = time.monotonic()
    found = look_up(("dead.example", "gone.example"), make_view(0.2))
    assert time.monotonic() >= began + 0.2
    assert all(resolution.settled and "could not be looked up" in resolution.problem for resolution in found.values())


def test_very_many_names_are_asked_in_groups_each_with_its_share_of_the_time(servers):
    dead = [f"{number}.dead.example" for number in range(2 * MOST_AT_ONCE)]
    servers.answered = ("alive.example",)
    view = make_view(1.5)
    found = look_up([*dead, "alive.example", "other.example"], view)
    assert found["alive.example"].addresses
    assert time.monotonic() < view.deadline
    assert servers.asked == [*dead, "alive.example", "other.example"]
    assert set(found) == {*dead, "alive.example", "other.example"}
    servers.asked.clear()
    found = look_up(["alive.example", *dead], make_view(600))
    assert servers.asked == ["alive.example", *dead[: MOST_AT_ONCE - 1]]
    assert not found[dead[-1]].settled


def test_a_name_that_fails_fails_alone(servers, monkeypatch):
    def resolve(host, view, families=()):
        if host == "broken.example":
            raise OSError(1, "Operation not permitted")
        return (yield from servers.resolve(host, view))

    servers.answered = ("alive.example",)
    monkeypatch.setattr(names, "resolve", resolve)
    found = look_up(("broken.example", "alive.example"), make_view(600))
    assert found["alive.example"].addresses
    assert found["broken.example"].problem == "broken.example could not be looked up: Operation not permitted"


def test_no_name_at_all_is_asked(servers):
    assert look_up((), make_view(600)) == {}
