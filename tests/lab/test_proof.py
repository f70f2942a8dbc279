"""Proof: what a café can forge, and what it can't.  Real ifup, DHCP, DNS, TLS and OpenVPN."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, OFFICE
from .relay import RELAY
from .servers import Certificate, Far
from .stanzas import find_tunnels, read_location, read_status, wait_for_no_tunnel, wait_for_tunnel

ONE_CLIENT = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
MEMORY = "/var/lib/netconf-hooks/servers"


@pytest.fixture
def certificate(lab: Lab, tmp_path: Path) -> Iterator[Certificate]:
    """The office's server, which the internet can reach as well: its certificate."""
    made = Certificate(tmp_path / "office")
    with contextlib.ExitStack() as undo:
        Far(lab.network.namespace(OFFICE.name), undo).serve(made.serve, 443, "0.0.0.0")
        yield made


def write_stanza(lab: Lab, *lines: str) -> None:
    rules = "".join(f"    netconf-{line}\n" for line in (*lines, "vpn openvpn corp unless office-lan"))
    lab.laptop.write("/etc/network/interfaces", f"iface eth0 inet dhcp\n{rules}")


def arrive(lab: Lab, site: str) -> tuple[object, object]:
    """Go there; return the location and what it rests on."""
    lab.laptop.run(["ifdown", "eth0"], check=False)
    lab.plug(site)
    lab.laptop.ifup("eth0")
    record = read_status(lab)["interfaces"]["eth0"]
    return record["location"], record["grade"]


def relay(lab: Lab) -> None:
    """The café announces the office's domain, answers for its server's name, and relays to it."""
    lab.network.rename_domain(CAFE.name, OFFICE.domain)
    lab.network.run(CAFE.name, ["nft", "-f", "-"], text=RELAY)


def forge_mac(lab: Lab) -> None:
    """The café's router takes the office router's MAC address."""
    lab.network.run(CAFE.name, ["ip", "link", "set", "lan", "address", OFFICE.router_mac])


def explain(lab: Lab) -> str:
    return lab.laptop.run(["netconf-hooks", "explain", "eth0"]).stdout


def test_a_relaying_cafe_is_found_out(lab: Lab, certificate: Certificate) -> None:
    """The line has no hint at all; the café's relay answers with the office's own certificate."""
    tls = f"tls=router.{OFFICE.domain}:443/sha256:{certificate.sha256}"
    write_stanza(lab, "trust authenticated", f"location office-lan {tls}")
    assert arrive(lab, "office") == ("office-lan", "authenticated")
    assert find_tunnels(lab) == []
    assert f"{certificate.sha256} home {OFFICE.router_mac}" in lab.laptop.read(MEMORY)
    explained = explain(lab)
    assert f"netconf-location office-lan {tls}: holds, first, proof" in explained
    assert "office-lan is proven" in explained

    assert arrive(lab, "cafe") == (None, None)  # no relay yet: its resolver knows no such name
    wait_for_tunnel(lab)
    relay(lab)
    certificate.names.clear()
    assert arrive(lab, "cafe") == (None, None)
    assert certificate.names == [f"router.{OFFICE.domain}"]  # the office's server did answer
    wait_for_tunnel(lab)
    assert f"elsewhere behind {CAFE.router_mac} on eth0" in lab.laptop.read(MEMORY)
    assert f"the server also answers elsewhere (behind {CAFE.router_mac} on eth0" in lab.laptop.log()

    # At home neither, from now on; and explain says so.
    assert arrive(lab, "office") == (None, None)
    wait_for_tunnel(lab)
    assert f"also answers elsewhere (behind {CAFE.router_mac} on eth0" in explain(lab)
    # The admin has it forgotten, by the command that explain shows.
    command = f"netconf-hooks forget-server {certificate.sha256}"
    assert command in explain(lab)
    said = lab.laptop.run(command.split()).stdout
    assert f"forgotten; it was also seen behind {CAFE.router_mac} on eth0" in said
    lab.laptop.run(["netconf-hooks", "refresh"])
    assert read_location(lab) == "office-lan"
    wait_for_no_tunnel(lab)
    again = lab.laptop.run(["netconf-hooks", "forget-server", f"router:443/sha256:{certificate.sha256}"])
    assert f"it was at home behind {OFFICE.router_mac}" in again.stdout
    third = lab.laptop.run(command.split(), check=False)
    assert third.returncode == 1 and "nothing to forget" in third.stderr


