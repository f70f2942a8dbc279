"""The lab itself: whether it is what the other tests take it for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT, take_snapshot
from .lab import Lab
from .laptop import Image, Laptop
from .namespaces import KINDS, CommandFailed, Namespaces
from .network import CORP_HOST, INTERNET_HOST, SITES, Network, Site
from .vpn import NAME, VpnServer
from .waiting import wait_until

CLIENT = ["openvpn", "--config", f"/etc/openvpn/{NAME}.conf", "--daemon", "--writepid", "/run/openvpn/test.pid"]


@pytest.fixture
def quiet_lab(bare_image: Image) -> Iterator[Lab]:
    """A lab for tests that take no DHCP client: once is enough."""
    with Lab(bare_image) as made:
        yield made


def find_members(namespaces: set[str]) -> list[str]:
    """Return the processes that are in any of these namespaces (``net:[4026531840]``): pid and command."""
    members = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if namespaces & {os.readlink(process / "ns" / kind) for kind in KINDS}:
                    members.append(f"{process.name} {(process / 'comm').read_text().strip()}")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return members


def find_namespaces(lab: Lab) -> set[str]:
    """Return all namespaces that a lab has and the tests' own process is not in."""
    files = [f"/proc/{lab.laptop.namespaces.pid}/ns/{kind}" for kind in KINDS]
    found = {os.readlink(file) for file in files}
    # A namespace file's inode is the number in its name (namespaces(7)).
    names = ("laptop", "internet", "vpn", "corp", *lab.network.sites)
    found |= {f"net:[{os.stat(lab.network.namespace(name)).st_ino}]" for name in names}
    return found - {os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}


@pytest.mark.parametrize("site", SITES, ids=[site.name for site in SITES])
def test_a_network_gives_an_address_its_domain_and_the_internet(bare_lab: Lab, site: Site) -> None:
    laptop = bare_lab.laptop
    bare_lab.plug(site.name)
    laptop.ifup("eth0")
    network = site.router.rpartition(".")[0]
    assert f"inet {network}." in laptop.run(["ip", "-4", "addr", "show", "dev", "eth0"]).stdout
    assert f"default via {site.router} dev eth0" in laptop.run(["ip", "route"]).stdout
    assert laptop.pings(INTERNET_HOST)
    assert site.router_mac in laptop.run(["ip", "neigh", "show", site.router]).stdout
    resolv_conf = laptop.read("/etc/resolv.conf")
    assert site.domain in resolv_conf
    assert f"nameserver {site.router}" in resolv_conf
    assert f"DHCPACK(lan) {network}." in bare_lab.network.router_log(site.name)
    # Each by its own client, and nothing of it left.
    assert [command for command in laptop.processes().values() if command.startswith(laptop.dhcp_client)]
    laptop.ifdown("eth0")
    wait_until(lambda: laptop.processes() == {}, "the DHCP client to end")
    assert "inet" not in laptop.run(["ip", "addr", "show", "dev", "eth0"]).stdout


def test_two_uplinks_at_once(bare_lab: Lab) -> None:
    laptop = bare_lab.laptop
    bare_lab.plug("home", "eth0")
    bare_lab.plug("cafe", "wlan0")
    laptop.ifup("eth0", "wlan0")
    assert "inet 192.168.1." in laptop.run(["ip", "addr", "show", "dev", "eth0"]).stdout
    assert "inet 192.168.3." in laptop.run(["ip", "addr", "show", "dev", "wlan0"]).stdout


def test_the_host_behind_the_vpn_answers_only_through_the_tunnel(bare_lab: Lab) -> None:
    laptop = bare_lab.laptop
    bare_lab.plug("cafe")
    laptop.ifup("eth0")
    assert not laptop.pings(CORP_HOST)
    assert not laptop.connects(CORP_HOST, 53)
    laptop.run(CLIENT)
    wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel")
    assert laptop.connects(CORP_HOST, 53)
    assert f"{CORP_HOST} via 10.8.0.1 dev tun0" in laptop.run(["ip", "route", "get", CORP_HOST]).stdout
    laptop.run(["kill", laptop.read("/run/openvpn/test.pid").strip()])
    wait_until(lambda: not laptop.exists("/sys/class/net/tun0"), "the client to end")
    assert not laptop.pings(CORP_HOST)


def test_a_vpn_server_that_dies_and_comes_back(quiet_lab: Lab) -> None:
    laptop = quiet_lab.laptop
    quiet_lab.plug("cafe")
    laptop.ifup("eth0")
    laptop.run(CLIENT)
    wait_until(lambda: laptop.pings(CORP_HOST), "the tunnel")
    quiet_lab.vpn.stop()
    assert not laptop.pings(CORP_HOST)
    quiet_lab.vpn.start()
    wait_until(lambda: laptop.pings(CORP_HOST), "the client to come back", timeout=20)


