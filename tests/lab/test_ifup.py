"""netconf-vpn ifup: WireGuard that ifupdown itself brings up (field case F10), on a laptop without systemd.

tests/lab/test_boot_ifup.py has systemd.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .namespaces import ENVIRONMENT
from .network import CAFE, CORP_HOST, OFFICE
from .stanzas import LOCATIONS, find_records, read_status
from .waiting import wait_until
from .wireguard import SETCONF, WG0, WireGuardGateway

ONE_CLIENT = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
ETH0 = f"""\
iface eth0 inet dhcp
{LOCATIONS}
    netconf-vpn      ifup wg0  unless home-lan office-lan
"""


@pytest.fixture(scope="module", autouse=True)
def tools(requirements: None) -> None:
    """Skip without the programs."""
    missing = [name for name in ("wg", "wireguard-go") if not shutil.which(name, path=ENVIRONMENT["PATH"])]
    if missing:
        pytest.skip("WireGuard needs: apt install wireguard-tools wireguard-go")


@pytest.fixture
def gateway(lab: Lab) -> Iterator[WireGuardGateway]:
    """The WireGuard gateway of the test's lab, with the laptop configured for it."""
    with WireGuardGateway(lab.network) as made:
        made.install_stanza_client(lab.laptop)
        configure(lab)
        yield made


def configure(lab: Lab, wg0: str = WG0, more: str = "") -> None:
    """Write /etc/network/interfaces."""
    lab.laptop.write("/etc/network/interfaces", f"{more}{wg0}{ETH0}")


def read_tunnel(lab: Lab) -> dict[str, object]:
    """Return what ``netconf-hooks status --json`` says of the tunnel."""
    return read_status(lab)["tunnels"]["ifup wg0"]


def is_configured(lab: Lab, name: str = "wg0") -> bool:
    """Whether ifupdown has an interface up, or is at work on it."""
    return lab.laptop.run(["ifquery", "--state", name], check=False).stdout.startswith(name)


def is_there(lab: Lab) -> bool:
    """Whether there is an interface wg0."""
    return lab.laptop.run(["ip", "link", "show", "wg0"], check=False).returncode == 0


def connects(lab: Lab) -> bool:
    """Whether packets pass the tunnel."""
    return lab.laptop.pings(CORP_HOST)


def connect_in_cafe(lab: Lab) -> None:
    """Plug eth0 into the cafe, bring it up, and wait for the tunnel."""
    lab.plug(CAFE.name)
    lab.laptop.ifup("eth0")
    wait_until(lambda: connects(lab), "the host behind the VPN to answer", 30)


def wait_until_down(lab: Lab) -> None:
    """Wait until ifdown has taken the tunnel down."""
    wait_until(lambda: not is_configured(lab) and not is_there(lab), "ifdown to take wg0 down", 30)


def delete(lab: Lab) -> None:
    """Delete the interface, behind ifupdown's back."""
    lab.laptop.run(["ip", "link", "delete", "dev", "wg0"])
    wait_until(lambda: not is_there(lab), "the interface to be gone", 30)


def end(lab: Lab, iface: str = "eth0") -> None:
    """Take all down: nothing is left."""
    lab.laptop.ifdown(iface)
    wait_until_down(lab)
    wait_until(lambda: find_records(lab) == [], "the records to be gone", 30)


def test_cafe_office_and_ifdown(lab: Lab, gateway: WireGuardGateway) -> None:
    connect_in_cafe(lab)
    assert is_configured(lab)
    wait_until(lambda: read_tunnel(lab)["up"] is True, "status to say so", 30)
    assert read_tunnel(lab)["wanted"] is True

    lab.network.move(OFFICE.name, "eth0")  # a veto
    lab.laptop.ifdown("eth0")
    lab.laptop.ifup("eth0")
    wait_until_down(lab)
    assert read_tunnel(lab)["up"] is False

    lab.network.move(CAFE.name, "eth0")
    lab.laptop.ifdown("eth0")
    lab.laptop.ifup("eth0")
    wait_until(lambda: connects(lab), "the host behind the VPN to answer", 30)
    end(lab)
    assert "Traceback" not in lab.laptop.log()


@ONE_CLIENT
@pytest.mark.parametrize("auto", ["auto eth0 wg0\n", "auto wg0 eth0\n"], ids=["after", "before"])
def test_auto_in_the_same_file_and_ifup_a(lab: Lab, gateway: WireGuardGateway, auto: str) -> None:
    """ifup -a has its own turn with the tunnel, while our ifup of it runs or after it: nothing waits for itself."""
    configure(lab, more=auto)
    lab.plug(CAFE.name)
    lab.laptop.ifup("-a", timeout=60)
    wait_until(lambda: connects(lab), "the host behind the VPN to answer", 30)
    lab.laptop.ifup("-a", timeout=60)
    assert connects(lab)
    lab.laptop.ifdown("-a", timeout=60)
    wait_until_down(lab)
    wait_until(lambda: find_records(lab) == [], "the records to be gone", 30)
    assert "is still running" not in lab.laptop.log()


@ONE_CLIENT
def test_the_tunnel_has_rules_of_its_own(lab: Lab, gateway: WireGuardGateway) -> None:
    """Its hooks take the locks that the hook which takes it down holds: neither waits for the other."""
    configure(lab, WG0 + "    netconf-location far gateway=192.0.2.99\n")
    connect_in_cafe(lab)
    wait_until(lambda: lab.laptop.exists("/run/netconf-hooks/interfaces/wg0"), "the hook of wg0 to have been there", 30)
    end(lab)
    assert "ended before its work was done" not in lab.laptop.log(), "no hook met its deadline"


