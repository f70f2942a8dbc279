"""netconf-hooks explain: what it shows to whoever wants to know why."""

import json
import os
from pathlib import Path

import pytest
from office import OFFICE, STANZA
from situations import make_record

from netconf_hooks.commands import explain, recording as recording_module
from netconf_hooks.observation import Answer
from netconf_hooks.stanzas.interfaces import InterfacesError
from netconf_hooks.state import Pass

CERTIFICATE = f"192.0.2.7:443/sha256:{64 * 'b'}"


def test_explain_shows_every_line_and_test(command, store, links, network):
    rules = {
        "netconf-location": "home gateway=192.0.2.9 dns-domain=home.example\noffice gateway=192.0.2.1\n"
        "office !gateway=192.0.2.9\ncafe address=10.0.0.0/8",
        "netconf-vpn": "openvpn corp unless office\nopenvpn archive on address=10.0.0.0/8\nopenvpn x unles y",
    }
    links.plug("eth0", 7)
    store.prepare()
    store.write_interface(make_record("eth0", 7, (Pass("inet", rules),)))
    network["gateway"] = Answer(("192.0.2.1",))
    network["dns-domain"] = Answer((), pending=True, problem="no answer\x1b")
    network["address"] = Answer(("10.1.2.3",))
    before = Path(store.interfaces, "eth0").read_text()
    status, output, errors = command("explain", "eth0")
    assert (status, errors) == (0, "")
    assert output.splitlines() == [
        "eth0 is at office (by the rules recorded at its ifup)",
        '  error: netconf-vpn "openvpn x unles y": expected "on" or "unless", not "unles"',
        "  netconf-location home gateway=192.0.2.9 dns-domain=home.example: does not hold",
        "    gateway=192.0.2.9: does not hold: seen 192.0.2.1",
        "    dns-domain=home.example: not answered in time: nothing seen (no answer\\x1b)",
        "  netconf-location office gateway=192.0.2.1: holds, first",
        "    gateway=192.0.2.1: holds: seen 192.0.2.1",
        "  netconf-location office !gateway=192.0.2.9: holds",
        "    !gateway=192.0.2.9: holds: seen 192.0.2.1",
        "  netconf-location cafe address=10.0.0.0/8: holds",
        "    address=10.0.0.0/8: holds: seen 10.1.2.3",
        "  as a word: address=10.0.0.0/8: holds",
        "  office is recognised by hints",
        "  default route: yes",
        '  netconf-vpn openvpn corp unless office: down, as far as eth0 goes: eth0 is at office: "unless office"',
        '  netconf-vpn openvpn archive on address=10.0.0.0/8: up, as far as eth0 goes: eth0 is at office: "on '
        'address=10.0.0.0/8"',
        '  netconf-vpn openvpn x unles y: keep, as far as eth0 goes: '
        'eth0: netconf-vpn "openvpn x unles y" can\'t be read',
    ]
    assert Path(store.interfaces, "eth0").read_text() == before


def as_stanza(options):
    """What there is of an interface with one stanza."""
    return [("inet", options)]


def test_explain_of_a_stanza_that_is_not_up(command, links, network, monkeypatch):
    links.plug("eth0", 7)
    found = {"eth0": as_stanza(STANZA)}
    monkeypatch.setattr(explain, "query_passes", found.__getitem__)
    status, output, _ = command("explain", "eth0")
    assert status == 0
    assert output.startswith("eth0 is at an unknown place (not up; by the rules in its stanza)\n")
    assert "    gateway=192.0.2.1: does not hold: nothing seen (nothing there)\n" in output
    assert "  default route: no: unroutable\n" in output


@pytest.mark.parametrize("device, reason", [
    ("wlan0", "wireless without encryption"),
    ("wlstaging", "wireless, and its driver does not tell whether it is encrypted (no nl80211)"),
])
def test_explain_says_why_a_wireless_link_is_insecure(command, links, monkeypatch, device, reason):
    links.plug(device, 7)
    monkeypatch.setattr(explain, "query_passes", lambda name: as_stanza(STANZA))
    status, output, _ = command("explain", device)
    assert status == 0
    assert f"  {reason}: insecure\n" in output


def test_explain_of_an_unknown_interface(command, monkeypatch):
    def query_passes(name):
        raise InterfacesError(f"{name}: ifquery: unknown interface {name}")

    monkeypatch.setattr(explain, "query_passes", query_passes)
    assert command("explain", "eth9") == (1, "", "netconf-hooks: eth9: ifquery: unknown interface eth9\n")


