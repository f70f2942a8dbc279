"""What is left when our own programs die: closed, at every moment, by the kernel alone."""

from __future__ import annotations

import random
import signal
import time

import pytest

from ..network import CAFE, HOME, INTERNET_HOST
from ..stanzas import find_tunnels, read_status
from ..waiting import wait_until
from ..watcher import find_watchers, freeze, stop_watcher, wait_for_watcher
from . import hostile
from .scene import BACKENDS, BOTH, NO_GUARD, Scene, SOAK
from .traffic import Job, make_question, mark_data

# Of those that change something, or wait for somebody: where a killed hook leaves something half done.
CALLS = ("openat", "read", "write", "sendto", "sendmsg", "recvmsg", "rename", "flock", "close")
# At how many points, by what is thrown first: as many as a firewall's hooks are fast, in parts that workers share.
POINTS = {NO_GUARD: 1, "nftables": 20} | dict.fromkeys(("iptables-legacy", "iptables-nft"), 25 if SOAK else 15)
SEEDS = range(20261123, 20261123 + (5 if SOAK else 3))
ADDRESS = "192.168.3.50"
STATIC = f"iface eth0 inet static\n    address {ADDRESS}/24\n    gateway {CAFE.router}\n"

# For how long a link that was opened stays so with nobody alive, seconds (netconf-interfaces(5), GUARD).
LEASE = 30
PASS = 5
SLOW = 3.0  # seconds that a busy machine may be late


def run_hook(scene: Scene, phase: str, call: str = "", nth: int = 0, death: str = "KILL") -> int:
    """Run a hook as ifupdown does, killed at the `nth` system call of a kind; return its exit status.

    Negative where it was killed.
    """
    modes = {"pre-up": ("start", "pre-up"), "up": ("start", "post-up"), "down": ("stop", "pre-down"),
             "post-down": ("stop", "post-down")}  # fmt: skip
    env = {
        "IFACE": "eth0", "LOGICAL": "eth0", "ADDRFAM": "inet", "METHOD": "static", "MODE": modes[phase][0],
        "PHASE": modes[phase][1], "IF_ADDRESS": f"{ADDRESS}/24", "IF_GATEWAY": CAFE.router,
        "IF_NETCONF_LOCATION": f"home-lan gateway-mac={HOME.router_mac}", "IF_NETCONF_TRUST": "hints",
        "IF_NETCONF_VPN": "openvpn corp unless home-lan",
    }  # fmt: skip
    if scene.guarded:
        env |= {"IF_NETCONF_GUARD": "unless home-lan", "IF_NETCONF_GUARD_BACKEND": scene.backend}
    hook = f"/usr/lib/netconf-hooks/if-{phase}.d/netconf-hooks"
    inject = ["strace", "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal={death}:when={nth}"] if call else []
    status = scene.laptop.run([*inject, hook], check=False, env=env).returncode
    return status if status < 128 else 128 - status


def configure(scene: Scene, up: bool) -> None:
    """Do what ifupdown does between its hooks."""
    lines = [f"addr add {ADDRESS}/24 dev eth0", "link set eth0 up", f"route add default via {CAFE.router}"]
    if not up:
        lines = ["addr flush dev eth0", "link set eth0 down"]
    scene.laptop.run(["ip", "-batch", "-"], text="\n".join(lines))


def choose_point(dice: random.Random) -> tuple[str, str, int]:
    """Return where a hook is killed: the phase, the system call, and at the how manieth of that kind."""
    # Few calls of most kinds, many of some: the square takes the first ones more often.
    return dice.choice(("pre-up", "up")), dice.choice(CALLS), 1 + int(dice.random() ** 2 * 40)


