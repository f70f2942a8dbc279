"""From what is seen to the location's name: three-valued logic, and what need not be asked."""

from itertools import product
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks import place as place_module

from netconf_hooks.evidence import Link, look
from netconf_hooks.observation import Answer, Place, PortalNotice
from netconf_hooks.place import (
    find_needed, find_questions, judge_test, judge_tests, list_word_tests, wants_proof
)  # fmt: skip
from netconf_hooks.stanzas import values
from netconf_hooks.stanzas.rules import Location, Rules, Test, read_rules

MAC = "52:54:00:0a:00:01"
OTHER_MAC = "00:16:3e:11:22:33"
SILENT = Answer((), pending=True, problem="did not answer")
NOTHING = Answer((), problem="no default router")

ETH0 = Link("eth0", "eth0", 7, True, {})


def find_place(lines, answers):
    """Return the place by these netconf-location lines."""
    return place_module.find_place(Rules(locations=tuple(lines)), answers)


def observe_place(rules, link, deadline):
    """Return the place and what was looked at for it."""
    answers = look.answer_rules(rules, link, deadline)
    return place_module.find_place(rules, answers).change(words={}), answers


def make_test(key, *values, negated=False):
    """Return a test as the parser makes it."""
    return Test(key, values, negated)


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
    assert values.NETWORK.matches(wanted, seen) is match


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
    assert values.DOMAIN.matches(wanted, seen) is match


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
    assert values.PATTERN.matches(wanted, seen) is match


@pytest.mark.parametrize("syntax", [values.MAC, values.ADDRESS, values.SSID])
def test_all_else_compares_to_the_letter(syntax):
    assert syntax.matches("a*", "a*")
    assert not syntax.matches("a*", "ab")


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


CERTIFICATE = f"192.0.2.7:443/sha256:{64 * '0'}"
TLS = make_test("tls", CERTIFICATE)
SHOWN = Answer((CERTIFICATE,), settled=(CERTIFICATE,))
NOT_SHOWN = Answer((), settled=(CERTIFICATE,), refuted=(CERTIFICATE,))
OFFICE_PROVEN = make_line("office", TLS)


def test_a_certificate_or_the_admins_program_proves_the_line():
    proven = make_line("office", make_test("dns-domain", "corp.example.com"), TLS)
    answers = {**at(domain="corp.example.com"), "tls": SHOWN}
    assert find_place((proven,), answers) == Place("office", proven.text, "authenticated")
    program = make_line("office", make_test("command", "/x"))
    assert find_place((program,), {"command": Answer(("/x",), settled=("/x",))}).grade == "authenticated"


def test_another_line_of_the_name_that_holds_proves_the_place():
    answers = {**at(domain="corp.example.com"), "tls": SHOWN}
    assert find_place((OFFICE, OFFICE_PROVEN), answers) == Place("office", OFFICE.text, "authenticated")
    assert find_place((OFFICE, OFFICE_PROVEN), {**answers, "tls": NOT_SHOWN}).grade == "hint"
    assert find_place((OFFICE, make_line("home", TLS)), answers).grade == "hint"


def test_a_certificate_that_is_not_shown_proves_nothing():
    line = make_line("office", make_test("tls", CERTIFICATE, negated=True))
    assert find_place((line,), {"tls": NOT_SHOWN}) == Place("office", line.text, "hint")


# Tests whose values are asked one by one


@pytest.mark.parametrize("answer, plain, negated", [
    (Answer(), None, None),  # not asked
    (Answer(("a:1",), settled=("a:1",)), True, False),
    (Answer((), settled=("a:1",), refuted=("a:1",)), False, True),
    (Answer((), settled=("a:1",)), False, False),  # it could not be asked
    (Answer(("b:2",), settled=("b:2",)), None, None),  # another one was asked
    (Answer(("b:2",), settled=("b:2", "a:1"), refuted=("a:1",)), False, True),
    (Answer((), True, "no time left to ask"), None, None),
])
def test_each_value_is_a_question_of_its_own(answer, plain, negated):
    assert judge_test(make_test("reach", "a:1"), answer) is plain
    assert judge_test(make_test("reach", "a:1", negated=True), answer) is negated