def test_pulling_the_plug_takes_the_carrier_away(quiet_lab: Lab) -> None:
    laptop = quiet_lab.laptop
    laptop.run(["ip", "link", "set", "eth0", "up"])
    assert not laptop.has_carrier("eth0")
    quiet_lab.plug("home")
    assert laptop.has_carrier("eth0")
    quiet_lab.unplug()
    assert not laptop.has_carrier("eth0")


def test_plugged_elsewhere_it_hears_another_router(quiet_lab: Lab) -> None:
    laptop = quiet_lab.laptop
    laptop.run(["ip", "link", "set", "eth0", "up"])
    laptop.run(["ip", "address", "add", "192.0.2.1/24", "dev", "eth0"])
    for site in (SITES[0], SITES[2], SITES[0]):
        quiet_lab.plug(site.name)
        laptop.run(["ip", "route", "replace", site.router, "dev", "eth0"])
        # ARP; busybox prints the numbers of a MAC address without leading noughts and in capitals.
        answer = laptop.run(["busybox", "arping", "-f", "-w", "3", "-I", "eth0", site.router]).stdout
        assert f"[{site.router_mac}]" in answer


def test_a_router_that_announces_ipv6(bare_lab: Lab) -> None:
    laptop = bare_lab.laptop
    bare_lab.network.announce_ipv6("home")
    bare_lab.plug("home")
    laptop.ifup("eth0")
    wait_until(lambda: "default" in laptop.run(["ip", "-6", "route"]).stdout, "the router's advertisement")
    wait_until(lambda: "2001:db8:1:" in laptop.run(["ip", "-6", "addr"]).stdout, "an address")
    assert "2001:db8:3:" not in laptop.run(["ip", "-6", "addr"]).stdout


def test_what_is_logged_can_be_read(quiet_lab: Lab) -> None:
    # More than the kernel keeps for a reader that does not read (net.unix.max_dgram_qlen).
    laptop = quiet_lab.laptop
    for number in range(3):
        send = "import syslog; syslog.openlog('netconf-hooks', syslog.LOG_PID, syslog.LOG_DAEMON)\n"
        send += f"for i in range(200): syslog.syslog(syslog.LOG_ERR, f'{number} {{i}}')"
        laptop.run(["/usr/bin/python3", "-IS", "-c", send])
        lines = laptop.log().splitlines()
        assert len(lines) == 200 * (number + 1)
        assert lines[-1].startswith("err netconf-hooks[") and lines[-1].endswith(f"]: {number} 199")


def test_files_are_written_and_read_in_the_laptop_only(quiet_lab: Lab) -> None:
    laptop = quiet_lab.laptop
    for path in ("/etc/network/interfaces.d/lab", "/usr/lib/netconf-lab/x", "/var/lib/lab", "/run/lab", "/tmp/lab-x"):
        laptop.write(path, "text\n", 0o755)
        assert laptop.read(path) == "text\n"
        assert laptop.run(["stat", "-c", "%a %U", path]).stdout == "755 root\n"
        assert not Path(path).exists()
    # Not through a link that leads out of the laptop's own files.
    laptop.run(["ln", "-s", "/run/elsewhere", "/etc/link"])
    laptop.write("/etc/link", "file")
    assert laptop.read("/etc/link") == "file"
    assert not laptop.exists("/run/elsewhere") and not Path("/run/elsewhere").exists()
    with pytest.raises(FileNotFoundError, match="/etc/nothing: No such file"):
        laptop.read("/etc/nothing")
    for path in ("/opt/lab", "/root/lab", "/lab"):
        with pytest.raises(CommandFailed, match="Read-only file system"):
            laptop.write(path, "")


def test_a_laptop_has_nothing_of_the_machine_it_runs_on(quiet_lab: Lab) -> None:
    laptop = quiet_lab.laptop
    assert laptop.processes() == {}
    assert laptop.run(["hostname"]).stdout == "laptop\n"
    assert laptop.run(["find", "/etc/network", "-path", "*/if-*/*"]).stdout == ""
    assert laptop.run(["ls", "/sys/class/net"]).stdout.split() == ["eth0", "lo", "wlan0"]
    assert not laptop.exists("/run/systemd/system")
    assert laptop.log() == ""
    variables = {line.split("=")[0] for line in laptop.run(["env"], env={"EXTRA": "1"}).stdout.splitlines()}
    assert variables == {"PATH", "LANG", "HOME", "EXTRA"}


