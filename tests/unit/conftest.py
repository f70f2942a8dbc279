"""A machine that tests can plug and unplug: fakes where hooks and command meet kernel, network, programs and syslog.

The real ones would start programs, need interfaces of this machine, and change it.
"""

import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import many  # noqa: F401  before any test is made
import pytest
from guarded import CountingStore, FakeFirewall, FakeNetwork, OFFICE, Steps, assert_closed, assert_open, ifup
from office import AT_OFFICE, CORP, STOPPED

from netconf_hooks import cli, events, linkdown, settle, wake

from netconf_hooks.stanzas import ifenv

from netconf_hooks.commands import check, check_guard, explain, portal, recording, status, unprivileged
from netconf_hooks.evidence import address, dhclient, fingerprint, look, names, nat64, radios, router, wireless
from netconf_hooks.guard import endpoints, firewall as firewall_module, hosts, ppp
from netconf_hooks.guard.firewall import GuardError
from netconf_hooks.observation import Answer
from netconf_hooks.system import log, netlink
from netconf_hooks.system.netlink import IFF_LOWER_UP, IFF_UP, LinkStatus
from netconf_hooks.tunnels import TunnelError, held


class FakeLinks(dict):
    """The machine's links, by name."""

    def read(self, devices):
        """As netlink.read_links."""
        return {device: self[device] for device in devices if device in self}

    def plug(self, name, index, carrier=True, up=True):
        """Let a link be there, as the kernel tells it."""
        carrier = carrier and up
        flags = (IFF_UP if up else 0) | (IFF_LOWER_UP if carrier else 0)
        self[name] = LinkStatus(index=index, name=name, flags=flags, up=up, carrier=carrier, address="")


class FakeTunnels:
    """The machine's tunnels: keeps what was asked of them, in order; `broken` and `during` make it interesting.

    endpoints: by kind and name, a TunnelError where they can't be known; up: whether they are connected.
    """

    def __init__(self, journal):
        self.asked = []
        self.journal = journal
        self.broken = {}
        self.during = {}
        self.endpoints = {}
        self.up = {}
        self.running = set()
        self.units = {}

    def load(self, kind, name):
        """As tunnels.load_tunnel."""
        return FakeTunnel(self, kind, name)

    def ask(self, what):
        """Take down what was asked; do what is to happen meanwhile; fail where that is wished."""
        self.asked.append(what)
        self.journal.append(what)
        if what in self.during:
            self.during.pop(what)()
        if what in self.broken:
            raise TunnelError(self.broken[what])


class FakeTunnel:
    def __init__(self, tunnels, kind, name):
        self.tunnels = tunnels
        self.name = f"{kind} {name}"

    def start(self):
        self.tunnels.ask(f"start {self.name}")

    def stop(self):
        self.tunnels.ask(f"stop {self.name}")

    def is_up(self):
        return self.tunnels.up.get(self.name)

    def is_running(self):
        return self.name in self.tunnels.running

    def list_units(self):
        return self.tunnels.units.get(self.name, ())

    def endpoints(self):
        known = self.tunnels.endpoints.get(self.name, ())
        if isinstance(known, TunnelError):
            raise known
        return known


def pytest_make_parametrize_id(val):
    """Tests are not named after values of up to a megabyte: each worker sends the names of all tests."""
    return f"{ascii(val[:40])}-{len(val)}" if isinstance(val, (str, bytes)) and len(val) > 100 else None


@pytest.fixture
def fs(fs, monkeypatch):
    """A file system of the test's own, by pyfakefs.

    It has no fchmod and fchown: the real ones would change the file that has the same number in this process.  As root,
    that was once the machine's /dev/null.
    """

    def refuse(*arguments):
        raise NotImplementedError("pyfakefs has no fchmod and fchown: use tmp_path")

    # While it is active, `os` is its own.
    monkeypatch.setattr(os, "fchmod", refuse, raising=False)
    monkeypatch.setattr(os, "fchown", refuse, raising=False)
    return fs


@pytest.fixture(scope="session")
def directories():
    """Names for directories of tests, in memory if programs can be run from there."""
    memory = "/dev/shm"
    usable = os.access(memory, os.W_OK) and not os.statvfs(memory).f_flag & os.ST_NOEXEC
    with TemporaryDirectory(prefix="netconf-unit-", dir=memory if usable else None) as directory:
        yield (Path(directory, str(number)) for number in count())


@pytest.fixture
def tmp_path(directories):
    """A directory of the test's own.

    For its own fixture of this name pytest lists the directories of all tests before, of which there are thousands.
    """
    path = next(directories)
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def held_file(tmp_path):
    """Where tunnels are held; none is."""
    return tmp_path / "var/held"


