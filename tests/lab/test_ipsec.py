"""ipsec: real charon and pluto on the laptop, without systemd, driven by ifup and ifdown.

charon encrypts by itself here (kernel-libipsec).  Libreswan needs the kernel's ESP, which this machine may lack: here
it is only told the truth of; tests/vm lets its packets through.
"""

from __future__ import annotations

import json
import time

import pytest

from . import ipsec_laptop
from .ipsec import (
    LIBRESWAN, LIBRESWAN_CONF, NAME, SECRET, SWANCTL_CONF, IpsecGateway, write_libreswan, write_starter, write_swanctl
)  # fmt: skip
from .ipsec_laptop import (
    STRONGSWANS, Client, bury_gateway, change_address, configure, expect_nothing_left, find_attempts, go_up,
    list_associations, read_tunnel, wait_until_up
)  # fmt: skip
from .lab import Lab
from .network import CAFE, CORP_HOST, DYNAMIC, OFFICE, SILENT_DNS, VPN_GATEWAY
from .stanzas import find_records
from .waiting import wait_until

gateway, images, lab = ipsec_laptop.gateway, ipsec_laptop.images, ipsec_laptop.lab

# What no hook may take: each is a fraction of a second when all is well.
PROMPT = 5.0

# One for each way to speak with charon.
VOICES = pytest.mark.parametrize(
    "client", [STRONGSWANS["swanctl"], STRONGSWANS["ipsec alone"]], ids=["swanctl", "ipsec alone"]
)
BOTH = pytest.mark.parametrize("client", [STRONGSWANS["swanctl"]], ids=["swanctl"])


@pytest.fixture(params=STRONGSWANS.values(), ids=STRONGSWANS)
def client(request: pytest.FixtureRequest) -> Client:
    """Each way to run strongSwan in turn."""
    chosen: Client = request.param
    return chosen


def find_daemons(lab: Lab, daemon: str) -> list[int]:
    """Return the pids of the laptop's processes of a program."""
    return [pid for pid, command in lab.laptop.processes().items() if command.split(" ")[0] == daemon]


def test_cafe_office_and_ifdown(lab: Lab, gateway: IpsecGateway, client: Client) -> None:
    assert go_up(lab) < PROMPT
    wait_until_up(lab)
    assert read_tunnel(lab)["wanted"] is True
    (daemon,) = find_daemons(lab, client.daemon)
    assert f"ipsec {NAME}: connected" in wait_until(lambda: not find_attempts(lab) and lab.laptop.log(), "the attempt")

    lab.laptop.ifdown("eth0")
    expect_nothing_left(lab)
    assert find_records(lab) == []
    assert find_daemons(lab, client.daemon) == [daemon], "the daemon is left running"

    go_up(lab, OFFICE.name)
    expect_nothing_left(lab)
    assert read_tunnel(lab)["up"] is False

    lab.laptop.ifdown("eth0")
    go_up(lab, CAFE.name, "wlan0")
    wait_until_up(lab)
    assert find_daemons(lab, client.daemon) == [daemon]


def test_a_dead_gateway_holds_up_nothing(lab: Lab, gateway: IpsecGateway) -> None:
    gateway.kill()
    assert go_up(lab) < PROMPT
    wait_until(lambda: find_attempts(lab) and "CONNECTING" in list_associations(lab), "the attempt to be under way")
    assert read_tunnel(lab)["up"] is False
    assert read_tunnel(lab)["wanted"] is True
    (attempt,) = find_attempts(lab)
    lab.laptop.run(["netconf-hooks", "refresh"])
    assert find_attempts(lab) == [attempt], "one attempt is enough"

    began = time.monotonic()
    lab.laptop.ifdown("eth0")
    assert time.monotonic() - began < PROMPT
    expect_nothing_left(lab)
    gateway.start()
    expect_nothing_left(lab)


