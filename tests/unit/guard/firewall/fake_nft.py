"""Stands for libnftables: does what the guard's commands say to tables of its own, and lists them as nft(8) does."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from netconf_hooks.system.netlink import NetlinkError
from netconf_hooks.system.nf_tables import Chain

FAMILIES = {1: "inet", 5: "netdev", 7: "bridge"}
HOOKS = {"forward": 2, "output": 3, "postrouting": 4, "egress": 1, "ingress": 0}

MISSING = "Error: No such file or directory\nsome place\n^^^"


class NoSuchThing(Exception):
    """A command names what is not there."""


class FakeNftables:
    """As libnftables.Nftables.

    tables: by name; each has chains, maps, sets and counters by name; ran: the transactions, each a list of commands;
    broken: the errors of the next transactions, empty for one that is done;
    unlistable: the errno of whoever lists what stands; listed: how often all of a table was.
    """

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, dict[str, Any]]] = {}
        self.ran: list[list[str]] = []
        self.broken: list[str] = []
        self.unlistable = 0
        self.listed = 0

    def run(self, text: str) -> str:
        """Run commands, all or none of them."""
        self.ran.append(text.splitlines())
        if self.broken and (problem := self.broken.pop(0)):
            return problem
        before = json.dumps(self.tables)
        try:
            for command in text.splitlines():
                self._do(command)
        except NoSuchThing:
            self.tables = json.loads(before)
            return MISSING
        return ""

    def _do(self, command: str) -> None:
        verb, kind, family, table, *words = command.split(" ")
        name, rest = words[0] if words else "", " ".join(words[1:])
        place = f"{family} {table}"
        if kind == "table":
            if verb == "delete":
                self._get(self.tables, place)
                del self.tables[place]
            else:
                self.tables.setdefault(place, {"chain": {}, "map": {}, "set": {}, "counter": {}})
            return
        found = self._get(self.tables, place)
        if kind == "rule":
            self._get(found["chain"], name)["rules"].append(make_rule(rest))
        elif kind == "element":
            holder = self._get(found["map"] if name in found["map"] else found["set"], name)
            self._change_element(verb, holder, rest, is_map=name in found["map"])
        elif verb == "flush":
            self._get(found[kind], name)["rules" if kind == "chain" else "elem"] = []
        elif verb == "delete":
            self._get(found[kind], name)
            del found[kind][name]
        elif kind == "chain":
            found["chain"].setdefault(name, {"rules": []}).update(read_hook(rest))
        else:
            found[kind].setdefault(name, {"elem": []})

    def _change_element(self, verb: str, holder: dict[str, Any], text: str, is_map: bool) -> None:
        for element in text.strip("{} ").split(", "):
            key = element.split('"')[1] if '"' in element else element.split()[0]
            keys = [each[0] if is_map else each for each in holder["elem"]]
            if verb in ("delete", "get"):
                if key not in keys:
                    raise NoSuchThing
                if verb == "delete":
                    del holder["elem"][keys.index(key)]
            elif key not in keys:
                holder["elem"].append([key, {"jump": {"target": element}}] if is_map else key)

    def _get(self, found: dict[str, Any], name: str) -> Any:
        if name not in found:
            raise NoSuchThing
        return found[name]


class FakeTables:
    """As nf_tables.Tables, of these tables."""

    def __init__(self, nft: FakeNftables) -> None:
        self._nft = nft

    def close(self) -> None:
        pass

    def _get(self, family: int, table: str, kind: str) -> dict[str, Any]:
        if self._nft.unlistable:
            raise NetlinkError(self._nft.unlistable)
        return self._nft.tables.get(f"{FAMILIES[family]} {table}", {}).get(kind, {})

    def has_table(self, family: int, table: str) -> bool:
        if self._nft.unlistable:
            raise NetlinkError(self._nft.unlistable)
        return f"{FAMILIES[family]} {table}" in self._nft.tables

    def has_set(self, family: int, table: str, name: str) -> bool:
        return name in self._get(family, table, "set") or name in self._get(family, table, "map")

    def has_counter(self, family: int, table: str, name: str) -> bool:
        return name in self._get(family, table, "counter")

    def list_chains(self, family: int, table: str) -> dict[str, Chain]:
        self._nft.listed += 1
        return {name: make_chain(found) for name, found in self._get(family, table, "chain").items()}

    list_empty_chains = list_chains

    def get_chains(self, family: int, table: str, names: Iterable[str]) -> dict[str, Chain]:
        chains = self._get(family, table, "chain")
        return {name: make_chain(chains[name]) for name in names if name in chains}

    def list_keys(self, family: int, table: str, name: str) -> frozenset[bytes] | None:
        if not self.has_set(family, table, name):
            return None
        if name in (maps := self._get(family, table, "map")):
            return frozenset(key.encode() for key, _ in maps[name]["elem"])
        return frozenset(map(pack_key, self._get(family, table, "set")[name]["elem"]))


def pack_key(key: str) -> bytes:
    """Return the key of a set as the kernel has it: a name, or the index of a device."""
    return int(key).to_bytes(4, sys.byteorder) if key.isdigit() else key.encode()


def make_chain(found: dict[str, Any]) -> Chain:
    """Return a chain as it is read from the kernel."""
    *_, last = found.get("rules", ()) or [{}]
    devices = found.get("dev", ())
    return Chain(
        HOOKS.get(found.get("hook", "")), found.get("prio", 0), (devices,) if isinstance(devices, str) else devices,
        len(found.get("rules", ())), {"drop": None} in last.get("expr", ()), last.get("comment", ""),
    )  # fmt: skip


def make_rule(text: str) -> dict[str, Any]:
    """Return a rule as nft(8) lists it, as far as anybody looks at it."""
    words, _, comment = text.partition(" comment ")
    rule: dict[str, Any] = {"text": words, "expr": [{"drop": None}] if words.endswith("drop") else [{"accept": None}]}
    return rule | ({"comment": comment.strip('"')} if comment else {})


def read_hook(text: str) -> dict[str, Any]:
    """Return of a base chain its hook, priority and device; of another chain nothing."""
    found = re.search(r'hook (\w+)(?: device "([^"]+)")? priority (-?\d+)', text)
    if not found:
        return {}
    hook, device, priority = found.groups()
    return {"hook": hook, "prio": int(priority)} | ({"dev": device} if device else {})
