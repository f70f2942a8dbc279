"""guessnet's language, and its choice among tests that are made up here.

What guessnet 0.56 (Debian 11) does with the same lines was seen by running it; `SEEN` is what it printed.  That both
choose the same on a real network, tests/lab/test_mapping.py looks at.
"""

import errno
import select
import shutil
import socket
import struct
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence.probes import Wait
from netconf_hooks.evidence.scan import HeardNetwork
from netconf_hooks.mappings import guessnet, mapping
from netconf_hooks.mappings.guessnet import (
    Candidate, Options, TestContext, Test, choose_stanza, find_first, make_ping, read_candidates, read_lines, read_tests
)  # fmt: skip
from netconf_hooks.stanzas.interfaces import InterfacesError
from netconf_hooks.system.netlink import LinkStatus, NetlinkError

PEER = "peer address 192.168.1.1 mac 52:54:00:0a:00:01"
PEER_READ = Test("peer", PEER, address="192.168.1.1", mac="52:54:00:0a:00:01", source="0.0.0.0")

# On a laptop whose network has 192.168.1.1 at 52:54:00:0a:00:01: `guessnet-ifupdown eth0` with these map lines, and in
# /etc/network/interfaces `iface NAME inet manual` with this option for each; what it printed, and after it "!" where it
# complained.  Captured from guessnet 0.56+b2 (Debian 11) on Debian 12.
SEEN = [
    ("timeout: 1", {"home": f"test {PEER}"}, "home"),
    ("timeout: 1", {"home": f"test1 {PEER}"}, "home"),
    ("timeout: 1", {"home": f"test10 {PEER}"}, "home"),
    ("timeout: 1", {"home": f"test-{PEER}"}, "home"),
    ("timeout: 1", {"home": f"test1-{PEER}"}, "home"),
    ("timeout: 1", {"home": f"guessnet test {PEER}"}, "home"),
    ("timeout: 1", {"home": f"guessnet1 test {PEER}"}, "home"),
    ("timeout: 1", {"home": f"guessnet test1 {PEER}"}, "home"),
    ("timeout: 1", {"home": f"guessnet test-{PEER}"}, "home"),
    ("timeout: 1", {"home": f"testpeer {PEER[5:]}"}, "none"),
    ("timeout: 1", {"home": f"test-1 {PEER}"}, "none!"),
    ("timeout: 1", {"home": "test peer 192.168.1.1 52:54:00:0a:00:01"}, "none!"),
    ("timeout: 1", {"home": "test peer ip 192.168.1.1"}, "none!"),
    ("timeout: 1", {"home": "test peer mac 52:54:00:0A:00:01 address 192.168.1.1"}, "home"),
    ("timeout: 1", {"home": "test peer address 192.168.1.1 mac 52:54:0:a:0:1"}, "home"),
    ("timeout: 1", {"home": "test peer address 192.168.1.1 mac 52:54:00:0a:00:02"}, "none"),
    ("timeout: 1", {"home": "test peer address 192.168.1.1 source 192.168.1.99"}, "home"),
    ("timeout: 1", {"home": "test peer address 192.168.1.1 foo bar"}, "home"),
    ("timeout: 1", {"home": "test nosuch thing", "b": "test command true"}, "b!"),
    ("timeout: 1", {"home": "test default"}, "none!"),
    ("timeout: 3", {"a": "test command false"}, "none"),
    ("timeout: 1", {"home": f"test {PEER}", "b": "test command true"}, "b"),
    ("timeout: 1\nautofilter: true", {"eth0-home": f"test {PEER}", "b": "test command true"}, "eth0-home"),
    ("timeout: 1\nautofilter: true\nb", {"eth0-home": "test command false", "b": "test command true"}, "b"),
    ("timeout: 1\nautofilter: true\n!eth0-b", {"eth0-h": f"test {PEER}", "eth0-b": "test command true"}, "eth0-h"),
    ("timeout: 1\n!b !c", {"home": f"test {PEER}", "b": "test command true", "c": "test command true"}, "home"),
    ("timeout: 1\nhome", {"home": f"test {PEER}", "b": "test command true"}, "home"),
    ("timeout: 1\ndefault : x", {"b": "test command false"}, "none!"),
    ("timeout: 1\ndefault:   x y  ", {"b": "test command false"}, "x"),
    ("timeout: 1\ndefault:x", {"b": "test command false"}, "x"),
    ("timeout: 1\ndefault: x\ndefault: y", {"b": "test command false"}, "y"),
    ("default: x", {"b": "address 192.0.2.1"}, "x"),
    ("# hello\nhome # c\n timeout: 1", {"home": f"test {PEER}"}, "home"),
]