def test_any_of_several_asked_values_will_do_and_all_have_to_be_refuted():
    both = make_test("reach", "a:1", "b:2")
    neither = make_test("reach", "a:1", "b:2", negated=True)
    some = Answer((), settled=("a:1",), refuted=("a:1",))
    assert (judge_test(both, some), judge_test(neither, some)) == (None, None)
    one = Answer(("b:2",), settled=("a:1", "b:2"), refuted=("a:1",))
    assert (judge_test(both, one), judge_test(neither, one)) == (True, False)
    none = Answer((), settled=("a:1", "b:2"), refuted=("a:1", "b:2"))
    assert (judge_test(both, none), judge_test(neither, none)) == (False, True)


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


def list_questions(rules, answers, proof=False):
    """Return what is to be asked now, as words of a line."""
    return [f"{question.key}={question.value}" for question in find_questions(rules, answers, proof)]


def test_what_is_asked_by_packets_is_asked_only_while_the_place_depends_on_it():
    rules = Rules((
        make_line("home", make_test("gateway", "192.0.2.1"), make_test("peer", "192.0.2.5")),
        make_line("office", make_test("dns-domain", "corp.example.com"), make_test("reach", "a:1", "b:2")),
        make_line("cafe", make_test("gateway", "192.0.2.9")),
        make_line("other", make_test("peer", "192.0.2.6")),
    ))
    assert find_needed(rules.locations, {}) == ["gateway", "dns-domain"]
    assert list_questions(rules, at(gateway="192.0.2.1", domain="x.example")) == ["peer=192.0.2.5", "peer=192.0.2.6"]
    assert list_questions(rules, at(gateway="192.0.2.9", domain="x.example")) == []
    answers = at(gateway="192.0.2.9", domain="corp.example.com")
    assert list_questions(rules, answers) == ["reach=a:1", "reach=b:2"]
    answers["reach"] = Answer((), settled=("a:1",), refuted=("a:1",))
    assert list_questions(rules, answers) == ["reach=b:2"]
    answers["reach"] = Answer(("a:1",), settled=("a:1",))
    assert list_questions(rules, answers) == []


def test_a_certificate_is_asked_for_only_where_all_else_in_its_line_holds():
    line = make_line("office", make_test("gateway", "192.0.2.1"), TLS, make_test("peer", "192.0.2.5"))
    peer = Answer(("192.0.2.5",), settled=("192.0.2.5",))
    assert list_questions(Rules((line,)), at(gateway="192.0.2.1")) == ["peer=192.0.2.5"]
    assert list_questions(Rules((line,)), {**at(gateway="192.0.2.1"), "peer": peer}) == [f"tls={CERTIFICATE}"]
    assert list_questions(Rules((line,)), {**at(gateway="?"), "peer": peer}) == []
    assert list_questions(Rules((line,)), {**at(gateway="192.0.2.9"), "peer": peer}) == []


def test_the_question_for_a_certificate_names_the_routers_of_its_lines():
    rules = Rules((
        make_line("office", make_test("gateway-mac", MAC), TLS),
        make_line("office", make_test("gateway-mac", OTHER_MAC, negated=True), TLS),
        make_line("home", make_test("gateway-mac", "02:00:00:00:00:01")),
    ))
    [question] = find_questions(rules, at(mac=MAC))
    assert question.routers == (MAC,)


def test_proof_is_asked_for_where_it_matters():
    answers = at(domain="corp.example.com")
    rules = Rules((OFFICE, make_line("home", TLS), make_line("office", TLS, make_test("gateway", "192.0.2.1"))))
    assert find_needed(rules.locations, answers | {"gateway": SILENT}, proof=True) == []
    del answers["gateway"]
    assert find_needed(rules.locations, answers) == []
    assert find_needed(rules.locations, answers, proof=True) == ["gateway"]
    answers["gateway"] = Answer(("192.0.2.1",))
    assert list_questions(rules, answers) == []
    assert list_questions(rules, answers, proof=True) == [f"tls={CERTIFICATE}"]
    assert list_questions(rules, {**answers, "tls": SHOWN}, proof=True) == []


