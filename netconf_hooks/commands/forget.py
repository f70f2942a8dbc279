"""``netconf-hooks forget-server``: forget where the server with a certificate was seen."""

from __future__ import annotations

import os

from netconf_hooks.commands.entry import CommandError, OK
from netconf_hooks.evidence.known_servers import Servers, ServersError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from netconf_hooks.state import Store

_HEX = frozenset("0123456789abcdef")


def read_fingerprint(text: str) -> str:
    """Return the 64 digits of a SHA-256 fingerprint: alone, with colons, or as a test ``tls`` has it.

    Raises ValueError.
    """
    digits = text.rpartition("sha256:")[2].replace(":", "").lower()
    if len(digits) != 64 or not _HEX.issuperset(digits):
        raise ValueError(f"expected the SHA-256 fingerprint of a certificate, 64 hexadecimal digits, not {text!r}")
    return digits


def forget_server(options: Namespace, store: Store) -> int:
    """``netconf-hooks forget-server SHA256``: the certificate counts as proof again, and its home is learned anew."""
    if os.geteuid() != 0:
        raise CommandError("forget-server: only root may change what counts as proof")
    try:
        known = Servers().forget(options.certificate)
    except ServersError as error:
        raise CommandError(str(error)) from error
    if known is None:
        raise CommandError(f"sha256:{options.certificate}: never seen, so there is nothing to forget")
    where = f"also seen {known.elsewhere}" if known.elsewhere else f"at home behind {', '.join(known.home)}"
    print(f"sha256:{options.certificate}: forgotten; it was {where}")
    print(
        "its home is behind the routers that its lines name by gateway-mac; if they name none, where it is seen next: "
        "netconf-hooks refresh looks now"
    )
    return OK