# The same with `iface w inet manual` and `test wireless` before each of these, where the library that it scans by,
# libiw30, heard `AIR`.
AIR = [
    HeardNetwork(name.encode(), f"52:54:00:0a:00:0{number}", closed)
    for number, (name, closed) in enumerate([
        ("home", True), ("cafe", False), ("My LAN", True), ("x", False), ('say"hi', False), ("it's", False),
        ("", False), ("Büro", False),
    ], 1)
]  # fmt: skip
SEEN_IN_AIR = [
    ("essid home", "w"),
    ("essid Home", "none"),
    ('essid "home"', "w"),
    ("essid My LAN", "none!"),
    ('essid "My LAN"', "w"),
    ('essid "my lan"', "none"),
    ('essid "x"', "w"),
    ("mac 52:54:00:0a:00:01", "w"),
    ("mac 52:54:00:0A:00:01", "w"),
    ("mac 52:54:0:a:0:1", "w"),
    ("mac 52:54:00:0a:00:99", "none"),
    ("essid home mac 52:54:00:0a:00:01", "w"),
    ("mac 52:54:00:0a:00:01 essid home", "w"),
    ("essid home mac 52:54:00:0a:00:02", "none"),
    ("open", "w"),
    ("closed", "w"),
    ("essid home open", "none"),
    ("essid home closed", "w"),
    ("essid cafe open", "w"),
    ("essid cafe closed", "none"),
    ("open closed essid cafe", "none"),
    ("closed open essid cafe", "w"),
    ("essid open", "none"),
    ("open essid home", "none"),
    ("essid home essid nosuch", "w"),
    ("essid nosuch essid home", "none"),
    ("foo bar", "none!"),
    ("", "none!"),
    ("essid", "none!"),
    ("mac", "none!"),
    ("essid home foo bar", "w"),
    ("essid home foo", "w!"),
    ("foo essid home", "none!"),
    ('essid say"hi', "w"),
    ('essid "say"hi"', "none!"),
    ("essid it's", "w"),
    ("essid 'My LAN'", "none!"),
    ("essid nosuch", "none"),
    ('essid "home', "w"),
    ('essid home"', "none"),
    ("essid home # c", "w"),
    ("essid home # closed", "w"),
    ("essid home # open", "none"),
    ("ESSID home", "none!"),
    ("Open", "none!"),
    ('essid ""', "none!"),
    ('"essid" home', "w"),
    ("essid\thome", "w"),
    ('essid "ho"me', "none!"),
    ("essid Büro", "w"),
    ('essid "" x "home"', "none!"),
    ("essid home a open", "none"),
    ('essid home "a" open', "w"),
    # guessnet-ifupdown(8), DIFFERENCES: it said "none!" to the first, and nothing to the second.
    ("essid x", "w"),
    ("mac bogus", "none!"),
]


