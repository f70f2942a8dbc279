"""What a network announces as its captive portal."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY
from messages import make_message, make_message6

from netconf_hooks.evidence import Link, captive_portal, dhclient
from netconf_hooks.evidence.advertisement import Advertised, parse_advertisement, remember
from netconf_hooks.evidence.captive_portal import (
    LONGEST, MOST, Portal, describe_refusal, find_portals, look_for_portal, read_portal
)  # fmt: skip
from netconf_hooks.observation import Answer, PortalNotice

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


@pytest.mark.parametrize("uri, reason", [
    ("", "neither http:// nor https://"), ("nonsense", "neither http:// nor https://"),
    ("urn:ietf:params:capport:unrestricted", "neither http:// nor https://"),
    ("ftp://portal.example/", "neither http:// nor https://"), ("javascript:alert(1)", "neither http:// nor https://"),
    ("https://", "names no host"), ("https:///x", "names no host"), ("https://-portal.example/", "names no host"),
    ("https://user@portal.example/", "a user's name"),
    ("https://portal.example:0/", "its port"), ("https://portal.example:65536/", "its port"),
    ("https://portal.example:https/", "its port"),
    ("http://192.168.3.300/", "names no host"), ("http://[192.0.2.1]/", "names no host"),
    ("http://[2001:db8::1/", "names no host"), ("http://[2001:db8::1]x/", "names no host"),
    ("http://127.0.0.1/", "names no host"), ("http://[::1]/", "names no host"), ("http://0.0.0.0/", "names no host"),
    ("http://255.255.255.255/", "names no host"), ("http://[ff02::1]/", "names no host"),
    ("https://portal.example/a b", "characters"), ("https://portal.example/\n", "characters"),
    ("https://portal.example/\x1b[2J", "characters"), ("https://portal.example/\0", "characters"),
    ("https://portal.example/\"'", "characters"), ("https://pörtal.example/", "characters"),
    ("https://portal.example/`id`", "characters"),
    (f"https://portal.example/{'x' * 255}", "longer than 255 bytes"),
])  # fmt: skip
def test_no_portal(uri, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_portal(uri)


def test_as_long_as_an_option_can_be():
    uri = f"https://portal.example/{'x' * 232}"
    assert len(uri) == LONGEST == 255
    assert read_portal(uri).uri == uri
    with pytest.raises(ValueError, match="longer than 255 bytes"):
        read_portal(uri + "x")


@settings(max_examples=MANY)
@given(st.one_of(st.text(max_size=40), st.text(max_size=40).map("http://".__add__),
                 st.text("a.:[]1@/%\n ", max_size=20).map("https://".__add__)))
def test_any_text_is_a_portal_or_none(text):
    try:
        portal = read_portal(text)
    except ValueError as error:
        said = describe_refusal(text, str(error))
        assert said.isascii() and said.isprintable() and len(said) < 800
        return
    assert portal.uri == text and text.isascii() and text.isprintable()
    assert not any(each in text for each in " '\"`\\")
    assert portal.host and 0 < portal.port < 65536


@pytest.mark.parametrize("option", [
    f'option default-url "{URI}";', f'option v4-captive-portal "{URI}";', f'option dhcp6.v6-captive-portal "{URI}";',
])
def test_the_lease_of_dhclient(option):
    (one,) = dhclient.split_leases(LEASE.format(f"  {option}\n"))
    assert one.portals == (URI,)


def test_the_option_of_a_router():
    text = URI.encode()
    option = bytes((37, (len(text) + 2 + 7) // 8)) + text
    option += bytes(-len(option) % 8)
    assert parse_advertisement(HEADER + option) == Advertised(portals=(URI,))


def test_an_old_lease_of_dhcpcd_does_not_count(link, tmp_path):
    (tmp_path / "dhcpcd").mkdir()
    for name, message in (
        ("eth0.lease", make_message(URI, "198.51.100.3")), ("eth0.lease6", make_message6(URI)),
        ("eth00.lease", make_message(URI)), ("eth0.text", make_message(URI)),
    ):  # fmt: skip
        (tmp_path / "dhcpcd" / name).write_bytes(message)
    (tmp_path / "dhcpcd/eth0-Hotel.lease").mkdir()
    (tmp_path / "run/dhcpcd").mkdir(parents=True)
    assert find(link, tmp_path) == ([], [])
    (tmp_path / "run/dhcpcd/pid").write_text("507\n")
    assert find(link, tmp_path) == ([], [])
    (tmp_path / "dhcpcd/eth0-Hotel.lease").rmdir()
    (tmp_path / "dhcpcd/eth0-Hotel.lease").write_bytes(make_message(URI))
    assert find(link, tmp_path) == ([URI], [])


@pytest.fixture
def link(monkeypatch, tmp_path):
    """eth0, without anything that is announced."""
    monkeypatch.setattr("netconf_hooks.evidence.address.list_addresses", lambda device: ("192.0.2.7",))
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: ((), ""))
    return Link("eth0", "eth0", 7, True, {})


def find(link, root, **options):
    """Return the URIs that are announced, and what is said of those that are refused."""
    portals, refused = find_portals(link, 5.0, str(root), str(root / "run"), dhcpcd=str(root / "dhcpcd"), **options)
    return [portal.uri for portal in portals], list(refused)


def test_nothing_is_announced(link, tmp_path):
    assert find(link, tmp_path) == ([], [])


def test_the_lease_routers_and_dhcpcd_are_asked_and_what_is_no_uri_is_refused(link, tmp_path, monkeypatch):
    (tmp_path / "dhclient.eth0.leases").write_text(LEASE.format('  option default-url "nonsense";\n'))
    (tmp_path / "run/dhcpcd").mkdir(parents=True)
    (tmp_path / "run/dhcpcd/eth0.pid").write_text("507\n")
    (tmp_path / "dhcpcd").mkdir()
    (tmp_path / "dhcpcd/eth0.lease").write_bytes(make_message(URI))
    (tmp_path / "dhcpcd/eth0.lease6").write_bytes(make_message6("http://six.example/"))
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: (("fe80::1",), ""))
    advertised = Advertised(portals=(URI, "http://router.example/"))
    monkeypatch.setattr("netconf_hooks.evidence.advertisement.ask_routers", lambda *_: advertised)
    monkeypatch.setattr("netconf_hooks.evidence.address.list_addresses", lambda device: ("192.0.2.7", "2001:db8::7"))
    uris = [URI, "http://six.example/", "http://router.example/"]
    refused = '"nonsense" is announced as a captive portal, but it begins with neither http:// nor https://'
    assert find(link, tmp_path) == (uris, [refused])
    assert find(link, tmp_path, ask=False) == (uris[:2], [refused])


def test_the_end_of_a_string_in_c_is_no_part_of_it(link, tmp_path):
    (tmp_path / "dhclient.eth0.leases").write_text(LEASE.format(f'  option default-url "{URI}\\000";\n'))
    assert find(link, tmp_path) == ([URI], [])


def test_a_network_without_a_portal_says_so(link, tmp_path):
    option = '  option default-url "urn:ietf:params:capport:unrestricted";\n'
    (tmp_path / "dhclient.eth0.leases").write_text(LEASE.format(option))
    assert find(link, tmp_path) == ([], ["the network says that it has no captive portal"])


def test_routers_are_asked_once_in_a_look(link, tmp_path, monkeypatch):
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: (("fe80::1",), ""))
    monkeypatch.setattr("netconf_hooks.evidence.advertisement.ask_routers", lambda *_: Advertised())
    remember(link, Advertised(portals=(URI,)))
    assert find(link, tmp_path) == ([URI], [])
    other = Link("eth0", "eth0", 7, True, {})
    assert other == link
    assert find(other, tmp_path) == ([], [])


def test_what_is_kept_names_the_network(link, monkeypatch):
    found = (Portal(URI, "portal.example", 443),), ("refused",)
    monkeypatch.setattr(captive_portal, "find_portals", lambda *_, **__: found)
    mac = Answer(("52:54:00:0a:00:01",))
    monkeypatch.setattr("netconf_hooks.evidence.router.observe", lambda *_: {"gateway-mac": mac})
    assert look_for_portal(link, 5.0, True) == PortalNotice((URI,), "refused", mac.values)
    monkeypatch.setattr(captive_portal, "find_portals", lambda *_, **__: ((), ("refused",)))
    assert look_for_portal(link, 5.0, True) == PortalNotice(problem="refused")


def test_a_thousand_routers_announce_no_more_than_a_few(link, tmp_path, monkeypatch):
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: (("fe80::1",), ""))
    advertised = Advertised(portals=tuple(f"http://{number}.example/" for number in range(1000)))
    monkeypatch.setattr("netconf_hooks.evidence.advertisement.ask_routers", lambda *_: advertised)
    assert len(find(link, tmp_path)[0]) == MOST
    advertised = Advertised(portals=tuple(f"nonsense{number}" for number in range(1000)))
    assert len(find(link, tmp_path)[1]) == MOST


def test_who_does_not_answer_announces_nothing(link, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    (tmp_path / "run/dhcpcd").mkdir(parents=True)
    (tmp_path / "run/dhcpcd/eth0-4.pid").write_text("507\n")
    monkeypatch.setattr("netconf_hooks.evidence.dns.find_advertising_routers", lambda index: (("fe80::1",), ""))
    monkeypatch.setattr("netconf_hooks.evidence.advertisement.ask_routers", refuse)
    assert find(link, tmp_path) == ([], [])
