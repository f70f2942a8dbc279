"""The domains and resolvers of a link, from records captured from the real programs (fixtures/README.md)."""

from __future__ import annotations

import calendar
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from many import MANY
from messages import make_message

from netconf_hooks.evidence import Link, advertisement, dhclient, dns, observe_link
from netconf_hooks.evidence.advertisement import Advertised
from netconf_hooks.evidence.dns import Announcement, Records
from netconf_hooks.observation import Answer
from netconf_hooks.system import programs

FIXTURES = Path(__file__).parent / "fixtures"
KEYS = ("dns-domain", "dns-server")
HOME = ("home.example", "corp.example.com")
MAC = "02:00:00:00:00:01"
HOME_SERVERS = ("192.168.1.1", "192.168.1.2")
# When most fixtures were captured: the lease of dhclient-home.leases runs until 11:45:28, DHCPv6's until 11:45:30.
CAPTURED = float(calendar.timegm((2026, 11, 23, 10, 46, 0)))


def read_fixture(name: str) -> str:
    return (FIXTURES / name).read_text()


class Laptop:
    """A machine's records below a directory, with what the kernel and the clock say of it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.now = CAPTURED
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.devices: list[tuple[str, int, bool]] = [("lo", 0x9, True), ("eth0", 0x1003, True)]
        self.options: dict[str, str] = {}
        self.routers: tuple[str, ...] = ()
        self.records = Records(
            leases=f"{root}/var/lib/dhcp",
            run=f"{root}/run",
            resolv_conf=f"{root}/etc/resolv.conf",
            proc=f"{root}/proc",
            net=f"{root}/sys/class/net",
            dhcpcd=f"{root}/var/lib/dhcpcd",
        )
        monkeypatch.setattr(dns, "find_addresses", lambda device: self.addresses.get(device, ()))
        monkeypatch.setattr(dns, "list_devices", lambda directory: self.devices)
        monkeypatch.setattr(dns, "find_advertising_routers", lambda index: (self.routers, MAC))
        monkeypatch.setattr(dhclient, "time", SimpleNamespace(time=lambda: self.now))

    def write(self, path: str, text: str, at: float = 0.0) -> None:
        """Write a file that was last changed `at` seconds after CAPTURED."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        os.utime(target, (CAPTURED + at, CAPTURED + at))

    def install(self, path: str, fixture: str, at: float = 0.0) -> None:
        self.write(path, read_fixture(fixture), at)

    def observe(self, iface: str = "eth0", wait: float = 5.0) -> dict[str, Answer]:
        link = Link(iface, iface.partition(":")[0], 2, True, self.options)
        return dns.observe(KEYS, link, time.monotonic() + wait, self.records)

    def see(self, iface: str = "eth0") -> tuple[tuple[str, ...], tuple[str, ...]]:
        answers = self.observe(iface)
        return answers["dns-domain"].values, answers["dns-server"].values


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    return Laptop(tmp_path, monkeypatch)


def forbid_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(argv: list[str], timeout: float) -> programs.Result:
        raise AssertionError(f"started {argv}")

    monkeypatch.setattr(programs, "run", refuse)


# --- the stanza


def test_the_stanza_is_evidence(laptop: Laptop) -> None:
    laptop.options = {
        "dns-domain": "Corp.Example.COM.",
        "dns-search": "corp.example.com\nother.example # not.this",
        "dns-nameservers": "192.0.2.1 2001:DB8::1\n192.0.2.2",
        "dns-nameserver": "192.0.2.3 ignored\n192.0.2.4",
    }
    assert laptop.see() == (
        ("corp.example.com", "other.example"),
        ("192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3", "192.0.2.4"),
    )


def test_the_stanza_stands_beside_the_lease(laptop: Laptop) -> None:
    laptop.options = {"dns-search": "other.example"}
    laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-home.leases")
    laptop.addresses["eth0"] = ("192.168.1.102",)
    assert laptop.see() == (("other.example", *HOME), HOME_SERVERS)


def test_no_record_at_all_is_said_in_the_admins_words(laptop: Laptop) -> None:
    answers = laptop.observe()
    assert answers["dns-domain"] == Answer(
        problem="no DHCP lease, resolver record or dns- option of eth0 names a domain"
    )
    assert answers["dns-server"] == Answer(
        problem="no DHCP lease, resolver record or dns- option of eth0 names a resolver"
    )


def test_only_what_is_asked_for_is_answered(laptop: Laptop) -> None:
    link = Link("eth0", "eth0", 2, True, {"dns-domain": "a.example"})
    assert dns.observe(["dns-domain"], link, 0.0, laptop.records) == {"dns-domain": Answer(("a.example",))}


# --- dhclient


