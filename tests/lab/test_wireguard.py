"""wireguard: wg-quick on the laptop, without systemd, driven by ifup and ifdown.

Where this machine's kernel has no WireGuard, both ends are userland's (wireguard-go); tests/vm asks the kernel's.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator

import pytest

from .lab import Lab
from .laptop import Image
from .namespaces import ENVIRONMENT
from .network import CAFE, CORP_HOST, OFFICE, VPN_GATEWAY
from .stanzas import LOCATIONS, find_records, read_status
from .waiting import wait_until
from .wireguard import CONFIG, GATEWAY, NAME, WireGuardGateway

PROGRAMS = {"wg-quick": "wireguard-tools", "wireguard-go": "wireguard-go"}

STANZAS = f"""\
iface roaming inet dhcp
{LOCATIONS}
    netconf-vpn      wireguard {{name}}  unless home-lan office-lan
iface eth0 inherits roaming
iface wlan0 inherits roaming
"""

# Asks the tunnel as `status` does, some seconds later.
ASK = """
import sys, time
sys.path.append("/usr/lib/python3/dist-packages")
from netconf_hooks.tunnels.wireguard import Tunnel
print(Tunnel(sys.argv[1], clock=lambda: time.time() + float(sys.argv[2])).is_up())
"""

# Has a packet sent into a device whose far end is an address of the same device, and prints what arrives there.
SEND_INTO = """
import socket, sys
sys.path.append("/usr/lib/python3/dist-packages")
from netconf_hooks.tunnels.provoke import send_into
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
    receiver.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL, linux/in.h
    receiver.bind(("127.0.0.2", 9))  # the discard service, RFC 863
    receiver.settimeout(5)
    # From 127.0.0.1 (the address of lo) to another one of that device.
    print(send_into("lo", "127.0.0.2/32"))
    data, [(level, kind, value)], _, _ = receiver.recvmsg(100, 100)
print(data, (level, kind) == (socket.IPPROTO_IP, socket.IP_TTL), int.from_bytes(value, "little"))
"""


@pytest.fixture(scope="module", autouse=True)
def tools(requirements: None) -> None:
    """Skip without the programs."""
    missing = [package for name, package in PROGRAMS.items() if not shutil.which(name, path=ENVIRONMENT["PATH"])]
    if missing:
        pytest.skip(f"WireGuard needs: apt install {' '.join(missing)}")


@pytest.fixture
def one_lab(image: Image) -> Iterator[Lab]:
    """A lab for what no DHCP client can change."""
    with Lab(image) as made:
        yield made


@pytest.fixture
def gateway(request: pytest.FixtureRequest) -> Iterator[WireGuardGateway]:
    """The WireGuard gateway of the test's lab, with the laptop configured for it."""
    lab = request.getfixturevalue("lab" if "lab" in request.fixturenames else "one_lab")
    with WireGuardGateway(lab.network) as made:
        made.install_client(lab.laptop)
        configure(lab)
        yield made


def configure(lab: Lab, name: str = NAME) -> None:
    """Write the rules: the tunnel of this name runs but at home and in the office."""
    lab.laptop.write("/etc/network/interfaces", STANZAS.format(name=name))


def find_interfaces(lab: Lab) -> list[str]:
    """Return the laptop's WireGuard interfaces."""
    return lab.laptop.run(["wg", "show", "interfaces"]).stdout.split()


def find_daemons(lab: Lab) -> list[int]:
    """Return what runs on the laptop for WireGuard; the kernel's has no process."""
    # Not `wg show`, by which the watcher asks.
    return [pid for pid, command in lab.laptop.processes().items() if "wireguard-go" in command or "wg-" in command]


def read_tunnel(lab: Lab, name: str = NAME) -> dict[str, object]:
    """Return what ``netconf-hooks status --json`` says of the tunnel."""
    return read_status(lab)["tunnels"][f"wireguard {name}"]


def ask(lab: Lab, later: float = 0.0, name: str = NAME) -> str:
    """Return what is_up says, or would say in so many seconds if nothing happens till then."""
    return lab.laptop.run(["/usr/bin/python3", "-IS", "-c", ASK, name, str(later)]).stdout.strip()


