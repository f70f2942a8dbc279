"""The guard by iptables: what is written to iptables-restore and read from iptables-save, on tables made up.

That the real programs do the same is shown in the lab.
"""

from __future__ import annotations

import re
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netconf_hooks.exemption import Exemption
from netconf_hooks.guard.firewall import (
    Closing, GuardError, LAN, OPEN, PORTAL, PROBE, TokenGone, WINDOWS, Window, iptables
)  # fmt: skip
from netconf_hooks.guard.firewall.iptables import Firewall, parse_save
from netconf_hooks.system import nf_tables, programs

FIXTURES = Path(__file__).parents[2] / "fixtures/iptables-save"
CAPTURED = sorted(path.name for path in FIXTURES.iterdir())
# When they were captured, and what was put up then: by close() and, with the token 0badcafe, open_window().
CAPTURED_AT = 1795885168.0
CAPTURED_UNTIL = 1795888800.0
CAPTURED_OPENINGS = (
    Exemption("udp", "203.0.113.1/32", 1194, uids=(0, 65534)),
    Exemption("tcp", "2001:db8::/32", 443, mark=0x6E63),
    Exemption("tcp", source_port=22, reply=True),
    Exemption("", "192.0.2.0/24", 53),
    Exemption("esp"),
)
CAPTURED_WINDOWS = (
    Window(OPEN, (Exemption(),), CAPTURED_UNTIL),
    Window(PORTAL, (Exemption("tcp", "", 80, uids=(1000,)),), CAPTURED_UNTIL),
    Window(LAN, (
        Exemption(network="192.168.1.0/24"), Exemption(network="fe80::/64"), Exemption("udp", "224.0.0.251/32", 5353),
        Exemption("udp", "ff02::fb/128", 5353),
    ), inf),
)  # fmt: skip

EVERYTHING = (Exemption(),)
SSH = (Exemption("tcp", "", 22),)


class Tables:
    """The tables mangle of a machine, and its iptables-restore and -save.

    chains: by family; inputs: all that was restored, by family in order, the ``--test`` of it left out; broken: the
    result of the next programs that are run, by the family, None for a working one; then: called before each restore.
    """

    def __init__(self) -> None:
        self.chains: dict[int, dict[str, list[str]]] = {
            version: {name: [] for name in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")}
            for version in (4, 6)
        }
        self.inputs: list[tuple[int, str]] = []
        self.broken: dict[int, programs.Result] = {}
        self.then: Callable[[int], None] = lambda version: None

    @contextmanager
    def talk(self) -> Iterator[types.SimpleNamespace]:
        """Stand in for `nf_tables.Tables`, in which the nft variant's tables are."""

        def list_empty_chains(family: int, table: str) -> dict[str, nf_tables.Chain]:
            assert table == "mangle"
            return {name: nf_tables.Chain() for name in self.chains[{2: 4, 10: 6}[family]]}

        yield types.SimpleNamespace(list_empty_chains=list_empty_chains)

    def run(
        self, argv: list[str], timeout: float, stdin: str | None, variables: dict[str, str], limit: int
    ) -> programs.Result:
        """Stand in for `programs.run`."""
        assert timeout < 60 and limit > 2**20
        version = 6 if "/ip6tables" in argv[0] else 4
        if argv[0].endswith("-save"):
            assert argv[1:] == ["-t", "mangle"] and stdin is None
            return programs.Result(0, self.save(version))
        assert argv[0].endswith("-restore") and argv[1] == "--noflush"
        assert ("-w" in argv) == ("legacy" in argv[0])
        assert stdin is not None
        self.then(version)
        if version in self.broken:
            return self.broken[version]
        return self.restore(version, stdin, "--test" in argv)

    def save(self, version: int) -> str:
        """Return what iptables-save writes."""
        chains = self.chains[version]
        lines = [f":{name} {'ACCEPT' if name.isupper() else '-'} [0:0]" for name in chains]
        lines += [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules]
        return "\n".join(["# Generated", "*mangle", *lines, "COMMIT", "# Completed", ""])

    def restore(self, version: int, text: str, test: bool) -> programs.Result:
        """Do what ``iptables-restore --noflush`` does: all of it or, where one line can't be done, nothing."""
        chains = {name: list(rules) for name, rules in self.chains[version].items()}
        first, *lines, last = text.splitlines()
        assert (first, last) == ("*mangle", "COMMIT")
        for number, line in enumerate(lines, 2):
            try:
                self._do(chains, line)
            except (KeyError, ValueError, IndexError):
                return programs.Result(1, f"iptables-restore: line {number} failed\n")
        if not test:
            self.inputs.append((version, text))
            self.chains[version] = chains
        return programs.Result(0, "")

    @staticmethod
    def _do(chains: dict[str, list[str]], line: str) -> None:
        if line.startswith(":"):
            name = line[1:].split()[0]
            assert line == f":{name} - [0:0]" and len(name) <= 28
            chains[name] = []
            return
        command, chain, rule = (*line.split(" ", 2), "")[:3]
        rules = chains[chain]
        target = re.search(r"-[jg] (nch\S+)", rule)
        if target:
            chains[target[1]]
        if command == "-A":
            rules.append(rule)
        elif command == "-I":
            place, rule = rule.split(" ", 1)
            rules.insert(int(place) - 1, rule)
        elif command == "-D" and rule.isdigit():
            del rules[int(rule) - 1]
        elif command == "-D":
            rules.remove(rule)
        elif command == "-F":
            rules.clear()
        elif command == "-X":
            if any(f" {chain}" in rule for others in chains.values() for rule in others):
                raise ValueError(chain)
            del chains[chain]
        else:
            raise AssertionError(line)

    def is_open(self, device: str = "eth0", name: str = OPEN) -> list[bool]:
        """Whether a window lets anything through now, in IPv4 and IPv6."""
        now = time.time()
        return [
            any(iptables._is_within(rule, now) for rule in self.chains[version].get(f"nchw-{name}-{device}", ()))
            for version in (4, 6)
        ]

    def list_tokens(self, version: int) -> list[str]:
        """Return the tokens of eth0 that there are."""
        found = (rule.split(" ")[3] for rule in self.chains[version]["ncht-eth0"])
        return [token for token in found if token != "none"]


@pytest.fixture(params=["legacy", "nft"])
def variant(request: pytest.FixtureRequest) -> str:
    """Each variant of iptables in turn."""
    found: str = request.param
    return found


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tables]:
    """The machine's tables."""
    made = Tables()
    monkeypatch.setattr(programs, "run", made.run)
    monkeypatch.setattr(nf_tables, "Tables", made.talk)
    monkeypatch.setattr(iptables, "_has_legacy_table", lambda version: True)
    yield made


