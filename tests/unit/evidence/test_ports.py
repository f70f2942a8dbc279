"""Bridges, bonds, VLANs: where they are, by what is below them.  The directories are those of sysfs, Linux 6.1."""

import pytest

from netconf_hooks.evidence import ports, radios, wireless
from netconf_hooks.observation import Ports
from netconf_hooks.system.netlink import IFF_LOWER_UP, IFF_UP, LinkStatus


class Machine:
    """The devices of a machine: sysfs in a directory of its own, and what rtnetlink says of them."""

    def __init__(self, directory):
        self.directory = directory
        self.sysfs = str(directory)
        self.links = {}
        self.asked = []

    def add(self, name, kind="", carrier=True, card=False, elsewhere=False, files=()):
        """Add a device.  card: whether it is hardware; elsewhere: whether its peer is in another network namespace."""
        place = self.directory / name
        place.mkdir()
        if card:
            (place / "device").mkdir()
        if kind == "bridge":
            (place / "bridge").mkdir()
            (place / "brif").mkdir()
        if kind == "bond":
            (place / "bonding").mkdir()
        for file in files:
            (place / file).mkdir(parents=True)
        flags = IFF_UP | (IFF_LOWER_UP if carrier else 0)
        number = len(self.links) + 2
        self.links[name] = LinkStatus(number, name, flags, True, carrier, "", kind, elsewhere)

    def join(self, upper, *lowers):
        """Make devices the ports, or the parent, of another."""
        for lower in lowers:
            (self.directory / upper / f"lower_{lower}").touch()
            if self.links[upper].kind == "bridge":
                (self.directory / upper / "brif" / lower).touch()
            if self.links[upper].kind == "bond":
                slaves = self.directory / upper / "bonding/slaves"
                slaves.write_text(" ".join([*(slaves.read_text().split() if slaves.exists() else ()), lower]) + "\n")

    def plug(self, name, carrier):
        """Give a device carrier, or take it."""
        now = self.links[name]
        flags = IFF_UP | (IFF_LOWER_UP if carrier else 0)
        self.links[name] = LinkStatus(now.index, name, flags, True, carrier, "", now.kind, now.peer_elsewhere)

    def get_link(self, name):
        """As Netlink.get_link."""
        self.asked.append(name)
        return self.links.get(name)

    def has_carrier(self, name, *patterns):
        return ports.has_carrier(self.links[name], patterns, self, self.sysfs)

    def list_active(self, name, *patterns):
        return ports.list_active(self, self.links[name], patterns, self.sysfs)

    def guests(self, *patterns):
        return {name for name, link in self.links.items() if ports.is_guest(link, patterns, self.sysfs)}

    def outside(self, *patterns):
        return {name for name, link in self.links.items() if ports.leads_outside(link, patterns, self.sysfs)}


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    for name in ("eth0", "eth1", "wlan0"):
        machine.add(name, card=True)
    (tmp_path / "wlan0/phy80211").mkdir()
    machine.add("tap0", "tun")
    machine.add("vnet3", "tun")
    machine.add("veth1", "veth", elsewhere=True)
    machine.add("veth2", "veth")
    machine.add("vx0", "vxlan")
    machine.add("bond0", "bond")
    machine.add("bond0.7", "vlan")
    machine.add("br0", "bridge")
    machine.join("bond0", "eth1", "wlan0")
    machine.join("bond0.7", "bond0")
    return machine


def test_which_ports_lead_outside(machine):
    assert machine.outside() == {"eth0", "eth1", "wlan0", "bond0", "bond0.7"}
    assert machine.guests() == {"tap0", "vnet3", "veth1"}
    neither = set(machine.links) - machine.outside() - machine.guests()
    assert neither == {"veth2", "vx0", "br0"}, "no carrier by these, and no way round the guard"


def test_a_back_end_of_xen_is_a_guests(machine, tmp_path):
    machine.add("vif1.0", card=True)
    (tmp_path / "xen-backend").mkdir()
    (tmp_path / "vif1.0/device/subsystem").symlink_to(tmp_path / "xen-backend")
    assert "vif1.0" in machine.guests() and "vif1.0" not in machine.outside()


@pytest.mark.parametrize("patterns, outside", [
    (("eth0",), {"eth0"}),
    (("veth1", "eth1"), {"veth1", "eth1"}),
    (("eth?", "v[x]*"), {"eth0", "eth1", "vx0"}),
    (("nothere",), set()),
])
def test_the_admin_says_otherwise(machine, patterns, outside):
    assert machine.outside(*patterns) == outside
    # A card that the option does not name is no way round the guard.
    assert machine.guests(*patterns) == set(machine.links) - outside - machine.outside()


