"""A pass for a captive portal belongs to the network for which it was asked: no program that was slow takes it along.

Each program stops itself at one point.  Meanwhile the cable is moved to a twin network, with the same addresses and
another router; then the program goes on.
"""

from __future__ import annotations

import signal
import time

import pytest

from netconf_hooks.system.netlink import RTM_NEWLINK

from ..network import CAFE, HOME, INTERNET_HOST
from ..waiting import wait_until
from . import hostile
from .scene import BACKENDS, Scene
from .news import PROMISE, SLOW, NewsClock, move_to_twin
from .traffic import Job

WEB = [
    Job("root/web4", "tcp", INTERNET_HOST, 80),
    Job("root/tls4", "tcp", INTERNET_HOST, 443),
    Job("root/router4", "tcp", HOME.router, 8080),
]
KINDS = {job.kind for job in WEB}
PASS = ["portal", "eth0", "--for", "300s"]

_STOPS = """
import os, signal, sys
from netconf_hooks import cli
from netconf_hooks.commands import portal
from netconf_hooks.guard import enforce, override

def stop_after(place, name):
    function = getattr(place, name)
    def work(*arguments):
        result = function(*arguments)
        setattr(place, name, function)
        os.kill(os.getpid(), signal.SIGSTOP)
        return result
    setattr(place, name, work)

# As if no firewall had been told yet of what is recorded.
enforce._list_undone = lambda store: list(store.read_guards(print))
"""
# What the hook is about to do when it is stopped, and its command.
STOPS = {
    # It knows which windows the record has.
    "listed": ("stop_after(enforce, '_list_windows')", ["refresh", "eth0"]),
    # The link still was on the same network.
    "confirmed": ("stop_after(enforce, 'begin_windows')", ["refresh", "eth0"]),
    # The network has said where its portal is.
    "asked": ("stop_after(portal, 'find_out')", PASS),
    # It is recorded, and the link still was on the same network.
    "recorded": ("stop_after(override, 'begin_windows')", PASS),
}


def find_stopped(scene: Scene) -> int:
    """Return the pid of the program that has stopped itself; 0 while there is none."""
    for pid, line in scene.laptop.processes().items():
        status = scene.laptop.run(["cat", f"/proc/{pid}/status"], check=False).stdout
        if "stop_after" in line and "(stopped)" in status:
            return pid
    return 0


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("guard", BACKENDS)
def test_a_program_that_was_stopped_takes_no_pass_to_another_network(scene: Scene, stop: str) -> None:
    laptop = scene.laptop
    scene.write_stanza("trust hints", guard="unless office-lan", vpn="")
    scene.arrive(HOME.name)
    scene.traffic.add("root-web", WEB)
    scene.forget()
    scene.judge("without a pass")
    wrapper, command = STOPS[stop]
    if command is not PASS:
        laptop.run(["netconf-hooks", *PASS])
        assert {leak.kind for leak in scene.find(scene.look())} >= KINDS
    program = f"{_STOPS}{wrapper}\nraise SystemExit(cli.main({command!r}))\n"
    running = laptop.start(["/usr/bin/python3", "-c", program])
    pid = wait_until(lambda: find_stopped(scene), "the program to be stopped", 30)
    try:
        move_to_twin(scene)
        scene.judge("in the twin network, while the program is stopped")
    finally:
        laptop.run(["kill", "-CONT", str(pid)])
        running.process.send_signal(signal.SIGCONT)  # nsenter(1) stops with what it has started
        ended = running.wait(30)
    for _ in range(5):
        scene.judge("in the twin network, after it went on")
    if command is PASS:
        assert ended.returncode and "another network" in ended.stderr
    # It can be had there, too.  dhcpcd follows the cable: then the router is the café's own.
    wait_until(lambda: "default" in laptop.run(["ip", "route", "show", "dev", "eth0"]).stdout, "a default route", 30)
    laptop.run(["netconf-hooks", *PASS])
    kinds = KINDS - {"root/router4"} if laptop.dhcp_client == "dhcpcd" else KINDS
    assert {leak.kind for leak in scene.find(scene.look())} >= kinds


BRIDGE = """\
iface br0 inet dhcp
    netconf-outside-ports eth0
    pre-up ip link add br0 type bridge forward_delay 0
    pre-up ip link set eth0 master br0 up
"""
MACVLAN = """\
iface mv0 inet dhcp
    pre-up ip link add mv0 link eth0 type macvlan mode bridge
    pre-up ip link set eth0 up
"""


@pytest.mark.parametrize(
    "guard, stanza",
    [
        pytest.param(BACKENDS[0], BRIDGE, id="bridge"),
        *(pytest.param(backend, MACVLAN, id=f"macvlan, {backend}") for backend in BACKENDS),
    ],
)
def test_a_pass_of_a_link_whose_port_was_moved_faster_than_the_kernel_tells(scene: Scene, stanza: str) -> None:
    """The link itself never lost its carrier."""
    laptop, device = scene.laptop, stanza.split()[1]
    hostile.impersonate_home_router(scene.lab)
    laptop.run(["sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"])
    scene.write_stanza("trust hints", head=stanza.rstrip(), guard="unless office-lan", vpn="")
    scene.lab.plug(HOME.name)
    laptop.ifup(device)
    laptop.run(["netconf-hooks", "portal", device, "--for", "300s"])
    scene.traffic.add("root-web", WEB[:1])
    assert {leak.kind for leak in scene.find(scene.look())} >= {WEB[0].kind}
    with NewsClock(scene.network.laptop_namespace) as clock:
        before = time.time()
        scene.network.replug(CAFE.name, "eth0")
        news = wait_until(lambda: clock.find(before, lambda kind, _: kind == RTM_NEWLINK), "the kernel's news")
        late = [leak for leak in scene.find(scene.look(20)) if leak.time > news + PROMISE + SLOW]
        assert not late, f"packets left for {late[-1].time - news:.3f} s"
