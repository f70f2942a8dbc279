"""Interfaces with several stanzas: all options count together, for as long as any of them is up."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .attacks.capture import Capture, find_leaks
from .guarded import HINTS, LO, judge, list_ruleset, make_allowed, make_stanza, read_guard, send_everything
from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, HOME
from .stanzas import find_records, find_tunnels, read_status, wait_for_no_tunnel, wait_for_tunnel
from .waiting import wait_until

# None of this depends on the DHCP client.
pytestmark = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])

GUARD = "guard unless home-lan"
VPN = "vpn openvpn corp unless home-lan"
RULES = (HINTS, VPN, GUARD)
STATIC = "iface eth0 inet static\n    address 192.0.2.42/24\n"
STATIC6 = f"iface eth0 inet6 static\n    address {CAFE.prefix6}77/64\n    dad-attempts 0\n"
ALLOWED = make_allowed(CAFE)


@pytest.fixture
def capture(lab: Lab) -> Iterator[Capture]:
    """What leaves the laptop by its cable, seen from outside."""
    with Capture(lab.network.wire_namespace) as capture:
        yield capture


def write(lab: Lab, *stanzas: str) -> None:
    """Write the laptop's /etc/network/interfaces."""
    lab.laptop.write("/etc/network/interfaces", LO + "\n".join(stanzas))


def send(lab: Lab, capture: Capture) -> None:
    """Let the laptop send in the clear, and raise AssertionError where anything of it is on the wire."""
    send_everything(lab.laptop, CAFE)
    lab.laptop.pings("192.0.2.43")
    lab.laptop.pings(f"{CAFE.prefix6}1")
    judge(capture, ALLOWED)


def list_passes(lab: Lab, iface: str = "eth0") -> list[tuple[object, object, object]]:
    """Return what ``netconf-hooks status`` says of the passes of an interface: stanza, family, reached."""
    passes = read_status(lab)["interfaces"][iface]["passes"]
    assert isinstance(passes, list)
    return [(each["logical"], each["family"], each["reached"]) for each in passes]


# Several stanzas: of which families and methods, and which of them has which options.
MATRIX = {
    "a second inet stanza without options": [make_stanza(*RULES), STATIC],
    "options in the last only": [
        "iface eth0 inet manual\n", make_stanza(*RULES, head="iface eth0 inet dhcp"), STATIC6
    ],
    "inet, inet, inet6, inet6": [
        make_stanza(*RULES), STATIC, STATIC6, "iface eth0 inet6 auto\n"
    ],
    "a location in one, its guard in another": [
        make_stanza(HINTS), make_stanza(GUARD, VPN, head=STATIC.rstrip("\n"), locations="")
    ],
    "the same guard in all": [
        make_stanza(*RULES), make_stanza(*RULES, head=STATIC.rstrip("\n")), make_stanza(*RULES, head=STATIC6.rstrip())
    ],
    "twenty": [
        make_stanza(*RULES),
        *(f"iface eth0 inet static\n    address 198.51.100.{number}/32\n" for number in range(1, 20)),
    ],
}


@pytest.mark.parametrize("stanzas", MATRIX.values(), ids=MATRIX)
def test_all_stanzas_count_together(lab: Lab, capture: Capture, stanzas: list[str]) -> None:
    laptop = lab.laptop
    write(lab, *stanzas)
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_for_tunnel(lab)
    assert read_guard(lab) == "closed"
    send(lab, capture)
    # A second run replaces the passes of the first one by itself, and leaves no moment without a guard.
    laptop.ifup("--force", "eth0", check=False)
    assert read_guard(lab) == "closed"
    send(lab, capture)
    laptop.ifdown("eth0")
    assert not find_leaks(capture.read(), ALLOWED)
    assert list_ruleset(laptop) == "" and find_records(lab) == [] and find_tunnels(lab) == []