def read_handshakes(lab: Lab) -> list[int]:
    """Return when each peer has shaken hands last; 0 for never."""
    shown = lab.laptop.run(["wg", "show", NAME, "latest-handshakes"]).stdout
    return [int(line.split()[1]) for line in shown.splitlines()]


def forget_session(lab: Lab) -> None:
    """Let there be no session with the gateway: its peer is removed, and configured again."""
    peer = lab.laptop.run(["wg", "show", NAME, "peers"]).stdout.strip()
    lab.laptop.run(["wg", "set", NAME, "peer", peer, "remove"])
    lab.laptop.write("/run/corp.conf", lab.laptop.run(["wg-quick", "strip", NAME]).stdout, 0o600)
    lab.laptop.run(["wg", "syncconf", NAME, "/run/corp.conf"])


def wait_until_gone(lab: Lab) -> None:
    """Wait until nothing of the tunnel is left: userland's daemon ends a moment after its interface."""
    assert find_interfaces(lab) == []
    wait_until(lambda: not find_daemons(lab), "WireGuard's daemon to end")


def test_cafe_office_and_ifdown(lab: Lab, gateway: WireGuardGateway) -> None:
    lab.plug(CAFE.name)
    lab.laptop.ifup("eth0")
    wait_until(lambda: lab.laptop.pings(CORP_HOST), "the host behind the VPN to answer")
    assert read_tunnel(lab)["wanted"] is True
    assert read_tunnel(lab)["up"] is True

    lab.laptop.ifdown("eth0")
    wait_until_gone(lab)
    assert find_records(lab) == []

    lab.plug(OFFICE.name)
    lab.laptop.ifup("eth0")
    assert find_interfaces(lab) == []
    assert read_tunnel(lab)["up"] is False

    lab.plug(CAFE.name, "wlan0")
    lab.laptop.ifdown("eth0")
    lab.laptop.ifup("wlan0")
    assert find_interfaces(lab) == [NAME]
    lab.laptop.ifup("eth0")  # the office again: a veto
    wait_until_gone(lab)


def test_one_that_is_up_is_not_restarted(one_lab: Lab, gateway: WireGuardGateway) -> None:
    laptop = one_lab.laptop
    one_lab.plug(CAFE.name)
    laptop.ifup("eth0")
    wait_until(lambda: laptop.pings(CORP_HOST), "the host behind the VPN to answer")
    before = laptop.run(["cat", f"/sys/class/net/{NAME}/ifindex"]).stdout
    one_lab.plug(CAFE.name, "wlan0")
    laptop.ifup("wlan0")
    laptop.ifup("--force", "eth0")
    laptop.run(["netconf-hooks", "refresh"])
    laptop.ifdown("eth0")
    assert laptop.run(["cat", f"/sys/class/net/{NAME}/ifindex"]).stdout == before
    laptop.ifdown("wlan0")
    wait_until_gone(one_lab)


def test_what_was_brought_up_by_hand_is_ours_too(one_lab: Lab, gateway: WireGuardGateway) -> None:
    laptop = one_lab.laptop
    laptop.run(["wg-quick", "up", NAME])
    before = laptop.run(["cat", f"/sys/class/net/{NAME}/ifindex"]).stdout
    one_lab.plug(CAFE.name)
    laptop.ifup("eth0")
    assert "can't be" not in laptop.log()
    assert laptop.run(["cat", f"/sys/class/net/{NAME}/ifindex"]).stdout == before
    laptop.ifdown("eth0")
    wait_until_gone(one_lab)


