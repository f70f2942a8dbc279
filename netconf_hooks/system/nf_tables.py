"""Reads the kernel's nf_tables by netlink: linux/netfilter/nf_tables.h, a stable kernel interface.

libnftables writes; this only reads.  libnftables (1.0.6 to 1.1.3) fetches and translates whole tables for most
questions: with 40 guards, `list table` takes 50 ms of processor time for one of the two tables, `list tables` 30 ms.
Here, the rules of a chain are counted, and only the last one is parsed: 5 ms for both tables, 1 ms for one guard.
"""

from __future__ import annotations

import errno
import os
import struct

from netconf_hooks.record import Record
from netconf_hooks.system.netlink import NLM_F_DUMP, Netlink, NetlinkError, pack_attribute, split_attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

NETLINK_NETFILTER = 12

# The hooks of a chain, by family (linux/netfilter.h, linux/netfilter_bridge.h).
FORWARD, OUTPUT, POSTROUTING, EGRESS = 2, 3, 4, 1

INET, IP, NETDEV, BRIDGE, IP6 = 1, 2, 5, 7, 10
"""The families of tables (NFPROTO_*)."""

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEWCHAIN, _GETCHAIN, _NEWRULE, _GETRULE, _GETSET, _NEWSETELEM, _GETSETELEM = (
    _SUBSYSTEM | number for number in (3, 4, 6, 7, 10, 12, 13)
)
_GETTABLE, _GETOBJECT = _SUBSYSTEM | 1, _SUBSYSTEM | 19
_OBJECT_NAME, _OBJECT_TYPE, _COUNTER = 2, 3, b"\0\0\0\1"
_TABLE = 1  # the attribute with the name of the table, which is the same for all objects
_CHAIN_NAME, _CHAIN_HOOK = 3, 4
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE, _HOOK_DEVICES = 1, 2, 3, 4
_RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_USERDATA = 2, 4, 7
_SET_NAME, _ELEMENTS_SET, _ELEMENTS, _ELEMENT_KEY, _DATA_VALUE = 2, 2, 3, 1, 1
_EXPRESSION_NAME, _EXPRESSION_DATA, _IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE = 1, 2, 2, 2, 1
_NF_DROP = b"\0\0\0\0"
_COMMENT = 0  # NFTNL_UDATA_RULE_COMMENT, libnftnl/udata.h

_ATTRIBUTE = struct.Struct("=HH")
_HEADER = 4  # bytes of struct nfgenmsg


class Chain(Record):
    """A chain.

    hook, priority: of a base chain, the kernel's number of its hook; else None and 0.  devices: of a hook on devices.
    rules: how many it has; drops, comment: whether the last one drops, and its comment.
    """

    __slots__ = ("hook", "priority", "devices", "rules", "drops", "comment")

    def __init__(
        self,
        hook: int | None = None,
        priority: int = 0,
        devices: tuple[str, ...] = (),
        rules: int = 0,
        drops: bool = False,
        comment: str = "",
    ) -> None:
        self.hook = hook
        self.priority = priority
        self.devices = devices
        self.rules = rules
        self.drops = drops
        self.comment = comment


class Tables(Netlink):
    """Questions about nf_tables (context manager).  All raise `NetlinkError`; its code is ENOENT if an object does not
    exist."""

    def __init__(self) -> None:
        super().__init__(protocol=NETLINK_NETFILTER)

    def has_table(self, family: int, table: str) -> bool:
        """Whether there is a table."""
        return self._has(_GETTABLE, _pack(family, table))

    def has_counter(self, family: int, table: str, name: str) -> bool:
        """Whether a table has a counter of this name."""
        named = pack_attribute(_OBJECT_NAME, _pack_name(name)) + pack_attribute(_OBJECT_TYPE, _COUNTER)
        return self._has(_GETOBJECT, _pack(family, table) + named)

    def has_set(self, family: int, table: str, name: str) -> bool:
        """Whether a table has a set or map."""
        return self._has(_GETSET, _pack(family, table) + pack_attribute(_SET_NAME, _pack_name(name)))

    def list_chains(self, family: int, table: str) -> dict[str, Chain]:
        """Return all chains of a table, by name."""
        chains = self.list_empty_chains(family, table)
        rules: dict[str, list[bytes]] = {}
        if chains:
            for kind, body in self.ask(_GETRULE, NLM_F_DUMP, _pack(family, table)):
                if kind == _NEWRULE:
                    rules.setdefault(_read_rule_chain(body), []).append(body)
        return {name: _add_rules(chain, rules.get(name, ())) for name, chain in chains.items()}

    def list_empty_chains(self, family: int, table: str) -> dict[str, Chain]:
        """Return all chains of a table, by name, without their rules; none if there is no such table."""
        wanted = _pack_name(table)
        chains = {}
        # The kernel lists the chains of all tables of a family.
        for kind, body in self.ask(_GETCHAIN, NLM_F_DUMP, _pack(family), lambda body: _is_of(body, wanted)):
            if kind == _NEWCHAIN:
                name, chain = _read_chain(body)
                chains[name] = chain
        return chains

    def get_chains(self, family: int, table: str, names: Collection[str]) -> dict[str, Chain]:
        """Return those of these chains that exist."""
        chains = {}
        for name in names:
            try:
                question = _pack(family, table) + pack_attribute(_CHAIN_NAME, _pack_name(name))
                [(_, body)] = self.ask(_GETCHAIN, 0, question)
            except NetlinkError as error:
                if error.code == errno.ENOENT:
                    continue
                raise
            request = _pack(family, table) + pack_attribute(_RULE_CHAIN, _pack_name(name))
            rules = [body for kind, body in self.ask(_GETRULE, NLM_F_DUMP, request) if kind == _NEWRULE]
            chains[name] = _add_rules(_read_chain(body)[1], rules)
        return chains

    def _has(self, question: int, body: bytes) -> bool:
        try:
            self.ask(question, 0, body)
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return False
            raise
        return True

    def list_keys(self, family: int, table: str, name: str) -> frozenset[bytes] | None:
        """Return the keys of a set or map as the kernel has them; None if there is no such set."""
        keys = set()
        request = _pack(family, table) + pack_attribute(_ELEMENTS_SET, _pack_name(name))
        try:
            answers = self.ask(_GETSETELEM, NLM_F_DUMP, request)
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return None
            raise
        for kind, body in answers:
            if kind == _NEWSETELEM:
                for _, element in _iterate(split_attributes(body[_HEADER:]).get(_ELEMENTS, b"")):
                    key = split_attributes(element).get(_ELEMENT_KEY, b"")
                    keys.add(split_attributes(key).get(_DATA_VALUE, b""))
        return frozenset(keys)


