"""The records below /run/netconf-hooks: nothing is lost, nothing half is ever read, and locks exclude."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from many import MANY
from situations import make_record

from netconf_hooks import state
from netconf_hooks.exemption import Exemption
from netconf_hooks.observation import Answer, ENCRYPTED, OPEN, Observation, Place, PortalNotice
from netconf_hooks.state import (
    DIRECTORY, EventRecord, FORMAT, GuardRecord, InterfaceRecord, Lock, Pass, PresenceRecord, RecordError,
    Store, TunnelRecord, TunnelState
)  # fmt: skip
from tests.lab.waiting import wait_until

CHECKOUT = str(Path(__file__).parents[2])

few = settings(max_examples=min(30, MANY), deadline=None)

# Whatever an environment can hold: newlines, control characters, bytes that are no UTF-8 (PEP 383), other scripts.
hostile = st.text(
    st.characters(blacklist_categories=()) | st.sampled_from("\n\r\t\0\x0b\x0c\x1b\x1c\x85\u2028\\ '\"#\udcff"),
    max_size=30,
)
plain = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
several = st.lists(hostile, max_size=3).map(tuple)
observations = st.builds(
    Observation,
    iface=st.just("eth0"),
    index=st.integers(0, 2**31),
    answers=st.dictionaries(hostile, st.builds(Answer, several, st.booleans(), hostile, several, several), max_size=3),
    routable=st.booleans(),
    wireless=st.sampled_from(["", OPEN, ENCRYPTED]),
    observed_at=st.floats(0, 1e9),
    portal=st.builds(PortalNotice, several, hostile, st.lists(plain, max_size=2).map(tuple)),
)
places = st.builds(
    Place,
    location=hostile,
    line=hostile,
    grade=st.sampled_from(["", "hint", "authenticated"]),
    undecided=st.booleans(),
    words=st.dictionaries(hostile, st.sampled_from([True, False, None]), max_size=3),
)
records = st.builds(
    InterfaceRecord,
    iface=st.just("eth0"),
    passes=st.lists(
        st.builds(
            Pass, hostile, st.dictionaries(plain, hostile, max_size=3), hostile, hostile,
            st.sampled_from(["", "4711:123456", "unknown"]), st.sampled_from(["up", "kept", "leaving", "ended"]),
            st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    observation=observations,
    place=places,
    losses=st.integers(0, 2**32 - 1),
)
tunnels = st.lists(
    st.builds(TunnelRecord, plain, plain, st.sampled_from(["up", "down"]), hostile, st.booleans(), hostile, hostile),
    max_size=3,
).map(lambda made: {(one.kind, one.name): one for one in made})
variables = st.dictionaries(plain, hostile, max_size=3)

OFFICE = make_record(
    iface="eth0",
    index=7,
    passes=(
        Pass(
            "inet",
            {"netconf-location": "home gateway=192.0.2.1\noffice gateway=192.0.2.2", "dns-domain": "x"},
            "office",
        ),
        Pass("inet6", {}),
    ),
    location="office",
    line="office gateway=192.0.2.2",
    grade="hint",
    routable=True,
    words={"!dns-domain=example.com": None},
    seen={"gateway": ("192.0.2.2", "fe80::1"), "dns-domain": Answer((), problem="no lease")},
)
CORP = TunnelRecord("openvpn", "corp", "up", 'eth0 is at an unknown place: "on anywhere"', False, "no such program")


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "run"))
    store.prepare()
    return store


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A store for hypothesis, which calls a test many times."""
    store = Store(str(tmp_path_factory.mktemp("store") / "run"))
    store.prepare()
    return store


def expand(record):
    """Return all of a record, options in their order: dictionaries compare equal in any."""
    return record, [(stanza.family, list(stanza.options.items())) for stanza in record.passes]


def test_the_default_stands_in_one_place():
    assert Store().directory == DIRECTORY == "/run/netconf-hooks"


# Round trips


