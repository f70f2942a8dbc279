"""ike: whom a configuration's words mean."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netconf_hooks.system.netlink import Netlink, NetlinkError
from netconf_hooks.tunnels import Endpoint, TunnelError
from netconf_hooks.tunnels.ike import ESP, Flow, Peer, find_family, is_own, make_endpoints, read_hosts, read_port


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        ("vpn.example", ("vpn.example",)),
        ("203.0.113.1 , 2001:DB8:0::1", ("203.0.113.1", "2001:db8::1")),
        ("%any, a, 10.0.0.0/8, 10.0.0.1-10.0.0.2, fe80::1-fe80::2, ::/0,, b-c", ("a", "b-c")),
        ("::ffff:203.0.113.1", ("203.0.113.1",)),
    ],
)
def test_hosts_of_a_list(value, hosts):
    assert read_hosts("right", value) == hosts


@pytest.mark.parametrize("value", ["", ",", "%any", "%any4", "%any6", "::", "0::0", "0.0.0.0", "::/0, ::1-::9"])
def test_whoever_comes_is_no_peer(value):
    with pytest.raises(TunnelError) as caught:
        read_hosts("right", value)
    assert str(caught.value) == f'right "{value}" names no address that the guard could let pass'


@pytest.mark.parametrize("value", ["a b", "%group", "a,203.0.113.1:500", "10.0.0.0/x", "\udcff", "a\nb", "a;b", "-"])
def test_what_is_no_host_is_named(value):
    with pytest.raises(TunnelError, match="^right: "):
        read_hosts("right", value)


@settings(deadline=None)  # a busy machine is no bug
@given(st.text(max_size=40))
def test_any_list_is_read_or_refused(value):
    try:
        hosts = read_hosts("right", value)
    except TunnelError:
        return
    assert hosts
    assert all(host.isascii() and host.isprintable() and " " not in host and "%" not in host for host in hosts)


@pytest.mark.parametrize(
    ("value", "version"),
    [("", 0), ("%any", 0), ("%any4", 4), ("::", 6), ("192.0.2.1,%any6", 0), ("192.0.2.1, 192.0.2.2", 4), ("name", 0)],
)
def test_the_family_of_our_own_addresses(value, version):
    assert find_family(value) == version


@pytest.mark.parametrize(("value", "port"), [("", 0), ("0", 0), ("500", 500), ("65535", 65535)])
def test_ports(value, port):
    assert read_port("leftikeport", value) == port


@pytest.mark.parametrize("value", ["65536", "-1", "ipsec", "4500x", "1e3", "²", "0" * 9])
def test_what_is_no_port(value):
    with pytest.raises(TunnelError, match="leftikeport: .* is no port"):
        read_port("leftikeport", value)


def test_each_host_gets_each_flow_once():
    peer = Peer("", ("203.0.113.1", "2001:db8::1", "vpn.example", "203.0.113.1"), 6)
    flows = (Flow("udp", 500, 500), ESP, ESP, Flow("tcp", 4500, uids=(0,)))
    made = make_endpoints(peer, flows)
    assert [(each.host, each.version) for each in made[::3]] == [
        ("203.0.113.1", 4), ("2001:db8::1", 6), ("vpn.example", 6)
    ]  # fmt: skip
    assert made[-3:] == (
        Endpoint("vpn.example", "udp", 500, version=6, source_port=500),
        Endpoint("vpn.example", "esp", 0, version=6),
        Endpoint("vpn.example", "tcp", 4500, version=6, uids=(0,)),
    )


@pytest.mark.parametrize(
    ("address", "own"),
    [("192.0.2.5", True), ("2001:DB8:0::5", True), ("::ffff:192.0.2.5", True), ("127.0.0.1", True),
     ("203.0.113.1", False), ("2001:db8::1", False), ("localhost", False), ("%any", False), ("", False)],
)  # fmt: skip
def test_which_addresses_are_our_own(own_addresses, address, own):
    own_addresses |= {"192.0.2.5", "2001:db8::5"}
    assert is_own(address) is own


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_any_address_is_not_our_own(own_addresses, address):
    own_addresses.add(address)  # Linux takes both for this machine
    assert is_own(address) is False


def test_whose_an_address_is_when_the_kernel_does_not_say(monkeypatch):
    def fail(self, address):
        raise NetlinkError(errno.ETIMEDOUT)

    monkeypatch.setattr(Netlink, "is_own", fail)
    assert is_own("192.0.2.5") is False