@pytest.fixture(autouse=True)
def elsewhere(held_file, tmp_path, monkeypatch):
    """What this machine has is neither used nor changed: tunnels that are held, polkit, sysctls of devices."""
    monkeypatch.setattr(held, "HELD", str(held_file))
    monkeypatch.setattr(settle, "HELD", str(held_file))
    monkeypatch.setattr(unprivileged, "PKEXEC", "/nowhere")
    monkeypatch.setattr(linkdown, "SYSCTLS", str(tmp_path / "sysctls"))


@pytest.fixture
def journal():
    """What tunnels, firewall and events were asked, in the order of all of them."""
    return []


@pytest.fixture
def links(monkeypatch):
    links = FakeLinks()
    monkeypatch.setattr(netlink, "read_links", links.read)
    monkeypatch.setattr(netlink, "read_link", links.get)
    return links


@pytest.fixture
def tunnels(monkeypatch, journal):
    tunnels = FakeTunnels(journal)
    monkeypatch.setattr("netconf_hooks.tunnels.load_tunnel", tunnels.load)
    return tunnels


@pytest.fixture
def place(monkeypatch):
    """Where guarded links are."""
    place = FakeNetwork()
    monkeypatch.setattr(fingerprint, "read_fingerprint", place.read_fingerprint)
    monkeypatch.setattr(netlink, "Netlink", lambda: place)
    monkeypatch.setattr(dhclient, "find_dhcp_servers", lambda device: place.servers)
    for module in (endpoints, portal):
        monkeypatch.setattr(module, "list_resolvers", lambda link: place.resolvers)
    monkeypatch.setattr(names, "look_up", place.look_up)
    monkeypatch.setattr(address, "list_networks", lambda device: place.networks)
    monkeypatch.setattr(nat64, "find_prefix", lambda view: place.nat64)
    return place


@pytest.fixture
def hosts_file(tmp_path, monkeypatch):
    """Stands for /etc/hosts."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n")
    real_pin, real_unpin = hosts.pin_names, hosts.unpin_names
    monkeypatch.setattr(hosts, "pin_names", lambda device, pins: real_pin(device, pins, str(path)))
    real_find = hosts.find_names
    monkeypatch.setattr(hosts, "find_names", lambda names: real_find(names, str(path)))
    monkeypatch.setattr(hosts, "unpin_names", lambda device: real_unpin(device, str(path)))
    return path


@pytest.fixture
def steps():
    return Steps()


@pytest.fixture
def firewalls(monkeypatch, journal, place, hosts_file, steps):
    """The machine's firewalls by name, instead of the real ones, which would close links of this machine."""
    names = ("nftables", "iptables-legacy", "iptables-nft")
    firewalls = {name: FakeFirewall(name, journal, steps) for name in names}
    firewalls["iptables"] = firewalls["iptables-nft"]  # this machine's

    def load(backend, *_, **__):
        firewall = firewalls["nftables" if backend == "auto" else backend]
        if firewall.broken:
            raise GuardError(firewall.broken)
        return firewall

    monkeypatch.setattr(firewall_module, "load_firewall", load)
    monkeypatch.setattr(firewall_module, "choose_firewall", lambda backend="auto", standing=(): load(backend))
    monkeypatch.setattr(ppp, "find_dialers", lambda device: [])
    return firewalls


@pytest.fixture
def firewall(firewalls):
    """The one that is used unless another is asked for."""
    return firewalls["nftables"]


@pytest.fixture
def messages(monkeypatch):
    """What is logged, instead of the machine's syslog."""
    messages = []
    for level in ("info", "warning", "error"):
        monkeypatch.setattr(log, level, lambda message, level=level: messages.append(f"{level}: {message}"))
    return messages


@pytest.fixture
def starts(monkeypatch):
    """When the hooks were started, one after the other: all of them run in this one process.

    Append to it for the time of the next hook, in clock ticks.
    """
    starts = []
    later = count(1000)
    monkeypatch.setattr(ifenv, "find_start", lambda: starts.pop() if starts else next(later))
    return starts


@pytest.fixture
def leave_no_alarm():
    """A hook sets an alarm that would end this process instead."""
    yield
    signal.alarm(0)
    log.set_verbose(False)


@pytest.fixture
def store(leave_no_alarm, starts, tmp_path, monkeypatch, links, tunnels, messages, firewalls, journal, steps):
    # Events are told, and the network is watched, elsewhere: here it would be by programs of this machine.
    def tell_events(store, **_):
        journal.extend(event.name for event in store.read_events())
        store.write_events(())

    monkeypatch.setattr(events, "tell_events", tell_events)
    monkeypatch.setattr(wake, "start_watcher", lambda: None)
    store = CountingStore(str(tmp_path / "run"), journal, steps)

    def permits(device):
        record = store.read_guard(device)
        return record is not None and record.verdict == "open"

    for each in firewalls.values():
        each.permits = permits
    return store