def is_open(lab: Lab) -> bool:
    """Whether the firewall lets everything through eth0: there is no table, or the set for that has an element."""
    laptop = lab.laptop
    tables = laptop.run(["nft", "list", "tables"]).stdout
    if "inet netconf-guard" not in tables:
        return True
    listed = json.loads(laptop.run(["nft", "-j", "list", "set", "inet", "netconf-guard", "open-eth0"]).stdout)
    (found,) = (entry["set"] for entry in listed["nftables"] if "set" in entry)
    return bool(found.get("elem"))


def compare(lab: Lab, state: str) -> None:
    """Assert what ``status`` says of the guard, and that the firewall does the same."""
    wait_until(lambda: (read_guard(lab) or "none") == state, f"the guard to be {state}")
    assert is_open(lab) == (state != "closed")


def test_status_says_what_the_firewall_does(lab: Lab) -> None:
    """Through ifup, ifup --force, other stanzas raised over it, edited ones, and ifdown."""
    laptop = lab.laptop
    first, second = make_stanza(*RULES), make_stanza(HINTS, GUARD, head=STATIC.rstrip("\n"), locations="")
    lab.plug("home")
    write(lab, first, second)
    laptop.ifup("eth0")
    compare(lab, "open")
    assert list_passes(lab) == [("eth0", "inet", True), ("eth0", "inet", True)]
    # Another stanza, which does not agree.
    write(lab, first, second, "iface strict inet manual\n    netconf-guard yes\n")
    laptop.ifup("--force", "eth0=strict")
    compare(lab, "closed")
    laptop.ifdown("eth0")
    compare(lab, "none")
    assert find_records(lab) == []
    # Edited: the last stanza asks for more.
    write(lab, first, second.replace("unless home-lan", "yes"))
    laptop.ifup("eth0")
    compare(lab, "closed")
    write(lab, first, second)
    laptop.ifup("--force", "eth0", check=False)
    compare(lab, "closed" if len([each for each in list_passes(lab) if not each[2]]) else "open")
    laptop.ifdown("--force", "eth0")
    compare(lab, "none")
    laptop.ifup("eth0")
    compare(lab, "open")
    lab.plug("cafe")
    compare(lab, "closed")
    laptop.ifdown("eth0")
    compare(lab, "none")


def test_what_a_forced_ifup_does_not_reach_stays_in_force(lab: Lab, capture: Capture) -> None:
    """The address is there already, so that ifupdown gives up after the first stanza."""
    first = "iface eth0 inet static\n    address 192.168.3.50/24\n    gateway 192.168.3.1\n"
    locations = f"    netconf-location home-lan gateway-mac={HOME.router_mac}\n"
    last = "iface eth0 inet static\n    address 192.0.2.42/24\n    netconf-guard yes\n"
    write(lab, first + locations, last)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    write(lab, first + locations.replace("home", "cafe"))
    assert "already assigned" in lab.laptop.ifup("--force", "eth0", check=False).stderr
    assert read_guard(lab) == "closed"
    send(lab, capture)
    assert list_passes(lab) == [("eth0", "inet", True), ("eth0", "inet", False)]
    said = lab.laptop.run(["netconf-hooks", "status"]).stdout
    assert "the inet stanza of eth0 is still in force: the last ifup did not reach it; ifdown ends it" in said
    explained = lab.laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
    assert "netconf-location cafe-lan" in explained and "netconf-guard yes: closed" in explained
    # It is not up for ifupdown any more.  After ifdown and ifup what is written now holds, and nothing of before.
    lab.laptop.ifdown("--force", "eth0")
    assert find_records(lab) == [] and list_ruleset(lab.laptop) == ""
    lab.laptop.ifup("eth0")
    assert list_passes(lab) == [("eth0", "inet", True)] and list_ruleset(lab.laptop) == ""


