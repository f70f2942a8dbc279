"""What the listening process does about guards: what it shuts at which news, and when it renews; it never waits."""

import socket
import struct
import time
from pathlib import Path

import pytest
from guarded import (
    ELSEWHERE, FakeFirewall, HERE, MAC, OFFICE, OTHER_MAC, ROUTER, assert_closed, assert_open, listen, refresh
)  # fmt: skip

from netconf_hooks import settle, state
from netconf_hooks.evidence.fingerprint import Fingerprint, parse_fingerprint
from netconf_hooks.exemption import Exemption
from netconf_hooks.guard import firewall as firewall_module, lease as lease_module
from netconf_hooks.guard.enforce import put_back
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.guard.guarded_look import CONFIRMATION
from netconf_hooks.guard.override import open_portal, release_guard
from netconf_hooks.guard.records import LEASE
from netconf_hooks.guard.shut import shut_guard
from netconf_hooks.state import boot_time
from netconf_hooks.system import log
from netconf_hooks.system.netlink import (
    IFF_LOWER_UP, IFF_UP, NUD_REACHABLE, NetlinkError, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWLINK,
    RTM_NEWNEIGH, RTM_NEWROUTE, pack_attribute
)  # fmt: skip

NUD_FAILED = 0x20  # linux/neighbour.h

INDEX = HERE.index


def make_link(kind=RTM_NEWLINK, index=INDEX, carrier=True, name="eth0"):
    """Return news of a link: struct ifinfomsg and its name."""
    flags = IFF_UP | (IFF_LOWER_UP if carrier else 0)
    return kind, struct.pack("=BxHiII", 0, 1, index, flags, 0) + pack_attribute(3, name.encode() + b"\0")


def make_route(kind=RTM_NEWROUTE, index=INDEX, router=ROUTER):
    """Return news of an IPv4 default route: struct rtmsg, RTA_OIF and RTA_GATEWAY."""
    body = struct.pack("=8BI", socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0) + pack_attribute(4, struct.pack("=i", index))
    return kind, body + pack_attribute(5, socket.inet_aton(router))


def make_neighbour(kind=RTM_NEWNEIGH, index=INDEX, address=ROUTER, mac=MAC, state=NUD_REACHABLE):
    """Return news of a neighbour: struct ndmsg, NDA_DST and NDA_LLADDR."""
    body = struct.pack("=BxxxiHBB", socket.AF_INET, index, state, 0, 1) + pack_attribute(1, socket.inet_aton(address))
    return kind, body + (pack_attribute(2, bytes.fromhex(mac.replace(":", ""))) if mac else b"")


LOST = [
    make_link(carrier=False),
    make_link(kind=RTM_DELLINK),
    make_link(name="lan9"),
    make_route(kind=RTM_DELROUTE),
    make_neighbour(mac=OTHER_MAC),
    make_neighbour(mac="", state=NUD_FAILED),
    make_neighbour(kind=RTM_DELNEIGH),
]


@pytest.mark.parametrize("news", LOST)
def test_news_of_a_lost_carrier_or_router_shut_even_if_the_network_is_the_same_again(
    office, firewall, messages, news
):
    """The cable was pulled and is in again: that it was out is what counts."""
    listening, socket = listen(office)
    socket.waiting = [news]
    assert listening.hear()
    assert_closed(office, firewall)
    reason = listening.take_reason()
    assert reason and f"info: eth0: netconf-guard: closed: {reason}" in messages
    assert not listening.take_reason()
    assert firewall.tokens.get("eth0", set()) == set()


def test_what_waits_for_a_neighbour_is_dropped_when_the_link_is_shut(office, links, place):
    """It has passed the firewall: the router that answers may be another network's."""
    links.plug("eth0", INDEX)
    listening, socket = listen(office)
    socket.waiting = [make_link(carrier=False)]
    place.emptied.clear()
    listening.hear()
    assert place.emptied == [INDEX]