class TestLines:
    def test_nothing_written(self):
        lines = read_lines("")
        assert (lines.names, lines.excluded, lines.options, lines.errors) == ((), (), Options(), ())

    def test_all_options(self):
        lines = read_lines(
            "default: dhcp\ntimeout: 10\ninit-time: 7\ninit-delay: 2\nverbose: true\nautofilter: true\n"
            "iwscan-tries: 23\nsyslog: yes\ndebug: false\n"
        )
        assert lines.options == Options("dhcp", 10, 7, 2, True, True, 23)
        assert lines.errors == ()

    def test_guessnets_other_spellings(self):
        assert read_lines("inittime: 7\ninit_delay: 2\ntimeout: 0\n").options == Options("none", 5, 7, 2)

    def test_names(self):
        assert read_lines("home work\n\neth0:1\n").names == ("home", "work", "eth0:1")
        assert read_lines("!home\n!work # and\n").excluded == ("home", "work")

    @pytest.mark.parametrize("line, reason", [
        ("timeout: soon", 'expected a number after "timeout:"'),
        ("timeout: -1", 'expected a number after "timeout:"'),
        ("default:", 'expected the name of a stanza after "default:"'),
        ("autofilter: maybe", 'expected "true" or "false" after "autofilter:"'),
        ("defualt: home", 'no such option of guessnet\'s: "defualt"'),
        ("!home work", "names with and without ! can't be mixed"),
    ])
    def test_what_cannot_be_read_is_told_and_changes_nothing(self, line, reason):
        lines = read_lines(line)
        (error,) = lines.errors
        assert str(error).startswith(f'map "{line}": {reason}')
        assert (lines.names, lines.options) == ((), Options())

    @given(st.text() | st.lists(st.sampled_from(["a", "default", "timeout", ":", " ", "!", "\n", "9"])).map("".join))
    def test_nothing_is_raised(self, text):
        assert read_lines(text).options.timeout > 0


class TestTests:
    def test_every_kind(self, monkeypatch):
        monkeypatch.setattr(guessnet, "_find_program", lambda name: True)
        tests, errors = read_tests({
            "address": "192.0.2.1", "test1": PEER, "test2-missing-cable": "please", "test3": "script test $NAME = home",
            "test4-command": "echo 'a  b'", "test5": "pppoe",
            "test6": "peer mac 52:54:00:0a:00:01 source 192.168.1.99",
        })  # fmt: skip
        assert errors == ()
        assert tests == (
            PEER_READ,
            Test("missing-cable", "missing-cable please"),
            Test("command", "script test $NAME = home", command="test $NAME = home"),
            Test("command", "command echo 'a  b'", command="echo 'a  b'"),
            Test("pppoe", "pppoe"),
            Test("peer", "peer mac 52:54:00:0a:00:01 source 192.168.1.99", mac="52:54:00:0a:00:01",
                 source="192.168.1.99"),
        )  # fmt: skip

    def test_repeated_lines_of_one_option(self):
        assert read_tests({"test": f"missing-cable\n{PEER}"})[0] == (Test("missing-cable", "missing-cable"), PEER_READ)

    @pytest.mark.parametrize("option, value, reason", [
        ("test", "peer address 192.168.1.999", 'expected an IPv4 address after address, not "192.168.1.999"'),
        ("test", "peer address 192.168.1.1 mac 52-54", "expected a MAC address"),
        ("test", "peer address", "expected an IPv4 address after address"),
        ("test-peer", "192.168.1.1", "expected address or mac, and its value, after peer"),
        ("test", "peer source 192.168.1.1", "expected address or mac"),
        ("test", "peer mac 52:54:00:0a:00:01 source fe80::1", "expected an IPv4 address after source"),
        ("test", "command", "expected a command after command"),
        ("test", "dhcp", "expected a kind of test (peer, wireless, missing-cable, command, script, pppoe), not"),
        ("guessnet", "default", "expected a kind of test"),
        ("test", "wireless", "expected essid or mac, and its value, or open or closed, after wireless"),
        ("test", "wireless essid", "expected essid or mac, and its value, or open or closed, after wireless"),
        ("test-wireless", "essid x mac 52-54", 'expected a MAC address like 52:54:00:0a:00:01 after mac, not "52-54"'),
        ("test", "pppoe", "the program pppoe is missing"),
    ])
    def test_what_cannot_be_made_is_told_and_the_others_go_on(self, monkeypatch, option, value, reason):
        monkeypatch.setattr(guessnet, "_find_program", lambda name: False)
        tests, (error,) = read_tests({option: value, "test9": PEER})
        assert str(error).startswith(f"{option} ") and reason in str(error)
        assert tests == (PEER_READ,)

    @given(
        st.sampled_from(["test", "test1", "guessnet", "test-peer", "testing", "guessnet2-test3-peer"]),
        st.text() | st.lists(st.sampled_from([
            "peer ", "test ", "mac ", "address ", "::1 ", "\n", "wireless ", "essid ", "open ", '"', "x", " ", "\udcff",
        ])).map("".join),
    )  # fmt: skip
    @settings(max_examples=MANY)
    def test_nothing_else_is_raised(self, option, value):
        tests, errors = read_tests({option: value})
        assert all(test.kind in guessnet.KINDS for test in tests)
        assert all(error.option == option for error in errors)
        for test in tests:
            assert isinstance(guessnet.is_network_of(test, AIR[0]), bool)

    @pytest.mark.parametrize("words, chosen", SEEN_IN_AIR)
    def test_wireless_as_guessnet(self, words, chosen):
        tests, errors = read_tests({"test": f"wireless {words}"})
        seen = any(guessnet.is_network_of(test, network) for test in tests for network in AIR)
        told = errors or any(test.ignored for test in tests)
        assert ("w" if seen else "none") + ("!" if told else "") == chosen

    def test_a_name_may_be_any_octets(self):
        network = HeardNetwork(b"\xff\0\n", "02:00:00:00:00:01", False)
        (test,), _ = read_tests({"test": 'wireless essid "\udcff\0\x0b"'})
        assert not guessnet.is_network_of(test, network)
        assert guessnet.is_network_of(test, HeardNetwork(b"\xff\0\x0b", "02:00:00:00:00:01", False))
        assert guessnet._name_networks([network]) == r'"\xff\x00\x0a" 02:00:00:00:00:01 open'

    def test_a_program_is_found(self):
        assert guessnet._find_program("sh")
        assert not guessnet._find_program("no-such-program")


