"""What stands in /etc/network/interfaces, held against what ifupdown's own parser makes of it."""

import glob
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.stanzas import interfaces
from netconf_hooks.stanzas.interfaces import (
    FILE, find_ifupdown, IFUPDOWN, IFUPDOWN2, IFUPDOWN_NG, InterfacesError, InterfacesLate, is_configured,
    list_complaints, list_configured, list_unpassed, Names, parse_options, query_options, query_stanzas, read_names,
    run_ifquery, split_passes
)  # fmt: skip
from netconf_hooks.stanzas.rules import read_rules
from netconf_hooks.system.programs import ProgramError, Result

CAPTURED = Path(__file__).parents[1] / "fixtures/ifquery-0.8.41"


def read_answers():
    """Return what ifquery printed for each name, and its exit status."""
    answers = {}
    for block in (CAPTURED / "answers.txt").read_text().split("=== ")[1:]:
        head, _, output = block.partition("\n")
        name, status = head.split()
        answers[name] = Result(int(status), output)
    return answers


ANSWERS = read_answers()


def list_names(path):
    """Return the names alone, without the headings of their stanzas."""
    names = read_names(path)
    return Names(names.stanzas, names.mapped, names.parents, names.problems)


def test_which_stanzas_have_an_option_of_their_own_or_from_a_parent(tmp_path):
    (tmp_path / "more").write_text("iface eth0 inet6 auto inherits roaming\n  Netconf_VPN openvpn corp\n")
    text = (
        "iface roaming inet dhcp\n  netconf-guard yes\n\nauto eth0\niface eth0 inet static\n  address 192.0.2.1\n"
        "mapping eth0\n  netconf-guard yes\nsource more\niface a inherits b\niface b inherits a\n"
    )
    (tmp_path / "interfaces").write_text(text)
    names = read_names(str(tmp_path / "interfaces"))
    first, second = names.list_headings_with("netconf-guard", "eth0")
    assert (first[0].family, first[0].method, first[0].parent, first[1]) == ("inet", "static", "", False)
    assert (second[0].family, second[0].method, second[0].parent, second[1]) == ("inet6", "auto", "roaming", True)
    assert [has for _, has in names.list_headings_with("netconf-vpn", "eth0")] == [False, True]
    assert [has for _, has in names.list_headings_with("netconf-vpn", "a")] == [False]


@pytest.fixture
def ifquery(monkeypatch):
    """Let ifquery answer as it was captured; returns what it was asked."""
    asked = []

    def run(argv, timeout):
        asked.append(argv)
        return ANSWERS[argv[-1]]

    monkeypatch.setattr(interfaces, "run", run)
    return asked


def write(directory, **files):
    """Write files and return the path of the first."""
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(directory / next(iter(files)))


# What is up.  Printed by ``ifquery --state`` of ifupdown 0.8.41 and ifupdown-ng 0.11.4, and by ``ifquery
# --print-savedstate --all`` of ifupdown2 3.0.0, whose ifquery refuses --state.

STATES = {
    "ifupdown": "lo=lo\neth0=roaming\n",
    "ifupdown-ng": "lo=lo 1 auto\neth0=eth0 2 explicit\n",
    "ifupdown2": "iface lo inet loopback\n\niface eth0 inet static\n\taddress 10.1.1.1/24\n\tpost-down true\n\n",
}


@pytest.mark.parametrize("ifupdown", STATES)
def test_what_ifupdown_has_up(monkeypatch, ifupdown):
    def run(argv, timeout):
        if ifupdown != "ifupdown2":
            assert argv == ["ifquery", "--state"]
        elif argv == ["ifquery", "--state"]:
            return Result(2, "usage: ifquery [-h] [-a]\nifquery: error: unrecognized arguments: --state\n")
        else:
            assert argv == ["ifquery", "--print-savedstate", "--all"]
        return Result(0, STATES[ifupdown])

    monkeypatch.setattr(interfaces, "run", run)
    assert list_configured() == {"lo", "eth0"}
    assert is_configured("eth0") and not is_configured("eth")


