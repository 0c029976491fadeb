"""The shared memory of a compiled graph, and sleeping in it until somebody knocks.

A graph has one memfd. Its driver makes it; each actor maps it by way of ``/proc/PID/fd``. It has no name, so nothing is
left of it when the last process that maps it ends.

Each *member*, the driver or an actor, has one word that is 1 while it sleeps. To sleep is to set one's word, look once
more at what one waits for, and wait on the word (futex). To wake somebody is to change what it waits for, then to look
at its word, and where that is 1 to make it 0 and call the kernel. The fences keep both from looking before their own
change is seen, so one of them always sees the other's. A word made 0 too often only costs a look in vain, so any number
of members may knock at once without atomic instructions, which Python does not have.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import threading
from collections.abc import Callable
from typing import Any

from skate.core.views import Views

LINE = 64
"""Bytes of a cache line: what different processes write stands in different lines."""
PAGE = 4096
WORDS = LINE // 8
CLOSED = 0
"""Word: the graph has ended."""

_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
_WAIT, _WAKE = 0, 1
_POPULATE_READ, _POPULATE_WRITE = 22, 23
_ALL = 0x7FFFFFFF
_machine = platform.machine()
WEAK = _machine != "x86_64"
"""Whether this machine may show another process's writes out of order."""

_lock = threading.Lock()
_acquire, _release = _lock.acquire, _lock.release


def fence() -> None:
    """Let all writes before this be seen before anything after it is read: a lock's own barriers do that.

    Nobody ever waits for the lock. Who finds it taken, by another thread or by what a destructor interrupted, gives it
    back in the other's place, and who finds it given back has been off the interpreter in between: each is a barrier.
    """
    _acquire(False)
    try:
        _release()
    except RuntimeError:
        return


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _system_call() -> tuple[Callable[..., int], int]:
    number = _FUTEX.get(_machine)
    if number is None:
        raise NotImplementedError(f"Compiled graphs know no way to sleep in shared memory on {_machine}.")
    call = ctypes.CDLL(None, use_errno=True).syscall
    pointer = ctypes.c_void_p
    call.argtypes = (ctypes.c_long, pointer, ctypes.c_int, ctypes.c_uint, pointer, pointer, ctypes.c_int)
    call.restype = ctypes.c_long
    return call, number


class Memory:
    """The memory of one graph as this process maps it. Words are of 8 bytes, and counted."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.map = mmap.mmap(fd, size)
        self.view = memoryview(self.map)
        self.views = Views(self.map)
        self.words = self.view.cast("Q")
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self._call, self._number = _system_call()

    @classmethod
    def create(cls, size: int) -> Memory:
        """New memory; only what is written to takes room."""
        fd = os.memfd_create("skate-graph", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return cls(fd, size)

    @classmethod
    def attach(cls, pid: int, fd: int, size: int, token: int) -> Memory:
        """The memory that process `pid` made. Raises OSError when it cannot be reached from this process."""
        opened = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(opened).st_size != size:
            os.close(opened)
            raise OSError(errno.ESTALE, "another file stands where the graph's memory was")
        memory = cls(opened, size)
        if memory.words[TOKEN] != token:
            memory.close()
            raise OSError(errno.ESTALE, "another graph's memory stands where this one's was")
        return memory

    def reserve(self, start: int, size: int) -> None:
        """Have `size` bytes from `start` on; OSError, not a crash at the first write, when there is no memory."""
        os.posix_fallocate(self.fd, start, size)

    def populate(self, start: int, size: int, to_write: bool) -> None:
        """Map `size` bytes from `start` on, a multiple of a page, at once: page by page, at first use, takes longer."""
        with contextlib.suppress(OSError):  # an older kernel does it at first use
            self.map.madvise(_POPULATE_WRITE if to_write else _POPULATE_READ, start, -(-size // PAGE) * PAGE)

    def close(self) -> None:
        """Give the descriptor back; the mapping goes with the last object that uses it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def unmap(self) -> None:
        """Give everything back at once, if no value is a view of it; no channel in this process may use it any more."""
        self.close()
        if self.views.alive():
            return
        self.words.release()
        self.view.release()
        self.map.close()

    def knock(self, word: int) -> None:
        """Wake the member that sleeps on `word`, if it does; its writer's changes must be fenced by now."""
        if self.words[word]:
            self.words[word] = 0
            self._call(self._number, self.base + word * 8, _WAKE, _ALL, None, None, 0)

    def sleep(self, word: int, seconds: float | None) -> None:
        """Wait until `word` is not 1, or `seconds` have passed, or a signal has come."""
        time: Any = None
        if seconds is not None:
            whole = int(seconds)
            time = ctypes.byref(_Time(whole, int((seconds - whole) * 1e9)))
        self._call(self._number, self.base + word * 8, _WAIT, 1, time, None, 0)


TOKEN = 1
"""Word: a number by which the graph's memory is known."""


def bell(member: int) -> int:
    """The word on which a member sleeps."""
    return WORDS * (1 + member)


def ended(member: int) -> int:
    """The word that a member sets when its loop has ended."""
    return WORDS * (1 + member) + 1


def head_size(members: int) -> int:
    """Bytes before the channels."""
    return -(-LINE * (1 + members) // PAGE) * PAGE
