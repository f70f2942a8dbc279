"""The decision on tunnels: what the manual says under TUNNELS and PROOF, held against an oracle of its own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY
from situations import Presence, Situation, make_record

from netconf_hooks.decide import (
    DOWN, Edge, INET, KEEP, NO_RULE, UP, Verdict, Known, can_open, decide_changes,
    decide_device, decide_guard, decide_presences, decide_tunnels, describe_connection, describe_place, holds, is_firm,
    list_edges
)  # fmt: skip
from netconf_hooks.decide import decide as decide_all
from netconf_hooks.stanzas.rules import Condition, Test, VpnRule, Word, read_rules
from netconf_hooks.state import CLOSED, GuardRecord, OPEN, Pass, RELEASED

many = settings(max_examples=min(100, MANY), deadline=None)

CORP = ("openvpn", "corp")


def make_situation(iface, vpn, **facts):
    """Return an interface with rules as an admin writes them."""
    rules = read_rules({"netconf-vpn": vpn, "netconf-location": "office gateway=192.0.2.1\nhome gateway=192.0.2.9"})
    return Situation(iface, rules.vpns, **facts)


def decide(*situations):
    """Return the state of the one tunnel there is, and why."""
    verdicts = decide_tunnels(situations)
    assert list(verdicts) == [CORP]
    return verdicts[CORP].state, verdicts[CORP].because


def at(iface, vpn, location, **facts):
    """Return an interface at a location that hints name."""
    return make_situation(iface, vpn, location=location, grade="hint" if location else "", **facts)


UNLESS_OFFICE = "openvpn corp unless office"
ON_HOME = "openvpn corp on home"


# Examples


def test_no_interface_no_verdict():
    assert decide_tunnels([]) == {}
    assert decide_tunnels([Situation("eth0", ())]) == {}


def test_the_tunnel_runs_everywhere_but_in_the_office():
    assert decide(at("eth0", UNLESS_OFFICE, ""))[0] == UP
    assert decide(at("eth0", UNLESS_OFFICE, "home"))[0] == UP
    assert decide(at("eth0", UNLESS_OFFICE, "office")) == (DOWN, 'eth0 is at office: "unless office"')


def test_two_interfaces_share_a_tunnel():
    assert decide(at("eth0", ON_HOME, "home"), at("wlan0", ON_HOME, ""))[0] == UP
    assert decide(at("eth0", ON_HOME, ""), at("wlan0", ON_HOME, ""))[0] == DOWN


def test_one_interface_vetoes():
    state, because = decide(at("eth0", UNLESS_OFFICE, ""), at("wlan0", UNLESS_OFFICE, "office"))
    assert state == DOWN
    assert because.startswith("wlan0 is at office")


def test_two_rules_of_one_interface_for_one_tunnel():
    both = "openvpn corp on home\nopenvpn corp on office"
    assert decide(at("eth0", both, "office"))[0] == UP
    assert decide(at("eth0", both, ""))[0] == DOWN
    assert decide(at("eth0", "openvpn corp on home\nopenvpn corp unless home", "home"))[0] == DOWN


def test_an_undecided_link_counts_as_unknown_and_stops_nothing():
    assert decide(at("eth0", "openvpn corp on unknown", "home", undecided=True))[0] == UP
    assert decide(at("eth0", UNLESS_OFFICE, "office", undecided=True))[0] == UP
    assert decide(at("eth0", ON_HOME, "home", undecided=True))[0] == KEEP
    assert decide(at("eth0", "openvpn corp unless unknown", "", undecided=True))[0] == KEEP


def test_an_unreadable_rule_leaves_its_tunnel_alone():
    state, because = decide(at("eth0", "openvpn corp unles office", ""), at("wlan0", UNLESS_OFFICE, "office"))
    assert state == KEEP
    assert "unles office" in because
    assert "eth0" in because


def test_hints_turn_nothing_off_where_proof_is_asked_for():
    state, because = decide(at("eth0", UNLESS_OFFICE, "office", trust="authenticated"))
    assert state == UP
    assert "not proven" in because
    assert decide(at("eth0", ON_HOME, "", trust="authenticated"))[0] == KEEP
    proven = make_situation("eth0", UNLESS_OFFICE, location="office", grade="authenticated", trust="authenticated")
    assert decide(proven)[0] == DOWN


@pytest.mark.parametrize("trust", ["", "hints"])
def test_hints_suffice_where_no_proof_is_asked_for(trust):
    assert decide(at("eth0", UNLESS_OFFICE, "office", trust=trust))[0] == DOWN


def test_a_test_as_a_word():
    rule = "openvpn corp unless address=10.0.0.0/8"
    assert decide(at("eth0", rule, "", tests=frozenset(["address=10.0.0.0/8"])))[0] == DOWN
    assert decide(at("eth0", rule, ""))[0] == UP
    rule = "openvpn corp on address=10.0.0.0/8"
    assert decide(at("eth0", rule, "", tests=frozenset(["address=10.0.0.0/8"])))[0] == UP
    assert decide(at("eth0", rule, ""))[0] == DOWN
    assert decide(at("eth0", rule, "", open_tests=frozenset(["address=10.0.0.0/8"])))[0] == KEEP


@pytest.mark.parametrize("word, state", [
    (f"tls=192.0.2.7:443/sha256:{64 * '0'}", "down"),
    ("command=/usr/local/sbin/is-office", "down"),
    ("gateway=192.0.2.1", "up"),
    (f"!tls=192.0.2.7:443/sha256:{64 * '0'}", "up"),  # nobody has to have anything for that
])
def test_a_test_as_a_word_can_be_the_proof(word, state):
    facts = {"tests": frozenset([word]), "trust": "authenticated", "grade": "hint"}
    for more in ({}, {"location": "", "undecided": True}):
        situation = make_situation("eth0", f"openvpn corp unless cafe {word}", **{"location": "cafe", **facts, **more})
        verdict = decide_tunnels([situation])["openvpn", "corp"]
        if state == "down":
            assert (verdict.state, word in verdict.because) == ("down", True)
        else:
            assert verdict.state != "down"


def test_a_wish_overrides_vetoes():
    wish = make_situation("corp", "openvpn corp", wish=True)
    state, because = decide(at("eth0", UNLESS_OFFICE, "office"), wish)
    assert state == UP
    assert "ifup corp" in because
    assert decide(make_situation("corp", "openvpn corp unles office", wish=True))[0] == KEEP


@pytest.mark.parametrize("word, facts, held", [
    ("anywhere", {}, True),
    ("unknown", {}, True),
    ("unknown", {"location": "office"}, False),
    ("unknown", {"location": "office", "undecided": True}, True),
    ("insecure", {}, True),
    ("insecure", {"location": "office"}, False),
    ("insecure", {"location": "office", "wireless_open": True}, True),
    ("unroutable", {"routable": False}, True),
    ("unroutable", {"routable": True}, False),
    ("office", {"location": "office"}, True),
    ("office", {"location": "office", "undecided": True}, False),
    ("office", {"location": "home"}, False),
    ("office", {}, False),
])
def test_words(word, facts, held):
    assert holds(Word(word), Situation("eth0", (), **facts)) is held


def test_a_place_is_described_as_an_admin_would():
    assert describe_place(Situation("eth0", (), location="office")) == "eth0 is at office"
    assert describe_place(Situation("eth0", ())) == "eth0 is at an unknown place"
    assert describe_place(Situation("eth0", (), location="office", undecided=True)) == "eth0 can't tell yet where it is"


# Any situation

NAMES = ("office", "home")
KEYS = ("address=10.0.0.0/8", "gateway=192.0.2.1")
words_of = st.lists(
    st.one_of(
        st.sampled_from(["anywhere", "unknown", "insecure", "unroutable", *NAMES]).map(Word),
        st.sampled_from(KEYS).map(lambda text: Word(text, Test(*text.split("="), False))),
    ),
    max_size=3,
).map(tuple)
rules_of = st.builds(
    lambda name, on, unless, readable: VpnRule(
        "openvpn", name, Condition(on or Condition().on, unless), readable, f"openvpn {name}"
    ),
    st.sampled_from(["corp", "archive"]),
    words_of,
    words_of,
    st.sampled_from([True, True, True, False]),
)


@st.composite
def situations_of(draw, undecided=st.booleans(), trust=st.sampled_from(["", "hints", "authenticated"])):
    """Draw an interface in some situation; a test is open, or holds, or fails."""
    verdicts = {key: draw(st.sampled_from([True, False, None])) for key in KEYS}
    location = draw(st.sampled_from(["", *NAMES]))
    return Situation(
        iface=draw(st.sampled_from(["eth0", "wlan0", "wwan0"])),
        vpns=tuple(draw(st.lists(rules_of, max_size=3))),
        trust=draw(trust),
        location=location,
        grade=draw(st.sampled_from(["hint", "authenticated"])) if location else "",
        undecided=draw(undecided),
        routable=draw(st.booleans()),
        wireless_open=draw(st.booleans()),
        tests=frozenset(key for key, verdict in verdicts.items() if verdict),
        open_tests=frozenset(key for key, verdict in verdicts.items() if verdict is None),
    )


def expect(word, situation):
    """The oracle's WORD: netconf-interfaces(5), WORDS."""
    known = situation.location != "" and not situation.undecided
    return {
        "anywhere": True,
        "unknown": not known,
        "insecure": not known or situation.wireless_open,
        "unroutable": not situation.routable,
        "office": known and situation.location == "office",
        "home": known and situation.location == "home",
        **{key: key in situation.tests for key in KEYS},
    }[word.text]