def test_ifdown_right_after_ifup(lab: Lab, gateway: IpsecGateway) -> None:
    """Wherever the attempt is when it is cancelled, the daemon not even started: nothing comes of it afterwards."""
    for _ in range(3):
        go_up(lab)
        lab.laptop.ifdown("eth0")
        assert find_attempts(lab) == []
        assert NAME not in list_associations(lab)
        assert "INSTALLED" not in gateway.list_clients()


@VOICES
def test_a_gateway_that_comes_back_is_found(lab: Lab, gateway: IpsecGateway) -> None:
    gateway.kill()
    go_up(lab)
    wait_until(lambda: "CONNECTING" in list_associations(lab), "the first packet")
    gateway.start()
    wait_until_up(lab)


@VOICES
def test_a_gateway_that_died_does_not_hold_up_the_end(lab: Lab, gateway: IpsecGateway) -> None:
    go_up(lab)
    wait_until_up(lab)
    gateway.kill()
    began = time.monotonic()
    lab.laptop.ifdown("eth0")
    assert time.monotonic() - began < PROMPT + 1.0, "the DHCP client takes a second of it"
    expect_nothing_left(lab)


@VOICES
def test_a_gateway_that_died_while_the_address_changed_does_not_hold_up_the_end(
    lab: Lab, gateway: IpsecGateway
) -> None:
    """Field case F18: an exchange of MOBIKE is pending, and charon sends nothing else until it is answered."""
    bury_gateway(lab, gateway)


@VOICES
def test_a_gateway_that_has_forgotten_the_tunnel_is_asked_again(lab: Lab, gateway: IpsecGateway) -> None:
    """MOBIKE has its time; then the tunnel is initiated again, long before charon gives up."""
    go_up(lab)
    wait_until_up(lab)
    wait_until(lambda: f"ipsec {NAME}: connected" in lab.laptop.log(), "the watcher to have seen it", 30)
    gateway.kill()
    gateway.start()
    change_address(lab)
    began = time.monotonic()
    wait_until(lambda: f"ipsec {NAME}: restarted" in lab.laptop.log(), "the watcher to lose patience", 30)
    wait_until(lambda: lab.laptop.pings(CORP_HOST), "the tunnel to be back", 30)
    print(f"gateway has forgotten it, address changed -> back: {time.monotonic() - began:.1f} s")
    lab.laptop.ifdown("eth0")
    expect_nothing_left(lab)


@BOTH
def test_mobike_is_left_to_do_its_work(lab: Lab, gateway: IpsecGateway) -> None:
    go_up(lab)
    wait_until_up(lab)
    wait_until(lambda: f"ipsec {NAME}: connected" in lab.laptop.log(), "the watcher to have seen it", 30)
    established = read_serial(lab)
    change_address(lab)
    wait_until(lambda: "the network has changed" in lab.laptop.log(), "the watcher to notice", 30)
    wait_until(lambda: lab.laptop.read("/run/netconf-hooks/watch.tunnels").splitlines()[1].split("\t")[10] == "0.0",
               "the watcher to be content", 30)  # fmt: skip
    wait_until(lambda: lab.laptop.pings(CORP_HOST), "the host behind the gateway", 30)
    assert read_serial(lab) == established
    assert "restarted" not in lab.laptop.log()
    lab.laptop.ifdown("eth0")
    expect_nothing_left(lab)


def read_serial(lab: Lab) -> str:
    """Return which of charon's IKE_SAs there is."""
    return list_associations(lab).splitlines()[0].split(",")[0]


@VOICES
def test_a_gateway_that_refuses_is_told_in_its_words(lab: Lab, gateway: IpsecGateway) -> None:
    for path in (SWANCTL_CONF, "/etc/ipsec.secrets"):
        if lab.laptop.exists(path):
            lab.laptop.write(path, lab.laptop.read(path).replace(SECRET, "f" * 32), 0o600)
    go_up(lab)
    failed = f'netconf-vpn "ipsec {NAME}": not connected: '
    log = wait_until(lambda: failed in lab.laptop.log() and lab.laptop.log(), "the attempt to fail")
    (line,) = (line for line in log.splitlines() if failed in line)
    assert line.startswith("err ")
    assert "received AUTHENTICATION_FAILED notify" in line
    assert read_tunnel(lab)["up"] is False


