"""From what was decided to the firewall: what is written down, before and after, whatever somebody does meanwhile."""

import socket
import struct
import time

import pytest
from guarded import ELSEWHERE, GUARD, HERE, LEASE, OFFICE, ROUTER, assert_closed, assert_open, ifup, listen, refresh

from netconf_hooks.exemption import Exemption, parse_exemption
from netconf_hooks.guard import enforce, records
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.guard.override import open_portal, release_guard
from netconf_hooks.state import boot_time
from netconf_hooks.system.netlink import RTM_DELNEIGH, pack_attribute

# The router of HERE: struct ndmsg and NDA_DST.
NEIGHBOUR = struct.pack("=BxxxiHBB", socket.AF_INET, HERE.index, 0, 0, 1) + pack_attribute(1, socket.inet_aton(ROUTER))


def test_a_run_without_a_watcher_puts_back_what_was_taken_away(cafe, firewall, messages):
    firewall.stands.clear()
    enforce.close_decided(cafe)
    assert list(firewall.stands) == ["eth0"]
    assert_closed(cafe, firewall)
    assert any("somebody removed it (nftables: it is gone); restoring it" in message for message in messages)


@pytest.mark.parametrize("change", [
    {"exemptions": (str(Exemption("udp", "198.51.100.1/32", 1194)),)}, {"servers": ("192.0.2.9",)}
])  # fmt: skip
def test_what_has_changed_while_the_firewall_was_told_is_still_to_be_told(cafe, change):
    told = cafe.read_guard("eth0")
    cafe.write_guard(told.change(**change))
    records.mark_applied(cafe, told, opened=False)
    record = cafe.read_guard("eth0")
    assert (record.opened, record.done) == (False, False)
    records.mark_applied(cafe, record, opened=False)
    assert cafe.read_guard("eth0").done


@pytest.mark.parametrize("opened, verdict, done", [
    (True, "open", True), (False, "open", False), (True, "closed", False), (False, "closed", True)
])
def test_what_was_done_is_done_if_it_is_what_was_decided(cafe, opened, verdict, done):
    record = cafe.read_guard("eth0").change(verdict=verdict)
    cafe.write_guard(record)
    records.mark_applied(cafe, record, opened)
    after = cafe.read_guard("eth0")
    assert (after.opened, after.done) == (opened, done)


@pytest.mark.parametrize("lease", [0.0, 1000.0])
def test_a_lease_is_written_down_by_both_clocks_or_by_none(cafe, lease):
    records.mark_applied(cafe, cafe.read_guard("eth0"), True, lease)
    record = cafe.read_guard("eth0")
    assert record.lease_until == lease
    if lease:
        assert boot_time() < record.lease_until_boot <= boot_time() + LEASE
    else:
        assert record.lease_until_boot == 0.0


@pytest.mark.parametrize("note", [
    lambda store, record: records.mark_applied(store, record, True, 1000.0), enforce._note_not_open,
    lambda store, record: enforce._note_opening(store, record, 1000.0),
])
def test_nothing_is_noted_of_a_guard_that_the_admin_has_released_or_that_is_gone(office, note):
    record = office.read_guard("eth0")
    release_guard(office, "eth0")
    released = office.read_guard("eth0")
    note(office, record)
    assert office.read_guard("eth0") == released
    office.remove_guard("eth0")
    note(office, record)
    assert not office.has_guards()


def test_a_link_that_the_firewall_has_shut_is_noted_as_such(office, firewall):
    record = office.read_guard("eth0").change(done=False)
    office.write_guard(record)
    firewall.shut_window("eth0", "open")
    enforce.follow_closing(office)
    assert (office.read_guard("eth0").opened, office.read_guard("eth0").done) == (False, False)
    assert not firewall.is_open("eth0")


