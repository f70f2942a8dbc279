"""Removing the package opens a guard that stands, ends what runs, and leaves the tunnels; upgrading it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from .guarded import list_guards
from .laptop import Image, Laptop
from .network import HOME, Network
from .packages import BOTH, dpkg
from .waiting import wait_until

LINKS = [
    f"/etc/network/if-{phase}.d/{'00-' if phase == 'pre-up' else ''}netconf-hooks"
    for phase in ("pre-up", "up", "down", "post-down")
]
BACKENDS = ("nftables", "iptables")
# As guards/hosts.py writes them, beside lines of the admin's.
HOSTS = """\
127.0.0.1 localhost
# netconf-hooks: a remark of the admin's stays if it is in the middle # of a line
192.0.2.7 files # see netconf-hooks
"""
PINNED = """\
# netconf-hooks: the guard of eth0 stands, and these are its tunnels' endpoints; they go with it
203.0.113.1 vpn.example # netconf-hooks: guard of eth0
# netconf-hooks: end of what the guard of eth0 needs
"""
OWN_RULE = ["-A", "POSTROUTING", "-t", "mangle", "-m", "comment", "--comment", "my rule -j nch", "-j", "RETURN"]


def make_stanza(backend: str = "nftables") -> str:
    return f"""
iface eth0 inet static
    address {HOME.router[:-1]}77/24
    netconf-location home address=203.0.113.0/24
    netconf-vpn openvpn corp
    netconf-guard yes
    netconf-guard-backend {backend}
"""


@pytest.fixture
def laptop(bare_image: Image) -> Iterator[Laptop]:
    """A laptop without our packages, plugged in at home."""
    with Network(sites=[HOME]) as network, Laptop(network, bare_image) as machine:
        network.plug("home", "eth0")
        machine.write("/etc/network/interfaces", make_stanza())
        yield machine


def carry(laptop: Laptop, packages: Sequence[Path]) -> list[str]:
    """Put the packages into the laptop's /tmp; return their names there."""
    for package in packages:
        (laptop.namespaces.root / "tmp" / package.name).write_bytes(package.read_bytes())
    return [f"/tmp/{package.name}" for package in packages]


def install(laptop: Laptop, packages: Sequence[Path]) -> str:
    return dpkg(laptop, "--install", *carry(laptop, packages))


def is_guarded(laptop: Laptop) -> bool:
    """Whether a guard stands and holds back a ping."""
    guards = list_guards(laptop)
    assert bool(guards) != laptop.pings(HOME.router), guards
    return bool(guards)


def list_ours(laptop: Laptop) -> list[str]:
    """Return the command lines of our processes."""
    return [line for line in laptop.processes().values() if "netconf-hooks" in line and "dpkg" not in line]


def expect_nothing_left(laptop: Laptop) -> None:
    assert not is_guarded(laptop)
    assert list_ours(laptop) == []
    assert not laptop.exists("/run/netconf-hooks")
    laptop.ifdown("eth0")
    laptop.ifup("eth0")
    assert not is_guarded(laptop)
    assert not laptop.exists("/run/netconf-hooks")


@pytest.mark.parametrize("backend", BACKENDS)
def test_removal_opens_the_guard_and_ends_what_runs(laptop, packages, backend):
    install(laptop, packages)
    laptop.write("/etc/network/interfaces", make_stanza(backend))
    laptop.ifup("eth0")
    assert is_guarded(laptop)
    wait_until(lambda: list_ours(laptop), "the watcher")
    laptop.write("/etc/hosts", HOSTS + PINNED)
    if backend == "iptables":
        for iptables in ("iptables-legacy", "iptables-nft"):
            laptop.run([iptables, *OWN_RULE])
    said = dpkg(laptop, "--remove", *BOTH)
    log = laptop.log()
    for message in (
        "netconf-hooks: the guard is open on eth0: packets that it has blocked may leave now",
        "netconf-hooks: these tunnels are left as they are, and nothing stops or restarts them any more: openvpn corp",
    ):
        assert message in said
        assert message.removeprefix("netconf-hooks: ") in log
    assert laptop.read("/etc/hosts") == HOSTS
    if backend == "iptables":
        for iptables in ("iptables-legacy", "iptables-nft"):
            assert laptop.run([f"{iptables}-save"]).stdout.count("my rule") == 1
    expect_nothing_left(laptop)
    said = dpkg(laptop, "--purge", *BOTH)
    assert "guard" not in said
    expect_nothing_left(laptop)
    assert not laptop.exists("/var/lib/netconf-hooks")


@pytest.mark.parametrize("option", ["--remove", "--purge"])
def test_a_package_that_was_never_configured(laptop, packages, option):
    dpkg(laptop, "--unpack", *carry(laptop, packages))
    laptop.ifup("eth0")
    assert is_guarded(laptop)
    assert "the guard is open on eth0" in dpkg(laptop, option, *BOTH)
    expect_nothing_left(laptop)


