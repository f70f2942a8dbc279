"""What hangs on a rule that can't be read: nothing is opened and nothing is stopped by it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY
from situations import make_record

from netconf_hooks.decide import (
    DOWN, KEEP, UP, can_open, decide_changes, decide_guard, decide_tunnels, find_lost_rule
)  # fmt: skip
from netconf_hooks.observation import Answer, OPEN as UNENCRYPTED
from netconf_hooks.place import find_place
from netconf_hooks.stanzas.rules import (
    Rules, Unreadable, list_doubts, list_undefined_words, list_unreadable_before, read_rules
)  # fmt: skip
from netconf_hooks.state import CLOSED, OPEN, Pass

CORP, ARCHIVE = ("openvpn", "corp"), ("unit", "archive")
CAFE = "gateway=192.0.2.3"


def arrive(options, gateway="192.0.2.3", **facts):
    """Return the rules and the situation of eth0, on a network with that router."""
    rules = read_rules(options)
    answers = {"gateway": Answer((gateway,)), "interface": Answer(("eth0",))}
    facts = {"routable": True, **facts}
    if facts.pop("wireless_open", False):
        facts["wireless"] = UNENCRYPTED
    record = make_record("eth0", 2, (Pass("inet", options),), seen=answers, **facts)
    return rules, record.change(place=find_place(rules, answers))


def guard(*locations, rule="on cafe", gateway="192.0.2.3", **options):
    """Return what the guard is to be, and why."""
    options = {f"netconf-{name}": value for name, value in options.items()}
    rules, situation = arrive(
        {"netconf-location": "\n".join(locations), "netconf-guard": rule, "netconf-trust": "hints", **options}, gateway
    )
    verdict = decide_guard(rules.guard, situation)
    assert verdict.state == CLOSED or can_open(rules.guard, rules.trust, ())
    return verdict.state, verdict.because


def tunnel(*locations, rule, gateway="192.0.2.3"):
    """Return what becomes of the tunnel, which runs, and why."""
    options = {"netconf-location": "\n".join(locations)} if locations else {}
    _, situation = arrive({**options, "netconf-vpn": f"openvpn corp {rule}"}, gateway)
    verdict = decide_tunnels([situation])[CORP]
    return verdict.state, verdict.because


# A guard


@pytest.mark.parametrize("line", [
    "cafe gateway-mac=02:5e:00:00:03:zz",
    "cafe dns-domian=example.com",
    "cafe gateway=192.0.2.3 !ssid",
    "cafe",
    'cafe ssid="not closed',
    "Cafe gateway=192.0.2.3",  # whose line it is can't be told
    "'cafe gateway=192.0.2.3",
])
def test_a_guard_with_a_line_of_its_location_that_can_not_be_read_stays_closed(line):
    for lines in ([line], [line, f"cafe {CAFE}"], [f"cafe {CAFE}", line], ["home gateway=192.0.2.1", line]):
        for gateway in ("192.0.2.1", "192.0.2.9"):  # at home, and somewhere
            state, because = guard(*lines, gateway=gateway)
            assert state == CLOSED
            assert "can't be read" in because or "no netconf-location defines" in because


def test_a_guard_with_a_word_that_nothing_defines_stays_closed():
    home = "home gateway=192.0.2.3"
    for rule in ("on atic", "on atic cafe", "unless home atic", "on cafe unless atic"):
        assert guard(home, "cafe gateway=192.0.2.9", rule=rule) == (
            CLOSED, 'eth0 is at home: no netconf-location defines "atic"'
        )  # fmt: skip
    assert guard(home, rule="unless home")[0] == OPEN
    assert guard(home, "attic gateway=192.0.2.9", rule="on attic")[0] == OPEN


def test_a_line_that_can_not_be_read_before_the_one_that_holds():
    bad, home, office = "cafe gatway=192.0.2.3", "home gateway=192.0.2.3", "office gateway=192.0.2.9"
    assert guard(bad, home, office, rule="unless home") == (
        CLOSED, f'eth0 is at home, which is not certain: netconf-location "{bad}" can\'t be read'
    )  # fmt: skip
    assert guard(home, bad, office, rule="unless home")[0] == OPEN
    assert guard(home, bad, office, rule="unless office", gateway="192.0.2.9")[0] == CLOSED
    assert guard(home, office, bad, rule="unless office", gateway="192.0.2.9")[0] == OPEN
    for rule in ("unless unknown", "on home"):
        assert guard(home, bad, rule=rule, gateway="192.0.2.8")[0] == CLOSED  # nobody knows that it is unknown
        assert guard(home, rule=rule, gateway="192.0.2.8")[0] == OPEN


@pytest.mark.parametrize("option, value", [
    ("locatoin", f"cafe {CAFE}"), ("locations", f"cafe {CAFE}\nattic {CAFE}"), ("location2", f"'cafe' {CAFE}")
])
def test_an_option_that_does_not_exist_and_reads_like_a_location(option, value):
    for rule in ("unless home", "on attic"):
        state, because = guard("home gateway=192.0.2.3", "attic gateway=192.0.2.7", rule=rule, **{option: value})
        assert state == CLOSED
        assert f"netconf-{option} " in because


@pytest.mark.parametrize("option, value, closed", [
    ("gaurd", "yes", True), ("gard", "on cafe", True), ("guards", "unless home", True),
    ("gaurd", "no", False), ("guard-alow", "192.0.2.0/24", False), ("later", "yes", False), ("timout", "5", False),
])
def test_an_option_that_does_not_exist_and_reads_like_a_guard(option, value, closed):
    for written in ({}, {"netconf-guard": "no"}):
        rules = read_rules({**written, f"netconf-{option}": value})
        assert rules.is_guarded() is closed
        assert len(rules.errors) == 1
        if closed:
            assert decide_guard(rules.guard, arrive({})[1]).state == CLOSED
    assert read_rules({"netconf-guard": "unless home", "netconf-location": f"home {CAFE}", f"netconf-{option}": value}
                      ).guard.readable is not closed  # fmt: skip


@pytest.mark.parametrize("option", ["netconf-trsut", "netconf-trust-2"])
def test_more_trust_than_was_asked_for_is_not_read_from_a_misspelt_option(option):
    assert read_rules({option: "authenticated"}).trust == "authenticated"
    assert read_rules({"netconf-trust": "hints", option: "authenticated"}).trust == "authenticated"


# A tunnel that runs


def test_a_tunnel_on_a_location_with_a_line_that_can_not_be_read_is_kept():
    bad, home = "cafe gatway=192.0.2.3", "home gateway=192.0.2.1"
    for lines in ((bad,), (bad, "cafe gateway=192.0.2.4"), (home, bad)):
        for gateway in ("192.0.2.3", "192.0.2.1"):
            state, because = tunnel(*lines, rule="on cafe", gateway=gateway)
            assert state == KEEP
            assert because.endswith(f'netconf-location "{bad}" can\'t be read')
    assert tunnel(bad, "cafe gateway=192.0.2.4", rule="on cafe", gateway="192.0.2.4")[0] == UP
    assert tunnel(bad, home, rule="on cafe unless home", gateway="192.0.2.1")[0] == KEEP


def test_a_tunnel_on_a_word_that_nothing_defines_is_kept():
    assert tunnel(rule="on atic") == (KEEP, 'eth0 is at an unknown place: no netconf-location defines "atic"')
    assert tunnel(f"home {CAFE}", rule="on atic unless home")[0] == KEEP
    assert tunnel(rule="on atic unknown")[0] == UP


def test_a_word_that_nothing_defines_never_stops_a_tunnel():
    assert tunnel(f"home {CAFE}", rule="unless hom")[0] == UP


def test_a_place_that_is_not_certain_stops_nothing():
    bad, home = "cafe gatway=192.0.2.3", f"home {CAFE}"
    assert tunnel(bad, home, rule="unless home") == (
        KEEP, f'eth0 is at home, which is not certain: netconf-location "{bad}" can\'t be read'
    )  # fmt: skip
    assert tunnel(home, bad, rule="unless home")[0] == DOWN
    assert tunnel("home gatway=1", home, rule="unless home")[0] == DOWN  # at home by either line
    assert tunnel(bad, rule="unless unknown")[0] == KEEP
    assert tunnel(bad, rule="unless interface=eth0")[0] == DOWN
    assert tunnel(bad, home, rule="on attic", gateway="192.0.2.9")[0] == KEEP
    # It is at the cafe or at home, and at neither of them the rule wants it.
    assert tunnel(bad, home, "attic gateway=192.0.2.8", rule="on attic")[0] == DOWN


@pytest.mark.parametrize("options", [
    {"netconf-vpn": "opnvpn corp"}, {"netconf-vpn": "openvpn /corp"}, {"netconf-vnp": "openvpn corp on home"}
])
def test_a_rule_whose_tunnel_can_not_be_told_stops_none(options):
    _, situation = arrive(options)
    lost = find_lost_rule([situation])
    [option] = options
    assert lost == f'eth0: {option} "{options[option]}" can\'t be read, and may be about this tunnel'
    kept = decide_changes({}, {CORP: UP, ARCHIVE: DOWN}, [ARCHIVE], lost)
    assert {name: verdict.state for name, verdict in kept.items()} == {CORP: UP, ARCHIVE: DOWN}
    assert kept[CORP].because == f"left as it is: {lost}"
    assert decide_changes({}, {CORP: UP})[CORP].state == DOWN
    _, other = arrive({"netconf-vpn": "openvpn corp on home", "netconf-location": "home gateway=192.0.2.1"})
    assert decide_tunnels([other])[CORP].state == DOWN
    assert decide_tunnels([other, situation])[CORP].state == KEEP


# What is said of it


def test_the_lines_that_are_left_out():
    rules = read_rules({
        "netconf-location": "a gateway=x\nb gateway=192.0.2.1\nB b=1\nc !=", "netconf-vpn": "openvpn corp\ncorp",
        "netconf-locatoin-2": "d gateway=192.0.2.1",
    })  # fmt: skip
    assert [str(line) for line in rules.lost_locations] == [
        'netconf-locatoin-2 "d gateway=192.0.2.1"', 'netconf-location "a gateway=x"', 'netconf-location "B b=1"',
        'netconf-location "c !="',
    ]  # fmt: skip
    assert [(line.name, line.place) for line in rules.lost_locations] == [("", 0), ("a", 0), ("", 1), ("c", 1)]
    assert rules.lost_vpns == (Unreadable("netconf-vpn", "corp", "", 1),)
    assert list_unreadable_before(rules, "") == rules.lost_locations
    assert list_unreadable_before(rules, "b gateway=192.0.2.1") == rules.lost_locations[:2]
    assert list_unreadable_before(Rules(), "") == ()


def test_a_stanza_that_can_be_read_gives_no_doubts():
    rules = read_rules({
        "netconf-location": f"home {CAFE}", "netconf-guard": "unless home", "netconf-vpn": "openvpn corp on home"
    })  # fmt: skip
    assert list_doubts(rules) == list_undefined_words(rules) == []
    assert rules.guard.doubt == rules.vpns[0].doubt == ""


def test_a_rule_tells_some_of_its_doubts_however_many_there_are():
    words = " ".join(f"w{number}" for number in range(5000))
    rules = read_rules({"netconf-guard": f"on {words}"})
    assert rules.guard.doubt == (
        'no netconf-location defines "w0"; no netconf-location defines "w1"; no netconf-location defines "w2"; ...'
    )
    assert len(list_undefined_words(rules)) == 5000


# Any rules

NAMES = ("home", "office", "cafe")
BROKEN = {
    "location": ("no/name", "HOME", "unless", ""),
    "test": ("gatway=192.0.2.1", "gateway=192.0.2.zz", "gateway", "!=", "dns-domian=example.com"),
    "kind": ("opnvpn", "no/kind"),
    "tunnel": ("no/name", "-x", "on"),
    "keyword": ("onn", "unles", "no"),
    "word": ("nosuch", "HOME", "gatway=192.0.2.1", "gateway=x", "unkown"),
    "trust": ("hint", "authenticatd", "none"),
    "guard": ("yse", "nope"),
    "option": ("-x", "s"),
}
tests_of = st.sampled_from([f"gateway=192.0.2.{n}" for n in range(1, 5)] + ["interface=eth0", "!gateway=192.0.2.1"])
words_of = st.sampled_from(
    [*NAMES, "unknown", "insecure", "unroutable", "anywhere", "gateway=192.0.2.2", "interface=wl*"]
)


@st.composite
def conditions(draw):
    """Draw the clauses of a condition, each word with its kind."""
    found = []
    for keyword in draw(st.sampled_from([["on"], ["unless"], ["on", "unless"]])):
        found.append(("keyword", keyword))
        found += [("word", word) for word in draw(st.lists(words_of, min_size=1, max_size=3))]
    return found


@st.composite
def stanzas(draw):
    """Draw the lines of a stanza: each with its option, and each of its words with its kind."""
    lines = []
    for name in [*NAMES, *draw(st.lists(st.sampled_from(NAMES), max_size=2))]:
        tests = draw(st.lists(tests_of, min_size=1, max_size=2))
        lines.append(("netconf-location", [("location", name), *(("test", test) for test in tests)]))
    for kind, name in draw(st.lists(st.sampled_from([CORP, ARCHIVE]), max_size=3)):
        lines.append(("netconf-vpn", [("kind", kind), ("tunnel", name), *draw(conditions())]))
    condition = draw(st.one_of(conditions(), st.just([("guard", "yes")])))
    lines.append(("netconf-guard", condition))
    trust = draw(st.sampled_from(["", "hints", "hints", "authenticated"]))
    if trust:
        lines.append(("netconf-trust", [("trust", trust)]))
    return draw(st.permutations(lines))


def write(lines):
    """Return the options of a stanza as ifupdown hands them to hooks."""
    options = {}
    for option, words in lines:
        line = " ".join(word for _, word in words)
        options[option] = f"{options[option]}\n{line}" if option in options else line
    return options


@st.composite
def damages(draw):
    """Draw a stanza, and the same with one word, or the name of an option, that can't be read."""
    lines = draw(stanzas())
    number = draw(st.integers(0, len(lines) - 1))
    option, words = lines[number]
    place = draw(st.integers(-1, len(words) - 1))
    if place < 0:
        damaged = (option + draw(st.sampled_from(BROKEN["option"])), words)
    else:
        kind, _ = words[place]
        damaged = (option, [*words[:place], (kind, draw(st.sampled_from(BROKEN[kind]))), *words[place + 1:]])
    return lines, [*lines[:number], damaged, *lines[number + 1:]]


