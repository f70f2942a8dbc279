"""Whatever else goes on, an open guard is shut within 100 ms of the kernel's news, and opens only by a newer look.

The kernel's news that is measured here: another MAC address behind the router's address.  Then nothing but the guard
keeps a packet from leaving, while a pulled cable would by itself.  Each measurement is written down (`latencies`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from netconf_hooks.system.netlink import RTM_NEWNEIGH, parse_neighbour

from ..namespaces import Running
from ..network import CAFE, HOME, INTERNET_HOST
from ..waiting import wait_until
from ..watcher import find_watchers, wait_for_watcher
from . import hostile
from .latencies import note_latency
from .news import PROMISE, SLOW, NewsClock, ask_router, has_lost_carrier, move_to_twin
from .place import call_in
from .scene import BACKENDS, NO_GUARD, Scene
from .traffic import Job, mark_data

NFTABLES, *IPTABLES = BACKENDS

NOBODYS_MAC = "02:00:00:00:00:99"


# How long a program has not moved that counts as stopped, seconds.
STOPPED = 0.3

GATE = "/run/gate"
BUSY = "/run/busy"
_SECOND = """
iface wlan0 inet static
    address 192.168.77.2/24
    netconf-location plugged  carrier=yes command=/usr/local/sbin/ask
    netconf-timeout {timeout}
"""
_WAIT = f"#!/bin/sh\n[ -p {GATE} ] || exit 0\n%s touch {BUSY}; read line <{GATE}\n"


def is_other_router(kind: int, body: bytes) -> bool:
    """Whether this is the news of home's router having another MAC address."""
    if kind != RTM_NEWNEIGH:
        return False
    neighbour = parse_neighbour(body)
    return (neighbour.address, neighbour.mac) == (HOME.router, NOBODYS_MAC)


def come_home(scene: Scene, timeout: int = 60) -> None:
    """Bring both interfaces up; eth0 is at home, and open.  One more process sends a packet every millisecond.

    timeout: for how long a look at wlan0 may take, seconds.
    """
    scene.write_stanza("trust hints", "timeout 3", vpn="")
    path = "/etc/network/interfaces"
    scene.laptop.write(path, scene.laptop.read(path) + _SECOND.format(timeout=timeout))
    scene.laptop.write("/usr/local/sbin/ask", _WAIT % '[ "$IFACE" != wlan0 ] ||', 0o755)
    scene.laptop.write("/etc/netconf-hooks/event.d/wait", _WAIT % '[ "$1" != plugged-disconnected ] ||', 0o755)
    scene.lab.plug(CAFE.name, "wlan0")
    scene.laptop.ifup("wlan0")
    scene.arrive(HOME.name)
    if scene.guarded:
        scene.wait_for_guard("open")
    wait_for_watcher(scene.lab)
    kind = "root/udp4/often"
    scene.traffic.add("root-often", [Job(kind, "udp", INTERNET_HOST, 9, data=mark_data(kind))], 1, urgent=True)
    leaks = scene.find(scene.look())
    assert {"root/udp4/beyond", "nobody/tcp4/beyond", kind} <= {leak.kind for leak in leaks}


def open_gate(scene: Scene) -> None:
    """Let whoever waits there go on."""
    scene.laptop.run(["sh", "-c", f"rm -f {BUSY}; mv {GATE} {GATE}.old; echo go >{GATE}.old & wait $!; rm {GATE}.old"])


@contextmanager
def wait_in_event_script(scene: Scene) -> Iterator[None]:
    """The watcher runs an event script that does not end."""
    scene.laptop.write("/usr/local/sbin/ask", "#!/bin/sh\n", 0o755)
    scene.laptop.run(["mkfifo", GATE])
    scene.lab.unplug("wlan0")
    wait_until(lambda: scene.laptop.exists(BUSY), "the event script to wait")
    yield
    open_gate(scene)


@contextmanager
def wait_in_look(scene: Scene) -> Iterator[None]:
    """The watcher looks at another interface, which takes a minute."""
    scene.laptop.run(["mkfifo", GATE])
    scene.laptop.run(["ip", "addr", "add", "192.168.78.2/24", "dev", "wlan0"])
    wait_until(lambda: scene.laptop.exists(BUSY), "the watcher to look")
    yield
    open_gate(scene)


