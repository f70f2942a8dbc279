"""Whatever ifup and ifdown do, in whichever order: the guard is closed while a pass that is up asks for it.

Hypothesis tells a story of ifup, ifup --force, ifdown, edited stanzas, killed hooks and wpa_action; a model that knows
nothing of records says which stanzas are up; the hooks do their work on the fakes of `guarded`.
"""

import os

import pytest
from guarded import CountingStore, ELSEWHERE, HERE, OFFICE, ROUTER, refresh
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks import hook

from netconf_hooks.guard import lifecycle
from netconf_hooks.stanzas import ifenv
from netconf_hooks.stanzas.ifenv import read_environment
from netconf_hooks.state import Store
from netconf_hooks.system.ending import Ended
from netconf_hooks.watcher.leftovers import end_passes

LOCATION, TRUST = {"NETCONF_LOCATION": f"office gateway={ROUTER}"}, {"NETCONF_TRUST": "hints"}
UNLESS, ALWAYS = {"NETCONF_GUARD": "unless office"}, {"NETCONF_GUARD": "yes"}
OPTIONS = [
    {}, {}, {"DNS_DOMAIN": "example.com"}, LOCATION | TRUST, UNLESS, LOCATION | TRUST | UNLESS, ALWAYS,
    TRUST | ALWAYS, {"NETCONF_GUARD": "no"}, {"NETCONF_VPN": "openvpn corp unless office"},
    LOCATION | {"NETCONF_TRUST": "authenticated"} | UNLESS,
]  # fmt: skip

stanzas = st.lists(st.tuples(st.sampled_from(["inet", "inet6"]), st.sampled_from(OPTIONS)), min_size=1, max_size=4)
ifaces = st.sampled_from(["eth0", "eth0", "eth0:1"])
kills = st.sampled_from([0, 0, 0, 1, 2, 3, 5, 8, 13, 21])
events = st.one_of(
    st.tuples(st.just("edit"), st.sampled_from(["eth0", "roam", "eth0:1"]), stanzas),
    st.tuples(st.just("ifup"), ifaces, st.booleans(), st.sampled_from([9, 9, 9, 0, 1, 2]), kills),
    st.tuples(st.just("raise"), st.booleans(), st.sampled_from([9, 9, 1]), kills),
    st.tuples(st.just("ifdown"), ifaces, st.booleans(), kills),
    st.tuples(st.just("disconnect"), kills),
    st.tuples(st.just("move"), st.booleans()),
    st.tuples(st.just("set down"), st.none()),
)
stories = st.lists(events, min_size=1, max_size=9)


def has_rules(options):
    return any(option.startswith("NETCONF") for option in options)


class Model:
    """Which stanzas are up, as an admin would say it.

    up: by interface and logical interface, and by address family, the options of the stanzas that have any; over: of
    which interfaces ifupdown has finished an ifdown that left the link up; unsure: of which a hook was killed since;
    maybe: by interface, the options of stanzas whose hook was killed, and which may count or not; kept: whether
    wpa_action has ended what it had raised over eth0, which ends with its link unless some stanza comes up over it.
    """

    def __init__(self):
        self.up = {}
        self.unsure = set()
        self.over = set()
        self.maybe = {}
        self.kept = False
        self.at_office = False

    def copy(self):
        other = Model()
        other.up = {key: {family: list(some) for family, some in up.items()} for key, up in self.up.items()}
        other.over, other.at_office = set(self.over), self.at_office
        other.kept = self.kept
        other.maybe = {iface: list(some) for iface, some in self.maybe.items()}
        return other

    def must_be_closed(self):
        """Whether some stanza that is up asks for a guard that this network does not open."""
        for iface in {iface for iface, _ in self.up}:
            passes = [
                options
                for (name, _), families in self.up.items() if name == iface
                for some in families.values() for options in some
            ]
            guards = {options.get("NETCONF_GUARD", "no") for options in passes} - {"no"}
            trusts = {options.get("NETCONF_TRUST", "") for options in passes} - {""}
            # What may count can name the place and trust it, but takes no guard of a stanza that is up away.
            counting = passes + self.maybe.get(iface, [])
            trusted = trusts <= {"hints"} and any(options.get("NETCONF_TRUST") == "hints" for options in counting)
            located = any("NETCONF_LOCATION" in options for options in counting)
            if guards and not (self.at_office and guards == {"unless office"} and trusted and located):
                return True
        return False

    def asks(self):
        """Whether any stanza that is up asks for a guard."""
        return any(
            options.get("NETCONF_GUARD", "no") != "no"
            for families in self.up.values() for some in families.values() for options in some
        )

    def end(self, iface, logical=None):
        """An interface is down; with a logical one, only that."""
        self.up = {
            (name, of): up for (name, of), up in self.up.items() if name != iface or (logical and of != logical)
        }
        self.over.discard(iface)
        if not logical:
            self.maybe.pop(iface, None)
            self.kept = self.kept and iface != "eth0"


