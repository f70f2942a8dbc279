"""Hosts and ports as VPN configurations write them: ``vpn.example.com``, ``2001:db8::1``, ``1194``, ``https``.

They are read as getaddrinfo(3) reads them, since OpenVPN and WireGuard pass them to it unchanged.
"""

from __future__ import annotations

from netconf_hooks.tunnels import TunnelError

_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_MAX_NAME = 254
"""Characters in a name, including the final dot: RFC 1035 section 2.3.4."""

_MAPPED = bytes(10) + b"\xff\xff"
"""The prefix of IPv4-mapped IPv6 addresses, RFC 4291 section 2.5.5.2."""


def read_host(text: str) -> tuple[str, int]:
    """Return an address as inet_ntop(3) writes it, and its version; or a name, and 0.

    The scope of an address (``fe80::1%eth0``) is left out.  ``10.1`` and ``0x0a000001`` are IPv4 addresses,
    inet_aton(3), and so is ``::ffff:10.0.0.1``, since packets to it are IPv4.  Raises `TunnelError` for anything else.
    """
    import _socket

    if ":" in text:
        address = text.partition("%")[0]
        try:
            packed = _socket.inet_pton(_socket.AF_INET6, address)
        except (OSError, ValueError):  # ValueError: a NUL, which can't be in a C string
            raise TunnelError(f'"{text}" is no address') from None
        if packed.startswith(_MAPPED):
            return _socket.inet_ntop(_socket.AF_INET, packed[len(_MAPPED):]), 4
        return _socket.inet_ntop(_socket.AF_INET6, packed), 6
    if not text or len(text) > _MAX_NAME or not _NAME.issuperset(text) or text[0] in ".-" or ".." in text:
        raise TunnelError(f'"{text}" is neither an address nor a host name')
    try:
        return _socket.inet_ntop(_socket.AF_INET, _socket.inet_aton(text)), 4
    except OSError:
        return text, 0


def read_port(text: str, protocol: str) -> int:
    """Return a port, given by its number or by its name in /etc/services.  protocol: ``udp`` or ``tcp``.

    Raises `TunnelError` for anything else, and for 0.
    """
    import _socket

    if text.isascii() and text.isdecimal():
        port = int(text) if len(text) <= 5 else 0
    else:
        try:
            port = _socket.getservbyname(text, protocol)
        except (OSError, ValueError):  # as above
            port = 0
    if not 0 < port < 65536:
        raise TunnelError(f'"{text}" is no port')
    return port
