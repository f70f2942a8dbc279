"""What is known of guards before a decision."""

import pytest
from guarded import OFFICE, assert_closed, assert_open, refresh
from situations import make_record

from netconf_hooks.decide import Decision, Known
from netconf_hooks.guard import records
from netconf_hooks.state import GuardRecord, boot_time

LINKS = {7: "eth0", 8: "lan0", 9: "wlan1"}


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """What links are called, by their index."""
    def if_indextoname(index):
        if index not in LINKS:
            raise OSError(19, "No such device")
        return LINKS[index]

    monkeypatch.setattr(records, "if_indextoname", if_indextoname)


@pytest.mark.parametrize("iface, index, renamed", [
    ("eth0", 7, {}),
    ("eth0", 8, {"eth0": "lan0"}),
    ("eth0:1", 8, {"eth0": "lan0"}),
    ("eth0", 12, {}),  # there is no such link any more
    ("eth0", 0, {}),  # nor was there when it was looked at
    ("wlan0", 9, {}),  # it has no guard
])
def test_guarded_links_that_have_another_name_now(iface, index, renamed):
    assert records.find_renamed([GuardRecord("eth0", "nftables")], [make_record(iface, index)]) == renamed


def test_a_lease_that_has_ended_is_no_longer_written_down_as_open(office, network, firewall, monkeypatch):
    """Nobody renewed it; only a new look opens the link again."""
    record = office.read_guard("eth0")
    assert records.read_expired(office) == (record,)
    later = boot_time() + 3600
    with monkeypatch.context() as patch:
        patch.setattr("netconf_hooks.state.boot_time", lambda: later)
        [expired] = records.read_expired(office)
    assert (expired.opened, expired.done) == (False, False)
    assert office.read_guard("eth0") == expired
    network["gateway"] = OFFICE
    refresh(office)
    assert_open(office, firewall)


def test_a_released_guard_has_no_lease(office):
    released = office.read_guard("eth0").change(verdict="released", lease_until=1.0)
    office.write_guard(released)
    assert records.read_expired(office) == (released,)


def test_a_link_that_was_renamed_is_closed_and_that_is_said_once(office, firewall, monkeypatch, messages):
    monkeypatch.setitem(LINKS, 7, "lan0")
    for _ in range(2):
        refresh(office)
        assert_closed(office, firewall)
    said = [message for message in messages if "is called lan0 now" in message and message.startswith("error: ")]
    assert len(said) == 1


@pytest.mark.parametrize("verdict, done, unsettled", [
    ("closed", False, True), ("closed", True, False), ("open", False, True), ("open", True, False),
    ("released", False, False),
])
def test_the_firewall_is_told_of_what_is_not_done(store, messages, verdict, done, unsettled):
    store.prepare()
    before = GuardRecord("eth0", "nftables", "closed", "it is coming up", done=True)
    after = before.change(verdict=verdict, because="somebody says so", done=done)
    assert records.write_verdicts(store, Known({}, (before,)), Decision({}, (after,), (), ())) is unsettled
    assert store.read_guard("eth0") == after
    assert messages == ([] if verdict == "closed" else [f"info: eth0: netconf-guard: {verdict}: somebody says so"])