@pytest.mark.parametrize("answer", [Result(1, "ifquery: no state\n"), Result(3, ""), ProgramError("no such program")])
def test_what_is_up_can_not_be_told(monkeypatch, answer):
    def run(argv, timeout):
        if isinstance(answer, ProgramError):
            raise answer
        return answer

    monkeypatch.setattr(interfaces, "run", run)
    with pytest.raises(InterfacesError, match="no state|exit status 3|no such program"):
        list_configured()
    assert not is_configured("eth0")


# Options


def test_ifquery_is_asked_without_mappings(ifquery):
    query_options("eth0")
    assert ifquery == [["ifquery", "--no-mappings", "-i", FILE, "eth0"]]
    query_options("eth0", path="/elsewhere")
    assert ifquery[1][3] == "/elsewhere"


def test_repeated_and_inherited_options_are_joined(ifquery):
    assert query_options("eth0") == {
        "netconf-location": "home gateway-mac=52:54:00:0a:00:01\n"
        "office gateway-mac=00:16:3e:11:22:33         dns-domain=corp.example.com\n"
        'cafe dns-domain="cafe.example" # not a home',
        "netconf-vpn": "openvpn corp unless office",
        "netconf-timeout": "3",
    }
    rules = read_rules(query_options("eth0"))
    assert [location.name for location in rules.locations] == ["home", "office", "cafe"]
    assert rules.errors == ()


def test_both_families_stanzas_count_together(ifquery):
    options = query_options("eth1")
    assert options["netconf-location"] == "home gateway=192.0.2.1\nsix gateway=fe80::1"
    assert options["netconf-location-2"] == "office gateway=192.0.2.9"
    assert options["netconf-vpn"] == "openvpn corp unless home\nunit backup.service on six"
    assert options["address"] == "192.0.2.5\n2001:db8::5"
    assert options["preferred-lifetime"] == ""


def test_options_have_the_names_that_hooks_get(ifquery):
    assert query_options("eth2") == {"netconf-vpn": "unit backup.service"}


def test_a_stanza_without_options_has_none(ifquery):
    assert query_options("lo") == {}


def test_what_ifquery_does_not_know_is_an_error_in_its_own_words(ifquery):
    with pytest.raises(InterfacesError, match="dir1: ifquery: unknown interface dir1"):
        query_options("dir1")


def test_without_ifquery_there_is_an_error(monkeypatch):
    def run(argv, timeout):
        raise ProgramError("ifquery: no such program")

    monkeypatch.setattr(interfaces, "run", run)
    with pytest.raises(InterfacesError, match="eth0: ifquery: no such program"):
        query_options("eth0")


