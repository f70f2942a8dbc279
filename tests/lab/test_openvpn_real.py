"""The openvpn tunnel with the real OpenVPN and no systemd: a client and a server, two machines on one wire."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .namespaces import Namespaces
from .waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
NAME = "my-vpn"
PATIENT = 30.0

SERVER = """\
dev tun
topology subnet
server 10.8.0.0 255.255.255.0
local 203.0.113.1
proto udp4
dh none
cert /etc/openvpn/server.pem
key /etc/openvpn/server.key
<peer-fingerprint>
{client}
</peer-fingerprint>
keepalive 1 3
"""
CLIENT = """\
# the laptop
; of nobody in particular
client
dev tun
proto udp4
remote 203.0.113.1 1194
nobind
connect-retry 1 1
peer-fingerprint {server}
"""
INLINE = "<cert>\n{certificate}</cert>\n<key>\n{key}</key>\n"
QUOTED = """cert "/etc/openvpn/my keys/client.pem" # in quotes\nkey '/etc/openvpn/my keys/client.key' ; as well\n"""

# Calls one method of the tunnel as a hook would: the defaults of every path, an environment of its own, stdout a pipe.
CALL = """
import sys
sys.path.append("/run/checkout")
from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.openvpn import Tunnel
try:
    print(getattr(Tunnel(sys.argv[1]), sys.argv[2])())
except TunnelError as error:
    print("TunnelError:", error)
"""

# Another client of the management interface, that does not leave.
HOLD = """
import socket, threading
client = socket.socket(socket.AF_UNIX)
client.connect("/run/own.sock")
assert client.recv(9)
open("/run/held", "w").close()
threading.Event().wait()
"""


class Machine(Namespaces):
    """A machine with an empty /run and an /etc/openvpn of its own."""

    def __init__(self, address: str) -> None:
        super().__init__(("mnt", "pid", "net"))
        self.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])
        self.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/etc/openvpn"])
        self.run(["mkdir", "/etc/openvpn/client"])
        # Where everybody may read it, wherever the checkout is.
        shutil.copytree(ROOT / "netconf_hooks", self.root / "run/checkout/netconf_hooks")
        self.address = address

    def write(self, path: str, text: str) -> None:
        """Write a file of this machine."""
        self.run(["mkdir", "-p", os.path.dirname(path)])
        self.run(["tee", path], text=text)

    def read(self, path: str) -> str:
        """Return a file of this machine, empty where there is none."""
        return self.run(["cat", path], check=False).stdout

    def make_certificate(self, name: str, directory: str = "/etc/openvpn") -> str:
        """Make a key and a certificate signed by itself, and return its SHA-256 fingerprint."""
        key, certificate = f"{directory}/{name}.key", f"{directory}/{name}.pem"
        self.run(["mkdir", "-p", directory])
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        self.run(["openssl", "req", "-x509", *kind, "-subj", f"/CN={name}", "-keyout", key, "-out", certificate])
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.read(certificate))).hexdigest()
        return ":".join(re.findall("..", digest))


class Pair:
    """The laptop and the VPN server."""

    def __init__(self, laptop: Machine, server: Machine) -> None:
        self.laptop = laptop
        self.server = server
        cable = f"link add eth0 type veth peer name eth0 netns {laptop.files['net']}"
        # From outside: the other machine's namespace has no name in the server's own /proc.
        inside = ["nsenter", f"--net={server.files['net']}", "--"]
        subprocess.run([*inside, "ip", *cable.split()], check=True)
        for machine in (laptop, server):
            up = f"link set lo up\naddr add {machine.address}/24 dev eth0\nlink set eth0 up\n"
            machine.run(["ip", "-batch", "-"], text=up)
        fingerprints = {
            "server": server.make_certificate("server"),
            "client": laptop.make_certificate("client", "/etc/openvpn/my keys"),
        }
        server.write("/etc/openvpn/server.conf", SERVER.format(**fingerprints))
        self._client = CLIENT.format(**fingerprints)
        self._inline = INLINE.format(
            certificate=laptop.read("/etc/openvpn/my keys/client.pem"),
            key=laptop.read("/etc/openvpn/my keys/client.key"),
        )

    def start_server(self) -> None:
        """Start the server; returns when it listens."""
        files = ["--config", "/etc/openvpn/server.conf", "--writepid", "/run/pid", "--log", "/run/log"]
        self.server.run(["openvpn", *files, "--daemon"])
        wait_until(lambda: "Initialization Sequence Completed" in self.server.read("/run/log"), "the server to listen")

    def kill_server(self) -> None:
        """End the server without a word to its clients."""
        pid = self.server.read("/run/pid").strip()
        self.server.run(["kill", "-KILL", pid])
        wait_until(lambda: int(pid) not in self.server.processes(), "the server to end")

    def configure(self, more: str = "", path: str = f"/etc/openvpn/{NAME}.conf", inline: bool = True) -> None:
        """Write the laptop's configuration, with `more` in it."""
        self.laptop.write(path, self._client + (self._inline if inline else QUOTED) + more)

    def call(self, method: str, *prefix: str, name: str = NAME) -> str:
        """Call a method of the laptop's tunnel, and return what it returned or raised, printed."""
        command = ["/usr/bin/python3", "-IS", "-c", CALL, name, method]
        return self.laptop.run([*prefix, *command]).stdout.strip()

    def wait_up(self, answer: str, timeout: float = PATIENT) -> None:
        """Wait until the tunnel's is_up is `answer`."""
        wait_until(lambda: self.call("is_up") == answer, f"is_up to be {answer}", timeout)

    def daemons(self) -> dict[int, str]:
        """Return the OpenVPNs that run on the laptop: command lines by pid."""
        programs = ("openvpn ", "/usr/sbin/openvpn ")
        return {pid: line for pid, line in self.laptop.processes().items() if line.startswith(programs)}

    def reaches_server(self) -> bool:
        """Whether the other end of the tunnel answers."""
        return self.laptop.run(["ping", "-c1", "-W1", "10.8.0.1"], check=False).returncode == 0


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Machine("203.0.113.2") as laptop, Machine("203.0.113.1") as server:
        yield Pair(laptop, server)


