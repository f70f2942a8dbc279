"""Random packets through random guards, by both firewalls, against `oracle`: what counts is what arrives.

Every packet is first sent without a guard, and has to arrive.  A disagreement is reported with the smallest guard that
still shows it.  NETCONF_ORACLE_SEEDS=100-200 in the environment tries other guards.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.exemptions import DISCOVERY, make_lan
from netconf_hooks.guard.firewall import LAN, NAMES, OPEN, PORTAL, PROBE, Window, check_exemption, load_firewall

from .crossing import ABSENT, CLOSED_PORT, FAR, FREE, GUARDED, Crossing, Made
from .oracle import (
    ADVERTISEMENT, ARP, EAPOL, ESP, ICMP, ICMP6, IGMP, IPV4, IPV6, JOINED, JOINED6, LISTENER_DONE, LISTENER_REPORT,
    LISTENER_REPORT2, PREAUTH, PROTOCOLS, REDIRECT, ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION, SOLICITATION, TCP, UDP,
    VLANS, Guarded, Origin, Packet, Pieces, Verdict, judge
)  # fmt: skip
from .waiting import wait_until

if TYPE_CHECKING:
    from netconf_hooks.guard.firewall import AnyFirewall

BACKENDS = ("nftables", "iptables")
PACKETS = 300  # for each guard
MARK = 0x6E636866

UIDS = (0, 1, 1000, 65534)
MARKS = (0, MARK, 7)
PORTS = (22, 53, 67, 123, 443, 547, 1194, 5353)
SOURCE_PORTS = (22, 68, 500, 546, 4001)
GRE, SCTP, UDPLITE, PRIVATE = 47, 132, 136, 253
NUMBERS = (UDP, UDP, UDP, TCP, TCP, ESP, GRE, SCTP, UDPLITE, PRIVATE, IGMP)
UNICAST = {
    4: (FAR[4], "192.0.2.9", "198.51.100.7", "198.51.100.8", "203.0.113.1"),
    6: (FAR[6], "2001:db8:2::7", "2001:db8:2:1::7", "2001:db8:3::1"),
}
SPECIAL = {
    4: ("255.255.255.255", "192.0.2.255", "224.0.0.251", "239.255.255.250"),
    6: ("fe80::1", "ff02::fb", "ff02::c", "ff02::1:2", "ff02::2", "ff02::16", "ff02::1:ff00:7", "ff05::4711"),
}
FREE_ADDRESSES = {4: "10.9.0.2", 6: "2001:db8:f::2"}
NETWORKS = (
    "", "", "", "0.0.0.0/0", "192.0.2.1/32", "192.0.2.0/25", "192.0.0.0/7", "198.51.100.0/24", "198.51.100.7/32",
    "203.0.113.1/32", "224.0.0.0/4", "10.77.0.0/16", "::/0", "2001:db8:1::1/128", "2001:db8:2::/64", "2001:db8:2::/47",
    "2001:db8:2::7/128", "fe80::/10", "ff00::/8", "2001:db8:77::/64",
)  # fmt: skip
LANS = ("192.0.2.0/24", "198.51.100.0/24", "2001:db8:2::/64", "2001:db8:77::/64", "fe80::/64")
ND = (
    ROUTER_SOLICITATION, ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, SOLICITATION, ADVERTISEMENT, REDIRECT,
    LISTENER_REPORT, LISTENER_DONE, LISTENER_REPORT2,
)  # fmt: skip


class Maker:
    """Makes guards and packets at random; the same from the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        # Of a conversation, or of a connection, there is one.
        self._unique = itertools.count(20000 + seed % 20 * 2000)
        self._absent = itertools.count(2 + seed % 200 * 100)

    def make_guard(self, frames: bool) -> Guarded:
        """Return a guard as it may be: mostly some exemptions, sometimes a window."""
        exemptions = tuple(self._make_opening() for _ in range(self._random.randrange(6)))
        windows = []
        for name in (OPEN, PORTAL, PROBE, NAMES, LAN):
            if self._random.random() < {OPEN: 0.1, LAN: 0.4}.get(name, 0.2):
                windows.append((name, (Exemption(),) if name == OPEN else self._make_window(name)))
        return Guarded(GUARDED, exemptions, tuple(windows), frames)

    def make_packet(self, guard: Guarded) -> Made:
        """Return a packet that this guard has something to say about: one that it lets through, or nearly."""
        kinds = {
            self._make_process: 40, self._make_forwarded: 15, self._make_frame: 15, self._make_kernels: 8,
            self._make_answer: 6, self._make_dhcp: 6, self._make_neighbourly: 9, self._make_absent: 1,
            self._make_discovery: 5,
        }  # fmt: skip
        make = self._random.choices(list(kinds), list(kinds.values()))[0]
        return make(guard)

    def _make_opening(self) -> Exemption:
        pick = self._random
        while True:
            protocol = pick.choice(("", "udp", "udp", "tcp", "tcp", "esp"))
            port = pick.choice((0, *PORTS)) if protocol != "esp" else 0
            source_port = pick.choice(SOURCE_PORTS) if protocol != "esp" and pick.random() < 0.25 else 0
            uids = tuple(pick.sample(UIDS, pick.randrange(1, 3))) if pick.random() < 0.3 else ()
            mark = pick.choice(MARKS) if pick.random() < 0.3 else 0
            reply = protocol in ("udp", "tcp") and bool(source_port) and pick.random() < 0.5
            exemption = Exemption(protocol, pick.choice(NETWORKS), port * (not reply), source_port, uids, mark, reply)
            # One that is for everything is a guard of nothing: it leaves no packet to ask about.
            if exemption != Exemption():
                check_exemption(exemption)
                return exemption

    def _make_window(self, name: str) -> tuple[Exemption, ...]:
        pick = self._random
        if name == LAN:
            window = make_lan(pick.sample(LANS, pick.randrange(1, 4)))
            assert window is not None
            return window.exemptions
        address = pick.choice(UNICAST[4] + UNICAST[6])
        network = f"{address}/{128 if ':' in address else 32}"
        if name == PROBE:
            return (Exemption(pick.choice(("udp", "tcp")), network, pick.choice(PORTS), uids=(0,), mark=MARK),)
        if name == NAMES:
            return tuple(Exemption(protocol, network, 53, uids=(0, 1)) for protocol in ("udp", "tcp"))
        return (Exemption("tcp", "", 443, uids=(1000,)), Exemption("udp", network, 53))

    def _fill(self, guard: Guarded, special: bool = True) -> Packet:
        """Return a packet as one of the guard's exemptions has it, with up to two things changed."""
        pick = self._random
        exemptions = (*guard.exemptions, *(exemption for _, found in guard.windows for exemption in found))
        exemption = pick.choice(exemptions) if exemptions and pick.random() < 0.85 else Exemption()
        addresses = [
            address
            for version in (4, 6)
            for address in UNICAST[version] + (SPECIAL[version] if special else ())
            if not exemption.network or ipaddress.ip_address(address) in ipaddress.ip_network(exemption.network)
        ] or list(UNICAST[4])
        has_ports = bool(exemption.port or exemption.source_port)
        packet = Packet(
            Origin.PROCESS,
            GUARDED,
            pick.choice(addresses),
            PROTOCOLS[exemption.protocol] or pick.choice((TCP, UDP) if has_ports else NUMBERS),
            exemption.port or pick.choice(PORTS),
            exemption.source_port or pick.choice((9999, *SOURCE_PORTS)),
            pick.choice(exemption.uids or UIDS),
            exemption.mark or pick.choice(MARKS),
        )
        changes: dict[str, Callable[[], object]] = {
            "destination": lambda: pick.choice([address for found in UNICAST.values() for address in found]),
            "protocol": lambda: pick.choice(NUMBERS),
            "port": lambda: pick.choice(PORTS),
            "source_port": lambda: pick.choice(SOURCE_PORTS),
            "uid": lambda: pick.choice(UIDS),
            "mark": lambda: pick.choice(MARKS),
        }
        for name in pick.sample(list(changes), pick.choice((0, 0, 0, 1, 1, 2))):
            packet = packet._replace(**{name: changes[name]()})  # type: ignore[arg-type]
        if packet.protocol not in (TCP, UDP):
            packet = packet._replace(port=0, source_port=0)
        return packet

    def _cut(self, packet: Packet, share: float) -> Packet:
        if self._random.random() < share:
            every = Pieces.CUT if packet.origin is Origin.FORWARDED else Pieces.CUT_BY_PROCESS
            return packet._replace(pieces=self._random.choice((every, every, Pieces.FIRST, Pieces.LATER)))
        return packet

    def _extend(self, packet: Packet) -> Made:
        how = self._random.choice(("", "", "options")) if packet.version == 4 else self._random.choice(
            ("", "", "", "hop", "options", "routing", "all")
        )
        return packet._replace(extended=packet.version == 6 and bool(how)), how

    def _make_process(self, guard: Guarded) -> Made:
        packet = self._fill(guard)
        if self._random.random() < 0.06:
            packet = packet._replace(device=FREE, destination=FREE_ADDRESSES[packet.version])
        address = ipaddress.ip_address(packet.destination)
        if self._random.random() < 0.5 and packet.protocol == UDP:
            if self._random.random() < 0.15 and address in map(ipaddress.ip_address, UNICAST[packet.version]):
                packet = packet._replace(pieces=Pieces.CUT)
            return packet, "socket"
        if self._random.random() < 0.4 and packet.protocol == TCP and not address.is_multicast:
            if packet.destination in UNICAST[packet.version]:
                return packet._replace(source_port=next(self._unique)), "socket"
        return self._extend(self._cut(packet, 0.2))

    def _make_forwarded(self, guard: Guarded) -> Made:
        packet = self._fill(guard, special=False)._replace(origin=Origin.FORWARDED, uid=None, mark=0)
        if packet.destination not in UNICAST[packet.version]:
            packet = packet._replace(destination=UNICAST[packet.version][0])
        if self._random.random() < 0.1:
            ports = (67, 68) if packet.version == 4 else (547, 546)
            packet = packet._replace(protocol=UDP, port=ports[0], source_port=ports[1])
        if self._random.random() < 0.1:
            packet = packet._replace(device=FREE, destination=FREE_ADDRESSES[packet.version])
        return self._extend(self._cut(packet, 0.2))

    def _make_frame(self, guard: Guarded) -> Made:
        pick = self._random
        if pick.random() < 0.3:
            ether = pick.choice((ARP, EAPOL, PREAUTH, 0x88B5, 0x0026, *VLANS))
            claimed = pick.choice((ether, ether, ARP, IPV4, 0x88B5))
            return Packet(
                Origin.FRAME, GUARDED, ether=ether, claimed=claimed, uid=pick.choice(UIDS), mark=pick.choice(MARKS)
            ), ""
        packet = self._fill(guard)
        if pick.random() < 0.2:
            packet = self._make_dhcp(guard)[0]
        if pick.random() < 0.2:
            packet = self._make_neighbourly(guard)[0]
        if pick.random() < 0.2:
            packet = self._make_discovery(guard)[0]
        right = IPV4 if packet.version == 4 else IPV6
        ether = pick.choice((right, right, right, right, right, 0x88B5, *VLANS))
        claimed = pick.choice((ether, ether, ether, ether, right, ARP))
        packet = packet._replace(origin=Origin.FRAME, extended=False, ether=ether, claimed=claimed)
        packet = packet._replace(pieces=Pieces.WHOLE)
        if not packet.icmp and pick.random() < 0.2:
            packet = packet._replace(pieces=pick.choice((Pieces.FIRST, Pieces.LATER)))
        return packet, ""

    def _make_kernels(self, guard: Guarded) -> Made:
        pick = self._random
        version = pick.choice((4, 6))
        packet = Packet(Origin.KERNEL, GUARDED, FAR[version], reply=True)
        what = pick.choice(("echo", "unreachable", "reset"))
        if what == "reset":
            packet = packet._replace(protocol=TCP, source_port=pick.choice((22, CLOSED_PORT)), port=next(self._unique))
        else:
            types = {"echo": {4: 0, 6: 129}, "unreachable": {4: 3, 6: 1}}
            packet = packet._replace(protocol=ICMP if version == 4 else ICMP6, icmp=types[what][version])
        return packet, ""

    def _make_answer(self, guard: Guarded) -> Made:
        pick = self._random
        version = pick.choice((4, 6))
        return Packet(
            Origin.PROCESS, GUARDED, FAR[version], UDP, next(self._unique), pick.choice(SOURCE_PORTS),
            pick.choice(UIDS), pick.choice(MARKS), reply=pick.random() < 0.7,
        ), "socket"  # fmt: skip

    def _make_dhcp(self, guard: Guarded) -> Made:
        pick = self._random
        version = pick.choice((4, 6))
        source_port, port = (68, 67) if version == 4 else (546, 547)
        to = ("255.255.255.255", FAR[4]) if version == 4 else ("ff02::1:2", "fe80::1", FAR[6], "ff02::2")
        packet = Packet(Origin.PROCESS, GUARDED, pick.choice(to), UDP, port, source_port, pick.choice(UIDS))
        for name, value in (("port", 53), ("source_port", 4001), ("protocol", TCP)):
            if pick.random() < 0.2:
                packet = packet._replace(**{name: value})  # type: ignore[arg-type]
        if packet.protocol == UDP and pick.random() < 0.5:
            return packet, "socket"
        return self._extend(self._cut(packet, 0.2))

    def _make_neighbourly(self, guard: Guarded) -> Made:
        """Return what looks like neighbour discovery or MLD, but was made up by a process."""
        pick = self._random
        kind = pick.choice(ND)
        groups = {LISTENER_REPORT2: "ff02::16", LISTENER_REPORT: "ff02::1:ff00:7", ROUTER_SOLICITATION: "ff02::2"}
        to = groups.get(kind, "ff02::2") if pick.random() < 0.8 else pick.choice(SPECIAL[6] + UNICAST[6])
        usual = 1 if kind in (LISTENER_REPORT, LISTENER_DONE, LISTENER_REPORT2) else 255
        packet = Packet(
            Origin.PROCESS, GUARDED, to, ICMP6, uid=pick.choice(UIDS), mark=pick.choice(MARKS), icmp=kind,
            hops=pick.choice((usual, usual, usual, 64)), length=pick.choice((24, 24, 32)),
        )  # fmt: skip
        return self._extend(packet) if pick.random() < 0.3 else (packet, "")

    def _make_discovery(self, guard: Guarded) -> Made:
        """Return a question for devices on the LAN, or what looks like the kernel's report of a group for that."""
        pick = self._random
        uid, mark = pick.choice(UIDS), pick.choice(MARKS)
        if pick.random() < 0.4:
            group = pick.choice((*JOINED, *JOINED6, "ff02::2"))
            protocol, icmp = (IGMP, 0) if "." in group else (ICMP6, LISTENER_REPORT)
            packet = Packet(Origin.PROCESS, GUARDED, group, protocol, uid=uid, mark=mark, icmp=icmp)
            return packet._replace(hops=pick.choice((1, 1, 64))), ""
        group, port = pick.choice(DISCOVERY)
        packet = Packet(Origin.PROCESS, GUARDED, group, UDP, port, pick.choice((9999, 5353)), uid, mark)
        for name, value in (("port", 53), ("protocol", TCP), ("destination", "224.0.0.250")):
            if pick.random() < 0.15:
                packet = packet._replace(**{name: value})  # type: ignore[arg-type]
        return (packet, "socket") if packet.protocol == UDP and pick.random() < 0.5 else self._extend(packet)

    def _make_absent(self, guard: Guarded) -> Made:
        version = self._random.choice((4, 6))
        packet = self._fill(guard, special=False)
        address = str(ABSENT[version][next(self._absent)])
        return packet._replace(destination=address, protocol=UDP, port=packet.port or 53), "absent"


