"""A guard whose record is lost is closed, and stays closed until the next ifup or ifdown."""

import errno
import os
import time
from pathlib import Path

import pytest
from guarded import GUARD, OFFICE, assert_closed, assert_open, ifdown, ifup, listen, refresh, run_hook
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.enforce import follow_closing
from netconf_hooks.guard.firewall import GuardError, load_firewall
from netconf_hooks.guard.lost import LOST_RULE, find_lost, restore_records, shut_lost
from netconf_hooks.guard.override import open_portal, release_guard
from netconf_hooks.state import GuardRecord, RecordError, Store
from netconf_hooks.watcher import watch


@pytest.fixture
def office(network, store, links, firewall):
    """eth0 came up in the office, and is open."""
    network["gateway"] = OFFICE
    assert ifup(store, links, **GUARD, IF_NETCONF_GUARD_ALLOW="192.0.2.0/24") == 0
    assert_open(store, firewall)
    return store


def test_of_the_rules_only_what_passes_a_closed_guard_is_kept(network, store, links):
    """Neither the location, nor what hints may do: nothing of them can open it."""
    network["gateway"] = OFFICE
    more = {"IF_NETCONF_GUARD_ALLOW": "192.0.2.0/24", "IF_NETCONF_GUARD_BACKEND": "nftables"}
    ifup(store, links, **GUARD, **more)
    Path(store.guards, "eth0").unlink()
    assert restore_records(store) == ("eth0",)
    (restored,) = store.read_guard("eth0").passes
    assert dict(restored.options) == {
        "netconf-guard": LOST_RULE, "netconf-guard-allow": "192.0.2.0/24", "netconf-guard-backend": "nftables"
    }  # fmt: skip


def remove(path):
    path.unlink()


def empty(path):
    path.write_text("")


def leave_the_first_line(path):
    path.write_text("netconf-hooks 1\n")


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-10])


def cut_off_the_last_stanza(path):
    text = path.read_text()
    path.write_text(text[:text.index("\niface ")] + "\n")


def write_latin1(path):
    path.write_bytes(path.read_bytes().replace(b"because ", "because B\xfcro".encode("latin-1")))


def name_no_backend(path):
    path.write_text(path.read_text().replace("backend nftables", "backend os"))


def name_no_verdict(path):
    path.write_text(path.read_text().replace("verdict open", "verdict opened"))


def append_line(line):
    """Return what adds a line to a whole record."""

    def damage(path):
        whole, end, rest = path.read_text().rpartition("\nend\n")
        assert end and not rest
        path.write_text(f"{whole}\n{line}{end}")

    damage.__name__ = line.partition(" ")[0]
    return damage


