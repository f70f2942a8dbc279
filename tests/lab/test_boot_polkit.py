"""Commands without root, on a Debian booted with systemd: a real polkitd, sessions of logind, terminals, and an enemy.

The enemy may do all that polkit allows a user, and gives to pkexec what it likes.
"""

from __future__ import annotations

import re
import shlex

import pytest

from .boot import Booted
from .booted import (
    BOOT_TIMEOUT, CLIENT_CONFIG, LOCATIONS, configure, status, wait_until_connected
)  # fmt: skip
from .network import CORP_HOST, Network
from .users import ACTIVE, REMOTE, Typed, User
from .vpn import NAME, VpnServer
from .waiting import wait_until

RULE = "/usr/share/doc/netconf-hooks/examples/polkit/50-netconf-hooks.rules"
# As it is for users, who have no /usr/sbin on their PATH.
COMMAND = "/usr/bin/netconf-hooks"
# What pkexec is to run; an enemy calls it without our command.
PKEXEC = ("pkexec", "--disable-internal-agent", "/usr/lib/netconf-hooks/request")
PASSWORD = "correct horse"

RESOLVER = """
import os, signal, socket
listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener.bind(("127.0.0.1", 53))
open("/run/resolver", "w").close()
os.setgid(65534)
os.setuid(65534)
signal.pause()
"""

WISH = f"""
iface {NAME} inet manual
    netconf-vpn    openvpn {NAME}
    netconf-uplink eth0
"""
# Waits in its pre-up until somebody writes to the gate.
GATED = "\niface eth0 inet dhcp\n    pre-up echo >/run/begun; cat </run/gate\n"
GUARDED = f"\niface eth0 inet dhcp\n{LOCATIONS}    netconf-guard unless office\n"


def boot(machine: Booted, network: Network, vpn: VpnServer, stanzas: str) -> None:
    """Boot the machine in the cafe."""
    network.plug("cafe", "eth0")
    configure(machine, stanzas)
    vpn.install_client(machine, CLIENT_CONFIG)
    machine.boot(BOOT_TIMEOUT)
    machine.run(["mkfifo", "/run/begun", "/run/gate"])


def allow_group(machine: Booted) -> None:
    """Do what the example of a rule for polkit says."""
    machine.run(["cp", RULE, "/etc/polkit-1/rules.d/"])


def list_fulfilled(machine: Booted) -> list[str]:
    """Return the command lines that units have run for users."""
    found = re.findall(r"requested by polkit: (.*)$", machine.journal("--identifier=netconf-hooks"), re.MULTILINE)
    return [str(line) for line in found]


def is_configured(machine: Booted, iface: str) -> bool:
    """Whether ifupdown takes an interface for up."""
    return machine.run(["ifquery", "--state", iface], check=False).stdout.startswith(f"{iface}=")


def read_process(machine: Booted, pid: int) -> dict[str, str]:
    """Return what a process may have from who started it: limits, umask, signals, terminal, control group, priority."""
    limits = machine.read(f"/proc/{pid}/limits")
    lines = dict(line.split(":\t", 1) for line in machine.read(f"/proc/{pid}/status").splitlines() if ":\t" in line)
    seen = {name: lines[name] for name in ("Umask", "SigIgn", "SigBlk", "NoNewPrivs", "Seccomp")}
    terminal, nice, group = machine.run(["ps", "-o", "tty=,ni=,cgroup=", str(pid)]).stdout.split()
    return {**seen, "limits": limits, "terminal": terminal, "nice": nice, "group": group}


