"""`ObjectRef`: a name for a value that exists, will exist, or failed to.

Each live reference counts once with the engine of its process. A new result is counted by the engine that names it; a
reference that arrives inside a value counts itself (`Engine.borrow`). Dropping one appends its key to `released`, which
is safe from any thread and from the garbage collector in the middle of anything; the engine drains it when it next has
the floor.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from skate.core import engine as engines
from skate.core import ids

if TYPE_CHECKING:
    from concurrent.futures import Future

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

released: deque[int] = deque()
"""Keys of references that died, each once a death."""


closed_streams: deque[int] = deque()
"""Task ids of streams whose generator died: nobody will read on."""


class _Collector(threading.local):
    found: list[int] | None = None


collector = _Collector()
"""While a value is packed: the keys of the references met inside it."""


class ObjectRef(Generic[R_co]):
    """A reference to the result of a task or actor call, or to a value that was `put`.

    Hashable, comparable, awaitable (``await ref`` gives the value or raises the task's error), and able to travel
    inside values, closures and arguments.
    """

    __slots__ = ("__weakref__", "_index", "_key")

    _key: int
    _index: int

    def __init__(self, binary: bytes) -> None:
        """Rebuild a reference from its 28 bytes, as `binary` gave them."""
        if not isinstance(binary, bytes):
            raise TypeError(f"ObjectRef takes bytes, not {binary!r} ({type(binary).__name__})")
        self._key, self._index = ids.parse_object(binary)
        engines.current().borrow(self._key)

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """The reference that names nothing."""
        return make_ref(0)

    @classmethod
    def from_hex(cls, text: str) -> ObjectRef[Any]:
        """Rebuild a reference from what `hex` gave."""
        return cls(bytes.fromhex(text))

    @classmethod
    def from_binary(cls, binary: bytes) -> ObjectRef[Any]:
        """Rebuild a reference from what `binary` gave."""
        return cls(binary)

    def binary(self) -> bytes:
        """The 28 bytes of the id."""
        return ids.object_binary(self._key, self._index)

    def hex(self) -> str:
        """The id as 56 hexadecimal digits."""
        return self.binary().hex()

    def is_nil(self) -> bool:
        """Whether this is the reference that names nothing."""
        return self._key == 0

    def size(self) -> int:
        """Length of the binary id in bytes."""
        return 28

    def task_id(self) -> TaskID:
        """The id of the task that makes the object."""
        return TaskID(ids.task_binary(self._key - self._index))

    def job_id(self) -> JobID:
        """The id of the job the object belongs to."""
        return JobID(ids.JOB_ID)

    def future(self) -> Future[R_co]:
        """A `concurrent.futures.Future` that gets the value or the error."""
        from concurrent.futures import Future

        future: Future[R_co] = Future()
        future.set_running_or_notify_cancel()

        engine = engines.current()

        def settle() -> None:
            try:
                (value,) = engine.get([self], 0)
            except BaseException as error:  # noqa: BLE001  whatever it is, it belongs to the future
                future.set_exception(error)
            else:
                future.set_result(value)

        engine.on_ready(self, settle)
        return future

    def as_future(self) -> Any:
        """An `asyncio.Future` of the running loop that gets the value or the error."""
        return as_asyncio_future(self)

    def call_site(self) -> str:
        """Where the object was made; "": it is not recorded, as in Ray by default."""
        return ""

    def __await__(self) -> Generator[Any, None, R_co]:
        waiting: Generator[Any, None, R_co] = as_asyncio_future(self).__await__()
        return waiting

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other._key == self._key

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __repr__(self) -> str:
        return f"ObjectRef({self.hex()})"

    def __reduce__(self) -> tuple[Callable[[int, int], ObjectRef[Any]], tuple[int, int]]:
        note_travelling(self._key)
        return arrive, (self._key, self._index)

    def __del__(self) -> None:
        try:
            released.append(self._key)
        except (AttributeError, TypeError):
            return  # never finished being made, or the interpreter is going away


_blank: Callable[[type[ObjectRef[Any]]], ObjectRef[Any]] = ObjectRef.__new__


def make_ref(key: int, index: int = 0) -> ObjectRef[Any]:
    """A reference whose count the engine has taken already."""
    ref = _blank(ObjectRef)
    ref._key = key
    ref._index = index
    return ref


def arrive(key: int, index: int) -> ObjectRef[Any]:
    """A reference that came inside a value."""
    engines.current().borrow(key)
    return make_ref(key, index)


def note_travelling(key: int) -> None:
    """Called when a reference or a handle is pickled.

    Inside a value of ours its key is listed, and the value keeps the object alive. Pickled by somebody else, nobody can
    tell when the bytes are dropped: the object stays until the session ends.
    """
    if collector.found is not None:
        collector.found.append(key)
    else:
        engines.current().borrow(key)


def as_asyncio_future(ref: ObjectRef[R]) -> Any:
    """An `asyncio.Future` of the running loop for `ref`."""
    return engines.current().asyncio_future(ref)


class BaseID:
    """An opaque id with Ray's binary and hexadecimal forms."""

    __slots__ = ("_binary",)
    SIZE = 0

    def __init__(self, binary: bytes) -> None:
        if not isinstance(binary, bytes):
            raise TypeError(f"{type(self).__name__} takes bytes, not {binary!r} ({type(binary).__name__})")
        if len(binary) != self.SIZE:
            raise ValueError(f"{type(self).__name__} has {self.SIZE} bytes, not {len(binary)}")
        self._binary = binary

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Rebuild an id from its hexadecimal form."""
        return cls(bytes.fromhex(text))

    @classmethod
    def from_binary(cls, binary: bytes) -> Self:
        """Rebuild an id from its bytes."""
        return cls(binary)

    @classmethod
    def from_random(cls) -> Self:
        """An id that nothing has."""
        return cls(os.urandom(cls.SIZE))

    @classmethod
    def nil(cls) -> Self:
        """The id that names nothing."""
        return cls(b"\xff" * cls.SIZE)

    def binary(self) -> bytes:
        """The bytes of the id."""
        return self._binary

    def hex(self) -> str:
        """The id in hexadecimal."""
        return self._binary.hex()

    def size(self) -> int:
        """Length in bytes."""
        return self.SIZE

    def is_nil(self) -> bool:
        """Whether this is the id that names nothing."""
        return self._binary == b"\xff" * self.SIZE

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._binary == self._binary

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._binary))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    def __reduce__(self) -> tuple[type[BaseID], tuple[bytes]]:
        return type(self), (self._binary,)


class TaskID(BaseID):
    """Names a task; 24 bytes, of which the last 4 name its job."""

    SIZE = 24

    def job_id(self) -> JobID:
        """The job the task belongs to."""
        return JobID(self._binary[-JobID.SIZE :])


class ActorID(BaseID):
    """Names an actor; 16 bytes, of which the last 4 name its job."""

    SIZE = 16

    @property
    def job_id(self) -> JobID:
        """The job the actor belongs to."""
        return JobID(self._binary[-JobID.SIZE :])


class JobID(BaseID):
    """Names a driver's session; 4 bytes."""

    SIZE = 4

    @classmethod
    def from_int(cls, number: int) -> Self:
        """The id with that number."""
        return cls(number.to_bytes(cls.SIZE, "little"))

    def int(self) -> int:
        """The id's number."""
        return int.from_bytes(self._binary, "little")


class UniqueID(BaseID):
    """Names one thing of whatever kind; 28 bytes."""

    SIZE = 28


class NodeID(UniqueID):
    """Names a node; 28 bytes."""


class WorkerID(UniqueID):
    """Names a worker process; 28 bytes."""


class FunctionID(UniqueID):
    """Names a remote function; 28 bytes."""


class ActorClassID(UniqueID):
    """Names an actor class; 28 bytes."""


class PlacementGroupID(BaseID):
    """Names a placement group; 18 bytes."""

    SIZE = 18
