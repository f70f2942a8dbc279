"""Reading what others wrote: a limit, regular files only, and in a time that grows as the text does."""

import os
import time

import pytest

from netconf_hooks.mappings import guessnet, mapping

from netconf_hooks.evidence import dhclient, dns
from netconf_hooks.evidence.known_servers import Servers, ServersError
from netconf_hooks.guard import hosts
from netconf_hooks.stanzas import rules
from netconf_hooks.stanzas.interfaces import parse_options, read_names
from netconf_hooks.system.files import LIMIT, MOST_FILES, read_file, read_text
from netconf_hooks.tunnels import TunnelError, ipsec_conf, openvpn, openvpn_conf, swanctl_conf, wireguard

# The reader


def test_a_regular_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a\r\nb\xff\n")
    (tmp_path / "link").symlink_to(path)
    assert read_file(str(path)) == read_file(str(tmp_path / "link")) == b"a\r\nb\xff\n"
    assert read_text(str(path)) == "a\r\nb\udcff\n"
    path.write_bytes(b"a\r\nb\rc\n")
    assert read_text(str(path), any_end=True) == "a\nb\nc\n"
    assert read_file("/proc/self/stat").startswith(str(os.getpid()).encode())


def test_the_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    assert len(read_file(str(path), 10)) == 10
    with pytest.raises(OSError, match="more than 9 bytes") as caught:
        read_file(str(path), 9)
    assert (caught.value.strerror, caught.value.filename) == ("more than 9 bytes", str(path))


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name, reason in (("fifo", "not a regular file"), ("zeros", "not a regular file"), (".", "Is a directory")):
        with pytest.raises(OSError) as caught:
            read_file(str(tmp_path / name))
        assert caught.value.strerror == reason
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        read_file(str(tmp_path / "zeros"), follow=False)
    with pytest.raises(FileNotFoundError):
        read_file(str(tmp_path / "nothing"))


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path / "fifo")


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"")
    os.truncate(path, 100 << 20)
    return str(path)


# Those who read with it


def test_an_openvpn_configuration(tmp_path, fifo, large):
    path = tmp_path / "corp.conf"
    for other, reason in ((fifo, "not a regular file"), (large, f"more than {LIMIT} bytes")):
        for read in (other, str(path)):
            path.write_text(f"client\nremote vpn.example\nconfig {other}\n")
            with pytest.raises(OSError) as caught:
                openvpn_conf.read_configuration(read)
            assert (caught.value.filename, caught.value.strerror) == (other, reason)
    path.write_text("client\nconfig nothing\n")
    assert openvpn_conf.read_configuration(str(path))[0] == ("client",)


def test_ipsec_configurations(tmp_path, fifo, large):
    texts = {ipsec_conf: "conn corp\n    right=192.0.2.1\n", swanctl_conf: "connections { corp { } }\n"}
    for module, text in texts.items():
        read = module.read_conns if module is ipsec_conf else module.read_configuration
        path = tmp_path / "some.conf"
        path.write_text(f"include {fifo}\ninclude {large}\n{text}")
        reading = read(str(path))
        assert f"{fifo} (not a regular file)" in reading.files
        assert f"{large} (more than {LIMIT} bytes)" in reading.files
        assert [one.name for one in (reading.conns if module is ipsec_conf else reading.connections)] == ["corp"]


@pytest.mark.parametrize("read, line", [
    (ipsec_conf.read_conns, "include"), (swanctl_conf.read_configuration, "include"),
    (openvpn_conf.read_configuration, "config"),
])
def test_files_that_include_each_other(tmp_path, read, line):
    for name in range(9):
        (tmp_path / f"{name}.conf").write_text("".join(f"{line} {other}.conf\n" for other in range(9)))
    began = time.process_time()
    if line == "config":
        with pytest.raises(OSError, match=f"more than {MOST_FILES} files"):
            read(str(tmp_path / "0.conf"))
    else:
        assert len(read(str(tmp_path / "0.conf")).files) == MOST_FILES
    assert time.process_time() - began < 20


def test_interfaces(tmp_path, fifo, large):
    path = tmp_path / "interfaces"
    path.write_text(f"source {fifo}\nsource {large}\niface eth0 inet dhcp\n")
    names = read_names(str(path))
    assert names.stanzas == ("eth0",)
    assert names.problems == (f"{fifo}: not a regular file", f"{large}: more than {LIMIT} bytes")