@pytest.mark.parametrize("order", [("nftables", "iptables"), ("iptables", "nftables")], ids="-".join)
def test_two_firewalls_are_refused(lab: Lab, capture: Capture, order: tuple[str, str]) -> None:
    first = make_stanza(*RULES, f"guard-backend {order[0]}")
    second = make_stanza(f"guard-backend {order[1]}", head=STATIC.rstrip("\n"), locations="")
    write(lab, first, second)
    lab.plug("home")
    ifup = lab.laptop.ifup("eth0", check=False)
    assert ifup.returncode != 0
    assert f'netconf-guard-backend is "{order[0]}" in the inet stanza of eth0 and "{order[1]}" in' in ifup.stderr
    assert "192.0.2.42" not in lab.laptop.run(["ip", "addr", "show", "eth0"]).stdout
    # At home it would be open by the first stanza alone.
    lab.laptop.run(["netconf-hooks", "refresh"])
    assert read_guard(lab) == "closed"
    assert "expected the same in all stanzas" in lab.laptop.run(["netconf-hooks", "status"]).stdout
    checked = lab.laptop.run(["netconf-hooks", "check", "eth0"], check=False)
    assert checked.returncode == 1 and "expected the same in all stanzas of a device" in checked.stdout
    write(lab, first, second.replace(order[1], order[0]))
    lab.laptop.ifup("--force", "eth0")
    wait_until(lambda: read_guard(lab) == "open", "the guard to open")


def test_an_alias_and_its_device_have_one_guard(lab: Lab, capture: Capture) -> None:
    laptop = lab.laptop
    alias = make_stanza(HINTS, "guard yes", head="iface eth0:1 inet static\n    address 192.168.1.77/24", locations="")
    write(lab, make_stanza(*RULES), STATIC, alias, "iface eth0:1 inet static\n    address 192.168.1.78/24\n")
    lab.plug("home")
    laptop.ifup("eth0")
    compare(lab, "open")
    laptop.ifup("eth0:1")
    compare(lab, "closed")
    laptop.ifdown("eth0:1")
    compare(lab, "open")
    laptop.ifup("eth0:1")
    compare(lab, "closed")
    # ifupdown has it up still, and its address is back with the next ifup of eth0.
    laptop.ifdown("eth0")
    capture.read()
    laptop.ifup("eth0")
    compare(lab, "closed")
    laptop.ifdown("eth0")
    laptop.ifdown("eth0:1")
    compare(lab, "none")
    assert find_records(lab) == []


def test_rules_without_a_guard_count_together_too(lab: Lab) -> None:
    laptop = lab.laptop
    write(
        lab, make_stanza("trust hints"), STATIC, STATIC6 + "    netconf-vpn openvpn corp unless home-lan\n",
        "iface eth0 inet6 auto\n",
    )  # fmt: skip
    lab.plug("cafe")
    laptop.ifup("eth0")
    pid = wait_for_tunnel(lab)
    assert list_passes(lab) == [("eth0", "inet", True), ("eth0", "inet6", True)]
    laptop.run(["netconf-hooks", "refresh"])
    assert find_tunnels(lab) == [pid]
    laptop.ifdown("eth0")
    wait_for_no_tunnel(lab)
    assert find_records(lab) == []


def test_a_killed_hook_leaves_it_closed(lab: Lab, capture: Capture) -> None:
    """Of the second stanza, at its pre-up: ifupdown gives up, and the next ifup goes on."""
    laptop = lab.laptop
    write(lab, make_stanza(*RULES), make_stanza(HINTS, GUARD, head=STATIC.rstrip("\n"), locations=""))
    kill = '#!/bin/sh\n[ "$METHOD" != static ] || kill -KILL $PPID\n'
    laptop.write("/etc/network/if-pre-up.d/00-kill", kill, 0o755)
    lab.plug("cafe")
    assert laptop.ifup("eth0", check=False).returncode != 0
    send(lab, capture)
    compare(lab, "closed")
    laptop.run(["rm", "/etc/network/if-pre-up.d/00-kill"])
    laptop.ifup("--force", "eth0")
    compare(lab, "closed")
    send(lab, capture)
    laptop.ifdown("eth0")
    compare(lab, "none")