@pytest.mark.parametrize("news", [
    make_link(),
    make_link(index=99, carrier=False, name="eth9"),
    make_link(index=99, kind=RTM_DELLINK, name="eth9"),
    make_route(),
    make_route(kind=RTM_DELROUTE, index=99),
    make_route(kind=RTM_DELROUTE, router="192.0.2.9"),  # a second router's, which was not there when it was opened
    make_neighbour(),
    make_neighbour(address="192.0.2.77", mac=OTHER_MAC),
    make_neighbour(index=99, mac=OTHER_MAC),
    # A station behind a port of a bridge: AF_BRIDGE, without an IP address or with that of a vxlan's peer.
    (RTM_NEWNEIGH, struct.pack("=BxxxiHBB", 7, INDEX, NUD_REACHABLE, 0, 1) + pack_attribute(2, bytes(6))),
    (RTM_DELNEIGH, struct.pack("=BxxxiHBB", 7, INDEX, 0, 0, 1) + pack_attribute(1, bytes(4))),
])
def test_other_news_shut_nothing(office, firewall, news):
    listening, socket = listen(office)
    socket.waiting = [news]
    assert listening.hear()
    assert_open(office, firewall)
    assert not listening.take_reason()


@pytest.mark.parametrize("news", [make_link(), make_route(), make_route(kind=RTM_DELROUTE, router="192.0.2.9")])
def test_news_that_may_mean_another_network_shut_where_it_is_one(office, firewall, place, news):
    listening, socket = listen(office)
    place.scenes["eth0"] = ELSEWHERE
    socket.waiting = [news]
    listening.hear()
    assert_closed(office, firewall)


def test_a_carrier_that_was_back_before_the_kernel_told_of_its_loss_shuts(office, firewall, place, messages):
    """The cable was moved: the event says that there is carrier, and the old router is still in the kernel's table."""
    listening, socket = listen(office)
    place.scenes["eth0"] = Fingerprint(INDEX, True, HERE.networks, HERE.routers, HERE.macs, losses=1)
    socket.waiting = [make_link()]
    listening.hear()
    assert_closed(office, firewall)
    assert "info: eth0: netconf-guard: closed: the carrier was gone meanwhile" in messages


def test_news_that_were_lost_shut(office, firewall):
    listening, socket = listen(office)
    socket.dropped = True
    assert listening.hear()
    assert_closed(office, firewall)


def test_news_that_were_lost_end_a_portal_pass_though_the_network_looks_the_same(cafe, firewall):
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    listening, socket = listen(cafe)
    socket.dropped = True
    listening.hear()
    assert firewall.get_window("eth0", "portal") is None


def test_news_of_a_link_that_is_gone_are_recognised_by_its_number(office, firewall, links):
    """It went before anybody listened, and its name tells nobody its number any more."""
    del links["eth0"]
    listening, socket = listen(office)
    socket.waiting = [make_link(kind=RTM_DELLINK)]
    assert_open(office, firewall)
    listening.hear()
    assert_closed(office, firewall)


def test_what_is_open_is_shut_before_what_is_closed(office, firewall):
    """Forty VLANs lose their carrier at once."""
    record = office.read_guard("eth0")
    for device, portal in (("aaa", 0.0), ("bbb", 1e12), ("ccc", 0.0)):
        changes = {"verdict": "closed", "opened": False, "portal_until": portal, "portal_fingerprint": str(HERE)}
        office.write_guard(record.change(device=device, **changes))
    listening, socket = listen(office)
    socket.dropped = True
    firewall.asked.clear()
    for device in ("aaa", "bbb", "ccc"):
        firewall.stands[device] = ((), {})
    listening.hear()
    assert firewall.asked == ["shut at once bbb eth0", "shut at once aaa ccc"]
    assert_closed(office, firewall)


def test_where_links_can_not_be_shut_at_once_each_is(office, firewall, monkeypatch):
    office.write_guard(office.read_guard("eth0").change(device="bbb"))  # it does not stand
    listening, socket = listen(office)
    socket.dropped = True
    firewall.asked.clear()

    def shut_all(windows):
        firewall.asked.append(f"shut at once {' '.join(windows)}")
        raise GuardError("bbb: not guarded")

    monkeypatch.setattr(firewall, "shut_all", shut_all)
    listening.hear()
    assert firewall.asked[:3] == ["shut at once bbb eth0", "shut bbb open", "shut eth0 open"]
    assert_closed(office, firewall)


