"""netconf-hooks plan: its situations, compared with what is decided of real records; and its table."""

import json
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.commands import plan, situations
from netconf_hooks.decide import DOWN, KEEP, Known, UP, decide, decide_tunnels
from netconf_hooks.observation import Answer, OPEN, Observation
from netconf_hooks.passes import make_passes
from netconf_hooks.place import find_place
from netconf_hooks.stanzas.interfaces import read_names, run_ifquery
from netconf_hooks.state import GuardRecord, InterfaceRecord, Store, TunnelRecord

TLS = f"tls=192.0.2.7:443/sha256:{64 * '0'}"
CORP, ARCHIVE = ("openvpn", "corp"), ("ipsec", "archive")

STANZAS = f"""\
iface roaming inet dhcp
    netconf-location home    gateway=192.0.2.1
    netconf-location office  gateway=198.51.100.1
    netconf-location office  {TLS}
    netconf-vpn      openvpn corp    unless office
    netconf-vpn      ipsec   archive on home unknown
    netconf-guard    unless office
iface eth0 inherits roaming
iface wlan0 inherits roaming
iface usb0 inet dhcp
    netconf-vpn      openvpn corp    on unroutable insecure
iface plain inet dhcp
iface corp inet manual
    netconf-vpn      openvpn corp
    netconf-uplink   eth0
"""


@pytest.fixture
def interfaces(command, real_ifquery, tmp_path, monkeypatch):
    """A function that writes /etc/network/interfaces, of the test's own."""
    path = tmp_path / "interfaces"
    monkeypatch.setattr(plan, "read_names", lambda: read_names(str(path)))
    monkeypatch.setattr(plan, "run_ifquery", lambda iface: run_ifquery(iface, str(path)))
    path.write_text(STANZAS)
    return path.write_text


def make_interface(iface, options):
    """Return an interface of which only the rules are known."""
    return InterfaceRecord(iface, make_passes(iface, [("inet", options)]))


# Compared with real records

# Beside what is fine: a line that can't be read, before, between and after others.
locations = st.lists(
    st.sampled_from([
        "home gateway=192.0.2.1", "office gateway=198.51.100.1", f"office {TLS}", f"home gateway=192.0.2.1 {TLS}",
        "office !gateway=192.0.2.1", "office dns-domain=example.com", "home gatway=192.0.2.1", "Office x=",
    ]),
    max_size=4, unique=True,
)  # fmt: skip
words = st.sampled_from([
    "home", "office", "nowhere", "unknown", "insecure", "unroutable", "anywhere", "gateway=192.0.2.1", TLS,
    "!gateway=192.0.2.1", "dns-domain=example.com,example.org",
])  # fmt: skip
clauses = st.builds(
    lambda on, unless: " ".join([*(["on", *on] if on else []), *(["unless", *unless] if unless else [])]),
    st.lists(words, max_size=2), st.lists(words, max_size=2),
)  # fmt: skip
vpns = st.lists(
    st.builds(
        lambda tunnel, clause: f"{tunnel} {clause}", st.sampled_from(["openvpn corp", "ipsec archive"]), clauses
    ) | st.sampled_from(["openvpn corp unles office", "opnvpn corp"]),
    max_size=3,
)  # fmt: skip
guards = st.sampled_from(["", "no", "yes", "unles office"]) | clauses
trusts = st.sampled_from(["", "hints", "authenticated"])


def write_options(location_lines, vpn_lines, guard, trust):
    """Return the options of a stanza as ifupdown hands them over."""
    options = {
        "netconf-location": "\n".join(location_lines), "netconf-vpn": "\n".join(vpn_lines), "netconf-guard": guard,
        "netconf-trust": trust,
    }  # fmt: skip
    return {option: value for option, value in options.items() if value}


