"""wireguard: the parts that need no WireGuard; tests/lab/test_wireguard.py and tests/vm drive the real one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_systemd import FakeSystemd
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.system.programs import Result
from netconf_hooks.tunnels import Condition, Endpoint, TunnelError, load_tunnel, wireguard
from netconf_hooks.tunnels.provoke import choose_address, send_into
from netconf_hooks.tunnels.wireguard import (
    Configuration, PeerStatus, Status, Tunnel, describe_failure, find_named_peers, parse_configuration, parse_dump,
    parse_mark
)  # fmt: skip

Captured = Callable[[str], str]

UNIT = "wg-quick@corp.service"
SHOW = "LoadState=loaded\nActiveState={}\nSubState=dead\nStatusText=\n"
NOW = 1795435600.0

# Says what lies in the file that is named as the question is, and notes what it was asked.
WG = """\
#!/bin/sh
cd {directory}
printf 'wg %s\\n' "$*" >>calls
shift $(($# - 1))
test -e "$1" && cat "$1" || {{ echo "Unable to access interface: Protocol not supported" >&2; exit 1; }}
"""
WG_QUICK = """\
#!/bin/sh
cd {directory}
case "$2" in /*) test "$(stat -c %a "$2")" = 600 && text=" $(cat "$2")" ;; esac
printf 'wg-quick %s%s\\n' "$1 $(basename "$2")" "$text" >>calls
cat complaint 2>/dev/null
exit "$(cat status)"
"""


class Machine:
    """Directories of the test's own in which a tunnel ``corp`` can be, and programs that note how they were called."""

    def __init__(self, directory: Path, fake: FakeSystemd) -> None:
        self.directory = directory / "wireguard.d"
        self.etc = directory / "etc"
        self.interfaces = directory / "net"
        self.proc = directory / "proc"
        for path in (self.directory, self.etc, self.interfaces, self.proc):
            path.mkdir()
        self.fake = fake
        self.now = NOW
        self.install("wg", WG)
        self.install("wg-quick", WG_QUICK)
        self.install("runlevel", "#!/bin/sh\necho N 2\n")
        self.answer("interfaces", "\n")
        self.answer("status", "0")
        self.configure()

    def install(self, name: str, script: str) -> None:
        """Put a program in place of one that the tests can't run."""
        path = self.directory.parent / name
        path.write_text(script.format(directory=self.directory))
        path.chmod(0o755)

    def configure(self, name: str = "corp.conf", text: str = "[Interface]\n") -> Path:
        path = self.etc / name
        path.write_text(text)
        return path

    def answer(self, name: str, text: str) -> None:
        """Lay down what ``wg show`` says: ``interfaces``, ``dump``; wg-quick's status and complaint."""
        (self.directory / name).write_text(text)

    def be_there(self, wireguards: bool = True) -> None:
        """Let there be an interface corp."""
        (self.interfaces / "corp").mkdir()
        if wireguards:
            self.answer("interfaces", "other corp\n")

    @property
    def calls(self) -> list[str]:
        """What wg-quick was called with."""
        file = self.directory / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith("wg-quick ")]

    def tunnel(self, name: str = "corp") -> Tunnel:
        programs = self.directory.parent
        return Tunnel(
            name,
            etc=str(self.etc),
            interfaces=str(self.interfaces),
            proc=str(self.proc),
            wg=str(programs / "wg"),
            wg_quick=str(programs / "wg-quick"),
            runlevel=str(programs / "runlevel"),
            clock=lambda: self.now,
            systemd=self.fake.systemd(),
        )


@pytest.fixture
def machine(tmp_path: Path, fake: FakeSystemd) -> Machine:
    return Machine(tmp_path, fake)


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch, as_root: None) -> list[tuple[str, str]]:
    """The networks that packets were sent to, in place of sending any; and be root, who may ask."""
    sent: list[tuple[str, str]] = []

    def send(device: str, network: str) -> bool:
        sent.append((device, network))
        return ":" in network  # as if the interface had an IPv6 address only

    monkeypatch.setattr(wireguard, "send_into", send)
    monkeypatch.setattr(wireguard, "WAKE_TIMEOUT", 0.3)
    return sent


def test_a_rule_finds_it() -> None:
    assert isinstance(load_tunnel("wireguard", "corp"), Tunnel)


# The name and the configuration


@pytest.mark.parametrize("name", ["sixteen-letters-", "office@home", "a/b", "x" * 200])
def test_what_no_interface_can_be_named_is_an_error(machine: Machine, name: str) -> None:
    tunnel = machine.tunnel(name)
    for act in (tunnel.check, tunnel.start):
        with pytest.raises(TunnelError, match=f"^\"{name}\" can't be the name of an interface: at most 15 letters"):
            act()
    assert tunnel.is_up() is False
    tunnel.stop()
    assert not machine.calls and not machine.fake.calls


@pytest.mark.parametrize("name", ["corp", "fifteen-letters", "A.b_c-9"])
def test_other_names_are_the_files(machine: Machine, name: str) -> None:
    machine.configure(f"{name}.conf")
    machine.tunnel(name).check()
    (machine.etc / f"{name}.conf").unlink()
    for act in (machine.tunnel(name).check, machine.tunnel(name).start):
        with pytest.raises(TunnelError, match=f"^{machine.etc}/{name}.conf is not there$"):
            act()
    assert not machine.fake.calls


def test_a_directory_that_is_closed_to_this_user_is_no_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(wireguard.os, "stat", refuse)
        machine.tunnel().check()


# With systemd


@pytest.mark.parametrize(
    ("there", "active", "calls"),
    [
        (False, "inactive", [f"--no-block start {UNIT}"]),
        (False, "failed", [f"--no-block start {UNIT}"]),
        (False, "activating", [f"--no-block start {UNIT}"]),
        (False, "active", [f"--no-block restart {UNIT}"]),
        (True, "active", [f"--no-block start {UNIT}"]),  # which takes back a stop that is queued, and else does nothing
        (True, "deactivating", [f"--no-block start {UNIT}"]),
        (True, "inactive", []),  # brought up by hand
        (True, "failed", []),
    ],
)
def test_start_asks_for_the_unit(machine: Machine, there: bool, active: str, calls: list[str]) -> None:
    machine.fake.answer_show(SHOW.format(active))
    if there:
        machine.be_there()
    machine.tunnel().start()
    assert machine.fake.calls == calls
    assert not machine.calls


@pytest.mark.parametrize(
    ("there", "configured", "active", "calls", "quick"),
    [
        (True, True, "active", [f"--no-block stop {UNIT}"], []),
        (False, True, "activating", [f"--no-block stop {UNIT}"], []),
        (False, True, "inactive", [], []),
        (True, True, "inactive", [], ["wg-quick down corp"]),
        (True, True, "failed", [], ["wg-quick down corp"]),
        (True, False, "active", [f"--no-block stop {UNIT}"], ["wg-quick down corp.conf [Interface]"]),
        (True, False, "inactive", [], ["wg-quick down corp.conf [Interface]"]),
    ],
)
def test_stop_ends_the_unit_or_what_was_made_by_hand(
    machine: Machine, there: bool, configured: bool, active: str, calls: list[str], quick: list[str]
) -> None:
    machine.fake.answer_show(SHOW.format(active))
    if there:
        machine.be_there()
    if not configured:
        machine.configure().unlink()
    machine.tunnel().stop()
    assert (machine.fake.calls, machine.calls) == (calls, quick)


def test_nothing_is_started_while_the_system_stops(machine: Machine) -> None:
    machine.fake.answer("state", "stopping\n")
    machine.fake.answer_show(SHOW.format("active"))
    with pytest.raises(TunnelError, match="the system is stopping"):
        machine.tunnel().start()
    assert not machine.fake.calls


def test_boot_start_names_the_link(machine: Machine) -> None:
    assert machine.tunnel().boot_start() == ""
    link = machine.fake.enable(UNIT)
    assert machine.tunnel().boot_start() == f"{UNIT} is enabled ({link})"


# Without


@pytest.fixture
def bare(machine: Machine) -> Machine:
    """A machine without systemd."""
    machine.fake.absent()
    return machine


def test_start_and_stop_are_wg_quicks(bare: Machine) -> None:
    bare.tunnel().start()
    assert bare.calls == ["wg-quick up corp"]
    bare.be_there()
    bare.tunnel().start()
    assert bare.calls == ["wg-quick up corp"], "one that is up is left as it is"
    bare.tunnel().stop()
    assert bare.calls == ["wg-quick up corp", "wg-quick down corp"]


def test_one_that_is_down_is_left_so(bare: Machine) -> None:
    bare.tunnel().stop()
    assert not bare.calls


def test_another_interface_of_that_name_is_left_alone(bare: Machine) -> None:
    bare.be_there(wireguards=False)
    with pytest.raises(TunnelError, match="^corp is an interface already, and not WireGuard's$"):
        bare.tunnel().start()
    bare.tunnel().stop()
    assert not bare.calls


def test_what_wg_quick_refuses_is_an_error(bare: Machine, captured: Captured) -> None:
    bare.answer("complaint", captured("wg-quick-up-unreadable"))
    bare.answer("status", "1")
    with pytest.raises(TunnelError, match="^Line unrecognized: `Endpont=127.0.0.1:51820'; Config"):
        bare.tunnel().start()


def test_a_failing_end_is_an_error_as_long_as_there_is_an_interface(bare: Machine) -> None:
    bare.be_there()
    bare.answer("complaint", "[#] ip link delete dev corp\nRTNETLINK answers: Operation not permitted\n")
    bare.answer("status", "2")
    with pytest.raises(TunnelError, match="^RTNETLINK answers: Operation not permitted$"):
        bare.tunnel().stop()


def test_nothing_is_started_at_shutdown(bare: Machine) -> None:
    bare.install("runlevel", "#!/bin/sh\necho 2 0\n")
    with pytest.raises(TunnelError, match="the system is stopping"):
        bare.tunnel().start()
    assert not bare.calls


def test_missing_programs_are_named(bare: Machine) -> None:
    (bare.directory.parent / "wg-quick").unlink()
    with pytest.raises(TunnelError, match="/wg-quick: no such program$"):
        bare.tunnel().start()
    (bare.directory.parent / "wg").unlink()
    with pytest.raises(TunnelError, match="/wg: no such program$"):
        bare.tunnel().stop()


@pytest.fixture
def waiting(bare: Machine) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that wait, which procfs shows with the command line given; they are ended afterwards."""
    started = []

    def start(*words: str, session: bool = True) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, start_new_session=session)
        started.append(process)
        (bare.proc / str(process.pid)).mkdir()
        (bare.proc / str(process.pid) / "cmdline").write_bytes("".join(f"{word}\0" for word in words).encode())
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_stop_ends_a_start_that_still_waits(
    bare: Machine, waiting: Callable[..., subprocess.Popen[bytes]]
) -> None:
    quick = str(bare.directory.parent / "wg-quick")
    ours = waiting("/bin/bash", quick, "up", "corp")
    others = [
        waiting("/bin/bash", quick, "up", "corp", session=False),  # typed by somebody
        waiting("/bin/bash", quick, "up", "other"),
        waiting("/bin/bash", quick, "down", "corp"),
        waiting("up", "corp"),
        waiting(),
    ]
    bare.tunnel().stop()
    assert ours.wait(5) == -15
    assert [other.poll() for other in others] == [None] * len(others)


# Whether it is up


@pytest.mark.parametrize(("age", "up"), [(0, True), (179, True), (180, False), (-3600, False)])
def test_up_is_a_recent_handshake(
    machine: Machine, captured: Captured, woken: list[tuple[str, str]], age: float, up: bool
) -> None:
    machine.be_there()
    machine.answer("dump", captured("wg-dump"))
    machine.now = 1795885365 + age
    assert machine.tunnel().is_up() is up
    # Who was asked: the peer with an endpoint, at the first of its networks where that can be.
    assert woken == ([] if up else [("corp", "10.77.0.0/24"), ("corp", "fd77::/64")])


def test_an_idle_tunnel_is_up_when_the_packet_makes_it_shake_hands(
    machine: Machine, captured: Captured, monkeypatch: pytest.MonkeyPatch, woken: list[tuple[str, str]]
) -> None:
    machine.be_there()
    dump = captured("wg-dump")
    machine.answer("dump", dump.replace("1795885365", "0"))

    def answer(device: str, network: str) -> bool:
        machine.answer("dump", dump)
        return True

    monkeypatch.setattr(wireguard, "send_into", answer)
    assert machine.tunnel().is_up() is True


def test_whoever_can_not_be_asked_is_not_waited_for(
    machine: Machine, captured: Captured, woken: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wireguard, "WAKE_TIMEOUT", 60.0)
    machine.be_there()
    interface = captured("wg-dump").splitlines()[0]
    machine.answer("dump", f"{interface}\nKEY=\t(none)\t(none)\tfd77::/64\t0\t0\t0\toff\n")
    began = time.monotonic()
    assert machine.tunnel().is_up() is False
    assert not woken
    machine.answer("dump", f"{interface}\nKEY=\t(none)\t192.0.2.1:51820\t(none)\t0\t0\t0\toff\n")
    assert machine.tunnel().is_up() is False
    assert time.monotonic() - began < 10


def test_without_an_interface_it_is_down_for_everybody(machine: Machine, as_user: None) -> None:
    assert machine.tunnel().is_up() is False
    machine.be_there()
    assert machine.tunnel().is_up() is None


def test_another_interface_of_that_name_is_not_up(machine: Machine, woken: list[tuple[str, str]]) -> None:
    machine.be_there(wireguards=False)
    assert machine.tunnel().is_up() is False


def test_without_wg_it_can_not_be_told(machine: Machine, woken: list[tuple[str, str]]) -> None:
    machine.be_there()
    (machine.directory.parent / "wg").unlink()
    assert machine.tunnel().is_up() is None


def test_what_wg_dumps(captured: Captured) -> None:
    first = PeerStatus(
        "TCDPbP84uZ1vugKxszR8YgVUfcuODPwI126Ck+Yxk0A=",
        ("127.0.0.1", "51820"),
        ("10.77.0.0/24", "fd77::/64"),
        1795885365,
        92,
    )
    second = PeerStatus("DiRu424P61uchkF0fbsUF779pG1OlORHhSaZyiQO+Dg=", None)
    assert parse_dump(captured("wg-dump")) == Status(0xCA6C, 36270, (first, second))
    assert parse_dump(captured("wg-dump-unmarked")) == Status(0, 36270, (first, second))
    for output in ("", "\n", "Unable to access interface: No such device\n"):
        assert parse_dump(output) is None
    # No secret of the interface stays in what is read.
    for secret in captured("wg-dump").split()[:1] + ["vmpbT4ZaNAt+svKaT/m0LJ2TR+vCRdzwNuSLPuxTet4="]:
        assert secret in captured("wg-dump") and secret not in repr(parse_dump(captured("wg-dump")))


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("10.77.0.0/24", "10.77.0.1"),
        ("10.0.0.0/8", "10.0.0.1"),
        ("10.77.0.7/32", "10.77.0.7"),
        ("10.77.0.6/31", "10.77.0.6"),
        ("0.0.0.0/0", "192.0.2.1"),
        ("128.0.0.0/1", "128.0.0.1"),
        ("fd77::/64", "fd77::1"),
        ("fd77::8/128", "fd77::8"),
        ("fd77::8/127", "fd77::8"),
        ("::/0", "2001:db8::1"),
    ],
)
def test_an_address_stands_for_a_network(network: str, address: str) -> None:
    assert choose_address(network) == address


def test_an_address_of_ours_can_not_be_sent_to() -> None:
    assert send_into("lo", "127.0.0.0/8") is False
    assert send_into("no-such-device", "192.0.2.0/24") is False


@given(st.text(st.sampled_from("\t\n0123456789()noe:,./[]ax\0\udc80\u0663")))
def test_whatever_wg_dumps_is_read(text: str) -> None:
    status = parse_dump(text)
    assert status is None or 0 <= status.mark < 2**32


# What wg-quick says


@pytest.mark.parametrize(
    ("fixture", "reason"),
    [
        ("wg-quick-up-again", "wg-quick: `corp' already exists"),
        ("wg-quick-down-again", "wg-quick: `corp' is not a WireGuard interface"),
        ("wg-quick-up-unreadable", "Line unrecognized: `Endpont=127.0.0.1:51820'; Configuration parsing error"),
        (
            "wg-quick-up-no-name",
            "Temporary failure in name resolution: `vpn.example.net:51820'; Configuration parsing error",
        ),
        ("wg-quick-up-address", 'Error: inet prefix is expected rather than "10.77.0.300/24".'),
    ],
)
def test_the_last_complaint_is_the_reason(captured: Captured, fixture: str, reason: str) -> None:
    assert describe_failure(Result(1, captured(fixture))) == reason
    assert describe_failure(Result(0, captured(fixture))) == ""


def test_a_silent_failure_has_its_number() -> None:
    assert describe_failure(Result(-15, "")) == "wg-quick: exit status -15"
    assert describe_failure(Result(1, "[#] false\n")) == "wg-quick: exit status 1"


# Where its packets go

HOME = """\
[Interface]
PrivateKey = GIzh0MVPgBWVxm0BY2bQDA7YDmS/WP3rTy7uBgLRhUQ=
Address = 10.77.0.2/24
[Peer]
PublicKey = WcsxHeTdOu7hzgmuGWwRhaAylmZ8FMFbI/l/MfEZ2WY=
Endpoint = vpn.example.com:51820
AllowedIPs = 10.77.0.0/24
"""


def ask(machine: Machine, more: str = "", peer: str = "") -> tuple[Endpoint, ...]:
    """Return the endpoints with `more` lines in [Interface], and in [Peer]."""
    machine.configure(text=HOME.replace("[Peer]\n", f"{more}\n[Peer]\n{peer}\n"))
    return machine.tunnel().endpoints()


def test_a_configured_mark_or_port_is_known_before_the_start(machine: Machine) -> None:
    assert ask(machine, "FwMark = 0x77") == (Endpoint("vpn.example.com", "udp", 51820, mark=0x77),)
    assert ask(machine, "ListenPort = 5000") == (Endpoint("vpn.example.com", "udp", 51820, source_port=5000),)
    assert ask(machine, "ListenPort = 5000\nFwMark = 9") == (Endpoint("vpn.example.com", "udp", 51820, mark=9),)
    assert ask(machine, "ListenPort = 5000\nFwMark = off") == (
        Endpoint("vpn.example.com", "udp", 51820, source_port=5000),
    )


def test_else_only_when_it_is_up(machine: Machine) -> None:
    assert ask(machine) == ask(machine, "ListenPort = 0") == ()


@pytest.mark.parametrize("networks", ["0.0.0.0/0", "::/0", "10.1.0.0/16, ::/0", "10.1.0.0/16,0.0.0.0/0"])
def test_wg_quick_marks_an_interface_with_a_default_route(machine: Machine, networks: str) -> None:
    marked = (Endpoint("vpn.example.com", "udp", 51820, mark=51820),)
    for more in ("", "Table = auto"):
        assert ask(machine, more, f"AllowedIPs = {networks}") == marked
    for more in ("Table = off", "Table = 1234"):
        assert ask(machine, more, f"AllowedIPs = {networks}") == ()
    # It is marked late, after it has got its port.
    assert ask(machine, "ListenPort = 5000", f"AllowedIPs = {networks}")[0].source_port == 5000


def test_of_one_that_is_up_its_own_mark_and_port_count(machine: Machine, captured: Captured) -> None:
    machine.be_there()
    machine.answer("dump", captured("wg-dump"))
    # The peer answers from elsewhere now; started anew, it is looked for where the configuration says.
    assert ask(machine, "ListenPort = 5000") == (
        Endpoint("vpn.example.com", "udp", 51820, mark=51820),
        Endpoint("127.0.0.1", "udp", 51820, 4, mark=51820),
    )
    machine.answer("dump", captured("wg-dump-unmarked"))
    assert {(endpoint.mark, endpoint.source_port) for endpoint in ask(machine, "FwMark = 7")} == {(0, 36270)}


def test_another_interface_of_that_name_says_nothing(machine: Machine) -> None:
    machine.be_there(wireguards=False)
    assert ask(machine, "ListenPort = 5000")[0].source_port == 5000


def test_what_cannot_be_read_is_an_error(machine: Machine) -> None:
    with pytest.raises(TunnelError, match="/none.conf is not there$"):
        machine.tunnel("none").endpoints()
    (machine.etc / "odd.conf").mkdir()
    with pytest.raises(TunnelError, match="/odd.conf: Is a directory$"):
        machine.tunnel("odd").endpoints()
    for line, message in (
        ("FwMark = x", '^FwMark: "x" is no mark$'),
        ("ListenPort = 99999", '^"99999" is no port$'),
        ("[Peer]\nEndpoint = vpn.example.com", '^Endpoint: expected "HOST:PORT" or .*, not "vpn.example.com"$'),
        ("ListenPort = 5000\n[Peer]\nEndpoint = a/b:1", '^"a/b" is neither an address nor a host name'),
    ):
        with pytest.raises(TunnelError, match=message):
            ask(machine, line)


def test_a_configuration() -> None:
    text = "# [Peer]\n\tlistenport=5000 # mine\n[INTERFACE]\r\n listenport =5001\n[Peer]\nEndPoint= [2001:db8::1] : 1\n"
    text += "endpoint = b:2\n[Peer]\nFwMark = 7\nAllowedIPs = 0.0.0.0/0\n[Peer]\nEndpoint = 2001:db8::1:53\n"
    assert parse_configuration(text) == Configuration((("b", "2"), ("2001:db8::1", "53")), 0, 5001)


def test_marks() -> None:
    marks = {"off": 0, "0": 0, "51820": 51820, "0xca6c": 51820, "0xffffffff": 2**32 - 1}
    assert {text: parse_mark(text) for text in marks} == marks
    for text in ("", "0x", "x", "-1", "+1", "1_0", "0x100000000", "\u0663"):
        assert parse_mark(text) is None


CHARACTERS = st.sampled_from("[]PeerIntfacEdpo=kmARlLOwt 0123456789:.,/#\0\udc80")


@given(st.text() | st.lists(st.text(CHARACTERS)).map("\n".join))
def test_any_configuration_is_read_or_a_tunnel_error(text: str) -> None:
    for begin in ("", "[Interface]\nFwMark=", "[Interface]\nListenPort=", "[Peer]\nEndpoint=", "[Peer]\nAllowedIPs="):
        try:
            found = parse_configuration(begin + text)
        except TunnelError as error:
            assert str(error)
        else:
            assert 0 <= found.mark < 2**32 and 0 <= found.port < 65536


CONFIG = """
[Interface]
PrivateKey = x
[Peer] # by name
PublicKey = one=
Endpoint = vpn.example:51820
[Peer]
PublicKey = two=
Endpoint = 203.0.113.1:51820
[Peer]
PublicKey = three=
AllowedIPs = 10.0.0.0/8
"""


def test_only_endpoints_by_name_are_resolved_again() -> None:
    assert find_named_peers(CONFIG) == {"one=": ("vpn.example", "51820")}
    assert find_named_peers("") == {}


class TestInspect:
    """How it is doing, and why it is not up."""

    NAMED = "[Interface]\n[Peer]\nPublicKey = one=\nEndpoint = vpn.example:51820\n"

    def test_without_a_handshake_it_can_not_recover_by_itself(
        self, machine: Machine, woken: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = machine.configure(text=self.NAMED)
        machine.be_there()
        monkeypatch.setattr(Tunnel, "is_up", lambda self: False)
        assert machine.tunnel().inspect() == Condition(
            False, True, helpless=True, words="no handshake with vpn.example:51820", files=(str(path),),
            remedies=("nudge",),
        )  # fmt: skip
        monkeypatch.setattr(Tunnel, "is_up", lambda self: True)
        assert machine.tunnel().inspect() == Condition(True, True, files=(str(path),), remedies=("nudge",))

    def test_an_interface_that_is_gone_has_ended(self, machine: Machine, woken: list[tuple[str, str]]) -> None:
        path = machine.configure()
        machine.fake.answer_show("LoadState=loaded\nActiveState=active\nResult=success\nInvocationID=abc\n")
        assert machine.tunnel().inspect() == Condition(
            False, False, words="its interface is gone", files=(str(path),)
        )  # fmt: skip
        machine.fake.answer_show("LoadState=loaded\nActiveState=activating\nResult=success\n")
        assert machine.tunnel().inspect().running

    def test_why_wg_quick_failed_is_in_the_journal(
        self, machine: Machine, woken: list[tuple[str, str]], captured: Captured
    ) -> None:
        machine.configure()
        machine.fake.answer_show("LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainCode=1\n"
                                 "ExecMainStatus=1\nInvocationID=abc\n")  # fmt: skip
        machine.fake.answer_journal(*captured("wg-quick-up-no-name").splitlines())
        assert "Temporary failure in name resolution" in machine.tunnel().inspect().words

    def test_a_nudge_sets_the_endpoint_by_its_name(self, machine: Machine, captured: Captured) -> None:
        machine.configure(text=self.NAMED)
        machine.install("wg", """#!/bin/sh
cd {directory}
case "$1 $2" in
"show corp") cat dump ;;
*) echo "$WG_ENDPOINT_RESOLUTION_RETRIES $*" >>set; cp dump2 dump ;;
esac
""")
        dump = "private\tpublic\t51820\toff\none=\t(none)\t{}\t10.0.0.0/8\t0\t0\t0\toff\n"
        machine.answer("dump", dump.format("192.0.2.1:51820"))
        machine.answer("dump2", dump.format("192.0.2.9:51820"))
        assert machine.tunnel().nudge() == "its server's name has another address now: 192.0.2.9:51820"
        assert (machine.directory / "set").read_text() == "0 set corp peer one= endpoint vpn.example:51820\n"
        assert machine.tunnel().nudge() == ""


@pytest.mark.parametrize("endpoint, relayed", [
    ("127.0.0.1:51820", True), ("[::1]:51820", True), ("203.0.113.1:51820", False),
])
def test_a_relay_on_this_machine_is_known(machine, endpoint, relayed):
    """F19."""
    machine.configure(text=f"[Interface]\n[Peer]\nEndpoint = {endpoint}\n")
    assert bool(machine.tunnel().list_relays()) == relayed