def test_a_wireguard_configuration(fifo, large, monkeypatch):
    for path, reason in ((fifo, "not a regular file"), (large, f"more than {LIMIT} bytes")):
        tunnel = wireguard.Tunnel("wg0")
        monkeypatch.setattr(tunnel, "check", lambda: None)
        monkeypatch.setattr(tunnel, "_path", path)
        with pytest.raises(TunnelError, match=f"{path}: {reason}"):
            tunnel.endpoints()


def test_leases_and_records(fifo, large, tmp_path):
    with pytest.raises(OSError, match="not a regular file"):
        dhclient.read_end(fifo)
    assert len(dhclient.read_end(large)) == dhclient.LIMIT
    (tmp_path / "servers").symlink_to("/dev/zero")
    with pytest.raises(ServersError, match="servers: not a regular file"):
        Servers(str(tmp_path)).read()


def test_hosts(fifo, large):
    for path, reason in ((fifo, "not a regular file"), (large, "more than")):
        with pytest.raises(hosts.GuardError, match=f"{path}: {reason}"):
            hosts.list_devices(path)


def test_map_lines_from_a_pipe(monkeypatch):
    monkeypatch.setattr(mapping, "LIMIT", 40)
    monkeypatch.setattr(mapping.log, "error", said := [].append)
    reader, writer = os.pipe()
    os.write(writer, b"a peer=192.0.2.1\nb peer=192.0.2.2\nc peer=192.0.2.3\n")
    os.close(writer)
    keep = os.dup(0)
    os.dup2(reader, 0)
    try:
        assert mapping._read_input() == "a peer=192.0.2.1\nb peer=192.0.2.2\n"
    finally:
        os.dup2(keep, 0)
        os.close(keep)
        os.close(reader)
    assert said.__self__ == ["the map lines after the first 40 bytes do not count"]


# In a time that grows as the text does

SIZE = 2000
"""Bytes, about, of the smaller text; the larger one has sixteen times as many."""
GROWTH = 16
MOST = 5
"""The larger text may take so many times longer than sixteen times as long: what is quadratic takes sixteen times
longer than that.  Where it seems to, both are measured again: a busy machine does not disturb all measurements."""
AT_LEAST = 0.03
"""Seconds that the larger text may take in any case: what is quadratic takes seconds."""


def read_file_of(read, tmp_path):
    """Return a function that reads a text from a file."""
    path = tmp_path / "text"

    def call(text):
        path.write_text(text, errors="surrogateescape")
        return read(str(path))

    return call


def find_connections(text):
    """Read a whole configuration of OpenVPN."""
    return openvpn_conf.find_connections(openvpn_conf.parse_configuration(text))


