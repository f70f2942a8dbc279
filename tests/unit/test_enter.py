"""libexec/enter, the shell in front of the hooks: when it runs them, which one, and that it runs nothing else.

In a copy with other paths, so that no hook and no record of this machine is touched; the hooks there are stand-ins.
"""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIRECTORIES = ("if-pre-up.d", "if-up.d", "if-down.d", "if-post-down.d")
SHELLS = [["dash"], ["bash", "--posix"]]

# Says which hook it is, and with what environment it was run.
STAND_IN = """\
#!/bin/sh
echo "${0%/netconf-hooks}"
exec cat /proc/$$/environ
"""
# What a shell itself adds to the environment of what it runs.
OF_THE_SHELL = {"_", "SHLVL", "PWD", "OLDPWD"}


class Entrance:
    """An installed copy of enter, with links to it as /etc/network has them, and Python under another path."""

    def __init__(self, directory, shell):
        self.directory = directory
        self.shell = shell
        self.records = directory / "run"
        self.python = directory / "python3"
        self.python.symlink_to("/usr/bin/python3")
        text = (ROOT / "libexec/enter").read_text()
        for old, new in {
            "/run/netconf-hooks": str(self.records),
            "/usr/lib/netconf-hooks": str(directory / "lib"),
            "/usr/bin/python3": str(self.python),
        }.items():
            assert old in text
            text = "".join(
                line.replace(old, new) if not line.startswith("#") else line for line in text.splitlines(keepends=True)
            )
        for name in DIRECTORIES:
            for place in (directory / "lib" / name, directory / "etc" / name):
                place.mkdir(parents=True)
            (directory / "lib" / name / "netconf-hooks").write_text(STAND_IN)
            (directory / "lib" / name / "netconf-hooks").chmod(0o755)
        self.script = directory / "lib/enter"
        self.script.write_text(text)
        self.script.chmod(0o755)
        for name in DIRECTORIES:
            (directory / "etc" / name / "hook").symlink_to(self.script)

    def keep(self, *paths):
        """Write records."""
        for path in paths:
            (self.records / path).parent.mkdir(parents=True, exist_ok=True)
            (self.records / path).touch()

    def run(self, directory="if-up.d", argv=None, cwd="/", **environ):
        """Run it as run-parts does.

        Returns the exit status, the directory of the hook that ran with its environment (both None if none did), and
        the complaints.
        """
        path = argv or str(self.directory / "etc" / directory / "hook")
        process = subprocess.run(
            [shutil.which(self.shell[0]), *self.shell[1:], path], env=environ, cwd=cwd, capture_output=True, text=True,
            timeout=20,
        )  # fmt: skip
        if not process.stdout:
            return process.returncode, None, None, process.stderr
        hook, _, output = process.stdout.partition("\n")
        assert Path(hook).parent == self.directory / "lib"
        variables = dict(variable.split("=", 1) for variable in output.split("\0") if variable)
        passed = {name: value for name, value in variables.items() if name not in OF_THE_SHELL}
        return process.returncode, Path(hook).name, passed, process.stderr


@pytest.fixture(params=SHELLS, ids=" ".join)
def entrance(request, tmp_path):
    if not shutil.which(request.param[0]):
        pytest.fail(f"{request.param[0]} is missing, which every Debian has")
    return Entrance(tmp_path, request.param)


LEFT = (0, None, None, "")


@pytest.mark.parametrize("iface", [
    "eth0", "--all", "", "lo", ".", "..", "a b", "eth0\n", "eth0:1", ":1", "../guards", "*", "/", "-e", "(", "\\",
    "$(echo)", "eth0.5", "é",
])  # fmt: skip
def test_without_options_and_record_it_leaves(entrance, iface):
    environ = {"IFACE": iface, "IF_ADDRESS": "192.0.2.1", "PATH": "/usr/bin:/bin", "MODE": "start"}
    assert entrance.run(**environ) == LEFT
    entrance.keep("interfaces/wlan0", "guards/wlan0")
    assert entrance.run(**environ) == LEFT


