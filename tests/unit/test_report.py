"""The file and line of what netconf-hooks check reports, with ifquery itself."""

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netconf_hooks.commands import check
from netconf_hooks.commands.report import find_line
from netconf_hooks.stanzas.interfaces import Line, read_names, run_ifquery, split_passes
from netconf_hooks.stanzas.rules import OPTIONS, read_rules

BROKEN = "netconf-vpn openvpn corp unles office"
EXPECTED = 'netconf-vpn "openvpn corp unles office": expected "on" or "unless", not "unles"'


@pytest.fixture
def run_check(real_ifquery, command, as_root, monkeypatch, tmp_path):
    """A function that checks a file and those it sources: it returns the exit status, and what is printed.

    `FILES` in what is printed is the directory they are in.
    """
    path = tmp_path / "interfaces"
    monkeypatch.setattr(check, "read_names", lambda: read_names(str(path)))
    monkeypatch.setattr(check, "run_ifquery", lambda name: run_ifquery(name, str(path)))

    def run(text, *ifaces, **sourced):
        path.write_text(text)
        for name, more in sourced.items():
            (tmp_path / name.replace("__", "/")).parent.mkdir(exist_ok=True)
            (tmp_path / name.replace("__", "/")).write_text(more)
        status, output, errors = command("check", *ifaces)
        assert errors == ""
        return status, output.replace(str(tmp_path), "FILES").splitlines()

    return run


def test_each_option_with_its_line(run_check):
    text = f"""\
# a comment
auto eth0
iface eth0 inet dhcp
    {BROKEN}
    # another \\
    Netconf_VPN openvpn   home
    NETCONF-VPN openvpn other unless nowhere

iface eth1 inet manual
    netconf-trsut hints
    netconf-trsut authenticated
"""
    assert run_check(text) == (1, [
        f"FILES/interfaces:4: eth0: error: {EXPECTED}",
        'FILES/interfaces:7: eth0: error: netconf-vpn "openvpn other unless nowhere": no netconf-location defines '
        '"nowhere": the word never holds',
        f'FILES/interfaces:10: eth1: error: netconf-trsut "hints": no such option; there are {", ".join(OPTIONS)}',
        f'FILES/interfaces:11: eth1: error: netconf-trsut "authenticated": no such option; there are '
        f'{", ".join(OPTIONS)}',
        "2 stanzas examined, 4 errors",
    ])  # fmt: skip


def test_warnings_have_a_line_too(run_check):
    text = """\
iface eth0 inet dhcp
    pre-up ip link set eth0 up
    netconf-location home gateway=192.0.2.1
    netconf-location office gateway=192.0.2.1 address=10.0.0.0/8
    netconf-vpn-7 openvpn corp unless home
    netconf-guard-allow udp/123
iface eth1 inet dhcp
    netconf-guard yes
    pre-up ip link set \\
        eth1 up
"""
    status, lines = run_check(text)
    assert status == 0
    places = [line.split(": ")[:3] + [line.split(": ")[3].split()[0]] for line in lines[:-1]]
    assert places == [
        ["FILES/interfaces:4", "eth0", "warning", "netconf-location"],
        ["FILES/interfaces:5", "eth0", "warning", "netconf-vpn"],
        ["FILES/interfaces:6", "eth0", "warning", "netconf-guard-allow"],
        ["FILES/interfaces:9", "eth1", "warning", "pre-up"],
    ]


def test_lines_of_sourced_files(run_check):
    status, lines = run_check(
        f"iface eth0 inet manual\n{BROKEN}\nsource more/*\nsource-directory dir\niface eth9 inet manual\n {BROKEN}\n",
        more__1=f"\niface eth1 inet manual\n    {BROKEN}\n",
        more__2=f"iface eth2 inet manual\n    {BROKEN}\nsource ../deep\n",
        deep=f"\n\n\niface eth3 inet manual\n    {BROKEN}\n",
        dir__x=f"iface eth4 inet manual\n    up true\n    {BROKEN}\n",
    )
    assert status == 1
    assert lines == [
        f"FILES/interfaces:2: eth0: error: {EXPECTED}",
        f"FILES/more/1:3: eth1: error: {EXPECTED}",
        f"FILES/more/2:2: eth2: error: {EXPECTED}",
        f"FILES/more/../deep:5: eth3: error: {EXPECTED}",
        f"FILES/dir/x:3: eth4: error: {EXPECTED}",
        f"FILES/interfaces:6: eth9: error: {EXPECTED}",
        "6 stanzas examined, 6 errors",
    ]


