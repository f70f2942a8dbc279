"""Commands without root: what a request may say, who shows its answer, and how often users may ask."""

import os
import re
import signal
import threading
from pathlib import Path

import pytest
from guarded import ELSEWHERE
from hypothesis import example, given
from hypothesis import strategies as st

from netconf_hooks import cli

from netconf_hooks.commands import portal as portal_module, unprivileged, want
from netconf_hooks.commands.entry import CommandError, FAILED, OK, UNREADABLE
from netconf_hooks.commands.request import has_uid, LONGEST_NAME, read_instance, read_request, RequestError
from netconf_hooks.evidence import portal_page
from netconf_hooks.requests import ask, fulfil
from netconf_hooks.requests.ask import PORTAL_UNIT
from netconf_hooks.stanzas.interfaces import InterfacesError, read_names
from netconf_hooks.system import log, programs

# What a request's words may consist of: a unit's name may contain all of it, and it means nothing to ifup or a shell.
HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]*", re.ASCII)

REQUESTS = {
    ("refresh",): ("refresh", ["refresh"]),
    ("portal", "1000", "wlan0"): ("portal-1000-wlan0", ["portal", "wlan0"]),
    ("portal", "0", "br-lan:1"): ("portal-0-br-lan:1", ["portal", "br-lan:1"]),
    ("release", "eth0.7"): ("release-eth0.7", ["release", "eth0.7"]),
    ("hold", "0", "openvpn", "corp"): ("hold-0-openvpn-corp", ["hold", "openvpn", "corp"]),
    ("hold", "7200", "unit", "a-b@c"): ("hold-7200-unit-a-b@c", ["hold", "unit", "a-b@c", "--for", "7200s"]),
    ("unhold", "ipsec", "x"): ("unhold-ipsec-x", ["unhold", "ipsec", "x"]),
    ("want", "corp-2"): ("want-corp-2", ["want", "corp-2"]),
    ("unwant", "corp"): ("unwant-corp", ["unwant", "corp"]),
}

HOSTILE = (
    "", "-a", "--all", "eth0=corp", "corp=eth0", "../corp", "/etc/passwd", "corp/", "e*", "eth?", "[a]", "corp\n",
    "corp corp", " corp", "corp;id", "$(id)", "`id`", "${IFS}", "%i", "\\x2d", "corp\x00", "corp\udce9", "\u0441orp",
    ".", "..", "_x", "corp#", "~", "!corp", "corp,eth0", "corp|x", "corp'", 'corp"', "a" * (LONGEST_NAME + 1),
    "a" * 100000,
)  # fmt: skip


# The words


@pytest.mark.parametrize("words", REQUESTS)
def test_a_request_is_the_instance_of_a_unit_and_a_command_line(words):
    instance, arguments = REQUESTS[words]
    request = read_request(words)
    assert (request.instance, request.list_arguments()) == (instance, arguments)
    assert read_instance(instance) == request


def test_each_command_that_polkit_knows_has_a_request_and_an_option_of_the_parser():
    assert {words[0] for words in REQUESTS} == set(unprivileged.ASKABLE)
    for _, arguments in REQUESTS.values():
        assert cli._make_parser().parse_args(arguments).command == arguments[0]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize("words", [
    ("want", "{}"), ("unwant", "{}"), ("portal", "1000", "{}"), ("release", "{}"), ("unhold", "openvpn", "{}"),
    ("hold", "0", "openvpn", "{}"), ("hold", "0", "{}", "corp"), ("hold", "{}", "openvpn", "corp"),
    ("portal", "{}", "eth0"), ("{}",), ("{}", "corp"), ("refresh", "{}"),
])  # fmt: skip
def test_no_word_of_an_enemy_gets_through(words, hostile):
    with pytest.raises(RequestError) as raised:
        read_request([word.format(hostile) for word in words])
    assert len(str(raised.value)) < 300 and str(raised.value).isprintable()


