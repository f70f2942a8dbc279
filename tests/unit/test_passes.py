"""Which passes of ifupdown count, through all of the runs that replace, cut off and end them."""

import pytest

from netconf_hooks.passes import (
    are_over, begin_pass, complete_pass, describe_pass, end_pass, find_conflict, has_rules, is_overtaken, leave_passes,
    list_of, make_pass, read_rules_of, replaces
)  # fmt: skip
from netconf_hooks.stanzas.ifenv import Invocation, UNKNOWN_RUN
from netconf_hooks.state import ENDED, KEPT, LEAVING, Pass, UP


def make(text, run="1:1", family="inet", logical="eth0", iface="eth0", **facts):
    """A pass with one option, or with none where the text is empty."""
    return Pass(family, {"netconf-vpn": text} if text else {}, logical, iface, run, **facts)


def begin(passes, *texts, run="1:1", **facts):
    """Let an ifup begin one pass after the other."""
    for text in texts:
        passes = begin_pass(passes, make(text, run, **facts))
        passes = complete_pass(passes, make(text, run, **facts))
    return passes


def show(passes):
    """The options' texts, with a ``*`` where the last ifup did not reach them."""
    return [each.options["netconf-vpn"] + ("" if each.reached else "*") for each in passes]


@pytest.mark.parametrize("number", [1, 2, 4, 20])
def test_the_passes_of_one_run_count_together_in_their_order(number):
    texts = [f"unit {each}" for each in range(number)]
    assert show(begin((), *texts)) == texts


def test_a_stanza_without_options_is_not_recorded_and_takes_nothing_away():
    assert show(begin((), "", "a", "", "b", "")) == ["a", "b"]
    assert begin((), "") == ()


def test_a_later_run_replaces_them_one_by_one():
    first = begin((), "a", "b")
    assert show(begin(first, "c", run="2:1")) == ["c", "b*"]
    assert show(begin(first, "c", "d", run="2:1")) == ["c", "d"]
    assert show(begin(first, "c", "d", "e", run="2:1")) == ["c", "d", "e"]
    # Also where the stanza that comes first has lost its options.
    assert show(begin(first, "", "d", run="2:1")) == ["d", "b*"]
    assert show(begin(begin(first, "c", run="2:1"), "d", "e", run="3:1")) == ["d", "e"]


def test_a_stanza_without_options_shows_that_a_run_has_begun():
    assert show(begin(begin((), "a"), "", run="2:1")) == ["a*"]


def test_a_family_replaces_its_own():
    both = begin(begin((), "a"), "b", family="inet6")
    assert show(begin(both, "c", run="2:1", family="inet6")) == ["a*", "c"]


def test_another_logical_interface_and_an_alias_replace_nothing():
    passes = begin((), "a")
    passes = begin(passes, "b", run="2:1", logical="roam")
    passes = begin(passes, "c", run="3:1", iface="eth0:1", logical="eth0:1")
    assert show(passes) == ["a", "b", "c"]
    assert show(begin(passes, "d", run="4:1", logical="roam")) == ["a", "d", "c"]
    assert show(list_of(passes, "eth0")) == ["a", "b"]


def test_up_belongs_to_its_pre_up():
    passes = begin_pass((), make("a"))
    assert complete_pass(passes, make("a")) == passes
    # Two stanzas alike are two at their pre-up.
    twice = begin_pass(passes, make("a"))
    assert show(twice) == ["a", "a"]
    assert complete_pass(twice, make("a")) == twice


def test_evidence_alone_replaces_no_rules():
    """The stanza may come first, where the first run does not see it: nothing of ours runs without a record."""
    evidence = Pass("inet", {"dns-domain": "example.com"}, "eth0", "eth0", "2:1")
    passes = begin_pass(begin((), "a"), evidence)
    assert [dict(each.options) for each in passes] == [{"netconf-vpn": "a"}, {"dns-domain": "example.com"}]
    assert has_rules(passes) and not has_rules([evidence])


