"""A tunnel that should be up is connected, or `status` says why not: the watcher brings back what has ended.

Each test prints the seconds that it took, for `pytest -rP`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator

import pytest

from . import wireguard
from .lab import Lab
from .laptop import DHCP_CLIENTS
from .namespaces import ENVIRONMENT
from .network import CORP_HOST, DYNAMIC, SILENT_DNS, VPN_GATEWAY
from .stanzas import LOCATIONS, find_tunnels, read_status, wait_for_no_tunnel, wait_for_tunnel
from .vpn import NAME
from .waiting import wait_until
from .watcher import wait_for_watcher
from .wireguard import WireGuardGateway

ONE_CLIENT = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
CONFIG = f"/etc/openvpn/{NAME}.conf"
ANYWHERE = f"iface eth0 inet dhcp\n{LOCATIONS}    netconf-vpn openvpn corp unless home-lan\n"

# A cause on this machine, and one that is gone again: seconds until the tunnel is back.
LOCAL = 15.0


def measure(what: str, happens: Callable[[], object], limit: float = LOCAL) -> float:
    """Wait for something, and return how many seconds it took; that is at most `limit`."""
    began = time.monotonic()
    wait_until(happens, what, limit)
    took = time.monotonic() - began
    print(f"{what}: {took:.1f} s")
    return took


def read_tunnel(lab: Lab) -> dict[str, object]:
    """Return what `status` says of the tunnel."""
    return read_status(lab)["tunnels"][f"openvpn {NAME}"]


def configure(lab: Lab, more: str = "", without: str = "") -> None:
    """Write the client's configuration, with `more` in it, without a line that begins with `without`."""
    lines = lab.vpn.client_config().splitlines()
    kept = [line for line in lines if not without or not line.startswith(without)]
    lab.laptop.write(CONFIG, "\n".join(kept) + "\n" + more, 0o600)


def go_up(lab: Lab, site: str = "cafe") -> None:
    """Bring eth0 up at a site where the tunnel is wanted."""
    lab.laptop.write("/etc/network/interfaces", ANYWHERE)
    lab.plug(site)
    lab.laptop.ifup("eth0")


def is_back(lab: Lab, former: int) -> bool:
    """Whether another OpenVPN than `former` carries packets."""
    return former not in find_tunnels(lab) and lab.laptop.pings(CORP_HOST)


def end(lab: Lab) -> None:
    """Take eth0 down, and all that has come up for it."""
    lab.laptop.ifdown("eth0")
    wait_for_no_tunnel(lab)


@ONE_CLIENT
@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_a_daemon_that_is_killed_comes_back(lab: Lab, signal: str) -> None:
    go_up(lab)
    pid = wait_for_tunnel(lab)
    lab.laptop.run(["kill", f"-{signal}", str(pid)])
    measure(f"killed by SIG{signal} -> back", lambda: is_back(lab, pid), 5.0)
    log = lab.laptop.log()
    (line,) = [line for line in log.splitlines() if "started again" in line]
    assert "openvpn corp: started again, attempt 1" in line
    end(lab)
    assert lab.laptop.log().count("started again") == 1, "ifdown is no end to be followed by a start"


@ONE_CLIENT
def test_a_daemon_that_left_because_of_a_silent_server_comes_back(lab: Lab) -> None:
    """Field case F12: ping-exit is in provider's files."""
    configure(lab, "pull-filter ignore ping\nping 1\nping-exit 3\nconnect-timeout 3\n")
    go_up(lab)
    pid = wait_for_tunnel(lab)
    lab.vpn.stop()
    wait_until(lambda: pid not in find_tunnels(lab), "ping-exit")
    wait_until(lambda: read_tunnel(lab)["state"], "status to say what it waits for")
    assert read_tunnel(lab)["up"] is False
    lab.vpn.start()
    measure("server back -> connected (ping-exit)", lambda: is_back(lab, pid))
    wait_until(lambda: read_tunnel(lab)["state"] is None, "status to have nothing more to say")
    end(lab)


