"""Runs in a machine with Debian's own kernel: real wireless networks, between radios that the kernel makes up.

mac80211_hwsim gives a machine radios that hear each other.  wlan0 is the laptop's, with the real wpa_supplicant; the
others are access points, with the real hostapd, in a namespace beside it, with the lab's networks behind them.  Every
check begins with wlan0 down and nothing in the air, and ends so.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from netconf_hooks.evidence import wireless
from netconf_hooks.stanzas.rules import format_test
from netconf_hooks.stanzas.values import format_ssid
from tests.lab.attacks.capture import SECRET, Capture, Leak, find_leaks
from tests.lab.guarded import make_allowed
from tests.lab.namespaces import ENVIRONMENT
from tests.lab.network import CAFE, INTERNET_HOST, OFFICE, Network, Site
from tests.lab.stanzas import LOCATIONS
from tests.lab.waiting import wait_until
from tests.vm.checks import Check, run_checks

PATIENT = 120.0  # seconds: an emulated processor is some twenty times slower, and what else runs slows it down further

WPA2 = "wpa=2\nwpa_key_mgmt=WPA-PSK\nrsn_pairwise=CCMP\nwpa_passphrase=password1\n"
OPEN = ""
WEP = "auth_algs=1\nwep_default_key=0\nwep_key0=0123456789\n"

# What an access point announces that encrypts by WPA2 (IEEE 802.11-2020, 9.4.2.24).
RSN = "30140100000fac040100000fac040100000fac020000"


class AccessPoint(NamedTuple):
    """An access point: the radio it is made of, which network is behind it, its name and how it encrypts."""

    device: str
    site: str
    ssid: bytes
    encryption: str

    @property
    def bssid(self) -> str:
        """Its MAC address, as hwsim gives it to the radio (02:00:00:00:N:00)."""
        return f"02:00:00:00:{int(self.device[-1]):02x}:00"


OFFICE_NAME = "Büro".encode()
OFFICE_AP = AccessPoint("wlan1", OFFICE.name, OFFICE_NAME, WPA2)
CANTEEN_AP = AccessPoint("wlan2", OFFICE.name, OFFICE_NAME, WPA2)
CAFE_AP = AccessPoint("wlan3", CAFE.name, b"cafe", OPEN)
WEP_AP = AccessPoint("wlan3", CAFE.name, b"wep", WEP)
ODD_AP = AccessPoint("wlan3", CAFE.name, b"\0\xff\n\\'\" $(:)", OPEN)
LAN_AP = AccessPoint("wlan2", OFFICE.name, b"My LAN", OPEN)

TUNNEL = "lab-tunnel.service"

WPA_CONF = f"""\
ctrl_interface=/run/wpa_supplicant
network={{
    ssid={OFFICE_NAME.hex()}
    psk="password1"
    scan_freq=2412
}}
network={{
    ssid={CAFE_AP.ssid.hex()}
    key_mgmt=NONE
    scan_freq=2412
}}
network={{
    ssid={WEP_AP.ssid.hex()}
    key_mgmt=NONE
    wep_key0=0123456789
    scan_freq=2412
}}
network={{
    ssid={ODD_AP.ssid.hex()}
    key_mgmt=NONE
    scan_freq=2412
}}
"""

# The tunnel shows what became of `insecure`: all these networks are known, so nothing else makes them that.
RULES = f"""\
    netconf-location canteen bssid={CANTEEN_AP.bssid}
    netconf-location office  ssid='{OFFICE_NAME.decode()}'
    netconf-location cafe    ssid=cafe
    netconf-location wep     ssid=wep
    netconf-location odd     {format_test("ssid", [format_ssid(ODD_AP.ssid)])}
    netconf-vpn      unit {TUNNEL} on insecure
