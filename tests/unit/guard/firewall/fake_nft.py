"""Stands for libnftables: does what the guard's commands say to tables of its own, and lists them as nft(8) does."""

from __future__ import annotations

import json
import re
from typing import Any

MISSING = "Error: No such file or directory\nsome place\n^^^"


class NoSuchThing(Exception):
    """A command names what is not there."""


class FakeNftables:
    """As nftables.Nftables.

    tables: by name; each has chains, maps, sets and counters by name; ran: the transactions, each a list of commands;
    broken: the errors of the next transactions, empty for one that is done;
    unlistable: why no table can be listed.
    """

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, dict[str, Any]]] = {}
        self.ran: list[list[str]] = []
        self.broken: list[str] = []
        self.unlistable = ""
        self.json = False

    def set_json_output(self, value: bool) -> None:
        self.json = value

    def cmd(self, text: str) -> tuple[int, str, str]:
        """Run commands, all or none of them."""
        if text == "list tables":
            return 0, "", ""
        if text.startswith("list table "):
            return self._list(text.removeprefix("list table "))
        self.ran.append(text.splitlines())
        if self.broken and (problem := self.broken.pop(0)):
            return 1, "", problem
        before = json.dumps(self.tables)
        try:
            for command in text.splitlines():
                self._do(command)
        except NoSuchThing:
            self.tables = json.loads(before)
            return 1, "", MISSING
        return 0, "", ""

    def _list(self, name: str) -> tuple[int, str, str]:
        assert self.json
        if self.unlistable:
            return 1, "", self.unlistable
        if name not in self.tables:
            return 1, "", MISSING
        items: list[dict[str, Any]] = [{"metainfo": {"json_schema_version": 1}}, {"table": {"name": name}}]
        table = self.tables[name]
        for kind in ("counter", "map", "set", "chain"):
            for found, value in table[kind].items():
                items.append({kind: {"name": found} | {key: item for key, item in value.items() if key != "rules"}})
        for found, value in table["chain"].items():
            items += [{"rule": {"chain": found, **rule}} for rule in value["rules"]]
        return 0, json.dumps({"nftables": items}), ""

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
        key = text.split('"')[1]
        keys = [element[0] if is_map else element for element in holder["elem"]]
        if verb == "delete":
            if key not in keys:
                raise NoSuchThing
            del holder["elem"][keys.index(key)]
        elif key not in keys:
            holder["elem"].append([key, {"jump": {"target": text}}] if is_map else key)

    def _get(self, found: dict[str, Any], name: str) -> Any:
        if name not in found:
            raise NoSuchThing
        return found[name]


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
