"""A machine that tests can plug and unplug: fakes where hooks and command meet kernel, network, programs and syslog.

The real ones would start programs, need interfaces of this machine, and change it.
"""

from time import monotonic

import pytest

from netconf_hooks import apply, locate, log
from netconf_hooks.observe import Answer, netlink, router, wireless
from netconf_hooks.observe.netlink import IFF_LOWER_UP, IFF_UP, LinkStatus
from netconf_hooks.state import Store
from netconf_hooks.tunnels import TunnelError


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
    """The machine's tunnels: keeps what was asked of them, in order; `broken` and `during` make it interesting."""

    def __init__(self):
        self.asked = []
        self.broken = {}
        self.during = {}

    def load(self, kind, name):
        """As tunnels.load_tunnel."""
        return FakeTunnel(self, kind, name)

    def ask(self, what):
        """Take down what was asked; do what is to happen meanwhile; fail where that is wished."""
        self.asked.append(what)
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


@pytest.fixture
def links(monkeypatch):
    links = FakeLinks()
    monkeypatch.setattr(netlink, "read_links", links.read)
    monkeypatch.setattr(netlink, "read_link", links.get)
    return links


@pytest.fixture
def tunnels(monkeypatch):
    tunnels = FakeTunnels()
    monkeypatch.setattr("netconf_hooks.tunnels.load_tunnel", tunnels.load)
    return tunnels


@pytest.fixture
def messages(monkeypatch):
    """What is logged, instead of the machine's syslog."""
    messages = []
    for level in ("info", "warning", "error"):
        monkeypatch.setattr(log, level, lambda message, level=level: messages.append(f"{level}: {message}"))
    return messages


@pytest.fixture
def store(tmp_path, monkeypatch, links, tunnels, messages):
    # Events are told, and the network is watched, elsewhere: here it would be by programs of this machine.
    monkeypatch.setattr(apply, "tell_events", lambda store: store.write_events(()))
    monkeypatch.setattr(apply, "_start_watcher", lambda: None)
    return Store(str(tmp_path / "run"))


@pytest.fixture
def network(monkeypatch, links):
    """What is seen of the network, by test key: stands for the observers, which would look at this machine's."""
    seen = {}

    def observe(keys, link, deadline):
        assert deadline > monotonic()
        return {key: seen.get(key, Answer((), problem="nothing there")) for key in keys}

    monkeypatch.setattr(locate, "observe_link", observe)
    monkeypatch.setattr(router, "has_default_route", lambda link: "gateway" in seen)
    monkeypatch.setattr(wireless, "is_wireless_open", lambda device, _: device.startswith("wl"))
    return seen