def test_without_anything_it_leaves(entrance):
    assert entrance.run() == LEFT
    entrance.keep("interfaces/wlan0")
    assert entrance.run() == LEFT


def test_a_thousand_lines_take_hardly_longer_than_one(entrance):
    """What took dash five seconds: the square of their length."""
    lines = "\n".join(f"place-{number} gateway-mac=02:00:00:00:01:0{number % 10} command=a'b" for number in range(2000))
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    status, hook, passed, _ = entrance.run(IFACE="eth0", IF_NETCONF_LOCATION=lines, IF_NETCONF_VPN="openvpn corp")
    assert (status, hook) == (0, "if-up.d")
    assert passed["IF_NETCONF_LOCATION"] == lines
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began < 2


@pytest.mark.parametrize("option", ["VPN", "GUARD", "LOCATION_10", "TYPO", "x_Y"])
def test_an_option_is_enough(entrance, option):
    for value in ("openvpn corp", "", "two\nlines", "'\"$(exit 3)`exit 3`\\", "\nexport X='"):
        environ = {"IFACE": "eth0", f"IF_NETCONF_{option}": value}
        assert entrance.run(**environ) == (0, "if-up.d", environ, "")


@pytest.mark.parametrize("name", ["IF_X", "X_IF_NETCONF_VPN", "IF_NETCONF"])
def test_a_value_that_looks_like_an_option_is_none(entrance, name):
    for value in (
        "IF_NETCONF_VPN=x", "\nIF_NETCONF_VPN=x", "\nexport IF_NETCONF_GUARD='yes'", "'\nexport IF_NETCONF_GUARD='yes",
        '"\ndeclare -x IF_NETCONF_GUARD="yes"', "IF_NETCONF_", "IF_NETCONF_IF_NETCONF_", "IF_NETCONF_}; exit 3; #",
        "IF_NETCONF_$(exit 3)", "IF_NETCONF_é",
    ):  # fmt: skip
        assert entrance.run(IFACE="eth0", **{name: value}) == LEFT
        environ = {"IFACE": "eth0", "IF_NETCONF_VPN": "unit x", name: value}
        assert entrance.run(**environ) == (0, "if-up.d", environ, "")


# In each of these orders the kernel may keep them, and a value may have several lines.
ENVIRONMENTS = [
    {"IFACE": "eth0", "MODE": "start", "{}": "{}"},
    {"MODE": "start", "IF_X": "1\n2", "{}": "{}", "IFACE": "eth0"},
    {"{}": "{}", "IF_X": "\n", "IFACE": "eth0", "MODE": "start"},
    {"IFACE": "eth0", "IF_X": "a\nIFACE=x\n\nMODE=start", "{}": "{}", "MODE": "start"},
    {"IFACE": "eth0", "MODE": "start", "{}": "{}", "IF_X": "y" * 9_000},
    {"IFACE": "eth0", "MODE": "start", "IF_X": "y" * 9_000 + "\n", "{}": "{}"},
    {"IFACE": "eth0", "{}": "{}"},
]


@pytest.mark.parametrize("template", ENVIRONMENTS)
@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])
def test_an_option_is_found_wherever_the_kernel_keeps_it(entrance, template, proc):
    """The kernel is asked first, and if it can't be asked, the shell."""
    text = entrance.script.read_text()
    assert text.count("</proc/self/environ") == 1
    entrance.script.write_text(text.replace("</proc/", f"<{proc}/"))
    for name, value, is_option in (
        ("IF_NETCONF_VPN", "unit x", True), ("IF_NETCONF_GUARD_2", "", True), ("IF_NETCONF_LOCATION_2", "a\nb\n", True),
        ("IF_Y", "IF_NETCONF_GUARD=yes", False), ("IF_Y", "1\nIF_NETCONF_GUARD=yes", False), ("IF_Y", "", False),
    ):  # fmt: skip
        environ = {name if key == "{}" else key: value if text == "{}" else text for key, text in template.items()}
        found = entrance.run(**environ)
        assert found == ((0, "if-up.d", environ, "") if is_option else LEFT)


