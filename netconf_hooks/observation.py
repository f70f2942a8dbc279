"""All that can be seen of a network without asking it anything, at one time: to be shown, kept, and decided on later.

`netconf-hooks probe --json` writes it down, and `netconf-hooks explain --as` reads it again.
"""

from __future__ import annotations

import json
from time import monotonic

from netconf_hooks.commands.entry import CommandError
from netconf_hooks.evidence import Answer, make_link, observe_link
from netconf_hooks.ifenv import is_name
from netconf_hooks.interfaces import InterfacesError, query_options
from netconf_hooks.record import Record
from netconf_hooks.rules import TESTS, VALUES
from netconf_hooks.state import merge_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from netconf_hooks.state import Store

OPEN, ENCRYPTED = "open", "encrypted"

# What is written down is a few hundred characters; whoever gives a device or a log is told so before it is all read.
_LARGEST = 1 << 20  # octets


class Observation(Record):
    """What was seen of the network that an interface is on.

    iface: the interface's name in ifupdown.
    answers: an `Answer` for each test key (netconf-interfaces(5), TESTS) that nothing has to be sent for.
    routable: whether the link has a default route.
    wireless: ``open`` or ``encrypted``; empty for a link that is not wireless.
    """

    __slots__ = ("iface", "answers", "routable", "wireless")

    def __init__(self, iface: str, answers: Mapping[str, Answer], routable: bool, wireless: str) -> None:
        self.iface = iface
        self.answers = answers
        self.routable = routable
        self.wireless = wireless

    def list_values(self, key: str) -> tuple[str, ...]:
        """Return what was seen for a test key, as values of that test; nothing where there was nothing to see."""
        return self.answers[key].values if key in self.answers else ()


class ObservationError(CommandError):
    """What should have been written by ``netconf-hooks probe --json`` can't be read; the message names the file."""


def find_options(iface: str, store: Store) -> dict[str, str]:
    """Return the options of an interface's stanza, as recorded or as they stand there, where there is a stanza: some
    are evidence themselves (``dns-domain``).  Raises `RecordError`."""
    record = store.read_interface(iface)
    if record:
        return merge_options(record.passes)
    try:
        return query_options(iface)
    except InterfacesError:
        return {}


def list_seen_keys() -> list[str]:
    """Return the test keys that are answered without sending anything or running a program for it."""
    return [key for key, kind in TESTS.items() if not kind.asked]


def observe_network(iface: str, options: Mapping[str, str], timeout: float) -> Observation | None:
    """Look at the network; None where there is no such interface.

    options: the stanza's options, of which some are evidence themselves (``dns-domain``); timeout: seconds that it may
    take.  Sends no more than the kernel would: to ask for a router's MAC address.  Raises `NetlinkError`.
    """
    from netconf_hooks.evidence.router import has_default_route
    from netconf_hooks.evidence.wireless import is_wireless, is_wireless_open

    deadline = monotonic() + timeout
    link = make_link(iface, options)
    if not link.index:
        return None
    answers = observe_link(list_seen_keys(), link, deadline)
    wireless = ""
    if is_wireless(link.device):
        wireless = OPEN if is_wireless_open(link.device, deadline) else ENCRYPTED
    return Observation(iface, {key: answers[key] for key in list_seen_keys()}, has_default_route(link), wireless)


def describe_answers(answers: Mapping[str, Answer]) -> dict[str, object]:
    """Return answers as `format_observation` writes them."""
    described: dict[str, object] = {}
    for key, answer in sorted(answers.items()):
        member = {"values": list(answer.values), "problem": answer.problem or None, "pending": answer.pending}
        if TESTS[key].asked:
            member["refuted"] = list(answer.refuted)
        described[key] = member
    return described


def format_observation(observation: Observation) -> str:
    """Return an observation as JSON, as described in netconf-hooks(8), probe."""
    return json.dumps(
        {
            "interface": observation.iface,
            "routable": observation.routable,
            "wireless": observation.wireless or None,
            "seen": describe_answers(observation.answers),
        },
        indent=2,
        sort_keys=True,
    )


def read_observation(path: str) -> Observation:
    """Return what `format_observation` wrote.  path: ``-`` is standard input.  Raises `ObservationError`.

    What else stands there is ignored: a later version may write more.
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
    except ValueError as error:  # of json, too, and of what is no UTF-8
        raise ObservationError(f"{name}: not what netconf-hooks probe --json writes: {error}") from error


def parse_observation(data: bytes) -> Observation:
    """Return what `data` says.  Raises ValueError, with what was expected, where it is something else."""
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
    return Observation(iface, answers, routable, str(wireless or ""))


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
    return Answer(values, pending, problem or "", settled=(*values, *refuted), refuted=refuted)


def _read_values(key: str, members: Mapping[str, object], name: str) -> tuple[str, ...]:
    values = members.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f'"{key}": "{name}": expected a list of strings')
    # What somebody has written by hand compares as what was seen does; what can be no value of this test stays as it
    # is, and matches none.
    syntax = TESTS[key].value
    read, _ = VALUES["address" if syntax == "network" else syntax]
    return tuple(read(value) or value for value in values)


def _read_object(written: object, what: str) -> dict[str, object]:
    if not isinstance(written, dict):
        raise ValueError(f"{what}: expected an object")
    return written