stanzas = st.builds(write_options, locations, vpns, guards, trusts)
plain_answers = st.sampled_from([
    Answer(), Answer(pending=True), Answer(("192.0.2.1",)), Answer(("198.51.100.1",)), Answer(("192.0.2.9",)),
    Answer(("192.0.2.1",), pending=True),
])  # fmt: skip
domains = st.sampled_from([Answer(), Answer(pending=True), Answer(("example.com",)), Answer(("example.org",))])
service = TLS.partition("=")[2]
certificates = st.sampled_from([
    Answer(), Answer(settled=(service,), refuted=(service,)), Answer((service,), settled=(service,)),
])  # fmt: skip
networks = st.builds(
    lambda gateway, domain, certificate, routable, wireless: Observation(
        "eth0", 7, {"gateway": gateway, "dns-domain": domain, "tls": certificate}, routable, wireless, 3.0
    ),
    plain_answers, domains, certificates, st.booleans(), st.sampled_from(["", OPEN, "encrypted"]),
)  # fmt: skip


def arrive(interface, seen):
    """Return the record that the hooks write of an interface on a network."""
    seen = seen.change(iface=interface.iface)
    return interface.change(observation=seen, place=find_place(interface.rules, seen.answers))


def decide_really(records, tunnels):
    """Return what the hooks would do with these records: tunnels, guards by interface."""
    ended = []
    for before in (UP, DOWN):
        known = Known(
            {tunnel: TunnelRecord(*tunnel, before, "as before", True) for tunnel in tunnels},
            [
                GuardRecord(record.iface, "nftables", passes=record.passes)
                for record in records if record.rules.is_guarded()
            ],
        )  # fmt: skip
        decision = decide(records, known)
        ended.append({tunnel: decision.tunnels[tunnel].verdict for tunnel in decision.tunnels})
    states = {
        tunnel: KEEP if ended[0].get(tunnel, DOWN) != ended[1].get(tunnel, DOWN) else ended[0].get(tunnel, DOWN)
        for tunnel in tunnels
    }
    shut = {guard.device: guard.verdict for guard in decision.guards}
    return states, {record.iface: shut.get(record.iface, "none") for record in records}


@settings(max_examples=min(300, MANY), deadline=None)
@given(stanzas, networks)
def test_what_real_records_decide_is_what_plan_says(options, seen):
    interface = make_interface("eth0", options)
    record = arrive(interface, seen)
    facts = situations.describe_facts(record)
    planned = [
        each for each in situations.list_situations([interface])
        if situations.describe_facts(each.records[0]) == facts
    ]  # fmt: skip
    tunnels = situations.list_tunnels([interface])
    really = decide_really([record], tunnels)
    assert really in [(each.tunnels, each.guards) for each in planned]
    # Only on a line that can't be read may more depend than on these facts.
    assert len(planned) == 1 or interface.rules.lost_locations
    for each in planned:
        assert each.clear == (each.guards["eth0"] != "closed")
        assert each.tunnels == {
            tunnel: verdict.state for tunnel, verdict in decide_tunnels(each.records).items()
        } or interface.rules.lost_vpns


@settings(max_examples=min(150, MANY), deadline=None)
@given(stanzas, stanzas, networks, networks)
@example(  # a veto, which an interface without a veto can't tell from no wish
    {"netconf-vpn": "openvpn corp"}, {"netconf-vpn": "openvpn corp on unroutable unless unroutable"},
    Observation("eth0", 7, {}, False, "", 3.0), Observation("eth0", 7, {}, False, "", 3.0),
)  # fmt: skip
def test_what_two_records_decide_follows_from_what_plan_says(options, others, seen, other):
    """Where the two disagree there is a row, and it says what is decided of all that say the same."""
    pair = [make_interface("eth0", options), make_interface("wlan0", others)]
    tunnels = situations.list_tunnels(pair)
    records = [arrive(pair[0], seen), arrive(pair[1], other)]
    alone = [decide_really([record], tunnels)[0] for record in records]
    both = decide_really(records, tunnels)[0]
    for tunnel in tunnels:
        named = [any((rule.kind, rule.name) == tunnel for rule in each.rules.vpns) for each in pair]
        if pair[0].rules.lost_vpns or pair[1].rules.lost_vpns:
            continue
        if not all(named):
            assert both[tunnel] == alone[named.index(True)][tunnel]
        elif alone[0][tunnel] == alone[1][tunnel]:
            assert both[tunnel] == alone[0][tunnel]
        else:
            rows = [each for each in situations.list_situations(pair) if len(each.records) == 2]
            states = [
                [situations.decide_situation([record], tunnels).tunnels[tunnel] for record in row.records]
                for row in rows
            ]
            said = {
                row.tunnels[tunnel] for row, state in zip(rows, states)
                if state == [alone[0][tunnel], alone[1][tunnel]]
            }  # fmt: skip
            assert both[tunnel] in said


