"""Another logical interface raised over the one with the rules: ``ifup --force``, and wpa_supplicant's roaming mode.

The roaming mode is wpasupplicant's own, with its wpa_supplicant, wpa_cli, wpa_action and functions.sh as Debian ships
them.  Its driver ``wired`` needs no radio: a link with a cable is "associated" whenever wpa_supplicant wants it to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .archive import ArchiveError, fetch_packages
from .attacks.capture import Allowed, Capture, find_leaks
from .guarded import HINTS, LO, judge, list_guards, list_ruleset, make_allowed, make_stanza, read_guard, send_everything
from .lab import Lab
from .laptop import Image
from .network import CAFE, HOME, OFFICE
from .old_guessnet import SCRIPT as OLD_GUESSNET, fetch_guessnet, install_guessnet
from .stanzas import find_records, find_tunnels, read_status, wait_for_no_tunnel, wait_for_tunnel
from .waiting import wait_until

GUARD = "guard unless home-lan"
VPN = "vpn openvpn corp unless home-lan"
ALLOWED = make_allowed(CAFE)

CONF = "/etc/wpa_supplicant/roaming.conf"
ROAMING = f"""\
iface wlan0 inet manual
    wpa-driver wired
    wpa-roam {CONF}
"""


@pytest.fixture(scope="module")
def roaming_image(packages: list[Path]) -> Iterator[Image]:
    """A laptop's disk with wpasupplicant on it."""
    try:
        found = fetch_packages(["wpasupplicant"])
    except ArchiveError as error:
        pytest.fail(str(error))
    with Image([*found, *packages]) as made:
        yield made


@pytest.fixture
def lab(roaming_image: Image) -> Iterator[Lab]:
    """A lab whose laptop has wpasupplicant, in a café with IPv6."""
    with Lab(roaming_image) as lab:
        lab.network.announce_ipv6(CAFE.name)
        network = 'ctrl_interface=DIR=/run/wpa_supplicant\nap_scan=0\nnetwork={\n    key_mgmt=NONE\n}\n'
        lab.laptop.write(CONF, network, 0o600)
        lab.laptop.run(
            ["sysctl", "-q", "-w", "net.ipv6.conf.wlan0.accept_dad=0",
             "net.ipv6.conf.wlan0.router_solicitation_delay=0"]
        )  # fmt: skip
        # wpa_supplicant 2.11-4 ends without nl80211, whatever its driver; a kernel without cfg80211 has none.
        started = lab.laptop.run(["wpa_supplicant", "-B", "-i", "wlan0", "-D", "wired", "-c", CONF], check=False)
        if "Failed to initialize driver 'nl80211'" in started.stdout + started.stderr:
            pytest.skip("this wpa_supplicant needs a kernel with cfg80211")
        lab.laptop.run(["wpa_cli", "-i", "wlan0", "terminate"])
        wait_until(lambda: "wpa_supplicant" not in str(lab.laptop.processes()), "wpa_supplicant to end")
        try:
            yield lab
        except BaseException:
            print(lab.laptop.log())
            raise


@pytest.fixture
def capture(lab: Lab) -> Iterator[Capture]:
    """What leaves the laptop through wlan0, seen from outside."""
    with Capture(lab.network.wire_namespace, "wlan0") as capture:
        yield capture


def write(lab: Lab, *stanzas: str) -> None:
    """Write the laptop's /etc/network/interfaces."""
    lab.laptop.write("/etc/network/interfaces", LO + "\n".join(stanzas))


def call_wpa(lab: Lab, *words: str) -> None:
    """Tell wpa_supplicant something, and let wpa_action act on what follows.

    It leaves out what comes within four seconds of the event before.
    """
    lab.laptop.run(["rm", "-f", "/run/wpa_action.wlan0.timestamp"])
    lab.laptop.run(["wpa_cli", "-i", "wlan0", *words])


def read_ifstate(lab: Lab) -> str:
    """Return which logical interface ifupdown has raised on wlan0; empty for none."""
    state = lab.laptop.read("/run/network/ifstate").split()
    return next((line.partition("=")[2] for line in state if line.startswith("wlan0=")), "")


def wait_for_action(lab: Lab, logical: str) -> None:
    """Wait until wpa_action has raised a logical interface, or with an empty name taken it down and set the link up."""
    laptop = lab.laptop

    def is_done() -> bool:
        busy = laptop.run(["test", "-L", "/run/wpa_action.wlan0.ifupdown"], check=False).returncode == 0
        return not busy and read_ifstate(lab) == logical and laptop.has_carrier("wlan0")

    wait_until(is_done, f"wpa_action to have raised {logical or 'nothing'}", 20)


def wait_for_ipv6(lab: Lab) -> None:
    """Wait until a router advertisement has configured the link: nobody's ifup takes part in that."""
    show = ["ip", "-6", "route", "show", "default", "dev", "wlan0"]
    wait_until(lambda: lab.laptop.run(show).stdout, "the router of IPv6", 20)


