"""A machine with guarded links: fakes of its firewalls, of the networks around it, and of what ifupdown does to it."""

import time
from itertools import count

from netconf_hooks import hook, settle
from netconf_hooks.evidence.fingerprint import Fingerprint
from netconf_hooks.evidence.names import Resolution
from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import GuardError, TokenGone, UNHOOKED, check_token
from netconf_hooks.guard.lease import Leases
from netconf_hooks.guard.records import LEASE
from netconf_hooks.observation import Answer
from netconf_hooks.stanzas.ifenv import read_environment
from netconf_hooks.state import Store
from netconf_hooks.system import log, netlink
from netconf_hooks.system.ending import Ended

ROUTER, MAC, OTHER_MAC = "192.0.2.1", "00:16:3e:11:22:33", "00:16:3e:11:22:34"
HERE = Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER,), {ROUTER: MAC})
ELSEWHERE = Fingerprint(7, True, ("192.0.2.5/24",), (ROUTER,), {ROUTER: OTHER_MAC})

GUARD = {
    "IF_NETCONF_LOCATION": f"office gateway={ROUTER}",
    "IF_NETCONF_VPN": "openvpn corp unless office",
    "IF_NETCONF_GUARD": "unless office",
    "IF_NETCONF_TRUST": "hints",
}
OFFICE = Answer((ROUTER,))


class FakeFirewall:
    """One of the machine's firewalls: what stands for each device, and what it was asked, in order.

    stands: exemptions and windows by device; tokens: of looks, by device; broken: what it fails with, if anything;
    step: called before and after anything changes; permits: whether a device may be opened by what is written
    down; unhooked: devices that have come since they were closed; judged: whether which devices stood was asked.
    """

    lacks = ()

    def __init__(self, name, journal, step):
        self.name = name
        self.has_lease = True
        self.has_news = name != "iptables-legacy"
        self.stands = {}
        self.ports = {}
        self.tokens = {}
        self.asked = []
        self.journal = journal
        self.broken = ""
        self.step = step
        self.permits = lambda device: True
        self.unhooked = set()
        self.judged = []

    def _ask(self, what):
        self.step()
        self.asked.append(what)
        self.journal.append(what)
        if self.broken:
            raise GuardError(self.broken)

    def close(self, device, exemptions, windows=(), token="", ports=None):
        self._ask(f"close {device}" + "".join(f" {window.name}" for window in windows))
        if windows:
            self._take(device, token)
        assert self.permits(device) or "open" not in [window.name for window in windows]
        self.stands[device] = (exemptions, {window.name: window for window in windows})
        self.unhooked.discard(device)
        self.ports[device] = ports
        self.step()

    def close_all(self, closings):
        """As AnyFirewall.close_all: one transaction."""
        self._ask(f"close at once {' '.join(each.device for each in closings)}")
        for each in closings:
            assert self.permits(each.device) or "open" not in [window.name for window in each.windows]
            self.stands[each.device] = (each.exemptions, {window.name: window for window in each.windows})
            self.unhooked.discard(each.device)
            self.ports[each.device] = each.ports
        self.step()

    def change_ports(self, device, ports):
        if ports != self.ports[device]:
            self._ask(f"change ports of {device}")
            self.ports[device] = ports

    def begin_look(self, device, token):
        """As AnyFirewall.begin_look."""
        check_token(token)
        if device not in self.stands:
            raise GuardError(f"{device}: not guarded")
        self.tokens.setdefault(device, set()).add(token)

    def begin_looks(self, tokens):
        """As AnyFirewall.begin_looks."""
        for device in tokens:
            if device not in self.stands:
                raise GuardError(f"{device}: not guarded")
        for device, token in tokens.items():
            self.begin_look(device, token)

    def _take(self, device, token):
        """Remove the token of a look, or fail."""
        if token:
            check_token(token)
        if token not in self.tokens.get(device, ()):
            raise TokenGone(device)
        self.tokens[device].remove(token)

    def renew_window(self, device, window):
        """As AnyFirewall.renew_window."""
        self._ask(f"renew {device} {window.name}")
        if window.name not in self.stands.get(device, ((), {}))[1]:
            return False
        self.stands[device][1][window.name] = window
        self.step()
        return True

    def open_window(self, device, window, token=""):
        self._ask(f"open {device} {window.name}")
        if device not in self.stands:
            raise GuardError(f"{device} is not closed")
        if window.name == "open" or token:
            self._take(device, token)
        assert self.permits(device) or window.name != "open"
        self.stands[device][1][window.name] = window
        self.step()

    def shut_window(self, device, *names):
        """As AnyFirewall.shut_window: one transaction."""
        self._ask(f"shut {device} {' '.join(names)}")
        if device in self.stands:
            for name in names:
                self.stands[device][1].pop(name, None)
            if "open" in names:
                self.tokens.pop(device, None)
        self.step()

    def shut_all(self, windows):
        """As AnyFirewall.shut_all: one transaction."""
        self._ask(f"shut at once {' '.join(windows)}")
        for device, names in windows.items():
            for name in names:
                self.stands[device][1].pop(name, None)
            self.tokens.pop(device, None)
        self.step()

    def lift(self, device):
        self._ask(f"lift {device}")
        self.stands.pop(device, None)
        self.tokens.pop(device, None)
        self.step()

    def find_fallen(self, devices):
        """As AnyFirewall.find_fallen."""
        self.judged.append(tuple(devices))
        return {device: "it is gone" for device in devices if device not in self.stands} | {
            device: UNHOOKED for device in devices if device in self.unhooked
        }  # fmt: skip

    def list_devices(self):
        return tuple(self.stands)

    def list_exemptions(self, device):
        """What passes a closed link."""
        return self.stands[device][0]

    def get_window(self, device, name):
        """A window, None where it is shut."""
        return self.stands[device][1].get(name)

    def is_open(self, device):
        """As AnyFirewall.is_open: whether everything may leave."""
        return device not in self.stands or self.get_window(device, "open") is not None