def test_a_package_whose_configuration_failed(laptop, packages):
    dpkg(laptop, "--unpack", *carry(laptop, packages))
    laptop.write("/var/lib/dpkg/info/netconf-hooks.postinst", "#!/bin/sh\nexit 1\n", 0o755)
    dpkg(laptop, "--configure", *BOTH, check=False)
    laptop.ifup("eth0")
    assert is_guarded(laptop)
    assert "the guard is open on eth0" in dpkg(laptop, "--remove", *BOTH)
    expect_nothing_left(laptop)


def test_removal_without_nft_and_without_records(laptop, packages):
    install(laptop, packages)
    laptop.ifup("eth0")
    # The watcher would restore the guard's record.
    laptop.run(["kill", "-KILL", laptop.read("/run/netconf-hooks/watch.lock").strip()])
    laptop.run(["rm", "-r", "/run/netconf-hooks"])
    laptop.run(["mv", "/usr/sbin/nft", "/usr/sbin/nft.away"])
    said = dpkg(laptop, "--remove", *BOTH)
    laptop.run(["mv", "/usr/sbin/nft.away", "/usr/sbin/nft"])
    assert "netconf-hooks: the guard is open: packets that it has blocked may leave now" in said
    expect_nothing_left(laptop)


def test_a_guard_that_can_not_be_opened_is_named(laptop, packages):
    install(laptop, packages)
    laptop.ifup("eth0")
    real = "/usr/sbin/nft.real"
    laptop.run(["mv", "/usr/sbin/nft", real])
    laptop.write("/usr/sbin/nft", f'#!/bin/sh\n[ "$1" != delete ] || exit 1\nexec {real} "$@"\n', 0o755)
    said = dpkg(laptop, "--remove", *BOTH)
    laptop.run(["mv", real, "/usr/sbin/nft"])
    assert "a guard could not be removed and still blocks packets; remove by hand: " in said
    advice = said.partition("remove by hand: ")[2].splitlines()[0]
    for command in advice.split("; "):
        laptop.run(command.split())
    expect_nothing_left(laptop)


def test_an_upgrade_leaves_the_guard_closed(laptop, packages):
    install(laptop, packages)
    laptop.ifup("eth0")
    before = list_guards(laptop)
    said = install(laptop, packages)
    assert "the guard is open" not in said and "is up, but" not in said
    assert is_guarded(laptop) and list_guards(laptop) == before
    wait_until(lambda: any(" watch" in line for line in list_ours(laptop)), "the watcher")
    laptop.ifdown("eth0")
    assert list_guards(laptop) == []


def test_installing_while_the_interface_is_up_says_what_to_do(laptop, packages):
    laptop.ifup("eth0")
    said = install(laptop, packages)
    assert "eth0 is up, but its netconf options (and a guard) take effect only at the next ifup" in said
    assert not is_guarded(laptop)
    laptop.ifdown("eth0")
    laptop.ifup("eth0")
    assert is_guarded(laptop)
    assert "is up, but" not in install(laptop, packages)
    dpkg(laptop, "--remove", *BOTH)
    assert "eth0 is up, but" in install(laptop, packages)


def read_links(laptop: Laptop) -> dict[str, str]:
    """Return where our links in /etc/network lead, by path."""
    found = laptop.run(["find", "/etc/network", "-name", "*netconf*", "-printf", r"%p %l\n"]).stdout.splitlines()
    return dict(line.split(" ", 1) for line in found)


def test_links_that_the_admin_changed_stay_so(laptop, packages):
    ours = "/usr/lib/netconf-hooks/enter"
    install(laptop, packages)
    assert read_links(laptop) == dict.fromkeys(LINKS, ours)
    laptop.run(["rm", LINKS[1], LINKS[2]])
    laptop.run(["ln", "-s", "/dev/null", LINKS[2]])
    for _ in range(2):
        install(laptop, packages)
        assert read_links(laptop) == {LINKS[0]: ours, LINKS[2]: "/dev/null", LINKS[3]: ours}
    laptop.run(["rm", LINKS[0]])
    install(laptop, packages)
    assert LINKS[0] not in read_links(laptop)
    dpkg(laptop, "--remove", *BOTH)
    assert set(read_links(laptop)) <= {LINKS[2]}


@pytest.mark.parametrize("kept", [True, False])
def test_the_link_of_an_earlier_version_is_renamed_unless_the_admin_removed_it(laptop, packages, kept):
    old = "/etc/network/if-pre-up.d/netconf-hooks"
    install(laptop, packages)
    # As that version left it: to dpkg, it is the package's.
    laptop.run(["rm", LINKS[0]])
    laptop.run(["sed", "-i", f"s|^{LINKS[0]}$|{old}|", "/var/lib/dpkg/info/netconf-hooks.list"])
    if kept:
        laptop.run(["ln", "-s", "/usr/lib/netconf-hooks/if-pre-up.d/netconf-hooks", old])
    install(laptop, packages)
    assert not laptop.exists(old)
    assert (LINKS[0] in read_links(laptop)) == kept
