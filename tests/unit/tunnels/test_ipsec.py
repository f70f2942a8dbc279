"""ipsec: whose connection it is, and what is asked for; tests/lab/test_ipsec.py has the real daemons.

The programs are scripts that print what the real ones did.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_systemd import FakeSystemd

from netconf_hooks.system.netlink import Netlink
from netconf_hooks.tunnels import Endpoint, TunnelError, load_tunnel
from netconf_hooks.tunnels.ipsec import Tunnel, explain_reason

FIXTURES = Path(__file__).parent / "fixtures"
SWANCTL = "connections {{ {name} {{ children {{ {child} {{\n start_action = {action}\n }} }} }} }}\n"

# Prints the fixture that stands in the file named like the question, and says what it was called with.
SCRIPT = """\
#!/bin/sh
echo "${{0##*/}} $*" >>{directory}/calls
for word in "$@"; do
    file={directory}/answer"$word"
    if [ -e "$file" ]; then
        sed 1d "$(cat "$file")"
        exit "$(cat "$file.status")"
    fi
done
"""


class FakeInitiator:
    """Keeps what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.running = False
        self.reason = ""

    def request(self) -> None:
        """As attempt.Initiator."""
        self.asked.append("request")

    def cancel(self) -> None:
        """As attempt.Initiator."""
        self.asked.append("cancel")

    def is_running(self) -> bool:
        """As attempt.Initiator."""
        return self.running

    def read_reason(self) -> str:
        """As attempt.Initiator."""
        return self.reason


class Machine:
    """Configuration files and programs of the test's own."""

    def __init__(self, directory: Path, fake: FakeSystemd) -> None:
        self.directory = directory
        self.swanctl_conf = directory / "swanctl.conf"
        self.ipsec_conf = directory / "ipsec.conf"
        self.strongswan_conf = directory / "strongswan.conf"
        self.programs = directory / "bin"
        self.programs.mkdir()
        self.initiator = FakeInitiator()
        self.fake = fake

    def install(self, program: str, version: str = "") -> None:
        """Install swanctl, or the ipsec of somebody."""
        file = self.programs / program
        file.write_text(SCRIPT.format(directory=self.directory))
        file.chmod(0o755)
        if version:
            self.answer("--version", version)

    def answer(self, question: str, fixture: str) -> None:
        """Lay down what a program prints when this word is among its arguments."""
        header = (FIXTURES / fixture).read_text().splitlines()[0]
        (self.directory / f"answer{question}").write_text(str(FIXTURES / fixture))
        status = header.rpartition("exit status ")[2].rstrip(")")
        (self.directory / f"answer{question}.status").write_text(status)

    def write_swanctl(self, name: str = "work", child: str = "work", action: str = "none") -> None:
        """Write swanctl.conf."""
        self.swanctl_conf.write_text(SWANCTL.format(name=name, child=child, action=action))

    def write_ipsec(self, name: str = "work", auto: str = "add") -> None:
        """Write ipsec.conf."""
        self.ipsec_conf.write_text(f"conn {name}\n    right=203.0.113.1\n    auto={auto}\n")

    @property
    def calls(self) -> list[str]:
        """How the programs were called, but for their versions."""
        file = self.directory / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if "--version" not in line]

    def tunnel(self, name: str = "work") -> Tunnel:
        return Tunnel(
            name,
            swanctl_conf=str(self.swanctl_conf),
            ipsec_conf=str(self.ipsec_conf),
            strongswan_conf=str(self.strongswan_conf),
            path=f"/nonexistent:{self.programs}",
            systemd=self.fake.systemd(),
            initiator=self.initiator,
        )


@pytest.fixture
def machine(tmp_path: Path, fake: FakeSystemd) -> Machine:
    return Machine(tmp_path, fake)


@pytest.fixture
def strongswan(machine: Machine) -> Machine:
    """With all of strongSwan, and nothing running."""
    machine.install("swanctl")
    machine.install("ipsec", "strongswan-version")
    machine.answer("--list-sas", "swanctl-not-running")
    machine.answer("--list-conns", "swanctl-not-running")
    machine.answer("status", "ipsec-status-stopped")
    machine.answer("statusall", "ipsec-status-stopped")
    return machine