def at(seconds=5.0, carrier=True, mac="02:00:00:00:00:01"):
    """A context whose deadline is so many seconds away."""
    return TestContext("eth0", "eth0", mac, carrier, time.monotonic() + seconds)


@pytest.fixture
def steps(monkeypatch):
    """Tests that end as their text says: ``SECONDS yes``, ``SECONDS no``, ``never``; returns those that were closed."""
    closed = []

    def begin(test, name, context, neighbours, air):
        when, _, verdict = test.text.partition(" ")
        try:
            if when == "broken":
                raise OSError(5, "Input/output error")
            yield Wait({}, context.deadline + 9 if when == "never" else time.monotonic() + float(when))
            return verdict == "yes"
        finally:
            closed.append(test.text)

    monkeypatch.setattr(guessnet, "_begin", begin)
    return closed


def candidates(**tests):
    return [Candidate(name, tuple(Test("x", text) for text in texts.split(", "))) for name, texts in tests.items()]


class TestRace:
    def test_the_first_that_succeeds_wins(self, steps):
        found = find_first(candidates(a="0.2 yes", b="never, 0.02 yes", c="0.01 no"), at())
        assert found == ("b", Test("x", "0.02 yes"))
        assert set(steps) == {"0.2 yes", "never", "0.02 yes", "0.01 no"}  # all have ended

    def test_at_the_same_time_the_first_of_the_file_wins(self, steps):
        assert find_first(candidates(a="0 no", b="0 yes", c="0 yes"), at())[0] == "b"

    def test_none_when_all_have_failed(self, steps):
        began = time.monotonic()
        assert find_first(candidates(a="0 no", b="0.02 no"), at(9)) is None
        assert time.monotonic() - began < 5

    def test_none_at_the_deadline(self, steps):
        began = time.monotonic()
        assert find_first(candidates(a="never"), at(0.1)) is None
        assert 0.1 <= time.monotonic() - began < 5

    def test_one_that_breaks_ends_no_other(self, steps, messages):
        assert find_first(candidates(a="broken", b="0.01 yes"), at())[0] == "b"
        assert messages == ['warning: eth0: iface a: "broken": Input/output error']

    def test_a_descriptor_wakes_only_who_waits_for_it(self, monkeypatch):
        near, far = socket.socketpair()
        other, _far = socket.socketpair()
        far.send(b"x")
        woken = []

        def begin(test, name, context, neighbours, air):
            mine = near if name == "near" else other
            woken.append((name, (yield Wait({mine.fileno(): select.POLLIN}, context.deadline))))
            return True

        monkeypatch.setattr(guessnet, "_begin", begin)
        assert find_first(candidates(other="-", near="-"), at())[0] == "near"
        assert woken == [("near", {near.fileno()})]
        for each in (near, far, other, _far):
            each.close()


