"""openvpn_conf: what OpenVPN would read, and where it would connect; tests/lab/test_endpoints.py asks the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.tunnels import TunnelError
from netconf_hooks.tunnels.openvpn_conf import (
    Connection, find_connections, parse_configuration, read_configuration, split_line
)  # fmt: skip


class TestConfiguration:
    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("remote vpn.example.com 1194", ("remote", "vpn.example.com", "1194")),
            ("\t remote   a\tb  ", ("remote", "a", "b")),
            ("# comment", ()),
            ("; comment", ()),
            ("port 1194 # comment", ("port", "1194")),
            ("port 1194 ;comment", ("port", "1194")),
            ("setenv X a#b;c", ("setenv", "X", "a#b;c")),
            ('ca "/etc/my certs/ca.pem"', ("ca", "/etc/my certs/ca.pem")),
            ("ca '/etc/my \"certs\"/ca.pem'", ("ca", '/etc/my "certs"/ca.pem')),
            (r"ca 'C:\x'", ("ca", r"C:\x")),
            (r"ca /etc/my\ certs\\x\"", ("ca", '/etc/my certs\\x"')),
            (r'ca "a\"b"', ("ca", 'a"b')),
            ('push ""', ("push", "")),
            ("it's", ("it's",)),
            ('ca "unfinished', ()),
            ("", ()),
        ],
    )
    def test_a_line(self, line: str, words: tuple[str, ...]) -> None:
        assert split_line(line) == words

    @given(st.lists(st.text(st.characters(blacklist_characters="\n\r", blacklist_categories=["Cs"]))))
    def test_quoted_words_come_back(self, words: list[str]) -> None:
        quoted = " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
        assert split_line(quoted) == tuple(words)

    @given(st.text())
    def test_any_text_is_read(self, text: str) -> None:
        for option in parse_configuration(text):
            assert option

    def test_inline_files_hide_what_is_in_them(self) -> None:
        text = "\ufeffclient\n<ca>\nmanagement x unix\n# </ca>\n  </ca>\n--dev tun\n"
        text += "<connection>\nremote a\n\n</connection>\n"
        assert parse_configuration(text) == (
            ("client",), ("<ca>", "management x unix\n# </ca>"), ("dev", "tun"), ("<connection>", "remote a\n")
        )  # fmt: skip

    def test_included_files_are_read_in_their_place(self, tmp_path: Path) -> None:
        (tmp_path / "a.conf").write_text("client\nconfig b.inc\nconfig missing.inc\nverb 3\n")
        (tmp_path / "b.inc").write_text("management m unix\nconfig a.conf\n")
        options = read_configuration(str(tmp_path / "a.conf"))
        assert options[:3] == (("client",), ("config", "b.inc"), ("management", "m", "unix"))
        assert options[-1] == ("verb", "3"), "an endless circle ends"

    def test_included_files_are_looked_for_where_openvpn_runs(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "a.conf").write_text("config sub/b.inc\ncd sub\nconfig d.inc\n")
        (tmp_path / "sub/b.inc").write_text("config c.inc\n")
        (tmp_path / "c.inc").write_text("verb 1\n")
        (tmp_path / "sub/c.inc").write_text("verb 2\n")
        (tmp_path / "sub/d.inc").write_text("verb 3\n")
        options = read_configuration(str(tmp_path / "a.conf"))
        assert [option for option in options if option[0] == "verb"] == [("verb", "1"), ("verb", "3")]

    def test_files_that_include_themselves_often_end_as_well(self, tmp_path: Path) -> None:
        (tmp_path / "a.conf").write_text("config a.conf\nconfig b.inc\n" * 50)
        (tmp_path / "b.inc").write_text("config a.conf\nconfig b.inc\n" * 50)
        assert len(read_configuration(str(tmp_path / "a.conf"))) == 100 + 50 * 100

    def test_only_a_newline_ends_a_line(self, tmp_path: Path) -> None:
        (tmp_path / "a.conf").write_bytes(b"# a\rremote a\x0cremote b\xc2\x85remote c\nclient\r\ndev\x0btun\r\n")
        assert read_configuration(str(tmp_path / "a.conf")) == (("client",), ("dev", "tun"))

    def test_what_older_openvpns_need_not_know_is_an_option_as_well(self) -> None:
        assert parse_configuration("setenv opt remote a\nsetenv opt\nsetenv X y\n--\n") == (
            ("remote", "a"), ("setenv", "opt"), ("setenv", "X", "y"), ("--",)
        )  # fmt: skip


def find(text: str) -> list[Connection]:
    """Return where a client with this configuration connects."""
    return list(find_connections(parse_configuration("client\ndev tun\n" + text)))


UDP = Connection("192.0.2.1", "udp", 1194, 4)

# Each is what OpenVPN 2.6.14 does, by its options.c; tests/lab/test_endpoints.py asks it of some.
PLACES = {
    "defaults": ("remote 192.0.2.1", [UDP]),
    "a name": ("remote vpn.example.com", [Connection("vpn.example.com", "udp", 1194)]),
    "several": (
        "remote 192.0.2.1\nremote 192.0.2.2 443\nremote 2001:db8::1 443 tcp-client\nremote-random",
        [UDP, Connection("192.0.2.2", "udp", 443, 4), Connection("2001:db8::1", "tcp", 443, 6)],
    ),
    "twice the same": ("remote 192.0.2.1\nremote 192.0.2.1 1194 udp", [UDP]),
    "port": ("port 5000\nremote 192.0.2.1", [Connection("192.0.2.1", "udp", 5000, 4)]),
    "port below the remote": ("remote 192.0.2.1\nport 5000", [Connection("192.0.2.1", "udp", 5000, 4)]),
    "the last port counts": ("port 5000\nrport 5001\nremote 192.0.2.1", [Connection("192.0.2.1", "udp", 5001, 4)]),
    "lport is the other one": ("lport 5000\nremote 192.0.2.1", [Connection("192.0.2.1", "udp", 1194, 4, 5000)]),
    "lport of the kernel's choice": ("lport 0\nremote 192.0.2.1", [UDP]),
    "bound": ("bind\nremote 192.0.2.1", [Connection("192.0.2.1", "udp", 1194, 4, 1194)]),
    "a service": ("proto tcp\nremote vpn.example.com https", [Connection("vpn.example.com", "tcp", 443)]),
    "proto tcp": ("proto tcp\nremote 192.0.2.1", [Connection("192.0.2.1", "tcp", 1194, 4)]),
    "proto udp6": ("proto udp6\nremote vpn.example.com", [Connection("vpn.example.com", "udp", 1194)]),
    "proto tcp4-client": ("remote x 443 tcp4-client", [Connection("x", "tcp", 443, 4)]),
    "proto tcp6": ("remote x 443 tcp6", [Connection("x", "tcp", 443)]),
    "proto udp6 and an IPv4 address, which OpenVPN 2.7 tries": ("proto udp6\nremote 192.0.2.1", [UDP]),
    "a remote's protocol without a version leaves proto's": (
        "proto udp6\nremote vpn.example.com 1194 udp", [Connection("vpn.example.com", "udp", 1194)]
    ),
    "an address of the other family, which OpenVPN 2.7 tries": (
        "proto udp4\nremote 2001:db8::1\nremote 192.0.2.1", [Connection("2001:db8::1", "udp", 1194, 6), UDP]
    ),
    "blocks": (
        "proto tcp\n<connection>\nremote 192.0.2.1 1194 udp\n</connection>\n"
        "<connection>\nremote x\nport 443\nproto tcp6\n</connection>\n"
        "<connection>\nrport 80\nremote 192.0.2.3\n</connection>",
        [UDP, Connection("x", "tcp", 443), Connection("192.0.2.3", "tcp", 80, 4)],
    ),
    "remotes outside of blocks don't count": (
        "remote 198.51.100.1\n<connection>\nremote 192.0.2.1\n</connection>\nremote 198.51.100.2", [UDP]
    ),
    "what stands below a block is not for it": (
        "<connection>\nremote 192.0.2.1\n</connection>\nproto tcp\nport 9", [UDP]
    ),
    "of two remotes in a block the last counts": (
        "<connection>\nremote x 5000\nremote 192.0.2.1\n</connection>", [Connection("192.0.2.1", "udp", 5000, 4)]
    ),
    "a file in a block": (
        "<connection>\n<tls-auth>\nremote 198.51.100.1\n</tls-auth>\nremote 192.0.2.1\n</connection>", [UDP]
    ),
    "http-proxy": (
        "proto tcp\nhttp-proxy 192.0.2.8 3128\nremote a\nremote b 443",
        [Connection("192.0.2.8", "tcp", 3128, 4)],
    ),
    "http-proxy with credentials": (
        "proto tcp6-client\nhttp-proxy proxy 8080 auto\nremote a\n"
        "<http-proxy-user-pass>\na\nb\n</http-proxy-user-pass>",
        [Connection("proxy", "tcp", 8080)],
    ),
    "http-proxy of one block": (
        "<connection>\nremote 192.0.2.1 443 tcp\nhttp-proxy 192.0.2.8 3128 stdin basic\n</connection>\n"
        "<connection>\nremote 192.0.2.1\n</connection>",
        [Connection("192.0.2.8", "tcp", 3128, 4), UDP],
    ),
    "a block's http-proxy in place of the common one is everybody's": (
        "proto tcp\nhttp-proxy 192.0.2.8 3128\n<connection>\nremote a\n</connection>\n"
        "<connection>\nremote b\nhttp-proxy 192.0.2.9 8080\n</connection>",
        [Connection("192.0.2.9", "tcp", 8080, 4)],
    ),
    "http-proxy-override": (
        "http-proxy-override 192.0.2.8 3128\nremote 192.0.2.1\nremote a 443 tcp",
        [Connection("192.0.2.8", "tcp", 3128, 4)],
    ),
    "http-proxy-override without TCP": ("http-proxy-override 192.0.2.8 3128\nremote 192.0.2.1", [UDP]),
    "socks-proxy": (
        "proto tcp-client\nsocks-proxy 192.0.2.8\nremote a\nremote b", [Connection("192.0.2.8", "tcp", 1080, 4)]
    ),
    "socks-proxy with a port": (
        "proto tcp-client\nsocks-proxy proxy 9050 stdin\nremote a", [Connection("proxy", "tcp", 9050)]
    ),
    "proto-force": (
        "proto-force udp\nremote a 443 tcp-client\nremote 192.0.2.1 1194 udp4", [UDP],
    ),
    "a comment": ("remote 192.0.2.1 # remote 198.51.100.1\n;remote 198.51.100.2", [UDP]),
    "random names not wanted": ("setenv REMOTE_RANDOM_HOSTNAME no\nremote 192.0.2.1", [UDP]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "connections"), PLACES.values(), ids=PLACES)
def test_where_a_client_connects(text: str, connections: list[Connection]) -> None:
    assert find(text) == connections


REFUSED = {
    "remote x\nremote-random-hostname": '^"remote-random-hostname" makes up a new name .*: remove this line$',
    "remote x\nsetenv REMOTE_RANDOM_HOSTNAME": '^"setenv REMOTE_RANDOM_HOSTNAME" makes up a new name',
    "remote x\nmanagement-query-remote": '^"management-query-remote" lets another program choose .* lines instead$',
    "remote x\nmanagement-query-proxy": '^"management-query-proxy" lets another program choose',
    "remote x\nsocks-proxy 192.0.2.8": r'^"socks-proxy" with "proto udp" \(remote x\): .*"proto tcp-client".*$',
    "<connection>\nremote x\nsocks-proxy p\n</connection>\n<connection>\nremote y 1 tcp\n</connection>": "socks-proxy",
    "remote x\nhttp-proxy 192.0.2.8 3128": r'^"http-proxy" with "proto udp" \(remote x\): .* only with tcp$',
    "remote x 1 tcp\nhttp-proxy-option AGENT x": '^options of "http-proxy" without its host and port$',
    "mode server": '^"mode server" waits for clients .* "netconf-guard-allow in:udp/1194"$',
    "server 10.8.0.0 255.255.255.0": '^"server 10.8.0.0" waits for clients',
    "server-bridge": '^"server-bridge" waits for clients',
    "port 5000": '^there is no "remote": .* "netconf-guard-allow in:udp/5000"$',
    "remote x 1194 tcp-server": '^"proto tcp-server" with "remote"',
    "<connection>\nproto tcp\n</connection>": '^a <connection> has no "remote"$',
    "<connection>\nremote x": None,
    "remote x\nproto ipx": '^"proto ipx": "ipx" is no protocol$',
    "remote x 1194 ipx": '^"remote x 1194 ipx": "ipx" is no protocol$',
    "remote x 0": '^"0" is no port$',
    "remote x no-such-port": '^"no-such-port" is no port$',
    "remote [2001:db8::1]": r'^"\[2001:db8::1\]" is no address$',
    'remote "a b"': '^"a b" is neither an address nor a host name',
    "remote x\nproto-force tcp-client": '^no "remote" can be reached by the protocols',
    "remote x\nproto tcp\nproto-force tcp": '^no "remote" can be reached by the protocols',
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_known_is_refused_by_name(text: str, message: str | None) -> None:
    if message is None:
        # OpenVPN refuses a block without an end; read here up to the file's.
        assert find(text) == [Connection("x", "udp", 1194)]
        return
    with pytest.raises(TunnelError, match=message):
        find(text)


def test_a_peer_binds_unless_it_pulls() -> None:
    def find_port(text: str) -> int:
        (connection,) = find_connections(parse_configuration("dev tun\nremote 192.0.2.1\n" + text))
        return connection.local_port

    assert find_port("") == 1194
    assert find_port("port 5000\nrport 6000") == 5000
    assert find_port("pull") == find_port("nobind") == find_port("client") == 0
    assert find_port("client\nlocal 192.0.2.9") == 1194
    assert find_port("proto tcp-client") == 0
    assert find_port("proto tcp-client\nbind\nport 5000") == 5000
    assert find_port("client\nlocal 192.0.2.9 5000") == 5000, "since OpenVPN 2.7"


def test_the_example_that_openvpn_ships() -> None:
    path = Path("/usr/share/doc/openvpn/examples/sample-config-files")
    if not path.is_dir():
        pytest.skip("needs: apt install openvpn")
    client = read_configuration(str(path / "client.conf"))
    assert find_connections(client) == (Connection("my-server-1", "udp", 1194),)
    with pytest.raises(TunnelError, match='^"server 10.8.0.0" waits for clients'):
        find_connections(read_configuration(str(path / "server.conf")))


WORDS = st.sampled_from(
    ["192.0.2.1", "2001:db8::1", "vpn.example.com", "1194", "0", "https", "udp", "tcp", "udp6", "tcp4-client",
     "tcp-server", "server", "auto", "", "REMOTE_RANDOM_HOSTNAME", "opt", "\udcff", "a\\ b", "\0"]
) | st.text(max_size=5)  # fmt: skip
NAMES = st.sampled_from(
    ["remote", "proto", "port", "rport", "lport", "bind", "nobind", "local", "http-proxy", "http-proxy-option",
     "http-proxy-override", "http-proxy-user-pass", "socks-proxy", "proto-force", "mode", "client", "setenv",
     "remote-random-hostname", "<connection>", "</connection>", "<ca>", "</ca>", "--remote"]
) | st.text(max_size=5)  # fmt: skip
LINES = st.tuples(NAMES, st.lists(WORDS, max_size=4)).map(lambda line: " ".join([line[0], *line[1]]))


@given(st.lists(LINES).map("\n".join) | st.text())
def test_any_configuration_is_read_or_a_tunnel_error(text: str) -> None:
    try:
        connections = find_connections(parse_configuration(text))
    except TunnelError as error:
        assert str(error)
        return
    assert connections
    for connection in connections:
        assert connection.host and connection.protocol in ("udp", "tcp") and 0 < connection.port < 65536
        assert connection.version in (0, 4, 6) and 0 <= connection.local_port < 65536
