"""The demo: it tells the truth, and when something is not as it should be it says so and fails."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import demo, ipsec
from .archive import fetch_packages
from .conftest import ROOT
from .lab import Lab
from .laptop import Image
from .namespaces import ENVIRONMENT
from .network import CORP_HOST, INTERNET_HOST
from .stanzas import LOCATIONS
from .vpn import NAME

HOME, OFFICE, CAFE, HOME_AGAIN, OFFICE_AGAIN, CAFE_BY_CABLE = demo.STOPS
DEMO = [sys.executable, "-m", "tests.lab.demo"]


@pytest.fixture(scope="module")
def ipsec_image(packages: list[Path]) -> Iterator[Image]:
    """A laptop's disk with the product and strongSwan installed."""
    with Image([*fetch_packages(ipsec.STRONGSWAN), *packages]) as made:
        yield made


@pytest.fixture
def one_lab(ipsec_image: Image) -> Iterator[Lab]:
    """A lab with the product installed; the DHCP client, dhcpcd, is the faster one to leave a network."""
    with Lab(ipsec_image, "dhcpcd") as made, demo.add_ipsec(made, ipsec_image):
        yield made


def find_sections(told: str) -> dict[str, str]:
    """Return what was told under each heading."""
    parts = re.split(r"^---- (.*?) -+\n", told, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_whole_story(packages: object, dhcp_client: str) -> None:
    result = subprocess.run([*DEMO, "--dhcp-client", dhcp_client], cwd=ROOT, capture_output=True, text=True)
    told = result.stdout
    assert (result.returncode, result.stderr) == (0, ""), told
    assert "FAIL" not in told and "\033" not in told
    assert max(map(len, told.splitlines())) <= demo.COLUMNS
    sections = find_sections(told)
    assert LOCATIONS.splitlines()[0].strip() in sections["The laptop"]
    for title, answers in (("1. Home", "answers"), ("2. The office", "does not answer"), ("4. Home again", "answers")):
        assert "  ok  tunnel      openvpn corp: not wanted, not connected" in sections[title]
        assert f"  ok  behind it   {CORP_HOST} {answers}" in sections[title]
    assert "  ok  tunnel      ipsec work: wanted, connected" in sections["1. Home"]
    assert "  ok  tunnel      ipsec work: not wanted, not connected" in sections["2. The office"]
    assert "  ok  location    home-lan" in sections["1. Home"]
    assert "  ok  location    office-lan" in sections["2. The office"]
    cafe = sections["3. The cafe"]
    for command in ("ifup eth0", "netconf-hooks status --json", "netconf-hooks explain eth0", "ifdown eth0"):
        assert f"laptop# {command}\n" in cafe
    assert "  ok  location    unknown" in cafe
    assert "  ok  tunnel      openvpn corp: wanted, connected" in cafe
    assert f"  ok  behind it   {CORP_HOST} answers" in cafe
    assert f"64 bytes from {CORP_HOST}" in cafe
    assert "  ok  guard       open\n" in sections["1. Home"] and "  ok  guard       closed\n" in cafe
    assert "netconf-guard    unless home-lan office-lan" in sections["The laptop"]
    assert "anybody who forges the hints of home-lan or office-lan can open it" in unwrap(sections["The laptop"])
    check_leak_test(cafe)
    assert re.search(r"  ok  time        ifup \d\.\d\d s; the tunnel was connected within \d\.\d\d s of its", cafe)
    stops = 6 if dhcp_client == "dhcpcd" else 5
    # The office is left by pulling the cable.
    assert told.count("left behind: no record, no process") == 5
    assert f"All {stops} stops were as they should be" in sections["In short"]
    if dhcp_client == "dhcpcd":
        by_cable = sections["6. The cafe, by cable"]
        assert "laptop# ifup" not in by_cable
        assert "  ok  tunnel      openvpn corp: wanted, connected" in by_cable
        assert re.search(r"all was so within \d\.\d\d s of the cable being pushed in", by_cable)


def unwrap(told: str) -> str:
    """Return what was told as one line."""
    return " ".join(told.split())


def check_leak_test(cafe: str) -> None:
    """The leak test: numbers that can be, and commands that were really typed."""
    assert re.search(r"laptop# kill -KILL \d+\n", cafe) and "laptop# netconf-hooks release eth0\n" in cafe
    words = r"(\d+) packets of the tunnel, \d+ of ARP, ND and DHCP, (\d+) others\n"
    found = {
        label: [int(number) for number in re.findall(rf"  ok  {label:<12}{words}", cafe)[0]]
        for label in ("tunnel up", "killed", "released")
    }
    assert found["tunnel up"][0] >= 10 and found["tunnel up"][1] == 0
    assert found["killed"] == [0, 0]
    # Ten packets to each of the two hosts.
    assert found["released"][0] == 0 and found["released"][1] >= 20
    for host in (CORP_HOST, INTERNET_HOST):
        assert re.search(rf"10 x icmp type 8 192\.168\.3\.\d+ > {re.escape(host)} ", cafe)


def tell(lab: Lab, capsys: pytest.CaptureFixture[str], *stops: demo.Stop) -> list[str]:
    """Run the demo in this lab, expect it to fail, and return what it says at the end was wrong."""
    assert demo.main([], lab, stops) == 1
    told = capsys.readouterr().out
    assert "were as they should be" not in told
    ending = " ".join(find_sections(told)["In short"].split())
    return [failure.strip() for failure in ending.split("FAIL")[1:]]


def test_a_wrong_expectation_fails(one_lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = (HOME._replace(location="office-lan"), OFFICE._replace(tunnels=CAFE.tunnels), CAFE._replace(tunnels=()))
    assert tell(one_lab, capsys, *wrong, HOME_AGAIN) == [
        "Home: location: home-lan; expected: office-lan",
        "The office: tunnel: openvpn corp: not wanted, not connected; expected: wanted, connected",
        f"The office: behind it: {CORP_HOST} does not answer; expected: answers",
        "The cafe: tunnel: openvpn corp: wanted, connected; expected: not wanted, not connected",
        f"The cafe: behind it: {CORP_HOST} answers; expected: does not answer",
    ]


def test_without_the_product_it_fails(bare_image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    with Lab(bare_image, "dhcpcd") as lab:
        failures = tell(lab, capsys, CAFE)
    assert "The cafe: location: not recorded; expected: unknown" in failures
    assert f"The cafe: behind it: {CORP_HOST} does not answer; expected: answers" in failures


def test_a_guard_that_lets_all_through_fails(one_lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the product says of it: what counts is the capture."""
    one_lab.laptop.write("/etc/network/if-up.d/zz-flush", "#!/bin/sh\nnft flush ruleset\n", 0o755)
    one_lab.laptop.run(["mv", "/usr/sbin/netconf-hooks", "/usr/sbin/real"])
    # No watcher puts the guard back, and what the command that keeps the tunnel down puts back goes again.
    flushing = ["#!/bin/sh", "[ $1 = watch ] && exit", '/usr/sbin/real "$@"', "status=$?",
                "[ $1 = hold ] && nft flush ruleset", "exit $status", ""]  # fmt: skip
    one_lab.laptop.write("/usr/sbin/netconf-hooks", "\n".join(flushing), 0o755)
    failures = tell(one_lab, capsys, CAFE)
    assert [failure.split(":")[1] for failure in failures] == [" guard", " tunnel up", " killed"]


def test_without_the_hooks_it_fails(one_lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    one_lab.laptop.run(["find", "/etc/network", "-type", "l", "-name", "*netconf-hooks", "-delete"])
    failures = tell(one_lab, capsys, HOME, CAFE)
    assert "Home: location: not recorded; expected: home-lan" in failures
    assert "The cafe: tunnel: openvpn corp: not recorded; expected: wanted, connected" in failures


def test_a_vpn_server_that_is_down_fails(
    one_lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PATIENCE", 1.0)
    one_lab.vpn.stop()
    assert tell(one_lab, capsys, CAFE) == [
        "The cafe: tunnel: openvpn corp: wanted, not connected; expected: wanted, connected",
        f"The cafe: behind it: {CORP_HOST} does not answer; expected: answers",
    ]


def test_a_hook_that_complains_and_a_process_left_behind_fail(
    one_lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PATIENCE", 1.0)
    one_lab.laptop.run(["rm", f"/etc/openvpn/{NAME}.conf"])
    stray = one_lab.laptop.start(["tail", "-f", "/dev/null"])
    failures = tell(one_lab, capsys, CAFE)
    stray.kill()
    stray.wait()
    assert any("time: ifup" in failure and "the hooks complain" in failure for failure in failures)
    assert any("left behind: tail -f /dev/null" in failure for failure in failures)


@pytest.mark.parametrize(("no_color", "coloured"), (("", True), ("1", False)))
def test_colours_only_on_a_terminal_that_wants_them(no_color: str, coloured: bool) -> None:
    ours, theirs = pty.openpty()
    script = "import sys; from tests.lab.demo import Fact, Screen; Screen(sys.stdout).fact(Fact('x', 'y', True))"
    with open(ours, "rb", buffering=0) as terminal:
        environment = ENVIRONMENT | {"NO_COLOR": no_color}
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, stdout=theirs, check=True)
        said = terminal.read(1000)
        os.close(theirs)
    assert b"ok" in said and (b"\033[32m" in said) is coloured