@pytest.mark.parametrize("guard, seed", [
    (NO_GUARD, SEEDS[0]), ("iptables-legacy", SEEDS[0]), ("iptables-nft", SEEDS[0]),
    *(("nftables", seed) for seed in SEEDS),
])  # fmt: skip
def test_hooks_killed_at_many_points(scene: Scene, seed: int) -> None:
    """At the café: not one packet, whatever was half done; and right after the next run."""
    scene.lab.vpn.stop()
    scene.lab.plug(CAFE.name)
    dice = random.Random(seed)
    killed = {"pre-up": 0, "up": 0}
    while sum(killed.values()) < POINTS[scene.guard]:
        phase, call, nth = choose_point(dice)
        # A pre-up hook that fails ends ifup before it has configured anything (ifup(8)).
        if run_hook(scene, "pre-up", call if phase == "pre-up" else "", nth) != 0:
            killed[phase] += 1
            assert run_hook(scene, "pre-up") == 0
        configure(scene, up=True)
        if phase == "up" and run_hook(scene, "up", call, nth) != 0:
            killed[phase] += 1
        scene.traffic.wait_rounds(1)
        leaks = scene.find(scene.capture.read())
        if scene.guarded:
            assert not leaks, f"{phase} killed at the {nth}th {call}: {leaks[0]}"
        else:
            assert {"root/udp4/beyond", "nobody/tcp4/router"} <= {leak.kind for leak in leaks}
        assert run_hook(scene, "up") == 0
        record = read_status(scene.lab)["interfaces"]["eth0"]
        assert record["location"] is None
        if scene.guarded:
            assert record["guard"] == "closed"
        # Now and then nobody runs ifdown, and ifup is simply called again.
        left = dice.random() < 0.5
        assert left or run_hook(scene, "down") == 0
        configure(scene, up=False)
        assert left or run_hook(scene, "post-down") == 0
    if scene.guarded:
        assert min(killed.values()) > POINTS[scene.guard] / 10, killed
    scene.lab.vpn.start()
    assert run_hook(scene, "pre-up") == 0
    configure(scene, up=True)
    assert run_hook(scene, "up") == 0
    scene.wait_for_tunnel()
    scene.judge("in the end", "*/udp4/beyond")


@pytest.mark.parametrize(
    "guard, death", [*((backend, "KILL") for backend in BACKENDS), ("nftables", "SEGV")]
)
def test_a_hook_killed_while_it_opens(scene: Scene, death: str) -> None:
    """At home: where it is open, it is so by a decision that is on record; and the next run opens it.

    SEGV stands for a crash of libnftables, which sends its transaction by sendmsg(2): nobody has one that crashes.
    """
    scene.lab.plug(HOME.name)
    opened = 0
    for nth in range(1, 30):
        for phase in ("pre-up", "up"):
            if phase == "up":
                lines = f"addr add 192.168.1.50/24 dev eth0\nlink set eth0 up\nroute add default via {HOME.router}\n"
                scene.laptop.run(["ip", "-batch", "-"], text=lines)
            status = run_hook(scene, phase, "sendmsg" if phase == "up" else "", nth, death)
        scene.forget()
        leaks = scene.find(scene.look(1))
        if leaks:
            opened += 1
            assert scene.read_guard() == "open"
        assert run_hook(scene, "up") == 0
        assert scene.read_guard() == "open"
        assert scene.laptop.pings(INTERNET_HOST)
        assert run_hook(scene, "down") == 0
        configure(scene, up=False)
        assert run_hook(scene, "post-down") == 0
        if status == 0:
            break
    assert opened > 0


class Gate:
    """Another package's hook, which waits until it is let go."""

    def __init__(self, scene: Scene, phase: str, name: str) -> None:
        self._scene = scene
        self._fifo, self._arrived = f"/run/gate-{phase}", scene.laptop.namespaces.root / f"run/at-{phase}"
        wait = f"[ ! -p {self._fifo} ] || {{ : >/run/at-{phase}; read -r line <{self._fifo}; }}"
        scene.laptop.write(f"/etc/network/if-{phase}.d/{name}", f"#!/bin/sh\n{wait}\n", 0o755)

    def shut(self) -> None:
        """Let the hook wait from now on."""
        self._scene.laptop.run(["mkfifo", self._fifo])

    def wait(self) -> None:
        """Wait until it has come to the gate."""
        wait_until(self._arrived.exists, f"the hook that waits at {self._fifo}")

    def open(self) -> None:
        """Let it go on."""
        self._scene.laptop.run(["sh", "-c", f"echo >{self._fifo}; rm {self._fifo}"])


def find_processes(scene: Scene, *programs: str) -> list[int]:
    """Return the pids of programs on the laptop."""
    found = scene.laptop.run(["pgrep", "-x", "|".join(programs)], check=False).stdout.split()
    return [int(pid) for pid in found]