def find_process(machine: Booted, command: str) -> int:
    """Return the pid of the process whose command line begins so; 0 if there is none."""
    return next((pid for pid, line in machine.processes().items() if line.startswith(command)), 0)


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_who_sits_at_the_machine_needs_no_password_for_a_portal_and_a_refresh(machine, network, vpn, backend):
    boot(machine, network, vpn, f"{GUARDED}    netconf-guard-backend {backend}\n")
    machine.run(["ifup", "eth0"])
    # A resolver for all users, which has given up root.
    machine.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    machine.start(["/usr/bin/python3", "-c", RESOLVER])
    wait_until(lambda: machine.exists("/run/resolver"), "the resolver")
    alice, bob = User(machine, "alice"), User(machine, "bob", REMOTE)

    portal = alice.start([COMMAND, "portal", "eth0"], typed=()).wait()
    said = f"eth0: for 300 s http, https and DNS pass for the user with uid {alice.uid}\n"
    assert (portal.returncode, portal.stdout) == (0, said)
    assert 290 < status(machine)["guards"]["eth0"]["portal"] <= 300
    unit = machine.unit(f"netconf-hooks-request-portal@portal-{alice.uid}-eth0.service")
    assert (unit["NoNewPrivileges"], unit["ProtectSystem"]) == ("yes", "strict")
    web = ["setpriv", f"--reuid={alice.uid}", "--clear-groups", "bash", "-c", "</dev/tcp/192.168.3.1/80"]
    assert "Connection refused" in machine.run(web, check=False).stderr, "not let through"
    assert "65534" in machine.read("/run/netconf-hooks/guards/eth0"), "its queries are not let through"
    again = alice.start([COMMAND, "portal", "eth0"], typed=()).wait()
    assert again.returncode == 1 and "once for each network" in again.stdout

    assert alice.start([COMMAND, "refresh"], typed=()).wait().returncode == 0
    soon = alice.start([COMMAND, "refresh"], typed=()).wait()
    assert soon.returncode == 1 and "without root once in 10 s: wait " in soon.stdout
    # Root has no such limits.
    machine.run(["netconf-hooks", "refresh"])
    machine.run(["netconf-hooks", "portal", "eth0", "--for", "10m"])

    # Other users, who have no agent that could ask for a password, and other commands.
    done = list_fulfilled(machine)
    for user, words in ((bob, ("refresh",)), (bob, ("portal", "eth0")), (alice, ("release", "eth0"))):
        refused = user.start([*PKEXEC, *words], typed=()).wait()
        assert refused.returncode == 127 and "No authentication agent found" in refused.stdout, words
    assert list_fulfilled(machine) == done
    assert status(machine)["guards"]["eth0"]["state"] == "closed"

    # Without a terminal, polkit is not even asked.
    script = alice.start([COMMAND, "portal", "eth0"]).wait()
    assert (script.returncode, script.stdout) == (1, "")
    assert script.stderr == "netconf-hooks: portal: only root may do this: sudo netconf-hooks portal eth0\n"
    assert list_fulfilled(machine) == done


def test_an_administrator_types_a_password(machine, network, vpn):
    boot(machine, network, vpn, f"{WISH}{GATED}")
    admin = User(machine, "carol", REMOTE, ("sudo",), PASSWORD)
    alice = User(machine, "alice")
    typed: list[Typed] = [("Password: ", f"{PASSWORD}\n")]

    # What ifup waits for is shown while it waits.
    want = alice.start([COMMAND, "want", NAME], typed=typed)
    machine.run(["cat", "/run/begun"])
    wait_until(lambda: f"{NAME}: raising eth0" in want.read_output(), "what is waited for")
    machine.run(["sh", "-c", "echo >/run/gate"])
    wanted = want.wait()
    assert wanted.returncode == 0, wanted
    assert wanted.stdout.endswith(f"{NAME}: up\n") and PASSWORD not in wanted.stdout
    assert machine.pings(CORP_HOST)
    # The DHCP client lives in the request's unit, not in alice's session.
    client = read_process(machine, find_process(machine, machine.dhcp_client))
    assert f"netconf-hooks-request@want-{NAME}.service" in client["group"] and client["terminal"] == "?"

    held = admin.start([COMMAND, "hold", "openvpn", NAME, "--for", "2h"], typed=typed).wait()
    assert held.returncode == 0 and f"openvpn {NAME}: held by the admin until 20" in held.stdout
    assert admin.start([COMMAND, "unhold", "openvpn", NAME], typed=typed).wait().returncode == 0
    unwanted = admin.start([COMMAND, "unwant", NAME], typed=typed).wait()
    assert unwanted.returncode == 0 and unwanted.stdout.endswith(f"{NAME}: down\n")
    assert not is_configured(machine, NAME) and not is_configured(machine, "eth0")
    wait_until(lambda: not find_process(machine, machine.dhcp_client), "the DHCP client to end")

    # A wrong password, and Ctrl-C.
    done = list_fulfilled(machine)
    wrong = admin.start([COMMAND, "want", NAME], typed=[("Password: ", "wrong\n")]).wait()
    assert wrong.returncode == 127
    assert wrong.stdout.endswith(f"want: polkit has not allowed it; as root: sudo netconf-hooks want {NAME}\n")
    assert admin.start([COMMAND, "want", NAME], typed=[("Password: ", "\x03")]).wait().returncode == 130
    assert list_fulfilled(machine) == done
    assert machine.run(["systemctl", "--failed", "--quiet", "list-units", "netconf*"]).stdout == ""