def test_explain_of_everything(command, at_office, store, links):
    store.write_interface(make_record("wlan0", 8, (Pass("inet", STANZA),)))
    status, output, _ = command("explain")
    assert status == 0
    assert "\n\nwlan0 is at an unknown place" in output
    assert output.startswith("eth0 is at an unknown place")


def test_explain_of_nothing(command):
    status, output, errors = command("explain")
    assert (status, output) == (1, "")
    assert "no interface with netconf rules is up" in errors


# For programs


def test_explain_for_programs(command, store, links, network):
    rules = {
        "netconf-location": f"home gateway=192.0.2.9 tls={CERTIFICATE}\n{OFFICE}\nsolo dns-domain=x.example",
        "netconf-vpn": "openvpn corp unless office\nopenvpn archive on !gateway=192.0.2.9\nopenvpn x unles y",
    }
    links.plug("eth0", 7)
    store.prepare()
    store.write_interface(make_record("eth0", 7, (Pass("inet", rules),)))
    network["gateway"] = Answer(("192.0.2.1",), problem="not all")
    network["dns-domain"] = Answer((), pending=True)
    status, output, errors = command("explain", "--json")
    assert (status, errors) == (0, "")
    eth0 = json.loads(output)["interfaces"].pop("eth0")
    assert [(one["name"], one["holds"], one["first"], one["proof"]) for one in eth0["locations"]] == [
        ("home", False, False, True), ("office", True, True, False), ("solo", None, False, False),
    ]  # fmt: skip
    assert eth0["locations"][0]["tests"] == [
        {"test": "gateway=192.0.2.9", "key": "gateway", "holds": False, "asked": True},
        {"test": f"tls={CERTIFICATE}", "key": "tls", "holds": None, "asked": False},
    ]
    assert (eth0["location"], eth0["undecided"], eth0["grade"]) == ("office", False, "hint")
    assert (eth0["routable"], eth0["wireless-open"], eth0["wish"], eth0["rules"]) == (True, False, False, "record")
    assert eth0["words"] == {"!gateway=192.0.2.9": True}
    assert eth0["seen"]["gateway"] == {"values": ["192.0.2.1"], "problem": "not all", "pending": False}
    assert {name: tunnel["verdict"] for name, tunnel in eth0["tunnels"].items()} == {
        "openvpn corp": "down", "openvpn archive": "up", "openvpn x": "keep"
    }  # fmt: skip
    assert eth0["tunnels"]["openvpn corp"]["because"] == 'eth0 is at office: "unless office"'
    [error] = eth0["errors"]
    assert error.startswith('netconf-vpn "openvpn x unles y"')


def test_explain_of_a_wish_for_programs(command, monkeypatch):
    stanza = {"netconf-vpn": "openvpn corp", "netconf-uplink": "eth0 wlan0"}
    monkeypatch.setattr(explain, "query_passes", lambda name: as_stanza(stanza))
    status, output, _ = command("explain", "--json", "corp")
    assert status == 0
    assert json.loads(output)["interfaces"]["corp"] == {
        "wish": True, "rules": "stanza", "errors": [], "uplinks": ["eth0", "wlan0"], "raised": []
    }  # fmt: skip


# Decided on what was recorded elsewhere


@pytest.fixture
def recording(command, links, network, tmp_path, monkeypatch):
    """A function that returns the file with what was recorded on the network of now, in which nobody is afterwards."""

    monkeypatch.setattr(recording_module, "query_passes", lambda name: [])

    def record(iface="wlan0", **changes):
        links.plug(iface, 7)
        status, output, errors = command("probe", "--json", iface)
        assert (status, errors) == (0, "")
        network.clear()
        del links[iface]
        path = tmp_path / "recording.json"
        path.write_text(json.dumps({**json.loads(output), **changes}))
        return str(path)

    return record


