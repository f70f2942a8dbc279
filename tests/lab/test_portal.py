"""Captive portals as real networks announce them: RFC 8910 by each client, RFC 8908, redirections, and lies."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .guarded import HINTS, configure, connects_as, reaches_internet, read_guard
from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE
from .stanzas import read_status
from .told import DIRECTORY, NOTE, read_told
from .advertising import wait_for_router
from .waiting import wait_until

VISITOR, OTHER = 1000, 1001
API = "https://portal.example:8443/api"
# Of the hotel's own network, and not the router's.
SERVER = "192.168.3.9"

# A hotel's portal: any plain request is redirected twice, to other ports; the API says what is in /run/captive; each
# connection is noted.
HOTEL = """
import http.server, socketserver, ssl, sys, threading

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.server.server_address[1], self.path, flush=True)
        if self.server.server_address[1] == 8443:
            body = open("/run/captive", "rb").read()
            self.send_response(200)
            self.send_header("Content-Type", "application/captive+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        place = {80: "http://%(server)s:8880/guest", 8880: "https://login.example:8843/"}.get(
            self.server.server_address[1], "")
        self.send_response(302 if place else 200)
        if place:
            self.send_header("Location", place)
        self.end_headers()

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    # That of http.server asks for the name of the machine, for ten seconds if /etc/hosts does not have it.
    server_bind = socketserver.TCPServer.server_bind

def serve(address, port, secure):
    server = Server((address, port), Page)
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("/run/hotel.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever).start()

for address, port, secure in (("0.0.0.0", 80, False), ("0.0.0.0", 8880, False), ("0.0.0.0", 8443, True),
                              ("0.0.0.0", 8843, True), ("0.0.0.0", 8881, False)):
    serve(address, port, secure)
print("ready", flush=True)
""" % {"server": SERVER}
INTERCEPT = """
table ip hotel {
    chain prerouting { type nat hook prerouting priority dstnat; iifname "lan" tcp dport 80 redirect to :80; }
}
"""
# A router that advertises a default route, a prefix and a captive portal: RFC 4861 4.2, RFC 8910 2.3.
ROUTER = """
import socket, struct, sys
uri = sys.argv[1].encode()
option = bytes((37, (len(uri) + 9) // 8)) + uri
option += bytes(-len(option) % 8)
prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 3600, 3600, 0, socket.inet_pton(socket.AF_INET6, sys.argv[2]))
mac = bytes((1, 1)) + bytes.fromhex(sys.argv[3].replace(":", ""))
packet = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + mac + prefix + option
sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
index = socket.if_nametoindex("lan")
sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                  socket.inet_pton(socket.AF_INET6, "ff02::2") + struct.pack("=I", index))
sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lan")
sender.settimeout(1)
while True:
    sender.sendto(packet, ("ff02::1", 0, 0, index))
    try:
        while sender.recv(2000)[0] != 133:
            pass
    except TimeoutError:
        pass
"""


@pytest.fixture
def dhcp_client() -> str:
    """The client, where nothing else is said."""
    return DHCP_CLIENTS[0]


@pytest.fixture
def hotel(lab: Lab, tmp_path: Path) -> Iterator[Lab]:
    """The lab; the café is a hotel with a portal that nothing announces yet."""
    network, laptop = lab.network, lab.laptop
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3",
         "-subj", "/CN=portal.example", "-addext", "subjectAltName=DNS:portal.example,DNS:login.example",
         "-keyout", tmp_path / "key", "-out", tmp_path / "pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    certificate = (tmp_path / "pem").read_text()
    network.write("/run/hotel.pem", (tmp_path / "key").read_text() + certificate)
    laptop.write("/usr/lib/ssl/cert.pem", certificate)
    say(lab, captive=True)
    network.run("cafe", ["ip", "addr", "add", f"{SERVER}/24", "dev", "lan"])
    network.run("cafe", ["nft", "-f", "-"], text=INTERCEPT)
    network.write("/run/hotel.py", HOTEL)
    network.run("cafe", ["sh", "-c", "/usr/bin/python3 /run/hotel.py >/run/hotel.log 2>&1 &"])
    wait_until(lambda: "ready" in network.read("/run/hotel.log"), "the hotel's portal")
    yield lab


def say(lab: Lab, captive: bool) -> None:
    """Let the API say whether a login is needed."""
    state = {"captive": captive, "user-portal-url": "https://login.example:8843/"}
    lab.network.write("/run/captive", json.dumps(state))


def announce(lab: Lab, *options: str) -> None:
    """Let the hotel's router announce something, and answer the names of the portal."""
    names = ("portal.example", "login.example", "network-test.debian.org")
    lab.network.change_dhcp("cafe", *options, *(f"--address=/{name}/{CAFE.router}" for name in names))


def visit(lab: Lab, *options: str) -> str:
    """Run ``netconf-hooks portal`` as the visitor, and return its output."""
    command = ["netconf-hooks", "portal", *options, "eth0"]
    return lab.laptop.run(command, env={"SUDO_UID": str(VISITOR)}).stdout


def read_portals(lab: Lab) -> list[str]:
    """Return the portals that `status` names."""
    portals: list[str] = read_status(lab)["interfaces"]["eth0"]["portals"]
    return portals


@pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS)
def test_the_lease_names_a_portal(hotel: Lab, dhcp_client: str) -> None:
    """It is told once, in its place among the events, shown everywhere, and opens nothing by itself."""
    lab, laptop = hotel, hotel.laptop
    laptop.ask_for_portal()
    announce(lab, f"--dhcp-option-force=114,{API}")
    laptop.write(f"{DIRECTORY}/note", NOTE, 0o755)
    laptop.write(f"{DIRECTORY}/portal", '#!/bin/sh\necho "$1 $NETCONF_PORTAL" >>/run/portals\n', 0o755)
    laptop.write("/etc/network/interfaces", (
        f"iface eth0 inet dhcp\n    netconf-location hotel gateway={CAFE.router}\n    netconf-guard yes\n"
    ))  # fmt: skip
    lab.plug("cafe")
    laptop.ifup("eth0")
    # dhcpcd's hook has the same told in the background, and ifup need not wait for that.
    wait_until(lambda: laptop.exists("/run/told") and "inet-connected" in laptop.read("/run/told"), "the events")
    assert read_told(lab) == ["hotel-connected eth0", "portal-found eth0", "inet-connected eth0"]
    assert f"portal-found {API}\n" in laptop.read("/run/portals")
    laptop.run(["netconf-hooks", "refresh"])
    assert read_told(lab) == []
    said = f"the network announces a captive portal: {API}"
    assert read_portals(lab) == [API]
    assert said in laptop.run(["netconf-hooks", "status"]).stdout
    assert said in laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
    assert f"# {said}\n" in laptop.run(["netconf-hooks", "probe", "eth0"]).stdout
    assert json.loads(laptop.run(["netconf-hooks", "probe", "--json", "eth0"]).stdout)["portals"] == [API]
    for port in (80, 8443, 8880):
        assert not connects_as(laptop, VISITOR, CAFE.router, port)
    laptop.ifdown("eth0")
    assert read_told(lab) == ["inet-disconnected eth0", "hotel-disconnected eth0"]


