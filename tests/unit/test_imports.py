"""What every ifup pays for: the modules that each hook imports, in an interpreter of its own.

The hooks and the library are copied, with other paths written into the copies: no record of this machine is touched.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dear import DEAR
from situations import make_record

from netconf_hooks.state import Pass, Store, TunnelRecord

CHECKOUT = Path(__file__).parents[2]
DIST_PACKAGES = "/usr/lib/python3/dist-packages"
PHASES = ("pre-up", "up", "down", "post-down")


# The loopback device under a name that is an interface's to ifupdown: it is there, under index 1, on every machine.
IFACE = "lo:1"
TUNNEL = ("unit", "netconf-nothing.service")
VPN = " ".join(TUNNEL)


class Installed:
    """A copy of hooks and library, and what it keeps."""

    def __init__(self, directory):
        self.directory = directory
        self.store = Store(str(directory / "run"))
        library = directory / "lib"
        shutil.copytree(
            CHECKOUT / "netconf_hooks", library / "netconf_hooks", ignore=shutil.ignore_patterns("__pycache__")
        )
        self.change(library / "netconf_hooks/state.py", '"/run/netconf-hooks"', repr(self.store.directory))
        self.loaded = directory / "loaded"
        self.change(
            library / "netconf_hooks/system/ending.py",
            "        os._exit(status)",
            f"        import sys; open('{self.loaded}', 'w').write(' '.join(sys.modules))\n        os._exit(status)",
        )
        self.change(library / "netconf_hooks/linkdown.py", '"/proc/sys/net"', repr(str(directory / "sysctls")))
        # As on a machine whose lo is up: where packages are built it may be down.
        self.change(
            library / "netconf_hooks/system/netlink.py",
            "_, _, index, flags, _ = _unpack(_LINK, body)",
            "_, _, index, flags, _ = _unpack(_LINK, body); flags |= IFF_UP | IFF_LOWER_UP",
        )
        self.change(library / "netconf_hooks/system/log.py", "syslog.syslog(priority, ", "str(")  # this machine's log
        for phase in PHASES:
            shutil.copytree(CHECKOUT / f"if-{phase}.d", directory / f"if-{phase}.d")
            script = self.find_script(phase)
            self.change(script, f'"{DIST_PACKAGES}"', f'"{library}"); sys.path.append("{DIST_PACKAGES}"')
            self.change(script, '"/run/netconf-hooks/interfaces/"', f'"{self.store.interfaces}/"')

    def find_script(self, phase):
        """Return the hook of a phase."""
        return self.directory / f"if-{phase}.d/netconf-hooks"

    @staticmethod
    def change(path, old, new):
        """Write another path into a copy."""
        text = path.read_text()
        assert old in text, path
        path.write_text(text.replace(old, new))

    def run(self, phase, **environ):
        """Run a hook; return its exit status, the modules it imported, and what it said."""
        environ = {"IFACE": IFACE, "ADDRFAM": "inet", "MODE": "start" if phase.endswith("up") else "stop", **environ}
        self.loaded.write_text("")
        status, modules, said = run_python(str(self.find_script(phase)), environ)
        # -X importtime leaves out what import_module() is called for; all that is loaded is known only to a hook that
        # comes to its end.
        return status, modules | set(self.loaded.read_text().split()), said


def run_python(program, environ, *options):
    """Run a program as the hooks' first line says; return its exit status, the modules imported, and what it said."""
    argv = [sys.executable, "-IS", "-X", "importtime", *options, program]
    process = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=20)
    assert process.stdout == ""
    lines = process.stderr.splitlines()
    modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    said = [line for line in lines if not line.startswith("import time:")]
    return process.returncode, modules - {"imported package"}, said


