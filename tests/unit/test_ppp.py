"""Which stanzas dial in by PPPoE over which link; the peers files are pppoeconf's and those of ppp's README.pppoe."""

import pytest

from netconf_hooks.guard.ppp import dials_over, find_dialers
from netconf_hooks.stanzas import interfaces
from netconf_hooks.stanzas.interfaces import Heading, InterfacesError, Names

PPPOECONF = """\
# Minimalistic default options file for DSL/PPPoE connections

noipdefault
defaultroute
hide-password
#lcp-echo-interval 30
noauth
persist
#mtu 1492
plugin rp-pppoe.so
nic-eth0
user "01234"
"""
OLD = """\
pty "/usr/sbin/pppoe -I eth0 -T 80 -m 1452"
noipdefault
"""
BESIDE = "plugin pppoe.so eth0\nuser x\n"
ALONE = "plugin rp-pppoe.so\neth0\n"
MODEM = "connect '/usr/sbin/chat -v -f /etc/chatscripts/provider'\n/dev/modem\n115200\neth0\n"


@pytest.mark.parametrize("text, links", [
    (PPPOECONF, {"eth0"}),
    (OLD, {"eth0"}),
    (BESIDE, {"eth0"}),
    (BESIDE.replace("eth0", "nic-eth0"), {"eth0"}),
    (BESIDE.replace("eth0", "nic-eth1 eth0"), {"eth0", "eth1"}),
    (ALONE, {"eth0"}),
    (ALONE.replace("eth0", "br-lan.7"), {"br-lan.7"}),
    (MODEM, set()),
    (PPPOECONF.replace("nic-eth0", "#nic-eth0"), set()),
    ("", set()),
    ("plugin rp-pppoe.so\nnic-eth0\n" + "x" * 200_000, {"eth0"}),
    ("\udcff plugin", set()),
])
def test_over_which_links_a_file_dials_in(tmp_path, text, links):
    path = tmp_path / "peer"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert {link for link in ("eth0", "eth1", "br-lan.7", "user") if dials_over(str(path), link)} == links
    assert not dials_over(str(tmp_path / "nothere"), "eth0") and not dials_over(str(tmp_path), "eth0")


def test_which_stanzas_dial_in(tmp_path, monkeypatch):
    providers = {"dsl": "dsl-provider", "modem": "modem", "plain": "", "evil": "../x"}
    options = {name: {"provider": provider} if provider else {} for name, provider in providers.items()}
    asked = []

    def query(name):
        asked.append(name)
        if name == "broken":
            raise InterfacesError("no such interface")
        return options[name]

    monkeypatch.setattr(interfaces, "query_options", query)
    headings = [Heading(name, "inet", "ppp", "") for name in (*options, "broken", "dsl")]
    names = Names((), (), (), (), (Heading("eth0", "inet", "manual", ""), *headings))
    assert find_dialers("eth0", names, str(tmp_path / "nothere")) == [] and asked == [], "without pppd nothing is read"
    peers = tmp_path / "peers"
    peers.mkdir()
    for name, text in (("dsl-provider", PPPOECONF), ("modem", MODEM), ("provider", OLD), ("../x", OLD)):
        (peers / name).write_text(text)
    found = find_dialers("eth0", names, str(peers))
    assert found == [("dsl", f"{peers}/dsl-provider"), ("plain", f"{peers}/provider")]
    assert asked == [*options, "broken"]
    assert find_dialers("eth1", names, str(peers)) == []


def test_the_files_are_where_pppd_has_them(fs, monkeypatch):
    """And of a stanza without a provider, the file that pon(1) takes."""
    monkeypatch.setattr(interfaces, "query_options", lambda name: {})
    fs.create_file("/etc/ppp/peers/provider", contents=PPPOECONF)
    monkeypatch.setattr(interfaces, "read_names", lambda: Names((), (), (), (), (Heading("dsl", "inet", "ppp", ""),)))
    assert find_dialers("eth0") == [("dsl", "/etc/ppp/peers/provider")]
