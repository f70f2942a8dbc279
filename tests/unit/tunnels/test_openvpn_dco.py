"""openvpn_dco: whether the kernel may send OpenVPN's packets, and from which port."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from netconf_hooks.tunnels import openvpn_dco
from netconf_hooks.tunnels.openvpn_conf import parse_configuration


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("dev tun", True),
        ("dev tun3", True),
        ("dev corp\ndev-type tun", True),
        ("dev tap", False),
        ("dev tun\ndev-type tap", False),
        ("", False),
        ("dev tun\ndisable-dco", False),
        ("dev tun\nfragment 1300", False),
        ("dev tun\nsocks-proxy p", False),
        ("dev tun\n<connection>\nremote x\n</connection>", True),
        ("dev tun\n<connection>\nremote x\nhttp-proxy p 3128\n</connection>", False),
    ],
)
def test_whether_the_configuration_lets_it(text: str, wanted: bool) -> None:
    assert openvpn_dco.is_wanted(parse_configuration(text)) is wanted


def test_whether_the_kernel_can(tmp_path: Path) -> None:
    loaded, available = tmp_path / "module", tmp_path / "modules"
    release = available / os.uname().release

    def is_possible() -> bool:
        return openvpn_dco.is_possible(str(loaded), str(available))

    assert not is_possible()
    release.mkdir(parents=True)
    (release / "modules.alias").write_text("alias net-pf-16-proto-16-family-wireguard wireguard\n")
    (release / "modules.builtin").write_text("kernel/drivers/net/tun.ko\n")
    assert not is_possible()
    (release / "modules.builtin").write_text("kernel/drivers/net/ovpn/ovpn.ko\n")
    assert is_possible()
    (release / "modules.builtin").unlink()
    (release / "modules.alias").write_text("alias net-pf-16-proto-16-family-ovpn-dco-v2 ovpn_dco_v2\n")
    assert is_possible()
    (release / "modules.alias").unlink()
    (loaded / "ovpn_dco_v2").mkdir(parents=True)
    assert is_possible()


def test_the_ports_of_a_process() -> None:
    before = set(openvpn_dco.find_ports(os.getpid()))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as two,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound,
    ):
        # Any address: where packages are built lo may be down.
        one.bind(("", 0))
        two.bind(("::", 0))
        other.bind(("", 0))
        assert unbound.getsockname()[1] == 0
        ports = {one.getsockname()[1], two.getsockname()[1]}
        assert set(openvpn_dco.find_ports(os.getpid())) - before == ports


# cat /proc/net/udp (Linux 6.18) with one socket bound to 127.0.0.1:1194, and one connected to it, as a resolver's is.
UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1387: 0100007F:04AA 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4026 2 0000000000000000 0
 2710: 0100007F:9B5D 0100007F:04AA 01 00000000:00000000 00:00000000 00000000     0        0 4027 2 0000000000000000 0
"""


def test_a_connected_socket_is_not_openvpns(tmp_path: Path) -> None:
    (tmp_path / "7/fd").mkdir(parents=True)
    (tmp_path / "7/net").mkdir()
    (tmp_path / "7/net/udp").write_text(UDP)
    assert openvpn_dco.find_ports(7, str(tmp_path)) == ()
    for descriptor, inode in ((3, 4026), (4, 4027)):
        (tmp_path / f"7/fd/{descriptor}").symlink_to(f"socket:[{inode}]")
    assert openvpn_dco.find_ports(7, str(tmp_path)) == (1194,)


def test_a_process_that_is_gone_has_none(tmp_path: Path) -> None:
    assert openvpn_dco.find_ports(1, str(tmp_path)) == ()
    (tmp_path / "1/fd").mkdir(parents=True)
    (tmp_path / "1/net").mkdir()
    (tmp_path / "1/net/udp").write_text("  sl  local_address rem_address\n   x\n")
    assert openvpn_dco.find_ports(1, str(tmp_path)) == ()