@pytest.fixture
def network(monkeypatch, links):
    """What is seen of the network, by test key: stands for the observers, which would look at this machine's."""
    seen = {}

    def observe(keys, link, deadline):
        assert deadline > monotonic()
        return {key: seen.get(key, Answer((), problem="nothing there")) for key in keys}

    monkeypatch.setattr(look, "observe_link", observe)
    # What a captive portal is announced as: "portal", a `PortalNotice`.
    monkeypatch.setattr(look, "_find_portal", lambda link, deadline, asks_routers: seen.get("portal"))
    monkeypatch.setattr(router, "has_default_route", lambda link: "gateway" in seen)
    monkeypatch.setattr(radios, "is_wireless", lambda device: device.startswith("wl"))
    monkeypatch.setattr(radios, "has_nl80211", lambda device: device.startswith("wl") and device != "wlstaging")
    monkeypatch.setattr(wireless, "is_wireless_open", lambda device, _: device.startswith("wl"))
    return seen


# The command


class SeenTunnel:
    """A tunnel that is what the test says, by its name: hidden, why its endpoints can't be known."""

    up = {}
    hidden = {}
    errors = {}
    boot = {}

    def __init__(self, kind, name):
        self.name = f"{kind} {name}"

    def check(self):
        if self.name in self.errors:
            raise TunnelError(self.errors[self.name])

    def is_up(self):
        self.check()
        return self.up.get(self.name, False)

    def boot_start(self):
        return self.boot.get(self.name, "")

    def endpoints(self):
        if self.name in self.hidden:
            raise TunnelError(self.hidden[self.name])
        return ()


@pytest.fixture(scope="session")
def real_ifquery():
    """ifquery itself, which only reads the file it is given."""
    if not shutil.which("ifquery"):
        assert os.environ.get("CI") != "true", "ifupdown is not installed"
        pytest.skip("ifupdown is not installed")


@pytest.fixture
def tunnel(monkeypatch):
    """The class of all tunnels that are only looked at; instead of this machine's."""
    for attribute in ("up", "errors", "boot", "hidden"):
        monkeypatch.setattr(SeenTunnel, attribute, {})
    monkeypatch.setattr(status, "load_tunnel", SeenTunnel)
    monkeypatch.setattr(check, "load_tunnel", SeenTunnel)
    monkeypatch.setattr(check_guard, "load_tunnel", SeenTunnel)
    return SeenTunnel


@pytest.fixture
def as_root(monkeypatch):
    """The command takes itself for root's, also if an ordinary user builds the package."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def as_user(monkeypatch):
    """The command takes itself for a user's, also if root runs the tests."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.fixture
def command(store, tunnel, network, monkeypatch, capfd):
    """A function that runs the command: it returns the exit status, and what was printed and complained of."""
    monkeypatch.setattr(cli, "Store", lambda: store)
    monkeypatch.setattr(check_guard, "choose_firewall", firewall_module.choose_firewall)
    for module in (check_guard, status):
        monkeypatch.setattr(module, "list_legacy_guards", lambda: ())
    monkeypatch.setattr(check_guard, "SYSFS", "/nowhere")
    monkeypatch.setattr(check, "read_names", lambda: pytest.fail("read the machine's interfaces"))
    monkeypatch.setattr(check, "run_ifquery", lambda _: pytest.fail("asked this machine's ifquery"))
    monkeypatch.setattr(check, "find_ifupdown", lambda: "ifupdown")
    for module in (explain, recording):
        for query in ("query_passes", "query_options"):
            monkeypatch.setattr(module, query, lambda *_: pytest.fail("asked this machine's ifquery"), raising=False)

    def run(*arguments):
        ended = cli.main(arguments)
        captured = capfd.readouterr()
        return ended, captured.out, captured.err

    # main() lets go of a standard output that failed; here it is pytest's.
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    yield run
    log.set_verbose(False)


@pytest.fixture
def at_office(store, links):
    """eth0 is at the office, where the tunnel was stopped."""
    store.prepare()
    store.write_interface(AT_OFFICE)
    store.write_tunnels({CORP: STOPPED})
    links.plug("eth0", 7)


@pytest.fixture
def office(network, store, links, firewall):
    """The store; eth0 came up in the office, and its guard is open."""
    network["gateway"] = OFFICE
    assert ifup(store, links) == 0
    assert_open(store, firewall)
    return store


@pytest.fixture
def cafe(network, store, links, firewall):
    """The store; eth0 came up in a cafe, and its guard is closed."""
    assert ifup(store, links) == 0
    assert_closed(store, firewall)
    return store
