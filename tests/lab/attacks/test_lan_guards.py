"""Twenty guards with ``netconf-guard-allow lan`` at once: the window of each keeps no other waiting."""

from __future__ import annotations

import time

from ..waiting import wait_until
from .scene import BOTH, Scene
from .wires import BEYOND, Wires, run_at_once

COUNT = 20
# Seconds between the first and the last link that is closed again: a busy machine's senders take so long for a round.
TOGETHER = 0.2


@BOTH
def test_all_that_somebody_took_away_is_closed_before_the_first_lan_passes(scene: Scene) -> None:
    laptop = scene.laptop
    scene.write_stanza(vpn="")
    with Wires(scene, COUNT, answering=True, beyond=True) as wires:
        wires.write_stanzas(BEYOND + ("    netconf-guard-allow lan\n" if scene.guarded else ""))
        scene.arrive()
        run_at_once(scene, "ifup", wires.names)
        wires.judge("all up")
        if not scene.guarded:
            return
        assert reach_lan(scene) == COUNT
        wires.forget()
        laptop.run(["netconf-hooks", "refresh"])
        wires.judge("all looked at")
        programs = [scene.guard, f"ip6{scene.guard[2:]}"] if scene.guard != "nftables" else []
        flushes = [[program, "-t", "mangle", "-F"] for program in programs] or [["nft", "flush", "ruleset"]]
        wires.forget()
        began = time.time()
        for flush in flushes:
            laptop.run(flush)
        wait_until(lambda: laptop.log().count("somebody removed it") >= COUNT, "all to be put back", 30)
        laptop.run(["netconf-hooks", "refresh", "--guards"])
        last = {wire: when - began for wire, (_, when) in wires.find_last().items()}
        assert max(last.values()) - min(last.values()) < TOGETHER, last
        assert "not closed at once" not in laptop.log()
        wires.judge("all put back")
        wait_until(lambda: reach_lan(scene) == COUNT, "every LAN to pass again", 30)


def reach_lan(scene: Scene) -> int:
    """Return on how many of the LANs their other machine answers."""
    hosts = [f"10.77.{number}.9" for number in range(1, COUNT + 1)]
    pings = [scene.laptop.start(["ping", "-n", "-q", "-c1", "-W1", host]) for host in hosts]
    return sum(ping.wait().returncode == 0 for ping in pings)
