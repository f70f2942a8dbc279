"""Which stanza an interface gets: real ``ifup``, in every network; guessnet itself beside its successor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from .archive import ArchiveError
from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, HOME, OFFICE
from .old_guessnet import SCRIPT as GUESSNET
from .old_guessnet import fetch_guessnet, install_guessnet
from .waiting import wait_until

pytestmark = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])

OURS = "/usr/sbin/guessnet-ifupdown"
MAP = "/usr/lib/netconf-hooks/map"
PLACES = ("home", "office", "cafe", "")  # the last: nothing is plugged in

PEER_HOME = f"peer={HOME.router}/{HOME.router_mac}"


@pytest.fixture(scope="session")
def guessnet() -> list[Path]:
    """The packages of guessnet 0.56 and its libraries."""
    try:
        return fetch_guessnet()
    except ArchiveError as error:
        pytest.skip(f"guessnet 0.56 can't be had: {error}")


def go(lab: Lab, place: str) -> None:
    """Plug eth0 in there."""
    if place:
        lab.plug(place)
    else:
        lab.unplug()


def write_mapping(lab: Lab, script: str, lines: Sequence[str], stanzas: str) -> None:
    """Write /etc/network/interfaces with a mapping of eth0."""
    mapped = "".join(f"    map {line}\n" for line in lines)
    lab.laptop.write("/etc/network/interfaces", f"mapping eth0\n    script {script}\n{mapped}\n{stanzas}")


def choose(lab: Lab, iface: str = "eth0") -> str:
    """Return the stanza that ifup takes, empty where it refuses; the interface is down again afterwards."""
    lab.laptop.ifup(iface, check=False)
    state = lab.laptop.run(["ifquery", "--state", iface], check=False).stdout.strip()
    if state:
        lab.laptop.ifdown(iface)
    return state.partition("=")[2]


def is_up(lab: Lab, link: str = "eth0") -> bool:
    """Whether the link is set up."""
    return ",UP" in lab.laptop.run(["ip", "-o", "link", "show", "dev", link]).stdout.partition(">")[0]


# What guessnet's users had: map lines, stanzas, and the choice in each of PLACES.
GUESSNET_FILES = {
    "names": (
        ["home office nocable", "default: other", "timeout: 3"],
        f"""\
iface home inet static
    address 192.168.1.77/24
    test1 peer address 192.168.1.200
    test2 peer address {HOME.router} mac {HOME.router_mac.upper()}
iface office inet manual
    test-peer address {OFFICE.router} source 192.168.2.250
iface nocable inet manual
    test missing-cable
iface unnamed inet manual
    test peer address {CAFE.router}
iface other inet dhcp
""",
        ("home", "office", "other", "nocable"),
    ),
    "excluded": (
        ["!cafe", "timeout: 2", "default: other"],
        f"""\
iface cafe inet manual
    test peer address {CAFE.router}
iface liar inet manual
    test peer address {HOME.router} mac 52:54:00:0a:00:99
iface work inet manual
    guessnet1 test peer address 192.168.2.1
iface truth inet manual
    test-command ip route get {HOME.router} >/dev/null; exit 1
iface nocable inet manual
    test-missing-cable please
iface other inet manual
""",
        ("other", "work", "other", "nocable"),
    ),
    "autofilter": (
        ["autofilter: true", "timeout: 2"],
        f"""\
iface eth0-home inet manual
    test peer address {HOME.router}
iface eth0-cafe inet manual
    test peer mac {CAFE.router_mac} address {CAFE.router}
iface wlan0-office inet manual
    test peer address {OFFICE.router}
iface none inet manual
""",
        ("eth0-home", "none", "eth0-cafe", "none"),
    ),
    "command": (
        ["timeout: 4", "default: other", "up nocable"],
        """\
iface up inet manual
    test command test "$IFACE" = eth0 && ip -o link show dev "$IFACE" | grep -q LOWER_UP
iface nocable inet manual
    test missing-cable