def test_without_news_there_is_nothing_to_do(office, firewall):
    listening, _ = listen(office)
    asked = list(firewall.asked)
    assert not listening.hear()
    assert firewall.asked == asked


def test_only_what_concerns_a_guard_is_listened_to(office):
    _, socket = listen(office)
    assert socket.filters == [({INDEX}, {ROUTER})]


@pytest.mark.parametrize("scene", [HERE, ELSEWHERE])
def test_news_of_a_port_shut_only_if_the_link_is_on_another_network(
    office, firewall, links, place, monkeypatch, scene
):
    """A bridge or bond has others."""
    monkeypatch.setattr(lease_module, "list_news_devices", lambda device: (device, "eth1"))
    links.plug("eth1", 9)
    listening, socket = listen(office)
    place.scenes["eth0"] = scene
    socket.waiting = [make_link(index=9, name="eth1", carrier=False)]
    listening.hear()
    assert firewall.is_open("eth0") is (scene is HERE)


def test_only_guards_whose_record_has_changed_are_listened_to_anew(office, place, monkeypatch):
    monkeypatch.setattr(state, "_YOUNG", -(10**18))  # a record that was read once is remembered at once
    listening, socket = listen(office)
    asked = []
    real = place.get_link
    place.get_link = lambda device: asked.append(device) or real(device)
    listening.reload(thorough=False)
    assert asked == []
    record = office.read_guard("eth0")
    office.write_guard(record.change(fingerprint=str(HERE.change(macs={"192.0.2.9": MAC}))))
    listening.reload(thorough=False)
    assert asked
    assert socket.filters == [({INDEX}, {ROUTER}), ({INDEX}, {"192.0.2.9"})]


def test_a_lease_that_has_ended_is_a_reason_to_look(office, monkeypatch):
    listening, _ = listen(office)
    assert not listening.take_reason()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + LEASE + 1)
    listening.reload()
    assert listening.take_reason() == "a lease has ended"


def test_a_guard_whose_record_is_lost_is_shut_by_the_firewall_that_is_known_to_have_it(office, firewall, monkeypatch):
    """Before all others are even loaded, and before anything is asked of them."""
    listening, _ = listen(office)
    monkeypatch.setattr(lease_module, "shut_lost", lambda device: firewall.asked.append(f"shut lost {device}"))
    Path(office.guards, "eth0").write_text("")
    firewall.asked.clear()
    listening.check_records()
    assert firewall.asked == ["shut eth0 open", "shut lost eth0"]
    assert listening.take_reason() == "the record of a guard is lost"


def test_a_carrier_that_was_lost_voids_the_look_of_a_closed_link(cafe, network, firewall):
    """It was looked at when the cable was pulled: what was seen is another network's."""
    listening, socket = listen(cafe)
    network["gateway"] = OFFICE
    [record] = cafe.read_interfaces(log.error)
    newer = settle.look(cafe, "eth0", record.passes, patience=0.0)
    socket.waiting = [make_link(carrier=False), make_link()]
    listening.hear()
    settle.remember(cafe, settle.Change("eth0", newer, replaces=record))
    settle.act(cafe)
    assert_closed(cafe, firewall)
    # A look that begins after that opens it.
    refresh(cafe)
    assert_open(cafe, firewall)


def test_a_link_that_never_had_a_carrier_loses_none(cafe, links, firewall):
    links.plug("eth0", INDEX, carrier=False)
    listening, socket = listen(cafe)
    socket.waiting = [make_link(carrier=False)]
    asked = list(firewall.asked)
    listening.hear()
    assert firewall.asked == asked


