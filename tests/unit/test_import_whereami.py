"""netconf-hooks import-whereami: every statement of a detect.conf is answered for, and every line can be read."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.commands.import_whereami import convert
from netconf_hooks.stanzas.rules import read_rules

MAC = "00:24:5e:17:12:11"


def list_lines(text):
    """Return the location lines without their option."""
    return [
        line.removeprefix("netconf-location ") for line in convert(text) if line.startswith("netconf-location ")
    ]  # fmt: skip


# The tests of whereami(8) 0.3.34: those that its package has, testpppoe of detect.conf(5), and programs like modprobe.
@pytest.mark.parametrize("statement, lines, note", [
    ("testdhcp 192.168.5.* home", ["home interface=eth0 address=192.168.5.0/24"], ""),
    ("testdhcp eth1,192.168.1.1 home", ["home interface=eth1 address=192.168.1.1/32"], ""),
    ("testdhcp '152.81.*.*' univ", ["univ interface=eth0 address=152.81.0.0/16"], ""),
    ("testdhcp '*.*.*.*' dhcp", ["dhcp interface=eth0 address=0.0.0.0/0"], ""),
    ("testdhcp restart dhcp", ["dhcp interface=eth0 address=0.0.0.0/0"], "ifup runs the DHCP client"),
    ("testdhcp stop down", [], "ifdown ends the DHCP client"),
    ("testdhcp 10.0.0.25* x",
     ["x interface=eth0 address=" + ",".join(f"10.0.0.{last}/32" for last in (25, *range(250, 256)))], ""),
    ("testdhcp '10.[12].*' x", [], "is not a network"),
    ("testdhcp '10.*' x", ["x interface=eth0 address=10.0.0.0/8"], ""),
    ("testmii eth0 lan", ["lan interface=eth0 carrier=yes"], ""),
    (f"testarp eth0,{MAC},10.2.0.4 m", [f"m interface=eth0 peer=10.2.0.4/{MAC}"], ""),
    (f"testarp {MAC},10.2.0.4 m", [f"m interface=eth0 peer=10.2.0.4/{MAC}"], ""),
    (f"testarp {MAC},10.2.0.4,10.2.0.9 m", [f"m interface=eth0 peer=10.2.0.4/{MAC}"], "the stanza itself configures"),
    ("testping 192.168.138.1,192.168.138.55 q", ["q interface=eth0 peer=192.168.138.1"], "asked by ARP"),
    ("testping eth1,192.168.138.1,192.168.138.55 q", ["q interface=eth1 peer=192.168.138.1"], ""),
    ("testping 192.168.138.1 q", [], "expected [INTERFACE,]IP_TO_PING,IP_TO_USE"),
    ("testap homessid wl", ["wl ssid=homessid"], "once the network is joined"),
    ("testap homessid,dead-beef wl", ["wl ssid=homessid"], "the key belongs into"),
    ("testap wlan0,homessid,dead-beef wl", ["wl interface=wlan0 ssid=homessid"], ""),
    ("testap scan wl", ["wl carrier=yes"], "if any wireless network is joined"),
    ("testap .+ wl", ["wl carrier=yes"], "if any wireless network is joined"),
    ("testap 'home.*' wl", [], "ssid= has no patterns"),
    ("testappassive homessid wl", ["wl ssid=homessid"], "if it is in range"),
    ("testssid 'My Net' wl", ['wl ssid="My Net"'], ""),
    ("testssid home,da18babe100ea4beadb74324bc wl", ["wl ssid=home"], "the key belongs into"),
    ("testwpa eth1,homessid,secret wl", ["wl interface=eth1 ssid=homessid"], "the key belongs into"),
    ("testwpa eth1,start dummy", [], "wpa_supplicant is started by the stanza"),
    ("testsupplicant eth1 wl", ["wl carrier=yes"], "joined any network"),
    ("testsupplicant start wl", [], "wpa_supplicant is started by the stanza"),
    ("testreceived eth0 lan", [], "received bytes are not counted"),
    ("testpppoe eth0 dsl", [], "write a ppp stanza"),
    ("testpci Dock docked", [], '"lspci -v | grep -q Dock"'),
    ("testusb 'My Disk' docked", [], "\"lsusb | grep -q 'My Disk'\""),
    ("testmodule prism54 wl", [], '"lsmod | grep -q prism54"'),
    ("testprocsys /sys/x,on x", [], '"grep -qE on /sys/x"'),
    ("modprobe prism54 w_eth1", [], "udev loads them"),
    ("/usr/local/bin/mine 'a b' x", [], "\"/usr/local/bin/mine 'a b'\""),
])  # fmt: skip
def test_each_test_of_whereami(statement, lines, note):
    said = convert(statement)
    assert list_lines(statement) == lines
    assert note in "\n".join(said)
    assert f"# line 1: {statement}" in said
    if not lines:
        assert len(said) > 3, "what can't be expressed is answered for"


def test_a_line_that_depends_on_what_can_not_be_expressed_is_a_comment():
    said = convert("testpci Dock docked\nif docked\ntestdhcp 192.168.5.* desk\nelse\ntestdhcp 192.168.7.* road\nfi\n")
    assert not any(line.startswith("netconf-location") for line in said)
    assert "# netconf-location docked  if you can test for [testpci Dock]" in said
    assert (
        "# netconf-location desk interface=eth0 address=192.168.5.0/24  if you can test for [testpci Dock]" in said
    )
    assert (
        "# netconf-location road interface=eth0 address=192.168.7.0/24  if you can test for [not: testpci Dock]" in said
    )


def test_what_depends_on_others_comes_first():
    """The example of detect.conf(5) with both kinds of networks."""
    assert list_lines("""
        default undocked
        testmii eth0 lan
        if lan
        set INTERFACE eth0
        testdhcp restart dhcp
        else
        set INTERFACE wlan0
        testap scan wlan
        fi
        if wlan
        testap  homessid,dead-beef-dead-beef-dead-beef-be wlhome_enc
        testap  homessid wlhome_open
        fi
        if wlan
        testdhcp    wlan0,restart    dhcp
        fi
        if dhcp
        testdhcp    wlan0,192.168.1.2    wlhomeip
        testdhcp    '152.81.*.*'    work
        fi
    """) == [
        "wlhomeip interface=wlan0 carrier=yes address=192.168.1.2/32",
        "work interface=eth0 carrier=yes address=152.81.0.0/16",
        "wlhome_enc interface=wlan0 carrier=yes ssid=homessid",
        "wlhome_open interface=wlan0 carrier=yes ssid=homessid",
        "dhcp interface=wlan0 carrier=yes address=0.0.0.0/0",
        "dhcp interface=eth0 carrier=yes address=0.0.0.0/0",
        "wlan interface=wlan0 carrier=yes",
        "lan interface=eth0 carrier=yes",
    ]


def test_an_else_is_about_its_interface_or_all_others():
    text = "testmii eth0 lan\nif lan\nelse\nat unplugged\nfi\n"
    assert list_lines(text) == ["unplugged !interface=eth0", "unplugged interface=eth0 carrier=no",
                                "lan interface=eth0 carrier=yes"]  # fmt: skip


def test_elif_holds_only_where_the_first_does_not():
    text = (
        "testdhcp 10.0.0.* a\nalways testdhcp 10.0.1.* b\nif a\nat one\nelif b,c\nat two\nfi\n"
    )
    assert list_lines(text)[:2] == [
        "one interface=eth0 address=10.0.0.0/24", "two interface=eth0 !address=10.0.0.0/24 address=10.0.1.0/24"
    ]  # fmt: skip


@pytest.mark.parametrize("text, note", [
    ("notat eth0,eth1", "a location is taken back"),
    ("echo 'hello there'", "a message"),
    ("set DEBUGWHEREAMI 1", "a variable for whereami's own scripts"),
    ("default home", 'the location is "unknown"'),
    ("at office", 'this is the word "anywhere"'),
    ("at", "the location is missing"),
    ("always", 'is missing after "always"'),
    ("always always at x", "written twice"),
    ("fi", '"fi" without an "if"'),
    ("if", 'a location is missing after "if"'),
    ("if a\nif b\nfi", "an if inside an if"),
    ("if down\nat x\nfi", "no statement before finds down"),
    ("if down\nat x\nfi", "it can never hold"),
    ("testmii eth0", "expected a parameter and locations after testmii"),
    ("testmii eth0 a b", "expected a parameter and locations after testmii"),
    ("testmii 'eth0 a", "can't be read: No closing quotation"),
    ("testdhcp 10.0.0.* Office_1", "Office_1 is called office_1"),
    ("testdhcp 10.0.0.* unknown", "unknown is called unknown-place"),
    ("testdhcp 10.0.0.* _x", "_x is called at_x"),
    ("testdhcp 10.0.0.* a,b", "whereami finds b, too"),
    ("testdhcp 300.0.0.1 a", "expected an IP address or a network"),
    ("testarp eth0,nonsense a", "expected [INTERFACE,]MAC,IP"),
])
def test_every_other_statement_is_answered_for(text, note):
    said = convert(text)
    assert note in "\n".join(said)
    assert any(line.startswith("# line 1: ") for line in said)


def test_an_empty_file():
    assert convert("# nothing\n\n") == [
        "# From detect.conf, for the stanza of each interface that it is about.", "# There is no statement in it."
    ]  # fmt: skip


def test_conditions_that_explode():
    tests = "".join(f"always testdhcp eth{number},10.0.{number}.* a\n" for number in range(40))
    said = convert(f"{tests}if a\ntestdhcp eth7,10.9.9.* x\nelse\ntestdhcp 10.8.8.* y\nfi\n")
    assert any("combinations" in line for line in said)


parameters = st.sampled_from([
    "eth0", "10.0.0.*", "wlan0,restart", "homessid", f"{MAC},10.0.0.1", "10.0.0.1,10.0.0.2", "scan", "x,y,z", "'a b'",
    "\"q", ",", "*", "\x1b[2J", "caf\udce9", "eth0,home,key",
])  # fmt: skip
tests = st.sampled_from([
    "testdhcp", "testmii", "testarp", "testping", "testap", "testssid", "testwpa", "testsupplicant", "testpci",
    "always testdhcp", "mine", "set", "set INTERFACE", "notat", "at", "if", "elif", "echo",
])  # fmt: skip
names = st.sampled_from(["home", "lan", "home,lan", "Office", "no", "-x", ",", "\u00fc"])
statements = st.one_of(
    st.builds(lambda test, parameter, name: f"{test} {parameter} {name}", tests, parameters, names),
    st.builds(lambda keyword, name: f"{keyword} {name}", st.sampled_from(["if", "elif", "at", "notat"]), names),
    st.sampled_from(["else", "fi", "always", "", "# x", "  fi"]),
)


@given(st.lists(statements, max_size=12))
def test_nothing_is_lost_and_every_line_can_be_read(lines):
    text = "\n".join(lines)
    said = convert(text)
    rules = read_rules({"netconf-location": "\n".join(list_lines(text)) or "x interface=y"})
    assert rules.errors == ()
    for number, line in enumerate(lines, 1):
        words = line.split()
        silent = not words or words[0] in ("if", "elif", "else", "fi", "set") or line.startswith("#")
        assert silent or any(each.startswith(f"# line {number}: ") for each in said), line


# The command


def test_the_command(command, tmp_path):
    path = tmp_path / "detect.conf"
    path.write_bytes(b"testdhcp 192.168.5.* home\ntestap caf\xe9 cafe\n")
    status, output, errors = command("import-whereami", str(path))
    assert (status, errors) == (0, "")
    assert "\nnetconf-location home interface=eth0 address=192.168.5.0/24\n" in output
    assert output.startswith(f"# From {path}, for the stanza")
    assert output.isascii()


@pytest.mark.parametrize("write, complaint", [
    (None, "No such file or directory"), (b"\0", "not a detect.conf of whereami"),
    (b"x" * (1 << 20) + b"x", "not a detect.conf of whereami"),
])
def test_a_bad_file_gets_one_line(command, tmp_path, write, complaint):
    path = tmp_path / "detect.conf"
    if write is not None:
        path.write_bytes(write)
    assert command("import-whereami", str(path)) == (
        1, "", f"netconf-hooks: import-whereami: {path}: {complaint}\n"
    )  # fmt: skip
    assert command("import-whereami", str(tmp_path))[2] == (
        f"netconf-hooks: import-whereami: {tmp_path}: Is a directory\n"
    )


def test_from_standard_input():
    code = f"""
import sys
sys.path += [{str(Path(__file__).parents[2])!r}, "/usr/lib/python3/dist-packages"]
from netconf_hooks import cli
sys.exit(cli.main(["import-whereami", "-"]))
"""
    argv = [sys.executable, "-I", "-c", code]
    process = subprocess.run(argv, input="testmii eth0 lan\n", capture_output=True, text=True, timeout=30, check=True)
    assert process.stdout.endswith("\nnetconf-location lan interface=eth0 carrier=yes\n")