iface other inet manual
""",
        ("up", "up", "up", "nocable"),
    ),
}


@pytest.mark.parametrize("file", GUESSNET_FILES)
def test_guessnets_file_gives_the_same_choices(lab: Lab, guessnet: list[Path], file: str) -> None:
    lines, stanzas, expected = GUESSNET_FILES[file]
    install_guessnet(lab.laptop, guessnet)
    times: dict[str, list[float]] = {GUESSNET: [], OURS: []}
    for place, choice in zip(PLACES, expected, strict=True):
        go(lab, place)
        for script, taken in times.items():
            write_mapping(lab, script, lines, stanzas)
            began = time.monotonic()
            assert choose(lab) == choice, f"{script} in {place or 'no network'}"
            taken.append(time.monotonic() - began)
            assert not is_up(lab)
    # guessnet takes more than a second if a peer answered.
    answered = [n for n, choice in enumerate(expected) if choice not in ("other", "none", "nocable", "up")]
    assert all(times[GUESSNET][n] > times[OURS][n] for n in answered), times


def test_where_its_users_complained_it_goes_on(lab: Lab) -> None:
    """Stanzas in sourced files and by inheritance; a test that can't be read; commands that talk, several of them."""
    write_mapping(lab, OURS, ["default: other"], "source /etc/network/interfaces.d/*\niface other inet manual\n")
    lab.laptop.write(
        "/etc/network/interfaces.d/lans",
        f"""\
iface base inet manual
    test3 command false
iface broken inet manual
    test1 peer address 192.168.1.999
    test2 wireless mac 52-54
    test3 pppoe
    test4 command echo garbage; exit 1
iface home inet manual inherits base
    test peer address {HOME.router}
""",
    )
    lab.plug("home")
    assert choose(lab) == "home"
    log = lab.laptop.log()
    assert 'eth0: iface broken: test1 "peer address 192.168.1.999": expected an IPv4 address after address' in log
    assert 'eth0: iface broken: test2 "wireless mac 52-54": expected a MAC address' in log
    assert 'eth0: iface broken: test3 "pppoe": the program pppoe is missing' in log
    assert f'eth0: home: test "peer address {HOME.router}"' in log
    lab.plug("cafe")
    lab.laptop.write("/usr/sbin/pppoe", '#!/bin/sh\n[ "$*" = "-I eth0 -A" ]\n', 0o755)
    assert choose(lab) == "broken"


def test_a_peer_is_found_by_its_mac_address_alone(lab: Lab) -> None:
    test = f"test peer mac {HOME.router_mac} source 192.168.1.99"
    write_mapping(lab, OURS, ["timeout: 2"], f"iface home inet manual\n    {test}\niface none inet manual\n")
    lab.network.run("home", ["sysctl", "-q", "-w", "net.ipv4.icmp_echo_ignore_broadcasts=0"])
    lab.plug("home")
    assert choose(lab) == "home"
    lab.plug("office")
    assert choose(lab) == "none"


STANZAS = "".join(f"iface {name} inet manual\n" for name in ("home", "office", "cafe6", "nocable", "wired", "other"))


def test_the_first_map_line_that_holds(lab: Lab) -> None:
    lines = [f"home {PEER_HOME}", f"office peer={OFFICE.router}", "nocable carrier=no", "default: other", "timeout: 3"]
    write_mapping(lab, MAP, lines, STANZAS)
    taken = {}
    for place, choice in zip(PLACES, ("home", "office", "other", "nocable"), strict=True):
        go(lab, place)
        began = time.monotonic()
        assert choose(lab) == choice
        taken[place] = time.monotonic() - began
        assert not is_up(lab)
    assert taken["home"] < 1.0 and taken["office"] < 1.5, taken
    # Both hold: the order decides.
    write_mapping(lab, MAP, ["wired carrier=yes", f"home {PEER_HOME}"], STANZAS)
    lab.plug("home")
    assert choose(lab) == "wired"
    write_mapping(lab, MAP, [f"home {PEER_HOME} carrier=yes", "wired carrier=yes"], STANZAS)
    assert choose(lab) == "home"


def test_a_network_known_by_its_ipv6_router(lab: Lab) -> None:
    write_mapping(lab, MAP, [f"cafe6 peer=fe80::1/{CAFE.router_mac}", "default: other"], STANZAS)
    lab.plug("cafe")
    assert choose(lab) == "cafe6"
    lab.plug("home")  # the same address at another MAC address
    assert choose(lab) == "other"


