"""An event script that notes each event, and what it has noted."""

from __future__ import annotations

from .lab import Lab
from .waiting import wait_until

QUEUE = "/run/netconf-hooks/events"
DIRECTORY = "/etc/netconf-hooks/event.d"
NOTE = """\
#!/bin/sh
echo "$1 $IFACE $NETCONF_EVENT ${NETCONF_LOCATION:-none} $LOGICAL $NETCONF_GATEWAY_MAC" >>/run/told
"""


def read_told(lab: Lab) -> list[str]:
    """Return the events told since the last call, each with its interface; wait for those that are queued.

    If the watcher is running the scripts, a hook does not wait for them.
    """
    wait_until(lambda: not lab.laptop.exists(QUEUE), "the events to be told", 30)
    lines = lab.laptop.read("/run/told").splitlines() if lab.laptop.exists("/run/told") else []
    lab.laptop.run(["rm", "-f", "/run/told"])
    return [" ".join(line.split()[:2]) for line in lines]
