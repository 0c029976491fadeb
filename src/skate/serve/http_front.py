"""The proxy's work: accepting connections, choosing who serves each, and what becomes of them when a replica dies.

A connection is *waiting* until its first line is there, which is read without being taken from the socket. Then it is
passed to the replica with the fewest connections, *held* while the application has no replica, or served here: what is
Serve's own, what is encrypted, and what no route fits. The front keeps a duplicate of each, and gets them back between
two requests when a replica goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping

from skate.serve.connections import ANSWERED, IDLE, REQUEST, SLOTS, Drop, Keep, Settings, Shed, knock, refuse
from skate.serve.http_clients import HELD, LINGERING, PASSED, WAITING, Backend, Client
from skate.serve.http_door import Door
from skate.serve.http_entry import Entry
from skate.serve.http_here import Here
from skate.serve.http_routes import BadRequestLineError, Routes, Target, asked_path
from skate.serve.http_sockets import last_words

LINE_LIMIT = 16384
"""Bytes within which the first line of a request must end."""
LINE_TIME = 10.0
"""Seconds for a first line to be complete, once it has begun."""
HOLD_TIME = 30.0
"""Seconds for which a connection is held while there is no replica for it."""
MOST_HELD = 4096
"""Connections of one application that are held."""
LINGER = 2.0
"""Seconds for which what a client still sends is read after a last answer, so that it gets that answer."""
SWEEP = 0.5
"""Seconds between two looks at what is late."""


class Front:
    """See the module.

    Args:
        entry: answers what is served here.
        demand: called as ``demand(target, count)`` while so many connections wait for an application's replicas.
    """

    def __init__(self, entry: Entry, demand: Callable[[Target, int], None] = lambda target, count: None) -> None:
        self.entry = entry
        self.demand = demand
        self.loop = asyncio.get_running_loop()
        self.here = Here(entry, self._back)
        self.settings = Settings({})
        self.routes = Routes({})
        self.backends: dict[Target, dict[str, Backend]] = {}
        self.clients: dict[int, Client] = {}
        """All connections by descriptor."""
        self.distant: dict[Target, set[str]] = {}
        """Replicas that no connection can be passed to: on another machine, or not to be reached."""
        self.held: dict[Target, deque[Client]] = {}
        self.epoll = select.epoll()
        self.loop.add_reader(self.epoll.fileno(), self._events)
        self.door = Door(self.clients.__len__, self._enter)
        self._sweeper: asyncio.TimerHandle | None = None
        self.closed = False

    # ------------------------------------------------------------------ connections

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen at an address; the one it became. OSError names it when it is taken."""
        found = self.door.listen(host, port, self._all())
        for backend in self._all():
            self._have_kept(backend)
        return found

    def _have_kept(self, backend: Backend) -> None:
        """Have a replica hold the listening socket, so that it outlives this process."""
        if self.door.listener is not None:
            backend.link.send(Keep(), self.door.listener.fileno())

    def _enter(self, connection: socket.socket, now: float) -> None:
        """A new connection."""
        client = Client(connection, now)
        self.clients[connection.fileno()] = client
        self.epoll.register(connection.fileno(), select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)

    def known(self, connection: socket.socket) -> Client:
        """Take note of a connection that was accepted before."""
        connection.setblocking(False)
        client = Client(connection, time.monotonic())
        self.clients[connection.fileno()] = client
        return client

    # ------------------------------------------------------------------ the first line

    def wait(self, client: Client) -> None:
        """A connection is idle again: wait for its next request."""
        client.state, client.since, client.started, client.target = WAITING, time.monotonic(), False, None
        with contextlib.suppress(FileExistsError):
            self.epoll.register(client.socket.fileno(), select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)

    def _events(self) -> None:
        for fd, _ in self.epoll.poll(0, 256):
            client = self.clients.get(fd)
            if client is None:
                continue
            if client.state == WAITING:
                self._look(client)
            elif client.state == LINGERING:
                self._linger(client)
            elif client.state == HELD:
                self._still_there(client)

    def _look(self, client: Client) -> None:
        """See who is to serve a connection."""
        if self.here.context is not None:
            self._serve_here(client)
            return
        try:
            head = client.socket.recv(LINE_LIMIT, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            head = b""
        if not head:
            self.close(client)
            return
        try:
            path = asked_path(head)
        except BadRequestLineError as error:
            self.dismiss(client, 400, str(error))
            return
        if path is None:
            if len(head) >= LINE_LIMIT:
                self.dismiss(client, 414, "the first line is too long")
            elif not client.started:
                client.started, client.since = True, time.monotonic()
            return
        prefix = None if path.startswith("/-/") else self.routes.prefix(path)
        if prefix is None:
            self._serve_here(client)
            return
        client.target = self.routes.table[prefix]
        self._route(client)

    def _route(self, client: Client) -> None:
        """Pass a connection to a replica of its application, or hold it."""
        assert client.target is not None
        able = [backend for backend in self.backends.get(client.target, {}).values() if backend.room()]
        if able:
            fewest = min(len(backend.clients) for backend in able)
            chosen = random.choice([backend for backend in able if len(backend.clients) == fewest])
            self._unwatch(client)
            client.state = PASSED
            chosen.give(client)
            return
        if self.distant.get(client.target):
            self._serve_here(client)
            return
        line = self.held.setdefault(client.target, deque())
        if len(line) >= MOST_HELD:
            self.dismiss(client, 503, "no replica is there, and as many requests wait for one as may")
            return
        client.state, client.since = HELD, time.monotonic()
        line.append(client)
        self.demand(client.target, len(line))

    def _still_there(self, client: Client) -> None:
        """A connection that is held has changed: has the client gone?"""
        with contextlib.suppress(BlockingIOError):
            try:
                gone = not client.socket.recv(1, socket.MSG_PEEK)
            except ConnectionError:
                gone = True
            if gone:
                assert client.target is not None
                self.held[client.target].remove(client)
                self.close(client)

    def _release(self, target: Target) -> None:
        """Replicas are there: pass on what is held for them."""
        line = self.held.pop(target, None)
        if line:
            self.demand(target, 0)
        for client in line or ():
            client.state = WAITING
            self._look(client)

    def _serve_here(self, client: Client) -> None:
        self._unwatch(client)
        try:
            self.here.take(client)
        except OSError as error:
            self.dismiss(client, 503, str(error))

    def _back(self, client: Client, kept: bool) -> None:
        """A connection is not served here any more."""
        if kept and not self.closed:
            self.wait(client)
        else:
            self.close(client)

    # ------------------------------------------------------------------ replicas

    def take(self, settings: Settings) -> None:
        """Take over new routes and options, and tell the replicas."""
        self.settings = settings
        self.routes = Routes(settings.routes)
        self.entry.take(settings.routes, settings.root_path, settings.request_timeout_s)
        self.here.configure(settings)
        for backend in self._all():
            backend.link.send(settings)
        for line in [line for target, line in self.held.items() if target not in settings.routes.values()]:
            for client in list(line):
                client.state = WAITING
                self._look(client)
            line.clear()

    def join(self, target: Target, replicas: Mapping[str, str]) -> None:
        """Be connected to the replicas of an application, given as their sockets by their names.

        One that is not among them any more stays connected until it ends. Those without a socket are called by handle.
        """
        known = self.backends.setdefault(target, {})
        distant = self.distant[target] = set()
        for name, path in replicas.items():
            if name in known:
                continue
            try:
                connection = knock(path)
            except OSError:  # on another machine; or dead, and about to be replaced
                distant.add(name)
                continue
            known[name] = Backend(self, target, name, connection)
        if distant:
            self._release(target)

    def _all(self) -> list[Backend]:
        return [backend for group in self.backends.values() for backend in group.values()]

    def greet(self, backend: Backend) -> None:
        """A replica has said who it is: tell it how to serve."""
        backend.link.send(self.settings)
        self._have_kept(backend)

    def joined(self, backend: Backend) -> None:
        """A replica is ready: it gets what is held, and its share of what others have."""
        self._release(backend.target)
        others = [other for other in self.backends.get(backend.target, {}).values() if other is not backend]
        able = [other for other in others if other.ready and not other.leaving]
        share = (sum(len(other.clients) for other in able) + len(backend.clients)) // (len(able) + 1)
        for other in able:
            if len(other.clients) > share:
                other.link.send(Shed(len(other.clients) - share))

    def lost(self, backend: Backend) -> None:
        """A replica is dead: see what becomes of its connections."""
        group = self.backends.get(backend.target, {})
        if group.get(backend.name) is backend:
            del group[backend.name]
        marks = backend.marks.page if backend.marks is not None else bytes(SLOTS)
        for slot, client in backend.clients.items():
            client.backend, client.slot = None, -1
            if marks[slot] == IDLE:
                self.wait(client)
            elif marks[slot] == REQUEST:
                self.dismiss(client, 502, "the replica died while it had the request")
            elif marks[slot] == ANSWERED:
                self.close(client)  # the client has the answer, and opens another connection
            else:
                self._forget(client)
                refuse(client.socket)
        backend.clients.clear()
        backend.close()

    # ------------------------------------------------------------------ ends

    def dismiss(self, client: Client, status: int, why: str) -> None:
        """Answer that it cannot be served, and close it once the client has that."""
        last_words(client.socket, status, why)
        self._unwatch(client)
        client.state, client.since = LINGERING, time.monotonic()
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
        self.epoll.register(client.socket.fileno(), select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)
        self._linger(client)

    def _linger(self, client: Client) -> None:
        """Read what the client still sends: closed with unread bytes, the connection would lose the answer."""
        try:
            for _ in range(64):
                if not client.socket.recv(65536):
                    self.close(client)
                    return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close(client)

    def close(self, client: Client | None) -> None:
        """Close a connection."""
        if client is not None and client.socket.fileno() >= 0:
            self._forget(client)
            client.socket.close()

    def _forget(self, client: Client) -> None:
        self._unwatch(client)
        self.clients.pop(client.socket.fileno(), None)

    def _unwatch(self, client: Client) -> None:
        with contextlib.suppress(FileNotFoundError):  # it is watched only while it waits
            self.epoll.unregister(client.socket.fileno())

    def _sweep(self) -> None:
        """End what is late."""
        self._sweeper = None
        now = time.monotonic()
        idle_time = self.settings.keep_alive_timeout_s
        busy = False
        for client in list(self.clients.values()):
            age = now - client.since
            if client.state == WAITING:
                if client.started and age > LINE_TIME:
                    self.dismiss(client, 408, "the first line took too long")
                elif age > idle_time:
                    self.close(client)
            elif client.state == HELD:
                if age > HOLD_TIME:
                    assert client.target is not None
                    self.held[client.target].remove(client)
                    self.dismiss(client, 503, "no replica is there")
            elif client.state == LINGERING:
                if age > LINGER:
                    self.close(client)
            else:
                continue
            busy = True
        for target, line in self.held.items():
            if line:
                self.demand(target, len(line))
        if busy and not self.closed:
            self._sweeper = self.loop.call_later(SWEEP, self._sweep)

    def stop(self) -> None:
        """End on purpose: close the listening socket wherever it is held, and all connections that are here."""
        self.closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.door.close()
        for backend in self._all():
            backend.link.send(Drop())
            backend.close()
        self.backends.clear()
        self.here.close()
        self.loop.remove_reader(self.epoll.fileno())
        for client in list(self.clients.values()):
            client.socket.close()
        self.clients.clear()
        self.epoll.close()