def test_a_rule_lets_a_group_bring_wishes_up_and_nothing_else(machine, network, vpn):
    boot(machine, network, vpn, f"{WISH}\niface eth0 inet dhcp\n")
    allow_group(machine)
    member = User(machine, "dave", REMOTE, ("netdev",))
    other = User(machine, "alice", ACTIVE)
    wanted = member.start([COMMAND, "want", NAME], typed=()).wait()
    assert wanted.returncode == 0 and wanted.stdout.endswith(f"{NAME}: up\n")
    wait_until_connected(machine)
    assert other.start([*PKEXEC, "unwant", NAME], typed=()).wait().returncode == 127
    assert member.start([*PKEXEC, "hold", "0", "openvpn", NAME], typed=()).wait().returncode == 127
    assert member.start([*PKEXEC, "unwant", "eth0"], typed=()).wait().returncode == 1
    assert is_configured(machine, "eth0")
    assert member.start([COMMAND, "unwant", NAME], typed=()).wait().returncode == 0
    assert list_fulfilled(machine) == [f"want {NAME}", f"unwant {NAME}"]

    # A wish that can't be fulfilled.
    network.unplug("eth0")
    failed = member.start([COMMAND, "want", NAME], typed=()).wait()
    assert failed.returncode == 1
    assert "eth0: waiting for its carrier, at most 3 s" in failed.stdout
    assert "no way to the internet: eth0 has no carrier" in failed.stdout
    assert not is_configured(machine, NAME)


# Not UTF-8.
BYTE = "\udcff"
HOSTILE = (
    (), ("want",), ("want", ""), ("want", "-a"), ("want", "--all"), ("want", "--force"), ("want", "eth0"),
    ("want", "lo"), ("want", f"{NAME}=eth0"), ("want", f"eth0={NAME}"), ("want", "*"), ("want", "c*"),
    ("want", "[c]orp"), ("want", f"../{NAME}"), ("want", f"/{NAME}/"), ("want", f"{NAME}\n"),
    ("want", f"{NAME}\neth0"), ("want", f"{NAME} eth0"), ("want", NAME, "eth0"), ("want", f"{NAME};reboot"),
    ("want", "$(reboot)"), ("want", "%n"), ("want", "\\x2d"), ("want", f"{NAME}{BYTE}"), ("want", "\u0441orp"),
    ("want", 60000 * "a"), ("want", "--", NAME), ("want", "mapped"), ("unwant", "eth0"), ("unwant", "--all"),
    ("unwant", "lo"), ("watch",), ("close",), (f"want-{NAME}",), ("-v", "want", NAME),
)  # fmt: skip
MAPPED = """
iface mapped inet manual
    netconf-uplink eth0
mapping mapped
    script /usr/bin/touch
    map /run/hit
"""


def test_an_enemys_arguments_do_nothing(machine, network, vpn):
    boot(machine, network, vpn, f"{WISH}\niface eth0 inet dhcp\n{MAPPED}")
    machine.run(["ifup", "eth0"])
    allow_group(machine)
    enemy = User(machine, "mallory", ACTIVE, ("netdev",))
    calls = [shlex.join([*PKEXEC, *words]).replace(BYTE, "'$'\\377''") for words in HOSTILE]
    ended = enemy.start(["bash", "-c", "".join(f"{call} </dev/null; echo status=$?\n" for call in calls)]).wait()
    statuses = re.findall(r"^status=(\d+)$", ended.stdout, re.MULTILINE)
    assert len(statuses) == len(HOSTILE)
    ours = [words for words in HOSTILE if words[:1] in (("want",), ("unwant",))]
    for words, status_of in zip(HOSTILE, statuses):
        # For another first argument polkit has no action of ours, so only an administrator could allow it.
        assert status_of in (("1", "2") if words in ours else ("127",)), words
    complaints = [line for line in (ended.stdout + ended.stderr).splitlines() if line.startswith("netconf-hooks: ")]
    assert len(complaints) == len(ours) and max(map(len, complaints)) < 300, complaints
    # Nor if root gives these arguments.
    for words in HOSTILE:
        if BYTE not in "".join(words):
            refused = machine.run([PKEXEC[-1], *words], check=False, env={"PKEXEC_UID": "1000"})
            assert refused.returncode in (1, 2) and (refused.stdout + refused.stderr).count("\n") == 1, words
    # Nor does a unit obey that somebody has started in another way.
    for instance in ("want-eth0", "want-..", "want-lo", "want-mapped", "watch", "close", "hold-0-x-y", "want--a"):
        machine.run(["systemctl", "start", f"netconf-hooks-request@{instance}.service"], check=False)
    assert is_configured(machine, "eth0") and not is_configured(machine, NAME)
    assert not is_configured(machine, "mapped") and not machine.exists("/run/hit")
    assert status(machine)["interfaces"] == {}


