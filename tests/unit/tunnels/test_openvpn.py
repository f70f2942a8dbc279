"""openvpn: the parts that need no OpenVPN; tests/lab/test_openvpn_real.py drives the real one."""

from __future__ import annotations

import _socket
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from fake_systemd import FakeSystemd
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.tunnels import Condition, Endpoint, TunnelError, load_tunnel, openvpn
from netconf_hooks.tunnels.openvpn import Management, Tunnel
from netconf_hooks.tunnels.openvpn_conf import parse_configuration
from netconf_hooks.tunnels.openvpn_words import parse_reply
from netconf_hooks.tunnels.services import Services
from tests.lab.waiting import wait_until

Captured = Callable[[str], str]


class Machine:
    """Directories of the test's own in which a tunnel ``my-vpn`` can be.

    run: for pid files and sockets; a socket's path has at most 107 characters, unix(7), so it is short.
    """

    def __init__(self, directory: Path, run: Path, fake: FakeSystemd) -> None:
        self.etc = directory / "etc"
        (self.etc / "client").mkdir(parents=True)
        self.run = run
        self.proc = directory / "proc"
        self.proc.mkdir()
        self.defaults = directory / "defaults"
        self.runlevel = directory / "runlevel"
        self.program = directory / "openvpn"
        self.fake = fake
        self.offloads = False

    def configure(self, name: str = "my-vpn.conf", text: str = "client\n") -> Path:
        path = self.etc / name
        path.write_text(text)
        return path

    def install(self, path: Path, script: str) -> None:
        """Put a program in place of one that the tests can't run."""
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run_daemon(self, pid: int, *words: str) -> None:
        """Let the pid file name a process with this command line."""
        (self.run / "my-vpn.pid").write_text(f"{pid}\n")
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "cmdline").write_text("".join(f"{word}\0" for word in words))

    def tunnel(self) -> Tunnel:
        return Tunnel(
            "my-vpn",
            etc=str(self.etc),
            run=str(self.run),
            proc=str(self.proc),
            defaults=str(self.defaults),
            program=str(self.program),
            runlevel=str(self.runlevel),
            systemd=self.fake.systemd(),
            offloads=lambda: self.offloads,
        )


@pytest.fixture
def machine(tmp_path: Path, fake: FakeSystemd) -> Iterator[Machine]:
    with TemporaryDirectory(dir="/tmp") as run:
        yield Machine(tmp_path, Path(run), fake)


