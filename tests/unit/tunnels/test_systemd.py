"""systemd: what systemctl says and is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_systemd import FakeSystemd

from netconf_hooks.system.systemd import UnitState, parse_show
from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.services import Services

UNITS = ["one.service", "two.service", "three.service", "four.service", "five.target"]


def test_parse_show_reads_all_units_in_order(captured: Callable[[str], str]) -> None:
    assert parse_show(captured("show-units")) == (
        UnitState("not-found", "inactive", "dead", ""),
        UnitState("masked", "inactive", "dead", ""),
        UnitState("loaded", "active", "running", "Processing requests..."),
        UnitState("loaded", "active", "exited", ""),
        UnitState("loaded", "active", "active", ""),  # a target has no StatusText
    )


def test_parse_show_keeps_what_a_service_says() -> None:
    (state,) = parse_show("StatusText=a=b, c\nLoadState=loaded\nActiveState=active\nSubState=running\n")
    assert state.text == "a=b, c"


@pytest.mark.parametrize("output", ["", "\n\n", "Failed to connect to bus: No such file or directory\n", "="])
def test_parse_show_finds_nothing_in_anything_else(output: str) -> None:
    assert parse_show(output) == ()


def test_show_of_a_silent_systemd_is_an_error(fake: FakeSystemd, captured: Callable[[str], str]) -> None:
    fake.answer_show("Failed to connect to bus: No such file or directory\n", 1)
    with pytest.raises(TunnelError, match="systemctl show one.service: Failed to connect to bus: No such file"):
        fake.systemd().show(["one.service"])
    fake.answer_show(captured("show-units"), 0)
    assert len(fake.systemd().show(UNITS)) == 5
    with pytest.raises(TunnelError, match="systemctl show one.service two.service: "):
        fake.systemd().show(UNITS[:2])


def test_start_is_only_asked_for(fake: FakeSystemd) -> None:
    fake.systemd().start("a@b.service")
    assert fake.calls == ["--no-block start a@b.service"]


@pytest.mark.parametrize("state", ["starting", "degraded", "maintenance", "unknown", "offline"])
def test_start_goes_on_in_every_other_state(fake: FakeSystemd, state: str) -> None:
    fake.answer("state", f"{state}\n")
    fake.systemd().start("a.service")
    assert fake.calls


def test_start_is_refused_while_the_system_stops(fake: FakeSystemd) -> None:
    fake.answer("state", "stopping\n")
    with pytest.raises(TunnelError, match="^the system is stopping$"):
        fake.systemd().start("a.service")
    assert not fake.calls


def test_start_failing_is_reported_in_systemds_words(fake: FakeSystemd, captured: Callable[[str], str]) -> None:
    fake.answer_call(captured("systemctl-start-missing"), 5)
    with pytest.raises(TunnelError, match="systemctl start nosuch.service: .*: Unit nosuch.service not found."):
        fake.systemd().start("nosuch.service")


def test_stop_asks_for_all_at_once(fake: FakeSystemd) -> None:
    fake.systemd().stop(["a.service", "b.service"])
    assert fake.calls == ["--no-block stop a.service b.service"]


def test_stop_of_a_missing_unit_is_no_error(fake: FakeSystemd, captured: Callable[[str], str]) -> None:
    fake.answer_call(captured("systemctl-stop-missing"), 5)
    fake.systemd().stop(["nosuch@a.service"])
    assert fake.calls


def test_stop_failing_otherwise_is_reported(fake: FakeSystemd) -> None:
    fake.answer_call("", 1)
    with pytest.raises(TunnelError, match="systemctl stop a.service: exit status 1"):
        fake.systemd().stop(["a.service"])


def test_a_missing_systemctl_is_named(tmp_path: Path) -> None:
    with pytest.raises(TunnelError, match="systemctl-nonesuch: no such program"):
        Services("systemctl-nonesuch").start("a.service")


def test_is_running_looks_at_the_marker(fake: FakeSystemd) -> None:
    assert fake.systemd().is_running()
    fake.absent()
    assert not fake.systemd().is_running()


def test_find_wants_returns_the_link(fake: FakeSystemd) -> None:
    assert fake.systemd().find_wants("a.service") == ""
    link = fake.enable("a.service")
    assert fake.systemd().find_wants("a.service") == str(link)
    assert fake.systemd().find_wants("b.service") == ""


def test_find_wants_sees_requires_but_not_a_locations_target(fake: FakeSystemd) -> None:
    fake.enable("a.service", "netconf-location@home.target.wants")
    assert fake.systemd().find_wants("a.service") == ""
    link = fake.enable("a.service", "network-online.target.requires")
    assert fake.systemd().find_wants("a.service") == str(link)


def test_restart_is_asked_for_as_start_is(fake: FakeSystemd) -> None:
    fake.systemd().restart("a@b.service")
    assert fake.calls == ["--no-block restart a@b.service"]
    fake.answer("state", "stopping\n")
    with pytest.raises(TunnelError, match="^the system is stopping$"):
        fake.systemd().restart("a.service")
    assert len(fake.calls) == 1
