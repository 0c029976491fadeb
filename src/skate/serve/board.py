"""The board: a page of shared memory where replicas write how many requests they have in hand.

Routers read it without asking anybody. The controller makes it; others map it by way of ``/proc/PID/fd``. Each replica
has a *slot*: a word for the number of its ongoing requests, a word that counts the requests that it ever began, and a
ring of the numbers of those that it began last, by which a caller knows whether a replica that died had begun his.
A replica on another machine cannot reach the board, and has one of its own that nobody else reads.
"""

from __future__ import annotations

import mmap
import os
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

RING = 252
WORDS = 256
"""Words of a slot, each of 8 bytes."""
ONGOING, BEGUN, OWNER = 0, 1, 2
"""Words in a slot: ongoing requests; requests ever begun; a number that tells whose slot it is."""
FIRST = 4
SLOTS = 4096


class Place(NamedTuple):
    """Where the board is found."""

    pid: int
    fd: int
    token: int


class Board:
    """The board as this process maps it."""

    def __init__(self, fd: int, place: Place | None) -> None:
        self.map = mmap.mmap(fd, SLOTS * WORDS * 8)  # it keeps a descriptor of its own
        self.words: Any = memoryview(self.map).cast("Q")
        self.place = place
        self.kept = -1
        """A descriptor by which others find the board here."""

    def __del__(self) -> None:
        if self.kept >= 0:
            os.close(self.kept)


def create(*, alone: bool = False) -> Board:
    """A new board, which goes with the processes that map it; `alone`: all who use it are in this process."""
    fd = -1 if alone else os.memfd_create("skate-serve", os.MFD_CLOEXEC)
    if not alone:
        os.ftruncate(fd, SLOTS * WORDS * 8)  # only what is written to takes memory
    token = int.from_bytes(os.urandom(7), "little")
    board = Board(fd, Place(os.getpid(), fd, token))
    board.kept = fd
    board.words[OWNER] = token  # slot 0 belongs to nobody
    _made[token] = board
    return board


_known: dict[int, Board] = {}
"""Boards of other processes that this one maps, by token."""
_made: WeakValueDictionary[int, Board] = WeakValueDictionary()
"""Those that were made here, for as long as somebody here has them."""


def _here(place: Place) -> Board | None:
    return _made.get(place.token) or _known.get(place.token)


def attach(place: Place) -> Board:
    """The board at `place`, or where it cannot be reached a private one."""
    known = _here(place)
    if known is not None:
        return known
    opened = _open(place)
    if opened is None:
        return private()
    fd, board = opened
    os.close(fd)
    _known[place.token] = board
    return board


def is_known(place: Place) -> bool:
    """Whether this process maps the board already."""
    return _here(place) is not None


def forget() -> None:
    """Know no boards of others any more; their memory goes with those who still use it."""
    _known.clear()


def held(place: Place) -> Board | None:
    """The board at `place`, with a descriptor in this process by which others find it; None: out of reach."""
    known = _made.get(place.token)
    if known is not None:
        return known
    opened = _open(place)
    if opened is None:
        return None
    fd, board = opened
    board.place, board.kept = Place(os.getpid(), fd, place.token), fd
    _known[place.token] = board
    return board


def _open(place: Place) -> tuple[int, Board] | None:
    try:
        fd = os.open(f"/proc/{place.pid}/fd/{place.fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
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
        return Board(fd, None)
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
