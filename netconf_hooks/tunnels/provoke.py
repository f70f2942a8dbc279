"""Packets that test a tunnel: if it works, the other end answers them."""

from __future__ import annotations

from netconf_hooks.system.addresses import format_address, pack_address

_DISCARD = 9
"""The port of the discard service, RFC 863."""


def provoke(device: str) -> bool:
    """Send packets through a tunnel's device that its other end usually answers; return whether any could be sent.

    One goes to the first address of each of the device's networks.  With OpenVPN's ``topology subnet`` this is the
    server, which answers that the port is closed.  One goes to an address that nobody has: a server that forwards
    packets answers that the TTL has expired (RFC 792, RFC 4443).
    """
    from netconf_hooks.system.netlink import Netlink, NetlinkError

    networks = ["0.0.0.0/0"]
    try:
        with Netlink() as netlink:
            link = netlink.get_link(device)
            for own in netlink.list_addresses(link.index) if link else ():
                bits = 128 if ":" in own.address else 32
                if own.length < bits and not own.address.startswith("fe80:"):
                    networks.append(f"{find_network(own.address, own.length)}/{own.length}")
    except NetlinkError:
        pass
    return any([send_into(device, network) for network in networks])


def find_network(address: str, length: int) -> str:
    """Return the network's address, for an address in it.  length: of the prefix, in bits."""
    packed = pack_address(address)
    host = 8 * len(packed) - length
    return format_address((int.from_bytes(packed, "big") >> host << host).to_bytes(len(packed), "big"))


def send_into(device: str, network: str) -> bool:
    """Send an empty UDP packet to an address in `network` (``ADDRESS/LENGTH``) through `device`; return whether it was
    sent.

    The packet is harmless: it goes to the discard port, and no peer forwards it, since its TTL is 1.
    """
    import _socket

    address = choose_address(network)
    version6 = ":" in address
    family = _socket.AF_INET6 if version6 else _socket.AF_INET
    sender = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        sender.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, device.encode())
        if version6:
            sender.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_UNICAST_HOPS, 1)
        else:
            sender.setsockopt(_socket.IPPROTO_IP, _socket.IP_TTL, 1)
        sender.connect((address, _DISCARD))
        if sender.getsockname()[0] == address:
            return False  # our own address: the packet would not leave this machine
        sender.send(b"")
    except OSError:
        return False  # no address of this family, no route, a firewall
    finally:
        sender.close()
    return True


def choose_address(network: str) -> str:
    """Return the first address of `network` that a host can have; for a default route, an address that nobody has.

    The latter is reserved for documentation: RFC 5737, RFC 3849.
    """
    import _socket

    address, _, length = network.partition("/")
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    packed = _socket.inet_pton(family, address)
    if length == "0":
        return "2001:db8::1" if family == _socket.AF_INET6 else "192.0.2.1"
    if int(length) < 8 * len(packed) - 1:
        # In a network of only two addresses the first belongs to a host, too: RFC 3021 and RFC 6164.
        packed = packed[:-1] + bytes([packed[-1] | 1])
    return _socket.inet_ntop(family, packed)