@VOICES
@pytest.mark.parametrize("answer", ["nxdomain", "silent"])
def test_a_gateway_whose_name_can_not_be_resolved_is_tried_until_it_can(
    lab: Lab, gateway: IpsecGateway, client: Client, answer: str
) -> None:
    """Field case F16 with IPsec: behind a captive portal, before the login, or with a name server that says nothing."""
    known = f"--address=/{DYNAMIC}/{VPN_GATEWAY}"
    lab.network.change_dhcp(CAFE.name, known if answer == "silent" else f"--address=/{DYNAMIC}/")
    if answer == "silent":
        lab.network.run(CAFE.name, ["nft", "-f", "-"], text=SILENT_DNS)
    (write_swanctl if client.configure is write_swanctl else write_starter)(lab.laptop, gateway=DYNAMIC)
    assert go_up(lab) < PROMPT
    wait_until(lambda: read_tunnel(lab)["state"], "status to say what it waits for", 30)
    # Until then it is unknown: charon answers nobody while it waits for the name server.
    wait_until(lambda: read_tunnel(lab)["up"] is False, "status to say that it is down", 40)
    if answer == "silent":
        lab.network.run(CAFE.name, ["nft", "delete", "table", "ip", "silent"])
    else:
        lab.network.change_dhcp(CAFE.name, known)
    began = time.monotonic()
    wait_until(lambda: lab.laptop.pings(CORP_HOST), "the host behind the VPN to answer", 60)
    print(f"ipsec, {answer}: name resolves -> connected: {time.monotonic() - began:.1f} s")
    lab.laptop.ifdown("eth0")
    expect_nothing_left(lab)


@VOICES
def test_what_is_up_is_left_alone(lab: Lab, gateway: IpsecGateway) -> None:
    go_up(lab)
    wait_until_up(lab)
    before = gateway.list_clients().split("INSTALLED")[1]
    wait_until(lambda: not find_attempts(lab), "the attempt to end")
    go_up(lab, CAFE.name, "wlan0")
    lab.laptop.run(["netconf-hooks", "refresh"])
    lab.laptop.ifup("--force", "eth0", check=False)
    assert find_attempts(lab) == []
    lab.laptop.ifdown("wlan0")
    assert lab.laptop.pings(CORP_HOST)
    assert gateway.list_clients().split("INSTALLED")[1] == before


@VOICES
def test_a_tunnel_of_the_admins_own_is_ended_by_the_rules(lab: Lab, gateway: IpsecGateway, client: Client) -> None:
    lab.laptop.write("/etc/network/interfaces", "iface eth0 inet dhcp\n")
    go_up(lab)
    lab.laptop.run(["/usr/lib/netconf-hooks/tunnel", "start", f"ipsec-{NAME}"])
    assert lab.laptop.pings(CORP_HOST)
    configure(lab)
    lab.unplug()
    lab.laptop.ifdown("eth0")
    # In the office it is not wanted, whoever has started it.
    go_up(lab, OFFICE.name)
    expect_nothing_left(lab)


