"""A guard's record that can't be read any more, while the guard is open: it is closed, and stays so."""

from __future__ import annotations

import pytest

from ..guarded import find_expiry
from ..network import HOME
from ..test_watch import find_watchers, stop_watcher
from ..waiting import wait_until
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
LEAKS = {"root/udp4/beyond", "nobody/tcp4/beyond"}


def open_guard(scene: Scene) -> None:
    """Let it be open, at home."""
    hostile.impersonate_home_router(scene.lab)
    scene.write_stanza("trust hints", "guard-allow udp/123")
    scene.arrive(HOME.name)
    scene.wait_for_guard("open")
    assert {leak.kind for leak in scene.find(scene.look())} >= LEAKS


def is_silent(scene: Scene) -> bool:
    """Whether nothing leaks any more."""
    return not scene.find(scene.look(1))


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


@pytest.mark.parametrize("guard", ["nftables"])
@pytest.mark.parametrize("damage", ["truncated", "removed", "link-to-zeros"])
def test_the_watcher_closes_it_before_its_lease_ends(scene: Scene, damage: str) -> None:
    """It finds out when it renews the lease, or at any news."""
    open_guard(scene)
    assert find_watchers(scene.lab)
    scene.laptop.run(["sh", "-c", DAMAGES[damage]])
    wait_until(lambda: find_expiry(scene.laptop) == 0.0, "the watcher to close the guard", 15)
    scene.forget()
    scene.judge("once the watcher has looked")
    assert scene.read_guard() == "closed"
    assert find_watchers(scene.lab)
    scene.laptop.ifdown("eth0")
    assert "netconf-guard" not in scene.laptop.run(["nft", "list", "ruleset"]).stdout
