"""ifupdown's contract: what each hook does, and that nothing that happens there takes the network down."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from situations import make_record

from netconf_hooks import events, hook
from netconf_hooks.observation import Answer
from netconf_hooks.stanzas.ifenv import read_environment
from netconf_hooks.state import FORMAT, Pass, Store, TunnelRecord
from netconf_hooks.system import log
from tests.lab.waiting import wait_until

CHECKOUT = str(Path(__file__).parents[2])

CORP = ("openvpn", "corp")
OFFICE = "office gateway=192.0.2.1"
RULES = {"IF_NETCONF_LOCATION": OFFICE, "IF_NETCONF_VPN": "openvpn corp unless office"}


@pytest.fixture(autouse=True)
def leave_no_alarm():
    """A hook sets an alarm that would end this process instead, and changes who is told."""
    yield
    signal.alarm(0)
    log.set_verbose(False)


def run_hook(store, phase, iface="eth0", family="inet", run="", **options):
    """Run one hook and return its exit status.  run: of which ifup, empty as under ifupdown-ng."""
    environ = {"IFACE": iface, "ADDRFAM": family, "VERBOSITY": "0", **options}
    invocation = read_environment(phase, environ)
    invocation = invocation.change(run=run if phase in ("pre-up", "up") else "")
    return hook.run(invocation, store)


# up


def test_up_remembers_where_the_interface_is_and_starts_what_is_wanted(store, links, network, tunnels, messages):
    links.plug("eth0", 7)
    assert run_hook(store, "up", **RULES) == 0
    record = store.read_interface("eth0")
    assert (record.place.location, record.observation.index) == ("", 7)
    assert record.passes[0].options == {
        "netconf-location": OFFICE, "netconf-vpn": "openvpn corp unless office"
    }  # fmt: skip
    assert tunnels.asked == ["start openvpn corp"]
    assert "info: eth0: at an unknown place: no netconf-location line holds" in messages
    assert any("no full answer for gateway: nothing there" in message for message in messages)


def test_up_again_follows_the_network(store, links, network, tunnels, messages):
    links.plug("eth0", 7)
    run_hook(store, "up", **RULES)
    network["gateway"] = Answer(("192.0.2.1",))
    run_hook(store, "up", **RULES)
    assert store.read_interface("eth0").place.location == "office"
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]
    assert f'info: eth0: at office (netconf-location "{OFFICE}")' in messages
    network["gateway"] = Answer((), pending=True)
    run_hook(store, "up", **RULES)
    assert any("undecided" in message for message in messages)
    assert len(tunnels.asked) == 3


@pytest.mark.parametrize("first, second", [("inet", "inet6"), ("inet6", "inet")])
def test_both_families_of_an_interface_in_either_order(store, links, network, tunnels, first, second):
    links.plug("eth0", 7)
    network["gateway"] = Answer(("192.0.2.1",))
    assert run_hook(store, "pre-up", family=first, run="1:1", **RULES) == 0
    assert run_hook(store, "up", family=first, run="1:1", **RULES) == 0
    before = store.read_interface("eth0")
    assert run_hook(store, "pre-up", family=second, run="1:1") == 0
    assert store.read_interface("eth0") == before
    assert run_hook(store, "up", family=second, run="1:1", IF_DNS_DOMAIN="example.com") == 0
    record = store.read_interface("eth0")
    assert [stanza.family for stanza in record.passes] == [first, second]
    assert record.place.location == "office"
    assert tunnels.asked == ["stop openvpn corp"]
    for phase in ("down", "post-down"):
        for family in (first, second):
            assert run_hook(store, phase, family=family, **(RULES if family == first else {})) == 0
            assert store.read_interface("eth0") is None


def test_rules_of_both_families_count_together(store, links, network, tunnels):
    links.plug("eth0", 7)
    network["gateway"] = Answer(("192.0.2.1",))
    run_hook(store, "up", family="inet6", run="1:1", IF_NETCONF_LOCATION=OFFICE)
    assert tunnels.asked == []
    run_hook(store, "up", family="inet", run="1:1", IF_NETCONF_VPN="openvpn corp on office")
    assert tunnels.asked == ["start openvpn corp"]


def test_a_family_that_comes_up_again_keeps_its_place(store, links, network):
    links.plug("eth0", 7)
    network["gateway"] = Answer(("192.0.2.1",))
    for number, family in enumerate(("inet", "inet6", "inet")):
        run_hook(store, "up", family=family, run=f"{number}:1", IF_NETCONF_LOCATION=f"by-{family} gateway=192.0.2.1")
        assert store.read_interface("eth0").place.location == "by-inet"


def test_rules_taken_out_of_the_stanza_are_forgotten(store, links, network, tunnels):
    links.plug("eth0", 7)
    run_hook(store, "up", **RULES)
    assert run_hook(store, "up", IF_DNS_DOMAIN="example.com") == 0
    assert store.read_interface("eth0") is None
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]


def test_a_stanza_without_options_takes_nothing_away(store, links, network, tunnels):
    links.plug("eth0", 7)
    run_hook(store, "up", family="inet6", run="1:1", IF_NETCONF_VPN="unit x")
    run_hook(store, "up", run="1:1", **RULES)
    # ifup --force, of a file from which the rules of the inet stanza were taken out.
    for phase in ("pre-up", "up"):
        run_hook(store, phase, run="2:1")
    assert [each.reached for each in store.read_interface("eth0").passes] == [False, False]
    for phase in ("pre-up", "up"):
        run_hook(store, phase, family="inet6", run="2:1", IF_NETCONF_VPN="unit x")
    assert [(each.family, each.reached) for each in store.read_interface("eth0").passes] == [
        ("inet6", True), ("inet", False)
    ]
    assert tunnels.asked == ["start unit x", "start openvpn corp"]
    for phase in ("down", "post-down"):
        run_hook(store, phase)
    assert store.read_interface("eth0") is None
    assert tunnels.asked[2:] == ["stop unit x", "stop openvpn corp"]


def test_a_record_that_can_not_be_read_is_reported_and_replaced(store, links, network, tunnels, messages):
    links.plug("eth0", 7)
    store.prepare()
    Path(store.interfaces, "eth0").write_text("rubbish\n")
    assert run_hook(store, "pre-up", **RULES) == 0
    assert run_hook(store, "up", **RULES) == 0
    assert store.read_interface("eth0").observation.index == 7
    assert tunnels.asked == ["start openvpn corp"]
    assert any(message.startswith("error: eth0: ") and "is lost" in message for message in messages)


@pytest.fixture
def alarms(tunnels):
    """How many seconds of its deadline a hook had left when it asked the tunnel."""
    left = []
    for what in ("start openvpn corp", "stop openvpn corp"):
        tunnels.during[what] = lambda: left.append(signal.getitimer(signal.ITIMER_REAL)[0])
    return left


def test_a_hook_has_a_deadline(store, links, network, alarms):
    links.plug("eth0", 7)
    run_hook(store, "up", run="1:1", IF_NETCONF_TIMEOUT="100", **RULES)
    run_hook(store, "up", family="inet6", run="1:1")  # its stanza says nothing of it, but the interface's does
    assert 60 < signal.alarm(0) <= 100 + hook.ACTING_TIME
    run_hook(store, "down", **RULES)
    arriving, leaving = alarms
    assert 60 < arriving <= 100 + hook.ACTING_TIME
    assert 0 < leaving <= hook.ACTING_TIME


def test_a_deadline_covers_what_pre_up_waits_for(store, links, network, alarms):
    links.plug("eth0", 7)
    run_hook(store, "up", **RULES)
    signal.alarm(0)
    links.plug("eth0", 9)
    run_hook(store, "pre-up", **RULES)
    assert 0 < alarms[-1] <= hook.ACTING_TIME


def test_the_deadline_does_not_cover_event_scripts_which_have_their_own(store, links, network, alarms, monkeypatch):
    told = []
    monkeypatch.setattr(events, "tell_events", lambda store: told.append(signal.getitimer(signal.ITIMER_REAL)[0]))
    links.plug("eth0", 7)
    network["gateway"] = Answer(("192.0.2.1",))
    run_hook(store, "up", **RULES)
    assert alarms[0] > 0
    assert told == [0]


# pre-up


def test_pre_up_reports_all_that_can_not_be_read(store, links, messages):
    assert run_hook(
        store,
        "pre-up",
        IF_NETCONF_LOCATION="office gatway=192.0.2.1",
        IF_NETCONF_VPN="openvpn corp unles office",
        IF_NETCONF_TIMEOUT="soon",
    ) == 0  # fmt: skip
    assert len(messages) == 3
    assert all(message.startswith("error: eth0: netconf-") for message in messages)
    assert 'error: eth0: netconf-vpn "openvpn corp unles office": expected "on" or "unless", not "unles"' in messages


GUARDS = ["yes", "unless office", "on unknown", "nonsense", "unless", "yes\nnonsense", ""]


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_is_put_up_before_the_link_comes_up_also_one_that_can_not_be_read(store, links, firewall, guard):
    assert run_hook(store, "pre-up", IF_NETCONF_GUARD=guard) == 0
    assert firewall.stands == {"eth0": ((), {})}
    assert store.read_guard("eth0").verdict == "closed"


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_that_can_not_be_put_up_refuses_the_interface(store, links, messages, firewall, guard):
    firewall.broken = "no nftables here"
    assert run_hook(store, "pre-up", IF_NETCONF_GUARD=guard) == hook.REFUSE == 1
    assert any(
        f'error: eth0: netconf-guard "{guard.splitlines()[-1] if guard else ""}": ' in message for message in messages
    )


def test_a_guard_with_a_number_was_meant_as_one(store, links, messages, firewall):
    assert run_hook(store, "pre-up", IF_NETCONF_GUARD_2="yes") == 0
    assert list(firewall.stands) == ["eth0"]


@pytest.mark.parametrize("guard", ["no", "yes\nno"])
def test_no_guard_refuses_nothing(store, links, messages, guard):
    assert run_hook(store, "pre-up", IF_NETCONF_GUARD=guard) == 0


@pytest.mark.parametrize("phase", ["up", "down", "post-down"])
def test_only_pre_up_refuses(store, links, network, phase):
    links.plug("eth0", 7)
    assert run_hook(store, phase, IF_NETCONF_GUARD="yes") == 0


def test_pre_up_does_nothing_the_first_time(store, links, network, tunnels):
    assert run_hook(store, "pre-up", **RULES) == 0
    assert not os.path.exists(store.directory)
    assert tunnels.asked == []


def test_ifup_force_of_an_interface_that_is_up_decides_again(store, links, network, tunnels):
    links.plug("eth0", 7)
    run_hook(store, "up", **RULES)
    network["gateway"] = Answer(("192.0.2.1",))
    assert run_hook(store, "pre-up", **RULES) == 0
    assert store.read_interface("eth0").place.location == "office"
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]


@pytest.mark.parametrize("index, up", [(9, True), (7, False), (0, False)])
def test_pre_up_forgets_what_is_not_true_any_more(store, links, network, tunnels, messages, index, up):
    links.plug("eth0", 7)
    run_hook(store, "up", **RULES)
    if index:
        links.plug("eth0", index, up=up)
    else:
        del links["eth0"]
    assert run_hook(store, "pre-up", **RULES) == 0
    assert store.read_interface("eth0") is None
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]


# down, post-down


def test_down_says_what_is_left(store, links, network, messages):
    links.plug("eth0", 7)
    run_hook(store, "up", **RULES)
    run_hook(store, "down", **RULES)
    assert "info: eth0: leaving an unknown place" in messages
    network["gateway"] = Answer(("192.0.2.1",))
    run_hook(store, "up", **RULES)
    run_hook(store, "down", **RULES)
    assert "info: eth0: leaving office" in messages


def test_down_forgets_the_interface_and_stops_what_nobody_wants(store, links, network, tunnels):
    links.plug("eth0", 7)
    links.plug("wlan0", 8)
    run_hook(store, "up", **RULES)
    run_hook(store, "up", iface="wlan0", **RULES)
    assert run_hook(store, "down", iface="wlan0", **RULES) == 0
    assert tunnels.asked == ["start openvpn corp"]
    assert run_hook(store, "down", **RULES) == 0
    assert tunnels.asked == ["start openvpn corp", "stop openvpn corp"]
    assert run_hook(store, "post-down", **RULES) == 0
    assert len(tunnels.asked) == 2


def test_post_down_does_what_a_killed_down_left_undone(store, links, network, tunnels):
    links.plug("eth0", 7)
    run_hook(store, "up", **RULES)
    assert run_hook(store, "post-down", **RULES) == 0
    assert store.read_interface("eth0") is None
    assert tunnels.asked[-1] == "stop openvpn corp"


def test_ifdown_after_the_rules_were_taken_out_goes_by_the_record(store, links, network, tunnels):
    links.plug("eth0", 7)
    run_hook(store, "up", **RULES)
    assert run_hook(store, "down") == 0
    assert store.read_interface("eth0") is None
    assert tunnels.asked[-1] == "stop openvpn corp"


def test_ifdown_after_a_failed_ifup_is_quiet(store, links, network, tunnels, messages):
    for phase in ("down", "post-down"):
        assert run_hook(store, phase, **RULES) == 0
    assert tunnels.asked == []
    assert messages == []


def test_a_tunnel_that_fails_fails_no_hook(store, links, network, tunnels, messages):
    links.plug("eth0", 7)
    tunnels.broken = {"start openvpn corp": "no corp.conf", "stop openvpn corp": "it does not answer"}
    for phase in ("pre-up", "up", "down", "post-down"):
        assert run_hook(store, phase, **RULES) == 0
    error = next(message for message in messages if message.startswith("error: "))
    # Which option, which interface, and the reason.
    assert error.startswith("error: netconf-vpn \"openvpn corp\": can't be started: no corp.conf (eth0 is at")


# None of ours


@pytest.mark.parametrize("phase", ["pre-up", "up", "down", "post-down"])
@pytest.mark.parametrize("iface, family", [("lo", "inet"), ("--all", "meta"), ("", "inet"), ("../x", "inet")])
def test_what_is_none_of_ours_is_left_at_once(store, links, messages, phase, iface, family):
    assert run_hook(store, phase, iface=iface, family=family, IF_NETCONF_VPN="unit x", IF_NETCONF_GUARD="yes") == 0
    assert not os.path.exists(store.directory)
    assert messages == []


def test_who_asks_for_everything_is_told_why_nothing_is_done(store, links, messages, capfd):
    run_hook(store, "up", iface="lo", VERBOSITY="1")
    assert capfd.readouterr().err == "netconf-hooks: lo: up: nothing to do: the loopback interface\n"
    run_hook(store, "up", iface="lo")
    assert capfd.readouterr().err == ""


# The process

HOOK = """
import os, sys
sys.path += [{checkout!r}, "/usr/lib/python3/dist-packages"]
import syslog
syslog.syslog = lambda *_: None  # the machine's
from netconf_hooks import events, hook, state, tunnels, wake; from netconf_hooks.system import log
class Tunnel:
    def start(self): raise tunnels.TunnelError("there are no tunnels here")
    stop = start