@few
@given(record=records)
@example(record=OFFICE)
def test_an_interfaces_record_comes_back_as_it_was(shared, record):
    shared.write_interface(record)
    back = shared.read_interface("eth0")
    assert expand(back) == expand(record)


@few
@given(made=tunnels)
@example(made={("openvpn", "corp"): CORP})
def test_decisions_on_tunnels_come_back_as_they_were(shared, made):
    shared.write_tunnels(made)
    assert list(shared.read_tunnels().items()) == list(made.items())


@few
@given(
    presences=st.lists(st.builds(PresenceRecord, plain, st.lists(plain, max_size=3).map(tuple), variables), max_size=3),
    events=st.lists(st.builds(EventRecord, plain, variables), max_size=3),
)
def test_what_was_and_is_to_be_told_comes_back_as_it_was(shared, presences, events):
    shared.write_presences(presences)
    shared.write_events(events)
    assert shared.read_presences() == tuple(presences)
    assert shared.read_events() == tuple(events)


def test_a_record_can_be_read_with_cat(store):
    store.write_interface(OFFICE)
    text = Path(store.interfaces, "eth0").read_text()
    assert text.startswith(f"{FORMAT}\nindex 7\nfamily inet\nlogical office\n")
    assert "\noption netconf-location home gateway=192.0.2.1\noption netconf-location office gateway" in text
    assert "\nlocation office\n" in text
    assert "\nproblem no lease\n" in text


def test_values_can_not_forge_lines(store):
    store.write_interface(
        make_record("eth0", 1, (Pass("inet", {"netconf-vpn": "a\rindex 9"}),), location="x\nlocation office")
    )
    assert Path(store.interfaces, "eth0").read_text().isascii()
    back = store.read_interface("eth0")
    assert back.observation.index == 1
    assert back.place.location == "x\nlocation office"


# Nothing there


def test_where_nothing_was_written_nothing_is_found(tmp_path):
    store = Store(str(tmp_path / "nothing"))
    assert store.read_interface("eth0") is None
    assert store.read_interfaces(pytest.fail) == ()
    assert store.read_tunnels() == {}


def test_an_interface_is_forgotten(store):
    store.write_interface(OFFICE)
    store.remove_interface("eth0")
    assert store.read_interface("eth0") is None
    store.remove_interface("eth0")
    assert os.listdir(store.interfaces) == []


def test_without_decisions_there_is_no_file_of_them(store):
    store.write_tunnels({("openvpn", "corp"): CORP})
    store.write_tunnels({})
    assert not os.path.exists(store.tunnels)
    store.write_tunnels({})


# Damage


@few
@given(cut=st.integers(0, 600))
def test_a_truncated_record_raises_nothing_else(shared, cut):
    shared.write_interface(OFFICE)
    path = Path(shared.interfaces, "eth0")
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    try:
        back = shared.read_interface("eth0")
    except RecordError as error:
        assert "eth0" in str(error)
    else:
        found = back and (back.observation.index, back.place.location, back.passes)
        assert found in (None, (7, "office", OFFICE.passes))


def test_an_empty_file_is_no_record(store):
    Path(store.interfaces, "eth0").write_bytes(b"")
    with pytest.raises(RecordError, match="interfaces/eth0"):
        store.read_interface("eth0")


@few
@given(garbage=st.one_of(st.binary(max_size=200), hostile.map(lambda text: text.encode(errors="surrogatepass"))))
@example(garbage=b"value x")
@example(garbage=b"index 1\nproblem x")
@example(garbage=b"index nine")
@example(garbage=b"index \\x3")
@example(garbage=b"option a \\u12")
@example(garbage=b"told x\nset A \\x4")
@example(garbage=b"told ")
@example(garbage=b"set A b")
@example(garbage=b"openvpn\tcorp\tup\tdone\t\\x4\t")
@example(garbage=b"openvpn\tcorp\tsideways\tdone\t\t")
def test_garbage_raises_nothing_else(shared, garbage):
    for content in (garbage, FORMAT.encode() + b"\n" + garbage, b"netconf-hooks 0\n" + garbage):
        for path, read in (
            (f"{shared.interfaces}/eth0", lambda: shared.read_interface("eth0")),
            (shared.tunnels, shared.read_tunnels),
            (shared.presences, shared.read_presences),
            (shared.events, shared.read_events),
        ):
            Path(path).write_bytes(content)
            try:
                read()
            except RecordError:
                pass
            os.unlink(path)


