"""Asks a captive portal by HTTP: its API for its state (RFC 8908), and where it redirects a plain request.

This blocks until a deadline, so only commands and the watcher's children call it.  Each connection is announced, so
that a guard lets it pass (`probes.View`).  Answers are hostile input: `read_response` and `read_state` accept any
bytes.
"""

from __future__ import annotations

import select
import time
from ssl import SSLError, create_default_context

from netconf_hooks.evidence.captive_portal import Portal, read_portal
from netconf_hooks.evidence.connection import Way, connect
from netconf_hooks.evidence.names import is_address, look_up
from netconf_hooks.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket
    from typing import TypeVar

    from netconf_hooks.evidence.probes import Conversation, View

    T = TypeVar("T")

PLAIN_REQUEST = "http://network-test.debian.org/nm"
"""The plain request that a captive portal redirects: the one that NetworkManager uses in Debian
(network-manager-config-connectivity-debian)."""

API_TYPE = "application/captive+json"  # RFC 8908 4.1

MOST_REDIRECTS = 4
LONGEST_LOCATION = 2048  # octets; portals put the requested page into it

_LARGEST = 64 * 1024  # octets of a response
_REDIRECTS = (301, 302, 303, 307, 308, 511)  # RFC 9110 15.4; RFC 6585 6
# The characters of a redirection's URI, which is sent back unchanged: all of printable ASCII.
_PRINTABLE = frozenset(map(chr, range(0x21, 0x7F)))


class PageError(Exception):
    """There is no usable answer; the message says why."""


class Response(Record):
    """A response.  status: its code; headers: the first value of each, by its name in lower case; body: the rest."""

    __slots__ = ("status", "headers", "body")

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class State(Record):
    """The state in the API's answer.  captive: whether this machine has to log in; portal: where, None if unknown."""

    __slots__ = ("captive", "portal")

    def __init__(self, captive: bool, portal: Portal | None = None) -> None:
        self.captive = captive
        self.portal = portal


def ask_state(portal: Portal, view: View) -> State:
    """Ask a captive portal's API until the view's deadline.  Raises `PageError`, OSError.

    portal: with an https URI, of a server whose certificate is valid (RFC 8908 4).
    """
    if not is_api(portal):
        raise PageError("its address does not begin with https://")
    response = _request(portal, view, API_TYPE)
    if response.status != 200:
        raise PageError(f"its status is {response.status}")
    return read_state(response.body)


def is_api(portal: Portal) -> bool:
    """Whether a captive portal's URI may belong to an API."""
    return portal.uri[:8].lower() == "https://"


def follow_redirects(view: View, uri: str = PLAIN_REQUEST) -> tuple[Portal, ...]:
    """Follow the redirections of a plain request, and return them.

    Stops at the view's deadline, at an answer that is no redirection, or at an https page, which is not requested.
    Raises `PageError` if the first request has no answer, OSError.
    """
    found: list[Portal] = []
    place = read_portal(uri)
    while len(found) < MOST_REDIRECTS:
        try:
            response = _request(place, view)
        except (PageError, OSError):
            if not found:
                raise
            break
        target = response.headers.get("location", "") if response.status in _REDIRECTS else ""
        try:
            place = read_portal(target, LONGEST_LOCATION, _PRINTABLE)
        except ValueError:
            break  # no redirection, or to a path on the same host, which is allowed already
        found.append(place)
        if is_api(place):
            break
    return tuple(found)


