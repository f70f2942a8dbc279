"""What ships is what run-parts runs, one version has one number, and the manual knows every word of the rules."""

import configparser
import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from netconf_hooks.cli import main
from netconf_hooks.commands import unprivileged
from netconf_hooks.requests.ask import PORTAL_UNIT, UNIT
from netconf_hooks.stanzas.rules import OPTIONS, SITUATIONS, TESTS, TUNNEL_KINDS, read_rules
from netconf_hooks.tunnels.attempt import ENTRY

ROOT = Path(__file__).parents[2]
HOOK_DIRECTORIES = ("if-pre-up.d", "if-up.d", "if-down.d", "if-post-down.d")
MANUAL = (ROOT / "docs/netconf-interfaces.5").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text of a section or subsection of netconf-interfaces(5)."""
    found = re.search(rf"^\.S[hs] {re.escape(title)}\n(.*?)(?=^\.S[hs] |\Z)", MANUAL, re.MULTILINE | re.DOTALL)
    assert found, f"netconf-interfaces(5) has no section {title}"
    return found[1]


@pytest.mark.parametrize("directory", HOOK_DIRECTORIES)
def test_run_parts_runs_all_that_a_hook_directory_holds(directory, tmp_path):
    copy = tmp_path / directory
    subprocess.run(["cp", "-rp", ROOT / directory, copy], check=True)
    listed = subprocess.run(["run-parts", "--test", copy], check=True, capture_output=True, text=True).stdout.split()
    assert listed == [str(copy / "netconf-hooks")]
    assert listed == [str(path) for path in copy.iterdir() if path.name != "__pycache__"]


def test_run_parts_would_run_each_example_of_an_event_script():
    directory = ROOT / "docs/examples/event.d"
    tested = subprocess.run(["run-parts", "--test", directory], check=True, capture_output=True, text=True)
    assert tested.stdout.split() == sorted(str(path) for path in directory.iterdir())


@pytest.mark.parametrize(
    "path", [
        *(f"{name}/netconf-hooks" for name in HOOK_DIRECTORIES), "sbin/netconf-hooks", "libexec/tunnel",
        "libexec/request", "libexec/fulfil",
    ],
)  # fmt: skip
def test_what_is_run_is_executable_by_debians_python(path):
    file = ROOT / path
    assert os.stat(file).st_mode & 0o777 == 0o755
    # -I: nothing of the caller's environment or directory; -S: without site, which costs an ifup 2.5 ms.
    options = "-IS" if path.startswith("if-") else "-I"
    assert file.read_text().splitlines()[0] == f"#!/usr/bin/python3 {options}"


def test_each_hook_is_installed_and_linked():
    installed = (ROOT / "debian/netconf-hooks.install").read_text().splitlines()
    links = (ROOT / "debian/netconf-hooks.links").read_text().splitlines()
    assert "libexec/enter usr/lib/netconf-hooks" in installed
    for name in HOOK_DIRECTORIES:
        assert f"{name}/netconf-hooks usr/lib/netconf-hooks/{name}" in installed
        link = "00-netconf-hooks" if name == "if-pre-up.d" else "netconf-hooks"
        assert f"usr/lib/netconf-hooks/enter etc/network/{name}/{link}" in links
    assert sum("etc/network/" in link for link in links) == len(HOOK_DIRECTORIES)


def test_in_pre_up_the_guard_comes_before_the_hooks_of_other_packages(tmp_path):
    # Hooks of Debian's other packages in if-pre-up.d.
    others = ("bridge", "ethtool", "hostapd", "ifenslave", "macchanger", "vlan", "wireless-tools", "wpasupplicant")
    for name in ("00-netconf-hooks", *others):
        (tmp_path / name).touch(0o755)
    listed = subprocess.run(["run-parts", "--test", tmp_path], check=True, capture_output=True, text=True).stdout
    assert listed.splitlines()[0] == str(tmp_path / "00-netconf-hooks")


def test_both_directories_of_dhcpcd_have_the_hook():
    installed = (ROOT / "debian/netconf-hooks.install").read_text().splitlines()
    links = (ROOT / "debian/netconf-hooks.links").read_text().splitlines()
    # Forky's dhcpcd 10.5 reads the first, Debian 13's the second: dhcpcd-run-hooks(8).
    assert "debian/hooks/dhcpcd/90-netconf-hooks usr/libexec/dhcpcd-hooks" in installed
    assert "usr/libexec/dhcpcd-hooks/90-netconf-hooks usr/lib/dhcpcd/dhcpcd-hooks/90-netconf-hooks" in links


def test_an_attempt_is_the_same_program_with_systemd_and_without():
    installed = (ROOT / "debian/netconf-hooks.install").read_text().splitlines()
    assert f"libexec/tunnel {os.path.dirname(ENTRY)[1:]}" in installed and os.path.basename(ENTRY) == "tunnel"
    unit = (ROOT / "debian/units/netconf-hooks-tunnel@.service").read_text().splitlines()
    assert f"ExecStart={ENTRY} start %i" in unit


def test_each_command_for_users_has_an_action_of_polkit():
    policy = ElementTree.parse(ROOT / "debian/polkit/org.debian.netconf-hooks.policy").getroot()
    actions = {}
    for action in policy.findall("action"):
        notes = {note.get("key"): note.text for note in action.findall("annotate")}
        assert notes["org.freedesktop.policykit.exec.path"] == unprivileged.ENTRY
        command = notes["org.freedesktop.policykit.exec.argv1"]
        assert action.get("id") == f"org.debian.netconf-hooks.{command}"
        defaults = action.find("defaults")
        actions[command] = [defaults.find(f"allow_{who}").text for who in ("any", "inactive", "active")]
    free, by_admin = ["auth_admin", "auth_admin", "yes"], 3 * ["auth_admin"]
    assert actions == {
        command: free if command in ("portal", "refresh") else by_admin for command in unprivileged.ASKABLE
    }
    installed = (ROOT / "debian/netconf-hooks.install").read_text().splitlines()
    assert f"libexec/request {os.path.dirname(unprivileged.ENTRY)[1:]}" in installed
    assert "debian/polkit/org.debian.netconf-hooks.policy usr/share/polkit-1/actions" in installed


@pytest.mark.parametrize("name", [UNIT, PORTAL_UNIT])
def test_a_request_is_the_instance_of_the_unit(name):
    unit = (ROOT / "debian/units" / name.format("")).read_text().splitlines()
    assert "ExecStart=/usr/lib/netconf-hooks/fulfil %i" in unit
    assert "libexec/fulfil usr/lib/netconf-hooks" in (ROOT / "debian/netconf-hooks.install").read_text().splitlines()


def test_one_version():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    changelog = (ROOT / "debian/changelog").read_text().splitlines()[0]
    assert changelog.startswith(f"netconf-hooks ({setup['metadata']['version']}) ")


@pytest.mark.parametrize("option", OPTIONS)
def test_the_manual_describes_each_option(option):
    assert re.search(rf"^\.It Ic {option} ", section("OPTIONS"), re.MULTILINE)
    repeated = section("Several lines of one option").split("may be written several times")[0]
    assert bool(re.search(rf"^\.Ic {option}( |$)", repeated, re.MULTILINE)) == OPTIONS[option]


@pytest.mark.parametrize("key", TESTS)
def test_the_manual_describes_each_test(key):
    found = re.search(rf"^\.It Cm {key} Ns = Ns ", section("TESTS"), re.MULTILINE)
    assert found, f"docs/netconf-interfaces.5, TESTS: no paragraph '.It Cm {key} Ns = Ns Ar ...'"


def test_the_manual_lists_the_tests_that_a_mapping_can_use():
    listed = section("MAPPING").partition("answered so early:\n")[2].partition("\nAny other")[0]
    early = {key for key, kind in TESTS.items() if kind.early}
    assert set(re.findall(r"[a-z-]{3,}", listed)) - {"and"} == early, "docs/netconf-interfaces.5, MAPPING, .It Ic map"


@pytest.mark.parametrize("kind", TUNNEL_KINDS)
def test_the_manual_describes_each_kind_of_tunnel(kind):
    found = re.search(rf"^\.It Cm {kind}$", section("OPTIONS"), re.MULTILINE)
    assert found, f"docs/netconf-interfaces.5, OPTIONS, netconf-vpn: no paragraph '.It Cm {kind}'"


@pytest.mark.parametrize("word", SITUATIONS)
def test_the_manual_describes_each_word(word):
    found = f"\n.It Cm {word}\n" in section("WORDS")
    assert found, f"docs/netconf-interfaces.5, WORDS: no paragraph '.It Cm {word}'"


def test_the_manual_describes_each_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    ([a-z-]+)(?= |$)", capsys.readouterr().out, re.MULTILINE)
    manual = (ROOT / "docs/netconf-hooks.8").read_text(encoding="utf-8")
    described = re.findall(r"^\.It Cm ([a-z-]+)", manual, re.MULTILINE)
    assert described == commands, "docs/netconf-hooks.8, DESCRIPTION: one '.It Cm' for each command, as in --help"
    assert re.findall(r"^\.Cm ([a-z-]+)", manual.split(".Sh DESCRIPTION")[0], re.MULTILINE) == commands
    for command in commands:
        assert f"| `{command}" in README


def test_the_readme_names_each_test_and_each_kind_of_tunnel():
    rows = "".join(line for line in README.splitlines() if line.startswith("| `"))
    for key in TESTS:
        assert f"`{key}=" in rows, f"README.md: no row for `{key}=...` in the table of tests"
    for name in TUNNEL_KINDS:
        assert f"| `{name}` |" in rows, f"README.md: no row for `{name}` in the table of kinds of tunnels"


EXAMPLES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs/examples").glob("interfaces*"))


@pytest.mark.parametrize("path", [*EXAMPLES, "docs/netconf-interfaces.5", "README.md"])
def test_the_examples_can_be_read(path):
    stanzas: list[dict[str, str]] = []
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        words = line.split(None, 1)
        if words[:1] == ["iface"]:
            stanzas.append({})
        elif len(words) == 2 and line.startswith("    netconf-"):
            lines = stanzas[-1]
            lines[words[0]] = f"{lines[words[0]]}\n{words[1]}" if words[0] in lines else words[1]
    assert any(stanzas)
    for options in stanzas:
        # A certificate's 64 digits would tell a reader nothing.
        rules = read_rules({option: value.replace("3f1c...", "3f" * 32) for option, value in options.items()})
        assert rules.errors == ()
        names = {location.name for location in rules.locations} | set(SITUATIONS)
        for vpn in rules.vpns:
            for word in (*vpn.condition.on, *vpn.condition.unless):
                assert word.test or word.text in names
