"""Skate's references and streams around Ray's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray

from skate.core import ids
from skate.core.generator import ObjectRefGenerator
from skate.core.refs import JobID, ObjectRef, R_co, TaskID
from skate.engines.ray.errors import translated


class RayRef(ObjectRef[R_co]):
    """A reference that Ray counts: it lives as long as the one of Ray inside it."""

    __slots__ = ("_native",)

    _native: Any

    @property
    def _key(self) -> int:  # type: ignore[override]
        """Worked out when somebody asks: most references are never compared."""
        return ids.foreign(self._native.binary())

    def binary(self) -> bytes:
        """The 28 bytes of the id."""
        found: bytes = self._native.binary()
        return found

    def task_id(self) -> TaskID:
        """The id of the task that makes the object."""
        return TaskID(self._native.task_id().binary())

    def job_id(self) -> JobID:
        """The id of the job the object belongs to."""
        return JobID(self._native.job_id().binary())

    def call_site(self) -> str:
        """Where the object was made, if Ray records it."""
        site = self._native.call_site()
        return site.decode() if isinstance(site, bytes) else str(site)

    def future(self) -> Future[R_co]:
        """A `concurrent.futures.Future` that gets the value or the error."""
        future: Future[R_co] = Future()
        future.set_running_or_notify_cancel()

        def settle(done: Future[R_co]) -> None:
            error = done.exception()
            if error is None:
                future.set_result(done.result())
            else:
                future.set_exception(translated(error))

        on_done(self._native, settle)
        return future

    def __reduce__(self) -> tuple[Any, ...]:
        return make_ray_ref, (self._native,)

    def __del__(self) -> None:
        """Nothing was counted here."""


def make_ray_ref(native: Any) -> RayRef[Any]:
    """A reference around one of Ray's."""
    ref: RayRef[Any] = RayRef.__new__(RayRef)
    ref._native = native
    ref._index = 0
    return ref


_aside: ThreadPoolExecutor | None = None


def on_done(native: Any, callback: Callable[[Future[Any]], Any]) -> None:
    """Call back, in a thread of ours, when a reference of Ray's is ready.

    Ray would do it in the thread that hears from the cluster. There whatever asks the cluster, as `get_actor` does now
    and then, waits for itself.
    """
    global _aside
    if _aside is None:
        _aside = ThreadPoolExecutor(8, "skate-callbacks")
    submit = _aside.submit

    def later(done: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the interpreter ends, and has no more threads
            submit(callback, done)

    native.future().add_done_callback(later)


def native_of(ref: ObjectRef[Any]) -> Any:
    """The reference of Ray's that one of ours stands for."""
    if isinstance(ref, RayRef):
        return ref._native
    return ray.ObjectRef(ref.binary())  # rebuilt from bytes, which Ray does not count either


class _Head(RayRef[R_co]):
    """Stands for the next item of a stream where something waits for it."""

    __slots__ = ("_stream",)

    _stream: int

    @property
    def _key(self) -> int:  # type: ignore[override]
        return self._stream


class RayStream(ObjectRefGenerator[R_co]):
    """A stream that Ray keeps."""

    __slots__ = ("_native",)

    def __init__(self, native: Any) -> None:
        self._native = native
        self._generator_ref = make_ray_ref(native.completed())

    def __next__(self) -> ObjectRef[R_co]:
        try:
            return make_ray_ref(next(self._native))
        except ray.exceptions.RayError as error:
            raise translated(error) from None

    async def __anext__(self) -> ObjectRef[R_co]:
        try:
            return make_ray_ref(await self._native.__anext__())
        except ray.exceptions.RayError as error:
            raise translated(error) from None

    def next_ready(self) -> bool:
        """Whether `next` would return a reference at once."""
        return bool(self._native.next_ready())

    def is_finished(self) -> bool:
        """Whether every item was taken and the task has ended."""
        return bool(self._native.is_finished())

    def _peek(self) -> ObjectRef[R_co] | None:
        """What `wait` waits for in place of the stream."""
        head: _Head[R_co] = _Head.__new__(_Head)
        head._native = self._native
        head._stream = self._generator_ref._key
        head._index = 0
        return head

    def __del__(self) -> None:
        """Ray sees to it."""


def results(made: Any) -> Any:
    """What a call of Ray's gave, as ours."""
    if isinstance(made, list):
        return [make_ray_ref(native) for native in made]
    if isinstance(made, ray.ObjectRefGenerator):
        return RayStream(made)
    return None if made is None else make_ray_ref(made)