def link_to_zeros(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def link_to_a_whole_one(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def make_fifo(path):
    path.unlink()
    os.mkfifo(path)


def grow(path):
    os.truncate(path, 100 << 20)


DAMAGES = [
    remove, empty, leave_the_first_line, cut_off, cut_off_the_last_stanza, write_latin1, name_no_backend,
    name_no_verdict, link_to_zeros, link_to_a_whole_one, make_fifo, grow,
    append_line("opening everything"), append_line(r"portal-opening sctp\t\t80\t0\t\t0\t0"),
    append_line(r"asking-opening udp\t192.0.2.1/24\t53\t0\t\t0\t0"), append_line("server dhcp.example"),
    append_line("lan 192.0.2.0"),
]  # fmt: skip


def damage_record(store, damage, device="eth0"):
    """Damage the record of a guard."""
    damage(Path(store.guards, device))


def survey(store):
    """Do what the watcher does: the listening process shuts, its child puts the records back."""
    listen(store)
    assert watch._put_back(store)


def assert_lost(store, firewall):
    """The guard is closed, and only what passes a closed one does."""
    assert_closed(store, firewall)
    assert not firewall.stands["eth0"][1]
    assert [each.options["netconf-guard"] for each in store.read_guard("eth0").passes if each.options] == [LOST_RULE]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("notice", [
    refresh, lambda store, _: survey(store), lambda store, _: restore_records(store),
    lambda store, _: run_hook(store, "pre-up", "eth7"), lambda store, _: run_hook(store, "up", "eth7"),
], ids=["refresh", "watcher", "restore", "pre-up", "up"])  # fmt: skip
def test_a_lost_record_is_noticed_by_whoever_comes(office, firewall, messages, damage, notice):
    open_portal(office, "eth0", (Exemption("tcp", port=80),), 60.0)
    records = office.read_interfaces(pytest.fail)
    damage_record(office, damage)
    began = time.process_time()
    notice(office, records)
    assert time.process_time() - began < 5
    assert_lost(office, firewall)
    assert any("eth0: netconf-guard: closed until the next ifup or ifdown" in message for message in messages)
    assert not find_lost(office)


def test_what_waits_for_a_neighbour_is_dropped_when_a_lost_one_is_shut(office, firewall, place):
    damage_record(office, empty)
    place.emptied.clear()
    assert shut_lost("eth0") == "nftables"
    assert len(place.emptied) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_stays_closed_but_for_what_is_allowed(office, links, firewall, damage):
    damage_record(office, damage)
    refresh(office, office.read_interfaces(pytest.fail))
    for _ in range(3):
        refresh(office, office.read_interfaces(pytest.fail))
        assert_lost(office, firewall)
    assert Exemption(network="192.0.2.0/24", guests=True) in firewall.list_exemptions("eth0")
    assert LOST_RULE in office.read_guard("eth0").because
    # Another family without a guard of its own opens nothing.
    run_hook(office, "pre-up", family="inet6", run="99:1")
    assert_lost(office, firewall)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_next_ifup_opens_it_again(office, links, firewall, damage):
    damage_record(office, damage)
    assert ifup(office, links) == 0
    assert_open(office, firewall)
    assert [each.options["netconf-guard"] for each in office.read_guard("eth0").passes] == ["unless office"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_next_ifdown_takes_it_away(office, links, firewall, damage):
    damage_record(office, damage)
    ifdown(office, links)
    assert firewall.stands == {}
    assert not office.has_guards()
    assert office.list_guarded() == []


def test_what_was_flushed_and_lost_is_put_back(office, firewall):
    firewall.stands.clear()
    damage_record(office, empty)
    refresh(office, office.read_interfaces(pytest.fail))
    assert_lost(office, firewall)


def test_without_any_record_the_guard_is_the_devices(store, links, firewall):
    assert run_hook(store, "pre-up", **GUARD) == 0
    damage_record(store, cut_off)
    assert restore_records(store) == ("eth0",)
    assert_lost(store, firewall)
    links.plug("eth0", 7)
    assert ifup(store, links) == 0
    assert [(each.iface, each.family) for each in store.read_guard("eth0").passes] == [("eth0", "inet")]


def test_it_is_put_where_the_firewall_has_it(office, firewalls):
    firewalls["iptables"].stands["eth0"] = firewalls["nftables"].stands.pop("eth0")
    damage_record(office, empty)
    assert shut_lost("eth0") == "iptables-nft"
    assert not firewalls["iptables"].is_open("eth0")
    restore_records(office)
    assert office.read_guard("eth0").backend == "iptables-nft"


def test_a_firewall_that_does_not_work_hinders_nobody(office, firewalls, messages):
    damage_record(office, empty)
    for firewall in firewalls.values():
        firewall.broken = "no rights"
    restore_records(office)
    assert office.read_guard("eth0").backend == "nftables"
    firewalls["nftables"].broken = ""
    follow_closing(office)
    assert_lost(office, firewalls["nftables"])


def test_a_firewall_that_can_not_be_listed_is_told_and_hinders_no_other(office, firewalls, messages, monkeypatch):
    def list_devices():
        raise GuardError("its tables can't be listed")

    monkeypatch.setattr(firewalls["iptables-nft"], "list_devices", list_devices)
    damage_record(office, remove)
    office.write_guard(GuardRecord("eth9", "iptables-nft", "closed", "it is coming up"))
    restore_records(office)
    assert_lost(office, firewalls["nftables"])
    assert "error: iptables-nft: its tables can't be listed" in messages


def test_a_new_record_that_can_not_be_written_is_told_and_the_link_is_shut(office, firewall, messages, monkeypatch):
    def write_guard(record):
        raise OSError(errno.ENOSPC, "No space left on device")

    damage_record(office, empty)
    monkeypatch.setattr(office, "write_guard", write_guard)
    assert restore_records(office) == ("eth0",)
    assert not firewall.is_open("eth0")
    assert any("error: eth0: netconf-guard: its record can't be written" in message for message in messages)


def test_a_window_that_can_not_be_shut_is_told_and_the_others_are_shut(office, firewall, messages, monkeypatch):
    open_portal(office, "eth0", (Exemption("tcp", port=80),), 60.0)
    shut_window = firewall.shut_window

    def shut(device, *names):
        if "portal" in names:
            raise GuardError("busy")
        shut_window(device, *names)

    monkeypatch.setattr(firewall, "shut_window", shut)
    assert shut_lost("eth0") == "nftables"
    assert not firewall.is_open("eth0")
    assert "error: eth0: netconf-guard: busy" in messages


def test_no_record_and_no_guard_in_the_firewall_is_no_guard(office, firewall):
    damage_record(office, remove)
    firewall.stands.clear()
    assert restore_records(office) == ()
    assert office.list_guarded() == []


def remove_everything(store, iface="eth0"):
    """Remove the record of a guard, and that of its interface."""
    damage_record(store, remove, iface)
    Path(store.interfaces, iface).unlink()


def test_a_guard_of_which_nothing_is_left_is_known_to_the_watcher(office, firewall, messages):
    leases, _ = listen(office)
    remove_everything(office)
    leases.check_records()
    assert not firewall.is_open("eth0")
    assert leases.has_lost() and leases.take_reason() == "the record of a guard is lost"
    assert watch._put_back(office, leases.list_known())
    assert_lost(office, firewall)
    leases.reload()
    assert not leases.has_lost() and leases.list_known() == {"eth0": "nftables"}


def test_and_so_if_even_the_directories_are_gone(office, firewall):
    leases, _ = listen(office)
    remove_everything(office)
    for directory in (office.guards, office.interfaces):
        os.rmdir(directory)
    leases.reload()
    assert watch._put_back(office, leases.list_known())
    assert_lost(office, firewall)


def test_a_guard_of_which_nothing_is_left_is_known_to_the_firewall_of_another_one(office, links, firewalls, messages):
    assert run_hook(office, "pre-up", "eth1", **GUARD) == 0
    firewalls["iptables-nft"].stands["eth5"] = (), {}  # no guard here is in that one
    remove_everything(office)
    assert list(find_lost(office)) == ["eth0"]
    assert run_hook(office, "pre-up", "eth7") == 0
    assert_lost(office, firewalls["nftables"])


def test_an_ifdown_leaves_nothing_that_counts_as_lost(office, links, firewall):
    leases, _ = listen(office)
    ifdown(office, links)
    leases.check_records()
    assert not leases.has_lost() and not leases.take_reason()
    assert not watch._put_back(office, leases.list_known())
    assert office.list_guarded() == []


def test_a_guard_that_is_put_up_while_somebody_looks_is_not_lost(office, links, firewall, monkeypatch):
    list_devices = firewall.list_devices

    def put_up_first():
        monkeypatch.setattr(firewall, "list_devices", list_devices)
        run_hook(office, "pre-up", "eth1", **GUARD)
        return list_devices()

    monkeypatch.setattr(firewall, "list_devices", put_up_first)
    assert find_lost(office) == {}


def test_a_whole_record_is_not_touched(office, firewall, messages):
    before = Path(office.guards, "eth0").read_bytes()
    asked = list(firewall.asked)
    assert restore_records(office) == ()
    assert Path(office.guards, "eth0").read_bytes() == before
    assert firewall.asked == asked
    release_guard(office, "eth0")
    assert restore_records(office) == ()


def test_a_file_that_is_no_devices_is_told(office, messages):
    Path(office.guards, "not a device").write_text("x")
    restore_records(office)
    assert any("not the record of a guard" in message for message in messages)


def test_no_such_firewall():
    with pytest.raises(GuardError, match="there is no firewall 'os': expected nftables or iptables"):
        load_firewall("os")


@settings(max_examples=min(100, MANY), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True))
def test_no_beginning_of_a_record_can_be_read(tmp_path_factory, part):
    store = Store(str(tmp_path_factory.mktemp("run")))
    store.prepare()
    store.write_guard(GuardRecord("eth0", "nftables", exemptions=("a", "b")))
    path = Path(store.guards, "eth0")
    whole = path.read_bytes()
    path.write_bytes(whole[:int(part * (len(whole) - 1))])  # the time in it makes records of different lengths
    with pytest.raises(RecordError):
        store.read_guard("eth0")
    assert list(find_lost(store)) == ["eth0"]


@pytest.mark.parametrize("options, asks", [
    ({"IF_NETCONF_GUARD": "yes"}, True), ({"IF_NETCONF_GUARD_2": "unless office"}, True),
    ({"IF_NETCONF_GUARD": "no"}, False), ({"IF_NETCONF_GUARD_ALLOW": "udp/123"}, False), ({}, False),
])
def test_who_asks_for_a_guard(store, links, network, options, asks):
    location = {"IF_NETCONF_LOCATION": "office gateway=192.0.2.1"}
    ifup(store, links, **location, **options)
    assert store.list_asking() == (["eth0"] if asks else [])
    Path(store.guards, "eth0").unlink(missing_ok=True)
    assert not store.has_guards()