def test_a_recorded_network_is_decided_on_as_it_was(command, network, recording, monkeypatch):
    network["gateway"] = Answer(("192.0.2.1",))
    network["dns-domain"] = Answer((), problem="no lease")
    network["ssid"] = Answer((), pending=True, problem="not asked in time")
    network["interface"] = Answer(("wlan0",))
    path = recording()
    rules = {
        "netconf-location": "home peer=192.0.2.7 gateway=192.0.2.1\nhall ssid=hall\n"
        "office gateway=192.0.2.1 !dns-domain=x.example\nplain gateway=192.0.2.1 interface=wlan0",
        "netconf-vpn": "openvpn corp on insecure\nopenvpn archive on unroutable",
    }
    found = {"wlan0": as_stanza(rules)}
    monkeypatch.setattr(explain, "query_passes", found.__getitem__)
    status, output, errors = command("explain", "--as", path)
    assert (status, errors) == (0, "")
    assert output.splitlines() == [
        f"wlan0 can't tell yet where it is (as recorded in {path})",
        "  netconf-location home peer=192.0.2.7 gateway=192.0.2.1: not answered",
        "    peer=192.0.2.7: not answered: nothing seen (not in the recording)",
        "    gateway=192.0.2.1: holds: seen 192.0.2.1",
        "  netconf-location hall ssid=hall: not answered",
        "    ssid=hall: not answered: nothing seen (not asked in time)",
        "  netconf-location office gateway=192.0.2.1 !dns-domain=x.example: does not hold",
        "    gateway=192.0.2.1: holds: seen 192.0.2.1",
        "    !dns-domain=x.example: does not hold: nothing seen (no lease)",
        "  netconf-location plain gateway=192.0.2.1 interface=wlan0: holds, first",
        "    gateway=192.0.2.1: holds: seen 192.0.2.1",
        "    interface=wlan0: holds: seen wlan0",
        "  plain is recognised by hints",
        "  default route: yes",
        "  wireless without encryption: insecure",
        "  netconf-vpn openvpn corp on insecure: up, as far as wlan0 goes: wlan0 can't tell yet where it is: "
        '"on insecure"',
        "  netconf-vpn openvpn archive on unroutable: keep, as far as wlan0 goes: wlan0 can't tell yet where it is",
    ]


def test_a_network_recorded_by_another_interface(command, network, recording, monkeypatch):
    network["interface"] = Answer(("eth7",))
    path = recording("eth7")
    monkeypatch.setattr(explain, "query_passes", lambda name: as_stanza({"netconf-location": f"here interface={name}"}))
    assert command("explain", "--as", path, "wlan0")[1].startswith("wlan0 is at here (as recorded")
    assert command("explain", "--as", path)[1].startswith("eth7 is at here (as recorded")
    seen = json.loads(command("explain", "--json", "--as", path, "wlan0")[1])["interfaces"]["wlan0"]["seen"]
    assert seen["interface"]["values"] == ["wlan0"]


def test_a_recording_decides_by_the_stanza_and_not_by_what_was_recorded_at_ifup(
    command, network, recording, at_office, links, monkeypatch
):
    network["gateway"] = Answer(("192.0.2.1",))
    path = recording("eth0")
    monkeypatch.setattr(explain, "query_passes", lambda name: as_stanza({"netconf-location": "new gateway=192.0.2.1"}))
    assert command("explain", "--as", path)[1].startswith("eth0 is at new (as recorded in")


def test_what_a_recording_says_of_probes_counts(command, network, recording, monkeypatch):
    seen = {
        "tls": {"values": [CERTIFICATE.replace("b", "B")]},
        "reach": {"values": [], "refuted": ["192.0.2.8:80"]},
    }  # fmt: skip
    path = recording("eth0", seen=seen)
    rules = {"netconf-location": f"bank !reach=192.0.2.8:80 tls={CERTIFICATE}"}
    monkeypatch.setattr(explain, "query_passes", lambda name: as_stanza(rules))
    output = command("explain", "--as", path)[1]
    assert output.startswith("eth0 is at bank (as recorded")
    assert "bank is proven" in output


def test_a_recording_comes_from_standard_input(command, network, recording, monkeypatch):
    network["gateway"] = Answer(("192.0.2.1",))
    path = recording("eth0")
    monkeypatch.setattr(explain, "query_passes", lambda name: as_stanza(STANZA))
    with open(path) as file:
        saved = os.dup(0)
        try:
            os.dup2(file.fileno(), 0)
            status, output, _ = command("explain", "--as", "-")
        finally:
            os.dup2(saved, 0)
            os.close(saved)
    assert status == 0
    assert output.startswith("eth0 is at office (as recorded in standard input)\n")


HEAD = '{"interface": "eth0", "routable": true, '