@pytest.fixture
def libreswan(machine: Machine) -> Machine:
    """With Libreswan, and nothing running."""
    machine.install("ipsec", "libreswan-version")
    for question in ("--status", "--trafficstatus", "--showstates"):
        machine.answer(question, "whack-stopped")
    return machine


def complaint(tunnel: Tunnel, method: str = "check") -> str:
    with pytest.raises(TunnelError) as caught:
        getattr(tunnel, method)()
    return str(caught.value)


def test_it_is_what_the_rules_name():
    assert isinstance(load_tunnel("ipsec", "work"), Tunnel)


def test_nothing_is_installed(machine):
    machine.write_swanctl()
    assert complaint(machine.tunnel()) == "neither swanctl (strongSwan) nor ipsec (strongSwan, Libreswan) is installed"
    assert machine.tunnel().is_up() is False
    assert machine.tunnel().boot_start() == ""
    machine.tunnel().stop()


def test_an_unknown_name_is_told_with_all_that_was_looked_at(strongswan):
    strongswan.write_swanctl()
    looked = f"{strongswan.swanctl_conf}, {strongswan.ipsec_conf} (No such file or directory), "
    looked += f"charon ({strongswan.programs}/swanctl --list-conns): it does not run, "
    looked += f"charon ({strongswan.programs}/ipsec statusall): it does not run"
    for method in ("check", "start", "connect"):
        assert complaint(strongswan.tunnel("nosuch"), method) == f"no connection of this name: looked in {looked}"
    assert strongswan.initiator.asked == []


def test_a_user_who_may_not_ask_is_told_so(strongswan):
    strongswan.answer("--list-conns", "swanctl-denied")
    strongswan.answer("statusall", "ipsec-status-denied")
    assert complaint(strongswan.tunnel()).count("only root may query charon") == 2


def test_several_of_one_name(strongswan):
    strongswan.write_swanctl()
    strongswan.write_ipsec()
    places = f"connection work in {strongswan.swanctl_conf}, conn work in {strongswan.ipsec_conf}"
    assert complaint(strongswan.tunnel(), "start") == f'"work" can mean several connections: {places}'
    strongswan.write_swanctl("hq", "work")
    assert f"child work of connection hq in {strongswan.swanctl_conf}, conn " in complaint(strongswan.tunnel())


@pytest.mark.parametrize("write", [Machine.write_swanctl, Machine.write_ipsec])
def test_one_that_is_down_is_asked_for(strongswan, write):
    write(strongswan)
    tunnel = strongswan.tunnel()
    assert tunnel.is_up() is False
    tunnel.start()
    assert strongswan.initiator.asked == ["request"]
    assert not any("initiate" in call or " up " in call for call in strongswan.calls), "that is the attempt's"


@pytest.mark.parametrize(
    ("write", "question", "fixture"),
    [(Machine.write_swanctl, "--list-sas", "swanctl-sas-up"), (Machine.write_ipsec, "statusall", "ipsec-statusall-up")],
)
def test_one_that_is_up_is_left_as_it_is(strongswan, write, question, fixture):
    write(strongswan)
    strongswan.answer(question, fixture)
    assert strongswan.tunnel().is_up() is True
    strongswan.tunnel().start()
    assert strongswan.initiator.asked == []


def test_up_is_each_child_of_the_connection(strongswan):
    strongswan.answer("--list-sas", "swanctl-sas-up")
    strongswan.swanctl_conf.write_text("connections { work { children { work {}\n more {} } } }")
    assert strongswan.tunnel("work").is_up() is False
    assert strongswan.tunnel("more").is_up() is False


def test_who_may_not_know_says_nothing(strongswan):
    strongswan.write_swanctl()
    strongswan.answer("--list-sas", "swanctl-denied")
    assert strongswan.tunnel().is_up() is None


def test_what_only_the_daemon_knows(strongswan):
    strongswan.answer("--list-conns", "swanctl-conns")
    strongswan.answer("--list-sas", "swanctl-sas-none")
    strongswan.tunnel("two").check()
    strongswan.tunnel().start()
    assert strongswan.initiator.asked == ["request"]
    strongswan.answer("--list-sas", "swanctl-sas-up")
    assert strongswan.tunnel().is_up() is True


def test_stopping_ends_the_attempt_first(strongswan):
    strongswan.write_swanctl()
    strongswan.tunnel().stop()
    assert strongswan.initiator.asked == ["cancel"]
    assert not any("terminate" in call for call in strongswan.calls), "nothing runs"