def test_a_mistake_in_a_template_is_one_mistake(run_check):
    heirs = "".join(f"iface eth{number} inet dhcp inherits {'base' if number else 'roaming'}\n" for number in range(10))
    text = f"source base\niface roaming inet manual inherits base\n{heirs}    netconf-vpn tunnel\n"
    base = f"iface base inet manual\n    {BROKEN}\n"
    last = text.count("\n")
    status, lines = run_check(text, base=base)
    assert status == 1
    assert lines[0] == f"FILES/base:2: base, roaming, eth0, eth1, eth2 and 7 more: error: {EXPECTED}"
    assert lines[1].startswith(f'FILES/interfaces:{last}: eth9: error: netconf-vpn "tunnel": expected a kind of tunnel')
    assert lines[2] == "12 stanzas examined, 2 errors"
    assert run_check(text, "eth1", "eth2", base=base) == (1, [
        f"FILES/base:2: eth1, eth2: error: {EXPECTED}", "2 stanzas examined, 1 errors"
    ])  # fmt: skip


def test_an_option_in_the_stanza_and_in_its_template(run_check):
    """Each error at its own line, whichever of them ifquery prints first."""
    text = f"iface a inet manual\n  {BROKEN}\niface b inet manual inherits a\n  {BROKEN} x\n  {BROKEN}\n"
    status, lines = run_check(text, "b")
    assert [line.partition(": ")[0] for line in lines[:-1]] == ["FILES/interfaces:2", "FILES/interfaces:4"]


def test_continued_lines_count_from_the_first(run_check):
    text = """\
iface eth0 inet dhcp
    netconf-vpn \\
        openvpn \\
        corp \\
        unles office
    # a comment \\
    netconf-vpn tunnel
"""
    status, lines = run_check(text)
    assert [line.partition(": ")[0] for line in lines[:-1]] == ["FILES/interfaces:2", "FILES/interfaces:7"]


def test_what_a_mapping_has_between_is_no_option(run_check):
    text = f"""\
iface wlan0-home inet dhcp
    netconf-vpn tunnel
mapping wlan0
    script /bin/false
    map {BROKEN}
    map netconf-vpn tunnel
iface wlan0-cafe inet dhcp
    {BROKEN}
"""
    status, lines = run_check(text)
    assert [line.split(": ")[:2] for line in lines[:-1]] == [
        ["FILES/interfaces:2", "wlan0-home"], ["FILES/interfaces:8", "wlan0-cafe"]
    ]  # fmt: skip
    assert lines[-1] == "2 stanzas examined, 2 errors; mapping scripts not run: wlan0"


def test_several_stanzas_of_an_interface(run_check):
    text = """\
iface eth0 inet dhcp
    netconf-guard yes
    netconf-guard-backend nftables
iface eth0 inet6 auto
    netconf-guard-backend iptables
    netconf-guard unles
"""
    status, lines = run_check(text)
    assert [line.split(": ")[:4] for line in lines[:-1]] == [
        ["FILES/interfaces:6", "eth0", "error", 'netconf-guard "unles"'],
        ["FILES/interfaces:5", "eth0", "error", 'netconf-guard-backend is "nftables" in the inet stanza of eth0 and '
         '"iptables" in the inet6 stanza of eth0'],
    ]  # fmt: skip


def test_what_is_about_no_option_has_the_line_of_the_stanza(run_check, monkeypatch):
    monkeypatch.setattr(check, "find_isolation", lambda *_: "none of its ports leads outside")
    text = "\niface br0 inet dhcp\n    netconf-vpn openvpn corp\n"
    assert run_check(text)[1][0] == "FILES/interfaces:2: br0: warning: none of its ports leads outside"
    assert run_check(f"{text}    netconf-outside-ports eth*\n")[1][0].startswith("FILES/interfaces:4: br0: warning: ")


def test_a_file_that_ifupdown_can_not_read_is_one_error(run_check):
    text = "iface eth0 inet dhcp\niface eth1 inet dhcp\nnetconf-vpn\niface eth2 inet dhcp\n"
    assert run_check(text) == (1, [
        "FILES/interfaces:3: eth0, eth1, eth2: error: option with empty value: ifupdown reads no interface at all",
        "0 stanzas examined, 1 errors",
    ])  # fmt: skip


