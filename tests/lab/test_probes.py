"""The probes against real kernels, name servers and hostile servers, in network namespaces of their own."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from netconf_hooks.evidence import Link, dhclient, known_servers
from netconf_hooks.evidence.look import answer_rules
from netconf_hooks.evidence.names import look_up
from netconf_hooks.evidence.peer import read_arp_reply
from netconf_hooks.evidence.probes import View
from netconf_hooks.exemption import MARK
from netconf_hooks.observation import Answer, Place
from netconf_hooks.place import find_place, judge
from netconf_hooks.stanzas.rules import Rules, read_rules

from .image import CACHE
from .namespaces import Namespaces, enter_network
from .pair import QUIET, Wire, wire_carrier
from .servers import ROUTER, Certificate, Far, bind_datagrams
from .waiting import wait_until

OWN_MAC = "02:00:00:00:00:01"
MAC = "02:00:00:00:00:0a"
OTHER_MAC = "02:00:00:00:00:0c"
ROUTER6 = "fe80::a"
GLOBAL6 = "2001:db8:7::1"
ABSENT, ABSENT6 = "192.168.7.99", "fe80::99"
PUBLIC = "203.0.113.7"
HEX = 64 * "0"

# Seconds that hostile servers are given, and what a slow machine may take beyond that.
SHORT, MARGIN = 0.6, 0.6
PATIENT = 10.0


def observe_place(rules: Rules, link: Link, deadline: float) -> tuple[Place, dict[str, Answer]]:
    """Return the place by the rules and what was seen for it."""
    answers = answer_rules(rules, link, deadline)
    return find_place(rules, answers), answers


def read_frames(capture: socket.socket) -> list[bytes]:
    """Return the captured frames that came from the laptop."""
    frames = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frames.append(capture.recv(2048))
    return [frame for frame in frames if frame[6:12] == bytes.fromhex(OWN_MAC.replace(":", ""))]


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    # What dhclient keeps, and what is remembered of servers, is in a directory of the test's own.
    monkeypatch.setattr(dhclient, "LEASES", str(tmp_path))
    monkeypatch.setattr(known_servers, "DIRECTORY", str(tmp_path / "state"))
    with Namespaces(("net",)) as laptop, Namespaces(("net",)) as far:
        wire = Wire(laptop, far)
        wire.sysctl(QUIET)
        wire.sysctl(QUIET, where="far")
        wire.ip(
            f"""
            link set lo up
            link add r0 address {MAC} type veth peer name eth0 address {OWN_MAC} netns {laptop.files["net"]}
            link set r0 up
            addr add {ROUTER}/24 dev r0
            addr add {ROUTER6}/64 dev r0 nodad
            addr add {GLOBAL6}/64 dev r0 nodad
            addr add {PUBLIC}/32 dev r0
            """,
            where="far",
        )
        wire.ip("link set lo up\nlink set eth0 up")
        wire_carrier(wire)
        yield wire


@pytest.fixture
def far(wire: Wire) -> Iterator[Far]:
    with contextlib.ExitStack() as undo:
        yield Far(wire.far.files["net"], undo)


@pytest.fixture
def connected(wire: Wire) -> None:
    """The laptop has addresses and a default route."""
    wire.ip(
        f"""
        addr add 192.168.7.50/24 dev eth0
        addr add fe80::50/64 dev eth0 nodad
        addr add 2001:db8:7::50/64 dev eth0 nodad
        route add default via {ROUTER}
        """
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    directory = tmp_path_factory.mktemp("certificates")
    return {name: Certificate(directory / name) for name in ("office", "impostor")}


def ask(
    wire: Wire, line: str, patience: float = PATIENT, options: dict[str, str] | None = None
) -> tuple[bool | None, Answer, float]:
    """Return whether the one test of a location line holds, the answer, and how long it took."""
    rules = read_rules({"netconf-location": f"x {line}"})
    assert rules.errors == ()
    [test] = rules.locations[0].tests
    answers, took = observe(wire, rules, patience, options)[1:]
    return judge(test, answers), answers.get(test.key, Answer()), took


def observe(
    wire: Wire, rules: Rules, patience: float = PATIENT, options: dict[str, str] | None = None
) -> tuple[Place, dict[str, Answer], float]:
    """Find the place, and how long it took."""
    link = wire.link()
    link = Link(link.iface, link.device, link.index, link.carrier, options or {})
    began = time.monotonic()
    place, answers = wire.call(lambda: observe_place(rules, link, began + patience))
    return place, answers, time.monotonic() - began


# carrier


def test_carrier(wire: Wire) -> None:
    assert ask(wire, "carrier=yes")[0] is True
    wire.ip("link set r0 down", where="far")
    wait_until(lambda: not wire.link().carrier, "the carrier to be lost")
    assert ask(wire, "carrier=yes")[0] is False
    assert ask(wire, "carrier=no")[0] is True


# mtu


def test_mtu(wire: Wire) -> None:
    assert ask(wire, "mtu=1500")[0] is True
    wire.ip("link set eth0 mtu 1492")
    assert ask(wire, "mtu=1500")[0] is False
    assert ask(wire, "mtu=1500,01492")[0] is True


# peer


@pytest.mark.parametrize("target, absent", [(ROUTER, ABSENT), (ROUTER6, ABSENT6), (GLOBAL6, "2001:db8:7::99")])
@pytest.mark.parametrize("addressed", [False, True])
def test_a_neighbour_answers(
    wire: Wire, request: pytest.FixtureRequest, target: str, absent: str, addressed: bool
) -> None:
    """Before the interface has an address, and after."""
    if addressed:
        request.getfixturevalue("connected")
    holds, answer, took = ask(wire, f"peer={target}/{MAC}")
    assert (holds, answer.values, took < 1) == (True, (f"{target}/{MAC}",), True)
    assert ask(wire, f"peer={target}")[0] is True
    holds, answer, took = ask(wire, f"peer={target}/{OTHER_MAC}")
    assert (holds, took < 1) == (False, True)
    assert answer.problem == f"{target}/{OTHER_MAC}: answered by {MAC}"
    assert ask(wire, f"!peer={target}/{OTHER_MAC}")[0] is True
    holds, answer, took = ask(wire, f"peer={absent}", SHORT)
    assert (holds, took < SHORT + MARGIN) == (False, True)
    assert "did not answer" in answer.problem
    assert ask(wire, f"!peer={absent}", SHORT)[0] is True


def test_a_peer_that_is_not_there_costs_no_more_than_its_patience(wire: Wire) -> None:
    assert 1.9 < ask(wire, f"peer={ABSENT}", 30)[2] < 2.0 + MARGIN


def test_who_asks_for_a_peer_changes_nobodys_tables(wire: Wire) -> None:
    """Without an address the question is a probe: what it would teach others is nothing (RFC 5227 2.1.1)."""
    assert ask(wire, f"peer={ROUTER}")[0] is True
    assert OWN_MAC not in wire.far.run(["ip", "neigh"]).stdout
    assert "192.168.7" not in wire.laptop.run(["ip", "neigh"]).stdout


@pytest.mark.parametrize("target, command", [
    (ABSENT, "sysctl -qw net.ipv4.conf.r0.proxy_arp=1 net.ipv4.neigh.r0.proxy_delay=0 net.ipv4.conf.all.forwarding=1"),
    ("2001:db8:7::99", ""),
])
def test_who_answers_for_every_address_says_nothing(
    wire: Wire, far: Far, connected: None, target: str, command: str
) -> None:
    """Proxy ARP of a real kernel, which has a route to everywhere; by neighbour discovery a host of the test's own."""
    if command:
        wire.ip("link add p0 type veth peer name p1\nlink set p0 up\nlink set p1 up\nroute add default dev p0\n"
                f"route add {ABSENT}/32 dev p0", where="far")  # fmt: skip
        wire.far.run(command.split())
    else:
        far.advertise_everything("r0", MAC)
    holds, answer, took = ask(wire, f"peer={target}")
    assert (holds, took < 2) == (False, True)
    assert answer.problem == f"{target}: {MAC} answers for every address: write its MAC address as well"
    assert ask(wire, f"!peer={target}")[0] is False
    assert ask(wire, f"peer={target}/{MAC}")[0] is True


