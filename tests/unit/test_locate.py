"""From what is seen to the location's name: three-valued logic, and what need not be asked."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netconf_hooks import locate
from netconf_hooks.locate import (
    Place, find_needed, find_place, is_match, judge_test, judge_tests, list_word_tests, observe_place
)  # fmt: skip
from netconf_hooks.observe import Answer, Link
from netconf_hooks.rules import TESTS, Location, Test, TestKind, format_test, read_rules

MAC = "52:54:00:0a:00:01"
OTHER_MAC = "00:16:3e:11:22:33"
SILENT = Answer((), pending=True, problem="did not answer")
NOTHING = Answer((), problem="no default router")

ETH0 = Link("eth0", "eth0", 7, True, {})


def make_test(key, *values, negated=False):
    """Return a test as the parser makes it."""
    return Test(key, values, negated, format_test(key, values, negated))


def make_line(name, *tests):
    """Return a netconf-location line."""
    return Location(name, tests, " ".join([name, *[test.text for test in tests]]))


# One test


@pytest.mark.parametrize("seen, pending, plain, negated", [
    ((MAC,), False, True, False),
    ((OTHER_MAC,), False, False, True),
    ((OTHER_MAC, MAC), False, True, False),
    ((), False, False, False),  # nothing to compare with: it does not hold, negated or not
    ((MAC,), True, True, False),  # an unfinished answer can prove
    ((OTHER_MAC,), True, None, None),  # and not refute
    ((), True, None, None),
])
def test_a_test_holds_or_not_or_is_open(seen, pending, plain, negated):
    answer = Answer(seen, pending)
    assert judge_test(make_test("gateway-mac", MAC), answer) is plain
    assert judge_test(make_test("gateway-mac", MAC, negated=True), answer) is negated


def test_any_of_several_values_will_do():
    test = make_test("gateway-mac", OTHER_MAC, MAC)
    assert judge_test(test, Answer((MAC,))) is True
    assert judge_test(make_test("gateway-mac", OTHER_MAC, MAC, negated=True), Answer((MAC,))) is False


@pytest.mark.parametrize("verdicts, together", [
    ("", True),
    ("y", True),
    ("yy", True),
    ("yn", False),
    ("ny", False),
    ("y?", None),
    ("?y", None),
    ("?n", False),
    ("n?", False),
    ("??", None),
])
def test_all_tests_of_a_line_have_to_hold(verdicts, together):
    keys = ("gateway", "dns-domain")
    answers = {
        key: {"y": Answer(("x",)), "n": Answer(("z",)), "?": SILENT}[verdict] for key, verdict in zip(keys, verdicts)
    }
    assert judge_tests([make_test(key, "x") for key in answers], answers) is together


def test_what_was_not_asked_is_open_and_refutes_nothing():
    tests = [make_test("gateway", "192.0.2.1"), make_test("dns-domain", "example.com")]
    assert judge_tests(tests, {"gateway": Answer(("192.0.2.1",))}) is None
    assert judge_tests(tests, {"dns-domain": Answer(("example.org",))}) is False


# How values compare


@pytest.mark.parametrize("wanted, seen, match", [
    ("192.0.2.0/24", "192.0.2.7", True),
    ("192.0.2.0/24", "192.0.3.7", False),
    ("192.0.2.7/32", "192.0.2.7", True),
    ("192.0.2.7/32", "192.0.2.6", False),
    ("192.0.2.7", "192.0.2.7", True),
    ("192.0.2.128/25", "192.0.2.127", False),
    ("192.0.2.128/25", "192.0.2.128", True),
    ("0.0.0.0/0", "203.0.113.9", True),
    ("2001:db8::/32", "2001:db8:1::5", True),
    ("2001:db8::/32", "2001:db9::5", False),
    ("fe80::1/128", "fe80::1", True),
    ("::/0", "fe80::1", True),
    ("::/0", "192.0.2.7", False),
    ("0.0.0.0/0", "::1", False),
    ("0.0.0.0/0", "", False),
    ("0.0.0.0/0", "rubbish", False),
    ("192.0.2.0/24", "192.0.2.7\0", False),
    ("::/0", "fe80::1%eth0", False),
])
def test_networks(wanted, seen, match):
    assert is_match("network", wanted, seen) is match


@pytest.mark.parametrize("wanted, seen, match", [
    ("example.com", "example.com", True),
    ("example.com", "corp.example.com", False),
    ("*.example.com", "corp.example.com", True),
    ("*.example.com", "a.corp.example.com", True),
    ("*.example.com", "example.com", False),
    ("*.example.com", ".example.com", False),
    ("*.example.com", "notexample.com", False),
    ("*.example.com", "corp.example.com.evil.org", False),
])
def test_domains(wanted, seen, match):
    assert is_match("domain", wanted, seen) is match


@pytest.mark.parametrize("wanted, seen, match", [
    ("eth0", "eth0", True),
    ("eth0", "eth01", False),
    ("wl*", "wlan0", True),
    ("wl*", "wl", True),
    ("wl*", "eth0", False),
    ("*", "anything", True),
    ("*0", "eth0", True),
    ("eth?", "eth0", True),
    ("eth?", "eth10", False),
    ("eth?*", "eth10", True),
    ("eth[01]", "eth1", True),
    ("eth[01]", "eth2", False),
    ("ETH*", "eth0", False),
])
def test_patterns(wanted, seen, match):
    assert is_match("pattern", wanted, seen) is match


@pytest.mark.parametrize("syntax", ["mac", "address", "ssid"])
def test_all_else_compares_to_the_letter(syntax):
    assert is_match(syntax, "a*", "a*")
    assert not is_match(syntax, "a*", "ab")


def test_what_the_parser_writes_is_what_is_compared():
    rules = read_rules(
        {"netconf-location": "x gateway-mac=52-54-00-0A-00-01 dns-domain=*.Example.COM. address=10.1.2.3/8"}
    )
    assert rules.errors == ()
    answers = {
        "gateway-mac": Answer((MAC,)), "dns-domain": Answer(("a.example.com",)), "address": Answer(("10.9.9.9",))
    }  # fmt: skip
    assert find_place(rules.locations, answers).location == "x"


# Lines

HOME = make_line("home", make_test("gateway", "192.0.2.1"))
OFFICE = make_line("office", make_test("dns-domain", "corp.example.com"))
OFFICE_BY_MAC = make_line("office", make_test("gateway-mac", MAC))


def at(gateway="", domain="", mac=""):
    """Return answers; where nothing is given, nothing was seen; ``?`` was not answered in time."""
    return {
        key: SILENT if value == "?" else Answer((value,)) if value else NOTHING
        for key, value in (("gateway", gateway), ("dns-domain", domain), ("gateway-mac", mac))
    }


def test_the_first_line_that_holds_names_the_location():
    answers = at(gateway="192.0.2.1", domain="corp.example.com")
    assert find_place((HOME, OFFICE), answers) == Place("home", HOME.text, "hint")
    assert find_place((OFFICE, HOME), answers) == Place("office", OFFICE.text, "hint")


def test_any_line_of_a_name_will_do():
    assert find_place((OFFICE, OFFICE_BY_MAC), at(mac=MAC)) == Place("office", OFFICE_BY_MAC.text, "hint")


def test_where_no_line_holds_there_is_no_location():
    assert find_place((HOME, OFFICE), at()) == Place()
    assert find_place((), at()) == Place()


def test_an_open_line_before_the_one_that_holds_leaves_it_undecided():
    place = find_place((OFFICE, HOME), at(gateway="192.0.2.1", domain="?"))
    assert place == Place("home", HOME.text, "hint", undecided=True)


def test_an_open_line_after_the_one_that_holds_does_not_matter():
    assert not find_place((HOME, OFFICE), at(gateway="192.0.2.1", domain="?")).undecided


def test_an_open_line_of_the_same_name_does_not_matter():
    assert find_place((OFFICE_BY_MAC, OFFICE), at(domain="corp.example.com", mac="?")) == Place(
        "office", OFFICE.text, "hint"
    )


def test_an_open_line_and_none_that_holds_is_undecided():
    assert find_place((HOME, OFFICE), at(domain="?")) == Place(undecided=True)


def test_a_refuted_line_is_not_open():
    line = make_line("office", make_test("gateway-mac", MAC), make_test("dns-domain", "corp.example.com"))
    assert find_place((line,), at(domain="?", mac=OTHER_MAC)) == Place()


def test_a_negated_test_needs_something_to_compare_with():
    line = make_line("away", make_test("dns-domain", "corp.example.com", negated=True))
    assert find_place((line,), at()) == Place()
    assert find_place((line,), at(domain="cafe.example")).location == "away"
    assert find_place((line,), at(domain="?")) == Place(undecided=True)


def test_one_authenticated_test_proves_the_line(monkeypatch):
    monkeypatch.setitem(TESTS, "tls", TestKind("certificate", "authenticated", "later"))
    proven = make_line("office", make_test("dns-domain", "corp.example.com"), make_test("tls", "cert"))
    answers = {**at(domain="corp.example.com"), "tls": Answer(("cert",))}
    assert find_place((proven,), answers).grade == "authenticated"
    assert find_place((OFFICE, proven), answers).grade == "hint"


# What has to be asked


def test_at_first_all_is_asked_once_in_the_order_written():
    both = make_line("a", make_test("gateway", "192.0.2.9"), make_test("dns-domain", "x.example"))
    assert find_needed((OFFICE, both, OFFICE_BY_MAC), {}) == ["dns-domain", "gateway", "gateway-mac"]


def test_a_refuted_line_asks_nothing():
    line = make_line("office", make_test("gateway", "192.0.2.1"), make_test("gateway-mac", MAC))
    assert find_needed((line,), {"gateway": Answer(("192.0.2.9",))}) == []
    assert find_needed((line,), {"gateway": Answer(("192.0.2.1",))}) == ["gateway-mac"]
    assert find_needed((line,), {"gateway": SILENT}) == ["gateway-mac"]


def test_after_a_line_that_holds_nothing_is_asked():
    assert find_needed((HOME, OFFICE), {"gateway": Answer(("192.0.2.1",))}) == []
    assert find_needed((OFFICE_BY_MAC, HOME, OFFICE), {"gateway": Answer(("192.0.2.1",))}) == ["gateway-mac"]


def test_after_an_open_line_all_is_asked():
    assert find_needed((HOME, OFFICE), {"gateway": SILENT}) == ["dns-domain"]


KEYS = ("gateway", "dns-domain", "gateway-mac", "ssid")
answers_of = st.fixed_dictionaries(
    {
        key: st.builds(Answer, st.lists(st.sampled_from("ab"), max_size=2, unique=True).map(tuple), st.booleans())
        for key in KEYS
    }
)
lines_of = st.lists(
    st.builds(
        lambda name, tests: make_line(name, *tests),
        st.sampled_from(["home", "office", "cafe"]),
        st.lists(
            st.builds(
                lambda key, values, negated: make_test(key, *values, negated=negated),
                st.sampled_from(KEYS),
                st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True),
                st.booleans(),
            ),
            min_size=1,
            max_size=3,
        ),
    ),
    max_size=5,
).map(tuple)


@settings(max_examples=150, deadline=None)
@given(lines=lines_of, answers=answers_of, data=st.data())
def test_asking_only_what_is_needed_gives_the_same_place(lines, answers, data):
    known = {}
    while needed := find_needed(lines, known):
        assert len(set(needed)) == len(needed)
        assert not known.keys() & set(needed)
        # However little is asked at a time: cheap things first, say.
        asked = data.draw(st.lists(st.sampled_from(needed), min_size=1, unique=True))
        known.update({key: answers[key] for key in asked})
    assert find_place(lines, known) == find_place(lines, answers)


@settings(max_examples=150, deadline=None)
@given(lines=lines_of, answers=answers_of)
def test_the_place_is_what_every_possible_answer_allows(lines, answers):
    """An open line is one that could still hold: decided means that no answer to come changes the location's name.

    The oracle tries what a pending answer could become: what is seen already, and more.
    """
    place = find_place(lines, answers)
    possible = {
        find_place(lines, complete).location for complete in list_completions(answers)
    }
    if not place.undecided:
        assert possible == {place.location}


def list_completions(answers):
    """Return what pending answers may still turn out to be."""
    choices = [
        [Answer((*answer.values, *more)) for more in ("", "a", "b", "c", "abc") if answer.pending or not more]
        for answer in answers.values()
    ]
    return [dict(zip(answers, chosen)) for chosen in product(*choices)]


# Looking


class FakeObservers:
    """Stands for observe_link, which would ask this machine's network; keeps what was asked."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def __call__(self, keys, link, deadline):
        assert (link, deadline) == (ETH0, 12.0)
        self.asked.append(sorted(keys))
        return {key: self.answers[key] for key in keys}


