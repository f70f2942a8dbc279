"""What stands in the stanza of most tests of the command, and what is recorded of it at the office."""

from netconf_hooks.state import Finding, InterfaceRecord, Pass, TunnelRecord

CORP = ("openvpn", "corp")
OFFICE = "office gateway=192.0.2.1"
STANZA = {"netconf-location": OFFICE, "netconf-vpn": "openvpn corp unless office"}
AT_OFFICE = InterfaceRecord(
    "eth0", 7, (Pass("inet", STANZA),), "office", OFFICE, "hint", routable=True,
    seen=(Finding("dns-domain", (), "no lease"), Finding("gateway", ("192.0.2.1", "fe80::1"))),
)  # fmt: skip
STOPPED = TunnelRecord("openvpn", "corp", "down", 'eth0 is at office: "unless office"', True)
