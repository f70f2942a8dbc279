"""A guarded link while a mapping looks at it; ifquery's answers are made up."""

import pytest

from netconf_hooks.mappings import guessnet, mapping

from netconf_hooks.guard import early as early_module
from netconf_hooks.guard.early import EarlyGuard, is_any_guarded
from netconf_hooks.guard.firewall import GuardError, nftables
from netconf_hooks.stanzas import interfaces
from netconf_hooks.stanzas.interfaces import InterfacesError

FILE = """\
iface roaming inet dhcp
    netconf-guard unless home
    netconf-location home gateway=192.0.2.1
iface home inherits roaming
iface cafe inherits home
iface plain inet dhcp
    netconf-vpn openvpn corp
    netconf-guard-allow udp/123
iface never inet dhcp
    netconf-guard no
iface numbered inet dhcp
    netconf-guard-2 yes
iface one inherits two
iface two inherits one
iface bare inet dhcp
    netconf-vpn openvpn corp
"""

OPTIONS = {
    "roaming": {"netconf-guard": "unless home"}, "home": {"netconf-guard": "unless home"},
    "cafe": {"netconf-guard": "unless home"}, "never": {"netconf-guard": "no"}, "numbered": {"netconf-guard-2": "yes"},
    "plain": {"netconf-vpn": "openvpn corp", "netconf-guard-allow": "udp/123"},
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """The stanzas that ifquery was asked for."""
    asked = []

    def query_stanzas(names, path):
        asked.append(tuple(names))
        return {name: OPTIONS[name] for name in names}

    monkeypatch.setattr(interfaces, "query_stanzas", query_stanzas)
    return asked


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "interfaces"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize("stanzas, guarded, queried", [
    (["home"], True, [("home",)]), (["plain", "cafe", "cafe"], True, [("plain", "cafe")]),
    (["never"], False, [("never",)]),
    (["plain"], False, [("plain",)]), (["bare"], False, []),
    (["numbered"], True, [("numbered",)]), (["one", "nothing", ""], False, []),
    ([], False, []),
])
def test_whether_a_stanza_asks_for_a_guard(asked, file, stanzas, guarded, queried):
    assert is_any_guarded(stanzas, file) is guarded
    assert asked == queried


def test_the_stanzas_are_in_the_machines_file_unless_said(asked, file, firewall_alone, monkeypatch):
    monkeypatch.setattr(interfaces, "FILE", file)
    assert is_any_guarded(["home"])
    guard = EarlyGuard("eth0", "eth0", ["home"], 13.0)
    guard.close()
    assert firewall_alone.done == [("close", "eth0", 13.0)]


def test_what_was_not_closed_is_not_opened(firewall):
    EarlyGuard("eth0", "eth0", ["home"], 13.0).lift()
    assert firewall.done == []


def test_a_stanza_that_can_not_be_read_asks_for_one(monkeypatch, file, caplog):
    def query_stanzas(names, path):
        raise InterfacesError("no ifquery")

    monkeypatch.setattr(interfaces, "query_stanzas", query_stanzas)
    monkeypatch.setattr(early_module.log, "error", said := [].append)
    assert is_any_guarded(["home"], file)
    assert said.__self__ == ["unknown whether home should be guarded: no ifquery"]


class FakeFirewall:
    """nftables, of which only this is asked."""

    done: list = []
    problem = ""

    def close_early(self, device, seconds):
        self._do("close", device, seconds)

    def lift_early(self, device):
        self._do("lift", device)

    def _do(self, *what):
        if self.problem:
            raise GuardError(self.problem)
        self.done.append(what)


@pytest.fixture
def firewall_alone(monkeypatch):
    """nftables; whether there is a guard is found out."""
    monkeypatch.setattr(nftables, "Firewall", FakeFirewall)
    monkeypatch.setattr(FakeFirewall, "done", [])
    return FakeFirewall


@pytest.fixture
def firewall(firewall_alone, monkeypatch):
    """nftables; the stanza home asks for a guard."""
    monkeypatch.setattr(early_module, "is_any_guarded", lambda stanzas, path: "home" in stanzas)
    return FakeFirewall


def test_it_is_closed_and_opened_again(firewall):
    guard = EarlyGuard("eth0:1", "eth0", ["cafe", "home"], 13.0)
    guard.close()
    assert firewall.done == [("close", "eth0", 13.0)]
    guard.lift()
    guard.lift()
    assert firewall.done == [("close", "eth0", 13.0), ("lift", "eth0")]


def test_without_a_guard_nothing_is_done(firewall):
    guard = EarlyGuard("eth0", "eth0", ["cafe"], 13.0)
    guard.close()
    guard.lift()
    assert firewall.done == []


def test_what_can_not_be_closed_is_told(firewall, monkeypatch):
    monkeypatch.setattr(early_module.log, "error", said := [].append)
    monkeypatch.setattr(firewall, "problem", "no nftables")
    guard = EarlyGuard("eth0", "eth0", ["home"], 13.0)
    guard.close()
    guard.lift()
    assert said.__self__ == [
        "eth0: netconf-guard: traffic can leave while the mapping looks at the link: no nftables"
    ]
    monkeypatch.setattr(firewall, "problem", "")
    guard.close()
    monkeypatch.setattr(firewall, "problem", "busy")
    guard.lift()
    assert said.__self__[1:] == ["eth0: netconf-guard: eth0 stays closed for 13 s: busy"]


class FakeKernel:
    """As in test_mapping: a link that is down."""

    up = False

    def __call__(self):
        return self

    __enter__ = __call__

    def __exit__(self, *_):
        pass

    def get_link(self, device):
        flags = mapping.IFF_UP if self.up else 0
        return mapping_link(flags)

    def ask(self, kind, flags, body):
        self.up = not self.up
        FakeFirewall.done.append("up" if self.up else "down")


def mapping_link(flags):
    from netconf_hooks.system.netlink import LinkStatus

    return LinkStatus(7, "eth0", flags, bool(flags), bool(flags), "02:00:00:00:00:01")


def test_the_link_is_up_only_while_it_is_closed(firewall, monkeypatch):
    kernel = FakeKernel()
    monkeypatch.setattr(mapping, "Netlink", kernel)
    early = EarlyGuard("eth0", "eth0", ["home"], 13.0)
    with mapping.RaisedLink("eth0", True, early):
        assert firewall.done == [("close", "eth0", 13.0), "up"]
    assert firewall.done[2:] == ["down", ("lift", "eth0")]
    firewall.done.clear()
    kernel.up = True
    with mapping.RaisedLink("eth0", True, early):
        pass
    kernel.up = False
    with mapping.RaisedLink("eth0", False, early):
        pass
    assert firewall.done == []


def test_which_stanzas_a_mapping_may_choose(firewall, monkeypatch):
    made = []

    class Early(EarlyGuard):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(mapping, "Netlink", FakeKernel())
    monkeypatch.setattr(mapping, "EarlyGuard", Early)
    monkeypatch.setattr(guessnet, "EarlyGuard", Early)
    assert mapping.choose_stanza("eth0:1", "a carrier=no\nb carrier=no\ndefault: c\ntimeout: 2\n") == "c"
    assert made == [("eth0:1", "eth0", ("a", "b", "c", "eth0:1"), mapping.CARRIER_PATIENCE + 2 + early_module.SLACK)]