@contextmanager
def serve(path: Path, reply: bytes) -> Iterator[None]:
    """Be a management interface that says `reply` to the first question, at a socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def work() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            if reply:
                assert connection.recv(100) == b"state\n"
                connection.sendall(reply)
            while connection.recv(100):
                pass  # until the other side hangs up

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        assert not thread.is_alive()


def test_a_rule_finds_it() -> None:
    assert isinstance(load_tunnel("openvpn", "corp"), Tunnel)


class TestWithSystemd:
    def test_a_client_configuration_is_run_by_openvpn_client(self, machine: Machine) -> None:
        machine.configure("client/my-vpn.conf")
        machine.configure("my-vpn.conf")
        machine.tunnel().start()
        assert machine.fake.calls == ["--no-block start openvpn-client@my-vpn.service"]

    def test_any_other_by_openvpn(self, machine: Machine) -> None:
        machine.configure("my-vpn.conf")
        machine.tunnel().start()
        assert machine.fake.calls == ["--no-block start openvpn@my-vpn.service"]

    def test_without_configuration_the_files_looked_for_are_named(self, machine: Machine) -> None:
        machine.configure("other.conf")
        expected = f"^neither {machine.etc}/client/my-vpn.conf nor {machine.etc}/my-vpn.conf is there$"
        with pytest.raises(TunnelError, match=expected):
            machine.tunnel().check()
        with pytest.raises(TunnelError, match=expected):
            machine.tunnel().start()
        assert not machine.fake.calls

    def test_stop_ends_both_units_even_without_configuration(self, machine: Machine) -> None:
        machine.tunnel().stop()
        assert machine.fake.calls == ["--no-block stop openvpn-client@my-vpn.service openvpn@my-vpn.service"]

    def test_nothing_is_started_while_the_system_stops(self, machine: Machine) -> None:
        machine.configure()
        machine.fake.answer("state", "stopping\n")
        with pytest.raises(TunnelError, match="the system is stopping"):
            machine.tunnel().start()
        assert not machine.fake.calls

    @pytest.mark.parametrize(
        ("show", "status", "up"),
        [
            ("show-stopped", "status-connected", False),
            ("show-connecting", "status-first-second", False),
            ("show-connecting", "status-connected", False),  # of an earlier run
            ("show-connected", "status-connected", True),
            ("show-connected", "status-first-second", None),
            ("show-server-killed", "status-server-killed", False),
        ],
    )
    def test_up_without_a_management_interface(
        self, machine: Machine, captured: Captured, show: str, status: str, up: bool | None
    ) -> None:
        machine.configure()
        machine.fake.answer_show(captured(show))
        (machine.run / "my-vpn.status").write_text(captured(status))
        assert machine.tunnel().is_up() is up

    def test_an_old_status_file_says_nothing(self, machine: Machine, captured: Captured) -> None:
        machine.configure()
        machine.fake.answer_show(captured("show-connected"))
        status = machine.run / "my-vpn.status"
        status.write_text(captured("status-connected"))
        os.utime(status, (time.time() - 60,) * 2)
        assert machine.tunnel().is_up() is None
        machine.configure(text="status other.status 90\n")
        other = machine.etc / "other.status"
        other.write_text(captured("status-connected"))
        os.utime(other, (time.time() - 60,) * 2)
        assert machine.tunnel().is_up() is True, "the configuration's own status file, written every 90 s"

    def test_without_any_evidence_it_cannot_be_told(self, machine: Machine, captured: Captured) -> None:
        machine.fake.answer_show(captured("show-connected"))
        assert machine.tunnel().is_up() is None

    def test_a_silent_systemd_leaves_it_open(self, machine: Machine) -> None:
        machine.fake.answer_show("Failed to connect to bus: No such file or directory\n", 1)
        assert machine.tunnel().is_up() is None

    @pytest.mark.parametrize(("state", "up"), [("state-connected", True), ("state-server-killed", False)])
    def test_the_configurations_own_management_interface_knows_better(
        self, machine: Machine, captured: Captured, state: str, up: bool
    ) -> None:
        machine.configure(text="management mgmt.sock unix\n")
        machine.fake.answer_show(captured("show-connected"))
        (machine.run / "my-vpn.status").write_text(captured("status-server-killed" if up else "status-connected"))
        with serve(machine.etc / "mgmt.sock", captured(state).encode()):
            assert machine.tunnel().is_up() is up


class TestWithoutSystemd:
    @pytest.fixture(autouse=True)
    def absent(self, machine: Machine) -> None:
        machine.fake.absent()

    @pytest.mark.parametrize(
        "words",
        [
            # As Debian's init script, openvpn@.service and we write it.
            ["/usr/sbin/openvpn", "--writepid", "x", "--cd", "{etc}", "--config", "{etc}/my-vpn.conf"],
            ["openvpn", "--config", "{etc}/client/my-vpn.conf"],
            ["openvpn", "--config", "my-vpn.conf"],
        ],
    )
    def test_a_running_daemon_is_left_as_it_is(self, machine: Machine, words: list[str]) -> None:
        machine.configure()
        machine.run_daemon(4242, *(word.format(etc=machine.etc) for word in words))
        machine.install(machine.program, f"touch {machine.run}/started")
        machine.tunnel().start()
        assert not (machine.run / "started").exists()
        assert machine.tunnel().is_up() is None, "it runs, and nothing says more"

    @pytest.mark.parametrize(
        "words",
        [
            ["/usr/sbin/openvpn", "--config", "{etc}/other.conf"],  # another tunnel
            ["/usr/bin/vi", "{etc}/my-vpn.conf"],  # the pid was used again
            [],  # a zombie
        ],
    )
    def test_any_other_process_is_not_the_daemon(self, machine: Machine, words: list[str]) -> None:
        machine.run_daemon(os.getpid(), *(word.format(etc=machine.etc) for word in words))
        assert machine.tunnel().is_up() is False
        machine.tunnel().stop()  # or this test would end here

    @pytest.mark.parametrize("content", [None, "", "\n", "corp\n", "-1\n", "999999999999999999999\n"])
    def test_a_pid_file_without_a_process_means_down(self, machine: Machine, content: str | None) -> None:
        if content is not None:
            (machine.run / "my-vpn.pid").write_text(content)
        assert machine.tunnel().is_up() is False
        machine.tunnel().stop()

    @pytest.mark.parametrize("level", ["N 0", "2 6"])
    def test_nothing_is_started_while_the_system_stops(self, machine: Machine, level: str) -> None:
        machine.configure()
        machine.install(machine.runlevel, f"echo {level}")
        machine.install(machine.program, f"touch {machine.run}/started")
        with pytest.raises(TunnelError, match="the system is stopping"):
            machine.tunnel().start()
        assert not (machine.run / "started").exists()

    @pytest.mark.parametrize("level", ["N 2", "unknown", ""])
    def test_a_refused_configuration_is_reported_in_openvpns_words(self, machine: Machine, level: str) -> None:
        machine.configure()
        machine.install(machine.runlevel, f"echo {level}")
        machine.install(machine.program, "echo 'Options error: no such thing'; echo 'Use --help'; exit 1")
        with pytest.raises(TunnelError, match="^Options error: no such thing$"):
            machine.tunnel().start()

    def test_a_missing_openvpn_is_named(self, machine: Machine) -> None:
        machine.configure()
        with pytest.raises(TunnelError, match=f"^{machine.program}: no such program$"):
            machine.tunnel().start()

    def test_a_daemon_that_ends_at_once_is_an_error(self, machine: Machine) -> None:
        machine.configure()
        machine.install(machine.program, "exit 0")
        with pytest.raises(TunnelError, match="ended right after its start"):
            machine.tunnel().start()

    def test_what_the_daemon_is_given(self, machine: Machine) -> None:
        machine.configure("client/my-vpn.conf")
        machine.defaults.write_text('OPTARGS="--script-security 2"\n')
        machine.install(machine.program, f"echo \"$*\" >>{machine.run}/argv; exit 1")
        with pytest.raises(TunnelError, match="the system log has its reason"):
            machine.tunnel().start()
        run, etc = machine.run, machine.etc
        daemon = f"--script-security 2 --status {run}/my-vpn.status 10 --cd {etc}/client"
        daemon += f" --config {etc}/client/my-vpn.conf --writepid {run}/my-vpn.pid"
        daemon += f" --management {run}/my-vpn.netconf-hooks.sock unix --management-client-user root"
        assert (machine.run / "argv").read_text().splitlines() == [
            f"{daemon} --daemon ovpn-my-vpn",
            f"{daemon} --management {machine.proc}/none unix",  # what was wrong, which syslog only was told
        ]

    def test_a_management_line_of_the_configuration_is_not_overruled(self, machine: Machine) -> None:
        machine.configure(text="management 127.0.0.1 7505 /etc/openvpn/secret\n")
        machine.install(machine.program, f"echo \"$*\" >>{machine.run}/argv; exit 1")
        with pytest.raises(TunnelError):
            machine.tunnel().start()
        first = (machine.run / "argv").read_text().splitlines()[0]
        assert "--management" not in first
        assert first.endswith("--daemon ovpn-my-vpn")

    def test_a_daemon_line_of_the_configuration_is_not_repeated(self, machine: Machine) -> None:
        machine.configure(text="daemon my-name\n")
        machine.install(machine.program, f"echo \"$*\" >>{machine.run}/argv; exit 1")
        with pytest.raises(TunnelError):
            machine.tunnel().start()
        assert "--daemon" not in (machine.run / "argv").read_text()

    def test_the_run_directory_is_made_for_all_to_look_into(self, machine: Machine) -> None:
        machine.configure()
        machine.install(machine.program, "exit 1")
        machine.run.rmdir()
        umask = os.umask(0o077)
        try:
            with pytest.raises(TunnelError):
                machine.tunnel().start()
        finally:
            os.umask(umask)
        assert machine.run.stat().st_mode & 0o777 == 0o755


class TestBootStart:
    def test_an_enabled_unit(self, machine: Machine) -> None:
        link = machine.fake.enable("openvpn-client@my-vpn.service")
        assert machine.tunnel().boot_start() == f"openvpn-client@my-vpn.service is enabled ({link})"

    @pytest.mark.parametrize(
        ("defaults", "by_systemd", "by_init"),
        [
            (None, "AUTOSTART is not set", "AUTOSTART is not set"),
            ('#AUTOSTART="none"\nOPTARGS=""\n', "AUTOSTART is not set", "AUTOSTART is not set"),
            ('AUTOSTART="all"\n', 'AUTOSTART="all"', 'AUTOSTART="all"'),
            ('AUTOSTART="none"\n', "", ""),
            ('AUTOSTART=none\nAUTOSTART="a my-vpn" # both\n', 'AUTOSTART="a my-vpn"', 'AUTOSTART="a my-vpn"'),
            ("AUTOSTART=my-vpn-2\n", "", ""),
            # openvpn-generator takes an empty value for all, the init script for none.
            ('AUTOSTART=""\n', 'AUTOSTART=""', ""),
        ],
    )
    def test_autostart(self, machine: Machine, defaults: str | None, by_systemd: str, by_init: str) -> None:
        machine.configure()
        machine.fake.enable("openvpn.service")
        if defaults is not None:
            machine.defaults.write_text(defaults)
        for expected in (by_systemd, by_init):
            answer = machine.tunnel().boot_start()
            assert answer.startswith(expected) and bool(answer) == bool(expected)
            if machine.fake.systemd().is_running():
                machine.fake.absent()

    def test_autostart_is_not_for_client_configurations(self, machine: Machine) -> None:
        machine.configure("client/my-vpn.conf")
        machine.fake.enable("openvpn.service")
        assert machine.tunnel().boot_start() == ""

    def test_autostart_does_nothing_where_openvpn_service_is_disabled(self, machine: Machine) -> None:
        machine.configure()
        assert machine.tunnel().boot_start() == ""


NOBODY = pwd.getpwnam("nobody").pw_uid
UNIT = "User={}\nMainPID={}\n"
"""As ``systemctl show --property=User,MainPID`` of systemd 252 prints it."""


class TestEndpoints:
    """Where it connects is openvpn_conf's; here by what its packets are told."""

    def test_they_are_the_daemons(self, machine: Machine) -> None:
        machine.configure(text="client\ndev tun\nremote 192.0.2.1\nremote vpn.example.com 443 tcp6-client\nmark 7\n")
        machine.fake.answer_show(UNIT.format("", 0))
        assert machine.tunnel().endpoints() == (
            Endpoint("192.0.2.1", "udp", 1194, 4, (0,)),
            Endpoint("vpn.example.com", "tcp", 443, 0, (0,)),
        )

    @pytest.mark.parametrize(
        ("user", "unit_user", "uids"),
        [
            ("", "", (0,)),
            ("user nobody", "", (0, NOBODY)),
            ("user no-such-user\nuser nobody", "", (0, NOBODY)),
            ("user root", "", (0,)),
            ("", "nobody", (0, NOBODY)),
            ("", "4711", (0, 4711)),
            ("user nobody", "4711", (0, 4711, NOBODY)),
        ],
    )
    def test_users(self, machine: Machine, user: str, unit_user: str, uids: tuple[int, ...]) -> None:
        machine.configure(text=f"remote 192.0.2.1\n{user}\n")
        machine.fake.answer_show(UNIT.format(unit_user, 0))
        assert [endpoint.uids for endpoint in machine.tunnel().endpoints()] == [uids]

    def test_unknown_users_are_errors(self, machine: Machine) -> None:
        machine.configure(text="remote 192.0.2.1\nuser no-such-user\n")
        machine.fake.answer_show(UNIT.format("", 0))
        with pytest.raises(TunnelError, match='^"user no-such-user": this machine has no such user$'):
            machine.tunnel().endpoints()
        machine.configure(text="remote 192.0.2.1\nuser 65534\n")
        with pytest.raises(TunnelError, match='^"user 65534"'):  # OpenVPN looks up names only
            machine.tunnel().endpoints()
        machine.fake.answer_show(UNIT.format("no-such-user", 0))
        with pytest.raises(TunnelError, match='^"User=no-such-user": this machine has no such user$'):
            machine.tunnel().endpoints()

    def test_without_configuration_nothing_is_known(self, machine: Machine) -> None:
        with pytest.raises(TunnelError, match="^neither .* is there$"):
            machine.tunnel().endpoints()
        (machine.etc / "my-vpn.conf").mkdir()
        machine.fake.answer_show(UNIT.format("", 0))
        with pytest.raises(TunnelError, match=f"^{machine.etc}/my-vpn.conf: Is a directory$"):
            machine.tunnel().endpoints()

    def test_a_silent_systemd_is_an_error(self, machine: Machine) -> None:
        machine.configure(text="remote 192.0.2.1\n")
        machine.fake.answer_show("Failed to connect to bus: No such file or directory\n", 1)
        with pytest.raises(TunnelError, match="^systemctl show openvpn@my-vpn.service: Failed to connect to bus"):
            machine.tunnel().endpoints()

    def test_without_systemd_the_command_line_counts_as_well(self, machine: Machine) -> None:
        machine.fake.absent()
        machine.configure(text="remote 192.0.2.1\n")
        machine.defaults.write_text('OPTARGS="--user nobody --port 5000"\n')
        assert machine.tunnel().endpoints() == (Endpoint("192.0.2.1", "udp", 5000, 4, (0, NOBODY)),)

    def test_what_the_kernel_sends_is_told_by_port_and_mark(self, machine: Machine) -> None:
        machine.offloads = True
        machine.fake.answer_show(UNIT.format("", 0))
        mine = Endpoint("192.0.2.1", "udp", 1194, 4, (0,))
        tcp = Endpoint("192.0.2.1", "tcp", 443, 4, (0,))
        text = "client\ndev tun\nremote 192.0.2.1\nremote 192.0.2.1 443 tcp\n"
        machine.configure(text=text)
        assert machine.tunnel().endpoints() == (mine, tcp), "the port is known when it runs"
        machine.configure(text=text + "lport 5000\n")
        kernels = Endpoint("192.0.2.1", "udp", 1194, 4, source_port=5000)
        assert machine.tunnel().endpoints() == (mine, tcp, kernels)
        machine.configure(text=text + "mark 7\n")
        assert machine.tunnel().endpoints() == (mine, tcp, Endpoint("192.0.2.1", "udp", 1194, 4, mark=7))
        machine.configure(text=text + "lport 5000\nmark 7\ndisable-dco\n")
        assert machine.tunnel().endpoints() == (mine, tcp)

    def test_the_units_nobind_is_heard(self, machine: Machine) -> None:
        machine.offloads = True
        machine.fake.answer_show(UNIT.format("", 0))
        machine.configure(text="dev tun\nremote 192.0.2.1\n")
        assert [endpoint.source_port for endpoint in machine.tunnel().endpoints()] == [0, 1194]
        machine.configure("client/my-vpn.conf", text="dev tun\nremote 192.0.2.1\n")
        assert [endpoint.source_port for endpoint in machine.tunnel().endpoints()] == [0]

    @pytest.mark.parametrize("by_systemd", [True, False])
    def test_the_port_of_a_daemon_that_runs(self, machine: Machine, by_systemd: bool) -> None:
        machine.offloads = True
        machine.configure(text="client\ndev tun\nremote 192.0.2.1\n")
        if by_systemd:
            machine.fake.answer_show(UNIT.format("", os.getpid()))
            machine.proc = Path("/proc")
        else:
            machine.fake.absent()
            machine.run_daemon(os.getpid(), "openvpn", "--config", "my-vpn.conf")
            for name in ("fd", "net"):
                (machine.proc / str(os.getpid()) / name).symlink_to(f"/proc/{os.getpid()}/{name}")
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as mine:
            mine.bind(("::", 0))
            port = mine.getsockname()[1]
            assert machine.tunnel().endpoints()[1:] == (Endpoint("192.0.2.1", "udp", 1194, 4, source_port=port),)
        assert len(machine.tunnel().endpoints()) == 1

    @given(text=st.text(st.sampled_from("remotusack-dvnly 0123456789.:\n\"\\<>/#\0\udc80")))
    def test_any_configuration_is_read_or_a_tunnel_error(self, text: str) -> None:
        with TemporaryDirectory() as directory:
            path = Path(directory, "x.conf")
            path.write_text(f"remote 192.0.2.1\n{text}", errors="surrogateescape")
            tunnel = Tunnel("x", etc=directory, systemd=Services(booted=f"{directory}/none"), offloads=lambda: True)
            try:
                assert tunnel.endpoints()
            except TunnelError as error:
                assert str(error)

    @pytest.mark.parametrize(
        ("text", "mark"),
        [("mark 7", 7), ("mark 7\nmark 8", 8), ("mark x", 0), ("mark -1", 0), ("mark 4294967296", 0), ("mark", 0)],
    )
    def test_mark(self, text: str, mark: int) -> None:
        assert openvpn.find_mark(parse_configuration(text)) == mark

    def test_arguments(self) -> None:
        assert openvpn.parse_arguments(["x", "--user", "nobody", "--nobind"]) == (("user", "nobody"), ("nobind",))


