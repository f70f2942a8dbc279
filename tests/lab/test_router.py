"""The observers of routers, neighbours and addresses against the real kernel, in network namespaces of their own."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from netconf_hooks.evidence import address, dhclient, router
from netconf_hooks.observation import Answer
from netconf_hooks.system import netlink
from netconf_hooks.system.netlink import AF_INET, AF_INET6, DefaultRoute, Netlink

from .namespaces import Namespaces
from .pair import PATIENT, QUIET, Wire, wire_carrier
from .waiting import wait_until

T = TypeVar("T")

NOBODY = 65534

MAC = "02:00:00:00:00:0a"
SECOND_MAC = "02:00:00:00:00:0b"
ROUTER = "192.168.7.1"
SECOND_ROUTER = "192.168.7.2"
ROUTER6 = "fe80::a"
SECOND_ROUTER6 = "fe80::b"
ABSENT = "192.168.7.99"
ABSENT6 = "fe80::99"


def call_as_nobody(function: Callable[[], T]) -> T:
    """Call `function` in a child process without any privilege, and return what it returns."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with open(writer, "wb") as pipe:
                pickle.dump(function(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    result: T = pickle.loads(data)
    return result


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    # What dhclient keeps is in a directory of the test's own.
    monkeypatch.setattr(dhclient, "LEASES", str(tmp_path))
    with Namespaces(("net",)) as laptop, Namespaces(("net",)) as far:
        wire = Wire(laptop, far)
        wire.sysctl(QUIET)
        wire.sysctl(QUIET, where="far")
        wire.ip(
            f"""
            link set lo up
            link add br0 type bridge mcast_snooping 0
            link add port type veth peer name eth0 address 02:00:00:00:00:01 netns {laptop.files["net"]}
            link add r0 address {MAC} type veth peer name port0
            link add r1 address {SECOND_MAC} type veth peer name port1
            link set port master br0 up
            link set port0 master br0 up
            link set port1 master br0 up
            link set br0 up
            link set r0 up
            link set r1 up
            addr add {ROUTER}/24 dev r0
            addr add {ROUTER6}/64 dev r0 nodad
            addr add {SECOND_ROUTER}/24 dev r1
            addr add {SECOND_ROUTER6}/64 dev r1 nodad
            """,
            where="far",
        )
        # Both routers are one machine: each interface answers for its own addresses only.
        wire.sysctl("net.ipv4.conf.all.arp_ignore=1\nnet.ipv4.conf.all.arp_filter=0\n", where="far")
        wire.ip(
            """
            link set lo up
            link set eth0 up
            addr add 192.168.7.50/24 dev eth0
            addr add fe80::50/64 dev eth0 nodad
            addr add 2001:db8:7::50/64 dev eth0 nodad
            """
        )
        wire_carrier(wire)
        yield wire


class Counting(Netlink):
    """Counts what is said: requests by type, dumps, and answers."""

    requests: list[tuple[int, bool]] = []
    answers = 0

    def ask(
        self, kind: int, flags: int, body: bytes, keep: Callable[[bytes], bool] | None = None
    ) -> list[netlink.Message]:
        Counting.requests.append((kind, bool(flags & netlink.NLM_F_DUMP)))
        answers = super().ask(kind, flags, body)
        Counting.answers += len(answers)
        return [answer for answer in answers if keep is None or keep(answer[1])]


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    monkeypatch.setattr(Counting, "requests", [])
    monkeypatch.setattr(Counting, "answers", 0)
    monkeypatch.setattr(netlink, "Netlink", Counting)
    monkeypatch.setattr(router, "Netlink", Counting)
    return Counting


# Default routes


def test_no_default_route_at_all(wire: Wire) -> None:
    assert wire.observe("gateway", "gateway-mac") == {
        "gateway": Answer(problem="no default router"),
        "gateway-mac": Answer(problem="no default router"),
    }
    assert not wire.call(router.has_default_route, wire.link())


def test_a_static_ipv4_default_route(wire: Wire) -> None:
    wire.ip(f"route add default via {ROUTER} dev eth0")
    assert wire.observe("gateway", "gateway-mac") == {"gateway": Answer((ROUTER,)), "gateway-mac": Answer((MAC,))}
    assert wire.call(router.has_default_route, wire.link())


def test_a_static_ipv6_default_route_is_told_without_scope(wire: Wire) -> None:
    wire.ip(f"-6 route add default via {ROUTER6} dev eth0")
    assert wire.observe("gateway", "gateway-mac") == {"gateway": Answer((ROUTER6,)), "gateway-mac": Answer((MAC,))}
    assert wire.call(router.has_default_route, wire.link())


def test_routers_of_both_families_and_their_different_macs(wire: Wire) -> None:
    wire.ip(f"route add default via {ROUTER} dev eth0\n-6 route add default via {SECOND_ROUTER6} dev eth0")
    assert wire.observe("gateway", "gateway-mac") == {
        "gateway": Answer((ROUTER, SECOND_ROUTER6)),
        "gateway-mac": Answer((MAC, SECOND_MAC)),
    }


def test_only_the_keys_that_were_asked_are_answered(wire: Wire, counting: type[Counting]) -> None:
    wire.ip(f"route add default via {ROUTER} dev eth0")
    assert wire.observe("gateway") == {"gateway": Answer((ROUTER,))}
    assert netlink.RTM_GETNEIGH not in [kind for kind, _ in counting.requests]
    assert list(wire.observe("gateway-mac")) == ["gateway-mac"]


def test_routers_that_advertise_themselves_are_all_seen(wire: Wire) -> None:
    wire.sysctl("net.ipv6.conf.all.forwarding=1\n", where="far")
    wire.sysctl("net.ipv6.conf.eth0.accept_ra=1\n")
    started = []
    for device, prefix in (("r0", "2001:db8:a::"), ("r1", "2001:db8:b::")):
        wire.ip(f"addr add {prefix}1/64 dev {device} nodad", where="far")
        started.append(
            wire.far.start(
                ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file"]
                + ["--bind-dynamic", f"--interface={device}", "--enable-ra", f"--dhcp-range={prefix},ra-only"]
                + [f"--ra-param={device},4,1800", "--dhcp-leasefile=/dev/null"]
            )
        )
    with contextlib.ExitStack() as stack:
        for program in started:
            stack.callback(program.wait)
            stack.callback(program.kill)
        wait_until(lambda: len(wire.observe("gateway")["gateway"].values) == 2, "two router advertisements")
        # The kernel takes turns between them: what is seen must not.
        for _ in range(4):
            answers = wire.observe("gateway", "gateway-mac")
            assert sorted(answers["gateway"].values) == [ROUTER6, SECOND_ROUTER6]
            assert sorted(answers["gateway-mac"].values) == [MAC, SECOND_MAC]
            assert answers["gateway-mac"].problem == ""


def test_all_routers_of_a_multipath_route(wire: Wire) -> None:
    wire.ip(f"route add default nexthop via {ROUTER} dev eth0 nexthop via {SECOND_ROUTER} dev eth0")
    wire.ip(f"-6 route add default nexthop via {ROUTER6} dev eth0 nexthop via {SECOND_ROUTER6} dev eth0")
    answers = wire.observe("gateway", "gateway-mac")
    assert sorted(answers["gateway"].values) == [ROUTER, SECOND_ROUTER, ROUTER6, SECOND_ROUTER6]
    assert sorted(answers["gateway-mac"].values) == [MAC, SECOND_MAC]


def test_of_a_multipath_route_over_two_links_each_has_its_own_router(wire: Wire) -> None:
    wire.ip(
        f"""
        link add eth1 type veth peer name other
        link set other up
        link set eth1 up
        addr add 192.168.8.50/24 dev eth1
        route add default nexthop via {ROUTER} dev eth0 nexthop via 192.168.8.1 dev eth1
        """
    )
    assert wire.default_route(AF_INET, "eth0") == DefaultRoute((ROUTER,))
    assert wire.default_route(AF_INET, "eth1") == DefaultRoute(("192.168.8.1",))


def test_an_ipv4_route_through_an_ipv6_router(wire: Wire) -> None:
    wire.ip(f"-4 route add default via inet6 {ROUTER6} dev eth0")
    assert wire.default_route(AF_INET) == DefaultRoute((ROUTER6,))
    assert wire.default_route(AF_INET6) is None
    assert wire.observe("gateway", "gateway-mac") == {"gateway": Answer((ROUTER6,)), "gateway-mac": Answer((MAC,))}
    # The same router of both families is one router.
    wire.ip(f"-6 route add default via {ROUTER6} dev eth0")
    assert wire.observe("gateway", "gateway-mac") == {"gateway": Answer((ROUTER6,)), "gateway-mac": Answer((MAC,))}


@pytest.mark.parametrize("compatible", (0, 1))
def test_nexthop_objects(wire: Wire, compatible: int) -> None:
    wire.sysctl(f"net.ipv4.nexthop_compat_mode={compatible}\n")
    wire.ip(
        f"""
        nexthop add id 1 via {ROUTER} dev eth0
        nexthop add id 2 via {SECOND_ROUTER} dev eth0
        nexthop add id 3 group 1/2
        route add default nhid 3
        nexthop add id 4 via {ROUTER6} dev eth0
        -6 route add default nhid 4
        """
    )
    assert wire.default_route(AF_INET) == DefaultRoute((ROUTER, SECOND_ROUTER))
    assert wire.default_route(AF_INET6) == DefaultRoute((ROUTER6,))


def test_half_routes_of_dhcp_on_the_same_link_are_not_the_default_route(wire: Wire) -> None:
    wire.ip(f"route add 0.0.0.0/1 via {SECOND_ROUTER} dev eth0\nroute add 128.0.0.0/1 via {SECOND_ROUTER} dev eth0")
    wire.ip(f"-6 route add ::/1 via {SECOND_ROUTER6} dev eth0\n-6 route add 8000::/1 via {SECOND_ROUTER6} dev eth0")
    assert not wire.call(router.has_default_route, wire.link())
    wire.ip(f"route add default via {ROUTER} dev eth0\n-6 route add default via {ROUTER6} dev eth0")
    assert wire.observe("gateway") == {"gateway": Answer((ROUTER, ROUTER6))}


def test_one_half_route_costs_no_reading_of_tables(wire: Wire, counting: type[Counting]) -> None:
    wire.ip(f"route add 128.0.0.0/1 via {SECOND_ROUTER} dev eth0\nroute add default via {ROUTER} dev eth0")
    assert wire.default_route(AF_INET) == DefaultRoute((ROUTER,))
    index = wire.link().index

    def ask() -> DefaultRoute | None:
        with Counting() as conversation:
            return conversation.get_default_route(index, AF_INET)

    assert wire.call(ask) == DefaultRoute((ROUTER,))
    assert counting.requests[-2:] == [(netlink.RTM_GETROUTE, False)] * 2


def test_a_vpns_half_routes_on_another_interface_hide_nothing(wire: Wire) -> None:
    wire.ip(
        f"""
        route add default via {ROUTER} dev eth0
        -6 route add default via {ROUTER6} dev eth0
        tuntap add tun0 mode tun
        link set tun0 up
        addr add 10.99.0.2/32 dev tun0
        route add 0.0.0.0/1 dev tun0
        route add 128.0.0.0/1 dev tun0
        addr add 2001:db8:99::2/64 dev tun0 nodad
        -6 route add ::/1 dev tun0
        -6 route add 8000::/1 dev tun0
        """
    )
    answers = wire.observe("gateway", "gateway-mac")
    assert answers == {"gateway": Answer((ROUTER, ROUTER6)), "gateway-mac": Answer((MAC,))}
    assert not wire.call(router.has_default_route, wire.link("tun0"))


def test_wireguards_rules_hide_nothing(wire: Wire) -> None:
    # What wg-quick(8) writes for AllowedIPs = 0.0.0.0/0.
    wire.ip(
        f"""
        route add default via {ROUTER} dev eth0
        tuntap add wg0 mode tun
        link set wg0 up
        addr add 10.99.0.2/32 dev wg0
        route add default dev wg0 table 51820
        rule add not fwmark 51820 table 51820
        rule add table main suppress_prefixlength 0
        """
    )
    assert wire.observe("gateway") == {"gateway": Answer((ROUTER,))}
    assert wire.default_route(AF_INET, "wg0") == DefaultRoute(())


def test_the_main_table_speaks_before_a_policy_rules(wire: Wire) -> None:
    wire.ip(
        f"""
        route add default via {SECOND_ROUTER} dev eth0 table 100
        rule add pref 100 lookup 100
        -6 route add default via {SECOND_ROUTER6} dev eth0 table 100
        -6 rule add pref 100 lookup 100
        """
    )
    assert wire.observe("gateway") == {"gateway": Answer((SECOND_ROUTER, SECOND_ROUTER6))}
    wire.ip(f"route add default via {ROUTER} dev eth0\n-6 route add default via {ROUTER6} dev eth0")
    assert wire.observe("gateway") == {"gateway": Answer((ROUTER, ROUTER6))}


def test_a_table_that_only_packets_of_one_address_are_sent_to(wire: Wire) -> None:
    wire.ip(
        f"""
        route add default via {ROUTER} dev eth0 table 1000
        rule add from 192.168.7.50 lookup 1000
        """
    )
    assert wire.default_route(AF_INET) == DefaultRoute((ROUTER,))


def test_a_blackhole_in_a_policy_rules_table_hides_nothing(wire: Wire) -> None:
    wire.ip(
        f"""
        route add default via {ROUTER} dev eth0
        -6 route add default via {ROUTER6} dev eth0
        route add blackhole default table 100
        rule add pref 100 lookup 100
        -6 route add unreachable default table 100
        -6 rule add pref 100 lookup 100
        """
    )
    assert wire.observe("gateway") == {"gateway": Answer((ROUTER, ROUTER6))}


def test_a_default_route_that_says_no_is_none(wire: Wire) -> None:
    wire.ip("route add unreachable default\n-6 route add blackhole default")
    assert not wire.call(router.has_default_route, wire.link())


def test_of_two_uplinks_each_is_asked_for_itself(wire: Wire) -> None:
    wire.ip(
        f"""
        link add eth1 type veth peer name other
        link set other up
        link set eth1 up
        addr add 192.168.8.50/24 dev eth1
        route add default via 192.168.8.1 dev eth1 metric 10
        route add default via {SECOND_ROUTER} dev eth0 metric 200
        route add default via {ROUTER} dev eth0 metric 100
        -6 route add default via fe80::8 dev eth1 metric 10
        -6 route add default via {SECOND_ROUTER6} dev eth0 metric 200
        -6 route add default via {ROUTER6} dev eth0 metric 100
        """
    )
    assert wire.observe("gateway") == {"gateway": Answer((ROUTER, ROUTER6))}
    assert wire.observe("gateway", device="eth1") == {"gateway": Answer(("192.168.8.1", "fe80::8"))}
    # Read from the table, where the half routes hide them from a look-up.
    wire.ip(f"route add 0.0.0.0/1 via {SECOND_ROUTER} dev eth0\nroute add 128.0.0.0/1 via {SECOND_ROUTER} dev eth0")
    assert wire.default_route(AF_INET) == DefaultRoute((ROUTER,))


def test_without_a_default_route_the_router_of_the_lease_is_asked_for_on_its_own_link(
    wire: Wire, tmp_path: Path
) -> None:
    """The second uplink of dhclient: another link has the default route, and a neighbour of the same address."""
    wire.ip(
        f"""
        link add eth1 type veth peer name far1 netns {wire.far.files["net"]}
        link set eth1 up
        addr add 192.168.7.60/24 dev eth1
        route add default via {ROUTER} dev eth1
        neigh add {ROUTER} lladdr {SECOND_MAC} dev eth1 nud permanent
        """
    )
    assert wire.observe("gateway-mac")["gateway-mac"] == Answer(problem="no default router")
    # The last one is on no prefix of the link.
    (tmp_path / "dhclient.eth0.leases").write_text(
        'lease {\n  interface "eth0";\n  fixed-address 192.168.7.50;\n'
        f"  option routers {ROUTER},192.168.8.1;\n  expire never;\n}}\n"
    )
    assert wire.observe("gateway", "gateway-mac") == {"gateway": Answer((ROUTER,)), "gateway-mac": Answer((MAC,))}
    assert not wire.call(router.has_default_route, wire.link())
    # Nobody but the router on the link was asked for.
    assert wire.laptop.run(["ip", "neigh", "show", "192.168.8.1"]).stdout == ""
    wire.ip(f"route add default via {SECOND_ROUTER} dev eth0 metric 9")
    assert wire.observe("gateway-mac")["gateway-mac"] == Answer((SECOND_MAC,))


def test_a_router_outside_of_the_leases_prefix_counts_if_a_route_leads_to_it(wire: Wire, tmp_path: Path) -> None:
    """A lease with the mask 255.255.255.255: dhclient-script adds a route to the router, with the scope link."""
    outside = "192.168.2.1"
    wire.ip(f"addr add {outside}/32 dev r0", where="far")
    wire.ip(
        f"""
        link add eth1 type veth peer name far1 netns {wire.far.files["net"]}
        link set eth1 up
        addr add 192.168.9.60/24 dev eth1
        route add default via 192.168.9.1 dev eth1
        """
    )
    (tmp_path / "dhclient.eth0.leases").write_text(
        'lease {\n  interface "eth0";\n  fixed-address 192.168.7.50;\n'
        f"  option routers {outside};\n  expire never;\n}}\n"
    )
    assert wire.observe("gateway")["gateway"] == Answer(problem="no default router")
    wire.ip(f"route add {outside} dev eth0 scope link")
    assert wire.observe("gateway", "gateway-mac") == {"gateway": Answer((outside,)), "gateway-mac": Answer((MAC,))}
    # Behind another router it is not on the link.
    wire.ip(f"route replace {outside} via {SECOND_ROUTER} dev eth0")
    assert wire.observe("gateway")["gateway"] == Answer(problem="no default router")


def test_a_default_route_without_a_router(wire: Wire) -> None:
    wire.ip("tuntap add ppp0 mode tun\nlink set ppp0 up\naddr add 10.64.0.2/32 dev ppp0\nroute add default dev ppp0")
    assert wire.default_route(AF_INET, "ppp0") == DefaultRoute(())
    problem = Answer(problem="the default route has no router")
    assert wire.observe("gateway", "gateway-mac", device="ppp0") == {"gateway": problem, "gateway-mac": problem}
    assert wire.call(router.has_default_route, wire.link("ppp0"))
    assert not wire.call(router.has_default_route, wire.link())


def test_a_router_behind_a_device_without_macs(wire: Wire) -> None:
    wire.ip(
        """
        tuntap add ppp0 mode tun
        link set ppp0 up
        addr add 10.64.0.2 peer 10.64.0.1 dev ppp0
        route add default via 10.64.0.1 dev ppp0
        """
    )
    answers = wire.observe("gateway", "gateway-mac", device="ppp0")
    assert answers["gateway"] == Answer(("10.64.0.1",))
    assert answers["gateway-mac"] == Answer(problem="10.64.0.1 has no MAC address")


def test_a_source_specific_default_route(wire: Wire) -> None:
    wire.ip(f"-6 route add default from 2001:db8:7::/64 via {ROUTER6} dev eth0")
    assert wire.default_route(AF_INET6) == DefaultRoute((ROUTER6,))


def test_an_interface_without_ipv6(wire: Wire) -> None:
    wire.sysctl("net.ipv6.conf.eth0.disable_ipv6=1\n")
    assert wire.default_route(AF_INET6) is None


def test_an_interface_that_went_away(wire: Wire) -> None:
    wire.ip(f"route add default via {ROUTER} dev eth0")
    link = wire.link()
    wire.ip("link del eth0")
    answers = wire.call(router.observe, ("gateway", "gateway-mac"), link, time.monotonic() + PATIENT)
    assert answers["gateway"] == Answer(problem="no default router")
    assert not wire.call(router.has_default_route, link)


# The price


def test_many_routes_are_not_read(wire: Wire, counting: type[Counting]) -> None:
    wire.ip(f"route add default via {ROUTER} dev eth0\n-6 route add default via {ROUTER6} dev eth0")
    wire.ip("".join(f"route add 10.{n >> 8}.{n & 255}.0/24 via {ROUTER} dev eth0\n" for n in range(20_000)))
    assert wire.observe("gateway-mac")["gateway-mac"] == Answer((MAC,))
    counting.requests.clear()
    counting.answers = 0
    assert wire.observe("gateway", "gateway-mac") == {
        "gateway": Answer((ROUTER, ROUTER6)),
        "gateway-mac": Answer((MAC,)),
    }
    assert not any(dump for _, dump in counting.requests)
    # The link itself, a route and a neighbour of each family.
    assert len(counting.requests) == 5
    assert counting.answers == 5
    counting.answers = 0
    assert wire.call(router.has_default_route, wire.link())
    assert counting.answers == 2


def test_a_default_route_elsewhere_costs_only_the_routes_of_this_link(wire: Wire, counting: type[Counting]) -> None:
    wire.ip("link add eth1 type veth peer name other\nlink set other up\nlink set eth1 up")
    wire.ip("addr add 192.168.8.50/24 dev eth1")
    wire.ip("".join(f"route add 10.{n >> 8}.{n & 255}.0/24 via 192.168.8.1 dev eth1\n" for n in range(2_000)))
    assert wire.observe("gateway") == {"gateway": Answer(problem="no default router")}
    assert counting.answers < 30


# Neighbours


def test_a_router_that_the_kernel_knows_is_not_asked_for(wire: Wire, counting: type[Counting]) -> None:
    wire.ip(f"route add default via {ABSENT} dev eth0\nneigh add {ABSENT} lladdr {SECOND_MAC} dev eth0 nud stale")
    assert wire.observe("gateway-mac") == {"gateway-mac": Answer((SECOND_MAC,))}
    assert netlink.RTM_NEWNEIGH not in [kind for kind, _ in counting.requests]


def test_no_time_left_means_no_asking(wire: Wire, counting: type[Counting]) -> None:
    wire.ip(f"route add default via {ROUTER} dev eth0")
    problem = f"{ROUTER} was not asked for its MAC address: no time left"
    assert wire.observe("gateway-mac", patience=0) == {"gateway-mac": Answer((), True, problem)}
    assert netlink.RTM_NEWNEIGH not in [kind for kind, _ in counting.requests]


def test_an_absent_router_is_pending_after_the_limit_of_its_own(wire: Wire) -> None:
    wire.ip(f"route add default via {ABSENT} dev eth0")
    began = time.monotonic()
    answers = wire.observe("gateway", "gateway-mac")
    took = time.monotonic() - began
    assert answers["gateway"] == Answer((ABSENT,))
    assert answers["gateway-mac"] == Answer((), True, f"{ABSENT} did not answer ARP within 1.5 s")
    # The kernel itself tells after 3 s at the earliest, the deadline is 30 s away.
    assert netlink.NEIGHBOUR_PATIENCE <= took < 2.9


def test_the_deadline_of_the_run_comes_first(wire: Wire) -> None:
    wire.ip(f"-6 route add default via {ABSENT6} dev eth0")
    began = time.monotonic()
    answers = wire.observe("gateway-mac", patience=0.3)
    took = time.monotonic() - began
    problem = answers["gateway-mac"].problem
    assert answers["gateway-mac"].pending and not answers["gateway-mac"].values
    assert problem.startswith(f"{ABSENT6} did not answer neighbour discovery within 0.")
    assert took < netlink.NEIGHBOUR_PATIENCE


def test_one_router_answers_and_the_other_does_not(wire: Wire) -> None:
    wire.ip(f"route add default via {ROUTER} dev eth0\n-6 route add default via {ABSENT6} dev eth0")
    problem = f"{ABSENT6} did not answer neighbour discovery within 1.5 s"
    assert wire.observe("gateway-mac") == {"gateway-mac": Answer((MAC,), True, problem)}


def test_absent_routers_of_both_families_are_waited_for_together(wire: Wire) -> None:
    wire.ip(f"route add default via {ABSENT} dev eth0\n-6 route add default via {ABSENT6} dev eth0")
    began = time.monotonic()
    answer = wire.observe("gateway-mac")["gateway-mac"]
    assert time.monotonic() - began < 2 * netlink.NEIGHBOUR_PATIENCE
    assert answer.problem == (
        f"{ABSENT} did not answer ARP within 1.5 s; {ABSENT6} did not answer neighbour discovery within 1.5 s"
    )


def test_a_router_that_appears_while_it_is_waited_for(wire: Wire) -> None:
    # Ask often, so that the answer is there long before the waiting would end by itself.
    wire.sysctl("net.ipv4.neigh.eth0.retrans_time_ms=50\nnet.ipv4.neigh.eth0.mcast_solicit=100\n")
    wire.ip(f"route add default via {ABSENT} dev eth0")

    # As soon as the laptop has begun to ask.
    def take_address() -> None:
        wait_until(
            lambda: "INCOMPLETE" in wire.laptop.run(["ip", "neigh", "show", ABSENT, "dev", "eth0"]).stdout,
            "the kernel asking for the router",
        )
        wire.ip(f"addr add {ABSENT}/24 dev r1", where="far")

    appear = threading.Thread(target=take_address)
    appear.start()
    began = time.monotonic()
    answers = wire.observe("gateway-mac")
    took = time.monotonic() - began
    appear.join()
    assert answers == {"gateway-mac": Answer((SECOND_MAC,))}
    assert took < netlink.NEIGHBOUR_PATIENCE


def test_without_carrier_nobody_is_waited_for(wire: Wire) -> None:
    wire.ip(f"route add default via {ROUTER} dev eth0")
    wire.ip("link set port down", where="far")
    wait_until(lambda: not wire.link().carrier, "the cable to be out")
    began = time.monotonic()
    answers = wire.observe("gateway", "gateway-mac")
    assert answers["gateway"] == Answer((ROUTER,))
    assert answers["gateway-mac"] == Answer(problem=f"{ROUTER} can't be asked: no carrier")
    assert time.monotonic() - began < netlink.NEIGHBOUR_PATIENCE


def test_a_neighbour_is_forgotten_when_the_cable_is_pulled(wire: Wire) -> None:
    """Why a stale entry may be believed: it can't be from the network before."""
    wire.ip(f"route add default via {ROUTER} dev eth0")
    assert wire.observe("gateway-mac")["gateway-mac"].values == (MAC,)
    index = wire.link().index

    def look() -> netlink.Neighbour | None:
        with Netlink() as conversation:
            return conversation.get_neighbour(index, ROUTER)

    assert wire.call(look) is not None
    wire.ip("link set port down", where="far")
    wait_until(lambda: wire.call(look) is None, "the neighbour to be forgotten")


def test_an_ordinary_user_sees_what_the_kernel_knows_and_asks_nobody(wire: Wire) -> None:
    wire.ip(f"route add default via {ROUTER} dev eth0\n-6 route add default via {ROUTER6} dev eth0")
    link = wire.link()
    asked = ("gateway", "gateway-mac")

    def look() -> dict[str, tuple[tuple[str, ...], bool, str]]:
        answers = router.observe(asked, link, time.monotonic() + PATIENT)
        assert router.has_default_route(link)
        return {key: (answer.values, answer.pending, answer.problem) for key, answer in answers.items()}

    before = wire.call(lambda: call_as_nobody(look))
    assert before["gateway"] == ((ROUTER, ROUTER6), False, "")
    assert before["gateway-mac"][:2] == ((), True)
    assert f"{ROUTER} is not known yet, and asking takes root" in before["gateway-mac"][2]
    wire.call(router.observe, asked, link, time.monotonic() + PATIENT)
    assert wire.call(lambda: call_as_nobody(look))["gateway-mac"] == ((MAC,), False, "")


# Links


@pytest.mark.parametrize(
    "device", ("", "nothere", "name-longer-than-fifteen", "eth0\0", "../eth0", "eth0 ", "\udcff", "ethernet0:1", 0, -1)
)
def test_an_interface_that_does_not_exist(wire: Wire, device: str | int) -> None:
    def look() -> netlink.LinkStatus | None:
        with Netlink() as conversation:
            return conversation.get_link(device)

    assert wire.call(look) is None


def test_links_as_they_are(wire: Wire) -> None:
    wire.ip("link add eth1 type veth peer name other")
    links = wire.call(netlink.read_links, ("eth0", "eth1", "eth2", "lo"))
    assert sorted(links) == ["eth0", "eth1", "lo"]
    assert (links["eth0"].up, links["eth0"].carrier, links["eth0"].address) == (True, True, "02:00:00:00:00:01")
    assert (links["eth1"].up, links["eth1"].carrier) == (False, False)
    wire.ip("link set eth1 up")
    after = wire.call(netlink.read_link, "eth1")
    assert after is not None and after.up and not after.carrier
    index = links["eth0"].index

    def by_index() -> netlink.LinkStatus | None:
        with Netlink() as conversation:
            return conversation.get_link(index)

    assert wire.call(by_index) == links["eth0"]


def test_carrier_is_waited_for(wire: Wire) -> None:
    wire.ip("link add eth1 type veth peer name other\nlink set eth1 up")

    def wait(patience: float) -> netlink.LinkStatus | None:
        with Netlink() as conversation:
            return conversation.wait_for_carrier("eth1", time.monotonic() + patience)

    status = wire.call(wait, 0.05)
    assert status is not None and not status.carrier
    plug = threading.Thread(target=wire.ip, args=("link set other up",))
    plug.start()
    status = wire.call(wait, PATIENT)
    plug.join()
    assert status is not None and status.carrier


# Addresses


def test_addresses_of_an_interface_and_of_its_aliases(wire: Wire) -> None:
    wire.ip("addr add 192.168.9.1/24 dev eth0 label eth0:1")
    link = wire.link(iface="eth0:1")
    answers = wire.call(address.observe, ("address", "interface"), link, time.monotonic())
    assert sorted(answers["address"].values) == ["192.168.7.50", "192.168.9.1", "2001:db8:7::50", "fe80::50"]
    assert answers["interface"] == Answer(("eth0", "eth0:1"))


def test_an_interface_without_addresses(wire: Wire) -> None:
    wire.ip("addr flush dev eth0")
    answers = wire.call(address.observe, ("address",), wire.link(), time.monotonic())
    assert answers == {"address": Answer(problem="no address")}


def test_nothing_of_the_tests_is_left_in_the_machines_own_network() -> None:
    assert not Path("/sys/class/net/r0").exists()
