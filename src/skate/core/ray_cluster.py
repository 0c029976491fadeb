"""Clusters of real Ray, as far as they can be spoken of without Ray: is it installed, is anybody at an address."""

from __future__ import annotations

import socket
import time

MISSING = "The engine 'ray' needs Ray itself: pip install 'skate-ray[ray]'."
KNOCK = 5.0
"""Seconds for a connection; Ray itself would try for minutes."""
AGAIN = 0.2
"""Seconds between two tries."""
CLIENT = "ray://"
"""Begins the address of a cluster that is joined through Ray Client."""


def knock(address: str) -> None:
    """ConnectionError when nobody listens at ``host:port`` or ``ray://host:port``; other forms Ray resolves.

    At once, but for ``ray://``: the server for that is up some seconds after its head, and gets that time.
    """
    host, colon, port = address.removeprefix(CLIENT).rpartition(":")
    if not colon or not port.isdigit():
        return
    end = time.monotonic() + (KNOCK if address.startswith(CLIENT) else 0)
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), KNOCK).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() < end and isinstance(error, ConnectionRefusedError):
                time.sleep(AGAIN)  # nothing tells when a server will be there
                continue
            raise ConnectionError(
                f"There is no Ray cluster at {address!r} ({error}). Start one with `ray start --head`, or leave the "
                "address out for a local instance."
            ) from None
