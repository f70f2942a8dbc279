"""The leases of dhclient, captured from the real program (fixtures/README.md)."""

from __future__ import annotations

import calendar
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence import dhclient
from netconf_hooks.evidence.dhclient import HeldLeases, Lease

FIXTURES = Path(__file__).parent / "fixtures"
# The lease of dhclient-home.leases runs until 11:45:28, DHCPv6's until 11:45:30.
CAPTURED = float(calendar.timegm((2026, 11, 23, 10, 46, 0)))
HOME = Lease(
    interface="eth0",
    addresses=("192.168.1.102",),
    expires=float(calendar.timegm((2026, 11, 23, 11, 45, 28))),
    routers=("192.168.1.1",),
    domains=("home.example.", "corp.example.com.", "home.example"),
    servers=("192.168.1.1", "192.168.1.2"),
    dhcp_server="192.168.1.1",
)
LEASE = 'lease {{\n  interface "eth0";\n  fixed-address 192.0.2.7;\n{}  expire never;\n}}\n'


def read_fixture(name: str) -> str:
    return (FIXTURES / name).read_text()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that it is: `now`."""
    clock = SimpleNamespace(now=CAPTURED)
    clock.time = lambda: clock.now
    monkeypatch.setattr(dhclient, "time", clock)
    return clock


def find(directory: Path, *addresses: str, device: str = "eth0") -> HeldLeases:
    return dhclient.find_held_leases(device, lambda: addresses, str(directory))


# --- which of them count


def test_the_lease_that_dhclient_holds(tmp_path: Path) -> None:
    (tmp_path / "dhclient.eth0.leases").write_text(read_fixture("dhclient-home.leases"))
    assert find(tmp_path, "fe80::1", "192.168.1.102") == HeldLeases((HOME,), (), ())


def test_no_leases_at_all_and_nobody_asks_for_addresses(tmp_path: Path) -> None:
    def refuse() -> tuple[str, ...]:
        raise AssertionError("asked for addresses")

    nothing = HeldLeases((), (), ())
    assert dhclient.find_held_leases("eth0", refuse, str(tmp_path / "none")) == nothing
    (tmp_path / "dhclient.leases").write_text(read_fixture("dhclient-home.leases"))
    assert dhclient.find_held_leases("wlan0", refuse, str(tmp_path)) == nothing


def test_a_lease_counts_to_the_second(tmp_path: Path, clock: SimpleNamespace) -> None:
    path = tmp_path / "dhclient.eth0.leases"
    path.write_text(read_fixture("dhclient-home.leases"))
    clock.now = HOME.expires - 1
    assert find(tmp_path, "192.168.1.102").leases == (HOME,)
    clock.now = HOME.expires
    assert find(tmp_path, "192.168.1.102") == HeldLeases((), (f"{path}: the last lease is over",), ())


def run_dhclient(root: Path, file: str = "dhclient.eth0.pid", comm: str = "dhclient") -> dict[str, str]:
    """Let dhclient run with this pid file; return where that is to be found."""
    (root / "run").mkdir(exist_ok=True)
    (root / "run" / file).write_text("507\n")
    (root / "proc/507").mkdir(parents=True, exist_ok=True)
    (root / "proc/507/comm").write_text(f"{comm}\n")
    return {"run": str(root / "run"), "proc": str(root / "proc")}


@pytest.mark.parametrize("file", ["dhclient.eth0.pid", "dhclient.pid"])
def test_while_dhclient_runs_a_lease_counts_whatever_the_clock_says(
    tmp_path: Path, clock: SimpleNamespace, file: str
) -> None:
    """The machine has booted in 1970, or with the time of the last shutdown."""
    (tmp_path / "dhclient.eth0.leases").write_text(read_fixture("dhclient-home.leases"))
    places = run_dhclient(tmp_path, file)
    for now in (0.0, HOME.expires + 86400.0 * 365):
        clock.now = now
        held = dhclient.find_held_leases("eth0", lambda: ("192.168.1.102",), str(tmp_path), **places)
        assert held.leases == (HOME,)
        assert dhclient.find_held_leases("eth0", lambda: ("192.168.3.77",), str(tmp_path), **places).leases == ()


@pytest.mark.parametrize("file, comm", [
    ("dhclient.eth0.pid", "bash"), ("dhclient.eth1.pid", "dhclient"), ("dhclient6.eth0.pid", "dhclient"),
])
def test_another_process_holds_no_lease(tmp_path: Path, clock: SimpleNamespace, file: str, comm: str) -> None:
    (tmp_path / "dhclient.eth0.leases").write_text(read_fixture("dhclient-home.leases"))
    places = run_dhclient(tmp_path, file, comm)
    clock.now = HOME.expires
    assert dhclient.find_held_leases("eth0", lambda: ("192.168.1.102",), str(tmp_path), **places).leases == ()


def test_what_dhclient_has_released_it_does_not_hold(tmp_path: Path) -> None:
    text = read_fixture("dhclient6-ifdown.leases").replace('"eth0";\n', '"eth0";\n  released;\n')
    (tmp_path / "dhclient6.eth0.leases").write_text(text)
    places = run_dhclient(tmp_path, "dhclient6.eth0.pid")
    assert dhclient.find_held_leases("eth0", lambda: ("2001:db8:1::116",), str(tmp_path), **places).leases == ()


def test_a_lease_whose_address_the_link_lacks_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "dhclient.eth0.leases"
    path.write_text(read_fixture("dhclient-home.leases"))
    reason = f"{path}: eth0 does not have its address"
    assert find(tmp_path, "192.168.3.77") == HeldLeases((), (reason,), ())


def test_a_lease_that_was_given_back_does_not_count(tmp_path: Path) -> None:
    """Though the block before the last one still has 59 minutes."""
    (tmp_path / "dhclient.eth0.leases").write_text(read_fixture("dhclient-ifdown.leases"))
    assert find(tmp_path, "192.168.1.102").leases == ()


def test_both_families_and_the_files_for_all_interfaces(tmp_path: Path) -> None:
    (tmp_path / "dhclient.leases").write_text(
        read_fixture("dhclient-home.leases") + LEASE.format("").replace("eth0", "wlan0")
    )
    (tmp_path / "dhclient6.leases").write_text(read_fixture("dhclient6-ifdown.leases"))
    held = find(tmp_path, "2001:db8:1::116", "192.168.1.102", "192.0.2.7").leases
    assert [(one.addresses, one.routers) for one in held] == [
        (("192.168.1.102",), ("192.168.1.1",)),
        (("2001:db8:1::116",), ()),
    ]


def test_a_file_that_can_not_be_read_is_told_and_keeps_no_other_away(tmp_path: Path) -> None:
    path = tmp_path / "dhclient.eth0.leases"
    path.mkdir()
    (tmp_path / "dhclient.leases").write_text(read_fixture("dhclient-home.leases"))
    assert find(tmp_path, "192.168.1.102") == HeldLeases((HOME,), (), (f"{path}: Is a directory",))


def test_a_pipe_is_not_waited_for_but_told(tmp_path: Path) -> None:
    path = tmp_path / "dhclient.eth0.leases"
    os.mkfifo(path)
    assert find(tmp_path, "192.168.1.102") == HeldLeases((), (), (f"{path}: not a regular file",))


# --- what is in them


@pytest.mark.parametrize(
    ("option", "routers"),
    [
        ("option routers 192.0.2.1;", ("192.0.2.1",)),
        ("option routers 192.0.2.2,192.0.2.1, 192.0.2.2;", ("192.0.2.2", "192.0.2.1")),
        ("option routers 192.0.2.1;\n  option routers 192.0.2.2;", ("192.0.2.1", "192.0.2.2")),
        ("option routers 192.0.2.1", ()),
        ("option routers;", ()),
        ("option routers", ()),
        ("option routers 192.0.2.256,192.0.2,192.0.2.1/24,192.0.2.7x,router.example;", ()),
        ("option routers ,,192.0.2.1,;", ("192.0.2.1",)),
        ("option routers ²92.0.2.1,0xc0000201,3221225985;", ()),
        ("option routers fe80::1,2001:db8::1;", ()),
        ('option routers "192.0.2.1\\000";', ()),
        ('option routers "192.0.2.1', ()),
        ('option domain-name "option routers 192.0.2.9;";', ()),
        ("option dhcp6.routers 192.0.2.1;", ()),
        (f"option routers 192.0.2.1{' ' * 20000};", ()),
    ],
)
def test_routers_that_a_lease_may_hold(option: str, routers: tuple[str, ...]) -> None:
    (one,) = dhclient.split_leases(LEASE.format(f"  {option}\n"))
    assert one.routers == routers
    assert one.addresses == ("192.0.2.7",)


def test_a_lease_may_not_name_the_whole_internet() -> None:
    routers = ",".join(f"10.0.{number // 250}.{number % 250 + 1}" for number in range(1000))
    (one,) = dhclient.split_leases(LEASE.format(f"  option routers {routers};\n"))
    assert len(one.routers) == dhclient.MOST
    assert one.routers[0] == "10.0.0.1"


def test_a_lease_that_is_being_written_is_passed_over() -> None:
    whole = LEASE.format("")
    assert [one.interface for one in dhclient.split_leases(whole + whole[:-2])] == ["eth0"]
    assert list(dhclient.split_leases(whole[10:-2])) == []


def test_a_released_dhcpv6_lease_is_over() -> None:
    text = read_fixture("dhclient6-ifdown.leases")
    assert [one.expires for one in dhclient.split_leases(text)] == [1795430730 + 3600]
    text = text.replace('"eth0";\n', '"eth0";\n  released;\n')
    assert [one.expires for one in dhclient.split_leases(text)] == [0]


def test_a_dhcpv6_lease_for_ever() -> None:
    text = read_fixture("dhclient6-ifdown.leases").replace("max-life 3600", "max-life 4294967295")
    assert [one.expires for one in dhclient.split_leases(text)] == [float("inf")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 2026/11/23 11:45:28;", calendar.timegm((2026, 11, 23, 11, 45, 28))),
        (" 4 1970/01/01 00:00:00;", 0),
        ("never;", float("inf")),
        ("epoch 1795430730; # Mon Nov 23 10:45:30 2026", 1795430730),
        ("2026/11/23 11:45:28;", 0),
        ("1 2026/13/23 11:45:28;", 0),
        ("1 2026/00/23 11:45:28;", 0),
        ("1 2026/11/23;", 0),
        ("1 20261/11/23 11:45:28;", 0),
        ("1 -2026/11/23 11:45:28;", 0),
        ("1 ²026/11/23 11:45:28;", 0),
        ("epoch 99999999999999999999;", 0),
        ("", 0),
    ],
)
def test_when_a_lease_expires(text: str, expected: float) -> None:
    assert dhclient.parse_time(text) == expected


@given(st.datetimes(min_value=datetime(1970, 1, 1)))
@settings(max_examples=MANY, deadline=None)
def test_the_calendar_is_that_of_the_standard_library(moment: datetime) -> None:
    text = moment.strftime(f"%w {moment.year:04}/%m/%d %H:%M:%S;")
    assert dhclient.parse_time(text) == calendar.timegm(moment.timetuple())


# Lines that look like the real thing, and bytes that do not.
WORDS = st.sampled_from(
    'lease lease6 { } ; , " \\ \\032 option interface "eth0" fixed-address iaaddr expire never epoch starts max-life '
    "released; routers domain-name domain-search domain-name-servers 2026/11/23 10:00:00; 1 a.example 192.0.2.1 "
    "192.0.2.1; fe80::1 \0 \ufffd \n".split(" ")
)
TEXTS = st.text() | st.lists(WORDS | st.just("\n") | st.text(max_size=5), max_size=60).map(" ".join)


@given(text=TEXTS)
@example(text="option routers " + '"' * 99)
@settings(max_examples=MANY, deadline=None)
def test_no_text_breaks_the_parsers(text: str) -> None:
    assert dhclient.parse_time(text) >= 0
    assert all(isinstance(value, str) for value in dhclient.split_values(text))
    for whole in (text, f"lease {{\n{text}\n}}\n"):
        for one in dhclient.split_leases(whole):
            assert one.expires >= 0
            assert all(address and dhclient.read_address(address) == address for address in one.addresses)
            assert all(dhclient.read_address(router) == router and "." in router for router in one.routers)
            assert all(":" not in router for router in one.routers)


@given(st.lists(st.text(st.characters(min_codepoint=1, max_codepoint=255)), max_size=4))
@settings(max_examples=MANY, deadline=None)
def test_strings_come_back_as_dhclient_escapes_them(values: list[str]) -> None:
    """common/options.c, pretty_text: what is not printable in octal, quotes and backslashes with a backslash."""

    def escape(char: str) -> str:
        if char in '"\\':
            return "\\" + char
        return char if " " <= char <= "~" else f"\\{ord(char):03o}"

    text = ", ".join(f'"{"".join(map(escape, value))}"' for value in values)
    assert dhclient.split_values(f"{text};") == values


# --- what it costs


def test_what_every_ifup_would_pay_for_is_not_imported() -> None:
    heavy = "re json typing enum dataclasses collections subprocess socket logging ipaddress functools netifaces"
    code = f"import netconf_hooks.evidence.dhclient; print(*sorted(set(sys.modules) & set({heavy.split()!r})))"
    root = str(Path(dhclient.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-ISc", f"import sys; sys.path.append({root!r}); {code}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
