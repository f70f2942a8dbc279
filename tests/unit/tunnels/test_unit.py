"""unit: any systemd unit as a tunnel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_systemd import FakeSystemd

from netconf_hooks.tunnels import Condition, TunnelError, load_tunnel
from netconf_hooks.tunnels.unit import Tunnel

STATE = "LoadState={}\nActiveState={}\nSubState=dead\nStatusText=\n"


def make_tunnel(fake: FakeSystemd, name: str = "corp") -> Tunnel:
    return Tunnel(name, fake.systemd())


def test_a_rule_finds_it() -> None:
    assert isinstance(load_tunnel("unit", "corp"), Tunnel)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("corp", "corp.service"),
        ("vpn@corp", "vpn@corp.service"),
        ("vpn@corp.example", "vpn@corp.example.service"),
        ("corp.service", "corp.service"),
        ("corp.target", "corp.target"),
        ("wg.socket", "wg.socket"),
    ],
)
def test_start_and_stop_complete_the_name_and_do_not_wait(fake: FakeSystemd, name: str, unit: str) -> None:
    fake.answer_show(STATE.format("loaded", "inactive"))
    make_tunnel(fake, name).start()
    make_tunnel(fake, name).stop()
    assert fake.calls == [f"--no-block start {unit}", f"--no-block stop {unit}"]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("not-found", "^there is no unit corp.service$"),
        ("masked", "corp.service can't be used: systemd says LoadState=masked"),
        ("bad-setting", "corp.service can't be used: systemd says LoadState=bad-setting"),
    ],
)
def test_what_systemd_cannot_load_is_not_started(fake: FakeSystemd, load: str, message: str) -> None:
    fake.answer_show(STATE.format(load, "inactive"))
    with pytest.raises(TunnelError, match=message):
        make_tunnel(fake).check()
    with pytest.raises(TunnelError, match=message):
        make_tunnel(fake).start()
    assert not fake.calls


@pytest.mark.parametrize(
    ("active", "up"),
    [
        ("active", True),
        ("reloading", True),
        ("inactive", False),
        ("activating", False),
        ("deactivating", False),
        ("failed", False),
    ],
)
def test_up_is_active(fake: FakeSystemd, active: str, up: bool) -> None:
    fake.answer_show(STATE.format("loaded", active))
    assert make_tunnel(fake).is_up() is up


def test_a_oneshot_that_remains_is_up(fake: FakeSystemd, captured: Callable[[str], str]) -> None:
    # The fourth of the captured units: systemd-tmpfiles-setup.service, Type=oneshot, RemainAfterExit=yes.
    fake.answer_show(captured("show-units").split("\n\n")[3])
    assert make_tunnel(fake).is_up() is True


def test_a_silent_systemd_leaves_it_open(fake: FakeSystemd) -> None:
    fake.answer_show("Failed to connect to bus: No such file or directory\n", 1)
    assert make_tunnel(fake).is_up() is None


def test_without_systemd_nothing_can_be_done_and_nothing_is_up(fake: FakeSystemd) -> None:
    fake.absent()
    tunnel = make_tunnel(fake)
    for act in (tunnel.check, tunnel.start, tunnel.stop):
        with pytest.raises(TunnelError, match="unit tunnels need systemd, .*: corp.service"):
            act()
    assert tunnel.is_up() is False
    assert not fake.calls


def test_where_it_sends_is_not_known(fake: FakeSystemd) -> None:
    assert make_tunnel(fake).endpoints() == ()


def test_boot_start_names_the_link(fake: FakeSystemd) -> None:
    assert make_tunnel(fake).boot_start() == ""
    link = fake.enable("corp.service")
    assert make_tunnel(fake).boot_start() == f"corp.service is enabled ({link})"


SERVICE = "LoadState=loaded\nActiveState={}\nType={}\nMainPID={}\nResult={}\nExecMainCode={}\nExecMainStatus={}\n"
SERVICE += "Restart={}\nInvocationID=abc\n"


@pytest.mark.parametrize(
    ("service", "condition"),
    [
        (("active", "simple", 7, "success", 0, 0, "no"), Condition(True, True, pid=7)),
        (("activating", "simple", 7, "success", 0, 0, "no"),
         Condition(False, True, pid=7, words="systemd says it is activating")),
        (("inactive", "simple", 0, "success", 1, 0, "no"),
         Condition(False, False, words="it ended with exit status 0")),
        (("inactive", "oneshot", 0, "success", 1, 0, "no"),
         Condition(False, False, final=True, words="it ended with exit status 0")),
        (("failed", "oneshot", 0, "exit-code", 1, 3, "no"),
         Condition(False, False, words="it ended with exit status 3; no server")),
        (("failed", "simple", 0, "signal", 2, 9, "no"),
         Condition(False, False, words="it was ended by signal 9; no server")),
        (("failed", "simple", 0, "timeout", 2, 15, "no"),
         Condition(False, False, words="it was ended by signal 15; no server")),
        # What systemd itself starts again; it does not after a clean end.
        (("failed", "simple", 0, "signal", 2, 9, "on-failure"),
         Condition(False, False, final=True, words="it was ended by signal 9; no server")),
        (("inactive", "simple", 0, "success", 1, 0, "on-failure"),
         Condition(False, False, words="it ended with exit status 0")),
        (("inactive", "simple", 0, "success", 1, 0, "always"),
         Condition(False, False, final=True, words="it ended with exit status 0")),
    ],
)  # fmt: skip
def test_how_it_is_doing(fake: FakeSystemd, service: tuple[object, ...], condition: Condition) -> None:
    fake.answer_show(SERVICE.format(*service))
    fake.answer_journal("no server")
    assert make_tunnel(fake).inspect() == condition
    if "no server" in condition.words:
        assert fake.asked_journal.endswith("--lines=1 _SYSTEMD_INVOCATION_ID=abc")


def test_only_a_service_is_started_again(fake: FakeSystemd) -> None:
    fake.answer_show("LoadState=loaded\nActiveState=inactive\nResult=success\n")
    assert make_tunnel(fake, "corp.target").inspect().final
    assert not make_tunnel(fake, "corp.service").inspect().final


@pytest.mark.parametrize(("active", "result", "final"), [
    ("inactive", "success", True), ("failed", "exit-code", False),
])
def test_a_oneshot_whose_run_systemd_has_forgotten_has_succeeded(
    fake: FakeSystemd, active: str, result: str, final: bool
) -> None:
    """Nothing refers to it any more: no InvocationID, no ExecMainCode; captured from systemd 252."""
    fake.answer_show(f"LoadState=loaded\nActiveState={active}\nType=oneshot\nResult={result}\nExecMainCode=0\n"
                     "ExecMainStatus=0\nRestart=no\nInvocationID=\n")  # fmt: skip
    assert make_tunnel(fake).inspect().final is final


def test_it_is_restarted_without_waiting(fake: FakeSystemd) -> None:
    fake.answer_show(STATE.format("loaded", "active"))
    make_tunnel(fake).restart()
    assert fake.calls == ["--no-block restart corp.service"]
    assert (make_tunnel(fake).count_received(), make_tunnel(fake).nudge()) == (None, "")