def decide(lines, gateway, **facts):
    """Return whether the guard opens, and what becomes of the tunnels, which run."""
    rules, situation = arrive(write(lines), gateway, **facts)
    opens = rules.guard is None or decide_guard(rules.guard, situation).state == OPEN
    before = {CORP: UP, ARCHIVE: UP}
    after = decide_changes(decide_tunnels([situation]), before, lost=find_lost_rule([situation]))
    return opens, {name for name in before if after[name].state == DOWN}


@settings(max_examples=MANY, deadline=None)
@given(damages(), st.sampled_from([f"192.0.2.{n}" for n in range(1, 6)]), st.booleans(), st.booleans())
def test_damage_opens_nothing_and_stops_nothing(damage, gateway, routable, wireless_open):
    whole, damaged = damage
    opened, stopped = decide(whole, gateway, routable=routable, wireless_open=wireless_open)
    opened_then, stopped_then = decide(damaged, gateway, routable=routable, wireless_open=wireless_open)
    assert opened or not opened_then
    assert stopped_then <= stopped
    rules = read_rules(write(damaged))
    assert rules.errors or list_undefined_words(rules)


@pytest.mark.parametrize("wireless_open, state", [(True, DOWN), (False, KEEP)])
def test_an_unencrypted_network_is_insecure_whatever_the_line_that_can_not_be_read_would_say(wireless_open, state):
    """An unknown place is so only if that line would not name it."""
    options = {"netconf-location": "home dns-domian=example.com", "netconf-vpn": "openvpn corp unless insecure"}
    _, situation = arrive(options, wireless_open=wireless_open)
    assert decide_tunnels([situation])[CORP].state == state
