"""The café's name server answers with another address each time: what the guard lets through because of a name."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ..network import CAFE, INTERNET_HOST, VPN_GATEWAY
from ..vpn import PORT
from ..waiting import wait_until
from ..watcher import freeze, wait_for_watcher
from .capture import Allowed
from .hostile import ENDPOINT_NAME
from .scene import BOTH, Scene
from .traffic import INTERNET_HOST6, NEIGHBOUR, Job, mark_data

TIME_NAME = "ntp.example.org"
NTP = 123
MOST = 8  # addresses of each IP version that may pass because of one name
OWN, OWN_MAC = f"192.168.{CAFE.number}.77", "02:00:5e:00:10:01"
# What no other host can have.
NEVER = ("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.8.8.8", "224.0.0.1", "239.255.255.250", "255.255.255.255", "::", "::1",
         "::ffff:198.51.100.7", "ff02::1", "ff0e::101")  # fmt: skip
NEIGHBOURS = (CAFE.router, f"192.168.{CAFE.number}.{NEIGHBOUR}", OWN)
MANY = [f"198.18.{number // 250}.{number % 250 + 1}" for number in range(1000)]
ANSWERS = (
    (INTERNET_HOST, INTERNET_HOST6), ("198.51.100.1", "198.51.100.2"), NEVER, NEIGHBOURS, (*NEVER, "198.51.100.3"),
    MANY, (VPN_GATEWAY,),
)  # fmt: skip
# Of each answer, what passes: at most so many of each IP version.
EXPECTED = [tuple(address for address in answer if address not in NEVER)[:MOST] for answer in ANSWERS]
ADDRESSES = dict.fromkeys(address for answer in ANSWERS for address in answer[:2 * MOST])

# Answers the nth question for each name and type with the nth list of addresses, over and over.
_SERVER = """
import ipaddress, json, socket, struct, sys
answers = [[ipaddress.ip_address(text) for text in each] for each in json.loads(sys.argv[1])]
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
channel.bind(("", 53))
asked = {}
print("ready", flush=True)
while True:
    question, sender = channel.recvfrom(2000)
    end = question.index(b"\\0", 12) + 5
    key = question[12:end].lower()
    nth = asked[key] = asked.get(key, -1) + 1
    size = {1: 4, 28: 16}.get(key[-3], 0)
    found = [each.packed for each in answers[nth % len(answers)] if len(each.packed) == size]
    reply = question[:2] + b"\\x85\\x80" + struct.pack("!HHHH", 1, len(found), 0, 0) + question[12:end]
    head = b"\\xc0\\x0c" + key[-4:-2] + b"\\0\\1\\0\\0\\0\\0" + struct.pack("!H", size)
    reply += b"".join(head + each for each in found)
    channel.sendto(reply, sender)
"""


@pytest.fixture
def name_server(scene: Scene) -> Iterator[None]:
    """The name server, in place of the café's."""
    scene.network.change_dhcp(
        CAFE.name, "--port=0", f"--dhcp-option=option:dns-server,{CAFE.router}", f"--dhcp-host={OWN_MAC},{OWN}"
    )
    running = scene.network.start(CAFE.name, ["/usr/bin/python3", "-IS", "-", json.dumps(ANSWERS)], text=_SERVER)
    wait_until(lambda: "ready" in running.read_output(), "the name server")
    yield
    assert running.process.poll() is None, running.wait()
    running.kill()
    running.wait()


def list_pinned(scene: Scene, name: str) -> tuple[str, ...]:
    """Return the addresses of a name in the laptop's /etc/hosts."""
    lines = [line.split() for line in scene.laptop.read("/etc/hosts").splitlines()]
    return tuple(words[0] for words in lines if words[1:2] == [name])


@BOTH
def test_only_the_addresses_of_the_last_answer_pass_and_none_that_no_host_has(
    scene: Scene, name_server: None
) -> None:
    """A tunnel that does not connect has the names resolved over and over."""
    scene.lab.vpn.stop()
    flows = frozenset((address, 17, PORT) for answer in EXPECTED for address in answer)
    names = frozenset({TIME_NAME, ENDPOINT_NAME})
    scene.allowed = Allowed(flows, frozenset({CAFE.router}), frozenset({CAFE.router}), names)
    scene.traffic.add("root-time", [make_job("root/time", address, NTP) for address in ADDRESSES])
    scene.traffic.add("nobody-vpn", [make_job("nobody/vpn", address, PORT) for address in ADDRESSES])
    scene.tunnel_everything(remote=ENDPOINT_NAME)
    scene.write_stanza(*([f"guard-allow {TIME_NAME}:udp/{NTP}"] if scene.guarded else []))
    scene.arrive()
    scene.wait_for_ipv6()
    if not scene.guarded:
        leaking = ("224.0.0.1", "ff02::1", CAFE.router, "198.51.100.1", INTERNET_HOST6)
        scene.judge("without a guard", *(f"{who}/{to}" for who in ("root/time", "nobody/vpn") for to in leaking))
        return
    # /etc/hosts and the firewall change one after the other: from here on only the refreshes below change them.
    freeze(scene.lab, [wait_for_watcher(scene.lab)])
    missing = {EXPECTED[number] for number in (0, 1, 3, 4, 5, 6)}
    for _ in range(40):
        scene.laptop.run(["netconf-hooks", "refresh"])
        before = list_pinned(scene, TIME_NAME)
        assert set(before) <= {address for answer in EXPECTED for address in answer}, before
        scene.forget()
        leaks = scene.find(scene.look(2))
        assert list_pinned(scene, TIME_NAME) == before
        # To its own address the laptop sends nothing through the cable.
        assert {leak.kind for leak in leaks} == {f"root/time/{address}" for address in before if address != OWN}
        assert sorted(before) in [sorted(answer) for answer in EXPECTED] or set(before) < {*EXPECTED[0]}
        missing -= {answer for answer in missing if set(before) & set(answer)}
        if not missing:
            break
    assert not missing


def make_job(who: str, address: str, port: int) -> Job:
    """Return what sends to an address past all routes."""
    kind = f"{who}/{address}"
    return Job(kind, "udp", address, port, "eth0", data=mark_data(kind))