def send(lab: Lab, capture: Capture, allowed: Allowed = ALLOWED) -> None:
    """Let the laptop send in the clear, and raise AssertionError where anything of it is on the wire."""
    send_everything(lab.laptop, CAFE)
    lab.laptop.run(["ping", "-6", "-c", "1", "-W", "1", "-I", "wlan0", f"{CAFE.prefix6}1"], check=False)
    lab.laptop.run(["ping", "-6", "-c", "1", "-W", "1", "-I", "wlan0", "2001:db8:ffff::1"], check=False)
    judge(capture, allowed)


def assert_nothing_is_left(lab: Lab) -> None:
    """The rules ended with the interface."""
    wait_until(lambda: list_ruleset(lab.laptop) == "", "the guard to go")
    wait_until(lambda: find_records(lab) == [], "the records to go")
    wait_for_no_tunnel(lab)


def stop(lab: Lab) -> None:
    """Take it down as wpa_action(8) says."""
    lab.laptop.run(["wpa_action", "wlan0", "stop"])


def force_down(lab: Lab) -> None:
    """Take it down as wpasupplicant's hook says."""
    lab.laptop.ifdown("--force", "wlan0")


# Which stanzas have the rules.
STANZAS = {
    "in the roaming stanza": [make_stanza(HINTS, VPN, GUARD, head=ROAMING.rstrip()), "iface default inet dhcp\n"],
    "in both": [
        make_stanza(HINTS, VPN, GUARD, head=ROAMING.rstrip()),
        make_stanza(HINTS, VPN, GUARD, head="iface default inet dhcp"),
    ],
    "two stanzas raised over it": [
        make_stanza(HINTS, VPN, GUARD, head=ROAMING.rstrip()),
        make_stanza(HINTS, head="iface default inet dhcp", locations=""),
        "iface default inet static\n    address 192.0.2.42/24\n",
    ],
}


@pytest.mark.parametrize("end", [stop, force_down])
@pytest.mark.parametrize("stanzas", STANZAS.values(), ids=STANZAS)
def test_the_rules_hold_over_what_is_raised(lab: Lab, capture: Capture, stanzas: list[str], end: object) -> None:
    write(lab, *stanzas)
    lab.plug("cafe", "wlan0")
    lab.laptop.ifup("wlan0")
    wait_for_action(lab, "default")
    for _ in range(2):
        wait_for_tunnel(lab)
        assert read_guard(lab, "wlan0") == "closed"
        wait_for_ipv6(lab)
        send(lab, capture)
        call_wpa(lab, "disconnect")
        wait_for_action(lab, "")
        # The link is up, and no ifup has anything to do with that.
        wait_for_ipv6(lab)
        assert read_guard(lab, "wlan0") == "closed"
        send(lab, capture)
        call_wpa(lab, "reconnect")
        wait_for_action(lab, "default")
    end(lab)  # type: ignore[operator]
    assert_nothing_is_left(lab)
    assert not find_leaks(capture.read(), ALLOWED)


@pytest.mark.parametrize("end", [stop, force_down])
def test_the_admin_ends_it_while_it_is_disconnected(lab: Lab, capture: Capture, end: object) -> None:
    """ifupdown knows nothing of it then, and runs no hook for ``wpa_action stop``."""
    write(lab, *STANZAS["in the roaming stanza"])
    lab.plug("cafe", "wlan0")
    lab.laptop.ifup("wlan0")
    wait_for_action(lab, "default")
    call_wpa(lab, "disconnect")
    wait_for_action(lab, "")
    assert read_guard(lab, "wlan0") == "closed"
    end(lab)  # type: ignore[operator]
    if end is stop:
        # wpa_supplicant leaves a wired link up; one of a radio it sets down.
        lab.laptop.run(["ip", "link", "set", "dev", "wlan0", "down"])
    assert_nothing_is_left(lab)
    assert not find_leaks(capture.read(), ALLOWED)


@pytest.mark.parametrize("backend", ["nftables", "iptables-legacy", "iptables-nft"])
def test_it_opens_where_the_rules_say_so_and_closes_between_two_networks(
    lab: Lab, capture: Capture, backend: str
) -> None:
    family, _, variant = backend.partition("-")
    if variant:
        lab.laptop.choose_iptables(variant)
    options = (HINTS, VPN, GUARD, f"guard-backend {family}")
    write(lab, make_stanza(*options, head=ROAMING.rstrip()), "iface default inet dhcp\n")
    lab.plug("home", "wlan0")
    lab.laptop.ifup("wlan0")
    wait_for_action(lab, "default")
    wait_until(lambda: read_guard(lab, "wlan0") == "open", "the guard to open")
    assert read_status(lab)["guards"]["wlan0"]["backend"] == backend
    assert find_tunnels(lab) == []
    lab.plug("cafe", "wlan0")
    call_wpa(lab, "disconnect")
    wait_for_action(lab, "")
    assert read_guard(lab, "wlan0") == "closed"
    capture.read()
    # dhclient gives home's lease back from here.  The kernel keeps that packet for up to 3 s while it asks who has the
    # address of home's server.
    send(lab, capture, ALLOWED._replace(dhcp_servers=frozenset({CAFE.router, HOME.router})))
    call_wpa(lab, "reconnect")
    wait_for_action(lab, "default")
    wait_for_tunnel(lab)
    send(lab, capture)
    stop(lab)
    wait_until(lambda: list_guards(lab.laptop) == [], "the guard to go")
    assert find_records(lab) == []