@pytest.mark.parametrize("first", ["netconf-hooks 2", "netconf-hooks 11", "", "netconf-hooks"])
def test_another_versions_files_are_refused(store, first):
    store.write_interface(OFFICE)
    store.write_tunnels({("openvpn", "corp"): CORP})
    for path in (f"{store.interfaces}/eth0", store.tunnels):
        text = Path(path).read_text()
        assert text.startswith(FORMAT + "\n")
        Path(path).write_text(first + text[len(FORMAT):])
    with pytest.raises(RecordError, match="not a record of this version"):
        store.read_interface("eth0")
    with pytest.raises(RecordError, match="tunnels"):
        store.read_tunnels()


def test_what_is_no_file_is_an_error_of_ours(store):
    os.mkdir(f"{store.interfaces}/eth0")
    os.mkdir(store.tunnels)
    with pytest.raises(RecordError, match="interfaces/eth0"):
        store.read_interface("eth0")
    with pytest.raises(RecordError, match="tunnels"):
        store.read_tunnels()


def test_a_record_just_written_is_not_read_back(store):
    store.write_interface(make_record("eth0", 3, ()))
    store.write_interface(make_record("wlan0", 8, ()))
    assert store.read_interfaces(pytest.fail, {"eth0": OFFICE}) == (OFFICE, make_record("wlan0", 8, ()))
    store.remove_interface("eth0")
    assert store.read_interfaces(pytest.fail, {"eth0": OFFICE}) == (make_record("wlan0", 8, ()),)


def _age(directory, name):
    """Let a file be a second older than it is."""
    changed = os.stat(f"{directory}/{name}").st_mtime_ns - 10**9
    os.utime(f"{directory}/{name}", ns=(changed, changed))


def test_a_record_is_parsed_once_as_long_as_it_is_the_same_file(store, monkeypatch):
    parsed = []
    real = state._parse_interface
    monkeypatch.setattr(state, "_parse_interface", lambda iface, lines: [parsed.append(iface), real(iface, lines)][1])
    other = Store(store.directory)
    store.write_interface(OFFICE)
    for _ in range(3):
        assert store.read_interface("eth0") == OFFICE
    assert parsed == ["eth0"] * 3, "within a tick of the clock another file may look the same"
    parsed.clear()
    _age(store.interfaces, "eth0")
    for _ in range(3):
        assert store.read_interface("eth0") == OFFICE
        assert store.read_interfaces(pytest.fail) == (OFFICE,)
    assert parsed == ["eth0"]
    for routable in (True, False):
        another = OFFICE.change(observation=OFFICE.observation.change(routable=routable))
        other.write_interface(another)
        assert store.read_interface("eth0") == another
    Path(store.interfaces, "eth0").write_text("cut off\n")
    with pytest.raises(RecordError):
        store.read_interface("eth0")
    other.remove_interface("eth0")
    assert store.read_interface("eth0") is None
    assert store.read_interfaces(pytest.fail) == ()


def test_which_interfaces_ask_for_a_guard_is_read_once_as_long_as_the_files_are_the_same(store, monkeypatch):
    read = []
    real = state.read_file
    monkeypatch.setattr(state, "read_file", lambda *what, **how: [read.append(what), real(*what, **how)][1])
    asking = Pass("inet", {"netconf-guard": "yes"}, iface="eth0")
    store.write_interface(make_record("eth0", 3, (asking,)))
    _age(store.interfaces, "eth0")
    read.clear()
    assert store.list_asking() == store.list_asking() == ["eth0"]
    assert len(read) == 1
    store.write_interface(make_record("eth0", 3, (asking.change(options={"netconf-guard": "no"}),)))
    assert store.list_asking() == []


