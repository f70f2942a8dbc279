"""What a captive portal answers by HTTP: an API's state, redirections, and anything else."""

import json
import socket
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many import MANY

from netconf_hooks.evidence import connection, portal_page
from netconf_hooks.evidence.captive_portal import Portal
from netconf_hooks.evidence.connection import Attempt
from netconf_hooks.evidence.names import Resolution
from netconf_hooks.evidence.portal_page import (
    MOST_REDIRECTS, PageError, Response, State, ask_state, finish, follow_redirects, read_response, read_state
)  # fmt: skip
from netconf_hooks.evidence.probes import Wait

PAGE = "https://portal.example/login"


# What is read


def test_a_response():
    data = b"HTTP/1.1 302 Found\r\nLocation: http://a.example/\r\nlocation: http://b.example/\r\nX\r\n\r\nbody\r\n\r\n"
    assert read_response(data) == Response(302, {"location": "http://a.example/"}, b"body\r\n\r\n")


@pytest.mark.parametrize("data", [
    b"", b"\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 20\r\n\r\n", b"HTTP/2 200 OK\r\n\r\n", b"SSH-2.0-OpenSSH\r\n",
    b"HTTP/1.1 2x0 OK\r\n\r\n", b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n",
])
def test_no_response(data):
    with pytest.raises(PageError, match="not HTTP"):
        read_response(data)


@settings(max_examples=MANY)
@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(b"HTTP/1.1 200 OK\r\n".__add__)))
def test_any_bytes_are_a_response_or_none(data):
    try:
        response = read_response(data)
    except PageError:
        return
    assert 0 <= response.status < 1000


@pytest.mark.parametrize("answer, state", [
    ({"captive": False}, State(False)),
    ({"captive": True, "user-portal-url": PAGE}, State(True, Portal(PAGE, "portal.example", 443))),
    ({"captive": True, "user-portal-url": "javascript:alert(1)", "seconds-remaining": 3}, State(True)),
    ({"captive": True, "user-portal-url": [PAGE]}, State(True)),
])
def test_the_state(answer, state):
    assert read_state(json.dumps(answer).encode()) == state


@pytest.mark.parametrize("body, reason", [
    (b"", "JSON"), (b"<html>", "JSON"), (b"\xff\xfe\xfd", "JSON"), (b"[" * 100000, "JSON"),
    (b"[]", "captive"), (b"{}", "captive"), (b'{"captive": "false"}', "captive"), (b'{"captive": 0}', "captive"),
    (b"null", "captive"),
])
def test_no_state(body, reason):
    with pytest.raises(PageError, match=reason):
        read_state(body)