"""

DHCP = f"iface wlan0 inet dhcp\n    wpa-conf /etc/wpa_supplicant/lab.conf\n{RULES}"
# Up at once, long before there is a network.
STATIC = f"iface wlan0 inet static\n    address 192.168.2.99/24\n    wpa-conf /etc/wpa_supplicant/lab.conf\n{RULES}"

# Debian's laptop mode (wiki.debian.org/Bonding): the cable first, and else the radio.
BOND = f"""\
iface bond0 inet dhcp
    pre-up ip link add bond0 type bond mode active-backup miimon 100
    pre-up ip link set eth0 down; ip link set wlan0 down; ip link set eth0 master bond0; ip link set wlan0 master bond0
    pre-up ip link set bond0 type bond primary eth0
    pre-up ip link set bond0 up
    pre-up wpa_supplicant -B -P /run/lab-bond.pid -i wlan0 -D nl80211 -c /etc/wpa_supplicant/lab.conf
    post-down kill $(cat /run/lab-bond.pid)
    post-down ip link del bond0
    netconf-location wifi    ssid=cafe bssid={CAFE_AP.bssid}
{LOCATIONS}\
    netconf-vpn      unit {TUNNEL} on insecure
    netconf-guard    unless office-lan
    netconf-trust    hints
"""

# wpasupplicant's roaming mode (wpa_action(8)): what is raised on wlan0 has no rules of its own.
ROAM_CONF = "/etc/wpa_supplicant/roam.conf"
ROAMING = f"""\
iface wlan0 inet manual
    wpa-roam {ROAM_CONF}
{RULES}\
    netconf-location home    ssid=home
    netconf-guard    unless home
    netconf-trust    hints

iface default inet dhcp
"""

# Sends in the clear, wherever that leads, until it is ended: some 200 rounds a second, so that an emulated machine does
# something else, too.
SENDER = f"""
import socket, time
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
channel.setblocking(False)
rounds = 0
while True:
    for place in (("{INTERNET_HOST}", 80), ("{OFFICE.router}", 80), ("192.168.{OFFICE.number}.255", 137)):
        try:
            channel.sendto({SECRET!r} + b"sender;", place)
        except OSError:
            pass
    rounds += 1
    with open("/run/lab-sent", "w") as file:
        file.write(str(rounds))
    time.sleep(0.005)
"""

# As guessnet's users had it.  A scan of all channels takes seconds, here and on real hardware.
GUESSNET = "/usr/sbin/guessnet-ifupdown"
MAPPING = f"""\
mapping wlan0
    script {GUESSNET}
    map timeout: 30
    map default: nowhere

iface elsewhere inet manual
    test1 wireless essid cafe mac {OFFICE_AP.bssid}
    test2 wireless essid cafe closed
    test3 wireless essid "my lan"
iface office inet manual
    test wireless essid {OFFICE_NAME.decode()} closed
iface lan inet manual
    test-wireless essid "My LAN" mac {LAN_AP.bssid.replace(":00", ":0")} open
iface anyopen inet manual
    test wireless open