def test_a_sourced_file_that_breaks_off_is_one_error(run_check):
    text = f"source more\niface eth0 inet dhcp\niface eth1 inet dhcp\n    {BROKEN}\n"
    more = "iface eth5 inet dhcp\n\niface eth6\niface eth7 inet dhcp\niface eth8 inet dhcp\n"
    said = "unknown or no address type and no inherits keyword specified: ifupdown ignores the rest of this file"
    assert run_check(text, more=more) == (1, [
        f"FILES/more:3: eth6, eth7, eth8: error: {said}",
        f"FILES/interfaces:4: eth1: error: {EXPECTED}",
        "3 stanzas examined, 2 errors",
    ])  # fmt: skip
    assert run_check(text, "eth0", more=more) == (1, [
        f"FILES/more:3: error: {said}", "1 stanzas examined, 1 errors"
    ])  # fmt: skip


def test_where_no_line_is_found_the_message_is_the_same_without(run_check, monkeypatch):
    """As with the syntax of another ifupdown."""
    monkeypatch.setattr(check, "run_ifquery", lambda _: f"{BROKEN.replace(' ', ': ', 1)}\n")
    text = "template eth0\niface eth0 inet dhcp\niface eth1 inet dhcp\n"
    assert run_check(text) == (1, [
        f"eth0: error: {EXPECTED}", f"eth1: error: {EXPECTED}", "2 stanzas examined, 2 errors"
    ])  # fmt: skip


def test_a_stanza_that_is_not_there(run_check):
    assert run_check("iface eth0 inet dhcp\n", "eth1") == (1, [
        "error: eth1: ifquery: unknown interface eth1", "0 stanzas examined, 1 errors"
    ])  # fmt: skip


@pytest.mark.parametrize("option, value, number", [
    ("netconf-vpn", "a", 1), ("netconf-vpn", " b  c", 2), ("netconf-vpn", "d", 3), ("netconf-vpn-2", "d", 3),
    ("netconf-vpn", "e", 0), ("netconf-vpn", None, 2), ("netconf-trust", None, 0), ("netconf-trust", "x", 0),
    ("netconf-guard", "anything", 4), ("netconf-guard-allow", "10.0.0.0/1 0.0.0.0/1", 6),
])
def test_which_line_it_is(option, value, number):
    lines = [
        Line("netconf-vpn", "a", "i", 1), Line("netconf-vpn", "b c", "i", 2), Line("netconf-vpn-2", "d", "i", 3),
        Line("netconf-guard", "yes", "i", 4), Line("netconf-guard-allow", "udp/53", "i", 5),
        Line("netconf-guard-allow", "0.0.0.0/1", "i", 6),
    ]  # fmt: skip
    found = find_line(lines, option, value)
    assert (found.number if found else 0) == number


# Any file


OPTIONS_OF = st.sampled_from(["netconf-vpn", "netconf_vpn", "NetConf-Location", "netconf-location-2", "netconf-trsut"])
VALUES = st.sampled_from(["openvpn x", "x gatway=1", "y  gateway=2", "unit \\\n  z unles q", "\\\n a", "openvpn x # y"])
GAPS = st.sampled_from(["", "\n", "# iface \\\n", "   # netconf-vpn x\n", "mapping eth*\n  map netconf-vpn x\n"])


@st.composite
def stanza_files(draw):
    """The text of a file, and of one that it may source."""
    names = ["base", "eth0", "eth1"]
    texts = []
    for _ in range(2):
        text = ""
        for _ in range(draw(st.integers(1, 3))):
            heir = " inherits base" if texts or text else ""
            name = draw(st.sampled_from(names)) if heir else "base"
            text += f"iface {name} inet manual{heir if name != 'base' else ''}\n"
            for option in draw(st.lists(OPTIONS_OF, max_size=3)):
                gap = draw(GAPS)
                text += f"{'' if gap.startswith('mapping') else gap}  {option} {draw(VALUES)}\n"
            text += draw(GAPS)
        texts.append(text)
    return texts


@settings(deadline=None)
@given(texts=stanza_files())
def test_the_line_that_is_reported_has_the_option(real_ifquery, tmp_path_factory, texts):
    directory = tmp_path_factory.getbasetemp() / "any"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "interfaces").write_text(f"{texts[0]}source more\n")
    (directory / "more").write_text(texts[1])
    names = read_names(str(directory / "interfaces"))
    for name in names.stanzas:
        output = run_ifquery(name, str(directory / "interfaces"))
        lines = names.list_lines(name)
        for error in read_rules(*[options for _, options in split_passes(output, name, names)]).errors:
            line = find_line(lines, error.option, error.value)
            assert line, f"no line for {error}"
            with open(line.file) as file:
                rest = file.read().split("\n")[line.number - 1:]
            text = " ".join(rest).replace("\\ ", " ").split()
            assert text[0].lower().replace("_", "-") == error.option
            assert text[1:][:len(error.value.split())] == error.value.split()