@pytest.mark.parametrize("configured", [True, False])
def test_stopping_ends_the_whole_session(strongswan, configured):
    if configured:
        strongswan.write_swanctl()
    strongswan.answer("--list-sas", "swanctl-sas-no-child")
    strongswan.tunnel().stop()
    ident = 2 if "uniqueid = 2\n" in (FIXTURES / "swanctl-sas-no-child").read_text() else 3
    assert f"swanctl --terminate --ike-id {ident} --force --timeout 1" in strongswan.calls


def test_what_does_not_end_is_an_error(strongswan):
    strongswan.write_swanctl()
    strongswan.answer("--list-sas", "swanctl-sas-up")
    assert complaint(strongswan.tunnel(), "stop") == "it is still installed"


@pytest.mark.parametrize(
    ("action", "auto", "expected"),
    [
        ("none", "add", ""),
        ("start", "add", "start_action = start of work in {machine.swanctl_conf}"),
        ("trap", "route", ""),
        ("none", "start", "auto = start in {machine.ipsec_conf}"),
    ],
)
def test_what_starts_with_the_daemon(strongswan, action, auto, expected):
    strongswan.write_swanctl(action=action)
    strongswan.write_ipsec(auto=auto)
    assert strongswan.tunnel().boot_start() == expected.format(machine=strongswan)


def test_libreswan_is_found_by_its_version(libreswan):
    libreswan.write_ipsec(auto="up")
    libreswan.tunnel().check()
    assert libreswan.tunnel().boot_start() == f"auto = up in {libreswan.ipsec_conf}"
    assert libreswan.tunnel().is_up() is False
    libreswan.tunnel().start()
    assert libreswan.initiator.asked == ["request"]
    assert "pluto" in complaint(libreswan.tunnel("nosuch"))


@pytest.mark.parametrize("version", ["4", "5"])
def test_libreswan_says_which_is_up(libreswan, version):
    libreswan.answer("--trafficstatus", f"whack-{version}-traffic")
    assert libreswan.tunnel().is_up() is True
    libreswan.answer("--trafficstatus", f"whack-{version}-traffic-subnets")
    assert libreswan.tunnel("nets").is_up() is True
    assert libreswan.tunnel().is_up() is False
    libreswan.answer("--status", f"whack-{version}-status")
    libreswan.tunnel("nets").check()
    assert "no connection of this name" in complaint(libreswan.tunnel("net"))


def test_libreswan_tells_root_only(libreswan):
    libreswan.answer("--trafficstatus", "whack-denied")
    assert libreswan.tunnel().is_up() is None
    assert "only root" in complaint(libreswan.tunnel(), "stop")


def test_libreswan_is_made_to_forget_what_does_not_end(libreswan):
    libreswan.answer("--trafficstatus", "whack-5-traffic")
    libreswan.answer("--showstates", "whack-5-states")
    assert complaint(libreswan.tunnel(), "stop") == "pluto does not end it"
    ending = [call for call in libreswan.calls if "--name" in call]
    assert [call.split()[-1] for call in ending] == ["--terminate", "--terminate", "--delete"]


# What an attempt does.


def test_a_unit_that_is_not_there(strongswan):
    strongswan.write_swanctl()
    strongswan.fake.answer_show("LoadState=not-found\nActiveState=inactive\n\n" * 2)
    units = "strongswan.service or strongswan-starter.service"
    assert complaint(strongswan.tunnel(), "connect") == f"its daemon does not run, and there is no unit {units}"


def test_a_unit_that_fails(strongswan):
    strongswan.write_ipsec()
    strongswan.fake.answer_show("LoadState=loaded\nActiveState=failed\n")
    strongswan.fake.absent()
    strongswan.fake.boot()
    strongswan.fake.answer_call("Job failed.\n", 1)
    strongswan.fake.answer_show("LoadState=loaded\nActiveState=inactive\n\nLoadState=not-found\nActiveState=inactive\n")
    told = complaint(strongswan.tunnel(), "connect")
    assert told == "systemctl start strongswan-starter.service: Job failed."


