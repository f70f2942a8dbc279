"""What the admin does by hand: the records and the log say what became of it."""

import time

import pytest
from guarded import ELSEWHERE, assert_closed, ifup

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard import override
from netconf_hooks.guard.firewall import GuardError, TokenGone
from netconf_hooks.guard.override import close_guards, find_state, open_portal, release_guard
from netconf_hooks.state import boot_time
from netconf_hooks.system import log
from netconf_hooks.watcher import watch

WEB = [Exemption("tcp", port=80)]


@pytest.fixture(params=["as_root", "as_user"])
def user(request):
    """Who asks."""
    request.getfixturevalue(request.param)
    return request.param


def test_only_links_that_were_open_are_said_to_be_closed(office, links, network, firewall, messages):
    network.clear()
    links.plug("eth1", 8)
    ifup(office, links, "eth1")
    assert_closed(office, firewall, "eth1")
    messages.clear()
    close_guards(office, "the machine sleeps")
    assert [message for message in messages if "the machine sleeps" in message] == [
        "info: eth0: netconf-guard: closed: the machine sleeps"
    ]


def test_before_sleep_a_lock_that_is_soon_free_is_waited_for(office, firewall, monkeypatch):
    held = office.lock_records()
    assert held.take_now()
    take_now = type(held).take_now

    def take_once_it_is_free(lock):
        if taken := take_now(lock):
            return taken
        held.release()
        return False

    monkeypatch.setattr(type(held), "take_now", take_once_it_is_free)
    close_guards(office, "the machine sleeps")
    assert_closed(office, firewall)


def test_before_sleep_a_lock_that_stays_held_leaves_the_link_closed_and_is_told(
    office, firewall, messages, monkeypatch
):
    monkeypatch.setattr(override, "SLEEP_PATIENCE", 0.1)
    held = office.lock_records()
    assert held.take_now()
    try:
        close_guards(office, "the machine sleeps")
    finally:
        held.release()
    assert not firewall.is_open("eth0")
    assert office.read_guard("eth0").opened
    assert any(message.startswith("error: netconf-guard: all guards are closed, but") for message in messages)


def test_a_portal_is_told_and_asked_at_once_whether_it_is_needed(cafe, messages):
    open_portal(cafe, "eth0", WEB, 300)
    assert "info: eth0: netconf-guard: a captive portal may be visited for 300 s" in messages
    assert cafe.read_guard("eth0").portal_api == ""
    cafe.write_guard(cafe.read_guard("eth0").change(portal_due=boot_time() + 100))
    open_portal(cafe, "eth0", WEB, 300, "https://portal.example/api")
    record = cafe.read_guard("eth0")
    assert record.portal_api == "https://portal.example/api"
    assert record.portal_due < boot_time()


def test_a_portal_of_a_link_that_has_moved_meanwhile_is_no_pass(cafe, firewall, place, monkeypatch):
    """It was on the network when the pass was written down."""
    write = cafe.write_guard

    def write_and_move(record):
        write(record)
        place.scenes["eth0"] = ELSEWHERE

    monkeypatch.setattr(cafe, "write_guard", write_and_move)
    with pytest.raises(GuardError, match="another network by now"):
        open_portal(cafe, "eth0", WEB, 300)
    assert firewall.get_window("eth0", "portal") is None
    assert cafe.read_guard("eth0").portal_left() == 0


@pytest.mark.parametrize("newer", [True, False])
def test_a_failed_pass_takes_back_no_newer_one(cafe, firewall, monkeypatch, newer):
    """Another process may have closed the link, or have opened a pass of its own."""
    def open_window(device, window, token=""):
        if newer:
            cafe.write_guard(cafe.read_guard("eth0").change(portal_until=window.until + 60))
        raise TokenGone(device)

    monkeypatch.setattr(firewall, "open_window", open_window)
    with pytest.raises(GuardError):
        open_portal(cafe, "eth0", WEB, 300)
    assert bool(cafe.read_guard("eth0").portal_until) is newer


def test_a_failed_pass_of_a_guard_that_is_gone_leaves_it_gone(cafe, firewall, monkeypatch):
    def open_window(device, window, token=""):
        cafe.remove_guard("eth0")
        raise TokenGone(device)

    monkeypatch.setattr(firewall, "open_window", open_window)
    with pytest.raises(GuardError):
        open_portal(cafe, "eth0", WEB, 300)
    assert not cafe.has_guards()


def test_the_state_of_a_guard_for_root_and_others(office, firewall, user):
    """Root asks the firewall, which others can't: they get what the record says."""
    assert find_state(office.read_guard("eth0")) == "open"
    firewall.shut_window("eth0", "open")
    assert find_state(office.read_guard("eth0")) == ("closed" if user == "as_root" else "open")


def test_root_gets_the_record_and_a_complaint_if_the_firewall_can_not_be_asked(office, firewalls, as_root, monkeypatch):
    said = []
    monkeypatch.setattr(log, "complain", said.append)
    firewalls["nftables"].broken = "busy"
    assert find_state(office.read_guard("eth0")) == "open"
    assert said == ["eth0: netconf-guard: busy"]


def test_what_is_released_stays_so_for_everybody_when_its_lease_would_have_ended(office, monkeypatch, user):
    release_guard(office, "eth0")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    boot = boot_time()
    monkeypatch.setattr("netconf_hooks.state.boot_time", lambda: boot + 3600)
    assert find_state(office.read_guard("eth0")) == "released"


def test_there_is_nothing_left_to_do_for_what_is_released(cafe):
    """The watcher would look again and again for it."""
    open_portal(cafe, "eth0", WEB, 300)
    release_guard(cafe, "eth0")
    record = cafe.read_guard("eth0")
    assert (record.opened, record.portal_left()) == (True, 0)
    cafe.write_guard(record.change(shut_at=0.0))
    assert not watch.needs_retry(cafe, cafe.read_interfaces(log.error))