@pytest.mark.parametrize("words", [
    (), ("want",), ("want", "corp", "corp"), ("portal", "wlan0"), ("hold", "openvpn", "corp"), ("watch",), ("close",),
    ("status",), ("refresh", "eth0"), ("hold", "007", "openvpn", "corp"), ("hold", "-1", "openvpn", "corp"),
    ("hold", "31622401", "openvpn", "corp"), ("hold", "\u0665", "openvpn", "corp"), ("portal", "4294967295", "eth0"),
    ("portal", "99999999999999999999", "eth0"), ("hold", "0", "carrierpigeon", "corp"), ("hold", "0", "openvpn", "on"),
])  # fmt: skip
def test_other_words_are_no_request(words):
    with pytest.raises(RequestError):
        read_request(words)


@given(st.lists(st.one_of(
    st.text(max_size=10), st.sampled_from(["want", "portal", "hold", "unhold", "1000", "0", "openvpn", "unit", "corp"])
), max_size=5))
@example(["want", "a" * LONGEST_NAME])
@example(["want", "a-"])
def test_whatever_is_read_is_harmless_and_comes_back(words):
    try:
        request = read_request(words)
    except RequestError:
        return
    assert HARMLESS.fullmatch(request.instance)
    assert len(PORTAL_UNIT.format(request.instance)) < 256
    assert read_instance(request.instance) == request
    assert all(HARMLESS.fullmatch(word.removeprefix("--")) for word in request.list_arguments())


@given(st.text())
@example("portal-1000")
@example("want-")
@example("refresh-")
def test_whatever_the_instance_is_it_is_checked_again(instance):
    try:
        assert read_instance(instance).instance == instance
    except RequestError:
        pass


# The program that pkexec runs


class Running:
    """A systemd that runs, or not."""

    def __init__(self, running=True):
        self.is_running = lambda: running


UNANSWERED = (
    "netconf-hooks: refresh: netconf-hooks-request@refresh.service has not answered: the system's log says why\n"
)


@pytest.fixture
def answers(store, tmp_path, capfd, monkeypatch):
    """A function that asks, where a unit does what a shell script says; it returns exit status, output and complaints.

    The script gets the file of the answer as $1.
    """
    store.prepare()
    (tmp_path / "run/interfaces/eth0").touch()
    (tmp_path / "interfaces").write_text(
        "iface corp inet manual\n    netconf-uplink eth0\niface eth0 inet dhcp\nmapping m*\n    script /x\n"
    )

    monkeypatch.setattr(ask, "LATE", 0.3)

    def run(*words, script="exit 0", uid="1000", running=True, first='rm -f "$1"'):
        program = tmp_path / "systemctl"
        program.write_text(f"""#!/bin/sh
            echo "$*" >>{tmp_path}/started
            instance=${{2#netconf-hooks-request*@}}
            set -- {store.requests}/${{instance%.service}}
            mkdir -p {store.requests}
            {first}
            {script}
        """)
        program.chmod(0o755)
        environ = {"PKEXEC_UID": uid} if uid else {}
        status = ask.ask(words, environ, Running(running), store, str(program), str(tmp_path / "interfaces"))
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    def read_started():
        path = tmp_path / "started"
        return path.read_text().splitlines() if path.exists() else []

    run.read_started = read_started
    return run


def test_the_answer_is_shown_and_complaints_go_to_standard_error(answers):
    script = r"""printf 'corp: up\nnetconf-hooks: corp: waiting\n' >"$1"; printf 'not whole' >>"$1"
        printf '\n\033[2Jx\n\0001\n' >>"$1" """
    assert answers("want", "corp", script=script) == (
        1, "corp: up\nnot whole\n\\x1b[2Jx\n", "netconf-hooks: corp: waiting\n"
    )  # fmt: skip
    assert answers.read_started() == ["start netconf-hooks-request@want-corp.service"]


def test_for_whom_a_portal_is_says_pkexec_and_nobody_else(answers):
    assert answers("portal", "eth0", script=r"printf '\0000\n' >$1") == (0, "", "")
    assert answers.read_started() == ["start netconf-hooks-request-portal@portal-1000-eth0.service"]
    assert answers("portal", "0", "eth0")[0] == UNREADABLE
    assert answers("portal", "eth0", uid="")[0] == UNREADABLE
    assert len(answers.read_started()) == 1