class FakeNetwork:
    """The networks that guarded links are on, as the kernel has them, and what is asked there.

    scenes: by device; then: what a scene becomes once it was looked at so many more times; resolvers, servers: what
    every link announced; names: addresses by name; asked: the names that were looked up; networks: of every link's
    addresses; nat64: the prefix for IPv4 hosts; confirmed: the routers that
    were asked whether they are there, with the index of their link; silent: those that do not answer.
    resolved: the routers whose MAC was asked for; known: the scenes that the kernel has once it knows it, by device.
    emptied: the links of which packets were dropped that waited for a neighbour; forgotten: those whose neighbours the
    kernel was made to forget.
    """

    def __init__(self):
        self.scenes = {}
        self.then = []
        self.resolvers = ("192.0.2.53",)
        self.servers = ()
        self.names = {}
        self.asked = []
        self.networks = (("192.0.2.5", 24),)
        self.nat64 = ""
        self.confirmed = []
        self.resolved = []
        self.emptied = []
        self.forgotten = []
        self.known = {}
        self.silent = ()

    def read_fingerprint(self, device, netlink=None, outside_ports=()):
        """As scene.read_fingerprint."""
        scene = self.scenes.get(device, HERE)
        if self.then:
            turns, later = self.then[0]
            self.then[0] = (turns - 1, later)
            if turns <= 1:
                self.then.pop(0)
                self.scenes[device] = later
        if isinstance(scene, Exception):
            raise scene
        return scene

    def look_up(self, names, view, families=()):
        """As names.look_up."""
        for server in self.resolvers:
            view.announce(view.link.device, "udp", server, 53)
        self.asked += names
        answered = any(name in self.names for name in names)
        return {
            name: Resolution(self.names[name]) if name in self.names
            else Resolution(problem="no such name", settled=not answered)
            for name in names
        }  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def confirm_neighbours(self, index, routers, deadline):
        """As Netlink.confirm_neighbours."""
        assert deadline > time.monotonic()
        self.confirmed.append((index, tuple(routers)))
        return {router: None for router in routers if router not in self.silent}

    def resolve_neighbours(self, index, routers, deadline):
        """As Netlink.resolve_neighbours."""
        assert deadline > time.monotonic()
        self.resolved.append((index, tuple(routers)))
        self.scenes.update(self.known)
        return {router: None for router in routers if router not in self.silent}

    def drop_waiting(self, index):
        """As Netlink.drop_waiting."""
        self.emptied.append(index)

    def forget_neighbours(self, index):
        """As Netlink.forget_neighbours."""
        self.forgotten.append(index)

    def question_neighbours(self, index, routers):
        """As Netlink.question_neighbours."""
        self.confirmed.append((index, tuple(routers)))

    def get_sure_neighbours(self, index, routers):
        """As Netlink.get_sure_neighbours."""
        return {router: None for router in routers if router not in self.silent}

    def get_link(self, device):
        """As Netlink.get_link."""
        return netlink.read_link(device)

    def close(self):
        """As Netlink.close."""