CONFIGURATIONS: dict[str, Callable[[Pair], None]] = {
    "inline": lambda pair: pair.configure(),
    "quoted paths": lambda pair: pair.configure(inline=False),
    "client directory": lambda pair: pair.configure(path=f"/etc/openvpn/client/{NAME}.conf"),
    "user nobody": lambda pair: pair.configure("user nobody\ngroup nogroup\npersist-key\npersist-tun\n"),
    "its own management socket": lambda pair: pair.configure('management "/run/its own.sock" unix\n'),
    "its own management port": lambda pair: pair.configure("management 127.0.0.1 7505\n"),
    "its own daemon line": lambda pair: pair.configure("daemon my-name\nwritepid /run/other.pid\n"),
}


@pytest.mark.parametrize("configure", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_from_start_to_stop(pair: Pair, configure: Callable[[Pair], None]) -> None:
    configure(pair)
    pair.start_server()
    assert pair.call("is_up") == "False"
    assert pair.call("start") == "None"
    pair.wait_up("True")
    assert pair.reaches_server()

    before = pair.daemons()
    assert len(before) == 1
    assert pair.call("start") == "None"
    assert pair.daemons() == before, "one that is up is left as it is"

    assert pair.call("stop") == "None"
    assert pair.daemons() == {}
    assert pair.call("is_up") == "False"
    assert not pair.laptop.run(["find", "/run/openvpn", "-type", "f", "-o", "-type", "s"]).stdout
    assert pair.call("stop") == "None", "one that is down is left so"


def test_is_up_means_now(pair: Pair) -> None:
    pair.configure("persist-tun\n")
    assert pair.call("start") == "None", "the server is not there yet: that is no error"
    assert pair.call("is_up") == "False"
    pair.start_server()
    pair.wait_up("True")
    pair.kill_server()
    pair.wait_up("False")
    assert len(pair.daemons()) == 1, "it goes on trying"
    pair.start_server()
    pair.wait_up("True")
    assert pair.reaches_server()


def test_a_daemon_of_debians_init_script_is_ours_too(pair: Pair) -> None:
    pair.configure("verb 3\n")
    pair.start_server()
    # As start_vpn() in Debian's /etc/init.d/openvpn (2.6.14-0+deb12u2) does it, with STATUSREFRESH=1.
    pair.laptop.run(["mkdir", "/run/openvpn"])
    files = f"--writepid /run/openvpn/{NAME}.pid --daemon ovpn-{NAME} --status /run/openvpn/{NAME}.status 1"
    files += f" --cd /etc/openvpn --config /etc/openvpn/{NAME}.conf"
    pair.laptop.run(["/usr/sbin/openvpn", *files.split()])
    pair.wait_up("True")
    before = pair.daemons()
    assert len(before) == 1
    assert pair.call("start") == "None"
    assert pair.daemons() == before
    pair.kill_server()
    pair.wait_up("False")
    assert len(pair.daemons()) == 1
    pair.laptop.run(["rm", f"/etc/openvpn/{NAME}.conf"])
    assert pair.call("stop") == "None", "also when its configuration is gone"
    assert pair.daemons() == {}


def test_after_a_crash_it_starts_again(pair: Pair) -> None:
    pair.configure()
    pair.start_server()
    pair.call("start")
    pair.wait_up("True")
    (crashed,) = pair.daemons()
    pair.laptop.run(["kill", "-KILL", str(crashed)])
    wait_until(lambda: not pair.daemons(), "the client to end")
    assert pair.laptop.read(f"/run/openvpn/{NAME}.pid").strip() == str(crashed), "the pid file stays behind"
    assert pair.call("is_up") == "False"
    assert pair.call("start") == "None"
    pair.wait_up("True")
    assert len(pair.daemons()) == 1


def test_a_pid_that_was_used_again_is_not_killed(pair: Pair) -> None:
    pair.configure()
    pair.laptop.run(["mkdir", "/run/openvpn"])
    innocent = pair.laptop.start(["sh", "-c", f"echo $$ >/run/openvpn/{NAME}.pid; exec tail -f /dev/null"])
    pid = int(wait_until(lambda: pair.laptop.read(f"/run/openvpn/{NAME}.pid").strip(), "the pid file"))
    assert pair.call("is_up") == "False"
    assert pair.call("stop") == "None"
    assert pid in pair.laptop.processes()
    assert innocent.process.poll() is None


def test_the_daemon_inherits_nothing(pair: Pair) -> None:
    pair.configure()
    script = 'exec 5</etc/passwd 6>/run/leak; trap "" HUP TERM; umask 077; IF_NETCONF_VPN="openvpn x" exec "$@"'
    assert pair.call("start", "sh", "-c", script, "sh") == "None"
    (pid,) = pair.daemons()
    proc = f"/proc/{pid}"
    links = pair.laptop.run(["find", f"{proc}/fd", "-type", "l", "-printf", "%f %l\\n"]).stdout
    assert "0 /dev/null\n" in links
    assert "/run/leak" not in links and "/etc/passwd" not in links and "pipe:" not in links
    assert "IF_NETCONF" not in pair.laptop.read(f"{proc}/environ")
    (ignored,) = re.findall(r"SigIgn:\t(.*)", pair.laptop.read(f"{proc}/status"))
    # SIGPIPE, which OpenVPN itself ignores; 32 and 33 are glibc's own, nptl(7), and are what they were.
    assert int(ignored, 16) & ~(0b11 << 31) == 0x1000
    status = pair.laptop.run(["stat", "-c", "%a", "/run/openvpn", f"/run/openvpn/{NAME}.pid"]).stdout.split()
    assert status == ["755", "644"]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("frobnicate 3\n", r"Options error: Unrecognized option .* in /etc/openvpn/my-vpn.conf:\d+: frobnicate"),
        # OpenVPN tells this one to syslog only, since it is a daemon by then.
        ("ca nonesuch.pem\n", r"Options error: --ca fails with 'nonesuch.pem': No such file or directory"),
        ("<ca>\n", r"ERROR: Endtag </ca> missing"),
        # Nobody is there to be asked for a user and a password, and nothing waits for them.
        ("auth-user-pass\n", r"neither stdin nor stderr are a tty device"),
    ],
)
def test_a_broken_configuration_is_an_error_in_openvpns_words(pair: Pair, more: str, complaint: str) -> None:
    pair.configure(more)
    assert re.match(f"TunnelError: {complaint}", pair.call("start"))
    assert pair.daemons() == {}
    assert pair.call("is_up") == "False"