def test_where_proof_matters():
    location = {"netconf-location": f"office {TLS.text}"}
    assert not wants_proof(read_rules(location))
    assert not wants_proof(read_rules({**location, "netconf-trust": "hints", "netconf-guard": "yes"}))
    assert not wants_proof(read_rules({**location, "netconf-guard": "no"}))
    assert wants_proof(read_rules({**location, "netconf-guard": "unless office"}))
    assert wants_proof(read_rules({**location, "netconf-trust": "authenticated"}))


def test_the_routers_mac_address_is_asked_for_last(monkeypatch):
    rules = read_rules({"netconf-location": f"a gateway-mac={MAC}\nb dns-domain=corp.example.com gateway-mac={MAC}"})
    observers = FakeObservers(at(domain="corp.example.com", mac=OTHER_MAC))
    monkeypatch.setattr(look, "observe_link", observers)
    assert observe_place(rules, ETH0, 12.0)[0] == Place()
    assert observers.asked == [["dns-domain"], ["gateway-mac"]]


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


@settings(max_examples=min(150, MANY), deadline=None)
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


@settings(max_examples=min(150, MANY), deadline=None)
@given(lines=lines_of, answers=answers_of, trust=st.sampled_from(["hints", "authenticated"]))
def test_lines_that_are_refuted_on_the_way_change_nothing(lines, answers, trust):
    with mock.patch.object(look, "observe_link", lambda keys, *_: {key: answers[key] for key in keys}):
        place, seen = observe_place(Rules(locations=lines, trust=trust), ETH0, 12.0)
    assert place == find_place(lines, answers)
    assert find_needed(lines, seen, trust == "authenticated") == []


@settings(max_examples=min(150, MANY), deadline=None)
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
    monkeypatch.setattr(look, "observe_link", observers)
    place, answers = observe_place(rules, ETH0, 12.0)
    assert place.location == "office"
    assert observers.asked == [["dns-domain", "gateway"], ["address"]]
    assert sorted(answers) == ["address", "dns-domain", "gateway"]


def test_without_lines_and_tests_nothing_is_asked(monkeypatch):
    observers = FakeObservers({})
    monkeypatch.setattr(look, "observe_link", observers)
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


# The captive portal


@pytest.fixture
def portals(monkeypatch):
    """What was asked of the network about its portal: the list that is returned.  A router advertises itself."""
    asked = []

    def find(link, deadline, ask):
        asked.append(ask)
        return PortalNotice(("http://portal.example/",))

    monkeypatch.setattr("netconf_hooks.evidence.captive_portal.look_for_portal", find)
    monkeypatch.setattr("netconf_hooks.evidence.router.has_advertising_router", lambda link: True)
    monkeypatch.setattr(look, "_may_announce", lambda device: False)
    return asked


def test_routers_are_asked_for_a_portal_only_where_that_is_wanted(portals, monkeypatch):
    assert look._find_portal(ETH0, 5.0, lambda: False) == PortalNotice()
    assert portals == []
    assert look._find_portal(ETH0, 5.0, lambda: True).uris
    monkeypatch.setattr(look, "_may_announce", lambda device: True)
    assert look._find_portal(ETH0, 5.0, lambda: False).uris
    assert portals == [True, False]


def test_a_link_without_carrier_has_no_portal(portals):
    assert look._find_portal(ETH0.change(carrier=False), 5.0, lambda: True) == PortalNotice()
    assert portals == []