@ONE_CLIENT
def test_an_interface_that_is_deleted_comes_back(lab: Lab, gateway: WireGuardGateway) -> None:
    connect_in_cafe(lab)
    wait_until(lambda: "ifup wg0: connected" in lab.laptop.log(), "the watcher to have seen it", 30)
    delete(lab)
    wait_until(lambda: connects(lab), "the tunnel to be back", 30)
    assert "ifup wg0: started again, attempt 1 (its interface is gone)" in lab.laptop.log()
    end(lab)


@ONE_CLIENT
def test_a_failing_ifup_says_why_and_is_tried_until_it_can(lab: Lab, gateway: WireGuardGateway) -> None:
    """Field case F16 with ifupdown: the server's name does not resolve until the login at the captive portal."""
    good = lab.laptop.read(SETCONF)
    lab.laptop.write(SETCONF, good.replace("Endpoint", "Endpiont"), 0o600)
    lab.plug(CAFE.name)
    lab.laptop.ifup("eth0")
    wait_until(lambda: "next attempt in" in str(read_tunnel(lab)["state"]), "status to say so", 30)
    assert "Endpiont" in str(read_tunnel(lab)["state"])
    # Between two attempts.
    wait_until(lambda: not is_there(lab), "what a failed ifup has done to be undone")
    lab.laptop.write(SETCONF, good, 0o600)
    wait_until(lambda: connects(lab), "the host behind the VPN to answer", 30)
    end(lab)


@ONE_CLIENT
def test_an_ifdown_by_hand_is_the_admins_word(lab: Lab, gateway: WireGuardGateway) -> None:
    connect_in_cafe(lab)
    wait_until(lambda: "ifup wg0: connected" in lab.laptop.log(), "the watcher to have seen it", 30)
    lab.laptop.ifdown("wg0")
    wait_until(lambda: "stopped by hand (ifdown wg0)" in lab.laptop.log(), "the watcher to notice", 30)
    lab.laptop.run(["netconf-hooks", "refresh"])
    assert not is_there(lab) and "started again" not in lab.laptop.log()
    lab.laptop.run(["netconf-hooks", "unhold", "ifup", "wg0"])
    wait_until(lambda: connects(lab), "unhold to bring it back", 30)
    end(lab)


@ONE_CLIENT
def test_an_ifup_that_hangs_does_not_hold_up_the_end(lab: Lab, gateway: WireGuardGateway) -> None:
    configure(lab, WG0 + "    up       touch /run/hanging; tail -f /dev/null\n")
    lab.plug(CAFE.name)
    lab.laptop.ifup("eth0", timeout=60)
    wait_until(lambda: lab.laptop.exists("/run/hanging"), "ifup to hang", 30)
    lab.laptop.ifdown("eth0", timeout=60)
    wait_until_down(lab)
    wait_until(lambda: not any("ifup" in command for command in lab.laptop.processes().values()), "ifup to end", 30)


@ONE_CLIENT
def test_check_finds_circles_wishes_and_what_starts_at_boot(lab: Lab, gateway: WireGuardGateway) -> None:
    configure(lab, more="auto wg0\n")
    checked = lab.laptop.run(["netconf-hooks", "check"], check=False)
    assert "it also starts at boot: auto or allow-hotplug wg0" in checked.stdout
    assert checked.returncode == 0
    configure(lab, WG0 + "    netconf-vpn ifup wg0\n")
    checked = lab.laptop.run(["netconf-hooks", "check"], check=False)
    assert checked.returncode == 1 and "a circle" in checked.stdout
    configure(lab, WG0 + "iface corp inet manual\n    netconf-vpn ifup wg0\n    netconf-uplink wg0\n")
    checked = lab.laptop.run(["netconf-hooks", "check"], check=False)
    assert checked.returncode == 1 and "that is the stanza itself" in checked.stdout


@ONE_CLIENT
def test_a_wish_for_it(lab: Lab, gateway: WireGuardGateway) -> None:
    configure(lab, more="iface corp inet manual\n    netconf-vpn ifup wg0\n    netconf-uplink eth0\n")
    lab.plug(CAFE.name)
    lab.laptop.ifup("corp", timeout=90)
    wait_until(lambda: connects(lab), "the host behind the VPN to answer", 30)
    lab.laptop.ifdown("corp", timeout=90)
    wait_until_down(lab)
    assert not is_configured(lab, "eth0")


@ONE_CLIENT
def test_a_wish_for_one_whose_ifup_fails_says_why(lab: Lab, gateway: WireGuardGateway) -> None:
    """And does so after three attempts, not after the 30 s that a tunnel has to connect."""
    configure(lab, more="iface corp inet manual\n    netconf-vpn ifup wg0\n    netconf-uplink eth0\n")
    good = lab.laptop.read(SETCONF)
    lab.laptop.write(SETCONF, good.replace("Endpoint", "Endpiont"), 0o600)
    lab.plug(CAFE.name)
    result = lab.laptop.ifup("corp", check=False, timeout=90)
    assert result.returncode != 0
    assert 'corp: netconf-vpn "ifup wg0": not connected: ' in result.stderr and "Endpiont" in result.stderr
    assert lab.laptop.log().count("ifup wg0: started again") == 2
    wait_until_down(lab)
    assert not is_configured(lab, "eth0") and not is_configured(lab, "corp")
