"""Up to forty guards at once: what is done for one link, or for all in one transaction, opens none of the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from ..guarded import list_guards
from ..network import HOME
from ..stanzas import read_status
from ..waiting import wait_until
from .scene import BACKENDS, BOTH, NO_GUARD, Scene, SOAK
from .news import PROMISE, SLOW, NewsClock, has_lost_carrier
from .wires import Wires, run_at_once

# Beside eth0.  With iptables each ifup takes three times as long, so that ``make soak`` has the other wires.
COUNTS = dict.fromkeys(BACKENDS, 39 if SOAK else 12) | {NO_GUARD: 39, "nftables": 39}

_PLUGGED = "    netconf-location home-lan command=/usr/local/sbin/ask\n    netconf-trust hints\n"


@pytest.fixture
def wires(scene: Scene) -> Iterator[Wires]:
    """The wires of the scene's laptop."""
    with Wires(scene, COUNTS[scene.guard]) as made:
        yield made


@BOTH
def test_nothing_leaves_while_forty_guards_come_change_and_go(scene: Scene, wires: Wires) -> None:
    laptop = scene.laptop
    half, some = wires.names[:len(wires.names) // 2], wires.names[:len(wires.names) // 4]
    scene.write_stanza()
    scene.tunnel_everything()
    wires.write_stanzas()
    wires.judge("before ifup", leaking=False)
    for wire in half:
        laptop.ifup(wire)
    run_at_once(scene, "ifup", wires.names[len(half):])
    wires.answer_neighbours()
    wires.judge("all up")

    # Now every guard is to let the tunnel's packets through: they are told at once.
    scene.arrive()
    scene.wait_for_tunnel()
    wires.judge("the tunnel's server has been let through")
    scene.judge("eth0 with the tunnel", "*/udp4/bound")
    if scene.guarded:
        assert [wire for wire in wires.names if not lets_tunnel_through(scene, wire)] == []

    laptop.run(["netconf-hooks", "refresh"])
    refreshing = laptop.start(["netconf-hooks", "refresh"])
    run_at_once(scene, "ifdown", some)
    assert refreshing.wait(120).returncode == 0
    wires.judge("some went while all were looked at", leaking=False)
    run_at_once(scene, "ifup", some)
    wires.answer_neighbours()
    wires.judge("they have come back")

    laptop.run(["ip", "link", "set", wires.names[0], "down"])
    laptop.run(["ip", "link", "set", wires.names[0], "up"])
    wires.answer_neighbours()
    laptop.run(["netconf-hooks", "refresh"])
    wires.judge("one was pulled and plugged in")

    laptop.ifdown("eth0")
    wires.judge("eth0 and its tunnel have gone")
    run_at_once(scene, "ifdown", wires.names)
    wires.judge("all down", leaking=False)
    if scene.guarded:
        assert list_guards(laptop) == []


def lets_tunnel_through(scene: Scene, device: str) -> bool:
    """Whether the guard of a device lets the tunnel's packets through, and the firewall was told."""
    record = scene.laptop.read(f"/run/netconf-hooks/guards/{device}")
    return "\nopening " in record and "\ndone 1\n" in record


@pytest.mark.parametrize("guard", BACKENDS)
def test_one_opens_and_the_others_stay_closed(scene: Scene, wires: Wires) -> None:
    laptop = scene.laptop
    scene.write_stanza("trust hints", vpn="")
    wires.write_stanzas()
    run_at_once(scene, "ifup", wires.names)
    wires.answer_neighbours()
    scene.arrive(HOME.name)
    scene.wait_for_guard("open")
    wires.judge("at home")
    assert {"root/udp4/beyond", "nobody/tcp4/beyond"} <= {leak.kind for leak in scene.find(scene.look())}
    laptop.run(["netconf-hooks", "refresh"])
    scene.wait_for_guard("open")
    wires.judge("all were looked at")
    laptop.run(["netconf-hooks", "close"])
    scene.forget()
    wires.judge("all closed")
    scene.judge("eth0 closed")


@pytest.mark.parametrize("guard", BACKENDS)
def test_all_that_somebody_took_away_is_put_back_at_once(scene: Scene, wires: Wires) -> None:
    """Between the two there is a moment without any guard, which netconf-interfaces(5) tells of."""
    laptop = scene.laptop
    scene.write_stanza(vpn="")
    wires.write_stanzas()
    scene.arrive()
    run_at_once(scene, "ifup", wires.names)
    wires.answer_neighbours()
    wires.judge("all up")
    programs = [scene.guard, f"ip6{scene.guard[2:]}"] if scene.guard != "nftables" else []
    flushes = [[program, "-t", "mangle", "-F"] for program in programs] or [["nft", "flush", "ruleset"]]
    for flush in flushes:
        laptop.run(flush)
    wait_until(lambda: laptop.log().count("somebody removed it") >= len(wires.names), "all to be put back", 30)
    laptop.run(["netconf-hooks", "refresh", "--guards"])
    wires.forget()
    wires.judge("all put back")
    assert "not closed at once" not in laptop.log()


@pytest.mark.parametrize("guard", BACKENDS)
def test_all_that_are_open_are_shut_at_once(scene: Scene, wires: Wires) -> None:
    """All cables are moved in the same moment: the last guard is shut as soon as the first."""
    laptop = scene.laptop
    scene.write_stanza("trust hints", vpn="")
    laptop.write("/usr/local/sbin/ask", "#!/bin/sh\n", 0o755)
    wires.write_stanzas(_PLUGGED)
    scene.arrive()
    run_at_once(scene, "ifup", wires.names)
    wires.answer_neighbours()
    wait_until(lambda: [*read_states(scene).values()].count("open") == len(wires.names), "all to be open", 60)
    laptop.write("/usr/local/sbin/ask", "#!/bin/sh\nexit 1\n", 0o755)
    wires.forget()
    scene.traffic.wait_rounds(3)
    assert len(wires.find_last()) == len(wires.names)
    with NewsClock(scene.network.laptop_namespace, *wires.names) as clock:
        began = time.time()

        def find_news() -> dict[str, float]:
            found = {wire: clock.find(began, partial(has_lost_carrier, link=wire)) for wire in wires.names}
            return {wire: when for wire, when in found.items() if when}

        wires.pull()
        # The kernel may not tell of those that have carrier again before it could (net/core/link_watch.c).
        wait_until(lambda: len(find_news()) > 5, "the kernel to tell of lost carriers")
        wires.plug()
        scene.traffic.wait_rounds(10)
        news = find_news()
    last = wires.find_last()
    late = {wire: last[wire][1] - when for wire, when in news.items() if wire in last}
    late = {wire: seconds for wire, seconds in late.items() if seconds > PROMISE + SLOW}
    assert not late, f"packets of these wires were seen for so many seconds after the news: {late}"
    wait_until(lambda: [*read_states(scene).values()].count("closed") == len(wires.names) + 1, "all to be closed", 30)
    wires.forget()
    wires.judge("in the end")


def read_states(scene: Scene) -> dict[str, object]:
    """Return the state of each guard."""
    return {device: guard["state"] for device, guard in read_status(scene.lab)["guards"].items()}