def test_a_link_that_may_be_open_is_still_listened_to_if_the_firewall_fails(office, firewall, messages):
    """Somebody else has its lock: what is open can neither be replaced nor closed now."""
    office.write_guard(office.read_guard("eth0").change(done=False))
    firewall.broken = "busy"
    enforce.follow_closing(office)
    assert firewall.is_open("eth0")
    assert (office.read_guard("eth0").opened, office.read_guard("eth0").done) == (True, False)
    assert "error: eth0: netconf-guard: busy" in messages
    firewall.broken = ""
    leases, news = listen(office)
    news.waiting = [(RTM_DELNEIGH, NEIGHBOUR)]
    leases.hear()
    assert_closed(office, firewall)


def test_what_is_open_stays_so_for_a_whole_lease_while_its_rules_are_replaced(office, firewall):
    office.write_guard(office.read_guard("eth0").change(done=False))
    renewed = []
    real = firewall.renew_window
    firewall.renew_window = lambda device, window: [renewed.append(window.until), real(device, window)][1]
    enforce.follow_closing(office)
    assert_open(office, firewall)
    assert len(renewed) == 1
    assert time.time() + LEASE - 20 < renewed[0] <= time.time() + LEASE


WEB = [Exemption("tcp", port=80)]
NO_MACS = HERE.change(macs={})


def follow(store):
    """Let the firewall be told of eth0's guard."""
    store.write_guard(store.read_guard("eth0").change(done=False))
    enforce.follow_closing(store)


def test_a_portal_pass_stays_while_the_rules_are_replaced(cafe, firewall, place):
    open_portal(cafe, "eth0", WEB, 300)
    place.scenes["eth0"], place.known["eth0"] = NO_MACS, HERE
    follow(cafe)
    assert firewall.get_window("eth0", "portal") and cafe.read_guard("eth0").done
    assert place.resolved[-1] == (HERE.index, HERE.routers)


def test_only_the_routers_of_a_windows_network_are_asked_for_their_mac(cafe, firewall, place):
    """A second one that has come since says nothing about it."""
    open_portal(cafe, "eth0", WEB, 300)
    place.scenes["eth0"] = NO_MACS.change(routers=(*HERE.routers, "192.0.2.9"))
    place.known["eth0"] = HERE
    follow(cafe)
    assert place.resolved[-1] == (HERE.index, HERE.routers)
    place.scenes["eth0"] = NO_MACS.change(routers=("192.0.2.9",))
    place.resolved.clear()
    follow(cafe)
    assert place.resolved == []  # it has left that network


@pytest.mark.parametrize("now, known", [(ELSEWHERE, ELSEWHERE), (NO_MACS, ELSEWHERE), (NO_MACS, NO_MACS)])
def test_a_portal_pass_that_is_still_written_down_is_for_its_network_alone(cafe, firewall, place, now, known):
    """The watcher has shut it, and waits for the records' lock; the new network's router may be the same address."""
    open_portal(cafe, "eth0", WEB, 300)
    firewall.shut_window("eth0", "open", "portal")
    place.scenes["eth0"], place.known["eth0"] = now, known
    cafe.write_guard(cafe.read_guard("eth0").change(exemptions=(NEW,)))
    follow(cafe)
    assert firewall.get_window("eth0", "portal") is None
    # All else is told, and that something is missing is not forgotten.
    assert parse_exemption(NEW) in firewall.list_exemptions("eth0")
    assert not cafe.read_guard("eth0").done


@pytest.mark.parametrize("times, passes", [(1, True), (3, False)])
def test_a_portal_pass_is_told_again_if_somebody_has_shut_the_link_meanwhile(
    cafe, firewall, monkeypatch, times, passes
):
    open_portal(cafe, "eth0", WEB, 300)
    begin_look, left = firewall.begin_look, [times]

    def shut_after(device, token):
        begin_look(device, token)
        if left[0]:
            left[0] -= 1
            firewall.shut_window(device, "open")

    monkeypatch.setattr(firewall, "begin_look", shut_after)
    follow(cafe)
    assert bool(firewall.get_window("eth0", "portal")) == passes
    left[0] = times
    if passes:
        open_portal(cafe, "eth0", WEB, 300)
    else:
        with pytest.raises(GuardError, match="ask again"):
            open_portal(cafe, "eth0", WEB, 300)
        assert not cafe.read_guard("eth0").portal_until
    assert bool(firewall.get_window("eth0", "portal")) == passes


