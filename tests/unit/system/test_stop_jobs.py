"""Which unit somebody has stopped by hand, by systemd's own word."""

import pytest

from netconf_hooks.system import programs
from netconf_hooks.system.programs import Result
from netconf_hooks.system.systemd import Systemd, SystemdError

UNIT = "openvpn@corp.service"
# journalctl --output=export of systemd 257 (Debian 13), shortened.
ENTRY = """\
__REALTIME_TIMESTAMP=1795904390390177
_PID=1
UNIT=openvpn@corp.service
MESSAGE=Stopping openvpn@corp.service - OpenVPN tunnel for corp...
JOB_ID=212
JOB_TYPE={}

"""


@pytest.fixture
def answer(monkeypatch):
    """A function that lays down what systemctl and journalctl say."""

    def lay_down(entry, state="ActiveState=inactive\nJob=\n"):
        def run(argv, timeout):
            if argv[0] == "systemctl":
                return Result(0, state)
            assert {"--boot", "--lines=1", "_PID=1", f"UNIT={UNIT}", "JOB_TYPE=start", "JOB_TYPE=stop"} <= set(argv)
            return Result(0 if entry else 1, entry)

        monkeypatch.setenv("TZ", "UTC")
        monkeypatch.setattr(programs, "run", run)

    return lay_down


def test_a_stop_job_is_one_by_hand(answer):
    answer(ENTRY.format("stop"))
    unit, when = Systemd().find_stop([UNIT])
    assert unit == UNIT and when.startswith("2026-11-2")


@pytest.mark.parametrize("entry", [ENTRY.format("start"), ENTRY.format("restart"), ENTRY.format("try-restart"), ""])
def test_anything_else_is_none(answer, entry):
    answer(entry)
    assert Systemd().find_stop([UNIT]) == ("", "")


@pytest.mark.parametrize("state", [
    "ActiveState=active\nJob=\n", "ActiveState=activating\nJob=\n", "ActiveState=deactivating\nJob=7\n",
    "ActiveState=inactive\nJob=148\n", "",
])
def test_a_unit_that_runs_or_has_a_job_is_not_stopped(answer, state):
    answer(ENTRY.format("stop"), state)
    assert Systemd().find_stop([UNIT]) == ("", "")


def test_without_a_journal_there_is_no_evidence(answer, monkeypatch):
    answer("")

    def run(argv, timeout):
        if argv[0] == "journalctl":
            raise programs.ProgramError("journalctl: not found")
        return Result(0, "ActiveState=inactive\n")

    monkeypatch.setattr(programs, "run", run)
    with pytest.raises(SystemdError):
        Systemd().find_stop([UNIT])
