"""The admin's own scripts: /etc/netconf-hooks/event.d."""

from __future__ import annotations

import pytest

from .lab import Lab
from .laptop import DHCP_CLIENTS
from .network import CAFE, HOME, OFFICE
from .stanzas import ROAMING, find_tunnels, wait_for_no_tunnel, wait_for_tunnel
from .told import DIRECTORY, NOTE, read_told
from .watcher import wait_for_watcher

pytestmark = pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])


@pytest.fixture
def told_lab(lab: Lab) -> Lab:
    """A lab with a script that notes each event, and the roaming stanza."""
    lab.laptop.write("/etc/network/interfaces", ROAMING)
    lab.laptop.write(f"{DIRECTORY}/note", NOTE, 0o755)
    return lab


def test_edges_and_their_order(told_lab: Lab) -> None:
    lab, laptop = told_lab, told_lab.laptop
    lab.plug("office", "eth0")
    laptop.ifup("eth0")
    assert read_told(lab) == ["office-lan-connected eth0", "inet-connected eth0"]
    laptop.run(["netconf-hooks", "refresh"])
    assert read_told(lab) == []  # edges only
    lab.plug("office", "wlan0")
    laptop.ifup("wlan0")
    assert read_told(lab) == []  # not the first to arrive
    laptop.ifdown("eth0")
    assert read_told(lab) == []  # not the last to leave
    laptop.ifdown("wlan0")
    assert read_told(lab) == ["inet-disconnected wlan0", "office-lan-disconnected wlan0"]


def test_another_place_without_losing_the_route(told_lab: Lab) -> None:
    lab, laptop = told_lab, told_lab.laptop
    lab.plug("home", "wlan0")
    lab.plug("office", "eth0")
    laptop.ifup("eth0", "wlan0")
    assert set(read_told(lab)) == {"office-lan-connected eth0", "inet-connected eth0", "home-lan-connected wlan0"}
    laptop.ifdown("wlan0")
    assert read_told(lab) == ["home-lan-disconnected wlan0"]
    # eth0 from the office to home in one step, which nobody looks at half-way: the watcher is stopped.
    laptop.run(["kill", "-STOP", str(wait_for_watcher(lab))])
    laptop.give_back_lease()
    lab.plug("home", "eth0")
    laptop.ask_for_lease()
    laptop.run(["netconf-hooks", "refresh", "eth0"])
    assert read_told(lab) == ["office-lan-disconnected eth0", "home-lan-connected eth0"]


def test_what_a_script_is_told(told_lab: Lab) -> None:
    told_lab.laptop.write("/etc/network/interfaces", ROAMING.replace("iface eth0 inherits", "iface desk inherits"))
    told_lab.plug("office")
    told_lab.laptop.ifup("eth0=desk")
    lines = told_lab.laptop.read("/run/told").splitlines()
    mac = OFFICE.router_mac
    assert lines[0] == f"office-lan-connected eth0 office-lan-connected office-lan desk {mac}"
    assert lines[1] == f"inet-connected eth0 inet-connected office-lan desk {mac}"