class TestManagement:
    @pytest.mark.parametrize(
        ("text", "management"),
        [
            ("management /run/x.sock unix", Management("/run/x.sock")),
            ("management x.sock unix", Management("/etc/openvpn/x.sock")),
            ("management 127.0.0.1 7505", Management("127.0.0.1", 7505)),
            ("management ::1 7505", Management("::1", 7505)),
            ("management a unix\nmanagement /b unix", Management("/b")),
            ("management 127.0.0.1 7505 password.txt", None),
            ("management /run/x.sock unix password.txt", None),
            ("management tunnel 7505", None),
            ("management localhost 7505", None),
            ("management script unix-script", None),
            ("management /run/x.sock unix\nmanagement-client", None),
            ("management-signal\nmanagement /run/x.sock unix", None),
            ("management /run/x.sock unix\nmanagement-forget-disconnect", None),
            ("management", None),
            ("client", None),
        ],
    )
    def test_management(self, text: str, management: Management | None) -> None:
        assert openvpn.find_management(parse_configuration(text), "/etc/openvpn") == management


class TestAskState:
    @pytest.mark.parametrize(("name", "state"), [("state-connected", "CONNECTED"), ("state-server-killed", "WAIT")])
    def test_captured_replies(self, captured: Captured, tmp_path: Path, name: str, state: str) -> None:
        with serve(tmp_path / "socket", captured(name).encode()):
            assert openvpn.ask(Management(str(tmp_path / "socket"))).state == state

    @pytest.mark.parametrize(
        ("management", "family"),
        [(Management("127.0.0.1", 7505), socket.AF_INET), (Management("::1", 7505), socket.AF_INET6)],
    )
    def test_by_tcp(
        self, captured: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, management: Management, family: int
    ) -> None:
        asked: list[object] = []

        class Socket(_socket.socket):
            """A TCP socket that is led to ours, since lo may be down where packages are built."""

            def __init__(self, family: int, kind: int) -> None:
                asked.append((family, kind & ~socket.SOCK_CLOEXEC))
                super().__init__(socket.AF_UNIX, kind)

            def connect(self, address: object) -> None:
                asked.append(address)
                super().connect(str(tmp_path / "socket"))

        monkeypatch.setitem(sys.modules, "_socket", SimpleNamespace(**{**vars(_socket), "socket": Socket}))
        with serve(tmp_path / "socket", captured("state-connected").encode()):
            assert openvpn.ask(management).state == "CONNECTED"
        assert asked == [(family, socket.SOCK_STREAM), (management.address, management.port)]

    def test_notifications_and_unfinished_lines_are_no_reply(self) -> None:
        assert parse_reply(">STATE:1,CONNECTED,SUCCESS,,,,,\r\n1795431844,CONN").state == ""
        assert parse_reply("1795431844,CONNECTED,SUC").state == "CONNECTED"
        assert parse_reply(">LOG:1,I,x\r\n1795431844,AUTH,,,,,,\r\nEND\r\n").state == "AUTH"
        assert parse_reply("ERROR: unknown command, x, y\r\n").state == ""

    @given(st.text())
    def test_any_reply_is_read(self, reply: str) -> None:
        assert "," not in parse_reply(reply).state

    def test_a_busy_interface_is_left_in_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openvpn, "ASK_TIMEOUT", 0.1)
        begin = time.monotonic()
        with serve(tmp_path / "socket", b""):
            assert openvpn.ask(Management(str(tmp_path / "socket"))).state == ""
        assert 0.1 <= time.monotonic() - begin < 2

    def test_an_interface_that_hangs_up_says_nothing(self, tmp_path: Path) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "socket"))
        assert openvpn.ask(Management(str(tmp_path / "socket"))).state == "", "refused"
        listener.close()
        assert openvpn.ask(Management(str(tmp_path / "missing"))).state == ""
        assert openvpn.ask(Management("127.0.0.1", 99999)).state == ""
        assert openvpn.ask(Management("a" * 200)).state == ""
        assert openvpn.ask(Management("a\0b")).state == ""


