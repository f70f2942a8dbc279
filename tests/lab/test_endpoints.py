"""Where tunnels say that their own packets go, and where those of the real ones are seen to go.

The kernel's packet filter notes each packet's owner, destination, protocol and port.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netconf_hooks.tunnels import Endpoint

from .namespaces import ENVIRONMENT, Namespaces
from .waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
NAME = "my-vpn"
NOBODY = pwd.getpwnam("nobody").pw_uid
SERVER = "192.0.2.1"

HOSTS = {"vpn.example.com": ("192.0.2.1", "2001:db8::1"), "proxy.example.com": ("192.0.2.8",)}

# A packet: whose it is (or what else tells it), where it goes, its protocol and port.
Packet = tuple[int, str, str, int]

# Asks the tunnel as a hook would.
CALL = """
import json, sys
sys.path.append("/run/checkout")
from netconf_hooks.tunnels import load_tunnel
endpoints = load_tunnel(sys.argv[1], sys.argv[2]).endpoints()
print(json.dumps([[getattr(endpoint, name) for name in endpoint.__slots__] for endpoint in endpoints]))
"""

# Notes `Packet`s, with this as their first field.
KEYS = {"owners": ("uid", "meta skuid"), "marks": ("mark", "meta mark"), "ports": ("inet_service", "th sport")}
FAMILIES = {4: "ip", 6: "ip6"}
WITNESS = """
table inet witness {{
    set {name}{version} {{
        type {type} . ipv{version}_addr . inet_proto . inet_service
        flags dynamic
        size 65535
    }}
    chain {name}{version} {{
        type filter hook output priority 0
        oifname != "eth0" return
        meta l4proto {{ tcp, udp }} add @{name}{version} {{ {key} . {family} daddr . meta l4proto . th dport }}
    }}
}}
"""

CLIENT = """\
client
dev tun
nobind
verb 3
connect-retry 1 1
connect-timeout 1
"""


class Machine(Namespaces):
    """A machine with a wire, an empty /run and /etc/openvpn of its own, and a witness of all that leaves."""

    def __init__(self) -> None:
        super().__init__(("mnt", "pid", "net"))
        for directory in ("/run", "/etc/openvpn", "/etc/wireguard"):
            self.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory])
        self.run(["mkdir", "-p", "/run/wireguard"])
        self.run(["mount", "-t", "sysfs", "sysfs", "/sys"])  # of this network namespace
        # Where everybody may read it, wherever the checkout is.
        shutil.copytree(ROOT / "netconf_hooks", self.root / "run/checkout/netconf_hooks")
        lines = [f"{address} {name}" for name, addresses in HOSTS.items() for address in addresses]
        self.write("/run/hosts", "127.0.0.1 localhost\n" + "\n".join(lines) + "\n")
        self.run(["mount", "--bind", "/run/hosts", "/etc/hosts"])
        for name, (kind, key) in KEYS.items():
            for version, family in FAMILIES.items():
                text = WITNESS.format(name=name, type=kind, key=key, version=version, family=family)
                self.run(["nft", "-f", "-"], text=text)

    def plug_into_nothing(self) -> None:
        """Give it a wire on which packets leave, and nobody ever answers."""
        commands = "link set lo up\nlink add eth0 arp off type veth peer name eth1\n"
        commands += "link set eth1 up\nlink set eth0 up\n"
        commands += "addr add 192.0.2.100/24 dev eth0\naddr add 2001:db8::100/64 dev eth0 nodad\n"
        self.run(["ip", "-batch", "-"], text=commands)

    def write(self, path: str, text: str) -> None:
        """Write a file of this machine."""
        self.run(["mkdir", "-p", os.path.dirname(path)])
        self.run(["tee", path], text=text)

    def read(self, path: str) -> str:
        """Return a file of this machine, empty where there is none."""
        return self.run(["cat", path], check=False).stdout

    def ask(self, kind: str = "openvpn", name: str = NAME) -> tuple[Endpoint, ...]:
        """Return the tunnel's endpoints."""
        answer = json.loads(self.run(["/usr/bin/python3", "-IS", "-c", CALL, kind, name]).stdout)
        return tuple(
            Endpoint(host, protocol, port, version, tuple(uids), mark, source_port)
            for host, protocol, port, version, uids, mark, source_port in answer
        )

    def expect(self, kind: str = "openvpn", name: str = NAME) -> set[Packet]:
        """Return the packets that the tunnel says it sends: one for each user and each address of a name."""
        packets = set()
        for endpoint in self.ask(kind, name):
            for address in HOSTS.get(endpoint.host, (endpoint.host,)):
                if endpoint.version in (0, 6 if ":" in address else 4):
                    packets |= {(uid, address, endpoint.protocol, endpoint.port) for uid in endpoint.uids}
        return packets

    def see(self, what: str = "owners") -> set[Packet]:
        """Return the packets that were sent: whose they were, or with ``marks`` or ``ports`` those in place of that."""
        found = set()
        for version in FAMILIES:
            listing = self.run(["nft", "--json", "--numeric", "list", "set", "inet", "witness", f"{what}{version}"])
            for element in json.loads(listing.stdout)["nftables"][1]["set"].get("elem", []):
                first, address, protocol, port = element["concat"]
                found.add((first, address, {6: "tcp", 17: "udp"}[protocol], port))
        return found

    def forget(self) -> None:
        """Let the witness begin anew."""
        for name in KEYS:
            for version in FAMILIES:
                self.run(["nft", "flush", "set", "inet", "witness", f"{name}{version}"])

    def start_openvpn(self, path: str = f"/etc/openvpn/{NAME}.conf") -> None:
        """Start OpenVPN with a configuration, as Debian's init script does it."""
        files = ["--writepid", "/run/pid", "--log", "/run/log", "--cd", os.path.dirname(path), "--config", path]
        self.run(["openvpn", *files, "--daemon"])

    def count_starts(self) -> int:
        """Return how often OpenVPN has begun to look for its other side."""
        log = self.read("/run/log")
        return len(re.findall(r"link remote: |Attempting to establish TCP connection", log))