def test_a_command_and_the_interfaces_name(lab: Lab) -> None:
    lab.laptop.write("/usr/local/sbin/here", '#!/bin/sh\necho garbage\n[ "$IFACE" = eth0 ]\n', 0o755)
    write_mapping(lab, MAP, ["home interface=wl* command=/usr/local/sbin/here", "office command=/usr/local/sbin/here"],
                  STANZAS)  # fmt: skip
    lab.plug("cafe")
    assert choose(lab) == "office"


def test_where_no_line_holds_and_there_is_no_default(lab: Lab) -> None:
    write_mapping(lab, MAP, [f"home {PEER_HOME}"], STANZAS + "iface eth0 inet manual\n")
    lab.plug("office")
    assert choose(lab) == "eth0"  # the stanza of its own name
    write_mapping(lab, MAP, [f"home {PEER_HOME}"], STANZAS)
    result = lab.laptop.ifup("eth0", check=False)
    assert "unknown interface eth0=eth0" in result.stderr
    assert "no output from mapping script" not in result.stderr
    assert choose(lab) == "" and not is_up(lab)


def test_a_line_that_cannot_be_read_is_reported_and_never_matches(lab: Lab) -> None:
    bad = f"office {PEER_HOME} gateway-mac={HOME.router_mac}"
    write_mapping(lab, MAP, [bad, "wired carier=yes", "default: other"], STANZAS)
    lab.plug("home")
    assert choose(lab) == "other"
    log = lab.laptop.log()
    assert f'eth0: map "{bad}": "gateway-mac" can\'t be tested before the interface is configured' in log
    assert 'eth0: map "wired carier=yes": no such test: "carier"' in log


@pytest.mark.parametrize("script, lines", [(MAP, f"home {PEER_HOME}\n"), (OURS, "home\n")])
def test_the_link_is_left_as_it_was(lab: Lab, script: str, lines: str) -> None:
    lab.laptop.write(
        "/etc/network/interfaces", f"iface home inet manual\n    test peer address {HOME.router}\n" + STANZAS
    )
    lab.plug("home")
    assert lab.laptop.run([script, "eth0"], text=lines).stdout == "home\n"
    assert not is_up(lab)
    lab.laptop.run(["ip", "link", "set", "eth0", "up"])
    lab.laptop.run(["ip", "address", "add", "192.168.1.77/24", "dev", "eth0"])
    assert lab.laptop.run([script, "eth0"], text=lines).stdout == "home\n"
    assert is_up(lab)
    assert "192.168.1.77/24" in lab.laptop.run(["ip", "-o", "address", "show", "dev", "eth0"]).stdout


def test_ended_half_way_it_prints_nothing_and_the_link_is_down(lab: Lab) -> None:
    lab.plug("cafe")
    running = lab.laptop.start([MAP, "eth0"], text=f"home {PEER_HOME}\ndefault: other\n")
    wait_until(lambda: is_up(lab), "the link to be set up")
    (pid,) = [pid for pid, command in lab.laptop.processes().items() if command.endswith(f"{MAP} eth0")]
    lab.laptop.run(["kill", str(pid)])
    result = running.wait(10)
    assert (result.returncode, result.stdout) == (1, "")
    assert "eth0: the mapping was ended by a signal before it had chosen a stanza" in lab.laptop.log()
    assert not is_up(lab)


def test_a_device_that_is_not_there(lab: Lab) -> None:
    lab.laptop.write("/etc/network/interfaces", "iface home inet manual\n    test command true\n")
    result = lab.laptop.run([OURS, "eth9"], text="default: other\n", check=False)
    assert (result.returncode, result.stdout) == (1, "")
    result = lab.laptop.run([MAP, "eth9"], text="home carrier=yes\ndefault: other\n")
    assert result.stdout == "other\n"


def test_the_chosen_stanza_is_configured(lab: Lab) -> None:
    stanzas = "iface elsewhere inet dhcp\niface home inet static\n    address 192.168.1.77/24\n"
    write_mapping(lab, MAP, [f"home {PEER_HOME}", "default: elsewhere"], stanzas)
    for place, address in (("home", "192.168.1.77/24"), ("cafe", "192.168.3.1")):
        lab.plug(place)
        lab.laptop.ifup("eth0")
        assert f"inet {address}" in lab.laptop.run(["ip", "-o", "address", "show", "dev", "eth0"]).stdout
        lab.laptop.ifdown("eth0")