@settings(max_examples=MANY)
@given(st.one_of(st.binary(max_size=40), st.recursive(
    st.none() | st.booleans() | st.text(max_size=5),
    lambda more: st.dictionaries(st.sampled_from(("captive", "user-portal-url", "x")), more),
).map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_a_state_or_none(body):
    try:
        state = read_state(body)
    except PageError:
        return
    assert isinstance(state.captive, bool)


# What is asked


class Server:
    """An HTTP server that answers each connection with the next of `answers`.

    Its connections are pairs of Unix sockets, since a machine that builds packages may have no loopback device.
    """

    def __init__(self, answers, context=None):
        self.answers = list(answers)
        self.requests = []
        self._context = context

    def connect(self):
        """Return a client's socket, whose other end is served."""
        client, server = socket.socketpair()
        threading.Thread(target=self._serve, args=(server, self.answers.pop(0)), daemon=True).start()
        return client

    def _serve(self, connected, answer):
        try:
            with self._context.wrap_socket(connected, server_side=True) if self._context else connected as stream:
                self.requests.append(stream.recv(65536).decode())
                stream.sendall(answer if isinstance(answer, bytes) else answer())
                if self._context:
                    stream.unwrap()  # waits for the client's end: it may still write
        except OSError:
            pass  # it does not trust us, or has gone


@pytest.fixture
def serve(monkeypatch):
    """Start a server that is asked whatever is asked, for names that are all its own."""
    servers = []

    def connect(ways, port, until, announce):
        announce(ways[0].device, "tcp", ways[0].address, port)
        raw = connection._socket.socket(fileno=servers[-1].connect().detach())
        yield Wait({}, 0.0)
        return Attempt(raw, ways[0])

    def start(*answers, context=None):
        servers.append(Server(answers, context))
        return servers[-1]

    monkeypatch.setattr(portal_page, "connect", connect)
    known = {"network-test.debian.org": "203.0.113.1", "portal.example": "198.51.100.9", "b.example": "198.51.100.10"}
    monkeypatch.setattr(
        portal_page, "look_up", lambda hosts, view: {
            host: Resolution((known[host],)) if host in known else Resolution(problem=f"{host} has no address")
            for host in hosts
        },
    )  # fmt: skip
    return start


@pytest.fixture
def view():
    """A view that keeps what was announced."""
    said = []
    return SimpleNamespace(
        link=SimpleNamespace(device="eth0"), deadline=time.monotonic() + 5, said=said,
        announce=lambda *each: said.append(each),
    )  # fmt: skip


def redirect(place, status="302 Found"):
    return f"HTTP/1.1 {status}\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_plain_request_is_followed_to_an_https_page(serve, view):
    server = serve(redirect("http://192.168.3.1:8880/guest/?id=a|b"), redirect("https://portal.example:8843/"))
    found = follow_redirects(view)
    assert [(portal.host, portal.port) for portal in found] == [("192.168.3.1", 8880), ("portal.example", 8843)]
    assert view.said == [("eth0", "tcp", "203.0.113.1", 80), ("eth0", "tcp", "192.168.3.1", 8880)]
    assert server.requests[0].startswith("GET /nm HTTP/1.0\r\nHost: network-test.debian.org\r\n")
    assert server.requests[1].startswith("GET /guest/?id=a|b HTTP/1.0\r\nHost: 192.168.3.1:8880\r\n")


def test_what_is_no_redirection_ends_it(serve, view):
    serve(b"HTTP/1.1 200 OK\r\n\r\nNetworkManager is online\r\n")
    assert follow_redirects(view) == ()


@pytest.mark.parametrize("place", [
    "/login", "ftp://portal.example/", "http://user@portal.example/", "http://portal.example/a b\x01",
    "http://portal.example/" + "x" * 3000, "http://127.0.0.1:631/", "http://224.0.0.251/",
])
def test_a_place_that_is_none_ends_it(serve, view, place):
    serve(redirect(place))
    assert follow_redirects(view) == ()


def test_a_circle_ends(serve, view):
    serve(*[redirect("http://b.example:81/")] * 10)
    assert len(follow_redirects(view)) == MOST_REDIRECTS


def test_the_second_page_need_not_answer(serve, view):
    serve(redirect("http://unknown.example/"))
    assert [portal.host for portal in follow_redirects(view)] == ["unknown.example"]


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000])
def test_no_answer_is_told(serve, view, answer):
    serve(answer)
    with pytest.raises(PageError):
        follow_redirects(view)


def test_a_name_that_nobody_knows_is_told(serve, view):
    serve(b"")
    with pytest.raises(PageError, match="unknown.example has no address"):
        follow_redirects(view, "http://unknown.example/")


def test_a_server_that_says_nothing_is_not_waited_for(serve, view):
    given_up = threading.Event()

    def answer_late():
        assert given_up.wait(30), "it waits for the answer"
        return b""

    serve(answer_late)
    view.deadline = time.monotonic() + 0.2
    try:
        with pytest.raises((PageError, TimeoutError)):
            follow_redirects(view)
    finally:
        given_up.set()


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A certificate of portal.example that this machine trusts."""
    import ssl

    key, file = tmp_path / "key.pem", tmp_path / "portal.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3",
         "-subj", "/CN=portal.example", "-addext", "subjectAltName=DNS:portal.example", "-keyout", key, "-out", file],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return context


API = Portal("https://portal.example/api", "portal.example", 443)


def test_the_api_is_asked(serve, view, certificate):
    body = b'{"captive": true}'
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    server = serve(head + body, context=certificate)
    assert ask_state(API, view) == State(True)
    asked = "GET /api HTTP/1.0\r\nHost: portal.example\r\nAccept: application/captive+json\r\n"
    assert server.requests[0].startswith(asked)


def test_an_api_that_is_none(serve, view, certificate):
    serve(b"HTTP/1.1 404 Not Found\r\n\r\n", context=certificate)
    with pytest.raises(PageError, match="404"):
        ask_state(API, view)


def test_who_has_no_valid_certificate_is_not_believed(serve, view, certificate, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    serve(b"", context=certificate)
    with pytest.raises(PageError, match="no TLS"):
        ask_state(API, view)


def test_an_api_in_the_clear_is_not_asked(view):
    with pytest.raises(PageError, match="https://"):
        ask_state(Portal("http://portal.example/", "portal.example", 80), view)
    assert view.said == []


def test_a_conversation_that_does_not_end_is_ended():
    def endless():
        while True:
            yield Wait({}, time.monotonic() + 60)

    began = time.monotonic()
    assert finish(endless(), began + 0.05) is None
    assert time.monotonic() < began + 5
