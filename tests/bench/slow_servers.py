"""Servers that take their time, on a network of the lab: slow_servers.py ADDRESS CERTIFICATE PORT=SECONDS...

Each accepts connections at once and is silent for so many seconds before it begins to talk TLS.  Goes to the background
when all of them listen.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import threading


def serve(listener: socket.socket, context: ssl.SSLContext, delay: float) -> None:
    """Answer for ever."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, context, delay)).start()


def answer(connection: socket.socket, context: ssl.SSLContext, delay: float) -> None:
    """Be silent, then shake hands, and wait for the other end to close."""
    threading.Event().wait(delay)
    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
        secured.recv(1)


def main(address: str, certificate: str, *ports: str) -> None:
    """Do it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listeners = {}
    for port, _, delay in (words.partition("=") for words in ports):
        listeners[socket.create_server((address, int(port)))] = float(delay)
    if os.fork():
        return
    for listener, seconds in listeners.items():
        threading.Thread(target=serve, args=(listener, context, seconds)).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