iface nowhere inet manual
"""


class Radio:
    """The laptop, and the access points around it."""

    def __init__(self, network: Network, holder: int) -> None:
        """holder: the pid of a process in the network namespace where the access points are."""
        self.network = network
        self.run(["modprobe", "mac80211_hwsim", "radios=4"])
        self.run(["nsenter", f"--net={network.laptop_namespace}", "ip", "link", "set", "eth0", "netns", "1"])
        for number in (1, 2, 3):
            phy = Path(f"/sys/class/net/wlan{number}/phy80211/name").read_text().strip()
            self.run(["iw", "phy", phy, "set", "netns", str(holder)])
        for site in (OFFICE, CAFE):
            self.beside(["ip", "link", "add", f"{site.name}-air", "type", "bridge", "forward_delay", "0"])
            self.beside(["ip", "link", "set", f"{site.name}-ap", "master", f"{site.name}-air", "up"])
            self.beside(["ip", "link", "set", f"{site.name}-air", "up"])
            network.plug(site.name, f"{site.name}-ap")
        self.write("/etc/wpa_supplicant/lab.conf", WPA_CONF, 0o600)
        unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n"
        self.write(f"/etc/systemd/system/{TUNNEL}", unit)
        self.run(["systemctl", "daemon-reload"])

    def run(self, argv: Sequence[str], check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        result = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT, cwd="/", timeout=PATIENT)
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(argv)}\nexit status {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def beside(self, argv: Sequence[str], text: str | None = None) -> str:
        """Run a program where the access points are, and return its output."""
        return self.network.run("laptop", argv, text=text, timeout=PATIENT).stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    @contextlib.contextmanager
    def on_air(self, *access_points: AccessPoint) -> Iterator[None]:
        """Let these access points, and no others, be on air."""
        try:
            for each in access_points:
                configuration = (
                    f"interface={each.device}\nbridge={each.site}-air\ndriver=nl80211\nctrl_interface=/run/hostapd\n"
                    f"ssid2={each.ssid.hex()}\nhw_mode=g\nchannel=1\n{each.encryption}"
                )
                self.network.write(f"/run/{each.device}.conf", configuration)
                self.beside(["hostapd", "-B", "-P", f"/run/{each.device}.pid", f"/run/{each.device}.conf"])
            yield
        finally:
            for each in access_points:
                pid = self.network.read(f"/run/{each.device}.pid").strip()
                if pid:
                    self.beside(["kill", pid])
                    wait_until(lambda each=each: not self.network.read(f"/run/{each.device}.pid"), "hostapd to end")

    @contextlib.contextmanager
    def up(self, stanza: str = DHCP, iface: str = "wlan0") -> Iterator[None]:
        """Have an interface up; afterwards it is down."""
        self.write("/etc/network/interfaces", f"auto lo\niface lo inet loopback\n\n{stanza}")
        try:
            self.run(["ifup", iface])
            yield
        finally:
            self.run(["ifdown", iface])

    def status(self) -> Any:
        """Return what ``netconf-hooks status --json`` says."""
        return json.loads(self.run(["netconf-hooks", "status", "--json"]).stdout)

    def location(self, iface: str = "wlan0") -> object:
        """Return where an interface is, as it is recorded; None where that is unknown."""
        return self.status()["interfaces"][iface]["location"]

    def is_insecure(self) -> bool:
        """Whether the tunnel that is for insecure networks is wanted."""
        wanted: bool = self.status()["tunnels"][f"unit {TUNNEL}"]["wanted"]
        return wanted

    def wait_for(self, location: str, iface: str = "wlan0") -> None:
        """Wait until an interface is recorded to be there."""
        wait_until(lambda: self.location(iface) == location, f"the location {location}", PATIENT)

    def wpa(self, *command: str) -> str:
        """Return what wpa_supplicant answers to a command of wpa_cli(8)."""
        return self.run(["wpa_cli", "-i", "wlan0", *command]).stdout

    def hears_encryption(self) -> bool:
        """Whether one of the access points in range announces encryption by now."""
        heard = self.run(["iw", "dev", "wlan0", "scan", "dump"]).stdout
        if "RSN:" in heard:
            return True
        self.run(["iw", "dev", "wlan0", "scan", "trigger", "freq", "2412"], check=False)  # it may be at it already
        return False

    def forget_networks(self) -> None:
        """Have the kernel forget what it has heard, which it does by itself only after 30 s."""
        self.run(["ip", "link", "set", "wlan0", "up"])
        # iw(8) waits for ever for a scan of whose end it has not heard.
        forget = ["timeout", "10", "iw", "dev", "wlan0", "scan", "freq", "2412", "flush"]
        wait_until(lambda: self.run(forget, check=False).returncode == 0, "wlan0 to scan", PATIENT)
        self.run(["ip", "link", "set", "wlan0", "down"])

    def choose(self) -> str:
        """Bring wlan0 up by guessnet's mapping, and down; return which stanza it was."""
        self.forget_networks()
        with self.up(MAPPING):
            return self.run(["ifquery", "--state", "wlan0"]).stdout.strip().partition("=")[2]

    def roam(self, access_point: AccessPoint) -> None:
        """Go over to another access point of the same network."""
        # It has to have heard of it first.
        def knows() -> bool:
            known = "bssid=" in self.wpa("bss", access_point.bssid)
            if not known:
                self.wpa("scan")
            return known

        wait_until(knows, f"{access_point.bssid} to be heard", PATIENT)
        assert self.wpa("roam", access_point.bssid).strip() == "OK"
        wait_until(
            lambda: f"bssid={access_point.bssid}\n" in (status := self.wpa("status"))
            and "wpa_state=COMPLETED\n" in status,
            f"the link to {access_point.bssid}", PATIENT,
        )  # fmt: skip

    def listen(self, access_point: AccessPoint) -> Capture:
        """Return what this access point receives from the air, from now on."""
        return Capture(self.network.laptop_namespace, access_point.device)

    def guard(self, device: str) -> str:
        """Return the state of a guard, empty if there is none."""
        return str(self.status()["guards"].get(device, {}).get("state", ""))

    def send(self, site: Site) -> None:
        """Send in the clear: to the internet, the router, all on the link, by IPv4 and IPv6."""
        places = [(INTERNET_HOST, 80), (site.router, 80), (f"192.168.{site.number}.255", 137)]
        places += [("2001:db8:ffff::1", 80), (f"{site.prefix6}1", 80), ("ff02::1%wlan0", 80)]
        script = f"""
import socket
for place in {places!r}:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        channel = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, kind)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        channel.setblocking(False)
        try:
            channel.connect(socket.getaddrinfo(*place)[0][4])
            channel.send({SECRET!r} + b"send;")
        except OSError:
            pass
"""
        self.run(["/usr/bin/python3", "-IS", "-c", script])
        for host in (INTERNET_HOST, site.router):
            self.run(["ping", "-n", "-q", "-c", "1", "-W", "1", host], check=False)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Have `SENDER` run."""
        with subprocess.Popen(["/usr/bin/python3", "-IS", "-c", SENDER], env=ENVIRONMENT) as sender:
            try:
                self.wait_for_rounds(1)
                yield
            finally:
                sender.kill()

    def wait_for_rounds(self, number: int) -> None:
        """Wait until `SENDER` has sent this often again."""

        def count() -> int:
            try:
                return int(Path("/run/lab-sent").read_text() or 0)
            except FileNotFoundError:
                return 0

        until = count() + number
        wait_until(lambda: count() >= until, "the sender to send", PATIENT)

    def act(self, *command: str) -> None:
        """Tell wpa_supplicant something, and have wpa_action do something about the events that follow.

        It leaves out what comes within four seconds of the event before.
        """
        Path("/run/wpa_action.wlan0.timestamp").unlink(missing_ok=True)
        self.wpa(*command)

    def wait_for_action(self, logical: str) -> None:
        """Wait until wpa_action has raised a logical interface, or with an empty name taken it down."""

        def is_done() -> bool:
            state = self.run(["ifquery", "--state", "wlan0"], check=False).stdout.strip().partition("=")[2]
            return state == logical and not os.path.islink("/run/wpa_action.wlan0.ifupdown")

        wait_until(is_done, f"wpa_action to have raised {logical or 'nothing'}", PATIENT)

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """Have no watcher."""
        self.run(["systemctl", "mask", "--runtime", "--now", "netconf-hooks-watch.service"])
        try:
            yield
        finally:
            self.run(["systemctl", "unmask", "--runtime", "netconf-hooks-watch.service"])


def a_wpa2_network_is_known_and_secure(radio: Radio) -> None:
    with radio.on_air(OFFICE_AP), radio.up():
        assert radio.location() == "office"
        assert not radio.is_insecure()
        explained = radio.run(["netconf-hooks", "explain", "wlan0"]).stdout
        assert format_ssid(OFFICE_NAME) == r"B\xc3\xbcro"
        assert format_ssid(OFFICE_NAME) in explained
        assert OFFICE_AP.bssid in explained
        network = wireless.WirelessNetwork(r"B\xc3\xbcro", (OFFICE_AP.bssid,), True)
        assert wireless.read_network("wlan0") == network


def an_open_network_is_insecure_though_known(radio: Radio) -> None:
    with radio.on_air(CAFE_AP), radio.up():
        assert radio.location() == "cafe"
        assert radio.is_insecure()
        assert radio.run(["systemctl", "is-active", TUNNEL]).stdout == "active\n"
        # Whoever is in range can announce encryption in its name: the kernel has heard it, and has no key.
        for command in (["set", "vendor_elements", RSN], ["update_beacon"]):
            said = radio.beside(["hostapd_cli", "-p", "/run/hostapd", "-i", CAFE_AP.device, *command])
            assert said == "OK\n", (command, said)
        wait_until(radio.hears_encryption, "the beacon to be heard", PATIENT)
        assert wireless.is_wireless_open("wlan0")
        radio.run(["netconf-hooks", "refresh", "wlan0"])
        assert radio.is_insecure()


def wep_is_none(radio: Radio) -> None:
    with radio.on_air(WEP_AP), radio.up():
        assert radio.location() == "wep"
        assert radio.is_insecure()


def a_name_may_be_any_octets(radio: Radio) -> None:
    with radio.on_air(ODD_AP), radio.up():
        assert radio.location() == "odd"
        explained = radio.run(["netconf-hooks", "explain", "wlan0"]).stdout
        assert format_ssid(ODD_AP.ssid) in explained
        assert all(line.isprintable() for line in explained.split("\n"))


def a_link_that_is_up_before_the_network_is_there(radio: Radio) -> None:
    with radio.up(STATIC):
        assert radio.location() is None
        with radio.on_air(OFFICE_AP):
            radio.wait_for("office")
            wait_until(lambda: not radio.is_insecure(), "the key of the network to count", PATIENT)


def the_watcher_sees_another_access_point(radio: Radio) -> None:
    with radio.on_air(OFFICE_AP), radio.up():
        assert radio.location() == "office"
        with radio.on_air(CANTEEN_AP):
            radio.roam(CANTEEN_AP)
            radio.wait_for("canteen")
            wait_until(lambda: not radio.is_insecure(), "the key of the network to count", PATIENT)
            radio.roam(OFFICE_AP)
            radio.wait_for("office")


def wpa_clis_action_script_tells_of_another_access_point(radio: Radio) -> None:
    with radio.unwatched(), radio.on_air(OFFICE_AP), radio.up(), radio.on_air(CANTEEN_AP):
        radio.roam(CANTEEN_AP)
        assert radio.location() == "office", "somebody else told of it"
        action = ["-B", "-P", "/run/lab-action.pid", "-a", "/usr/lib/netconf-hooks/wpa-action"]
        radio.run(["wpa_cli", "-i", "wlan0", *action])
        try:
            radio.roam(OFFICE_AP)
            radio.roam(CANTEEN_AP)
            radio.wait_for("canteen")
        finally:
            radio.run(["kill", Path("/run/lab-action.pid").read_text().strip()])


def guessnets_mapping_chooses_by_a_scan(radio: Radio) -> None:
    assert radio.choose() == "nowhere"
    with radio.on_air(CAFE_AP):
        assert radio.choose() == "anyopen"
        with radio.on_air(LAN_AP):
            assert radio.choose() == "lan"
            with radio.on_air(OFFICE_AP):
                assert radio.choose() == "office"  # the first of the file
    # The link is as it was before.
    assert "state DOWN" in radio.run(["ip", "-o", "link", "show", "wlan0"]).stdout


def a_scan_of_somebody_else_will_do(radio: Radio) -> None:
    radio.forget_networks()
    radio.write("/etc/network/interfaces", MAPPING)
    scan = ["iw", "dev", "wlan0", "scan", "trigger"]
    with radio.on_air(OFFICE_AP):
        radio.run(["ip", "link", "set", "wlan0", "up"])
        radio.run(scan)
        busy = radio.run(scan, check=False).stderr
        assert "(-16)" in busy, busy
        said = subprocess.run(
            [GUESSNET, "wlan0"], input="timeout: 30\ndefault: nowhere\n", capture_output=True, text=True,
            env=ENVIRONMENT, timeout=PATIENT,
        )  # fmt: skip
        assert (said.stdout, said.stderr) == ("office\n", "")
        assert ",UP" in radio.run(["ip", "-o", "link", "show", "wlan0"]).stdout
    radio.run(["ip", "link", "set", "wlan0", "down"])


def a_bond_fails_over_to_an_open_network(radio: Radio) -> None:
    """F5: neither the carrier nor the addresses nor the routes of the bond change."""
    radio.network.plug(OFFICE.name, "eth0")
    with radio.on_air(CAFE_AP), radio.listen(CAFE_AP) as air, radio.up(BOND, "bond0"):
        wait_until(lambda: "wpa_state=COMPLETED\n" in radio.wpa("status"), "wlan0 to be associated", PATIENT)
        wait_until(lambda: radio.guard("bond0") == "open", "the guard to be open at the office", PATIENT)
        assert not radio.is_insecure(), "the active port is the cable"
        with radio.sending():
            assert not _find_clear(air, CAFE), "the bond sends over the air before it fails over"
            began = time.monotonic()
            radio.network.unplug("eth0")
            wait_until(lambda: _read_active("bond0") == "wlan0", "the bond to fail over", PATIENT)
            wait_until(lambda: radio.guard("bond0") == "closed", "the guard to close", PATIENT)
            # The kernel fails over by itself and then reports it: what leaves until the guard closes is only counted.
            leaks = _find_clear(air, CAFE)
            length = leaks[-1].time - leaks[0].time if leaks else 0.0
            print(f"# {len(leaks)} frames in the clear while the bond failed over, in {length:.3f} s")
            wait_until(radio.is_insecure, "the tunnel to be wanted", PATIENT)
            print(f"# the tunnel is wanted {time.monotonic() - began:.1f} s after the cable was pulled")
            began = time.monotonic()
            radio.run(["/usr/bin/python3", "-IS", "-c", "pass"])
            print(f"# this machine takes {time.monotonic() - began:.3f} s to start an interpreter")
            radio.wait_for("wifi", "bond0")
            radio.wait_for_rounds(50)
            leaks = _find_clear(air, CAFE)
            assert not leaks, leaks[:5]
            radio.run(["netconf-hooks", "release", "bond0"])
            wait_until(lambda: _find_clear(air, CAFE), "what leaves without a guard", PATIENT)
        wait_until(lambda: radio.run(["systemctl", "is-active", TUNNEL], check=False).stdout == "active\n",
                   "the tunnel", PATIENT)  # fmt: skip
        radio.network.plug(OFFICE.name, "eth0")
        wait_until(lambda: not radio.is_insecure(), "the cable to be used again", PATIENT)
    radio.network.unplug("eth0")


def the_rules_hold_in_roaming_mode(radio: Radio) -> None:
    """They are those of wlan0's own stanza, whatever wpa_action raises on it, and whether it does."""
    names = {CAFE_AP: "cafe", OFFICE_AP: "office"}
    radio.write(ROAM_CONF, WPA_CONF, 0o600)
    radio.write("/etc/network/interfaces", f"auto lo\niface lo inet loopback\n\n{ROAMING}")
    for site in (CAFE, OFFICE):
        radio.network.announce_ipv6(site.name)
    with radio.on_air(CAFE_AP, OFFICE_AP), radio.listen(CAFE_AP) as cafe_air, radio.listen(OFFICE_AP) as office_air:

        def judge() -> None:
            for air, site in ((cafe_air, CAFE), (office_air, OFFICE)):
                leaks = _find_clear(air, site)
                assert not leaks, leaks[:5]

        radio.run(["ifup", "wlan0"])
        radio.wait_for_action("default")
        for number, access_point, site in ((1, CAFE_AP, CAFE), (0, OFFICE_AP, OFFICE)):
            radio.act("disconnect")
            radio.wait_for_action("")
            assert radio.guard("wlan0") == "closed"
            # Associated again, but wpa_action leaves the event out: no ifup, and a router configures IPv6.
            radio.write("/run/wpa_action.wlan0.timestamp", f"{time.time() + 600:.0f}\n")
            radio.wpa("select_network", str(number))
            show = ["ip", "-6", "route", "show", "default", "dev", "wlan0"]
            wait_until(lambda show=show: radio.run(show).stdout, "a router of IPv6", PATIENT)
            assert f"bssid={access_point.bssid}\n" in radio.wpa("status")
            assert radio.run(["ifquery", "--state", "wlan0"], check=False).stdout == ""
            assert radio.guard("wlan0") == "closed"
            radio.send(site)
            judge()
            radio.act("disconnect")
            radio.wait_for_action("")
            radio.act("reconnect")
            radio.wait_for_action("default")
            radio.wait_for(names[access_point])
            wait_until(lambda site=site: radio.is_insecure() is (site is CAFE), "the tunnel's verdict", PATIENT)
            assert radio.guard("wlan0") == "closed"
            radio.send(site)
            judge()
        # Without the guard it all leaves.
        radio.run(["netconf-hooks", "release", "wlan0"])
        radio.send(OFFICE)
        wait_until(lambda: _find_clear(office_air, OFFICE), "what leaves without a guard", PATIENT)
        radio.run(["wpa_action", "wlan0", "stop"])
        wait_until(lambda: not radio.status()["guards"], "the guard to go", PATIENT)
        assert radio.run(["nft", "list", "tables"]).stdout == ""
        assert radio.status()["interfaces"] == {}