@pytest.fixture(scope="module")
def crossing() -> Iterator[Crossing]:
    """The machines of this module; every guard is lifted again."""
    with Crossing() as made:
        yield made


def put(crossing: Crossing, firewall: AnyFirewall, guard: Guarded) -> None:
    """Put up a guard as the oracle has it."""
    until = time.time() + 60
    windows = tuple(Window(name, exemptions, until) for name, exemptions in guard.windows)
    crossing.call(lambda: firewall.close(guard.device, guard.exemptions, windows))


def arrives(crossing: Crossing, made: Made) -> bool:
    """Return whether a packet arrives when it is sent again: a busy machine loses some."""
    try:
        return wait_until(lambda: all(crossing.send([made])[0]), "it to arrive", 5.0)
    except TimeoutError:
        return False


def is_wrong(packet: Packet, guard: Guarded, arrived: tuple[bool, ...]) -> bool:
    """Return whether what arrived is not what the oracle says."""
    verdict = judge(packet, guard)
    return verdict is Verdict.PASSES and not all(arrived) or verdict is Verdict.DROPPED and any(arrived)


def find_smallest(crossing: Crossing, firewall: AnyFirewall, guard: Guarded, made: Made) -> Guarded:
    """Return the smallest part of a guard on which oracle and firewall still disagree about a packet."""
    shrunk = True
    while shrunk:
        shrunk = False
        exemptions, windows = guard.exemptions, guard.windows
        fewer = [guard._replace(exemptions=exemptions[:n] + exemptions[n + 1:]) for n in range(len(exemptions))]
        fewer += [guard._replace(windows=windows[:n] + windows[n + 1:]) for n in range(len(windows))]
        for smaller in fewer:
            put(crossing, firewall, smaller)
            [arrived] = crossing.send([made])
            if is_wrong(made[0], smaller, arrived):
                guard, shrunk = smaller, True
                break
    return guard