def test_the_place_is_observed_and_so_are_the_tests_in_conditions(monkeypatch):
    rules = read_rules(
        {
            "netconf-location": "home gateway=192.0.2.1\noffice dns-domain=corp.example.com",
            "netconf-vpn": "openvpn corp unless office address=10.0.0.0/8\nunit x on gateway=192.0.2.1",
        }
    )
    observers = FakeObservers({**at(domain="corp.example.com"), "address": Answer(("10.1.1.1",))})
    monkeypatch.setattr(locate, "observe_link", observers)
    place, answers = observe_place(rules, ETH0, 12.0)
    assert place.location == "office"
    assert observers.asked == [["dns-domain", "gateway"], ["address"]]
    assert sorted(answers) == ["address", "dns-domain", "gateway"]


def test_without_lines_and_tests_nothing_is_asked(monkeypatch):
    observers = FakeObservers({})
    monkeypatch.setattr(locate, "observe_link", observers)
    assert observe_place(read_rules({"netconf-vpn": "openvpn corp"}), ETH0, 12.0) == (Place(), {})
    assert observers.asked == []


def test_the_tests_in_conditions_are_listed_once():
    rules = read_rules(
        {
            "netconf-vpn": "openvpn a on gateway=192.0.2.1 unless !gateway=192.0.2.1\n"
            "openvpn b on gateway=192.0.2.1 home",
            "netconf-guard": "unless address=10.0.0.0/8",
        }
    )
    assert {test.text for test in list_word_tests(rules)} >= {"gateway=192.0.2.1", "!gateway=192.0.2.1"}
    assert len(list_word_tests(rules)) == len({test.text for test in list_word_tests(rules)})
    assert list_word_tests(read_rules({"netconf-guard": "no"})) == []
