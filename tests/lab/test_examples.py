"""docs/examples/, as they are: what an admin copies from there does what it says."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .archive import ArchiveError, fetch_packages
from .ipsec import STRONGSWAN, IpsecGateway, write_swanctl
from .lab import Lab
from .laptop import DHCP_CLIENTS, Image
from .network import CAFE, CORP_HOST, HOME, OFFICE
from .stanzas import find_records, find_tunnels, read_status, wait_for_no_tunnel
from .waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
DIRECTORY = "/etc/netconf-hooks/event.d"


@pytest.fixture
def dhcp_client() -> str:
    """None of this depends on the DHCP client."""
    return DHCP_CLIENTS[0]


@pytest.fixture(scope="module")
def strongswan(requirements: None) -> list[Path]:
    """The packages of strongSwan; skips where Debian's archive can't be reached."""
    try:
        return fetch_packages(STRONGSWAN)
    except ArchiveError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def image(packages: list[Path], strongswan: list[Path]) -> Iterator[Image]:
    """A laptop's disk with the product and strongSwan."""
    with Image([*strongswan, *packages]) as made:
        yield made


@pytest.fixture
def gateway(lab: Lab, bare_image: Image, strongswan: list[Path]) -> Iterator[IpsecGateway]:
    """The IPsec gateway of the lab, and its client's configuration on the laptop."""
    write_swanctl(lab.laptop, "archive", "archive")
    with Image(strongswan) as image, IpsecGateway(lab.network, image) as made:
        yield made


def install(lab: Lab, name: str, path: str) -> None:
    """Copy an example to the laptop, with its mode."""
    file = EXAMPLES / name
    lab.laptop.write(path, file.read_text(encoding="utf-8"), os.stat(file).st_mode & 0o777)