# Who starts pkexec gives it all of this.
LIMITS = "trap '' CHLD HUP TERM PIPE; umask 0777; ulimit -St 2; ulimit -f 0; ulimit -n 20; ulimit -c 0; nice -n 19 "
CLOSED = "exec <&- >&- 2>&-; "


@pytest.mark.parametrize("closed", ["", CLOSED], ids=["limits", "closed descriptors"])
def test_limits_of_an_enemy_reach_nothing_that_root_runs(machine, network, vpn, closed):
    # Beside the DHCP client, since some set limits of their own.
    command = "/usr/bin/sleep 999"
    boot(machine, network, vpn, f"{WISH}\niface eth0 inet dhcp\n    up {command} </dev/null >/dev/null 2>&1 &\n")
    allow_group(machine)
    enemy = User(machine, "mallory", REMOTE, ("netdev",))
    directory = "mkdir x; cd x; rmdir ../x; "
    script = f"{directory}{closed}{LIMITS}{shlex.join([*PKEXEC, 'want', NAME])}"
    ended = enemy.start(["bash", "-c", script], typed=()).wait()
    assert ended.returncode == 0, ended
    wait_until_connected(machine)
    started = read_process(machine, find_process(machine, command))
    assert f"netconf-hooks-request@want-{NAME}.service" in started["group"]
    # As where root has never had anything to do with the enemy.
    # By its path: systemd-run of Debian 12 replaces a mere name by it, that of 13 doesn't.
    machine.run(
        ["systemd-run", "--quiet", "--unit=usual", "--service-type=exec", "--property=LockPersonality=yes"]
        + ["/usr/bin/sleep", "1000"]
    )
    usual = read_process(machine, find_process(machine, "/usr/bin/sleep 1000"))
    for name in ("limits", "Umask", "SigBlk", "terminal", "nice", "NoNewPrivs"):
        assert started[name] == usual[name], name
    assert machine.run(["find", "/run/netconf-hooks", "-user", "mallory"]).stdout == ""
    assert machine.run(["netconf-hooks", "status"]).returncode == 0


@pytest.mark.parametrize("limit", ["ulimit -t 0", "ulimit -n 4", "ulimit -v 50000", "ulimit -s 100"])
def test_limits_that_leave_it_no_air_do_nothing_by_half(machine, network, vpn, limit):
    boot(machine, network, vpn, f"{WISH}\niface eth0 inet dhcp\n")
    allow_group(machine)
    enemy = User(machine, "mallory", REMOTE, ("netdev",))
    enemy.start(["bash", "-c", f"{limit}; {shlex.join([*PKEXEC, 'want', NAME])}"], typed=()).wait()
    # Either nothing was asked for, or all of it is done.
    wait_until(lambda: not machine.run(["systemctl", "list-jobs", "--quiet"]).stdout.strip(), "the end of all jobs", 60)
    assert is_configured(machine, NAME) == (list_fulfilled(machine) == [f"want {NAME}"])
    assert machine.run(["netconf-hooks", "refresh"]).returncode == 0
    machine.run(["ifup", NAME])
    wait_until_connected(machine)


