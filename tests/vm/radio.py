"""Runs in a machine with Debian's own kernel: real wireless networks, between radios that the kernel makes up.

mac80211_hwsim gives a machine radios that hear each other.  wlan0 is the laptop's, with the real wpa_supplicant; the
others are access points, with the real hostapd, in a namespace beside it, with the lab's networks behind them.  Every
check begins with wlan0 down and nothing in the air, and ends so.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from netconf_hooks.evidence import wireless
from netconf_hooks.rules import format_ssid, format_test
from tests.lab.namespaces import ENVIRONMENT
from tests.lab.network import CAFE, OFFICE, Network
from tests.lab.waiting import wait_until
from tests.vm.checks import Check, run_checks

PATIENT = 60.0  # seconds: an emulated processor is some twenty times slower

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
    def up(self, stanza: str = DHCP) -> Iterator[None]:
        """Have wlan0 up; afterwards it is down."""
        self.write("/etc/network/interfaces", f"auto lo\niface lo inet loopback\n\n{stanza}")
        self.run(["ifup", "wlan0"])
        try:
            yield
        finally:
            self.run(["ifdown", "wlan0"])

    def status(self) -> Any:
        """Return what ``netconf-hooks status --json`` says."""
        return json.loads(self.run(["netconf-hooks", "status", "--json"]).stdout)

    def location(self) -> object:
        """Return where wlan0 is, as it is recorded; None where that is unknown."""
        return self.status()["interfaces"]["wlan0"]["location"]

    def is_insecure(self) -> bool:
        """Whether the tunnel that is for insecure networks is wanted."""
        wanted: bool = self.status()["tunnels"][f"unit {TUNNEL}"]["wanted"]
        return wanted

    def wait_for(self, location: str) -> None:
        """Wait until wlan0 is recorded to be there."""
        wait_until(lambda: self.location() == location, f"the location {location}", PATIENT)

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
        forget = ["iw", "dev", "wlan0", "scan", "freq", "2412", "flush"]
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
]


@contextlib.contextmanager
def make_radio() -> Iterator[Radio]:
    """Make the networks, the access points and the laptop's radio."""
    with Network((OFFICE, CAFE), (f"{OFFICE.name}-ap", f"{CAFE.name}-ap")) as network:
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
