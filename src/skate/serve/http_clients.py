"""The proxy's notes: a connection of a client, and a replica that connections are passed to."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import TYPE_CHECKING

from skate.serve.connections import (
    IDLE,
    SLOTS,
    Closed,
    Hello,
    Holding,
    Kept,
    Leaving,
    Link,
    Marks,
    Message,
    Pass,
    Returned,
    Told,
)
from skate.serve.http_routes import Target

if TYPE_CHECKING:
    from skate.serve.http_front import Front

WAITING, HELD, PASSED, OWN, LINGERING = range(5)


class Client:
    """A connection of a client."""

    __slots__ = ("backend", "peer", "since", "slot", "socket", "started", "state", "target")

    def __init__(self, connection: socket.socket, now: float) -> None:
        self.socket = connection
        self.state = WAITING
        self.since = now
        """When it came into its state."""
        self.started = False
        """Whether a part of a first line is there."""
        self.backend: Backend | None = None
        self.slot = -1
        self.target: Target | None = None


class Backend:
    """A replica that connections are passed to."""

    def __init__(self, front: Front, target: Target, name: str, connection: socket.socket) -> None:
        self.front = front
        self.target = target
        self.name = name
        self.marks: Marks | None = None
        self.free: deque[int] = deque()
        self.fresh = 0
        """Slots from here on were never used."""
        self.clients: dict[int, Client] = {}
        self.ready = self.leaving = False
        self.kept = -1
        """A listening socket that it held for a proxy before."""
        self.link = Link(front.loop, connection, self._told, self._gone)

    def room(self) -> bool:
        """Can it be passed one more?"""
        return self.ready and not self.leaving and (bool(self.free) or self.fresh < SLOTS)

    def give(self, client: Client) -> None:
        """Pass it a connection."""
        if self.free:
            slot = self.free.popleft()
        else:
            slot = self.fresh
            self.fresh += 1
        assert self.marks is not None
        self.marks.page[slot] = IDLE
        self.clients[slot] = client
        client.backend, client.slot = self, slot
        self.link.send(Pass(slot), client.socket.fileno())

    def _told(self, message: Message, fd: int) -> None:
        match message:
            case Hello():
                self.marks = Marks(fd)
                self.front.greet(self)
            case Kept():
                self.kept = fd
            case Holding(slot):
                self._adopt(slot, fd)
            case Told():
                self.ready = True
                self.front.joined(self)
            case Closed(slots):
                for slot in slots:
                    self.front.close(self._take(slot))
            case Returned(slots):
                for slot in slots:
                    client = self._take(slot)
                    if client is not None:
                        self.front.wait(client)
            case Leaving():
                self.leaving = True
            case _:
                raise ValueError(f"a replica does not send {message!r}")

    def _adopt(self, slot: int, fd: int) -> None:
        """Take note of a connection that the replica holds since the time of an earlier proxy."""
        client = self.front.known(socket.socket(fileno=fd))
        client.state, client.backend, client.slot = PASSED, self, slot
        self.clients[slot] = client
        self.free.extend(range(self.fresh, slot))
        self.fresh = max(self.fresh, slot + 1)
        with contextlib.suppress(ValueError):
            self.free.remove(slot)

    def _take(self, slot: int) -> Client | None:
        client = self.clients.pop(slot, None)
        if client is not None:
            self.free.append(slot)
            client.backend, client.slot = None, -1
        return client

    def _gone(self) -> None:
        self.ready = False
        self.front.lost(self)

    def close(self) -> None:
        """Let go of the replica; its connections stay with it."""
        self.link.close()
        if self.marks is not None:
            self.marks.close()
            self.marks = None