def expect_up(name, situations):
    """The oracle: whether a tunnel runs.  Some want it, none vetoes it, and every rule that names it can be read.

    A rule wants it when a word of `on` holds and no word of `unless` does; it vetoes when one of those does.  Who can't
    tell where it is vetoes nothing; nor does who is told by hints where proof is asked for, and there hints count as
    saying nothing against it.
    """
    wants = False
    for situation in situations:
        for rule in situation.vpns:
            if rule.name != name:
                continue
            if not rule.readable:
                return False
            against = any(expect(word, situation) for word in rule.condition.unless)
            wanted = any(expect(word, situation) for word in rule.condition.on)
            unproven = situation.trust == "authenticated" and situation.grade != "authenticated"
            if situation.undecided:
                wants |= wanted and not against
            elif against and not unproven:
                return False
            else:
                wants |= wanted
    return wants


@many
@given(st.lists(situations_of(), max_size=4))
def test_a_tunnel_is_up_if_one_wants_it_and_none_vetoes_it(situations):
    verdicts = decide_tunnels(situations)
    named = {(rule.kind, rule.name) for situation in situations for rule in situation.vpns}
    assert verdicts.keys() == named
    for (_, name), verdict in verdicts.items():
        assert (verdict.state == UP) == expect_up(name, situations)
        assert verdict.because