class Machine:
    """The hooks' machine, driven as ifupdown drives it."""

    def __init__(self, store, links, firewall, network, place, steps, roaming):
        self.store, self.links, self.firewall, self.network, self.place = store, links, firewall, network, place
        self.steps, self.roaming = steps, roaming
        self.file = {"eth0": [("inet", LOCATION | TRUST | UNLESS), ("inet", {})], "roam": [("inet", {})],
                     "eth0:1": [("inet", {})]}  # fmt: skip
        self.state = {}  # which logical interface ifupdown has up
        self.runs = 0
        self.model = Model()

    def hook(self, phase, iface, logical, family, options, run):
        """Run one hook; return whether it did not refuse.  Raises Ended where it is killed."""
        environ = {"IFACE": iface, "LOGICAL": logical, "ADDRFAM": family}
        invocation = read_environment(phase, environ | {f"IF_{option}": value for option, value in options.items()})
        invocation = invocation.change(run=run if phase in ("pre-up", "up") else "")
        if not has_entry(self.store, iface, options):
            return True
        return hook.run(invocation, self.store) == 0

    def ifup(self, iface, logical, force, reached):
        """reached: how many stanzas ifupdown comes to; the configuration of the one after them fails."""
        if iface in self.state and not force:
            return True
        self.state[iface] = logical
        self.runs += 1
        run = f"{self.runs}:1"
        counts = {}
        families = self.model.up.setdefault((iface, logical), {})
        for number, (family, options) in enumerate(self.file[logical]):
            if iface == "eth0" and has_entry(self.store, iface, options):
                self.model.kept = False
            if not self.hook("pre-up", iface, logical, family, options, run):
                del self.state[iface]
                return False
            if has_rules(options):
                if iface in self.model.over:
                    self.model.end(iface)
                    families = self.model.up.setdefault((iface, logical), {})
                place = counts.get(family, 0)
                counts[family] = place + 1
                some = families.setdefault(family, [])
                some[place:place + 1] = [options]
            if number >= reached:
                del self.state[iface]  # and so ifupdown forgets it
                return False
            if not self.links["eth0"].up:
                self.links.plug("eth0", 7)
            self.hook("up", iface, logical, family, options, run)
        return True

    def ifdown(self, iface, leave_up=False):
        logical = self.state.pop(iface, iface)
        for family, options in self.file[logical]:
            self.hook("down", iface, logical, family, options, "")
            if ":" not in iface and not leave_up:
                self.links.plug("eth0", 7, up=False)
            self.hook("post-down", iface, logical, family, options, "")
        return logical


def has_entry(store, iface, options):
    """Whether the scripts in if-*.d would do anything."""
    names = (f"{store.interfaces}/{iface}", f"{store.guards}/eth0")
    return has_rules(options) or any(os.path.exists(name) for name in names)


@pytest.fixture
def roaming(monkeypatch):
    """Whether wpa_action runs ifup or ifdown now."""
    flag = {"now": False}
    for module in (lifecycle, hook):
        monkeypatch.setattr(module, "is_roaming", lambda iface: flag["now"])
    for module in (lifecycle, ifenv):
        monkeypatch.setattr(module, "has_wpa_action", lambda iface: flag["now"])
    return flag


@pytest.mark.thorough
@settings(max_examples=min(300, MANY), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories)
@example(  # nothing but evidence ended the guard of a link that ifdown had left up
    story=[("edit", "roam", [("inet", {"DNS_DOMAIN": "example.com"})]), ("ifup", "eth0", False, 9, 0),
           ("ifdown", "eth0", True, 0), ("raise", False, 9, 0)]
)
@example(  # what was kept when wpa_action had ended what was over it ends with the link
    story=[("ifup", "eth0", False, 9, 0), ("raise", False, 9, 0), ("disconnect", 0), ("set down", None),
           ("raise", False, 9, 0)]
)
@example(  # the location of a stanza whose hook was killed counts for what is raised over it
    story=[("edit", "roam", [("inet", UNLESS)]), ("ifup", "eth0", False, 9, 2), ("raise", False, 9, 0), ("move", True)]
)
def test_the_guard_is_closed_while_a_pass_that_is_up_asks_for_it(
    store, links, network, firewalls, place, steps, journal, roaming, tmp_path_factory, story
):
    firewall = firewalls["nftables"]
    firewall.stands.clear()
    journal.clear()
    for each in firewalls.values():
        each.permits = lambda device: Store(machine.store.directory).read_guard(device).verdict == "open"
    links.plug("eth0", 7, up=False)
    steps.count = steps.last = 0
    roaming["now"] = False
    kept = CountingStore(str(tmp_path_factory.mktemp("run")), journal, steps)
    kept.prepare()
    machine = Machine(kept, links, firewall, network, place, steps, roaming)
    move(machine, False)
    for event in story:
        tell(machine, *event)


