"""Whether a host accepts a TCP connection through this link: the test ``reach``."""

from __future__ import annotations

from netconf_hooks.evidence.connection import Way, connect, split_service
from netconf_hooks.evidence.names import resolve
from netconf_hooks.evidence.probes import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from netconf_hooks.evidence.probes import Steps, View
    from netconf_hooks.place import Question


def ask(question: Question, view: View) -> Steps:
    """Connect, and close at once."""
    host, port = split_service(question.value)
    found = yield from resolve(host, view)
    if not found.addresses:
        return Outcome(refuted=found.refuted, settled=found.settled, problem=found.problem)
    ways = [Way(each, view.link.device) for each in found.addresses]
    attempt = yield from connect(ways, port, view.deadline, view.announce)
    if attempt.socket is None:
        return Outcome(refuted=attempt.refuted, settled=attempt.settled, problem=attempt.problem)
    attempt.socket.close()
    return Outcome((question.value,))