@pytest.mark.parametrize("directory", ["if-down.d", "if-post-down.d"])
def test_what_an_ifup_has_not_recorded_an_ifdown_leaves(entrance, directory):
    """Nearly all stanzas with rules have a usual option; those without are looked for at ifup, and recorded."""
    environ = {"IFACE": "eth0", "MODE": "stop", "IF_NETCONF_VPN_2": "unit x"}
    assert entrance.run(directory, **environ) == LEFT
    entrance.keep("interfaces/eth0")
    assert entrance.run(directory, **environ) == (0, directory, environ, "")
    usual = {"IFACE": "eth1", "MODE": "stop", "IF_NETCONF_VPN": "unit x"}
    assert entrance.run(directory, **usual) == (0, directory, usual, "")


@pytest.mark.parametrize("environ, runs", [
    ({"IF_ADDRESS": "x"}, False), ({"IF_NETCONF_LOCATION": "home gateway=192.0.2.1", "IF_ADDRESS": "a\nb"}, True),
])  # fmt: skip
def test_what_most_interfaces_take_starts_no_process(entrance, tmp_path, environ, runs):
    """Nor does a shell that reads its own environment byte by byte look at anything but two or three files."""
    trace = tmp_path / "trace"
    shell = [shutil.which(entrance.shell[0]), *entrance.shell[1:]]
    strace = shutil.which("strace")
    if not strace:
        pytest.skip("strace is missing")
    hook = str(entrance.directory / "etc/if-up.d/hook")
    argv = [strace, "-f", "-o", str(trace), "-e", "trace=process", *shell, hook]
    environ = {"IFACE": "eth0", "MODE": "start", **environ}
    done = subprocess.run(argv, env=environ, check=False, timeout=20, capture_output=True)
    if "ptrace" in trace.read_text():
        pytest.skip("programs can't be traced here")
    assert (done.returncode, bool(done.stdout)) == (0, runs)
    assert not [call for call in ("fork", "clone", "wait4") if call in trace.read_text()]


@pytest.mark.parametrize("iface, record", [
    ("eth0", "interfaces/eth0"),
    ("eth0", "guards/eth0"),
    ("eth0:1", "interfaces/eth0:1"),
    ("eth0:1", "interfaces/eth0"),
    ("eth0:1:2", "guards/eth0"),
    ("eth0.5", "interfaces/eth0.5"),
    ("(", "interfaces/("),
    ("!", "guards/!"),
    ("*", "interfaces/*"),
])
def test_a_record_is_enough(entrance, iface, record):
    entrance.keep(record)
    assert entrance.run(IFACE=iface) == (0, "if-up.d", {"IFACE": iface}, "")


@pytest.mark.parametrize("iface, record", [
    ("eth0", "interfaces/eth0:1"),
    ("eth", "interfaces/eth0"),
    ("*", "interfaces/eth0"),
    ("eth0 ", "interfaces/eth0"),
    ("eth0", "guards/eth0:1"),
])
def test_anothers_record_is_not(entrance, iface, record):
    entrance.keep(record)
    assert entrance.run(IFACE=iface) == LEFT


def test_records_that_can_not_be_looked_at_are_none(entrance):
    entrance.records.symlink_to(entrance.records)  # ELOOP, for root as well
    assert entrance.run(IFACE="eth0") == LEFT
    assert entrance.run(IFACE="eth0", IF_NETCONF_VPN="unit x")[1] == "if-up.d"


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_each_directory_has_its_own_hook(entrance, directory):
    assert entrance.run(directory, IFACE="eth0", IF_NETCONF_VPN="unit x")[1] == directory