def test_an_answer_on_another_link_is_none(wire: Wire, far: Far) -> None:
    """Somebody there answers all the time, unasked."""
    wire.ip(f"link add x0 type veth peer name x1 netns {wire.laptop.files['net']}\nlink set x0 up", where="far")
    wire.ip("link set x1 up")
    sender = far.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    own, other = (bytes.fromhex(mac.replace(":", "")) for mac in (OWN_MAC, OTHER_MAC))
    reply = b"\0\1\x08\0\6\4\0\2" + other + socket.inet_aton(ABSENT) + own + bytes(4)
    assert read_arp_reply(reply, own, ABSENT) == OTHER_MAC

    def answer() -> None:
        while not far.over.wait(0.02):
            with contextlib.suppress(OSError):
                sender.sendto(b"\xff" * 6 + other + b"\x08\x06" + reply, ("x0", 0x0806))

    threading.Thread(target=answer, daemon=True).start()
    assert ask(wire, f"peer={ABSENT}", SHORT)[0] is False
    link = wire.link("x1")
    rules = read_rules({"netconf-location": f"there peer={ABSENT}"})
    place, _ = wire.call(lambda: observe_place(rules, link, time.monotonic() + SHORT))
    assert place.location == ""  # to somebody else's MAC address, so neither there