@ONE_CLIENT
def test_a_server_that_is_away_is_named(lab: Lab) -> None:
    lab.vpn.stop()
    configure(lab, "connect-timeout 3\n")
    go_up(lab)
    said = wait_until(
        lambda: str(read_tunnel(lab)["state"]).startswith("no answer from") and read_tunnel(lab)["state"],
        "status to say what it waits for",
    )  # fmt: skip
    assert str(said).startswith(f"no answer from {VPN_GATEWAY}:1194/udp for ")
    assert f"openvpn corp: not connected: no answer from {VPN_GATEWAY}:1194/udp" in lab.laptop.log()
    lab.vpn.start()
    measure("server there for the first time -> connected", lambda: lab.laptop.pings(CORP_HOST))
    end(lab)


@ONE_CLIENT
@pytest.mark.parametrize("more", ["", "user nobody\ngroup nogroup\npersist-key\n"], ids=["root", "nobody"])
def test_moving_with_a_device_that_is_kept(lab: Lab, more: str) -> None:
    """Field case F13: the routes through the kept device swallow OpenVPN's own packets."""
    configure(
        lab,
        "pull-filter ignore ping\nping 3\nping-restart 120\npersist-tun\nredirect-gateway def1\n" + more,
    )
    go_up(lab)
    wait_for_tunnel(lab)
    lab.network.move("office", "eth0")
    lab.laptop.run(["ip", "addr", "flush", "dev", "eth0"])
    lab.laptop.give_back_lease()
    lab.laptop.ask_for_lease()
    assert "192.168.2." in lab.laptop.run(["ip", "addr", "show", "eth0"]).stdout
    measure("new address -> connected (persist-tun, redirect-gateway)", lambda: lab.laptop.pings(CORP_HOST))
    end(lab)


@ONE_CLIENT
def test_a_tunnel_that_works_is_not_touched(lab: Lab) -> None:
    go_up(lab)
    pid = wait_for_tunnel(lab)
    wait_for_watcher(lab)
    before = lab.vpn.log().count("Initiating connection") + lab.vpn.log().count("TLS: Initial packet")
    lab.laptop.run(["ip", "addr", "add", "192.168.3.77/24", "dev", "eth0"])
    wait_until(lambda: "the network has changed" in lab.laptop.log(), "the watcher to notice")
    wait_until(lambda: is_proven(lab), "the tunnel to show that it works")
    assert find_tunnels(lab) == [pid]
    after = lab.vpn.log().count("Initiating connection") + lab.vpn.log().count("TLS: Initial packet")
    assert after == before
    assert "SIGUSR1" not in lab.laptop.log()
    end(lab)


def is_proven(lab: Lab) -> bool:
    """Whether the tunnel has been doubted, and is not any more."""
    fields = lab.laptop.read("/run/netconf-hooks/watch.tunnels").splitlines()[1].split("\t")
    return fields[10] == "0.0" and fields[11] != "-1"


@ONE_CLIENT
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("management /run/own.sock unix\nmanagement-hold\n", "waiting for somebody at its management interface"),
        (
            "management /run/own.sock unix\nmanagement-query-passwords\nauth-user-pass\n",
            "waiting for a user name and password at its management interface",
        ),
    ],
    ids=["hold", "password"],
)
def test_a_daemon_that_waits_for_somebody_says_so(lab: Lab, more: str, words: str) -> None:
    """Field case F17."""
    configure(lab, more)
    go_up(lab)
    wait_until(lambda: str(read_tunnel(lab)["state"]).startswith(words), "status to say so")
    assert words in lab.laptop.run(["netconf-hooks", "status"]).stdout
    assert words in lab.laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
    assert lab.laptop.log().count(f"not connected: {words}") == 1
    end(lab)


@ONE_CLIENT
def test_what_can_not_start_is_tried_again_until_it_can(lab: Lab) -> None:
    configure(lab, "frobnicate 3\n")
    go_up(lab)
    said = wait_until(lambda: "next attempt in" in str(read_tunnel(lab)["state"]) and read_tunnel(lab)["state"], "it")
    assert "frobnicate" in str(said)
    wait_until(lambda: lab.laptop.log().count("started again") == 2, "the second attempt")
    configure(lab)
    measure("mended configuration -> connected", lambda: lab.laptop.pings(CORP_HOST))
    end(lab)