def test_a_passphrase_that_nobody_can_type_hangs_nothing(pair: Pair) -> None:
    pair.configure(inline=False)
    key = "/etc/openvpn/my keys/client.key"
    pair.laptop.run(["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", key, "-out", key])
    # OpenVPN is in the background already when it reads the key, and may live on for longer than we look.
    late = "TunnelError: it ended right after its start; the system log has its reason"
    assert pair.call("start") in ("None", late)
    wait_until(lambda: not pair.daemons(), "the client to give up")
    assert pair.call("is_up") == "False"


def test_a_missing_configuration_is_an_error(pair: Pair) -> None:
    expected = "TunnelError: neither /etc/openvpn/client/other.conf nor /etc/openvpn/other.conf is there"
    assert pair.call("start", name="other") == expected
    assert pair.call("check", name="other") == expected


def test_a_busy_management_interface_leaves_it_to_the_status_file(pair: Pair) -> None:
    pair.configure("management /run/own.sock unix\nstatus /run/own.status 1\n")
    pair.start_server()
    pair.call("start")
    pair.wait_up("True")
    other = pair.laptop.start(["/usr/bin/python3", "-c", HOLD])
    wait_until(lambda: pair.laptop.run(["test", "-e", "/run/held"], check=False).returncode == 0, "the other client")
    assert other.process.poll() is None
    # Bytes that decrypted, as the status file has them each second, are the next best witness.
    pair.wait_up("True")
    assert other.process.poll() is None


def test_only_root_is_told(pair: Pair) -> None:
    pair.configure()
    pair.start_server()
    pair.call("start")
    pair.wait_up("True")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert pair.call("is_up", *nobody) == "None"
    assert pair.call("stop", *nobody).startswith("TunnelError: not allowed to end process ")
    assert pair.call("is_up") == "True"