class TestSteps:
    """Each kind of test, with programs that every machine has and a peer module that is made up."""

    def find(self, *tests, seconds=5.0, **context):
        found = find_first([Candidate(f"stanza{n}", (test,)) for n, test in enumerate(tests)], at(seconds, **context))
        return found and found[0]

    def test_commands(self):
        says = Test("command", "", command='echo garbage; [ "$NAME $IFACE $GUESSNET" = "stanza1 eth0 true" ]')
        assert self.find(Test("command", "", command="exit 3"), says) == "stanza1"

    def test_a_command_that_does_not_end_is_killed(self, tmp_path):
        began = time.monotonic()
        fifo = tmp_path / "fifo"
        blocked = Test("command", "", command=f"mkfifo {fifo}; read x <{fifo}")
        assert self.find(blocked, seconds=0.3) is None
        assert time.monotonic() - began < 5
        assert self.find(blocked, Test("command", "", command="true")) == "stanza1"

    def test_pppoe(self, monkeypatch):
        began = []

        class Ended:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def poll(self):
                return 0

        begin = "netconf_hooks.system.programs.begin"
        monkeypatch.setattr(begin, lambda argv, variables: began.append(argv) or Ended())
        assert self.find(Test("pppoe", "pppoe")) == "stanza0"
        assert began == [["pppoe", "-I", "eth0", "-A"]]

    def test_missing_cable(self):
        assert self.find(Test("missing-cable", "missing-cable")) is None
        assert self.find(Test("missing-cable", ""), carrier=False) == "stanza0"

    @pytest.mark.parametrize("words, found", [
        ("address 192.168.1.1", True),
        ("address 192.168.1.1 mac 52:54:00:0a:00:01", True),
        ("address 192.168.1.1 mac 52:54:00:0a:00:02", False),
        ("address 192.168.1.2", False),
        ("mac 52:54:00:0a:00:01", True),
        ("mac 52:54:00:0a:00:02", False),
    ])
    def test_peer(self, wire, words, found):
        test = guessnet.read_test(f"peer {words}")
        assert self.find(test, seconds=0.6) == ("stanza0" if found else None)
        assert (len(wire.sent) > 1) != found  # it is asked again as long as there is time

    def test_all_peers_share_one_socket(self, wire):
        tests = [guessnet.read_test(f"peer address 192.168.1.{n} source 192.168.1.99") for n in (9, 8, 1, 7)]
        assert self.find(*tests) == "stanza2"
        assert wire.opened == [("eth0", 0x0806)]
        assert [packet[14:18] + packet[24:28] for packet in wire.sent] == [
            bytes((192, 168, 1, 99, 192, 168, 1, n)) for n in (9, 8, 1, 7)
        ]

    def test_a_link_without_mac_addresses(self, wire, messages):
        assert self.find(PEER_READ, mac="") is None
        assert messages == [f'error: eth0: "{PEER}": eth0 has no neighbours with MAC addresses']
        assert wire.opened == []


class FakeScan:
    """As scan.Scan: hears `AIR`, and is over when its descriptor can be read; made up by the fixture `radio`."""

    def __init__(self):
        self.near, self.far = socket.socketpair()
        self.refusals = []
        self.made = []
        self.listed = 0
        self.broken = False

    def make(self, device):
        self.made.append(device)
        if self.refusals:
            raise NetlinkError(self.refusals.pop(0))
        return self

    def close(self):
        pass

    def fileno(self):
        return self.near.fileno()

    def is_over(self):
        return bool(select.select([self.near], [], [], 0)[0])

    def list_networks(self):
        self.listed += 1
        if self.broken:
            raise NetlinkError(errno.EBADMSG)
        return AIR


@pytest.fixture
def radio(monkeypatch):
    """wlan0 and eth0, of which the first is wireless and its scan over at once."""
    radio = FakeScan()
    radio.far.send(b"x")
    monkeypatch.setattr("netconf_hooks.evidence.scan.Scan", radio.make)
    monkeypatch.setattr("netconf_hooks.evidence.radios.is_wireless", lambda device: device == "wlan0")
    yield radio
    radio.near.close()
    radio.far.close()