tunnels.load_tunnel = lambda kind, name: Tunnel()
events.tell_events = lambda store: store.write_events(())
wake.start_watcher = lambda: None
state.Store.__init__.__defaults__ = ({directory!r},)
{body}
hook.main({phase!r})
"""


@pytest.fixture
def real_store(tmp_path):
    """A store for hooks in processes of their own, with a tunnel that no interface has a rule for any more."""
    store = Store(str(tmp_path / "run"))
    store.prepare()
    store.write_tunnels({CORP: TunnelRecord(*CORP, "up", "eth7 wanted it", applied=True)})
    store.write_interface(make_record("netconf-none", 4711, (Pass("inet", {"netconf-vpn": "openvpn corp"}),)))
    return store


def start_hook(store, phase, body="", environ=None, **options):
    """Start a hook in a process of its own, of an interface that this machine does not have."""
    program = HOOK.format(checkout=CHECKOUT, directory=store.directory, phase=phase, body=body)
    return subprocess.Popen(
        [sys.executable, "-IS", "-c", program],
        env={"IFACE": "netconf-none", "ADDRFAM": "inet", "MODE": hook_mode(phase), **(environ or {})},
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


def hook_mode(phase):
    """Return interfaces(5)'s MODE."""
    return "start" if phase.endswith("up") else "stop"