def test_an_ifupdown_with_one_pass_replaces_it():
    passes = begin((), "a", run="")
    assert show(begin(passes, "b", run="")) == ["b"]
    assert begin(passes, "", run="") == ()
    assert show(begin(passes, "c", run="", iface="eth1")) == ["a", "c"]
    assert replaces(passes, make("b", "")) and not replaces((), make("b", ""))


def test_runs_that_nothing_tells_apart_lose_nothing():
    passes = begin((), "a", "b", run=UNKNOWN_RUN)
    assert show(passes) == ["a", "b"]
    assert show(begin(passes, "a", "c", run=UNKNOWN_RUN)) == ["a", "b", "c"]


def test_ifup_force_replaces_and_the_next_pass_of_a_run_does_not():
    passes = begin((), "a")
    assert replaces(passes, make("b", "2:1"))
    assert not replaces(passes, make("b"))
    assert not replaces(passes, make("", "2:1"))
    assert not replaces(passes, make("b", "2:1", logical="roam"))


# ifdown


def down(passes, *old, link_is_down=True, kept=False):
    """Let an ifdown leave and end passes, one after the other."""
    for each in old:
        passes = leave_passes(passes, each, kept)
        passes = end_pass(passes, each, link_is_down, kept)
    return passes


def test_ifdown_ends_all_as_soon_as_the_link_is_down():
    passes = begin((), "a", "b")
    assert {each.stage for each in leave_passes(passes, make("a"), False)} == {LEAVING}
    assert down(passes, make("a")) == ()


def test_while_the_link_is_up_they_stay_together_until_the_last_has_ended():
    passes = begin((), "a", "b")
    first = down(passes, make("a"), link_is_down=False)
    assert [each.stage for each in first] == [ENDED, LEAVING]
    both = down(first, make("b"), link_is_down=False)
    assert [each.stage for each in both] == [ENDED, ENDED] and are_over(both)
    assert not are_over(passes)


def test_an_alias_ends_for_itself():
    passes = begin(begin((), "a"), "b", iface="eth0:1", logical="eth0:1")
    old = make("b", iface="eth0:1", logical="eth0:1")
    left = down(passes, old, link_is_down=False)
    assert show(left) == ["a"] and left[0].stage == UP
    # The link goes down with eth0; ifupdown has the alias up still.
    assert show(down(passes, make("a"))) == ["b"]


def test_ifdown_of_what_was_raised_over_it_ends_all_of_the_interface():
    passes = begin(begin((), "a"), "b", run="2:1", logical="roam")
    assert down(passes, make("b", logical="roam")) == ()
    assert down(passes, make("", logical="plain")) == ()
    assert are_over(leave_passes(passes, make("", logical="plain"), False))


def test_wpa_actions_ifdown_leaves_what_it_was_raised_over():
    passes = begin(begin((), "a"), "b", run="2:1", logical="home")
    left = down(passes, make("b", logical="home"), kept=True)
    assert show(left) == ["a"] and left[0].stage == KEPT
    # It raises another one, with options or without; the admin ends it.
    for text in ("", "c"):
        again = begin(left, text, run="3:1", logical="cafe")
        assert again[0].stage == UP and again[0].reached
        assert down(again, make(text, logical="cafe")) == ()


def test_an_ifup_after_an_ifdown_begins_anew():
    """Also where that one left the link up, or was killed half way."""
    ended = down(begin((), "a", "b"), make("a"), make("b"), link_is_down=False)
    assert show(begin(ended, "c", run="2:1")) == ["c"]
    leaving = leave_passes(begin((), "a", "b"), make("a"), False)
    assert show(begin(leaving, "c", run="2:1")) == ["c"]
    # A stanza without options comes first: until the next one there would be no guard at all.
    assert show(begin(leaving, "", run="2:1")) == ["a*", "b*"]
    assert show(begin(leaving, "", "c", run="2:1")) == ["c"]
    evidence = Pass("inet", {"dns-domain": "example.com"}, "eth0", "eth0", "2:1")
    assert show(begin_pass(leaving, evidence)[:2]) == ["a*", "b*"]