class FakeNews:
    """A socket for news: `waiting` are those that will be heard next, dropped: whether the kernel had to drop some."""

    def __init__(self):
        self.waiting = []
        self.dropped = False
        self.filters = []

    def filter_news(self, indexes, neighbours):
        """As Netlink.filter_news."""
        self.filters.append((set(indexes), set(neighbours)))

    def collect(self):
        """As Netlink.collect."""
        found, self.waiting = (self.waiting, self.dropped), []
        self.dropped = False
        return found


def listen(store):
    """Return the leases of a listening process that has just started, and its socket for news."""
    news = FakeNews()
    leases = Leases(store, news)
    leases.reload()
    return leases, news


def shut_lost_guards(store):
    """Do what the listening process does when it learns that something has changed."""
    listen(store)


def renew_guards(store):
    """Do what the listening process does when leases are to be renewed; return whether all of them were well."""
    leases, _ = listen(store)
    leases.reload(renew=True)
    leases.keep_time()
    return not leases.take_reason()


class Steps:
    """Everything that changes the machine, counted: the hook is killed at the one that is `last`, and does no more."""

    def __init__(self):
        self.count = 0
        self.last = 0

    def __call__(self):
        """Take one step."""
        self.count += 1
        if self.last and self.count >= self.last:
            raise Ended("killed")


class CountingStore(Store):
    """Takes a step before and after each change, and notes what guards are to be."""

    def __init__(self, directory, journal, step):
        super().__init__(directory)
        self.journal = journal
        self.step = step

    def write_guard(self, record):
        self.step()
        before = {guard.device: guard.verdict for guard in self.read_guards(str)}
        super().write_guard(record)
        if before.get(record.device) != record.verdict:
            self.journal.append(f"{record.device} is to be {record.verdict}")
        self.step()


def _count(name):
    def write(self, *arguments):
        self.step()
        getattr(Store, name)(self, *arguments)
        self.step()

    return write


for _name in (
    "remove_guard", "write_interface", "remove_interface", "write_tunnels", "write_presences", "write_events"
):  # fmt: skip
    setattr(CountingStore, _name, _count(_name))


# ifupdown


_runs = count(1)


def run_hook(store, phase, iface="eth0", family="inet", run="", **options):
    """Run one hook and return its exit status.  run: of which ifup, empty as under ifupdown-ng."""
    environ = {"IFACE": iface, "ADDRFAM": family, "VERBOSITY": "0", **options}
    invocation = read_environment(phase, environ)
    invocation = invocation.change(run=run if phase in ("pre-up", "up") else "")
    return hook.run(invocation, store)


def refresh(store, records=None):
    """Do what ``netconf-hooks refresh`` does.  records: the interfaces that are looked at, all if not given."""
    records = store.read_interfaces(log.error) if records is None else records
    settle.settle(store, settle.look_again(store, records), wake=False)


def ifup(store, links, iface="eth0", family="inet", run="", **options):
    """Do what ifup does: the hooks, and in between it sets the link up.  run: which ifup it is, if not a new one."""
    options = options or GUARD
    run = run or f"{next(_runs)}:1"
    status = run_hook(store, "pre-up", iface, family, run, **options)
    if status == 0:
        links.plug(iface.partition(":")[0], 7)
        run_hook(store, "up", iface, family, run, **options)
    return status


def ifdown(store, links, iface="eth0", family="inet", down=True, **options):
    """Do what ifdown does.  down: whether it sets the link down, as it does for all but the method manual."""
    options = options or GUARD
    run_hook(store, "down", iface, family, **options)
    links.plug(iface.partition(":")[0], 7, up=not down)
    run_hook(store, "post-down", iface, family, **options)


def assert_closed(store, firewall, device="eth0"):
    """Nothing leaves but what passes a closed link, and the record says so."""
    assert not firewall.is_open(device)
    assert store.read_guard(device).verdict == "closed"
    assert not store.read_guard(device).opened


def assert_open(store, firewall, device="eth0"):
    """Everything may leave, for a time, and the record says so."""
    record = store.read_guard(device)
    assert (record.verdict, record.opened, record.done) == ("open", True, True)
    window = firewall.get_window(device, "open")
    assert window.exemptions == (Exemption(),)
    assert time.time() < window.until <= time.time() + LEASE