def test_an_ifquery_that_does_not_end_is_an_error_of_the_whole_file(tmp_path, real_ifquery):
    """It opens the FIFO and waits for somebody to write."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    path = write(tmp_path, interfaces=f"source {fifo}\niface eth0 inet dhcp\n")
    with pytest.raises(InterfacesLate, match="^ifquery --no-mappings -i .* eth0: not done after 0.2 s, killed$"):
        run_ifquery("eth0", str(path), 0.2)


def test_what_stands_before_the_first_option_is_no_value():
    assert parse_options("ifquery warns of something\nnetconf-vpn: unit x\n") == {"netconf-vpn": "unit x"}
    assert parse_options("") == {}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_installed_ifquery_still_answers_so(real_ifquery, name):
    path = str(CAPTURED / "interfaces")
    if ANSWERS[name].status:
        with pytest.raises(InterfacesError, match=name):
            query_options(name, path)
    else:
        assert query_options(name, path) == parse_options(ANSWERS[name].output)


def test_what_ifquery_complains_of_is_no_option():
    output = "ifquery: more:1: misplaced option\nnetconf-vpn: openvpn a\n"
    assert parse_options(output) == {"netconf-vpn": "openvpn a"}
    assert list_complaints(output) == ["more:1: misplaced option"]


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_only_a_newline_ends_a_line(separator):
    value = f"office{separator}gateway=192.0.2.1"
    assert parse_options(f"netconf-location: {value}\naddress: x\n") == {"netconf-location": value, "address": "x"}


# Names


def test_the_names_of_the_captured_file():
    names = list_names(str(CAPTURED / "interfaces"))
    assert names == Names(
        stanzas=("afterc", "lo", "roaming", "eth0", "eth1", "eth2", "wlan0", "more0", "dir0"),
        mapped=("eth3", "eth4"),
        parents=("roaming",),
        problems=(),
    )
    # ifquery knows all of them, and of dir1, whose file source-directory does not take, neither.
    assert all(ANSWERS[name].status == 0 for name in names.stanzas)
    assert ANSWERS["dir1"].status == 1


def test_a_file_that_is_not_there_is_a_problem(tmp_path):
    names = read_names(str(tmp_path / "interfaces"))
    assert names.stanzas == ()
    assert names.problems == (f"{tmp_path}/interfaces: No such file or directory",)


@pytest.mark.parametrize("text, stanzas", [
    ("iface eth0 inet dhcp\n", ("eth0",)),
    ("  iface\teth0  inet dhcp\n", ("eth0",)),
    ("iface eth0 inet dhcp", ("eth0",)),
    ("iface \\\n eth0 inet dhcp\n", ("eth0",)),
    ("# iface eth0 inet dhcp\n", ()),
    ("  # iface eth0 inet dhcp\n", ()),
    ("# a comment ends with its line \\\niface eth0 inet dhcp\n", ("eth0",)),
    ("iface eth0 inet dhcp\n  up echo \\\niface eth1 inet dhcp\n", ("eth0",)),
    ("iface eth0 inet dhcp\niface eth0 inet6 auto\n", ("eth0",)),
    ("auto eth0\nallow-hotplug eth1\nface eth2 inet dhcp\niface\n", ()),
    ("iface eth0 inet manual\n up iface eth1 inet dhcp\n", ("eth0",)),
    ("iface eth0 inet manual\n foo a\x0c\x1c\x85iface eth1 inet manual\n", ("eth0",)),
    ("iface eth0 inet manual\r\niface eth1 inet manual\r\n", ("eth0", "eth1")),
    ("", ()),
])
def test_what_is_a_stanza(tmp_path, text, stanzas):
    assert read_names(write(tmp_path, interfaces=text)).stanzas == stanzas


def test_bytes_that_are_no_text_are_no_problem(tmp_path):
    (tmp_path / "interfaces").write_bytes(b"iface eth0 inet dhcp\n  foo Caf\xe9\niface eth1 inet dhcp\n")
    assert read_names(str(tmp_path / "interfaces")).stanzas == ("eth0", "eth1")


def test_sourced_files_are_read_in_their_place(tmp_path):
    path = write(
        tmp_path,
        interfaces="iface a inet manual\nsource more/* other\nsource-directory dir\niface z inet manual\n",
        more__1="iface b inet manual\n",
        more__2="iface c inherits a\nsource ../deep\n",
        more__sub__x="iface no inet manual\n",
        other="iface e inet manual\nmapping m*\n script x\n",
        deep="iface d inet manual\n",
        dir__good_NAME_1="iface f inet manual\n",
    )
    (tmp_path / "dir/not.good").write_text("iface no inet manual\n")
    # ifupdown takes "source ../deep" from where the file stands that says so.
    assert list_names(path) == Names(("a", "b", "c", "d", "e", "f", "z"), ("m*",), ("a",), ())


def test_what_a_shell_would_expand_is_not_followed(tmp_path):
    path = write(tmp_path, interfaces="\nsource $(touch x)\nsource `touch x` $HOME\niface a inet manual\n")
    (tmp_path / "$HOME").write_text("iface b inet manual\n")
    assert list_names(path) == Names(
        stanzas=("a",),
        mapped=(),
        parents=(),
        problems=(
            f"{path}:2: source $(touch x): not followed: only ifupdown expands it",
            f"{path}:3: source `touch x` $HOME: not followed: only ifupdown expands it",
        ),
    )
    assert not (tmp_path / "x").exists()


def test_a_file_that_sources_itself_ends(tmp_path):
    names = read_names(write(tmp_path, interfaces="iface a inet manual\nsource interfaces\niface b inet manual\n"))
    assert names.stanzas == ("a", "b")
    assert "sourced too deep" in names.problems[0]


# Several stanzas at once


FIXTURE = str(CAPTURED / "interfaces")


def test_many_stanzas_are_what_each_is_alone(real_ifquery):
    names = read_names(FIXTURE).stanzas
    assert len(names) > 5
    assert query_stanzas(names, FIXTURE) == {name: query_options(name, FIXTURE) for name in names}
    assert query_stanzas(["roaming"], FIXTURE)["roaming"]  # neither of them is empty


def test_no_stanza_is_asked_for_nothing(ifquery):
    assert query_stanzas([]) == {}
    assert ifquery == []


def test_more_stanzas_than_one_ifquery_is_given(real_ifquery, monkeypatch, tmp_path):
    monkeypatch.setattr(interfaces, "_AT_ONCE", 3)
    path = write(tmp_path, interfaces="".join(f"iface e{n} inet manual\n    option {n}\n" for n in range(7)))
    assert query_stanzas([f"e{n}" for n in range(7)], path) == {f"e{n}": {"option": str(n)} for n in range(7)}


def test_one_that_ifquery_does_not_know_is_an_error_in_its_own_words(real_ifquery, tmp_path):
    path = write(tmp_path, interfaces="iface a inet manual\n")
    with pytest.raises(InterfacesError, match="^ifquery: unknown interface b$"):
        query_stanzas(["a", "b"], path)


def test_an_answer_that_breaks_off_is_an_error(monkeypatch):
    monkeypatch.setattr(interfaces, "run", lambda argv, timeout, stdin: Result(0, "address: 192.0.2.1\n"))
    with pytest.raises(InterfacesError, match="no answer about a"):
        query_stanzas(["a"])


@pytest.mark.parametrize("pattern", ["d/*", "d/a", "d/nosuch", "d/?", "*/b", "nosuch/*"])
def test_patterns_are_expanded_as_glob_does(tmp_path, monkeypatch, pattern):
    write(tmp_path, d__a="", d__b="", d__longer="", **{"d__.hidden": ""})
    monkeypatch.chdir(tmp_path)
    assert interfaces._expand(pattern) == sorted(glob.glob(pattern))


lines_of = st.lists(
    st.sampled_from(
        [
            "iface a inet manual", "iface b inet manual", " iface c inet manual", "# iface d inet manual", "",
            "  foo bar", "  foo bar \\", "# comment \\", "auto a", "iface e inet manual # f", "iface f \\",
            "inet manual", "\tx y",
        ]
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=min(25, MANY), deadline=None)
@given(lines=lines_of)
def test_ifupdown_finds_the_same_names(real_ifquery, tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "interfaces"
    path.write_text("".join(line + "\n" for line in ["iface first inet manual", *lines]))
    names = read_names(str(path)).stanzas
    for name in ("first", "a", "b", "c", "d", "e", "f"):
        try:
            query_options(name, str(path))
        except InterfacesError as error:
            if "couldn't read interfaces file" in str(error):
                return  # not a file that ifupdown would take
            assert name not in names
        else:
            assert name in names


# Several stanzas of one name, as `ifquery` of ifupdown 0.8.41 prints them

PASSES = """\
iface base inet manual
    netconf-trust hints
    netconf-guard yes