def test_nothing_lives_in_the_session_of_ifup(lab: Lab, gateway: IpsecGateway, client: Client) -> None:
    gateway.kill()
    lab.plug(CAFE.name)
    # The shell leads the session that ifup and its hooks are in.
    command = "ifup eth0 >/dev/null 2>&1; exec ps -o pid=,args= -s $$ -g $$"
    left = lab.laptop.run(["setsid", "--wait", "sh", "-c", command]).stdout
    wait_until(lambda: find_attempts(lab) and find_daemons(lab, client.daemon), "the attempt and its daemon")
    assert [line.split()[1] for line in left.splitlines()] == ["ps"]

    def find_held() -> set[str]:
        """Return what those processes have as standard streams and working directory, all together."""
        pids = (*find_attempts(lab), *find_daemons(lab, client.daemon))
        links = [f"/proc/{pid}/{link}" for pid in pids for link in ("fd/0", "fd/1", "fd/2", "cwd")]
        return set(lab.laptop.run(["readlink", *links], check=False).stdout.split())

    # The starter and charon give up what they were started with on their way to the background, and some of them end.
    wait_until(lambda: find_held() == {"/dev/null", "/"}, "those processes to be on their own")
    for pid in (*find_attempts(lab), *find_daemons(lab, client.daemon)):
        # An attempt may end, and the next one begin.
        assert "IF_NETCONF" not in lab.laptop.run(["cat", f"/proc/{pid}/environ"], check=False).stdout


@VOICES
def test_a_name_that_nobody_knows(lab: Lab, client: Client) -> None:
    configure(lab, "nosuch")
    lab.plug(CAFE.name)
    result = lab.laptop.ifup("eth0")
    (line,) = (line for line in result.stderr.splitlines() if "ipsec nosuch" in line)
    assert "no connection of this name: looked in " in line
    files = ("/etc/swanctl/swanctl.conf", SWANCTL_CONF) if client.configure is write_swanctl else ("/etc/ipsec.conf",)
    assert all(path in line for path in files)
    assert "it does not run" in line
    assert f"inet 192.168.{CAFE.number}." in lab.laptop.run(["ip", "-4", "addr", "show", "eth0"]).stdout
    assert find_daemons(lab, client.daemon) == [], "no daemon is started for nothing"
    assert read_tunnel(lab, "nosuch")["up"] is False
    lab.laptop.ifdown("eth0")
    assert find_records(lab) == []


@BOTH
def test_a_name_that_several_know(lab: Lab) -> None:
    write_starter(lab.laptop)
    lab.plug(CAFE.name)
    result = lab.laptop.ifup("eth0")
    (line,) = (line for line in result.stderr.splitlines() if f"ipsec {NAME}" in line)
    assert f'"{NAME}" can mean several connections: ' in line
    assert f"connection {NAME} in {SWANCTL_CONF}, conn {NAME} in /etc/ipsec.conf" in line
    check = lab.laptop.run(["netconf-hooks", "check"], check=False)
    assert check.returncode == 1
    assert "can mean several connections" in check.stdout


@BOTH
def test_a_child_by_its_own_name(lab: Lab, gateway: IpsecGateway) -> None:
    write_swanctl(lab.laptop, connection="headquarters", child="backup")
    configure(lab, "backup")
    go_up(lab)
    wait_until_up(lab, "backup")
    lab.laptop.ifdown("eth0")
    assert "headquarters" not in list_associations(lab)


@BOTH
def test_what_somebody_else_has_loaded(lab: Lab, gateway: IpsecGateway) -> None:
    """As network-manager-strongswan does it: charon knows a connection that no file has."""
    lab.laptop.run(["ipsec", "start"])
    load = ["swanctl", "--load-all", "--noprompt"]
    wait_until(lambda: lab.laptop.run(load, check=False).returncode == 0, "charon")
    lab.laptop.run(["rm", SWANCTL_CONF])
    go_up(lab)
    wait_until_up(lab)
    lab.laptop.ifdown("eth0")
    assert NAME not in list_associations(lab)


@BOTH
def test_a_connection_that_starts_with_the_daemon_is_warned_of(lab: Lab) -> None:
    write_swanctl(lab.laptop, options="        start_action = start\n")
    check = ["netconf-hooks", "check"]
    assert f"it also starts at boot: start_action = start of {NAME} in {SWANCTL_CONF}" in lab.laptop.run(check).stdout
    lab.laptop.run(["rm", SWANCTL_CONF])
    write_starter(lab.laptop, auto="start")
    assert "it also starts at boot: auto = start in /etc/ipsec.conf" in lab.laptop.run(check).stdout


