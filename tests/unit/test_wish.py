"""Wishes: which links are tried, what fails by name, and who takes down what was raised."""

from pathlib import Path
from time import sleep

import pytest
from situations import make_record

from netconf_hooks import hook, wish

from netconf_hooks.stanzas import interfaces
from netconf_hooks.stanzas.ifenv import read_environment
from netconf_hooks.state import Pass, TunnelState
from netconf_hooks.wish import WishError, end_wish, fulfil_wish, is_under_boot

FIXTURES = Path(__file__).parent / "fixtures/cgroups"

OPTIONS = {"IF_NETCONF_VPN": "openvpn corp", "IF_NETCONF_UPLINK": "eth0 wlan0"}


class Uplinks:
    """A machine whose links lead to the internet or not; `done` is what was asked of ifupdown."""

    def __init__(self):
        self.done = []
        self.leading = set()
        self.up = set()
        self.broken = {}
        self.unplugged = set()
        self.environments = []

    def has_route(self):
        return bool(self.up & self.leading)

    def run(self, argv, timeout, variables=None, leaves=False):
        """As programs.run."""
        assert leaves == (argv[0] != "ifquery"), "a daemon that ifup leaves would be ended by SIGPIPE"
        self.environments.append(variables)
        command, *options, link = argv
        if command == "ifquery":
            return wish_result("".join(f"{name}={name}\n" for name in self.up) if link == "--state" else "")
        self.done.append(f"{command} {link}")
        if command == "ifup":
            if link in self.broken:
                return wish_result(self.broken[link], 1)
            if link in self.up:
                return wish_result(f"ifup: interface {link} already configured\n")
            self.up.add(link)
        else:
            self.up.discard(link)
        return wish_result("")


def wish_result(output, status=0):
    from netconf_hooks.system.programs import Result

    return Result(status, output)


@pytest.fixture
def uplinks(monkeypatch):
    uplinks = Uplinks()
    monkeypatch.setattr(wish, "run", uplinks.run)
    monkeypatch.setattr(interfaces, "run", uplinks.run)
    monkeypatch.setattr(wish, "has_working_default_route", uplinks.has_route)
    monkeypatch.setattr(
        wish, "_find_no_carrier", lambda link: f"{link} has no carrier" if link in uplinks.unplugged else ""
    )
    monkeypatch.setattr(wish, "is_under_boot", lambda: False)
    monkeypatch.setattr(wish, "_wait_for_tunnel", lambda rule, store: None)
    return uplinks


def make_wish(store, environ=None, iface="corp", **options):
    """Do what the pre-up hook of a wish does."""
    invocation = read_environment("pre-up", {"IFACE": iface, "ADDRFAM": "inet", **OPTIONS, **options})
    fulfil_wish(invocation, store, environ or {})


def raised(store, iface="corp"):
    """Return what the record says was raised for a wish."""
    return store.read_interface(iface).raised


# The uplinks


def test_with_a_default_route_nothing_is_raised(store, links, tunnels, uplinks):
    uplinks.leading = uplinks.up = {"ppp0"}
    make_wish(store)
    assert uplinks.done == []
    assert tunnels.asked == ["start openvpn corp"]
    assert store.read_interface("corp").wish and raised(store) == ()


def test_they_are_tried_in_their_order_until_one_leads_to_the_internet(store, links, tunnels, uplinks):
    uplinks.leading = {"wlan0", "wwan0"}
    make_wish(store, IF_NETCONF_UPLINK="eth0 wlan0 wwan0")
    assert uplinks.done == ["ifup eth0", "ifdown eth0", "ifup wlan0"]
    assert raised(store) == ("wlan0",)


def test_nothing_plugged_in_is_passed_over_and_a_failing_ifup_taken_down(store, links, tunnels, uplinks, messages):
    uplinks.unplugged = {"eth0"}
    uplinks.broken = {"wlan0": "no such network\nFailed to bring up wlan0.\n"}
    with pytest.raises(WishError) as caught:
        make_wish(store)
    assert str(caught.value) == (
        'netconf-uplink "eth0 wlan0": no way to the internet: eth0 has no carrier; '
        "ifup wlan0 failed: Failed to bring up wlan0."
    )
    assert "ifup eth0" not in uplinks.done
    assert uplinks.up == set()
    assert store.read_interface("corp") is None
    assert tunnels.asked == []


def test_what_somebody_else_has_up_is_left_up(store, links, tunnels, uplinks, messages):
    uplinks.up = {"eth0"}
    uplinks.leading = {"wlan0"}
    make_wish(store)
    assert "ifdown eth0" not in uplinks.done
    assert raised(store) == ("wlan0",)
    end_wish(store.read_interface("corp"), store, {})
    assert uplinks.up == {"eth0"}