iface eth0 inet dhcp
    netconf-location home gateway=192.0.2.1
    inherits base
iface eth0 inet dhcp inherits base
    netconf-guard unless a
iface eth0 inet static
    address 192.0.2.2/24
    netconf_guard on b
    netconf-guard-backend iptables
iface eth0 inet6 auto
"""
PRINTED = """\
netconf-trust: hints
netconf-guard: yes
unless a
address: 192.0.2.2/24
netconf-guard: on b
netconf-guard-backend: iptables
broadcast: 192.0.2.255
netmask: 255.255.255.0
accept_ra: 2
"""


def test_the_stanzas_of_an_interface_are_told_apart(fs):
    text = PASSES.replace("iface eth0 inet dhcp\n    netconf-location home gateway=192.0.2.1\n    inherits base\n", "")
    fs.create_file(FILE, contents=text)
    assert split_passes(PRINTED, "eth0", read_names()) == [
        ("inet", {"netconf-trust": "hints", "netconf-guard": "yes\nunless a"}),
        ("inet", {"netconf-guard": "on b", "netconf-guard-backend": "iptables"}),
        ("inet6", {}),
    ]


def test_where_that_can_not_be_told_they_are_one(fs):
    fs.create_file(FILE, contents=PASSES)
    assert split_passes(PRINTED, "eth0", read_names()) == [("any", parse_options(PRINTED))]
    assert split_passes(PRINTED, "eth1", read_names()) == [("any", parse_options(PRINTED))]


# ifupdown-ng and ifupdown2

REFUSALS = {
    IFUPDOWN_NG: Result(1, "ifquery: unrecognized option '--no-mappings'\nifquery: unknown interface -i\n"),
    IFUPDOWN2: Result(2, "usage: ifquery [-h]\nifquery: error: unrecognized arguments: --no-mappings\n"),
}
UNKNOWN = {
    IFUPDOWN_NG: Result(1, "ifquery: unknown interface nosuch\n"),
    IFUPDOWN2: Result(1, "error: main exception: cannot find interfaces: nosuch\n"),
}
FIXTURES = {IFUPDOWN_NG: "ifquery-ifupdown-ng-0.11.3", IFUPDOWN2: "ifquery-ifupdown2-3.0.0"}


@pytest.fixture(params=[IFUPDOWN_NG, IFUPDOWN2])
def other(request, monkeypatch):
    """Let the ifquery of another ifupdown answer as it was captured, with the file in the fixture; returns whose."""
    answer = (CAPTURED.parent / FIXTURES[request.param] / "answer.txt").read_text()

    def run(argv, timeout, stdin=""):
        if "--version" in argv:
            return Result(0, {IFUPDOWN_NG: "ifupdown-ng 0.11.3\n", IFUPDOWN2: "ifupdown2:3.0.0-1.1\n"}[request.param])
        if "--no-mappings" in argv:
            return REFUSALS[request.param]
        return UNKNOWN[request.param] if "nosuch" in argv else Result(0, answer)

    monkeypatch.setattr(interfaces, "run", run)
    return request.param


def read_fixture(other):
    return read_names(str(CAPTURED.parent / FIXTURES[other] / "interfaces"))


def test_the_ifupdowns_are_told_apart_by_their_version(other, monkeypatch):
    assert find_ifupdown() == other
    monkeypatch.setattr(interfaces, "run", lambda argv, timeout: Result(0, "ifquery version 0.8.41\n"))
    assert find_ifupdown() == IFUPDOWN


def test_another_ifquery_is_read_as_ifupdowns_own(other):
    assert query_options("eth0") == {
        **({"dhcp-hostname": "laptop"} if other == IFUPDOWN_NG else {}),
        "netconf-location": "b gateway=192.0.2.1\nc gateway=192.0.2.1",
        "netconf-vpn": "openvpn corp unless b",
        "netconf-guard": "unless a",
    }
    inherited = {"netconf-trust": "hints", "netconf-location": "a gateway=10.0.0.1"}
    own = query_options("eth1")
    assert own == ({"inherit": "base", **inherited, "mtu": "1500"} if other == IFUPDOWN_NG else {"mtu": "1500"})
    assert query_stanzas(["eth1", "base"]) == {"eth1": own, "base": inherited}


def test_what_another_ifquery_complains_of_is_told(other):
    complaints = list_complaints(run_ifquery("eth0"))
    assert len(complaints) == (other == IFUPDOWN2)
    assert all("unsupported address method" in complaint for complaint in complaints)
    with pytest.raises(InterfacesError, match=r"^nosuch: .*(unknown interface|cannot find interfaces: )"):
        query_options("nosuch")


def test_what_another_ifupdown_does_not_pass_to_hooks(other):
    names = read_fixture(other)
    unpassed = list_unpassed(other, run_ifquery("eth0"), "eth0", names)
    lost = [(option, value) for option, value, _ in unpassed]
    if other == IFUPDOWN_NG:
        assert lost == [("netconf-location", "b gateway=192.0.2.1")]
        assert "only the last netconf-location line" in unpassed[0][2] and "netconf-location-2" in unpassed[0][2]
    else:
        assert lost == [("netconf-guard", "unless a"), ("netconf-location", "c gateway=192.0.2.1")]
        assert "eth0's first stanza" in unpassed[0][2] and "only the first netconf-location line" in unpassed[1][2]
    assert list_unpassed(IFUPDOWN, run_ifquery("eth0"), "eth0", names) == []
    assert list_unpassed(other, run_ifquery("base"), "base", names) == []