def test_the_answer_before_is_not_shown_again(answers, store):
    assert answers("want", "corp", script=r"printf 'first\n\0001\n' >$1") == (1, "first\n", "")
    assert answers("want", "corp", script=r"printf 'second\n\0000\n' >$1") == (0, "second\n", "")
    status, output, errors = answers("want", "corp", script="exit 1")
    assert (status, output) == (FAILED, "")
    assert errors == (
        "netconf-hooks: want: netconf-hooks-request@want-corp.service has not answered: the system's log says why\n"
    )


def test_an_answer_that_has_begun_before_is_ours_too(answers, store):
    """Somebody else has asked for the same: systemd has one unit for both."""
    os.mkdir(store.requests)
    with open(store.path_of_answer("want-corp"), "w", encoding="ascii") as file:
        file.write("waiting\n")
    script = r"""printf 'done\n\0000\n' >>"$1" """
    assert answers("want", "corp", script=script, first=":") == (0, "waiting\ndone\n", "")


@pytest.mark.parametrize("words, status", [
    (("want", "eth0"), FAILED), (("want", "nothing"), FAILED), (("release", "eth9"), FAILED),
    (("portal", "corp"), FAILED), (("want", "../corp"), UNREADABLE), ((), UNREADABLE),
])  # fmt: skip
def test_for_nothing_no_unit_is_started(answers, words, status):
    """Else one user could have as many units as there are names."""
    ended, output, errors = answers(*words)
    assert (ended, output, errors.count("\n")) == (status, "", 1)
    assert answers.read_started() == []


def test_without_systemd_it_says_so(answers):
    said = "netconf-hooks: refresh: without systemd, only root may do this\n"
    assert answers("refresh", running=False) == (1, "", said)


def test_an_answer_that_the_next_unit_has_begun_is_waited_for(answers, monkeypatch, store):
    """Two users have asked for the same, one after the other: the first one's answer is gone."""

    def wait(condition, timeout, _):
        assert timeout == ask.LATE and not condition()
        with open(store.path_of_answer("refresh"), "ab") as file:
            file.write(b"too soon\n\x001\n")
        return condition()

    monkeypatch.setattr(ask, "wait_until", wait)
    script = "printf 'netconf-hooks: refresh: ' >$1"
    assert answers("refresh", script=script) == (1, "", "netconf-hooks: refresh: too soon\n")


def test_the_answer_of_a_unit_that_is_about_to_end_is_taken(answers, store):
    """systemd then starts no other; a unit that fails has no answer."""
    store.prepare()
    Path(store.requests).mkdir()
    path = Path(store.path_of_answer("refresh"))
    for status, answer in (("0", (1, "", "netconf-hooks: refresh: too soon\n")), ("1", (1, "", UNANSWERED))):
        path.write_text("netconf-hooks: refresh: too soon\n\x001\n")
        assert answers("refresh", script=f"exit {status}", first="") == answer


def test_who_interrupts_is_told_that_it_goes_on(answers, tmp_path):
    script = f"echo waiting >$1; trap '' INT; mkfifo {tmp_path}/gate; echo >{tmp_path}/begun; read x <{tmp_path}/gate"
    os.mkfifo(tmp_path / "begun")

    def interrupt():
        (tmp_path / "begun").read_text()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    status, _, errors = answers("want", "corp", script=script)
    thread.join()
    assert status == 130
    assert errors == "netconf-hooks: want: it continues in the background; netconf-hooks unwant corp ends it\n"


def test_it_is_not_for_users(monkeypatch, capfd, as_user):
    monkeypatch.setattr(ask, "_leave_user", lambda: None)
    assert ask.main(["refresh"]) == UNREADABLE
    assert capfd.readouterr().err == "netconf-hooks: only pkexec runs this program: netconf-hooks COMMAND\n"


# In the unit


@pytest.fixture
def root(monkeypatch, as_root):
    for variable in ("SUDO_UID", "PKEXEC_UID"):
        monkeypatch.setenv(variable, "7")
        monkeypatch.delenv(variable)


