"""What a killed ifdown has left: forgotten when its link is down and ifupdown takes it for down, and only then."""

import os
from pathlib import Path

import pytest
from guarded import GUARD, ifup, run_hook

from netconf_hooks.stanzas import interfaces
from netconf_hooks.system.programs import ProgramError, Result
from netconf_hooks.watcher.leftovers import clear_leftovers

STARTED = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]


@pytest.fixture
def configured(monkeypatch):
    """What ifquery(8) --state says: lines, or why it can't be asked."""
    answer = {"lines": ["lo=lo"], "status": 0}

    def run(argv, timeout):
        assert argv == ["ifquery", "--state"]
        if isinstance(answer["lines"], ProgramError):
            raise answer["lines"]
        return Result(answer["status"], "".join(f"{line}\n" for line in answer["lines"]))

    monkeypatch.setattr(interfaces, "run", run)
    return answer


@pytest.fixture
def cut_off(store, links, network, firewall):
    """eth0 was up with a guard; its ifdown has set it down, and all its hooks were killed."""
    ifup(store, links)
    links.plug("eth0", 7, up=False)
    return store


def test_it_is_forgotten_and_its_guard_goes(cut_off, firewall, configured, messages):
    clear_leftovers(cut_off)
    assert not cut_off.has_interfaces() and not cut_off.has_guards()
    assert firewall.stands == {}
    assert "info: eth0: its ifdown did not finish: forgetting eth0" in messages


def test_a_device_that_is_gone_is_down(cut_off, links, configured):
    links.clear()
    clear_leftovers(cut_off)
    assert not cut_off.has_interfaces() and not cut_off.has_guards()


@pytest.mark.parametrize("lines, status", [
    (["lo=lo", "eth0=eth0"], 0),
    ([], 1),
    (ProgramError("no such program"), 0),
])
def test_what_ifupdown_takes_for_up_or_does_not_tell_of_stays(cut_off, firewall, configured, lines, status):
    configured.update(lines=lines, status=status)
    clear_leftovers(cut_off)
    assert cut_off.has_interfaces() and cut_off.has_guards()
    assert list(firewall.stands) == ["eth0"]


@pytest.mark.parametrize("run", ["", "unknown", f"{os.getpid()}:{STARTED}"], ids=["none", "unknown", "running"])
def test_what_an_ifup_may_be_about_to_set_up_stays(store, links, network, firewall, configured, run):
    """Its state does not list it yet (ifupdown-ng), or the hooks were run by hand."""
    run_hook(store, "pre-up", run=run, **GUARD)
    clear_leftovers(store)
    assert store.has_guards() and list(firewall.stands) == ["eth0"]


def test_a_link_that_is_up_stays(store, links, network, firewall, configured):
    ifup(store, links)
    clear_leftovers(store)
    assert store.has_interfaces() and store.has_guards()


def test_an_ifup_that_comes_meanwhile_keeps_its_guard(cut_off, links, firewall, configured, monkeypatch):
    """It is counted from before its first hook, which waits for the lock, or has had it."""
    answers = [["lo=lo"], ["lo=lo", "eth0=eth0"]]
    monkeypatch.setattr(interfaces, "run", lambda argv, timeout: Result(0, "\n".join(answers.pop(0))))
    clear_leftovers(cut_off)
    assert cut_off.has_guards() and list(firewall.stands) == ["eth0"]


@pytest.mark.parametrize("moment", ["lock", "state"])
def test_an_ifup_that_comes_meanwhile_and_fails_keeps_its_guard(
    cut_off, links, firewall, configured, monkeypatch, moment
):
    """ifupdown forgets the interface then, whose link is up.  It was in the lock, or has come between two questions."""
    lock_acting = cut_off.lock_acting

    def fail(*_, **__):
        if links["eth0"].up:
            return
        monkeypatch.setattr(cut_off, "lock_acting", lock_acting)
        ifup(cut_off, links)

    if moment == "lock":
        monkeypatch.setattr(cut_off, "lock_acting", lambda: [fail(), lock_acting()][1])
    else:
        monkeypatch.setattr(interfaces, "run", lambda *_, **__: [fail(), Result(0, "lo=lo")][1])
    clear_leftovers(cut_off)
    assert cut_off.has_guards() and cut_off.has_interfaces() and list(firewall.stands) == ["eth0"]


def test_an_alias_that_is_up_keeps_the_guard_of_its_device(cut_off, firewall, configured):
    run_hook(cut_off, "pre-up", "eth0:1", **GUARD)
    configured["lines"] = ["lo=lo", "eth0:1=eth0:1"]
    clear_leftovers(cut_off)
    assert cut_off.has_guards()


def test_a_guard_that_can_not_be_taken_away_is_not_forgotten(cut_off, firewall, configured, messages):
    firewall.broken = "busy"
    clear_leftovers(cut_off)
    assert cut_off.has_guards() and cut_off.has_interfaces()
    assert any("busy" in message for message in messages)