def test_connected_is_what_charon_says_afterwards(strongswan):
    strongswan.write_ipsec("other")
    strongswan.answer("status", "ipsec-status-up")
    strongswan.answer("statusall", "ipsec-statusall")
    strongswan.answer("up", "ipsec-up-refused")
    expected = "establishing connection 'other' failed (received TS_UNACCEPTABLE notify, no CHILD_SA built)"
    assert complaint(strongswan.tunnel("other"), "connect") == expected
    # Also when the exit status and the words are those of success.
    strongswan.answer("up", "ipsec-up")
    assert complaint(strongswan.tunnel("other"), "connect") == "no CHILD_SA was installed"


def test_one_that_is_up_is_not_initiated_again(strongswan):
    strongswan.write_swanctl()
    strongswan.answer("--list-sas", "swanctl-sas-up")
    strongswan.answer("--list-conns", "swanctl-conns")
    strongswan.tunnel().connect()
    assert not any("initiate" in call for call in strongswan.calls)


@pytest.mark.thorough
def test_what_charon_has_not_loaded_is_loaded(strongswan):
    strongswan.write_swanctl("new", "new")
    strongswan.answer("--list-sas", "swanctl-sas-none")
    strongswan.answer("--list-conns", "swanctl-conns")
    strongswan.answer("--load-all", "swanctl-load")
    assert complaint(strongswan.tunnel("new"), "connect") == "charon did not load it"
    assert "swanctl --load-all --noprompt" in strongswan.calls


def test_libreswan_told_the_kernels_reason(libreswan):
    libreswan.write_ipsec()
    for question, fixture in (("--status", "whack-4-status"), ("--initiate", "whack-initiate-no-esp")):
        libreswan.answer(question, fixture)
    libreswan.answer("--trafficstatus", "whack-4-traffic-subnets")
    assert "Function not implemented" in complaint(libreswan.tunnel(), "connect")
    steps = ("--listen", "addconn", "--initiate")
    done = [word for call in libreswan.calls for word in call.split() if word in steps]
    assert done == list(steps), "loaded again: left=%defaultroute is another address by now"


# Where its packets go.


def endpoints_of(host: str, *ports: tuple[int, int], version: int = 4) -> tuple[Endpoint, ...]:
    """Return IKE from each first port to each second one, and ESP."""
    flows = [Endpoint(host, "udp", remote, version, source_port=local) for local, remote in ports]
    return (*flows, Endpoint(host, "esp", 0, version))


USUAL = ((500, 500), (4500, 4500))


def test_endpoints_of_swanctl(strongswan):
    remote = "remote_addrs = 203.0.113.1, vpn.example\n"
    strongswan.swanctl_conf.write_text(f"connections {{ hq {{\n{remote} children {{ work {{}} }} }} }}\n")
    expected = (*endpoints_of("203.0.113.1", *USUAL), *endpoints_of("vpn.example", *USUAL, version=0))
    assert strongswan.tunnel("work").endpoints() == strongswan.tunnel("hq").endpoints() == expected
    assert strongswan.calls == [], "the files say all"


def test_endpoints_of_ipsec_conf(strongswan):
    strongswan.write_ipsec()
    assert strongswan.tunnel().endpoints() == endpoints_of("203.0.113.1", *USUAL)


def test_endpoints_of_either_daemon(strongswan):
    """Which of the two runs can change until the packets go."""
    strongswan.write_ipsec()
    strongswan.strongswan_conf.write_text("charon {\nport = 5000\n}\ncharon-systemd {\nport_nat_t = 5500\n}\n")
    expected = {Endpoint("203.0.113.1", "udp", remote, 4, source_port=local)
                for local, remote in ((5000, 500), (4500, 4500), (5500, 4500))}
    assert set(strongswan.tunnel().endpoints()) == expected | {Endpoint("203.0.113.1", "esp", 0, 4)}
    strongswan.strongswan_conf.write_text("charon {\nport = 0\nuser = daemon\n}\n")
    assert strongswan.tunnel().endpoints()[0] == Endpoint("203.0.113.1", "udp", 500, 4, uids=(0, 1))
    strongswan.strongswan_conf.write_text("charon {\nport_nat_t = 0\n}\n")
    assert complaint(strongswan.tunnel(), "endpoints").startswith("charon.port_nat_t is 0: charon uses a random port")


def test_a_daemon_of_one_family(strongswan):
    strongswan.ipsec_conf.write_text("conn work\n    right=vpn.example\n")
    strongswan.strongswan_conf.write_text("charon { plugins { socket-default {\n use_ipv6 = no\n} } }\n")
    assert strongswan.tunnel().endpoints() == endpoints_of("vpn.example", *USUAL)