@pytest.mark.parametrize("path, cwd", [
    ("{etc}/if-down.d/hook", "/"),
    ("{etc}//if-down.d//hook", "/"),
    ("{etc}/if-down.d/./hook", "/"),
    ("./hook", "{etc}/if-down.d"),
    ("hook", "{etc}/if-down.d"),
    ("if-down.d/hook", "{etc}"),
    ("../if-down.d/hook", "{etc}/if-up.d"),
    ("/{etc}/if-down.d/hook", "/"),
])
def test_called_by_another_path(entrance, path, cwd):
    etc = entrance.directory / "etc"
    status, hook, _, complaint = entrance.run(
        argv=path.format(etc=etc), cwd=cwd.format(etc=etc), IFACE="eth0", IF_NETCONF_VPN="unit x"
    )
    assert (status, hook, complaint) == (0, "if-down.d", "")


OPTIONS = [
    ({"IF_NETCONF_VPN": "unit x"}, False),
    ({"IF_NETCONF_GUARD": "yes"}, True),
    ({"IF_NETCONF_GUARD_2": "yes"}, True),
    ({"IF_NETCONF_UPLINK": "eth0"}, True),
    ({"IF_NETCONF_UPLINK_12": "eth0"}, True),
    ({"IF_NETCONF_GUARD_ALLOW": "lan"}, False),
    ({"IF_NETCONF_GUARD_ALLOW_2": "lan"}, False),
    ({"IF_NETCONF_GUARD_BACKEND": "auto"}, False),
    ({"IF_NETCONF_VPN": " GUARD "}, False),
]


@pytest.mark.parametrize("environ, refusable", OPTIONS)
@pytest.mark.parametrize("directory", DIRECTORIES)
@pytest.mark.parametrize("missing", ["python", "hook"])
def test_without_python_or_the_hook_only_what_would_be_unguarded_stays_down(
    entrance, missing, directory, environ, refusable
):
    gone = {"python": entrance.python, "hook": entrance.directory / "lib" / directory / "netconf-hooks"}[missing]
    gone.unlink()
    status, hook, _, complaint = entrance.run(directory, IFACE="eth0", **environ)
    assert status == (1 if refusable and directory == "if-pre-up.d" else 0)
    assert hook is None
    assert complaint.startswith("netconf-hooks: eth0: no rule is followed: ") and complaint.count("\n") == 1
    assert str(gone) in complaint


@pytest.mark.parametrize("environ, refusable", OPTIONS)
def test_called_from_nowhere_it_knows_it_refuses_what_would_be_unguarded(entrance, environ, refusable):
    status, hook, _, complaint = entrance.run(argv=str(entrance.script), IFACE="eth0", **environ)
    assert (status, hook) == (1 if refusable else 0, None)
    assert "lib/lib/netconf-hooks is missing" in complaint


def test_it_needs_no_program_but_the_hook(entrance, tmp_path):
    """Each program that it would look for on PATH leaves a trace."""
    noticed = tmp_path / "noticed"
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in ("env", "export", "grep", "sed", "printf", "test", "[", "cat", "basename", "dirname", "readlink"):
        (programs / program).write_text(f"#!/bin/sh\n: >{noticed}\n")
        (programs / program).chmod(0o755)
    assert entrance.run(IFACE="eth0", PATH=str(programs)) == LEFT
    (entrance.directory / "lib/if-up.d/netconf-hooks").unlink()
    assert "no rule is followed" in entrance.run(IFACE="eth0", PATH=str(programs), IF_NETCONF_VPN="unit x")[3]
    assert not noticed.exists()


def test_it_is_a_program_of_the_systems_shell():
    assert (ROOT / "libexec/enter").read_text().startswith("#!/bin/sh\n")
    assert os.access(ROOT / "libexec/enter", os.X_OK)
