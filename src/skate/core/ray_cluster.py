"""Clusters of real Ray, as far as they can be spoken of without Ray: is it installed, is anybody at an address."""

from __future__ import annotations

import socket

MISSING = "The engine 'ray' needs Ray itself: pip install 'skate-ray[ray]'."
KNOCK = 5.0
"""Seconds for a connection; Ray itself would try for minutes."""
CLIENT = "ray://"
"""Begins the address of a cluster that is joined through Ray Client."""


def knock(address: str) -> None:
    """ConnectionError at once when nobody listens at ``host:port`` or ``ray://host:port``; other forms Ray resolves."""
    host, colon, port = address.removeprefix(CLIENT).rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"There is no Ray cluster at {address!r} ({error}). Start one with `ray start --head`, or leave the "
            "address out for a local instance."
        ) from None