class Credentials:
    """Keys and certificates of a client and a server, each signed by itself."""

    def __init__(self, directory: Path) -> None:
        self._inline = {}
        self._fingerprints = {}
        for name in ("client", "server"):
            key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
            kind = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30".split()
            files = ["-keyout", str(key), "-out", str(certificate)]
            make = ["openssl", "req", "-x509", *kind, "-subj", f"/CN={name}", *files]
            subprocess.run(make, check=True, capture_output=True, env=ENVIRONMENT)
            digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()
            self._fingerprints[name] = ":".join(re.findall("..", digest))
            self._inline[name] = f"<cert>\n{certificate.read_text()}</cert>\n<key>\n{key.read_text()}</key>\n"

    def write(self, name: str, other: str) -> str:
        """Return the lines that make a configuration `name`'s and let it trust `other`."""
        return f"{self._inline[name]}<peer-fingerprint>\n{self._fingerprints[other]}\n</peer-fingerprint>\n"


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return Credentials(tmp_path_factory.mktemp("credentials"))


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


CONFIGURATIONS = {
    "several remotes, udp and tcp": "remote 192.0.2.1\nremote 192.0.2.2 443 tcp\nremote 2001:db8::3 5000 udp6\n",
    "a name with two addresses": "port 5000\nremote vpn.example.com\n",
    "proto of one family": "proto udp4\nremote vpn.example.com 1194 udp\nremote 192.0.2.5\n",
    "connection blocks": (
        "proto tcp\nremote 192.0.2.9\n<connection>\nremote 192.0.2.1 1194 udp\n</connection>\n"
        "<connection>\nremote 192.0.2.2\nport 443\n</connection>\nport 999\n"
    ),
    "http-proxy": "proto tcp\nhttp-proxy proxy.example.com 3128\nremote 192.0.2.1 443\nremote 192.0.2.2 443\n",
    "http-proxy with auto": "proto tcp\nhttp-proxy proxy.example.com 3128 auto\nremote 192.0.2.1 443\n",
    "a block's http-proxy is everybody's": (
        "proto tcp\nhttp-proxy proxy.example.com 3128\n<connection>\nremote 192.0.2.1\n</connection>\n"
        "<connection>\nremote 192.0.2.2\nhttp-proxy 192.0.2.9 8080\n</connection>\n"
    ),
    "socks-proxy": "proto tcp-client\nsocks-proxy proxy.example.com\nremote 192.0.2.1\nremote vpn.example.com 443\n",
    "proto-force": "proto-force tcp-client\nremote 192.0.2.1\nremote 192.0.2.2 443 tcp\n",
    "an included file": "config more.inc\n",
}


