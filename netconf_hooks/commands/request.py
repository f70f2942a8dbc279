"""Requests: commands of users who are not root, if polkit allows them; netconf-hooks(8), WITHOUT ROOT.

Three processes are involved:

1. ``netconf-hooks portal wlan0``, run by the user, calls ``pkexec /usr/lib/netconf-hooks/request portal wlan0``
   (`commands.unprivileged`).
2. pkexec(1) asks polkit, and runs that program as root: `ask`.  But it still has the user's terminal, limits, signals
   and control group, so the user can stop it, freeze it, or make it fail at any point.  Therefore it only checks its
   arguments, starts a unit, and shows what the unit writes.  It takes no lock and changes nothing by itself: if it is
   stopped, nothing else waits for it.
3. netconf-hooks-request@REQUEST.service runs the command: `fulfil`.  It is a child of systemd, so the user can't
   influence ifup, our locks, or the programs that ifup starts.  A portal has a unit of its own with fewer rights,
   netconf-hooks-request-portal@REQUEST.service: it runs neither ifup nor the admin's scripts, but it parses data from
   the network.

**How the request reaches the unit**: as the name of the unit's instance, for example ``portal-1000-wlan0``.  So
there is no file that somebody could exchange, fill, or leave behind.  The words of a request consist of letters,
digits and ``. _ : @ -``.  A unit's name may contain all of these (systemd.unit(5)), so nothing has to be escaped, and
none of them is special in ifup, in a shell, or in ``ExecStart=``.  The unit checks the words again.  systemd runs
an instance only once at a time: a hundred equal requests at the same time become one, and all get its answer.
Without an administrator's password there can be only as many different requests as there are interfaces with rules and
stanzas with ``netconf-uplink``.

**How the answer comes back**: the unit writes it to a file below /run/netconf-hooks/requests/, which only root can
read, and `ask` shows it line by line.  The file ends with a NUL and the exit status.
"""

from __future__ import annotations

from netconf_hooks.record import Record
from netconf_hooks.stanzas.rules import find_tunnel_errors
from netconf_hooks.system.log import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Seconds.
LONGEST_HOLD = 366 * 86400

# Characters that a name may have.  The name of a unit has at most 255, systemd.unit(5).
LONGEST_NAME = 64

_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
# A wish: no "=" (ifup eth0=home), no pattern, no path.  An interface may have an alias.
_WISH = _ALNUM | frozenset("._-")
_IFACE = _WISH | frozenset(":@")

# The words after each command, in their order.  Only the last word may contain a hyphen.
_FORMS: Mapping[str, tuple[str, ...]] = {
    "refresh": (),
    "hold": ("seconds", "kind", "name"),
    "unhold": ("kind", "name"),
    "want": ("wish",),
    "unwant": ("wish",),
    "portal": ("uid", "iface"),
    "release": ("iface",),
}


class RequestError(Exception):
    """A request is malformed; the message says what was expected, on one line."""


class Request(Record):
    """A command for root that a user has requested.

    words: the command and the words that `_FORMS` lists for it; all are checked.
    """

    __slots__ = ("words",)

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    @property
    def command(self) -> str:
        """The command."""
        return self.words[0]

    @property
    def instance(self) -> str:
        """The request as the instance name of a unit."""
        return "-".join(self.words)

    def get(self, field: str) -> str:
        """Return the word for one of the command's fields; empty if it has no such field."""
        form = _FORMS[self.command]
        return self.words[1 + form.index(field)] if field in form else ""

    def list_arguments(self) -> list[str]:
        """Return the arguments of netconf-hooks(8) for this request."""
        names = [word for field, word in zip(_FORMS[self.command], self.words[1:]) if field not in ("uid", "seconds")]
        seconds = self.get("seconds")
        return [self.command, *names, *(["--for", f"{seconds}s"] if seconds not in ("", "0") else [])]


def read_request(words: Sequence[str]) -> Request:
    """Parse the words of a request, which are hostile input.  Raises `RequestError`."""
    command = words[0] if words else ""
    form = _FORMS.get(command)
    if form is None:
        raise RequestError(printable(f"expected one of {', '.join(_FORMS)}, not {_quote(command)}"))
    if len(words) != 1 + len(form):
        raise RequestError(f"{command}: expected {len(form)} more words, not {len(words) - 1}")
    request = Request(tuple(words))
    for field, word in zip(form, words[1:]):
        problem = _find_problem(request, field, word)
        if problem:
            raise RequestError(printable(f"{command}: {problem}"))
    return request


def read_instance(instance: str) -> Request:
    """Parse a unit's instance name.  Raises `RequestError`."""
    command = instance.partition("-")[0]
    return read_request(instance.split("-", len(_FORMS.get(command, ()))))


def has_uid(command: str) -> bool:
    """Whether a command's first word is the user's uid, which comes from pkexec(1), not from the user."""
    return "uid" in _FORMS.get(command, ())


def _find_problem(request: Request, field: str, word: str) -> str:
    """Return what is wrong with a word, empty if nothing is."""
    if len(word) > LONGEST_NAME:
        return f"expected at most {LONGEST_NAME} characters, not {_quote(word)}"
    if field == "uid":
        return "" if _read_number(word) < 0xFFFFFFFF else f"expected the number of a user, not {_quote(word)}"
    if field == "seconds":
        return "" if _read_number(word) <= LONGEST_HOLD else f"expected at most a year in seconds, not {_quote(word)}"
    if field == "kind":
        return ""  # checked with the name
    if field == "name":
        return "; ".join(find_tunnel_errors(request.get("kind"), word))
    letters, meant = (_WISH, "a stanza with netconf-uplink") if field == "wish" else (_IFACE, "an interface")
    return "" if word[:1] in _ALNUM and word and letters.issuperset(word) else f"{_quote(word)} can't be {meant}"


def _read_number(word: str) -> int:
    # Accept only one way to write each number, since each way would be another unit; int() accepts all Unicode digits.
    is_number = word.isascii() and word.isdecimal() and len(word) <= 10 and word == str(int(word))
    return int(word) if is_number else 0xFFFFFFFF


def _quote(word: str) -> str:
    return f'"{word}"' if len(word) <= LONGEST_NAME else f'"{word[:LONGEST_NAME]}..."'
