"""What stands in the stanza of most tests of the command, and what is recorded of it at the office."""

import re

from situations import make_record

from netconf_hooks.observation import Answer
from netconf_hooks.state import Pass, TunnelRecord

CORP = ("openvpn", "corp")
OFFICE = "office gateway=192.0.2.1"
STANZA = {"netconf-location": OFFICE, "netconf-vpn": "openvpn corp unless office"}
AT_OFFICE = make_record(
    "eth0", 7, (Pass("inet", STANZA),), "office", OFFICE, "hint", routable=True,
    seen={"dns-domain": Answer((), problem="no lease"), "gateway": ("192.0.2.1", "fe80::1")},
)  # fmt: skip
STOPPED = TunnelRecord("openvpn", "corp", "down", 'eth0 is at office: "unless office"', True)


def tidy(output):
    """Return the table of status without its alignment, and without how long it has been so."""
    return re.sub(r" {2,}(?=\S)", " ", re.sub(r"(?<=\S) +\d+ s(?=  )", "  ", output)).replace("\n ", "\n    ")