def test_what_can_not_be_read_now_is_asked_for_a_guard_again(store, monkeypatch):
    store.write_interface(make_record("eth0", 3, (Pass("inet", {"netconf-guard": "yes"}, iface="eth0"),)))
    _age(store.interfaces, "eth0")

    def fail(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(state, "read_file", fail)
        assert store.list_asking() == []
    assert store.list_asking() == ["eth0"]


def test_one_damaged_record_does_not_hide_the_others(store):
    store.write_interface(OFFICE)
    store.write_interface(make_record("wlan0", 8, ()))
    Path(store.interfaces, "eth1").write_text("rubbish\n")
    problems = []
    found = store.read_interfaces(problems.append)
    assert [record.iface for record in found] == ["eth0", "wlan0"]
    assert len(problems) == 1
    assert "eth1" in problems[0]


# Killed writers


def test_a_writer_killed_before_the_renaming_leaves_the_old_record(store, monkeypatch):
    store.write_interface(OFFICE)
    store.write_tunnels({("openvpn", "corp"): CORP})

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        store.write_interface(make_record("eth0", 9, ()))
    with pytest.raises(KeyboardInterrupt):
        store.write_tunnels({("unit", "x"): TunnelRecord("unit", "x", "down", "", True)})
    monkeypatch.undo()

    assert store.read_interfaces(pytest.fail) == (OFFICE,)
    assert store.read_tunnels() == {("openvpn", "corp"): CORP}
    # What it left behind is written over, not kept for ever.
    assert os.listdir(store.interfaces) != ["eth0"]
    store.write_interface(make_record("eth0", 9, ()))
    assert os.listdir(store.interfaces) == ["eth0"]
    assert store.read_interface("eth0").observation.index == 9


def test_a_writer_killed_in_the_middle_of_a_line_leaves_the_old_record(store):
    store.write_interface(OFFICE)
    Path(store.interfaces, ".eth0.new").write_text("netconf-hooks 1\nindex 9\nloca")
    assert store.read_interfaces(pytest.fail) == (OFFICE,)
    store.write_interface(OFFICE)
    assert store.read_interface("eth0") == OFFICE


def test_a_full_disk_leaves_the_old_record(store):
    store.write_interface(OFFICE)
    os.symlink("/dev/full", f"{store.interfaces}/.eth0.new")
    with pytest.raises(OSError):
        store.write_interface(make_record("eth0", 9, ()))
    assert store.read_interface("eth0") == OFFICE


# Permissions


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_any_user_may_read_and_only_root_may_write(tmp_path, umask):
    store = Store(str(tmp_path / "run"))
    before = os.umask(umask)
    try:
        store.prepare()
        store.prepare()
        store.write_interface(OFFICE)
        store.write_tunnels({("openvpn", "corp"): CORP})
        with store.lock_records(), store.lock_acting():
            pass
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")
    }
    assert modes == {
        "run": 0o755,
        "run/guards": 0o755,
        "run/interfaces": 0o755,
        "run/interfaces/eth0": 0o644,
        "run/tunnels": 0o644,
        "run/records.lock": 0o600,
        "run/acting.lock": 0o600,
    }


def test_a_directory_that_is_there_is_left_as_it_is(tmp_path):
    (tmp_path / "run").mkdir(0o700)
    Store(str(tmp_path / "run")).prepare()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


# Locks


