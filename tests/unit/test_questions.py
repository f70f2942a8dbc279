"""import netconf_hooks: what an admin's own program gets, in an interpreter of its own, and what it is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from office import AT_OFFICE, OFFICE
from situations import make_record

import netconf_hooks
from netconf_hooks import api
from netconf_hooks.observation import Answer
from netconf_hooks.place import Place
from netconf_hooks.stanzas.interfaces import InterfacesError
from netconf_hooks.state import Pass
from netconf_hooks.system import netlink

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def machine(store, links, network, monkeypatch):
    """The store, links and network of the test's own, without a stanza in any file."""

    def query_options(name):
        raise InterfacesError(f"{name}: ifquery: unknown interface {name}")

    monkeypatch.setattr(api, "Store", lambda: store)
    monkeypatch.setattr(api, "query_passes", lambda name: [("inet", query_options(name))])
    passes = lambda name: [("inet", query_options(name))]  # noqa: E731
    monkeypatch.setattr("netconf_hooks.commands.recording.query_passes", passes)
    store.prepare()
    links.plug("eth0", 7)
    return store


def test_the_place_by_the_recorded_rules(machine, network):
    machine.write_interface(AT_OFFICE)
    assert netconf_hooks.locate("eth0") == Place()  # what is so now, not what was recorded
    network["gateway"] = Answer(("192.0.2.1",))
    assert netconf_hooks.locate("eth0") == Place("office", OFFICE, "hint")
    network["gateway"] = Answer((), pending=True)
    assert netconf_hooks.locate("eth0") == Place(undecided=True)


def test_the_place_by_the_stanza_of_an_interface_that_is_not_up(machine, network, monkeypatch):
    network["gateway"] = Answer(("192.0.2.1",))
    monkeypatch.setattr(
        api, "query_passes", lambda name: [("inet", {"netconf-location": f"{name} gateway=192.0.2.1"})]
    )
    assert netconf_hooks.locate("eth0").location == "eth0"


def test_the_place_by_rules_of_the_programs_own(machine, network):
    network["gateway"] = Answer(("192.0.2.1",))
    machine.write_interface(AT_OFFICE)
    assert netconf_hooks.locate("eth0", {"netconf-location": "mine gateway=192.0.2.1\nx y"}).location == "mine"
    assert netconf_hooks.locate("eth0", {}) == Place()


def test_what_is_seen(machine, network):
    network["gateway"] = Answer(("192.0.2.1", "fe80::1"))
    seen = netconf_hooks.observe("eth0")
    assert seen.list_values("gateway") == ("192.0.2.1", "fe80::1")
    assert seen.list_values("ssid") == seen.list_values("peer") == ()
    assert (seen.iface, seen.routable, seen.wireless) == ("eth0", True, "")


def test_what_is_seen_of_a_wireless_link(machine, links):
    links.plug("wlan0", 8)
    assert netconf_hooks.observe("wlan0", timeout=1.0).wireless == "open"


def test_what_can_not_be_told_is_an_error_of_one_type(machine, monkeypatch):
    with pytest.raises(netconf_hooks.NetworkError, match="^eth9: no such interface$"):
        netconf_hooks.observe("eth9")
    with pytest.raises(netconf_hooks.NetworkError, match="unknown interface eth9"):
        netconf_hooks.locate("eth9")
    machine.write_interface(make_record("corp", 0, (Pass("inet", {"netconf-uplink": "eth0"}),), wish=True))
    with pytest.raises(netconf_hooks.NetworkError, match="corp: a wish is on no network"):
        netconf_hooks.locate("corp")
    Path(machine.interfaces, "eth0").write_text("rubbish\n")
    for function in (netconf_hooks.locate, netconf_hooks.observe):
        with pytest.raises(netconf_hooks.NetworkError, match="eth0"):
            function("eth0")

    def refuse(device):
        raise netlink.NetlinkError(97)

    monkeypatch.setattr(netlink, "read_link", refuse)
    with pytest.raises(netconf_hooks.NetworkError, match="Address family not supported"):
        netconf_hooks.locate("eth0", {"netconf-location": OFFICE})


@pytest.mark.parametrize("first", [
    "pass",
    "import netconf_hooks.settle",
    "from netconf_hooks import locate, observe",
    "import netconf_hooks.evidence.dns",
])
def test_who_imports_what_first_makes_no_difference(first):
    program = (
        f"import sys; sys.path[:0] = [{str(CHECKOUT)!r}]\n{first}\nimport netconf_hooks\n"
        "place = netconf_hooks.locate('lo', {'netconf-location': 'here interface=lo'})\n"
        "print(place.location, netconf_hooks.observe('lo').list_values('interface'))\n"
        "from netconf_hooks import api, locate\n"
        "print(locate is api.locate, locate('lo', {}).undecided, hasattr(netconf_hooks, 'nonsense'))\n"
    )
    argv = [sys.executable, "-I", "-c", program]
    process = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert (process.stderr, process.stdout) == ("", "here ('lo',)\nTrue False False\n")
