"""What the router observer makes of the kernel's answers."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import netifaces
import pytest

from netconf_hooks.evidence import Link, dhclient, router
from netconf_hooks.observation import Answer
from netconf_hooks.system.netlink import AF_INET, AF_INET6, DefaultRoute, LinkStatus, Neighbour, NetlinkError

ROUTER = "192.168.7.1"
ROUTER6 = "fe80::a"
MAC = "02:00:00:00:00:0a"
SECOND_MAC = "02:00:00:00:00:0b"
LINK = Link("eth0:1", "eth0", 2, True, {})
KEYS = ("gateway", "gateway-mac")

REACHABLE, INCOMPLETE = 0x02, 0x01
UP, NOARP = 0x11043, 0x80


class Tables:
    """Stands in for `Netlink`: what the kernel knows, and which neighbours answer when asked."""

    def __init__(self) -> None:
        self.routes: dict[int, DefaultRoute] = {}
        self.known: dict[str, str] = {}
        self.answering: dict[str, str] = {}
        self.link: LinkStatus | None = LinkStatus(2, "eth0", UP, True, True, "")
        self.patience: list[float] = []
        self.refused = ""
        self.unprivileged = False
        self.confirming: dict[str, str] = {}
        self.asked: list[tuple[str, ...]] = []
        self.on_link: set[str] = set()

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _refuse(self, what: str) -> None:
        if self.refused == what:
            raise NetlinkError(errno.ENOBUFS)

    def get_default_route(self, index: int, family: int) -> DefaultRoute | None:
        assert index == 2
        self._refuse("route")
        return self.routes.get(family)

    def has_default_route(self, index: int) -> bool:
        return bool(self.routes)

    def get_link(self, index: int) -> LinkStatus | None:
        assert index == 2
        return self.link

    def is_on_link(self, index: int, address: str) -> bool:
        assert index == 2
        return address in self.on_link

    def get_known_neighbours(self, index: int, addresses: tuple[str, ...]) -> dict[str, Neighbour]:
        self._refuse("neighbour")
        return {each: Neighbour(index, each, REACHABLE, self.known[each]) for each in addresses if each in self.known}

    def confirm_neighbours(self, index: int, addresses: tuple[str, ...], deadline: float) -> dict[str, Neighbour]:
        """Only some of those that are known are there still."""
        self.asked.append(tuple(addresses))
        return {each: Neighbour(index, each, REACHABLE, mac) for each, mac in self.confirming.items()}

    def resolve_neighbours(self, index: int, addresses: tuple[str, ...], deadline: float) -> dict[str, Neighbour]:
        """Answers as if no time passed; what does not answer is waited for on a clock that the test sets forward."""
        self.patience.append(deadline - time.monotonic())
        if not self.unprivileged and deadline > time.monotonic():
            self.known |= self.answering
        found = self.get_known_neighbours(index, addresses)
        if len(found) < len(addresses) and not self.unprivileged:
            Clock.now = min(deadline, Clock.now + 1.5)
        return found


class Clock:
    now = 100.0


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tables:
    tables = Tables()
    monkeypatch.setattr(router, "Netlink", lambda: tables)
    monkeypatch.setattr(dhclient, "LEASES", str(tmp_path))
    monkeypatch.setattr(Clock, "now", 100.0)
    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return tables


def test_a_link_that_does_not_exist(tables: Tables) -> None:
    nothing = Answer(problem="no such interface")
    assert router.observe(KEYS, Link("eth9", "eth9", 0, False, {}), 200.0) == {key: nothing for key in KEYS}


def test_the_kernel_can_not_be_asked(tables: Tables) -> None:
    tables.refused = "route"
    answers = router.observe(KEYS, LINK, 200.0)
    assert [answers[key].pending for key in KEYS] == [True, True]
    assert answers["gateway"].problem == "the kernel's tables could not be read: No buffer space available"


def test_a_router_is_told_though_its_neighbour_can_not_be_asked_for(tables: Tables) -> None:
    tables.routes = {AF_INET: DefaultRoute((ROUTER,))}
    tables.refused = "neighbour"
    answers = router.observe(KEYS, LINK, 200.0)
    assert answers["gateway"] == Answer((ROUTER,))
    assert answers["gateway-mac"].pending


def test_one_router_of_both_families_has_one_mac(tables: Tables) -> None:
    tables.routes = {AF_INET: DefaultRoute((ROUTER,)), AF_INET6: DefaultRoute((ROUTER6,))}
    tables.known = {ROUTER: MAC, ROUTER6: MAC}
    assert router.observe(KEYS, LINK, 200.0) == {"gateway": Answer((ROUTER, ROUTER6)), "gateway-mac": Answer((MAC,))}
    assert tables.patience == []


def test_what_is_not_known_is_asked_for(tables: Tables) -> None:
    tables.routes = {AF_INET: DefaultRoute((ROUTER,)), AF_INET6: DefaultRoute((ROUTER6,))}
    tables.known = {ROUTER: MAC}
    tables.answering = {ROUTER6: SECOND_MAC}
    assert router.observe(KEYS, LINK, 200.0)["gateway-mac"] == Answer((MAC, SECOND_MAC))


@pytest.mark.parametrize(
    ("patience", "problem"),
    (
        (60.0, f"{ROUTER} did not answer ARP within 1.5 s"),
        (0.7, f"{ROUTER} did not answer ARP within 0.7 s"),
        (0.0, f"{ROUTER} was not asked for its MAC address: no time left"),
        (-3.0, f"{ROUTER} was not asked for its MAC address: no time left"),
    ),
)
def test_a_silent_router_is_pending(tables: Tables, patience: float, problem: str) -> None:
    tables.routes = {AF_INET: DefaultRoute((ROUTER,))}
    assert router.observe(KEYS, LINK, 100.0 + patience)["gateway-mac"] == Answer((), True, problem)


def test_a_silent_ipv6_router_beside_one_that_answered(tables: Tables) -> None:
    tables.routes = {AF_INET: DefaultRoute((ROUTER,)), AF_INET6: DefaultRoute((ROUTER6,))}
    tables.answering = {ROUTER: MAC}
    problem = f"{ROUTER6} did not answer neighbour discovery within 1.5 s"
    assert router.observe(KEYS, LINK, 200.0)["gateway-mac"] == Answer((MAC,), True, problem)


@pytest.mark.parametrize("root", [True, False])
def test_what_the_kernel_knows_of_a_bridges_router_may_be_of_another_network(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, root: bool
) -> None:
    """It forgets a card's neighbours when the cable is pulled, and keeps a bridge's."""
    bridge = Link("br0", "br0", 2, True, {}, composed=True)
    tables.routes = {AF_INET: DefaultRoute((ROUTER,)), AF_INET6: DefaultRoute((ROUTER6,))}
    tables.known = {ROUTER: MAC, ROUTER6: SECOND_MAC}
    tables.confirming = {ROUTER6: SECOND_MAC}
    monkeypatch.setattr(router.os, "geteuid", lambda: 0 if root else 1000)
    seen = router.observe(KEYS, bridge, 200.0)["gateway-mac"]
    problem = f"{ROUTER} did not answer ARP within 1 s"
    assert seen == (Answer((SECOND_MAC,), True, problem) if root else Answer((MAC, SECOND_MAC)))
    assert tables.asked == ([(ROUTER, ROUTER6)] if root else [])
    assert router.observe(KEYS, LINK, 200.0)["gateway-mac"] == Answer((MAC, SECOND_MAC)), "of a card it is believed"


def test_a_bridge_whose_cable_was_pulled_is_not_waited_for(tables: Tables) -> None:
    bridge = Link("br0", "br0", 2, False, {}, composed=True)
    tables.routes = {AF_INET: DefaultRoute((ROUTER,))}
    assert router.observe(KEYS, bridge, 200.0)["gateway-mac"] == Answer(problem=f"{ROUTER} can't be asked: no carrier")
    assert tables.patience == []


def test_without_privilege(tables: Tables) -> None:
    tables.routes = {AF_INET: DefaultRoute((ROUTER,))}
    tables.unprivileged = True
    problem = f"{ROUTER} is not known yet, and asking takes root"
    assert router.observe(KEYS, LINK, 200.0)["gateway-mac"] == Answer((), True, problem)


@pytest.mark.parametrize(
    ("link", "problem"),
    (
        (LinkStatus(2, "eth0", 0x1003, True, False, ""), f"{ROUTER} can't be asked: no carrier"),
        (LinkStatus(2, "tun0", UP | NOARP, True, True, ""), f"{ROUTER} has no MAC address"),
        (None, f"{ROUTER} can't be asked: no carrier"),
    ),
)
def test_who_can_not_answer_is_not_waited_for(tables: Tables, link: LinkStatus | None, problem: str) -> None:
    tables.routes = {AF_INET: DefaultRoute((ROUTER,))}
    tables.link = link
    assert router.observe(KEYS, LINK, 200.0)["gateway-mac"] == Answer(problem=problem)
    assert tables.patience == []


def test_routes_without_routers(tables: Tables) -> None:
    assert not router.has_default_route(LINK)
    assert router.observe(KEYS, LINK, 200.0)["gateway-mac"] == Answer(problem="no default router")
    tables.routes = {AF_INET: DefaultRoute(())}
    assert router.has_default_route(LINK)
    assert router.observe(KEYS, LINK, 200.0)["gateway-mac"] == Answer(problem="the default route has no router")


# --- the routers of a DHCP lease


def hold_lease(monkeypatch: pytest.MonkeyPatch, routers: str, *, expire: str = "never", device: str = "eth0") -> Path:
    """Let dhclient hold a lease for 192.168.7.50, which eth0 has with the prefix length 24."""
    addresses = {
        "eth0": [{"addr": "192.168.7.50", "netmask": "255.255.255.0", "broadcast": "192.168.7.255"}],
        "eth0:1": [{"addr": "10.1.2.3", "netmask": "255.255.255.252"}],
        "eth0.7": [{"addr": "10.9.0.2", "netmask": "255.255.0.0"}],
    }
    monkeypatch.setattr(netifaces, "interfaces", lambda: [*addresses, "lo"])
    monkeypatch.setattr(netifaces, "ifaddresses", lambda name: {netifaces.AF_INET: addresses[name]})
    path = Path(dhclient.LEASES) / "dhclient.eth0.leases"
    path.write_text(
        f'lease {{\n  interface "{device}";\n  fixed-address 192.168.7.50;\n  option routers {routers};\n'
        f"  expire {expire};\n}}\n"
    )
    return path


def test_where_there_is_no_default_route_the_routers_of_the_lease_count(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dhclient could not add the second uplink's: "File exists"."""
    hold_lease(monkeypatch, ROUTER)
    tables.answering = {ROUTER: MAC}
    assert router.observe(KEYS, LINK, 200.0) == {"gateway": Answer((ROUTER,)), "gateway-mac": Answer((MAC,))}
    assert not router.has_default_route(LINK)