def test_a_peer_can_not_be_asked_without_carrier(wire: Wire) -> None:
    wire.ip("link set r0 down", where="far")
    wait_until(lambda: not wire.link().carrier, "the carrier to be lost")
    holds, answer, took = ask(wire, f"!peer={ROUTER}")
    assert (holds, answer.problem, took < 1) == (False, f"{ROUTER}: no carrier", True)


# reach


@pytest.mark.usefixtures("connected")
def test_a_server_is_reached(wire: Wire, far: Far) -> None:
    for address in (ROUTER, PUBLIC, GLOBAL6):
        service = far.serve(lambda connection: None, address=address)
        holds, answer, took = ask(wire, f"reach={service}")
        assert (holds, answer, took < 1) == (True, Answer((service,), settled=(service,)), True)
        assert ask(wire, f"!reach={service}")[0] is False


@pytest.mark.usefixtures("connected")
def test_a_server_that_refuses_is_not_reached(wire: Wire) -> None:
    holds, answer, took = ask(wire, f"reach={ROUTER}:9")
    assert (holds, answer.problem, took < 1) == (False, f"{ROUTER}:9: {ROUTER}: Connection refused", True)
    assert ask(wire, f"!reach={ROUTER}:9")[0] is True


REJECT = ["iptables", "-A", "OUTPUT", "!", "-o", "tun0", "-p", "tcp", "-j", "REJECT"]
REFUSALS = {
    "REJECT": REJECT,
    "REJECT with a reset": [*REJECT, "--reject-with", "tcp-reset"],
    "REJECT, host prohibited": [*REJECT, "--reject-with", "icmp-host-prohibited"],
    "DROP": [*REJECT[:-1], "DROP"],
    "reject of nftables": ["nft", "-f", "-"],
}
NFT = """table inet refuse {
    chain refuse { type filter hook output priority 0; oifname "eth0" meta l4proto tcp reject; }
}
"""


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("how", REFUSALS)
def test_a_refusal_by_this_machine_itself_is_no_answer(
    wire: Wire, far: Far, certificates: dict[str, Certificate], how: str
) -> None:
    """As wg-quick(8) writes it, and the kill switches of providers."""
    server = far.serve(certificates["office"].serve, 443)
    wire.laptop.run(REFUSALS[how], text=NFT)
    for line in (f"reach={server}", f"!reach={server}", f"tls={server}/sha256:{certificates['office'].sha256}"):
        holds, answer, took = ask(wire, line, SHORT)
        assert (holds is not True, answer.pending, answer.refuted, took < 5) == (True, True, (), True), answer
        assert "by this machine itself" in answer.problem


@pytest.mark.usefixtures("connected")
def test_a_server_that_drops_costs_no_more_than_the_deadline(wire: Wire) -> None:
    drop = "table ip t { chain c { type filter hook input priority 0; tcp dport 9 drop; }; }"
    wire.far.run(["nft", "-f", "-"], text=drop)
    holds, answer, took = ask(wire, f"reach={ROUTER}:9", SHORT)
    assert (holds, SHORT <= took < SHORT + MARGIN) == (False, True)
    assert "did not answer within" in answer.problem
    assert ask(wire, f"!reach={ROUTER}:9", SHORT)[0] is True


def test_without_an_address_nothing_can_be_reached_nor_refuted(wire: Wire) -> None:
    for line in (f"reach={ROUTER}:9", f"!reach={ROUTER}:9", f"reach=[{GLOBAL6}]:9", f"!reach=[{GLOBAL6}]:9"):
        holds, answer, took = ask(wire, line)
        assert (holds, took < 1) == (False, True)
        assert answer.refuted == ()


@pytest.mark.usefixtures("connected")
def test_a_server_is_reached_through_the_link_and_no_other(wire: Wire, far: Far) -> None:
    """A better route leads elsewhere, and a full tunnel's policy rule too; packets carry our mark."""
    wire.ip(
        """
        link add x0 type veth peer name x1
        link set x0 up
        link set x1 up
        route add 203.0.113.0/24 dev x0
        route add default dev x0 table 100
        rule add priority 100 lookup 100
        """
    )
    rule = f"oifname eth0 meta mark {MARK:#x} counter"
    count = f"table ip t {{ chain c {{ type filter hook postrouting priority 0; {rule}; }}; }}"
    wire.laptop.run(["nft", "-f", "-"], text=count)
    assert ask(wire, f"reach={far.serve(lambda connection: None, address=PUBLIC)}")[0] is True
    assert "packets 0" not in wire.laptop.run(["nft", "list", "ruleset"]).stdout