def finish(process):
    """Wait for a hook; return its exit status and what it wrote to standard error."""
    try:
        output, errors = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert not output
    return process.returncode, errors


def test_a_hook_leaves_with_the_status_of_its_run(real_store):
    assert finish(start_hook(real_store, "down"))[0] == 0
    assert real_store.read_interface("netconf-none") is None
    status, errors = finish(start_hook(real_store, "pre-up", environ={"IF_NETCONF_GUARD": "yes", "METHOD": "ppp"}))
    assert status == 1
    assert 'netconf-hooks: netconf-none: netconf-guard "yes": no guard can be put up' in errors


@pytest.mark.parametrize("error", [
    "RuntimeError('a bug')", "OSError(28, 'No space left')", "MemoryError()", "SystemExit(3)", "KeyboardInterrupt()",
])
def test_no_exception_reaches_ifupdown(real_store, error):
    status, errors = finish(start_hook(real_store, "up", f"def run(*_): raise {error}\nhook.run = run"))
    assert status == 0
    assert errors.startswith("netconf-hooks: netconf-none: the up hook failed:\nnetconf-hooks: Traceback")
    assert error.partition("(")[0] in errors.splitlines()[-1]


def test_a_hook_that_fails_in_its_own_directory_fails_no_ifup(real_store, tmp_path):
    os.rename(real_store.directory, tmp_path / "away")
    (tmp_path / "run").write_text("")
    status, errors = finish(start_hook(real_store, "down"))
    assert status == 0
    assert "the down hook failed" in errors