# Names (field case F16)

def configure_name(lab: Lab, kind: str, gateway: WireGuardGateway | None) -> None:
    """Write the client's configuration with the server's name in it, and the rule."""
    lab.laptop.write("/etc/network/interfaces", f"iface eth0 inet dhcp\n{LOCATIONS}    netconf-vpn {kind} corp\n")
    if gateway:
        lab.laptop.write(wireguard.CONFIG, gateway.client_config(endpoint=f"{DYNAMIC}:{wireguard.PORT}"), 0o600)
    else:
        text = lab.vpn.client_config().replace(f"remote {VPN_GATEWAY}", f"remote {DYNAMIC}")
        lab.laptop.write(CONFIG, text, 0o600)


@pytest.fixture
def gateway(request: pytest.FixtureRequest, lab: Lab) -> Iterator[WireGuardGateway | None]:
    """The WireGuard gateway, where the test is about that kind."""
    if request.getfixturevalue("kind") != "wireguard":
        yield None
        return
    if missing := [name for name in ("wg-quick", "wireguard-go") if not shutil.which(name, path=ENVIRONMENT["PATH"])]:
        pytest.skip(f"WireGuard needs: {' '.join(missing)}")
    with WireGuardGateway(lab.network) as made:
        yield made


@ONE_CLIENT
@pytest.mark.parametrize("kind", ["openvpn", "wireguard"])
@pytest.mark.parametrize("answer", ["nxdomain", "silent"])
def test_a_name_that_can_not_be_resolved_is_tried_until_it_can(
    lab: Lab, gateway: WireGuardGateway | None, kind: str, answer: str
) -> None:
    """Field case F16: behind a captive portal, before the login, or with a name server that says nothing."""
    known = f"--address=/{DYNAMIC}/{VPN_GATEWAY}"
    lab.network.change_dhcp("cafe", known if answer == "silent" else f"--address=/{DYNAMIC}/")
    if answer == "silent":
        lab.network.run("cafe", ["nft", "-f", "-"], text=SILENT_DNS)
    configure_name(lab, kind, gateway)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")

    def read() -> dict[str, object]:
        return read_status(lab)["tunnels"][f"{kind} {NAME}"]

    if kind == "wireguard" and answer == "nxdomain":
        wait_until(lambda: lab.laptop.log().count("started again") >= 2, "the second attempt", 30)
        assert "Name or service not known" in str(read()["state"])
    else:
        wait_until(lambda: read()["state"], "status to say what it waits for", 30)
    assert read()["up"] is not True
    if answer == "silent":
        lab.network.run("cafe", ["nft", "delete", "table", "ip", "silent"])
    else:
        lab.network.change_dhcp("cafe", known)
    # The program's own resolver, and wg(8), which tries again by itself, wait for as long as they like.
    measure(f"{kind}, {answer}: name resolves -> connected", lambda: lab.laptop.pings(CORP_HOST), 60)
    lab.laptop.ifdown("eth0")
    wait_until(lambda: not lab.laptop.pings(CORP_HOST), "the tunnel to end", 30)


@ONE_CLIENT
def test_a_server_whose_name_leads_elsewhere(lab: Lab) -> None:
    """OpenVPN resolves the name again when the former address has not answered for connect-timeout, which is 120 s
    unless configured; WireGuard: tests/lab/test_wireguard.py."""
    moved = "203.0.113.9"
    lab.network.change_dhcp("cafe", f"--address=/{DYNAMIC}/{VPN_GATEWAY}")
    configure_name(lab, "openvpn", None)
    lab.laptop.write(CONFIG, f"{lab.laptop.read(CONFIG)}connect-timeout 3\n", 0o600)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    wait_for_tunnel(lab)
    lab.network.run("vpn", ["ip", "addr", "add", f"{moved}/24", "dev", "eth0"])
    lab.network.change_dhcp("cafe", f"--address=/{DYNAMIC}/{moved}")
    lab.network.run("vpn", ["sed", "-i", f"s/^local .*/local {moved}/", "/run/vpn/server.conf"])
    lab.vpn.stop()
    lab.vpn.start()
    measure("openvpn, name leads elsewhere -> connected", lambda: lab.laptop.pings(CORP_HOST), 30)
    end(lab)