@many
@given(st.lists(situations_of(), max_size=4))
def test_a_tunnel_is_down_only_where_somebody_who_knows_says_so(situations):
    for tunnel, verdict in decide_tunnels(situations).items():
        if verdict.state == DOWN:
            assert all(rule.readable for one in situations for rule in one.vpns if (rule.kind, rule.name) == tunnel)
            assert any(is_firm(one) for one in situations if any((r.kind, r.name) == tunnel for r in one.vpns))


@many
@given(st.lists(situations_of(), max_size=4), st.randoms())
def test_the_order_of_interfaces_does_not_matter(situations, random):
    shuffled = list(situations)
    random.shuffle(shuffled)
    states = {tunnel: verdict.state for tunnel, verdict in decide_tunnels(situations).items()}
    assert {tunnel: verdict.state for tunnel, verdict in decide_tunnels(shuffled).items()} == states


@many
@given(st.lists(situations_of(), max_size=3), situations_of(undecided=st.just(True)))
def test_an_undecided_link_turns_nothing_down(situations, undecided):
    before = decide_tunnels(situations)
    after = decide_tunnels([*situations, undecided])
    for tunnel, verdict in before.items():
        if verdict.state != DOWN:
            assert after[tunnel].state != DOWN
    for tunnel in after.keys() - before.keys():
        assert after[tunnel].state != DOWN