def test_a_router_outside_of_all_prefixes_counts_if_a_route_leads_to_it(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease has the mask 255.255.255.255, as some providers' servers give out."""
    hold_lease(monkeypatch, "192.168.2.1,192.168.9.1")
    tables.on_link = {"192.168.2.1"}
    tables.answering = {"192.168.2.1": MAC}
    assert router.observe(KEYS, LINK, 200.0) == {"gateway": Answer(("192.168.2.1",)), "gateway-mac": Answer((MAC,))}


def test_a_silent_router_of_the_lease_is_pending(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_lease(monkeypatch, ROUTER)
    problem = f"{ROUTER} did not answer ARP within 1.5 s"
    assert router.observe(KEYS, LINK, 200.0)["gateway-mac"] == Answer((), True, problem)


def test_an_ipv6_default_route_does_not_replace_the_ipv4_one(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.routes = {AF_INET6: DefaultRoute((ROUTER6,))}
    hold_lease(monkeypatch, ROUTER)
    assert router.observe(("gateway",), LINK, 200.0)["gateway"] == Answer((ROUTER, ROUTER6))


@pytest.mark.parametrize("routers", [(ROUTER,), ()])
def test_where_there_is_a_default_route_no_lease_is_read(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, routers: tuple[str, ...]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the lease was read")

    monkeypatch.setattr(dhclient, "find_held_leases", refuse)
    tables.routes = {AF_INET: DefaultRoute(routers)}
    assert router.observe(("gateway",), LINK, 200.0)["gateway"].values == routers


@pytest.mark.parametrize(
    ("routers", "expected"),
    [
        ("192.168.7.1,192.168.7.2", ("192.168.7.1", "192.168.7.2")),
        # Not on the link, the second by one bit: nobody shall be asked for on a link that he is not on.
        ("10.0.0.1,192.168.6.1,192.168.7.2", ("192.168.7.2",)),
        ("8.8.8.8", ()),
        ("10.9.0.1", ()),  # on the VLAN's
        ("10.1.2.1,10.1.2.4", ("10.1.2.1",)),  # on the alias's
        ("192.168.7.50,10.1.2.3", ()),  # the link itself
        ("127.0.0.1,0.0.0.0,255.255.255.255,224.0.0.1", ()),
    ],
)
def test_only_routers_on_the_link_count(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, routers: str, expected: tuple[str, ...]
) -> None:
    hold_lease(monkeypatch, routers)
    assert router.observe(("gateway",), LINK, 200.0)["gateway"].values == expected


@pytest.mark.parametrize(
    ("expire", "device", "fixed"),
    [
        ("1 2020/01/01 00:00:00", "eth0", "192.168.7.50"),
        ("never", "wlan0", "192.168.7.50"),
        ("never", "eth0", "192.168.7.51"),
    ],
)
def test_a_lease_that_is_not_held_names_no_router(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, expire: str, device: str, fixed: str
) -> None:
    path = hold_lease(monkeypatch, ROUTER, expire=expire, device=device)
    path.write_text(path.read_text().replace("192.168.7.50", fixed))
    assert router.observe(KEYS, LINK, 200.0) == {key: Answer(problem="no default router") for key in KEYS}


def test_a_lease_that_can_not_be_read_is_told(tables: Tables) -> None:
    path = Path(dhclient.LEASES) / "dhclient.eth0.leases"
    path.mkdir()
    problem = f"no default router; {path}: Is a directory"
    assert router.observe(("gateway",), LINK, 200.0)["gateway"] == Answer(problem=problem)


def test_what_every_ifup_would_pay_for_is_not_imported() -> None:
    heavy = "netconf_hooks.evidence.dns netconf_hooks.evidence.dhclient netifaces re json typing enum subprocess socket"
    code = f"import netconf_hooks.evidence.router; print(*sorted(set(sys.modules) & set({heavy.split()!r})))"
    root = str(Path(router.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-ISc", f"import sys; sys.path.append({root!r}); {code}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
