"""Runs in a machine with Debian's own kernel: the guard, beside what other kernels lack.  ESP, VLAN, macvlan, egress.

The machine is the laptop, as in `guest`.  Two processes of it, root's and nobody's, send all the time to wherever there
is; what leaves is seen at the other end of its cable.  The checks are one story and run in their order: first without a
guard, where all of it leaves, then with one, where not one packet does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from netconf_hooks.guard.firewall.nftables import Firewall
from tests.lab import ipsec, wireguard
from tests.lab.attacks import generator
from tests.lab.attacks.capture import Allowed, Capture, Frame, Leak, find_leaks, read_packet
from tests.lab.attacks.traffic import INTERNET_HOST6, Job, make_echo, make_packet, make_question, mark_data
from tests.lab.closing import Closing
from tests.lab.namespaces import ENVIRONMENT
from tests.lab.network import CAFE, CORP_HOST, INTERNET_HOST, OFFICE, VPN_GATEWAY, Network
from tests.lab.stanzas import LOCATIONS
from tests.lab.waiting import wait_until
from tests.lab.wireguard import WireGuardGateway
from tests.vm.checks import Check, run_checks
from tests.vm.guest import GATEWAY_CONFIG, PATIENT, USERLAND_ESP, Guest

WIREGUARD = f"wireguard {wireguard.NAME} unless office-lan"
IPSEC = f"ipsec {ipsec.NAME} unless office-lan"
GUARD = "    netconf-guard unless office-lan\n    netconf-trust hints\n"
LEASE = 30.0  # seconds, as the manual page says

WATCHER = "netconf-hooks-watch.service"
STAYS_DEAD = f"/run/systemd/system/{WATCHER}.d/dead.conf"

# A tunnel's own packets: address, protocol, port.
ESP = (VPN_GATEWAY, 50, 0)
ENCAPSULATED = (VPN_GATEWAY, 17, 4500)
FLOWS = {
    WIREGUARD: frozenset({(VPN_GATEWAY, 17, wireguard.PORT)}),
    IPSEC: frozenset({(VPN_GATEWAY, 17, 500), ENCAPSULATED, ESP}),
}

SENDERS = {"root": 0, "nobody": 65534}
PAUSE = 250  # milliseconds between two rounds: the emulated processor has other things to do
ROUNDS = 3
FIRST_TCP_PORT = 21000

VLAN, MACVLAN = "eth0.5", "mv0"
VLAN_HOST, MACVLAN_ADDRESS = "192.168.55.2", f"192.168.{CAFE.number}.200"
CHILDREN = f"""\
link add link eth0 name {VLAN} type vlan id 5
link set {VLAN} addrgenmode none up
addr add 192.168.55.1/24 dev {VLAN}
neigh replace {VLAN_HOST} lladdr {CAFE.router_mac} dev {VLAN}
link add link eth0 name {MACVLAN} type macvlan mode bridge
link set {MACVLAN} addrgenmode none up
addr add {MACVLAN_ADDRESS}/32 dev {MACVLAN}
route add {CAFE.router}/32 dev {MACVLAN} table 5
neigh replace {CAFE.router} lladdr {CAFE.router_mac} dev {MACVLAN}
"""
# linux/if_packet.h; Python has no names for these.
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
IPV4, DOT1Q, DOT1AD, EXPERIMENTAL = 0x0800, 0x8100, 0x88A8, 0x88B5


class Sender(Closing):
    """A process of a user's that sends all the time, from now until `close`."""

    def __init__(self, name: str, uid: int, jobs: Sequence[Job]) -> None:
        self.name = name
        self._file = Path(f"/run/sender-{name}")
        orders = {
            "jobs": [job._asdict() | {"data": job.data.hex()} for job in jobs],
            "uid": uid, "pause": PAUSE, "counts": str(self._file),
        }  # fmt: skip
        argv = ["/usr/bin/python3", "-IS", generator.__file__, json.dumps(orders)]
        self._process = subprocess.Popen(argv, env=ENVIRONMENT)
        wait_until(lambda: self.count_rounds() > 0, f"{name} to send", PATIENT)

    def close(self) -> None:
        """Stop sending."""
        self._process.kill()
        self._process.wait()

    def count_rounds(self) -> int:
        """Return how often everything was sent."""
        assert self._process.poll() is None, f"{self.name} does not send any more"
        try:
            counted: int = struct.unpack_from(generator.COUNTS, self._file.read_bytes())[0]
        except (FileNotFoundError, struct.error):
            return 0
        return counted