class TestScan:
    def find(self, *tests, seconds=5.0, device="wlan0", tries=1):
        context = TestContext(device, device, "", False, time.monotonic() + seconds, tries)
        candidates = [Candidate(f"stanza{n}", (guessnet.read_test(test),)) for n, test in enumerate(tests)]
        return find_first(candidates, context)

    def test_one_scan_for_all_and_the_first_of_the_file(self, radio):
        found = self.find("wireless essid nosuch", "wireless mac 52:54:00:0a:00:03", "wireless essid home")
        assert found[0] == "stanza1"
        assert (radio.made, radio.listed) == (["wlan0"], 1)

    def test_nothing_that_is_looked_for_ends_at_once(self, radio):
        began = time.monotonic()
        assert self.find("wireless essid nosuch", seconds=60) is None
        assert time.monotonic() - began < 5

    def test_a_scan_that_goes_on_counts_for_what_it_has_heard_at_the_deadline(self, radio):
        radio.near.recv(1)
        began = time.monotonic()
        assert self.find("wireless essid home", seconds=1)[0] == "stanza0"
        assert 0.5 < time.monotonic() - began < 5

    def test_a_cable_is_not_scanned(self, radio, messages):
        assert self.find("wireless open", "command true", device="eth0")[0] == "stanza1"
        assert radio.made == []
        assert messages == []  # but with -v

    @pytest.mark.parametrize("code, reason", [
        (errno.ENETDOWN, "Network is down"), (errno.EPERM, "Operation not permitted")
    ])
    def test_a_refusal_is_told_once_and_the_other_tests_go_on(self, radio, messages, code, reason):
        radio.refusals = [code] * 9
        assert self.find("wireless open", "wireless closed", "command true")[0] == "stanza2"
        assert messages == [f"error: wlan0: no wireless test counts: wlan0 could not be made to scan: {reason}"]
        assert len(radio.made) == 1

    def test_without_pyroute2_the_other_tests_go_on(self, radio, messages, monkeypatch):
        monkeypatch.setitem(sys.modules, "netconf_hooks.evidence.scan", None)
        assert self.find("wireless open", "command true")[0] == "stanza1"
        (message,) = messages
        assert message.startswith(
            "error: wlan0: no wireless test counts: python3-pyroute2 is missing, or can't be used: import of "
        )

    def test_iwscan_tries(self, radio, messages):
        radio.refusals = [errno.EAGAIN] * 2
        assert self.find("wireless essid nosuch", "wireless essid home", tries=3)[0] == "stanza1"
        assert (len(radio.made), messages) == (3, [])

    def test_results_that_cannot_be_read(self, radio, messages):
        radio.broken = True
        assert self.find("wireless open", "wireless closed") is None
        assert (radio.listed, len(messages)) == (1, 1)


class FakeWire:
    """192.168.1.1 at 52:54:00:0a:00:01, which answers ARP and pings at once; others answer with their own.

    One socket: what is sent on one end is answered on it.
    """

    def __init__(self):
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.near.setblocking(False)
        self.opened, self.sent = [], []
        self.answers = []

    def open(self, device, protocol):
        self.opened.append((device, protocol))
        return self

    def fileno(self):
        return self.near.fileno()

    def close(self):
        self.near.close()
        self.far.close()

    def sendto(self, packet, where):
        self.sent.append(packet)
        router = bytes.fromhex("5254000a0001")
        if where[1] == 0x0800:
            if where[4] == router:
                self.answer(b"anything", router)
        elif packet[24:28] == bytes((192, 168, 1, 1)):
            reply = packet[:7] + b"\x02" + router + packet[24:28] + packet[8:14] + packet[14:18]
            self.answer(packet, packet[8:14], guessnet._PACKET_OUTGOING)  # one's own are seen, too
            self.answer(b"short", router)
            self.answer(reply, router)

    def answer(self, packet, sender, direction=0):
        self.answers.append((packet, ("eth0", 0x0806, direction, 1, sender)))
        self.far.send(b"x")

    def recvfrom(self, size):
        self.near.recv(1)
        return self.answers.pop(0)


