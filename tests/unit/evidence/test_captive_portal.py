"""What a network announces as its captive portal."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence import Link, captive_portal, lease
from netconf_hooks.evidence.advertisement import Advertised, parse_advertisement
from netconf_hooks.evidence.captive_portal import MOST, Portal, find_portals, read_portal
from netconf_hooks.system import programs

URI = "https://portal.example/x?a=1"
LEASE = 'lease {{\n  interface "eth0";\n  fixed-address 192.0.2.7;\n{}  expire never;\n}}\n'
HEADER = bytes.fromhex("86000000") + bytes(12)


@pytest.mark.parametrize("uri, host, port", [
    (URI, "portal.example", 443), ("http://portal.example", "portal.example", 80),
    ("https://portal.example:8443/login", "portal.example", 8443), ("http://192.168.3.1:8880/", "192.168.3.1", 8880),
    ("http://[2001:db8::1]:8880/", "2001:db8::1", 8880), ("https://[fe80::1]", "fe80::1", 443),
    ("HTTP://Portal.Example.?x", "portal.example", 80),
])
def test_a_portal(uri, host, port):
    assert read_portal(uri) == Portal(uri, host, port)


@pytest.mark.parametrize("uri", [
    "", "nonsense", "urn:ietf:params:capport:unrestricted", "ftp://portal.example/", "javascript:alert(1)", "https://",
    "https:///x", "https://user@portal.example/", "https://portal.example:0/", "https://portal.example:65536/",
    "https://portal.example:https/", "http://192.168.3.300/", "http://[192.0.2.1]/", "http://[2001:db8::1/",
    "http://[2001:db8::1]x/", "https://portal.example/a b", "https://portal.example/\n",
    "https://portal.example/\x1b[2J",
    "https://portal.example/\0", "https://portal.example/\"'", "https://pörtal.example/", "https://portal.example/`id`",
    f"https://portal.example/{'x' * 255}", "https://-portal.example/",
])  # fmt: skip
def test_no_portal(uri):
    assert read_portal(uri) is None


@settings(max_examples=MANY)
@given(st.one_of(st.text(max_size=40), st.text(max_size=40).map("http://".__add__),
                 st.text("a.:[]1@/%\n ", max_size=20).map("https://".__add__)))
def test_any_text_is_a_portal_or_none(text):
    portal = read_portal(text)
    if portal:
        assert portal.uri == text and text.isascii() and text.isprintable()
        assert not any(each in text for each in " '\"`\\")
        assert portal.host and 0 < portal.port < 65536


@pytest.mark.parametrize("option", [
    f'option default-url "{URI}";', f'option v4-captive-portal "{URI}";', f'option dhcp6.v6-captive-portal "{URI}";',
])
def test_the_lease_of_dhclient(option):
    (one,) = lease.split_leases(LEASE.format(f"  {option}\n"))
    assert one.portals == (URI,)


def test_the_option_of_a_router():
    text = URI.encode()
    option = bytes((37, (len(text) + 2 + 7) // 8)) + text
    option += bytes(-len(option) % 8)
    assert parse_advertisement(HEADER + option) == Advertised(portals=(URI,))


@pytest.fixture
def link(monkeypatch, tmp_path):
    """eth0, without anything that is announced."""
    monkeypatch.setattr("netconf_hooks.evidence.address.list_addresses", lambda device: ("192.0.2.7",))
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: ((), ""))
    monkeypatch.setattr(captive_portal, "time", SimpleNamespace(monotonic=lambda: 0.0))
    return Link("eth0", "eth0", 7, True, {})


def find(link, root):
    return [portal.uri for portal in find_portals(link, 5.0, str(root), str(root / "run"))]


def test_nothing_is_announced(link, tmp_path):
    assert find(link, tmp_path) == []


def test_the_lease_routers_and_dhcpcd_are_asked_and_what_is_no_uri_is_left_out(link, tmp_path, monkeypatch):
    (tmp_path / "dhclient.eth0.leases").write_text(LEASE.format('  option default-url "nonsense";\n'))
    (tmp_path / "run/dhcpcd").mkdir(parents=True)
    (tmp_path / "run/dhcpcd/eth0.pid").write_text("507\n")
    dumps = {"-4": f"captive_portal_uri={URI}\n", "-6": "dhcp6_captive_portal_uri=http://six.example/\n"}
    monkeypatch.setattr(programs, "run", lambda argv, timeout: programs.Result(0, dumps[argv[1]]))
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: (("fe80::1",), ""))
    advertised = Advertised(portals=(URI, "http://router.example/"))
    monkeypatch.setattr("netconf_hooks.evidence.advertisement.ask_routers", lambda *_: advertised)
    assert find(link, tmp_path) == [URI, "http://six.example/", "http://router.example/"]


def test_a_thousand_routers_announce_no_more_than_a_few(link, tmp_path, monkeypatch):
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: (("fe80::1",), ""))
    advertised = Advertised(portals=tuple(f"http://{number}.example/" for number in range(1000)))
    monkeypatch.setattr("netconf_hooks.evidence.advertisement.ask_routers", lambda *_: advertised)
    assert len(find(link, tmp_path)) == MOST


def test_who_does_not_answer_announces_nothing(link, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    def fail(argv, timeout):
        raise programs.ProgramError("dhcpcd: no such program")

    (tmp_path / "run/dhcpcd").mkdir(parents=True)
    (tmp_path / "run/dhcpcd/eth0-4.pid").write_text("507\n")
    monkeypatch.setattr(programs, "run", fail)
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: (("fe80::1",), ""))
    monkeypatch.setattr("netconf_hooks.evidence.advertisement.ask_routers", refuse)
    assert find(link, tmp_path) == []