def test_a_bridge_has_the_carrier_of_its_ports_that_lead_outside(machine):
    assert not machine.has_carrier("br0"), "it has no port"
    machine.join("br0", "eth0", "tap0", "veth1", "veth2", "vx0")
    assert machine.has_carrier("br0")
    machine.plug("eth0", False)
    assert not machine.has_carrier("br0")
    assert machine.has_carrier("br0", "vx*")
    assert not machine.has_carrier("br0", "eth*")
    machine.plug("eth0", True)
    machine.plug("br0", False)
    assert not machine.has_carrier("br0"), "it is not set up"


def test_a_vlan_has_the_carrier_of_its_parent(machine):
    machine.add("br0.5", "vlan")
    machine.join("br0.5", "br0")
    machine.join("br0", "bond0.7", "tap0")
    assert machine.has_carrier("br0.5")
    machine.plug("bond0", False)
    assert not machine.has_carrier("br0.5") and not machine.has_carrier("br0") and not machine.has_carrier("bond0.7")


def test_a_bond_has_the_carrier_that_the_kernel_says(machine):
    machine.plug("eth1", False)
    machine.plug("wlan0", False)
    assert machine.has_carrier("bond0")


def test_of_a_card_nothing_is_asked(machine, monkeypatch):
    monkeypatch.setattr(ports, "Netlink", lambda: pytest.fail("asked"))
    for name in ("eth0", "tap0", "veth1"):
        assert ports.has_carrier(machine.links[name]) and machine.list_active(name) == ()
    assert machine.asked == []


def test_links_that_are_their_own_parents_end(machine):
    machine.add("a", "vlan")
    machine.add("b", "vlan")
    machine.join("a", "b")
    machine.join("b", "a")
    assert not machine.has_carrier("a")
    assert ports.list_underlying("a", machine.sysfs) == ("b",)
    assert ports.list_radios("a", machine.sysfs)


def test_what_carries_a_links_traffic(machine, tmp_path):
    machine.join("br0", "eth0", "bond0", "tap0")
    assert machine.list_active("br0") == ("bond0/10/0", "eth1/3/0", "wlan0/4/0", "eth0/2/0")
    (tmp_path / "bond0/bonding/active_slave").write_text("wlan0\n")
    assert machine.list_active("br0") == ("bond0/10/0", "wlan0/4/0", "eth0/2/0")
    machine.plug("eth0", False)
    assert machine.list_active("br0") == ("bond0/10/0", "wlan0/4/0")
    assert machine.list_active("bond0.7") == ("bond0/10/0", "wlan0/4/0")
    assert machine.list_active("br0", "tap*") == ("tap0/5/0",)


def test_whose_news_is_news_of_a_link(machine):
    machine.join("br0", "bond0.7", "tap0")
    assert set(ports.list_underlying("br0", machine.sysfs)) == {"tap0", "bond0.7", "bond0", "eth1", "wlan0"}
    assert ports.list_underlying("eth0", machine.sysfs) == ()
    assert ports.list_underlying("nothere", machine.sysfs) == ()


def test_a_bond_is_wireless_while_its_active_port_is(machine, tmp_path):
    def find(device):
        return radios.find_radios(device, machine.sysfs)

    assert find("bond0") == find("bond0.7") == ("wlan0",), "all ports of a bond without an active one"
    active = tmp_path / "bond0/bonding/active_slave"
    active.write_text("eth1\n")
    assert find("bond0") == find("bond0.7") == ()
    active.write_text("wlan0\n")
    assert find("bond0") == find("bond0.7") == ("wlan0",)
    assert radios.is_wireless("bond0.7", machine.sysfs)
    machine.join("br0", "wlan0")
    assert find("br0") == (), "the radio of an access point is no network of the bridge's"
    assert find("eth0") == find("nothere") == ()


@pytest.mark.parametrize("active, is_open", [("eth1", False), ("wlan0", True)])
def test_a_bond_is_insecure_while_its_active_port_is(machine, tmp_path, monkeypatch, active, is_open):
    asked = []
    monkeypatch.setattr(wireless, "read_network", lambda radio, deadline: asked.append(radio))
    (tmp_path / "bond0/bonding/active_slave").write_text(f"{active}\n")
    assert wireless.is_wireless_open("bond0", sysfs=machine.sysfs) is is_open
    assert asked == ["wlan0"] * is_open