def test_the_pass_ends_when_the_login_is_done(hotel: Lab) -> None:
    """The API names the page to open, whose port passes, and says when that is not needed any more."""
    lab, laptop = hotel, hotel.laptop
    laptop.ask_for_portal()
    announce(lab, f"--dhcp-option=114,{API}")
    configure(lab, "guard yes", HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    said = visit(lab)
    assert "eth0: the network announces a captive portal: open https://login.example:8843/\n" in said
    assert "ends by itself" in said
    assert connects_as(laptop, VISITOR, SERVER, 8880), "where a plain request is sent"
    assert connects_as(laptop, VISITOR, CAFE.router, 8881), "any port of the router"
    assert not connects_as(laptop, VISITOR, SERVER, 8881), "of another private address no other port"
    assert not connects_as(laptop, OTHER, SERVER, 8880)
    assert not reaches_internet(laptop) and read_guard(lab) == "closed"
    wait_until(lambda: lab.network.read("/run/hotel.log").count("8443 /api") >= 2, "the watcher to ask the API")
    assert connects_as(laptop, VISITOR, SERVER, 8880), "the login is not done yet"
    say(lab, captive=False)
    wait_until(lambda: read_status(lab)["guards"]["eth0"]["portal"] == 0, "the pass to end", 30.0)
    assert not connects_as(laptop, VISITOR, SERVER, 8880)
    assert "the captive portal is not needed any more" in laptop.log()
    wait_until(lambda: "look and act" not in laptop.log(), "no child to be late")


def test_all_of_it_for_programs(hotel: Lab) -> None:
    lab = hotel
    announce(lab)
    configure(lab, "guard yes", HINTS)
    lab.plug("cafe")
    lab.laptop.ifup("eth0")
    said = json.loads(visit(lab, "--json", "--for", "60s"))
    assert (said["portals"], said["captive"], said["uid"], said["seconds"]) == ([], None, VISITOR, 60)
    assert said["redirects"] == [f"http://{SERVER}:8880/guest", "https://login.example:8843/"]
    assert said["places"] == [f"{SERVER}:8880", f"{CAFE.router}:8843"]


def test_a_certificate_that_is_not_valid_ends_nothing(hotel: Lab) -> None:
    lab, laptop = hotel, hotel.laptop
    laptop.run(["rm", "/usr/lib/ssl/cert.pem"])
    lab.laptop.ask_for_portal()
    announce(lab, f"--dhcp-option=114,{API}")
    say(lab, captive=False)
    configure(lab, "guard yes", HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    said = json.loads(visit(lab, "--json"))
    assert said["captive"] is None and said["portals"] == [API]
    assert any("self-signed certificate" in problem or "self signed" in problem for problem in said["problems"])
    assert connects_as(laptop, VISITOR, CAFE.router, 8443)


def test_an_announced_address_that_is_none(hotel: Lab) -> None:
    """A long one is; control characters and what is no URI are not, and are named in one line."""
    lab, laptop = hotel, hotel.laptop
    laptop.ask_for_portal()
    configure(lab, "guard yes", HINTS)
    lab.plug("cafe")
    longest = "http://portal.example/" + "x" * 150  # dnsmasq has no room for more
    for option, portals, word in (
        (longest, [longest], ""),
        ("http:nonsense", [], '"http:nonsense" is announced as a captive portal, but it begins with neither http://'),
        ("http://x/\n\x1b[2J", [], '"http://x/\\n\\x1b[2J" is announced as a captive portal, but it contains'),
        ("http://127.0.0.1/", [], "names no host"),
        ("urn:ietf:params:capport:unrestricted", [], "the network says that it has no captive portal"),
    ):  # fmt: skip
        announce(lab, f"--dhcp-option=114,{option}")
        laptop.ifup("eth0")
        assert read_portals(lab) == portals
        shown = laptop.run(["netconf-hooks", "status"]).stdout
        assert word in shown and "\x1b[2J" not in shown, option
        visited = visit(lab)
        assert word in visited and "\x1b[2J" not in visited, option
        laptop.ifdown("eth0")


def test_a_lease_of_dhcpv6_names_a_portal(hotel: Lab) -> None:
    lab, laptop = hotel, hotel.laptop
    laptop.ask_for_portal()
    leases = f"--dhcp-range={CAFE.prefix6}100,{CAFE.prefix6}200,64,1h"
    announce(lab, "--enable-ra", leases, f"--dhcp-option=option6:103,{API}")
    # ifupdown's inet6 dhcp knows no client but dhclient; dhcpcd asks for both families.
    family = "inet6" if laptop.dhcp_client == "dhclient" else "inet"
    laptop.write("/etc/network/interfaces", f"iface eth0 {family} dhcp\n    netconf-guard yes\n")
    lab.plug("cafe")
    laptop.ifup("eth0")
    if laptop.dhcp_client == "dhclient":
        assert read_portals(lab) == [API]
    wait_until(lambda: read_portals(lab) == [API], "the portal to be seen")


def test_a_router_names_a_portal(hotel: Lab) -> None:
    """With ifupdown's inet6 auto nobody keeps it: the routers are asked, where no location line holds."""
    lab, laptop = hotel, hotel.laptop
    network = lab.network
    network.write("/run/router.py", ROUTER)
    options = f"{API} {CAFE.prefix6} {CAFE.router_mac}"
    network.run("cafe", ["sh", "-c", f"/usr/bin/python3 /run/router.py {options} >/run/router.log 2>&1 &"])
    laptop.write(f"{DIRECTORY}/note", NOTE, 0o755)
    laptop.write("/etc/network/interfaces", "iface eth0 inet6 auto\n    netconf-guard yes\n")
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_for_router(lab)
    wait_until(lambda: read_portals(lab) == [API], "the portal to be seen")
    wait_until(lambda: laptop.exists("/run/told") and "inet-connected" in laptop.read("/run/told"), "the events")
    assert read_told(lab) == ["portal-found eth0", "inet-connected eth0"]
    assert f"a captive portal: open {API}" in visit(lab), network.read("/run/router.log")