def _find_clear(air: Capture, site: Site) -> list[Leak]:
    """Return what an access point has received in the clear since the last look.

    Its kernel itself tells the switch where a station is, in the name of that (IEEE 802.11F, 6.4: an empty XID frame).
    """
    frames = [frame for frame in air.read() if frame.data[12:18] != b"\0\6\0\1\xaf\x81"]
    return find_leaks(frames, make_allowed(site))


def _read_active(bond: str) -> str:
    """Return the active port of a bond."""
    return Path(f"/sys/class/net/{bond}/bonding/active_slave").read_text().strip()


CHECKS: list[Check[Radio]] = [
    a_wpa2_network_is_known_and_secure,
    an_open_network_is_insecure_though_known,
    wep_is_none,
    a_name_may_be_any_octets,
    a_link_that_is_up_before_the_network_is_there,
    the_watcher_sees_another_access_point,
    wpa_clis_action_script_tells_of_another_access_point,
    guessnets_mapping_chooses_by_a_scan,
    a_scan_of_somebody_else_will_do,
    a_bond_fails_over_to_an_open_network,
    the_rules_hold_in_roaming_mode,
]


@contextlib.contextmanager
def make_radio() -> Iterator[Radio]:
    """Make the networks, the access points and the laptop's radio."""
    with Network((OFFICE, CAFE), (f"{OFFICE.name}-ap", f"{CAFE.name}-ap", "eth0")) as network:
        command = ["nsenter", f"--net={network.laptop_namespace}", "cat"]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        try:
            assert holder.stdin and holder.stdout
            holder.stdin.write(b"there\n")
            assert holder.stdout.readline() == b"there\n"
            yield Radio(network, holder.pid)
        finally:
            holder.communicate()


def main() -> int:
    """Run all checks in this machine, and return whether all went well."""
    with make_radio() as radio:
        return run_checks(CHECKS, radio)


if __name__ == "__main__":
    sys.exit(main())