class Watched(Guest, Closing):
    """The laptop, on which everything sends, with somebody looking at its cable; until `close`."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.allowed = Allowed()
        self.ports: dict[int, str] = {}
        self.guarded = False
        with contextlib.ExitStack() as undo:
            self.capture = undo.enter_context(Capture(network.wire_namespace))
            self.run(["sysctl", "-q", "-w", "net.ipv4.ping_group_range=0 2147483647"])
            self.senders = []
            for name, uid in SENDERS.items():
                self.senders.append(undo.enter_context(Sender(name, uid, self._plan(name))))
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Let nobody send any more, and look away."""
        self._undo.close()

    def rule(self, vpn: str, guarded: bool = True) -> None:
        """Write the laptop's rules: this tunnel, with a guard or without."""
        self.configure(vpn, LOCATIONS + GUARD * guarded)
        self.guarded = guarded
        self.allowed = Allowed(FLOWS[vpn], frozenset({CAFE.router, OFFICE.router}))

    def arrive(self, site: str) -> None:
        """Plug eth0 in, bring it up, and say how long that took."""
        self.capture.read()
        began = time.monotonic()
        super().arrive(site)
        print(f"# ifup {'with' if self.guarded else 'without'} a guard: {time.monotonic() - began:.2f} s")

    def look(self) -> list[Frame]:
        """Return what was on the wire since the last look, during which everybody has sent some rounds more."""
        until = {sender: sender.count_rounds() + ROUNDS for sender in self.senders}
        wait_until(
            lambda: all(sender.count_rounds() >= rounds for sender, rounds in until.items()), "all senders", PATIENT
        )
        return self.capture.read()

    def find(self, frames: list[Frame]) -> list[Leak]:
        """Return what of `frames` had no business on the wire."""
        return find_leaks(frames, self.allowed, self.ports)

    def judge(self, what: str) -> list[Frame]:
        """Look, and raise AssertionError where one packet has leaked; return the frames."""
        frames = self.look()
        leaks = self.find(frames)
        assert not leaks, f"{what}: {len(leaks)} of {len(frames)} frames leaked:\n{tell(leaks)}"
        return frames

    def expect_leaks(self, what: str, kinds: set[str]) -> None:
        """Look, and raise AssertionError where one of `kinds` did not leave."""
        leaks = self.find(self.look())
        missing = kinds - {leak.kind for leak in leaks}
        assert not missing, f"{what}: {sorted(missing)} did not leave, only\n{tell(leaks)}"

    def read_guard(self) -> object:
        """Return what ``netconf-hooks status`` calls the guard of eth0."""
        return json.loads(self.run(["netconf-hooks", "status", "--json"]).stdout)["guards"]["eth0"]["state"]

    def wait_for_guard(self, state: str) -> None:
        """Wait until the guard is ``closed`` or ``open``."""
        wait_until(lambda: self.read_guard() == state, f"the guard to be {state}", PATIENT)

    def find_expiry(self) -> int:
        """Return how long the link stays open if nobody renews it, in whole seconds; -1 where it is shut."""
        argv = ["nft", "-j", "list", "set", "inet", "netconf-guard", "open-eth0"]
        (found,) = (entry["set"] for entry in json.loads(self.run(argv).stdout)["nftables"] if "set" in entry)
        return max((int(element["elem"]["expires"]) for element in found.get("elem", [])), default=-1)

    def find_watcher(self) -> int:
        """Wait until the watcher runs and sleeps, and return its pid."""
        def find_sleeping() -> int:
            pid = int(self.run(["systemctl", "show", "--property=MainPID", "--value", WATCHER]).stdout)
            return pid if pid and "poll" in Path(f"/proc/{pid}/wchan").read_text() else 0

        return wait_until(find_sleeping, "the watcher to sleep", PATIENT)

    def kinds(self, *patterns: str) -> set[str]:
        """Return what the senders send whose name ends so."""
        return {f"{name}/{pattern}" for name in SENDERS for pattern in patterns}

    def _plan(self, name: str) -> list[Job]:
        kind = f"{name}/udp4/beyond"
        jobs = [Job(kind, "udp", INTERNET_HOST, 9, data=mark_data(kind))]
        kind = f"{name}/udp4/bound"
        jobs.append(Job(kind, "udp", INTERNET_HOST, 9, "eth0", data=mark_data(kind)))
        kind = f"{name}/udp6/bound"
        jobs.append(Job(kind, "udp", INTERNET_HOST6, 9, "eth0", data=mark_data(kind)))
        kind = f"{name}/icmp4/router"
        jobs.append(Job(kind, "icmp", CAFE.router, data=make_echo(kind, 4)))
        kind = f"{name}/icmp6/router"
        jobs.append(Job(kind, "icmp", "fe80::1%eth0", data=make_echo(kind, 6)))
        kind = f"{name}/dns/resolver"
        jobs.append(Job(kind, "resolver", port=53, data=make_question(kind)))
        # What belongs into the tunnel.
        kind = f"{name}/udp4/corp"
        jobs.append(Job(kind, "udp", CORP_HOST, 9, data=mark_data(kind)))
        port = FIRST_TCP_PORT + len(self.ports)
        self.ports[port] = f"{name}/tcp4/beyond"
        jobs.append(Job(self.ports[port], "tcp", INTERNET_HOST, port))
        return jobs


