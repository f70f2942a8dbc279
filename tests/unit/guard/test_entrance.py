"""What hooks and watcher call on every machine: with a guard it is done, and without one nothing is."""

import sys

import pytest
from guarded import ifdown, ifup

from netconf_hooks import guard
from netconf_hooks.decide import Decision, Known
from netconf_hooks.guard import OpenLook
from netconf_hooks.stanzas.ifenv import read_environment
from netconf_hooks.stanzas.rules import read_rules

NOTHING = Decision({}, (), (), (), {})


@pytest.fixture
def nothing(store, monkeypatch):
    """The store of a machine without a guard, on which none of these modules can be imported."""
    store.prepare()
    for name in ("enforce", "guarded_look", "lifecycle", "lost", "records", "visits"):
        monkeypatch.setitem(sys.modules, f"netconf_hooks.guard.{name}", None)
    return store


def test_without_a_guard_nothing_is_done(nothing, firewall):
    leaving = read_environment("down", {"IFACE": "eth0"})
    for function in (guard.restore_records, guard.shut_guards, guard.close_guards, guard.open_guards, guard.end_guards):
        function(nothing)
    guard.begin_leaving(nothing, leaving)
    guard.leave(nothing, leaving)
    assert guard.is_closed_for(nothing, leaving, read_rules({}))
    assert guard.begin_looks(nothing, ("eth0", "eth1")) == {}
    assert guard.find_passes(nothing, "eth0") is None
    assert guard.read_guards(nothing, ()) == ((), {})
    assert guard.write_guards(nothing, Known({}), NOTHING) is False
    assert guard.put_back(nothing) == ""
    assert guard.end_visits(nothing) == (False, None)
    with guard.look(nothing, "eth0", 5.0) as passing:
        assert isinstance(passing, OpenLook)
        passing.announce("eth0", "udp", "192.0.2.1", 53)
    assert firewall.asked == []


def test_a_machine_with_a_guard_can_be_told_from_one_without(nothing):
    """Else the test above would show nothing."""
    with pytest.raises(ImportError):
        guard.put_back(nothing, {"eth0": "nftables"})


def test_the_look_at_a_single_link_begins_by_itself(cafe, links, network):
    assert guard.begin_looks(cafe, ("eth0",)) == {}
    ifup(cafe, links, "eth1")
    assert list(guard.begin_looks(cafe, ("eth0", "eth1"))) == ["eth0", "eth1"]


def test_a_guard_goes_when_its_link_is_down_at_last(cafe, links, firewall):
    """ifdown leaves a link of the method manual up."""
    ifdown(cafe, links, down=False)
    guard.end_guards(cafe)
    assert list(firewall.stands) == ["eth0"]
    links.plug("eth0", 7, up=False)
    guard.end_guards(cafe)
    assert firewall.stands == {} and not cafe.has_guards()


def test_nothing_was_lost_of_a_guard_that_was_known_a_moment_ago(cafe, firewall):
    assert guard.put_back(cafe, {"eth0": "nftables"}) == ""
    (cafe_record,) = cafe.read_guards(pytest.fail)
    cafe.remove_guard("eth0")
    assert guard.put_back(cafe, {"eth0": "nftables"}) == "the record of a guard was lost"
    assert cafe.read_guard("eth0").device == cafe_record.device