def test_a_nested_ifup_is_told_what_is_being_configured_and_nothing_else(store, links, tunnels, uplinks):
    uplinks.leading = {"eth0"}
    make_wish(store, {"IFUPDOWN_corp": "parent", "IF_NETCONF_UPLINK": "eth0", "SECRET": "x"})
    assert {"IFUPDOWN_corp": "parent"} in uplinks.environments
    assert all(variables in (None, {"IFUPDOWN_corp": "parent"}) for variables in uplinks.environments)


# What is refused


@pytest.mark.parametrize("options, environ, message", [
    ({"IF_NETCONF_UPLINK": "corp"}, {}, 'netconf-uplink "corp": corp can\'t be its own uplink'),
    ({}, {"IFUPDOWN_eth0": "1"}, 'netconf-uplink "eth0": it is being configured'),
    ({"IF_NETCONF_VPN": ""}, {}, "netconf-uplink: expected a netconf-vpn line beside it that can be read"),
    ({"IF_NETCONF_VPN": "openvpn corp unles x"}, {}, "netconf-uplink: expected a netconf-vpn line beside it"),
])
def test_what_can_not_end_well_is_refused_before_anything_is_done(
    store, links, tunnels, uplinks, messages, options, environ, message
):
    with pytest.raises(WishError) as caught:
        make_wish(store, environ, **options)
    assert str(caught.value).startswith(message)
    assert (uplinks.done, tunnels.asked) == ([], [])
    assert store.read_interfaces(pytest.fail) == ()


@pytest.mark.parametrize("error", [WishError("not connected"), KeyboardInterrupt(), OSError("disk")])
def test_a_tunnel_that_does_not_connect_takes_all_down_again(store, links, tunnels, uplinks, monkeypatch, error):
    def fail(rule, store):
        raise error

    monkeypatch.setattr(wish, "_wait_for_tunnel", fail)
    uplinks.leading = {"eth0"}
    with pytest.raises(type(error)):
        make_wish(store)
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]
    assert uplinks.done == ["ifup eth0", "ifdown eth0"]
    assert store.read_interface("corp") is None


@pytest.fixture
def waiting(monkeypatch, tunnels):
    """A machine with a default route, on which a wish waits for its tunnel; but nobody waits long."""
    monkeypatch.setattr(wish, "has_working_default_route", lambda: True)
    monkeypatch.setattr(wish, "is_under_boot", lambda: False)
    monkeypatch.setattr(wish, "load_tunnel", tunnels.load)
    monkeypatch.setattr(wish, "CONNECT_TIMEOUT", 0.3)
    tunnels.up["openvpn corp"] = False
    return tunnels


@pytest.mark.parametrize("seen, message", [
    ({}, "not connected after 0.3 s"),
    ({"words": "no answer from 192.0.2.1:1194/udp"}, "not connected after 0.3 s: no answer from 192.0.2.1:1194/udp"),
    ({"words": "exit status 1", "failures": 2}, "not connected after 0.3 s: exit status 1"),
    ({"words": "exit status 1", "failures": 1, "due": 9.0}, "not connected after 0.3 s: exit status 1"),
    ({"words": "exit status 1", "failures": 2, "due": 9.0}, "not connected: exit status 1"),
    ({"words": "the server refused the password", "refusals": 1}, "not connected: the server refused the password"),
])
def test_a_wish_that_fails_says_what_the_watcher_knows(store, links, waiting, messages, monkeypatch, seen, message):
    monkeypatch.setattr(
        wish, "sleep", lambda seconds: store.write_states([TunnelState("openvpn", "corp", **seen)]) or sleep(seconds)
    )
    with pytest.raises(WishError) as caught:
        make_wish(store)
    assert str(caught.value) == f'netconf-vpn "openvpn corp": {message}'
    assert waiting.asked == ["start openvpn corp", "stop openvpn corp"]


@pytest.mark.parametrize("spoil, message", [
    (lambda store: store.write_tunnels({}), "not wanted any more: the interface was taken down meanwhile"),
    (lambda store: Path(store.tunnels).write_text("?"), "tunnels: .*"),
])
def test_a_wish_whose_tunnel_is_recorded_no_more_fails_with_a_reason(
    store, links, waiting, messages, monkeypatch, spoil, message
):
    """An ifdown ended it while it was waiting, or something has destroyed the record."""
    monkeypatch.setattr(wish, "sleep", lambda seconds: spoil(store))
    with pytest.raises(WishError, match=f'^netconf-vpn "openvpn corp": .*{message}$'):
        make_wish(store)