@pytest.mark.usefixtures("connected")
def test_an_ipsec_policy_is_not_followed(wire: Wire, far: Far) -> None:
    """In the café, strongSwan's policy would bring the office's server home through the tunnel."""
    wire.ip(
        f"xfrm policy add src 192.168.7.50/32 dst {PUBLIC}/32 dir out tmpl src 192.168.7.50 dst {ROUTER} proto esp "
        "mode tunnel"
    )
    service = far.serve(lambda connection: None, address=PUBLIC)
    assert ask(wire, f"reach={service}", SHORT)[0] is True
    # The policy is there: who doesn't know better is stopped by it.
    host, _, port = service.partition(":")
    connect = f"import socket; socket.create_connection(({host!r}, {port}), {SHORT}).close()"
    assert wire.laptop.run(["/usr/bin/python3", "-IS", "-c", connect], check=False).returncode != 0


# Names


@pytest.fixture
def resolver(wire: Wire, tmp_path: Path, connected: None) -> dict[str, str]:
    """A real dnsmasq at the router; the stanza options that name it."""
    wire.far.run(
        ["dnsmasq", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--user=root", "--group=root",
         f"--listen-address={ROUTER}", "--bind-interfaces", f"--pid-file={tmp_path}/dnsmasq.pid",
         f"--address=/intranet.corp.example.com/{ROUTER}", f"--address=/intranet.corp.example.com/{GLOBAL6}",
         f"--address=/public.example.com/{PUBLIC}", "--cname=alias.example.com,public.example.com",
         f"--host-record=public.example.com,{PUBLIC}", "--address=/liar.example.com/127.0.0.1",
         "--local=/example.com/"],
    )  # fmt: skip
    return {"dns-nameservers": ROUTER}


def test_a_name_is_asked_of_the_links_own_resolver(wire: Wire, far: Far, resolver: dict[str, str]) -> None:
    far.serve(lambda connection: None, 8080)
    far.serve(lambda connection: None, 8080, PUBLIC)
    for name in ("intranet.corp.example.com", "public.example.com", "alias.example.com"):
        holds, answer, took = ask(wire, f"reach={name}:8080", options=resolver)
        assert (holds, answer.problem, took < 1) == (True, "", True)


def test_a_name_that_is_not_there_is_a_no(wire: Wire, resolver: dict[str, str]) -> None:
    for name in ("nothing.example.com", "liar.example.com"):
        holds, answer, took = ask(wire, f"reach={name}:80", options=resolver)
        assert (holds, answer.problem, took < 1) == (False, f"{name}:80: {name} has no address", True)
        assert ask(wire, f"!reach={name}:80", options=resolver)[0] is True


def test_without_a_resolver_a_name_is_neither(wire: Wire, resolver: dict[str, str]) -> None:
    for line in ("reach=public.example.com:80", "!reach=public.example.com:80"):
        holds, answer, took = ask(wire, line)
        assert (holds, took < 1) == (False, True)
        assert "no name server to ask" in answer.problem


def test_the_next_resolver_is_asked_where_one_is_silent_or_refuses(
    wire: Wire, far: Far, resolver: dict[str, str]
) -> None:
    far.serve(lambda connection: None, 8080, PUBLIC)
    wire.ip("addr add 192.168.7.2/24 dev r0", where="far")  # refuses: nobody listens there
    for first in (ABSENT, "192.168.7.2"):
        options = {"dns-nameservers": f"{first} {ROUTER}"}
        holds, _, took = ask(wire, "reach=public.example.com:8080", options=options)
        assert (holds, took < 2) == (True, True)


