"""A network recorded on the spot, and rules tried on it at the desk; and what bash completes there."""

from __future__ import annotations

import json

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, OFFICE
from .stanzas import ROAMING, read_location


@pytest.fixture
def dhcp_client() -> str:
    """None of this depends on the DHCP client."""
    return DHCP_CLIENTS[0]


def test_rules_are_tried_on_a_network_that_is_not_there(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", "iface eth0 inet dhcp\n")
    lab.plug("office")
    laptop.ifup("eth0")
    recorded = laptop.run(["netconf-hooks", "probe", "--json", "eth0"]).stdout
    laptop.write("/tmp/office.json", recorded)
    laptop.ifdown("eth0")
    # At home, with rules by now, and before any ifup with them.
    lab.plug("home")
    laptop.write("/etc/network/interfaces", ROAMING)
    explained = laptop.run(["netconf-hooks", "explain", "--as", "/tmp/office.json"]).stdout
    assert explained.startswith("eth0 is at office-lan (as recorded in /tmp/office.json)\n")
    assert f"dns-domain={OFFICE.domain}: holds: seen {OFFICE.domain}" in explained
    assert 'down, as far as eth0 goes: eth0 is at office-lan: "unless office-lan"' in explained
    # Of the other interface, by standard input, as a program would; and the same as where it was recorded.
    asked = laptop.run(["netconf-hooks", "explain", "--json", "--as", "-", "wlan0"], text=recorded).stdout
    told = json.loads(asked)["interfaces"]["wlan0"]
    assert (told["location"], told["routable"], told["rules"]) == ("office-lan", True, "stanza")
    lab.plug("office")
    laptop.ifup("eth0")
    there = json.loads(laptop.run(["netconf-hooks", "explain", "--json", "eth0"]).stdout)["interfaces"]["eth0"]
    assert there["rules"] == "record"
    for key in ("location", "undecided", "grade", "routable", "locations", "words"):
        assert there[key] == told[key], key
    assert read_location(lab) == "office-lan"  # and nothing of all that has changed anything


def test_rules_that_ask_somebody_are_not_answered_by_a_recording_without_rules(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", "iface eth0 inet dhcp\n")
    lab.plug("office")
    laptop.ifup("eth0")
    recorded = laptop.run(["netconf-hooks", "probe", "--json", "eth0"]).stdout
    laptop.ifdown("eth0")
    stanza = f"iface eth0 inet dhcp\n    netconf-location office peer={OFFICE.router}\n"
    laptop.write("/etc/network/interfaces", stanza + "    netconf-vpn openvpn corp unless office\n")
    explained = laptop.run(["netconf-hooks", "explain", "--as", "-", "eth0"], text=recorded).stdout
    assert f"peer={OFFICE.router}: not answered: nothing seen (not in the recording)" in explained
    broken = laptop.run(["netconf-hooks", "explain", "--as", "-", "eth0"], text=recorded[:-9], check=False)
    assert (broken.returncode, broken.stdout) == (1, "")
    assert broken.stderr.startswith("netconf-hooks: standard input: not what netconf-hooks probe --json writes: ")


def test_a_recording_by_an_interface_with_rules_has_their_answers(lab: Lab) -> None:
    laptop = lab.laptop
    other = f"peer={CAFE.router}"
    stanza = f"iface eth0 inet dhcp\n    netconf-location office peer={OFFICE.router}\n"
    laptop.write("/etc/network/interfaces", f"{stanza}    netconf-vpn openvpn corp unless office {other}\n")
    lab.plug("office")
    laptop.ifup("eth0")
    recorded = laptop.run(["netconf-hooks", "probe", "--json", "eth0"]).stdout
    laptop.ifdown("eth0")
    lab.plug("cafe")
    explained = laptop.run(["netconf-hooks", "explain", "--as", "-", "eth0"], text=recorded).stdout
    assert explained.startswith("eth0 is at office (as recorded in standard input)\n")
    assert f"peer={OFFICE.router}: holds: seen {OFFICE.router}" in explained


def test_what_bash_completes_is_installed_where_bash_looks(lab: Lab) -> None:
    script = (
        ". /usr/share/bash-completion/completions/netconf-hooks; COMP_LINE='netconf-hooks probe e' COMP_POINT=21; "
        "complete -p netconf-hooks; _netconf_hooks; echo ${COMPREPLY[@]}"
    )
    shown = lab.laptop.run(["bash", "--norc", "-c", script]).stdout.splitlines()
    assert shown == ["complete -F _netconf_hooks netconf-hooks", "eth0"]
    for path in ("zsh/vendor-completions/_netconf-hooks", "fish/vendor_completions.d/netconf-hooks.fish"):
        assert lab.laptop.exists(f"/usr/share/{path}"), path
