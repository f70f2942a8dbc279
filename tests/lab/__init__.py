"""The lab: a laptop, three networks and a VPN made of namespaces, with real ifupdown, DHCP clients and OpenVPN.

Usable without pytest (the demo does): every part is a context manager.  CONTRIBUTING.md says how to look around in it.
"""
