"""The guard, netconf-interfaces(5): it stands when it should, and nobody is hindered where it need not.

Whether anything gets past it is what `attacks` is about.
"""

from __future__ import annotations

import socket

import pytest

from .attacks.capture import Capture
from .attacks.place import call_in
from .guarded import (
    CORP, HINTS, NOBODY, TABLES, UNLESS, configure, connects_as, find_expiry, judge, list_ruleset, make_allowed,
    make_stanza, read_guard, reaches_internet, send_everything, wait_for_guard, write_event_script
)  # fmt: skip
from .lab import Lab
from .laptop import DHCP_CLIENTS, Laptop
from .network import CAFE, CORP_HOST, HOME, INTERNET_HOST, OFFICE
from .stanzas import find_records, read_status, wait_for_no_tunnel, wait_for_tunnel
from .waiting import wait_until
from .watcher import stop_watcher, wait_for_watcher

ONE_CLIENT = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
FOLLOWS_CABLE = pytest.mark.parametrize("dhcp_client", ["dhcpcd"])
ADMINS_TABLE = "table inet admin {\n\tchain mine {\n\t\ttcp dport 7 accept\n\t}\n}\n"
# Renewed soon after: the client writes to the server alone then, by RFC 2131 section 4.4.5.
RENEWED_SOON = ("--dhcp-option=option:T1,3", "--dhcp-option=option:T2,100")