class Conversation:
    """Questions about nf_tables over one socket, which stays open (context manager, which returns its `Tables`).

    Closing a socket after a transaction takes some 15 ms: it waits until the kernel has freed the replaced rules.
    """

    def __init__(self) -> None:
        self._tables: Tables | None = None
        self._pid = 0

    def __enter__(self) -> Tables:
        if self._tables is None or self._pid != os.getpid():
            # A child must not use its parent's socket: they would read each other's answers.
            self._tables, self._pid = Tables(), os.getpid()
        return self._tables

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._tables:
            self._tables.close()
            self._tables = None


def _pack(family: int, table: str = "") -> bytes:
    header = bytes((family, 0, 0, 0))  # struct nfgenmsg: family, version, res_id
    return header + (pack_attribute(_TABLE, _pack_name(table)) if table else b"")


def _pack_name(name: str) -> bytes:
    return os.fsencode(name) + b"\0"


def _read_name(value: bytes) -> str:
    return os.fsdecode(value.partition(b"\0")[0])


def _is_of(body: bytes, table: bytes) -> bool:
    return split_attributes(body[_HEADER:]).get(_TABLE) == table


def _iterate(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield nested attributes, which may have one type.  Raises `NetlinkError`."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            raise NetlinkError(errno.EBADMSG, "an attribute of a message of the kernel's has a wrong length")
        yield kind & 0x3FFF, data[offset + _ATTRIBUTE.size:offset + length]
        offset += length + 3 & ~3


def _read_chain(body: bytes) -> tuple[str, Chain]:
    attributes = split_attributes(body[_HEADER:])
    name = _read_name(attributes.get(_CHAIN_NAME, b""))
    if _CHAIN_HOOK not in attributes:
        return name, Chain()
    hook = split_attributes(attributes[_CHAIN_HOOK])
    devices = [hook[_HOOK_DEVICE]] if _HOOK_DEVICE in hook else []
    if _HOOK_DEVICES in hook:
        devices = [value for _, value in _iterate(hook[_HOOK_DEVICES])]
    number = int.from_bytes(hook.get(_HOOK_NUMBER, b""), "big")
    priority = int.from_bytes(hook.get(_HOOK_PRIORITY, b""), "big", signed=True)
    return name, Chain(number, priority, tuple(map(_read_name, devices)))


def _read_rule_chain(body: bytes) -> str:
    # Don't split all attributes, since there may be thousands of rules: the first two are the table and the chain.
    length, _ = _ATTRIBUTE.unpack_from(body, _HEADER)
    place = _HEADER + (length + 3 & ~3)
    length, kind = _ATTRIBUTE.unpack_from(body, place)
    if kind & 0x3FFF != _RULE_CHAIN:
        return _read_name(split_attributes(body[_HEADER:]).get(_RULE_CHAIN, b""))
    return _read_name(body[place + _ATTRIBUTE.size:place + length])


def _add_rules(chain: Chain, rules: Collection[bytes]) -> Chain:
    """Return a chain with what is known of its rules."""
    if not rules:
        return chain
    *_, last = rules
    attributes = split_attributes(last[_HEADER:])
    drops = any(map(_is_drop, _iterate(attributes.get(_RULE_EXPRESSIONS, b""))))
    comment = _read_comment(attributes.get(_RULE_USERDATA, b""))
    return chain.change(rules=len(rules), drops=drops, comment=comment)


def _is_drop(nested: tuple[int, bytes]) -> bool:
    expression = split_attributes(nested[1])
    if _read_name(expression.get(_EXPRESSION_NAME, b"")) != "immediate":
        return False
    data = split_attributes(expression.get(_EXPRESSION_DATA, b"")).get(_IMMEDIATE_DATA, b"")
    verdict = split_attributes(data).get(_DATA_VERDICT, b"")
    return split_attributes(verdict).get(_VERDICT_CODE) == _NF_DROP


def _read_comment(userdata: bytes) -> str:
    """Return the comment in a rule's user data, where nft(8) keeps it.

    Each value there comes after one byte for its type and one for its length.
    """
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset:offset + 2]
        if kind == _COMMENT:
            return _read_name(userdata[offset + 2:offset + 2 + length])
        offset += 2 + length
    return ""
