"""The engine's records: an object's row, what a call came to, and the call itself."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from skate.core.calls import PackedCall
from skate.core.resources import as_floats
from skate.core.serialization import Packed, pack
from skate.core.spec import ActorOptions, CallOptions, Resources, TaskOptions
from skate.engines.execution import pack_error
from skate.engines.inline.unpacking import Data, load

if TYPE_CHECKING:
    import asyncio

    from skate.engines.inline.actors import Actor
    from skate.engines.inline.machine import Amounts
    from skate.engines.inline.streams import Stream

PENDING, READY, FAILED, END = range(4)
"""States of an object; END: an item past a stream's end."""


class Outcome(NamedTuple):
    """What an object came to: its state, its packed value or error, and the references inside."""

    state: int
    data: Data
    refs: tuple[int, ...] = ()


class Row:
    """An object. It is counted: references, values that hold it and calls that take it count one each."""

    __slots__ = ("count", "data", "maker", "of_actor", "refs", "state", "watchers")

    def __init__(self, maker: Call | None) -> None:
        self.count = 1
        self.state = PENDING
        self.data: Data = b""
        self.refs: tuple[int, ...] = ()
        self.maker = maker
        """The call that will fill it; None once it is filled."""
        self.of_actor = maker is not None and maker.actor is not None
        self.watchers: list[Callable[[], None]] = []


class Call:
    """One call of a function, a method or a constructor, from its submission to its end."""

    __slots__ = (
        "actor",
        "attempt",
        "began",
        "cancelled",
        "ended",
        "environment",
        "error",
        "function_name",
        "gpus",
        "held",
        "impossible",
        "key",
        "keys",
        "made",
        "missing",
        "name",
        "options",
        "packed",
        "parent",
        "place",
        "resources",
        "retries",
        "setup",
        "stream",
        "target",
        "task",
        "thread",
    )

    def __init__(
        self,
        key: int,
        keys: range,
        packed: PackedCall,
        options: TaskOptions | CallOptions | ActorOptions,
        function_name: str,
        parent: Call | None,
    ) -> None:
        self.key = key
        self.keys = keys
        self.packed = packed
        self.options = options
        self.function_name = function_name
        self.name = function_name
        self.parent = parent
        self.target: Callable[..., Any] | str = ""
        """The function, or the name of the method."""
        self.actor: Actor | None = None
        self.environment = ""
        self.setup: dict[str, Any] | None = None
        """What the environment asks of the process."""
        self.resources: Resources = ()
        self.place: Amounts | None = None
        """What it has taken them from; None: it holds none."""
        self.retries = 0
        """How often it may be tried again; negative: always."""
        self.held: tuple[int, ...] = ()
        """Keys that count as long as the call has not ended."""
        self.missing = 0
        """Dependencies that are not ready."""
        self.attempt = 0
        self.thread = 0
        """The thread that runs it; 0 when none does."""
        self.gpus: tuple[int | str, ...] = ()
        self.stream: Stream | None = None
        self.task: asyncio.Task[None] | None = None
        self.impossible = ""
        """Why it can never run."""
        self.cancelled = False
        self.ended = False
        self.made = time.time()
        self.began = 0.0
        """Of the attempt under way, or the last; 0.0: none has begun."""
        self.error: Data | None = None
        """What it failed with, packed."""

    @property
    def label(self) -> str:
        """What messages call it."""
        if self.actor is not None:
            return f"{self.actor.info.options.class_name}.{self.function_name}"
        return self.name or self.function_name

    @property
    def may_retry(self) -> bool:
        """Whether another attempt is left."""
        return not self.cancelled and (self.retries < 0 or self.attempt < self.retries)

    def assigned(self) -> dict[str, float]:
        """The resources that it holds, by name."""
        return as_floats(self.resources)


current: contextvars.ContextVar[Call | None] = contextvars.ContextVar("skate_call", default=None)
"""The call that the running code belongs to."""


def lay_down(packed: Packed) -> Data:
    """The packed form as one read-only run of bytes."""
    if not packed.buffers:
        return packed.pickled
    target = bytearray(packed.size)
    packed.write_into(memoryview(target))
    return memoryview(target).toreadonly()


def success(packed: Packed) -> Outcome:
    """The outcome of a call that gave a value."""
    return Outcome(READY, lay_down(packed), packed.refs)


def failure(error: BaseException) -> Outcome:
    """The outcome of a call that raised."""
    try:
        packed = pack(error)
        load(packed.pickled, buffers=packed.buffers)
    except Exception:  # noqa: BLE001  any class may fail to pickle or to be rebuilt in any way
        packed = pack_error(error)  # keeps its text
    return Outcome(FAILED, lay_down(packed), packed.refs)


NOTHING = success(pack(None))
