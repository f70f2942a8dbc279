"""``netconf-hooks want NAME`` and ``unwant NAME``: ifup and ifdown of a wish, and of nothing else."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

from netconf_hooks.commands.entry import CommandError, FAILED, OK
from netconf_hooks.commands.request import read_request, RequestError
from netconf_hooks.stanzas.interfaces import query_options, read_names
from netconf_hooks.system import log, programs
from netconf_hooks.wish import LONGEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from netconf_hooks.state import Store

UPLINK = "netconf-uplink"


def want_wish(options: Namespace, store: Store) -> int:
    """``netconf-hooks want NAME``: what ``ifup NAME`` does, if it is a wish."""
    del store
    return _run("want", "ifup", options.name)


def unwant_wish(options: Namespace, store: Store) -> int:
    """``netconf-hooks unwant NAME``: what ``ifdown NAME`` does, if it is a wish."""
    del store
    return _run("unwant", "ifdown", options.name)


def check_wish(name: str) -> None:
    """Raise `CommandError` unless ifup and ifdown of this name only concern stanzas with ``netconf-uplink``.

    ``ifup NAME`` brings up all stanzas of this name, and a mapping may choose others for it.  Raises `InterfacesError`
    if the stanzas can't be read.
    """
    names = read_names()
    stanzas = names.list_headings_with(UPLINK, name)
    if not stanzas or UPLINK not in query_options(name):
        raise CommandError(f"{name}: no stanza of this name has {UPLINK}")
    if not all(has_option for _, has_option in stanzas):
        raise CommandError(f"{name}: another stanza of this name has no {UPLINK}")
    for pattern in names.mapped:
        if fnmatchcase(name, pattern):
            raise CommandError(f'{name}: "mapping {pattern}" chooses other stanzas for it')
    if names.problems:
        raise CommandError(f"{name}: there may be more stanzas of this name: {names.problems[0]}")


def _run(command: str, program: str, name: str) -> int:
    if os.geteuid() != 0:
        raise CommandError(f"{command}: only root may do this")
    try:
        read_request((command, name))
    except RequestError as error:
        raise CommandError(str(error)) from error
    check_wish(name)
    if not log.is_answer():
        os.execvp(program, [program, name])
    try:
        # More than its hook takes at most, and than the links that are taken down again.
        result = programs.run([program, name], LONGEST + 60, leaves=True, hear=_repeat)
    except programs.ProgramError as error:
        raise CommandError(str(error)) from error
    if result.status != 0:
        return FAILED
    print(f"{name}: {'up' if program == 'ifup' else 'down'}")
    return OK


def _repeat(line: str) -> None:
    print(log.printable(line))
