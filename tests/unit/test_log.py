"""What admins are told: nothing the network says can forge a line, and nothing here can fail."""

import os
import re
import socket
import subprocess
import sys
import syslog
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.system import log

CHECKOUT = str(Path(__file__).parents[2])


@pytest.fixture
def logged(monkeypatch):
    """What goes to syslog, instead of the machine's."""
    logged = []
    monkeypatch.setattr(syslog, "syslog", lambda priority, line: logged.append((priority, line)))
    yield logged
    log.set_verbose(False)


@pytest.mark.parametrize("level, priority, on_terminal", [
    (log.debug, None, False),
    (log.info, syslog.LOG_INFO, False),
    (log.warning, syslog.LOG_WARNING, True),
    (log.error, syslog.LOG_ERR, True),
    (log.complain, None, True),
])
def test_who_is_told_what(logged, capfd, level, priority, on_terminal):
    line = "netconf-hooks: eth0: at office\n"
    level("eth0: at office")
    assert logged == ([(priority, "eth0: at office")] if priority is not None else [])
    assert capfd.readouterr().err == (line if on_terminal else "")
    log.set_verbose(True)
    level("eth0: at office")
    assert capfd.readouterr() == ("", line)


@pytest.mark.parametrize("stream, repeated", [("{}", False), ("1:2", True), ("nonsense", True)])
def test_what_is_recorded_is_not_repeated_in_the_journal(logged, monkeypatch, capfd, stream, repeated):
    """systemd.exec(5): $JOURNAL_STREAM is the device and inode of what leads to the journal."""
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", stream.format(f"{status.st_dev}:{status.st_ino}"))
    log.error("eth0: something")
    log.warning("eth0: something")
    assert len(logged) == 2
    assert capfd.readouterr().err.count("eth0: something") == (2 if repeated else 0)
    log.complain("eth0: something")  # that is nowhere else
    assert "eth0: something" in capfd.readouterr().err


def test_syslog_knows_whose_words_they_are(logged, monkeypatch, capfd):
    opened = []
    monkeypatch.setattr(syslog, "openlog", lambda *arguments: opened.append(arguments))
    log.error("eth0: something")
    assert opened == [("netconf-hooks", syslog.LOG_PID, syslog.LOG_DAEMON)]


def test_each_line_of_a_message_is_a_line_of_the_log(logged, capfd):
    log.error("failed:\n  because\n")
    assert [line for _, line in logged] == ["failed:", "  because"]
    assert capfd.readouterr().err == "netconf-hooks: failed:\nnetconf-hooks:   because\n"


@pytest.mark.parametrize("text, shown", [
    ("plain text, 100 %", "plain text, 100 %"),
    ("", ""),
    ("caf\u00e9", "caf\\xe9"),
    ("\x1b[2J", "\\x1b[2J"),
    ("a\rb\nc\td", "a\\rb\\nc\\td"),
    ("\0", "\\x00"),
    ("\u202e\u2028", "\\u202e\\u2028"),
    ("\udcff", "\\udcff"),
])
def test_what_could_forge_a_line_is_shown_as_an_escape(text, shown):
    assert log.printable(text) == shown


@settings(max_examples=min(100, MANY), deadline=None)
@given(st.text(st.characters(blacklist_categories=()), max_size=40))
@example("\udc80\x85\x1c")
def test_whatever_is_printed_is_printable_and_of_one_line(text):
    shown = log.printable(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) >= len(text)


def test_nothing_of_it_reaches_syslog_or_the_terminal_raw(logged, capfd):
    log.error("eth0: domain \x1b]0;evil\x07\0\udcff")
    [(_, line)] = logged
    assert line == "eth0: domain \\x1b]0;evil\\x07\\x00\\udcff"
    assert capfd.readouterr().err == f"netconf-hooks: {line}\n"


PROGRAM = f"""
import sys
sys.path.append({CHECKOUT!r})
import syslog
syslog.syslog = lambda *_: None
from netconf_hooks.system import log
%s
log.error("eth0: something")
"""


def run_program(before="", **options):
    """Log an error in a process of its own and return its exit status."""
    return subprocess.run([sys.executable, "-IS", "-c", PROGRAM % before], timeout=20, **options).returncode


def test_a_full_standard_error_fails_nothing():
    with open("/dev/full", "w") as full:
        assert run_program(stderr=full) == 0


def test_a_closed_standard_error_fails_nothing():
    assert run_program(preexec_fn=lambda: os.close(2)) == 0


def test_a_pipe_that_nobody_reads_any_more_fails_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run_program(stderr=writer) == 0
    finally:
        os.close(writer)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_what_was_closed_is_filled_so_that_no_file_takes_its_place(tmp_path, closed):
    def close():
        for descriptor in closed:
            os.close(descriptor)

    path = tmp_path / "record"
    assert run_program(f"log.fill_descriptors(); record = open({str(path)!r}, 'w')", preexec_fn=close) == 0
    assert path.read_text() == ""
    assert run_program(f"record = open({str(path)!r}, 'w')", preexec_fn=lambda: os.close(2)) == 0
    assert "something" in path.read_text()  # so it would be


def test_descriptors_that_are_open_stay_what_they_are():
    before = [os.fstat(descriptor) for descriptor in (0, 1, 2)]
    log.fill_descriptors()
    assert [os.fstat(descriptor)[:3] for descriptor in (0, 1, 2)] == [stat[:3] for stat in before]


def test_who_does_not_wait_is_not_held_up_by_a_daemon_that_stands_still(tmp_path, monkeypatch):
    """Its socket is full, as is a pipe for standard error."""
    path = str(tmp_path / "log")
    monkeypatch.setattr(log, "SOCKET", path)
    monkeypatch.setattr(syslog, "syslog", lambda *_: pytest.fail("syslog(3) waits"))
    reader, writer = os.pipe()
    saved = os.dup(2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        daemon.setblocking(False)
        os.dup2(writer, 2)
        log.set_waiting(False)
        try:
            for number in range(5000):
                log.error(f"eth0: closed {number}\nand more")
        finally:
            log.set_waiting(True)
            os.dup2(saved, 2)
            for descriptor in (saved, reader, writer):
                os.close(descriptor)
        first, second = daemon.recv(1000).decode(), daemon.recv(1000).decode()
    assert re.fullmatch(rf"<27>\w{{3}} [ \d]\d \d\d:\d\d:\d\d netconf-hooks\[{os.getpid()}\]: eth0: closed 0", first)
    assert second.endswith(": and more")