@many
@given(st.lists(situations_of(), max_size=3), situations_of(trust=st.just("authenticated")))
def test_hints_turn_nothing_down_where_proof_is_asked_for(situations, hinted):
    hinted = Situation(
        hinted.iface, hinted.vpns, hinted.trust, hinted.location, "hint" if hinted.location else "", hinted.undecided,
        hinted.routable, hinted.wireless_open, hinted.tests, hinted.open_tests,
    )  # fmt: skip
    before = decide_tunnels(situations)
    for tunnel, verdict in decide_tunnels([*situations, hinted]).items():
        assert verdict.state != DOWN or (tunnel in before and before[tunnel].state == DOWN)


# What changes

keep = Verdict(KEEP, "eth0 can't tell yet where it is")
up = Verdict(UP, "wanted")
down = Verdict(DOWN, "vetoed")


def test_a_verdict_is_what_changes():
    assert decide_changes({CORP: up}, {}) == {CORP: up}
    assert decide_changes({CORP: down}, {CORP: UP}) == {CORP: down}
    assert decide_changes({CORP: up}, {CORP: UP}) == {CORP: up}


@pytest.mark.parametrize("state", [UP, DOWN])
def test_what_is_to_be_kept_stays_what_it_was(state):
    kept = decide_changes({CORP: keep}, {CORP: state})
    assert kept[CORP].state == state
    assert keep.because in kept[CORP].because


def test_of_what_is_to_be_kept_and_was_never_decided_nothing_is_known():
    assert decide_changes({CORP: keep}, {}) == {}


def test_what_no_rule_names_any_more_goes_down():
    assert decide_changes({}, {CORP: UP}) == {CORP: Verdict(DOWN, NO_RULE)}


def test_what_no_rule_names_and_is_down_is_forgotten():
    assert decide_changes({}, {CORP: DOWN}) == {}


def test_what_could_not_be_stopped_is_not_forgotten():
    assert decide_changes({}, {CORP: DOWN}, unfinished=[CORP]) == {CORP: Verdict(DOWN, NO_RULE)}


TUNNELS = [CORP, ("openvpn", "archive"), ("unit", "x")]


@many
@given(
    st.dictionaries(st.sampled_from(TUNNELS), st.sampled_from([up, down, keep])),
    st.dictionaries(st.sampled_from(TUNNELS), st.sampled_from([UP, DOWN])),
    st.sets(st.sampled_from(TUNNELS)),
)
def test_no_tunnel_is_lost_and_nothing_is_left_to_keep(verdicts, before, unfinished):
    changes = decide_changes(verdicts, before, unfinished & before.keys())
    assert all(verdict.state in (UP, DOWN) for verdict in changes.values())
    for tunnel in TUNNELS:
        said = verdicts[tunnel].state if tunnel in verdicts else DOWN if tunnel in before else KEEP
        now = changes[tunnel].state if tunnel in changes else None
        if said == KEEP:
            assert now == before.get(tunnel)
        elif now is None:
            assert tunnel not in verdicts
            assert before[tunnel] == DOWN
            assert tunnel not in unfinished
        else:
            assert now == said