def test_a_killed_ifdown_ends_nothing_that_a_later_ifup_has_begun():
    """Its hooks go on without it.  What was begun in the same tick of the clock counts as later."""
    late = begin(begin((), "a", began=100), "b", run="2:1", began=300)
    for began, overtaken in ((0, False), (100, True), (299, True), (300, True), (301, False)):
        old = make("a", began=began)
        assert is_overtaken(late, old) == overtaken
        assert (leave_passes(late, old, False) == late) == overtaken
        assert (end_pass(late, old, True, False) == late) == overtaken
    assert not is_overtaken(late, make("a", iface="eth0:1", began=200))
    assert not is_overtaken(begin((), "a"), make("a", began=200))
    # Where nothing tells two runs apart, either.
    unknown = begin(begin((), "a", run=UNKNOWN_RUN, began=100), "a", run=UNKNOWN_RUN, began=300)
    assert show(unknown) == ["a"] and is_overtaken(unknown, make("a", began=200))


# What they mean together


def rules_of(*options):
    return read_rules_of([Pass("inet", each, "eth0", "eth0", "1:1") for each in options])


def test_within_a_pass_the_last_line_wins_between_passes_all_guards_count():
    rules = rules_of({"netconf-guard": "yes\nunless office"}, {"netconf-guard": "on cafe"}, {"netconf-guard": "no"})
    assert [guard.text for guard in rules.guards] == ["unless office", "on cafe"]
    assert rules.is_guarded() and rules.guard.text == "unless office"
    assert not rules_of({"netconf-guard": "no"}, {"netconf-guard": "no"}).is_guarded()
    assert [guard.readable for guard in rules_of({"netconf-guard-2": "yes"}, {"netconf-guard": "no"}).guards] == [False]


@pytest.mark.parametrize("trusts, trust", [
    (["", ""], ""), (["hints", ""], "hints"), (["", "authenticated"], "authenticated"),
    (["authenticated", "hints"], "authenticated"), (["hints", "hint"], "authenticated"),
    (["authenticated\nhints", "hints"], "hints"),
])
def test_the_stricter_of_the_written_trusts_counts(trusts, trust):
    assert rules_of(*({"netconf-trust": text} if text else {} for text in trusts)).trust == trust


def test_the_last_timeout_counts():
    assert rules_of({"netconf-timeout": "3"}, {"netconf-timeout": "9\n7"}, {"netconf-vpn": "unit x"}).timeout == 7


def test_lines_that_two_stanzas_inherit_count_once():
    options = {"netconf-location": "a gateway=192.0.2.1\nb gateway=192.0.2.2", "netconf-vpn": "openvpn corp unles a"}
    rules = rules_of(options, {"netconf-location": "c ssid=x"}, options)
    assert [location.name for location in rules.locations] == ["a", "b", "c"]
    assert len(rules.vpns) == 1 and len(rules.errors) == 1


def test_two_firewalls_are_an_error():
    passes = begin((), "a")
    one = Pass("inet", {"netconf-guard-backend": "nftables"}, "eth0", "eth0", "1:1")
    other = Pass("inet6", {"netconf-guard-backend": "iptables"}, "roam", "eth0", "1:1")
    assert find_conflict([*passes, one, one]) == ""
    assert find_conflict([one, other]) == (
        'netconf-guard-backend is "nftables" in the inet stanza of eth0 and "iptables" in the inet6 stanza of roam, '
        "raised on eth0: expected the same in all stanzas of a device"
    )
    # What the next pass of this run will replace does not count.
    assert find_conflict([one, other.change(reached=False)]) == ""


def test_a_pass_is_what_a_hook_was_told():
    invocation = Invocation("up", "eth0", "work", "inet", False, {"netconf-vpn": "unit x"}, "", "dhcp", "5:6")
    assert make_pass(invocation) == Pass("inet", {"netconf-vpn": "unit x"}, "work", "eth0", "5:6")
    assert describe_pass(make("a")) == "the inet stanza of eth0"