@settings(max_examples=min(100, MANY), deadline=None)
@given(stanzas)
def test_each_situation_is_listed_once_and_survives_being_written_down(tmp_path_factory, options):
    store = Store(str(tmp_path_factory.mktemp("run")))
    store.prepare()
    listed = situations.list_situations([make_interface("eth0", options)])
    seen = [(situations.describe_facts(each.records[0]), tuple(each.tunnels.values())) for each in listed]
    assert listed
    assert len(seen) == len(set(seen)) or any(each.records[0].rules.lost_locations for each in listed)
    for each in listed:
        store.write_interface(each.records[0])
        read = store.read_interface("eth0")
        assert situations.decide_situation([read], list(each.tunnels)).tunnels == each.tunnels


def test_a_wish_overrides_a_veto_and_opens_no_guard():
    office = make_interface("eth0", {
        "netconf-location": f"office {TLS}", "netconf-vpn": "openvpn corp unless office", "netconf-guard": "yes"
    })  # fmt: skip
    wish = make_interface("corp", {"netconf-vpn": "openvpn corp", "netconf-uplink": "eth0"}).change(wish=True)
    rows = {
        tuple((record.iface, record.place.location) for record in each.records): each
        for each in situations.list_situations([office, wish])
    }
    assert rows[("eth0", "office"),].tunnels == {CORP: DOWN}
    assert rows[("corp", ""),].tunnels == {CORP: UP}
    both = rows[("eth0", "office"), ("corp", "")]
    assert (both.tunnels, both.guards, both.clear) == ({CORP: UP}, {"eth0": "closed"}, False)


def test_two_interfaces_on_one_device_open_its_guard_together():
    rules = {"netconf-location": "home gateway=192.0.2.1", "netconf-trust": "hints"}
    first = make_interface("eth0", {**rules, "netconf-guard": "unless home"})
    second = make_interface("eth0:1", {**rules, "netconf-guard": "on home"})
    rows = [each for each in situations.list_situations([first, second]) if len(each.records) == 2]
    assert rows
    assert {(each.guards["eth0"], each.guards["eth0:1"]) for each in rows} == {("closed", "closed")}


def test_a_word_that_its_location_implies_is_not_varied():
    interface = make_interface("eth0", {
        "netconf-location": "home gateway=192.0.2.1 mtu=1400",
        "netconf-vpn": "openvpn corp on gateway=192.0.2.1,192.0.2.9 unless !gateway=192.0.2.1",
    })  # fmt: skip
    at_home = [
        dict(each.records[0].place.words) for each in situations.list_situations([interface])
        if each.records[0].place.location
    ]  # fmt: skip
    assert at_home == [{"gateway=192.0.2.1,192.0.2.9": True, "!gateway=192.0.2.1": False}]