@pytest.fixture
def wire(monkeypatch):
    wire = FakeWire()
    monkeypatch.setattr(guessnet, "_open_packets", wire.open)
    yield wire
    wire.close()


def test_a_ping_has_right_checksums():
    packet = make_ping("192.168.1.99")
    assert (packet[0], packet[9], packet[12:20]) == (0x45, 1, bytes((192, 168, 1, 99, 255, 255, 255, 255)))
    assert len(packet) == struct.unpack("!H", packet[2:4])[0] == 28
    for part in (packet[:20], packet[20:]):
        total = sum(struct.unpack(f"!{len(part) // 2}H", part))
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert packet[20:22] == b"\x08\x00"


class FakeRaised:
    """As mapping.RaisedLink, with a link that is there."""

    status: LinkStatus | None = LinkStatus(7, "eth0", 1, True, True, "02:00:00:00:00:01")
    waited: list[float] = []

    def __init__(self, device, early):
        self.device = device
        self.waited.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait_for_carrier(self, patience):
        self.waited.append(patience)
        return True


@pytest.fixture
def raised(monkeypatch):
    monkeypatch.setattr(guessnet, "RaisedLink", FakeRaised)
    return FakeRaised


@pytest.fixture
def ifquery():
    """ifquery itself, which only reads the file it is given."""
    if not shutil.which("ifquery"):
        pytest.skip("ifupdown is not installed")


@pytest.fixture
def slow_wire(monkeypatch, wire):
    """A network in which any command is faster than an answer, as where `SEEN` was captured."""
    ask = guessnet.Neighbours.ask

    def ask_later(self, test):
        yield Wait({}, time.monotonic() + 0.3)
        return (yield from ask(self, test))

    monkeypatch.setattr(guessnet.Neighbours, "ask", ask_later)