@contextmanager
def stop_hook(scene: Scene, path: str, call: str) -> Iterator[None]:
    """A ``netconf-hooks refresh`` that is stopped by SIGSTOP after its first system call `call` on the file `path`."""
    argv = ["strace", "-qq", "-o", "/dev/null", "-P", path, "-e", f"inject={call}:signal=STOP:when=1"]
    running = scene.laptop.start([*argv, "netconf-hooks", "refresh", "eth0"])

    seen: tuple[str, float] = ("", 0.0)

    def find_stopped() -> int:
        nonlocal seen
        assert running.process.poll() is None, "the hook ended and was not stopped"
        for pid, line in scene.laptop.processes().items():
            if line.endswith("netconf-hooks refresh eth0") and "strace" not in line:
                # strace stops it for a moment at other calls, too.
                status = scene.laptop.run(["cat", f"/proc/{pid}/status"], check=False).stdout
                if "(tracing stop)" not in status or status != seen[0]:
                    seen = (status, time.monotonic())
                return pid if time.monotonic() > seen[1] + STOPPED else 0
        return 0

    pid = wait_until(find_stopped, "the hook to be stopped")
    yield
    let_go_on(scene, running, pid)


def let_go_on(scene: Scene, running: Running, pid: int) -> None:
    """Continue a program that was stopped, and wait until it has ended well."""
    scene.laptop.run(["kill", "-CONT", str(pid)])
    # nsenter(1) stops with what it has started.
    running.process.send_signal(signal.SIGCONT)
    assert running.wait(30).returncode == 0


@contextmanager
def hold_records(scene: Scene) -> Iterator[None]:
    """A hook was stopped while it holds the records' lock."""
    with stop_hook(scene, "/run/netconf-hooks/records.lock", "flock"):
        yield


@contextmanager
def hold_acting(scene: Scene) -> Iterator[None]:
    """A hook was stopped while it holds the lock for acting."""
    with stop_hook(scene, "/run/netconf-hooks/acting.lock", "flock"):
        yield


@contextmanager
def run_all(scene: Scene, *scripts: str) -> Iterator[None]:
    """Shell scripts that run beside everything else."""
    with ExitStack() as undo:
        for script in scripts:
            running = scene.laptop.start(["sh", "-c", script])
            undo.callback(running.wait)
            undo.callback(running.kill)
        yield


@contextmanager
def refresh_for_ever(scene: Scene) -> Iterator[None]:
    """Three loops that look and act."""
    with run_all(scene, *["while :; do netconf-hooks refresh; done"] * 3):
        yield


@contextmanager
def compute_for_ever(scene: Scene) -> Iterator[None]:
    """More programs than processors, which never sleep."""
    with run_all(scene, *["while :; do :; done"] * 8):
        yield


@contextmanager
def change_everything(scene: Scene) -> Iterator[None]:
    """Storms of news of other routes, neighbours and addresses of the same link."""
    numbers = "n=1; while [ $n -le 250 ]; do echo"
    with run_all(
        scene,
        f"while :; do {{ {numbers} route replace 10.7.$n.0/24 dev eth0; n=$((n+1)); done; }} | ip -batch -; done",
        f"while :; do {{ {numbers} neigh replace 192.168.1.$n lladdr 02:00:00:00:01:01 dev wlan0; n=$((n+1)); done; }}"
        " | ip -batch -; ip neigh flush dev wlan0 nud permanent; done",
        "while :; do ip addr add 10.8.0.1/32 dev wlan0; ip addr del 10.8.0.1/32 dev wlan0; done",
    ):
        yield