@pytest.mark.parametrize("text, problem", [
    ("", "Expecting value"),
    ("netconf-location here gateway=192.0.2.1\n", "Expecting value"),
    ("[" * 100_000, "nested too deep"),
    ("[]", "the whole: expected an object"),
    ("{}", '"seen": expected an object'),
    ('{"interface": "eth0", "seen": {}}', '"routable": expected true or false'),
    ('{"interface": "-x", "seen": {}, "routable": true}', '"interface": expected the name of one'),
    (HEAD + '"seen": {}, "wireless": true}', '"wireless": expected null, "open" or'),
    (HEAD + '"seen": {"gateway": []}}', '"gateway": expected an object'),
    (HEAD + '"seen": {"gateway": {"values": "x"}}}', '"gateway": "values": expected a list of strings'),
    (HEAD + '"seen": {"gateway": {"values": [], "pending": 1}}}', '"gateway": "pending": expected true or false'),
    (HEAD + '"seen": {"gateway": {"values": [], "problem": 1}}}', '"gateway": "problem": expected a string or null'),
    (HEAD + '"seen": {"tls": {"values": [], "refuted": 1}}}', '"tls": "refuted": expected a list of strings'),
])
def test_a_malformed_recording_is_an_error_that_says_why(command, tmp_path, text, problem):
    path = tmp_path / "recording"
    path.write_text(text)
    status, output, errors = command("explain", "--as", str(path))
    assert (status, output) == (1, "")
    assert errors.startswith(f"netconf-hooks: {path}: not what netconf-hooks probe --json writes: ")
    assert problem in errors
    assert errors.count("\n") == 1


def test_a_recording_that_can_not_be_read_at_all(command, tmp_path):
    assert command("explain", "--as", str(tmp_path)) == (1, "", f"netconf-hooks: {tmp_path}: Is a directory\n")
    assert command("explain", "--as", "/dev/zero")[2] == (
        "netconf-hooks: /dev/zero: too large to be what netconf-hooks probe --json writes\n"
    )
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    assert command("explain", "--as", str(tmp_path / "binary"))[0] == 1


def test_explain_of_several_stanzas(command, links, monkeypatch, network):
    """Each for itself, and then together: the last line of one wins over no other one's."""
    links.plug("eth0", 7)
    network["gateway"] = Answer(("192.0.2.1",))
    first = {"netconf-location": "office gateway=192.0.2.1", "netconf-trust": "hints", "netconf-guard": "unless office"}
    stanzas = [("inet", first), ("inet", {}), ("inet6", {"netconf-guard": "yes", "netconf-guard-backend": "nftables"})]
    monkeypatch.setattr(explain, "query_passes", lambda name: stanzas)
    _, output, _ = command("explain", "eth0")
    assert "  by the inet stanza of eth0\n  by the inet6 stanza of eth0\n" in output
    assert '  netconf-guard unless office: open: eth0 is at office: "unless office"\n' in output
    assert "  netconf-guard yes: closed: eth0 is at office: wanted anywhere\n" in output
    _, output, _ = command("explain", "--json", "eth0")
    assert json.loads(output)["interfaces"]["eth0"]["guard"]["state"] == "closed"
    stanzas[1] = ("inet", {"netconf-guard-backend": "iptables"})
    _, output, _ = command("explain", "eth0")
    assert "expected the same in all stanzas of a device: the guard stays closed\n" in output


# A recording of an interface with rules also has the answers to what these ask.


def test_a_recording_has_the_answers_to_the_questions_of_the_rules(command, network, store, links, monkeypatch):
    unknown = "192.0.2.9:443/sha256:" + 64 * "c"
    rules = {
        "netconf-location": f"office gateway=192.0.2.1 tls={CERTIFICATE}\nhome !reach=192.0.2.8:80",
        "netconf-vpn": f"openvpn corp unless tls={unknown}",
    }
    network["gateway"] = Answer(("192.0.2.1",))
    links.plug("eth0", 7)
    asked = []

    def ask_network(list_questions, answers, link, deadline, announce):
        asked.extend((question.key, question.value) for question in list_questions())
        answers["tls"] = Answer((CERTIFICATE,), settled=(CERTIFICATE, unknown), problem="no such host")
        answers["reach"] = Answer((), settled=("192.0.2.8:80",), refuted=("192.0.2.8:80",))

    monkeypatch.setattr("netconf_hooks.evidence.probes.ask_network", ask_network)
    monkeypatch.setattr(recording_module, "query_passes", lambda name: as_stanza(rules))
    status, output, errors = command("probe", "--json", "eth0")
    assert (status, errors) == (0, "")
    assert ("tls", CERTIFICATE) in asked and ("tls", unknown) in asked
    seen = json.loads(output)["seen"]
    assert seen["tls"]["values"] == [CERTIFICATE] and seen["tls"]["void"] == [unknown]
    assert seen["reach"]["refuted"] == ["192.0.2.8:80"] and "void" not in seen["reach"]
    # As text it asks nobody but the router.
    asked.clear()
    assert command("probe", "eth0")[0] == 0
    assert asked == []
    read = recording_module.parse_observation(output.encode())
    assert read.answers["tls"].settled == (CERTIFICATE, unknown)


