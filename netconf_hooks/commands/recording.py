"""An observation as JSON: ``netconf-hooks probe --json`` writes it, ``netconf-hooks explain --as`` reads it.

A recording has everything that can be seen of a network without sending a question.  It can be sent to somebody, kept,
and used later.
"""

from __future__ import annotations

import json
from netconf_hooks.commands.entry import CommandError
from netconf_hooks.observation import Answer, ENCRYPTED, OPEN, Observation
from netconf_hooks.passes import make_passes
from netconf_hooks.stanzas.ifenv import is_name
from netconf_hooks.stanzas.interfaces import InterfacesError, query_passes
from netconf_hooks.stanzas.rules import TESTS
from netconf_hooks.state import merge_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from netconf_hooks.state import Pass, Store

# A recording has a few hundred characters.  With this limit, a device or a log file is not read to its end.
_LARGEST = 1 << 20  # octets


class ObservationError(CommandError):
    """A recording by ``netconf-hooks probe --json`` can't be read; the message names the file."""


def find_passes(iface: str, store: Store) -> tuple[Pass, ...]:
    """Return the passes of an interface, as recorded or as its stanza says; none if it has no stanza.

    Some options are evidence themselves (``dns-domain``).  Raises `RecordError`.
    """
    record = store.read_interface(iface)
    if record:
        return record.passes
    try:
        return make_passes(iface, query_passes(iface))
    except InterfacesError:
        return ()


def find_options(iface: str, store: Store) -> dict[str, str]:
    """Return the options of the passes that `find_passes` returns, together.  Raises `RecordError`."""
    return merge_options(find_passes(iface, store))


def describe_answers(answers: Mapping[str, Answer]) -> dict[str, object]:
    """Return answers as `format_observation` writes them."""
    described: dict[str, object] = {}
    for key, answer in sorted(answers.items()):
        member = {"values": list(answer.values), "problem": answer.problem or None, "pending": answer.pending}
        if TESTS[key].asked:
            member["refuted"] = list(answer.refuted)
            # Values for which there can be no answer: no test of them holds, negated or not.
            if void := [value for value in answer.settled if value not in (*answer.values, *answer.refuted)]:
                member["void"] = void
        described[key] = member
    return described


def format_observation(observation: Observation) -> str:
    """Return an observation as JSON; netconf-hooks(8), probe, describes it."""
    return json.dumps(
        {
            "interface": observation.iface,
            "routable": observation.routable,
            "wireless": observation.wireless or None,
            "portals": list(observation.portal.uris),
            "portal-problem": observation.portal.problem or None,
            "seen": describe_answers(observation.answers),
        },
        indent=2,
        sort_keys=True,
    )


def read_observation(path: str) -> Observation:
    """Return what `format_observation` wrote.  path: ``-`` is standard input.  Raises `ObservationError`.

    Other members are ignored: a later version may write more.
    """
    name = "standard input" if path == "-" else path
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ObservationError(f"{name}: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise ObservationError(f"{name}: too large to be what netconf-hooks probe --json writes")
    try:
        return parse_observation(data)
    except ValueError as error:  # also from json, and if it is not UTF-8
        raise ObservationError(f"{name}: not what netconf-hooks probe --json writes: {error}") from error


def parse_observation(data: bytes) -> Observation:
    """Parse `data`.  Raises ValueError, which says what was expected."""
    try:
        written = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None
    members = _read_object(written, "the whole")
    seen = _read_object(members.get("seen"), '"seen"')
    iface = members.get("interface")
    if not isinstance(iface, str) or not is_name(iface):
        raise ValueError('"interface": expected the name of one')
    routable = members.get("routable")
    if not isinstance(routable, bool):
        raise ValueError('"routable": expected true or false')
    wireless = members.get("wireless")
    if wireless not in (None, OPEN, ENCRYPTED):
        raise ValueError(f'"wireless": expected null, "{OPEN}" or "{ENCRYPTED}"')
    answers = {key: _read_answer(key, seen[key]) for key in TESTS if key in seen}
    return Observation(iface, 0, answers, routable, str(wireless or ""))


def _read_answer(key: str, written: object) -> Answer:
    members = _read_object(written, f'"{key}"')
    values = _read_values(key, members, "values")
    problem = members.get("problem")
    if problem is not None and not isinstance(problem, str):
        raise ValueError(f'"{key}": "problem": expected a string or null')
    pending = members.get("pending", False)
    if not isinstance(pending, bool):
        raise ValueError(f'"{key}": "pending": expected true or false')
    if not TESTS[key].asked:
        return Answer(values, pending, problem or "")
    refuted = _read_values(key, members, "refuted") if "refuted" in members else ()
    void = _read_values(key, members, "void") if "void" in members else ()
    return Answer(values, pending, problem or "", settled=(*values, *refuted, *void), refuted=refuted)


def _read_values(key: str, members: Mapping[str, object], name: str) -> tuple[str, ...]:
    values = members.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f'"{key}": "{name}": expected a list of strings')
    # Values that were written by hand are normalised; what can't be a value of this test stays unchanged, and matches
    # none.
    return tuple(TESTS[key].syntax.read_seen(value) or value for value in values)


def _read_object(written: object, what: str) -> dict[str, object]:
    if not isinstance(written, dict):
        raise ValueError(f"{what}: expected an object")
    return written