@pytest.fixture
def ask_for(command, store, root, monkeypatch, capfd):
    """A function that lets the unit do what a user has asked for."""
    monkeypatch.setattr(portal_module, "_find_resolver_user", lambda: None)
    monkeypatch.setattr(portal_module, "list_resolver_users", lambda: ())
    monkeypatch.setattr(portal_module, "find_portals", lambda link, deadline: ((), ()))
    monkeypatch.setattr(portal_page, "follow_redirects", lambda view: ())
    monkeypatch.setattr(portal_module, "_find_routers", lambda link: ())

    def run(*words):
        status = fulfil.fulfil(read_request(words), store)
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


AGAIN = "netconf-hooks: portal: without root once for each network: on this one, use sudo netconf-hooks portal eth0\n"


def test_a_portal_once_for_each_network_whoever_asks(ask_for, cafe, firewall, place):
    said = "eth0: for 300 s http, https and DNS pass for the user with uid 1000\n"
    assert ask_for("portal", "1000", "eth0") == (OK, said, "")
    assert {uid for each in firewall.get_window("eth0", "portal").exemptions for uid in each.uids} == {1000}
    assert ask_for("portal", "1000", "eth0") == (FAILED, "", AGAIN)
    assert ask_for("portal", "1001", "eth0") == (FAILED, "", AGAIN)
    place.scenes["eth0"] = ELSEWHERE
    assert ask_for("portal", "1001", "eth0")[0] == OK
    assert ask_for("portal", "1001", "eth0") == (FAILED, "", AGAIN)


def test_a_portal_that_failed_does_not_count(ask_for, cafe, firewall, store):
    firewall.broken = "busy"
    assert ask_for("portal", "1000", "eth0") == (FAILED, "", "netconf-hooks: eth0: busy\n")
    assert store.read_portals() == []
    firewall.broken = ""
    assert ask_for("portal", "1000", "eth0")[0] == OK


def test_a_portal_where_there_is_no_guard(ask_for, store):
    store.prepare()
    assert ask_for("portal", "1000", "eth0") == (FAILED, "", "netconf-hooks: eth0: not up, or without netconf rules\n")
    assert store.read_portals() == []


def test_a_damaged_list_of_portals_allows_none(ask_for, cafe, firewall, store):
    with open(store.portals, "w", encoding="ascii") as file:
        file.write("nonsense")
    status, output, errors = ask_for("portal", "1000", "eth0")
    assert (status, output) == (FAILED, "")
    assert "requests.portal" in errors
    assert firewall.get_window("eth0", "portal") is None


def test_only_so_many_networks_are_remembered(ask_for, cafe, store, monkeypatch):
    monkeypatch.setattr(fulfil, "MOST_NETWORKS", 2)
    with store.lock_records():
        store.write_portals([("eth1", "a"), ("eth0", "of another version"), ("eth1", "b")])
    assert ask_for("portal", "1000", "eth0")[0] == OK
    assert [text for _, text in store.read_portals()][:-1] == ["b"]


def test_a_refresh_once_in_ten_seconds(ask_for, cafe, monkeypatch, store):
    now = 1000.0
    monkeypatch.setattr(fulfil, "boot_time", lambda: now)
    assert ask_for("refresh") == (OK, "", "")
    now = 1003.0
    said = "netconf-hooks: refresh: the last one was 3 s ago; without root once in 10 s: wait 7 s, or use sudo\n"
    assert ask_for("refresh") == (FAILED, "", said)
    now = 1010.0
    assert ask_for("refresh") == (OK, "", "")


def test_the_ten_seconds_begin_at_its_end(ask_for, cafe, monkeypatch):
    times = iter([1000.0, 1025.0, 1030.0])
    monkeypatch.setattr(fulfil, "boot_time", lambda: next(times))
    assert ask_for("refresh")[0] == OK
    assert ask_for("refresh")[0] == FAILED


def test_what_else_users_ask_for_has_no_limit(ask_for, cafe, firewall):
    for _ in range(2):
        assert ask_for("release", "eth0") == (
            OK, "eth0: released: anything may leave, unencrypted, until the next ifup\n", ""
        )  # fmt: skip
    assert firewall.stands == {}