# Where the machine is


def present(location, **facts):
    """Return an interface at a location, without tunnels."""
    return Situation(facts.pop("iface", "eth0"), (), location=location, **{"routable": False, **facts})


@pytest.mark.parametrize("situations, before, after", [
    ([], [], []),
    ([present("")], [], []),
    ([present("office")], [], [("office", "eth0")]),
    ([present("office"), present("office", iface="wlan0")], [], [("office", "eth0", "wlan0")]),
    ([present("", routable=True), present("home", iface="wlan0")], [], [("home", "wlan0"), (INET, "eth0")]),
    ([present("home")], [("office", "eth0")], [("home", "eth0")]),
    # Who can't tell stays where it was, and arrives nowhere.
    ([present("home", undecided=True)], [("office", "eth0"), (INET, "eth0")], [("office", "eth0")]),
    ([present("home", undecided=True)], [("office", "wlan0")], []),
    # A wish is nowhere.
    ([present("home", routable=True, wish=True)], [("home", "eth0")], []),
])
def test_where_the_machine_is(situations, before, after):
    found = decide_presences(situations, [Presence(name, tuple(ifaces)) for name, *ifaces in before])
    assert found == tuple(Presence(name, tuple(ifaces)) for name, *ifaces in after)


@pytest.mark.parametrize("name, undecided, location", [
    ("office", False, "office"), (INET, False, "office"), (INET, True, ""), ("office", True, "office")
])
def test_what_an_event_script_is_told_of_the_interface(name, undecided, location):
    passes = (Pass("inet", {}, "eth0", "eth0"), Pass("inet", {}, "work", "eth0"), Pass("inet6", {}, "", "eth0"))
    seen = {"gateway": ("192.0.2.1", "fe80::1"), "dns-domain": ("example.com",)}
    record = make_record("eth0", 7, passes, "office", undecided=undecided, seen=seen)
    assert describe_connection(name, record) == {
        "IFACE": "eth0", "LOGICAL": "work", "NETCONF_LOCATION": location, "NETCONF_GATEWAY": "192.0.2.1 fe80::1",
        "NETCONF_DNS_DOMAIN": "example.com",
    }  # fmt: skip
    assert describe_connection(name, record.change(passes=()))["LOGICAL"] == "eth0"


def test_events_nest():
    here = [Presence("office", ("eth0", "wlan0")), Presence(INET, ("eth0",))]
    there = [Presence(INET, ("wlan0",)), Presence("home", ("wlan0",))]
    assert list_edges([], here) == (Edge("office", True, "eth0"), Edge(INET, True, "eth0"))
    assert list_edges(here, []) == (Edge(INET, False, "eth0"), Edge("office", False, "wlan0"))
    # The way to the internet stays: the old location ends before the new one begins.
    assert list_edges(here, there) == (Edge("office", False, "wlan0"), Edge("home", True, "wlan0"))
    assert list_edges([], there) == (Edge("home", True, "wlan0"), Edge(INET, True, "wlan0"))
    assert list_edges(here, here) == ()


# Guards


TLS, NO_TLS = f"tls=192.0.2.7:443/sha256:{64 * '0'}", f"!tls=192.0.2.7:443/sha256:{64 * '0'}"
HINT = "address=10.0.0.0/8"


def read_guard_rule(text):
    """Return a rule as an admin writes it."""
    rules = read_rules({"netconf-guard": text, "netconf-location": "office gateway=192.0.2.1\nhome gateway=192.0.2.9"})
    assert rules.guard is not None
    return rules.guard


def guard(text, location="", grade="", trust="", **facts):
    """Return what a guard should be."""
    return decide_guard(read_guard_rule(text), Situation("eth0", (), trust, location, grade, **facts)).state


PROVEN = {"location": "office", "grade": "authenticated"}
HINTED = {"location": "office", "grade": "hint"}