def test_attempts_of_before_do_not_count(store, links, waiting, messages):
    states = [TunnelState("openvpn", "corp", words="exit status 1", failures=9, refusals=3)]
    waiting.during["start openvpn corp"] = lambda: store.write_states(states)
    with pytest.raises(WishError, match="not connected after 0.3 s: exit status 1"):
        make_wish(store)


def test_a_wish_ends_when_its_tunnel_is_connected(store, links, waiting, messages):
    waiting.during["start openvpn corp"] = lambda: waiting.up.update({"openvpn corp": True})
    make_wish(store)
    assert waiting.asked == ["start openvpn corp"]


# Two wishes


def test_the_last_wish_takes_the_link_down(store, links, tunnels, uplinks):
    uplinks.leading = {"eth0"}
    make_wish(store)
    make_wish(store, iface="two", IF_NETCONF_VPN="openvpn two")
    assert (raised(store), raised(store, "two")) == (("eth0",), ())
    end_wish(store.read_interface("corp"), store, {})
    assert uplinks.up == {"eth0"}
    assert raised(store, "two") == ("eth0",)
    end_wish(store.read_interface("two"), store, {})
    assert uplinks.up == set()
    assert store.read_interfaces(pytest.fail) == ()
    assert tunnels.asked[-2:] == ["stop openvpn corp", "stop openvpn two"]


def test_the_end_of_a_wish_leaves_its_tunnel_to_the_other_rules(store, links, tunnels, uplinks):
    from netconf_hooks.settle import Change, remember

    links.plug("eth0", 7)
    uplinks.leading = uplinks.up = {"eth0"}
    make_wish(store)
    rules = (Pass("inet", {"netconf-vpn": "openvpn corp"}),)
    remember(store, Change("eth0", make_record("eth0", 7, rules, routable=True)))
    end_wish(store.read_interface("corp"), store, {})
    assert tunnels.asked == ["start openvpn corp"]


@pytest.mark.parametrize("looked", [True, False])
@pytest.mark.parametrize("phase", ["down", "post-down"])
def test_a_hook_of_a_killed_ifdown_ends_no_newer_wish(
    store, links, tunnels, uplinks, starts, monkeypatch, phase, looked
):
    """looked: whether the new ifup has begun before the hook looks at the record, or only after."""
    uplinks.leading = {"eth0"}
    make_wish(store)
    make_wish(store)  # the next ifup, after the ifdown was killed
    before = store.read_interface("corp")
    assert before.raised == ("eth0",)
    if not looked:
        monkeypatch.setattr(hook, "is_overtaken", lambda *_: False)
    starts.append(before.passes[0].began)
    hook.run(read_environment(phase, {"IFACE": "corp", "ADDRFAM": "inet", **OPTIONS}), store)
    assert store.read_interface("corp") == before
    assert uplinks.up == {"eth0"} and "stop openvpn corp" not in tunnels.asked
    hook.run(read_environment(phase, {"IFACE": "corp", "ADDRFAM": "inet", **OPTIONS}), store)
    assert store.read_interface("corp") is None and uplinks.up == set()


# At boot


def captured():
    """Return the captured /proc/PID/cgroup texts, each with whether a wish may wait there."""
    return sorted(FIXTURES.glob("*"))


@pytest.mark.parametrize("path", captured(), ids=lambda path: path.name)
def test_who_runs_under_the_units_of_boot(path, tmp_path):
    header, _, text = path.read_text(encoding="ascii").partition("\n")
    assert header.startswith("# ")
    copy = tmp_path / "cgroup"
    copy.write_text(text)
    assert is_under_boot(str(copy)) is path.name.startswith(("networking", "ifup@"))


def test_without_cgroups_it_is_not_boot(tmp_path):
    assert len(captured()) >= 4
    assert is_under_boot(str(tmp_path / "nowhere")) is False


def test_at_boot_it_asks_and_leaves(store, links, tunnels, uplinks, messages, monkeypatch):
    monkeypatch.setattr(wish, "is_under_boot", lambda: True)
    monkeypatch.setattr(wish, "_wait_for_tunnel", lambda rule, store: pytest.fail("it waits"))
    uplinks.unplugged = {"eth0", "wlan0"}
    make_wish(store)
    assert tunnels.asked == ["start openvpn corp"]
    assert any("no way to the internet" in message and "started all the same" in message for message in messages)
    assert store.read_interface("corp").wish