def test_very_many_tests_do_not_take_forever(command, interfaces):
    tests = " ".join(f"gateway=192.0.2.{number}" for number in range(1, 200))
    interfaces(f"iface eth0 inet dhcp\n    netconf-vpn openvpn corp on {tests}\n")
    status, output, errors = command("plan")
    assert status == 0
    assert "eth0: its conditions have many tests: only one at a time is taken to hold" in errors
    rows = [line.split("  ")[0] for line in output.splitlines()]
    assert rows[1:4] == [
        "eth0 at an unknown place",
        "eth0 at an unknown place; gateway=192.0.2.1 holds, and 199 more",
        "eth0 at an unknown place; gateway=192.0.2.1 not answered, and 198 more",
    ]
    assert "\n400 situations; those with the same outcome share a row\n" in output
    assert len(json.loads(command("plan", "--json")[1])["situations"]) == 400


# The table


def test_the_table_of_a_stanza(command, interfaces):
    assert command("plan", "eth0") == (0, """\
situation                  openvpn corp  ipsec archive  guard   in the clear
eth0 at home (by hints)    up            up             closed  no
eth0 at office (by hints)  down          down           closed  no
eth0 at office (proven)    down          down           open    yes
eth0 at an unknown place   up            up             closed  no
eth0 undecided             up            up             closed  no
traffic may leave in the clear: eth0 at office (proven)
""", "")  # fmt: skip


def test_all_stanzas_and_where_they_disagree(command, interfaces):
    status, output, errors = command("plan")
    assert (status, errors) == (
        0, "netconf-hooks: only inherited from, and left out: roaming (name it to see it)\n"
    )  # fmt: skip
    rows = dict(line.split("  ", 1) for line in output.splitlines()[:-1])
    assert rows["eth0 at office (by hints), wlan0 at home (by hints)"].split() == (
        "down up eth0 closed, wlan0 closed no".split()
    )
    assert rows["eth0 at office (by hints), corp wanted"].split() == "up down closed no".split()
    assert rows["usb0 at an unknown place; no route"].split() == "up down none yes".split()
    assert output.splitlines()[-1] == (
        "traffic may leave in the clear: eth0 at office (proven), or wlan0 at office (proven), or usb0 anywhere, since "
        "it has no guard"
    )
    # Templates are planned for if they are named.
    assert command("plan", "roaming")[1].splitlines()[1].startswith("roaming at home (by hints) ")


def test_the_object_for_programs(command, interfaces):
    status, output, errors = command("plan", "--json", "eth0", "usb0")
    assert (status, errors) == (0, "")
    said = json.loads(output)
    assert list(said) == ["situations"]
    for each in said["situations"]:
        assert list(each) == ["interfaces", "tunnels", "guards", "clear"]
        assert each["tunnels"].keys() == {"openvpn corp", "ipsec archive"}
        assert each["interfaces"].keys() == each["guards"].keys()
        for facts in each["interfaces"].values():
            assert list(facts) == ["location", "grade", "undecided", "routable", "encrypted"]
    assert said["situations"][2] == {
        "interfaces": {
            "eth0": {
                "location": "office", "grade": "authenticated", "undecided": False, "routable": True,
                "encrypted": True,
            },
        },
        "tunnels": {"openvpn corp": "down", "ipsec archive": "down"},
        "guards": {"eth0": "open"},
        "clear": True,
    }  # fmt: skip
    assert said["situations"][4]["interfaces"]["eth0"] == {
        "location": None, "grade": None, "undecided": True, "routable": True, "encrypted": True
    }  # fmt: skip
    usb = [each["interfaces"]["usb0"] for each in said["situations"] if list(each["interfaces"]) == ["usb0"]]
    assert [(each["routable"], each["encrypted"]) for each in usb] == [(True, True), (False, True)]
    wish = json.loads(command("plan", "--json", "corp")[1])["situations"]
    assert [(each["guards"], each["tunnels"], each["clear"]) for each in wish] == [
        ({"corp": "none"}, {"openvpn corp": "up"}, False)
    ]