def _request(portal: Portal, view: View, accept: str = "*/*") -> Response:
    """Send a request and return the response.  Raises `PageError`, OSError."""
    if is_address(portal.host):
        addresses: tuple[str, ...] = (portal.host,)
    else:
        resolution = look_up([portal.host], view)[portal.host]
        addresses = resolution.addresses
        if not addresses:
            raise PageError(resolution.problem)
    ways = [Way(address, view.link.device) for address in addresses]
    attempt = finish(connect(ways, portal.port, view.deadline, view.announce), view.deadline)
    if attempt is None or attempt.socket is None:
        raise PageError(attempt.problem if attempt else f"{portal.host} did not answer in time")
    import socket

    with socket.socket(fileno=attempt.socket.detach()) as connected:
        connected.settimeout(_get_left(view.deadline))
        if not is_api(portal):
            return _exchange(connected, portal, accept, view.deadline)
        try:
            host = portal.host
            with create_default_context().wrap_socket(connected, server_hostname=host) as secure:
                return _exchange(secure, portal, accept, view.deadline)
        except SSLError as error:
            raise PageError(f"no TLS: {getattr(error, 'verify_message', '') or error.reason or error}") from None


def _exchange(connected: socket, portal: Portal, accept: str, deadline: float) -> Response:
    # HTTP/1.0: so the answer is not chunked, and ends with the connection (RFC 9112 9.3).
    path = portal.uri.partition("://")[2].partition("#")[0]
    path = path[min((at for at in (path.find("/"), path.find("?")) if at >= 0), default=len(path)):]
    lines = (
        f"GET {path if path.startswith('/') else '/' + path} HTTP/1.0",
        f"Host: {_format_host(portal)}",
        f"Accept: {accept}",
        "User-Agent: netconf-hooks",
        "Connection: close",
        "", "",
    )  # fmt: skip
    connected.sendall("\r\n".join(lines).encode("ascii"))
    data = b""
    try:
        while len(data) <= _LARGEST and not _is_complete(data):
            connected.settimeout(_get_left(deadline))
            piece = connected.recv(65536)
            if not piece:
                break
            data += piece
    except ConnectionResetError:
        pass  # some servers end a connection like this
    if len(data) > _LARGEST:
        raise PageError(f"the answer is longer than {_LARGEST} bytes")
    return read_response(data)


def _get_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise PageError("there was no answer in time")
    return left


def _format_host(portal: Portal) -> str:
    host = f"[{portal.host}]" if ":" in portal.host else portal.host
    return host if portal.port == (443 if is_api(portal) else 80) else f"{host}:{portal.port}"


def finish(conversation: Conversation[T], deadline: float) -> T | None:
    """Return the result of a conversation (`probes`); None if it has not ended at `deadline`, as time.monotonic()."""
    ready: frozenset[int] | None = None  # None starts a generator
    try:
        while True:
            wait = conversation.send(ready)  # type: ignore[arg-type]
            poll = select.poll()
            for descriptor, events in wait.events.items():
                poll.register(descriptor, events)
            now = time.monotonic()
            if now >= deadline:
                # Resume it once more, so that it can return what it has.
                ready = frozenset()
                conversation.send(ready)
                return None
            until = min(wait.until, deadline)
            ready = frozenset(each for each, _ in poll.poll(max(0, int((until - now) * 1000) + 1)))
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        conversation.close()


def _is_complete(data: bytes) -> bool:
    """Whether a response's body is as long as its Content-Length."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    try:
        length = read_response(data).headers.get("content-length", "")
    except PageError:
        return True
    return length.isascii() and length.isdecimal() and len(length) < 10 and len(body) >= int(length)


def read_response(data: bytes) -> Response:
    """Parse an HTTP response (RFC 9112).  Raises `PageError` if it is not one."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code = rest[:3]
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdecimal() and len(code) == 3):
        raise PageError("the answer is not HTTP")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return Response(int(code), headers, body)


def read_state(body: bytes) -> State:
    """Parse the answer of a captive portal's API (RFC 8908 5).  Raises `PageError` if it is not one."""
    import json

    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise PageError("it is no API: its answer is not JSON") from None
    captive = answer.get("captive") if isinstance(answer, dict) else None
    if not isinstance(captive, bool):
        raise PageError('it is no API: its answer has no "captive"')
    page = answer.get("user-portal-url")
    try:
        return State(captive, read_portal(page, LONGEST_LOCATION) if isinstance(page, str) else None)
    except ValueError:
        return State(captive)