def test_a_carrier_that_came_and_went_while_it_was_closed_ends_a_portal_pass(cafe, links, firewall):
    """The link looks as before when it is looked at: what was heard counts."""
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    links.plug("eth0", INDEX, carrier=False)
    listening, socket = listen(cafe)
    links.plug("eth0", INDEX)
    socket.waiting = [make_link()]
    listening.hear()
    assert firewall.get_window("eth0", "portal")
    socket.waiting = [make_link(carrier=False)]
    listening.hear()
    assert firewall.get_window("eth0", "portal") is None


def test_a_carrier_that_was_lost_is_lost_once(cafe, firewall):
    listening, socket = listen(cafe)
    socket.waiting = [make_link(carrier=False)]
    listening.hear()
    asked = list(firewall.asked)
    assert asked[-1] == "shut eth0 open"
    socket.waiting = [make_link(carrier=False)]
    listening.hear()
    assert firewall.asked == asked


def test_a_link_that_was_gone_has_lost_no_carrier_when_it_comes_back_without(cafe, firewall, links):
    """Nobody knows whether it had one when its window was opened."""
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    del links["eth0"]
    listening, socket = listen(cafe)
    socket.waiting = [make_link(carrier=False)]
    listening.hear()
    assert firewall.get_window("eth0", "portal") is not None
    for carrier in (True, False):
        socket.waiting = [make_link(carrier=carrier)]
        listening.hear()
    assert firewall.get_window("eth0", "portal") is None


@pytest.mark.parametrize("news", [True, False])
def test_a_firewall_without_news_is_looked_at_by_time(office, firewall, news, monkeypatch):
    """As xtables' legacy tables; another firewall, of which no guard is left, does not count."""
    listening, _ = listen(office)
    listening._firewalls["other"] = FakeFirewall("iptables-legacy" if news else "nftables", [], None)
    firewall.has_news = news
    listening.reload()
    assert not listening.take_check()
    now = time.monotonic()
    monkeypatch.setattr(lease_module, "monotonic", lambda: now + lease_module.CHECK + 0.1)
    assert listening.take_check() is not news
    assert not listening.take_check()
    # What is closed is not renewed: then this is all that wakes the process.
    shut_guard(office, office.read_guard("eth0"), "it moved")
    listening.reload()
    due = listening.next_time()
    assert due is None if news else due <= lease_module.monotonic() + lease_module.CHECK
    # And no more once there is no guard in it.
    office.remove_guard("eth0")
    firewall.stands.clear()
    listening.reload()
    assert listening.next_time() is None


def test_opening_can_not_overtake_shutting(cafe, network, firewall, place, journal):
    """The hook was stopped after its last check: what was heard meanwhile counts."""
    listening, socket = listen(cafe)
    network["gateway"] = OFFICE
    real = firewall.close

    def close(device, exemptions, windows=(), token="", ports=None):
        if token:
            # The listening process, while the hook stands still.
            socket.waiting = [make_link(carrier=False)]
            listening.hear()
        real(device, exemptions, windows, token, ports)

    firewall.close = close
    refresh(cafe)
    assert_closed(cafe, firewall)
    firewall.close = real
    refresh(cafe)
    assert_open(cafe, firewall)


# What is timed


def test_a_portal_pass_ends_with_its_network_though_the_guard_was_closed(cafe, firewall, place):
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    listening, socket = listen(cafe)
    socket.waiting = [make_route()]
    listening.hear()
    assert firewall.get_window("eth0", "portal")
    place.scenes["eth0"] = ELSEWHERE
    socket.waiting = [make_route()]
    listening.hear()
    assert firewall.get_window("eth0", "portal") is None
    assert not cafe.read_guard("eth0").portal_until


def test_a_portal_pass_stays_where_a_route_is_only_replaced(cafe, firewall, place):
    """A DHCP client does that when it renews its lease."""
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    listening, socket = listen(cafe)
    socket.waiting = [make_route(kind=RTM_DELROUTE), make_route()]
    listening.hear()
    assert firewall.get_window("eth0", "portal")


def test_a_portal_pass_stays_where_its_network_only_gets_another_router_too(cafe, firewall, place):
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    place.scenes["eth0"] = Fingerprint(
        INDEX, True, (*HERE.networks, "2001:db8::5/64"), (*HERE.routers, "fe80::1"), HERE.macs
    )  # fmt: skip
    listening, socket = listen(cafe)
    socket.waiting = [make_route()]
    listening.hear()
    assert firewall.get_window("eth0", "portal")