def test_nothing_of_it_lives_with_the_hook(one_lab: Lab, gateway: WireGuardGateway) -> None:
    laptop = one_lab.laptop
    one_lab.plug(CAFE.name)
    # The session of ifup; `exec`, so that its number is ifup's.
    session = laptop.run(["sh", "-c", "exec 7</etc/passwd; echo $$; exec ifup eth0"]).stdout.split()[0]
    assert find_interfaces(one_lab) == [NAME]
    left = laptop.run(["ps", "-e", "-o", "pid=,ppid=,pgid=,sid=,args="]).stdout.splitlines()
    assert not [line for line in left if session in line.split()[2:4] and laptop.dhcp_client not in line]
    for pid in find_daemons(one_lab):
        assert f" {pid} 1 " in " ".join(f" {' '.join(line.split())}" for line in left), "init is its parent"
        opened = laptop.run(["find", f"/proc/{pid}/fd", "-type", "l", "-printf", "%f %l\\n"]).stdout
        assert opened.startswith("0 /dev/null\n1 /dev/null\n2 /dev/null\n")
        assert "/run/netconf-hooks" not in opened and "/etc/passwd" not in opened
        pipes = re.findall(r"pipe:.*", opened)
        assert all(pipes.count(pipe) == 2 for pipe in pipes), "it holds both ends of its own"


def test_an_idle_tunnel_is_made_to_shake_hands(one_lab: Lab, gateway: WireGuardGateway) -> None:
    def count_received() -> int:
        # IP packets only: whenever a neighbour's entry gets old, ARP asks for it.
        lines = one_lab.network.run("corp", ["cat", "/proc/net/snmp"]).stdout.splitlines()
        names, values = [line.split() for line in lines if line.startswith("Ip:")]
        return int(values[names.index("InReceives")])

    one_lab.laptop.write(CONFIG, gateway.client_config("10.99.0.0/24"), 0o600)
    one_lab.plug(CAFE.name)
    one_lab.laptop.ifup("eth0")
    one_lab.laptop.pings(CORP_HOST)  # and so the gateway knows that host's MAC address
    forget_session(one_lab)
    before = count_received()
    assert ask(one_lab) == "True"
    assert read_handshakes(one_lab) != [0]
    assert count_received() == before, "it ends at the peer"


def test_a_dead_gateway_shows_after_its_time(one_lab: Lab, gateway: WireGuardGateway) -> None:
    one_lab.plug(CAFE.name)
    one_lab.laptop.ifup("eth0")
    assert ask(one_lab) == "True"
    gateway.stop()
    assert ask(one_lab, later=170) == "True", "a session lasts 180 s, whatever became of the other side"
    assert ask(one_lab, later=181) == "False"


def test_up_means_that_somebody_answered(one_lab: Lab, gateway: WireGuardGateway) -> None:
    gateway.stop()
    one_lab.plug(CAFE.name)
    one_lab.laptop.ifup("eth0")
    assert find_interfaces(one_lab) == [NAME]
    began = time.monotonic()
    assert ask(one_lab) == "False"
    assert time.monotonic() - began < 3
    assert read_tunnel(one_lab)["up"] is False
    gateway.start()
    # It was told not to try again within 5 s (REKEY_TIMEOUT).
    wait_until(lambda: ask(one_lab) == "True", "the handshake", 15)


def test_of_several_peers_one_suffices(one_lab: Lab, gateway: WireGuardGateway) -> None:
    silent, unreachable = (f"[Peer]\nPublicKey = {gateway.make_keys()[1]}\n" for _ in range(2))
    silent += "Endpoint = 203.0.113.1:9\nAllowedIPs = 10.78.0.0/24\n"
    head, peer, rest = gateway.client_config().partition("[Peer]")
    config = head + silent + unreachable + peer + rest
    one_lab.laptop.write(CONFIG, config, 0o600)
    one_lab.plug(CAFE.name)
    one_lab.laptop.ifup("eth0")
    assert ask(one_lab) == "True"
    assert len(read_handshakes(one_lab)) == 3
    assert len([when for when in read_handshakes(one_lab) if when]) == 1


def test_only_root_is_told(one_lab: Lab, gateway: WireGuardGateway) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    asked = [*nobody, "/usr/bin/python3", "-IS", "-c", ASK, NAME, "0"]
    assert one_lab.laptop.run(asked).stdout == "False\n", "there is no such interface: anybody can see that"
    one_lab.plug(CAFE.name)
    one_lab.laptop.ifup("eth0")
    assert one_lab.laptop.run(asked).stdout == "None\n"


