"""The mapping script: its lines, its choice on a machine that is made up, and its contract with ifup."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear import DEAR

from netconf_hooks.guard import early
from netconf_hooks.mappings import mapping
from netconf_hooks.mappings.mapping import MapLines, RaisedLink, choose_stanza, read_lines
from netconf_hooks.observation import Answer
from netconf_hooks.place import Question
from netconf_hooks.system.netlink import IFF_UP, LinkStatus, NetlinkError

CHECKOUT = Path(__file__).parents[3]
HOME = "peer=192.168.1.1/52:54:00:0a:00:01"


def names(text):
    """The stanzas of the lines that can be read."""
    return [line.name for line in read_lines(text).locations]


def reasons(text):
    """What is wrong, line by line."""
    return [str(error) for error in read_lines(text).errors]


class TestLines:
    def test_what_the_manual_shows(self):
        lines = read_lines(f"home-lan {HOME}\nno-cable carrier=no\ndefault: elsewhere\ntimeout: 3\n")
        assert [(line.name, [test.text for test in line.tests]) for line in lines.locations] == [
            ("home-lan", [HOME]), ("no-cable", ["carrier=no"]),
        ]  # fmt: skip
        assert (lines.default, lines.timeout, lines.errors) == ("elsewhere", 3.0, ())

    def test_nothing_written(self):
        assert read_lines("") == MapLines((), "", 5.0, ())

    def test_blank_lines_and_comments(self):
        assert names(f"\n  # carrier=no\nhome {HOME} # the router\n") == ["home"]

    def test_names_of_stanzas_are_freer_than_those_of_locations(self):
        assert names("Home carrier=yes\neth0:1 carrier=yes\nunknown carrier=yes\n") == ["Home", "eth0:1", "unknown"]

    def test_the_last_option_wins(self):
        assert read_lines("default: a\ntimeout: 1\ndefault: b\ntimeout: 2.5\n") == MapLines((), "b", 2.5, ())

    @pytest.mark.parametrize("line, reason", [
        ("home", 'expected at least one test after "home"'),
        ("peer=192.168.1.1 carrier=yes", "expected the name of a stanza first"),
        (f"{'x' * 80} carrier=yes", "expected the name of a stanza first"),
        ("home peer=192.168.1.300", "expected an address, or an address and a MAC address"),
        ("home peer", "expected a test (KEY=VALUE)"),
        ("home peer=192.168.1.1 gateway=192.168.1.1", '"gateway" can\'t be tested before the interface is configured'),
        ("home tls=a:1/sha256:" + 64 * "0", '"tls" can\'t be tested before'),
        ("home reach=a:1", '"reach" can\'t be tested before'),
        ('home "peer=', "a quote is opened and not closed"),
        ("default:", 'expected the name of one stanza after "default:"'),
        ("default: a b", 'expected the name of one stanza after "default:"'),
        ("default: !a", 'expected the name of one stanza after "default:"'),
        ("timeout: soon", "expected seconds"),
        ("timeout:", "nothing is written there"),
        ("defualt: home", 'expected "default:", "timeout:" or the name of a stanza, not "defualt:"'),
    ])
    def test_what_cannot_be_read_is_told_with_its_line_and_matches_nothing(self, line, reason):
        (error,) = reasons(f"{line}\nwork carrier=yes")
        assert error.startswith('map "') and reason in error
        assert names(f"{line}\nwork carrier=yes") == ["work"]
        assert (read_lines(line).default, read_lines(line).timeout) == ("", 5.0)

    @given(st.text() | st.lists(st.sampled_from(
        ["a", "b:", "default:", "timeout:", "carrier=yes", "peer=::1", "=", "!", ",", "#", '"', "'", "\\", " ", "\n"]
    )).map("".join))  # fmt: skip
    def test_nothing_is_raised_and_every_name_fits_a_line(self, text):
        lines = read_lines(text)
        for name in (lines.default or "x", *[line.name for line in lines.locations]):
            assert name.isprintable() and len(name) < 80 and name.split() == [name]


class FakeKernel:
    """One link, as netlink tells and sets it; what was done to it, in order."""

    def __init__(self, up=False, carrier=True, cable_after=None):
        self.up, self.plugged, self.cable_after = up, carrier, cable_after
        self.done = []
        self.broken = None

    def __call__(self, groups=()):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_link(self, device):
        if self.broken:
            raise self.broken
        if device != "eth0":
            return None
        flags = IFF_UP if self.up else 0
        return LinkStatus(7, "eth0", flags, self.up, self.up and self.plugged, "02:00:00:00:00:01")

    def ask(self, kind, flags, body):
        self.up = bool(int.from_bytes(body[8:12], sys.byteorder) & IFF_UP)
        assert kind == 16 and int.from_bytes(body[4:8], sys.byteorder) == 7
        assert int.from_bytes(body[12:16], sys.byteorder) == IFF_UP  # nothing else is changed
        self.done.append("up" if self.up else "down")
        return []

    def wait_for_carrier(self, device, deadline):
        self.done.append("wait")
        self.plugged = self.plugged or self.cable_after is not None
        return self.get_link(device)


@pytest.fixture
def kernel(monkeypatch):
    kernel = FakeKernel()
    monkeypatch.setattr(mapping, "Netlink", kernel)
    monkeypatch.setattr(early, "is_any_guarded", lambda stanzas, path: False)  # not of this machine's stanzas
    return kernel


class TestRaisedLink:
    def test_a_link_that_was_down_is_down_again(self, kernel):
        with RaisedLink("eth0") as link:
            assert kernel.up and link.wait_for_carrier(3)
        assert kernel.done == ["up", "down"]

    def test_a_link_that_was_up_stays_up(self, kernel):
        kernel.up = True
        with RaisedLink("eth0") as link:
            assert link.wait_for_carrier(3)
        assert kernel.done == [] and kernel.up

    def test_it_is_waited_for_a_cable_only_where_it_was_down(self, kernel):
        kernel.plugged, kernel.cable_after = False, 1
        with RaisedLink("eth0") as link:
            assert link.wait_for_carrier(3)
        assert kernel.done == ["up", "wait", "down"]
        kernel.__init__(up=True, carrier=False)
        with RaisedLink("eth0") as link:
            assert not link.wait_for_carrier(3)
        assert kernel.done == []

    def test_it_is_down_again_whatever_happens(self, kernel):
        with pytest.raises(mapping.Ended), RaisedLink("eth0"):
            raise mapping.Ended
        assert kernel.done == ["up", "down"]

    def test_no_such_device(self, kernel):
        with RaisedLink("eth9") as link:
            assert link.status is None and not link.wait_for_carrier(3)
        assert kernel.done == []

    def test_only_looked_at(self, kernel):
        with RaisedLink("eth0", needed=False) as link:
            assert link.status.index == 7 and not link.wait_for_carrier(3)
        assert kernel.done == []

    @pytest.mark.parametrize("files, veth", [
        ({"ifindex": "2", "iflink": "2"}, False),  # a network card
        ({"ifindex": "2", "iflink": "6"}, True),
        ({"ifindex": "2", "iflink": "6", "lower_eth0": ""}, False),  # a VLAN
        ({}, False),
    ])
    def test_what_has_nothing_to_negotiate(self, tmp_path, files, veth):
        (tmp_path / "eth0").mkdir()
        for name, text in files.items():
            (tmp_path / "eth0" / name).write_text(f"{text}\n")
        assert mapping._is_veth("eth0", str(tmp_path)) is veth


@pytest.fixture
def asked(monkeypatch):
    """Who answers at once, by value; returns what was asked of the network."""
    asked = []
    there = {"192.168.1.1/52:54:00:0a:00:01"}

    def ask_network(find_questions, answers, link, deadline):
        while questions := [question for question in find_questions() if question not in asked]:
            question = questions[0]
            asked.append(question)
            seen = (question.value,) if question.value in there else ()
            before = answers.get(question.key, Answer())
            answers[question.key] = Answer(
                values=before.values + seen,
                problem="" if seen else f"{question.value}: silent",
                settled=before.settled + (question.value,),
                refuted=before.refuted + (() if seen else (question.value,)),
            )

    monkeypatch.setattr("netconf_hooks.evidence.probes.ask_network", ask_network)
    return asked


class TestChoice:
    def test_the_first_line_that_holds(self, kernel, asked, messages):
        assert choose_stanza("eth0", f"other peer=192.0.2.1\nhome {HOME}\nlater carrier=yes\n") == "home"
        assert messages == [f'info: eth0: home: map "home {HOME}"']
        assert kernel.done == ["up", "down"]

    def test_a_line_that_holds_by_what_is_cheap_asks_nobody(self, kernel, asked, messages):
        assert choose_stanza("eth0", f"wired carrier=yes\nhome {HOME}\n") == "wired"
        assert asked == []

    def test_the_default(self, kernel, asked, messages):
        assert choose_stanza("eth0", "home peer=192.0.2.1\ndefault: dhcp") == "dhcp"
        assert messages == ["info: eth0: dhcp: no map line holds (peer 192.0.2.1: silent)"]

    def test_without_default_the_interfaces_own_name(self, kernel, asked, messages):
        assert choose_stanza("eth0:1", "home peer=192.0.2.1") == "eth0:1"
        assert choose_stanza("eth0", "") == "eth0"

    def test_a_line_with_an_error_never_matches(self, kernel, asked, messages):
        assert choose_stanza("eth0", f"bad {HOME} gateway=192.168.1.1\ndefault: dhcp") == "dhcp"
        assert messages[0].startswith(f'error: eth0: map "bad {HOME} gateway=192.168.1.1": "gateway" can\'t be tested')
        assert kernel.done == []  # nothing is left to be asked

    def test_the_name_of_the_interface_needs_no_link(self, kernel, asked, messages):
        assert choose_stanza("eth0", "wired interface=eth*") == "wired"
        assert kernel.done == []

    def test_nothing_plugged_in(self, kernel, asked, messages):
        kernel.plugged = False
        assert choose_stanza("eth0", "none carrier=no\n") == "none"

    def test_no_such_device(self, kernel, asked, messages):
        assert choose_stanza("eth9", "none carrier=no\ndefault: dhcp") == "dhcp"

    def test_a_kernel_that_cannot_be_asked(self, kernel, asked, messages):
        kernel.broken = NetlinkError(5)
        assert choose_stanza("eth0", f"home {HOME}\ndefault: dhcp") == "dhcp"
        assert messages[0].startswith("error: eth0: no map line counts: the kernel's tables could not be read")

    def test_earlier_peers_get_a_quarter_of_a_second(self, monkeypatch):
        clock = [100.0]
        monkeypatch.setattr(mapping.time, "monotonic", lambda: clock[0])
        answers = {}
        lines = read_lines("other peer=192.0.2.1\nhome peer=192.0.2.2").locations
        remaining = mapping._Remaining(lines, answers)
        other, home = Question("peer", "192.0.2.1"), Question("peer", "192.0.2.2")
        assert remaining.list_questions() == [other, home]
        answers["peer"] = Answer(("192.0.2.2",), settled=("192.0.2.2",))
        assert remaining.list_questions() == [other]
        clock[0] += mapping.EARLIER_PATIENCE - 0.01
        assert remaining.list_questions() == [other]
        clock[0] += 0.01
        assert remaining.list_questions() == []

    def test_earlier_commands_get_all_their_time(self, monkeypatch):
        clock = [100.0]
        monkeypatch.setattr(mapping.time, "monotonic", lambda: clock[0])
        answers = {"peer": Answer(("192.0.2.2",), settled=("192.0.2.2",))}
        lines = read_lines("other command=/x\nhome peer=192.0.2.2").locations
        remaining = mapping._Remaining(lines, answers)
        for _ in range(3):
            assert remaining.list_questions() == [Question("command", "/x")]
            clock[0] += 1


def copy_script(directory, script):
    """Write the script so that it finds this checkout, and return its path."""
    text = (CHECKOUT / script).read_text()
    packages = "/usr/lib/python3/dist-packages"
    assert text.startswith("#!/usr/bin/python3 -IS\n") and packages in text
    copy = directory / "script"
    copy.write_text(text.replace(f'"{packages}"', f'"{CHECKOUT}"); sys.path.append("{packages}"'))
    return copy


def run(script, *arguments, text="", options=()):
    """Run a script as its first line says."""
    argv = [sys.executable, "-IS", *options, str(script), *arguments]
    return subprocess.run(argv, input=text, env={}, capture_output=True, text=True, timeout=20)


SCRIPTS = ("libexec/map", "sbin/guessnet-ifupdown")


class TestScript:
    """The scripts as ifup runs them, of a device that there is not: nothing of this machine is touched."""

    def test_the_name_and_nothing_else_is_printed(self, tmp_path):
        result = run(copy_script(tmp_path, "libexec/map"), "nosuch0", text=f"x y=z\nhome {HOME}\ndefault: dhcp\n")
        assert (result.returncode, result.stdout) == (0, "dhcp\n")
        assert 'netconf-hooks: nosuch0: map "x y=z": no such test: "y"' in result.stderr

    @pytest.mark.parametrize("script", SCRIPTS)
    @pytest.mark.parametrize("arguments", [(), ("a", "b"), ("../x",), ("",)])
    def test_no_interface(self, tmp_path, script, arguments):
        result = run(copy_script(tmp_path, script), *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert "usage:" in result.stderr

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_without_the_library(self, tmp_path, script):
        (tmp_path / "script").write_text((CHECKOUT / script).read_text().replace("/usr/lib/python3", str(tmp_path)))
        result = run(tmp_path / "script", "nosuch0", text="default: x\n")
        assert (result.returncode, result.stdout) == (1, "")
        assert "python3-netconf-hooks is missing" in result.stderr

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_it_can_be_run(self, script):
        assert os.access(CHECKOUT / script, os.X_OK)

    def test_nothing_dear_is_imported(self, tmp_path):
        script = copy_script(tmp_path, "libexec/map")
        bare = run("-", options=("-X", "importtime"), text="pass").stderr
        result = run(script, "lo", text="timeout: 0.2\nlo interface=lo peer=127.0.0.1\n", options=("-X", "importtime"))
        assert result.stdout == "lo\n"
        loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if "import time:" in line}
        loaded -= {line.rpartition("|")[2].strip() for line in bare.splitlines()}
        assert "netconf_hooks.place" in loaded
        assert {module for module in loaded if module.partition(".")[0] in DEAR} == set()