def test_in_the_cafe_only_the_tunnel_passes(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.network.change_dhcp("cafe", *RENEWED_SOON)
    laptop.run(["nft", "-f", "-"], text=ADMINS_TABLE)
    lab.plug("cafe")
    with Capture(lab.network.wire_namespace) as capture:
        laptop.ifup("eth0")
        assert read_guard(lab) == "closed"
        wait_for_tunnel(lab)
        for uid in (0, NOBODY):
            send_everything(laptop, CAFE, uid)
        judge(capture, make_allowed(CAFE))
        asked = lab.network.router_log("cafe").count("DHCPREQUEST")
        wait_until(lambda: lab.network.router_log("cafe").count("DHCPREQUEST") > asked, "the lease to be renewed")
        wait_until(lambda: lab.network.router_log("cafe").count("DHCPACK") > asked, "the server's answer")
        assert laptop.pings(CORP_HOST)
        assert "DHCPRELEASE" not in lab.network.router_log("cafe")
        laptop.ifdown("eth0")
        wait_until(lambda: "DHCPRELEASE" in lab.network.router_log("cafe"), "the lease to be given back")
        judge(capture, make_allowed(CAFE))
    wait_for_no_tunnel(lab)
    assert find_records(lab) == []
    assert list_ruleset(laptop) == ADMINS_TABLE


def test_at_home_it_opens_and_nobody_is_hindered(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("home")
    laptop.ifup("eth0")
    status = read_status(lab)
    assert status["interfaces"]["eth0"]["guard"] == "open"
    assert status["guards"]["eth0"]["state"] == "open"
    assert status["guards"]["eth0"]["because"] == 'eth0 is at home-lan: "unless home-lan"'
    shown = " ".join(laptop.run(["netconf-hooks", "status"]).stdout.split())
    assert "guard of eth0 open " in shown and "(nftables) eth0 is at home-lan" in shown
    assert "guard unless home-lan office-lan: open" in laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
    assert reaches_internet(laptop) and laptop.pings(HOME.router)
    assert laptop.connects(HOME.router, 53)  # dnsmasq's
    # Beyond the router: what refuses the connection has been reached.
    refused = "import socket\ntry: socket.create_connection(({!r}, 9), 1)\nexcept ConnectionRefusedError: print('yes')"
    assert laptop.run(["/usr/bin/python3", "-IS", "-c", refused.format(INTERNET_HOST)]).stdout == "yes\n"
    laptop.ifdown("eth0")
    assert list_ruleset(laptop) == "" and find_records(lab) == []


@ONE_CLIENT
def test_with_hints_alone_it_never_opens_and_says_so(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS)
    lab.plug("home")
    checked = laptop.run(["netconf-hooks", "check", "eth0"], check=False)
    assert checked.returncode == 1
    assert "it can never open: it needs a tls or command test" in checked.stdout + checked.stderr
    laptop.ifup("eth0")
    assert read_guard(lab) == "closed" and not reaches_internet(laptop)
    explained = laptop.run(["netconf-hooks", "explain", "eth0"]).stdout
    assert (
        "netconf-guard unless home-lan office-lan: closed: eth0 is at home-lan, which is not proven: "
        '"unless home-lan" does not open it'
    ) in explained
    assert "home-lan is recognised by hints" in explained


@ONE_CLIENT
def test_checks_warning_of_who_can_open_it(lab: Lab) -> None:
    configure(lab, CORP, UNLESS, HINTS)
    checked = lab.laptop.run(["netconf-hooks", "check", "eth0"], check=False)
    assert checked.returncode == 0
    assert "anybody who forges the hints of home-lan or office-lan can open it" in checked.stdout + checked.stderr


ALLOWANCES = {
    "a network": ("198.51.100.0/24", {"beyond": True, "router": False, "names": False}),
    "a service": ("tcp/53", {"beyond": False, "router": True, "names": False}),
    "a service of a host": (f"{CAFE.router}:tcp/53", {"beyond": False, "router": True, "names": False}),
    "the same of another host": ("192.0.2.7:tcp/53", {"beyond": False, "router": False, "names": False}),
    "names by udp": (f"{CAFE.router}:udp/53", {"beyond": False, "router": False, "names": True}),
    "several": (f"198.51.100.1/32 {CAFE.router}:tcp/53", {"beyond": True, "router": True, "names": False}),
}


@ONE_CLIENT
def test_what_netconf_guard_allow_lets_through(lab: Lab) -> None:
    laptop = lab.laptop
    lab.plug("cafe")
    ask = """
import socket
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
channel.settimeout(1)
channel.connect(("{}", 53))
channel.send(bytes.fromhex("000101000001000000000000") + b"\\x03www\\x07example\\x03net\\0\\0\\1\\0\\1")
channel.recv(512)
"""
    for what, (allowance, expected) in ALLOWANCES.items():
        configure(lab, "guard yes", f"guard-allow {allowance}", locations="")
        laptop.ifup("eth0")
        found = {
            "beyond": reaches_internet(laptop),
            "router": laptop.connects(CAFE.router, 53),
            "names": laptop.run(
                ["/usr/bin/python3", "-IS", "-"], text=ask.format(CAFE.router), check=False
            ).returncode == 0,
        }  # fmt: skip
        assert found == expected, what
        laptop.ifdown("eth0")


def visit(lab: Lab, source: str, address: str, port: int) -> socket.socket:
    """Connect to the laptop from a machine in the cafe that has the address `source`."""
    return call_in(
        lab.network.namespace("cafe"), lambda: socket.create_connection((address, port), 2.0, (source, 0))
    )


def exchange(session: socket.socket, text: bytes) -> bool:
    """Whether what is said to the laptop is said back."""
    session.settimeout(2.0)
    session.sendall(text)
    return session.recv(4096) == text


@ONE_CLIENT
def test_a_headless_machine_is_reached_by_what_is_allowed_in(lab: Lab) -> None:
    laptop = lab.laptop
    other = "192.168.3.9"
    lab.network.run("cafe", ["ip", "addr", "add", f"{other}/24", "dev", "lan"])
    echo = ["busybox", "nc", "-ll", "-p"]
    for port in ("22", "23"):
        laptop.start([*echo, port, "-e", "/bin/cat"])
        wait_until(lambda port=port: laptop.connects("127.0.0.1", int(port)), "somebody to listen")
    configure(lab, CORP, UNLESS, HINTS, "guard-allow in:tcp/22")
    lab.plug("cafe")
    laptop.ifup("eth0")
    address = find_address(lab)
    with visit(lab, CAFE.router, address, 22) as session:
        assert exchange(session, b"hello")
        with pytest.raises(TimeoutError):
            visit(lab, CAFE.router, address, 23)
        pid = wait_for_tunnel(lab)
        assert exchange(session, b"with the tunnel up")
        laptop.run(["kill", "-KILL", str(pid)])
        wait_for_no_tunnel(lab)
        assert exchange(session, b"without it")
        laptop.ifup("--force", "eth0")
        assert exchange(session, b"after ifup --force")
        laptop.run(["netconf-hooks", "close"])
        laptop.run(["netconf-hooks", "refresh"])
        assert exchange(session, b"closed and refreshed")
        assert not laptop.connects(CAFE.router, 53), "nothing begins at the laptop"
    laptop.ifdown("eth0")
    configure(lab, CORP, UNLESS, HINTS, f"guard-allow in:tcp/22@{CAFE.router}/32")
    laptop.ifup("eth0")
    with visit(lab, CAFE.router, address, 22) as session:
        assert exchange(session, b"hello")
    with pytest.raises(TimeoutError):
        visit(lab, other, address, 22)


def find_address(lab: Lab) -> str:
    """Return the laptop's IPv4 address."""
    shown = lab.laptop.run(["ip", "-4", "-br", "address", "show", "dev", "eth0"]).stdout
    return shown.split()[2].partition("/")[0]


# --- between ifup and ifdown


@ONE_CLIENT
def test_an_open_link_is_a_lease_that_the_watcher_renews(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("home")
    laptop.ifup("eth0")
    wait_until(lambda: 0 < find_expiry(laptop) < 25, "some of the lease to run out")
    wait_until(lambda: find_expiry(laptop) > 28, "the lease to be renewed", 15.0)
    assert reaches_internet(laptop)


@ONE_CLIENT
def test_shut_at_once_when_the_routers_mac_address_changes(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("home")
    laptop.ifup("eth0")
    wait_for_guard(lab, "open")
    assert find_expiry(laptop) > 0
    address = find_address(lab)

    def change_router(mac: str) -> None:
        lab.network.run("home", ["ip", "link", "set", "lan", "address", mac])
        # It asks for the laptop, which so learns of the new one: RFC 826.
        lab.network.run("home", ["ip", "neigh", "flush", "dev", "lan"])
        lab.network.run("home", ["ping", "-c1", "-W1", address], check=False)

    change_router("02:00:5e:00:66:66")
    wait_until(lambda: find_expiry(laptop) == 0, "the guard to close", 2.0)
    assert not laptop.pings(HOME.router)
    assert "netconf-guard: closed: " in laptop.log()
    change_router(HOME.router_mac)
    wait_for_guard(lab, "open")
    assert laptop.pings(HOME.router)


@FOLLOWS_CABLE
def test_shut_at_once_when_the_cable_is_pulled(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("home")
    laptop.ifup("eth0")
    assert find_expiry(laptop) > 0
    lab.unplug()
    wait_until(lambda: find_expiry(laptop) == 0, "the guard to close", 2.0)
    lab.plug("cafe")
    wait_for_tunnel(lab)
    assert read_guard(lab) == "closed" and not reaches_internet(laptop)
    lab.unplug()
    # If the carrier is back at once, dhcpcd may not notice that it was gone, and keeps its address.
    wait_until(lambda: not laptop.has_carrier("eth0"), "the carrier to be gone")
    lab.plug("office")
    wait_for_guard(lab, "open")
    assert laptop.pings(OFFICE.router)
    wait_for_no_tunnel(lab)


@ONE_CLIENT
def test_at_ifdown_it_shuts_before_the_events_and_the_tunnel_ends_last(lab: Lab) -> None:
    laptop = lab.laptop
    # Does the internet answer, is there an OpenVPN?
    write_event_script(laptop, f"ping -c1 -W1 {INTERNET_HOST}", "pgrep -x openvpn")
    configure(lab, "vpn openvpn corp", UNLESS, HINTS)
    lab.plug("home")
    laptop.ifup("eth0")
    wait_for_tunnel(lab)

    def read_events() -> list[str]:
        return laptop.run(["cat", "/run/events"], check=False).stdout.splitlines()

    wait_until(lambda: len(read_events()) == 2, "the events of ifup to be told", 30)
    laptop.run(["rm", "-f", "/run/events"])
    laptop.ifdown("eth0")
    wait_for_no_tunnel(lab)
    wait_until(lambda: len(read_events()) == 2, "the events of ifdown to be told", 30)
    assert read_events() == ["inet-disconnected no yes", "home-lan-disconnected no yes"]


@ONE_CLIENT
def test_at_ifup_events_come_when_it_is_open(lab: Lab) -> None:
    laptop = lab.laptop
    write_event_script(laptop, f"ping -c1 -W1 {INTERNET_HOST}")
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("home")
    laptop.ifup("eth0")
    # The watcher may be the one that runs the scripts, and the hook then does not wait for it.
    noted = ["sh", "-c", "cat /run/events || true"]
    wait_until(lambda: laptop.run(noted).stdout.count("\n") == 2, "both events to be told", 30)
    assert laptop.read("/run/events").splitlines() == ["home-lan-connected yes", "inet-connected yes"]


# --- what leaves it closed


STATIC = "iface eth0 inet static\n    address {}/24\n    gateway {}"
# Another program's, which has its own idea of what should be up.
RAISES_AGAIN = """\
#!/bin/sh
[ "$IFACE" != eth0 ] || ip link set eth0 up && ip addr replace 192.168.3.77/24 dev eth0
"""


@ONE_CLIENT
def test_as_long_as_a_link_stays_up_after_ifdown_it_stands(lab: Lab) -> None:
    laptop = lab.laptop
    other = "/etc/network/if-post-down.d/another"
    laptop.write(other, RAISES_AGAIN, 0o755)
    configure(lab, CORP, UNLESS, HINTS, head=STATIC.format("192.168.3.77", CAFE.router))
    lab.plug("cafe")
    laptop.ifup("eth0")
    with call_in(lab.network.namespace("cafe"), lambda: socket.create_server((CAFE.router, 80))):
        laptop.run(["netconf-hooks", "portal", "eth0"], env={"SUDO_UID": "1000"})
        assert connects_as(laptop, 1000, CAFE.router, 80)
        laptop.ifdown("eth0")
        assert not connects_as(laptop, 1000, CAFE.router, 80), "ifdown ends the visit to a portal, too"
    assert read_guard(lab) == "closed" and not laptop.pings(CAFE.router)
    assert "still closed, since ifdown left the link up" in laptop.log()
    laptop.run(["ip", "addr", "flush", "dev", "eth0"])
    laptop.ifup("eth0")
    assert read_guard(lab) == "closed" and not laptop.pings(CAFE.router)
    laptop.run(["rm", other])
    laptop.ifdown("eth0")
    assert list_ruleset(laptop) == "" and find_records(lab) == []


@ONE_CLIENT
def test_a_missing_lease_leaves_it_closed(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    if laptop.dhcp_client == "dhclient":
        laptop.write("/etc/dhcp/dhclient.conf", "timeout 1;\n")
    else:
        laptop.append("/etc/dhcpcd.conf", "timeout 1\n")
    lab.network.run("home", ["kill", lab.network.read("/run/dnsmasq-home.pid").strip()])
    lab.plug("home")
    laptop.ifup("eth0", check=False)
    laptop.run(["ip", "addr", "add", "192.168.1.77/24", "dev", "eth0"])
    assert read_guard(lab) == "closed" and not laptop.pings(HOME.router)
    laptop.run(["netconf-hooks", "release", "eth0"])
    assert laptop.pings(HOME.router), "it was the guard"


@ONE_CLIENT
def test_an_ifup_that_fails_leaves_it_closed(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS, head=STATIC.format("192.168.1.77", HOME.router) + "\n    up false")
    lab.plug("home")
    assert laptop.ifup("eth0", check=False).returncode != 0
    assert read_guard(lab) == "closed" and not laptop.pings(HOME.router)
    configure(lab, CORP, UNLESS, HINTS, head=STATIC.format("192.168.1.77", HOME.router))
    laptop.run(["ip", "addr", "flush", "dev", "eth0"])
    laptop.ifup("eth0")
    assert read_guard(lab) == "open" and laptop.pings(HOME.router)
    laptop.ifdown("eth0")
    assert list_ruleset(laptop) == "" and find_records(lab) == []


@ONE_CLIENT
def test_a_pre_up_line_that_raises_the_link_is_an_error_said(lab: Lab) -> None:
    """ifupdown runs it before any hook."""
    laptop = lab.laptop
    head = STATIC.format("192.168.3.77", CAFE.router) + "\n    pre-up ip link set dev eth0 up"
    configure(lab, CORP, UNLESS, HINTS, head=head)
    lab.plug("cafe")
    assert "the link was up before it was guarded, and traffic could leave" in laptop.ifup("eth0").stderr
    assert read_guard(lab) == "closed" and not laptop.pings(CAFE.router)


@ONE_CLIENT
@pytest.mark.parametrize("rule", ["guard unles home-lan", "guard on", "guard-allow tcp/99999"])
def test_what_cannot_be_read_closes_it_and_ifup_goes_on(lab: Lab, rule: str) -> None:
    laptop = lab.laptop
    rules = (CORP, HINTS, rule) if rule.startswith("guard ") else (CORP, HINTS, UNLESS, rule)
    configure(lab, *rules)
    lab.plug("home")
    ifup = laptop.ifup("eth0")
    assert f'netconf-{rule.partition(" ")[0]} "' in ifup.stderr
    if rule.startswith("guard "):
        assert read_guard(lab) == "closed" and not laptop.pings(HOME.router)
    else:
        assert read_guard(lab) == "open"  # only that word lets nothing through
    assert "192.168.1." in laptop.run(["ip", "-br", "address"]).stdout
    laptop.ifdown("eth0")
    assert list_ruleset(laptop) == ""


REFUSED = {
    "ppp": ("ppp0", "iface ppp0 inet ppp\n    provider nobody\n", "does not exist before it is connected"),
    "a wish": ("corp", "iface corp inet manual\n    netconf-uplink eth0\n", "has no link of its own"),
    "an odd name": ("lan{0}", "iface lan{0} inet manual\n", "can't be guarded"),
}


@ONE_CLIENT
@pytest.mark.parametrize(("iface", "stanza", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_guarded_is_refused(lab: Lab, iface: str, stanza: str, reason: str) -> None:
    laptop = lab.laptop
    rules = "    netconf-vpn openvpn corp\n    netconf-guard yes\n"
    laptop.write("/etc/network/interfaces", stanza + rules)
    laptop.run(["ip", "link", "add", "lan{0}", "type", "bridge"])
    ifup = laptop.ifup(iface, check=False)
    assert ifup.returncode != 0
    assert f'{iface}: netconf-guard "yes": no guard can be put up, so it stays down: ' in ifup.stderr
    assert reason in ifup.stderr
    assert laptop.run(["ifquery", "--state", iface], check=False).stdout == ""
    assert "UP" not in laptop.run(["ip", "-br", "link", "show", "lan{0}"]).stdout.split()[1]
    assert list_ruleset(laptop) == ""


@ONE_CLIENT
def test_the_option_belongs_into_the_first_stanza(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write(
        "/etc/network/interfaces",
        "iface eth0 inet6 manual\n    pre-up ip link set dev eth0 up\n"
        + make_stanza("guard unless home-lan", HINTS),
    )
    lab.plug("cafe")
    checked = laptop.run(["netconf-hooks", "check", "eth0"], check=False)
    assert checked.returncode == 1
    assert "it is in the inet stanza, but the inet6 stanza comes up first" in checked.stdout + checked.stderr
    ifup = laptop.ifup("eth0")
    assert "the option belongs in the first stanza of eth0" in ifup.stderr
    assert read_guard(lab) == "closed" and not laptop.pings(CAFE.router)


@ONE_CLIENT
def test_it_holds_for_all_address_families_and_goes_with_the_last(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.write(
        "/etc/network/interfaces",
        make_stanza("guard unless home-lan", HINTS)
        + f"iface eth0 inet6 static\n    address {CAFE.prefix6}77/64\n    dad-attempts 0\n",
    )
    lab.plug("cafe")
    laptop.ifup("eth0")
    assert not laptop.pings(f"{CAFE.prefix6}1") and not laptop.pings(CAFE.router)
    laptop.run(["netconf-hooks", "release", "eth0"])
    assert laptop.pings(f"{CAFE.prefix6}1") and laptop.pings(CAFE.router)
    laptop.ifdown("eth0")
    assert list_ruleset(laptop) == "" and find_records(lab) == []


@ONE_CLIENT
def test_an_alias_is_guarded_by_its_device(lab: Lab) -> None:
    laptop = lab.laptop
    alias = make_stanza("guard unless home-lan", HINTS, head="iface eth0:1 inet static\n    address 192.168.3.77/24")
    laptop.write("/etc/network/interfaces", make_stanza("guard unless home-lan", HINTS) + alias)
    lab.plug("cafe")
    laptop.ifup("eth0", "eth0:1")
    assert list(read_status(lab)["guards"]) == ["eth0"]
    assert not laptop.pings(CAFE.router)
    laptop.ifdown("eth0:1")
    assert read_guard(lab) == "closed" and not laptop.pings(CAFE.router)
    laptop.ifdown("eth0")
    assert list_ruleset(laptop) == "" and find_records(lab) == []


# --- the ways out


@ONE_CLIENT
def test_a_captive_portal_is_let_through_for_a_time(lab: Lab) -> None:
    """Also where everything of ours is dead meanwhile: the kernel closes it."""
    laptop = lab.laptop
    configure(lab, "guard unless home-lan", HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    visitor = 1000
    with call_in(lab.network.namespace("cafe"), lambda: socket.create_server((CAFE.router, 80))):
        assert not connects_as(laptop, visitor, CAFE.router, 80)
        said = laptop.run(["netconf-hooks", "portal", "eth0", "--for", "6s"], env={"SUDO_UID": str(visitor)}).stdout
        assert said == "eth0: for 6 s http, https and DNS pass for the user with uid 1000\n"
        assert connects_as(laptop, visitor, CAFE.router, 80)
        assert connects_as(laptop, visitor, CAFE.router, 53), "and the link's own name server"
        assert not connects_as(laptop, NOBODY, CAFE.router, 80)
        assert not connects_as(laptop, 0, CAFE.router, 80)
        assert not reaches_internet(laptop)
        assert 0 < read_status(lab)["guards"]["eth0"]["portal"] <= 6
        assert "a captive portal may be visited for another" in laptop.run(["netconf-hooks", "status"]).stdout
        stop_watcher(lab)
        wait_until(lambda: not connects_as(laptop, visitor, CAFE.router, 80), "the kernel to close it")
        assert find_expiry(laptop, "portal") == 0
    assert read_status(lab)["guards"]["eth0"]["portal"] == 0


@ONE_CLIENT
def test_the_portal_that_the_network_announces(lab: Lab) -> None:
    """On a port of its own, at the router; names by a dnsmasq of this machine's, under its own user."""
    laptop = lab.laptop
    visitor, uri = 1000, "http://portal.example:8880/guest"
    lab.network.change_dhcp("cafe", f"--dhcp-option=114,{uri}", f"--address=/portal.example/{CAFE.router}")
    laptop.ask_for_portal()
    configure(lab, "guard unless home-lan", HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    laptop.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    forward = ["--conf-file=/dev/null", "--no-hosts", "--no-resolv", f"--server={CAFE.router}", "--cache-size=0"]
    places = ["--listen-address=127.0.0.1", "--bind-interfaces", "--user=nobody", "--pid-file=/run/dnsmasq.pid"]
    laptop.run(["dnsmasq", *forward, *places])
    with call_in(lab.network.namespace("cafe"), lambda: socket.create_server((CAFE.router, 8880))):
        assert not connects_as(laptop, visitor, CAFE.router, 8880), "what is announced opens nothing"
        said = laptop.run(["netconf-hooks", "portal", "eth0"], env={"SUDO_UID": str(visitor)}).stdout
        assert f"eth0: the network announces a captive portal: open {uri}\n" in said
        assert connects_as(laptop, visitor, CAFE.router, 8880)
        assert connects_as(laptop, visitor, "portal.example", 8880), "by its name"
        assert not connects_as(laptop, 1001, CAFE.router, 8880)
    assert not reaches_internet(laptop) and read_guard(lab) == "closed"


@ONE_CLIENT
@pytest.mark.parametrize("command", ["portal", "release"])
def test_the_ways_out_of_what_is_not_guarded(lab: Lab, command: str) -> None:
    laptop = lab.laptop
    configure(lab, CORP)
    lab.plug("cafe")
    laptop.ifup("eth0")
    result = laptop.run(["netconf-hooks", command, "eth0"], check=False)
    assert result.returncode == 1 and "has no guard" in result.stderr
    user = ["setpriv", f"--reuid={NOBODY}", "--clear-groups"]
    result = laptop.run([*user, "netconf-hooks", command, "eth0"], check=False)
    assert result.returncode == 1 and "only root" in result.stderr


@ONE_CLIENT
def test_released_until_the_next_ifup(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    assert not laptop.pings(CAFE.router)
    said = laptop.run(["netconf-hooks", "release", "eth0"]).stdout
    assert said == "eth0: released: anything may leave, unencrypted, until the next ifup\n"
    assert laptop.pings(CAFE.router) and list_ruleset(laptop) == ""
    assert read_status(lab)["interfaces"]["eth0"]["guard"] == "released"
    assert "guard of eth0 released" in " ".join(laptop.run(["netconf-hooks", "status"]).stdout.split())
    assert "warning netconf-hooks" in laptop.log() and "netconf-guard: released" in laptop.log()
    # Whatever is decided anew, and whoever closes everything.
    laptop.run(["netconf-hooks", "refresh"])
    laptop.run(["netconf-hooks", "close"])
    assert laptop.pings(CAFE.router) and read_guard(lab) == "released"
    laptop.ifdown("eth0")
    laptop.ifup("eth0")
    assert read_guard(lab) == "closed" and not laptop.pings(CAFE.router)
    laptop.ifdown("eth0")
    assert list_ruleset(laptop) == "" and find_records(lab) == []


@ONE_CLIENT
def test_before_sleep_it_closes_and_after_it_is_decided_afresh(lab: Lab) -> None:
    """The hook as systemd-sleep(8) runs it."""
    laptop = lab.laptop
    hook = "/usr/lib/systemd/system-sleep/netconf-hooks"
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("home")
    laptop.ifup("eth0")
    wait_for_guard(lab, "open")
    # Frozen as every process is while the machine sleeps: what opens the guard again is the hook.
    laptop.run(["kill", "-STOP", str(wait_for_watcher(lab))])
    laptop.run([hook, "pre", "suspend"])
    assert read_guard(lab) == "closed" and find_expiry(laptop) == 0
    assert not laptop.pings(HOME.router)
    laptop.run([hook, "post", "suspend"])
    assert read_guard(lab) == "open" and laptop.pings(HOME.router)


@ONE_CLIENT
def test_removing_the_package_releases_it_and_purging_leaves_nothing(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    assert not laptop.pings(CAFE.router)
    laptop.run(["dpkg", "--remove", "netconf-hooks"])
    assert list_ruleset(laptop) == "" and laptop.pings(CAFE.router)
    laptop.run(["dpkg", "--purge", "netconf-hooks"])
    assert not laptop.exists("/run/netconf-hooks")
    assert "netconf-hooks" not in laptop.read("/etc/hosts")


# --- put back


@ONE_CLIENT
@pytest.mark.parametrize("site", ["home", "cafe"])
def test_flushed_by_somebody_it_is_put_back(lab: Lab, site: str) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug(site)
    laptop.ifup("eth0")
    laptop.run(["nft", "flush", "ruleset"])
    wait_until(lambda: all(f"table {table}" in list_ruleset(laptop) for table in TABLES), "the guard to be put back")
    assert "somebody removed it" in laptop.log()
    if site == "home":
        wait_for_guard(lab, "open")
        assert reaches_internet(laptop)
    else:
        wait_for_tunnel(lab)
        assert not reaches_internet(laptop)


@ONE_CLIENT
def test_a_link_that_is_open_closes_within_its_lease_when_the_watcher_is_dead(lab: Lab) -> None:
    """What shows that it does is the kernel's clock; that it really ends is for `attacks`."""
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("home")
    laptop.ifup("eth0")
    stop_watcher(lab)
    before = find_expiry(laptop)
    assert 0 < before <= 30
    wait_until(lambda: find_expiry(laptop) < before - 1, "time to pass")
    assert "oifname @open-eth0 jump open-eth0" in list_ruleset(laptop)


# --- where it can't be put up, or does not hold everything


@ONE_CLIENT
def test_without_a_firewall_ifup_refuses(lab: Lab) -> None:
    laptop = lab.laptop
    laptop.run(["sh", "-ec", "rm /usr/lib/*/libnftables.so.1* /usr/sbin/iptables-restore"])
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("home")
    ifup = laptop.ifup("eth0", check=False)
    assert ifup.returncode != 0
    assert "no guard can be put up, so it stays down: nftables: libnftables.so.1 can't be used" in ifup.stderr
    assert "iptables: /usr/sbin/iptables-restore is missing" in ifup.stderr
    assert laptop.run(["ifquery", "--state", "eth0"], check=False).stdout == ""
    assert "192.168." not in laptop.run(["ip", "-br", "address"]).stdout and not laptop.has_carrier("eth0")
    assert "so ifup will refuse" in laptop.run(["netconf-hooks", "check", "eth0"], check=False).stdout
    configure(lab, CORP, HINTS)
    laptop.ifup("eth0")
    assert reaches_internet(laptop)


def list_mangle(laptop: Laptop, variant: str) -> str:
    """Return the rules of the tables mangle, of both families, in which the guard by iptables stands."""
    programs = (f"{program}-{variant}" for program in ("iptables", "ip6tables"))
    # -w: the watcher may be writing at this moment.
    return "".join(laptop.run([program, "-w", "-t", "mangle", "-S"]).stdout for program in programs)


@ONE_CLIENT
@pytest.mark.parametrize("reader", ["python-iptables", "iptables-save"])
def test_a_legacy_guard_that_no_record_knows_is_reported(lab: Lab, reader: str) -> None:
    laptop = lab.laptop
    configure(lab, "guard yes", locations="")
    if reader == "iptables-save":
        laptop.run(["mount", "--bind", "/dev/null", "/usr/lib/python3/dist-packages/iptc/__init__.py"])

    def is_reported() -> tuple[bool, bool]:
        status = laptop.run(["netconf-hooks", "status"]).stdout
        checked = laptop.run(["netconf-hooks", "check", "eth0"]).stdout
        return "in the tables of iptables-legacy: no record" in status, "is also in the tables of" in checked

    assert is_reported() == (False, False)
    laptop.run(["ip6tables-legacy", "-t", "mangle", "-N", "nch-eth0"])
    assert is_reported() == (True, True)
    laptop.run(["ip6tables-legacy", "-t", "mangle", "-X", "nch-eth0"])
    assert is_reported() == (False, False)


@ONE_CLIENT
@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_with_iptables_instead(lab: Lab, variant: str) -> None:
    laptop = lab.laptop
    laptop.choose_iptables(variant)
    configure(lab, CORP, UNLESS, HINTS, "guard-backend iptables")
    checked = laptop.run(["netconf-hooks", "check", "eth0"]).stdout
    assert "no egress chain" in checked and "no rules for bridges" in checked
    assert ("it is noticed seconds later" in checked) == (variant == "legacy")
    before = list_mangle(laptop, variant)
    lab.plug("cafe")
    with Capture(lab.network.wire_namespace) as capture:
        laptop.ifup("eth0")
        assert read_status(lab)["guards"]["eth0"]["backend"] == f"iptables-{variant}"
        wait_for_tunnel(lab)
        send_everything(laptop, CAFE)
        judge(capture, make_allowed(CAFE))
        laptop.ifdown("eth0")
        judge(capture, make_allowed(CAFE))
    lab.plug("home")
    laptop.ifup("eth0")
    assert read_guard(lab) == "open" and reaches_internet(laptop)
    assert "--datestop" in list_mangle(laptop, variant)
    laptop.ifdown("eth0")
    assert list_mangle(laptop, variant) == before
    assert "netconf" not in list_ruleset(laptop) and find_records(lab) == []


# Of the table mangle; the filter's is no part of the guard.
FLUSHES = {
    "emptied": "iptables{variant} -t mangle -F; ip6tables{variant} -t mangle -F",
    "replaced": "printf '*mangle\\nCOMMIT\\n' | iptables{variant}-restore",
    "overtaken": "ip6tables{variant} -t mangle -I POSTROUTING -j ACCEPT",
}


@ONE_CLIENT
@pytest.mark.parametrize("flush", FLUSHES)
@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_iptables_flushed_by_somebody_it_is_put_back(lab: Lab, variant: str, flush: str) -> None:
    """The kernel tells the watcher if it is the nft variant; else the watcher looks every 10 seconds."""
    laptop = lab.laptop
    laptop.choose_iptables(variant)
    configure(lab, "guard yes", "guard-backend iptables", locations="")
    lab.plug("cafe")
    laptop.ifup("eth0")
    wait_for_watcher(lab)
    laptop.run(["iptables", "-F"])

    def is_put_back() -> bool:
        families = list_mangle(laptop, variant).split("-P PREROUTING")
        hooks = [[rule for rule in rules.splitlines() if rule.startswith("-A POSTROUTING")] for rules in families[1:]]
        return [rules[:1] for rules in hooks] == [["-A POSTROUTING -o eth0 -j nchw-open-eth0"]] * 2

    assert is_put_back()
    laptop.run(["sh", "-c", FLUSHES[flush].format(variant=f"-{variant}")])
    wait_until(is_put_back, "the guard to be put back", 9 if variant == "nft" else 10 + 9)
    wait_until(lambda: "somebody removed it" in laptop.log(), "the log to say so")


@ONE_CLIENT
def test_another_iptables_is_chosen_while_the_guard_stands(lab: Lab) -> None:
    """The record keeps in which tables it stands: it is shut and lifted there, and the next ifup takes the others."""
    laptop = lab.laptop
    laptop.choose_iptables("legacy")
    configure(lab, CORP, UNLESS, HINTS, "guard-backend iptables")
    before = {variant: list_mangle(laptop, variant) for variant in ("legacy", "nft")}
    lab.plug("home")
    laptop.ifup("eth0")
    assert read_guard(lab) == "open"
    laptop.choose_iptables("nft")
    laptop.run(["netconf-hooks", "close"])
    assert "--datestop" not in list_mangle(laptop, "legacy") and "nch-eth0" in list_mangle(laptop, "legacy")
    assert list_mangle(laptop, "nft") == before["nft"]
    laptop.ifup("--force", "eth0")
    assert read_status(lab)["guards"]["eth0"]["backend"] == "iptables-nft"
    assert "nch-eth0" in list_mangle(laptop, "nft")
    assert list_mangle(laptop, "legacy") == before["legacy"]
    laptop.choose_iptables("legacy")
    laptop.ifdown("eth0")
    assert {variant: list_mangle(laptop, variant) for variant in ("legacy", "nft")} == before


@ONE_CLIENT
def test_bridges_and_children_are_reported(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, "guard yes", locations="")

    def check() -> str:
        return laptop.run(["netconf-hooks", "check", "eth0"]).stdout

    assert " mv0" not in check() and "br0" not in check()
    laptop.run(["ip", "link", "add", "link", "eth0", "name", "mv0", "type", "macvlan"])
    assert "eth0 carries mv0: what mv0 sends over it is dropped with everything else" in check()
    laptop.run(["ip", "link", "del", "mv0"])
    laptop.run(["ip", "link", "add", "br0", "type", "bridge"])
    laptop.run(["ip", "link", "set", "eth0", "master", "br0"])
    assert "eth0 is a port of br0" in check()


@ONE_CLIENT
def test_a_renamed_link_is_reported(lab: Lab) -> None:
    """The firewall knows names: an honest limit."""
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    laptop.run(["ip", "link", "set", "eth0", "name", "lan9"])
    said = "eth0 is called lan9 now: the guard does not match it any more"
    wait_until(lambda: said in laptop.log(), "the watcher to report it")
    assert said in laptop.run(["netconf-hooks", "status"]).stdout
    laptop.run(["netconf-hooks", "refresh"])
    assert laptop.log().count(said) == 1, "once"


@ONE_CLIENT
def test_the_rules_taken_out_of_the_stanza_take_it_away_at_the_next_ifup(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    assert not laptop.pings(CAFE.router)
    configure(lab, CORP)
    laptop.ifup("--force", "eth0")
    assert laptop.pings(CAFE.router) and list_ruleset(laptop) == ""
    laptop.ifdown("eth0")
    assert find_records(lab) == []


@ONE_CLIENT
def test_ifup_force_keeps_the_tunnel_and_the_guard(lab: Lab) -> None:
    laptop = lab.laptop
    configure(lab, CORP, UNLESS, HINTS)
    lab.plug("cafe")
    laptop.ifup("eth0")
    pid = wait_for_tunnel(lab)
    laptop.ifup("--force", "eth0")
    assert wait_for_tunnel(lab) == pid
    assert read_guard(lab) == "closed" and not laptop.pings(CAFE.router)
