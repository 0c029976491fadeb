"""What crosses an engine's boundary: frozen, small, and the same in every process.

Numbers of returns: ``n >= 0`` objects, or `STREAMING` / `DYNAMIC` from `skate.core.options`.
Resources are integers in 1/10000 units (`skate.core.resources`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec

from skate.core.placement import Selector, Where

Resources = tuple[tuple[str, int], ...]


class TaskOptions(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Everything a scheduler needs to know of a task, besides its function and arguments."""

    name: str = ""
    resources: Resources = (("CPU", 10_000),)
    returns: int = 1
    max_retries: int = 3
    retry_exceptions: bool = False
    retry_on: bytes = b""
    """Packed tuple of exception classes; empty: every exception, if `retry_exceptions`."""
    max_calls: int = 0
    environment: str = ""
    """The runtime environment as JSON; empty: none."""
    where: Where | None = None
    backpressure: int = 0
    """How many unread items a stream may hold before its task waits; 0: no limit."""
    priority: int = 0
    events: bool = True
    """Whether the call is shown when it has ended (``enable_task_events``)."""


class ActorOptions(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Everything a scheduler needs to know of an actor, besides its class and arguments."""

    class_name: str = ""
    name: str = ""
    namespace: str = ""
    """Empty: the caller's own namespace."""
    detached: bool = False
    get_if_exists: bool = False
    placement: Resources = (("CPU", 10_000),)
    """What a node must have in total for the actor to be placed there."""
    resources: Resources = ()
    """What the actor holds while it lives."""
    max_restarts: int = 0
    max_task_retries: int = 0
    max_concurrency: int = 0
    """0: not given (1 for sync actors, 1000 for async ones)."""
    groups: tuple[tuple[str, int], ...] = ()
    max_pending_calls: int = -1
    out_of_order: bool = False
    environment: str = ""
    where: Where | None = None
    events: bool = True


class GroupSpec(msgspec.Struct, frozen=True, array_like=True):
    """What a placement group sets aside."""

    bundles: tuple[Resources, ...]
    strategy: str = "PACK"
    name: str = ""
    namespace: str = ""
    detached: bool = False
    selectors: tuple[Selector, ...] = ()
    """What the node of each bundle must pass; empty: any node will do."""
    target: str = ""
    """Rather on the node of this id, in hex."""
    domain: str = ""
    """Only on nodes that have the same value of this label; empty: on any."""


class CallOptions(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Options of one actor method call."""

    returns: int = 1
    group: str = ""
    max_retries: int | None = None
    """None: the actor's ``max_task_retries``."""
    retry_exceptions: bool = False
    retry_on: bytes = b""
    name: str = ""
    backpressure: int = 0
    events: bool | None = None
    """None: as the actor has it."""


class MethodInfo(msgspec.Struct, frozen=True, array_like=True):
    """What a handle knows of a method: enough to check a call and to fill in its defaults."""

    name: str
    options: CallOptions = CallOptions()
    parameters: tuple[tuple[str, int, bool], ...] = ()
    """Name, `inspect` kind and whether it has a default, of each parameter but ``self``."""
    generates: bool | None = None
    """Whether it is a generator function; None: not known."""


class ActorInfo(msgspec.Struct, frozen=True, array_like=True):
    """What a handle is made of, wherever it is made: at creation, by name, or on arrival."""

    actor: int
    options: ActorOptions
    methods: tuple[MethodInfo, ...]


class Definition:
    """A function or class as it travels: pickled once on first use, known by the hash of its pickle.

    A function with a closure has an identity of its own (`own`), which it keeps where it goes: a worker holds one copy
    of it, in which the closure's objects may change, and two that were equal at first must not share it.
    """

    __slots__ = ("_blob", "_id", "name", "own", "target")

    def __init__(self, target: Callable[..., Any], name: str, own: bytes = b"") -> None:
        self.target = target
        self.name = name
        self.own = own or (os.urandom(16) if getattr(target, "__closure__", None) else b"")
        self._blob: bytes | None = None
        self._id = b""

    def pickled(self, dump: Callable[[Any], bytes]) -> tuple[bytes, bytes]:
        """``(id, blob)``; `dump` pickles the target when it has not been pickled before."""
        if self._blob is None:
            import hashlib

            blob = dump(self.target) + self.own  # a pickle ends itself: what follows changes the hash alone
            self._id = hashlib.blake2b(blob, digest_size=16).digest()
            self._blob = blob
        return self._id, self._blob
