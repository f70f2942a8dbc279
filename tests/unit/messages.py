"""DHCP messages as dhcpcd keeps them."""

import socket

COOKIE = bytes((99, 130, 83, 99))


def make_message(uri="", address="192.0.2.7", options=None):
    """Return a DHCPv4 message, with a captive portal's URI and other options, by number."""
    chosen = {**(options or {}), **({114: uri.encode()} if uri else {})}
    data = bytes(16) + socket.inet_aton(address) + bytes(216) + COOKIE
    for code, value in chosen.items():
        for start in range(0, len(value), 255):
            piece = value[start:start + 255]
            data += bytes((code, len(piece))) + piece
    return data + b"\xff"


def make_message6(uri, address="2001:db8::7"):
    """Return a DHCPv6 message, with a captive portal's URI."""
    leased = bytes(12) + bytes((0, 5, 0, 24)) + socket.inet_pton(socket.AF_INET6, address) + bytes(8)
    return bytes(4) + bytes((0, 3, 0, len(leased))) + leased + bytes((0, 103, 0, len(uri))) + uri.encode()