@pytest.mark.parametrize("trust, by_hints, by_proof", [
    ("", CLOSED, OPEN), ("hints", OPEN, OPEN), ("authenticated", CLOSED, OPEN)
])
@pytest.mark.parametrize(
    "text", ["unless office", "on unknown", "on home", "unless home office", "on home unless office"]
)
def test_what_opens_a_guard_by_the_table(trust, by_hints, by_proof, text):
    assert guard(text, trust=trust, **HINTED) == by_hints
    assert guard(text, trust=trust, **PROVEN) == by_proof
    assert guard(text, trust=trust, location="home", grade="authenticated") == (OPEN if text in (
        "on unknown", "unless home office") else CLOSED)  # fmt: skip


@pytest.mark.parametrize("text", ["yes", "unles office", "unless", "yes no", "on", "on office", "on anywhere"])
def test_what_never_opens(text):
    for trust in ("", "hints", "authenticated"):
        assert guard(text, trust=trust, **PROVEN) == CLOSED


def test_an_unknown_place_opens_nothing_without_the_admins_word():
    for text in ("on home", "unless unknown", "unless insecure", "unless anywhere"):
        assert guard(text) == guard(text, trust="authenticated") == CLOSED
        assert guard(text, trust="hints") == OPEN


def test_undecided_opens_nothing():
    for text in ("unless office", "on home", "unless anywhere", f"unless {TLS}"):
        assert guard(text, trust="hints", undecided=True, tests=frozenset([TLS]), **PROVEN) == CLOSED


def test_a_test_that_was_not_answered_opens_nothing():
    assert guard(f"on {HINT}", trust="hints") == OPEN
    assert guard(f"on {HINT}", trust="hints", open_tests=frozenset([HINT])) == CLOSED


@pytest.mark.parametrize("word, state", [
    (TLS, OPEN), ("command=/usr/local/sbin/x", OPEN), (NO_TLS, CLOSED), (HINT, CLOSED)
])
def test_a_test_as_a_word_is_a_proof_or_is_not(word, state):
    for trust in ("", "authenticated"):
        assert guard(f"unless {word}", trust=trust, tests=frozenset([word])) == state
    assert guard(f"unless {word}", trust="hints", tests=frozenset([word])) == OPEN
    assert guard(f"unless {word}", trust="hints") == CLOSED


GUARDED = {"netconf-guard": "unless office", "netconf-location": "office gateway=192.0.2.1", "netconf-trust": "hints"}


def make_pass(iface="eth0", **options):
    """Return a pass with a guard, and other options than `GUARDED`, with underscores for dashes."""
    options = {f"netconf-{name}".replace("_", "-"): value for name, value in options.items()}
    return Pass("inet", {**GUARDED, **options}, iface, iface)


def make_guarded(*passes, **facts):
    """Return the record of the guard of eth0."""
    return GuardRecord("eth0", "nftables", passes=passes or (make_pass(),), **facts)


def in_office(*passes, looked=5.0, **facts):
    """Return the record of the interface of some passes, which was looked at in the office."""
    passes = passes or (make_pass(),)
    return make_record(passes[0].iface, 7, passes, "office", grade="hint", looked=looked, **facts)


UNLOOKED = "the network was not looked at yet"