def test_the_cable_pulled_ends_a_portal_pass(cafe, firewall):
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    listening, socket = listen(cafe)
    socket.waiting = [make_link(carrier=False), make_link()]
    listening.hear()
    assert firewall.get_window("eth0", "portal") is None


@pytest.mark.parametrize("facts", [{"losses": 1}, {"ports": ("eth1/3/1",)}])
def test_a_carrier_that_was_gone_for_a_moment_ends_a_portal_pass(cafe, firewall, place, facts):
    """That of the link, or of one of its ports."""
    here = {name: getattr(HERE, name) for name in Fingerprint.__slots__} | {"ports": ("eth1/3/0",)}
    place.scenes["eth0"] = Fingerprint(**here)
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    place.scenes["eth0"] = Fingerprint(**(here | facts))
    listening, socket = listen(cafe)
    socket.waiting = [make_link()]
    listening.hear()
    assert firewall.get_window("eth0", "portal") is None


def test_a_look_on_another_network_ends_a_portal_pass_too(cafe, firewall, place):
    """Nobody listened meanwhile."""
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    place.scenes["eth0"] = ELSEWHERE
    refresh(cafe)
    assert firewall.get_window("eth0", "portal") is None


def test_a_clock_that_was_set_shuts_what_is_open_and_gives_a_portal_no_more(office, firewall, monkeypatch):
    open_portal(office, "eth0", [Exemption("tcp", port=80)], 300)
    listening, _ = listen(office)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    listening.change_clock()
    assert_closed(office, firewall)
    assert listening.take_reason() == "the clock was set"
    window = firewall.get_window("eth0", "portal")
    assert 298 < window.until - time.time() <= 300


def test_a_clock_that_was_set_shuts_all_that_is_open_in_one_transaction(office, firewall):
    record = office.read_guard("eth0")
    for device in ("eth1", "eth2"):
        office.write_guard(record.change(device=device))
        firewall.stands[device] = ((), dict(firewall.stands["eth0"][1]))
    listening, _ = listen(office)
    firewall.asked.clear()
    listening.change_clock()
    assert firewall.asked == ["shut at once eth0 eth1 eth2"]
    for device in ("eth0", "eth1", "eth2"):
        assert_closed(office, firewall, device)


def test_a_clock_set_forward_ends_a_portal_pass(cafe, firewall, monkeypatch):
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    listening, _ = listen(cafe)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    listening.change_clock()
    assert firewall.get_window("eth0", "portal") is None


def test_a_clock_that_is_set_opens_no_pass_that_has_ended_and_is_still_written_down(cafe, firewall):
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    listening, socket = listen(cafe)
    with cafe.lock_records():
        socket.waiting = [make_link(carrier=False), make_link()]
        listening.hear()
        assert cafe.read_guard("eth0").portal_until
        listening.change_clock()
        assert firewall.get_window("eth0", "portal") is None


def test_rules_that_are_put_back_after_the_clock_was_set_back_give_no_more(cafe, firewall, monkeypatch):
    open_portal(cafe, "eth0", [Exemption("tcp", port=80)], 300)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    firewall.stands.clear()
    put_back(cafe)
    assert firewall.get_window("eth0", "portal").until <= time.time() + 300
    boot = boot_time()
    monkeypatch.setattr("netconf_hooks.state.boot_time", lambda: boot + 301)
    firewall.stands.clear()
    put_back(cafe)
    assert firewall.get_window("eth0", "portal") is None


def test_a_lease_is_over_by_the_clock_that_nobody_can_set(office, monkeypatch):
    record = office.read_guard("eth0")
    assert record.is_open(time.time()) and record.is_open(time.time() - 3600)
    boot = boot_time()
    monkeypatch.setattr("netconf_hooks.state.boot_time", lambda: boot + LEASE + 1)
    assert not record.is_open(time.time() - 3600)