@contextmanager
def advertise_for_ever(scene: Scene) -> Iterator[None]:
    """A neighbour floods the link with router advertisements, whose prefixes and lifetimes change all the time."""
    show = ["ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "global"]
    with hostile.AdvertisementStorm(scene.network, HOME.name, steady=True):
        # With all addresses that it may have (ip-sysctl, max_addresses: 16) the link's network stays the same.
        wait_until(lambda: len(scene.laptop.run(show).stdout.splitlines()) >= 15, "the addresses of a storm")
        if scene.guarded:
            scene.wait_for_guard("open", 30)
        yield


SITUATIONS = (
    wait_in_event_script, wait_in_look, hold_records, hold_acting, refresh_for_ever, compute_for_ever,
    change_everything, advertise_for_ever,
)  # fmt: skip

# Where it matters how the backend shuts: it starts programs, and waits for a lock.
SHUTTING = SITUATIONS if os.environ.get("NETCONF_LATENCIES") == "all" else (refresh_for_ever, compute_for_ever)


@pytest.mark.parametrize(
    "guard, situation",
    [
        (NO_GUARD, wait_in_event_script),
        *((NFTABLES, situation) for situation in SITUATIONS),
        *((backend, situation) for backend in IPTABLES for situation in SHUTTING),
    ],
)
def test_it_is_shut_at_the_kernels_news(
    scene: Scene, situation: Callable[[Scene], AbstractContextManager[None]]
) -> None:
    come_home(scene)
    with NewsClock(scene.network.laptop_namespace) as clock, situation(scene):
        scene.forget()
        news = change_router(scene, clock)
        limit = news + PROMISE + SLOW
        if not scene.guarded:
            wait_until(lambda: any(leak.time > limit for leak in scene.find(scene.look())), "packets without a guard")
            return
        measure(scene, situation.__name__, news)
        scene.judge("after the news")
    scene.wait_for_guard("closed")
    scene.judge("in the end")


def change_router(scene: Scene, clock: NewsClock) -> float:
    """Let home's router have another MAC address; return when the kernel told of it, time.time()."""
    before = time.time()
    change = ["neigh", "replace", HOME.router, "lladdr", NOBODYS_MAC, "dev", "eth0", "nud", "permanent"]
    scene.laptop.run(["ip", *change])
    return wait_until(lambda: clock.find(before, is_other_router), "the kernel's news")


def measure(scene: Scene, situation: str, news: float) -> None:
    """Write down for how long packets left after the kernel's `news`, and raise AssertionError if that was too long."""
    late = [leak.time for leak in scene.find(scene.look()) if leak.time > news]
    last = max(late, default=news)
    note_latency(situation, scene.guard, last - news, len(late))
    assert last < news + PROMISE + SLOW, f"packets left for {last - news:.3f} s"


# Stops a process, and stops it again when it is about to end (ptrace(2), PTRACE_EVENT_EXIT): not even SIGKILL ends it
# before its tracer does.
_HOLD = """
import ctypes, os, signal, sys
SEIZE, INTERRUPT, TRACE_EXIT = 0x4206, 0x4207, 0x40
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
pid = int(sys.argv[1])
if ptrace(SEIZE, pid, None, TRACE_EXIT) or ptrace(INTERRUPT, pid, None, None):
    raise OSError(ctypes.get_errno(), "ptrace")
signal.pause()
"""


@pytest.mark.parametrize("guard", [NFTABLES])
def test_a_child_that_can_not_be_killed(scene: Scene) -> None:
    """It is abandoned, which `status` tells, and the next one looks; the guard is shut at the kernel's news as ever."""
    watch = "/usr/lib/python3/dist-packages/netconf_hooks/watcher/watch.py"
    text = scene.laptop.read(watch)
    assert "\nACTING_TIME = 20.0\n" in text
    scene.laptop.write(watch, text.replace("\nACTING_TIME = 20.0\n", "\nACTING_TIME = 1.0\n"))
    come_home(scene, timeout=3)
    with wait_in_look(scene):
        (pid,) = find_watchers(scene.lab, children=True)
        holder = scene.laptop.start(["/usr/bin/python3", "-IS", "-c", _HOLD, str(pid)])
        wait_until(lambda: is_held(scene, pid), "the child to be held")
        scene.laptop.write("/usr/local/sbin/ask", "#!/bin/sh\n>/run/asked-again\n", 0o755)
        wait_until(lambda: "can't be killed; the next one starts" in scene.laptop.log(), "the child to be given up", 30)
        abandoned = f"watcher: process {pid}, which was to look and act, can't be killed and was abandoned"
        assert abandoned in scene.laptop.run(["netconf-hooks", "status"]).stdout
        wait_until(lambda: scene.laptop.exists("/run/asked-again"), "the next child to look", 30)
        assert f"process {pid} could not look and act in 7 s: SIGKILL" in scene.laptop.log()
        assert is_held(scene, pid)
        scene.wait_for_guard("open")
        with NewsClock(scene.network.laptop_namespace) as clock:
            scene.forget()
            measure(scene, "child_that_can_not_be_killed", change_router(scene, clock))
        scene.judge("after the news")
        assert is_held(scene, pid)
        holder.kill()
        holder.wait()
        wait_until(lambda: pid not in scene.laptop.processes(), "the child to be gone")
        wait_until(lambda: abandoned not in scene.laptop.run(["netconf-hooks", "status"]).stdout, "status to say so")


def is_held(scene: Scene, pid: int) -> bool:
    """Whether a process of the laptop's is stopped by its tracer."""
    return "(tracing stop)" in scene.laptop.run(["cat", f"/proc/{pid}/status"], check=False).stdout


@pytest.mark.parametrize("guard", [NO_GUARD, *BACKENDS])
def test_a_cable_moved_to_a_twin_network_while_an_event_script_runs(scene: Scene) -> None:
    """The same addresses, another router."""
    come_home(scene)
    with NewsClock(scene.network.laptop_namespace) as clock, wait_in_event_script(scene):
        before = time.time()
        move_to_twin(scene)
        if scene.guarded:
            measure(scene, "move_to_twin", clock.find(before, has_lost_carrier))
        scene.judge("in the twin network", "*/udp4/beyond", "nobody/tcp4/*")
    if scene.guarded:
        scene.wait_for_guard("closed")
    scene.judge("in the end")


@pytest.mark.parametrize("guard", [NO_GUARD, NFTABLES])
def test_a_cable_moved_to_a_twin_network_in_storms_of_advertisements(scene: Scene) -> None:
    """In both networks, and within a moment; in the twin network routers come and go by the hundred, too."""
    come_home(scene)
    hostile.impersonate_home_router(scene.lab)
    with (
        NewsClock(scene.network.laptop_namespace) as clock,
        advertise_for_ever(scene),
        hostile.AdvertisementStorm(scene.network, CAFE.name, steady=False),
    ):
        scene.forget()
        before = time.time()
        scene.lab.plug(CAFE.name)
        news = wait_until(lambda: clock.find(before, has_lost_carrier), "the kernel's news")
        wait_until(lambda: scene.laptop.has_carrier("eth0"), "the laptop to be plugged in")
        wait_until(lambda: call_in(scene.network.laptop_namespace, ask_router), "the twin's router to answer")
        if not scene.guarded:
            scene.forget()
            scene.judge("in the twin network", "*/udp4/beyond", "nobody/tcp4/*", "root/udp4/often")
            return
        measure(scene, "move_in_storms", news)
        for _ in range(5):
            scene.judge("in the twin network")
        scene.wait_for_guard("closed")
    scene.judge("in the end")


# A refresh that stops itself when it has written down that it opens, which is the last thing before it does.
_STOPPING = """
import os, signal
from netconf_hooks import cli; from netconf_hooks.guard import enforce

note_opening = enforce._note_opening

def stop(*arguments):
    opens = note_opening(*arguments)
    if opens:
        os.kill(os.getpid(), signal.SIGSTOP)
    return opens

enforce._note_opening = stop
raise SystemExit(cli.main(["refresh", "eth0"]))
"""


@pytest.mark.parametrize("guard", BACKENDS)
def test_a_hook_stopped_between_its_last_check_and_opening(scene: Scene) -> None:
    """Meanwhile the cable is moved to a twin network; then the hook goes on, and opens nothing."""
    come_home(scene)
    for _ in range(10):
        scene.laptop.run(["netconf-hooks", "close"])
        hook = scene.laptop.start(["/usr/bin/python3", "-c", _STOPPING])
        wait_until(lambda: hook.process.poll() is not None or find_stopped(scene), "the hook to be stopped", 30)
        if hook.process.poll() is None:
            break
        assert hook.wait().returncode == 0  # the watcher has looked, and was faster
    pid = find_stopped(scene)
    assert scene.read_guard() != "open"
    before = time.time()
    with NewsClock(scene.network.laptop_namespace) as clock:
        move_to_twin(scene)
        measure(scene, "hook_stopped_before_opening", clock.find(before, has_lost_carrier))
    scene.judge("while the hook is stopped")
    let_go_on(scene, hook, pid)
    scene.judge("after it went on")
    assert "eth0: netconf-guard: not opened: eth0: the guard was shut after this look" in scene.laptop.log()
    scene.wait_for_guard("closed")


def find_stopped(scene: Scene) -> int:
    """Return the pid of the refresh that has stopped itself; 0 while there is none."""
    for pid, line in scene.laptop.processes().items():
        status = scene.laptop.run(["cat", f"/proc/{pid}/status"], check=False).stdout
        if "note_opening" in line and "(stopped)" in status:
            return pid
    return 0


# Fails as soon as it is run by that refresh.
_PROOF = """#!/bin/sh
! tr '\\0' ' ' </proc/$PPID/cmdline | grep -q 'refresh eth0 wlan0' || touch /run/gone
[ ! -e /run/gone ]
"""


@pytest.mark.parametrize("guard", [NO_GUARD, *BACKENDS])
def test_a_proof_that_is_gone_closes_though_another_network_delays_the_look_at_it(scene: Scene) -> None:
    """The kernel has no news: eth0 stays on its network.  The look at wlan0 takes a minute."""
    laptop = scene.laptop
    laptop.write("/usr/local/sbin/proof", _PROOF, 0o755)
    come_home(scene)
    path = "/etc/network/interfaces"
    laptop.write(path, laptop.read(path).replace(f"gateway-mac={HOME.router_mac}", "command=/usr/local/sbin/proof"))
    laptop.ifup("--force", "eth0")
    if scene.guarded:
        scene.wait_for_guard("open")
    laptop.run(["mkfifo", GATE])
    refreshing = laptop.start(["netconf-hooks", "refresh", "eth0", "wlan0"])
    wait_until(lambda: laptop.exists(BUSY), "the look at wlan0 to wait", 20)
    if scene.guarded:
        scene.wait_for_guard("closed")
    scene.forget()
    scene.judge("while the look at wlan0 waits", "*/udp4/beyond")
    open_gate(scene)
    assert refreshing.wait(30).returncode == 0
    scene.judge("in the end", "*/udp4/beyond")
