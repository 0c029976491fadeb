"""The board: a page of shared memory where replicas write how many requests they have in hand.

Routers read it without asking anybody. The controller makes it; others map it by way of ``/proc/PID/fd``. Each replica
has a *slot*: a word for the number of its ongoing requests, a word that counts the requests that it ever began, and a
ring of the numbers of those that it began last, by which a caller knows whether a replica that died had begun his.
On another machine than the controller's a file in the session's folder takes the board's place: the processes there
have it in common. Each such page has an *identity*, by which a router knows whether a replica writes where it reads.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

RING = 252
WORDS = 256
"""Words of a slot, each of 8 bytes."""
ONGOING, BEGUN, OWNER, IDENTITY, NEXT = 0, 1, 2, 3, 4
"""Words in a slot: ongoing requests; requests ever begun. In slot 0: the board's token, which page of it this is, and
the slot that the next replica gets."""
FIRST = 4
SLOTS = 4096


class Place(NamedTuple):
    """Where the board is found."""

    pid: int
    fd: int
    token: int
    other: tuple[int, int] | None = None
    """Process and descriptor where it is found as well, should the first be gone."""


class Board:
    """The board as this process maps it."""

    def __init__(self, fd: int, place: Place | None) -> None:
        self.map = mmap.mmap(fd, SLOTS * WORDS * 8)  # it keeps a descriptor of its own
        self.words: Any = memoryview(self.map).cast("Q")
        self.place = place
        self.kept = -1
        """A descriptor by which others find the board here."""

    def found_at(self, other: Place | None) -> None:
        """Somebody else has it as well."""
        if other is not None and self.place is not None and other.pid != self.place.pid:
            self.place = self.place._replace(other=other[:2])

    @property
    def identity(self) -> int:
        """A number that no other page has, with luck."""
        return int(self.words[IDENTITY])

    def __del__(self) -> None:
        if self.kept >= 0:
            os.close(self.kept)


def create(*, alone: bool = False) -> Board:
    """A new board, which goes with the processes that map it; `alone`: all who use it are in this process."""
    fd = -1 if alone else os.memfd_create("skate-serve", os.MFD_CLOEXEC)
    if not alone:
        os.ftruncate(fd, SLOTS * WORDS * 8)  # only what is written to takes memory
    token = int.from_bytes(os.urandom(7), "little")
    board = _marked(Board(fd, Place(os.getpid(), fd, token)), token)
    board.kept = fd
    _made[token] = board
    return board


def _marked(board: Board, token: int) -> Board:
    """A page that is new: slot 0 belongs to nobody, and tells whose it is."""
    board.words[IDENTITY] = int.from_bytes(os.urandom(7), "little")
    board.words[OWNER] = token
    return board


_known: dict[int, Board] = {}
"""Boards of other processes that this one maps, by token."""
_local: dict[int, Board] = {}
"""Pages of this machine that take their place."""
_made: WeakValueDictionary[int, Board] = WeakValueDictionary()
"""Those that were made here, for as long as somebody here has them."""


def _here(place: Place) -> Board | None:
    return _made.get(place.token) or _known.get(place.token)


def attach(place: Place, folder: Callable[[], str] = str) -> Board:
    """The board at `place`; on another machine the page that the processes there have in common, a file in `folder`
    (asked for only there); and without a folder a private one.
    """
    known = _here(place)
    if known is not None:
        return known
    opened = _open(place)
    if opened is None:
        if place.token not in _local:
            shared = _shared(place, folder())
            if shared is None:
                return private()
            _local[place.token] = shared
        return _local[place.token]
    fd, board = opened
    os.close(fd)
    _known[place.token] = board
    return board


def _shared(place: Place, folder: str) -> Board | None:
    """This machine's own page, made by whoever needs it first; None where there can be none."""
    if not folder:
        return None
    path = os.path.join(folder, f"serve-board-{place.token:x}")
    made = f"{path}.{os.getpid()}"
    try:
        if not os.path.exists(path):
            fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, SLOTS * WORDS * 8)
                _marked(Board(fd, None), place.token)
                with contextlib.suppress(FileExistsError):  # somebody else was quicker
                    os.link(made, path)
            finally:
                os.close(fd)
                os.unlink(made)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return Board(fd, None)
    finally:
        os.close(fd)


def is_known(place: Place) -> bool:
    """Whether this process maps the board already."""
    return _here(place) is not None


def forget() -> None:
    """Know no boards of others any more; their memory goes with those who still use it."""
    _known.clear()
    _local.clear()


def held(place: Place) -> Board | None:
    """The board at `place`, with a descriptor in this process by which others find it; None: out of reach."""
    known = _made.get(place.token)
    if known is not None:
        return known
    opened = _open(place)
    if opened is None:
        return None
    fd, board = opened
    board.place, board.kept = Place(os.getpid(), fd, place.token, place[:2]), fd
    _known[place.token] = board
    return board


def _open(place: Place) -> tuple[int, Board] | None:
    for pid, number in (place[:2], *([place.other] if place.other is not None else [])):
        try:
            fd = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        if os.fstat(fd).st_size == SLOTS * WORDS * 8:
            board = Board(fd, place)
            if board.words[OWNER] == place.token:
                return fd, board
        os.close(fd)
    return None


def private() -> Board:
    """A board that only this process has."""
    fd = os.memfd_create("skate-serve-private", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, SLOTS * WORDS * 8)
        return _marked(Board(fd, None), 0)
    finally:
        os.close(fd)


def word_of(slot: int) -> int:
    """The first word of a slot."""
    return slot * WORDS


def note(words: Any, word: int, number: int) -> None:
    """A replica begins the request of this number."""
    begun = words[word + BEGUN]
    words[word + FIRST + begun % RING] = number
    words[word + BEGUN] = begun + 1


def had_begun(words: Any, word: int, number: int, since: int) -> bool:
    """Whether a replica began the request; `since` is its count of begun requests when it was sent."""
    begun = words[word + BEGUN]
    if begun - since > RING:
        return True  # it may have
    return any(words[word + FIRST + place % RING] == number for place in range(since, begun))