def test_the_product_is_installed_as_it_is_shipped(image: Image) -> None:
    with Network() as network, Laptop(network, image) as laptop:
        status = laptop.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ", "*netconf-hooks"]).stdout
        assert status == "installed installed "
        found = laptop.run(["find", "/etc/network", "-path", "*/if-*/*"]).stdout.splitlines()
        assert sorted(found) == [
            "/etc/network/if-down.d/netconf-hooks",
            "/etc/network/if-post-down.d/netconf-hooks",
            "/etc/network/if-pre-up.d/00-netconf-hooks",
            "/etc/network/if-up.d/netconf-hooks",
        ]
        assert laptop.run(["netconf-hooks", "--help"]).stdout
    assert not Path("/usr/lib/netconf-hooks").exists()


def test_laptops_of_one_image_do_not_see_what_others_wrote(bare_image: Image) -> None:
    with Network() as network, Laptop(network, bare_image) as first:
        first.write("/etc/mark", "")
        with Network() as elsewhere, Laptop(elsewhere, bare_image) as second:
            assert first.exists("/etc/mark") and not second.exists("/etc/mark")
            first.run(["ip", "link", "set", "eth0", "up"])
            network.plug("home", "eth0")
            assert first.has_carrier("eth0") and not second.has_carrier("eth0")


def test_a_program_that_fails_hangs_or_leaves_a_daemon_behind(quiet_lab: Lab) -> None:
    laptop = quiet_lab.laptop
    with pytest.raises(CommandFailed, match="exit status 3\n--- standard output\nout\n--- standard error\nerr\n"):
        laptop.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert laptop.run(["sh", "-c", "exit 3"], check=False).returncode == 3
    with pytest.raises(TimeoutError, match="(?s)not ended after 1 s: .*started"):
        laptop.run(["sh", "-c", "echo started; tail -f /dev/null"], timeout=1)
    wait_until(lambda: laptop.processes() == {}, "what was killed to be gone")
    # A daemon keeps standard output open; its parent's end is what counts.
    assert laptop.run(["sh", "-c", "tail -f /dev/null & echo done"], timeout=5).stdout == "done\n"
    wait_until(lambda: list(laptop.processes().values()) == ["tail -f /dev/null"], "the daemon alone")


@pytest.mark.parametrize("how", ("closed", "failed"))
def test_taken_down_nothing_is_left(bare_image: Image, how: str) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    machine = take_snapshot()
    try:
        with Lab(bare_image) as lab:
            lab.plug("cafe")
            lab.laptop.ifup("eth0")
            lab.laptop.run(CLIENT)
            namespaces = find_namespaces(lab)
            assert len(namespaces) >= 7 + 3
            assert len(find_members(namespaces)) >= 8
            if how == "failed":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert how == "failed"
    assert find_members(namespaces) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert take_snapshot() == machine


def test_of_a_run_that_is_killed_nothing_is_left() -> None:
    program = """
import sys
from tests.lab.lab import Lab
from tests.lab.laptop import Image
from tests.lab.test_lab import CLIENT, find_namespaces
with Image() as image, Lab(image) as lab:
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    lab.laptop.run(CLIENT)
    print(*find_namespaces(lab), flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        assert run.stdout
        namespaces = set(run.stdout.readline().split())
        assert len(find_members(namespaces)) >= 8
        run.send_signal(signal.SIGKILL)
    wait_until(lambda: not find_members(namespaces), "everything to end")


def test_a_vpn_and_networks_without_a_laptop() -> None:
    with Network() as network, VpnServer(network) as vpn:
        assert "<key>" in vpn.client_config()
        listed = subprocess.run(
            ["nsenter", f"--net={network.laptop_namespace}", "ip", "-br", "link"], check=True, capture_output=True
        )
        assert b"wlan0" in listed.stdout


def test_a_namespace_that_can_not_be_made_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="could not make namespaces"):
        Namespaces(("mnt",), {"net": "/nonexistent"})


@pytest.mark.parametrize(("ci", "status", "summary"), (("true", 1, "1 error"), ("", 0, "1 skipped")))
def test_a_skip_is_a_failure_under_ci(ci: str, status: int, summary: str) -> None:
    test = "tests/lab/test_lab.py::test_a_vpn_and_networks_without_a_laptop"
    # In a user namespace without a mapping nobody is root (user_namespaces(7)).
    run = subprocess.run(
        ["unshare", "--user", sys.executable, "-m", "pytest", "-q", test],
        cwd=ROOT,
        env=os.environ | {"CI": ci, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, summary in run.stdout) == (status, True), run.stdout
    assert "needs root" in run.stdout