def test_the_answer_is_a_file_for_root_alone(store, root, monkeypatch):
    monkeypatch.setattr(fulfil, "Store", lambda: store)
    monkeypatch.setattr(os, "dup2", lambda old, new: kept.append(os.dup(old)))
    monkeypatch.setattr(fulfil, "fulfil", lambda request, store: 1)
    kept: list[int] = []
    written = []
    monkeypatch.setattr(fulfil.os, "write", lambda number, data: written.append((number, data)))
    assert fulfil.main(["want-corp"]) == 0
    path = store.path_of_answer("want-corp")
    assert [os.stat(each).st_mode & 0o777 for each in (path, store.requests)] == [0o600, 0o700]
    assert os.path.samestat(os.fstat(kept[0]), os.stat(path)) and len(kept) == 2
    assert written == [(1, b"\0001\n")]
    for descriptor in kept:
        os.close(descriptor)


def test_an_answer_has_an_end_whatever_happens(store, root, monkeypatch, messages):
    def crash(request, store):
        raise KeyError(7)

    monkeypatch.setattr(fulfil, "Store", lambda: store)
    monkeypatch.setattr(fulfil, "fulfil", crash)
    written = []
    monkeypatch.setattr(os, "dup2", lambda old, new: None)
    monkeypatch.setattr(os, "write", lambda number, data: written.append(data))
    with pytest.raises(KeyError):
        fulfil.main(["want-corp"])
    assert written == [b"\0001\n"]


@pytest.mark.parametrize("arguments", [[], ["want"], ["want-../corp"], ["want-corp", "x"], [""]])
def test_the_unit_refuses_what_is_no_request(arguments, store, messages, monkeypatch):
    monkeypatch.setattr(fulfil, "Store", lambda: pytest.fail("opened the store"))
    assert fulfil.main(arguments) == UNREADABLE
    assert messages[0].startswith("error: request: ")


def test_answers_of_before_are_removed(store):
    for name, age in (("want-old", 4000), ("want-new", 10), ("want-corp", 10)):
        os.close(store.open_answer(name))
        path = store.path_of_answer(name)
        os.utime(path, (os.stat(path).st_atime, os.stat(path).st_mtime - age))
    inode = os.stat(store.path_of_answer("want-corp")).st_ino
    with open(store.path_of_answer("want-corp"), "rb") as reader:
        os.close(store.open_answer("want-corp"))
        assert os.stat(store.path_of_answer("want-corp")).st_ino != inode == os.fstat(reader.fileno()).st_ino
    assert sorted(os.listdir(store.requests)) == ["want-corp", "want-new"]


# want and unwant


STANZAS = """
iface corp inet manual
    netconf-vpn openvpn corp
    netconf-uplink eth0
iface child inherits corp
iface eth0 inet dhcp
iface half inet manual
    netconf_uplink eth0
iface half inet6 static
    address 2001:db8::1
iface mapped inet manual
    NETCONF-UPLINK eth0
mapping mapp*
    script /bin/true
"""


@pytest.fixture
def stanzas(tmp_path, monkeypatch, real_ifquery):
    """A function that adds to the stanzas."""
    path = tmp_path / "interfaces"
    path.write_text(STANZAS)
    monkeypatch.setattr(want, "read_names", lambda: read_names(str(path)))
    query = want.query_options
    monkeypatch.setattr(want, "query_options", lambda name: query(name, str(path)))

    def add(text):
        path.write_text(STANZAS + text)

    return add


@pytest.mark.parametrize("name", ["corp", "child"])
def test_a_wish_may_be_brought_up(stanzas, name):
    want.check_wish(name)


@pytest.mark.parametrize("name, said", [
    ("eth0", "eth0: no stanza of this name has netconf-uplink"),
    ("nothing", "nothing: no stanza of this name has netconf-uplink"),
    ("half", "half: another stanza of this name has no netconf-uplink"),
    ("mapped", 'mapped: "mapping mapp*" chooses other stanzas for it'),
])
def test_nothing_else_may(stanzas, name, said):
    with pytest.raises(CommandError, match=f"^{re.escape(said)}$"):
        want.check_wish(name)


def test_where_a_stanza_may_be_hidden_it_may_not(stanzas):
    stanzas("source $HOME/more\n")
    with pytest.raises(CommandError, match="corp: there may be more stanzas of this name: .*only ifupdown expands it"):
        want.check_wish("corp")


