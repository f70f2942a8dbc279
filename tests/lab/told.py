"""An event script that notes each event, and what it has noted."""

from __future__ import annotations

from .lab import Lab

DIRECTORY = "/etc/netconf-hooks/event.d"
NOTE = """\
#!/bin/sh
echo "$1 $IFACE $NETCONF_EVENT ${NETCONF_LOCATION:-none} $LOGICAL $NETCONF_GATEWAY_MAC" >>/run/told
"""


def read_told(lab: Lab) -> list[str]:
    """Return the events told since the last call, each with its interface."""
    lines = lab.laptop.read("/run/told").splitlines() if lab.laptop.exists("/run/told") else []
    lab.laptop.run(["rm", "-f", "/run/told"])
    return [" ".join(line.split()[:2]) for line in lines]