@BOTH
def test_the_hooks_of_a_killed_ifdown_end_nothing_of_the_next_ifup(scene: Scene) -> None:
    """run-parts goes on without its ifdown, while the next ifup has closed the link and is about to set it up."""
    scene.lab.vpn.stop()
    scene.write_stanza(head=STATIC.rstrip())
    first = scene.laptop.run(["cat", "/etc/network/interfaces"]).stdout
    second = "\niface eth0 inet static\n    address 192.168.3.51/24\n"
    scene.laptop.write("/etc/network/interfaces", first + second)
    post_down, pre_up, up = Gate(scene, "post-down", "aa"), Gate(scene, "pre-up", "zz"), Gate(scene, "up", "aa")
    scene.arrive()
    for gate in (post_down, pre_up, up):
        gate.shut()
    scene.laptop.start(["ifdown", "eth0"])
    post_down.wait()
    (pid,) = find_processes(scene, "ifdown")
    scene.laptop.run(["kill", "-KILL", str(pid)])
    (orphan,) = find_processes(scene, "run-parts")
    raising = scene.laptop.start(["ifup", "--force", "eth0"])
    pre_up.wait()
    post_down.open()
    wait_until(lambda: orphan not in find_processes(scene, "run-parts"), "the hooks of ifdown to end")
    pre_up.open()
    up.wait()
    scene.forget()
    scene.judge("while the link is up and its if-up.d has not come to us", "*/udp4/beyond")
    up.open()
    raising.wait()
    scene.judge("once it is up", "*/udp4/beyond")
    scene.laptop.ifdown("eth0")
    assert "netconf-guard" not in scene.laptop.run(["nft", "list", "ruleset"]).stdout


def find_waiting_child(scene: Scene) -> int:
    """Return the pid of the watcher's child if it waits for a lock; else 0."""
    for pid in find_watchers(scene.lab, children=True):
        if "lock_inode" in scene.laptop.run(["cat", f"/proc/{pid}/wchan"], check=False).stdout:
            return pid
    return 0


@BOTH
def test_an_ifup_that_fails_while_the_rest_of_a_killed_ifdown_is_cleared_up(scene: Scene) -> None:
    """It was judged to be left over, and before the lock for acting could be had an ifup set the link up and failed.

    ifupdown forgets an interface whose ifup fails, and the link stays up: so the guard stays, too.
    """
    scene.lab.vpn.stop()
    scene.write_stanza(head=STATIC.rstrip())
    scene.arrive()
    scene.laptop.write("/etc/network/if-up.d/aa", "#!/bin/sh\nexit 1\n", 0o755)
    # As if they had been killed before they did anything: only pre-up runs from now on.
    for phase in ("up", "down", "post-down"):
        scene.laptop.run(["rm", f"/etc/network/if-{phase}.d/netconf-hooks"])
    stopped = []
    if scene.guarded:
        stopped = [wait_for_watcher(scene.lab)]
        scene.laptop.run(["mkfifo", "/run/gate"])
        hold = "flock /run/netconf-hooks/acting.lock sh -c '>/run/held; read -r line </run/gate'"
        holder = scene.laptop.start(["sh", "-c", hold])
        wait_until(lambda: scene.laptop.exists("/run/held"), "the lock to be held", 30)
    scene.laptop.ifdown("eth0")
    if scene.guarded:
        child = wait_until(lambda: find_waiting_child(scene), "the child that clears up to wait for the lock", 30)
        stopped.append(child)  # and the watcher, which would end a child that takes too long
        freeze(scene.lab, stopped)
        scene.laptop.run(["sh", "-c", "echo go >/run/gate"])
        assert holder.wait().returncode == 0
    assert scene.laptop.ifup("eth0", check=False).returncode != 0
    assert ",UP" in scene.laptop.run(["ip", "link", "show", "eth0"]).stdout, "pre-up has refused it"
    assert "eth0" not in scene.laptop.run(["ifquery", "--state"]).stdout
    if not scene.guarded:
        # If the bridge drops the first question for the router's MAC address, the next one comes a second later.
        wait_until(lambda: scene.laptop.pings(CAFE.router), "the cable to carry packets")
    scene.forget()
    scene.judge("after the ifup that failed", "*/udp4/beyond")
    if scene.guarded:
        scene.laptop.run(["kill", "-CONT", *map(str, stopped)])
        wait_until(lambda: child not in find_watchers(scene.lab, children=True), "the child to end", 30)
    scene.judge("after what was left over was cleared up", "*/udp4/beyond")
    if scene.guarded:
        assert read_status(scene.lab)["guards"]["eth0"]["state"] == "closed"


def refresh(scene: Scene) -> object:
    """Decide again; return the state of the guard."""
    scene.laptop.run(["netconf-hooks", "refresh"])
    return scene.read_guard()


