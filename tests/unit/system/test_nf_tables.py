"""What stands in nf_tables, read from what a kernel answered.

Captured with recvmsg(2) from Linux 6.18.44 (x86_64), after nft(8) 1.0.6 had run::

    add table inet netconf-guard
    add chain inet netconf-guard pass-eth0
    add map inet netconf-guard out { type ifname : verdict; }
    add chain inet netconf-guard out-eth0
    add counter inet netconf-guard dropped-eth0
    add rule inet netconf-guard out-eth0 jump pass-eth0
    add rule inet netconf-guard out-eth0 counter name "dropped-eth0" drop comment "behind 13 rules"
    add chain inet netconf-guard postrouting { type filter hook postrouting priority 350; policy accept; }
    add rule inet netconf-guard postrouting oifname vmap @out
    add element inet netconf-guard out { "eth0" : jump out-eth0 }
    add table netdev netconf-guard
    add chain netdev netconf-guard egress-eth0 { type filter hook egress device "eth0" priority 0; policy drop; }

Each is the body of a message that nfnetlink sent.
"""

import errno

import pytest

from netconf_hooks.system import nf_tables
from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.system.nf_tables import Chain, INET, NETDEV, Tables

CHAINS = (
    bytes.fromhex(
        "01000002120001006e6574636f6e662d67756172640000000e000300706173732d657468300000000c000200000000000000"
        "00020800060000000001"
    ),
    bytes.fromhex(
        "01000002120001006e6574636f6e662d67756172640000000d0003006f75742d65746830000000000c000200000000000000"
        "00040800060000000003"
    ),
    bytes.fromhex(
        "01000002120001006e6574636f6e662d677561726400000010000300706f7374726f7574696e67000c000200000000000000"
        "0007140004000800010000000004080002000000015e08000500000000010b00070066696c746572000008000a0000000001"
        "0800060000000001"
    ),
)
RULES = (
    bytes.fromhex(
        "01000002120001006e6574636f6e662d67756172640000000d0002006f75742d65746830000000000c000300000000000000"
        "000544000400400001000e000100696d6d6564696174650000002c0002000800010000000000200002001c00020008000100"
        "fffffffd0e000200706173732d65746830000000"
    ),
    bytes.fromhex(
        "01000002120001006e6574636f6e662d67756172640000000d0002006f75742d65746830000000000c000300000000000000"
        "00060c000600000000000000000564000400300001000b0001006f626a7265660000200002001100020064726f707065642d"
        "65746830000000000800010000000001300001000e000100696d6d6564696174650000001c00020008000100000000001000"
        "02000c0002000800010000000000160007000010626568696e642031332072756c6573000000"
    ),
    bytes.fromhex(
        "01000002120001006e6574636f6e662d677561726400000010000200706f7374726f7574696e67000c000300000000000000"
        "00085c00040024000100090001006d657461000000001400020008000200000000070800010000000001340001000b000100"
        "6c6f6f6b7570000024000200080001006f757400080002000000000108000300000000000800050000000000"
    ),
)
ELEMENTS = (
    bytes.fromhex(
        "01000002120001006e6574636f6e662d6775617264000000080002006f757400400003003c00010018000100140001006574"
        "6830000000000000000000000000200002001c00020008000100fffffffd0d0002006f75742d6574683000000000"
    ),
    bytes.fromhex(
        "01000002120001006e6574636f6e662d6775617264000000080002006f75740004000300"
    ),
)
EGRESS = (
    bytes.fromhex(
        "05000002120001006e6574636f6e662d6775617264000000100003006567726573732d65746830000c000200000000000000"
        "0001300004000800010000000001080002000000000010000400090001006574683000000000090003006574683000000000"
        "08000500000000000b00070066696c746572000008000a00000000010800060000000000"
    ),
)

# The first chain's name in a table that is not ours.
FOREIGN = CHAINS[0].replace(b"netconf-guard", b"somebody-else")

OUT = Chain(rules=2, drops=True, comment="behind 13 rules")
POSTROUTING = Chain(nf_tables.POSTROUTING, 350, (), 1)


@pytest.fixture
def tables(monkeypatch):
    """Questions that are answered with what was captured; no socket is opened.  Those of the table `gone` find none."""

    def ask(self, kind, flags, body, keep=None):
        if b"gone" in body:
            raise NetlinkError(errno.ENOENT)
        whole = bool(flags & 0x100)
        if kind & 0xFF == 4:
            found = EGRESS if body[0] == NETDEV else (*CHAINS, FOREIGN)
            if not whole:
                found = [each for each in found if each != FOREIGN and body[28:] and body[28:] in each] or [b""]
            if found == [b""]:
                raise NetlinkError(errno.ENOENT)
            answers = [(kind - 1, each) for each in found]
        elif kind & 0xFF == 7:
            rules = RULES if body[0] == INET else ()
            answers = [(kind - 1, each) for each in rules if body[28:] in each]
        elif kind & 0xFF == 13:
            answers = [(kind - 1, each) for each in ELEMENTS]
        else:
            answers = [(kind - 1, b"")]
        return [each for each in answers if keep is None or keep(each[1])]

    monkeypatch.setattr(Tables, "__init__", lambda self: None)
    monkeypatch.setattr(Tables, "ask", ask)
    return Tables()


def test_all_chains_with_their_rules(tables):
    assert tables.list_chains(INET, "netconf-guard") == {
        "pass-eth0": Chain(), "out-eth0": OUT, "postrouting": POSTROUTING,
    }  # fmt: skip
    assert tables.list_chains(NETDEV, "netconf-guard") == {"egress-eth0": Chain(nf_tables.EGRESS, 0, ("eth0",))}
    assert set(tables.list_empty_chains(INET, "netconf-guard")) == {"pass-eth0", "out-eth0", "postrouting"}
    assert tables.list_empty_chains(INET, "another") == {}


def test_some_chains(tables):
    found = tables.get_chains(INET, "netconf-guard", ["out-eth0", "postrouting", "nothing"])
    assert found == {"out-eth0": OUT, "postrouting": POSTROUTING}


def test_the_keys_of_a_map(tables):
    assert tables.list_keys(INET, "netconf-guard", "out") == {b"eth0".ljust(16, b"\0")}
    assert tables.list_keys(INET, "netconf-guard", "gone") is None


def test_what_there_is(tables):
    assert tables.has_table(INET, "netconf-guard") and not tables.has_table(INET, "gone")
    assert tables.has_set(INET, "netconf-guard", "out") and not tables.has_set(INET, "netconf-guard", "gone")
    assert tables.has_counter(INET, "netconf-guard", "dropped") and not tables.has_counter(INET, "gone", "dropped")


def test_only_a_drop_drops():
    """The same rule with another verdict, and with a jump."""
    drop = RULES[1]
    verdict = bytes.fromhex("0c0002000800010000000000")  # NFTA_DATA_VERDICT: NFTA_VERDICT_CODE, NF_DROP
    assert drop.count(verdict) == 1
    accept = drop.replace(verdict, bytes.fromhex("0c0002000800010000000001"))
    for rule, drops in ((drop, True), (accept, False), (RULES[0], False), (RULES[2], False)):
        assert nf_tables._add_rules(Chain(), [rule]).drops is drops


@pytest.mark.parametrize("body", [*CHAINS, *RULES, *ELEMENTS, *EGRESS])
def test_what_is_cut_off_is_an_error_or_less(body):
    for length in range(4, len(body)):
        for read in (nf_tables._read_chain, lambda cut: nf_tables._add_rules(Chain(), [cut])):
            try:
                read(body[:length])
            except NetlinkError:
                pass
