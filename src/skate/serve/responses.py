"""The answers that calls of handles give."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Self

import skate
from skate import exceptions
from skate.serve.exceptions import RayServeException, RequestCancelledError
from skate.serve.replica import Refused
from skate.serve.streams import Group

if TYPE_CHECKING:
    from skate.serve.request import Request


class _Response:
    """What both kinds of answers have in common."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request

    def __class_getitem__(cls, _: Any) -> type[Self]:
        """For annotations: ``DeploymentResponse[int]``."""
        return cls

    @property
    def by_reference(self) -> bool:
        """Whether the answer is an object of the session's: it always is."""
        return True

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.request.meta[0]

    def cancel(self) -> None:
        """Cancel the request, if it has not ended yet; asking for its answer then raises."""
        self.request.cancel()

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self.request.cancelled

    def __reduce__(self) -> NoReturn:
        raise RayServeException(
            f"A {type(self).__name__} is not serializable: it cannot be sent to another process, unless it is itself "
            f"(not a part of) an argument of a handle's call. Get its value first."
        )


class DeploymentResponse(_Response):
    """The answer of a call: ``await`` it, or ask for its `result`. As an argument of another handle's call it is passed
    on without waiting."""

    __slots__ = ("_done", "_value")

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._done = False
        self._value: Any = None

    def result(self, *, timeout_s: float | None = None, _skip_asyncio_check: bool = False) -> Any:
        """The value, waiting until it is there.

        Args:
            timeout_s: seconds to wait; None: as long as it takes.

        Raises:
            TimeoutError: it is not there in time (a GetTimeoutError where it was sent). The request goes on.
            BackPressureError: too many requests wait already.
            RequestCancelledError: it was cancelled.
            RuntimeError: called on an event loop, which it would block: use ``await``.
            RayTaskError, RayActorError: what the replica raised, or that it died.
        """
        if not _skip_asyncio_check and _on_a_loop():
            raise RuntimeError("result() would block the event loop: write `await response` here")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        request = self.request
        while not self._done:
            if request.ref is None and request.error is None:
                request.wait_until_sent(deadline)
            if request.error is not None:
                raise request.error
            ref = request.ref
            if ref is None:
                continue  # it was taken back in this moment
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                value = skate.get(ref, timeout=left)
            except exceptions.GetTimeoutError as error:
                if left is None or not skate.wait([ref], timeout=0)[1]:
                    raise  # the handler's own
                raise exceptions.GetTimeoutError(f"No answer within {timeout_s} s.") from error
            except exceptions.RayError as error:
                self._failed(ref, error)
                continue
            self._answered(ref, value)
        return self._value

    def __await__(self) -> Any:
        while not self._done:
            request = self.request
            if request.ref is None and request.error is None:
                yield from request.until_sent().__await__()
            if request.error is not None:
                raise request.error
            ref = request.ref
            if ref is None:
                continue
            try:
                value = yield from ref.__await__()
            except exceptions.RayError as error:
                self._failed(ref, error)
                continue
            except asyncio.CancelledError:
                request.caller_cancelled()
                raise
            self._answered(ref, value)
        return self._value

    def _answered(self, ref: Any, value: Any) -> None:
        if type(value) is Refused:
            self.request.was_refused(ref, value)
            return
        self._value, self._done = value, True
        self.request.router.ended(self.request)

    def _failed(self, ref: Any, error: exceptions.RayError) -> None:
        """Raise what the request failed of, unless it is sent anew."""
        request = self.request
        if request.send_again(ref, error):
            return
        request.router.ended(request)
        if request.cancelled and isinstance(error, exceptions.TaskCancelledError):
            raise RequestCancelledError(request.meta[0]) from None
        raise error

    def _to_object_ref_sync(self, _timeout_s: float | None = None, _allow_running_in_asyncio_loop: bool = False) -> Any:
        """The reference of the answer, once the request was sent. Raises RuntimeError on an event loop."""
        if not _allow_running_in_asyncio_loop and _on_a_loop():
            raise RuntimeError("This could block the event loop: write `await response._to_object_ref()` here")
        self.request.wait_until_sent(None if _timeout_s is None else time.monotonic() + _timeout_s)
        if self.request.error is not None:
            raise self.request.error
        return self.request.ref

    async def _to_object_ref(self) -> Any:
        """The reference of the answer, once the request was sent."""
        await self.request.until_sent()
        if self.request.error is not None:
            raise self.request.error
        return self.request.ref


class DeploymentResponseGenerator(_Response):
    """The answer of a call with ``stream=True``: iterate over it with ``for`` or ``async for``."""

    __slots__ = ("_first", "_here")

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._first = True
        self._here: deque[Any] = deque()
        """Items that came together with one that was asked for."""

    def result(self, *, timeout_s: float | None = None, _skip_asyncio_check: bool = False) -> NoReturn:
        """Not possible: there are many."""
        raise TypeError("A DeploymentResponseGenerator has no result(): iterate over it, with for or async for")

    def __await__(self) -> NoReturn:
        raise TypeError("A DeploymentResponseGenerator cannot be awaited: write async for")

    def __iter__(self) -> Iterator[Any]:
        return self

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    def __next__(self) -> Any:
        if _on_a_loop():
            raise RuntimeError("This would block the event loop: write `async for` here")
        if self._here:
            return self._here.popleft()
        while True:
            request = self.request
            request.wait_until_sent(None)
            if request.error is not None:
                raise request.error
            ref = request.ref
            if ref is None:
                continue  # it was taken back in this moment
            try:
                value = skate.get(next(ref))
            except StopIteration:
                request.router.ended(request)
                raise
            except exceptions.RayError as error:
                self._failed(ref, error)
                continue
            if self._brought(ref, value):
                return self._here.popleft()

    async def __anext__(self) -> Any:
        if self._here:
            return self._here.popleft()
        while True:
            request = self.request
            await request.until_sent()
            if request.error is not None:
                raise request.error
            ref = request.ref
            if ref is None:
                continue
            try:
                value = await (await anext(ref))
            except StopAsyncIteration:
                request.router.ended(request)
                raise
            except exceptions.RayError as error:
                self._failed(ref, error)
                continue
            except asyncio.CancelledError:
                request.caller_cancelled()
                raise
            if self._brought(ref, value):
                return self._here.popleft()

    def _brought(self, ref: Any, value: Any) -> bool:
        """Whether a message of the replica brought items, which are here then."""
        if type(value) is Refused:
            self.request.was_refused(ref, value)
            return False
        self._first = False
        if type(value) is Group:
            self._here.extend(value)
        else:
            self._here.append(value)
        return True

    def _failed(self, ref: Any, error: exceptions.RayError) -> None:
        request = self.request
        if self._first and request.send_again(ref, error):
            return
        request.router.ended(request)
        if request.cancelled and isinstance(error, exceptions.TaskCancelledError):
            raise RequestCancelledError(request.meta[0]) from None
        raise error


def _on_a_loop() -> bool:
    return asyncio._get_running_loop() is not None
