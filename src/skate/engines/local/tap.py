"""Standing between the hub and its links: who records or rehearses sees each message on its way out.

A tapped link changes its class, so that a link that nobody taps pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skate.engines.local.link import Link

Tap = Callable[[Link, Any], None]

_watchers: dict[int, Tap] = {}
"""Told of each message."""
_senders: dict[int, Tap] = {}
"""Called in the place of `Link.send`."""


class TappedLink(Link):
    """A link whose messages pass a tap first."""

    __slots__ = ()

    def send(self, message: Any) -> None:
        """Show the message to the watcher, then send it, or have it sent in another way."""
        watcher = _watchers.get(id(self))
        if watcher is not None:
            watcher(self, message)
        _senders.get(id(self), Link.send)(self, message)

    def close(self) -> None:
        """Close both pipes, and let the taps go."""
        watch(self, None)
        send_by(self, None)
        Link.close(self)


def watch(link: Link, watcher: Tap | None) -> None:
    """Have `watcher` told of each message; None: no longer."""
    _set(_watchers, link, watcher)


def send_by(link: Link, sender: Tap | None) -> None:
    """Have messages go to `sender`, which sends what it likes by `Link.send(link, message)`; None: no longer."""
    _set(_senders, link, sender)


def _set(taps: dict[int, Tap], link: Link, tap: Tap | None) -> None:
    if tap is not None:
        taps[id(link)] = tap
    else:
        taps.pop(id(link), None)
    link.__class__ = TappedLink if id(link) in _watchers or id(link) in _senders else Link
