"""How a network looks at a glance, and whether it is still the same one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.evidence import fingerprint as module, ports as module_ports, wireless
from netconf_hooks.evidence.fingerprint import NO_ADDRESS, Fingerprint, read_fingerprint, parse_fingerprint
from netconf_hooks.evidence.wireless import WirelessNetwork
from netconf_hooks.system.netlink import AF_INET, AF_INET6, DefaultRoute, LinkStatus, Neighbour, NetlinkError

ROUTER, MAC, OTHER_MAC = "192.0.2.1", "00:16:3e:11:22:33", "00:16:3e:11:22:34"
OFFICE = Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER,), {ROUTER: MAC})

routers = st.lists(
    st.sampled_from(["192.0.2.1", "192.0.2.2", "fe80::1", NO_ADDRESS]), unique=True, max_size=3
).map(tuple)
macs = st.dictionaries(
    st.sampled_from(["192.0.2.1", "192.0.2.2", "fe80::1"]), st.sampled_from([MAC, OTHER_MAC]), max_size=3
)  # fmt: skip
networks = st.sampled_from([(), ("192.0.2.5/24",)])


def change(scene, **facts):
    """Return a scene that differs in some facts."""
    return Fingerprint(**{name: facts.get(name, getattr(scene, name)) for name in Fingerprint.__slots__})


def make_possible(scene):
    """Return a scene that knows MAC addresses of its routers only."""
    return change(scene, macs={router: mac for router, mac in scene.macs.items() if router in scene.routers})


ports = st.sampled_from([(), ("eth0/2/0",), ("bond0/4/1", "eth0/2/0")])
scenes = st.builds(
    Fingerprint, st.integers(0, 2), st.booleans(), networks, routers, macs, st.just(()), ports, st.integers(0, 2)
).map(make_possible)


# The same network


@pytest.mark.parametrize("facts", [
    {"index": 8},
    {"carrier": False},
    {"networks": ("192.0.2.6/24",)},
    {"networks": ()},
    {"routers": ("192.0.2.2",)},
    {"routers": ()},
    {"routers": (ROUTER, "fe80::1")},
    {"macs": {ROUTER: OTHER_MAC}},
    {"wireless": ("office", MAC, "encrypted")},
    {"ports": ("eth1/3/0",)},
    {"losses": 1},
])
def test_another_network(facts):
    assert not change(OFFICE, **facts).is_like(OFFICE)
    assert not OFFICE.is_like(change(OFFICE, **facts))


def test_a_router_that_is_not_known_at_the_moment_is_the_same_one():
    forgotten = change(OFFICE, macs={})
    assert forgotten.is_like(OFFICE) and OFFICE.is_like(forgotten)


@given(scenes, scenes)
def test_likeness_is_mutual(one, other):
    assert one.is_like(one)
    assert one.is_like(other) == other.is_like(one)


@given(scenes)
def test_what_is_written_down_reads_as_the_same_scene(scene):
    assert parse_fingerprint(str(scene)) == scene
    wireless = ("a b\\x09", MAC, "open")
    assert parse_fingerprint(str(change(scene, wireless=wireless))).wireless == wireless


@given(scenes, scenes)
def test_what_was_known_of_the_same_routers_stays_known(scene, before):
    merged = scene.complete(before)
    assert merged.is_like(scene)
    assert set(merged.macs) <= set(scene.routers)
    for router in scene.routers:
        assert merged.macs.get(router) == scene.macs.get(router, before.macs.get(router))


def test_a_mac_forgotten_and_learnt_anew_is_compared_with_the_old_one():
    seen = change(OFFICE, macs={}).complete(OFFICE)
    assert OFFICE.is_like(seen)
    assert not change(OFFICE, macs={ROUTER: OTHER_MAC}).is_like(seen)


@pytest.mark.parametrize("before, after, left, blinked", [
    ((), (), False, False),
    (("eth0/2/0",), ("eth0/2/0",), False, False),
    (("eth0/2/0",), ("eth0/2/1",), True, True),
    (("bond0/4/0", "eth0/2/0"), ("bond0/4/0", "wlan0/3/0"), True, False),
    (("eth0/2/0", "eth1/3/0"), ("eth0/2/0",), True, False),
    (("eth0/2/0",), ("eth0/2/0", "eth1/3/0"), False, False),
])
def test_a_link_leaves_with_a_port_that_has_lost_its_carrier(before, after, left, blinked):
    one, other = change(OFFICE, ports=before), change(OFFICE, ports=after)
    assert one.is_left(other) is left
    assert one.has_blinked(other) is blinked
    assert not one.has_blinked(change(other, carrier=False))


def test_a_link_that_has_blinked_itself():
    assert OFFICE.has_blinked(change(OFFICE, losses=1))
    assert not OFFICE.has_blinked(change(OFFICE, losses=1, index=8))


# Looking


REACHABLE = 0x02


class Tables:
    """Stands for `Netlink`: what the kernel knows of eth0."""

    def __init__(self):
        self.link = LinkStatus(7, "eth0", 0x11043, True, True, "02:00:00:00:00:01")
        self.routes = {AF_INET: DefaultRoute((ROUTER,))}
        self.known = {ROUTER: Neighbour(7, ROUTER, REACHABLE, MAC)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_link(self, device):
        assert device == "eth0"
        return self.link

    def get_default_route(self, index, family):
        assert index == 7
        return self.routes.get(family)

    def get_known_neighbours(self, index, addresses):
        assert index == 7
        return {address: self.known[address] for address in addresses if address in self.known}


@pytest.fixture
def tables(monkeypatch):
    tables = Tables()
    monkeypatch.setattr(module, "Netlink", lambda: tables)
    monkeypatch.setattr(module, "list_networks", lambda device: (("2001:db8::5", 64), ("192.0.2.5", 24)))
    monkeypatch.setattr(module, "is_wireless", lambda device: False)
    return tables


def test_what_is_seen(tables):
    tables.routes[AF_INET6] = DefaultRoute(("fe80::1", "fe80::2"), True)
    tables.known["fe80::1"] = Neighbour(7, "fe80::1", 0, "")
    wanted = Fingerprint(
        7, True, ("192.0.2.5/24", "2001:db8::5/64"), (ROUTER, "fe80::1", "fe80::2"), {ROUTER: MAC}
    )  # fmt: skip
    assert read_fingerprint("eth0") == wanted
    assert read_fingerprint("eth0", tables) == wanted


def test_a_device_that_is_not_there_is_no_network(tables):
    tables.link = None
    assert read_fingerprint("eth0") == Fingerprint()
    assert not Fingerprint().is_like(OFFICE)


def test_how_often_the_carrier_was_lost(tables):
    tables.link = tables.link.change(losses=3)
    assert read_fingerprint("eth0").losses == 3


def test_without_carrier(tables):
    tables.link = LinkStatus(7, "eth0", 0x1003, True, False, "")
    assert read_fingerprint("eth0").carrier is False


def test_a_default_route_without_a_router_is_one(tables):
    tables.routes = {AF_INET: DefaultRoute(())}
    assert read_fingerprint("eth0").routers == (NO_ADDRESS,)
    tables.routes = {}
    assert read_fingerprint("eth0").routers == ()


@pytest.mark.parametrize("network, expected", [
    (WirelessNetwork("office", (MAC,), True), ("office", MAC, "encrypted")),
    (WirelessNetwork("cafe", (MAC, OTHER_MAC), False), ("cafe", f"{MAC} {OTHER_MAC}", "open")),
    (None, ("none",)),
    (NetlinkError(1), ("can't be read",)),
])
def test_the_access_point_is_part_of_it(tables, monkeypatch, network, expected):
    def read_network(device):
        if isinstance(network, NetlinkError):
            raise network
        return network

    monkeypatch.setattr(module, "is_wireless", lambda device: True)
    monkeypatch.setattr(wireless, "read_network", read_network)
    seen = read_fingerprint("eth0")
    assert seen.wireless == expected
    assert parse_fingerprint(str(seen)) == seen


@pytest.mark.parametrize("text", [
    "", "7", "7\t1 0", "x\t1 0\t\t\t\t",
    "7\t1 0\t\t\tnothing\t", "7\t1 0\t\t", "7\t1\t\t\t\t", "7\t1 x\t\t\t\t",
])
def test_what_is_no_scene(text):
    with pytest.raises(ValueError):
        parse_fingerprint(text)


def test_a_bridge_looks_as_its_ports_that_lead_outside_do(tables, monkeypatch):
    asked = []

    def answer(value):
        def ask(*arguments):
            asked.append([argument for argument in arguments if argument is not tables])
            return value

        return ask

    monkeypatch.setattr(module_ports, "has_carrier", answer(False))
    monkeypatch.setattr(module_ports, "list_active", answer(("eth1/3/0",)))
    assert read_fingerprint("eth0", tables, ("eth1",)).ports == () and asked == [], "a card has none"
    tables.link = LinkStatus(7, "eth0", 0x11043, True, True, "", "bridge")
    seen = read_fingerprint("eth0", tables, ("eth1",))
    assert (seen.carrier, seen.ports) == (False, ("eth1/3/0",))
    assert asked == [[tables.link, ("eth1",)]] * 2