def describe(made: Made, guard: Guarded, arrived: tuple[bool, ...]) -> str:
    """Return a disagreement in words."""
    packet, how = made
    facts = {name: value for name, value in packet._asdict().items() if value != Packet._field_defaults.get(name)}
    said = "\n".join(f"  {name} = {value}" for name, value in facts.items())
    return (
        f"oracle: {judge(packet, guard).value}; pieces that arrived: {arrived}; made by: {how or 'hand'}\n{said}\n"
        f"  exemptions: {guard.exemptions}\n  windows: {guard.windows}"
    )


def compare(
    crossing: Crossing, firewall: AnyFirewall, guard: Guarded, packets: Sequence[Made]
) -> tuple[list[str], Counter[Verdict]]:
    """Send packets through a guard; return the disagreements in words, and how many packets had which verdict."""
    put(crossing, firewall, guard)
    arrivals = crossing.send(packets)
    wrong = [
        (made, arrived)
        for made, arrived in zip(packets, arrivals, strict=True)
        if is_wrong(made[0], guard, arrived)
        and not (judge(made[0], guard) is Verdict.PASSES and arrives(crossing, made))
    ]
    found = [
        describe(made, find_smallest(crossing, firewall, guard, made), arrived)
        for made, arrived in wrong[:5]  # more say nothing more
    ]
    crossing.call(lambda: firewall.lift(guard.device))
    return found, Counter(judge(packet, guard) for packet, _ in packets)