def tell(machine, what, *facts):
    """Let one thing happen, and look at the guard before, meanwhile and after."""
    model = machine.model
    before = model.must_be_closed()
    old = model.copy()
    machine.steps.count = 0
    machine.steps.last = facts[-1] if what in ("ifup", "raise", "ifdown", "disconnect") else 0
    real = machine.firewall.step

    def watch():
        # What must be closed before and after must be so meanwhile, and while the link is up.
        if before and machine.links["eth0"].up and what not in ("edit", "move") and not replaced:
            assert not machine.firewall.is_open("eth0"), f"open during {what}"
        real()

    replaced = what in ("ifup", "raise") and not keeps_guard(machine, what, facts)
    # The other interface of the device goes on without it.
    replaced |= what == "ifdown" and any(name != facts[0] for name, _ in model.up)
    machine.firewall.step = watch
    try:
        happen(machine, what, facts)
        killed = False
    except Ended:
        killed = True
    finally:
        machine.firewall.step = real
        machine.steps.last = 0
        machine.roaming["now"] = False
    if killed:
        forget_what_is_unsure(machine, old, what, facts)
    if machine.model.must_be_closed() and machine.links["eth0"].up:
        assert not machine.firewall.is_open("eth0"), f"open after {what}"
        record = machine.store.read_guard("eth0")
        assert record is not None and not record.opened
    ended = not (killed or machine.model.up or machine.model.unsure or machine.links["eth0"].up)
    if ended and what in ("ifdown", "set down"):
        assert machine.firewall.stands == {} and machine.store.read_guard("eth0") is None
        assert machine.store.read_interfaces(pytest.fail) == ()


def keeps_guard(machine, what, facts):
    """Whether the stanzas that an ifup replaces ask for what their successors ask for, too."""
    logical = "roam" if what == "raise" else facts[0]
    iface = "eth0" if what == "raise" else facts[0]
    families = machine.model.up.get((iface, logical), {})
    new = {}
    for family, options in machine.file[logical]:
        if has_rules(options):
            new.setdefault(family, []).append(options)
    return all(
        one == other for family, some in families.items() for one, other in zip(some, new.get(family, []))
    ) and iface not in machine.model.over


def happen(machine, what, facts):
    model = machine.model
    if what == "edit":
        machine.file[facts[0]] = facts[1]
    elif what == "ifup":
        iface, force, reached, _ = facts
        if force or iface not in machine.state:
            arrive(machine, iface, iface, force, reached)
    elif what == "raise":
        machine.roaming["now"], reached, _ = facts
        arrive(machine, "eth0", "roam", True, reached)
    elif what == "ifdown":
        iface, leave_up, _ = facts
        machine.ifdown(iface, leave_up)
        if ":" in iface and machine.links["eth0"].up and any(name != iface for name, _ in model.up):
            model.end(iface)
        elif machine.links["eth0"].up and any(name == iface for name, _ in model.up):
            others = any(name != iface for name, _ in model.up)
            model.end(iface) if others else model.over.add(iface)
        else:
            model.end(iface)
            model.unsure.discard(iface)
    elif what == "disconnect":
        if "eth0" in machine.state:
            machine.roaming["now"] = True
            model.end("eth0", machine.ifdown("eth0"))
            model.kept = True
            machine.links.plug("eth0", 7)
    elif what == "move":
        move(machine, facts[0])
        refresh(machine.store)
    elif what == "set down":
        machine.links.plug("eth0", 7, up=False)
        end_passes(machine.store)
        for iface in [*model.over, *(["eth0"] if model.kept else [])]:
            model.end(iface)


def arrive(machine, iface, logical, force, reached):
    whole = machine.ifup(iface, logical, force, reached)
    model = machine.model
    if whole and model.asks() and not model.must_be_closed():
        last = machine.store.read_guard("eth0")
        # All stanzas that are up agree, no hook was killed, and the network was looked at by each of the interfaces.
        if all(each.iface == iface for each in last.passes) and not model.unsure:
            assert machine.firewall.is_open("eth0"), last


def move(machine, at_office):
    machine.model.at_office = at_office
    machine.network.pop("gateway", None)
    if at_office:
        machine.network["gateway"] = OFFICE
    machine.place.scenes["eth0"] = HERE if at_office else ELSEWHERE


def forget_what_is_unsure(machine, old, what, facts):
    """A hook was killed: of the interface that it was about, only what had been up and is up is still known."""
    iface = "eth0" if what in ("raise", "disconnect") else facts[0]
    new = machine.model
    machine.state.pop(iface, None)
    new.over.discard(iface)
    new.kept = old.kept
    new.unsure.add(iface)
    logical = {"raise": "roam", "disconnect": "eth0"}.get(what, facts[0])
    before = [options for (name, _), up in old.up.items() if name == iface for some in up.values() for options in some]
    maybe = old.maybe.get(iface, []) + before + [options for _, options in machine.file.get(logical, [])]
    if what in ("ifdown", "disconnect"):
        new.end(iface)
        new.maybe[iface] = maybe
        return
    new.maybe[iface] = maybe
    for key in [key for key in new.up if key[0] == iface]:
        for family, some in new.up[key].items():
            was = old.up.get(key, {}).get(family, [])
            new.up[key][family] = [one for one, other in zip(some, was) if one == other]