@pytest.mark.parametrize("record, records, state, because", [
    (make_guarded(), [in_office()], OPEN, 'eth0 is at office: "unless office"'),
    (make_guarded(), [], CLOSED, f"eth0: {UNLOOKED}"),
    (make_guarded(), [in_office(make_pass("eth0:1"))], CLOSED, f"eth0: {UNLOOKED}"),
    # Looked at before the link was shut.
    (make_guarded(shut_at=6.0, because="it moved"), [in_office()], CLOSED, "it moved"),
    (make_guarded(shut_at=5.0, because="it moved"), [in_office()], CLOSED, "it moved"),
    (make_guarded(shut_at=4.9, because="it moved"), [in_office()], OPEN, 'eth0 is at office: "unless office"'),
    (make_guarded(shut_at=6.0, because="open", verdict=OPEN), [in_office()], CLOSED, f"eth0: {UNLOOKED}"),
    # An edited stanza, and one more.
    (make_guarded(make_pass(vpn="openvpn corp")), [in_office()], CLOSED,
     f"eth0: another stanza of it is coming up, and {UNLOOKED}"),
    (make_guarded(make_pass(), make_pass(vpn="openvpn corp")), [in_office()], CLOSED,
     f"eth0: another stanza of it is coming up, and {UNLOOKED}"),
    # All guards on the device agree.
    (make_guarded(make_pass(), make_pass("eth0:1")), [in_office(), in_office(make_pass("eth0:1"))], OPEN,
     'eth0 is at office: "unless office"; eth0:1 is at office: "unless office"'),
    (make_guarded(make_pass(), make_pass("eth0:1")), [in_office()], CLOSED, f"eth0:1: {UNLOOKED}"),
    (make_guarded(make_pass("eth0:1"), make_pass()), [in_office()], CLOSED, f"eth0:1: {UNLOOKED}"),
    (make_guarded(make_pass(), make_pass(guard="yes")), [in_office(make_pass(), make_pass(guard="yes"))], CLOSED,
     "eth0 is at office: wanted anywhere"),
    # One without a guard has no say, and need not be up.
    (make_guarded(make_pass(), make_pass("eth0:1", guard="no")), [in_office()], OPEN,
     'eth0 is at office: "unless office"'),
    (make_guarded(make_pass(guard="no")), [in_office(make_pass(guard="no"))], CLOSED,
     "no stanza says when it opens"),
])
def test_the_guard_of_a_device_opens_if_all_its_interfaces_agree(record, records, state, because):
    assert decide_device(record, records) == Verdict(state, because)


def test_a_device_with_another_name_or_two_firewalls_stays_closed():
    verdict = decide_device(make_guarded(), [in_office()], "lan0")
    assert verdict == Verdict(CLOSED, "eth0 is called lan0 now: the guard does not match it any more")
    two = make_pass(guard_backend="nftables"), make_pass(guard_backend="iptables")
    assert decide_device(make_guarded(*two), [in_office(*two)]).state == CLOSED


@pytest.mark.parametrize("verdict, done, after, still_done", [
    (CLOSED, True, OPEN, False), (OPEN, True, OPEN, True), (OPEN, False, OPEN, False), (RELEASED, True, RELEASED, True)
])
def test_what_is_recorded_of_a_guard(verdict, done, after, still_done):
    record = make_guarded(verdict=verdict, done=done, because="before")
    (decided,) = decide_all([in_office()], Known({}, [record])).guards
    assert (decided.verdict, decided.done) == (after, still_done)
    assert (decided.because == "before") == (verdict == RELEASED)
    if verdict != RELEASED:
        (renamed,) = decide_all([in_office()], Known({}, [record], renamed={"eth0": "lan0"})).guards
        assert renamed.verdict == CLOSED and "lan0" in renamed.because


NAMES = ("office", "home")
guard_words = st.sampled_from([*NAMES, "unknown", "insecure", "unroutable", "anywhere", TLS, NO_TLS, HINT])
clauses = st.tuples(
    st.lists(guard_words, min_size=0, max_size=3, unique=True), st.lists(guard_words, max_size=3, unique=True)
)  # fmt: skip
trusts = st.sampled_from(["", "hints", "authenticated"])


def write_guard(on, unless):
    """Return the words of a rule."""
    return " ".join([*(["on", *on] if on else []), *(["unless", *unless] if unless else [])]) or "on anywhere"