def list_seeds() -> range:
    """Return the seeds to try: those of the environment, or always the same."""
    first, _, last = os.environ.get("NETCONF_ORACLE_SEEDS", "0-24").partition("-")
    return range(int(first), int(last or first) + 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_oracle_and_firewall_agree(crossing: Crossing, backend: str) -> None:
    """Whatever is sent: it arrives if the manual says so, and only then."""
    firewall = crossing.call(lambda: load_firewall(backend))
    frames = not any(lack.startswith("no egress chain") for lack in firewall.lacks)
    total: Counter[Verdict] = Counter()
    for seed in list_seeds():
        maker = Maker(seed)
        guard = maker.make_guard(frames)
        packets = [maker.make_packet(guard) for _ in range(PACKETS)]
        # What the kernel has asked for once it does not ask for again.
        plain = [made for made in packets if made[1] != "absent"]
        missing = [made for made, arrived in zip(plain, crossing.send(plain), strict=True) if not all(arrived)]
        missing = [made for made in missing if not arrives(crossing, made)]
        assert missing == [], f"seed {seed}: arrives not even without a guard"
        found, verdicts = compare(crossing, firewall, guard, packets)
        assert found == [], f"seed {seed}:\n" + "\n".join(found)
        total += verdicts
    assert min(total[Verdict.PASSES], total[Verdict.DROPPED]) > sum(total.values()) / 5


# A guard that is not as it should be: what one of these makes of each exemption.
MISTAKES: dict[str, Callable[[Exemption], Exemption]] = {
    "any protocol": lambda exemption: alter(exemption, protocol="", port=0, source_port=0, reply=False),
    "anywhere": lambda exemption: alter(exemption, network=""),
    "a wider network": lambda exemption: alter(exemption, network=widen(exemption.network)),
    "any port": lambda exemption: alter(exemption, port=0),
    "any source port": lambda exemption: alter(exemption, source_port=0, reply=False),
    "any user": lambda exemption: alter(exemption, uids=()),
    "the first user only": lambda exemption: alter(exemption, uids=exemption.uids[:1]),
    "any mark": lambda exemption: alter(exemption, mark=0),
    "not only replies": lambda exemption: alter(exemption, reply=False),
}


def alter(exemption: Exemption, **facts: object) -> Exemption:
    """Return an exemption that differs in some facts."""
    return exemption.change(**facts)


def widen(network: str) -> str:
    """Return a network that is twice as large."""
    found = ipaddress.ip_network(network or "0.0.0.0/0")
    return str(found.supernet()) if found.prefixlen and network else network


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_guard_with_a_mistake_is_noticed(crossing: Crossing, mistake: str) -> None:
    """If a firewall forgot one thing that an exemption says, random packets would show it."""
    firewall = crossing.call(lambda: load_firewall("nftables"))
    noticed = False
    for seed in range(1000, 1040):
        maker = Maker(seed)
        guard = maker.make_guard(frames=True)._replace(windows=())
        wrong = guard._replace(exemptions=tuple(map(MISTAKES[mistake], guard.exemptions)))
        if wrong == guard:
            continue
        packets = [maker.make_packet(guard) for _ in range(PACKETS)]
        put(crossing, firewall, wrong)
        arrivals = crossing.send(packets)
        noticed = any(is_wrong(made[0], guard, arrived) for made, arrived in zip(packets, arrivals, strict=True))
        if noticed:
            break
    crossing.call(lambda: firewall.lift(GUARDED))
    assert noticed
