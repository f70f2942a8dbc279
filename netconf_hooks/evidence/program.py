"""The exit status of an admin's program: the test ``command``."""

from __future__ import annotations

import os
import select
from time import monotonic

from netconf_hooks.evidence.probes import Outcome, Wait
from netconf_hooks.system.ownership import Unsafe, check_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.evidence.probes import Steps, View
    from netconf_hooks.place import Question


def ask(question: Question, view: View) -> Steps:
    """Run the program with ``IFACE`` in its environment; the test holds if it exits with status 0.

    At the deadline the program is killed; then the test has no result.

    The program can stop tunnels, so it runs only if root owns it and every directory on the way to it, and nobody else
    can write to them.
    """
    from netconf_hooks.system import apart  # takes 4 ms the first time
    from netconf_hooks.system.programs import ProgramError

    path = question.value
    if os.geteuid() != 0:
        return Outcome(problem="only root runs it")
    try:
        check_program(path)
        program = apart.begin([path], max(0.0, view.deadline - monotonic()), {"IFACE": view.link.iface})
        with program:
            yield Wait({program.fileno(): select.POLLIN}, view.deadline)
            status = program.read_status()
    except (Unsafe, ProgramError) as error:
        return Outcome(problem=f"not run: {error}")
    if status is None:
        return Outcome(problem="not done in time, killed")
    if status < 0:
        return Outcome(problem=f"ended by signal {-status}")
    return Outcome(refuted=True, problem=f"exit status {status}") if status else Outcome((path,))