# After sleep (field case F14)

# The watcher, with a clock that stands still for as long as the test writes into a file.
SLEEPY_WATCHER = """\
#!/usr/bin/python3 -I
import sys
from netconf_hooks import cli
from netconf_hooks.watcher import watch
awake = watch._time_asleep
def time_asleep():
    try:
        return awake() + float(open("/run/asleep").read())
    except FileNotFoundError:
        return awake()
watch._time_asleep = time_asleep
sys.exit(cli.main())
"""


@ONE_CLIENT
def test_after_sleep_a_tunnel_whose_server_has_forgotten_it_connects_again(lab: Lab) -> None:
    """Field case F14: OpenVPN itself would notice after ping-restart, three minutes here.

    The time asleep can't be had in a lab: it is what the watcher reads of its clocks.
    """
    lab.laptop.write("/usr/sbin/netconf-hooks", SLEEPY_WATCHER, 0o755)
    configure(lab, "pull-filter ignore ping\nping 10\nping-restart 180\n")
    go_up(lab)
    wait_for_tunnel(lab)
    wait_for_watcher(lab)
    hook = "/usr/lib/systemd/system-sleep/netconf-hooks"
    lab.laptop.run([hook, "pre", "suspend"])
    lab.vpn.stop()
    lab.vpn.start()
    lab.laptop.write("/run/asleep", "3600\n")
    lab.laptop.run([hook, "post", "suspend"])
    measure("resume -> connected", lambda: lab.laptop.pings(CORP_HOST), 15)
    assert "told to connect again" in lab.laptop.log() or "openvpn corp: restarted" in lab.laptop.log()
    end(lab)


# A relay on this machine (field case F19)


@ONE_CLIENT
@pytest.mark.parametrize("guard", ["netconf-guard on anywhere\n", ""], ids=["guarded", "unguarded"])
def test_a_relay_behind_a_closed_guard_is_named(lab: Lab, guard: str) -> None:
    configure(lab, "connect-timeout 3\n", without="remote ")
    lab.laptop.write(CONFIG, lab.laptop.read(CONFIG) + "remote 127.0.0.1 1194\n", 0o600)
    stanza = f"{ANYWHERE}    {guard}"
    lab.laptop.write("/etc/network/interfaces", stanza)
    relay = "its server 127.0.0.1 is a program on this machine, whose own packets the guard drops"
    assert (relay in lab.laptop.run(["netconf-hooks", "check", "eth0"]).stdout) is bool(guard)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    said = wait_until(
        lambda: str(read_tunnel(lab)["state"]).startswith("no answer") and read_tunnel(lab)["state"], "the state", 30
    )
    assert (relay in str(said)) is bool(guard)
    for command in (["netconf-hooks", "status"], ["netconf-hooks", "explain", "eth0"]):
        assert (relay in lab.laptop.run(command).stdout) is bool(guard)
    end(lab)


# What `check` warns of


@ONE_CLIENT
def test_check_warns_of_what_keeps_a_tunnel_down(lab: Lab) -> None:
    """Field cases F11, F17, F20."""

    def check() -> str:
        return lab.laptop.run(["netconf-hooks", "check", "eth0"], check=False).stdout

    lab.laptop.write("/etc/network/interfaces", ANYWHERE)
    for more, words in {
        "management /run/own.sock unix\nmanagement-hold\n": "management-hold: it does not connect until",
        "auth-user-pass\n": "auth-user-pass without a file",
    }.items():
        configure(lab)
        assert words not in check()
        configure(lab, more)
        assert words in check()
    configure(lab)
    lab.laptop.write("/etc/network/interfaces", f"{ANYWHERE}    openvpn corp\n")
    assert 'the hook of the package openvpn starts corp whatever "netconf-vpn openvpn corp' in check()
    lab.laptop.write("/etc/network/interfaces", ANYWHERE)
    lab.laptop.run(["mv", CONFIG, CONFIG.replace(".conf", ".ovpn")])
    assert f"{CONFIG.replace('.conf', '.ovpn')} is" in check()