@pytest.mark.parametrize("word, program", [("want", "ifup"), ("unwant", "ifdown")])
def test_for_root_it_is_ifup_and_ifdown_themselves(command, root, stanzas, monkeypatch, word, program):
    run = []
    monkeypatch.setattr(os, "execvp", lambda *call: run.append(call) or (_ for _ in ()).throw(OSError("replaced")))
    assert command(word, "corp") == (FAILED, "", "netconf-hooks: replaced\n")
    assert run == [(program, [program, "corp"])]
    assert command(word, "eth0") == (FAILED, "", "netconf-hooks: eth0: no stanza of this name has netconf-uplink\n")
    said = f'netconf-hooks: {word}: "corp=eth0" can\'t be a stanza with netconf-uplink\n'
    assert command(word, "corp=eth0") == (FAILED, "", said)
    assert len(run) == 1


@pytest.mark.parametrize("status, ended, said", [(0, OK, "corp: up\n"), (1, FAILED, "")])
def test_in_the_unit_its_output_is_passed_on(command, root, stanzas, monkeypatch, status, ended, said):
    def run(argv, timeout, leaves, hear):
        assert (argv, leaves) == (["ifup", "corp"], True) and timeout > 300
        hear("waiting \x1b")
        return programs.Result(status, "waiting")

    monkeypatch.setattr(log, "is_answer", lambda: True)
    monkeypatch.setattr(programs, "run", run)
    assert command("want", "corp") == (ended, f"waiting \\x1b\n{said}", "")


def test_an_ifup_that_hangs_is_one_clear_line(command, root, stanzas, monkeypatch):
    def run(*_, **__):
        raise programs.ProgramLate("ifup corp: not done after 360 s, killed")

    monkeypatch.setattr(log, "is_answer", lambda: True)
    monkeypatch.setattr(programs, "run", run)
    assert command("want", "corp") == (FAILED, "", "netconf-hooks: ifup corp: not done after 360 s, killed\n")


# As a user


@pytest.fixture
def user(command, store, stanzas, monkeypatch, tmp_path, as_user):
    """A function that runs the command as a user; `user.asked` is what pkexec was called with.

    The stanzas can be read, and there are a terminal, systemd and polkit.
    """
    pkexec = tmp_path / "pkexec"
    pkexec.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\nexit $(cat {tmp_path}/status)\n')
    pkexec.chmod(0o755)
    (tmp_path / "status").write_text("0")
    (tmp_path / "asked").touch()
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    monkeypatch.setattr(unprivileged, "PKEXEC", str(pkexec))
    monkeypatch.setattr(unprivileged, "AGENT", str(tmp_path / "pkttyagent"))
    monkeypatch.setattr(unprivileged, "BOOTED", str(tmp_path))
    before = signal.getsignal(signal.SIGINT)

    def run(*arguments, status=0):
        (tmp_path / "status").write_text(str(status))
        return command(*arguments)

    run.read_asked = (tmp_path / "asked").read_text
    run.directory = tmp_path
    yield run
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("arguments, words", [
    (("refresh",), "refresh"),
    (("portal", "wlan0"), "portal wlan0"),
    (("portal", "--for", "300", "wlan0"), "portal wlan0"),
    (("release", "eth0"), "release eth0"),
    (("hold", "openvpn", "corp"), "hold 0 openvpn corp"),
    (("-v", "hold", "openvpn", "corp", "--for", "2h"), "hold 7200 openvpn corp"),
    (("unhold", "openvpn", "corp"), "unhold openvpn corp"),
    (("want", "corp"), "want corp"),
    (("unwant", "corp"), "unwant corp"),
])
def test_on_a_terminal_polkit_is_asked(user, arguments, words):
    assert user(*arguments, status=1) == (1, "", "")
    assert user.read_asked() == f"--disable-internal-agent /usr/lib/netconf-hooks/request {words}\n"
    words = words.split()
    read_request([words[0], *(["1000"] if has_uid(words[0]) else []), *words[1:]])