class TestChoice:
    @pytest.mark.thorough
    @pytest.mark.parametrize("lines, stanzas, printed", SEEN)
    def test_as_guessnet_did(self, tmp_path, ifquery, raised, slow_wire, messages, lines, stanzas, printed):
        file = tmp_path / "interfaces"
        file.write_text("".join(f"iface {name} inet manual\n    {option}\n" for name, option in stanzas.items()))
        began = time.monotonic()
        assert choose_stanza("eth0", lines, str(file)) == printed.rstrip("!")
        assert time.monotonic() - began < 5
        errors = [message for message in messages if message.startswith("error: eth0: ")]
        assert bool(errors) == printed.endswith("!"), errors

    def test_what_is_sourced_and_inherited_counts(self, tmp_path, ifquery, raised, messages):
        (tmp_path / "more").write_text("iface base inet manual\n    test command false\n")
        file = tmp_path / "interfaces"
        file.write_text(f"source {tmp_path}/m*\niface home inet manual inherits base\n    test2 command true\n")
        found = read_candidates("eth0", read_lines(""), str(file))
        assert [(each.name, [test.command for test in each.tests]) for each in found] == [
            ("base", ["false"]), ("home", ["false", "true"]),
        ]  # fmt: skip
        assert choose_stanza("eth0", "", str(file)) == "home"
        assert messages == ['info: eth0: home: test "command true"']

    def test_a_radio_is_not_waited_for(self, monkeypatch, tmp_path, ifquery, raised, radio, messages):
        file = tmp_path / "interfaces"
        file.write_text('iface home inet manual\n    test wireless essid "My LAN"\n')
        assert choose_stanza("wlan0", "", str(file)) == "home"
        assert FakeRaised.waited == [0]
        file.write_text("iface home inet manual\n    test command true\n")
        assert choose_stanza("wlan0", "", str(file)) == "home"
        assert FakeRaised.waited == [3]
        assert messages == [
            'info: wlan0: home: test "wireless essid "My LAN""', 'info: wlan0: home: test "command true"'
        ]  # fmt: skip

    def test_a_word_too_many_is_told(self, tmp_path, ifquery, raised, radio, messages):
        file = tmp_path / "interfaces"
        file.write_text("iface home inet manual\n    test wireless essid My LAN\n")
        assert choose_stanza("wlan0", "", str(file)) == "none"
        assert messages[0] == (
            'warning: wlan0: iface home: "wireless essid My LAN": "LAN" is ignored: '
            "put a name with blanks in double quotes"
        )

    def test_errors_name_interface_stanza_and_option(self, tmp_path, ifquery, raised, messages):
        file = tmp_path / "interfaces"
        file.write_text("iface home inet manual\n    test1 peer address x\n")
        assert choose_stanza("eth0", "home\nwork\ndefault: dhcp", str(file)) == "dhcp"
        assert messages == [
            'error: eth0: map "work": there is no such iface stanza',
            'error: eth0: iface home: test1 "peer address x": expected an IPv4 address after address, not "x"',
            "info: eth0: dhcp: no stanza has a test that can be made",
        ]

    def test_a_file_that_cannot_be_read(self, monkeypatch, tmp_path, raised, messages):
        def query_stanzas(names, path):
            raise InterfacesError("ifquery: misplaced option")

        monkeypatch.setattr(guessnet, "query_stanzas", query_stanzas)
        assert choose_stanza("eth0", "default: dhcp", str(tmp_path / "interfaces")) == "dhcp"
        assert "error: eth0: ifquery: misplaced option" in messages

    def test_no_such_device(self, monkeypatch, tmp_path, ifquery, raised, messages):
        monkeypatch.setattr(FakeRaised, "status", None)
        file = tmp_path / "interfaces"
        file.write_text("iface home inet manual\n    test command true\n")
        assert choose_stanza("eth0", "", str(file)) == ""  # guessnet exits 1, and ifup refuses
        assert messages == ["error: eth0: no such device"]

    def test_a_kernel_that_cannot_be_asked(self, monkeypatch, tmp_path, ifquery, messages):
        def refuse(groups=()):
            raise NetlinkError(5)

        monkeypatch.setattr(mapping, "Netlink", refuse)
        file = tmp_path / "interfaces"
        file.write_text("iface home inet manual\n    test command true\n")
        assert choose_stanza("eth0", "", str(file)) == "none"
        assert messages[0].startswith("error: eth0: no test counts")

    def test_names_broaden_what_autofilter_lets_through(self, tmp_path, ifquery):
        file = tmp_path / "interfaces"
        names = ("eth0-home", "eth0-work", "wlan0-home", "b")
        file.write_text("".join(f"iface {name} inet manual\n    test command true\n" for name in names))

        def find(text):
            return [each.name for each in read_candidates("eth0", read_lines(text), str(file))]

        assert find("") == list(names)
        assert find("autofilter: true") == ["eth0-home", "eth0-work"]
        assert find("autofilter: true\nb") == ["eth0-home", "eth0-work", "b"]
        assert find("autofilter: true\n!eth0-work") == ["eth0-home"]
        assert find("!b !wlan0-home") == ["eth0-home", "eth0-work"]
        assert find("b eth0-home") == ["eth0-home", "b"]

    @pytest.mark.parametrize("carrier, least, most", [(True, 14.9, 15.0), (False, 4.9, 5.0)])
    def test_the_timeout_begins_when_there_is_a_cable(
        self, monkeypatch, tmp_path, ifquery, raised, messages, carrier, least, most
    ):
        left = []
        clock = [0.0]
        monkeypatch.setattr(guessnet.time, "monotonic", lambda: clock[0])

        def wait_for_carrier(self, patience):
            clock[0] += 10
            return carrier

        monkeypatch.setattr(FakeRaised, "wait_for_carrier", wait_for_carrier)
        monkeypatch.setattr(guessnet, "query_stanzas", lambda names, path: {"home": {"test": "command true"}})
        monkeypatch.setattr(guessnet, "find_first", lambda candidates, context: left.append(context.deadline))
        choose_stanza("eth0", "", str(tmp_path / "interfaces"))
        assert least <= left[0] <= most

    def test_init_time_is_for_the_cable(self, tmp_path, ifquery, raised, messages):
        file = tmp_path / "interfaces"
        file.write_text("iface home inet manual\n    test command true\n")
        choose_stanza("eth0", "init-time: 9", str(file))
        assert raised.waited == [9]