@pytest.fixture
def guard(tables: Tables, variant: str, tmp_path: Path) -> Firewall:
    """The guard that stands in them."""
    for program in ("iptables", "ip6tables"):
        for what in ("restore", "save"):
            path = tmp_path / f"{program}-{variant}-{what}"
            path.touch()
            path.chmod(0o755)
    return Firewall(variant=variant, directory=str(tmp_path))


def until(seconds: float = 30.0) -> float:
    return time.time() + seconds


def opened(seconds: float = 30.0, name: str = OPEN) -> Window:
    return Window(name, EVERYTHING, until(seconds))


# --- captured output


@pytest.mark.parametrize("name", CAPTURED)
def test_captured(name: str) -> None:
    """What was put up is read back as it was written, rule by rule, of each variant and version of iptables."""
    text = (FIXTURES / name).read_text()
    version = 6 if name.startswith("ip6") else 4
    chains = parse_save(text)
    assert chains["POSTROUTING"] == [
        "-o eth0 -j nchw-open-eth0", "-o wlan0 -j nchw-open-wlan0", "-p udp -m udp --dport 9999 -j DROP"
    ]  # fmt: skip
    assert "INPUT" in chains and chains["INPUT"] == []  # that of the table filter has a rule
    wanted = iptables.build_chains("eth0", version, CAPTURED_OPENINGS, CAPTURED_WINDOWS, CAPTURED_AT)
    checksum = iptables._sum_rules("eth0", wanted)
    wanted["nch-eth0"] = (*wanted["nch-eth0"][:-1], f"-m comment --comment {checksum} -j DROP")
    started = iptables._format_time(CAPTURED_AT - iptables.SLACK)
    for chain, rules in wanted.items():
        found = [re.sub(r"--datestart 2\S+", f"--datestart {started}", rule) for rule in chains[chain]]
        found = [rule.replace("-p igmp", "-p 2") for rule in found]  # where /etc/protocols names it
        assert found == list(rules), chain
    assert [rule.split(" ")[3] for rule in chains["ncht-eth0"]] == ["1badcafe"] + ["none"] * (iptables.TOKENS - 1)
    for device in ("eth0", "wlan0"):
        assert iptables._find_problem(device, chains) == ""
    assert iptables._find_problem("eth1", chains) == "nothing leads to the chains of eth1 in chain POSTROUTING"