def test_the_lease_of_dhclient(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_programs(monkeypatch)
    laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-home.leases")
    laptop.addresses["eth0"] = ("fe80::1", "192.168.1.102")
    assert laptop.observe() == {
        "dns-domain": Answer(HOME),
        "dns-server": Answer(HOME_SERVERS),
    }


def test_the_lease_that_ifdown_gave_back_does_not_count(laptop: Laptop) -> None:
    laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-ifdown.leases")
    # Even where the address stayed: the block before the last one still has 59 minutes.
    laptop.addresses["eth0"] = ("192.168.1.102",)
    answer = laptop.observe()["dns-domain"]
    assert answer.values == ()
    assert answer.problem.endswith(f"({laptop.root}/var/lib/dhcp/dhclient.eth0.leases: the last lease is over)")


def test_a_lease_counts_to_the_second(laptop: Laptop) -> None:
    laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-home.leases")
    laptop.addresses["eth0"] = ("192.168.1.102",)
    laptop.now = float(calendar.timegm((2026, 11, 23, 11, 45, 27)))
    assert laptop.see()[1] == HOME_SERVERS
    laptop.now += 1
    assert laptop.see() == ((), ())


def test_in_the_cafe_the_lease_of_home_does_not_count(laptop: Laptop) -> None:
    laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-cafe.leases")
    laptop.install("/var/lib/dhcp/dhclient6.eth0.leases", "dhclient6-ifdown.leases")  # of no interest to the admin
    laptop.addresses["eth0"] = ("192.168.3.104",)
    answers = laptop.observe()
    assert answers["dns-domain"].values == ()
    assert answers["dns-server"] == Answer(("192.168.3.1",))
    assert answers["dns-domain"].problem == "no DHCP lease, resolver record or dns- option of eth0 names a domain"


def test_a_lease_whose_address_the_link_lacks_does_not_count(laptop: Laptop) -> None:
    """dhclient was killed at home and the café's stanza is static: home's lease has almost an hour to go."""
    laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-home.leases")
    laptop.addresses["eth0"] = ("192.168.3.77",)
    answer = laptop.observe()["dns-domain"]
    assert answer.values == ()
    assert "eth0 does not have its address" in answer.problem


def test_the_lease_of_dhclient_6(laptop: Laptop) -> None:
    laptop.install("/var/lib/dhcp/dhclient6.eth0.leases", "dhclient6-ifdown.leases")
    laptop.addresses["eth0"] = ("2001:db8:1::116", "fe80::1")
    assert laptop.see() == (("v6.home.example",), ("2001:db8:1::1", "fe80::1"))
    laptop.now = 1795430730 + 3600
    assert laptop.see() == ((), ())


def test_a_dhcpv6_lease_that_dhclient_left_behind_does_not_count(laptop: Laptop) -> None:
    """dhclient crashes in ifdown (4.4.3): the lease stays as it is, unexpired."""
    laptop.install("/var/lib/dhcp/dhclient6.eth0.leases", "dhclient6-ifdown.leases")
    laptop.addresses["eth0"] = ("2001:db8:3::7",)
    assert laptop.see() == ((), ())


def test_a_file_for_all_interfaces_is_read_for_this_one(laptop: Laptop) -> None:
    home = read_fixture("dhclient-home.leases")
    other = home.replace('"eth0"', '"wlan0"').replace("home.example", "cafe.example")
    laptop.write("/var/lib/dhcp/dhclient.leases", home + other)
    laptop.addresses["eth0"] = ("192.168.1.102",)
    assert laptop.see()[0] == HOME


def test_an_alias_has_the_lease_of_its_device(laptop: Laptop) -> None:
    laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-home.leases")
    laptop.addresses["eth0"] = ("192.168.1.102",)
    assert laptop.see("eth0:1")[0] == HOME


def test_a_server_that_misuses_the_domain(laptop: Laptop) -> None:
    """The captured server sent a text of colons and digits as its domain."""
    laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-hostile.leases")
    laptop.addresses["eth0"] = ("192.168.3.104",)
    assert laptop.see() == ((), ("192.168.3.1",))


LEASE = 'lease {{\n  interface "eth0";\n  fixed-address 192.0.2.7;\n{}  expire never;\n}}\n'


@pytest.mark.parametrize(
    ("option", "domains"),
    [
        ('option domain-name "One.Example two.example.";', ("one.example", "two.example")),
        ('option domain-name "a.example";\n  option domain-search "b.example.", "c.example.";',
         ("a.example", "b.example", "c.example")),
        (r'option domain-name "a\".example b.example";', ("b.example",)),
        (r'option domain-name "a\\.example b.example";', ("b.example",)),
        # Octal, dhclient.leases(5): 040 is a space, 012 a newline, 000 and 377 no text at all.
        (r'option domain-name "a.example\040b.example\012c.example";', ("a.example", "b.example", "c.example")),
        (r'option domain-name "a\000.example b\377.example c\032.example";', ()),
        (r'option domain-name "\141.example";', ("a.example",)),
        # As Windows' servers send it.
        (r'option domain-name "corp.example.com\000";', ("corp.example.com",)),
        (r'option domain-name "corp.example.com\000 ";', ("corp.example.com",)),
        (r'option domain-name "corp.example.com\000\000\000";', ("corp.example.com",)),
        (r'option domain-name "a.example,b.example, c.example ,,d.example\000";',
         ("a.example", "b.example", "c.example", "d.example")),
        (r'option domain-name "\000";', ()),
        (r'option domain-name ",,, ,";', ()),
        ('option domain-name "a.example;', ()),
        ('option domain-name "a.example"', ()),
        ('option domain-name "a.example\\";', ()),
        ("option domain-name;", ()),
        ("option;", ()),
        ('option domain-name "";', ()),
        ('option domain-name ".";', ()),
        ('option domain-name "*.example";', ()),
        ('option domain-name "-a.example b-.example a..example";', ()),
        (f'option domain-name "{"a" * 63}.example {"a" * 64}.example";', (f"{'a' * 63}.example",)),
        (f'option domain-name "{"a." * 126}a {"a." * 127}a";', ("a." * 126 + "a",)),
        (f'option domain-name "{"a" * 20000}.example b.example";', ()),
        ('option domain-name "_tcp.my_net.example";', ("_tcp.my_net.example",)),
    ],
)
def test_domains_that_a_lease_may_hold(option: str, domains: tuple[str, ...]) -> None:
    (one,) = dhclient.split_leases(LEASE.format(f"  {option}\n"))
    assert dns.read_dhclient_lease(one).domains == domains
    assert one.addresses == ("192.0.2.7",)
    assert one.expires == float("inf")


# --- dhcpcd, resolvconf, openresolv


@pytest.mark.parametrize("version", ["9.4.1", "10.1.0"])
def test_the_records_of_dhcpcd(laptop: Laptop, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_programs(monkeypatch)
    laptop.write("/run/dhcpcd/eth0.pid", "507\n", at=-5)
    for kind in ("dhcp", "dhcp6", "ra"):
        laptop.install(f"/run/dhcpcd/hook-state/resolv.conf/eth0.{kind}", f"dhcpcd-{version}.{kind}")
    laptop.addresses["eth0"] = ("192.168.1.102", "2001:db8:1::13c")
    assert laptop.observe() == {
        "dns-domain": Answer((*HOME, "v6.home.example")),
        "dns-server": Answer((*HOME_SERVERS, "2001:db8:1::1", "fe80::1")),
    }


def test_an_answer_is_pending_while_dhcpcd_probes_its_ipv4_address(laptop: Laptop) -> None:
    """ifup goes on as soon as dhcpcd has an address of either family: here the RA's was first."""
    laptop.write("/run/dhcpcd/eth0.pid", "507\n", at=-5)
    laptop.install("/run/dhcpcd/hook-state/resolv.conf/eth0.ra", "dhcpcd-9.4.1.ra")
    laptop.addresses["eth0"] = ("2001:db8:1::13c", "fe80::1", "169.254.3.4")
    waiting = "dhcpcd still waits for an IPv4 lease of eth0"
    assert laptop.observe()["dns-domain"] == Answer(("v6.home.example",), pending=True, problem=waiting)
    laptop.install("/run/dhcpcd/hook-state/resolv.conf/eth0.dhcp", "dhcpcd-9.4.1.dhcp", at=5)
    assert not laptop.observe()["dns-domain"].pending
    assert set(HOME) < set(laptop.see()[0])


def test_a_record_of_a_dhcpcd_that_was_killed_does_not_count(laptop: Laptop) -> None:
    """Killed at home; in the café the next one has only just started."""
    laptop.install("/run/dhcpcd/hook-state/resolv.conf/eth0.dhcp", "dhcpcd-9.4.1.dhcp")
    assert laptop.see() == ((), ())
    laptop.write("/run/dhcpcd/eth0.pid", "507\n", at=60)
    answer = laptop.observe()["dns-domain"]
    assert (answer.values, answer.pending) == ((), True)
    assert "eth0.dhcp was left by a DHCP client that no longer runs" in answer.problem


def test_a_dhcpcd_for_all_links(laptop: Laptop) -> None:
    laptop.write("/run/dhcpcd/pid", "507\n", at=-5)
    laptop.install("/run/dhcpcd/hook-state/resolv.conf/eth0.dhcp", "dhcpcd-10.1.0.dhcp")
    laptop.addresses["eth0"] = ("192.168.1.102",)
    assert laptop.see() == (HOME, HOME_SERVERS)


@pytest.mark.parametrize("version", ["9.4.1", "10.1.0"])
@pytest.mark.parametrize("pid", ["eth0.pid", "eth0-4.pid"])
def test_dhcpcd_is_asked_where_its_hook_is_switched_off(
    laptop: Laptop, version: str, pid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(argv: list[str], timeout: float) -> programs.Result:
        asked.append(argv)
        assert 0 < timeout <= 1
        return programs.Result(0, read_fixture(f"dhcpcd-{version}-U4"))

    monkeypatch.setattr(programs, "run", answer)
    laptop.write(f"/run/dhcpcd/{pid}", "507\n", at=-5)
    laptop.addresses["eth0"] = ("192.168.1.102",)
    laptop.routers = ("fe80::1",)
    assert laptop.see() == (HOME, HOME_SERVERS)
    assert asked == [["dhcpcd", family, "-U", "eth0"] for family in ("-4", "-6")]


@pytest.mark.parametrize("addresses, routers, families", [
    (("192.168.1.102", "fe80::7"), (), ["-4"]), (("192.168.1.102",), ("fe80::1",), ["-4", "-6"]),
    (("2001:db8:7::1d6",), ("fe80::1",), ["-6"]), (("169.254.3.4", "2001:db8:7::1d6"), ("fe80::1",), ["-6"]),
    (("192.168.1.102", "2001:db8:7::1d6"), (), ["-4"]),
])
def test_dhcpcd_is_not_asked_for_what_it_does_not_have(
    laptop: Laptop, addresses: tuple[str, ...], routers: tuple[str, ...], families: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asked for a family of which it has nothing, dhcpcd 9.4.1 answers nobody any more."""
    asked: list[str] = []

    def answer(argv: list[str], timeout: float) -> programs.Result:
        asked.append(argv[1])
        return programs.Result(0, read_fixture("dhcpcd-9.4.1-U4"))

    monkeypatch.setattr(programs, "run", answer)
    monkeypatch.setattr(dns._Evidence, "look_for_dhcpcd", lambda self: None)
    laptop.write("/run/dhcpcd/eth0.pid", "507\n", at=-5)
    laptop.addresses["eth0"] = addresses
    laptop.routers = routers
    laptop.see()
    assert asked == families


@pytest.mark.parametrize("sent, domains", [
    (b"a.example,corp.example.com", ("a.example", "corp.example.com")),
    (b"corp.example.com\0 ", ("corp.example.com",)), (b"a.example b.example\0", ("a.example", "b.example")),
    (b"\xff\x1b[2J", ()), (b"", ()),
])
def test_what_dhcpcd_leaves_out_of_its_record_counts(laptop: Laptop, sent: bytes, domains: tuple[str, ...]) -> None:
    """Several domains with commas, as some Windows servers send them, are no domain for dhcpcd."""
    laptop.write("/run/dhcpcd/eth0.pid", "507\n", at=-5)
    laptop.write("/run/dhcpcd/hook-state/resolv.conf/eth0.dhcp", "nameserver 192.168.1.1\n", at=5)
    (laptop.root / "var/lib/dhcpcd").mkdir(parents=True)
    (laptop.root / "var/lib/dhcpcd/eth0.lease").write_bytes(make_message(address="192.168.1.102", options={15: sent}))
    laptop.addresses["eth0"] = ("192.168.1.102",)
    assert laptop.see() == (domains, ("192.168.1.1",))
    laptop.addresses["eth0"] = ("192.168.1.103",)
    assert laptop.see()[0] == ()


def test_dhcpcd_also_knows_what_dhcpv6_and_routers_said(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hook is switched off, and the network has no IPv4."""
    def answer(argv: list[str], timeout: float) -> programs.Result:
        if argv[1] == "-4":
            return programs.Result(1, "")
        return programs.Result(0, read_fixture("dhcpcd-9.4.1-U6"))

    monkeypatch.setattr(programs, "run", answer)
    laptop.write("/run/dhcpcd/eth0-6.pid", "507\n", at=-5)
    laptop.write("/run/dhcpcd/eth0.pid", "507\n", at=-5)
    laptop.addresses["eth0"] = ("192.168.1.102", "2001:db8:7::1d6")
    laptop.routers = ("fe80::1",)
    assert laptop.see() == (("six.example",), ("2001:db8:7::53",))


@pytest.mark.parametrize("text, domains, servers", [
    ("nd1_dnssl1_search='a.example b.example'\nnd2_rdnss12_servers='2001:db8::1 2001:db8::2'\n",
     ("a.example", "b.example"), ("2001:db8::1", "2001:db8::2")),
    ("dhcp6_domain_search=c.example\ndhcp6_name_servers=2001:db8::3\n", ("c.example",), ("2001:db8::3",)),
    ("domain_name='corp.example.com\\000'\n", ("corp.example.com",), ()),
    ("ndx_dnssl1_search=a.example\nnd1_dnssl1_lifetime=a.example\nnd1_rdnss_x=2001:db8::1\n", (), ()),
])
def test_what_dhcpcd_prints(text: str, domains: tuple[str, ...], servers: tuple[str, ...]) -> None:
    assert dns.parse_dhcpcd_dump(text) == Announcement(domains, servers)


def test_the_empty_record_of_a_stanza_says_nothing(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """resolvconf's 000resolvconf makes one of a DHCP stanza too; dhcpcd (nohook resolv.conf) is asked all the same."""
    monkeypatch.setattr(programs, "run", lambda argv, timeout: programs.Result(0, read_fixture("dhcpcd-10.1.0-U4")))
    laptop.write("/run/dhcpcd/eth0.pid", "507\n", at=-5)
    laptop.write("/run/resolvconf/interface/eth0.inet", "\n")
    laptop.addresses["eth0"] = ("192.168.1.102",)
    assert laptop.see() == (HOME, HOME_SERVERS)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (programs.Result(1, "dhcpcd is not running\n"), "dhcpcd -4 -U eth0 failed with status 1"),
        (programs.ProgramError("dhcpcd: no such program"), "dhcpcd: no such program"),
    ],
)
def test_a_dhcpcd_that_does_not_answer(
    laptop: Laptop, outcome: programs.Result | programs.ProgramError, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(argv: list[str], timeout: float) -> programs.Result:
        if isinstance(outcome, programs.ProgramError):
            raise outcome
        return outcome

    monkeypatch.setattr(programs, "run", answer)
    laptop.write("/run/dhcpcd/eth0.pid", "507\n", at=-5)
    laptop.addresses["eth0"] = ("192.168.1.102",)
    assert laptop.observe()["dns-domain"].problem.endswith(f"({reason})")


def test_dhcpcd_is_not_asked_after_the_deadline(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_programs(monkeypatch)
    laptop.write("/run/dhcpcd/eth0.pid", "507\n", at=-5)
    laptop.addresses["eth0"] = ("192.168.1.102",)
    assert laptop.observe(wait=-1)["dns-domain"].problem.endswith("(no time left to ask dhcpcd)")


@pytest.mark.parametrize(
    ("path", "fixture", "pid", "expected"),
    [
        ("interface/eth0.dhclient", "resolvconf.dhclient", "dhclient.eth0.pid", (HOME, HOME_SERVERS)),
        ("interface/eth0.ip6.dhclient", "resolvconf.ip6.dhclient", "dhclient6.eth0.pid",
         (("v6.home.example",), ("2001:db8:1::1", "fe80::1"))),
        ("interface/eth0.udhcpc", "resolvconf.udhcpc", "udhcpc.eth0.pid", (HOME[:1], HOME_SERVERS)),
        ("interface/eth0.dhcp", "resolvconf.dhcp", "dhcpcd/eth0.pid", (HOME, HOME_SERVERS)),
        ("interface/eth0.inet", "resolvconf.inet", "",
         (("static.example", "other.example"), ("192.168.1.1", "192.168.1.9"))),
        ("interfaces/eth0", "openresolv", "", (HOME, HOME_SERVERS)),
        ("interfaces/eth0.inet6", "openresolv.inet6", "", (("v6.home.example",), ("2001:db8:1::1", "fe80::1"))),
        ("interfaces/eth0.inet", "openresolv.inet", "",
         (("static.example", "other.example"), ("192.168.1.1", "192.168.1.9"))),
    ],
)
def test_the_records_of_resolvconf_and_openresolv(
    laptop: Laptop, path: str, fixture: str, pid: str, expected: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    laptop.addresses["eth0"] = ("192.168.1.102",)
    laptop.install(f"/run/resolvconf/{path}", fixture)
    if pid:
        assert laptop.see() == ((), ())  # left by a client that no longer runs
        laptop.write(f"/run/{pid}", "1\n", at=60)
        assert laptop.see() == ((), ())  # or by the one before this
        # dhclient and udhcpc write their pid file just after the script that wrote the record.
        laptop.write(f"/run/{pid}", "1\n", at=1)
    assert laptop.see() == expected


def test_a_vlan_is_another_link(laptop: Laptop) -> None:
    laptop.install("/run/resolvconf/interface/eth0.100.inet", "resolvconf.inet")
    laptop.install("/run/resolvconf/interfaces/eth0.100", "openresolv")
    laptop.install("/run/resolvconf/interface/wlan0.inet", "resolvconf.inet")
    assert laptop.see() == ((), ())
    assert laptop.see("eth0.100")[0] == ("static.example", "other.example", *HOME)


def test_an_alias_has_a_record_of_its_own_in_resolvconf(laptop: Laptop) -> None:
    laptop.install("/run/resolvconf/interface/eth0:1.inet", "resolvconf.inet")
    assert laptop.see("eth0:1")[0] == ("static.example", "other.example")
    assert laptop.see("eth0") == ((), ())


def test_a_deprecated_record_of_openresolv_does_not_count(laptop: Laptop) -> None:
    laptop.install("/run/resolvconf/interfaces/eth0", "openresolv")
    laptop.write("/run/resolvconf/deprecated/eth0", "")
    assert laptop.see() == ((), ())


# --- systemd


RESOLVECTLS = ("252", "257")


def start_unit(laptop: Laptop, unit: str) -> None:
    directory = laptop.root / "run/systemd/units"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"invocation:{unit}.service").symlink_to("6b5f0b1a6c4c4b7f8f6b5a1b2c3d4e5f")


def answer_resolvectl(monkeypatch: pytest.MonkeyPatch, version: str, more: str = "") -> list[list[str]]:
    """Stand in for resolvectl; return the commands that are run."""
    asked: list[list[str]] = []

    def answer(argv: list[str], timeout: float) -> programs.Result:
        program, what, device = argv
        assert (program, device) == ("resolvectl", "eth0")
        asked.append(argv)
        return programs.Result(0, read_fixture(f"resolvectl-{version}-{what}{more}"))

    monkeypatch.setattr(programs, "run", answer)
    return asked


@pytest.mark.parametrize("version", RESOLVECTLS)
def test_what_systemd_resolved_says(laptop: Laptop, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    forbid_programs(monkeypatch)
    assert laptop.see() == ((), ())  # it was stopped: asking would have D-Bus start it
    start_unit(laptop, "systemd-resolved")
    answer_resolvectl(monkeypatch, version)
    assert laptop.see() == (HOME, ("192.168.1.1", "2001:db8:1::1", "192.168.1.2"))


@pytest.mark.parametrize("version", RESOLVECTLS)
def test_more_than_a_line_of_systemd_resolveds(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    start_unit(laptop, "systemd-resolved")
    answer_resolvectl(monkeypatch, version, "-wrapped")
    assert laptop.see() == (
        ("corp.example.com", "branch.corp.example.com", "internal.example.com", "lab.example.com"),
        ("192.168.1.53", "192.168.1.54", "192.168.1.55", "2001:db8::53", "2001:db8::54"),
    )


def test_a_link_that_systemd_resolved_knows_nothing_of(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    start_unit(laptop, "systemd-resolved")
    monkeypatch.setattr(programs, "run", lambda argv, timeout: programs.Result(0, "Link 2 (eth0):\n"))
    answers = laptop.observe()
    assert answers["dns-domain"] == Answer(
        problem="no DHCP lease, resolver record or dns- option of eth0 names a domain"
    )


@pytest.mark.parametrize(("outcome", "reason"), [
    (programs.Result(1, "Failed to get link data for 2: ..."), "resolvectl domain eth0 failed with status 1"),
    (programs.ProgramError("resolvectl: no such program"), "resolvectl: no such program"),
])
def test_systemd_resolved_that_does_not_answer(
    laptop: Laptop, outcome: programs.Result | programs.ProgramError, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(argv: list[str], timeout: float) -> programs.Result:
        if isinstance(outcome, programs.ProgramError):
            raise outcome
        return outcome

    start_unit(laptop, "systemd-resolved")
    monkeypatch.setattr(programs, "run", answer)
    answers = laptop.observe()
    assert answers["dns-domain"].values == ()
    assert reason in answers["dns-domain"].problem


def test_without_time_systemd_resolved_is_not_asked(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    start_unit(laptop, "systemd-resolved")
    forbid_programs(monkeypatch)
    assert "no time left to ask resolvectl" in laptop.observe(wait=0.0)["dns-domain"].problem


def test_a_lease_of_its_own_is_nearer_than_systemd_resolveds_record(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_unit(laptop, "systemd-resolved")
    forbid_programs(monkeypatch)
    laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-cafe.leases")
    laptop.addresses["eth0"] = ("192.168.3.104",)
    assert laptop.see() == ((), ("192.168.3.1",))


def test_the_records_of_systemd_networkd(laptop: Laptop) -> None:
    laptop.install("/run/systemd/netif/links/2", "networkd-link")
    laptop.install("/run/systemd/netif/leases/2", "networkd-lease")
    laptop.addresses["eth0"] = ("192.168.1.102",)
    assert laptop.see() == ((), ())  # it was stopped, and its files stayed
    start_unit(laptop, "systemd-networkd")
    assert laptop.see() == ((*HOME, "v6.home.example"), (*HOME_SERVERS, "2001:db8:1::1", "fe80::1"))


def test_systemd_networkds_lease_names_the_domain_without_usedomains(laptop: Laptop) -> None:
    start_unit(laptop, "systemd-networkd")
    laptop.write("/run/systemd/netif/links/2", "ADMIN_STATE=configured\nDNS=192.168.1.1\nDOMAINS=\n")
    laptop.install("/run/systemd/netif/leases/2", "networkd-lease")
    assert laptop.see() == ((), ("192.168.1.1",))  # a lease for an address that the link does not have
    laptop.addresses["eth0"] = ("192.168.1.102",)
    assert laptop.see() == (HOME, HOME_SERVERS)


def test_a_link_that_systemd_networkd_leaves_alone(laptop: Laptop) -> None:
    start_unit(laptop, "systemd-networkd")
    laptop.write("/run/systemd/netif/links/2", "ADMIN_STATE=unmanaged\nDNS=192.168.1.1\n")
    assert laptop.see() == ((), ())


# --- resolv.conf, udhcpc's only record


def run_udhcpc(laptop: Laptop, fixture: str = "resolv.conf-udhcpc-home", at: float = 0.0) -> None:
    """Do what ifup with udhcpc does: the address, resolv.conf, and 5 ms later the pid file."""
    laptop.addresses["eth0"] = ("192.168.1.102",)
    laptop.install("/etc/resolv.conf", fixture, at)
    laptop.write("/run/udhcpc.eth0.pid", "4711\n", at + 0.005)
    laptop.write("/run/network/ifstate.eth0", "eth0", at + 0.010)
    laptop.write("/proc/4711/cmdline", "udhcpc\0-n\0-p\0/run/udhcpc.eth0.pid\0-i\0eth0\0")


def test_resolv_conf_that_udhcpc_wrote(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_programs(monkeypatch)
    run_udhcpc(laptop)
    assert laptop.see() == (HOME[:1], HOME_SERVERS)
    # It renews its lease.
    laptop.install("/etc/resolv.conf", "resolv.conf-udhcpc-home", at=1800)
    assert laptop.see() == (HOME[:1], HOME_SERVERS)


def test_udhcpc_of_busybox_under_its_own_name(laptop: Laptop) -> None:
    run_udhcpc(laptop)
    laptop.write("/proc/4711/cmdline", "/bin/busybox\0udhcpc\0-i\0eth0\0")
    assert laptop.see()[0] == HOME[:1]


def test_from_home_to_the_cafe_with_udhcpc(laptop: Laptop) -> None:
    run_udhcpc(laptop)
    assert laptop.see()[0] == HOME[:1]
    # ifdown ends udhcpc and leaves resolv.conf as it is.
    (laptop.root / "run/udhcpc.eth0.pid").unlink()
    laptop.addresses.clear()
    answer = laptop.observe()["dns-domain"]
    assert answer.values == ()
    assert answer.problem.endswith("/etc/resolv.conf does not count: no udhcpc runs for eth0)")
    # The café has a resolver and no domain.
    run_udhcpc(laptop, "resolv.conf-udhcpc-cafe", at=600)
    assert laptop.see() == ((), ("192.168.3.1",))


def doubt(laptop: Laptop) -> str:
    answers = laptop.observe()
    assert answers["dns-domain"].values == answers["dns-server"].values == ()
    return answers["dns-domain"].problem.rpartition("does not count: ")[2].rstrip(")")


def test_resolv_conf_of_the_network_before(laptop: Laptop) -> None:
    """The admin's own script for udhcpc leaves resolv.conf alone."""
    run_udhcpc(laptop, at=600)
    laptop.install("/etc/resolv.conf", "resolv.conf-udhcpc-home", at=0)
    assert doubt(laptop) == "it is older than the udhcpc of eth0"


@pytest.mark.parametrize("cmdline", ["", "udhcpc\0-i\0wlan0\0", "sleep\0eth0\0"])
def test_the_pid_of_an_udhcpc_that_is_gone(laptop: Laptop, cmdline: str) -> None:
    run_udhcpc(laptop)
    laptop.write("/proc/4711/cmdline", cmdline)
    assert doubt(laptop) == "no udhcpc runs for eth0"


def test_a_pid_file_with_something_else_in_it(laptop: Laptop) -> None:
    run_udhcpc(laptop)
    laptop.write("/run/udhcpc.eth0.pid", "../4711\n")
    assert doubt(laptop) == "no udhcpc runs for eth0"


@pytest.mark.parametrize("fixture", ["resolv.conf-dhcpcd", "resolv.conf-resolvconf"])
def test_resolv_conf_of_somebody_else(laptop: Laptop, fixture: str) -> None:
    run_udhcpc(laptop, fixture)
    assert doubt(laptop) == "udhcpc did not write it"


def test_resolv_conf_that_is_merged_from_all_links(laptop: Laptop) -> None:
    run_udhcpc(laptop)
    (laptop.root / "etc/resolv.conf").rename(laptop.root / "run/merged")
    (laptop.root / "etc/resolv.conf").symlink_to(laptop.root / "run/merged")
    assert doubt(laptop) == "it is not a plain file"


def test_another_link_that_is_up(laptop: Laptop) -> None:
    run_udhcpc(laptop)
    laptop.devices.append(("wlan0", 0x1003, True))
    laptop.addresses["wlan0"] = ("fe80::2",)
    assert laptop.see()[0] == HOME[:1]  # it has no address of any network
    laptop.addresses["wlan0"] = ("fe80::2", "192.168.3.104")
    assert doubt(laptop) == "wlan0 may have written it"
    laptop.devices[-1] = ("wlan0", 0x1003, False)
    assert laptop.see()[0] == HOME[:1]


def test_another_link_that_was_up_meanwhile(laptop: Laptop) -> None:
    run_udhcpc(laptop)
    laptop.devices.append(("wlan0", 0x1002, False))
    laptop.write("/run/network/ifstate.wlan0", "", at=-60)
    assert laptop.see()[0] == HOME[:1]
    laptop.write("/run/network/ifstate.wlan0", "", at=60)
    assert doubt(laptop) == "wlan0 may have written it"
    # udhcpc renews its lease, and with it the file.
    laptop.install("/etc/resolv.conf", "resolv.conf-udhcpc-home", at=1800)
    assert laptop.see()[0] == HOME[:1]


def test_a_tunnel_can_not_have_written_what_was_there_before(laptop: Laptop) -> None:
    run_udhcpc(laptop)
    laptop.devices.append(("tun0", 0x1091, True))
    laptop.addresses["tun0"] = ("10.8.0.2",)
    assert laptop.see()[0] == HOME[:1]
    laptop.install("/etc/resolv.conf", "resolv.conf-udhcpc-home", at=30)  # by its up script, perhaps
    assert doubt(laptop) == "tun0 may have written it"


def test_a_lease_that_names_no_domain_is_the_last_word(laptop: Laptop) -> None:
    """The link announced none: resolv.conf, whoever wrote it, can't make one up."""
    run_udhcpc(laptop)
    laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-cafe.leases")
    laptop.addresses["eth0"] = ("192.168.3.104",)
    assert laptop.see() == ((), ("192.168.3.1",))


# --- what can't be read


def test_a_lease_that_is_a_directory(laptop: Laptop) -> None:
    path = laptop.root / "var/lib/dhcp/dhclient.eth0.leases"
    path.mkdir(parents=True)
    assert f"({path}: Is a directory)" in laptop.observe()["dns-domain"].problem
    laptop.options = {"dns-domain": "a.example"}
    assert laptop.observe()["dns-domain"] == Answer(("a.example",), problem=f"{path}: Is a directory")


def test_a_lease_on_a_broken_disk(laptop: Laptop) -> None:
    path = laptop.root / "var/lib/dhcp/dhclient.eth0.leases"
    path.parent.mkdir(parents=True)
    path.symlink_to("/proc/self/mem")  # reading its first page is an I/O error
    assert f"({path}: Input/output error)" in laptop.observe()["dns-domain"].problem


def test_a_lease_that_is_a_pipe(laptop: Laptop) -> None:
    path = laptop.root / "var/lib/dhcp/dhclient.eth0.leases"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert laptop.see() == ((), ())  # and it does not wait for a writer


def test_records_that_only_root_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not tmp_path: only its owner may enter that.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        laptop = Laptop(Path(name), monkeypatch)
        laptop.install("/var/lib/dhcp/dhclient.eth0.leases", "dhclient-home.leases")
        laptop.install("/run/resolvconf/interface/eth0.inet", "resolvconf.inet")
        laptop.addresses["eth0"] = ("192.168.1.102",)
        assert laptop.see()[0]
        os.chmod(f"{name}/var/lib/dhcp/dhclient.eth0.leases", 0)
        os.chmod(f"{name}/run/resolvconf/interface", 0)
        owner = os.geteuid()
        if not owner:
            os.seteuid(65534)  # to root everything is readable
        try:
            answers = laptop.observe()
        finally:
            os.seteuid(owner)
            os.chmod(f"{name}/run/resolvconf/interface", 0o755)
    for answer in answers.values():
        assert f"{name}/var/lib/dhcp/dhclient.eth0.leases: Permission denied" in answer.problem
        assert f"{name}/run/resolvconf/interface: Permission denied" in answer.problem


def test_only_the_end_of_a_huge_file_is_read(laptop: Laptop) -> None:
    text = LEASE.format('  option domain-name "old.example";\n') + "# filler\n" * 300_000
    text += LEASE.format('  option domain-name "new.example";\n')
    laptop.write("/var/lib/dhcp/dhclient.eth0.leases", text)
    laptop.addresses["eth0"] = ("192.0.2.7",)
    assert laptop.see()[0] == ("new.example",)
    assert len(dhclient.read_end(f"{laptop.records.leases}/dhclient.eth0.leases")) == dhclient.LIMIT
    laptop.write("/var/lib/dhcp/dhclient.eth0.leases", text + "\0" * dhclient.LIMIT)
    assert laptop.see()[0] == ()


def test_a_record_may_not_name_the_whole_internet() -> None:
    domains = " ".join(f"d{number}.example" for number in range(1000))
    servers = "\n".join(f"nameserver 10.0.{number // 250}.{number % 250 + 1}" for number in range(1000))
    seen = dns.parse_resolver_record(f"search {domains}\n{servers}")
    assert len(seen.domains) == dns.MOST
    assert len(dns.parse_resolver_record(servers).servers) == dns.MOST


# --- the parsers


@pytest.mark.parametrize(
    ("word", "server"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:53", "192.0.2.1"),
        ("192.0.2.1:53%2#dns.example", "192.0.2.1"),
        ("[2001:db8::1]:53%eth0#dns.example", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("127.0.0.53", ""),
        ("::1", ""),
        ("0.0.0.0", ""),
        ("192.0.2.256", ""),
        ("192.0.2", ""),
        ("dns.example", ""),
        ("[2001:db8::1", "2001:db8::1"),
        ("192.0.2.1\0", ""),
        ("", ""),
    ],
)
def test_resolvers_in_all_their_spellings(word: str, server: str) -> None:
    expected = (server,) if server else ()
    assert dns.parse_resolver_record(f"nameserver {word}").servers == expected


def test_the_stub_of_systemd_resolved_is_no_resolver_of_a_link() -> None:
    text = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch home.example\n"
    assert dns.parse_resolver_record(text) == Announcement(("home.example",), ())


# Lines that look like the real thing, and bytes that do not.
WORDS = st.sampled_from(
    'lease lease6 { } ; " \\ \\032 \\ option interface "eth0" fixed-address iaaddr expire never epoch starts max-life '
    "domain-name domain-search domain-name-servers dhcp6.name-servers 2026/11/23 10:00:00; 1 domain search nameserver "
    "DNS= DOMAINS= SERVERS= domain_name= a.example 192.0.2.1 fe80::1%eth0 [ ] : # ; , \0 \ufffd = ~. \n".split(" ")
)
TEXTS = st.text() | st.lists(WORDS | st.just("\n") | st.text(max_size=5), max_size=60).map(" ".join)


def read_systemds_records(text: str) -> Announcement:
    values = dns.parse_settings(text)
    link, lease = dns.read_networkd_link(values), dns.read_networkd_lease(values)
    return Announcement(link.domains + lease.domains, link.servers + lease.servers)


def read_resolvectl(text: str) -> Announcement:
    words = dns.parse_resolvectl(f"Link 2 (eth0): {text}", "eth0")
    assert words == text.split()
    return dns._make_announcement(words, words)


def read_leases(text: str) -> Announcement:
    seen = [dns.read_dhclient_lease(one) for one in dhclient.split_leases(text)]
    return Announcement(sum((one.domains for one in seen), ()), sum((one.servers for one in seen), ()))


def read_statements(text: str) -> Announcement:
    return read_leases(f"lease {{\n{text}\n}}\n")


PARSERS: list[Callable[[str], Announcement]] = [
    dns.parse_resolver_record,
    dns.parse_dhcpcd_dump,
    read_systemds_records,
    read_resolvectl,
    read_leases,
    read_statements,
]


@pytest.mark.parametrize("parse", PARSERS)
@given(text=TEXTS)
@example(text="option domain-name " + '"' * 99)
@settings(max_examples=MANY, deadline=None)
def test_no_text_breaks_a_parser_or_gets_through_it(parse: Callable[[str], Announcement], text: str) -> None:
    seen = parse(text)
    for domain in seen.domains:
        assert 0 < len(domain) <= 253
        assert domain == domain.lower() and domain.isascii()
        assert all(c.isalnum() or c in "._-" for c in domain)
        assert all(0 < len(label) <= 63 for label in domain.split("."))
    for server in seen.servers:
        assert server == dhclient.read_address(server)


@given(text=TEXTS)
@settings(max_examples=MANY, deadline=None)
def test_no_text_breaks_the_question_who_wrote_it(text: str) -> None:
    assert dns.is_written_by_udhcpc(text) in (True, False)


# --- the kernel


def test_the_kernels_devices(tmp_path: Path) -> None:
    for path, text in {
        "lo/flags": "0x9\n",
        "lo/carrier": "1\n",
        "eth0/flags": "0x1003\n",
        "eth0/carrier": "0\n",
        "wlan0/flags": "0x1002\n",
        "bonding_masters": "bond0\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "gone").mkdir()
    assert dns.list_devices(str(tmp_path)) == [("eth0", 0x1003, False), ("lo", 0x9, True), ("wlan0", 0x1002, False)]
    assert dns.list_devices("/nonexistent") == []


def test_a_device_that_does_not_exist_has_no_addresses() -> None:
    assert dns.find_addresses("nosuch0") == ()


def test_it_is_asked_through_the_package() -> None:
    link = Link("nosuch0", "nosuch0", 0, False, {"dns-domain": "a.example"})
    assert observe_link(KEYS, link, time.monotonic() + 5)["dns-domain"].values == ("a.example",)


def test_what_every_ifup_would_pay_for_is_not_imported() -> None:
    heavy = "re json typing enum dataclasses collections subprocess socket logging ipaddress functools pathlib"
    code = f"import netconf_hooks.evidence.dns; print(*sorted(set(sys.modules) & set({heavy.split()!r})))"
    root = str(Path(dns.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-ISc", f"import sys; sys.path.append({root!r}); {code}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


# IPv6 routers that advertise themselves


def advertise(monkeypatch: pytest.MonkeyPatch, said: Advertised | OSError) -> list[tuple[object, ...]]:
    """Let the routers of the link answer so; return what is asked of them."""
    asked: list[tuple[object, ...]] = []

    def ask_routers(*question: object) -> Advertised:
        asked.append(question[:4])
        if isinstance(said, OSError):
            raise said
        return said

    monkeypatch.setattr(advertisement, "ask_routers", ask_routers)
    return asked


def test_routers_are_asked_where_no_record_tells(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop.routers = ("fe80::1",)
    asked = advertise(monkeypatch, Advertised(("Home.Example", "\0.evil", "x" * 64), ("2001:db8::53", "::1")))
    assert laptop.observe() == {"dns-domain": Answer(("home.example",)), "dns-server": Answer(("2001:db8::53",))}
    assert asked == [("eth0", 2, MAC, ("fe80::1",))]


def test_no_router_is_asked_for_what_is_known(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop.routers = ("fe80::1",)
    laptop.options = {"dns-domain": "home.example"}
    asked = advertise(monkeypatch, Advertised((), ("2001:db8::53",)))
    link = Link("eth0", "eth0", 2, True, laptop.options)
    dns.observe(("dns-domain",), link, time.monotonic() + 5, laptop.records)
    assert asked == []
    dns.observe(KEYS, link, time.monotonic() + 5, laptop.records)
    assert len(asked) == 1


@pytest.mark.parametrize("said, problem", [
    (Advertised((), (), ("fe80::1",)), "fe80::1 did not answer a router solicitation"),
    (OSError(1, "Operation not permitted"), "fe80::1 can't be asked what it advertises: Operation not permitted"),
])
def test_a_router_that_is_not_heard_leaves_it_open(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch, said: Advertised | OSError, problem: str
) -> None:
    laptop.routers = ("fe80::1",)
    advertise(monkeypatch, said)
    answer = laptop.observe()["dns-domain"]
    assert (answer.values, answer.pending) == ((), True)
    assert problem in answer.problem


def test_a_router_that_advertises_nothing_is_an_answer(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop.routers = ("fe80::1",)
    advertise(monkeypatch, Advertised())
    answer = laptop.observe()["dns-domain"]
    assert (answer.values, answer.pending) == ((), False)