def chain(read):
    """Return a function that reads a section for each ten lines of a text, each of which takes over the next one."""

    def call(text):
        read("".join(f"conn c{number}\n also=c{number + 1}\n" for number in range(text.count("\n") // 10)))

    return call


def read_rules(option):
    """Return a function that reads a text as an option."""
    return lambda text: rules._read_options({option: text})


UNITS = ["\\", '"', "'", "a", "a ", "a=", "a\n", "a=b\n", "{", "a{", "}", "#", "#\n", " ", "\n", "\\\n", ",", "a,", ":",
         "a:", ": a", "a : b", 'a="', '\\"', "<a>\n", "\t", ";", "\r", "include ", "\\x41", "é"]  # fmt: skip
"""What a text is made of by repeating it; each parser gets them all behind its own beginnings."""

PARSERS = {
    "openvpn": (lambda _: openvpn_conf.parse_configuration, ["", "<ca>\n", "remote ", "x \""],
                ["remote a 1194 udp\n", "<connection>\nremote a\n</connection>\n", "setenv opt a\n"]),
    "openvpn connections": (lambda _: find_connections, ["client\nremote a\n"],
                            ["remote a 1194 udp\n", "<connection>\nremote a\n</connection>\n", "http-proxy a 1\n"]),
    "openvpn arguments": (lambda _: lambda text: openvpn.parse_arguments(text.split()), ["--remote "],
                          ["--a b ", "-- "]),
    "wireguard": (lambda _: wireguard.parse_configuration, ["", "[Peer]\nAllowedIPs = "],
                  ["[Peer]\nEndpoint = 192.0.2.1:1\n", "[Interface]\n", "0.0.0.0/0,"]),
    "ipsec.conf": (lambda path: read_file_of(ipsec_conf.read_conns, path), ["", "conn a\n also="],
                   ["conn a\n auto=start\n", " x=y\n", "conn a\n also=b\n"]),
    "ipsec.conf, also": (lambda path: chain(read_file_of(ipsec_conf.read_conns, path)), [""], ["\n"]),
    "ipsec.conf, also of one": (
        lambda path: chain(read_file_of(lambda name: ipsec_conf.read_parameters(name, "c0"), path)), [""], ["\n"]),
    "swanctl.conf": (lambda path: read_file_of(swanctl_conf.read_configuration, path),
                     ["", "a = ", 'a = "', "connections {", "connections { a : ", "include \""],
                     ["connections { a { } }\n", "a { b {", "a : b {", "a : b, c\n", "a = b\n"]),
    "interfaces": (lambda path: read_file_of(read_names, path), ["", "iface a inet dhcp\n"],
                   ["  address 192.0.2.1\n", "iface a inet dhcp\n b c\n", "mapping a\n", "iface a inherits a\n"]),
    "ifquery": (lambda _: parse_options, [""], ["a: b\n", "b\n"]),
    "hosts": (lambda path: read_file_of(lambda name: hosts.pin_names("eth0", {"a": ("192.0.2.1",)}, name), path),
              ["", "192.0.2.1 "], ["192.0.2.1 a\n", "192.0.2.1 a # netconf-hooks: guard of eth0\n"]),
    "leases": (lambda _: lambda text: list(dhclient.split_leases(text)),
               ["", "lease {\n", 'lease {\noption domain-name "'],
               ["lease {\n}\n", "lease {\n", "lease {\n  option domain-name \"a\";\n}\n"]),
    "lease values": (lambda _: dhclient.split_values, ["", '"'], ['"a", ', "a, "]),
    "resolv.conf": (lambda _: dns.parse_resolver_record, ["", "search ", "nameserver "], ["nameserver 192.0.2.1\n"]),
    "settings": (lambda _: dns.parse_settings, ["", "DNS="], ["DNS=192.0.2.1 \n"]),
    "map lines": (lambda _: mapping.read_lines, ["", "a ssid=", 'a ssid="'], ["a peer=192.0.2.1\n", "default: a\n"]),
    "guessnet map lines": (lambda _: guessnet.read_lines, ["", "!"], ["a !b\n", "timeout: 3\n", "!a "]),
    "guessnet tests": (lambda _: lambda text: guessnet.read_tests({"test": text, "test-peer": text}),
                       ["", "peer ", 'wireless essid "'], ["peer address 192.0.2.1\n", "wireless essid a "]),
    "locations": (lambda _: read_rules("netconf-location"), ["", "a ", "a ssid=", 'a ssid="', "a ssid='", "a tls="],
                  ["a gateway=192.0.2.1 ", "a gateway=192.0.2.1\n", "a ssid=\\\\x41\n", "A b\n"]),
    "tunnel rules": (lambda _: read_rules("netconf-vpn"), ["", "openvpn a on ", "openvpn a unless "],
                     ["openvpn a on b\n", "on b ", "b "]),
    "guard": (lambda _: read_rules("netconf-guard"), ["on ", ""], ["b ", "ssid=a "]),
    "allowances": (lambda _: read_rules("netconf-guard-allow"), [""], ["192.0.2.0/24 ", "[2001:db8::1]:tcp/1 "]),
    "no such option": (lambda _: read_rules("netconf-x"), ["a "], ["a b=1\n", "openvpn a\n"]),
}  # fmt: skip


def measure(parse, text):
    """Return the processor time that a text takes."""
    began = time.process_time()
    try:
        parse(text)
    except (ValueError, TunnelError, hosts.GuardError):
        pass
    return time.process_time() - began


@pytest.mark.thorough
@pytest.mark.parametrize("name", PARSERS)
def test_each_parser_takes_linear_time(name, tmp_path, monkeypatch):
    make, beginnings, units = PARSERS[name]
    parse = make(tmp_path)
    for beginning in beginnings:
        for unit in [*UNITS, *units]:
            short = beginning + unit * (SIZE // len(unit))
            long = beginning + unit * (SIZE // len(unit) * GROWTH)
            for _ in range(5):
                smaller, larger = measure(parse, short), measure(parse, long)
                if larger < max(AT_LEAST, smaller * GROWTH * MOST):
                    break
            else:
                what = f"{beginning!r} and many times {unit!r}"
                pytest.fail(f"{what}: {smaller:.4f} s, and {larger:.4f} s for {GROWTH} times as many")