def change_line(lines: list[str], number: int, way: str) -> list[str]:
    """Return the lines with one of them deleted, repeated, or of another target."""
    line = lines[number]
    other = line.replace("-j DROP", "-j RETURN") if "DROP" in line else line.replace("-j RETURN", "-j ACCEPT")
    changed = {"deleted": [], "repeated": [line] * 2, "changed": [other]}[way]
    before, after = lines[:number], lines[number:]
    return [*before, *changed, *after[1:]]


@pytest.mark.parametrize("way", ["deleted", "repeated", "changed"])
@pytest.mark.parametrize("name", ["iptables-legacy.bookworm", "ip6tables-nft.trixie"])
def test_any_change_is_noticed(name: str, way: str) -> None:
    """Each rule of a device counts, but those of its windows while they are open, which only come and go."""
    lines = (FIXTURES / name).read_text().splitlines()
    ours = [number for number, line in enumerate(lines) if re.match(r"-A (nch\S*-eth0|\S+ -o eth0) ", line)]
    assert len(ours) > 25
    for number in ours:
        changed = change_line(lines, number, way)
        harmless = changed == lines or ("--datestop" in lines[number] and way != "changed")
        if way == "changed" and "ncht-" in lines[number]:
            harmless = True  # no packet comes there
        assert bool(iptables._find_problem("eth0", parse_save("\n".join(changed)))) != harmless, lines[number]


@pytest.mark.parametrize(
    "rule, before",
    [
        ("-A POSTROUTING -j ACCEPT", "-A POSTROUTING -o eth0"),
        ("-A FORWARD -i lo -j ACCEPT", "-A FORWARD -o eth0"),
        ("-A POSTROUTING -o eth0 -j nchw-open-wlan0", "-A POSTROUTING -o eth0"),
        ("-A nch-eth0 -j RETURN", "-A nch-eth0"),
        ("-A nchw-open-eth0 -j RETURN", "-A nchw-open-eth0"),
        ("-A nchw-open-eth0 -m time --datestop 2030-01-01T00:00:00 -j RETURN", "-A nchw-open-eth0"),
        ("-A nch-eth0 -m time --datestart 2020-01-01T00:00:00 --datestop 2030-01-01T00:00:00 -j RETURN", "-A nch-eth0"),
        ("-A nchf-eth0 -j ACCEPT", "-A nchf-eth0"),
    ],
)
def test_what_stands_before(rule: str, before: str) -> None:
    """What somebody puts before a rule of the guard is noticed."""
    lines = (FIXTURES / "iptables-nft.bookworm").read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith(before))
    assert iptables._find_problem("eth0", parse_save("\n".join([*lines[:place], rule, *lines[place:]])))
    other = next(number for number, line in enumerate(lines) if line.startswith("-A POSTROUTING -p udp"))
    lines.insert(other, "-A POSTROUTING -j ACCEPT")  # behind ours it may be
    assert iptables._find_problem("eth0", parse_save("\n".join(lines))) == ""


def test_cut_off() -> None:
    """A table whose end is missing is no table."""
    text = (FIXTURES / "iptables-nft.bookworm").read_text()
    with pytest.raises(ValueError, match="cut off"):
        parse_save(text[: text.index("COMMIT")])
    assert parse_save("") == parse_save("# Table `mangle' is incompatible, use 'nft' tool.\n") == {}


@given(st.text(alphabet="*:-AmangleCOMIT \n[0]", max_size=80))
def test_any_text(text: str) -> None:
    """Whatever it is, it can be read or is refused."""
    try:
        chains = parse_save(text)
    except ValueError:
        assert "*mangle" in text
    else:
        assert all(isinstance(rules, list) for rules in chains.values())


# --- closing


