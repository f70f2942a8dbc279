"""The values of tests: their syntax, and when an observed value matches a written one."""

from __future__ import annotations

from netconf_hooks.record import Record
from netconf_hooks.system.addresses import format_address, read_address, read_prefix, share_prefix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SSID_ESCAPES = {b'"': b'"', b"e": b"\x1b", b"n": b"\n", b"r": b"\r", b"t": b"\t"}  # besides \\\\ and \\xHH
# Of text without any other characters, strip() leaves nothing; to look for each in a set takes five times as long.
_HEX = "0123456789abcdef"
_HOST_NAME = "abcdefghijklmnopqrstuvwxyz0123456789_-."


class Syntax(Record):
    """The syntax of a test's values.

    read: returns a written value in normal form, empty if it can't be read; expected: a description of the syntax,
    which messages write after ``expected``.
    matches: whether an observed value matches a written one, given the written and the observed value in normal form.
    read_seen: as `read`, for observed values; `read` itself if None.
    """

    __slots__ = ("read", "expected", "matches", "read_seen")

    def __init__(
        self,
        read: Callable[[str], str],
        expected: str,
        matches: Callable[[str, str], bool] = str.__eq__,
        read_seen: Callable[[str], str] | None = None,
    ) -> None:
        self.read = read
        self.expected = expected
        self.matches = matches
        self.read_seen = read_seen or read


def format_ssid(octets: bytes) -> str:
    """Return the name of a wireless network as text, in the form of iw(8) and wpa_cli(8): printable ASCII unchanged, a
    backslash doubled, any other octet as ``\\xHH``.

    The name has at most 32 octets of any value (IEEE 802.11-2020, 9.4.2.2), not necessarily UTF-8.  Any station in
    range may have chosen it.
    """
    return "".join(
        ["\\\\" if octet == 92 else chr(octet) if 32 <= octet < 127 else f"\\x{octet:02x}" for octet in octets]
    )


def _read_mac(text: str) -> str:
    if len(text) != 17 or not text.isascii():
        return ""
    text = text.lower().replace("-", ":")
    digits = text.replace(":", "")
    return text if text[2::3] == ":::::" and len(digits) == 12 and not digits.strip(_HEX) else ""


def read_network(text: str) -> str:
    prefix = read_prefix(text)
    if prefix is None:
        return ""
    packed, length = prefix
    host_bits = len(packed) * 8 - length
    network = int.from_bytes(packed, "big") >> host_bits << host_bits
    return f"{format_address(network.to_bytes(len(packed), 'big'))}/{length}"


def _read_domain(text: str) -> str:
    if text.startswith("*."):
        domain = read_host_name(text[2:])
        return f"*.{domain}" if domain else ""
    return read_host_name(text)


def read_host_name(text: str) -> str:
    """Return the name of a host or domain in lower case without its final dot; empty for anything else.

    RFC 1035 2.3.4 (lengths) and RFC 1123 2.1 (a digit may come first).  Underscores are allowed, since some names have
    them.
    """
    if not text.isascii():
        return ""
    name = text[:-1].lower() if text[-1:] == "." else text.lower()
    if len(name) > 253 or name.strip(_HOST_NAME):
        return ""
    for label in name.split("."):
        if not 0 < len(label) < 64 or label[0] == "-" or label[-1] == "-":
            return ""
    return name


def _read_number(text: str) -> str:
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text):
        return str(int(text))
    return ""


def read_pattern(text: str) -> str:
    return text if text.isprintable() and "/" not in text and " " not in text else ""


def _read_switch(text: str) -> str:
    return text if text in ("yes", "no") else ""


def _read_peer(text: str) -> str:
    address, slash, mac = text.partition("/")
    address = read_address(address)
    if not slash:
        return address
    mac = _read_mac(mac)
    return f"{address}/{mac}" if address and mac else ""


def read_ssid(text: str) -> str:
    """Read the name of a wireless network: plain octets (PEP 383), or escaped as by `format_ssid` and wpa_cli(8)."""
    try:
        written = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return ""
    first, *escaped = written.replace(b"\\\\", b"\\x5c").split(b"\\")
    octets = first
    for part in escaped:
        if len(octets) > 32:
            break
        digits, character = part[1:3].decode("latin-1"), part[:1]
        if character == b"x" and len(digits) == 2 and not digits.lower().strip(_HEX):
            octets += bytes((int(digits, 16),)) + part[3:]
        elif character and character in _SSID_ESCAPES:
            octets += _SSID_ESCAPES[character] + part[1:]
        else:
            return ""
    return format_ssid(octets) if len(octets) <= 32 else ""


def read_port(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 65536:
        return int(text)
    return 0


def _read_service(text: str) -> str:
    host, _, digits = text.rpartition(":")
    port = read_port(digits)
    if not port:
        return ""
    if host[:1] == "[" and host[-1:] == "]" and ":" in host:
        address = read_address(host[1:-1])
        return f"[{address}]:{port}" if address else ""
    name = read_host_name(host)
    if name.rpartition(".")[2].isdecimal():  # an address: no top-level domain is a number
        name = read_address(host)
    return f"{name}:{port}" if name else ""


def _read_certificate(text: str) -> str:
    service, _, fingerprint = text.partition("/")
    service = _read_service(service)
    method, _, digits = fingerprint.partition(":")
    digits = digits.replace(":", "")  # openssl x509 -fingerprint writes colons
    if not digits.isascii():
        return ""
    digits = digits.lower()
    if not service or method != "sha256" or len(digits) != 64 or digits.strip(_HEX):
        return ""
    return f"{service}/sha256:{digits}"


def _read_path(text: str) -> str:
    return text if text[:1] == "/" and text[-1] != "/" and "\0" not in text else ""


def _is_inside(network: str, address: str) -> bool:
    prefix, _, length = network.partition("/")
    return share_prefix(prefix, address, int(length or 128))


def _is_domain(wanted: str, seen: str) -> bool:
    """``*.example.com`` matches every name below example.com."""
    return seen.endswith(wanted[1:]) and len(seen) > len(wanted) - 1 if wanted.startswith("*.") else wanted == seen


def _fits_pattern(wanted: str, seen: str) -> bool:
    if not any(c in wanted for c in "*?["):
        return wanted == seen
    if wanted.find("*") == len(wanted) - 1 and not any(c in wanted for c in "?["):
        return seen.startswith(wanted[:-1])
    from fnmatch import fnmatchcase  # imports re, 5 ms: only for patterns that are rare

    return fnmatchcase(seen, wanted)


MAC = Syntax(_read_mac, "a MAC address like 52:54:00:0a:00:01")
ADDRESS = Syntax(read_address, "an IP address")
NETWORK = Syntax(read_network, "an IP address or a network like 192.0.2.0/24", _is_inside, read_address)
DOMAIN = Syntax(_read_domain, "a domain like example.com or *.example.com", _is_domain)
NUMBER = Syntax(_read_number, "a number like 1500")
PATTERN = Syntax(read_pattern, "the name of an interface or a pattern like wl*", _fits_pattern)
SWITCH = Syntax(_read_switch, '"yes" or "no"')
PEER = Syntax(_read_peer, "an address, or an address and a MAC address like 192.0.2.1/52:54:00:0a:00:01,")
SSID = Syntax(read_ssid, "the name of a wireless network (1 to 32 octets, a backslash written as two)")
SERVICE = Syntax(_read_service, "HOST:PORT (IPv6 as [ADDRESS]:PORT)")
CERTIFICATE = Syntax(_read_certificate, "HOST:PORT/sha256:HEX (64 digits)")
PATH = Syntax(_read_path, "an absolute path")