@pytest.mark.parametrize(
    ("name", "up"), [("status-connected", True), ("status-server-killed", False), ("status-first-second", None)]
)
def test_judge_status(captured: Captured, name: str, up: bool | None) -> None:
    assert openvpn.judge_status(captured(name)) is up


def test_judge_status_of_a_connection_without_data_says_nothing() -> None:
    assert openvpn.judge_status("TCP/UDP read bytes,1890\nTCP/UDP write bytes,1925\nAuth read bytes,0\nEND\n") is None
    assert openvpn.judge_status("") is None


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "refused-bad1",
            "Options error: Unrecognized option or missing or extra parameter(s) in bad1.conf:4: frobnicate (2.6.14)",
        ),
        (
            "refused-bad2",
            "Options error: --ca fails with 'nosuch.pem': No such file or directory (errno=2); "
            "Options error: --cert fails with 'c.pem': No such file or directory (errno=2); "
            "Options error: --key fails with 'k.pem': No such file or directory (errno=2)",
        ),
        ("refused-bad4", "ERROR: Endtag </key-x> missing"),
    ],
)
def test_find_complaint(captured: Captured, name: str, complaint: str) -> None:
    assert openvpn.find_complaint(captured(name)) == complaint


def test_find_complaint_leaves_out_what_we_caused() -> None:
    output = "2026-11-23 10:54:53 MANAGEMENT: Socket bind[3] failed\n2026-11-23 10:54:53 Exiting due to fatal error\n"
    assert openvpn.find_complaint(output) == ""