def test_which_scripts_run(lab: Lab) -> None:
    """As run-parts would, and only root's own; a failing one stops nothing."""
    laptop = lab.laptop
    laptop.write("/etc/network/interfaces", ROAMING)
    note = "#!/bin/sh\necho \"$0 $1\" >>/run/told\n"
    laptop.write(f"{DIRECTORY}/10-fails", note + "echo said by a script\nexit 3\n", 0o755)
    laptop.write(f"{DIRECTORY}/20-runs", note, 0o755)
    laptop.write(f"{DIRECTORY}/30-not-executable", note, 0o644)
    laptop.write(f"{DIRECTORY}/40.dpkg-old", note, 0o755)
    laptop.write(f"{DIRECTORY}/50-anyone-writes", note, 0o777)
    laptop.write(f"{DIRECTORY}/60-not-roots", note, 0o755)
    laptop.run(["chown", "nobody", f"{DIRECTORY}/60-not-roots"])
    lab.plug("home")
    laptop.ifup("eth0")
    told = laptop.read("/run/told").splitlines()
    assert told == [f"{DIRECTORY}/{script} {event}"
                    for event in ("home-lan-connected", "inet-connected") for script in ("10-fails", "20-runs")]
    log = laptop.log()
    assert "info netconf-hooks[" in log and f"{DIRECTORY}/10-fails: said by a script" in log
    assert f"event home-lan-connected: {DIRECTORY}/10-fails: exit status 3" in log
    path = f"{DIRECTORY}/50-anyone-writes"
    assert f"{path}: others than root can write it (mode 777): {path} is not run" in log
    assert f"{DIRECTORY}/60-not-roots: belongs to uid 65534, not to root: {DIRECTORY}/60-not-roots is not run" in log
    laptop.run(["chmod", "0777", DIRECTORY])
    laptop.run(["rm", "/run/told"])
    laptop.ifdown("eth0")
    assert not laptop.exists("/run/told")
    assert f"{DIRECTORY}: others than root can write it (mode 777): no event script is run" in laptop.log()


def test_a_script_that_raises_another_interface_waits_for_nobody(told_lab: Lab) -> None:
    lab, laptop = told_lab, told_lab.laptop
    laptop.write(f"{DIRECTORY}/50-nested", '#!/bin/sh\n[ "$1" != home-lan-connected ] || ifup wlan0\n', 0o755)
    lab.plug("home", "eth0")
    lab.plug("office", "wlan0")
    laptop.ifup("eth0", timeout=20)
    assert read_told(lab) == ["home-lan-connected eth0", "inet-connected eth0", "office-lan-connected wlan0"]


def test_an_event_is_told_after_a_hook_was_killed(told_lab: Lab) -> None:
    lab, laptop = told_lab, told_lab.laptop
    laptop.write(f"{DIRECTORY}/00-kill", "#!/bin/sh\n[ -e /run/once ] || { : >/run/once; kill -KILL $PPID; }\n", 0o755)
    lab.plug("home")
    laptop.ifup("eth0", check=False)
    laptop.run(["rm", "-f", "/run/told"])
    laptop.run(["netconf-hooks", "refresh"])
    assert read_told(lab) == ["home-lan-connected eth0", "inet-connected eth0"]


def test_the_missions_example_with_openvpn(lab: Lab) -> None:
    """A tunnel that starts on inet-connected, unless we are between office-lan-connected and office-lan-disconnected:
    an admin's script, and no netconf-vpn line."""
    laptop = lab.laptop
    locations = "".join(line for line in ROAMING.splitlines(keepends=True) if "netconf-vpn" not in line)
    laptop.write("/etc/network/interfaces", locations)
    laptop.write(
        f"{DIRECTORY}/tunnel",
        """\
#!/bin/sh
start() { openvpn --config /etc/openvpn/corp.conf --daemon --writepid /run/openvpn/mine.pid; }
stop() { [ ! -e /run/openvpn/mine.pid ] || kill "$(cat /run/openvpn/mine.pid)"; rm -f /run/openvpn/mine.pid; }
case $1 in
    office-lan-connected) : >/run/in-the-office; stop ;;
    office-lan-disconnected) rm /run/in-the-office; [ ! -e /run/inet ] || start ;;
    inet-connected) : >/run/inet; [ -e /run/in-the-office ] || start ;;
    inet-disconnected) rm /run/inet; stop ;;
esac
""",
        0o755,
    )
    for site, tunnel in ((HOME, True), (OFFICE, False), (CAFE, True)):
        lab.plug(site.name)
        laptop.ifup("eth0")
        if tunnel:
            wait_for_tunnel(lab)
        else:
            assert find_tunnels(lab) == []
        laptop.ifdown("eth0")
        wait_for_no_tunnel(lab)