# Never waiting


def test_shutting_waits_for_no_lock_and_is_written_down_later(office, firewall, place):
    listening, socket = listen(office)
    with office.lock_acting(), office.lock_records():
        socket.waiting = [make_link(carrier=False)]
        listening.hear()
        assert not firewall.is_open("eth0")
        assert office.read_guard("eth0").opened
        assert listening.next_time() is not None
        # Nor is it shut again, or renewed meanwhile.
        asked = list(firewall.asked)
        place.scenes["eth0"] = ELSEWHERE
        listening.verify()
        assert firewall.asked == asked
        listening.reload(renew=True)
        listening.keep_time()
    assert not firewall.is_open("eth0")
    listening._retry = 0.0
    listening.keep_time()
    assert_closed(office, firewall)
    assert listening.next_time() is None


def test_what_was_opened_since_by_a_newer_look_stays_open_when_the_shutting_is_written_down(office, firewall):
    listening, socket = listen(office)
    with office.lock_records():
        socket.waiting = [make_link(carrier=False)]
        listening.hear()
    # It was shut, and nobody has written it down; a hook notices that the window is shut, and looks.
    office.write_guard(office.read_guard("eth0").change(done=False))
    refresh(office)
    assert_open(office, firewall)
    listening._retry = 0.0
    listening.keep_time()
    assert_open(office, firewall)


def test_a_full_run_is_told_a_few_times_and_written_to_when_it_is_possible(office, firewall, messages):
    listening, socket = listen(office)

    def fail(record):
        raise OSError(28, "No space left on device")

    office.write_guard = fail
    socket.waiting = [make_link(carrier=False)]
    listening.hear()
    assert not firewall.is_open("eth0")
    for _ in range(10):
        listening._retry = 0.0
        listening.keep_time()
    told = [message for message in messages if "No space left" in message]
    assert 1 <= len(told) <= 4
    assert office.read_guard("eth0").opened
    del office.write_guard
    listening._retry = 0.0
    listening.keep_time()
    assert_closed(office, firewall)


def test_a_firewall_that_fails_is_tried_again_until_the_lease_is_over(office, firewall, messages):
    listening, socket = listen(office)
    firewall.broken = "busy"
    socket.waiting = [make_link(carrier=False)]
    listening.hear()
    assert firewall.is_open("eth0")
    # It is open still, and the record says so.
    assert office.read_guard("eth0").opened and office.read_guard("eth0").verdict == "closed"
    firewall.broken = ""
    listening._retry = 0.0
    listening.keep_time()
    assert_closed(office, firewall)


def test_what_could_not_be_shut_until_its_lease_was_over_is_shut_by_the_kernel(office, firewall, monkeypatch):
    """So it is not tried for ever."""
    listening, socket = listen(office)
    firewall.broken = "busy"
    socket.waiting = [make_link(carrier=False)]
    listening.hear()
    now = time.monotonic()
    for later, tried in ((LEASE - 1, 1), (LEASE + 1, 0), (LEASE + 10, 0)):
        monkeypatch.setattr(lease_module, "monotonic", lambda: now + later)
        firewall.asked.clear()
        listening.keep_time()
        assert len(firewall.asked) == tried
    assert listening.next_time() is None or listening.next_time() > now + LEASE


def test_a_link_that_has_moved_before_anybody_listened_is_shut_at_once(office, firewall, place):
    place.scenes["eth0"] = ELSEWHERE
    listen(office)
    assert_closed(office, firewall)


def test_a_renewal_that_fails_is_logged_and_tried_again(office, firewall, messages):
    listening, _ = listen(office)
    firewall.broken = "busy"
    listening.reload(renew=True)
    listening.keep_time()
    assert "error: eth0: netconf-guard: busy" in messages
    firewall.broken = ""
    assert_open(office, firewall)
    assert listening.next_time() <= time.monotonic() + lease_module.RENEWAL


