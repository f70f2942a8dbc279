"""A guard's record that can't be read any more, while the guard is open: it is closed at once, and stays so."""

from __future__ import annotations

import pytest

from ..network import HOME
from ..waiting import wait_until
from ..watcher import find_watchers, stop_watcher, wait_for_watcher
from . import hostile
from .scene import BACKENDS, Scene

RECORD = "/run/netconf-hooks/guards/eth0"
DAMAGES = {
    "empty": f": >{RECORD}",
    "truncated": f"truncate -s -5 {RECORD}",
    "not-ascii": f"sed -i 's/^because /because \\xff/' {RECORD}",
    "removed": f"rm {RECORD}",
    "unknown-backend": f"sed -i 's/^backend .*/backend os/' {RECORD}",
    "link-to-zeros": f"ln -sf /dev/zero {RECORD}",
    "fifo": f"rm {RECORD}; mkfifo {RECORD}",
    "large": f"truncate -s 100M {RECORD}",
}
# Seconds from the kernel's news until nothing leaves any more, and what a busy machine may take beside.
PROMISE = 0.1
SLOW = 0.1
LEAKS = {"root/udp4/beyond", "nobody/tcp4/beyond"}


def open_guard(scene: Scene) -> None:
    """Let it be open, at home."""
    hostile.impersonate_home_router(scene.lab)
    scene.write_stanza("trust hints", "guard-allow udp/123")
    scene.arrive(HOME.name)
    scene.wait_for_guard("open")
    assert {leak.kind for leak in scene.find(scene.look())} >= LEAKS


@pytest.mark.parametrize("guard", BACKENDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_whoever_comes_closes_it(scene: Scene, damage: str) -> None:
    """Without a watcher: a hook, or refresh; and ifup opens it again."""
    open_guard(scene)
    stop_watcher(scene.lab)
    scene.laptop.run(["sh", "-c", DAMAGES[damage]])
    refreshed = scene.laptop.run(["netconf-hooks", "refresh"], check=False)
    assert "Traceback" not in refreshed.stderr + scene.laptop.log()
    scene.forget()
    scene.judge("after refresh")
    scene.laptop.run(["netconf-hooks", "refresh"])
    scene.judge("after another one")
    assert scene.read_guard() == "closed"
    scene.laptop.ifup("--force", "eth0")
    scene.wait_for_guard("open")


WRITTEN = {
    "overwritten": f"echo x >{RECORD}",
    "all-removed": f"rm {RECORD} /run/netconf-hooks/interfaces/eth0",
    "directory-removed": "rm -r /run/netconf-hooks/guards /run/netconf-hooks/interfaces",
}


@pytest.mark.parametrize("guard", BACKENDS)
@pytest.mark.parametrize("damage", ["truncated", "removed", "link-to-zeros", *WRITTEN])
def test_the_watcher_closes_it_at_once(scene: Scene, damage: str) -> None:
    """It learns of the write itself."""
    open_guard(scene)
    watcher = wait_for_watcher(scene.lab)
    command = (DAMAGES | WRITTEN)[damage]
    scene.forget()
    scene.laptop.run(["sh", "-c", f"{command}; date +%s.%N >/run/damaged"])
    damaged = float(scene.laptop.read("/run/damaged"))
    last = damaged

    def is_silent() -> bool:
        nonlocal last
        leaks = scene.find(scene.look(1))
        last = max([last, *(leak.time for leak in leaks)])
        return not leaks

    wait_until(is_silent, "the watcher to close the guard", 5)
    assert last - damaged < PROMISE + SLOW
    scene.judge("once it is closed")
    wait_for_watcher(scene.lab)
    assert "\nverdict closed\n" in scene.laptop.read(RECORD)
    assert find_watchers(scene.lab) == [watcher]
    scene.laptop.ifdown("eth0")
    assert "netconf-guard" not in scene.laptop.run(["nft", "list", "ruleset"]).stdout