@pytest.mark.parametrize("missing", ["PKEXEC", "BOOTED", 0, 2])
def test_elsewhere_the_line_with_sudo_is_printed(user, monkeypatch, missing):
    if isinstance(missing, str):
        monkeypatch.setattr(unprivileged, missing, "/nowhere")
    else:
        monkeypatch.setattr(os, "isatty", lambda descriptor: descriptor != missing)
    said = "netconf-hooks: portal: only root may do this: sudo netconf-hooks portal wlan0\n"
    assert user("portal", "wlan0") == (FAILED, "", said)
    assert user.read_asked() == ""


@pytest.mark.parametrize("arguments, said", [
    (("portal", "eth0", "--for", "1m"), "portal: only root may use --for and --json: sudo netconf-hooks portal eth0 -"),
    (("portal", "eth0", "--json"), "portal: only root may use --for and --json: sudo netconf-hooks portal eth0 --json"),
    (("refresh", "eth0"), "refresh: only root may use --guards and IFACE: sudo netconf-hooks refresh eth0"),
    (("refresh", "--guards"), "refresh: only root may use --guards and IFACE: sudo netconf-hooks refresh --guards"),
    (("want", "eth0"), "eth0: no stanza of this name has netconf-uplink"),
    (("portal", "a b"), "portal: \"a b\" can't be an interface: sudo netconf-hooks portal 'a b'"),
    (("portal", "a\nb"), "portal: \"a\\nb\" can't be an interface: sudo netconf-hooks portal 'a\\nb'"),
    (("hold", "openvpn", "on"), 'hold: "on" can\'t be the name of a tunnel: the word has a meaning of its own\n'),
    (("want", "*"), 'want: "*" can\'t be a stanza with netconf-uplink\n'),
])
def test_what_can_not_be_asked_for_is_one_clear_line(user, arguments, said):
    status, output, errors = user(*arguments)
    assert (status, output) == (FAILED, "")
    assert errors.startswith(f"netconf-hooks: {said}") and errors.count("\n") == 1
    assert user.read_asked() == ""


@pytest.mark.parametrize("status", [126, 127])
def test_what_polkit_does_not_allow_root_may(user, status):
    said = "netconf-hooks: want: polkit has not allowed it; as root: sudo netconf-hooks want corp\n"
    assert user("want", "corp", status=status) == (status, "", said)


def test_stanzas_that_only_root_can_read_are_left_to_root(user, monkeypatch):
    def refuse(name):
        raise InterfacesError("Permission denied")

    monkeypatch.setattr(want, "query_options", refuse)
    assert user("want", "corp") == (0, "", "")
    assert user.read_asked().endswith(" want corp\n")


def test_an_agent_asks_for_the_password_on_this_terminal_and_ends(user):
    agent = user.directory / "pkttyagent"
    agent.write_text(
        f"#!/bin/bash\necho \"$2 $3 $(id -u)\" >{user.directory}/agent\n"
        f"trap 'echo ended >>{user.directory}/agent; exit' TERM\n"
        "eval \"exec ${1#--notify-fd=}>&-\"\nwhile :; do sleep 0.05; done\n"
    )
    agent.chmod(0o755)
    assert user("refresh") == (0, "", "")
    options, ended = (user.directory / "agent").read_text().splitlines()
    assert re.match(rf"--fallback --process={os.getpid()},\d+ ", options) and ended == "ended"


def test_a_signal_ends_pkexec_and_is_the_exit_status(user):
    (user.directory / "pkexec").write_text("#!/bin/sh\nkill -INT $$\n")
    assert user("refresh") == (130, "", "")


# What is waited for


def test_what_is_waited_for_is_told_in_the_unit(tmp_path):
    cgroup = tmp_path / "cgroup"
    slice_name = "system-netconf\\x2dhooks\\x2drequest.slice"
    cgroup.write_text(f"0::/system.slice/{slice_name}/netconf-hooks-request@want-corp.service\n")
    assert log.is_answer(str(cgroup))
    cgroup.write_text("0::/user.slice/user-1000.slice/session-2.scope\n")
    assert not log.is_answer(str(cgroup))
    assert not log.is_answer(str(tmp_path / "nothing"))


def test_it_is_told_there_though_it_is_no_terminal(monkeypatch, capfd):
    monkeypatch.setattr(log, "is_answer", lambda: True)
    log.tell("raising eth0")
    assert capfd.readouterr().err == "netconf-hooks: raising eth0\n"