def test_a_pass_that_was_asked_for_on_another_network_is_refused(cafe, firewall):
    with pytest.raises(GuardError, match="on another network by now"):
        open_portal(cafe, "eth0", WEB, 300, asked=ELSEWHERE)
    assert firewall.get_window("eth0", "portal") is None
    assert not cafe.read_guard("eth0").portal_until
    open_portal(cafe, "eth0", WEB, 300, asked=HERE)
    assert firewall.get_window("eth0", "portal")


def test_a_portal_pass_that_ended_while_it_was_told_is_told_again(cafe):
    open_portal(cafe, "eth0", WEB, 300)
    told = cafe.read_guard("eth0")
    cafe.write_guard(told.change(portal_until=0.0))
    records.mark_applied(cafe, told, opened=False)
    assert not cafe.read_guard("eth0").done


def test_a_link_that_was_shut_since_the_look_began_is_not_opened_and_says_why(cafe, network, firewall, messages):
    """Its token is gone: what was decided rests on a network that it has left."""
    network["gateway"] = OFFICE
    real = firewall.close

    def close(device, exemptions, windows=(), token="", ports=None):
        if token:
            firewall.tokens.clear()
        real(device, exemptions, windows, token, ports)

    firewall.close = close
    before = cafe.read_guard("eth0").shut_at
    refresh(cafe)
    assert_closed(cafe, firewall)
    record = cafe.read_guard("eth0")
    assert record.because == "the network changed while it was looked at"
    assert record.shut_at > before
    assert any("eth0: netconf-guard: not opened:" in message for message in messages)


@pytest.fixture
def three(cafe, firewall):
    """The store; three links have a closed guard of which the firewall has to be told."""
    record = cafe.read_guard("eth0")
    for device in ("eth0", "eth1", "eth2"):
        cafe.write_guard(record.change(device=device, done=False, exemptions=(NEW,)))
        firewall.stands.setdefault(device, ((), {}))
    firewall.asked.clear()
    return cafe


NEW = str(Exemption("udp", "198.51.100.7/32", 1194))


def test_what_is_to_be_told_of_many_links_is_one_transaction(three, firewall):
    enforce.follow_closing(three)
    assert firewall.asked == ["close at once eth0 eth1 eth2"]
    for device in ("eth0", "eth1", "eth2"):
        assert three.read_guard(device).done
        assert parse_exemption(NEW) in firewall.list_exemptions(device)
    enforce.follow_closing(three)
    assert firewall.asked == ["close at once eth0 eth1 eth2"]


def test_where_one_link_can_not_be_told_the_others_are(three, firewall, messages):
    real = firewall.close

    def close(device, *arguments, **named):
        if device == "eth1":
            raise GuardError("eth1: no")
        real(device, *arguments, **named)

    def close_all(closings):
        raise GuardError("eth1: no")

    firewall.close, firewall.close_all = close, close_all
    enforce.follow_closing(three)
    assert [three.read_guard(device).done for device in ("eth0", "eth1", "eth2")] == [True, False, True]
    assert "error: eth1: netconf-guard: eth1: no" in messages


def test_an_open_link_is_told_by_itself_and_stays_open(office, firewall):
    record = office.read_guard("eth0")
    for device in ("eth1", "eth2"):
        office.write_guard(record.change(device=device, verdict="closed", opened=False, done=False, token=""))
    office.write_guard(record.change(done=False))
    firewall.asked.clear()
    enforce.follow_closing(office)
    assert firewall.asked == ["renew eth0 open", "close eth0 open", "close at once eth1 eth2"]
    assert_open(office, firewall)