CRASH = "def run(*_): raise RuntimeError('a bug')\nhook.run = run"
HANG = "import signal\ndef run(*_): signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01); signal.pause()\nhook.run = run"


@pytest.mark.parametrize("body", [CRASH, HANG, CRASH + "\nlog.error = None"])
@pytest.mark.parametrize("phase, environ, status", [
    ("pre-up", {"IF_NETCONF_GUARD": "yes"}, 1),
    ("pre-up", {"IF_NETCONF_VPN": "openvpn corp"}, 0),
    ("up", {"IF_NETCONF_GUARD": "yes"}, 0),
    ("pre-up", {"IF_NETCONF_UPLINK": "eth0"}, 1),
    ("pre-up", {"IF_NETCONF_UPLINK_2": "eth0"}, 1),
    ("down", {"IF_NETCONF_UPLINK": "eth0"}, 0),
])
def test_only_a_guarded_interface_or_a_wish_stays_down_when_its_hook_breaks(real_store, body, phase, environ, status):
    assert finish(start_hook(real_store, phase, body, environ))[0] == status


def test_a_hook_that_takes_too_long_ends_and_says_so(real_store):
    status, errors = finish(start_hook(real_store, "up", HANG))
    assert status == 0
    assert errors == (
        "netconf-hooks: netconf-none: the up hook ended before its work was done: it took too long; "
        "the next run goes on with it\n"
    )