def test_a_recording_without_rules_asks_nobody(command, network, links, monkeypatch):
    links.plug("eth0", 7)
    monkeypatch.setattr(recording_module, "query_passes", lambda name: as_stanza({"dns-domain": "x.example"}))
    monkeypatch.setattr("netconf_hooks.evidence.probes.ask_network", lambda *_: pytest.fail("asked"))
    assert command("probe", "--json", "eth0")[0] == 0


@pytest.mark.parametrize("options, words", [({}, "with a netconf-vpn or netconf-guard line"), (STANZA, "beside the")])
def test_probe_offers_what_comes_next(command, network, links, monkeypatch, options, words):
    network["gateway"] = Answer(("192.0.2.1",))
    links.plug("eth0", 7)
    monkeypatch.setattr(recording_module, "query_passes", lambda name: as_stanza(options))
    *offered, line = command("probe", "eth0")[1].splitlines()
    assert line == "netconf-location here gateway=192.0.2.1"
    assert all(each.startswith("#") for each in offered), "all of it can be pasted"
    for each in ("netconf-hooks check eth0", "netconf-hooks plan eth0", words):
        assert any(each in one for one in offered)


VRRP = "00:00:5e:00:01:07"


@pytest.mark.parametrize("seen, line", [
    ({}, f"netconf-location here gateway-mac={VRRP} gateway=192.0.2.1"),
    ({"dns-server": "192.0.2.53"}, f"netconf-location here gateway-mac={VRRP} dns-server=192.0.2.53/32"),
    ({"dns-domain": "corp.example"}, f"netconf-location here gateway-mac={VRRP} dns-domain=corp.example"),
])
def test_probe_adds_a_test_to_a_mac_address_that_many_networks_share(command, network, links, monkeypatch, seen, line):
    network["gateway-mac"] = Answer((VRRP,))
    network["gateway"] = Answer(("192.0.2.1",))
    for key, value in seen.items():
        network[key] = Answer((value,))
    links.plug("eth0", 7)
    monkeypatch.setattr(recording_module, "query_passes", lambda name: as_stanza({}))
    output = command("probe", "eth0")[1]
    assert output.splitlines()[-1].replace("/32", "") == line.replace("/32", "")
    assert f"# gateway-mac {VRRP} is the same in many networks (VRRP or CARP), so it needs a second test\n" in output


def test_explain_says_that_many_networks_share_a_mac_address(command, network, links, monkeypatch):
    network["gateway-mac"] = Answer((VRRP,))
    links.plug("eth0", 7)
    rules = {"netconf-location": f"office gateway-mac={VRRP}", "netconf-vpn": "openvpn corp unless office"}
    monkeypatch.setattr(explain, "query_passes", lambda name: as_stanza(rules))
    assert f"({VRRP} is the same in many networks: VRRP or CARP)" in command("explain", "eth0")[1]


def test_explain_names_a_new_router_and_the_line_to_add(command, store, links, network):
    rules = {"netconf-location": "office gateway-mac=52:54:00:0a:00:01 dns-domain=corp.example.com"}
    links.plug("eth0", 7)
    store.prepare()
    store.write_interface(make_record("eth0", 7, (Pass("inet", rules),)))
    network["gateway-mac"] = Answer(("52:54:00:0a:00:02",))
    network["dns-domain"] = Answer(("corp.example.com",))
    line = "office gateway-mac=52:54:00:0a:00:02 dns-domain=corp.example.com"
    said = f"is as at office: a new router?  If it is yours, add: netconf-location {line}\n"
    assert said in command("explain", "eth0")[1]
    described = json.loads(command("explain", "--json", "eth0")[1])["interfaces"]["eth0"]
    assert described["new-router"] == {"location": "office", "line": line}
    network["gateway-mac"] = Answer(("52:54:00:0a:00:01",))
    assert "a new router" not in command("explain", "eth0")[1]
    assert json.loads(command("explain", "--json", "eth0")[1])["interfaces"]["eth0"]["new-router"] is None
