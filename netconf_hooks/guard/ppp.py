"""Which ``ppp`` stanzas dial in by PPPoE over which Ethernet link.

pppd(8) reads ``/etc/ppp/peers/PROVIDER``; PROVIDER is the stanza's ``provider`` option (interfaces(5)).  This file
either loads the plugin rp-pppoe.so or pppoe.so and names the link, as an option (``nic-eth0``, ``eth0``) or after the
plugin; or its pty is ``pppoe -I eth0``.  pppoeconf(8) writes either form, depending on its version.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from netconf_hooks.stanzas.interfaces import Names

PEERS = "/etc/ppp/peers"

# The peers file of a stanza without ``provider``: pon(1) without an argument uses it.
_DEFAULT_PROVIDER = "provider"

_LONGEST = 65536  # bytes of a peers file; real ones have some hundred


def find_dialers(device: str, names: Names | None = None, peers: str = PEERS) -> list[tuple[str, str]]:
    """Return the ``ppp`` stanzas that dial in by PPPoE over a device, each with its peers file.

    names: of /etc/network/interfaces, if they have been read already.
    """
    if not os.path.isdir(peers):
        return []
    from netconf_hooks.stanzas.interfaces import InterfacesError, query_options, read_names  # rarely needed

    found = []
    stanzas = (heading.name for heading in (names or read_names()).headings if heading.method == "ppp")
    for stanza in dict.fromkeys(stanzas):
        try:
            provider = query_options(stanza).get("provider", _DEFAULT_PROVIDER).split("\n")[-1].strip()
        except InterfacesError:
            continue  # ifup can't read it either
        path = f"{peers}/{provider}"
        if "/" not in provider and dials_over(path, device):
            found.append((stanza, path))
    return found


def dials_over(path: str, device: str) -> bool:
    """Whether a peers file dials in by PPPoE over a device; False if the file can't be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_LONGEST)
    except OSError:
        return False
    lines = [line.partition("#")[0].replace('"', " ").replace("'", " ").split() for line in text.split("\n")]
    by_pppoe = any("pppoe" in os.path.basename(word) for line in lines for word in line)
    return by_pppoe and any(_names(line, device) for line in lines)


def _names(line: Sequence[str], device: str) -> bool:
    """Whether a line of a peers file, as words, names the link of a PPPoE session."""
    if list(line) in ([device], [f"nic-{device}"]):
        return True
    if line[:1] == ["plugin"]:
        return device in line[2:] or f"nic-{device}" in line[2:]
    return any(pair == ("-I", device) for pair in zip(line, line[1:]))