def test_closed(guard: Firewall, tables: Tables) -> None:
    """One transaction for each family, IPv6 first, whatever stood before; the hook is the first rule."""
    for version in (4, 6):
        tables.chains[version]["POSTROUTING"].append("-p udp -j DROP")
    guard.close("eth0", SSH)
    assert [version for version, _ in tables.inputs] == [6, 4]
    assert not guard.find_fallen(("eth0",)) and guard.find_fallen(("eth1",))
    for version in (4, 6):
        assert tables.chains[version]["POSTROUTING"] == ["-o eth0 -j nchw-open-eth0", "-p udp -j DROP"]
        assert tables.chains[version]["FORWARD"] == ["-o eth0 -j nchf-eth0"]
    tables.inputs.clear()
    guard.close("eth0", (), (opened(name=PORTAL),))
    assert [version for version, _ in tables.inputs] == [6, 4]
    assert tables.is_open(name=PORTAL) == [True, True] and tables.is_open() == [False, False]
    assert all(tables.chains[version]["POSTROUTING"][1:] == ["-p udp -j DROP"] for version in (4, 6))
    assert "--dport 22" not in str(tables.chains)


def test_close_mends(guard: Firewall, tables: Tables) -> None:
    """Whatever somebody has done to it, a close puts all of it up again, once."""
    guard.close("eth0", SSH)
    before = {name: list(rules) for name, rules in tables.chains[6].items()}
    damages: list[Callable[[dict[str, list[str]]], object]] = [
        lambda chains: chains["POSTROUTING"].clear(),
        lambda chains: chains["FORWARD"].clear(),
        lambda chains: chains["POSTROUTING"].insert(0, "-j ACCEPT"),
        lambda chains: chains["POSTROUTING"].append("-o eth0 -j nchw-open-eth0"),
        lambda chains: chains["nch-eth0"].clear(),
        lambda chains: chains["ncht-eth0"].clear(),
        lambda chains: (chains["FORWARD"].clear(), [chains.pop(name) for name in list(chains) if name == "nchf-eth0"]),
        lambda chains: [chains.pop(name) if name.startswith("nch") else chains[name].clear() for name in list(chains)],
    ]
    for damage in damages:
        damage(tables.chains[6])
        assert guard.find_fallen(("eth0",))
        guard.close("eth0", SSH)
        assert not guard.find_fallen(("eth0",))
        found = {name: list(rules) for name, rules in tables.chains[6].items()}
        found["POSTROUTING"] = [rule for rule in found["POSTROUTING"] if rule != "-j ACCEPT"]
        assert found == before


def test_close_that_fails(guard: Firewall, tables: Tables) -> None:
    """The message is the program's, with the line that it points to; a link is not opened in one family only."""
    tables.broken[6] = programs.Result(1, "\nip6tables-restore: line 3 failed\nTry `ip6tables-restore -h'\n")
    with pytest.raises(GuardError, match=r"ip6tables-restore: line 3 failed \(:nch") as caught:
        guard.close("eth0", ())
    assert "Try" not in str(caught.value) and "\n" not in str(caught.value)
    del tables.broken[6]
    guard.close("eth0", ())
    guard.begin_look("eth0", "0badcafe")
    tables.broken[4] = programs.Result(1, "")
    with pytest.raises(GuardError, match="exit status 1"):
        guard.close("eth0", (), (opened(),), "0badcafe")
    assert tables.is_open() == [False, False]


@pytest.mark.parametrize("number, quoted", [(0, ""), (1, " (*mangle)"), (3, " (COMMIT)"), (4, "")])
def test_the_line_that_a_message_points_to(number: int, quoted: str) -> None:
    text = "*mangle\n-F nch-eth0\nCOMMIT\n"
    assert iptables._quote_line(f"iptables-restore: line {number} failed", text) == quoted