@pytest.mark.parametrize("how", ["Ctrl-Z", "Ctrl-C", "a frozen control group", "the terminal goes"])
def test_a_user_who_stops_holds_nobody_up(machine, network, vpn, how):
    boot(machine, network, vpn, f"{WISH}{GATED}")
    allow_group(machine)
    enemy = User(machine, "mallory", REMOTE, ("netdev",))
    member = User(machine, "dave", REMOTE, ("netdev",))
    # An interactive shell, for its job control.
    shell = enemy.start(
        ["bash", "--norc", "-i"],
        typed=[
            ("$ ", f"{shlex.join([*PKEXEC, 'want', NAME])}\n"),
            *([("raising eth0", "\x1a"), ("Stopped", "echo $((6*7))\n")] if how == "Ctrl-Z" else []),
            *([("raising eth0", "\x03")] if how == "Ctrl-C" else []),
        ],
    )
    machine.run(["cat", "/run/begun"])
    wait_until(lambda: "raising eth0" in shell.read_output(), "what is waited for")
    asker = find_process(machine, "/usr/bin/python3 -I /usr/lib/netconf-hooks/request ")
    if how == "Ctrl-Z":
        wait_until(lambda: "42" in shell.read_output(), "the shell, once the job is stopped")
        assert "State:\tT" in machine.read(f"/proc/{asker}/status")
    elif how == "Ctrl-C":
        said = f"want: it continues in the background; netconf-hooks unwant {NAME} ends it"
        wait_until(lambda: said in shell.read_output(), "what became of it")
    elif how == "a frozen control group":
        group = read_process(machine, asker)["group"].partition("::")[2]
        machine.write("/run/freeze", "1\n")
        machine.run(["cp", "/run/freeze", f"/sys/fs/cgroup{group}/cgroup.freeze"])
        wait_until(lambda: "frozen 1" in machine.read(f"/sys/fs/cgroup{group}/cgroup.events"), "the frozen group")
    else:
        machine.run(["kill", "-KILL", str(find_process(machine, "/usr/bin/python3 -I /usr/local/bin/terminal "))])
        wait_until(lambda: not machine.exists(f"/proc/{asker}"), "the end of what the terminal had")

    # Somebody else asks for the same, and gets the same answer.
    same = member.start([*PKEXEC, "want", NAME], typed=())
    wait_until(lambda: "raising eth0" in same.read_output(), "what is waited for")
    machine.run(["netconf-hooks", "refresh"], timeout=10)
    machine.run(["sh", "-c", "echo >/run/gate"])
    assert same.wait().returncode == 0
    wait_until_connected(machine)
    assert machine.exists(f"/proc/{asker}") == (how in ("Ctrl-Z", "a frozen control group"))
    assert list_fulfilled(machine) == [f"want {NAME}"]
    # Nor does who is stopped hold up the way back, by root or by others.
    assert member.start([*PKEXEC, "unwant", NAME], typed=()).wait().returncode == 0
    assert not is_configured(machine, NAME)
    machine.run(["netconf-hooks", "status"], timeout=10)


def test_many_requests_at_once_are_one(machine, network, vpn):
    boot(machine, network, vpn, f"{WISH}{GATED}{GUARDED.replace('eth0', 'eth1')}")
    allow_group(machine)
    enemy = User(machine, "mallory", ACTIVE, ("netdev",))
    flood = f"for i in $(seq 40); do {shlex.join([*PKEXEC, 'want', NAME])} & done; wait $(jobs -p); echo done\n"
    wants = enemy.start(["bash", "-c", f"({flood}) 2>&1"], typed=())
    machine.run(["cat", "/run/begun"])
    running = "netconf-hooks-request@*"
    assert machine.run(["systemctl", "list-units", "--quiet", "--plain", running]).stdout.count("activating") == 1
    wait_until(lambda: wants.read_output().count("raising eth0") == 40, "forty answers", 60)
    machine.run(["sh", "-c", "echo >/run/gate"])
    ended = wants.wait()
    assert ended.stdout.count(f"{NAME}: up") == 40
    assert list_fulfilled(machine) == [f"want {NAME}"]

    flood = f"for i in $(seq 40); do ({shlex.join([*PKEXEC, 'refresh'])}; echo status $?) & done; wait $(jobs -p)\n"
    refreshes = enemy.start(["bash", "-c", f"({flood}) 2>&1"], typed=()).wait()
    # Who waited for the one that was done may read the answer to the next request.
    refused = refreshes.stdout.count("refresh: the last one was ")
    assert refused == refreshes.stdout.count("status 1") and refused + refreshes.stdout.count("status 0") == 40
    assert list_fulfilled(machine)[1:] == ["refresh"]
    assert machine.journal("--identifier=netconf-hooks").count("Traceback") == 0
    machine.run(["netconf-hooks", "refresh"], timeout=10)