@pytest.mark.parametrize("name, text, announces", [
    ("dhcp/dhclient.eth0.leases", 'option default-url "http://x/";', True),
    ("dhcp/dhclient6.leases", 'option dhcp6.v6-captive-portal "http://x/";', True),
    ("dhcp/dhclient.eth0.leases", 'option domain-name "http.example";', False),
    ("dhcp/dhclient.eth1.leases", 'option default-url "http://x/";', False),
    ("dhcpcd/eth0.lease", "\0r\x09http://x/", True), ("dhcpcd/eth0-Hotel.lease", "\0r\x09http://x/", True),
    ("dhcpcd/eth0.lease6", "urn:ietf:params:capport:unrestricted", True), ("dhcpcd/eth0.lease", "\0\x01", False),
    ("dhcp/dhclient.eth0.leases", "#" * (1 << 20) + "\n", True),
])
def test_leases_are_read_in_full_only_if_one_has_a_portal(tmp_path, name, text, announces):
    for directory in ("dhcp", "dhcpcd"):
        (tmp_path / directory).mkdir()
    (tmp_path / name).write_text(text)
    leases = [(directory.replace("/var/lib", str(tmp_path)), *rest) for directory, *rest in look._LEASES]
    assert look._may_announce("eth0", leases) == announces


# A new router


OFFICE_LINE = f"office gateway-mac={MAC} dns-domain=corp.example.com interface=eth*"
SEEN = {
    "gateway-mac": Answer((OTHER_MAC,)), "dns-domain": Answer(("corp.example.com",)), "interface": Answer(("eth0",)),
}  # fmt: skip


def find_router(line, **changes):
    """Return the line to add; empty where there is no new router."""
    seen = {**SEEN, **{key.replace("_", "-"): answer for key, answer in changes.items()}}
    found = place_module.find_new_router(read_rules({"netconf-location": line}), seen)
    return found.line if found else ""


@pytest.mark.parametrize("line, added", [
    (OFFICE_LINE, f"office gateway-mac={OTHER_MAC} dns-domain=corp.example.com interface=eth*"),
    (f"home address=10.0.0.0/8 gateway-mac={MAC}\n{OFFICE_LINE}",
     f"office gateway-mac={OTHER_MAC} dns-domain=corp.example.com interface=eth*"),
    # A certificate is not asked for where the MAC address is another one.
    (f"office gateway-mac={MAC} dns-domain=corp.example.com tls=a.example:443/sha256:{64 * '0'}",
     f"office gateway-mac={OTHER_MAC} dns-domain=corp.example.com tls=a.example:443/sha256:{64 * '0'}"),
    (f"office !dns-server=192.0.2.1 gateway-mac={MAC} dns-domain=*.example.com",
     f"office !dns-server=192.0.2.1/32 gateway-mac={OTHER_MAC} dns-domain=*.example.com"),
])
def test_a_new_router_is_known_by_the_rest_of_the_line(line, added):
    assert find_router(line, dns_server=Answer(("192.0.2.2",)), address=Answer(("192.0.2.9",))) == added


@pytest.mark.parametrize("line, changes", [
    (f"office gateway-mac={MAC}", {}),  # nothing else is known of it
    (f"office gateway-mac={MAC} interface=eth*", {}),  # that tells no networks apart
    (f"office gateway-mac={MAC} !dns-domain=cafe.example", {}),  # nor does what it is not
    (OFFICE_LINE, {"dns_domain": Answer(("cafe.example",))}),
    (OFFICE_LINE, {"dns_domain": SILENT}),
    (OFFICE_LINE, {"gateway_mac": Answer((MAC,))}),  # the same router
    (OFFICE_LINE, {"gateway_mac": SILENT}),
    (OFFICE_LINE, {"gateway_mac": NOTHING}),
    (f"office !gateway-mac={OTHER_MAC} dns-domain=corp.example.com", {}),
    (f"office gateway-mac={MAC} dns-domain=corp.example.com peer=192.0.2.7",
     {"peer": Answer((), settled=("192.0.2.7",), refuted=("192.0.2.7",))}),
])
def test_no_new_router(line, changes):
    assert find_router(line, **changes) == ""
