"""A café that relays to the office's server."""

from __future__ import annotations

from .network import OFFICE

PUBLIC = f"203.0.113.1{OFFICE.number}"  # the office router's other address
# What the café does to be the office: each of its own, all of them together.
RELAY = f"""
table ip relay {{
    chain c {{ type nat hook prerouting priority dstnat; iifname "lan" tcp dport 443 dnat to {PUBLIC}; }}
}}
"""