def test_put_but_not_held(guard: Firewall, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be read back is no guard."""
    monkeypatch.setattr(tables, "save", lambda version: "*mangle\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n")
    with pytest.raises(GuardError, match="are not as they were written: nothing leads to the chains of eth0"):
        guard.close("eth0", ())


def test_another_spelling(guard: Firewall, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later iptables-save may write our rules in other words; then what it wrote is what is compared with."""
    real = tables.save
    monkeypatch.setattr(tables, "save", lambda version: real(version).replace("-p ipv6-icmp", "-p icmpv6"))
    guard.close("eth0", SSH)
    assert not guard.find_fallen(("eth0",))
    tables.chains[6]["nch-eth0"].pop(0)
    assert guard.find_fallen(("eth0",))


def test_locked(guard: Firewall, tables: Tables) -> None:
    """If somebody keeps the lock, that is said, and nothing is tried again."""
    guard.close("eth0", ())
    guard.open_window("eth0", opened())
    tables.inputs.clear()
    asked = []
    tables.then = asked.append
    words = "Another app is currently holding the xtables lock; waited 5 s"
    tables.broken = {version: programs.Result(4, words + "\n") for version in (4, 6)}
    for act in (
        lambda: guard.close("eth0", ()),
        lambda: guard.open_window("eth0", opened()),
        lambda: guard.renew_window("eth0", opened(60)),
        lambda: guard.begin_look("eth0", "0badcafe"),
    ):
        asked.clear()
        with pytest.raises(GuardError, match=words):
            act()
        assert asked == [6]
    with pytest.raises(GuardError, match=words):
        guard.shut_window("eth0", OPEN)
    assert not tables.inputs


def test_program_that_does_not_end(guard: Firewall, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> programs.Result:
        raise programs.ProgramError("ip6tables-restore: not done after 10 s, killed")

    monkeypatch.setattr(programs, "run", run)
    with pytest.raises(GuardError, match="not done after 10 s"):
        guard.close("eth0", ())


# --- windows and tokens


@pytest.mark.parametrize("name", WINDOWS)
def test_window(guard: Firewall, tables: Tables, name: str) -> None:
    """It is opened and shut in both families, and nothing else of the guard is touched."""
    with pytest.raises(GuardError, match="eth0: not guarded, so no window of it can be opened"):
        guard.open_window("eth0", opened(name=name))
    guard.shut_window("eth0", name)
    assert not guard.renew_window("eth0", opened(name=name))
    guard.close("eth0", SSH)
    before = {version: {name: list(rules) for name, rules in tables.chains[version].items()} for version in (4, 6)}
    guard.open_window("eth0", opened(name=name))
    assert tables.is_open(name=name) == [True, True]
    assert sum(tables.is_open(name=other)[0] for other in WINDOWS) == 1
    assert not guard.find_fallen(("eth0",))
    forwarded = [len(tables.chains[version]["nchf-eth0"]) for version in (4, 6)]
    assert forwarded == ([3, 3] if name == OPEN else [2, 2])
    guard.shut_window("eth0", name)
    assert tables.chains == before
    guard.open_window("eth0", opened(name=name))
    guard.open_window("eth0", opened(-1, name))
    assert tables.chains == before


def test_token(guard: Firewall, tables: Tables) -> None:
    """A token is used once; shutting takes all of them, and so does a guard that is put up anew."""
    guard.close("eth0", ())
    for token in ("00000001", "00000002", "00000003"):
        guard.begin_look("eth0", token)
    assert tables.list_tokens(4) == tables.list_tokens(6) == ["00000003", "00000002", "00000001"]
    guard.open_window("eth0", opened(), "00000002")
    assert tables.list_tokens(4) == tables.list_tokens(6) == ["00000003", "00000001"]
    guard.close("eth0", SSH, (opened(),), "00000001")
    assert tables.is_open() == [True, True] and tables.list_tokens(6) == ["00000003"]
    guard.close("eth0", ())
    assert tables.list_tokens(6) == ["00000003"]
    guard.shut_window("eth0", PORTAL)
    assert tables.list_tokens(6) == ["00000003"]
    guard.shut_window("eth0", OPEN)
    assert tables.list_tokens(4) == tables.list_tokens(6) == []
    for token in ("00000001", "00000003"):
        with pytest.raises(TokenGone, match="eth0: the guard was shut after this look"):
            guard.open_window("eth0", opened(), token)
        with pytest.raises(TokenGone):
            guard.close("eth0", SSH, (opened(),), token)
        assert tables.is_open() == [False, False]
    assert "--dport 22" not in str(tables.chains)  # what stood before stands
    guard.begin_look("eth0", "00000005")
    tables.chains[4]["POSTROUTING"].clear()
    guard.close("eth0", (), (opened(),), "00000005")
    assert tables.is_open() == [True, True] and not guard.find_fallen(("eth0",))
    guard.begin_look("eth0", "00000006")
    tables.chains[6].clear()
    with pytest.raises(TokenGone):
        guard.close("eth0", (), (opened(),), "00000006")


def test_many_are_closed_in_one_transaction_for_each_family(guard: Firewall, tables: Tables) -> None:
    """Whether they stand already or not; the tokens of looks stay valid."""
    guard.close("eth1", SSH)
    guard.begin_look("eth1", "0badcafe")
    devices = ("eth0", "eth1", "eth2")
    for _ in range(2):
        guard.close_all([Closing(device, ()) for device in devices])
        assert not guard.find_fallen(devices)
        assert "--dport 22" not in str(tables.chains)
    tables.inputs.clear()
    guard.close_all([Closing(device, SSH) for device in devices])
    assert [version for version, _ in tables.inputs] == [6, 4]
    assert not guard.find_fallen(devices)
    guard.close("eth1", (), (opened(),), "0badcafe")
    assert not guard.find_fallen(devices)


def test_looks_begin_in_one_transaction_for_each_family(guard: Firewall, tables: Tables) -> None:
    guard.close_all([Closing(device, ()) for device in ("eth0", "eth1")])
    tables.inputs.clear()
    guard.begin_looks({"eth0": "00000001", "eth1": "00000002"})
    assert [version for version, _ in tables.inputs] == [6, 4]
    with pytest.raises(TokenGone):
        guard.open_window("eth1", opened(), "00000001")
    guard.open_window("eth1", opened(), "00000002")
    with pytest.raises(GuardError, match="not a token"):
        guard.begin_looks({"eth0": "00000003", "eth1": "nothing"})
    with pytest.raises(GuardError):
        guard.begin_looks({"eth0": "00000003", "wlan0": "00000004"})


def test_tokens_do_not_pile_up(guard: Firewall, tables: Tables) -> None:
    guard.close("eth0", ())
    for number in range(3 * iptables.TOKENS):
        guard.begin_look("eth0", f"{number:08x}")
    assert len(tables.list_tokens(4)) == iptables.TOKENS
    assert not guard.find_fallen(("eth0",))


@pytest.mark.parametrize("token", ["0BADCAFE", "0badcaf", "0badcafe0", "0badcafg", "-j DROP ", "0badcaf\n", " 0badcaf"])
def test_hostile_token(guard: Firewall, tables: Tables, token: str) -> None:
    guard.close("eth0", ())
    tables.inputs.clear()
    for act in (
        lambda: guard.begin_look("eth0", token),
        lambda: guard.open_window("eth0", opened(), token),
        lambda: guard.close("eth0", (), (opened(),), token),
    ):
        with pytest.raises(GuardError, match="not a token"):
            act()
    assert not tables.inputs


@pytest.mark.parametrize("how", ["open_window", "close", "renew_window"])
@pytest.mark.parametrize("at", [1, 2])
def test_shut_meanwhile(guard: Firewall, tables: Tables, how: str, at: int) -> None:
    """Somebody shuts the guard before the first or before the second family is opened: it stays shut in both."""
    guard.close("eth0", ())
    guard.begin_look("eth0", "0badcafe")
    if how == "renew_window":
        guard.open_window("eth0", opened())
    left = at

    def shut(version: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            guard.shut_window("eth0", OPEN)

    tables.then = shut
    if how == "renew_window":
        assert not guard.renew_window("eth0", opened(60))
    else:
        with pytest.raises(TokenGone):
            if how == "open_window":
                guard.open_window("eth0", opened(), "0badcafe")
            else:
                guard.close("eth0", (), (opened(),), "0badcafe")
    assert left < 0
    assert tables.is_open() == [False, False]
    assert not guard.find_fallen(("eth0",))


def test_renewed(guard: Firewall, tables: Tables) -> None:
    """The end of a window moves, for forwarded packets as well, and its rules are not doubled."""
    guard.close("eth0", ())
    guard.begin_look("eth0", "0badcafe")
    guard.open_window("eth0", opened(30))
    before = [rule for version in (4, 6) for rule in tables.chains[version]["nchw-open-eth0"][:-1]]
    assert guard.renew_window("eth0", opened(300))
    for version in (4, 6):
        (rule,) = tables.chains[version]["nchw-open-eth0"][:-1]
        assert rule not in before and rule == tables.chains[version]["nchf-eth0"][0]
        assert iptables._is_within(rule, time.time() + 290) and not iptables._is_within(rule, time.time() + 302)
    assert tables.list_tokens(4) == ["0badcafe"]
    assert not guard.find_fallen(("eth0",))


def test_over_is_not_renewed(guard: Firewall, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window whose time is over is shut, though its rules are still there; so is one that begins later."""
    guard.close("eth0", ())
    guard.open_window("eth0", opened(30))
    tables.inputs.clear()
    real = time.time
    for later in (60, -60):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: real() + later)
            assert not guard.renew_window("eth0", opened(300))
    assert not tables.inputs


def test_window_of_one_family(guard: Firewall, tables: Tables) -> None:
    """A window that lets nothing of the other family through is opened and renewed all the same."""
    window = Window(PROBE, (Exemption("tcp", "192.0.2.1/32", 80, uids=(0,)),), until())
    guard.close("eth0", ())
    guard.open_window("eth0", window)
    assert tables.is_open(name=PROBE) == [True, False]
    assert guard.renew_window("eth0", window)
    assert tables.is_open(name=PROBE) == [True, False]


def test_one_family_can_not_be_opened(guard: Firewall, tables: Tables) -> None:
    """If IPv4 can't be opened, IPv6 is shut again."""
    guard.close("eth0", ())
    calls = []

    def fail(version: int) -> None:
        calls.append(version)
        tables.broken = {4: programs.Result(2, "out of memory")} if len(calls) == 2 else {}

    tables.then = fail
    with pytest.raises(GuardError, match="iptables-.*-restore: out of memory"):
        guard.open_window("eth0", opened(name=PORTAL))
    assert calls == [6, 4, 6, 4]
    assert tables.is_open(name=PORTAL) == [False, False]


def test_one_family_can_not_be_shut(guard: Firewall, tables: Tables) -> None:
    """If IPv6 can't be shut, IPv4 is shut all the same, and the error is reported."""
    guard.close("eth0", ())
    guard.open_window("eth0", opened())
    tables.broken = {6: programs.Result(2, "out of memory")}
    with pytest.raises(GuardError, match="ip6tables-.*-restore: out of memory"):
        guard.shut_window("eth0", OPEN)
    assert tables.is_open() == [False, True]


# --- lifting


def test_lifted(guard: Firewall, tables: Tables) -> None:
    """Nothing of a device is left, not even what somebody has added, and nothing else is touched."""
    for version in (4, 6):
        tables.chains[version]["POSTROUTING"].append("-o eth0 -j ACCEPT")
    before = {version: {name: list(rules) for name, rules in tables.chains[version].items()} for version in (4, 6)}
    guard.lift("eth0")
    assert not tables.inputs
    guard.close("wlan0", ())
    between = {version: {name: list(rules) for name, rules in tables.chains[version].items()} for version in (4, 6)}
    guard.close("eth0", SSH, (opened(),))
    tables.chains[4]["OUTPUT"].append("-m mark --mark 0x1 -j nchw-open-eth0")
    tables.chains[4]["POSTROUTING"].append("-o eth0 -j nchw-open-eth0")
    tables.chains[6]["POSTROUTING"].clear()
    tables.chains[6]["POSTROUTING"] += between[6]["POSTROUTING"]
    guard.lift("eth0")
    assert tables.chains == between
    guard.lift("wlan0")
    assert tables.chains == before


@pytest.mark.parametrize("failures", [2, 3])
def test_lifting_is_tried_again(guard: Firewall, tables: Tables, failures: int) -> None:
    """Somebody else may have changed the table since it was read; three times it is tried, no more."""
    guard.close("eth0", ())
    tried: list[int] = []

    def fail(version: int) -> None:
        tried.append(version)
        tables.broken = {4: programs.Result(1, "no such rule")} if len(tried) <= failures else {}

    tables.then = fail
    if failures == 3:
        with pytest.raises(GuardError, match="iptables-.*-restore: no such rule"):
            guard.lift("eth0")
        assert tried == [4, 4, 4]
    else:
        guard.lift("eth0")
        assert "nch" not in str(tables.chains)


def test_no_module_is_loaded_for_reading(guard: Firewall, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no legacy table, iptables-legacy-save is not run, which would load its module."""
    monkeypatch.setattr(iptables, "_has_legacy_table", lambda version: False)
    saved = []
    real = tables.save
    monkeypatch.setattr(tables, "save", lambda version: saved.append(version) or real(version))
    assert guard.find_fallen(("eth0",))
    guard.lift("eth0")
    assert bool(saved) == (guard.name == "iptables-nft")


def test_legacy_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    """python-iptables is asked only if the kernel has the table already; to ask for another one would load a module."""

    class Table:
        def __init__(self, name: str) -> None:
            asked.append((type(self).__name__, name))

        @property
        def chains(self) -> list[types.SimpleNamespace]:
            if problem:
                raise OSError(problem)
            names = ["POSTROUTING", *(["nch-eth0", "nchf-eth0"] if type(self).__name__ == "Table6" else [])]
            return [types.SimpleNamespace(name=name) for name in names]

    asked: list[tuple[str, str]] = []
    tried: list[str] = []
    problem = ""
    iptc = types.ModuleType("iptc")
    vars(iptc).update(Table=Table, Table6=type("Table6", (Table,), {}), IPTCError=OSError)
    monkeypatch.setitem(sys.modules, "iptc", iptc)
    monkeypatch.setattr(iptables, "_has_legacy_table", lambda version: False)
    monkeypatch.setattr(iptables.Firewall, "__init__", lambda self, variant: tried.append(variant))
    monkeypatch.setattr(iptables.Firewall, "list_devices", lambda self: ("eth7",))
    assert iptables.list_legacy_guards() == () and not asked
    monkeypatch.setattr(iptables, "_has_legacy_table", lambda version: version == 4)
    assert iptables.list_legacy_guards() == () and asked == [("Table", "mangle")]
    monkeypatch.setattr(iptables, "_has_legacy_table", lambda version: True)
    assert iptables.list_legacy_guards() == ("eth0",) and not tried
    problem = "no rights"
    assert iptables.list_legacy_guards() == ("eth7",) and tried == ["legacy"]
    monkeypatch.setitem(sys.modules, "iptc", None)
    assert iptables.list_legacy_guards() == ("eth7",) and len(tried) == 2

    def refuse(self: iptables.Firewall, variant: str) -> None:
        raise GuardError("missing")

    monkeypatch.setattr(iptables.Firewall, "__init__", refuse)
    assert iptables.list_legacy_guards() == ()


def test_legacy_tables(tmp_path: Path) -> None:
    assert not iptables._has_legacy_table(4, str(tmp_path))
    (tmp_path / "ip_tables_names").write_text("filter\n")
    (tmp_path / "ip6_tables_names").write_text("mangle\nfilter\n")
    assert not iptables._has_legacy_table(4, str(tmp_path))
    assert iptables._has_legacy_table(6, str(tmp_path))


# --- programs that die


SEGV = programs.Result(-11, "")


def test_a_program_that_kills_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: what it was told did not happen, and the message says why."""
    monkeypatch.setattr(nf_tables, "Tables", Tables().talk)
    for name in ("ip6tables-nft-restore", "iptables-nft-restore", "iptables-nft-save", "ip6tables-nft-save"):
        (tmp_path / name).write_text("#!/bin/sh\nkill -SEGV $$\n")
        (tmp_path / name).chmod(0o755)
    guard = Firewall(variant="nft", directory=str(tmp_path))
    for ask in (
        lambda: guard.close("eth0", ()), lambda: guard.open_window("eth0", opened(), "0badcafe"),
        lambda: guard.renew_window("eth0", opened()), lambda: guard.shut_window("eth0", OPEN),
        lambda: guard.find_fallen(["eth0"]), lambda: guard.is_open("eth0"),
    ):  # fmt: skip
        with pytest.raises(GuardError, match="tables-nft-[a-z]+: killed by signal 11"):
            ask()


def die(tables: Tables, times: int, version: int, done: bool) -> None:
    """Let the next restores of a family die, so many times.  done: after the table was changed."""
    left = [times]
    real = tables.restore

    def restore(found: int, text: str, test: bool) -> programs.Result:
        if found != version or not left[0]:
            return real(found, text, test)
        left[0] -= 1
        if done:
            real(found, text, test)
        return SEGV

    tables.restore = restore  # type: ignore[method-assign]


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_closing_is_tried_again_if_the_program_dies(
    guard: Firewall, tables: Tables, version: int, done: bool
) -> None:
    die(tables, 2, version, done)
    guard.close("eth0", SSH)
    assert not guard.find_fallen(["eth0"]) and tables.is_open() == [False, False]
    die(tables, 99, version, done)
    with pytest.raises(GuardError, match="killed by signal 11"):
        guard.close("eth0", SSH)


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("by_closing", [True, False])
def test_nothing_is_opened_by_a_program_that_dies(
    guard: Firewall, tables: Tables, version: int, done: bool, by_closing: bool
) -> None:
    """Also if it had changed the table already: then the window is shut again."""
    guard.close("eth0", SSH)
    guard.begin_look("eth0", "0badcafe")
    die(tables, 1, version, done)
    with pytest.raises(GuardError, match="killed by signal 11"):
        if by_closing:
            guard.close("eth0", SSH, (opened(),), "0badcafe")
        else:
            guard.open_window("eth0", opened(), "0badcafe")
    assert tables.is_open() == [False, False]
    assert not guard.find_fallen(["eth0"])
    # The next look opens it.
    guard.begin_look("eth0", "0badcaff")
    guard.close("eth0", SSH, (opened(),), "0badcaff")
    assert tables.is_open() == [True, True]