def test_all_that_was_taken_away_is_put_back_in_one_transaction(three, firewall):
    firewall.stands.clear()
    enforce.put_back(three)
    assert firewall.asked == ["close at once eth0 eth1 eth2"]
    assert list(firewall.stands) == ["eth0", "eth1", "eth2"]


@pytest.fixture
def with_windows(three):
    """The store; two of the three links have a window for a portal."""
    for device in ("eth0", "eth1"):
        open_portal(three, device, [Exemption("tcp", port=80)], 300)
    return three


def test_windows_are_put_back_when_all_links_are_closed_again(with_windows, firewall):
    """None stays open for as long as the windows of others take, whose routers may be silent."""
    firewall.stands.clear()
    firewall.asked.clear()
    enforce.put_back(with_windows)
    assert firewall.asked == ["close at once eth0 eth1 eth2", "close eth0 portal", "close eth1 portal"]
    for device in ("eth0", "eth1", "eth2"):
        record = with_windows.read_guard(device)
        assert (record.opened, record.done) == (False, True)


def test_a_window_that_can_not_be_put_back_is_still_to_be_told(with_windows, firewall, place):
    firewall.stands.clear()
    place.scenes["eth1"] = ELSEWHERE
    enforce.put_back(with_windows)
    assert list(firewall.stands) == ["eth0", "eth1", "eth2"]
    assert firewall.get_window("eth1", "portal") is None
    assert [with_windows.read_guard(device).done for device in ("eth0", "eth1", "eth2")] == [True, False, True]


def test_links_with_windows_keep_no_other_waiting(with_windows, firewall):
    firewall.asked.clear()
    for device in ("eth0", "eth1", "eth2"):
        with_windows.write_guard(with_windows.read_guard(device).change(done=False))
    enforce.follow_closing(with_windows)
    assert firewall.asked == ["close eth2", "close eth0 portal", "close eth1 portal"]


def test_the_looks_at_several_links_begin_in_one_transaction(cafe, links, network, firewall):
    ifup(cafe, links, "eth1", **GUARD)
    begun = []
    real = firewall.begin_looks
    firewall.begin_looks = lambda tokens: [begun.append(tuple(tokens)), real(tokens)][1]
    network["gateway"] = OFFICE
    refresh(cafe)
    assert begun == [("eth0", "eth1")]
    for device in ("eth0", "eth1"):
        assert_open(cafe, firewall, device)


def test_looks_that_can_not_begin_at_once_begin_one_by_one(cafe, links, network, firewall):
    ifup(cafe, links, "eth1", **GUARD)
    del firewall.stands["eth1"]
    firewall.begin_looks = lambda tokens: (_ for _ in ()).throw(GuardError("eth1: not guarded"))
    network["gateway"] = OFFICE
    refresh(cafe)
    assert_open(cafe, firewall)


@pytest.mark.parametrize("scene", [ELSEWHERE, HERE])
def test_a_link_that_has_moved_is_shut_before_names_are_looked_up(office, firewall, place, monkeypatch, scene):
    """That may take seconds."""
    seen = []
    monkeypatch.setattr(enforce, "let_tunnels_through", lambda store: seen.append(firewall.is_open("eth0")))
    office.write_guard(office.read_guard("eth0").change(done=False))
    place.scenes["eth0"] = scene
    enforce.close_decided(office)
    assert seen == [scene is HERE]


def test_a_closed_guard_has_no_lease_and_one_that_the_firewall_does_not_end_has_none_either(
    office, network, firewall
):
    def get_lease():
        record = office.read_guard("eth0")
        return record.lease_until, record.lease_until_boot

    assert all(get_lease())
    del network["gateway"]
    refresh(office)
    assert_closed(office, firewall)
    assert get_lease() == (0.0, 0.0)
    network["gateway"] = OFFICE
    firewall.has_lease = False
    refresh(office)
    assert firewall.is_open("eth0")
    assert get_lease() == (0.0, 0.0)
    records.mark_applied(office, office.read_guard("eth0"), opened=False)
    assert get_lease() == (0.0, 0.0)
