"""Finding the sessions of this user that another program can attach to, and calling at their doors."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from typing import Any, NamedTuple

from skate.core.folder import prefix, root
from skate.core.sockets import knock, peer
from skate.engines.local.door import SOCKET

CARD = "standing"
"""The file that tells of a hub with a process of its own."""
AUTO = "auto"
ANSWER_WITHIN = 30.0
"""Seconds that a hub may take to answer who knocks."""
_USES = (
    'Use "auto", the path of a session\'s folder or of its socket (also "unix:PATH"), or the name of a standing hub.'
)


class Session(NamedTuple):
    """A session of this user, as its folder shows it."""

    folder: str
    begun: float
    """When its door was opened, in seconds since 1970."""
    standing: bool
    name: str
    pid: int


def sessions(parent: str = "") -> list[Session]:
    """Sessions of this user that have a door: standing hubs first, then the newest first. Some may be dead."""
    parent = parent or root()
    found = []
    for entry in os.listdir(parent):
        if entry.startswith(prefix()):
            session = look_at(os.path.join(parent, entry))
            if session is not None:
                found.append(session)
    return sorted(found, key=lambda session: (not session.standing, -session.begun))


def look_at(folder: str) -> Session | None:
    """What a folder says of its session; None when it has no door, or is not ours."""
    try:
        about = os.stat(os.path.join(folder, SOCKET))
        if os.stat(folder).st_uid != os.getuid() or not stat.S_ISSOCK(about.st_mode):
            return None
    except OSError:
        return None
    card = _card(folder)
    pid = os.path.basename(folder).split("-")[2:3]
    number = int(pid[0]) if pid and pid[0].isdigit() else 0
    return Session(folder, about.st_mtime, card is not None, (card or {}).get("name", ""), number)


def _card(folder: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(folder, CARD)) as file:
            card = json.load(file)
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) else None


def call(address: str) -> socket.socket:
    """A connection to the session at `address`; ConnectionError, with what to do, when there is none."""
    if address == AUTO:
        return _first([session.folder for session in sessions()], _nobody())
    if "://" in address and not address.startswith("unix:"):
        raise ConnectionError(f"There is no session at {address!r}: a hub is reached on its own machine. {_USES}")
    path = address.removeprefix("unix:")
    if "/" in path:
        return _connect(path)
    named = [session.folder for session in sessions() if session.standing and session.name == path]
    return _first(named, f"There is no standing hub called {address!r} among the sessions in {root()}. {_USES}")


def _nobody() -> str:
    return (
        f"Could not find a running session of this user in {root()}. Start one with `skate start`, leave the address "
        f"out to have a session of your own, or say where it is. {_USES}"
    )


def _first(folders: list[str], otherwise: str) -> socket.socket:
    for folder in folders:
        try:
            return _connect(folder)
        except ConnectionError:
            continue  # it has ended, and nobody has swept its folder yet
    raise ConnectionError(otherwise)


def _connect(path: str) -> socket.socket:
    folder, name = (path, SOCKET) if os.path.isdir(path) else os.path.split(path)
    try:
        connection = _knock(folder or ".", name)
        try:
            _check_owner(connection)
        except PermissionError:
            connection.close()
            raise
    except PermissionError as error:
        raise ConnectionError(f"The session at {path} cannot be joined: {error.strerror or error}") from error
    except OSError as error:
        raise ConnectionError(f"There is no session at {path}: {error.strerror or error}. {_USES}") from error
    return connection


def _knock(folder: str, name: str) -> socket.socket:
    """Connect; where too many others are waiting to be heard, the kernel says so at once, and we try again."""
    deadline = time.monotonic() + ANSWER_WITHIN
    while True:
        try:
            return knock(folder, name, ANSWER_WITHIN)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"it has not taken the connection within {ANSWER_WITHIN:g} seconds") from None
            time.sleep(0.005)


def _check_owner(connection: socket.socket) -> None:
    """PermissionError unless this user's process listens there: code and values are handed over to it."""
    _, owner = peer(connection)
    if owner != os.getuid():
        raise PermissionError(f"it belongs to user {owner}, and this program runs as user {os.getuid()}")
