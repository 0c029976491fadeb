"""Listening sockets, and answers that need no application."""

from __future__ import annotations

import contextlib
import errno
import socket

from skate.serve.context import new_request_id


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. OSError names the address when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(4096)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(error.errno, f"Serve cannot listen on {host}, port {port}: another program does") from None
        raise OSError(error.errno, f"Serve cannot listen on {host}, port {port}: {error.strerror}") from None
    return listener


_REASONS = {
    400: "Bad Request", 408: "Request Timeout", 414: "URI Too Long", 502: "Bad Gateway", 503: "Service Unavailable"
}  # fmt: skip


def last_words(connection: socket.socket, status: int, why: str) -> None:
    """Write a short answer, as far as the socket takes it."""
    body = f"{_REASONS[status]}: {why}\n".encode()
    more = b"retry-after: 1\r\n" if status == 503 else b""
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\nx-request-id: {new_request_id()}\r\n"
    ).encode()
    with contextlib.suppress(OSError):  # the client has gone, or takes nothing
        connection.send(head + more + b"\r\n" + body)