@ONE_CLIENT
def test_a_new_router_is_named_with_the_line_to_add(lab: Lab) -> None:
    """Field case F28: all else is as in the office; explain and the log say what to add, and with that it is known."""
    line = f"location office-lan gateway-mac={OFFICE.router_mac} dns-domain={OFFICE.domain}"
    write_stanza(lab, line)
    lab.network.run("office", ["ip", "link", "set", "lan", "address", "02:00:5e:00:02:99"])
    assert arrive(lab, "office") == (None, None)
    added = f"netconf-location office-lan gateway-mac=02:00:5e:00:02:99 dns-domain={OFFICE.domain}"
    said = "everything but the router's MAC address (02:00:5e:00:02:99) is as at office-lan: a new router?"
    assert f"{said}  If it is yours, add: {added}\n" in explain(lab)
    assert lab.laptop.log().count(said) == 1
    lab.laptop.run(["netconf-hooks", "refresh"])
    assert lab.laptop.log().count(said) == 1
    write_stanza(lab, line, added.removeprefix("netconf-"))
    assert arrive(lab, "office") == ("office-lan", "hint")
    assert said not in explain(lab)
    assert arrive(lab, "cafe") == (None, None)
    assert "a new router?" not in explain(lab)


@ONE_CLIENT
def test_hints_can_be_forged_and_proof_is_asked_for(lab: Lab, certificate: Certificate) -> None:
    """A café with the office's MAC address and domain: enough for hints, not for proof."""
    hints = f"location office-lan gateway-mac={OFFICE.router_mac} dns-domain={OFFICE.domain}"
    proof = f"{hints} tls=router.{OFFICE.domain}:443/sha256:{certificate.sha256}"
    lab.network.rename_domain(CAFE.name, OFFICE.domain)
    forge_mac(lab)
    write_stanza(lab, hints)
    assert arrive(lab, "cafe") == ("office-lan", "hint")
    assert find_tunnels(lab) == []  # fooled
    warnings = lab.laptop.run(["netconf-hooks", "check"]).stdout
    assert "anybody who forges the hints of office-lan can stop this tunnel" in warnings
    write_stanza(lab, "trust authenticated", hints)
    assert arrive(lab, "cafe") == ("office-lan", "hint")
    wait_for_tunnel(lab)
    assert "office-lan is recognised by hints" in explain(lab)
    warnings = lab.laptop.run(["netconf-hooks", "check"]).stdout
    assert "this tunnel is never stopped there" in warnings
    # With both lines: the first names the location, the second proves it.
    write_stanza(lab, "trust authenticated", hints, proof)
    warnings = lab.laptop.run(["netconf-hooks", "check"]).stdout
    assert "office-lan" not in warnings.replace("openvpn corp unless office-lan", "")
    assert arrive(lab, "cafe") == ("office-lan", "hint")
    wait_for_tunnel(lab)
    assert arrive(lab, "office") == ("office-lan", "authenticated")
    wait_for_no_tunnel(lab)


@ONE_CLIENT
def test_a_certificate_is_proof_as_a_word_too(lab: Lab, certificate: Certificate) -> None:
    rule = f"vpn openvpn corp unless tls=router.{OFFICE.domain}:443/sha256:{certificate.sha256}"
    stanza = f"iface eth0 inet dhcp\n    netconf-trust authenticated\n    netconf-{rule}\n"
    lab.laptop.write("/etc/network/interfaces", stanza)
    assert arrive(lab, "cafe") == (None, None)
    wait_for_tunnel(lab)
    assert arrive(lab, "office") == (None, None)
    wait_for_no_tunnel(lab)


@ONE_CLIENT
def test_a_program_of_the_admins_is_proof(lab: Lab) -> None:
    """A DHCP answer in the office, no proof to anybody else, is one to who says so."""
    program = f'#!/bin/sh\nip -4 addr show "$IFACE" | grep -q " 192.168.{OFFICE.number}[.]"\n'
    lab.laptop.write("/usr/local/sbin/is-office", program, 0o755)
    write_stanza(lab, "trust authenticated", "location office-lan command=/usr/local/sbin/is-office")
    assert arrive(lab, "cafe") == (None, None)
    wait_for_tunnel(lab)
    assert arrive(lab, "office") == ("office-lan", "authenticated")
    wait_for_no_tunnel(lab)


@ONE_CLIENT
def test_hostile_names_and_servers_do_not_hold_ifup_up(lab: Lab) -> None:
    """Everything silent, all at once: ifup takes the timeout longer, and the answer is a no."""
    zero = 64 * "0"
    lab.network.run(
        CAFE.name, ["nft", "-f", "-"],
        text="table ip t { chain c { type filter hook input priority 0; udp dport 53 drop; tcp dport 443 drop; }; }",
    )  # fmt: skip
    write_stanza(
        lab, "timeout 1.5", "location office-lan reach=www.example.net:80", f"location office-lan peer={CAFE.router}7",
        f"location office-lan tls={CAFE.router}:443/sha256:{zero}", f"location office-lan reach={CAFE.router}:443",
    )  # fmt: skip
    assert arrive(lab, "cafe") == (None, None)
    record = read_status(lab)["interfaces"]["eth0"]
    assert record["undecided"] is False
    wait_for_tunnel(lab)
    script = (
        "import json, time; from netconf_hooks.cli import main; began = time.monotonic(); main(['refresh']); "
        "print(json.dumps(time.monotonic() - began))"
    )
    took = json.loads(lab.laptop.run(["/usr/bin/python3", "-I", "-c", script]).stdout)
    assert 1.5 <= took < 2.5
