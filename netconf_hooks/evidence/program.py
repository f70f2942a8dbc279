"""What a program of the admin's says: the test ``command``."""

from __future__ import annotations

import os
import select

from netconf_hooks.evidence.probes import Outcome, Wait
from netconf_hooks.system.ownership import Unsafe, check_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.evidence.probes import Steps, View
    from netconf_hooks.place import Question


def ask(question: Question, view: View) -> Steps:
    """Run it with ``IFACE``; exit status 0 holds, any other does not.  At the deadline it is killed, and says nothing.

    It runs only where it and every directory on the way to it are root's and nobody else can write them: what it says
    turns tunnels off.
    """
    from netconf_hooks.system.programs import ProgramError, begin  # 4 ms with the first run

    path = question.value
    if os.geteuid() != 0:
        return Outcome(problem="only root runs it")
    try:
        check_program(path)
        program = begin([path], {"IFACE": view.link.iface})
    except (Unsafe, ProgramError) as error:
        return Outcome(problem=f"not run: {error}")
    with program:
        yield Wait({program.fileno(): select.POLLIN}, view.deadline)
        status = program.poll()
    if status is None:
        return Outcome(problem="not done in time, killed")
    if status < 0:
        return Outcome(problem=f"ended by signal {-status}")
    return Outcome(refuted=True, problem=f"exit status {status}") if status else Outcome((path,))