@BOTH
def test_a_user_is_told_what_the_watcher_has_seen(lab: Lab, gateway: IpsecGateway) -> None:
    """Only root may ask charon."""
    go_up(lab)
    wait_until_up(lab)
    wait_until(lambda: f"ipsec {NAME}: connected" in lab.laptop.log(), "the watcher to have seen it", 30)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    told = json.loads(lab.laptop.run([*nobody, "/usr/sbin/netconf-hooks", "status", "--json"]).stdout)
    assert told["tunnels"][f"ipsec {NAME}"]["up"] is True


@pytest.mark.parametrize("client", [Client((), write_starter, "")], ids=["none"])
def test_without_any_ipsec_program(lab: Lab) -> None:
    lab.plug(CAFE.name)
    result = lab.laptop.ifup("eth0")
    assert "neither swanctl (strongSwan) nor ipsec (strongSwan, Libreswan) is installed" in result.stderr
    assert read_tunnel(lab)["up"] is False


PLUTO = "/usr/libexec/ipsec/pluto"
ON_LIBRESWAN = pytest.mark.parametrize("client", [Client(LIBRESWAN, write_libreswan, PLUTO)], ids=["libreswan"])


def has_kernel_esp(lab: Lab) -> bool:
    """Whether the kernel has ESP: it takes an SA."""
    words = "state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode tunnel enc aes 0x" + "00" * 16
    added = lab.laptop.run(["ip", "xfrm", *words.split()], check=False).returncode == 0
    lab.laptop.run(["ip", "xfrm", "state", "flush"], check=False)
    return added


@ON_LIBRESWAN
def test_libreswan_is_asked_for_the_truth(lab: Lab, gateway: IpsecGateway) -> None:
    """Its exit status is 0 when the kernel refuses the tunnel, and nobody believes it."""
    assert go_up(lab) < PROMPT
    if has_kernel_esp(lab):
        wait_until_up(lab)
    else:
        failed = f'netconf-vpn "ipsec {NAME}": not connected: '
        log = wait_until(lambda: failed in lab.laptop.log() and lab.laptop.log(), "the attempt to fail")
        assert "netlink response for Add SA esp" in log
        assert read_tunnel(lab)["up"] is False
    (daemon,) = find_daemons(lab, PLUTO)
    lab.laptop.ifdown("eth0")
    assert find_attempts(lab) == []
    assert NAME not in lab.laptop.run(["ipsec", "whack", "--showstates"]).stdout
    assert find_daemons(lab, PLUTO) == [daemon], "the daemon is left running"


@ON_LIBRESWAN
def test_libreswan_and_a_dead_gateway(lab: Lab) -> None:
    assert go_up(lab) < PROMPT
    states = ["ipsec", "whack", "--showstates"]
    wait_until(lambda: f'"{NAME}"' in lab.laptop.run(states, check=False).stdout, "pluto to try")
    assert read_tunnel(lab)["up"] is False
    assert len(find_attempts(lab)) == 1
    began = time.monotonic()
    lab.laptop.ifdown("eth0")
    assert time.monotonic() - began < PROMPT
    assert find_attempts(lab) == []
    assert f'"{NAME}"' not in lab.laptop.run(states).stdout


@ON_LIBRESWAN
def test_libreswan_does_not_know_the_name(lab: Lab) -> None:
    configure(lab, "nosuch")
    lab.plug(CAFE.name)
    asked = "pluto (/usr/sbin/ipsec whack --status): it does not run"
    assert f"looked in /etc/ipsec.conf, {LIBRESWAN_CONF}, {asked}" in lab.laptop.ifup("eth0").stderr
    assert find_daemons(lab, PLUTO) == []
