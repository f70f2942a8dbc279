"""Hooks of many links at once, in any order and killed at any instant: no guard opens, and nothing stays behind."""

from __future__ import annotations

import random

from ..guarded import list_guards
from ..network import CAFE
from .scene import BOTH, Scene
from .wires import Wires, run_at_once

SEED = 20261130
ROUNDS = 2
# Another interface on the same device: ifupdown locks each interface, so their hooks really run side by side.
_ALIAS = """
iface wire1:1 inet static
    address 10.77.1.3/24
    netconf-guard yes
    netconf-guard-backend {backend}
"""

# Kills one hook after the other with SIGKILL, at random instants, until it is killed itself; prints a dot for each.
_KILLER = """
import os, random, signal, sys, time
dice = random.Random(int(sys.argv[1]))
while True:
    time.sleep(dice.random() / 10)
    hooks = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                if "/usr/lib/netconf-hooks/if-" in file.read():
                    hooks.append(int(pid))
        except OSError:
            pass
    if hooks:
        try:
            os.kill(dice.choice(sorted(hooks)), signal.SIGKILL)
            print(end=".", flush=True)
        except OSError:
            pass
"""


def list_left(scene: Scene) -> list[str]:
    """Return what there is of guards: rules of firewalls, and records.

    What a killed hook had begun to write beside a record is none: the next writer overwrites it.
    """
    directories = ["/run/netconf-hooks/guards", "/run/netconf-hooks/interfaces"]
    records = scene.laptop.run(["find", *directories, "-type", "f", "!", "-name", ".*"])
    return list_guards(scene.laptop) + records.stdout.splitlines()


@BOTH
def test_forced_ifup_and_ifdown_of_one_link_beside_ten_others(scene: Scene) -> None:
    laptop = scene.laptop
    scene.write_stanza(vpn="")
    with Wires(scene, 11, answering=True) as wires:
        wires.write_stanzas()
        if scene.guarded:
            path = "/etc/network/interfaces"
            laptop.write(path, laptop.read(path) + _ALIAS.format(backend=scene.backend))
        first, alias = wires.names[0], f"{wires.names[0]}:1"
        scene.arrive()
        run_at_once(scene, "ifup", wires.names)
        wires.answer_neighbours()
        wires.judge("all up")
        dice = random.Random(SEED)
        names = [first, alias] if scene.guarded else [first]
        races = [[program, "--force", name] for program in ("ifup", "ifdown") for name in names]
        for turn in range(ROUNDS):
            commands = [*races, *races, ["netconf-hooks", "refresh"], ["netconf-hooks", "refresh"]]
            dice.shuffle(commands)
            running = [laptop.start(command) for command in commands]
            for each in running:
                each.wait(120)
            wires.judge(f"after race {turn}", leaking=False)
            scene.judge(f"eth0 after race {turn}", "*/udp4/bound")
        for name in reversed(names):
            laptop.run(["ifdown", "--force", name])
        laptop.ifup(first)
        wires.answer_neighbours()
        wires.judge("up again")
        if scene.guarded:
            guards = [f"/run/netconf-hooks/guards/{name}" for name in ("eth0", *wires.names)]
            assert sorted(line for line in list_left(scene) if "/guards/" in line) == sorted(guards)
        run_at_once(scene, "ifdown", ("eth0", *wires.names))
        wires.judge("all down", leaking=False)
    assert list_left(scene) == []


@BOTH
def test_hooks_of_twenty_links_killed_at_random_instants(scene: Scene) -> None:
    laptop = scene.laptop
    scene.write_stanza(vpn="")
    with Wires(scene, 20, answering=True) as wires:
        wires.write_stanzas()
        scene.lab.plug(CAFE.name)
        names = ("eth0", *wires.names)
        killer = laptop.start(["/usr/bin/python3", "-IS", "-", str(SEED)], text=_KILLER)
        for program in ("ifup", "ifdown", "ifup"):
            # Whoever's hook was killed may fail: ifupdown then forgets the interface, and leaves the link as it is.
            for each in [laptop.start([program, name]) for name in names]:
                each.wait(120)
            scene.traffic.wait_rounds(3)
            leaking = [*scene.find(scene.capture.read()), *wires.find_last().items()]
            if scene.guarded:
                assert not leaking, f"hooks of {program} were killed: {leaking}"
            elif program == "ifup":
                assert len(leaking) > 5
        killed = killer.read_output().count(".")
        killer.kill()
        killer.wait()
        assert killed >= 10, killed
        for each in [laptop.start(["ifdown", "--force", name]) for name in names]:
            each.wait(120)
        assert list_left(scene) == []
        run_at_once(scene, "ifup", names[:5])
        run_at_once(scene, "ifdown", names[:5])
        wires.judge("five went up and down again", leaking=False)
        scene.judge("eth0 went up and down again", "*/udp4/bound")
    assert list_left(scene) == []