@pytest.mark.parametrize("text", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_openvpn_connects_where_it_is_said_and_nowhere_else(
    machine: Machine, credentials: Credentials, text: str
) -> None:
    machine.plug_into_nothing()
    machine.write(f"/etc/openvpn/{NAME}.conf", CLIENT + text + credentials.write("client", "server"))
    machine.write("/etc/openvpn/more.inc", "remote 192.0.2.1 1195\n")
    expected = machine.expect()
    assert expected
    machine.start_openvpn()
    # Once around, and a step more.
    wait_until(lambda: machine.count_starts() > max(len(expected), 2), "OpenVPN to begin anew", 60.0)
    assert machine.see() == expected


def test_an_address_of_the_other_family_is_tried_by_openvpn_2_7(machine: Machine, credentials: Credentials) -> None:
    machine.plug_into_nothing()
    text = "proto udp4\nremote 2001:db8::5\nremote 192.0.2.1\n"
    machine.write(f"/etc/openvpn/{NAME}.conf", CLIENT + text + credentials.write("client", "server"))
    first, second = ((0, address, "udp", 1194) for address in ("2001:db8::5", "192.0.2.1"))
    assert machine.expect() == {first, second}
    machine.start_openvpn()
    wait_until(lambda: machine.count_starts() > 2, "OpenVPN to begin anew", 60.0)
    version = machine.run(["openvpn", "--version"], check=False).stdout.split()[1]
    assert machine.see() == ({second} if version.startswith(("2.5", "2.6")) else {first, second})


def test_openvpn_as_nobody_reconnects_by_what_it_is_said_to_be(credentials: Credentials) -> None:
    for protocol, serving in (("udp4", "udp4"), ("tcp4-client", "tcp4-server")):
        with Machine() as laptop, Machine() as server:
            connect(laptop, server)
            server.write(
                "/etc/openvpn/server.conf",
                f"dev tun\ntopology subnet\nserver 10.8.0.0 255.255.255.0\nlocal {SERVER}\nproto {serving}\ndh none\n"
                f"keepalive 1 3\n{credentials.write('server', 'client')}",
            )
            laptop.write(
                f"/etc/openvpn/{NAME}.conf",
                f"{CLIENT}remote {SERVER} 1194 {protocol}\nuser nobody\ngroup nogroup\npersist-key\npersist-tun\n"
                f"disable-dco\n{credentials.write('client', 'server')}",
            )
            expected = laptop.expect()
            place = (SERVER, protocol[:3], 1194)
            assert expected == {(0, *place), (NOBODY, *place)}
            server.start_openvpn("/etc/openvpn/server.conf")
            laptop.start_openvpn()
            wait_until(lambda: laptop.read("/run/log").count("Sequence Completed") == 1, "the tunnel", 30.0)
            assert laptop.see() == {(0, *place)}, "its first socket is root's"

            server.run(["kill", "-KILL", server.read("/run/pid").strip()])
            laptop.forget()
            server.start_openvpn("/etc/openvpn/server.conf")
            wait_until(lambda: laptop.read("/run/log").count("Sequence Completed") == 2, "the tunnel, again", 60.0)
            assert (NOBODY, *place) in laptop.see() <= expected


def connect(laptop: Machine, server: Machine) -> None:
    """Lay a cable between two machines."""
    cable = f"link add eth0 type veth peer name eth0 netns {laptop.files['net']}"
    # From outside: the other machine's namespace has no name in the server's own /proc.
    subprocess.run(["nsenter", f"--net={server.files['net']}", "--", "ip", *cable.split()], check=True)
    for machine, address in ((laptop, "192.0.2.100"), (server, SERVER)):
        machine.run(["ip", "-batch", "-"], text=f"link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n")


WIREGUARD = """\
[Interface]
PrivateKey = {private}
Address = 10.77.0.2/24
{more}
[Peer]
PublicKey = {public}
Endpoint = 192.0.2.1:51820
AllowedIPs = {networks}
"""


@pytest.mark.parametrize(
    ("more", "networks", "known"),
    [
        ("FwMark = 0x77", "10.77.0.0/24", "mark"),
        ("ListenPort = 5000", "10.77.0.0/24", "source_port"),
        ("", "0.0.0.0/0", "mark"),
        ("", "10.77.0.0/24", ""),
    ],
)
def test_wireguards_packets_bear_what_is_said(machine: Machine, more: str, networks: str, known: str) -> None:
    missing = [name for name in ("wg-quick", "wireguard-go") if not shutil.which(name, path=ENVIRONMENT["PATH"])]
    if missing:
        pytest.skip(f"WireGuard needs: {' '.join(missing)}")
    machine.plug_into_nothing()
    private, other = (machine.run(["wg", "genkey"]).stdout.strip() for _ in range(2))
    public = machine.run(["wg", "pubkey"], text=other).stdout.strip()
    machine.write("/etc/wireguard/corp.conf", WIREGUARD.format(**locals()))
    before = machine.ask("wireguard", "corp")
    machine.run(["wg-quick", "up", "corp"])
    # Userland's opens its port a moment after the interface is up.
    (endpoint,) = wait_until(lambda: machine.ask("wireguard", "corp"), "the port to be known")
    assert before == ((endpoint,) if known else ()), "it is known before the start, or not at all"
    machine.run(["ping", "-c1", "-W1", "10.77.0.1"], check=False)  # for which the two must shake hands
    place = ("192.0.2.1", "udp", 51820)
    assert (endpoint.host, endpoint.protocol, endpoint.port) == place
    if endpoint.mark:
        assert known == "mark"
        assert machine.see("marks") == {(endpoint.mark, *place)}
    else:
        assert machine.see("ports") == {(endpoint.source_port, *place)}