@pytest.fixture(scope="module")
def bare():
    """What the interpreter imports for itself."""
    process = subprocess.run(
        [sys.executable, "-IS", "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, timeout=20
    )
    return run_python("pass", {}, "-c")[1] | set(process.stdout.split())


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.fixture
def installed(copy):
    """The copy, with nothing kept."""
    shutil.rmtree(copy.store.directory, ignore_errors=True)
    return copy


@pytest.fixture
def tunnel_runs(installed):
    """Another interface, of the same device, for which the tunnel runs already: there is nothing to be done."""
    store = installed.store
    store.prepare()
    store.write_interface(make_record("lo:2", 1, (Pass("inet", {"netconf-vpn": VPN}),)))
    store.write_tunnels({TUNNEL: TunnelRecord(*TUNNEL, "up", "wanted", applied=True)})
    os.mkfifo(store.fifo)
    watcher = os.open(store.fifo, os.O_RDWR | os.O_NONBLOCK)  # one that runs: none has to be started
    yield store
    os.close(watcher)


@pytest.mark.parametrize("phase", PHASES)
def test_the_first_line_asks_for_a_bare_interpreter(phase):
    script = CHECKOUT / f"if-{phase}.d/netconf-hooks"
    assert script.read_text().startswith("#!/usr/bin/python3 -IS\n")
    assert os.access(script, os.X_OK)


def test_the_four_hooks_differ_in_nothing_but_their_phase():
    bodies = set()
    for phase in PHASES:
        script = (CHECKOUT / f"if-{phase}.d/netconf-hooks").read_text()
        summary, body = script.split('"""')[1:]
        assert summary
        assert body.endswith(f'main("{phase}")\n')
        # A guarded interface, or a wish, does not come up without the library.
        refusal = (
            '    asked = {name.rstrip(b"0123456789_") for name in posix.environ}\n'
            '    posix._exit(not asked.isdisjoint((b"IF_NETCONF_GUARD", b"IF_NETCONF_UPLINK")))\n'
        )
        assert (refusal in body) == (phase == "pre-up")
        bodies.add(body.replace(f'"{phase}"', "").replace(refusal, "    posix._exit(0)\n"))
    assert len(bodies) == 1


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("phase", PHASES)
def test_without_rules_and_record_nothing_is_imported(installed, bare, phase, kept):
    if kept:
        installed.store.prepare()
        installed.store.write_interface(make_record("eth9", 9, ()))
    status, modules, said = installed.run(phase, IF_ADDRESS="192.0.2.1", LOGICAL="x")
    assert status == 0
    assert modules - bare == set()
    assert said == []


@pytest.mark.parametrize("phase", PHASES)
def test_a_record_is_enough_to_do_something(installed, bare, phase):
    installed.store.prepare()
    installed.store.write_interface(make_record(IFACE, 1, (Pass("inet", {}, iface=IFACE),)))
    status, modules, said = installed.run(phase)
    assert status == 0
    assert "netconf_hooks.hook" in modules
    assert installed.store.read_interface(IFACE) is None
    assert said == []


def list_dear(modules, bare):
    """Return what should not be among the modules."""
    return {module for module in modules - bare if module.partition(".")[0] in DEAR}


@pytest.mark.parametrize("tests, observer", [
    ("gateway-mac=52:54:00:0a:00:01,00:16:3e:11:22:33", "router"),
    ("gateway=192.0.2.1", "router"),
    ("dns-domain=corp.example.com,*.example.org", "dns"),
    ("dns-server=192.0.2.0/24", "dns"),
    ("interface=wl*", "address"),
    ("address=203.0.113.0/24", "address"),
    ("carrier=no", "carrier"),
    ("interface=wl* peer=192.0.2.1 tls=a.example:443/sha256:" + 64 * "0", "address"),
    ("gateway=192.0.2.1 !dns-domain=corp.example.com", "dns"),
])
def test_up_with_a_tunnel_that_is_right_imports_nothing_dear(installed, tunnel_runs, bare, tests, observer):
    status, modules, said = installed.run(
        "up", IF_NETCONF_LOCATION=f"office {tests}", IF_NETCONF_VPN=f"{VPN} unless office"
    )
    assert status == 0
    assert said == []
    assert f"netconf_hooks.evidence.{observer}" in modules
    assert list_dear(modules, bare) == set()
    assert "encodings.ascii" not in modules
    assert not any(module.startswith("netconf_hooks.tunnels") for module in modules)
    record = tunnel_runs.read_interface(IFACE)
    assert record.observation.index == 1
    assert list(record.observation.answers)
    assert tunnel_runs.read_tunnels()[TUNNEL].applied


def test_only_who_asks_the_network_pays_for_it(installed, tunnel_runs, bare):
    location = "office interface=wl* peer=192.0.2.1 command=/nowhere"
    status, modules, said = installed.run("up", IF_NETCONF_LOCATION=location, IF_NETCONF_VPN=f"{VPN} unless office")
    assert (status, said) == (0, [])
    assert "netconf_hooks.evidence.probes" not in modules
    location = location.replace("interface=wl*", "interface=lo*")
    _, modules, _ = installed.run("up", IF_NETCONF_LOCATION=location, IF_NETCONF_VPN=f"{VPN} unless office")
    assert {"netconf_hooks.evidence.probes", "netconf_hooks.evidence.peer", "netconf_hooks.evidence.program"} <= modules
    assert list_dear(modules, bare) & {"ssl", "socket", "dns"} == set()


@pytest.mark.parametrize("phase", ["pre-up", "down", "post-down"])
def test_the_other_hooks_import_nothing_dear_either(installed, tunnel_runs, bare, phase):
    tunnel_runs.write_interface(make_record(IFACE, 1, (Pass("inet6", {"netconf-vpn": VPN}, iface=IFACE),)))
    status, modules, said = installed.run(phase, IF_NETCONF_VPN=VPN, IF_NETCONF_LOCATION="office gateway=192.0.2.1")
    assert status == 0
    assert said == []
    assert list_dear(modules, bare) == set()
    assert (tunnel_runs.read_interface(IFACE) is None) == (phase != "pre-up")


def test_closing_a_guard_imports_only_what_it_does(bare):
    """Closing needs root, so here the modules are imported that a hook imports for it."""
    needed = "netconf_hooks.hook, netconf_hooks.guard.lifecycle, netconf_hooks.guard.firewall.nftables"
    program = f"import sys; sys.path += [{str(CHECKOUT)!r}, '{DIST_PACKAGES}']; import {needed}"
    status, modules, said = run_python(program, {}, "-c")
    assert (status, said) == (0, [])
    assert list_dear(modules, bare) == set()
    spared = {"decide", "stanzas.interfaces", "evidence.fingerprint", "evidence.probes", "guard.endpoints",
              "guard.enforce", "guard.firewall.bridge"}  # fmt: skip
    assert "netconf_hooks.system.libnftables" in modules
    assert not modules & {f"netconf_hooks.{module}" for module in spared}


@pytest.mark.parametrize("tests, wireless, scans", [
    (["command true"], True, False),
    (["wireless essid cafe", "command true"], False, False),  # the same file serves a cable
    (["wireless essid cafe", "command true"], True, True),
])
def test_only_a_scan_imports_pyroute2(bare, tests, wireless, scans):
    program = f"""
import sys, time; sys.path += [{str(CHECKOUT)!r}, "{DIST_PACKAGES}"]
from netconf_hooks.evidence import radios
from netconf_hooks.mappings.guessnet import Candidate, TestContext, find_first, read_test
from netconf_hooks.system import log
radios.is_wireless = lambda device: {wireless}
log.error = log.debug = str
candidates = [Candidate("home", (read_test(test),)) for test in {tests}]
# No such device: what is imported for a scan is imported before it is looked for.
assert find_first(candidates, TestContext("none", "none", "", False, time.monotonic() + 60))[0] == "home"
"""
    status, modules, said = run_python(program, {"PATH": "/usr/bin:/bin"}, "-c")
    assert (status, said) == (0, [])
    assert {"netconf_hooks.evidence.scan", "pyroute2"} & modules == (
        {"netconf_hooks.evidence.scan", "pyroute2"} if scans else set()
    )


def test_what_is_dear_is_found_where_it_is_imported(bare):
    _, modules, _ = run_python(f"import sys, json; sys.path.append('{DIST_PACKAGES}'); import netifaces", {}, "-c")
    assert {"json", "re", "enum", "netifaces"} <= list_dear(modules, bare)


@pytest.mark.parametrize("environ, refused", [
    ({"IF_NETCONF_VPN": "openvpn corp"}, ()),
    ({"IF_NETCONF_GUARD": "yes"}, ("pre-up",)),
    ({"IF_NETCONF_GUARD_2": "yes"}, ("pre-up",)),
    ({"IF_NETCONF_UPLINK": "eth0"}, ("pre-up",)),
    ({"IF_NETCONF_UPLINK_2": "eth0"}, ("pre-up",)),
    ({"IF_NETCONF_GUARD_ALLOW_2": "udp/123"}, ()),
    ({"IF_NETCONF_GUARD_BACKEND": "iptables"}, ()),
])
@pytest.mark.parametrize("phase", PHASES)
def test_without_the_library_only_a_guarded_interface_or_a_wish_stays_down(tmp_path, phase, environ, refused):
    script = tmp_path / "netconf-hooks"
    shutil.copy(CHECKOUT / f"if-{phase}.d/netconf-hooks", script)
    Installed.change(script, DIST_PACKAGES, str(tmp_path / "nothing"))
    status, _, said = run_python(str(script), {"IFACE": IFACE, **environ})
    assert status == (1 if phase in refused else 0)
    assert len(said) == 1
    assert "python3-netconf-hooks is missing" in said[0]