REMEDIES = ("nudge", "restart")
CLIENT = "client\nremote 203.0.113.1 1194 udp4\nauth-user-pass user.txt\n"


class TestInspect:
    """How it is doing, and why it is not up."""

    def configure(self, machine: Machine, more: str = "") -> tuple[str, ...]:
        path = machine.configure(text=CLIENT + more)
        return (str(path), str(machine.etc / "user.txt"))

    def test_connected(self, machine: Machine, captured: Captured) -> None:
        machine.fake.absent()
        files = self.configure(machine)
        machine.run_daemon(7, str(machine.program), "--config", files[0])
        with serve(machine.run / "my-vpn.netconf-hooks.sock", captured("state-connected").encode()):
            assert machine.tunnel().inspect() == Condition(True, True, pid=7, files=files, remedies=REMEDIES)

    def test_a_server_that_does_not_answer(self, machine: Machine, captured: Captured) -> None:
        machine.fake.absent()
        files = self.configure(machine)
        machine.run_daemon(7, str(machine.program), "--config", files[0])
        with serve(machine.run / "my-vpn.netconf-hooks.sock", captured("state-server-killed").encode()):
            assert machine.tunnel().inspect() == Condition(
                False, True, pid=7, words="no answer from 203.0.113.1:1194/udp", files=files, remedies=REMEDIES
            )

    @pytest.mark.parametrize(
        ("device", "opened", "offloads", "up"),
        [("tun", False, False, False), ("tun", True, False, None), ("tun", False, True, None),
         ("null", False, False, None)],
    )  # fmt: skip
    def test_one_that_says_nothing_and_has_opened_no_device_is_not_connected(
        self, machine: Machine, as_root: None, device: str, opened: bool, offloads: bool,
        up: bool | None,
    ) -> None:  # fmt: skip
        """It waits for a name server (field case F16), and does not listen meanwhile."""
        machine.fake.absent()
        machine.offloads = offloads
        files = self.configure(machine, f"dev {device}\n")
        machine.run_daemon(7, str(machine.program), "--config", files[0])
        (machine.proc / "7/fdinfo").mkdir()
        (machine.proc / "7/fdinfo/0").write_text("pos:\t0\n")
        (machine.proc / "7/fdinfo/5").write_text("iff:\ttun0\n" if opened else "pos:\t0\n")
        found = machine.tunnel().inspect()
        assert (found.up, found.running) == (up, True)
        if up is False:
            assert found.words == "waiting for a name server, or for an answer from 203.0.113.1:1194/udp"

    @pytest.mark.parametrize(("line", "up"), [("iff:\ttun0\n", True), ("iff:\t\n", False)])
    def test_one_whose_device_was_deleted_is_restarted(
        self, machine: Machine, captured: Captured, monkeypatch: pytest.MonkeyPatch, line: str, up: bool, as_root: None
    ) -> None:
        """It says CONNECTED for ever: its server goes on answering."""
        machine.fake.absent()
        files = self.configure(machine, "dev tun\n")
        machine.run_daemon(7, str(machine.program), "--config", files[0])
        (machine.proc / "7/fdinfo").mkdir()
        for name, text in (("0", "pos:\t0\n"), ("5", line)):
            (machine.proc / "7/fdinfo" / name).write_text(text)
        done: list[object] = []
        monkeypatch.setattr(Tunnel, "restart", lambda self: done.append("restart"))
        monkeypatch.setattr(Tunnel, "_send_signal", lambda self, number: not done.append(number))
        with serve(machine.run / "my-vpn.netconf-hooks.sock", captured("state-connected").encode()):
            found = machine.tunnel().inspect()
        assert (found.up, found.running, found.helpless) == (up, True, not up)
        (machine.run / "my-vpn.netconf-hooks.sock").unlink()
        with serve(machine.run / "my-vpn.netconf-hooks.sock", captured("state-connected").encode()):
            said = machine.tunnel().nudge()
        assert (done, said) == ((["restart"], "restarted") if not up else
                                ([signal.SIGUSR1], "told to connect again (SIGUSR1)"))  # fmt: skip

    def test_somebody_is_waited_for_and_not_disturbed(self, machine: Machine) -> None:
        machine.fake.absent()
        files = self.configure(machine)
        machine.run_daemon(7, str(machine.program), "--config", files[0])
        reply = b">HOLD:Waiting for hold release:0\r\n1795431844,CONNECTING,,,,,,\r\nEND\r\n"
        with serve(machine.run / "my-vpn.netconf-hooks.sock", reply):
            found = machine.tunnel().inspect()
        assert (found.up, found.remedies) == (False, ())
        assert found.words == "waiting for somebody at its management interface (management-hold)"

    def test_why_it_ended_is_in_its_own_log(self, machine: Machine) -> None:
        machine.fake.absent()
        files = self.configure(machine, f"log-append {machine.run}/own.log\n")
        (machine.run / "own.log").write_text("AUTH: Received control message: AUTH_FAILED\n")
        words = "the server refused the user name or password"
        assert machine.tunnel().inspect() == Condition(False, False, words=words, refused=True, files=files)

    def test_or_in_the_systems_log(self, machine: Machine, tmp_path: Path) -> None:
        machine.fake.absent()
        self.configure(machine)
        (machine.run / "my-vpn.pid").write_text("7\n")
        log = tmp_path / "syslog"
        log.write_text("x ovpn-my-vpn[7]: [s] Inactivity timeout (--ping-exit), exiting\nx other[8]: AUTH_FAILED\n")
        tunnel = machine.tunnel()
        tunnel._logs = (str(tmp_path / "none"), str(log))
        assert tunnel.inspect().words == "no answer from its server (ping-exit)"
        log.write_text("")
        assert tunnel.inspect().words == "it has ended; the system log has its reason"

    def test_or_in_the_journal(self, machine: Machine) -> None:
        self.configure(machine)
        machine.fake.answer_show("LoadState=loaded\nActiveState=failed\nResult=signal\nExecMainCode=2\n"
                                 "ExecMainStatus=9\nInvocationID=abc\n")  # fmt: skip
        assert machine.tunnel().inspect().words == "it was ended by signal 9"
        machine.fake.answer_journal("AUTH: Received control message: AUTH_FAILED")
        found = machine.tunnel().inspect()
        assert (found.running, found.final, found.refused) == (False, False, True)
        machine.fake.answer_show("LoadState=loaded\nActiveState=failed\nResult=signal\nRestart=on-failure\n")
        assert machine.tunnel().inspect().final

    def test_one_that_systemd_brings_up_is_left_to_it(self, machine: Machine) -> None:
        machine.configure("client/my-vpn.conf", CLIENT)
        machine.fake.answer_show("LoadState=loaded\nActiveState=activating\nMainPID=7\nResult=success\n")
        found = machine.tunnel().inspect()
        assert (found.up, found.running, found.pid) == (False, True, 7)
        assert found.words == "no answer from 203.0.113.1:1194/udp"

    def test_without_a_configuration(self, machine: Machine) -> None:
        with pytest.raises(TunnelError, match="neither"):
            machine.tunnel().inspect()