def test_errors_in_rules_are_counted(command, interfaces):
    interfaces("iface eth0 inet dhcp\n    netconf-vpn openvpn corp on offce\n    netconf-guard unles office\n")
    status, output, errors = command("plan")
    assert (status, errors) == (0, "netconf-hooks: eth0: its rules have 2 errors: netconf-hooks check names them\n")
    assert output.endswith("traffic may leave in the clear: nowhere\n")


@pytest.mark.parametrize("arguments, complaint", [
    (["eth7"], "eth7: ifquery: unknown interface eth7"),
    (["plain"], "plan: the stanza of plain has no netconf- options"),
    (["../eth0"], 'plan: "../eth0" is not the name of an interface'),
    (["eth0", ""], 'plan: "" is not the name of an interface'),
])
def test_a_bad_argument_gets_one_line(command, interfaces, arguments, complaint):
    assert command("plan", *arguments) == (1, "", f"netconf-hooks: {complaint}\n")


def test_without_any_rule(command, interfaces):
    interfaces("iface eth0 inet dhcp\n")
    assert command("plan") == (
        1, "", "netconf-hooks: plan: no stanza in /etc/network/interfaces has netconf- options "
        "(netconf-hooks check says how to begin)\n"
    )  # fmt: skip


def test_a_stanza_that_can_not_be_read_hides_no_other(command, interfaces, monkeypatch):
    ask = plan.run_ifquery

    def refuse(iface):
        if iface == "wlan0":
            raise plan.InterfacesError("ifquery: nonsense", iface)
        return ask(iface)

    monkeypatch.setattr(plan, "run_ifquery", refuse)
    status, output, errors = command("plan")
    assert status == 0
    assert "left out: wlan0: ifquery: nonsense" in errors
    assert "eth0 at office (proven)" in output


def test_more_rows_than_fit_are_folded_and_counted(command, interfaces):
    """Every row has an outcome of its own: no two can share one."""
    words = [f"l{number}" for number in range(120)]
    lines = [f"    netconf-location {word} gateway=192.0.2.{number}" for number, word in enumerate(words)]
    tunnels = [f"    netconf-vpn unit u{number} on {' '.join(words[number::7])}" for number in range(7)]
    interfaces("\n".join(["iface eth0 inet dhcp", *lines, *tunnels, ""]))
    output = command("plan")[1]
    assert "\n122 situations; those with the same outcome share a row\n" in output
    assert len(output.splitlines()) < 15
    rows = [line for line in output.splitlines() if "more" in line and line.startswith("eth0")]
    assert len(rows) == 7


def test_labels_tell_two_lines_of_a_location_apart(command, interfaces):
    interfaces(
        "iface eth0 inet dhcp\n    netconf-location a gateway=192.0.2.1\n    netconf-location b gatewy=1\n"
        "    netconf-location a gateway=192.0.2.2\n    netconf-vpn openvpn corp unless b\n"
    )
    labels = [line.split("  ")[0] for line in command("plan")[1].splitlines()[1:-1]]
    assert labels[:2] == [
        'eth0 at a (by hints); by "a gateway=192.0.2.1"', 'eth0 at a (by hints); by "a gateway=192.0.2.2"'
    ]  # fmt: skip
    assert len(set(labels)) == len(labels)


def test_nothing_that_is_written_moves_a_cursor(command, interfaces):
    interfaces('iface eth0 inet dhcp\n    netconf-vpn openvpn corp unless ssid="\x1b[2Jx"\n')
    output = command("plan")[1]
    assert "\x1b" not in output
    assert "ssid=" in output


def test_combinations_are_those_of_the_tests(interfaces):
    interface = make_interface("eth0", {"netconf-vpn": f"openvpn corp on gateway=192.0.2.1 {TLS}"})
    words = [tuple(each.records[0].place.words.values()) for each in situations.list_situations([interface])]
    # Of some, what is not answered changes nothing; but what is decided is the same for no two of these.
    assert set(words) <= set(product((False, True, None), repeat=2))
    assert (False, False) in words
    assert (True, False) in words
    assert (False, None) in words