HOSTILE_ANSWERS: dict[str, Callable[[bytes], list[bytes]]] = {
    "silent": lambda query: [],
    "empty": lambda query: [b""],
    "garbage": lambda query: [os.urandom(100)],
    "half": lambda query: [query[: len(query) // 2]],
    "its own question": lambda query: [query],
    "another identity": lambda query: [bytes([query[0] ^ 1]) + query[1:2] + b"\x81\x80" + query[4:]],
    "failure": lambda query: [query[:2] + b"\x81\x82" + query[4:]],
    "refused": lambda query: [query[:2] + b"\x81\x85" + query[4:]],
    # The name is a pointer to itself, and goes on for ever.
    "a loop": lambda query: [query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + b"\xc0\x0c\0\1\0\1" * 2 + bytes(10)],
    "a flood": lambda query: [query[:2] + os.urandom(60) for _ in range(2000)],
}


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("how", HOSTILE_ANSWERS)
def test_a_hostile_resolver_costs_no_more_than_the_deadline(wire: Wire, far: Far, how: str) -> None:
    far.answer_datagrams(HOSTILE_ANSWERS[how], ROUTER)
    for line in ("reach=www.example.com:80", "!reach=www.example.com:80"):
        holds, answer, took = ask(wire, line, SHORT, {"dns-nameservers": ROUTER})
        assert (holds, took < SHORT + MARGIN) == (False, True)
        assert "could not be looked up" in answer.problem


@pytest.mark.usefixtures("connected")
def test_forty_names_behind_a_slow_name_server_are_resolved_together(wire: Wire, far: Far) -> None:
    """Of a provider's file; each answer takes 150 ms, one of the names never gets one."""
    listener = far.call(lambda: bind_datagrams(ROUTER))

    def answer(query: bytes, sender: tuple[str, int]) -> None:
        question = query[12:query.index(b"\0", 12) + 5]
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(PUBLIC)
        found = question.endswith(b"\0\1\0\1")  # not AAAA
        header = query[:2] + b"\x81\x80\0\1\0" + bytes((found,)) + bytes(4)
        listener.sendto(header + question + (record if found else b""), sender)

    def serve() -> None:
        while not far.over.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                query, sender = listener.recvfrom(2000)
                if b"never" not in query:
                    reply = threading.Timer(0.15, answer, (query, sender))
                    reply.daemon = True
                    reply.start()

    listener.settimeout(0.2)
    threading.Thread(target=serve, daemon=True).start()
    names = ["never.example.com", *(f"{number}.example.com" for number in range(40))]
    link = wire.link()
    link = Link(link.iface, link.device, link.index, link.carrier, {"dns-nameservers": ROUTER})
    began = time.monotonic()
    found = wire.call(lambda: look_up(names, View(link, began + 5)))
    took = time.monotonic() - began
    assert [name for name in names if not found[name].addresses] == ["never.example.com"]
    assert found["7.example.com"].addresses == (PUBLIC,)
    assert took < 3, "one after the other it takes 6 s, and 5 s for the one that never answers"


def test_answers_of_the_right_server_to_somebody_else_do_not_count(wire: Wire, far: Far, connected: None) -> None:
    """An answer to another name, with the right identity."""
    def answer(query: bytes) -> list[bytes]:
        name = b"\5other\3com\0"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(ROUTER)
        return [query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + name + b"\0\1\0\1" + record]

    far.serve(lambda connection: None, 80)
    far.answer_datagrams(answer, ROUTER)
    assert ask(wire, "reach=www.example.com:80", SHORT, {"dns-nameservers": ROUTER})[0] is False


# tls


def test_a_certificate_proves_the_place(
    wire: Wire, far: Far, resolver: dict[str, str], certificates: dict[str, Certificate]
) -> None:
    office = certificates["office"]
    office.names.clear()
    far.serve(office.serve, 443)
    line = f"tls=intranet.corp.example.com:443/sha256:{office.sha256}"
    holds, answer, took = ask(wire, line, options=resolver)
    assert (holds, answer.problem, took < 2) == (True, "", True)
    assert office.names == ["intranet.corp.example.com"]
    place, _, _ = observe(wire, read_rules({"netconf-location": f"office {line}"}), options=resolver)
    assert place.grade == "authenticated"
    assert ask(wire, f"tls={ROUTER}:443/sha256:{office.sha256}")[0] is True
    assert office.names[-1] is None  # RFC 6066 3: an address is no server name


@pytest.mark.usefixtures("connected")
def test_another_certificate_is_a_no(wire: Wire, far: Far, certificates: dict[str, Certificate]) -> None:
    service = far.serve(certificates["impostor"].serve)
    holds, answer, took = ask(wire, f"tls={service}/sha256:{certificates['office'].sha256}")
    assert (holds, took < 2, answer.values) == (False, True, ())
    assert f"the server shows sha256:{certificates['impostor'].sha256}" in answer.problem


def test_a_server_at_a_public_address_is_not_asked(
    wire: Wire, far: Far, resolver: dict[str, str], certificates: dict[str, Certificate]
) -> None:
    far.serve(certificates["office"].serve, 443, PUBLIC)
    capture = far.capture()
    for host in (PUBLIC, "public.example.com"):
        line = f"tls={host}:443/sha256:{certificates['office'].sha256}"
        holds, answer, _ = ask(wire, line, options=resolver)
        assert holds is False
        assert f"not asked: {PUBLIC} is not on the local network" in answer.problem
    assert socket.inet_aton(PUBLIC) not in b"".join(frame[30:34] for frame in read_frames(capture))


@pytest.mark.usefixtures("connected")
def test_the_links_own_prefix_is_local_whatever_its_addresses(
    wire: Wire, far: Far, certificates: dict[str, Certificate]
) -> None:
    service = far.serve(certificates["office"].serve, 0, GLOBAL6)
    assert ask(wire, f"tls={service}/sha256:{certificates['office'].sha256}")[0] is True


def test_a_certificate_is_not_asked_for_through_a_tunnel(
    wire: Wire, far: Far, certificates: dict[str, Certificate]
) -> None:
    service = far.serve(certificates["office"].serve)
    far.lay_tunnel(wire, "tun9")
    wire.ip("link set eth0 down\naddr add 192.168.7.50/24 dev tun9\nlink set tun9 up")
    rules = read_rules({"netconf-location": f"x tls={service}/sha256:{certificates['office'].sha256}"})
    link = wire.link("tun9")
    place, answers = wire.call(lambda: observe_place(rules, link, time.monotonic() + PATIENT))
    assert place == Place()
    assert "tun9 is no local network" in answers["tls"].problem


def reset(connection: socket.socket) -> None:
    """Take what is sent and reset the connection."""
    connection.recv(10000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def drip(connection: socket.socket) -> None:
    """A TLS record with a ServerHello that never ends, a byte now and then."""
    pause = threading.Event()
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03")
    while True:
        connection.sendall(b"\x00")
        pause.wait(0.02)


def flood(connection: socket.socket) -> None:
    """As many TLS records as go through: warnings, which OpenSSL passes over, and then a certificate without an end."""
    data = b"\x16\x03\x03\x40\x00\x02\x00\xff\xff" + bytes(16380)
    while True:
        connection.sendall(data)


def wait_for_end(connection: socket.socket) -> None:
    """Accept and say nothing."""
    select.select([connection], [], [], PATIENT)
    while connection.recv(10000):
        pass


HOSTILE_SERVERS: dict[str, Callable[[socket.socket], None]] = {
    "silent": wait_for_end,
    "closing": lambda connection: None,
    "resetting": reset,
    "dripping": drip,
    "flooding": flood,
    "garbage": lambda connection: connection.sendall(bytes(range(255, 0, -1)) * 20),
    "http": lambda connection: connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n"),
    "an echo": lambda connection: connection.sendall(connection.recv(10000)),
}


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("how", HOSTILE_SERVERS)
def test_a_hostile_server_costs_no_more_than_the_deadline(wire: Wire, far: Far, how: str) -> None:
    service = far.serve(HOSTILE_SERVERS[how])
    line = f"tls={service}/sha256:{HEX}"
    # Longer than elsewhere: on a busy machine even a connection of our own takes a while.
    deadline = 3 * SHORT
    holds, answer, took = ask(wire, line, deadline)
    assert (holds, took < deadline + MARGIN) == (False, True)
    assert "TLS handshake" in answer.problem


@pytest.mark.usefixtures("connected")
def test_who_only_repeats_the_certificate_proves_nothing(
    wire: Wire, far: Far, certificates: dict[str, Certificate]
) -> None:
    """A recorded answer of the real server, certificate and all: the handshake can't be completed."""
    office = far.serve(certificates["office"].serve)
    recorded: list[bytes] = []

    def work() -> None:
        enter_network(wire.laptop.files["net"])
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the certificate is sent in the clear
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        host, _, port = office.partition(":")
        with socket.create_connection((host, int(port)), PATIENT) as connection:
            connection.sendall(outgoing.read())
            recorded.append(connection.recv(10000))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    def repeat(connection: socket.socket) -> None:
        connection.recv(10000)
        connection.sendall(recorded[0])

    impostor = far.serve(repeat)
    holds, answer, _ = ask(wire, f"tls={impostor}/sha256:{certificates['office'].sha256}", SHORT)
    assert (holds, "TLS handshake" in answer.problem) == (False, True)


# command


@pytest.fixture
def programs() -> Iterator[Path]:
    """A directory whose parents are root's alone, as a program needs that is proof; pytest's are below /tmp."""
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE) as directory:
        yield Path(directory)


def write_program(directory: Path, text: str) -> str:
    path = directory / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_program_of_the_admins_is_proof(wire: Wire, programs: Path) -> None:
    path = write_program(programs, f'echo "$IFACE" >{programs}/out; exit 0')
    place, _, _ = observe(wire, read_rules({"netconf-location": f"x command={path}"}))
    assert (place.location, place.grade) == ("x", "authenticated")
    assert (programs / "out").read_text() == "eth0\n"


def test_a_program_that_fails_hangs_or_is_not_roots(wire: Wire, programs: Path) -> None:
    path = write_program(programs, "exit 3")
    holds, answer, _ = ask(wire, f"command={path}")
    assert (holds, answer.problem) == (False, f"{path}: exit status 3")
    assert ask(wire, f"!command={path}")[0] is True
    write_program(programs, f"echo $$ >{programs}/pid; exec tail -f /dev/null")
    for line in (f"command={path}", f"!command={path}"):
        holds, answer, took = ask(wire, line, SHORT)
        assert (holds, took < SHORT + MARGIN) == (False, True)
        assert answer.problem == f"{path}: not done in time, killed"
    assert not os.path.exists(f"/proc/{(programs / 'pid').read_text().strip()}")
    write_program(programs, "exit 0")
    for spoilt, uid, mode in ((path, 0, 0o775), (path, 65534, 0o755), (str(programs), 0, 0o777)):
        os.chown(spoilt, uid, 0)
        os.chmod(spoilt, mode)
        holds, answer, _ = ask(wire, f"command={path}")
        assert (holds, "not run" in answer.problem) == (False, True)
        os.chown(spoilt, 0, 0)
        os.chmod(spoilt, 0o755)
    assert ask(wire, f"command={path}")[0] is True
    assert ask(wire, "command=/nonexistent/program")[0] is False


# All at once, and nothing that is not needed


@pytest.mark.usefixtures("connected")
def test_all_probes_run_at_once_under_one_deadline(wire: Wire, far: Far, programs: Path) -> None:
    silent = far.serve(wait_for_end)
    hanging = write_program(programs, "exec tail -f /dev/null")
    rules = read_rules({"netconf-location": f"""\
a peer={ABSENT}
b peer={ABSENT6}
c reach={ABSENT}:80
d reach=www.example.com:80
e tls={silent}/sha256:{HEX}
f command={hanging}
g peer={ROUTER}/{OTHER_MAC}"""})
    place, answers, took = observe(wire, rules, 1.0, {"dns-nameservers": ABSENT})
    assert (place, took < 1.0 + MARGIN) == (Place(), True)
    assert sorted(answers) == ["command", "peer", "reach", "tls"]


@pytest.mark.usefixtures("connected")
def test_what_is_no_longer_needed_is_not_waited_for(wire: Wire, far: Far) -> None:
    """The first line holds at once: the silence of those behind it makes no difference."""
    service = far.serve(lambda connection: None)
    rules = read_rules({"netconf-location": f"a reach={service}\nb peer={ABSENT}\nc reach={ABSENT}:80"})
    place, _, took = observe(wire, rules)
    assert (place.location, place.undecided, took < 1) == ("a", False, True)


def is_mld(frame: bytes) -> bool:
    """Whether it is what the kernel says by itself when it has joined a group: IPv6 with hop-by-hop options (0)."""
    return frame[12:14] == b"\x86\xdd" and frame[20] == 0


@pytest.mark.usefixtures("connected")
def test_a_place_that_the_routers_mac_decides_sends_nothing(wire: Wire, far: Far, programs: Path) -> None:
    wire.ip(f"neigh replace {ROUTER} lladdr {MAC} dev eth0 nud reachable")
    ran = write_program(programs, f"touch {programs}/ran")
    rest = f"""
office gateway-mac={OTHER_MAC} tls={ROUTER}:443/sha256:{HEX}
home peer={ROUTER}
home tls={ROUTER}:443/sha256:{HEX}
office peer={ROUTER}
office reach=www.example.com:80
office tls={ROUTER}:443/sha256:{HEX}
office command={ran}"""
    capture = far.capture()
    options = {"dns-nameservers": ROUTER}
    rules = read_rules({"netconf-location": f"home gateway-mac={MAC}{rest}"})
    place, answers, took = observe(wire, rules, options=options)
    assert (place.location, sorted(answers), took < 0.5) == ("home", ["gateway-mac"], True)
    # Of IPv6 the kernel may have had something to say by itself.
    assert [frame for frame in read_frames(capture) if not is_mld(frame)] == []
    assert not (programs / "ran").exists()
    # Where the router is another one, the rest is asked: the capture does see packets.
    rules = read_rules({"netconf-location": f"home gateway-mac={OTHER_MAC}{rest}"})
    place, _, _ = observe(wire, rules, options=options)
    assert place.location == "home"  # by the peer
    assert [frame for frame in read_frames(capture) if not is_mld(frame)] != []


@pytest.mark.usefixtures("connected")
def test_a_certificate_is_asked_for_only_where_the_hints_of_its_line_hold(wire: Wire, far: Far) -> None:
    wire.ip(f"neigh replace {ROUTER} lladdr {MAC} dev eth0 nud reachable")
    lines = (
        f"office gateway-mac={OTHER_MAC} tls={ROUTER}:443/sha256:{HEX}",
        f"office !peer={ROUTER} tls={ROUTER}:1/sha256:{HEX}",
    )
    capture = far.capture()
    place, answers, _ = observe(wire, read_rules({"netconf-location": "\n".join(lines)}))
    assert (place, "tls" in answers) == (Place(), False)
    frames = read_frames(capture)
    # Of IPv6 the kernel may have had something to say by itself: ICMPv6 (58), for MLD behind hop-by-hop options (0).
    assert {frame[20] for frame in frames if frame[12:14] == b"\x86\xdd"} <= {0, 58}
    assert {frame[12:14] for frame in frames} - {b"\x86\xdd"} == {b"\x08\x06"}  # ARP, for the peer; no TCP


def test_no_time_left_is_undecided(wire: Wire) -> None:
    rules = read_rules({"netconf-location": f"home peer={ROUTER}"})
    place, answers, _ = observe(wire, rules, 0.0)
    assert place == Place(undecided=True)
    assert answers["peer"].problem == f"{ROUTER}: no time left to ask"


@pytest.mark.usefixtures("connected")
def test_who_is_not_root_is_told_so(wire: Wire) -> None:
    def observe_as_nobody() -> Answer:
        os.setresuid(65534, 65534, 65534)
        link = Link("eth0", "eth0", index, True, {})
        rules = read_rules({"netconf-location": f"x reach={ROUTER}:80"})
        return observe_place(rules, link, time.monotonic() + PATIENT)[1]["reach"]

    index = wire.link().index
    reader, writer = os.pipe()

    def work() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writer, observe_as_nobody().problem.encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    wire.call(work)
    os.close(writer)
    with open(reader, encoding="ascii") as pipe:
        assert pipe.read() == f"{ROUTER}:80: asking takes root"


# The memory of servers


def read_memory() -> str:
    return Path(known_servers.Servers().path).read_text(encoding="ascii")


@pytest.mark.usefixtures("connected")
def test_a_server_that_answers_behind_another_router_no_longer_counts(
    wire: Wire, far: Far, certificates: dict[str, Certificate]
) -> None:
    office = certificates["office"]
    service = far.serve(office.serve)
    line = f"tls={service}/sha256:{office.sha256}"
    assert ask(wire, line)[0] is True
    assert read_memory().splitlines()[1] == f"{office.sha256} home {MAC}"
    assert ask(wire, line)[0] is True
    # Another network, with the same addresses: somebody relays.
    wire.ip(f"link set r0 address {OTHER_MAC}", where="far")
    wire.ip("neigh flush dev eth0")
    holds, answer, _ = ask(wire, line)
    assert holds is False
    assert f"the server also answers elsewhere (behind {OTHER_MAC} on eth0, " in answer.problem
    # At home neither; and it is not even asked.
    wire.ip(f"link set r0 address {MAC}", where="far")
    wire.ip("neigh flush dev eth0")
    capture = far.capture()
    for again in (line, f"!{line}"):
        holds, answer, took = ask(wire, again)
        assert (holds, took < 0.5) == (False, True)
        assert "also answers elsewhere" in answer.problem
    assert read_frames(capture) == []


@pytest.mark.usefixtures("connected")
def test_the_routers_that_the_line_names_are_its_home(
    wire: Wire, far: Far, certificates: dict[str, Certificate]
) -> None:
    office = certificates["office"]
    certificate = f"tls={far.serve(office.serve)}/sha256:{office.sha256}"
    lines = f"office gateway-mac={MAC},{OTHER_MAC} {certificate}"
    for mac in (MAC, OTHER_MAC, MAC):
        wire.ip(f"link set r0 address {mac}", where="far")
        wire.ip("neigh flush dev eth0")
        assert observe(wire, read_rules({"netconf-location": lines}))[0].grade == "authenticated"
    # A line without a hint takes it at its word, but not behind a router that none of them names.
    lines = f"office gateway-mac={OTHER_MAC} {certificate}\noffice {certificate}"
    assert observe(wire, read_rules({"netconf-location": lines}))[0] == Place()
    assert f"elsewhere behind {MAC} on eth0" in read_memory()


@pytest.mark.usefixtures("connected")
def test_a_server_that_answers_through_a_tunnel_no_longer_counts(
    wire: Wire, far: Far, certificates: dict[str, Certificate]
) -> None:
    """Whoever can use the tunnel can relay it, too."""
    office = certificates["office"]
    line = f"tls={far.serve(office.serve)}/sha256:{office.sha256}"
    far.lay_tunnel(wire, "tun1")
    wire.ip("addr add 10.8.0.2/24 dev tun1\nlink set tun1 up")
    assert ask(wire, line)[0] is True  # it leads nowhere yet
    wire.ip("addr add 10.8.0.1/24 dev tun1\nlink set tun1 up", where="far")
    for where in ("laptop", "far"):
        wire.sysctl("net.ipv4.conf.all.rp_filter=0\nnet.ipv4.conf.tun1.rp_filter=0", where=where)
    holds, answer, _ = ask(wire, line)
    assert holds is False
    assert "the server also answers elsewhere (through tun1, " in answer.problem


@pytest.mark.usefixtures("connected")
def test_a_memory_that_can_not_be_kept_or_read_proves_nothing(
    wire: Wire, far: Far, certificates: dict[str, Certificate]
) -> None:
    office = certificates["office"]
    line = f"tls={far.serve(office.serve)}/sha256:{office.sha256}"
    memory = Path(known_servers.Servers().path)
    memory.parent.write_text("")  # a file where the directory should be
    holds, answer, _ = ask(wire, line)
    assert (holds, str(memory) in answer.problem) == (False, True)
    memory.parent.unlink()
    assert ask(wire, line)[0] is True
    memory.write_text(read_memory() + "rubbish\n", encoding="ascii")
    holds, answer, _ = ask(wire, line)
    assert (holds, "not a line of ours: 'rubbish'" in answer.problem) == (False, True)