def is_free(lock):
    """Return whether nobody holds a lock, without waiting."""
    import fcntl

    descriptor = os.open(lock.path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def test_the_two_locks_are_two(store):
    with store.lock_records():
        assert not is_free(store.lock_records())
        assert is_free(store.lock_acting())
    with store.lock_acting():
        assert is_free(store.lock_records())


def test_a_lock_excludes_and_is_passed_on(store):
    order = []
    entered = threading.Event()

    def wait_for_it():
        entered.set()
        with store.lock_records():
            order.append("second")

    with store.lock_records():
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        entered.wait()
        thread.join(0.05)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_lock_can_be_taken_only_if_it_is_free(store):
    lock = store.lock_events()
    assert lock.take()
    assert not store.lock_events().take()
    lock.release()
    with store.lock_events():
        assert not lock.take()
    assert lock.take()
    lock.release()


def test_a_lock_is_released_by_an_exception(store):
    with pytest.raises(KeyboardInterrupt):
        with store.lock_acting():
            raise KeyboardInterrupt
    assert is_free(store.lock_acting())


def test_the_kernel_releases_the_lock_of_a_killed_hook(store):
    program = (
        f"import sys; sys.path.append({CHECKOUT!r})\n"
        "from netconf_hooks.state import Store\n"
        f"lock = Store({store.directory!r}).lock_acting()\n"
        "lock.__enter__()\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-IS", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        assert not is_free(store.lock_acting())
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert wait_until(lambda: is_free(store.lock_acting()), "the dead holder's lock")


def test_a_child_does_not_inherit_a_lock(store):
    with store.lock_acting():
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, close_fds=False)
    try:
        assert is_free(store.lock_acting())
    finally:
        child.communicate(b"")


def test_a_lock_needs_its_directory(tmp_path):
    with pytest.raises(FileNotFoundError):
        with Lock(str(tmp_path / "nothing/records.lock")):
            pytest.fail("held without a file")


# Guards


lines = st.lists(hostile, max_size=3).map(tuple)
openings = st.lists(st.sampled_from([
    str(Exemption()), str(Exemption("udp", "192.0.2.1/32", 1194, uids=(0, 7), mark=3)),
    str(Exemption("tcp", "2001:db8::/64", source_port=22, reply=True)), str(Exemption("esp")),
]), max_size=3).map(tuple)  # fmt: skip
addresses = st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2"]), max_size=2).map(tuple)
times = st.floats(0, 2**33)
options = st.dictionaries(plain, hostile, max_size=3)
families = st.sampled_from(["inet", "inet6", "inet,inet6", "any"])
guards = st.builds(
    lambda **facts: GuardRecord("eth0", **facts),
    passes=st.lists(
        st.builds(Pass, families, options, hostile, st.sampled_from(["eth0", "eth0:1", "eth0:a b"])), max_size=3
    ).map(tuple),
    backend=st.sampled_from(["nftables", "iptables-legacy", "iptables-nft"]),
    verdict=st.sampled_from(["closed", "open", "released"]),
    because=hostile,
    exemptions=openings,
    names=lines,
    servers=addresses,
    done=st.booleans(),
    opened=st.booleans(),
    fingerprint=hostile,
    shut_at=times,
    portal_until=times,
    portal_exemptions=openings,
    dns_until=times,
    dns_exemptions=openings,
    problem=hostile,
    former=st.sampled_from(["", "nftables", "iptables-legacy", "iptables-nft nftables"]),
)


@few
@given(record=guards)
def test_a_guard_reads_as_it_was_written(tmp_path_factory, record):
    store = Store(str(tmp_path_factory.mktemp("run")))
    store.prepare()
    assert not store.has_guards()
    store.write_guard(record)
    assert store.has_guards()
    assert store.read_guard("eth0") == record
    assert store.read_guards(pytest.fail) == (record,)
    Path(store.guards, "eth0").read_text("ascii")
    store.remove_guard("eth0")
    store.remove_guard("eth0")
    assert store.read_guard("eth0") is None and not store.has_guards()


def test_a_guards_passes_keep_whose_they_are(store):
    options = {"netconf-guard": "yes", "netconf-location": "office gateway=192.0.2.1\noffice gateway=192.0.2.2"}
    passes = (
        Pass("inet", options, "work", "eth0", "4711:123456"),
        Pass("inet", {}, "work", "eth0", "4711:123456", "leaving", False),
        Pass("inet", {"netconf-guard": "no"}, "eth0:1", "eth0:1"),
    )
    store.write_guard(GuardRecord("eth0", "nftables", passes=passes))
    assert store.read_guard("eth0").passes == passes
    # One that belongs to nobody makes no sense of the others: such a guard stays as it is, which is closed.
    path = Path(store.guards, "eth0")
    path.write_text(path.read_text() + "family inet\nlogical \n")
    with pytest.raises(RecordError, match="guard of eth0"):
        store.read_guard("eth0")


@few
@given(record=guards, data=st.data())
def test_a_guard_that_is_cut_off_or_damaged_is_never_half_read(tmp_path_factory, record, data):
    store = Store(str(tmp_path_factory.mktemp("run")))
    store.prepare()
    store.write_guard(record)
    path = Path(store.guards, "eth0")
    written = path.read_bytes().splitlines()
    # Of the facts that say whether it is open, one is missing.
    fact = data.draw(st.sampled_from([b"verdict", b"opened", b"done", b"shut", b"backend", b"scene"]))
    path.write_bytes(b"\n".join(line for line in written if not line.startswith(fact + b" ")))
    with pytest.raises(RecordError, match="guard of eth0"):
        store.read_guard("eth0")
    told = []
    assert store.read_guards(told.append) == ()
    assert len(told) == 1
    path.write_text("rubbish\n")
    with pytest.raises(RecordError):
        store.read_guard("eth0")
    assert store.has_guards()


def test_a_changed_guard_is_another_record():
    record = GuardRecord("eth0", "nftables", because="it is coming up")
    assert (record.verdict, record.opened, record.done) == ("closed", False, False)
    changed = record.change(verdict="open", opened=True)
    assert (record.verdict, changed.verdict, changed.opened, changed.because) == (
        "closed", "open", True, "it is coming up"
    )  # fmt: skip
    assert changed.change(verdict="closed", opened=False) == record


def test_guards_do_not_mix_with_interfaces_nor_with_what_a_killed_writer_left(tmp_path):
    store = Store(str(tmp_path / "run"))
    store.prepare()
    Path(store.guards, ".eth0.new").write_text("half")
    assert not store.has_guards()
    store.write_guard(GuardRecord("eth0", "nftables"))
    assert [guard.device for guard in store.read_guards(pytest.fail)] == ["eth0"]
    assert store.read_interfaces(pytest.fail) == ()
    assert not store.has_interfaces()
    assert stat.S_IMODE(os.stat(store.guards).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(f"{store.guards}/eth0").st_mode) == 0o644


states = st.builds(
    TunnelState, plain, plain, hostile, *[st.floats(0, 1e9)] * 3, st.integers(0, 99), st.floats(0, 1e9),
    st.integers(0, 9), hostile, st.floats(0, 1e9), st.integers(-1, 2**40), st.integers(0, 2),
)  # fmt: skip


@few
@given(state=states)
def test_what_the_watcher_has_seen_of_a_tunnel_is_read_as_it_was_written(shared, state):
    shared.write_states([state])
    assert shared.read_states() == {(state.kind, state.name): state}


@few
@given(reason=hostile)
def test_why_an_initiator_failed_is_read_as_it_was_written(shared, reason):
    assert shared.read_reason("ipsec", "other") == ""
    shared.write_reason("ipsec", "work", reason)
    assert shared.read_reason("ipsec", "work") == reason
    shared.write_reason("ipsec", "work", "")
    assert shared.read_reason("ipsec", "work") == ""


def test_a_tunnel_that_could_not_be_stopped_is_unfinished(store):
    store.prepare()
    for verdict, done, held, unfinished in (
        ("down", False, "", True), ("down", True, "", False), ("up", False, "", False), ("down", False, "held", False)
    ):  # fmt: skip
        store.write_tunnels({("unit", "x"): TunnelRecord("unit", "x", verdict, "", done, held=held)})
        assert store.is_unfinished() is unfinished