LOSE = """
import signal
from netconf_hooks.system import ending
ending.GRACE = 1
class Destructor:
    def __del__(self):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        signal.pause()
def run(*_):
    Destructor()  # what its signal raises is printed, and lost
    {then}
hook.run = run
"""


@pytest.mark.parametrize("then", ["while True: signal.pause()", "hook._set_alarm(0)"])
@pytest.mark.parametrize("phase, environ, status", [
    ("pre-up", {"IF_NETCONF_GUARD": "yes"}, hook.REFUSE), ("up", {"IF_NETCONF_GUARD": "yes"}, 0)
])
def test_a_deadline_that_is_lost_in_a_destructor_ends_the_hook_all_the_same(real_store, then, phase, environ, status):
    began = time.monotonic()
    assert finish(start_hook(real_store, phase, LOSE.format(then=then), environ))[0] == status
    assert time.monotonic() < began + 15  # finish() would wait for a minute


def is_waiting_for_a_lock(process):
    """Whether a process sleeps in flock(2): /proc/locks lists those who wait behind the holder (proc(5))."""
    return any(
        fields[1] == "->" and fields[5] == str(process.pid)
        for fields in (line.split() for line in Path("/proc/locks").read_text().splitlines())
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_waiting_hook_with_success(real_store, number):
    with real_store.lock_records():
        process = start_hook(real_store, "down")
        wait_until(lambda: is_waiting_for_a_lock(process), "the hook to wait for the lock")
        process.send_signal(number)
        status, errors = finish(process)
    assert status == 0
    assert number.name in errors
    assert "netconf-none: the down hook ended before its work was done" in errors
    # Nothing half is left, and the next run goes on with it.
    assert real_store.read_interface("netconf-none").observation.index == 4711
    assert finish(start_hook(real_store, "post-down"))[0] == 0
    assert real_store.read_interface("netconf-none") is None


def test_a_hook_killed_while_it_waits_leaves_whole_records(real_store):
    before = Path(real_store.tunnels).read_text(), Path(real_store.interfaces, "netconf-none").read_text()
    with real_store.lock_records():
        process = start_hook(real_store, "down")
        wait_until(lambda: is_waiting_for_a_lock(process), "the hook to wait for the lock")
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
    assert before == (
        Path(real_store.tunnels).read_text(), Path(real_store.interfaces, "netconf-none").read_text()
    )  # fmt: skip
    assert finish(start_hook(real_store, "post-down"))[0] == 0
    assert os.listdir(real_store.interfaces) == []


LOUD = {"VERBOSITY": "1", "IF_NETCONF_VPN": "openvpn corp unles office"}


@pytest.mark.parametrize("phase", ["pre-up", "up", "down", "post-down"])
def test_full_outputs_change_nothing(real_store, phase):
    with open("/dev/full", "w") as full:
        assert finish(start_hook(real_store, phase, environ=LOUD, stdout=full, stderr=full))[0] == 0
    assert not real_store.read_tunnels()[CORP].applied


def close_standard():
    """Close what every program expects to be open."""
    for descriptor in (0, 1, 2):
        os.close(descriptor)


@pytest.mark.parametrize("phase", ["pre-up", "up", "down", "post-down"])
def test_closed_outputs_change_nothing_and_no_file_takes_their_place(real_store, phase):
    process = start_hook(
        real_store, phase, environ=LOUD, stdin=None, stdout=None, stderr=None, preexec_fn=close_standard
    )
    assert finish(process)[0] == 0
    assert not real_store.read_tunnels()[CORP].applied
    for path in Path(real_store.directory).rglob("*"):
        if path.is_file():
            content = path.read_text()
            assert content == "" or content.startswith(FORMAT + "\n")
            assert "netconf-hooks: " not in content


def test_verbosity_says_everything_and_without_it_only_errors(real_store):
    status, errors = finish(start_hook(real_store, "down", environ={"VERBOSITY": "1"}))
    assert status == 0
    assert "leaving" in errors
    status, errors = finish(start_hook(real_store, "down"))
    assert status == 0
    assert errors.count("\n") == 1
    assert "there are no tunnels here" in errors


# The process of a guarded interface


GUARD = """
from netconf_hooks.guard import firewall, lifecycle
class Guard:
    name, lacks, has_lease = "nftables", (), True
    def begin_look(self, device, token): pass
    def close(self, device, exemptions, windows=(), token="", ports=None):
        {action}
    def shut_window(self, device, *names): pass
    def lift(self, device): pass
    def find_fallen(self, devices): return dict()
    def list_devices(self): return ()
firewall.choose_firewall = firewall.load_firewall = lambda *_, **__: Guard()
lifecycle.unpin = lambda device: None
"""
STANDS, RAISES = "pass", "raise RuntimeError('a mistake of ours')"
HANGS = "import select; print('closing', file=sys.stderr, flush=True); select.select([], [], [], 60)"


@pytest.mark.parametrize("action, phase, environ, status", [
    (STANDS, "pre-up", {"IF_NETCONF_GUARD": "yes"}, 0),
    (RAISES, "pre-up", {"IF_NETCONF_GUARD": "yes"}, hook.REFUSE),
    (RAISES, "pre-up", {"IF_NETCONF_GUARD_2": "yes"}, hook.REFUSE),
    (RAISES, "up", {"IF_NETCONF_GUARD": "yes"}, 0),
    (RAISES, "pre-up", {"IF_NETCONF_GUARD_ALLOW": "udp/123"}, 0),
])
def test_a_guard_that_fails_for_a_mistake_of_ours_refuses_too(real_store, action, phase, environ, status):
    assert finish(start_hook(real_store, phase, GUARD.format(action=action), environ))[0] == status


@pytest.mark.parametrize("phase, status", [("pre-up", hook.REFUSE), ("up", 0)])
def test_a_signal_while_the_guard_is_put_up_refuses_only_in_pre_up(real_store, phase, status):
    process = start_hook(real_store, phase, GUARD.format(action=HANGS), {"IF_NETCONF_GUARD": "yes"})
    assert process.stderr.readline() == "closing\n"
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == status
    record = real_store.read_guard("netconf-none")
    assert (record.verdict, record.opened, record.done) == ("closed", False, False)
    # The next run puts it right.
    again = start_hook(real_store, "pre-up", GUARD.format(action=STANDS), {"IF_NETCONF_GUARD": "yes"})
    assert finish(again)[0] == 0
    assert real_store.read_guard("netconf-none").done


def test_an_interface_without_a_guard_is_not_held_up_by_those_of_others(store, links, network, firewall, messages):
    run_hook(store, "pre-up", IF_NETCONF_GUARD="yes")
    asked = list(firewall.asked)
    firewall.broken = "busy"
    links.plug("wlan0", 8)
    for phase in ("pre-up", "up", "down", "post-down"):
        assert run_hook(store, phase, iface="wlan0", **RULES) == 0
    assert firewall.asked == asked
    assert store.read_guard("eth0").verdict == "closed"


def test_a_guard_is_put_up_within_the_hooks_deadline(store, links, firewall):
    left = []
    real = firewall.close

    def close(*arguments, **more):
        left.append(signal.getitimer(signal.ITIMER_REAL)[0])
        real(*arguments, **more)

    firewall.close = close
    run_hook(store, "pre-up", IF_NETCONF_GUARD="yes")
    assert 0 < left[0] <= hook.ACTING_TIME
