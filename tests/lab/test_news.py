"""The news that the watcher hears at once: filtered by the kernel, so that no others delay them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from netconf_hooks.system.netlink import (
    LINKS, NEIGHBOURS, Netlink, RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWNEIGH, RTM_NEWROUTE
)  # fmt: skip
from netconf_hooks.watcher.watch import GROUPS, URGENT_GROUPS

from .attacks.place import call_in
from .namespaces import Namespaces

SET_UP = """\
link add eth0 type veth peer name far0
link add eth1 type veth peer name far1
link set eth0 up
link set far0 up
link set eth1 up
link set far1 up
addr add 192.0.2.2/24 dev eth0
addr add 198.51.100.2/24 dev eth1
addr add 2001:db8::2/64 dev eth0 nodad
"""
MAC = "02:00:00:00:00:01"
NOT_OURS = """\
route add 203.0.113.0/24 via 192.0.2.1
route add 2001:db8:1::/48 via 2001:db8::1
neigh add 192.0.2.77 lladdr 02:00:00:00:00:01 dev eth0
neigh add 2001:db8::77 lladdr 02:00:00:00:00:01 dev eth0
neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth1
addr add 192.0.2.3/24 dev eth0
link set eth1 down
link del eth1
"""


@pytest.fixture
def machine() -> Iterator[Namespaces]:
    """A machine with two links."""
    made = Namespaces(["net"])
    try:
        made.run(["ip", "-batch", "-"], text=SET_UP)
        yield made
    finally:
        made.close()


def test_only_news_of_a_link_its_routers_and_default_routes_are_heard(machine: Namespaces) -> None:
    place = machine.files["net"]
    index = call_in(place, lambda: socket.if_nametoindex("eth0"))
    with call_in(place, lambda: Netlink(URGENT_GROUPS)) as news:
        news.filter_news({index}, {"192.0.2.1", "2001:db8::1"})
        news.drain()

        def hear(lines: str) -> list[int]:
            machine.run(["ip", "-batch", "-"], text=lines)
            messages, dropped = news.collect()
            assert not dropped
            return [kind for kind, _ in messages]

        assert hear(NOT_OURS) == []
        assert hear("route add default via 192.0.2.1\n") == [RTM_NEWROUTE]
        assert hear("route add default via 2001:db8::1\n") == [RTM_NEWROUTE]
        assert hear("route del default via 192.0.2.1\n") == [RTM_DELROUTE]
        assert hear(f"neigh add 192.0.2.1 lladdr {MAC} dev eth0\n") == [RTM_NEWNEIGH]
        assert hear(f"neigh add 2001:db8::1 lladdr {MAC} dev eth0\n") == [RTM_NEWNEIGH]
        assert RTM_DELNEIGH in hear("neigh del 192.0.2.1 dev eth0\n")
        assert RTM_NEWLINK in hear("link set eth0 down\n")
        assert RTM_DELLINK in hear("link del eth0\n")


def test_a_storm_of_other_news_loses_none(machine: Namespaces) -> None:
    """A socket without a filter hears too much of it."""
    place = machine.files["net"]
    index = call_in(place, lambda: socket.if_nametoindex("eth0"))
    storm = "".join(f"neigh replace 192.0.{n // 250}.{n % 250} lladdr {MAC} dev eth0\n" for n in range(500, 3000))
    with call_in(place, lambda: Netlink((LINKS, NEIGHBOURS))) as other, call_in(
        place, lambda: Netlink(URGENT_GROUPS)
    ) as news:
        news.filter_news({index}, {"192.0.2.1"})
        news.drain()
        machine.run(["ip", "-batch", "-"], text=storm + f"neigh replace 192.0.2.1 lladdr {MAC} dev eth0\n" + storm)
        messages, dropped = news.collect()
        assert ([kind for kind, _ in messages], dropped) == ([RTM_NEWNEIGH], False)
        assert other.collect(10_000)[1]


def test_hundreds_of_links_and_routers(machine: Namespaces) -> None:
    """More than a jump of the filter's could reach over if it were not built for that."""
    place = machine.files["net"]
    index = call_in(place, lambda: socket.if_nametoindex("eth0"))
    with call_in(place, lambda: Netlink(URGENT_GROUPS)) as news:
        routers = [f"192.0.2.{number}" for number in range(1, 251)]
        news.filter_news({*range(1000, 1300), index}, routers)
        news.drain()
        machine.run(["ip", "neigh", "add", routers[-1], "lladdr", MAC, "dev", "eth0"])
        machine.run(["ip", "neigh", "add", "192.0.2.254", "lladdr", MAC, "dev", "eth0"])
        machine.run(["ip", "link", "set", "eth1", "down"])
        assert [kind for kind, _ in news.collect()[0]] == [RTM_NEWNEIGH]


def test_of_networks_all_links_are_heard_and_the_addresses_of_ours(machine: Namespaces) -> None:
    place = machine.files["net"]
    index = call_in(place, lambda: socket.if_nametoindex("eth0"))
    with call_in(place, lambda: Netlink(GROUPS)) as news:
        def hear(lines: str) -> set[int]:
            machine.run(["ip", "-batch", "-"], text=lines)
            messages, dropped = news.collect()
            assert not dropped
            return {kind for kind, _ in messages}

        news.filter_networks({index}, {"192.0.2.1"}, False)
        news.drain()
        assert hear(NOT_OURS.partition("addr add")[0]) == set()
        assert hear("addr add 192.0.2.3/24 dev eth0\n") == {RTM_NEWADDR}
        assert hear("addr del 192.0.2.3/24 dev eth0\n") == {RTM_DELADDR}
        assert hear("addr add 198.51.100.3/24 dev eth1\n") == set()
        assert hear("route add default via 192.0.2.1\n") == {RTM_NEWROUTE}
        assert hear(f"neigh add 192.0.2.1 lladdr {MAC} dev eth0\n") == {RTM_NEWNEIGH}
        assert RTM_NEWLINK in hear("link set eth1 down\n")
        assert RTM_DELLINK in hear("link del eth1\n")
        news.filter_networks({index}, {"192.0.2.1"}, True)
        assert RTM_NEWADDR in hear("link add eth2 type veth peer name far2\naddr add 198.51.100.4/24 dev eth2\n")


@pytest.mark.parametrize("urgent", [True, False])
def test_of_more_links_than_a_filter_can_tell_apart_all_are_heard(machine: Namespaces, urgent: bool) -> None:
    """The kernel takes 4096 instructions."""
    place = machine.files["net"]
    with call_in(place, lambda: Netlink(URGENT_GROUPS)) as news:
        if urgent:
            news.filter_news(range(10_000, 13_000), set())
        else:
            news.filter_networks(range(10_000, 13_000), set(), False)
        news.drain()
        machine.run(["ip", "neigh", "add", "198.51.100.1", "lladdr", MAC, "dev", "eth1"])
        machine.run(["ip", "link", "set", "eth1", "down"])
        kinds = {kind for kind, _ in news.collect()[0]}
        assert {RTM_NEWNEIGH, RTM_NEWLINK} <= kinds