def test_one_that_has_not_written_its_pid_yet_is_found_and_ended(machine: Machine, tmp_path: Path) -> None:
    """A stop while it starts: the daemon would come up after it."""
    machine.fake.absent()
    path = machine.configure()
    ready = tmp_path / "ready"
    words = ["--config", str(path), "--writepid", f"{machine.run}/my-vpn.pid"]
    # argv[0] as OpenVPN's own is: of a script the interpreter's name would be there.
    script = f"import signal; open({str(ready)!r}, 'w').close(); signal.pause()"
    daemon = subprocess.Popen([str(machine.program), "-c", script, *words], executable=sys.executable)
    try:
        wait_until(ready.exists, "the daemon to run")
        tunnel = machine.tunnel()
        tunnel._proc = "/proc"
        assert tunnel._find_daemons() == (daemon.pid,)
        tunnel.start()
        tunnel.stop()
        assert daemon.wait(10) == -signal.SIGTERM
    finally:
        daemon.kill()


REMOTE = "client\nremote 203.0.113.1 1194\n"
RELAY = "its server 127.0.0.1 is a program on this machine"


@pytest.mark.parametrize("text, warnings", [
    (REMOTE, []),
    (REMOTE + "management-hold\n", ["management-hold: "]),
    (REMOTE + "auth-user-pass\n", ["auth-user-pass without a file: "]),
    (REMOTE + "auth-user-pass\nauth-user-pass login\n", []),
    (REMOTE + "auth-user-pass\n<auth-user-pass>\nme\nsecret\n</auth-user-pass>\n", []),
])
def test_what_check_warns_of(machine: Machine, text: str, warnings: list[str]) -> None:
    """F17."""
    machine.configure(text=text)
    found = machine.tunnel().list_warnings()
    assert len(found) == len(warnings)
    assert all(one.startswith(other) for one, other in zip(found, warnings))


@pytest.mark.parametrize("text, relays", [
    (REMOTE, []),
    ("client\nremote 127.0.0.1 1194\n", [RELAY]),
    ("client\nproto tcp\nremote 203.0.113.1 443\nhttp-proxy 127.0.0.1 3128\n", [RELAY]),
    ("client\nremote ::1 1194\nremote localhost 1194\n", ["its server ::1 ", "its server localhost "]),
    ("client\n", []),
])
def test_relays_on_this_machine_are_known(machine: Machine, text: str, relays: list[str]) -> None:
    """F19."""
    machine.configure(text=text)
    found = machine.tunnel().list_relays()
    assert len(found) == len(relays)
    assert all(one.startswith(other) for one, other in zip(found, relays))


def test_an_ovpn_file_beside_the_missing_conf(machine: Machine) -> None:
    """F20."""
    machine.configure("client/my-vpn.ovpn")
    with pytest.raises(TunnelError, match=r"my-vpn.conf is there, but .*client/my-vpn.ovpn is: .*: mv .* .*conf$"):
        machine.tunnel().check()
    assert (machine.tunnel().list_warnings(), machine.tunnel().list_relays()) == ((), ())