def list_files() -> set[str]:
    """The examples, by name."""
    return {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*") if path.is_file()}


def is_program(name: str) -> bool:
    """Whether an example is run as it is."""
    return name.startswith(("event.d/", "if-up.d/", "monitor/", "practice")) and not name.endswith(".conf")


def has_child(lab: Lab) -> bool:
    """Whether charon has the tunnel, or is about to."""
    return "archive" in lab.laptop.run(["swanctl", "--list-sas"], check=False).stdout


# The others are run elsewhere.
ELSEWHERE = {"practice": "test_tutorial.py", "polkit/50-netconf-hooks.rules": "test_boot_polkit.py"}


def test_every_example_is_run_here_and_shipped(packages: list[Path]) -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for name in list_files():
        if name in ELSEWHERE:
            assert f"examples/{name}" in Path(__file__).with_name(ELSEWHERE[name]).read_text(encoding="utf-8")
            continue
        assert f'install(lab, "{name}", ' in here, f"docs/examples/{name} is run by no test"
    packed = subprocess.run(["dpkg-deb", "--contents", packages[0]], check=True, capture_output=True, text=True).stdout
    shipped = {}
    for line in packed.splitlines():
        mode, *_, path = line.split()
        shipped[path] = mode
    for name in list_files():
        mode = shipped[f"./usr/share/doc/netconf-hooks/examples/{name}"]
        assert mode == ("-rwxr-xr-x" if is_program(name) else "-rw-r--r--"), name


def test_the_roaming_stanza(lab: Lab, gateway: IpsecGateway) -> None:
    laptop = lab.laptop
    lab.vpn.install_client(laptop, "/etc/openvpn/client/corp.conf")
    install(lab, "interfaces", "/etc/network/interfaces")
    verdicts = {}
    for site in (HOME, OFFICE, CAFE):
        lab.plug(site.name)
        laptop.ifup("eth0")
        status = read_status(lab)
        verdicts[status["interfaces"]["eth0"]["location"]] = {
            name for name, tunnel in status["tunnels"].items() if tunnel["wanted"]
        }
        laptop.ifdown("eth0")
    assert verdicts == {
        "home-lan": {"openvpn corp", "ipsec archive", "unit backup.timer"},
        "office-lan": {"unit backup.timer"},
        None: {"openvpn corp", "ipsec archive"},
    }
    checked = laptop.run(["netconf-hooks", "check"], check=False).stdout.splitlines()
    errors = [line for line in checked if "error:" in line]
    assert errors
    assert all("unit tunnels need systemd, which does not run here: backup.timer" in line for line in errors)
    laptop.ifup("eth0")
    wait_until(lambda: read_status(lab)["tunnels"]["openvpn corp"]["up"], "OpenVPN to connect")
    wait_until(lambda: read_status(lab)["tunnels"]["ipsec archive"]["up"], "IPsec to connect")
    # The branch office's second line.
    laptop.ifdown("eth0")
    wait_for_no_tunnel(lab)
    lab.network.run("cafe", ["ip", "addr", "add", "10.20.0.53/24", "dev", "lan"])
    if laptop.dhcp_client == "dhclient":
        laptop.write("/etc/dhcp/dhclient.conf", "supersede domain-name-servers 10.20.0.53;\n")
    else:
        laptop.append("/etc/dhcpcd.conf", "static domain_name_servers=10.20.0.53\n")
    laptop.ifup("eth0")
    assert read_status(lab)["interfaces"]["eth0"]["location"] == "office-lan"
    assert find_tunnels(lab) == []


def test_the_guard(lab: Lab) -> None:
    laptop = lab.laptop
    lab.vpn.install_client(laptop, "/etc/openvpn/client/corp.conf")
    install(lab, "interfaces-guard", "/etc/network/interfaces")
    checked = laptop.run(["netconf-hooks", "check"])
    assert "anybody who forges the hints of" in checked.stdout
    guards = {}
    for site in (HOME, OFFICE, CAFE):
        lab.plug(site.name)
        laptop.ifup("eth0")
        guards[site.name] = read_status(lab)["interfaces"]["eth0"]["guard"]
        assert laptop.pings(site.router) == (site is not CAFE)
        if site is CAFE:
            wait_until(lambda: laptop.pings(CORP_HOST), "the host behind the VPN to answer")
        laptop.ifdown("eth0")
    assert guards == {"home": "open", "office": "open", "cafe": "closed"}
    wait_until(lambda: find_records(lab) == [], "the records to go")


def test_the_wish(lab: Lab) -> None:
    laptop = lab.laptop
    lab.vpn.install_client(laptop, "/etc/openvpn/client/corp.conf")
    install(lab, "interfaces-wish", "/etc/network/interfaces")
    assert laptop.run(["netconf-hooks", "check"]).returncode == 0
    lab.plug("cafe", "wlan0")
    laptop.ifup("corp")
    assert laptop.pings(CORP_HOST)
    laptop.ifdown("corp")
    wait_for_no_tunnel(lab)
    assert find_records(lab) == []
    assert laptop.run(["ifquery", "--state"]).stdout == ""


def test_ipsec_by_events_alone(lab: Lab, gateway: IpsecGateway) -> None:
    """The mission's own example: on inet-connected, unless between office-lan-connected and office-lan-disconnected."""
    laptop = lab.laptop
    install(lab, "interfaces-events", "/etc/network/interfaces")
    install(lab, "event.d/ipsec-unless-office", f"{DIRECTORY}/ipsec-unless-office")
    assert "netconf-vpn" not in laptop.read("/etc/network/interfaces")
    laptop.run(["ipsec", "start"])
    load = ["swanctl", "--load-all", "--noprompt"]
    wait_until(lambda: laptop.run(load, check=False).returncode == 0, "charon to listen")

    def expect(tunnel: bool) -> None:
        if tunnel:
            wait_until(lambda: laptop.pings(CORP_HOST), "the host behind the VPN to answer")
        assert has_child(lab) is tunnel
        assert read_status(lab)["tunnels"] == {}  # it is the script's, not ours

    for site in (HOME, OFFICE, CAFE):
        lab.plug(site.name)
        laptop.ifup("eth0")
        expect(tunnel=site is not OFFICE)
        laptop.ifdown("eth0")
        expect(tunnel=False)

    # With a second uplink, that is: without the way to the internet ever being lost.
    lab.plug("cafe", "wlan0")
    laptop.ifup("wlan0")
    expect(tunnel=True)
    lab.plug("office", "eth0")
    laptop.ifup("eth0")
    expect(tunnel=False)
    laptop.ifdown("wlan0")
    expect(tunnel=False)
    laptop.ifup("wlan0")
    laptop.ifdown("eth0")
    expect(tunnel=True)
    laptop.ifdown("wlan0")
    expect(tunnel=False)
    assert "err netconf-hooks" not in laptop.log()


def test_the_mapping(lab: Lab) -> None:
    laptop = lab.laptop
    install(lab, "interfaces-mapping", "/etc/network/interfaces")
    lab.plug("home")
    laptop.ifup("eth0")
    assert "eth0=home-lan" in laptop.run(["ifquery", "--state"]).stdout
    assert "inet 192.168.1.2/24 " in laptop.run(["ip", "-o", "address", "show", "dev", "eth0"]).stdout
    laptop.ifdown("eth0")
    lab.plug("cafe")
    laptop.ifup("eth0")
    assert "eth0=elsewhere" in laptop.run(["ifquery", "--state"]).stdout
    wait_until(lambda: laptop.pings(CORP_HOST), "the host behind the VPN to answer")
    laptop.ifdown("eth0")
    wait_for_no_tunnel(lab)
    lab.unplug()
    assert laptop.ifup("eth0", check=False).returncode != 0  # nothing is plugged in


def test_upstarts_two_liner(lab: Lab) -> None:
    """No Debian that is supported has upstart: what is looked at is that initctl is called as initctl(8) documents it,
    ``initctl emit [--no-wait] EVENT [KEY=VALUE]...``."""
    laptop = lab.laptop
    install(lab, "interfaces-events", "/etc/network/interfaces")
    install(lab, "event.d/upstart", f"{DIRECTORY}/upstart")
    laptop.write("/usr/sbin/initctl", '#!/bin/sh\nprintf "%s|" "$@" >>/run/initctl\necho >>/run/initctl\n', 0o755)
    lab.plug("office")
    laptop.ifup("eth0")
    laptop.ifdown("eth0")
    assert laptop.read("/run/initctl").splitlines() == [
        f"emit|--no-wait|{event}|IFACE=eth0|LOGICAL=eth0|LOCATION=office-lan|"
        for event in ("office-lan-connected", "inet-connected", "inet-disconnected", "office-lan-disconnected")
    ]
    assert "err netconf-hooks" not in laptop.log()


def test_a_hook_in_python(lab: Lab) -> None:
    laptop = lab.laptop
    setting = "/etc/apt/apt.conf.d/90office-proxy"
    install(lab, "interfaces-events", "/etc/network/interfaces")
    install(lab, "if-up.d/office-proxy", "/etc/network/if-up.d/office-proxy")
    laptop.write("/etc/apt/apt.conf.d/00empty", "")
    for site in (OFFICE, CAFE, OFFICE):
        lab.plug(site.name)
        laptop.ifup("eth0")
        assert laptop.exists(setting) is (site is OFFICE)
        laptop.ifdown("eth0")
    assert OFFICE.router in laptop.read(setting)
    told = laptop.run(["apt-config", "dump", "Acquire::http::Proxy"]).stdout
    assert told == 'Acquire::http::Proxy "http://proxy.corp.example.com:3142";\n'
    # An interface that nobody can say anything of, and lo, stop no ifup.
    laptop.run(["/etc/network/if-up.d/office-proxy"], env={"IFACE": "lo"})
    said = laptop.run(["/etc/network/if-up.d/office-proxy"], env={"IFACE": "wlan9"}).stderr
    assert said == "office-proxy: wlan9: ifquery: unknown interface wlan9\n"
    assert laptop.exists(setting)


def test_status_bars_and_notifications(lab: Lab) -> None:
    """Each runs as an ordinary user from before the first ifup, and follows the laptop from home to the cafe."""
    laptop = lab.laptop
    lab.vpn.install_client(laptop, "/etc/openvpn/client/corp.conf")
    install(lab, "interfaces-guard", "/etc/network/interfaces")
    install(lab, "monitor/waybar", "/usr/local/bin/netconf-waybar")
    install(lab, "monitor/notify", "/usr/local/bin/netconf-notify")
    install(lab, "monitor/i3blocks.conf", "/etc/i3blocks.conf")
    laptop.write("/usr/bin/notify-send", '#!/bin/sh\necho "$@" >>/tmp/notified\n', 0o755)
    (command,) = [
        line.removeprefix("command=")
        for line in laptop.read("/etc/i3blocks.conf").splitlines() if line.startswith("command=")
    ]  # fmt: skip
    laptop.write("/tmp/notified", "", 0o666)
    running = []
    for name, program in (("waybar", "netconf-waybar"), ("notify", "netconf-notify"), ("i3blocks", command)):
        laptop.write(f"/tmp/{name}", "", 0o666)
        as_user = f"exec setpriv --reuid=1000 --regid=1000 --clear-groups {program} >/tmp/{name}"
        running.append(laptop.start(["sh", "-c", as_user]))
    wait_until(lambda: laptop.read("/tmp/i3blocks"), "the first line", 30)
    lab.plug("home")
    laptop.ifup("eth0")
    wait_until(lambda: '"text": "home-lan"' in laptop.read("/tmp/waybar"), "waybar to be at home", 30)
    laptop.ifdown("eth0")
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_until(lambda: "eth0: unknown; guard of eth0: closed; " in laptop.read("/tmp/notified"), "a notification", 30)
    connected = "openvpn corp: connected"
    wait_until(lambda: laptop.read("/tmp/i3blocks").rstrip().endswith(connected), "the tunnel in the block", 30)
    wait_until(lambda: json.loads(laptop.read("/tmp/waybar").splitlines()[-1])["class"] == "good", "waybar", 30)
    last = json.loads(laptop.read("/tmp/waybar").splitlines()[-1])
    assert last == {"text": "unknown", "tooltip": "openvpn corp: up", "class": "good"}
    laptop.ifdown("eth0")
    wait_until(
        lambda: laptop.read("/tmp/i3blocks").splitlines()[-1] == "no interface with netconf rules is up",
        "the last record to go", 30,
    )  # fmt: skip
    for each in running:
        assert each.process.poll() is None
        each.kill()