def test_a_release_lasts_over_roaming_until_the_admins_own_ifup(lab: Lab) -> None:
    write(lab, *STANZAS["in both"])
    lab.plug("cafe", "wlan0")
    lab.laptop.ifup("wlan0")
    wait_for_action(lab, "default")
    lab.laptop.run(["netconf-hooks", "release", "wlan0"])
    for event, logical in (("disconnect", ""), ("reconnect", "default")):
        call_wpa(lab, event)
        wait_for_action(lab, logical)
        assert read_guard(lab, "wlan0") == "released"
    stop(lab)
    lab.laptop.run(["ip", "link", "set", "dev", "wlan0", "down"])
    assert_nothing_is_left(lab)
    lab.laptop.ifup("wlan0")
    assert read_guard(lab, "wlan0") == "closed"


def test_another_stanza_raised_by_hand(lab: Lab, capture: Capture) -> None:
    """``ifup --force wlan0=plain``: ifupdown forgets that it had raised another one, and never tells of its end."""
    write(
        lab, make_stanza(HINTS, VPN, GUARD, head="iface wlan0 inet manual"), "iface plain inet dhcp\n",
        make_stanza("location cafe-lan gateway-mac=" + CAFE.router_mac, head="iface more inet dhcp", locations=""),
    )  # fmt: skip
    lab.plug("cafe", "wlan0")
    lab.laptop.ifup("wlan0")
    for logical in ("plain", "more", "plain"):
        lab.laptop.ifup("--force", f"wlan0={logical}")
        assert read_guard(lab, "wlan0") == "closed"
        wait_for_tunnel(lab)
        send(lab, capture)
    passes = read_status(lab)["interfaces"]["wlan0"]["passes"]
    assert isinstance(passes, list)
    assert [each["logical"] for each in passes] == ["wlan0", "more"]
    said = lab.laptop.run(["netconf-hooks", "status"]).stdout
    assert "by the inet stanza of more, raised on wlan0\n" in said
    lab.laptop.ifdown("wlan0")
    assert_nothing_is_left(lab)
    assert not find_leaks(capture.read(), ALLOWED)


# --- guessnet as a mapping script of wpa_action

# As guessnet(8) and wpa_action(8) say; a map line comes through an unquoted echo of the shell.
MAPPED = """\
    wpa-mapping-script {script}
    wpa-mapping-script-priority 1
    wpa-map0 home-net   cafe-net
    wpa-map1 default:    elsewhere
    wpa-map2 timeout: 3
"""
CANDIDATES = [
    f"iface home-net inet dhcp\n    test peer address {HOME.router} mac {HOME.router_mac}\n",
    f"iface cafe-net inet dhcp\n    test1 peer address {CAFE.router} mac {CAFE.router_mac}\n    test2 command false\n",
    "iface elsewhere inet manual\n",
]


@pytest.fixture(params=["ours", "guessnet 0.56"])
def mapping_script(lab: Lab, request: pytest.FixtureRequest) -> str:
    """The mapping script: guessnet itself, or its successor."""
    if request.param == "ours":
        return "guessnet-ifupdown"
    try:
        install_guessnet(lab.laptop, fetch_guessnet())
    except ArchiveError as error:
        pytest.skip(f"guessnet 0.56 can't be had: {error}")
    return OLD_GUESSNET


def test_guessnet_chooses_what_wpa_action_raises(lab: Lab, mapping_script: str) -> None:
    """Field case F30: it is called with the link associated and up, each time that it is."""
    roaming = ROAMING + MAPPED.format(script=mapping_script)
    write(lab, roaming, *CANDIDATES)
    lab.plug("cafe", "wlan0")
    lab.laptop.ifup("wlan0")
    wait_for_action(lab, "cafe-net")
    for site, logical in ((HOME, "home-net"), (OFFICE, "elsewhere"), (CAFE, "cafe-net")):
        call_wpa(lab, "disconnect")
        wait_for_action(lab, "")
        lab.plug(site.name, "wlan0")
        call_wpa(lab, "reconnect")
        wait_for_action(lab, logical)
    stop(lab)


def test_guessnet_chooses_while_the_guard_is_closed(lab: Lab, capture: Capture) -> None:
    """What it asks is ARP, which every guard lets through; the guard of the roaming stanza stays as it is."""
    roaming = make_stanza(HINTS, GUARD, head=(ROAMING + MAPPED.format(script="guessnet-ifupdown")).rstrip())
    write(lab, roaming, *CANDIDATES)
    lab.plug("cafe", "wlan0")
    lab.laptop.ifup("wlan0")
    wait_for_action(lab, "cafe-net")
    assert read_guard(lab, "wlan0") == "closed"
    send(lab, capture)
    assert "wlan0: cafe-net: " in lab.laptop.log()
    stop(lab)
    assert_nothing_is_left(lab)
