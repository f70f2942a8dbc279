"""netconf-linkdown-routes: what is set, what is found, and what is put back."""

from pathlib import Path

import pytest
from situations import make_record

from netconf_hooks import linkdown, settle
from netconf_hooks.settle import Change
from netconf_hooks.stanzas.rules import RuleError, read_rules
from netconf_hooks.state import Pass

VPN = {"netconf-vpn": "unit x"}
KEEP = {**VPN, "netconf-linkdown-routes": "keep"}


class Machine:
    """Devices with their sysctls, as files."""

    def __init__(self, directory):
        self.directory = directory

    def add(self, device, index=7, families=linkdown.FAMILIES, value=0):
        path = self.directory / "devices" / device
        path.mkdir(parents=True, exist_ok=True)
        (path / "ifindex").write_text(f"{index}\n")
        for family in families:
            self.find(device, family).parent.mkdir(parents=True, exist_ok=True)
            self.find(device, family).write_text(f"{value}\n")

    def find(self, device, family):
        return self.directory / "sysctls" / family / "conf" / device / "ignore_routes_with_linkdown"

    def read(self, device):
        return "".join(self.find(device, family).read_text().strip() for family in linkdown.FAMILIES)


@pytest.fixture
def machine(tmp_path, monkeypatch, links, tunnels):
    machine = Machine(tmp_path)
    monkeypatch.setattr(linkdown, "DEVICES", str(tmp_path / "devices"))
    machine.add("eth0")
    return machine


def come_up(store, iface="eth0", options=VPN, index=7):
    store.prepare()
    record = make_record(iface, index, (Pass("inet", options, iface=iface),))
    settle.remember(store, Change(iface, record))


def go_down(store, iface="eth0"):
    settle.remember(store, Change(iface))


@pytest.mark.parametrize("found", ["0", "1"])
def test_set_at_ifup_and_put_back_at_ifdown(store, machine, found):
    machine.add("eth0", value=found)
    come_up(store)
    assert machine.read("eth0") == "11"
    come_up(store)  # ifup --force, another stanza, a refresh
    settle.decide_again(store)
    go_down(store)
    assert machine.read("eth0") == found * 2
    assert store.read_linkdown() == {} and not Path(store.linkdown).exists()


def test_it_is_put_back_once(store, machine):
    come_up(store)
    go_down(store)
    machine.add("eth0", value=1)  # the admin's own
    go_down(store)
    assert machine.read("eth0") == "11"


def test_the_last_interface_on_a_device_puts_it_back(store, machine):
    come_up(store)
    come_up(store, "eth0:1")
    go_down(store)
    assert machine.read("eth0") == "11"
    go_down(store, "eth0:1")
    assert machine.read("eth0") == "00"


@pytest.mark.parametrize("options", [KEEP, {"dns-domain": "example.com"}, {}])
def test_what_asks_for_nothing_gets_nothing(store, machine, options):
    come_up(store, options=options)
    assert machine.read("eth0") == "00"
    assert store.read_linkdown() == {}


def test_keep_written_later_puts_it_back(store, machine):
    come_up(store)
    come_up(store, options=KEEP)
    assert machine.read("eth0") == "00"


def test_one_interface_that_says_keep_counts_for_its_device(store, machine):
    machine.add("eth1", 8)
    come_up(store)
    come_up(store, "eth0:1", KEEP)
    come_up(store, "eth1", index=8)
    assert (machine.read("eth0"), machine.read("eth1")) == ("00", "11")
    go_down(store, "eth0:1")
    assert machine.read("eth0") == "11"


def test_a_wish_has_no_link(store, machine):
    machine.add("corp", 9)
    store.prepare()
    settle.remember(store, Change("corp", make_record("corp", 0, (Pass("inet", VPN, iface="corp"),), wish=True)))
    assert machine.read("corp") == "00"


def test_another_device_of_that_name_is_another_device(store, machine):
    come_up(store)
    machine.add("eth0", index=8, value=0)
    go_down(store)
    assert machine.read("eth0") == "00"
    machine.add("eth0", index=9, value=1)
    come_up(store, index=9)
    machine.add("eth0", index=10, value=0)
    come_up(store, index=10)
    go_down(store)
    assert machine.read("eth0") == "00"


def test_a_device_that_is_gone_is_forgotten(store, machine):
    come_up(store)
    sysctls = [machine.find("eth0", family) for family in linkdown.FAMILIES]
    for path in (machine.directory / "devices/eth0/ifindex", *sysctls):
        path.unlink()
    settle.decide_again(store)
    go_down(store)
    assert store.read_linkdown() == {}


def test_without_ipv6(store, machine):
    machine.add("eth1", 8, families=("ipv4",))
    come_up(store, "eth1", index=8)
    assert machine.find("eth1", "ipv4").read_text() == "1"
    assert not machine.find("eth1", "ipv6").exists()
    go_down(store, "eth1")
    assert machine.find("eth1", "ipv4").read_text() == "0"


def test_a_hook_that_was_killed_before_it_set_it_is_made_up_for(store, machine):
    come_up(store)
    machine.add("eth0")  # as if only the record had been written
    settle.decide_again(store)
    assert machine.read("eth0") == "11"
    go_down(store)
    assert machine.read("eth0") == "00"


def test_what_was_found_is_on_disk_before_it_is_changed(store, machine, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(linkdown, "_set_value", die)
        come_up(store)
    go_down(store)
    come_up(store)
    assert machine.read("eth0") == "11"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(linkdown, "_set_value", die)
        go_down(store)
    settle.decide_again(store)
    assert machine.read("eth0") == "00"


def test_what_can_not_be_written_is_logged_once_and_harms_nothing(store, machine, monkeypatch, messages):
    def refuse(path, mode="r"):
        if "w" in mode and "ignore_routes" in str(path):
            raise OSError(30, "Read-only file system")
        return open(path, mode)

    monkeypatch.setattr(linkdown, "open", refuse, raising=False)
    come_up(store)
    settle.decide_again(store)
    told = [message for message in messages if "linkdown" in message]
    assert told == [
        f"info: eth0: netconf-linkdown-routes: {machine.find('eth0', family)}: Read-only file system"
        for family in linkdown.FAMILIES
    ]
    go_down(store)
    assert machine.read("eth0") == "00"


@pytest.mark.parametrize("content", ["nonsense", "netconf-hooks 1\neth0 7\n"])
def test_a_damaged_record_is_told_and_made_anew(store, machine, messages, content):
    come_up(store)
    Path(store.linkdown).write_text(content)
    settle.decide_again(store)
    assert len([message for message in messages if "can't be restored" in message]) == 1
    assert store.read_linkdown()["eth0"].found == ("1", "1")


# The option


def test_ignore_is_the_default():
    assert read_rules(VPN).linkdown_routes == "ignore"
    assert read_rules(KEEP).linkdown_routes == "keep"
    assert read_rules({"netconf-linkdown-routes": "keep\nignore"}).linkdown_routes == "ignore"


def test_of_several_stanzas_the_last_that_has_it_counts():
    assert read_rules(KEEP, VPN).linkdown_routes == "keep"
    assert read_rules(KEEP, {"netconf-linkdown-routes": "ignore"}, VPN).linkdown_routes == "ignore"


@pytest.mark.parametrize("value", ["yes", "keep ignore", "", "'keep"])
def test_a_value_that_can_not_be_read(value):
    rules = read_rules({"netconf-linkdown-routes": value})
    assert rules.linkdown_routes == "ignore"
    (error,) = rules.errors
    assert isinstance(error, RuleError) and error.option == "netconf-linkdown-routes"
