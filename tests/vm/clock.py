"""Runs in a machine with Debian's own kernel: the clock is really set, back and forth, while something is let through.

No other test can: there is one wall clock for all namespaces.  Times are measured by the clock that nobody can set.
The checks are one story and run in their order.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.lab.attacks.capture import Allowed, Capture, find_leaks
from tests.lab.attacks.traffic import Job, mark_data
from tests.lab.closing import Closing
from tests.lab.network import CAFE, INTERNET_HOST, OFFICE, Network, Site
from tests.lab.waiting import wait_until
from tests.vm.checks import Check, run_checks
from tests.vm.guard import LEASE, Sender, step_clock
from tests.vm.guest import PATIENT, Guest

WATCHER = "netconf-hooks-watch.service"
HOUR = 3600.0
PASS = 90.0  # seconds for which a portal may be visited
SLACK = 2.0  # iptables' time match knows whole seconds, and nothing here is exact

NAMES = 30.0  # seconds for which a daemon may resolve its server's name by itself (guard.endpoints.NAMES_TIME)

PORTAL, OTHER, DNS = "root/tcp4/portal", "root/udp4/beyond", "root/udp4/dns"
SERVER = "vpn.example.net"
ASKED = Allowed(resolvers=frozenset({CAFE.router}), names=frozenset({SERVER}))  # our own queries
TUNNEL = f"    dns-nameservers {CAFE.router}\n    netconf-vpn openvpn corp\n"


class Watched(Guest, Closing):
    """The laptop, which sends all the time, with somebody looking at its cable; until `close`."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        with contextlib.ExitStack() as undo:
            self.capture = undo.enter_context(Capture(network.wire_namespace))
            self.sender = undo.enter_context(Sender("root", 0, [
                Job(PORTAL, "tcp", INTERNET_HOST, 80),
                Job(OTHER, "udp", INTERNET_HOST, 9, data=mark_data(OTHER)),
                Job(DNS, "udp", CAFE.router, 53, data=mark_data(DNS)),
            ]))
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Let nobody send any more, and look away."""
        self._undo.close()

    def write_stanza(self, site: Site, backend: str, more: str = "") -> None:
        """Write the laptop's rules, with more lines.  A static address: a DHCP client's lease would end with the clock.
        """
        stanza = (
            f"iface eth0 inet static\n    address 192.168.{site.number}.50/24\n    gateway {site.router}\n"
            f"    netconf-location office-lan gateway-mac={OFFICE.router_mac}\n    netconf-trust hints\n"
            f"    netconf-guard unless office-lan\n    netconf-guard-backend {backend}\n{more}"
        )
        self.write("/etc/network/interfaces", f"auto lo\niface lo inet loopback\n\n{stanza}")

    def begin(self, site: Site, backend: str, more: str = "") -> None:
        """Write the rules and arrive, whatever an earlier check has left."""
        self.run(["ifdown", "--force", "eth0"], check=False)  # not known at all yet, or down
        self.write_stanza(site, backend, more)
        self.arrive(site.name)

    def look(self) -> set[str]:
        """Return what had no business on the wire since the last look, by its kind; everybody has sent meanwhile."""
        until = self.sender.count_rounds() + 2
        wait_until(lambda: self.sender.count_rounds() >= until, "the sender", PATIENT)
        return self.collect()

    def collect(self) -> set[str]:
        """Return what has come since the last look."""
        return {leak.kind or leak.summary for leak in find_leaks(self.capture.read(), ASKED, {80: PORTAL})}

    def read_guard(self) -> object:
        """Return what ``netconf-hooks status`` calls the guard of eth0."""
        return json.loads(self.run(["netconf-hooks", "status", "--json"]).stdout)["guards"]["eth0"]["state"]

    def find_watcher(self) -> int:
        """Wait until the watcher runs and sleeps, and return its pid."""
        def find_sleeping() -> int:
            pid = int(self.run(["systemctl", "show", "--property=MainPID", "--value", WATCHER]).stdout)
            return pid if pid and "poll" in Path(f"/proc/{pid}/wchan").read_text() else 0

        return wait_until(find_sleeping, "the watcher to sleep", PATIENT)

    def count_log(self, text: str) -> int:
        """Return how many lines of our log have `text` in them."""
        return self.run(["journalctl", "-t", "netconf-hooks", "-o", "cat"], check=False).stdout.count(text)


@contextlib.contextmanager
def clock(guest: Watched) -> Iterator[Callable[[float], None]]:
    """Yield a function that sets the clock by so many seconds; in the end it is right again, and the watcher is the
    same process."""
    watcher = guest.find_watcher()
    stepped = 0.0

    def step(seconds: float) -> None:
        nonlocal stepped
        stepped += seconds
        step_clock(seconds)

    try:
        yield step
    finally:
        step_clock(-stepped)
    assert guest.find_watcher() == watcher, "the watcher has not survived it"


def watch_until_it_ends(guest: Watched, kind: str, end: float) -> float:
    """Return after when, time.monotonic(), the last packet of a kind left; it is looked for until after `end`.

    Nothing else leaves meanwhile.
    """
    last = 0.0
    while True:
        before = time.monotonic()
        kinds = guest.look()
        assert kinds <= {kind}, kinds
        if kind in kinds:
            last = before
        elif before > end + 5 * SLACK:
            return last


def visit_a_portal_while_the_clock_is_set(guest: Watched, backend: str) -> None:
    """Visit it, and see for how long it can be visited."""
    guest.begin(CAFE, backend)
    assert guest.read_guard() == "closed"
    guest.collect()
    assert (kinds := guest.look()) == set(), kinds
    with clock(guest) as step:
        guest.run(["netconf-hooks", "portal", "eth0", "--for", f"{PASS:g}s"])
        granted = time.monotonic()
        guest.collect()
        assert (kinds := guest.look()) == {PORTAL}, kinds
        step(-HOUR)
        guest.collect()
        # What is left of the time is left by the clock that nobody can set.
        wait_until(lambda: PORTAL in guest.look(), "the portal to be let through by the new time", PASS / 2)
        for _ in range(5):
            step(2 * HOUR)
            step(-2 * HOUR)
        last = watch_until_it_ends(guest, PORTAL, granted + PASS)
        print(f"# {backend}: the last packet left {last - granted:.1f} s after {PASS:g} s were granted")
        assert last <= granted + PASS + SLACK
    # Nor does it come back with the right time.
    guest.collect()
    assert (kinds := guest.look()) == set(), kinds
    guest.leave()


def resolve_a_name_while_the_clock_is_set(guest: Watched, backend: str) -> None:
    """Be where the daemon may ask for its server, and see for how long it may."""
    guest.write("/etc/openvpn/client/corp.conf", f"client\ndev tun\nremote {SERVER} 1194 udp\n")
    for options in (["--bind", "/etc/hosts"], ["-o", "remount,bind,ro"]):
        guest.run(["mount", *options, "/etc/hosts"])
    try:
        said = guest.count_log("DNS is allowed for the daemons")
        guest.begin(CAFE, backend, TUNNEL)
        wait_until(lambda: DNS in guest.look(), "the daemon to be allowed to ask", NAMES)
        granted = time.monotonic()
        with clock(guest) as step:
            for _ in range(5):
                step(-HOUR)
                step(2 * HOUR)
                step(-2 * HOUR)
                step(HOUR)
            step(-HOUR)
            last = watch_until_it_ends(guest, DNS, granted + NAMES)
            print(f"# {backend}: the last query left {last - granted:.1f} s after the first was seen")
            assert last <= granted + NAMES + SLACK
        guest.collect()
        assert (kinds := guest.look()) == set(), kinds
        assert guest.count_log("DNS is allowed for the daemons") == said + 1
        guest.leave()
    finally:
        guest.run(["umount", "/etc/hosts"])


def end_an_open_guard_by_the_clock(guest: Watched, backend: str) -> None:
    """Be in the office, and set the clock, far and little, back and forth."""
    guest.begin(OFFICE, backend)
    wait_until(lambda: guest.read_guard() == "open", "the guard to open", PATIENT)
    for seconds in (-HOUR, 2 * HOUR, -LEASE):
        with clock(guest) as step:
            said = guest.count_log("closed: the clock was set")
            step(seconds)
            wait_until(lambda: guest.count_log("closed: the clock was set") > said, "it to be shut", PATIENT)
            wait_until(lambda: guest.read_guard() == "open", "the guard to open again", PATIENT)
        wait_until(lambda: guest.read_guard() == "open", "the guard to open by the right time", PATIENT)
    guest.collect()
    assert guest.look() >= {PORTAL, OTHER}
    guest.leave()


def a_portal_with_nftables(guest: Watched) -> None:
    visit_a_portal_while_the_clock_is_set(guest, "nftables")


def an_open_guard_with_nftables(guest: Watched) -> None:
    end_an_open_guard_by_the_clock(guest, "nftables")


def a_name_with_nftables(guest: Watched) -> None:
    resolve_a_name_while_the_clock_is_set(guest, "nftables")


def a_name_with_iptables(guest: Watched) -> None:
    resolve_a_name_while_the_clock_is_set(guest, "iptables")


def a_portal_with_iptables(guest: Watched) -> None:
    visit_a_portal_while_the_clock_is_set(guest, "iptables")


def an_open_guard_with_iptables(guest: Watched) -> None:
    end_an_open_guard_by_the_clock(guest, "iptables")


CHECKS: list[Check[Watched]] = [
    a_portal_with_nftables,
    an_open_guard_with_nftables,
    a_name_with_nftables,
    a_portal_with_iptables,
    an_open_guard_with_iptables,
    a_name_with_iptables,
]


def main() -> int:
    """Run all checks in this machine, and return whether all went well."""
    with Network((CAFE, OFFICE), ("eth0",)) as network, Watched(network) as guest:
        return run_checks(CHECKS, guest)


if __name__ == "__main__":
    sys.exit(main())
