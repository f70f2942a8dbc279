"""netconf-hooks monitor: what it says, when, and that it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from office import AT_OFFICE, CORP
from situations import make_record

from netconf_hooks.commands import monitor
from netconf_hooks.commands.status import read_seen
from netconf_hooks.state import GuardRecord, Store, TunnelRecord, TunnelState
from netconf_hooks.tunnels.held import hold
from tests.lab.waiting import wait_until

COMMAND = f"""
import os, sys
sys.path += [{str(Path(__file__).parents[2])!r}, "/usr/lib/python3/dist-packages"]
from netconf_hooks import cli, state
from netconf_hooks.commands import monitor
from netconf_hooks.system import directory, netlink

# As on a machine whose lo is up, with whatever kernel (and mostly it is).
LO = netlink.LinkStatus(1, "lo", netlink.IFF_UP | netlink.IFF_LOWER_UP, True, True, "00:00:00:00:00:00")
netlink.read_links = lambda devices: {{device: LO for device in devices if device == "lo"}}
state.Store.__init__.__defaults__ = (sys.argv.pop(1),)
if os.environ.get("WITHOUT_INOTIFY"):
    def refuse(*_):
        raise OSError(24, "Too many open files")
    directory.call = refuse
sys.exit(cli.main())
"""
AT_LO = AT_OFFICE.change(iface="lo:1", observation=AT_OFFICE.observation.change(iface="lo:1", index=1))
LONG = 30.0


class Monitor:
    """A monitor in a process of its own, and what it has said so far."""

    def __init__(self, directory, output, *arguments, **environ):
        self.path = output
        argv = [sys.executable, "-I", "-c", COMMAND, directory, "monitor", *arguments]
        with open(output, "wb") as file:
            self.process = subprocess.Popen(argv, stdout=file, stderr=subprocess.PIPE, env={**os.environ, **environ})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def list_lines(self):
        """Return the lines said so far."""
        return self.path.read_text().splitlines()

    def wait_for(self, count):
        """Wait for a number of lines, and return them."""
        wait_until(lambda: len(self.list_lines()) >= count, f"{count} lines", LONG)
        return self.list_lines()


@pytest.fixture
def real_store(tmp_path):
    (tmp_path / "run").mkdir()
    return Store(str(tmp_path / "run/netconf-hooks"))


@pytest.fixture
def start(tmp_path, real_store):
    def run(*arguments, **environ):
        return Monitor(real_store.directory, tmp_path / "said", *arguments, **environ)

    return run


def test_a_line_at_each_change_also_before_there_is_any_record(start, real_store):
    with start() as running:
        assert running.wait_for(1) == ["no interface with netconf rules is up"]
        real_store.prepare()
        real_store.write_interface(AT_LO)
        assert running.wait_for(2)[1] == "lo:1: office"
        real_store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "wanted", True)})
        assert running.wait_for(3)[2] == "lo:1: office; openvpn corp: starting"
        real_store.write_states([TunnelState(*CORP, up_since=5.0, since=5.0)])
        assert running.wait_for(4)[3] == "lo:1: office; openvpn corp: connected"
        real_store.write_guard(GuardRecord("lo", "nftables", "open", "x", opened=True, done=True))
        assert running.wait_for(5)[4] == "lo:1: office; guard of lo: open; openvpn corp: connected"
        # Written again, and nothing else: a lease that is renewed.
        real_store.write_guard(GuardRecord("lo", "nftables", "open", "y", opened=True, done=True, token="z"))
        real_store.write_guard(GuardRecord("lo", "nftables", "closed", "x", problem="no name\x1b"))
        expected = "lo:1: office; guard of lo: closed (no name\\x1b); openvpn corp: connected"
        assert running.wait_for(6)[5:] == [expected]
        running.process.send_signal(signal.SIGINT)
        _, complaints = running.process.communicate(timeout=LONG)
        assert (running.process.returncode, complaints) == (0, b"")


def test_an_object_a_line(start, real_store):
    real_store.prepare()
    real_store.write_interface(AT_LO)
    with start("--json") as running:
        said = json.loads(running.wait_for(1)[0])
        assert said["interfaces"]["lo:1"]["location"] == "office"
        assert said["tunnels"] == {}
        real_store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "wanted", False, "no corp.conf")})
        assert json.loads(running.wait_for(2)[1])["tunnels"]["openvpn corp"]["problem"] == "no corp.conf"


def test_a_lease_that_ends_is_a_change_although_nothing_is_written(start, real_store):
    real_store.prepare()
    guard = GuardRecord("lo", "nftables", "open", "x", opened=True, done=True, lease_until=time.time() + 3)
    real_store.write_guard(guard)
    with start() as running:
        lines = running.wait_for(2)
        assert lines == ["guard of lo: open", "guard of lo: closed"]


def test_without_inotify_it_reads_again(start, real_store):
    real_store.prepare()
    with start(WITHOUT_INOTIFY="1") as running:
        running.wait_for(1)
        real_store.write_interface(AT_LO)
        assert running.wait_for(2)[1] == "lo:1: office"


def test_a_record_that_can_not_be_read_is_told_once_and_ends_nothing(start, real_store):
    real_store.prepare()
    Path(real_store.tunnels).write_text("rubbish\n")
    with start() as running:
        os.set_blocking(running.process.stderr.fileno(), False)
        told = b""

        def read_complaint():
            nonlocal told
            told += running.process.stderr.read() or b""
            return told

        wait_until(read_complaint, "a complaint", LONG)
        real_store.write_interface(AT_LO)
        os.unlink(real_store.tunnels)
        assert running.wait_for(1) == ["lo:1: office"]
        assert told.count(b"\n") == 1


def test_it_ends_when_its_reader_goes_away_although_nothing_changes(real_store):
    real_store.prepare()
    reader, writer = os.pipe()
    argv = [sys.executable, "-I", "-c", COMMAND, real_store.directory, "monitor"]
    process = subprocess.Popen(argv, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    try:
        assert os.read(reader, 4096) == b"no interface with netconf rules is up\n"
        os.close(reader)
        _, complaints = process.communicate(timeout=LONG)
        assert (process.returncode, complaints) == (0, b"")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_it_ends_when_its_reader_has_gone_before(real_store):
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-I", "-c", COMMAND, real_store.directory, "monitor"]
    process = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, timeout=LONG)
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, b"")


def test_it_does_not_run_while_nothing_happens(start, real_store):
    """Its processor time, after it has begun, as the kernel counts it: 0 of 0.01 s."""
    real_store.prepare()
    real_store.write_interface(AT_LO)
    with start() as running:
        running.wait_for(1)
        stat = Path(f"/proc/{running.process.pid}/stat")
        wait_until(lambda: stat.read_text().split()[2] == "S", "it to sleep", LONG)
        before = stat.read_text().split()[13:15]
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 2, "two seconds to pass", LONG)
        assert stat.read_text().split()[13:15] == before


@pytest.mark.parametrize("record, words", [
    (TunnelRecord(*CORP, "up", "", True), "starting"),
    (TunnelRecord(*CORP, "down", "", True), "stopped"),
    (TunnelRecord(*CORP, "down", "", False), "stopping"),
    (TunnelRecord(*CORP, "up", "", True, held="held"), "starting"),
])
def test_what_tunnels_are_called(store, links, record, words):
    store.prepare()
    store.write_tunnels({CORP: record})
    assert monitor.format_line(read_seen(store, ask=False)) == f"openvpn corp: {words}"


@pytest.mark.parametrize("verdict", ["up", "down"])
def test_a_held_tunnel_is_what_the_watcher_sees_of_it(store, links, held_file, verdict):
    hold(*CORP)
    store.prepare()
    store.write_interface(make_record("eth0", 7, ()))
    store.write_tunnels({CORP: TunnelRecord(*CORP, verdict, "", True, held="held by the admin")})

    def read_words():
        return monitor.format_line(read_seen(store, ask=False)).partition("openvpn corp: ")[2]

    assert read_words() == "not known, held"
    store.write_held_states([TunnelState(*CORP, up_since=7.0)])
    assert read_words() == "connected, held"
    store.write_held_states([TunnelState(*CORP)])
    assert read_words() == "not connected, held"
    store.remove_interface("eth0")  # so that there is no watcher
    assert read_words() == "not known, held"


def test_where_interfaces_are(store, links):
    store.prepare()
    store.write_interface(make_record("eth0", 7, (), undecided=True))
    store.write_interface(make_record("corp", 0, (), wish=True))
    store.write_states([])
    assert monitor.format_line(read_seen(store, ask=False)) == "corp: a wish; eth0: undecided, does not count"
    links.plug("eth0", 7)
    assert monitor.format_line(read_seen(store, ask=False)) == "corp: a wish; eth0: undecided"


def test_a_tunnel_that_is_not_connected(store, links):
    store.prepare()
    store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "", True)})
    store.write_states([TunnelState(*CORP, words="no answer")])
    assert monitor.format_line(read_seen(store, ask=False)) == "openvpn corp: not connected"


def test_no_line_is_longer_for_arguments_that_are_none(command, capfd):
    with pytest.raises(SystemExit) as left:
        command("monitor", "eth0")
    assert left.value.code == 2
    assert capfd.readouterr().err == (
        "netconf-hooks: unrecognized arguments: eth0 (netconf-hooks --help says more)\n"
    )