@BOTH
def test_the_watcher_killed_while_the_guard_is_open(scene: Scene) -> None:
    """Open is a lease, and only a living watcher renews it."""
    hostile.impersonate_home_router(scene.lab)
    scene.write_stanza("trust hints")
    scene.arrive(HOME.name)
    if scene.guarded:
        scene.wait_for_guard("open")
    leaks = scene.find(scene.look())
    assert {"root/udp4/beyond", "nobody/tcp4/beyond", "container/udp4/beyond"} <= {leak.kind for leak in leaks}
    stop_watcher(scene.lab)
    killed = time.time()
    if not scene.guarded:
        scene.judge("with nobody alive", "*/udp4/beyond")
        return
    last = killed

    def is_silent() -> bool:
        nonlocal last
        leaks = scene.find(scene.look(1))
        last = leaks[-1].time if leaks else last
        return not leaks and time.time() - last > 1

    wait_until(is_silent, "the lease to end", LEASE + SLOW)
    assert killed < last < killed + LEASE + (0.5 if scene.backend == "nftables" else 1.5)  # iptables knows seconds
    scene.judge("after the lease")
    assert find_watchers(scene.lab) == []
    assert scene.read_guard() == "closed"
    # Meanwhile another network is behind the same switch, and what the kernel remembers is home's router.
    scene.network.move(CAFE.name, "eth0")
    scene.laptop.run(["netconf-hooks", "refresh"])
    scene.judge("where nobody watched that it was moved")
    # And home again: the next runs find that out.
    scene.network.move(HOME.name, "eth0")
    wait_until(lambda: refresh(scene) == "open", "the guard to open at home", 20)
    wait_until(lambda: scene.laptop.pings(INTERNET_HOST), "home to work")


PORTAL = [
    Job("root/web4", "tcp", INTERNET_HOST, 80),
    Job("root/web6", "tcp", "2001:db8:ffff::1", 443),
    Job("root/dns4/portal", "udp", CAFE.router, 53, data=make_question("root/dns4/portal")),
]
# Of the scene's own: portals often use a port of the router's.
ROUTERS = {"root/tcp4/router", "root/tcp6/router"}
NOT_PORTAL = [
    Job("root/ssh4", "tcp", INTERNET_HOST, 22),
    Job("root/quic4", "udp", INTERNET_HOST, 443, data=mark_data("root/quic4")),
]


@BOTH
def test_a_portal_pass_runs_out_with_nobody_alive(scene: Scene) -> None:
    """http, https, the router's TCP ports and the link's DNS for who asked, for as long as was said, whatever happens
    to us."""
    scene.traffic.add("root-portal", PORTAL)
    scene.traffic.add("root-else", NOT_PORTAL)
    scene.write_stanza()
    scene.lab.vpn.stop()
    scene.arrive()
    scene.wait_for_ipv6()
    scene.judge("before the pass", *(job.kind for job in (*PORTAL, *NOT_PORTAL)))
    if not scene.guarded:
        return
    # What a DHCP client hears would start the watcher again.
    hooks = [f"/usr/{place}/dhcpcd-hooks/90-netconf-hooks" for place in ("lib/dhcpcd", "libexec")]
    scene.laptop.run(["rm", "-f", *hooks])
    began = time.time()
    scene.laptop.run(["netconf-hooks", "portal", "eth0", "--for", f"{PASS}s"])
    at_latest = time.time()  # the pass began meanwhile: before that the command finds out where the portal is
    for pid in (*find_watchers(scene.lab), *find_tunnels(scene.lab)):
        scene.laptop.run(["kill", f"-{signal.SIGKILL.value}", str(pid)], check=False)
    wait_until(lambda: not find_watchers(scene.lab), "the watcher to be gone")
    leaks = scene.find(scene.look())
    # The command itself looks up the host of its plain request.
    asked = [leak for leak in leaks if not leak.kind]
    assert all("> 53 " in leak.summary and f" > {CAFE.router} " in leak.summary for leak in asked), asked
    kinds = {leak.kind for leak in leaks}
    passing = {job.kind for job in PORTAL} | ROUTERS
    assert passing <= kinds
    # Of root, who asked: the link's resolver; nothing of anybody else's, and nothing else of root's.
    assert {kind for kind in kinds if kind and not kind.startswith("root/")} == set()
    assert {kind for kind in kinds if kind and "dns" not in kind and kind not in passing} == set()
    last = began

    def is_silent() -> bool:
        nonlocal last
        leaks = scene.find(scene.look(1))
        last = leaks[-1].time if leaks else last
        return not leaks and time.time() - last > 1

    wait_until(is_silent, "the pass to run out", PASS + SLOW)
    late = 1 if scene.backend == "nftables" else 2  # iptables knows seconds
    assert began + PASS - 1 < last < at_latest + PASS + late
    scene.judge("after the pass")
    assert find_watchers(scene.lab) == []