@pytest.mark.parametrize("removed", [False, True], ids=["configured", "its configuration gone"])
def test_a_tunnel_for_the_whole_internet_leaves_nothing(
    one_lab: Lab, gateway: WireGuardGateway, removed: bool
) -> None:
    laptop = one_lab.laptop

    def read_rules() -> str:
        commands = ("ip rule", "ip -6 rule", "nft list tables", "ip route show table all")
        return "".join(laptop.run(command.split()).stdout for command in commands)

    laptop.write(CONFIG, gateway.client_config("0.0.0.0/0, ::/0"), 0o600)
    one_lab.plug(OFFICE.name)
    laptop.ifup("eth0")
    # The link-local address comes a moment after the carrier.
    wait_until(lambda: "local fe80:" in read_rules(), "the link-local address")
    before = read_rules()
    laptop.ifdown("eth0")
    configure_office(one_lab)
    laptop.ifup("eth0")
    assert "wg-quick" in read_rules()
    assert ask(one_lab) == "True"
    assert laptop.pings(GATEWAY)
    if removed:
        laptop.run(["rm", CONFIG])
    configure(one_lab)
    laptop.ifdown("eth0")
    wait_until_gone(one_lab)
    laptop.ifup("eth0")
    wait_until(lambda: "local fe80:" in read_rules(), "the link-local address")
    assert read_rules() == before


def configure_office(lab: Lab) -> None:
    """Write the rules of somebody who wants the tunnel in the office."""
    lab.laptop.write("/etc/network/interfaces", f"iface eth0 inet dhcp\n    netconf-vpn wireguard {NAME}\n")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nonesuch", "/etc/wireguard/nonesuch.conf is not there"),
        ("sixteen-letters-", '"sixteen-letters-" can\'t be the name of an interface: at most 15 letters'),
        ("office@home", '"office@home" can\'t be the name of an interface'),
        ("wlan0", "wlan0 is an interface already, and not WireGuard's"),
    ],
)
def test_a_name_that_is_not_a_tunnels_is_an_error_and_ifup_unharmed(
    one_lab: Lab, gateway: WireGuardGateway, name: str, complaint: str
) -> None:
    one_lab.laptop.write("/etc/wireguard/wlan0.conf", gateway.client_config(), 0o600)
    configure(one_lab, name)
    one_lab.plug(CAFE.name)
    assert complaint in one_lab.laptop.ifup("eth0").stderr
    assert f'netconf-vpn "wireguard {name}": can\'t be started: ' in one_lab.laptop.log()
    assert one_lab.laptop.pings(CAFE.router)
    assert read_tunnel(one_lab, name)["up"] is False
    one_lab.laptop.ifdown("eth0")
    assert find_records(one_lab) == []


def test_what_wg_quick_refuses_is_an_error_in_its_words(one_lab: Lab, gateway: WireGuardGateway) -> None:
    one_lab.laptop.write(CONFIG, gateway.client_config().replace("Endpoint", "Endpont"), 0o600)
    one_lab.plug(CAFE.name)
    one_lab.laptop.ifup("eth0")
    assert re.search(
        r"^ERR netconf-hooks\[\d+\]: netconf-vpn \"wireguard corp\": can't be started: "
        r"Line unrecognized: `Endpont=203\.0\.113\.1:51820'; Configuration parsing error \(",
        one_lab.laptop.log(), re.MULTILINE | re.IGNORECASE,
    )
    assert one_lab.laptop.pings(CAFE.router)
    wait_until_gone(one_lab)


def test_an_endpoint_by_name(one_lab: Lab, gateway: WireGuardGateway) -> None:
    one_lab.laptop.write(CONFIG, gateway.client_config(endpoint="vpn.example.net:51820"), 0o600)
    one_lab.plug(CAFE.name)
    one_lab.laptop.ifup("eth0")
    assert ask(one_lab) == "True"