@pytest.mark.parametrize(
    ("question", "fixture", "name"),
    [("--list-conns", "swanctl-conns", "two"), ("--list-conns", "swanctl-conns", "work"),
     ("statusall", "ipsec-statusall", "other")],
)  # fmt: skip
def test_endpoints_that_only_charon_knows(strongswan, question, fixture, name):
    strongswan.answer(question, fixture)
    assert strongswan.tunnel(name).endpoints() == endpoints_of("203.0.113.1", *USUAL)


def test_endpoints_that_nobody_knows(strongswan):
    strongswan.write_swanctl()
    assert complaint(strongswan.tunnel(), "endpoints") == (
        f"connection work in {strongswan.swanctl_conf}: "
        'remote_addrs "%any" names no address that the guard could let pass'
    )
    assert "no connection of this name" in complaint(strongswan.tunnel("nosuch"), "endpoints")


def test_endpoints_of_libreswan(libreswan):
    libreswan.write_ipsec()
    assert libreswan.tunnel().endpoints() == endpoints_of("203.0.113.1", *USUAL)
    libreswan.answer("--status", "whack-5-status")
    told = complaint(libreswan.tunnel("nets"), "endpoints")
    assert told == f"connection nets in pluto: {libreswan.ipsec_conf} does not have it, so its peer is not known"


# How it is doing


@pytest.mark.parametrize(
    ("sessions", "running", "up", "words"),
    [
        ("swanctl-sas-up", False, True, ""),
        ("swanctl-sas-none", False, False, "its security association is gone"),
        ("swanctl-sas-none", True, False, "its gateway does not answer yet"),
        ("swanctl-sas-connecting", False, False, "its gateway does not answer yet"),
    ],
)
def test_how_it_is_doing(machine: Machine, sessions: str, running: bool, up: bool, words: str) -> None:
    machine.install("swanctl")
    machine.write_swanctl()
    machine.answer("--list-sas", sessions)
    machine.initiator.running = running
    found = machine.tunnel().inspect()
    assert (found.up, found.running, found.words) == (up, up or bool("yet" in words), words)
    assert str(machine.swanctl_conf) in found.files


@pytest.mark.parametrize(("sessions", "stuck"), [("swanctl-sas-up", False), ("swanctl-sas-mobike", True)])
def test_one_whose_gateway_does_not_answer_is_up_and_stuck(machine: Machine, sessions: str, stuck: bool) -> None:
    machine.install("swanctl")
    machine.write_swanctl()
    machine.answer("--list-sas", sessions)
    found = machine.tunnel().inspect()
    assert (found.up, found.stuck, found.remedies) == (True, stuck, ("nudge", "restart"))
    assert machine.tunnel().nudge() == "", "charon repeats its request by itself first"


@pytest.mark.parametrize("states", ["whack-4-states", "whack-5-states"])
@pytest.mark.parametrize(("own", "stuck"), [("203.0.113.9", False), ("203.0.113.10", True)])
def test_one_of_libreswans_whose_address_is_gone_is_up_and_stuck(
    libreswan: Machine, monkeypatch: pytest.MonkeyPatch, states: str, own: str, stuck: bool
) -> None:
    monkeypatch.setattr(Netlink, "is_own", lambda self, address: address == own)
    libreswan.answer("--status", "whack-4-status")
    libreswan.answer("--trafficstatus", "whack-4-traffic")
    libreswan.answer("--showstates", states)
    found = libreswan.tunnel().inspect()
    assert (found.up, found.stuck) == (True, stuck)


@pytest.mark.parametrize(
    ("reason", "words", "refused"),
    [
        ("received NO_PROPOSAL_CHOSEN notify error",
         "the gateway accepts none of the proposals (NO_PROPOSAL_CHOSEN)", False),
        ("received AUTHENTICATION_FAILED notify error",
         "the gateway refused the user name, password, key or certificate (AUTHENTICATION_FAILED)", True),
        ("something else", "something else", False),
        ("", "", False),
    ],
)  # fmt: skip
def test_a_daemons_reason_in_the_admins_words(reason: str, words: str, refused: bool) -> None:
    assert explain_reason(reason) == (words, refused)
