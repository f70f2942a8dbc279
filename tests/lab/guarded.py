"""What the tests of the guard have in common: what is written into the stanza, and what is asked of laptop and wire."""

from __future__ import annotations

import json

from .attacks.capture import Allowed, Capture, find_leaks
from .lab import Lab
from .laptop import Laptop
from .network import INTERNET_HOST, VPN_GATEWAY, Site
from .stanzas import LOCATIONS, read_status
from .vpn import PORT
from .waiting import wait_until

LO = "auto lo\niface lo inet loopback\n\n"
HINTS = "trust hints"
CORP = "vpn openvpn corp unless home-lan office-lan"
UNLESS = "guard unless home-lan office-lan"
TABLES = ("inet netconf-guard", "netdev netconf-guard")
NOBODY = 65534


def make_stanza(*rules: str, head: str = "iface eth0 inet dhcp", locations: str = LOCATIONS) -> str:
    """Return a stanza; rules: its options without ``netconf-``."""
    return f"{head}\n{locations}" + "".join(f"    netconf-{rule}\n" for rule in rules)


def configure(lab: Lab, *rules: str, head: str = "iface eth0 inet dhcp", locations: str = LOCATIONS) -> None:
    """Write the laptop's /etc/network/interfaces: see `make_stanza`."""
    lab.laptop.write("/etc/network/interfaces", LO + make_stanza(*rules, head=head, locations=locations))


def read_guard(lab: Lab, device: str = "eth0") -> object:
    """Return what ``netconf-hooks status --json`` calls the guard of a device; None where there is none."""
    return read_status(lab)["guards"].get(device, {}).get("state")


def wait_for_guard(lab: Lab, state: str, timeout: float = 10.0) -> None:
    """Wait until the guard of eth0 is ``closed``, ``open`` or ``released``."""
    wait_until(lambda: read_guard(lab) == state, f"the guard to be {state}", timeout)


def reaches_internet(laptop: Laptop) -> bool:
    """Whether a host on the internet answers in the clear."""
    return laptop.pings(INTERNET_HOST)


def list_ruleset(laptop: Laptop) -> str:
    """Return all of the machine's firewall; empty where there is none."""
    return laptop.run(["nft", "list", "ruleset"]).stdout


def list_guards(laptop: Laptop) -> list[str]:
    """Return what stands of guards, in all firewalls."""
    rules = laptop.run(["nft", "list", "tables"]).stdout.splitlines()
    for save in ("iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft-save", "ip6tables-nft-save"):
        rules += laptop.run([save], check=False).stdout.splitlines()
    return [rule for rule in rules if "netconf" in rule or ("nch" in rule and "my rule" not in rule)]


def find_expiry(laptop: Laptop, window: str = "open", device: str = "eth0") -> float:
    """Return how long a window stays open if nobody renews it, in seconds; 0 where it is shut."""
    argv = ["nft", "-j", "list", "set", "inet", "netconf-guard", f"{window}-{device}"]
    listed = laptop.run(argv, check=False)
    if listed.returncode:
        return 0.0
    (found,) = (entry["set"] for entry in json.loads(listed.stdout)["nftables"] if "set" in entry)
    return max((float(element["elem"]["expires"]) for element in found.get("elem", [])), default=0.0)


def send_everything(laptop: Laptop, site: Site, uid: int = 0) -> None:
    """Let the laptop try to send in the clear: TCP, UDP and names, to the internet, the router and all of the link."""
    places = [(INTERNET_HOST, 80), (INTERNET_HOST, 53), (site.router, 80), (site.router, 53), (VPN_GATEWAY, PORT + 1)]
    script = f"""
import os, socket
os.setuid({uid})
for place in {places!r} + [("192.168.{site.number}.255", 137)]:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        channel = socket.socket(socket.AF_INET, kind)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        channel.setblocking(False)
        try:
            channel.connect(place)
            channel.send(b"in the clear")
        except OSError:
            pass
"""
    laptop.run(["/usr/bin/python3", "-IS", "-"], text=script)
    laptop.pings(INTERNET_HOST)


def make_allowed(site: Site, *flows: tuple[str, int, int]) -> Allowed:
    """Return what may be seen on the wire of a closed link: the tunnel's packets, DHCP with the site's server."""
    return Allowed(frozenset({(VPN_GATEWAY, 17, PORT), *flows}), frozenset({site.router}))


def judge(capture: Capture, allowed: Allowed) -> None:
    """Raise AssertionError where anything but `allowed` was on the wire since the last look, or nothing at all was."""
    frames = capture.read()
    assert frames, "the capture saw nothing"
    leaks = find_leaks(frames, allowed)
    assert not leaks, "\n".join(leak.summary for leak in leaks)


def run_as(laptop: Laptop, uid: int, *argv: str) -> bool:
    """Whether a program that a user runs on the laptop succeeds."""
    command = ["setpriv", f"--reuid={uid}", "--clear-groups", *argv]
    return laptop.run(command, check=False).returncode == 0


def connects_as(laptop: Laptop, uid: int, host: str, port: int) -> bool:
    """Whether a TCP connection of that user's is accepted within a second."""
    connect = f"import socket; socket.create_connection(({host!r}, {port}), 1).close()"
    return run_as(laptop, uid, "/usr/bin/python3", "-IS", "-c", connect)


def write_event_script(laptop: Laptop, *commands: str) -> None:
    """Let each event append its name, and what it sees, to /run/events: the exit statuses of shell commands."""
    tests = "".join(
        f'if {command} >/dev/null 2>&1; then line="$line yes"; else line="$line no"; fi\n' for command in commands
    )
    script = f'#!/bin/sh\nline=$1\n{tests}echo "$line" >>/run/events\n'
    laptop.write("/etc/netconf-hooks/event.d/witness", script, 0o755)