def test_a_wg_quick_that_waits_does_not_hold_up_ifup(one_lab: Lab, gateway: WireGuardGateway) -> None:
    laptop = one_lab.laptop
    waiting = "PreUp = mkfifo /run/fifo && echo there >/run/fifo\n"
    laptop.write(CONFIG, gateway.client_config(more=waiting), 0o600)
    one_lab.plug(CAFE.name)
    began = time.monotonic()
    laptop.ifup("eth0")
    assert time.monotonic() - began < 6
    assert read_tunnel(one_lab)["up"] is False
    # What it waited for comes, and it goes on by itself.
    assert laptop.run(["cat", "/run/fifo"]).stdout == "there\n"
    wait_until(lambda: find_interfaces(one_lab) == [NAME], "wg-quick to go on")
    wait_until(lambda: ask(one_lab) == "True", "the handshake")
    laptop.ifdown("eth0")
    wait_until_gone(one_lab)
    # It is called off by ifdown.
    laptop.run(["rm", "/run/fifo"])
    laptop.ifup("eth0")
    assert find_daemons(one_lab)
    laptop.ifdown("eth0")
    wait_until_gone(one_lab)


def test_check_says_what_is_missing(one_lab: Lab, gateway: WireGuardGateway) -> None:
    missing = f"{CONFIG} is not there"
    assert missing not in one_lab.laptop.run(["netconf-hooks", "check"]).stdout
    one_lab.laptop.run(["rm", CONFIG])
    assert missing in one_lab.laptop.run(["netconf-hooks", "check"], check=False).stdout


def test_the_packet_that_wakes_a_peer_goes_no_further_than_the_peer(one_lab):
    sent = one_lab.laptop.run(["/usr/bin/python3", "-IS", "-c", SEND_INTO])
    assert sent.stdout.splitlines() == ["True", "b'' True 1"]


def test_an_interface_that_is_deleted_comes_back(one_lab: Lab, gateway: WireGuardGateway) -> None:
    one_lab.plug("cafe")
    one_lab.laptop.ifup("eth0")
    wait_until(lambda: one_lab.laptop.pings(CORP_HOST), "the tunnel")
    one_lab.laptop.run(["ip", "link", "del", NAME])
    began = time.monotonic()
    wait_until(lambda: one_lab.laptop.pings(CORP_HOST), "the tunnel to be back")
    print(f"interface deleted -> back: {time.monotonic() - began:.1f} s")
    assert "started again, attempt 1 (its interface is gone)" in one_lab.laptop.log()
    one_lab.laptop.ifdown("eth0")
    wait_until_gone(one_lab)


def test_a_server_whose_name_leads_elsewhere_is_found_again(one_lab: Lab, gateway: WireGuardGateway) -> None:
    """Field case F15: the kernel keeps the address that wg-quick has resolved."""
    laptop, moved = one_lab.laptop, "203.0.113.9"
    hosts = laptop.read("/etc/hosts")
    laptop.write("/etc/hosts", f"{hosts}{VPN_GATEWAY} dynamic.example.net\n")
    laptop.write(CONFIG, gateway.client_config(endpoint="dynamic.example.net:51820"), 0o600)
    one_lab.plug("cafe")
    laptop.ifup("eth0")
    wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel")
    gateway.stop()
    forget_session(one_lab)
    wait_until(
        lambda: "no handshake with dynamic.example.net:51820" in str(read_tunnel(one_lab)["state"]),
        "status to say what it waits for", 30.0,
    )  # fmt: skip
    for change in (f"addr del {VPN_GATEWAY}/24", f"addr add {moved}/24"):
        one_lab.network.run("vpn", ["ip", *change.split(), "dev", "eth0"])
    one_lab.network.run("vpn", ["ip", "route", "replace", "default", "via", "203.0.113.254"])
    laptop.write("/etc/hosts", f"{hosts}{moved} dynamic.example.net\n")
    gateway.start()
    began = time.monotonic()
    wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel to be back", 60.0)
    print(f"server at another address -> back: {time.monotonic() - began:.1f} s")
    assert f"its server's name has another address now: {moved}:51820" in laptop.log()