guard_situations = st.builds(
    lambda place, trust, undecided, routable, wireless_open, tests, open_tests: Situation(
        "eth0", (), trust, place[0], place[1], undecided, routable, wireless_open, tests, open_tests - tests
    ),
    st.sampled_from([("", ""), ("office", "hint"), ("office", "authenticated"), ("home", "hint"),
                     ("home", "authenticated")]),
    trusts, st.booleans(), st.booleans(), st.booleans(),
    st.frozensets(st.sampled_from([TLS, NO_TLS, HINT])), st.frozensets(st.sampled_from([TLS, NO_TLS, HINT])),
)  # fmt: skip


def is_trusted(on, unless, situation):
    """The oracle, from the manual's table: whether everything may leave."""
    known = situation.location

    def is_true(word):
        if word in (TLS, NO_TLS, HINT):
            return word in situation.tests
        return {
            "unknown": not known,
            "insecure": not known or situation.wireless_open,
            "unroutable": not situation.routable,
            "anywhere": True,
        }.get(word, word == known)

    if situation.undecided or any(word in situation.open_tests for word in on):
        return False
    guarded = any(map(is_true, on or ["anywhere"]))
    excepted = [word for word in unless if is_true(word)]
    if situation.trust == "hints":
        return not guarded or bool(excepted)
    line = situation.grade == "authenticated"
    proofs = [word for word in excepted if word == TLS or (line and word not in (NO_TLS, HINT))]
    return bool(proofs) or (not guarded and line)


@settings(max_examples=min(500, MANY), deadline=None)
@given(clauses, guard_situations)
def test_a_guard_opens_as_the_table_says_and_not_else(clause, situation):
    verdict = decide_guard(read_guard_rule(write_guard(*clause)), situation)
    assert (verdict.state == OPEN) == is_trusted(*clause, situation)
    assert verdict.because


@settings(max_examples=min(300, MANY), deadline=None)
@given(clauses, guard_situations)
def test_more_proof_never_closes_and_less_never_opens(clause, situation):
    rule = read_guard_rule(write_guard(*clause))
    if situation.location:
        proven = decide_guard(rule, situation.change(grade="authenticated")).state
        hinted = decide_guard(rule, situation.change(grade="hint")).state
        assert (hinted, proven) != (OPEN, CLOSED)


@settings(max_examples=min(300, MANY), deadline=None)
@given(clauses, trusts, st.frozensets(st.sampled_from(NAMES)))
def test_whether_a_guard_can_open_at_all(clause, trust, proofs):
    rule = read_guard_rule(write_guard(*clause))
    places = [("", ""), *((name, "hint") for name in NAMES), *((name, "authenticated") for name in proofs)]
    opens = any(
        decide_guard(rule, Situation(
            "eth0", (), trust, *place, routable=routable, wireless_open=wireless, tests=frozenset(tests)
        )).state == OPEN
        for place in places for routable in (True, False) for wireless in (True, False)
        for tests in ([], [TLS], [HINT, NO_TLS], [TLS, HINT])
    )  # fmt: skip
    assert can_open(rule, trust, proofs) or not opens
    if trust != "hints":
        assert can_open(rule, trust, proofs) == opens


@pytest.mark.parametrize("text, trust, proofs, expected", [
    ("unless office", "", {"office"}, True),
    ("unless office", "", {"home"}, False),
    ("unless office", "", (), False),
    ("unless office", "hints", (), True),
    ("on home", "", {"office"}, True),
    ("on home", "", {"home"}, False),
    ("on unknown home", "", {"home"}, False),
    ("on unknown", "authenticated", {"home"}, True),
    (f"unless {TLS}", "", (), True),
    ("unless unroutable", "", (), False),
    ("unless unknown", "", {"office"}, False),
    ("yes", "hints", {"office"}, False),
    ("no", "hints", {"office"}, False),
    ("unles office", "hints", {"office"}, False),
])
def test_which_guards_can_never_open(text, trust, proofs, expected):
    assert can_open(read_guard_rule(text), trust, proofs) is expected