EVERYTHING = (
    "udp4/beyond", "udp4/bound", "udp6/bound", "icmp4/router", "icmp6/router", "dns/resolver", "udp4/corp",
    "tcp4/beyond",
)  # fmt: skip


def tell(leaks: list[Leak]) -> str:
    """Return leaks as lines: of each sender how many, and the first."""
    counts = Counter(leak.kind for leak in leaks)
    first = {leak.kind: leak for leak in reversed(leaks)}
    return "\n".join(f"{count:6} {kind or '?'}: {first[kind].summary}" for kind, count in sorted(counts.items()))


# --- what is not IP's, or not this device's


@contextlib.contextmanager
def children(guest: Watched) -> Iterator[None]:
    """Put a VLAN and a macvlan on eth0 for a time."""
    guest.write("/run/children", CHILDREN)
    guest.run(["ip", "-batch", "/run/children"])
    try:
        yield
    finally:
        for name in (VLAN, MACVLAN):
            guest.run(["ip", "link", "delete", name])


def send_sideways(ports: tuple[int, int]) -> set[str]:
    """Send frames past the host's IP on eth0, and packets and frames through its children; return their kinds.

    Among them some that have the shape of what every closed link lets through, or of a tunnel's packets, behind a tag.
    ports: of the tunnel's packets.
    """
    dhcp = ("0.0.0.0", "255.255.255.255", (68, 67))
    tunnel = (f"192.168.{CAFE.number}.100", VPN_GATEWAY, ports)
    plain = (f"192.168.{CAFE.number}.100", INTERNET_HOST, (9, 9))
    frames = {
        "raw/plain": ("eth0", b"", plain, False),
        "raw/bypass": ("eth0", b"", plain, True),
        "raw/odd": ("eth0", struct.pack("!H", EXPERIMENTAL), plain, False),
        "raw/tagged": ("eth0", struct.pack("!HHH", DOT1Q, 5, IPV4), plain, False),
        "raw/tagged-dhcp": ("eth0", struct.pack("!HHH", DOT1Q, 5, IPV4), dhcp, False),
        "raw/tagged-tunnel": ("eth0", struct.pack("!HHH", DOT1Q, 5, IPV4), tunnel, True),
        "raw/double-tunnel": ("eth0", struct.pack("!HHHHH", DOT1AD, 5, DOT1Q, 6, IPV4), tunnel, False),
        "vlan/frame": (VLAN, b"", plain, False),
        "vlan/dhcp": (VLAN, b"", dhcp, False),
        "vlan/tunnel": (VLAN, b"", tunnel, False),
        "vlan/bypass": (VLAN, b"", tunnel, True),
        "macvlan/frame": (MACVLAN, b"", plain, False),
        "macvlan/bypass": (MACVLAN, b"", plain, True),
    }
    for kind, (device, header, (source, destination, ports), bypass) in frames.items():
        send_frame(device, header or struct.pack("!H", IPV4), make_packet(kind, source, destination, ports), bypass)
    for kind, device, host in (("vlan/udp4", VLAN, VLAN_HOST), ("macvlan/udp4", MACVLAN, CAFE.router)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            with contextlib.suppress(PermissionError):  # told at once that it was dropped
                channel.sendto(mark_data(kind), (host, 9))
    return {*frames, "vlan/udp4", "macvlan/udp4"}


def find_wireguards_ports(guest: Watched) -> tuple[int, int]:
    """Return the ports of the packets of WireGuard."""
    return int(guest.run(["wg", "show", wireguard.NAME, "listen-port"]).stdout), wireguard.PORT


def send_frame(device: str, header: bytes, packet: bytes, bypass: bool) -> None:
    """Send a frame to the café's router; header: what follows the addresses; bypass: past the device's queue."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as channel:
        channel.bind((device, 0))
        if bypass:
            channel.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        own = channel.getsockname()[4]
        frame = bytes.fromhex(CAFE.router_mac.replace(":", "")) + own + header + packet
        # What was dropped on its way is told so at once.
        with contextlib.suppress(OSError):
            channel.sendto(frame, (device, int.from_bytes(header[:2], "big")))


# --- without a guard


def without_a_guard_all_of_it_leaves(guest: Watched) -> None:
    guest.rule(WIREGUARD, guarded=False)
    guest.arrive(CAFE.name)
    guest.wait_for_wireguard(True)
    guest.wait_for_corp()
    route = ["ip", "-6", "route", "show", "default", "dev", "eth0"]
    wait_until(lambda: guest.run(route).stdout, "the router of IPv6", PATIENT)
    guest.capture.read()
    guest.expect_leaks("in the cafe", guest.kinds(*EVERYTHING) - guest.kinds("udp4/corp"))
    with children(guest):
        guest.expect_leaks("past IP", send_sideways(find_wireguards_ports(guest)))
    guest.leave()
    guest.wait_for_wireguard(False)


# --- with WireGuard


def wireguard_goes_through_the_guard_alone(guest: Watched) -> None:
    guest.rule(WIREGUARD)
    guest.arrive(CAFE.name)
    guest.wait_for_wireguard(True)
    guest.wait_for_corp()
    assert guest.read_guard() == "closed"
    ping = guest.run(["ping", "-n", "-q", "-i", "0.2", "-c", "10", "-W", "5", CORP_HOST]).stdout
    assert " 0% packet loss" in ping, ping
    frames = guest.judge("with WireGuard, from before ifup")
    print(f"# {len(frames)} frames, {count_frames(frames, *FLOWS[WIREGUARD])} of them the tunnel's")
    assert count_frames(frames, *FLOWS[WIREGUARD]) >= 20


def the_kernel_holds_what_was_put_in_it(guest: Watched) -> None:
    guard = Firewall()
    began = time.monotonic()
    assert not guard.find_fallen(("eth0",))
    print(f"# looked at in {time.monotonic() - began:.2f} s")
    assert guard.lacks == (), "6.1 has the hook egress"
    assert "hook egress" in guest.run(["nft", "list", "chain", "netdev", "netconf-guard", "egress-eth0"]).stdout
    assert "priority 350" in guest.run(["nft", "list", "chain", "inet", "netconf-guard", "postrouting"]).stdout
    pid = guest.find_watcher()
    stop_idle(pid)
    try:
        guest.run(["nft", "flush", "chain", "netdev", "netconf-guard", "egress-eth0"])
        assert guard.find_fallen(("eth0",))
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not guard.find_fallen(("eth0",)), "the guard to be put back", PATIENT)
    guest.judge("with half of it put back")


def neither_raw_frames_nor_children_get_past_it(guest: Watched) -> None:
    with children(guest):
        ports = find_wireguards_ports(guest)
        for _ in range(ROUNDS):
            send_sideways(ports)
        guest.judge("past IP")


# --- taken away, and put back


def stop_idle(watcher: int) -> None:
    """Stop the watcher while it has no child at work: that one would go on, and put the guard back."""

    def is_stopped() -> bool:
        os.kill(watcher, signal.SIGSTOP)
        if not Path(f"/proc/{watcher}/task/{watcher}/children").read_text().strip():
            return True
        os.kill(watcher, signal.SIGCONT)
        return False

    wait_until(is_stopped, "the watcher to have no child", PATIENT)


def flushed_by_hand_the_watcher_puts_it_back(guest: Watched) -> None:
    pid = guest.find_watcher()
    stop_idle(pid)
    try:
        guest.run(["nft", "flush", "ruleset"])
        guest.expect_leaks("flushed", guest.kinds(*EVERYTHING) - guest.kinds("udp4/corp"))
    finally:
        began = time.monotonic()
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not Firewall().find_fallen(("eth0",)), "the guard to be put back", PATIENT)
    print(f"# put back after {time.monotonic() - began:.2f} s")
    guest.capture.read()
    guest.judge("put back")
    # With the watcher awake, how long is the gap?
    flushed = time.time()
    guest.run(["nft", "flush", "ruleset"])
    wait_until(lambda: not Firewall().find_fallen(("eth0",)), "the guard to be put back", PATIENT)
    leaks = guest.find(guest.look())
    gap = max((leak.time for leak in leaks), default=flushed) - flushed
    print(f"# {len(leaks)} packets left within {gap:.2f} s")
    guest.judge("put back again")
    guest.wait_for_corp()


def nftables_service_is_followed_by_the_guard(guest: Watched) -> None:
    pid = guest.find_watcher()
    stop_idle(pid)
    try:
        guest.run(["systemctl", "restart", "nftables.service"])  # started, where it was not
        for verb in ("restart", "reload", "stop"):
            guest.run(["systemctl", verb, "nftables.service"])
            assert not Firewall().find_fallen(("eth0",)), f"{verb}: put back before systemctl returns"
            guest.capture.read()
            guest.judge(verb)
    finally:
        os.kill(pid, signal.SIGCONT)


def wireguards_guard_goes_with_ifdown(guest: Watched) -> None:
    guest.capture.read()
    guest.leave()
    guest.wait_for_wireguard(False)
    assert guest.run(["nft", "list", "ruleset"]).stdout == ""
    guest.judge("down")


# --- the lease


def what_is_open_is_renewed(guest: Watched) -> None:
    guest.arrive(OFFICE.name)
    guest.wait_for_guard("open")
    assert 0 < guest.find_expiry() <= LEASE
    guest.capture.read()
    guest.expect_leaks("open", guest.kinds("udp4/beyond", "udp4/bound", "tcp4/beyond"))
    wait_until(lambda: 0 < guest.find_expiry() < LEASE - 7, "some of the lease to run out", PATIENT)
    began = time.monotonic()
    # Well before its end: an element that is only added again lives no longer.
    wait_until(lambda: guest.find_expiry() > LEASE - 4, "the lease to be renewed", LEASE / 2)
    print(f"# renewed {time.monotonic() - began:.1f} s after 7 s of it were gone")
    assert guest.find_expiry() <= LEASE


def the_clock_closes_what_the_set_still_holds(guest: Watched) -> None:
    """As after a sleep, in which the timeouts of sets stand still."""
    pid = guest.find_watcher()
    stop_idle(pid)
    try:
        step_clock(2 * LEASE)
        try:
            guest.capture.read()
            guest.judge("after the end")
            assert guest.find_expiry() >= 0
        finally:
            step_clock(-2 * LEASE)
    finally:
        os.kill(pid, signal.SIGCONT)
    guest.wait_for_guard("open")


def without_a_watcher_the_link_closes(guest: Watched) -> None:
    guest.write(STAYS_DEAD, "[Service]\nRestart=no\n")
    guest.run(["systemctl", "daemon-reload"])
    pid = guest.find_watcher()
    guest.expect_leaks("open", guest.kinds("udp4/beyond"))
    killed = time.time()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: guest.find_expiry() < 0, "the lease to end", LEASE + 10)
    leaks = guest.find(guest.look())
    after = max(leak.time for leak in leaks) - killed
    print(f"# closed {after:.1f} s after the watcher was killed")
    assert 0 < after <= LEASE
    guest.judge("closed")
    assert guest.unit(WATCHER) == "failed"


def with_a_watcher_it_opens_again(guest: Watched) -> None:
    Path(STAYS_DEAD).unlink()
    guest.run(["systemctl", "daemon-reload"])
    guest.run(["systemctl", "reset-failed", WATCHER])
    guest.run(["systemctl", "start", WATCHER])
    wait_until(lambda: guest.find_expiry() > 0, "the guard to open", PATIENT)
    guest.capture.read()
    guest.expect_leaks("open", guest.kinds("udp4/beyond"))
    guest.leave()


# --- with the kernel's ESP


def without_a_guard_the_end_of_ipsec_is_in_the_clear(guest: Watched) -> None:
    start_ipsec(guest)
    guest.rule(IPSEC, guarded=False)
    guest.arrive(CAFE.name)
    guest.wait_for_corp()
    guest.capture.read()
    past = send_past_policies(guest)
    leaks = {leak.kind for leak in guest.find(guest.look())}
    assert not leaks & guest.kinds("udp4/corp"), "encrypted"
    assert {past} | guest.kinds("udp4/beyond") <= leaks, leaks
    end_ipsec(guest)
    guest.capture.read()
    guest.expect_leaks("ended", guest.kinds("udp4/corp"))
    guest.leave()


def ipsec_behind_nat_goes_through_the_guard_alone(guest: Watched) -> None:
    guest.rule(IPSEC)
    go_through_ipsec(guest, ENCAPSULATED)


def when_ipsec_ends_its_packets_stay(guest: Watched) -> None:
    end_ipsec(guest)
    guest.judge("ended")
    # What the admin has ended by hand, he begins again by hand.
    guest.run(["swanctl", "--initiate", "--child", ipsec.NAME])
    guest.wait_for_corp()
    guest.judge("back")
    guest.run(["ip", "xfrm", "policy", "flush"])
    guest.judge("without policies")
    guest.run(["ip", "xfrm", "state", "flush"])
    guest.judge("without policies and associations")
    guest.leave()
    guest.judge("down")


def ipsec_without_nat_goes_through_the_guard_alone(guest: Watched) -> None:
    guest.network.run(CAFE.name, ["nft", "delete", "table", "ip", "nat"])
    route = ["ip", "route", "add", f"192.168.{CAFE.number}.0/24", "via", f"203.0.113.1{CAFE.number}"]
    guest.network.run("internet", route)
    go_through_ipsec(guest, ESP)


def neither_raw_frames_nor_children_get_past_esp(guest: Watched) -> None:
    with children(guest):
        for _ in range(ROUNDS):
            send_sideways((4500, 4500))
        guest.judge("past IP")
    guest.wait_for_corp()
    end_ipsec(guest)
    guest.judge("ended")
    guest.leave()
    guest.judge("down")
    assert guest.run(["nft", "list", "ruleset"]).stdout == ""


def start_ipsec(guest: Watched) -> None:
    """Configure strongSwan at both ends, with the kernel's ESP, and start the gateway's."""
    ipsec.write_swanctl(guest)
    Path(USERLAND_ESP).unlink()  # the kernel is to encrypt
    guest.network.run("vpn", ["setsid", "--fork", "charon-systemd"])
    load = ["swanctl", "--load-all", "--noprompt", "--file", GATEWAY_CONFIG]
    guest.network.write(GATEWAY_CONFIG, ipsec.GATEWAY_SWANCTL)
    wait_until(lambda: guest.network.run("vpn", load, check=False).returncode == 0, "the gateway to listen", PATIENT)


def end_ipsec(guest: Watched) -> None:
    """End the association behind the product's back, and return when the kernel has forgotten it."""
    guest.run(["swanctl", "--terminate", "--ike", ipsec.NAME])
    wait_until(lambda: guest.read_associations() == [], "the associations to go", PATIENT)


def go_through_ipsec(guest: Watched, flow: tuple[str, int, int]) -> None:
    """Arrive in the café, and see that the tunnel carries packets as `flow`, and that nothing else left."""
    guest.arrive(CAFE.name)
    guest.wait_for_corp()
    assert {kind for kind, _ in guest.read_associations()} == {"esp"}
    assert guest.read_guard() == "closed"
    ping = guest.run(["ping", "-n", "-q", "-i", "0.2", "-c", "10", "-W", "5", CORP_HOST]).stdout
    assert " 0% packet loss" in ping, ping
    send_past_policies(guest)
    frames = guest.judge("with IPsec, from before ifup")
    other = ({ESP, ENCAPSULATED} - {flow}).pop()
    print(f"# {len(frames)} frames, {count_frames(frames, flow)} of them the tunnel's")
    assert count_frames(frames, flow) >= 10
    # The first packets after the key exchange float to port 4500 even where there is no NAT (RFC 7296, 2.23).
    assert flow == ESP or count_frames(frames, other) == 0


def send_past_policies(guest: Watched) -> str:
    """Send a packet to the host behind the tunnel which no policy encrypts, for its source; return its kind."""
    shown = json.loads(guest.run(["ip", "-json", "-4", "addr", "show", "dev", "eth0"]).stdout)
    (address,) = (at["local"] for link in shown for at in link["addr_info"] if at["local"].startswith("192.168."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.bind((address, 0))
        with contextlib.suppress(PermissionError):  # told at once that it was dropped
            channel.sendto(mark_data("root/udp4/past"), (CORP_HOST, 9))
    return "root/udp4/past"


def count_frames(frames: list[Frame], *flows: tuple[str, int, int]) -> int:
    """Return how many frames are of these flows."""
    packets = (read_packet(frame) for frame in frames)
    return sum((packet.destination, packet.protocol, packet.ports[1]) in flows for packet in packets if packet)


def step_clock(seconds: float) -> None:
    """Set the machine's clock ahead, or back."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


CHECKS: list[Check[Watched]] = [
    without_a_guard_all_of_it_leaves,
    wireguard_goes_through_the_guard_alone,
    the_kernel_holds_what_was_put_in_it,
    neither_raw_frames_nor_children_get_past_it,
    flushed_by_hand_the_watcher_puts_it_back,
    nftables_service_is_followed_by_the_guard,
    wireguards_guard_goes_with_ifdown,
    what_is_open_is_renewed,
    the_clock_closes_what_the_set_still_holds,
    without_a_watcher_the_link_closes,
    with_a_watcher_it_opens_again,
    without_a_guard_the_end_of_ipsec_is_in_the_clear,
    ipsec_behind_nat_goes_through_the_guard_alone,
    when_ipsec_ends_its_packets_stay,
    ipsec_without_nat_goes_through_the_guard_alone,
    neither_raw_frames_nor_children_get_past_esp,
]


def main() -> int:
    """Run all checks in this machine, and return whether all went well."""
    with Network((CAFE, OFFICE), ("eth0",)) as network, WireGuardGateway(network) as gateway:
        network.announce_ipv6(CAFE.name)
        with Watched(network) as guest:
            gateway.install_client(guest)
            return run_checks(CHECKS, guest)


if __name__ == "__main__":
    sys.exit(main())