def test_which_ports_are_guests(machine, monkeypatch):
    class Conversation:
        def __enter__(self):
            return machine

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(ports, "Netlink", Conversation)
    machine.join("br0", "eth0", "tap0", "veth1", "vx0")
    (machine.directory / "br0/brif/gone").touch()
    assert ports.list_guests("br0", sysfs=machine.sysfs) == find_indexes(machine, "tap0", "veth1")
    assert ports.list_guests("br0", ("tap0",), machine.sysfs) == find_indexes(machine, "veth1", "vx0")
    assert ports.list_guests("eth0", sysfs=machine.sysfs) == {}
    assert ports.list_bridges(machine.sysfs) == ("br0",)


@pytest.fixture
def guarded(machine, monkeypatch):
    """The same machine as the one whose links are guarded."""
    class Conversation:
        def __enter__(self):
            return machine

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(ports, "Netlink", Conversation)
    monkeypatch.setattr(ports, "SYSFS", machine.sysfs)
    for function in (ports.list_guests, ports.list_ports, ports.is_bridge, ports.list_bridges):
        defaults = tuple(machine.sysfs if value == "/sys/class/net" else value for value in function.__defaults__)
        monkeypatch.setattr(function, "__defaults__", defaults)
    return machine


@pytest.mark.parametrize("options, named", [
    ({}, ()),
    ({"bridge-ports": "none"}, ()),
    ({"bridge-ports": "eth0 eth7 eth0"}, ("eth0", "eth7")),
    ({"bridge-ports": "all"}, ("eth0", "eth1", "wlan0")),
    ({"bridge-ports": "regex eth[0-9]|wl.* noregex tap9"}, ("eth0", "eth1", "wlan0", "tap9")),
    ({"bridge-ports": "regex ( eth"}, ()),
    ({"bond-slaves": "eth0\neth1"}, ("eth0", "eth1")),
    ({"slaves": "eth0", "bond-slaves": "none"}, ("eth0",)),
    ({"netconf-guard": "yes", "dns-domain": "x"}, ()),
])
def test_which_ports_a_stanza_names(guarded, options, named):
    assert ports.list_named_ports(options) == named


def find_indexes(machine, *names):
    """Return the indexes of devices, by name."""
    return {name: machine.links[name].index for name in names}


def test_what_a_guard_has_to_know(guarded):
    def index(*names):
        return tuple(find_indexes(guarded, *names).values())

    assert ports.read_ports("eth0", {}) is None, "a card has no ports"
    assert ports.read_ports("gone", {}) is None
    expected = Ports(True, ("eth0", "eth7"), (), ())
    assert ports.read_ports("br9", {"bridge-ports": "eth0 eth7"}) == expected, "it does not exist yet"
    guarded.join("br0", "eth0", "tap0", "veth2")
    guarded.add("br1", "bridge")
    guarded.join("br1", "vx0")
    assert ports.read_ports("br0", {}) == Ports(
        True, ("eth0", "veth2"), index("tap0"), index("vx0")
    )
    assert ports.read_ports("br0", {"bridge-ports": "tap0 eth7"}, ("eth0",)) == Ports(
        True, ("eth7", "eth0"), index("tap0", "veth2"), index("vx0")
    )
    assert ports.read_ports("bond0", {}) == Ports(False, ("eth1", "wlan0"))
    assert ports.read_ports("bond7", {"bond-slaves": "eth0 eth1"}) == Ports(False, ("eth0", "eth1"))
    assert ports.read_ports("bond0.7", {}) is None, "its parent has a stanza of its own"


def test_a_bridge_that_can_never_have_carrier(guarded):
    sysfs = guarded.sysfs
    assert ports.find_isolation("br0", sysfs=sysfs) == ports.find_isolation("eth0", sysfs=sysfs) == "", "no ports yet"
    guarded.join("br0", "veth1", "vx0")
    told = "none of the ports of br0 (veth1, vx0) is known to lead outside, so that it never has carrier"
    assert ports.find_isolation("br0", sysfs=sysfs).startswith(told)
    assert ports.find_isolation("br0", ("eth*",), sysfs).startswith(told)
    assert ports.find_isolation("br0", ("veth1",), sysfs) == ""
    guarded.join("br0", "eth0")
    assert ports.find_isolation("br0", sysfs=sysfs) == ""