def test_routers_are_asked_and_not_waited_for(office, firewall, place):
    listening, socket = listen(office)
    place.silent = (ROUTER,)
    listening.reload(renew=True)
    before = office.read_guard("eth0").lease_until
    place.confirmed.clear()
    began = time.monotonic()
    listening.keep_time()
    assert [(index, set(routers)) for index, routers in place.confirmed] == [(INDEX, {ROUTER})]
    assert time.monotonic() < began + CONFIRMATION / 2
    assert office.read_guard("eth0").lease_until == before
    place.silent = ()
    socket.waiting = [make_neighbour()]
    listening.hear()
    assert listening.next_time() <= time.monotonic()
    listening.keep_time()
    assert "renew eth0 open" in firewall.asked
    assert office.read_guard("eth0").lease_until > before


def test_between_two_renewals_news_are_heard(office, firewall, place):
    """iptables takes a tenth of a second for each of many guards: what has lost its network must not wait for all."""
    record = office.read_guard("eth0")
    scene = parse_fingerprint(record.fingerprint)
    for index, device in ((INDEX + 1, "eth1"), (INDEX + 2, "eth2")):
        place.scenes[device] = scene.change(index=index)
        office.write_guard(record.change(device=device, fingerprint=str(place.scenes[device])))
        exemptions, windows = firewall.stands["eth0"]
        firewall.stands[device] = (exemptions, {**windows})
    listening, socket = listen(office)
    listening.reload(renew=True)
    firewall.asked.clear()
    listening.keep_time()
    assert firewall.asked == ["renew eth0 open"]
    assert listening.next_time() <= time.monotonic()
    socket.waiting = [make_link(index=INDEX + 1, name="eth1", carrier=False)]
    listening.hear()
    assert firewall.asked[1].startswith("shut eth1 ") and len(firewall.asked) == 2
    listening.keep_time()
    assert firewall.asked[-1] == "renew eth2 open"
    assert "renew eth1 open" not in firewall.asked
    assert listening.next_time() > time.monotonic()


def test_a_router_that_stays_silent_is_asked_again_at_the_next_renewal(office, firewall, place, monkeypatch):
    listening, _ = listen(office)
    place.silent = (ROUTER,)
    listening.reload(renew=True)
    listening.keep_time()
    monkeypatch.setattr(lease_module, "monotonic", lambda: time.monotonic() + CONFIRMATION + 0.1)
    listening.keep_time()
    assert "renew eth0 open" not in firewall.asked
    assert_open(office, firewall)
    assert time.monotonic() + 1 < listening.next_time() <= time.monotonic() + lease_module.RENEWAL


def test_a_window_that_somebody_shut_is_not_opened_by_a_renewal(office, firewall):
    listening, _ = listen(office)
    firewall.shut_window("eth0", "open")
    listening.reload(renew=True)
    listening.keep_time()
    assert_closed(office, firewall)
    assert listening.take_reason()


def test_a_renewal_is_not_put_off_by_what_is_heard(office):
    listening, _ = listen(office)
    due = listening.next_time()
    assert 0 < due - time.monotonic() <= lease_module.RENEWAL < LEASE / 2
    listening.reload()
    assert listening.next_time() == due


def test_what_the_kernel_does_not_say_shuts(office, firewall, place, messages):
    listening, socket = listen(office)
    place.scenes["eth0"] = NetlinkError(5)
    socket.waiting = [make_route()]
    listening.hear()
    assert_closed(office, firewall)
    assert any(each.startswith("error: eth0: netconf-guard: ") for each in messages)


def test_a_released_guard_is_left_alone(office, firewall):
    release_guard(office, "eth0")
    listening, socket = listen(office)
    socket.waiting = list(LOST)
    listening.hear()
    listening.change_clock()
    assert office.read_guard("eth0").verdict == "released"
    assert listening.next_time() is None


def test_a_firewall_that_is_gone_ends_no_listening(office, firewall, messages, monkeypatch):
    def fail(backend):
        raise GuardError("not installed")

    monkeypatch.setattr(firewall_module, "load_firewall", fail)
    listening, socket = listen(office)
    socket.waiting = [make_link(carrier=False)]
    listening.hear()
    assert any("not installed" in message for message in messages)
